"""Nova's image cache: which base images are used, by which disks, and which could go.

Laws
- Pure: what is at a path is asked of a function, everything else is given.
- A chain is followed by declared formats alone: the domain's `<driver type>` says whether an image
  has a backing file, below it the header of the image above. So no guest pins a base, or fakes one,
  by what it writes to a raw disk.
- Everything that a domain names counts: its persistent and its live XML, snapshots, checkpoints and
  managed saves, disks or not. What counts twice counts once; what is in doubt is kept.
- A chain that cannot be followed to its end may end anywhere: then nothing is to be removed.
- Only what is named as Nova names it is ever to be removed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lxml import etree

from xmlkit import disks
from xmlkit.document import Document
from xmlkit.host import POOL_DISK_TYPES, Host, Pool, sanitized
from xmlkit.names import UUID
from xmlkit.plan import Reason
from xmlkit.survey import Backing, Guest, resolved

__all__ = [
    "AGES",
    "SCHEMA",
    "Base",
    "Cache",
    "Image",
    "Kind",
    "Look",
    "Use",
    "as_data",
    "judge",
    "kind_of",
    "name_of_image",
    "protected_name",
    "time_of",
    "use_of",
    "uses_of",
]

SCHEMA = "xmlkit.cache/1"

Kind = Literal["original", "resized", "swap", "ephemeral", "unknown"]
Verdict = Literal["keep", "young", "remove", "missing"]

# How long a base has to be unused, in seconds. Source: the defaults of Nova 34.0.0's options
# remove_unused_original_minimum_age_seconds and remove_unused_resized_minimum_age_seconds.
AGES: Mapping[str, float] = {
    "original": 86_400,
    "resized": 3_600,
    "swap": 86_400,
    "ephemeral": 86_400,
}

# The formats that have backing files. Source: getBackingStore in libvirt 9.0.0's
# storage_file_probe.c.
_LAYERED = frozenset(("cow", "qcow", "qcow2", "qed", "vmdk"))

# As many images as libvirt and QEMU allow one above the other.
_CHAIN = 200

# Source: nova.virt.libvirt.imagecache, _scan_base_images, _store_swap_image and
# _store_ephemeral_image, Nova 34.0.0; there the digest may be any 40 characters.
_KINDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("original", re.compile(r"[0-9a-f]{40}")),
    ("resized", re.compile(r"[0-9a-f]{40}_(sm|[0-9]+)")),
    ("swap", re.compile(r"swap_[0-9]+")),
    ("ephemeral", re.compile(r"ephemeral_[0-9]+_[0-9a-z]{7}")),
)


# What is in every document that names such an image: most name none, and are not walked through.
_NAMED = re.compile(rb"/(?:[0-9a-f]{40}|swap_[0-9]|ephemeral_[0-9])")


class Image(NamedTuple):
    """What is at a path.

    format: as it is declared. state: "there", "missing", or "unseen" where looking failed, and
    error says why. backing: of an image whose format has backing files, what its header names.
    identity: device and inode, None where they are not known.
    """

    path: str
    format: str
    state: Literal["there", "missing", "unseen"] = "there"
    backing: Backing | None = None
    identity: tuple[int, int] | None = None
    error: str = ""


# What is at a path, of the format that is declared.
Look = Callable[[str, str], Image]


@dataclass(frozen=True)
class Use:
    """A disk and the images that it stands on.

    domain, uuid: whose disk it is; "" for an image that no domain declares. target: of the disk,
    "" where the XML only names a path. where: "" in the persistent XML, else "live", "snapshot
    NAME", "checkpoint NAME", "managed save", "disk.info", or "undeclared". images: top first.
    fault: why they could not be followed to their end.
    """

    domain: str
    uuid: str
    target: str
    where: str
    images: tuple[Image, ...]
    fault: Reason | None = None

    @property
    def declared(self) -> bool:
        """Whether somebody says the format of its first image, who is no guest."""
        return self.where != "undeclared"

    @property
    def title(self) -> str:
        """Who uses it, in a few words."""
        if not self.domain:
            return self.images[0].path
        words = (self.domain, self.target, f"({self.where})" if self.where else "")
        return " ".join(filter(None, words))


@dataclass(frozen=True)
class Base:
    """An image of the cache and what is to become of it.

    size: bytes that it takes on its file system. age: seconds since Nova last used it, or it came;
    None where that is not known. identity: device, inode and time of change in ns, None where they
    are not known. used_by: the disks that stand on it. reason: why this verdict.
    """

    name: str
    path: str
    kind: Kind
    verdict: Verdict
    reason: Reason
    size: int | None = None
    age: float | None = None
    format: str | None = None
    used_by: tuple[Use, ...] = ()
    identity: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Cache:
    """A cache, judged: its images by name, those that are missing too; the broken chains.

    pool, path: of the cache.
    """

    pool: str
    path: str
    bases: tuple[Base, ...]
    broken: tuple[Use, ...]

    @property
    def removable(self) -> tuple[Base, ...]:
        """What is unused, and has been for long enough."""
        return tuple(base for base in self.bases if base.verdict == "remove")


def kind_of(name: str) -> Kind:
    """Which kind of image of Nova's cache a name says, "unknown" for a name of another kind."""
    for kind, pattern in _KINDS:
        if pattern.fullmatch(name):
            return kind
    return "unknown"


def name_of_image(id: str) -> str:
    """The name in the cache of the image with this id in Glance: the SHA-1 of it.

    Source: nova.virt.libvirt.imagecache.get_cache_fname, Nova 34.0.0.
    """
    return hashlib.sha1(id.encode(), usedforsecurity=False).hexdigest()


def protected_name(text: str) -> str | None:
    """The name in the cache that a line names: a base's name or path, or a Glance image's id.

    None for anything else.
    """
    if UUID.fullmatch(text):
        return name_of_image(text)
    name = text.rpartition("/")[2]
    return None if kind_of(name) == "unknown" else name


# Chains.


def use_of(
    path: str,
    format: str,
    look: Look,
    *,
    domain: str = "",
    uuid: str = "",
    target: str = "",
    where: str = "",
) -> Use:
    """The use that the image at `path`, of a declared format, makes of the images below it."""
    images: list[Image] = []
    fault = _follow(path, format, look, images)
    return Use(domain, uuid, target, where, tuple(images), fault)


def uses_of(guest: Guest, host: Host, look: Look) -> Iterator[Use]:
    """All that a domain uses, by each document that libvirt has of it; nothing twice.

    A `<mirror>` counts as a disk, and so does an overlay that a snapshot names.
    """
    seen: set[tuple[Any, ...]] = set()
    for where, document in _documents(guest):
        for use in _uses_in(document, where, guest, host, look):
            key = (use.target, tuple(image.path for image in use.images), use.fault)
            if key not in seen:
                seen.add(key)
                yield use
    if guest.managed_save and guest.saved is None:
        reason = Reason("cache-unread", f"the managed save of {guest.name} cannot be read")
        yield Use(guest.name, guest.uuid, "", "managed save", (), reason)


def _documents(guest: Guest) -> Iterator[tuple[str, Document]]:
    yield "", guest.document
    if guest.live is not None:
        yield "live", guest.live
    if guest.saved is not None:
        yield "managed save", guest.saved
    for kind, found in (("snapshot", guest.snapshots), ("checkpoint", guest.checkpoints)):
        for each in found:
            yield f"{kind} {each.root.findtext('name') or '?'}", each


def _uses_in(document: Document, where: str, guest: Guest, host: Host, look: Look) -> Iterator[Use]:
    owner = {"domain": guest.name, "uuid": guest.uuid, "where": where}
    followed: set[str] = set()
    for element in document.root.iter("disk", "mirror", "backingStore"):
        disk = element if element.tag == "disk" else next(element.iterancestors("disk"), element)
        named = disk.find("target")
        # an overlay of a snapshot has a name, which is its disk's target
        target = disk.get("name", "") if named is None else named.get("dev", "")
        path, format_, fault = _source(element, host)
        if fault is not None:
            yield Use(guest.name, guest.uuid, target, where, (), fault)
        if path is None or (path in followed and element is not disk):
            continue
        use = use_of(path, format_, look, target=target, **owner)
        followed.update(image.path for image in use.images)
        yield use
    for path in sorted(_named(document) - followed):
        yield use_of(path, "raw", look, **owner)


def _source(element: etree._Element, host: Host) -> tuple[str | None, str, Reason | None]:
    """Path and format of a `<disk>`, `<mirror>` or `<backingStore>`, and why there is no path."""
    type_ = element.get("type", "file")
    source, driver, said = (element.find(name) for name in ("source", "driver", "format"))
    given = driver if element.tag == "disk" else said
    format_ = disks.image_format("" if given is None else given.get("type") or "")
    if source is None:
        # an old <mirror file=...>
        path = element.get("file") if element.tag == "mirror" else None
        return (None if path is None else sanitized(path)), format_, None
    if type_ != "volume":
        attribute = disks.PATH_ATTRIBUTES.get(type_)
        path = source.get(attribute) if attribute else None
        return (None if path is None else sanitized(path)), format_, None
    name, volume = source.get("pool") or "", source.get("volume") or ""
    pool = host.by_name.get(name)
    if pool is not None and POOL_DISK_TYPES.get(pool.type, "") is None:
        # on the network, or refused by libvirt: no file
        return None, format_, None
    path = None if pool is None else pool.path_of(volume)
    if path is None and format_ in _LAYERED:
        why = (
            "there is no such pool"
            if pool is None
            else f"the pool has no such volume ({pool.type})"
        )
        return None, format_, Reason("cache-unread", f"{name}/{volume}: {why}")
    return (None if path is None else sanitized(path)), format_, None


def _named(document: Document) -> set[str]:
    """The paths in a document, whatever they are for, that end in a name of Nova's cache."""
    found: set[str] = set()
    if not _NAMED.search(document.source):
        return found
    for element in document.root.iter(etree.Element):
        for value in (element.text or "").strip(), *map(str, element.attrib.values()):
            if value[:1] == "/" and kind_of(value.rpartition("/")[2]) != "unknown":
                found.add(sanitized(value))
    return found


def _follow(path: str, format: str, look: Look, images: list[Image]) -> Reason | None:
    """Add the image and those below it; why that came to no end, None if it did."""
    above = ""
    for _ in range(_CHAIN):
        image = look(path, format)
        images.append(image)
        if format not in _LAYERED and not above:
            return None
        if image.state == "missing":
            stands = f", which {above} stands on" if above else ""
            return Reason("cache-broken", f"{path}{stands} is missing")
        if format not in _LAYERED:
            return None
        if image.state == "unseen":
            return Reason("cache-unread", f"{path} cannot be read: {image.error}")
        if image.backing is None or image.backing.file is None:
            return None
        below = resolved(image.backing.file, image.path)
        if below is None:
            return Reason(
                "cache-unread", f"the backing file of {path} is no path: {image.backing.file}"
            )
        if below in {each.path for each in images}:
            return Reason("cache-broken", f"{path} stands on {below}, which stands on it")
        # a format that is not declared is not guessed: libvirt does not start such a guest
        above, path, format = path, below, image.backing.format or "raw"
    return Reason("cache-broken", f"more than {_CHAIN} images, {images[0].path} and those below")


# The verdict.


def judge(
    pool: Pool,
    uses: Iterable[Use],
    *,
    now: float,
    protected: Mapping[str, str] | None = None,
    ages: Mapping[str, float] = AGES,
    identities: Mapping[str, tuple[int, int, int]] | None = None,
    accept: Collection[str] = (),
) -> Cache:
    """What is to become of each image of a cache.

    Parameters:
        pool: the cache, with its volumes.
        uses: of all that stands on images of it.
        now: seconds since 1970, by the clock of the file system.
        protected: names that somebody else knows to be used, and who says so; that of an original
            protects what was resized from it too.
        ages: for how many seconds each kind has to be unused.
        identities: device, inode and time of change of the images of the cache, by path: an image
            may be used under another path.
        accept: "cache-broken" where a disk whose image is missing shall keep nothing.
    """
    protected, identities = protected or {}, identities or {}
    by_identity = {found[:2]: path for path, found in identities.items()}
    directory = f"{sanitized(pool.path).rstrip('/')}/"
    standing: dict[str, list[Use]] = {}
    lost: dict[str, list[Use]] = {}
    broken, open_ = [], []
    for use in uses:
        paths = {
            by_identity.get(image.identity, image.path) if image.identity else image.path
            for image in use.images
        }
        for path in paths:
            standing.setdefault(path, []).append(use)
        if use.fault is None:
            continue
        broken.append(use)
        if use.fault.id == "cache-broken":
            end = use.images[-1]
            # what is missing from the cache was a base itself: nothing is in doubt
            if end.state == "missing" and end.path.rpartition("/")[0] + "/" == directory:
                lost.setdefault(end.path, []).append(use)
                continue
        if use.fault.id not in accept:
            open_.append(use)
    bases = []
    for volume in pool.volumes or ():
        kind = kind_of(volume.name)
        age = None if volume.modified is None else now - volume.modified
        used_by = tuple(standing.get(sanitized(volume.path), ()))
        verdict: Verdict = "keep"
        if kind == "unknown":
            reason = Reason("cache-foreign", "its name is none that Nova gives")
        elif volume.link or volume.type != "file":
            what = "a symbolic link" if volume.link else f"of type {volume.type}"
            reason = Reason("cache-link", f"it is {what}, and no plain file")
        elif used_by:
            reason = _used(used_by)
        elif who := protected.get(volume.name) or protected.get(volume.name[:40]):
            reason = Reason("cache-protected", f"{who} names it")
        elif open_:
            first = open_[0]
            assert first.fault is not None
            more = f" (and {len(open_) - 1} more)" if len(open_) > 1 else ""
            message = f"{first.domain or 'an image'}{' ' * bool(first.target)}{first.target}: "
            reason = Reason(
                "cache-doubt", f"it may be used by {message}{first.fault.message}{more}"
            )
        elif age is None or age < ages[kind]:
            verdict = "young"
            reason = Reason("cache-young", _young(age))
        else:
            verdict = "remove"
            reason = Reason("cache-unused", f"not touched for {time_of(age)}")
        bases.append(
            Base(
                name=volume.name,
                path=volume.path,
                kind=kind,
                verdict=verdict,
                reason=reason,
                size=volume.allocation,
                age=age,
                format=volume.format,
                used_by=used_by,
                identity=identities.get(volume.path),
            )
        )
    there = {sanitized(volume.path) for volume in pool.volumes or ()}
    for path, losing in lost.items():
        if path not in there:
            name = path.removeprefix(directory)
            reason = Reason("cache-missing", f"{losing[0].title} cannot start without it")
            used_by = tuple(losing)
            bases.append(Base(name, path, kind_of(name), "missing", reason, used_by=used_by))
    bases.sort(key=lambda base: (base.name, base.path))
    return Cache(pool.name, pool.path, tuple(bases), tuple(broken))


def time_of(seconds: float) -> str:
    """A time in one unit, rounded down, as "3 d"."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _young(age: float | None) -> str:
    return "unused; nobody knows since when" if age is None else f"touched {time_of(age)} ago"


def _used(uses: tuple[Use, ...]) -> Reason:
    declared = [use for use in uses if use.declared]
    first = (declared or uses)[0]
    more = f" and {len(uses) - 1} more" if len(uses) > 1 else ""
    if declared:
        return Reason("cache-used", f"{first.title}{more}")
    return Reason("cache-undeclared", f"the header of {first.title}{more} names it")


def as_data(cache: Cache) -> dict[str, Any]:
    """As it stands in JSON of schema xmlkit.cache/1."""
    return {
        "schema": SCHEMA,
        "pool": cache.pool,
        "path": cache.path,
        "bases": [
            {
                "name": base.name,
                "path": base.path,
                "kind": base.kind,
                "verdict": base.verdict,
                "id": base.reason.id,
                "message": base.reason.message,
                "size": base.size,
                "age": None if base.age is None else round(base.age),
                "format": base.format,
                "used_by": [_use_as_data(use) for use in base.used_by],
            }
            for base in cache.bases
        ],
        "broken": [_use_as_data(use) for use in cache.broken],
    }


def _use_as_data(use: Use) -> dict[str, Any]:
    return {
        "domain": use.domain or None,
        "uuid": use.uuid or None,
        "target": use.target or None,
        "where": use.where or "persistent",
        "images": [image.path for image in use.images],
        "message": None if use.fault is None else use.fault.message,
    }
