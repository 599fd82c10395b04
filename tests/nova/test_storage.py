"""Nova's image backend on real pools: what Nova's own tests say of Flat, Qcow2 and Lvm.

Rules
- A private libvirtd with directory pools, real qemu-img, mkfs and QEMU; nothing of libvirt is
  imitated, and of Nova only the fetching of an image.
- What was made is read back by qemu-img, told the format, or booted.
- docs/nova-storage.md says which test of Nova's is which of these.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libvirt
import pytest
from loops import loop_device, mounted
from lxml import etree
from nova import exception, objects
from nova.conf import CONF
from nova.virt.image import model
from nova.virt.libvirt import config, driver, imagebackend
from novahost import DISK, IMAGE, MIB, NovaHost, domain, guest, head, info, source
from oslo_concurrency import processutils
from oslo_utils import units
from scene import DOMAIN, UP, run, until

from xmlkit import disk_info
from xmlkit.nova import seams, storage, store
from xmlkit.nova.storage import LibvirtStorage
from xmlkit.nova.store import IMAGES_TYPE, StorageError, delete_volumes, local_gb_info, prepare
from xmlkit.testing import Libvirtd, private_libvirtd

COW = pytest.mark.parametrize("cow", [True, False], ids=["qcow2", "raw"])


@pytest.fixture
def host(nova_case: Any, daemon: Libvirtd) -> Iterator[NovaHost]:
    libvirt.registerErrorHandler(lambda *_: None, None)
    host = NovaHost(nova_case, libvirt.open(daemon.uri), daemon.directory)
    prepare()
    yield host
    host.close()


# The pools.


def test_the_pools_are_made_where_nova_looks(host: NovaHost) -> None:
    """Base images and disks below instances_path, started, and started with the host."""
    found = {
        pool.name(): (etree.fromstring(pool.XMLDesc()).findtext("target/path"), pool.autostart())
        for pool in host.connection.listAllStoragePools()
        if pool.isActive()
    }
    assert {
        "nova-base-images-pool": (f"{host.instances}/_base", 1),
        "nova-disks-pool": (f"{host.instances}/disks", 1),
    } == found
    prepare()


def test_pools_that_are_there_are_taken_and_started(host: NovaHost) -> None:
    """A pool that the operator has made is the one, wherever it is."""
    (host.instances / "fast").mkdir()
    host.connection.storagePoolDefineXML(
        f"<pool type='dir'><name>fast</name><target><path>{host.instances}/fast</path></target>"
        "</pool>"
    )
    host.case.flags(storage_pools={"swap": "fast"}, group="libvirt")
    prepare()
    assert (1, 1) == (
        host.connection.storagePoolLookupByName("fast").isActive(),
        host.connection.storagePoolLookupByName("fast").autostart(),
    )
    assert f"{host.instances}/fast" == os.path.dirname(host.disk("disk.swap").path)
    assert str(host.disks) == os.path.dirname(host.disk("disk").path)


@pytest.mark.parametrize(
    ("flags", "group", "message"),
    [
        ({"storage_pools": {"disk": "fast"}}, "libvirt", "'disk' is none of base, disks"),
        ({"storage_pools": {"root": "elsewhere"}}, "libvirt", "pool elsewhere: .*not found"),
        ({"storage_pools": {"base": "nova-disks-pool"}}, "libvirt", "for base images and for disk"),
        ({"sparse_logical_volumes": True}, "libvirt", "allocated in full"),
        ({"enabled": True}, "ephemeral_storage_encryption", "does not encrypt"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(
    host: NovaHost, flags: dict[str, Any], group: str, message: str
) -> None:
    """Before the first instance, in the words of the configuration."""
    host.case.flags(group=group, **flags)
    with pytest.raises(StorageError, match=message):
        prepare()


def test_apparmor_wants_its_lines_and_paths(
    host: NovaHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without them no start; with them disks are paths, since a volume would get no rule."""
    told = host.connection.getCapabilities().replace(
        "</cpu>", "</cpu><secmodel><model>apparmor</model><doi>0</doi></secmodel>", 1
    )

    class Confined:
        """The connection, on a host with AppArmor."""

        def __getattr__(self, name: str) -> Any:
            return getattr(host.connection, name)

        def getCapabilities(self) -> str:
            return str(told)

    host.store = store.bind(lambda: Confined())
    profile = tmp_path / "local"
    monkeypatch.setattr(store, "APPARMOR_HELPER", str(profile))
    with pytest.raises(StorageError, match="AppArmor") as refused:
        prepare()
    lines = [f"{host.instances}/_base/* r,", f"{host.instances}/disks/* r,"]
    assert [True, True] == [line in str(refused.value) for line in lines]
    profile.write_text("\n".join(f"  {line}" for line in lines))
    prepare()

    disk = host.make(host.disk())
    assert {"file": disk.path} == source(host, disk.libvirt_info("none", {}))


def test_space_is_that_of_the_pool(host: NovaHost) -> None:
    """Total, used and free of its file system, in GiB."""
    facts = os.statvfs(host.disks)
    found = local_gb_info()
    total = facts.f_blocks * facts.f_frsize / units.Gi
    assert total == pytest.approx(found["total"])
    assert total == pytest.approx(found["used"] + found["free"])
    assert 0 < found["free"] < total


# Making disks.


@COW
def test_a_new_disk(host: NovaHost, cow: bool, tmp_path: Path) -> None:
    """The base is fetched once and lies in its pool; the disk has its content, and its size."""
    host.case.flags(use_cow_images=cow)
    disk = host.disk()
    assert not disk.exists()
    host.make(disk)

    format = "qcow2" if cow else "raw"
    said = info(host.path(), format)
    assert [str(host.base)] == host.fetched
    assert [IMAGE] == host.connection.storagePoolLookupByName("nova-base-images-pool").listVolumes()
    assert [host.path().name] == host.volumes()
    assert disk.exists()
    assert (4 * MIB, format) == (said["virtual-size"], disk.driver_format)
    assert (str(host.base), "raw") == (
        (said["full-backing-filename"], said["backing-filename-format"])
        if cow
        else (str(host.base), "raw")
    )
    assert cow == ("backing-filename" in said)
    assert guest() == head(host.path(), format, tmp_path / "out")
    assert {str(host.path()): format} == disk_info.formats(
        str(host.instances / host.instance.uuid / "disk.info")
    )


@COW
def test_a_disk_that_is_there_is_not_made_again(host: NovaHost, cow: bool) -> None:
    """Resize, migration and reboot rely on it; a base that is missing comes back."""
    host.case.flags(use_cow_images=cow)
    host.make(host.disk())
    before = os.stat(host.path())
    host.make(host.disk())
    assert [str(host.base)] == host.fetched

    host.base.unlink()
    host.make(host.disk())
    assert [str(host.base)] * 2 == host.fetched
    after = os.stat(host.path())
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)


@COW
def test_a_base_that_is_there_is_not_fetched(host: NovaHost, cow: bool) -> None:
    """The second instance of an image takes the first one's, and says by its time that it did."""
    host.case.flags(use_cow_images=cow)
    host.make(host.disk())
    os.utime(host.base, (0, 0))
    host.instance = host.another()
    host.make(host.disk())
    assert [str(host.base)] == host.fetched
    assert 0 < os.stat(host.base).st_mtime
    assert 2 == len(host.volumes())


def test_the_time_of_a_base_may_not_be_ours_to_set(
    host: NovaHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS: the disk is made all the same."""

    def refused(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("nova.privsep.path.utime", refused)
    assert host.make(host.disk()).exists()


@COW
@pytest.mark.parametrize("size", [None, 2 * MIB])
def test_without_a_larger_size_it_is_the_images(
    host: NovaHost, cow: bool, size: int | None
) -> None:
    """A flavor whose root disk is 0, and rescue, take the image's size."""
    host.case.flags(use_cow_images=cow)
    disk = host.make(host.disk("disk.rescue"), size)
    assert (2 * MIB) == info(host.path("disk.rescue"), disk.driver_format)["virtual-size"]


@COW
def test_an_image_larger_than_the_flavor(host: NovaHost, cow: bool) -> None:
    """It is refused, and there is no disk."""
    host.case.flags(use_cow_images=cow)
    with pytest.raises(exception.FlavorDiskSmallerThanImage):
        host.make(host.disk(), MIB)
    assert [] == host.volumes()


@COW
@pytest.mark.parametrize("name", ["disk.local", "disk.eph0"])
def test_an_ephemeral_disk(host: NovaHost, cow: bool, name: str) -> None:
    """Made by Nova, with a file system: as a base that others share, or in place."""
    host.case.flags(use_cow_images=cow)
    disk = host.disk(name)
    disk.cache(
        fetch_func=lambda **more: driver.LibvirtDriver._create_ephemeral(
            fs_label="ephemeral0", os_type="linux", is_block_dev=disk.is_block_dev, **more
        ),
        context=None,
        filename="ephemeral_1_40d1d2c",
        size=units.Gi,
        ephemeral_size=1,
        **({"safe": True} if SAFE else {}),
    )
    base = host.base.with_name("ephemeral_1_40d1d2c")
    place = host.path(name)
    assert [place.name] == host.volumes()
    assert cow == base.exists()
    assert units.Gi == info(place, disk.driver_format)["virtual-size"]
    assert "ephemeral0" == run("e2label", base if cow else place).strip()
    assert os.stat(place).st_blocks * 512 < 100 * MIB


@COW
def test_a_swap_disk(host: NovaHost, cow: bool) -> None:
    """As an ephemeral one."""
    host.case.flags(use_cow_images=cow)
    disk = host.disk("disk.swap")
    disk.cache(
        fetch_func=driver.LibvirtDriver._create_swap,
        context=None,
        filename="swap_2",
        size=2 * MIB,
        swap_mb=2,
        **({"safe": True} if SAFE else {}),
    )
    made = host.base.with_name("swap_2") if cow else host.path("disk.swap")
    assert b"SWAPSPACE2" == made.read_bytes()[4086:4096]
    assert 2 * MIB == info(host.path("disk.swap"), disk.driver_format)["virtual-size"]


def test_a_generated_disk_that_is_there_grows(host: NovaHost) -> None:
    """A resize has its ephemeral disk made again: it is kept, and gets the new size."""
    host.case.flags(use_cow_images=False)

    def make(size: int) -> None:
        host.disk("disk.swap").cache(
            fetch_func=driver.LibvirtDriver._create_swap,
            context=None,
            filename=f"swap_{size}",
            size=size * MIB,
            swap_mb=size,
        )

    make(2)
    before = os.stat(host.path("disk.swap")).st_ino
    make(4)
    assert (before, 4 * MIB) == (
        os.stat(host.path("disk.swap")).st_ino,
        os.stat(host.path("disk.swap")).st_size,
    )


@COW
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_bases_of_both_formats(host: NovaHost, cow: bool, format: str, tmp_path: Path) -> None:
    """With force_raw_images off a base may be qcow2; its format is said wherever it is used."""
    host.case.flags(use_cow_images=cow)
    disk = host.make(host.disk(), format=format)
    said = info(host.path(), disk.driver_format)
    assert guest() == head(host.path(), disk.driver_format, tmp_path / "out")
    assert (format if cow else None) == said.get("backing-filename-format")
    assert 4 * MIB == said["virtual-size"]


def test_the_cluster_size_of_the_base_is_the_overlays(host: NovaHost) -> None:
    """A base with clusters of another size has disks with the same."""
    host.make(host.disk(), format="qcow2", options="cluster_size=131072")
    assert 131072 == info(host.path(), "qcow2")["cluster-size"]


def test_an_image_of_an_odd_size(host: NovaHost) -> None:
    """One of 512-byte sectors that are no KiB."""
    host.make(host.disk(), None, content=MIB + 512)
    assert MIB + 512 <= info(host.path(), "qcow2")["virtual-size"] <= MIB + 1024


@COW
@pytest.mark.parametrize("trap", ["backing", "data-file", "vmdk"])
def test_a_dangerous_base_is_refused(host: NovaHost, cow: bool, trap: str) -> None:
    """Nova's own checks, each time: it may have been fetched when there were fewer of them."""
    host.case.flags(use_cow_images=cow)
    secret = host.instances / "secret"
    secret.write_bytes(b"only the host may read it".ljust(MIB))
    if trap == "backing":
        run("qemu-img", "create", "-f", "qcow2", "-b", secret, "-F", "raw", host.base)
    elif trap == "data-file":
        options = f"data_file={secret},data_file_raw=on"
        run("qemu-img", "create", "-f", "qcow2", "-o", options, host.base, MIB)
    else:
        options = "subformat=monolithicFlat"
        run("qemu-img", "create", "-f", "vmdk", "-o", options, host.base, MIB)
    with pytest.raises((exception.InvalidDiskInfo, exception.ImageUnacceptable)):
        host.make(host.disk())
    host.case.flags(disable_deep_image_inspection=True, group="workarounds")
    with pytest.raises((exception.InvalidDiskInfo, exception.ImageUnacceptable)):
        host.make(host.disk())
    assert [] == host.volumes()


@COW
def test_what_fails_leaves_no_volume(
    host: NovaHost, cow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is: the disk is not half there, and can be made when the reason is gone."""
    host.case.flags(use_cow_images=cow)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LibvirtStorage, "_fill", full)
        patch.setattr("xmlkit.actions._created", full)
        with pytest.raises(OSError, match="No space"):
            host.make(host.disk())
    assert [] == host.volumes()

    with pytest.raises(OSError, match="No space"):
        host.disk("disk.swap").cache(full, "swap_2", 2 * MIB, swap_mb=2)
    assert [] == host.volumes()
    assert host.make(host.disk()).exists()


def test_a_base_that_was_not_finished_is_none(host: NovaHost) -> None:
    """The file is there when its file system cannot be made: the next disk must not stand on it."""

    def half(target: str, **_: Any) -> None:
        Path(target).write_bytes(bytes(MIB))
        raise OSError(2, "no mkfs.vfat")

    with pytest.raises(OSError, match="no mkfs"):
        host.disk("disk.local").cache(half, "ephemeral_1_0", MIB, ephemeral_size=1)
    assert [] == os.listdir(host.base.parent)


def test_a_base_that_fails_takes_nothing_from_the_next(host: NovaHost) -> None:
    """Who comes while it is made waits, makes it anew, and has a whole one."""
    comes = threading.Event()
    made = []

    def half(target: str, **_: Any) -> None:
        Path(target).write_bytes(bytes(512))
        made.append(target)
        assert comes.wait(60)
        time.sleep(0.5)  # until it looks for the base, and may take this for one
        raise OSError(2, "no mkswap")

    def first() -> None:
        with pytest.raises(OSError, match="no mkswap"):
            disk.cache(half, "swap_2", 2 * MIB, swap_mb=2)

    def second() -> None:
        comes.set()
        other.cache(driver.LibvirtDriver._create_swap, "swap_2", 2 * MIB, swap_mb=2)

    disk = host.disk("disk.swap")
    host.instance = host.another()
    other = host.disk("disk.swap")
    with ThreadPoolExecutor() as pool:
        failing = pool.submit(first)
        until(lambda: made)
        making = pool.submit(second)
        failing.result()
        making.result()
    assert ["swap_2"] == os.listdir(host.base.parent)
    assert 2 * MIB == (host.base.parent / "swap_2").stat().st_size
    assert [f"{host.instance.uuid}_disk.swap"] == host.volumes()


def test_a_full_disk_leaves_no_volume(host: NovaHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy of a raw base fails in the middle."""
    host.case.flags(use_cow_images=False)

    def full(*command: object) -> None:
        raise processutils.ProcessExecutionError(stderr="No space left on device", cmd=command[0])

    monkeypatch.setattr(processutils, "execute", full)
    with pytest.raises(processutils.ProcessExecutionError, match="No space"):
        host.make(host.disk())
    assert [] == host.volumes()


@COW
def test_disks_are_novas_to_look_at(host: NovaHost, cow: bool) -> None:
    """Owner and mode are those of a file that Nova would have made."""
    host.case.flags(use_cow_images=cow)
    host.make(host.disk())
    facts = os.stat(host.path())
    assert (os.geteuid(), os.getegid(), 0o644) == (
        *(facts.st_uid, facts.st_gid),
        stat.S_IMODE(facts.st_mode),
    )


@COW
def test_space_is_reserved_once(host: NovaHost, cow: bool) -> None:
    """preallocate_images = space: all of the disk's, and QEMU's native I/O."""
    host.case.flags(use_cow_images=cow, preallocate_images="space")
    disk = host.make(host.disk())
    assert 4 * MIB <= os.stat(host.path()).st_blocks * 512
    assert "native" == disk.libvirt_info("none", {}).driver_io
    assert [host.path().name] == host.volumes()


@COW
def test_space_of_a_disk_that_is_not_ours_to_write(
    host: NovaHost, cow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running guest's is left as it is."""
    host.case.flags(use_cow_images=cow, preallocate_images="space")
    monkeypatch.setattr(os, "access", lambda *_: False)
    host.make(host.disk())
    assert os.stat(host.path()).st_blocks * 512 < 4 * MIB


# The format.


def test_formats_come_from_disk_info_and_stay(host: NovaHost) -> None:
    """Whatever Nova's configuration says later, a disk is what it was made as."""
    host.make(host.disk())
    host.case.flags(use_cow_images=False)
    assert "qcow2" == host.disk().driver_format
    assert "raw" == host.disk("disk.local").driver_format


def test_formats_come_from_the_domain(host: NovaHost) -> None:
    """One whose disk.info was lost, or that was moved to the pool by other means."""
    disk = host.make(host.disk())
    host.connection.defineXML(domain(host, disk.libvirt_info("none", {})))
    os.unlink(disk.disk_info_path)
    host.case.flags(use_cow_images=False)
    assert "qcow2" == host.disk().driver_format


def test_a_format_is_never_guessed(host: NovaHost) -> None:
    """Neither disk.info nor a domain: what the bytes look like may be a guest's doing."""
    disk = host.make(host.disk())
    os.unlink(disk.disk_info_path)
    with pytest.raises(exception.InvalidDiskInfo, match="nobody says the format"):
        host.disk()


def test_a_raw_disk_that_looks_like_qcow2_stays_raw(host: NovaHost, tmp_path: Path) -> None:
    """A guest has written a header that names a file of the host: nothing ever reads that file."""
    host.case.flags(use_cow_images=False)
    disk = host.make(host.disk())
    secret = host.instances / "secret"
    secret.write_bytes(b"only the host may read it".ljust(MIB))
    evil = tmp_path / "evil"
    run("qemu-img", "create", "-f", "qcow2", "-b", secret, "-F", "raw", evil, 64 * MIB)
    with host.path().open("r+b") as file:
        file.write(evil.read_bytes())
    host.connection.storagePoolLookupByName("nova-disks-pool").refresh()

    disk = host.disk()
    assert ("raw", 4 * MIB) == (disk.driver_format, disk._size())
    disk.snapshot_extract(str(tmp_path / "out"), "raw")
    assert host.path().read_bytes() == (tmp_path / "out").read_bytes()
    assert b"only the host" not in (tmp_path / "out").read_bytes()
    assert "raw" == disk.libvirt_info("none", {}).driver_format


# What stands in the guest's XML.


@COW
@pytest.mark.parametrize(
    ("mapping", "more"),
    [
        ({}, {}),
        ({}, {"boot_order": "1"}),
        ({"type": "cdrom", "dev": "hda", "bus": "ide"}, {}),
        ({"bus": "scsi", "dev": "sda"}, {"disk_unit": 5}),
        ({"bus": "scsi", "dev": "sda"}, {"disk_unit": None}),
    ],
)
def test_the_xml_is_that_of_files_but_for_the_volume(
    host: NovaHost, cow: bool, mapping: dict[str, str], more: dict[str, Any]
) -> None:
    """Bus, cache, QoS, discard, boot order, address; the seam turns the path into the volume."""
    host.case.flags(use_cow_images=cow)
    host.case.flags(hw_disk_discard="unmap", group="libvirt")
    quota = {
        f"quota:disk_{way}_{what}_sec": "10"
        for way in ("read", "write", "total")
        for what in ("bytes", "iops")
    }
    disk = host.make(host.disk(**mapping))
    legacy = (imagebackend.Qcow2 if cow else imagebackend.Flat)(
        host.instance, "disk", disk_info_mapping={**DISK, **mapping}
    )
    ours = disk.libvirt_info("none", quota, **more)
    theirs = legacy.libvirt_info("none", quota, **more)
    theirs.source_path = disk.path
    assert etree.tostring(theirs.format_dom()) == etree.tostring(ours.format_dom())
    assert {"pool": "nova-disks-pool", "volume": host.path().name} == source(host, ours)


def test_a_container_gets_the_path(host: NovaHost) -> None:
    """libvirt has no volumes for file systems of containers."""
    found = host.make(host.disk()).libvirt_fs_info("/mnt")
    assert ("file", str(host.path()), "nbd", "qcow2") == (
        *(found.source_type, found.source_file),
        *(found.driver_type, found.driver_format),
    )


@COW
def test_a_guest_boots_from_its_volume(host: NovaHost, cow: bool) -> None:
    """The XML, given to libvirt: the guest runs, and writes to its disk alone."""
    host.case.flags(use_cow_images=cow)
    disk = host.make(host.disk())
    before = host.base.read_bytes()
    log = host.instances / "console"
    running = host.connection.defineXML(domain(host, disk.libvirt_info("writeback", {}), log=log))
    running.create()
    until(lambda: log.exists() and UP in log.read_bytes() and b"W" in log.read_bytes())
    running.destroy()
    assert before == host.base.read_bytes()
    assert "<source pool='nova-disks-pool'" in running.XMLDesc()


@COW
def test_models_for_libguestfs(host: NovaHost, cow: bool) -> None:
    """A file with its format."""
    host.case.flags(use_cow_images=cow)
    format = model.FORMAT_QCOW2 if cow else model.FORMAT_RAW
    assert model.LocalFileImage(str(host.path()), format) == host.disk().get_model(None)


# The life of a disk.


@COW
def test_a_resize_grows_only(host: NovaHost, cow: bool) -> None:
    """A smaller size changes nothing."""
    host.case.flags(use_cow_images=cow)
    disk = host.make(host.disk())
    disk.resize_image(8 * MIB)
    disk.resize_image(MIB)
    assert 8 * MIB == info(host.path(), disk.driver_format)["virtual-size"]
    volume = host.connection.storageVolLookupByPath(str(host.path()))
    assert 8 * MIB == volume.info()[1]


def test_the_file_system_of_a_raw_disk_grows_along(host: NovaHost, tmp_path: Path) -> None:
    """One that is the whole disk, as Nova's Flat has it."""
    host.case.flags(use_cow_images=False)

    def fetch(target: str, **_: Any) -> None:
        run("mke2fs", "-q", "-F", target, "2M")

    disk = host.disk()
    disk.cache(fetch, IMAGE, 8 * MIB, context=None, image_id="1")
    assert 8 * MIB == os.stat(host.path()).st_size
    blocks = run("dumpe2fs", "-h", host.path()).split("Block count:")[1].split()[0]
    assert 8 * MIB == int(blocks) * 1024


@COW
@pytest.mark.parametrize("out", ["raw", "qcow2", "vmdk", "vdi"])
def test_a_snapshot_is_the_whole_content(
    host: NovaHost, cow: bool, out: str, tmp_path: Path
) -> None:
    """Flat, in the format that is asked for."""
    host.case.flags(use_cow_images=cow)
    host.make(host.disk()).snapshot_extract(str(tmp_path / "out"), out)
    said = info(tmp_path / "out", out)
    assert (4 * MIB, None) == (said["virtual-size"], said.get("backing-filename"))
    assert guest() == head(tmp_path / "out", out, tmp_path / "raw")


@COW
@pytest.mark.parametrize("compressed", [True, False])
def test_a_snapshot_is_compressed_if_nova_says_so(
    host: NovaHost, cow: bool, compressed: bool, tmp_path: Path
) -> None:
    """[libvirt] snapshot_compression, for qcow2; libvirt itself never compresses."""
    host.case.flags(use_cow_images=cow)
    host.case.flags(snapshot_compression=compressed, group="libvirt")
    host.make(host.disk()).snapshot_extract(str(tmp_path / "out"), "qcow2")
    said = run("qemu-img", "map", "--output=json", "-f", "qcow2", tmp_path / "out")
    where = json.loads(said)[0]
    check = run("qemu-img", "check", "--output=json", "-f", "qcow2", tmp_path / "out")
    assert (1 if compressed else 0) == json.loads(check).get("compressed-clusters", 0)
    assert where["data"]


@pytest.mark.parametrize("type_", ["qcow2", "raw", "lvm", None])
def test_a_disk_by_its_path(host: NovaHost, type_: str | None) -> None:
    """Whatever type Nova takes it for, what lies in our pool is ours: for snapshots."""
    host.make(host.disk())
    found = host.backend.by_libvirt_path(host.instance, str(host.path()), type_)
    assert (LibvirtStorage, "disk", "qcow2") == (
        *(type(found), found.disk_name),
        found.driver_format,
    )
    assert ["disks", "_base", host.instance.uuid] == [
        name for name in ("disks", "_base", host.instance.uuid) if (host.instances / name).is_dir()
    ]
    assert [host.path().name] == host.volumes()


def test_a_path_of_another_instance_is_refused(host: NovaHost) -> None:
    """It is no disk of this one."""
    host.make(host.disk())
    with pytest.raises(exception.InvalidDevicePath):
        host.backend.by_libvirt_path(host.another(), str(host.path()), "qcow2")


def test_flattening(host: NovaHost, tmp_path: Path) -> None:
    """An unshelved disk needs the snapshot's image no more."""
    disk = host.make(host.disk())
    disk.flatten()
    host.base.unlink()
    assert "backing-filename" not in info(host.path(), "qcow2")
    assert guest() == head(host.path(), "qcow2", tmp_path / "out")


def test_what_only_rbd_can(host: NovaHost) -> None:
    """Cloning and snapshots within Glance's store: as Nova's files say it."""
    disk = host.disk()
    assert not disk.SUPPORTS_CLONE
    with pytest.raises(exception.ImageUnacceptable):
        disk.clone(None, "image")
    with pytest.raises(NotImplementedError):
        disk.direct_snapshot(None, "snapshot", "raw", "image", "base")
    assert None is disk.cleanup_direct_snapshot(None)
    assert None is disk.import_file(host.instance, "/nowhere", "disk.config")


def test_exactly_the_volumes_of_an_instance_are_removed(host: NovaHost) -> None:
    """Of others none, whatever they are called; and what libvirt has not seen yet as well."""
    host.make(host.disk())
    host.make(host.disk("disk.rescue"))
    mine, first = host.instance.uuid, sorted(host.volumes())
    (host.disks / f"{mine}_disk.late").write_bytes(b"")
    host.instance = host.another()
    host.make(host.disk())
    kept = [host.path().name, f"{mine}", f"x{mine}_disk", f"{mine}-disk", "[a]"]
    for name in kept[1:]:
        (host.disks / name).write_bytes(b"")
    host.connection.storagePoolLookupByName("nova-disks-pool").refresh()

    assert (f"{mine}_disk.rescue",) == delete_volumes(mine, lambda name: name.endswith(".rescue"))
    assert (first[0], f"{mine}_disk.late") == delete_volumes(mine)
    assert () == delete_volumes(mine)
    assert sorted(kept) == host.volumes()
    assert host.base.exists()


@pytest.mark.parametrize("wrong", ["", "*", "0", "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a1"])
def test_only_an_instance_has_volumes_to_remove(host: NovaHost, wrong: str) -> None:
    """Half a UUID is the beginning of many."""
    host.make(host.disk())
    with pytest.raises(StorageError, match="not the UUID"):
        delete_volumes(wrong)
    assert 1 == len(host.volumes())


# Which backend a disk has.


@pytest.mark.parametrize("name", ["disk.config", "disk.config.rescue", "kernel", "ramdisk.rescue"])
def test_what_is_no_disk_stays_a_file(host: NovaHost, name: str) -> None:
    """In the instance's directory, raw."""
    found = host.disk(name)
    assert (imagebackend.Flat, f"{host.instances}/{host.instance.uuid}/{name}") == (
        *(type(found),),
        found.path,
    )


@pytest.mark.parametrize(
    ("format", "expected"), [("qcow2", imagebackend.Qcow2), ("raw", imagebackend.Flat)]
)
def test_a_disk_that_was_not_moved_stays(host: NovaHost, format: str, expected: type) -> None:
    """Each disk by itself: the one that was there is a file, the one that is new a volume."""
    directory = host.instances / host.instance.uuid
    directory.mkdir()
    run("qemu-img", "create", "-f", format, directory / "disk", MIB)
    (directory / "disk.info").write_text(json.dumps({str(directory / "disk"): format}))
    assert (expected, format) == (type(host.disk()), host.disk().driver_format)
    assert LibvirtStorage is type(host.disk("disk.swap"))


def test_while_a_disk_is_moved_its_domain_decides(host: NovaHost) -> None:
    """Both names are there; without a domain the new one counts."""
    directory = host.instances / host.instance.uuid
    disk = host.make(host.disk())
    os.link(host.path(), directory / "disk")
    assert LibvirtStorage is type(host.disk())

    old = disk.libvirt_info("none", {})
    old.source_path = str(directory / "disk")
    host.connection.defineXML(domain(host, disk.libvirt_info("none", {})))
    assert LibvirtStorage is type(host.disk())
    host.connection.defineXML(
        DOMAIN.format(
            name="guest",
            uuid=host.instance.uuid,
            disks=etree.tostring(old.format_dom(), encoding="unicode"),
            log="/dev/null",
        )
    )
    assert imagebackend.Qcow2 is type(host.disk())


def test_other_types_are_novas_own(host: NovaHost) -> None:
    """By the names of images_type, and unknown ones are refused."""
    assert [imagebackend.Flat, imagebackend.Qcow2, imagebackend.Lvm, imagebackend.Rbd] == [
        host.backend.backend(name) for name in ("raw", "qcow2", "lvm", "rbd")
    ]
    assert LibvirtStorage is host.backend.backend()
    with pytest.raises(RuntimeError, match="Unknown image_type=none"):
        host.backend.backend("none")
    CONF.set_override("images_type", "qcow2", group="libvirt")
    assert imagebackend.Qcow2 is host.backend.backend()


def test_who_shares_instances_path_shares_the_disks(host: NovaHost) -> None:
    """Nova asks it before a migration; a pool elsewhere is not shared by that."""
    backend = host.backend.backend()
    assert (True, False) == (backend.is_file_in_instance_path(), backend.is_shared_block_storage())
    (host.instances / "other").mkdir()
    host.case.flags(instances_path=str(host.instances / "other"))
    assert not backend.is_file_in_instance_path()


def test_a_shared_pool_has_to_be_said_to_be_one(
    host: NovaHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nova would copy its disks onto themselves, and delete them where they are used no more."""
    with mounted("tmpfs", MIB) as place:
        host.connection.storagePoolDefineXML(
            f"<pool type='dir'><name>far</name><target><path>{place}</path></target></pool>"
        )
        host.case.flags(storage_pools={"root": "far"}, group="libvirt")
        prepare()
        monkeypatch.setattr(store, "_SHARED_FILE_SYSTEMS", frozenset(["tmpfs"]))
        with pytest.raises(StorageError, match=r"pool far lies on tmpfs.*type netfs"):
            prepare()


def test_what_other_hosts_have_and_what_they_have_not_is_not_mixed(
    host: NovaHost, daemon: Libvirtd
) -> None:
    """Nova asks once for all disks of an instance. What it took for this host's alone it would copy
    onto itself, and delete after an evacuation or a migration that failed."""
    place = host.instances / "net"
    place.mkdir()
    within = ("nsenter", "--mount", "-t", str(daemon.pid))
    # to libvirt it is mounted when /proc/mounts says so
    run(*within, "mount", "-t", "tmpfs", "there:/share", place)
    try:
        pool = host.connection.storagePoolDefineXML(
            "<pool type='netfs'><name>net</name><source><host name='there'/><dir path='/share'/>"
            f"<format type='nfs'/></source><target><path>{place}</path></target></pool>"
        )
        pool.create()
        for kinds in (["ephemeral"], ["root"], ["root", "swap"]):
            host.case.flags(storage_pools=dict.fromkeys(kinds, "net"), group="libvirt")
            with pytest.raises(StorageError, match="of type netfs, or none"):
                prepare()
        host.case.flags(storage_pools={"disks": "net"}, group="libvirt")
        prepare()
    finally:
        run(*within, "umount", place)


@pytest.fixture
def partitions(host: NovaHost) -> Iterator[tuple[Any, str, Path]]:
    """A pool of type disk, its device, and the directory of its libvirt, which sees the partitions
    that the kernel makes."""
    with loop_device(64 * MIB) as device, private_libvirtd() as other:
        run("parted", "-s", device, "mklabel", "gpt")
        run("nsenter", "--mount", "-t", other.pid, "mount", "-t", "devtmpfs", "dev", "/dev")
        connection = libvirt.open(other.uri)
        pool = connection.storagePoolDefineXML(
            f"<pool type='disk'><name>whole</name><source><device path='{device}'/>"
            "<format type='gpt'/></source><target><path>/dev</path></target></pool>"
        )
        pool.create()
        host.store = store.bind(lambda: connection)
        yield pool, device.name, other.directory
        connection.close()


VOLUME = "<volume><name>{}</name><capacity unit='MiB'>8</capacity></volume>"


def test_partitions_are_no_disks_of_novas(
    host: NovaHost, partitions: tuple[Any, str, Path]
) -> None:
    """libvirt names them by their number, which is given anew when it is free, and leaves one
    behind when it is asked for another name: nothing says whose a partition is."""
    pool, device, _ = partitions
    first, second = f"{device}p1", f"{device}p2"
    with pytest.raises(libvirt.libvirtError, match=f"expected '{first}'"):
        pool.createXML(VOLUME.format(host.path().name))
    pool.refresh()
    assert [first] == pool.listVolumes()

    pool.createXML(VOLUME.format(second))
    run(
        "parted", "-s", f"/dev/{device}", "rm", "1"
    )  # libvirt cannot where a device's name ends in a digit
    pool.refresh()
    pool.createXML(VOLUME.format(first))
    assert [first, second] == sorted(pool.listVolumes())

    host.case.flags(storage_pools={"root": "whole"}, group="libvirt")
    with pytest.raises(StorageError, match="pool whole: the volumes of a disk pool cannot be"):
        prepare()


def test_a_guest_boots_from_a_partition_that_it_has(
    host: NovaHost, partitions: tuple[Any, str, Path]
) -> None:
    """A block disk of Nova's that is a volume of the pool is written as that; Nova reads its path,
    and it does not go with the instance."""
    pool, device, directory = partitions
    connection = pool.connect()
    name = f"{device}p1"
    path = Path(pool.createXML(VOLUME.format(name)).path())
    with path.open("r+b") as partition:
        partition.write(guest())
    disk = config.LibvirtConfigGuestDisk()
    disk.source_type, disk.source_path = "block", str(path)
    disk.driver_name, disk.driver_format, disk.driver_cache = "qemu", "raw", "none"
    disk.target_dev, disk.target_bus = "vda", "virtio"
    log = directory / "console"
    xml = domain(host, disk, log=log)
    assert {"pool": "whole", "volume": name} == source(host, disk)

    running = connection.defineXML(xml)
    running.create()
    until(lambda: log.exists() and UP in log.read_bytes() and b"W" in log.read_bytes())
    assert [str(path)] == list(seams.readable(xml, seams.Libvirt(), lambda: connection)[1])
    running.destroy()
    assert b"TICK" == path.read_bytes()[4096:4100]

    host.case.flags(storage_pools={"disks": "whole"}, group="libvirt")
    assert () == delete_volumes(host.instance.uuid)
    store.delete_elsewhere(connection, host.instance.uuid, ())
    assert [name] == pool.listVolumes()


def test_without_libvirt_it_says_what_is_missing(nova_case: Any) -> None:
    """A Nova that was configured for it and not enabled."""
    store.register_options()
    store.unbind()
    nova_case.flags(images_type=IMAGES_TYPE, group="libvirt")
    assert LibvirtStorage is storage.Backend(True).backend()
    with pytest.raises(StorageError, match="has not been enabled"):
        storage.Backend(True).by_name(objects.Instance(uuid=str(uuid.uuid4())), "disk")


def test_a_pool_that_is_not_there(host: NovaHost) -> None:
    """By its name, and what to do."""
    host.connection.storagePoolLookupByName("nova-disks-pool").destroy()
    with pytest.raises(StorageError, match="virsh pool-start nova-disks-pool"):
        host.disk()


# Nova 34 tells a backend which images are of its own making.
SAFE = "safe" in imagebackend.Image.cache.__code__.co_varnames
