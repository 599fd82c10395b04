"""xmlkit journal: what was done on this host.

Rules
- It reads the state directory alone: no libvirt is needed.
- Journals are those that the package writes; the scene's own are in the tests of apply.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Shell

from xmlkit.document import Document
from xmlkit.host import Host, Pool, Volume
from xmlkit.journal import Outcome, Task, Writer
from xmlkit.plan import plan
from xmlkit.steps import steps_of

POOL = Pool("images", "dir", "/img", volumes=(Volume("images", "a", "/img/a", format="qcow2"),))
GUEST = (
    "<domain type='kvm'><name>{}</name><uuid>3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11</uuid><devices>"
    "<disk type='file'><driver name='qemu' type='qcow2'/><source file='/img/a'/>"
    "<target dev='vda'/></disk></devices></domain>"
)
FIRST, SECOND = "20261122-161402-4f2a", "20261122-171402-0000"


@pytest.fixture
def xmlkit(tmp_path: Path) -> Shell:
    shell = Shell(None, tmp_path / "state")
    shell.state.mkdir(mode=0o700)
    return shell


def write(
    shell: Shell, id: str, *, name: str = "guest", state: str = "done", of: str | None = None
) -> None:
    made = plan(Document.parse(GUEST.format(name)), Host(pools=(POOL,)))
    task = Task(made, steps_of(made))
    kind = "apply" if of is None else "rollback"
    writer = Writer.create(str(shell.state), id, [task], uri="qemu:///system", kind=kind, of=of)
    writer.begin((task.uuid, 0))
    if state != "pending":
        writer.done((task.uuid, 0))
        writer.end((task.uuid, Outcome(state, "" if state == "done" else "failed", "")))
    writer.close()


def test_transitions_are_listed_oldest_first(xmlkit: Shell) -> None:
    """A line each."""
    write(xmlkit, FIRST)
    write(xmlkit, SECOND, of=FIRST, state="undone")
    done = xmlkit("journal").told(0)

    assert (
        f"{FIRST}  apply  done  1 domain\n{SECOND}  rollback of {FIRST}  undone  1 domain\n"
    ) == done.stdout


def test_one_is_shown_with_its_steps(xmlkit: Shell) -> None:
    """Each as a command, and how far it came."""
    write(xmlkit, FIRST, state="pending")
    head, domain, step = xmlkit("journal", FIRST[:8]).told(0).stdout.splitlines()

    assert head.startswith(f"{FIRST}  apply  pending  20")
    assert head.endswith("Z  qemu:///system")
    assert "guest  3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11  pending" == domain
    assert step.startswith("  begun  virsh ")


def test_as_json(xmlkit: Shell) -> None:
    """One or all, by the published schema."""
    write(xmlkit, FIRST)
    write(xmlkit, SECOND, of=FIRST)
    both = xmlkit.json("journal", 0, "journal")
    one = xmlkit.json("journal", 0, "journal", SECOND)

    assert [FIRST, SECOND] == [each["id"] for each in both["transitions"]]
    assert both["transitions"][1:] == one["transitions"]
    assert ["done"] == [step["state"] for step in one["transitions"][0]["domains"][0]["steps"]]


def test_names_do_not_reach_the_terminal(xmlkit: Shell) -> None:
    """What a terminal would obey is escaped."""
    write(xmlkit, FIRST, name="a\x9b31m\u202eb")
    done = xmlkit("journal", FIRST).told(0)

    assert "a\\x9b31m\\u202eb  " in done.stdout
    assert "\x9b" not in done.stdout


def test_there_may_be_none(xmlkit: Shell) -> None:
    """Which is no trouble, and said on stderr."""
    done = xmlkit("journal").told(0)

    assert ("", f"no transitions in {xmlkit.state}\n") == (done.stdout, done.stderr)
    assert [] == xmlkit.json("journal", 0, "journal")["transitions"]


def test_there_may_be_no_directory(tmp_path: Path) -> None:
    """Which is the same, and none is made."""
    xmlkit = Shell(None, tmp_path / "none" / "state")
    done = xmlkit("journal").told(0)

    assert ("", f"no transitions in {xmlkit.state}\n") == (done.stdout, done.stderr)
    xmlkit("journal", FIRST).refused("no transition")
    assert [] == list(tmp_path.iterdir())


def test_what_a_live_migration_by_nova_has_left_is_mentioned(xmlkit: Shell) -> None:
    """It has a state directory of its own below this one; what has come to an end is not told."""
    live = Shell(None, xmlkit.state / "live")
    live.state.mkdir(mode=0o700)
    write(xmlkit, FIRST)
    write(live, FIRST)
    assert "" == xmlkit("journal").told(0).stderr
    write(live, SECOND, state="pending")
    done = xmlkit("journal").told(0)

    assert f"{FIRST}  apply  done  1 domain\n" == done.stdout
    said = f"and 1 pending in {live.state}: run xmlkit recover --state-dir {live.state}"
    assert f"xmlkit: {said}\n" == done.stderr
    assert said in xmlkit("journal", "--format", "json").told(0).stderr
    assert "" == xmlkit("journal", FIRST).told(0).stderr
    (live.state / f"{FIRST}.jsonl").write_text("none\n")
    assert f"{live.state}/{FIRST}.jsonl" in xmlkit("journal").told(2).stderr


def test_what_cannot_be_read_is_told_beside_the_others(xmlkit: Shell) -> None:
    """Exit code 2: a newer journal, and one that is a symbolic link."""
    write(xmlkit, FIRST)
    text = (xmlkit.state / f"{FIRST}.jsonl").read_text()
    newer = xmlkit.state / f"{SECOND}.jsonl"
    newer.write_text(text.replace("journal/1", "journal/2"))
    (xmlkit.state / "20261122-181402-0000.jsonl").symlink_to(f"{FIRST}.jsonl")
    done = xmlkit("journal").told(2)

    assert f"{FIRST}  apply  done  1 domain\n" == done.stdout
    assert "use the xmlkit that wrote it" in done.stderr
    assert "20261122-181402-0000.jsonl" in done.stderr
    xmlkit("journal", SECOND).refused("this xmlkit reads xmlkit.journal/1")


@pytest.mark.parametrize("id", ["19700101", "", "../state/2026", "/etc/passwd"])
def test_an_unknown_id_is_refused(xmlkit: Shell, id: str) -> None:
    """In one line; an empty one is none, and an id is no path."""
    write(xmlkit, FIRST)
    xmlkit("journal", id).refused("no transition")


def test_an_id_of_two_is_refused(xmlkit: Shell) -> None:
    """More of it has to be said."""
    write(xmlkit, FIRST)
    write(xmlkit, SECOND)
    xmlkit("journal", "20261122").refused("2 transitions begin with '20261122'")
