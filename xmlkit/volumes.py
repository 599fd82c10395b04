"""The volumes and snapshots that libvirt is asked to create, and what has to be done besides.

Laws
- What libvirt would refuse or, worse, silently ignore is refused here, with the reason.
- Every format is given by the caller: of the image, of its backing file, of the source. A pool's
  word for a format is a probe of bytes that a guest may have written; it may confirm, never decide.
- A document says what it can say. What libvirt has no element for (flags, a resize, compression)
  stands beside it in a Creation, in the order in which it is done.
- Nothing here touches a host: actions.py does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from xmlkit import names
from xmlkit.disks import read_domain, shared_targets
from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.host import (
    CAPABILITIES,
    Host,
    Pool,
    Volume,
    is_plain_path,
    sanitized,
    version_text,
)
from xmlkit.shell import Command
from xmlkit.templates import render

__all__ = [
    "SNAPSHOT_POOL",
    "Creation",
    "Fill",
    "Permissions",
    "Target",
    "VolumeError",
    "blank",
    "commands",
    "copy",
    "domain_snapshot",
    "overlay",
    "snapshot",
]

# Snapshots go into a pool of their own: what scans or cleans the pool of disks shall not meet them.
SNAPSHOT_POOL = "nova-snapshots-pool"

KIB = 1024
CLUSTER = 64 * KIB  # of a qcow2 image, unless it is asked for another (QEMU's default)
_LARGEST = 1 << 62  # bytes; QEMU counts in signed 64 bits
_LONGEST_BACKING = 1023  # bytes; docs/interop/qcow2.txt of QEMU

# What LVM takes for the name of a logical volume, and what it keeps for itself.
# Source: lvm(8), VALID NAMES.
_LV_NAME = re.compile(r"(?!-)(?!\.{1,2}$)[A-Za-z0-9+_.-]{1,127}")
_LV_RESERVED = re.compile(
    r"(snapshot|pvmove).*|.*_(cdata|cmeta|corig|cpool|cvol|imeta|iorig|mimage|mlog|pmspare|rimage"
    r"|rmeta|tdata|tmeta|vdata|vorigin|wcorig).*"
)

# For a shell: whether libvirt would read a volume as what it is said to be; "?" is a quote. What is
# on a block device or in Ceph libvirt takes for raw, without looking.
_GUARD = (
    'case $(virsh vol-dumpxml --pool "$1" --vol "$2") in *"<backingStore>"*) ;; {fitting}) exit ;; '
    'esac; echo "$1/$2 is not what it is said to be, $3 without a backing file" >&2; exit 1'
)
_FITTING = {
    "qcow2": ('"<format type="?qcow2?"/>"',),
    "raw": (
        *('"<format type="?raw?"/>"', '"<format type="?iso?"/>"', '"<format type="?luks?"/>"'),
        *('"<volume type="?block?">"', '"<volume type="?network?">"'),
    ),
}

Preallocation = Literal["no", "metadata", "full"]
Compression = Literal["zlib", "zstd"]
Flag = Literal["prealloc-metadata", "reflink"]


class VolumeError(XmlkitError, ValueError):
    """A volume or snapshot that cannot be made as asked for; id: of `xmlkit explain`."""

    def __init__(self, id: str, message: str) -> None:
        self.id = id
        super().__init__(f"{message} ({id})")


@dataclass(frozen=True, slots=True)
class Permissions:
    """Mode, and numbers of owner and group, of what is created; None: as libvirt does by itself."""

    mode: int | None = None
    owner: int | None = None
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """How a volume is written: what stands in its `<target>`.

    format: "raw" or "qcow2". cluster_size: bytes, of qcow2. lazy_refcounts, extended_l2: features
    of qcow2. nocow: no copy on write by the file system (btrfs). encryption: the UUID of libvirt's
    secret with the passphrase for LUKS; the passphrase itself never stands in a document.
    """

    format: str
    cluster_size: int | None = None
    lazy_refcounts: bool = False
    extended_l2: bool = False
    nocow: bool = False
    encryption: str | None = None
    permissions: Permissions | None = None


class Fill(NamedTuple):
    """How the content of a volume comes from an image: by qemu-img, which never probes.

    options: of the new image; without them (-n) it goes into the volume as libvirt created it.
    compress: libvirt has no compression in a volume's XML, in no version; it is this.
    """

    source: str
    source_format: str
    target: str
    target_format: str
    compress: Compression | None = None
    options: tuple[str, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        """The command: qemu-img convert. It takes locks, so it fails on an image in use."""
        words = ["qemu-img", "convert", "-f", self.source_format, "-O", self.target_format]
        words += ["-c"] if self.compress else []
        words += ["-o", ",".join(self.options)] if self.options else ["-n"]
        return (*words, self.source, self.target)


class Creation(NamedTuple):
    """What libvirt is asked for to create one volume, and what is done then.

    pool: in which. document: `<volume>`. flags: as virsh spells them. source: pool and volume that
    createXMLFrom copies. source_format: what that volume must be. capacity: bytes to grow to
    afterwards, since createXMLFrom ignores a larger one. fill: how the content comes in.
    """

    pool: str
    document: Document
    flags: tuple[Flag, ...] = ()
    source: tuple[str, str] | None = None
    source_format: str = ""
    capacity: int | None = None
    fill: Fill | None = None

    @property
    def name(self) -> str:
        """Of the volume."""
        return self.document.name or ""


def blank(
    host: Host,
    pool: Pool,
    name: str,
    target: Target,
    capacity: int,
    preallocate: Preallocation = "no",
) -> Creation:
    """An empty volume of `capacity` bytes: swap, ephemeral, config drive.

    It is sparse unless it is preallocated; in pools of block devices it is always allocated.
    preallocate: "metadata" lays out a qcow2 image, "full" reserves all of its space.
    Raises VolumeError.
    Source: virStorageVolCreateXML; storage_util.c, libvirt 9.0.0: a missing allocation is a full
    one, and preallocation of qcow2 is a flag.
    """
    _check(host, pool, name, target)
    _check_capacity(target, capacity)
    images = host.can("image-volumes", pool.type)
    flags = _preallocation(host, pool, target, preallocate)
    allocation = capacity if preallocate == "full" or not images else 0
    document = _volume(pool, name, target, capacity, allocation)
    return Creation(pool.name, document, flags)


def overlay(
    host: Host,
    pool: Pool,
    name: str,
    target: Target,
    backing: str,
    backing_format: str,
    capacity: int | None = None,
) -> Creation:
    """A qcow2 volume that starts as the image `backing` and keeps only what differs from it.

    backing: its absolute path. backing_format: "raw" or "qcow2"; libvirt takes a missing one for
    raw, silently. capacity: bytes; without it, that of the backing image.
    Raises VolumeError.
    Source: virStorageVolCreateXML, libvirt 9.0.0; seen on 7.0 to 12.8.
    """
    _check(host, pool, name, target)
    if not host.can("image-volumes", pool.type):
        raise VolumeError(
            "volume-backing",
            f"a volume in a {pool.type} pool has no backing file: copy the image instead",
        )
    if target.format != "qcow2":
        raise VolumeError(
            "volume-backing", f"a {target.format} image has no backing file: only qcow2 has"
        )
    _check_path("the backing image", backing)
    if len(backing.encode()) > _LONGEST_BACKING:
        raise VolumeError(
            "volume-path", f"the path of the backing image is over {_LONGEST_BACKING} bytes long"
        )
    if backing == pool.path_of(name):
        raise VolumeError("volume-backing", f"{backing} cannot be its own backing image")
    found = host.lookup(backing)
    observed = _agreeing(found[2] if found else None, backing_format, "the backing image")
    if capacity is not None:
        _check_capacity(target, capacity)
        if observed is not None and observed.capacity and capacity < observed.capacity:
            raise VolumeError(
                "volume-capacity",
                f"{capacity} bytes are less than the {observed.capacity} of {backing}: the guest "
                "would lose its end",
            )
    document = _volume(pool, name, target, capacity, 0, backing, backing_format)
    return Creation(pool.name, document)


def copy(
    host: Host,
    pool: Pool,
    name: str,
    target: Target,
    source_pool: Pool,
    source: str,
    source_format: str,
    capacity: int | None = None,
    preallocate: Preallocation = "no",
    *,
    reflink: bool = False,
) -> Creation:
    """A copy that libvirt makes (createXMLFrom) of a verified base image, never of a guest's disk.

    libvirt finds out the source's format by probing its bytes, and follows the backing file that
    they name: a guest's disk is copied by `snapshot`, which is told the format. A copy has no
    backing file, whatever is asked for, and is never compressed. Unless both are raw, a larger
    capacity is ignored: growing is a step of its own. Within an rbd pool it is a clone, whose
    parent is a snapshot of the source. From raw to raw libvirt takes four to ten times as long as
    `snapshot` or a reflink.

    source_pool, source: the volume. source_format: what it must be. capacity: bytes, not less
    than the source's; needed unless that was observed. preallocate: as in `blank`. reflink: share
    the blocks, where the file system can (XFS, btrfs).
    Raises VolumeError.
    Source: virStorageBackendGetBuildVolFromFunction, libvirt 9.0.0.
    """
    _check(host, pool, name, target)
    if not host.can("copy-volumes", pool.type):
        raise VolumeError(
            "volume-copy",
            f"this host's libvirt cannot copy volumes into a {pool.type} pool: create the volume "
            "and fill it",
        )
    if fault := names.fault_of_volume_name(source):
        raise VolumeError("volume-name", f"{source!r} cannot be a volume: {fault}")
    if "rbd" in (pool.type, source_pool.type) and pool.name != source_pool.name:
        raise VolumeError(
            "volume-copy",
            f"libvirt cannot copy between {source_pool.name} and {pool.name}: in an rbd pool it "
            f"looks for an image named {source!r} and may clone another one. Create the volume, "
            "bring its content in with rbd import or qemu-img convert, and refresh the pool",
        )
    if pool.name == source_pool.name and name == source:
        raise VolumeError("volume-copy", f"{pool.name}/{name} cannot be copied to itself")
    observed = _agreeing(
        source_pool.by_name.get(source), source_format, "the source", by_libvirt=True
    )
    if observed is not None and observed.backing:
        raise VolumeError(
            "volume-copy",
            f"{source_pool.name}/{source} has the backing file {observed.backing}: only images "
            "that stand alone are copied; say snapshot to flatten one",
        )
    # libvirt copies itself, by no program; the pool of an encrypted volume says so
    loop = target.format == source_format == "raw" and not target.encryption
    loop = loop and pool.type != "rbd" and not (observed is not None and observed.encryption)
    flags = _preallocation(host, pool, target, preallocate)
    if reflink:
        if preallocate != "no":
            raise VolumeError("volume-option", "a reflink shares its blocks: preallocate none")
        if not host.can("volume-reflink"):
            raise _too_old(host, "reflink", "volume-reflink")
        if not loop or not host.can("image-volumes", pool.type):
            raise VolumeError(
                "volume-option",
                "libvirt makes a reflink only of a raw image to a raw image in a directory, fs or "
                "netfs pool, without encryption",
            )
    if capacity is not None:
        _check_capacity(target, capacity)
        if observed is not None and observed.capacity and capacity < observed.capacity:
            raise VolumeError(
                "volume-capacity",
                f"{capacity} bytes are less than the {observed.capacity} of "
                f"{source_pool.name}/{source}: a copy cannot be smaller",
            )
    blocks = not host.can("image-volumes", pool.type)
    size = capacity if observed is None or capacity is not None else observed.capacity
    if size is None:
        raise VolumeError(
            "volume-capacity",
            f"the size of {source_pool.name}/{source} is not known: say the capacity, or observe "
            "the host",
        )
    # a block device, or an encrypted image, has its size before the content comes
    honoured = loop or target.encryption is not None or (blocks and pool.type != "rbd")
    # left out it is a full one
    allocation = size if blocks or preallocate == "full" else 0
    return Creation(
        pool.name,
        _volume(pool, name, target, size, allocation),
        ("reflink",) if reflink else flags,
        (source_pool.name, source),
        source_format,
        None if honoured else capacity,
    )


def snapshot(
    host: Host,
    pool: Pool,
    name: str,
    target: Target,
    source: str,
    source_format: str,
    capacity: int,
    compress: Compression | None = None,
) -> Creation:
    """A volume with the content of the disk `source`, flat, and how it is filled by qemu-img.

    libvirt has no compression in a volume's XML and never compresses: a compressed snapshot is
    a qcow2 volume into which `qemu-img convert -c` writes. It replaces the image within the
    volume's file where the target's own layout would not do: for zstd, and for zlib where the
    capacity is no multiple of the cluster size.

    source: the absolute path of the disk, which no guest has open. source_format: its `<driver
    type>`. capacity: bytes, the source's. compress: zlib (slow, read by every QEMU) or zstd
    (QEMU 5.1 and newer, if it was built with it: Debian 11's was not).
    Raises VolumeError.
    """
    _check(host, pool, name, target)
    if pool.type == "rbd":
        raise VolumeError(
            "volume-copy",
            "xmlkit does not fill rbd volumes: create the volume, bring its content in with rbd "
            "import or qemu-img convert, and refresh the pool",
        )
    if target.encryption:
        raise VolumeError(
            "volume-option", "an encrypted volume is not filled: qemu-img would need the passphrase"
        )
    if compress and target.format != "qcow2":
        raise VolumeError(
            "volume-option", f"a {target.format} image cannot be compressed: only qcow2 can"
        )
    if capacity % 512 or not 0 < capacity <= _LARGEST:
        raise VolumeError(
            "volume-capacity",
            f"{capacity} bytes are not the size of a disk: it has 512-byte blocks",
        )
    _check_path("the source", source)
    path = pool.path_of(name)
    if path is None:
        raise VolumeError(
            "volume-path", f"the path of {pool.name}/{name} is not known: say --pool NAME=PATH"
        )
    if path == source:
        raise VolumeError("volume-copy", f"{path} cannot be filled from itself")
    found = host.lookup(source)
    _agreeing(found[2] if found else None, source_format, "the source")
    options: tuple[str, ...] = ()
    if compress == "zstd" or (compress and capacity % (target.cluster_size or CLUSTER)):
        options = (
            "compat=1.1",
            *([f"compression_type={compress}"] if compress == "zstd" else ()),
            *([f"cluster_size={target.cluster_size}"] if target.cluster_size else ()),
            *(f"{feature}=on" for feature in _features(target)),
            *(["nocow=on"] if target.nocow else ()),
        )
    blocks = not host.can("image-volumes", pool.type)
    # libvirt would round it up itself
    rounded = capacity if target.format == "raw" else -(-capacity // KIB) * KIB
    document = _volume(pool, name, target, rounded, rounded if blocks else 0)
    fill = Fill(source, source_format, path, target.format, compress, options)
    return Creation(pool.name, document, fill=fill)


def domain_snapshot(
    host: Host,
    domain: Document,
    name: str,
    files: Mapping[str, str],
    *,
    description: str = "",
    running: bool = True,
) -> Document:
    """The `<domainsnapshot>` of an external snapshot of disks; use it with disk-only.

    What a guest writes goes on in new qcow2 files; they are named by path, since a disk of a
    snapshot cannot be a volume. All other disks are said to take no part.

    files: the new file's absolute path by the target of each disk. running: whether the guest runs.
    Raises VolumeError: a target that the domain has not, a drive, and for a volume disk a libvirt
    that would lose data (before 9.0) or never delete the snapshot again (guest shut off). No
    version can revert to a snapshot of a volume disk.
    Source: domainsnapshot.rng; seen on 7.0, 9.0, 11.3 and 12.8.
    """
    if domain.kind != "domain":
        raise VolumeError("snapshot-disk", f"not a domain but a <{domain.kind}>")
    if not name or names.fault_of_volume_name(name):
        raise VolumeError("volume-name", f"a snapshot cannot be named {name!r}")
    disks = {disk.target: disk for disk in read_domain(domain).disks}
    if shared := shared_targets(read_domain(domain).disks):
        raise VolumeError("snapshot-disk", f"several disks have the target {min(shared)!r}")
    if missing := [target for target in files if target not in disks]:
        known = ", ".join(disks)
        raise VolumeError("snapshot-disk", f"no disk {missing[0]!r}: the domain has {known}")
    if not files:
        raise VolumeError("snapshot-disk", "no disk takes part: name the new file of one")
    if len(set(map(sanitized, files.values()))) < len(files):
        raise VolumeError("snapshot-disk", "two disks cannot write to one file")
    used = {disk.address.path for disk in disks.values()}
    for target, path in files.items():
        _check_path(f"the new file of {target}", path)
        if sanitized(path) in used:
            raise VolumeError("snapshot-disk", f"{path} is a disk of the domain already")
        disk = disks[target]
        if disk.device != "disk" or disk.address.type not in ("file", "block", "volume"):
            raise VolumeError(
                "snapshot-disk",
                f"{target} is a {disk.address.type} {disk.device}: external snapshots are made of "
                "disks that are files, block devices or volumes",
            )
        if disk.address.type == "volume" and not host.can("snapshot-volume-disks"):
            raise VolumeError(
                "snapshot-disk",
                f"{target} is a volume, and libvirt {version_text(host.libversion or 0)} would "
                "keep the old image in the persistent XML and lose what is written after the "
                "snapshot: turn it into a path first (xmlkit transform --to path)",
            )
        if disk.address.type == "volume" and not running:
            raise VolumeError(
                "snapshot-disk",
                f"{target} is a volume, and libvirt cannot delete a snapshot of it that was made "
                "while the guest was shut off: make it while it runs, or turn the disk into a "
                "path first",
            )
    return render(
        "domainsnapshot",
        name=name,
        description=description,
        disks=[(target, files.get(target)) for target in disks if target],
    )


def commands(creation: Creation) -> tuple[Command, ...]:
    """The virsh and qemu-img commands that do what actions.create_volume does."""
    pool, name = creation.pool, creation.name
    flags = tuple(f"--{flag}" for flag in creation.flags)
    words: tuple[str, ...] = ("virsh", "vol-create", "--pool", pool, "--file", "/dev/stdin")
    if creation.source is not None:
        words = ("virsh", "vol-create-from", "--pool", pool, "--file", "/dev/stdin")
        words += ("--inputpool", creation.source[0], "--vol", creation.source[1])
    delete = ("virsh", "vol-delete", "--pool", pool, "--vol", name)
    found = [*_guard(creation), Command(words + flags, creation.document)]
    if creation.capacity is not None:
        resize = ("virsh", "vol-resize", "--pool", pool, "--vol", name)
        found.append(Command((*resize, "--capacity", str(creation.capacity)), undo=delete))
    if creation.fill is not None:
        found.append(Command(creation.fill.argv, undo=delete))
        if creation.fill.options:
            # libvirt keeps what it knew of the image that was replaced
            found.append(Command(("virsh", "pool-refresh", "--pool", pool)))
    return tuple(found)


def _guard(creation: Creation) -> tuple[Command, ...]:
    """What is looked at before libvirt copies: it probes the source's bytes."""
    if creation.source is None:
        return ()
    fitting = "|".join(f"*{each}*" for each in _FITTING[creation.source_format])
    look = ("sh", "-c", _GUARD.format(fitting=fitting), "sh", *creation.source)
    # what libvirt knows of a file may be old; what it knows after this is what it will use
    refresh = Command(("virsh", "pool-refresh", "--pool", creation.source[0]))
    return refresh, Command((*look, creation.source_format))


def _check(host: Host, pool: Pool, name: str, target: Target) -> None:
    """Raise VolumeError for a name, pool or target that do not go together."""
    if fault := names.fault_of_pool_name(pool.name):
        raise VolumeError("volume-pool", f"{pool.name!r} cannot be a pool: {fault}")
    if not host.can("create-volumes", pool.type):
        raise VolumeError(
            "volume-pool",
            f"libvirt creates no volumes in a pool of type {pool.type} ({pool.name}): make it by "
            "the storage's own tools and refresh the pool",
        )
    if fault := _fault_of_name(pool, name):
        raise VolumeError("volume-name", f"{name!r} cannot be a volume in {pool.name}: {fault}")
    if name in pool.by_name:
        raise VolumeError("volume-exists", f"{pool.name} has a volume {name!r} already")
    if target.format not in ("raw", "qcow2"):
        raise VolumeError("volume-format", f"xmlkit makes raw and qcow2, not {target.format!r}")
    images = host.can("image-volumes", pool.type)
    if target.format != "raw" and not images:
        raise VolumeError(
            "volume-format",
            f"volumes in a {pool.type} pool are raw: {pool.name} cannot have a {target.format} one",
        )
    if target.format == "qcow2" and not host.can("volume-compat"):
        # without it such a libvirt leaves to QEMU which of two versions of qcow2 it makes
        raise _too_old(host, "compat for qcow2", "volume-compat")
    if target.encryption is not None:
        if not names.UUID.fullmatch(target.encryption):
            raise VolumeError(
                "volume-option",
                "encryption is said by the UUID of libvirt's secret (virsh secret-list), not by "
                "anything else",
            )
        if not images:
            raise VolumeError(
                "volume-option", f"xmlkit does not encrypt volumes in a {pool.type} pool"
            )
        if not host.can("volume-luks"):
            raise _too_old(host, "encryption", "volume-luks")
    if target.nocow and not images:
        raise VolumeError("volume-option", "nocow is for files: this pool has none")
    if target.permissions is not None:
        _check_permissions(target.permissions)
        if not host.can("volume-permissions", pool.type):
            raise VolumeError(
                "volume-option",
                f"owner and mode of a volume in a {pool.type} pool are not libvirt's to set",
            )
    if target.format != "qcow2" and (target.cluster_size or _features(target)):
        raise VolumeError(
            "volume-option", "cluster size, lazy_refcounts and extended_l2 are for qcow2 only"
        )
    size = target.cluster_size
    if size is not None and (size & (size - 1) or not 512 <= size <= 2 * KIB * KIB):
        raise VolumeError(
            "volume-option", f"a cluster of {size} bytes: it is a power of two, 512 to 2 MiB"
        )
    if target.extended_l2 and (size or CLUSTER) < 16 * KIB:
        raise VolumeError("volume-option", "extended_l2 needs clusters of 16 KiB or more")
    for wanted, id in (
        (target.cluster_size, "volume-cluster-size"),
        (target.lazy_refcounts, "volume-lazy-refcounts"),
        (target.extended_l2, "volume-extended-l2"),
        (target.nocow, "volume-nocow"),
    ):
        if wanted and not host.can(id):
            raise _too_old(host, id.removeprefix("volume-"), id)


def _preallocation(
    host: Host, pool: Pool, target: Target, preallocate: Preallocation
) -> tuple[Flag, ...]:
    """The flags of libvirt that reserve space; a raw file has its allocation and needs none."""
    if preallocate == "no":
        return ()
    if target.encryption:
        raise VolumeError("volume-option", "libvirt does not preallocate encrypted volumes")
    if pool.type == "rbd":
        raise VolumeError("volume-option", "an rbd pool does not preallocate")
    if target.format != "qcow2":
        if preallocate == "metadata":
            raise VolumeError("volume-option", "only qcow2 has metadata to preallocate")
        return ()
    if not host.can("volume-preallocation"):
        raise _too_old(host, "preallocation", "volume-preallocation")
    return ("prealloc-metadata",)


def _check_permissions(permissions: Permissions) -> None:
    if permissions.mode is not None and not 0 <= permissions.mode <= 0o777:
        raise VolumeError("volume-option", f"not the mode of a file: {permissions.mode:o}")
    for number in (permissions.owner, permissions.group):
        if number is not None and not 0 <= number < (1 << 32) - 1:
            raise VolumeError("volume-option", f"not the number of a user or group: {number}")


def _check_capacity(target: Target, capacity: int) -> None:
    # qemu-img is given KiB, raw files are made to the byte
    unit = 512 if target.format == "raw" and not target.encryption else KIB
    if not 0 < capacity <= _LARGEST or capacity % unit:
        raise VolumeError(
            "volume-capacity",
            f"a {target.format} volume of {capacity} bytes: libvirt would not make it to the byte; "
            f"give a multiple of {unit}",
        )


def _check_path(what: str, path: str) -> None:
    if not is_plain_path(path):
        raise VolumeError(
            "volume-path",
            f"{what} is {path!r}: write an absolute path without '.', '..', '//' or controls",
        )


def _fault_of_name(pool: Pool, name: str) -> str | None:
    if fault := names.fault_of_volume_name(name):
        return fault
    if not name.isprintable():
        return "it has a character that cannot be printed"
    if pool.type == "logical":
        if not _LV_NAME.fullmatch(name) or _LV_RESERVED.fullmatch(name):
            return "LVM takes letters, digits and +_.- and keeps some names for itself"
    elif pool.type == "disk":
        if not re.fullmatch(r"[a-z][a-z0-9]*[0-9]", name):
            return "a volume of a disk pool is a partition, named by its device as in sdb1"
    elif len(name.encode()) > 255:
        return "it is over 255 bytes long"
    elif pool.type == "rbd" and ("@" in name or ":" in name):
        return "'@' and ':' have a meaning in names of RBD"
    return None


def _agreeing(
    observed: Volume | None, format: str, what: str, *, by_libvirt: bool = False
) -> Volume | None:
    """The observed volume, if the pool's word for it is no other than what is said.

    by_libvirt: it reads the volume, and so has the key of one that is encrypted, and Ceph's.
    """
    if format not in ("raw", "qcow2"):
        raise VolumeError(
            "volume-format",
            f"the format of {what} must be said, raw or qcow2, not {format!r}; it is not guessed",
        )
    if observed is None:
        return None
    if observed.link:
        raise VolumeError("volume-path", f"{observed.path} is a symbolic link: name the file")
    if observed.type not in ("file", "block") and not (by_libvirt and observed.type == "network"):
        raise VolumeError("volume-path", f"{observed.path} is a {observed.type}, not an image")
    if observed.encryption and not by_libvirt:
        raise VolumeError(
            "volume-option", f"{observed.path} is encrypted: it cannot be {what.partition(' ')[2]}"
        )
    # the bytes of an ISO image, or of one that is encrypted, are a raw image
    fitting = {format, None} | ({"iso", "luks"} if format == "raw" else set())
    if observed.format not in fitting:
        raise VolumeError(
            "format-disagrees",
            f"{what} {observed.path} is said to be {format}, its pool says {observed.format}",
        )
    return observed


def _too_old(host: Host, what: str, capability: str) -> VolumeError:
    since = version_text(CAPABILITIES[capability].since)
    return VolumeError(
        "volume-version",
        f"libvirt {version_text(host.libversion or 0)} has no {what} (since {since})",
    )


def _features(target: Target) -> tuple[str, ...]:
    return ("lazy_refcounts",) * target.lazy_refcounts + ("extended_l2",) * target.extended_l2


def _volume(
    pool: Pool,
    name: str,
    target: Target,
    capacity: int | None,
    allocation: int | None,
    backing: str | None = None,
    backing_format: str | None = None,
) -> Document:
    return render(
        "volume",
        name=name,
        capacity=capacity,
        allocation=None if pool.type == "rbd" else allocation,
        # in a disk pool it would be the type of the partition, in a volume group there is none
        format=target.format if pool.type not in ("logical", "disk", "zfs") else None,
        permissions=target.permissions,
        encryption=target.encryption,
        # left out, libvirt before 10.2 makes 0.10, without bitmaps and features
        compat="1.1" if target.format == "qcow2" else None,
        nocow=target.nocow,
        cluster_size=target.cluster_size,
        features=_features(target),
        backing=backing,
        backing_format=backing_format,
    )
