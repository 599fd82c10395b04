"""Instances come over with their live migration, where the operators of both hosts have said so.

Laws
- The source offers disks, the destination answers with the volumes that it has for this migration,
  in what Nova's two computes tell each other. Who hears nothing moves nothing, and the migration
  goes on as without us; either all disks that were offered move, or none.
- On storage that both share an image gets its second name before the destination is asked, and that
  is in the source's journal. Its old name goes when the guest runs at the destination from XML that
  names the volume: by libvirt's word at the source, or by what the destination has.
- Where the migration has failed and the guest is here, the second name goes. Where nobody knows
  where the guest is, both stay, and it is told.
- Where disks are copied, the destination makes volumes in place of files, in a pool that no other
  host has: they are what Nova copies into and what its rollback deletes. One that is there already
  is never written to.

The journals lie in `live` below the state directory: a migration may take hours, and the others
need not wait for it. Nova's modules are looked up when the seams are put in, never imported here.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from lxml import etree

from xmlkit import disk_info, images, journal, leisure, names, state
from xmlkit.disks import Address, read_domain
from xmlkit.document import Document, Limits
from xmlkit.errors import XmlkitError
from xmlkit.host import Host, Pool, Volume, parse_pool
from xmlkit.journal import Journal, Outcome, Task, Writer
from xmlkit.nova.builder import Rewritten, to_volumes
from xmlkit.nova.seams import Asked, Libvirt, Seam, aiming, bound, is_expected, uuid_of
from xmlkit.observe import said, without_password
from xmlkit.plan import Plan, Transition, plan
from xmlkit.preflight import judge, refusals
from xmlkit.steps import Link, Migrate, Refresh, Step, Unlink
from xmlkit.survey import survey

__all__ = ["LIVE", "Live"]

LOG = logging.getLogger(__name__)

# Of what the destination tells of attached volumes; no volume of Cinder's has it for its serial.
SERIAL = "xmlkit-storage"

SHOWING = 10.0  # seconds in which the other host's name must show here (NFS keeps attributes)
SETTLING = 30.0  # seconds that libvirt has to end the job of a migration that Nova gave up

_LIMITS = Limits(markup=1 << 30)
_ARRIVING = "arriving-"
_BEFORE = ": its disks do not move with its live migration"
_AFTER = ", after its live migration"
_INACTIVE = 2  # VIR_DOMAIN_XML_INACTIVE


class LiveError(XmlkitError):
    """Disks do not move with a live migration; the message says why."""


# What the two hosts tell each other.


def tell(data: Any, word: dict[str, Any]) -> None:
    """Put a word into Nova's migrate_data, for the xmlkit of the other host; in place of another.

    Nova looks for the serials of attached volumes alone, so that one without xmlkit sees nothing.
    """
    from nova.objects.migrate_data import LibvirtLiveMigrateBDMInfo

    said = LibvirtLiveMigrateBDMInfo(serial=SERIAL, connection_info_json=json.dumps(word))
    data.bdms = [*_others(data), said]


def _others(data: Any) -> list[Any]:
    return [each for each in _bdms(data) if each.serial != SERIAL]


def _bdms(data: Any) -> list[Any]:
    try:
        return list(data.bdms) if "bdms" in data else []
    except TypeError:
        # what Nova's own tests pass for it need not be one
        return []


def _told(data: Any, key: str) -> Any:
    """What the other host has said under this key; None if nothing."""
    for each in _bdms(data):
        if each.serial == SERIAL:
            word = json.loads(each.connection_info_json)
            if not isinstance(word, dict):
                raise ValueError("it is no object")
            return word.get(key)
    return None


def offered(data: Any) -> frozenset[str]:
    """The disks that the source lets go onto volumes, by Nova's names; none without an offer, or
    with one of another release that is not understood."""
    try:
        found = _told(data, "disks") or []
    except ValueError:
        return frozenset()
    names_ = found if isinstance(found, list) else []
    return frozenset(each for each in names_ if isinstance(each, str) and names.kind_of(each))


def answered(data: Any) -> Host | None:
    """What the destination has for this migration; None without an answer.

    Raises LiveError for one that is not understood.
    """
    try:
        found = _told(data, "host")
        if not found:
            return None
        words = [found["driver"], *found["security"]]
        for *said_, volumes in found["pools"]:
            words += [*said_, *volumes]
        if not isinstance(found["libversion"], int) or not all(isinstance(w, str) for w in words):
            raise TypeError("words of other types")
        return Host(
            found["libversion"],
            found["driver"],
            tuple(found["security"]),
            tuple(
                Pool(
                    name,
                    type_,
                    path,
                    volumes=tuple(
                        Volume(name, volume, f"{path}/{volume}", capacity=1) for volume in volumes
                    ),
                )
                for name, type_, path, volumes in found["pools"]
            ),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LiveError(
            f"the destination's answer is not understood ({error!r}): is its xmlkit of the same "
            "release?"
        ) from None


def movable(xml: str, uuid: str) -> frozenset[str]:
    """The disks in an instance's directory that can become volumes, by Nova's names.

    xml: of the running guest.
    """
    own = {}
    for disk in read_domain(Document.parse(xml, _LIMITS)).disks:
        parts = names.split_instance_path(disk.address.path or "")
        if parts is not None and parts[0].lower() == uuid:
            own[disk.target] = parts[1]
    volumes = (names.volume_name(uuid, name) for name in own.values())
    listed = tuple(Volume("any", name, f"/any/{name}", capacity=1) for name in volumes)
    host = Host(None, "qemu", (), (Pool("any", "dir", "/any", volumes=listed),))
    changes = to_volumes(xml, host, live=True).changes
    return frozenset(own[each.target] for each in changes if each.target in own)


# The two hosts.


class Live:
    """What one host does about instances that migrate live, as source and as destination.

    mover: which pools, and where the journals are. lookup: what the seams ask libvirt. on: whether
    disks move; what was begun is brought to an end in any case.
    """

    def __init__(self, mover: Any, lookup: Any, *, on: bool = False) -> None:
        self._mover = mover
        self._lookup = lookup
        self._real = isinstance(lookup, Libvirt)
        self._on = on
        self._offered: set[str] = set()
        self._linked: set[str] = set()  # for a migration of this process that is under way

    @property
    def on(self) -> bool:
        """Whether disks move with a live migration; Nova's configuration has been read by then."""
        return self._on and self._real and bool(self._mover.pools)

    def _pool_name(self, name: str) -> str | None:
        """The pool that a disk of this name of Nova's belongs into."""
        pools = self._mover.pools
        found = pools.get(names.kind_of(name), pools.get(None))
        return None if found is None else str(found)

    # At the source.

    def offer(self, connection: Any, uuid: str, data: Any) -> None:
        """Let the destination know what may become volumes. Nothing is raised."""
        if not self.on or not (data.is_shared_instance_path or data.block_migration):
            return
        with _warned(uuid):
            found = movable(connection.lookupByUUIDString(uuid).XMLDesc(0), uuid)
            if found:
                tell(data, {"disks": sorted(found)})
                self._offered.add(uuid)

    def begin(self, connection: Any, uuid: str, uri: Callable[[], str]) -> frozenset[str]:
        """Give the images of an instance that is about to migrate their second names.

        For storage that both hosts share. uri: of the destination's libvirt, for the journal.
        Returns which disks have one, by Nova's names: all that can, or none. Nothing is raised.
        """
        self._linked.discard(uuid)
        with _warned(uuid), self._writing() as directory:
            if _pending(directory, uuid) is not None:
                self._settle(connection, directory, uuid, 0.0)
            if _pending(directory, uuid) is not None:
                raise LiveError("an earlier migration of it has not come to an end")
            task = self._task(connection, uuid, without_password(uri()))
            if task is None:
                return frozenset()
            writer = Writer.create(
                str(directory),
                state.new_id(directory),
                (task,),
                uri=without_password(connection.getURI()),
                kind="migrate",
                to=without_password(uri()),
            )
            with contextlib.closing(writer):
                try:
                    for number, step in _numbered(task, Link):
                        writer.begin((uuid, number))
                        images.link(step.source, step.target)
                        disk_info.add(step.source, step.target)
                        writer.done((uuid, number))
                except (XmlkitError, OSError) as error:
                    _take_back(connection, writer, task, str(error))
                    raise LiveError(str(error)) from None
            self._linked.add(uuid)
            paths = (str(each.before.path) for each in task.plan.transitions)
            return frozenset(os.path.basename(path) for path in paths)
        return frozenset()

    def _task(self, connection: Any, uuid: str, uri: str) -> Task | None:
        """What is to be done; None if no disk moves. Raises LiveError, PlanError."""
        surveyed = survey(connection, (uuid,), secure=True)
        guest = next((each for each in surveyed.guests if each.uuid == uuid), None)
        if guest is None or guest.live is None:
            return None
        accept = self._mover.accept
        made = plan(
            guest.document, surveyed.host, "volume", relocate=self._mover.pools, accept=accept
        )
        moves = tuple(each for each in made.transitions if each.changes and each.action == "move")
        if not moves:
            return None
        made = made._replace(disks=moves)
        stops = refusals(judge(made, guest, surveyed, accept=accept, migrating=True))
        if stops:
            raise LiveError(f"{stops[0].message} ({stops[0].id})")
        live = {disk.target: disk.address for disk in read_domain(guest.live).disks}
        for each in moves:
            if each.target not in live or live[each.target].path != each.before.path:
                raise LiveError(f"disk {each.target} is another one in the running guest")
        pairs = [(str(each.before.path), str(each.after.path)) for each in moves]
        pools = dict.fromkeys(str(each.after.pool) for each in moves)
        steps: tuple[Step, ...] = (
            *(Link(*pair) for pair in pairs),
            *(Refresh(pool, uri) for pool in pools),
            Migrate(uuid, uri, "shared"),
            *(Unlink(*pair) for pair in pairs),
        )
        return Task(made, steps)

    def aimed(
        self, connect: Callable[[], Any], uuid: str, xml: str, data: Any
    ) -> tuple[str, Host | None]:
        """The XML for the destination on the volumes that it has for this migration, and what it
        has; the XML as it was and None where the disks stay what they are. Nothing is raised.

        connect: gives this host's connection.
        """
        if not self._real:
            return xml, None
        with _warned(uuid), self._begun(uuid) as (writer, begun):
            # what an earlier migration has left the guest may run from by now
            task = None if begun is None or uuid not in self._linked else begun.tasks[uuid]
            waited = uuid in self._offered
            self._offered.discard(uuid)
            try:
                host = answered(data)
                if task is None and (
                    data.is_shared_instance_path or not (waited or host is not None)
                ):
                    return xml, None
                if host is None:
                    raise LiveError(
                        "the destination has not said that it has the volumes (its log may say "
                        "why; [libvirt] storage_transition_live has to be on there, too)"
                    )
                made = to_volumes(xml, host, live=True)
                if task is not None:
                    _check(task.plan, made)
                    writer.begin(*((uuid, number) for number, _ in _numbered(task, Migrate)))
                return made.result, host
            except XmlkitError as error:
                if task is not None:
                    _take_back(connect(), writer, task, str(error))
                raise
        return xml, None

    def finish(self, uuid: str) -> None:
        """By libvirt's word the guest runs at the destination, by the XML that it was given there:
        the old names go. Nothing is raised."""
        if not self._real:
            return
        with _warned(uuid, _AFTER), self._begun(uuid) as (writer, begun):
            if begun is None or uuid not in self._linked:
                return
            task = begun.tasks[uuid]
            if not any(number in begun.begun[uuid] for number, _ in _numbered(task, Migrate)):
                # the XML for the destination did not name the volumes
                return
            for number, step in _numbered(task, Unlink):
                writer.begin((uuid, number))
                _unlink(step.path, step.kept)
                writer.done((uuid, number))
            writer.end((uuid, Outcome("done")))
            LOG.info("Instance %s has come onto storage pools with its migration", uuid)

    def settle(self, connection: Any, uuid: str) -> None:
        """Bring to an end what a migration has left that is over: by where the guest is now.

        Nothing is raised. What cannot be told is left, with a warning.
        """
        if not self._real:
            return
        self._linked.discard(uuid)
        directory = self._directory(make=False)
        if directory is None or _pending(directory, uuid) is None:
            return
        with _warned(uuid, _AFTER), self._writing() as directory:
            self._settle(connection, directory, uuid, SETTLING)

    def unsettled(self, uuid: str) -> str | None:
        """Why nothing may be begun with an instance's disks, and what to do; None if nothing is.

        Raises StateError, JournalError.
        """
        directory = self._directory(make=False) if self._real else None
        found = None if directory is None else _pending(directory, uuid)
        if found is None:
            return None
        return (
            f"its live migration to {found.to} has not come to an end, and each of its images may "
            f"have two names: xmlkit recover --state-dir {directory} asks both hosts"
        )

    def _settle(self, connection: Any, directory: Path, uuid: str, seconds: float) -> None:
        found = _pending(directory, uuid)
        if found is None:
            return
        task = found.tasks[uuid]
        links = [step for _, step in _numbered(task, Link)]
        with contextlib.closing(Writer(found.path, new=False)) as writer:
            where = _where(connection, task, seconds)
            if where == "here":
                _take_back(connection, writer, task, "the guest did not migrate")
                return
            if where == "moved":
                # a hard reboot has had it come over since
                writer.end((uuid, Outcome("done")))
                return
            if where == "gone" and all(os.path.isdir(os.path.dirname(e.target)) for e in links):
                if not any(os.path.lexists(each.source) for each in links):
                    # the destination has removed them, or the instance is deleted
                    writer.end((uuid, Outcome("done")))
                    return
                if not any(os.path.lexists(each.target) for each in links):
                    writer.end((uuid, Outcome("undone", "", "the new names are gone")))
                    return
            if where == "gone":
                where = "this host has not got it any more"
        shown = ", ".join(f"{each.source} and {each.target}" for each in links)
        LOG.warning(
            "Instance %s: its migration to %s has not come to an end: %s. Both names of each image "
            "stay (%s). xmlkit recover --state-dir %s asks both hosts",
            uuid,
            found.to,
            where,
            shown,
            directory,
        )

    def recover(self, connection: Any) -> None:
        """Bring to an end what was interrupted when Nova ended, as source and as destination.

        Nothing is raised.
        """
        if not self._real or self._directory(make=False) is None:
            return
        with _warned("?", _AFTER), self._writing() as directory:
            journals, errors = journal.read_all(str(directory))
            for fault in errors:
                LOG.warning("%s", fault)
            for each in journals:
                for task in each.pending:
                    with _warned(task.uuid, _AFTER):
                        self._settle(connection, directory, task.uuid, 0.0)
            for path in sorted(directory.glob(f"{_ARRIVING}*.json")):
                with _warned(path.stem.removeprefix(_ARRIVING), _AFTER):
                    self._clear(connection, path)

    # At the destination.

    def places(self, connection: Any, uuid: str, told: str, wanted: Collection[str]) -> str:
        """What Nova is told of the disks that it makes for a copy, with volumes in place of files.

        told: Nova's disk_info, JSON. wanted: what the source offers. It is `told` itself if
        anything stands in the way.
        """
        found = json.loads(told)
        chosen = {}
        with _warned(uuid):
            directory = self._directory(make=True)
            assert directory is not None
            self._clear(connection, _arriving(directory, uuid))
            pools: dict[str, Pool] = {}
            for each in found:
                parts = names.split_instance_path(each["path"])
                if parts is None or parts[0].lower() != uuid or parts[1] not in wanted:
                    continue
                pool = self._ready(connection, parts[1], pools, alone=True)
                volume = names.volume_name(uuid, parts[1])
                path = str(pool.path_of(volume))
                if os.path.lexists(path) or volume in pool.by_name:
                    raise LiveError(f"volume {volume} of pool {pool.name} is there already")
                chosen[each["path"]] = (pool.name, volume, path)
            if chosen:
                volumes = [(pool, volume) for pool, volume, _ in chosen.values()]
                _write(_arriving(directory, uuid), volumes)
            changed = [
                {**each, "path": chosen[each["path"]][2]} if each["path"] in chosen else each
                for each in found
            ]
            return json.dumps(changed)
        return told

    def making(self, connection: Any, uuid: str, made: Collection[tuple[str, str]]) -> None:
        """Write down which volumes Nova makes for a copy: a rollback deletes these alone.

        made: each with its active pool, "" if none has it, and its path. Raises nova's
        DestinationDiskExists for one that is there: Nova would copy onto it. What else goes wrong
        is a warning; a rollback leaves them.
        """
        from nova import exception

        with _warned(uuid, ": the volumes that its live migration makes stay if that fails"):
            directory = self._directory(make=True)
            assert directory is not None
            # of one that has not come to an end
            self._clear(connection, _arriving(directory, uuid))
            if not any(os.path.lexists(path) for _, path in made):
                volumes = [(pool, os.path.basename(path)) for pool, path in made if pool]
                _write(_arriving(directory, uuid), volumes)
        for _, path in made:
            if os.path.lexists(path):
                raise exception.DestinationDiskExists(path=path)

    def answer(self, connection: Any, uuid: str, data: Any, directory: str, wanted: Any) -> None:
        """Tell the source which volumes there are for this migration. Nothing is raised.

        directory: of the instance. wanted: what the source offers.
        """
        shared = data.is_shared_instance_path
        with _warned(uuid):
            pools: dict[str, Pool] = {}
            volumes: dict[str, list[str]] = {}
            made = self._made(uuid)
            for name in sorted(wanted):
                volume = names.volume_name(uuid, name)
                if not shared and volume not in made:
                    continue
                pool = self._ready(connection, name, pools, alone=not shared)
                deadline = time.monotonic() + SHOWING
                while volume not in pool.by_name or (
                    shared and not images.is_linked(f"{directory}/{name}", f"{pool.path}/{volume}")
                ):
                    if time.monotonic() > deadline:
                        raise LiveError(
                            f"{pool.path}/{volume} is no volume that pool {pool.name} lists, or "
                            f"not the image {directory}/{name}"
                        )
                    time.sleep(0.2)
                    pools.clear()
                    pool = self._ready(connection, name, pools, alone=not shared)
                volumes.setdefault(pool.name, []).append(volume)
            if not volumes:
                return
            known = self._lookup.known(connection)
            host = {
                "libversion": known.libversion,
                "driver": known.driver,
                "security": list(known.security_models),
                "pools": [
                    [name, pools[name].type, pools[name].path, found]
                    for name, found in volumes.items()
                ],
            }
            tell(data, {"host": host})

    def _ready(self, connection: Any, name: str, pools: dict[str, Pool], *, alone: bool) -> Pool:
        """The pool for a disk, with what it lists after a refresh, if volumes of it can be disks.

        alone: no other host may have it. Raises LiveError, libvirtError.
        """
        from xmlkit.nova import store

        wanted = self._pool_name(name)
        if wanted is None:
            raise LiveError(f"there is no pool for {name}")
        if wanted in pools:
            return pools[wanted]
        handle = connection.storagePoolLookupByName(wanted)
        if not handle.isActive():
            raise LiveError(f"pool {wanted} is not active: virsh pool-start {wanted}")
        leisure.refresh(handle)
        known: Host = self._lookup.known(connection)
        pool = parse_pool(etree.fromstring(handle.XMLDesc(0).encode()))
        if not known.can("volume-disks") or not known.can("volume-disk-security"):
            raise LiveError("volume disks have no rights to their images here (AppArmor)")
        if not known.can("image-volumes", pool.type):
            raise LiveError(f"pool {wanted} is of type {pool.type}")
        if alone and store.may_be_shared(pool):
            raise LiveError(f"other hosts may have pool {wanted}, whose disks are copied")
        if alone and not os.access(pool.path, os.W_OK | os.X_OK):
            raise LiveError(f"Nova's user may not write into {pool.path}: chown it")
        listed = tuple(Volume(wanted, each, f"{pool.path}/{each}") for each in handle.listVolumes())
        pools[wanted] = Pool(pool.name, pool.type, pool.path, volumes=listed)
        return pools[wanted]

    def _made(self, uuid: str) -> frozenset[str]:
        """The volumes that were made for a migration that is under way."""
        directory = self._directory(make=False)
        try:
            found = json.loads(_arriving(directory or Path(), uuid).read_text())
        except FileNotFoundError:
            return frozenset()
        return frozenset(volume for _, volume in found["volumes"])

    def came(self, connection: Any, uuid: str, directory: str) -> None:
        """The guest has come: what was made for it is its own, and its images' old names go.

        directory: of the instance. Nothing is raised.
        """
        if not self._real:
            return
        self.clear(connection, uuid)
        with _warned(uuid, _AFTER):
            domain = connection.lookupByUUIDString(uuid)
            live, kept = (_addresses(domain.XMLDesc(each)) for each in (0, _INACTIVE))
            for target, address in kept.items():
                parts = names.split_volume_name(address.volume or "")
                if parts is None or parts[0] != uuid or names.kind_of(parts[1]) is None:
                    continue
                pool = connection.storagePoolLookupByName(address.pool)
                path = pool.storageVolLookupByName(address.volume).path()
                runs = live.get(target)
                old = f"{directory}/{parts[1]}"
                if runs is not None and runs.same(address) and images.is_linked(old, path):
                    _unlink(old, path)
                    LOG.info("Instance %s: %s is %s now", uuid, old, address)

    def clear(self, connection: Any, uuid: str) -> None:
        """Forget what was made for a migration, if the guest has come; else delete it.

        Nothing is raised.
        """
        with _warned(uuid, _AFTER):
            directory = self._directory(make=False) if self._real else None
            if directory is not None:
                self._clear(connection, _arriving(directory, uuid))

    def _clear(self, connection: Any, path: Path) -> None:
        """Delete the volumes that were made for a guest that is not here, of whose migration
        nobody has told the end."""
        import libvirt

        uuid = path.stem.removeprefix(_ARRIVING)
        if not path.exists():
            return
        if uuid not in {domain.UUIDString() for domain in connection.listAllDomains()}:
            for pool, volume in json.loads(path.read_text())["volumes"]:
                try:
                    found = connection.storagePoolLookupByName(pool)
                    leisure.refresh(found)
                    found.storageVolLookupByName(volume).delete(0)
                except libvirt.libvirtError as error:
                    if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
                        raise
                else:
                    LOG.warning("Removed %s/%s, of a migration that did not end", pool, volume)
        path.unlink(missing_ok=True)

    # The journals.

    def _directory(self, *, make: bool) -> Path | None:
        base = state.directory(self._mover.state_dir, make=make)
        if not base.is_dir():
            return None
        found = state.directory(str(base / state.LIVE), make=make)
        return found if found.is_dir() else None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Path]:
        directory = self._directory(make=True)
        assert directory is not None
        with state.lock(directory, 60.0):
            yield directory

    @contextlib.contextmanager
    def _begun(self, uuid: str) -> Iterator[tuple[Any, Journal | None]]:
        """What was begun with a migration of an instance and has not ended, and its journal."""
        directory = self._directory(make=False)
        if directory is None or _pending(directory, uuid) is None:
            yield None, None
            return
        with self._writing() as directory:
            found = _pending(directory, uuid)
            if found is None:
                yield None, None
                return
            with contextlib.closing(Writer(found.path, new=False)) as writer:
                yield writer, found


class _warned:
    """What goes wrong within stops no migration of Nova's: it is a warning."""

    def __init__(self, uuid: str, when: str = _BEFORE) -> None:
        self._uuid = uuid
        self._when = when

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> bool:
        if not isinstance(error, OSError) and not (
            isinstance(error, Exception) and is_expected(error)
        ):
            return False
        why = said(error) if hasattr(error, "get_error_code") else error
        LOG.warning("Instance %s%s: %s", self._uuid, self._when, why)
        return True


def _pending(directory: Path, uuid: str) -> Journal | None:
    """The journal in which a migration of an instance has not ended."""
    journals, _ = journal.read_all(str(directory))
    return next((j for j in journals if any(t.uuid == uuid for t in j.pending)), None)


def _numbered(task: Task, kind: Any) -> list[tuple[int, Any]]:
    return [(n, step) for n, step in enumerate(task.steps) if isinstance(step, kind)]


def _check(made: Plan, given: Rewritten[str]) -> None:
    """Raise LiveError unless the XML for the destination names each volume that was made."""
    changed: dict[str, Transition] = {each.target: each for each in given.changes}
    for each in made.transitions:
        there = changed.get(each.target)
        if there is None or not there.after.same(each.after) or there.after.path != each.after.path:
            raise LiveError(f"disk {each.target} is not {each.after} at the destination")
        if not images.is_linked(str(each.before.path), str(each.after.path)):
            raise LiveError(f"{each.after.path} is not {each.before.path} any more")


def _unlink(path: str, kept: str) -> None:
    if os.path.lexists(path):
        images.unlink(path, expected=None, other=kept)
    with contextlib.suppress(images.ImageError):
        # the directory may be gone with the instance
        disk_info.remove(path, beside=kept)


def _take_back(connection: Any, writer: Writer, task: Task, why: str) -> None:
    """The second names go. Raises ImageError, JournalError: then it stays pending."""
    import libvirt

    for _, step in _numbered(task, Link):
        if images.is_linked(step.source, step.target):
            images.unlink(step.target, expected=None, other=step.source)
        if not os.path.lexists(step.target):
            # of one that is still there somebody may need it: it is the only name by now
            disk_info.remove(step.target, beside=step.source)
    for pool in dict.fromkeys(step.pool for _, step in _numbered(task, Refresh)):
        with contextlib.suppress(libvirt.libvirtError):
            # its list is out of date, no more
            leisure.refresh(connection.storagePoolLookupByName(pool))
    writer.end((task.uuid, Outcome("undone", "", why)))


def _where(connection: Any, task: Task, seconds: float) -> str:
    """Where a guest is by what this host has: "here", on the images' old names, "moved", on the
    new ones, which no old one is left of, "gone", or why nobody can tell.

    Source: virDomainGetState; qemuMigrationSrcConfirmPhase, libvirt 9.0.0.
    """
    import libvirt

    try:
        domain = connection.lookupByUUIDString(task.uuid)
        deadline = time.monotonic() + seconds
        while domain.isActive() and domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
            if time.monotonic() > deadline:
                return "a job is still running on it"
            time.sleep(0.2)
        state_, reason = domain.state()
        text = domain.XMLDesc(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return "gone"
        raise
    ours = {
        libvirt.VIR_DOMAIN_RUNNING: (reason,),
        libvirt.VIR_DOMAIN_BLOCKED: (reason,),
        # by themselves, or by somebody here; not by a migration that has handed over
        libvirt.VIR_DOMAIN_PAUSED: (
            libvirt.VIR_DOMAIN_PAUSED_USER,
            libvirt.VIR_DOMAIN_PAUSED_IOERROR,
            libvirt.VIR_DOMAIN_PAUSED_WATCHDOG,
            libvirt.VIR_DOMAIN_PAUSED_CRASHED,
        ),
        libvirt.VIR_DOMAIN_SHUTOFF: (
            libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN,
            libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED,
            libvirt.VIR_DOMAIN_SHUTOFF_CRASHED,
        ),
    }
    if reason not in ours.get(state_, ()):
        return f"libvirt does not say whether it is here (state {state_}, reason {reason})"
    disks = _addresses(text)
    links = [step for _, step in _numbered(task, Link)]
    if not any(os.path.lexists(each.source) for each in links) and all(
        each.target in disks and disks[each.target].same(each.after)
        for each in task.plan.transitions
    ):
        return "moved"
    for each in task.plan.transitions:
        if each.target not in disks or disks[each.target].path != each.before.path:
            return f"disk {each.target} is not {each.before} any more"
    return "here"


def _addresses(xml: str) -> dict[str, Address]:
    """Where each disk of a domain is, by its target."""
    document = Document.parse(xml, _LIMITS)
    return {disk.target: disk.address for disk in read_domain(document).disks}


def _arriving(directory: Path, uuid: str) -> Path:
    """Where it stands which volumes were made for a migration of an instance to here."""
    return directory / f"{_ARRIVING}{uuid}.json"


def _write(path: Path, volumes: Sequence[tuple[str, str]]) -> None:
    """Durably, and as a whole: each with its pool."""
    made = path.with_suffix(".part")
    with open(made, "w", encoding="utf-8") as file:
        file.write(json.dumps({"volumes": volumes}))
        file.flush()
        os.fsync(file.fileno())
    os.replace(made, path)
    state.fsync_directory(path.parent)


# The instance that starts here while nobody can tell how its live migration has ended.
_unsettled: contextvars.ContextVar[str] = contextvars.ContextVar("xmlkit_unsettled", default="")


@contextlib.contextmanager
def starting_unsettled(uuid: str) -> Iterator[None]:
    """Within it the instance starts from the old name of an image that has two: it is the one that
    the end of the migration leaves to a guest that runs here."""
    token = _unsettled.set(uuid)
    try:
        yield
    finally:
        _unsettled.reset(token)


def starts_unsettled(uuid: str) -> bool:
    """Whether it does so now."""
    return bool(uuid) and _unsettled.get() == uuid


# The instance whose migration to this host is taken back, in a context of each of Nova's threads.
_rolled_back: contextvars.ContextVar[str] = contextvars.ContextVar("xmlkit_rolled_back", default="")


def is_rolled_back(uuid: str) -> bool:
    """Whether the migration of an instance to this host is being taken back."""
    return bool(uuid) and _rolled_back.get() == uuid


# The seams.


def _offering(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    def check_can_live_migrate_source(self: Any, *args: Any, **kwargs: Any) -> Any:
        uuid = uuid_of(bound(original, self, *args, **kwargs)["instance"])
        found = original(self, *args, **kwargs)
        if asked.live.on:
            asked.live.offer(self._host.get_connection(), uuid, found)
        return found

    return check_can_live_migrate_source


def _going(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """All that the source does of a migration is within it, its rollback too."""

    def do_live_migration(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = bound(original, self, *args, **kwargs)
        uuid, data, driver = uuid_of(call["instance"]), call["migrate_data"], self.driver
        if not asked.live.on or not offered(data) or not data.is_shared_instance_path:
            return original(self, *args, **kwargs)
        connection = driver._host.get_connection()
        linked = asked.live.begin(
            connection, uuid, lambda: str(driver._live_migration_uri(call["dest"]))
        )
        tell(data, {"disks": sorted(linked)})
        try:
            return original(self, *args, **kwargs)
        finally:
            asked.live.settle(connection, uuid)

    return do_live_migration


def _operating(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """It returns when libvirt says that the guest runs at the destination."""

    def live_migration_operation(self: Any, *args: Any, **kwargs: Any) -> Any:
        uuid = uuid_of(bound(original, self, *args, **kwargs)["instance"])
        with aiming():
            found = original(self, *args, **kwargs)
        asked.live.finish(uuid)
        return found

    return live_migration_operation


def _come(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    def post_live_migration_at_destination(self: Any, *args: Any, **kwargs: Any) -> Any:
        from nova.virt.libvirt import utils

        instance = bound(original, self, *args, **kwargs)["instance"]
        if isinstance(asked.lookup, Libvirt):
            # before Nova lets anybody do anything with it
            directory = utils.get_instance_path(instance)
            asked.live.came(self._host.get_connection(), uuid_of(instance), directory)
        return original(self, *args, **kwargs)

    return post_live_migration_at_destination


def _failing(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """What has the instance's name and was not made for its migration is somebody's."""

    def rollback_live_migration_at_destination(self: Any, *args: Any, **kwargs: Any) -> Any:
        token = _rolled_back.set(uuid_of(bound(original, self, *args, **kwargs)["instance"]))
        try:
            return original(self, *args, **kwargs)
        finally:
            _rolled_back.reset(token)

    return rollback_live_migration_at_destination


def _resetting(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """At its start Nova aborts what was migrating when it ended."""

    def reset_live_migration(self: Any, *args: Any, **kwargs: Any) -> Any:
        instance = bound(original, self, *args, **kwargs)["instance"]
        found = original(self, *args, **kwargs)
        if isinstance(asked.lookup, Libvirt):
            asked.live.settle(self.driver._host.get_connection(), uuid_of(instance))
        return found

    return reset_live_migration


_DRIVER = "nova.virt.libvirt.driver:LibvirtDriver"
_MANAGER = "nova.compute.manager:ComputeManager"

LIVE = (
    Seam(
        _DRIVER,
        "check_can_live_migrate_source",
        ("self", "context", "instance", "dest_check_data"),
        _offering,
    ),
    Seam(
        _MANAGER,
        "_do_live_migration",
        (
            *("self", "context", "dest", "instance", "block_migration", "migration"),
            "migrate_data",
        ),
        _going,
    ),
    Seam(
        _DRIVER,
        "_live_migration_operation",
        (
            *("self", "context", "instance", "dest", "block_migration", "migrate_data", "guest"),
            "device_names",
        ),
        _operating,
    ),
    Seam(
        _DRIVER,
        "post_live_migration_at_destination",
        ("self", "context", "instance", "network_info"),
        _come,
    ),
    Seam(
        _DRIVER,
        "rollback_live_migration_at_destination",
        (
            *("self", "context", "instance", "network_info", "block_device_info"),
            *("destroy_disks", "migrate_data"),
        ),
        _failing,
    ),
    Seam(_MANAGER, "_reset_live_migration", ("self", "context", "instance"), _resetting),
)
