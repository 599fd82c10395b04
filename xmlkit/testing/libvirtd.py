"""A libvirtd of one's own for tests, and a guest without a system.

Laws
- Private: each libvirtd runs in its own namespaces (mounts, PIDs, IPC, host name, network) with its
  own /etc/libvirt, /run, /dev and state, so many run side by side. Of the machine's libvirt it uses
  the programs and changes nothing; at most the empty /var/{lib,log,cache}/libvirt are made.
- Gone: when `Libvirtd.stop` returns, so is its last process and mount. When the thread that started
  it ends, however that ends, the kernel ends them too; then only the temporary directory stays.
- Needs no libvirt-python: it has the programs, and the caller opens `Libvirtd.uri` as he likes.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT = 30.0  # seconds to start or to end, on the busiest machine

# PID 1 of the namespaces. Arguments: temporary directory, root, host name, pairs to bind. It runs
# libvirtd once for each line it reads. It is a shell because PID 1 has to reap the QEMUs that
# libvirtd daemonises: libvirtd waits 40 s for each zombie.
_INIT = r"""
set -e
read -r pid rest </proc/self/stat  # /proc is still the outer one, and so is this PID
echo "$pid"
directory=$1 root=$2
echo "$3" >/proc/sys/kernel/hostname
shift 3
ip link set lo up
# No kvm: where QEMU may not open it, libvirt probes QEMU anew, for seconds, at each define.
mount -t tmpfs -o mode=755 dev "$directory/dev"
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty "$directory/dev"
# whatever mode they have here: without its /dev/null QEMU takes no locks on images
chmod 666 "$directory"/dev/*
mkdir -m 1777 "$directory/dev/shm" "$directory/dev/pts"
mount -t devpts -o ptmxmode=666 devpts "$directory/dev/pts"
ln -s pts/ptmx "$directory/dev/ptmx"
[ "$root" = / ] || mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t proc proc "$directory/proc"
mount -t sysfs sys "$directory/sys"
while [ $# -gt 0 ]; do
    [ -e "$2" ] || if [ -d "$1" ]; then mkdir -p "$2"; else : >"$2"; fi
    mount --rbind "$1" "$2"
    shift 2
done
while read -r line; do
    chroot "$root" libvirtd </dev/null >&2 || :
    echo ended
done
"""

# Machine code | the assembly it was made from: .code16, .intel_syntax noprefix, linked at 0x7c00
_BOOT_SECTOR = """
31c0 8ed8 8ed0 bc007c fb fc     | xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7c00; sti; cld
52                              | push dx  # dl: the disk that the BIOS booted from
ba0206 b800{button:02x} ef      | mov dx, 0x602; mov ax, {button} << 8; out dx, ax
be717c b91000 baf803 f36e 5a    | mov si, offset hello; mov cx, 16; mov dx, 0x3f8; rep outsb; pop dx
66ff06857c 668306697c{step:02x} | write: inc dword ptr [counter]; add dword ptr [block], {step}
be617c b80043 cd13              | mov si, offset packet; mov ax, 0x4300; int 0x13
b057 7302 b045                  | mov al, 'W'; jnc report; mov al, 'E'
52 baf803 ee 5a                 | report: push dx; mov dx, 0x3f8; out dx, al; pop dx
8b1e6c04                        | mov bx, [0x46c]  # the clock of the BIOS: 18 ticks a second
f4 52 ba0006 ed f6c401 7407     | 1: hlt; push dx; mov dx, 0x600; in ax, dx; test ah, 1; jz 2f
ba0406 b80020 ef                | mov dx, 0x604; mov ax, 0x2000; out dx, ax  # off
5a a16c04 29d8                  | 2: pop dx; mov ax, [0x46c]; sub ax, bx
83f8{ticks:02x} 72e3 ebbe       | cmp ax, {ticks}; jb 1b; jmp write
1000 0100 817c 0000             | packet: .word 16, 1, sector, 0  # one sector, from here
08000000 00000000               | block: .long 8, 0
584d4c4b49542d47554553542d55500a | hello: .ascii "XMLKIT-GUEST-UP\\n"
5449434b 00000000               | sector: .ascii "TICK"; counter: .long 0
"""


def boot_sector(*, hears_button: bool = False, step: int = 0, ticks: int = 9) -> bytes:
    r"""Return the first 512 bytes of a disk that is a whole guest, for a PC with a BIOS.

    It prints "XMLKIT-GUEST-UP\n" on COM1, then again and again writes "TICK" and a little-endian
    32-bit counter, from 1, to a block of its disk and prints W, or E if that failed.

    Parameters:
        hears_button: whether the guest turns itself off when ACPI's power button is pressed, as
            virDomainShutdown does; the domain needs `<features><acpi/></features>`.
        step: with 0 it writes to block 8 (byte 4096); with 1 it writes N to block 8 + N.
        ticks: between two writes, of which there are 18 a second.
    """
    text = _BOOT_SECTOR.format(button=int(hears_button), step=step, ticks=ticks)
    code = bytes.fromhex("".join(line.partition("|")[0] for line in text.splitlines()))
    return code.ljust(510, b"\0") + b"\x55\xaa"


class LibvirtdMissingError(RuntimeError):
    """This machine cannot run a private libvirtd: it lacks what `missing` lists."""

    def __init__(self, missing: Sequence[str]) -> None:
        self.missing = tuple(missing)
        super().__init__(
            f"a private libvirtd lacks {', '.join(missing)}: run as root, with the Debian packages "
            "libvirt-daemon libvirt-daemon-driver-qemu qemu-system-x86 qemu-utils iproute2"
        )


class LibvirtdError(RuntimeError):
    """A private libvirtd did not start or end; `log` is the end of what it wrote."""

    def __init__(self, failure: str, log: str) -> None:
        self.log = log
        super().__init__(f"libvirtd {failure}; the reason should stand in its log:\n{log}")


@dataclass(frozen=True)
class Libvirtd:
    """A running private libvirtd.

    Fields: `uri` opens it; `directory` is its own, with its /etc/libvirt, /var/*/libvirt and /run
    in it under these names, and the place for disks, since QEMU's user may enter it (pytest's
    `tmp_path` it may not); `pid` is the process whose end is the end of it all.
    """

    uri: str
    directory: Path
    pid: int
    _init: int = field(repr=False)
    _process: subprocess.Popen[bytes] = field(repr=False)
    _control: socket.socket = field(repr=False)

    def restart(
        self,
        number: signal.Signals = signal.SIGTERM,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """End libvirtd alone by a signal, start it again and wait until it answers.

        Its guests go on. meanwhile: called while it is away. Raises LibvirtdError if it does not
        end or does not come back.
        """
        os.kill(_answering(self.directory), number)
        if not self._ended(TIMEOUT):
            raise self._error(f"did not end on {number.name}")
        self._control.recv(16)
        meanwhile()
        self._run()

    @property
    def daemon(self) -> int:
        """The PID of libvirtd itself, which a restart changes. Raises OSError if it is away."""
        return _answering(self.directory)

    def stop(self) -> None:
        """End libvirtd and its guests and remove `directory`; a second call does nothing."""
        with contextlib.suppress(ProcessLookupError):
            if self._process.poll() is None:
                # PID 1 is the last of its namespace to go, and _process waits for it.
                os.kill(self._init, signal.SIGKILL)
        self._process.wait()
        self._control.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._control.sendall(b"run\n")
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            with contextlib.suppress(ConnectionError, FileNotFoundError, TimeoutError):
                _answering(self.directory)
                return
            if self._ended(0.01):
                raise self._error("ended while it started")
        raise self._error(f"did not answer within {TIMEOUT:.0f} s")

    def _ended(self, seconds: float) -> bool:
        poll = select.poll()  # not select(), which ends at the 1,024th open file
        poll.register(self._control, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _error(self, failure: str) -> LibvirtdError:
        log = (self.directory / "libvirtd.log").read_text(errors="replace")
        return LibvirtdError(failure, log[-4000:])


def _answering(directory: Path) -> int:
    """Return the PID of the libvirtd that answers there, or raise OSError.

    To connect is not enough: libvirtd listens before its drivers have started, and answers after.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT)
        client.connect(f"{directory}/run/libvirt/libvirt-sock")
        client.sendall(struct.pack(">7I", 28, 0x20008086, 1, 66, 0, 0, 0))  # REMOTE_PROC_AUTH_LIST
        if not client.recv(64):
            raise ConnectionResetError
        peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", peer)[0]
        return pid


@contextlib.contextmanager
def private_libvirtd(
    *,
    name: str = "node",
    host_uuid: str | None = None,
    root: Path = Path("/"),
    shared: Sequence[Path] = (),
    places: Mapping[Path, Path] | None = None,
    cache: Path | None = None,
    security_driver: str = "none",
    remember_owner: bool = True,
    private_network: bool = True,
) -> Iterator[Libvirtd]:
    """Start a libvirtd for QEMU, wait until it answers, and stop it at the end.

    Parameters:
        name: of the host.
        host_uuid: of the host, random unless given; live migration asks for two different ones.
        root: the tree to run in, such as a chroot with another version of libvirt.
        shared: directories that are seen in another root, at the same path.
        places: what this host alone sees at a path: directories by the path.
        cache: where libvirt keeps what it learnt from QEMU, one for each root; several libvirtds
            may use it at once. Without it the first define of each takes half a second.
        security_driver, remember_owner: as in qemu.conf. Two hosts on one machine cannot both
            remember the owner of a file, so migration between them needs remember_owner=False.
        private_network: without it, the network is the caller's: for migration over TCP.

    Raises LibvirtdMissingError where it cannot run, LibvirtdError if it does not start.
    """
    if missing := _missing(root):
        raise LibvirtdMissingError(missing)
    passwd, group = ((root / "etc" / file).read_text() for file in ("passwd", "group"))
    if "\nlibvirt-qemu:" not in passwd:  # the user of QEMU comes with libvirt-daemon-system only
        passwd += "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin\n"
        group += "libvirt-qemu:x:64055:\n"
    files = {
        "etc/hosts": f"127.0.0.1 localhost {name}\n",
        "etc/passwd": passwd,
        "etc/group": group,
        "etc/libvirt/libvirtd.conf": f"""
            host_uuid = "{host_uuid or uuid.uuid4()}"
            auth_unix_rw = "none"
            unix_sock_rw_perms = "0700"
            """,
        # Without virtlogd, cgroups and a /dev for each guest: nothing outlives it or is shared.
        "etc/libvirt/qemu.conf": f"""
            stdio_handler = "file"
            cgroup_controllers = []
            namespaces = []
            security_driver = "{security_driver}"
            remember_owner = {remember_owner:d}
            """,
    }
    directory = Path(tempfile.mkdtemp(prefix="xmlkit-libvirtd-"))
    directory.chmod(0o755)
    own = [f"{place}/libvirt" for place in ("etc", "var/lib", "var/log", "var/cache")]
    own += ["run", "sys", "proc", "dev"]
    for path in own:
        (directory / path).mkdir(parents=True)
        (directory / path).chmod(0o755)
    for path, text in files.items():
        (directory / path).write_text(text)
    own += ["etc/hosts", "etc/passwd", "etc/group"]
    binds = [(directory / path, root / path) for path in own]
    if cache:
        binds.append((cache, root / "var/cache/libvirt"))
    if root != Path("/"):
        binds += [(path, root / path.relative_to("/")) for path in (directory, *shared)]
    binds += [(mine, root / at.relative_to("/")) for at, mine in (places or {}).items()]
    # The end of this thread ends unshare, and the end of unshare ends the namespaces.
    command = ["setpriv", "--pdeathsig=KILL", "unshare", "--kill-child=KILL", "--fork", "--pid"]
    command += ["--mount", "--ipc", "--uts", *(["--net"] if private_network else [])]
    command += ["sh", "-c", _INIT, "init", str(directory), str(root), name]
    command += [str(path) for pair in binds for path in pair]
    control, theirs = socket.socketpair()
    with theirs, (directory / "libvirtd.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=log,
            env={"PATH": os.pathsep.join(os.get_exec_path()), "LC_ALL": "C"},
            start_new_session=True,  # Ctrl-C is for the tests
        )
    control.settimeout(TIMEOUT)
    libvirtd = Libvirtd(
        uri=f"qemu+unix:///system?socket={directory}/run/libvirt/libvirt-sock",
        directory=directory,
        pid=process.pid,
        _init=int(control.recv(16) or process.pid),
        _process=process,
        _control=control,
    )
    try:
        libvirtd._run()
        yield libvirtd
    finally:
        libvirtd.stop()


def _missing(root: Path) -> list[str]:
    inside = os.pathsep.join(f"{root}{directory}" for directory in os.get_exec_path())
    missing = [] if os.geteuid() == 0 else ["the rights of root"]
    missing += [tool for tool in ("setpriv", "unshare", "ip") if not shutil.which(tool)]
    programs = ("libvirtd", "qemu-system-x86_64", "qemu-img")
    return missing + [program for program in programs if not shutil.which(program, path=inside)]
