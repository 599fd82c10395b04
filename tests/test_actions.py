"""Actions: what is asked for is what a real libvirt makes, and nothing is made that was not.

Rules
- A private libvirtd, real qemu-img, real file systems; what comes out is read back by
  `qemu-img info` and `check`, told the format.
- A raw image whose bytes a guest has made look like qcow2 is given to every action.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest
from loops import loop_device, mounted, run

from xmlkit.actions import create_pool, create_volume, fill
from xmlkit.document import Document
from xmlkit.host import Host, Pool, parse_host
from xmlkit.observe import LibvirtError, observe, opened
from xmlkit.pools import PoolError
from xmlkit.pools import pool as pool_of
from xmlkit.testing import Libvirtd
from xmlkit.volumes import (
    Creation,
    Fill,
    Permissions,
    Target,
    VolumeError,
    blank,
    copy,
    domain_snapshot,
    overlay,
    snapshot,
)

MIB = 1 << 20
HOST = Host()
RAW, QCOW2 = Target("raw"), Target("qcow2")
SECRET = b"what only the host may read\n".ljust(512, b"!")


class Node:
    """A private libvirtd with a pool of a directory, and a connection to it."""

    def __init__(self, libvirtd: Libvirtd, directory: Path, name: str = "disks") -> None:
        self.libvirtd = libvirtd
        self.connection = libvirt.open(libvirtd.uri)
        self.directory = directory
        self.pool = Pool(name, "dir", str(directory))
        self.handle = create_pool(self.connection, pool_of(name, "dir", target=str(directory)))

    def file(self, name: str, content: bytes = b"") -> str:
        """A file in the pool, known to libvirt."""
        (self.directory / name).write_bytes(content)
        self.handle.refresh()
        return str(self.directory / name)

    def names(self) -> list[str]:
        """What the pool's directory has, and nothing of what it had before."""
        return sorted(os.listdir(self.directory))


@pytest.fixture
def node(libvirtd: Libvirtd) -> Iterator[Node]:
    """A host whose pool is a directory beside libvirtd's own."""
    made = Node(libvirtd, libvirtd.directory / "disks")
    yield made
    made.connection.close()


def info(path: str | Path, format_: str) -> dict[str, Any]:
    """What qemu-img says of an image; its format is told."""
    out = run("qemu-img", "info", "--output=json", "-f", format_, str(path))
    found: dict[str, Any] = json.loads(out)
    return found


def check(path: str | Path) -> None:
    """A qcow2 image is without errors and leaks."""
    run("qemu-img", "check", "-f", "qcow2", str(path))


def same(one: str | Path, format_one: str, two: str | Path, format_two: str) -> None:
    """Two images have the same content."""
    run("qemu-img", "compare", "-f", format_one, "-F", format_two, str(one), str(two))


def written(path: Path) -> int:
    """The bytes that a file really takes."""
    return path.stat().st_blocks * 512


def base(size: int = 8 * MIB) -> bytes:
    """An image that is half text, which can be compressed, and half holes."""
    return b"".join(b"%-511d\n" % number for number in range(size // 1024)).ljust(size, b"\0")


def guest_written(libvirtd: Libvirtd, size: int = MIB) -> bytes:
    """A raw disk into which a guest wrote the header of a qcow2 image over a file of the host."""
    secret = libvirtd.directory / "secret"
    secret.write_bytes(SECRET)
    header = libvirtd.directory / "header"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(secret), "-F", "raw", str(header))
    return header.read_bytes().ljust(size, b"\0")


# Pools.


def test_a_pool_is_defined_built_started_and_autostarted(libvirtd: Libvirtd) -> None:
    """From nothing to running, its directory with it; the second time changes nothing."""
    connection = libvirt.open(libvirtd.uri)
    directory = libvirtd.directory / "new" / "deep"
    document = pool_of("p", "dir", target=str(directory))
    made = create_pool(connection, document)
    before = made.XMLDesc()
    again = create_pool(connection, document)

    assert (1, 1, True) == (again.isActive(), again.autostart(), directory.is_dir())
    assert made.UUIDString() == again.UUIDString()
    assert before == again.XMLDesc()


def test_an_existing_directory_stays_as_it_is(libvirtd: Libvirtd) -> None:
    """Owner, mode and content are the operator's."""
    directory = libvirtd.directory / "old"
    directory.mkdir(mode=0o751)
    os.chown(directory, 12, 34)
    (directory / "disk").write_bytes(b"x")
    create_pool(libvirt.open(libvirtd.uri), pool_of("p", "dir", target=str(directory)))
    status = directory.stat()

    assert (0o40751, 12, 34) == (status.st_mode, status.st_uid, status.st_gid)
    assert b"x" == (directory / "disk").read_bytes()


def test_autostart_is_said_by_the_caller(libvirtd: Libvirtd) -> None:
    """Also of a pool that is there already."""
    connection = libvirt.open(libvirtd.uri)
    document = pool_of("p", "dir", target=str(libvirtd.directory / "p"))

    assert 0 == create_pool(connection, document, autostart=False).autostart()
    assert 1 == create_pool(connection, document).autostart()


def test_a_stopped_pool_is_started(libvirtd: Libvirtd) -> None:
    """And not built anew."""
    connection = libvirt.open(libvirtd.uri)
    document = pool_of("p", "dir", target=str(libvirtd.directory / "p"))
    create_pool(connection, document).destroy()

    assert 1 == create_pool(connection, document).isActive()


def test_another_pool_of_the_name_is_never_overwritten(node: Node) -> None:
    """The message has both; the pool stays as it is."""
    before = node.handle.XMLDesc()
    with pytest.raises(PoolError, match=r"elsewhere.*pool-exists") as caught:
        create_pool(node.connection, pool_of("disks", "dir", target="/srv/elsewhere"))

    assert "pool-exists" == caught.value.id
    assert before == node.handle.XMLDesc()


def test_a_pool_that_does_not_start_is_not_left_behind(libvirtd: Libvirtd) -> None:
    """What was defined is undefined again, and the error is libvirt's."""
    connection = libvirt.open(libvirtd.uri)
    document = pool_of("vg", "logical", source="no-such-group")
    with pytest.raises(LibvirtError, match=r"no-such-group|vgchange"):
        create_pool(connection, document)

    assert [] == connection.listAllStoragePools()


# Blank volumes and overlays.


@pytest.mark.parametrize(
    "target",
    [
        RAW,
        QCOW2,
        replace(QCOW2, cluster_size=131072, lazy_refcounts=True, extended_l2=True),
        replace(QCOW2, cluster_size=512),
        replace(QCOW2, nocow=True),
        replace(RAW, permissions=Permissions(0o640, 12, 34)),
        replace(QCOW2, permissions=Permissions(0o604, 0, 64055)),
    ],
    ids=str,
)
def test_a_blank_volume_is_as_asked_for(node: Node, target: Target) -> None:
    """Format, compatibility, features, size, owner and mode; no space is taken."""
    volume = create_volume(node.connection, blank(HOST, node.pool, "v", target, 64 * MIB))
    path = Path(volume.path())
    found = info(path, target.format)

    assert (64 * MIB, target.format) == (found["virtual-size"], found["format"])
    assert 64 * MIB == volume.info()[1]
    assert written(path) < 2 * MIB
    if target.permissions is not None:
        status = path.stat()
        expected = target.permissions
        assert expected.mode == status.st_mode & 0o7777
        assert (expected.owner, expected.group) == (status.st_uid, status.st_gid)
    if target.format == "qcow2":
        check(path)
        data = found["format-specific"]["data"]
        assert "1.1" == data["compat"]
        assert (target.cluster_size or 65536) == found["cluster-size"]
        assert target.lazy_refcounts == data["lazy-refcounts"]
        assert target.extended_l2 == data["extended-l2"]


def test_a_raw_file_without_copy_on_write_needs_btrfs(node: Node) -> None:
    """libvirt says so, and leaves nothing."""
    made = blank(HOST, node.pool, "v", replace(RAW, nocow=True), MIB)
    with pytest.raises(LibvirtError, match="not btrfs"):
        create_volume(node.connection, made)

    assert [] == node.names()


@pytest.mark.parametrize(
    ("format_", "preallocate", "least", "most"),
    [
        ("raw", "full", 16 * MIB, 17 * MIB),
        ("qcow2", "full", 16 * MIB, 18 * MIB),
        ("qcow2", "metadata", 0, 2 * MIB),
    ],
)
def test_preallocation_takes_the_space(
    node: Node, format_: str, preallocate: Any, least: int, most: int
) -> None:
    """All of it, or only that of the layout."""
    made = blank(HOST, node.pool, "v", Target(format_), 16 * MIB, preallocate)
    path = Path(create_volume(node.connection, made).path())

    assert least <= written(path) <= most
    assert 16 * MIB == info(path, format_)["virtual-size"]


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
@pytest.mark.parametrize("capacity", [None, 16 * MIB])
def test_an_overlay_keeps_what_differs(node: Node, format_: str, capacity: int | None) -> None:
    """Backing file and format are as said, the size is the base's or larger, nothing is copied."""
    raw = node.file("base.raw", base())
    backing = raw
    if format_ == "qcow2":
        backing = str(node.directory / "base.qcow2")
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, backing)
    made = overlay(HOST, node.pool, "v", QCOW2, backing, format_, capacity)
    path = Path(create_volume(node.connection, made).path())
    found = info(path, "qcow2")

    assert (backing, format_) == (found["backing-filename"], found["backing-filename-format"])
    assert (capacity or 8 * MIB) == found["virtual-size"]
    assert "1.1" == found["format-specific"]["data"]["compat"]
    assert written(path) < MIB
    check(path)
    if capacity is None:
        same(path, "qcow2", raw, "raw")


def test_what_is_there_already_and_the_same_is_taken(node: Node) -> None:
    """A second call makes nothing anew: not even another empty file."""
    backing = node.file("base", base())
    for made in (
        blank(HOST, node.pool, "raw", RAW, MIB),
        blank(HOST, node.pool, "qcow2", QCOW2, MIB),
        overlay(HOST, node.pool, "overlay", QCOW2, backing, "raw"),
    ):
        path = create_volume(node.connection, made).path()
        before = os.stat(path)
        assert path == create_volume(node.connection, made).path()
        assert before == os.stat(path)


def test_what_is_there_already_and_another_is_refused(node: Node) -> None:
    """Another size, format or backing file; the file stays."""
    backing = node.file("base", base())
    other = node.file("other", base())
    create_volume(node.connection, overlay(HOST, node.pool, "v", QCOW2, backing, "raw"))
    before = (node.directory / "v").read_bytes()
    for made in (
        overlay(HOST, node.pool, "v", QCOW2, other, "raw"),
        blank(HOST, node.pool, "v", QCOW2, 8 * MIB),
        blank(HOST, node.pool, "v", RAW, 8 * MIB),
        snapshot(HOST, node.pool, "v", RAW, backing, "raw", 8 * MIB),
    ):
        with pytest.raises(VolumeError, match="volume-exists"):
            create_volume(node.connection, made)
    assert before == (node.directory / "v").read_bytes()


def test_a_file_that_the_pool_does_not_know_is_not_overwritten(node: Node) -> None:
    """libvirt refuses, and so do we: the file stays."""
    (node.directory / "v").write_bytes(b"precious")
    with pytest.raises(LibvirtError, match="already exists"):
        create_volume(node.connection, blank(HOST, node.pool, "v", RAW, MIB))

    assert b"precious" == (node.directory / "v").read_bytes()


# LUKS.


def luks_secret(node: Node) -> str:
    """libvirt's secret with a passphrase; its UUID."""
    secret = node.connection.secretDefineXML("<secret ephemeral='no' private='yes'/>")
    secret.setValue(b"open sesame")
    return str(secret.UUIDString())


@pytest.mark.usefixtures("quick_luks")
@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_an_encrypted_volume_is_luks(node: Node, format_: str) -> None:
    """The passphrase is libvirt's secret; the image says luks."""
    target = Target(format_, encryption=luks_secret(node))
    path = create_volume(node.connection, blank(HOST, node.pool, "v", target, MIB)).path()
    if format_ == "raw":
        assert b"LUKS" == Path(path).read_bytes()[:4]
    else:
        assert "luks" == info(path, "qcow2")["format-specific"]["data"]["encrypt"]["format"]


# Copies.


@pytest.mark.parametrize("source_format", ["raw", "qcow2"])
@pytest.mark.parametrize("target", [RAW, QCOW2], ids=["to raw", "to qcow2"])
@pytest.mark.parametrize("capacity", [None, 12 * MIB])
def test_a_copy_is_the_source_grown(
    node: Node, source_format: str, target: Target, capacity: int | None
) -> None:
    """Content equal, flat, and as large as asked for, though createXMLFrom ignores it."""
    raw = node.file("raw", base())
    if source_format == "qcow2":
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, str(node.directory / "qcow2"))
    made = copy(
        HOST, node.pool, "v", target, node.pool, source_format, source_format, capacity or 8 * MIB
    )
    path = create_volume(node.connection, made).path()
    found = info(path, target.format)

    assert (capacity or 8 * MIB) == found["virtual-size"]
    assert "backing-filename" not in found
    same(path, target.format, raw, "raw")
    assert written(Path(path)) < 6 * MIB  # the holes stay holes
    if target.format == "qcow2":
        assert "1.1" == found["format-specific"]["data"]["compat"]
        check(path)


def test_a_copy_is_smaller_than_its_source_never(node: Node) -> None:
    """A raw copy that was asked for smaller is not cut off; libvirt makes it as large."""
    node.file("raw", base())
    made = copy(HOST, node.pool, "v", RAW, node.pool, "raw", "raw", MIB)

    assert 8 * MIB == os.stat(create_volume(node.connection, made).path()).st_size


def test_reflink_shares_the_blocks_on_xfs(start_libvirtd: Callable[..., Libvirtd]) -> None:
    """A raw copy takes no space of its own; on ext4 the same is refused and nothing is left."""
    with mounted("xfs", 320 * MIB) as directory:
        node = Node(start_libvirtd(), directory, "xfs")
        node.file("base", os.urandom(32 * MIB))
        os.sync()
        before = os.statvfs(directory)
        target = replace(RAW, permissions=Permissions(0o640, 12, 34))
        made = copy(HOST, node.pool, "v", target, node.pool, "base", "raw", 32 * MIB, reflink=True)
        volume = create_volume(node.connection, made)
        path = volume.path()
        os.sync()
        after = os.statvfs(directory)
        status = os.stat(path)

        assert (directory / "base").read_bytes() == Path(path).read_bytes()
        assert (before.f_bfree - after.f_bfree) * before.f_frsize < 4 * MIB
        assert (0o640, 12, 34) == (status.st_mode & 0o7777, status.st_uid, status.st_gid)
        assert 32 * MIB == volume.info()[1] == info(path, "raw")["virtual-size"]
        node.connection.close()
        node.libvirtd.stop()


def test_where_there_is_no_reflink_nothing_is_left(
    start_libvirtd: Callable[..., Libvirtd],
) -> None:
    """ext4 cannot: libvirt says so, and the volume is gone."""
    with mounted("ext4", 64 * MIB) as directory:
        node = Node(start_libvirtd(), directory, "ext")
        node.file("base", base(MIB))
        made = copy(HOST, node.pool, "v", RAW, node.pool, "base", "raw", MIB, reflink=True)
        with pytest.raises(LibvirtError, match="failed to clone"):
            create_volume(node.connection, made)

        assert not (directory / "v").exists()
        node.connection.close()
        node.libvirtd.stop()


def test_a_file_systems_pool_is_mounted_on_a_directory_that_is_made(
    start_libvirtd: Callable[..., Libvirtd],
) -> None:
    """Building makes the directory and formats nothing."""
    with loop_device(64 * MIB) as device:
        run("mkfs.ext4", "-q", "-L", "precious", str(device))
        libvirtd = with_devices(start_libvirtd())
        connection = libvirt.open(libvirtd.uri)
        target = libvirtd.directory / "fs"
        document = pool_of("fs", "fs", source=str(device), target=str(target), format="ext4")
        create_pool(connection, document)
        pool = Pool("fs", "fs", str(target))
        volume = create_volume(connection, blank(HOST, pool, "v", QCOW2, MIB))

        assert f"{target}/v" == volume.path()
        assert "precious" == run("blkid", "-p", "-s", "LABEL", "-o", "value", str(device))
        connection.storagePoolLookupByName("fs").destroy()
        connection.close()
        libvirtd.stop()


def with_devices(libvirtd: Libvirtd) -> Libvirtd:
    """The libvirtd, seeing the devices that the kernel makes, partitions among them."""
    run("nsenter", "--mount", "-t", str(libvirtd.pid), "mount", "-t", "devtmpfs", "dev", "/dev")
    return libvirtd


def test_partitions_of_a_disk_pool(start_libvirtd: Callable[..., Libvirtd]) -> None:
    """Blank and copied volumes of a real block device, named as its partitions are."""
    with loop_device(96 * MIB) as device:
        run("parted", "-s", str(device), "mklabel", "gpt")
        libvirtd = with_devices(start_libvirtd())
        node = Node(libvirtd, libvirtd.directory / "files")
        document = pool_of("disk", "disk", source=str(device), format="gpt")
        create_pool(node.connection, document)
        create_pool(node.connection, document)
        pool = Pool("disk", "disk", "/dev")
        first, second, third = (f"{device.name}p{number}" for number in (1, 2, 3))
        raw = node.file("base", base())
        one = create_volume(node.connection, blank(HOST, pool, first, RAW, 16 * MIB))
        copied = copy(HOST, pool, second, RAW, node.pool, "base", "raw", 16 * MIB)
        two = create_volume(node.connection, copied)
        filled = snapshot(HOST, pool, third, RAW, raw, "raw", 8 * MIB)
        three = create_volume(node.connection, filled)

        assert [f"/dev/{name}" for name in (first, second, third)] == [
            each.path() for each in (one, two, three)
        ]
        asked = {one: 16 * MIB, two: 16 * MIB, three: 8 * MIB}
        for volume, size in asked.items():
            # a partition ends where a cylinder of the table does, and is allocated as it is
            _, capacity, allocation = volume.info()
            assert size <= capacity == allocation < size + 8 * MIB
            assert capacity == info(volume.path(), "raw")["virtual-size"]
        mode = replace(RAW, permissions=Permissions(0o640))
        with pytest.raises(VolumeError, match="volume-option"):
            blank(HOST, pool, f"{device.name}p4", mode, MIB)
        for path in (two.path(), three.path()):
            # the partition may be longer than its content
            assert base() == Path(path).read_bytes()[: 8 * MIB]
        # a pool of devices is read back as what it was made from
        with opened(libvirtd.uri) as connection:
            seen = parse_host(observe(connection)).by_name["disk"]
        assert {"raw"} == {volume.format for volume in seen.volumes or ()}
        node.connection.close()
        libvirtd.stop()


# Filling.


@pytest.mark.parametrize("source_format", ["raw", "qcow2"])
@pytest.mark.parametrize(
    ("target", "compress"),
    [
        (RAW, None),
        (QCOW2, None),
        (QCOW2, "zlib"),
        (QCOW2, "zstd"),
        (replace(QCOW2, cluster_size=131072, lazy_refcounts=True, extended_l2=True), "zstd"),
        (replace(QCOW2, permissions=Permissions(0o640, 12, 34)), "zstd"),
    ],
    ids=["raw", "qcow2", "zlib", "zstd", "zstd-features", "zstd-owned"],
)
@pytest.mark.parametrize("size", [8 * MIB, 8 * MIB - 512], ids=["aligned", "odd"])
def test_a_snapshot_is_the_disk_flat(
    node: Node, source_format: str, target: Target, compress: Any, size: int
) -> None:
    """Equal in content and size, without a backing file, and smaller if it is compressed."""
    raw = node.file("base", base()[:size])
    disk = raw
    if source_format == "qcow2":
        disk = str(node.directory / "disk")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", disk)
        run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", disk)
    made = snapshot(HOST, node.pool, "s", target, disk, source_format, size, compress)
    volume = create_volume(node.connection, made)
    path = Path(volume.path())
    found = info(path, target.format)

    same(disk, source_format, path, target.format)
    assert found["virtual-size"] - size in (0, 512)
    assert "backing-filename" not in found
    if target.format == "qcow2":
        check(path)
        data = found["format-specific"]["data"]
        assert ("zstd" if compress == "zstd" else "zlib") == data["compression-type"]
        assert "1.1" == data["compat"]
        assert (target.cluster_size or 65536) == found["cluster-size"]
        assert (target.lazy_refcounts, target.extended_l2) == (
            data["lazy-refcounts"],
            data["extended-l2"],
        )
    if compress:
        assert written(path) < MIB < 4 * MIB <= written(Path(raw))
    if target.permissions is not None:
        status = path.stat()
        assert (0o640, 12, 34) == (status.st_mode & 0o7777, status.st_uid, status.st_gid)
    # libvirt knows the volume as it is now
    assert found["virtual-size"] == volume.info()[1]


def test_a_disk_that_is_open_is_not_read(node: Node) -> None:
    """qemu-img's lock fails; the half-made volume is gone."""
    disk = node.file("disk", base())
    made = snapshot(HOST, node.pool, "s", QCOW2, disk, "raw", 8 * MIB)
    holder = subprocess.Popen(
        ["qemu-io", "-f", "raw", disk],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"read 0 512\n")
        holder.stdin.flush()
        # the prompt comes first, on the same line
        assert b"qemu-io> read" in holder.stdout.readline()
        with pytest.raises(VolumeError, match=r"lock.*volume-fill"):
            create_volume(node.connection, made)
    finally:
        holder.communicate(b"quit\n")

    assert ["disk"] == node.names()


def test_a_target_that_is_too_small_is_removed(node: Node) -> None:
    """A capacity that was said wrong cuts nothing off: it fails."""
    disk = node.file("disk", base())
    made = snapshot(HOST, node.pool, "s", RAW, disk, "raw", MIB)
    with pytest.raises(VolumeError, match="smaller"):
        create_volume(node.connection, made)

    assert ["disk"] == node.names()


def test_an_interrupted_fill_is_removed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while qemu-img runs: no process is left and no volume."""
    disk = node.file("disk", base())
    children = []
    real = subprocess.Popen

    class Interrupted(real):  # type: ignore[valid-type, misc]
        def communicate(self, *arguments: Any, **options: Any) -> Any:
            if "convert" not in self.args:
                return super().communicate(*arguments, **options)
            children.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        create_volume(node.connection, snapshot(HOST, node.pool, "s", RAW, disk, "raw", 8 * MIB))

    assert [True] == [child.returncode is not None for child in children]
    assert ["disk"] == node.names()


def test_filling_is_done_where_the_pool_is() -> None:
    """A remote libvirt's paths are not this machine's."""
    connection = libvirt.open("test:///default")
    pool = Pool("default-pool", "dir", "/default-pool")
    made = snapshot(HOST, pool, "s", RAW, "/etc/hostname", "raw", 512)
    with pytest.raises(VolumeError, match="volume-fill"):
        create_volume(connection, made)


@pytest.mark.parametrize("which", ["source", "target"])
def test_links_are_not_followed(node: Node, which: str) -> None:
    """Whoever can make a link would choose what is read or written."""
    real = node.file("real", base())
    other = node.file("other", base())
    link = str(node.directory / "link")
    os.symlink(real, link)
    before = base()
    how = Fill(*((link, "raw", other) if which == "source" else (other, "raw", link)), "raw")
    with pytest.raises(VolumeError, match="symbolic link"):
        fill(how)

    assert before == Path(real).read_bytes() == Path(other).read_bytes()


def test_a_backing_file_without_a_format_is_not_followed(node: Node) -> None:
    """QEMU would probe it; the remedy is in the message."""
    raw = node.file("base", base())
    disk = str(node.directory / "disk")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", disk)
    # the extension of the header that has the format becomes one that nobody knows
    content = Path(disk).read_bytes()
    assert 1 == content.count(b"\xe2\x79\x2a\xca")
    Path(disk).write_bytes(content.replace(b"\xe2\x79\x2a\xca", b"\x12\x34\x56\x78"))
    assert "backing-filename-format" not in info(disk, "qcow2")
    made = snapshot(HOST, node.pool, "s", QCOW2, disk, "qcow2", 8 * MIB)
    with pytest.raises(VolumeError, match="qemu-img rebase"):
        create_volume(node.connection, made)

    assert ["base", "disk"] == node.names()


def test_an_image_that_keeps_its_data_elsewhere_is_refused(node: Node) -> None:
    """Its header names a file of any kind."""
    disk = str(node.directory / "disk")
    options = f"data_file={node.libvirtd.directory}/data,data_file_raw=on"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, disk, "1M")
    made = snapshot(HOST, node.pool, "s", QCOW2, disk, "qcow2", MIB)
    with pytest.raises(VolumeError, match="volume-chain"):
        create_volume(node.connection, made)


# The guest's header.


def test_libvirt_alone_would_follow_a_header_that_a_guest_wrote(node: Node) -> None:
    """What the tests below are about: by libvirt's own copy the host's file comes out."""
    node.file("disk", guest_written(node.libvirtd))
    source = node.handle.storageVolLookupByName("disk")
    volume = node.handle.createXMLFrom(
        "<volume><name>v</name><target><format type='raw'/></target></volume>", source
    )

    assert SECRET in Path(volume.path()).read_bytes()


@pytest.mark.parametrize("target", [RAW, QCOW2], ids=["to raw", "to qcow2"])
@pytest.mark.parametrize("refreshed", [True, False])
def test_a_copy_never_follows_a_header_that_a_guest_wrote(
    node: Node, target: Target, refreshed: bool
) -> None:
    """Whether or not the pool has seen it yet, the copy is refused and nothing is left."""
    node.file("disk", b"\0" * MIB)
    (node.directory / "disk").write_bytes(guest_written(node.libvirtd))
    if refreshed:
        node.handle.refresh()
    made = copy(HOST, node.pool, "v", target, node.pool, "disk", "raw", MIB)
    with pytest.raises(VolumeError, match="format-disagrees"):
        create_volume(node.connection, made)

    assert ["disk"] == node.names()


def test_a_copy_of_what_has_a_backing_file_is_refused(node: Node) -> None:
    """Also where qcow2 is what was said: only images that stand alone are copied."""
    node.file("disk", guest_written(node.libvirtd))
    made = copy(HOST, node.pool, "v", RAW, node.pool, "disk", "qcow2", MIB)
    with pytest.raises(VolumeError, match="volume-copy"):
        create_volume(node.connection, made)

    assert ["disk"] == node.names()


@pytest.mark.parametrize(
    ("target", "compress"),
    [(RAW, None), (QCOW2, None), (QCOW2, "zlib"), (QCOW2, "zstd")],
    ids=["raw", "qcow2", "zlib", "zstd"],
)
def test_a_snapshot_has_the_bytes_that_a_guest_wrote(
    node: Node, target: Target, compress: Any
) -> None:
    """The header is data like any other; the host's file does not come out."""
    content = guest_written(node.libvirtd)
    disk = node.file("disk", content)
    made = snapshot(HOST, node.pool, "s", target, disk, "raw", MIB, compress)
    path = create_volume(node.connection, made).path()
    out = str(node.libvirtd.directory / "out")
    run("qemu-img", "convert", "-f", target.format, "-O", "raw", path, out)

    assert content == Path(out).read_bytes()
    assert SECRET not in Path(path).read_bytes()


def test_an_overlay_of_it_reads_it_as_raw(node: Node) -> None:
    """The backing format is said, so QEMU does not look."""
    content = guest_written(node.libvirtd)
    disk = node.file("disk", content)
    made = overlay(HOST, node.pool, "v", QCOW2, disk, "raw")
    path = create_volume(node.connection, made).path()
    out = str(node.libvirtd.directory / "out")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, out)

    assert content == Path(out).read_bytes()


def test_an_observed_pool_that_calls_it_qcow2_is_contradicted(node: Node) -> None:
    """Planning with the observed host refuses already, before anything is made."""
    disk = node.file("disk", guest_written(node.libvirtd))
    with opened(node.libvirtd.uri) as connection:
        host = parse_host(observe(connection))
    pool = host.by_name["disks"]
    makers: tuple[Callable[[], Creation], ...] = (
        lambda: overlay(host, pool, "v", QCOW2, disk, "raw"),
        lambda: copy(host, pool, "v", QCOW2, pool, "disk", "raw"),
        lambda: snapshot(host, pool, "v", QCOW2, disk, "raw", MIB),
    )
    for make in makers:
        with pytest.raises(VolumeError, match="format-disagrees"):
            make()


# Snapshots of domains.


def test_libvirt_takes_the_domain_snapshot(node: Node) -> None:
    """Disk-only, of a guest that is shut off: the new file is over the old, others stay."""
    for name in ("a", "b"):
        create_volume(node.connection, blank(HOST, node.pool, name, QCOW2, MIB))
    disks = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
        f"<source file='{node.directory}/{name}'/><target dev='{target}'/></disk>"
        for name, target in (("a", "vda"), ("b", "vdb"))
    )
    xml = (
        "<domain type='qemu'><name>guest</name><memory>65536</memory>"
        f"<os><type arch='x86_64'>hvm</type></os><devices>{disks}</devices></domain>"
    )
    domain = node.connection.defineXML(xml)
    new = f"{node.directory}/a.s1"
    document = domain_snapshot(
        HOST, Document.parse(domain.XMLDesc()), "s1", {"vda": new}, running=False
    )
    domain.snapshotCreateXML(document.text, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
    sources = re.findall(r"<source file='([^']*)'", domain.XMLDesc())

    assert [new, f"{node.directory}/b"] == sources
    assert f"{node.directory}/a" == info(new, "qcow2")["backing-filename"]
