"""Nova's image backend on an rbd pool of libvirt's, on a real ceph: what Nova's tests say of Rbd.

Rules
- One node of ceph, Nova's own code over the real librbd; of Glance there are image descriptions.
- What was made is read back by rbd and qemu-img, or booted.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from cluster import PORT, Ceph, CephMissingError, on_ceph, one_node_ceph
from lxml import etree
from nova import exception
from nova.compute import task_states
from nova.storage import rbd_utils
from nova.virt.libvirt import imagebackend
from novahost import MIB, NovaHost, domain, guest, source
from scene import UP, run, until

from xmlkit.nova.rbd import PoolDriver, RbdStorage
from xmlkit.nova.storage import delete_disks
from xmlkit.nova.store import StorageError, prepare
from xmlkit.testing import Libvirtd, LibvirtdMissingError, private_libvirtd


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """One for all tests."""
    tmp_path_factory.getbasetemp()
    try:
        with one_node_ceph() as ceph:
            yield ceph
    except CephMissingError as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))


@pytest.fixture(scope="module")
def daemon(ceph: Ceph) -> Iterator[Libvirtd]:
    """A libvirtd that reaches the cluster."""
    try:
        with private_libvirtd(private_network=False) as libvirtd:
            yield libvirtd
    except LibvirtdMissingError as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))


@pytest.fixture(scope="module")
def librbd() -> tuple[Any, Any]:
    """Python's modules of ceph: Debian has them for its own Python, PyPI has none."""
    found = []
    for name in ("rados", "rbd"):
        places = [*sys.path, "/usr/lib/python3/dist-packages"]
        files = [file for place in places for file in Path(place or ".").glob(f"{name}.*.so")]
        if not files:
            missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            missing(f"no Python module {name}: apt-get install python3-rbd")
        spec = importlib.util.spec_from_file_location(name, files[0])
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
        found.append(sys.modules[name])
    return found[0], found[1]


@pytest.fixture
def host(
    nova_case: Any,
    daemon: Libvirtd,
    ceph: Ceph,
    librbd: tuple[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[NovaHost]:
    """A host whose disks are images in ceph; nothing but the pool says so."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    monkeypatch.setattr(rbd_utils, "rados", librbd[0])
    monkeypatch.setattr(rbd_utils, "rbd", librbd[1])
    host = NovaHost(nova_case, libvirt.open(daemon.uri), daemon.directory)
    host.connection.storagePoolDefineXML(ceph.pool_xml("images")).create()
    host.case.flags(
        storage_pools={"disks": "images"},
        images_rbd_pool="not-looked-at",
        images_rbd_ceph_conf=str(ceph.conf),
        group="libvirt",
    )
    prepare()
    yield host
    host.close()
    for name in images(ceph):
        for snap in snapshots(ceph, name):
            if snap["protected"] == "true":
                ceph.run("rbd", "snap", "unprotect", f"rbd/{name}@{snap['name']}")
        ceph.run("rbd", "snap", "purge", "--no-progress", f"rbd/{name}")
        ceph.run("rbd", "remove", "--no-progress", f"rbd/{name}")


def images(ceph: Ceph) -> list[str]:
    found: list[str] = json.loads(ceph.run("rbd", "list", "--format=json", "rbd"))
    # clones come before what they are cloned from
    return sorted(found, key=lambda name: "_" not in name)


def snapshots(ceph: Ceph, name: str) -> list[dict[str, str]]:
    text = ceph.run("rbd", "snap", "list", "--format=json", f"rbd/{name}")
    found: list[dict[str, str]] = json.loads(text)
    return found


def content(ceph: Ceph, name: str, scratch: Path) -> bytes:
    """The first sector."""
    scratch.unlink(missing_ok=True)
    ceph.run("rbd", "export", "--no-progress", f"rbd/{name}", scratch)
    return scratch.read_bytes()[:512]


def write(ceph: Ceph, name: str, text: bytes) -> None:
    """A guest at work, on the second sector."""
    place = f"rbd:rbd/{name}:conf={ceph.conf}"
    run("qemu-io", "-f", "raw", "-c", f"write -P {text[0]} 512 512", place)


def in_glance(ceph: Ceph, tmp_path: Path) -> dict[str, Any]:
    """An image that Glance keeps in the cluster, as it describes it."""
    raw = tmp_path / "raw"
    raw.write_bytes(guest().ljust(2 * MIB, b"\0"))
    ceph.run("rbd", "import", "--no-progress", raw, "rbd/glance")
    ceph.run("rbd", "snap", "create", "--no-progress", "rbd/glance@snap")
    ceph.run("rbd", "snap", "protect", "rbd/glance@snap")
    # not asked of the monitor, which refuses now and then on a busy machine
    (fsid,) = re.findall(r"^fsid = (\S+)", ceph.conf.read_text(), re.M)
    url = f"rbd://{fsid}/rbd/glance/snap"
    return {"id": "glance", "disk_format": "raw", "locations": [{"url": url}]}


@on_ceph
def test_the_pool_says_which_class(host: NovaHost) -> None:
    """The same images_type; what Nova asks of the class is what it knows of rbd."""
    found = host.backend.backend()
    assert RbdStorage is found
    assert (True, True, False) == (
        *(found.SUPPORTS_CLONE, found.is_shared_block_storage()),
        found.is_file_in_instance_path(),
    )
    disk = host.disk()
    assert ("rbd", f"{host.instance.uuid}_disk") == (disk.driver.pool, disk.rbd_name)
    assert imagebackend.Flat is type(host.disk("disk.config"))


@on_ceph
def test_what_rbd_cannot_be_with_is_refused(host: NovaHost) -> None:
    """Images that are not raw, as Nova has it of its own; and disks in other pools."""
    host.connection.storagePoolDefineXML(
        f"<pool type='dir'><name>fast</name><target><path>{host.instances}</path></target></pool>"
    )
    host.case.flags(force_raw_images=False)
    host.case.flags(storage_pools={"disks": "images", "swap": "fast"}, group="libvirt")
    with pytest.raises(StorageError, match=r"(?s)force_raw_images is off.*of type rbd, or none"):
        prepare()


@on_ceph
@pytest.mark.parametrize("size", [None, 4 * MIB])
def test_a_disk_from_an_image(host: NovaHost, ceph: Ceph, tmp_path: Path, size: int | None) -> None:
    """Fetched, imported, grown; a second time nothing is done."""
    disk = host.disk()
    assert not disk.exists()
    host.make(disk, size)
    host.make(host.disk(), size)
    assert [str(host.base)] == host.fetched
    assert [disk.rbd_name] == images(ceph)
    assert guest() == content(ceph, disk.rbd_name, tmp_path / "out")
    assert (size or 2 * MIB) == disk.get_disk_size("whatever")


@on_ceph
def test_a_base_of_another_format_is_fetched_anew(host: NovaHost, ceph: Ceph) -> None:
    """A cache from before may have a qcow2 image: only raw is imported."""
    run("qemu-img", "create", "-f", "qcow2", host.base, MIB)
    host.make(host.disk())
    assert [str(host.base)] == host.fetched


@on_ceph
def test_an_image_larger_than_the_flavor(host: NovaHost) -> None:
    """It is refused."""
    with pytest.raises(exception.FlavorDiskSmallerThanImage):
        host.make(host.disk(), MIB)


@on_ceph
def test_the_xml_is_a_network_disk_of_the_pools_cluster(host: NovaHost, ceph: Ceph) -> None:
    """Monitors come from the pool, and it stays a network disk: libvirt lets it be no volume."""
    found = host.make(host.disk()).libvirt_info("writeback", {}, disk_unit=5)
    name = f"rbd/{host.instance.uuid}_disk"
    assert ("network", "rbd", name, [ceph.address], [str(PORT)], "raw", None) == (
        *(found.source_type, found.source_protocol, found.source_name),
        *(found.source_hosts, found.source_ports, found.driver_format, found.auth_secret_uuid),
    )
    assert {"protocol": "rbd", "name": name} == source(host, found)
    assert None is host.disk().libvirt_info("none", {}, disk_unit=5).device_addr
    scsi = host.disk(bus="scsi", dev="sda").libvirt_info("none", {}, disk_unit=5)
    assert 5 == scsi.device_addr.unit


@on_ceph
@pytest.mark.parametrize("by", ["uuid", "usage"])
def test_the_pools_secret_is_the_disks(
    host: NovaHost, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """User and key are said once, in the pool. This ceph asks for none: the pool's XML is ours."""
    named = {"uuid": "7f0c1d5e-2a34-4f0b-9a64-3f1f0d7b9e11", "usage": "client.nova"}
    made = host.connection.secretDefineXML(
        f"<secret><uuid>{named['uuid']}</uuid>"
        f"<usage type='ceph'><name>{named['usage']}</name></usage></secret>"
    )
    made.setValue(b"key")
    place = host.store.place("images")
    (element,) = place.xml.iterfind("source")
    auth = etree.SubElement(element, "auth", type="ceph", username="nova")
    etree.SubElement(auth, "secret", {by: named[by]})
    monkeypatch.setattr(host.store, "place", lambda _: place)

    disk = host.disk()
    found = disk.libvirt_info("none", {})
    assert ("nova", "ceph", named["uuid"]) == (
        *(found.auth_username, found.auth_secret_type),
        found.auth_secret_uuid,
    )
    assert f"rbd:rbd/{host.instance.uuid}_disk:id=nova" == disk.path.partition(":conf=")[0]
    described = disk.get_model(host.connection)
    assert ("nova", b"a2V5", "rbd") == (described.user, described.password, described.pool)
    made.undefine()


@on_ceph
def test_monitors_with_and_without_brackets(host: NovaHost) -> None:
    """libguestfs wants brackets around addresses of IPv6, libvirt none."""
    place = host.store.place("images")
    (element,) = place.xml.iterfind("source/host")
    element.set("name", "[::1]")
    del element.attrib["port"]
    driver = PoolDriver(place)
    assert (["::1"], ["6789"]) == driver.get_mon_addrs()
    assert (["[::1]"], ["6789"]) == driver.get_mon_addrs(strip_brackets=False)


@on_ceph
def test_a_guest_boots(host: NovaHost) -> None:
    """From the network disk that the backend describes."""
    log = host.instances / "console"
    disk = host.make(host.disk())
    running = host.connection.defineXML(domain(host, disk.libvirt_info("none", {}), log=log))
    running.create()
    until(lambda: log.exists() and UP in log.read_bytes() and b"W" in log.read_bytes())
    running.destroy()


@on_ceph
def test_a_snapshot_is_the_whole_content(host: NovaHost, tmp_path: Path) -> None:
    """In the format that is asked for."""
    host.make(host.disk()).snapshot_extract(str(tmp_path / "out"), "qcow2")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", tmp_path / "out", tmp_path / "raw")
    assert guest() == (tmp_path / "raw").read_bytes()[:512]


@on_ceph
def test_cloning_and_flattening(
    host: NovaHost, ceph: Ceph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image of Glance's in the same cluster is not copied; flat, the disk needs it no more."""
    image = in_glance(ceph, tmp_path)
    monkeypatch.setattr(imagebackend.IMAGE_API, "get", lambda *_, **__: image)
    disk = host.disk()
    disk.clone(None, "glance")
    assert ["rbd", "glance", "snap"] == list(disk.driver.parent_info(disk.rbd_name))
    assert guest() == content(ceph, disk.rbd_name, tmp_path / "out")
    assert "rbd" == disk._get_parent_pool(None, "glance", disk.driver.get_fsid())
    disk.flatten()
    disk.flatten()
    with pytest.raises(exception.ImageUnacceptable):
        disk.driver.parent_info(disk.rbd_name)


@on_ceph
@pytest.mark.parametrize(
    "change", [{"disk_format": "qcow2"}, {"locations": [{"url": "rbd://other/rbd/glance/snap"}]}]
)
def test_what_cannot_be_cloned(
    host: NovaHost,
    ceph: Ceph,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
) -> None:
    """Another format, another cluster: Nova fetches it then."""
    image = in_glance(ceph, tmp_path) | change
    monkeypatch.setattr(imagebackend.IMAGE_API, "get", lambda *_, **__: image)
    with pytest.raises(exception.ImageUnacceptable):
        host.disk().clone(None, "glance")
    assert not host.disk().exists()


@on_ceph
@pytest.mark.parametrize("outcome", ["copied", "raced", "impossible", "failed"])
def test_glance_is_asked_to_copy(
    host: NovaHost,
    ceph: Ceph,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: str,
) -> None:
    """Into the store in our cluster, if one is named; then it is cloned."""
    host.case.flags(
        images_rbd_glance_store_name="ours",
        images_rbd_glance_copy_poll_interval=1,
        group="libvirt",
    )
    here = in_glance(ceph, tmp_path)
    image = here | {"locations": [{"url": "rbd://other/rbd/glance/snap"}], "stores": "theirs"}

    def copy(*_: Any) -> None:
        if outcome == "impossible":
            raise exception.ImageImportImpossible(image_id="glance", reason="none")
        if outcome == "failed":
            image["os_glance_failed_import"] = ["ours"]
            return
        image.update(here, stores="ours")
        if outcome == "raced":
            raise exception.ImageBadRequest(image_id="glance", response="busy")

    monkeypatch.setattr(imagebackend.IMAGE_API, "get", lambda *_, **__: image)
    monkeypatch.setattr(imagebackend.IMAGE_API, "copy_image_to_store", copy)
    disk = host.disk()
    if outcome in ("copied", "raced"):
        disk.clone(None, "glance")
        assert disk.exists()
        return
    with pytest.raises(exception.ImageUnacceptable):
        disk.clone(None, "glance")


@on_ceph
def test_a_snapshot_within_the_cluster(
    host: NovaHost, ceph: Ceph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It becomes an image of Glance's without leaving ceph, and of the disk nothing is kept."""
    image = in_glance(ceph, tmp_path)
    monkeypatch.setattr(imagebackend.IMAGE_API, "get", lambda *_, **__: image)
    disk = host.disk()
    disk.clone(None, "glance")
    url = disk.direct_snapshot(None, "shot", "raw", "snapshot", "glance")
    assert url.endswith("/rbd/snapshot/snap")
    assert guest() == content(ceph, "snapshot", tmp_path / "out")
    assert [] == snapshots(ceph, disk.rbd_name)
    disk.cleanup_direct_snapshot({"url": url}, also_destroy_volume=True)
    assert "snapshot" not in images(ceph)
    disk.cleanup_direct_snapshot(None)


@on_ceph
def test_a_resize_is_taken_back(host: NovaHost, ceph: Ceph, tmp_path: Path) -> None:
    """What Nova keeps in the image itself is what it goes back to."""
    disk = host.make(host.disk())
    write(ceph, disk.rbd_name, b"a")
    disk.create_snap("nova-resize")
    disk.resize_image(8 * MIB)
    assert 8 * MIB == disk.get_disk_size("")
    write(ceph, disk.rbd_name, b"b")
    # the new flavor's guest is removed, and this has to stay
    host.instance.task_state = task_states.RESIZE_REVERTING
    delete_disks(host.instance)
    disk.rollback_to_snap("nova-resize")
    disk.remove_snap("nova-resize")
    ceph.run("rbd", "export", "--no-progress", f"rbd/{disk.rbd_name}", tmp_path / "out")
    assert b"a" * 512 == (tmp_path / "out").read_bytes()[512:1024]
    assert 4 * MIB == disk.get_disk_size("")
    assert [] == snapshots(ceph, disk.rbd_name)


@on_ceph
def test_exactly_the_images_of_an_instance_are_removed(host: NovaHost, ceph: Ceph) -> None:
    """Nova's own takes all that begin with its UUID."""
    host.instance.task_state = None
    host.make(host.disk())
    host.make(host.disk("disk.rescue"))
    mine = host.instance
    kept = [f"{mine.uuid}-disk", f"x{mine.uuid}_disk"]
    for name in kept:
        ceph.run("rbd", "create", "--size", "1", f"rbd/{name}")
    delete_disks(mine, lambda name: name.endswith(".rescue"))
    assert sorted([*kept, f"{mine.uuid}_disk"]) == sorted(images(ceph))
    delete_disks(mine)
    assert sorted(kept) == sorted(images(ceph))


@on_ceph
def test_a_file_is_imported_in_place_of_one_that_is_there(
    host: NovaHost, ceph: Ceph, tmp_path: Path
) -> None:
    """As Nova does with config drives of images_type = rbd; ours stay files."""
    file = tmp_path / "file"
    file.write_bytes(b"1" * MIB)
    disk = host.disk()
    disk.import_file(host.instance, str(file), "disk")
    file.write_bytes(b"2" * MIB)
    disk.import_file(host.instance, str(file), "disk")
    assert b"2" * 512 == content(ceph, disk.rbd_name, tmp_path / "out")


@on_ceph
def test_nothing_is_reserved_by_fallocate(host: NovaHost) -> None:
    """There is no file."""
    host.case.flags(preallocate_images="space")
    assert not host.make(host.disk())._can_fallocate()


@on_ceph
def test_a_disk_by_its_path(host: NovaHost) -> None:
    """Nova takes it for one of its own Rbd, and says POOL/IMAGE."""
    found = host.backend.by_libvirt_path(host.instance, f"rbd/{host.instance.uuid}_disk", "rbd")
    assert (RbdStorage, host.disk().path) == (type(found), found.path)
