"""Nova's image cache manager, asking libvirt: it takes the place of Nova's own.

Laws
- What uses an image is read from libvirt (xmlkit.prune), for disks in pools and in instance
  directories alike, and no process is started; what Nova's database knows protects besides.
- What is in use is touched, as Nova's own manager does, so that age is the time since the last use.
- Images are removed through libvirt, each under Nova's lock of it; none is removed while a
  transition is open, or if anything could not be read.
- It is asked as Nova's own manager is: update(), get_disk_usage(), cache_dir; and its lists of what
  it found have the same names.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import nova.conf
import nova.privsep.path
from nova import utils
from nova.virt import imagecache as any_driver
from nova.virt.libvirt import imagecache
from oslo_concurrency import lockutils
from oslo_log import log

from xmlkit import prune, service, state
from xmlkit.actions import create_pool
from xmlkit.cache import Base, Cache, name_of_image
from xmlkit.errors import XmlkitError
from xmlkit.observe import opened
from xmlkit.pools import pool
from xmlkit.prune import Pruned

__all__ = ["ImageCacheManager"]

LOG = log.getLogger(__name__)
CONF = nova.conf.CONF

# Reasons for which an image counts as used now.
_USED = frozenset(("cache-used", "cache-undeclared", "cache-protected"))


class ImageCacheManager(imagecache.ImageCacheManager):
    """As nova.virt.libvirt.imagecache.ImageCacheManager (34.0.0), but for what a pass does."""

    def __init__(self) -> None:
        # Nova's own would call itself for ever: it finds its class by the name that enable() has
        # given to this one
        any_driver.ImageCacheManager.__init__(self)
        self.lock_path = os.path.join(CONF.instances_path, "locks")
        self._reset_state()

    def update(self, context: Any, all_instances: Any) -> None:
        """One pass: touch what is used, remove what is not and is old enough.

        all_instances: of all hosts that share the directory, as the compute manager gives them.
        Raises nothing of libvirt's or xmlkit's: it is logged, and nothing is removed.
        """
        base_dir = self._get_base()
        if not base_dir:
            return
        self._reset_state()
        running = self._list_running_instances(context, all_instances)
        self.used_images = running["used_images"]
        self.instance_names = running["instance_names"]
        self.used_swap_images = running["used_swap_images"]
        self.used_ephemeral_images = running["used_ephemeral_images"]
        # in threads of the system, where Nova's own are not
        host = utils.tpool_wrap(_Host(_uri()))
        try:
            with _nothing_open() as reason:
                cache = host.read(base_dir, self._protected(), self._ages())
                self._tell(cache)
                for base in cache.bases:
                    if base.reason.id in _USED and base.kind != "unknown":
                        nova.privsep.path.utime(base.path)
                if reason:
                    LOG.info("No image of the cache is removed now: %s", reason)
                elif self.remove_unused_base_images:
                    for base in cache.removable:
                        self._remove(host, cache, base)
        except (XmlkitError, OSError) as error:
            LOG.error("The image cache %s is left as it is: %s", base_dir, error)

    def _protected(self) -> dict[str, str]:
        """What Nova's database says is used, by the names in the cache."""
        protected = {name_of_image(str(id)): f"image {id}" for id in self.used_images}
        for name in self.used_swap_images | self.used_ephemeral_images:
            protected[name] = "an instance"
        return protected

    def _ages(self) -> dict[str, float]:
        original = CONF.image_cache.remove_unused_original_minimum_age_seconds
        resized = CONF.image_cache.remove_unused_resized_minimum_age_seconds
        return {"original": original, "resized": resized, "swap": original, "ephemeral": original}

    def _tell(self, cache: Cache) -> None:
        """Fill Nova's own lists, and log what an operator should know."""
        there = {base.name for base in cache.bases if base.verdict != "missing"}
        for base in cache.bases:
            if base.kind == "original":
                self.originals.append(base.path)
            elif base.kind == "swap":
                self.back_swap_images.add(base.name)
            elif base.kind == "ephemeral":
                self.back_ephemeral_images.add(base.name)
            if base.kind not in ("original", "resized"):
                continue
            if base.reason.id in _USED:
                self.active_base_files.append(base.path)
            elif base.verdict in ("young", "remove"):
                self.unexplained_images.append(base.path)
                self.removable_base_files.append(base.path)
        for base in cache.bases:
            if base.verdict == "missing":
                LOG.warning("The image %s is missing: %s", base.path, base.reason.message)
        for name in sorted((self.used_swap_images | self.used_ephemeral_images) - there):
            # it is made again when it is needed
            LOG.debug("An instance has been made of %s, which is not in the cache", name)
        if self.active_base_files:
            LOG.debug("Images in use: %s", " ".join(self.active_base_files))
        if self.removable_base_files:
            LOG.info("Images without a use: %s", " ".join(self.removable_base_files))
        for use in cache.broken:
            if use.fault is not None:
                who = use.title if use.domain else "an image"
                LOG.warning("%s: %s: %s", use.fault.id, who, use.fault.message)

    def _remove(self, host: Any, cache: Cache, base: Base) -> None:
        # as nova.utils.synchronized
        with lockutils.lock(base.name, "nova-", external=True, lock_path=self.lock_path):
            done = host.remove(cache, base)
        if done.state != "removed":
            LOG.error("Image %s is kept: %s: %s", base.path, done.id, done.message)
            return
        LOG.info("Removed image %s, %s", base.path, base.reason.message)
        if base.kind in ("original", "resized"):
            with contextlib.suppress(OSError):
                lockutils.remove_external_lock_file(
                    base.name, lock_file_prefix="nova-", lock_path=self.lock_path
                )


class _Host:
    """What is asked of libvirt, each time by a connection of its own."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def read(
        self, directory: str, protected: Mapping[str, str], ages: Mapping[str, float]
    ) -> Cache:
        """The cache in a directory, which is made a pool if it is none yet."""
        with opened(self._uri, write=True) as connection:
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


def _uri() -> str:
    from nova.virt.libvirt import driver

    return str(driver.LibvirtDriver._uri())


@contextlib.contextmanager
def _nothing_open() -> Iterator[str]:
    """Hold xmlkit's lock of the host; what is yielded says why nothing may be removed, or nothing.

    Where there is no state directory there has been no transition. One that Nova's user may not
    enter is root's: what libvirt has defined boots at every instant of a transition, so that the
    images are all in use then, and nothing has to be waited for.
    """
    place = os.environ.get("XMLKIT_STATE_DIR") or state.DEFAULT
    with contextlib.ExitStack() as stack:
        reason = ""
        if os.path.isdir(place):
            try:
                directory = state.directory(place)
                stack.enter_context(state.lock(directory))
                service.refuse_pending(directory)
            except (state.LockedError, service.ServiceError) as error:
                reason = str(error)
            except XmlkitError as error:
                LOG.debug("xmlkit's state is not looked at: %s", error)
        yield reason
