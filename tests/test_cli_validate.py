"""xmlkit validate: exit codes, lines for people and editors, JSON for programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from lxml import etree

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"
SCHEMA = json.loads((ROOT / "schemas/validate-1.json").read_text())
VALID = FIXTURES / "file-in-pool.xml"
INVALID = FIXTURES / "invalid-twice.xml"
BROKEN = b"<domain>\n  <name>\n</domain>\n"


def xmlkit(
    *arguments: str | Path, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "from xmlkit.cli import main; main()", "validate", *arguments],
        input=stdin,
        capture_output=True,
        env={key: value for key, value in os.environ.items() if key != "XMLKIT_SCHEMAS"}
        | variables,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def results(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The results of the JSON on stdout, which must be valid by the schema that is published."""
    found = json.loads(done.stdout)
    jsonschema.validate(found, SCHEMA, jsonschema.Draft202012Validator)
    entries: list[dict[str, Any]] = found["results"]
    return entries


def findings_of(text: str) -> list[str]:
    """The lines of a text that are findings: the others show the source."""
    return [line for line in text.splitlines() if not re.match(r" *\d* \|", line)]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A file that is not well-formed."""
    file = tmp_path / "broken.xml"
    file.write_bytes(BROKEN)
    return file


@pytest.mark.parametrize("format_", ["text", "json"])
def test_the_exit_code_is_the_worst_of_all_files(broken: Path, format_: str) -> None:
    """0 all valid, 1 findings, 2 trouble: not well-formed or not there; the order is the same."""

    def code(*files: str | Path) -> int:
        return xmlkit("--format", format_, *files).returncode

    assert 0 == code(VALID)
    assert 1 == code(INVALID)
    assert 2 == code(broken)
    assert 2 == code("missing.xml")
    assert 1 == code(VALID, INVALID, VALID)
    assert 2 == code(broken, INVALID, VALID)
    assert 2 == code(VALID, "missing.xml", INVALID)


def test_a_broken_file_does_not_stop_the_others(broken: Path) -> None:
    """It is a finding, and the rest is checked."""
    done = xmlkit("--format", "json", VALID, broken, "missing.xml", INVALID)
    found = {entry["file"]: entry for entry in results(done)}

    assert [str(VALID), str(broken), str(INVALID)] == list(found)
    assert [True, False, False] == [entry["valid"] for entry in found.values()]
    (finding,) = found[str(broken)]["findings"]
    assert ("not-well-formed", "error", 3) == (
        finding["id"],
        finding["severity"],
        finding["line"],
    )
    assert None is found[str(broken)]["kind"]
    assert "missing.xml" in done.stderr


def test_what_is_valid_needs_no_words() -> None:
    """Nothing on stdout and stderr."""
    done = xmlkit(VALID)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_a_line_of_text_begins_as_editors_read_it(broken: Path) -> None:
    """FILE:LINE:COLUMN: severity: message, with the id to explain and the place."""
    lines = findings_of(xmlkit(INVALID, broken).stdout)

    assert 2 <= len(lines)
    for line in lines:
        assert re.match(r"\S+\.xml:\d+:\d+: error: \S.*\[([a-z-]+)\] /", line)
    assert lines[-1].startswith(f"{broken}:3:")


def test_json_says_the_kind_and_each_finding() -> None:
    """Its place is that of an element of the document."""
    (entry,) = results(xmlkit("--format", "json", INVALID))
    tree = etree.parse(INVALID)

    assert ("domain", False) == (entry["kind"], entry["valid"])
    assert entry["findings"]
    for finding in entry["findings"]:
        found = tree.xpath(finding["xpath"])
        assert isinstance(found, list)
        assert 1 == len(found)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<pool type='dir'><name>p</name><target><path>/x</path></target></pool>", "pool"),
        ("<network><name>n</name></network>", "network"),
        ("<volume><name>v</name><capacity>1</capacity><target/></volume>", "volume"),
        ("<secret ephemeral='no' private='no'/>", "secret"),
    ],
)
def test_the_root_chooses_the_schema(text: str, kind: str) -> None:
    """Each kind of libvirt's documents, by its own schema."""
    (valid,) = results(xmlkit("--format", "json", "-", stdin=text.encode()))
    wrong = text.replace(f"<{kind}", f"<{kind} nonsense='1'", 1)
    (invalid,) = results(xmlkit("--format", "json", "-", stdin=wrong.encode()))

    assert (kind, True, kind, False) == (
        valid["kind"],
        valid["valid"],
        invalid["kind"],
        invalid["valid"],
    )


@pytest.mark.parametrize("text", ["<a/>", "<a xmlns='urn:x'/>", "<x:a xmlns:x='urn:x'/>"])
def test_a_root_without_a_schema_is_trouble(text: str) -> None:
    """Exit code 2, and a finding that says so."""
    done = xmlkit("--format", "json", "-", stdin=text.encode())
    (entry,) = results(done)

    assert 2 == done.returncode
    assert ["unknown-kind"] == [each["id"] for each in entry["findings"]]


def test_of_a_directory_all_xml_files_are_checked(tmp_path: Path) -> None:
    """Those of its subdirectories, too, in the same order each time; no others."""
    for name in ("b.xml", "a.xml", "sub/c.xml", "sub/deep/d.xml", "e.txt", ".hidden.xml", "f.XML"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(VALID.read_bytes())
    found = [entry["file"] for entry in results(xmlkit("--format", "json", tmp_path))]

    assert [str(tmp_path / name) for name in ("a.xml", "b.xml", "sub/c.xml", "sub/deep/d.xml")] == [
        name for name in found if ".hidden" not in name and not name.endswith(".XML")
    ]
    assert str(tmp_path / "e.txt") not in found


def test_a_directory_without_xml_is_said_to_be_so(tmp_path: Path) -> None:
    """Nothing was checked: that must not look like "all is well"."""
    done = xmlkit(tmp_path)

    assert str(tmp_path) in done.stdout + done.stderr


def test_a_directory_that_cannot_be_read_is_trouble(tmp_path: Path) -> None:
    """It must not look like "all is well" either."""
    if os.geteuid() == 0:
        directory = Path("/proc/1/task/1/fdinfo/nothing")
    else:
        directory = tmp_path / "closed"
        directory.mkdir(mode=0)
    done = xmlkit(directory)

    assert 2 == done.returncode
    assert str(directory) in done.stderr


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    """A directory that links to itself is walked once."""
    (tmp_path / "a.xml").write_bytes(VALID.read_bytes())
    (tmp_path / "loop").symlink_to(tmp_path)

    assert [str(tmp_path / "a.xml")] == [
        entry["file"] for entry in results(xmlkit("--format", "json", tmp_path))
    ]


def test_a_pipe_in_a_directory_is_not_waited_for(tmp_path: Path) -> None:
    """It is no document; one that is named is read."""
    os.mkfifo(tmp_path / "pipe.xml")
    (tmp_path / "a.xml").write_bytes(VALID.read_bytes())
    (tmp_path / "b.xml").symlink_to(tmp_path / "nowhere")
    done = xmlkit(tmp_path)

    assert 2 == done.returncode
    assert "b.xml" in done.stderr
    assert "pipe.xml" not in done.stderr


def test_stdin_is_a_file() -> None:
    """Named -."""
    done = xmlkit("--format", "json", "-", stdin=INVALID.read_bytes())
    (entry,) = results(done)

    assert (1, "-", False) == (done.returncode, entry["file"], entry["valid"])


def test_a_named_directory_of_schemas_is_used(tmp_path: Path) -> None:
    """By --schemas, or by the variable; --schemas comes first."""
    strict, lax = tmp_path / "strict", tmp_path / "lax"
    for directory, content in (
        (strict, "<notAllowed/>"),
        (lax, "<zeroOrMore><choice><attribute><anyName/></attribute><text/></choice></zeroOrMore>"),
    ):
        directory.mkdir()
        (directory / "domain.rng").write_text(
            "<element name='domain' xmlns='http://relaxng.org/ns/structure/1.0'>"
            f"{content}</element>"
        )

    def code(*options: str | Path, **variables: str) -> int:
        return xmlkit(*options, "-", stdin=b"<domain a='b'/>", **variables).returncode

    assert 1 == code()
    assert 0 == code("--schemas", lax)
    assert 1 == code("--schemas", strict, XMLKIT_SCHEMAS=str(lax))
    assert 0 == code(XMLKIT_SCHEMAS=str(lax))


@pytest.mark.parametrize("by", ["--schemas", "XMLKIT_SCHEMAS"])
def test_without_schemas_nothing_is_said_of_any_file(by: str, tmp_path: Path) -> None:
    """Exit code 2 before the first file; the message names the directory and who named it."""
    if by == "--schemas":
        done = xmlkit(by, tmp_path, VALID)
    else:
        done = xmlkit(VALID, XMLKIT_SCHEMAS=str(tmp_path))

    assert (2, "") == (done.returncode, done.stdout)
    assert str(tmp_path) in done.stderr
    assert by in done.stderr


def test_schemas_that_are_not_installed_are_an_error_that_names_packages() -> None:
    """Where the machine has none: the command runs with an empty /usr/share/libvirt."""
    if os.geteuid() != 0:
        pytest.skip("hiding a directory takes root")
    command = [sys.executable, "-c", "from xmlkit.cli import main; main()", "validate", str(VALID)]
    places = "/usr/share/libvirt /usr/local/share/libvirt"
    hide = f'for place in {places}; do [ -d $place ] && mount -t tmpfs x $place; done; "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide, "sh", *command],
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "XMLKIT_SCHEMAS"},
    )

    assert (2, "") == (done.returncode, done.stdout)
    for words in ("apt-get install libvirt", "dnf install libvirt", "brew install libvirt"):
        assert words in done.stderr


def test_a_schema_of_one_kind_that_is_missing_is_trouble(tmp_path: Path) -> None:
    """The other files are still checked."""
    (tmp_path / "domain.rng").write_text(
        "<element name='domain' xmlns='http://relaxng.org/ns/structure/1.0'><empty/></element>"
    )
    for name in ("network", "domain"):
        (tmp_path / f"{name}.xml").write_text(f"<{name}/>")
    files = (tmp_path / "network.xml", tmp_path / "domain.xml")
    done = xmlkit("--schemas", tmp_path, "--format", "json", *files)

    assert 2 == done.returncode
    assert "network.rng" in done.stderr
    assert [str(tmp_path / "domain.xml")] == [
        entry["file"] for entry in results(done) if entry["valid"]
    ]


# Policy, profile, several schemas, lone devices.

UNSTATED = (
    b"<volume>\n <name>v</name>\n <capacity>1</capacity>\n"
    b" <target><format type='qcow2'/></target>\n</volume>\n"
)
VOLUME_DISK = (
    b"<disk type='volume'>\n <source pool='p' volume='v'/>\n <target dev='vda'/>\n</disk>\n"
)


def test_a_policy_is_asked_besides_the_schema() -> None:
    """Its findings are findings, and the document is valid all the same."""
    (plain,) = results(xmlkit("--format", "json", "-", stdin=UNSTATED))
    done = xmlkit("--policy", "storage", "--format", "json", "-", stdin=UNSTATED)
    (entry,) = results(done)

    assert [] == plain["findings"]
    assert (1, True) == (done.returncode, entry["valid"])
    assert [("policy-compat", 4, "/volume/target")] == [
        (each["id"], each["line"], each["xpath"]) for each in entry["findings"]
    ]


def test_the_schemas_findings_and_the_policys_stand_together() -> None:
    """A document may have both; each is one line of text."""
    wrong = UNSTATED.replace(b"<volume>", b"<volume nonsense='1'>")
    lines = findings_of(xmlkit("--policy", "nova", "-", stdin=wrong).stdout)
    ids = [re.findall(r"\[([a-z-]+)\]", line)[0] for line in lines]

    assert {"unknown-attribute", "policy-compat", "policy-nova-name"} == set(ids)


def test_a_policy_finds_nothing_in_other_documents() -> None:
    """A guest whose disks are as they should be, and a document that no policy is about."""
    network = b"<network><name>n</name></network>"

    assert 0 == xmlkit("--policy", "nova", VALID).returncode
    assert 0 == xmlkit("--policy", "nova", "-", stdin=network).returncode


def test_a_profile_refuses_what_the_schema_allows() -> None:
    """And so the document counts as not valid."""
    assert 0 == xmlkit("-", stdin=VOLUME_DISK).returncode
    done = xmlkit("--profile", "no-volume-disks", "--format", "json", "-", stdin=VOLUME_DISK)
    (entry,) = results(done)

    assert (1, False, "disk") == (done.returncode, entry["valid"], entry["kind"])
    assert ["profile-volume-disk"] == [each["id"] for each in entry["findings"]]


@pytest.mark.parametrize("option", ["--policy", "--profile"])
def test_a_policy_or_profile_that_is_not_there_is_trouble(option: str) -> None:
    """It names those that are."""
    done = xmlkit(option, "nonsense", VALID)

    assert (2, "") == (done.returncode, done.stdout)
    assert {"--policy": "nova", "--profile": "no-volume-disks"}[option] in done.stderr


def test_several_schemas_stand_side_by_side(tmp_path: Path) -> None:
    """Each gives its verdict and is named in it; a policy's finding is told once."""
    for name, content in (("1.0", "<notAllowed/>"), ("2.0", "<ref name='any'/>")):
        (tmp_path / name).mkdir()
        for root in ("domain", "storagevol"):
            element = {"storagevol": "volume"}.get(root, root)
            (tmp_path / name / f"{root}.rng").write_text(
                "<grammar xmlns='http://relaxng.org/ns/structure/1.0'>"
                f"<start><element name='{element}'>{content}</element></start><define name='any'>"
                "<zeroOrMore><choice><attribute><anyName/></attribute><text/><element><anyName/>"
                "<ref name='any'/></element></choice></zeroOrMore></define></grammar>"
            )
    options = ("--schemas", "1.0", "--schemas", tmp_path / "2.0", "--policy", "storage")
    variables = {"XMLKIT_SCHEMAS": str(tmp_path)}
    entries = results(xmlkit(*options, "--format", "json", "-", stdin=UNSTATED, **variables))
    text = xmlkit(*options, "-", stdin=UNSTATED, **variables)

    assert [(str(tmp_path / "1.0"), False), (str(tmp_path / "2.0"), True)] == [
        (entry["schemas"], entry["valid"]) for entry in entries
    ]
    assert 1 == text.returncode
    assert 1 == text.stdout.count("policy-compat")
    assert text.stdout.splitlines()[0].endswith(f"({tmp_path / '1.0'})")
    assert f"({tmp_path / '2.0'})" not in text.stdout


def test_a_version_that_is_not_there_is_trouble() -> None:
    """Before the first file."""
    done = xmlkit("--schemas", "1.2.3", VALID)

    assert (2, "") == (done.returncode, done.stdout)
    assert "--schemas 1.2.3" in done.stderr
    assert "XMLKIT_SCHEMAS" in done.stderr


def test_a_document_that_is_hostile_to_a_policy_is_judged(broken: Path) -> None:
    """What cannot be read stays trouble; controls in a name are not printed."""
    assert 2 == xmlkit("--policy", "nova", broken).returncode
    done = xmlkit("--policy", "nova", "-", stdin=b"<volume><name>a&#x9b;2J</name></volume>")

    assert 1 == done.returncode
    assert "\x9b" not in done.stdout
