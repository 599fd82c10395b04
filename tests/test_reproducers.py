"""Each reproducer of a fault of libvirt says what is so, on the versions that the pages name.

A libvirt that has no such fault any more makes its test fail: then the page, and what xmlkit does
about it, are to be looked at.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest
from chroots import Release

from xmlkit.testing import Libvirtd

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "reproducers").iterdir())
EACH = {
    *("raw-volume-read-as-qcow2", "busy-pool-has-no-code", "apparmor-no-rule-for-a-volume"),
    "directory-not-synced",
}
# Those that are about some versions, by the suites that have the fault.
SOME = {"cluster-size-ignored": ("bullseye",)}
PAIRS = {"destination-xml-alone"}
OWN = {"two-guests-after-a-copy"}  # start their hosts themselves


def run(name: str, *inside: str, **variables: str) -> bool:
    """Run a script; whether the fault is there. inside: the command that leads to its host."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LIBVIRT_")}
    done = subprocess.run(
        [*inside, "sh", "-s"],
        input=(ROOT / "reproducers" / f"{name}.sh").read_text(),
        capture_output=True,
        text=True,
        env=kept | variables,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode == 0


def on(libvirtd: Libvirtd, name: str) -> bool:
    """The same where libvirtd is; but where strace is needed, with the programs of this machine."""
    daemon = str(libvirtd.daemon)
    if "strace" in (ROOT / "reproducers" / f"{name}.sh").read_text():
        return run(name, LIBVIRT_DEFAULT_URI=libvirtd.uri, LIBVIRTD=daemon)
    return run(name, "nsenter", "--target", daemon, "--mount", "--pid", "--root", "--wd=/")


@pytest.mark.parametrize("name", sorted(EACH | set(SOME)))
def test_a_fault_of_one_host(
    name: str, release: Release, record_property: Callable[[str, object], None]
) -> None:
    """The fault is there in the versions that are named, and in no other."""
    libvirtd = release()
    found = on(libvirtd, name)
    assert set() == state(libvirt.open(libvirtd.uri))
    record_property("says", "fault" if found else "no fault")

    assert (name in EACH or release.suite in SOME[name]) is found


def test_a_fault_of_two_hosts(start_libvirtd: Callable[..., Libvirtd]) -> None:
    """Two hosts that see the same files."""
    here, there = (
        start_libvirtd(name=name, remember_owner=False, private_network=False)
        for name in ("here", "there")
    )
    for name in PAIRS:
        assert run(
            name, SOURCE=here.uri, DESTINATION=there.uri, PORT=str(49300 + os.getpid() % 900)
        )
        for host in (here, there):
            assert set() == state(libvirt.open(host.uri))


def test_a_fault_that_a_moment_makes() -> None:
    """The script meets the moment within its tries."""
    for name in OWN:
        script = ROOT / "reproducers" / f"{name}.py"
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
        assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "script", [path for path in SCRIPTS if path.suffix == ".sh"], ids=lambda path: path.stem
)
def test_what_goes_wrong_is_no_answer(script: Path) -> None:
    """Where no libvirtd answers, nobody can say that the fault is not there."""
    nowhere = "qemu+unix:///system?socket=/nowhere"
    away = dict.fromkeys(("LIBVIRT_DEFAULT_URI", "SOURCE", "DESTINATION"), nowhere)
    variables = os.environ | away | {"LIBVIRTD": str(os.getpid())}
    done = subprocess.run(["sh", str(script)], capture_output=True, text=True, env=variables)
    assert 2 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(OWN))
def test_a_host_that_cannot_be_started_is_no_answer(name: str) -> None:
    """As above, where the programs are not there."""
    script = ROOT / "reproducers" / f"{name}.py"
    variables = os.environ | {"PATH": os.devnull}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, env=variables)
    assert 2 == done.returncode, done.stderr


@pytest.mark.parametrize("name", sorted({path.stem for path in SCRIPTS} - OWN))
def test_what_is_somebody_s_stays(
    name: str, start_libvirtd: Callable[..., Libvirtd], tmp_path: Path
) -> None:
    """A pool and a domain of the very name that the script makes up: they stay, it is no answer."""
    libvirtd = start_libvirtd()
    mktemp, made = tmp_path / "bin/mktemp", tmp_path / "tmp.taken"
    mktemp.parent.mkdir()
    mktemp.write_text(f"#!/bin/sh\nmkdir {made} && echo {made}\n")
    mktemp.chmod(0o755)
    connection = libvirt.open(libvirtd.uri)
    for called in ("reproducer", "reproducer-taken"):
        pool = connection.storagePoolDefineXML(
            f"<pool type='dir'><name>{called}</name>"
            f"<target><path>{tmp_path}/{called}</path></target></pool>"
        )
        pool.build()
        pool.create()
        connection.defineXML(
            f"<domain type='qemu'><name>{called}</name><memory>16384</memory>"
            "<os><type arch='x86_64'>hvm</type></os></domain>"
        )
    before = state(connection)
    uris = dict.fromkeys(("LIBVIRT_DEFAULT_URI", "SOURCE", "DESTINATION"), libvirtd.uri)
    path = os.pathsep.join((str(mktemp.parent), os.environ["PATH"]))
    done = subprocess.run(
        ["sh", str(ROOT / "reproducers" / f"{name}.sh")],
        capture_output=True,
        text=True,
        env=os.environ | uris | {"PATH": path, "LIBVIRTD": str(libvirtd.daemon)},
    )

    assert 2 == done.returncode, done.stdout + done.stderr
    assert "already" in done.stderr
    assert before == state(connection)
    assert not made.exists()


def state(connection: libvirt.virConnect) -> set[tuple[str, str, bool]]:
    """The pools and domains of a host: name, UUID, whether it is active."""
    all_ = [*connection.listAllStoragePools(), *connection.listAllDomains()]
    return {(each.name(), each.UUIDString(), bool(each.isActive())) for each in all_}


def test_each_reproducer_is_tried() -> None:
    """And stands on the page of the faults."""
    names = {path.stem for path in SCRIPTS if path.is_file()}
    page = (ROOT / "docs" / "faults.md").read_text()
    assert names == {*EACH, *SOME, *PAIRS, *OWN}
    assert [] == [path.name for path in SCRIPTS if f"(../reproducers/{path.name})" not in page]
