"""What is told of a domain's disks, in lines that a terminal of 80 columns can show.

Laws
- A path or a name is never broken or cut: it is to be copied. Words are wrapped, on a terminal.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from xmlkit.cli.paint import Paint, drawable
from xmlkit.printable import in_line

if TYPE_CHECKING:  # a help text needs none of them
    from xmlkit.plan import Skip, Transition

__all__ = ["disk_lines", "wrapped"]

_NARROW = 40


def disk_lines(disk: Transition | Skip, paint: Paint, terminal: TextIO | None) -> Iterator[str]:
    """What happens to a disk, where its image is and will be, and why if there is a reason."""
    from xmlkit.plan import Skip

    target, format_ = in_line(disk.target) or "?", in_line(disk.format)
    if isinstance(disk, Skip) or not disk.changes:
        address = disk.address if isinstance(disk, Skip) else disk.before
        yield f"  {target}  {paint('stays', fg='yellow')}, {address.type}, {format_}"
        if str(address) != "-":  # a network disk's
            yield f"       {in_line(str(address))}"
    else:
        types = f"{disk.before.type} to {disk.after.type}"
        unverified = "" if disk.verified else paint(", not verified", fg="yellow")
        yield f"  {target}  {paint(disk.action, fg='green')}, {types}, {format_}{unverified}"
        yield f"       {in_line(str(disk.before))}"
        yield f"    -> {in_line(str(disk.after))}"
    if disk.reason is not None:
        said = f"{paint(disk.reason.id, bold=True)}: {in_line(disk.reason.message)}"
        yield from wrapped(f"       {said}", terminal)


def wrapped(line: str, terminal: TextIO | None) -> list[str]:
    """A line of words, broken between words where it goes to a terminal; else as it is.

    terminal: where it goes, None for a file. What follows the first line is indented further.
    """
    if terminal is None or not drawable(terminal):
        return [line]
    indent = len(line) - len(line.lstrip())
    return textwrap.wrap(
        line,
        max(shutil.get_terminal_size().columns, _NARROW),
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
    )
