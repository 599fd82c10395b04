"""Snapshots, checkpoints and managed saves: the domain XML inside them gets the new addresses too.

Laws
- They embed the domain as it was; a disk that is in it at another place than the plan found it
  stays as it is.
- They are redefined over, never removed: libvirt keeps their state (DEFINE over what is there).
"""

from __future__ import annotations

from typing import Any

from xmlkit.disks import read_domain, shared_targets
from xmlkit.document import Document, Edit, Replace
from xmlkit.plan import Plan, Transition
from xmlkit.transformers import transform

__all__ = ["is_saved", "names_of", "redefine", "rewritten"]


def rewritten(document: Document, plan: Plan) -> Document:
    """A `<domainsnapshot>`, `<domaincheckpoint>` or `<domain>` with the plan's addresses.

    The disks of an embedded domain are indented otherwise than the domain's own, so only their
    addresses count. Raises PlanError if the domain within is another one.
    """
    if document.kind == "domain":
        return transform(document, _plan_for(document, plan))
    edits: list[Edit] = []
    for name in ("domain", "inactiveDomain"):
        for element in document.root.iterchildren(name):
            text = document.text_of(element)
            # it is a domain all the same, and transform() takes nothing else
            inner = Document.parse(_renamed(text, name, "domain"), document.limits)
            made = transform(inner, _plan_for(inner, plan))
            if made is not inner:
                edits.append(Replace(element, _renamed(made.text, "domain", name)))
    return document.edited(edits) if edits else document


def redefine(domain: Any, kind: str, name: str, plan: Plan) -> None:
    """Define a domain's snapshot, checkpoint or managed save anew with the plan's addresses.

    kind: "snapshot", "checkpoint" or "managed-save". Does nothing if that is so already, or if
    somebody has removed it since. Raises libvirtError, PlanError.

    Source: virDomainSnapshotCreateXML with REDEFINE (0.9.5), virDomainCheckpointCreateXML with
    REDEFINE (5.6.0), virDomainManagedSaveDefineXML (3.7.0).
    """
    import libvirt

    try:
        _redefine(domain, kind, name, plan)
    except libvirt.libvirtError as error:
        gone = (libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT, libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT)
        if error.get_error_code() not in gone:
            raise


def _redefine(domain: Any, kind: str, name: str, plan: Plan) -> None:
    import libvirt

    if kind == "managed-save":
        if not is_saved(domain):
            return
        xml = domain.managedSaveGetXMLDesc(libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
        document = Document.parse(xml)
        made = rewritten(document, plan)
        if made is not document:
            domain.managedSaveDefineXML(made.text, 0)
        return
    if kind == "checkpoint":
        xml = domain.checkpointLookupByName(name).getXMLDesc(
            libvirt.VIR_DOMAIN_CHECKPOINT_XML_SECURE
        )
        document = Document.parse(xml)
        made = rewritten(document, plan)
        if made is not document:
            domain.checkpointCreateXML(made.text, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)
        return
    snapshot = domain.snapshotLookupByName(name)
    document = Document.parse(snapshot.getXMLDesc(libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE))
    made = rewritten(document, plan)
    if made is not document:
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
        if snapshot.isCurrent():
            # redefined without it, no snapshot would be the current one any more
            flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT
        domain.snapshotCreateXML(made.text, flags)


def names_of(domain: Any) -> tuple[tuple[str, str], ...]:
    """(kind, name) of all of a domain's snapshots, checkpoints and its managed save."""
    import libvirt

    found = [("snapshot", each.getName()) for each in domain.listAllSnapshots()]
    try:
        found += [("checkpoint", each.getName()) for each in domain.listAllCheckpoints()]
    except libvirt.libvirtError as error:
        # a driver or a version without checkpoints has none
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
    if is_saved(domain):
        found.append(("managed-save", ""))
    return tuple(found)


def is_saved(domain: Any) -> bool:
    """Whether a domain has a managed save image, which its next start restores."""
    import libvirt

    try:
        return bool(domain.hasManagedSaveImage())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return False
        raise


def _plan_for(document: Document, plan: Plan) -> Plan:
    """The plan without the disks that this document has not, or has elsewhere."""
    domain = read_domain(document)
    shared = shared_targets(domain.disks)
    here = {disk.target: disk for disk in domain.disks if disk.target not in shared}
    fitting = []
    for each in plan.disks:
        disk = here.get(each.target)
        if isinstance(each, Transition) and disk is not None:
            known = disk.address.same(each.before) or disk.address.same(each.after)
            if known and disk.image_format == each.format:
                index = disk.children["source"].get("index")
                live = document.root.get("id") is not None or index is not None
                fitting.append(each._replace(span="", live=live))
    return plan._replace(disks=tuple(fitting))


def _renamed(text: str, old: str, new: str) -> str:
    """An element's text under another name; it ends with its end tag, as libvirt writes it."""
    return f"<{new}{text[len(old) + 1 : text.rindex('</')]}</{new}>"
