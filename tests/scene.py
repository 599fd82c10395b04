"""A host with guests that really boot from their disks, for tests of transitions.

Rules
- Everything is real: a private libvirtd, QEMU in emulation, a boot sector that counts on its disk.
- The layout is Nova's: instances/{uuid}/disk over instances/_base, the pool nova-disks-pool in
  instances/disks.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt

from xmlkit.document import Document
from xmlkit.testing import Libvirtd, boot_sector

POOL = "nova-disks-pool"
SECONDS = 120.0  # for what takes one on an idle machine
SECURE = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
UP = b"XMLKIT-GUEST-UP"

DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>16</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <boot dev='hd'/>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
{disks}
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{log}'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""
DISK = """\
    <disk type='file' device='disk'>
      <driver name='qemu' type='{format}'/>
      <source file='{path}'/>
      <target dev='{target}' bus='virtio'/>
    </disk>"""


def quiet() -> None:
    """Keep libvirt from printing the errors that tests provoke."""
    libvirt.registerErrorHandler(lambda *_: None, None)


def run(*command: object) -> str:
    """The output of a command that has to succeed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, (words, done.stderr)
    return done.stdout


def until(condition: Any, seconds: float = SECONDS) -> Any:
    """What `condition()` gives, as soon as it is true; fails if that takes too long."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.01)
    return value


@contextlib.contextmanager
def cuttable(uri: str) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A connection to libvirt, and a function that cuts it as a network would.

    libvirtd hears that its client has gone, and the client that its libvirtd has.
    """
    before = _sockets()
    connection = libvirt.open(uri)
    (handle,) = _sockets() - before
    # the socket itself: its number may become another one's
    with socket.socket(fileno=os.dup(handle)) as line:
        yield connection, lambda: line.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()


def _sockets() -> set[int]:
    """The file descriptors of this process that are sockets of libvirt's client."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as each:
                peer = each.getpeername()
        except OSError:
            continue
        if isinstance(peer, str) and peer.endswith("libvirt-sock"):
            found.add(int(name))
    return found


def disk_xml(path: Path, target: str = "vda", format: str = "qcow2") -> str:
    """A file disk."""
    return DISK.format(path=path, target=target, format=format)


@dataclass
class Scene:
    """A host: its libvirtd, a connection, Nova's directories and the pool in them."""

    libvirtd: Libvirtd
    connection: Any = field(init=False)
    sector: bytes = field(default_factory=boot_sector)  # the guests, all alike

    def __post_init__(self) -> None:
        quiet()
        self.connection = libvirt.open(self.libvirtd.uri)
        self.instances.mkdir(mode=0o755)
        self.base.parent.mkdir(mode=0o755)
        with self.base.open("wb") as image:
            image.write(self.sector)
            image.truncate(1 << 20)
        self.pool(POOL, self.instances / "disks")

    @property
    def instances(self) -> Path:
        return self.libvirtd.directory / "instances"

    @property
    def base(self) -> Path:
        """The image that the overlays are backed by."""
        return self.instances / "_base" / "0123456789abcdef0123456789abcdef01234567"

    def reopen(self) -> None:
        """Connect anew, as after a restart of libvirtd."""
        self.connection = libvirt.open(self.libvirtd.uri)

    def pool(self, name: str, path: Path) -> Any:
        """A directory pool, started and to be started with the host."""
        path.mkdir(exist_ok=True)
        xml = f"<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"
        pool = self.connection.storagePoolDefineXML(xml)
        pool.create()
        pool.setAutostart(1)
        return pool

    def overlay(self, path: Path) -> Path:
        """A qcow2 image over the base."""
        path.parent.mkdir(exist_ok=True)
        options = ["-q", "-f", "qcow2", "-b", self.base, "-F", "raw"]
        run("qemu-img", "create", *options, path)
        return path

    def flat(self, path: Path, size: int = 1 << 20) -> Path:
        """A raw image that boots."""
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as image:
            image.write(self.sector)
            image.truncate(size)
        return path

    def define(self, name: str, disks: Sequence[str], uuid_: str | None = None) -> Any:
        """A domain with these disks."""
        return self.connection.defineXML(
            DOMAIN.format(
                name=name,
                uuid=uuid_ or uuid.uuid4(),
                log=self.log(name),
                disks="\n".join(disks),
            )
        )

    def nova_guest(
        self,
        name: str,
        *,
        kinds: Sequence[str] = ("disk",),
        raw: bool = False,
        uuid_: str | None = None,
    ) -> Any:
        """A domain with its disks where Nova's file backends put them: instances/{uuid}/{kind}."""
        own = uuid_ or str(uuid.uuid4())
        directory = self.instances / own
        make = self.flat if raw else self.overlay
        format_ = "raw" if raw else "qcow2"
        targets = [f"vd{letter}" for letter in "abcdefgh"]
        disks = [
            disk_xml(make(directory / kind), target, format_)
            for kind, target in zip(kinds, targets, strict=False)
        ]
        return self.define(name, disks, own)

    def log(self, name: str) -> Path:
        """What the guest writes to its serial port."""
        return self.libvirtd.directory / f"{name}.log"

    def document(self, domain: Any) -> Document:
        """The persistent XML, with its secrets."""
        return Document.parse(domain.XMLDesc(SECURE))

    def addresses(self, domain: Any) -> list[tuple[str, ...]]:
        """The type and the address of each disk in the persistent XML."""
        found = []
        for disk in self.document(domain).root.iterfind("devices/disk"):
            source = disk.find("source")
            values = () if source is None else tuple(source.attrib.values())
            found.append((disk.get("type", ""), *values))
        return found

    def start(self, domain: Any) -> None:
        """Start a guest and wait until it has written to its disk."""
        log = self.log(domain.name())
        # a start that failed leaves an owner remembered on it, and the next one would be refused
        log.unlink(missing_ok=True)
        domain.create()
        until(lambda: log.exists() and b"W" in log.read_bytes().rpartition(UP)[2])

    def stop(self, domain: Any) -> None:
        """Pull the plug."""
        if domain.isActive():
            domain.destroy()

    def boots(self, domain: Any) -> None:
        """The guest boots from what is defined, writes, and is off again."""
        self.start(domain)
        self.stop(domain)


def counter(image: Path, format: str) -> int:
    """How often the guest on an image has written to it."""
    copy = image.with_name(f"{image.name}.counted")
    try:
        run("qemu-img", "convert", "-U", "-f", format, "-O", "raw", image, copy)
        with copy.open("rb") as raw:
            raw.seek(4096)
            mark, count = struct.unpack("<4sI", raw.read(8))
    finally:
        copy.unlink(missing_ok=True)
    return count if mark == b"TICK" else 0


def images(scene: Scene) -> list[str]:
    """All images below the instances' directory but the bases, by the path in it."""
    found = (path for path in scene.instances.rglob("*") if path.is_file())
    return sorted(
        str(path.relative_to(scene.instances)) for path in found if path.parent.name != "_base"
    )


def edited(scene: Scene, domain: Any, old: str, new: str) -> None:
    """What `virsh edit` does: the first `old` is `new`."""
    text = scene.document(domain).text
    assert old in text
    scene.connection.defineXML(text.replace(old, new, 1))


def when(moment: str, kind: type, act: Callable[[], object]) -> Callable[..., None]:
    """A listener that acts once, at the first "begin" or "done" of a kind of step."""
    acted: list[bool] = []

    def listener(event: str, _: str, step: Any, *__: int) -> None:
        if event == moment and isinstance(step, kind) and not acted:
            acted.append(True)
            act()

    return listener
