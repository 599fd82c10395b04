"""A host whose cache of images is a pool, for tests of `xmlkit cache` and of Nova's manager.

Rules
- What is old was made so by its time of change; all else is as on a scene.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from scene import POOL as DISKS
from scene import Scene, disk_xml, run

from xmlkit import prune
from xmlkit.cache import Base, Cache
from xmlkit.prune import POOL, Pruned


class CachedHost(Scene):
    """A host with a cache that is a pool; scene.base is an image in it that is not old."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pool(POOL, self.cache)

    @property
    def cache(self) -> Path:
        return self.base.parent

    def old(self, name: str, age: float = 1e6) -> Path:
        """An image in the cache that nobody has touched for long."""
        path = self.cache / name
        path.write_bytes(self.sector)
        stamp = path.stat().st_mtime - age
        os.utime(path, (stamp, stamp))
        return path

    def over(self, path: Path, below: Path, format: str = "raw") -> Path:
        """A qcow2 image over another."""
        path.parent.mkdir(exist_ok=True)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", format, path, "1M")
        return path

    def volume_guest(self, name: str, below: Path) -> Any:
        """A guest whose disk is a volume over an image."""
        own = str(uuid.uuid4())
        disk = self.over(self.instances / "disks" / f"{own}_disk", below)
        self.connection.storagePoolLookupByName(DISKS).refresh()
        xml = disk_xml(disk).replace("type='file'", "type='volume'")
        source = f"pool='{DISKS}' volume='{disk.name}'"
        return self.define(name, [xml.replace(f"file='{disk}'", source)], own)

    def read(self, **options: Any) -> Cache:
        return prune.read(self.connection, **options)

    def of(self, name: str, **options: Any) -> Base:
        """What is to become of an image."""
        return next(each for each in self.read(**options).bases if each.name == name)

    def verdict(self, name: str, **options: Any) -> tuple[str, str]:
        found = self.of(name, **options)
        return found.verdict, found.reason.id

    def reasons(self, *names: str) -> dict[str, str]:
        """Why, of some images."""
        found = self.read().bases
        return {each.name: each.reason.id for each in found if each.name in names}

    def removed(self, name: str, cache: Cache | None = None) -> Pruned:
        """What becomes of an image that is tried to be removed, as it was judged."""
        cache = cache or self.read()
        base = next(each for each in cache.bases if each.name == name)
        return prune.remove(self.connection, cache, base)
