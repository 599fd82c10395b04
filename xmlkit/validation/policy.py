"""Policy: what a storage document that libvirt shall create has to say, beyond libvirt's schemas.

Laws
- The rules are the assertions of schemas/*.xsd; here is only how they are asked.
- xmlschema, which is slow to import, is imported here alone and only when a policy is asked for.
- Nothing that a document names is read: no schema of its own, no file, no network.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from lxml import etree

from xmlkit import shipped
from xmlkit.document import Document
from xmlkit.validation.findings import Finding

if TYPE_CHECKING:
    from xmlschema import XMLSchema11, XMLSchemaValidationError

__all__ = ["POLICIES", "Policy", "policy"]

Policy = Literal["storage", "nova"]
POLICIES: tuple[Policy, ...] = ("storage", "nova")

_ANNOTATION = "{0}annotation/{0}".format("{http://www.w3.org/2001/XMLSchema}")
_INSTANCE = "{http://www.w3.org/2001/XMLSchema-instance}"


def policy(document: Document, name: Policy) -> tuple[Finding, ...]:
    """What the policy `name` refuses in `document`, in the document's order; empty if nothing.

    storage: volumes, pools, and the disks of domains, snapshots and checkpoints; nova: the same,
    and the names of Nova's volumes. A document of another kind has nothing that could be refused.
    The policy does not say that the document is valid: ask `validate` as well.
    """
    schema = _schema(name)
    root: Any = document.root  # xmlschema's types know only the standard library's trees
    if document.kind not in schema.elements:
        return ()
    foreign = [
        element
        for element in document.root.iter(etree.Element)
        if any(str(attribute).startswith(_INSTANCE) for attribute in element.attrib)
    ]
    if foreign:
        # they say which rules shall hold, which is not for the document to say
        message = "an attribute of XML Schema (xsi:), which no document of libvirt's has"
        return tuple(
            Finding("policy-instance", "error", message, *_place(document, element))
            for element in foreign
        )
    try:
        errors = list(schema.iter_errors(root, use_location_hints=False))
    except BaseException:
        # after a RecursionError a schema was seen to accept whatever came next
        _schema.cache_clear()
        raise
    found = {finding: None for error in errors for finding in _findings(document, error)}
    return tuple(sorted(found, key=lambda finding: (finding.line, finding.column)))


@cache
def _schema(name: Policy) -> XMLSchema11:
    import xmlschema

    path = f"{shipped.directory('schemas')}/{name}.xsd"
    return xmlschema.XMLSchema11(path, allow="local", use_fallback=False)


def _findings(document: Document, error: XMLSchemaValidationError) -> Iterator[Finding]:
    """One for each element that the assertion's appinfo leads to from the asserted one."""
    element: Any = error.elem
    validator: Any = error.validator
    asserted = validator.elem
    rule = asserted.get("id", "").partition(".")[0]
    where = asserted.findtext(f"{_ANNOTATION}appinfo") or "."
    message = " ".join(asserted.findtext(f"{_ANNOTATION}documentation", "").split())
    assert rule, error
    for place in element.xpath(where) or [element]:
        yield Finding(rule, "error", message, *_place(document, place))


def _place(document: Document, element: etree._Element) -> tuple[int, int, str]:
    line, column = document.place_of(element)
    return line, column, element.getroottree().getpath(element)
