"""A table, for a terminal of any width and for other programs."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence

import click

from xmlkit.cli.paint import drawable
from xmlkit.printable import in_line

__all__ = ["table"]

Rows = Sequence[Sequence[str]]

_READABLE = 24  # and for a column of words, at least


def table(head: Sequence[str], rows: Rows, *, text: bool = False, name: int = 36) -> None:
    """Columns: by rich on a terminal, plain ones elsewhere, that can be cut.

    text: the last column is words, which may be wrapped; a path is to be copied as a whole. Where
    the terminal is too narrow, each row is a paragraph.
    name: columns of a terminal for the first column; 36 has a UUID.
    """
    clean = [[in_line(cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(head, *clean, strict=True)]
    if not drawable(sys.stdout):
        for line in (list(head), *clean):
            padded = (c + " " * (w - _width(c)) for c, w in zip(line, widths, strict=True))
            click.echo("  ".join(padded).rstrip())
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    first = min(widths[0], name)
    # what the others and the gaps leave
    left = console.width - first - sum(widths[1:-1]) - 3 * (len(head) - 1)
    if left >= (min(widths[-1], _READABLE) if text else widths[-1]):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        table.add_column(head[0], overflow="fold", width=first)
        for title in head[1:-1]:
            table.add_column(title, no_wrap=True)
        table.add_column(head[-1], overflow="fold", max_width=left)
        for row in clean:
            table.add_row(*map(Text, row))
        console.print(table)
        return
    for title, *facts, end in clean:
        if title:
            click.secho(title, bold=True)
        if title and facts:
            known = zip(head[1:-1], facts, strict=True)
            click.echo(f"  {', '.join(f'{what.lower()} {fact}' for what, fact in known)}")
        if end != "-":
            click.echo(f"  {end}")


def _width(text: str) -> int:
    """Of a text on a terminal: some letters take two places, and marks above them none."""
    return sum(
        2 if unicodedata.east_asian_width(letter) in "WF" else not unicodedata.combining(letter)
        for letter in text
    )
