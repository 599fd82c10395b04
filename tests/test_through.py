"""What libvirt drops or changes: told by libvirt itself, without anything that could stay."""

from __future__ import annotations

from pathlib import Path

import libvirt
import pytest
from corpus import samples
from sources import debian_source

from xmlkit.document import Document
from xmlkit.observe import LibvirtError
from xmlkit.testing import Libvirtd
from xmlkit.validation.findings import Finding
from xmlkit.validation.through import through_libvirt

GUEST = (
    "<domain type='kvm'>\n"
    " <name>guest</name>\n"
    " <uuid>3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11</uuid>\n"
    " <memory unit='MiB'>64</memory>\n"
    " <os><type>hvm</type></os>\n"
    " <devices>\n"
    "{devices}"
    " </devices>\n"
    "</domain>\n"
)


def guest(devices: str = "") -> Document:
    """A domain with some devices, each on a line of its own from line 7 on."""
    return Document.parse(GUEST.format(devices=devices))


def told(text: str | bytes) -> list[tuple[str, str, int, int, str]]:
    """What is found in a document, without the words."""
    return [
        (each.id, each.severity, each.line, each.column, each.xpath)
        for each in through_libvirt(Document.parse(text))
    ]


def test_what_libvirt_keeps_is_not_told() -> None:
    """Nor what it adds, nor another spelling of the same."""
    disk = "  <disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk>\n"

    assert () == through_libvirt(guest(disk))
    assert () == through_libvirt(guest())


def test_what_libvirt_drops_is_told_at_its_place() -> None:
    """Elements and attributes, by line, column and XPath, though no schema was asked."""
    document = guest(
        "  <disk type='file'><source fiel='/a' file='/b'/><target dev='vda'/></disk>\n"
        "  <disk type='file'><source file='/c'/><target dev='vdb'/><serail>x</serail></disk>\n"
    )
    expected = [
        ("libvirt-dropped", 7, 29, "/domain/devices/disk[1]/source/@fiel", "fiel"),
        ("libvirt-dropped", 8, 59, "/domain/devices/disk[2]/serail", "serail"),
    ]
    found = through_libvirt(document)

    assert expected == [(each.id, each.line, each.column, each.xpath, each.name) for each in found]
    assert ["libvirt drops fiel='/a'", "libvirt drops <serail>x</serail>"] == [
        each.message for each in found
    ]
    assert {"warning"} == {each.severity for each in found}


def test_what_libvirt_changes_is_told_with_both_values() -> None:
    """A size that it rounds, a value that another one overrules."""
    shmem = "  <shmem name='s'><model type='ivshmem-plain'/><size unit='K'>16</size></shmem>\n"
    (found,) = through_libvirt(guest(shmem))

    assert ("libvirt-changed", 7, "/domain/devices/shmem/size") == (
        *(found.id, found.line),
        found.xpath,
    )
    assert "16 K" in found.message
    assert "0 M" in found.message


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("<disk type='file'><source file='/a'/><target dev='vda'/><x/></disk>", "/disk/x"),
        ("<interface type='user' x='1'/>", "/interface/@x"),
        ("<network><name>n</name><x/></network>", "/network/x"),
        (
            "<pool type='dir'><name>p</name><target><path>/p</path><x/></target></pool>",
            "/pool/target/x",
        ),
        ("<volume><name>v</name><capacity>1</capacity><x/></volume>", "/volume/x"),
        ("<interface type='ethernet' name='eth0'><x/></interface>", "/interface/x"),
    ],
)
def test_each_kind_that_the_test_driver_has(text: str, place: str) -> None:
    """Devices alone, networks, pools, volumes, a host's interfaces: what is unknown is dropped."""
    assert [("libvirt-dropped", "warning", place)] == [
        (id, severity, xpath) for id, severity, _, _, xpath in told(text)
    ]
    without = text.replace("<x/>", "").replace(" x='1'", "")
    assert [] == told(without)


@pytest.mark.parametrize(
    "text",
    [
        "<secret ephemeral='no' private='no'/>",
        "<nonsense/>",
        "<domain type='lxc'><name>a</name><memory>1</memory><os><type>exe</type></os></domain>",
    ],
)
def test_what_the_test_driver_does_not_know_is_a_note(text: str) -> None:
    """Never silence, and never a verdict."""
    assert [("libvirt-not-asked", "note")] == [each[:2] for each in told(text)]


def test_what_is_the_drivers_own_is_a_note() -> None:
    """QEMU's own elements are not read by the test driver; metadata is kept by all."""
    namespaces = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"
    text = (
        guest()
        .text.replace("<domain", f"<domain {namespaces}")
        .replace(
            " <memory",
            " <qemu:commandline><qemu:arg value='x'/></qemu:commandline>\n"
            " <metadata><a xmlns='urn:a' b='c'/></metadata>\n <memory",
        )
    )

    assert [("libvirt-not-asked", "note", 4)] == [each[:3] for each in told(text)]


def test_what_libvirt_refuses_is_told_in_its_words() -> None:
    """Though the schema allows it: two disks with one target."""
    disk = "  <disk type='file'><source file='/{}'/><target dev='vda'/></disk>\n"
    (found,) = through_libvirt(guest(disk.format("a") + disk.format("b")))

    assert ("libvirt-refused", "error", "/domain") == (found.id, found.severity, found.xpath)
    assert "target 'vda' duplicated" in found.message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_any_encoding_is_read(encoding: str) -> None:
    """libvirt is given the text, whatever the bytes declare."""
    text = guest().text.replace("guest", "gäst")
    source = f"<?xml version='1.0' encoding='{encoding}'?>\n{text}".encode(encoding)

    assert [] == told(source)


def test_no_password_is_told() -> None:
    """libvirt cuts a VNC password's blanks or loses it: the value is not shown."""
    spice = "  <graphics type='sdl' passwd='hunter2'/>\n"
    (found,) = through_libvirt(guest(spice))

    assert "libvirt-dropped" == found.id
    assert "hunter2" not in repr(found)


def test_libvirts_own_documents_come_through() -> None:
    """Most of its QEMU domains are kept as they are; each finding names a place that is there."""
    clean = tried = 0
    for sample in samples(debian_source("libvirt")):
        if "qemuxml2argvdata" not in str(sample.path) or not sample.expected_valid:
            continue
        document = Document.parse(sample.path.read_bytes())
        found = through_libvirt(document)
        tried += 1
        clean += not found
        for each in found:
            places = document.root.getroottree().xpath(each.xpath)
            assert isinstance(places, list)
            assert 1 == len(places), (sample.path.name, each)
            line = document.text.split("\n")[each.line - 1]
            assert "libvirt-refused" == each.id or each.name in line[each.column - 1 :]

    assert 1000 < tried
    assert 0.85 * tried < clean


def test_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, and no domain on the test driver that everybody in this process shares."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    shared = libvirt.open("test:///default")
    before = {domain.name() for domain in shared.listAllDomains()}
    for _ in range(3):
        # the same name and UUID again and again
        through_libvirt(guest("  <disk type='file'><target dev='vda'/><x/></disk>\n"))

    assert before == {domain.name() for domain in shared.listAllDomains()}
    assert [] == list(tmp_path.iterdir())
    shared.close()


def on(uri: str, document: Document) -> list[tuple[str, str]]:
    """What is found on a connection: id and XPath."""
    return [(each.id, each.xpath) for each in through_libvirt(document, uri)]


def test_a_connection_is_only_read(libvirtd: Libvirtd) -> None:
    """What is not defined there stays undefined; what is, is compared by UUID."""
    connection = libvirt.open(libvirtd.uri)
    document = guest(
        "  <graphics type='vnc' passwd='hunter2'/>\n"
        "  <disk type='file'><source file='/a'/><target dev='vda' fiel='x'/></disk>\n"
    )
    document = Document.parse(document.text.replace("'kvm'", "'qemu'"))
    (note,) = through_libvirt(document, libvirtd.uri)

    assert ("libvirt-not-asked", "note") == (note.id, note.severity)
    assert [] == connection.listAllDomains()
    domain = connection.defineXML(document.text)
    before = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
    # the password is there, and a connection that may only read does not show it
    assert [("libvirt-dropped", "/domain/devices/disk/target/@fiel")] == on(libvirtd.uri, document)
    other = Document.parse(document.text.replace("64", "65"))
    assert ("libvirt-changed", "/domain/memory") in on(libvirtd.uri, other)
    assert before == domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
    assert 1 == len(connection.listAllDomains())
    connection.close()


def test_a_connection_without_such_a_driver_is_a_note(libvirtd: Libvirtd) -> None:
    """A device alone, a kind that is not looked up, a host without networks."""
    for text in (
        "<disk type='file'><target dev='vda'/></disk>",
        "<network><name>none</name></network>",
        "<pool type='dir'><name>none</name></pool>",
        "<filter name='none'/>",
        "<domain type='kvm'/>",
    ):
        assert ["libvirt-not-asked"] == [id for id, _ in on(libvirtd.uri, Document.parse(text))]


def test_a_connection_that_fails_is_an_error() -> None:
    """Which names it, without its password."""
    with pytest.raises(LibvirtError, match="cannot connect to test://u@/nowhere") as caught:
        through_libvirt(guest(), "test://u:hunter2@/nowhere")
    assert "hunter2" not in str(caught.value)


def test_findings_are_plain_data() -> None:
    """They can be given to another process."""
    import pickle

    found = through_libvirt(guest("  <disk type='file'><target dev='vda'/><x/></disk>\n"))

    assert found == pickle.loads(pickle.dumps(found))  # noqa: S301
    assert all(isinstance(each, Finding) for each in found)
