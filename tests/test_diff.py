"""Preview: what is shown is what transform() makes, secrets aside, with a verdict on both."""

from __future__ import annotations

import difflib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmlkit import Document, Host, Pool, transform
from xmlkit.diff import SCHEMA, Preview, as_data, difference, preview, unified
from xmlkit.plan import plan
from xmlkit.redaction import redact_pair

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"
UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
HOST = Host(
    9_000_000,
    "qemu",
    (),
    (
        Pool("images", "dir", "/srv/images"),
        Pool("vg", "logical", "/dev/vg"),
        Pool("nova", "dir", "/var/lib/nova/instances/disks"),
    ),
)
DOCUMENTS = {
    path.relative_to(FIXTURES).with_suffix("").as_posix(): path
    for path in sorted(FIXTURES.rglob("*.xml"))
    if b"<domain type=" in path.read_bytes() and b"<node>" not in path.read_bytes()
}


def made_of(source: bytes | str, **options: Any) -> Preview:
    """The preview of a document on the host."""
    document = Document.parse(source)
    return preview("a.xml", document, plan(document, HOST, relocate={None: "nova"}, **options))


def domain(disks: str, extra: str = "") -> str:
    return (
        "<domain type='kvm'>\n  <name>guest</name>\n  <memory>65536</memory>\n"
        f"  <os><type>hvm</type></os>\n  <devices>\n{disks}\n  </devices>\n{extra}</domain>\n"
    )


def disk(path: str = "/srv/images/a", target: str = "vda") -> str:
    return (
        f"    <disk type='file'>\n      <driver type='raw'/>\n      <source file='{path}'/>\n"
        f"      <target dev='{target}'/>\n    </disk>"
    )


def applied(text: str, difference: str) -> str:
    """The text with a unified diff applied to it, each of whose lines must fit exactly."""
    if not difference:
        return text
    lines = difference.split("\n")
    assert lines[0].startswith("--- ")
    assert lines[1].startswith("+++ ")
    old = text.split("\n")
    new: list[str] = []
    at = 0
    for line in lines[2:]:
        head = re.fullmatch(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", line)
        if head:
            start = int(head[1]) - (head[2] != "0")
            new += old[at:start]
            at = start
            assert int(head[3]) - (head[4] != "0") == len(new)
        elif line[:1] in (" ", "-"):
            assert old[at] == line[1:]
            at += 1
            if line[0] == " ":
                new.append(line[1:])
        elif line[:1] == "+":
            new.append(line[1:])
    return "\n".join(new + old[at:])


@pytest.mark.parametrize("path", DOCUMENTS.values(), ids=DOCUMENTS)
def test_the_difference_leads_to_what_transform_makes(path: Path) -> None:
    """Applied to the document's text it gives the result's; to the redacted one the redacted."""
    made = made_of(path.read_bytes(), live=b" id=" in path.read_bytes()[:200])
    before, after = made.before.text, made.after.text

    assert transform(made.before, made.plan).source == made.after.source
    assert after == applied(before, unified(made, show_secrets=True))
    old, new = redact_pair(before, after)
    assert new == applied(old, unified(made))


@pytest.mark.parametrize("path", DOCUMENTS.values(), ids=DOCUMENTS)
def test_the_difference_is_as_short_as_difflibs(path: Path) -> None:
    """The same lines taken and added as by the standard library over the whole text."""
    made = made_of(path.read_bytes())
    mine = [line for line in unified(made, show_secrets=True).split("\n")[2:] if line[:1] in "+-"]
    whole = difflib.unified_diff(made.before.text.split("\n"), made.after.text.split("\n"))

    assert [line for line in list(whole)[2:] if line[:1] in "+-"] == [line for line in mine if line]


def test_patch_takes_the_difference(tmp_path: Path) -> None:
    """The tool of that name agrees, also where the last line has no end."""
    for number, end in enumerate(("\n", "", "\n\n", "\r\n")):
        source = domain(disk()).rstrip("\n") + end
        made = made_of(source)
        file = tmp_path / f"{number}.xml"
        file.write_bytes(made.before.source)
        command = ["patch", "--binary", "--fuzz=0", "--no-backup-if-mismatch", str(file)]
        subprocess.run(command, input=unified(made).encode(), check=True, capture_output=True)

        assert made.after.source == file.read_bytes()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["/srv/images/a", "/elsewhere/b"]),
            st.sampled_from(["\n", "", "\r\n", "\n\n", "\u2028", "\x85", "\n<!-- x -->\n", " "]),
        ),
        max_size=5,
    ),
    st.booleans(),
)
def test_the_difference_fits_however_lines_and_disks_lie(
    disks: list[tuple[str, str]], one_line: bool
) -> None:
    """Several disks on a line, a disk over many lines, other line ends, none at all."""
    text = domain("".join(disk(path, f"vd{i}") + end for i, (path, end) in enumerate(disks)))
    made = made_of(re.sub(r"\n\s*", "", text) if one_line else text)

    assert made.after.text == applied(made.before.text, unified(made, show_secrets=True))


def test_a_secret_over_several_lines_shifts_nothing() -> None:
    """The lines of the difference are those of the redacted text, however long a secret is."""
    cookie = "<cookies>\n<cookie name='sid'>\nHIDE-ME\nHIDE-ME\n</cookie>\n</cookies>"
    network = (
        "    <disk type='network'>\n      <source protocol='https' name='n'><host name='h'/>"
        f"{cookie}</source>\n      <target dev='vdz'/>\n    </disk>\n"
    )
    made = made_of(domain(network + disk()))
    old, new = redact_pair(made.before.text, made.after.text)

    assert "HIDE-ME" not in unified(made)
    assert new == applied(old, unified(made))


def test_nothing_changed_is_no_difference() -> None:
    """The text is empty, not a head without hunks."""
    made = made_of(domain(disk("/elsewhere/a")))

    assert "" == unified(made)
    assert made.before is made.after


# The verdict.


@pytest.mark.parametrize(
    ("source", "before", "after", "broken"),
    [
        pytest.param(domain(disk()), True, True, False, id="valid"),
        pytest.param(domain(disk(), "<x/>"), False, False, False, id="invalid-before"),
        pytest.param(domain(""), True, True, False, id="nothing-to-do"),
    ],
)
def test_both_documents_are_judged(source: str, before: bool, after: bool, broken: bool) -> None:
    """By libvirt's schema; invalid before is no trouble of the transition's."""
    made = made_of(source)

    assert (before, after, broken) == (
        not made.findings_before,
        not made.findings_after,
        made.broken,
    )


def test_valid_before_and_invalid_after_is_broken(tmp_path: Path) -> None:
    """Under a schema that has no volume disks, such as libvirt's before 1.0.5."""
    schemas = tmp_path / "schemas"
    schemas.mkdir()
    # anything, but no attribute named "volume"
    (schemas / "domain.rng").write_text(
        """<grammar xmlns="http://relaxng.org/ns/structure/1.0">
             <start><ref name="any"/></start>
             <define name="any"><element><anyName/><zeroOrMore><choice>
               <attribute><anyName><except><name>volume</name></except></anyName></attribute>
               <text/>
               <ref name="any"/>
             </choice></zeroOrMore></element></define>
           </grammar>"""
    )
    document = Document.parse(domain(disk()))
    made = preview("a.xml", document, plan(document, HOST), schemas)

    assert () == made.findings_before
    assert made.findings_after
    assert made.broken


# JSON.


@pytest.mark.parametrize("path", DOCUMENTS.values(), ids=DOCUMENTS)
def test_the_data_is_valid_by_the_schema_that_is_published(path: Path) -> None:
    """schemas/diff-1.json, which allows nothing else."""
    schema = json.loads((ROOT / "schemas/diff-1.json").read_text())
    data = {"schema": SCHEMA, "domains": [as_data(made_of(path.read_bytes()))]}

    jsonschema.validate(json.loads(json.dumps(data)), schema, jsonschema.Draft202012Validator)


def test_the_data_says_what_becomes_of_each_disk() -> None:
    """Action, form, where from, where to, and why."""
    text = domain(
        disk(target="vda")
        + disk(f"/var/lib/nova/instances/{UUID}/disk", "vdb")
        + disk("/elsewhere/c", "vdc"),
    ).replace("<memory>", f"<uuid>{UUID}</uuid><memory>")
    data = as_data(made_of(text))

    assert ("a.xml", "guest", UUID) == (data["file"], data["name"], data["uuid"])
    assert ({"valid": True}, {"valid": True}) == (data["before"], data["after"])
    adopted, moved, skipped = data["disks"]
    file = {"type": "file", "pool": None, "volume": None, "format": "raw"}
    assert {
        "target": "vda",
        "action": "adopt",
        "disk_type": "volume",
        "from": {**file, "path": "/srv/images/a"},
        "to": {"type": "volume", "pool": "images", "volume": "a", "path": "/srv/images/a"},
        "verified": False,
        "reason": None,
    } == adopted
    name = f"{UUID}_disk"
    assert ("move", {**file, "path": f"/var/lib/nova/instances/{UUID}/disk"}) == (
        moved["action"],
        moved["from"],
    )
    assert {
        "type": "volume",
        "pool": "nova",
        "volume": name,
        "path": f"/var/lib/nova/instances/disks/{name}",
    } == moved["to"]
    assert ("skip", None, None, "outside-pools") == (
        skipped["action"],
        skipped["disk_type"],
        skipped["to"],
        skipped["reason"]["id"],
    )


def test_a_fallback_says_its_form_and_its_reason() -> None:
    """The disk keeps its path, and the data says why, though nothing changes."""
    document = Document.parse(domain(disk()))
    host = Host(1_000_004, "qemu", (), HOST.pools)
    (entry,) = as_data(preview("a.xml", document, plan(document, host)))["disks"]

    assert ("adopt", "path", "libvirt-version") == (
        entry["action"],
        entry["disk_type"],
        entry["reason"]["id"],
    )
    assert "/srv/images/a" == entry["to"]["path"] == entry["from"]["path"]


@pytest.mark.parametrize("to", ["volume", "path"])
def test_no_secret_is_in_the_data(to: str) -> None:
    """Unless it is asked for."""
    source = (FIXTURES / "secrets.xml").read_text()
    if to == "path":
        source = made_of(source).after.text
    made = made_of(source, to=to)

    assert made.plan.changes
    assert "HIDE-ME" not in json.dumps(as_data(made))
    assert "HIDE-ME" in json.dumps(as_data(made, show_secrets=True))


def test_the_difference_alone_is_that_of_the_preview() -> None:
    """Under the domain's name, without a look at schemas, and without secrets."""
    beside = "    <graphics type='vnc' passwd='HIDE-ME'/>"
    made = made_of(domain(f"{beside}\n{disk()}"))
    found = difference("guest", made.before, made.plan)

    assert unified(made).replace("a.xml", "guest") == found
    assert "HIDE-ME" in unified(made, show_secrets=True)
    assert "HIDE-ME" not in found
