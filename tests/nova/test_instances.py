"""Instances come over by themselves: Nova's real driver on a private libvirtd.

Rules
- The driver, libvirt, QEMU and the images are real; Glance, the database and networks are not.
- A guest counts on its root disk each time that it writes: it boots from where its disk is.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import guests
import libvirt
import pytest
from guests import UUID, Guest
from loops import loop_device
from lxml import etree
from nova import context, exception, objects
from nova.compute.manager import ComputeManager
from nova.virt import fake
from nova.virt.libvirt import config, driver
from novahost import guest as boots
from scene import POOL, Scene, counter, run, until

import xmlkit.nova
from xmlkit import disk_info, images, journal
from xmlkit.nova import live, store
from xmlkit.nova.instances import Mover
from xmlkit.nova.seams import Libvirt
from xmlkit.testing import Libvirtd

MIB = 1 << 20


@dataclasses.dataclass
class NovaHost:
    """Nova's driver, as nova-compute has it after its start, with a libvirtd of its own."""

    case: Any
    scene: Scene
    made: Any
    instance: Any
    wanted: Guest
    admin: Any = dataclasses.field(default_factory=context.get_admin_context)

    @property
    def directory(self) -> Path:
        return Path(self.scene.instances, UUID)

    @property
    def disks(self) -> Path:
        return self.directory.parent / "disks"

    @property
    def domain(self) -> Any:
        return self.scene.connection.lookupByUUIDString(UUID)

    def addresses(self) -> list[tuple[str, ...]]:
        return self.scene.addresses(self.domain)

    def spawn(self) -> None:
        """The instance, from an image that boots."""
        self.made.spawn(
            self.admin,
            self.instance,
            guests.image_meta_of(self.wanted),
            [],
            None,
            {},
            [],
            guests.block_device_info_of(self.wanted),
        )

    def hard_reboot(self) -> None:
        self.made._hard_reboot(
            self.admin, self.instance, [], [], guests.block_device_info_of(self.wanted)
        )

    def returns(self, host: str | None = "fake-host", evacuated: Any = ()) -> None:
        """As ComputeManager.init_host, with what Nova's database says of the instance by then:
        which host has it (None: it does not know it), and whether it was evacuated."""

        def known(*_: Any, **__: Any) -> Any:
            if host is None:
                raise exception.InstanceNotFound(instance_id=UUID)
            return objects.Instance(uuid=UUID, host=host)

        self.case.stub_out("nova.objects.Instance.get_by_uuid", known)
        self.case.stub_out(
            "nova.objects.MigrationList.get_by_filters", lambda *_, **__: list(evacuated)
        )
        self.made.init_host("fake-host")
        manager = mock.Mock(driver=self.made, host="fake-host")
        manager._get_instances_on_driver.return_value = [self.instance]
        manager._is_instance_storage_shared.return_value = True
        manager._get_instance_block_device_info.return_value = guests.block_device_info_of(
            self.wanted
        )
        manager.network_api.get_instance_nw_info.return_value = []
        node = SimpleNamespace(hypervisor_hostname="node", uuid=UUID)
        found = ComputeManager._destroy_evacuated_instances(manager, self.admin, {UUID: node})
        assert {each.instance_uuid for each in evacuated} == set(found)

    def resize(self) -> str:
        """To another flavor on the same host; what Nova passes from one half to the other."""
        self.instance.old_flavor = self.instance.new_flavor = self.instance.flavor
        attached = guests.block_device_info_of(self.wanted)
        disk_info = self.made.migrate_disk_and_power_off(
            self.admin, self.instance, driver.CONF.my_ip, self.instance.flavor, [], attached
        )
        self.made.finish_migration(
            self.admin,
            objects.Migration(source_compute="fake-host", dest_compute="fake-host"),
            self.instance,
            disk_info,
            [],
            guests.image_meta_of(self.wanted),
            True,
            {},
            attached,
        )
        return str(disk_info)

    def revert(self) -> None:
        """Back to the old flavor, as Nova's manager does it on one host."""
        attached = guests.block_device_info_of(self.wanted)
        self.made.destroy(self.admin, self.instance, [], attached, destroy_disks=False)
        self.made.finish_revert_migration(
            self.admin,
            self.instance,
            [],
            objects.Migration(source_compute="fake-host", dest_compute="fake-host"),
            attached,
        )

    def runs(self, image: Path, format: str = "qcow2") -> None:
        """The guest writes to this image."""
        before = counter(image, format)
        until(lambda: counter(image, format) > before)


def fetch(*_: Any, target: str, **__: Any) -> None:
    """What takes the place of Nova's download."""
    with open(target, "wb") as image:
        image.write(boots())
        image.truncate(2 * MIB)


@pytest.fixture(params=["qcow2", "raw"])
def nova_host(
    libvirtd: Libvirtd, nova_case: Any, request: pytest.FixtureRequest
) -> Iterator[NovaHost]:
    """A host of Nova's with legacy backends and an empty pool, and xmlkit in it."""
    # libvirtd comes first: Nova's fixtures put temporary files where QEMU may not go
    scene = Scene(libvirtd)
    guests.prepare_alone(nova_case, libvirtd.uri)
    # with it, a resize would turn raw images into qcow2 ones, and their guests would not boot
    nova_case.flags(use_cow_images=request.param == "qcow2")
    nova_case.flags(instances_path=str(scene.instances))
    nova_case.flags(images_type=request.param, group="libvirt")
    nova_case.stub_out("nova.virt.libvirt.utils.fetch_image", fetch)
    xmlkit.nova.enable(pools={None: POOL}, state_dir=str(libvirtd.directory / "state"))
    wanted = Guest(request.param, swap=1)
    instance = guests.instance_of(wanted)
    instance.flavor.memory_mb = instance.memory_mb = 64
    instance.flavor.vcpus = instance.vcpus = 1
    instance.flavor.root_gb = instance.root_gb = 1
    made = driver.LibvirtDriver(fake.FakeVirtAPI(), False)
    made._get_disk_over_committed_size_total = lambda: 0
    made.init_host("fake-host")
    try:
        yield NovaHost(nova_case, scene, made, instance, wanted)
    finally:
        xmlkit.nova.disable()
        made._host.get_connection().close()
        scene.connection.close()


def test_a_legacy_instance_comes_over_at_its_hard_reboot(nova_host: NovaHost) -> None:
    """It starts where it was; the hard reboot moves its disks, and it goes on from there."""
    host = nova_host
    format = "qcow2" if host.wanted.images_type == "qcow2" else "raw"
    host.spawn()
    paths = [("file", str(host.directory / name)) for name in ("disk", "disk.swap")]
    assert paths == host.addresses()
    host.runs(host.directory / "disk", format)

    host.hard_reboot()
    names = [f"{UUID}_disk", f"{UUID}_disk.swap"]
    assert [("volume", POOL, name) for name in names] == host.addresses()
    assert names == sorted(os.listdir(host.disks))
    assert {"disk", "disk.swap"}.isdisjoint(os.listdir(host.directory))
    host.runs(host.disks / names[0], format)

    host.hard_reboot()
    assert [("volume", POOL, name) for name in names] == host.addresses()
    host.runs(host.disks / names[0], format)
    assert {"disk", "disk.swap"}.isdisjoint(os.listdir(host.directory))


def test_a_legacy_instance_comes_over_at_a_resize(nova_host: NovaHost) -> None:
    """The new disk is a volume; the old one waits in `_resize`, and a revert starts from that."""
    host = nova_host
    format = "qcow2" if host.wanted.images_type == "qcow2" else "raw"
    host.spawn()
    host.runs(host.directory / "disk", format)
    host.resize()
    names = [f"{UUID}_disk", f"{UUID}_disk.swap"]
    kept = host.directory.with_name(f"{UUID}_resize")
    assert [("volume", POOL, name) for name in names] == host.addresses()
    assert {"disk", "disk.swap"} <= set(os.listdir(kept))
    before = counter(kept / "disk", format)
    host.runs(host.disks / names[0], format)
    assert before == counter(kept / "disk", format)

    host.revert()
    assert not kept.exists()
    assert [("volume", POOL, name) for name in names] == host.addresses()
    host.runs(host.disks / names[0], format)


def test_an_instance_on_volumes_is_resized_taken_back_and_deleted(nova_host: NovaHost) -> None:
    """What was the volume waits in `_resize` and comes back; a confirmation removes it."""
    host = nova_host
    format = "qcow2" if host.wanted.images_type == "qcow2" else "raw"
    host.spawn()
    host.hard_reboot()
    names = [f"{UUID}_disk", f"{UUID}_disk.swap"]
    kept = host.directory.with_name(f"{UUID}_resize")
    host.runs(host.disks / names[0], format)

    host.resize()
    assert [("volume", POOL, name) for name in names] == host.addresses()
    assert set(names) <= set(os.listdir(kept))
    old = counter(kept / names[0], format)
    host.runs(host.disks / names[0], format)
    until(lambda: old < counter(host.disks / names[0], format))

    host.revert()
    assert [("volume", POOL, name) for name in names] == host.addresses()
    assert not kept.exists()
    host.runs(host.disks / names[0], format)

    attached = guests.block_device_info_of(host.wanted)
    host.made.destroy(host.admin, host.instance, [], attached, destroy_disks=True)
    assert [] == os.listdir(host.disks)
    assert not host.directory.exists()


def test_a_volume_of_another_pool_is_no_disk_of_the_instance(nova_host: NovaHost) -> None:
    """A copy that somebody has put into a pool of his own, by the same name, is in nobody's way,
    and stays when the instance goes."""
    host = nova_host
    format = "qcow2" if host.wanted.images_type == "qcow2" else "raw"
    names = [f"{UUID}_disk", f"{UUID}_disk.swap"]
    host.spawn()
    host.hard_reboot()
    backup = host.scene.libvirtd.directory / "backup"
    host.scene.pool("backup", backup)
    shutil.copyfile(host.disks / names[0], backup / names[0])
    host.scene.connection.storagePoolLookupByName("backup").refresh()

    host.hard_reboot()
    assert [("volume", POOL, name) for name in names] == host.addresses()
    host.runs(host.disks / names[0], format)

    host.resize()
    host.revert()
    assert [("volume", POOL, name) for name in names] == host.addresses()

    attached = guests.block_device_info_of(host.wanted)
    host.made.destroy(host.admin, host.instance, [], attached, destroy_disks=True)
    assert [] == os.listdir(host.disks)
    assert [names[0]] == os.listdir(backup)


INTERRUPTED = """
import os, sys
import libvirt
from xmlkit import Options, transition

told = []

def end(*what):
    told.append(what)
    if len(told) == int(sys.argv[1]):
        os._exit(9)

connection = libvirt.open(sys.argv[2])
accepted = Options(relocate={None: sys.argv[5]}, accept=("nova-unaware", "image-cache"))
transition(connection, sys.argv[3], accepted, state_dir=sys.argv[4], listener=end)
"""


def state_of(host: NovaHost) -> Path:
    """Its state directory."""
    return host.scene.libvirtd.directory / "state"


def interrupted(host: NovaHost, point: int) -> int:
    """Have the transition of the instance, which is off, end at a point: 9; 0 if it has not as
    many."""
    words = [host.scene.connection.getURI(), UUID, str(state_of(host)), POOL]
    run = [sys.executable, "-c", INTERRUPTED, str(point), *words]
    done = subprocess.run(run, capture_output=True, check=False)
    assert done.returncode in (0, 9), done.stderr
    return done.returncode


def pending(host: NovaHost) -> list[bool]:
    """Of each transition, whether it is."""
    return [bool(each.pending) for each in journal.read_all(str(state_of(host)))[0]]


def test_what_the_end_of_nova_interrupts_its_start_brings_to_an_end(nova_host: NovaHost) -> None:
    """Wherever it was: else no other instance would come over until an operator sees it."""
    host = nova_host
    format = "qcow2" if host.wanted.images_type == "qcow2" else "raw"
    host.spawn()
    host.domain.destroy()
    ends = 0
    for point in range(1, 40):
        if not interrupted(host, point):
            break
        ends += sum(pending(host))
        host.returns()
        assert not any(pending(host))
        if host.addresses()[0][0] == "volume":
            break
    assert 2 < ends
    host.hard_reboot()
    assert [("volume", POOL, f"{UUID}_disk"), ("volume", POOL, f"{UUID}_disk.swap")] == (
        host.addresses()
    )
    host.runs(host.disks / f"{UUID}_disk", format)


@pytest.mark.parametrize("nova_host", ["qcow2"], indirect=True)
def test_what_was_evacuated_is_no_more_this_hosts(
    nova_host: NovaHost, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever it was interrupted, the host that has it now may run it from either name.

    On shared storage both stay, and others come over. Nova has ended the domain here by then, if
    it knows of an evacuation that has begun; without that, it is the instance's host that counts.
    """
    host = nova_host
    host.spawn()
    host.domain.destroy()
    both = 0
    for point in range(1, 40):
        if not interrupted(host, point):
            break
        if not any(pending(host)):
            continue
        before = sorted(os.listdir(host.directory)), sorted(os.listdir(host.disks))
        said = dict(disk_info.formats(str(host.directory / "disk.info")))
        defined = host.addresses()
        both += (host.directory / "disk").exists() and (host.disks / f"{UUID}_disk").exists()
        caplog.clear()
        host.returns("another-host")
        assert not any(pending(host))
        assert before == (sorted(os.listdir(host.directory)), sorted(os.listdir(host.disks)))
        assert said == disk_info.formats(str(host.directory / "disk.info"))
        assert defined == host.addresses()
        assert "it is another host's now" in caplog.text
    assert 2 < both


@pytest.mark.parametrize("nova_host", ["qcow2"], indirect=True)
def test_what_nova_does_not_know_is_no_other_hosts(
    nova_host: NovaHost, caplog: pytest.LogCaptureFixture
) -> None:
    """A guest that is none of Nova's, in the one state directory of a host: it is here."""
    host = nova_host
    host.spawn()
    host.domain.destroy()
    assert 9 == interrupted(host, 9)
    assert (host.directory / "disk").samefile(host.disks / f"{UUID}_disk")
    host.returns(None)
    assert [False] == pending(host)
    assert (host.directory / "disk").exists() != (host.disks / f"{UUID}_disk").exists()
    assert "another host's" not in caplog.text


@pytest.mark.parametrize("nova_host", ["qcow2"], indirect=True)
def test_what_is_not_this_novas_is_left_to_an_operator(
    nova_host: NovaHost, caplog: pytest.LogCaptureFixture
) -> None:
    """A migration by xmlkit is ended with both hosts, whatever Nova's database says."""
    host = nova_host
    host.spawn()
    host.domain.destroy()
    assert 9 == interrupted(host, 9)
    (found,) = state_of(host).glob("*.jsonl")
    found.write_text(found.read_text().replace('"kind": "apply"', '"kind": "migrate"', 1))
    assert ["migrate"] == [each.kind for each in journal.read_all(str(state_of(host)))[0]]
    host.returns("another-host")
    assert [True] == pending(host)
    assert (host.directory / "disk").samefile(host.disks / f"{UUID}_disk")
    assert f"run xmlkit recover --state-dir {state_of(host)} first" in caplog.text


@pytest.mark.parametrize("nova_host", ["qcow2"], indirect=True)
def test_an_evacuation_that_has_begun_counts(nova_host: NovaHost) -> None:
    """Its instance has this host still, by Nova's database, and starts on the other one."""
    host = nova_host
    host.spawn()
    host.domain.destroy()
    assert 9 == interrupted(host, 9)
    assert [True] == pending(host)
    assert (host.directory / "disk").samefile(host.disks / f"{UUID}_disk")
    evacuation = mock.Mock(
        instance_uuid=UUID, status="accepted", source_node="node", dest_compute="another-host"
    )
    host.returns("fake-host", [evacuation])
    assert [] == host.scene.connection.listAllDomains()
    assert [False] == pending(host)
    assert (host.directory / "disk").samefile(host.disks / f"{UUID}_disk")


def test_what_another_host_has_begun_is_left_to_it(
    nova_host: NovaHost, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a domain that is not here nothing is brought to an end, and until then nothing begins."""
    host = nova_host
    host.spawn()
    host.domain.destroy()
    assert 9 == interrupted(host, 5)
    assert [True] == pending(host)
    host.domain.undefine()
    before = sorted(os.walk(host.directory)), sorted(os.walk(host.disks))

    host.returns()
    assert [True] == pending(host)
    assert before == (sorted(os.walk(host.directory)), sorted(os.walk(host.disks)))
    assert f"run xmlkit recover --state-dir {state_of(host)} first" in caplog.text


@pytest.mark.parametrize("nova_host", ["qcow2"], indirect=True)
def test_a_resize_begins_with_one_name_of_each_image(nova_host: NovaHost) -> None:
    """What a live migration has left that is over is taken back: the old image is kept as it is, to
    go back to, and no guest runs from it."""
    host = nova_host
    host.spawn()
    state = state_of(host)
    begun = live.Live(Mover({None: POOL}, str(state)), Libvirt(), on=True)
    linked = begun.begin(host.scene.connection, UUID, lambda: "qemu+tcp://there/system")
    assert {"disk", "disk.swap"} == linked
    host.resize()
    kept = host.directory.with_name(f"{UUID}_resize") / "disk"
    assert 1 == kept.stat().st_nlink
    assert [("volume", POOL, f"{UUID}_disk"), ("volume", POOL, f"{UUID}_disk.swap")] == (
        host.addresses()
    )
    assert [] == [each for each in journal.read_all(str(state / "live"))[0] if each.pending]


@pytest.mark.parametrize("nova_host", ["qcow2"], indirect=True)
@pytest.mark.parametrize("images_type", ["qcow2", "libvirt-storage"])
def test_a_guest_that_may_be_elsewhere_is_not_resized_and_does_not_come_over(
    nova_host: NovaHost, images_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While nobody can tell where a live migration has left it, a resize is refused and nothing has
    changed. A hard reboot starts it from its old name, and then the second one goes."""
    host = nova_host
    host.spawn()
    state = state_of(host)
    begun = live.Live(Mover({None: POOL}, str(state)), Libvirt(), on=True)
    begun.begin(host.scene.connection, UUID, lambda: "qemu+tcp://there/system")
    xml = host.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
    host.domain.destroy()
    host.domain.undefine()
    # why it is off nobody knows any more
    host.scene.connection.defineXML(xml)
    old, new = host.directory / "disk", host.disks / f"{UUID}_disk"
    before = sorted(os.walk(host.directory.parent))
    with pytest.raises(exception.InstanceFaultRollback) as refused:
        host.resize()
    assert f"xmlkit recover --state-dir {state}/live" in str(refused.value.inner_exception)
    assert before == sorted(os.walk(host.directory.parent))
    assert old.samefile(new)

    host.case.flags(images_type=images_type, group="libvirt")
    host.made.init_host("fake-host")
    caplog.clear()
    host.hard_reboot()
    assert f"Instance {UUID} stays where it is: its live migration" in caplog.text
    assert [("file", str(old)), ("file", f"{old}.swap")] == host.addresses()
    assert (1, False) == (old.stat().st_nlink, new.exists())
    assert ["undone"] == [each.state for each in journal.read_all(str(state / "live"))[0]]
    assert ((), ()) == journal.read_all(str(state))
    host.hard_reboot()
    assert [("volume", POOL, f"{UUID}_disk"), ("volume", POOL, f"{UUID}_disk.swap")] == (
        host.addresses()
    )


@pytest.mark.parametrize("nova_host", ["qcow2", "libvirt-storage"], indirect=True)
def test_a_logical_volume_of_novas_own_is_not_taken_along(nova_host: NovaHost) -> None:
    """Of an instance that Nova's Lvm made before: a resize is refused, and its disk stays."""
    host = nova_host
    host.spawn()
    host.domain.destroy()
    group = Path("/dev", f"xmlkit-{os.getpid()}")
    link = group / f"{UUID}_disk"
    before = sorted(os.listdir(host.directory))
    host.case.flags(images_volume_group=group.name, group="libvirt")
    group.mkdir()
    try:
        with loop_device(8 * MIB) as device:
            link.symlink_to(device)
            text = host.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            tree: Any = etree.fromstring(text)
            disk = tree.find("devices/disk")
            disk.set("type", "block")
            disk.find("driver").set("type", "raw")
            source = disk.find("source")
            source.attrib.clear()
            source.set("dev", str(link))
            host.scene.connection.defineXML(etree.tostring(tree, encoding="unicode"))
            with pytest.raises(exception.InstanceFaultRollback, match="is a block device"):
                host.resize()
            assert (True, str(device)) == (link.is_symlink(), os.readlink(link))
            assert before == sorted(os.listdir(host.directory))
    finally:
        shutil.rmtree(group)


@pytest.mark.parametrize("nova_host", ["libvirt-storage"], indirect=True)
def test_a_logical_volume_of_novas_own_goes_with_its_instance(nova_host: NovaHost) -> None:
    """By Nova's own Lvm, which overwrites it: images_type is another one by now."""
    host = nova_host
    host.spawn()
    removed: list[str] = []
    there = [f"{UUID}_disk", f"{UUID[:-1]}0_disk", "root"]
    host.case.stub_out("nova.virt.libvirt.storage.lvm.list_volumes", lambda _: there)
    host.case.stub_out("nova.virt.libvirt.storage.lvm.remove_volumes", removed.extend)
    group = Path("/dev", f"xmlkit-{os.getpid()}")
    group.mkdir()
    try:
        host.case.flags(images_volume_group=group.name, group="libvirt")
        attached = guests.block_device_info_of(host.wanted)
        host.made.destroy(host.admin, host.instance, [], attached, destroy_disks=False)
        assert [] == removed
        host.made.destroy(host.admin, host.instance, [], attached, destroy_disks=True)
        assert [f"{group}/{UUID}_disk"] == removed
        assert [] == os.listdir(host.disks)
    finally:
        group.rmdir()


def move_elsewhere(host: NovaHost) -> Path:
    """The root disk into a pool that Nova's configuration does not name; the guest is off."""
    name = f"{UUID}_disk"
    directory = host.scene.libvirtd.directory / "elsewhere"
    host.scene.pool("elsewhere", directory)
    pool = host.scene.connection.storagePoolLookupByName("elsewhere")
    if host.domain.isActive():
        host.domain.destroy()
    shutil.move(host.disks / name, directory / name)
    pool.refresh()
    host.scene.connection.storagePoolLookupByName(POOL).refresh()
    xml = host.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    there = f"pool='elsewhere' volume='{name}'"
    host.scene.connection.defineXML(xml.replace(f"pool='{POOL}' volume='{name}'", there))
    assert [("volume", "elsewhere", name), ("volume", POOL, f"{name}.swap")] == host.addresses()
    return Path(directory)


def test_a_volume_in_a_pool_that_storage_pools_does_not_name_is_deleted(
    nova_host: NovaHost,
) -> None:
    """Exactly what the domain has for a disk: all else there, by whatever name, stays."""
    host = nova_host
    host.spawn()
    host.hard_reboot()
    directory = move_elsewhere(host)
    others = [f"{UUID}_disk.local", f"{UUID[:-1]}0_disk", "notes"]
    for name in others:
        (directory / name).write_bytes(bytes(512))
    host.scene.connection.storagePoolLookupByName("elsewhere").refresh()
    attached = guests.block_device_info_of(host.wanted)

    xml = host.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    host.made.destroy(host.admin, host.instance, [], attached, destroy_disks=False)
    assert sorted([f"{UUID}_disk", *others]) == sorted(os.listdir(directory))

    host.scene.connection.defineXML(xml)
    host.made.destroy(host.admin, host.instance, [], attached, destroy_disks=True)
    assert sorted(others) == sorted(os.listdir(directory))
    assert [] == os.listdir(host.disks)


def test_what_other_hosts_may_have_as_well_is_not_deleted(
    nova_host: NovaHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a pool that storage_pools does not name Nova cannot know that an instance uses it now
    from another host, where it was evacuated to."""
    host = nova_host
    host.spawn()
    host.hard_reboot()
    directory = move_elsewhere(host)
    kind = images.file_system(str(directory)).type
    monkeypatch.setattr(store, "_SHARED_FILE_SYSTEMS", frozenset([kind]))
    attached = guests.block_device_info_of(host.wanted)

    host.made.destroy(host.admin, host.instance, [], attached, destroy_disks=True)

    assert [f"{UUID}_disk"] == os.listdir(directory)
    assert f"elsewhere/{UUID}_disk stays: other hosts may have its pool" in caplog.text


def test_a_guest_whose_pool_is_not_active_stops_nothing_of_the_others(
    nova_host: NovaHost, caplog: pytest.LogCaptureFixture
) -> None:
    """What Nova asks of all guests it is told of the rest, with a warning, as for a missing file;
    where that guest's disks are meant, they are not found."""
    host = nova_host
    host.spawn()
    host.hard_reboot()
    move_elsewhere(host)
    host.scene.connection.storagePoolLookupByName("elsewhere").destroy()
    nothing = objects.InstanceList(objects=[])
    host.case.stub_out("nova.objects.InstanceList.get_by_filters", lambda *_, **__: nothing)
    host.case.stub_out("nova.objects.BlockDeviceMappingList.bdms_by_instance_uuid", lambda *_: {})
    del host.made._get_disk_over_committed_size_total
    found = host.made.get_available_resource("fake-host")
    assert 0 < found["local_gb"]
    assert "backing disk storage" in caplog.text
    assert {} == host.made._get_all_assigned_mediated_devices()
    known = host.made._host.get_guest(host.instance)
    assert [] == known.get_all_devices(config.LibvirtConfigGuestInterface)
    with pytest.raises(exception.DiskNotFound):
        known.get_all_disks()
    with pytest.raises(exception.DiskNotFound, match="'elsewhere' is active; virsh pool-start"):
        host.made.get_instance_disk_info(host.instance)


def test_the_pool_may_be_another_file_system(
    nova_host: NovaHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old image is copied to where it waits and back, as sparse as it was."""
    host = nova_host
    format = "qcow2" if host.wanted.images_type == "qcow2" else "raw"
    host.spawn()
    host.hard_reboot()
    disk = host.disks / f"{UUID}_disk"
    host.runs(disk, format)
    kept = host.directory.with_name(f"{UUID}_resize") / disk.name

    def renamed(function: Callable[..., None]) -> Callable[..., None]:
        def rename(old: Any, new: Any, **at: Any) -> None:
            if str(host.disks) in {os.path.dirname(old), os.path.dirname(new)} and (
                os.path.dirname(old) != os.path.dirname(new)
            ):
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            function(old, new, **at)

        return rename

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, renamed(getattr(os, name)))
    host.resize()
    # the guest counts anew at each start, so something else has to tell the old image
    run("qemu-io", "-f", format, "-c", "write -P 90 8M 4k", kept)
    taken = kept.stat()
    assert taken.st_blocks * 512 < 1 << 26

    host.revert()
    assert not kept.parent.exists()
    said = run("qemu-io", "-r", "-U", "-f", format, "-c", "read -P 90 8M 4k", disk)
    assert "read 4096/4096" in said
    assert "verification failed" not in said
    assert (taken.st_mode, taken.st_size) == (disk.stat().st_mode, disk.stat().st_size)
    host.runs(disk, format)


def test_a_revert_that_cannot_find_the_old_disk_starts_no_other(nova_host: NovaHost) -> None:
    """disk.info says where the volume was: without it the new disk would be taken for the old."""
    host = nova_host
    host.spawn()
    host.hard_reboot()
    host.resize()
    kept = host.directory.with_name(f"{UUID}_resize")
    waiting = set(os.listdir(kept)) - {"disk.info"}
    text = (kept / "disk.info").read_text()
    (kept / "disk.info").unlink()
    with pytest.raises(exception.InvalidDiskInfo, match=f"where {UUID}_disk, "):
        host.revert()
    assert waiting == set(os.listdir(kept))

    (kept / "disk.info").write_text(text)
    host.revert()
    assert not kept.exists()
    assert host.domain.isActive()


def test_what_came_over_is_taken_back_as_the_guide_says(nova_host: NovaHost) -> None:
    """By its command, after any number of hard reboots; then a Nova without xmlkit starts it."""
    host = nova_host
    format = "qcow2" if host.wanted.images_type == "qcow2" else "raw"
    host.spawn()
    host.hard_reboot()
    host.hard_reboot()
    host.runs(host.disks / f"{UUID}_disk", format)
    host.domain.destroy()
    state = state_of(host)
    (journal,) = state.glob("*.jsonl")
    guide = Path(__file__, "../../../docs/nova.md").resolve().read_text()
    (line,) = (line for line in guide.splitlines() if line.startswith("xmlkit rollback "))
    words = line.replace("qemu:///system", host.scene.libvirtd.uri).split()
    assert "ID" == words.pop()

    words[0] = str(Path(sys.executable).with_name(words[0]))
    run(*words, journal.stem, "--state-dir", state, "--yes")
    xmlkit.nova.disable()
    host.hard_reboot()
    assert [("file", str(host.directory / name)) for name in ("disk", "disk.swap")] == (
        host.addresses()
    )
    assert [] == os.listdir(host.disks)
    host.runs(host.directory / "disk", format)
