"""The state directory: where the journal, the host's key and the lock of the one writer are.

Laws
- It belongs to root or to whoever runs xmlkit, and nobody else can write there.
- Who only reads makes nothing: where there is no directory nothing was ever done.
- One writer a host, and one a directory: locks that the kernel takes away with their process,
  however that ends, and that nobody can take who may not write there.
- The key is made once and is never seen half written, whoever asks for it at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import secrets
import shlex
import stat
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from xmlkit.errors import XmlkitError

DEFAULT = "/var/lib/xmlkit"

# Below it, a state directory of its own: where xmlkit in Nova has the journals of live migrations.
LIVE = "live"

# Where the locks of hosts are, and who may use libvirt's system daemon besides root.
LOCKS = "/run/xmlkit"
_GROUP = "libvirt"
_WAY_IN = (
    f"the lock of the host is to be there: as root, install -d -m 2770 -g {_GROUP} {LOCKS}, and be "
    "of that group"
)

_LOCK_OPEN = "look whose it is (ls -l), and remove it, as root, while no xmlkit is at work"

_KEY, _KEY_SIZE = "host-key", 32
_LOCK = "lock"
_ELSEWHERE = "run as root, or name another directory with --state-dir"


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
    """Be the one writer of a state directory.

    Parameters:
        wait: for so many seconds until another one has ended.

    Raises LockedError if another process, or another part of this one, is the writer, and
    StateError.
    """
    with _held(directory / _LOCK, 0o600, wait):
        yield


@contextlib.contextmanager
def host_lock(uuid: str | None, wait: float = 0, *, own: bool = False) -> Iterator[None]:
    """Be the one writer of a libvirt host, whatever the state directory and the user.

    It is a file in LOCKS, which root has, and who may use libvirt's system daemon: nobody else can
    take it. It goes when it is released. Other machines, and containers, do not see it.

    Parameters:
        uuid: of the host, as its capabilities have it; None (libvirt's test driver): no lock.
        wait: for so many seconds until another one has ended.
        own: whether no other user writes there from this machine, as with a session's libvirt.
            Then it is a file in the user's home directory, unless that is root.

    Raises LockedError, and StateError where there is no place for the lock that can be trusted.
    """
    if uuid is None or sys.platform != "linux":
        yield
        return
    try:
        # the host may be another one's
        name = f"xmlkit-{UUID(uuid)}.lock"
    except ValueError:
        raise StateError(f"the host's UUID is none: {uuid!r}") from None
    path = _home() / f".{name}" if own and os.geteuid() else _locks() / name
    with _held(path, 0o600 if own else 0o660, wait, goes=True):
        yield


@contextlib.contextmanager
def _held(path: Path, mode: int, wait: float, *, goes: bool = False) -> Iterator[None]:
    """The lock of a file, with who has it in it. goes: the file is removed after that."""
    deadline = time.monotonic() + wait
    otherwise = _LOCK_OPEN if goes else _ELSEWHERE
    while (handle := _locked(path, mode, otherwise)) is None:
        if time.monotonic() >= deadline:
            raise LockedError(*_holder(path))
        time.sleep(0.05)
    try:
        try:
            with _reported(path, otherwise=otherwise):
                # Of the arguments only the command's name: others may hold a password.
                words = [Path(sys.argv[0]).name, *(w for w in sys.argv[1:2] if w[:1] != "-")]
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()} {' '.join(words)}\n".encode(errors="replace"), 0)
            yield
        finally:
            with contextlib.suppress(OSError):  # it may be read-only by now
                os.ftruncate(handle, 0)  # who it was
                if goes:
                    path.unlink()
    finally:
        os.close(handle)


def _locked(path: Path, mode: int, otherwise: str) -> int | None:
    """A handle of the file, locked; None if another one has the lock, or has removed the file.

    otherwise: what to do where it cannot be opened, as for remedy().
    """
    with _reported(path, otherwise=otherwise):
        try:
            handle = _opened(path, mode)
        except FileExistsError:
            return None  # another one was first
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR):
                raise _no_file(path) from None
            raise
        try:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                raise _no_file(path)
            if facts.st_uid == os.geteuid():
                os.fchmod(handle, mode)  # whatever the umask
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(facts, os.lstat(path)):
                return handle
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    return None


def _opened(path: Path, mode: int) -> int:
    """A handle of the file, which is made if it is not there.

    One that others may have, too, is made by a name of its own, then linked: by the umask alone it
    would be refused to them until its mode is set. Raises OSError.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    if not mode & 0o060:
        return os.open(path, flags | os.O_CREAT, mode)
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, flags)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    handle = os.open(temporary, flags | os.O_CREAT | os.O_EXCL, mode)
    try:
        os.fchmod(handle, mode)
        os.link(temporary, path)
    except BaseException:
        os.close(handle)
        raise
    finally:
        os.unlink(temporary)
    return handle


def _no_file(path: Path) -> StateError:
    return StateError(f"{path} is no file: look at what it is, and remove it")


def _holder(path: Path) -> tuple[int | None, str]:
    """The process that has a lock, by what it wrote."""
    said = ""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, errors="replace") as stream:
            said = stream.read(4096).strip()
    pid, _, command = said.partition(" ")
    return int(pid) if pid.isdecimal() else None, command


def _locks() -> Path:
    """The directory of the locks of hosts; root makes it. Raises StateError."""
    path = Path(LOCKS)
    with _reported(path, _WAY_IN):
        if os.geteuid() == 0:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                with contextlib.suppress(KeyError):
                    os.chown(path, -1, grp.getgrnam(_GROUP).gr_gid)
                    path.chmod(0o2770)
        facts = path.lstat()
        if not stat.S_ISDIR(facts.st_mode):
            raise StateError(f"{path} is not a directory: look at what it is, and remove it")
        _trusted(path, facts, 0o002, "writable", mend="o=")  # its group is to stay
        if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return path


def _home() -> Path:
    """The user's home directory, by the system's word. Raises StateError."""
    user = os.geteuid()
    try:
        path = Path(pwd.getpwuid(user).pw_dir)
    except KeyError:
        raise StateError(f"user {user} has no home directory, for the lock of the host") from None
    with _reported(path, "the lock of the host is to be there"):
        _trusted(path, path.lstat(), 0o002, "writable", mend="o-w")
    return path


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


def remedy(error: OSError, otherwise: str = _ELSEWHERE) -> str:
    """What to do where a file of the state directory cannot be made or written.

    otherwise: where the error itself does not say it; a lock of a host has no other directory.
    """
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "make room there"
        case errno.EROFS:
            return "find out why (dmesg), mount it for writing"
        case errno.EIO:
            return "look at dmesg"
    return otherwise


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


def _trusted(
    path: Path, facts: os.stat_result, forbidden: int, what: str, *, mend: str = "go="
) -> None:
    if facts.st_uid not in (0, os.geteuid()):
        raise StateError(
            f"{path} belongs to user {facts.st_uid}: run as that one, or give it to root "
            "(chown root)"
        )
    if facts.st_mode & forbidden:
        raise StateError(
            f"{path} is {what} by others: look at what is there, then chmod {mend} {path}"
        )


@contextlib.contextmanager
def _reported(
    path: Path, what: str | None = None, *, otherwise: str = _ELSEWHERE
) -> Iterator[None]:
    """An OSError becomes a StateError, with what to do: `what`, or remedy()."""
    try:
        yield
    except OSError as error:
        raise StateError(
            f"{path}: {error.strerror or error}; {what or remedy(error, otherwise)}"
        ) from error
