"""Host: what libvirt reports of a machine, and what its version can do.

Laws
- A host is read from libvirt's own documents, or said by the operator (`--pool`); nothing here
  looks at a file system or a connection.
- What was not observed is None, and whoever relies on it says "not verified".
- Versions and capabilities stand in one table, each with its source and where it was seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from lxml import etree

from xmlkit.document import Document, Limits
from xmlkit.errors import XmlkitError

__all__ = [
    "CAPABILITIES",
    "POOL_DISK_TYPES",
    "Capability",
    "Host",
    "HostError",
    "Pool",
    "Volume",
    "is_plain_path",
    "parse_host",
    "parse_pool",
    "parse_pool_option",
    "parse_size",
    "parse_volume",
    "version_of",
    "version_text",
]

# A host is larger than other documents: some 45 tags and attributes a volume.
HOST_LIMITS = Limits(markup=800_000)

# What a volume of a pool is to QEMU: the disk type that a `<disk type='volume'>` on it is turned
# into. None: libvirt has no path for it, or refuses such a disk ("using '%s' pools for backing
# 'volume' disks isn't yet supported").
# Source: virDomainStorageSourceTranslateSourcePool, libvirt 9.0.0; rbd run on 9.0 and 11.3.
POOL_DISK_TYPES: dict[str, str | None] = {
    "dir": "file",
    "fs": "file",
    "netfs": "file",
    "vstorage": "file",
    "logical": "block",
    "disk": "block",
    "scsi": "block",
    "iscsi": "block",
    "zfs": "block",
    "iscsi-direct": None,
    "mpath": None,
    "rbd": None,
    "sheepdog": None,
    "gluster": None,
}

# Pools whose volume NAME is always the last part of the path: PATH/NAME.
NAMED_BY_PATH = frozenset(("dir", "fs", "netfs", "vstorage", "logical", "disk", "zfs"))


class Capability(NamedTuple):
    """One thing that not every host can do.

    since: first libvirt version, as libVersion() counts it (major * 1,000,000 + minor * 1,000 +
    release), 0 for any. only: the drivers or pool types that can, empty for all. never: the
    security models under which it cannot work. source: where that is said. seen: the versions on
    which it was tried.
    """

    id: str
    what: str
    source: str
    seen: tuple[str, ...]
    since: int = 0
    only: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()


CAPABILITIES = {
    each.id: each
    for each in (
        Capability(
            id="volume-disks",
            what="<disk type='volume'>",
            since=1_000_005,
            source="libvirt docs/formatdomain.rst: type 'volume' since 1.0.5",
            seen=("0.10.2 (schema: no)", "7.0.0", "9.0.0", "11.3.0", "12.8.0"),
        ),
        Capability(
            id="volume-disk-drivers",
            what="hypervisor drivers that turn a volume disk into a path",
            only=frozenset(("qemu", "kvm", "hvf", "bhyve", "test")),
            source="callers of virDomainDiskTranslateSourcePool in libvirt 9.0.0: qemu and bhyve; "
            "libxl and lxc refuse it, the test driver takes it without looking",
            seen=("7.0.0 (qemu)", "9.0.0 (qemu, test)", "11.3.0 (qemu)", "12.8.0 (qemu)"),
        ),
        Capability(
            id="volume-disk-pools",
            what="pool types that can be behind a volume disk",
            only=frozenset(type_ for type_, disk in POOL_DISK_TYPES.items() if disk)
            | {"iscsi-direct"},
            source="virDomainStorageSourceTranslateSourcePool, libvirt 9.0.0",
            seen=(
                "7.0.0 (dir, fs, disk)",
                "9.0.0 (dir, fs, disk, iscsi-direct; rbd: no)",
                "11.3.0 (dir, fs, disk; rbd: no)",
                "12.8.0 (dir, fs, disk)",
            ),
        ),
        Capability(
            id="volume-disk-security",
            what="security models under which a guest with volume disks can start",
            never=frozenset(("apparmor",)),
            source="virt-aa-helper makes the profile before libvirt asks the pool for the path, so "
            "the volume gets no rule",
            seen=("7.0.0 (no)", "9.0.0 (no)", "11.3.0 (no)", "12.8.0 (no)"),
        ),
        Capability(
            id="volume-slices",
            what="<slices> in the <source> of a volume disk",
            since=9_000_000,
            source="domaincommon.rng, define diskSourceVolume; the first release is not known",
            seen=("7.0.0 (no)", "9.0.0", "11.3.0", "12.8.0"),
        ),
        Capability(
            id="create-volumes",
            what="pool types in which libvirt creates volumes",
            only=frozenset(("dir", "fs", "netfs", "vstorage", "logical", "disk", "rbd", "zfs")),
            source="the createVol of each storage backend, libvirt 9.0.0",
            seen=(
                *("7.0.0 (dir)", "9.0.0 (dir, disk, logical, rbd; iscsi-direct: no)"),
                *("11.3.0 (dir)", "12.8.0 (dir)"),
            ),
        ),
        Capability(
            id="copy-volumes",
            what="pool types into which libvirt copies volumes (virStorageVolCreateXMLFrom)",
            since=6_004,
            only=frozenset(("dir", "fs", "netfs", "vstorage", "logical", "disk", "rbd")),
            source="the buildVolFrom of each storage backend, libvirt 9.0.0; rbd within one pool",
            seen=("7.0.0 (dir)", "9.0.0 (dir, disk, logical, rbd)", "11.3.0 (dir)", "12.8.0 (dir)"),
        ),
        Capability(
            id="image-volumes",
            what="pool types whose volumes are files: formats, backing files, sparse, encryption",
            only=frozenset(("dir", "fs", "netfs", "vstorage")),
            source="storage_util.c, libvirt 9.0.0; in a volume group a backing store is a snapshot "
            "of LVM",
            seen=(
                *("7.0.0 (dir)", "9.0.0 (dir; logical, disk, rbd: no)", "11.3.0 (dir)"),
                "12.8.0 (dir)",
            ),
        ),
        Capability(
            id="volume-permissions",
            what="pool types whose new volumes get the owner and mode of their XML",
            only=frozenset(("dir", "fs", "netfs", "vstorage", "logical")),
            source="docs/formatstorage.rst: not on device nodes, whose owner udev sets; "
            "virStorageBackendLogicalCreateVol, libvirt 9.0.0, does",
            seen=("7.0.0 (dir)", "9.0.0 (dir, logical)", "11.3.0 (dir)", "12.8.0 (dir)"),
        ),
        Capability(
            id="volume-compat",
            what="<compat> in the target of a volume",
            since=1_001_000,
            source="libvirt docs/formatstorage.rst: since 1.1.0",
            seen=("7.0.0", "9.0.0", "11.3.0", "12.8.0"),
        ),
        Capability(
            id="volume-lazy-refcounts",
            what="<lazy_refcounts/> in the target of a volume",
            since=1_001_000,
            source="libvirt docs/formatstorage.rst: since 1.1.0",
            seen=("9.0.0",),
        ),
        Capability(
            id="volume-cluster-size",
            what="<clusterSize> in the target of a volume; before, it is silently ignored",
            since=7_004_000,
            source="libvirt docs/formatstorage.rst: since 7.4.0",
            seen=("7.0.0 (silently ignored)", "9.0.0", "11.3.0", "12.8.0"),
        ),
        Capability(
            id="volume-extended-l2",
            what="<extended_l2/> in the target of a volume",
            since=8_000_000,
            source="libvirt NEWS.rst, 8.0.0",
            seen=("7.0.0 (no)", "9.0.0", "11.3.0", "12.8.0"),
        ),
        Capability(
            id="volume-nocow",
            what="<nocow/> in the target of a volume",
            since=1_002_007,
            source="libvirt docs/formatstorage.rst: since 1.2.7",
            seen=("9.0.0",),
        ),
        Capability(
            id="volume-preallocation",
            what="VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA",
            since=1_000_001,
            source="include/libvirt/libvirt-storage.h: since 1.0.1",
            seen=("7.0.0", "9.0.0", "11.3.0", "12.8.0"),
        ),
        Capability(
            id="volume-reflink",
            what="VIR_STORAGE_VOL_CREATE_REFLINK",
            since=1_002_013,
            source="include/libvirt/libvirt-storage.h: since 1.2.13",
            seen=("9.0.0 (XFS: yes, ext4: no)",),
        ),
        Capability(
            id="volume-luks",
            what="volumes that are encrypted by LUKS when they are created or copied",
            since=4_005_000,
            source="libvirt NEWS.rst, 4.5.0: a raw volume as input of an encrypted one",
            seen=("9.0.0",),
        ),
        Capability(
            id="snapshot-volume-disks",
            what="external snapshots of volume disks; before, the persistent XML stays on the old "
            "image, and the next cold start loses all that was written since",
            since=9_000_000,
            source="seen; the first release lies between 7.0.0 and 9.0.0",
            seen=("7.0.0 (loses data)", "9.0.0", "11.3.0", "12.8.0"),
        ),
    )
}

# What the confined virt-aa-helper may read to find a disk's backing files.
# Source: the profile usr.lib.libvirt.virt-aa-helper, alike in libvirt 9.0.0, 11.3.0 and 12.8.0.
# Compiled when it is asked for: few hosts have AppArmor.
_AA_HELPER_READS = (
    r"/var/lib/libvirt/images/.*|/var/lib/nova/instances/_base/[^/]*|/(media|mnt|opt|srv)/.*"
    r"|/(root|home/[^/]+)/(?!\.|bin/).*|.*\.(img|raw|qcow2?|qed|vmdk|vhd|(?i:iso))"
    r"|(/.*)?/disk(\.[^/]*)?"
)


class HostError(XmlkitError, ValueError):
    """What was given as a host cannot be used; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as its XML reports it; sizes in bytes, None where the XML has none.

    format: of a directory pool's volume it is libvirt's probe of bytes that a guest may have
    written; it can confirm, never decide. A volume of type block is raw. backing, backing_format:
    the path and format in `<backingStore>`. encryption: `<encryption format>`. link: the path is a
    symbolic link. modified: `<mtime>`, in seconds since 1970.
    """

    pool: str
    name: str
    path: str
    type: str = "file"
    format: str | None = None
    capacity: int | None = None
    allocation: int | None = None
    backing: str | None = None
    encryption: str | None = None
    link: bool = False
    backing_format: str | None = None
    modified: float | None = None


@dataclass(frozen=True)
class Pool:
    """A storage pool; path is `<target><path>`; volumes is None where they were not observed."""

    name: str
    type: str
    path: str
    active: bool = True
    autostart: bool = True
    volumes: tuple[Volume, ...] | None = None

    @cached_property
    def by_name(self) -> dict[str, Volume]:
        return {volume.name: volume for volume in self.volumes or ()}

    def path_of(self, name: str) -> str | None:
        """The path of the volume `name`, existing or to come; None where only libvirt knows."""
        if name in self.by_name:
            return self.by_name[name].path
        if self.type in NAMED_BY_PATH and self.path:
            return f"{self.path.rstrip('/')}/{name}"
        return None


@dataclass(frozen=True)
class Host:
    """What libvirt reports of one machine.

    libversion: libVersion() of its libvirt, None if unknown. driver: `qemu`, `xen`, ...; "" if
    unknown, then the domain's own type says it. security_models: of the capabilities.
    """

    libversion: int | None = None
    driver: str = ""
    security_models: tuple[str, ...] = ()
    pools: tuple[Pool, ...] = ()

    @cached_property
    def by_name(self) -> dict[str, Pool]:
        return {pool.name: pool for pool in self.pools}

    @cached_property
    def _by_directory(self) -> dict[str, Pool]:
        # libvirt refuses two pools on one directory, but not while one of them is inactive
        ordered = sorted(self.pools, key=lambda pool: pool.active)
        return {
            pool.path.rstrip("/"): pool
            for pool in ordered
            if pool.path.startswith("/")
            # a pool of devices owns those that it lists, not all of /dev; one that was only
            # said (--pool) is taken at its word
            and (pool.type in NAMED_BY_PATH - {"disk"} or (pool.active and pool.volumes is None))
        }

    @cached_property
    def _by_path(self) -> dict[str, Volume]:
        return {volume.path: volume for pool in self.pools for volume in pool.volumes or ()}

    def lookup(self, path: str) -> tuple[Pool, str, Volume | None] | None:
        """(pool, volume name, volume if observed) that `path` directly lies in; None outside.

        By string equality, as libvirt's own look-up by path does it: no link is followed, and
        only slashes that stand together count as one.
        """
        path = sanitized(path)
        volume = self._by_path.get(path)
        if volume is not None:
            return self.by_name[volume.pool], volume.name, volume
        directory, slash, name = path.rpartition("/")
        pool = self._by_directory.get(directory) if slash else None
        return None if pool is None else (pool, name, None)

    def can(self, capability: str, value: str = "") -> bool:
        """Whether the host has a capability, with this driver or pool type if it is about those.

        An unknown version is taken as new.
        """
        entry = CAPABILITIES[capability]
        if self.libversion is not None and self.libversion < entry.since:
            return False
        if entry.only and value not in entry.only:
            return False
        return not entry.never.intersection(self.security_models)


def aa_helper_reads(path: str) -> bool:
    """Whether AppArmor's profile lets virt-aa-helper read `path`, as the profile is shipped."""
    return re.fullmatch(_AA_HELPER_READS, path) is not None


def sanitized(path: str) -> str:
    """The path with each run of slashes made one, but for two at the very beginning.

    Source: virFileSanitizePath, libvirt 9.0.0.
    """
    if "//" not in path:
        return path
    double = path.startswith("//") and not path.startswith("///")
    return "/" * double + re.sub("/+", "/", path)


def is_plain_path(path: str) -> bool:
    """Whether a path is absolute and printable, ends in a name and has no ".", ".." or "//"."""
    parts = path.split("/")
    return (
        parts[0] == ""
        and len(parts) > 1
        and path.isprintable()
        and not {"", ".", ".."} & set(parts[1:])
    )


def version_of(text: str) -> int:
    """The number of a version such as "1.0.4" or "9.0.0", as libVersion() counts.

    Raises HostError for anything else.
    """
    match = re.fullmatch(r"([0-9]{1,3})\.([0-9]{1,3})(?:\.([0-9]{1,3}))?", text)
    if not match:
        raise HostError(f"not a libvirt version: {text!r}; write it like 9.0.0")
    major, minor, release = (int(part or 0) for part in match.groups())
    return major * 1_000_000 + minor * 1_000 + release


def version_text(libversion: int) -> str:
    """ "9.0.0" of 9000000."""
    return f"{libversion // 1_000_000}.{libversion // 1_000 % 1_000}.{libversion % 1_000}"


def parse_pool_option(text: str) -> Pool:
    """The pool that `--pool NAME=[TYPE:]PATH` says: active, its volumes not known.

    TYPE is there only if no "/" comes before the first ":"; without it the pool is a `dir`.
    Raises HostError.
    """
    name, equals, rest = text.partition("=")
    before, colon, after = rest.partition(":")
    type_, path = (before, after) if colon and "/" not in before else ("dir", rest)
    if not name or not equals or not path:
        raise HostError(f"not a pool: {text!r}; write NAME=PATH or NAME=TYPE:PATH")
    if type_ not in POOL_DISK_TYPES:
        known = ", ".join(sorted(POOL_DISK_TYPES))
        raise HostError(f"not a pool type: {type_!r} in {text!r}; libvirt's types are {known}")
    if type_ in NAMED_BY_PATH and not path.startswith("/"):
        raise HostError(f"the path of pool {name!r} must be absolute, not {path!r}")
    return Pool(name=name, type=type_, path=sanitized(path).rstrip("/") or "/")


def parse_pool(
    xml: etree._Element,
    volumes: Iterable[Volume] | None = None,
    *,
    active: bool = True,
    autostart: bool = True,
) -> Pool:
    """The pool that libvirt's `<pool>` document describes."""
    return Pool(
        name=xml.findtext("name") or "",
        type=xml.get("type") or "",
        path=(xml.findtext("target/path") or "").rstrip("/"),
        active=active,
        autostart=autostart,
        volumes=None if volumes is None else tuple(volumes),
    )


def parse_volume(xml: etree._Element, pool: str, links: frozenset[str] = frozenset()) -> Volume:
    """The volume that libvirt's `<volume>` document describes."""
    target = xml.find("target")
    path = format_ = encryption = modified = None
    if target is not None:
        path = target.findtext("path")
        modified = target.findtext("timestamps/mtime")
        format_ = _attribute(target.find("format"), "type")
        encryption = _attribute(target.find("encryption"), "format")
    path = path or xml.findtext("key") or ""
    type_ = xml.get("type") or "file"
    return Volume(
        pool=pool,
        name=xml.findtext("name") or "",
        path=path,
        type=type_,
        # a disk pool's "format" is the partition's type, a logical pool has none
        format="raw" if type_ == "block" else format_,
        capacity=_size(xml.find("capacity")),
        allocation=_size(xml.find("allocation")),
        backing=xml.findtext("backingStore/path"),
        encryption=encryption,
        link=path in links,
        backing_format=_attribute(xml.find("backingStore/format"), "type"),
        modified=_seconds(modified),
    )


def parse_host(source: bytes | str, limits: Limits = HOST_LIMITS) -> Host:
    """The host of a file that `xmlkit observe` wrote.

    Raises DocumentError if it is not XML, HostError if it is not such a file.
    """
    root = Document.parse(source, limits).root
    if root.tag != "host":
        raise HostError(
            f"not a host file: its root is <{root.tag!s}>; make one with xmlkit observe"
        )
    if root.get("version") != "1":
        raise HostError(
            f"a host file of version {root.get('version')!r}; this xmlkit reads version 1: "
            "make it anew with xmlkit observe"
        )
    text = root.get("libversion", "")
    if text and not re.fullmatch("[0-9]{1,9}", text):
        raise HostError(f"libversion {text!r} is not a number such as 9000000")
    pools = []
    for storage in root.iterfind("storage"):
        xml = storage.find("pool")
        if xml is None:
            raise HostError("a <storage> without <pool>; make the file anew with xmlkit observe")
        for state in ("active", "autostart"):
            if storage.get(state) not in ("yes", "no"):
                raise HostError(f"{state}={storage.get(state)!r} of a <storage> is not yes or no")
        links = frozenset(link.text or "" for link in storage.iterfind("link"))
        name = xml.findtext("name") or ""
        active = storage.get("active") == "yes"
        if xml.get("type") not in POOL_DISK_TYPES:
            raise HostError(f"pool {name!r} is of a type that libvirt has not: {xml.get('type')!r}")
        if xml.get("type") in NAMED_BY_PATH and not (xml.findtext("target/path") or "/")[0] == "/":
            raise HostError(f"the path of pool {name!r} is not absolute")
        volumes = [parse_volume(each, name, links) for each in storage.iterfind("volume")]
        pools.append(
            parse_pool(
                xml,
                volumes if active else None,
                active=active,
                autostart=storage.get("autostart") == "yes",
            )
        )
    return Host(
        libversion=int(text) if text else None,
        driver=_driver(root.get("uri", ""), root.find("capabilities")),
        security_models=tuple(
            model.text or "" for model in root.iterfind("capabilities/host/secmodel/model")
        ),
        pools=tuple(pools),
    )


def _driver(uri: str, capabilities: etree._Element | None) -> str:
    """From the URI's scheme without its transport; else the first type of guest it can run."""
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme:
        return scheme
    found = None if capabilities is None else capabilities.find("guest/arch/domain")
    return "" if found is None else found.get("type", "")


def _seconds(text: str | None) -> float | None:
    """Seconds of a timestamp such as 1795635689.681289846."""
    return float(text) if text and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text) else None


def _attribute(element: etree._Element | None, name: str) -> str | None:
    return None if element is None else element.get(name)


# virScaleInteger in libvirt: the suffixes it takes, "b" and "bytes" and none for bytes.
_UNITS = {
    letter + suffix: base**power
    for power, letter in enumerate("kmgtpe", 1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}


def parse_size(text: str) -> int:
    """Bytes of a size such as "10G", "512MiB" or "1048576", in libvirt's units (G is GiB).

    Raises HostError. Source: virScaleInteger, libvirt 9.0.0.
    """
    match = re.fullmatch(r"([0-9]{1,19})([A-Za-z]*)", text)
    unit = match.group(2).lower() if match else ""
    if not match or unit not in {"", "b", "byte", "bytes", *_UNITS}:
        raise HostError(f"not a size: {text!r}; write bytes, or a unit as in 10G, 512MiB, 20GB")
    factor: int = _UNITS.get(unit, 1)
    return int(match.group(1)) * factor


def _size(element: etree._Element | None) -> int | None:
    """Bytes of a scaled number such as `<capacity unit='GiB'>1</capacity>`."""
    text = None if element is None else (element.text or "").strip()
    if element is None or not text or not text.isdecimal():
        return None
    unit = element.get("unit", "bytes").lower()
    factor: int = _UNITS.get(unit, 1)
    return int(text) * factor
