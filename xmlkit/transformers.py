"""The functions that rewrite a `<disk>`, the tuple that orders them, and transform().

Laws
- A transformer decides nothing and changes nothing: it says the edits that the transition means.
- Everything that is not the address stays: startupPolicy, seclabel, encryption, slices, siblings.
- Applied twice is applied once; a plan's inverse gives the original bytes back.
- A disk that is neither as the plan found it nor as it leaves it is refused.

To add one: a function (disk, transition) that returns edits, its place in TRANSFORMERS, a fixture,
a test.
"""

from __future__ import annotations

import copy

from lxml import etree

from xmlkit.disks import PATH_ATTRIBUTES, Address, Disk, read, read_domain
from xmlkit.document import (
    Document,
    DocumentError,
    Edit,
    InsertBefore,
    Limits,
    Remove,
    Replace,
    SetAttributes,
)
from xmlkit.markup import quoted
from xmlkit.plan import Plan, PlanError, Transition

__all__ = ["TRANSFORMERS", "transform"]

# What goes from <source> with the old address, by the disk's type.
_GOES: dict[str, dict[str, str | None]] = {
    "file": {"file": None},
    "block": {"dev": None},
    "volume": {"pool": None, "volume": None, "mode": None},
}


def implied_format_to_stated(disk: Disk, transition: Transition) -> tuple[Edit, ...]:
    """`<driver type>` where there is none: what is raw by omission is said to be raw.

    A volume disk without it boots as raw whatever the volume is (libvirt 7.0 to 12.8).
    """
    if disk.format is not None:
        return ()
    stated: dict[str, str | None] = {"type": transition.format}
    driver = disk.children.get("driver")
    if driver is not None:
        return (SetAttributes(driver, stated),)
    first = next(disk.element.iterchildren(etree.Element))
    return (InsertBefore(first, "driver", stated),)


def live_to_inactive(disk: Disk, transition: Transition) -> tuple[Edit, ...]:
    """Without what libvirt fills into a running domain: index and the detected backing chain."""
    if not transition.live:
        return ()
    without_index = SetAttributes(disk.children["source"], {"index": None})
    backing = disk.children.get("backingStore")
    return (without_index,) if backing is None else (without_index, Remove(backing))


def address_to_address(disk: Disk, transition: Transition) -> tuple[Edit, ...]:
    """The disk's type and the attributes of `<source>` that say where the content is."""
    after = transition.after
    source = _GOES[disk.address.type] | _attributes_of(after)
    return (
        SetAttributes(disk.element, {"type": after.type}),
        SetAttributes(disk.children["source"], source),
    )


TRANSFORMERS = (implied_format_to_stated, live_to_inactive, address_to_address)


def transform(domain: Document, plan: Plan) -> Document:
    """The domain with each planned disk rewritten; the rest of it byte for byte as it was.

    Raises PlanError if the plan is for another domain, or a planned disk is gone or has been
    changed since.
    """
    transitions = [t for t in plan.disks if isinstance(t, Transition) and t.changes]
    if not transitions:
        return domain
    now = read_domain(domain)
    if plan.uuid and now.uuid and plan.uuid != now.uuid:
        raise PlanError(f"the plan is for domain {plan.name} ({plan.uuid}), not for {now.uuid}")
    found = {disk.target: disk for disk in now.disks}
    edits: list[Edit] = []
    for transition in transitions:
        disk = found.get(transition.target)
        if disk is None:
            raise PlanError(f"the domain has no disk {transition.target} any more: plan again")
        if disk.address.same(transition.after):
            continue
        if not disk.address.same(transition.before):
            raise PlanError(
                f"disk {transition.target} is at {disk.address}, not at {transition.before} as "
                "the plan says: plan again"
            )
        if disk.image_format != transition.format:
            raise PlanError(
                f"disk {transition.target} is {disk.image_format}, not {transition.format} as the "
                "plan says: plan again"
            )
        edits += _edits(disk, transition, domain.limits)
    return domain.edited(edits) if edits else domain


def _edits(disk: Disk, transition: Transition, limits: Limits) -> list[Edit]:
    if not transition.undo:
        return [edit for each in TRANSFORMERS for edit in each(disk, transition)]
    if _is_what_the_plan_made(disk, transition, limits):
        return [Replace(disk.element, transition.span)]
    return list(address_to_address(disk, transition))


def _is_what_the_plan_made(disk: Disk, transition: Transition, limits: Limits) -> bool:
    """Whether the disk is just what the transition made out of its span, and nobody's since."""
    prefixes = " ".join(
        f"xmlns:{prefix}={quoted(uri)}" for prefix, uri in disk.element.nsmap.items() if prefix
    )
    try:
        was = Document.parse(f"<was {prefixes}>{transition.span}</was>", limits)
    except DocumentError:
        return False
    disks = [read(child) for child in was.root]
    if len(disks) != 1 or not disks[0].address.same(transition.after):
        return False
    made = was.edited(_edits(disks[0], transition.inverse(), limits)).root[0]
    return _canonical(made) == _canonical(disk.element)


def _canonical(element: etree._Element) -> bytes:
    return etree.tostring(copy.deepcopy(element), method="c14n", exclusive=True)


def _attributes_of(address: Address) -> dict[str, str | None]:
    if address.type == "volume":
        return {"pool": address.pool, "volume": address.volume}
    return {PATH_ATTRIBUTES[address.type]: address.path}
