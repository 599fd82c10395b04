"""Profiles: what some hosts cannot have is found wherever a domain stands, and nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import corpus
import pytest
from lxml import etree

from xmlkit import Document, validate
from xmlkit.testing import assert_valid_domain
from xmlkit.validation import schemas
from xmlkit.validation.profiles import NO_VOLUME_DISKS, ProfileError

RNG = "{http://relaxng.org/ns/structure/1.0}"
FILE = "<disk type='file'><source file='/x'/><target dev='vda'/></disk>"
VOLUME = "<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>"
BACKING = (
    "<disk type='file'><source file='/x'/><backingStore type='volume'><format type='raw'/>"
    "<source pool='p' volume='v'/></backingStore><target dev='vda'/></disk>"
)


def domain(devices: str = "", os: str = "") -> str:
    return (
        "<domain type='kvm'><name>guest</name><memory>1</memory>"
        f"<os><type>hvm</type>{os}</os><devices>{devices}</devices></domain>"
    )


def snapshot(devices: str, inactive: str = "") -> str:
    inside = domain(inactive).replace("<domain ", "<inactiveDomain ")
    inside = inside.replace("</domain>", "</inactiveDomain>") if inactive else ""
    return f"<domainsnapshot><name>s</name>{domain(devices)}{inside}</domainsnapshot>"


def checkpoint(devices: str) -> str:
    return f"<domaincheckpoint><name>c</name>{domain(devices)}</domaincheckpoint>"


@pytest.fixture(scope="module")
def without_volumes(libvirt_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libvirt's schemas with the define of a volume source emptied where it stands."""
    place = tmp_path_factory.mktemp("schemas") / "no-volumes"
    shutil.copytree(libvirt_source / "src/conf/schemas", place)
    tree = etree.parse(place / "domaincommon.rng")
    (define,) = tree.iterfind(f"{RNG}define[@name='diskSourceVolume']")
    define[:] = [etree.Element(f"{RNG}notAllowed")]
    tree.write(place / "domaincommon.rng")
    return place


def found(text: str, place: Path | None = None) -> list[str]:
    """Where the profile finds something in a document that is otherwise valid."""
    document = Document.parse(text)
    assert () == validate(document, place)
    findings = validate(document, place, profile=NO_VOLUME_DISKS)
    assert {"profile-volume-disk"} >= {finding.id for finding in findings}
    return [finding.xpath for finding in findings]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (domain(FILE), []),
        (domain(VOLUME), ["/domain/devices/disk"]),
        (domain(FILE + VOLUME.replace("vda", "vdb")), ["/domain/devices/disk[2]"]),
        (domain(VOLUME.replace("'volume'", "' volume\n'", 1)), ["/domain/devices/disk"]),
        (domain(BACKING), ["/domain/devices/disk/backingStore"]),
        (snapshot(FILE), []),
        (snapshot(VOLUME), ["/domainsnapshot/domain/devices/disk"]),
        (snapshot(FILE, VOLUME), ["/domainsnapshot/inactiveDomain/devices/disk"]),
        (checkpoint(FILE), []),
        (checkpoint(VOLUME), ["/domaincheckpoint/domain/devices/disk"]),
        (FILE, []),
        (VOLUME, ["/disk"]),
        (
            domain(
                os="<loader readonly='yes' type='pflash'>/l</loader><nvram type='volume'>"
                "<source pool='p' volume='v'/></nvram>"
            ),
            ["/domain/os/nvram"],
        ),
        ("<network><name>n</name></network>", []),
        (
            domain(FILE).replace(
                "<memory>",
                "<metadata><x:a xmlns:x='urn:x'><x:disk type='volume'/></x:a></metadata><memory>",
            ),
            [],
        ),
    ],
)
def test_a_volume_disk_is_found_where_it_stands(text: str, expected: list[str]) -> None:
    """Alone, in a domain, in a snapshot's both domains, in a checkpoint; in metadata it is none."""
    assert expected == found(text)


def test_a_finding_has_a_place_and_can_be_explained() -> None:
    """Line and column are the disk's."""
    text = domain("\n  " + VOLUME)
    (finding,) = validate(Document.parse(text), profile=NO_VOLUME_DISKS)

    assert ("profile-volume-disk", "error", 2, 3) == (
        finding.id,
        finding.severity,
        finding.line,
        finding.column,
    )


def test_the_schemas_verdict_stays() -> None:
    """A profile adds to what the schema finds."""
    document = Document.parse(domain(VOLUME + "<nonsense/>"))
    plain = validate(document)

    assert plain
    assert plain == validate(document, profile=NO_VOLUME_DISKS)[: len(plain)]
    assert len(plain) + 1 == len(validate(document, profile=NO_VOLUME_DISKS))


def test_the_profile_refuses_exactly_libvirts_documents_with_volume_disks(
    libvirt_source: Path, without_volumes: Path
) -> None:
    """Those that a grammar refuses which has no volume source; all others keep their verdict."""
    place = libvirt_source / "src/conf/schemas"
    refused = set()
    for sample in corpus.samples(libvirt_source):
        document = Document.parse(sample.path.read_bytes())
        valid = not validate(document, place, profile=NO_VOLUME_DISKS)
        assert valid is (not validate(document, without_volumes)), sample.path
        if valid is not sample.expected_valid:
            refused.add(sample.path.name.partition(".")[0])

    assert refused == {
        *("disk-source-pool", "disk-source-pool-mode"),
        *("luks-disks-source", "luks-disks-source-qcow2"),
    }


def test_it_holds_in_snapshots_and_checkpoints_as_in_the_domain(
    libvirt_source: Path, without_volumes: Path
) -> None:
    """Of each domain with file disks, and of the same with its first disk made a volume."""
    place = libvirt_source / "src/conf/schemas"
    wrappers = ("<domainsnapshot>", "<domaincheckpoint>", "")
    seen = {True: 0, False: 0}
    for path in sorted((libvirt_source / "tests/qemuxml2argvdata").glob("*.xml")):
        root = etree.parse(path).getroot()
        disk = root.find("devices/disk[@type='file']")
        source = None if disk is None else disk.find("source[@file]")
        if disk is None or source is None or validate(Document.parse(path.read_bytes()), place):
            continue
        for volume in (False, True):
            if volume:
                disk.set("type", "volume")
                del source.attrib["file"]
                source.attrib.update({"pool": "p", "volume": "v"})
            for wrapper in wrappers:
                text = wrapper + etree.tostring(root, encoding="unicode")
                document = Document.parse(text + wrapper.replace("<", "</"))
                if validate(document, place):
                    # not each source can be a volume's
                    continue
                valid = not validate(document, place, profile=NO_VOLUME_DISKS)
                assert valid is (not validate(document, without_volumes)), (path.name, wrapper)
                seen[valid] += 1

    assert 200 < seen[True]
    assert 200 < seen[False]


def test_an_override_would_not_hold_in_snapshots() -> None:
    """Why the profile walks: an include that overrides the define accepts a snapshot's volume."""
    text = (
        '<grammar xmlns="http://relaxng.org/ns/structure/1.0"><include href="domainsnapshot.rng">'
        '<define name="diskSourceVolume"><notAllowed/></define></include></grammar>'
    )
    beside = f"{schemas.directory()}/override.rng"
    grammar = etree.RelaxNG(etree.fromstring(text, base_url=beside).getroottree())

    assert grammar.validate(etree.fromstring(snapshot(VOLUME)))
    assert ["/domainsnapshot/domain/devices/disk"] == found(snapshot(VOLUME))


@pytest.mark.parametrize("name", ["nope", "", "no-volume-disk", 3])
def test_what_is_no_profile_is_refused(name: Any) -> None:
    """A word that is misspelled would refuse nothing, or the wrong thing."""
    document = Document.parse("<domain/>")
    with pytest.raises(ProfileError, match=re.escape(f"no profile {name!r}; there is 'no-vol")):
        validate(document, profile=name)
    with pytest.raises(ProfileError):
        assert_valid_domain(document, profile=name)
