"""The verdict: libvirt's own schemas, read in place, on libvirt's own documents."""

from __future__ import annotations

import re
from pathlib import Path

import corpus
import pytest
from lxml import etree

from xmlkit import Document, Finding, SchemaError, validate
from xmlkit.document import DocumentError
from xmlkit.validation import schemas
from xmlkit.validation.verdict import unreadable

FIXTURES = Path(__file__).parents[1] / "fixtures"
INSTALLED = schemas.directory()


def domain(devices: str = "", extra: str = "") -> Document:
    return Document.parse(
        "<domain type='kvm'>\n  <name>guest</name>\n  <memory>1</memory>\n"
        f"  <os><type>hvm</type></os>\n  <devices>{devices}</devices>\n{extra}</domain>\n"
    )


def test_the_verdict_is_right_on_all_of_libvirts_documents(libvirt_source: Path) -> None:
    """Each document of tests/virschematest.c, by the schemas of the same source tree."""
    place = libvirt_source / "src/conf/schemas"
    samples = corpus.samples(libvirt_source)
    wrong = []
    for sample in samples:
        document = Document.parse(sample.path.read_bytes())
        if (not validate(document, place)) is not sample.expected_valid:
            wrong.append(sample.path.relative_to(libvirt_source))

    assert 2800 < len(samples)
    assert [] == wrong


def test_the_root_chooses_the_schema_that_libvirts_table_says(libvirt_source: Path) -> None:
    """For each document of the table, the schema by its root is the table's."""
    wrong = []
    for sample in corpus.samples(libvirt_source):
        root = etree.parse(sample.path).getroot()
        if schemas.SCHEMAS.get(str(root.tag)) != sample.schema:
            wrong.append((sample.path.name, root.tag, sample.schema))

    assert [] == wrong


def test_each_schema_of_virt_xml_validate_is_known(libvirt_source: Path) -> None:
    """What libvirt's own tool can judge can be judged here."""
    text = (libvirt_source / "tools/virt-xml-validate.in").read_text()
    types = set(re.findall(r'^ *TYPE="([a-z]+)"$', text, re.MULTILINE))

    assert "domain" in types
    assert set() == types - set(schemas.SCHEMAS.values())


@pytest.mark.parametrize("name", sorted(set(schemas.SCHEMAS.values())))
def test_each_schema_is_installed_and_can_be_used(name: str) -> None:
    """Under the name that is looked for."""
    assert isinstance(schemas.compiled(INSTALLED, name), etree.RelaxNG)


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted(FIXTURES.glob("*.xml"))
        if not path.name.startswith("invalid-") and path.name != "every-pool-type.xml"
    ],
    ids=lambda path: path.stem,
)
def test_the_fixtures_are_valid(path: Path) -> None:
    """All that is odd about them is what they are named for."""
    assert () == validate(Document.parse(path.read_bytes()))


# Findings.


@pytest.mark.parametrize(
    ("document", "line", "xpath"),
    [
        pytest.param(domain(extra="  <nonsense/>\n"), 6, "/domain/nonsense", id="unknown-element"),
    ],
)
def test_a_finding_names_the_place_that_is_wrong(document: Document, line: int, xpath: str) -> None:
    """Some finding is at the element itself, by line and by position, not only at its ancestors."""
    findings = validate(document)

    assert (line, xpath) in [(each.line, each.xpath) for each in findings]


def test_a_finding_is_where_its_xpath_leads() -> None:
    """Line and column are those of the element or attribute that the XPath finds."""
    document = Document.parse((FIXTURES / "invalid-twice.xml").read_bytes())
    findings = validate(document)

    assert findings
    lines = document.text.split("\n")
    for finding in findings:
        (found,) = document.root.getroottree().xpath(finding.xpath)
        if isinstance(found, etree._Element):
            assert document.place_of(found) == (finding.line, finding.column)
        else:
            assert lines[finding.line - 1][finding.column - 1 :].startswith(f"{found.attrname}=")
        assert "error" == finding.severity
        assert finding.message


@pytest.mark.parametrize(
    "text",
    [
        "<a xmlns='urn:x'/>",
        "<x:a xmlns:x='urn:x'/>",
        "<a/>",
        "<Domain/>",
        "<node/>",
    ],
)
def test_a_root_without_a_schema_is_a_finding(text: str) -> None:
    """It names the root, and the roots that have one."""
    (finding,) = validate(Document.parse(text))

    assert ("unknown-kind", 1, 1) == (finding.id, finding.line, finding.column)
    assert "domain" in finding.expected


@pytest.mark.parametrize(
    "child",
    [
        "<x:a xmlns:x='urn:x'/>",
        "<a xmlns='urn:x'/>",
        "<x:a xmlns:x='urn:x'><x:b x:c='1'/></x:a>",
        "<disk xmlns='urn:x'><target dev='vda'/></disk>",
        "<disk x:type='file' xmlns:x='urn:x'><target dev='vda'/></disk>",
    ],
)
def test_what_is_in_another_namespace_is_a_finding_like_any_other(child: str) -> None:
    """Its place is found by its name as written."""
    findings = validate(domain(child))

    assert findings
    assert all(each.line == 5 or each.xpath in ("/domain", "/domain/devices") for each in findings)


@pytest.mark.parametrize(
    "text",
    [
        "<graphics type='vnc' passwd='HIDE-ME' passwdValidTo='HIDE-ME'/>",
        "<graphics type='vnc' passwd='HIDE-ME' nonsense='1'/>",
        "<disk type='network'><source protocol='https' name='n'><host name='h'/><cookies>"
        "<cookie name='a'>HIDE-ME;\\</cookie></cookies></source><target dev='vda'/></disk>",
        "<disk type='network'><source protocol='https' name='n'><host name='h'/><cookies>"
        "<cookie name='a'>HIDE-ME<b/></cookie></cookies></source><target dev='vda'/></disk>",
        "<disk type='network'><auth username='HIDE-ME'/><target dev='vda'/></disk>",
    ],
    ids=["valid-to", "attribute", "cookie", "element-in-cookie", "auth"],
)
def test_a_finding_does_not_show_a_secret(text: str) -> None:
    """Whatever libxml2 says of the value."""
    findings = validate(domain(text))

    assert findings
    assert "HIDE-ME" not in repr(findings)


@pytest.mark.parametrize(
    ("source", "line", "column"),
    [
        pytest.param(b"", 1, 1, id="empty"),
        pytest.param(b"<a>\n  <b>\n</a>", 3, 5, id="end-tag"),
        pytest.param(b"\0\1\2", 1, 1, id="binary"),
        pytest.param(b"<!DOCTYPE a><a/>", 1, 1, id="doctype"),
    ],
)
def test_what_cannot_be_read_is_a_finding(source: bytes, line: int, column: int) -> None:
    """With the place; where there is none the document's beginning."""
    with pytest.raises(DocumentError) as raised:
        Document.parse(source)
    finding = unreadable(raised.value)

    assert ("not-well-formed", "error", "/") == (finding.id, finding.severity, finding.xpath)
    assert (line, column) == (finding.line, finding.column)


def test_validating_changes_nothing() -> None:
    """Neither the document nor what a second call says."""
    document = Document.parse((FIXTURES / "invalid-twice.xml").read_bytes())
    source = document.source

    assert validate(document) == validate(document)
    assert source == document.source


def test_findings_are_data() -> None:
    """Two alike are equal, and none is changed."""
    finding = Finding("schema", "error", "m", 1, 1, "/")

    assert finding == Finding("schema", "error", "m", 1, 1, "/", (), ())
    with pytest.raises(AttributeError):
        finding.line = 2  # type: ignore[misc]


# Where the schemas are.


def test_a_named_directory_counts_before_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--schemas, else $XMLKIT_SCHEMAS, else where packages put them."""
    for name in ("named", "variable"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "domain.rng").touch()

    assert str(tmp_path / "named") == str(schemas.directory(tmp_path / "named"))
    monkeypatch.setenv("XMLKIT_SCHEMAS", str(tmp_path / "variable"))
    assert str(tmp_path / "variable") == str(schemas.directory())
    assert str(tmp_path / "named") == str(schemas.directory(tmp_path / "named"))
    monkeypatch.setenv("XMLKIT_SCHEMAS", "")
    assert INSTALLED == schemas.directory()


@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_named_directory_without_schemas_is_an_error(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the directory and who named it; no other one is taken instead."""
    if by == "variable":
        monkeypatch.setenv("XMLKIT_SCHEMAS", str(tmp_path))
    with pytest.raises(SchemaError) as raised:
        schemas.directory(tmp_path if by == "option" else None)

    assert str(tmp_path) in str(raised.value)
    assert {"option": "--schemas", "variable": "$XMLKIT_SCHEMAS"}[by] in str(raised.value)


def test_schemas_that_are_not_installed_are_named_by_their_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Debian, Fedora and macOS."""
    monkeypatch.delenv("XMLKIT_SCHEMAS", raising=False)
    monkeypatch.setattr(schemas, "_PLACES", ("/no/such/directory",))
    with pytest.raises(SchemaError) as raised:
        schemas.directory()

    for words in ("apt-get install libvirt", "dnf install libvirt", "brew install libvirt"):
        assert words in str(raised.value)


def test_a_schema_that_is_missing_is_an_error(tmp_path: Path) -> None:
    """An older libvirt may have no schema for a document; that is said, not judged."""
    (tmp_path / "domain.rng").touch()
    document = Document.parse("<network><name>n</name></network>")
    with pytest.raises(SchemaError, match=r"network\.rng"):
        validate(document, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param("<a", id="not-xml"),
        pytest.param("<a/>", id="not-relax-ng"),
        pytest.param(
            "<element name='domain' xmlns='http://relaxng.org/ns/structure/1.0'>"
            "<externalRef href='missing.rng'/></element>",
            id="a-part-is-missing",
        ),
    ],
)
def test_a_schema_that_cannot_be_used_is_an_error(content: str, tmp_path: Path) -> None:
    """It names the file."""
    (tmp_path / "domain.rng").write_text(content)
    with pytest.raises(SchemaError, match=r"domain\.rng"):
        validate(domain(), tmp_path)
