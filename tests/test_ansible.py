"""The Ansible collection: real Ansible, several hosts with a libvirtd each, real guests.

Rules
- What a run has changed is read off the hosts, not off what Ansible says of it.
- Modules are also called without Ansible's way to the host, which takes seconds.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Shell
from fleet import COLLECTION, PROGRAMS, Ansible, Fleet
from scene import POOL, Scene

from xmlkit.testing import Libvirtd, boot_sector

# One worker installs the collection once for the modules, another one for the fleets.
pytestmark = [pytest.mark.ansible, pytest.mark.xdist_group("ansible")]
fleets = pytest.mark.xdist_group("fleets")

MODULES = ("domain_storage", "domain_storage_info", "storage_recover", "storage_rollback")
VNC = "<graphics type='vnc' port='-1' passwd='HIDE-ME7'/>"
PAGE = COLLECTION.parent / "docs/ansible.md"
Given = dict[str, Any]  # the arguments of a module
XMLKIT = str(PROGRAMS / "xmlkit")


@pytest.fixture(scope="module")
def ansible(tmp_path_factory: pytest.TempPathFactory) -> Ansible:
    """Ansible with the collection."""
    return Ansible(tmp_path_factory.mktemp("ansible"))


@pytest.fixture
def fleet(ansible: Ansible, start_libvirtd: Callable[..., Libvirtd]) -> Callable[..., Fleet]:
    """A fleet of as many hosts as there are names, each with a guest."""

    def made(*names: str) -> Fleet:
        hosts = {name: Scene(start_libvirtd(name=name)) for name in names}
        for scene in hosts.values():
            scene.nova_guest("guest")
        return Fleet(ansible, hosts)

    return made


@pytest.fixture
def call(ansible: Ansible, scene: Scene) -> Callable[..., dict[str, Any]]:
    """A module on one host."""

    def called(name: str, **arguments: Any) -> dict[str, Any]:
        shared: Given = {"state_dir": str(scene.libvirtd.directory / "state"), "executable": XMLKIT}
        if name.startswith("domain_storage"):
            shared |= {"connect": scene.libvirtd.uri, "relocate": [POOL]}
        return ansible.module(name, **(shared | arguments))

    return called


def text(scene: Scene, name: str = "guest") -> str:
    """The XML of a guest, with its secrets."""
    return scene.document(scene.connection.lookupByName(name)).text


def files(scene: Scene) -> dict[Path, int]:
    """The names of a host's images, and which file has each."""
    return {path: path.lstat().st_ino for path in scene.instances.rglob("*") if path.is_file()}


def content(scene: Scene) -> dict[Path, bytes]:
    """The same, and what is in it."""
    return {path: path.read_bytes() for path in files(scene)}


def form(scene: Scene, name: str = "guest") -> str:
    """Of the first disk: file or volume."""
    return scene.addresses(scene.connection.lookupByName(name))[0][0]


def forms(fleet: Fleet) -> dict[str, str]:
    """Of each host's guest."""
    return {name: form(scene) for name, scene in fleet.hosts.items()}


def states(found: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    """Of each domain that a module returned."""
    return [(each["name"], each["state"], each["id"]) for each in found["domains"]]


# Fleets.


@fleets
def test_a_fleet_goes_there_and_back(fleet: Callable[..., Fleet]) -> None:
    """Check mode changes nothing, a second run neither, and the rollback gives the bytes back."""
    made = fleet("one", "two")
    for scene in made.hosts.values():
        scene.connection.defineXML(text(scene).replace("</disk>", f"</disk>{VNC}", 1))
    before = {name: text(scene) for name, scene in made.hosts.items()}
    nothing, changed = (dict.fromkeys(made.hosts, (count, 0)) for count in (0, 1))

    images = {name: files(scene) for name, scene in made.hosts.items()}
    whole = {name: content(scene) for name, scene in made.hosts.items()}
    check = made.play("transition", "--check", "--diff")
    assert (0, changed) == (check.code, check.recap()), check.said
    assert before == {name: text(scene) for name, scene in made.hosts.items()}
    assert images == {name: files(scene) for name, scene in made.hosts.items()}
    assert whole == {name: content(scene) for name, scene in made.hosts.items()}
    assert [] == [name for name in made.hosts if made.state(name).exists()]
    for scene in made.hosts.values():
        uuid = scene.connection.lookupByName("guest").UUIDString()
        assert f"-      <source file='{scene.instances}/{uuid}/disk'/>" in check.said
        assert f"+      <source pool='{POOL}' volume='{uuid}_disk'/>" in check.said

    done = made.play("transition", "--diff", "-vvv")
    assert (0, changed) == (done.code, done.recap()), done.said
    assert {"volume"} == set(forms(made).values())
    ids = [path.stem for name in made.hosts for path in made.state(name).glob("*.jsonl")]
    assert 2 == len(ids)
    for name in made.hosts:
        (path,) = made.state(name).glob("*.jsonl")
        hint = f"{XMLKIT} rollback {path.stem} --state-dir={made.state(name)}"
        assert f"take it back with: {hint}" in done.said
    made.hosts["one"].boots(made.hosts["one"].connection.lookupByName("guest"))

    again = made.play("transition", "--diff")
    assert (0, nothing) == (again.code, again.recap()), again.said

    since = min(ids)[:15]
    check = made.play("rollback", "--check", "--diff", rollback_since=since)
    assert (0, changed) == (check.code, check.recap()), check.said
    assert {"volume"} == set(forms(made).values())
    # as another user would, by way of su
    back = made.play("rollback", "-b", ansible_become_method="su", rollback_since=since)
    assert (0, changed) == (back.code, back.recap()), back.said
    assert before == {name: text(scene) for name, scene in made.hosts.items()}
    assert images == {name: files(scene) for name, scene in made.hosts.items()}
    again = made.play("rollback", rollback_since=since)
    assert (0, nothing) == (again.code, again.recap()), again.said

    assert "HIDE-ME7" in before["one"]
    assert "HIDE-ME7" not in check.said + done.said + back.said


@fleets
def test_a_host_that_fails_stops_the_next_wave(fleet: Callable[..., Fleet]) -> None:
    """Lost, or in the middle of its steps: its wave is done, and later it all goes on."""
    made = fleet("one", "two", "three", "four")
    failing = made.hosts["two"]
    info = failing.instances / failing.connection.lookupByName("guest").UUIDString() / "disk.info"
    info.write_text("no JSON")
    before = text(failing)
    waves = [1, 2, 1]
    Fleet(made.ansible, made.hosts, lost=["two"])  # its inventory
    run = made.play("transition", transition_waves=waves)

    assert 0 != run.code
    assert {"one": (1, 0), "two": (0, 1), "three": (1, 0)} == run.recap(), run.said
    assert {"one": "volume", "two": "file", "three": "volume", "four": "file"} == forms(made)
    assert "the host was lost: " in run.said
    assert not made.state("four").exists()
    Fleet(made.ansible, made.hosts)
    run = made.play("transition", transition_waves=waves)

    assert 0 != run.code
    assert {"one": (0, 0), "two": (0, 1), "three": (0, 0)} == run.recap(), run.said
    assert {"one": "volume", "two": "file", "three": "volume", "four": "file"} == forms(made)
    assert before == text(failing)
    assert re.search(
        r"1 of 1 domains are not as wanted: guest: undone: \S+: .*disk\.info", run.said
    )
    assert not made.state("four").exists()
    info.unlink()
    run = made.play("transition", transition_waves=waves)

    assert 0 == run.code
    assert {"one": (0, 0), "two": (1, 0), "three": (0, 0), "four": (1, 0)} == run.recap()
    assert {"volume"} == set(forms(made).values())


@fleets
def test_a_host_that_was_killed_is_recovered_by_a_playbook(fleet: Callable[..., Fleet]) -> None:
    """The module and its xmlkit, half way: the guest boots, and until then nothing is begun."""
    made = fleet("one", "two")
    killed = made.hosts["two"]
    before = {name: text(scene) for name, scene in made.hosts.items()}
    images = {name: files(scene) for name, scene in made.hosts.items()}
    with made.slow(*made.words("xmlkit.libvirt.transition", "--limit", "two")) as slow:
        os.kill(slow.parent, signal.SIGKILL)
        os.kill(slow.pid, signal.SIGKILL)
        assert {"two": (0, 1)} == slow.end().recap()
    assert before["two"] == text(killed)
    assert images["two"] != files(killed)
    killed.boots(killed.connection.lookupByName("guest"))

    run = made.play("transition", transition_waves=["100%"])
    assert {"one": (1, 0), "two": (0, 1)} == run.recap(), run.said
    (path,) = made.state("two").glob("*.jsonl")
    command = f"xmlkit recover --state-dir {made.state('two')}"
    words = f"transition {path.stem} has not come to an end: run {command} first"
    assert words in run.said
    journal = path.read_bytes()
    check = made.play("recover", "--check")
    assert (0, {"one": (0, 0), "two": (1, 0)}) == (check.code, check.recap()), check.said
    assert journal == path.read_bytes()

    run = made.play("recover")
    assert (0, {"one": (0, 0), "two": (1, 0)}) == (run.code, run.recap()), run.said
    assert before["two"] == text(killed)
    assert images["two"] == files(killed)
    run = made.play("recover")
    assert (0, {"one": (0, 0), "two": (0, 0)}) == (run.code, run.recap()), run.said
    run = made.play("transition", transition_waves=["100%"])
    assert (0, {"one": (0, 0), "two": (1, 0)}) == (run.code, run.recap()), run.said
    assert {"volume"} == set(forms(made).values())
    run = made.play("rollback", rollback_since="20260101")
    assert 0 == run.code, run.said
    assert before == {name: text(scene) for name, scene in made.hosts.items()}


@fleets
def test_an_ansible_that_goes_leaves_nothing_half_way(
    fleet: Callable[..., Fleet], ansible: Ansible
) -> None:
    """Before Ctrl-C nobody else begins there, after it xmlkit ends what it has begun."""
    made = fleet("one")
    scene = made.hosts["one"]
    with made.slow(*made.words("xmlkit.libvirt.transition")) as slow:
        shared: Given = {"executable": XMLKIT, "state_dir": str(made.state("one"))}
        found = ansible.module("domain_storage", all=True, connect=scene.libvirtd.uri, **shared)
        assert f"process {slow.pid} " in found["msg"]
        assert " is working on this host: wait until it has ended" in found["msg"]
        os.killpg(slow.process.pid, signal.SIGINT)
        assert 0 != slow.end().code
        slow.go_on()
    state = {"file": "undone", "volume": "done"}[form(scene)]
    assert f"  {state}  " in Shell.of(scene)("journal").told(0).stdout
    run = made.play("transition")
    assert (0, "volume") == (run.code, form(scene)), run.said


# Modules.


def test_each_domain_has_its_reason(scene: Scene, call: Callable[..., dict[str, Any]]) -> None:
    """One that is refused or runs fails the module, and keeps no other from being moved."""
    scene.nova_guest("good")
    taken = scene.nova_guest("taken")
    (scene.instances / "disks" / f"{taken.UUIDString()}_disk").write_bytes(bytes(4096))
    scene.connection.storagePoolLookupByName(POOL).refresh()
    scene.nova_guest("runs").create()
    expected = [("runs", "skipped", "running"), ("taken", "refused", "volume-taken")]
    for check, state in ((True, "planned"), (False, "done")):
        found = call("domain_storage", all=True, check=check, diff=True)
        assert (True, True) == (found["failed"], found["changed"])
        assert [("good", state, None), *expected] == sorted(states(found))
        assert "2 of 3 domains are not as wanted: " in found["msg"]
        assert "runs: skipped: running: " in found["msg"]
        assert 1 == len(found["diff"])
        assert found["diff"][0]["prepared"].startswith("--- good (before)\n")
    assert ["volume", "file"] == [form(scene, name) for name in ("good", "taken")]

    found = call("domain_storage", domains=["good", "runs"], running="skip")
    assert (False, []) == (found["changed"], found["transitions"])
    assert "failed" not in found


def test_a_name_is_no_order_to_a_terminal(
    scene: Scene, call: Callable[..., dict[str, Any]]
) -> None:
    """In what Ansible prints as it is: the message and the difference."""
    scene.nova_guest("odd\x9b31m")
    scene.nova_guest("runs\x9b31m").create()
    found = call("domain_storage", all=True, check=True, diff=True)

    assert r"runs\x9b31m: skipped" in found["msg"]
    assert found["diff"][0]["prepared"].startswith(r"--- odd\x9b31m (before)")
    assert "\x9b" not in found["msg"] + found["diff"][0]["prepared"]


def test_nothing_is_begun_while_something_is_pending(
    scene: Scene, call: Callable[..., dict[str, Any]]
) -> None:
    """It fails with the way out; after storage_recover it goes on."""
    scene.nova_guest("guest")
    (id,) = call("domain_storage", domains=["guest"])["transitions"]
    journal = scene.libvirtd.directory / "state" / f"{id}.jsonl"
    *kept, end = journal.read_text().splitlines(keepends=True)
    assert '"end"' in end
    journal.write_text("".join(kept))
    other = scene.nova_guest("other")

    found = call("domain_storage", domains=["other"])
    assert f"transition {id} has not come to an end: run xmlkit recover --state" in found["msg"]
    assert "pending" == call("domain_storage_info")["transitions"][0]["state"]
    assert "file" == form(scene, "other")
    found = call("storage_recover", check=True)
    assert (True, [id], [("guest", "pending", None)]) == (
        *(found["changed"], found["transitions"]),
        states(found),
    )
    found = call("storage_recover")
    assert (True, [("guest", "done", None)]) == (found["changed"], states(found))
    found = call("storage_recover")
    assert (False, [], []) == (found["changed"], found["transitions"], found["domains"])
    assert call("domain_storage", domains=["other"])["changed"]
    assert "volume" == scene.addresses(other)[0][0]


def test_what_cannot_be_recovered_has_its_reason(
    scene: Scene, call: Callable[..., dict[str, Any]]
) -> None:
    """A domain that somebody has changed stays pending; a journal that is none is told as well."""
    domain = scene.nova_guest("guest")
    (id,) = call("domain_storage", domains=["guest"])["transitions"]
    state = scene.libvirtd.directory / "state"
    journal = state / f"{id}.jsonl"
    *kept, _ = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(kept))
    disk = f"{domain.UUIDString()}_disk"
    edited = text(scene).replace(f"volume='{disk}'", "volume='another'")
    assert edited != text(scene)
    (scene.instances / "disks/another").write_bytes(bytes(4096))
    scene.connection.storagePoolLookupByName(POOL).refresh()
    scene.connection.defineXML(edited)

    found = call("storage_recover")
    assert (True, False) == (found["failed"], found["changed"])
    assert ["pending"] == [each["state"] for each in found["domains"]]
    assert "1 of 1 domains have not come to an end: guest: pending: " in found["msg"]
    (state / "20260101-000000-0000.jsonl").write_text("no JSON\n" * 3)
    found = call("storage_recover")
    assert found["failed"]
    assert "xmlkit recover: " in found["msg"]
    assert "20260101-000000-0000" in found["msg"]
    assert ["pending"] == [each["state"] for each in found["domains"]]


def test_a_guest_that_runs_is_restarted_on_demand(ansible: Ansible, libvirtd: Libvirtd) -> None:
    """With running: restart, there and back; it runs from its new place."""
    scene = Scene(libvirtd, sector=boot_sector(hears_button=True))
    domain = scene.nova_guest("guest")
    scene.start(domain)
    state = str(libvirtd.directory / "state")
    shared: Given = {"executable": XMLKIT, "state_dir": state, "running": "restart"}
    target: Given = {"connect": libvirtd.uri, "domains": ["guest"], "relocate": [POOL]}
    there = ansible.module("domain_storage", shutdown_timeout=120, **shared, **target)

    assert [("guest", "done", None)] == states(there)
    assert ("volume", 1) == (form(scene), domain.isActive())
    (transition,) = there["transitions"]
    back = ansible.module("storage_rollback", transition=transition, **shared)
    assert [("guest", "done", None)] == states(back)
    assert ("file", 1) == (form(scene), domain.isActive())


def test_the_state_of_a_host_is_shown(scene: Scene, call: Callable[..., dict[str, Any]]) -> None:
    """Before and after; what was done has its id there."""
    scene.nova_guest("guest")
    scene.nova_guest("other")
    found = call("domain_storage_info")
    assert (False, []) == (found["changed"], found["transitions"])
    assert [("guest", ["vda"]), ("other", ["vda"])] == [
        (each["name"], each["legacy"]) for each in found["domains"]
    ]
    assert POOL in [pool["name"] for pool in found["host"]["pools"]]

    done = call("domain_storage", domains=["guest"])
    found = call("domain_storage_info", check=True)
    assert [[], ["vda"]] == [each["legacy"] for each in found["domains"]]
    assert done["transitions"] == [each["id"] for each in found["transitions"]]


def test_transitions_are_taken_back_from_the_newest(
    scene: Scene, call: Callable[..., dict[str, Any]]
) -> None:
    """All since a time; in check mode what lies below another one is not judged."""
    scene.nova_guest("guest")
    scene.nova_guest("other")
    before = text(scene)
    (first,) = call("domain_storage", domains=["guest", "other"])["transitions"]
    (second,) = call("domain_storage", domains=["guest"], state="path", relocate=[])["transitions"]
    assert ["file", "volume"] == [form(scene, name) for name in ("guest", "other")]
    assert before != text(scene)
    since = first[:13]

    found = call("storage_rollback", since=since, check=True)
    assert [("guest", "planned", None), ("other", "planned", None)] == states(found)
    found = call("storage_rollback", since=since, domains=["guest"])
    assert [("guest", "done", None)] * 2 == states(found)
    assert before == text(scene)
    assert "volume" == form(scene, "other")
    assert 2 == len(set(found["transitions"]) - {first, second})
    found = call("storage_rollback", since=since, domains=["guest"])
    assert (False, []) == (found["changed"], found["transitions"])
    found = call("storage_rollback", since="29991231")
    assert (False, []) == (found["changed"], found["domains"])
    found = call("storage_rollback", since=since, domains=["nobody"])
    assert f"nothing was applied to a domain 'nobody' since {since}" == found["msg"]


def test_no_domains_are_none(ansible: Ansible) -> None:
    """An empty list changes nothing, and asks no libvirt."""
    since: Given = {"since": "20260101"}
    for name, given in (("domain_storage", {}), ("storage_rollback", since)):
        found = ansible.module(name, domains=[], executable="/nowhere", **given)
        assert (False, []) == (found["changed"], found["domains"])


def test_a_password_in_a_uri_is_not_shown(ansible: Ansible) -> None:
    """Neither in what fails nor in the arguments that Ansible repeats."""
    uri = "test://me:HIDE-ME8@localhost/nowhere?my_token=HIDE-ME9&keyfile=SHOWN"
    for name in ("domain_storage", "domain_storage_info", "storage_rollback", "storage_recover"):
        given: Given = {"connect": uri, "executable": XMLKIT, "state_dir": "/nowhere"}
        more: dict[str, Given] = {
            "domain_storage": {"all": True},
            "storage_rollback": {"transition": "2"},
        }
        found = json.dumps(ansible.module(name, **given, **more.get(name, {})))
        assert "HIDE-ME" not in found
        assert "SHOWN" in found


def test_an_xmlkit_that_does_not_run_is_told_by_its_own_words(
    ansible: Ansible, tmp_path: Path
) -> None:
    """Such as one whose Python is too old; the message says which one it needs."""
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho 'SyntaxError: invalid syntax' >&2\nexit 1\n")
    old.chmod(0o755)
    gone = tmp_path / "gone"
    gone.write_text("#!/nowhere/python\n")
    gone.chmod(0o755)
    given: Given = {"connect": "test:///default", "all": True}
    found = ansible.module("domain_storage", executable=str(old), **given)
    assert "(SyntaxError: invalid syntax)" in found["msg"]
    assert "xmlkit needs Python 3.11 or newer" in found["msg"]
    found = ansible.module("domain_storage", executable=str(gone), **given)
    assert "No such file or directory" in found["msg"]
    assert str(gone) in found["msg"]


def newer(node: ast.AST) -> bool:
    """Whether it is what Python 3.6 does not read, or cannot evaluate in an annotation."""
    match node:
        case ast.ImportFrom(module="__future__"):
            return True
        case ast.Subscript(value=ast.Name(id="dict" | "list" | "set" | "tuple" | "type")):
            return True
        case ast.BinOp(op=ast.BitOr()):
            return True
    return False


@pytest.mark.parametrize("path", sorted(COLLECTION.glob("plugins/module*/*.py")))
def test_modules_are_read_by_old_pythons(path: Path) -> None:
    """By that of a managed host, from 3.6: xmlkit has its own."""
    tree = ast.parse(path.read_text(), feature_version=(3, 6))
    assert [] == [ast.unparse(each) for each in ast.walk(tree) if newer(each)]


ODD: dict[str, tuple[Given, str]] = {
    "no command": ({"executable": "/nowhere/xmlkit"}, "there is no /nowhere/xmlkit on this host"),
    "no such program": ({"executable": "xmlkit-nowhere"}, "there is no xmlkit-nowhere on this"),
    "another program": (
        {"executable": "/bin/true"},
        "/bin/true apply did not print xmlkit.apply/1",
    ),
    "no domains": ({"all": False}, "all is False but all of the following are missing: domains"),
    "both": ({"domains": ["test"]}, "say domains or all, one of them"),
    "no such domain": ({"all": False, "domains": ["tset"]}, "xmlkit apply: no domain 'tset'"),
    "an option": ({"all": False, "domains": ["--help"]}, "xmlkit apply: no domain '--help'"),
    "NUL": ({"all": False, "domains": ["a\0b"]}, "there is a NUL character in an option"),
    "no such pool": ({"relocate": ["nowhere"]}, "nowhere"),
    "no such rule": ({"accept": ["nothing"]}, "'nothing' is not one of"),
    "no such place": (
        {"state_dir": "/nowhere/xmlkit", "check": True},
        "/nowhere/xmlkit: No such file or directory; ",
    ),
    "no such host": ({"connect": "test:///nowhere"}, "xmlkit apply: cannot connect to"),
    "no host": ({"connect": None}, "which host? Say --connect URI"),
    "a wrong state": ({"state": "link"}, "value of state must be one of: volume, path"),
    "a wrong time": ({"shutdown_timeout": 0, "running": "restart"}, "0.0 is not in the range"),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_wrong_is_one_line(ansible: Ansible, tmp_path: Path, odd: str) -> None:
    """The module fails with the command's own words, and nothing is changed."""
    given, words = ODD[odd]
    shared: Given = {"connect": "test:///default", "all": True, "executable": XMLKIT}
    state = tmp_path / "state"
    found = ansible.module("domain_storage", **(shared | {"state_dir": str(state)} | given))

    assert found["failed"]
    assert words in found["msg"]
    assert "\n" not in found["msg"]
    assert not found.get("changed")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"since": "yesterday"}, "since is a time such as 20261122-1614, not 'yesterday'"),
        ({"transition": "20261122"}, "xmlkit rollback: no transition '20261122' in"),
        ({}, "one of the following is required: transition, since"),
    ],
)
def test_what_cannot_be_taken_back_is_one_line(
    ansible: Ansible, tmp_path: Path, given: Given, words: str
) -> None:
    """The same for rollbacks."""
    shared: Given = {"executable": XMLKIT, "state_dir": str(tmp_path)}
    found = ansible.module("storage_rollback", **shared, **given)

    assert found["failed"]
    assert words in found["msg"]


# Documentation.


def contained(page: dict[str, Any], key: str) -> set[str]:
    """What a page of ansible-doc says is in the entries of what is returned."""
    return set(page["return"][key]["contains"])


def test_what_is_returned_is_documented_in_full(ansible: Ansible) -> None:
    """Each key of the schemas, whose number says that it keeps its meaning."""

    def keys(schema: str, name: str) -> set[str]:
        found = json.loads((COLLECTION.parent / f"schemas/{schema}.json").read_text())
        return set((found["properties"] | found["$defs"])[name]["properties"])

    names = [f"xmlkit.libvirt.{name}" for name in MODULES]
    pages = json.loads(ansible.run("ansible-doc", "--json", "-t", "module", *names))
    moved, info, recovered, back = (pages[name] for name in sorted(names))
    assert keys("apply-1", "domain") - {"unified"} == contained(moved, "domains")
    assert contained(moved, "domains") == contained(back, "domains")
    assert keys("status-1", "host") == contained(info, "host")
    assert keys("status-1", "domain") == contained(info, "domains")
    assert keys("journal-1", "transition") == contained(info, "transitions")
    assert keys("recover-1", "domain") | {"transition"} == contained(recovered, "domains")
    for page in pages.values():
        assert {"check_mode", "diff_mode", "platform"} == set(page["doc"]["attributes"])


def test_the_archive_is_complete(ansible: Ansible) -> None:
    """The license in full, what changed, and no setting of a tool."""
    with tarfile.open(ansible.archive) as archive:
        names = {name for name in archive.getnames() if name.count("/") == 0}
        license = archive.extractfile("LICENSE")
        assert license is not None
        assert (COLLECTION.parent / "LICENSE").read_bytes() == license.read()
    assert {"CHANGELOG.md", "README.md", "MANIFEST.json"} <= names
    assert set() == {name for name in names if name.startswith(".")}
    listed = (COLLECTION / "meta/runtime.yml").read_text()
    assert list(MODULES) == re.findall(r"^    - (\w+)$", listed, re.M)


def test_documentation_is_that_of_the_arguments(ansible: Ansible) -> None:
    """ansible-doc knows each option of each module, with its type, default and choices."""
    names = [f"xmlkit.libvirt.{name}" for name in MODULES]
    documented = json.loads(ansible.run("ansible-doc", "--json", "-t", "module", *names))
    for name in MODULES:
        page = documented[f"xmlkit.libvirt.{name}"]
        keys = ("type", "default", "choices", "elements", "required")
        shown = {
            option: {key: told[key] for key in keys if key in told}
            for option, told in page["doc"]["options"].items()
        }
        assert ansible.arguments(name) == shown
        assert page["examples"]
        assert page["return"]


def test_what_the_page_shows_works(ansible: Ansible, scene: Scene, tmp_path: Path) -> None:
    """The inventory, the tasks and the play of docs/ansible.md; the tasks on a real host."""
    inventory, tasks, play = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    (tmp_path / "hosts.yml").write_text(inventory)
    (tmp_path / "play.yml").write_text(play)
    listed = ansible.run("ansible-inventory", "-i", str(tmp_path / "hosts.yml"), "--list")
    assert 40 == len(json.loads(listed)["hypervisors"]["hosts"])
    ansible.run("ansible-playbook", "--syntax-check", str(tmp_path / "play.yml"))

    scene.nova_guest("instance-00000001")
    before = text(scene, "instance-00000001")
    defaults = {"executable": XMLKIT, "state_dir": str(scene.libvirtd.directory / "state")}
    head = {
        "hosts": "localhost",
        "gather_facts": False,
        "module_defaults": {"group/xmlkit.libvirt.storage": defaults},
    }
    tasks = tasks.replace("qemu:///system", scene.libvirtd.uri).replace("\n", "\n    ")
    (tmp_path / "tasks.yml").write_text(
        "- "
        + "\n  ".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
        + f"\n  tasks:\n    {tasks}".rstrip()
        + "\n"
    )
    said = ansible.run("ansible-playbook", str(tmp_path / "tasks.yml"))
    assert "ok=2    changed=2" in said
    assert before == text(scene, "instance-00000001")


def test_the_role_is_documented(ansible: Ansible) -> None:
    """Each of its defaults stands in its argument specification, which Ansible checks."""
    role = "xmlkit.libvirt.storage_transition"
    page = json.loads(ansible.run("ansible-doc", "--json", "-t", "role", role))
    options = page[role]["entry_points"]["main"]["options"]
    defaults = (COLLECTION / "roles/storage_transition/defaults/main.yml").read_text()
    given = {k: v["default"] for k, v in options.items() if "default" in v}

    assert given.keys() == set(re.findall(r"^(\w+):", defaults, re.M))
    assert {
        f"storage_transition_{name}"
        for name in ansible.arguments("domain_storage")
        if name != "max_failures"
    } == options.keys()


def test_a_rollback_takes_the_inventory_at_its_word(ansible: Ansible) -> None:
    """What the inventory accepted on the way there holds on the way back, too.

    But for the URI: that of each transition is in its journal.
    """
    play = (COLLECTION / "playbooks/rollback.yml").read_text()
    shared = (
        ansible.arguments("storage_rollback").keys() & ansible.arguments("domain_storage").keys()
    )
    asked = set(re.findall(r"^ +(\w+): .*\bstorage_transition_\1\b", play, re.M))
    assert shared - {"connect", "domains"} == asked
