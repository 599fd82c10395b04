"""xmlkit apply: what it does, what it says, and with which exit code.

Rules
- Each command is a process of its own, on a private libvirtd with real guests.
- Something comes between by being done while the command asks on a terminal: no clock decides.
- Whatever the end, each guest has its images, and boots from what is defined.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
import pytest
from commands import WAITING, Shell, hears, until_said
from loops import mounted
from scene import POOL, Scene, edited, run, until

from xmlkit import state
from xmlkit.observe import host_uuid
from xmlkit.testing import Libvirtd

TO_POOL = ("--relocate", POOL)
VNC = "<graphics type='vnc' port='-1' passwd='HIDE-ME7'/>"
ID = r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}"


def form(scene: Scene, domain: Any) -> str:
    """Of the first disk: file or volume."""
    return scene.addresses(domain)[0][0]


def everything(scene: Scene) -> dict[str, Any]:
    """What a command could change: definitions and files."""
    domains = {d.name(): scene.document(d).text for d in scene.connection.listAllDomains()}
    files = {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in scene.instances.rglob("*")
        if path.is_file()
    }
    return domains | files


def target(scene: Scene, domain: Any) -> Path:
    """Where its image is to go."""
    return scene.instances / "disks" / f"{domain.UUIDString()}_disk"


# Done.


def test_hints_name_the_state_directory_that_was_given(scene: Scene, xmlkit: Shell) -> None:
    """They can be typed as they stand."""
    domain = scene.nova_guest("guest")
    there = scene.libvirtd.directory / "its own"
    option = ("--state-dir", there)
    done = xmlkit("apply", *TO_POOL, "--yes", "guest", *option).told(0)
    (path,) = there.glob("*.jsonl")
    assert f"take it back with: xmlkit rollback {path.stem} --state-dir '{there}'\n" in done.stderr
    *kept, end = path.read_text().splitlines(keepends=True)
    assert '"end"' in end
    path.write_text("".join(kept))
    words = f"has not come to an end: run xmlkit recover --state-dir '{there}' first"
    xmlkit("apply", "--all", "--yes", *option).refused(words)
    xmlkit("recover", *option).told(0)
    xmlkit("rollback", path.stem, "--yes", *option).told(0)
    assert "file" == form(scene, domain)


def test_a_guest_is_moved(scene: Scene, xmlkit: Shell) -> None:
    """Exit code 0; what was planned is on stderr, how it ended on stdout, with the id."""
    domain = scene.nova_guest("guest")
    done = xmlkit("apply", *TO_POOL, "--yes", "guest").told(0)
    (id,) = xmlkit.transitions()

    assert f"guest  done\napply {id}: 1 done\n" == done.stdout
    assert f"take it back with: xmlkit rollback {id}" in done.stderr
    assert re.search("  vda  move, file to volume, qcow2\n       /.*\n    -> ", done.stderr)
    assert "volume" == form(scene, domain)
    scene.boots(domain)


def test_a_second_time_there_is_nothing_to_do(scene: Scene, xmlkit: Shell) -> None:
    """Exit code 0 and no transition: by name, for all, and by the plan that was done."""
    scene.nova_guest("guest")
    plan = xmlkit.state.parent / "plan.json"
    xmlkit("plan", *TO_POOL, "--all", "-o", plan).told(0)
    xmlkit("apply", "--plan", plan, "--yes").told(0)
    before = everything(scene)
    for arguments in (("--plan", plan), (*TO_POOL, "guest"), (*TO_POOL, "--all")):
        assert "apply: 1 nothing\n" == xmlkit("apply", *arguments).told(0).stdout

    assert before == everything(scene)
    assert 1 == len(xmlkit.transitions())


def test_a_host_without_domains_has_nothing_to_do(xmlkit: Shell) -> None:
    """It is no mistake to ask for all of them."""
    assert "apply: no domains\n" == xmlkit("apply", "--all").told(0).stdout
    assert [] == xmlkit.json("apply", 0, "apply", "--all")["domains"]
    assert [] == json.loads(xmlkit("plan", "--all").told(0).stdout)["plans"]


@pytest.mark.parametrize("option", ["--dry-run", "--yes"])
def test_the_difference_is_shown(scene: Scene, xmlkit: Shell, option: str) -> None:
    """With --diff, on stderr and in the JSON: of the domains that change."""
    domain = scene.nova_guest("guest")
    scene.define("without", [])
    source = f"<source file='{scene.instances}/{domain.UUIDString()}/disk'/>"
    shown = xmlkit("apply", *TO_POOL, "--all", "--diff", "--dry-run").told(0).stderr
    found = xmlkit.json("apply", 0, "apply", *TO_POOL, "--all", "--diff", option)
    guest, without = found["domains"]

    assert guest["unified"].startswith("--- guest (before)\n+++ guest (after)\n@@ -")
    assert f"\n-      {source}\n" in guest["unified"]
    assert f"\n+      <source pool='{POOL}' volume='" in guest["unified"]
    assert guest["unified"] in shown
    assert without["unified"] is None


def test_what_is_done_as_json(scene: Scene, xmlkit: Shell) -> None:
    """With the id of the transition, the disks, the concerns and the steps of each domain."""
    domain = scene.nova_guest("guest", kinds=("disk", "disk.local"))
    scene.nova_guest("running").create()
    found = xmlkit.json("apply", 1, "apply", *TO_POOL, "--all", "--yes")
    (id,) = xmlkit.transitions()
    done, skipped = found["domains"]

    assert ("apply", False) == (found["kind"], found["dry_run"])
    assert ("guest", "done", id, None) == tuple(
        done[key] for key in ("name", "state", "transition", "id")
    )
    assert ["vda", "vdb"] == [disk["target"] for disk in done["disks"]]
    assert ["ln", "ln", "virsh", "virsh", "rm", "rm"] == [step.split()[0] for step in done["steps"]]
    assert ("running", "skipped", None, "running") == tuple(
        skipped[key] for key in ("name", "state", "transition", "id")
    )
    assert "volume" == form(scene, domain)


def test_what_runs_or_is_refused_is_exit_code_1(scene: Scene, xmlkit: Shell) -> None:
    """The others are done."""
    ready, runs, taken = (scene.nova_guest(name) for name in ("ready", "runs", "taken"))
    runs.create()
    target(scene, taken).write_bytes(b"somebody's")
    done = xmlkit("apply", *TO_POOL, "--all", "--yes").told(1)

    assert "1 done, 1 skipped, 1 refused" in done.stdout
    assert "runs  skipped: running: " in done.stdout
    assert re.search("taken .*refused: volume-taken: vda: ", done.stderr)
    assert ["volume", "file", "file"] == [form(scene, each) for each in (ready, runs, taken)]


def test_an_image_is_copied_only_if_that_is_wanted(start_libvirtd: Callable[..., Libvirtd]) -> None:
    """Without --copy a pool on another file system is refused."""
    with mounted("ext4", 256 << 20) as directory:
        scene = Scene(start_libvirtd())
        xmlkit = Shell.of(scene)
        scene.pool("far", directory / "disks")
        domain = scene.nova_guest("guest")
        to_far = ("--relocate", "far", "guest", "--yes")
        assert "other-file-system" in xmlkit("apply", *to_far).told(1).stderr
        xmlkit("apply", "--copy", *to_far).told(0)

        assert "volume" == form(scene, domain)
        scene.boots(domain)
        assert (directory / "disks" / f"{domain.UUIDString()}_disk").is_file()


def test_snapshots_are_redefined_only_if_that_is_wanted(scene: Scene, xmlkit: Shell) -> None:
    """Without --rewrite-metadata a domain with one is refused."""
    domain = scene.nova_guest("guest")
    domain.snapshotCreateXML("<domainsnapshot><name>s</name></domainsnapshot>")
    assert "snapshots" in xmlkit("apply", *TO_POOL, "guest", "--yes").told(1).stderr
    xmlkit("apply", *TO_POOL, "--rewrite-metadata", "guest", "--yes").told(0)

    assert "type='volume'" in domain.snapshotLookupByName("s").getXMLDesc()
    domain.revertToSnapshot(domain.snapshotLookupByName("s"))
    scene.boots(domain)


# Nothing is changed.


def test_a_dry_run_changes_nothing(scene: Scene, xmlkit: Shell) -> None:
    """It shows each step as a command, needs no --yes, and is exit code 0."""
    domain = scene.nova_guest("guest")
    before = everything(scene)
    done = xmlkit("apply", *TO_POOL, "--dry-run", "guest").told(0)
    found = xmlkit.json("apply", 0, "apply", *TO_POOL, "--dry-run", "guest")

    assert "apply: 1 planned\n" == done.stdout
    for step in found["domains"][0]["steps"]:
        assert f"    {step}\n" in done.stderr
    assert f"    rm -- {scene.instances / domain.UUIDString() / 'disk'}\n" in done.stderr
    assert (True, "planned") == (found["dry_run"], found["domains"][0]["state"])
    assert before == everything(scene)
    assert [] == xmlkit.transitions()


def test_a_script_changes_nothing(scene: Scene, xmlkit: Shell) -> None:
    """It is all of stdout, and nothing if there is nothing to do."""
    scene.nova_guest("guest")
    before = everything(scene)
    done = xmlkit("apply", *TO_POOL, "--script", "guest").told(0)

    assert done.stdout.startswith("#!/bin/sh\n")
    assert before == everything(scene)
    assert [] == xmlkit.transitions()
    assert "" == xmlkit("apply", "--script", "guest").told(0).stdout


def test_without_a_terminal_it_asks_for_yes(scene: Scene, xmlkit: Shell) -> None:
    """Exit code 2, with what would have been done."""
    scene.nova_guest("guest")
    before = everything(scene)
    done = xmlkit("apply", *TO_POOL, "guest").told(2)

    assert done.stderr.endswith("\nError: there is no terminal to ask on: say --yes\n")
    assert "" == done.stdout
    assert before == everything(scene)


@pytest.mark.parametrize(("answer", "code"), [("\n", 1), ("n\n", 1), ("\x04", 130), ("\x03", 130)])
def test_on_a_terminal_the_answer_decides(
    scene: Scene, xmlkit: Shell, answer: str, code: int
) -> None:
    """No is the default; Ctrl-D and Ctrl-C are no as well."""
    scene.nova_guest("guest")
    before = everything(scene)
    done = xmlkit.on_terminal("apply", *TO_POOL, "guest", answer=answer)

    assert code == done.returncode
    assert "Change 1 domain? [y/N]: " in done.stderr
    assert before == everything(scene)
    assert [] == xmlkit.transitions()


# On a terminal.


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_on_a_terminal_it_shows_how_far_it_is(
    scene: Scene, xmlkit: Shell, variables: dict[str, str]
) -> None:
    """A bar, in colours only if these are wanted; the report is as elsewhere."""
    domain = scene.nova_guest("guest")
    done = xmlkit.on_terminal("apply", *TO_POOL, "guest", answer="y\n", variables=variables).told(0)
    (id,) = xmlkit.transitions()

    assert f"guest  done\napply {id}: 1 done\n" == done.stdout
    assert ("steps" in done.stderr) is (variables.get("TERM") != "dumb")
    assert bool(re.search("\x1b\\[[0-9;]*3[0-9]", done.stderr)) is (variables == {})
    assert "volume" == form(scene, domain)


def test_names_do_not_reach_the_terminal(scene: Scene, xmlkit: Shell) -> None:
    """What a terminal would obey is escaped, in the preview and in the report."""
    name = "guest\x9b31m\u202ename"
    domain = scene.nova_guest("guest")
    domain.rename(name)
    for arguments in (("--dry-run",), ("--yes",)):
        done = xmlkit.on_terminal("apply", *TO_POOL, "--all", *arguments).told(0)
        assert "guest\\x9b31m\\u202ename" in done.stderr
        assert "\x9b" not in done.stderr + done.stdout
        assert "\u202e" not in done.stderr + done.stdout
    (id,) = xmlkit.transitions()
    assert "guest\\x9b31m\\u202ename  " in xmlkit("journal", id).told(0).stdout


# Something comes between.


def test_what_fails_is_rolled_back_with_exit_code_3(scene: Scene, xmlkit: Shell) -> None:
    """Somebody has taken the name meanwhile; the others are done."""
    one, two = scene.nova_guest("one"), scene.nova_guest("two")
    done = xmlkit.on_terminal(
        *("apply", *TO_POOL, "--all", "--format", "json"),
        answer="y\n",
        before=lambda: target(scene, one).write_bytes(b"somebody's"),
    ).told(3)
    states = {each["name"]: each for each in json.loads(done.stdout)["domains"]}

    assert ("undone", "target-exists") == (states["one"]["state"], states["one"]["id"])
    assert "done" == states["two"]["state"]
    assert b"somebody's" == target(scene, one).read_bytes()
    scene.boots(one)
    scene.boots(two)


def test_after_so_many_failures_no_other_is_begun(scene: Scene, xmlkit: Shell) -> None:
    """--max-failures: what was not begun is skipped, what was prepared is taken back."""
    domains = [scene.nova_guest(f"guest{number}") for number in range(4)]
    done = xmlkit.on_terminal(
        *("apply", *TO_POOL, "--all", "--max-failures", "1"),
        answer="y\n",
        before=lambda: target(scene, domains[1]).write_bytes(b"somebody's"),
    ).told(3)

    assert "guest1  undone: target-exists: " in done.stdout
    assert 3 == done.stdout.count(": max-failures: ")
    assert {"file"} == {form(scene, domain) for domain in domains}
    assert [target(scene, domains[1])] == list((scene.instances / "disks").iterdir())


def test_no_more_than_the_limit_are_changed(scene: Scene, xmlkit: Shell) -> None:
    """Those that would not change do not count."""
    domains = [scene.nova_guest(name) for name in "abcd"]
    domains[0].create()
    found = xmlkit.json("apply", 1, "apply", *TO_POOL, "--all", "--limit", "2", "--yes")

    assert ["skipped", "done", "done"] == [each["state"] for each in found["domains"]]
    assert ["file", "volume", "volume", "file"] == [form(scene, each) for each in domains]


def test_a_connection_that_is_lost_is_for_recover(scene: Scene, xmlkit: Shell) -> None:
    """Exit code 1, and the message says so; recover brings it to an end."""
    scene.nova_guest("guest")
    done = xmlkit.on_terminal(
        *("apply", *TO_POOL, "guest", "--format", "json"),
        answer="y\n",
        before=lambda: scene.libvirtd.restart(signal.SIGKILL),
    ).told(1)
    (domain,) = json.loads(done.stdout)["domains"]
    (id,) = xmlkit.transitions()
    scene.reopen()

    assert ("pending", id) == (domain["state"], domain["transition"])
    assert "xmlkit recover" in domain["message"]
    scene.boots(scene.connection.lookupByName("guest"))
    assert (
        "has not come to an end: run xmlkit recover"
        in xmlkit("apply", *TO_POOL, "guest", "--yes").told(2).stderr
    )
    found = xmlkit.json("recover", 0, "recover")
    assert [(id, "undone")] == [
        (each["id"], each["domains"][0]["state"]) for each in found["transitions"]
    ]
    xmlkit("apply", *TO_POOL, "guest", "--yes").told(0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_takes_back_what_was_begun(
    scene: Scene, xmlkit: Shell, number: signal.Signals
) -> None:
    """Exit code 3; nothing is pending, and all is as it was."""
    domain = scene.nova_guest("guest")
    daemon = scene.libvirtd.daemon

    def interrupt(pid: int) -> None:
        try:
            # libvirtd is frozen, and so xmlkit waits in the refresh that it has begun
            until(lambda: xmlkit.transitions() and xmlkit.written().count('"begin"') == 2)
            os.kill(pid, number)
        finally:
            os.kill(daemon, signal.SIGCONT)

    done = xmlkit.on_terminal(
        *("apply", *TO_POOL, "guest"),
        answer="y\n",
        before=lambda: os.kill(daemon, signal.SIGSTOP),
        after=interrupt,
    ).told(3)

    assert "guest  undone: interrupted: " in done.stdout
    assert "file" == form(scene, domain)
    assert [] == list((scene.instances / "disks").iterdir())
    assert "nothing to recover in" in xmlkit("recover").told(0).stdout
    scene.boots(domain)


# Plans.


def plan_of(xmlkit: Shell, *arguments: object) -> Path:
    path = xmlkit.state.parent / "plan.json"
    xmlkit("plan", *TO_POOL, *arguments, "-o", path).told(0)
    return path


def test_the_plan_of_many_domains_is_done(scene: Scene, xmlkit: Shell) -> None:
    """As it is, and only what is in it."""
    planned = [scene.nova_guest(name) for name in "abc"]
    path = plan_of(xmlkit, "--all")
    other = scene.nova_guest("other")
    assert "3 of 3 domains would change" in xmlkit("diff", "--plan", path).told(1).stdout
    done = xmlkit("apply", "--plan", path, "--yes").told(0)

    assert ": 3 done\n" in done.stdout
    assert ["volume"] * 3 + ["file"] == [form(scene, each) for each in (*planned, other)]


def test_a_stale_plan_is_refused(scene: Scene, xmlkit: Shell) -> None:
    """One of its domains was edited: that one is left alone, by diff and by apply."""
    one, two = scene.nova_guest("one"), scene.nova_guest("two")
    path = plan_of(xmlkit, "--all")
    edited(scene, one, ">1</vcpu>", ">2</vcpu>")
    shown = xmlkit("diff", "--plan", path).told(2)
    done = xmlkit("apply", "--plan", path, "--yes").told(1)

    assert "one: stale-plan: " in shown.stderr
    assert "two  " in shown.stdout
    assert re.search("one .* refused: stale-plan: .* plan again", done.stderr)
    assert ["file", "volume"] == [form(scene, each) for each in (one, two)]


def test_a_plan_of_another_host_is_refused(scene: Scene, xmlkit: Shell) -> None:
    """The key of this one is another."""
    domain = scene.nova_guest("guest")
    path = plan_of(xmlkit, "guest")
    here = ("--plan", path, "--state-dir", xmlkit.state.parent / "other")
    assert "stale-plan" in xmlkit("apply", *here, "--yes").told(1).stderr
    assert "stale-plan" in xmlkit("diff", *here).told(2).stderr
    assert "file" == form(scene, domain)


def test_a_plan_of_a_file_is_refused(scene: Scene, xmlkit: Shell) -> None:
    """It is for xmlkit transform, and bound to no host."""
    domain = scene.nova_guest("guest")
    file = xmlkit.state.parent / "guest.xml"
    file.write_text(scene.document(domain).text)
    path = plan_of(xmlkit, file)

    assert "it is bound to no host" in xmlkit("apply", "--plan", path, "--yes").told(1).stderr
    assert "file" == form(scene, domain)


def test_a_plan_is_shown_until_it_is_done(scene: Scene, xmlkit: Shell) -> None:
    """diff --plan shows what apply --plan will do, and then that nothing is left."""
    scene.nova_guest("guest")
    path = plan_of(xmlkit, "guest")
    assert "+    <disk type='volume'" in xmlkit("diff", "--plan", path).told(1).stdout
    xmlkit("apply", "--plan", path, "--yes").told(0)
    done = xmlkit("diff", "--plan", path).told(0)

    assert "" == done.stdout
    assert "guest: nothing to do any more\n" == done.stderr


# A libvirtd that hangs.

HANGS = """
import os, signal
from xmlkit import images
link = images.link
def hang(*paths):
    link(*paths)
    os.kill({pid}, signal.SIGSTOP)
images.link = hang
from xmlkit.cli import main
main()
"""


def state_of(pid: int) -> str:
    """Of a process: T is stopped by a signal, S asleep."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def has_socket(pid: int) -> bool:
    """Whether a process has a socket open."""
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(handle).startswith("socket:"):
                return True
    return False


@pytest.mark.parametrize(
    "command",
    [
        *("apply", "status", "observe", "diff guest", "plan -o OUT guest", "transform FILE"),
        *("validate --through-libvirt --connect URI FILE", "cache list"),
        "volume create p/v --capacity 1M --image-format raw",
    ],
)
def test_a_libvirtd_that_hangs_is_not_waited_for_for_ever(
    scene: Scene, xmlkit: Shell, command: str
) -> None:
    """Ctrl-C says what it waits for, and another one ends it; what was begun is for recover."""
    domain = scene.nova_guest("guest")
    file = scene.libvirtd.directory / "guest.xml"
    file.write_text(scene.document(domain).text)
    words = {"URI": scene.libvirtd.uri, "FILE": str(file), "OUT": f"{file}.plan"}
    daemon = scene.libvirtd.daemon
    code = HANGS.format(pid=daemon)
    try:
        if command == "apply":
            process = xmlkit.start("apply", *TO_POOL, "--yes", "guest", code=code)
            until(lambda: state_of(daemon) == "T")
        else:
            os.kill(daemon, signal.SIGSTOP)
            process = xmlkit.start(*(words.get(word, word) for word in command.split()))
            # libvirt has made its socket, and does not come back to Python
            until(lambda: has_socket(process.pid))
        # one that comes before the call that hangs is heard, and then another call hangs
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(4)
        done = xmlkit.end(process).told(130)
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert WAITING in done.stderr
    what = "xmlkit recover brings to an end what was begun"
    assert f"ended: {what if command == 'apply' else 'nothing was changed'}\n" in done.stderr

    assert "file" == form(scene, domain)
    scene.boots(domain)
    recovered = xmlkit("recover").told(0)
    assert ("undone" if command == "apply" else "nothing to recover") in recovered.stdout
    assert [] == list((scene.instances / "disks").iterdir())
    scene.boots(domain)


@pytest.mark.parametrize("command", ["apply", "rollback"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_end_before_anything_is_begun_waits_for_no_libvirtd(
    scene: Scene, xmlkit: Shell, command: str, number: signal.Signals
) -> None:
    """One signal at the question ends it, though the connection cannot be closed."""
    domain = scene.nova_guest("guest", kinds=("disk.local",))
    words: tuple[str, ...] = ("apply", *TO_POOL, "guest")
    if command == "rollback":
        xmlkit(*words, "--yes").told(0)
        words = ("rollback", *xmlkit.transitions())
    begun = xmlkit.transitions()
    before = scene.document(domain).text
    daemon = scene.libvirtd.daemon

    def interrupt(pid: int) -> None:
        # what is typed wakes nobody: it is asleep when it waits for that
        until(lambda: state_of(pid) == "S")
        os.kill(pid, number)

    try:
        done = xmlkit.on_terminal(
            *words, before=lambda: os.kill(daemon, signal.SIGSTOP), after=interrupt
        ).told(130)
    finally:
        os.kill(daemon, signal.SIGCONT)
    said = done.stderr.replace("\x1b[?25h", "")
    assert said.endswith("\nnothing was changed\nended: nothing was changed\n")
    assert WAITING not in done.stderr
    assert begun == xmlkit.transitions()
    assert before == scene.document(domain).text
    xmlkit(*words, "--dry-run").told(0)


def test_a_terminal_that_closes_does_not_end_it_in_the_middle(scene: Scene, xmlkit: Shell) -> None:
    """It is told twice, by the kernel and by the shell: who has not been warned is not meant."""
    daemon = scene.libvirtd.daemon
    os.kill(daemon, signal.SIGSTOP)
    try:
        process = xmlkit.start("status")
        until(lambda: has_socket(process.pid))
        until(lambda: hears(process.pid, signal.SIGTERM))
        # of one signal the kernel may keep but one
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(8)
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert WAITING.strip() == xmlkit.end(process).told(130).stderr.strip()


# At their own leisure.


def waiting(xmlkit: Shell, *arguments: object) -> Any:
    process = xmlkit.start("apply", *TO_POOL, "--all", "--yes", "--on-shutdown", *arguments)
    until_said(process, "to be shut off")
    return process


def test_running_guests_are_done_when_they_are_off(scene: Scene, xmlkit: Shell) -> None:
    """Those that are off are done at once; each transition has its id."""
    off, on, later = (scene.nova_guest(name) for name in ("off", "on", "later"))
    on.create()
    later.create()
    process = waiting(xmlkit)
    assert ["volume", "file", "file"] == [form(scene, each) for each in (off, on, later)]
    on.destroy()
    until(lambda: form(scene, on) == "volume")
    later.destroy()
    done = xmlkit.end(process).told(0)

    assert "3 done" in done.stdout
    assert 3 == len(xmlkit.transitions())
    assert set(xmlkit.transitions()) == set(re.findall(ID, done.stdout))
    for each in (off, on, later):
        scene.boots(each)


def test_a_guest_that_goes_on_running_is_skipped(scene: Scene, xmlkit: Shell) -> None:
    """--timeout ends the waiting; so does Ctrl-C; both with exit code 1 and a report."""
    scene.nova_guest("guest").create()
    done = xmlkit.end(waiting(xmlkit, "--timeout", "1")).told(1)
    assert "apply: 1 skipped\n" == done.stdout
    for number in (signal.SIGINT, signal.SIGTERM):
        process = waiting(xmlkit)
        process.send_signal(number)
        done = xmlkit.end(process).told(1)
        assert "apply: 1 skipped\n" == done.stdout
        assert "not waiting any longer" in done.stderr
    assert [] == xmlkit.transitions()


def test_a_guest_that_is_undefined_meanwhile_is_no_end(scene: Scene, xmlkit: Shell) -> None:
    """The others are waited for and done."""
    gone, on = scene.nova_guest("gone"), scene.nova_guest("on")
    gone.create()
    on.create()
    process = waiting(xmlkit)
    gone.undefine()
    gone.destroy()
    on.destroy()
    done = xmlkit.end(process).told(1)

    assert "1 refused, 1 done" in done.stdout
    assert "volume" == form(scene, on)


def test_libvirtd_may_be_restarted_while_it_waits(scene: Scene, xmlkit: Shell) -> None:
    """It connects again."""
    scene.nova_guest("guest").create()
    process = waiting(xmlkit)
    scene.libvirtd.restart()
    scene.reopen()
    domain = scene.connection.lookupByName("guest")
    with contextlib.suppress(libvirt.libvirtError):
        # the guest ends all the same if libvirtd is just connecting to it again
        domain.destroy()
    xmlkit.end(process).told(0)

    assert "volume" == form(scene, domain)


def test_the_limit_counts_those_that_are_waited_for(scene: Scene, xmlkit: Shell) -> None:
    """They will change too."""
    on, off = scene.nova_guest("a"), scene.nova_guest("b")
    on.create()
    process = waiting(xmlkit, "--limit", "1")
    on.destroy()
    xmlkit.end(process).told(0)

    assert ["volume", "file"] == [form(scene, each) for each in (on, off)]


# Secrets.


def test_no_secret_is_written_anywhere(scene: Scene, xmlkit: Shell) -> None:
    """No output, no plan, no script and no journal has it; the domain keeps it."""
    domain = scene.nova_guest("guest")
    edited(scene, domain, "</devices>", f"{VNC}</devices>")
    path = plan_of(xmlkit, "guest")
    done = [
        xmlkit("diff", "--plan", path),
        xmlkit("apply", "--plan", path, "--script"),
        xmlkit("apply", "--plan", path, "--dry-run", "--format", "json"),
        xmlkit("apply", "--plan", path, "--yes", "--format", "json").told(0),
        xmlkit("journal", "--format", "json").told(0),
    ]
    (id,) = xmlkit.transitions()
    done += [xmlkit("journal", id).told(0), xmlkit("rollback", id, "--yes").told(0)]
    texts = [path.read_text(), xmlkit.written(), *(each.stdout + each.stderr for each in done)]

    assert [] == [text for text in texts if "HIDE-ME" in text]
    assert "passwd='HIDE-ME7'" in scene.document(domain).text


# Wrong input.


def test_an_unknown_domain_is_refused(scene: Scene, xmlkit: Shell) -> None:
    """With the nearest name, and nothing is done to the others."""
    domain = scene.nova_guest("instance-00000001")
    done = xmlkit("apply", *TO_POOL, "instance-00000001", "instance-00000002", "--yes")
    done.refused("no domain 'instance-00000002'; did you mean instance-00000001?")

    assert "file" == form(scene, domain)


def test_an_unknown_pool_is_refused(scene: Scene, xmlkit: Shell) -> None:
    """It is not each domain's fault."""
    scene.nova_guest("guest")
    xmlkit("apply", "--relocate", "elsewhere", "--all", "--yes").refused("no pool 'elsewhere'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say which domains"),
        (("--all", "guest"), "say which domains"),
        (("--plan", "x", "--all"), "say which domains"),
        (("--plan", "x", "--to", "path"), "--plan holds all decisions"),
        (("--plan", "x", "--relocate", "p"), "--plan holds all decisions"),
        (("--all", "--to", "path", "--relocate", "p"), "goes with --to volume"),
        (("--all", "--relocate", "sideways=p"), "not a kind of disk: 'sideways'"),
        (("--all", "--on-shutdown", "--dry-run"), "give no --script and no --dry-run"),
        (("--all", "--timeout", "3"), "how long --on-shutdown waits"),
        (("--all", "--limit", "0"), "--limit"),
        (("--all", "--max-failures", "no"), "--max-failures"),
        (("--all", "--accept", "running"), "--accept"),
        (("--plan", "/nowhere"), "cannot read /nowhere: No such file"),
        (("--all", "--connect", "qemu+unix:///system?socket=/nowhere"), "cannot connect"),
        (("--all", "--connect", "nonsense"), "cannot connect"),
        (("--all", "--state-dir", "/proc/xmlkit"), "/proc/xmlkit"),
        (("--all", "--state-dir", "/dev/null"), "/dev/null"),
        (("--all", "--dry-run", "--state-dir", "/nowhere/xmlkit"), "/nowhere/xmlkit: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_input_is_refused(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    """In one line, with exit code 2."""
    Shell("test:///default", tmp_path / "state")("apply", *arguments).refused(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is no JSON"),
        ("{}", "the file lacks"),
        ('{"schema": "xmlkit.plan/9", "plans": []}', "this xmlkit reads xmlkit.plan/1"),
        ('{"schema": "xmlkit.plan/1", "plans": [{}]}', "plan 1"),
        ("[" * 100000, "it is no JSON"),
    ],
)
def test_a_malformed_plan_is_refused(text: str, words: str, tmp_path: Path) -> None:
    """With the file's name."""
    path = tmp_path / "plan.json"
    path.write_text(text)
    for command in ("apply", "diff"):
        done = Shell("test:///default", tmp_path / "state")(command, "--plan", path)
        done.refused(words)
        assert str(path) in done.stderr


def test_without_a_host_it_is_refused(tmp_path: Path) -> None:
    """There is no default one."""
    for command in ("apply --all", "plan --all"):
        Shell(None, tmp_path / "state")(*command.split()).refused("which host?")


def test_a_state_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Nor may others write there."""
    xmlkit = Shell("test:///default", tmp_path / "state")
    xmlkit.state.mkdir()
    xmlkit.state.chmod(0o777)
    xmlkit("apply", "--all").refused("is writable by others")
    xmlkit.state.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(xmlkit.state, 12345, -1)
        xmlkit("apply", "--all").refused("belongs to user 12345")


@pytest.mark.parametrize(
    ("options", "remedy"), [("size=8k", "make room there"), ("ro", "mount it for writing")]
)
def test_a_journal_that_cannot_be_begun_leaves_nothing_to_recover(
    scene: Scene, options: str, remedy: str
) -> None:
    """It is said so, and there is nothing that recover would have to do."""
    domain = scene.nova_guest("guest")
    before = everything(scene)
    with mounted("tmpfs", 1 << 20) as place:
        xmlkit = Shell(scene.libvirtd.uri, place / "state")
        xmlkit.state.mkdir(mode=0o700)
        run("mount", "-o", f"remount,{options}", place)
        with contextlib.suppress(OSError):
            (place / "filling").write_bytes(bytes(1 << 20))
        for command in (
            ("apply", *TO_POOL, "guest", "--yes"),
            ("snapshot", "guest", "vda", "--to-file", scene.instances / "copy"),
        ):
            done = xmlkit(*command)
            done.refused(remedy)
            assert "recover" not in done.stderr
        assert [] == xmlkit.transitions()
    assert before == everything(scene)
    scene.boots(domain)


def test_wrong_input_makes_no_state(scene: Scene, xmlkit: Shell) -> None:
    """It is refused before a directory, a lock or a key is made for it."""
    scene.nova_guest("guest")
    snapshot = ("snapshot", "guest", "vda")
    file = ("--to-file", scene.libvirtd.directory / "copy")
    migrate = ("migrate", "guest", "--to")
    for arguments, words in (
        (("apply", "nonesuch"), "no domain 'nonesuch'"),
        (("apply", "--all", "--relocate", "elsewhere"), "no pool 'elsewhere'"),
        (("apply", "--all", "--schemas", "/nowhere"), "/nowhere"),
        (("apply", "--all", "--connect", "nonsense"), "cannot connect"),
        (("migrate", "nonesuch", "--to", xmlkit.uri), "no domain 'nonesuch'"),
        ((*migrate, xmlkit.uri, "--relocate", "elsewhere"), "no pool 'elsewhere'"),
        ((*migrate, "nonsense"), "cannot connect"),
        (("plan", "nonesuch"), "no domain 'nonesuch'"),
        (("plan", "--all", "--relocate", "elsewhere"), "no pool 'elsewhere'"),
        (("plan", "guest", "-o", "/nowhere/plan.json"), "cannot write /nowhere/plan.json"),
        (("rollback", "20261122-161402-4f2a"), "no transition"),
        (("snapshot", "nonesuch", "vda", *file), "no domain 'nonesuch'"),
        (("snapshot", "guest", "vdz", *file), "no disk 'vdz'"),
        ((*snapshot, "--to-file", "/nowhere/x"), "/nowhere"),
        ((*snapshot, "--to-volume", "elsewhere/x"), "no pool 'elsewhere'"),
        (("cache", "prune", "--pool", "elsewhere", "--yes"), "no pool elsewhere"),
        (("cache", "prune", "--protect", "/nowhere/list", "--yes"), "/nowhere/list"),
    ):
        xmlkit(*arguments).refused(words)
        assert not xmlkit.state.exists(), arguments


def test_two_state_directories_are_one_host(scene: Scene, xmlkit: Shell) -> None:
    """While one xmlkit works there, another one does not begin, nor recover or prune."""
    domain = scene.nova_guest("guest")
    done = xmlkit("apply", *TO_POOL, "guest", "--yes").told(0)
    (id,) = re.findall(f"rollback ({ID})", done.stderr)
    before = everything(scene)
    uuid = host_uuid(scene.connection)
    other = ("--state-dir", xmlkit.state.parent / "other")
    with state.host_lock(uuid):
        for command in (
            ("apply", "--all", "--yes", *other),
            ("migrate", "guest", "--to", scene.libvirtd.uri, *other),
            ("snapshot", "guest", "vda", "--to-file", scene.libvirtd.directory / "copy", *other),
            ("rollback", id, "--yes"),
        ):
            xmlkit(*command).refused(f"process {os.getpid()} ")
        xmlkit("apply", "--all", "--dry-run", *other).told(0)
    assert before == everything(scene)
    xmlkit("rollback", id, "--yes").told(0)
    scene.boots(domain)


# All but what needs Nova is imported first: where this Python is may be closed to others.
AS_NOBODY = """
import difflib, importlib, json, os, pkgutil
import xmlkit
from xmlkit.cli import main
for module in pkgutil.walk_packages(xmlkit.__path__, "xmlkit."):
    if not module.name.startswith("xmlkit.nova."):
        importlib.import_module(module.name)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
main()
"""


def test_who_is_not_root_is_refused(scene: Scene, xmlkit: Shell) -> None:
    """By libvirt; where that lets everybody in, by the state directory."""
    scene.nova_guest("guest")
    done = xmlkit("apply", "--all", code=AS_NOBODY)
    done.refused("Permission denied; run as root")
    assert not xmlkit.state.exists()
    xmlkit.state.mkdir(mode=0o700)
    (scene.libvirtd.directory / "run/libvirt/libvirt-sock").chmod(0o777)
    done = xmlkit("apply", "--all", code=AS_NOBODY)
    done.refused("run as root, or name another directory")


def test_what_only_reads_makes_no_state(scene: Scene, xmlkit: Shell) -> None:
    """Neither the directory nor a key or a lock in it; a plan that was made elsewhere is stale."""
    scene.nova_guest("guest")
    path = scene.libvirtd.directory / "plan.json"
    elsewhere = ("--state-dir", scene.libvirtd.directory / "elsewhere")
    xmlkit("plan", "--all", *TO_POOL, "-o", path, *elsewhere).told(0)

    def shown() -> None:
        assert "stale-plan" in xmlkit("apply", "--plan", path, "--dry-run").told(1).stderr
        assert "stale-plan" in xmlkit("diff", "--plan", path).told(2).stderr

    shown()
    for option in ("--dry-run", "--script"):
        xmlkit("apply", *TO_POOL, "--all", option).told(0)
    xmlkit("rollback", "20261122", "--dry-run").refused("no transition")
    assert not xmlkit.state.exists()
    xmlkit.state.mkdir(mode=0o700)
    shown()
    assert [] == list(xmlkit.state.iterdir())


# The test driver.


def test_reading_commands_work_on_the_test_driver(tmp_path: Path) -> None:
    """Its one domain has nothing to do."""
    xmlkit = Shell("test:///default", tmp_path / "state")
    path = tmp_path / "plan.json"
    xmlkit("status").told(1)
    xmlkit("plan", "--all", "-o", path).told(0)

    assert "nothing" in xmlkit("diff", "--plan", path).told(0).stderr
    assert "apply: 1 nothing\n" == xmlkit("apply", "--plan", path, "--dry-run").told(0).stdout
    assert "apply: 1 nothing\n" == xmlkit("apply", "test", "--dry-run").told(0).stdout
    assert ["host-key"] == [each.name for each in xmlkit.state.iterdir()]


# Odd hosts.


def test_a_refused_domain_keeps_no_other_from_being_done(scene: Scene, xmlkit: Shell) -> None:
    """By a reason of the plan: libvirt lists a volume of that name."""
    taken, free = scene.nova_guest("a"), scene.nova_guest("b")
    volume = scene.instances / "disks" / f"{taken.UUIDString()}_disk"
    volume.write_bytes(bytes(4096))
    scene.connection.storagePoolLookupByName(POOL).refresh()
    done = xmlkit("apply", *TO_POOL, "--all", "--yes").told(1)

    assert "a  refused: volume-taken" in done.stderr + done.stdout
    assert ["file", "volume"] == [form(scene, each) for each in (taken, free)]


@pytest.mark.parametrize("odd", ["directory", "info-link", "info-text"])
def test_what_cannot_be_walked_or_read_leaves_nothing_pending(
    scene: Scene, xmlkit: Shell, odd: str
) -> None:
    """A link in the path is refused before, an odd disk.info when it is met: all is as it was."""
    domain = scene.nova_guest("guest")
    directory = scene.instances / domain.UUIDString()
    if odd == "directory":
        directory.rename(scene.instances / "elsewhere")
        directory.symlink_to(scene.instances / "elsewhere")
    elif odd == "info-link":
        (directory / "disk.info").symlink_to("other")
    else:
        (directory / "disk.info").write_text("no JSON")
    done = xmlkit("apply", *TO_POOL, "--all", "--yes")

    assert (1 if odd == "directory" else 3) == done.returncode, done
    assert "symlink" in done.stderr + done.stdout or odd == "info-text"
    assert "nothing to recover" in xmlkit("recover").told(0).stdout
    assert "file" == form(scene, domain)
    assert [] == list((scene.instances / "disks").iterdir())


def test_what_is_done_is_done_though_nobody_can_be_told(scene: Scene, xmlkit: Shell) -> None:
    """A full stdout does not turn it into trouble; stderr says where it stands."""
    scene.nova_guest("guest")
    with open("/dev/full", "w") as full:
        process = xmlkit.start("apply", *TO_POOL, "--all", "--yes", stdout=full)
        done = xmlkit.end(process)
    (id,) = xmlkit.transitions()

    assert 0 == done.returncode, done.stderr
    assert f"xmlkit journal {id} says how it ended" in done.stderr


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1"])
def test_a_time_without_an_end_is_none(xmlkit: Shell, seconds: str) -> None:
    """Else it would be waited for ever."""
    done = xmlkit("apply", "--all", "--restart", "--shutdown-timeout", seconds)

    assert (2, "") == (done.returncode, done.stdout)
