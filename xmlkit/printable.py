"""Text that may be anybody's, as it may be shown.

Laws
- What a terminal would obey, or what would turn the direction of writing, is escaped; all else
  stays as it is.
"""

from __future__ import annotations

import re

__all__ = ["in_line", "printable"]

# What a terminal would obey: C0 and C1 controls, marks that turn the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with what a terminal would obey escaped; names in documents may be anybody's."""
    return _CONTROL.sub(lambda match: ascii(match.group())[1:-1], text)


def in_line(text: str) -> str:
    """The same in one line: a name may have a line break."""
    return printable(text).replace("\n", "\\n")
