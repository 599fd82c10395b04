"""Compare: what differs between two libvirt documents, by what libvirt reads in them.

Laws
- Elements are told apart by libvirt's identities (disks by target, interfaces by MAC, controllers
  by type and index), never by their position where there is something better.
- No difference: comments, white space between elements, the order of attributes and of elements
  where libvirt has none, units, the spelling of numbers. Equal means: nothing is found.
- A difference is one entry, at its place; there and back they are the same ones, turned round.
- No secret is in a difference unless it is asked for; one that changed shows that it did.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple
from xml.sax.saxutils import escape, quoteattr

from lxml import etree

from xmlkit import meaning
from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.redaction import CHANGED, HIDDEN, redact

__all__ = ["SCHEMA", "CompareError", "Difference", "compare", "lost"]

SCHEMA = "xmlkit.compare/1"

# How many pairs are weighed to find the nearest ones; beyond that they are taken in their order.
_PAIRS = 40_000


class CompareError(XmlkitError):
    """Two documents that cannot be compared: they are of different kinds.

    Fields: `old` and `new`, the names of their roots.
    """

    def __init__(self, old: str, new: str) -> None:
        self.old = old
        self.new = new
        super().__init__(
            f"cannot compare a {old} with a {new}: give two documents of the same kind"
        )


class Difference(NamedTuple):
    """One difference between two documents.

    action: what became of it on the way from the old document to the new one.
    where: its path by libvirt's identities, such as /domain/devices/disk[vda]/source/@file; a
        number in brackets is a position from 1, in the old document unless it is added.
    old, new: an attribute's value or an element's text (a size with its unit), of an element
        that was added or removed its start tag; None where there is none. Secrets are redacted.
    old_line, new_line: from 1, where the element begins in each document; None where it is not.
    """

    action: Literal["added", "removed", "changed"]
    where: str
    old: str | None
    new: str | None
    old_line: int | None
    new_line: int | None


def compare(
    old: Document, new: Document, *, ignore_defaults: bool = False, show_secrets: bool = False
) -> tuple[Difference, ...]:
    """What differs between two documents of one kind (domain, volume, pool, network, ...).

    ignore_defaults: an attribute that only spells libvirt's default is as good as none.
    show_secrets: do not redact passwords and the like.

    Returns the differences in the order of the old document; none if libvirt reads the same.
    Raises CompareError if the documents are of different kinds.
    """
    return _Comparison(old, new, ignore_defaults, show_secrets).differences(additions=True)


def lost(asked: Document, got: Document, *, show_secrets: bool = False) -> tuple[Difference, ...]:
    """What libvirt dropped or changed of a definition: `got` is what it made of `asked`.

    What libvirt added (addresses, controllers, aliases, a UUID, a MAC) is not in it, nor a default
    that was spelled and is so no more. Read `got` with VIR_DOMAIN_XML_INACTIVE and
    VIR_DOMAIN_XML_SECURE: without the latter passwords are missing, and so lost.

    Raises CompareError if the documents are of different kinds.
    """
    return _Comparison(asked, got, True, show_secrets).differences(additions=False)


class _Node:
    """An element as libvirt reads it.

    key: PARENT/TAG; number: the same for all elements of both documents that mean the same.
    """

    __slots__ = (
        *("attributes", "children", "element", "facts", "identity", "key", "number"),
        *("ordered", "text", "unit"),
    )

    element: etree._Element
    key: str
    attributes: dict[str, meaning.Value]
    unit: str | None  # the attribute that is part of a size, and so no attribute of its own
    text: meaning.Value
    children: dict[str, list[_Node]]
    ordered: bool
    identity: tuple[meaning.Value | None, ...]
    number: int
    facts: Counter[tuple[object, ...]] | None


class _Comparison:
    def __init__(
        self, old: Document, new: Document, ignore_defaults: bool, show_secrets: bool
    ) -> None:
        if old.kind != new.kind:
            raise CompareError(old.kind, new.kind)
        self.old = old
        self.new = new
        self.ignore_defaults = ignore_defaults
        self.show_secrets = show_secrets
        self.numbers: dict[object, int] = {}
        self.roots = (self._read(old.root), self._read(new.root))

    def _read(self, root: etree._Element) -> _Node:
        """The tree as libvirt reads it, from the leaves up: no recursion, however deep it is."""
        elements = list(root.iter(etree.Element))
        # what libvirt keeps for others without reading it
        opaque = {
            inner
            for metadata in root.iter("metadata")
            for child in metadata
            for inner in child.iterdescendants(etree.Element)
        }
        nodes: dict[etree._Element, _Node] = {}
        for element in reversed(elements):
            nodes[element] = self._node(element, nodes, element in opaque)
        return nodes[root]

    def _node(
        self, element: etree._Element, nodes: dict[etree._Element, _Node], opaque: bool
    ) -> _Node:
        node = _Node()
        parent = element.getparent()
        tag = str(element.tag)
        above = "" if parent is None else str(parent.tag)
        node.element = element
        node.key = key = f"{above}/{tag}"
        node.facts = None
        node.unit = None
        node.ordered = opaque or key in meaning.ORDERED
        written = {str(name): str(value) for name, value in element.attrib.items()}
        text = element.text or ""
        children: dict[str, list[_Node]] = {}
        for child in element:
            if child in nodes:
                children.setdefault(str(child.tag), []).append(nodes[child])
            text += child.tail or ""
        if not text.strip(" \t\r\n"):
            text = ""
        node.children = children
        if opaque:
            node.attributes = dict(written)
            node.text = text
        else:
            self._values(node, above, tag, written, text)
        node.identity = self._identity(node)
        node.number = self._number(node, tag)
        return node

    def _values(
        self, node: _Node, above: str, tag: str, written: dict[str, str], text: str
    ) -> None:
        node.attributes = values = meaning.attribute_values(tag, written)
        size = meaning.size_of_text(above, tag, text, written.get("unit")) if text else None
        if size is not None:
            node.text = size
            node.unit = "unit"
            values.pop("unit", None)
        else:
            node.text = meaning.text_value(above, tag, text)
            if (found := meaning.size_attribute(above, tag, written)) is not None:
                name, unit, value = found
                values[name] = value
                node.unit = unit
                values.pop(unit, None)
        if self.ignore_defaults:
            for table in (tag, node.key):
                for name, default in meaning.DEFAULTS.get(table, {}).items():
                    if values.get(name) == default:
                        del values[name]

    def _identity(self, node: _Node) -> tuple[meaning.Value | None, ...]:
        paths = meaning.IDENTITIES.get(node.key)
        if paths is None:
            paths = meaning.IDENTITIES.get(node.key.rpartition("/")[2], ())
        return tuple(_value_at(node, path) for path in paths)

    def _number(self, node: _Node, tag: str) -> int:
        unordered: list[int] = []
        ordered: list[tuple[str, tuple[int, ...]]] = []
        for name, group in node.children.items():
            if group[0].ordered:
                ordered.append((name, tuple(child.number for child in group)))
            else:
                unordered += [child.number for child in group if not self._is_default(child)]
        said = (
            tag,
            frozenset(node.attributes.items()),
            node.text,
            tuple(sorted(unordered)),
            tuple(sorted(ordered)),
        )
        return self.numbers.setdefault(said, len(self.numbers))

    def _is_default(self, node: _Node) -> bool:
        return (
            self.ignore_defaults
            and not node.attributes
            and node.text == meaning.DEFAULT_TEXTS.get(node.key, "\0")
        )

    def differences(self, *, additions: bool) -> tuple[Difference, ...]:
        old, new = self.roots
        found: list[Difference] = []
        stack: list[tuple[_Node | None, _Node | None, str]] = [(old, new, f"/{_name(old.element)}")]
        while stack:
            before, after, where = stack.pop()
            if before is None or after is None:
                if before is not None or additions:
                    found.append(self._whole(before, after, where))
                continue
            found += self._own(before, after, where, additions)
            inside = list(self._inside(before, after, where))
            stack += reversed(inside)
        return tuple(found)

    def _own(self, old: _Node, new: _Node, where: str, additions: bool) -> Iterator[Difference]:
        """What differs in an element itself: its attributes and its text."""
        for name, value in old.attributes.items():
            if new.attributes.get(name) != value:
                yield self._value(old, new, where, name)
        if additions:
            for name in new.attributes:
                if name not in old.attributes:
                    yield self._value(old, new, where, name)
        if old.text != new.text and (additions or old.text):
            yield self._value(old, new, where, None)

    def _inside(
        self, old: _Node, new: _Node, where: str
    ) -> Iterator[tuple[_Node | None, _Node | None, str]]:
        """The pairs of children that do not mean the same."""
        for tag in dict.fromkeys((*old.children, *new.children)):
            olds, news = old.children.get(tag, []), new.children.get(tag, [])
            several = len(olds) > 1 or len(news) > 1
            for before, after in paired(olds, news):
                if before is not None and after is not None and before.number == after.number:
                    continue
                node = before or after
                assert node is not None
                if (before is None or after is None) and self._is_default(node):
                    continue
                place = _place(before, after, olds if before else news, several)
                yield before, after, f"{where}/{_name(node.element)}{place}"

    def _value(self, old: _Node, new: _Node, where: str, name: str | None) -> Difference:
        before, after = _written(old, name), _written(new, name)
        hidden = not self.show_secrets and (
            _is_secret(old.element, name, before) or _is_secret(new.element, name, after)
        )
        if hidden:
            after = None if after is None else HIDDEN if before is None else CHANGED
            before = None if before is None else HIDDEN
        if name is not None:
            where = f"{where}/@{_attribute_name(old.element, new.element, name)}"
        return Difference(
            "added" if before is None else "removed" if after is None else "changed",
            *(where, before, after, self._line(self.old, old), self._line(self.new, new)),
        )

    def _whole(self, old: _Node | None, new: _Node | None, where: str) -> Difference:
        if new is not None:
            shown = _summary(new, self.show_secrets)
            return Difference("added", where, None, shown, None, self._line(self.new, new))
        assert old is not None
        shown = _summary(old, self.show_secrets)
        return Difference("removed", where, shown, None, self._line(self.old, old), None)

    @staticmethod
    def _line(document: Document, node: _Node) -> int:
        return document.place_of(node.element)[0]


def paired(
    olds: Sequence[_Node], news: Sequence[_Node]
) -> Iterator[tuple[_Node | None, _Node | None]]:
    """Each element of one name within two parents with what it is in the other one.

    In the order of `olds`, what is new at the end.
    """
    if len(olds) == len(news) == 1:
        if _may_be(olds[0], news[0]):
            yield olds[0], news[0]
        else:
            yield olds[0], None
            yield None, news[0]
        return
    if not olds or not news:
        yield from ((old, None) for old in olds)
        yield from ((None, new) for new in news)
        return
    # one way to find the pairs, whichever document comes first
    turned = [node.number for node in olds] > [node.number for node in news]
    first, second = (news, olds) if turned else (olds, news)
    pairs = dict(_aligned(first, second) if first[0].ordered else _matched(first, second))
    if turned:
        pairs = {new: old for old, new in pairs.items()}
    for number, old in enumerate(olds):
        yield old, news[pairs[number]] if number in pairs else None
    taken = set(pairs.values())
    yield from ((None, new) for number, new in enumerate(news) if number not in taken)


def _aligned(olds: Sequence[_Node], news: Sequence[_Node]) -> Iterator[tuple[int, int]]:
    """Pairs of an ordered list: what is the same stays, what stands between is taken in order."""
    before, after = [node.number for node in olds], [node.number for node in news]
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        yield start, start
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        yield len(before) - 1 - end, len(after) - 1 - end
        end += 1
    before, after = before[start : len(before) - end], after[start : len(after) - end]
    if len(before) * len(after) > _PAIRS:
        yield from ((start + i, start + i) for i in range(min(len(before), len(after))))
        return
    opcodes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    for _, i1, i2, j1, j2 in opcodes:
        yield from (
            (start + i, start + j) for i, j in zip(range(i1, i2), range(j1, j2), strict=False)
        )


def _matched(olds: Sequence[_Node], news: Sequence[_Node]) -> Iterator[tuple[int, int]]:
    """Pairs of a list without order: by meaning, identity, alias, address, then the nearest."""
    left, right = list(range(len(olds))), list(range(len(news)))
    for key in (_by_number, _by_identity, _by_alias, _by_address):
        waiting: dict[object, list[int]] = defaultdict(list)
        for j in right:
            if (said := key(news[j])) is not None:
                waiting[said].append(j)
        found: dict[int, int] = {}
        for i in left if waiting else ():
            said = key(olds[i])
            fitting = waiting.get(said, []) if said is not None else []
            for at, j in enumerate(fitting):
                if _may_be(olds[i], news[j]):
                    found[i] = fitting.pop(at)
                    break
                if at == 100:
                    break
        yield from found.items()
        left = [i for i in left if i not in found]
        right = sorted(set(right) - set(found.values()))
        if not left or not right:
            return
    yield from _nearest(olds, news, left, right)


def _nearest(
    olds: Sequence[_Node], news: Sequence[_Node], left: list[int], right: list[int]
) -> Iterator[tuple[int, int]]:
    if len(left) * len(right) > _PAIRS:
        yield from ((i, j) for i, j in zip(left, right, strict=False) if _may_be(olds[i], news[j]))
        return
    only = len(left) == len(right) == 1
    weighed = []
    for at, i in enumerate(left):
        for by, j in enumerate(right):
            if not _may_be(olds[i], news[j]):
                continue
            one, other = _facts(olds[i]), _facts(news[j])
            common = (one & other).total()
            likeness = common / max(1, min(one.total(), other.total()))
            if only or likeness >= 0.5:
                weighed.append((-likeness, -common, abs(at - by), i, j))
    taken: set[int] = set()
    gone: set[int] = set()
    for *_, i, j in sorted(weighed):
        if i not in gone and j not in taken:
            gone.add(i)
            taken.add(j)
            yield i, j


def _by_number(node: _Node) -> object:
    return node.number


def _by_identity(node: _Node) -> object:
    return node.identity if any(part is not None for part in node.identity) else None


def _by_alias(node: _Node) -> object:
    # the user's own: libvirt numbers its aliases anew at each start
    alias = _value_at(node, "alias/@name")
    return alias if isinstance(alias, str) and alias.startswith("ua-") else None


def _by_address(node: _Node) -> object:
    addresses = node.children.get("address")
    return addresses[0].number if addresses else None


def _may_be(old: _Node, new: _Node) -> bool:
    """Whether nothing in their identities speaks against their being the same."""
    return all(
        one is None or other is None or one == other
        for one, other in zip(old.identity, new.identity, strict=False)
    )


def _facts(node: _Node) -> Counter[tuple[object, ...]]:
    """All that an element says, to see how near it is to another one."""
    if node.facts is None:
        node.facts = Counter()
        stack = [(node, "")]
        while stack:
            inner, path = stack.pop()
            for name, value in inner.attributes.items():
                node.facts[path, name, value] += 1
            if inner.text or not inner.attributes:
                node.facts[path, inner.text] += 1
            for tag, children in inner.children.items():
                stack += ((child, f"{path}/{tag}") for child in children)
    return node.facts


def _value_at(node: _Node, path: str) -> meaning.Value | None:
    child, _, name = path.rpartition("@")
    if child:
        children = node.children.get(child.rstrip("/"))
        if not children:
            return None
        node = children[0]
    return node.attributes.get(name)


def _place(old: _Node | None, new: _Node | None, siblings: Sequence[_Node], several: bool) -> str:
    """What tells an element apart from its siblings, in brackets."""
    node = old or new
    assert node is not None
    if _by_identity(node) is None and old is not None and new is not None:
        node = new if _by_identity(new) is not None else old
    if _by_identity(node) is not None:
        parts = [_spelled(part) for part in node.identity if part is not None]
        return f"[{','.join(parts)}]"
    if not several:
        return ""
    alias = _by_alias(node)
    return f"[{alias}]" if alias else f"[{siblings.index(old or node) + 1}]"


def _spelled(value: meaning.Value) -> str:
    return value if isinstance(value, str) else ",".join(map(str, value))


def _name(element: etree._Element) -> str:
    """An element's name as it is written, with its prefix."""
    name = etree.QName(element).localname
    return f"{element.prefix}:{name}" if element.prefix else name


def _attribute_name(old: etree._Element, new: etree._Element, name: str) -> str:
    qualified = etree.QName(name)
    if not qualified.namespace:
        return name
    for element in (old, new):
        for prefix, uri in element.nsmap.items():
            if uri == qualified.namespace and prefix:
                return f"{prefix}:{qualified.localname}"
    return qualified.localname


def _text(element: etree._Element) -> str:
    return (element.text or "") + "".join(child.tail or "" for child in element)


def _written(node: _Node, name: str | None) -> str | None:
    """A value as the document spells it, a size with its unit; None without one."""
    if name is None:
        text = _text(node.element)
        unit = node.element.get("unit") if node.unit == "unit" else None
        return (f"{text.strip()} {unit}" if unit else text) if text.strip() else None
    value = node.element.get(name) if name in node.attributes else None
    if value is None or node.unit is None or not isinstance(node.attributes[name], tuple):
        return value
    unit = node.element.get(node.unit) if node.attributes[name][0] == "bytes" else None
    return f"{value} {unit}" if unit else value


def _around(element: etree._Element) -> tuple[str, str]:
    """Start tags and end tags of the elements around one: one of them may make it a secret."""
    names = [etree.QName(above).localname for above in element.iterancestors()]
    opened = "".join(f"<{name}>" for name in reversed(names))
    return opened, "".join(f"</{name}>" for name in names)


def _is_secret(element: etree._Element, name: str | None, value: str | None) -> bool:
    if value is None:
        return False
    own = etree.QName(element).localname
    said = {"name": element.get("name")} if element.get("name") is not None else {}
    if name is not None:
        said[etree.QName(name).localname] = value
    attributes = "".join(f" {each}={quoteattr(text or '')}" for each, text in said.items())
    inside = "" if name is not None else escape(value)
    opened, closed = _around(element)
    text = f"{opened}<{own}{attributes}>{inside}</{own}>{closed}"
    return redact(text) != text


def _summary(node: _Node, show_secrets: bool) -> str:
    """An element in one line: its start tag, and its text if it has no elements within."""
    element = node.element
    name = etree.QName(element).localname
    attributes = "".join(
        f" {etree.QName(each).localname}={quoteattr(str(value))}"
        for each, value in element.attrib.items()
    )
    text = escape(_text(element).strip())
    inside = text or ("..." if node.children else "")
    whole = f"<{name}{attributes}>{inside}</{name}>" if inside else f"<{name}{attributes}/>"
    if show_secrets:
        return whole
    opened, closed = _around(element)
    shown = redact(f"{opened}{whole}{closed}")
    return shown[len(opened) : len(shown) - len(closed)] if shown.startswith(opened) else HIDDEN
