"""xmlkit cache: what an operator sees of a cache, and what prune removes.

Rules
- Each command is a process of its own, on a real host; what it removed is looked for on the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cached import CachedHost
from commands import CODE, SECONDS, Shell
from scene import POOL as DISKS
from scene import disk_xml

from xmlkit import state
from xmlkit.cache import name_of_image
from xmlkit.prune import POOL
from xmlkit.testing import Libvirtd

A, B, C = (name_of_image(letter) for letter in "abc")
UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
PRUNE = ("cache", "prune", "--yes")


@pytest.fixture
def host(libvirtd: Libvirtd) -> CachedHost:
    return CachedHost(libvirtd)


@pytest.fixture
def xmlkit(host: CachedHost) -> Shell:
    return Shell.of(host)


def names(host: CachedHost) -> set[str]:
    """What is in the cache, but for the image that is young."""
    return {path.name for path in host.cache.iterdir()} - {host.base.name}


def bases(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["name"]: (each["verdict"], each["id"]) for each in found["bases"]}


def seen(xmlkit: Shell, *words: str, columns: int) -> str:
    """What a command shows on a terminal of so many columns, without its colours."""
    ours, theirs = pty.openpty()
    size = {"COLUMNS": str(columns), "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *words], stdout=theirs, env=xmlkit.environment | size
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal's other end says that it is over
            while piece := os.read(ours, 65536):
                shown += piece
        assert 0 == process.wait(SECONDS)
    os.close(ours)
    return re.sub("\x1b[^m]*m", "", shown.decode().replace("\r\n", "\n"))


# list, unused, tree.


def test_list_says_of_each_image_what_becomes_of_it(host: CachedHost, xmlkit: Shell) -> None:
    """A line an image, in columns; the same as JSON by the published schema."""
    host.volume_guest("guest", host.old(A))
    host.old(B, age=2 * 86_400 + 5)
    host.old("mine")

    done = xmlkit("cache", "list").told(0)

    head, *lines = done.stdout.rstrip("\n").split("\n")
    assert ["IMAGE", "KIND", "SIZE", "AGE", "USES", "VERDICT", "WHY"] == head.split()
    told = {line.split()[0]: line for line in lines}
    assert told[A].endswith("  1     keep     cache-used: guest vda")
    assert told[B].endswith("  2 d   0     remove   cache-unused: not touched for 2 d")
    assert told["mine"].endswith("keep     cache-foreign: its name is none that Nova gives")
    assert told[host.base.name].split()[-6:-3] == ["young", "cache-young:", "touched"]
    found = xmlkit.json("cache", 0, "cache", "list")
    assert (POOL, str(host.cache), []) == (found["pool"], found["path"], found["broken"])
    assert {
        A: ("keep", "cache-used"),
        B: ("remove", "cache-unused"),
        "mine": ("keep", "cache-foreign"),
        host.base.name: ("young", "cache-young"),
    } == bases(found)


def test_unused_prints_what_prune_would_remove(host: CachedHost, xmlkit: Shell) -> None:
    """Paths alone, for other tools; its exit code says whether there is any."""
    assert "" == xmlkit("cache", "unused").told(0).stdout
    image = host.old(A)

    assert f"{image}\n" == xmlkit("cache", "unused").told(1).stdout
    assert {A} == bases(xmlkit.json("cache", 1, "cache", "unused")).keys()


def test_the_list_fits_any_terminal(host: CachedHost, xmlkit: Shell) -> None:
    """In columns, or each image a paragraph; its name is whole either way."""
    host.old(A)
    wide, narrow = (seen(xmlkit, "cache", "list", columns=columns) for columns in (140, 80))

    assert 1 == sum(line.startswith(f"{A}   original   ") for line in wide.split("\n"))
    assert f"{A}\n  kind original, size 4 KiB" in narrow


def test_a_pipe_gets_a_line_for_each_disk(host: CachedHost, xmlkit: Shell) -> None:
    """Whatever its length: names are searched for there."""
    base = host.old(A)
    host.define("n" * 90, [disk_xml(host.over(host.libvirtd.directory / "top.qcow2", base))])

    assert f"└── {'n' * 90} vda  top.qcow2\n" in xmlkit("cache", "tree").told(0).stdout
    shown = seen(xmlkit, "cache", "tree", columns=80)
    assert max(map(len, shown.split("\n"))) <= 80


def test_the_tree_fits_80_columns(host: CachedHost, xmlkit: Shell) -> None:
    """Images, what lies between once, and the disks above it; an UUID is not broken."""
    base = host.old(A)
    middle = host.over(host.libvirtd.directory / "middle.qcow2", base)
    for number in (1, 2):
        top = host.over(host.libvirtd.directory / f"top-{number}.qcow2", middle, "qcow2")
        host.define(f"guest-{number}", [disk_xml(top)])
    legacy = host.over(host.instances / UUID / "disk", base)
    host.define("instance-00000001", [disk_xml(legacy)], UUID)
    volume = host.volume_guest("instance-00000002", base).UUIDString()

    done = xmlkit("cache", "tree").told(0)
    shown = seen(xmlkit, "cache", "tree", columns=80)

    assert done.stdout == shown
    assert max(map(len, shown.split("\n"))) <= 80
    assert done.stdout.endswith(f"""\
└── {A}  original, 4 KiB, keep
    ├── middle.qcow2
    │   ├── guest-1 vda  top-1.qcow2
    │   └── guest-2 vda  top-2.qcow2
    ├── instance-00000001 vda  {UUID}/disk
    └── instance-00000002 vda  {volume}_disk
""")


def test_a_broken_chain_is_told_with_its_guest(host: CachedHost, xmlkit: Shell) -> None:
    """Exit code 1, on stderr; the image that is missing has a line of its own."""
    host.volume_guest("guest", host.old(A))
    (host.cache / A).unlink()

    for name in ("list", "tree"):
        done = xmlkit("cache", name).told(1)
        assert A in done.stdout
        assert "cache-broken: guest vda: " in done.stderr
        assert f"{host.cache / A}, which " in done.stderr
        assert "missing" in done.stdout
    found = xmlkit.json("cache", 1, "cache", "list")
    assert ("missing", "cache-missing") == bases(found)[A]
    assert ["guest"] == [use["domain"] for use in found["broken"]]


def test_a_name_that_a_terminal_would_obey_is_shown_in_one_line(
    host: CachedHost, xmlkit: Shell
) -> None:
    """Files may have any name that libvirt takes."""
    host.old("\x9bmine\u202e")

    for name in ("list", "tree"):
        done = xmlkit("cache", name).told(0)
        assert "\\x9bmine\\u202e" in done.stdout
        assert "\x9b" not in done.stdout


# prune.


def test_prune_removes_what_is_unused_and_nothing_else(host: CachedHost, xmlkit: Shell) -> None:
    """What is used, young, not Nova's or a link stays; what it did is told."""
    host.volume_guest("guest", host.old(A))
    host.old(B)
    host.old(f"{C}_1")
    host.old("mine")
    (host.cache / C).symlink_to("/etc/hostname")

    done = xmlkit(*PRUNE).told(0)

    assert {A, "mine", C} == names(host)
    assert f"{B}  removed\n" in done.stdout
    assert done.stdout.endswith("cache prune: 2 removed; 8 KiB freed\n")
    assert "cache prune: 0 removed; 0 B freed\n" == xmlkit(*PRUNE).told(0).stdout


def test_a_dry_run_removes_nothing_and_needs_no_lock(host: CachedHost, xmlkit: Shell) -> None:
    """It shows what would go."""
    image = host.old(A)

    with state.lock(state.directory(str(xmlkit.state))):
        done = xmlkit("cache", "prune", "--dry-run").told(0)
        found = xmlkit.json("cache", 0, "cache", "prune", "--dry-run")

    assert f"{image}  original, 4 KiB, not touched for 11 d\n" == done.stderr
    assert "cache prune: 1 would be removed\n" == done.stdout
    assert (True, []) == (found["dry_run"], found["pruned"])
    assert {A} == names(host)


def test_prune_asks_on_a_terminal(host: CachedHost, xmlkit: Shell) -> None:
    """A no removes nothing; without a terminal it has to be told --yes."""
    host.old(A)

    xmlkit("cache", "prune").told(2)
    done = xmlkit.on_terminal("cache", "prune", answer="n\n").told(1)
    assert "Remove 1 image (4 KiB)? [y/N]" in done.stderr
    assert {A} == names(host)
    xmlkit.on_terminal("cache", "prune", answer="y\n").told(0)
    assert set() == names(host)


def test_prune_is_one_writer_and_waits_for_no_transition(host: CachedHost, xmlkit: Shell) -> None:
    """Another xmlkit at work, or a transition that has not ended: exit code 2, nothing removed."""
    host.old(A)
    host.nova_guest("guest")
    xmlkit("apply", "--relocate", DISKS, "guest", "--yes").told(0)
    with state.lock(xmlkit.state):
        xmlkit(*PRUNE).refused("is working on this host")
    (journal,) = xmlkit.state.glob("*.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"end"' not in line))

    xmlkit(*PRUNE).refused("has not come to an end: run xmlkit recover first")

    assert {A} == names(host)
    xmlkit("recover").told(0)
    xmlkit(*PRUNE).told(0)
    assert set() == names(host)


def test_what_is_kept_after_all_is_told(host: CachedHost, xmlkit: Shell) -> None:
    """Exit code 1: what comes to be used, is touched or goes while it is asked."""
    image = host.old(A)
    host.old(B)
    host.old(C)
    used = host.old("swap_1")

    def meanwhile() -> None:
        os.utime(image)
        (host.cache / C).unlink()
        host.volume_guest("guest", used)

    done = xmlkit.on_terminal("cache", "prune", answer="y\n", before=meanwhile).told(1)

    assert f"{A}  kept: cache-young: touched " in done.stdout
    assert f"{C}  kept: no-image: it is gone already\n" in done.stdout
    assert "swap_1  kept: cache-used: guest vda\n" in done.stdout
    assert done.stdout.endswith("cache prune: 1 removed, 3 kept; 4 KiB freed\n")
    assert {A, "swap_1"} == names(host)


def test_prune_tells_as_json_what_it_did(host: CachedHost, xmlkit: Shell) -> None:
    """With what was judged."""
    host.old(A)

    found = xmlkit.json("cache", 0, *PRUNE)

    done = {"name": A, "state": "removed", "id": None, "message": None}
    assert (False, [done]) == (found["dry_run"], found["pruned"])


# Options.


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (("1h",), set()),
        (("9d",), {A, f"{B}_1"}),
        (("resized=0",), {A}),
        (("original=60m",), {f"{B}_1"}),
        (("original=1h", "0"), set()),
        (("9d", "original=3600s"), {f"{B}_1"}),
        ((), {A, f"{B}_1"}),
    ],
)
def test_the_age_is_an_option(
    host: CachedHost, xmlkit: Shell, given: tuple[str, ...], left: set[str]
) -> None:
    """For all kinds or for one, in any order."""
    host.old(A, age=7_200)
    resized = host.old(f"{B}_1", age=3_000 if given != ("1h",) else 7_200)
    assert resized.exists()

    xmlkit(*PRUNE, *(word for age in given for word in ("--min-age", age))).told(0)

    assert left == names(host)


def test_two_hosts_on_one_directory(host: CachedHost, xmlkit: Shell, tmp_path: Path) -> None:
    """What the other one's list says is used stays here, and what was resized from it."""
    for name in (A, f"{A}_1", B, C):
        host.old(name)
    domain = host.volume_guest("guest", host.cache / A)
    host.volume_guest("lost", host.cache / C)
    (host.cache / C).unlink()
    listed = tmp_path / "other.json"
    listed.write_text(xmlkit("cache", "list", "--format", "json").told(1).stdout)
    for disk in (host.instances / "disks").iterdir():
        disk.unlink()  # which this host does not see
    for each in (domain, host.connection.lookupByName("lost")):
        each.undefine()
    host.old(C)
    host.connection.storagePoolLookupByName(DISKS).refresh()

    xmlkit(*PRUNE, "--protect", listed).told(0)

    assert {A, f"{A}_1", C} == names(host)
    xmlkit(*PRUNE).told(0)
    assert set() == names(host)


def test_what_is_protected_is_named_or_listed(
    host: CachedHost, xmlkit: Shell, tmp_path: Path
) -> None:
    """By name, by an image's id in Glance, or by a file of them."""
    id = "fd0cb2f1-8375-44c9-b1f4-3e1f4c4a8ef0"
    for name in (A, B, C, name_of_image(id), "swap_1", "swap_2"):
        host.old(name)
    listed = tmp_path / "list"
    listed.write_text(f"# of the other host\n\n  {id}\n/var/lib/nova/instances/_base/{C}\nswap_1\n")

    xmlkit(*PRUNE, "--protect", A, "--protect", listed).told(0)

    assert {A, C, name_of_image(id), "swap_1"} == names(host)
    xmlkit(*PRUNE, "--protect", A, "--protect", id).told(0)
    assert {A, name_of_image(id)} == names(host)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "list is empty: it would protect nothing"),
        (" \n\n", "list is empty: it would protect nothing"),
        ("nonsense\n", "list:1: not an image of the cache: 'nonsense'"),
        (f"{A}\n\nmy image\n", "list:3: not an image"),
        ("{}", "is not xmlkit.cache/1"),
        ('{"schema": "xmlkit.status/1"}', "is not xmlkit.cache/1"),
        ("{", "is not xmlkit.cache/1"),
        (json.dumps({"schema": "xmlkit.cache/1", "bases": [1]}), "is not xmlkit.cache/1"),
        (None, "cannot read"),
    ],
)
def test_a_list_that_cannot_be_read_protects_by_removing_nothing(
    host: CachedHost, xmlkit: Shell, tmp_path: Path, text: str | None, words: str
) -> None:
    """Exit code 2, and the line that is wrong."""
    host.old(A)
    listed = tmp_path / "list"
    if text is not None:
        listed.write_text(text)

    xmlkit(*PRUNE, "--protect", listed).refused(words)

    assert {A} == names(host)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--pool", "nowhere"), "there is no pool nowhere"),
        (("--min-age", "soon"), "'soon' is no time: write 12h or KIND=12h"),
        (("--min-age", "disk=1h"), "KIND one of original, resized, swap, ephemeral"),
        (("--accept", "cache-unread"), "cache-unread"),
        (("--connect", "test:///default"), "run prune there"),
        (("--connect", "qemu+ssh://elsewhere/system"), "run prune there"),
    ],
)
def test_wrong_options_are_refused(
    host: CachedHost, xmlkit: Shell, arguments: tuple[str, ...], words: str
) -> None:
    """Exit code 2, one line, nothing removed."""
    host.old(A)

    xmlkit(*PRUNE, *arguments).refused(words)

    assert {A} == names(host)


def test_without_a_host_nothing_is_asked(xmlkit: Shell) -> None:
    """No host is ever taken that nobody named."""
    Shell(None, xmlkit.state)("cache", "list").refused("which host? Say --connect URI")


def test_doubt_is_told_and_may_be_given_up(host: CachedHost, xmlkit: Shell) -> None:
    """A guest whose disk is away keeps all, until it is said that it is lost."""
    host.old(A)
    host.define("guest", [disk_xml(host.libvirtd.directory / "away.qcow2")])

    done = xmlkit(*PRUNE).told(0)

    assert "2 kept: cache-doubt: it may be used by guest vda: " in done.stderr
    assert {A} == names(host)
    xmlkit(*PRUNE, "--accept", "cache-broken").told(0)
    assert set() == names(host)
