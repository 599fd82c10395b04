"""Profiles: what a document must not have on some hosts, though libvirt's schema allows it.

Laws
- A profile only refuses: what it accepts has still to be valid.
- It holds wherever a domain stands: alone, within a snapshot or a checkpoint, and in a lone disk.
- It walks the document. Overriding a define of the schema has, silently, no effect on the domains
  within snapshots and checkpoints: those are in nested grammars.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from lxml import etree

from xmlkit.errors import XmlkitError

__all__ = ["NO_VOLUME_DISKS", "PROFILES", "Profile", "ProfileError", "check", "volume_sources"]

Profile = Literal["no-volume-disks"]

# For hosts with libvirt before 1.0.5, and for those where a guest with volume disks cannot start.
NO_VOLUME_DISKS: Profile = "no-volume-disks"
PROFILES: tuple[Profile, ...] = (NO_VOLUME_DISKS,)


class ProfileError(XmlkitError):
    """There is no such profile; `name` is what was asked for."""

    def __init__(self, name: object) -> None:
        self.name = name
        super().__init__(f"no profile {name!r}; there is {', '.join(map(repr, PROFILES))}")


def check(name: object) -> None:
    """Raise ProfileError for what is the name of no profile."""
    if name not in PROFILES:
        raise ProfileError(name)


def volume_sources(root: etree._Element) -> Iterator[etree._Element]:
    """Each disk, backing store, mirror or NVRAM of a document that is a volume.

    Source: uses of the defines diskSource and diskSourceVolume in domaincommon.rng, 9.0.0.
    """
    if root.tag == "disk":
        places = [root]
    elif root.tag == "domain":
        places = _places(root)
    else:
        # domainsnapshot has both, domaincheckpoint the first
        places = [
            place
            for domain in root.iterchildren("domain", "inactiveDomain")
            for place in _places(domain)
        ]
    for place in places:
        for element in place.iter("disk", "backingStore", "mirror", "nvram"):
            if element.get("type", "").strip() == "volume":
                yield element


def _places(domain: etree._Element) -> list[etree._Element]:
    return [*domain.iterfind("os/nvram"), *domain.iterfind("devices/disk")]
