"""A table loses nothing, whatever the width of the terminal and the letters in it."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from xmlkit.cli import table as module
from xmlkit.cli.table import table

HEAD = ("NAME", "KIND", "SIZE", "WHY")
SHA1 = "da39a3ee5e6b4b0d3255bfef95601890afd80709"
ROWS = [
    (SHA1, "original", "4 KiB", "cache-used: instance-00000001 vda and 12 others stand on it"),
    ("日本語", "foreign", "12 GiB", "its name is none that Nova gives"),
]
WORDS = st.text(st.sampled_from("ab é日本語"), min_size=1, max_size=60).map(str.strip)


def drawn(width: int | None, rows: Sequence[tuple[str, ...]], **options: int) -> list[str]:
    """The lines on a terminal of a width, or in a pipe."""
    out = io.StringIO()
    with (
        mock.patch.object(module, "drawable", return_value=width is not None),
        mock.patch.dict(os.environ, {"COLUMNS": str(width or 1)}),
        contextlib.redirect_stdout(out),
    ):
        table(HEAD, rows, text=True, **options)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [100, 120, 200])
def test_names_stay_whole_where_there_is_room(width: int) -> None:
    """Words are wrapped within their column, a name is to be copied."""
    lines = drawn(width, ROWS, name=46)

    assert max(map(cell_len, lines)) <= width
    assert 1 == sum(line.startswith(SHA1) for line in lines)
    words = " ".join(line[60:] for line in lines).split()
    assert "instance-00000001 vda and 12 others stand on it" in " ".join(words)


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_gets_paragraphs(width: int) -> None:
    """A name, what is known of it, and why, each whole."""
    assert [
        SHA1,
        "  kind original, size 4 KiB",
        f"  {ROWS[0][-1]}",
        "日本語",
        "  kind foreign, size 12 GiB",
        f"  {ROWS[1][-1]}",
    ] == drawn(width, ROWS, name=46)


def test_a_pipe_gets_a_line_a_row() -> None:
    """In columns that are straight where a letter takes two places, and nothing is wrapped."""
    lines = drawn(None, ROWS)

    assert len(ROWS) + 1 == len(lines)
    kinds = ("KIND", "original", "foreign")
    assert {42} == {
        cell_len(line[: line.index(kind)]) for line, kind in zip(lines, kinds, strict=True)
    }
    assert [why for *_, why in ROWS] == [line.split("  ")[-1].strip() for line in lines[1:]]


def rows() -> st.SearchStrategy[list[tuple[str, ...]]]:
    short = st.text(st.sampled_from("ab日"), min_size=1, max_size=9)
    return st.lists(st.tuples(WORDS.filter(bool), short, short, WORDS.filter(bool)), max_size=4)


@given(rows(), st.none() | st.integers(20, 150))
def test_no_letter_is_lost(given_rows: list[tuple[str, ...]], width: int | None) -> None:
    """Whatever is wrapped: each letter of each cell is on the screen, as often as it was said."""
    text = "".join(drawn(width, given_rows))
    said = "".join("".join(row) for row in given_rows)

    for letter in "é日本語":
        assert said.count(letter) == text.count(letter)
