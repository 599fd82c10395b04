"""What the hook makes of incoming XML: volumes where it is sure, and every other byte as it came.

Rules
- Each reason for which a disk stays, with the near miss, one step away, in which it does not.
- Anything at all passes through, byte for byte and with a reason; nothing raises an error.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmlkit import Document, Host, Pool, Volume
from xmlkit.hook import Passed, incoming
from xmlkit.rules import RULES

FIXTURES = Path(__file__).parents[1] / "fixtures"
UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
OTHER = "0b6f9f0e-55aa-4d0e-8b4e-2f6a7a3d9c02"
INSTANCE = f"/var/lib/nova/instances/{UUID}"
DISKS = "/var/lib/nova/instances/disks"
XML = f"""\
<domain type='kvm' id='7'>
  <name>guest</name>
  <uuid>{UUID}</uuid>
  <devices>
    <disk type="file" device='disk'>
      <driver name='qemu' type='qcow2' cache="none"/>
      <source file='{INSTANCE}/disk' index='1'/>
      <backingStore type='file' index='2'><format type='raw'/><source file='/b'/></backingStore>
      <target dev='vda' bus='virtio'/>
    </disk>
    <!-- the end -->
  </devices>
</domain>
"""
REWRITTEN = f"""\
<domain type='kvm' id='7'>
  <name>guest</name>
  <uuid>{UUID}</uuid>
  <devices>
    <disk type="volume" device='disk'>
      <driver name='qemu' type='qcow2' cache="none"/>
      <source pool='disks' volume='{UUID}_disk'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <!-- the end -->
  </devices>
</domain>
"""


def a_pool(name: str, path: str, *volumes: str, type_: str = "dir", format_: str = "qcow2") -> Pool:
    """A pool that lists these volumes."""
    listed = (Volume(name, each, f"{path}/{each}", format=format_) for each in volumes)
    return Pool(name, type_, path, volumes=tuple(listed))


def a_host(*pools: Pool, models: tuple[str, ...] = ("dac",)) -> Host:
    return Host(9_000_000, "qemu", models, pools)


POOL = a_pool("disks", DISKS, f"{UUID}_disk")
HOST = a_host(POOL)
NAMES = {(f"{INSTANCE}/{name}", f"{DISKS}/{UUID}_{name}") for name in ("disk", "disk.local")}


def is_linked(a: str, b: str) -> bool:
    """As images.is_linked would say of a pool into which Nova's images are linked."""
    return (a, b) in NAMES


def passed(xml: str, host: Host = HOST) -> Passed:
    """What becomes of it, where the images are linked into the pool."""
    return incoming(xml.encode(), host, is_linked)


def changed(old: str, new: str, xml: str = XML) -> str:
    assert old in xml
    return xml.replace(old, new)


def disk(source: str, target: str = "vdb", *, type_: str = "file", rest: str = "") -> str:
    """The document with a second disk."""
    extra = (
        f"<disk type='{type_}'><driver name='qemu' type='qcow2'/><source {source}/>"
        f"<target dev='{target}'/>{rest}</disk>\n    <!-- the end"
    )
    return changed("<!-- the end", extra)


# To volumes.


def test_a_disk_whose_volume_is_here_becomes_a_volume() -> None:
    """What the source had filled in of its running guest goes; all else stays byte for byte."""
    assert Passed(REWRITTEN.encode(), ("vda",)) == passed(XML)


def test_an_image_in_a_pools_directory_becomes_its_volume() -> None:
    """It has one name, and that one is listed: there is no other image to mistake it for."""
    xml = changed(f"{INSTANCE}/disk", f"{DISKS}/{UUID}_disk")

    never = incoming(xml.encode(), HOST, lambda *_: False)

    assert Passed(REWRITTEN.encode(), ("vda",)) == never


def test_each_disk_is_decided_for_itself() -> None:
    """One has its volume here, the other has not: one is rewritten, with a reason for the other."""
    made = passed(disk(f"file='{INSTANCE}/disk.local'"))

    assert ("vda",) == made.rewritten
    assert 1 == len(made.reasons)
    assert made.reasons[0].startswith("vdb: no-volume: ")
    assert f"file='{INSTANCE}/disk.local'".encode() in made.xml


def test_what_it_makes_passes_through_the_next_time() -> None:
    """Applied twice is applied once, and a volume disk is no reason to tell of."""
    once = passed(XML)

    assert Passed(once.xml) == incoming(once.xml, HOST, is_linked)


def test_a_document_in_latin_1_stays_in_latin_1() -> None:
    """The encoding that is declared is the one that goes on."""
    head = "<?xml version='1.0' encoding='ISO-8859-1'?>\n"
    xml = (head + XML.replace("the end", "é")).encode("latin-1")
    expected = (head + REWRITTEN.replace("the end", "é")).encode("latin-1")

    assert Passed(expected, ("vda",)) == incoming(xml, HOST, is_linked)


# Reasons.


class Case(NamedTuple):
    """What keeps a disk on its path, and the near miss in which it does not."""

    reason: str
    xml: str = XML
    host: Host = HOST
    near: str = XML
    near_host: Host = HOST


TWICE = a_pool("more", "/srv/more", f"{UUID}_disk")
CASES = {
    "no pool at all": Case("no-volume", host=a_host()),
    "not listed": Case("no-volume", host=a_host(a_pool("disks", DISKS, f"{UUID}_disk.local"))),
    "listed by two pools": Case("no-volume", host=a_host(POOL, TWICE)),
    "never observed": Case("no-volume", host=a_host(replace(POOL, volumes=None))),
    "an image never observed": Case(
        "no-volume",
        xml=changed(f"{INSTANCE}/disk", f"{DISKS}/{UUID}_disk"),
        host=a_host(replace(POOL, volumes=None)),
    ),
    "inactive": Case(
        "no-volume",
        host=a_host(replace(POOL, active=False)),
        near_host=a_host(POOL, replace(TWICE, active=False)),
    ),
    "inactive, over the image": Case(
        "pool-inactive",
        xml=changed(f"{INSTANCE}/disk", f"{DISKS}/{UUID}_disk"),
        host=a_host(replace(POOL, active=False)),
    ),
    "a copy": Case(
        "other-image",
        host=a_host(a_pool("disks", "/srv/copies", f"{UUID}_disk")),
    ),
    "format": Case(
        "format-disagrees",
        host=a_host(a_pool("disks", DISKS, f"{UUID}_disk", format_="raw")),
    ),
    "format, omitted": Case("format-disagrees", xml=changed(" type='qcow2'", "")),
    "symlink": Case(
        "symlink",
        host=a_host(replace(POOL, volumes=(replace(POOL.by_name[f"{UUID}_disk"], link=True),))),
    ),
    "AppArmor": Case("apparmor", host=a_host(POOL, models=("apparmor", "dac"))),
    "AppArmor, in a pool": Case(
        "apparmor",
        xml=changed(f"{INSTANCE}/disk", f"{DISKS}/{UUID}_disk"),
        host=a_host(POOL, models=("apparmor", "dac")),
    ),
    "old": Case("libvirt-version", host=replace(HOST, libversion=1_000_004)),
    "Xen": Case("hypervisor", host=replace(HOST, driver="xen")),
    "a pool of blocks": Case(
        "pool-type", host=a_host(a_pool("disks", DISKS, f"{UUID}_disk", type_="logical"))
    ),
    "another's": Case("outside-pools", xml=changed(f"{INSTANCE}/disk", f"/i/{OTHER}/disk")),
    "elsewhere": Case("outside-pools", xml=changed(f"{INSTANCE}/disk", "/srv/disk")),
    "block job": Case(
        "mirror", xml=changed("<target", "<mirror type='file' job='copy' ready='yes'/><target")
    ),
    "transient": Case("transient", xml=changed("<target", "<transient/><target")),
    "no target": Case("no-target", xml=changed("<target dev='vda' bus='virtio'/>", "")),
    "used twice": Case(
        "volume-taken",
        xml=changed(
            "<!-- the end",
            f"<disk type='file'><driver type='qcow2'/><source file='{INSTANCE}/disk'/>"
            "<target dev='vdb'/><shareable/></disk><!-- the end",
        ),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_disk_stays_for_a_reason(case: Case) -> None:
    """The XML is as it was, and the reason has an id that is explained; beside it, it is a volume.

    The near miss is without what the case has put in.
    """
    made = passed(case.xml, case.host)

    assert (case.xml.encode(), ()) == (made.xml, made.rewritten)
    assert {case.reason} == {reason.split(": ")[1] for reason in made.reasons}
    assert case.reason in RULES
    assert ("vda",) == passed(case.near, case.near_host).rewritten


def test_a_volume_that_is_no_second_name_is_not_taken() -> None:
    """A volume of the right name that is another file would lose what the guest has written."""
    asked = []

    def no(a: str, b: str) -> bool:
        asked.append((a, b))
        return False

    made = incoming(XML.encode(), HOST, no)

    assert [(f"{INSTANCE}/disk", f"{DISKS}/{UUID}_disk")] == asked
    assert XML.encode() == made.xml
    (reason,) = made.reasons
    assert reason.startswith("vda: other-image: ")
    assert f"{DISKS}/{UUID}_disk" in reason


QUIET = {
    "a volume": disk("pool='other' volume='v'", type_="volume"),
    "a network disk": disk("protocol='rbd' name='p/v'", type_="network"),
    "an empty drive": disk(""),
}


@pytest.mark.parametrize("xml", QUIET.values(), ids=QUIET)
def test_what_never_was_to_be_a_volume_is_not_told(xml: str) -> None:
    """It stays as it is, and with --strict it is nothing to refuse."""
    made = passed(xml)

    assert (("vda",), ()) == (made.rewritten, made.reasons)
    assert xml.partition("</disk>")[2] == made.xml.decode().partition("</disk>")[2]


@pytest.mark.parametrize("name", ["cinder-serial", "cinder-alias", "config-drive"])
def test_what_is_novas_to_keep_is_not_told(name: str) -> None:
    """Cinder volumes and config drives stay where they are."""
    xml = (FIXTURES / f"{name}.xml").read_bytes()
    made = incoming(xml, a_host(a_pool("images", "/srv/images", "a.qcow2")), is_linked)

    assert Passed(xml) == made


def test_a_volume_that_is_a_directory_is_told() -> None:
    """A file disk has no volume for another cause than a network disk, and that is no quiet one."""
    there = replace(POOL.by_name[f"{UUID}_disk"], type="dir")
    made = passed(XML, a_host(replace(POOL, volumes=(there,))))

    assert XML.encode() == made.xml
    assert ["vda: source-type"] == [reason[:16] for reason in made.reasons]


# Anything.

ANYTHING = {
    "nothing": b"",
    "a blank": b" ",
    "text": b"not XML at all",
    "bytes": bytes(range(256)),
    "half of it": XML.encode()[:200],
    "a pool": b"<pool type='dir'><name>p</name></pool>",
    "nothing known": b"<nothing xmlns='urn:x'/>",
    "latin-1 undeclared": XML.replace("the end", "é").encode("latin-1"),
    "UTF-32": XML.encode("utf-32"),
    "a DOCTYPE": b"<!DOCTYPE domain [<!ENTITY a 'b'>]><domain>&a;</domain>",
    "deep": b"<domain>" + b"<a>" * 5000 + b"</a>" * 5000 + b"</domain>",
    "huge": b"<domain><name>" + b"n" * (65 << 20) + b"</name></domain>",
    "much markup": b"<domain>" + b"<a/>" * 200_000 + b"</domain>",
}


@pytest.mark.parametrize("xml", ANYTHING.values(), ids=ANYTHING)
def test_what_cannot_be_read_passes_through(xml: bytes) -> None:
    """Byte for byte, with one reason."""
    made = incoming(xml, HOST, is_linked)

    assert xml == made.xml
    assert ((), 1) == (made.rewritten, len(made.reasons))
    assert made.reasons[0]


UNTOUCHED = {
    "no disks": b"<domain/>",
    "CRLF": b"<domain type='kvm'>\r\n<name>g</name>\r\n</domain>\r\n",
    "a mark": b"\xef\xbb\xbf<domain/>",
    "UTF-16": "<domain><name>g</name></domain>".encode("utf-16"),
    "latin-1": b"<?xml version='1.0' encoding='iso-8859-1'?><domain><name>\xe9</name></domain>",
}


@pytest.mark.parametrize("xml", UNTOUCHED.values(), ids=UNTOUCHED)
def test_a_domain_without_disks_passes_through(xml: bytes) -> None:
    """Byte for byte, and there is nothing to tell."""
    assert Passed(xml) == incoming(xml, HOST, is_linked)


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_whatever_comes_goes_on(xml: bytes) -> None:
    """No input raises an error, and what is not rewritten is not changed."""
    assert xml == incoming(xml, HOST, is_linked).xml


@given(st.integers(0, len(XML) - 1), st.characters(codec="utf-8"))
def test_a_damaged_document_goes_on(place: int, character: str) -> None:
    """With one character replaced, either it is rewritten to a domain, or it is not changed."""
    xml = (XML[:place] + character + XML[place + 1 :]).encode()
    made = incoming(xml, HOST, is_linked)

    assert bool(made.rewritten) == (made.xml != xml)
    if made.rewritten:
        assert "domain" == Document.parse(made.xml).kind
