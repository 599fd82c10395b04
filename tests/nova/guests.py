"""Guests as Nova builds them: its own driver, image backends and volume drivers, on its fixtures.

`xml_of` gives what LibvirtDriver._get_guest_xml says of one of GUESTS; `migrated` what
migration.get_updated_guest_xml makes of it for another host. The seams are in the way if enable()
was called before.
"""

from __future__ import annotations

import posix
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from nova import context, objects
from nova.tests import fixtures as nova_fixtures
from nova.virt import fake
from nova.virt.libvirt import blockinfo, driver, guest, migration

UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
IMAGE = "155d900f-4e14-4e4c-a73d-069cbf4541e6"

_ISCSI = {"device_path": "/dev/sdx", "qos_specs": None, "access_mode": "rw"}
_CEPH = {
    "name": "volumes/volume-1",
    "hosts": ["10.0.0.1", "10.0.0.2"],
    "ports": ["6789", "6789"],
    "auth_enabled": True,
    "auth_username": "cinder",
    "secret_type": "ceph",
    "secret_uuid": "457eb676-33da-42ec-9a8c-9293d545c337",
    "qos_specs": None,
    "access_mode": "rw",
}
_NFS = {
    "export": "10.0.0.1:/vol",
    "name": "volume-1",
    "format": "qcow2",
    "device_path": "/var/lib/nova/mnt/0123456789abcdef/volume-1",
    "access_mode": "rw",
    "qos_specs": None,
}
_DATA: dict[str, dict[str, Any]] = {
    "iscsi": _ISCSI,
    "fibre_channel": _ISCSI,
    "rbd": _CEPH,
    "nfs": _NFS,
}


@dataclass(frozen=True)
class Volume:
    """A volume of Cinder's that is attached."""

    kind: str = "iscsi"
    device: str = "/dev/vdx"
    boot: bool = False
    bus: str = "virtio"
    multiattach: bool = False


@dataclass(frozen=True)
class Guest:
    """What makes a guest: Nova's options, the flavor, the image, what is attached."""

    images_type: str = "qcow2"
    options: Mapping[str, Any] = field(default_factory=dict)
    swap: int = 0
    ephemeral: int = 0
    ephemerals: int = 0
    extra_specs: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    config_drive: bool = False
    volumes: tuple[Volume, ...] = ()
    rescue: Mapping[str, str] | None = None
    kernel: bool = False
    disk_format: str = "raw"


_QOS = {
    "quota:disk_read_bytes_sec": "10485760",
    "quota:disk_write_bytes_sec": "10485760",
    "quota:disk_read_iops_sec": "500",
}
_UEFI = {"hw_machine_type": "q35", "hw_firmware_type": "uefi"}
_STABLE = {"hw_rescue_bus": "virtio", "hw_rescue_device": "disk"}

GUESTS: dict[str, Guest] = {
    "qcow2": Guest(),
    "qcow2-swap": Guest(swap=512),
    "qcow2-ephemeral": Guest(ephemeral=20),
    "qcow2-ephemeral-swap": Guest(swap=512, ephemeral=20),
    "qcow2-two-ephemerals": Guest(ephemeral=20, ephemerals=2),
    "qcow2-two-ephemerals-swap": Guest(swap=512, ephemeral=20, ephemerals=2),
    "qcow2-configdrive-cdrom": Guest(config_drive=True),
    "qcow2-configdrive-vfat": Guest(config_drive=True, options={"config_drive_format": "vfat"}),
    "qcow2-ide": Guest(properties={"hw_disk_bus": "ide"}),
    "qcow2-sata": Guest(properties={"hw_disk_bus": "sata"}),
    "qcow2-scsi": Guest(properties={"hw_disk_bus": "scsi", "hw_scsi_model": "virtio-scsi"}),
    "qcow2-scsi-units": Guest(
        swap=512,
        ephemeral=20,
        properties={"hw_disk_bus": "scsi", "hw_scsi_model": "virtio-scsi"},
    ),
    "qcow2-usb": Guest(properties={"hw_disk_bus": "usb"}),
    "qcow2-q35-uefi": Guest(properties=_UEFI),
    "qcow2-discard": Guest(options={"libvirt.hw_disk_discard": "unmap"}),
    "qcow2-qos": Guest(extra_specs=_QOS),
    "qcow2-cachemodes": Guest(options={"libvirt.disk_cachemodes": ["file=writethrough"]}),
    "qcow2-preallocated": Guest(options={"preallocate_images": "space"}),
    "qcow2-kernel-ramdisk": Guest(kernel=True),
    "qcow2-iso": Guest(disk_format="iso"),
    "qcow2-rescue": Guest(rescue={}),
    "qcow2-rescue-configdrive": Guest(rescue={}, config_drive=True),
    "qcow2-rescue-kernel": Guest(rescue={}, kernel=True),
    "qcow2-rescue-stable": Guest(rescue=_STABLE, swap=512),
    "qcow2-vol-iscsi": Guest(volumes=(Volume(),)),
    "qcow2-vol-fc": Guest(volumes=(Volume("fibre_channel"),)),
    "qcow2-vol-ceph": Guest(volumes=(Volume("rbd"),)),
    "qcow2-vol-nfs": Guest(volumes=(Volume("nfs"),)),
    "qcow2-vol-multiattach": Guest(volumes=(Volume(multiattach=True),)),
    "qcow2-ten-disks": Guest(
        swap=512,
        ephemeral=20,
        config_drive=True,
        volumes=tuple(Volume(device=f"/dev/vd{letter}") for letter in "ghijkl"),
    ),
    "raw": Guest("raw"),
    "raw-ephemeral-swap": Guest("raw", swap=512, ephemeral=20),
    "raw-preallocated": Guest("raw", options={"preallocate_images": "space"}),
    "raw-configdrive": Guest("raw", config_drive=True),
    "raw-vol-iscsi": Guest("raw", volumes=(Volume(),)),
    "default": Guest("default"),
    "default-flat": Guest("default", options={"use_cow_images": False}, swap=512),
    "lvm": Guest("lvm", options={"libvirt.images_volume_group": "vg"}),
    "lvm-sparse": Guest(
        "lvm",
        options={"libvirt.images_volume_group": "vg", "libvirt.sparse_logical_volumes": True},
    ),
    "lvm-ephemeral-swap": Guest(
        "lvm", options={"libvirt.images_volume_group": "vg"}, swap=512, ephemeral=20
    ),
    "lvm-configdrive": Guest(
        "lvm", options={"libvirt.images_volume_group": "vg"}, config_drive=True
    ),
    "lvm-cachemodes": Guest(
        "lvm",
        options={
            "libvirt.images_volume_group": "vg",
            "libvirt.disk_cachemodes": ["block=none"],
        },
    ),
    "rbd": Guest("rbd"),
    "rbd-auth": Guest(
        "rbd",
        options={
            "libvirt.rbd_user": "nova",
            "libvirt.rbd_secret_uuid": "457eb676-33da-42ec-9a8c-9293d545c337",
        },
    ),
    "rbd-ephemeral-swap": Guest("rbd", swap=512, ephemeral=20),
    "rbd-configdrive": Guest("rbd", config_drive=True),
    "bfv-iscsi": Guest(volumes=(Volume(device="/dev/vda", boot=True),)),
    "bfv-ceph": Guest(volumes=(Volume("rbd", device="/dev/vda", boot=True),)),
    "bfv-ephemeral": Guest(ephemeral=20, volumes=(Volume(device="/dev/vda", boot=True),)),
    "lxc": Guest("raw", options={"libvirt.virt_type": "lxc"}),
}
# Those that migrate.
MIGRATED = (
    *("qcow2", "qcow2-ephemeral-swap", "qcow2-vol-iscsi", "qcow2-vol-ceph"),
    *("qcow2-ten-disks", "raw-ephemeral-swap", "lvm", "rbd", "bfv-iscsi"),
)


class _Attached(dict[str, Any]):
    """A block device mapping that is nowhere saved."""

    def save(self) -> None:
        """Nowhere."""


def prepare(case: Any, instances: str) -> None:
    """What each guest of a test case needs: Nova's false libvirt, no ceph, a directory."""
    case.flags(instances_path=instances)
    case.useFixture(nova_fixtures.LibvirtFixture())
    case.useFixture(nova_fixtures.OSBrickFixture())
    case.stub_out(
        "nova.storage.rbd_utils.RBDDriver.get_mon_addrs",
        lambda *_: (["10.0.0.1", "10.0.0.2"], ["6789", "6789"]),
    )
    case.stub_out("nova.storage.rbd_utils.RBDDriver._check_for_import_failure", lambda *_: None)
    case.stub_out("nova.storage.rbd_utils.RBDDriver.exists", lambda *_: True)
    case.stub_out(
        "nova.objects.InstanceList.get_by_host", lambda *_, **__: objects.InstanceList(objects=[])
    )


def prepare_alone(case: Any, uri: str) -> None:
    """What a test case needs for a driver that runs guests on a real libvirt, without a database,
    Neutron, and anybody who waits for an event."""
    case.useFixture(nova_fixtures.PrivsepFixture())
    case.useFixture(nova_fixtures.OSBrickFixture())
    case.stub_out("os.uname", posix.uname)  # Nova's own fixture has another one
    case.flags(enabled=False, group="vnc")
    case.flags(default_ephemeral_format="ext4")
    case.flags(connection_uri=uri, virt_type="qemu", cpu_mode="none", group="libvirt")
    nothing = {
        "nova.virt.libvirt.host.Host._init_events": None,
        "nova.virt.libvirt.driver.LibvirtDriver._check_my_ip": None,
        "nova.virt.libvirt.driver.LibvirtDriver._build_device_metadata": None,
        "nova.virt.libvirt.driver.LibvirtDriver._register_undefined_instance_details": None,
        "nova.network.neutron.API.has_port_binding_extension": False,
        "nova.objects.Instance.save": None,
        "nova.objects.Migration.save": None,
        "nova.objects.InstanceList.get_by_host": objects.InstanceList(objects=[]),
        "nova.objects.BlockDeviceMappingList.get_by_instance_uuid": (
            objects.BlockDeviceMappingList(objects=[])
        ),
        "nova.objects.BlockDeviceMappingList.bdms_by_instance_uuid": {},
    }
    for name, value in nothing.items():
        case.stub_out(name, lambda *_, value=value, **__: value)


def set_options(case: Any, wanted: Guest) -> None:
    """Nova's configuration for a guest, until the test case ends."""
    case.flags(virt_type="kvm", images_type=wanted.images_type, group="libvirt")
    case.flags(images_rbd_pool="vms", group="libvirt")
    for name, value in wanted.options.items():
        group, _, option = name.rpartition(".")
        case.flags(**{option: value}, **({"group": group} if group else {}))


def instance_of(wanted: Guest) -> Any:
    """The instance object."""
    flavor = objects.Flavor(
        memory_mb=2048,
        swap=wanted.swap,
        vcpu_weight=None,
        root_gb=10,
        id=2,
        name="m1.small",
        ephemeral_gb=wanted.ephemeral,
        rxtx_factor=1.0,
        flavorid="1",
        vcpus=2,
        extra_specs=dict(wanted.extra_specs),
    )
    system_metadata = {"image_base_image_ref": IMAGE, "image_disk_format": wanted.disk_format}
    system_metadata |= {f"image_{key}": value for key, value in wanted.properties.items()}
    boots_volume = any(each.boot for each in wanted.volumes)
    return objects.Instance(
        id=1,
        uuid=UUID,
        display_name="xmlkit",
        project_id="fake",
        user_id="838a72b0-0d54-4827-8fd6-fb1227633ceb",
        image_ref="" if boots_volume else IMAGE,
        root_gb=10,
        ephemeral_gb=wanted.ephemeral,
        vcpus=2,
        memory_mb=2048,
        system_metadata=system_metadata,
        metadata={},
        instance_type_id=flavor.id,
        flavor=flavor,
        new_flavor=None,
        old_flavor=None,
        pci_devices=objects.PciDeviceList(),
        numa_topology=None,
        config_drive="True" if wanted.config_drive else "",
        vm_mode=None,
        vm_state=None,
        task_state=None,
        power_state=None,
        kernel_id="k" if wanted.kernel else None,
        ramdisk_id="r" if wanted.kernel else None,
        os_type="linux",
        ephemeral_key_uuid=None,
        vcpu_model=None,
        host="fake-host",
        node="fake-node",
        trusted_certs=None,
        resources=None,
        migration_context=None,
        info_cache=None,
        launched_at=None,
        cleaned=False,
        deleted=False,
    )


def block_device_info_of(wanted: Guest) -> dict[str, Any]:
    """What is attached, as Nova passes it on."""
    ephemerals = [
        {
            "device_name": f"/dev/vd{letter}",
            "size": wanted.ephemeral // max(1, wanted.ephemerals),
            "disk_bus": "virtio",
            "device_type": "disk",
            "guest_format": None,
            "virtual_name": f"ephemeral{number}",
        }
        for number, letter in zip(range(wanted.ephemerals), "bcde", strict=False)
    ]
    mapping = []
    for number, volume in enumerate(wanted.volumes):
        serial = f"8d7d9d7f-5a3c-4a28-9c56-0000000000{number:02}"
        data: dict[str, Any] = dict(_DATA[volume.kind])
        if volume.kind in ("iscsi", "fibre_channel"):
            data["device_path"] = f"/dev/sd{'cdefghijkl'[number]}"
        mapping.append(
            _Attached(
                **{
                    "connection_info": {
                        "driver_volume_type": volume.kind,
                        "serial": serial,
                        "data": data,
                        "multiattach": volume.multiattach,
                    },
                    "mount_device": volume.device,
                    "boot_index": 0 if volume.boot else None,
                    "disk_bus": volume.bus,
                    "device_type": "disk",
                    "guest_format": None,
                    "delete_on_termination": False,
                    "attachment_id": serial,
                    "volume_id": serial,
                }
            )
        )
    return {
        "root_device_name": "/dev/vda",
        "swap": None,
        "ephemerals": ephemerals,
        "image": [],
        "block_device_mapping": mapping,
    }


def image_meta_of(wanted: Guest) -> Any:
    """The image's metadata; of the image that rescues, if one does."""
    properties = dict(wanted.properties) | dict(wanted.rescue or {})
    return objects.ImageMeta.from_dict(
        {
            "id": IMAGE,
            "disk_format": wanted.disk_format,
            "container_format": "bare",
            "status": "active",
            "properties": properties,
        }
    )


def driver_of(case: Any, wanted: Guest) -> Any:
    """A driver, as nova-compute has it after its start with what the guest needs."""
    set_options(case, wanted)
    made = driver.LibvirtDriver(fake.FakeVirtAPI(), False)
    made._get_disk_over_committed_size_total = lambda: 0
    made.init_host("fake-host")
    return made


def xml_of(wanted: Guest, made: Any) -> str:
    """What the driver says of a guest."""
    instance = instance_of(wanted)
    image_meta = image_meta_of(wanted)
    attached = block_device_info_of(wanted)
    rescue: Any = None
    if wanted.rescue is not None:
        rescue = {"image_id": IMAGE, "kernel_id": None, "ramdisk_id": None}
        if wanted.kernel:
            rescue |= {"kernel_id": "k", "ramdisk_id": "r"}
    rescue_meta = image_meta if rescue is not None and wanted.rescue else None
    disk_info = blockinfo.get_disk_info(
        driver.CONF.libvirt.virt_type,
        instance,
        objects.ImageMeta.from_instance(instance) if rescue_meta else image_meta,
        block_device_info=attached,
        rescue=rescue is not None,
        rescue_image_meta=rescue_meta,
    )
    with (
        mock.patch.object(made, "_connect_volume"),
        mock.patch("time.time", return_value=1.0e9),  # it stands in the XML
        mock.patch.object(objects.Flavor, "get_by_id", return_value=instance.flavor),
    ):
        xml: str = made._get_guest_xml(
            context.get_admin_context(),
            instance,
            [],
            disk_info,
            objects.ImageMeta.from_instance(instance) if rescue_meta else image_meta,
            rescue=rescue,
            block_device_info=attached,
        )
    return xml


class FalseDomain:
    """A domain that has just this XML."""

    def __init__(self, xml: str, connect: Any) -> None:
        self.xml = xml
        self.connect = connect

    def XMLDesc(self, flags: int = 0) -> str:
        """The XML."""
        return self.xml

    def ID(self) -> int:
        """It runs."""
        return 1

    def UUIDString(self) -> str:
        """Its UUID."""
        return UUID

    def name(self) -> str:
        """Its name."""
        return "instance-00000001"


def guest_of(xml: str, connect: Any) -> Any:
    """Nova's object for a domain with this XML."""
    return guest.Guest(FalseDomain(xml, connect))


def migrated(wanted: Guest, xml: str, made: Any) -> str:
    """What Nova makes of a running guest's XML for the host that it migrates to."""
    attached = block_device_info_of(wanted)["block_device_mapping"]
    data = objects.LibvirtLiveMigrateData(
        bdms=[
            objects.LibvirtLiveMigrateBDMInfo(
                serial=each["connection_info"]["serial"],
                bus=each["disk_bus"],
                dev=each["mount_device"].rpartition("/")[2],
                type=each["device_type"],
                connection_info=each["connection_info"],
            )
            for each in attached
        ],
        graphics_listen_addr_vnc="10.0.0.9",
        serial_listen_addr="10.0.0.9",
        serial_listen_ports=[],
        supported_perf_events=[],
        target_connect_addr="10.0.0.9",
    )
    running = xml.replace("<domain ", '<domain id="1" ', 1)
    found: str = migration.get_updated_guest_xml(
        instance_of(wanted),
        guest_of(running, made._host.get_connection),
        data,
        made._get_volume_config,
    )
    return found
