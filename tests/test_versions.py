"""What xmlkit says of libvirt's versions, on the libvirtd and QEMU of four releases of Debian.

- The table of capabilities is not believed: each entry is tried on each version, and one that is
  not tried fails a test here.
- The core: a guest that boots from its disk is moved onto a pool and back, by xmlkit's own plan and
  transformation, and boots at every instant in between.
- A libvirt that gains or loses an ability makes these tests fail: then the table is to be changed.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest
from chroots import Release, version
from lxml import etree

from xmlkit import Document, Host, Plan, parse_host, transform
from xmlkit.host import CAPABILITIES, version_text
from xmlkit.observe import observe
from xmlkit.plan import plan
from xmlkit.testing import Libvirtd, boot_sector
from xmlkit.validation.verdict import validate

PATIENCE = 60.0  # seconds for a guest to boot, on the busiest machine
UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
AS_DEFINED = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
MIB = 1 << 20

GUEST = """
<domain type='qemu'>
  <name>guest</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>32</memory>
  <os><type machine='pc'>hvm</type></os>
  <devices>
    {disk}
    <serial type='file'><source path='{serial}'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""
FILE = """
<disk type='file' device='disk'>
  <driver name='qemu' type='{format}'/><source file='{path}'/><target dev='vda' bus='virtio'/>
</disk>
"""
VOLUME = """
<disk type='volume' device='disk'>
  <driver name='qemu' type='raw'/><source pool='{pool}' volume='{volume}'>{inside}</source>
  <target dev='vda' bus='virtio'/>
</disk>
"""
SLICES = "<slices><slice type='storage' offset='0' size='1048576'/></slices>"
DIR = "<pool type='dir'><name>disks</name><target><path>{path}</path></target></pool>"


class Node:
    """A libvirtd of a release, with a place for disks and what the tests do there."""

    def __init__(self, release: Release, **parameters: object) -> None:
        self.release = release
        self.libvirtd: Libvirtd = release(**parameters)
        self.directory = self.libvirtd.directory
        self.serial = self.directory / "serial.log"
        self.connection = libvirt.open(self.libvirtd.uri)

    @property
    def host(self) -> Host:
        """What xmlkit observes."""
        return parse_host(observe(self.connection))

    def guest(self, disk: str) -> str:
        """The XML of a guest with one disk."""
        return GUEST.format(uuid=UUID, disk=disk, serial=self.serial)

    def pool(self, path: Path, name: str = "disks") -> libvirt.virStoragePool:
        """An active directory pool."""
        path.mkdir(exist_ok=True)
        pool = self.connection.storagePoolDefineXML(DIR.format(path=path).replace("disks", name, 1))
        pool.create()
        pool.setAutostart(True)
        return pool

    @contextlib.contextmanager
    def booted(self) -> Iterator[None]:
        """Start the guest, wait until it wrote to its disk, and turn it off at the end."""
        domain = self.connection.lookupByUUIDString(UUID)
        self.serial.unlink(missing_ok=True)
        domain.create()
        deadline = time.monotonic() + PATIENCE
        while not (said := self._said()).endswith((b"W", b"E")):
            assert domain.isActive()
            assert time.monotonic() < deadline, f"it said only {said!r}"
            time.sleep(0.05)
        assert said.endswith(b"W")
        yield
        domain.destroy()

    def boot(self) -> None:
        """Have the guest boot, write to its disk and end."""
        with self.booted():
            pass

    def _said(self) -> bytes:
        try:
            return self.serial.read_bytes()
        except FileNotFoundError:
            return b""

    def boots(self, disk: str) -> bool:
        """Whether a guest with this disk boots; False if libvirt refuses to define or start it."""
        try:
            self.connection.defineXML(self.guest(disk))
            self.boot()
        except libvirt.libvirtError:
            return False
        return True

    def inside(self, *command: str | Path) -> str:
        """Run a command of this machine where libvirtd's mounts are; return its output."""
        enter = ("nsenter", "--target", str(self.libvirtd.pid), "--mount")
        done = subprocess.run([*enter, *command], check=True, capture_output=True, text=True)
        return done.stdout


def bootable(path: Path, size: int = 4 * MIB) -> Path:
    """A raw image that boots."""
    path.write_bytes(boot_sector())
    os.truncate(path, size)
    return path


def overlay(path: Path, base: Path) -> Path:
    """A qcow2 image on a raw one."""
    create = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, path)
    subprocess.run(create, check=True)
    return path


def valid(node: Node, text: str) -> bool:
    """Whether the release's own schema takes a domain; libvirtd itself must agree."""
    verdict = not validate(Document.parse(text), node.release.schemas)
    code = 0
    try:
        node.connection.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    except libvirt.libvirtError as error:
        code = error.get_error_code()
    assert code == (0 if verdict else libvirt.VIR_ERR_XML_INVALID_SCHEMA)
    return verdict


# The releases.


def test_each_release_is_the_version_that_it_stands_for(
    release: Release, record_property: Callable[[str, object], None]
) -> None:
    """Its libvirtd is its package's; sid is newer than the others, and is named as it is found."""
    node = Node(release)
    found = version_text(node.connection.getLibVersion())
    record_property("libvirt", found)

    assert found == version(release.root, "libvirt-daemon").partition("-")[0]
    known = {"bullseye": "7.0.0", "bookworm": "9.0.0", "trixie": "11.3.0"}
    if release.suite in known:
        assert known[release.suite] == found
    else:
        assert node.connection.getLibVersion() > 11_003_000


# The core.


def decided(node: Node, text: str) -> Plan:
    """The plan for a domain on the host as it is now, its disk moved into the pool."""
    return plan(Document.parse(text), node.host, relocate={None: "disks"})


def test_a_guest_moves_onto_a_pool_and_back(release: Release) -> None:
    """Link, refresh, define, unlink: it boots before and after each, and after the way back."""
    node = Node(release)
    instance = node.directory / "instances" / UUID
    instance.mkdir(parents=True)
    path = overlay(instance / "disk", bootable(node.directory / "base"))
    node.connection.defineXML(node.guest(FILE.format(format="qcow2", path=path)))
    node.boot()
    pool = node.pool(node.directory / "disks")
    before = node.connection.lookupByUUIDString(UUID).XMLDesc(AS_DEFINED)

    made = decided(node, before)
    (transition,) = made.transitions
    assert ("move", "volume", "qcow2", True) == (
        *(transition.action, transition.disk_type, transition.format, transition.verified),
    )
    after = transform(Document.parse(before), made)
    assert ((), ()) == tuple(
        validate(Document.parse(each), node.release.schemas) for each in (before, after.text)
    )

    volume = Path(transition.after.path or "")
    os.link(path, volume)
    node.boot()
    pool.refresh()
    node.boot()
    node.connection.defineXML(after.text)
    node.boot()
    path.unlink()
    node.boot()

    read = node.connection.lookupByUUIDString(UUID).XMLDesc(AS_DEFINED)
    source = etree.fromstring(read).find("devices/disk/source")
    assert source is not None
    assert {"pool": "disks", "volume": f"{UUID}_disk"} == dict(source.attrib)

    os.link(volume, path)
    node.boot()
    node.connection.defineXML(transform(Document.parse(read), made.inverse()).text)
    node.boot()
    volume.unlink()
    node.boot()
    assert before == node.connection.lookupByUUIDString(UUID).XMLDesc(AS_DEFINED)


# The table of capabilities.


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_each_capability_is_tried(capability: str) -> None:
    """By a test that is named for it, below."""
    assert f"test_{capability.replace('-', '_')}" in globals()


def test_volume_disks(release: Release) -> None:
    """Where the table has volume disks, the schema has, and a guest boots from one."""
    node = Node(release)
    pool = node.pool(node.directory / "disks")
    bootable(node.directory / "disks/v")
    pool.refresh()
    disk = VOLUME.format(pool="disks", volume="v", inside="")
    can = node.host.can("volume-disks")

    assert (can, can) == (valid(node, node.guest(disk)), node.boots(disk))


def test_volume_disk_drivers(release: Release) -> None:
    """The driver is observed as what it is, and its guests boot from a volume; lxc refuses."""
    node = Node(release)
    pool = node.pool(node.directory / "disks")
    bootable(node.directory / "disks/v")
    pool.refresh()
    host = node.host

    assert "qemu" == host.driver
    assert host.can("volume-disk-drivers", host.driver) is node.boots(
        VOLUME.format(pool="disks", volume="v", inside="")
    )


@contextlib.contextmanager
def loop_device(node: Node, image: Path, *partition: str) -> Iterator[str]:
    """A loop device that a libvirtd sees too, whose /dev is its own; partition: parted's words."""
    attach = ("losetup", "--find", "--show", "--partscan", image)
    deadline = time.monotonic() + PATIENCE
    while (done := subprocess.run(attach, capture_output=True, text=True)).returncode != 0:
        assert time.monotonic() < deadline, done.stderr  # another process was faster, or has all
        time.sleep(0.1)
    device = done.stdout.strip()
    try:
        if partition:  # it tells the kernel, which need not know the kind of table
            subprocess.run(("parted", "--script", device, *partition), check=True)
        nodes = [device, *map(str, Path("/dev").glob(f"{Path(device).name}p*"))]
        node.inside("cp", "-a", *nodes, node.directory / "dev")
        yield device
    finally:
        node.libvirtd.stop()
        subprocess.run(("losetup", "--detach", device), check=True)


@pytest.mark.parametrize("pool_type", ["dir", "fs", "disk"])
def test_volume_disk_pools(release: Release, pool_type: str) -> None:
    """Of each type of pool that can be had here, the table says whether a guest boots from it.

    Of rbd, refused, see test_cluster.py; of logical, test_machines.py.
    """
    node = Node(release)
    image, target = node.directory / "image", node.directory / "target"
    target.mkdir()
    with contextlib.ExitStack() as stack:
        source, volume = "", "v"
        if pool_type == "dir":
            bootable(target / "v")
        elif pool_type == "fs":
            (node.directory / "content").mkdir()
            bootable(node.directory / "content/v")
            os.truncate(bootable(image), 16 * MIB)
            make = ("mkfs.ext4", "-q", "-F", "-d", node.directory / "content", image)
            subprocess.run(make, check=True)
            device = stack.enter_context(loop_device(node, image))
            source = f"<source><device path='{device}'/><format type='ext4'/></source>"
        else:
            image.write_bytes(bytes(MIB) + boot_sector())
            os.truncate(image, 8 * MIB)
            one = ("mklabel", "gpt", "mkpart", "one", "1MiB", "6MiB")
            device = stack.enter_context(loop_device(node, image, *one))
            source = f"<source><device path='{device}'/><format type='gpt'/></source>"
            target, volume = Path("/dev"), f"{Path(device).name}p1"
        pool = node.connection.storagePoolDefineXML(
            f"<pool type='{pool_type}'><name>pool</name>{source}"
            f"<target><path>{target}</path></target></pool>"
        )
        pool.create()
        assert [volume] == [name for name in pool.listVolumes() if name != "lost+found"]
        disk = VOLUME.format(pool="pool", volume=volume, inside="")
        assert node.host.can("volume-disk-pools", pool_type) is node.boots(disk)


def test_volume_slices(release: Release) -> None:
    """Where the table has slices in a volume source, the schema has, and libvirtd's check takes."""
    node = Node(release)
    pool = node.pool(node.directory / "disks")
    bootable(node.directory / "disks/v")
    pool.refresh()
    sliced = node.guest(VOLUME.format(pool="disks", volume="v", inside=SLICES))

    assert node.host.can("volume-slices") is valid(node, sliced)


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


def with_apparmor(node: Node) -> Path:
    """Make the node's libvirtd one with the AppArmor driver; return where its profiles go."""
    security = Path("/sys/kernel/security")
    root = node.release.root
    place = node.directory / "apparmor"
    (place / "libvirt").mkdir(parents=True)
    (place / "kernel/apparmor").mkdir(parents=True)
    for model in ("qemu", "lxc"):
        (place / f"libvirt/TEMPLATE.{model}").write_text(TEMPLATE)
    (place / "kernel/apparmor/profiles").write_text(ENFORCED)
    (place / "parser").write_text(PARSER)
    (place / "parser").chmod(0o755)
    (place / "shim.c").write_text(SHIM)
    compile_ = ("gcc", "-shared", "-fPIC", "-nostdlib", "-o", place / "shim.so", place / "shim.c")
    subprocess.run(compile_, check=True)
    (place / "preload").write_text(f"{place}/shim.so\n")
    binds = (
        (place / "kernel", security),
        (place / "libvirt", Path("/etc/apparmor.d/libvirt")),
        (place / "parser", Path("/sbin/apparmor_parser")),
        (place / "preload", Path("/etc/ld.so.preload")),
    )
    for ours, theirs in binds:
        inner = root / theirs.relative_to("/")
        if not inner.exists():  # where something is to be mounted, as private_libvirtd does it
            inner.parent.mkdir(parents=True, exist_ok=True)
            inner.mkdir(exist_ok=True) if ours.is_dir() else inner.touch()
        node.inside("mount", "--bind", ours, inner)
    conf = node.directory / "etc/libvirt/qemu.conf"
    conf.write_text(conf.read_text().replace('driver = "none"', 'driver = "apparmor"'))
    node.libvirtd.restart()
    node.connection = libvirt.open(node.libvirtd.uri)
    return place / "libvirt"


def test_volume_disk_security(release: Release) -> None:
    """The profile of a guest with a volume has no rule for its image; with a file it has one.

    A libvirt that writes the rule makes this fail: then the table may say since when.
    """
    node = Node(release)
    profiles = with_apparmor(node)
    pool = node.pool(node.directory / "disks")
    base = bootable(node.directory / "base.img")
    image = overlay(node.directory / "disks/v.qcow2", base)
    pool.refresh()
    host = node.host
    assert "apparmor" in host.security_models
    disks = {
        "path": FILE.format(format="qcow2", path=image),
        "volume": VOLUME.format(pool="disks", volume="v.qcow2", inside="").replace(
            "type='raw'", "type='qcow2'"
        ),
    }
    ruled = {}
    for form, disk in disks.items():
        node.connection.defineXML(node.guest(disk))
        with node.booted():  # the rules go when it ends
            rules = (profiles / f"libvirt-{UUID}.files").read_text()
        ruled[form] = {
            name: bool(re.search(rf'^ *"{re.escape(str(path))}" r', rules, re.M))
            for name, path in (("image", image), ("base", base))
        }
        node.connection.lookupByUUIDString(UUID).undefine()

    can = host.can("volume-disk-security")
    assert {
        "path": {"image": True, "base": True},
        "volume": {"image": can, "base": can},
    } == ruled


def test_a_plan_for_a_host_with_apparmor_keeps_the_path(release: Release) -> None:
    """As libvirt itself reports the host: the disk stays a file, and the reason is the model."""
    node = Node(release)
    with_apparmor(node)
    pool = node.pool(node.directory / "disks")
    image = bootable(node.directory / "disks/v.img")
    pool.refresh()
    document = Document.parse(node.guest(FILE.format(format="raw", path=image)))
    (transition,) = plan(document, node.host).transitions

    assert ("path", False) == (transition.disk_type, transition.changes)
    assert transition.reason is not None
    assert "apparmor" == transition.reason.id
