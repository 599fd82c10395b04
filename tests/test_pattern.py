"""Patterns: the laws of their algebra, and derivatives against plain enumeration."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from xmlkit.validation.pattern import (
    Algebra,
    Attribute,
    Choice,
    Element,
    Group,
    Interleave,
    NameClass,
    OneOrMore,
    Pattern,
)

ALGEBRA = Algebra()
NAMES = "abc"
LEAVES = {
    name: Element(ALGEBRA.next(), "", NameClass(frozenset(name)), lambda: ALGEBRA.empty)
    for name in NAMES
}

patterns = st.recursive(
    st.sampled_from([*LEAVES.values(), ALGEBRA.empty, ALGEBRA.nothing]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(ALGEBRA.choice),
        st.lists(inner, max_size=3).map(ALGEBRA.interleave),
        st.tuples(inner, inner).map(lambda pair: ALGEBRA.group(*pair)),
        inner.map(ALGEBRA.one_or_more),
        inner.map(ALGEBRA.optional),
    ),
    max_leaves=6,
)


def language(pattern: Pattern, length: int) -> set[str]:
    """The words of a pattern up to a length, by enumeration."""
    if isinstance(pattern, Element):
        return {name for name, leaf in LEAVES.items() if leaf is pattern and length}
    if pattern is ALGEBRA.empty:
        return {""}
    parts = [language(part, length) for part in pattern.parts]
    if isinstance(pattern, Choice):
        return set().union(*parts)
    if isinstance(pattern, Group):
        return {a + b for a, b in itertools.product(*parts) if len(a + b) <= length}
    if isinstance(pattern, Interleave):
        words = {""}
        for part in parts:
            words = {
                word
                for a, b in itertools.product(words, part)
                if len(a + b) <= length
                for word in shuffled(a, b)
            }
        return words
    if isinstance(pattern, OneOrMore):
        words = set(parts[0])
        for _ in range(length):
            words |= {a + b for a, b in itertools.product(words, parts[0]) if len(a + b) <= length}
        return words
    return set()


def shuffled(one: str, other: str) -> set[str]:
    if not one or not other:
        return {one + other}
    return {one[0] + rest for rest in shuffled(one[1:], other)} | {
        other[0] + rest for rest in shuffled(one, other[1:])
    }


def matches(pattern: Pattern, word: str) -> bool:
    for name in word:
        pattern = ALGEBRA.after(pattern, frozenset((LEAVES[name],)))
    return pattern.nullable


@given(patterns)
def test_derivatives_accept_the_words_of_the_pattern(pattern: Pattern) -> None:
    """All of them up to three letters, and no others."""
    words = language(pattern, 3)
    for length in range(4):
        for letters in itertools.product(NAMES, repeat=length):
            word = "".join(letters)
            assert (word in words) == matches(pattern, word), word


@given(patterns, patterns, patterns)
def test_of_two_alike_there_is_one_object(one: Pattern, two: Pattern, three: Pattern) -> None:
    """However they were put together."""
    choice, interleave = ALGEBRA.choice, ALGEBRA.interleave
    assert choice([one, two, three]) is choice([choice([three, one]), two, one])
    assert interleave([one, two, three]) is interleave([three, interleave([two, one])])
    grouped = ALGEBRA.group(one, ALGEBRA.group(two, three))
    assert grouped is ALGEBRA.group(ALGEBRA.group(one, two), three)


def test_attributes_come_in_any_order() -> None:
    """Also those of a group; what is left is the content."""
    one, two = (
        Attribute(ALGEBRA.next(), "", NameClass(frozenset(name)), ALGEBRA.text) for name in "xy"
    )
    content = ALGEBRA.group(one, ALGEBRA.group(LEAVES["a"], two))
    for order in ((one, two), (two, one)):
        left: Pattern = content
        for attribute in order:
            left = ALGEBRA.without(left, frozenset((attribute,)))
        assert LEAVES["a"] is ALGEBRA.closed(left)
    left = ALGEBRA.without(content, frozenset((one,)))
    assert ALGEBRA.nothing is ALGEBRA.closed(left)
    assert LEAVES["a"] is ALGEBRA.closed(left, forced=True)


def test_a_name_class_has_the_names_that_it_says() -> None:
    """Some, all, all of a namespace, all but some."""
    plain = NameClass(frozenset(("a", "{urn:x}b")))
    assert "a" in plain
    assert "{urn:x}b" in plain
    assert "b" not in plain
    assert "a" in NameClass(wild=True)
    assert "{urn:x}a" in NameClass(wild=True, uri="urn:x")
    assert "a" not in NameClass(wild=True, uri="urn:x")
    assert "a" in NameClass(wild=True, uri="")
    assert "a" not in NameClass(wild=True, but=plain)
    assert "a" in NameClass(others=(plain,))
    assert NameClass(others=(NameClass(wild=True),)).is_wild
