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

from xmlkit.disks import PATH_ATTRIBUTES, Address, Disk, Domain, read, read_domain, shared_targets
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

__all__ = ["TRANSFORMERS", "address_to_address", "transform"]

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
    _refuse_another(now, plan)
    found = {disk.target: disk for disk in now.disks}
    shared = shared_targets(now.disks)
    is_live = domain.root.get("id") is not None
    edits: list[Edit] = []
    for transition in transitions:
        disk = found.get(transition.target)
        if disk is None or transition.target in shared:
            how = "no disk {} any more" if disk is None else "two disks {}"
            raise PlanError(f"the domain has {how.format(transition.target)}: plan again")
        if is_live and not transition.live:
            raise PlanError("this is the XML of a running domain, the plan is not for that")
        as_planned = not transition.undo and transition.span == domain.text_of(disk.element)
        if as_planned or _is_to_do(domain, disk, transition):
            edits += _edits(disk, transition, domain.limits)
    return domain.edited(edits) if edits else domain


def _is_to_do(domain: Document, disk: Disk, transition: Transition) -> bool:
    """Whether a disk that is written otherwise than when it was planned for still is the same.

    False if it is where the transition leads. Raises PlanError if it has changed.
    """
    if disk.address.same(transition.after):
        return False
    target = transition.target
    if not disk.address.same(transition.before):
        raise PlanError(
            f"disk {target} is at {disk.address}, not at {transition.before} as the plan says: "
            "plan again"
        )
    if disk.image_format != transition.format:
        raise PlanError(
            f"disk {target} is {disk.image_format}, not {transition.format} as the plan says: "
            "plan again"
        )
    # without a span, as where a secret stood in it, there is no more to compare
    if not transition.undo and transition.span:
        was = _disk_in(transition.span, disk, domain.limits)
        if was is None or _canonical(was.root[0]) != _canonical(disk.element):
            raise PlanError(f"disk {target} has changed since the plan: plan again")
    return True


def _refuse_another(now: Domain, plan: Plan) -> None:
    if (plan.uuid != now.uuid) if plan.uuid and now.uuid else (plan.name != now.name):
        raise PlanError(
            f"the plan is for domain {plan.name} ({plan.uuid or 'no UUID'}), not for {now.name} "
            f"({now.uuid or 'no UUID'})"
        )


def _disk_in(span: str, disk: Disk, limits: Limits) -> Document | None:
    """A document around the one `<disk>` of a span, with the prefixes of the disk's own place."""
    prefixes = " ".join(
        f"xmlns:{prefix}={quoted(uri)}" for prefix, uri in disk.element.nsmap.items() if prefix
    )
    try:
        document = Document.parse(f"<was {prefixes}>{span}</was>", limits)
    except DocumentError:
        return None
    return document if [child.tag for child in document.root] == ["disk"] else None


def _edits(disk: Disk, transition: Transition, limits: Limits) -> list[Edit]:
    if not transition.undo:
        return [edit for each in TRANSFORMERS for edit in each(disk, transition)]
    if _is_what_the_plan_made(disk, transition, limits):
        return [Replace(disk.element, transition.span)]
    return list(address_to_address(disk, transition))


def _is_what_the_plan_made(disk: Disk, transition: Transition, limits: Limits) -> bool:
    """Whether the disk is just what the transition made out of its span, and nobody's since."""
    was = _disk_in(transition.span, disk, limits)
    if was is None:
        return False
    original = read(was.root[0])
    if not original.address.same(transition.after):
        return False
    made = was.edited(_edits(original, transition.inverse(), limits)).root[0]
    return _canonical(made) == _canonical(disk.element)


def _canonical(element: etree._Element) -> bytes:
    alone = copy.deepcopy(element)
    alone.tail = None
    try:
        return etree.tostring(alone, method="c14n", exclusive=True)
    except etree.C14NError:
        # it cannot have relative namespace names
        return etree.tostring(alone)


def _attributes_of(address: Address) -> dict[str, str | None]:
    if address.type == "volume":
        return {"pool": address.pool, "volume": address.volume}
    return {PATH_ATTRIBUTES[address.type]: address.path}
