"""The storage pools that libvirt is asked to define.

Laws
- A document says what a pool is. That it is built, started, and started with the host are steps.
- A password never stands in a document: Ceph's key is named by the secret that holds it.
- Nothing that exists is formatted: building makes a missing directory, no more.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple

from xmlkit import names
from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.host import is_plain_path
from xmlkit.shell import Command
from xmlkit.templates import render
from xmlkit.volumes import SNAPSHOT_POOL, Permissions

__all__ = ["BUILT", "TYPES", "Auth", "PoolError", "commands", "nova_pools", "parse_source", "pool"]

# Pool type -> the formats that its source may have; the first is what it gets if none is given.
# Source: storagepool.rng, libvirt 9.0.0, without what libvirt only reads.
TYPES: dict[str, tuple[str | None, ...]] = {
    "dir": (None,),
    "fs": ("auto", "ext2", "ext3", "ext4", "xfs", "gfs2", "ocfs2", "vfat"),
    "netfs": ("auto", "nfs", "glusterfs", "cifs"),
    "logical": ("lvm2",),
    "disk": ("gpt", "dos"),
    "rbd": (None,),
}

# The types of which building makes the directory; of others it would format.
BUILT = frozenset(("dir", "fs", "netfs"))

# Kind of Nova's disks -> directory of its pool, where each kind has one of its own.
_KINDS = ("root", "ephemeral", "swap", "config")

_HOST = re.compile(r"[A-Za-z0-9.-]+")
_VG = re.compile(r"(?!-)(?!\.{1,2}$)[A-Za-z0-9+_.-]{1,127}")


class PoolError(XmlkitError, ValueError):
    """A pool that cannot be made as asked for; id: of `xmlkit explain`."""

    def __init__(self, id: str, message: str) -> None:
        self.id = id
        super().__init__(f"{message} ({id})")


class Auth(NamedTuple):
    """Who a Ceph cluster is told we are: a user, and the UUID of libvirt's secret with its key."""

    username: str
    secret: str


def pool(
    name: str,
    type: str,
    *,
    target: str = "",
    source: str = "",
    hosts: Sequence[tuple[str, int | None]] = (),
    format: str | None = None,
    auth: Auth | None = None,
    permissions: Permissions | None = None,
) -> Document:
    """The `<pool>` of a directory, file system, volume group, disk or Ceph pool.

    type: dir, fs, netfs, logical, disk or rbd. target: where it is seen on the host, absolute;
    /dev/VG for a volume group and /dev for a disk without one; none for rbd. source: the device
    (fs, disk), exported directory (netfs), volume group (logical) or Ceph pool (rbd). hosts: name
    and port of servers (netfs: one) or monitors (rbd). format: of the source; a disk needs one,
    gpt or dos: libvirt takes none for dos. permissions: of the directory, if libvirt makes it.
    Raises PoolError.
    Source: storagepool.rng, libvirt 9.0.0.
    """
    if fault := names.fault_of_pool_name(name):
        raise PoolError("pool-name", f"{name!r} cannot be a pool: {fault}")
    if not name.isprintable():
        raise PoolError("pool-name", f"{name!r} cannot be a pool: it has controls")
    if type not in TYPES:
        raise PoolError("pool-type", f"xmlkit makes no {type!r} pool; it makes {', '.join(TYPES)}")
    if type == "logical":
        target = target or f"/dev/{source}"
    elif type == "disk":
        target = target or "/dev"
    if type == "rbd":
        if target:
            raise PoolError("pool-target", "an rbd pool is seen nowhere on the host: no target")
    else:
        _check_path("pool-target", "the target", target)
    if (fault := _fault_of_source(type, source)) is not None:
        raise PoolError("pool-source", f"a {type} pool {fault}")
    _check_hosts(type, hosts)
    if auth is not None:
        _check_auth(type, auth)
    if permissions is not None:
        if type not in BUILT:
            raise PoolError("pool-target", f"libvirt makes no directory for a {type} pool: no mode")
        if permissions.mode is not None and not 0 <= permissions.mode <= 0o7777:
            raise PoolError("pool-target", f"not a mode: {permissions.mode:o}")
        for number in (permissions.owner, permissions.group):
            if number is not None and not 0 <= number < (1 << 32) - 1:
                raise PoolError("pool-target", f"not the number of a user or group: {number}")
    if format is None:
        format = TYPES[type][0]
        if type == "disk":
            raise PoolError("pool-source", "a disk pool needs the format of its table: gpt or dos")
    elif format not in TYPES[type]:
        known = ", ".join(filter(None, TYPES[type])) or "none"
        raise PoolError("pool-source", f"a {type} pool has no format {format!r}; it has {known}")
    return render(
        "pool",
        type=type,
        name=name,
        target=target,
        hosts=[(host.strip("[]"), port) for host, port in hosts],
        directory=source if type == "netfs" else "",
        device=source if type in ("fs", "disk") else "",
        source_name=source if type in ("logical", "rbd") else "",
        format=format,
        auth=auth,
        permissions=permissions,
    )


def nova_pools(
    instances: str = "/var/lib/nova/instances", *, kinds: bool = False
) -> tuple[Document, ...]:
    """The pools of the spec on a host of Nova's: its image cache, its disks, and snapshots.

    instances: Nova's instances_path. kinds: a pool for each kind of disk instead of one for all.
    Raises PoolError.
    Spec: `nova-base-images-pool` is "a directory pool" over the image cache.
    """
    disks = [(f"nova-{kind}-pool", f"disks-{kind}") for kind in _KINDS]
    places = [
        ("nova-base-images-pool", "_base"),
        *(disks if kinds else [("nova-disks-pool", "disks")]),
        (SNAPSHOT_POOL, "snapshots-pool"),
    ]
    return tuple(pool(name, "dir", target=f"{instances}/{place}") for name, place in places)


def parse_source(type: str, text: str) -> tuple[str, tuple[tuple[str, int | None], ...]]:
    """(source, hosts) of what `--source` says: HOST:/PATH, DEVICE, VG, or MONITOR[,...]/POOL.

    Raises PoolError.
    """
    if type == "netfs":
        match = re.fullmatch(r"(\[[^]/]*\]|[^:/]*)(?::([0-9]+))?:(/.*)", text)
        if not match:
            raise PoolError("pool-source", f"not an export: {text!r}; write HOST:/PATH")
        return match.group(3), ((match.group(1), _port(match.group(2))),)
    if type == "rbd":
        monitors, slash, source = text.rpartition("/")
        if not slash:
            raise PoolError("pool-source", f"not a Ceph pool: {text!r}; write MONITOR[,...]/POOL")
        hosts = []
        for monitor in monitors.split(","):
            match = re.fullmatch(r"(\[[^]]*\]|[^:]*)(?::([0-9]+))?", monitor)
            if not match:
                raise PoolError("pool-source", f"not a monitor: {monitor!r}; write HOST[:PORT]")
            hosts.append((match.group(1), _port(match.group(2))))
        return source, tuple(hosts)
    return text, ()


def commands(document: Document, *, autostart: bool = True) -> tuple[Command, ...]:
    """The virsh commands that do what actions.create_pool does to a host without the pool."""
    name = document.name or ""
    found = [Command(("virsh", "pool-define", "--file", "/dev/stdin"), document)]
    undo = ("virsh", "pool-undefine", "--pool", name)
    if document.root.get("type") in BUILT:
        found.append(Command(("virsh", "pool-build", "--pool", name), undo=undo))
    found.append(Command(("virsh", "pool-start", "--pool", name), undo=undo))
    if autostart:
        found.append(Command(("virsh", "pool-autostart", "--pool", name)))
    return tuple(found)


def _port(text: str | None) -> int | None:
    return None if text is None else int(text)


def _check_path(id: str, what: str, path: str) -> None:
    if not is_plain_path(path):
        raise PoolError(
            id, f"{what} is {path!r}: write an absolute path without '.', '..', '//' or controls"
        )


def _fault_of_source(type: str, source: str) -> str | None:
    if type == "dir":
        return "has no source: its target is the directory" if source else None
    if not source:
        return "needs a source"
    if type in ("fs", "disk", "netfs"):
        _check_path("pool-source", "the source", source)
    elif type == "logical":
        if not _VG.fullmatch(source):
            return f"cannot be of the volume group {source!r}: LVM takes letters, digits and +_.-"
    elif not source.isprintable() or {"/", "@", ":"} & set(source):
        return f"cannot be of the Ceph pool {source!r}: it has '/', '@', ':' or controls"
    return None


def _check_hosts(type: str, hosts: Sequence[tuple[str, int | None]]) -> None:
    if type not in ("netfs", "rbd"):
        if hosts:
            raise PoolError("pool-source", f"a {type} pool is on this host: name no other")
        return
    if not hosts or (type == "netfs" and len(hosts) > 1):
        wanted = "one server" if type == "netfs" else "its monitors"
        raise PoolError("pool-source", f"a {type} pool needs {wanted}")
    for host, port in hosts:
        if not _HOST.fullmatch(host) and not _is_address(host.strip("[]")):
            raise PoolError("pool-source", f"not the name or address of a host: {host!r}")
        if port is not None and not 0 < port < 65536:
            raise PoolError("pool-source", f"not a port: {port}")


def _is_address(text: str) -> bool:
    with contextlib.suppress(ValueError):
        # libvirt's schema has no scope
        return not ipaddress.IPv6Address(text).scope_id
    return False


def _check_auth(type: str, auth: Auth) -> None:
    if type != "rbd":
        raise PoolError("pool-auth", f"a {type} pool is not asked who we are: only rbd is")
    if not auth.username or not auth.username.isprintable():
        raise PoolError("pool-auth", f"not a user of Ceph: {auth.username!r}")
    if not names.UUID.fullmatch(auth.secret):
        # it may be the key itself: it is not repeated
        raise PoolError(
            "pool-auth",
            "the key is said by the UUID of libvirt's secret (virsh secret-list), not by itself",
        )
