"""Findings as they are shown: without secrets, and with the right place in the right line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmlkit.document import Document, DocumentError
from xmlkit.validation.findings import Edit, Finding, Fix, apply_fix
from xmlkit.validation.shown import Patch, excerpt_of_unreadable, hidden, patches, shown
from xmlkit.validation.verdict import validate

SECRET = "hunter2-of-mine"  # noqa: S105

# Documents that hold the secret where libvirt has one, or would have one but for a mistake.
WITH_SECRET = [
    f"<domain>\n<devices><graphics type='vnc' passwd='{SECRET}'/></devices></domain>",
    f"<domain>\n<devices><graphics type='vnc' paswd='{SECRET}'/></devices></domain>",
    f"<domain>\n<devices><graphics type='vnc' pawsswd='{SECRET}'/></devices></domain>",
    f"<domain>\n<devices><graphics type='vnc' Passwd = \"{SECRET}\"/></devices></domain>",
    f"<domain>\n<devices><graphics type='vnc'\n passsword='{SECRET}'/></devices></domain>",
    f"<graphics>\n<password>{SECRET}</password></graphics>",
    f"<pool>\n<source><auth type='chap'><passwrd>{SECRET}</passwrd></auth></source></pool>",
    f"<pool>\n<source><auth type='chap'>{SECRET}<secret usage='x'/></auth></source></pool>",
    f"<pool>\n<source><auth><secret usage='x'>{SECRET}</secret></auth></source></pool>",
    f"<disk>\n<source><cookies><cookie name='c'>{SECRET}</cookie></cookies></source></disk>",
    f"<disk>\n<source><cokie name='c'><![CDATA[{SECRET}]]></cokie></source></disk>",
    f"<disk>\n<source protocol='https' name='x' qeury='{SECRET}'/></disk>",
    f"<disk>\n<auth uesrname='{SECRET}'><secret usage='x'/></auth></disk>",
    f"<disk>\n<atuh username='{SECRET}'><secret usage='x'/></atuh></disk>",
    f"<domain>\n<env name='API_TOKEN' vaule='{SECRET}'/></domain>",
    f"<domain>\n<evn nmae='API_TOKEN' value='{SECRET}'/></domain>",
]


@pytest.mark.parametrize("text", WITH_SECRET)
def test_no_secret_is_in_a_finding_nor_in_its_line(text: str) -> None:
    """Whatever a finding says, at whichever place: message, lists, edits and source line."""
    document = Document.parse(text)
    value = Edit("value", "/a", attribute="passwd", value=SECRET)
    whole = Edit("add", "/a", xml=f"<a passwd='{SECRET}'/>")
    said = f"value '{SECRET}' is not allowed"
    lines = text.split("\n")
    findings = [
        Finding(
            *("bad-value", "error", said, line, column, "/domain", (SECRET,), (SECRET,)),
            name="passwd",
            identity=f"graphics {SECRET}",
            fixes=(Fix(value, True), Fix(whole, False)),
        )
        for line, written in enumerate(lines, 1)
        for column in range(1, len(written) + 2)
    ]
    clean, excerpts = shown(document, findings)

    assert SECRET not in repr(clean)
    assert SECRET not in repr(excerpts)
    assert SECRET not in repr(list(hidden(document, [value, whole])))
    assert "(redacted)" in clean[0].message
    assert any("(redacted)" in each.text for each in excerpts)


@pytest.mark.parametrize("secret", ["a", "ab", "&lt;x&amp;y", "two  words", " blank "])
def test_a_secret_is_hidden_however_it_is_said(secret: str) -> None:
    """Short ones where they are quoted, escaped ones as they read, and without their blanks."""
    from html import unescape

    document = Document.parse(f"<graphics passwd='{secret}'/>")
    for said in {secret, unescape(secret), secret.strip(), " ".join(secret.split())}:
        message = f"no banana can be '{said}'"
        ((finding,), _) = shown(
            document, [Finding("bad-value", "error", message, 1, 1, "/graphics")]
        )
        assert "no banana can be '(redacted)'" == finding.message


def test_the_beginning_of_a_long_secret_is_hidden_too() -> None:
    """A message may be cut, and may show line breaks as such."""
    words = "a long\nsecret, that nobody would want to have on one line of a terminal's window"
    document = Document.parse(f"<auth>{words}</auth>")
    for said in (words.replace("\n", "\\n"), words[:57] + "..."):
        message = f'no text is allowed: "{said}"'
        ((finding,), _) = shown(document, [Finding("x", "error", message, 1, 1, "/auth")])
        assert 'no text is allowed: "(redacted)"' == finding.message


def test_many_secrets_take_no_longer() -> None:
    """A document may be made to have as many as there is room for; then all that is quoted goes."""
    many = "".join(f"<graphics passwd='secret-{n}'/>" for n in range(20_000))
    findings = [Finding("x", "error", f'no "secret-{n}" here', 1, 1, "/a") for n in range(2_000)]
    clean, _ = shown(Document.parse(f"<a>{many}</a>"), findings)

    assert {'no "(redacted)" here'} == {each.message for each in clean}


def test_what_is_no_secret_stays() -> None:
    """A document without secrets is shown as it is, and so is the rest of one that has some."""
    document = Document.parse("<disk>\n  <driver name='qemu' tpye='qcow2'/>\n</disk>")
    finding = Finding("misspelled-attribute", "error", "no tpye", 2, 23, "/disk/driver/@tpye")
    ((same,), (line,)) = shown(document, [finding])

    assert finding == same
    assert (2, "  <driver name='qemu' tpye='qcow2'/>") == (line.line, line.text)
    assert "tpye='qcow2'" == line.text[line.start : line.end]


@pytest.mark.parametrize(
    ("text", "line", "column", "pointed"),
    [
        ("<a>\r\n <b c='d'/>\r\n</a>", 2, 2, "<b"),
        ("\ufeff<a b='c'/>", 1, 1, "<a"),
        ("<a>\n</a>", 2, 1, "</a"),
        ("<a\n\tb = 'c d'/>", 2, 2, "b = 'c d'"),
        ("<a>text here</a>", 1, 4, "text"),
        ("<a passwd='xxxx' b='c'/>", 1, 18, "b='c'"),
        ("<a passwd='xxxx' b='c'/>", 1, 4, "passwd='(redacted)'"),
        ("<a passwd='xxxx' b='c'/>", 1, 13, "(redacted)"),
    ],
)
def test_a_line_is_pointed_at_where_the_finding_is(
    text: str, line: int, column: int, pointed: str
) -> None:
    """At a tag's begin, an attribute with its value, a word; secrets in front count as shown."""
    _, (found,) = shown(Document.parse(text), [Finding("x", "error", "x", line, column, "/a")])

    assert line == found.line
    assert pointed == found.text[found.start : found.end]
    assert not set("\r\n\ufeff") & set(found.text)


@given(
    st.lists(
        st.sampled_from(["<b/>", "<c d='e'/>", " text ", "<p passwd='pppp'/>", "\n", "ä漢\t"])
    ),
    st.integers(1, 30),
    st.integers(1, 80),
)
def test_any_place_has_a_line(parts: list[str], line: int, column: int) -> None:
    """Even one that the document has not: what is pointed at stands in the line that is shown."""
    text = f"<a>{''.join(parts)}</a>"
    _, (found,) = shown(Document.parse(text), [Finding("x", "error", "x", line, column, "/a")])

    assert 0 <= found.start < found.end <= len(found.text) + 1
    assert found.text == text.split("\n")[found.line - 1].replace("pppp", "(redacted)")


def test_of_a_long_line_a_part_is_kept() -> None:
    """A document may be one line of megabytes."""
    text = f"<a>{'x' * 100_000}<b c='d'/>{'y' * 100_000}</a>"
    _, (found,) = shown(
        Document.parse(text), [Finding("x", "error", "x", 1, text.index("<b") + 1, "/a/b")]
    )

    assert len(found.text) < 10_000
    assert "<b" == found.text[found.start : found.end]


def unreadable(source: bytes) -> DocumentError:
    """What is wrong with a file that is no document."""
    with pytest.raises(DocumentError) as caught:
        Document.parse(source)
    return caught.value


def test_the_line_of_a_file_that_cannot_be_read_is_shown() -> None:
    """In whichever encoding; where the error has no place there is no line."""
    source = "<domain>\n  <name>ä</nam>\n</domain>\n"
    for data in (source.encode(), source.encode("utf-16")):
        found = excerpt_of_unreadable(data, unreadable(data))
        assert found is not None
        assert (2, "  <name>ä</nam>") == (found.line, found.text)
    assert None is excerpt_of_unreadable(b"<a/>", DocumentError("too large"))
    assert None is excerpt_of_unreadable(b"<a/>", DocumentError("x", 7, 1))


@pytest.mark.parametrize("text", WITH_SECRET)
def test_a_file_that_cannot_be_read_shows_no_line_with_a_secret(text: str) -> None:
    """Such a file cannot be redacted, so none of its lines is shown where one may be in it."""
    source = f"{text}</x>".encode()

    assert None is excerpt_of_unreadable(source, unreadable(source))


def laid(text: str, patch: Patch) -> str:
    """A text after a patch, as an editor would lay it."""
    lines = text.split("\n")
    start, end = (
        sum(len(each) + 1 for each in lines[: line - 1]) + column - 1
        for line, column in ((patch.line, patch.column), (patch.end_line, patch.end_column))
    )
    return text[:start] + patch.text + text[end:]


DOMAIN = (
    "<domain type='kvm'>\r\n<name>ü</name><memory>64</memory><os><type>hvm</type></os>\n"
    "<devices>{}</devices>\n</domain>"
)


@pytest.mark.parametrize(
    "devices",
    [
        "<emulatr>/x</emulatr>",
        "<disk type='file'>\n<target dev='vda' bsu='virtio'/></disk>",
        "<graphics type='vnc' autoport='noo' paswd='hunter2'/>",
        "<disk type='file'><driver bus='virtio'/>\n<target dev='vda'/></disk>\n<hint/>",
        "<boot dev='hd'/>",
    ],
)
def test_a_patch_does_what_the_repair_does(devices: str) -> None:
    """With the same bytes, and as little of the text as can be."""
    document = Document.parse(DOMAIN.format(devices))
    findings = validate(document)
    found = patches(document, findings)

    assert any(found)
    assert len(findings) == len(found)
    for finding, each in zip(findings, found, strict=True):
        edits = [fix.edit for fix in finding.fixes if fix.verified]
        assert len(edits) == len(each)
        for edit, patch in zip(edits, each, strict=True):
            assert apply_fix(document, edit).text == laid(document.text, patch)
            assert "hunter2" not in patch.text


def test_a_patch_that_would_write_a_secret_is_left_out() -> None:
    """What is moved over it has it in its way."""
    text = DOMAIN.format("<graphics type='vnc' passwd='hunter2'/><vcpu>4</vcpu>")
    document = Document.parse(text)
    (finding,) = validate(document)
    moved = Finding(
        *(finding.id, finding.severity, finding.message, 1, 1, finding.xpath),
        fixes=(Fix(Edit("move", "/domain/devices/vcpu", to="/domain/os"), True),),
    )

    assert ((),) == patches(document, [moved])
    assert (1,) == tuple(map(len, patches(document, [finding])))
