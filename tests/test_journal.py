"""The journal: durable before each step, readable when torn, and never with a secret in it."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from loops import mounted, run

from xmlkit import journal
from xmlkit.document import Document
from xmlkit.host import Host, Pool
from xmlkit.journal import Journal, JournalError, Outcome, Task, Writer
from xmlkit.plan import plan
from xmlkit.steps import Copy, Define, Link, Refresh, Step, Unlink, steps_of

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "schemas/journal-1.json").read_text())
ID = "20261122-161402-4f2a"
A, B = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11", "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a12"
INSTANCES = "/var/lib/nova/instances"
HOST = Host(9_000_000, "qemu", pools=(Pool("disks", "dir", f"{INSTANCES}/disks", volumes=()),))

DOMAIN = """\
<domain type='kvm'><name>guest</name><uuid>{uuid}</uuid>
 <description>geheim</description>
 <devices>
  <disk type='file' device='disk'>
   <driver name='qemu' type='qcow2'/>
   <source file='/var/lib/nova/instances/{uuid}/disk'>{inner}</source>
   <target dev='vda' bus='virtio'/>
  </disk>
  <disk type='network' device='disk'>
   <source protocol='http' name='x' query='sig=geheim'><host name='h' port='80'/>
    <cookies><cookie name='c'>geheim</cookie></cookies>
   </source>
   <target dev='vdb' bus='virtio'/>
  </disk>
  <graphics type='vnc' passwd='geheim'/>
 </devices>
</domain>"""


def task(uuid: str = A, inner: str = "") -> Task:
    """A move of one disk into the pool."""
    document = Document.parse(DOMAIN.format(uuid=uuid, inner=inner))
    made = plan(document, HOST, relocate={None: "disks"})
    return Task(made, steps_of(made))


def written(directory: Path, *tasks: Task) -> Writer:
    return Writer.create(str(directory), ID, tasks or (task(),), uri="qemu:///system")


def path_of(directory: Path) -> Path:
    return directory / f"{ID}.jsonl"


def whole(directory: Path) -> Journal:
    """A journal of two domains: one done, one that was interrupted by a crash."""
    writer = written(directory, task(A), task(B))
    writer.begin((A, 0), (B, 0))
    writer.remember(A, {"/x": [1, 2, 3]})
    writer.done((A, 0))
    writer.end((A, Outcome("done")))
    writer.close()
    return journal.read(str(path_of(directory)))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Tasks, steps begun and done, facts, outcomes."""
    writer = written(tmp_path, task(A), task(B))
    writer.begin((A, 0), (A, 1))
    writer.remember(A, {"/x": [1, 2, 3]})
    writer.done((A, 0))
    writer.end((B, Outcome("undone", "no-space", "make room")))
    writer.close()

    found = journal.read(str(path_of(tmp_path)))
    assert (ID, "apply", None, "qemu:///system") == (found.id, found.kind, found.of, found.uri)
    assert [task(A), task(B)] == list(found.tasks.values())
    assert ({A: {0, 1}}, {A: {0}}) == (found.begun, found.done)
    assert {A: [{"/x": [1, 2, 3]}]} == found.facts
    assert {B: Outcome("undone", "no-space", "make room")} == found.outcomes
    assert (task(A),) == found.pending
    assert "pending" == found.state


@pytest.mark.parametrize(
    ("states", "whole_state"),
    [
        (("done", "done"), "done"),
        (("undone", "undone"), "undone"),
        (("done", "undone"), "partly"),
        (("done", "skipped"), "partly"),
        (("done", "pending"), "pending"),
        (("done",), "pending"),
        ((), "pending"),
    ],
)
def test_the_state_of_the_whole(tmp_path: Path, states: tuple[str, ...], whole_state: str) -> None:
    """Pending as long as one is; the last word on a domain counts."""
    writer = written(tmp_path, task(A), task(B))
    writer.end((A, Outcome("pending")))
    writer.end(*((uuid, Outcome(state)) for uuid, state in zip((A, B), states, strict=False)))
    writer.close()

    assert whole_state == journal.read(str(path_of(tmp_path))).state


def test_a_step_that_is_begun_again_is_not_done(tmp_path: Path) -> None:
    """A snapshot freezes a guest anew where libvirt makes no backup."""
    writer = written(tmp_path)
    for write in (writer.begin, writer.done, writer.begin):
        write((A, 0))
    writer.close()

    found = journal.read(writer.path)

    assert ({0}, set()) == (found.begun[A], found.done[A])
    assert "begun" == journal.as_data(found)["domains"][0]["steps"][0]["state"]


def test_lines_are_only_ever_appended(tmp_path: Path) -> None:
    """What stands there stays there, byte for byte, also when it is opened again."""
    path = path_of(tmp_path)
    writer = written(tmp_path)
    before = path.read_bytes()
    writes: list[Callable[[], None]] = [
        lambda: writer.begin((A, 0)),
        lambda: writer.done((A, 0)),
        lambda: writer.end((A, Outcome("done"))),
        lambda: Writer(str(path), new=False).close(),
    ]
    for write in writes:
        write()
        after = path.read_bytes()
        assert after.startswith(before)
        assert len(after) > len(before)
        before = after
    writer.close()


def test_a_line_is_on_the_disk_when_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call writes first and syncs last; a new file's directory is synced too."""
    calls: list[str] = []

    def noted(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any) -> Any:
            calls.append(name)
            return real(*args)

        monkeypatch.setattr(os, name, call)

    for name in ("write", "fdatasync", "fsync"):
        noted(name)
    writer = written(tmp_path)
    assert ["write", "fdatasync"] * (len(calls) // 2) + ["fsync"] == calls
    writes: list[Callable[[], None]] = [
        lambda: writer.begin((A, 0)),
        lambda: writer.end((A, Outcome("done"))),
    ]
    for write in writes:
        calls.clear()
        write()
        assert ["write", "fdatasync"] == calls
    writer.close()


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    """Whatever the umask."""
    mask = os.umask(0)
    try:
        written(tmp_path).close()
    finally:
        os.umask(mask)
    assert 0o600 == stat.S_IMODE(path_of(tmp_path).stat().st_mode)


@pytest.mark.parametrize("inner", ["", "<cookies><cookie name='c'>geheim</cookie></cookies>"])
def test_no_secret_and_no_whole_document_is_in_it(tmp_path: Path, inner: str) -> None:
    """VNC passwords, cookies, signed URLs; the domain's own words besides its planned disks."""
    writer = written(tmp_path, task(inner=inner))
    writer.begin((A, 0))
    writer.close()

    text = path_of(tmp_path).read_text()
    assert "geheim" not in text
    assert "<domain" not in text
    assert "graphics" not in text
    assert (not inner) == ("<disk type='file'" in text)


def test_less_can_read_it(tmp_path: Path) -> None:
    """One record a line, nothing but printable ASCII, the paths in plain words."""
    whole(tmp_path)

    text = path_of(tmp_path).read_bytes()
    assert text.decode("ascii").replace("\n", "").isprintable()
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
    assert f"{INSTANCES}/{A}/disk".encode() in text
    assert text.endswith(b"\n")


def test_a_torn_end_is_no_line_at_every_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power may fail at any byte: what is whole counts, and what comes later is not spoiled."""
    full = whole(tmp_path)
    path = path_of(tmp_path)
    text = path.read_bytes()
    lines = text.splitlines(keepends=True)
    path.unlink()
    # a sync of each of its thousands of files would take longer than all the rest
    monkeypatch.setattr(os, "fdatasync", lambda handle: None)
    for size in range(len(text)):
        torn = tmp_path / f"{size}.jsonl"
        torn.write_bytes(text[:size])
        if size < len(lines[0]):
            with pytest.raises(JournalError, match="xmlkit ended before it did anything"):
                journal.read(str(torn))
            torn.unlink()
            continue
        found = journal.read(str(torn))
        complete = [json.loads(line) for line in text[:size].split(b"\n")[:-1]]
        assert sum("task" in each for each in complete) == len(found.tasks)
        assert any("end" in each for each in complete) == bool(found.outcomes)

        ends = {uuid: Outcome("undone") for uuid in found.tasks}
        writer = Writer(str(torn), new=False)
        writer.end(*ends.items())
        writer.close()
        again = journal.read(str(torn))
        assert () == again.pending
        assert ends == again.outcomes
        assert found.tasks == again.tasks
        torn.unlink()
    assert 2 == len(full.tasks)


def test_torn_twice_is_read_all_the_same(tmp_path: Path) -> None:
    """The recovery was interrupted by a power cut as well, at every byte of its first line."""
    whole(tmp_path)
    path = path_of(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"begin": 0, "dom')
    before = path.read_bytes()
    Writer(str(path), new=False).close()
    added = path.read_bytes()[len(before) :]
    for size in range(len(added)):
        path.write_bytes(before + added[:size])
        writer = Writer(str(path), new=False)
        writer.end((B, Outcome("undone")))
        writer.close()
        assert () == journal.read(str(path)).pending


def test_a_line_that_was_never_torn_is_damage(tmp_path: Path) -> None:
    """What follows it was written by the same process: so it was whole once."""
    whole(tmp_path)
    path = path_of(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    for number in range(1, len(lines) - 1):
        path.write_bytes(b"".join((*lines[:number], b"\0" * 20 + b"\n", *lines[number + 1 :])))
        with pytest.raises(JournalError, match=rf"damaged \(line {number + 1} is no JSON\).*less"):
            journal.read(str(path))


Damage = Callable[[list[dict[str, Any]]], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: r[0].pop("uri"),
        lambda r: r.pop(1),
        lambda r: r[1]["task"].pop("plan"),
        lambda r: r[1].update(task=7),
        lambda r: r[1]["task"]["plan"].update(to="x"),
        lambda r: r[1]["task"]["steps"][0].update(step="rename"),
        lambda r: r[1]["task"]["steps"][0].update(step=[]),
        lambda r: r[1]["task"]["steps"][0].update(source=7),
        lambda r: r[1]["task"]["steps"][0].pop("source"),
        lambda r: r[1]["task"]["steps"].clear(),
        lambda r: r[3].update(begin=99),
        lambda r: r[3].update(begin="0"),
        lambda r: r[3].update(domain="nobody"),
        lambda r: r[3].pop("domain"),
        lambda r: r[5].update(facts={"/x": [1, 2]}),
        lambda r: r[5].update(facts={"/x": "abc"}),
        lambda r: r[5].update(facts=[1]),
        lambda r: r[5].update(domain=[]),
        lambda r: r[5].update(domain="nobody"),
        lambda r: r[6].update(domain="nobody"),
        lambda r: r[6].update(done=None),
        lambda r: r[7].update(state="finished"),
        lambda r: r[7].update(end="nobody"),
        lambda r: r[7].pop("message"),
    ],
)
def test_a_damaged_journal_is_refused(tmp_path: Path, damage: Damage) -> None:
    """In one clear line that names it and says what to do; the others are read."""
    whole(tmp_path)
    path = path_of(tmp_path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    damage(records)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    good = written_as(tmp_path, "20261122-161402-ffff")

    with pytest.raises(JournalError, match=rf"{ID}\.jsonl is damaged \(.+\): look at it with less"):
        journal.read(str(path))
    journals, errors = journal.read_all(str(tmp_path))
    assert ([good], 1) == ([each.id for each in journals], len(errors))


def written_as(directory: Path, id: str) -> str:
    Writer.create(str(directory), id, (task(),), uri="").close()
    return id


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "says nothing: xmlkit ended"),
        (b"{}", "says nothing: xmlkit ended"),
        (b"\0\0\0\n", "line 1 is no JSON"),
        (b"\xff\n", "line 1 is no JSON"),
        (b"[" * 100_000 + b"\n", "line 1 is no JSON"),
        (b"7\n", "line 1 is no record"),
        (b"{}\n7\n", "line 2 is no record"),
        (b"{}\n", "of schema None.*reads xmlkit.journal/1"),
        (b'{"schema": "xmlkit.journal/2"}\n', "of schema 'xmlkit.journal/2'.*that wrote it"),
    ],
)
def test_what_is_no_journal_of_this_version_is_refused(
    tmp_path: Path, content: bytes, says: str
) -> None:
    """A newer version is named, not guessed at."""
    path_of(tmp_path).write_bytes(content)

    with pytest.raises(JournalError, match=says):
        journal.read(str(path_of(tmp_path)))


@pytest.mark.parametrize("content", [b"", b'{"schema": "xmlkit'])
def test_one_that_says_nothing_keeps_nobody_from_recovering(tmp_path: Path, content: bytes) -> None:
    """The power failed when it was made: nothing was begun, so there is nothing to complain of."""
    path_of(tmp_path).write_bytes(content)

    assert ((), ()) == journal.read_all(str(tmp_path))


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    """Neither to read nor to write, nor is a pipe waited for."""
    path = path_of(tmp_path)
    real = tmp_path / "real"
    real.write_bytes(b"somebody's")
    path.symlink_to(real)

    with pytest.raises(JournalError, match="it is a symbolic link"):
        journal.read(str(path))
    with pytest.raises(JournalError, match="it is a symbolic link"):
        Writer(str(path), new=False)
    with pytest.raises(JournalError, match="File exists"):
        written(tmp_path)
    assert b"somebody's" == real.read_bytes()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(JournalError):
        journal.read(str(path))


def test_a_journal_is_never_overwritten(tmp_path: Path) -> None:
    """Two transitions of one id: the second is refused, the first stays."""
    whole(tmp_path)
    before = path_of(tmp_path).read_bytes()

    with pytest.raises(JournalError, match="File exists"):
        written(tmp_path)
    assert before == path_of(tmp_path).read_bytes()


def test_a_journal_that_cannot_be_begun_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was done yet, so nothing is to be recovered, and the message does not say so."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    for function in ("write", "fdatasync", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            with pytest.raises(JournalError, match=r"No space left.*make room there") as caught:
                written(tmp_path)
        assert "recover" not in str(caught.value)
        assert [] == list(tmp_path.iterdir())


def test_a_file_system_that_is_read_only_is_told(tmp_path: Path) -> None:
    """With what to do, and not as something to recover."""
    with mounted("tmpfs", 1 << 20) as directory:
        run("mount", "-o", "remount,ro", str(directory))
        with pytest.raises(JournalError, match=r"Read-only.*mount it for writing") as caught:
            written(directory)
        assert "recover" not in str(caught.value)


def test_it_is_found_by_the_beginning_of_its_id(tmp_path: Path) -> None:
    """If there is one only; an id that is another's beginning is found by itself."""
    for id_ in ("20261122-161402-4f2a", "20261122-161402-4f2b", "20261123-161402-4f2a"):
        written_as(tmp_path, id_)

    assert "20261123-161402-4f2a" == journal.find(str(tmp_path), "20261123").id
    assert "20261122-161402-4f2b" == journal.find(str(tmp_path), "20261122-161402-4f2b").id
    for id_, says in (("20261122", "2 transitions"), ("2027", "no transition"), ("", "no trans")):
        with pytest.raises(JournalError, match=says):
            journal.find(str(tmp_path), id_)


def test_where_is_no_directory_nothing_was_done(tmp_path: Path) -> None:
    """No journals, and none to be found; one that cannot be read is an error."""
    nowhere = str(tmp_path / "none")
    assert ((), ()) == journal.read_all(nowhere)
    with pytest.raises(JournalError, match=f"no transition '2026' in {nowhere}"):
        journal.find(nowhere, "2026")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(JournalError, match=r"cannot read .*/file: Not a directory"):
        journal.read_all(str(file))


def test_other_files_of_the_state_directory_are_passed_over(tmp_path: Path) -> None:
    """The key, the lock, an editor's copies; the journals come oldest first, whatever their ids."""
    (tmp_path / "lock").write_text("")
    (tmp_path / f"{ID}.jsonl~").write_text("x")
    (tmp_path / "notes.jsonl").write_text("x")
    ids = []
    for id_ in ("20261122-000000-ffff", "20261122-000000-0000", "20261122-000000-8888"):
        ids.append(written_as(tmp_path, id_))
        time.sleep(0.01)

    journals, errors = journal.read_all(str(tmp_path))
    assert (ids, ()) == ([each.id for each in journals], errors)


def test_a_closed_process_leaves_whole_lines(tmp_path: Path) -> None:
    """Killed right after a call, what the call wrote is there."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import test_journal as t;"
        "from pathlib import Path;"
        "w = t.written(Path(sys.argv[2])); w.begin((t.A, 0)); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)], check=False
    )
    assert -9 == done.returncode
    assert {A: {0}} == journal.read(str(path_of(tmp_path))).begun


def test_as_data_is_what_its_schema_says(tmp_path: Path) -> None:
    """schemas/journal-1.json, which allows nothing else; all kinds of steps."""
    writer = Writer.create(
        str(tmp_path),
        ID,
        (
            task(A),
            Task(
                task(B).plan,
                steps_of(
                    task(B).plan,
                    copied=["vda"],
                    metadata=[("snapshot", "s"), ("checkpoint", "c"), ("managed-save", "")],
                ),
            ),
        ),
        uri="qemu:///system",
        kind="rollback",
        of="20261122-161402-0000",
    )
    writer.begin((A, 0), (B, 0), (B, 1))
    writer.done((B, 0))
    writer.end((A, Outcome("done")))
    writer.close()

    found = journal.as_data(journal.read(str(path_of(tmp_path))))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    valid({})
    valid(found)
    assert found == json.loads(json.dumps(found))
    first, second = found["domains"]
    assert {"done"} == {step["state"] for step in first["steps"]}
    assert ["done", "begun", *["open"] * 5] == [step["state"] for step in second["steps"]]
    assert ("guest", B, "pending", None, None) == tuple(
        second[key] for key in ("name", "uuid", "state", "id", "message")
    )
    copied = second["steps"][0]
    assert ("copy", str(steps_of(task(B).plan, copied=["vda"])[0])) == (
        copied["step"],
        copied["command"],
    )
    assert ("rollback", "20261122-161402-0000") == (found["kind"], found["of"])
    for change in (
        {"more": 1},
        {"state": "finished"},
        {"id": "x"},
        {"domains": [{**first, "id": ""}]},
        {"domains": [{**first, "steps": [{**copied, "step": "rename"}]}]},
        {"domains": [{**first, "steps": [{**copied, "pool": "p"}]}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            valid({**found, **change})


def test_the_schema_has_each_kind_of_step() -> None:
    """With its fields, and nothing else."""
    around = {"step", "command", "state"}
    shown = {}
    for each in SCHEMA["$defs"]["step"]["oneOf"]:
        kind = each["properties"]["step"]
        for name in kind.get("enum") or [kind["const"]]:
            shown[name] = set(each["properties"]) - around
    kinds = get_args(Step)

    assert shown == {
        kind.__name__.lower(): {field.name for field in dataclasses.fields(kind)} for kind in kinds
    }


def valid(transition: dict[str, Any]) -> None:
    """In the document that the command prints around it; none is a document too."""
    transitions = [transition] if transition else []
    jsonschema.validate({"schema": journal.SCHEMA, "transitions": transitions}, SCHEMA)


def test_steps_of_a_task_are_what_the_plan_needs() -> None:
    """So that the journals above speak of real ones."""
    assert [Link, Refresh, Define, Unlink] == [type(step) for step in task().steps]
    assert Copy in [type(s) for s in steps_of(task().plan, copied=["vda"])]
