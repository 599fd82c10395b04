"""The whole way of a transition, for the commands and for callers such as Nova.

Laws
- Judged before it is done: schema, preflight, and a plan that is still true; then the executor.
- One writer a host, and nothing new is begun while an older transition is pending.
- A plan from a file is done as it is or refused; what was not bound on this host is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from xmlkit import executor, journal, migrate, state
from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.executor import Listener
from xmlkit.host import sanitized
from xmlkit.journal import Journal, Outcome, Task, Writer
from xmlkit.migrate import Migration
from xmlkit.observe import LibvirtError
from xmlkit.plan import STAYS, Form, Plan, PlanError, Skip, plan
from xmlkit.preflight import Concern, judge, refusals
from xmlkit.steps import Copy, steps_of
from xmlkit.survey import Guest, Survey, survey
from xmlkit.transformers import transform
from xmlkit.validation.verdict import validate

__all__ = [
    "Case",
    "Options",
    "Result",
    "ServiceError",
    "bound",
    "carry_out",
    "cases_of",
    "directories_of",
    "migrate_one",
    "recover_all",
    "roll_back_cases",
    "transition",
]


class ServiceError(XmlkitError):
    """A transition cannot be begun; the message says why and what to do first."""


@dataclass(frozen=True)
class Options:
    """How a transition is wanted.

    to, relocate, arrived, accept: as plan() takes them. copy: images may be copied to another file
    system. rewrite_metadata: snapshots, checkpoints and managed saves get the new addresses too.
    waits: the caller waits until a running domain is shut off. schemas: libvirt's, by directory.
    """

    to: Form = "volume"
    relocate: Mapping[str | None, str] = field(default_factory=dict)
    accept: tuple[str, ...] = ()
    copy: bool = False
    rewrite_metadata: bool = False
    waits: bool = False
    arrived: bool = False
    schemas: str | None = None


@dataclass(frozen=True)
class Case:
    """One domain, judged.

    state: "ready" (task is what will be done), "nothing" (no disk changes), "skipped" (it runs) or
    "refused"; id and message say why not. plan is None for a domain that is not there.
    """

    name: str
    uuid: str
    plan: Plan | None
    concerns: tuple[Concern, ...] = ()
    state: Literal["ready", "nothing", "skipped", "refused"] = "ready"
    id: str = ""
    message: str = ""
    task: Task | None = None


@dataclass(frozen=True)
class Result:
    """What became of a transition: its id (None if nothing was begun), and each case's outcome."""

    id: str | None
    outcomes: Mapping[str, Outcome]


def bound(made: Plan, document: Document, key: bytes) -> Plan:
    """The plan, bound to the domain's XML and to this host by an HMAC with the host's key.

    document: the domain's XML, read with VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE. A plain
    hash would let a reader of the plan guess a password that stands in the XML.
    """
    data = json.dumps(made._replace(binding=None).as_data(), sort_keys=True).encode()
    digest = hmac.new(key, len(data).to_bytes(8, "big") + data + document.source, hashlib.sha256)
    return made._replace(binding=digest.hexdigest())


def cases_of(
    surveyed: Survey,
    options: Options,
    *,
    plans: Iterable[Plan] | None = None,
    key: bytes | None = None,
) -> list[Case]:
    """Each surveyed domain planned and judged; with `plans`, those and nothing else.

    key: of the host, to tell whether a plan is still true.
    """
    guests = {guest.uuid: guest for guest in surveyed.guests}
    if plans is None:
        made = ((guest, _planned(guest, surveyed, options)) for guest in guests.values())
        return [
            _refused(guest, None, "plan", str(each))
            if isinstance(each, PlanError)
            else _judged(each, guest, surveyed, options)
            for guest, each in made
        ]
    cases = []
    for each in plans:
        found = guests.get(each.uuid)
        if found is None:
            message = "libvirt has no such domain any more"
            cases.append(Case(each.name, each.uuid, each, (), "refused", "no-domain", message))
        elif not each.changes or _is_done(each, found.document):
            message = "its disks are where the plan leaves them"
            cases.append(Case(found.name, found.uuid, each, (), "nothing", message=message))
        elif key is None or each.binding is None:
            message = "it is bound to no host: make it with xmlkit plan --connect URI, on this host"
            cases.append(_refused(found, each, "stale-plan", message))
        elif not hmac.compare_digest(each.binding, str(bound(each, found.document, key).binding)):
            message = "the domain, or the plan itself, is not as it was: plan again"
            cases.append(_refused(found, each, "stale-plan", message))
        else:
            cases.append(_judged(each, found, surveyed, options))
    return cases


def _is_done(made: Plan, document: Document) -> bool:
    try:
        return transform(document, made) is document
    except PlanError:
        return False


def _planned(guest: Guest, surveyed: Survey, options: Options) -> Plan | PlanError:
    try:
        return plan(
            guest.document,
            surveyed.host,
            options.to,
            relocate=options.relocate,
            arrived=options.arrived,
            accept=options.accept,
        )
    except PlanError as error:
        return error


def _refused(guest: Guest, made: Plan | None, id: str, message: str) -> Case:
    return Case(guest.name, guest.uuid, made, (), "refused", id, message)


def _judged(made: Plan, guest: Guest, surveyed: Survey, options: Options) -> Case:
    """The case of a domain whose plan is made."""
    case = Case(guest.name, guest.uuid, made)
    if not made.changes:
        return replace(case, state="nothing", **_why_nothing(made))
    concerns = judge(
        made,
        guest,
        surveyed,
        accept=options.accept,
        copy=options.copy,
        rewrite_metadata=options.rewrite_metadata,
        restart=options.waits,
    )
    case = replace(case, concerns=concerns)
    stops = refusals(concerns)
    if stops:
        runs = all(each.id == "running" for each in stops)
        target = f"{stops[0].target}: " if stops[0].target else ""
        return replace(
            case,
            state="skipped" if runs else "refused",
            id=stops[0].id,
            message=f"{target}{stops[0].message}",
        )
    after = transform(guest.document, made)
    if not validate(guest.document, options.schemas):
        findings = validate(after, options.schemas)
        if findings:
            return replace(case, state="refused", id="schema", message=findings[0].message)
    steps = steps_of(
        made,
        copied=_on_other_file_systems(made, surveyed) if options.copy else (),
        metadata=_metadata(guest) if options.rewrite_metadata else (),
    )
    return replace(case, task=Task(made, steps))


def _why_nothing(made: Plan) -> dict[str, Any]:
    """Nothing to do, or refused: if a disk that could have changed is kept from it."""
    for disk in made.disks:
        if isinstance(disk, Skip) and disk.reason.id not in STAYS:
            message = f"{disk.target}: {disk.reason.message}"
            return {"state": "refused", "id": disk.reason.id, "message": message}
    for disk in made.disks:
        if disk.reason is not None and disk.reason.id != "already":
            return {"id": disk.reason.id, "message": f"{disk.target}: {disk.reason.message}"}
    return {}


def _on_other_file_systems(made: Plan, surveyed: Survey) -> frozenset[str]:
    """The targets of the disks that no link can move."""
    found = set()
    for each in made.transitions:
        file = surveyed.files.get(sanitized(each.before.path or ""))
        directory = surveyed.directories.get(sanitized(each.after.path or "").rpartition("/")[0])
        if file is not None and directory is not None and file.device != directory.device:
            found.add(each.target)
    return frozenset(found)


def _metadata(guest: Guest) -> tuple[tuple[str, str], ...]:
    return (
        *(("snapshot", each.name or "") for each in guest.snapshots),
        *(("checkpoint", each.name or "") for each in guest.checkpoints),
        *((("managed-save", ""),) if guest.managed_save else ()),
    )


def carry_out(
    connection: Any,
    cases: Sequence[Case],
    directory: Path,
    *,
    uri: str,
    listener: Listener = lambda *_: None,
    max_failures: int | None = None,
    kind: str = "apply",
    of: str | None = None,
) -> Result:
    """Do what is ready. To be called with the lock of the state directory held.

    uri: for the journal, so that recover knows where. Raises JournalError, and ServiceError if
    an older transition is pending.
    """
    refuse_pending(directory)
    tasks = [case.task for case in cases if case.task is not None]
    if not tasks:
        return Result(None, {})
    id = state.new_id(directory)
    writer = Writer.create(str(directory), id, tasks, uri=uri, kind=kind, of=of)
    try:
        outcomes = executor.apply(
            connection, writer, tasks, listener=listener, max_failures=max_failures
        )
    finally:
        writer.close()
    return Result(id, outcomes)


def migrate_one(
    source: Any,
    there: Any,
    migration: Migration,
    directory: Path,
    *,
    uri: str,
    to: str,
    listener: Listener = lambda *_: None,
) -> Result:
    """Do a migration that is ready. To be called with the lock of the state directory held.

    source, there: connections that may write, at the URIs `uri` and `to`. Raises JournalError, and
    ServiceError if an older transition is pending.
    """
    refuse_pending(directory)
    if migration.task is None:
        return Result(None, {})
    id = state.new_id(directory)
    tasks = (migration.task,)
    writer = Writer.create(str(directory), id, tasks, uri=uri, kind="migrate", to=to)
    try:
        return Result(id, migrate.run(source, there, writer, migration, listener=listener))
    finally:
        writer.close()


def refuse_pending(directory: Path) -> None:
    """Raise ServiceError if an older transition has not come to an end."""
    journals, errors = journal.read_all(str(directory))
    if errors:
        raise errors[0]
    pending = [each.id for each in journals if each.pending]
    if pending:
        raise ServiceError(
            f"transition {', '.join(pending)} has not come to an end: run xmlkit recover first"
        )


def roll_back_cases(
    surveyed: Survey,
    done: Journal,
    options: Options,
    *,
    later: Iterable[Journal] = (),
) -> list[Case]:
    """The cases that take a transition back: the inverse of what was done, on the present XML.

    later: the journals after it; what one of them has taken back already is nothing to do. Raises
    ServiceError for a migration.
    """
    if done.kind == "migrate":
        raise ServiceError(
            f"transition {done.id} is a migration: migrate back, with xmlkit migrate --connect "
            f"{done.to} --to {done.uri}"
        )
    back = {
        uuid
        for each in later
        if each.of == done.id
        for uuid, outcome in each.outcomes.items()
        if outcome.state == "done"
    }
    guests = {guest.uuid: guest for guest in surveyed.guests}
    cases = []
    for uuid, task in done.tasks.items():
        inverse = task.plan.inverse()
        case = Case(task.plan.name, uuid, inverse)
        guest = guests.get(uuid)
        outcome = done.outcomes.get(uuid)
        if outcome is None or outcome.state != "done" or uuid in back:
            message = "it was taken back already" if uuid in back else "it was never done"
            cases.append(replace(case, state="nothing", message=message))
        elif guest is None:
            message = "libvirt has no such domain any more"
            cases.append(replace(case, state="refused", id="no-domain", message=message))
        else:
            cases.append(_judged_back(case, inverse, task, guest, surveyed, options))
    return cases


def _judged_back(
    case: Case, inverse: Plan, task: Task, guest: Guest, surveyed: Survey, options: Options
) -> Case:
    try:
        if transform(guest.document, inverse) is guest.document:
            return replace(case, state="nothing", message="its disks are where they were")
    except PlanError as error:
        return replace(case, state="refused", id="disk-changed", message=str(error))
    copied = {step.target for step in task.steps if isinstance(step, Copy)}
    targets = {each.target for each in inverse.transitions if each.before.path in copied}
    judged = _judged(inverse, guest, surveyed, replace(options, copy=bool(copied)))
    if judged.task is None:
        return judged
    redefined = _metadata(guest) if options.rewrite_metadata else ()
    steps = steps_of(inverse, copied=targets, metadata=redefined)
    return replace(judged, task=Task(inverse, steps))


def directories_of(plans: Iterable[Plan]) -> set[str]:
    """The directories that images move into: survey() has to look at them."""
    return {
        sanitized(each.after.path).rpartition("/")[0]
        for plan in plans
        for each in plan.transitions
        if each.action == "move" and each.after.path
    }


def recover_all(
    connections: Any,
    directory: Path,
    *,
    there: Any = None,
    listener: Listener = lambda *_: None,
) -> list[tuple[Journal, dict[str, Outcome]]]:
    """Bring every pending transition to an end. To be called with the lock held.

    connections: a function from a journal to a connection that may write; there: the same, to
    where a migration was to go. A migration one of whose hosts cannot be reached stays pending.
    Raises JournalError.
    """
    journals, errors = journal.read_all(str(directory))
    found = []
    for each in journals:
        if each.pending:
            if each.kind == "migrate":
                outcomes = _recover_migration(connections, there, each, listener)
            else:
                outcomes = executor.recover(connections(each), each, listener=listener)
            found.append((each, outcomes))
    if errors:
        raise errors[0]
    return found


def _recover_migration(
    connections: Any, there: Any, pending: Journal, listener: Listener
) -> dict[str, Outcome]:
    try:
        both = connections(pending), there(pending)
    except LibvirtError as error:
        message = f"{error}: a migration is ended with both hosts; then run xmlkit recover"
        return {task.uuid: Outcome("pending", "libvirt", message) for task in pending.pending}
    return migrate.recover(*both, pending, listener=listener)


def transition(
    connection: Any,
    uuid: str,
    options: Options | None = None,
    *,
    state_dir: str | None = None,
    wait: float = 60.0,
    listener: Listener = lambda *_: None,
) -> Outcome:
    """Move the disks of one domain that is shut off, in one call: for Nova's hard reboot or resize.

    wait: seconds to wait for another xmlkit on this host. Returns the outcome, whose state is also
    "nothing", "skipped" or "refused" with the reason; nothing has been changed then. Raises
    LockedError, StateError, JournalError, ServiceError.
    """
    wanted = options or Options()
    directory = state.directory(state_dir)
    with state.lock(directory, wait):
        surveyed = survey(connection, (uuid,), secure=True)
        (case,) = cases_of(surveyed, wanted) or (None,)
        if case is None:
            return Outcome("refused", "no-domain", "libvirt has no such domain")
        if case.task is None:
            return Outcome(case.state, case.id, case.message)
        result = carry_out(
            connection, (case,), directory, uri=connection.getURI(), listener=listener
        )
        return result.outcomes[case.uuid]
