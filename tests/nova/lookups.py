"""What the seams are told in libvirt's place: a host that is just said."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from xmlkit.host import Host


class Seen:
    """A host with these pools and volumes; with `Host()` one on which nothing is on volumes."""

    def __init__(self, host: Host) -> None:
        self.seen = host
        self.deleted: list[str] = []

    def host(self, connect: Callable[[], Any], xml: str) -> Host:
        """All of it."""
        return self.seen

    def path_of(self, connect: Callable[[], Any], volume: str) -> str | None:
        """Where the one volume of this name is."""
        found = [pool.by_name[volume] for pool in self.seen.pools if volume in pool.by_name]
        return found[0].path if len(found) == 1 else None

    def delete(
        self, connect: Callable[[], Any], uuid: str, only: Collection[str] | None = None
    ) -> None:
        """Noted."""
        self.deleted.append(uuid)
