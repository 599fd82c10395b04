"""The command as a whole: help, hosts, and input that is wrong in every way that there is.

Rules that hold for every command
- Wrong input ends in exit code 2 and in words: what is wrong, where, what to do. No traceback.
- stdout has what was asked for, or nothing.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import click
import jsonschema
import pytest
from click.testing import CliRunner, Result

from xmlkit import __version__
from xmlkit.cli import COMMANDS, main
from xmlkit.plan import plan as plan_of

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"
DOMAIN = str(FIXTURES / "file-in-pool.xml")
IMAGES = ("--pool", "images=/srv/images")
NODE = f"test://{FIXTURES}/every-pool-type.xml"
BEGIN = ("guest", "migrate", "begin", "-")
CODE = "from xmlkit.cli import main; main()"
# What each command needs to say something of a file.
READING: dict[str, tuple[str, ...]] = {
    "diff": ("diff", *IMAGES),
    "plan": ("plan", *IMAGES),
    "transform": ("transform", *IMAGES),
    "validate": ("validate",),
}
PLANNING = {name: command for name, command in READING.items() if name != "validate"}


class _Main:
    """The whole command, as what CliRunner runs."""

    name = "xmlkit"

    def main(self, args: Sequence[str], prog_name: str) -> None:
        main(list(args))


def xmlkit(*arguments: str | Path, stdin: bytes = b"") -> Result:
    """Run the command in this process; it must end by itself and not by an exception."""
    result = CliRunner().invoke(
        cast(click.Command, _Main()), [str(each) for each in arguments], input=stdin
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(result: Result) -> str:
    """The message of a command that must have been refused: exit code 2, nothing on stdout."""
    assert (2, "") == (result.exit_code, result.stdout)
    assert result.stderr.endswith("\n")
    return result.stderr


@pytest.fixture(autouse=True)
def _without_libvirts_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIBVIRT_DEFAULT_URI", raising=False)
    monkeypatch.delenv("XMLKIT_SCHEMAS", raising=False)


# Help.


def test_the_version_is_the_packages() -> None:
    """On stdout, on one line."""
    assert f"xmlkit {__version__}\n" == xmlkit("--version").stdout


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_names_every_command(option: str) -> None:
    """Each with what it does, within 80 columns."""
    result = xmlkit(option)

    assert 0 == result.exit_code
    assert max(map(len, result.stdout.split("\n"))) <= 80
    for name, text in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text[:40])}", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "name", [*COMMANDS, "volume create", "volume copy", "volume snapshot", "pool create"]
)
def test_a_commands_help_has_its_exit_codes_and_an_example(name: str) -> None:
    """And each of its options says what it does, within 80 columns."""
    result = xmlkit(*name.split(), "--help")

    assert 0 == result.exit_code
    assert "Exit code: 0" in result.stdout
    assert f"xmlkit {name}" in result.stdout.partition("Example")[2]
    assert max(map(len, result.stdout.split("\n"))) <= 80
    options = re.findall(r"^  (?:-\w, )?(--[\w-]+)[^\n]*((?:\n {5,}[^\n]*)*)", result.stdout, re.M)
    assert "--help" in dict(options)


def test_without_a_command_the_help_is_shown() -> None:
    """Exit code 2: nothing was done."""
    result = xmlkit()

    assert 2 == result.exit_code
    assert "Commands:" in result.stdout + result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("nonsense",), id="command"),
        pytest.param(("--nonsense",), id="option"),
        pytest.param(("diff", "--nonsense", DOMAIN), id="option-of-a-command"),
        pytest.param(("diff", *IMAGES), id="no-file"),
        pytest.param(("validate",), id="no-file-to-validate"),
        pytest.param(("transform", *IMAGES, DOMAIN, DOMAIN), id="two-files"),
        pytest.param(("diff", *IMAGES, "--to", "nowhere", DOMAIN), id="to"),
        pytest.param(("diff", *IMAGES, "--format", "xml", DOMAIN), id="format"),
        pytest.param(("diff", *IMAGES, "--color", "red", DOMAIN), id="color"),
        pytest.param(("diff", *IMAGES, "--accept", "cinder", DOMAIN), id="accept"),
        pytest.param(("validate", "--format", "unified", DOMAIN), id="format-of-another"),
        pytest.param(("diff", "--pool"), id="no-value"),
        pytest.param(("validate", "--max-size", "0", DOMAIN), id="no-size"),
        pytest.param(("validate", "--max-depth", "901", DOMAIN), id="too-deep"),
        pytest.param(("validate", "--max-markup", "many", DOMAIN), id="no-number"),
        pytest.param(("explain", "no-such-id"), id="explain"),
        pytest.param(("observe", DOMAIN), id="observe-with-a-file"),
        pytest.param(("transform", *IMAGES, "--in-place", "-"), id="in-place-stdin"),
        pytest.param(("transform", *IMAGES, "--in-place", "-o", "x", DOMAIN), id="in-place-and-o"),
        pytest.param(("apply", "--arrived", "--plan", DOMAIN), id="arrived-with-a-plan"),
        pytest.param(("apply", "--arrived", "--to", "path", "guest"), id="arrived-to-path"),
        pytest.param(("hook", *BEGIN), id="hook-without-host"),
        pytest.param(("hook", "--host", "x", "--timeout", "0", *BEGIN), id="hook-without-time"),
        pytest.param(("diff", *IMAGES, "--assume-libvirt", "new", DOMAIN), id="no-version"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[str, ...]) -> None:
    """Exit code 2, and the message repeats what was wrong or says what is missing."""
    message = refused(xmlkit(*arguments))

    assert re.search(r"^(Error|xmlkit): ", message, re.MULTILINE)


# The schemas of what is written in JSON.


def nodes(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSON document with its place."""
    if isinstance(schema, dict):
        yield place, schema
        for key, value in schema.items():
            yield from nodes(value, f"{place}/{key}")


@pytest.mark.parametrize("name", ["apply", "compare", "diff", "plan", "recover", "validate"])
def test_a_schema_says_all_that_there_is_and_what_it_means(name: str) -> None:
    """A schema of 2020-12 that allows nothing else, with a description of each property."""
    schema = json.loads((ROOT / f"schemas/{name}-1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    objects = [(place, node) for place, node in nodes(schema) if node.get("type") == "object"]
    properties = [
        (f"{place}/{key}", value)
        for place, node in objects
        for key, value in node["properties"].items()
    ]
    defined = {f"#/$defs/{key}": value for key, value in schema["$defs"].items()}

    assert "https://json-schema.org/draft/2020-12/schema" == schema["$schema"]
    assert f"xmlkit.{name}/1" == schema["properties"]["schema"]["const"] == schema["title"]
    assert 3 <= len(objects)
    for place, node in objects:
        assert (place, False) == (place, node.get("additionalProperties"))
        assert (place, set(node["properties"])) == (place, set(node["required"]))
    assert [] == [
        place
        for place, value in properties
        if "description" not in value | defined.get(value.get("$ref", ""), {})
        and not value.get("$ref", "").startswith("#/$defs/address/properties/")
    ]


# Which host.


@pytest.mark.parametrize("name", PLANNING)
def test_without_a_host_the_three_ways_to_name_one_are_told(name: str) -> None:
    """--connect or libvirt's variable, --host, --pool."""
    message = refused(xmlkit(name, DOMAIN))

    for way in ("--connect", "LIBVIRT_DEFAULT_URI", "--host", "--pool"):
        assert way in message


@pytest.mark.parametrize(
    "arguments",
    [
        (*IMAGES, "--host", "x"),
        (*IMAGES, "--connect", "test:///default"),
        ("--host", "x", "--connect", "test:///default"),
    ],
    ids=["pool-and-host", "pool-and-connect", "host-and-connect"],
)
def test_two_hosts_are_one_too_many(arguments: tuple[str, ...]) -> None:
    """The message names the two options."""
    message = refused(xmlkit("plan", *arguments, DOMAIN))

    for option in (each for each in arguments if each.startswith("--")):
        assert option in message


def test_libvirts_variable_counts_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where no option names a host."""
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", NODE)
    by_variable = json.loads(xmlkit("plan", DOMAIN).stdout)["plans"][0]["disks"][0]
    by_option = json.loads(xmlkit("plan", *IMAGES, DOMAIN).stdout)["plans"][0]["disks"][0]

    assert (True, False) == (by_variable["verified"], by_option["verified"])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--pool", "images", "NAME=PATH"),
        ("--pool", "=/x", "NAME=PATH"),
        ("--pool", "images=", "NAME=PATH"),
        ("--pool", "images=relative", "absolute"),
        ("--pool", "images=zip:/x", "'zip'"),
        ("--pool", "a/b=/x", "'a/b'"),
        ("--pool", "a\x01b=/srv/images", "'a\\x01b'"),
        ("--pool", "a\udcff=/srv/images", "'a\\udcff'"),
        ("--relocate", "nowhere", "'nowhere'"),
        ("--relocate", "root=", "'root='"),
        ("--relocate", "", "POOL"),
        ("--relocate", "config=images", "'config'"),
        ("--assume-libvirt", "1", "'1'"),
    ],
)
@pytest.mark.parametrize("name", PLANNING)
def test_a_host_that_cannot_be_is_refused(name: str, option: str, value: str, message: str) -> None:
    """The message repeats what was wrong or says what to write."""
    assert message in refused(xmlkit(*PLANNING[name], option, value, DOMAIN))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--pool", "images=/other"),
        ("--pool", "other=/srv/images"),
        ("--relocate", "images", "--relocate", "images"),
        ("--relocate", "root=images", "--relocate", "root=images"),
    ],
    ids=["pool-name", "pool-path", "relocate", "relocate-root"],
)
def test_what_is_said_twice_is_refused(arguments: tuple[str, ...]) -> None:
    """Nobody can tell which of the two was meant."""
    refused(xmlkit(*PLANNING["plan"], *arguments, DOMAIN))


def test_two_pools_may_be_where_libvirt_has_many() -> None:
    """All iSCSI pools are at /dev/disk/by-path, all pools of partitions at /dev."""
    pools = ("--pool", "a=iscsi:/dev/disk/by-path", "--pool", "b=iscsi:/dev/disk/by-path")

    assert 0 == xmlkit(*PLANNING["plan"], *pools, DOMAIN).exit_code


HOST_FILES = {
    "missing": None,
    "empty": b"",
    "binary": bytes(range(256)),
    "not-well-formed": b"<host version='1'",
    "truncated": b"<host version='1' uri='' libversion='9000000'><capabilities/>",
    "a-domain": (FIXTURES / "file-in-pool.xml").read_bytes(),
    "no-version": b"<host/>",
    "another-version": b"<host version='2'/>",
    "no-number": b"<host version='1' libversion='new'/>",
    "no-pool": b"<host version='1' libversion=''><storage active='yes'/></host>",
    "doctype": b"<!DOCTYPE host><host version='1'/>",
    "a-plan": b'{"schema": "xmlkit.plan/1"}',
}


@pytest.mark.parametrize("content", HOST_FILES.values(), ids=HOST_FILES)
@pytest.mark.parametrize("name", PLANNING)
def test_a_host_file_that_cannot_be_used_is_refused(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    """The message names the file."""
    file = tmp_path / "host.xml"
    if content is not None:
        file.write_bytes(content)

    assert str(file) in refused(xmlkit(name, "--host", file, DOMAIN))


def test_the_version_of_a_host_may_be_assumed() -> None:
    """Then the plan is that of the other version."""
    done = xmlkit("plan", *IMAGES, "--assume-libvirt", "1.0.4", DOMAIN)
    (disk,) = json.loads(done.stdout)["plans"][0]["disks"]

    assert ("path", "libvirt-version") == (disk["disk_type"], disk["reason"]["id"])


def test_a_domain_of_a_connection_is_named_like_a_file() -> None:
    """By its name where it is no path."""
    result = xmlkit("diff", "--connect", NODE, "guest")

    assert 1 == result.exit_code
    assert "images/a.qcow2" in result.stdout


def test_an_argument_with_a_slash_or_xml_is_a_file_with_a_connection_too() -> None:
    """And - is stdin."""
    for argument in (DOMAIN, "-"):
        result = xmlkit("diff", "--connect", NODE, argument, stdin=Path(DOMAIN).read_bytes())

        assert 1 == result.exit_code


@pytest.mark.parametrize(
    "uri", ["test:///no/such.xml", "nonsense:///x", "qemu+unix:///system?socket=/x"]
)
@pytest.mark.parametrize("name", PLANNING)
def test_a_uri_that_does_not_connect_is_refused(name: str, uri: str) -> None:
    """The message names it."""
    assert uri in refused(xmlkit(name, "--connect", uri, DOMAIN))


def test_a_domain_that_does_not_exist_is_refused() -> None:
    """The message names it; a near name is suggested."""
    message = refused(xmlkit("diff", "--connect", NODE, "gust"))

    assert "'gust'" in message
    assert "guest" in message


# Which file.


def not_readable(directory: Path) -> Path:
    """A file that nobody can read, not even root."""
    if os.geteuid() == 0:
        return Path("/proc/self/mem")
    file = directory / "unreadable.xml"
    file.touch(mode=0)
    return file


def a_directory(directory: Path) -> Path:
    (directory / "d.xml").mkdir()
    return directory / "d.xml"


def with_content(content: bytes, name: str = "file.xml") -> Callable[[Path], Path]:
    def make(directory: Path) -> Path:
        file = directory / name
        file.write_bytes(content)
        return file

    return make


BAD_FILES: dict[str, Callable[[Path], Path]] = {
    "missing": lambda directory: directory / "missing.xml",
    "in-a-missing-directory": lambda directory: directory / "no" / "file.xml",
    "in-a-file": lambda directory: Path(DOMAIN) / "file.xml",
    "unreadable": not_readable,
    "name-too-long": lambda directory: directory / ("x" * 300),
    "empty": with_content(b""),
    "blank": with_content(b" \n"),
    "binary": with_content(bytes(range(256)) * 4),
    "zeros": with_content(bytes(1000)),
    "truncated": with_content(Path(DOMAIN).read_bytes()[:-4]),
    "text": with_content(b"hello\n"),
    "json": with_content(b'{"a": 1}'),
    "doctype": with_content(b"<!DOCTYPE domain><domain/>"),
    "bomb": with_content(b"<!DOCTYPE d [<!ENTITY a 'aa'>]><domain>&a;</domain>"),
    "deep": with_content(b"<domain>" * 1000 + b"</domain>" * 1000),
    "unknown-encoding": with_content(b"<?xml version='1.0' encoding='EBCDIC'?><domain/>"),
    "wrong-encoding": with_content(b"<?xml version='1.0' encoding='UTF-8'?><a b='\xff'/>"),
    "half-utf-16": with_content("<domain/>".encode("utf-16")[:-1]),
    "undefined-prefix": with_content(b"<domain><x:y/></domain>"),
    "two-roots": with_content(b"<domain/><domain/>"),
}


@pytest.mark.parametrize("make", BAD_FILES.values(), ids=BAD_FILES)
@pytest.mark.parametrize("name", READING)
def test_a_file_that_cannot_be_read_is_trouble(
    name: str, make: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Exit code 2, one line that names the file, on stderr, or where it is a finding on stdout."""
    file = make(tmp_path)
    result = xmlkit(*READING[name], file)
    lines = (result.stderr + result.stdout).strip().split("\n")

    assert 2 == result.exit_code
    if name == "validate":
        # which shows the place, too
        lines = [line for line in lines if not re.match(r" *\d* \|", line)]
    assert 1 == len(lines)
    assert str(file) in lines[0]
    if name != "validate":
        assert "" == result.stdout


@pytest.mark.parametrize("name", PLANNING)
def test_a_directory_is_no_domain(name: str, tmp_path: Path) -> None:
    """Only validate takes one, whatever there is in it."""
    (tmp_path / "domain.xml").write_bytes(Path(DOMAIN).read_bytes())
    message = refused(xmlkit(*READING[name], tmp_path))

    assert str(tmp_path) in message
    assert "directory" in message
    assert "without" not in message


@pytest.mark.parametrize(
    "text",
    ["<network><name>n</name></network>", "<domainsnapshot/>", "<disk/>", "<domain xmlns='u'/>"],
    ids=["network", "snapshot", "disk", "namespace"],
)
@pytest.mark.parametrize("name", PLANNING)
def test_what_is_no_domain_is_refused(name: str, text: str, tmp_path: Path) -> None:
    """The message names the file and what it is."""
    file = tmp_path / "file.xml"
    file.write_text(text)
    message = refused(xmlkit(*READING[name], file))

    assert str(file) in message
    assert "not a domain" in message


@pytest.mark.parametrize("name", READING)
def test_a_files_name_may_be_any_bytes(name: str, tmp_path: Path) -> None:
    """Such as Latin-1 in a UTF-8 locale, and line breaks: it is read like another one."""
    file = tmp_path / os.fsdecode(b"\xff\n\x1b[31m.xml")
    file.write_bytes(Path(DOMAIN).read_bytes())
    result = xmlkit(*READING[name], file)
    missing = xmlkit(*READING[name], tmp_path / os.fsdecode(b"\xfe.xml"))

    assert result.exit_code == (1 if name == "diff" else 0)
    assert 2 == missing.exit_code
    assert "\\udcfe.xml" in missing.stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--max-depth", "3", "3 deep"), ("--max-markup", "10", "10"), ("--max-size", "1", "1 MiB")],
)
@pytest.mark.parametrize("name", READING)
def test_a_document_beyond_a_limit_is_refused(
    name: str, option: str, value: str, message: str, tmp_path: Path
) -> None:
    """The message says which limit, and the option that raises it does."""
    file = tmp_path / "large.xml"
    comment = b"<!--" + b"x" * (1 << 20) + b"-->"
    file.write_bytes(Path(DOMAIN).read_bytes() + comment)
    result = xmlkit(*READING[name], option, value, file)

    assert 2 == result.exit_code
    assert message in result.stdout + result.stderr
    assert 2 != xmlkit(*READING[name], file).exit_code


# Streams.


def shell(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A shell script that runs the command as "$@"."""
    command = [sys.executable, "-c", CODE, *arguments]
    return subprocess.run(
        ["sh", "-c", script, "sh", *command], capture_output=True, text=True, timeout=60
    )


LONG = {
    "diff": (*READING["diff"], *[DOMAIN] * 300),
    "plan": (*READING["plan"], "LARGE"),
    "transform": (*READING["transform"], "LARGE"),
    "validate": ("validate", "--format", "json", *[DOMAIN] * 300),
    "explain": ("explain",),
    "observe": ("observe", "--connect", NODE),
    "status": ("status", "--connect", NODE),
}


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A domain of which each output is longer than what a pipe holds."""
    disk = "<disk type='file'><source file='/srv/images/a{0}'/><target dev='a{0}'/></disk>\n"
    file = tmp_path / "large.xml"
    disks = "".join(map(disk.format, range(2000)))
    file.write_text(Path(DOMAIN).read_text().replace("</devices>", f"{disks}</devices>"))
    return file


@pytest.mark.parametrize("name", LONG)
def test_a_reader_that_has_seen_enough_ends_the_command(name: str, large: Path) -> None:
    """As in `| head -1`: silently."""
    arguments = [large if each == "LARGE" else each for each in LONG[name]]
    done = shell('"$@" | head -c 10', *arguments)

    assert 10 == len(done.stdout)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert [] == [line for line in done.stderr.split("\n") if line and "xmlkit: " not in line]


@pytest.mark.parametrize("name", LONG)
def test_an_output_that_is_full_is_trouble(name: str, large: Path) -> None:
    """Exit code 2, and the message says which output."""
    arguments = [large if each == "LARGE" else each for each in LONG[name]]
    done = shell('"$@" >/dev/full', *arguments)

    assert 2 == done.returncode
    assert "No space left on device" in done.stderr
    assert "stdout" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("script", ['"$@" >&-', '"$@" 2>&-', '"$@" <&-', '"$@" <&- >&- 2>&-'])
@pytest.mark.parametrize("name", READING)
def test_a_stream_that_is_closed_is_no_traceback(name: str, script: str) -> None:
    """As a daemon's may be: what can be done is done, the rest is exit code 2 in words."""
    done = shell(script, *READING[name], DOMAIN)

    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if ">&-" not in script.replace("2>&-", ""):
        assert done.returncode == (1 if name == "diff" else 0)
    elif name != "validate":  # which has nothing to say of a file that is valid
        assert 2 == done.returncode


@pytest.mark.parametrize("name", READING)
def test_a_closed_stdin_cannot_be_read(name: str) -> None:
    """Exit code 2, in words."""
    done = shell('"$@" <&-', *READING[name], "-")

    assert 2 == done.returncode
    assert "stdin" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_the_command(tmp_path: Path) -> None:
    """Exit code 130, without a traceback."""
    os.mkfifo(tmp_path / "fifo")
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *READING["diff"], tmp_path / "fifo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with (tmp_path / "fifo").open("wb"):  # opens when the command does
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)

    assert (130, b"") == (process.returncode, stdout)
    assert b"Traceback" not in stderr


def test_notes_and_errors_are_on_stderr_alone() -> None:
    """stdout can be piped: it has the document, byte for byte."""
    result = xmlkit(*READING["transform"], FIXTURES / "subdirectory.xml")

    assert (FIXTURES / "subdirectory.xml").read_text() == result.stdout
    assert "outside-pools" in result.stderr


# What is imported.

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('libvirt', 'libvirtmod'):
            raise ImportError('blocked')
sys.meta_path.insert(0, Blocked())
from xmlkit.cli import main
main()
"""


def without_libvirt(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command where libvirt-python is not installed."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True
    )


@pytest.mark.parametrize("name", ["diff", "plan", "transform", "validate", "explain"])
def test_without_libvirt_python_the_commands_work(name: str, tmp_path: Path) -> None:
    """With --pool and with --host; only talking to libvirt needs it."""
    host = tmp_path / "host.xml"
    host.write_bytes(
        subprocess.run(
            [sys.executable, "-c", CODE, "observe", "--connect", NODE],
            check=True,
            capture_output=True,
        ).stdout
    )
    runs = [
        without_libvirt(
            *READING.get(name, (name, "already")), *([DOMAIN] if name in READING else [])
        )
    ]
    if name in PLANNING:
        runs.append(without_libvirt(name, "--host", host, DOMAIN))

    for done in runs:
        assert done.returncode == (1 if name == "diff" else 0)
        assert "libvirt-python" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("observe", "--connect", NODE),
        ("status", "--connect", NODE),
        ("diff", "--connect", NODE, "guest"),
        ("plan", "--connect", NODE, DOMAIN),
        ("transform", "--connect", NODE, DOMAIN),
    ],
    ids=lambda arguments: arguments[0],
)
def test_without_libvirt_python_a_connection_is_refused(arguments: tuple[str, ...]) -> None:
    """The message names what to install."""
    done = without_libvirt(*arguments)

    assert (2, "") == (done.returncode, done.stdout)
    assert "libvirt-python" in done.stderr
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cold_command_imports_nothing_that_it_does_not_need() -> None:
    """Help and version without lxml, click's commands without each other, none with libvirt."""
    code = (
        "import sys; sys.argv[1:] = {0!r}; before = set(sys.modules)\n"
        "from xmlkit.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )

    def modules(*arguments: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", code.format(list(arguments))], capture_output=True, text=True
        )
        return set(done.stderr.split("\n")[-2].split())

    assert set() == modules("--version") & {"lxml", "lxml.etree", "libvirt", "json"}
    assert set() == modules("validate", DOMAIN) & {"libvirt", "xmlkit.plan", "xmlkit.cli.diff"}
    assert set() == modules("diff", *IMAGES, DOMAIN) & {"libvirt", "xmlkit.observe"}


# Colours.


def on_a_terminal(*arguments: str | Path, **variables: str) -> str:
    """What the command writes to a terminal."""
    primary, secondary = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments],
        stdout=secondary,
        stderr=secondary,
        env=environment | {"TERM": "xterm"} | variables,
    )
    os.close(secondary)
    pieces = []
    while True:
        try:
            piece = os.read(primary, 65536)
        except OSError:
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(primary)
    process.wait()
    return b"".join(pieces).decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("options", "variables", "coloured"),
    [
        pytest.param((), {}, True, id="terminal"),
        pytest.param((), {"NO_COLOR": "1"}, False, id="no-color"),
        pytest.param((), {"NO_COLOR": ""}, True, id="no-color-empty"),
        pytest.param((), {"TERM": "dumb"}, False, id="dumb"),
        pytest.param(("--color", "never"), {}, False, id="never"),
        pytest.param(("--color", "always"), {"NO_COLOR": "1"}, True, id="always-in-spite"),
        pytest.param(("--format", "json"), {}, False, id="json"),
        pytest.param(("--format", "unified"), {}, True, id="unified"),
    ],
)
def test_colours_are_for_terminals(
    options: tuple[str, ...], variables: dict[str, str], coloured: bool
) -> None:
    """Unless NO_COLOR is set to something, or --color says otherwise; never in JSON."""
    shown = on_a_terminal(*READING["diff"], *options, DOMAIN, **variables)

    assert coloured is ("\x1b[" in shown)


@pytest.mark.parametrize("format_", ["text", "unified"])
def test_colours_are_all_that_a_terminal_adds(format_: str) -> None:
    """Without them it is what a pipe gets."""
    arguments = (*READING["diff"], "--format", format_, DOMAIN)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(*arguments))

    assert xmlkit(*arguments).stdout == shown
    assert "\x1b" not in shell('"$@"', *arguments).stdout
    assert "\x1b[" in shell('"$@"', *arguments, "--color", "always").stdout


def test_progress_is_for_terminals() -> None:
    """observe names each pool while it reads, on a terminal's stderr; a pipe gets nothing."""
    assert "images" in on_a_terminal("observe", "--connect", NODE, "-o", "/dev/null")
    assert "" == xmlkit("observe", "--connect", NODE).stderr


def test_the_plan_that_is_shown_is_the_plan() -> None:
    """`xmlkit plan` writes what the library's plan() says."""
    from xmlkit import Document, Host, Pool

    host = Host(pools=(Pool("images", "dir", "/srv/images"),))
    expected = plan_of(Document.parse(Path(DOMAIN).read_bytes()), host).to_json()

    assert expected + "\n" == xmlkit("plan", *IMAGES, DOMAIN).stdout


@pytest.mark.parametrize("version", ["9" * 5000 + ".0.0", "\u0663.0.0", "1.2.3.4"])
def test_a_version_that_is_none_is_refused(version: str) -> None:
    """However many digits it has, and of whatever script."""
    done = xmlkit("diff", *IMAGES, "--assume-libvirt", version, DOMAIN)

    assert 2 == done.exit_code
    assert "not a libvirt version" in done.stderr


def test_what_a_terminal_would_obey_is_escaped(tmp_path: Path) -> None:
    """In names of files and of documents."""
    file = tmp_path / "a\x1b[31mb.xml"
    file.write_text("<domain type='kvm'><name>g\u009b31m\u202ex</name></domain>")
    shown = xmlkit("diff", *IMAGES, file).stdout + xmlkit("validate", file).stdout

    assert not set("\x1b\u009b\u202e") & set(shown)
    assert "a\\x1b[31mb.xml" in shown
