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

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from lxml import etree

from xmlkit import meaning
from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.markup import quoted
from xmlkit.printable import in_line
from xmlkit.redaction import CHANGED, HIDDEN, redact_pair, secrets

__all__ = ["SCHEMA", "CompareError", "Difference", "compare", "in_words", "lost", "lost_at"]

SCHEMA = "xmlkit.compare/1"

# How much a comparison may look at to find the nearest elements: some seconds of work, where
# documents are made to take long. What goes beyond that is taken in its order.
_EFFORT = 2_000_000
# From which part in common on two elements without an identity are thought to be the same.
_NEAR = 0.5


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
    return tuple(difference for difference, _ in lost_at(asked, got, show_secrets=show_secrets))


def lost_at(
    asked: Document, got: Document, *, show_secrets: bool = False
) -> tuple[tuple[Difference, etree._Element], ...]:
    """As `lost`, each with the element of `asked` that was dropped, or whose attribute or
    text was dropped or changed.

    Raises CompareError if the documents are of different kinds.
    """
    comparison = _Comparison(asked, got, True, show_secrets)
    found = comparison.differences(additions=False)
    return tuple(zip(found, comparison.places, strict=True))


def in_words(difference: Difference) -> tuple[str, str, str]:
    """What stands in the line of a difference: its action, its place and its values.

    Each is one line and safe on a terminal; the first is filled up to one width for all.
    """
    values = [_value_in_line(value) for value in difference[2:4] if value is not None]
    return f"{difference.action:<7}", in_line(difference.where), " -> ".join(values)


class _Effort:
    """What is left of the effort of a comparison."""

    def __init__(self) -> None:
        self.left = _EFFORT

    def take(self, cost: int) -> bool:
        """Whether there is enough left."""
        if cost > self.left:
            return False
        self.left -= cost
        return True


class _Node:
    """An element as libvirt reads it.

    key: PARENT/TAG; number: the same for all elements of both documents that mean the same.
    """

    __slots__ = (
        *("attributes", "children", "element", "facts", "identity", "key", "number"),
        *("ordered", "size", "text", "unit"),
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
    size: int  # how many elements it has, itself included
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
        self.effort = _Effort()
        self.breaks: dict[Document, list[int]] = {}
        # the old element, or an added one, that each difference is about
        self.places: list[etree._Element] = []
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
        self.primary = _first_videos(root)
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
        node.size = 1 + sum(child.size for group in children.values() for child in group)
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
                    if written.get(name) == default:
                        del values[name]
        if node.element in self.primary:
            values["primary"] = "yes"

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
        """Whether the element says nothing but what is so without it."""
        if not self.ignore_defaults or node.attributes or node.children:
            return False
        if node.text:
            return node.text == meaning.DEFAULT_TEXTS.get(node.key)
        return len(node.element.attrib) > 0

    def differences(self, *, additions: bool) -> tuple[Difference, ...]:
        old, new = self.roots
        found: list[Difference] = []
        stack: list[tuple[_Node | None, _Node | None, str]] = [(old, new, f"/{_name(old.element)}")]
        while stack:
            before, after, where = stack.pop()
            if before is None or after is None:
                node = before or after
                if node is not None and (before is not None or additions):
                    found.append(self._whole(before, after, where))
                    self.places.append(node.element)
                continue
            found += self._own(before, after, where, additions)
            self.places += [before.element] * (len(found) - len(self.places))
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
            places: tuple[dict[_Node, str], dict[_Node, str]] | None = None
            for before, after in paired(olds, news, self.effort):
                if before is not None and after is not None and before.number == after.number:
                    continue
                node = before or after
                assert node is not None
                if (before is None or after is None) and self._is_default(node):
                    continue
                if places is None:
                    several = len(olds) > 1 or len(news) > 1
                    places = _places(olds, several), _places(news, several)
                name = _name(node.element)
                place = places[0][before] if before is not None else places[1][node]
                if after is not None and _missing(after) < _missing(node):
                    place = places[1][after]
                yield before, after, f"{where}/{name}{place}"

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

    def _line(self, document: Document, node: _Node) -> int:
        if document not in self.breaks:
            text = document.text
            self.breaks[document] = [at for at, each in enumerate(text) if each == "\n"]
        return bisect_left(self.breaks[document], document.span_of(node.element)[0]) + 1


def paired(
    olds: Sequence[_Node], news: Sequence[_Node], effort: _Effort
) -> Iterator[tuple[_Node | None, _Node | None]]:
    """Each element of one name within two parents with what it is in the other one.

    In the order of `olds`, what is new at the end.
    """
    pairs = dict((_aligned if (olds or news)[0].ordered else _matched)(olds, news, effort))
    taken = set(pairs.values())
    for number, old in enumerate(olds):
        yield old, news[pairs[number]] if number in pairs else None
    yield from ((None, new) for number, new in enumerate(news) if number not in taken)


def _aligned(
    olds: Sequence[_Node], news: Sequence[_Node], effort: _Effort
) -> Iterator[tuple[int, int]]:
    """Pairs of an ordered list: what is the same stays, what stands between is taken in order."""
    shorter = min(len(olds), len(news))
    start = end = 0
    while start < shorter and olds[start].number == news[start].number:
        yield start, start
        start += 1
    while end < shorter - start and olds[-1 - end].number == news[-1 - end].number:
        end += 1
        yield len(olds) - end, len(news) - end
    olds, news = olds[start : len(olds) - end], news[start : len(news) - end]
    if not effort.take(_cost(olds, news)):
        yield from ((start + i, start + i) for i in range(min(len(olds), len(news))))
    elif _turned(olds, news):
        yield from ((start + i, start + j) for j, i in _in_order(news, olds))
    else:
        yield from ((start + i, start + j) for i, j in _in_order(olds, news))


def _in_order(olds: Sequence[_Node], news: Sequence[_Node]) -> Iterator[tuple[int, int]]:
    """The pairs, none across another one, that have the most in common all together."""
    # what the pairs from (i, j) on have in common at best, from the end
    best = [[0.0] * (len(news) + 1) for _ in range(len(olds) + 1)]
    for i in reversed(range(len(olds))):
        for j in reversed(range(len(news))):
            pair = _weight(olds[i], news[j]) + best[i + 1][j + 1]
            best[i][j] = max(pair, best[i + 1][j], best[i][j + 1])
    i = j = 0
    while i < len(olds) and j < len(news):
        if best[i][j] == best[i + 1][j]:
            i += 1
        elif best[i][j] == best[i][j + 1]:
            j += 1
        else:
            yield i, j
            i, j = i + 1, j + 1


def _weight(old: _Node, new: _Node) -> float:
    """How much it says for a pair: the same before what is near, and that before all else."""
    if old.number == new.number:
        return 2.0
    likeness = _likeness(old, new)[0]
    return likeness if likeness >= _NEAR else 0.01


def _matched(
    olds: Sequence[_Node], news: Sequence[_Node], effort: _Effort
) -> Iterator[tuple[int, int]]:
    """Pairs of a list without order: by meaning, identity, alias, address, then the nearest."""
    left, right = list(range(len(olds))), list(range(len(news)))
    for key in (_by_number, _by_identity, _by_alias, _by_address):
        waiting: dict[object, list[int]] = {}
        for j in right:
            waiting.setdefault(key(news[j]), []).append(j)
        waiting.pop(None, None)
        asked: dict[object, list[int]] = {}
        for i in left:
            asked.setdefault(key(olds[i]), []).append(i)
        found: dict[int, int] = {}
        for said, mine in asked.items():
            theirs = waiting.get(said, [])
            # of several that claim to be the same one, the nearest will be taken
            if key is _by_number or len(mine) == len(theirs) == 1:
                found |= {
                    i: j for i, j in zip(mine, theirs, strict=False) if _may_be(olds[i], news[j])
                }
        yield from found.items()
        taken = set(found.values())
        left = [i for i in left if i not in found]
        right = [j for j in right if j not in taken]
        if not left or not right:
            return
    if len(left) == len(right) == 1:
        if _may_be(olds[left[0]], news[right[0]]):
            yield left[0], right[0]
        return
    if not effort.take(_cost([olds[i] for i in left], [news[j] for j in right])):
        for i, j in zip(left, right, strict=False):
            if _may_be(olds[i], news[j]):
                yield i, j
    elif _turned([olds[i] for i in left], [news[j] for j in right]):
        yield from ((i, j) for j, i in _nearest(news, olds, right, left))
    else:
        yield from _nearest(olds, news, left, right)


def _cost(olds: Sequence[_Node], news: Sequence[_Node]) -> int:
    """What it takes to look at each pair of these."""
    return len(news) * sum(node.size for node in olds) + len(olds) * sum(n.size for n in news)


def _likeness(old: _Node, new: _Node) -> tuple[float, int]:
    """How much of what they say two elements have in common: a part of the lesser, a number."""
    one, other = _facts(old), _facts(new)
    common = (one & other).total()
    return common / max(1, min(one.total(), other.total())), common


def _turned(olds: Sequence[_Node], news: Sequence[_Node]) -> bool:
    """Whether to look from `news`: so that the same pairs are found there and back."""
    if len(olds) != len(news):
        return len(olds) > len(news)
    return [_print(node) for node in olds] > [_print(node) for node in news]


def _print(node: _Node) -> str:
    return repr(sorted(map(repr, _facts(node).elements())))


def _nearest(
    olds: Sequence[_Node], news: Sequence[_Node], left: list[int], right: list[int]
) -> Iterator[tuple[int, int]]:
    """Pairs that have at least half of what they say in common, the nearest first."""
    weighed = []
    for at, i in enumerate(left):
        for by, j in enumerate(right):
            if not _may_be(olds[i], news[j]):
                continue
            likeness, common = _likeness(olds[i], news[j])
            if likeness >= _NEAR:
                weighed.append((-likeness, -common, abs(at - by), i, j))
    gone: set[int] = set()
    taken: set[int] = set()
    for *_, i, j in sorted(weighed):
        if i not in gone and j not in taken:
            gone.add(i)
            taken.add(j)
            yield i, j


def _by_number(node: _Node) -> object:
    return node.number


def _by_identity(node: _Node) -> object:
    return node.identity if any(part is not None for part in node.identity) else None


def _missing(node: _Node) -> int:
    """How many parts of its identity an element does not say."""
    return node.identity.count(None)


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


def _places(siblings: Sequence[_Node], several: bool) -> dict[_Node, str]:
    """What tells elements of one name apart, in brackets: an identity, an alias, a position."""
    claimed = Counter(_by_identity(node) for node in siblings)
    seen: Counter[object] = Counter()
    places = {}
    for position, node in enumerate(siblings, 1):
        said = _by_identity(node)
        if said is not None:
            seen[said] += 1
            parts = ",".join(_spelled(part) for part in node.identity if part is not None)
            places[node] = f"[{parts}]" + (f"[{seen[said]}]" if claimed[said] > 1 else "")
        else:
            places[node] = f"[{_by_alias(node) or position}]" if several else ""
    return places


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


def _first_videos(root: etree._Element) -> set[etree._Element]:
    """The models of the videos that are primary because they are first and no other one is."""
    found = set()
    for devices in root.iter("devices"):
        models = devices.findall("video/model")
        if models and all(model.get("primary") != "yes" for model in models):
            found.add(models[0])
    return found


def _text(element: etree._Element) -> str:
    return (element.text or "") + "".join(child.tail or "" for child in element)


def _written(node: _Node, name: str | None) -> str | None:
    """A value as the document spells it, a size with its unit; None without one."""
    if name is None:
        text = _text(node.element)
        unit = node.element.get("unit") if node.unit == "unit" else None
        return (f"{text.strip()} {unit}" if unit else text) if text.strip() else None
    value = node.element.get(name)
    read = node.attributes.get(name)
    if value is None:
        # what is so although it is not written
        return read if isinstance(read, str) else None
    if node.unit is None or read is None or read[0] != "bytes":
        return value
    unit = node.element.get(node.unit)
    return f"{value} {unit}" if unit else value


def _value_in_line(value: str) -> str:
    return in_line(value) if value.strip() else repr(value)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _around(element: etree._Element) -> tuple[str, str]:
    """Start tags and end tags of the elements around one: one of them may make it a secret."""
    names = [etree.QName(above).localname for above in element.iterancestors()]
    opened = "".join(f"<{name}>" for name in reversed(names))
    return opened, "".join(f"</{name}>" for name in names)


def _is_secret(element: etree._Element, name: str | None, value: str | None) -> bool:
    """Whether a value of an element is a secret, or would be if the names were right."""
    if value is None:
        return False
    text, closed = _around(element)
    text += f"<{etree.QName(element).localname}"
    start = end = 0
    attributes = {str(each): str(said) for each, said in element.attrib.items()}
    for each, said in (attributes | ({} if name is None else {name: value})).items():
        text += f" {etree.QName(each).localname}="
        if each == name:
            start, end = len(text), len(text) + len(quoted(said))
        text += quoted(said)
    text += ">"
    if name is None:
        start, end = len(text), len(text) + len(_escaped(value))
        text += _escaped(value)
    text += f"</{etree.QName(element).localname}>{closed}"
    return any(began < end and start < ended for began, ended in secrets(text))


def _summary(node: _Node, show_secrets: bool) -> str:
    """An element in one line: its start tag, and its text if it has no elements within."""
    element = node.element
    name = etree.QName(element).localname
    attributes = "".join(
        f" {etree.QName(each).localname}={quoted(str(value))}"
        for each, value in element.attrib.items()
    )
    text = _escaped(_text(element).strip())
    inside = text or ("..." if node.children else "")
    whole = f"<{name}{attributes}>{inside}</{name}>" if inside else f"<{name}{attributes}/>"
    if show_secrets:
        return whole
    opened, closed = _around(element)
    whole = f"{opened}{whole}{closed}"
    shown, _ = redact_pair(whole, whole, invalid=True)
    return shown[len(opened) : len(shown) - len(closed)] if shown.startswith(opened) else HIDDEN
