"""xmlkit apply: carry a transition out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xmlkit.cli import SECONDS, carrying, options, signals
from xmlkit.errors import XmlkitError

if TYPE_CHECKING:
    from xmlkit.plan import Plan
    from xmlkit.service import Case, Options, Result

# Seconds that a domain which has been shut off waits for another xmlkit.
LOCK_SECONDS = 600.0


@click.command(name="apply")
@click.option("--plan", "plan_file", metavar="FILE", help="What xmlkit plan wrote on this host.")
@options.ALL
@options.TO
@options.RELOCATE
@options.ACCEPT
@click.option(
    "--arrived",
    is_flag=True,
    help="The images have their names in a pool already, as a migration with links leaves them.",
)
@click.option("--copy", is_flag=True, help="Copy images where the pool is on another file system.")
@click.option(
    "--rewrite-metadata",
    is_flag=True,
    help="Redefine snapshots, checkpoints and managed saves with the new addresses.",
)
@options.SCHEMAS
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N domains only.")
@click.option(
    "--max-failures",
    type=click.IntRange(min=1),
    metavar="N",
    help="Begin no other domain after N failures.",
)
@click.option(
    "--on-shutdown",
    is_flag=True,
    help="Wait for running domains, and do each when it has been shut off.",
)
@click.option(
    "--timeout",
    type=SECONDS,
    metavar="SECONDS",
    help="With --on-shutdown: wait no longer.",
)
@options.restarting
@click.option("--script", is_flag=True, help="Print a shell script instead of doing it.")
@options.DIFF
@options.DRY_RUN
@options.YES
@options.host_to_change
@click.argument("domains", metavar="[DOMAIN...]", nargs=-1)
def command(
    plan_file: str | None,
    all_: bool,
    to: Any,
    relocate: tuple[str, ...],
    accept: tuple[str, ...],
    arrived: bool,
    copy: bool,
    rewrite_metadata: bool,
    schemas: str | None,
    limit: int | None,
    max_failures: int | None,
    on_shutdown: bool,
    timeout: float | None,
    restart: bool,
    shutdown_timeout: float | None,
    script: bool,
    diff: bool,
    dry_run: bool,
    yes: bool,
    connect: str | None,
    state_dir: str | None,
    format_: str,
    domains: tuple[str, ...],
) -> int:
    """Carry a transition out: link or copy images into pools, define the domains, unlink.

    Shows what will be done and why not, asks on a terminal, and does it step by step, each
    in a journal, so that xmlkit rollback takes it back and xmlkit recover finishes what was
    interrupted. At every instant the defined XML boots. Running domains are skipped, or with
    --on-shutdown done when they have been shut off, or with --restart shut down for it and
    started again.

    \b
    Exit code: 0 all done or nothing to do; 1 some refused, skipped or failed;
    2 trouble, nothing changed; 3 failed and rolled back; 130 interrupted before
    anything was begun, or twice (then xmlkit recover).

    \b
    Example:
        xmlkit apply --connect qemu:///system --relocate nova-disks-pool \\
            instance-00000001
    """
    if sum((plan_file is not None, all_, bool(domains))) != 1:
        raise click.UsageError("say which domains: DOMAIN..., --all or --plan FILE, one of them")
    if plan_file is not None and (relocate or to != "volume"):
        raise click.UsageError("--plan holds all decisions: give no --to and no --relocate")
    if arrived and (plan_file is not None or to != "volume"):
        raise click.UsageError("--arrived says where images are for --to volume without --plan")
    if relocate and to == "path":
        raise click.UsageError("--relocate moves disks into pools: it goes with --to volume")
    if on_shutdown and (script or dry_run):
        raise click.UsageError("--on-shutdown does it: give no --script and no --dry-run")
    if restart and (script or on_shutdown):
        raise click.UsageError("--restart does it now: give no --script and no --on-shutdown")
    if timeout is not None and not on_shutdown:
        raise click.UsageError("--timeout says how long --on-shutdown waits")
    uri = carrying.uri_of(connect)
    from xmlkit.cli import files
    from xmlkit.cli.hosts import relocations
    from xmlkit.service import Options

    plans = None if plan_file is None else files.read_plans(plan_file)
    wanted = Options(
        to=to,
        relocate=relocations(relocate),
        accept=accept,
        arrived=arrived,
        copy=copy,
        rewrite_metadata=rewrite_metadata,
        schemas=schemas,
        restart=restart,
        shutdown_seconds=carrying.shutdown_seconds(restart, shutdown_timeout),
    )
    apply = _Apply(uri, plans, wanted, state_dir, max_failures, yes, format_, diff=diff)
    names = tuple(each.uuid for each in plans) if plans is not None else domains or None
    with signals.interruptible():
        if script:
            return apply.print_script(names, limit)
        code = apply.now(names, limit, dry_run=dry_run, report=not on_shutdown)
        return apply.on_shutdown(timeout) if code is None else code


class _Apply:
    """One call of the command: what was decided on its line, and what has become of it so far."""

    def __init__(
        self,
        uri: str,
        plans: tuple[Plan, ...] | None,
        options: Options,
        state_dir: str | None,
        max_failures: int | None,
        yes: bool,
        format_: str,
        *,
        diff: bool,
    ) -> None:
        self.uri = uri
        self.plans = plans
        self.options = options
        self.state_dir = state_dir
        self.max_failures = max_failures
        self.yes = yes
        self.format = format_
        self.cases: dict[str, Case] = {}
        self.results: list[Result] = []
        self.differences: dict[str, str] | None = {} if diff else None

    def _judged(
        self, connection: Any, names: Collection[str] | None, directory: Path
    ) -> list[Case]:
        from xmlkit import service, state
        from xmlkit.survey import survey

        surveyed = survey(connection, names, secure=True)
        plans = self.plans
        if plans is not None and names is not None:
            plans = tuple(each for each in plans if each.uuid in names)
        elif not self.cases:
            carrying.refuse_unknown(names, surveyed.guests, connection)
        key = state.known_key(directory) if plans is not None else None
        cases = service.cases_of(surveyed, self.options, plans=plans, key=key)
        if self.differences is not None:
            self.differences |= carrying.differences(cases, surveyed.guests)
        return cases

    def print_script(self, names: Collection[str] | None, limit: int | None) -> int:
        """--script: nothing is changed, and nothing is asked."""
        from xmlkit import service, state
        from xmlkit.observe import opened
        from xmlkit.script import script

        directory = state.directory(self.state_dir, make=False)
        service.refuse_pending(directory)
        with opened(self.uri, write=True) as connection:
            cases = self._judged(connection, names, directory)
        cases = carrying.limited(cases, limit)
        carrying.show(cases, steps=False, differences=self.differences)
        tasks = [case.task for case in cases if case.task is not None]
        if tasks:
            click.echo(script(tasks, self.uri), nl=False)
        return carrying.code_of([carrying.outcome_of(case, {}) for case in cases])

    def now(
        self, names: Collection[str] | None, limit: int | None, *, dry_run: bool, report: bool
    ) -> int | None:
        """Do what can be done now. The exit code; None if there is more to come."""
        from xmlkit import service, state
        from xmlkit.observe import opened

        with opened(self.uri, write=True) as connection, ExitStack() as stack:
            carrying.check(
                connection,
                names=names if self.plans is None else (),
                pools=self.options.relocate.values(),
                schemas=self.options.schemas,
            )
            directory = state.directory(self.state_dir, make=not dry_run)
            if dry_run:
                state.refuse_impossible(directory)
            else:
                stack.enter_context(service.writing(connection, directory))
                # a domain that is half way would be judged by what it is not going to be
                service.refuse_pending(directory)
            cases = self._judged(connection, names, directory)
            cases = carrying.limited(cases, limit, waits=not report)
            self.cases = {case.uuid: case for case in cases}
            carrying.show(cases, steps=dry_run, differences=self.differences)
            ready = [case for case in cases if case.task is not None]
            waiting = [case for case in cases if case.state == "skipped"]
            if dry_run or not (ready or (waiting and not report)):
                return self.report(dry_run=dry_run)
            text = carrying.question("Change {}", ready, more=0 if report else len(waiting))
            if not carrying.asked(text, yes=self.yes):
                return 1
            self._carry_out(connection, cases, directory)
        return self.report() if report or self._ended() else None

    def _ended(self) -> bool:
        """Whether no other domain is to be begun: it was interrupted, or too many have failed."""
        ids = [end.id for result in self.results for end in result.outcomes.values()]
        too_many = self.max_failures is not None and self._failures() >= self.max_failures
        return "interrupted" in ids or too_many

    def _failures(self) -> int:
        ends = [end for result in self.results for end in result.outcomes.values()]
        return sum(end.state != "done" for end in ends)

    def _carry_out(self, connection: Any, cases: Sequence[Case], directory: Path) -> None:
        from xmlkit import service

        with carrying.progress(cases) as listener:
            result = service.carry_out(
                connection,
                cases,
                directory,
                uri=self.uri,
                listener=listener,
                max_failures=None
                if self.max_failures is None
                else self.max_failures - self._failures(),
                shutdown_seconds=self.options.shutdown_seconds,
            )
        self.results.append(result)

    def on_shutdown(self, timeout: float | None) -> int:
        """Do the domains that run, each when it is shut off. The exit code."""
        import time

        from xmlkit import leisure

        deadline = None if timeout is None else time.monotonic() + timeout
        trouble = False
        while not self._ended() and (waiting := self._waiting()):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            many = f"{len(waiting)} domain{'s' * (len(waiting) != 1)}"
            try:
                click.echo(f"waiting for {many} to be shut off", err=True)
                for uuid in leisure.shut_off(self.uri, waiting, seconds=left):
                    self._one(uuid)
                    if self._ended():
                        break
            except KeyboardInterrupt:
                click.echo("not waiting any longer", err=True)
                break
            except XmlkitError as error:
                # what has been done so far is to be told all the same
                click.echo(f"xmlkit: {carrying.line(str(error))}", err=True)
                trouble = True
                break
        code = self.report()
        return max(code, 1) if trouble else code

    def _waiting(self) -> set[str]:
        return {uuid for uuid, case in self.cases.items() if case.state == "skipped"}

    def _one(self, uuid: str) -> None:
        from dataclasses import replace

        from xmlkit import service, state
        from xmlkit.observe import opened

        directory = state.directory(self.state_dir)
        with (
            opened(self.uri, write=True) as connection,
            service.writing(connection, directory, LOCK_SECONDS),
        ):
            service.refuse_pending(directory)
            cases = [c for c in self._judged(connection, (uuid,), directory) if c.uuid == uuid]
            if not cases:
                message = "somebody has undefined it"
                gone = replace(self.cases[uuid], state="refused", id="no-domain", message=message)
                cases = [gone]
            self.cases.update((case.uuid, case) for case in cases)
            self._carry_out(connection, cases, directory)

    def report(self, *, dry_run: bool = False) -> int:
        """Say how it ended; the exit code."""
        return carrying.report(
            list(self.cases.values()),
            self.results,
            format_=self.format,
            kind="apply",
            dry_run=dry_run,
            differences=self.differences,
            state_dir=self.state_dir,
        )
