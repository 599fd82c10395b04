"""The journal: what was meant and what was done, durable before and after each step.

Laws
- One file a transition, JSON lines, only ever appended to; read with `less` when all else is
  broken. A torn last line is no line.
- Intent is on the disk before a step is taken, and that it was taken before the next one is.
- It keeps addresses and the disks' own XML, never a whole document, never a secret.
- What a newer xmlkit wrote is not guessed at, nor what is damaged.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from xmlkit import state, steps
from xmlkit.errors import XmlkitError
from xmlkit.plan import Plan
from xmlkit.steps import Start, Step, Stop

__all__ = [
    "SCHEMA",
    "Journal",
    "JournalError",
    "Outcome",
    "Task",
    "Writer",
    "as_data",
    "find",
    "ids",
    "read",
    "read_all",
]

SCHEMA = "xmlkit.journal/1"
STATES = ("done", "undone", "pending", "skipped")
ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")


class JournalError(XmlkitError):
    """A journal cannot be read or written; the message names it and says what to do."""


class _NothingSaidError(JournalError):
    """A journal was not even begun, so nothing else was."""


class Task(NamedTuple):
    """What is to be done to one domain: its plan and the steps that carry it out."""

    plan: Plan
    steps: tuple[Step, ...]

    @property
    def uuid(self) -> str:
        return self.plan.uuid

    def as_data(self) -> dict[str, Any]:
        return {"plan": self.plan.as_data(), "steps": [steps.as_data(each) for each in self.steps]}


class Outcome(NamedTuple):
    """How it ended for one domain.

    state: "done"; "undone" (it failed and all is as it was); "pending" (recover has to look at it
    again); "skipped" (never begun). id, message: why, where it is not done.
    """

    state: str
    id: str = ""
    message: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.id}: {self.message}" if self.id else self.state


@dataclass(frozen=True)
class Journal:
    """A journal that was read.

    kind: "apply", "rollback", "migrate" or "snapshot"; of: the transition that a rollback takes
    back; to: the URI that a migration goes to. tasks by the domain's UUID. begun, done: numbers of
    steps, by UUID. facts: what is to be remembered, by UUID: inode, size and time of an image, by
    its path. outcomes by UUID; a domain without one is pending.
    """

    id: str
    path: str
    kind: str
    of: str | None
    uri: str
    started: str
    tasks: dict[str, Task]
    begun: dict[str, set[int]] = field(default_factory=dict)
    done: dict[str, set[int]] = field(default_factory=dict)
    facts: dict[str, list[dict[str, list[int]]]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    to: str | None = None

    @property
    def pending(self) -> tuple[Task, ...]:
        """What has been begun and has not ended."""
        ended = {uuid for uuid, outcome in self.outcomes.items() if outcome.state != "pending"}
        return tuple(task for uuid, task in self.tasks.items() if uuid not in ended)

    @property
    def stopping(self) -> frozenset[str]:
        """The UUIDs of the guests that were asked to shut down."""
        return frozenset(task.uuid for task in self.tasks.values() if _has(self.begun, task, Stop))

    @property
    def asked(self) -> tuple[Task, ...]:
        """Those that were asked to shut down, and ran on when the transition was given up.

        Each may still shut down; one that was started again since then is none of them.
        """
        return tuple(
            task
            for uuid, task in self.tasks.items()
            if uuid in self.stopping
            and self.outcomes.get(uuid, Outcome("pending")).state == "undone"
            and not _has(self.done, task, Stop)
            and not _has(self.done, task, Start)
        )

    @property
    def state(self) -> str:
        """Of the whole: pending, done, undone, skipped, or partly (some done, others not)."""
        states = {outcome.state for outcome in self.outcomes.values()}
        if self.pending:
            return "pending"
        return states.pop() if len(states) == 1 else "partly"


def _has(numbers: Mapping[str, set[int]], task: Task, kind: type[Step]) -> bool:
    """Whether a step of a kind is among those with these numbers."""
    return any(isinstance(task.steps[number], kind) for number in numbers.get(task.uuid, ()))


class Writer:
    """Appends to one journal; each call returns when its lines are on the disk."""

    def __init__(self, path: str, *, new: bool) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._file = os.open(path, flags | (os.O_CREAT | os.O_EXCL if new else 0), 0o600)
        except OSError as error:
            raise _unwritten(path, error, state.remedy(error)) from None
        try:
            if not new:
                # a torn line stays none, though all of it but its end may be there
                size = os.fstat(self._file).st_size
                whole = not size or os.pread(self._file, 1, size - 1) == b"\n"
                self._append(("" if whole else " (torn)\n") + _line({"resume": now()}))
        except OSError as error:
            self.close()
            raise _unwritten(path, error, state.remedy(error)) from None

    @classmethod
    def create(
        cls,
        directory: str,
        id: str,
        tasks: Iterable[Task],
        *,
        uri: str,
        kind: str = "apply",
        of: str | None = None,
        to: str | None = None,
    ) -> Writer:
        """A new journal that says what is meant. Raises JournalError, and then there is none."""
        writer = cls(os.path.join(directory, f"{id}.jsonl"), new=True)
        head = {"schema": SCHEMA, "id": id, "kind": kind, "of": of, "uri": uri, "at": now()}
        goal = {} if to is None else {"to": to}
        records: list[dict[str, Any]] = [head | goal]
        records += ({"task": task.as_data()} for task in tasks)
        try:
            writer._append("".join(map(_line, records)))
            state.fsync_directory(directory)
        except BaseException as error:
            writer.close()
            # on a file system that is read-only by now it stays, and recover finds nothing begun
            with contextlib.suppress(OSError):
                os.unlink(writer.path)
            if isinstance(error, OSError):
                raise _unwritten(writer.path, error, state.remedy(error)) from None
            raise
        return writer

    def write(self, *records: dict[str, Any]) -> None:
        """Append records; one sync for all of them. Raises JournalError."""
        if not records:
            return
        try:
            self._append("".join(map(_line, records)))
        except OSError as error:
            then = "nothing more was done: when it can be written again, xmlkit recover"
            raise _unwritten(self.path, error, then) from None

    def _append(self, lines: str) -> None:
        data = lines.encode()
        while data:
            data = data[os.write(self._file, data) :]
        os.fdatasync(self._file)

    def begin(self, *at: tuple[str, int]) -> None:
        """These steps are about to be taken: (UUID, number of the step)."""
        self.write(*({"begin": number, "domain": uuid, "at": now()} for uuid, number in at))

    def remember(self, uuid: str, facts: Mapping[str, Sequence[int]]) -> None:
        """What is to be known of images after a crash: inode, size and time, by path."""
        self.write({"facts": facts, "domain": uuid, "at": now()})

    def done(self, *at: tuple[str, int]) -> None:
        """These steps were taken: (UUID, number of the step)."""
        self.write(*({"done": number, "domain": uuid, "at": now()} for uuid, number in at))

    def end(self, *ends: tuple[str, Outcome]) -> None:
        """This is how it ended for these domains."""
        self.write(*({"end": uuid, "at": now(), **each._asdict()} for uuid, each in ends))

    def close(self) -> None:
        os.close(self._file)


def read(path: str) -> Journal:
    """The journal in a file.

    Raises JournalError: not a journal, or one that a newer xmlkit wrote.
    """
    try:
        with open(path, "rb", opener=_opener) as file:
            lines = file.read().split(b"\n")
    except OSError as error:
        raise JournalError(f"cannot read {path}: {_why(error)}") from None
    # without its newline a last line is torn, and was never acted upon
    records = list(_records(path, lines[:-1]))
    if not records:
        raise _NothingSaidError(f"{path} says nothing: xmlkit ended before it did anything")
    head = records[0]
    if head.get("schema") != SCHEMA:
        raise JournalError(
            f"{path} is of schema {head.get('schema')!r}, this xmlkit reads {SCHEMA}: use the "
            "xmlkit that wrote it"
        )
    try:
        return _journal(path, head, records[1:])
    except (KeyError, TypeError, ValueError, AttributeError, XmlkitError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise JournalError(f"{path} is damaged ({what}): look at it with less") from None


def read_all(directory: str) -> tuple[tuple[Journal, ...], tuple[JournalError, ...]]:
    """All journals of a state directory, oldest first, and what kept others from being read.

    One that says nothing is passed over: the power failed when it was made. Where there is no
    directory nothing was ever done. Raises JournalError for a directory that cannot be read.
    """
    journals, errors = [], []
    for id in ids(directory):
        try:
            journals.append(read(os.path.join(directory, f"{id}.jsonl")))
        except _NothingSaidError:
            continue
        except JournalError as error:
            errors.append(error)
    # of two that were begun within a second the id does not tell
    journals.sort(key=lambda each: (each.started, each.id))
    return tuple(journals), tuple(errors)


def find(directory: str, id: str) -> Journal:
    """The journal of this id, or of the only one that begins with it. Raises JournalError."""
    # an id is as long as any other, so a whole one begins no other
    found = [each for each in ids(directory) if id and each.startswith(id)]
    if len(found) != 1:
        what = "no transition" if not found else f"{len(found)} transitions begin with"
        raise JournalError(f"{what} {id!r} in {directory}: xmlkit journal lists them")
    return read(os.path.join(directory, f"{found[0]}.jsonl"))


def ids(directory: str) -> list[str]:
    """The ids of the journals in a directory, none if it is not there. Raises JournalError."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalError(
            f"cannot read {directory}: {error.strerror}; run as root, or name another directory "
            "with --state-dir"
        ) from None
    found = (name.removesuffix(".jsonl") for name in names if name.endswith(".jsonl"))
    return [id for id in found if ID.fullmatch(id)]


def as_data(journal: Journal) -> dict[str, Any]:
    """A transition as `xmlkit journal --format json` shows it, of schema xmlkit.journal/1.

    Each step is open, begun or done; all of them are done where the domain is.
    """
    domains = []
    for uuid, task in journal.tasks.items():
        outcome = journal.outcomes.get(uuid, Outcome("pending"))
        begun, done = journal.begun.get(uuid, set()), journal.done.get(uuid, set())
        if outcome.state == "done":
            done = set(range(len(task.steps)))
        domains.append(
            {
                "name": task.plan.name,
                "uuid": uuid,
                "state": outcome.state,
                "id": outcome.id or None,
                "message": outcome.message or None,
                "steps": [
                    steps.as_data(step)
                    | {
                        "command": str(step),
                        "state": "done" if i in done else "begun" if i in begun else "open",
                    }
                    for i, step in enumerate(task.steps)
                ],
            }
        )
    return {
        "id": journal.id,
        "kind": journal.kind,
        "of": journal.of,
        "uri": journal.uri,
        **({} if journal.to is None else {"to": journal.to}),
        "started": journal.started,
        "state": journal.state,
        "domains": domains,
    }


def now() -> str:
    """The time, as it stands in a journal (RFC 3339, UTC)."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=True) + "\n"


def _opener(path: str, flags: int) -> int:
    # not blocking: it may be a pipe
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)


def _unwritten(path: str, error: OSError, then: str) -> JournalError:
    return JournalError(f"cannot write {path}: {_why(error)}; {then}")


def _why(error: OSError) -> str:
    linked = error.errno == errno.ELOOP
    return "it is a symbolic link, which is not followed" if linked else str(error.strerror)


def _records(path: str, lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    torn = 0
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if number == 1:
                raise JournalError(f"{path}: line 1 is no JSON: it is no journal") from None
            torn = torn or number
            continue
        if not isinstance(record, dict):
            raise JournalError(f"{path}: line {number} is no record: it is no journal")
        if torn and "resume" not in record:
            # torn lines are the last ones that a process wrote, and the next one says that it began
            raise JournalError(f"{path} is damaged (line {torn} is no JSON): look at it with less")
        torn = 0
        yield record


def _journal(path: str, head: dict[str, Any], records: list[dict[str, Any]]) -> Journal:
    tasks = {}
    for record in records:
        if "task" in record:
            data = record["task"]
            plan = Plan.from_data(data["plan"])
            tasks[plan.uuid] = Task(plan, tuple(map(steps.from_data, data["steps"])))
    kind, of, uri, started = (head[name] for name in ("kind", "of", "uri", "at"))
    journal = Journal(head["id"], path, kind, of, uri, started, tasks, to=head.get("to"))
    for record in records:
        if "begin" in record:
            _steps_of(record, tasks, journal.begun).add(record["begin"])
            # one that is taken once more is not done any more
            journal.done.get(record["domain"], set()).discard(record["begin"])
        elif "done" in record:
            _steps_of(record, tasks, journal.done).add(record["done"])
        elif "facts" in record:
            facts = {path: _identity(at) for path, at in record["facts"].items()}
            if record["domain"] not in tasks:
                raise ValueError(f"no task is of domain {record['domain']}")
            journal.facts.setdefault(record["domain"], []).append(facts)
        elif "end" in record:
            outcome = Outcome(record["state"], record["id"], record["message"])
            if record["end"] not in tasks or outcome.state not in STATES:
                raise ValueError(f"{record['end']} cannot have ended {outcome.state}")
            journal.outcomes[record["end"]] = outcome
    return journal


def _steps_of(
    record: dict[str, Any], tasks: dict[str, Task], by_uuid: dict[str, set[int]]
) -> set[int]:
    """Where the record's step is noted; ValueError if no task has such a step."""
    uuid, number = record["domain"], record.get("begin", record.get("done"))
    if uuid not in tasks or number not in range(len(tasks[uuid].steps)):
        raise ValueError(f"no task has step {number} of domain {uuid}")
    return by_uuid.setdefault(uuid, set())


def _identity(at: Any) -> list[int]:
    if not isinstance(at, list) or [int] * 3 != [type(each) for each in at]:
        raise ValueError(f"no image is {at!r}")
    return at
