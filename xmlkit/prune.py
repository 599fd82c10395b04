"""The image cache of a host, read through libvirt and pruned; a module that imports libvirt.

Laws
- A cache is looked at anew (one refresh of its pool), and no process is started for any image.
- What is removed is removed by libvirt (virStorageVolDelete), one file at a time: while nobody else
  removes or fetches it (Nova's own lock), while no QEMU has it open, and if it is what was judged.
- No link is followed, to a cache or in it.
- An image of which libvirt alone may read the header is taken by libvirt's word, if that and the
  declared format are the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import libvirt
from lxml import etree

from xmlkit import disk_info, images, leisure
from xmlkit.cache import AGES, Base, Cache, Image, Use, judge, use_of, uses_of
from xmlkit.errors import XmlkitError
from xmlkit.host import Pool, Volume, sanitized
from xmlkit.images import ImageError
from xmlkit.names import split_instance_path, split_volume_name
from xmlkit.observe import is_local
from xmlkit.survey import Backing, Survey, backing_of, resolved, survey

__all__ = ["POOL", "CacheError", "Pruned", "check", "pool_at", "read", "remove"]

# Spec: "the image cache directory as a storage pool (nova-base-images-pool)".
POOL = "nova-base-images-pool"

_LOCK_SECONDS = 10.0  # for Nova, which holds the lock of an image while it fetches it
_FILES = ("dir", "fs", "netfs", "vstorage")
_DISKS = re.compile(r"([0-9a-f-]{36}_)?disk(\.(?!info$|config)[^/]*)?")


class CacheError(XmlkitError):
    """A cache cannot be read or pruned; the message says why and what to do."""


class Pruned(NamedTuple):
    """What became of a base: "removed", or "kept" with an id and a message that say why."""

    base: Base
    state: str
    id: str = ""
    message: str = ""


def read(
    connection: Any,
    name: str = POOL,
    *,
    protected: Mapping[str, str] | None = None,
    ages: Mapping[str, float] = AGES,
    accept: Collection[str] = (),
    now: float | None = None,
) -> Cache:
    """The cache in the pool `name`, looked at anew, and what is to become of each image in it.

    Parameters:
        connection: of libvirt-python, not read-only.
        protected, ages, accept: as judge() takes them.
        now: seconds since 1970; without it, now.

    Instances whose disks are beside the cache, as Nova has them ({instances}/_base beside
    {instances}/{uuid}), count also if no domain here has them: another host's, or one that is being
    resized. Raises CacheError, and what libvirt raises.
    """
    pool = _looked_up(connection, name)
    local = is_local(connection.getURI())
    _refresh(connection, pool, every=not local or os.geteuid() != 0)
    surveyed = survey(connection)
    found = surveyed.host.by_name.get(name)
    if found is None or found.volumes is None:
        raise CacheError(f"the pool {name} went away while it was read: start it, try again")
    identities = _identities(found) if local else {}
    look = _Looker(surveyed, os.path.dirname(found.path.rstrip("/")))
    uses = [use for guest in surveyed.guests for use in uses_of(guest, surveyed.host, look)]
    known = {image.path for use in uses for image in use.images}
    uses += _others(surveyed, found, known, look)
    return judge(
        found,
        uses,
        now=time.time() if now is None else now,
        protected=protected,
        ages=ages,
        identities=identities,
        accept=accept,
    )


def remove(connection: Any, cache: Cache, base: Base, *, lock: bool = True) -> Pruned:
    """Remove an image of a cache that was judged, if it still is what it was then.

    lock: take Nova's lock of the image, {instances}/locks/nova-{name}, if there is such a
    directory; without, the caller has it. Raises nothing that is about this one image.
    """
    try:
        with (
            _nova_lock(cache.path, base.name) if lock else contextlib.nullcontext(),
            images.locked(base.path, write=True),
        ):
            status = os.lstat(base.path)
            now = status.st_dev, status.st_ino, status.st_mtime_ns
            if not stat.S_ISREG(status.st_mode) or now != base.identity:
                message = f"{base.path} is not what it was when it was judged: somebody uses it"
                return Pruned(base, "kept", "image-changed", message)
            volume = connection.storagePoolLookupByName(cache.pool).storageVolLookupByName(
                base.name
            )
            if volume.path() != base.path:
                message = f"libvirt has it at {volume.path()} now"
                return Pruned(base, "kept", "image-changed", message)
            volume.delete(0)
    except ImageError as error:
        return Pruned(base, "kept", error.id, str(error))
    except libvirt.libvirtError as error:
        return Pruned(base, "kept", "libvirt", str(error.get_error_message()))
    except OSError as error:
        return Pruned(base, "kept", "io-error", f"{base.path}: {error.strerror}")
    return Pruned(base, "removed")


def pool_at(connection: Any, path: str) -> str | None:
    """The name of the pool, active or not, whose directory is `path`; None if there is none."""
    for pool in connection.listAllStoragePools():
        xml = etree.fromstring(pool.XMLDesc(0).encode())
        target = sanitized(xml.findtext("target/path") or "").rstrip("/")
        if xml.get("type") in _FILES and target == sanitized(path).rstrip("/"):
            return str(pool.name())
    return None


def check(connection: Any, name: str) -> None:
    """Raise CacheError if a pool is none that a cache can be in."""
    _looked_up(connection, name)


def _looked_up(connection: Any, name: str) -> Any:
    try:
        pool = connection.storagePoolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
            raise
        raise CacheError(
            f"there is no pool {name}: name the cache's with --pool, or make it one with "
            f"xmlkit pool create {POOL} --type dir --target /var/lib/nova/instances/_base --script"
        ) from None
    type_ = etree.fromstring(pool.XMLDesc(0).encode()).get("type")
    if type_ not in _FILES:
        raise CacheError(f"pool {name} is of type {type_}, and a cache is a directory of files")
    if not pool.isActive():
        raise CacheError(f"pool {name} is not active: virsh pool-start {name}")
    return pool


def _refresh(connection: Any, pool: Any, *, every: bool) -> None:
    """Have libvirt look at the cache; and at all pools of files, if its word has to do for them."""
    leisure.refresh(pool)
    for other in connection.listAllStoragePools() if every else ():
        if other.name() == pool.name() or not other.isActive():
            continue
        if etree.fromstring(other.XMLDesc(0).encode()).get("type") in _FILES:
            leisure.refresh(other)


def _identities(pool: Pool) -> dict[str, tuple[int, int, int]]:
    """Device, inode and time of change of each plain file in the cache. Raises CacheError."""
    found = {}
    try:
        with images.directory_of(pool.path) as directory:
            for volume in pool.volumes or ():
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(volume.name, dir_fd=directory, follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        found[volume.path] = status.st_dev, status.st_ino, status.st_mtime_ns
    except ImageError as error:
        raise CacheError(f"the cache of pool {pool.name} cannot be looked at: {error}") from None
    return found


class _Looker:
    """What is at a path: looked at once, and described by libvirt where we may not read."""

    def __init__(self, surveyed: Survey, instances: str) -> None:
        """instances: Nova's directory, beside the cache."""
        self.local = surveyed.local
        self._instances = instances
        self._volumes: dict[str, Volume] = {
            sanitized(volume.path): volume
            for pool in surveyed.host.pools
            for volume in pool.volumes or ()
        }
        # what the survey has looked at, and could
        self._known: dict[tuple[str, str], Image] = {
            (path, format_): Image(path, format_, "there", file.header, (file.device, file.inode))
            for path, file in surveyed.files.items()
            if file.kind in ("file", "block") and not file.link
            for format_ in ("raw", "qcow2")
            if file.format == format_
        }

    def __call__(self, path: str, format: str) -> Image:
        key = path, format
        if key not in self._known:
            self._known[key] = self._look(path, format) if self.local else self._said(key)
        return self._known[key]

    def _look(self, path: str, format: str) -> Image:
        key = path, format
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            # while an instance is being resized Nova keeps its disks in {uuid}_resize, and
            # xmlkit's seams its volumes
            resized = None
            if instance := split_instance_path(path):
                resized = f"{os.path.dirname(path)}_resize/{instance[1]}"
            elif own := split_volume_name(os.path.basename(path)):
                resized = f"{self._instances}/{own[0]}_resize/{os.path.basename(path)}"
            if resized is not None and os.path.exists(resized):
                return self._look(resized, format)
            return Image(path, format, "missing")
        except (OSError, ValueError) as error:
            return self._said(key, getattr(error, "strerror", "") or str(error))
        identity = status.st_dev, status.st_ino
        if format == "raw":
            return Image(path, format, identity=identity)
        if format != "qcow2":
            return self._said(key, f"xmlkit reads no {format}")._replace(identity=identity)
        try:
            return Image(path, format, "there", backing_of(path), identity)
        except OSError as error:
            link = error.errno == errno.ELOOP
            why = "it is a symbolic link" if link else error.strerror or str(error)
            return self._said(key, why)._replace(identity=identity)

    def _said(self, key: tuple[str, str], error: str = "") -> Image:
        """By libvirt's word: its probe, which has to find the format that is declared."""
        path, format_ = key
        volume = self._volumes.get(path)
        if volume is None or volume.link:
            return Image(path, format_, "unseen", error=error or "no pool has it")
        if format_ != "raw" and volume.format != format_:
            why = f"it is declared as {format_}, and libvirt takes it for {volume.format}"
            return Image(path, format_, "unseen", error=f"{error}; {why}" if error else why)
        backing = Backing(volume.backing, volume.backing_format) if format_ != "raw" else None
        return Image(path, format_, backing=backing)


def _others(surveyed: Survey, cache: Pool, known: set[str], look: _Looker) -> Iterator[Use]:
    """What stands on images and is no domain's: in pools, and in Nova's directories.

    Where Nova's disk.info has the format, that counts; where nobody has, one step is taken by the
    header, which can only keep a base.
    """
    for pool in surveyed.host.pools:
        if pool.type not in _FILES or pool.name == cache.name:
            continue
        said = {sanitized(each.path): each.backing for each in pool.volumes or ()}
        # another host's volumes are in the directory before libvirt here looks at it anew
        seen = (f"{pool.path}/{name}" for name in _entries(pool.path) if surveyed.local)
        for path in {**said, **dict.fromkeys(map(sanitized, seen))}:
            if path not in known:
                known.add(path)
                yield from _undeclared(path, look, said.get(path))
    if not surveyed.local:
        return
    instances = os.path.dirname(cache.path.rstrip("/"))
    for directory in _entries(instances):
        place = f"{instances}/{directory}"
        formats: dict[str, str] | None = None
        for name in _entries(place):
            path = sanitized(f"{place}/{name}")
            if path in known or not _DISKS.fullmatch(name):
                continue
            if formats is None:
                formats = _formats(place)
            # the directory of a resize has the entries of before
            plain = f"{instances}/{directory.removesuffix('_resize')}/{name}"
            format_ = formats.get(path) or formats.get(plain)
            if format_ is None and split_volume_name(name):
                # a volume that waits here, by the path that it had in its pool
                at = (said for key, said in formats.items() if os.path.basename(key) == name)
                format_ = next(at, None)
            if format_ is not None:
                yield use_of(path, format_, look, where="disk.info")
                continue
            yield from _undeclared(path, look)


def _undeclared(path: str, look: _Looker, said: str | None = None) -> Iterator[Use]:
    """The one image below another of whose format nobody speaks; by libvirt's word if need be."""
    below = said
    with contextlib.suppress(OSError):
        backing = backing_of(path) if look.local else None
        below = resolved(backing.file, path) if backing is not None else below
    if below is not None:
        images_ = Image(path, "qcow2"), look(sanitized(os.path.normpath(below)), "raw")
        yield Use("", "", "", "undeclared", images_)


def _entries(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _formats(directory: str) -> dict[str, str]:
    """What Nova's disk.info in a directory says; nothing where it cannot be read."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        handle = os.open(f"{directory}/{disk_info.NAME}", flags)
        with open(handle, "rb") as file:
            found = json.loads(file.read(1 << 20))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if type(found) is dict else {}


@contextlib.contextmanager
def _nova_lock(cache: str, name: str) -> Iterator[None]:
    """The lock under which Nova fetches, uses and removes an image; nothing without its directory.

    Source: nova.utils.synchronized with lock_path {instances}/locks, by oslo.concurrency a lock of
    fcntl on the file nova-{name}.
    """
    locks = f"{os.path.dirname(cache.rstrip('/'))}/locks"
    if not os.path.isdir(locks):
        yield
        return
    with images.directory_of(locks) as directory:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(f"nova-{name}", flags, 0o644, dir_fd=directory)
        try:
            # Nova has to be able to open it again
            owner = os.fstat(directory)
            if os.geteuid() == 0:
                os.fchown(handle, owner.st_uid, owner.st_gid)
            deadline = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except (BlockingIOError, PermissionError):
                    if time.monotonic() > deadline:
                        raise ImageError(
                            "image-in-use", f"Nova is at work on {cache}/{name}: try again later"
                        ) from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(handle)
