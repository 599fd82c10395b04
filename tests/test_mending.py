"""Repairs that are made unasked: only those that leave no choice, and nothing else changes."""

from __future__ import annotations

import difflib
import re
import string
from typing import Any

import pytest

from xmlkit.document import Document
from xmlkit.validation import mending
from xmlkit.validation.findings import Edit, Finding, Fix, apply_fix
from xmlkit.validation.mending import Mended, mended, unified
from xmlkit.validation.verdict import validate

# Written in no tidy way: all of it has to stay.
GUEST = (
    "<?xml version='1.0' encoding='UTF-8'?>\r\n<!-- a guest -->\r\n"
    '<domain  type="kvm" ><name>g</name ><memory>64</memory><os><type>hvm</type></os>\r\n'
    "\t<devices><!-- x > y -->\r\n{}\r\n</devices>\r\n</domain>\r\n"
)
DISK = "<disk type='file'><source file='/a'/><target dev='{}'/></disk>"


def repaired(devices: str) -> tuple[Document, Mended]:
    """A domain with some devices, and what becomes of it."""
    document = Document.parse(GUEST.format(devices))
    found = validate(document)
    assert found
    return document, mended(document, found)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("<emulatr>/x</emulatr>", "<emulator>/x</emulator>"),
        (
            "<disk type='file'><driver  name='qemu' cahce=\"none\" /><target dev='vda'/></disk>",
            "<disk type='file'><driver  name='qemu' cache=\"none\" /><target dev='vda'/></disk>",
        ),
        (
            "<disk type='file'><driver name='qemu' cache='nnone'/><target dev='vda'/></disk>",
            "<disk type='file'><driver name='qemu' cache='none'/><target dev='vda'/></disk>",
        ),
        (
            "<disk type='file'><driver name='qemu' bus='virtio'/><target dev='vda'/></disk>",
            "<disk type='file'><driver name='qemu'/><target dev='vda' bus='virtio'/></disk>",
        ),
        (
            "<disk type='file'><target dev='vda'><bus>virtio</bus></target></disk>",
            "<disk type='file'><target dev='vda' bus='virtio'></target></disk>",
        ),
        (
            "<interface type='user'/><mac address='52:54:00:00:00:01'/>",
            "<interface type='user'><mac address='52:54:00:00:00:01'/></interface>",
        ),
        (
            "<disk type='file' xmlns='urn:x'><target dev='vda'/></disk>",
            "<disk type='file'><target dev='vda'/></disk>",
        ),
        (
            "<disk><source dev='/dev/x'/><target dev='vda'/></disk>",
            "<disk type=\"block\"><source dev='/dev/x'/><target dev='vda'/></disk>",
        ),
    ],
)
def test_what_leaves_no_choice_is_repaired(wrong: str, right: str) -> None:
    """And not one byte besides."""
    _, mend = repaired(wrong)

    assert () == mend.findings
    assert () == validate(mend.document)
    assert 1 == len(mend.edits)
    assert GUEST.format(right) == mend.document.text


@pytest.mark.parametrize(
    "wrong",
    [
        # several values would do, none is near
        "<disk type='file'><driver name='qemu' cache='xyz'/><target dev='vda'/></disk>",
        "<graphics/>",
        # two are as near
        "<graphics type='vnc' autoport='of'/>",
        # the format of an image
        "<disk type='file'><driver name='qemu' type='qcow22'/><target dev='vda'/></disk>",
        "<disk type='file'><driver name='qemu' type='ra'/><target dev='vda'/></disk>",
        # which of both is meant
        "<disk type='file'><target dev='vda'/><target dev='vdb'/></disk>",
        # what only the author knows
        "<disk type='volume'><source pool='p'/><target dev='vda'/></disk>",
        "<disk type='file'>hello<target dev='vda'/></disk>",
        "<disk type='file'><target/></disk>",
        # what is unknown to this libvirt may be known to a newer one, or mean something
        "<disk type='file' colour='red'><target dev='vda'/></disk>",
        "<disk type='file'><source path='/a'/><target dev='vda'/></disk>",
        "<drive type='file'><source file='/a'/><target dev='vda'/></drive>",
        # a comment would go
        "<disk type='file'><target dev='vda'><bus>virtio<!-- x --></bus></target></disk>",
        # which of both disks is meant
        f"{DISK.format('vda')}{DISK.format('vdb')}<readonly/>",
        # what else could have it
        f"{DISK.format('vda')}<boot order='1'/>",
        "<interface type='user'/><model type='virtio'/>",
        "<acpi/>",
        # whether type or source is wrong
        "<disk type='file'><source dev='/a'/><target dev='vda'/></disk>",
        "<disk type='block'><source file='/a'/><target dev='vda'/></disk>",
        # whose attribute a text was meant to be
        "<graphics type='vnc'>somewhere</graphics>",
    ],
)
def test_what_leaves_a_choice_is_left_alone(wrong: str) -> None:
    """The document is the very same."""
    document, mend = repaired(wrong)

    assert ((), document) == (mend.edits, mend.document)
    assert validate(document) == mend.findings


def test_of_several_faults_each_is_repaired_that_can_be() -> None:
    """What is left is found in the repaired document, where it stands now."""
    _, mend = repaired(
        "<emulatr>/x</emulatr>\n<disk type='file'><driver name='qemu' tpye='qcow2' cache='nnone'/>"
        "<target dev='vda' bsu='virtio'/></disk>\n<graphics type='vnc' port='abc'/>"
    )

    assert 4 == len(mend.edits)
    assert [("bad-value", "/domain/devices/graphics/@port")] == [
        (each.id, each.xpath) for each in mend.findings
    ]
    assert validate(mend.document) == mend.findings
    for right in ("<emulator>/x</emulator>", "type='qcow2' cache='none'", "bus='virtio'"):
        assert right in mend.document.text


def test_many_faults_are_judged_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each: what it costs does not grow with the square of their number."""
    judged = []

    def counted(*arguments: Any, **options: Any) -> Any:
        judged.append(arguments)
        return validate(*arguments, **options)

    monkeypatch.setattr(mending, "validate", counted)
    wrong = "<disk type='file'><driver name='qemu' cahce='none'/><target dev='vd{}' {}/></disk>"
    names = [a + b for a in string.ascii_lowercase for b in "abcdefgh"]
    devices = "\n".join(wrong.format(name, "bsu='virtio'") for name in names)
    document, mend = repaired(devices)

    assert 26 * 8 * 2 == len(mend.edits)
    assert () == mend.findings == validate(mend.document)
    assert GUEST.format(devices.replace("cahce", "cache").replace("bsu", "bus")) == (
        mend.document.text
    )
    assert len(judged) <= 10
    # each is about the document after those before it
    for edit in mend.edits:
        document = apply_fix(document, edit)
    assert mend.document.text == document.text


def test_of_repairs_that_do_not_go_together_some_are_made() -> None:
    """Both would give one attribute its name twice."""
    _, mend = repaired(
        "<emulatr>/x</emulatr><disk type='file'><target dve='vda' ddev='vdb' bsu='virtio'/></disk>"
    )

    assert "<emulator>" in mend.document.text
    assert "bus='virtio'" in mend.document.text
    assert 1 == len(mend.findings)


def test_what_is_not_verified_is_never_done() -> None:
    """Whatever a finding proposes; nor is what is said to be verified and mends nothing."""
    document, _ = repaired("<emulatr>/x</emulatr>")
    (true,) = validate(document)
    rename = Edit("rename", "/domain/devices/emulatr", name="emulator")
    useless = Edit("rename", "/domain/devices/emulatr", name="emulatro")
    nowhere = Edit("rename", "/domain/nothing", name="emulator")
    broken = Edit("rename", "/domain/devices/emulatr", name="a b")
    for fix in (Fix(rename, False), Fix(useless, True), Fix(nowhere, True), Fix(broken, True)):
        finding = Finding(
            true.id, "error", "x", 1, 1, true.xpath, ("emulator",), name="emulatr", fixes=(fix,)
        )
        assert document is mended(document, (finding,)).document


def test_the_difference_shows_no_secret() -> None:
    """Not even one whose name was misspelled until now."""
    document, mend = repaired("<graphics type='vnc' paswd='hunter2' prot='5900'/>")
    shown = unified("a.xml", document, mend.document)

    assert "hunter2" in mend.document.text
    assert "hunter2" not in shown
    assert "-<graphics type='vnc' paswd='(redacted)' prot='5900'/>" in shown
    assert "+<graphics type='vnc' passwd='(redacted)' port='5900'/>" in shown


def test_the_difference_is_that_of_the_files() -> None:
    """In unified format, line ends and all, also where the last line has none."""
    document, mend = repaired("<emulatr>/x</emulatr>")
    before, after = (re.findall(".*\n", each.text) for each in (document, mend.document))
    expected = difflib.unified_diff(before, after, "a (before)", "a (after)")

    assert "".join(expected) == unified("a", document, mend.document)
    short = Document.parse("<a>\n<b/></a>"), Document.parse("<a>\n<c/></a>")
    assert unified("a", *short).endswith(
        "-<b/></a>\n\\ No newline at end of file\n+<c/></a>\n\\ No newline at end of file\n"
    )


def test_a_secret_that_moves_is_hidden_where_it_goes() -> None:
    """The difference does not show it, though it is none by its new place."""
    before = Document.parse("<auth>hunter2</auth>\n")
    after = Document.parse("<auth type='hunter2'/>\n")

    assert "hunter2" not in unified("a", before, after)
    assert "+<auth type='(redacted)'/>" in unified("a", before, after)


def test_what_is_a_secret_once_repaired_is_hidden_before() -> None:
    """By its old place it may be none."""
    before = Document.parse("<x type='hunter2'/>\n")
    after = Document.parse("<graphics passwd='hunter2'/>\n")

    assert "hunter2" not in unified("a", before, after)
    assert "-<x type='(redacted)'/>" in unified("a", before, after)
