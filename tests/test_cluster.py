"""RBD pools on a real ceph: what libvirt does with them is why their disks are left as they are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest
from cluster import Ceph, CephError, on_ceph

from xmlkit import Document, Skip, parse_host, transform
from xmlkit.observe import observe
from xmlkit.plan import plan
from xmlkit.testing import Libvirtd, boot_sector

PATIENCE = 60.0
GUEST = """
<domain type='qemu'>
  <name>guest</name>
  <uuid>3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11</uuid>
  <memory unit='MiB'>32</memory>
  <os><type machine='pc'>hvm</type></os>
  <devices>
    {disk}
    <serial type='file'><source path='{serial}'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""
NETWORK = """
<disk type='network' device='disk'>
  <driver name='qemu' type='raw'/>
  <source protocol='rbd' name='rbd/{image}'><host name='{address}' port='{port}'/></source>
  <target dev='vda' bus='virtio'/>
</disk>
"""
VOLUME = """
<disk type='volume' device='disk'>
  <driver name='qemu' type='raw'/><source pool='rbd' volume='{image}'/>
  <target dev='vda' bus='virtio'/>
</disk>
"""


@pytest.fixture
def node(start_libvirtd: Callable[..., Libvirtd]) -> Libvirtd:
    """A libvirtd that reaches the cluster."""
    return start_libvirtd(private_network=False)


@pytest.fixture
def image(ceph: Ceph, tmp_path: Path) -> Iterator[str]:
    """An image in the cluster that boots."""
    raw = tmp_path / "raw"
    raw.write_bytes(boot_sector())
    os.truncate(raw, 4 << 20)
    ceph.run("rbd", "import", raw, "rbd/boots")
    yield "boots"
    ceph.run("rbd", "remove", "--no-progress", "rbd/boots")


def started(ceph: Ceph, connection: libvirt.virConnect) -> libvirt.virStoragePool:
    """The cluster's pool in libvirt, active."""
    pool = connection.storagePoolDefineXML(ceph.pool_xml())
    pool.create()
    return pool


@on_ceph
def test_an_rbd_pool_starts_and_lists_images(ceph: Ceph, node: Libvirtd, image: str) -> None:
    """Its volumes are network volumes, whose path is POOL/IMAGE and no file."""
    connection = libvirt.open(node.uri)
    started(ceph, connection)
    (volume,) = parse_host(observe(connection)).by_name["rbd"].volumes or ()

    assert ("rbd", image, "network", f"rbd/{image}", "raw", 4 << 20) == (
        *(volume.pool, volume.name, volume.type),
        *(volume.path, volume.format, volume.capacity),
    )


@on_ceph
def test_libvirt_refuses_a_volume_disk_on_rbd(ceph: Ceph, node: Libvirtd, image: str) -> None:
    """It takes the definition, and not the start: what the table of capabilities says.

    A libvirt that starts it makes this fail: then the table is to be changed.
    """
    connection = libvirt.open(node.uri)
    started(ceph, connection)
    disk = VOLUME.format(image=image)
    domain = connection.defineXML(GUEST.format(disk=disk, serial=node.directory / "serial.log"))
    with pytest.raises(libvirt.libvirtError) as refused:
        domain.create()

    assert libvirt.VIR_ERR_CONFIG_UNSUPPORTED == refused.value.get_error_code()
    assert not parse_host(observe(connection)).can("volume-disk-pools", "rbd")


@on_ceph
def test_a_network_disk_boots_and_stays_as_it_is(ceph: Ceph, node: Libvirtd, image: str) -> None:
    """Though its image is a volume of an active pool, the plan leaves it alone, with the reason."""
    connection = libvirt.open(node.uri)
    started(ceph, connection)
    serial = node.directory / "serial.log"
    disk = NETWORK.format(image=image, address=ceph.address, port=ceph.port)
    domain = connection.defineXML(GUEST.format(disk=disk, serial=serial))
    domain.create()
    deadline = time.monotonic() + PATIENCE
    while not serial.read_bytes().endswith(b"W"):
        assert time.monotonic() < deadline, serial.read_bytes()
        time.sleep(0.05)
    domain.destroy()
    document = Document.parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    made = plan(document, parse_host(observe(connection)))
    (decision,) = made.disks

    assert isinstance(decision, Skip)
    assert "source-type" == decision.reason.id
    assert document.text == transform(document, made).text


@on_ceph
def test_a_command_that_fails_says_why(ceph: Ceph) -> None:
    """In ceph's own words."""
    with pytest.raises(CephError, match=r"rbd info rbd/nobody.*No such file"):
        ceph.run("rbd", "info", "rbd/nobody")
