"""The documents that libvirt's own tests are made of, and what must become of their disks.

Rules
- libvirt's tests/virschematest.c says which files there are and which schema is theirs; it is
  read when it is needed, so nothing here can drift from it.
- `host_of` and `eligible` are written from libvirt's and Nova's rules alone: they read XML by
  lxml and ask nothing of the code under test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lxml import etree

from xmlkit import Document, Host, Pool, Volume

# struct testSchemaEntry name[] = { ... };
_LIST = re.compile(r"struct testSchemaEntry (\w+)\[\] = \{(.*?)\n\};", re.DOTALL)
_ENTRY = re.compile(r'\{\s*\.\s?(dir|file) = "([^"]+)"(?:,\s*\.dirRegex = "([^"]+)")?\s*\}')
# The public schemas; those of INTERNAL_SCHEMAS_PATH exist for libvirt's tests alone.
_USE = re.compile(r'DO_TEST\(SCHEMAS_PATH "([\w-]+)\.rng", (\w+)\)')

# The image formats among <driver type>s: define storageFormat in storagecommon.rng, libvirt
# 9.0.0, without "dir", and "aio", which libvirt reads as raw.
IMAGE_FORMATS = frozenset(
    [
        *("raw", "aio", "bochs", "cloop", "dmg", "iso", "vpc", "vdi", "fat", "vhd", "ploop"),
        *("luks", "cow", "qcow", "qcow2", "qed", "vmdk"),
    ]
)
# The <domain type>s whose driver turns a volume into a path.
VOLUME_DRIVERS = frozenset(("qemu", "kvm", "hvf", "bhyve", "test"))
# Pools whose volumes are PATH/NAME, by the kind of disk that a volume is.
FILE_POOLS = frozenset(("dir", "fs", "netfs", "vstorage"))
BLOCK_POOLS = frozenset(("logical", "disk", "zfs"))
NOVA = "{http://openstack.org/xmlns/libvirt/nova/"
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# A disk of Nova's: a file in the instance's directory, else a volume.
_NOVA_PATHS = (
    re.compile(rf"(?:.*/)?(?P<uuid>{_UUID})(?P<by>/)(?P<name>[^/]+)", re.IGNORECASE),
    re.compile(rf"(?:.*/)?(?P<uuid>{_UUID})(?P<by>_)(?P<name>[^/]+)", re.IGNORECASE),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a list: the files of a directory that end in .xml, or one file."""

    schema: str
    kind: Literal["dir", "file"]
    path: str
    pattern: str | None


@dataclass(frozen=True, slots=True)
class Sample:
    """A document of libvirt's tests, and what libvirt's tests expect of it."""

    path: Path
    schema: str
    expected_valid: bool


def table(source: Path) -> list[Entry]:
    """What tests/virschematest.c of a libvirt tree lists, in its order."""
    text = (source / "tests/virschematest.c").read_text()
    lists = {}
    for name, body in _LIST.findall(text):
        lists[name] = _ENTRY.findall(body)
        # an entry that is written in a way not known here must not be lost
        assert body.count("{") == len(lists[name]), f"{name}: {body}"
    return [
        Entry(schema, kind, path, pattern or None)
        for schema, name in _USE.findall(text)
        for kind, path, pattern in lists[name]
    ]


def samples(source: Path) -> list[Sample]:
    """Each document of the table."""
    return [
        Sample(path, entry.schema, not path.name.endswith("-invalid.xml"))
        for entry in table(source)
        for path in _files(source, entry)
    ]


def _files(source: Path, entry: Entry) -> Iterator[Path]:
    if entry.kind == "file":
        yield source / entry.path
        return
    for path in sorted((source / entry.path).iterdir()):
        # the pattern may match anywhere in the name, as g_regex_match has it
        wanted = entry.pattern is None or re.search(entry.pattern, path.name)
        if path.suffix == ".xml" and not path.name.startswith(".") and wanted:
            yield path


def domains(libvirt: Path, virt_manager: Path, nova: Path) -> list[Path]:
    """The domains of libvirt's table, of virt-manager's tests and of a directory of Nova's."""
    found = [sample.path for sample in samples(libvirt) if sample.schema == "domain"]
    for directory in (virt_manager / "tests/data", nova):
        found += sorted(path for path in directory.rglob("*.xml") if _is_domain(path))
    return found


def _is_domain(path: Path) -> bool:
    try:
        return bool(etree.fromstring(path.read_bytes()).tag == "domain")
    except etree.XMLSyntaxError:
        return False


def host_of(document: Document) -> Host:
    """A host that has a pool for each disk of a domain, its volumes not observed.

    A directory of file disks is a `dir` pool, one of block disks a volume group; the first disk
    in a directory decides. A pool that the domain names already is a `dir` pool of that name.
    """
    pools: dict[str, Pool] = {}
    for disk in etree.fromstring(document.source).iterfind("devices/disk/source/.."):
        source = disk.find("source")
        assert source is not None
        if (name := source.get("pool")) is not None:
            pools.setdefault(name, Pool(name, "dir", f"/var/lib/pools/{name}"))
    known = len(pools)
    for path, type_ in _paths(document):
        directory = path.rpartition("/")[0].rstrip("/")
        pool = Pool(f"pool-{len(pools) - known}", type_, directory or "/")
        pools.setdefault(f"path {directory}", pool)
    return Host(pools=tuple(pools.values()))


def _paths(document: Document) -> Iterator[tuple[str, str]]:
    """The absolute path of each file and block disk, with the type of pool that could have it."""
    for disk in etree.fromstring(document.source).iterfind("devices/disk"):
        type_ = disk.get("type", "file")
        source = disk.find("source")
        attribute = {"file": "file", "block": "dev"}.get(type_)
        path = None if source is None or attribute is None else source.get(attribute)
        if path and path.startswith("/"):
            yield path, "dir" if type_ == "file" else "logical"


def eligible(
    document: Document, host: Host, to: Literal["volume", "path"] = "volume", *, live: bool = False
) -> list[str]:
    """The targets of the disks that must be rewritten: no more and no fewer.

    Nothing is moved here: a disk in no pool stays.
    """
    root = etree.fromstring(document.source)
    if (root.get("id") is not None and not live) or _is_rescued(root):
        return []
    disks = root.findall("devices/disk")
    targets = [_attribute(disk, "target", "dev") for disk in disks]
    drives_volumes = (host.driver or root.get("type")) in VOLUME_DRIVERS
    drives_volumes &= "apparmor" not in host.security_models
    drives_volumes &= host.libversion is None or host.libversion >= 1_000_005
    rewritten = []
    for disk, target in zip(disks, targets, strict=True):
        if not target or targets.count(target) > 1:
            continue
        slices = disk.find("source/slices") is not None
        old = host.libversion is not None and host.libversion < 9_000_000
        if to == "volume" and drives_volumes and not (slices and old):
            change = _becomes_volume(root, disk, host)
        else:
            # where there are no volume disks, those that are there become paths
            change = _becomes_path(disk, host)
        if change:
            rewritten.append(target)
    return rewritten


def _becomes_volume(root: etree._Element, disk: etree._Element, host: Host) -> bool:
    type_ = disk.get("type", "file")
    source = disk.find("source")
    if type_ not in ("file", "block") or source is None:
        return False
    path = source.get("file" if type_ == "file" else "dev") or ""
    directory, slash, name = path.rpartition("/")
    if not path.startswith("/") or not slash or source.get("fdgroup") is not None:
        return False
    if any(disk.find(each) is not None for each in ("transient", "mirror")):
        return False
    if source.find("reservations") is not None or _is_novas(root, disk):
        return False
    pools = [pool for pool in host.pools if pool.path.rstrip("/") == directory]
    return (
        len(pools) == 1
        and pools[0].type in (FILE_POOLS if type_ == "file" else BLOCK_POOLS)
        and _is_usable(pools[0], name, disk)
    )


def _becomes_path(disk: etree._Element, host: Host) -> bool:
    source = disk.find("source")
    if disk.get("type") != "volume" or source is None or disk.find("mirror") is not None:
        return False
    name = source.get("volume") or ""
    pools = [pool for pool in host.pools if pool.name == source.get("pool")]
    return (
        len(pools) == 1
        and pools[0].type in FILE_POOLS | BLOCK_POOLS
        and source.get("mode") != "direct"
        and _is_usable(pools[0], name, disk)
    )


def _is_usable(pool: Pool, name: str, disk: etree._Element) -> bool:
    """Whether the pool has such a volume and nothing speaks against it."""
    format_ = _attribute(disk, "driver", "type")
    if format_ is not None and format_ not in IMAGE_FORMATS:
        return False
    # a LUN is passed through to the guest, so it has to be a block device
    if disk.get("device") == "lun" and pool.type in FILE_POOLS:
        return False
    if not name or name in (".", "..") or "/" in name or re.search(r"[\x00-\x1f\x7f]", name):
        return False
    if not pool.active or not pool.name or re.search(r"[/\n]", pool.name):
        return False
    if pool.volumes is None:
        return True
    found = [volume for volume in pool.volumes if volume.name == name]
    return len(found) == 1 and not found[0].link and _agrees(found[0], format_, disk)


def _agrees(volume: Volume, format_: str | None, disk: etree._Element) -> bool:
    """Whether what the pool says of a volume fits: no <driver type> is raw, as aio is."""
    said = "raw" if format_ in (None, "aio") else format_
    encrypted = any(disk.find(each) is not None for each in ("encryption", "source/encryption"))
    fitting = {said, None, *(("iso",) if said == "raw" else ())}
    if said == "raw" and encrypted:
        fitting.add("luks")
    return volume.type in ("file", "block") and volume.format in fitting


def _is_novas(root: etree._Element, disk: etree._Element) -> bool:
    """Whether Nova keeps the disk elsewhere than among its images: Cinder's, its config drive."""
    own = _nova_disk(disk)
    config = own is not None and own["name"].removesuffix(".rescue") == "disk.config"
    if not _has_novas_metadata(root):
        uuid = (root.findtext("uuid") or "").strip().lower()
        return own is not None and config and own["by"] == "/" and own["uuid"].lower() == uuid
    alias = _attribute(disk, "alias", "name") or ""
    return config or disk.find("serial") is not None or alias.startswith("ua-")


def _is_rescued(root: etree._Element) -> bool:
    """Whether the domain is an instance of Nova's that is being rescued."""
    names = [found["name"] for disk in root.iterfind("devices/disk") if (found := _nova_disk(disk))]
    return _has_novas_metadata(root) and any(name.endswith(".rescue") for name in names)


def _has_novas_metadata(root: etree._Element) -> bool:
    return any(str(child.tag).startswith(NOVA) for child in root.iterfind("metadata/{*}*"))


def _nova_disk(disk: etree._Element) -> re.Match[str] | None:
    """The parts of a path of Nova's, .../{uuid}/{name} or, as a volume, .../{uuid}_{name}."""
    attribute = {"block": "dev", "volume": "volume"}.get(disk.get("type", "file"), "file")
    path = _attribute(disk, "source", attribute) or ""
    return next(filter(None, (pattern.fullmatch(path) for pattern in _NOVA_PATHS)), None)


def _attribute(disk: etree._Element, child: str, name: str) -> str | None:
    found = disk.find(child)
    return None if found is None else found.get(name)
