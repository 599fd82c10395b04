"""The verdict: whether a document is valid against libvirt's schema, by libxml2.

Laws
- libxml2 decides; on libvirt's grammars it has never been seen to err.
- All that it says becomes findings, each with the place in the bytes that it is about.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from lxml import etree

from xmlkit.document import Document, DocumentError
from xmlkit.validation import schemas

__all__ = ["Finding", "unreadable", "validate"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found in a document.

    id: of `xmlkit explain`. line, column: from 1, of the element it is about. xpath: positional.
    expected, suggestions: what could stand there, nearest first.
    """

    id: str
    severity: Literal["error", "warning", "note"]
    message: str
    line: int
    column: int
    xpath: str
    expected: tuple[str, ...] = ()
    suggestions: tuple[str, ...] = ()


def validate(
    document: Document, directory: str | os.PathLike[str] | None = None
) -> tuple[Finding, ...]:
    """What is wrong with `document` by libvirt's schema for its root; empty if it is valid.

    directory: of the schemas; without it they are found as `schemas.directory` says.
    Raises SchemaError if the schema is not there.
    """
    root = document.root
    name = schemas.SCHEMAS.get(document.kind)
    if name is None:
        return (
            Finding(
                "unknown-kind",
                "error",
                f"libvirt has no schema for <{document.kind}>",
                *document.place_of(root),
                "/" + document.kind,
                expected=tuple(schemas.SCHEMAS),
            ),
        )
    schema = schemas.compiled(schemas.directory(directory), name)
    if schema.validate(root):
        return ()
    found = {(entry.path or "", entry.message): None for entry in schema.error_log}
    return tuple(_finding(document, path, message) for path, message in found)


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
