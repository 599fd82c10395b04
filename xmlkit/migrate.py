"""Live migration of a guest onto the destination's pools; a module that imports libvirt.

Laws
- Planned by the destination's facts: its version, its pools, its security model.
- Both documents are always sent: DEST_XML for the guest that runs, PERSIST_XML for its next start.
  The first alone leaves the old address in what is defined, on every version that was tried.
- Storage is shared where it was shown: the destination sees, under a name that we have just made
  or in a pool of the same name, the times of our inode. Otherwise nothing migrates.
- Never two running. libvirt alone would start the guest there, and here again if it did not hear of
  that: where no locks on files keep QEMU from it, the guest stays paused there until the source has
  let it go, and is resumed by us.
- What has happened is read off both hosts, not off the journal: a guest that runs there is
  finished, one that is not there is taken back, any other is left alone and told.
- The old name of an image goes last, when the guest runs there and its persistent XML resolves
  there. What was made for a migration that did not come about goes again, unless a domain names it.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import libvirt
from lxml import etree

from xmlkit import disk_info, images, leisure
from xmlkit.actions import create_volume
from xmlkit.disks import Address, Disk, read_domain
from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.host import (
    HOST_LIMITS,
    NAMED_BY_PATH,
    POOL_DISK_TYPES,
    Host,
    Pool,
    sanitized,
    version_text,
)
from xmlkit.images import ImageError
from xmlkit.journal import Journal, Outcome, Task, Writer
from xmlkit.observe import LibvirtError, domain_xml, is_local, said, without_password
from xmlkit.plan import STAYS, Plan, PlanError, Skip, Transition, plan
from xmlkit.preflight import Concern, judge, refusals
from xmlkit.rules import RULES
from xmlkit.steps import Create, Link, Migrate, Refresh, Resume, Step, Unlink
from xmlkit.survey import Guest, Survey, survey
from xmlkit.transformers import transform
from xmlkit.volumes import Creation, Target, VolumeError, blank, overlay

__all__ = ["Migration", "Options", "UriError", "judged", "recover", "run"]

Storage = Literal["shared", "full", "incremental"]

# Called as ("begin" or "done", UUID, step) around each step, and ("migrated", UUID, step, bytes
# done, bytes in all) while the guest migrates.
Listener = Callable[..., None]

SECURE = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
MIGRATABLE = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE

POLL = 0.2  # seconds
SHOWING = 10.0  # seconds in which a name that we have made must show there (NFS keeps attributes)
SETTLING = 30.0  # seconds that libvirt has to cancel what its client has left
EMPTY = 1 << 20  # bytes that an image takes in which nothing was written yet

# Caches under which no host keeps what the other one has written (virsh(1), migrate --unsafe).
_SAFE_CACHES = ("none", "directsync")

_RUNNING = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED)
# Why libvirt pauses a guest that migrates; after a restart of its daemon it may not know any more.
_MIGRATING = (
    libvirt.VIR_DOMAIN_PAUSED_UNKNOWN,
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP,
)


class _Failure(Exception):
    """Why a step could not be taken; `id` is one of xmlkit.rules."""

    def __init__(self, id: str, message: str) -> None:
        self.id = id
        super().__init__(message)


class UriError(XmlkitError):
    """A URI that no QEMU can connect to; the message says which option, and how it is written."""


@dataclass(frozen=True)
class Options:
    """How a migration is wanted.

    relocate, accept: as plan() takes them. storage: whether both hosts see the images, or the
    disks are copied, in full or what they have above their backing files. migrate_uri, disks_uri:
    for QEMU's own connections (virsh migrate --migrateuri, --disks-uri).

    Raises UriError. Source: qemuMigrationDstPrepareDirect, qemuMigrationDstStartNBDServer, libvirt
    9.0.0.
    """

    relocate: Mapping[str | None, str] = field(default_factory=dict)
    storage: Storage = "shared"
    accept: tuple[str, ...] = ()
    migrate_uri: str | None = None
    disks_uri: str | None = None

    def __post_init__(self) -> None:
        _check_uri("--migrate-uri", self.migrate_uri, ("tcp", "rdma"))
        _check_uri("--disks-uri", self.disks_uri, ("tcp",))
        uri = urlsplit(self.disks_uri or "")
        # without a port libvirt chooses two
        if self.disks_uri == self.migrate_uri and (uri.scheme == "unix" or uri.port):
            raise UriError(f"--disks-uri {self.disks_uri!r} is the memory's: choose another one")


def _check_uri(option: str, uri: str | None, by_host: Collection[str]) -> None:
    if uri is None:
        return
    try:
        # what is not printable it would leave out
        parts = urlsplit(uri if uri.isprintable() and " " not in uri else "")
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if parts.scheme in by_host:
        good = bool(host) and parts.path in ("", "/") and port != 0 and parts.username is None
    else:
        good = parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/")
    if not good or parts.query or parts.fragment:
        hosts = " or ".join(f"{scheme}://HOST:PORT" for scheme in by_host)
        raise UriError(f"{option} {uri!r}: write {hosts} or unix:///PATH")


@dataclass(frozen=True)
class Migration:
    """One domain that is to migrate, judged.

    plan: for its persistent XML at the destination; live: for the XML that it runs with there.
    state: "ready" (task is what will be done) or "refused"; id and message say why. creations: the
    volumes to be made there, by the disk's target.
    """

    name: str
    uuid: str
    options: Options
    plan: Plan | None = None
    live: Plan | None = None
    concerns: tuple[Concern, ...] = ()
    state: Literal["ready", "refused"] = "ready"
    id: str = ""
    message: str = ""
    task: Task | None = None
    creations: Mapping[str, Creation] = field(default_factory=dict)


# What is decided.


def judged(source: Any, there: Any, name: str, to: str, options: Options) -> Migration:
    """The migration of the domain with this name or UUID from one libvirt to another one, judged.

    source, there: connections that may write. to: the URI of the destination, for the journal.
    Nothing is changed. Raises LibvirtError if there is no such domain or one of them is no QEMU's,
    PlanError for a pool that the destination does not have, and what libvirt raises.
    """
    for connection in (source, there):
        # virConnectGetType; the other drivers answer, and fail when the guest is to go over
        if (driver := connection.getType()) != "QEMU":
            raise LibvirtError(
                f"{without_password(connection.getURI())}: its guests are not QEMU's but of the "
                f"driver {driver}: xmlkit migrates from qemu:///... to qemu+ssh://HOST/... only"
            )
    over = survey(there, ())
    places = {p.path for p in over.host.pools if p.type in NAMED_BY_PATH and p.path}
    surveyed = survey(source, (name,), secure=True, directories=places)
    if not surveyed.guests:
        domain_xml(source, name)
    (guest, *_) = surveyed.guests
    case = _Judge(source, there, without_password(to), options, guest, surveyed, over)
    return case.migration()


class _Judge:
    def __init__(
        self,
        source: Any,
        there: Any,
        to: str,
        options: Options,
        guest: Guest,
        surveyed: Survey,
        over: Survey,
    ) -> None:
        self.source = source
        self.there = there
        self.to = to
        self.options = options
        self.guest = guest
        self.surveyed = surveyed
        self.over = over
        self.copies = options.storage != "shared"
        self.found: list[Concern] = []
        self.creations: dict[str, Creation] = {}
        self.creates: list[Create] = []

    def migration(self) -> Migration:
        guest, options = self.guest, self.options
        host = _unlisted(self.over.host) if self.copies else self.over.host
        made = plan(
            guest.document, host, "volume", relocate=options.relocate, accept=options.accept
        )
        self._hosts()
        self._skips(made)
        self._volumes()
        live = None
        if guest.live is not None:
            document = _document(self._domain().XMLDesc(MIGRATABLE))
            live = plan(
                document,
                host,
                "volume",
                relocate=options.relocate,
                live=True,
                accept=options.accept,
            )
            if self.copies:
                self._creations(made)
            if options.storage == "incremental":
                live = self._by_path(live, document)
        concerns = judge(
            _in_place(made) if self.copies else made,
            guest,
            self._survey(),
            accept=options.accept,
            migrating=True,
            also=self.found,
        )
        migration = Migration(guest.name, guest.uuid, options, made, live, concerns)
        stops = refusals(concerns)
        if stops:
            target = f"{stops[0].target}: " if stops[0].target else ""
            return replace(
                migration, state="refused", id=stops[0].id, message=target + stops[0].message
            )
        task = Task(made, self._steps(made))
        return replace(migration, task=task, creations=self.creations)

    def _domain(self) -> Any:
        return self.source.lookupByUUIDString(self.guest.uuid)

    def _disks(self) -> tuple[Disk, ...]:
        """The disks as the guest runs with them."""
        return read_domain(self.guest.live or self.guest.document).disks

    def _survey(self) -> Survey:
        """The images and domains here, the pools and the domains there."""
        uses = {
            path: (*self.surveyed.uses.get(path, ()), *self.over.uses.get(path, ()))
            for path in self.surveyed.uses.keys() | self.over.uses.keys()
        }
        return replace(
            self.surveyed,
            host=self.over.host,
            transient_pools=self.over.transient_pools,
            uses=uses,
        )

    def _hosts(self) -> None:
        """What is wrong with the two hosts, whatever the disks."""
        uuids = [_host_uuid(each) for each in (self.source, self.there)]
        if uuids[0] == uuids[1]:
            self.found += _concern("same-host", f"both have the UUID {uuids[0]}")
        elif known := _any_domain(self.there, self.guest.uuid, self.guest.name):
            self.found += _concern("domain-exists", f"the destination has {known} already")
        here, over = self.surveyed.host.libversion, self.over.host.libversion
        if here is not None and over is not None and over < here:
            versions = f"libvirt {version_text(over)} there, {version_text(here)} here"
            self.found += _concern("older-libvirt", versions)
        if self.options.storage == "shared":
            if not self.surveyed.local:
                message = "the images are another machine's: run xmlkit where the guest is"
                self.found += _concern("unseen", message, "", "refuse")
            for disk in self._disks():
                if _is_written(disk) and _cache(disk) not in _SAFE_CACHES:
                    message = f"its cache is {_cache(disk)}"
                    self.found += _concern("unsafe-cache", message, disk.target, "warn")

    def _skips(self, made: Plan) -> None:
        """The disks that cannot have the address that they should have there."""
        for skip in made.skips:
            if skip.reason.id not in STAYS and skip.reason.id != "rescue":
                self.found += _concern(skip.reason.id, skip.reason.message, skip.target, "refuse")

    def _volumes(self) -> None:
        """Disks that are volumes already: their pool has to be there too."""
        for disk in self._disks():
            if disk.address.type != "volume" or not disk.address.pool:
                continue
            pool = self.over.host.by_name.get(disk.address.pool)
            if pool is None:
                message = f"the destination has no pool {disk.address.pool}"
                self.found += _concern("no-pool", message, disk.target, "refuse")
            elif not pool.active:
                message = f"pool {pool.name} is not active there"
                self.found += _concern("pool-inactive", message, disk.target, "refuse")

    # Disks that are copied.

    def _creations(self, made: Plan) -> None:
        decisions = {each.target: each for each in made.disks}
        persistent = {each.target: each for each in read_domain(self.guest.document).disks}
        needed: dict[str, int] = {}
        for disk in self._disks():
            if not _is_written(disk) or disk.address.type == "network":
                continue
            if disk.target not in persistent:
                message = "only the running guest has it, so that nothing says what it is to become"
                self.found += _concern("disk-changed", message, disk.target, "refuse")
                continue
            decision = decisions.get(disk.target)
            address = decision.after if isinstance(decision, Transition) else disk.address
            pool = self.over.host.by_name.get(address.pool or "")
            if pool is None or address.volume is None:
                if isinstance(decision, Skip) and decision.reason.id in STAYS - {"already"}:
                    message = f"it would have no volume there: {decision.reason.message}"
                    if decision.reason.id == "outside-pools":
                        message += "; --relocate POOL gives one to disks in Nova's directories"
                    self.found += _concern(decision.reason.id, message, disk.target, "refuse")
                continue
            taken = self._is_taken(pool, address.volume)
            if taken is not None:
                self.found += (taken._replace(target=disk.target),)
                continue
            capacity, allocation, _ = self._domain().blockInfo(disk.target)
            try:
                creation, below = self._creation(disk, pool.name, address.volume, capacity)
            except VolumeError as error:
                id = "volume-taken" if error.id == "volume-exists" else error.id
                self.found += _concern(id, str(error), disk.target, "refuse")
                continue
            self.creations[disk.target] = creation
            fields = (disk.target, pool.name, address.volume, disk.image_format, capacity)
            self.creates.append(Create(*fields, *below, self.to))
            needed[pool.name] = needed.get(pool.name, 0) + allocation
        for name, size in needed.items():
            with contextlib.suppress(libvirt.libvirtError):
                free = self.there.storagePoolLookupByName(name).info()[3]
                if size > free:
                    message = f"the disks take {size >> 20} MiB, pool {name} has {free >> 20} MiB"
                    self.found += _concern("space", message)

    def _is_taken(self, pool: Pool, name: str) -> Concern | None:
        """What lies where a volume is to be made: also a file that libvirt has not listed yet."""
        if not pool.active:
            return None
        try:
            _refresh(self.there, pool.name)
        except _Failure as failure:
            return _concern(failure.id, f"the destination: {failure}", "", "refuse")[0]
        volume = _volume(self.there, pool.name, name)
        if volume is None:
            return None
        message = f"the destination has {volume.path()}, volume {name} of its pool {pool.name}"
        return _concern("volume-taken", message)[0]

    def _creation(
        self, disk: Disk, pool: str, volume: str, capacity: int
    ) -> tuple[Creation, tuple[str, str]]:
        """The volume that the disk's content goes into; and the image that it is laid over."""
        host = self.over.host
        target = Target(disk.image_format)
        if self.options.storage == "incremental":
            chain = self._chain(disk)
            if chain:
                below = chain[0]
                self._bases(disk, chain)
                creation = overlay(host, host.by_name[pool], volume, target, *below, capacity)
                return creation, below
        return blank(host, host.by_name[pool], volume, target, capacity), ("", "")

    def _chain(self, disk: Disk) -> list[tuple[str, str]]:
        """(path, format) of what is below a disk's image, by the formats that are declared."""
        found: list[tuple[str, str]] = []
        path = self.surveyed.path_of(disk)
        if not self.surveyed.local:
            self.found += _concern(
                "unseen", "its files are another machine's", disk.target, "refuse"
            )
            return found
        while (file := self.surveyed.files.get(path or "")) and file.header is not None:
            if file.header.file is None:
                break
            if file.backing is None or file.header.format is None:
                message = f"{path} does not say the path and format of what it is backed by"
                self.found += _concern("format-unknown", message, disk.target, "refuse")
                break
            path = file.backing
            if path in (each for each, _ in found):
                break
            found.append((path, file.header.format))
        return found

    def _bases(self, disk: Disk, chain: Iterable[tuple[str, str]]) -> None:
        for path, _ in chain:
            why = _other_content(self.there, path)
            if why is not None:
                self.found += _concern("base-unverified", f"{path}: {why}", disk.target)

    def _by_path(self, live: Plan, document: Document) -> Plan:
        """The live plan with the disks that are copied at their volumes' paths.

        libvirt refuses incremental copies to a volume disk (code 84, on 7.0 to 12.8).
        """
        now = {disk.target: disk for disk in read_domain(document).disks}
        creates = {each.target: each for each in self.creates}
        disks: list[Transition | Skip] = []
        for each in live.disks:
            create = creates.get(each.target)
            if create is None:
                disks.append(each)
                continue
            pool = self.over.host.by_name[create.pool]
            path = pool.path_of(create.volume)
            disk = now[each.target]
            disks.append(
                Transition(
                    target=each.target,
                    action="adopt",
                    disk_type="path",
                    format=disk.image_format,
                    before=disk.address,
                    after=Address("file", path, create.pool, create.volume),
                    verified=False,
                    live=True,
                    span=document.text_of(disk.element),
                )
            )
        return live._replace(disks=tuple(disks))

    def _steps(self, made: Plan) -> tuple[Step, ...]:
        migrate = Migrate(self.guest.uuid, self.to, self.options.storage)
        resume = () if self._is_locked() else (Resume(self.guest.uuid, self.to),)
        if self.copies:
            return (*self.creates, migrate, *resume)
        moves = [each for each in made.transitions if each.action == "move" and each.changes]
        pairs = [(str(each.before.path), str(each.after.path)) for each in moves]
        pools = dict.fromkeys(
            pool for disk in made.disks if (pool := _final(disk).pool) is not None
        )
        return (
            *(Link(*pair) for pair in pairs),
            *(Refresh(pool, self.to) for pool in pools),
            migrate,
            *resume,
            *(Unlink(*pair) for pair in pairs),
        )

    def _is_locked(self) -> bool:
        """Whether each disk is a file that both hosts see, so that QEMU's locks are on it."""
        pools = self.over.host.by_name
        return not self.copies and all(
            disk.address.type == "file"
            or (
                disk.address.pool in pools
                and POOL_DISK_TYPES[pools[disk.address.pool].type] == "file"
            )
            for disk in self._disks()
            if _is_written(disk)
        )


def _final(disk: Transition | Skip) -> Address:
    """Where a disk will be."""
    return disk.after if isinstance(disk, Transition) else disk.address


def _unlisted(host: Host) -> Host:
    """The host, as if nobody had looked which volumes it has: they are made by us."""
    pools = (replace(p, volumes=None) if p.type in NAMED_BY_PATH else p for p in host.pools)
    return replace(host, pools=tuple(pools))


def _in_place(made: Plan) -> Plan:
    """The plan without moves: where disks are copied, no file here gets another name."""
    disks = (
        each._replace(action="adopt") if isinstance(each, Transition) else each
        for each in made.disks
    )
    return made._replace(disks=tuple(disks))


def _is_written(disk: Disk) -> bool:
    """Whether the guest may write to it: what a migration has to bring along, or share."""
    empty = disk.address.path is None and disk.address.volume is None
    fixed = disk.device in ("cdrom", "floppy") or "readonly" in disk.children
    return not fixed and not (empty and disk.address.type != "network")


def _cache(disk: Disk) -> str:
    driver = disk.children.get("driver")
    return "default" if driver is None else driver.get("cache", "default")


def _concern(id: str, message: str, target: str = "", severity: Any = "") -> tuple[Concern]:
    return (Concern(id, message, target, severity or RULES[id].severity or "refuse"),)


def _host_uuid(connection: Any) -> str | None:
    return etree.fromstring(connection.getCapabilities().encode()).findtext("host/uuid")


def _any_domain(connection: Any, uuid: str, name: str) -> str:
    """What a libvirt has of this UUID or name; "" if nothing."""
    for lookup, value in ((connection.lookupByUUIDString, uuid), (connection.lookupByName, name)):
        try:
            domain = lookup(value)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
        else:
            return f"domain {domain.name()} ({domain.UUIDString()})"
    return ""


def _other_content(there: Any, path: str) -> str | None:
    """Why a backing file there is not known to be the one here; None if each byte is the same."""
    try:
        volume = there.storageVolLookupByPath(path)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
            raise
        return "no pool of the destination lists it, so its content cannot be compared"
    stream = there.newStream(0)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return f"cannot be read here: {error.strerror}"
    with open(handle, "rb") as file:
        same = True

        def compare(_stream: Any, data: bytes, _opaque: Any) -> int:
            nonlocal same
            same = same and file.read(len(data)) == data
            if not same:
                raise EOFError
            return len(data)

        try:
            volume.download(stream, 0, 0, 0)
            stream.recvAll(compare, None)
            stream.finish()
        except EOFError:
            return "its content is another one there"
        except libvirt.libvirtError as error:
            return f"cannot be read there: {error.get_error_message()}"
        if not same or file.read(1):
            return "its content is another one there"
    return None


# What is done.


def run(
    source: Any,
    there: Any,
    writer: Writer,
    migration: Migration,
    *,
    listener: Listener = lambda *_: None,
) -> dict[str, Outcome]:
    """Carry a migration out, whose journal `writer` began; it ends done, undone or pending.

    A KeyboardInterrupt cancels it: the guest stays here, what was made is taken back. Returns the
    outcome for its UUID. Raises JournalError if the journal cannot be written.
    """
    assert migration.task is not None
    mover = _Mover(source, there, writer, listener, migration.task)
    id = message = ""
    try:
        mover.forward(migration)
    except KeyboardInterrupt:
        id, message = "interrupted", "interrupted"
    except (_Failure, ImageError, VolumeError) as failure:
        id, message = failure.id, str(failure)
    except PlanError as error:
        id, message = "disk-changed", str(error)
    except libvirt.libvirtError as error:
        id, message = "libvirt", said(error)
    except (XmlkitError, OSError) as error:
        id, message = "failed", str(error)
    outcome = mover.settle()
    if outcome.state != "done" and id:
        also = f"; {outcome.message}" if outcome.message else ""
        outcome = Outcome(outcome.state, id, message + also)
    writer.end((mover.uuid, outcome))
    return {mover.uuid: outcome}


def recover(
    source: Any, there: Any, journal: Journal, *, listener: Listener = lambda *_: None
) -> dict[str, Outcome]:
    """Bring a migration that was interrupted to an end: done or undone.

    source, there: connections that may write, to where it came from and where it was to go.
    Returns the outcome for each UUID that was pending. Raises JournalError.
    """
    writer = Writer(journal.path, new=False)
    try:
        outcomes = {}
        for task in journal.pending:
            mover = _Mover(source, there, writer, listener, task)
            mover.begun = set(journal.begun.get(task.uuid, ()))
            mover.done = set(journal.done.get(task.uuid, ()))
            outcomes[task.uuid] = mover.settle()
            writer.end((task.uuid, outcomes[task.uuid]))
        return outcomes
    finally:
        writer.close()


class _Side(NamedTuple):
    """Where a domain stands on one of the hosts."""

    persistent: bool = False
    active: bool = False
    running: bool = False
    paused: bool = False
    migrating: bool = False  # paused, and by libvirt because it migrates
    waiting: bool = False  # paused, and by a user
    job: bool = False

    @property
    def known(self) -> bool:
        return self.persistent or self.active

    def __str__(self) -> str:
        if not self.known:
            return "not there"
        if not self.active:
            return "shut off"
        return "running" if self.running else "paused" if self.paused else "neither"


class _Mover:
    """One domain on its way."""

    def __init__(
        self, source: Any, there: Any, writer: Writer, listener: Listener, task: Task
    ) -> None:
        self.source = source
        self.there = there
        self.writer = writer
        self.listener = listener
        self.task = task
        self.uuid = task.uuid
        self.begun: set[int] = set()
        self.done: set[int] = set()
        self.shown = False  # each disk is a file that both hosts see
        self.moved = self.whole = 0  # bytes, as libvirt counts them
        # whether it is resumed by us, and not by libvirt
        self.resumes = any(isinstance(step, Resume) for step in task.steps)

    # Forward.

    def forward(self, migration: Migration) -> None:
        """All steps up to the migration itself; settle() takes the rest."""
        for number, step in enumerate(self.task.steps):
            if isinstance(step, Unlink):
                return
            self._refuse_taken(step)
            with self._journalled(number, step), self._making(number, step):
                match step:
                    case Link(source, target):
                        images.link(source, target)
                        disk_info.add(source, target)
                    case Refresh(pool):
                        _refresh(self.there, pool)
                    case Create(target=target):
                        create_volume(self.there, migration.creations[target])
                    case Migrate():
                        if step.storage == "shared":
                            self._show()
                        self._migrate(step, migration)
                    case Resume():
                        _resume(self.there, self.uuid)

    @contextlib.contextmanager
    def _journalled(self, number: int, step: Step) -> Iterator[None]:
        self.writer.begin((self.uuid, number))
        self.begun.add(number)
        self.listener("begin", self.uuid, step)
        yield
        self.listener("done", self.uuid, step)
        self.writer.done((self.uuid, number))
        self.done.add(number)

    @contextlib.contextmanager
    def _making(self, number: int, step: Step) -> Iterator[None]:
        """What libvirt refused to make is not ours: nothing of it is removed."""
        try:
            yield
        except (LibvirtError, VolumeError):
            if isinstance(step, Create) and self.there.isAlive():
                self.begun.discard(number)
            raise

    def _refuse_taken(self, step: Step) -> None:
        """Raise _Failure if the destination has the volume that a step would make."""
        if isinstance(step, Link):
            pool, name = self._volume_at(step.target)
        elif isinstance(step, Create):
            pool, name = step.pool, step.volume
            # also what somebody has put there since it was judged, and libvirt has not listed
            _refresh(self.there, pool)
        else:
            return
        volume = _volume(self.there, pool, name)
        if volume is not None:
            raise _Failure(
                "volume-taken",
                f"the destination has {volume.path()}, volume {name} of its pool {pool}",
            )

    def _volume_at(self, path: str) -> tuple[str, str]:
        for each in self.task.plan.transitions:
            if each.after.path == path:
                return str(each.after.pool), str(each.after.volume)
        raise _Failure("disk-changed", f"no disk of the plan is at {path}")

    def _show(self) -> None:
        """Show that the destination's volumes are the files here. Raises _Failure."""
        everything = True
        document = self._domain_here().XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
        final = {each.target: _final(each) for each in self.task.plan.disks}
        for disk in read_domain(_document(document)).disks:
            if not _is_written(disk) or disk.address.type not in ("file", "volume"):
                continue
            to = final.get(disk.target)
            path = disk.address.path or (None if to is None else self._path_here(to))
            if to is None or to.pool is None or to.volume is None or path is None:
                everything = False
                continue
            if not _is_shared(self.there, to.pool, to.volume, path):
                raise _Failure(
                    "no-shared-storage",
                    f"the destination does not see {path} as volume {to.volume} of its pool "
                    f"{to.pool}: migrate with --storage full or --storage incremental",
                )
        self.shown = everything

    def _path_here(self, address: Address) -> str | None:
        if address.path is not None:
            return address.path
        volume = _volume(self.source, str(address.pool), str(address.volume))
        return None if volume is None else str(volume.path())

    def _migrate(self, step: Migrate, migration: Migration) -> None:
        options = migration.options
        domain = self._domain_here()
        persistent = transform(_document(domain.XMLDesc(SECURE)), self.task.plan)
        live = _document(domain.XMLDesc(MIGRATABLE))
        if migration.live is not None:
            live = transform(live, migration.live)
        parameters: dict[str, Any] = {
            libvirt.VIR_MIGRATE_PARAM_DEST_XML: live.text,
            libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: persistent.text,
        }
        if options.migrate_uri is not None:
            parameters[libvirt.VIR_MIGRATE_PARAM_URI] = options.migrate_uri
        flags = (
            libvirt.VIR_MIGRATE_LIVE
            | libvirt.VIR_MIGRATE_PERSIST_DEST
            | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        )
        if self.resumes:
            flags |= libvirt.VIR_MIGRATE_PAUSED
        if step.storage != "shared":
            # named, or libvirt would copy network disks onto themselves
            parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(migration.creations)
            if options.disks_uri is not None:
                parameters[libvirt.VIR_MIGRATE_PARAM_DISKS_URI] = options.disks_uri
            if migration.creations:
                full = step.storage == "full"
                flags |= (
                    libvirt.VIR_MIGRATE_NON_SHARED_DISK
                    if full
                    else libvirt.VIR_MIGRATE_NON_SHARED_INC
                )
        try:
            self._call(step, domain, parameters, flags)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_MIGRATE_UNSAFE:
                raise
            self._refuse_unsafe(live, options, said(error))
            self._call(step, domain, parameters, flags | libvirt.VIR_MIGRATE_UNSAFE)

    def _refuse_unsafe(self, live: Document, options: Options, said: str) -> None:
        """Raise _Failure unless what libvirt calls unsafe was shown to be safe."""
        if not self.shown:
            raise _Failure("no-shared-storage", f"{said}; not all disks were shown to be shared")
        caches = {
            disk.target: _cache(disk)
            for disk in read_domain(live).disks
            if _is_written(disk) and _cache(disk) not in _SAFE_CACHES
        }
        if caches and "unsafe-cache" not in options.accept:
            shown = ", ".join(f"{target} ({cache})" for target, cache in caches.items())
            raise _Failure("unsafe-cache", f"{said}; the cache of {shown} is not coherent")

    def _call(self, step: Step, domain: Any, parameters: dict[str, Any], flags: int) -> None:
        """migrate3 in a thread; this one looks how far it is, and hears Ctrl-C."""
        failures: list[BaseException] = []
        # not Thread.join: Ctrl-C in it, and a thread that runs counts as ended (Python 3.11)
        ended = threading.Event()

        def call() -> None:
            try:
                domain.migrate3(self.there, parameters, flags)
            except BaseException as error:
                failures.append(error)
            finally:
                ended.set()

        interrupted = False
        threading.Thread(target=call, name="migrate", daemon=True).start()
        while not ended.is_set():
            try:
                if interrupted:
                    with contextlib.suppress(libvirt.libvirtError):
                        domain.abortJob()
                ended.wait(POLL)
                self._progress(domain, step)
            except KeyboardInterrupt:
                interrupted = True
        if failures and interrupted:
            raise KeyboardInterrupt
        if failures:
            raise failures[0]
        if self.whole:
            self.listener("migrated", self.uuid, step, self.whole, self.whole)

    def _progress(self, domain: Any, step: Step) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            stats = domain.jobStats()
            whole = stats.get(libvirt.VIR_DOMAIN_JOB_DATA_TOTAL, 0)
            if whole:
                left = stats.get(libvirt.VIR_DOMAIN_JOB_DATA_REMAINING, 0)
                # what the guest writes meanwhile is left again, but it was moved
                self.moved = max(self.moved, whole - left)
                self.whole = max(self.whole, whole)
                self.listener("migrated", self.uuid, step, self.moved, self.whole)

    def _domain_here(self) -> Any:
        return self.source.lookupByUUIDString(self.uuid)

    # To an end.

    def settle(self) -> Outcome:
        """Finish it where the guest runs there, take it back where it does not."""
        try:
            deadline = time.monotonic() + SETTLING
            before = None
            while True:
                now = _side(self.source, self.uuid), _side(self.there, self.uuid)
                late = time.monotonic() > deadline
                # twice the same: what a client has left may be on its way still
                outcome = self._decided(*now, late=late) if now == before or late else None
                if outcome is not None:
                    return outcome
                before = now
                time.sleep(POLL)
        except libvirt.libvirtError as error:
            return Outcome("pending", "libvirt", f"{said(error)}; then run xmlkit recover")
        except (_Failure, ImageError, VolumeError) as error:
            return Outcome("pending", error.id, f"{error}; then run xmlkit recover")
        except (XmlkitError, OSError) as error:
            return Outcome("pending", "failed", f"{error}; then run xmlkit recover")

    def _decided(self, here: _Side, there: _Side, *, late: bool) -> Outcome | None:
        """How it ends; None to look again."""
        if (there.active or there.persistent) and self._is_others(there):
            if not (here.active and there.active):
                # it may have come by this migration and have had its disks changed since: what
                # it has there may stand on what was made here
                came = self._is_done(Migrate) or (self._was_begun(Migrate) and not here.known)
                return self._take_back("somebody has migrated it, or changed its disks", came=came)
            if not late:
                return None
            raise _Failure(
                "two-running",
                f"it is {there} there, on other disks than this migration's, and {here} here: find "
                "out which one is right, and end the other one (virsh destroy)",
            )
        if there.running:
            return self._runs_there(here, late=late)
        if there.active:
            return self._stands_there(here, there, late=late)
        if not self._was_begun(Migrate):
            # nothing there is ours
            return self._take_back("")
        if there.persistent:
            return self._is_defined_there(here)
        if here.job and not late:
            return None
        if here.running and not here.job:
            return self._take_back("")
        if here.paused and here.migrating and not here.job:
            self._resume_here()
            return self._take_back("")
        if here.known and not here.job:
            return self._take_back(f"it is {here} here")
        if here.job:
            raise _Failure("libvirt", "a job is still running on it (virsh domjobinfo)")
        raise _Failure(
            "guest-lost",
            "neither host has the domain: both names of each image stay; define it again where it "
            "is to run",
        )

    def _is_others(self, there: _Side) -> bool:
        """Whether what the destination has did not come by this migration: its disks tell.

        Nothing of it is changed then, and no name that it uses is taken away.
        """
        if not self._was_begun(Migrate):
            return True
        flags = 0 if there.active else libvirt.VIR_DOMAIN_XML_INACTIVE
        document = _document(self.there.lookupByUUIDString(self.uuid).XMLDesc(flags))
        disks = {disk.target: disk.address for disk in read_domain(document).disks}
        for each in self.task.plan.transitions:
            if each.changes:
                address = disks.get(each.target, Address(""))
                # an incremental copy is at the volume's path while it runs
                if not address.same(each.after) and address.path != each.after.path:
                    return True
        return False

    def _runs_there(self, here: _Side, *, late: bool) -> Outcome | None:
        if here.running:
            if not late:
                return None
            raise _Failure(
                "two-running",
                "it runs on both hosts: find out which one is right, and end the other one "
                "(virsh destroy)",
            )
        if here.active and not here.migrating:
            if not late:
                return None
            raise _Failure(
                "two-running",
                "it runs there, and is active here for another reason than the migration: look at "
                "it (virsh domstate --reason)",
            )
        self._keep_there(here)
        self._check_there()
        if here.active:
            self._domain_here().destroy()
        if here.persistent:
            self._domain_here().undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
        return self._finish()

    def _keep_there(self, here: _Side) -> None:
        """It ended before libvirt had written the persistent XML there: write it."""
        domain = self.there.lookupByUUIDString(self.uuid)
        if domain.isPersistent():
            return
        if not here.persistent:
            raise _Failure(
                "guest-lost",
                "it runs there and neither host has its persistent XML: define it there (virsh "
                "dumpxml --migratable, virsh define)",
            )
        document = _document(self._domain_here().XMLDesc(SECURE))
        self.there.defineXML(transform(document, self.task.plan).text)

    def _stands_there(self, here: _Side, there: _Side, *, late: bool) -> Outcome | None:
        """It is paused there: it was not let run yet, or libvirt is about to cancel."""
        # libvirt calls it paused by a user if it came with that flag; it is defined by then
        told = there.waiting and there.persistent and self.resumes
        ours = (told or there.migrating) and self._was_begun(Migrate)
        if ours and there.persistent and not here.known:
            # it is defined there when all of it has come, and nothing is here any more
            if not self._is_done(Resume):
                _resume(self.there, self.uuid)
            self._check_there()
            return self._finish()
        if not late and not (there.persistent and not here.job):
            return None
        never_ran = ours and not self._was_begun(Resume)
        if never_ran and here.active and not here.job and (here.running or here.migrating):
            domain = self.there.lookupByUUIDString(self.uuid)
            domain.destroy()
            if there.persistent:
                domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
            if here.paused:
                self._resume_here()
            return self._take_back("")
        raise _Failure(
            "two-running",
            f"it is {there} there and {here} here: look at both (virsh domstate --reason)",
        )

    def _is_defined_there(self, here: _Side) -> Outcome:
        """It is shut off there."""
        if here.known:
            raise _Failure(
                "two-running",
                f"it is shut off there and {here} here, and may have run there: look at both, and "
                "undefine the one that is not wanted",
            )
        self._check_there()
        return self._finish()

    def _resume_here(self) -> None:
        try:
            _resume(self.source, self.uuid)
        except libvirt.libvirtError:
            # the destination may have taken the images' owner from it, when it gave up
            if not self._own_again():
                raise
            _resume(self.source, self.uuid)

    def _own_again(self) -> bool:
        """Give the images the owner that libvirt here gave them; whether any had another one."""
        live = _document(self._domain_here().XMLDesc(0))
        label = live.root.xpath("string(seclabel[@model='dac']/imagelabel)")
        owner = [int(each) for each in re.findall(r"\d+", str(label))]
        if not re.fullmatch(r"\+\d+:\+\d+", str(label)) or not is_local(self.source.getURI()):
            return False
        changed = False
        for disk in read_domain(live).disks:
            path = self._path_here(disk.address) if _is_written(disk) else None
            if path is None:
                continue
            with images.parent_of(path) as (directory, name):
                facts = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISREG(facts.st_mode) and owner != [facts.st_uid, facts.st_gid]:
                    os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
                    changed = True
        return changed

    def _check_there(self) -> None:
        """The persistent XML there has the new addresses, and they lead to volumes there."""
        document = _document(self.there.lookupByUUIDString(self.uuid).XMLDesc(SECURE))
        disks = {disk.target: disk.address for disk in read_domain(document).disks}
        for each in self.task.plan.transitions:
            if not each.changes:
                continue
            if not disks.get(each.target, Address("")).same(each.after):
                raise _Failure("disk-changed", f"disk {each.target} is not at {each.after} there")
            volume = _volume(self.there, str(each.after.pool), str(each.after.volume))
            if volume is None:
                with contextlib.suppress(_Failure):
                    # a libvirtd that was restarted may have forgotten it
                    _refresh(self.there, str(each.after.pool))
                volume = _volume(self.there, str(each.after.pool), str(each.after.volume))
            if volume is None or sanitized(volume.path()) != sanitized(each.after.path or ""):
                raise _Failure("no-volume", f"the destination has no volume {each.after}")

    def _finish(self) -> Outcome:
        for number, step in enumerate(self.task.steps):
            if isinstance(step, Unlink):
                with self._journalled(number, step):
                    images.unlink(step.path, expected=None, other=step.kept)
                    disk_info.remove(step.path, beside=None)
                    disk_info.remove(step.path, beside=step.kept)
        return Outcome("done")

    def _is_done(self, kind: type[Step]) -> bool:
        return any(isinstance(self.task.steps[number], kind) for number in self.done)

    def _was_begun(self, kind: type[Step]) -> bool:
        return any(isinstance(self.task.steps[number], kind) for number in self.begun)

    def _take_back(self, message: str, *, came: bool = False) -> Outcome:
        """Remove what was made. came: the guest may have come there by it, so that names stay."""
        taken = [(number, self.task.steps[number]) for number in sorted(self.begun)]
        left = []
        pools: dict[str, None] = {}
        for number, step in taken:
            if isinstance(step, Link):
                pool, name = self._volume_at(step.target)
                pools[pool] = None
                for connection, side in ((self.there, "there"), (self.source, "here")):
                    if users := _users(connection, pool, name, step.target):
                        left.append(f"{step.target} stays, since {users} {side} uses it")
                        break
                if users:
                    continue
                if came:
                    left.append(f"{step.target} stays, and may be needed there: look at both")
                    continue
                if images.is_linked(step.source, step.target):
                    images.unlink(step.target, expected=None, other=step.source)
                disk_info.remove(step.target, beside=step.source)
            elif isinstance(step, Create):
                left += self._drop(step, ours=number in self.done, came=came)
            elif isinstance(step, Refresh):
                pools[step.pool] = None
        for pool in pools:
            with contextlib.suppress(_Failure):
                # the pool may be what failed
                _refresh(self.there, pool)
        return Outcome("undone", "", "; ".join([message] * bool(message) + left))

    def _drop(self, step: Create, *, ours: bool, came: bool) -> list[str]:
        """Delete a volume that was made for the migration; or say why it stays."""
        volume = _volume(self.there, step.pool, step.volume)
        if volume is None:
            return []
        where = f"volume {step.pool}/{step.volume} of the destination stays"
        # of one that was only begun it is not known who made it, but it was not there before
        if not ours and volume.info()[2] > EMPTY:
            return [f"{where}, since nobody knows who made it (virsh vol-delete)"]
        if users := _users(self.there, step.pool, step.volume, volume.path()):
            return [f"{where}, since {users} uses it"]
        if came:
            return [f"{where}: what the guest has written may be there and nowhere else"]
        volume.delete(0)
        return []


def _users(connection: Any, pool: str, volume: str, path: str) -> str:
    """The domains of a host that name a volume, by itself or by its path, or stand on it."""
    found = []
    for domain in connection.listAllDomains():
        try:
            texts = [domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)]
            if domain.isActive():
                texts.append(domain.XMLDesc(0))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                # gone since it was listed
                continue
            raise
        sources = [
            source
            for text in texts
            # also those of <backingStore> and <mirror>
            for source in _document(text).root.iterfind("devices/disk//source")
        ]
        if any(
            (each.get("pool"), each.get("volume")) == (pool, volume)
            or path in (each.get("file"), each.get("dev"))
            for each in sources
        ):
            found.append(str(domain.name()))
    return ", ".join(found)


def _resume(connection: Any, uuid: str) -> None:
    """Let a domain run that is paused; nothing happens to one that runs."""
    domain = connection.lookupByUUIDString(uuid)
    if domain.state()[0] not in _RUNNING:
        domain.resume()


def _side(connection: Any, uuid: str) -> _Side:
    try:
        domain = connection.lookupByUUIDString(uuid)
        persistent = bool(domain.isPersistent())
        if not domain.isActive():
            return _Side(persistent)
        state, reason = domain.state()
        job = _has_job(domain)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return _Side()
        raise
    paused = state == libvirt.VIR_DOMAIN_PAUSED
    return _Side(
        persistent,
        active=True,
        running=state in _RUNNING,
        paused=paused,
        migrating=paused and reason in _MIGRATING,
        waiting=paused and reason == libvirt.VIR_DOMAIN_PAUSED_USER,
        job=job,
    )


def _has_job(domain: Any) -> bool:
    """Whether a job is running on a domain. Source: qemuDomainGetJobInfo, libvirt 9.0.0."""
    try:
        return bool(domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)
    except libvirt.libvirtError as error:
        # one that is just coming has a job that its source alone knows of
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
            return True
        raise


def _volume(connection: Any, pool: str, name: str) -> Any:
    """The volume, None if the pool does not list it."""
    try:
        return connection.storagePoolLookupByName(pool).storageVolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
            raise
        return None


def _refresh(connection: Any, pool: str) -> None:
    """Read a pool again, as soon as it is not busy. Raises _Failure."""
    try:
        leisure.refresh(connection.storagePoolLookupByName(pool))
    except libvirt.libvirtError as error:
        raise _Failure("pool-refresh", f"pool {pool}: {said(error)}") from None


def _is_shared(there: Any, pool: str, name: str, path: str) -> bool:
    """Whether a volume of the destination is the file `path` here, by size and times in ns.

    They change under a guest that writes, so what is seen there must lie between two looks here.
    """
    deadline = time.monotonic() + SHOWING
    while True:
        first = os.stat(path, follow_symlinks=False)
        _refresh(there, pool)
        volume = _volume(there, pool, name)
        if volume is not None:
            times = _times(etree.fromstring(volume.XMLDesc(0).encode()))
            last = os.stat(path, follow_symlinks=False)
            if (
                stat.S_ISREG(last.st_mode)
                and (first.st_dev, first.st_ino) == (last.st_dev, last.st_ino)
                and first.st_mtime_ns <= times.get("mtime", -1) <= last.st_mtime_ns
                and first.st_ctime_ns <= times.get("ctime", -1) <= last.st_ctime_ns
            ):
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)


def _times(root: etree._Element) -> dict[str, int]:
    """The times in a volume's XML, in ns. Source: storage_conf.c, libvirt 9.0.0."""
    found = {}
    for each in root.iterfind("target/timestamps/*"):
        seconds, _, fraction = (each.text or "").partition(".")
        if seconds.isdecimal():
            found[str(each.tag)] = int(seconds) * 10**9 + int(f"{fraction:0<9}"[:9])
    return found


def _document(xml: str) -> Document:
    return Document.parse(xml, replace(HOST_LIMITS, markup=1 << 30))
