"""Commands as data, and the shell script that an operator can read and run.

Laws
- What is printed works as it is printed: each word is quoted, a document stands in it as it is.
- A command that fails ends the script, after what it left half was removed.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import NamedTuple

from xmlkit.document import Document

__all__ = ["Command", "script"]


class Command(NamedTuple):
    """One command. document: what it reads from /dev/stdin; undo: what to run if it fails."""

    words: tuple[str, ...]
    document: Document | None = None
    undo: tuple[str, ...] = ()

    def __str__(self) -> str:
        return shlex.join(self.words)


def script(commands: Iterable[Command]) -> str:
    """A POSIX shell script of the commands; virsh takes its URI from $LIBVIRT_DEFAULT_URI."""
    lines = ["#!/bin/sh", "set -e"]
    for command in commands:
        line = str(command)
        if command.undo:
            line += f" || {{ {shlex.join(command.undo)}; exit 1; }}"
        if command.document is None:
            lines.append(line)
            continue
        text = command.document.text
        end = "EOF"
        while f"\n{end}\n" in f"\n{text}\n":
            end += "F"
        lines += [f"{line} <<'{end}'", text.rstrip("\n"), end]
    return "\n".join(lines) + "\n"
