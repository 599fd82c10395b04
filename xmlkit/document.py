"""Document: one libvirt XML document as the bytes it came in.

Laws
- A document is its bytes. Its tree is only a way to look at them and to say what shall change.
- What an edit does not touch stays as it was written: quotes, entities, CDATA, comments, line
  breaks inside tags, attribute order, XML declaration, encoding, byte order mark.
- What an edit adds takes the document's quotes, indentation and line ends.
- Input is hostile: no DOCTYPE, hence no entities; no network; bounded depth, size and markup;
  only encodings that libxml2 and Python read alike.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

from lxml import etree

from xmlkit.errors import XmlkitError

__all__ = [
    "Document",
    "DocumentError",
    "Edit",
    "InsertBefore",
    "Limits",
    "Remove",
    "Replace",
    "SetAttributes",
    "quoted",
]

MIB = 1024 * 1024

# "<" can stand in a document only where markup begins, so splitting at markup loses nothing and
# the odd parts are the tags, comments, CDATA sections and processing instructions.
MARKUP = re.compile(
    r"(<(?:[^\"'>!?][^\"'>]*(?:\"[^\"]*\"[^\"'>]*|'[^']*'[^\"'>]*)*"
    r"|!--.*?--|!\[CDATA\[.*?\]\]|\?.*?\?)>)",
    re.DOTALL,
)
_QUOTE = re.compile(r"=\s*([\"'])")
_NAME = re.compile(r"<[^\s/>]+")
ATTRIBUTE = re.compile(r"(\s+)([^\s=/>]+)(\s*=\s*)(\"[^\"]*\"|'[^']*')")
_BEFORE_ROOT = re.compile(r"[\ufeff\s]+|<\?.*?\?>|<!--.*?-->", re.DOTALL)
_DECLARED = re.compile(r"\ufeff?<\?xml\s[^>]*?\bencoding\s*=\s*[\"']([A-Za-z0-9._-]+)")
_SPECIAL = re.compile(r"[&<'\"\t\n\r]")
_CDATA = "<![CDATA["
_XML = "http://www.w3.org/XML/1998/namespace"

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
    markup: int = 250_000

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 900:
            raise ValueError(f"the depth limit must be from 1 to 900, not {self.depth}")


DEFAULT_LIMITS = Limits()


class SetAttributes(NamedTuple):
    """An edit: attributes of an element's start tag, by name as written; None takes one away."""

    element: etree._Element
    values: Mapping[str, str | None]


class InsertBefore(NamedTuple):
    """An edit: a new, empty element in front of another one, with the same indentation."""

    element: etree._Element
    name: str
    values: Mapping[str, str | None]


class Remove(NamedTuple):
    """An edit: an element goes, and the white space in front of it."""

    element: etree._Element


class Replace(NamedTuple):
    """An edit: other XML text in the place of an element."""

    element: etree._Element
    text: str


Edit = SetAttributes | InsertBefore | Remove | Replace


class Document:
    """One XML document; see the module's laws.

    Make one with `Document.parse`. It does not change: an edit makes a new one.
    """

    def __init__(self, source: bytes, encoding: str, root: etree._Element | None, limits: Limits):
        self.source = source
        self._encoding = encoding
        self._limits = limits
        self._root = root
        self._text: str | None = None
        self._plain: bool | None = None
        # names of which each element has an end tag of its own
        self._closed: set[str] = set()
        self._starts: dict[str, dict[etree._Element, int]] = {}
        self._spans: dict[etree._Element | None, tuple[int, int]] = {}
        # what other modules read out of the document, so that they read it once
        self.memo: dict[str, Any] = {}
        self._trees: dict[etree._Element, dict[etree._Element, etree._Element]] = {}

    @classmethod
    def parse(cls, source: bytes | str, limits: Limits = DEFAULT_LIMITS) -> Document:
        """The document that `source` holds.

        A `str` is encoded as its XML declaration says (UTF-8 without one).
        Raises DocumentError: not well-formed, a DOCTYPE, an encoding other than UTF-8, UTF-16,
        Latin-1 or ASCII, or larger or deeper than `limits`.
        """
        if isinstance(source, str):
            source = _encoded(source)
        size = len(source)
        if size > limits.size:
            raise DocumentError(
                f"larger than {limits.size / MIB:g} MiB: raise the limit (--max-size) if need be"
            )
        encoding = _encoding_of(source)
        if size > limits.markup and source.count(b"<") + source.count(b"=") > limits.markup:
            raise DocumentError(
                f"more than {limits.markup:,} tags and attributes: "
                "raise the limit (--max-markup) if need be"
            )
        # Almost no document has the word: the prolog is walked only where it occurs at all.
        if b"!" in source and "<!DOCTYPE".encode(encoding) in source:
            _refuse_doctype(source.decode(encoding, "replace"))
        return cls(source, encoding, _parsed(source, encoding, limits), limits)

    @property
    def root(self) -> etree._Element:
        """The root of the document's own tree. To be read, never edited: edit `tree()`."""
        if self._root is None:
            self._root = _parsed(self.source, self._encoding, self._limits)
        return self._root

    @property
    def kind(self) -> str:
        """The root's name: `domain`, `volume`, `pool`, `domainsnapshot`, ..."""
        return str(self.root.tag)

    @property
    def name(self) -> str | None:
        """The text of the root's `<name>`, None without one."""
        return self.root.findtext("name")

    @property
    def text(self) -> str:
        """The document decoded, byte order mark included."""
        if self._text is None:
            self._text = self.source.decode(self._encoding)
        return self._text

    def text_of(self, element: etree._Element) -> str:
        """One element of `root`, from its start tag to its end tag, as it is written."""
        start, end = self.span_of(element)
        return self.text[start:end]

    def place_of(self, element: etree._Element) -> tuple[int, int]:
        """Line and column, from 1, at which an element of `root` begins."""
        at = self._start(element)
        return self.text.count("\n", 0, at) + 1, at - self.text.rfind("\n", 0, at)

    def edited(self, edits: Iterable[Edit]) -> Document:
        """The document after edits of elements of `root`.

        Several SetAttributes of one element add up; nothing may be edited inside an element that
        is removed or replaced.
        """
        text = self.text
        changes: list[tuple[int, int, str]] = []
        tags: dict[int, dict[str, str | None]] = {}
        for edit in edits:
            at = self._start(edit.element)
            if isinstance(edit, SetAttributes):
                if at in tags:
                    tags[at].update(edit.values)
                else:
                    tags[at] = dict(edit.values)
            elif isinstance(edit, InsertBefore):
                new = _retagged(f"<{edit.name}/>", dict(edit.values), self._quote(at))
                changes.append((at, at, new + _blank_before_markup(text, at)))
            elif isinstance(edit, Remove):
                blank = _blank_before_markup(text, at)
                changes.append((at - len(blank), self.span_of(edit.element)[1], ""))
            else:
                changes.append((at, self.span_of(edit.element)[1], edit.text))
        for at, values in tags.items():
            tag = _tag_at(text, at)
            changes.append((at, at + len(tag), _retagged(tag, values)))
        return self._changed(changes)

    def tree(self) -> etree._Element:
        """A private copy of the tree, to be edited and given to `lay`."""
        root = self.root
        tree = copy.deepcopy(root)
        self._trees[tree] = dict(zip(tree.iter(), root.iter(), strict=True))
        return tree

    def lay(self, tree: etree._Element) -> Document:
        """The document with an edited `tree()` laid over its bytes.

        An element counts as the same if it is the one that `tree()` gave, wherever it stands now;
        a removed one is cut out with its tail; a new one is written in the document's style.
        Raises ValueError if `tree` did not come from this document's `tree()`.
        """
        origins = self._trees.get(tree)
        if origins is None:
            raise ValueError("not a tree of this document: edit the one that tree() returned")
        quote = self._quote(self._start(self.root))
        written = _Writer(self.text_of(self.root), self.root, origins, quote).write(tree)
        return self.edited([Replace(self.root, written)])

    def _changed(self, changes: list[tuple[int, int, str]]) -> Document:
        text = self.text
        pieces: list[str] = []
        at = 0
        for start, end, new in sorted(changes):
            pieces += text[at:start], new
            at = end
        pieces.append(text[at:])
        # What the encoding lacks can only stand in text and attributes, where a reference will do.
        source = "".join(pieces).encode(self._encoding, "xmlcharrefreplace")
        if source == self.source:
            return self
        return Document(source, self._encoding, None, self._limits)

    def _quote(self, at: int) -> str:
        """The quotes of the first attribute from `at` on."""
        first = _QUOTE.search(self.text, at)
        return "'" if first is None else first.group(1)

    def _start(self, element: etree._Element) -> int:
        """Where in `text` the element starts."""
        name = str(element.tag)
        starts = self._starts.get(name)
        if starts is None:
            around = self._spans.get(element.getparent())
            if around is not None and self._plain:
                # the only one of its name within a parent whose place is known
                found = _start_tag(name).search(self.text, *around)
                if found and not _start_tag(name).search(self.text, found.end(), around[1]):
                    return found.start()
            starts = self._starts[name] = self._starts_of(element, name)
        return starts[element]

    def _starts_of(self, element: etree._Element, name: str) -> dict[etree._Element, int]:
        """Where each element of this one's name starts, at the least."""
        text = self.text
        if self._plain is None:
            # without comments, CDATA and instructions each "<name" is the start of an element
            self._plain = ("!" not in text or "<!" not in text) and (
                "?" not in text or text.find("<?", 2) < 0
            )
        if self._plain:
            starts = [match.start() for match in _start_tag(name).finditer(text)]
            if text.count(f"</{name}>") == len(starts):
                self._closed.add(name)
            parent = element.getparent()
            siblings = [] if parent is None else list(parent.iterchildren(name))
            if len(siblings) == len(starts):
                return dict(zip(siblings, starts, strict=True))
            elements = list(self.root.iter(name))
            if len(elements) == len(starts):
                return dict(zip(elements, starts, strict=True))
        if "" not in self._starts:
            found = (match for match in MARKUP.finditer(text) if match.group()[1] not in "/!?")
            starts = [match.start() for match in found]
            self._starts[""] = dict(zip(self.root.iter(etree.Element), starts, strict=True))
        return self._starts[""]

    def span_of(self, element: etree._Element) -> tuple[int, int]:
        """Where in `text` an element of `root` starts and ends, in characters from 0."""
        span = self._spans.get(element)
        if span is None:
            start = self._start(element)
            span = self._spans[element] = (start, self._end(start, str(element.tag)))
        return span

    def _end(self, start: int, name: str) -> int:
        """Where the element of this name that starts at `start` ends."""
        text = self.text
        if name in self._closed:
            end = text.index(f"</{name}>", start)
            if text.find(f"<{name}", start + 1, end) < 0:
                return end + len(name) + 3
        tag = _tag_at(text, start)
        if tag.endswith("/>"):
            return start + len(tag)
        depth = 0
        for match in MARKUP.finditer(text, start):
            markup = match.group()
            if markup[1] == "/":
                depth -= 1
            elif markup[1] not in "!?" and markup[-2] != "/":
                depth += 1
            if depth == 0:
                return match.end()
        raise AssertionError("an element without an end")


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


def _refuse_doctype(text: str) -> None:
    at = 0
    while (found := _BEFORE_ROOT.match(text, at)) is not None:
        at = found.end()
    if text.startswith("<!DOCTYPE", at):
        raise DocumentError(
            "has a DOCTYPE, which libvirt's documents do not need and which is refused because "
            "it can define entities: remove it",
            text.count("\n", 0, at) + 1,
            at - text.rfind("\n", 0, at),
        )


_parsers: dict[tuple[str, bool], etree.XMLParser] = {}


def _parsed(source: bytes, encoding: str, limits: Limits) -> etree._Element:
    deep = limits.depth > 256
    parser = _parsers.get((encoding, deep))
    if parser is None:
        parser = _parsers[encoding, deep] = etree.XMLParser(
            encoding=_CODECS[encoding],
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            dtd_validation=False,
            huge_tree=deep,
        )
    try:
        root = etree.fromstring(source, parser)
    except etree.XMLSyntaxError as error:
        line, column = error.position
        reason = (error.msg or "not well-formed").split(", line ")[0]
        if "Excessive depth" in reason:
            reason = f"elements nested more than {limits.depth} deep"
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


@cache
def _start_tag(name: str) -> re.Pattern[str]:
    return re.compile(rf"<{re.escape(name)}[\s/>]")


def _blank_before_markup(text: str, at: int) -> str:
    """The white space in front of the markup at `at`."""
    between = text[text.rfind(">", 0, at) + 1 : at]
    return between[len(between.rstrip(" \t\r\n")) :]


def _name_of(tag: str) -> str:
    match = _NAME.match(tag)
    assert match is not None
    return match.group()[1:]


def _tag_at(text: str, at: int) -> str:
    match = MARKUP.match(text, at)
    assert match is not None
    return match.group()


def _retagged(tag: str, new: dict[str, str | None], quote: str = "'") -> str:
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
        start = len(_name_of(tag)) + 1
        written, end = [tag[:start]], tag[start:]
    pieces = written[:1]
    place, space = 0, " "
    for i in range(1, len(written), 5):
        name = written[i + 1]
        if name not in new:
            pieces += written[i : i + 4]
        elif (value := new.pop(name)) is not None:
            pieces += written[i : i + 3]
            pieces.append(quoted(value, written[i + 3][0]))
        elif not place:
            place, space = len(pieces), written[i]
    if new:
        added = [f"{space}{n}={quoted(v, quote)}" for n, v in new.items() if v is not None]
        place = place or len(pieces)
        pieces[place:place] = added
    pieces.append(end)
    return "".join(pieces)


def _extents(
    parts: list[str], element: etree._Element
) -> Iterator[tuple[etree._Element, tuple[int, int]]]:
    """Each node of `element` with its first and last part; a node comes when it ends."""
    nodes = element.iter()
    opened: list[tuple[etree._Element, int]] = []
    for i in range(1, len(parts), 2):
        tag = parts[i]
        if not opened and tag[1] in "!?":
            continue  # before or after the root
        if tag[1] == "/":
            node, first = opened.pop()
            yield node, (first, i)
        elif not tag.startswith(_CDATA):
            node = next(nodes)
            if tag[1] in "!?" or tag[-2] == "/":
                yield node, (i, i)
            else:
                opened.append((node, i))


class _Writer:
    """Writes an edited tree over the text of the original."""

    def __init__(
        self,
        text: str,
        element: etree._Element,
        origins: Mapping[etree._Element, etree._Element],
        quote: str,
    ) -> None:
        self.parts = MARKUP.split(text)
        self.extents = dict(_extents(self.parts, element))
        self.origins = origins
        self.quote = quote
        self.out: list[str] = []

    def write(self, tree: etree._Element) -> str:
        self._indent_added(tree)
        self._node(tree)
        return "".join(self.out)

    @cached_property
    def newline(self) -> str:
        return "\r\n" if any("\r\n" in text for text in self.parts[::2]) else "\n"

    def _node(self, node: etree._Element) -> None:
        original = self.origins.get(node)
        first, last = (0, 0) if original is None else self.extents[original]
        if not isinstance(node.tag, str):
            same = original is not None and node.text == original.text
            written = etree.tostring(node, encoding="unicode", with_tail=False)
            self.out.append(self.parts[first] if same else written)
            return
        if original is None:
            start = self._tag(node, None, f"<{_element_name(node)}/>")
        else:
            start = self.parts[first]
            parent = node.getparent()
            moved = parent is not None and original.getparent() is not self.origins.get(parent)
            if node.tag != original.tag or node.items() != original.items() or moved:
                start = self._tag(node, original, start)
        if first == last:
            if not node.text and len(node) == 0:
                self.out.append(start)
                return
            start = start[:-2].rstrip() + ">"
        self.out.append(start)
        self._text(node.text, original, "text", first if first != last else None)
        for child in node:
            self._node(child)
            source = self.origins.get(child)
            self._text(
                child.tail, source, "tail", None if source is None else self.extents[source][1]
            )
        same = original is not None and first != last and node.tag == original.tag
        self.out.append(self.parts[last] if same else f"</{_element_name(node)}>")

    def _text(
        self, text: str | None, original: etree._Element | None, which: str, part: int | None
    ) -> None:
        """The characters after a part: as written, CDATA sections and all, unless they changed."""
        parts = self.parts
        if original is None or part is None or (text or "") != (getattr(original, which) or ""):
            if text:
                text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
                text = text.replace("\r", "&#13;").replace("\n", self.newline)
                self.out.append(text)
            return
        self.out.append(parts[part + 1])
        while part + 2 < len(parts) and parts[part + 2].startswith(_CDATA):
            part += 2
            self.out.append(parts[part] + parts[part + 1])

    def _tag(self, node: etree._Element, original: etree._Element | None, tag: str) -> str:
        """The start tag `tag`, made to say what `node` says."""
        values: dict[str, str | None] = {}
        if original is not None:
            values = {
                _attribute_name(original, str(key)): None
                for key in original.attrib
                if key not in node.attrib
            }
        for key, value in node.items():
            if original is None or original.get(key) != value:
                values[_attribute_name(node, key)] = value
        parent = node.getparent()
        inherited = {} if parent is None else parent.nsmap
        declared = set(re.findall(r"\sxmlns:?([^\s=]*)\s*=", tag))
        for prefix, uri in node.nsmap.items():
            if (prefix or "") not in declared and inherited.get(prefix) != uri:
                values[f"xmlns:{prefix}" if prefix else "xmlns"] = uri
        if inherited.get(None) and None not in node.nsmap and "" not in declared:
            values["xmlns"] = ""
        name = _element_name(node)
        if original is not None and node.tag != original.tag:
            tag = f"<{name}{tag[len(_element_name(original)) + 1 :]}"
        return _retagged(tag, values, self.quote)

    def _indent_added(self, copied: etree._Element) -> None:
        """Put added elements that bring no white space on lines of their own, as their siblings."""
        for node in copied.iter(etree.Element):
            parent = node.getparent()
            original = None if parent is None else self.origins.get(parent)
            if node in self.origins or node.tail or parent is None or original is None:
                continue
            if (parent.text or "").strip() or any((child.tail or "").strip() for child in parent):
                continue
            if len(original):
                inner, outer = original.text or "", original[-1].tail or ""
            else:
                outer = _blank_before(original)
                inner = outer + "  "
            if "\n" not in inner or "\n" not in outer:
                continue
            before = node.getprevious()
            if before is None:
                parent.text = inner
            else:
                before.tail = inner
            node.tail = outer if node.getnext() is None else inner
            _indent_inside(node, inner, inner.removeprefix(outer) or "  ")


def _blank_before(element: etree._Element) -> str:
    """The line break and blanks in front of an element."""
    before, parent = element.getprevious(), element.getparent()
    if parent is None:
        return "\n"
    text = (parent.text if before is None else before.tail) or ""
    return text[text.rfind("\n") :] if "\n" in text and not text.strip() else ""


def _indent_inside(element: etree._Element, own: str, unit: str) -> None:
    if len(element) == 0 or (element.text or "").strip():
        return
    element.text = element.text or own + unit
    for child in element:
        _indent_inside(child, own + unit, unit)
        child.tail = child.tail or (own if child.getnext() is None else own + unit)


def _element_name(node: etree._Element) -> str:
    local = etree.QName(node).localname
    return f"{node.prefix}:{local}" if node.prefix else local


def _attribute_name(node: etree._Element, key: str) -> str:
    if not key.startswith("{"):
        return key
    uri, local = key[1:].split("}", 1)
    if uri == _XML:
        return f"xml:{local}"
    prefix = next(prefix for prefix, known in node.nsmap.items() if prefix and known == uri)
    return f"{prefix}:{local}"


def quoted(value: str, quote: str = "'") -> str:
    """An attribute's value as it stands in a start tag, quotes and all."""
    if _SPECIAL.search(value) is None:
        return f"{quote}{value}{quote}"
    value = value.replace("&", "&amp;").replace("<", "&lt;")
    value = value.replace("\t", "&#9;").replace("\n", "&#10;").replace("\r", "&#13;")
    return quote + value.replace(quote, "&quot;" if quote == '"' else "&apos;") + quote
