"""Executor: takes the steps on a libvirt host, or takes them back.

Laws
- What has happened is read off the host, not off the journal: a domain whose persistent XML has the
  new addresses is finished, one that has the old ones is taken back, any other is left alone.
- `settle` is the one place that does so, after a failure, an interruption and a crash alike; how it
  ended is written down after that, and after the pools that lost a name were refreshed.
- A domain is read (INACTIVE | SECURE), defined over, read back and compared by meaning; it is never
  undefined. What libvirt dropped of it is put back.
- What libvirt has written is on its disk before the old name of an image goes.
- Steps of one kind are taken for many domains at once: N disks into a pool cost one refresh. Where
  an image is copied its domain goes alone, and no QEMU can open the image until it is defined.
- A guest that is restarted goes alone too, so that it is down for its own steps only. Whatever
  happens, it runs again: from the new addresses or, if it does not start there, from the old ones.
  One that shuts down after it was given up is started too, at the end of the run or by recovery.
  But where the machine has gone down since, it is told: others start guests elsewhere then, and no
  lock on an image is sure to keep a second QEMU from it (none on block devices that hosts share).
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar

import libvirt

from xmlkit import disk_info, images, leisure, metadata
from xmlkit.compare import lost
from xmlkit.disks import Address, read_domain
from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.host import sanitized
from xmlkit.images import ImageError
from xmlkit.journal import Journal, JournalError, Outcome, Task, Writer
from xmlkit.observe import LibvirtError, is_local, said, why_off
from xmlkit.plan import Plan, PlanError
from xmlkit.steps import (
    SHUTDOWN_SECONDS,
    Copy,
    Define,
    Link,
    Redefine,
    Refresh,
    Start,
    Step,
    Stop,
    Unlink,
)
from xmlkit.survey import survey
from xmlkit.transformers import transform

__all__ = ["Listener", "apply", "has_rebooted", "recover", "start_late"]

# Called as ("begin" or "done", UUID, step) around each step, and ("copied", UUID, step, bytes
# done, bytes in all) while an image is copied.
Listener = Callable[..., None]

Position = Literal["before", "after", "elsewhere", "mixed", "gone"]

SECURE = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
_NOT_KNOWN = "libvirtd, which was restarted, does not know why, nor does QEMU's log say it"
_REBOOTED = "the machine went down since, so that it may have been started on another host"

CHUNK = 64  # steps with one sync for their intents
ASK_SECONDS = 5.0  # a guest that is busy, or boots, may miss the button: it is pressed again

# What cannot be walked or read now could not be changed before either: nothing is to be taken back.
_NOTHING_MADE = ("symlink", "bad-path", "disk-info")

_S = TypeVar("_S", bound=Step)


class _Failure(Exception):
    """Why a step could not be taken; `id` is one of xmlkit.rules."""

    def __init__(self, id: str, message: str) -> None:
        self.id = id
        super().__init__(message)


class _NotStarted(_Failure):
    """A guest that was shut down for the transition does not start."""


# What may go wrong in a step; a journal that cannot be written is no trouble of one domain.
_TROUBLE = (_Failure, XmlkitError, OSError, libvirt.libvirtError)


def apply(
    connection: Any,
    writer: Writer,
    tasks: Sequence[Task],
    *,
    listener: Listener = lambda *_: None,
    max_failures: int | None = None,
    shutdown_seconds: float = SHUTDOWN_SECONDS,
) -> dict[str, Outcome]:
    """Carry tasks out, whose journal `writer` began; each ends done, undone or pending.

    A rollback is no other thing: its tasks are the inverse. max_failures: after so many failures
    what has not been begun is skipped. A KeyboardInterrupt is not raised again: what had been
    begun is settled, the rest skipped with the id "interrupted"; a second one is, and leaves what
    is not settled by then to recover(). A listener that cannot write (OSError) is not listened to.
    shutdown_seconds: how long a guest with the step Stop may take; then it is left running, undone.

    Returns the outcome for each UUID. Raises JournalError if the journal cannot be written: then
    nothing more is done, and recover() settles it.
    """
    executor = _Executor(connection, writer, listener, max_failures, shutdown_seconds)
    outcomes = executor.outcomes
    for batch in _batches(tasks):
        if executor.interrupted or executor.too_many:
            why = "interrupted" if executor.interrupted else "max-failures"
            executor.end({task.uuid: Outcome("skipped", why, "not begun") for task in batch})
            continue
        executor.run(batch)
    for task in tasks:
        if task.uuid in executor.asked:
            # what is left of it is for recover
            with contextlib.suppress(libvirt.libvirtError, KeyboardInterrupt):
                executor.start_late(task)
    return outcomes


def start_late(
    connection: Any,
    journal: Journal,
    uuids: Iterable[str],
    *,
    listener: Listener = lambda *_: None,
) -> dict[str, Outcome]:
    """Start guests that have shut down after a transition had given up waiting for them.

    uuids: of those in `journal.asked` that are to be looked at. Each is started once; one that
    runs, or that was not shut down from within (why_off), is left alone. Returns the outcome for
    each that was off: "undone" if it runs again, or if nobody knows why it is off ("why-off": it is
    only told, and not written down), else "pending". Raises JournalError, and LibvirtError if
    libvirt does not answer.
    """
    found = {}
    for task in journal.asked:
        why = _may_be_late(connection, task) if task.uuid in uuids else ""
        rebooted = why == "lost" or has_rebooted(journal.started)
        if why and (why != "shutdown" or rebooted):
            # it may have been switched off on purpose, or run elsewhere
            message = (
                f"it is off, and {_REBOOTED if rebooted else _NOT_KNOWN}: if it is not to be off, "
                f"and does not run on another host, virsh start {task.plan.name}"
            )
            found[task.uuid] = Outcome("undone", "why-off", message)
        elif why:
            # there is nothing to be written about those that are left alone
            writer = Writer(journal.path, new=False)
            try:
                executor = _Executor(connection, writer, listener)
                executor.begun[task.uuid] = set(journal.begun[task.uuid])
                executor.start_late(task)
                found.update(executor.outcomes)
            except libvirt.libvirtError as error:
                raise LibvirtError(f"{task.plan.name}: {said(error)}") from None
            finally:
                writer.close()
    return found


def recover(
    connection: Any, journal: Journal, *, listener: Listener = lambda *_: None
) -> dict[str, Outcome]:
    """Bring what a journal left pending to an end: done or undone.

    Returns the outcome for each UUID that was pending. Raises JournalError.
    """
    writer = Writer(journal.path, new=False)
    executor = _Executor(connection, writer, listener)
    try:
        try:
            for task in journal.pending:
                executor.learn(task, journal)
                executor.settled[task.uuid] = executor.settle(task)
        finally:
            executor.flush()
        return executor.outcomes
    finally:
        writer.close()


def position(connection: Any, plan: Plan) -> Position:
    """Where a domain's persistent XML has the planned disks.

    "before": as the plan found them; "after": as it leaves them; "elsewhere": somebody has changed
    them, and nothing of the domain is where the plan leads; "mixed": some of it is; "gone": there
    is no such persistent domain.
    """
    domain = _lookup(connection, plan.uuid)
    if domain is None:
        return "gone"
    addresses = [(disk.target, disk.address) for disk in read_domain(_document(domain)).disks]
    disks = dict(addresses)
    nowhere = Address("")
    changing = [each for each in plan.transitions if each.changes]
    if all(disks.get(each.target, nowhere).same(each.after) for each in changing):
        return "after"
    if all(disks.get(each.target, nowhere).same(each.before) for each in changing):
        return "before"
    # by whatever address: a name that the domain has is not taken away
    new = {each.after.path for each in changing} | {each.after[2:] for each in changing}
    used = any({each.path, each[2:]} & (new - {None, (None, None)}) for _, each in addresses)
    return "mixed" if used else "elsewhere"


def _batches(tasks: Iterable[Task]) -> Iterator[list[Task]]:
    together: list[Task] = []
    alone: list[Task] = []
    for task in tasks:
        goes_alone = any(isinstance(step, Copy | Stop) for step in task.steps)
        (alone if goes_alone else together).append(task)
    if together:
        yield together
    for task in alone:
        yield [task]


class _Executor:
    def __init__(
        self,
        connection: Any,
        writer: Writer,
        listener: Listener,
        max_failures: int | None = None,
        shutdown_seconds: float = SHUTDOWN_SECONDS,
    ) -> None:
        self.connection = connection
        self.writer = writer
        self.listener = listener
        self.outcomes: dict[str, Outcome] = {}
        self.settled: dict[str, Outcome] = {}  # outcomes that are not written down yet
        self.stale: set[str] = set()  # pools whose list has names that are gone
        self.begun: dict[str, set[int]] = {}
        self.asked: set[str] = set()  # guests that ran on, and may still shut down for us
        self.stopped: set[str] = set()  # guests that have shut down for us
        self.started: set[str] = set()  # those that run again: what they do then is their own
        self.copied: dict[str, images.Identity] = {}  # originals and copies, as they were then
        self.interrupted = False
        self.max_failures = max_failures
        self.shutdown_seconds = shutdown_seconds
        self.rebooted = False  # the machine has gone down since the journal was begun
        self.local = is_local(connection.getURI())

    @property
    def too_many(self) -> bool:
        """Whether so many have failed that no more is to be changed."""
        ended = (self.outcomes | self.settled).values()
        failures = sum(outcome.state != "done" for outcome in ended)
        return self.max_failures is not None and failures >= self.max_failures

    def tell(self, *what: Any) -> None:
        with contextlib.suppress(OSError):
            self.listener(*what)

    def end(self, ends: dict[str, Outcome]) -> None:
        self.writer.end(*ends.items())
        self.outcomes.update(ends)

    def learn(self, task: Task, journal: Journal) -> None:
        """What a journal says of a task that another process began."""
        self.rebooted = self.local and has_rebooted(journal.started)
        self.begun[task.uuid] = set(journal.begun.get(task.uuid, ()))
        for facts in journal.facts.get(task.uuid, ()):
            self.copied.update((path, images.Identity(*at)) for path, at in facts.items())
        for number in journal.done.get(task.uuid, ()):
            if isinstance(task.steps[number], Stop):
                self.stopped.add(task.uuid)
            elif isinstance(task.steps[number], Start):
                self.started.add(task.uuid)

    def flush(self) -> None:
        """Refresh the pools that lost a name, once each, and write down what was settled."""
        for pool in sorted(self.stale):
            with contextlib.suppress(_Failure):
                # nothing depends on it: the list is only out of date
                self._refresh_pool(pool)
        self.stale.clear()
        self.end(self.settled)
        self.settled.clear()

    # Forward.

    def run(self, batch: list[Task]) -> None:
        """Take all steps of these tasks, kind by kind; what fails is settled at once."""
        live = {task.uuid: task for task in batch}
        with contextlib.ExitStack() as locks:
            try:
                self._stop_all(live)
                self._images(live, locks)
                self._refresh(live, before_definition=True)
                self._each(live, Redefine)
                self._each(live, Define)
                locks.close()
                self._each(live, Start)
                _make_durable(*live.values())
                self._each(live, Unlink)
                self._refresh(live, before_definition=False)
                self.settled.update(dict.fromkeys(live, Outcome("done")))
                self.flush()
            except KeyboardInterrupt:
                self.interrupted = True
                locks.close()
                for task in batch:
                    # also one that was interrupted while it was settled
                    if task.uuid not in self.outcomes | self.settled:
                        self._fail(live, task, "interrupted", "interrupted")
                self.flush()
            except JournalError:
                locks.close()
                for task in batch:
                    # nothing else is done, but at every instant what is defined boots
                    with contextlib.suppress(_Failure, libvirt.libvirtError):
                        self._create(task)
                raise

    def _stop_all(self, live: dict[str, Task]) -> None:
        for task in list(live.values()):
            if _of(task, Stop):
                with self._failures(live, task):
                    domain = self._domain(task)
                    # one that somebody has shut off since stays off
                    if domain.isActive():
                        # before it is begun: from then on it may have been asked
                        self._check_stops(task, domain)
                        self._each(live, Stop)

    def _images(self, live: dict[str, Task], locks: contextlib.ExitStack) -> None:
        for task in list(live.values()):
            for step in task.steps:
                if isinstance(step, Copy):
                    with self._failures(live, task):
                        locks.enter_context(images.locked(step.source, write=True))
        self._each(live, Link, Copy)

    def _each(self, live: dict[str, Task], *kinds: type[Step]) -> None:
        todo = [
            (task, number, step)
            for task in live.values()
            for number, step in enumerate(task.steps)
            if isinstance(step, kinds)
        ]
        for start in range(0, len(todo), CHUNK):
            chunk = [each for each in todo[start : start + CHUNK] if each[0].uuid in live]
            self._begin(chunk)
            done = []
            try:
                for task, number, step in chunk:
                    if task.uuid not in live:
                        continue
                    if self.too_many and not isinstance(step, Start | Unlink):
                        self._fail(live, task, "max-failures", "others had failed")
                        continue
                    with self._failures(live, task):
                        self.tell("begin", task.uuid, step)
                        self.begun.setdefault(task.uuid, set()).add(number)
                        self._take(task, step)
                        done.append((task.uuid, number))
                        self.tell("done", task.uuid, step)
            finally:
                if done:
                    self.writer.done(*done)

    def _refresh(self, live: dict[str, Task], *, before_definition: bool) -> None:
        """Each pool once, for all the domains that need it."""
        waiting: dict[Refresh, list[tuple[Task, int, Step]]] = {}
        for task in live.values():
            for number, step in _refreshes(task, before_definition=before_definition):
                waiting.setdefault(step, []).append((task, number, step))
        for step, those in waiting.items():
            self._begin(those)
            for task, number, _ in those:
                self.tell("begin", task.uuid, step)
                self.begun.setdefault(task.uuid, set()).add(number)
            try:
                self._refresh_pool(step.pool)
            except _Failure as failure:
                # after the definition nothing depends on it: the list is only out of date
                if before_definition:
                    for task, _, _ in those:
                        if task.uuid in live:
                            self._fail(live, task, failure.id, str(failure))
                continue
            for task, _, _ in those:
                self.tell("done", task.uuid, step)
            self.writer.done(*((task.uuid, number) for task, number, _ in those))

    def _begin(self, steps: Iterable[tuple[Task, int, Step]]) -> None:
        self.writer.begin(*((task.uuid, number) for task, number, _ in steps))

    @contextlib.contextmanager
    def _failures(self, live: dict[str, Task], task: Task) -> Iterator[None]:
        try:
            yield
        except JournalError:
            raise
        except _TROUBLE as error:
            failure = _failure_of(error)
            self._fail(live, task, failure.id, str(failure))

    def _fail(self, live: dict[str, Task], task: Task, id: str, message: str) -> None:
        live.pop(task.uuid, None)
        outcome = self.settle(task)
        if outcome.state != "done":
            if message in outcome.message:
                message = outcome.message
            elif outcome.message:
                message = f"{message}; {outcome.message}"
            outcome = Outcome(outcome.state, id, message)
        self.settled[task.uuid] = outcome

    # The steps.

    def _take(self, task: Task, step: Step) -> None:
        match step:
            case Stop():
                self._stop(task)
            case Start():
                self._create(task)
            case Link(source, target):
                images.link(source, target)
                disk_info.add(source, target)
            case Copy():
                self._copy(task, step)
            case Redefine(_, kind, name):
                metadata.redefine(self._domain(task), kind, name, task.plan)
            case Define():
                self._define(task, task.plan)
            case Unlink(path, kept):
                self._unlink(task, path, kept)

    def _copy(self, task: Task, step: Copy) -> None:
        original = images.identity(step.source)

        def remember(made: images.Identity) -> None:
            # before it has its name: what is there without that is not ours
            facts = {step.source: original, step.target: made}
            self.writer.remember(task.uuid, facts)
            self.copied.update(facts)

        try:
            images.copy(
                step.source,
                step.target,
                expected=original,
                progress=lambda done, whole: self.tell("copied", task.uuid, step, done, whole),
                ready=remember,
            )
        except ImageError:
            self.copied.pop(step.target, None)
            raise
        disk_info.add(step.source, step.target)

    def _check_stops(self, task: Task, domain: Any) -> None:
        transform(_document(domain), task.plan)  # or it would be down for nothing
        state = domain.state()[0]
        if state not in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED):
            raise _Failure("running", "only a guest that runs, and is not paused, can be restarted")

    def _stop(self, task: Task) -> None:
        """Ask the guest to shut down, until it has or the time is over."""
        domain = self._domain(task)
        deadline = time.monotonic() + self.shutdown_seconds
        ask_at = time.monotonic()
        refused = ""
        while domain.isActive():
            if time.monotonic() >= ask_at:
                ask_at = time.monotonic() + ASK_SECONDS
                try:
                    domain.shutdown()
                except libvirt.libvirtError as error:
                    # off by now, or its agent does not answer yet
                    if not self.connection.isAlive():
                        raise
                    refused = f" ({said(error)})"
            if time.monotonic() > deadline:
                seconds = f"{self.shutdown_seconds:g} s"
                raise _Failure("not-stopped", f"it did not shut down within {seconds}{refused}")
            time.sleep(0.1)
        if why_off(domain) == "migrated":
            raise _Failure("migrated-away", "it has migrated to another host since")
        self.stopped.add(task.uuid)

    def _create(self, task: Task) -> None:
        """Start a guest that ran before, if it is off because of us."""
        domain = _lookup(self.connection, task.uuid)
        if domain is None or not self._is_down(task, domain):
            return
        if not domain.isActive():
            try:
                domain.create()
            except libvirt.libvirtError as error:
                if not self.connection.isAlive():
                    raise
                if not domain.isActive():  # somebody may have been faster
                    raise _NotStarted("not-started", f"it does not start: {said(error)}") from None
        self.started.add(task.uuid)

    def _is_down(self, task: Task, domain: Any) -> bool:
        """Whether a guest was shut down for us, and has not been started again by us."""
        if not self._is_restarting(task):
            return False
        if domain.isActive():
            return task.uuid in self.stopped
        why = why_off(domain)
        if why == "migrated":
            # it would run on both
            return False
        rebooted = self.rebooted or why == "lost"
        if rebooted or (why == "unknown" and task.uuid not in self.stopped):
            raise _Failure(
                "why-off",
                f"it is off, and {_REBOOTED if rebooted else _NOT_KNOWN}: look whether it runs on "
                f"another host; if it does, undefine it here (virsh undefine {domain.name()}), "
                "else virsh start it",
            )
        return True

    def _is_restarting(self, task: Task) -> bool:
        """Whether a guest was asked to shut down, and has not been started again by us."""
        begun = self.begun.get(task.uuid, ())
        asked = any(isinstance(task.steps[number], Stop) for number in begun)
        return asked and task.uuid not in self.started

    def _define(self, task: Task, plan: Plan) -> None:
        domain = self._domain(task)
        if domain.isActive():
            raise _Failure("running", "somebody has started it since")
        saves = (step for step in _of(task, Redefine) if step.kind == "managed-save")
        if metadata.is_saved(domain) and not any(saves):
            raise _Failure("managed-save", "somebody has saved it since, with its old addresses")
        document = _document(domain)
        made = transform(document, plan)
        self._check_resolves(plan)
        if made is document:
            return
        self.connection.defineXML(made.text)
        dropped = lost(made, _document(domain))
        # libvirt has started it meanwhile by what was defined then, or will by what is now
        started = domain.isActive() and _uses(domain, plan)
        if dropped or started:
            self.connection.defineXML(document.text)
        if started:
            raise _Failure("running", "somebody has started it since")
        if dropped:
            where = ", ".join(difference.where for difference in dropped[:3])
            raise _Failure("not-kept", f"libvirt did not keep what it was given: {where}")

    def _check_resolves(self, plan: Plan) -> None:
        """Each new address leads to an image, as libvirt will look for it at the next start."""
        for each in plan.transitions:
            if not each.changes:
                continue
            path = each.after.path
            if each.after.type == "volume":
                path = self._path_of(str(each.after.pool), str(each.after.volume))
                if each.after.path is not None and path != each.after.path:
                    raise _Failure(
                        "no-volume",
                        f"{each.after} is {path} to libvirt, and not {each.after.path}",
                    )
            if not self.local and each.action == "adopt":
                continue
            there = _exists if each.action == "adopt" else images.is_image
            if path is None or not there(path):
                raise _Failure("no-image", f"disk {each.target}: there is no image at {path}")

    def _path_of(self, pool: str, volume: str) -> str:
        try:
            found = self.connection.storagePoolLookupByName(pool).storageVolLookupByName(volume)
            return str(found.path())
        except libvirt.libvirtError as error:
            id = {
                libvirt.VIR_ERR_NO_STORAGE_POOL: "no-volume",
                libvirt.VIR_ERR_NO_STORAGE_VOL: "no-volume",
                libvirt.VIR_ERR_OPERATION_INVALID: "pool-inactive",
            }.get(error.get_error_code())
            if id is None:
                raise
            raise _Failure(id, f"pool {pool}: {said(error)}") from None

    def _unlink(self, task: Task, path: str, kept: str) -> None:
        if position(self.connection, task.plan) != "after":
            raise _Failure("disk-changed", "somebody has changed its disks since")
        self._check_resolves(task.plan)
        domain = self._domain(task)
        if domain.isActive() and _uses(domain, task.plan):
            raise _Failure("running", f"it was started from {path}, which stays until it is off")
        if any(copy.source == path for copy in _of(task, Copy)):
            known = self.copied.get(path)
            if known is None and images.is_image(path):
                # xmlkit ended before it could say which state it had copied
                raise _Failure("image-changed", f"{path} may be newer than {kept}: compare them")
            if known is not None and images.is_image(path) and images.identity(path) != known:
                raise _Failure(
                    "image-changed",
                    f"{path} was changed since it was copied to {kept}, which the domain has now: "
                    "look at both, and remove the one that is not needed",
                )
            images.unlink(path, expected=known or images.Identity(0, 0, 0), other=None)
        else:
            images.unlink(path, expected=None, other=kept)
        disk_info.remove(path, beside=None)
        disk_info.remove(path, beside=kept)

    def _drop_copy(self, step: Copy) -> None:
        """Remove a copy that no domain names; never what somebody else has put there."""
        try:
            images.discard(step.target)
        except ImageError as error:
            if error.id in _NOTHING_MADE:
                return
            raise
        known = self.copied.get(step.target)
        if known is None or not images.is_image(step.target):
            return
        found = images.identity(step.target)
        if found.inode == known.inode and found != known:
            raise _Failure(
                "image-changed",
                f"{step.target} was changed since it was copied from {step.source}, which the "
                "domain has: look at both, and remove the one that is not needed",
            )
        if found == known:
            images.unlink(step.target, expected=known, other=None)

    def _refresh_pool(self, name: str) -> None:
        try:
            leisure.refresh(self.connection.storagePoolLookupByName(name))
        except libvirt.libvirtError as error:
            raise _Failure("pool-refresh", f"pool {name}: {said(error)}") from None

    def _domain(self, task: Task) -> Any:
        domain = _lookup(self.connection, task.uuid)
        if domain is None:
            raise _Failure("no-domain", "somebody has undefined it since")
        return domain

    # To an end.

    def settle(self, task: Task) -> Outcome:
        """Finish a domain that has the new addresses, take back one that has the old ones."""
        try:
            where = position(self.connection, task.plan)
            if where == "after":
                if self._is_restarting(task):
                    with contextlib.suppress(_Failure):
                        self._resolve(task)
                    try:
                        self._start(task)
                    except _NotStarted as not_started:
                        return self._start_back(task, not_started)
                return self._finish(task)
            if where == "mixed":
                self._start(task)
                return Outcome(
                    "pending",
                    "disk-changed",
                    "its disks are partly where they were to be and partly elsewhere, and both "
                    "names of each image stay: bring all to their old or to their new addresses "
                    "(virsh edit), then xmlkit recover",
                )
            if where != "before" and (user := self._user_of_new(task)):
                self._start(task)
                return Outcome(
                    "pending",
                    "disk-changed",
                    f"{user} since: both names stay until it does not (after a snapshot: virsh "
                    "blockcommit)",
                )
            try:
                outcome = self._take_back(task, defined=where != "gone")
            finally:
                self._start(task)
            return self._still_asked(task) or outcome
        except JournalError:
            raise
        except _TROUBLE as error:
            failure = _failure_of(error)
        starts = ", which starts the guest if it is off" if self._is_restarting(task) else ""
        if failure.id == "why-off":
            starts = ""
        return Outcome("pending", failure.id, f"{failure}; then run xmlkit recover{starts}")

    def _user_of_new(self, task: Task) -> str:
        """Who uses or stands on a new name, by whatever domain's XML or image's header; else ""."""
        made = [step.target for step in task.steps if isinstance(step, Link | Copy)]
        if not any(map(images.is_image, made)):
            return ""
        surveyed = survey(self.connection, (task.uuid,))
        for path in map(sanitized, made):
            for use in surveyed.uses.get(path, ()):
                return f"domain {use.name} uses {path}"
            for overlay in sorted(surveyed.overlays.get(path, ())):
                return f"{overlay} is backed by {path}"
        return ""

    def _start(self, task: Task) -> None:
        """Start the guest again if it has to be, and say so in the journal."""
        domain = _lookup(self.connection, task.uuid)
        if domain is None or not self._is_down(task, domain):
            return
        (step,) = _of(task, Start)
        self.tell("begin", task.uuid, step)
        self._create(task)
        self.writer.done((task.uuid, _number_of(task, Start)))
        self.tell("done", task.uuid, step)

    def _start_back(self, task: Task, failure: _NotStarted) -> Outcome:
        """The old addresses again, from which the guest ran before, where the new ones fail it."""
        for copy in _of(task, Copy):
            known = self.copied.get(copy.target)
            if images.is_image(copy.target) and images.identity(copy.target) != known:
                raise _Failure(
                    "image-changed",
                    f"{failure}; and {copy.target} was changed since it was copied, so the guest "
                    f"does not go back to {copy.source} by itself",
                )
        try:
            self._define(task, task.plan.inverse())
            try:
                self._take_back(task, defined=True)
            finally:
                self._start(task)
        except JournalError:
            raise
        except _TROUBLE as error:
            message = f"{failure}; from its old address: {_failure_of(error)}"
            raise _NotStarted(failure.id, message) from None
        return Outcome("undone", failure.id, f"{failure}; it runs from its old address")

    def _still_asked(self, task: Task) -> Outcome | None:
        """How it ended for a guest that was asked to shut down and has not done so."""
        if not self._is_restarting(task) or task.uuid in self.stopped:
            return None
        domain = _lookup(self.connection, task.uuid)
        if domain is not None and not domain.isActive() and why_off(domain) == "migrated":
            return Outcome("undone", "migrated-away", "it has migrated to another host since")
        self.asked.add(task.uuid)
        message = (
            "it runs on, but was asked to shut down and may still do so: then xmlkit recover "
            f"starts it, for a day (or virsh start {task.plan.name})"
        )
        return Outcome("undone", "not-stopped", message)

    def start_late(self, task: Task) -> None:
        """Start a guest again that has shut down though it was given up, and say so."""
        if _why_late(_lookup(self.connection, task.uuid)) != "shutdown":
            return
        message = "it shut down after xmlkit had given up waiting for it, and was started again"
        outcome = Outcome("undone", "not-stopped", message)
        try:
            self._start(task)
        except _NotStarted as failure:
            message = f"it shut down late; {failure}; then run xmlkit recover, which starts it"
            outcome = Outcome("pending", failure.id, message)
        self.end({task.uuid: outcome})

    def _finish(self, task: Task) -> Outcome:
        self._resolve(task)
        for redefine in _of(task, Redefine):
            metadata.redefine(self._domain(task), redefine.kind, redefine.name, task.plan)
        _make_durable(task)
        for unlink in _of(task, Unlink):
            self.tell("begin", task.uuid, unlink)
            self._unlink(task, unlink.path, unlink.kept)
            self.tell("done", task.uuid, unlink)
        self.stale.update(step.pool for _, step in _refreshes(task, before_definition=False))
        return Outcome("done")

    def _resolve(self, task: Task) -> None:
        """libvirt knows where the new addresses lead to."""
        try:
            self._check_resolves(task.plan)
        except _Failure:
            # the refresh was not taken, or forgotten by a libvirtd that was restarted since
            for _, step in _refreshes(task, before_definition=True):
                self._refresh_pool(step.pool)

    def _take_back(self, task: Task, *, defined: bool) -> Outcome:
        begun = self.begun.get(task.uuid, set())
        taken = [step for number, step in enumerate(task.steps) if number in begun]
        inverse = task.plan.inverse()
        if any(isinstance(step, Define) for step in taken):
            _make_durable(task)
        for step in taken:
            if isinstance(step, Redefine) and defined:
                metadata.redefine(self._domain(task), step.kind, step.name, inverse)
        for step in taken:
            if isinstance(step, Link):
                if images.is_linked(step.source, step.target):
                    images.unlink(step.target, expected=None, other=step.source)
                elif images.is_image(step.target) and not images.is_image(step.source):
                    raise _Failure(
                        "no-image",
                        f"{step.source} is gone, and {step.target} may be the only name that the "
                        "image has: look at it, give it the old name again (ln -T)",
                    )
                _forget(step)
            elif isinstance(step, Copy):
                self._drop_copy(step)
                _forget(step)
        self.stale.update(step.pool for step in taken if isinstance(step, Refresh))
        return Outcome("undone")


def has_rebooted(since: str) -> bool:
    """Whether this machine was started after a time (ISO 8601), by its clocks.

    A clock that was set meanwhile may say so wrongly; what is not known is no.
    """
    try:
        begun = datetime.fromisoformat(since).timestamp()
    except (TypeError, ValueError):
        return False
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) > begun


def _of(task: Task, kind: type[_S]) -> list[_S]:
    return [step for step in task.steps if isinstance(step, kind)]


def _forget(step: Link | Copy) -> None:
    """Take the new path out of Nova's disk.info, if it could be put in."""
    try:
        disk_info.remove(step.target, beside=step.source)
    except ImageError as error:
        if error.id not in _NOTHING_MADE:
            raise


def _make_durable(*tasks: Task) -> None:
    """What libvirt has written is on its disk, before a name goes that the XML had until now.

    libvirt (virFileRewrite, seen in 9.0) syncs the file of a definition and not the directory that
    it is renamed in: after a power cut the old XML would be back, and its image gone. Only
    libvirtd knows where it keeps its files, so it is all file systems that are synced.
    """
    if any(isinstance(step, Unlink) for task in tasks for step in task.steps):
        os.sync()


def _number_of(task: Task, kind: type[Step]) -> int:
    return next(number for number, step in enumerate(task.steps) if isinstance(step, kind))


def _refreshes(task: Task, *, before_definition: bool) -> list[tuple[int, Refresh]]:
    """With their numbers: of the pools that images come into, or of those that they have left."""
    defined = _number_of(task, Define)
    return [
        (number, step)
        for number, step in enumerate(task.steps)
        if isinstance(step, Refresh) and (number < defined) == before_definition
    ]


def _lookup(connection: Any, uuid: str) -> Any:
    """The persistent domain of this UUID; None if there is none."""
    try:
        domain = connection.lookupByUUIDString(uuid)
        return domain if domain.isPersistent() else None
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _why_late(domain: Any) -> str:
    """Why a domain is off, if it is: by its own doing ("shutdown") or nobody knows; else ""."""
    if domain is None or domain.isActive():
        return ""
    why = why_off(domain)
    # a libvirtd that was restarted knows of the save, and not that it is why
    if why not in ("shutdown", "lost", "unknown") or metadata.is_saved(domain):
        return ""
    return why


def _may_be_late(connection: Any, task: Task) -> str:
    try:
        return _why_late(_lookup(connection, task.uuid))
    except libvirt.libvirtError as error:
        raise LibvirtError(f"{task.plan.name}: {said(error)}") from None


def _document(domain: Any) -> Document:
    return Document.parse(domain.XMLDesc(SECURE))


def _exists(path: str) -> bool:
    """Whether an image that stays where it is is there; a logical volume's path is a link."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def _failure_of(error: Exception) -> _Failure:
    """What went wrong in a step, with its id."""
    match error:
        case _Failure():
            return error
        case ImageError():
            return _Failure(error.id, str(error))
        case PlanError():
            return _Failure("disk-changed", str(error))
        case libvirt.libvirtError():
            return _Failure("libvirt", said(error))
    return _Failure("failed", str(error))


def _uses(domain: Any, plan: Plan) -> bool:
    """Whether a running domain has a planned disk open by its old address."""
    live = read_domain(Document.parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)))
    old = {each.target: each.before for each in plan.transitions if each.changes}
    return any(disk.target in old and disk.address.same(old[disk.target]) for disk in live.disks)
