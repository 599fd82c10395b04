"""The whole way of a transition, for the commands and for callers such as Nova.

Laws
- Judged before it is done: schema, preflight, and a plan that is still true; then the executor.
- One writer a host, and nothing new is begun while an older transition is pending.
- A plan from a file is done as it is or refused; what was not bound on this host is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from xmlkit import journal, state
from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.host import sanitized
from xmlkit.journal import Journal, JournalError, Outcome, Task, Writer
from xmlkit.observe import LibvirtError, host_uuid, is_own, without_password
from xmlkit.plan import STAYS, Form, Plan, PlanError, Reason, Skip, plan
from xmlkit.preflight import Concern, judge, refusals
from xmlkit.steps import SHUTDOWN_SECONDS, Copy, steps_of
from xmlkit.survey import Guest, Survey, survey
from xmlkit.transformers import transform
from xmlkit.validation.verdict import validate

if TYPE_CHECKING:  # it imports libvirt
    from xmlkit.executor import Listener
    from xmlkit.migrate import Migration

__all__ = [
    "Case",
    "Circumstances",
    "Options",
    "Result",
    "ServiceError",
    "bound",
    "carry_out",
    "cases_of",
    "circumstances",
    "directories_of",
    "host_locked",
    "is_done",
    "migrate_one",
    "recover_all",
    "roll_back_cases",
    "stale",
    "transition",
    "writing",
]


# Seconds in which a guest that has shut down late is taken to have done so because it was asked.
LATE = 24 * 3600.0


class ServiceError(XmlkitError):
    """A transition cannot be begun; the message says why and what to do first."""


@dataclass(frozen=True)
class Options:
    """How a transition is wanted.

    to, relocate, arrived, accept: as plan() takes them. copy: images may be copied to another file
    system. rewrite_metadata: snapshots, checkpoints and managed saves get the new addresses too.
    schemas: libvirt's, by directory. restart: a running domain is shut down for it and started
    again. shutdown_seconds: how long it may take to shut down; then it is left running.
    """

    to: Form = "volume"
    relocate: Mapping[str | None, str] = field(default_factory=dict)
    accept: tuple[str, ...] = ()
    copy: bool = False
    rewrite_metadata: bool = False
    arrived: bool = False
    schemas: str | None = None
    restart: bool = False
    shutdown_seconds: float = SHUTDOWN_SECONDS


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


def stale(made: Plan, document: Document, key: bytes | None) -> Reason | None:
    """Why a plan is not to be carried out: not bound to this host and the domain as it is now.

    document: as for bound(). key: of the host, None if it has none. Returns None if it is bound.
    """
    if made.binding is None:
        message = "it is bound to no host: make it with xmlkit plan --connect URI, on this host"
        return Reason("stale-plan", message)
    if key is None:
        message = (
            "no plan was ever bound with this state directory, so it was with another host or "
            "--state-dir, or the key has been lost: plan again"
        )
        return Reason("stale-plan", message)
    if not hmac.compare_digest(made.binding, str(bound(made, document, key).binding)):
        message = "the domain, the host or the plan itself is not as it was: plan again"
        return Reason("stale-plan", message)
    return None


def cases_of(
    surveyed: Survey,
    options: Options,
    *,
    plans: Iterable[Plan] | None = None,
    key: bytes | None = None,
) -> list[Case]:
    """Each surveyed domain planned and judged; with `plans`, those and nothing else.

    key: of the host, to tell whether a plan is still true; None if it has none. Raises PlanError
    for a pool to relocate to that the host has not, SchemaError without libvirt's schemas.
    """
    guests = {guest.uuid: guest for guest in surveyed.guests}
    if plans is None:
        return [
            _judged(_planned(guest, surveyed, options), guest, surveyed, options)
            for guest in guests.values()
        ]
    cases = []
    for each in plans:
        found = guests.get(each.uuid)
        if found is None:
            message = "libvirt has no such domain any more"
            cases.append(Case(each.name, each.uuid, each, (), "refused", "no-domain", message))
        elif not each.changes or is_done(each, found.document):
            message = "its disks are where the plan leaves them"
            cases.append(Case(found.name, found.uuid, each, (), "nothing", message=message))
        elif reason := stale(each, found.document, key):
            case = Case(found.name, found.uuid, each, (), "refused", reason.id, reason.message)
            cases.append(case)
        else:
            cases.append(_judged(each, found, surveyed, options))
    return cases


def is_done(made: Plan, document: Document) -> bool:
    """Whether a domain has already what the plan would give it."""
    try:
        return transform(document, made) is document
    except PlanError:
        return False


def _planned(guest: Guest, surveyed: Survey, options: Options) -> Plan:
    return plan(
        guest.document,
        surveyed.host,
        options.to,
        relocate=options.relocate,
        arrived=options.arrived,
        accept=options.accept,
    )


def _judged(made: Plan, guest: Guest, surveyed: Survey, options: Options) -> Case:
    """The case of a domain whose plan is made."""
    case = Case(guest.name, guest.uuid, made)
    if not made.changes:
        return replace(case, **{"state": "nothing", **_why_nothing(made)})
    concerns = judge(
        made,
        guest,
        surveyed,
        accept=options.accept,
        copy=options.copy,
        rewrite_metadata=options.rewrite_metadata,
        restart=options.restart,
    )
    case = replace(case, concerns=concerns)
    stops = refusals(concerns)
    if stops:
        # that it runs passes by itself: what else there is, is to be said
        why = next((each for each in stops if each.id != "running"), stops[0])
        target = f"{why.target}: " if why.target else ""
        return replace(
            case,
            state="skipped" if why.id == "running" else "refused",
            id=why.id,
            message=f"{target}{why.message}",
        )
    try:
        after = transform(guest.document, made)
    except PlanError as error:
        # somebody has changed it between two looks at it
        return replace(case, state="refused", id="disk-changed", message=str(error))
    if not validate(guest.document, options.schemas):
        findings = validate(after, options.schemas)
        if findings:
            return replace(case, state="refused", id="schema", message=findings[0].message)
    steps = steps_of(made, **circumstances(made, guest, surveyed, options)._asdict())
    return replace(case, task=Task(made, steps))


class Circumstances(NamedTuple):
    """What makes the steps of a plan others on one host than on another, as steps_of() takes it."""

    copied: frozenset[str] = frozenset()
    metadata: tuple[tuple[str, str], ...] = ()
    restart: bool = False


def circumstances(made: Plan, guest: Guest, surveyed: Survey, options: Options) -> Circumstances:
    """Those of a guest that is not refused with these options."""
    return Circumstances(
        copied=_on_other_file_systems(made, surveyed) if options.copy else frozenset(),
        metadata=_metadata(guest) if options.rewrite_metadata else (),
        restart=guest.active and options.restart,
    )


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


@contextlib.contextmanager
def writing(connection: Any, directory: Path, wait: float = 0) -> Iterator[None]:
    """Be the one writer of the host of a connection and of a state directory.

    wait: seconds to wait for another one. Raises LockedError, StateError.
    """
    with state.lock(directory, wait), host_locked(connection, wait):
        yield


def host_locked(connection: Any, wait: float = 0) -> contextlib.AbstractContextManager[None]:
    """The lock of the host of a connection: state.host_lock()."""
    own = is_own(connection.getURI())
    return state.host_lock(host_uuid(connection), wait, own=own)


def carry_out(
    connection: Any,
    cases: Sequence[Case],
    directory: Path,
    *,
    uri: str,
    listener: Listener = lambda *_: None,
    max_failures: int | None = None,
    shutdown_seconds: float = SHUTDOWN_SECONDS,
    kind: str = "apply",
    of: str | None = None,
) -> Result:
    """Do what is ready. To be called within writing().

    uri: for the journal, so that recover knows where; without its password. A journal that cannot
    be written on leaves what has not ended "pending". Raises JournalError if it cannot even be
    begun, and ServiceError if an older transition is pending: nothing has been changed then.
    """
    from xmlkit import executor

    refuse_pending(directory)
    tasks = [case.task for case in cases if case.task is not None]
    if not tasks:
        return Result(None, {})
    id = state.new_id(directory)
    bare = without_password(uri)
    writer = Writer.create(str(directory), id, tasks, uri=bare, kind=kind, of=of)
    try:
        outcomes = executor.apply(
            connection,
            writer,
            tasks,
            listener=listener,
            max_failures=max_failures,
            shutdown_seconds=shutdown_seconds,
        )
    except JournalError as error:
        ended = journal.read(writer.path).outcomes
        why = Reason("journal", str(error))
        pending = Outcome("pending", why.id, why.message)
        outcomes = {task.uuid: ended.get(task.uuid, pending) for task in tasks}
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
    """Do a migration that is ready. To be called within writing().

    source, there: connections that may write, at the URIs `uri` and `to`, which stand in the
    journal without their passwords. A journal that cannot be written on leaves it "pending". Raises
    JournalError if it cannot even be begun, and ServiceError if an older transition is pending.
    """
    from xmlkit import migrate

    refuse_pending(directory)
    if migration.task is None:
        return Result(None, {})
    id = state.new_id(directory)
    tasks = (migration.task,)
    writer = Writer.create(
        str(directory),
        id,
        tasks,
        uri=without_password(uri),
        kind="migrate",
        to=without_password(to),
    )
    try:
        outcomes = migrate.run(source, there, writer, migration, listener=listener)
    except JournalError as error:
        pending = Outcome("pending", "journal", str(error))
        outcomes = journal.read(writer.path).outcomes or {migration.uuid: pending}
    finally:
        writer.close()
    return Result(id, outcomes)


def refuse_pending(directory: Path) -> None:
    """Raise ServiceError if an older transition has not come to an end."""
    journals, errors = journal.read_all(str(directory))
    if errors:
        raise errors[0]
    pending = [each.id for each in journals if each.pending]
    if pending:
        raise ServiceError(
            f"transition {', '.join(pending)} has not come to an end: "
            f"run xmlkit recover{state.option(directory)} first"
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
    journals = tuple(later)
    guests = {guest.uuid: guest for guest in surveyed.guests}
    cases = []
    for uuid, task in done.tasks.items():
        inverse = task.plan.inverse()
        case = Case(task.plan.name, uuid, inverse)
        guest = guests.get(uuid)
        if not _in_force(done, uuid, journals):
            was_done = done.outcomes.get(uuid, Outcome("")).state == "done"
            message = "it was taken back already" if was_done else "it was never done"
            cases.append(replace(case, state="nothing", message=message))
        elif guest is None:
            message = "libvirt has no such domain any more"
            cases.append(replace(case, state="refused", id="no-domain", message=message))
        else:
            cases.append(_judged_back(case, inverse, task, guest, surveyed, options))
    return cases


def _in_force(done: Journal, uuid: str, journals: Sequence[Journal]) -> bool:
    """Whether a transition of a domain was done, and not taken back for good."""
    outcome = done.outcomes.get(uuid)
    if outcome is None or outcome.state != "done":
        return False
    later = (each for each in journals if each.of == done.id)
    return not any(_in_force(each, uuid, journals) for each in later)


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
    steps = steps_of(inverse, copied=targets, metadata=redefined, restart=guest.active)
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
) -> tuple[list[tuple[Journal, dict[str, Outcome]]], list[XmlkitError]]:
    """Bring every pending transition to an end. To be called with the directory's lock held;
    `connections` takes that of the host.

    connections: a function from a journal to a connection that may write; there: the same, to
    where a migration was to go. A migration one of whose hosts cannot be reached stays pending.
    A guest that has shut down after a transition of the last day had given up waiting for it is
    started. Returns each journal with the outcome for each UUID, and what kept others from being
    read or brought to an end.
    """
    from xmlkit import executor, snapshot

    journals, unread = journal.read_all(str(directory))
    errors: list[XmlkitError] = [*unread]
    found = []
    for each in journals:
        if each.pending:
            try:
                if each.kind == "snapshot":
                    outcomes = snapshot.recover(connections(each), each)
                elif each.kind == "migrate":
                    outcomes = _recover_migration(connections, there, each, listener)
                else:
                    outcomes = executor.recover(connections(each), each, listener=listener)
                found.append((each, outcomes))
            except (JournalError, LibvirtError, state.LockedError) as error:
                errors.append(error)
    for each, uuids in _asked(journals):
        try:
            outcomes = executor.start_late(connections(each), each, uuids, listener=listener)
        except (JournalError, LibvirtError, state.LockedError) as error:
            errors.append(error)
            continue
        if outcomes:
            so_far = next((ends for known, ends in found if known is each), None)
            if so_far is None:
                found.append((each, outcomes))
            else:
                so_far.update(outcomes)
    return found, errors


def _asked(journals: Iterable[Journal]) -> Iterator[tuple[Journal, set[str]]]:
    """Each journal with the guests that may shut down because of it: of several, it is the last."""
    last = {uuid: each for each in journals for uuid in each.stopping}
    for each in journals:
        uuids = {task.uuid for task in each.asked if last[task.uuid] is each}
        if uuids and _age(each) < LATE:
            yield each, uuids


def _age(done: Journal) -> float:
    """Seconds since a journal was begun, by the clock."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(done.started)).total_seconds()
    except (TypeError, ValueError):
        return math.inf


def _recover_migration(
    connections: Any, there: Any, pending: Journal, listener: Listener
) -> dict[str, Outcome]:
    from xmlkit import migrate

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
    """Move the disks of one domain in one call: for Nova's hard reboot or resize.

    The domain is shut off, or runs and is restarted (options.restart): whatever happens, it runs
    again, if need be from its old addresses.
    wait: seconds to wait for another xmlkit on this host. Returns the outcome, whose state is also
    "nothing", "skipped" or "refused" with the reason; nothing has been changed then. Raises
    LockedError, StateError, JournalError, ServiceError, PlanError (no such pool), SchemaError, and
    what libvirt raises before anything has been changed.
    """
    wanted = options or Options()
    directory = state.directory(state_dir)
    with writing(connection, directory, wait):
        refuse_pending(directory)
        surveyed = survey(connection, (uuid,), secure=True)
        # a domain may have another one's UUID for its name
        case = next((each for each in cases_of(surveyed, wanted) if each.uuid == uuid), None)
        if case is None:
            return Outcome("refused", "no-domain", "libvirt has no such domain")
        if case.task is None:
            return Outcome(case.state, case.id, case.message)
        result = carry_out(
            connection,
            (case,),
            directory,
            uri=connection.getURI(),
            listener=listener,
            shutdown_seconds=wanted.shutdown_seconds,
        )
        return result.outcomes[case.uuid]
