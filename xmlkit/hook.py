"""What libvirt's hook at the destination of a migration makes of the incoming XML.

Laws
- Pure, and without libvirt: a hook that calls libvirt back waits for the daemon that waits for it.
- Only to volumes that the host file lists; what is not sure passes through byte for byte, with the
  reason.
- It changes the live XML alone. The persistent XML that comes with the migration keeps its paths,
  so the old names have to stay until the domain has been defined anew at the destination.
"""

from __future__ import annotations

from typing import NamedTuple

from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.host import Host
from xmlkit.plan import Skip, plan
from xmlkit.transformers import transform

__all__ = ["HookError", "Passed", "incoming"]


class HookError(XmlkitError):
    """What comes in cannot be rewritten; the message says why."""


class Passed(NamedTuple):
    """What goes on to libvirt, and what is to be logged of it.

    xml: the bytes; those that came in if no disk is rewritten. rewritten: targets of the disks that
    are volumes now. reasons: why each other disk stays as it is.
    """

    xml: bytes
    rewritten: tuple[str, ...]
    reasons: tuple[str, ...]


# Disks that never were to become volumes: no reason to tell of.
_QUIET = frozenset(("already", "empty", "source-type", "cinder", "config-drive"))


def incoming(xml: bytes, host: Host) -> Passed:
    """The XML of a domain that is about to arrive, with the disks on volumes that are here already.

    host: of the destination, observed after the images came into its pools. Raises DocumentError,
    PlanError, HookError.

    Source: libvirt's docs/hooks.rst, "migrate begin": the XML that the hook prints replaces the one
    that came.
    """
    document = Document.parse(xml)
    if document.kind != "domain":
        raise HookError(f"not a domain but a <{document.kind}>")
    made = plan(document, host, live=True, arrived=True)
    sure = [each for each in made.transitions if each.after.type == "volume" and each.verified]
    reasons = [
        f"{each.target}: {each.reason.id}: {each.reason.message}"
        for each in made.disks
        if each not in sure
        and each.reason is not None
        and not (isinstance(each, Skip) and each.reason.id in _QUIET)
    ]
    after = transform(document, made._replace(disks=tuple(sure)))
    return Passed(after.source, tuple(each.target for each in sure), tuple(reasons))
