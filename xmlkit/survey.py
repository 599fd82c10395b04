"""Survey: what libvirt and the file system say of a host's domains and of their images.

Laws
- It only reads: no image is opened for writing, no process is started, and what vanishes while it
  is read is left out.
- Backing files are followed by declared formats alone: of an image whose format is qcow2 by the
  domain's `<driver type>`, or by the header of the qcow2 image above it, the header is read; no
  other image is opened at all.
- Every domain is read, also if only some are asked for: the others may use the same images.
- Its cost grows with the number of domains and the number of volumes, never with their product.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from lxml import etree

from xmlkit.disks import PATH_ATTRIBUTES, Disk, read_domain
from xmlkit.document import Document
from xmlkit.host import HOST_LIMITS, NAMED_BY_PATH, Host, parse_host, sanitized
from xmlkit.observe import is_local, observe, why_off

__all__ = [
    "Backing",
    "Directory",
    "File",
    "Guest",
    "Survey",
    "Use",
    "backing_of",
    "resolved",
    "survey",
]

# As many images as libvirt and QEMU allow one above the other.
_CHAIN = 200

_STATES = ("no state", "running", "blocked", "paused", "in shutdown", "shut off", "crashed")


@dataclass(frozen=True)
class Guest:
    """A domain, as far as libvirt tells of it.

    document: its persistent XML (INACTIVE, and SECURE if the survey was asked for it). state: in
    virsh's words ("running", "paused", "shut off", "crashed", ...). persistent: whether it
    outlives its end. live: the XML of an active domain. snapshots, checkpoints: each one's own
    XML. managed_save: whether there is an image; saved: the XML in it, None where libvirt does not
    give it. block_jobs: the targets of disks that have one.
    """

    uuid: str
    name: str
    document: Document
    state: str = "shut off"
    migrated: bool = False
    persistent: bool = True
    live: Document | None = None
    snapshots: tuple[Document, ...] = ()
    checkpoints: tuple[Document, ...] = ()
    managed_save: bool = False
    saved: Document | None = None
    block_jobs: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        """Whether it runs, or is paused: whether QEMU has its images open."""
        return self.live is not None


class Backing(NamedTuple):
    """What a qcow2 header says: the backing file as it is written there, and its format."""

    file: str | None
    format: str | None


@dataclass(frozen=True)
class File:
    """What is at an image's path. Sizes in bytes.

    kind: "file", "block", "missing", "other", or "unseen" where looking failed; error says why.
    link: the path itself is a symbolic link (of a block device only what it leads to is told).
    device, inode, links: as lstat has them. allocated: what it takes on its file system.
    remembered: the attributes trusted.libvirt.security.* that it has. format: as it was declared.
    header: of a qcow2 image, None if it has none.
    """

    path: str
    kind: str = "file"
    link: bool = False
    device: int = 0
    inode: int = 0
    links: int = 1
    size: int = 0
    allocated: int = 0
    uid: int = 0
    gid: int = 0
    mode: int = 0o600
    remembered: tuple[str, ...] = ()
    format: str | None = None
    header: Backing | None = None
    error: str = ""

    @property
    def backing(self) -> str | None:
        """The path of the backing file, absolute; None without one, or if it is no path."""
        return None if self.header is None else resolved(self.header.file, self.path)


@dataclass(frozen=True)
class Directory:
    """A directory that images may move into.

    device: of its file system, of the type file_system. free: bytes that may be written. entries:
    the inode of each name in it. closed: of it and those above it, the ones that QEMU's user may
    not search. error: why it could not be looked at; the rest is empty then.
    """

    path: str
    device: int = 0
    file_system: str = ""
    free: int = 0
    read_only: bool = False
    entries: Mapping[str, int] = field(default_factory=dict)
    closed: tuple[str, ...] = ()
    error: str = ""


class Use(NamedTuple):
    """A domain that uses an image: by its disk `target`, from which it may be further down."""

    uuid: str
    name: str
    target: str


@dataclass(frozen=True)
class Survey:
    """What a host says of its domains and their images.

    guests: the domains that were asked for. local: whether the files are this machine's; if not,
    files and directories are empty. uses: which domains' disks are at a path, by paths without
    doubled slashes. real: the directories of images, each without symbolic links. overlays: which
    images a path backs. transient_pools: their names. nova_aware: whether Nova on this host knows
    of pools, which only its operator can say.
    """

    host: Host
    guests: tuple[Guest, ...] = ()
    local: bool = True
    files: Mapping[str, File] = field(default_factory=dict)
    directories: Mapping[str, Directory] = field(default_factory=dict)
    uses: Mapping[str, tuple[Use, ...]] = field(default_factory=dict)
    overlays: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    transient_pools: frozenset[str] = frozenset()
    nova_aware: bool = False
    real: Mapping[str, str] = field(default_factory=dict)

    def path_of(self, disk: Disk) -> str | None:
        """Where a disk's image is; None if it has no path or only libvirt knows it."""
        return _path_of(disk, self.host)

    def same(self, path: str) -> tuple[str, ...]:
        """The paths that are known to lead to the image at `path`, itself among them."""
        file = self.files.get(path)
        if file is None or not file.inode:
            return (path,)
        return self._by_inode[file.device, file.inode]

    @cached_property
    def _by_inode(self) -> dict[tuple[int, int], tuple[str, ...]]:
        found: dict[tuple[int, int], tuple[str, ...]] = {}
        for path, file in self.files.items():
            key = file.device, file.inode
            found[key] = (*found.get(key, ()), path)
        return found


def survey(
    connection: Any,
    domains: Collection[str] | None = None,
    *,
    secure: bool = False,
    directories: Collection[str] = (),
    nova_aware: bool = False,
) -> Survey:
    """What `connection` and the file system say of the domains with these names or UUIDs.

    domains: None for all; one that libvirt does not have is not among the guests. secure: with
    passwords, as XML that goes back into libvirt needs them; not on a read-only connection.
    directories: to be looked at besides those of the pools. Raises what libvirt raises.
    """
    import libvirt

    host = parse_host(observe(connection), replace(HOST_LIMITS, markup=1 << 30))
    local = is_local(connection.getURI())
    guests, others = _guests(connection, domains, secure)
    known = _Images(host, local)
    for document, live in (*((guest.document, guest.live) for guest in guests), *others):
        for each in (document, live):
            if each is not None:
                known.add(each)
    user = _qemu_user(connection.getCapabilities()) if local else None
    places = {pool.path for pool in host.pools if pool.type in NAMED_BY_PATH and pool.path}
    mounts = _file_systems() if local else {}
    transient = _answer(
        connection.listAllStoragePools, libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_TRANSIENT
    )
    return Survey(
        host=host,
        guests=tuple(guests),
        local=local,
        files=known.files,
        directories={
            path: _directory(path, user, mounts) for path in sorted(places.union(directories))
        }
        if local
        else {},
        uses={path: tuple(uses) for path, uses in known.uses.items()},
        overlays={path: tuple(sorted(above)) for path, above in known.overlays.items()},
        transient_pools=frozenset(pool.name() for pool in transient or ()),
        nova_aware=nova_aware,
        real={path: os.path.realpath(path) for path in map(os.path.dirname, known.files)}
        if local
        else {},
    )


# What libvirt says.


def _guests(
    connection: Any, domains: Collection[str] | None, secure: bool
) -> tuple[list[Guest], list[tuple[Document, Document | None]]]:
    """The guests, and (persistent XML, live XML) of the domains that were not asked for."""
    import libvirt

    secured = libvirt.VIR_DOMAIN_XML_SECURE if secure else 0
    marked = {
        name: _marked(connection, flag)
        for name, flag in (
            ("persistent", libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT),
            ("saved", libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE),
            ("snapshots", libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT),
            ("checkpoints", getattr(libvirt, "VIR_CONNECT_LIST_DOMAINS_HAS_CHECKPOINT", 0)),
        )
    }
    guests, others = [], []
    for domain in connection.listAllDomains():
        try:
            uuid, name = domain.UUIDString(), domain.name()
            document = _document(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | secured))
            active = bool(domain.isActive())
            live = _document(domain.XMLDesc(secured)) if active else None
            if domains is not None and uuid not in domains and name not in domains:
                others.append((document, live))
                continue
            state = domain.state()[0]
            if not active:
                state = libvirt.VIR_DOMAIN_SHUTOFF
            saved = uuid in marked["saved"]
            guests.append(
                Guest(
                    uuid=uuid,
                    name=name,
                    document=document,
                    state=_STATES[state] if state < len(_STATES) else "suspended",
                    migrated=not active and why_off(domain) == "migrated",
                    persistent=uuid in marked["persistent"],
                    live=live,
                    snapshots=_snapshots(domain, secure) if uuid in marked["snapshots"] else (),
                    checkpoints=_checkpoints(domain, secure)
                    if uuid in marked["checkpoints"]
                    else (),
                    managed_save=saved,
                    saved=_saved(domain, secure) if saved else None,
                    block_jobs=() if live is None else _block_jobs(domain, live),
                )
            )
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
    return sorted(guests, key=lambda guest: (guest.name, guest.uuid)), others


def _marked(connection: Any, flag: int) -> set[str]:
    """The UUIDs of the domains that a filter of listAllDomains lets through."""
    if not flag:
        return set()
    return {domain.UUIDString() for domain in _answer(connection.listAllDomains, flag) or ()}


def _answer(call: Any, *arguments: Any) -> Any:
    """What libvirt answers, None where the driver or its version has no such thing."""
    import libvirt

    try:
        return call(*arguments)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_INVALID_ARG):
            return None
        raise


def _document(xml: str) -> Document:
    return Document.parse(xml, replace(HOST_LIMITS, markup=1 << 30))


def _snapshots(domain: Any, secure: bool) -> tuple[Document, ...]:
    import libvirt

    flags = libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE if secure else 0
    return tuple(_document(each.getXMLDesc(flags)) for each in domain.listAllSnapshots())


def _checkpoints(domain: Any, secure: bool) -> tuple[Document, ...]:
    import libvirt

    flags = libvirt.VIR_DOMAIN_CHECKPOINT_XML_SECURE if secure else 0
    return tuple(_document(each.getXMLDesc(flags)) for each in domain.listAllCheckpoints())


def _saved(domain: Any, secure: bool) -> Document | None:
    import libvirt

    flags = libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE if secure else 0
    try:
        return _document(domain.managedSaveGetXMLDesc(flags))
    except libvirt.libvirtError:
        # the image is there, and may be damaged or of another version: that is enough to know
        return None


def _block_jobs(domain: Any, live: Document) -> tuple[str, ...]:
    import libvirt

    found = []
    for disk in read_domain(live).disks:
        if "mirror" in disk.children:
            found.append(disk.target)
            continue
        try:
            if disk.target and domain.blockJobInfo(disk.target):
                found.append(disk.target)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                raise
            # an empty drive has no job, and some drivers have none at all
    return tuple(found)


def _qemu_user(capabilities: str) -> tuple[int, int] | None:
    """The user and group that QEMU runs as, by the capabilities' `<baselabel>` of DAC."""
    for model in etree.fromstring(capabilities.encode()).iterfind("host/secmodel"):
        if model.findtext("model") == "dac":
            label = (model.findtext("baselabel") or "").replace("+", "").split(":")
            if len(label) == 2 and all(part.isdecimal() for part in label):
                return int(label[0]), int(label[1])
    return None


# What the file system says.


class _Images:
    """The images of the domains that are added: who uses them, and what they are backed by."""

    def __init__(self, host: Host, local: bool) -> None:
        self.host = host
        self.local = local
        self.files: dict[str, File] = {}
        self.uses: dict[str, list[Use]] = {}
        self.overlays: dict[str, set[str]] = {}

    def add(self, document: Document) -> None:
        domain = read_domain(document)
        for disk in domain.disks:
            path = _path_of(disk, self.host)
            if path is None:
                continue
            use = Use(domain.uuid, domain.name, disk.target)
            self._use(path, use)
            above, format_ = path, disk.image_format
            for below, below_format in self._declared(disk):
                self.overlays.setdefault(below, set()).add(above)
                self._look(above, format_)
                above, format_ = below, below_format
            self._follow(above, format_)

    def _use(self, path: str, use: Use) -> None:
        uses = self.uses.setdefault(path, [])
        if use not in uses:
            uses.append(use)

    def _declared(self, disk: Disk) -> Iterator[tuple[str, str]]:
        """(path, format) of each image that `<backingStore>` names."""
        store = disk.children.get("backingStore")
        for _ in range(_CHAIN):
            if store is None:
                return
            source, format_ = store.find("source"), store.find("format")
            attribute = PATH_ATTRIBUTES.get(store.get("type", "file"))
            path = source.get(attribute) if source is not None and attribute else None
            if source is not None and store.get("type") == "volume":
                pool = self.host.by_name.get(source.get("pool") or "")
                path = None if pool is None else pool.path_of(source.get("volume") or "")
            if path:
                yield sanitized(path), "raw" if format_ is None else format_.get("type", "raw")
            store = store.find("backingStore")

    def _follow(self, path: str, format_: str) -> None:
        """The images below one, as far as each header declares the next one's format."""
        for _ in range(_CHAIN):
            before = self.files.get(path)
            file = self._look(path, format_)
            if file is before or file is None or file.header is None or file.backing is None:
                return
            self.overlays.setdefault(file.backing, set()).add(path)
            # an undeclared format is not followed, and libvirt does not start such a guest
            path, format_ = file.backing, file.header.format or "raw"

    def _look(self, path: str, format_: str) -> File | None:
        """What is at `path`, looked at once, and once more if it turns out to be a qcow2 image."""
        if not self.local:
            return None
        known = self.files.get(path)
        if known is None or (known.format != format_ and format_ == "qcow2"):
            known = self.files[path] = _file(path, format_)
        return known


def _path_of(disk: Disk, host: Host) -> str | None:
    address = disk.address
    if address.type == "volume":
        pool = host.by_name.get(address.pool or "")
        path = pool.path_of(address.volume) if pool is not None and address.volume else None
    else:
        path = address.path
    return sanitized(path) if path else None


def _file(path: str, format_: str) -> File:
    try:
        status = os.lstat(path)
        link = stat.S_ISLNK(status.st_mode)
        if link:
            status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        return File(path, "missing", format=format_, error=str(error.strerror))
    except (OSError, ValueError) as error:
        return File(path, "unseen", format=format_, error=getattr(error, "strerror", "") or "")
    kind = "other"
    if stat.S_ISREG(status.st_mode):
        kind = "file"
    elif stat.S_ISBLK(status.st_mode):
        kind = "block"
    header: Backing | None = None
    remembered: tuple[str, ...] = ()
    fault = ""
    if kind != "other":
        try:
            remembered = _remembered(path)
            # behind a link may be whatever somebody wants to have read
            if format_ == "qcow2" and (kind == "block" or not link):
                header = backing_of(path)
        except OSError as error:
            kind, fault = "unseen", str(error.strerror)
    return File(
        path=path,
        kind=kind,
        link=link,
        device=status.st_dev,
        inode=status.st_ino,
        links=status.st_nlink,
        size=status.st_size,
        allocated=status.st_blocks * 512,
        uid=status.st_uid,
        gid=status.st_gid,
        mode=stat.S_IMODE(status.st_mode),
        remembered=remembered,
        format=format_,
        header=header,
        error=fault,
    )


def _remembered(path: str) -> tuple[str, ...]:
    if not hasattr(os, "listxattr"):
        return ()
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        # a file system without them remembers nothing
        return ()
    return tuple(sorted(name for name in names if name.startswith("trusted.libvirt.security.")))


def backing_of(path: str) -> Backing | None:
    """What the qcow2 header of the image at `path` says; None if it has no such header.

    Only to be asked of images that are declared to be qcow2: in a raw one the guest writes the
    header. Reads no more than the fixed header, its extensions and the name, 64 KiB at the most.
    Raises OSError; a symbolic link is not followed to a file.

    Source: docs/interop/qcow2.txt of QEMU.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    if not stat.S_ISBLK(os.stat(path).st_mode):
        flags |= os.O_NOFOLLOW
    descriptor = os.open(path, flags)
    try:
        if stat.S_IFMT(os.fstat(descriptor).st_mode) not in (stat.S_IFREG, stat.S_IFBLK):
            return None
        head = os.pread(descriptor, 104, 0)
        if len(head) < 72 or head[:4] != b"QFI\xfb":
            return None
        version, offset, length = struct.unpack(">IQI", head[4:20])
        if version not in (2, 3) or length > 1023:
            return None
        if not offset:
            return Backing(None, None)
        start = 72
        if version == 3:
            if len(head) < 104:
                return None
            start = struct.unpack(">I", head[100:104])[0]
        if not start <= offset <= 1 << 21:
            return None
        name = os.pread(descriptor, length, offset)
        # the extensions stand between the header and the name
        extensions = os.pread(descriptor, min(offset - start, 1 << 16), start)
        return Backing(os.fsdecode(name), _backing_format(extensions))
    finally:
        os.close(descriptor)


def _backing_format(extensions: bytes) -> str | None:
    at = 0
    while at + 8 <= len(extensions):
        kind, length = struct.unpack_from(">II", extensions, at)
        if kind == 0:
            return None
        if kind == 0xE2792ACA:
            return extensions[at + 8 : at + 8 + length].decode(errors="replace")
        at += 8 + (length + 7 & ~7)
    return None


def resolved(backing: str | None, image: str) -> str | None:
    """The path that a backing file's name in the header of `image` means; None for no path."""
    if backing is None:
        return None
    name = backing.removeprefix("file:")
    if name.startswith("/"):
        return sanitized(name)
    if ":" in name.partition("/")[0]:
        return None  # nbd:, json:, rbd: and others
    return sanitized(os.path.normpath(os.path.join(os.path.dirname(image), name)))


def _directory(path: str, user: tuple[int, int] | None, mounts: Mapping[int, str]) -> Directory:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        link = os.path.islink(path)
        fault = "it is a symbolic link" if link else getattr(error, "strerror", "") or str(error)
        return Directory(path, error=fault)
    try:
        status, room = os.fstat(descriptor), os.fstatvfs(descriptor)
        with os.scandir(descriptor) as entries:
            names = {entry.name: entry.inode() for entry in entries}
        closed = () if user is None else tuple(_closed(path, *user))
    except OSError as error:
        return Directory(path, error=str(error.strerror))
    finally:
        os.close(descriptor)
    if (real := os.path.realpath(path)) != os.path.normpath(path):
        return Directory(path, error=f"it is {real} by symbolic links")
    return Directory(
        path=path,
        device=status.st_dev,
        file_system=mounts.get(status.st_dev, ""),
        free=room.f_bavail * room.f_frsize,
        read_only=bool(room.f_flag & os.ST_RDONLY),
        entries=names,
        closed=closed,
    )


def _closed(path: str, uid: int, gid: int) -> Iterator[str]:
    """Which directories of a path this user may not search; groups besides `gid` do not count."""
    if uid == 0:
        return
    while True:
        status = os.stat(path)
        bit = 0o100 if status.st_uid == uid else 0o010 if status.st_gid == gid else 0o001
        if not status.st_mode & bit:
            yield path
        if path in ("/", ""):
            return
        path = os.path.dirname(path)


def _file_systems() -> dict[int, str]:
    """The type of each mounted file system, by its device."""
    found = {}
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:
            for line in mounts:
                fields = line.split()
                major, minor = fields[2].split(b":")
                device = os.makedev(int(major), int(minor))
                found[device] = os.fsdecode(fields[fields.index(b"-") + 1])
    except OSError:
        return {}
    return found
