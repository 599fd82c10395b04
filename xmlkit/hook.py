"""What libvirt's hook at the destination of a migration makes of the incoming XML.

Laws
- Without libvirt: a hook that calls libvirt back waits for the daemon that waits for it.
- Only to volumes that the host file lists, and that are the very image that the disk uses; what is
  not sure passes through byte for byte, with the reason. Nothing that comes in raises an error.
- It changes the live XML alone. The persistent XML that comes with the migration keeps its paths,
  so the old names have to stay until the domain has been defined anew at the destination.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.host import Host
from xmlkit.plan import Reason, Skip, Transition, plan
from xmlkit.transformers import transform

__all__ = ["Passed", "incoming"]


class Passed(NamedTuple):
    """What goes on to libvirt, and what is to be logged of it.

    xml: the bytes; those that came in if no disk is rewritten. rewritten: targets of the disks that
    are volumes now. reasons: why each other disk, or all of the XML, stays as it is.
    """

    xml: bytes
    rewritten: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


# Disks that never were to become volumes: no reason to tell of.
_QUIET = frozenset(("already", "empty", "cinder", "config-drive"))


def incoming(xml: bytes, host: Host, is_linked: Callable[[str, str], bool]) -> Passed:
    """The XML of a domain that is about to arrive, with the disks on volumes that are here already.

    host: of the destination, observed after the images came into its pools. is_linked: whether two
    paths are two names of one file there, as images.is_linked tells; a disk in Nova's instance
    directory gets the volume of its name only then, since another migration may have left one.
    Raises nothing for what comes in: it is passed through.

    Source: libvirt's docs/hooks.rst, "migrate begin": the XML that the hook prints replaces the one
    that came.
    """
    try:
        document = Document.parse(xml)
        made = plan(document, host, live=True, arrived=True)
        sure = []
        reasons = []
        for disk in made.disks:
            if why := _unsure(disk, is_linked):
                reasons.append(f"{disk.target or 'a disk'}: {why.id}: {why.message}")
            elif isinstance(disk, Transition):
                sure.append(disk)
        after = transform(document, made._replace(disks=tuple(sure)))
    except XmlkitError as error:
        return Passed(xml, reasons=(str(error),))
    return Passed(after.source, tuple(each.target for each in sure), tuple(reasons))


def _unsure(disk: Transition | Skip, is_linked: Callable[[str, str], bool]) -> Reason | None:
    """Why the disk stays as it is; None if it is to be a volume, or never was to be one."""
    if isinstance(disk, Skip):
        network = disk.reason.id == "source-type" and disk.address.type not in ("file", "block")
        return None if network or disk.reason.id in _QUIET else disk.reason
    if disk.reason is not None:
        return disk.reason
    if not disk.verified:
        return Reason("no-volume", f"nobody has seen that {disk.after} exists")
    before, after = disk.before.path or "", disk.after.path or ""
    if disk.action == "move" and not is_linked(before, after):
        return Reason("other-image", f"{after} is not a second name of {before}")
    return None
