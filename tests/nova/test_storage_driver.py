"""Nova's own driver, from its start on, on a real libvirt with our images_type.

Rules
- nova.virt.libvirt.driver.LibvirtDriver as it is, with the seams in; guests really boot. There are
  no networks, and images come from no Glance.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import libvirt
import pytest
from nova import context, objects
from nova.compute import task_states
from nova.network import model as network_model
from nova.tests.unit import fake_instance
from nova.virt import fake
from nova.virt.libvirt import driver, imagebackend
from novahost import NovaHost, guest, head, info
from scene import UP, until

from xmlkit.nova import disable, enable
from xmlkit.nova.storage import Backend
from xmlkit.nova.store import StorageError, unbind
from xmlkit.testing import Libvirtd

GIB = 1 << 30
GLANCE = "155d900f-4e14-4e4c-a73d-069cbf4541e6"  # the image


class Compute:
    """A nova-compute, as far as its driver is one."""

    def __init__(self, host: NovaHost, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = host
        case = host.case
        case.flags(connection_uri=uri, cpu_mode="none", group="libvirt")
        case.flags(snapshots_directory=str(host.instances / "snapshots"), group="libvirt")
        case.flags(enabled=False, group="vnc")
        case.flags(default_ephemeral_format="ext4")
        monkeypatch.setattr("nova.virt.libvirt.host.Host._init_events", lambda _: None)
        monkeypatch.setattr(
            "nova.virt.libvirt.utils.fetch_image",
            lambda context, target, *rest, **more: host.fetch()(target),
        )
        # what Nova's test case lets nobody look at
        # the database
        for name in (
            "_build_device_metadata",
            "_register_undefined_instance_details",
            "_register_all_undefined_instance_details",
        ):
            monkeypatch.setattr(driver.LibvirtDriver, name, lambda *_: None, raising=False)
        monkeypatch.setattr("nova.compute.utils.get_machine_ips", lambda: [])
        monkeypatch.setattr("nova.objects.fields.Architecture.from_host", lambda: "x86_64")
        self.context = context.get_admin_context()
        self.driver = driver.LibvirtDriver(fake.FakeVirtAPI(), False)
        self.driver.init_host("host")

    def instance(self) -> Any:
        """A new instance: root, ephemeral and swap disk."""
        flavor = objects.Flavor(
            id=1, flavorid="1", name="small", memory_mb=32, vcpus=1, root_gb=1, ephemeral_gb=1,
            swap=2, rxtx_factor=1.0, vcpu_weight=1, disabled=False, is_public=True,
            extra_specs={}, projects=[], description=None,
        )  # fmt: skip
        made = fake_instance.fake_instance_obj(
            self.context,
            flavor=flavor,
            expected_attrs=["system_metadata", "metadata", "info_cache"],
            uuid=self.host.instance.uuid,
            image_ref=GLANCE,
            kernel_id=None,
            ramdisk_id=None,
            task_state=None,
            config_drive="",
        )
        made.numa_topology = made.pci_requests = made.migration_context = None
        made.vcpu_model = made.resources = made.trusted_certs = None
        made.pci_devices = objects.PciDeviceList(objects=[])
        made.info_cache = objects.InstanceInfoCache(network_info=network_model.NetworkInfo())
        made.root_gb = made.ephemeral_gb = 1
        made.old_flavor = made.new_flavor = flavor
        made.system_metadata = {"image_hw_machine_type": "pc", "image_hw_disk_bus": "virtio"}
        made.save = lambda *_, **__: None
        return made

    def attached(self) -> dict[str, Any]:
        """Its block devices."""
        return {
            "root_device_name": "/dev/vda",
            "swap": {"device_name": "/dev/vdc", "swap_size": 2, "disk_bus": "virtio"},
            "ephemerals": [],
            "image": [],
            "block_device_mapping": [],
        }

    def spawn(self, instance: Any) -> None:
        """A guest that has booted."""
        meta = objects.ImageMeta.from_instance(instance)
        meta.disk_format = "raw"
        self.driver.spawn(self.context, instance, meta, [], None, {}, [], self.attached())
        self.booted(instance)

    def snapshot(self, instance: Any, target: Path) -> None:
        """What would go to Glance."""
        glance = mock.Mock()
        glance.get.return_value = {"name": "shot", "id": "2", "container_format": "bare"}

        def update(*arguments: Any, **_: Any) -> None:
            target.write_bytes(arguments[3].read())

        glance.update = update
        with mock.patch.object(self.driver, "_image_api", glance):
            self.driver.snapshot(self.context, instance, "2", lambda **_: None)

    def booted(self, instance: Any) -> None:
        log = self.host.instances / instance.uuid / "console.log"
        until(lambda: UP in log.read_bytes() and b"W" in log.read_bytes())

    def xml(self, instance: Any) -> str:
        domain = self.host.connection.lookupByUUIDString(instance.uuid)
        return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


@pytest.fixture
def compute(nova_case: Any, daemon: Libvirtd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compute]:
    libvirt.registerErrorHandler(lambda *_: None, None)
    host = NovaHost(nova_case, libvirt.open(daemon.uri), daemon.directory)
    unbind()
    enable()
    try:
        yield Compute(host, daemon.uri, monkeypatch)
    finally:
        disable()
        host.close()


NAMES = ("disk", "disk.local", "disk.swap")


def test_a_driver_is_settled_at_its_start(compute: Compute) -> None:
    """Pools are made, and space is counted there."""
    assert Backend is type(compute.driver.image_backend)
    assert 0 < compute.driver._get_local_gb_info()["free"]
    assert [] == compute.host.volumes()


def test_a_settled_driver_is_given_back(compute: Compute) -> None:
    """With what Nova makes for it: nothing of ours is left in a driver that was made meanwhile."""
    disable()
    assert imagebackend.Backend is type(compute.driver.image_backend)
    assert "_get_local_gb_info" not in vars(compute.driver)
    compute.host.case.flags(images_type="raw", group="libvirt")
    made = compute.driver.image_backend.by_name(compute.instance(), "disk")
    assert imagebackend.Flat is type(made)


def test_a_host_that_is_not_ready_does_not_start(compute: Compute) -> None:
    """nova-compute ends with the reason."""
    compute.host.case.flags(storage_pools={"root": "elsewhere"}, group="libvirt")
    with pytest.raises(StorageError, match="pool elsewhere"):
        compute.driver.init_host("host")


def test_an_instances_life(compute: Compute, tmp_path: Path) -> None:
    """Spawned on volumes, rebooted, rescued, snapshot, and removed with all of its volumes."""
    host, nova = compute.host, compute.driver
    instance = compute.instance()
    compute.spawn(instance)
    expected = sorted(f"{instance.uuid}_{name}" for name in NAMES)
    assert expected == host.volumes()
    for name in expected:
        assert f"<source pool='nova-disks-pool' volume='{name}'/>" in compute.xml(instance)
    assert "<source file=" not in compute.xml(instance)
    assert GIB == info(host.path(), "qcow2")["virtual-size"]

    nova.reboot(compute.context, instance, [], "HARD", block_device_info=compute.attached())
    compute.booted(instance)
    assert expected == host.volumes()

    meta = objects.ImageMeta.from_instance(instance)
    meta.id, meta.disk_format = GLANCE, "raw"
    nova.rescue(compute.context, instance, [], meta, "secret", compute.attached(), [])
    assert sorted([*expected, f"{instance.uuid}_disk.rescue"]) == host.volumes()
    nova.unrescue(compute.context, instance)
    assert expected == host.volumes()

    for number, off in enumerate((False, True)):
        if off:
            nova.power_off(instance)
        shot = tmp_path / f"shot{number}"
        compute.snapshot(instance, shot)
        assert guest() == head(shot, "qcow2", tmp_path / "raw")
    assert expected == host.volumes()
    for name in expected:
        assert f"<source pool='nova-disks-pool' volume='{name}'/>" in compute.xml(instance)
    assert not (host.disks / "disk.info").exists()

    nova.destroy(compute.context, instance, [], compute.attached())
    assert [] == host.volumes()
    assert not (host.instances / instance.uuid).exists()


def test_a_resize_on_the_same_host_is_taken_back(compute: Compute, tmp_path: Path) -> None:
    """Grown, and back to the size and content of before."""
    host, nova = compute.host, compute.driver
    instance = compute.instance()
    compute.spawn(instance)
    larger = instance.flavor.obj_clone()
    larger.root_gb = 2
    host.case.flags(my_ip="127.0.0.1")
    disk_info = nova.migrate_disk_and_power_off(
        compute.context, instance, "127.0.0.1", larger, [], compute.attached()
    )
    before = (host.instances / f"{instance.uuid}_resize" / f"{instance.uuid}_disk").read_bytes()

    instance.task_state = task_states.RESIZE_FINISH
    instance.flavor = larger
    migration = objects.Migration(source_compute="host", dest_compute="host")
    nova.finish_migration(
        compute.context, migration, instance, disk_info, [],
        objects.ImageMeta.from_instance(instance), True, {}, compute.attached(),
    )  # fmt: skip
    compute.booted(instance)
    nova._destroy(instance)
    assert 2 * GIB == info(host.path(), "qcow2")["virtual-size"]
    assert 3 == len(host.volumes())

    instance.task_state = task_states.RESIZE_REVERTING
    instance.flavor = instance.old_flavor
    nova.finish_revert_migration(
        compute.context, instance, [], migration, compute.attached(), power_on=False
    )
    assert GIB == info(host.path(), "qcow2")["virtual-size"]
    assert before == host.path().read_bytes()
    assert sorted(f"{instance.uuid}_{name}" for name in NAMES) == host.volumes()
