"""Names of volumes and of Nova's disks: what is made can be split, what is no name is refused."""

from __future__ import annotations

from pathlib import Path

import libvirt
import pytest
from lxml import etree

from xmlkit import names
from xmlkit.testing import Libvirtd

UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
SCHEMAS = Path("/usr/share/libvirt/schemas")

VOLUME_NAMES = {
    "plain": "a.qcow2",
    "nova": f"{UUID}_disk",
    "space": "a b",
    "only-space": " ",
    "dots": "...",
    "dot-first": ".a",
    "umlaut": "bäse",
    "emoji": "\N{PILE OF POO}",
    "quotes": "a'\"b",
    "markup": "<&>",
    "empty": "",
    "dot": ".",
    "dot-dot": "..",
    "slash": "a/b",
    "only-slash": "/",
    "no-break-space": "a\xa0b",
    "long": "a" * 255,
}


def grammar(define: str) -> etree.RelaxNG:
    """The schema of a `<name>` that has what a define of libvirt's basictypes.rng allows."""
    return etree.RelaxNG(
        etree.fromstring(
            f"""<grammar xmlns='http://relaxng.org/ns/structure/1.0'
                datatypeLibrary='http://www.w3.org/2001/XMLSchema-datatypes'>
                <include href='{SCHEMAS}/basictypes.rng'/>
                <start><element name='name'><ref name='{define}'/></element></start></grammar>"""
        )
    )


def is_valid(schema: etree.RelaxNG, name: str) -> bool:
    """Whether libvirt's schema allows the name."""
    element = etree.Element("name")
    element.text = name
    return schema.validate(element)


@pytest.mark.parametrize(
    "name", ["disk", "disk.local", "disk.eph0", "disk_1", "_", "a_b_c", "disk.swap", " ", "ä"]
)
def test_a_volume_name_splits_into_what_it_was_made_of(name: str) -> None:
    """`{uuid}_{name}`, and a name may have any number of "_" itself."""
    assert (UUID, name) == names.split_volume_name(names.volume_name(UUID, name))


@pytest.mark.parametrize(
    "volume",
    [
        pytest.param(f"{UUID}_", id="no-name"),
        pytest.param(UUID, id="uuid-alone"),
        pytest.param(f"{UUID}-disk", id="dash"),
        pytest.param(f"x{UUID}_disk", id="one-too-early"),
        pytest.param(f"{UUID[:-1]}_disk", id="uuid-too-short"),
        pytest.param(f"{UUID}0_disk", id="uuid-too-long"),
        pytest.param(f"{UUID.replace('-', '')}_disk", id="no-dashes"),
        pytest.param(f"{UUID.replace('a', 'g')}_disk", id="no-hex"),
        pytest.param("", id="empty"),
    ],
)
def test_another_volume_name_is_not_split(volume: str) -> None:
    """What `volume_name` cannot have made has no UUID and no name."""
    assert None is names.split_volume_name(volume)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param(f"/var/lib/nova/instances/{UUID}/disk", (UUID, "disk"), id="nova"),
        pytest.param(f"/x/{UUID}/disk.eph0", (UUID, "disk.eph0"), id="ephemeral"),
        pytest.param(f"/x/{UUID.upper()}/disk", (UUID.upper(), "disk"), id="upper-case"),
        pytest.param(f"{UUID}/disk", (UUID, "disk"), id="relative"),
        pytest.param(f"/x/{UUID}/sub/disk", None, id="deeper"),
        pytest.param(f"/x/{UUID}/", None, id="no-name"),
        pytest.param(f"/x/{UUID}", None, id="the-directory"),
        pytest.param(f"/x/{UUID}_resize/disk", None, id="resize"),
        pytest.param(f"/x/a{UUID}/disk", None, id="prefix"),
        pytest.param("/x/disk", None, id="no-uuid"),
        pytest.param("disk", None, id="no-directory"),
        pytest.param("", None, id="empty"),
    ],
)
def test_an_instance_path_is_a_file_whose_directory_is_a_uuid(
    path: str, expected: tuple[str, str] | None
) -> None:
    """DIRECTORY/{uuid}/{name}, and only directly in it."""
    assert expected == names.split_instance_path(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param(f"/x/{UUID}/disk.local", "disk.local", id="file"),
        pytest.param(f"/dev/vg/{UUID}_disk", "disk", id="lvm"),
        pytest.param(f"/dev/vg/{UUID}_disk__a", "disk_a", id="lvm-doubled"),
        pytest.param(f"{UUID}_disk.config", "disk.config", id="volume-name"),
        pytest.param(f"/x/{UUID}/disk__a", "disk__a", id="file-undoubled"),
        pytest.param("/dev/vg/lv", None, id="other"),
        pytest.param("", None, id="empty"),
    ],
)
def test_novas_name_of_a_disk_comes_from_its_path(path: str, expected: str | None) -> None:
    """In a directory of files as it is, in LVM with each "_" of the name doubled."""
    assert expected == names.nova_name(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("disk", "root"),
        ("disk.rescue", "root"),
        ("disk.local", "ephemeral"),
        ("disk.eph0", "ephemeral"),
        ("disk.eph12", "ephemeral"),
        ("disk.swap", "swap"),
        ("disk.config", "config"),
        ("disk.config.rescue", "config"),
        ("disk.eph", None),
        ("disk.ephx", None),
        ("disk.eph0x", None),
        ("disk.swaps", None),
        ("disk0", None),
        ("kernel", None),
        ("", None),
    ],
)
def test_kind_is_what_novas_name_says(name: str, expected: str | None) -> None:
    """Nova's names are a closed list; `.rescue` at the end does not change the kind."""
    assert expected == names.kind_of(name)


@pytest.mark.parametrize("name", VOLUME_NAMES.values(), ids=VOLUME_NAMES)
def test_a_volume_name_is_faulty_just_where_libvirts_schema_refuses_it(name: str) -> None:
    """For names that a directory can have: volName in libvirt's own basictypes.rng decides."""
    assert is_valid(grammar("volName"), name) == (names.fault_of_volume_name(name) is None)


def test_faulty_are_the_names_that_libvirt_does_not_keep(libvirtd: Libvirtd) -> None:
    """Of the files in a directory: those whose name has no fault are listed by the pool, and a
    domain that names them still does when libvirt gives it back; of the others neither is so.

    libvirt writes tabs and line breaks into attributes as they are, and reads blanks back.
    """
    directory = libvirtd.directory / "names"
    directory.mkdir()
    files = [name for name in VOLUME_NAMES.values() if name not in ("", ".", "..", "a/b", "/")]
    files += [f"a{chr(code)}b" for code in (1, 9, 10, 13, 27, 31, 127, 128, 133, 159)]
    for name in files:
        (directory / name).touch()
    connection = libvirt.open(libvirtd.uri)
    pool = connection.storagePoolCreateXML(
        f"<pool type='dir'><name>p</name><target><path>{directory}</path></target></pool>"
    )
    listed = sorted(pool.listVolumes())

    domain = etree.fromstring(
        "<domain type='qemu'><name>d</name><memory>65536</memory><os><type>hvm</type></os></domain>"
    )
    devices = etree.SubElement(domain, "devices")
    for number, name in enumerate(listed):
        disk = etree.SubElement(devices, "disk", type="volume")
        etree.SubElement(disk, "source", pool="p", volume=name)
        etree.SubElement(disk, "target", dev=f"sda{chr(ord('a') + number)}", bus="scsi")
    defined = connection.defineXML(etree.tostring(domain, encoding="unicode"))
    kept = {source.get("volume") for source in etree.fromstring(defined.XMLDesc()).iter("source")}

    assert kept & set(listed) == {f for f in files if names.fault_of_volume_name(f) is None}


@pytest.mark.parametrize(
    "name", ["", "a", "a/b", "/", "a\nb", "\n", " ", "a b", ".", "..", "ä", "'"], ids=repr
)
def test_a_pool_name_is_faulty_just_where_libvirts_schema_refuses_it(name: str) -> None:
    """Source of truth: objectName in libvirt's own basictypes.rng."""
    assert is_valid(grammar("objectName"), name) == (names.fault_of_pool_name(name) is None)


@pytest.mark.parametrize("name", ["a\x01b", "\x1f", "a\udcff", "\uffff"], ids=ascii)
def test_a_name_that_no_document_can_have_is_faulty(name: str) -> None:
    """Control characters and the bytes of another encoding: the result would be no XML."""
    assert None is not names.fault_of_pool_name(name)
    assert None is not names.fault_of_volume_name(name)
