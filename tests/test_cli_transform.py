"""xmlkit transform: the document on stdout or in a file, whole or not at all, by host or plan."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from lxml import etree

from xmlkit import Document, Plan, transform
from xmlkit.errors import XmlkitError

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"
SCHEMA = json.loads((ROOT / "schemas/plan-1.json").read_text())
CODE = "from xmlkit.cli import main; main()"
IMAGES = ("--pool", "images=/srv/images")
NOVA = ("--pool", "nova=/var/lib/nova/instances/disks", "--relocate", "nova")
PATH_DISK = (FIXTURES / "file-in-pool.xml").read_bytes()
VOLUME_DISK = PATH_DISK.replace(b"'file'>", b"'volume'>").replace(
    b"file='/srv/images/a.qcow2'", b"pool='images' volume='a.qcow2'"
)
OUTSIDE = (FIXTURES / "subdirectory.xml").read_bytes()


def xmlkit(
    *arguments: str | Path,
    stdin: bytes = b"",
    before: Callable[[], object] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """The command, in a process of its own; before: what that does first."""
    return subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        input=stdin,
        capture_output=True,
        env={
            key: value
            for key, value in os.environ.items()
            # what `before` does to the process must not meet a coverage that writes files
            if key != "LIBVIRT_DEFAULT_URI" and not (before and key.startswith("COV"))
        },
        preexec_fn=before,
        cwd=cwd,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A domain whose disk will be a volume, alone in its directory."""
    directory = tmp_path / "directory"
    directory.mkdir()
    made = directory / "domain.xml"
    made.write_bytes(PATH_DISK)
    return made


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """The plan for that domain."""
    made = tmp_path / "plan.json"
    made.write_bytes(xmlkit("plan", *IMAGES, "-", stdin=PATH_DISK).stdout)
    return made


def refused(done: subprocess.CompletedProcess[bytes], *unchanged: Path) -> str:
    """The message of a command that must have been refused, with nothing written anywhere."""
    assert (2, b"") == (done.returncode, done.stdout)
    assert b"Traceback" not in done.stderr
    for path in unchanged:
        assert PATH_DISK == path.read_bytes()
        assert [path] == list(path.parent.iterdir())
    return done.stderr.decode()


# The document.


def test_the_document_is_on_stdout_with_the_disks_that_are_planned(file: Path) -> None:
    """Exactly the bytes: no line more at the end, none less."""
    done = xmlkit("transform", *IMAGES, file)

    assert (0, VOLUME_DISK) == (done.returncode, done.stdout)
    assert PATH_DISK == file.read_bytes()


def test_back_to_paths_is_the_document_that_was(file: Path) -> None:
    """Where nothing had to be stated that was implied before."""
    done = xmlkit("transform", *IMAGES, "--to", "path", "-", stdin=VOLUME_DISK)

    assert (0, PATH_DISK) == (done.returncode, done.stdout)


def test_the_format_is_stated_where_it_was_implied() -> None:
    """No <driver type> is raw, and a volume disk has to say so."""
    source = (FIXTURES / "no-driver-type.xml").read_bytes()
    done = xmlkit("transform", *IMAGES, "-", stdin=source)

    assert b"type='raw'" not in source
    assert b"<driver type='raw'/>" in done.stdout


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(PATH_DISK.rstrip(b"\n"), id="no-line-end"),
        pytest.param(PATH_DISK.replace(b"\n", b"\r\n"), id="crlf"),
        pytest.param(b"\xef\xbb\xbf" + PATH_DISK, id="byte-order-mark"),
        pytest.param(PATH_DISK.decode().encode("utf-16"), id="utf-16"),
        pytest.param(
            b"<?xml version='1.0' encoding='ISO-8859-1'?>"
            + PATH_DISK.replace(b"<name>guest", b"<title>\xe4</title><name>guest"),
            id="latin-1",
        ),
        pytest.param(PATH_DISK.replace(b"'", b'"'), id="double-quotes"),
        pytest.param(PATH_DISK.replace(b"guest", b"&#103;uest<!-- & ' --><?x y?>"), id="odd"),
    ],
)
def test_all_else_is_as_it_was_written(source: bytes) -> None:
    """Encoding, line ends, quotes, entities: only the disk differs."""
    done = xmlkit("transform", *IMAGES, "-", stdin=source)
    back = xmlkit("transform", *IMAGES, "--to", "path", "-", stdin=done.stdout)

    assert (0, 0) == (done.returncode, back.returncode)
    assert source != done.stdout
    assert source == back.stdout


def test_nothing_to_change_is_written_as_it_is(tmp_path: Path) -> None:
    """Exit code 0, the same bytes, and the note says why."""
    out = tmp_path / "out.xml"
    done = xmlkit("transform", *IMAGES, "-", "-o", out, stdin=OUTSIDE)

    assert (0, OUTSIDE) == (done.returncode, out.read_bytes())
    assert OUTSIDE == xmlkit("transform", *IMAGES, "-", stdin=OUTSIDE).stdout
    assert b"nothing to change" in done.stderr
    assert b"outside-pools" in done.stderr


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("file-in-pool", IMAGES, ["vda: adopt: /srv/images/a.qcow2", "images/a.qcow2"]),
        ("file-in-pool", IMAGES, ["not verified"]),
        ("nova-root", NOVA, ["vda: move: ", "nova/3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11_disk"]),
        ("transient", IMAGES, ["vda: ", "transient: "]),
        ("no-target", IMAGES, ["no-target: "]),
        ("file-in-pool", (*IMAGES, "--assume-libvirt", "1.0.4"), ["libvirt-version: "]),
    ],
)
def test_each_disk_is_noted(name: str, options: tuple[str, ...], words: list[str]) -> None:
    """What was done, or why not, on stderr; --quiet says nothing."""
    path = FIXTURES / f"{name}.xml"
    notes = xmlkit("transform", *options, path).stderr.decode()

    assert [] == [each for each in words if each not in notes]
    assert b"" == xmlkit("transform", "--quiet", *options, path).stderr
    assert b"" == xmlkit("transform", "-q", *options, path).stderr


def test_a_migrations_document_is_made_plain() -> None:
    """With --live what libvirt fills in at start goes; without it nothing changes."""
    source = (FIXTURES / "nova/live-migrated/qcow2-vol-iscsi.xml").read_bytes()
    source = source.replace(b"<domain type", b"<domain id='7' type", 1)
    without = xmlkit("transform", *NOVA, "-", stdin=source)
    live = xmlkit("transform", *NOVA, "--live", "-", stdin=source)

    assert (0, source) == (without.returncode, without.stdout)
    assert b"live: " in without.stderr
    assert 0 == live.returncode
    assert source != live.stdout


def test_a_limit_that_was_raised_holds_to_the_end(tmp_path: Path) -> None:
    """What could be read with it can be written, too."""
    large = PATH_DISK.replace(b"</devices>", b"<x/>" * 260_000 + b"</devices>")
    options = ("--max-markup", "1000000", "-q")
    done = xmlkit("transform", *IMAGES, *options, "-", stdin=large)

    assert 2 == xmlkit("transform", *IMAGES, "-", stdin=large).returncode
    assert (0, b"") == (done.returncode, done.stderr)
    assert VOLUME_DISK == done.stdout.replace(b"<x/>", b"")


# Files.


def test_in_place_replaces_the_file(file: Path) -> None:
    """With nothing on stdout, and nothing else left in its directory."""
    done = xmlkit("transform", *IMAGES, "--in-place", file)

    assert (0, b"") == (done.returncode, done.stdout)
    assert VOLUME_DISK == file.read_bytes()
    assert [file] == list(file.parent.iterdir())


def test_an_output_file_is_made_or_replaced(file: Path) -> None:
    """And the input stays."""
    out = file.with_name("out.xml")
    for _ in range(2):
        done = xmlkit("transform", *IMAGES, file, "-o", out)

        assert (0, b"", VOLUME_DISK) == (done.returncode, done.stdout, out.read_bytes())
    assert PATH_DISK == file.read_bytes()
    assert {file, out} == set(file.parent.iterdir())


def test_an_output_may_be_the_input(file: Path) -> None:
    """-o FILE FILE is in place."""
    assert 0 == xmlkit("transform", *IMAGES, file, "-o", file).returncode
    assert VOLUME_DISK == file.read_bytes()


def test_an_output_named_minus_is_stdout(tmp_path: Path) -> None:
    """As everywhere."""
    done = xmlkit("transform", *IMAGES, "-", "-o", "-", stdin=PATH_DISK, cwd=tmp_path)

    assert (0, VOLUME_DISK) == (done.returncode, done.stdout)
    assert [] == list(tmp_path.iterdir())


def test_a_relative_file_is_replaced_where_it_is(file: Path) -> None:
    """Without a directory in its name, too."""
    assert 0 == xmlkit("transform", *IMAGES, "--in-place", file.name, cwd=file.parent).returncode
    assert VOLUME_DISK == file.read_bytes()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o4755])
def test_the_mode_of_a_file_is_kept(file: Path, mode: int) -> None:
    """Not more than it was, not for a moment; a new file gets what the umask leaves."""
    file.chmod(mode)
    xmlkit("transform", *IMAGES, "--in-place", file)

    assert VOLUME_DISK == file.read_bytes()
    assert mode == stat.S_IMODE(file.stat().st_mode)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_new_file_has_the_mode_that_the_umask_leaves(file: Path, mask: int) -> None:
    """As if a shell had made it."""
    out = file.with_name("out.xml")
    xmlkit("transform", *IMAGES, file, "-o", out, before=lambda: os.umask(mask))

    assert 0o666 & ~mask == stat.S_IMODE(out.stat().st_mode)


def test_the_owner_of_a_file_is_kept(file: Path) -> None:
    """Under /etc/libvirt/qemu or in a home, run by root."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(file, 1234, 5678)
    xmlkit("transform", *IMAGES, "--in-place", file)

    assert VOLUME_DISK == file.read_bytes()
    assert (1234, 5678) == (file.stat().st_uid, file.stat().st_gid)


def test_the_extended_attributes_of_a_file_are_kept(file: Path) -> None:
    """Such as a label of SELinux."""
    name = "security.xmlkit" if os.geteuid() == 0 else "user.xmlkit"
    try:
        os.setxattr(file, name, b"label")
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip("this file system has no extended attributes")
    xmlkit("transform", *IMAGES, "--in-place", file)

    assert VOLUME_DISK == file.read_bytes()
    assert b"label" == os.getxattr(file, name)


def test_the_file_is_replaced_at_once(file: Path) -> None:
    """A reader sees the old bytes or the new ones, at every moment."""
    seen = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(file.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for to in ("volume", "path") * 3:
            options = (*IMAGES, "--to", to, "--in-place")
            assert 0 == xmlkit("transform", *options, file).returncode
    finally:
        done.set()
        reader.join()

    assert {PATH_DISK, VOLUME_DISK} == seen


def test_what_cannot_be_written_whole_is_not_written(file: Path) -> None:
    """As when the disk is full, half way: the file is as it was, nothing else is left."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    message = refused(xmlkit("transform", *IMAGES, "-q", "--in-place", file, before=limited), file)

    assert str(file) in message
    assert "File too large" in message


def test_a_file_that_does_not_change_is_not_touched(file: Path) -> None:
    """In place, nothing to change: the same file, the same times."""
    file.write_bytes(OUTSIDE)
    before = file.stat()
    xmlkit("transform", *IMAGES, "--in-place", file)
    after = file.stat()

    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("option", ["--in-place", "-o"])
def test_a_symbolic_link_is_refused(file: Path, option: str) -> None:
    """Replacing the link would leave the file behind it as it was."""
    link = file.parent.parent / "link.xml"
    link.symlink_to(file)
    arguments = (option, link) if option == "--in-place" else (link, option, link)
    message = refused(xmlkit("transform", *IMAGES, *arguments), file)

    assert link.is_symlink()
    assert str(link) in message
    assert "symbolic link" in message


def test_a_directory_that_cannot_be_written_is_trouble(file: Path) -> None:
    """The message names the file, and says why."""
    command = [sys.executable, "-c", CODE, "transform", *IMAGES, "-q", "--in-place", str(file)]
    if os.geteuid() == 0:  # may write everywhere but on a file system that is read-only
        script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", script, str(file.parent), *command]
    else:
        file.parent.chmod(0o555)
    message = refused(subprocess.run(command, capture_output=True), file)

    assert str(file) in message
    assert "Read-only file system" in message or "Permission denied" in message


@pytest.mark.parametrize("out", ["/no/such/directory/out.xml", "/", "/proc/out.xml"])
def test_a_place_where_nothing_can_be_is_trouble(file: Path, out: str) -> None:
    """The message names it."""
    assert out in refused(xmlkit("transform", *IMAGES, "-q", file, "-o", out), file)


def test_a_device_or_pipe_is_written_to(file: Path, tmp_path: Path) -> None:
    """It is not replaced by a file."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    received = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    reader.start()
    done = xmlkit("transform", *IMAGES, file, "-o", fifo)
    reader.join(20)

    assert (0, [VOLUME_DISK]) == (done.returncode, received)
    assert fifo.is_fifo()
    assert 0 == xmlkit("transform", *IMAGES, file, "-o", "/dev/null").returncode


@pytest.mark.parametrize("output", [(), ("-o", "out.xml")], ids=["stdout", "file"])
def test_an_error_writes_nothing(output: tuple[str, ...], tmp_path: Path) -> None:
    """Neither half a document nor an empty file."""
    done = xmlkit("transform", *IMAGES, "-", *output, stdin=PATH_DISK[:-5], cwd=tmp_path)

    refused(done)
    assert [] == list(tmp_path.iterdir())


# Plans.


def test_a_plan_is_a_document_of_its_schema(plan: Path) -> None:
    """The one that is published."""
    data = json.loads(plan.read_bytes())

    jsonschema.validate(data, SCHEMA, jsonschema.Draft202012Validator)
    assert "xmlkit.plan/1" == data["schema"]


def test_a_plan_needs_no_host(file: Path, plan: Path) -> None:
    """It has every decision."""
    done = xmlkit("transform", "--plan", plan, file)

    assert (0, VOLUME_DISK) == (done.returncode, done.stdout)


def test_a_plan_applied_twice_is_applied_once(file: Path, plan: Path) -> None:
    """What it did already is no error: exit code 0, the same bytes."""
    done = xmlkit("transform", "--plan", plan, "-", stdin=VOLUME_DISK)

    assert (0, VOLUME_DISK) == (done.returncode, done.stdout)


def test_a_plan_that_was_done_in_part_is_finished() -> None:
    """The disks that are done stay, the others follow."""
    source = (FIXTURES / "nova/qcow2-ephemeral-swap.xml").read_bytes()
    whole = xmlkit("plan", *NOVA, "-", stdin=source).stdout
    all_done = xmlkit("transform", *NOVA, "-", stdin=source).stdout
    half = xmlkit("transform", *NOVA[:-1], "root=nova", "-", stdin=source).stdout
    done = xmlkit("transform", "--plan", "/dev/stdin", "-o", "-", "-", stdin=whole)

    assert source != half != all_done
    assert 2 == done.returncode  # stdin cannot be both
    finished = with_plan(whole, half)
    assert (0, all_done) == (finished.returncode, finished.stdout)


def with_plan(plan: bytes, document: bytes) -> subprocess.CompletedProcess[bytes]:
    """transform, with both as files."""
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(plan)
        file.flush()
        return xmlkit("transform", "--plan", file.name, "-", stdin=document)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param("/srv/images/a.qcow2", "/srv/images/b.qcow2", "plan again", id="moved"),
        pytest.param("'vda'", "'vdb'", "vda", id="target-gone"),
        pytest.param("<disk type='file'>", "<disk type='block'>", "plan again", id="other-type"),
        pytest.param("'qcow2'", "'raw'", "", id="other-format"),
    ],
)
def test_a_stale_plan_is_refused(file: Path, plan: Path, old: str, new: str, message: str) -> None:
    """The domain has changed since: exit code 2, nothing written."""
    changed = PATH_DISK.decode().replace(old, new).encode()
    assert changed != PATH_DISK

    assert message in refused(xmlkit("transform", "--plan", plan, "-", stdin=changed))


def test_a_plan_for_another_domain_is_refused(tmp_path: Path) -> None:
    """By its UUID, though the disks are alike; both are named."""
    source = (FIXTURES / "nova-root.xml").read_bytes()
    other = source.replace(b"<uuid>3f2c1c8e", b"<uuid>4f2c1c8e")
    made = xmlkit("plan", *NOVA, "-", stdin=source).stdout
    message = refused(with_plan(made, other))

    assert "3f2c1c8e" in message
    assert "4f2c1c8e" in message


PLANS: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "binary": bytes(range(256)),
    "xml": PATH_DISK,
    "a-list": b"[]",
    "a-number": b"1",
    "null": b"null",
    "nothing": b"{}",
    "another-schema": b'{"schema": "xmlkit.plan/2"}',
    "a-diff": b'{"schema": "xmlkit.diff/1", "domains": []}',
    "half": b'{"schema": "xmlkit.plan/1", "to": "vol',
    "no-plan": b'{"schema": "xmlkit.plan/1", "plans": []}',
    "no-disks": b'{"schema": "xmlkit.plan/1", "plans": [{"to": "volume", "domain": {}}]}',
    "deep": b"[" * 100_000,
    "to-nowhere": b'{"schema": "xmlkit.plan/1", "plans": [{"to": "x", "domain": {}, "disks": [],'
    b' "binding": null}]}',
    "odd-disk": b'{"schema": "xmlkit.plan/1", "plans": [{"to": "path", "domain": {"name": "",'
    b' "uuid": ""}, "disks": [1], "binding": null}]}',
}


@pytest.mark.parametrize("content", PLANS.values(), ids=PLANS)
def test_what_is_no_plan_is_refused(content: bytes | None, file: Path, tmp_path: Path) -> None:
    """The message names the file."""
    plan = tmp_path / "plan.json"
    if content is not None:
        plan.write_bytes(content)

    assert str(plan) in refused(xmlkit("transform", "--plan", plan, "--in-place", file), file)


@pytest.mark.parametrize(
    "value", [None, 1, "x", "network", "", "\x01", "\ud800", [], {}, True], ids=ascii
)
def test_a_plan_with_wrong_values_is_refused_or_makes_a_document(value: Any, plan: Path) -> None:
    """At each place of each disk: never another exception, never what is no XML."""
    document = Document.parse(PATH_DISK)
    disk = json.loads(plan.read_bytes())["plans"][0]["disks"][0]
    places: list[tuple[str, ...]] = [(key,) for key in disk]
    places += [(side, key) for side in ("before", "after") for key in disk[side]]
    for *around, key in map(list, places):
        changed = json.loads(plan.read_bytes())
        place = changed["plans"][0]["disks"][0]
        for step in around:
            place = place[step]
        place[key] = value
        with contextlib.suppress(XmlkitError):
            made = transform(document, Plan.from_json(json.dumps(changed)))
            # "disk" as nobody could have read it
            assert 1 == len(etree.fromstring(made.source).findall("devices/disk/source"))


@pytest.mark.parametrize(
    "options",
    [IMAGES, ("--to", "path"), ("--relocate", "nova"), ("--assume-libvirt", "1.0.4"), ("--live",)],
    ids=lambda options: options[0],
)
def test_a_plan_and_options_that_plan_are_one_too_many(
    options: tuple[str, ...], file: Path, plan: Path
) -> None:
    """They would not count, so they are refused rather than ignored."""
    assert options[0] in refused(xmlkit("transform", "--plan", plan, *options, file), file)


def test_a_plan_may_come_from_a_pipe(file: Path) -> None:
    """plan | transform --plan - FILE."""
    made = xmlkit("plan", *IMAGES, file).stdout
    done = xmlkit("transform", "--plan", "-", file, stdin=made)

    assert (0, VOLUME_DISK) == (done.returncode, done.stdout)


def test_a_plan_is_written_like_a_document(file: Path, tmp_path: Path) -> None:
    """-o replaces a file at once, and an error leaves it as it was."""
    out = tmp_path / "plan.json"
    done = xmlkit("plan", *IMAGES, file, "-o", out)
    written = out.read_bytes()
    failed = xmlkit("plan", *IMAGES, "missing.xml", "-o", out)

    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)
    assert xmlkit("plan", *IMAGES, file).stdout == written
    assert 2 == failed.returncode
    assert written == out.read_bytes()


def test_a_file_with_another_name_is_refused(file: Path) -> None:
    """A hard link: replacing the one would leave the other as it was."""
    os.link(file, file.parent.parent / "other.xml")
    message = refused(xmlkit("transform", *IMAGES, "--in-place", file), file)

    assert "2 names" in message
