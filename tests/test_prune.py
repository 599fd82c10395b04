"""A cache on a host: read through a real libvirtd, and images removed by it.

Rules
- Images, headers, locks and guests are real; what is old was made so by its time of change.
- What may not be removed is looked for on the disk, not only in what is said.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable

import libvirt
import pytest
from cached import CachedHost
from scene import POOL as DISKS
from scene import disk_xml, run

from xmlkit import prune
from xmlkit.cache import name_of_image
from xmlkit.prune import POOL, CacheError
from xmlkit.testing import Libvirtd

A, B, C = (name_of_image(letter) for letter in "abc")
UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
# Imports first: the interpreter may be where nobody else may enter.
AS_NOBODY = """
import json, os, sys
import libvirt
from xmlkit import cache, prune
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(json.dumps(cache.as_data(prune.read(libvirt.open(sys.argv[1])))))
"""


@pytest.fixture
def host(libvirtd: Libvirtd) -> CachedHost:
    return CachedHost(libvirtd)


# What is used.


def test_a_download_is_a_volume_after_one_look(host: CachedHost) -> None:
    """What came behind libvirt's back is found, and what went is not."""
    host.old(A)
    assert ("remove", "cache-unused") == host.verdict(A)

    (host.cache / A).unlink()
    host.old(B)

    assert {B, host.base.name} == {each.name for each in host.read().bases}


@pytest.mark.parametrize("legacy", [True, False])
def test_volumes_and_files_in_instance_directories_count_alike(
    host: CachedHost, legacy: bool
) -> None:
    """A base stays in use when its disk moves to a pool."""
    image = host.old(A)
    own = host.old(B)
    if legacy:
        disk = host.over(host.instances / UUID / "disk", image)
        host.define("guest", [disk_xml(disk)], UUID)
    else:
        host.volume_guest("guest", image)

    assert ("keep", "cache-used") == host.verdict(A)
    assert ("remove", "cache-unused") == host.verdict(own.name)
    (use,) = host.of(A).used_by
    assert ("guest", "vda", "") == (use.domain, use.target, use.where)


def test_a_chain_goes_through_other_images_to_the_cache(host: CachedHost) -> None:
    """Three levels, over two directories, and a relative name."""
    base = host.old(A)
    middle = host.over(host.libvirtd.directory / "middle.qcow2", base)
    top = host.libvirtd.directory / "top.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", top)
    host.define("guest", [disk_xml(top)])

    (use,) = host.of(A).used_by

    assert [str(top), str(middle), str(base)] == [image.path for image in use.images]


def test_a_header_on_a_raw_disk_pins_nothing(host: CachedHost) -> None:
    """In a pool that libvirt has probed, and in an instance's directory."""
    base = host.old(A)
    for number, place in enumerate((host.instances / "disks", host.instances / UUID)):
        disk = host.over(place / (f"{UUID}_disk" if number == 0 else "disk"), base)
        host.define(f"guest-{number}", [disk_xml(disk, format="raw")])
    host.connection.storagePoolLookupByName(DISKS).refresh()

    assert ("remove", "cache-unused") == host.verdict(A)


def test_a_running_guest_holds_what_its_definition_has_left(host: CachedHost) -> None:
    """Its persistent XML has another disk by now; QEMU has the old one open."""
    base, other = host.old(A), host.old(B)
    flat = host.flat(host.libvirtd.directory / "boot.raw")
    old, new = (
        host.over(host.libvirtd.directory / name, image)
        for name, image in (("old.qcow2", base), ("new.qcow2", other))
    )
    domain = host.define("guest", [disk_xml(flat, format="raw"), disk_xml(old, "vdb")], UUID)
    host.start(domain)
    host.define("guest", [disk_xml(flat, format="raw"), disk_xml(new, "vdb")], UUID)

    assert ("keep", "cache-used") == host.verdict(A)
    assert ("keep", "cache-used") == host.verdict(B)
    assert ["live"] == [use.where for use in host.of(A).used_by]
    host.stop(domain)
    assert ("remove", "cache-unused") == host.verdict(A)


def test_a_snapshot_holds_what_its_domain_has_left(host: CachedHost) -> None:
    """Its metadata has the disk as it was; without it the image is free."""
    base = host.old(A)
    disk = host.over(host.libvirtd.directory / "disk.qcow2", base)
    domain = host.define("guest", [disk_xml(disk)], UUID)
    snapshot = domain.snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>")
    host.define(
        "guest", [disk_xml(host.flat(host.libvirtd.directory / "f.raw"), format="raw")], UUID
    )

    assert ["snapshot before"] == [use.where for use in host.of(A).used_by]
    snapshot.delete(2)  # VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY
    assert ("remove", "cache-unused") == host.verdict(A)


def test_a_managed_save_holds_what_its_domain_has_left(host: CachedHost) -> None:
    """What was saved runs on from it."""
    base = host.old(A)
    flat = host.flat(host.libvirtd.directory / "boot.raw")
    disk = host.over(host.libvirtd.directory / "disk.qcow2", base)
    domain = host.define("guest", [disk_xml(flat, format="raw"), disk_xml(disk, "vdb")], UUID)
    host.start(domain)
    domain.managedSave()
    host.define("guest", [disk_xml(flat, format="raw")], UUID)

    assert ["managed save"] == [use.where for use in host.of(A).used_by]


# Disks of no domain here.


def test_another_hosts_disks_in_sight_hold_their_images(host: CachedHost) -> None:
    """In Nova's directories by disk.info, else by their headers; in pools by libvirt's look."""
    said, by_header, resized, in_pool = (host.old(name_of_image(str(n))) for n in range(4))
    directories = [host.instances / str(uuid.uuid4()) for _ in range(3)]
    disk = host.over(directories[0] / "disk", said)
    (directories[0] / "disk.info").write_text(json.dumps({str(disk): "qcow2"}))
    host.over(directories[1] / "disk.local", by_header)
    moved = directories[2].with_name(f"{directories[2].name}_resize")
    host.over(moved / "disk", resized)
    (moved / "disk.info").write_text(json.dumps({f"{directories[2]}/disk": "qcow2"}))
    host.over(host.instances / "disks" / f"{uuid.uuid4()}_disk", in_pool)

    assert [
        ("cache-used", "disk.info"),
        ("cache-undeclared", "undeclared"),
        ("cache-used", "disk.info"),
        ("cache-undeclared", "undeclared"),
    ] == [
        (found.reason.id, found.used_by[0].where)
        for found in (host.of(each.name) for each in (said, by_header, resized, in_pool))
    ]


def test_what_disk_info_calls_raw_pins_nothing(host: CachedHost) -> None:
    """Nor does it if a header was written to it, or if it is what Nova keeps beside the disks."""
    base = host.old(A)
    directory = host.instances / UUID
    disk = host.over(directory / "disk", base)
    (directory / "disk.info").write_text(json.dumps({str(disk): "raw"}))
    host.over(directory / "disk.config", base)
    host.over(directory / "console.log", base)

    assert ("remove", "cache-unused") == host.verdict(A)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"a": {}}'])
def test_a_disk_info_that_is_none_declares_nothing(host: CachedHost, text: str) -> None:
    """The header then keeps what it names."""
    base = host.old(A)
    directory = host.instances / UUID
    host.over(directory / "disk", base)
    (directory / "disk.info").write_text(text)

    assert ("keep", "cache-undeclared") == host.verdict(A)


def test_two_hosts_share_a_cache(host: CachedHost, start_libvirtd: Callable[..., Libvirtd]) -> None:
    """Each sees the other's disks in the directories that both have, and neither its domains."""
    (host.cache / host.base.name).unlink()
    other = libvirt.open(start_libvirtd(name="other").uri)
    for name, path in ((POOL, host.cache), (DISKS, host.instances / "disks")):
        xml = f"<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"
        other.storagePoolDefineXML(xml).create()
    host.volume_guest("guest", host.old(A))
    legacy = host.over(host.instances / UUID / "disk", host.old(B))
    (legacy.parent / "disk.info").write_text(json.dumps({str(legacy): "qcow2"}))
    host.define("legacy", [disk_xml(legacy)], UUID)
    elsewhere = host.over(host.libvirtd.directory / "other.qcow2", host.old(C))
    domain = other.defineXML(host.define("only", [disk_xml(elsewhere)]).XMLDesc())
    host.connection.lookupByName("only").undefine()

    here = {base.name: base.reason.id for base in host.read().bases}
    there = {base.name: base.reason.id for base in prune.read(other).bases}

    assert {A: "cache-used", B: "cache-used", C: "cache-unused"} == here
    assert {A: "cache-undeclared", B: "cache-used", C: "cache-used"} == there
    assert "cache-protected" == host.of(C, protected={C: "the other host"}).reason.id
    domain.undefine()


# What cannot be read.


def test_a_missing_image_keeps_all_until_it_is_given_up(host: CachedHost) -> None:
    """Its file system may only not be mounted."""
    host.old(A)
    host.define("guest", [disk_xml(host.libvirtd.directory / "away" / "disk")])

    assert ("keep", "cache-doubt") == host.verdict(A)
    assert ("remove", "cache-unused") == host.verdict(A, accept=["cache-broken"])
    (broken,) = host.read().broken
    assert broken.fault is not None
    assert f"{host.libvirtd.directory}/away/disk is missing" == broken.fault.message


def test_a_missing_base_is_told_with_its_guests(host: CachedHost) -> None:
    """They will not start; other images are judged as ever."""
    host.volume_guest("guest", host.old(A))
    host.old(B)
    (host.cache / A).unlink()

    assert ("missing", "cache-missing") == host.verdict(A)
    assert "guest vda cannot start without it" == host.of(A).reason.message
    assert ("remove", "cache-unused") == host.verdict(B)


def test_no_link_is_followed_to_a_header(host: CachedHost) -> None:
    """A qcow2 disk behind a link: nobody knows what it stands on, so nothing goes."""
    base = host.old(A)
    disk = host.over(host.libvirtd.directory / "real.qcow2", base)
    link = host.libvirtd.directory / "link.qcow2"
    link.symlink_to(disk)
    host.define("guest", [disk_xml(link)])
    host.old(B)

    assert ("keep", "cache-doubt") == host.verdict(B)
    assert "it is a symbolic link" in host.of(B).reason.message


def test_without_permission_libvirts_word_has_to_do(host: CachedHost) -> None:
    """As Nova's user: a qcow2 volume's backing file by libvirt's probe, a raw one's never."""
    host.volume_guest("guest", host.old(A))
    fake = host.over(host.instances / "disks" / f"{UUID}_disk", host.old(B))
    host.define("fake", [disk_xml(fake, format="raw")])
    late = host.over(host.instances / "disks" / "late", host.old(C))
    host.define("late", [disk_xml(late)])
    for disk in (host.instances / "disks").iterdir():
        disk.chmod(0o600)
    (host.libvirtd.directory / "run/libvirt/libvirt-sock").chmod(0o777)

    words = [sys.executable, "-c", AS_NOBODY, host.libvirtd.uri]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stderr
    found = {each["name"]: each["id"] for each in json.loads(done.stdout)["bases"]}
    assert ("cache-used", "cache-unused", "cache-used") == (found[A], found[B], found[C])


def test_a_format_that_xmlkit_does_not_read_is_libvirts_to_tell(host: CachedHost) -> None:
    """If it takes the image for what is declared; else nobody knows what it stands on."""
    disks = host.instances / "disks"
    disk = disks / "disk.qed"
    base = host.old(A)
    run("qemu-img", "create", "-q", "-f", "qed", "-b", base, "-F", "raw", disk, "1M")
    host.connection.storagePoolLookupByName(DISKS).refresh()
    domain = host.define("guest", [disk_xml(disk, format="qed")])
    host.old(B)
    assert {A: "cache-used", B: "cache-unused"} == host.reasons(A, B)

    disk.write_bytes(b"\0" * 4096)
    host.connection.storagePoolLookupByName(DISKS).refresh()
    assert {A: "cache-doubt", B: "cache-doubt"} == host.reasons(A, B)
    assert "declared as qed, and libvirt takes it for raw" in host.of(B).reason.message

    disk.unlink()
    behind = host.libvirtd.directory / "behind"
    run("qemu-img", "create", "-q", "-f", "qed", "-b", base, "-F", "raw", behind, "1M")
    disk.symlink_to(behind)
    host.connection.storagePoolLookupByName(DISKS).refresh()
    assert {A: "cache-doubt", B: "cache-doubt"} == host.reasons(A, B)
    domain.undefine()


def test_an_instance_that_is_being_resized_is_found(host: CachedHost) -> None:
    """Nova keeps its disks in {uuid}_resize, and the domain still names the directory of before."""
    disk = host.over(host.instances / UUID / "disk", host.old(A))
    host.define("guest", [disk_xml(disk)], UUID)
    disk.parent.rename(host.instances / f"{UUID}_resize")
    host.old(B)

    assert {A: "cache-used", B: "cache-unused"} == host.reasons(A, B)
    assert () == host.read().broken


@pytest.mark.parametrize("defined", [True, False])
def test_a_volume_that_waits_for_a_resize_is_found(host: CachedHost, defined: bool) -> None:
    """Its domain still names the pool, or has a new disk (it is on this host), or is none of ours;
    a raw one there pins nothing, though a guest has written a header to it."""
    host.old(B)
    domain = host.volume_guest("guest", host.old(A))
    own = domain.UUIDString()
    kept = host.instances / f"{own}_resize"
    kept.mkdir()
    place = host.instances / "disks"
    (place / f"{own}_disk").rename(kept / f"{own}_disk")
    said = {str(place / f"{own}_disk"): "qcow2", str(place / f"{own}_disk.eph0"): "raw"}
    (kept / "disk.info").write_text(json.dumps(said))
    host.over(kept / f"{own}_disk.eph0", host.cache / B)
    if not defined:
        domain.undefine()

    assert {A: "cache-used", B: "cache-unused"} == host.reasons(A, B)


# Removing.


def test_an_unused_image_is_removed_by_libvirt(host: CachedHost) -> None:
    """It is gone from the disk and from the pool."""
    image = host.old(A)

    assert "removed" == host.removed(A).state

    assert not image.exists()
    pool = host.connection.storagePoolLookupByName(POOL)
    assert [host.base.name] == [volume.name() for volume in pool.listAllVolumes()]


@pytest.mark.parametrize("how", ["touched", "replaced", "link", "gone"])
def test_what_is_not_what_was_judged_is_kept(host: CachedHost, how: str) -> None:
    """Nova touches an image when it uses it."""
    image = host.old(A)
    cache = host.read()
    elsewhere = host.libvirtd.directory / "elsewhere"
    elsewhere.write_bytes(b"precious")
    if how == "touched":
        os.utime(image)
    else:
        image.unlink()
    if how == "replaced":
        image.write_bytes(b"new")
    if how == "link":
        image.symlink_to(elsewhere)

    found = host.removed(A, cache)

    ids = {"touched": "image-changed", "replaced": "image-changed", "link": "symlink"}
    assert ("kept", ids.get(how, "no-image")) == (found.state, found.id)
    assert (how != "gone") == os.path.lexists(image)
    assert b"precious" == elsewhere.read_bytes()


def test_an_image_that_a_qemu_has_open_is_kept(host: CachedHost) -> None:
    """Of a guest that this libvirt does not know: QEMU's own lock is looked at."""
    image = host.old(A)
    cache = host.read()
    disk = host.over(host.libvirtd.directory / "other.qcow2", image)
    script = f"qemu-io -f qcow2 {disk}"
    with subprocess.Popen(
        ["sh", "-c", f"exec {script}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"length\n")
        process.stdin.flush()
        process.stdout.readline()  # it is open

        found = host.removed(A, cache)

        assert ("kept", "image-in-use") == (found.state, found.id)
        process.stdin.close()
    assert image.exists()
    assert "removed" == host.removed(A, cache).state


def test_novas_lock_is_waited_for(host: CachedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Nova fetches or removes an image it is not removed; the lock stays Nova's to open."""
    monkeypatch.setattr(prune, "_LOCK_SECONDS", 0.2)
    image = host.old(A)
    cache = host.read()
    locks = host.instances / "locks"
    locks.mkdir()
    os.chown(locks, 65534, 65534)
    holder = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", holder, str(locks / f"nova-{A}")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert b"held\n" == process.stdout.readline()
        assert ("kept", "image-in-use") == host.removed(A, cache)[1:3]
        assert image.exists()
        process.stdin.close()

    assert "removed" == host.removed(A, cache).state
    host.old(B)
    assert "removed" == host.removed(B).state
    made = (locks / f"nova-{B}").stat()
    assert (65534, 65534) == (made.st_uid, made.st_gid)
    with (locks / f"nova-{B}").open("a") as again:
        fcntl.lockf(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


# Which pool.


def test_a_pool_that_is_no_cache_is_refused(host: CachedHost) -> None:
    """One that is not there, not active, or behind a link; each with what to do."""
    with pytest.raises(CacheError, match="xmlkit pool create nova-base-images-pool"):
        host.read(name="nowhere")
    pool = host.connection.storagePoolLookupByName(POOL)
    pool.destroy()
    with pytest.raises(CacheError, match=f"virsh pool-start {POOL}"):
        host.read()
    pool.create()
    moved = host.libvirtd.directory / "moved"
    host.cache.rename(moved)
    (host.instances / "_base").symlink_to(moved)
    with pytest.raises(CacheError, match="symbolic link"):
        host.read()


def test_a_pool_is_found_by_its_directory(host: CachedHost) -> None:
    """Whatever its name is, and whether it is active or not."""
    assert POOL == prune.pool_at(host.connection, f"{host.cache}/")
    host.connection.storagePoolLookupByName(POOL).destroy()
    assert POOL == prune.pool_at(host.connection, str(host.cache))
    assert None is prune.pool_at(host.connection, "/nowhere")
