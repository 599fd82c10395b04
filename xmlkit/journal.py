"""The journal: what was meant and what was done, durable before and after each step.

Laws
- One file a transition, JSON lines, only ever appended to; read with `less` when all else is
  broken. A torn last line is no line.
- Intent is on the disk before a step is taken, and that it was taken before the next one is.
- It keeps addresses and the disks' own XML, never a whole document, never a secret.
- What a newer xmlkit wrote is not guessed at.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from xmlkit import steps
from xmlkit.errors import XmlkitError
from xmlkit.plan import Plan, PlanError
from xmlkit.steps import Step

__all__ = ["SCHEMA", "Journal", "JournalError", "Outcome", "Task", "Writer", "read", "read_all"]

SCHEMA = "xmlkit.journal/1"
ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")


class JournalError(XmlkitError):
    """A journal cannot be read or written; the message names it and says what to do."""


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
    again). id, message: why, where it is not done.
    """

    state: str
    id: str = ""
    message: str = ""


@dataclass(frozen=True)
class Journal:
    """A journal that was read.

    kind: "apply", "rollback" or "migrate"; of: the transition that a rollback takes back; to: the
    URI that a migration goes to. tasks by the domain's UUID. begun, done: numbers of steps, by
    UUID. facts: what a step had to remember, by UUID and step. outcomes by UUID; a domain without
    one is pending.
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
    facts: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    to: str | None = None

    @property
    def pending(self) -> tuple[Task, ...]:
        """What has been begun and has not ended."""
        ended = {uuid for uuid, outcome in self.outcomes.items() if outcome.state != "pending"}
        return tuple(task for uuid, task in self.tasks.items() if uuid not in ended)

    @property
    def state(self) -> str:
        """Of the whole: pending, done, undone, or partly done."""
        states = {outcome.state for outcome in self.outcomes.values()}
        if self.pending:
            return "pending"
        return states.pop() if len(states) == 1 else "partly"


class Writer:
    """Appends to one journal; each call returns when its lines are on the disk."""

    def __init__(self, path: str, *, new: bool) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._file = os.open(path, flags | (os.O_CREAT | os.O_EXCL if new else 0), 0o600)
            if not new and not _ends_with_newline(path):
                # what a torn line says is not to run into the next one
                os.write(self._file, b"\n")
        except OSError as error:
            raise JournalError(f"cannot write {path}: {error.strerror}") from None

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
        """A new journal that says what is meant. Raises JournalError."""
        writer = cls(os.path.join(directory, f"{id}.jsonl"), new=True)
        head = {
            "schema": SCHEMA,
            "id": id,
            "kind": kind,
            "of": of,
            "uri": uri,
            "at": now(),
        }
        if to is not None:
            head["to"] = to
        writer.write(head, *({"task": task.as_data()} for task in tasks))
        fsync_directory(directory)
        return writer

    def write(self, *records: dict[str, Any]) -> None:
        """Append records; one sync for all of them. Raises JournalError."""
        lines = "".join(json.dumps(record, ensure_ascii=True) + "\n" for record in records)
        data = lines.encode()
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fdatasync(self._file)
        except OSError as error:
            raise JournalError(f"cannot write {self.path}: {error.strerror}") from None

    def begin(self, *at: tuple[str, int]) -> None:
        """These steps are about to be taken: (UUID, number of the step)."""
        self.write(*({"begin": number, "domain": uuid, "at": now()} for uuid, number in at))

    def done(self, *at: tuple[str, int, dict[str, Any]]) -> None:
        """These steps were taken, with what is to be remembered of each."""
        self.write(
            *(
                {"done": number, "domain": uuid, "at": now()} | ({"facts": facts} if facts else {})
                for uuid, number, facts in at
            )
        )

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
        raise JournalError(f"cannot read {path}: {error.strerror}") from None
    # without its newline a last line is torn, and was never acted upon
    records = list(_records(path, lines[:-1]))
    if not records:
        raise JournalError(f"{path} says nothing: xmlkit ended before it did anything; remove it")
    head = records[0]
    if head.get("schema") != SCHEMA:
        raise JournalError(
            f"{path} is of schema {head.get('schema')!r}, this xmlkit reads {SCHEMA}: use the "
            "xmlkit that wrote it"
        )
    try:
        return _journal(path, head, records[1:])
    except (KeyError, TypeError, ValueError, AttributeError, PlanError) as error:
        raise JournalError(f"{path} is damaged ({error}): look at it with less") from None


def read_all(directory: str) -> tuple[tuple[Journal, ...], tuple[JournalError, ...]]:
    """All journals of a state directory, oldest first, and what kept others from being read."""
    journals, errors = [], []
    for name in sorted(os.listdir(directory)):
        if not name.endswith(".jsonl") or not ID.fullmatch(name.removesuffix(".jsonl")):
            continue
        try:
            journals.append(read(os.path.join(directory, name)))
        except JournalError as error:
            errors.append(error)
    return tuple(journals), tuple(errors)


def find(directory: str, id: str) -> Journal:
    """The journal of this id, or of the only one that begins with it. Raises JournalError."""
    try:
        names = [name for name in os.listdir(directory) if name.endswith(".jsonl")]
    except OSError as error:
        raise JournalError(f"cannot read {directory}: {error.strerror}") from None
    found = [name for name in names if name.startswith(id)] if id else []
    exact = [name for name in found if name == f"{id}.jsonl"]
    if len(exact or found) != 1:
        what = "no transition" if not found else f"{len(found)} transitions begin with"
        raise JournalError(f"{what} {id!r} in {directory}: xmlkit journal lists them")
    return read(os.path.join(directory, (exact or found)[0]))


def as_data(journal: Journal) -> dict[str, Any]:
    """A transition as `xmlkit journal --format json` shows it, of schema xmlkit.journal/1."""
    domains = []
    for uuid, task in journal.tasks.items():
        outcome = journal.outcomes.get(uuid, Outcome("pending"))
        begun, done = journal.begun.get(uuid, set()), journal.done.get(uuid, set())
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


def fsync_directory(directory: str) -> None:
    """What was made in a directory stays."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _ends_with_newline(path: str) -> bool:
    with open(path, "rb", opener=_opener) as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return True
        file.seek(size - 1)
        return file.read() == b"\n"


def _records(path: str, lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            if number > 1:
                # torn when the power failed; what came after it was appended by a recover
                continue
            raise JournalError(f"{path}: line {number} is no JSON: it is no journal") from None
        if not isinstance(record, dict):
            raise JournalError(f"{path}: line {number} is no record: it is no journal")
        yield record


def _journal(path: str, head: dict[str, Any], records: list[dict[str, Any]]) -> Journal:
    tasks = {}
    for record in records:
        if "task" in record:
            data = record["task"]
            plan = Plan.from_data(data["plan"])
            tasks[plan.uuid] = Task(plan, tuple(map(steps.from_data, data["steps"])))
    journal = Journal(
        *(head["id"], path, head["kind"], head["of"], head["uri"], head["at"], tasks),
        to=head.get("to"),
    )
    for record in records:
        if "begin" in record:
            journal.begun.setdefault(record["domain"], set()).add(record["begin"])
        elif "done" in record:
            journal.done.setdefault(record["domain"], set()).add(record["done"])
            journal.facts[record["domain"], record["done"]] = record.get("facts", {})
        elif "end" in record:
            journal.outcomes[record["end"]] = Outcome(
                record["state"], record["id"], record["message"]
            )
    return journal
