"""What preflight's rules say of libvirt, asked of a real one: a function a rule.

Rules
- A probe takes a running libvirtd, of whatever version, and tells whether it is as the rule says.
- It makes what it needs within that libvirtd's directory, so that one libvirtd serves one probe.
- It asserts only what it relies on; whether the answer is the expected one is the test's to say.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
from scene import POOL, UP, Scene, disk_xml, run, until

from xmlkit.testing import Libvirtd, boot_sector

SYSTEM_ERROR: int = libvirt.VIR_ERR_SYSTEM_ERROR
OPERATION_INVALID: int = libvirt.VIR_ERR_OPERATION_INVALID
CONFIG_UNSUPPORTED: int = libvirt.VIR_ERR_CONFIG_UNSUPPORTED

VOLUME = """\
    <disk type='volume' device='disk'>
      <driver name='qemu' type='{format}'/>
      <source pool='{pool}' volume='{name}'{more}/>
      <target dev='{target}' bus='virtio'/>
    </disk>"""
SNAPSHOT = "<domainsnapshot><name>s</name>{}</domainsnapshot>"
EXTERNAL = "<disks><disk name='vda' snapshot='external'><source file='{}'/></disk></disks>"
CHECKPOINT = (
    "<domaincheckpoint><name>c</name><disks><disk name='vda' checkpoint='bitmap'/></disks>"
    "</domaincheckpoint>"
)


def volume_xml(
    name: str, target: str = "vda", format: str = "qcow2", pool: str = POOL, more: str = ""
) -> str:
    """A volume disk."""
    return VOLUME.format(name=name, target=target, format=format, pool=pool, more=more)


def refused(call: Callable[..., Any], *arguments: Any) -> int:
    """The code of libvirt's error, 0 if it does what it is asked."""
    try:
        call(*arguments)
    except libvirt.libvirtError as error:
        return int(error.get_error_code())
    return 0


class Site:
    """A scene, and the pool's directory in it."""

    def __init__(self, libvirtd: Libvirtd) -> None:
        self.libvirtd = libvirtd
        self.scene = Scene(libvirtd, sector=boot_sector(hears_button=True))
        self.disks = self.scene.instances / "disks"

    @property
    def pool(self) -> Any:
        return self.scene.connection.storagePoolLookupByName(POOL)

    def image(self, name: str) -> Path:
        """An image in the pool, which knows it."""
        path = self.scene.overlay(self.disks / name)
        self.pool.refresh()
        return path

    def file_guest(self, name: str = "guest") -> tuple[Any, Path]:
        """A guest on a file disk in a directory of its own."""
        path = self.scene.overlay(self.scene.instances / name / "disk")
        return self.scene.define(name, [disk_xml(path)]), path

    def volume_guest(self, name: str = "guest") -> tuple[Any, Path]:
        """A guest on a volume disk."""
        path = self.image(f"{name}_disk")
        return self.scene.define(name, [volume_xml(path.name)]), path

    def move(self, domain: Any, path: Path) -> Path:
        """A file guest's disk becomes a volume, as a transition does it."""
        to = self.disks / f"{domain.name()}_disk"
        path.rename(to)
        self.pool.refresh()
        self.scene.define(domain.name(), [volume_xml(to.name)], domain.UUIDString())
        return to


def pool_inactive(libvirtd: Libvirtd) -> bool:
    """A guest does not start without its pool."""
    site = Site(libvirtd)
    guest, _ = site.volume_guest()
    site.pool.destroy()
    return refused(guest.create) == CONFIG_UNSUPPORTED


def on_poweroff(libvirtd: Libvirtd) -> bool:
    """A guest that shuts down runs on: libvirt resets it, with the same QEMU."""
    site = Site(libvirtd)
    guest, _ = site.file_guest()
    xml = site.scene.document(guest).text
    guest = site.scene.connection.defineXML(
        xml.replace("<on_poweroff>destroy", "<on_poweroff>restart")
    )
    site.scene.start(guest)
    log, first = site.scene.log(guest.name()), guest.ID()
    guest.shutdown()
    until(lambda: not guest.isActive() or log.read_bytes().count(UP) == 2)
    return bool(guest.isActive()) and first == guest.ID()


def managed_save(libvirtd: Libvirtd) -> bool:
    """After a move a saved guest does not start, and its image is kept."""
    site = Site(libvirtd)
    guest, path = site.file_guest()
    guest.create()
    guest.managedSave(0)
    site.move(guest, path)
    code = refused(guest.create)
    return code == SYSTEM_ERROR and bool(guest.hasManagedSaveImage())


def snapshots(libvirtd: Libvirtd) -> bool:
    """After a move an internal snapshot from before cannot be reverted."""
    site = Site(libvirtd)
    guest, path = site.file_guest()
    snapshot = guest.snapshotCreateXML(SNAPSHOT.format(""))
    before = str(path) in snapshot.getXMLDesc()
    site.move(guest, path)
    return before and refused(guest.revertToSnapshot, snapshot) != 0


def external_snapshots(libvirtd: Libvirtd) -> bool:
    """After a move an external snapshot from before cannot be reverted."""
    site = Site(libvirtd)
    guest, path = site.file_guest()
    snapshot = guest.snapshotCreateXML(
        SNAPSHOT.format(EXTERNAL.format(path.with_name("disk.s"))),
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY,
    )
    site.move(guest, path)
    return refused(guest.revertToSnapshot, snapshot) != 0


def old_snapshots(libvirtd: Libvirtd) -> bool:
    """An internal snapshot of a stopped guest with a volume disk cannot be reverted."""
    site = Site(libvirtd)
    guest, _ = site.volume_guest()
    snapshot = guest.snapshotCreateXML(SNAPSHOT.format(""))
    return refused(guest.revertToSnapshot, snapshot) == OPERATION_INVALID


def live_snapshots(libvirtd: Libvirtd) -> bool:
    """After a live external snapshot the persistent XML is still on the old volume."""
    site = Site(libvirtd)
    guest, path = site.volume_guest()
    guest.create()
    guest.snapshotCreateXML(
        SNAPSHOT.format(EXTERNAL.format(path.with_name("s"))),
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY,
    )
    return site.scene.addresses(guest)[0][0] == "volume"


def checkpoints(libvirtd: Libvirtd) -> bool:
    """A checkpoint keeps the old address when its domain has another one."""
    site = Site(libvirtd)
    guest, path = site.file_guest()
    guest.create()
    checkpoint = guest.checkpointCreateXML(CHECKPOINT)
    guest.destroy()
    site.move(guest, path)
    return str(path) in checkpoint.getXMLDesc() and str(path) not in guest.XMLDesc()


def pool_autostart(libvirtd: Libvirtd) -> bool:
    """A directory pool that is not started by itself comes back with libvirt's daemon."""
    site = Site(libvirtd)
    site.pool.setAutostart(0)
    site.pool.destroy()
    libvirtd.restart()
    site.scene.reopen()
    return bool(site.pool.isActive())


def pool_lost(libvirtd: Libvirtd) -> bool:
    """A running guest is killed when the daemon comes back without the guest's pool."""
    site = Site(libvirtd)
    guest, _ = site.volume_guest()
    guest.create()
    site.pool.destroy()
    site.pool.undefine()
    libvirtd.restart()
    site.scene.reopen()
    guest = site.scene.connection.lookupByName("guest")
    # a guest that it kills may take a moment to go; one that it keeps answers
    with contextlib.suppress(libvirt.libvirtError):
        guest.memoryStats()
    return not guest.isActive()


def startup_policy(libvirtd: Libvirtd) -> bool:
    """A guest starts without an optional disk whose volume is missing."""
    site = Site(libvirtd)
    root = site.image("root")
    disks = [
        volume_xml(root.name),
        volume_xml("gone", "vdb", more=" startupPolicy='optional'"),
    ]
    guest = site.scene.define("guest", disks)
    guest.create()
    return "vdb" not in guest.XMLDesc() and "vdb" in guest.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)


def path_shared(libvirtd: Libvirtd) -> bool:
    """After a move the other domain on the same path does not start."""
    site = Site(libvirtd)
    guest, path = site.file_guest()
    other = site.scene.define("other", [disk_xml(path)])
    site.move(guest, path)
    return refused(guest.create) == 0 and refused(other.create) == SYSTEM_ERROR


def overlay_base(libvirtd: Libvirtd) -> bool:
    """After a move a guest on an overlay of the image does not start."""
    site = Site(libvirtd)
    guest, path = site.file_guest()
    overlay = path.with_name("overlay")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2", overlay)
    other = site.scene.define("other", [disk_xml(overlay)])
    site.move(guest, path)
    return refused(guest.create) == 0 and refused(other.create) != 0


def relative_backing(libvirtd: Libvirtd) -> bool:
    """An image that names its backing file relative to itself cannot move."""
    site = Site(libvirtd)
    directory = site.scene.instances / "guest"
    base = site.scene.flat(directory / "base")
    path = directory / "disk"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base.name, "-F", "raw", path)
    guest = site.scene.define("guest", [disk_xml(path)])
    before = refused(guest.create)
    site.scene.stop(guest)
    site.move(guest, path)
    return before == 0 and refused(guest.create) != 0


def directory_closed(libvirtd: Libvirtd) -> bool:
    """A guest does not start if QEMU's user may not search the pool's directory."""
    site = Site(libvirtd)
    guest, _ = site.volume_guest()
    site.disks.chmod(0o700)
    return refused(guest.create) != 0


def remembered_owner(libvirtd: Libvirtd) -> bool:
    """With the attributes of a crashed start on the image the next one fails."""
    site = Site(libvirtd)
    guest, path = site.volume_guest()
    guest.create()
    found = {
        name: os.getxattr(path, name)
        for name in os.listxattr(path)
        if name.startswith("trusted.libvirt.security.")
    }
    assert found, "this libvirtd remembers no owner"
    site.scene.stop(guest)
    for name, value in found.items():
        os.setxattr(path, name, value)
    return refused(guest.create) != 0


def volume_limits(libvirtd: Libvirtd) -> bool:
    """An external snapshot of a volume disk needs a file's name."""
    site = Site(libvirtd)
    guest, _ = site.volume_guest()
    code = refused(
        guest.snapshotCreateXML,
        SNAPSHOT.format(""),
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY,
    )
    return code == CONFIG_UNSUPPORTED


def apparmor(libvirtd: Libvirtd) -> bool:
    """virt-aa-helper makes a rule for a file disk, and none for the same image as a volume."""
    site = Site(libvirtd)
    path = site.image("disk")
    file = site.scene.define("file", [disk_xml(path)])
    volume = site.scene.define("volume", [volume_xml(path.name)])
    return str(path) in _profile(libvirtd, file) and str(path) not in _profile(libvirtd, volume)


def _profile(libvirtd: Libvirtd, domain: Any) -> str:
    """What that libvirt's own virt-aa-helper would write for a domain, in its dry run."""
    done = subprocess.run(
        [
            *("nsenter", f"--target={libvirtd.daemon}", "--mount", "--root", "--wd"),
            *("/usr/lib/libvirt/virt-aa-helper", "-d", "-c", "-u"),
            f"libvirt-{domain.UUIDString()}",
        ],
        input=str(domain.XMLDesc()),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout + done.stderr


# The rules that can be asked of libvirt.
PROBES: dict[str, Callable[[Libvirtd], bool]] = {
    "apparmor": apparmor,
    "checkpoints": checkpoints,
    "directory-closed": directory_closed,
    "external-snapshots": external_snapshots,
    "live-snapshots": live_snapshots,
    "managed-save": managed_save,
    "old-snapshots": old_snapshots,
    "on-poweroff": on_poweroff,
    "overlay-base": overlay_base,
    "path-shared": path_shared,
    "pool-autostart": pool_autostart,
    "pool-inactive": pool_inactive,
    "pool-lost": pool_lost,
    "relative-backing": relative_backing,
    "remembered-owner": remembered_owner,
    "snapshots": snapshots,
    "startup-policy": startup_policy,
    "volume-limits": volume_limits,
}
