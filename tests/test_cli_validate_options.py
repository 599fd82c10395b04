"""xmlkit validate: the formats, repairs, worker processes and libvirt's own word, as commands."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from test_cli_validate import BROKEN, FIXTURES, INVALID, VALID, results, xmlkit
from test_report import SARIF

COMMAND = [sys.executable, "-c", "from xmlkit.cli import main; main()", "validate"]
SECONDS = 60.0
FORMATS = ("text", "json", "sarif", "github")
HEAD = "<domain type='kvm'>\n <name>g</name>\n <memory>64</memory>\n <os><type>hvm</type></os>\n"
# Each fault is about a secret, or stands beside one; two can be repaired.
SECRETS = HEAD + (
    " <devices>\n"
    "  <graphics type='vnc' passwd='hunter2' prot='5900'/>\n"
    "  <graphics type='vnc' paswd='hunter3' port='5901'/>\n"
    "  <graphics type='vnc' passwd='hunter4' passwd2='hunter5'>hunter6</graphics>\n"
    "  <disk type='network'><source protocol='http' name='x' query='hunter7'>\n"
    "    <cookies><cookie name='c'>hunter8</cookie><cokie name='d'>hunter9</cokie></cookies>\n"
    "    <host name='h' prot='80'/></source><target dev='vda'/></disk>\n"
    " </devices>\n</domain>\n"
)
SLIGHT = HEAD + " <devices>\n  <emulatr >/x</emulatr >\n </devices>\n</domain>\n"


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    "options", [(), ("--fix",), ("--through-libvirt",), ("--policy", "storage")]
)
def test_no_format_shows_a_secret(format_: str, options: tuple[str, ...], tmp_path: Path) -> None:
    """Not in a message, a source line, a suggestion, a repair, nor in what libvirt dropped."""
    file = tmp_path / "guest.xml"
    file.write_text(SECRETS)
    done = xmlkit("--format", format_, *options, file)

    assert 1 == done.returncode, done.stderr
    assert "hunter" not in done.stdout + done.stderr
    assert "prot" in done.stdout
    # what is not well-formed cannot be redacted
    file.write_text(SECRETS.replace("</devices>", "<&hunter1;</devices>"))
    done = xmlkit("--format", format_, *options, file)
    assert 2 == done.returncode
    assert "hunter" not in done.stdout + done.stderr
    # and a line on which it ends too early
    file.write_text(SECRETS.replace("hunter3'", "hunter3"))
    done = xmlkit("--format", format_, *options, file)
    assert 2 == done.returncode
    assert "hunter" not in done.stdout + done.stderr


def test_text_shows_the_line_and_points_at_the_fault(tmp_path: Path) -> None:
    """As compilers do."""
    file = tmp_path / "a.xml"
    file.write_text(SLIGHT)
    first, source, caret = xmlkit(file).stdout.splitlines()

    assert first.startswith(f"{file}:6:3: error: ")
    assert "[misspelled-element] /domain/devices/emulatr" in first
    assert "    6 |   <emulatr >/x</emulatr >" == source
    assert "      |   ^~~~~~~~" == caret


def on_a_terminal(*arguments: str | Path, **variables: str) -> str:
    """What the command prints where stdout is a terminal."""
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=clean | {"TERM": "xterm"} | variables,
    )
    os.close(theirs)
    pieces = []
    try:
        while piece := os.read(ours, 4096):
            pieces.append(piece)
    except OSError:
        # Linux says so that nobody has the other end any more
        pass
    os.close(ours)
    assert process.stderr is not None
    process.stderr.close()
    assert 1 == process.wait(SECONDS)
    return b"".join(pieces).decode().replace("\r\n", "\n")


def test_colours_are_for_terminals() -> None:
    """Unless NO_COLOR, TERM=dumb or --color never says not; --color always also in a pipe."""
    plain = xmlkit(INVALID).stdout

    assert "\x1b[" not in plain
    assert "\x1b[1m" in on_a_terminal(INVALID)
    assert plain == on_a_terminal(INVALID, NO_COLOR="1")
    assert plain == on_a_terminal(INVALID, TERM="dumb")
    assert plain == on_a_terminal("--color", "never", INVALID)
    assert "\x1b[" in xmlkit("--color", "always", INVALID).stdout


def test_sarif_and_github_have_all_files(tmp_path: Path) -> None:
    """In their order, those that are not well-formed too."""
    broken = tmp_path / "broken.xml"
    broken.write_bytes(BROKEN)
    files = [VALID, INVALID, broken, tmp_path / "missing.xml"]
    done = xmlkit("--format", "sarif", *files)
    log = json.loads(done.stdout)
    jsonschema.Draft4Validator(SARIF).validate(log)
    (run,) = log["runs"]

    assert 2 == done.returncode
    assert [INVALID.as_uri(), broken.as_uri()] == list(
        dict.fromkeys(
            each["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
            for each in run["results"]
        )
    )
    (change,) = run["results"][0]["fixes"][0]["artifactChanges"]
    assert INVALID.as_uri() == change["artifactLocation"]["uri"]
    region = change["replacements"][0]["deletedRegion"]
    place = run["results"][0]["locations"][0]["physicalLocation"]["region"]
    assert place["startLine"] == region["startLine"] == region["endLine"]
    done = xmlkit("--format", "github", *files)
    assert 2 == done.returncode
    assert all(line.startswith("::error file=") for line in done.stdout.splitlines())
    assert f"file={broken},line=3," in done.stdout
    assert "missing.xml" in done.stderr


# Repairs.


@pytest.fixture
def slight(tmp_path: Path) -> Path:
    """A file with a fault that can be repaired."""
    file = tmp_path / "slight.xml"
    file.write_text(SLIGHT)
    return file


def test_fix_shows_the_repair_and_changes_nothing(slight: Path) -> None:
    """After the findings, as a unified difference; the exit code is that of the file as it is."""
    done = xmlkit("--fix", slight)

    assert 1 == done.returncode
    assert done.stdout.endswith(
        f"--- {slight} (before)\n+++ {slight} (after)\n@@ -3,6 +3,6 @@\n"
        "  <memory>64</memory>\n  <os><type>hvm</type></os>\n  <devices>\n"
        "-  <emulatr >/x</emulatr >\n+  <emulator >/x</emulator>\n"
        "  </devices>\n </domain>\n"
    )
    assert SLIGHT == slight.read_text()
    (entry,) = results(xmlkit("--fix", "--format", "json", slight))
    assert (False, True, False) == (
        entry["valid"],
        entry["repair"]["valid"],
        entry["repair"]["written"],
    )
    assert ["rename"] == [each["kind"] for each in entry["repair"]["edits"]]


def test_write_repairs_the_file_at_once(slight: Path) -> None:
    """Mode and other bytes stay; nothing is left beside it; then there is nothing to do."""
    slight.chmod(0o640)
    done = xmlkit("--fix", "--write", slight)

    assert (0, "") == (done.returncode, done.stderr)
    assert (
        SLIGHT.replace("<emulatr >/x</emulatr >", "<emulator >/x</emulator>") == slight.read_text()
    )
    assert 0o640 == stat.S_IMODE(slight.stat().st_mode)
    assert [slight] == list(slight.parent.iterdir())
    assert (0, "") == (lambda again: (again.returncode, again.stdout))(
        xmlkit("--fix", "--write", slight)
    )


def test_what_cannot_be_repaired_is_left_and_told(tmp_path: Path) -> None:
    """The rest is repaired all the same; the findings are those of the file as it is now."""
    file = tmp_path / "both.xml"
    file.write_text(
        SLIGHT.replace("</emulatr >", "</emulatr >\n  <disk type='file'><target/></disk>")
    )
    done = xmlkit("--fix", "--write", "--format", "json", file)
    (entry,) = results(done)

    assert 1 == done.returncode
    assert ["missing-attribute"] == [each["id"] for each in entry["findings"]]
    assert (False, True) == (entry["repair"]["valid"], entry["repair"]["written"])
    assert "<emulator >" in file.read_text()
    assert "<target/>" in file.read_text()


@pytest.mark.parametrize("kind", ["symbolic link", "hard link"])
def test_links_are_not_written_through(slight: Path, kind: str) -> None:
    """Nothing changes; it is trouble, and the others are repaired."""
    link, other = slight.with_name("link.xml"), slight.with_name("other.xml")
    other.write_text(SLIGHT)
    if kind == "hard link":
        link.hardlink_to(slight)
    else:
        link.symlink_to(slight)
    done = xmlkit("--fix", "--write", link, other)

    assert 2 == done.returncode
    assert kind in done.stderr
    assert SLIGHT == slight.read_text() == link.read_text()
    assert "<emulator " in other.read_text()


def test_a_file_that_cannot_be_written_is_trouble(slight: Path) -> None:
    """As in a directory that is read-only, which not even root may write to."""
    if os.geteuid() != 0:
        pytest.skip("mounting a directory takes root")
    directory = slight.parent
    mount = f"mount --bind {directory} {directory} && mount -o remount,ro,bind {directory}"
    options = ("--fix", "--write", str(slight))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", *COMMAND, *options],
        capture_output=True,
        text=True,
    )

    assert 2 == done.returncode
    assert f"xmlkit: cannot write {slight}: Read-only file system" in done.stderr
    assert SLIGHT == slight.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--write",), "--write needs --fix"),
        (("--fix", "--write", "-"), "stdin cannot be repaired"),
        (("--fix", "--schemas", "/a", "--schemas", "/b"), "--fix takes one --schemas"),
        (("--connect", "test:///default"), "--connect needs --through-libvirt"),
        (("--jobs", "-1"), "--jobs"),
        (("--format", "yaml"), "sarif"),
        (("--schemas", ""), "--schemas needs a directory"),
    ],
)
def test_options_that_do_not_go_together_are_trouble(
    options: tuple[str, ...], words: str, slight: Path
) -> None:
    """One line that says why; nothing is read."""
    done = xmlkit(*options, slight)

    assert (2, "") == (done.returncode, done.stdout)
    assert words in done.stderr
    assert SLIGHT == slight.read_text()


# Worker processes.


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of good files, bad ones and broken ones."""
    directory = tmp_path_factory.mktemp("many")
    for number in range(150):
        text = VALID.read_bytes()
        if number % 10 == 3:
            text = SLIGHT.encode()
        elif number % 10 == 7:
            text = BROKEN
        (directory / f"{number:03}.xml").write_bytes(text)
    return directory


@pytest.mark.parametrize("format_", FORMATS)
def test_with_workers_all_is_the_same(format_: str, many: Path) -> None:
    """Output, complaints and exit code, also with stdin and what is not there in between."""
    arguments = ("--format", format_, "--fix", many, "-", "missing.xml", VALID, INVALID)
    one = xmlkit(*arguments, stdin=SLIGHT.encode())
    two = xmlkit("--jobs", "2", *arguments, stdin=SLIGHT.encode())
    each = xmlkit("--jobs", "0", *arguments, stdin=SLIGHT.encode())

    assert (2, 1) == (one.returncode, one.stderr.count("\n"))
    for other in (two, each):
        assert (one.returncode, one.stdout, one.stderr) == (
            other.returncode,
            other.stdout,
            other.stderr,
        )


def test_workers_repair_files_too(many: Path, tmp_path: Path) -> None:
    """Each is written once, by one of them."""
    directory = tmp_path / "copy"
    shutil.copytree(many, directory)
    done = xmlkit("--fix", "--write", "--jobs", "2", "--format", "json", directory)
    written = [each["file"] for each in results(done) if each["repair"] is not None]

    assert 2 == done.returncode  # for the broken ones
    assert [f"{number:03}" for number in range(3, 150, 10)] == [Path(each).stem for each in written]
    assert all("<emulator " in Path(each).read_text() for each in written)
    assert 150 == len(list(directory.iterdir()))


def asleep(group: int) -> bool:
    """Whether each thread of a process group waits for something."""
    states = []
    for path in Path("/proc").glob("[0-9]*/task/*/stat"):
        with suppress(OSError):
            state, _, own = path.read_text().rpartition(")")[2].split()[:3]
            states += [state] if own == str(group) else []
    return set(states) == {"S"}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_ends_it_at_once(jobs: str, tmp_path: Path) -> None:
    """Exit code 130, no word, no process left, though a file is a pipe that nobody writes to."""
    shutil.copy(INVALID, tmp_path / "a.xml")
    os.mkfifo(tmp_path / "b.xml")
    process = subprocess.Popen(
        [*COMMAND, "--jobs", jobs, tmp_path / "a.xml", tmp_path / "b.xml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    writer = None
    deadline = time.monotonic() + SECONDS
    while writer is None:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
        # which succeeds when the other end is open, and then keeps the reader waiting
        with suppress(OSError):
            writer = os.open(tmp_path / "b.xml", os.O_WRONLY | os.O_NONBLOCK)
    # just before a read Python does not hear it until that returns
    while not asleep(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    os.close(writer)

    assert (130, b"") == (process.returncode, err.strip())
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


# libvirt's own word.


def test_through_libvirt_tells_what_it_drops(slight: Path) -> None:
    """Besides the schema's findings, and so that the exit code counts it; a note does not."""
    done = xmlkit("--through-libvirt", "--format", "json", slight)
    (entry,) = results(done)

    assert 1 == done.returncode
    assert ["misspelled-element", "libvirt-dropped"] == [each["id"] for each in entry["findings"]]
    secret = b"<secret ephemeral='no' private='no'/>"
    done = xmlkit("--through-libvirt", "-", stdin=secret)
    assert 0 == done.returncode
    assert done.stdout.startswith("-:1:1: note: ")
    # valid by the schema, and libvirt makes something else of it all the same
    live = FIXTURES / "live.xml"
    assert 0 == xmlkit(live).returncode
    done = xmlkit("--through-libvirt", "--jobs", "2", "--format", "json", live, VALID)
    first, second = results(done)
    assert (1, True, True) == (done.returncode, first["valid"], second["valid"])
    assert ["libvirt-dropped"] == [each["id"] for each in first["findings"]]


def test_a_connection_that_fails_is_trouble_for_each_file(slight: Path) -> None:
    """The schema's verdict is given all the same."""
    done = xmlkit("--through-libvirt", "--connect", "test:///nowhere.xml", slight, VALID)

    assert 2 == done.returncode
    assert "misspelled-element" in done.stdout
    assert 2 == done.stderr.count("cannot connect to test:///nowhere.xml")


def seen(program: str, term: str) -> str:
    """What a program shows on a terminal, on both of its outputs."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": term},
    )
    os.close(theirs)
    pieces: list[Any] = []
    try:
        while piece := os.read(ours, 4096):
            pieces.append(piece)
    except OSError:
        pass
    os.close(ours)
    assert 0 == process.wait(SECONDS)
    return b"".join(pieces).decode()


def test_a_count_is_shown_on_a_terminal() -> None:
    """After a while, on stderr, out of the way of what is printed, and gone at the end."""
    program = (
        "import sys, time\n"
        "from xmlkit.cli.counting import Counting\n"
        "with Counting('files checked', 0.0, True) as counting:\n"
        "    for number in range(5):\n"
        "        time.sleep(0.15)\n"
        "        counting.advance()\n"
        "        with counting.aside():\n"
        "            print(f'line {number}', flush=True)\n"
    )
    text = seen(program, "xterm")

    assert "files checked" in text
    assert all(f"line {number}\r\n" in text for number in range(5))
    # the last thing is to take the count away
    assert "files checked" not in text.rpartition("\x1b[2K")[2]


def test_a_dumb_terminal_gets_no_count() -> None:
    """It could not take it away again."""
    program = (
        "import time\n"
        "from xmlkit.cli import validate\n"
        "validate._PATIENCE = 0.0\n"
        "with validate._progress() as progress:\n"
        "    for number in range(5):\n"
        "        time.sleep(0.15)\n"
        "        progress.advance()\n"
    )
    assert "files checked" in seen(program, "xterm")
    assert "" == seen(program, "dumb")
