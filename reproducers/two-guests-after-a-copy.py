#!/usr/bin/env python3
"""libvirt: one guest runs on two hosts after a live migration that copies its disk.

The destination's libvirtd dies after it has resumed the guest there and before it has said so. The
source takes that for a migration that failed, and resumes the guest, too. Each runs on a disk of
its own: no lock keeps them apart. A moment has to be met, so it is tried again and again.

Needs: root, libvirtd, QEMU, libvirt-python, and xmlkit.testing for the two libvirtds
(pip install '.[libvirt]' in a checkout).
Exit code: 0 the fault is there, 1 it was not met, 2 something else went wrong.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
import traceback
from contextlib import ExitStack
from pathlib import Path

import libvirt

from xmlkit.testing import boot_sector, private_libvirtd

TRIES = 40
GUEST = """
<domain type='qemu'>
  <name>reproducer</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='{disk}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def main() -> int:
    """Try, and say what became of it."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reproducer-")))
        directory.chmod(0o755)
        place = directory / "disks"  # at the same path on both hosts, another directory on each
        place.mkdir()
        storages, hosts = [], []
        for name in ("source", "destination"):
            storages.append(directory / name)
            storages[-1].mkdir()
            hosts.append(
                stack.enter_context(
                    private_libvirtd(
                        name=name,
                        remember_owner=False,
                        private_network=False,
                        places={place: storages[-1]},
                    )
                )
            )
        for number in range(1, TRIES + 1):
            for storage in storages:
                with (storage / "disk").open("wb") as disk:
                    disk.write(boot_sector() if storage is storages[0] else b"")
                    disk.truncate(1 << 20)
            source, destination = (libvirt.open(host.uri) for host in hosts)
            guest = source.createXML(GUEST.format(disk=place / "disk"), 0)
            migration = threading.Thread(
                target=migrate, args=(guest, destination, directory / f"socket-{number}")
            )
            migration.start()
            watching = libvirt.open(hosts[1].uri)
            deadline = time.monotonic() + 30
            while migration.is_alive() and time.monotonic() < deadline:
                if running(watching):
                    hosts[1].restart(signal.SIGKILL)
                    break
            migration.join()
            destination = libvirt.open(hosts[1].uri)
            both = running(source), running(destination)
            print(f"{number}: runs at the source: {both[0]}, at the destination: {both[1]}")
            if all(both):
                return 0
            for connection in (source, destination):
                for each in connection.listAllDomains():
                    each.destroy()
    return 1


def migrate(guest: libvirt.virDomain, destination: libvirt.virConnect, socket: Path) -> None:
    """Live, with a copy of the disk."""
    parameters = {
        libvirt.VIR_MIGRATE_PARAM_URI: "tcp://127.0.0.1:49200",
        libvirt.VIR_MIGRATE_PARAM_DISKS_PORT: 49201,
    }
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_NON_SHARED_DISK
    try:
        guest.migrate3(destination, parameters, flags)
    except libvirt.libvirtError as error:
        print(f"   the source was told: {error}")


def running(connection: libvirt.virConnect) -> bool:
    """Whether the guest runs there; not paused."""
    try:
        state = connection.lookupByName("reproducer").state()[0]
    except libvirt.libvirtError:
        return False
    return bool(state == libvirt.VIR_DOMAIN_RUNNING)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception:
        # Python's own exit code would be 1, which is an answer
        traceback.print_exc()
        sys.exit(2)
