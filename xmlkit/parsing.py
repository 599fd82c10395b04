"""Reading a document's bytes: hardened, since input is hostile.

Laws
- No DOCTYPE, hence no entities; no network; bounded size, depth and markup.
- Only encodings that libxml2 and Python read alike, so that the text that is shown and edited is
  the text that was parsed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lxml import etree

from xmlkit.errors import XmlkitError

__all__ = ["MIB", "DocumentError", "Limits", "parsed", "place", "read"]

MIB = 1024 * 1024

_BEFORE_ROOT = re.compile(rb"\xef\xbb\xbf|\s+|<\?.*?\?>|<!--.*?-->", re.DOTALL)
# UTF-8's first bytes of characters beyond the basic plane, and beyond Latin-1.
_ASTRAL = re.compile(rb"[\xf0-\xff]")
_WIDE = re.compile(rb"[\xc4-\xef]")
_DECLARED = re.compile(r"\ufeff?<\?xml\s[^>]*?\bencoding\s*=\s*[\"']([A-Za-z0-9._-]+)")

# Python's name of an encoding -> what libxml2 is told to read, whatever the document declares.
_CODECS = {
    "utf-8": "UTF-8",
    "ascii": "US-ASCII",
    "iso8859-1": "ISO-8859-1",
    "utf-16-le": "UTF-16LE",
    "utf-16-be": "UTF-16BE",
}


class DocumentError(XmlkitError, ValueError):
    """The input cannot be read as a document.

    Fields: `reason` (what is wrong and what to do), `line` and `column` (from 1; 0 where it is
    not about a place), `file` (its name, if the caller set one).
    """

    def __init__(self, reason: str, line: int = 0, column: int = 0, file: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line
        self.column = column
        self.file = file

    def __str__(self) -> str:
        place = self.file
        if self.line:
            place += f":{self.line}:{self.column}" if place else f"line {self.line}"
        return f"{place}: {self.reason}" if place else self.reason


@dataclass(frozen=True, slots=True)
class Limits:
    """What a document may cost before it is refused.

    depth: nesting of elements, 900 at most; size: bytes; markup: tags and attributes together,
    which is what a parsed document's memory grows with (some 250 bytes each).
    """

    depth: int = 256
    size: int = 64 * MIB
    markup: int = 150_000

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 900:
            raise ValueError(f"the depth limit must be from 1 to 900, not {self.depth}")


def read(source: bytes | str, limits: Limits) -> tuple[bytes, str, etree._Element]:
    """The bytes of a document, Python's name of their encoding, and its root.

    Raises DocumentError: not well-formed, a DOCTYPE, an encoding that is not supported, or larger
    or deeper than `limits`.
    """
    if isinstance(source, str):
        source = _encoded(source)
    size = len(source)
    if size > limits.size:
        raise DocumentError(
            f"larger than {limits.size / MIB:g} MiB: raise the limit (--max-size) if need be"
        )
    encoding = _encoding_of(source)
    if size > limits.size // 4 and size * _width(source, encoding) > limits.size:
        raise DocumentError(
            f"takes more than {limits.size / MIB:g} MiB in memory, where one character beyond "
            "Latin-1 makes all of them two or four bytes: raise the limit (--max-size) if need be"
        )
    if size > limits.markup and source.count(b"<") + source.count(b"=") > limits.markup:
        raise DocumentError(
            f"more than {limits.markup:,} tags and attributes: "
            "raise the limit (--max-markup) if need be"
        )
    # Almost no document has the word: the prolog is walked only where it occurs at all.
    if b"!" in source and "<!DOCTYPE".encode(encoding) in source:
        _refuse_doctype(source, encoding)
    return source, encoding, parsed(source, encoding, limits)


def _width(source: bytes, encoding: str) -> int:
    """How many bytes of memory a byte of the document takes at the most, as Python's text."""
    if "16" in encoding:
        return 2
    if encoding != "utf-8":
        return 1
    return 4 if _ASTRAL.search(source) else 2 if _WIDE.search(source) else 1


def _encoded(source: str) -> bytes:
    declared = _DECLARED.match(source)
    name = declared.group(1) if declared else "utf-8"
    try:
        return source.removeprefix("\ufeff").encode(name)
    except LookupError:
        raise DocumentError(f"unknown encoding {name!r}: save the file as UTF-8", 1, 1) from None
    except UnicodeEncodeError as error:
        raise DocumentError(f"not representable in the declared encoding: {error}") from None


def _encoding_of(source: bytes) -> str:
    """Python's name of the encoding, from the byte order mark, the first "<" or the declaration."""
    if source[:1] == b"<" and source[1:2] not in (b"?", b"\0"):
        return "utf-8"
    start = source[:200]
    if start.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff", b"<\0\0\0", b"\0\0\0<")):
        raise DocumentError("is UTF-32: save the file as UTF-8", 1, 1)
    if start.startswith((b"\xff\xfe", b"<\0")):
        encoding = "utf-16-le"
    elif start.startswith((b"\xfe\xff", b"\0<")):
        encoding = "utf-16-be"
    else:
        encoding = "utf-8"
    head = start.decode("latin-1" if encoding == "utf-8" else encoding, "replace")
    declared = _DECLARED.match(head.removeprefix("\xef\xbb\xbf"))
    if not declared:
        return encoding
    wanted = declared.group(1).lower().replace("_", "-")
    if encoding != "utf-8":
        fits = wanted in ("utf-16", encoding, encoding.replace("16-", "16"))
    else:
        marked = start.startswith(b"\xef\xbb\xbf")
        known = {"utf-8": "utf-8", "utf8": "utf-8"}
        if not marked:
            known |= {"iso-8859-1": "iso8859-1", "latin1": "iso8859-1", "latin-1": "iso8859-1"}
            known |= {"us-ascii": "ascii", "ascii": "ascii"}
        fits = wanted in known
        encoding = known.get(wanted, encoding)
    if not fits:
        raise DocumentError(
            f"declares encoding {declared.group(1)!r}, which is not how it is written or not one "
            "of UTF-8, UTF-16, ISO-8859-1 and US-ASCII: save the file as UTF-8",
            1,
            1,
        )
    return encoding


def _refuse_doctype(source: bytes, encoding: str) -> None:
    # UTF-16 is the one that regular expressions over bytes cannot read
    start = source.decode(encoding, "replace").encode() if "16" in encoding else source
    at = 0
    while (found := _BEFORE_ROOT.match(start, at)) is not None:
        at = found.end()
    if start.startswith(b"<!DOCTYPE", at):
        line, column = place(start[:at].decode("utf-8", "replace"), at)
        raise DocumentError(
            "has a DOCTYPE, which libvirt's documents do not need and which is refused because "
            "it can define entities: remove it",
            line,
            column,
        )


def place(text: str, at: int) -> tuple[int, int]:
    """Line and column, from 1, of the character at `at`; a byte order mark is none."""
    line = text.count("\n", 0, at) + 1
    column = min(at, len(text)) - text.rfind("\n", 0, at)
    return line, column - (line == 1 and text.startswith("\ufeff"))


_parsers: dict[tuple[str, bool], etree.XMLParser] = {}


def parsed(source: bytes, encoding: str, limits: Limits) -> etree._Element:
    """The root of a document that `read` has found to be harmless. Raises DocumentError."""
    deep = limits.depth > 256
    parser = _parsers.get((encoding, deep))
    if parser is None:
        parser = _parsers[encoding, deep] = etree.XMLParser(
            encoding=_CODECS[encoding],
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            dtd_validation=False,
            collect_ids=False,
            huge_tree=deep,
        )
    try:
        root = etree.fromstring(source, parser)
    except etree.XMLSyntaxError as error:
        line, column = error.position
        reason = (error.msg or "not well-formed").split(", line ")[0].strip()
        if "Excessive depth" in reason:
            reason = f"elements nested more than {limits.depth} deep"
        elif "Unregistered" in reason:
            reason = "a section that does not end"
        elif reason.startswith("Entity "):
            # not by its name, which may be part of a password with a bare "&"
            reason = "an entity that is not defined: write & as &amp;"
        elif "Resource limit" in reason or "too big" in reason:
            reason = "a text, tag or comment of more than 10 million characters"
        raise DocumentError(f"not well-formed: {reason}", line or 1, max(column, 1)) from None
    if limits.depth != 256 and _deeper_than(root, limits.depth):
        raise DocumentError(f"elements nested more than {limits.depth} deep")
    return root


def _deeper_than(root: etree._Element, limit: int) -> bool:
    depth = 0
    for event, _ in etree.iterwalk(root, events=("start", "end")):
        depth += 1 if event == "start" else -1
        if depth > limit:
            return True
    return False
