"""A raw disk into which its guest wrote the header of a qcow2 image over a file of the host.

Rules
- No command of xmlkit, no script that it prints and no function follows that header: the host's
  file is not read, which the kernel would say (fanotify). Only libvirtd itself, which tells what
  its volumes are backed by, looks at its first bytes whenever it refreshes the pool.
- What libvirt alone would do shows that the watching works.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from reads import watched
from scene import POOL, Scene, run

from xmlkit.actions import create_volume
from xmlkit.host import Host, parse_host
from xmlkit.observe import observe
from xmlkit.testing import Libvirtd
from xmlkit.volumes import Creation, Target, VolumeError, copy, overlay, snapshot

MIB = 1 << 20
SECRET = b"what only the host may read\n".ljust(512, b"!")
RAW, QCOW2 = Target("raw"), Target("qcow2")


@dataclass
class Trap:
    """A host with a guest whose raw disk names the host's secret; `disk` is its path."""

    scene: Scene
    domain: Any
    disk: Path
    content: bytes
    readers: Callable[[], set[int]]

    def volume(self) -> str:
        """The disk once more, as a volume of the pool that libvirt knows."""
        path = self.scene.instances / "disks/guest"
        path.write_bytes(self.content)
        self.scene.connection.storagePoolLookupByName(POOL).refresh()
        return str(path)

    def names(self) -> list[str]:
        """What the pool's directory has."""
        return sorted(os.listdir(self.scene.instances / "disks"))

    def is_raw(self) -> None:
        """The disk has one name, its bytes are the guest's, and the domain reads them as raw."""
        (driver,) = self.scene.document(self.domain).root.iterfind("devices/disk/driver")
        assert "raw" == driver.get("type")
        instances = self.scene.instances
        (image,) = (*instances.glob("disks/*"), *instances.glob("*/disk"))
        assert self.content == image.read_bytes()

    def xmlkit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What a command says; it does not fail by an exception."""
        program = Path(sys.executable).with_name("xmlkit")
        done = subprocess.run(
            (program, *arguments),
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, 1, 2), done.stderr
        assert "Traceback" not in done.stderr
        return done

    def sh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What the script that a command prints does."""
        printed = self.xmlkit(*arguments, "--script")
        assert 0 == printed.returncode, printed.stderr
        return subprocess.run(
            ["sh"],
            input=printed.stdout,
            capture_output=True,
            text=True,
            env={**os.environ, "LIBVIRT_DEFAULT_URI": self.scene.libvirtd.uri},
        )


@pytest.fixture
def trap(libvirtd: Libvirtd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    """The secret is not read while the test runs, but by libvirtd itself."""
    monkeypatch.delenv("LIBVIRT_DEFAULT_URI", raising=False)
    scene = Scene(libvirtd)
    domain = scene.nova_guest("guest", raw=True)
    disk = Path(scene.addresses(domain)[0][1])
    secret, header = libvirtd.directory / "secret", libvirtd.directory / "header"
    secret.write_bytes(SECRET)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", header)
    content = header.read_bytes().ljust(MIB, b"\0")
    disk.write_bytes(content)
    with watched(secret) as readers:
        yield Trap(scene, domain, disk, content, readers)
        assert readers() <= {libvirtd.daemon}


def test_libvirt_alone_would_follow_it(trap: Trap) -> None:
    """By its own copy, which qemu-img makes, the host's file comes out; the watching says so."""
    trap.volume()
    pool = trap.scene.connection.storagePoolLookupByName(POOL)
    volume = pool.createXMLFrom(
        "<volume><name>v</name><target><format type='raw'/></target></volume>",
        pool.storageVolLookupByName("guest"),
    )

    assert SECRET in Path(volume.path()).read_bytes()
    assert trap.readers() - {trap.scene.libvirtd.daemon}
    trap.readers().clear()


def test_functions(trap: Trap) -> None:
    """Copies are refused; snapshots and overlays have the bytes that the guest wrote."""
    path = trap.volume()
    host = Host()
    pool = parse_host(observe(trap.scene.connection)).by_name[POOL]
    unobserved = type(pool)(pool.name, pool.type, pool.path)
    for target in (RAW, QCOW2):
        made = copy(host, unobserved, "v", target, unobserved, "guest", "raw", MIB)
        with pytest.raises(VolumeError, match="format-disagrees"):
            create_volume(trap.scene.connection, made)
    makers: tuple[Callable[[], Creation], ...] = (
        lambda: snapshot(host, unobserved, "raw", RAW, path, "raw", MIB),
        lambda: snapshot(host, unobserved, "flat", QCOW2, path, "raw", MIB),
        lambda: snapshot(host, unobserved, "zlib", QCOW2, path, "raw", MIB, "zlib"),
        lambda: snapshot(host, unobserved, "zstd", QCOW2, path, "raw", MIB, "zstd"),
        lambda: overlay(host, unobserved, "over", QCOW2, path, "raw"),
    )
    out = trap.scene.libvirtd.directory / "out"
    for make in makers:
        creation = make()
        volume = create_volume(trap.scene.connection, creation)
        format_ = "raw" if creation.name == "raw" else "qcow2"
        run("qemu-img", "convert", "-f", format_, "-O", "raw", volume.path(), out)
        assert trap.content == out.read_bytes(), creation.name

    assert ["flat", "guest", "over", "raw", "zlib", "zstd"] == trap.names()


@pytest.mark.parametrize("known", [True, False], ids=["refreshed", "not refreshed"])
def test_the_script_of_a_copy(trap: Trap, known: bool) -> None:
    """It stops before libvirt copies, in words, whether or not libvirt has seen the header."""
    path = Path(trap.volume())
    if not known:
        path.write_bytes(bytes(MIB))
        trap.scene.connection.storagePoolLookupByName(POOL).refresh()
        path.write_bytes(trap.content)
    for target in ("raw", "qcow2"):
        for source in ("raw", "qcow2"):
            done = trap.sh(
                *("volume", "copy", f"{POOL}/guest", f"{POOL}/v", "--source-format", source),
                *("--image-format", target, "--capacity", "1M"),
            )
            assert 1 == done.returncode
            assert f"{POOL}/guest is not what it is said to be, {source}" in done.stderr

    assert ["guest"] == trap.names()


def test_the_scripts_of_snapshots_and_overlays(trap: Trap) -> None:
    """qemu-img is told that it is raw."""
    path = trap.volume()
    place = f"{POOL}={Path(path).parent}"
    out = trap.scene.libvirtd.directory / "out"
    for name, *options in (
        ("flat",),
        ("zlib", "--compress", "zlib"),
        ("zstd", "--compress", "zstd"),
    ):
        done = trap.sh(
            *("volume", "snapshot", path, f"{POOL}/{name}", "--source-format", "raw"),
            *("--image-format", "qcow2", "--capacity", "1M", "--pool", place, *options),
        )
        assert 0 == done.returncode, done.stderr
    done = trap.sh(
        *("volume", "create", f"{POOL}/over", "--image-format", "qcow2"),
        *("--backing", path, "--backing-format", "raw", "--pool", place),
    )
    assert 0 == done.returncode, done.stderr
    for name in ("flat", "zlib", "zstd", "over"):
        volume = Path(path).with_name(name)
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", volume, out)
        assert trap.content == out.read_bytes(), name


def test_a_transition(trap: Trap) -> None:
    """Looked at, planned, applied and taken back, or refused: the disk stays raw and as it was."""
    connect = ("--connect", trap.scene.libvirtd.uri)
    state = ("--state-dir", str(trap.scene.libvirtd.directory / "state"))
    relocate = ("--relocate", POOL)
    for command in (
        ("observe", *connect),
        ("status", *connect),
        ("plan", "guest", *connect, *relocate),
        ("diff", "guest", *connect, *relocate),
    ):
        trap.xmlkit(*command)
    options = (*connect, *state, "--yes", "--format", "json")
    applied = json.loads(trap.xmlkit("apply", "--all", *relocate, *options).stdout)
    trap.is_raw()
    trap.xmlkit("status", *connect)
    (id_,) = {each["transition"] for each in applied["domains"]}
    trap.xmlkit("rollback", id_, *options)
    trap.is_raw()
