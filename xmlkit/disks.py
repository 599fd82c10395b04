"""What one `<disk>` says: its target, where its content is, in which format, and whose it is.

Laws
- Only the domain's own words count: the format is `<driver type>`, and none means raw.
- Reading changes nothing and guesses nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from lxml import etree

from xmlkit import names
from xmlkit.document import Document

__all__ = [
    "FORMATS",
    "PATH_ATTRIBUTES",
    "Address",
    "Disk",
    "Domain",
    "image_format",
    "read",
    "read_domain",
    "shared_targets",
]

# <driver type>s that name an image format (storageFormat in libvirt's storagecommon.rng, without
# "dir"); "aio" is an old spelling of raw.
FORMATS = frozenset(
    [
        "raw",
        "aio",
        "bochs",
        "cloop",
        "dmg",
        "iso",
        "vpc",
        "vdi",
        "fat",
        "vhd",
        "ploop",
        "luks",
        "cow",
        "qcow",
        "qcow2",
        "qed",
        "vmdk",
    ]
)

# Which attribute of <source> holds the path, by the disk's type.
PATH_ATTRIBUTES = {"file": "file", "block": "dev"}

_NOVA = "{http://openstack.org/xmlns/libvirt/nova/"


class Address(NamedTuple):
    """Where a disk's content is, as `<disk type>` and `<source>` say it.

    type: of the disk. path: of a file or block disk, and what a volume's path is known to be.
    pool, volume: of a volume disk, and of a path that was found to be that volume.
    """

    type: str
    path: str | None = None
    pool: str | None = None
    volume: str | None = None

    def same(self, other: Address) -> bool:
        """Whether both are written alike, whatever else is known of them."""
        if self.type != other.type:
            return False
        if self.type == "volume":
            return self.pool == other.pool and self.volume == other.volume
        return self.path == other.path

    def __str__(self) -> str:
        return f"{self.pool}/{self.volume}" if self.type == "volume" else self.path or "-"


class Disk(NamedTuple):
    """One `<disk>`, read.

    target: `<target dev>`. device: disk, cdrom, floppy or lun. format: `<driver type>`, None
    without one. owner: "cinder" for an attached volume and "config-drive" for Nova's own, both
    only where Nova's names or metadata say so, else "".
    """

    target: str
    device: str
    address: Address
    format: str | None
    children: Mapping[str, etree._Element]
    element: etree._Element

    def in_source(self, name: str) -> bool:
        """Whether `<source>` has a child of this name."""
        source = self.children.get("source")
        if source is None or not len(source):
            return False
        return next(source.iterchildren(name), None) is not None

    @property
    def image_format(self) -> str:
        """The format that libvirt uses: a missing `<driver type>` is raw (qemu_domain.c, 9.0.0)."""
        return image_format(self.format)

    @property
    def owner(self) -> Literal["cinder", "config-drive", ""]:
        """Who owns the disk in a domain of Nova's: a Cinder volume or a config drive is not ours.

        The rule for Cinder is Nova's own (migration._update_rbd_xml, 34.0.0): a `<serial>`, or an
        alias that begins with "ua-".
        """
        alias = self.children.get("alias")
        if "serial" in self.children:
            return "cinder"
        if alias is not None and alias.get("name", "").startswith("ua-"):
            return "cinder"
        name = names.nova_name(self.address.path or self.address.volume or "")
        return "config-drive" if name and names.kind_of(name) == "config" else ""


class Domain(NamedTuple):
    """What a `<domain>` says of itself and its disks; nova: whether it has Nova's metadata."""

    name: str
    uuid: str
    nova: bool
    disks: tuple[Disk, ...]


def read_domain(document: Document) -> Domain:
    """What the domain says; read once and kept with the document."""
    domain: Domain | None = document.memo.get("domain")
    if domain is None:
        domain = document.memo["domain"] = _read_domain(document.root)
    return domain


def image_format(format: str | None) -> str:
    """The format that a `<driver type>` or none means."""
    return "raw" if format in (None, "", "aio") else str(format)


def shared_targets(disks: tuple[Disk, ...]) -> frozenset[str]:
    """The targets that name more than one disk, and so none."""
    targets = [disk.target for disk in disks]
    if len(targets) < 2 or len(set(targets)) == len(targets):
        return frozenset()
    return frozenset(target for target, count in Counter(targets).items() if count > 1)


def _read_domain(root: etree._Element) -> Domain:
    name = uuid = ""
    nova = False
    disks: tuple[Disk, ...] = ()
    # faster than to have lxml choose by four names
    for child in root:
        tag = child.tag
        if tag == "devices":
            disks += tuple(map(read, child.iterchildren("disk")))
        elif tag == "name":
            name = name or child.text or ""
        elif tag == "uuid":
            uuid = uuid or (child.text or "").strip().lower()
            if len(uuid) == 32:
                # libvirt takes it without dashes as well
                uuid = "-".join((uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:]))
        elif tag == "metadata":
            nova = any(
                str(each.tag).startswith(_NOVA) for each in child.iterchildren(etree.Element)
            )
    return Domain(name, uuid, nova, disks)


def read(element: etree._Element) -> Disk:
    """What a `<disk>` element says."""
    # backwards: of two of one name libvirt takes the first
    children: dict[Any, etree._Element] = {child.tag: child for child in reversed(element)}
    type_ = element.get("type", "file")
    target, driver = children.get("target"), children.get("driver")
    source = children.get("source")
    path = pool = volume = None
    if source is not None:
        if type_ == "volume":
            pool, volume = source.get("pool"), source.get("volume")
        elif (attribute := PATH_ATTRIBUTES.get(type_)) is not None:
            path = source.get(attribute)
    return Disk(
        "" if target is None else target.get("dev", ""),
        element.get("device", "disk"),
        Address(type_, path, pool, volume),
        None if driver is None else driver.get("type"),
        children,
        element,
    )
