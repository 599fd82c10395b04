"""What the commands that change a host share: connecting, showing, asking, progress, the report."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import click

from xmlkit.cli import drop_output
from xmlkit.cli.lines import disk_lines, wrapped
from xmlkit.cli.paint import drawable, painter
from xmlkit.cli.signals import RECOVERED, UNCHANGED, begin
from xmlkit.printable import in_line

if TYPE_CHECKING:  # a help text needs none of them
    from xmlkit.journal import Outcome
    from xmlkit.service import Case, Result
    from xmlkit.steps import Step
    from xmlkit.survey import Guest

__all__ = [
    "asked",
    "begun",
    "check",
    "code_of",
    "differences",
    "limited",
    "line",
    "progress",
    "question",
    "refuse_unknown",
    "report",
    "show",
    "shutdown_seconds",
    "uri_of",
]

SCHEMA = "xmlkit.apply/1"

# Above so many domains only those with something to say are shown one by one.
SHOWN = 20


def shutdown_seconds(restart: bool, given: float | None) -> float:
    """How long a guest may take to shut down. Raises UsageError if none is shut down."""
    from xmlkit.steps import SHUTDOWN_SECONDS

    if given is not None and not restart:
        raise click.UsageError("--shutdown-timeout says how long --restart waits for a guest")
    return SHUTDOWN_SECONDS if given is None else given


def question(text: str, cases: Sequence[Case], *, more: int = 0) -> str:
    """What is asked before it is done: how many domains, and how many of them are restarted."""
    from xmlkit.steps import Stop

    tasks = [case.task for case in cases if case.task is not None]
    many = len(tasks) + more
    restarts = sum(isinstance(task.steps[0], Stop) for task in tasks)
    restarting = f", and restart {restarts} of them" if restarts else ""
    return text.format(f"{many} domain{'s' * (many != 1)}") + restarting + "?"


def uri_of(connect: str | None) -> str:
    """The URI to connect to; there is no default host. Raises UsageError."""
    uri = connect or os.environ.get("LIBVIRT_DEFAULT_URI")
    if not uri:
        raise click.UsageError("which host? Say --connect URI, or set LIBVIRT_DEFAULT_URI")
    return uri


def line(text: str) -> str:
    """The text as one line that a terminal does not obey: names may be anybody's."""
    return in_line(text).replace("\t", "\\t")


def size(number: int) -> str:
    """Bytes, in the unit that suits them."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def differences(cases: Sequence[Case], guests: Sequence[Guest]) -> dict[str, str]:
    """What will change in the XML of each domain that is ready, secrets redacted, by UUID."""
    from xmlkit.diff import difference

    documents = {guest.uuid: guest.document for guest in guests}
    return {
        case.uuid: difference(case.name, documents[case.uuid], case.task.plan)
        for case in cases
        if case.task is not None
    }


def show(
    cases: Sequence[Case], *, steps: bool, differences: Mapping[str, str] | None = None
) -> None:
    """What will be done to each domain, and why nothing will; on stderr, so that stdout is JSON.

    steps: also the commands that it comes to. differences: also these, by UUID.
    """
    shown = differences or {}
    for case in cases:
        dull = case.state in ("ready", "nothing") and case.uuid not in shown
        if len(cases) > SHOWN and dull and not steps:
            continue
        lines = list(_lines(case, steps=steps))
        if case.uuid in shown:
            lines += shown[case.uuid].rstrip("\n").split("\n")
        click.echo("\n".join(map(line, lines)), err=True)


def _lines(case: Case, *, steps: bool) -> Iterator[str]:
    from xmlkit.plan import Transition

    why = ": ".join(filter(None, (case.id, case.message)))
    head = f"{case.name}  {case.uuid}  {case.state}{f': {why}' if why else ''}"
    yield from wrapped(line(head), sys.stderr)
    for disk in case.plan.disks if case.plan is not None else ():
        if isinstance(disk, Transition) and disk.changes and case.state != "nothing":
            yield from disk_lines(disk, painter("never"), sys.stderr)
    for concern in case.concerns:
        target = f"{concern.target}: " if concern.target else ""
        accepted = " (accepted)" if concern.accepted else ""
        said = f"{concern.id}: {target}{concern.message}"
        if said != why:
            yield from wrapped(line(f"  {concern.severity}: {said}{accepted}"), sys.stderr)
    if steps and case.task is not None:
        yield from (f"    {step}" for step in case.task.steps)


def asked(question: str, *, yes: bool) -> bool:
    """Whether to go on: --yes, or yes on a terminal. Raises ClickException without one."""
    if yes:
        return True
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.ClickException("there is no terminal to ask on: say --yes")
    try:
        if click.confirm(question, err=True):
            return True
    except click.Abort:
        with suppress(OSError):  # the terminal may be gone
            click.echo(f"\n{UNCHANGED}", err=True)
        raise
    click.echo(UNCHANGED, err=True)
    return False


@contextmanager
def progress(cases: Sequence[Case]) -> Iterator[Callable[..., None]]:
    """A listener that shows how far it is: a bar on a terminal, nothing elsewhere."""
    bar = _bar(cases) if drawable(sys.stderr) else nullcontext(lambda *_: None)
    with begun(), bar as listener:
        yield listener


@contextmanager
def begun() -> Iterator[None]:
    """A KeyboardInterrupt that comes through has not been settled: it is told what that means."""
    begin()
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"interrupted: {RECOVERED}", err=True)
        raise


@contextmanager
def _bar(cases: Sequence[Case]) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    steps = sum(len(case.task.steps) for case in cases if case.task is not None)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        whole = bar.add_task("steps", total=steps)
        copying = bar.add_task("MiB copied", total=None, visible=False)

        def listen(what: str, uuid: str, step: Step, done: int = 0, sum_: int = 0) -> None:
            if what == "done":
                bar.advance(whole)
                bar.update(copying, visible=False)
            elif what in ("copied", "migrated"):
                bar.update(copying, completed=done >> 20, total=sum_ >> 20, visible=True)

        yield listen


def outcome_of(case: Case, outcomes: Mapping[str, Outcome]) -> Outcome:
    """How it ended for a case, begun or not; "planned" where nothing was to be done yet."""
    from xmlkit.journal import Outcome

    found = outcomes.get(case.uuid)
    if found is not None:
        return found
    return Outcome("planned" if case.state == "ready" else case.state, case.id, case.message)


def code_of(outcomes: Sequence[Outcome]) -> int:
    """The exit code: 0 all done or nothing to do; 3 failed and rolled back; 1 anything else."""
    states = {outcome.state for outcome in outcomes}
    if "pending" in states:
        return 1
    if "undone" in states:
        return 3
    return 0 if states <= {"done", "nothing", "planned"} else 1


def report(
    cases: Sequence[Case],
    results: Sequence[Result],
    *,
    format_: str,
    kind: str,
    dry_run: bool = False,
    differences: Mapping[str, str] | None = None,
    state_dir: str | None = None,
) -> int:
    """Say how it ended, and return the exit code, which counts also if nobody can be told.

    differences: by UUID, for the JSON; None if nobody has asked for them. state_dir: as it was
    given.
    """
    ended = {uuid: end for result in results for uuid, end in result.outcomes.items()}
    outcomes = [outcome_of(case, ended) for case in cases]
    with told([result.id for result in results if result.id is not None]):
        _report(
            *(cases, outcomes, results),
            format_=format_,
            kind=kind,
            dry_run=dry_run,
            differences=differences,
            state_dir=state_dir,
        )
    return code_of(outcomes)


@contextmanager
def told(ids: Sequence[str]) -> Iterator[None]:
    """What is done is done: that stdout is full or closed then changes no exit code."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if not ids:
            raise
        with suppress(OSError):
            click.echo(
                f"xmlkit: cannot write to stdout: {error.strerror}; xmlkit journal "
                f"{' and '.join(ids)} says how it ended",
                err=True,
            )
        drop_output()


def _report(
    cases: Sequence[Case],
    outcomes: Sequence[Outcome],
    results: Sequence[Result],
    *,
    format_: str,
    kind: str,
    dry_run: bool,
    differences: Mapping[str, str] | None,
    state_dir: str | None,
) -> None:
    from xmlkit import state

    ended = {uuid: end for result in results for uuid, end in result.outcomes.items()}
    ids = {uuid: result.id for result in results for uuid in result.outcomes}
    if format_ == "json":
        import json

        data = {
            "schema": SCHEMA,
            "kind": kind,
            "dry_run": dry_run,
            "domains": [
                _as_data(case, outcome, ids.get(case.uuid))
                | {"unified": (differences or {}).get(case.uuid)}
                for case, outcome in zip(cases, outcomes, strict=True)
            ],
        }
        click.echo(json.dumps(data, indent=2))
        return
    for case, outcome in zip(cases, outcomes, strict=True):
        said = case.uuid in ended and outcome.state != "done"
        if said or (ended and len(cases) <= SHOWN):
            click.echo("\n".join(wrapped(line(f"{case.name}  {outcome}"), sys.stdout)))
    counts = {
        state: sum(outcome.state == state for outcome in outcomes)
        for state in dict.fromkeys(outcome.state for outcome in outcomes)
    }
    summary = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no domains"
    made = [id for id in dict.fromkeys(ids.values()) if id is not None]
    click.echo(f"{kind} {' '.join(made)}: {summary}" if made else f"{kind}: {summary}")
    for id in made if kind == "apply" else ():
        if any(ids.get(uuid) == id and end.state == "done" for uuid, end in ended.items()):
            words = f"rollback {id}{state.option(state_dir)}"
            click.echo(f"take it back with: xmlkit {words}", err=True)
    if counts.get("pending"):
        click.echo(f"bring it to an end with: xmlkit recover{state.option(state_dir)}", err=True)


def _as_data(case: Case, outcome: Outcome, transition: str | None) -> dict[str, Any]:
    from xmlkit.plan import Skip

    disks = []
    for disk in case.plan.disks if case.plan is not None else ():
        disks.append(
            {
                "target": disk.target,
                "action": "skip" if isinstance(disk, Skip) else disk.action,
                "from": str(disk.address if isinstance(disk, Skip) else disk.before),
                "to": None if isinstance(disk, Skip) else str(disk.after),
                "reason": None if disk.reason is None else disk.reason.id,
            }
        )
    return {
        "name": case.name,
        "uuid": case.uuid,
        "transition": transition,
        "state": outcome.state,
        "id": outcome.id or None,
        "message": outcome.message or None,
        "disks": disks,
        "concerns": [concern.as_data() for concern in case.concerns],
        "steps": [] if case.task is None else [str(step) for step in case.task.steps],
    }


def check(
    connection: Any,
    *,
    names: Collection[str] | None = (),
    pools: Collection[str] = (),
    schemas: str | None = None,
) -> None:
    """Refuse wrong input, before a state directory is made or a lock is taken for it.

    names: of domains. pools: to relocate to. schemas: a directory. Raises LibvirtError, PlanError,
    SchemaError.
    """
    from xmlkit.observe import domain_xml, pools_of

    if names:
        domains = connection.listAllDomains()
        known = {name for each in domains for name in (each.name(), each.UUIDString())}
        for name in names:
            if name not in known:
                domain_xml(connection, name)
    if pools:
        from xmlkit.plan import check_pools

        check_pools(pools, pools_of(connection))
    if schemas is not None:
        from xmlkit.validation.schemas import directory

        directory(schemas)


def refuse_unknown(names: Collection[str] | None, guests: Sequence[Guest], connection: Any) -> None:
    """Raise LibvirtError for a name that no domain has, with the nearest ones."""
    known = {name for guest in guests for name in (guest.name, guest.uuid)}
    for name in names or ():
        if name not in known:
            from xmlkit.observe import domain_xml

            domain_xml(connection, name)


def limited(cases: list[Case], limit: int | None, *, waits: bool = False) -> list[Case]:
    """The first `limit` domains that would change, and those that stand between them.

    waits: those that run will change too, when they are shut off.
    """
    if limit is None:
        return cases
    ready = 0
    for number, case in enumerate(cases):
        ready += case.task is not None or (waits and case.state == "skipped")
        if ready == limit:
            return cases[: number + 1]
    return cases
