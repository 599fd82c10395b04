"""Datatypes against libxml2, which has the last word."""

from __future__ import annotations

import re

import pytest
from lxml import etree

from xmlkit.validation import schemas
from xmlkit.validation.datatypes import INTEGERS, is_of, translated

RNG = "http://relaxng.org/ns/structure/1.0"
TYPES = "http://www.w3.org/2001/XMLSchema-datatypes"


def libxml2(type: str, facets: list[tuple[str, str]]) -> etree.RelaxNG:
    """A schema of one element <a> with a value of a type."""
    element = etree.Element(f"{{{RNG}}}element", {"name": "a", "datatypeLibrary": TYPES})
    data = etree.SubElement(element, f"{{{RNG}}}data", {"type": type})
    for name, value in facets:
        etree.SubElement(data, f"{{{RNG}}}param", {"name": name}).text = value
    return etree.RelaxNG(element.getroottree())


def value(text: str) -> etree._Element:
    element = etree.Element("a")
    element.text = text
    return element


def patterns() -> list[str]:
    """Each pattern of libvirt's schemas."""
    directory = schemas.directory()
    names = sorted(
        set(schemas.SCHEMAS.values()) | {"basictypes", "domaincommon", "nwfilter_params"}
    )
    return sorted(
        {
            param.text or ""
            for name in names
            for param in etree.parse(f"{directory}/{name}.rng").iter(f"{{{RNG}}}param")
            if param.get("name") == "pattern"
        }
    )


def test_each_pattern_of_libvirts_schemas_can_be_translated() -> None:
    """Into one that Python can use."""
    found = patterns()

    assert 60 < len(found)
    for pattern in found:
        re.compile(translated(pattern))


# What stands in libvirt's documents, and what nearly does.
TEXTS = (
    *("", " ", "0", "7", "8", "12", "255", "4096", "65535", "99999999999", "-1", "+1", "1.5"),
    *("0x", "0x1", "0xff", "0xFFFF", "0x12345", "ff", "FF", "0xzz", "0755", "999", "1.2.3"),
    *("a", "abc", "ABC", "a b", "a-b", "a_b", "a.b", "a/b", "a:b", "a+b", "a,b", "a\nb", "ä"),
    *("vda", "sda1", "ioemu:hda", "/", "/a", "/a/b-c_d.e", "C:\\x", "x/y", "[a] b", "[a]b"),
    *("$IP", "$ IP[1]", "^1", "0-3,^2", "1,2-", "(tcp)", "tcp", "udp", "tcpudp", "vepa"),
    *("52:54:00:12:34:56", "53:54:00:12:34:56", "52:54:00:12:34", "5:4:0:1:2:3", "52-54-00"),
    *("10.0.0.1", "10.0.0.256", "10.0.0", "::1", "fe80::1", "1::2::3", "fd00:0:0:0:0:0:0:1"),
    *("c7a5fdbd-edaf-9455-926a-d65c16db1809", "c7a5fdbdedaf9455926ad65c16db1809", "c7a5-9455"),
    *("KiB", "bytes", "GB", "kb", "xB", "iqn.2013-06.com.example:a", "iqn.13.x", "SYN,ACK/ALL"),
    *("llc_occupancy", "0123456789abcdef", "naa.0123456789abcdef", "Reply", "reply", "NEW"),
)


@pytest.mark.parametrize("pattern", patterns())
def test_a_pattern_means_what_libxml2_takes_it_for(pattern: str) -> None:
    """On what libvirt's documents have, and on what is nearly that."""
    schema = libxml2("string", [("pattern", pattern)])
    ours = is_of("string", [("pattern", pattern)])
    for text in TEXTS:
        theirs = schema.validate(value(text))
        # libxml2 takes a group that is counted from 0 for more than it says
        assert theirs == ours(text) or (theirs and "){0,3}" in pattern), text


@pytest.mark.parametrize("type", sorted(INTEGERS))
def test_integers_have_the_bounds_of_their_type(type: str) -> None:
    """At the bounds and beyond, with signs, blanks and what is no number."""
    schema, ours = libxml2(type, []), is_of(type, [])
    numbers = [
        number + off for number in (0, *INTEGERS[type]) if number is not None for off in (-1, 0, 1)
    ]
    texts = [str(number) for number in numbers] + ["", " 1 ", "+1", "1.0", "0x1", "1 2", "one"]
    for text in texts:
        assert schema.validate(value(text)) == ours(text), text


@pytest.mark.parametrize(
    ("type", "facets", "texts"),
    [
        (
            "int",
            [("minInclusive", "-1"), ("maxInclusive", "9")],
            ["-2", "-1", "9", "10", " 9", "x"],
        ),
        ("unsignedInt", [("pattern", "[0-9]+"), ("minInclusive", "1")], ["0", "1", " 1", "+1"]),
        ("string", [("maxLength", "3")], ["", "abc", "abcd", " a "]),
        ("double", [("minInclusive", "0")], ["0", "-1", "1.5", "1e3", "x"]),
        ("dateTime", [], ["2010-04-09T15:51:00", "2010-04-09", "x"]),
        ("NCName", [], ["a-b", "a:b", "1a", " a"]),
    ],
)
def test_facets_count(type: str, facets: list[tuple[str, str]], texts: list[str]) -> None:
    """As libxml2 counts them."""
    schema, ours = libxml2(type, facets), is_of(type, facets)
    for text in texts:
        assert schema.validate(value(text)) == ours(text), text


def test_an_unknown_type_accepts_everything() -> None:
    """The verdict is libxml2's."""
    assert is_of("newType", [])("anything")
