"""The Linux guest and the emulated machine, and what libvirt's logical pools are in it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest
from machines import Machine, MachineError, linux_guest

from xmlkit import Document, Host, parse_host, transform
from xmlkit.observe import observe
from xmlkit.plan import plan
from xmlkit.testing import Libvirtd

PATIENCE = 120.0
GUEST = """
<domain type='qemu'>
  <name>linux</name>
  <memory unit='MiB'>192</memory>
  <os>
    <type machine='pc'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>console=ttyS0 quiet</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <disk type='file'>
      <driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    <serial type='file'><source path='{serial}'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def until(condition: Callable[[], object]) -> None:
    """Wait for something that takes its time; fail if it takes longer."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.mark.machine
def test_a_linux_guest_answers_the_power_button(libvirtd: Libvirtd) -> None:
    """It boots, writes to its disk, and turns itself off when virsh shutdown asks."""
    directory = libvirtd.directory
    kernel, initrd = linux_guest(directory)
    disk, serial = directory / "disk", directory / "serial.log"
    disk.write_bytes(bytes(1 << 20))
    domain = libvirt.open(libvirtd.uri).defineXML(
        GUEST.format(kernel=kernel, initrd=initrd, disk=disk, serial=serial)
    )
    domain.create()
    until(lambda: serial.exists() and serial.read_bytes().endswith(b"WW"))
    virsh = ("virsh", "--connect", libvirtd.uri, "shutdown", "linux", "--mode", "acpi")
    subprocess.run(virsh, check=True, stdout=subprocess.DEVNULL)
    until(lambda: not domain.isActive())
    said = serial.read_bytes()
    count = int.from_bytes(disk.read_bytes()[4100:4104], "little")

    assert (True, True) == (b"XMLKIT-GUEST-UP" in said, b"XMLKIT-GUEST-OFF" in said)
    assert b"TICK" == disk.read_bytes()[4096:4100]
    assert said.count(b"W") <= count + 0
    assert [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN] == domain.state()
