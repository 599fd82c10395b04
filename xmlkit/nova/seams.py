"""The places in Nova at which xmlkit is put in: found, recognised, replaced, and given back.

Laws
- A seam is recognised by its signature; one that is not is refused by name, and nothing is changed.
- Nova's own code runs: a seam changes what goes into it or what comes out of it.
- To Nova's code a disk is a path. That it is a volume stands in libvirt's XML alone: written at
  `_get_guest_xml`, read back at `Guest`, carried along by a live migration.
- What libvirt does not tell is not made up: a volume whose path is not known is an error where Nova
  would lose it, and a disk stays on its path where it could be a volume.

Nova's modules are looked up when the seams are put in, never imported by this one. Signatures are
those of nova 33.0.2 and 34.0.0.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import functools
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from lxml import etree

from xmlkit import names
from xmlkit.disks import Disk, read_domain
from xmlkit.document import Document, Limits
from xmlkit.errors import XmlkitError
from xmlkit.host import NAMED_BY_PATH, Host, Pool, Volume, parse_pool, parse_volume
from xmlkit.nova.builder import to_paths, to_volumes
from xmlkit.plan import Skip

__all__ = [
    "BUILDER",
    "Asked",
    "Libvirt",
    "Lookup",
    "Seam",
    "SeamError",
    "aiming",
    "find",
    "is_expected",
    "put_in",
    "take_out",
]

LOG = logging.getLogger(__name__)

_LIMITS = Limits(markup=1 << 30)
_VOLUME_DISK = re.compile(r"<disk\s[^>]*\btype\s*=\s*[\"']volume[\"']")


class SeamError(XmlkitError):
    """This Nova is not one that xmlkit knows; the message says what was not recognised."""


class Seam(NamedTuple):
    """A function of Nova's, and what takes its place.

    owner: its module, or module:Class. parameters: with which its signature begins; what follows
    must have defaults. around: makes the replacement out of the original. since,
    until: the releases that are known to have it, the latter excluded; 0 for all.
    """

    owner: str
    name: str
    parameters: tuple[str, ...]
    around: Callable[[Callable[..., Any], Asked], Callable[..., Any]]
    since: int = 0
    until: int = 0


class Put(NamedTuple):
    """A seam that is in: where, and what was there and is there now, as the owner's dict has it."""

    owner: Any
    name: str
    was: Any
    now: Any


class Lookup(Protocol):
    """What the seams ask libvirt, or something in its place.

    connect gives libvirt-python's connection; it is only called if need be.
    """

    def host(self, connect: Callable[[], Any], xml: str) -> Host:
        """The host, with the pools and volumes that the disks of this domain may be."""

    def path_of(self, connect: Callable[[], Any], volume: str) -> str | None:
        """The path of a volume that exactly one active pool has; None otherwise.

        What Nova's own pools have goes before what any other has: a backup, say.
        """

    def delete(
        self, connect: Callable[[], Any], uuid: str, only: Collection[str] | None = None
    ) -> None:
        """Delete the volumes of Nova's disks of an instance from Nova's own pools.

        only: of those, by Nova's names.
        """


class Asked(NamedTuple):
    """What the seams work with: the look-up, how instances come over, also while they run, and
    what other hosts have."""

    lookup: Lookup
    mover: Any
    live: Any
    destination: Callable[[Any], Host | None] | None = None


# Recognising, putting in, taking out.


def find(seams: Sequence[Seam], version: int) -> list[tuple[Any, Seam]]:
    """Each seam with its owner in the Nova that is imported.

    version: Nova's major one. Raises SeamError that names all that was not recognised.
    """
    found = []
    unknown = []
    for seam in seams:
        if version < seam.since or version >= (seam.until or version + 1):
            continue
        owner, fault = _owner_of(seam)
        if fault is None:
            fault = _fault_of(vars(owner).get(seam.name), seam)
        if fault is not None:
            unknown.append(f"{seam.owner}.{seam.name}: {fault}")
        else:
            found.append((owner, seam))
    if unknown:
        raise SeamError(
            "this Nova is not one that xmlkit knows (33 and 34 are); nothing was changed. "
            + "; ".join(unknown)
        )
    return found


def _owner_of(seam: Seam) -> tuple[Any, str | None]:
    module, _, name = seam.owner.partition(":")
    owner: Any = sys.modules.get(module)
    if owner is None:
        return None, "the module is not imported"
    if name:
        owner = getattr(owner, name, None)
        if owner is None:
            return None, "no such class"
    return owner, None


def _fault_of(function: Any, seam: Seam) -> str | None:
    if function is None:
        return "no such function"
    if not inspect.isfunction(function):
        return f"a {type(function).__name__}, not a function"
    given = list(inspect.signature(function).parameters.values())
    begins = tuple(each.name for each in given[: len(seam.parameters)])
    if begins != seam.parameters:
        return f"its parameters are {', '.join(each.name for each in given) or 'none'}"
    needed = [each.name for each in given[len(begins) :] if each.default is each.empty]
    return f"it needs {', '.join(needed)} as well" if needed else None


def put_in(found: Sequence[tuple[Any, Seam]], asked: Asked) -> list[Put]:
    """Replace what was found; in what order does not matter, since no two are the same."""
    done = []
    for owner, seam in found:
        was = vars(owner)[seam.name]
        now: Any = functools.wraps(was)(seam.around(was, asked))
        # who looks at it sees the original's parameters, whether or not they follow wrappers
        now.__signature__ = inspect.signature(was)
        setattr(owner, seam.name, now)
        done.append(Put(owner, seam.name, was, now))
    return done


def take_out(done: Sequence[Put]) -> None:
    """Give back the very objects that were there.

    Raises SeamError if somebody else has replaced one of ours since; nothing is changed then.
    """
    others = [
        f"{each.owner.__name__}.{each.name}"
        for each in done
        if vars(each.owner).get(each.name) is not each.now
    ]
    if others:
        raise SeamError(
            f"replaced by somebody else since, who has to go first: {', '.join(others)}"
        )
    for each in done:
        setattr(each.owner, each.name, each.was)


def bound(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Mapping[str, Any]:
    """The arguments of a call by name, defaults included."""
    call = inspect.signature(original).bind(*args, **kwargs)
    call.apply_defaults()
    return call.arguments


def uuid_of(instance: Any) -> str:
    """The UUID of Nova's instance; "" of what Nova's own tests pass for one."""
    return str(getattr(instance, "uuid", ""))


# What libvirt is asked.


class Libvirt:
    """A Lookup that asks libvirt: each time anew, for the few names that matter alone.

    pools: gives the names of Nova's own pools: from no other is anything deleted.
    """

    def __init__(self, pools: Callable[[], Collection[str]] = tuple) -> None:
        self._pools = pools
        self._capabilities: dict[str, Host] = {}

    def host(self, connect: Callable[[], Any], xml: str) -> Host:
        """See Lookup. Raises libvirt's errors."""
        connection = connect()
        domain = read_domain(Document.parse(xml, _LIMITS))
        wanted = {name for disk in domain.disks for name in _volumes_of(disk, domain.uuid)}
        pools = [_pool(each, wanted) for each in _active_pools(connection)] if wanted else []
        known = self.known(connection)
        return Host(known.libversion, known.driver, known.security_models, tuple(pools))

    def path_of(self, connect: Callable[[], Any], volume: str) -> str | None:
        """See Lookup. Raises libvirt's errors."""
        pools = [_pool(each, {volume}) for each in _active_pools(connect())]
        own = self._pools()
        for chosen in ([pool for pool in pools if pool.name in own], pools):
            found = [each for pool in chosen for each in pool.volumes or () if not each.link]
            if found:
                return found[0].path if len(found) == 1 else None
        return None

    def delete(
        self, connect: Callable[[], Any], uuid: str, only: Collection[str] | None = None
    ) -> None:
        """See Lookup. What cannot be deleted is logged. Images in ceph are Nova's Rbd's."""
        import libvirt

        chosen = self._pools()
        for pool in _active_pools(connect()):
            if pool.name() not in chosen or _type_of(pool) == "rbd":
                continue
            for name in pool.listVolumes():
                own = names.split_volume_name(name)
                if own is None or own[0] != uuid or names.kind_of(own[1]) is None:
                    continue
                if only is not None and own[1] not in only:
                    continue
                try:
                    pool.storageVolLookupByName(name).delete(0)
                except libvirt.libvirtError as error:
                    LOG.warning("Volume %s/%s stays: %s", pool.name(), name, error)

    def known(self, connection: Any) -> Host:
        """What stays while libvirtd does: its version, driver and security models."""
        uri = connection.getURI()
        if uri not in self._capabilities:
            found = etree.fromstring(connection.getCapabilities().encode())
            models = found.iterfind("host/secmodel/model")
            self._capabilities[uri] = Host(
                connection.getLibVersion(),
                str(connection.getType()).lower(),
                tuple(model.text or "" for model in models),
            )
        return self._capabilities[uri]


def _volumes_of(disk: Disk, uuid: str) -> set[str]:
    """The names of volumes that a disk may be."""
    address = disk.address
    if address.type == "volume":
        return {address.volume} if address.volume else set()
    if address.type not in ("file", "block") or not address.path:
        return set()
    found = {address.path.rpartition("/")[2]}
    own = names.split_instance_path(address.path)
    # where its image is still in the directory, a volume of its name is another one
    if own is not None and own[0].lower() == uuid and not os.path.lexists(address.path):
        found.add(names.volume_name(uuid, own[1]))
    return found - {""}


def _active_pools(connection: Any) -> list[Any]:
    import libvirt

    pools = connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
    return sorted(pools, key=lambda pool: str(pool.name()))


def _type_of(pool: Any) -> str | None:
    return etree.fromstring(pool.XMLDesc(0).encode()).get("type")


def _pool(pool: Any, wanted: set[str]) -> Pool:
    """A pool, of whose volumes only those of the wanted names count."""
    import libvirt

    xml = etree.fromstring(pool.XMLDesc(0).encode())
    known = parse_pool(xml)
    volumes: list[Volume] = []
    for name in sorted(wanted):
        try:
            found = etree.fromstring(pool.storageVolLookupByName(name).XMLDesc(0).encode())
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
                raise
            continue
        path = found.findtext("target/path") or ""
        links = frozenset([path] if known.type in NAMED_BY_PATH and os.path.islink(path) else [])
        volumes.append(parse_volume(found, known.name, links))
    return parse_pool(xml, volumes)


def is_expected(error: Exception) -> bool:
    """Whether an error is xmlkit's or libvirt's, and not a fault; libvirt need not be imported."""
    return isinstance(error, XmlkitError) or type(error).__name__ == "libvirtError"


# The three seams of the builder: written, read, migrated.


def written(xml: Any, lookup: Lookup, connect: Callable[[], Any], *, live: bool = False) -> Any:
    """A domain's XML with the disks on volumes that are there; as it was if libvirt cannot say."""
    if not isinstance(xml, str):
        return xml
    try:
        rewritten = to_volumes(xml, lookup.host(connect, xml), live=live)
    except Exception as error:
        if not is_expected(error):
            raise
        LOG.warning("The disks stay on their paths: %s", error)
        return xml
    for finding in rewritten.findings:
        LOG.info("%s (%s)", finding.message, finding.id)
    return rewritten.result


def readable(xml: Any, lookup: Lookup, connect: Callable[[], Any]) -> tuple[Any, dict[str, str]]:
    """A domain's XML with each volume disk on its path, and those disks' targets by their paths.

    Raises nova's DiskNotFound if one has none: without its source, Nova would take the disk for
    lost, or for none at all, and go on.
    """
    if not isinstance(xml, str) or not _VOLUME_DISK.search(xml):
        return xml, {}
    rewritten = to_paths(xml, lookup.host(connect, xml))
    for each in rewritten.skips:
        if each.address.type == "volume" and each.reason.id != "empty":
            raise _not_found(each)
    return rewritten.result, {each.after.path or "": each.target for each in rewritten.changes}


def _not_found(disk: Skip) -> Exception:
    from nova import exception

    why = f"{disk.reason.message}; virsh pool-refresh may help"
    if disk.reason.id == "no-pool":
        # only active ones are asked
        why = f"no pool {disk.address.pool!r} is active; virsh pool-start may help"
    location = f"{disk.address} ({disk.target}): {why}"
    error: Exception = exception.DiskNotFound(location=location)
    return error


class _Readable:
    """A domain of libvirt's whose XML Nova's readers understand; the rest is the domain's own."""

    def __init__(self, domain: Any, lookup: Lookup) -> None:
        self._domain = domain
        self._lookup = lookup
        self.failed: Exception | None = None
        self.targets: dict[str, str] = {}

    def XMLDesc(self, *args: Any, **kwargs: Any) -> Any:
        xml = self._domain.XMLDesc(*args, **kwargs)
        try:
            xml, self.targets = readable(xml, self._lookup, lambda: self._domain.connect())
            return xml
        except Exception as error:
            # Nova's readers take an error for "no such disk"
            self.failed = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._domain, name)


# What the host has to which this thread migrates an instance, as far as that is known; None where
# it migrates none.
_aim: contextvars.ContextVar[list[Host] | None] = contextvars.ContextVar("xmlkit_aim", default=None)


@contextlib.contextmanager
def aiming() -> Iterator[None]:
    """Within it one instance migrates; what the other host has is forgotten afterwards."""
    token = _aim.set([])
    try:
        yield
    finally:
        _aim.reset(token)


def _take_aim(host: Host | None) -> None:
    """Keep what the other host has, while this thread migrates an instance."""
    kept = _aim.get()
    if kept is not None:
        kept[:] = () if host is None else (host,)


class _Migrating:
    """A domain of libvirt's that migrates: copied disks arrive as paths, and stay as volumes.

    libvirt refuses to copy a disk onto a volume (NON_SHARED_INC, error 84, 7.0 to 12.8), but takes
    the persistent XML as it is.
    """

    def __init__(self, domain: Any, lookup: Lookup) -> None:
        self._domain = domain
        self._lookup = lookup

    def migrateToURI3(self, destination: Any, params: Any = None, flags: int = 0) -> Any:
        if params and params.get("migrate_disks") and "destination_xml" in params:
            xml = params["destination_xml"]
            for there in _aim.get() or ():
                # the volumes that are there and not here
                xml = to_paths(xml, there).result
            live, _ = readable(xml, self._lookup, lambda: self._domain.connect())
            params = {**params, "destination_xml": live}
        return self._domain.migrateToURI3(destination, params=params, flags=flags)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._domain, name)


def _writing(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    def get_guest_xml(self: Any, *args: Any, **kwargs: Any) -> Any:
        xml = original(self, *args, **kwargs)
        return written(xml, asked.lookup, lambda: self._host.get_connection())

    return get_guest_xml


# Within it, it does not matter where the disks are; a context of its own in each of Nova's threads.
_without_disks: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "xmlkit_without_disks", default=False
)


def _reading(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self._domain, _Readable) or _without_disks.get():
            return original(self, *args, **kwargs)
        devtype = bound(original, self, *args, **kwargs).get("devtype")
        if not getattr(devtype, "__name__", "Disk").endswith("Disk"):
            # nothing of them is a disk's
            return original(self, *args, **kwargs)
        aside = copy.copy(self)
        aside._domain = _Readable(self._domain, asked.lookup)
        found = original(aside, *args, **kwargs)
        if aside._domain.failed is not None:
            raise aside._domain.failed
        self.xmlkit_targets = aside._domain.targets
        return found

    return read


def _without(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """Of all guests of the host Nova wants the mediated devices: one whose pool is not active, or
    whose volume is gone, is not to stop it."""

    def get_all_assigned_mediated_devices(self: Any, *args: Any, **kwargs: Any) -> Any:
        token = _without_disks.set(True)
        try:
            return original(self, *args, **kwargs)
        finally:
            _without_disks.reset(token)

    return get_all_assigned_mediated_devices


def _by_target(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """libvirt's block jobs know a volume disk by its target, not by the path that Nova has read."""

    def get_block_device(self: Any, disk: Any) -> Any:
        return original(self, getattr(self, "xmlkit_targets", {}).get(disk, disk))

    return get_block_device


def _migrating(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    def migrate(self: Any, *args: Any, **kwargs: Any) -> Any:
        aside = copy.copy(self)
        aside._domain = _Migrating(self._domain, asked.lookup)
        return original(aside, *args, **kwargs)

    return migrate


def _arriving(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """The XML for another host: onto its volumes, as far as it is known what it has."""

    def get_updated_guest_xml(*args: Any, **kwargs: Any) -> Any:
        xml = original(*args, **kwargs)
        call = bound(original, *args, **kwargs)
        if asked.destination is None:
            guest, uuid = call["guest"], uuid_of(call["instance"])
            xml, host = asked.live.aimed(
                lambda: guest._domain.connect(), uuid, xml, call["migrate_data"]
            )
            _take_aim(host)
            return xml
        host = asked.destination(call["migrate_data"])
        _take_aim(host)
        return xml if host is None else to_volumes(xml, host, live=True).result

    return get_updated_guest_xml


_DRIVER = "nova.virt.libvirt.driver:LibvirtDriver"
_GUEST = "nova.virt.libvirt.guest:Guest"

BUILDER = (
    Seam(
        _DRIVER,
        "_get_guest_xml",
        ("self", "context", "instance", "network_info", "disk_info", "image_meta"),
        _writing,
    ),
    Seam(_GUEST, "get_config", ("self",), _reading),
    Seam(_GUEST, "get_disk", ("self", "device", "from_persistent_config"), _reading),
    Seam(_GUEST, "get_all_devices", ("self", "devtype", "from_persistent_config"), _reading),
    Seam(_DRIVER, "_get_all_assigned_mediated_devices", ("self", "instance"), _without),
    Seam(_GUEST, "get_block_device", ("self", "disk"), _by_target),
    Seam(
        _GUEST,
        "migrate",
        ("self", "destination", "migrate_uri", "migrate_disks", "destination_xml", "flags"),
        _migrating,
    ),
    Seam(
        "nova.virt.libvirt.migration",
        "get_updated_guest_xml",
        ("instance", "guest", "migrate_data", "get_volume_config"),
        _arriving,
    ),
)
