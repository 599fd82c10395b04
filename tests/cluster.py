"""A ceph of one node, in memory, for RBD pools: one monitor, one OSD, no manager, no keys.

It listens on a loopback address that is made of the process's number, so that several run side by
side on the usual port. Its daemons end with the thread that started them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TIMEOUT = 180.0  # seconds to start, or for one command, on the busiest machine
PORT = 6789
PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "rbd", "setpriv")
PACKAGES = "ceph-mon ceph-osd ceph-common qemu-block-extra libvirt-daemon-driver-storage-rbd"

CONF = """
[global]
fsid = {fsid}
mon_host = v1:{address}:{port}
public_addr = {address}
cluster_addr = {address}
ms_bind_msgr2 = false
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_objectstore = memstore
memstore_device_bytes = 512M
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_data_avail_crit = 0
run_dir = {directory}
admin_socket = {directory}/$name.asok
pid_file = {directory}/$name.pid
log_file = {directory}/$name.log
mon_data = {directory}/mon
osd_data = {directory}/osd
keyring = {directory}/keyring
"""


class CephMissingError(RuntimeError):
    """This machine has no ceph; the message says what to install."""


class CephError(RuntimeError):
    """A command of ceph failed, or the cluster did not start; the message has what it said."""


def on_ceph(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test with the fixture `ceph`; one worker has that and runs all of them."""
    marked: Callable[..., None] = pytest.mark.ceph(pytest.mark.xdist_group("ceph")(test))
    return marked


@dataclass(frozen=True)
class Ceph:
    """A running cluster with an empty pool `rbd`.

    Fields: `address` and `port` are the monitor's, for a `<host>`; `conf` is its ceph.conf, as for
    `qemu-img ... rbd:rbd/IMAGE:conf=FILE`. A libvirtd reaches it if its network is not private:
    `start_libvirtd(private_network=False)`.
    """

    address: str
    conf: Path
    port: int = PORT

    def run(self, *command: str | Path) -> str:
        """Run `ceph` or `rbd` with arguments and return the output; CephError if it fails."""
        whole = (command[0], "--conf", self.conf, *command[1:])
        try:
            done = subprocess.run(whole, capture_output=True, text=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise CephError(f"{command[0]}: no end in {TIMEOUT:.0f} s") from error
        if done.returncode != 0:
            raise CephError(f"{' '.join(map(str, command))}: {done.stderr}")
        return done.stdout

    def pool_xml(self, name: str = "rbd") -> str:
        """The XML of a libvirt pool over the cluster's pool."""
        return (
            f"<pool type='rbd'><name>{name}</name><source><name>rbd</name>"
            f"<host name='{self.address}' port='{self.port}'/></source></pool>"
        )


@contextlib.contextmanager
def one_node_ceph() -> Iterator[Ceph]:
    """Start a cluster, wait until it can keep images, and end it at the end."""
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing or os.geteuid() != 0:
        raise CephMissingError(
            f"ceph lacks {', '.join(missing) or 'the rights of root'}: "
            f"run as root, with the Debian packages {PACKAGES}"
        )
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xmlkit-ceph-")))
        directory.chmod(0o755)  # QEMU's own user reads ceph.conf
        for place in ("mon", "osd"):
            (directory / place).mkdir()
        number = os.getpid()
        address = f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        conf = directory / "ceph.conf"
        conf.write_text(CONF.format(fsid=fsid, address=address, port=PORT, directory=directory))
        ceph = Ceph(address, conf)

        def daemon(*command: str) -> subprocess.Popen[bytes]:
            log = stack.enter_context((directory / f"{command[0]}.out").open("wb"))
            process = subprocess.Popen(
                ("setpriv", "--pdeathsig=KILL", *command, "--foreground"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        monmap = str(directory / "monmap")
        create = ("--create", "--fsid", fsid, "--addv", "a", f"[v1:{address}:{PORT}]", monmap)
        _tool("monmaptool", *create)
        _tool("ceph-mon", "--conf", str(conf), "--mkfs", "--id", "a", "--monmap", monmap)
        daemon("ceph-mon", "--conf", str(conf), "--id", "a")
        ceph.run("ceph", "osd", "new", osd)
        _tool("ceph-osd", "--conf", str(conf), "--id", "0", "--mkfs", "--osd-uuid", osd)
        node = daemon("ceph-osd", "--conf", str(conf), "--id", "0")
        ceph.run("ceph", "osd", "pool", "create", "rbd", "8")
        deadline = time.monotonic() + TIMEOUT
        while not _is_up(ceph):
            if time.monotonic() > deadline:
                log = (directory / "ceph-osd.out").read_text(errors="replace")[-4000:]
                raise CephError(f"the OSD did not come up:\n{log}")
            if node.poll() is not None:
                # It asked its monitor before that had told it the cluster's id, and gave up
                node = daemon("ceph-osd", "--conf", str(conf), "--id", "0")
            time.sleep(0.1)
        ceph.run("rbd", "pool", "init", "rbd")
        yield ceph


def _is_up(ceph: Ceph) -> bool:
    """Whether the OSD has come; a monitor that the machine keeps waiting may fail to answer."""
    with contextlib.suppress(CephError):
        return '"num_up_osds": 1' in ceph.run("ceph", "osd", "stat", "--format=json-pretty")
    return False


def _tool(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode != 0:
        raise CephError(f"{' '.join(command)}: {done.stderr}")
