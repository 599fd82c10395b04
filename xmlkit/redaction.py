"""What is secret in libvirt's documents, and how it is kept out of everything that is shown.

Laws
- Secret: passwords (graphics, auth), cookies, credentials, and secrets on a QEMU command line.
- A redacted value shows that it was there, never its length nor a hash; in a comparison the new
  value shows as (changed) if it differs.
- Documents that go to libvirt or to a file are never redacted, everything that is shown is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from xmlkit.markup import ATTRIBUTE, MARKUP, name_of

__all__ = ["redact", "redact_pair"]

HIDDEN = "(redacted)"
CHANGED = "(changed)"

# An ASCII text without any of them has no secret, which is the usual case. In others a pattern that
# ignores case also takes letters such as the long s for these.
_HINTS = (
    *("pass", "pwd", "cookie", "secret", "token", "credential", "key", "auth", "query", "@"),
    *("sig", "data="),
)
_ATTRIBUTES = frozenset(("passwd", "password", "query"))
_ELEMENTS = frozenset(("cookie", "passwd", "password", "passphrase"))
# What makes an argument or a variable of a guest's command line a secret, as a whole: values may
# be quoted, escaped or JSON, so that no part of them is sure to be harmless.
_SECRET = re.compile(
    r"pass(?!thr)|pwd|secret|token|credential|signature|\bsig=|\bkey\b|[-_]key\b|apikey|\bdata="
    r"|://[^/\s:%@]*[:%][^/\s@]*@",
    re.IGNORECASE,
)
# Where a URL's parts stand by themselves: user and password, or parameters that sign it.
_IN_URL = re.compile(
    r":[^/@]*@|[?&][^=]*(?:sig|token|key|pass|secret|credential)[^=]*=", re.IGNORECASE
)
# Elements of a command line that say it in an attribute, under a name that may be another one.
_VALUES = frozenset(("arg", "env", "property"))
# Elements that are command lines: their text is hidden if it speaks of a secret.
_COMMAND_LINES = frozenset(("initarg", "cmdline"))


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
    if text.isascii():
        lowered = text.lower()
        if not any(hint in lowered for hint in _HINTS):
            return
    hidden = ""  # the element whose text is a secret, and where that text began
    began = 0
    for match in MARKUP.finditer(text):
        tag = match.group()
        if hidden:
            if tag.startswith(f"</{hidden}") and name_of("<" + tag[2:]).rstrip(">") == hidden:
                plain = hidden.rpartition(":")[2] in _COMMAND_LINES
                if not plain or _SECRET.search(text, began, match.start()):
                    yield began, match.start()
                hidden = ""
        elif tag.startswith(("<!--", "<?")):
            # what is commented out was somebody's secret all the same
            if _SECRET.search(tag) or "cookie" in tag:
                start = match.start() + (4 if tag[1] == "!" else len(name_of(tag)) + 1)
                yield start, match.end() - (3 if tag[1] == "!" else 2)
        elif tag[1] not in "/!?":
            written = name_of(tag).rstrip("/>")
            attributes = {
                each.group(2): (each.start(4) + 1, each.end(4) - 1)
                for each in ATTRIBUTE.finditer(text, *match.span())
            }
            yield from _in_attributes(text, written, attributes)
            if tag[-2] != "/" and _is_secret_element(text, written, attributes):
                hidden, began = written, match.end()


def _in_attributes(
    text: str, written: str, attributes: Mapping[str, tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    name = written.rpartition(":")[2]
    variable = text[slice(*attributes.get("name", (0, 0)))]
    for attribute, (start, end) in attributes.items():
        said = f"{variable}={text[start:end]}"
        if (
            attribute in _ATTRIBUTES
            or (name == "auth" and attribute == "username")
            or (name in ("host", "source") and attribute == "name" and _IN_URL.search(said))
            or (
                name in ("arg", "env", "property") and attribute == "value" and _SECRET.search(said)
            )
        ):
            yield start, end


def _is_secret_element(text: str, written: str, attributes: Mapping[str, tuple[int, int]]) -> bool:
    name = written.rpartition(":")[2]
    variable = text[slice(*attributes.get("name", (0, 0)))]
    return (
        name in _ELEMENTS
        or name in _COMMAND_LINES
        or (name == "initenv" and _SECRET.search(variable) is not None)
    )
