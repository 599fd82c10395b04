"""What xmlkit says of libvirt's versions, on the libvirtd and QEMU of four releases of Debian.

- The table of capabilities is not believed: each entry is tried on each version, and one that is
  not tried fails a test here.
- The core: a guest that boots from its disk is moved onto a pool and back, by xmlkit's own plan and
  transformation, and boots at every instant in between; and by `xmlkit apply` and `rollback`.
- A libvirt that gains or loses an ability makes these tests fail: then the table is to be changed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest
from chroots import Release, version
from loops import loop_device, mounted
from scene import POOL, Scene, disk_xml, run

from xmlkit import Document, Host, parse_host, transform, validate
from xmlkit.compare import lost
from xmlkit.host import CAPABILITIES, version_text
from xmlkit.observe import observe
from xmlkit.plan import plan
from xmlkit.shell import script
from xmlkit.testing import boot_sector
from xmlkit.volumes import (
    Creation,
    Target,
    VolumeError,
    blank,
    commands,
    copy,
    domain_snapshot,
    overlay,
    snapshot,
)

VOLUME = """\
    <disk type='volume' device='disk'>
      <driver name='qemu' type='{format}'/>
      <source pool='{pool}' volume='{volume}'>{inside}</source>
      <target dev='vda' bus='virtio'/>
    </disk>"""
SLICES = "<slices><slice type='storage' offset='0' size='1048576'/></slices>"


def volume_xml(volume: str, pool: str = POOL, format: str = "raw", inside: str = "") -> str:
    """A volume disk."""
    return VOLUME.format(pool=pool, volume=volume, format=format, inside=inside)


def observed(scene: Scene) -> Host:
    """The host as xmlkit observes it."""
    return parse_host(observe(scene.connection))


def with_volume(scene: Scene) -> Path:
    """Make a volume `v` in the pool, raw, that boots; return its path."""
    path = scene.flat(scene.instances / "disks/v")
    scene.connection.storagePoolLookupByName(POOL).refresh()
    return path


def boots(scene: Scene, disk: str) -> bool:
    """Whether a guest with this disk boots; False if libvirt refuses to define or start it."""
    try:
        domain = scene.define("guest", [disk])
        scene.boots(domain)
    except libvirt.libvirtError:
        return False
    domain.undefine()
    return True


def valid(scene: Scene, release: Release, disk: str) -> bool:
    """Whether the release's own schema takes a guest with this disk; its libvirtd must agree."""
    domain = scene.define("guest", [disk])
    text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    domain.undefine()
    verdict = not validate(Document.parse(text), release.schemas)
    code = 0
    try:
        scene.connection.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE).undefine()
    except libvirt.libvirtError as error:
        code = error.get_error_code()
    assert code == (0 if verdict else libvirt.VIR_ERR_XML_INVALID_SCHEMA)
    return verdict


def inside(scene: Scene, *command: object) -> None:
    """Run a command of this machine where libvirtd's mounts are."""
    run("nsenter", "--target", scene.libvirtd.pid, "--mount", *command)


# The releases.


def test_each_release_is_the_version_that_it_stands_for(
    release: Release, record_property: Callable[[str, object], None]
) -> None:
    """Its libvirtd is its package's; sid is newer than the others, and is named as it is found."""
    libversion = Scene(release()).connection.getLibVersion()
    found = version_text(libversion)
    record_property("libvirt", found)

    assert found == version(release.root, "libvirt-daemon").partition("-")[0]
    known = {"bullseye": "7.0.0", "bookworm": "9.0.0", "trixie": "11.3.0"}
    assert known.get(release.suite, found) == found
    assert release.suite in known or libversion > 11_003_000


# The core.


def test_a_guest_moves_onto_a_pool_and_back(release: Release) -> None:
    """Link, refresh, define, unlink: it boots before and after each, and after the way back."""
    scene = Scene(release())
    domain = scene.nova_guest("guest")
    scene.boots(domain)
    before = scene.document(domain)

    made = plan(before, observed(scene), relocate={None: POOL})
    (transition,) = made.transitions
    assert ("move", "volume", "qcow2", True) == (
        *(transition.action, transition.disk_type, transition.format, transition.verified),
    )
    after = transform(before, made)
    assert ((), ()) == (validate(before, release.schemas), validate(after, release.schemas))

    path, volume = Path(transition.before.path or ""), Path(transition.after.path or "")
    os.link(path, volume)
    scene.boots(domain)
    scene.connection.storagePoolLookupByName(POOL).refresh()
    scene.boots(domain)
    scene.connection.defineXML(after.text)
    scene.boots(domain)
    path.unlink()
    scene.boots(domain)
    assert [("volume", POOL, volume.name)] == scene.addresses(domain)

    os.link(volume, path)
    scene.boots(domain)
    scene.connection.defineXML(transform(scene.document(domain), made.inverse()).text)
    scene.boots(domain)
    volume.unlink()
    scene.boots(domain)
    assert before.text == scene.document(domain).text


def xmlkit(scene: Scene, command: str, *arguments: str) -> Any:
    """What a command says as JSON; it has to succeed."""
    program = Path(sys.executable).with_name("xmlkit")
    options = ("--state-dir", scene.libvirtd.directory / "state", "--format", "json", "--yes")
    connect = ("--connect", scene.libvirtd.uri)
    return json.loads(run(program, command, *connect, *options, *arguments))


def test_apply_and_rollback(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands do the same: two guests go into the pool and come back, and boot after each."""
    monkeypatch.setenv("XMLKIT_SCHEMAS", str(release.schemas))
    scene = Scene(release())
    guests = [scene.nova_guest("overlay"), scene.nova_guest("raw", raw=True)]
    texts = [scene.document(domain).text for domain in guests]
    applied = xmlkit(scene, "apply", "--all", "--relocate", POOL)
    for domain in guests:
        scene.boots(domain)
        assert [("volume", POOL, f"{domain.UUIDString()}_disk")] == scene.addresses(domain)
    (id,) = {each["transition"] for each in applied["domains"]}
    xmlkit(scene, "rollback", id)
    for domain in guests:
        scene.boots(domain)

    assert texts == [scene.document(domain).text for domain in guests]


# The table of capabilities.


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_each_capability_is_tried(capability: str) -> None:
    """By a test that is named for it, below."""
    assert f"test_{capability.replace('-', '_')}" in globals()


def test_volume_disks(release: Release) -> None:
    """Where the table has volume disks, the schema has, and a guest boots from one."""
    scene = Scene(release())
    with_volume(scene)
    disk = volume_xml("v")
    can = observed(scene).can("volume-disks")

    assert (can, can) == (valid(scene, release, disk), boots(scene, disk))


def test_volume_disk_drivers(release: Release) -> None:
    """The driver is observed as what it is, and the table says whether its guests boot."""
    scene = Scene(release())
    with_volume(scene)
    host = observed(scene)

    assert "qemu" == host.driver
    assert host.can("volume-disk-drivers", host.driver) is boots(scene, volume_xml("v"))


def with_directory(scene: Scene, target: Path) -> tuple[str, Path, str]:
    """A directory, with what stands in a pool's source, its target and the name of a volume."""
    scene.flat(target / "v")
    return "", target, "v"


def with_file_system(scene: Scene, target: Path, device: Path) -> tuple[str, Path, str]:
    """A file system on a device, for libvirt to mount."""
    content = scene.instances / "content"
    scene.flat(content / "v")
    target.mkdir()
    run("mkfs.ext4", "-q", "-F", "-d", content, device)
    inside(scene, "cp", "-a", device, scene.libvirtd.directory / "dev")
    return f"<device path='{device}'/><format type='ext4'/>", target, "v"


def with_partition(scene: Scene, device: Path) -> tuple[str, Path, str]:
    """A device with one partition; parted tells the kernel, which need not know the table."""
    run("parted", "--script", device, "mklabel", "gpt", "mkpart", "one", "1MiB", "3MiB")
    partition = device.with_name(f"{device.name}p1")
    with partition.open("wb") as file:
        file.write(boot_sector())
        file.flush()
        os.fsync(file.fileno())
    inside(scene, "cp", "-a", device, partition, scene.libvirtd.directory / "dev")
    return f"<device path='{device}'/><format type='gpt'/>", Path("/dev"), partition.name


@pytest.mark.parametrize("pool_type", ["dir", "fs", "disk"])
def test_volume_disk_pools(release: Release, pool_type: str) -> None:
    """Of each type of pool that can be had here, the table says whether a guest boots from it.

    Of rbd, which is refused, see test_cluster.py.
    """
    with loop_device(16 << 20) as device:
        scene = Scene(release())
        target = scene.libvirtd.directory / "target"
        if pool_type == "dir":
            source, target, volume = with_directory(scene, target)
        elif pool_type == "fs":
            source, target, volume = with_file_system(scene, target, device)
        else:
            source, target, volume = with_partition(scene, device)
        pool = scene.connection.storagePoolDefineXML(
            f"<pool type='{pool_type}'><name>pool</name><source>{source}</source>"
            f"<target><path>{target}</path></target></pool>"
        )
        pool.create()
        assert [volume] == [name for name in pool.listVolumes() if name != "lost+found"]
        can = observed(scene).can("volume-disk-pools", pool_type)
        assert can is boots(scene, volume_xml(volume, "pool"))
        scene.libvirtd.stop()  # it has the device open, or mounted


def test_volume_slices(release: Release) -> None:
    """Where the table has slices in a volume source, the schema has, and libvirtd's check takes."""
    scene = Scene(release())
    with_volume(scene)
    disk = volume_xml("v", inside=SLICES)

    assert observed(scene).can("volume-slices") is valid(scene, release, disk)


# Volumes: what comes out is looked at by qemu-img and by the file system, not by libvirt.

PLAIN = """\
<volume>
  <name>new</name><capacity>1048576</capacity><allocation>0</allocation>
  <target><format type='{format}'/>{target}</target>
  {more}
</volume>
"""
PHRASE = """\
<secret ephemeral='yes' private='yes'>
  <uuid>6f1f9f0e-6a3c-4c0a-9d62-6a8c0f9f9a10</uuid>
  <usage type='volume'><volume>new</volume></usage>
</secret>
"""
LUKS = """\
<encryption format='luks'>
  <secret type='passphrase' uuid='6f1f9f0e-6a3c-4c0a-9d62-6a8c0f9f9a10'/>
</encryption>
"""
QCOW2 = "<compat>1.1</compat>"


def created(
    scene: Scene,
    format: str = "qcow2",
    target: str = QCOW2,
    more: str = "",
    *,
    pool: str = POOL,
    source: str = "",
    flags: int = 0,
) -> Path | None:
    """The path of a volume that libvirt made, of a volume `source` or anew; None if it refused."""
    found = scene.connection.storagePoolLookupByName(pool)
    xml = PLAIN.format(format=format, target=target, more=more)
    try:
        if source:
            volume = found.createXMLFrom(xml, found.storageVolLookupByName(source), flags)
        else:
            volume = found.createXML(xml, flags)
    except libvirt.libvirtError:
        return None
    return Path(volume.path())


def info(path: Path | None, format: str = "qcow2") -> dict[str, Any]:
    """What qemu-img says of a volume; nothing if there is none."""
    if path is None:
        return {}
    said = json.loads(run("qemu-img", "info", "-f", format, "--output=json", path))
    return {**said, **said.get("format-specific", {}).get("data", {})}


@pytest.fixture
def scene(release: Release) -> Scene:
    """A host of the release, with the pool of the scene."""
    return Scene(release())


def test_create_volumes(scene: Scene) -> None:
    """In a directory, that is; of a file system on a device libvirt makes the same."""
    assert observed(scene).can("create-volumes", "dir") is (created(scene) is not None)


def test_copy_volumes(scene: Scene) -> None:
    """Byte by byte: what was copied boots."""
    original = with_volume(scene)
    copy = created(scene, "raw", "", source="v")

    assert observed(scene).can("copy-volumes", "dir") is (copy is not None)
    assert copy is not None
    assert original.read_bytes() == copy.read_bytes()


def test_image_volumes(scene: Scene) -> None:
    """They have a format, and a backing file with its own, as asked for."""
    more = f"<backingStore><path>{scene.base}</path><format type='raw'/></backingStore>"
    found = info(created(scene, more=more))

    assert observed(scene).can("image-volumes", "dir")
    assert ("qcow2", str(scene.base), "raw") == (
        *(found["format"], found["backing-filename"], found["backing-filename-format"]),
    )


def test_volume_permissions(scene: Scene) -> None:
    """Owner and mode are those of the XML."""
    asked = "<permissions><mode>0640</mode><owner>65534</owner><group>65534</group></permissions>"
    path = created(scene, "raw", asked)
    assert path is not None
    found = path.stat()
    honoured = (0o640, 65534, 65534) == (found.st_mode & 0o777, found.st_uid, found.st_gid)

    assert observed(scene).can("volume-permissions", "dir") is honoured


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_volume_compat(scene: Scene, compat: str) -> None:
    """Either is made as asked for; without it, the two oldest releases make 0.10."""
    found = info(created(scene, target=f"<compat>{compat}</compat>"))

    assert observed(scene).can("volume-compat") is (compat == found["compat"])


def test_volume_lazy_refcounts(scene: Scene) -> None:
    """The image has the feature."""
    found = info(created(scene, target=f"{QCOW2}<features><lazy_refcounts/></features>"))

    assert observed(scene).can("volume-lazy-refcounts") is found["lazy-refcounts"]


def test_volume_cluster_size(scene: Scene) -> None:
    """It is as asked for, or the usual one, without a word."""
    found = info(created(scene, target=f"{QCOW2}<clusterSize unit='KiB'>128</clusterSize>"))
    can = observed(scene).can("volume-cluster-size")

    assert (128 << 10 if can else 64 << 10) == found["cluster-size"]


def test_volume_extended_l2(scene: Scene) -> None:
    """The image has the feature, or libvirt refuses."""
    found = info(created(scene, target=f"{QCOW2}<features><extended_l2/></features>"))

    assert observed(scene).can("volume-extended-l2") is found.get("extended-l2", False)


def test_volume_nocow(scene: Scene) -> None:
    """libvirt asks qemu-img for it; only btrfs would show more."""
    conf = scene.libvirtd.directory / "etc/libvirt/libvirtd.conf"
    with conf.open("a") as file:
        file.write('log_filters = "1:util.command"\nlog_outputs = "1:stderr"\n')
    scene.libvirtd.restart()
    scene.reopen()
    assert created(scene, target=f"{QCOW2}<nocow/>")
    log = (scene.libvirtd.directory / "libvirtd.log").read_text(errors="replace")

    assert observed(scene).can("volume-nocow") is ("nocow=on" in log)


def test_volume_preallocation(scene: Scene) -> None:
    """The image is as long as its content would be, before there is any."""
    flag = libvirt.VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA
    path = created(scene, flags=flag)
    assert path is not None

    assert observed(scene).can("volume-preallocation") is (path.stat().st_size > 1 << 20)


def test_volume_reflink(release: Release) -> None:
    """On XFS the copy shares the blocks of its source."""
    with mounted("xfs", 300 << 20) as directory:
        directory.chmod(0o755)
        scene = Scene(release(shared=[directory]))
        scene.flat(directory / "v")
        scene.pool("xfs", directory)
        flag = libvirt.VIR_STORAGE_VOL_CREATE_REFLINK
        copy = created(scene, "raw", "", pool="xfs", source="v", flags=flag)
        can = observed(scene).can("volume-reflink")
        scene.libvirtd.stop()

        assert can is (copy is not None)
        assert copy is not None
        assert (directory / "v").read_bytes() == copy.read_bytes()


@pytest.mark.usefixtures("quick_luks")
def test_volume_luks(release: Release, tmp_path: Path) -> None:
    """The image is LUKS, by its first bytes."""
    scene = Scene(release(shared=[tmp_path / "bin"]))
    secret = scene.connection.secretDefineXML(PHRASE)
    secret.setValue(b"a passphrase of these tests")
    path = created(scene, "raw", LUKS)

    assert observed(scene).can("volume-luks") is (
        path is not None and path.read_bytes().startswith(b"LUKS\xba\xbe")
    )


# What xmlkit creates, by its scripts: the release's own virsh and qemu-img run them.

MIB = 1 << 20


def ran(scene: Scene, release: Release, creation: Creation) -> str:
    """What the script complained of when it failed; "" if it ran to its end."""
    daemon = scene.libvirtd.daemon
    words = ("nsenter", f"--target={daemon}", "--mount", "--pid", "chroot", str(release.root))
    done = subprocess.run(
        (*words, "env", f"LIBVIRT_DEFAULT_URI={scene.libvirtd.uri}", "LC_ALL=C", "sh"),
        # there is no udev that would have made it
        input=f"ln -sf /proc/self/fd/0 /dev/stdin\n{script(commands(creation))}",
        capture_output=True,
        text=True,
    )
    return done.stderr or "failed" if done.returncode else ""


def made(scene: Scene, release: Release, creation: Creation) -> Path:
    """The path of a volume that the script made; the document is valid there."""
    assert () == validate(creation.document, release.schemas)
    assert "" == ran(scene, release, creation)
    pool = scene.connection.storagePoolLookupByName(creation.pool)
    volume = pool.storageVolLookupByName(creation.name)
    path = Path(volume.path())
    format = creation.document.root.find("target/format")
    assert format is not None
    # libvirt knows it as it is, and nothing that was said is lost, but what grows
    assert info(path, format.attrib["type"])["virtual-size"] == volume.info()[1]
    dropped = {each.where for each in lost(creation.document, Document.parse(volume.XMLDesc()))}
    assert dropped <= {"/volume/allocation"}
    return path


def with_images(scene: Scene) -> dict[str, Path]:
    """Images of 8 MiB in the pool, by their formats, of one content, half of it holes."""
    disks = scene.instances / "disks"
    raw, qcow2 = disks / "raw", disks / "qcow2"
    raw.write_bytes(b"".join(b"%-511d\n" % number for number in range(8192)))
    os.truncate(raw, 8 * MIB)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
    scene.connection.storagePoolLookupByName(POOL).refresh()
    return {"raw": raw, "qcow2": qcow2}


def same(one: Path, format_one: str, two: Path, format_two: str) -> None:
    """Two images have the same content; what one is longer by is empty."""
    run("qemu-img", "compare", "-f", format_one, "-F", format_two, one, two)


def test_blank_volumes_and_overlays(scene: Scene, release: Release) -> None:
    """Format, compat, size, backing file and allocation are as asked for."""
    host = observed(scene)
    pool = host.by_name[POOL]
    spread: tuple[tuple[str, Any, int, int], ...] = (
        ("raw", "no", 0, MIB),
        ("raw", "full", 8 * MIB, 9 * MIB),
        ("qcow2", "no", 0, MIB),
        ("qcow2", "metadata", 0, 2 * MIB),
        ("qcow2", "full", 8 * MIB, 10 * MIB),
    )
    for format, preallocate, least, most in spread:
        name = f"{format}-{preallocate}"
        path = made(scene, release, blank(host, pool, name, Target(format), 8 * MIB, preallocate))
        found = info(path, format)
        assert (format, 8 * MIB) == (found["format"], found["virtual-size"])
        assert least <= path.stat().st_blocks * 512 <= most, name
        assert format == "raw" or "1.1" == found["compat"]
    for format, image in with_images(scene).items():
        for capacity in (None, 16 * MIB):
            name = f"over-{format}-{capacity}"
            asked = overlay(host, pool, name, Target("qcow2"), str(image), format, capacity)
            path = made(scene, release, asked)
            found = info(path)
            assert ("1.1", str(image), format, capacity or 8 * MIB) == (
                *(found["compat"], found["backing-filename"], found["backing-filename-format"]),
                found["virtual-size"],
            )
            same(path, "qcow2", image, format)
            run("qemu-img", "check", "-f", "qcow2", path)


@pytest.mark.parametrize("source", ["raw", "qcow2"])
def test_copies(scene: Scene, release: Release, source: str) -> None:
    """By createXMLFrom: the same content, flat, and grown as asked for, though libvirt does not."""
    images = with_images(scene)
    host = observed(scene)
    pool = host.by_name[POOL]
    for format in ("raw", "qcow2"):
        for capacity in (None, 16 * MIB):
            asked = copy(
                *(host, pool, f"{format}-{capacity}", Target(format), pool, source, source),
                capacity,
            )
            path = made(scene, release, asked)
            found = info(path, format)
            assert (capacity or 8 * MIB) == found["virtual-size"]
            assert "backing-filename" not in found
            assert format == "raw" or "1.1" == found["compat"]
            same(path, format, images[source], source)


def test_snapshots(scene: Scene, release: Release) -> None:
    """Of an overlay, by the release's own qemu-img: flat, equal, and compressed smaller.

    Debian 11 built its QEMU 5.2 without zstd: there it fails, and the volume is gone.
    """
    base = with_images(scene)["qcow2"]
    host = observed(scene)
    pool = host.by_name[POOL]
    disk = made(scene, release, overlay(host, pool, "disk", Target("qcow2"), str(base), "qcow2"))
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", disk)
    scene.connection.storagePoolLookupByName(POOL).refresh()
    host = observed(scene)
    sizes = {}
    spread: tuple[tuple[str, str, Any], ...] = (
        ("flat-raw", "raw", None),
        ("flat", "qcow2", None),
        ("zlib", "qcow2", "zlib"),
        ("zstd", "qcow2", "zstd"),
    )
    for name, format, compress in spread:
        asked = snapshot(host, pool, name, Target(format), str(disk), "qcow2", 8 * MIB, compress)
        if (release.suite, compress) == ("bullseye", "zstd"):
            assert "zstd" in ran(scene, release, asked)
            assert "zstd" not in scene.connection.storagePoolLookupByName(POOL).listVolumes()
            assert not disk.with_name("zstd").exists()
            continue
        path = made(scene, release, asked)
        found = info(path, format)
        same(path, format, disk, "qcow2")
        assert "backing-filename" not in found
        sizes[name] = path.stat().st_blocks * 512
        if format == "qcow2":
            assert ("1.1", compress or "zlib") == (found["compat"], found["compression-type"])
            run("qemu-img", "check", "-f", "qcow2", path)
    assert max(sizes["zlib"], sizes.get("zstd", 0)) < MIB < 4 * MIB <= sizes["flat"]


def taken(scene: Scene, release: Release, domain: Any, files: dict[str, str]) -> Any:
    """The snapshot `s1` of a domain, taken as xmlkit asks for it."""
    document = domain_snapshot(
        *(observed(scene), scene.document(domain), "s1", files), running=bool(domain.isActive())
    )
    assert () == validate(document, release.schemas)
    return domain.snapshotCreateXML(document.text, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)


@pytest.mark.parametrize("running", [True, False])
def test_domain_snapshots_of_files(scene: Scene, release: Release, running: bool) -> None:
    """The guest goes on in a new image over its disk, the other disk takes no part; it boots."""
    domain = scene.nova_guest("guest", kinds=("disk", "disk.swap"))
    before = scene.addresses(domain)
    disk = Path(before[0][1])
    if running:
        scene.start(domain)
    new = disk.with_name("disk.s1")
    taken(scene, release, domain, {"vda": str(new)})

    assert [("file", str(new)), before[1]] == scene.addresses(domain)
    scene.stop(domain)
    found = info(new)
    assert (str(disk), "qcow2") == (found["backing-filename"], found["backing-filename-format"])
    content = disk.read_bytes()
    scene.boots(domain)
    assert content == disk.read_bytes()


def test_domain_snapshots_of_volumes(scene: Scene, release: Release) -> None:
    """Running, where no data is lost by it: then deleting it makes the disk a volume again.

    Off it is refused everywhere, since libvirt could not delete it.
    """
    path = with_volume(scene)
    domain = scene.define("guest", [volume_xml("v")])
    new = path.with_name("v.s1")
    with pytest.raises(VolumeError, match=r"shut off.*snapshot-disk|lose.*snapshot-disk"):
        taken(scene, release, domain, {"vda": str(new)})
    scene.start(domain)
    if not observed(scene).can("snapshot-volume-disks"):
        with pytest.raises(VolumeError, match=r"lose what is written.*snapshot-disk"):
            taken(scene, release, domain, {"vda": str(new)})
        assert [("volume", POOL, "v")] == scene.addresses(domain)
        return
    snapshot_ = taken(scene, release, domain, {"vda": str(new)})

    assert [("file", str(new))] == scene.addresses(domain)
    assert (str(path), "raw") == (
        *(info_of_open(new)["backing-filename"], info_of_open(new)["backing-filename-format"]),
    )
    snapshot_.delete()
    assert [("volume", POOL, "v")] == scene.addresses(domain)
    assert not new.exists()
    scene.stop(domain)
    scene.boots(domain)


def info_of_open(path: Path) -> dict[str, Any]:
    """What qemu-img says of a qcow2 image that a guest has open."""
    found: dict[str, Any] = json.loads(
        run("qemu-img", "info", "-U", "-f", "qcow2", "--output=json", path)
    )
    return found


def test_snapshot_volume_disks(scene: Scene) -> None:
    """After an external snapshot the persistent XML names the new image, or still the old one."""
    path = with_volume(scene)
    domain = scene.define("guest", [volume_xml("v")])
    scene.start(domain)
    file = path.with_name("v.s1")
    domain.snapshotCreateXML(
        "<domainsnapshot><disks><disk name='vda' snapshot='external'>"
        f"<source file='{file}'/></disk></disks></domainsnapshot>",
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY,
    )
    (address,) = scene.addresses(domain)
    scene.stop(domain)

    assert address in (("file", str(file)), ("volume", POOL, "v"))
    assert observed(scene).can("snapshot-volume-disks") is (address[0] == "file")


# AppArmor.  Nothing is enforced here, and no kernel with AppArmor is needed: libvirtd is told that
# there is one, and runs its own virt-aa-helper, which writes the profile that would be enforced.

TEMPLATE = """
#include <tunables/global>
profile LIBVIRT_TEMPLATE flags=(attach_disconnected) {
  #include <abstractions/libvirt-qemu>
}
"""
PARSER = """#!/bin/sh
for profile; do :; done
profile=${profile##*/}
grep -qx "$profile (enforce)" /sys/kernel/security/apparmor/profiles ||
    echo "$profile (enforce)" >>/sys/kernel/security/apparmor/profiles
"""
ENFORCED = "libvirtd (enforce)\n/usr/sbin/libvirtd (enforce)\nvirt-aa-helper (enforce)\n"
SHIM = "int aa_change_profile(const char *profile) { return 0; }"


def with_apparmor(scene: Scene, root: Path) -> Path:
    """Make the scene's libvirtd one with the AppArmor driver; return where its profiles go."""
    place = scene.libvirtd.directory / "apparmor"
    for directory in ("libvirt", "kernel/apparmor"):
        (place / directory).mkdir(parents=True)
    for model in ("qemu", "lxc"):
        (place / f"libvirt/TEMPLATE.{model}").write_text(TEMPLATE)
    (place / "kernel/apparmor/profiles").write_text(ENFORCED)
    (place / "parser").write_text(PARSER)
    (place / "parser").chmod(0o755)
    (place / "shim.c").write_text(SHIM)
    run("gcc", "-shared", "-fPIC", "-nostdlib", "-o", place / "shim.so", place / "shim.c")
    (place / "preload").write_text(f"{place}/shim.so\n")
    for ours, theirs in (
        ("kernel", "sys/kernel/security"),
        ("libvirt", "etc/apparmor.d/libvirt"),
        ("parser", "sbin/apparmor_parser"),
        ("preload", "etc/ld.so.preload"),
    ):
        if not (root / theirs).exists() and not theirs.startswith("sys/"):
            # what is mounted over has to be there, as in private_libvirtd
            (root / theirs).parent.mkdir(parents=True, exist_ok=True)
            if (place / ours).is_dir():
                (root / theirs).mkdir(exist_ok=True)
            else:
                (root / theirs).touch()
        inside(scene, "mount", "--bind", place / ours, root / theirs)
    conf = scene.libvirtd.directory / "etc/libvirt/qemu.conf"
    conf.write_text(conf.read_text().replace('driver = "none"', 'driver = "apparmor"'))
    scene.libvirtd.restart()
    scene.reopen()
    return place / "libvirt"


def test_volume_disk_security(release: Release) -> None:
    """The profile of a guest with a volume has no rule for its image; with a file it has one.

    A libvirt that writes the rule makes this fail: then the table may say since when.
    """
    scene = Scene(release())
    profiles = with_apparmor(scene, release.root)
    image = scene.overlay(scene.instances / "disks/v.qcow2")
    scene.connection.storagePoolLookupByName(POOL).refresh()
    host = observed(scene)
    assert "apparmor" in host.security_models
    forms = {"path": disk_xml(image), "volume": volume_xml("v.qcow2", format="qcow2")}
    ruled = {}
    for form, disk in forms.items():
        domain = scene.define("guest", [disk])
        scene.start(domain)  # the rules go when it ends
        rules = (profiles / f"libvirt-{domain.UUIDString()}.files").read_text()
        scene.stop(domain)
        domain.undefine()
        ruled[form] = [
            bool(re.search(rf'^ *"{re.escape(str(path))}" r', rules, re.M))
            for path in (image, scene.base)
        ]
    can = host.can("volume-disk-security")

    assert {"path": [True, True], "volume": [can, can]} == ruled


def test_a_plan_for_a_host_with_apparmor_keeps_the_path(release: Release) -> None:
    """As libvirt itself reports the host: the disk stays a file, and the reason is the model."""
    scene = Scene(release())
    with_apparmor(scene, release.root)
    domain = scene.define("guest", [disk_xml(with_volume(scene), format="raw")])
    host = observed(scene)
    (transition,) = plan(scene.document(domain), host).transitions
    (without,) = plan(scene.document(domain), replace(host, security_models=())).transitions

    assert ("path", False) == (transition.disk_type, transition.changes)
    assert transition.reason is not None
    assert "apparmor" == transition.reason.id
    assert ("volume", True, None) == (without.disk_type, without.changes, without.reason)


# What `xmlkit.host.aa_helper_reads` knows, and the directories themselves.
READABLE = {
    *("/var/lib/libvirt/images/**", "/var/lib/nova/instances/_base/*", "@{HOME}/**"),
    *("/{media,mnt,opt,srv}/**", "/{,var/}run/libvirt/**/[sv]d[a-z]", "/**/disk{,.*}"),
    *("/**.img", "/**.raw", "/**.qcow{,2}", "/**.qed", "/**.vmdk", "/**.vhd", "/**.[iI][sS][oO]"),
    *("@{HOME}/", "/var/lib/libvirt/images/"),
}


@pytest.mark.versions
@pytest.mark.parametrize("release", ["trixie", "sid"], indirect=True)
def test_what_virt_aa_helper_may_read(release: Release) -> None:
    """The shipped profile lets it read what the code says and no more.

    In the older releases the profile is in a package that the trees have not.
    """
    profile = (release.root / "etc/apparmor.d/usr.lib.libvirt.virt-aa-helper").read_text()
    lines = set(re.findall(r"^  (\S+) r,$", profile, re.M))

    assert READABLE == {
        line for line in lines if not line.startswith(("/sys/", "/dev/", "/etc/", "@{PROC}/"))
    }
