"""What is surveyed is what libvirt and the file system say, and nothing is touched for it.

Rules
- Domains, snapshots and saves are made on a real libvirtd; images by qemu-img.
- What a hostile guest or header could do to the reader is tried on the reader itself.
"""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import CHECKPOINT, EXTERNAL, SNAPSHOT, Site, volume_xml
from scene import POOL, disk_xml, run

from xmlkit.document import Document
from xmlkit.observe import opened
from xmlkit.plan import plan
from xmlkit.preflight import judge, refusals
from xmlkit.survey import Backing, File, Guest, Survey, Use, backing_of, survey
from xmlkit.testing import Libvirtd


@pytest.fixture
def site(libvirtd: Libvirtd) -> Site:
    return Site(libvirtd)


def guest_of(site: Site, name: str = "guest", **options: Any) -> Guest:
    """What the survey says of one domain."""
    (guest,) = survey(site.scene.connection, [name], **options).guests
    return guest


# What libvirt says.


def test_a_domain_is_what_libvirt_says(site: Site) -> None:
    """Its name and UUID, its persistent XML, off and without anything in the way."""
    domain, _ = site.file_guest()
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    guest = guest_of(site)

    assert (domain.UUIDString(), "guest", "shut off") == (guest.uuid, guest.name, guest.state)
    assert xml == guest.document.text
    assert (True, None, False) == (guest.persistent, guest.live, guest.active)
    assert ((), (), False, None, ()) == (
        guest.snapshots,
        guest.checkpoints,
        guest.managed_save,
        guest.saved,
        guest.block_jobs,
    )


def test_a_running_and_a_paused_domain(site: Site) -> None:
    """Its live XML is there beside the persistent one."""
    domain, path = site.file_guest()
    domain.create()
    running = guest_of(site)
    domain.suspend()
    paused = guest_of(site)

    assert ("running", "paused") == (running.state, paused.state)
    assert running.live is not None
    assert domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) == running.document.text
    assert "<backingStore type='file' index" in running.live.text
    assert str(path) in running.live.text


def test_a_transient_domain_is_told(site: Site) -> None:
    """It has no persistent XML of its own."""
    domain, _ = site.file_guest()
    xml = domain.XMLDesc()
    domain.undefine()
    site.scene.connection.createXML(xml)

    assert (False, "running") == (guest_of(site).persistent, guest_of(site).state)


def test_secrets_come_only_when_they_are_asked_for(site: Site) -> None:
    """XML that goes back into libvirt needs them; a read-only connection cannot have them."""
    graphics = "<graphics type='vnc' port='-1' passwd='s3cr3t'/>"
    path = site.image("disk")
    domain = site.scene.define("guest", [volume_xml(path.name), graphics])
    domain.snapshotCreateXML(SNAPSHOT.format(""))
    plain, secure = guest_of(site), guest_of(site, secure=True)

    assert "s3cr3t" not in plain.document.text + plain.snapshots[0].text
    assert "s3cr3t" in secure.document.text
    assert "s3cr3t" in secure.snapshots[0].text
    with opened(site.libvirtd.uri) as connection:
        assert plain.document.text == survey(connection).guests[0].document.text


def test_snapshots_and_checkpoints_are_told_with_their_xml(site: Site) -> None:
    """Each one's own document, with the domain's in it."""
    domain, path = site.file_guest()
    domain.snapshotCreateXML(SNAPSHOT.format(""))
    domain.create()
    domain.checkpointCreateXML(CHECKPOINT)
    guest = guest_of(site)

    assert [("domainsnapshot", "s")] == [(each.kind, each.name) for each in guest.snapshots]
    assert [("domaincheckpoint", "c")] == [(each.kind, each.name) for each in guest.checkpoints]
    assert str(path) in guest.snapshots[0].text
    assert str(path) in guest.checkpoints[0].text


def test_a_managed_save_is_told_with_its_xml(site: Site) -> None:
    """The XML that a start would restore; None if the image is damaged."""
    domain, path = site.file_guest()
    domain.create()
    domain.managedSave(0)
    guest = guest_of(site)

    assert ("shut off", True) == (guest.state, guest.managed_save)
    assert guest.saved is not None
    assert str(path) in guest.saved.text

    (image,) = (site.libvirtd.directory / "var/lib/libvirt/qemu/save").iterdir()
    image.write_bytes(b"damaged")
    damaged = guest_of(site)
    assert (True, None) == (damaged.managed_save, damaged.saved)


def test_a_block_job_is_told_by_its_disk(site: Site) -> None:
    """A copy that waits for its end, and none once it is aborted."""
    domain, path = site.file_guest()
    domain.create()
    copy = path.with_name("copy")
    xml = f"<disk type='file'><source file='{copy}'/><driver type='qcow2'/></disk>"
    domain.blockCopy("vda", xml, {}, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
    during = guest_of(site).block_jobs
    domain.blockJobAbort("vda")

    assert (("vda",), ()) == (during, guest_of(site).block_jobs)


def test_domains_are_asked_for_by_name_or_uuid(site: Site) -> None:
    """In the order of their names; one that is not there is not among them."""
    domains = {name: site.file_guest(name)[0] for name in ("c", "a", "b")}
    asked = [domains["b"].UUIDString(), "a", "nonesuch"]

    assert ["a", "b", "c"] == [each.name for each in survey(site.scene.connection).guests]
    assert ["a", "b"] == [each.name for each in survey(site.scene.connection, asked).guests]
    assert () == survey(site.scene.connection, []).guests


def test_domains_that_were_not_asked_for_count_as_users(site: Site) -> None:
    """They may use the same image, or have an overlay on it."""
    domain, path = site.file_guest()
    overlay = path.with_name("overlay")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2", overlay)
    other = site.scene.define("other", [disk_xml(path), disk_xml(overlay, "vdb")])
    found = survey(site.scene.connection, ["guest"])

    assert {
        Use(domain.UUIDString(), "guest", "vda"),
        Use(other.UUIDString(), "other", "vda"),
    } == set(found.uses[str(path)])
    assert (str(overlay),) == found.overlays[str(path)]
    assert (str(path),) == found.overlays[str(site.scene.base)]


def test_a_live_snapshot_counts_as_use(site: Site) -> None:
    """What a running domain has open is used, whatever its persistent XML says."""
    domain, path = site.file_guest()
    domain.create()
    domain.snapshotCreateXML(
        SNAPSHOT.format(EXTERNAL.format(path.with_name("s"))),
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY,
    )
    found = survey(site.scene.connection)

    assert {str(path.with_name("s"))} <= found.uses.keys()
    assert (str(path.with_name("s")),) == found.overlays[str(path)]
    (guest,) = found.guests
    assert ["s"] == [each.name for each in guest.snapshots]


def test_a_volume_disk_is_known_by_its_path(site: Site) -> None:
    """And doubled slashes are one, as in libvirt."""
    domain, path = site.volume_guest()
    doubled = str(path).replace("/disks/", "//disks//")
    other = site.scene.define("other", [disk_xml(Path(doubled))])
    xml = other.XMLDesc().replace(str(path), doubled)
    site.scene.connection.defineXML(xml)
    found = survey(site.scene.connection)

    assert {"guest", "other"} == {use.name for use in found.uses[str(path)]}
    assert {str(path), str(site.scene.base)} == set(found.files)
    assert domain.name() == found.guests[0].name


def test_pools_that_are_transient_are_told(site: Site) -> None:
    """They are gone when they stop."""
    place = site.libvirtd.directory / "t"
    place.mkdir()
    xml = f"<pool type='dir'><name>t</name><target><path>{place}</path></target></pool>"
    site.scene.connection.storagePoolCreateXML(xml)

    assert {"t"} == survey(site.scene.connection).transient_pools


def test_a_driver_without_storage_or_snapshots_is_surveyed() -> None:
    """What it cannot say is not there; its files are nobody's."""
    found = survey(libvirt.open("test:///default"))

    assert ["test"] == [each.name for each in found.guests]
    assert (False, {}, {}) == (found.local, found.files, found.directories)


# What the file system says.


def test_an_image_is_what_the_file_system_says(site: Site) -> None:
    """Its inode, its size, its owner, and by its header what it is backed by."""
    _, path = site.file_guest()
    os.chown(path, 12, 34)
    path.chmod(0o640)
    found = survey(site.scene.connection)
    file, status = found.files[str(path)], path.stat()

    assert (status.st_dev, status.st_ino, 1) == (file.device, file.inode, file.links)
    assert (status.st_size, status.st_blocks * 512) == (file.size, file.allocated)
    assert (12, 34, 0o640) == (file.uid, file.gid, file.mode)
    assert ("file", False, "qcow2", "", ()) == (
        file.kind,
        file.link,
        file.format,
        file.error,
        file.remembered,
    )
    assert Backing(str(site.scene.base), "raw") == file.header
    assert str(site.scene.base) == file.backing


def test_a_raw_image_is_never_opened_for_a_header(site: Site) -> None:
    """A guest can write there whatever it wants to have followed."""
    path = site.scene.overlay(site.disks / "disk")
    site.scene.define("guest", [disk_xml(path, format="raw")])
    found = survey(site.scene.connection)

    assert None is found.files[str(path)].header
    assert {} == found.overlays
    assert {str(path)} == set(found.files)


def test_a_chain_is_followed_by_the_formats_that_headers_declare(site: Site) -> None:
    """Overlay, qcow2 in the middle, raw base with a forged header at the bottom: it ends there."""
    base, middle, top = (site.disks / name for name in ("base", "middle", "top"))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", base)
    for above, below, format in ((middle, base, "raw"), (top, middle, "qcow2")):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", format, above)
    site.scene.define("guest", [disk_xml(top)])
    found = survey(site.scene.connection)

    assert {str(each) for each in (base, middle, top)} == set(found.files)
    assert {str(middle): (str(top),), str(base): (str(middle),)} == found.overlays
    assert None is found.files[str(base)].header


def test_a_chain_that_the_domain_says_is_taken_from_it(site: Site) -> None:
    """libvirt takes an explicit `<backingStore>` as it is."""
    path = site.image("disk")
    store = (
        f"<backingStore type='file'><format type='raw'/><source file='{site.scene.base}'/>"
        "<backingStore/></backingStore>"
    )
    site.scene.define("guest", [disk_xml(path).replace("<target", f"{store}<target")])

    found = survey(site.scene.connection)

    assert {str(site.scene.base): (str(path),)} == found.overlays
    assert {str(site.scene.base), str(path)} == set(found.files)


def test_what_is_not_there_is_missing(site: Site) -> None:
    """An image, and what one is backed by."""
    path = site.image("disk")
    site.scene.define("guest", [disk_xml(path), disk_xml(Path("/no/such/image"), "vdb")])
    site.scene.base.unlink()
    files = survey(site.scene.connection).files

    assert {str(path): "file", str(site.scene.base): "missing", "/no/such/image": "missing"} == {
        file.path: file.kind for file in files.values()
    }
    assert "No such file or directory" == files["/no/such/image"].error


def test_a_link_is_told_and_its_header_not_read(site: Site) -> None:
    """It may lead to whatever somebody wants to have read; a hard link is counted."""
    path, link, hard = site.image("disk"), site.disks / "link", site.disks / "hard"
    link.symlink_to(path)
    hard.hardlink_to(path)
    site.scene.define("guest", [disk_xml(link), disk_xml(hard, "vdb")])
    found = survey(site.scene.connection)
    file = found.files[str(link)]

    assert (True, "file", None) == (file.link, file.kind, file.header)
    assert (False, 2) == (found.files[str(hard)].link, found.files[str(hard)].links)
    assert {str(link), str(hard)} == set(found.same(str(link)))
    assert ("/elsewhere",) == found.same("/elsewhere")


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket"])
def test_what_is_no_image_is_not_waited_for(site: Site, kind: str) -> None:
    """A pipe that nobody writes to would be waited for without end."""
    path = site.disks / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        os.mknod(path, 0o140600)
    site.scene.define("guest", [disk_xml(path)])

    assert "other" == survey(site.scene.connection).files[str(path)].kind


def test_a_device_is_an_image(site: Site, tmp_path: Path) -> None:
    """Through the links that LVM and udev make; its header is read if it is qcow2."""
    image = site.scene.overlay(tmp_path / "image")
    device = run("losetup", "--find", "--show", "--read-only", image).strip()
    try:
        link = site.disks / "lv"
        link.symlink_to(device)
        xml = disk_xml(link).replace("type='file'", "type='block'").replace("file=", "dev=")
        site.scene.define("guest", [xml])
        file = survey(site.scene.connection).files[str(link)]
    finally:
        run("losetup", "--detach", device)

    assert ("block", True) == (file.kind, file.link)
    assert str(site.scene.base) == file.backing


def test_attributes_that_libvirt_remembers_owners_in_are_told(site: Site) -> None:
    """While a guest runs they are there."""
    domain, path = site.file_guest()
    domain.create()
    file = survey(site.scene.connection).files[str(path)]

    assert "trusted.libvirt.security.ref_dac" in file.remembered


def test_a_directory_is_what_the_file_system_says(site: Site) -> None:
    """Its file system, its space, the inodes in it, and who may search it."""
    path = site.image("disk")
    extra = site.libvirtd.directory / "extra"
    extra.mkdir()
    found = survey(site.scene.connection, directories=[str(extra), "/no/such"]).directories
    pool = found[str(site.disks)]
    room = os.statvfs(site.disks)

    assert {str(site.disks), str(extra), "/no/such"} == set(found)
    assert (site.disks.stat().st_dev, room.f_frsize * room.f_blocks > pool.free) == (
        pool.device,
        True,
    )
    assert pool.file_system == run("findmnt", "-n", "-o", "FSTYPE", "-T", site.disks).strip()
    assert {"disk": path.stat().st_ino} == pool.entries
    assert (False, (), "") == (pool.read_only, pool.closed, pool.error)
    assert "No such file or directory" == found["/no/such"].error


def test_directories_that_qemu_may_not_search_are_told(site: Site) -> None:
    """By the user that libvirt's capabilities say it runs as; those above it count too."""
    site.disks.chmod(0o700)
    site.scene.instances.chmod(0o744)
    closed = survey(site.scene.connection).directories[str(site.disks)].closed
    assert (str(site.disks), str(site.scene.instances)) == closed

    os.chown(site.disks, 64055, 0)
    site.scene.instances.chmod(0o711)
    assert () == survey(site.scene.connection).directories[str(site.disks)].closed


def test_a_directory_behind_a_link_is_not_looked_at(site: Site) -> None:
    """It could be another one by the time something is moved there."""
    link = site.libvirtd.directory / "link"
    link.symlink_to(site.disks)
    found = survey(site.scene.connection, directories=[str(link)]).directories[str(link)]

    assert ("it is a symbolic link", {}) == (found.error, found.entries)


def test_surveying_changes_nothing(site: Site) -> None:
    """No image is touched, not even the time of its last change."""
    domain, path = site.file_guest()
    xml = domain.XMLDesc()
    images = (path, site.scene.base, site.disks)

    def facts() -> list[tuple[int, ...]]:
        found = [each.lstat() for each in images]
        return [(*each[:7], each.st_mtime_ns, each.st_ctime_ns) for each in found]

    before = facts()
    survey(site.scene.connection)

    assert before == facts()
    assert xml == domain.XMLDesc()


# Reading a header.


def qcow2(*arguments: str | Path, at: Path) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *arguments, at, "1M"], check=True)
    return at


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_headers_of_both_versions_are_read(tmp_path: Path, compat: str) -> None:
    """The backing file and its declared format, as qemu-img wrote them."""
    base = qcow2("-o", f"compat={compat}", at=tmp_path / "base")
    overlay = ("-o", f"compat={compat}", "-b", base, "-F", "qcow2")

    assert Backing(None, None) == backing_of(str(base))
    assert Backing(str(base), "qcow2") == backing_of(str(qcow2(*overlay, at=tmp_path / "top")))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("base", "/images/base"),
        ("../base", "/base"),
        ("file:base", "/images/base"),
        ("file:/srv//base", "/srv/base"),
        ("/base", "/base"),
        ("nbd://host/export", None),
        ('json:{"driver":"raw"}', None),
        (None, None),
    ],
)
def test_a_backing_file_is_named_relative_to_its_image(name: str | None, path: str | None) -> None:
    """As QEMU resolves it; what is no path is None."""
    assert path == File("/images/disk", header=Backing(name, "raw")).backing


@pytest.mark.parametrize(
    "content",
    [b"", b"QFI", b"QFI\xfb", b"\0" * 512, b"QFI\xfb" + struct.pack(">I", 4) + b"\0" * 500],
    ids=["empty", "short", "magic", "raw", "version"],
)
def test_what_is_no_qcow2_has_no_header(tmp_path: Path, content: bytes) -> None:
    """None, and no error."""
    path = tmp_path / "image"
    path.write_bytes(content)

    assert None is backing_of(str(path))


@given(st.binary(max_size=120), st.integers(2, 3), st.integers(0, 1 << 64), st.integers(0, 1 << 32))
@settings(deadline=None)
def test_any_bytes_are_read_within_bounds(
    tail: bytes, version: int, offset: int, length: int
) -> None:
    """A header may lie about where things are; the answer is None or short, and no error."""
    head = struct.pack(">4sIQI", b"QFI\xfb", version, offset % (1 << 64), length % (1 << 32))
    with tempfile.NamedTemporaryFile() as image:
        image.write(head + tail)
        image.flush()
        found = backing_of(image.name)

    assert found is None or len(found.file or "") <= 1023


def test_a_link_is_no_way_to_a_header(tmp_path: Path) -> None:
    """It is refused by the kernel, whatever was seen before."""
    link = tmp_path / "link"
    link.symlink_to(qcow2(at=tmp_path / "image"))

    with pytest.raises(OSError, match="symbolic links"):
        backing_of(str(link))


# Together with preflight.


def concerns(site: Site, name: str) -> Iterator[tuple[str, str]]:
    """What preflight says of a domain that would move into the pool."""
    found: Survey = survey(site.scene.connection, [name])
    (guest,) = found.guests
    made = plan(guest.document, found.host, relocate={None: POOL})
    for each in refusals(judge(made, guest, found)):
        yield each.id, each.target


def test_preflight_of_real_guests(site: Site) -> None:
    """A guest that is ready, and others each with one thing in its way."""
    expected = {
        "ready": [],
        "running": [("running", "")],
        "saved": [("managed-save", "")],
        "snapshot": [("snapshots", "")],
        "external": [("external-snapshots", "")],
        "shared": [("path-shared", "vda")],
        "taken": [("volume-taken", "vda")],
        "linked": [("hard-link", "vda")],
    }
    domains = {name: site.scene.nova_guest(name) for name in expected}
    image = {name: Path(site.scene.addresses(domains[name])[0][1]) for name in expected}
    domains["running"].create()
    domains["saved"].create()
    domains["saved"].managedSave(0)
    domains["snapshot"].snapshotCreateXML(SNAPSHOT.format(""))
    domains["external"].snapshotCreateXML(
        SNAPSHOT.format(EXTERNAL.format(image["external"].with_name("disk.s"))),
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY,
    )
    site.scene.define("sharing", [disk_xml(image["shared"])])
    (site.disks / f"{domains['taken'].UUIDString()}_disk").touch()
    image["linked"].with_name("another").hardlink_to(image["linked"])

    assert expected == {name: list(concerns(site, name)) for name in expected}


def test_documents_are_libvirts_own(site: Site) -> None:
    """A document that the survey gives can go back into libvirt."""
    site.file_guest()
    guest = guest_of(site, secure=True)
    assert isinstance(guest.document, Document)
    site.scene.connection.defineXML(guest.document.text)
