"""Nova's disk.info: the format of each disk by its absolute path, beside the instance's disks.

Laws
- Nova trusts it so as not to guess a format from what a guest wrote; without its entry, Nova would
  guess. So a moved disk's entry moves along, and an entry is never invented.
- It is replaced as a whole, with its owner, mode and attributes kept; no link is followed.
- Adding and removing can be done twice. No file, no entry: nothing to do.

Source: nova.virt.libvirt.imagebackend, Image.resolve_driver_format, Nova 34.0.0.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import PurePosixPath

from xmlkit.images import TEMPORARY, ImageError, dress, parent_of, reported

NAME = "disk.info"
_LIMIT = 1024 * 1024  # bytes: some disks, a path each
_NOT_WALKED = {"bad-path", "no-image", "not-an-image", "symlink"}


def add(old: str, new: str) -> None:
    """Copy the entry of the path `old` to the path `new`.

    The file is the one beside `old` or, if that has none with an entry, beside `new`: a disk may
    come back. Raises ImageError: disk-info if it cannot be read as Nova writes it or says another
    format of `new` already, symlink, and those of the system.
    """
    for file in dict.fromkeys((_beside(old), _beside(new))):
        with _entries(file) as entries:
            if old not in entries:
                continue
            if entries.setdefault(new, entries[old]) != entries[old]:
                raise ImageError(
                    "disk-info",
                    f"{file} says {entries[old]} of {old} and {entries[new]} of {new}: "
                    "find out which is right, and correct it",
                )
            return


def remove(path: str, *, beside: str | None = None) -> None:
    """Remove the entry of `path`.

    Parameters:
        beside: another path of the disk: of the disk.info in its directory too.

    Raises ImageError as `add`.
    """
    if beside is not None:
        with _entries(_beside(beside)) as entries:
            entries.pop(path, None)
    try:
        with _entries(_beside(path)) as entries:
            entries.pop(path, None)
    except ImageError as error:
        # where no directory can be walked to, `add` has put nothing
        if beside is None or error.id not in _NOT_WALKED:
            raise


def formats(file: str) -> dict[str, str]:
    """What a disk.info says: the format of each disk by its path; nothing if there is no file.

    Raises ImageError: disk-info, and those of the system; the file itself may be no link.
    """
    with reported(file):
        try:
            handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return {}
        try:
            return _parsed(handle, file)
        finally:
            os.close(handle)


def _beside(path: str) -> str:
    return str(PurePosixPath(path).parent / NAME)


@contextlib.contextmanager
def _entries(file: str) -> Iterator[dict[str, str]]:
    """What the file says, empty if there is none; written back if it was changed within."""
    with reported(file), parent_of(file) as (directory, name):
        try:
            old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        except FileNotFoundError:
            yield {}
            return
        except OSError as error:
            if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                raise ImageError(
                    "symlink", f"{file} is a symbolic link: put the file itself in its place"
                ) from error
            raise
        try:
            entries = _parsed(old, file)
            before = dict(entries)
            yield entries
            if entries != before:
                _replace(directory, name, old, json.dumps(entries).encode())
            else:
                _discard(directory, name)
            os.fsync(directory)  # also what was replaced before a crash
        finally:
            os.close(old)


def _parsed(handle: int, file: str) -> dict[str, str]:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise ImageError("disk-info", f"{file} is not a regular file: look at it, move it away")
    text = os.pread(handle, _LIMIT + 1, 0)
    try:
        if len(text) > _LIMIT:
            raise ValueError(f"it is larger than {_LIMIT} bytes")
        entries = json.loads(text) if text.strip() else {}
        if not isinstance(entries, dict) or not all(map(_is_text, entries.values())):
            raise ValueError("it is not an object of paths and formats")
    except (ValueError, RecursionError) as error:
        raise ImageError(
            "disk-info",
            f"{file} is not as Nova writes it ({error}): correct it, as Nova cannot read it either",
        ) from None
    return entries


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _discard(directory: int, name: str) -> None:
    """Remove what somebody who was killed has left."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(TEMPORARY + name, dir_fd=directory)


def _replace(directory: int, name: str, old: int, text: bytes) -> None:
    """Replace the file `old` of this name, with all that it has besides its content."""
    temporary = TEMPORARY + name
    _discard(directory, name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    new = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with open(new, "wb", closefd=False) as stream:
            stream.write(text)
        dress(old, new, name)
        os.fsync(new)
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise
    finally:
        os.close(new)
