"""Document: that nothing is lost, that edits stay where they belong, that bad input ends early.

Rules
- Where an element stands is said by expat, never by the code under test.
- Byte laws are compared as UTF-8 of the decoded text; the encodings have tests of their own.
- A hostile document costs bounded memory and time, measured from outside, in a fresh process.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

import pytest
import strategies
from corpus import samples, table
from hypothesis import assume, given
from hypothesis import strategies as st
from lxml import etree
from strategies import LAWS, TreeEdit, apply, tree_edits, xml_sources

from xmlkit.document import (
    MIB,
    Document,
    DocumentError,
    Edit,
    InsertBefore,
    Limits,
    Remove,
    Replace,
    SetAttributes,
)

_TAG = re.compile(rb"<[^\"'>]*(?:\"[^\"]*\"[^\"'>]*|'[^']*'[^\"'>]*)*>")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an element is in the text as UTF-8; inner: where its start tag ends."""

    start: int
    inner: int
    end: int


def utf8(document: Document) -> bytes:
    """The text of a document as UTF-8, the byte order mark included."""
    return document.text.encode()


def places(document: Document) -> list[Place]:
    """The place of each element, in the order of the document."""
    data = utf8(document)
    parser = expat.ParserCreate("utf-8")
    found: list[Place] = []
    opened: list[int] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        at = parser.CurrentByteIndex
        tag = _TAG.match(data, at)
        assert tag is not None
        opened.append(len(found))
        found.append(Place(at, tag.end(), tag.end()))

    def end(name: str) -> None:
        number = opened.pop()
        place = found[number]
        if data[place.inner - 2 : place.inner] != b"/>":
            last = data.index(b">", parser.CurrentByteIndex) + 1
            found[number] = Place(place.start, place.inner, last)

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.Parse(data, True)
    return found


def line_and_column(data: bytes, at: int) -> tuple[int, int]:
    """Where `at` is for an editor: from 1, in characters, and a byte order mark is none."""
    lines = data[:at].decode().removeprefix(strategies.BOM).split("\n")
    return len(lines), len(lines[-1]) + 1


def elements(document: Document) -> list[etree._Element]:
    """The elements of a document, in its order."""
    return list(document.root.iter(etree.Element))


def assert_only_within(before: bytes, after: bytes, start: int, end: int) -> None:
    """What is outside of before[start:end] is unchanged."""
    assert before[:start] == after[:start]
    assert before[end:] == after[max(start, len(after) - (len(before) - end)) :]


def meaning(node: etree._Element, *, blanks: bool = True) -> list[object]:
    """What a node says, however it is written and whatever its prefixes are.

    blanks: white space between elements counts.
    """

    def text(value: str | None) -> str:
        return value if value and (blanks or value.strip()) else ""

    if not isinstance(node.tag, str):
        return [node.tag, node.text, getattr(node, "target", "")]
    said: list[object] = [node.tag, sorted(node.items()), text(node.text)]
    for child in node:
        said += meaning(child, blanks=blanks), text(child.tail)
    return said


def assert_says(expected: etree._Element, document: Document, *, indented: bool = False) -> None:
    """The document reads as `expected`; indented: but for white space between elements."""
    again = Document.parse(document.source).root
    assert meaning(expected, blanks=not indented) == meaning(again, blanks=not indented)


# The documents of libvirt's tests.


def test_the_table_is_libvirts(libvirt_source: Path) -> None:
    """The table has the 16 public schemas and the 2,963 documents of libvirt 9.0.0."""
    rows = table(libvirt_source)
    text = (libvirt_source / "tests/virschematest.c").read_text()
    assert text.count('DO_TEST(SCHEMAS_PATH "') == len({row.schema for row in rows}) == 16
    found = samples(libvirt_source)
    assert 2963 == len(found)
    assert 57 == sum(not sample.expected_valid for sample in found)


def test_every_document_of_libvirt_is_its_bytes(libvirt_source: Path) -> None:
    """A tree that was not edited gives the same bytes, for each document."""
    for sample in samples(libvirt_source):
        source = sample.path.read_bytes()
        document = Document.parse(source)
        assert source == document.lay(document.tree()).source, sample.path


def test_every_element_of_libvirt_is_where_expat_sees_it(libvirt_source: Path) -> None:
    """text_of and place_of say of each element what expat says, asked in any order."""
    for sample in samples(libvirt_source):
        document = Document.parse(sample.path.read_bytes())
        data = utf8(document)
        pairs = list(zip(elements(document), places(document), strict=True))
        random.Random(sample.path.name).shuffle(pairs)  # noqa: S311 - which come first only
        for element, place in pairs[:50]:
            assert data[place.start : place.end] == document.text_of(element).encode(), sample.path
            assert line_and_column(data, place.start) == document.place_of(element), sample.path


def test_an_edit_of_one_attribute_stays_in_its_tag(libvirt_source: Path) -> None:
    """One attribute edited differs only inside that start tag, and its reverse undoes it."""
    reversed_ = 0
    for sample in samples(libvirt_source):
        document = Document.parse(sample.path.read_bytes())
        before = utf8(document)
        where = places(document)
        tree = document.tree()
        numbered = [
            (number, key)
            for number, element in enumerate(tree.iter(etree.Element))
            for key in map(str, element.attrib)
            if not key.startswith("{")
        ]
        if not numbered:
            continue
        number, key = random.Random(sample.path.name).choice(numbered)  # noqa: S311 - any will do
        element = list(tree.iter(etree.Element))[number]
        old = element.get(key) or ""
        element.set(key, "new 'value' & <\"é\">")
        after = document.lay(tree)
        place = where[number]
        assert before != utf8(after), sample.path
        assert_only_within(before, utf8(after), place.start, place.inner)
        assert_says(tree, after)
        same = document.edited([SetAttributes(elements(document)[number], {key: element.get(key)})])
        assert same.source == after.source, sample.path
        if old.encode() in before[place.start : place.inner]:  # else it is written otherwise
            back = after.tree()
            list(back.iter(etree.Element))[number].set(key, old)
            assert document.source == after.lay(back).source, sample.path
            reversed_ += 1
    assert reversed_ > 2500


# Any document.


@LAWS
@given(xml_sources())
def test_an_unedited_tree_changes_nothing(source: bytes) -> None:
    """Laying a tree that was not edited, and no edits at all, give the bytes that came in."""
    document = Document.parse(source)
    assert source == document.source
    assert source == document.lay(document.tree()).source
    assert source == document.edited([]).source


@LAWS
@given(xml_sources(), st.randoms(use_true_random=False))
def test_elements_are_where_expat_sees_them(source: bytes, order: random.Random) -> None:
    """text_of and place_of agree with expat, whichever element is asked for first."""
    document = Document.parse(source)
    data = utf8(document)
    pairs = list(zip(elements(document), places(document), strict=True))
    order.shuffle(pairs)
    for element, place in pairs:
        assert data[place.start : place.end] == document.text_of(element).encode()
        assert line_and_column(data, place.start) == document.place_of(element)


# A move out of the scope of a prefix has a test of its own.
EVERYTHING_BUT_MOVING: tuple[strategies.Kind, ...] = (
    *("set", "delete", "text", "tail"),
    *("insert", "append", "remove", "rename"),
)


@LAWS
@given(xml_sources(), tree_edits(*EVERYTHING_BUT_MOVING))
def test_one_edit_stays_where_it_belongs(source: bytes, edit: TreeEdit) -> None:
    """An edit of a tree is what the bytes say then, and the bytes around it are unchanged."""
    document = Document.parse(source)
    tree = document.tree()
    was = list(tree.iter(etree.Element))
    lineage = {element: [element, *element.iterancestors()] for element in was}
    touched = [element for element in apply(edit, tree) if element in lineage]
    assume(touched)
    after = document.lay(tree)
    assert_says(tree, after, indented=edit.kind in ("insert", "append"))
    common = next(
        each for each in lineage[touched[0]] if all(each in lineage[other] for other in touched)
    )
    place = places(document)[was.index(common)]
    only_the_tag = edit.kind in ("set", "delete")
    end = place.inner if only_the_tag else place.end
    assert_only_within(utf8(document), utf8(after), place.start, end)


@LAWS
@given(xml_sources(redeclared=False), st.lists(tree_edits(), min_size=1, max_size=5))
def test_many_edits(source: bytes, edits: list[TreeEdit]) -> None:
    """After any edits the bytes say what the tree says; what was not edited is as it was."""
    document = Document.parse(source)
    tree = document.tree()
    origins = dict(zip(tree.iter(etree.Element), elements(document), strict=True))
    touched: set[etree._Element] = set()
    for edit in edits:
        touched |= apply(edit, tree)
    after = document.lay(tree)
    added = any(edit.kind in ("insert", "append") for edit in edits)
    assert_says(tree, after, indented=added)
    for now, element in zip(elements(after), tree.iter(etree.Element), strict=True):
        if element in origins and touched.isdisjoint(element.iter()):
            assert document.text_of(origins[element]) == after.text_of(now)


def test_an_attribute_with_two_prefixes_for_its_namespace() -> None:
    """The attribute is found by the prefix that it is written with."""
    source = "<a xmlns:p='urn:one' xmlns:q='urn:one'><b p:c='1'/><b q:c='1'/></a>"

    def change(a: etree._Element) -> None:
        for child in a:
            child.set("{urn:one}c", "2")

    def delete(a: etree._Element) -> None:
        for child in a:
            del child.attrib["{urn:one}c"]

    assert source.replace("'1'", "'2'") == edited(source, change)
    assert "<a xmlns:p='urn:one' xmlns:q='urn:one'><b/><b/></a>" == edited(source, delete)


def test_an_element_of_no_namespace_within_a_default_one() -> None:
    """An added element that is in no namespace does not fall into the one around it."""
    document = Document.parse("<a xmlns='urn:one'><b/></a>")
    tree = document.tree()
    etree.SubElement(tree[0], "c", {"d": "1"})
    assert_says(tree, document.lay(tree))


@pytest.mark.parametrize(
    ("source", "moved", "to"),
    [
        ("<a><b xmlns='urn:one'><c>x</c></b><d/></a>", 2, 3),
        ("<a><p:b xmlns:p='urn:one' xmlns='urn:two'><p:c><d p:e='1'/></p:c></p:b><d/></a>", 2, 4),
        ("<a xmlns:p='urn:one'><p:b/><c xmlns:p='urn:two'><p:d/></c></a>", 1, 2),
        (
            "<a xmlns:p='urn:one'><b><p:b p:c='1'>x</p:b></b><c xmlns:p='urn:two'><p:d/></c></a>",
            1,
            3,
        ),
        ("<a xmlns:p='urn:two'><p:b/><c xmlns:p='urn:one' xmlns='urn:one'><p:d/></c></a>", 3, 1),
    ],
)
def test_a_move_out_of_the_scope_of_a_prefix(source: str, moved: int, to: int) -> None:
    """An element keeps its namespace wherever it goes, and so does what is in it."""
    document = Document.parse(source)
    tree = document.tree()
    nodes = list(tree.iter())
    nodes[to].append(nodes[moved])
    assert_says(tree, document.lay(tree))


@LAWS
@given(xml_sources(), st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ri<")), max_size=4))
def test_elements_removed_replaced_and_inserted(
    source: bytes, wanted: list[tuple[int, str]]
) -> None:
    """Remove takes the white space in front along, Replace and InsertBefore nothing at all."""
    document = Document.parse(source)
    data = utf8(document)
    all_elements, where = elements(document), places(document)
    pieces: list[bytes] = []
    edits: list[Edit] = []
    at = 0
    for number in sorted({number % len(all_elements) for number, _ in wanted} - {0}):
        kind = {n % len(all_elements): kind for n, kind in wanted}[number]
        element, place = all_elements[number], where[number]
        start = len(data[: place.start].rstrip(b" \t\r\n"))
        if start < at:
            continue  # inside one that was edited already, or beside it
        blank = data[start : place.start]
        if kind == "r":
            edits.append(Remove(element))
            pieces.append(data[at:start])
        elif kind == "i":
            edits.append(InsertBefore(element, "new", {}))
            pieces += data[at : place.start], b"<new/>", blank, data[place.start : place.end]
        else:
            edits.append(Replace(element, "<b> <![CDATA[<]]></b>"))
            pieces += data[at : place.start], b"<b> <![CDATA[<]]></b>"
        at = place.end
    pieces.append(data[at:])
    after = document.edited(edits[::-1])
    assert b"".join(pieces) == utf8(after)
    Document.parse(after.source)


@LAWS
@given(
    xml_sources(),
    st.dictionaries(
        st.integers(0, 9),
        st.dictionaries(
            st.sampled_from([*strategies.NAMES, "new"]),
            st.none() | strategies.strings(),
            min_size=1,
            max_size=3,
        ),
        max_size=3,
    ),
)
def test_attributes_set_and_taken_away(
    source: bytes, wanted: dict[int, dict[str, str | None]]
) -> None:
    """SetAttributes says just what it is given, and changes only the start tags it names."""
    document = Document.parse(source)
    tree = document.tree()
    all_elements, copied = elements(document), list(tree.iter(etree.Element))
    by_number = {number % len(copied): values for number, values in wanted.items()}
    for number, values in by_number.items():
        for name, value in values.items():
            if value is not None:
                copied[number].set(name, value)
            elif name in copied[number].attrib:
                del copied[number].attrib[name]
    after = document.edited(SetAttributes(all_elements[n], v) for n, v in by_number.items())
    assert_says(tree, after)
    before, now = utf8(document), utf8(after)
    outside, still = [], []
    at = then = 0
    pairs = enumerate(zip(places(document), places(after), strict=True))
    for number, (place, later) in pairs:
        if number in by_number:
            outside.append(before[at : place.start])
            still.append(now[then : later.start])
            at, then = place.inner, later.inner
    assert [*outside, before[at:]] == [*still, now[then:]]


# Style.


def edited(source: str, edit: Callable[[etree._Element], object]) -> str:
    """A document's text after an edit of its tree."""
    document = Document.parse(source)
    tree = document.tree()
    edit(tree)
    return document.lay(tree).text


def test_an_added_attribute_takes_the_quotes_of_its_tag() -> None:
    """New quotes are the tag's own; the place of a removed attribute is taken by a new one."""
    assert edited("<a b=\"1\"><c d='2'/></a>", lambda a: a[0].set("e", "3")) == (
        "<a b=\"1\"><c d='2' e='3'/></a>"
    )
    document = Document.parse("<a b = '1'\n   c=\"2\" d='3' />")
    new = document.edited([SetAttributes(document.root, {"b": None, "e": "<'\">"})])
    assert "<a e='&lt;&apos;\">'\n   c=\"2\" d='3' />" == new.text.replace(" e = ", " e=")


def test_a_changed_attribute_keeps_its_quotes_and_spaces() -> None:
    """Only the value between the quotes changes."""
    source = "<a  x = '1'\n\ty=\"2\"\r\n/>"
    assert "<a  x = '9'\n\ty=\"2\"\r\n/>" == edited(source, lambda a: a.set("x", "9"))
    assert "<a  x = '1'\n\ty=\"'&quot;\"\r\n/>" == edited(source, lambda a: a.set("y", "'\""))


def test_a_tag_without_attributes_takes_the_quotes_of_the_document() -> None:
    """The quotes of the first attribute after the XML declaration, ' where there is none."""
    assert '<a><b c="1"/><d e="2"/></a>' == edited(
        '<a><b c="1"/><d/></a>', lambda a: a[1].set("e", "2")
    )
    assert "<?xml version=\"1.0\"?><a b='1'/>" == edited(
        '<?xml version="1.0"?><a/>', lambda a: a.set("b", "1")
    )
    document = Document.parse('<a b="1"><c/><d e="2"/></a>')
    added: list[Edit] = [
        SetAttributes(document.root[0], {"f": "3"}),
        InsertBefore(document.root[1], "g", {"h": "4"}),
    ]
    assert '<a b="1"><c f="3"/><g h="4"/><d e="2"/></a>' == document.edited(added).text


def add_driver(disk: etree._Element) -> None:
    """Insert an element that has children, in front of all others."""
    driver = etree.Element("driver", {"type": "raw"})
    etree.SubElement(driver, "metadata_cache")
    disk.insert(0, driver)


def test_an_added_element_takes_the_indentation() -> None:
    """Added among lines, an element stands on a line of its own, and so do its children."""
    source = '<a>\n    <disk x="y">\n        <source/>\n    </disk>\n</a>\n'
    assert edited(source, lambda a: add_driver(a[0])) == (
        '<a>\n    <disk x="y">\n        <driver type="raw">\n            <metadata_cache/>\n'
        "        </driver>\n        <source/>\n    </disk>\n</a>\n"
    )
    assert edited(source, lambda a: etree.SubElement(a[0], "last")) == source.replace(
        "<source/>\n", "<source/>\n        <last/>\n"
    )
    assert edited("<a>\n  <b/>\n</a>", lambda a: etree.SubElement(a[0], "c")) == (
        "<a>\n  <b>\n    <c/>\n  </b>\n</a>"
    )


def test_an_added_element_on_one_line_stays_there() -> None:
    """Where there is no indentation none is made."""
    assert "<a><disk><driver type='raw'><metadata_cache/></driver><source/></disk></a>" == edited(
        "<a><disk><source/></disk></a>", lambda a: add_driver(a[0])
    )
    assert "<a>text<b/></a>" == edited("<a>text</a>", lambda a: etree.SubElement(a, "b"))


def test_what_is_added_takes_the_line_ends() -> None:
    """In a document of CRLF a new line ends so too; a lone CR in a text is written as such."""
    source = "<a>\r\n  <b/>\r\n</a>\r\n"
    assert "<a>\r\n  <b/>\r\n  <c/>\r\n</a>\r\n" == edited(
        source, lambda a: etree.SubElement(a, "c")
    )

    def write(a: etree._Element) -> None:
        a[0].text = "1\n2\r3"

    assert "<a>\r\n  <b>1\r\n2&#13;3</b>\r\n</a>\r\n" == edited(source, write)
    assert "<a>\r\n  <n/>\r\n  <b/>\r\n</a>\r\n" == edited_by_insert(source)


def edited_by_insert(source: str) -> str:
    """A document's text with an element in front of the root's first."""
    document = Document.parse(source)
    return document.edited([InsertBefore(document.root[0], "n", {})]).text


def test_removing_takes_the_line_along() -> None:
    """No empty line is left behind, neither by Remove nor by a tree."""
    source = "<a>\n  <b/>\n  <c/>\n</a>"
    document = Document.parse(source)
    assert "<a>\n  <b/>\n</a>" == document.edited([Remove(document.root[1])]).text
    assert "<a>\n  <c/>\n</a>" == edited(source, lambda a: a.remove(a[0]))


def test_comments_and_instructions_are_as_written() -> None:
    """Their line ends and blanks stay; one whose text is edited is written anew."""
    source = "<a>\r\n<!-- 1\r\n -->\r<?go   2\r\n ?><b/>\n</a>"
    assert source.replace("<b/>", "<b c='3'/>") == edited(source, lambda a: a[2].set("c", "3"))

    def rewrite(a: etree._Element) -> None:
        a[0].text = "<!4>"

    assert source.replace(" 1\r\n ", "<!4>") == edited(source, rewrite)


def test_a_tree_of_another_document_is_refused() -> None:
    """lay takes only what tree() of the same document returned."""
    one, other = Document.parse("<a/>"), Document.parse("<a/>")
    with pytest.raises(ValueError, match="not a tree of this document"):
        one.lay(other.tree())
    with pytest.raises(ValueError, match="not a tree of this document"):
        one.lay(one.root)


# Encodings.


@pytest.mark.parametrize(("declared", "codec", "mark"), strategies.ENCODINGS)
def test_encodings(declared: str | None, codec: str, mark: str) -> None:
    """A document is read as it declares, and written so again, mark and all."""
    letter = "a" if codec == "ascii" else "é"
    head = f"<?xml version='1.0' encoding='{declared}'?>" if declared else ""
    text = f"{mark}{head}<{letter} b='{letter}'>{letter}</{letter}>"
    document = Document.parse(text.encode(codec))
    assert text == document.text
    assert letter == document.kind
    assert (letter, letter) == (document.root.get("b"), document.root.text)
    tree = document.tree()
    tree.set("b", f"{letter}€😀")
    after = document.lay(tree)
    assert f"{letter}€😀" == Document.parse(after.source).root.get("b")
    reference = codec in ("ascii", "latin-1")
    new = f"{letter}&#8364;&#128512;" if reference else f"{letter}€😀"
    assert text.replace(f"b='{letter}'", f"b='{new}'").encode(codec) == after.source


@LAWS
@given(xml_sources(), st.sampled_from(["comment", "instruction", "element", "attribute"]))
def test_what_the_encoding_lacks_is_never_lost(source: bytes, where: str) -> None:
    """A character that the encoding has not comes back as it was, or the edit is refused.

    In text and attributes a reference stands for it; names and comments cannot have one.
    """
    document = Document.parse(source)
    tree = document.tree()
    if where == "comment":
        tree.append(etree.Comment("€"))
    elif where == "instruction":
        tree.append(etree.ProcessingInstruction("go", "€"))
    elif where == "element":
        etree.SubElement(tree, "ł")
    else:
        tree.set("ł", "1")
    try:
        after = document.lay(tree)
    except ValueError:
        assert_lacks(document, "€" if where in ("comment", "instruction") else "ł")
        return
    assert_says(tree, after, indented=True)


def assert_lacks(document: Document, character: str) -> None:
    """The document's encoding has no such character: it declares ASCII or Latin-1."""
    declared = re.match(r"\ufeff?<\?xml[^>]*?encoding=.([\w-]+)", document.text)
    assert declared is not None
    assert declared.group(1).lower() in ("us-ascii", "iso-8859-1"), character


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("<a>é€</a>", "utf-8"),
        ("<?xml version='1.0' encoding='ISO-8859-1'?><a>é</a>", "latin-1"),
        ("<?xml version='1.0' encoding='UTF-16'?><a>é€</a>", "utf-16"),
    ],
)
def test_a_str_is_encoded_as_it_declares(text: str, codec: str) -> None:
    """A str becomes bytes in the encoding of its XML declaration, else UTF-8."""
    document = Document.parse(text)
    assert text.encode(codec) == document.source
    assert text.removeprefix("\ufeff") == document.text.removeprefix("\ufeff")


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("<?xml version='1.0' encoding='ISO-8859-1'?><a>€</a>", id="lacking"),
        pytest.param("<?xml version='1.0' encoding='no-such'?><a/>", id="unknown-str"),
        pytest.param(b"<?xml version='1.0' encoding='no-such'?><a/>", id="unknown"),
        pytest.param(b"<?xml version='1.0' encoding='UTF-7'?><a>+ADw-b/+AD4-</a>", id="utf-7"),
        pytest.param(b"<?xml version='1.0' encoding='EBCDIC-CP-US'?><a/>", id="ebcdic"),
        pytest.param(b"<?xml version='1.0' encoding='windows-1252'?><a>\x80</a>", id="cp1252"),
        pytest.param(b"<?xml version='1.0' encoding='UTF-16'?><a/>", id="utf-16-in-ascii"),
        pytest.param(
            "\ufeff<?xml version='1.0' encoding='UTF-8'?><a/>".encode("utf-16-le"), id="utf-8-in-16"
        ),
        pytest.param(b"\xef\xbb\xbf<?xml version='1.0' encoding='latin1'?><a/>", id="mark-latin"),
        pytest.param("<a/>".encode("utf-32-le"), id="utf-32"),
        pytest.param("<a/>".encode("utf-32"), id="utf-32-mark"),
        pytest.param(b"\x4c\x81\x61\x6e", id="ebcdic-bytes"),
        pytest.param(b"<a>\xe9</a>", id="latin-undeclared"),
        pytest.param(b"<a>\xed\xa0\x80</a>", id="surrogate"),
        pytest.param(b"<a>\xc0\xbc</a>", id="overlong"),
        pytest.param("<a>é</a>".encode("utf-16-le")[:-1], id="utf-16-odd"),
        pytest.param(b"<?xml version='1.0' encoding='US-ASCII'?><a>\xe9</a>", id="not-ascii"),
        pytest.param("\ufeff<a>\ud800</a>".encode("utf-16-le", "surrogatepass"), id="lone-in-16"),
    ],
)
def test_encodings_that_are_refused(source: bytes | str) -> None:
    """Other encodings, and bytes that are not of the one that is declared, are no document."""
    with pytest.raises(DocumentError):
        Document.parse(source)


# Refusals.

DOCTYPE = "<!DOCTYPE a [<!ENTITY e 'x'>]>"


@pytest.mark.parametrize("codec", ["utf-8", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "before",
    [
        "",
        "<?xml version='1.0'?>",
        " \r\n\t",
        "<!-- a -->",
        "<!-- the word <!DOCTYPE a> in a comment -->\n",
        "<?go <!DOCTYPE?>",
        "<!-- > --><!----><?a?>\n<?b '<a>'?>",
    ],
)
def test_a_doctype_is_refused(before: str, codec: str) -> None:
    """Wherever a DOCTYPE may stand, and in each encoding; the message says where and why."""
    if before.startswith(" ") and codec != "utf-8":
        before = ""
    text = ("\ufeff" if codec != "utf-8" else "") + before + DOCTYPE + "<a>&e;</a>"
    with pytest.raises(DocumentError, match="has a DOCTYPE") as caught:
        Document.parse(text.encode(codec))
    lines = before.split("\n")
    assert (len(lines), len(lines[-1]) + 1) == (caught.value.line, caught.value.column)


@pytest.mark.parametrize(
    "text",
    [
        "<!-- <!DOCTYPE a [<!ENTITY e 'x'>]> --><a/>",
        "<a><!-- <!DOCTYPE a> --></a>",
        "<a><![CDATA[<!DOCTYPE a>]]></a>",
        "<a/><!-- <!DOCTYPE a> -->",
        "<?go <!DOCTYPE a>?><a b='!DOCTYPE'/>",
    ],
)
def test_the_word_alone_is_no_doctype(text: str) -> None:
    """A comment, a CDATA section or an instruction may mention it."""
    assert text.encode() == Document.parse(text).source


@LAWS
@given(xml_sources(), st.sampled_from(["lt", "custom", "nbsp"]))
def test_an_entity_is_never_expanded(source: bytes, name: str) -> None:
    """Of entities only XML's own five are known; the others make a document not well-formed."""
    document = Document.parse(source)
    text = document.text_of(document.root)
    wrapped = f"<a>{text}&{name};</a>"
    if name == "lt":
        assert "<" == (Document.parse(wrapped).root[-1].tail or "")[-1:]
    else:
        with pytest.raises(DocumentError, match="not well-formed"):
            Document.parse(wrapped)


@pytest.mark.timeout(30)
def test_no_network_and_no_file(tmp_path: Path) -> None:
    """Nothing that a document names is opened: no DTD, no XInclude, no stylesheet, no schema."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # whoever opens it waits, until the test has taken too long
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        web = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        for url in (web, pipe.as_uri(), str(pipe)):
            for text in (
                f"<?xml-stylesheet href='{url}'?><a xmlns:i='http://www.w3.org/2001/XInclude'>"
                f"<i:include href='{url}'/></a>",
                f"<a xmlns:s='http://www.w3.org/2001/XMLSchema-instance' "
                f"s:schemaLocation='urn:a {url}' s:noNamespaceSchemaLocation='{url}'/>",
            ):
                assert text.encode() == Document.parse(text).source
            for doctype in (
                f"<!DOCTYPE a SYSTEM '{url}'>",
                f"<!DOCTYPE a [<!ENTITY e SYSTEM '{url}'>]>",
                f"<!DOCTYPE a [<!ENTITY % e SYSTEM '{url}'> %e;]>",
            ):
                for text in (doctype, "<!-- -->" + doctype):
                    with pytest.raises(DocumentError, match="has a DOCTYPE"):
                        Document.parse(f"{text}<a>&e;</a>")
        with pytest.raises(BlockingIOError):
            server.accept()


def nested(depth: int) -> bytes:
    """A document of this depth."""
    return b"<a>" * depth + b"</a>" * depth


def test_the_depth_is_limited() -> None:
    """256 is deep enough unless more is asked for, up to 900."""
    assert nested(256) == Document.parse(nested(256)).source
    with pytest.raises(DocumentError, match="nested more than 256 deep"):
        Document.parse(nested(257))
    for depth in (1, 10, 255, 257, 900):
        limits = Limits(depth=depth)
        assert nested(depth) == Document.parse(nested(depth), limits).source
        with pytest.raises(DocumentError, match=f"nested more than {depth} deep"):
            Document.parse(nested(depth + 1), limits)
    for depth in (0, -1, 901):
        with pytest.raises(ValueError, match="from 1 to 900"):
            Limits(depth=depth)


def test_the_deepest_document_can_be_edited() -> None:
    """What is read can be edited at its innermost element, and compared."""
    document = Document.parse(nested(900), Limits(depth=900))
    tree = document.tree()
    list(tree.iter())[-1].text = "x"
    assert nested(900).replace(b"<a></a>", b"<a>x</a>") == document.lay(tree).source
    last = elements(document)[-1]
    assert b"<a>" * 900 + b"</a>" * 899 == document.edited([Replace(last, "<a>")]).source


def test_the_size_is_limited() -> None:
    """A document may have just as many bytes as the limit says."""
    source = b"<a>" + b"x" * 100 + b"</a>"
    assert source == Document.parse(source, Limits(size=len(source))).source
    with pytest.raises(DocumentError, match="larger than"):
        Document.parse(source, Limits(size=len(source) - 1))


def test_the_markup_is_limited() -> None:
    """Tags and attributes count together, and the limit itself is allowed."""
    source = b"<a b='1' c='2'><d/></a>"
    assert source == Document.parse(source, Limits(markup=5)).source
    with pytest.raises(DocumentError, match="more than 4 tags and attributes"):
        Document.parse(source, Limits(markup=4))
    wide = "<a b='1'><c/></a>".encode("utf-16-le")
    with pytest.raises(DocumentError, match="more than 3 tags and attributes"):
        Document.parse(b"\xff\xfe" + wide, Limits(markup=3))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (b"", 1),
        (b" \n\n", 0),
        (b"text", 1),
        (b"<a>\n  <b>\n</a>", 3),
        (b"<a>\n\n<b c=1/></a>", 3),
        (b"<a b='1' b='2'/>", 1),
        (b"<a/>\n<b/>", 2),
        (b"<a>\n&nbsp;</a>", 2),
        (b"<p:a/>", 1),
        (b"<a>\x00</a>", 1),
        (b"<a>\x01</a>", 1),
        (b"<a>&#1;</a>", 1),
        (b"<a>\n<!-- -- --></a>", 2),
        (b"<a>\n]]></a>", 2),
        (b"\n<?xml version='1.0'?><a/>", 2),
        (b"<a>\n<", 2),
        (b"<a>\n<![CDATA[x", 2),
    ],
)
def test_what_is_not_well_formed_is_refused_with_its_place(source: bytes, line: int) -> None:
    """The error names line and column, from 1, and the file if it is known; 0: any line."""
    with pytest.raises(DocumentError) as caught:
        Document.parse(source)
    error = caught.value
    assert (line or error.line) == error.line >= 1
    assert error.column >= 1
    assert f"line {error.line}: {error.reason}" == str(error)
    error.file = "f.xml"
    assert f"f.xml:{error.line}:{error.column}: {error.reason}" == str(error)
    assert "\n" not in str(error)


def test_the_column_is_the_place() -> None:
    """The column is that of the trouble, not of the line's start."""
    with pytest.raises(DocumentError) as caught:
        Document.parse(b"<a>\n    <b></c></a>")
    assert (2, 12) == (caught.value.line, caught.value.column)


@LAWS
@given(
    st.binary(max_size=60)
    | xml_sources().flatmap(lambda s: st.integers(0, len(s)).map(lambda n: s[:n] + b"\x00" + s[n:]))
)
def test_any_bytes_are_a_document_or_a_document_error(source: bytes) -> None:
    """No other exception leaves parse, and what it accepts it can find its way in."""
    try:
        document = Document.parse(source)
    except DocumentError:
        return
    assert source == document.lay(document.tree()).source
    place = places(document)[0]
    assert utf8(document)[place.start : place.end] == document.text_of(document.root).encode()


# Hostile documents.

HEAD = b"<domain type='kvm'><name>n</name><memory>1</memory><os><type>hvm</type></os><devices>"
TAIL = b"</devices></domain>"
NOVA = strategies.NOVA_METADATA.encode()


def disks(count: int, between: str = "") -> bytes:
    """A domain of so many disks, each a volume of the pool that the commands name."""
    text = "<disk type='file'><source file='/p/{0}'/><target dev='x{0}'/>" + between + "</disk>\n"
    return HEAD + "".join(map(text.format, range(count))).encode() + TAIL


def one_disk(between: bytes = b"", inside: bytes = b"", argument: bytes = b"") -> bytes:
    """A domain with one such disk, with something long in a tag, in the disk or behind it."""
    return (
        HEAD.replace(b">", b" xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>", 1)
        + b"<disk type='file'"
        + between
        + b"><source file='/p/a'/>"
        + inside
        + b"<target dev='vda'/></disk></devices><q:commandline><q:arg value='"
        + argument
        + b"'/></q:commandline></domain>"
    )


def commented(start: bytes, again: bytes) -> bytes:
    """A comment of what looks like markup, just within the limit."""
    return b"<!--" + start + again * 200_000 + b"-->"


def laughs() -> bytes:
    """Entities of entities."""
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    return f'<!DOCTYPE d [<!ENTITY e0 "ha">{entities}]><domain>&e9;</domain>'.encode()


HINT = b"<!-- password -->"  # that there may be secrets to look for
BIG = 60 * MIB
SECTION = 9_900_000  # libxml2 refuses a text of more than 10 million bytes

# Each with the exit codes that it may end in.
HOSTILE: dict[str, tuple[Callable[[], bytes], set[int]]] = {
    "deep-million": (lambda: nested(1_000_000), {2}),
    "deep-within-markup": (lambda: nested(120_000), {2}),
    "text-one": (lambda: b"<domain>" + b"x" * BIG + b"</domain>", {2}),
    "text-many": (lambda: HEAD + (b"x" * SECTION + b"<a/>") * 6 + TAIL, {0, 1, 2}),
    "text-wide": (
        lambda: HEAD + "😀".encode() + (b"x" * SECTION + b"<a/>") * 6 + TAIL,
        {0, 1, 2},
    ),
    "too-large": (lambda: b"<domain>" + b"x" * (64 * MIB - 16) + b"</domain>", {2}),
    "empty-elements": (lambda: b"<domain>" + b"<a/>" * (63 * MIB // 4) + b"</domain>", {2}),
    "elements-within-markup": (lambda: HEAD + b"<a/>" * 249_980 + TAIL, {0, 1, 2}),
    "attributes": (
        lambda: b"<domain " + b" ".join(b"a%d=''" % n for n in range(5_000_000)) + b"/>",
        {2},
    ),
    "attributes-within-markup": (
        lambda: b"<domain " + b" ".join(b"a%d=''" % n for n in range(249_000)) + b"/>",
        {0, 1, 2},
    ),
    "namespaces-within-markup": (
        lambda: (
            b"<domain "
            + b" ".join(b"xmlns:a%d='u%d'" % (n, n) for n in range(100_000))
            + b"><a0:a/></domain>"
        ),
        {0, 1, 2},
    ),
    "attribute-value": (lambda: b"<domain a='" + b"x" * BIG + b"'/>", {2}),
    "laughs": (laughs, {2}),
    "comment-open": (lambda: b"<!--" + b"x" * BIG, {2}),
    "comment-open-doctype": (lambda: b"<!-- <!DOCTYPE" + "😀".encode() + b"x" * BIG, {2}),
    "comments-doctype": (lambda: b"<!---->" * 240_000 + b"<!DOCTYPE a><a/>", {2}),
    "instruction-open": (lambda: b"<domain><?a " + b"x" * BIG, {2}),
    "cdata-open": (lambda: b"<domain><![CDATA[" + b"x" * BIG, {2}),
    "less-than": (lambda: b"<" * BIG, {2}),
    "less-than-within-markup": (lambda: b"<" * 240_000, {2}),
    "nuls": (lambda: b"\0" * BIG, {2}),
    "nuls-inside": (lambda: b"<domain>" + b"\0" * BIG + b"</domain>", {2}),
    "blanks": (lambda: b" " * BIG, {2}),
    "utf-16": (
        lambda: ("\ufeff<domain>" + ("x" * (SECTION // 2) + "<a/>") * 6 + "</domain>").encode(
            "utf-16-le"
        ),
        {0, 1, 2},
    ),
    "empty-disks": (lambda: HEAD + b"<disk/>" * 200_000 + TAIL, {0, 1, 2}),
    "disks": (lambda: disks(30_000), {0, 1, 2}),
    "disks-of-nova": (lambda: disks(30_000).replace(b"<memory>", NOVA + b"<memory>"), {0, 1, 2}),
    # in each of these a part is 1 MiB that one might look through again and again
    "blanks-in-a-tag": (lambda: one_disk(between=b" " * MIB), {0, 1, 2}),
    "lines-in-a-tag": (lambda: one_disk(between=b"\n" * MIB), {0, 1, 2}),
    "lines-in-a-disk": (lambda: one_disk(inside=b"\n" * MIB), {0, 1, 2}),
    "comment-in-a-disk": (lambda: one_disk(inside=b"<!--" + b"\n" * MIB + b"-->"), {0, 1, 2}),
    "dots-in-an-argument": (lambda: one_disk(inside=HINT, argument=b"." * MIB), {0, 1, 2}),
    "commas-in-an-argument": (
        lambda: one_disk(inside=HINT, argument=b"tok=," * (MIB // 5)),
        {0, 1, 2},
    ),
    "colons-in-an-argument": (
        lambda: one_disk(inside=HINT, argument=b"a://" + b":" * MIB),
        {0, 1, 2},
    ),
    "tags-in-a-comment": (lambda: one_disk(inside=commented(b"passw <a ", b"<a ")), {0, 1, 2}),
    "quotes-in-a-comment": (lambda: one_disk(inside=commented(b"passw", b"<a '\"")), {0, 1, 2}),
    "marks-in-a-comment": (lambda: one_disk(inside=commented(b"passw", b"<?a ")), {0, 1, 2}),
    "sections-in-a-comment": (
        lambda: one_disk(inside=commented(b"passw", b"<![CDATA[")),
        {0, 1, 2},
    ),
    "disks-with-comments": (lambda: disks(25_000, "<!-- -->"), {0, 1, 2}),
}

# Runs a command and says what it took; its own memory does not count.
MEASURE = """
import json, resource, subprocess, sys, time
start = time.monotonic()
# seconds of the processor, not of the clock: the machine may have other work
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), resource.RLIM_INFINITY))
done = subprocess.run(sys.argv[2:], stdin=subprocess.DEVNULL, capture_output=True)
wall = time.monotonic() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({
    "code": done.returncode,
    "stdout": done.stdout.decode(errors="replace")[:10_000],
    "stderr": done.stderr.decode(errors="replace")[:10_000],
    "cpu": used.ru_utime + used.ru_stime,
    "wall": wall,
    "rss": used.ru_maxrss / 1024,
}))
"""
XMLKIT = (sys.executable, "-c", "from xmlkit.cli import main; main()")
COMMANDS: dict[str, tuple[str, ...]] = {
    "validate": ("validate",),
    "diff": ("diff", "--pool", "p=/p"),
    "transform": ("transform", "--quiet", "--pool", "p=/p"),
}
CPU = 20  # seconds, then the kernel ends it; on an idle machine none needs more than 3
MEMORY = 300.0  # MiB


def measured(*command: str) -> dict[str, Any]:
    """The exit code, stderr, seconds and MiB of a command."""
    wrapper = [sys.executable, "-c", MEASURE, str(CPU), *command]
    done = subprocess.run(wrapper, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module", params=[*HOSTILE, "/dev/zero"])
def hostile(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, set[int]]]:
    """A file that means harm, and the exit codes that it may end in."""
    if request.param == "/dev/zero":
        yield "/dev/zero", {2}
        return
    make, codes = HOSTILE[request.param]
    path = tmp_path_factory.mktemp("hostile") / f"{request.param}.xml"
    path.write_bytes(make())
    yield str(path), codes
    path.unlink()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_hostile_document_ends_early(
    hostile: tuple[str, set[int]],
    command: str,
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each command ends within its bounds of time and memory, with one line and no traceback."""
    file, codes = hostile
    took = measured(*XMLKIT, *COMMANDS[command], file)
    for key in ("code", "cpu", "wall", "rss"):
        record_property(key, took[key])
    with capsys.disabled():
        print(
            f"\n  {command:<9} {Path(file).stem:<24} exit {took['code']}  "
            f"{took['cpu']:5.2f} s cpu  {took['wall']:5.2f} s  {took['rss']:4.0f} MiB",
            end="",
        )
    assert "Traceback" not in took["stderr"]
    assert took["code"] in codes, took["stderr"]
    if took["code"] == 2:
        # what validate finds is its answer, for the others it is trouble
        said, silent = ("stdout", "stderr") if command == "validate" else ("stderr", "stdout")
        assert "" == took[silent]
        # validate may show the line that it is about, and a caret
        assert took[said].count("\n") in ((1, 3) if command == "validate" else (1,))
        assert len(took[said]) < 1000
    assert took["rss"] <= MEMORY


def test_a_raised_limit_holds_to_the_end(tmp_path: Path) -> None:
    """What --max-depth and --max-markup let in is not refused when it is checked once more."""
    file = tmp_path / "deep.xml"
    disk = one_disk(argument=b"x")
    file.write_bytes(
        disk.replace(b"<memory>", b"<metadata>" + nested(300) + b"</metadata><memory>")
    )
    command = [*XMLKIT, "transform", "--quiet", "--pool", "p=/p", "--max-depth", "400", str(file)]
    done = subprocess.run(command, check=False, capture_output=True)
    assert (0, b"") == (done.returncode, done.stderr)
    assert b" pool='p' volume='a'" in done.stdout
    file.write_bytes(disks(30_000))  # each gets a tag and two attributes more
    command[-3:-1] = ["--max-markup", "1000000"]
    done = subprocess.run(command, check=False, capture_output=True)
    assert (0, b"") == (done.returncode, done.stderr)
