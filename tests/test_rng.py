"""Reading schemas: libvirt's, and hostile ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lxml import etree

from xmlkit import Document, SchemaError, validate
from xmlkit.validation import rng, schemas
from xmlkit.validation.walk import Walk

INSTALLED = schemas.directory()
GRAMMAR = "<grammar xmlns='http://relaxng.org/ns/structure/1.0'>{}</grammar>"


@pytest.mark.parametrize("name", sorted(set(schemas.SCHEMAS.values())))
def test_each_of_libvirts_schemas_can_be_read_to_its_end(name: str) -> None:
    """Each element of it, down to the last."""
    grammar = rng.grammar(INSTALLED, name)

    assert grammar.elements
    assert () == grammar.parents_of("no-such-element")
    for element in grammar.elements:
        for child in sorted(element.names.known()):
            grammar.parents_of(child)


def test_the_parents_of_an_element_are_those_of_the_schema() -> None:
    """Anywhere in it."""
    grammar = rng.grammar(INSTALLED, "domain")

    assert ("cpu",) == grammar.parents_of("topology")
    assert "disk" in grammar.parents_of("target")
    assert ("domain",) == grammar.parents_of("devices")


def test_a_grammar_is_read_once_until_it_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays bounded: what documents have made of it is forgotten then."""
    first = rng.grammar(INSTALLED, "storagevol")
    assert rng.grammar(INSTALLED, "storagevol") is first
    monkeypatch.setattr(rng, "_LARGEST", first.algebra.size)
    assert rng.grammar(INSTALLED, "storagevol") is not first


def test_names_that_nothing_is_known_of_are_not_kept() -> None:
    """They are of documents, of which there is no end."""
    (leaf,) = rng.grammar(INSTALLED, "storagevol").elements
    assert leaf.children("name")
    known = len(leaf._index)
    for number in range(50):
        assert not leaf.attributes(f"no{number}")
        assert not leaf.children(f"no{number}")

    assert known == len(leaf._index)


def test_what_is_near_a_name_of_the_schema_is_kept_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slip is found for any word; words that only documents have would never end."""
    monkeypatch.setattr(rng, "_grammars", {})
    grammar = rng.grammar(INSTALLED, "storagevol")
    (leaf,) = grammar.elements
    walk = Walk(grammar, etree.fromstring("<volume/>"))

    def near(word: str) -> set[str]:
        return {name for each in walk._slips(leaf, word) for name in each.names.known()}

    assert {"name"} == near("nmae") == near("name")
    assert set() == near("nothing-like-it")
    assert {"name"} == {word for _, word in grammar.slips}


def test_of_many_grammars_the_largest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they are bounded, too; the others stay, so that nothing is read in a circle."""
    monkeypatch.setattr(rng, "_grammars", {})
    large = rng.grammar(INSTALLED, "domain")
    assert large.parents_of("disk")
    small = rng.grammar(INSTALLED, "storagevol")
    monkeypatch.setattr(rng, "_TOGETHER", large.algebra.size)

    assert rng.grammar(INSTALLED, "storagevol") is small
    assert rng.grammar(INSTALLED, "domain") is not large
    assert rng.grammar(INSTALLED, "storagevol") is small


HOSTILE = {
    "includes-itself": "<include href='domain.rng'/>",
    "includes-in-a-circle": "<include href='other.rng'/>",
    "includes-nothing": "<include href='missing.rng'/>",
    "includes-a-directory": "<include href='.'/>",
    "no-start": "<define name='a'><text/></define>",
    "undefined": "<start><ref name='a'/></start>",
    "defined-by-itself": "<start><ref name='a'/></start><define name='a'><ref name='a'/></define>",
    "defined-in-a-circle": (
        "<start><ref name='a'/></start><define name='a'><choice><ref name='b'/><text/></choice>"
        "</define><define name='b'><optional><ref name='a'/></optional></define>"
    ),
    "unknown-pattern": "<start><element name='a'><nonsense/></element></start>",
    "a-facet-that-is-no-number": (
        "<start><element name='domain'><data type='string' datatypeLibrary="
        "'http://www.w3.org/2001/XMLSchema-datatypes'><param name='maxLength'>x</param></data>"
        "</element></start>"
    ),
    "deep": "<start><element name='domain'>"
    + "<group>" * 230
    + "<text/>"
    + "</group>" * 230
    + "</element></start>",
    "not-well-formed": "<start>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_is_an_error_or_harmless(name: str, tmp_path: Path) -> None:
    """One line that says so; no recursion without end, no traceback."""
    (tmp_path / "domain.rng").write_text(GRAMMAR.format(HOSTILE[name]))
    (tmp_path / "other.rng").write_text(GRAMMAR.format("<include href='domain.rng'/>"))
    document = Document.parse("<domain><name/></domain>")
    place = str(tmp_path)
    read = attempted(lambda: [each.content for each in rng.grammar(place, "domain").elements])
    judged = attempted(lambda: validate(document, place))

    assert isinstance(read, SchemaError) or name == "deep"
    assert isinstance(judged, SchemaError) or judged
    for each in (read, judged):
        if isinstance(each, SchemaError):
            assert place in str(each)
            assert "\n" not in str(each)


def attempted(work: Callable[[], object]) -> object:
    """What comes of it, or the error."""
    try:
        return work()
    except SchemaError as error:
        return error


def test_entities_and_the_network_are_not_asked(tmp_path: Path) -> None:
    """What a schema's DOCTYPE names stays unread."""
    secret = tmp_path / "secret"
    secret.write_text("SECRET")
    (tmp_path / "domain.rng").write_text(
        f"<!DOCTYPE grammar [<!ENTITY x SYSTEM '{secret}'>]>"
        + GRAMMAR.format("<start><element name='domain'><value>&x;</value></element></start>")
    )
    grammar = rng.grammar(str(tmp_path), "domain")
    values = [getattr(leaf, "text", "") for e in grammar.elements for leaf in e.content.leaves]
    assert "SECRET" not in values
