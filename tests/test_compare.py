"""Comparing by meaning: what is no difference, and one difference for one edit, at its place.

Rules
- Domains are drawn as trees and written out twice, in other orders; where an edit is, is said
  here, from libvirt's identities, not by the code under test.
- What libvirt makes of a definition is asked of libvirt.
"""

from __future__ import annotations

import copy
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from corpus import samples
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from strategies import LAWS, domain_sources

from xmlkit.compare import CompareError, Difference, compare, lost
from xmlkit.document import Document, DocumentError, Limits
from xmlkit.testing import Libvirtd

FIXTURES = Path(__file__).parents[1] / "fixtures"
NOVA = sorted((FIXTURES / "nova").rglob("*.xml"))

GUEST = """<domain type='kvm'>
  <name>guest</name>
  <memory unit='GiB'>1</memory>
  <os>
    <type>hvm</type>
    <boot dev='hd'/>
    <boot dev='cdrom'/>
  </os>
  <devices>
{devices}
  </devices>
</domain>
"""


def guest(*devices: str) -> Document:
    """A domain with these devices, one a line."""
    return Document.parse(GUEST.format(devices="\n".join(devices)))


def disk(target: str, path: str = "/a", more: str = "") -> str:
    """A <disk> in one line."""
    return f"<disk type='file'><source file='{path}'/><target dev='{target}'/>{more}</disk>"


def parse(text: str) -> Document:
    """A domain with this inside."""
    return Document.parse(f"<domain>{text}</domain>")


def shown(found: tuple[Difference, ...]) -> list[tuple[str, str, str | None, str | None]]:
    """The differences without their lines."""
    return [difference[:4] for difference in found]


# Identities.


def test_the_first_of_26_disks_that_goes_is_one_removal() -> None:
    """Not a change of each disk that comes after it."""
    targets = [f"vd{chr(letter)}" for letter in range(ord("a"), ord("z") + 1)]
    disks = [disk(target, f"/images/{target}") for target in targets]

    (only,) = compare(guest(*disks), guest(*disks[1:]))
    assert ("removed", "/domain/devices/disk[vda]") == only[:2]
    assert ("<disk type='file'>...</disk>", None, 10, None) == only[2:]
    (only,) = compare(guest(*disks[1:]), guest(*disks))
    assert ("added", "/domain/devices/disk[vda]") == only[:2]
    assert (None, "<disk type='file'>...</disk>", None, 10) == only[2:]


def test_a_disk_is_its_target() -> None:
    """Wherever it stands and whatever else it says; another target is another disk."""
    old = guest(disk("vda", "/a"), disk("vdb", "/b"), disk("vdc", "/c"))
    new = guest(disk("vdd", "/c"), disk("vdb", "/a"), disk("vda", "/a"))

    assert [
        ("changed", "/domain/devices/disk[vdb]/source/@file", "/b", "/a"),
        ("removed", "/domain/devices/disk[vdc]", "<disk type='file'>...</disk>", None),
        ("added", "/domain/devices/disk[vdd]", None, "<disk type='file'>...</disk>"),
    ] == shown(compare(old, new))
    assert [(11, 11), (12, None), (None, 10)] == [each[4:] for each in compare(old, new)]


@pytest.mark.parametrize(
    ("one", "other", "where"),
    [
        (
            "<interface><mac address='52:54:00:AA:00:01'/><mtu size='1'/></interface>",
            "<interface><mac address='52:54:00:aa:00:01'/><mtu size='2'/></interface>",
            "interface[52:54:00:aa:00:01]/mtu/@size",
        ),
        (
            "<controller type='scsi' index='0' model='a'/>",
            "<controller type='scsi' index='0' model='b'/>",
            "controller[scsi,0]/@model",
        ),
        (
            "<channel type='unix'><target type='virtio' name='a'/></channel>",
            "<channel type='pty'><target type='virtio' name='a'/></channel>",
            "channel[virtio,a]/@type",
        ),
        (
            "<hostdev mode='a' type='pci'><alias name='ua-x'/></hostdev>",
            "<hostdev mode='b' type='usb'><alias name='ua-x'/></hostdev>",
            "hostdev[ua-x]/@mode",
        ),
        (
            "<rng model='a'><address type='pci' slot='0x1'/></rng>",
            "<rng model='b'><address slot='1' type='pci'/></rng>",
            "rng[1]/@model",
        ),
        (
            "<sound model='a'><codec type='x'/><codec type='y'/></sound>",
            "<sound model='b'><codec type='x'/><codec type='y'/></sound>",
            "sound[1]/@model",
        ),
    ],
)
def test_a_device_is_found_by_identity_alias_address_or_content(
    one: str, other: str, where: str
) -> None:
    """In this order, among others of its kind that stand before and after it."""
    kind = re.findall(r"\w+", one)[0]
    third = {
        "interface": "<interface><mac address='52:54:00:aa:00:02'/><mtu size='2'/></interface>",
        "controller": "<controller type='scsi' index='1' model='b'/>",
        "channel": "<channel type='unix'><target type='virtio' name='b'/></channel>",
    }.get(kind, f"<{kind} model='c' mode='b' type='c'><alias name='ua-z'/></{kind}>")
    found = compare(guest(one, third), guest(third, other))

    assert f"/domain/devices/{where}" == found[0].where
    assert {"changed"} == {difference.action for difference in found}
    assert ("hostdev" in one) + 1 == len(found)


def test_libvirts_own_alias_is_no_identity() -> None:
    """It is numbered anew at each start: what stays is known by its address."""
    one = "<rng model='a'><alias name='rng0'/><address slot='1'/></rng>"
    two = "<rng model='b'><alias name='rng1'/><address slot='2'/></rng>"
    moved = "<rng model='b'><alias name='rng0'/><address slot='2'/></rng>"

    assert [
        ("removed", "/domain/devices/rng[1]"),
        ("changed", "/domain/devices/rng[2]/alias/@name"),
    ] == [difference[:2] for difference in compare(guest(one, two), guest(moved))]


def test_companions_have_one_identity() -> None:
    """The controllers of USB 2 share an index: the model tells them apart, in any order."""
    models = ["ich9-ehci1", "ich9-uhci1", "ich9-uhci2", "ich9-uhci3"]
    usb = [f"<controller type='usb' index='0' model='{model}'/>" for model in models]

    assert () == compare(guest(*usb), guest(*reversed(usb)))
    (only,) = compare(guest(*usb), guest(usb[3], usb[0], usb[2]))
    assert ("removed", "/domain/devices/controller[usb,0][2]") == only[:2]


def test_a_missing_identity_may_be_any() -> None:
    """An interface without a MAC and a controller without an index, and what libvirt chose."""
    old = guest("<interface type='a'/>", "<controller type='scsi'/>", "<controller type='usb'/>")
    new = guest(
        "<controller type='usb' index='0'/>",
        "<controller type='scsi' index='0'/>",
        "<interface type='a'><mac address='52:54:00:00:00:01'/></interface>",
    )
    assert [
        ("added", "/domain/devices/interface[52:54:00:00:00:01]/mac"),
        ("added", "/domain/devices/controller[scsi,0]/@index"),
        ("added", "/domain/devices/controller[usb,0]/@index"),
    ] == [difference[:2] for difference in compare(old, new)]
    assert () == lost(old, new)


# What is no difference.


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<memory unit='GiB'>1</memory>", "<memory>1048576</memory>"),
        ("<memory unit='b'>1</memory>", "<memory dumpCore='on'>1</memory>"),
        ("<uuid>" + "A" * 32 + "</uuid>", "<uuid>aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa</uuid>"),
        ("<vcpu cpuset='0,1,2'>04</vcpu>", "<vcpu cpuset='0-2'>4</vcpu>"),
        ("<name>a</name><!-- b -->", "\n  <name>a</name>\n"),
        ("<name>a</name>", "<name><![CDATA[a]]></name>"),
        ("<name>a<!-- b -->c</name>", "<name>ac</name>"),
        ("<features><acpi/><apic/></features>", "<features><apic></apic><acpi/></features>"),
        ("<a b='1' c='2'/>", "<a c='2' b='1'/>"),
        (
            "<memoryBacking><hugepages><page size='2' unit='M'/></hugepages></memoryBacking>",
            "<memoryBacking><hugepages><page size='2048'/></hugepages></memoryBacking>",
        ),
        (
            "<x:a xmlns:x='urn:x' x:b='1'/>",
            "<y:a xmlns:y='urn:x' y:b='1'/>",
        ),
    ],
)
def test_what_libvirt_reads_alike_is_no_difference(old: str, new: str) -> None:
    """Units, numbers, sets, order, comments, CDATA, white space between elements, prefixes."""
    found = compare(parse(old), parse(new))

    expected = [("added", "/domain/memory/@dumpCore", None, "on")] if "dumpCore" in new else []
    assert expected == shown(found)


@pytest.mark.parametrize(
    ("old", "new", "where", "values"),
    [
        (
            "<memory unit='GiB'>1</memory>",
            "<memory>1048577</memory>",
            "memory",
            ("1 GiB", "1048577"),
        ),
        ("<memory unit='GiB'>1</memory>", "<memory unit='MiB'>1</memory>", "memory", None),
        ("<name>a</name>", "<name>a </name>", "name", ("a", "a ")),
        ("<name>a</name>", "<name/>", "name", ("a", None)),
        ("<description/>", "<description>a</description>", "description", (None, "a")),
        ("<a b=''/>", "<a/>", "a/@b", ("", None)),
        (
            "<memoryBacking><hugepages><page size='2' unit='M'/></hugepages></memoryBacking>",
            "<memoryBacking><hugepages><page size='2'/></hugepages></memoryBacking>",
            "memoryBacking/hugepages/page/@size",
            ("2 M", "2"),
        ),
        ("<a xmlns:x='urn:x' x:b='1'/>", "<a xmlns:x='urn:x' x:b='2'/>", "a/@x:b", ("1", "2")),
        ("<x:a xmlns:x='urn:x'>1</x:a>", "<x:a xmlns:x='urn:x'>2</x:a>", "x:a", ("1", "2")),
    ],
)
def test_a_value_that_differs(
    old: str, new: str, where: str, values: tuple[str | None, str | None] | None
) -> None:
    """One difference, with both values as they are written, a size with its unit."""
    (only,) = compare(parse(old), parse(new))

    assert f"/domain/{where}" == only.where
    if values:
        assert values == only[2:4]


def test_order_counts_where_libvirt_keeps_it() -> None:
    """Boot devices and arguments; one that is new or gone does not change the others."""
    names = ["hd", "cdrom", "network", "fd"]
    boots = [f"<boot dev='{name}'/>" for name in names]
    whole = parse(f"<os>{''.join(boots)}</os>")

    assert [
        ("removed", "/domain/os/boot[1]", "<boot dev='hd'/>", None),
        ("added", "/domain/os/boot[4]", None, "<boot dev='hd'/>"),
    ] == shown(compare(whole, parse(f"<os>{''.join([*boots[1:], boots[0]])}</os>")))
    assert [("removed", "/domain/os/boot[2]", "<boot dev='cdrom'/>", None)] == shown(
        compare(whole, parse(f"<os>{''.join([boots[0], *boots[2:]])}</os>"))
    )
    assert [("changed", "/domain/os/boot[2]/@dev", "cdrom", "x")] == shown(
        compare(whole, parse(f"<os>{boots[0]}<boot dev='x'/>{''.join(boots[2:])}</os>"))
    )


def test_a_list_in_order_is_aligned_by_what_is_near() -> None:
    """What libvirt puts in front, as the console of a serial port, does not move what follows."""
    console = "<console type='{}'><target type='{}'/></console>"
    asked = guest(console.format("pty", "virtio"), console.format("file", "virtio"))
    got = guest(
        "<console type='pty'><target type='serial' port='0'/></console>",
        "<console type='pty'><target type='virtio' port='1'/></console>",
        "<console type='file'><target type='virtio' port='2'/></console>",
    )
    assert () == lost(asked, got)
    assert [
        ("added", "/domain/devices/console[1]/target/@port", None, "1"),
        ("added", "/domain/devices/console[2]/target/@port", None, "2"),
        ("added", "/domain/devices/console[1]", None, "<console type='pty'>...</console>"),
    ] == shown(compare(asked, got))


def test_what_would_take_too_long_is_taken_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it may be more than one difference, but still there and back, and by identities."""
    sounds = [f"<sound model='{name}' kind='x'/>" for name in "abcd"]
    one = guest(disk("vda"), *sounds, disk("vdb"))
    other = guest(disk("vdb"), *(sound.replace("model='", "model='x") for sound in sounds[1:]))
    boots = [
        parse(f"<os>{''.join(f'<boot dev={b!r}/>' for b in some)}</os>") for some in ("ab", "bca")
    ]
    monkeypatch.setattr("xmlkit.compare._EFFORT", 0)

    assert [
        ("removed", "/domain/devices/disk[vda]"),
        *(("changed", f"/domain/devices/sound[{number}]/@model") for number in (1, 2, 3)),
        ("removed", "/domain/devices/sound[4]"),
    ] == [difference[:2] for difference in compare(one, other)]
    assert ["changed", "changed", "added"] == [each.action for each in compare(*boots)]
    assert ["changed", "changed", "removed"] == [each.action for each in compare(*boots[::-1])]


def test_no_depth_is_too_deep() -> None:
    """As deep as a document may be at all."""
    deep = [f"{'<a>' * 899}<b c='{value}'/>{'</a>' * 899}" for value in (1, 2)]
    old, new = (Document.parse(each, Limits(depth=900)) for each in deep)

    (only,) = compare(old, new)
    assert f"{'/a' * 899}/b/@c" == only.where


def test_the_first_video_is_the_primary_one() -> None:
    """Unless another one says that it is; so the order counts only where none does."""
    one, two = "<video><model type='a'/></video>", "<video><model type='b'/></video>"
    primary = "<video><model type='b' primary='yes'/></video>"

    assert 2 == len(compare(guest(one, two), guest(two, one)))
    assert () == compare(guest(one, primary), guest(primary, one))
    assert () == compare(guest(two, one), guest(one, primary))


def test_what_stands_in_metadata_is_kept_as_it_is() -> None:
    """libvirt reads none of it: the order of siblings counts, numbers are text."""
    nova = "<metadata><n:a xmlns:n='urn:n'>{}</n:a>{}</metadata>"
    ports = ["<n:port>1</n:port>", "<n:port>2</n:port>"]
    other = "<m:a xmlns:m='urn:m'><vcpu>{}</vcpu></m:a>"
    old = parse(nova.format("".join(ports), other.format("1")))

    assert 2 == len(compare(old, parse(nova.format("".join(ports[::-1]), other.format("1")))))
    assert [("changed", "/domain/metadata/m:a/vcpu", "1", "01")] == shown(
        compare(old, parse(nova.format("".join(ports), other.format("01"))))
    )


def test_a_default_that_is_only_spelled_is_a_difference_unless_it_is_said() -> None:
    """With ignore_defaults it is none, but what is no default still is one."""
    old = guest("<disk type='file' device='disk'><target dev='vda'/></disk>")
    new = guest("<disk><target dev='vda'/></disk>")
    other = guest("<disk type='file' device='cdrom'><target dev='vda'/></disk>")

    assert ["removed", "removed"] == [each.action for each in compare(old, new)]
    assert () == compare(old, new, ignore_defaults=True) == compare(new, old, ignore_defaults=True)
    assert [("changed", "/domain/devices/disk[vda]/@device", "disk", "cdrom")] == shown(
        compare(old, other, ignore_defaults=True)
    )
    spelled = parse("<on_crash>destroy</on_crash><cpu match='exact'/>")
    assert () == compare(spelled, parse(""), ignore_defaults=True)
    assert () == lost(spelled, parse(""))
    assert 2 == len(compare(parse(""), spelled))
    restart = parse("<on_crash>restart</on_crash>")
    assert 1 == len(compare(parse(""), restart, ignore_defaults=True))


def test_other_kinds() -> None:
    """Volumes, pools, networks and snapshots are compared alike; two kinds are refused."""
    volume = "<volume><name>a</name><capacity unit='{}'>{}</capacity></volume>"
    old = Document.parse(volume.format("MiB", 1))

    assert () == compare(old, Document.parse(volume.format("bytes", 1024**2)))
    (only,) = compare(old, Document.parse(volume.format("bytes", 1024**2 + 1)))
    assert ("/volume/capacity", "1 MiB", "1048577 bytes") == only[1:4]
    snapshot = "<domainsnapshot><disks>{}</disks></domainsnapshot>"
    disks = ["<disk name='vda' snapshot='no'/>", "<disk name='vdb' snapshot='internal'/>"]
    assert [("removed", "/domainsnapshot/disks/disk[vda]")] == [
        each[:2]
        for each in compare(
            Document.parse(snapshot.format("".join(disks))),
            Document.parse(snapshot.format(disks[1])),
        )
    ]
    with pytest.raises(CompareError, match="cannot compare a volume with a pool") as error:
        compare(old, Document.parse("<pool/>"))
    assert ("volume", "pool") == (error.value.old, error.value.new)


# Secrets.


def test_no_secret_is_in_a_difference() -> None:
    """One that differs shows that it does, one that is there that it is there."""
    source = (FIXTURES / "secrets.xml").read_text()
    assert 7 <= source.count("HIDE-ME")
    old = Document.parse(source)
    empty = Document.parse("<domain/>")
    secrets = compare(old, Document.parse(source.replace("HIDE-ME", "HIDE-YOU")))

    assert {("changed", "(redacted)", "(changed)")} == {
        (each.action, each.old, each.new) for each in secrets
    }
    assert source.count("HIDE-ME") == len(secrets)
    for one, other in ((old, empty), (empty, old)):
        assert "HIDE-" not in repr(compare(one, other))
    without = Document.parse(source.replace(" passwd='HIDE-ME-1'", ""))
    assert ["(redacted)"] == [each.old for each in compare(old, without)]
    assert ["(redacted)"] == [each.new for each in compare(without, old)]
    assert "HIDE-ME-1" in repr(compare(old, without, show_secrets=True))
    assert "HIDE-ME" not in repr(lost(old, empty)) + repr(lost(old, without))


@pytest.mark.parametrize(
    "devices",
    [
        "<graphics type='vnc' pasword='{}'/>",
        "<graphics type='vnc' passwd='{}'/>",
        "<graphics type='vnc'>{}</graphics>",
        "<disk><source protocol='https'><cokie>{}</cokie></source></disk>",
        "<disk><source protocol='https' qeury='token={}'/></disk>",
        "<disk><source protocol='rbd'><auth usrename='{}'/></source></disk>",
        "<x><env nmae='PASSWORD' value='{}'/></x>",
    ],
)
def test_what_would_be_a_secret_but_for_a_slip_is_none_the_less(devices: str) -> None:
    """As with all that is shown: a document need not be valid to be compared."""

    def of(inside: str) -> Document:
        return Document.parse(f"<domain><devices>{inside}</devices></domain>")

    old, new = of(devices.format("HIDE-ME")), of(devices.format("HIDE-YOU"))
    for before, after in ((old, new), (old, of("")), (of(""), new)):
        found = compare(before, after)
        assert found
        assert "HIDE" not in repr(found)
    assert "HIDE-ME" in repr(compare(old, new, show_secrets=True))


def test_what_stands_inside_a_secret_is_one() -> None:
    """An element or attribute in it is not shown, however odd."""
    old = parse("<a><password><b c='HIDE-ME'>HIDE-ME<d/></b></password></a>")
    new = parse("<a><password><b c='HIDE-YOU'>HIDE-YOU<e f='HIDE-YOU'/></b></password></a>")

    found = compare(old, new)
    assert 4 == len(found)
    assert "HIDE-" not in repr(found)


# Laws.


@LAWS
@given(domain_sources())
def test_nothing_differs_from_itself(source: bytes) -> None:
    """Nor from what another serializer makes of it: attributes sorted, comments dropped."""
    document = Document.parse(source)
    again = Document.parse(etree.tostring(document.root, method="c14n", with_comments=False))

    assert () == compare(document, Document.parse(source)) == compare(document, again)
    assert () == lost(document, again)


def _device(kind: str, number: int, draw: Any) -> str:
    word = st.sampled_from(["a", "b", "c"])
    alias = f"<alias name='ua-{kind}{number}'/>" if draw(st.booleans()) else ""
    address = f"<address type='pci' domain='0x0000' bus='0x01' slot='0x{number + 1:02x}'/>"
    inner = alias + address
    if kind == "disk":
        return (
            f"<disk type='file' device='{draw(word)}'><driver name='qemu' type='{draw(word)}'/>"
            f"<source file='/{draw(word)}'><seclabel model='dac' relabel='no'/></source>"
            f"<target dev='vd{number}' bus='virtio'/><iotune><read_bytes_sec>"
            f"{draw(st.integers(1, 2**64 // 1024 - 1))}</read_bytes_sec></iotune>{inner}</disk>"
        )
    if kind == "interface":
        return (
            f"<interface type='bridge'><mac address='52:54:00:00:00:0{number}'/>"
            f"<source bridge='{draw(word)}'/><model type='virtio'/>{inner}</interface>"
        )
    if kind == "controller":
        return f"<controller type='{draw(word)}' index='{number}'>{inner}</controller>"
    if kind == "channel":
        return (
            f"<channel type='unix'><source mode='{draw(word)}'/>"
            f"<target type='virtio' name='org.{number}'/>{inner}</channel>"
        )
    return (
        f"<hostdev mode='subsystem' type='pci' managed='{draw(word)}'>"
        f"<source><address domain='0x0000' slot='0x{draw(st.integers(0, 31)):02x}'/></source>"
        f"{inner}</hostdev>"
    )


KINDS = ("disk", "interface", "controller", "channel", "hostdev")
# An attribute that says which one it is: one that differs is another device.
OWN = {("target", "dev"), ("mac", "address"), ("controller", "type"), ("controller", "index")}
OWN |= {("target", "type"), ("target", "name"), ("seclabel", "model"), ("feature", "name")}


@st.composite
def domains(draw: Any) -> etree._Element:
    """A domain with some devices of each kind."""
    devices = [
        _device(kind, number, draw) for kind in KINDS for number in range(draw(st.integers(0, 3)))
    ]
    boots = draw(st.permutations(["hd", "cdrom", "network"]))
    memory = draw(st.integers(1, 2**64 // 1024 - 1))
    text = (
        f"<domain type='kvm'><name>{draw(st.sampled_from('ab'))}</name>"
        f"<memory unit='KiB'>{memory}</memory><vcpu cpuset='0-3'>4</vcpu>"
        f"<os><type arch='x86_64'>hvm</type>{''.join(f'<boot dev={b!r}/>' for b in boots)}</os>"
        "<features><acpi/><pae/></features><cpu mode='custom'><feature policy='require' name='a'/>"
        "<feature policy='disable' name='b'/></cpu>"
        f"<devices>{''.join(devices)}</devices></domain>"
    )
    return etree.fromstring(text)


def written(tree: etree._Element) -> Document:
    """The document that a tree is."""
    return Document.parse(etree.tostring(tree))


def shuffled(tree: etree._Element, source: random.Random) -> etree._Element:
    """The same domain in another order, but for boot devices."""
    tree = copy.deepcopy(tree)
    for element in tree.iter():
        items = list(element.attrib.items())
        source.shuffle(items)
        element.attrib.clear()
        for name, value in items:
            element.set(name, value)
        children = list(element)
        boots = iter([child for child in children if child.tag == "boot"])
        source.shuffle(children)
        element[:] = [next(boots) if child.tag == "boot" else child for child in children]
        if len(element):
            element.text = source.choice([None, "\n   "])
    return tree


def place(element: etree._Element) -> str:
    """Where an element is, from libvirt's identities."""
    steps = []
    while (parent := element.getparent()) is not None:
        siblings = parent.findall(str(element.tag))
        names = {
            "disk": element.xpath("string(target/@dev)"),
            "interface": element.xpath("string(mac/@address)"),
            "controller": element.xpath("concat(@type, ',', @index)"),
            "channel": element.xpath("concat(target/@type, ',', target/@name)"),
            "feature": element.get("name"),
            "seclabel": element.get("model"),
        }
        alias = element.xpath("string(alias/@name)")
        if str(element.tag) in names:
            steps.append(f"{element.tag!s}[{names[str(element.tag)]}]")
        elif len(siblings) > 1:
            steps.append(f"{element.tag!s}[{alias or siblings.index(element) + 1}]")
        else:
            steps.append(str(element.tag))
        element = parent
    return "/".join(["/domain", *reversed(steps)])


def edits(tree: etree._Element) -> Iterator[tuple[str, etree._Element, str]]:
    """Each edit that is one difference: its kind, the element, the attribute."""
    for element in tree.iter():
        for name in element.attrib:
            if (element.tag, name) not in OWN and (element.tag, name) != ("memory", "unit"):
                yield "set", element, str(name)
                yield "drop", element, str(name)
        if element.text and element.text.strip():
            yield "text", element, ""
        if element is not tree:
            yield "remove", element, ""


@LAWS
@given(domains(), st.randoms(use_true_random=False))
def test_order_is_no_difference(tree: etree._Element, source: random.Random) -> None:
    """Attributes and siblings in another order, and white space between them."""
    assert () == compare(written(tree), written(shuffled(tree, source)))


@LAWS
@given(domains(), st.randoms(use_true_random=False), st.data())
def test_one_edit_is_one_difference(
    tree: etree._Element, source: random.Random, data: st.DataObject
) -> None:
    """At its place, whatever the order of the rest; and turned round it is the same one."""
    kind, element, name = data.draw(st.sampled_from(list(edits(tree))))
    old = written(tree)
    where = place(element)
    said = element.get(name) if name else element.text
    if kind in ("set", "drop"):
        where += f"/@{name}"
    if kind == "set":
        element.set(name, "other")
    elif kind == "drop":
        del element.attrib[name]
    elif kind == "text":
        element.text = f"{int(said) + 1}" if said and said.isdigit() else "other"
    else:
        parent = element.getparent()
        assert parent is not None
        parent.remove(element)
    # only the order of what is known by its position stays
    again = (
        shuffled(tree, source) if "[" not in re.sub(r"\[[^]]*[^]\d][^]]*\]", "", where) else tree
    )

    (only,) = compare(old, written(again))
    assert where == only.where
    expected = {"set": "changed", "text": "changed", "drop": "removed", "remove": "removed"}
    assert expected[kind] == only.action
    if kind != "remove":
        assert (said, None if kind == "drop" else "other") == only[2:4] or kind == "text"
    (back,) = compare(written(again), old)
    turned = {"removed": "added", "added": "removed", "changed": "changed"}
    assert (turned[only.action], only.new, only.old) == (back.action, back.old, back.new)
    assert (only.new_line, only.old_line) == (back.old_line, back.new_line)


@LAWS
@given(domains(), domains())
def test_there_and_back_is_the_same(one: etree._Element, other: etree._Element) -> None:
    """Whatever two domains have in common: what is added one way is removed the other."""
    there = compare(written(one), written(other))
    back = compare(written(other), written(one))
    turned = {"removed": "added", "added": "removed", "changed": "changed"}

    assert Counter((turned[each.action], each.new, each.old) for each in there) == Counter(
        (each.action, each.old, each.new) for each in back
    )
    kept = [each for each in there if each.action != "added"]
    assert kept == list(lost(written(one), written(other)))


# Documents of others.


def test_libvirts_documents_differ_from_none_of_their_spellings(libvirt_source: Path) -> None:
    """Each of libvirt's own test documents and its canonical form mean the same."""
    compared = 0
    for sample in samples(libvirt_source):
        try:
            document = Document.parse(sample.path.read_bytes())
        except DocumentError:
            continue
        text = etree.tostring(document.root, method="c14n", with_comments=False)
        assert (sample.path.name, ()) == (sample.path.name, compare(document, Document.parse(text)))
        compared += 1
    assert 1000 < compared


# What libvirt does to definitions of its own tests: action, place without brackets, in which
# documents, and why.
KNOWN = (
    ("removed", r"/domain/@id", r".*", "of a running guest"),
    ("removed", r".*/(source|backingStore)/@index", r"disk-.*", "of a running guest"),
    ("removed", r"/domain/devices/disk/mirror", r"disk-(mirror.*|active-commit)", "a running job"),
    ("removed", r".*/channel/target/@state", r"channel-virtio-state", "of a running guest"),
    ("removed", r".*/interface/source/@portid", r".*-portgroup", "of a running guest"),
    ("removed", r"/domain/seclabel/imagelabel", r"seclabel-static-.*", "of a running guest"),
    (
        *("changed", r"/domain/(memory|currentMemory)"),
        r".*(memory|numa|hugepages|hotplug|pcie-expander-bus).*",
        "the sum of NUMA cells and memory devices",
    ),
    ("removed", r"/domain/memtune", r"memtune-unlimited", "no limit at all"),
    ("removed", r"/domain/os/bootmenu/@timeout", r"boot-menu-disable.*", "the menu is off"),
    (
        *("removed", r"/domain/devices/channel/source"),
        r"channel-(unix-source-path|virtio-unix)|user-aliases|x86_64-.*",
        "a path in libvirt's own directory is chosen at each start",
    ),
    ("changed", r".*/channel/address/@bus", r"channel-virtio-autoassign", "there is one bus, 0"),
    ("removed", r"/domain/cpu/model", r"cpu-host-model-nofallback", "the host's model is meant"),
    (
        *("changed", r"/domain/cputune/(vcpu|iothread)sched/@\w+", r"cputune-iothreadsched.*"),
        "one element for each thread",
    ),
    (
        *("changed", r"/domain/devices/disk/@type"),
        r"disk-cdrom-empty-network-invalid|disk-source-pool",
        "an empty drive is a file",
    ),
    ("removed", r"/domain/devices/disk/@snapshot", r"disk-snapshot", "the disk is read-only"),
    (
        *("changed", r"/domain/devices/(disk|hostdev)/source/@name"),
        r"disk-network-iscsi|hostdev-scsi-.*",
        "an iSCSI name gets the LUN 0",
    ),
    ("changed", r".*/graphics/@port", r"video-device-pciaddr-default", "autoport chooses it"),
    (
        *("removed", r"/domain/metadata/\w+(:\w+)?", r"metadata-duplicate"),
        "one element of each namespace stays, and none without one",
    ),
    ("removed", r".*/interface/coalesce", r"net-coalesce", "it says nothing"),
    (
        *("removed", r".*/interface/(filterref|driver|driver/@queues|backend/@vhost)"),
        r"net-hostdev-fail|net-vhostuser-fail|tap-vhost-incorrect",
        "not for this type or model",
    ),
    ("changed", r".*/interface/model/@type", r"net-many-models", "capitals do not count"),
    (
        *("removed", r"/domain/numatune/memory/@nodeset", r"numatune-auto-nodeset-invalid"),
        "the placement is automatic",
    ),
    (
        *("changed", r"/domain/cpu/numa/cell/@cpus", r"numavcpus-topology-mismatch"),
        "CPUs that are in no cell are in the first",
    ),
    ("removed", r".*/disk/source/seclabel", r"seclabel-.*-labelskip", "not a driver of this host"),
    ("changed", r"/domain/seclabel/@type", r"seclabel-dynamic-.*relabel", "there is no driver"),
    ("removed", r"/domain/seclabel/@relabel", r"seclabel-dynamic-.*relabel", "there is no driver"),
    ("changed", r".*/usbdev/@version", r"usb-redir-filter-version", "two digits after the point"),
)


def made(connection: Any, asked: Document) -> Document:
    """What libvirt makes of a definition."""
    domain = connection.defineXML(asked.text)
    try:
        secure = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        return Document.parse(domain.XMLDesc(secure))
    finally:
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)


def test_what_libvirt_loses_of_a_definition(libvirtd: Libvirtd, libvirt_source: Path) -> None:
    """Of Nova's guests nothing, of libvirt's own test documents what is known and why.

    The name of a machine may stand for its newest version, as the capabilities say.
    """
    theirs = sorted((libvirt_source / "tests/qemuxml2argvdata").glob("*.xml"))
    connection = libvirt.open(libvirtd.uri)
    capabilities = etree.fromstring(connection.getCapabilities().encode())
    machines = {(each.text, each.get("canonical")) for each in capabilities.iter("machine")}
    used: set[tuple[str, ...]] = set()
    unknown = []
    defined: Counter[bool] = Counter()
    for path in (*NOVA, *theirs):
        text = re.sub(rb"(<domain [^>]*?type=['\"])kvm", rb"\1qemu", path.read_bytes(), count=1)
        try:
            asked = Document.parse(text)
            got = made(connection, asked)
        except (DocumentError, libvirt.libvirtError):
            continue
        defined[path in NOVA] += 1
        for difference in lost(asked, got):
            where = re.sub(r"\[[^]]*\]", "", difference.where)
            if where == "/domain/os/type/@machine" and difference[2:4] in machines:
                continue
            rows = {
                row
                for row in KNOWN
                if row[0] == difference.action
                and re.fullmatch(row[1], where)
                and re.fullmatch(row[2], path.stem)
            }
            used |= rows
            if not rows or path in NOVA:
                unknown.append((path.name, *difference[:4]))
    version = connection.getLibVersion()
    connection.close()

    assert [] == unknown
    assert 15 <= defined[True]
    assert 300 <= defined[False]
    if version == 9_000_000:
        assert [] == [row for row in KNOWN if row not in used]


SPELLED = """<domain type='qemu'>
  <name>spelled</name>
  <uuid>AAAAAAAAAAAA4AAAAAAAAAAAAAAAAAAA</uuid>
  <memory unit='GB'>{memory}</memory>
  <currentMemory unit='{unit}'>1</currentMemory>
  <memoryBacking><hugepages><page size='2' unit='{page}' nodeset='0'/></hugepages></memoryBacking>
  <vcpu cpuset='{cpuset}'>04</vcpu>
  <cputune><vcpupin vcpu='01' cpuset='2,1'/><shares>0{shares}</shares></cputune>
  <os><type arch='x86_64'>hvm</type></os>
  <cpu><numa><cell id='0' cpus='3,2,1,0' memory='{memory}' unit='GB'/></numa></cpu>
  <features><acpi/></features>
  <devices>
    <controller type='scsi' index='01'/>
    <disk type='file'>
      <driver name='qemu' type='qcow2' queues='04'/><source file='/a'/><target dev='vda'/>
      <iotune><read_bytes_sec>0{bytes}</read_bytes_sec></iotune>
      <address type='pci' slot='{slot}' bus='00'/>
    </disk>
    <disk type='file'>
      <source file='/b'/><target dev='sda' bus='scsi'/>
      <address type='drive' controller='1' unit='{drive}'/>
    </disk>
    <interface type='user'><mac address='{mac}'/><model type='virtio'/></interface>
    <memballoon model='none'/>
  </devices>
</domain>
"""
VALUES = {
    "memory": ("1", "01", "2"),
    "unit": ("MiB", "m", "MB"),
    "page": ("M", "mib", "MB"),
    "cpuset": ("0-3,^2", "0,1,3", "0-3"),
    "shares": ("9", "09", "10"),
    "bytes": ("9", "09", "8"),
    "slot": ("0x0a", "10", "012345"),
    "drive": ("3", "03", "4"),
    "mac": ("52:54:00:AA:01:02", "52:54:0:aa:1:2", "52:54:00:aa:01:03"),
}


def test_libvirt_reads_the_spellings_alike(libvirtd: Libvirtd) -> None:
    """What is no difference here is none to libvirt, which reads both and writes one; what is
    another value here is another one there, or refused."""
    connection = libvirt.open(libvirtd.uri)
    first = {name: values[0] for name, values in VALUES.items()}
    asked = Document.parse(SPELLED.format(**first))
    got = made(connection, asked)

    assert [] == [each for each in lost(asked, got) if not each.where.endswith("@machine")]
    for name, (_, same, other) in VALUES.items():
        alike = Document.parse(SPELLED.format(**first | {name: same}))
        differs = Document.parse(SPELLED.format(**first | {name: other}))
        assert (name, ()) == (name, compare(asked, alike))
        assert (name, ()) == (name, compare(got, made(connection, alike)))
        assert (name, True) == (name, bool(compare(asked, differs)))
        try:
            changed = compare(got, made(connection, differs))
        except libvirt.libvirtError:
            continue
        assert (name, True) == (name, bool(changed))
    connection.close()


def test_lost_tells_what_libvirt_ignores(libvirtd: Libvirtd) -> None:
    """Elements that libvirt does not know are gone without a word, in a volume's XML too."""
    connection = libvirt.open(libvirtd.uri)
    first = {name: values[0] for name, values in VALUES.items()}
    text = SPELLED.format(**first).replace("<target dev='vda'/>", "<target dev='vda'/><serail/>")
    asked = Document.parse(text)
    found = [each for each in lost(asked, made(connection, asked)) if "vda" in each.where]
    directory = libvirtd.directory / "pool"
    directory.mkdir()
    pool_xml = f"<pool type='dir'><name>p</name><target><path>{directory}</path></target></pool>"
    pool = connection.storagePoolCreateXML(pool_xml)
    volume_xml = (
        "<volume><name>v</name><capacity unit='MiB'>1</capacity><allocation unit='K'>0</allocation>"
        "<compressed/><target><format type='qcow2'/><compat>1.1</compat>"
        "<permissions><mode>0600</mode><owner>00</owner></permissions></target></volume>"
    )
    volume = pool.createXML(volume_xml)
    of_pool = lost(Document.parse(pool_xml), Document.parse(pool.XMLDesc()))
    of_volume = lost(Document.parse(volume_xml), Document.parse(volume.XMLDesc()))
    connection.close()

    assert [("removed", "/domain/devices/disk[vda]/serail", "<serail/>", None)] == [
        each[:4] for each in found
    ]
    assert () == of_pool
    assert [("removed", "/volume/compressed", "<compressed/>", None)] == [
        each[:4] for each in of_volume if each.where != "/volume/allocation"
    ]
