"""RELAX NG patterns and their derivatives, after James Clark's algorithm.

Laws
- A pattern never changes; of two alike there is one object, so that they compare by identity.
- A derivative is by the set of leaves that something matches, not by the thing itself: documents
  share what was derived before.
- Only combinations are made anew. A leaf (element, attribute, text, data, value) is made once, by
  the schema's reader, and carries where the schema says it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

__all__ = [
    "Algebra",
    "Attribute",
    "Choice",
    "Data",
    "Element",
    "Group",
    "Interleave",
    "Leaf",
    "Listing",
    "NameClass",
    "OneOrMore",
    "Pattern",
    "Text",
    "Value",
]


@dataclass(frozen=True, slots=True)
class NameClass:
    """Which names are meant: some (as {uri}local), or all (of `uri`, of any if None) `but` some."""

    names: frozenset[str] = frozenset()
    wild: bool = False
    uri: str | None = None
    but: NameClass | None = None
    others: tuple[NameClass, ...] = ()
    _known: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        of_others = (name for other in self.others for name in other.known())
        object.__setattr__(self, "_known", (*sorted(self.names), *of_others))

    def __contains__(self, name: str) -> bool:
        if name in self.names or any(name in other for other in self.others):
            return True
        if not self.wild or (self.but is not None and name in self.but):
            return False
        return self.uri is None or self.uri == (
            name[1:].partition("}")[0] if name[:1] == "{" else ""
        )

    @property
    def is_wild(self) -> bool:
        return self.wild or any(other.is_wild for other in self.others)

    def known(self) -> tuple[str, ...]:
        """The names that are named."""
        return self._known


class Pattern:
    """One pattern; `number` tells in which order they were made."""

    __slots__ = ("has_attributes", "leaves", "nullable", "number", "parts")

    def __init__(self, number: int, nullable: bool, parts: tuple[Pattern, ...] = ()) -> None:
        self.number = number
        self.nullable = nullable
        self.parts = parts
        self.has_attributes: bool = any(part.has_attributes for part in parts)
        found: set[Leaf] = set()
        for part in parts:
            found |= part.leaves
        self.leaves: frozenset[Leaf] = frozenset(found)


class Choice(Pattern):
    """One of the parts."""

    __slots__ = ()


class Group(Pattern):
    """The first of two parts, then the second."""

    __slots__ = ()


class Interleave(Pattern):
    """All of the parts, in any order."""

    __slots__ = ()


class OneOrMore(Pattern):
    """The part, once or several times."""

    __slots__ = ()


class Leaf(Pattern):
    """A pattern that is matched as a whole. define: the nearest one in the schema around it."""

    __slots__ = ("define",)

    def __init__(self, number: int, nullable: bool = False, define: str = "") -> None:
        super().__init__(number, nullable)
        self.leaves = frozenset((self,))
        self.define = define


class Text(Leaf):
    """Any text, none too."""

    __slots__ = ()


class Data(Leaf):
    """A text of a datatype, with facets such as a pattern."""

    __slots__ = ("but", "facets", "matches", "type")

    def __init__(
        self,
        number: int,
        define: str,
        type: str,
        facets: tuple[tuple[str, str], ...],
        matches: Callable[[str], bool],
    ) -> None:
        super().__init__(number, False, define)
        self.type = type
        self.facets = facets
        self.matches = matches


class Value(Leaf):
    """One text."""

    __slots__ = ("matches", "text")

    def __init__(self, number: int, define: str, text: str, matches: Callable[[str], bool]) -> None:
        super().__init__(number, False, define)
        self.text = text
        self.matches = matches


class Listing(Leaf):
    """Words with blanks between them, each after the other as the part says."""

    __slots__ = ("part",)

    def __init__(self, number: int, define: str, part: Pattern) -> None:
        super().__init__(number, False, define)
        self.part = part


class Attribute(Leaf):
    """An attribute and its value."""

    __slots__ = ("content", "names")

    def __init__(self, number: int, define: str, names: NameClass, content: Pattern) -> None:
        super().__init__(number, False, define)
        self.has_attributes = True
        self.names = names
        self.content = content


class Element(Leaf):
    """An element and its content, which is read when it is first asked for."""

    __slots__ = ("_content", "_index", "_read", "_wild", "names")

    def __init__(
        self, number: int, define: str, names: NameClass, read: Callable[[], Pattern]
    ) -> None:
        super().__init__(number, False, define)
        self.names = names
        self._read = read
        self._content: Pattern | None = None
        self._index: dict[str, _Named] = {}
        # those that may have any name
        self._wild: tuple[Element | Attribute, ...] = ()

    @property
    def content(self) -> Pattern:
        if self._content is None:
            self._content = self._read()
        return self._content

    def attributes(self, name: str) -> frozenset[Attribute]:
        """The attributes of this name that it may have."""
        return self._named(name)[1]

    def children(self, name: str) -> frozenset[Element]:
        """The children of this name that it may have."""
        return self._named(name)[0]

    def _named(self, name: str) -> _Named:
        if not self._index:
            self._index = self._indexed()
        found = self._index.get(name)
        if found is not None:
            return found
        # what is unknown is of documents, and never ends: it is not kept
        return _of_kinds(x for x in self._wild if name in x.names) if self._wild else _NONE

    def _indexed(self) -> dict[str, _Named]:
        """What there is by each name that the schema says."""
        leaves = [x for x in self.content.leaves if isinstance(x, Element | Attribute)]
        self._wild = wild = tuple(x for x in leaves if x.names.is_wild)
        named: dict[str, list[Element | Attribute]] = {}
        for leaf in leaves:
            for name in leaf.names.known():
                named.setdefault(name, []).append(leaf)
        return {
            name: _of_kinds([*found, *(x for x in wild if name in x.names)])
            for name, found in named.items()
        }


_Named = tuple[frozenset[Element], frozenset[Attribute]]
_NONE: _Named = (frozenset(), frozenset())


def _of_kinds(leaves: Iterable[Element | Attribute]) -> _Named:
    found = list(leaves)
    return (
        frozenset(x for x in found if isinstance(x, Element)),
        frozenset(x for x in found if isinstance(x, Attribute)),
    )


Leaves = frozenset[Leaf]


class Algebra:
    """Makes patterns and derives them; holds all that it made."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Pattern] = {}
        self._after: dict[tuple[Pattern, Leaves], Pattern] = {}
        self._without: dict[tuple[Pattern, Leaves], Pattern] = {}
        self._closed: dict[tuple[Pattern, bool], Pattern] = {}
        self._accepted: dict[tuple[Pattern, str], bool] = {}
        self._fitting: dict[tuple[frozenset[Attribute], str], frozenset[Attribute]] = {}
        self._number = 0
        self.empty = Pattern(self.next(), True)
        self.nothing = Pattern(self.next(), False)
        self.text = Text(self.next(), True)

    def next(self) -> int:
        """The number of the next pattern."""
        self._number += 1
        return self._number

    @property
    def size(self) -> int:
        """How many patterns and derivatives there are: what its memory grows with."""
        return self._number + len(self._after) + len(self._without)

    def _combined(self, kind: type[Pattern], nullable: bool, parts: tuple[Pattern, ...]) -> Pattern:
        key = (kind, *parts)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = kind(self.next(), nullable, parts)
        return made

    def choice(self, parts: Iterable[Pattern]) -> Pattern:
        found: dict[Pattern, None] = {}
        for part in parts:
            if isinstance(part, Choice):
                found.update(dict.fromkeys(part.parts))
            elif part is not self.nothing:
                found[part] = None
        if self.empty in found and any(each.nullable for each in found if each is not self.empty):
            del found[self.empty]
        if len(found) < 2:
            return next(iter(found), self.nothing)
        ordered = tuple(sorted(found, key=_number))
        return self._combined(Choice, any(each.nullable for each in ordered), ordered)

    def group(self, first: Pattern, second: Pattern) -> Pattern:
        if first is self.nothing or second is self.nothing:
            return self.nothing
        if first is self.empty:
            return second
        if second is self.empty:
            return first
        if isinstance(first, Group):
            return self.group(first.parts[0], self.group(first.parts[1], second))
        return self._combined(Group, first.nullable and second.nullable, (first, second))

    def interleave(self, parts: Iterable[Pattern]) -> Pattern:
        found: list[Pattern] = []
        for part in parts:
            if isinstance(part, Interleave):
                found += part.parts
            elif part is self.nothing:
                return self.nothing
            elif part is not self.empty:
                found.append(part)
        if len(found) < 2:
            return found[0] if found else self.empty
        ordered = tuple(sorted(found, key=_number))
        return self._combined(Interleave, all(each.nullable for each in ordered), ordered)

    def one_or_more(self, part: Pattern) -> Pattern:
        if part is self.nothing or part is self.empty or isinstance(part, OneOrMore):
            return part
        return self._combined(OneOrMore, part.nullable, (part,))

    def optional(self, part: Pattern) -> Pattern:
        return self.choice((part, self.empty))

    def after(self, pattern: Pattern, leaves: Leaves) -> Pattern:
        """What may follow a child or text that matches exactly `leaves`."""
        if leaves.isdisjoint(pattern.leaves):
            return self.nothing
        key = (pattern, leaves)
        found = self._after.get(key)
        if found is None:
            found = self._after[key] = self._derived(pattern, leaves, self.after, ordered=True)
        return found

    def without(self, pattern: Pattern, leaves: Leaves) -> Pattern:
        """What is left after an attribute that matches exactly `leaves`."""
        if leaves.isdisjoint(pattern.leaves):
            return self.nothing
        key = (pattern, leaves)
        found = self._without.get(key)
        if found is None:
            found = self._without[key] = self._derived(pattern, leaves, self.without, ordered=False)
        return found

    def _derived(
        self,
        pattern: Pattern,
        leaves: Leaves,
        derive: Callable[[Pattern, Leaves], Pattern],
        ordered: bool,
    ) -> Pattern:
        if isinstance(pattern, Leaf):
            if pattern not in leaves:
                return self.nothing
            return pattern if isinstance(pattern, Text) else self.empty
        parts = pattern.parts
        if isinstance(pattern, Choice):
            return self.choice([derive(part, leaves) for part in parts])
        if isinstance(pattern, OneOrMore):
            return self.group(derive(parts[0], leaves), self.optional(pattern))
        found = []
        if isinstance(pattern, Group):
            first, second = parts
            found.append(self.group(derive(first, leaves), second))
            if not ordered:
                found.append(self.group(first, derive(second, leaves)))
            elif first.nullable:
                found.append(derive(second, leaves))
            return self.choice(found)
        for number, part in enumerate(parts):
            derived = derive(part, leaves)
            if derived is not self.nothing:
                found.append(self.interleave((derived, *parts[:number], *parts[number + 1 :])))
        return self.choice(found)

    def closed(self, pattern: Pattern, *, forced: bool = False) -> Pattern:
        """What is left at the end of the start tag; forced: as if all attributes were there."""
        if not pattern.has_attributes:
            return pattern
        key = (pattern, forced)
        found = self._closed.get(key)
        if found is not None:
            return found
        if isinstance(pattern, Attribute):
            found = self.empty if forced else self.nothing
        else:
            parts = [self.closed(part, forced=forced) for part in pattern.parts]
            if isinstance(pattern, Choice):
                found = self.choice(parts)
            elif isinstance(pattern, Group):
                found = self.group(*parts)
            elif isinstance(pattern, Interleave):
                found = self.interleave(parts)
            else:
                found = self.one_or_more(*parts)
        self._closed[key] = found
        return found

    def matching(self, pattern: Pattern, text: str) -> Leaves:
        """The leaves of a pattern that a text matches."""
        return frozenset(leaf for leaf in pattern.leaves if self._matches(leaf, text))

    def accepts(self, pattern: Pattern, text: str) -> bool:
        """Whether a value, or the whole text of an element without children, is allowed."""
        key = (pattern, text)
        found = self._accepted.get(key)
        if found is None:
            if pattern.nullable and not text.strip(" \t\r\n"):
                return True
            leaves = self.matching(pattern, text)
            found = bool(leaves) and self.after(pattern, leaves).nullable
            if len(text) < 100:
                if len(self._accepted) > 20_000:
                    self._accepted.clear()
                self._accepted[key] = found
        return found

    def fitting(self, attributes: frozenset[Attribute], value: str) -> frozenset[Attribute]:
        """Those of some attributes that may have a value."""
        key = (attributes, value)
        found = self._fitting.get(key)
        if found is None:
            found = frozenset([x for x in attributes if self.accepts(x.content, value)])
            if len(value) < 100:
                if len(self._fitting) > 20_000:
                    self._fitting.clear()
                self._fitting[key] = found
        return found

    def _matches(self, leaf: Leaf, text: str) -> bool:
        if isinstance(leaf, Data | Value):
            return leaf.matches(text)
        if isinstance(leaf, Listing):
            rest = leaf.part
            for word in text.split():
                rest = self.after(rest, self.matching(rest, word))
            return rest.nullable
        return isinstance(leaf, Text)


def _number(pattern: Pattern) -> int:
    return pattern.number
