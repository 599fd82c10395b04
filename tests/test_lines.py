"""What is told of disks and why: it fits a terminal, and what is to be copied stays whole."""

from __future__ import annotations

import io
import os
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmlkit.cli.lines import disk_lines, wrapped
from xmlkit.cli.paint import painter
from xmlkit.document import Document
from xmlkit.host import Host, Pool
from xmlkit.plan import plan

FIXTURES = Path(__file__).parents[1] / "fixtures"
PLAIN = painter("never")
HOST = Host(pools=(Pool("nova-disks-pool", "dir", "/var/lib/nova/instances/disks"),))


class Terminal(io.StringIO):
    """A stream that says that it is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def eighty() -> object:
    """A terminal of 80 columns."""
    with mock.patch.dict(os.environ, {"COLUMNS": "80", "TERM": "xterm"}) as patched:
        yield patched


@pytest.mark.parametrize(
    "name", ["qcow2-file", "qcow2-ephemeral-swap", "qcow2-configdrive-cdrom", "lvm-ephemeral-swap"]
)
def test_novas_disks_fit_eighty_columns(name: str) -> None:
    """Whatever becomes of them: UUIDs are long, and nothing of them is broken."""
    document = Document.parse((FIXTURES / f"nova/{name}.xml").read_bytes())
    decided = plan(document, HOST, relocate={None: "nova-disks-pool"})
    lines = [line for disk in decided.disks for line in disk_lines(disk, PLAIN, Terminal())]

    assert [] == [line for line in lines if len(line) > 80]
    for disk in decided.transitions:
        assert f"       {disk.before}" in lines
        assert f"    -> {disk.after}" in lines


def test_words_are_wrapped_on_a_terminal_alone() -> None:
    """What follows is indented further; in a pipe and in a file a line stays a line."""
    path = "/" + "x" * 90
    line = "  refuse: outside-pools: vda: " + "word " * 12 + path

    assert [
        "  refuse: outside-pools: vda: word word word word word word word word word word",
        "    word word",
        f"    {path}",
    ] == wrapped(line, Terminal())
    assert [line] == wrapped(line, io.StringIO()) == wrapped(line, None)


@given(st.text(st.sampled_from("ab -/é"), max_size=300).map(str.strip).filter(bool))
def test_wrapping_loses_no_word(text: str) -> None:
    """Each word is there as a whole, in its order."""
    assert text.split() == " ".join(wrapped(text, Terminal())).split()
