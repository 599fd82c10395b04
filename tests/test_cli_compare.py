"""xmlkit compare: exit codes, two formats, and no secret in any of them."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"
SCHEMA = json.loads((ROOT / "schemas/compare-1.json").read_text())
OLD = FIXTURES / "file-in-pool.xml"
NEW = FIXTURES / "volume-disk.xml"
POOLS = FIXTURES / "every-pool-type.xml"
SECRETS = FIXTURES / "secrets.xml"
COMMAND = [sys.executable, "-c", "from xmlkit.cli import main; main()", "compare"]


def xmlkit(
    *arguments: str | Path, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """The command, in a process of its own."""
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, env=os.environ | variables
    )


def data(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    """The JSON on stdout, which must be valid by the schema that is published."""
    found: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(found, SCHEMA, jsonschema.Draft202012Validator)
    return found


@pytest.mark.parametrize("format_", ["text", "json"])
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(OLD, OLD, 0, id="same"),
        pytest.param(OLD, NEW, 1, id="different"),
        pytest.param(OLD, POOLS, 2, id="two-kinds"),
        pytest.param(OLD, "missing.xml", 2, id="missing"),
        pytest.param("missing.xml", OLD, 2, id="missing-first"),
        pytest.param(OLD, ROOT / "README.md", 2, id="no-xml"),
        pytest.param("-", "-", 2, id="stdin-twice"),
    ],
)
def test_the_exit_code_says_whether_they_differ(
    old: str | Path, new: str | Path, expected: int, format_: str
) -> None:
    """0 no difference, 1 some, 2 trouble: then one line on stderr says what, and no traceback."""
    done = xmlkit("--format", format_, old, new)

    assert expected == done.returncode
    if expected == 2:
        assert b"" == done.stdout
        assert re.fullmatch(rb"xmlkit: [^\n]+\n", done.stderr)
    else:
        assert b"" == done.stderr
        assert bool(done.stdout) == (expected == 1 or format_ == "json")


def test_two_kinds_are_named() -> None:
    """The message says which they are and what to do."""
    done = xmlkit(OLD, POOLS)

    assert b"cannot compare a domain with a" in done.stderr
    assert b"give two documents of the same kind" in done.stderr


def test_a_difference_is_a_line() -> None:
    """What became of it, where, what it was and is; either document may be stdin."""
    expected = (
        "changed /domain/devices/disk[vda]/@type: file -> volume\n"
        "removed /domain/devices/disk[vda]/source/@file: /srv/images/a.qcow2\n"
        "added   /domain/devices/disk[vda]/source/@pool: images\n"
        "added   /domain/devices/disk[vda]/source/@volume: a.qcow2\n"
    )
    for done in (
        xmlkit(OLD, NEW),
        xmlkit("-", NEW, stdin=OLD.read_bytes()),
        xmlkit(OLD, "-", stdin=NEW.read_bytes()),
    ):
        assert expected == done.stdout.decode()


def test_json_says_all_of_it() -> None:
    """The files, the kind, and each difference with its lines in both documents."""
    found = data(xmlkit("--format", "json", OLD, NEW))

    assert ("xmlkit.compare/1", str(OLD), str(NEW), "domain") == tuple(found.values())[:4]
    assert ["changed", "removed", "added", "added"] == [
        each["action"] for each in found["differences"]
    ]
    line = OLD.read_text().split("\n").index("    <disk type='file'>") + 1
    first = found["differences"][0]
    assert ("file", "volume", line) == (first["old"], first["new"], first["old_line"])
    assert [] == data(xmlkit("--format", "json", OLD, OLD))["differences"]
    added = data(xmlkit("--format", "json", "-", OLD, stdin=b"<domain/>"))["differences"]
    assert {"added"} == {each["action"] for each in added if each["where"].count("/") > 1}
    gone = data(xmlkit("--format", "json", OLD, "-", stdin=b"<domain/>"))["differences"]
    assert {None} == {each["new_line"] for each in gone if each["where"].count("@") == 0}


def test_defaults_may_be_ignored() -> None:
    """A default that one of them spells is a difference unless it is asked not to be."""
    old = OLD.read_bytes()
    assert b"<disk type='file'>" in old
    new = old.replace(b"<disk type='file'>", b"<disk device='disk'>")

    assert 1 == xmlkit(OLD, "-", stdin=new).returncode
    assert 0 == xmlkit("--ignore-defaults", OLD, "-", stdin=new).returncode


@pytest.mark.parametrize("format_", ["text", "json"])
def test_no_secret_is_shown_unless_asked_for(format_: str) -> None:
    """One that differs shows that it does."""
    new = SECRETS.read_bytes().replace(b"HIDE-ME", b"HIDE-YOU")
    done = xmlkit("--format", format_, SECRETS, "-", stdin=new)

    assert 1 == done.returncode
    assert b"(changed)" in done.stdout
    assert b"HIDE-" not in done.stdout + done.stderr
    done = xmlkit("--format", format_, "--show-secrets", SECRETS, "-", stdin=new)
    assert b"HIDE-ME-1" in done.stdout
    assert b"HIDE-YOU-1" in done.stdout


def test_what_a_terminal_would_obey_is_escaped(tmp_path: Path) -> None:
    """In values and in places; a value with line ends is one line all the same."""
    text = "<domain><name>{0}</name><devices><disk><target dev='{0}'/></disk></devices></domain>"
    old, new = tmp_path / "old.xml", tmp_path / "new.xml"
    old.write_text(text.format("a"))
    new.write_text(text.format("\x9b31m&#10;\u202eb"))
    done = xmlkit(old, new)

    assert 3 == done.stdout.count(b"\n")
    shown = done.stdout.decode()
    assert r"changed /domain/name: a -> \x9b31m\n\u202eb" in shown
    assert r"added   /domain/devices/disk[\x9b31m\n\u202eb]: <disk>...</disk>" in shown


def test_colour_is_for_terminals() -> None:
    """On one, unless NO_COLOR is set; elsewhere only if it is asked for."""
    assert b"\x1b[" not in xmlkit(OLD, NEW).stdout
    assert b"\x1b[" in xmlkit("--color", "always", OLD, NEW).stdout

    def on_a_terminal(**variables: str) -> bytes:
        ours, theirs = pty.openpty()
        command = [*COMMAND, str(OLD), str(NEW)]
        with subprocess.Popen(command, stdout=theirs, env=os.environ | variables) as process:
            assert 1 == process.wait(120)
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:
            pass  # how a terminal's other end says that it is over
        os.close(ours)
        return shown

    assert b"\x1b[" in on_a_terminal(TERM="xterm", NO_COLOR="")
    assert b"\x1b[" not in on_a_terminal(TERM="xterm", NO_COLOR="1")
    assert b"\x1b[" not in on_a_terminal(TERM="dumb", NO_COLOR="")
