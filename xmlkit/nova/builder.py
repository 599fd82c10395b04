"""The config builder: a guest's XML with its disks on volumes, and back on paths.

Laws
- No Nova is imported; what comes in is text, bytes, an lxml element, or a config object of Nova's
  (anything with `format_dom()`), and it is never changed.
- Pure: which pools and volumes there are is what the Host says.
- Text comes out as it went in, but for the disks' addresses; so does a tree.
- A disk that Nova's backends put into the instance's directory is rewritten only if its volume has
  been seen. A disk that is not sure stays, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from lxml import etree

from xmlkit.disks import read_domain
from xmlkit.document import Document, Edit, Limits
from xmlkit.host import Host
from xmlkit.plan import STAYS, Plan, Reason, Skip, Transition, plan
from xmlkit.transformers import address_to_address, transform
from xmlkit.validation.verdict import Finding

__all__ = ["Rewritten", "to_paths", "to_volumes"]

# What Nova and libvirt give is as large as it is.
_LIMITS = Limits(markup=1 << 30)


class FormatsDom(Protocol):
    """A config object of Nova's: nova.virt.libvirt.config.LibvirtConfigObject."""

    def format_dom(self) -> etree._Element:
        """The object as a new lxml element."""


Guest = str | bytes | etree._Element | FormatsDom
T = TypeVar("T")


@dataclass(frozen=True)
class Rewritten(Generic[T]):
    """What became of a guest's XML.

    result: of the kind that came in; a new tree for an element and for an object with
    `format_dom()`. plan: what was decided for each disk; `transform(..., plan.inverse())` undoes
    it byte for byte. findings: what an operator should know of: a disk that this host keeps on
    its path, and one that could have been rewritten but is not.
    """

    result: T
    plan: Plan
    findings: tuple[Finding, ...]

    @property
    def changes(self) -> tuple[Transition, ...]:
        """The disks that have another address now."""
        return tuple(each for each in self.plan.transitions if each.changes)

    @property
    def skips(self) -> tuple[Skip, ...]:
        """The disks that stay as they are, each with its reason."""
        return self.plan.skips


def to_volumes(guest: Guest, host: Host, *, live: bool = False) -> Rewritten[Any]:
    """The guest with each disk on a volume whose image lies in one of the host's pools.

    A disk in the instance's directory gets the volume `{uuid}_{name}` if exactly one active pool of
    `host` lists it; one that lies in a pool gets the volume that it is, if that is listed. live:
    this is the XML of a running guest, for the host that it migrates to; libvirt's index and
    detected backing chain go from the disks that change.

    Raises DocumentError if it cannot be read, PlanError if it is no domain, TypeError if it is
    neither text nor a tree.
    """
    document, again = _read(guest)
    # nothing is moved: the image is where it is, whatever virt-aa-helper may read there
    made = plan(document, host, "volume", live=live, arrived=True, accept=("apparmor",))
    made = made._replace(disks=tuple(map(_sure, made.disks)))
    return Rewritten(again(transform(document, made)), made, tuple(_findings(document, made)))


def to_paths(guest: Guest, host: Host) -> Rewritten[Any]:
    """The guest with each volume disk on the path of its volume: what Nova's readers understand.

    The inverse of `to_volumes` for disks that lay in the pool. It may run: nothing but the address
    changes. A volume that `host` does not list stays, with a finding.

    Raises as `to_volumes` does.
    """
    document, again = _read(guest)
    # it is read: that a block job runs, as it does during a snapshot, makes the path no other one
    made = plan(document, host, "path", live=True, accept=("mirror",))
    made = made._replace(disks=tuple(_sure(_kept_live(each)) for each in made.disks))
    disks = {disk.target: disk for disk in read_domain(document).disks}
    edits: list[Edit] = []
    for each in made.transitions:
        edits += address_to_address(disks[each.target], each)
    after = document.edited(edits) if edits else document
    return Rewritten(again(after), made, tuple(_findings(document, made)))


def _read(guest: Guest) -> tuple[Document, Callable[[Document], Any]]:
    """The guest as a document, and what gives a document back in the guest's own kind."""
    if isinstance(guest, str):
        # a str has no encoding, whatever it declares
        return Document.parse(guest, _LIMITS), lambda document: document.text
    if isinstance(guest, bytes):
        return Document.parse(guest, _LIMITS), lambda document: document.source
    if not isinstance(guest, etree._Element):
        if not hasattr(guest, "format_dom"):
            raise TypeError(
                f"{type(guest).__name__} is no guest: give its XML as str or bytes, an lxml "
                "element, or an object with format_dom()"
            )
        guest = guest.format_dom()
    source = etree.tostring(guest, encoding="UTF-8", with_tail=False)
    return Document.parse(source, _LIMITS), lambda document: document.root


def _sure(disk: Transition | Skip) -> Transition | Skip:
    """A transition to a volume that nobody has seen is none."""
    if isinstance(disk, Skip) or disk.verified:
        return disk
    seen = disk.after if disk.after.type == "volume" else disk.before
    reason = Reason("no-volume", f"nobody has seen that {seen} exists")
    return Skip(disk.target, disk.before, disk.format, reason)


def _kept_live(disk: Transition | Skip) -> Transition | Skip:
    """What libvirt has filled in stays: it is read, not started."""
    return disk._replace(live=False) if isinstance(disk, Transition) else disk


def _findings(document: Document, made: Plan) -> Iterator[Finding]:
    elements = {disk.target: disk.element for disk in read_domain(document).disks}
    for each in made.disks:
        if each.reason is None or (isinstance(each, Skip) and each.reason.id in STAYS):
            continue
        element = elements.get(each.target)
        place = document.root if element is None else element
        yield Finding(
            each.reason.id,
            "warning",
            f"{each.target or 'a disk'}: {each.reason.message}",
            *document.place_of(place),
            place.getroottree().getpath(place),
        )
