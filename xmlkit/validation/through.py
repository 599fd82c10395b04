"""Through libvirt: what libvirt silently drops or changes of a document that it accepts.

Laws
- Nothing is defined where it could stay or be seen: a document is defined by libvirt's test
  driver, which lives in this process, on a node of its own that is thrown away after it.
- On any other connection nothing is defined or changed, it is read-only: the document is compared
  with what is defined there under its UUID, or its name.
- What libvirt adds is no finding, nor what it reports and never takes.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from lxml import etree

from xmlkit.compare import Difference, lost_at
from xmlkit.document import Document, Limits, SetAttributes
from xmlkit.markup import ATTRIBUTE, quoted, tag_at
from xmlkit.observe import opened, without_password
from xmlkit.parsing import place
from xmlkit.redaction import HIDDEN
from xmlkit.validation.findings import Finding, xpath_of
from xmlkit.validation.schemas import SCHEMAS

__all__ = ["through_libvirt"]

# Around a lone device: what a domain has at the least.
_AROUND = (
    "<domain type='test'><name>device</name><memory>1024</memory><os><type>hvm</type></os>"
    "<devices>",
    "</devices></domain>",
)
# Types of a domain for which it can stand in.
_LIKE_QEMU = frozenset(("qemu", "kvm", "hvf", "test"))
# The pool that a volume goes into.
_POOL = "<pool type='dir'><name>pool</name><target><path>/pool</path></target></pool>"
# What the test driver makes up, or sets by the pool: no definition could say it.
_OWN = frozenset(
    (
        *("/pool/capacity", "/pool/allocation", "/pool/available"),
        *("/volume/key", "/volume/target/path"),
    )
)
# Where a kind is looked up on a connection: by UUID and by name.
_LOOKUPS = {
    "domain": ("lookupByUUIDString", "lookupByName"),
    "network": ("networkLookupByUUIDString", "networkLookupByName"),
    "pool": ("storagePoolLookupByUUIDString", "storagePoolLookupByName"),
    "filter": ("nwfilterLookupByUUIDString", "nwfilterLookupByName"),
    "interface": ("", "interfaceLookupByName"),
}
_INACTIVE = {"domain": "VIR_DOMAIN_XML_INACTIVE", "network": "VIR_NETWORK_XML_INACTIVE"}
_INACTIVE |= {"pool": "VIR_STORAGE_XML_INACTIVE", "interface": "VIR_INTERFACE_XML_INACTIVE"}
# libvirt's errors that say that there is no such thing there, or no driver for it.
_ABSENT = (
    *("NO_DOMAIN", "NO_NETWORK", "NO_STORAGE_POOL", "NO_NWFILTER", "NO_INTERFACE"),
    *("NO_SUPPORT", "INVALID_ARG"),
)
# What libvirt gives is as large as it is.
_LIMITS = Limits(markup=1 << 30, size=1 << 30)
_SEVERITIES: Mapping[str, Literal["error", "warning", "note"]] = {
    "libvirt-changed": "warning",
    "libvirt-dropped": "warning",
    "libvirt-not-asked": "note",
    "libvirt-refused": "error",
}
_ATTRIBUTE_OF = re.compile(r"/@([^/\]]+)$")


class _NotAsked(Exception):
    """Why libvirt cannot be asked about a document."""


class _Refused(Exception):
    """libvirt's own words on why it does not take a document."""


def through_libvirt(document: Document, uri: str | None = None) -> tuple[Finding, ...]:
    """What libvirt drops or changes of a document, in the document's order.

    uri: of a connection on which it is defined already; nothing is changed there. Without one the
    document is defined by libvirt's test driver, in this process and for a moment: a domain (as
    one of type "test"), a network, a pool, a volume, a host's interface, or a lone device.

    Returns findings libvirt-dropped and libvirt-changed (warnings), libvirt-refused (an error), or
    libvirt-not-asked (a note). Raises LibvirtError: libvirt-python is missing, or the connection
    fails. Source: virDomainDefineXML and its like, virDomainGetXMLDesc; libvirt's test driver.
    """
    try:
        asked, got = _tried(document) if uri is None else (document, _defined_at(document, uri))
    except _NotAsked as reason:
        return (_found("libvirt-not-asked", document, document.root, str(reason)),)
    except _Refused as refused:
        return (_found("libvirt-refused", document, document.root, str(refused)),)
    return tuple(_findings(document, asked, got, uri))


def _tried(document: Document) -> tuple[Document, Document]:
    """A document as libvirt's test driver was asked for it, and as that gives it back."""
    asked = _as_asked(document)
    # without the declaration, which need not be true of what libvirt is given
    text = asked.text_of(asked.root)
    with tempfile.NamedTemporaryFile(prefix="xmlkit-", suffix=".xml") as node:
        # each such node is one of its own, and gone when the connection is
        node.write(b"<node/>")
        node.flush()
        with opened(f"test://{node.name}", write=True) as connection:
            import libvirt

            try:
                got = _defined(connection, asked.kind, text)
            except libvirt.libvirtError as error:
                message = str(error.get_error_message() or error)
                if error.get_error_code() in (
                    libvirt.VIR_ERR_NO_SUPPORT,
                    libvirt.VIR_ERR_INVALID_ARG,
                ):
                    # of arguments it has but one: a kind of guest that it does not know
                    raise _NotAsked(f"libvirt's test driver cannot tell: {message}") from None
                raise _Refused(f"libvirt refuses this: {message}") from None
    return asked, Document.parse(got, _LIMITS)


def _as_asked(document: Document) -> Document:
    kind = document.kind
    if kind == "domain":
        type_ = document.root.get("type", "")
        if type_ not in _LIKE_QEMU:
            raise _NotAsked(f"libvirt's test driver stands in for QEMU's, not for type {type_!r}")
        # the one type that it has
        return document.edited([SetAttributes(document.root, {"type": "test"})])
    if kind in ("network", "pool", "volume") or (kind == "interface" and document.root.get("name")):
        return document
    if kind in SCHEMAS and kind != "interface":
        raise _NotAsked(f"libvirt's test driver cannot define a <{kind}>")
    body = document.text_of(document.root)
    return Document.parse(_AROUND[0] + body + _AROUND[1], _LIMITS)


def _defined(connection: Any, kind: str, text: str) -> str:
    """What the test driver makes of it. Raises libvirtError."""
    import libvirt

    if kind == "domain":
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        return str(connection.defineXML(text).XMLDesc(flags))
    if kind == "network":
        return str(connection.networkDefineXML(text).XMLDesc())
    if kind == "pool":
        return str(connection.storagePoolDefineXML(text).XMLDesc())
    if kind == "interface":
        return str(connection.interfaceDefineXML(text).XMLDesc())
    pool = connection.storagePoolDefineXML(_POOL)
    pool.create()
    return str(pool.createXML(text).XMLDesc())


def _defined_at(document: Document, uri: str) -> Document:
    """What is defined at `uri` under the document's UUID, or its name if it has none."""
    kind, root = document.kind, document.root
    if kind not in _LOOKUPS or (kind == "interface" and root.get("name") is None):
        raise _NotAsked(f"a <{kind}> cannot be looked up on a connection")
    by_uuid, by_name = _LOOKUPS[kind]
    uuid = (root.findtext("uuid") or root.get("uuid") or "").strip() if by_uuid else ""
    name = document.name or root.get("name", "")
    if not uuid and not name:
        raise _NotAsked(f"the {kind} has neither a UUID nor a name")
    with opened(uri) as connection:
        import libvirt

        absent = {getattr(libvirt, f"VIR_ERR_{each}") for each in _ABSENT}
        try:
            found = getattr(connection, by_uuid if uuid else by_name)(uuid or name)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in absent:
                raise
            raise _NotAsked(
                f"there is no {kind} {uuid or name} at {without_password(uri)} to compare with"
            ) from None
        flag = _INACTIVE.get(kind)
        return Document.parse(found.XMLDesc(getattr(libvirt, flag) if flag else 0), _LIMITS)


def _findings(
    document: Document, asked: Document, got: Document, uri: str | None
) -> Iterator[Finding]:
    first = asked.root if asked.kind == document.kind else asked.root.find("devices/*")
    assert first is not None
    originals = dict(zip(first.iter(etree.Element), document.root.iter(etree.Element), strict=True))
    where = "libvirt" if uri is None else f"libvirt at {without_password(uri)}"
    for difference, about in lost_at(asked, got):
        element = originals.get(about)
        if element is None or (uri is None and difference.where in _OWN):
            continue
        whole = difference.new is None and _ATTRIBUTE_OF.search(difference.where) is None
        if whole and element is document.root and about is not asked.root:
            message = f"libvirt's domains have no device <{_name(element)}>"
            yield _found("libvirt-not-asked", document, element, message)
            continue
        if uri is not None and difference.old == HIDDEN:
            # a read-only connection does not show passwords
            continue
        if uri is None and _is_foreign(element):
            if element.getparent() is document.root:
                message = f"libvirt's test driver does not read <{_name(element)}>"
                yield _found("libvirt-not-asked", document, element, message)
            continue
        yield _of(document, element, difference, where)


def _of(document: Document, element: etree._Element, lost: Difference, where: str) -> Finding:
    attribute = _ATTRIBUTE_OF.search(lost.where)
    name = attribute.group(1) if attribute else ""
    if attribute:
        old = f"{name}={quoted(lost.old or '')}"
        new = f"{name}={quoted(lost.new or '')}"
    else:
        old, new = lost.old or "", lost.new or ""
        if lost.new is None and not old.startswith("<"):
            old = f"the text {old!r}"
    if lost.action == "removed":
        return _found("libvirt-dropped", document, element, f"{where} drops {old}", name)
    message = f"{where} changes {old} to {new}"
    return _found("libvirt-changed", document, element, message, name)


def _is_foreign(element: etree._Element) -> bool:
    """Whether it belongs to a driver: in a namespace, and not metadata."""
    above = [element, *element.iterancestors()]
    return any(str(each.tag).startswith("{") for each in above) and not any(
        each.tag == "metadata" for each in above
    )


def _name(element: etree._Element) -> str:
    local = etree.QName(element).localname
    return f"{element.prefix}:{local}" if element.prefix else local


def _found(
    id: str, document: Document, element: etree._Element, message: str, attribute: str = ""
) -> Finding:
    line, column = document.place_of(element)
    xpath = xpath_of(element)
    if attribute:
        xpath += f"/@{attribute}"
        start = document.span_of(element)[0]
        for each in ATTRIBUTE.finditer(tag_at(document.text, start)):
            if each.group(2) == attribute:
                line, column = place(document.text, start + each.start(2))
    name = attribute or _name(element)
    return Finding(id, _SEVERITIES[id], message, line, column, xpath, name=name)
