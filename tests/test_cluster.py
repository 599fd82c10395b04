"""RBD pools on a real ceph: what libvirt does with them is why their disks are left as they are.

And what xmlkit creates in them: read back by rbd and by qemu-img, not by libvirt alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from cluster import Ceph, CephError, on_ceph

from xmlkit import Document, Skip, parse_host, pools, transform, volumes
from xmlkit.actions import create_pool, create_volume
from xmlkit.host import Host, Pool
from xmlkit.observe import LibvirtError, observe
from xmlkit.plan import plan
from xmlkit.shell import script
from xmlkit.testing import Libvirtd, boot_sector
from xmlkit.volumes import Creation, Fill, Target, VolumeError, blank, copy, overlay, snapshot

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
def test_one_worker_runs_them_all(request: pytest.FixtureRequest) -> None:
    """pytest-xdist knows the group by the end of a test's name, where its version can say it."""
    several = "PYTEST_XDIST_WORKER" in os.environ and request.config.getoption("loadgroup")
    assert request.node.nodeid.endswith("@ceph" if several else request.node.name)


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


# What xmlkit creates.

MIB = 1 << 20
POOL = Pool("vms", "rbd", "")
RAW, QCOW2 = Target("raw"), Target("qcow2")


class Cluster:
    """A libvirtd with a pool over the cluster's, made by xmlkit, and what is in the cluster."""

    def __init__(self, ceph: Ceph, libvirtd: Libvirtd) -> None:
        self.ceph = ceph
        self.libvirtd = libvirtd
        self.connection = libvirt.open(libvirtd.uri)
        self.document = pools.pool(
            POOL.name, "rbd", source="rbd", hosts=((ceph.address, ceph.port),)
        )
        self.handle = create_pool(self.connection, self.document)

    def host(self) -> Host:
        """As it is observed now."""
        return parse_host(observe(self.connection))

    def url(self, image: str) -> str:
        """What qemu-img calls an image."""
        return f"rbd:rbd/{image}:conf={self.ceph.conf}"

    def info(self, image: str) -> dict[str, Any]:
        """What rbd says of an image; what qemu-img says of it must agree."""
        found: dict[str, Any] = json.loads(self.ceph.run("rbd", "info", "--format=json", image))
        seen = json.loads(qemu_img("info", "--output=json", "-f", "raw", self.url(image)))
        assert found["size"] == seen["virtual-size"]
        assert "backing-filename" not in seen
        return found

    def images(self) -> list[str]:
        """All that the cluster has."""
        return sorted(self.ceph.run("rbd", "list").split())

    def content(self, image: str) -> bytes:
        """All bytes of an image."""
        out = self.libvirtd.directory / "out"
        out.unlink(missing_ok=True)
        self.ceph.run("rbd", "export", "--no-progress", image, out)
        return out.read_bytes()


def qemu_img(*words: str) -> str:
    """What qemu-img prints; it has to succeed."""
    done = subprocess.run(("qemu-img", *words), capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    return done.stdout


@pytest.fixture
def cluster(ceph: Ceph, node: Libvirtd) -> Iterator[Cluster]:
    """With no images at first and at last."""
    made = Cluster(ceph, node)
    assert [] == made.images()
    yield made
    made.connection.close()
    images = made.images()
    for _ in images:  # clones before what they were cloned from
        for image in made.images():
            if not ceph.run("rbd", "children", "--all", image).strip():
                ceph.run("rbd", "snap", "purge", "--no-progress", *unprotected(ceph, image))
                ceph.run("rbd", "remove", "--no-progress", image)
    assert [] == made.images()


def unprotected(ceph: Ceph, image: str) -> tuple[str]:
    """The image, whose snapshots can now be removed."""
    for each in json.loads(ceph.run("rbd", "snap", "list", "--format=json", image)):
        if each["protected"] == "true":
            ceph.run("rbd", "snap", "unprotect", f"{image}@{each['name']}")
    return (image,)


def base(size: int = 4 * MIB) -> bytes:
    """The content of an image."""
    return b"".join(b"%-511d\n" % number for number in range(size // 1024)).ljust(size, b"\0")


@on_ceph
def test_an_rbd_pool_is_created_and_taken_the_second_time(cluster: Cluster) -> None:
    """Defined, active, with the host; the monitor is as said, and there is no target."""
    again = create_pool(cluster.connection, cluster.document)

    assert (1, 1) == (again.isActive(), again.autostart())
    assert cluster.handle.UUIDString() == again.UUIDString()
    assert f"<host name='{cluster.ceph.address}' port='6789'/>" in again.XMLDesc()


@on_ceph
def test_a_blank_rbd_volume_has_its_size_and_takes_no_space(cluster: Cluster) -> None:
    """It is taken as it is the second time; another one of its name is not."""
    made = blank(cluster.host(), POOL, "blank", RAW, 8 * MIB)
    volume = create_volume(cluster.connection, made)
    used = json.loads(cluster.ceph.run("rbd", "disk-usage", "--format=json", "blank"))

    assert (8 * MIB, "rbd/blank") == (volume.info()[1], volume.path())
    assert 8 * MIB == cluster.info("blank")["size"]
    assert 0 == used["images"][0]["used_size"]
    assert volume.path() == create_volume(cluster.connection, made).path()
    with pytest.raises(VolumeError, match="volume-exists"):
        create_volume(cluster.connection, blank(Host(), POOL, "blank", RAW, 16 * MIB))


@on_ceph
@pytest.mark.parametrize("capacity", [None, 12 * MIB])
def test_a_copy_within_an_rbd_pool_is_a_clone(
    cluster: Cluster, tmp_path: Path, capacity: int | None
) -> None:
    """Of the same content, grown by a step of its own; its parent is the source."""
    (tmp_path / "raw").write_bytes(base())
    cluster.ceph.run("rbd", "import", "--no-progress", tmp_path / "raw", "rbd/base")
    cluster.handle.refresh()
    host = cluster.host()
    made = copy(
        *(host, host.by_name[POOL.name], "clone", RAW),
        *(host.by_name[POOL.name], "base", "raw", capacity),
    )
    volume = create_volume(cluster.connection, made)
    found = cluster.info("clone")

    assert ((capacity or 4 * MIB), "base") == (found["size"], found["parent"]["image"])
    assert found["size"] == volume.info()[1]
    assert base().ljust(found["size"], b"\0") == cluster.content("clone")
    with pytest.raises(VolumeError, match="volume-exists"):
        create_volume(cluster.connection, made)


@on_ceph
@pytest.mark.parametrize("format_", ["raw", "qcow2"])
def test_an_image_is_brought_in_by_qemu_img(cluster: Cluster, tmp_path: Path, format_: str) -> None:
    """As xmlkit's message says: into the volume that libvirt made; the format is told."""
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(base())
    qemu_img("convert", "-f", "raw", "-O", format_, str(raw), str(image))
    create_volume(cluster.connection, blank(cluster.host(), POOL, "v", RAW, 4 * MIB))
    how = Fill(str(image), format_, cluster.url("v"), "raw")
    qemu_img(*how.argv[1:])
    cluster.handle.refresh()
    (seen,) = cluster.host().by_name[POOL.name].volumes or ()

    assert ("v", "raw", 4 * MIB) == (seen.name, seen.format, seen.capacity)
    assert 4 * MIB == cluster.info("v")["size"]
    qemu_img("compare", "-f", format_, "-F", "raw", str(image), cluster.url("v"))


@on_ceph
def test_an_image_is_brought_in_by_rbd(cluster: Cluster, tmp_path: Path) -> None:
    """It is a volume as soon as the pool is refreshed, and a source of clones."""
    (tmp_path / "raw").write_bytes(base())
    cluster.ceph.run("rbd", "import", "--no-progress", tmp_path / "raw", "rbd/image")
    before = cluster.handle.listVolumes()
    cluster.handle.refresh()

    assert ([], ["image"]) == (before, cluster.handle.listVolumes())
    assert base() == cluster.content("image")


@on_ceph
def test_libvirt_alone_would_clone_another_image(cluster: Cluster, tmp_path: Path) -> None:
    """What it is asked to copy from another pool it looks for by name; xmlkit refuses that."""
    (tmp_path / "raw").write_bytes(base())
    cluster.ceph.run("rbd", "import", "--no-progress", tmp_path / "raw", "rbd/base")
    cluster.handle.refresh()
    files = cluster.libvirtd.directory / "files"
    other = create_pool(cluster.connection, pools.pool("files", "dir", target=str(files)))
    (files / "base").write_bytes(b"another".ljust(4 * MIB, b"!"))
    other.refresh()
    cluster.handle.createXMLFrom(
        "<volume><name>wrong</name><capacity>4194304</capacity></volume>",
        other.storageVolLookupByName("base"),
    )
    host = cluster.host()
    vms, directory = host.by_name[POOL.name], host.by_name["files"]

    assert base() == cluster.content("wrong")
    for pool, source in ((vms, directory), (directory, vms)):
        with pytest.raises(VolumeError, match=r"rbd import.*volume-copy"):
            copy(host, pool, "v", RAW, source, "base", "raw")
    assert ["base", "wrong"] == cluster.images()
    assert ["base"] == [path.name for path in files.iterdir()]


@on_ceph
def test_what_an_rbd_volume_cannot_be_is_refused(cluster: Cluster) -> None:
    """qcow2, an overlay, filled by xmlkit, preallocated, named with a '/' or for a snapshot."""
    host = cluster.host()
    pool = host.by_name[POOL.name]
    makers: tuple[tuple[str, Callable[[], Creation]], ...] = (
        ("volume-format", lambda: blank(host, pool, "v", QCOW2, MIB)),
        ("volume-backing", lambda: overlay(host, pool, "v", RAW, "/srv/base", "raw")),
        ("volume-copy", lambda: snapshot(host, pool, "v", RAW, "/srv/base", "raw", MIB)),
        ("volume-option", lambda: blank(host, pool, "v", RAW, MIB, "metadata")),
        ("volume-name", lambda: blank(host, pool, "a/b", RAW, MIB)),
        ("volume-name", lambda: blank(host, pool, "v@s", RAW, MIB)),
    )
    for id_, make in makers:
        with pytest.raises(VolumeError) as refused:
            make()
        assert id_ == refused.value.id
    assert [] == cluster.images()


@on_ceph
def test_the_scripts_for_rbd(cluster: Cluster) -> None:
    """The commands do the same: a pool, a blank volume, a clone of it that grows."""
    cluster.handle.destroy()
    cluster.handle.undefine()
    made = copy(Host(), POOL, "clone", RAW, POOL, "blank", "raw", 8 * MIB)
    for commands in (
        pools.commands(cluster.document),
        volumes.commands(blank(Host(), POOL, "blank", RAW, 4 * MIB)),
        volumes.commands(made),
    ):
        done = subprocess.run(
            ["sh"],
            input=script(commands),
            capture_output=True,
            text=True,
            env={**os.environ, "LIBVIRT_DEFAULT_URI": cluster.libvirtd.uri},
        )
        assert 0 == done.returncode, done.stderr

    assert (4 * MIB, 8 * MIB) == (cluster.info("blank")["size"], cluster.info("clone")["size"])


@on_ceph
def test_a_pool_that_cannot_show_who_it_is_is_not_left_behind(cluster: Cluster) -> None:
    """The key is libvirt's secret, by its UUID: without it nothing starts, and nothing stays."""
    auth = pools.Auth("xmlkit", "0b34a1c2-7d5e-4b1f-9a55-3f2c1c8e0d4b")
    hosts = ((cluster.ceph.address, cluster.ceph.port),)
    document = pools.pool("keyed", "rbd", source="rbd", hosts=hosts, auth=auth)
    with pytest.raises(LibvirtError, match=auth.secret):
        create_pool(cluster.connection, document)

    assert [POOL.name] == [each.name() for each in cluster.connection.listAllStoragePools()]
