"""xmlkit hook where it belongs: called by the libvirtd to which a guest migrates.

Rules
- Two hosts on one machine share the files; the guest counts on its disk, and the hook's log is what
  it sent to the destination's own /dev/log.
- The hook changes the live XML alone. What that means for the old name is shown, not said.
"""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest
from scene import POOL, SECONDS, UP, Scene, counter, run, until

from xmlkit.disks import Address, read_domain
from xmlkit.document import Document
from xmlkit.observe import observe
from xmlkit.testing import Libvirtd, boot_sector

CODE = "from xmlkit.cli import main; main()"
FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    | libvirt.VIR_MIGRATE_UNSAFE  # libvirt asks for it where files are not on a cluster's storage
)
HOOK = """\
#!/bin/sh
echo "$*" >>{calls}
[ "$2 $3" = "migrate begin" ] || exit 0
exec {xmlkit} hook --host {host} --timeout 60 {options} -- "$@"
"""


@dataclass
class Hosts:
    """Two hosts that see the same files; pool POOL of the destination is where Nova's disks go."""

    source: Scene
    there: Libvirtd
    connection: Any
    log: socket.socket

    @property
    def disks(self) -> Path:
        """The directory of the destination's pool; the source has none there."""
        return self.source.instances / "arrived"

    @property
    def host_file(self) -> Path:
        return self.there.directory / "host.xml"

    @property
    def calls(self) -> Path:
        """What the hook was called with, a line a call."""
        return self.there.directory / "calls"

    def link(self, domain: Any) -> tuple[Path, Path]:
        """Give the domain's image its name in the pool, refresh, and observe; both names."""
        uuid_ = domain.UUIDString()
        old, new = self.source.instances / uuid_ / "disk", self.disks / f"{uuid_}_disk"
        new.hardlink_to(old)
        self.connection.storagePoolLookupByName(POOL).refresh()
        self.observe()
        return old, new

    def observe(self) -> None:
        self.host_file.write_bytes(observe(self.connection))
        self.host_file.chmod(0o644)

    def install(self, *options: str) -> None:
        """The hook as the destination's /etc/libvirt/hooks/qemu, which libvirtd finds at start."""
        script = self.there.directory / "etc/libvirt/hooks/qemu"
        script.parent.mkdir(exist_ok=True)
        script.write_text(
            HOOK.format(
                calls=self.calls,
                xmlkit=shlex.join([sys.executable, "-c", CODE]),
                host=self.host_file,
                options=" ".join(options),
            )
        )
        script.chmod(0o755)
        self.connection.close()
        self.there.restart()
        self.connection = libvirt.open(self.there.uri)

    def migrate(self, domain: Any) -> Any:
        """As `virsh migrate --live --persistent --undefinesource` does: no XML is given."""
        with tempfile.TemporaryDirectory(prefix="xmlkit-", dir="/tmp") as directory:
            Path(directory).chmod(0o777)  # QEMU's user listens there
            uri = f"unix://{directory}/socket"
            return domain.migrate3(self.connection, {libvirt.VIR_MIGRATE_PARAM_URI: uri}, FLAGS)

    def logged(self) -> list[str]:
        """What the hook has told the destination's log since it was last asked."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                message = self.log.recv(4096).decode(errors="replace").rstrip("\0")
                if "xmlkit: hook: " in message:
                    found.append(message.partition("xmlkit: hook: ")[2])
        return found


@pytest.fixture
def hosts(start_libvirtd: Callable[..., Libvirtd]) -> Iterator[Hosts]:
    """A source with Nova's directories, and a destination that has no domain yet."""
    source = Scene(
        start_libvirtd(name="source", host_uuid=str(uuid.uuid4()), remember_owner=False),
        sector=boot_sector(ticks=1),
    )
    there = start_libvirtd(name="there", host_uuid=str(uuid.uuid4()), remember_owner=False)
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.bind(f"/proc/{there._init}/root/dev/log")
    log.setblocking(False)
    made = Hosts(source, there, libvirt.open(there.uri), log)
    made.disks.mkdir(mode=0o755)
    pool = f"<pool type='dir'><name>{POOL}</name><target><path>{made.disks}</path></target></pool>"
    defined = made.connection.storagePoolDefineXML(pool)
    defined.create()
    defined.setAutostart(1)
    made.observe()
    yield made
    log.close()


def address(domain: Any, flags: int = 0) -> Address:
    """Where the XML of a domain says that its one disk is."""
    (disk,) = read_domain(Document.parse(domain.XMLDesc(flags))).disks
    return disk.address


def goes_on(domain: Any, image: Path) -> None:
    """The guest runs, and counts on that image."""
    assert [libvirt.VIR_DOMAIN_RUNNING] == domain.state()[:1]
    now = counter(image, "qcow2")
    assert now > 0
    until(lambda: counter(image, "qcow2") > now)


def restarts(hosts: Hosts, domain: Any, image: Path) -> None:
    """The guest, which is off, boots from what is defined, counts there, and goes off again."""
    log = hosts.source.log(domain.name())
    log.unlink(missing_ok=True)
    domain.create()
    until(lambda: log.exists() and b"W" in log.read_bytes().rpartition(UP)[2])
    goes_on(domain, image)
    domain.destroy()


def test_a_guest_arrives_on_its_volume_and_its_definition_keeps_the_path(hosts: Hosts) -> None:
    """So the old name has to stay until xmlkit apply has defined the domain anew over there."""
    guest = hosts.source.nova_guest("guest")
    hosts.source.start(guest)
    old, new = hosts.link(guest)
    hosts.install()
    before = counter(old, "qcow2")

    arrived = hosts.migrate(guest)

    assert counter(new, "qcow2") >= before > 0  # it has not begun anew
    assert ["guest: on volumes now: vda"] == hosts.logged()
    assert "guest migrate begin -" in hosts.calls.read_text().splitlines()
    assert [] == hosts.source.connection.listAllDomains()
    assert Address("volume", pool=POOL, volume=new.name) == address(arrived)
    assert Address("file", str(old)) == address(arrived, libvirt.VIR_DOMAIN_XML_INACTIVE)
    goes_on(arrived, new)

    # without its old name the guest runs on, and does not start again
    hidden = old.with_name("hidden")
    old.rename(hidden)
    goes_on(arrived, new)
    arrived.destroy()
    with pytest.raises(libvirt.libvirtError, match="No such file"):
        arrived.create()
    hidden.rename(old)
    restarts(hosts, arrived, new)

    state = hosts.there.directory / "state"
    command = ("apply", "--connect", hosts.there.uri, "--state-dir", state, "--arrived", "--yes")
    run(sys.executable, "-c", CODE, *command, "guest")

    assert not old.exists()
    assert 1 == new.stat().st_nlink
    defined = address(arrived, libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert Address("volume", pool=POOL, volume=new.name) == defined
    restarts(hosts, arrived, new)


def test_apply_waits_until_a_guest_that_has_arrived_is_off(hosts: Hosts) -> None:
    """Both names are there meanwhile, as docs/hook.md says; then it is defined on its volume."""
    guest = hosts.source.nova_guest("guest")
    hosts.source.start(guest)
    old, new = hosts.link(guest)
    hosts.install()
    arrived = hosts.migrate(guest)
    state = hosts.there.directory / "state"
    command = ("apply", "--connect", hosts.there.uri, "--state-dir", str(state), "--arrived")
    said = hosts.there.directory / "said"
    with (
        said.open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-c", CODE, *command, "--on-shutdown", "--yes", "guest"],
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            until(lambda: said.read_bytes() or process.poll() is not None)
            goes_on(arrived, new)
            assert process.poll() is None, said.read_text()
            assert old.samefile(new)
            arrived.destroy()
            assert 0 == process.wait(SECONDS), said.read_text()
        finally:
            process.kill()

    assert not old.exists()
    defined = address(arrived, libvirt.VIR_DOMAIN_XML_INACTIVE)
    assert Address("volume", pool=POOL, volume=new.name) == defined
    restarts(hosts, arrived, new)


def test_strict_refuses_a_guest_whose_volume_is_not_known(hosts: Hosts) -> None:
    """The guest runs on at its source, and libvirt's message tells why; nothing is left there."""
    guest = hosts.source.nova_guest("guest")
    hosts.source.start(guest)
    hosts.install("--strict")

    with pytest.raises(libvirt.libvirtError, match=r"xmlkit hook: guest: vda: no-volume"):
        hosts.migrate(guest)

    assert ["guest: vda: no-volume"] == [each[:21] for each in hosts.logged()]
    assert [] == hosts.connection.listAllDomains()
    image = hosts.source.instances / guest.UUIDString() / "disk"
    assert Address("file", str(image)) == address(guest)
    goes_on(guest, image)


def test_without_strict_such_a_guest_arrives_on_its_path(hosts: Hosts) -> None:
    """A copy in the pool is no volume of it either: it is told, and the guest has lost nothing."""
    guest = hosts.source.nova_guest("guest")
    hosts.source.start(guest)
    image = hosts.source.instances / guest.UUIDString() / "disk"
    copy = hosts.disks / f"{guest.UUIDString()}_disk"
    hosts.source.overlay(copy)
    hosts.connection.storagePoolLookupByName(POOL).refresh()
    hosts.observe()
    hosts.install()

    arrived = hosts.migrate(guest)

    assert ["guest: vda: other-image"] == [each[:23] for each in hosts.logged()]
    assert Address("file", str(image)) == address(arrived)
    goes_on(arrived, image)
    assert 0 == counter(copy, "qcow2")
