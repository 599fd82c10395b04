"""The words of findings: what a value should be, what was meant, where to read on."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from xmlkit import Document
from xmlkit.document import DocumentError
from xmlkit.validation import rng, schemas, words
from xmlkit.validation.pattern import Attribute, Element, Pattern
from xmlkit.validation.verdict import unreadable

WORD = st.text("abcdeXY-_", min_size=1, max_size=12)


@given(WORD, WORD)
def test_distance_is_a_distance(one: str, other: str) -> None:
    """Nothing to itself, more than nothing to others, the same there and back."""
    assert (words.distance(one, other) == 0) == (one == other)
    assert words.distance(one, other) == words.distance(other, one)


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("serail", ["alias", "serial", "driver"], ["serial"]),
        ("Disk", ["disk", "disks"], ["disk", "disks"]),
        ("on-crash", ["on_crash", "on_reboot"], ["on_crash"]),
        ("true", ["yes", "no"], ["yes"]),
        ("disabled", ["on", "off"], ["off"]),
        ("dv", ["dev", "bus"], ["dev"]),
        ("colour", ["bus", "dev", "tray"], []),
        ("x", ["a", "b"], []),
    ],
)
def test_the_nearest_comes_first_and_the_far_not_at_all(
    word: str, known: list[str], meant: list[str]
) -> None:
    """Slips of the pen, case, hyphens, and yes for true."""
    assert meant == words.near(word, known)


def test_what_a_word_begins_is_near_where_that_is_asked() -> None:
    """An abbreviation, or a word written out."""
    assert ["dir"] == words.near("directory", ["dir", "disk"], begun=True)
    assert [] == words.near("directory", ["dir", "disk"])


def values_of_libvirt() -> list[Pattern]:
    """What attributes and elements of all schemas may have as their values."""
    found: list[Pattern] = []
    for name in sorted(set(schemas.SCHEMAS.values())):
        waiting = list(rng.grammar(schemas.directory(), name).elements)
        for element in waiting:
            for leaf in element.content.leaves:
                if isinstance(leaf, Element) and leaf not in waiting:
                    waiting.append(leaf)
                found.append(leaf.content if isinstance(leaf, Attribute) else leaf)
    return found


def test_each_type_of_libvirts_schemas_is_said_in_words() -> None:
    """A few, and never as a regular expression."""
    said = {each for pattern in values_of_libvirt() for each in words.types([pattern])}

    assert 60 < len(said)
    for each in said:
        assert len(each) <= 70, each
        assert not re.search(r"[\[(]?[0-9a-z]-[0-9a-z][\])][+*{]|\\[sdw.]|\)\?|\.\+", each), each


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<a><b></a>", "<b> of line 1 has no end tag before </a>"),
        ("<a><b>", "<b> of line 1 has no end tag"),
        ("<a b=c/>", "an attribute's value has no quotes around it"),
        ("<a b/>", "the attribute b has no value"),
        ("<a b='1' b='2'/>", "the attribute b stands twice"),
        ("<a b='1'c='2'/>", "a blank is missing between its attributes"),
        ("<a", "the tag <a has no > at its end"),
        ("<a b='1></a>", "no closing quote"),
        ("<a>1 < 2</a>", "write &lt;"),
        ("<a>x & y</a>", "write &amp;"),
        ("<a/><b/>", "behind the end of the root element"),
        ("text", "is it an XML file?"),
        ("", "it is empty"),
        ("<q:a/>", 'the root needs xmlns:q="..."'),
        ("<a><!-- x -- y --></a>", "a comment has -- in it"),
        ("<a><!-- x</a>", "a comment has no -->"),
        (" <?xml version='1.0'?><a/>", "<?xml is not at the beginning"),
        ("<a></a", "a tag has no > at its end"),
        ("<a>\x01</a>", "a control character (1)"),
        ("<a><![CDATA[x</a>", "has no ]]> at its end"),
    ],
)
def test_a_file_that_is_not_well_formed_gets_its_likely_cause(text: str, said: str) -> None:
    """In the place of what libxml2 says."""
    with pytest.raises(DocumentError) as raised:
        Document.parse(text)
    finding = unreadable(raised.value)

    assert finding.message.startswith("not well-formed: ")
    assert said in finding.message
    assert 1 == finding.line


def headings(page: Path) -> set[str]:
    """The anchors of a page of libvirt's documentation, as docutils makes them."""
    lines = page.read_text().split("\n")
    return {
        re.sub(r"[^a-z0-9]+", "-", line.lower()).strip("-")
        for line, under in itertools.pairwise(lines)
        if re.fullmatch(r"([=~^:\-`.\"'*+#])\1{2,}", under.strip())
    }


def test_each_link_leads_to_a_heading_of_libvirts_pages(libvirt_source: Path) -> None:
    """The pages are those of the source tree."""
    docs = libvirt_source / "docs"
    devices = words._HEADINGS["devices"]
    paths = [f"/{kind}" for kind in schemas.SCHEMAS]
    paths += [
        f"/{kind}/{name}"
        for kind in ("pool", "volume", "network", "domain")
        for name in words._HEADINGS[kind]
        if name
    ]
    paths += [f"/domain/devices/{name}" for name in devices] + [f"/{name}" for name in devices]
    paths += ["/domainsnapshot/domain/os", "/domainsnapshot/inactiveDomain/devices/disk/target"]
    for path in paths:
        link = words.link(built(path))
        page, _, anchor = link.removeprefix("https://libvirt.org/").partition("#")
        file = docs / page.replace(".html", ".rst")
        assert file.is_file(), link
        assert not anchor or anchor in headings(file), link


def built(path: str) -> etree._Element:
    """The last element of a path."""
    names = path.split("/")[1:]
    element = etree.Element(names[0])
    for name in names[1:]:
        element = etree.SubElement(element, name)
    return element


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<disk type='file'><target dev='vda'/></disk>", "disk vda"),
        (
            "<interface><mac address='52:54:00:12:34:56'/></interface>",
            "interface 52:54:00:12:34:56",
        ),
        ("<controller type='usb' index='0'/>", "controller usb 0"),
        ("<rng/>", "rng"),
    ],
)
def test_a_device_is_called_as_a_person_would(text: str, said: str) -> None:
    """In a domain, within it, and alone."""
    alone = etree.fromstring(text)
    domain = etree.fromstring(f"<domain><devices>{text}</devices></domain>")

    assert said == words.identity(alone)
    assert said == words.identity(domain[0][0])
    for child in domain[0][0]:
        assert said == words.identity(child)
    assert "" == words.identity(domain[0])
