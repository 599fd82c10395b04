"""The plugin of pytest, by what its users see: each run is a pytest of its own in a new project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from syrupy.matchers import path_type

from xmlkit.compare import compare
from xmlkit.document import Document, DocumentError
from xmlkit.testing import LibvirtXml, assert_same_domain, assert_valid_domain, masked
from xmlkit.testing.checks import MASKED_MAC, MASKED_UUID, GivenError, document_of, masked_document
from xmlkit.validation.verdict import validate

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "testing.md"
GUESTS = [*sorted((ROOT / "fixtures" / "nova").glob("*.xml")), ROOT / "fixtures" / "secrets.xml"]

GUEST = """\
<domain type='qemu'>
  <name>guest</name>
  <uuid>3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11</uuid>
  <memory unit='GiB'>2</memory>
  <os><type machine='pc'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/scratch/run1/3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11/disk'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='network'>
      <mac address='52:54:00:aa:bb:01'/>
      <source network='default'/>
    </interface>
    <interface type='network'>
      <mac address='52:54:00:aa:bb:02'/>
      <source network='other'/>
    </interface>
    <graphics type='vnc' passwd='sesame'/>
  </devices>
</domain>
"""
# The same to libvirt, and to who masks UUIDs, MACs and /scratch/run1: each written in another way.
SAME = {
    "<memory unit='GiB'>2</memory>": "<memory>2097152</memory><!-- two -->",
    "type='file' device='disk'": 'device="disk"  type="file"',
    "<driver name='qemu' type='qcow2'/>\n": "",
    "<target dev='vda' bus='virtio'/>\n": (
        "<target bus='virtio' dev='vda'/><driver type='qcow2' name='qemu'/>\n"
    ),
    "3f2c1c8e-0d4b": "11111111-0d4b",
    "52:54:00:aa:bb:01": "52:54:00:cc:dd:01",
    "52:54:00:aa:bb:02": "52:54:00:CC:DD:99",
    "/scratch/run1": "/scratch/run2",
}
# What is stored of it: that is as it was, but for what is masked.
STORED = re.sub("3f2c1c8e[-0-9a-f]*", MASKED_UUID, GUEST).replace("/scratch/run1", "/srv")
STORED = re.sub("52:54:00:aa:bb:0.", MASKED_MAC, STORED)
TEST = """
from pathlib import Path
from xmlkit.testing import masked

MASKED = masked(uuids=True, macs=True, paths={Path("run").read_text(): "/srv"})

def test_guest(libvirt_snapshot):
    assert libvirt_snapshot(matcher=MASKED) == Path("guest.xml").read_text()
"""
Run = Callable[..., pytest.RunResult]


def same() -> str:
    """`GUEST` with all of `SAME`."""
    text = GUEST
    for old, new in SAME.items():
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """pytest in the directory of a new project, where a warning is an error."""
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        monkeypatch.delenv(name)  # a worker's child would take itself for one

    def run(*arguments: str) -> pytest.RunResult:
        without = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
        return pytester.runpytest_subprocess("-W", "error", *without, *arguments)

    return run


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    """A project with one test of one guest, whose snapshot is stored."""
    write(pytester.path, GUEST, "/scratch/run1")
    pytester.makepyfile(test_guest=TEST)
    stored = pytester.path / "__snapshots__" / "test_guest" / "test_guest.xml"
    stored.parent.mkdir(parents=True)
    stored.write_text(STORED)
    return pytester.path


def write(project: Path, guest: str, run: str) -> None:
    (project / "guest.xml").write_text(guest)
    (project / "run").write_text(run)


def snapshots(project: Path) -> dict[str, str]:
    """The stored documents by their names."""
    return {
        str(path.relative_to(project / "__snapshots__")): path.read_text()
        for path in project.rglob("*.xml")
        if "__snapshots__" in path.parts
    }


def test_a_snapshot_is_stored_when_it_is_asked_for(pytester: pytest.Pytester, run: Run) -> None:
    """One file: the document as it was made, but for what is masked, and still valid."""
    write(pytester.path, GUEST, "/scratch/run1")
    pytester.makepyfile(test_guest=TEST)
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *'test_guest' does not exist!", "E *pytest --snapshot-update"])
    assert {} == snapshots(pytester.path)
    result = run("--snapshot-update")
    result.stdout.fnmatch_lines(["1 snapshot generated."])
    assert {"test_guest/test_guest.xml": STORED} == snapshots(pytester.path)
    assert () == validate(Document.parse(STORED))


def test_what_libvirt_reads_the_same_passes(project: Path, run: Run) -> None:
    """Units, order, comments, spellings and what is masked; the file is not even written anew."""
    write(project, same(), "/scratch/run2")
    run("--snapshot-update").stdout.fnmatch_lines(["1 snapshot passed."])
    assert {"test_guest/test_guest.xml": STORED} == snapshots(project)


def test_a_difference_fails_and_shows_its_place(project: Path, run: Run) -> None:
    """As `xmlkit compare` does, each a line and all of them, without a secret."""
    changed = same().replace(">2097152<", ">1048576<").replace("other", "third")
    write(project, changed.replace("'sesame'", "'tahini'"), "/scratch/run2")
    result = run("--tb=short")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E * changed /domain/memory: 2 GiB -> 1048576",
            "E * changed /domain/devices/interface[[]*]/source/@network: other -> third",
            "E * changed /domain/devices/graphics/@passwd: (redacted) -> (changed)",
            "E *pytest --snapshot-update",
        ]
    )
    result.stdout.no_fnmatch_line("*tahini*")
    assert {"test_guest/test_guest.xml": STORED} == snapshots(project)
    run("--snapshot-update").stdout.fnmatch_lines(["1 snapshot updated."])
    assert "third" in snapshots(project)["test_guest/test_guest.xml"]
    run().assert_outcomes(passed=1)


def test_no_secret_is_shown_beside_the_difference(pytester: pytest.Pytester, run: Run) -> None:
    """pytest shows what a failed test was given: not the stored document, nor the one it stores."""
    pytester.makepyfile(
        test_device="""
        def test_device(libvirt_snapshot):
            assert libvirt_snapshot == f"<graphics type='vnc' passwd='{chr(115)}esame'/>"
            assert libvirt_snapshot == f"<graphics type='vnc' passwd='{chr(116)}ahini'/>", "other"
            assert not libvirt_snapshot
        """
    )
    run("--snapshot-update").assert_outcomes(failed=1)
    first = pytester.path / "__snapshots__" / "test_device" / "test_device.xml"
    stored = first.read_text()
    first.write_text(stored.replace("sesame", "halva"))
    for arguments in ((), ("-vv", "--showlocals"), ("--snapshot-update",)):
        result = run(*arguments)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["libvirt_snapshot = <libvirt XML, * bytes>"])
        for secret in ("sesame", "tahini", "halva"):
            result.stdout.no_fnmatch_line(f"*{secret}*")


@pytest.mark.parametrize(
    ("guest", "told"),
    [
        (
            GUEST.replace("memory", "memroy"),
            [
                "no snapshot: domain guest is not valid:",
                "4:3: error: *<memory>* [[]misspelled-element] /domain/memroy",
                "    <memroy unit='GiB'>2</memroy>",
            ],
        ),
        (GUEST.replace("</domain>", ""), ["no snapshot: line *: not well-formed: *"]),
    ],
)
def test_what_is_not_valid_is_never_stored(
    guest: str, told: list[str], project: Path, run: Run
) -> None:
    """Whatever is asked for; what is wrong is told without a traceback."""
    write(project, guest, "/scratch/run1")
    result = run("--snapshot-update")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(told)
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*During handling*")
    assert {"test_guest/test_guest.xml": STORED} == snapshots(project)


def test_a_snapshot_that_nobody_asks_for_is_reported(project: Path, run: Run) -> None:
    """It fails the run, and an update removes it."""
    test = project / "test_guest.py"
    test.write_text(test.read_text().replace("test_guest(", "test_renamed("))
    stored = project / "__snapshots__" / "test_guest" / "test_renamed.xml"
    stored.write_text(STORED)
    result = run()
    result.stdout.fnmatch_lines(["1 snapshot passed. 1 snapshot unused."])
    assert pytest.ExitCode.TESTS_FAILED == result.ret
    run("--snapshot-update").assert_outcomes(passed=1)
    assert ["test_guest/test_renamed.xml"] == list(snapshots(project))


def test_workers_share_the_snapshots(pytester: pytest.Pytester, run: Run) -> None:
    """Under pytest-xdist each test has its own, none is lost, and none is called unused."""
    pytester.makepyfile(
        test_many="""
        import pytest

        DISK = "<disk type='volume'><source pool='p' volume='{}'/><target dev='vda'/></disk>"

        @pytest.mark.parametrize("name", "abcdef")
        def test_disk(name, libvirt_snapshot):
            assert libvirt_snapshot == DISK.format(name)
            assert libvirt_snapshot(name="again") == DISK.format(name * 2)
        """
    )
    expected = {
        f"test_many/test_disk[{name}]{more}.xml" for name in "abcdef" for more in ("", "[again]")
    }
    run("-n2", "--snapshot-update").stdout.fnmatch_lines(["12 snapshots generated."])
    assert expected == snapshots(pytester.path).keys()
    result = run("-n2")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["12 snapshots passed."])


def test_each_snapshot_has_a_file_of_its_own(pytester: pytest.Pytester, run: Run) -> None:
    """Whatever the id: what no name of a file has is written as a URL has it, and what is too long
    is told apart; one that is gone is unused, and the others are not.
    """
    pytester.makepyfile(
        test_ids="""
        import pytest

        IDS = ["a/b", "ab", "a:b", "a%2Fb", "100%", "x" * 300, "x" * 301, "\u00fc" * 90]
        DISK = "<disk type='volume'><source pool='p' volume='{}'/><target dev='vda'/></disk>"

        @pytest.mark.parametrize("number", range(8), ids=IDS)
        def test_disk(number, libvirt_snapshot):
            assert libvirt_snapshot == DISK.format(number)
            assert libvirt_snapshot == DISK.format(number + 100)
            assert libvirt_snapshot(name="a/b") == DISK.format(number + 200)
            assert libvirt_snapshot(name="ab") == DISK.format(number + 300)
        """
    )
    run("--snapshot-update").stdout.fnmatch_lines(["32 snapshots generated."])
    stored = snapshots(pytester.path)
    assert 32 == len(set(stored.values()))
    assert "test_ids/test_disk[a%2Fb].xml" in stored
    assert "test_ids/test_disk[ab][a%2Fb].xml" in stored
    run("-n2").stdout.fnmatch_lines(["32 snapshots passed."])
    run("-k", "xxx", "--snapshot-update").assert_outcomes(passed=2, deselected=6)
    assert stored == snapshots(pytester.path)
    test = pytester.path / "test_ids.py"
    test.write_text(test.read_text().replace('"a/b", "ab", "a:b"', '"c", "ab", "a:b"'))
    run("--snapshot-update").stdout.fnmatch_lines(["*4 unused snapshots deleted."])
    assert 32 == len(snapshots(pytester.path))


def test_a_snapshot_that_is_broken_is_told(project: Path, run: Run) -> None:
    """A merge that went wrong is no traceback, and is mended by an update."""
    (stored,) = project.rglob("test_guest.xml")
    stored.write_text("<<<<<<< HEAD\n" + stored.read_text())
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *the stored snapshot cannot be read: line 1*"])
    run("--snapshot-update").assert_outcomes(passed=1)
    assert "<<<" not in stored.read_text()


def test_an_update_writes_through_no_link(project: Path, run: Run) -> None:
    """A link in a snapshot's place becomes a file; what it led to is another's, and stays."""
    (stored,) = project.rglob("test_guest.xml")
    other = project / "other"
    other.write_text("another's\n")
    stored.unlink()
    stored.symlink_to(other)
    run("--snapshot-update").assert_outcomes(passed=1)
    assert "another's\n" == other.read_text()
    assert not stored.is_symlink()
    assert STORED == stored.read_text()


def test_without_syrupy_the_rest_works(pytester: pytest.Pytester, run: Run) -> None:
    """Who wants no snapshots needs no syrupy; who does is told what to install."""
    pytester.makepyfile(
        test_it=f"""
        GUEST = {GUEST!r}

        def test_checks(assert_valid_domain, assert_same_domain):
            assert_valid_domain(GUEST)
            assert_same_domain(GUEST, GUEST)

        def test_another(assert_same_domain):
            assert_same_domain(GUEST, "<volume/>")

        def test_snapshot(libvirt_snapshot):
            pass
        """
    )
    result = run("-p", "no:syrupy")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["E * AssertionError: <volume> is no domain", "test_it.py:*"])
    result.stdout.no_fnmatch_line("*checks.py*")  # where the test is wrong is told, not where from
    result.stdout.fnmatch_lines(["*pip install syrupy"])


@pytest.mark.parametrize(
    ("conftest", "environment", "arguments", "found"),
    [
        ("", {}, (), True),
        ("pytest_plugins = ['xmlkit.testing']", {}, ("-p", "xmlkit.testing"), True),
        ("", {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, ("-p", "xmlkit.testing"), True),
        ("", {}, ("-p", "no:xmlkit.testing"), False),
    ],
)
def test_the_plugin_is_there_once(
    conftest: str,
    environment: dict[str, str],
    arguments: tuple[str, ...],
    found: bool,
    pytester: pytest.Pytester,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """pytest finds it by itself; to name it as well changes nothing, and it can be turned off."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    pytester.makeconftest(conftest)
    pytester.makepyfile("def test_it(start_libvirtd): pass")
    run(*arguments).assert_outcomes(passed=int(found), errors=int(not found))


def test_a_run_that_does_not_use_it_pays_nothing(pytester: pytest.Pytester, run: Run) -> None:
    """Of xmlkit there is the plugin, with what imports the rest later, and no library of it."""
    pytester.makepyfile(
        """
        import sys

        def test_it():
            found = {name for name in sys.modules if name.partition(".")[0] == "xmlkit"}
            assert {"xmlkit", "xmlkit.lazy", "xmlkit.testing", "xmlkit.testing.plugin"} == found
            assert set() == {"lxml", "libvirt", "click", "rich"} & set(sys.modules)
        """
    )
    run("-p", "no:syrupy").assert_outcomes(passed=1)


@pytest.mark.parametrize("name", ["Libvirtd", "LibvirtXml", "masked"])
def test_a_name_brings_its_own_module_only(name: str) -> None:
    """Who wants a libvirtd needs neither lxml nor syrupy, nor pytest."""
    script = (
        f"import sys; from xmlkit.testing import {name} as found; found\n"
        "print(*sorted({'lxml', 'pytest', 'syrupy', 'libvirt'} & set(sys.modules)))"
    )
    expected = {"Libvirtd": "", "LibvirtXml": "lxml pytest syrupy", "masked": "lxml"}
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True
    )
    assert expected[name] == done.stdout.strip()


# What may come in, and what becomes of it.


class Config:
    """A config object such as Nova's."""

    def format_dom(self) -> etree._Element:
        return etree.fromstring("<disk type='file'><source file='/a'/><target dev='vda'/></disk>")


DISK = """\
<disk type="file">
  <source file="/a"/>
  <target dev="vda"/>
</disk>
"""


@pytest.mark.parametrize(
    "given",
    [
        DISK,
        DISK.encode(),
        DISK.rstrip("\n"),
        Document.parse(DISK),
        etree.fromstring(DISK),
        Config(),
        ElementTree.fromstring(DISK.replace("\n", "").replace("  ", "")),
    ],
    ids=lambda given: type(given).__name__,
)
def test_each_kind_of_xml_is_stored_the_same(given: Any) -> None:
    """Text as it is, but for the end of its last line; a tree with an element a line."""
    assert DISK == LibvirtXml().serialize(given).decode()


def test_a_document_keeps_its_encoding() -> None:
    """As its declaration says, byte for byte."""
    source = "<?xml version='1.0' encoding='UTF-16'?>\n<disk><target dev='é'/></disk>\n".encode(
        "utf-16"
    )

    class Unchecked(LibvirtXml):
        validates = False

    assert source == Unchecked().serialize(source)


def test_what_is_no_xml_is_refused() -> None:
    """In one line, which says what may be given."""
    with pytest.raises(GivenError, match="int is no libvirt XML: give it as str or bytes"):
        document_of(5)  # type: ignore[arg-type]
    with pytest.raises(pytest.fail.Exception, match="no snapshot: int is no libvirt XML"):
        LibvirtXml().serialize(5)
    with pytest.raises(DocumentError):
        document_of("<domain>")


def test_defaults_may_be_ignored() -> None:
    """As --ignore-defaults does it, in a subclass."""

    class Lenient(LibvirtXml):
        ignore_defaults = True

    one, other = (
        LibvirtXml().serialize(text) for text in (GUEST, GUEST.replace(" device='disk'", ""))
    )
    assert not LibvirtXml().matches(serialized_data=one, snapshot_data=other)
    assert Lenient().matches(serialized_data=one, snapshot_data=other)


def test_two_kinds_differ() -> None:
    """A volume is no domain, and that is said."""
    lines = list(LibvirtXml().diff_lines(b"<pool/>", b"<volume/>"))
    assert "volume -> pool: a document of another kind" == lines[0]


# Masks.


@pytest.mark.parametrize("path", GUESTS, ids=lambda path: path.stem)
def test_a_mask_keeps_a_guest_valid_and_changes_nothing_else(path: Path) -> None:
    """Masked twice is masked once, and what is not masked stays byte for byte."""
    document = Document.parse(path.read_bytes())
    matcher = masked(uuids=True, macs=True, paths={"/var/lib/nova": "/srv"})
    once = masked_document(document, matcher)
    assert validate(document) == validate(once)
    assert once.source == masked_document(once, matcher).source
    assert document is masked_document(document, None)
    assert document.source == masked_document(document, masked()).source
    assert "3f2c1c8e-0d4b-4a7e" not in once.text
    assert "/var/lib/nova" not in once.text


@given(st.permutations(range(1, 5)))
def test_masked_interfaces_have_no_order(order: list[int]) -> None:
    """Interfaces are told apart by their MACs; without them, by the rest of what they say."""
    text = (
        "<interface type='network'><mac address='52:54:00:00:01:0{0}'/>"
        "<source network='n{0}'/></interface>"
    )
    guests = [
        Document.parse(f"<domain><devices>{''.join(map(text.format, each))}</devices></domain>")
        for each in (range(1, 5), order)
    ]
    assert () == compare(*(masked_document(each, masked(macs=True)) for each in guests))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/scratch/a", "/srv"),
        ("/scratch/a/b", "/srv/b"),
        ("file=/scratch/a/b,if=none", "file=/srv/b,if=none"),
        ("/scratch/a/deep/b", "/deep/b"),
        ("/scratch/ab", "/scratch/ab"),
        ("/x/z", "/y/z"),
        ("/mnt/scratch/a", "/mnt/scratch/a"),
        ("0001e71b-f4f2-4f5b-9d2c-3cb4d2f4c8dc_disk", f"{MASKED_UUID}_disk"),
        ("a0001e71b-f4f2-4f5b-9d2c-3cb4d2f4c8dc", "a0001e71b-f4f2-4f5b-9d2c-3cb4d2f4c8dc"),
        ("FA:16:3E:0a:0b:0c", MASKED_MAC),
        ("50:06:01:60:3b:20:11:22", "50:06:01:60:3b:20:11:22"),
    ],
)
def test_what_is_masked(text: str, expected: str) -> None:
    """A directory and what is in it, but no other that begins so; whole UUIDs and MACs."""
    paths: dict[str | os.PathLike[str], str] = {
        "/scratch/a": "/srv",
        Path("/scratch/a/deep"): "/deep",
        "/x/": "/y",
    }
    assert expected == masked(uuids=True, macs=True, paths=paths)(data=text)


def test_a_matcher_is_told_where_a_value_stands() -> None:
    """The names from the root on, for syrupy's own matchers; text after a child, too."""
    document = Document.parse("<domain id='1'><metadata><a>x<b/>y</a></metadata></domain>")
    seen = []

    def matcher(*, data: str, path: tuple[tuple[str, type], ...]) -> str:
        seen.append((".".join(name for name, _ in path), data))
        return data

    assert document.source == masked_document(document, matcher).source
    assert [("domain.@id", "1"), ("domain.metadata.a", "x"), ("domain.metadata.a", "y")] == seen
    other = path_type({"domain.@id": (str,)}, replacer=lambda *_: "2")
    assert "<domain id='2'>" in masked_document(document, other).text


# Checks.


def test_an_invalid_domain_is_told_with_all_that_is_wrong() -> None:
    """What and where, without a secret."""
    assert_valid_domain(GUEST)
    wrong = GUEST.replace("memory", "memroy").replace("passwd='sesame'", "passwrd='sesame'")
    with pytest.raises(AssertionError, match=r"^domain guest is not valid:\n") as raised:
        assert_valid_domain(wrong)
    assert "\n4:3: error: " in str(raised.value)
    assert "passwrd" in str(raised.value)
    assert "sesame" not in str(raised.value)
    with pytest.raises(AssertionError, match="<volume> is no domain"):
        assert_valid_domain("<volume/>")
    with pytest.raises(AssertionError, match="profile-volume-disk"):
        assert_valid_domain(
            (ROOT / "fixtures" / "volume-disk.xml").read_bytes(), profile="no-volume-disks"
        )


def test_two_domains_are_the_same_or_it_is_told_what_differs() -> None:
    """In the order expected, actual; masked on both sides."""
    matcher = masked(
        uuids=True, macs=True, paths={"/scratch/run1": "/srv", "/scratch/run2": "/srv"}
    )
    assert_same_domain(GUEST, same(), matcher=matcher)
    with pytest.raises(AssertionError, match=r"^domain guest is not as expected:\n"):
        assert_same_domain(GUEST, same())
    with pytest.raises(AssertionError, match="changed /domain/memory: 2 GiB -> 3 GiB"):
        assert_same_domain(GUEST, GUEST.replace(">2<", ">3<"))
    assert_same_domain(GUEST, GUEST.replace(" device='disk'", ""), ignore_defaults=True)


# The page.


def test_the_page_is_true(pytester: pytest.Pytester, run: Run) -> None:
    """docs/testing.md, carried out from top to bottom in an empty project."""
    guest = (ROOT / "fixtures" / "nova" / "qcow2-file.xml").read_text()
    (pytester.path / "qcow2-file.xml").write_text(guest)
    blocks = re.findall(r"^```(python|console)\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert ["python", "console"] == sorted({kind for kind, _ in blocks}, reverse=True)
    for kind, text in blocks:
        if kind == "python":
            name = text.removeprefix("# ").partition("\n")[0]
            (pytester.path / name).write_text(text)
        for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.M):
            if command.startswith("sed "):
                before = (pytester.path / "qcow2-file.xml").read_text()
                subprocess.run(command, shell=True, check=True, cwd=pytester.path)  # noqa: S602
                assert before != (pytester.path / "qcow2-file.xml").read_text()
            else:
                found = run(*command.split()[1:], "-k", "one_disk").outlines
                assert [] == [line for line in expected.splitlines() if line not in found]
    (pytester.path / "qcow2-file.xml").write_text(guest)
    run("--snapshot-update").assert_outcomes(passed=5)
    run().assert_outcomes(passed=5)
