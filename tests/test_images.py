"""Image files: nothing lost, nothing overwritten, no link followed, on real file systems.

Rules
- Disks are full, failing, read-only or others for real: loop devices, not mocks.
- QEMU's own programs say whether a lock holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kills import kills
from loops import MIB, after_power_cut, loop_device, mounted, need_root, run

from xmlkit import images
from xmlkit.images import Identity, ImageError
from xmlkit.rules import RULES
from xmlkit.testing import boot_sector

BLOCK = 4096
WAIT = 120.0  # seconds for what takes one, on the busiest machine


def make(path: Path, layout: str = "a.b", tail: int = 0) -> Path:
    """A file of one block a letter, filled with it, or a hole for a dot; and some more bytes."""
    with path.open("wb") as stream:
        for number, letter in enumerate(layout):
            if letter != ".":
                stream.seek(number * BLOCK)
                stream.write(letter.encode() * BLOCK)
        stream.truncate(len(layout) * BLOCK + tail)
    return path


def data_map(path: Path) -> list[tuple[int, int]]:
    """Start and end of each piece of data."""
    handle = os.open(path, os.O_RDONLY)
    size, found, end = os.fstat(handle).st_size, [], 0
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)  # reserved and read looks like data
    with contextlib.suppress(OSError):
        while end < size:
            start = os.lseek(handle, end, os.SEEK_DATA)
            end = os.lseek(handle, start, os.SEEK_HOLE)
            found.append((start, end))
    os.close(handle)
    return found


def copied(source: Path, target: Path, **more: Any) -> Identity:
    return images.copy(str(source), str(target), expected=images.identity(str(source)), **more)


def refused(id: str, path: object) -> contextlib.AbstractContextManager[object]:
    """An ImageError of this id that names the path."""

    @contextlib.contextmanager
    def check() -> Iterator[None]:
        with pytest.raises(ImageError) as caught:
            yield
        assert id == caught.value.id
        assert str(path) in str(caught.value)
        assert id in RULES

    return check()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Paths.


def test_identity_tells_a_changed_file_and_another_one(tmp_path: Path) -> None:
    """Inode, size and time: an equal file is another one, and so is the same one after a write."""
    path = make(tmp_path / "disk")
    before = images.identity(str(path))

    assert Identity(path.stat().st_ino, 3 * BLOCK, path.stat().st_mtime_ns) == before
    os.utime(path, ns=(0, before.mtime_ns + 1))
    assert before != images.identity(str(path))
    shutil.copy2(path, tmp_path / "other")
    assert images.identity(str(path)) != images.identity(str(tmp_path / "other"))


def test_a_block_device_is_an_image_of_its_own_size() -> None:
    """Its size is not the 0 of its node."""
    with loop_device(3 * MIB) as device:
        assert images.is_image(str(device))
        assert 3 * MIB == images.identity(str(device)).size
        with refused("not-an-image", device):
            images.link(str(device), "/tmp/xmlkit-no-such-name")  # noqa: S108
        with refused("not-an-image", device):
            copied(device, Path("/tmp/xmlkit-no-such-name"))  # noqa: S108


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "directory", "device", "nothing"])
def test_what_is_no_image_is_none(tmp_path: Path, kind: str) -> None:
    """No pipe blocks, no link is followed, even to an image."""
    path = tmp_path / "disk"
    if kind == "link":
        path.symlink_to(make(tmp_path / "real"))
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    id = {"link": "symlink", "dangling": "symlink", "nothing": "no-image"}.get(kind, "not-an-image")

    assert not images.is_image(str(path))
    assert not images.is_linked(str(path), str(path))
    with refused(id, path):
        images.identity(str(path))
    with refused(id, path):
        images.link(str(path), str(tmp_path / "new"))
    with refused(id, path), images.locked(str(path), write=True):
        pass
    assert not os.path.lexists(tmp_path / "new")


@pytest.mark.parametrize(
    "path", ["disk", "", "dir/disk", "/a/../b", "/a/./b", "//a/b", "/a//b", "/a/b/", "/"]
)
def test_a_path_has_one_spelling(path: str) -> None:
    """Absolute, without '.', '..', '//' and what else would spell a path in another way."""
    assert not images.is_image(path)
    with refused("bad-path", path):
        images.identity(path)


def test_every_directory_of_a_path_is_a_real_one(tmp_path: Path) -> None:
    """A link in the middle is refused, with its own name, in source and target alike."""
    (tmp_path / "real/inner").mkdir(parents=True)
    source = make(tmp_path / "real/inner/disk")
    (tmp_path / "link").symlink_to("real")
    through = tmp_path / "link/inner"

    assert not images.is_image(str(through / "disk"))
    with refused("symlink", tmp_path / "link"):
        images.identity(str(through / "disk"))
    with refused("symlink", tmp_path / "link"):
        images.link(str(source), str(through / "new"))
    with refused("symlink", tmp_path / "link"):
        copied(source, through / "new")
    with refused("symlink", tmp_path / "link"):
        images.unlink(str(through / "disk"), expected=images.identity(str(source)), other=None)
    with refused("symlink", tmp_path / "link"):
        images.file_system(str(through))
    with refused("not-an-image", source):
        images.identity(str(source / "disk"))
    with refused("no-image", tmp_path / "none"):
        images.link(str(source), str(tmp_path / "none/disk"))
    assert ["disk"] == os.listdir(tmp_path / "real/inner")


def exchange(a: Path, b: Path) -> None:
    """Swap two names at once: RENAME_EXCHANGE."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert 0 == libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), 2)


@contextlib.contextmanager
def swapping(a: Path, b: Path) -> Iterator[None]:
    """Two names are swapped all the time."""
    end = threading.Event()

    def swap() -> None:
        while not end.is_set():
            exchange(a, b)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def test_a_directory_that_is_swapped_for_a_link_is_never_followed(tmp_path: Path) -> None:
    """Whatever is asked in whatever moment: the place that the link leads to stays as it is."""
    source = make(tmp_path / "disk", "a")
    (tmp_path / "pool").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "swapped").symlink_to("victim")
    victim = make(tmp_path / "victim/old", "v")
    before = images.identity(str(source))
    outcomes: set[str] = set()
    deadline, number = time.monotonic() + WAIT, 0
    with swapping(tmp_path / "pool", tmp_path / "swapped"):
        while number < 150 or not {"done", "symlink"} <= outcomes:
            assert time.monotonic() < deadline, outcomes
            number += 1
            new = str(tmp_path / "pool" / f"disk{number}")
            steps: tuple[Callable[[], object], ...] = (
                lambda new=new: images.link(str(source), new),  # type: ignore[misc]
                lambda new=new: images.copy(str(source), f"{new}c", expected=before),  # type: ignore[misc]
                lambda new=new: images.unlink(new, expected=None, other=str(source)),  # type: ignore[misc]
                lambda: images.unlink(
                    str(tmp_path / "pool/old"), expected=images.identity(str(victim)), other=None
                ),
            )
            for step in steps:
                try:
                    step()
                    outcomes.add("done")
                except ImageError as error:
                    outcomes.add(error.id)

    assert ["old"] == os.listdir(tmp_path / "victim")
    assert outcomes <= {"done", "symlink", "no-image", "image-changed", "target-exists"}
    assert before == images.identity(str(source))


def test_an_image_that_is_swapped_for_a_link_is_never_followed(tmp_path: Path) -> None:
    """What gets a second name, is copied or removed is the image, or nothing."""
    source, secret = make(tmp_path / "disk", "a"), make(tmp_path / "secret", "s")
    (tmp_path / "swapped").symlink_to(secret)
    before, inode = images.identity(str(source)), source.stat().st_ino
    deadline, number, done = time.monotonic() + WAIT, 0, 0
    with swapping(source, tmp_path / "swapped"):
        while number < 150 or not done:
            assert time.monotonic() < deadline
            number += 1
            new = tmp_path / f"new{number}"
            with contextlib.suppress(ImageError):
                images.link(str(source), str(new))
                done += 1
                assert inode == new.lstat().st_ino
            with contextlib.suppress(ImageError):
                images.copy(str(source), f"{new}c", expected=before)
            with contextlib.suppress(ImageError):
                images.unlink(str(new), expected=before, other=None)

    assert 1 == secret.stat().st_nlink
    for path in tmp_path.glob("new*"):
        assert b"a" * BLOCK == path.read_bytes()
        assert not path.is_symlink()


def test_a_link_that_is_swapped_in_before_the_image_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the name and the opening of it."""
    source, secret = make(tmp_path / "disk", "a"), make(tmp_path / "secret", "s")
    (tmp_path / "swapped").symlink_to(secret)
    look = images._found

    def swap(directory: int, name: str) -> os.stat_result | None:
        found = look(directory, name)
        exchange(source, tmp_path / "swapped")
        return found

    monkeypatch.setattr(images, "_found", swap)
    with refused("symlink", source):
        images.identity(str(source))


@pytest.mark.parametrize("step", ["link", "linked before", "copy"])
def test_a_swap_in_the_last_moment_takes_the_step_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What was made in a directory that is elsewhere now goes; what was there before stays."""
    source, pool = make(tmp_path / "disk", "a"), tmp_path / "pool"
    pool.mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "swapped").symlink_to("victim")
    if step == "linked before":
        os.link(source, pool / "disk")
    handles: list[int] = []
    sync = os.fsync

    def swap(handle: int) -> None:
        sync(handle)
        if stat.S_ISDIR(os.fstat(handle).st_mode) and not handles:
            handles.append(handle)
            exchange(pool, tmp_path / "swapped")

    monkeypatch.setattr(os, "fsync", swap)
    with refused("symlink", pool):
        if step == "copy":
            copied(source, pool / "disk")
        else:
            images.link(str(source), str(pool / "disk"))
    assert 1 == len(handles)
    assert [] == os.listdir(tmp_path / "victim")
    assert (["disk"] if step == "linked before" else []) == os.listdir(tmp_path / "swapped")
    assert b"a" * BLOCK == source.read_bytes()


# Hard links.


def test_a_linked_image_has_two_names_and_either_may_go(tmp_path: Path) -> None:
    """Both names are the same file; linking and unlinking twice is once."""
    old, new = str(make(tmp_path / "old")), str(tmp_path / "new")
    before = images.identity(old)
    for _ in range(2):
        images.link(old, new)

    assert images.is_linked(old, new)
    assert before == images.identity(new)
    assert not images.is_copied(old, new)
    for _ in range(2):
        images.unlink(old, expected=before, other=new)
    assert ["new"] == os.listdir(tmp_path)
    assert before == images.identity(new)


def test_a_link_overwrites_nothing(tmp_path: Path) -> None:
    """Neither a file nor a link, dangling or not; and a file is no second name of itself."""
    old, new = make(tmp_path / "old"), make(tmp_path / "new", "x")
    with refused("target-exists", new):
        images.link(str(old), str(new))
    assert b"x" * BLOCK == new.read_bytes()
    (tmp_path / "link").symlink_to("nowhere")
    with refused("target-exists", tmp_path / "link"):
        images.link(str(old), str(tmp_path / "link"))
    with refused("target-exists", old):
        images.link(str(old), str(old))
    assert not images.is_linked(str(old), str(old))
    assert not images.is_linked(str(old), str(new))
    assert not images.is_linked(str(old), str(tmp_path / "none"))


def test_the_last_name_is_never_removed(tmp_path: Path) -> None:
    """`other` has to be another name: not this one, not an equal file, not one that is gone."""
    old, copy = make(tmp_path / "old"), make(tmp_path / "copy")
    for other in (old, copy, tmp_path / "none"):
        with refused("image-changed", old):
            images.unlink(str(old), expected=None, other=str(other))
    with pytest.raises(ValueError, match="expected"):
        images.unlink(str(old), expected=None, other=None)
    assert old.exists()


def test_one_name_seen_through_two_mounts_is_one_name(tmp_path: Path) -> None:
    """Otherwise the only name would be removed as if there were a second one."""
    need_root()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    disk = make(tmp_path / "one/disk")
    run("mount", "--bind", str(tmp_path / "one"), str(tmp_path / "two"))
    try:
        other = tmp_path / "two/disk"
        assert disk.samefile(other)
        assert not images.is_linked(str(disk), str(other))
        with refused("image-changed", other):
            images.unlink(str(other), expected=None, other=str(disk))
        with refused("target-exists", other):
            images.link(str(disk), str(other))
        with refused("other-file-system", tmp_path / "two/new"):  # the kernel says so
            images.link(str(disk), str(tmp_path / "two/new"))
        here, there = (images.file_system(str(tmp_path / name)) for name in ("one", "two"))
        assert (here.device, here.type) == (there.device, there.type)
        assert here.mount != there.mount
    finally:
        run("umount", str(tmp_path / "two"))


def test_what_changed_is_not_removed(tmp_path: Path) -> None:
    """Written to, resized or replaced: it stays."""
    path = make(tmp_path / "disk")
    before = images.identity(str(path))
    with path.open("r+b") as stream:
        stream.write(b"new")
        stream.flush()
        os.utime(path, ns=(0, before.mtime_ns + 1))
    with refused("image-changed", path):
        images.unlink(str(path), expected=before, other=None)
    path.rename(tmp_path / "gone")
    make(path)
    os.utime(path, ns=(0, before.mtime_ns))
    with refused("image-changed", path):
        images.unlink(str(path), expected=before, other=None)
    assert path.exists()


def test_what_is_swapped_in_after_the_last_look_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes is the file that was looked at, not what has its name by then."""
    path, other = make(tmp_path / "disk"), make(tmp_path / "other", "x")

    def swap(a: str, b: str) -> bool:
        exchange(path, other)
        return True

    monkeypatch.setattr(images, "is_linked", swap)
    with refused("image-changed", path):
        images.unlink(str(path), expected=None, other=str(tmp_path / "second"))
    assert b"x" * BLOCK == path.read_bytes()


AS_NOBODY = """
import os, sys
from xmlkit import images
os.setresuid(65534, 65534, 65534)
try:
    images.link(*sys.argv[1:])
except images.ImageError as error:
    print(error.id, error)
"""


def test_who_may_not_link_is_told_to_be_root() -> None:
    """The kernel's word for it is that of a file system without links."""
    with mounted("tmpfs", MIB) as directory:
        directory.chmod(0o777)
        old, new = make(directory / "old", "a"), directory / "new"
        old.chmod(0o644)
        told = run(sys.executable, "-c", AS_NOBODY, str(old), str(new))
        protected = Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1"

        assert protected != new.exists()
        assert not protected or told.startswith("not-permitted ")
        assert not protected or "run as root" in told


def test_each_reason_against_a_link_has_its_id(tmp_path: Path) -> None:
    """Another file system, a read-only one, too many names, an image that must not change."""
    old = make(tmp_path / "old", "a")
    with mounted("ext4", 32 * MIB) as other:
        with refused("other-file-system", other / "new"):
            images.link(str(old), str(other / "new"))
        many = make(other / "many", "a")
        run("chattr", "+i", str(many))
        try:
            with refused("no-links", many):
                images.link(str(many), str(other / "new"))
        finally:
            run("chattr", "-i", str(many))
        facts = images.file_system(str(other))
        assert ("ext4", True, False, 65000) == (
            *(facts.type, facts.links, facts.read_only),
            facts.max_links,
        )
        (other / "names").mkdir()
        handle = os.open(other / "names", os.O_RDONLY)
        for number in range(65000 - 1):
            os.link(many, str(number), dst_dir_fd=handle)
        os.close(handle)
        with refused("too-many-links", other / "new"):
            images.link(str(many), str(other / "new"))
        run("mount", "-o", "remount,ro", str(other))
        assert images.file_system(str(other)).read_only
        with refused("read-only", other / "new"):
            images.link(str(many), str(other / "new"))
        with refused("read-only", other / "new"):
            copied(many, other / "new")


def test_a_file_system_says_what_it_is() -> None:
    """Its free bytes are those of df; a limit of links that nobody knows is not made up."""
    with mounted("tmpfs", 8 * MIB) as directory:
        facts = images.file_system(str(directory))
        assert ("tmpfs", 8 * MIB, True, None, False) == (
            *(facts.type, facts.free, facts.links),
            *(facts.max_links, facts.read_only),
        )
        assert directory.stat().st_dev == facts.device
        assert facts.mount == images.file_system(str(directory)).mount
        assert facts.mount != images.file_system("/").mount


# Copies.


@given(
    blocks=st.lists(
        st.tuples(st.integers(0, 400), st.integers(1, 70), st.sampled_from("zaf")), max_size=6
    ),
    tail=st.integers(0, BLOCK),
    reserved=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_a_copy_has_the_content_and_the_holes(
    tmp_path_factory: pytest.TempPathFactory,
    blocks: list[tuple[int, int, str]],
    tail: int,
    reserved: bool,
) -> None:
    """Data (zeros too), holes, reserved space and an odd end, wherever they are."""
    directory = tmp_path_factory.mktemp("sparse")
    source, target = directory / "source", directory / "target"
    with source.open("wb") as stream:
        stream.truncate(400 * BLOCK + tail)
        if reserved:
            os.posix_fallocate(stream.fileno(), 0, 400 * BLOCK + tail)
        for start, count, kind in blocks:
            if kind == "f":
                os.posix_fallocate(stream.fileno(), start * BLOCK, count * BLOCK)
            else:
                stream.seek(start * BLOCK)
                stream.write((b"\0" if kind == "z" else b"a") * (count * BLOCK))
                stream.flush()
    seen: list[tuple[int, int]] = []
    made = copied(source, target, progress=lambda done, total: seen.append((done, total)))

    assert source.read_bytes() == target.read_bytes()
    assert data_map(source) == data_map(target)
    assert images.identity(str(target)) == made
    assert images.is_copied(str(source), str(target))
    if reserved:
        assert target.stat().st_blocks * 512 >= target.stat().st_size
    assert seen == sorted(seen)
    assert not seen or seen[-1][0] == seen[-1][1]
    shutil.rmtree(directory)


@pytest.mark.parametrize("fstype", ["ext4", "tmpfs", "xfs"])
def test_a_copy_to_another_file_system_has_the_content_and_the_holes(
    tmp_path: Path, fstype: str
) -> None:
    """Where the kernel does not copy for us, we do."""
    source = make(tmp_path / "disk", "a..bb." + 300 * "." + 300 * "c" + ".", 17)
    with mounted(fstype, 320 * MIB) as other:
        copied(source, other / "disk")
        assert source.read_bytes() == (other / "disk").read_bytes()
        assert data_map(source) == data_map(other / "disk")
        assert images.is_copied(str(source), str(other / "disk"))
        assert ["disk"] == sorted(set(os.listdir(other)) - {"lost+found"})


def test_a_copy_within_xfs_shares_its_blocks() -> None:
    """It takes no space, whatever its size: an image larger than what is free can be copied."""
    with mounted("xfs", 320 * MIB) as directory:
        source = directory / "disk"
        with source.open("wb") as stream:
            stream.write(os.urandom(160 * MIB))
        assert images.file_system(str(directory)).free < 160 * MIB
        seen: list[tuple[int, int]] = []
        copied(source, directory / "copy", progress=lambda *step: seen.append(step))
        assert [(160 * MIB, 160 * MIB)] == seen
        assert images.is_copied(str(source), str(directory / "copy"))


def test_a_copy_keeps_owner_mode_times_and_attributes(tmp_path: Path) -> None:
    """But not libvirt's count of who uses the old inode, nor what the new directory would add."""
    need_root()
    source = make(tmp_path / "disk")
    other = tmp_path / "pool"
    other.mkdir()
    os.chown(source, 64055, 107)
    source.chmod(0o640)
    os.setxattr(source, "user.note", b"kept")
    os.setxattr(source, "security.selinux", b"system_u:object_r:svirt_image_t:s0\0")
    os.setxattr(source, "trusted.other", b"kept")
    os.setxattr(source, "trusted.libvirt.security.ref_dac", b"1")
    os.setxattr(source, "trusted.libvirt.security.dac", b"+0:+0")
    os.utime(source, ns=(10**18 + 1, 10**18 + 2))
    run("setfacl", "-d", "-m", "u:1234:rwx", str(other))
    copied(source, other / "disk")

    facts = (other / "disk").stat()
    assert (64055, 107, 0o100640) == (facts.st_uid, facts.st_gid, facts.st_mode)
    assert 10**18 + 2 == facts.st_mtime_ns
    assert {"user.note", "security.selinux", "trusted.other"} == set(os.listxattr(other / "disk"))
    assert b"kept" == os.getxattr(other / "disk", "user.note")


def test_an_access_list_is_kept(tmp_path: Path) -> None:
    """Mode and list together say who may read a disk."""
    source = make(tmp_path / "disk")
    source.chmod(0o600)
    run("setfacl", "-m", "u:1234:r", str(source))
    copied(source, tmp_path / "copy")

    acl = "system.posix_acl_access"
    assert os.getxattr(source, acl) == os.getxattr(tmp_path / "copy", acl)
    assert source.stat().st_mode == (tmp_path / "copy").stat().st_mode


def test_a_file_system_without_an_attribute_of_the_image_is_refused(tmp_path: Path) -> None:
    """An access list that is silently lost would lock QEMU out, or let somebody in."""
    source = make(tmp_path / "disk")
    run("setfacl", "-m", "u:1234:r", str(source))
    with mounted("ramfs", MIB) as other:
        with refused("attributes", other / "disk"):
            copied(source, other / "disk")
        assert [] == os.listdir(other)
        run("setfacl", "-b", str(source))
        os.setxattr(source, "security.selinux", b"system_u:object_r:svirt_image_t:s0\0")
        copied(source, other / "disk")  # all of it has the label of the mount
        assert source.read_bytes() == (other / "disk").read_bytes()


def test_a_copy_overwrites_nothing(tmp_path: Path) -> None:
    """Neither what was there before nor what appears meanwhile."""
    source, target = make(tmp_path / "disk"), tmp_path / "new"

    def appear() -> None:
        make(target, "y")

    make(target, "x")
    with refused("target-exists", target):
        copied(source, target)
    target.unlink()
    with refused("target-exists", target):
        copied(source, target, progress=lambda done, total: appear())
    assert b"y" * BLOCK == target.read_bytes()
    assert ["disk", "new"] == sorted(os.listdir(tmp_path))


@pytest.mark.parametrize("how", ["before", "meanwhile", "replaced"])
def test_an_image_that_changes_is_not_copied(tmp_path: Path, how: str) -> None:
    """Neither after it was looked at nor while it is copied; nothing is left."""
    source, target = make(tmp_path / "disk"), tmp_path / "new"
    before = images.identity(str(source))

    def change(done: int = 0, total: int = 0) -> None:
        if how == "replaced":
            shutil.copy2(source, tmp_path / "other")
            os.replace(tmp_path / "other", source)
        else:
            os.utime(source, ns=(0, before.mtime_ns + 1))

    if how == "before":
        change()
    with refused("image-changed", source):
        images.copy(str(source), str(target), expected=before, progress=change)
    assert ["disk"] == os.listdir(tmp_path)


def test_what_the_disk_holds_counts_not_what_was_written() -> None:
    """A byte that the disk lost is found, though the page cache still has it."""
    with mounted("ext4", 64 * MIB) as here, mounted("ext4", 64 * MIB) as there:
        source = make(here / "disk", 100 * "q" + "m" + 100 * "q")
        device = Path(run("findmnt", "-n", "-o", "SOURCE", str(there)))
        disk = Path(Path("/sys/block", device.name, "loop/backing_file").read_text().strip())
        lost = False

        def lose(done: int, total: int) -> None:
            nonlocal lost
            if done * 2 >= total and not lost:
                lost = True
                os.sync()
                content = disk.read_bytes()
                assert 1 == content.count(b"m" * BLOCK)
                with disk.open("r+b") as stream:
                    stream.seek(content.index(b"m" * BLOCK) + 7)
                    stream.write(b"!")

        with refused("copy-differs", there / "disk"):
            copied(source, there / "disk", progress=lose)
        assert lost
        assert ["lost+found"] == os.listdir(there)


def test_equal_content_is_what_is_copied(tmp_path: Path) -> None:
    """A hole and zeros are equal; a byte more, a byte else or the same file are not."""
    source, other = make(tmp_path / "disk", "a..b"), make(tmp_path / "other", "a..b")
    with other.open("r+b") as stream:
        stream.seek(BLOCK)
        stream.write(bytes(BLOCK))

    assert data_map(source) != data_map(other)
    assert images.is_copied(str(source), str(other))
    assert not images.is_copied(str(source), str(source))
    assert not images.is_copied(str(source), str(tmp_path / "none"))
    assert not images.is_copied(str(source), str(make(tmp_path / "longer", "a..b", 1)))
    assert not images.is_copied(str(source), str(make(tmp_path / "else", "a.cb")))
    with refused("no-image", tmp_path / "none"):
        images.is_copied(str(tmp_path / "none"), str(source))


def test_space_is_counted_before_and_ends_cleanly_meanwhile(tmp_path: Path) -> None:
    """What is allocated counts, not the size; and a disk that fills up leaves nothing."""
    source = make(tmp_path / "disk", 1500 * "a" + 10000 * ".")
    with mounted("tmpfs", 8 * MIB) as small:
        copied(source, small / "fits")  # 6 MiB of 45
        (small / "fits").unlink()
        make(small / "other", 1000 * "x")
        calls: list[int] = []
        with refused("no-space", small / "disk"):
            copied(source, small / "disk", progress=lambda done, total: calls.append(done))
        assert [] == calls
        (small / "other").unlink()

        def fill(done: int, total: int) -> None:
            with contextlib.suppress(OSError):
                make(small / "other", 2000 * "x")

        with refused("no-space", small / "disk"):
            copied(source, small / "disk", progress=fill)
        assert ["other"] == os.listdir(small)


def test_an_interrupted_copy_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C in its middle."""
    source = make(tmp_path / "disk", 1000 * "a")

    def interrupt(done: int, total: int) -> None:
        assert [".xmlkit-new", "disk"] == sorted(os.listdir(tmp_path))
        assert 0o600 == stat.S_IMODE((tmp_path / ".xmlkit-new").stat().st_mode)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copied(source, tmp_path / "new", progress=interrupt)
    assert ["disk"] == os.listdir(tmp_path)


COPIER = """
import sys, time
from xmlkit import images
source, target = sys.argv[1:]
def wait(done, total):
    print("copying", flush=True)
    time.sleep(600)
images.copy(source, target, expected=images.identity(source), progress=wait)
"""


def test_a_copy_that_goes_on_is_left_alone_and_a_dead_one_is_removed(tmp_path: Path) -> None:
    """Whether its process lives is the kernel's word."""
    source, target = make(tmp_path / "disk", 1000 * "a"), tmp_path / "new"
    command = [sys.executable, "-c", COPIER, str(source), str(target)]
    for how in ("copy", "discard"):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
            try:
                assert other.stdout
                assert b"copying\n" == other.stdout.readline()
                with refused("image-in-use", target):
                    copied(source, target)
                with refused("image-in-use", target):
                    images.discard(str(target))
                assert [".xmlkit-new", "disk"] == sorted(os.listdir(tmp_path))
            finally:
                other.kill()
        assert [".xmlkit-new", "disk"] == sorted(os.listdir(tmp_path))
        if how == "copy":
            copied(source, target)
            assert source.read_bytes() == target.read_bytes()
            target.unlink()
        else:
            for _ in range(2):
                images.discard(str(target))
        assert ["disk"] == os.listdir(tmp_path)


def test_only_a_file_is_removed_as_left_over(tmp_path: Path) -> None:
    """A link or a directory of that name is nobody's copy."""
    source, target = make(tmp_path / "disk"), tmp_path / "new"
    left = tmp_path / ".xmlkit-new"
    for kind in ("link", "directory"):
        if kind == "link":
            left.symlink_to(source)
        else:
            left.unlink()
            left.mkdir()
        with refused("target-exists", left):
            copied(source, target)
        with refused("target-exists", left):
            images.discard(str(target))
    assert [".xmlkit-new", "disk"] == sorted(os.listdir(tmp_path))


# Kills and power cuts.

SETUP = """
import sys
from xmlkit import images
source, target = sys.argv[1:3]
before = images.identity(source) if images.is_image(source) else None
"""


def test_a_kill_at_any_step_of_a_copy_loses_nothing(tmp_path: Path) -> None:
    """The target is complete or not there, and what is left over goes."""
    source, target = make(tmp_path / "disk", "a.b", 5), tmp_path / "new"
    content, before, left = source.read_bytes(), images.identity(str(source)), 0
    for _ in kills(SETUP, "images.copy(source, target, expected=before)", source, target):
        assert before == images.identity(str(source))
        assert content == source.read_bytes()
        if target.exists():
            assert images.is_copied(str(source), str(target))
        left += (tmp_path / ".xmlkit-new").exists()
        images.discard(str(target))
        assert {"disk"} == set(os.listdir(tmp_path)) - {"new"}
        target.unlink(missing_ok=True)
    assert left > 5


def test_a_kill_at_any_step_of_a_move_keeps_a_name(tmp_path: Path) -> None:
    """Link and unlink: at every moment there is the image, under one name or both."""
    source, target = make(tmp_path / "disk"), tmp_path / "new"
    before = images.identity(str(source))
    move = "(images.link(source, target), images.unlink(source, expected=None, other=target))"
    seen = set()
    for _ in kills(SETUP, move, source, target):
        names = tuple(sorted(os.listdir(tmp_path)))
        seen.add(names)
        for name in names:
            assert before == images.identity(str(tmp_path / name))
        if not source.exists():
            target.rename(source)
        target.unlink(missing_ok=True)
    assert {("disk",), ("disk", "new"), ("new",)} == seen


def test_what_is_done_survives_a_power_cut(tmp_path: Path) -> None:
    """As soon as it has returned, without a sync of anybody else."""
    with mounted("ext4", 64 * MIB) as here:
        source = make(here / "disk", "a.b")
        (here / "pool").mkdir()
        os.sync()
        images.link(str(source), str(here / "pool/disk"))
        with after_power_cut(here) as then:
            assert (then / "disk").samefile(then / "pool/disk")
        copied(source, here / "pool/copy")
        with after_power_cut(here) as then:
            assert source.read_bytes() == (then / "pool/copy").read_bytes()
        images.unlink(str(source), expected=None, other=str(here / "pool/disk"))
        with after_power_cut(here) as then:
            assert not (then / "disk").exists()
            assert (here / "pool/disk").read_bytes() == (then / "pool/disk").read_bytes()


# QEMU's locks.


def qemu_io(path: Path, *options: str, command: str = "read 0 512") -> str:
    """What qemu-io says of a command; it ends with 0 whatever happens."""
    done = subprocess.run(
        ["qemu-io", "-f", "raw", *options, "-c", command, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT,
    )
    return done.stdout + done.stderr


def test_what_is_locked_no_qemu_opens(tmp_path: Path) -> None:
    """For reading: others read; for writing: others do nothing. Afterwards, everything."""
    disk = make(tmp_path / "disk")
    for _ in range(2):
        with images.locked(str(disk), write=False), images.locked(str(disk), write=False):
            assert 'Failed to get "write" lock' in qemu_io(disk, command="write 0 512")
            assert "read 512/512" in qemu_io(disk, "-r")
            with refused("image-in-use", disk), images.locked(str(disk), write=True):
                pass
        with images.locked(str(disk), write=True):
            assert "lock" in qemu_io(disk, command="write 0 512")
            assert "lock" in qemu_io(disk, "-r")
            with refused("image-in-use", disk), images.locked(str(disk), write=False):
                pass
            assert images.is_image(str(disk))  # opening and closing it here leaves the lock
            assert "lock" in qemu_io(disk, "-r")
        assert "wrote 512/512" in qemu_io(disk, command="write -P 97 0 512")


@contextlib.contextmanager
def opened_by_qemu(path: Path, *options: str) -> Iterator[None]:
    """A qemu-io that has the image open."""
    command = ["qemu-io", "-f", "raw", *options, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"read 0 512\n")
        process.stdin.flush()
        while b"read 512/512" not in process.stdout.readline():
            assert process.poll() is None
        try:
            yield
        finally:
            process.kill()


def test_what_a_qemu_has_open_is_in_use(tmp_path: Path) -> None:
    """Whoever only reads it shares it with us; who is killed has it no longer."""
    disk = make(tmp_path / "disk")
    with opened_by_qemu(disk):
        for write in (True, False):
            with refused("image-in-use", disk), images.locked(str(disk), write=write):
                pass
    with opened_by_qemu(disk, "-r"):
        with refused("image-in-use", disk), images.locked(str(disk), write=True):
            pass
        with images.locked(str(disk), write=False):
            pass
    with images.locked(str(disk), write=True):
        pass


def test_a_guest_and_a_copy_exclude_each_other(tmp_path: Path) -> None:
    """A guest that boots and writes; its base may be copied, its disk not, and the reverse."""
    base, disk = tmp_path / "base", tmp_path / "disk"
    base.write_bytes(boot_sector())
    os.truncate(base, MIB)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(disk))
    serial = tmp_path / "serial"
    command = ["qemu-system-x86_64", "-machine", "pc,accel=tcg", "-m", "16", "-nodefaults"]
    command += ["-display", "none", "-serial", f"file:{serial}"]
    command += ["-drive", f"file={disk},format=qcow2,if=virtio"]
    with images.locked(str(disk), write=False):
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
        assert 1 == done.returncode
        assert 'Failed to get "write" lock' in done.stderr
    with subprocess.Popen(command) as guest:
        try:
            wait_for(lambda: serial.exists() and b"W" in serial.read_bytes())
            for write in (True, False):
                with refused("image-in-use", disk), images.locked(str(disk), write=write):
                    pass
            with refused("image-in-use", base), images.locked(str(base), write=True):
                pass
            with images.locked(str(base), write=False):
                copied(base, tmp_path / "copy")
            assert guest.poll() is None
        finally:
            guest.kill()
    with images.locked(str(disk), write=True):
        pass


def test_a_lock_goes_with_its_block_and_its_errors_stay_the_callers(tmp_path: Path) -> None:
    """An OSError within is not taken for one of the lock."""
    disk = make(tmp_path / "disk")
    with pytest.raises(BrokenPipeError), images.locked(str(disk), write=True):
        raise BrokenPipeError
    assert "wrote 512/512" in qemu_io(disk, command="write 0 512")


def test_a_copys_identity_is_told_before_it_has_its_name(tmp_path: Path) -> None:
    """Who is killed right then can know the copy by it; who cannot note it down gets no copy."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"content")
    told: list[tuple[Identity, bool]] = []

    made = copied(source, target, ready=lambda known: told.append((known, target.exists())))
    assert [(made, False)] == told
    assert made == images.identity(str(target))
    target.unlink()

    def fails(_: Identity) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        copied(source, target, ready=fails)
    assert [source] == list(tmp_path.iterdir())
