"""Colours: on a terminal, unless somebody wants none."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Protocol, TextIO

import click

__all__ = ["Paint", "color_option", "drawable", "painter"]


class Paint(Protocol):
    """Colours a text, or not."""

    def __call__(self, text: str, *, fg: str | None = None, bold: bool | None = None) -> str: ...


def painter(color: str, *, by_git: bool = False) -> Paint:
    """What colours if `color` (auto, always, never) and the terminal say so.

    by_git: git has called, and its settings decide in the terminal's place.
    """
    on = color == "always" or (
        color == "auto"
        and not os.environ.get("NO_COLOR")
        and (_git_wants() if by_git else drawable(sys.stdout))
    )

    def paint(text: str, *, fg: str | None = None, bold: bool | None = None) -> str:
        return click.style(text, fg=fg, bold=bold) if on and (fg or bold) else text

    return paint


def color_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option --color."""
    return click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help="auto: on a terminal, unless NO_COLOR is set.",
    )(function)


def drawable(stream: TextIO) -> bool:
    """Whether a bar or a table can be drawn there: on a terminal that is not dumb."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _git_wants() -> bool:
    """What git says of colour: its `color.diff` and `color.ui`, and whether its pager is there."""
    import subprocess

    words = ("config", "--get-colorbool", "color.diff", "true" if sys.stdout.isatty() else "false")
    try:
        done = subprocess.run(
            ("git", *words), stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        # called by hand, where no git is
        return drawable(sys.stdout)
    return done.stdout.strip() == b"true"
