"""Lone devices: judged as they would be in a domain, by grammars derived from libvirt's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import corpus
import pytest
from lxml import etree

from xmlkit import Document, SchemaError, validate
from xmlkit.validation import grammar, schemas

INSTALLED = schemas.directory()
DISK = "<disk type='file'><source file='/x'/><target dev='vda'/></disk>"


def found(text: str | bytes, place: str | Path | None = None) -> list[str]:
    """The ids of what is found."""
    return [finding.id for finding in validate(Document.parse(text), place)]


@pytest.mark.parametrize(
    "text",
    [
        DISK,
        "<disk type='volume'><source pool='p' volume='v' startupPolicy='optional'/>"
        "<target dev='vda'/><serial>s</serial></disk>",
        "<controller type='scsi' index='0'/>",
        "<hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source>"
        "</hostdev>",
        "<graphics type='vnc' port='-1'/>",
        "<memory model='dimm'><target><size unit='KiB'>1</size><node>0</node></target></memory>",
    ],
)
def test_a_lone_device_is_valid_as_in_a_domain(text: str) -> None:
    """With all that domain.rng adds to it; an attribute that it has not makes it invalid."""
    assert [] == found(text)
    assert ["unknown-attribute"] == found(text.replace(" ", " nonsense='1' ", 1))


def test_a_finding_has_its_place_in_the_fragment() -> None:
    """The XPath begins at the device."""
    text = (
        "<disk type='file'>\n  <source file='/x'/>\n  <target dev='vda'/>\n  <nonsense/>\n</disk>"
    )
    findings = validate(Document.parse(text))

    assert findings
    for finding in findings:
        assert finding.xpath == "/disk" or finding.xpath.startswith("/disk/")
        assert (finding.line, finding.xpath) in [(1, "/disk"), (4, "/disk/nonsense")]


def test_each_device_of_libvirts_valid_domains_is_a_valid_fragment(libvirt_source: Path) -> None:
    """Cut out of the domain, of each kind that there is; made wrong, it is invalid."""
    place = str(libvirt_source / "src/conf/schemas")
    seen: dict[str, int] = {}
    wrong = []
    for sample in corpus.samples(libvirt_source):
        if sample.schema != "domain" or not sample.expected_valid:
            continue
        for device in etree.parse(sample.path).getroot().iterfind("devices/*"):
            tag = str(device.tag)
            seen[tag] = seen.get(tag, 0) + 1
            if found(etree.tostring(device, with_tail=False), place):
                wrong.append((sample.path.name, tag))
            if tag == "disk":
                etree.SubElement(device, "nonsense")
                if not found(etree.tostring(device, with_tail=False), place):
                    wrong.append((sample.path.name, "nonsense"))

    assert [] == wrong
    assert 2000 < seen["disk"]
    assert grammar.devices(place).keys() == seen.keys()


def test_the_devices_of_libvirts_hotplug_tests_are_valid(libvirt_source: Path) -> None:
    """They are fragments as they are given to attach-device."""
    place = libvirt_source / "src/conf/schemas"
    files = sorted((libvirt_source / "tests/qemuhotplugtestdevices").glob("*.xml"))

    assert 30 < len(files)
    assert [] == [path.name for path in files if found(path.read_bytes(), place)]


# <interface>: a device, or a host's interface.

DEVICE = "<interface type='network'><source network='n'/></interface>"
HOST = "<interface type='ethernet' name='eth0'><start mode='none'/></interface>"


def test_an_interface_is_what_it_fits() -> None:
    """Valid as either; wrong as both, it is told what is wrong with the one that it looks like."""
    assert [] == found(DEVICE)
    assert [] == found(HOST)
    assert ["misspelled-attribute"] == found(DEVICE.replace("network='n'", "nonsense='n'"))
    assert ["unknown-element"] == found(HOST.replace("<start", "<nonsense"))


@pytest.mark.parametrize(
    ("text", "id", "known"),
    [
        pytest.param(HOST.replace("none", "nonsense"), "bad-value", "onboot", id="host"),
        pytest.param(
            DEVICE.replace("<source", "<nonsense"), "misspelled-element", "source", id="device"
        ),
        pytest.param(HOST.replace(" name=", " nam="), "misspelled-attribute", "name", id="typo"),
    ],
)
def test_a_wrong_interface_is_told_by_what_it_is_nearest_to(text: str, id: str, known: str) -> None:
    """By the schema of a host's interface, or by that of a device."""
    (finding,) = validate(Document.parse(text))

    assert id == finding.id
    assert known in finding.expected


# Where the schemas are.


@pytest.mark.parametrize("name", ["plain", "with space", "ümläut", "per%20cent", "a#b?c"])
def test_a_directory_may_have_any_name(name: str, tmp_path: Path) -> None:
    """The include is resolved against it."""
    place = tmp_path / name
    shutil.copytree(INSTALLED, place)

    assert [] == found(DISK, place)
    assert ["unknown-attribute"] == found(DISK.replace("file='/x'", "nonsense='/x'"), place)


def test_a_relative_directory_is_one_of_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As --schemas may name it."""
    shutil.copytree(INSTALLED, tmp_path / "here")
    monkeypatch.chdir(tmp_path)

    assert [] == found(DISK, "here")


def test_a_directory_whose_domain_has_no_devices_knows_no_fragment(tmp_path: Path) -> None:
    """Then a device is of a kind that is not known."""
    (tmp_path / "domain.rng").write_text(
        "<element name='domain' xmlns='http://relaxng.org/ns/structure/1.0'><empty/></element>"
    )

    assert ["unknown-kind"] == found(DISK, tmp_path)


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """It names the file."""
    shutil.copytree(INSTALLED, tmp_path / "broken")
    (tmp_path / "broken/domaincommon.rng").write_text("<grammar")

    with pytest.raises(SchemaError, match=r"domaincommon\.rng"):
        validate(Document.parse(DISK), tmp_path / "broken")


def test_an_unknown_root_is_told_the_devices_too() -> None:
    """Documents and devices, each once."""
    (finding,) = validate(Document.parse("<dsk/>"))

    assert {"domain", "interface", "disk", "hostdev"} <= set(finding.expected)
    assert len(set(finding.expected)) == len(finding.expected)
