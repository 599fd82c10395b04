"""xmlkit inside Nova: `enable()` puts it into an imported Nova, `disable()` takes it out again.

Laws
- xmlkit never needs Nova: nothing here imports it before `enable()` is called.
- What is not recognised is refused, by name, before anything is changed.
- Taken out, the very objects that were there are back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xmlkit.host import Host
    from xmlkit.nova.seams import Lookup, Put

__all__ = ["disable", "enable", "is_enabled"]

_put: list[Put] = []


def enable(
    *,
    pools: Mapping[str | None, str] | None = None,
    state_dir: str | None = None,
    lookup: Lookup | None = None,
    destination: Callable[[Any], Host | None] | None = None,
    image_cache: bool = True,
    live: bool = False,
) -> None:
    """Put xmlkit into the Nova of this process, before it makes a driver.

    pools: into which pool instances come over, by kind of disk (`root`, `ephemeral`, `swap`, None
    for the rest); None for those of Nova's `[libvirt] storage_pools`, {} for nowhere: only what is
    on volumes already is seen as such.
    state_dir: as `xmlkit.transition` takes it. lookup: what is asked in libvirt's place.
    destination: what the host has to which an instance migrates live, by Nova's migrate_data; None
    where that is not known, then each disk stays what it is. image_cache: whether xmlkit's takes
    the place of Nova's manager, which would delete the base images of disks that have moved;
    without it, disks on base images do not come over. live: whether instances come over with
    their live migration, too, if both hosts have it so; not with `destination`.

    Raises SeamError: this Nova is not one that xmlkit knows, or xmlkit is in it already.
    """
    import nova.compute.manager
    import nova.version
    import nova.virt.libvirt.driver

    from xmlkit.nova.imagecache import CACHE
    from xmlkit.nova.instances import INSTANCES, Mover
    from xmlkit.nova.live import LIVE, Live
    from xmlkit.nova.seams import BUILDER, Asked, Libvirt, SeamError, find, put_in
    from xmlkit.nova.storage import STORAGE
    from xmlkit.nova.store import register_options

    if _put:
        raise SeamError("xmlkit is in this Nova already: call disable() first")
    version = int(nova.version.version_string().partition(".")[0])
    cache = CACHE if image_cache else ()
    found = find((*BUILDER, *INSTANCES, *LIVE, *STORAGE, *cache), version)
    register_options()
    mover = Mover(pools, state_dir, image_cache=image_cache)
    lookup = lookup or Libvirt(mover.places)
    moved = Live(mover, lookup, on=live and destination is None)
    _put.extend(put_in(found, Asked(lookup, mover, moved, destination)))


def disable() -> None:
    """Take out what `enable` has put in, also of drivers made since; nothing if it is not in.

    Raises SeamError if somebody else has replaced one of the functions since.
    """
    from xmlkit.nova.seams import take_out

    take_out(_put)
    if _put:
        from xmlkit.nova.storage import unsettle

        unsettle()
    _put.clear()


def is_enabled() -> bool:
    """Whether xmlkit is in the Nova of this process."""
    return bool(_put)
