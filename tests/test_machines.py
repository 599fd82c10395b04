"""The Linux guest and the emulated machine, and what libvirt's logical pools are in it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest
from machines import Machine, MachineError, in_machine, linux_guest

from xmlkit import Document, Host, parse_host, transform
from xmlkit.observe import observe, opened
from xmlkit.plan import plan
from xmlkit.testing import Libvirtd

PATIENCE = 120.0
GUEST = """
<domain type='qemu'>
  <name>linux</name>
  <memory unit='MiB'>192</memory>
  <os>
    <type machine='pc'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>console=ttyS0 quiet</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <disk type='file'>
      <driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    <serial type='file'><source path='{serial}'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def until(condition: Callable[[], object]) -> None:
    """Wait for something that takes its time; fail if it takes longer."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.mark.machine
@pytest.mark.usefixtures("linux_tree")
def test_a_linux_guest_answers_the_power_button(libvirtd: Libvirtd) -> None:
    """It boots, writes to its disk, and turns itself off when virsh shutdown asks."""
    directory = libvirtd.directory
    kernel, initrd = linux_guest(directory)
    disk, serial = directory / "disk", directory / "serial.log"
    disk.write_bytes(bytes(1 << 20))
    domain = libvirt.open(libvirtd.uri).defineXML(
        GUEST.format(kernel=kernel, initrd=initrd, disk=disk, serial=serial)
    )
    domain.create()
    until(lambda: serial.exists() and serial.read_bytes().endswith(b"WW"))
    virsh = ("virsh", "--connect", libvirtd.uri, "shutdown", "linux", "--mode", "acpi")
    subprocess.run(virsh, check=True, stdout=subprocess.DEVNULL)
    until(lambda: not domain.isActive())
    said = serial.read_bytes()
    count = int.from_bytes(disk.read_bytes()[4100:4104], "little")

    assert (True, True) == (b"XMLKIT-GUEST-UP" in said, b"XMLKIT-GUEST-OFF" in said)
    assert b"TICK" == disk.read_bytes()[4096:4100]
    assert 2 <= said.count(b"W") <= count
    assert [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN] == domain.state()


# The emulated machine.

VG = "vg"
UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
POOL = f"""
<pool type='logical'>
  <name>{VG}</name>
  <source><device path='/dev/vda'/><name>{VG}</name><format type='lvm2'/></source>
  <target><path>/dev/{VG}</path></target>
</pool>
"""
VOLUME = "<volume><name>{}</name><capacity unit='MiB'>16</capacity></volume>"
ON_LVM = """
<domain type='kvm'>
  <name>instance-00000001</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>64</memory>
  <os><type>hvm</type></os>
  <devices>
    <disk type="block" device="disk">
      <driver name="qemu" type="raw" cache="none"/>
      <source dev="{path}"/>
      <target dev="vda" bus="virtio"/>
    </disk>
  </devices>
</domain>
"""


@pytest.fixture(scope="module")
def logical(machine: Machine) -> Iterator[libvirt.virStoragePool]:
    """A logical pool on the machine's disk, active; its volume group ends with it."""
    connection = libvirt.open(machine.uri)
    pool = connection.storagePoolDefineXML(POOL)
    pool.build()
    pool.create()
    yield pool
    pool.destroy()
    pool.undefine()
    machine.run(f"vgremove --force {VG}\npvremove /dev/vda")
    connection.close()


def observed(machine: Machine, tmp_path: Path) -> Host:
    """What xmlkit observes inside the machine, carried out as a host file."""
    file = tmp_path / "host.xml"
    with opened(machine.uri) as connection:
        file.write_bytes(observe(connection))
    return parse_host(file.read_bytes())


@in_machine
@pytest.mark.parametrize("name", [f"{UUID}_disk", "data"])
def test_a_block_disk_is_adopted_by_its_logical_pool(
    machine: Machine, logical: libvirt.virStoragePool, tmp_path: Path, name: str
) -> None:
    """/dev/VG/LV is the volume LV of the pool, seen there; and the way back is the bytes before."""
    volume = logical.createXML(VOLUME.format(name))
    path = f"/dev/{VG}/{name}"
    domain = Document.parse(ON_LVM.format(uuid=UUID, path=path))
    host = observed(machine, tmp_path)
    made = plan(domain, host)
    (transition,) = made.transitions
    after = transform(domain, made)

    assert path == volume.path()
    assert ("block", "raw", path, 16 << 20) == next(
        (each.type, each.format, each.path, each.capacity)
        for each in host.by_name[VG].volumes or ()
        if each.name == name
    )
    assert ("adopt", "volume", "raw", True, None) == (
        *(transition.action, transition.disk_type, transition.format),
        *(transition.verified, transition.reason),
    )
    assert f'<source pool="{VG}" volume="{name}"/>' in after.text
    assert domain.text == transform(after, made.inverse()).text


@in_machine
def test_a_volume_that_libvirt_does_not_list_is_not_adopted(
    machine: Machine, logical: libvirt.virStoragePool, tmp_path: Path
) -> None:
    """A thin volume is there for the kernel, but no pool has it: the disk stays on its path."""
    machine.run(
        f"""
        lvcreate --type thin-pool --size 32M --name thins {VG}
        lvcreate --virtualsize 64M --thinpool thins --name thin {VG}
        test -b /dev/{VG}/thin
        """
    )
    logical.refresh()
    domain = Document.parse(ON_LVM.format(uuid=UUID, path=f"/dev/{VG}/thin"))
    made = plan(domain, observed(machine, tmp_path))

    assert {"thin", "thins"}.isdisjoint(logical.listVolumes())
    assert () == made.transitions
    assert domain.text == transform(domain, made).text


@in_machine
def test_a_script_that_fails_in_a_machine_says_why(machine: Machine) -> None:
    """With its output and its exit code; the machine goes on."""
    with pytest.raises(MachineError, match=r"(?s)exit code 3: .*nobody home"):
        machine.run("echo nobody home >&2\n(exit 3)\necho not reached")

    assert "two words" == machine.run("echo two   words").strip()
