"""The verdict: whether a document is valid against libvirt's schema, by libxml2.

Laws
- libxml2 decides; on libvirt's grammars it has never been seen to err.
- What it refuses is explained by a walk of our own over the same schema; what that needs is
  imported only then.
- Never silence: where the walk finds nothing, libxml2's words are the findings, and a note says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from lxml import etree

from xmlkit.document import Document, DocumentError
from xmlkit.validation import grammar, profiles, schemas
from xmlkit.validation.findings import Finding, xpath_of
from xmlkit.validation.profiles import Profile, volume_sources

if TYPE_CHECKING:
    from xmlkit.validation.walk import Fault

__all__ = ["EXPLAINED", "Finding", "faults", "homes", "unreadable", "valid", "validate"]

# Bytes of the largest document that is explained, in some 2 s at most: libvirt's own are thousands
# of times smaller. What an explanation costs beside grows with tags, which `Limits` bounds.
EXPLAINED = 16 << 20


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
    Raises SchemaError if the schema is not there, ProfileError for a profile that is none.
    """
    if profile is not None:
        profiles.check(profile)
    found = _judged(document, schemas.directory(directory))
    if profile is not None:
        found += tuple(_refused(document))
    return found


def faults(
    root: etree._Element, directory: str | os.PathLike[str] | None = None
) -> tuple[Fault, ...]:
    """All that is wrong with a tree by libvirt's schema for its root, with no repair tried.

    Empty if libxml2 finds it valid, or if that is all that finds something. directory, raises:
    as for `validate`.
    """
    from xmlkit.validation import rng
    from xmlkit.validation.walk import Walk

    if valid(root, directory):
        return ()
    grammars = _grammars(root, schemas.directory(directory))
    told = [
        tuple(Walk(rng.grammar(meant.directory, meant.schema, meant.references), root).faults())
        for meant in grammars
    ]
    return min(told, key=len) if told else ()


def valid(root: etree._Element, directory: str | os.PathLike[str] | None = None) -> bool:
    """Whether a tree is valid by libvirt's schema for its root. Raises as `validate` does."""
    found = schemas.directory(directory)
    return any(meant.compiled().validate(root) for meant in _grammars(root, found))


def homes(
    document: Document,
    element: etree._Element,
    directory: str | os.PathLike[str] | None = None,
) -> frozenset[str]:
    """The names ({uri}local) of those that may hold an element of `document` just as it is.

    They are those of the schema, whether the document has such or not. directory, raises: as for
    `validate`.
    """
    from xmlkit.validation import rng
    from xmlkit.validation.judge import Judge

    found: set[str] = set()
    for meant in _grammars(document.root, schemas.directory(directory)):
        judge = Judge(rng.grammar(meant.directory, meant.schema, meant.references))
        for parent, child in judge.grammar.places_of(judge.name(element)):
            if judge.valid(element, child):
                found.update(parent.names.known())
    return frozenset(found)


class _Grammar(NamedTuple):
    """What a document is judged by: a schema, or defines of it in place of its start."""

    directory: str
    schema: str
    references: tuple[str, ...] = ()
    tag: str = ""

    def compiled(self) -> etree.RelaxNG:
        if self.tag:
            return grammar.compiled(self.directory, self.tag)
        return schemas.compiled(self.directory, self.schema)


def _judged(document: Document, directory: str) -> tuple[Finding, ...]:
    root = document.root
    refused: list[tuple[_Grammar, etree.RelaxNG, Iterable[etree._LogEntry]]] = []
    for meant in _grammars(root, directory):
        schema = meant.compiled()
        if schema.validate(root):
            return ()
        refused.append((meant, schema, schema.error_log))
    if not refused:
        refused = list(_in_no_namespace(root, directory))
    if refused:
        # of two that could be meant the nearer one is told, of two as near the likelier
        return min((_explained(document, *each) for each in refused), key=len)
    kinds = dict.fromkeys([*schemas.SCHEMAS, *grammar.devices(directory)])
    from xmlkit.validation.words import near

    known = near(etree.QName(root).localname, kinds)[:3]
    return (
        Finding(
            "unknown-kind",
            "error",
            f"libvirt has no schema for <{document.kind}>"
            + (f"; did you mean <{known[0]}>?" if known else ""),
            *document.place_of(root),
            xpath_of(root),
            expected=tuple(dict.fromkeys([*known, *kinds])),
            suggestions=tuple(known),
            name=etree.QName(root).localname,
        ),
    )


def _explained(
    document: Document, meant: _Grammar, schema: etree.RelaxNG, errors: Iterable[etree._LogEntry]
) -> tuple[Finding, ...]:
    """What is wrong with a document that libxml2 has refused; if nothing is found, its words."""
    told, why = _told(document, meant, schema)
    if told:
        return told
    found = {(entry.path or "", entry.message): None for entry in errors}
    unexplained = Finding(
        "unexplained",
        "note",
        f"libxml2 refuses the document, but {why}",
        *document.place_of(document.root),
        xpath_of(document.root),
    )
    return (*(_finding(document, path, message) for path, message in found), unexplained)


def _told(
    document: Document, meant: _Grammar, schema: etree.RelaxNG
) -> tuple[tuple[Finding, ...], str]:
    """The findings of the walk; if there are none, why not."""
    if len(document.source) > EXPLAINED:
        return (), "it is too large to tell why: of more than 16 MiB only its words are told"
    from xmlkit.validation import rng
    from xmlkit.validation.diagnosis import diagnosed

    try:
        patterns = rng.grammar(meant.directory, meant.schema, meant.references)
        told = diagnosed(document, patterns, schema)
        if any(finding.id in _OF_NAMES for finding in told):
            told = _with_newer(document, meant, told)
    except RecursionError:
        return (), "it is nested too deep to tell why"
    except schemas.SchemaError as error:
        # libxml2 can use the schema all the same
        return (), str(error)
    return told, "nothing wrong with it was found here: the two disagree"


# What a newer libvirt may know.
_OF_NAMES = frozenset(
    (
        *("unknown-element", "misspelled-element", "misplaced"),
        *("unknown-attribute", "misspelled-attribute", "bad-value"),
    )
)


def _with_newer(
    document: Document, meant: _Grammar, told: tuple[Finding, ...]
) -> tuple[Finding, ...]:
    """The findings, with the first newer libvirt that finds nothing there, as far as is at hand."""
    from xmlkit.validation import rng
    from xmlkit.validation.walk import Walk

    for version, directory in schemas.newer(meant.directory):
        references = meant.references and grammar.devices(directory).get(meant.tag, ())
        try:
            newer = rng.grammar(directory, meant.schema, references)
            left = {
                (xpath_of(fault.node), fault.name) for fault in Walk(newer, document.root).faults()
            }
        except schemas.SchemaError:
            continue
        told = tuple(
            replace(finding, message=f"{finding.message}; libvirt {version} knows it", fixes=())
            if finding.id in _OF_NAMES
            and (finding.xpath.partition("/@")[0], finding.name) not in left
            and "; libvirt " not in finding.message
            else finding
            for finding in told
        )
    return told


def _in_no_namespace(
    root: etree._Element, directory: str
) -> Iterator[tuple[_Grammar, etree.RelaxNG, Iterable[etree._LogEntry]]]:
    """What the document is meant for if its root's namespace is a mistake."""
    name = etree.QName(root)
    if name.namespace:
        plain = root.makeelement(name.localname, dict(root.attrib))
        for meant in _grammars(plain, directory):
            yield meant, meant.compiled(), []


def _grammars(root: etree._Element, directory: str) -> tuple[_Grammar, ...]:
    """Those that the document may be meant for, the likelier first."""
    return _grammars_of(str(root.tag), root.get("name") is not None, directory)


@lru_cache(maxsize=100)
def _grammars_of(tag: str, named: bool, directory: str) -> tuple[_Grammar, ...]:
    found = []
    name = schemas.SCHEMAS.get(tag)
    if name is not None and (tag != "interface" or named):
        found.append(_Grammar(directory, name))
    if (name is None or tag == "interface") and tag in grammar.devices(directory):
        found.append(_Grammar(directory, "domain", grammar.devices(directory)[tag], tag))
    if tag == "interface" and not named:
        found.append(_Grammar(directory, schemas.SCHEMAS[tag]))
    return tuple(found)


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
    """The finding for a file that could not be read as a document, with the likely cause."""
    from xmlkit.validation.words import cause

    place = max(error.line, 1), max(error.column, 1)
    return Finding("not-well-formed", "error", cause(error.reason), *place, "/")


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
