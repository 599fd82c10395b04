"""What is secret in libvirt's documents, and how it is kept out of everything that is shown.

Laws
- Secret: passwords (graphics, auth), cookies, credentials, and secrets on a QEMU command line.
- A redacted value shows that it was there, never its length nor a hash; in a comparison the new
  value shows as (changed) if it differs.
- Documents that go to libvirt or to a file are never redacted, everything that is shown is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from xmlkit.markup import ATTRIBUTE, MARKUP, name_of

__all__ = ["HIDDEN", "may_have_secrets", "redact", "redact_pair", "secrets"]

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
# Elements with secrets around that have no text of their own: who writes one there may mean one.
_WITHOUT_TEXT = frozenset(("auth", "graphics", "secret"))
_WORD = re.compile(r"[\w-]+")
# Those of their names that are long enough to be known with a mistake in them.
_MISSPELLABLE = ("passwd", "password", "passphrase", "cookie", "cookies")
# Attributes that hold a secret in some elements, or say what another one holds, and how many
# letters of each may be wrong.
_SLIPS = (("query", 2), ("username", 2), ("value", 1), ("name", 1))
# What others call a secret: names that libvirt does not have, bar an attribute of the time.
_CALLED = re.compile(r"pass(?!thr|wdvalid)|pwd|token|credential", re.IGNORECASE)
# All that a document <secret> holds; what it is worth is told to libvirt otherwise.
_OF_SECRET = frozenset(("secret", "description", "uuid", "usage", "volume", "name", "target"))
_UUID = re.compile(r"[0-9A-Fa-f-]{32,36}")
# One with a slip in it.
_NEARLY_UUID = re.compile(r"[0-9A-Fa-f-]{30,40}|\w{7,9}(?:-\w{3,5}){3}-\w{11,13}")
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
    return _replaced(text, None, _secrets(text))


def redact_pair(before: str, after: str, *, invalid: bool = False) -> tuple[str, str]:
    """Two states of a document without their secrets; what differs shows as changed in `after`.

    invalid: the document need not be valid; see `secrets`.
    """
    find = secrets if invalid else _secrets
    old = [before[start:end] for start, end in find(before)]
    return _replaced(before, None, find(before)), _replaced(after, old, find(after))


def secrets(text: str) -> tuple[tuple[int, int], ...]:
    """Where in the XML text of a document its secrets stand: start and end, in their order.

    The document need not be valid: what is nearly a secret's name counts, too, since a misspelled
    password is one all the same, and so does a text in <auth>, <secret> or <graphics>, which can
    have none, what stands in the place of a secret's UUID, and a query, an argument of a command
    line or a user's name by nearly these names.
    Spans do not overlap, and none is empty.
    """
    merged: list[tuple[int, int]] = []
    for start, end in sorted({*_secrets(text), *_misspelled(text)}):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif start < end:
            merged.append((start, end))
    return tuple(merged)


def may_have_secrets(text: str) -> bool:
    """Whether a text that need not even be XML has a word that speaks of secrets."""
    folded = text.casefold()
    hinted = any(hint in folded for hint in _HINTS)
    return hinted or any(
        _is_nearly(word) or _slip_of(word) in ("query", "username")
        for word in set(_WORD.findall(text))
    )


def _misspelled(text: str) -> Iterator[tuple[int, int]]:
    """What would be a secret if its name or its place were right."""
    words = set(_WORD.findall(text))
    if words.isdisjoint({*_WITHOUT_TEXT, "key"}) and not any(
        # a name alone is none: it says of what a value is
        _is_nearly(word) or _slip_of(word) not in ("", "name")
        for word in words
    ):
        return
    began = 0  # where the text of such an element began
    of_uuid = False  # whether it may be a UUID
    within = False  # a <secret>
    for match in MARKUP.finditer(text):
        tag = match.group()
        if tag[1] in "!?":
            continue
        if began:
            inside = text[began : match.start()]
            # a UUID is that of a secret, anything else in its place may be one
            if not inside.isspace() and not (of_uuid and _NEARLY_UUID.fullmatch(inside.strip())):
                yield began, match.start()
            began = 0
        if tag[1] == "/":
            within &= tag[2:8] != "secret"
            continue
        written = name_of(tag).rstrip("/>")
        attributes = [
            (each.group(2), each.start(4) + 1, each.end(4) - 1)
            for each in ATTRIBUTE.finditer(text, *match.span())
        ]
        variable = ""  # of a command line, by its name
        for name, start, end in attributes:
            if _slip_of(name) == "name":
                variable = text[start:end]
        for name, start, end in attributes:
            # <encryption secret=...> of a TPM has the UUID of one
            if (
                name == "key"
                or _is_nearly(name)
                or (name == "secret" and not _UUID.fullmatch(text, start, end))
                or (
                    name == "uuid"
                    and written == "secret"
                    and not _NEARLY_UUID.fullmatch(text, start, end)
                )
                or _is_slip(name, written, variable, text[start:end])
            ):
                yield start, end
        if tag[-2] == "/":
            continue
        within |= written == "secret"
        of_uuid = within and written == "uuid"
        unknown = within and (of_uuid or written not in _OF_SECRET)
        if unknown or _is_nearly(written) or written in _WITHOUT_TEXT:
            began = match.end()


@lru_cache(maxsize=4096)
def _is_nearly(name: str) -> bool:
    """Whether a name is that of a secret but for two letters, or three of a long one, or one that
    others call it by."""
    name = name.rpartition(":")[2].lower()
    return _CALLED.search(name) is not None or any(
        _distance(name, each) <= 2 + (len(each) > 8) for each in _MISSPELLABLE
    )


@lru_cache(maxsize=4096)
def _slip_of(name: str) -> str:
    """The attribute that a name is, or is nearly: one that may hold a secret, or says so; or ""."""
    name = name.rpartition(":")[2].lower()
    return next((of for of, slips in _SLIPS if _distance(name, of) <= slips), "")


def _is_slip(name: str, element: str, variable: str, value: str) -> bool:
    """Whether a value would be a secret if the names of its attribute and element were right."""
    match _slip_of(name):
        case "query":
            # but the number of a queue
            return not value.isdigit()
        case "username":
            element = element.rpartition(":")[2].lower()
            return name != "username" or _distance(element, "auth") <= 2
        case "value":
            return _SECRET.search(f"{variable}={value}") is not None
    return False


def _distance(one: str, other: str) -> int:
    """How many letters are wrong, missing, too many or in the wrong order; 4 if more than 3."""
    # each letter that the other has not is a mistake: most words are far off at a glance
    if abs(len(one) - len(other)) > 3 or sum(map(other.__contains__, one)) < len(one) - 3:
        return 4
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            best = min(last[j] + 1, row[-1] + 1, last[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                best = min(best, before[j - 2] + 1)
            row.append(best)
        before, last = last, row
    return last[-1]


def _replaced(text: str, old: list[str] | None, spans: Iterable[tuple[int, int]]) -> str:
    pieces: list[str] = []
    at = 0
    for number, (start, end) in enumerate(spans):
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
