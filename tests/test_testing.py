"""The private libvirtd, by what a test and the machine under it see of it: nothing is faked."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import libvirt
import pytest
from lxml import etree

from xmlkit import testing
from xmlkit.testing import Libvirtd, LibvirtdError, LibvirtdMissingError, private_libvirtd
from xmlkit.testing.libvirtd import _BOOT_SECTOR

Start = Callable[..., Libvirtd]

GUEST = """
<domain type='qemu'>
  <name>guest</name>
  <memory unit='MiB'>32</memory>
  <os><type machine='pc'>hvm</type></os>
  <devices>
    <disk type='file'>
      <driver name='qemu' type='qcow2'/>
      <source file='{directory}/overlay'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <serial type='file'><source path='{directory}/serial.log'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""
POOL = "<pool type='dir'><name>pool</name><target><path>{}</path></target></pool>"
VOLUME = "<volume><name>{}</name><capacity>4096</capacity><allocation>0</allocation></volume>"

# A process with a libvirtd, to be killed.
HOLDER = """
import time
from xmlkit.testing import private_libvirtd

with private_libvirtd() as node:
    print(node.uri, node.directory, flush=True)
    time.sleep(60)
"""

# Runs in a mount namespace of its own, with the machine's tree mounted a second time.
OTHER_ROOT = """
import sys
from pathlib import Path
import libvirt
from xmlkit.testing import private_libvirtd

root, shared, unshared = map(Path, sys.argv[1:])
with private_libvirtd(root=root, shared=[shared]) as node:
    connection = libvirt.open(node.uri)
    for path in shared, unshared, node.directory:
        pool = connection.storagePoolDefineXML(f"<pool type='dir'><name>{path.name}</name>"
                                               f"<target><path>{path}</path></target></pool>")
        try:
            pool.create()
            print(sorted(pool.listVolumes()))
        except libvirt.libvirtError:
            print("not there")
"""


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for something that takes its time; fail if it takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def run_guest(uri: str, directory: Path) -> libvirt.virDomain:
    """A guest that runs, and has begun to write, on a qcow2 overlay of a raw base."""
    (directory / "base").write_bytes(testing.boot_sector().ljust(1 << 20, b"\0"))
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base", "overlay"]
    subprocess.run(create, cwd=directory, check=True)
    domain = libvirt.open(uri).defineXML(GUEST.format(directory=directory))
    domain.create()
    wait_for_write(directory)
    return domain


def uuid_of(connection: libvirt.virConnect) -> str | None:
    """The UUID of the host that one is connected to."""
    uuid: str | None = etree.fromstring(connection.getCapabilities()).findtext("host/uuid")
    return uuid


def writes(directory: Path) -> int:
    """How often the guest says that it wrote."""
    return (directory / "serial.log").read_bytes().count(b"W")


def wait_for_write(directory: Path, after: int = 0) -> None:
    """Wait until the guest says so more than `after` times."""
    until(lambda: writes(directory) > after)


def inhabitants(directory: Path) -> list[str]:
    """The processes that have something of a libvirtd's directory mounted, this one included."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if directory.name in (process / "mountinfo").read_text():
                found.append((process / "comm").read_text().strip())
        except OSError:
            continue  # gone meanwhile
    return sorted(found)


def machine() -> dict[Path, int]:
    """The machine's own libvirt and two devices, each with the time of its last change."""
    paths = [Path("/etc/libvirt"), Path("/dev/kvm"), Path("/dev/null")]
    for place in "/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt":
        paths += Path(place).rglob("*")
    paths += Path("/run").glob("*libvirt*")
    return {path: path.lstat().st_mtime_ns for path in paths if path.exists()}


def test_is_the_host_it_is_told_to_be(start_libvirtd: Start) -> None:
    """Name and UUID are those asked for; it emulates, and a new libvirtd knows nothing."""
    host_uuid = "6a4bf3f2-9f9c-4d35-a8ad-2e5bd6ee8a9f"
    connection = libvirt.open(start_libvirtd(name="compute-1", host_uuid=host_uuid).uri)
    assert "compute-1" == connection.getHostname()
    assert host_uuid == uuid_of(connection)
    assert "<domain type='qemu'" in connection.getCapabilities()
    assert "<domain type='kvm'" not in connection.getCapabilities()
    assert [] == connection.listAllDomains()
    assert [] == connection.listAllStoragePools()


def test_many_run_side_by_side(start_libvirtd: Start) -> None:
    """Eight that start and live together are eight hosts, each with its own pool."""
    names = [f"compute-{number}" for number in range(8)]
    with ThreadPoolExecutor(len(names)) as threads:
        nodes = list(threads.map(lambda name: start_libvirtd(name=name), names))
        connections = [libvirt.open(node.uri) for node in nodes]
        for node, connection in zip(nodes, connections, strict=True):
            connection.storagePoolDefineXML(POOL.format(node.directory))
        assert names == [connection.getHostname() for connection in connections]
        assert 8 == len({uuid_of(connection) for connection in connections})
        for connection in connections:
            assert ["pool"] == [pool.name() for pool in connection.listAllStoragePools()]


def test_pool_lists_volumes(libvirtd: Libvirtd) -> None:
    """A pool in the libvirtd's directory shows what libvirt made and what a refresh found."""
    path = libvirtd.directory / "pool"
    path.mkdir()
    pool = libvirt.open(libvirtd.uri).storagePoolDefineXML(POOL.format(path))
    pool.create()
    pool.createXML(VOLUME.format("made"))
    (path / "found").write_bytes(b"\0" * 4096)
    assert ["made"] == pool.listVolumes()
    pool.refresh()
    assert ["found", "made"] == sorted(pool.listVolumes())
    assert b"\0" * 4096 == (path / "made").read_bytes()


def test_guest_boots_from_its_disk_and_writes_to_it(libvirtd: Libvirtd) -> None:
    """The guest needs the whole backing chain to boot, and its writes are in the overlay only."""
    directory = libvirtd.directory
    domain = run_guest(libvirtd.uri, directory)
    wait_for_write(directory, 1)
    domain.destroy()
    subprocess.run(
        ["qemu-img", "convert", "-O", "raw", "overlay", "raw"], cwd=directory, check=True
    )
    mark, count = struct.unpack_from("<4sI", (directory / "raw").read_bytes(), 4096)
    assert b"XMLKIT-GUEST-UP\nWW" == (directory / "serial.log").read_bytes()[:18]
    assert b"TICK" == mark
    assert count >= 2
    assert bytes(512) == (directory / "base").read_bytes()[4096:4608]


def test_restart_keeps_the_guest(libvirtd: Libvirtd) -> None:
    """However libvirtd ends, its guest runs on and the next libvirtd knows it."""
    domain = run_guest(libvirtd.uri, libvirtd.directory)
    identity = domain.ID()
    for number in signal.SIGTERM, signal.SIGKILL:
        libvirtd.restart(number)
        written = writes(libvirtd.directory)
        domain = libvirt.open(libvirtd.uri).lookupByName("guest")
        assert identity == domain.ID()
        wait_for_write(libvirtd.directory, written)


def test_stop_leaves_nothing(libvirtd: Libvirtd) -> None:
    """After stop() there is no process, no mount and no directory; a second stop() does nothing."""
    run_guest(libvirtd.uri, libvirtd.directory)
    running = inhabitants(libvirtd.directory)
    libvirtd.stop()
    assert ["libvirtd", "qemu-system-x86", "sh", "unshare"] == running
    assert [] == inhabitants(libvirtd.directory)
    assert not libvirtd.directory.exists()
    libvirtd.stop()


def test_kill_of_the_starter_leaves_no_process_and_no_mount(libvirtd: Libvirtd) -> None:
    """Not even SIGKILL, which lets nothing be tidied up, leaves more than a directory."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        uri, path = holder.stdout.readline().split()
        directory = Path(path)
        run_guest(uri, directory)
        running = inhabitants(directory)
        holder.kill()
    until(lambda: not inhabitants(directory), 5)
    shutil.rmtree(directory)
    assert ["libvirtd", "qemu-system-x86", "sh", "unshare"] == running


def test_leaves_the_machine_alone(start_libvirtd: Start) -> None:
    """The machine's libvirt, its devices and its name are what they were."""
    before = machine(), os.uname()
    node = start_libvirtd()
    run_guest(node.uri, node.directory)
    node.stop()
    assert before == (machine(), os.uname())


def test_two_hosts_migrate_a_guest(start_libvirtd: Start) -> None:
    """Two hosts that share a network and remember no owner are enough for a live migration."""
    source, target = (
        start_libvirtd(name=name, remember_owner=False, private_network=False)
        for name in ("source", "target")
    )
    domain = run_guest(source.uri, source.directory)
    written = writes(source.directory)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_UNSAFE
    to = libvirt.open(target.uri)
    uri = {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://127.0.0.1:{port}"}
    assert "guest" == domain.migrate3(to, uri, flags).name()
    assert not domain.isActive()
    assert to.lookupByName("guest").isActive()
    wait_for_write(source.directory, written)


def test_runs_in_another_root(libvirtd: Libvirtd, tmp_path: Path) -> None:
    """In another root libvirtd sees of our files the shared ones and its own directory."""
    root, shared, unshared = (tmp_path / name for name in ("root", "shared", "unshared"))
    for path in root, shared, unshared:
        path.mkdir()
    (shared / "disk").write_bytes(b"\0" * 512)
    script = 'mount --bind / "$1" && exec "$0" -c "$2" "$1" "$3" "$4"'
    command = ["unshare", "--mount", "sh", "-c", script, sys.executable, str(root), OTHER_ROOT]
    command += [str(shared), str(unshared)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert ["['disk']", "not there"] == done.stdout.splitlines()[:2]
    assert "libvirtd.log" in done.stdout.splitlines()[2]


def test_failed_start_tells_why_and_leaves_nothing(
    libvirtd: Libvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A libvirtd that ends while it starts is an error at once, with what it said."""
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        with pytest.raises(LibvirtdError) as raised, private_libvirtd(security_driver="nonesuch"):
            pass
        assert [] == os.listdir(directory)
    assert "nonesuch" in raised.value.log


def test_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Namespaces are made by root: anyone else is told so, and told what to install."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LibvirtdMissingError, match="run as root") as raised, private_libvirtd():
        pass
    assert "the rights of root" in raised.value.missing


@pytest.mark.parametrize(("ci", "outcome"), [("true", "1 error"), ("", "1 skipped")])
def test_missing_libvirtd_is_skipped_but_not_in_ci(tmp_path: Path, ci: str, outcome: str) -> None:
    """Where libvirtd is missing the fixture skips, with the reason; in CI it fails."""
    (tmp_path / "test_it.py").write_text("def test_it(libvirt_host): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xmlkit.testing", "-rs", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PATH": str(tmp_path), "CI": ci},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert f" {outcome} in " in done.stdout.splitlines()[-1]
    assert "libvirtd, qemu-system-x86_64, qemu-img" in done.stdout
    assert "Debian packages libvirt-daemon" in done.stdout


def test_needs_neither_pytest_nor_libvirt() -> None:
    """Without pytest the module has no fixtures, and it imports nothing that need not be there."""
    script = "import sys, xmlkit.testing; print(sorted({'pytest', 'libvirt'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert "[]\n" == done.stdout


@pytest.mark.parametrize(("hears_button", "step", "ticks"), [(False, 0, 9), (True, 1, 1)])
@pytest.mark.skipif(not shutil.which("as"), reason="no assembler; install binutils")
def test_boot_sector_is_what_its_assembly_says(
    hears_button: bool, step: int, ticks: int, tmp_path: Path
) -> None:
    """The bytes and the assembly beside them are the same program."""
    text = _BOOT_SECTOR.format(button=int(hears_button), step=step, ticks=ticks)
    lines = [line.partition("|")[2] for line in text.splitlines()]
    source = "\n".join([".code16", ".intel_syntax noprefix", *lines, ""])
    subprocess.run(
        ["as", "--32", "-o", "object"], cwd=tmp_path, input=source, text=True, check=True
    )
    link = ["ld", "-m", "elf_i386", "-e", "0", "-Ttext", "0x7c00", "--oformat", "binary", "object"]
    subprocess.run(link, cwd=tmp_path, check=True)
    code = (tmp_path / "a.out").read_bytes()
    assert code.ljust(510, b"\0") + b"\x55\xaa" == testing.boot_sector(
        hears_button=hears_button, step=step, ticks=ticks
    )
