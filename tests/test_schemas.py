"""Where schemas are, and that those of other versions work: 0.10.2, and what Debian's suites have.

Rules
- No version is expected of a suite: unstable moves on. The version that was found is named in
  what a failure prints.
- The schemas of 0.10.2 are in no package: they are looked for in $XMLKIT_OLD_SCHEMAS.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import corpus
import pytest
from lxml import etree
from schema_sets import PACKAGES, SchemaSet, schema_set
from sources import SourceUnavailable

from xmlkit import Document, Host, SchemaError, transform, validate
from xmlkit.host import version_of
from xmlkit.plan import plan
from xmlkit.validation import grammar, schemas
from xmlkit.validation.profiles import NO_VOLUME_DISKS

ROOT = Path(__file__).parents[1]
INSTALLED = schemas.directory()
FILE = "<disk type='file'><source file='/x'/><target dev='vda'/></disk>"
VOLUME = "<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>"


def domain(devices: str) -> str:
    return (
        "<domain type='qemu'><name>guest</name><memory>1</memory><os><type>hvm</type></os>"
        f"<devices>{devices}</devices></domain>"
    )


def is_valid(text: str | bytes, place: str | Path) -> bool:
    return not validate(Document.parse(text), place)


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of directories of schemas, named by version, which $XMLKIT_SCHEMAS names."""
    for name in ("7.0.0", "9.0.0", "11.3.0", "11.3.1", "12.8"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "domain.rng").touch()
    (tmp_path / "13.0.0").mkdir()
    monkeypatch.setenv("XMLKIT_SCHEMAS", str(tmp_path))
    return tmp_path


# Finding them.


@pytest.mark.parametrize(
    ("given", "expected"),
    [("9.0.0", "9.0.0"), ("9.0", "9.0.0"), ("9", "9.0.0"), ("11.3.0", "11.3.0"), ("12.8", "12.8")],
)
def test_a_version_is_a_directory_of_that_name(versions: Path, given: str, expected: str) -> None:
    """By the whole name, or by its first numbers."""
    assert str(versions / expected) == schemas.directory(given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("8.0.0", "7.0.0, 9.0.0"),
        ("1", "7.0.0, 9.0.0"),
        ("13.0.0", "7.0.0, 9.0.0"),
        ("11", "11.3.0, 11.3.1"),
        ("11.3", "11.3.0, 11.3.1"),
    ],
)
def test_a_version_that_is_not_there_or_not_clear_is_an_error(
    versions: Path, given: str, told: str
) -> None:
    """It names those that there are, in an order."""
    with pytest.raises(SchemaError, match=f"--schemas {given} ") as raised:
        schemas.directory(given)

    for name in told.split(", "):
        assert name in str(raised.value)


def test_the_first_directory_of_schemas_is_what_is_used(
    versions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that only holds versions is none itself; without another it is the installed one."""
    assert INSTALLED == schemas.directory()

    mine = versions / "7.0.0"
    monkeypatch.setenv("XMLKIT_SCHEMAS", f"{versions}:{mine}:{versions / '9.0.0'}:")
    assert str(mine) == schemas.directory()
    assert str(versions / "9.0.0") == schemas.directory("9.0.0")


def test_a_whole_name_counts_before_a_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a later directory; of two alike the first counts."""
    for name in ("a/9.0.1", "b/9.0", "c/9.0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "domain.rng").touch()
    monkeypatch.setenv("XMLKIT_SCHEMAS", ":".join(str(tmp_path / name) for name in "abc"))

    assert str(tmp_path / "b/9.0") == schemas.directory("9.0")


def test_a_directory_of_versions_is_not_guessed_from(versions: Path) -> None:
    """Named by --schemas, it is an error that says what is in it."""
    with pytest.raises(SchemaError, match=r"no domain\.rng; directories in it have: 11\.3\.0"):
        schemas.directory(versions)


# The versions.


@pytest.fixture(scope="module", params=[*PACKAGES, "0.10.2"])
def found(request: pytest.FixtureRequest) -> SchemaSet:
    """The schemas of a suite of Debian's, or of 0.10.2."""
    if request.param == "0.10.2":
        return SchemaSet("0.10.2", _old())
    try:
        return schema_set(request.param)
    except SourceUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"schemas of {request.param}: {error}")


def _old() -> Path:
    named = os.environ.get("XMLKIT_OLD_SCHEMAS")
    if not named:
        pytest.skip(
            "libvirt 0.10.2's schemas (docs/schemas of its source) are in no package that is still "
            "served, and nothing of libvirt's is copied in here: XMLKIT_OLD_SCHEMAS=DIR names them"
        )
    return Path(named)


def test_each_schema_of_a_version_can_be_used(found: SchemaSet) -> None:
    """All that it has of those that are known, and the grammar of each device."""
    place = str(found.directory)
    there = [
        name for name in set(schemas.SCHEMAS.values()) if (found.directory / f"{name}.rng").exists()
    ]
    for name in there:
        assert isinstance(schemas.compiled(place, name), etree.RelaxNG), found
    for tag in grammar.devices(place):
        assert isinstance(grammar.compiled(place, tag), etree.RelaxNG), found

    assert {"domain", "domainsnapshot", "storagepool", "storagevol"} <= set(there), found
    assert {"disk", "interface", "controller", "hostdev"} <= grammar.devices(place).keys(), found


def test_a_version_has_volume_disks_or_not(found: SchemaSet) -> None:
    """0.10.2 has none, later ones do; the profile makes them alike."""
    new = version_of(found.version) >= 1_000_005
    for wrap in (str, domain, lambda disk: f"<domainsnapshot>{domain(disk)}</domainsnapshot>"):
        file, volume = wrap(FILE), wrap(VOLUME)
        assert is_valid(file, found.directory), found
        assert new == is_valid(volume, found.directory), found
        for text, expected in ((file, True), (volume, False)):
            findings = validate(Document.parse(text), found.directory, profile=NO_VOLUME_DISKS)
            assert expected == (not findings), found


def test_a_kind_that_a_version_has_not_is_an_error(found: SchemaSet) -> None:
    """It is not judged: the message names the file that is missing."""
    document = Document.parse(f"<domaincheckpoint>{domain(FILE)}</domaincheckpoint>")
    if (found.directory / "domaincheckpoint.rng").exists():
        assert () == validate(document, found.directory), found
    else:
        with pytest.raises(SchemaError, match=r"no domaincheckpoint\.rng"):
            validate(document, found.directory)


@pytest.mark.parametrize("found", PACKAGES, indirect=True)
def test_versions_stand_side_by_side(found: SchemaSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is found by its version, beside the others, and gives its own verdict."""
    monkeypatch.setenv("XMLKIT_SCHEMAS", str(found.directory.parent))

    assert str(found.directory) == schemas.directory(found.version)
    slices = (
        "<disk type='volume'><source pool='p' volume='v'><slices>"
        "<slice type='storage' offset='0' size='1'/></slices></source><target dev='vda'/></disk>"
    )
    # not in 7.0.0, but in 9.0.0 and later
    new = version_of(found.version) >= version_of("9.0.0")
    assert new == (not validate(Document.parse(slices), found.version)), found


def test_the_fallbacks_xml_is_valid_by_the_schema_of_0_10_2(
    libvirt_source: Path, virt_manager_source: Path
) -> None:
    """Of each domain that it accepts, also after its disks have been made volumes elsewhere."""
    old = _old()
    paths = corpus.domains(libvirt_source, virt_manager_source, ROOT / "fixtures/nova")
    paths += sorted((ROOT / "fixtures").glob("*.xml"))
    accepted = back = 0
    for path in paths:
        document = Document.parse(path.read_bytes())
        if document.kind != "domain" or validate(document, old):
            continue
        accepted += 1
        new = corpus.host_of(document)
        volumes = transform(document, plan(document, new))
        aged = Host(libversion=version_of("1.0.4"), pools=new.pools)
        for each in (document, volumes):
            after = transform(each, plan(each, aged))
            # 0.10.2 wants a driver's name beside its type. Where a guest has no <driver> at all
            # the type alone is written out, for whose driver it is nothing says.
            text = re.sub(
                r"<driver type=(['\"])raw\1/>", "<driver name='qemu' type='raw'/>", after.text
            )
            assert () == validate(Document.parse(text), old, profile=NO_VOLUME_DISKS), path
        if volumes is not document:
            assert validate(volumes, old), path
            back += 1

    assert 250 < accepted
    assert 100 < back


def test_a_volume_disk_becomes_valid_by_the_schema_of_0_10_2() -> None:
    """By the fallback to its path, in the disk's own format."""
    old = _old()
    disk = VOLUME.replace("<source", "<driver name='qemu' type='qcow2'/><source")
    document = Document.parse(domain(disk))
    host = corpus.host_of(document)
    host = Host(libversion=version_of("1.0.4"), pools=host.pools)
    after = transform(document, plan(document, host))

    assert validate(document, old)
    assert () == validate(after, old)
    assert "/var/lib/pools/p/v" in after.text
