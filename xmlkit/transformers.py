"""The functions that rewrite a `<disk>`, the tuple that orders them, and transform().

Laws
- A transformer decides nothing and changes nothing: it says the edits that the transition means.
- Everything that is not the address stays: startupPolicy, seclabel, encryption, slices, siblings.
- Applied twice is applied once; a plan's inverse gives the original bytes back.
- A disk that is neither as the plan found it nor as it leaves it is refused.

To add one: a function (disk, transition) that yields edits, its place in TRANSFORMERS, a fixture, a test.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from xml.sax.saxutils import quoteattr

from lxml import etree

from xmlkit.disks import PATH_ATTRIBUTES, Address, Disk, read, read_domain
from xmlkit.document import Document, Edit, InsertBefore, Remove, Replace, SetAttributes
from xmlkit.plan import Plan, PlanError, Transition

__all__ = ["TRANSFORMERS", "transform"]

_NO_ADDRESS = dict.fromkeys(("file", "dev", "fdgroup", "pool", "volume", "mode"))


def implied_format_to_stated(disk: Disk, transition: Transition) -> Iterator[Edit]:
    """`<driver type>` where there is none: what is raw by omission is said to be raw.

    A volume disk without it boots as raw whatever the volume is (libvirt 7.0 to 12.8).
    """
    if disk.format is not None:
        return
    driver = disk.children.get("driver")
    if driver is None:
        yield InsertBefore(
            next(iter(disk.children.values())), "driver", {"type": transition.format}
        )
    else:
        yield SetAttributes(driver, {"type": transition.format})


def live_to_inactive(disk: Disk, transition: Transition) -> Iterator[Edit]:
    """Without what libvirt fills into a running domain: index and the detected backing chain."""
    if transition.live:
        yield SetAttributes(disk.children["source"], {"index": None})
        if "backingStore" in disk.children:
            yield Remove(disk.children["backingStore"])


def address_to_address(disk: Disk, transition: Transition) -> Iterator[Edit]:
    """The disk's type and the attributes of `<source>` that say where the content is."""
    address = _attributes_of(transition.after)
    yield SetAttributes(disk.element, {"type": transition.after.type})
    yield SetAttributes(disk.children["source"], _NO_ADDRESS | address)


TRANSFORMERS = (implied_format_to_stated, live_to_inactive, address_to_address)


def transform(domain: Document, plan: Plan) -> Document:
    """The domain with each planned disk rewritten; the rest of it byte for byte as it was.

    Raises PlanError if the plan is for another domain, or a planned disk is gone or has been
    changed since.
    """
    transitions = [transition for transition in plan.transitions if transition.changes]
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
        edits += _edits(disk, transition)
    return domain.edited(edits) if edits else domain


def _edits(disk: Disk, transition: Transition) -> Iterator[Edit]:
    if not transition.undo:
        return chain.from_iterable(each(disk, transition) for each in TRANSFORMERS)
    if _is_what_the_plan_made(disk, transition):
        return iter((Replace(disk.element, transition.span),))
    return address_to_address(disk, transition)


def _is_what_the_plan_made(disk: Disk, transition: Transition) -> bool:
    """Whether the disk is just what the transition made out of its span, and nobody's since."""
    prefixes = " ".join(
        f"xmlns:{prefix}={quoteattr(uri)}" for prefix, uri in disk.element.nsmap.items() if prefix
    )
    was = Document.parse(f"<was {prefixes}>{transition.span}</was>")
    made = was.edited(_edits(read(was.root[0]), transition.inverse())).root[0]
    return _canonical(made) == _canonical(disk.element)


def _canonical(element: etree._Element) -> bytes:
    return etree.tostring(element, method="c14n", exclusive=True, with_tail=False)


def _attributes_of(address: Address) -> dict[str, str | None]:
    if address.type == "volume":
        return {"pool": address.pool, "volume": address.volume}
    return {PATH_ATTRIBUTES[address.type]: address.path}
