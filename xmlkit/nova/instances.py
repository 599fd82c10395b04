"""Instances come over by themselves, and Nova finds their disks afterwards.

Laws
- A disk is moved where Nova has defined the guest anew and has not started it yet (with a live
  migration it is live.py's); if it cannot be moved, the guest starts from where it was.
- What was interrupted is brought to an end when Nova knows which instances are another host's now.
- Whether a disk has moved is asked of each disk: its image is gone from the instance's directory
  and exactly one pool has its volume.
- A format comes from disk.info. Of a disk on a volume of which it says nothing, none is guessed.

Nova's modules are looked up when the seams are put in, never imported by this one.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from xmlkit import disk_info, images, journal, names, service, state
from xmlkit.nova import live
from xmlkit.nova.seams import Asked, Libvirt, Seam, bound, is_expected, uuid_of
from xmlkit.plan import KINDS
from xmlkit.service import Options, transition

__all__ = ["INSTANCES", "Mover"]

LOG = logging.getLogger(__name__)


class Mover:
    """How instances come over.

    pools: where to, by kind of disk (plan.KINDS, None for the rest); empty for nowhere, None for
    the pools of images_type = libvirt-storage. state_dir: as transition() takes it. image_cache:
    whether base images are kept for disks in pools; where Nova's own manager would delete them,
    disks on base images stay.
    """

    def __init__(
        self,
        pools: Mapping[str | None, str] | None,
        state_dir: str | None = None,
        *,
        image_cache: bool = True,
    ) -> None:
        self._pools = pools
        # the seams let this Nova know where the disks are
        self.accept = ("nova-unaware", "image-cache") if image_cache else ("nova-unaware",)
        self.state_dir = state_dir
        self._due = threading.local()

    @property
    def pools(self) -> Mapping[str | None, str]:
        """Where to; Nova's configuration has been read by the time that this is asked."""
        if self._pools is None:
            from xmlkit.nova.store import Store

            self._pools = {kind: Store.pool_name(kind) for kind in KINDS}
        return self._pools

    def places(self) -> frozenset[str]:
        """The pools in which instances have their disks: what else has their names is not theirs.

        Those of Nova's configuration count where nothing comes over, too: it may have been so.
        """
        from xmlkit.nova.store import Store

        return frozenset((*self.pools.values(), *map(Store.pool_name, KINDS)))

    @contextlib.contextmanager
    def due(self, uuid: str) -> Iterator[None]:
        """Within it, `move` moves this instance when Nova has defined it."""
        before = getattr(self._due, "uuid", None)
        self._due.uuid = uuid
        try:
            yield
        finally:
            self._due.uuid = before

    @contextlib.contextmanager
    def leaving(self, uuid: str) -> Iterator[dict[str, str]]:
        """Within it, volumes of this instance are taken into the directory `_resize`: the paths
        that were taken, each with where its image waits."""
        taken: dict[str, str] = {}
        self._due.left = (uuid, taken)
        try:
            yield taken
        finally:
            del self._due.left

    def left(self) -> tuple[str, dict[str, str]]:
        """The instance that this thread takes away, and what was taken of it."""
        found: tuple[str, dict[str, str]] = getattr(self._due, "left", ("", {}))
        return found

    def is_due(self, uuid: str) -> bool:
        """Whether this thread is about to start the instance from XML that Nova made anew."""
        return getattr(self._due, "uuid", None) == uuid and bool(self.pools)

    def move(
        self, connection: Any, uuid: str, unsettled: Callable[[str], str | None] = lambda _: None
    ) -> None:
        """Move the disks of an instance that is defined and shut off. Nothing is raised: the guest
        starts from where its disks are.

        unsettled: why it may not be moved, None if it may.
        """
        options = Options(relocate=self.pools, accept=self.accept)
        try:
            if why := unsettled(uuid):
                LOG.warning("Instance %s stays where it is: %s", uuid, why)
                return
            outcome = transition(connection, uuid, options, state_dir=self.state_dir)
        except Exception as error:
            if not is_expected(error):
                raise
            LOG.warning("Instance %s stays where it is: %s", uuid, error)
            return
        if outcome.state == "done":
            LOG.info("Instance %s has come onto storage pools", uuid)
        elif outcome.state != "nothing":
            LOG.warning("Instance %s: %s (%s)", uuid, outcome.message, outcome.id or outcome.state)

    def recover(self, connection: Any, is_here: Callable[[str], bool]) -> None:
        """Bring to an end what was interrupted when Nova ended: until then nothing else may come
        over. Nothing is raised; what is not of this libvirt, or of two, is left to an operator.

        is_here: whether an instance is no other host's, by Nova's word. One that has been evacuated
        meanwhile may run from either name of an image, on storage that both hosts have: it is
        left as it is, and no more of this host's business.
        """
        try:
            directory = state.directory(self.state_dir, make=False)
            if not directory.is_dir():
                return
            with service.writing(connection, directory, 60.0):
                journals, _ = journal.read_all(str(directory))
                for each in journals:
                    if _is_ours(connection, each):
                        _leave_others(each, is_here)
                journals, _ = journal.read_all(str(directory))
                pending = [each for each in journals if each.pending]
                if not all(_is_of(connection, each) for each in pending):
                    service.refuse_pending(directory)
                    return
                found, errors = service.recover_all(lambda _: connection, directory)
        except Exception as error:
            if not is_expected(error):
                raise
            LOG.warning("No instance comes over: %s", error)
            return
        for done, outcomes in found:
            for uuid, outcome in outcomes.items():
                LOG.warning("Instance %s, interrupted in transition %s: %s", uuid, done.id, outcome)
        for fault in errors:
            LOG.warning("No instance comes over: %s", fault)


def _leave_others(pending: journal.Journal, is_here: Callable[[str], bool]) -> None:
    """End what was begun with instances that are another host's by now; nothing is changed."""
    for task in pending.pending:
        if is_here(task.uuid):
            continue
        outcome = journal.Outcome(
            "undone",
            "migrated-away",
            "it is another host's now, and both names of each image stay where there are two: "
            "remove the one that its domain there does not name",
        )
        LOG.warning("Instance %s, interrupted in transition %s: %s", task.uuid, pending.id, outcome)
        writer = journal.Writer(pending.path, new=False)
        with contextlib.closing(writer):
            writer.end((task.uuid, outcome))


def _is_ours(connection: Any, pending: journal.Journal) -> bool:
    """Whether a transition is one of this libvirt's alone."""
    return pending.uri == connection.getURI() and pending.kind in ("apply", "rollback")


def _is_of(connection: Any, pending: journal.Journal) -> bool:
    """Whether a transition is this libvirt's alone, which has all its domains: one that is
    not there would be taken for undefined."""
    if not _is_ours(connection, pending):
        return False
    known = {domain.UUIDString() for domain in connection.listAllDomains()}
    return known.issuperset(task.uuid for task in pending.pending)


# The backends in whose place LibvirtStorage is.
_DEPRECATED = frozenset(("raw", "flat", "qcow2", "lvm", "default"))

# Where Nova starts a guest from new XML.


def _due(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    def starts_anew(self: Any, *args: Any, **kwargs: Any) -> Any:
        uuid = uuid_of(bound(original, self, *args, **kwargs)["instance"])
        # while the domain is there to say where it runs
        with asked.mover.due(uuid):
            if _is_settled(self, asked, uuid):
                return original(self, *args, **kwargs)
            with live.starting_unsettled(uuid):
                found = original(self, *args, **kwargs)
        # it runs here
        _is_settled(self, asked, uuid)
        return found

    return starts_anew


def _is_settled(driver: Any, asked: Asked, uuid: str) -> bool:
    """Whether nothing is left of a live migration; it is brought to an end first if that can be.

    Nothing is raised.
    """
    try:
        if asked.live.unsettled(uuid) is None:
            return True
        asked.live.settle(driver._host.get_connection(), uuid)
        return asked.live.unsettled(uuid) is None
    except Exception as error:
        if not is_expected(error):
            raise
        LOG.warning("Instance %s: %s", uuid, error)
        return False


def _creating(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    def create_guest(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = bound(original, self, *args, **kwargs)
        uuid = uuid_of(call["instance"])
        if not asked.mover.is_due(uuid):
            return original(self, *args, **kwargs)
        before = call["post_xml_callback"]

        def defined() -> None:
            if before is not None:
                before()
            asked.mover.move(self._host.get_connection(), uuid, asked.live.unsettled)

        return original(**{**call, "post_xml_callback": defined})

    return create_guest


# Where Nova looks for a disk's image.


def _binding(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """Nova's image backend has no connection to libvirt: the driver's is kept with it."""

    def init_host(self: Any, *args: Any, **kwargs: Any) -> Any:
        import nova.conf

        from xmlkit.nova import storage

        found = original(self, *args, **kwargs)
        storage.settle(self)
        self.image_backend.xmlkit_connect = lambda: self._host.get_connection()
        images_type = nova.conf.CONF.libvirt.images_type
        if images_type in _DEPRECATED:
            LOG.warning(
                "[libvirt] images_type = %s is deprecated: new instances belong into storage "
                "pools, with images_type = libvirt-storage",
                images_type,
            )
        return found

    return init_host


def _named(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    def by_name(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = dict(bound(original, self, *args, **kwargs))
        uuid, name = uuid_of(call["instance"]), call["name"]
        moved = None
        if _is_volume_of(name, uuid):
            # Nova makes names out of paths (_create_images_and_backing)
            moved = name if os.path.isabs(name) else None
            call["name"] = _name_in(name)
        image = original(**call)
        return _at_its_volume(self, image, uuid, call["name"], asked, moved)

    return by_name


def _by_path(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    def by_libvirt_path(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = bound(original, self, *args, **kwargs)
        instance, path = call["instance"], call["path"]
        if _is_volume_of(path, uuid_of(instance)) and _is_legacy(self.backend(call["image_type"])):
            return self.by_name(instance, path, call["image_type"])
        return original(self, *args, **kwargs)

    return by_libvirt_path


def _is_legacy(image: Any) -> bool:
    """Whether disks of this class lie in the instance's directory."""
    return getattr(image, "__name__", "") in ("Flat", "Qcow2")


def _at_its_volume(
    backend: Any, image: Any, uuid: str, name: str, asked: Asked, moved: str | None
) -> Any:
    connect = getattr(backend, "xmlkit_connect", None)
    if connect is None or not _is_legacy(type(image)) or not isinstance(name, str):
        return image
    if names.kind_of(os.path.basename(name)) in (None, "config"):
        return image
    if moved is None:
        if os.path.exists(image.path) or _is_arriving(uuid, name):
            return image
        moved = asked.lookup.path_of(connect, names.volume_name(uuid, os.path.basename(name)))
    if moved is not None:
        image.path = moved
        if hasattr(image, "correct_format"):
            _take_format(image)
    return image


def _take_format(image: Any) -> None:
    """What disk.info says of the image's path.

    Raises nova's InvalidDiskInfo if it says nothing: Nova would then read the header that the guest
    may have written.
    """
    from nova import exception

    if not os.path.exists(image.path):
        return
    try:
        with open(image.disk_info_path, encoding="utf-8") as file:
            image.driver_format = json.load(file)[image.path]
    except (OSError, ValueError, KeyError, TypeError):
        raise exception.InvalidDiskInfo(
            reason=f"{image.disk_info_path} does not say the format of {image.path}: write it there"
        ) from None


# Where Nova makes what is missing.


def _making(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """Disks on volumes are made where they are, not in the instance's directory."""

    def create_images_and_backing(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = dict(bound(original, self, *args, **kwargs))
        uuid = uuid_of(call["instance"])
        found = call["disk_info"] or []
        elsewhere = [each for each in found if _is_volume_of(each["path"], uuid)]
        if not elsewhere:
            return original(self, *args, **kwargs)
        _declare(call["instance_dir"], [each["path"] for each in elsewhere])
        made = [each["path"] for each in elsewhere if not os.path.exists(each["path"])]
        for directory in sorted({os.path.dirname(each["path"]) for each in elsewhere}):
            there = [each for each in elsewhere if os.path.dirname(each["path"]) == directory]
            original(**{**call, "disk_info": there, "instance_dir": directory})
        rest = [each for each in found if each not in elsewhere]
        done = original(**{**call, "disk_info": rest})
        if made:
            _refresh(self._host.get_connection(), made)
        return done

    return create_images_and_backing


def _declare(directory: str, paths: Iterable[str]) -> None:
    """Of disks that come from another host Nova has told the formats by names of its own making:
    that is told of their paths as well."""
    try:
        said = disk_info.formats(os.path.join(directory, disk_info.NAME))
        for path in paths:
            beside = os.path.join(directory, os.path.basename(path))
            if beside in said:
                disk_info.add(beside, path)
                disk_info.remove(beside)
    except images.ImageError as error:
        LOG.warning("The formats of disks in %s are not told: %s", directory, error)


def _name_in(path: str) -> str:
    """Nova's name of a disk, of the path of its volume."""
    own = names.split_volume_name(os.path.basename(path))
    return own[1] if own else ""


def _is_volume_of(path: Any, uuid: str) -> bool:
    own = names.split_volume_name(os.path.basename(path)) if isinstance(path, str) else None
    return own is not None and own[0] == uuid


def _refresh(connection: Any, paths: Iterable[str]) -> None:
    """Let libvirt see new images: the pools on their directories are refreshed."""
    from xmlkit import leisure

    directories = {os.path.dirname(path) for path in paths}
    for pool, path in _active_pools(connection):
        if path in directories:
            leisure.refresh(pool)


def _active_pools(connection: Any) -> Iterator[tuple[Any, str]]:
    """The active pools that have a directory, each with it."""
    from lxml import etree

    for pool in connection.listAllStoragePools():
        path = etree.fromstring(pool.XMLDesc(0).encode()).findtext("target/path")
        if path is not None and pool.isActive():
            yield pool, path


def _coming(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """On storage that both hosts share the volumes are there, and libvirt has not looked since."""

    def pre_live_migration(self: Any, *args: Any, **kwargs: Any) -> Any:
        from nova.virt.libvirt import utils

        call = dict(bound(original, self, *args, **kwargs))
        instance, data = call["instance"], call["migrate_data"]
        uuid = uuid_of(instance)
        wanted = live.offered(data) if asked.live.on else ()
        if wanted and call["disk_info"] is not None and not data.is_shared_instance_path:
            connection = self._host.get_connection()
            call["disk_info"] = asked.live.places(connection, uuid, call["disk_info"], wanted)
        made = _made_for(call["disk_info"], uuid)
        if made and not (data.is_shared_instance_path or data.is_shared_block_storage):
            connection = self._host.get_connection()
            pools = {path: pool.name() for pool, path in _active_pools(connection)}
            known = [(pools.get(os.path.dirname(path), ""), path) for path in made]
            asked.live.making(connection, uuid, known)
        token = _arriving.set(uuid)
        try:
            found = original(**call)
        finally:
            _arriving.reset(token)
        if isinstance(asked.lookup, Libvirt):
            _look_for(self._host.get_connection(), uuid)
        if wanted:
            directory = utils.get_instance_path(instance)
            asked.live.answer(self._host.get_connection(), uuid, found, directory, wanted)
        return found

    return pre_live_migration


def _made_for(told: Any, uuid: str) -> list[str]:
    """The paths of an instance's volumes in what Nova is told of the disks that it is to make."""
    found = json.loads(told) if isinstance(told, str) else None
    return [each["path"] for each in found or () if _is_volume_of(each["path"], uuid)]


# The instance for which this thread makes disks, to be copied into.
_arriving: contextvars.ContextVar[str] = contextvars.ContextVar("xmlkit_arriving", default="")


def _is_arriving(uuid: str, name: str) -> bool:
    """Whether a disk is made here at this path: a volume of its name is another one."""
    return os.path.isabs(name) and _arriving.get() == uuid


def _look_for(connection: Any, uuid: str) -> None:
    """Let libvirt see the images of an instance that lie in its pools' directories."""
    from xmlkit import leisure

    for pool, path in _active_pools(connection):
        if not os.path.isdir(path):
            continue
        # a directory of libvirt's own may be one that Nova's user cannot look into
        with contextlib.suppress(PermissionError):
            there = [name for name in os.listdir(path) if _is_volume_of(name, uuid)]
            listed = [name for name in pool.listVolumes() if _is_volume_of(name, uuid)]
            if sorted(listed) == sorted(there):
                continue
        leisure.refresh(pool)


# Resize and cold migration: the old images wait in `_resize`, as what lies beside them does.


def _leaving(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    def migrate_disk_and_power_off(self: Any, *args: Any, **kwargs: Any) -> Any:
        from xmlkit.nova import storage, store

        instance = bound(original, self, *args, **kwargs)["instance"]
        if store.is_bound():
            storage.refuse_to_move(instance)
        if isinstance(asked.lookup, Libvirt):
            connection = self._host.get_connection()
            store.refuse_logical(connection, uuid_of(instance))
            # while the domain is there to say where it runs, and that what was made is its own
            asked.live.settle(connection, uuid_of(instance))
            _refuse_unsettled(asked, uuid_of(instance))
            asked.live.clear(connection, uuid_of(instance))
        with asked.mover.leaving(uuid_of(instance)) as taken:
            try:
                found = original(self, *args, **kwargs)
            except Exception:
                for path, kept in taken.items():
                    _put_back(kept, path)
                _refresh(self._host.get_connection(), taken) if taken else None
                raise
        if taken:
            _refresh(self._host.get_connection(), taken)
        return found

    return migrate_disk_and_power_off


def _refuse_unsettled(asked: Asked, uuid: str) -> None:
    """Raise nova's InstanceFaultRollback for a guest of which nobody can tell where it runs: one
    name of its images would be left to it, and the other one would be taken along."""
    from nova import exception

    if (why := asked.live.unsettled(uuid)) is not None:
        error = exception.MigrationPreCheckError(reason=why)
        raise exception.InstanceFaultRollback(error)


def _copying(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """Nova copies `{uuid}_resize/NAME` to the path that the disk had; a volume is not there yet."""

    def copy_image(*args: Any, **kwargs: Any) -> Any:
        call = bound(original, *args, **kwargs)
        uuid, taken = asked.mover.left()
        source, path = call["src"], call["dest"]
        if (
            uuid
            and _is_volume_of(source, uuid)
            and os.path.dirname(source) != os.path.dirname(path)
            # a logical volume is a link to a device, and stays
            and not os.path.islink(path)
        ):
            _shift(path, source)
            taken[path] = source
            if names.kind_of(_name_in(path)) == "swap":
                # as Nova does: finish_migration makes it anew
                return None
        return original(*args, **kwargs)

    return copy_image


def _shift(image: str, path: str) -> None:
    """Have the image under another path, in the place of what is there.

    It is copied to another file system, as sparse as it is, and goes when the copy is whole.
    """
    try:
        os.replace(image, path)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    from oslo_concurrency import processutils

    copy = f"{path}.part"
    try:
        same = ("--reflink=auto", "--sparse=auto", "--preserve=mode,ownership,timestamps")
        processutils.execute("cp", *same, "--", image, copy)
        os.replace(copy, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)
        raise
    os.unlink(image)


def _put_back(kept: str, path: str) -> None:
    """Back to where the volume was, from `_resize` or from where Nova has renamed that to."""
    directory, name = os.path.split(kept)
    for place in (directory, directory.removesuffix("_resize")):
        try:
            _shift(os.path.join(place, name), path)
        except FileNotFoundError:
            continue
        except Exception as error:
            # the others have to come back as well
            LOG.error("The image of %s has to be taken back from %s: %s", path, place, error)
        return
    LOG.error("The image of %s is neither there nor in %s: look for it", path, directory)


def _arrived(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    starts_anew = _due(original, asked)

    def finish_migration(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = dict(bound(original, self, *args, **kwargs))
        uuid = uuid_of(call["instance"])
        found = json.loads(call["disk_info"] or "[]")
        came = [each for each in found if _is_volume_of(each["path"], uuid)]
        # Nova makes it anew, and does not look for it
        swap = [each for each in came if names.kind_of(_name_in(each["path"])) == "swap"]
        if came:
            _refuse_missing(self, [each["path"] for each in came if each not in swap], asked)
        kept = swap + _declared(call["instance"], found)
        if not kept:
            return starts_anew(self, *args, **kwargs)
        call["disk_info"] = json.dumps([each for each in found if each not in kept])
        return starts_anew(**call)

    return finish_migration


def _declared(instance: Any, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The disks that Nova would make qcow2, and need not: our backend goes by what disk.info says.

    Nova does not write there what it has made of them.
    """
    from nova.virt.libvirt import utils

    from xmlkit.nova import store

    if not store.is_bound():
        return []
    said = disk_info.formats(os.path.join(utils.get_instance_path(instance), disk_info.NAME))
    return [each for each in found if said.get(each["path"]) == each["type"] == "raw"]


def _refuse_missing(driver: Any, came: Iterable[str], asked: Asked) -> None:
    """Raise nova's DiskNotFound for a volume that did not come: Nova would make a new disk."""
    from nova import exception

    connect = driver._host.get_connection
    _refresh(connect(), came)
    for path in came:
        name = os.path.basename(path)
        if asked.lookup.path_of(connect, name) is None:
            raise exception.DiskNotFound(
                location=f"{path}: no active pool of this host has volume {name}"
            )


def _reverting(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    starts_anew = _due(original, asked)

    def finish_revert_migration(self: Any, *args: Any, **kwargs: Any) -> Any:
        from nova.virt.libvirt import utils

        instance = bound(original, self, *args, **kwargs)["instance"]
        uuid = uuid_of(instance)
        kept = utils.get_instance_path(instance) + "_resize" if uuid else ""
        if os.path.isdir(kept):
            back = _volumes_in(kept, uuid)
            # what the resize has made goes, as Nova removes it from the instance's directory
            legacy = [name for name in os.listdir(kept) if names.kind_of(name) is not None]
            if legacy:
                if isinstance(asked.lookup, Libvirt):
                    _look_for(self._host.get_connection(), uuid)
                asked.lookup.delete(lambda: self._host.get_connection(), uuid, legacy)
            for name, path in back.items():
                _shift(os.path.join(kept, name), path)
            if back:
                _refresh(self._host.get_connection(), back.values())
        return starts_anew(self, *args, **kwargs)

    return finish_revert_migration


def _volumes_in(directory: str, uuid: str) -> dict[str, str]:
    """The images in `_resize` that were volumes, each with its path: disk.info has kept that.

    Raises nova's InvalidDiskInfo if it has not.
    """
    from nova import exception

    found = [name for name in sorted(os.listdir(directory)) if _is_volume_of(name, uuid)]
    if not found:
        return {}
    said = disk_info.formats(os.path.join(directory, disk_info.NAME))
    paths = {os.path.basename(path): path for path in said}
    if unknown := [name for name in found if name not in paths]:
        # the guest would start from what the resize has made
        raise exception.InvalidDiskInfo(
            reason=f"{directory}/{disk_info.NAME} does not say where {', '.join(unknown)} belongs: "
            "write its path there, with its format"
        )
    return {name: paths[name] for name in found}


# Deleting.


def _cleaning(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    def cleanup(self: Any, *args: Any, **kwargs: Any) -> Any:
        from xmlkit.nova import storage, store

        call = bound(original, self, *args, **kwargs)
        if isinstance(asked.lookup, Libvirt) and live.is_rolled_back(uuid_of(call["instance"])):
            found = original(self, *args, **kwargs)
            if call["cleanup_instance_disks"]:
                asked.live.clear(self._host.get_connection(), uuid_of(call["instance"]))
            return found
        if call["cleanup_instance_disks"] and isinstance(asked.lookup, Libvirt):
            # while the domain is there to say which they are
            store.delete_elsewhere(
                self._host.get_connection(), uuid_of(call["instance"]), asked.mover.places()
            )
        if call["cleanup_instance_disks"] and store.is_bound():
            # what Nova's own Lvm made before; Nova does it where images_type is lvm still
            self._cleanup_lvm(call["instance"], call["block_device_info"])
        found = original(self, *args, **kwargs)
        if call["cleanup_instance_disks"] and store.is_bound():
            storage.delete_disks(call["instance"])
        if call["cleanup_instance_disks"] and hasattr(self.image_backend, "xmlkit_connect"):
            if isinstance(asked.lookup, Libvirt):
                # a name that its live migration has made libvirt need not have seen
                _look_for(self._host.get_connection(), uuid_of(call["instance"]))
            asked.lookup.delete(lambda: self._host.get_connection(), uuid_of(call["instance"]))
            asked.live.clear(self._host.get_connection(), uuid_of(call["instance"]))
        return found

    return cleanup


# What is done and said at the start.


def _returning(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """Nova knows now which instances other hosts have taken over while this one was away."""

    def destroy_evacuated_instances(self: Any, *args: Any, **kwargs: Any) -> Any:
        context = bound(original, self, *args, **kwargs)["context"]
        evacuated = original(self, *args, **kwargs)
        host = getattr(self.driver, "_host", None)
        if isinstance(asked.lookup, Libvirt) and host is not None:
            asked.mover.recover(
                host.get_connection(),
                lambda uuid: (
                    uuid not in evacuated and _host_of(context, uuid, self.host) == self.host
                ),
            )
            asked.live.recover(host.get_connection())
        return evacuated

    return destroy_evacuated_instances


def _host_of(context: Any, uuid: str, unknown: str) -> str | None:
    """The host that has an instance, by Nova's database; of one that is deleted, that had it.

    unknown: what is said of a guest that is none of Nova's: no other host of its has it.
    """
    from nova import exception, objects, utils

    try:
        with utils.temporary_mutation(context, read_deleted="yes"):
            found: str | None = objects.Instance.get_by_uuid(context, uuid).host
    except exception.InstanceNotFound:
        return unknown
    return found


def _starting(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    def process_instances_at_startup(self: Any, *args: Any, **kwargs: Any) -> Any:
        _warn_of_legacy(bound(original, self, *args, **kwargs)["instances"])
        return original(self, *args, **kwargs)

    return process_instances_at_startup


def _warn_of_legacy(instances: Iterable[Any]) -> None:
    """One warning for all instances of which a disk still lies in the instance's directory."""
    from nova.virt.libvirt import utils

    legacy = []
    for instance in instances:
        directory = utils.get_instance_path(instance)
        with contextlib.suppress(OSError):
            if any(
                names.kind_of(name) not in (None, "config")
                for name in sorted(os.listdir(directory))
            ):
                legacy.append(instance.uuid)
    if legacy:
        LOG.warning(
            "%d instances have disks in their directories, not in storage pools: they come over "
            "at their next hard reboot, resize or cold migration; xmlkit status lists them. "
            "The first: %s",
            len(legacy),
            ", ".join(legacy[:5]),
        )


_DRIVER = "nova.virt.libvirt.driver:LibvirtDriver"
_BACKEND = "nova.virt.libvirt.imagebackend:Backend"

INSTANCES = (
    Seam(_DRIVER, "init_host", ("self", "host"), _binding),
    Seam(
        _DRIVER, "_hard_reboot", ("self", "context", "instance", "network_info", "share_info"), _due
    ),
    Seam(
        _DRIVER,
        "finish_migration",
        (
            *("self", "context", "migration", "instance", "disk_info", "network_info"),
            *("image_meta", "resize_instance", "allocations"),
        ),
        _arrived,
    ),
    Seam(
        _DRIVER,
        "finish_revert_migration",
        ("self", "context", "instance", "network_info", "migration"),
        _reverting,
    ),
    Seam(
        _DRIVER,
        "migrate_disk_and_power_off",
        ("self", "context", "instance", "dest", "flavor", "network_info"),
        _leaving,
    ),
    Seam(
        "nova.virt.libvirt.utils",
        "copy_image",
        ("src", "dest", "host", "receive", "on_execute", "on_completion", "compression"),
        _copying,
    ),
    Seam(
        _DRIVER,
        "_cleanup",
        (
            *("self", "context", "instance", "network_info", "block_device_info", "destroy_vifs"),
            *("cleanup_instance_dir", "cleanup_instance_disks"),
        ),
        _cleaning,
    ),
    Seam(
        _DRIVER,
        "_create_guest",
        ("self", "context", "xml", "instance", "power_on", "pause", "post_xml_callback"),
        _creating,
    ),
    Seam(
        _DRIVER,
        "_create_images_and_backing",
        ("self", "context", "instance", "instance_dir", "disk_info", "fallback_from_host"),
        _making,
    ),
    Seam(
        _DRIVER,
        "pre_live_migration",
        (
            *("self", "context", "instance", "block_device_info", "network_info", "disk_info"),
            "migrate_data",
        ),
        _coming,
    ),
    Seam(
        _BACKEND, "by_name", ("self", "instance", "name", "image_type", "disk_info_mapping"), _named
    ),
    Seam(_BACKEND, "by_libvirt_path", ("self", "instance", "path", "image_type"), _by_path),
    Seam(
        "nova.compute.manager:ComputeManager",
        "_destroy_evacuated_instances",
        ("self", "context", "node_cache"),
        _returning,
    ),
    Seam(_DRIVER, "process_instances_at_startup", ("self", "context", "instances"), _starting, 34),
    Seam(
        "nova.compute.manager:ComputeManager",
        "_validate_pinning_configuration",
        ("self", "instances"),
        _starting,
        until=34,
    ),
)
