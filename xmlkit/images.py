"""Image files: linked, copied, removed and locked, so that none is ever lost or exposed.

Laws
- A path is walked from "/" directory by directory, none of them a symbolic link; what is done is
  done relative to the directory that was opened. A link on the way, or one that is swapped in
  between check and use, is refused.
- Nothing is overwritten. A target that exists is complete and durable: a copy grows under another
  name beside it, `.xmlkit-NAME`, and gets its own when it has been compared and synced.
- All but `locked` can be done twice. What is removed is what was expected, or it stays.
- QEMU's locks are kept: no QEMU starts on an image that is `locked`; none that runs is disturbed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from xmlkit.errors import XmlkitError

TEMPORARY = ".xmlkit-"

_CHUNK = 1024 * 1024  # what is read and compared at once
_STEP = 16 * _CHUNK  # what the kernel copies between two calls of `progress`
_FICLONE = 0x40049409
_RENAME_NOREPLACE = 1
_NO_SUCH_CALL = {
    *(errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EPERM),
    *(errno.ETXTBSY, errno.EBADF),
}
# File systems without hard links, as /proc/self/mountinfo names them.
_LINKLESS = {"exfat", "msdos", "vfat"}
# glibc's answer for a file system that it does not know.
_LINK_MAX_UNKNOWN = 127

# What a copy does not get, by the reason.
# libvirt's memory of the owner and of how many guests use this inode: the copy is used by none, and
# libvirt would refuse to start a guest on it, or "restore" it. EVM's signature is of the inode.
_NOT_COPIED = re.compile(r"trusted\.libvirt\.security\.|security\.evm$")

# QEMU's permissions, each a byte in block/file-posix.c's locks: from 100 on for who has it, from
# 200 on for who does not share it.
_HAVE, _DENY = 100, 200
_CONSISTENT_READ, _WRITE, _WRITE_UNCHANGED, _RESIZE = range(4)


class ImageError(XmlkitError):
    """A file that cannot be used as asked; `id` is one of xmlkit.rules, nothing was changed."""

    def __init__(self, id: str, message: str) -> None:
        self.id = id
        super().__init__(message)


class Identity(NamedTuple):
    """Which file it is, in which state: inode, size in bytes, time of the last change in ns.

    The device is left out: its number may change when a file system is mounted again. A block
    device's lasts as long as its node in /dev.
    """

    inode: int
    size: int
    mtime_ns: int


class FileSystem(NamedTuple):
    """What a directory's file system can do.

    `device` is st_dev; `mount` the mount's id: hard links need the same of both, since a bind mount
    of one file system is another mount. `free` is in bytes, without what is reserved for root;
    `links` whether hard links exist there, `max_links` how many a file may have, None if unknown.
    """

    device: int
    mount: int
    type: str
    free: int
    links: bool
    max_links: int | None
    read_only: bool


def identity(path: str) -> Identity:
    """The identity of a regular file or a block device.

    Raises ImageError: no-image, symlink, not-an-image, bad-path.
    """
    with opened(path) as image:
        return _identity(image)


def is_image(path: str) -> bool:
    """Whether there is a regular file or a block device, with no symbolic link on the way."""
    try:
        with parent_of(path) as (directory, name):
            return _is_image(os.stat(name, dir_fd=directory, follow_symlinks=False))
    except (ImageError, OSError):
        return False


def is_linked(a: str, b: str) -> bool:
    """Whether these are two names of one file: one may be removed without losing it.

    One name that is seen through two mounts is one name.
    """
    try:
        with parent_of(a) as (directory_a, name_a), parent_of(b) as (directory_b, name_b):
            found_a = os.stat(name_a, dir_fd=directory_a, follow_symlinks=False)
            found_b = os.stat(name_b, dir_fd=directory_b, follow_symlinks=False)
            return (
                stat.S_ISREG(found_a.st_mode)
                and os.path.samestat(found_a, found_b)
                and not _one_name(directory_a, name_a, directory_b, name_b)
            )
    except (ImageError, OSError):
        return False


def file_system(path: str) -> FileSystem:
    """What the file system of the directory `path` can do.

    Raises ImageError: no-image, symlink, not-an-image, bad-path.
    """
    with directory_of(path) as directory:
        facts = os.statvfs(directory)
        with open(f"/proc/self/fdinfo/{directory}") as lines:
            mount = int(next(line for line in lines if line.startswith("mnt_id:")).split()[1])
        with open("/proc/self/mountinfo") as lines:
            mounts = (line.split() for line in lines)
            fields = next((each for each in mounts if each[0] == str(mount)), ["-", "unknown"])
        kind = fields[fields.index("-") + 1]
        try:
            most = os.fpathconf(directory, "PC_LINK_MAX")
        except OSError:
            most = _LINK_MAX_UNKNOWN
        return FileSystem(
            device=os.fstat(directory).st_dev,
            mount=mount,
            type=kind,
            free=facts.f_bavail * facts.f_frsize,
            links=kind not in _LINKLESS,
            max_links=most if most not in (-1, _LINK_MAX_UNKNOWN) else None,
            read_only=bool(facts.f_flag & os.ST_RDONLY),
        )


def link(source: str, target: str) -> None:
    """Give the file `source` a second name, `target`, and make it durable.

    Nothing happens if it has that name already. Raises ImageError: target-exists,
    other-file-system, no-links, too-many-links, and those of `identity` and of the system.
    """
    with (
        reported(target, source),
        opened(source) as image,
        parent_of(source) as (old, old_name),
        parent_of(target) as (new, name),
    ):
        facts = os.fstat(image)
        if not stat.S_ISREG(facts.st_mode):
            raise ImageError(
                "not-an-image",
                f"{source} is a block device, which needs no second name: change the XML alone",
            )
        if (found := _found(new, name)) is not None:
            if not os.path.samestat(facts, found) or _one_name(old, old_name, new, name):
                raise _exists(target)
        elif facts.st_dev != os.fstat(new).st_dev:
            raise _elsewhere(f"{source} and {target}")
        else:
            # By its handle, so that it is this file that is linked, whatever is under its name now.
            try:
                os.link(f"/proc/self/fd/{image}", name, dst_dir_fd=new, follow_symlinks=True)
            except OSError as error:
                # of another user's image the kernel says EPERM too (protected_hardlinks)
                is_root = os.geteuid() == 0
                if error.errno not in (errno.EPERM if is_root else 0, errno.EOPNOTSUPP):
                    raise
                raise ImageError(
                    "no-links",
                    f"{source} can have no second name ({error.strerror}): its file system has no "
                    "hard links (use --copy), or it must not change (see lsattr)",
                ) from error
        os.fsync(new)
        _confirm(target, image, new, name, made=found is None)


def copy(
    source: str,
    target: str,
    *,
    expected: Identity,
    progress: Callable[[int, int], None] | None = None,
    ready: Callable[[Identity], None] = lambda made: None,
) -> Identity:
    """Copy the file `source`, which has to be `expected` before and after, and return the copy's.

    Shared blocks (FICLONE) where the file system can; otherwise data is copied, holes stay holes, a
    wholly allocated image stays one, and both are read again from their disks and compared.
    Shared blocks are not: they are the same blocks. Owner, mode, times and extended attributes are
    kept, but libvirt's trusted.libvirt.security.*, which count the users of the old inode.

    Parameters:
        progress: called with the bytes done and their sum, of copying and comparing.
        ready: called with the copy's identity before it gets its name, so that whoever finds it
            there can know whose it is.

    Raises ImageError: target-exists, image-changed, image-in-use (somebody else copies there),
    no-space, attributes, copy-differs, and those of `identity` and of the system. However it
    ends, the target is complete or not there; only a kill leaves `.xmlkit-NAME` (see `discard`).
    """
    with (
        reported(target, source),
        opened(source) as image,
        parent_of(target) as (directory, name),
    ):
        if not stat.S_ISREG(os.fstat(image).st_mode):
            raise ImageError("not-an-image", f"{source} is a block device: copy it by hand")
        _check(image, expected, source)
        if _found(directory, name) is not None:
            raise _exists(target)
        temporary = TEMPORARY + name
        _discard(directory, name, target)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with reported(target):
            new = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            _flock(new, target)
            os.fdatasync(image)  # what waits to be written may still look like a hole
            _fill(image, new, source, target, progress)
            dress(image, new, target)
            facts = os.fstat(image)
            os.utime(new, ns=(facts.st_atime_ns, facts.st_mtime_ns))
            os.fsync(new)
            _check(image, expected, source)
            with opened(source) as now:
                _check(now, expected, source)
            ready(_identity(new))
            with reported(target):
                rename(directory, temporary, directory, name)
                os.fsync(directory)
            _confirm(target, new, directory, name, made=True)
            return _identity(new)
        finally:
            _unlink_if(new, directory, temporary)  # after the rename nothing has this name
            os.close(new)


def discard(target: str) -> None:
    """Remove what a copy to `target` that was killed left beside it; nothing if there is nothing.

    Raises ImageError: image-in-use if the copy still goes on, and those of `identity`.
    """
    with reported(target), parent_of(target) as (directory, name):
        if _discard(directory, name, target):
            os.fsync(directory)


def is_copied(source: str, target: str) -> bool:
    """Whether `target` is another file of the same content, durably; False if there is none.

    Both are read from their disks. Raises ImageError: those of `identity`.
    """
    with (
        reported(source, target),
        opened(source) as image,
        parent_of(target) as (directory, name),
    ):
        if _found(directory, name) is None:
            return False
        with opened(target) as other:
            if os.path.sameopenfile(image, other) or not _same(image, other):
                return False
            os.fsync(other)
            os.fsync(directory)  # whoever copied it may have been killed before
            return True


def unlink(path: str, *, expected: Identity | None, other: str | None) -> None:
    """Remove the name `path`, durably; nothing happens if it is not there.

    Parameters:
        expected: remove it only if it still is this file in this state.
        other: remove it only if `other` is another name of the same file.

    One of the two has to be given. Raises ImageError: image-changed, and those of `identity`.
    """
    if expected is None and other is None:
        raise ValueError("say what is expected to be removed")
    with reported(path), parent_of(path) as (directory, name):
        if _found(directory, name) is not None:
            with opened(path) as image:
                if expected is not None:
                    _check(image, expected, path)
                if other is not None and not is_linked(path, other):
                    raise ImageError(
                        "image-changed",
                        f"{path} and {other} are not two names of one file: nothing was removed, "
                        "look at both (ls -li)",
                    )
                if not _unlink_if(image, directory, name):
                    raise _changed(path)
        os.fsync(directory)


@contextlib.contextmanager
def locked(path: str, *, write: bool) -> Iterator[None]:
    """Hold QEMU's locks on an image: no QEMU can open it in a way that is denied meanwhile.

    Without `write`, others may read it (as the base of an overlay) but not write or resize it; with
    it, none may use it. They are locks of an open file (F_OFD_SETLK), so they go with the process,
    and do not disturb each other when a file is opened twice. Source: raw_apply_lock_bytes and
    raw_check_lock_bytes in QEMU's block/file-posix.c, since 2.10; `qemu-img -U` overrides them.

    Raises ImageError: image-in-use, and those of `identity`.
    """
    with opened(path) as image:
        with reported(path):
            _take(image, path, write)
        yield


def _take(image: int, path: str, write: bool) -> None:
    everything = (_CONSISTENT_READ, _WRITE, _WRITE_UNCHANGED, _RESIZE)
    have = everything if write else (_CONSISTENT_READ,)
    deny = everything if write else (_WRITE, _RESIZE)
    # As QEMU does: say what we do, then look whether another one minds. Of two that start at once
    # at least one sees the other.
    for byte in (*(_HAVE + bit for bit in have), *(_DENY + bit for bit in deny)):
        if not _lock_byte(image, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, byte):
            raise _in_use(path)
    for byte in (*(_DENY + bit for bit in have), *(_HAVE + bit for bit in deny)):
        if not _lock_byte(image, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, byte):
            raise _in_use(path)


def _lock_byte(image: int, command: int, kind: int, byte: int) -> bool:
    """Whether the lock was got (SETLK), or could be got (GETLK)."""
    try:
        answer = fcntl.fcntl(image, command, struct.pack("hhqqi4x", kind, 0, byte, 1, 0))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return command == fcntl.F_OFD_SETLK or struct.unpack_from("h", answer)[0] == fcntl.F_UNLCK


def _fill(
    image: int,
    new: int,
    source: str,
    target: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Fill the empty file `new` with the content of `image`, synced and compared."""
    report = progress or (lambda done, total: None)
    facts = os.fstat(image)
    size = facts.st_size
    try:
        fcntl.ioctl(new, _FICLONE, image)
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:
            raise
    else:
        report(size, size)
        return
    allocated, room = facts.st_blocks * 512, os.fstatvfs(new)
    # A file system that does not count its blocks says that it has none.
    if room.f_blocks and allocated > (free := room.f_bavail * room.f_frsize):
        raise ImageError(
            "no-space",
            f"{target} needs {allocated} bytes and {free} are free there: "
            "make room, or choose another pool",
        )
    os.ftruncate(new, size)
    if allocated >= size > 0:
        with contextlib.suppress(NotImplementedError):
            os.posix_fallocate(new, 0, size)
    total = 2 * sum(end - start for start, end in _segments(image, size))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done = min(done + count, total)
        report(done, total)

    kernel = True  # whether it copies for us
    for start, end in _segments(image, size):
        while start < end:
            count = 0
            if kernel:
                try:
                    step = min(end - start, _STEP)
                    count = os.copy_file_range(image, new, step, start, start)
                except OSError as error:
                    if error.errno not in _NO_SUCH_CALL:
                        raise
                kernel = count > 0
            if not kernel:
                block = os.pread(image, min(end - start, _CHUNK), start)
                if not block:
                    raise _changed(source)
                count = os.pwrite(new, block, start)
            start += count
            advance(count)
    if not _same(image, new, advance):
        raise ImageError(
            "copy-differs",
            f"{target} did not get the content of {source} (it was removed): a disk is failing, or "
            "somebody writes to the image; look at the kernel's log (dmesg)",
        )


def _segments(image: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of all data; between them are holes."""
    end = 0
    while (start := _data_from(image, end, size)) < size:
        try:
            end = min(os.lseek(image, start, os.SEEK_HOLE), size)
        except OSError:
            end = size
        yield start, end


def _data_from(image: int, position: int, size: int) -> int:
    """Where data starts, from a position on; `size` if there is none."""
    if position >= size:
        return size
    try:
        return os.lseek(image, position, os.SEEK_DATA)
    except OSError as error:
        return size if error.errno == errno.ENXIO else position


def _same(a: int, b: int, advance: Callable[[int], None] = lambda count: None) -> bool:
    """Whether both have the same size and content, by what their disks hold."""
    size = _identity(a).size
    if size != _identity(b).size:
        return False
    for handle in (a, b):
        # What is written is dropped from the page cache, so that it is read from the disk.
        os.fdatasync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    position = 0
    while (position := min(_data_from(handle, position, size) for handle in (a, b))) < size:
        one, two = (os.pread(handle, _CHUNK, position) for handle in (a, b))
        if not one or one != two:
            return False
        position += len(one)
        advance(len(one))
    return True


def dress(image: int, new: int, target: str) -> None:
    """Give `new` the owner, mode and extended attributes of `image`."""
    facts = os.fstat(image)
    os.fchown(new, facts.st_uid, facts.st_gid)
    names = _attributes(image)
    if (acl := "system.posix_acl_access") in set(_attributes(new)) - set(names):
        os.removexattr(new, acl)  # of the directory's default, and not the image's
    for name in names:
        try:
            os.setxattr(new, name, os.getxattr(image, name))
        except OSError as error:
            # Mounted with context=..., all of a file system has one label.
            if name == "security.selinux" and error.errno == errno.EOPNOTSUPP:
                continue
            raise ImageError(
                "attributes",
                f"{target} cannot have the image's attribute {name} ({error.strerror}): choose a "
                "file system that can, or remove it from the image (setfattr -x)",
            ) from error
    os.fchmod(new, stat.S_IMODE(facts.st_mode))


def _attributes(image: int) -> list[str]:
    try:
        return [name for name in os.listxattr(image) if not _NOT_COPIED.match(name)]
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise


def rename(old: int, old_name: str, new: int, name: str) -> None:
    """Rename from one directory, a handle, to another without overwriting: OSError EEXIST."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        if call(old, os.fsencode(old_name), new, os.fsencode(name), _RENAME_NOREPLACE) == 0:
            return
        if (number := ctypes.get_errno()) not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number))
    # NFS has no such rename, but it has links.
    os.link(old_name, name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
    os.unlink(old_name, dir_fd=old)


def _discard(directory: int, name: str, target: str) -> bool:
    temporary = TEMPORARY + name
    found = _found(directory, temporary)
    if found is None:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise ImageError(
            "target-exists",
            f"{os.path.dirname(target)}/{temporary} is in the way and not a file of xmlkit's: "
            "look at it and remove it",
        )
    left = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    try:
        _flock(left, target)
        os.unlink(temporary, dir_fd=directory)
    finally:
        os.close(left)
    return True


def _flock(handle: int, target: str) -> None:
    """Mark a growing copy as in use, until it is closed."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ImageError(
            "image-in-use",
            f"{target} is being made by another process: wait for it (xmlkit status)",
        ) from None


@contextlib.contextmanager
def directory_of(path: str) -> Iterator[int]:
    """A handle of the directory `path`, absolute and plain, opened without following any link.

    Raises ImageError: no-image, symlink, not-an-image, bad-path, and those of the system.
    """
    parts = _plain(path)
    plain = os.O_DIRECTORY | os.O_NOFOLLOW
    handle = os.open("/", plain | os.O_RDONLY)
    try:
        for number, part in enumerate(parts, 1):
            # The last is read for fsync; to pass through the others it is enough to enter them.
            how = plain | (os.O_RDONLY if number == len(parts) else os.O_PATH)
            step = "/" + "/".join(parts[:number])
            try:
                inner = os.open(part, how, dir_fd=handle)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    raise ImageError(
                        "no-image", f"there is no {step}: make it, or mount what belongs there"
                    ) from None
                found = _found(handle, part)
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    # A directory by now: what was opened was a link that has been swapped out.
                    if found is None or stat.S_ISLNK(found.st_mode) or stat.S_ISDIR(found.st_mode):
                        raise _linked(step) from None
                    raise ImageError(
                        "not-an-image", f"{step} is not a directory: check the path {path}"
                    ) from None
                with reported(step):
                    raise
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def parent_of(path: str) -> Iterator[tuple[int, str]]:
    """A handle of the directory that `path` is in, by `directory_of`, and the name in it."""
    parts = _plain(path)
    if not parts:
        raise ImageError("bad-path", f"{path} does not name a file: write the file's own path")
    with directory_of("/" + "/".join(parts[:-1])) as handle:
        yield handle, parts[-1]


def _plain(path: str) -> list[str]:
    """The names that an absolute path consists of, if that is its only spelling."""
    parts = path.split("/")[1:] if path != "/" else []
    if not path.startswith("/") or "\0" in path or not {"", ".", ".."}.isdisjoint(parts):
        raise ImageError(
            "bad-path",
            f"{path!r} is no plain absolute path: write it from '/' on, without '.', '..' and '//'",
        )
    return parts


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """A handle, for reading, of a regular file or block device; no link is followed.

    Raises ImageError: no-image, symlink, not-an-image, bad-path, and those of the system.
    """
    with parent_of(path) as (directory, name), reported(path):
        found = _found(directory, name)
        if found is None:
            raise ImageError("no-image", f"there is no {path}: check the path and what is mounted")
        if stat.S_ISLNK(found.st_mode):
            raise _linked(path)
        if not _is_image(found):
            raise _special(path)
        try:
            # Not blocking: what was swapped in may be a pipe.
            image = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _linked(path) from None
            raise
    try:
        if not _is_image(os.fstat(image)):
            raise _special(path)
        yield image
    finally:
        os.close(image)


@contextlib.contextmanager
def reported(*paths: str) -> Iterator[None]:
    """What the system refuses, as an ImageError; the first path is the one that is changed."""
    try:
        yield
    except OSError as error:
        raise _error(error, paths[0], " and ".join(paths)) from error


def _error(error: OSError, target: str, paths: str) -> ImageError:
    why = error.strerror or str(error)
    match error.errno:
        case errno.EEXIST:
            return _exists(target)
        case errno.EXDEV:
            return _elsewhere(paths)
        case errno.EMLINK:
            return ImageError(
                "too-many-links", f"{paths}: no further link ({why}); remove names, or use --copy"
            )
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return ImageError("no-space", f"{target}: {why}; make room, or choose another pool")
        case errno.EROFS:
            return ImageError(
                "read-only", f"{target}: {why}; find out why (dmesg), mount it for writing"
            )
        case errno.EACCES | errno.EPERM:
            return ImageError(
                "not-permitted",
                f"{paths}: {why}; run as root, and look for attributes (lsattr) that forbid it",
            )
        case errno.ENAMETOOLONG:
            return ImageError("bad-path", f"{target}: {why}; a copy needs 8 bytes more than it")
        case errno.ENOENT:
            return ImageError("no-image", f"{paths}: {why}; somebody else has removed it")
    return ImageError("io-error", f"{paths}: {why}; look at the kernel's log (dmesg)")


def _exists(target: str) -> ImageError:
    return ImageError(
        "target-exists", f"{target} exists, and nothing is overwritten: look at it, move it away"
    )


def _elsewhere(paths: str) -> ImageError:
    return ImageError(
        "other-file-system",
        f"{paths} are on different file systems or mounts, where no link is possible: use --copy, "
        "or a pool on the image's own",
    )


def _changed(path: str) -> ImageError:
    return ImageError(
        "image-changed",
        f"{path} is not what it was when this was planned: somebody uses it; plan again",
    )


def _in_use(path: str) -> ImageError:
    return ImageError(
        "image-in-use",
        f"{path} is open in a QEMU (a guest, qemu-img, qemu-nbd): end it (fuser -v {path})",
    )


def _linked(path: str) -> ImageError:
    return ImageError(
        "symlink",
        f"{path} is a symbolic link, and links are not followed: use the path that it leads to, or "
        "mount (--bind) that in its place",
    )


def _special(path: str) -> ImageError:
    return ImageError(
        "not-an-image", f"{path} is neither a regular file nor a block device: check the path"
    )


def _found(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_image(facts: os.stat_result) -> bool:
    return stat.S_ISREG(facts.st_mode) or stat.S_ISBLK(facts.st_mode)


def _identity(image: int) -> Identity:
    facts = os.fstat(image)
    size = facts.st_size if stat.S_ISREG(facts.st_mode) else os.lseek(image, 0, os.SEEK_END)
    return Identity(facts.st_ino, size, facts.st_mtime_ns)


def _check(image: int, expected: Identity, path: str) -> None:
    if _identity(image) != expected:
        raise _changed(path)


def _confirm(path: str, image: int, directory: int, name: str, *, made: bool) -> None:
    """Take back what was made if its path, walked anew, does not lead to it.

    A name that was there before stays: it may be the image's last.
    """
    try:
        with opened(path) as found:
            if os.path.sameopenfile(found, image):
                return
        raise _changed(path)
    except ImageError:
        if made:
            _unlink_if(image, directory, name)
        raise


def _unlink_if(image: int, directory: int, name: str) -> bool:
    """Remove the name if it still is that of `image`."""
    found = _found(directory, name)
    if found is None or not os.path.samestat(found, os.fstat(image)):
        return False
    os.unlink(name, dir_fd=directory)
    return True


def _one_name(directory: int, name: str, other: int, other_name: str) -> bool:
    """Whether both are the same name in the same directory, maybe seen through another mount."""
    return name == other_name and os.path.sameopenfile(directory, other)
