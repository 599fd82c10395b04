"""Is a document of a test valid, and does it say the same as another one?

Laws
- What libvirt reads is compared, as `xmlkit compare` does it, and never the text.
- A failed check tells all that is wrong, a line each, without secrets.
- What is masked stays valid: a UUID becomes a UUID, a MAC a MAC.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol
from xml.etree import ElementTree

from lxml import etree

from xmlkit.compare import CompareError, compare, in_words
from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.printable import printable
from xmlkit.validation.profiles import Profile
from xmlkit.validation.shown import shown
from xmlkit.validation.verdict import validate

__all__ = [
    "MASKED_MAC",
    "MASKED_UUID",
    "Given",
    "GivenError",
    "Matcher",
    "assert_same_domain",
    "assert_valid_domain",
    "differences",
    "document_of",
    "faults",
    "masked",
    "masked_document",
    "named",
]

MASKED_MAC = "52:54:00:00:00:00"
MASKED_UUID = "00000000-0000-0000-0000-000000000000"

_UUID = re.compile(
    r"(?<![0-9a-fA-F])[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}(?![0-9a-fA-F])"
)
_MAC = re.compile(r"(?<![0-9a-fA-F:])(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}(?![0-9a-fA-F:])")


class FormatsDom(Protocol):
    """A config object of Nova's: nova.virt.libvirt.config.LibvirtConfigObject."""

    def format_dom(self) -> etree._Element:
        """The object as a new lxml element."""


Given = Document | str | bytes | etree._Element | ElementTree.Element | FormatsDom
# As syrupy has them: called with `data`, an attribute's value or an element's text, and `path`,
# the names down to it, each with a type: ("domain", ...), ("uuid", ...), or at last ("@type", ...).
Matcher = Callable[..., Any]


class GivenError(XmlkitError):
    """What a test gave is no XML of any kind; `type` names what it is."""

    def __init__(self, given: object) -> None:
        self.type = type(given).__name__
        super().__init__(
            f"{self.type} is no libvirt XML: give it as str or bytes, as an element of lxml or "
            "ElementTree, or as an object with format_dom()"
        )


def document_of(given: Given) -> Document:
    """What a test has made, as a document.

    Text and bytes stay as they are. A tree, and an object with `format_dom()`, is written; one
    without any white space gets an element a line.
    Raises DocumentError if it cannot be read, GivenError if it is none of these.
    """
    if isinstance(given, Document):
        return given
    if isinstance(given, str | bytes):
        return Document.parse(given)
    if isinstance(given, ElementTree.Element):
        given = etree.fromstring(ElementTree.tostring(given))
    elif not isinstance(given, etree._Element):
        if not hasattr(given, "format_dom"):
            raise GivenError(given)
        given = given.format_dom()
    if not any(each.tail or (len(each) and each.text) for each in given.iter()):
        given = copy.deepcopy(given)
        etree.indent(given)
    return Document.parse(etree.tostring(given, encoding="unicode", with_tail=False))


def masked(
    *,
    uuids: bool = False,
    macs: bool = False,
    paths: Mapping[str | os.PathLike[str], str] = MappingProxyType({}),
) -> Matcher:
    """A matcher that makes the same of what is another one in each run.

    uuids: each UUID with hyphens becomes `MASKED_UUID`, also within a path. macs: each MAC becomes
    `MASKED_MAC`. paths: by a directory (or a file) what shall stand in its place, such as
    `{tmp_path: "/srv"}`; what follows it stays.
    """
    places = {os.fspath(path).rstrip("/"): new for path, new in paths.items()}
    rules = [
        # a longer one is not taken for the shorter one that it begins with
        (re.compile(rf"(?<![\w.-]){re.escape(place)}(?![\w.-])"), places[place])
        for place in sorted(places, key=len, reverse=True)
    ]
    rules += [(_UUID, MASKED_UUID)] if uuids else []
    rules += [(_MAC, MASKED_MAC)] if macs else []

    def matcher(*, data: Any, path: object = ()) -> Any:
        if not isinstance(data, str):
            return data
        for pattern, new in rules:
            data = pattern.sub(new.replace("\\", r"\\"), data)
        return data

    return matcher


def masked_document(document: Document, matcher: Matcher | None) -> Document:
    """The document with each attribute and each text as `matcher` gives it back.

    Everything else stays as it is written. None of them is masked by None.
    """
    if matcher is None:
        return document
    tree = document.tree()
    paths: dict[etree._Element, tuple[tuple[str, type], ...]] = {}
    for element in tree.iter(etree.Element):
        parent = element.getparent()
        above = () if parent is None else paths[parent]
        paths[element] = path = (*above, (etree.QName(element).localname, etree._Element))
        for name, value in element.attrib.items():
            at = (*path, (f"@{etree.QName(name).localname}", str))
            new = str(matcher(data=value, path=at))
            if new != value:
                element.set(name, new)
        # what follows a child is text of its parent
        for each, attribute in ((element, "text"), *((child, "tail") for child in element)):
            text = getattr(each, attribute)
            if text and text.strip() and (new := str(matcher(data=text, path=path))) != text:
                setattr(each, attribute, new)
    return document.lay(tree)


def faults(
    document: Document,
    schemas: str | os.PathLike[str] | None = None,
    profile: Profile | None = None,
) -> tuple[str, ...]:
    """What is wrong with a document by libvirt's schemas: lines to be shown, none if it is valid.

    schemas, profile: as for `xmlkit.validate`. Raises SchemaError if there are no schemas,
    ProfileError for a profile that is none.
    """
    findings = validate(document, schemas, profile=profile)
    if not findings:
        return ()
    lines: list[str] = []
    for finding, excerpt in zip(*shown(document, findings), strict=True):
        said = f"{finding.message} [{finding.id}] {finding.xpath}".replace("\n", "\\n")
        lines.append(f"{finding.line}:{finding.column}: {finding.severity}: {printable(said)}")
        if excerpt.text.strip():
            lines.append(f"    {printable(excerpt.text.strip())}")
    return tuple(lines)


def differences(old: Document, new: Document, *, ignore_defaults: bool = False) -> tuple[str, ...]:
    """What differs, as `xmlkit compare` prints it: lines to be shown, none if nothing does.

    Documents of two kinds differ, too.
    """
    try:
        found = compare(old, new, ignore_defaults=ignore_defaults)
    except CompareError as error:
        return (f"{error.old} -> {error.new}: a document of another kind",)
    return tuple("{} {}: {}".format(*in_words(difference)) for difference in found)


def assert_valid_domain(
    given: Given,
    *,
    schemas: str | os.PathLike[str] | None = None,
    profile: Profile | None = None,
) -> None:
    """Fail unless it is a domain, and valid by libvirt's schemas.

    Parameters:
        given: text, bytes, a tree or a config object of Nova's.
        schemas: a directory or a version, without it those of the libvirt that is installed.
        profile: what the domain must not have besides, such as `no-volume-disks`.

    Raises AssertionError with all that is wrong; DocumentError if it cannot be read, SchemaError
    if there are no schemas, ProfileError for a profile that is none.
    """
    __tracebackhide__ = True
    document = _domain(given)
    if lines := faults(document, schemas, profile):
        raise AssertionError("\n".join((f"{named(document)} is not valid:", *lines)))


def assert_same_domain(
    expected: Given,
    actual: Given,
    *,
    ignore_defaults: bool = False,
    matcher: Matcher | None = None,
) -> None:
    """Fail unless libvirt reads the same in two domains, however they are written.

    Parameters:
        expected, actual: text, bytes, trees or config objects of Nova's.
        ignore_defaults: a default that only one of them spells is no difference.
        matcher: what is masked in both, such as `masked(uuids=True)`.

    Raises AssertionError with all that differs, as `xmlkit compare` prints it; DocumentError if
    one cannot be read.
    """
    __tracebackhide__ = True
    old, new = _domain(expected, matcher), _domain(actual, matcher)
    if lines := differences(old, new, ignore_defaults=ignore_defaults):
        raise AssertionError("\n".join((f"{named(new)} is not as expected:", *lines)))


def _domain(given: Given, matcher: Matcher | None = None) -> Document:
    __tracebackhide__ = True
    document = masked_document(document_of(given), matcher)
    if document.kind != "domain":
        raise AssertionError(f"<{printable(document.kind)}> is no domain")
    return document


def named(document: Document) -> str:
    """A document as a message names it: "domain guest", or its kind alone."""
    return printable(" ".join(filter(None, (document.kind, document.name))))
