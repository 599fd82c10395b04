"""The verdict: whether a document is valid against libvirt's schema, by libxml2.

Laws
- libxml2 decides; on libvirt's grammars it has never been seen to err.
- All that it says becomes findings, each with the place in the bytes that it is about.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from lxml import etree

from xmlkit.document import Document, DocumentError
from xmlkit.validation import grammar, schemas
from xmlkit.validation.findings import Finding
from xmlkit.validation.profiles import Profile, volume_sources

__all__ = ["Finding", "unreadable", "validate"]


def validate(
    document: Document,
    directory: str | os.PathLike[str] | None = None,
    *,
    profile: Profile | None = None,
) -> tuple[Finding, ...]:
    """What is wrong with `document` by libvirt's schema for its root; empty if it is valid.

    A lone device (`<disk>`, as attach-device takes it) is judged as it would be in a domain. An
    `<interface>` is valid as a device or as a host's interface; if it is neither, it is judged as
    the latter if it has a name, which a device has not.
    directory: of the schemas, or a version; without it they are found as `schemas.directory`
    says. profile: what the document must not have besides (`profiles.PROFILES`).
    Raises SchemaError if the schema is not there.
    """
    found = _judged(document, schemas.directory(directory))
    if profile is not None:
        found += tuple(_refused(document))
    return found


def _judged(document: Document, directory: str) -> tuple[Finding, ...]:
    root = document.root
    first = None
    for schema in _grammars(root, directory):
        if schema.validate(root):
            return ()
        # of two that could be meant, the likelier one is told
        first = first or schema.error_log
    if first is None:
        kinds = dict.fromkeys([*schemas.SCHEMAS, *grammar.devices(directory)])
        return (
            Finding(
                "unknown-kind",
                "error",
                f"libvirt has no schema for <{document.kind}>",
                *document.place_of(root),
                "/" + document.kind,
                expected=tuple(kinds),
            ),
        )
    found = {(entry.path or "", entry.message): None for entry in first}
    return tuple(_finding(document, path, message) for path, message in found)


def _grammars(root: etree._Element, directory: str) -> Iterator[etree.RelaxNG]:
    """Those that the document may be meant for, the likelier first."""
    tag = str(root.tag)
    name = schemas.SCHEMAS.get(tag)
    if name is not None and (tag != "interface" or root.get("name") is not None):
        yield schemas.compiled(directory, name)
    if (name is None or tag == "interface") and tag in grammar.devices(directory):
        yield grammar.compiled(directory, tag)
    if tag == "interface" and root.get("name") is None:
        yield schemas.compiled(directory, schemas.SCHEMAS[tag])


def _refused(document: Document) -> Iterator[Finding]:
    for element in volume_sources(document.root):
        yield Finding(
            "profile-volume-disk",
            "error",
            "type='volume', which this host cannot have: libvirt is older than 1.0.5, or the "
            "guest could not start",
            *document.place_of(element),
            element.getroottree().getpath(element),
        )


def unreadable(error: DocumentError) -> Finding:
    """The finding for a file that could not be read as a document."""
    return Finding(
        "not-well-formed", "error", error.reason, max(error.line, 1), max(error.column, 1), "/"
    )


def _finding(document: Document, path: str, message: str) -> Finding:
    element = document.root
    try:
        nodes = element.getroottree().xpath(path) if path else []
    except etree.XPathError:
        nodes = []
    if isinstance(nodes, list) and nodes and isinstance(nodes[0], etree._Element):
        element = nodes[0]
    line, column = document.place_of(element)
    xpath = element.getroottree().getpath(element)
    return Finding("schema", "error", message, line, column, xpath)
