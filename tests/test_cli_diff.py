"""xmlkit diff: exit codes, three formats, and no secret in any of them."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from loops import mounted
from lxml import html as lxml_html
from scene import Scene

from xmlkit.testing import Libvirtd

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"
SCHEMA = json.loads((ROOT / "schemas/diff-1.json").read_text())
IMAGES = ("--pool", "images=/srv/images")
NODE = f"test://{FIXTURES}/every-pool-type.xml"
ADOPTED = FIXTURES / "file-in-pool.xml"
OUTSIDE = FIXTURES / "subdirectory.xml"
SECRETS = FIXTURES / "secrets.xml"
COMMAND = (sys.executable, "-c", "from xmlkit.cli import main; main()")
# Under this schema nothing may have an attribute named "volume".
NO_VOLUMES = """<grammar xmlns="http://relaxng.org/ns/structure/1.0">
  <start><ref name="any"/></start>
  <define name="any"><element><anyName/><zeroOrMore><choice>
    <attribute><anyName><except><name>volume</name></except></anyName></attribute>
    <text/>
    <ref name="any"/>
  </choice></zeroOrMore></element></define>
</grammar>"""


def xmlkit(
    *arguments: str | Path, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """The command, in a process of its own."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        env={key: value for key, value in os.environ.items() if key != "LIBVIRT_DEFAULT_URI"}
        | variables,
    )


def data(done: subprocess.CompletedProcess[bytes]) -> dict[str, Any]:
    """The JSON on stdout, which must be valid by the schema that is published."""
    found: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(found, SCHEMA, jsonschema.Draft202012Validator)
    return found


@pytest.fixture
def without_volumes(tmp_path: Path) -> Path:
    """Schemas that have no volume disks."""
    (tmp_path / "domain.rng").write_text(NO_VOLUMES)
    return tmp_path


@pytest.mark.parametrize("format_", ["text", "unified", "json", "html"])
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param([OUTSIDE], 0, id="nothing-changes"),
        pytest.param([ADOPTED], 1, id="something-changes"),
        pytest.param([OUTSIDE, ADOPTED, OUTSIDE], 1, id="one-of-three"),
        pytest.param(["missing.xml"], 2, id="trouble"),
        pytest.param([ADOPTED, "missing.xml"], 2, id="trouble-with-one"),
        pytest.param(["missing.xml", ADOPTED], 2, id="trouble-first"),
        pytest.param([FIXTURES / "invalid-twice.xml"], 1, id="invalid-before"),
        pytest.param([FIXTURES / "transient.xml"], 0, id="only-reasons"),
    ],
)
def test_the_exit_code_says_what_would_change(
    files: Sequence[str | Path], expected: int, format_: str
) -> None:
    """0 nothing, 1 something, 2 trouble with any of the files; in every format."""
    done = xmlkit("diff", *IMAGES, "--format", format_, *files)

    assert expected == done.returncode
    assert (b"" == done.stderr) is (expected != 2)


@pytest.mark.parametrize("format_", ["text", "unified", "json", "html"])
def test_valid_before_and_invalid_after_is_trouble(without_volumes: Path, format_: str) -> None:
    """Exit code 2, though all could be read and planned."""
    options = ("--schemas", without_volumes, "--format", format_)

    assert 2 == xmlkit("diff", *IMAGES, *options, ADOPTED).returncode
    assert 0 == xmlkit("diff", *IMAGES, *options, OUTSIDE).returncode


@pytest.mark.parametrize(
    "command",
    [
        ("diff", "--format", "html", ADOPTED, OUTSIDE),
        ("diff", "missing.xml", ADOPTED),
        ("plan", ADOPTED, OUTSIDE),
        ("transform", ADOPTED),
    ],
)
def test_a_pool_that_the_host_has_not_is_told_once(
    tmp_path: Path, command: Sequence[str | Path]
) -> None:
    """However many domains there are, and before any is read; nothing is written."""
    out = tmp_path / "out"
    done = xmlkit(*command, *IMAGES, "--relocate", "nope", "-o", out)

    said = "xmlkit: no pool 'nope' to relocate to; the host's pools: images\n"
    assert (2, said) == (done.returncode, done.stderr.decode())
    assert not out.exists()


def test_a_file_is_written_alike_from_a_terminal(tmp_path: Path) -> None:
    """-o: in no colours that nobody asked for, and no line broken by the terminal's width."""
    outs = [tmp_path / name for name in "abc"]
    ours, theirs = pty.openpty()
    for out, color in ((outs[0], "auto"), (outs[1], "always")):
        words: list[str | Path] = [
            *COMMAND,
            "diff",
            *IMAGES,
            "--color",
            color,
            "-o",
            out,
            OUTSIDE,
            ADOPTED,
        ]
        env = os.environ | {"TERM": "xterm", "COLUMNS": "40", "NO_COLOR": ""}
        assert 1 == subprocess.run(words, stdin=theirs, stdout=theirs, env=env).returncode
    os.close(ours)
    os.close(theirs)
    assert 1 == xmlkit("diff", *IMAGES, "-o", outs[2], OUTSIDE, ADOPTED).returncode

    assert outs[2].read_bytes() == outs[0].read_bytes()
    assert b"\x1b[32madopt" in outs[1].read_bytes()


def test_what_is_wrong_afterwards_is_told(without_volumes: Path) -> None:
    """The text says that the result is invalid, and where; the data says it, too."""
    options = ("--schemas", without_volumes)
    text = xmlkit("diff", *IMAGES, *options, ADOPTED).stdout.decode()
    (entry,) = data(xmlkit("diff", *IMAGES, *options, "--format", "json", ADOPTED))["domains"]

    assert "valid before, invalid after" in text
    assert re.search(r"invalid after: line \d+: \S", text)
    assert ({"valid": True}, {"valid": False}) == (entry["before"], entry["after"])


def test_on_a_host_without_volume_disks_none_is_valid() -> None:
    """Both sides are judged by the host: what is a volume before has its path after."""
    options = (*IMAGES, "--format", "json")
    old = ("--assume-libvirt", "1.0.4", *options)
    new = ("--assume-libvirt", "9.0.0", *options)
    (on_old,) = data(xmlkit("diff", *old, FIXTURES / "volume-disk.xml"))["domains"]
    (on_new,) = data(xmlkit("diff", *new, FIXTURES / "volume-disk.xml"))["domains"]

    assert ({"valid": False}, {"valid": True}) == (on_old["before"], on_old["after"])
    assert ({"valid": True}, {"valid": True}) == (on_new["before"], on_new["after"])
    assert {"path"} == {each["disk_type"] for each in on_old["disks"]}


def test_a_volume_disk_that_must_stay_is_invalid_on_such_a_host() -> None:
    """It was before, so that it is no trouble that the transition has made."""
    options = ("--assume-libvirt", "1.0.4", "--pool", "elsewhere=/elsewhere")
    done = xmlkit("diff", *options, FIXTURES / "volume-disk.xml")

    assert 0 == done.returncode
    assert b"invalid before, invalid after" in done.stdout
    assert b"type='volume'" in done.stdout


NOT_INSTALLED = """
from xmlkit.validation import schemas
schemas._PLACES = ()
from xmlkit.cli import main
main()
"""


def test_where_no_schemas_are_installed_nothing_is_validated() -> None:
    """What would change is shown, and that there is no verdict is told. A page needs one."""

    def diff(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-c", NOT_INSTALLED, "diff", *IMAGES, *arguments]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LIBVIRT_", "XMLKIT_"))}
        return subprocess.run(command, capture_output=True, env=kept)

    for file, code in ((ADOPTED, 1), (OUTSIDE, 0)):
        text = diff(file)
        assert code == text.returncode
        assert b"  not validated\n" in text.stdout
        assert 1 == text.stderr.count(b"\n")
        assert b"xmlkit: not validated: libvirt's schemas are not installed" in text.stderr
        entry = data(diff("--format", "json", file))["domains"][0]
        assert ({"valid": None}, {"valid": None}) == (entry["before"], entry["after"])
        usual = data(xmlkit("diff", *IMAGES, "--format", "json", file))["domains"][0]
        assert usual | {"before": None, "after": None} == entry | {"before": None, "after": None}
    page = diff("--format", "html", ADOPTED)
    assert (2, b"") == (page.returncode, page.stdout)
    assert b"libvirt's schemas are not installed" in page.stderr


def test_a_schema_that_is_not_there_is_trouble(tmp_path: Path) -> None:
    """Who names schemas wants a verdict: without one nothing is shown."""
    done = xmlkit("diff", *IMAGES, "--schemas", tmp_path, ADOPTED)
    by_variable = xmlkit("diff", *IMAGES, ADOPTED, XMLKIT_SCHEMAS=str(tmp_path))

    assert (2, b"") == (done.returncode, done.stdout)
    assert (2, b"") == (by_variable.returncode, by_variable.stdout)
    assert str(tmp_path).encode() in done.stderr
    assert b"Traceback" not in done.stderr + by_variable.stderr


def test_text_has_each_disk_and_the_verdict() -> None:
    """Where it is, where it will be, in which format, or why not; then the difference."""
    text = xmlkit("diff", *IMAGES, SECRETS).stdout.decode()

    for words in (
        "guest",
        str(SECRETS),
        "/srv/images/a.qcow2",
        "images/a.qcow2",
        "qcow2",
        "not verified",
        "source-type: ",
        "valid before, valid after",
        "+      <source pool='images' volume='a.qcow2'/>",
    ):
        assert words in text


def test_no_line_of_text_ends_in_blanks() -> None:
    """Besides those of the document's own."""
    text = xmlkit("diff", *IMAGES, OUTSIDE).stdout.decode()

    assert [] == [line for line in text.split("\n") if line != line.rstrip()]


def test_unified_has_the_difference_alone() -> None:
    """Nothing at all where nothing changes."""
    done = xmlkit("diff", *IMAGES, "--format", "unified", ADOPTED, OUTSIDE)

    assert done.stdout.startswith(b"--- ")
    assert OUTSIDE.name.encode() not in done.stdout
    assert b"" == xmlkit("diff", *IMAGES, "--format", "unified", OUTSIDE).stdout


def test_json_has_each_domain_that_could_be_read() -> None:
    """In the order of the arguments; the others are on stderr."""
    done = xmlkit("diff", *IMAGES, "--format", "json", OUTSIDE, "missing.xml", ADOPTED)

    assert [str(OUTSIDE), str(ADOPTED)] == [each["file"] for each in data(done)["domains"]]
    assert b"missing.xml" in done.stderr
    assert {"schema": "xmlkit.diff/1", "domains": []} == data(
        xmlkit("diff", *IMAGES, "--format", "json", "missing.xml")
    )


def test_the_difference_in_json_is_that_of_unified() -> None:
    """One text, in both."""
    unified = xmlkit("diff", *IMAGES, "--format", "unified", SECRETS).stdout.decode()
    (entry,) = data(xmlkit("diff", *IMAGES, "--format", "json", SECRETS))["domains"]

    assert unified.rstrip("\n") == entry["unified"].rstrip("\n")


def test_stdin_is_a_file() -> None:
    """Named -."""
    done = xmlkit("diff", *IMAGES, "--format", "json", "-", stdin=ADOPTED.read_bytes())
    (entry,) = data(done)["domains"]

    assert (1, "-", "guest") == (done.returncode, entry["file"], entry["name"])


def test_what_diff_shows_is_what_transform_writes() -> None:
    """The same plan, the same bytes."""
    done = xmlkit("diff", *IMAGES, "--show-secrets", "--format", "unified", SECRETS)
    written = xmlkit("transform", *IMAGES, "--quiet", SECRETS)
    patched = subprocess.run(
        ["patch", "--fuzz=0", "--output=-", "--quiet", SECRETS],
        input=done.stdout,
        capture_output=True,
        check=True,
    )

    assert written.stdout == patched.stdout


def test_a_domain_of_a_connection_is_taken_as_it_will_boot_next() -> None:
    """By name or UUID, several of them, and what is wrong with one does not stop the others."""
    uuid = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
    done = xmlkit("diff", "--connect", NODE, "--format", "json", "guest", "nobody", uuid)
    by_name, by_uuid = data(done)["domains"]

    assert (2, "guest", uuid) == (done.returncode, by_name["file"], by_uuid["file"])
    assert by_name["disks"] == by_uuid["disks"]
    assert ["adopt", "adopt", "skip", "skip"] == [each["action"] for each in by_name["disks"]]
    assert b"nobody" in done.stderr


def test_a_real_host_is_asked(libvirtd: Libvirtd) -> None:
    """Over libvirtd's socket, in both directions."""
    import libvirt

    connection = libvirt.open(libvirtd.uri)
    directory = libvirtd.directory / "pool"
    directory.mkdir()
    (directory / "image").write_bytes(bytes(4096))
    connection.storagePoolCreateXML(
        f"<pool type='dir'><name>p</name><target><path>{directory}</path></target></pool>"
    )
    for name, disk in (
        ("by-path", f"<disk type='file'><source file='{directory}/image'/>"),
        ("by-volume", "<disk type='volume'><source pool='p' volume='image'/>"),
    ):
        connection.defineXML(
            f"<domain type='qemu'><name>{name}</name><memory>65536</memory><os><type>hvm</type>"
            f"</os><devices>{disk}<target dev='vda'/></disk></devices></domain>"
        )
    there = xmlkit("diff", "--connect", libvirtd.uri, "--format", "json", "by-path", "by-volume")
    back = xmlkit(
        "diff",
        "--connect",
        libvirtd.uri,
        "--to",
        "path",
        "--format",
        "json",
        "by-path",
        "by-volume",
    )

    assert (1, 1) == (there.returncode, back.returncode)
    assert [["adopt"], ["skip"]] == actions(there)
    assert [["skip"], ["adopt"]] == actions(back)
    assert [True] == [each["verified"] for each in data(there)["domains"][0]["disks"]]


def actions(done: subprocess.CompletedProcess[bytes]) -> list[list[str]]:
    return [[each["action"] for each in entry["disks"]] for entry in data(done)["domains"]]


# The page.


@pytest.mark.parametrize("format_", ["text", "unified", "json"])
def test_output_goes_to_a_file(format_: str, tmp_path: Path) -> None:
    """All that stdout would get, and stdout nothing."""
    file = tmp_path / "out"
    options = (*IMAGES, "--format", format_, ADOPTED, OUTSIDE)
    done = xmlkit("diff", "-o", file, *options)

    assert (1, b"") == (done.returncode, done.stdout)
    assert xmlkit("diff", *options).stdout == file.read_bytes()


def test_a_page_has_each_domain_and_what_could_not_be_read(tmp_path: Path) -> None:
    """And nobody has to ask for a file."""
    file = tmp_path / "review.html"
    options = (*IMAGES, "--format", "html", ADOPTED, "missing.xml", OUTSIDE)
    done = xmlkit("diff", "-o", file, *options)
    root = lxml_html.document_fromstring(file.read_bytes())

    assert (2, b"") == (done.returncode, done.stdout)
    assert "1 of 2 domains would change" == root.findtext(".//h1")
    assert 2 == len(root.find_class("domain"))
    (alert,) = root.find_class("alert")
    assert "cannot read missing.xml" in alert.text_content()
    assert xmlkit("diff", *options).stdout.startswith(b"<!DOCTYPE html>")


def test_a_page_that_cannot_be_written_is_trouble(tmp_path: Path) -> None:
    """In one line, and what is there stays."""
    (tmp_path / "there").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for place in ("link", "no/where"):
        done = xmlkit("diff", *IMAGES, "--format", "html", "-o", tmp_path / place, ADOPTED)
        assert 2 == done.returncode
        assert 1 == done.stderr.count(b"\n")
    assert "mine" == (tmp_path / "there").read_text()


def test_a_page_shows_no_secrets_to_anybody() -> None:
    """Who asks for them is told so."""
    done = xmlkit("diff", *IMAGES, "--format", "html", "--show-secrets", SECRETS)

    assert (2, b"") == (done.returncode, done.stdout)
    assert b"--format html shows no secrets" in done.stderr


def test_all_are_those_of_a_libvirt() -> None:
    """And beside them no domain is named."""
    for options in ((*IMAGES, "--all"), (*IMAGES, "--all", ADOPTED), IMAGES):
        done = xmlkit("diff", *options)
        assert (2, b"") == (done.returncode, done.stdout)
    done = xmlkit("diff", "--connect", NODE, "--all", "--format", "json")
    assert 1 == len(data(done)["domains"])


def test_a_page_of_a_host_says_what_is_in_the_way(libvirtd: Libvirtd, tmp_path: Path) -> None:
    """A guest that runs is refused by its rule; the images below are those on the disk."""
    scene = Scene(libvirtd)
    scene.nova_guest("off")
    runs = scene.nova_guest("runs")
    runs.create()
    file = tmp_path / "review.html"
    options = ("--connect", libvirtd.uri, "--all", "--relocate", "nova-disks-pool")
    done = xmlkit("diff", *options, "--format", "html", "-o", file)
    assert 1 == done.returncode, done.stderr
    off, on = lxml_html.document_fromstring(file.read_bytes()).find_class("domain")

    assert ("changes", "refused") == (off.get("data-state"), on.get("data-state"))
    assert " running " in f" {on.get('data-ids')} "
    assert " running " not in f" {off.get('data-ids')} "
    for domain in (off, on):
        (svg,) = domain.find_class("wide")
        assert str(scene.base) in (svg.get("aria-label") or "")
    assert "the host itself was not looked at" not in file.read_text()

    done = xmlkit("diff", *options, "--restart", "--format", "html", "-o", file)
    assert 1 == done.returncode, done.stderr
    off, on = lxml_html.document_fromstring(file.read_bytes()).find_class("domain")
    assert "changes" == on.get("data-state")
    there, back = (
        [(each.text or "").split()[:2] for each in steps.iter("code")]
        for steps in on.find_class("steps")
    )
    for steps in there, back:
        assert 1 == steps.count(["virsh", "start"])
        assert ["virsh", "shutdown"] == steps[0]
    assert f"xmlkit rollback --restart ID {runs.UUIDString()}" in on.text_content()
    assert "--restart" not in off.text_content()

    state = ("--connect", libvirtd.uri, "--state-dir", libvirtd.directory / "state")
    planned = tmp_path / "plan.json"
    done = xmlkit("plan", *state, *options[2:], "-o", planned)
    assert 0 == done.returncode, done.stderr
    done = xmlkit("diff", *state, "--plan", planned, "--format", "html", "-o", file)
    assert 1 == done.returncode, done.stderr
    domains = lxml_html.document_fromstring(file.read_bytes()).find_class("domain")
    assert ["changes", "refused"] == [each.get("data-state") for each in domains]


def test_a_page_says_what_is_copied(libvirtd: Libvirtd, tmp_path: Path) -> None:
    """Where the pool is on another file system; with --copy the steps are those of apply."""
    scene = Scene(libvirtd)
    with mounted("ext4", 256 << 20) as directory:
        scene.pool("far", directory)
        scene.nova_guest("guest")
        file = tmp_path / "review.html"
        options = ("--connect", libvirtd.uri, "--all", "--relocate", "far")
        pages = []
        for more in ((), ("--copy",)):
            done = xmlkit("diff", *options, *more, "--format", "html", "-o", file)
            assert 1 == done.returncode, done.stderr
            (domain,) = lxml_html.document_fromstring(file.read_bytes()).find_class("domain")
            pages.append(domain)
        state = ("--state-dir", tmp_path / "state")
        dry = xmlkit("apply", *options, *state, "--copy", "--dry-run", "--format", "json")
        scene.connection.storagePoolLookupByName("far").destroy()
    refused, copied = pages

    assert ("refused", "changes") == (refused.get("data-state"), copied.get("data-state"))
    assert " other-file-system " in f" {refused.get('data-ids')} "
    there, back = (
        [each.text or "" for each in steps.iter("code")] for steps in copied.find_class("steps")
    )
    assert json.loads(dry.stdout)["domains"][0]["steps"] == there
    assert there[0].startswith("cp ")
    assert back[0].startswith("cp ")
    (svg,) = copied.find_class("wide")
    assert "moves by a copy" in (svg.get("aria-label") or "")


@pytest.mark.parametrize("option", ["--copy", "--restart", "--rewrite-metadata"])
def test_how_steps_are_taken_is_said_of_a_hosts_page(option: str) -> None:
    """Nothing else that diff shows has steps, and of a file alone nobody knows."""
    for given in ((*IMAGES, "--format", "html"), ("--connect", NODE)):
        done = xmlkit("diff", *given, option, ADOPTED)
        assert (2, b"") == (done.returncode, done.stdout)
        assert b"--format html and --connect" in done.stderr


# Secrets.

SHOWN = {
    "text": ("diff",),
    "unified": ("diff", "--format", "unified"),
    "json": ("diff", "--format", "json"),
    "coloured": ("diff", "--color", "always"),
    "html": ("diff", "--format", "html"),
    "plan": ("plan",),
}


@pytest.mark.parametrize("arguments", SHOWN.values(), ids=SHOWN)
def test_no_secret_is_shown(arguments: tuple[str, ...]) -> None:
    """Neither on stdout nor on stderr, though the secrets stand between and in what changes."""
    name, *options = arguments
    done = xmlkit(name, *IMAGES, *options, SECRETS)

    assert done.returncode == (1 if name == "diff" else 0)
    assert b"images" in done.stdout
    assert b"HIDE-ME" not in done.stdout + done.stderr


@pytest.mark.parametrize("format_", ["text", "unified", "json"])
def test_secrets_are_shown_to_those_who_ask(format_: str) -> None:
    """With --show-secrets the difference is the document's own."""
    done = xmlkit("diff", *IMAGES, "--show-secrets", "--format", format_, SECRETS)

    assert b"HIDE-ME" in done.stdout


def test_a_secret_on_the_line_that_changes_is_not_shown() -> None:
    """A document in one line: the whole of it is the difference."""
    line = b"".join(each.strip() + b" " for each in SECRETS.read_bytes().split(b"\n"))
    for format_ in ("text", "unified", "json", "html"):
        done = xmlkit("diff", *IMAGES, "--format", format_, "-", stdin=line)

        assert 1 == done.returncode
        assert b"(redacted)" in done.stdout
        assert b"HIDE-ME" not in done.stdout


def test_notes_of_transform_show_no_secret() -> None:
    """The document has them, the notes have not."""
    done = xmlkit("transform", *IMAGES, SECRETS)

    assert SECRETS.read_bytes().count(b"HIDE-ME") == done.stdout.count(b"HIDE-ME")
    assert b"HIDE-ME" not in done.stderr
    assert b"vda" in done.stderr


BROKEN = {
    "twice": ("passwd='HIDE-ME-1'", "passwd='HIDE-ME-1' passwd='HIDE-ME-1'"),
    "not quoted": ("passwd='HIDE-ME-1'", "passwd=HIDE-ME-1"),
    "not escaped": ("passwd='HIDE-ME-1'", "passwd='<HIDE-ME-1'"),
    "half an entity": ("passwd='HIDE-ME-1'", "passwd='&HIDE-ME-1'"),
    "an entity": ("passwd='HIDE-ME-1'", "passwd='&HIDE-ME-1;'"),
    "an open cookie": ("</cookie>", "</cookies>"),
    "invalid": ("type='vnc' passwd", "type='vnc' nonsense='1' passwd"),
    "an invalid date": ("passwd='HIDE-ME-1'", "passwd='HIDE-ME-1' passwdValidTo='HIDE-ME-1'"),
    "an invalid cookie": (">HIDE-ME-3<", ">HIDE-ME-3;\\<"),
}


@pytest.mark.parametrize(("old", "new"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", ["diff", "validate"])
def test_no_secret_is_in_an_error(name: str, old: str, new: str) -> None:
    """Whatever libxml2 says of what it could not read."""
    source = SECRETS.read_text()
    assert old in source
    options = () if name == "validate" else IMAGES
    done = xmlkit(name, *options, "-", stdin=source.replace(old, new, 1).encode())

    assert b"HIDE-ME" not in done.stderr
    if name == "validate":
        assert done.returncode in (1, 2)
        assert b"HIDE-ME" not in done.stdout


def test_no_password_of_a_uri_is_in_an_error() -> None:
    """The rest of it is, so that one sees which was meant."""
    done = xmlkit("diff", "--connect", "qemu+tcp://user:HIDE-ME@127.0.0.1:1/system", "guest")

    assert 2 == done.returncode
    assert b"HIDE-ME" not in done.stderr
    assert b"127.0.0.1:1" in done.stderr
