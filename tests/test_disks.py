"""What a `<disk>` says, read without a guess: its address, its format, and whose it is."""

from __future__ import annotations

from pathlib import Path

import libvirt
import pytest
from lxml import etree

from xmlkit import Address, Document
from xmlkit.disks import FORMATS, Disk, read, read_domain

UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
NOVA = "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'/>"


def disk(xml: str) -> Disk:
    return read(etree.fromstring(xml))


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        pytest.param("<disk/>", Address("file"), id="nothing"),
        pytest.param("<disk><source file='/a'/></disk>", Address("file", "/a"), id="no-type"),
        pytest.param(
            "<disk type='file'><source file='/a'/></disk>", Address("file", "/a"), id="file"
        ),
        pytest.param(
            "<disk type='block'><source dev='/a'/></disk>", Address("block", "/a"), id="block"
        ),
        pytest.param(
            "<disk type='block'><source file='/a'/></disk>", Address("block"), id="block-with-file"
        ),
        pytest.param(
            "<disk type='file'><source dev='/a'/></disk>", Address("file"), id="file-with-dev"
        ),
        pytest.param(
            "<disk type='volume'><source pool='p' volume='v' file='/a'/></disk>",
            Address("volume", None, "p", "v"),
            id="volume",
        ),
        pytest.param(
            "<disk type='volume'><source pool='p'/></disk>",
            Address("volume", None, "p", None),
            id="half-a-volume",
        ),
        pytest.param(
            "<disk type='network'><source protocol='nbd' name='/a'/></disk>",
            Address("network"),
            id="network",
        ),
        pytest.param("<disk type='dir'><source dir='/a'/></disk>", Address("dir"), id="dir"),
        pytest.param(
            "<disk type='file'><mirror><source file='/b'/></mirror></disk>",
            Address("file"),
            id="anothers-source",
        ),
    ],
)
def test_the_address_is_what_the_type_says_of_the_source(xml: str, expected: Address) -> None:
    """Only the attribute that belongs to the disk's type counts; no type is `file`."""
    assert expected == disk(xml).address


@pytest.mark.parametrize(
    ("driver", "stated", "used"),
    [
        pytest.param("", None, "raw", id="no-driver"),
        pytest.param("<driver name='qemu'/>", None, "raw", id="no-type"),
        pytest.param("<driver type='raw'/>", "raw", "raw", id="raw"),
        pytest.param("<driver type='aio'/>", "aio", "raw", id="old-raw"),
        pytest.param("<driver type='qcow2'/>", "qcow2", "qcow2", id="qcow2"),
        pytest.param("<driver type='QCOW2'/>", "QCOW2", "QCOW2", id="as-written"),
    ],
)
def test_the_format_is_the_drivers_type(driver: str, stated: str | None, used: str) -> None:
    """None is raw to libvirt, and so is "aio"."""
    found = disk(f"<disk>{driver}<source file='/a.qcow2'/></disk>")

    assert (stated, used) == (found.format, found.image_format)


def test_formats_are_those_of_libvirts_schema(libvirt_source: Path) -> None:
    """storageFormat in storagecommon.rng, without `dir`, and the old "aio"."""
    schema = etree.parse(libvirt_source / "src/conf/schemas/storagecommon.rng")
    space = {"r": "http://relaxng.org/ns/structure/1.0"}
    names = schema.xpath(
        "//r:define[starts-with(@name, 'storageFormat')]//r:value", namespaces=space
    )
    assert isinstance(names, list)
    values = {each.text for each in names if isinstance(each, etree._Element)}

    assert values - {"dir"} | {"aio"} == FORMATS


@pytest.mark.parametrize(
    ("xml", "target", "device"),
    [
        pytest.param("<disk/>", "", "disk", id="neither"),
        pytest.param("<disk><target bus='ide'/></disk>", "", "disk", id="no-dev"),
        pytest.param("<disk device='cdrom'><target dev='sda'/></disk>", "sda", "cdrom", id="both"),
    ],
)
def test_target_and_device_are_what_is_written(xml: str, target: str, device: str) -> None:
    """No target is "", no device is `disk`."""
    assert (target, device) == (disk(xml).target, disk(xml).device)


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        pytest.param("<disk><serial>0</serial></disk>", "cinder", id="serial"),
        pytest.param("<disk><serial/></disk>", "cinder", id="empty-serial"),
        pytest.param("<disk><alias name='ua-1'/></disk>", "cinder", id="alias"),
        pytest.param("<disk><alias name='virtio-disk0'/></disk>", "", id="libvirts-alias"),
        pytest.param("<disk><alias name='xua-1'/></disk>", "", id="ua-later"),
        pytest.param("<disk><alias/></disk>", "", id="no-alias-name"),
        pytest.param("<disk><wwn>0</wwn></disk>", "", id="wwn"),
        pytest.param(
            f"<disk type='file'><source file='/x/{UUID}/disk.config'/></disk>",
            "config-drive",
            id="config-drive",
        ),
        pytest.param(
            f"<disk type='block'><source dev='/dev/vg/{UUID}_disk.config'/></disk>",
            "config-drive",
            id="config-drive-lvm",
        ),
        pytest.param(
            f"<disk type='volume'><source pool='p' volume='{UUID}_disk.config'/></disk>",
            "config-drive",
            id="config-drive-volume",
        ),
        pytest.param(
            f"<disk type='file'><source file='/x/{UUID}/disk.configs'/></disk>", "", id="configs"
        ),
        pytest.param("<disk type='file'><source file='/x/disk.config'/></disk>", "", id="no-uuid"),
        pytest.param(
            f"<disk type='file'><source file='/x/{UUID}/disk'/></disk>", "", id="root-disk"
        ),
    ],
)
def test_the_owner_is_known_by_novas_own_marks(xml: str, expected: str) -> None:
    """Cinder by a serial or an alias ua-..., the config drive by its name; all else is nobody's."""
    assert expected == disk(xml).owner


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param(Address("file", "/a"), Address("file", "/a", "p", "v"), True, id="path"),
        pytest.param(Address("file", "/a"), Address("block", "/a"), False, id="type"),
        pytest.param(Address("file", "/a"), Address("file", "/b"), False, id="other-path"),
        pytest.param(
            Address("volume", None, "p", "v"), Address("volume", "/a", "p", "v"), True, id="volume"
        ),
        pytest.param(
            Address("volume", "/a", "p", "v"), Address("volume", "/a", "p", "w"), False, id="name"
        ),
        pytest.param(
            Address("volume", "/a", "p", "v"), Address("volume", "/a", "q", "v"), False, id="pool"
        ),
    ],
)
def test_addresses_are_the_same_if_they_are_written_alike(
    one: Address, other: Address, expected: bool
) -> None:
    """What else is known of them does not count."""
    assert (expected, expected) == (one.same(other), other.same(one))


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        pytest.param("", False, id="none"),
        pytest.param(f"<metadata>{NOVA}</metadata>", True, id="nova"),
        pytest.param(f"<metadata><x xmlns='urn:x'/>{NOVA}</metadata>", True, id="among-others"),
        pytest.param("<metadata><nova/></metadata>", False, id="no-namespace"),
        pytest.param("<metadata><a xmlns='urn:nova'/></metadata>", False, id="another-namespace"),
        pytest.param(f"<metadata><a>{NOVA}</a></metadata>", False, id="within-others"),
        pytest.param(f"<metadata><!-- {NOVA} --></metadata>", False, id="comment"),
        pytest.param(
            f"<metadata>{NOVA.replace('1.1', '1.0')}</metadata>", True, id="another-version"
        ),
    ],
)
def test_a_domain_is_novas_if_its_metadata_says_so(metadata: str, expected: bool) -> None:
    """Any version of Nova's namespace, directly in `<metadata>`."""
    domain = read_domain(Document.parse(f"<domain><name>d</name>{metadata}<devices/></domain>"))

    assert expected is domain.nova


def test_a_domain_has_its_disks_in_order_and_a_plain_uuid() -> None:
    """Only disks of its own devices; the UUID as libvirt writes it, in lower case."""
    domain = read_domain(
        Document.parse(
            f"""<domain><name>d</name><uuid> {UUID.upper()} </uuid>
            <metadata><devices><disk><target dev='no'/></disk></devices></metadata>
            <devices>
              <!-- <disk><target dev='no'/></disk> -->
              <disk><target dev='vdb'/></disk><video/><disk><target dev='vda'/></disk>
            </devices></domain>"""
        )
    )

    assert ("d", UUID, ["vdb", "vda"]) == (
        domain.name,
        domain.uuid,
        [disk.target for disk in domain.disks],
    )


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        pytest.param("<disk/>", False, id="no-source"),
        pytest.param("<disk><source file='/a'/></disk>", False, id="empty-source"),
        pytest.param("<disk><source file='/a'><slices/></source></disk>", True, id="there"),
        pytest.param("<disk><slices/><source file='/a'/></disk>", False, id="beside"),
        pytest.param(
            "<disk><source file='/a'><x><slices/></x></source></disk>", False, id="deeper"
        ),
        pytest.param("<disk><source><!-- <slices/> --></source></disk>", False, id="comment"),
    ],
)
def test_a_child_of_the_source_is_one_that_stands_directly_in_it(xml: str, expected: bool) -> None:
    """`in_source` looks neither beside nor deeper."""
    assert expected is disk(xml).in_source("slices")


def test_of_elements_that_stand_twice_the_one_counts_that_libvirt_takes() -> None:
    """No schema allows it, but libvirt reads it: two readings of one document must not differ."""
    text = (
        "<domain type='test'><name>one</name><name>two</name><memory>65536</memory>"
        f"<uuid>{UUID}</uuid><uuid>{UUID[:-1]}0</uuid><os><type>hvm</type></os><devices>"
        "<disk type='file'><source file='/one'/><source file='/two'/><driver type='raw'/>"
        "<driver type='qcow2'/><target dev='vda'/><target dev='vdb'/></disk></devices></domain>"
    )
    given = read_domain(Document.parse(text))
    taken = read_domain(Document.parse(libvirt.open("test:///default").defineXML(text).XMLDesc()))

    assert (taken.name, taken.uuid) == (given.name, given.uuid)
    assert [(each.target, each.address, each.format) for each in taken.disks] == [
        (each.target, each.address, each.format) for each in given.disks
    ]
