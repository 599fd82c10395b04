"""Two hosts on one machine, and a guest that tells by its disk whether it was moved faultlessly.

Rules
- Two private libvirtd with host UUIDs of their own. They see one storage, or each its own at the
  same path, so that a path says nothing about whether it is the same file.
- The guest writes N to block 8 + N, 18 times a second: a block that is missing was lost, and a
  block with another number was written by a guest that had been there before.
"""

from __future__ import annotations

import os
import socket
import struct
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
from scene import POOL, SECURE, UP, quiet, run, until

from xmlkit.document import Document
from xmlkit.testing import Libvirtd, boot_sector

SIZE = 8 << 20  # bytes of a guest's disk: a quarter of an hour of ticks

DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='{machine}'>hvm</type><boot dev='hd'/></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='{format}' cache='{cache}'/>
      <source file='{path}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{log}'/></serial>
    <graphics type='vnc' passwd='geheim'><listen type='socket'/></graphics>
    <memballoon model='none'/>
  </devices>
</domain>
"""


@dataclass
class Pair:
    """Two hosts: each its libvirtd, its storage as this process sees it, and a connection.

    Fields: `here` and `there` are the libvirtds, `root` is where both see their storage, this
    process sees it as `here` does; `storages` is where it sees those: twice the same if shared;
    `consoles` has for each host what its guests print.
    """

    here: Libvirtd
    there: Libvirtd
    root: Path
    storages: tuple[Path, Path]
    sockets: Path
    consoles: tuple[Path, Path]
    machine: str = "pc"

    def __post_init__(self) -> None:
        quiet()
        self.connect()
        for connection in (self.source, self.destination):
            pool = connection.storagePoolDefineXML(
                f"<pool type='dir'><name>{POOL}</name><target>"
                f"<path>{self.instances / 'disks'}</path></target></pool>"
            )
            pool.create()
            pool.setAutostart(1)

    def connect(self) -> None:
        """Open both anew, as after a restart."""
        self.source = libvirt.open(self.here.uri)
        self.destination = libvirt.open(self.there.uri)

    @property
    def instances(self) -> Path:
        """Nova's directory, as the hosts see it."""
        return self.root / "instances"

    @property
    def base(self) -> Path:
        """The image that overlays are backed by, as the hosts see it."""
        return self.instances / "_base" / "0123456789abcdef0123456789abcdef01234567"

    def seen(self, path: Path, side: int = 0) -> Path:
        """Where this process sees what host 0 (here) or 1 (there) sees at a path."""
        return self.storages[side] / path.relative_to(self.root)

    def guest(
        self,
        name: str = "guest",
        *,
        format: str = "qcow2",
        cache: str = "none",
        memory: int = 16,
        path: Path | None = None,
        start: bool = True,
    ) -> Any:
        """A running domain of the source, its disk in Nova's directory unless a path is given."""
        own = str(uuid.uuid4())
        at = path or self.instances / own / "disk"
        image = self.seen(at)
        image.parent.mkdir(exist_ok=True)
        if format == "raw":
            image.write_bytes(boot_sector(step=1, ticks=1))
            os.truncate(image, SIZE)
        else:
            options = ("-q", "-u", "-f", "qcow2", "-F", "raw", "-b", self.base)
            run("qemu-img", "create", *options, image, SIZE)
        for log in self.logs(name):
            log.unlink(missing_ok=True)
        log = self.root / "console" / f"{name}.log"
        domain = self.source.defineXML(
            DOMAIN.format(
                log=log,
                **{"name": name, "uuid": own, "memory": memory, "machine": self.machine},
                **{"format": format, "cache": cache, "path": at},
            )
        )
        if start:
            domain.create()
            until(lambda: self.written(domain) > 2)
        return domain

    def logs(self, name: str = "guest") -> tuple[Path, Path]:
        """What the guest prints here and there: a W for each write, by no word of libvirt."""
        return (self.consoles[0] / f"{name}.log", self.consoles[1] / f"{name}.log")

    def writers(self, name: str = "guest", seconds: float = 0.5) -> tuple[str, ...]:
        """On which hosts the guest writes now, by what it prints; fails if it is on both.

        It may go over from one to the other while we look, so once is no proof.
        """
        for _ in range(3):
            before = [_size(log) for log in self.logs(name)]
            time.sleep(seconds)
            after = [_size(log) for log in self.logs(name)]
            grown = [b > a for a, b in zip(before, after, strict=True)]
            if not all(grown):
                return tuple(
                    side for side, grew in zip(("here", "there"), grown, strict=True) if grew
                )
        raise AssertionError("two guests write")

    def prints(self, name: str = "guest") -> int:
        """How often the guest said W since it booted, on both hosts together, and never E."""
        said = b"".join(log.read_bytes() for log in self.logs(name) if log.exists())
        assert b"E" not in said.replace(UP, b""), "the guest could not write"
        return said.rpartition(UP)[2].count(b"W")

    def written(self, domain: Any) -> int:
        """How many writes QEMU has counted since it was started."""
        return int(domain.blockStats("vda")[2])

    def goes_on(self, domain: Any) -> None:
        """Wait until the guest writes, and some more."""
        before = self.written(domain)
        until(lambda: self.written(domain) > before + 2)

    def ticks(self, path: Path, format: str = "qcow2", side: int = 0) -> int:
        """The last N that a guest that is off has written; fails unless all before it are there."""
        image = self.seen(path, side)
        raw = self.sockets / "counted.raw"
        try:
            options = ["-f", format, "-O", "raw"]
            # an overlay's base is at the same path to all, and has the same content
            run("qemu-img", "convert", *options, image, raw)
            data = raw.read_bytes()
        finally:
            raw.unlink(missing_ok=True)
        blocks = [at for at in range(9 * 512, len(data), 512) if data[at : at + 4] == b"TICK"]
        written = [struct.unpack("<I", data[at + 4 : at + 8])[0] for at in blocks]
        assert list(range(1, len(written) + 1)) == [at // 512 - 8 for at in blocks], "a gap"
        assert list(range(1, len(written) + 1)) == written, "another's number"
        return len(written)

    def addresses(self, domain: Any, flags: int = SECURE) -> list[tuple[str, ...]]:
        """The type and the address of each disk in a domain's XML."""
        found = []
        for disk in Document.parse(domain.XMLDesc(flags)).root.iterfind("devices/disk"):
            source = disk.find("source")
            values = {} if source is None else {**source.attrib}
            values.pop("index", None)
            found.append((disk.get("type", ""), *map(str, values.values())))
        return found

    def running(self, uuid_: str) -> tuple[str, ...]:
        """Which hosts have a QEMU of this domain that runs; asked of the processes first."""
        found = []
        for name, libvirtd in (("here", self.here), ("there", self.there)):
            pid = libvirtd.directory / "run" / "libvirt" / "qemu"
            if any(pid.glob("*.pid")):
                connection = libvirt.open(libvirtd.uri)
                for domain in connection.listAllDomains():
                    if domain.UUIDString() == uuid_ and domain.isActive():
                        states = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED)
                        found += [name] if domain.state()[0] in states else []
                connection.close()
        return tuple(found)

    def links(self) -> list[str]:
        """What lies in the pool's directory of either storage."""
        found = set()
        for side in (0, 1):
            found |= set(os.listdir(self.seen(self.instances / "disks", side)))
        return sorted(found)

    @property
    def tcp(self) -> str:
        """A URI for QEMU's own connection, on a port that is free now."""
        with socket.socket() as probe:
            for port in range(49152 + os.getpid() % 8000, 65535):
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return f"tcp://127.0.0.1:{port}"
        raise AssertionError("no port is free")

    def unix(self, name: str = "migrate") -> str:
        """The same by a socket that both QEMUs may use."""
        return f"unix://{self.sockets}/{name}-{time.monotonic_ns()}.sock"


def make_pair(
    start: Callable[..., Libvirtd],
    directory: Path,
    *,
    separate: bool = False,
    starts: tuple[Callable[..., Libvirtd], Callable[..., Libvirtd]] | None = None,
    machine: str = "pc",
) -> Pair:
    """Start two hosts with their storage below a directory that QEMU's user may enter."""
    root, sockets = directory / "storage", directory / "sockets"
    root.mkdir(mode=0o755)
    sockets.mkdir()
    sockets.chmod(0o1777)
    storages = (root, directory / "elsewhere" if separate else root)
    for each in dict.fromkeys(storages):
        each.mkdir(mode=0o755, exist_ok=True)
        for path in ("console", "instances", "instances/disks", "instances/_base"):
            (each / path).mkdir(mode=0o755)
        base = each / "instances/_base/0123456789abcdef0123456789abcdef01234567"
        base.write_bytes(boot_sector(step=1, ticks=1))
        os.truncate(base, 1 << 20)
    consoles = (directory / "console-here", directory / "console-there")
    for each in consoles:
        each.mkdir()
        each.chmod(0o777)
    libvirtds = []
    for number, name in enumerate(("here", "there")):
        libvirtds.append(
            (starts or (start, start))[number](
                name=name,
                remember_owner=False,
                private_network=False,
                shared=[sockets],
                places={root: storages[number], root / "console": consoles[number]},
            )
        )
    return Pair(libvirtds[0], libvirtds[1], root, storages, sockets, consoles, machine)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def wait_for(moment: str, here: str, there: str, seconds: float = 60.0) -> bool:
    """Wait for a moment of the guest's migration between two hosts; False if it does not come.

    moment: "prepared" (QEMU waits at the destination), "paused" (it is so here, for the last of
    its memory to go over) or "resumed" (it runs there).
    """
    source, destination = libvirt.open(here), libvirt.open(there)
    uuid_ = source.lookupByName("guest").UUIDString()
    connection = source if moment == "paused" else destination
    wanted = {
        "prepared": (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_RUNNING),
        "paused": (libvirt.VIR_DOMAIN_PAUSED, None),
        "resumed": (libvirt.VIR_DOMAIN_RUNNING, None),
    }[moment]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if connection.lookupByUUIDString(uuid_).state()[0] in wanted:
                return True
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                return False
            if moment == "paused":
                # it has gone over already
                return True
        time.sleep(0.001)
    return False
