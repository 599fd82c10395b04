"""Markup as text: finding tags, reading and rewriting a start tag, quoting a value.

Laws
- "<" can stand in a document only where markup begins, so splitting at markup loses nothing.
- A start tag that is rewritten keeps the order, the quotes and the white space of its attributes.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

from xmlkit.parsing import DocumentError

__all__ = [
    "ATTRIBUTE",
    "CDATA",
    "MARKUP",
    "blank_before",
    "encoded",
    "first_quote",
    "impossible",
    "name_of",
    "quoted",
    "retagged",
    "start_tag",
    "starts_of",
    "tag_at",
    "with_attribute",
]

# Tags, comments, CDATA sections and processing instructions: the odd parts of MARKUP.split().
MARKUP = re.compile(
    r"(<(?:[^\"'>!?][^\"'>]*(?:\"[^\"]*\"[^\"'>]*|'[^']*'[^\"'>]*)*"
    r"|!--.*?--|!\[CDATA\[.*?\]\]|\?.*?\?)>)",
    re.DOTALL,
)
# White space, name, "=" and value of an attribute.
ATTRIBUTE = re.compile(r"(\s(?<!\s\s)\s*)([^\s=/>]+)(\s*=\s*)(\"[^\"]*\"|'[^']*')")
CDATA = "<![CDATA["

_NAME = re.compile(r"<[^\s/>]+")
_QUOTE = re.compile(r"=\s*([\"'])")
_NOTHING = ("", "", "", "")
# What XML has no way to write; slow to compile, so this is left to the first that is not printable.
_IMPOSSIBLE = r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]"


@cache
def start_tag(name: str) -> re.Pattern[str]:
    """What the start tags of elements of this name begin with."""
    return re.compile(rf"<{re.escape(name)}[\s/>]")


def starts_of(text: str, name: str) -> list[int]:
    """Where the start tags of elements of this name begin, in a text without comments or CDATA."""
    opening = f"<{name}"
    starts = []
    at = text.find(opening)
    while at >= 0:
        after = at + len(opening)
        if text[after] in " \t\r\n/>":
            starts.append(at)
        at = text.find(opening, after)
    return starts


def first_quote(text: str, at: int) -> str:
    """The quotes of the first attribute from `at` on."""
    first = _QUOTE.search(text, at)
    return "'" if first is None else first.group(1)


def blank_before(text: str, at: int) -> str:
    """The white space in front of the markup at `at`."""
    between = text[text.rfind(">", 0, at) + 1 : at]
    return between[len(between.rstrip(" \t\r\n")) :]


def name_of(tag: str) -> str:
    """The name in a start tag, with its prefix."""
    match = _NAME.match(tag)
    assert match is not None
    return match.group()[1:]


def tag_at(text: str, at: int) -> str:
    """The markup that begins at `at`."""
    match = MARKUP.match(text, at)
    assert match is not None
    return match.group()


def retagged(tag: str, new: dict[str, str | None], quote: str = "'") -> str:
    """The start tag `tag` with some attributes set or, where None, taken away; uses `new` up.

    New ones take the place of the first that goes, else they come last. Their quotes are the
    tag's; `quote` in a tag without attributes.
    """
    # start of the tag, then white space, name, "=", value and nothing for each attribute, end
    written = ATTRIBUTE.split(tag)
    end = written.pop()
    if written:
        quote = written[4][0]
    else:
        start = len(name_of(tag)) + 1
        written, end = [tag[:start]], tag[start:]
    place, space = 0, " "
    for i in range(1, len(written), 5):
        name = written[i + 1]
        if name not in new:
            continue
        value = new.pop(name)
        if value is not None:
            written[i + 3] = quoted(value, written[i + 3][0])
        else:
            if not place:
                place, space = i, written[i]
            written[i : i + 4] = _NOTHING
    if new:
        added = [f"{space}{n}={quoted(v, quote)}" for n, v in new.items() if v is not None]
        place = place or len(written)
        written[place:place] = added
    written.append(end)
    return "".join(written)


@lru_cache(maxsize=512)
def with_attribute(tag: str, name: str, value: str | None, quote: str) -> str:
    """`retagged` for one attribute: the disks of all guests have few different start tags."""
    return retagged(tag, {name: value}, quote)


def encoded(text: str, encoding: str) -> bytes:
    """The text of a document in its encoding; references for what the encoding lacks.

    Raises DocumentError where no reference can stand: in names, comments and CDATA sections.
    """
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        pass
    for markup in MARKUP.split(text)[1::2]:
        # of a start tag all but the values
        fixed = markup if markup[1] in "/!?" else ATTRIBUTE.sub(r"\1\2", markup)
        try:
            fixed.encode(encoding)
        except UnicodeEncodeError as error:
            lacking = fixed[error.start]
            raise DocumentError(
                f"{lacking!r} cannot be written in {encoding} within {fixed[:40]!r}: "
                "save the document as UTF-8"
            ) from None
    return text.encode(encoding, "xmlcharrefreplace")


def impossible(text: str) -> str:
    """The first character of `text` that no XML can have, "" without one."""
    found = None if text.isprintable() else re.search(_IMPOSSIBLE, text)
    return found.group() if found else ""


def quoted(value: str, quote: str = "'") -> str:
    """An attribute's value as it stands in a start tag, quotes and all.

    Raises DocumentError for characters that XML cannot have.
    """
    plain = "&" not in value and "<" not in value and quote not in value
    if plain and value.isprintable():
        return f"{quote}{value}{quote}"
    if found := impossible(value):
        raise DocumentError(f"no XML can have the character {found!r} of {value!r}")
    value = value.replace("&", "&amp;").replace("<", "&lt;")
    value = value.replace("\t", "&#9;").replace("\n", "&#10;").replace("\r", "&#13;")
    return quote + value.replace(quote, "&quot;" if quote == '"' else "&apos;") + quote
