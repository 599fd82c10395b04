"""Linux guests, and a whole emulated machine: for what the kernel under the tests has not.

Kernel and programs come from one tree (chroots.py) and start from an archive of files in memory, so
nothing of the machine under the tests shows in them, and nothing is installed but QEMU.
"""

from __future__ import annotations

import contextlib
import re
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from chroots import tree

TIMEOUT = 180.0  # seconds to boot, or for one script, emulated on the busiest machine
DISK = 1 << 30  # bytes of a machine's /dev/vda, sparse

# What `linux_guest` does: as xmlkit.testing.boot_sector on its first disk, on a real kernel.
GUEST = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
for input in /sys/class/input/event*; do
    if [ "$(cat $input/device/name)" = "Power Button" ]; then
        (
            head -c 1 /dev/input/${input##*/} >/dev/null
            echo XMLKIT-GUEST-OFF >/dev/ttyS0
            sync
            poweroff -f
        ) &
    fi
done
echo XMLKIT-GUEST-UP >/dev/ttyS0
[ -e /dev/vda ] || while :; do sleep 60; done
n=0
while :; do
    n=$((n + 1))
    bytes=$(printf '\\%o' $((n & 255)) $((n >> 8 & 255)) $((n >> 16 & 255)) $((n >> 24 & 255)))
    if printf "TICK$bytes" | dd of=/dev/vda bs=512 seek=8 conv=fsync 2>/dev/null; then
        printf W >/dev/ttyS0
    else
        printf E >/dev/ttyS0
    fi
    sleep 0.5
done
"""
GUEST_MODULES = ("virtio_pci", "virtio_blk", "button", "evdev")

# What a machine does: a libvirtd and a shell, each listening.
MACHINE = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /tmp /run/lvm /run/lock/lvm /var/lib /var/log /var/cache /root
ln -s /run /var/run
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
for module in /modules/*; do insmod $module; done
hostname machine
ip link set lo up
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
export PATH HOME=/root
nc -ll -p 23 -e /bin/sh &
libvirtd --listen >/dev/ttyS0 2>&1 &
until [ -S /run/libvirt/libvirt-sock ]; do sleep 0.1; done
until virsh --connect qemu:///system uri; do sleep 0.1; done  # it listens before it answers
echo XMLKIT-MACHINE-UP >/dev/ttyS0
while :; do sleep 60; done
"""
MACHINE_MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_net", "loop"),
    *("dm_mod", "dm_snapshot", "dm_zero", "dm_thin_pool"),
)
MACHINE_PROGRAMS = (
    *("bin/busybox", "sbin/dmsetup", "sbin/lvm", "usr/bin/qemu-img", "usr/bin/virsh"),
    *("usr/sbin/libvirtd", "usr/lib/libvirt/libvirt_iohelper"),
    *("usr/lib/libvirt/libvirt_parthelper", "usr/share/libvirt/cpu_map/*.xml"),
)
# What libvirtd loads itself, below usr/lib/ARCHITECTURE/libvirt.
MACHINE_DRIVERS = (
    *("connection-driver/libvirt_driver_qemu.so", "connection-driver/libvirt_driver_storage.so"),
    *("storage-backend/*.so", "storage-file/*.so"),
)
# What lets a guest run in it.
EMULATOR = (
    *("usr/bin/qemu-system-x86_64", "usr/share/seabios/bios-256k.bin"),
    *("usr/share/qemu/kvmvapic.bin", "usr/lib/x86_64-linux-gnu/qemu/accel-*.so"),
)
MACHINE_FILES = {
    "etc/passwd": b"root:x:0:0::/root:/bin/sh\nlibvirt-qemu:x:64055:64055::/:/bin/false\n",
    "etc/group": b"root:x:0:\nlibvirt-qemu:x:64055:\n",
    "etc/libvirt/libvirtd.conf": b"""
        host_uuid = "4cb5a6e5-1c0e-4c0f-8a3c-5a1d0b8f6e21"
        listen_tls = 0
        listen_tcp = 1
        auth_tcp = "none"
        auth_unix_rw = "none"
        keepalive_interval = -1
        """,
    "etc/libvirt/qemu.conf": b"""
        stdio_handler = "file"
        cgroup_controllers = []
        namespaces = []
        security_driver = "none"
        """,
    # There is no udev: LVM makes its links itself and waits for nobody.
    "etc/lvm/lvm.conf": b"""
        activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }
        devices { obtain_device_list_from_udev = 0 use_devicesfile = 0 }
        """,
}


def in_machine(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test with the fixture `machine`; one worker has that and runs all of them."""
    marked: Callable[..., None] = pytest.mark.machine(pytest.mark.xdist_group("machine")(test))
    return marked


class MachineError(RuntimeError):
    """A machine did not boot, or a script in it failed; the message has what it wrote."""


@dataclass(frozen=True)
class Machine:
    """A running emulated machine: Debian 12's kernel, libvirt, LVM and busybox, nothing else.

    Fields: `uri` opens its libvirt, which has storage pools of all kinds, and an emulator if asked
    for; `directory` is its own, with the image of /dev/vda and the log of its console in it.
    """

    uri: str
    directory: Path
    _shell: int
    _process: subprocess.Popen[str]

    def run(self, script: str, timeout: float = TIMEOUT) -> str:
        """Run a shell script in it, with `set -e`; return what it wrote to stdout and stderr.

        Raises MachineError if it fails or takes longer than `timeout` seconds.
        """
        text = f"(set -e\n{script}\n) </dev/null 2>&1; printf '\\n%d' $?\n"
        received = b""
        try:
            with socket.create_connection(("127.0.0.1", self._shell), timeout) as connection:
                connection.sendall(text.encode())
                connection.shutdown(socket.SHUT_WR)
                while block := connection.recv(1 << 16):
                    received += block
        except OSError as error:
            raise MachineError(f"{error}: {received.decode(errors='replace')}") from error
        output, _, status = received.decode(errors="replace").rpartition("\n")
        if status != "0":
            raise MachineError(f"exit code {status or 'unknown'}: {output}")
        return output

    def _wait(self) -> None:
        # Not by connecting: QEMU takes connections before there is anybody, and is slow to retry.
        console = self.directory / "console.log"
        deadline = time.monotonic() + TIMEOUT
        while b"XMLKIT-MACHINE-UP" not in (said := console.read_bytes()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise MachineError(f"it did not boot:\n{said.decode(errors='replace')[-4000:]}")
            time.sleep(0.1)


def linux_guest(directory: Path) -> tuple[Path, Path]:
    """Write a guest's kernel and initrd into a directory and return their paths, in this order.

    For `<os>` with `<kernel>`, `<initrd>` and `<cmdline>console=ttyS0 quiet</cmdline>`; it takes
    192 MiB. It says and writes what `xmlkit.testing.boot_sector` does, if it has a virtio disk,
    which need not be bootable; and unlike that it answers the power button (`virsh shutdown`): it
    prints "XMLKIT-GUEST-OFF\n" and is off.
    """
    files = Files(tree("linux"))
    files.add("bin/busybox")
    files.modules(GUEST_MODULES)
    files.write("init", GUEST.encode(), 0o755)
    return files.kernel(directory), files.archive(directory / "initrd")


@contextlib.contextmanager
def emulated_machine(*, emulator: bool = False) -> Iterator[Machine]:
    """Boot a machine, wait until its libvirt answers, and end it at the end.

    emulator: whether guests can run in it, from a BIOS and a disk; it takes 50 MB more.
    """
    with tempfile.TemporaryDirectory(prefix="xmlkit-machine-") as name:
        directory = Path(name)
        files = Files(tree("linux"))
        for program in (*MACHINE_PROGRAMS, *(EMULATOR if emulator else ())):
            files.add(program)
        for driver in MACHINE_DRIVERS:
            files.add(f"usr/lib/x86_64-linux-gnu/libvirt/{driver}")
        for tool in files.root.glob("sbin/*"):
            if tool.is_symlink() and tool.name.startswith(("lv", "pv", "vg")):
                files.link(f"sbin/{tool.name}", "lvm")
        for path, content in MACHINE_FILES.items():
            files.write(path, content)
        files.modules(MACHINE_MODULES)
        files.write("init", MACHINE.encode(), 0o755)
        kernel, initrd = files.kernel(directory), files.archive(directory / "initrd")
        with (directory / "disk").open("wb") as disk:
            disk.truncate(DISK)
        forward = ",".join(f"hostfwd=tcp:127.0.0.1:0-:{port}" for port in (23, 16509))
        command = (
            *("setpriv", "--pdeathsig=KILL", "qemu-system-x86_64"),
            *("-machine", "pc,accel=tcg", "-smp", "2", "-m", "1024"),
            *("-nodefaults", "-display", "none", "-no-reboot", "-monitor", "stdio"),
            *("-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1"),
            *("-serial", f"file:{directory}/console.log"),
            *("-drive", f"file={directory}/disk,if=virtio,format=raw,cache=unsafe"),
            *("-netdev", f"user,id=net,restrict=on,{forward}"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
        )
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        try:
            ports = _forwarded(process)
            uri = f"qemu+tcp://127.0.0.1:{ports[16509]}/system"
            machine = Machine(uri, directory, ports[23], process)
            machine._wait()
            yield machine
        finally:
            process.kill()
            process.communicate()


def _forwarded(process: subprocess.Popen[str]) -> Mapping[int, int]:
    """The ports of this machine by those of the emulated one, as QEMU's monitor says them."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("info usernet\n")
    process.stdin.flush()
    ports: dict[int, int] = {}
    for line in process.stdout:
        if found := re.search(r"HOST_FORWARD\D+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)", line):
            ports[int(found[2])] = int(found[1])
            if len(ports) == 2:
                return ports
    raise MachineError("QEMU ended before it said which ports it forwards")


class Files:
    """Files of a tree, and others, that become the first root of a kernel.

    Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        (self._kernel,) = root.glob("boot/vmlinuz-*")
        # path: (mode, content)
        self._entries: dict[str, tuple[int, bytes]] = {}
        for directory in ("dev", "proc", "sys", "tmp", "run"):
            self._directory(directory)

    def kernel(self, directory: Path) -> Path:
        """Copy the kernel into a directory."""
        kernel = directory / "kernel"
        kernel.write_bytes(self._kernel.read_bytes())
        return kernel

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a file."""
        self._directory(path.rpartition("/")[0])
        self._entries[path] = (stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._directory(path.rpartition("/")[0])
        self._entries[path] = (stat.S_IFLNK | 0o777, target.encode())

    def add(self, pattern: str) -> None:
        """Add the tree's files of that name, with the libraries that they need."""
        found = sorted(self.root.glob(pattern))
        assert found, f"no {pattern} in {self.root}"
        for path in found:
            name = str(path.relative_to(self.root))
            self.write(name, path.read_bytes(), 0o755)
            for library in self._libraries(name):
                if library not in self._entries:
                    self.write(library, (self.root / library).read_bytes(), 0o755)

    def modules(self, names: Iterable[str]) -> None:
        """Add modules of the kernel and what they need, named in the order to insert them."""
        release = self._kernel.name.removeprefix("vmlinuz-")
        found = {
            path.stem.replace("-", "_"): path
            for path in (self.root / "lib/modules" / release).rglob("*.ko")
        }
        order: dict[str, bytes] = {}

        def insert(name: str) -> None:
            if name not in order and name in found:  # others are built in
                content = found[name].read_bytes()
                depends = re.search(rb"\0depends=([^\0]*)", content)
                for each in (depends[1].decode() if depends else "").split(","):
                    insert(each.replace("-", "_"))
                order[name] = content

        for name in names:
            assert name in found, f"no module {name} in {self.root}"
            insert(name)
        for number, (name, content) in enumerate(order.items()):
            self.write(f"modules/{number:02}-{name}.ko", content)

    def archive(self, path: Path) -> Path:
        """Write them as an archive that a kernel unpacks."""
        with path.open("wb") as file:
            trailer = {"TRAILER!!!": (0, b"")}
            for number, (name, (mode, content)) in enumerate({**self._entries, **trailer}.items()):
                fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
                head = "070701" + "".join(f"{field:08x}" for field in fields) + name + "\0"
                file.write(head.encode() + bytes(-len(head) % 4))
                file.write(content + bytes(-len(content) % 4))
        return path

    def _directory(self, path: str) -> None:
        if path and path not in self._entries:
            self._directory(path.rpartition("/")[0])
            self._entries[path] = (stat.S_IFDIR | 0o755, b"")

    def _libraries(self, path: str) -> list[str]:
        loader = ("chroot", self.root, "/lib64/ld-linux-x86-64.so.2")
        done = subprocess.run((*loader, "--list", f"/{path}"), capture_output=True, text=True)
        if done.returncode != 0:  # it is linked statically
            return []
        return re.findall(r"(?:=> |^\s*)/(\S+)", done.stdout, re.M)
