"""Nova's image cache manager, asking libvirt: a seam in the place of its pass.

Laws
- What uses an image is read from libvirt (xmlkit.prune), for disks in pools and in instance
  directories alike, and no process is started; what Nova's database knows protects besides.
- What is in use is touched, as Nova's own pass does, so that age is the time since the last use.
- Images are removed through libvirt, each under Nova's lock of it; none is removed while a
  transition is open, or if anything could not be read.
- The manager stays Nova's own object, with its own lists of what was found.

Nova's modules are looked up when the seam is used, never imported by this one. Names and options
are those of nova 33.0.2 and 34.0.0.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from xmlkit import images, prune, service, state
from xmlkit.actions import create_pool
from xmlkit.cache import Base, Cache, name_of_image
from xmlkit.errors import XmlkitError
from xmlkit.host import sanitized
from xmlkit.nova.seams import Asked, Libvirt, Seam
from xmlkit.observe import host_uuid, opened
from xmlkit.pools import pool
from xmlkit.prune import Pruned

__all__ = ["CACHE", "update"]

LOG = logging.getLogger(__name__)

# Reasons for which an image counts as used now.
_USED = frozenset(("cache-used", "cache-undeclared", "cache-protected"))


def update(
    manager: Any, context: Any, all_instances: Any, uri: str, *, state_dir: str | None = None
) -> None:
    """One pass: touch what is used, remove what is not and is old enough.

    Parameters:
        manager: nova.virt.libvirt.imagecache.ImageCacheManager.
        all_instances: of all hosts that share the directory, as the compute manager gives them.
        uri: of libvirt.
        state_dir: where xmlkit's lock and journals are; else $XMLKIT_STATE_DIR or /var/lib/xmlkit.

    Raises nothing of libvirt's or xmlkit's: it is logged, and nothing is removed.
    """
    import nova.privsep.path
    from nova import utils

    base_dir = manager._get_base()
    if not base_dir:
        return
    manager._reset_state()
    running = manager._list_running_instances(context, all_instances)
    for name in ("used_images", "instance_names", "used_swap_images", "used_ephemeral_images"):
        setattr(manager, name, running[name])
    # in threads of the system, where Nova's own are not
    host = utils.tpool_wrap(_Host(uri))
    try:
        with _nothing_open(host.uuid(), state_dir) as reason:
            cache = host.read(base_dir, _protected(manager), _ages())
            _tell(manager, cache)
            for base in cache.bases:
                if base.reason.id in _USED and base.kind != "unknown":
                    nova.privsep.path.utime(base.path)
            if reason:
                LOG.info("No image of the cache is removed now: %s", reason)
            elif manager.remove_unused_base_images:
                for base in cache.removable:
                    _remove(manager, host, cache, base)
    except (XmlkitError, OSError) as error:
        LOG.error("The image cache %s is left as it is: %s", base_dir, error)


def _protected(manager: Any) -> dict[str, str]:
    """What Nova's database says is used, by the names in the cache."""
    protected = {name_of_image(str(id)): f"image {id}" for id in manager.used_images}
    for name in manager.used_swap_images | manager.used_ephemeral_images:
        protected[name] = "an instance"
    return protected


def _ages() -> dict[str, float]:
    import nova.conf

    options = nova.conf.CONF.image_cache
    original = options.remove_unused_original_minimum_age_seconds
    resized = options.remove_unused_resized_minimum_age_seconds
    return {"original": original, "resized": resized, "swap": original, "ephemeral": original}


def _tell(manager: Any, cache: Cache) -> None:
    """Fill Nova's own lists, and log what an operator should know."""
    there = {base.name for base in cache.bases if base.verdict != "missing"}
    for base in cache.bases:
        if base.kind == "original":
            manager.originals.append(base.path)
        elif base.kind == "swap":
            manager.back_swap_images.add(base.name)
        elif base.kind == "ephemeral":
            manager.back_ephemeral_images.add(base.name)
        if base.kind not in ("original", "resized"):
            continue
        if base.reason.id in _USED:
            manager.active_base_files.append(base.path)
        elif base.verdict in ("young", "remove"):
            manager.unexplained_images.append(base.path)
            manager.removable_base_files.append(base.path)
    for base in cache.bases:
        if base.verdict == "missing":
            LOG.warning("The image %s is missing: %s", base.path, base.reason.message)
    for name in sorted((manager.used_swap_images | manager.used_ephemeral_images) - there):
        # it is made again when it is needed
        LOG.debug("An instance has been made of %s, which is not in the cache", name)
    if manager.active_base_files:
        LOG.debug("Images in use: %s", " ".join(manager.active_base_files))
    if manager.removable_base_files:
        LOG.info("Images without a use: %s", " ".join(manager.removable_base_files))
    doubtful = [base for base in cache.bases if base.reason.id == "cache-doubt"]
    if doubtful:
        LOG.warning(
            "No image is removed from %s: each of %d %s. Mend that, or delete the instance; if its "
            "disk is lost for good: xmlkit cache prune --accept cache-broken",
            cache.path,
            len(doubtful),
            doubtful[0].reason.message.removeprefix("it "),
        )
    for use in cache.broken:
        if use.fault is not None:
            who = use.title if use.domain else "an image"
            LOG.warning("%s: %s: %s", use.fault.id, who, use.fault.message)


def _remove(manager: Any, host: Any, cache: Cache, base: Base) -> None:
    from oslo_concurrency import lockutils

    # as nova.utils.synchronized
    with lockutils.lock(base.name, "nova-", external=True, lock_path=manager.lock_path):
        done = host.remove(cache, base)
    if done.state != "removed":
        LOG.error("Image %s is kept: %s: %s", base.path, done.id, done.message)
        return
    LOG.info("Removed image %s, %s", base.path, base.reason.message)
    if base.kind in ("original", "resized"):
        with contextlib.suppress(OSError):
            lockutils.remove_external_lock_file(
                base.name, lock_file_prefix="nova-", lock_path=manager.lock_path
            )


class _Host:
    """What is asked of libvirt, each time by a connection of its own."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def uuid(self) -> str | None:
        """The host's, by which its writers know each other."""
        with opened(self._uri) as connection:
            return host_uuid(connection)

    def read(
        self, directory: str, protected: Mapping[str, str], ages: Mapping[str, float]
    ) -> Cache:
        """The cache in a directory, which is made a pool if it is none yet."""
        # a link in the path is told as such, not as a pool that is another one
        with images.directory_of(sanitized(directory)), opened(self._uri, write=True) as connection:
            name = prune.pool_at(connection, directory)
            if name is None:
                create_pool(connection, pool(prune.POOL, "dir", target=directory))
                name = prune.POOL
            elif not (found := connection.storagePoolLookupByName(name)).isActive():
                found.create(0)
            return prune.read(connection, name, protected=protected, ages=ages)

    def remove(self, cache: Cache, base: Base) -> Pruned:
        """Remove an image; the caller has Nova's lock of it."""
        with opened(self._uri, write=True) as connection:
            return prune.remove(connection, cache, base, lock=False)


@contextlib.contextmanager
def _nothing_open(uuid: str | None, state_dir: str | None) -> Iterator[str]:
    """Hold xmlkit's locks of the host; what is yielded says why nothing may be removed, or nothing.

    Where there is no state directory there has been no transition. One that Nova's user may not
    enter is root's: what libvirt has defined boots at every instant of a transition, so that the
    images are all in use then, and nothing has to be waited for.
    """
    place = state_dir or os.environ.get("XMLKIT_STATE_DIR") or state.DEFAULT
    with contextlib.ExitStack() as stack:
        reason = ""
        try:
            try:
                stack.enter_context(state.host_lock(uuid))
            except state.StateError as error:
                raise service.ServiceError(str(error)) from None
            if os.path.isdir(place):
                directory = state.directory(place)
                stack.enter_context(state.lock(directory))
                service.refuse_pending(directory)
        except (state.LockedError, service.ServiceError) as error:
            reason = str(error)
        except XmlkitError as error:
            LOG.debug("xmlkit's state is not looked at: %s", error)
        yield reason


def _passing(original: Callable[..., Any], asked: Asked) -> Callable[..., Any]:
    """Nova's own pass only where something stands in libvirt's place, which has no images."""

    def update_(self: Any, context: Any, all_instances: Any) -> Any:
        if not isinstance(asked.lookup, Libvirt):
            return original(self, context, all_instances)
        from nova.virt.libvirt import driver

        uri = str(driver.LibvirtDriver._uri())
        return update(self, context, all_instances, uri, state_dir=asked.mover.state_dir)

    return update_


CACHE = (
    Seam(
        "nova.virt.libvirt.imagecache:ImageCacheManager",
        "update",
        ("self", "context", "all_instances"),
        _passing,
    ),
)
