"""What is secret in libvirt's documents, and how it is kept out of everything that is shown.

Laws
- Secret: passwords (graphics, auth), cookies, credentials, and secrets on a QEMU command line.
- A redacted value shows that it was there, never its length nor a hash; in a comparison the new
  value shows as (changed) if it differs.
- Documents that go to libvirt or to a file are never redacted, everything that is shown is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from xmlkit.markup import ATTRIBUTE, MARKUP

__all__ = ["redact", "redact_pair"]

HIDDEN = "(redacted)"
CHANGED = "(changed)"

# Enough to see that a text has none, which is the usual case.
_HINT = re.compile(r"passw|<auth\b|cookie|secret|token|credential|\bkey\b", re.IGNORECASE)

_ATTRIBUTES = frozenset(("passwd", "password"))
_ELEMENTS = frozenset(("cookie", "passwd", "password", "passphrase"))
_SECRET_NAME = re.compile(r"passw|secret|token|credential|key", re.IGNORECASE)
# in an argument such as secret,id=sec0,data=... or vnc=:1,password=...
_IN_ARGUMENT = re.compile(
    r"(?:^|[,.\s?&])(?:[\w.-]*(?:passw(?:or)?d|secret|token|credential)|data|key)=([^,\s&]*)",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """The XML text of a document without its secrets."""
    return _replaced(text, None)


def redact_pair(before: str, after: str) -> tuple[str, str]:
    """Two states of a document without their secrets; what differs shows as changed in `after`."""
    old = [before[start:end] for start, end in _secrets(before)]
    return _replaced(before, None), _replaced(after, old)


def _replaced(text: str, old: list[str] | None) -> str:
    pieces: list[str] = []
    at = 0
    for number, (start, end) in enumerate(_secrets(text)):
        same = old is None or (number < len(old) and old[number] == text[start:end])
        # the lines of a text stay the lines that they are
        shown = (HIDDEN if same else CHANGED) + "\n" * text.count("\n", start, end)
        pieces += text[at:start], shown
        at = end
    pieces.append(text[at:])
    return "".join(pieces)


def _secrets(text: str) -> Iterator[tuple[int, int]]:
    """Where the secrets stand, in their order."""
    if not _HINT.search(text):
        return
    for match in MARKUP.finditer(text):
        tag = match.group()
        if tag[1] in "/!?":
            continue
        prefix, _, name = tag[1:].rstrip("/>").split(None, 1)[0].rpartition(":")
        attributes = {
            each.group(2): each.span(4) for each in ATTRIBUTE.finditer(text, *match.span())
        }
        for attribute, (start, end) in attributes.items():
            start, end = start + 1, end - 1
            if attribute in _ATTRIBUTES or (name == "auth" and attribute == "username"):
                yield start, end
            elif attribute == "value" and prefix and name == "arg":
                for found in _IN_ARGUMENT.finditer(text, start, end):
                    yield found.span(1)
            elif attribute == "value" and prefix and name == "env":
                variable = text[slice(*attributes.get("name", (0, 0)))]
                if _SECRET_NAME.search(variable):
                    yield start, end
        if name in _ELEMENTS and tag[-2] != "/":
            yield match.end(), text.index(f"</{tag[1:].rstrip('>').split(None, 1)[0]}", match.end())
