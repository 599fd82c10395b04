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


def painter(color: str, *, paged: bool = False) -> Paint:
    """What colours if `color` (auto, always, never) and the terminal say so.

    paged: also where git has put its pager between, which it says by GIT_PAGER_IN_USE.
    """
    on = color == "always" or (
        color == "auto"
        and (sys.stdout.isatty() or (paged and bool(os.environ.get("GIT_PAGER_IN_USE"))))
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
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
