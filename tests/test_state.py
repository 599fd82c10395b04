"""The state directory: trusted, with one writer, one key, and ids that are used once.

Rules
- Several processes are several processes here.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kills import kills
from loops import MIB, after_power_cut, mounted, need_root

from xmlkit import state
from xmlkit.state import LockedError, StateError

WAIT = 120.0  # seconds


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return state.directory(str(tmp_path / "state"))


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """Whatever the umask; the second time it is there."""
    before = os.umask(0)
    try:
        made = state.directory(str(tmp_path / "state"))
    finally:
        os.umask(before)
    assert 0o700 == stat.S_IMODE(made.stat().st_mode)
    assert made == state.directory(str(tmp_path / "state"))


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given, or $XMLKIT_STATE_DIR, or below /var/lib; always an absolute path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XMLKIT_STATE_DIR", str(tmp_path / "b"))
    assert tmp_path / "a" == state.directory("a")
    assert tmp_path / "b" == state.directory(None)
    assert "/var/lib/xmlkit" == state.DEFAULT


def test_what_others_may_change_is_refused(tmp_path: Path) -> None:
    """Of another user, writable by a group or by all, a link, a file, or in no directory."""
    need_root()
    path = tmp_path / "state"
    path.mkdir()
    for mode, good in ((0o700, True), (0o755, True), (0o770, False), (0o702, False)):
        path.chmod(mode)
        if good:
            assert path == state.directory(str(path))
        else:
            with pytest.raises(StateError, match=f"{path} is writable by others"):
                state.directory(str(path))
    path.chmod(0o700)
    os.chown(path, 1234, 0)
    with pytest.raises(StateError, match="belongs to user 1234"):
        state.directory(str(path))
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(StateError, match=f"{name} is not a directory"):
            state.directory(str(tmp_path / name))
    with pytest.raises(StateError, match="none/state: No such file"):
        state.directory(str(tmp_path / "none/state"))


def test_a_preview_refuses_what_nobody_could_make(tmp_path: Path) -> None:
    """In no directory, in a file, or where nothing can be written; what is not there is well."""
    for name in ("none/state", "file/state"):
        (tmp_path / "file").touch()
        with pytest.raises(StateError, match=f"{tmp_path / name}: No.*--state-dir"):
            state.refuse_impossible(tmp_path / name)
    path = tmp_path / "state"
    state.refuse_impossible(path)
    assert not path.exists()
    state.refuse_impossible(state.directory(str(path)))
    with mounted("tmpfs", MIB) as there:
        subprocess.run(["mount", "-o", "remount,ro", there], check=True)
        for each in (there, there / "state"):
            with pytest.raises(StateError, match="Read-only file system; find out why"):
                state.refuse_impossible(each)


def test_a_command_finds_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an option, quoted for a shell; where it would look anyway it needs none."""
    monkeypatch.setenv("XMLKIT_STATE_DIR", str(tmp_path))
    assert "" == state.option(None)
    assert "" == state.option(tmp_path)
    assert f" --state-dir '{tmp_path}/a b'" == state.option(str(tmp_path / "a b"))
    monkeypatch.delenv("XMLKIT_STATE_DIR")
    assert "" == state.option(state.DEFAULT)
    assert f" --state-dir {tmp_path}" == state.option(tmp_path)


def test_who_only_reads_makes_nothing(tmp_path: Path) -> None:
    """A directory that is not there may be named; one that is there is looked at all the same."""
    path = tmp_path / "none/state"
    assert path == state.directory(str(path), make=False)
    path = tmp_path / "state"
    assert path == state.directory(str(path), make=False)
    assert [] == list(tmp_path.iterdir())
    path.mkdir(mode=0o700)
    assert path == state.directory(str(path), make=False)
    assert state.known_key(path) is None
    assert [] == list(path.iterdir())
    assert state.host_key(path) == state.known_key(path)

    (tmp_path / "link").symlink_to("state")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for name, words in (("link", "is not a directory"), ("open", "is writable by others")):
        with pytest.raises(StateError, match=words):
            state.directory(str(tmp_path / name), make=False)
    with pytest.raises(StateError, match="Not a directory"):
        state.directory(str(path / "host-key/state"), make=False)


# The lock.

HOLDER = """
import sys, time
from pathlib import Path
from xmlkit import state
sys.argv = ["/usr/bin/xmlkit", *sys.argv[2:]] if len(sys.argv) > 2 else sys.argv
with state.lock(Path(DIRECTORY)):
    print("locked", flush=True)
    sys.stdin.read()
"""


def holder(directory: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A process that holds the lock until its stdin is closed."""
    code = HOLDER.replace("DIRECTORY", repr(str(directory)))
    process = subprocess.Popen(
        [sys.executable, "-c", code, "-", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    assert b"locked\n" == process.stdout.readline()
    return process


def test_one_writer_and_who_it_is(directory: Path) -> None:
    """The other is told its PID and command, and nothing of its arguments."""
    with holder(directory, "apply", "--connect", "qemu://user:secret@host/") as other:
        with pytest.raises(LockedError) as caught, state.lock(directory):
            pass
        assert (other.pid, "xmlkit apply") == (caught.value.pid, caught.value.command)
        assert f"process {other.pid} (xmlkit apply)" in str(caught.value)
        assert "secret" not in (directory / "lock").read_text()
        assert other.stdin
        other.stdin.close()
    with state.lock(directory):
        with pytest.raises(LockedError, match=str(os.getpid())), state.lock(directory):
            pass
        assert 0o600 == stat.S_IMODE((directory / "lock").stat().st_mode)
    with holder(directory, "--secret") as other:
        assert f"{other.pid} xmlkit\n" == (directory / "lock").read_text()


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The place of the locks of hosts, which the group 65534 may use, as libvirt's daemon."""
    need_root()
    with tempfile.TemporaryDirectory() as path:
        os.chown(path, 0, 65534)
        Path(path).chmod(0o2770)
        monkeypatch.setattr(state, "LOCKS", path)
        yield Path(path)


HOST_HOLDER = """
import os, sys
from xmlkit import state
user, group, state.LOCKS, host, own = sys.argv[1:]
os.setgroups([])
os.setresgid(int(group), int(group), int(group))
os.setresuid(int(user), int(user), int(user))
os.umask(0o77)
if own:
    import pwd
    pwd.getpwuid = lambda user: pwd.struct_passwd(("x", "x", user, user, "", own, ""))
try:
    with state.host_lock(host, own=bool(own)):
        print("locked", flush=True)
        sys.stdin.read()
except state.StateError as error:
    print(error)
"""


def host_holder(
    locks: Path, host: str, user: int = 0, group: int = 0, home: str = ""
) -> subprocess.Popen[str]:
    """A process of a user that holds the lock of a host until its stdin is closed."""
    command = [sys.executable, "-c", HOST_HOLDER, str(user), str(group), str(locks), host, home]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    """The first line that a process prints."""
    assert process.stdout
    return process.stdout.readline().rstrip("\n")


@pytest.mark.parametrize("user", [0, 65534])
def test_one_writer_a_host_whatever_its_directory(locks: Path, user: int) -> None:
    """The other is told its PID, also of another user's; other hosts are not waited for."""
    host = str(uuid.uuid4())
    with host_holder(locks, host, user, user) as other:
        assert "locked" == said(other)
        with pytest.raises(LockedError) as caught, state.host_lock(host.upper()):
            pass
        assert other.pid == caught.value.pid
        assert f"process {other.pid} (" in str(caught.value)
        with state.host_lock(str(uuid.uuid4())), state.host_lock(None), state.host_lock(None):
            pass
        other.kill()
    with state.host_lock(host, WAIT), pytest.raises(LockedError), state.host_lock(host):
        pass
    with state.host_lock(host), host_holder(locks, host, user, user) as other:
        assert f"process {os.getpid()} (" in said(other)
    assert [] == os.listdir(locks)


def test_no_other_user_can_take_the_lock_of_a_host(locks: Path) -> None:
    """Whoever libvirt lets not in is told so, and stands in nobody's way."""
    host = str(uuid.uuid4())
    with host_holder(locks, host, 1234, 1234) as other:
        line = said(other)
    assert f"{locks}: Permission denied; the lock of the host is to be there" in line
    assert "install -d -m 2770 -g libvirt" in line
    with state.host_lock(host):
        pass
    # an older lock file of root's is not opened by others either
    (locks / f"xmlkit-{host}.lock").touch(0o600)
    with host_holder(locks, host, 65534, 65534) as other:
        line = said(other)
    assert f"{host}.lock: Permission denied; look whose it is (ls -l), and remove it, as" in line
    assert "--state-dir" not in line


def test_a_users_own_libvirt_has_a_lock_of_its_own(locks: Path) -> None:
    """In the home directory, without a place for locks; another user's is another one's."""
    host = str(uuid.uuid4())
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, 1234, 1234)
        own = (locks / "none", host, 1234, 1234, home)
        with host_holder(*own) as one, state.host_lock(host):
            assert "locked" == said(one)
            with host_holder(*own) as two:
                assert f"process {one.pid} (" in said(two)
            assert [f".xmlkit-{host}.lock"] == os.listdir(home)
            assert one.stdin
            one.stdin.close()
        assert [] == os.listdir(home)
        Path(home).chmod(0o777)
        with host_holder(*own) as one:
            assert f"{home} is writable by others" in said(one)


def test_many_take_the_lock_of_a_host_in_turn(locks: Path) -> None:
    """Its file goes each time, and never do two have it."""
    host, busy, most = str(uuid.uuid4()), 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal busy, most
        for _ in range(20):
            with state.host_lock(host, WAIT):
                with guard:
                    busy += 1
                    most = max(busy, most)
                with guard:
                    busy -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == most
    assert [] == os.listdir(locks)


def test_who_may_have_the_lock_is_never_refused_it(
    locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file has its mode from the first moment, whatever the umask of who makes it."""
    host = str(uuid.uuid4())
    file = locks / f"xmlkit-{host}.lock"
    before, seen = os.umask(0o077), []
    change = os.fchmod

    def fchmod(handle: int, mode: int) -> None:
        if file.exists():
            seen.append(stat.S_IMODE(file.stat().st_mode))
        change(handle, mode)

    monkeypatch.setattr(os, "fchmod", fchmod)
    try:
        with state.host_lock(host):
            assert [file.name] == os.listdir(locks)
            assert 0o660 == stat.S_IMODE(file.stat().st_mode)
    finally:
        os.umask(before)
    assert {0o660} >= set(seen)
    assert [] == os.listdir(locks)


def test_a_place_for_locks_that_cannot_be_trusted_is_refused(
    locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writable by all, a link, a file; nor is a link followed, or a pipe waited for."""
    host = str(uuid.uuid4())
    file = locks / f"xmlkit-{host}.lock"

    def refused(words: str) -> None:
        with pytest.raises(StateError, match=words), state.host_lock(host):
            pass

    file.symlink_to(locks / "victim")
    refused("is no file: look at what it is, and remove it")
    file.unlink()
    file.mkdir()
    refused("is no file: look at what it is, and remove it")
    file.rmdir()
    os.mkfifo(file)
    refused("is no file")
    file.unlink()
    assert [] == os.listdir(locks)
    locks.chmod(0o1777)
    refused(f"is writable by others: look at what is there, then chmod o= {locks}$")
    locks.chmod(0o700)
    (locks / "link").symlink_to(locks)
    (locks / "file").touch()
    for name in ("link", "file"):
        monkeypatch.setattr(state, "LOCKS", str(locks / name))
        refused("is not a directory")
    monkeypatch.setattr(state, "LOCKS", str(locks / "none/locks"))
    refused("none/locks: No such file")
    with pytest.raises(StateError, match=r"UUID is none: '\.\./x'"), state.host_lock("../x"):
        pass
    monkeypatch.setattr(state, "LOCKS", str(locks / "made"))
    with state.host_lock(host):
        assert 0o660 == stat.S_IMODE((locks / f"made/xmlkit-{host}.lock").stat().st_mode)
    assert 0 == (locks / "made").stat().st_uid
    assert 0 == stat.S_IMODE((locks / "made").stat().st_mode) & 0o7


def test_no_lock_is_left_where_there_is_no_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file goes again, and the message says what to do."""
    host = str(uuid.uuid4())
    with mounted("tmpfs", MIB) as place:
        monkeypatch.setattr(state, "LOCKS", str(place))
        with pytest.raises(OSError, match="No space"):
            (place / "filling").write_bytes(bytes(2 * MIB))
        with (
            pytest.raises(StateError, match="No space left on device; make room there"),
            state.host_lock(host),
        ):
            pass
        assert ["filling"] == os.listdir(place)


def test_a_killed_writer_holds_nothing(directory: Path) -> None:
    """Its lock goes with it, though its name still stands there."""
    with holder(directory, "apply") as other:
        other.kill()
    with state.lock(directory):
        assert str(os.getpid()) == (directory / "lock").read_text().split()[0]


def test_one_may_wait_for_the_other(directory: Path) -> None:
    """As long as is said, and no longer."""
    with holder(directory) as other:
        start = time.monotonic()
        with pytest.raises(LockedError), state.lock(directory, wait=0.3):
            pass
        assert 0.3 <= time.monotonic() - start
        assert other.stdin
        other.stdin.close()
        with state.lock(directory, wait=WAIT):
            pass
        assert time.monotonic() - start < WAIT


def test_the_lock_goes_with_an_exception(directory: Path) -> None:
    """Which stays the caller's own."""
    with pytest.raises(KeyboardInterrupt), state.lock(directory):
        raise KeyboardInterrupt
    with pytest.raises(BrokenPipeError), state.lock(directory):
        raise BrokenPipeError
    with state.lock(directory):
        pass


def test_a_lock_that_is_a_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    """Nothing is written where it leads to."""
    (directory / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(StateError, match="lock"), state.lock(directory):
        pass
    assert not (tmp_path / "victim").exists()


# The key.


def test_the_key_is_made_once(directory: Path) -> None:
    """32 bytes that only the owner reads; another directory has another one."""
    key = state.host_key(directory)
    assert 32 == len(key)
    assert key == state.host_key(directory)
    assert 0o600 == stat.S_IMODE((directory / "host-key").stat().st_mode)
    assert ["host-key"] == os.listdir(directory)
    assert key != state.host_key(state.directory(str(directory / "other")))


ASKER = """
import sys
from pathlib import Path
from xmlkit import state
sys.stdin.read(1)
print(state.host_key(Path(sys.argv[1])).hex())
"""


def test_who_asks_at_once_gets_the_same_key(directory: Path) -> None:
    """Eight processes that start at one moment, five times."""
    for _ in range(5):
        (directory / "host-key").unlink(missing_ok=True)
        read, write = os.pipe()
        command = [sys.executable, "-c", ASKER, str(directory)]
        askers = [
            subprocess.Popen(command, stdin=read, stdout=subprocess.PIPE, text=True)
            for _ in range(8)
        ]
        os.close(read)
        os.close(write)
        keys = {asker.communicate(timeout=WAIT)[0] for asker in askers}
        assert {state.host_key(directory).hex() + "\n"} == keys
        assert ["host-key"] == os.listdir(directory)


def test_a_key_that_cannot_be_trusted_is_refused(directory: Path) -> None:
    """Readable by others, of another user, cut short, a link or a directory."""
    need_root()
    path = directory / "host-key"
    state.host_key(directory)
    path.chmod(0o640)
    with pytest.raises(StateError, match=f"{path} is readable by others"):
        state.host_key(directory)
    path.chmod(0o600)
    os.chown(path, 1234, 0)
    with pytest.raises(StateError, match="belongs to user 1234"):
        state.host_key(directory)
    os.chown(path, 0, 0)
    for content in (b"", bytes(31), bytes(33)):
        path.write_bytes(content)
        with pytest.raises(StateError, match=f"{path} is not a key"):
            state.host_key(directory)
    path.write_bytes(bytes(32))
    path.rename(directory / "real")
    path.symlink_to("real")
    with pytest.raises(StateError, match="host-key"):
        state.host_key(directory)
    path.unlink()
    path.mkdir(0o700)
    with pytest.raises(StateError, match="host-key"):
        state.host_key(directory)


def test_a_kill_at_any_step_leaves_no_half_a_key(directory: Path) -> None:
    """The next one to ask gets a whole one, and from then on the same."""
    setup = "import sys; from pathlib import Path; from xmlkit import state"
    for _ in kills(setup, "state.host_key(Path(sys.argv[1]))", directory):
        key = state.host_key(directory)
        assert 32 == len(key)
        assert key == state.host_key(directory)
        (directory / "host-key").unlink()


def test_a_key_survives_a_power_cut() -> None:
    """Plans that were bound to it stay so; the directory too."""
    with mounted("ext4", 32 * MIB) as here:
        os.sync()
        directory = state.directory(str(here / "state"))
        key = state.host_key(directory)
        with after_power_cut(here) as then:
            assert key == state.host_key(state.directory(str(then / "state")))


# Ids.


def test_an_id_is_a_time_and_is_free(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In UTC; one by which a file begins is not given again."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    before = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    made = state.new_id(directory)
    assert re.fullmatch(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}", made)
    assert before <= made[:15] <= time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    monkeypatch.undo()
    time.tzset()

    drawn = iter(["aaaa", "aaaa", "bbbb", "bbbb"])
    monkeypatch.setattr("secrets.token_hex", lambda count: next(drawn))
    monkeypatch.setattr(state, "datetime", Frozen)
    for suffix in ("aaaa", "bbbb"):
        made = state.new_id(directory)
        assert f"20261122-161402-{suffix}" == made
        (directory / f"{made}.jsonl").touch()


class Frozen:
    """A clock that stands still."""

    @staticmethod
    def now(zone: object) -> object:
        from datetime import UTC, datetime

        assert zone is UTC
        return datetime(2026, 11, 22, 16, 14, 2, tzinfo=UTC)
