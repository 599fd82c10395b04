"""Nova's image backend on a volume group, in an emulated machine: what Nova's tests say of Lvm.

Rules
- The volumes are LVM's own; what Nova does with /dev/VG is done in the machine, by the very
  commands that it would run here.
"""

from __future__ import annotations

import base64
import os
import shlex
from collections.abc import Iterator
from typing import Any

import libvirt
import pytest
from chroots import tree
from lxml import etree
from machines import Machine, MachineError, emulated_machine, in_machine
from nova import exception
from nova.virt.image import model
from nova.virt.libvirt import imagebackend
from novahost import DISK, IMAGE, MIB, NovaHost, domain, guest, source
from oslo_concurrency import processutils
from scene import UP, until

from xmlkit import pools
from xmlkit.actions import create_pool
from xmlkit.nova.storage import LibvirtStorage, refuse_to_move
from xmlkit.nova.store import StorageError, delete_volumes, local_gb_info, prepare

VG = "vg"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One for all tests, with a volume group and the pool over it."""
    tmp_path_factory.getbasetemp()
    tree("linux")
    with emulated_machine(emulator=True) as machine:
        machine.run(f"pvcreate /dev/vda\nvgcreate {VG} /dev/vda")
        connection = libvirt.open(machine.uri)
        create_pool(connection, pools.pool(VG, "logical", source=VG))
        connection.close()
        yield machine


@pytest.fixture
def host(nova_case: Any, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[NovaHost]:
    """A host whose disks are logical volumes."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    execute = processutils.execute

    def executed(*command: Any, **more: Any) -> Any:
        """Where the device is."""
        words = [str(word) for word in command]
        if not any(word.startswith(f"/dev/{VG}/") for word in words):
            return execute(*command, **more)
        script = shlex.join(words)
        if words[:3] == ["shred", "-n0", "-z"]:
            # busybox's own does nothing then
            script = f"head -c {words[3].removeprefix('-s')} /dev/zero >{words[4]}"
        try:
            return machine.run(script), ""
        except MachineError as error:
            raise processutils.ProcessExecutionError(stderr=str(error), exit_code=1) from None

    monkeypatch.setattr(processutils, "execute", executed)
    monkeypatch.setattr("nova.privsep.utils.supports_direct_io", lambda _: False)
    host = NovaHost(nova_case, libvirt.open(machine.uri), machine.directory)
    host.case.flags(storage_pools={"disks": VG}, group="libvirt")
    # the image is looked at here, and copied there
    host.base.parent.mkdir()
    machine.run(f"mkdir -p {host.base.parent}")
    sector = base64.b64encode(guest()).decode()
    machine.run(f"echo {sector} | base64 -d >{host.base}\ntruncate -s {2 * MIB} {host.base}")
    prepare()
    yield host
    pool = host.connection.storagePoolLookupByName(VG)
    for name in pool.listVolumes():
        pool.storageVolLookupByName(name).delete()
    base = host.connection.storagePoolLookupByName("nova-base-images-pool")
    base.destroy()
    base.undefine()
    host.connection.close()


def volumes(host: NovaHost) -> list[str]:
    """What LVM lists."""
    return sorted(host.connection.storagePoolLookupByName(VG).listVolumes())


def first_sector(machine: Machine, path: str) -> bytes:
    return base64.b64decode(machine.run(f"head -c 512 {path} | base64"))


@in_machine
@pytest.mark.parametrize("size", [None, 8 * MIB], ids=["image", "resize"])
def test_a_disk_from_an_image(host: NovaHost, machine: Machine, size: int | None) -> None:
    """All of its space is allocated, its content is the image's, and it is the size asked for."""
    disk = host.disk()
    assert not disk.exists()
    host.make(disk, size)
    name = f"{host.instance.uuid}_disk"
    assert (f"/dev/{VG}/{name}", [name], True) == (disk.path, volumes(host), disk.exists())
    # extents of 4 MiB
    assert (size or 4 * MIB) == int(machine.run(f"blockdev --getsize64 {disk.path}"))
    assert guest() == first_sector(machine, disk.path)
    assert ("raw", "native", True) == (disk.driver_format, disk.driver_io, disk.is_block_dev)
    assert not os.path.exists(host.instances / host.instance.uuid / "disk.info")


@in_machine
def test_a_disk_that_is_there_is_not_made_again(host: NovaHost, machine: Machine) -> None:
    """A base that is missing is fetched again, and the disk keeps what it has."""
    disk = host.make(host.disk(), 8 * MIB)
    machine.run(f"echo written >{disk.path}")
    os.unlink(host.base)
    host.make(host.disk(), 8 * MIB)
    assert [str(host.base)] * 2 == host.fetched
    assert b"written\n" == first_sector(machine, disk.path)[:8]


@in_machine
def test_a_base_that_is_there_is_not_fetched(host: NovaHost) -> None:
    """By a second instance."""
    host.make(host.disk())
    host.instance = host.another()
    host.make(host.disk())
    assert [str(host.base)] == host.fetched
    assert 2 == len(volumes(host))


@in_machine
def test_an_ephemeral_disk_is_generated_on_its_volume(host: NovaHost) -> None:
    """Without a base, of the size asked for."""
    made: list[dict[str, Any]] = []
    host.disk("disk.local").cache(
        lambda **more: made.append(more), "ephemeral_1_0", 8 * MIB, ephemeral_size=1
    )
    path = f"/dev/{VG}/{host.instance.uuid}_disk.local"
    assert [{"target": path, "ephemeral_size": 1}] == made
    assert [f"{host.instance.uuid}_disk.local"] == volumes(host)


@in_machine
@pytest.mark.parametrize("generated", [True, False])
def test_what_fails_leaves_no_volume(
    host: NovaHost, monkeypatch: pytest.MonkeyPatch, generated: bool
) -> None:
    """The generating, or the copy."""

    def failing(*_: Any, **__: Any) -> None:
        raise processutils.ProcessExecutionError("it failed")

    if not generated:
        monkeypatch.setattr("nova.virt.images.convert_image", failing)
    more = {"ephemeral_size": 1} if generated else {"image_id": "1"}
    function = failing if generated else host.fetch()
    with pytest.raises(processutils.ProcessExecutionError):
        host.disk("disk.local").cache(function, IMAGE, 8 * MIB, **more)
    assert [] == volumes(host)


@in_machine
def test_an_image_larger_than_the_flavor(host: NovaHost) -> None:
    """There is no volume."""
    with pytest.raises(exception.FlavorDiskSmallerThanImage):
        host.make(host.disk(), MIB)
    assert [] == volumes(host)


@in_machine
def test_nothing_is_reserved_by_fallocate(host: NovaHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block device has its space."""
    host.case.flags(preallocate_images="space")
    monkeypatch.setattr(processutils, "trycmd", lambda *_: pytest.fail("fallocate"))
    assert not host.make(host.disk())._can_fallocate()


@in_machine
def test_the_xml_is_that_of_lvm_and_the_volume(host: NovaHost) -> None:
    """A block device for Nova, as its own Lvm would say it, and the volume for libvirt."""
    host.case.flags(hw_disk_discard="unmap", images_volume_group=VG, group="libvirt")
    quota = {"quota:disk_read_bytes_sec": "10", "quota:disk_total_iops_sec": "20"}
    mappings: tuple[tuple[dict[str, str], dict[str, Any]], ...] = (
        ({"type": "cdrom", "dev": "hda", "bus": "ide"}, {"boot_order": "1"}),
        ({"bus": "scsi", "dev": "sda"}, {"disk_unit": 5}),
        ({"bus": "scsi", "dev": "sda"}, {"disk_unit": None}),
        ({}, {}),
    )
    host.make(host.disk())
    for mapping, more in mappings:
        disk = host.disk(**mapping)
        found = disk.libvirt_info("none", quota, **more)
        theirs = imagebackend.Lvm(host.instance, "disk", disk_info_mapping={**DISK, **mapping})
        expected = theirs.libvirt_info("none", quota, **more)
        assert etree.tostring(expected.format_dom()) == etree.tostring(found.format_dom())
    assert ("block", disk.path, "raw", "native") == (
        *(found.source_type, found.source_path),
        *(found.driver_format, found.driver_io),
    )
    assert {"pool": VG, "volume": f"{host.instance.uuid}_disk"} == source(host, found)
    fs = disk.libvirt_fs_info("/mnt")
    assert ("block", disk.path) == (fs.source_type, fs.source_dev)
    assert model.LocalBlockImage(disk.path) == disk.get_model(None)


@in_machine
def test_a_guest_boots_from_its_volume(host: NovaHost, machine: Machine) -> None:
    """The XML, given to the machine's libvirt: the guest runs, and writes to its volume."""
    disk = host.make(host.disk(), 8 * MIB)
    log = "/root/console"
    running = host.connection.defineXML(domain(host, disk.libvirt_info("none", {}), log=log))
    volume = f"{host.instance.uuid}_disk"
    running.create()
    try:
        until(lambda: f"{UP.decode()}\nW" in machine.run(f"cat {log}").replace("\r", ""))
        assert f"<source pool='{VG}' volume='{volume}'" in running.XMLDesc()
    finally:
        running.destroy()
        running.undefine()
    assert "TICK" == machine.run(f"dd if={disk.path} bs=512 skip=8 count=1 2>/dev/null | head -c 4")


@in_machine
@pytest.mark.parametrize("compressed", [True, False])
def test_a_snapshot_is_compressed_if_nova_says_so(
    host: NovaHost, machine: Machine, compressed: bool
) -> None:
    """Nova's own Lvm never does; raw is the device's bytes."""
    host.case.flags(snapshot_compression=compressed, group="libvirt")
    disk = host.make(host.disk())
    disk.snapshot_extract("/root/out", "raw")
    machine.run(f"cmp /root/out {disk.path}")
    disk.snapshot_extract("/root/out.qcow2", "qcow2")
    check = machine.run("qemu-img check -f qcow2 /root/out.qcow2")
    assert compressed == ("100.00% compressed" in check)
    machine.run("rm /root/out /root/out.qcow2")


@in_machine
def test_a_volume_does_not_grow_and_is_not_migrated(host: NovaHost) -> None:
    """libvirt cannot; Nova itself refuses both for its own Lvm."""
    disk = host.make(host.disk(), 8 * MIB)
    disk.resize_image(4 * MIB)
    with pytest.raises(exception.ResizeError, match="cannot let"):
        disk.resize_image(16 * MIB)
    with pytest.raises(exception.InstanceFaultRollback, match="block device"):
        refuse_to_move(host.instance)
    refuse_to_move(host.another())


@in_machine
def test_what_is_removed_is_overwritten(
    host: NovaHost, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As volume_clear says: the next tenant reads nothing of the last one."""
    disk = host.make(host.disk())
    cleared: list[bytes] = []
    delete = libvirt.virStorageVol.delete

    def looked_at(self: Any, flags: int = 0) -> int:
        cleared.append(first_sector(machine, disk.path))
        return int(delete(self, flags))

    monkeypatch.setattr(libvirt.virStorageVol, "delete", looked_at)
    assert (f"{host.instance.uuid}_disk",) == delete_volumes(host.instance.uuid)
    assert ([bytes(512)], []) == (cleared, volumes(host))


@in_machine
def test_a_disk_by_its_path(host: NovaHost) -> None:
    """Nova takes /dev/VG/LV for one of its own Lvm."""
    disk = host.make(host.disk())
    found = host.backend.by_libvirt_path(host.instance, disk.path, "lvm")
    assert (LibvirtStorage, disk.path) == (type(found), found.path)
    assert imagebackend.Flat is type(host.disk("disk.config"))


@in_machine
def test_space_is_that_of_the_volume_group(host: NovaHost) -> None:
    """A gibibyte, less what LVM keeps."""
    found = local_gb_info()
    assert 0.9 < found["total"] <= 1
    host.make(host.disk(), 128 * MIB)
    assert found["free"] - 0.125 == pytest.approx(local_gb_info()["free"])


@in_machine
def test_the_image_cache_is_no_volume_group(host: NovaHost) -> None:
    """Base images are files."""
    host.case.flags(storage_pools={"base": VG}, group="libvirt")
    with pytest.raises(StorageError, match="not the image cache"):
        prepare()
