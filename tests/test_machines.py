"""The Linux guest and the emulated machine, and what libvirt's logical pools are in it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from machines import CMDLINE, Machine, MachineError, in_machine, linux_guest

from xmlkit import Document, Host, parse_host, pools, transform
from xmlkit.actions import create_pool, create_volume
from xmlkit.host import Pool
from xmlkit.observe import observe, opened
from xmlkit.plan import plan
from xmlkit.shell import script
from xmlkit.testing import Libvirtd
from xmlkit.volumes import (
    Creation,
    Permissions,
    Target,
    VolumeError,
    blank,
    commands,
    copy,
    overlay,
    snapshot,
)

PATIENCE = 120.0
GUEST = """
<domain type='qemu'>
  <name>linux</name>
  <memory unit='MiB'>192</memory>
  <os>
    <type machine='pc'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{cmdline}</cmdline>
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
        GUEST.format(kernel=kernel, initrd=initrd, cmdline=CMDLINE, disk=disk, serial=serial)
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
    """A logical pool on the machine's disk, as xmlkit makes it; its volume group ends with it."""
    machine.run(f"pvcreate /dev/vda\nvgcreate {VG} /dev/vda")
    connection = libvirt.open(machine.uri)
    pool = create_pool(connection, pools.pool(VG, "logical", source=VG))
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


# What xmlkit creates in a volume group.

MIB = 1 << 20
RAW, QCOW2 = Target("raw"), Target("qcow2")


@pytest.fixture(scope="module")
def files(machine: Machine, logical: libvirt.virStoragePool) -> Iterator[str]:
    """A directory pool in the machine, with the images raw and qcow2 of one content of 8 MiB."""
    directory = "/root/files"
    pool = create_pool(logical.connect(), pools.pool("files", "dir", target=directory))
    machine.run(
        f"""
        cd {directory}
        seq 1000000 | head -c {4 * MIB} >raw
        truncate -s {8 * MIB} raw
        qemu-img convert -f raw -O qcow2 raw qcow2
        """
    )
    pool.refresh()
    yield directory
    pool.destroy()
    pool.undefine()


@pytest.fixture
def without_volumes(logical: libvirt.virStoragePool) -> Iterator[None]:
    """The volume group as it was before the test."""
    before = set(logical.listVolumes())
    yield
    logical.refresh()
    for name in set(logical.listVolumes()) - before:
        logical.storageVolLookupByName(name).delete()


def in_group(machine: Machine, name: str) -> dict[str, Any]:
    """What LVM says of a logical volume."""
    words = "--reportformat json --units b --nosuffix -o lv_size,origin"
    found = json.loads(machine.run(f"lvs {words} {VG}/{name}"))
    (row,) = found["report"][0]["lv"]
    return dict(row)


def info(machine: Machine, path: str, format_: str = "raw") -> dict[str, Any]:
    """What qemu-img says of an image; its format is told."""
    return dict(json.loads(machine.run(f"qemu-img info --output=json -f {format_} {path}")))


def same(machine: Machine, one: str, format_one: str, two: str, format_two: str) -> None:
    """Two images have the same content; what one is longer by is empty."""
    machine.run(f"qemu-img compare -f {format_one} -F {format_two} {one} {two}")


@in_machine
def test_a_logical_pool_is_taken_the_second_time(
    machine: Machine, logical: libvirt.virStoragePool
) -> None:
    """Its group was there: it is neither built nor formatted, and starts with the host."""
    uuid = machine.run(f"vgs --noheadings -o vg_uuid {VG}")
    again = create_pool(logical.connect(), pools.pool(VG, "logical", source=VG))

    assert (1, 1) == (again.isActive(), again.autostart())
    assert logical.UUIDString() == again.UUIDString()
    assert uuid == machine.run(f"vgs --noheadings -o vg_uuid {VG}")


@in_machine
@pytest.mark.usefixtures("without_volumes")
@pytest.mark.parametrize("name", [f"{UUID}_disk.swap", "a+b_c.d-e"])
def test_a_blank_logical_volume_is_as_asked_for(
    machine: Machine, logical: libvirt.virStoragePool, tmp_path: Path, name: str
) -> None:
    """Size, owner and mode; all of it is allocated, as the document says; it is raw."""
    host = observed(machine, tmp_path)
    target = Target("raw", permissions=Permissions(0o640, 64055, 64055))
    made = blank(host, host.by_name[VG], name, target, 16 * MIB)
    volume = create_volume(logical.connect(), made)
    path = volume.path()
    device = machine.run(f"readlink -f {path}").strip()

    assert f"/dev/{VG}/{name}" == path
    assert [16 * MIB, 16 * MIB] == volume.info()[1:]
    assert str(16 * MIB) == made.document.root.findtext("allocation")
    assert (str(16 * MIB), "") == (
        in_group(machine, name)["lv_size"],
        in_group(machine, name)["origin"],
    )
    assert 16 * MIB == info(machine, path)["virtual-size"]
    assert "640 64055 64055" == machine.run(f"stat -c '%a %u %g' {device}").strip()
    assert path == create_volume(logical.connect(), made).path()


@in_machine
@pytest.mark.usefixtures("without_volumes")
@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_a_copy_into_a_volume_group(
    machine: Machine,
    logical: libvirt.virStoragePool,
    files: str,
    tmp_path: Path,
    format_: str,
) -> None:
    """Of an image in a directory: its content, raw, and as large as was asked for at once."""
    host = observed(machine, tmp_path)
    made = copy(
        *(host, host.by_name[VG], "copied", RAW),
        *(host.by_name["files"], format_, format_, 12 * MIB),
    )
    path = create_volume(logical.connect(), made).path()

    assert None is made.capacity
    assert str(12 * MIB) == in_group(machine, "copied")["lv_size"]
    same(machine, f"{files}/raw", "raw", path, "raw")


@in_machine
@pytest.mark.usefixtures("without_volumes")
def test_a_snapshot_into_a_volume_group(
    machine: Machine, logical: libvirt.virStoragePool, files: str, tmp_path: Path
) -> None:
    """By the script, which runs where the pool is: filled by qemu-img, told the format."""
    host = observed(machine, tmp_path)
    made = snapshot(host, host.by_name[VG], "s", RAW, f"{files}/qcow2", "qcow2", 8 * MIB)
    machine.run(f"export LIBVIRT_DEFAULT_URI=qemu:///system\n{script(commands(made))}")

    assert str(8 * MIB) == in_group(machine, "s")["lv_size"]
    same(machine, f"{files}/raw", "raw", f"/dev/{VG}/s", "raw")


@in_machine
@pytest.mark.usefixtures("without_volumes")
@pytest.mark.parametrize("compress", [None, "zstd"])
def test_a_snapshot_out_of_a_volume_group(
    machine: Machine, logical: libvirt.virStoragePool, files: str, tmp_path: Path, compress: Any
) -> None:
    """A logical volume's content in a qcow2 file, flat and, if asked for, compressed."""
    host = observed(machine, tmp_path)
    disks = host.by_name["files"]
    source = copy(host, host.by_name[VG], "disk", RAW, disks, "raw", "raw", 8 * MIB)
    path = create_volume(logical.connect(), source).path()
    made = snapshot(host, disks, "taken", QCOW2, path, "raw", 8 * MIB, compress)
    machine.run(f"export LIBVIRT_DEFAULT_URI=qemu:///system\n{script(commands(made))}")
    taken = f"{files}/taken"
    found = info(machine, taken, "qcow2")
    used = int(machine.run(f"stat -c %b {taken}")) * 512
    same(machine, path, "raw", taken, "qcow2")
    machine.run(f"qemu-img check -f qcow2 {taken}\nrm {taken}\nvirsh pool-refresh files")

    assert (8 * MIB, "1.1") == (found["virtual-size"], found["format-specific"]["data"]["compat"])
    assert "backing-filename" not in found
    assert used < 3 * MIB if compress else 4 * MIB <= used


@in_machine
@pytest.mark.usefixtures("without_volumes")
def test_a_copy_out_of_a_volume_group(
    machine: Machine, logical: libvirt.virStoragePool, files: str, tmp_path: Path
) -> None:
    """By libvirt, into qcow2 with compat 1.1: libvirt's own case qcow2-from-logical-compat."""
    host = observed(machine, tmp_path)
    disks = host.by_name["files"]
    source = copy(host, host.by_name[VG], "disk", RAW, disks, "qcow2", "qcow2", 8 * MIB)
    path = create_volume(logical.connect(), source).path()
    made = copy(host, disks, "out", QCOW2, host.by_name[VG], "disk", "raw", 8 * MIB)
    volume = create_volume(logical.connect(), made)
    found = info(machine, volume.path(), "qcow2")
    same(machine, path, "raw", volume.path(), "qcow2")
    volume.delete()

    assert "1.1" == found["format-specific"]["data"]["compat"]
    assert "backing-filename" not in found


@in_machine
def test_what_a_logical_volume_cannot_be_is_refused(
    machine: Machine, logical: libvirt.virStoragePool, files: str, tmp_path: Path
) -> None:
    """An overlay, which libvirt would make a snapshot of LVM; qcow2; sparse by its own means."""
    host = observed(machine, tmp_path)
    pool = host.by_name[VG]
    before = logical.listVolumes()
    makers: tuple[tuple[str, Callable[[], Creation]], ...] = (
        ("volume-backing", lambda: overlay(host, pool, "v", RAW, f"{files}/raw", "raw")),
        ("volume-format", lambda: overlay(host, pool, "v", QCOW2, f"{files}/raw", "raw")),
        ("volume-format", lambda: blank(host, pool, "v", QCOW2, MIB)),
        ("volume-option", lambda: blank(host, pool, "v", RAW, MIB, "metadata")),
        ("volume-option", lambda: blank(host, pool, "v", Target("raw", nocow=True), MIB)),
    )
    for id_, make in makers:
        with pytest.raises(VolumeError) as refused:
            make()
        assert id_ == refused.value.id
    assert before == logical.listVolumes()


@in_machine
@pytest.mark.parametrize(
    "name",
    [
        *("-a", "a b", "a:b", "a@b", "a=b", "é", ".", "..", "A" * 128),
        *(
            "snapshot",
            "snapshot1",
            "pvmove0",
            "a_mlog",
            "a_tdata",
            "a_rimage_0",
            "a_cpool",
            "a_imeta",
            "a_vorigin",
        ),
    ],
)
def test_a_name_that_xmlkit_refuses_lvm_refuses_too(
    machine: Machine, logical: libvirt.virStoragePool, name: str
) -> None:
    """Before anything is asked of LVM, and with a reason that says whose rule it is."""
    with pytest.raises(VolumeError, match="volume-name"):
        blank(Host(), Pool(VG, "logical", f"/dev/{VG}"), name, RAW, 4 * MIB)

    with pytest.raises(MachineError, match="exit code 3"):
        machine.run(f"lvcreate --yes --size 4M --name '{name}' {VG}")
