"""The state directory: where the journal, the host's key and the lock of the one writer are.

Laws
- It belongs to root or to whoever runs xmlkit, and nobody else can write there.
- Who only reads makes nothing: where there is no directory nothing was ever done.
- One writer a host, and one a directory: locks that the kernel takes away with their process,
  however that ends.
- The key is made once and is never seen half written, whoever asks for it at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shlex
import socket
import stat
import struct
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from xmlkit.errors import XmlkitError

DEFAULT = "/var/lib/xmlkit"

_KEY, _KEY_SIZE = "host-key", 32
_LOCK = "lock"


class StateError(XmlkitError):
    """The state directory, or a file in it, that cannot be used or trusted."""


class LockedError(StateError):
    """Another xmlkit works on this host; `pid` and `command` say which, if it said so already."""

    def __init__(self, pid: int | None, command: str) -> None:
        self.pid = pid
        self.command = command
        who = f"process {pid} ({command})" if pid else "another process"
        super().__init__(f"{who} is working on this host: wait until it has ended")


def directory(given: str | None = None, *, make: bool = True) -> Path:
    """The state directory, made with mode 0700 if it is not there.

    Parameters:
        given: its path; without one it is $XMLKIT_STATE_DIR or /var/lib/xmlkit.
        make: False for who only reads: then it may not be there. The directory that it is in is
            never made: it may be a file system that is not mounted, and what is pending there.

    Raises StateError if it cannot be made, is a symbolic link, belongs to somebody else, or others
    than its owner can write there.
    """
    path = _path(given)
    with _reported(path):
        if make:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                fsync_directory(path.parent)
        try:
            facts = path.lstat()
        except FileNotFoundError:
            if make:
                raise
            return path
    if not stat.S_ISDIR(facts.st_mode):
        raise StateError(f"{path} is not a directory: name another one with --state-dir")
    _trusted(path, facts, 0o022, "writable")
    return path


def refuse_impossible(path: Path) -> None:
    """Raise StateError where directory() could make none, or nothing be written, whoever asks.

    For who says what would be done, and makes nothing. path: what directory() gave. What its user
    may do is not asked: a preview is for others, too.
    """
    with _reported(path):
        place = path if path.exists() else path.parent
        if not stat.S_ISDIR(place.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def option(given: str | Path | None) -> str:
    """What a command needs to find that directory again: " --state-dir PATH", or nothing."""
    path = _path(given)
    return "" if path == _path(None) else f" --state-dir {shlex.quote(str(path))}"


def _path(given: str | Path | None) -> Path:
    return Path(given or os.environ.get("XMLKIT_STATE_DIR") or DEFAULT).absolute()


@contextlib.contextmanager
def lock(directory: Path, wait: float = 0) -> Iterator[None]:
    """Be the one writer of this host.

    Parameters:
        wait: for so many seconds until another one has ended.

    Raises LockedError if another process, or another part of this one, is the writer.
    """
    path = directory / _LOCK
    with _reported(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    said = os.pread(handle, 4096, 0).decode(errors="replace").strip()
                    pid, _, command = said.partition(" ")
                    raise LockedError(int(pid) if pid.isdecimal() else None, command) from None
                time.sleep(0.05)
        with _reported(path):
            # Of the arguments only the command's name: others may hold a password.
            words = [Path(sys.argv[0]).name, *(w for w in sys.argv[1:2] if w[:1] != "-")]
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()} {' '.join(words)}\n".encode(errors="replace"), 0)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # it may be read-only by now
                os.ftruncate(handle, 0)  # who it was; the file stays, so that the lock is one
    finally:
        os.close(handle)


@contextlib.contextmanager
def host_lock(uuid: str | None, wait: float = 0) -> Iterator[None]:
    """Be the one writer of a libvirt host, whatever the state directory and the user.

    It is the name of an abstract socket: no file is left, and no user needs a right to it. Other
    machines, and containers with a network of their own, do not see it.

    Parameters:
        uuid: of the host, as its capabilities have it; None (libvirt's test driver): no lock.
        wait: for so many seconds until another one has ended.

    Raises LockedError.
    """
    if uuid is None or sys.platform != "linux":
        yield
        return
    name = f"\0xmlkit-host-{uuid}"
    with socket.socket(socket.AF_UNIX) as own:
        deadline = time.monotonic() + wait
        while True:
            try:
                own.bind(name)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                if time.monotonic() >= deadline:
                    raise LockedError(*_holder(name)) from None
                time.sleep(0.05)
        own.listen()  # so that others can ask who it is
        yield


def _holder(name: str) -> tuple[int | None, str]:
    """The process that has a socket, by what the kernel says of it (SO_PEERCRED)."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(1)
        asking.connect(name)
        answer = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", answer)[0]
        if pid:
            return pid, Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return None, ""


def host_key(directory: Path) -> bytes:
    """The 32 random bytes that bind plans to this host, made when first asked for.

    Raises StateError if the file cannot be read or made, has another size, or others than its
    owner can read it.
    """
    path = directory / _KEY
    with _reported(path):
        if not os.path.lexists(path):
            _make_key(path)
    return _key_in(path)


def known_key(directory: Path) -> bytes | None:
    """The same for who only reads: None where no plan was ever bound. Raises StateError."""
    path = directory / _KEY
    return _key_in(path) if os.path.lexists(path) else None


def _key_in(path: Path) -> bytes:
    with _reported(path):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as stream:
            facts = os.fstat(handle)
            key = stream.read(_KEY_SIZE + 1) if stat.S_ISREG(facts.st_mode) else b""
    _trusted(path, facts, 0o077, "readable")
    if len(key) != _KEY_SIZE:
        raise StateError(
            f"{path} is not a key of {_KEY_SIZE} bytes: remove it, and make all plans anew"
        )
    return key


def new_id(directory: Path) -> str:
    """An id of a transition, by which no file in the directory begins: 20261122-161402-4f2a.

    The time is UTC. Call it as the one writer.
    """
    taken = {name[:20] for name in os.listdir(directory)}
    while True:
        made = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        if made not in taken:
            return made


def fsync_directory(directory: Path | str) -> None:
    """What was made in a directory stays."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remedy(error: OSError) -> str:
    """What to do where a file of the state directory cannot be made or written."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "make room there"
        case errno.EROFS:
            return "find out why (dmesg), mount it for writing"
        case errno.EIO:
            return "look at dmesg"
    return "run as root, or name another directory with --state-dir"


def _make_key(path: Path) -> None:
    """By a name of its own, then linked: the first one wins, and nobody sees a part of it."""
    temporary = path.with_name(f".{_KEY}-{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(handle, "wb") as stream:
            stream.write(secrets.token_bytes(_KEY_SIZE))
            stream.flush()
            os.fsync(handle)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
    fsync_directory(path.parent)


def _trusted(path: Path, facts: os.stat_result, forbidden: int, what: str) -> None:
    if facts.st_uid not in (0, os.geteuid()):
        raise StateError(
            f"{path} belongs to user {facts.st_uid}: run as that one, or give it to root "
            "(chown root)"
        )
    if facts.st_mode & forbidden:
        raise StateError(
            f"{path} is {what} by others: look at what is there, then chmod go= {path}"
        )


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(f"{path}: {error.strerror or error}; {remedy(error)}") from error
