"""Document: one libvirt XML document as the bytes it came in.

Laws
- A document is its bytes. Its tree is only a way to look at them and to say what shall change.
- What an edit does not touch stays as it was written: quotes, entities, CDATA, comments, line
  breaks inside tags, attribute order, XML declaration, encoding, byte order mark.
- What an edit adds takes the document's quotes, indentation and line ends.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from lxml import etree

from xmlkit.laying import laid
from xmlkit.markup import (
    ATTRIBUTE,
    MARKUP,
    blank_before,
    encoded,
    first_quote,
    retagged,
    start_tag,
    starts_of,
    tag_at,
    with_attribute,
)
from xmlkit.parsing import MIB, DocumentError, Limits, parsed, place, read

__all__ = [
    "MIB",
    "Document",
    "DocumentError",
    "Edit",
    "InsertBefore",
    "Limits",
    "Remove",
    "RenameAttribute",
    "Replace",
    "SetAttributes",
]

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


class RenameAttribute(NamedTuple):
    """An edit: an attribute, by name as written, gets another name; its value keeps its quotes."""

    element: etree._Element
    name: str
    new: str


Edit = SetAttributes | InsertBefore | Remove | Replace | RenameAttribute


class Document:
    """One XML document; see the module's laws.

    Make one with `Document.parse`. It does not change: an edit makes a new one.
    """

    # Most documents never need the last two, and these are made by the thousand.
    _text: str | None = None
    _plain: bool | None = None
    # names of which each element has an end tag of its own
    _closed: frozenset[str] = frozenset()
    _trees: Mapping[etree._Element, dict[etree._Element, etree._Element]] = MappingProxyType({})

    def __init__(self, source: bytes, encoding: str, root: etree._Element | None, limits: Limits):
        self.source = source
        self._encoding = encoding
        self.limits = limits
        self._root = root
        self._starts: dict[str, dict[etree._Element, int]] = {}
        self._spans: dict[etree._Element | None, tuple[int, int]] = {}
        # what other modules read out of the document, so that they read it once
        self.memo: dict[str, Any] = {}

    @classmethod
    def parse(cls, source: bytes | str, limits: Limits = DEFAULT_LIMITS) -> Document:
        """The document that `source` holds.

        A `str` is encoded as its XML declaration says (UTF-8 without one).
        Raises DocumentError: not well-formed, a DOCTYPE, an encoding other than UTF-8, UTF-16,
        Latin-1 or ASCII, or larger or deeper than `limits`.
        """
        return cls(*read(source, limits), limits)

    @property
    def root(self) -> etree._Element:
        """The root of the document's own tree. To be read, never edited: edit `tree()`."""
        if self._root is None:
            self._root = parsed(self.source, self._encoding, self.limits)
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
        return place(self.text, self._start(element))

    def edited(self, edits: Iterable[Edit]) -> Document:
        """The document after edits of elements of `root`.

        Several SetAttributes of one element add up; nothing may be edited inside an element that
        is removed or replaced, and a tag has either attributes renamed or set.
        Raises ValueError if an attribute that is to be renamed is not there.
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
                new = retagged(f"<{edit.name}/>", dict(edit.values), first_quote(text, at))
                changes.append((at, at, new + blank_before(text, at)))
            elif isinstance(edit, Remove):
                blank = blank_before(text, at)
                changes.append((at - len(blank), self.span_of(edit.element)[1], ""))
            elif isinstance(edit, RenameAttribute):
                changes.append((*self._name_of(at, edit.name), edit.new))
            else:
                changes.append((at, self.span_of(edit.element)[1], edit.text))
        for at, values in tags.items():
            tag = tag_at(text, at)
            # only a tag without attributes has no quotes of its own
            quote = "" if "=" in tag else first_quote(text, at)
            if len(values) == 1 and len(tag) < 200:
                new = with_attribute(tag, *values.popitem(), quote)
            else:
                new = retagged(tag, values, quote)
            changes.append((at, at + len(tag), new))
        return self._changed(changes)

    def _name_of(self, at: int, name: str) -> tuple[int, int]:
        """Where the name of an attribute stands, of the element that starts at `at`."""
        for each in ATTRIBUTE.finditer(self.text, at, at + len(tag_at(self.text, at))):
            if each[2] == name:
                return each.span(2)
        raise ValueError(f"there is no attribute {name}")

    def tree(self) -> etree._Element:
        """A private copy of the tree, to be edited and given to `lay`."""
        root = self.root
        tree = copy.deepcopy(root)
        self._trees = {**self._trees, tree: dict(zip(tree.iter(), root.iter(), strict=True))}
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
        root = self.root
        quote = first_quote(self.text, self._start(root))
        written = laid(self.text_of(root), root, tree, origins, quote)
        return self.edited([Replace(root, written)])

    def _changed(self, changes: list[tuple[int, int, str]]) -> Document:
        text = self.text
        pieces: list[str] = []
        at = 0
        for start, end, new in sorted(changes):
            pieces += text[at:start], new
            at = end
        pieces.append(text[at:])
        source = encoded("".join(pieces), self._encoding)
        if source == self.source:
            return self
        return Document(source, self._encoding, None, self.limits)

    def _start(self, element: etree._Element) -> int:
        """Where in `text` the element starts."""
        name: Any = element.tag
        starts = self._starts.get(name)
        if starts is None:
            around = self._spans.get(element.getparent())
            if around is not None and self._plain:
                # the only one of its name within a parent whose place is known
                found = start_tag(name).search(self.text, *around)
                if found and self.text.find(f"<{name}", found.end(), around[1]) < 0:
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
        if self._plain and "{" not in name:
            starts = starts_of(text, name)
            if text.count(f"</{name}>") == len(starts):
                self._closed |= {name}
            parent = element.getparent()
            if parent is None or len(starts) == 1:
                siblings = [element]
            else:
                siblings = list(parent.iterchildren(name))
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
        tag = tag_at(text, start)
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
