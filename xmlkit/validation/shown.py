"""Findings as they may be shown: without secrets, and with the line that they are about.

Laws
- No value that is a secret, or would be one if its name were spelled right, leaves this module.
- A place stays the place: line and column are those of the file, hidden or not.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import unescape

from xmlkit.document import Document, DocumentError
from xmlkit.parsing import place
from xmlkit.redaction import HIDDEN, may_have_secrets
from xmlkit.validation.findings import Edit, Finding, Fix, apply_fix, secrets_of
from xmlkit.validation.verdict import EXPLAINED

__all__ = ["Excerpt", "Patch", "excerpt_of_unreadable", "hidden", "hider", "patches", "shown"]

# What a finding points at: a tag's begin, an attribute with its value, or a text.
_POINTED = re.compile(r"</?[^\s<>/=\"']+|[^\s<>/=\"']+(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'))?")
_CDATA = re.compile(r"<!\[CDATA\[|\]\]>")
# Secrets shorter than this are hidden where they are quoted; elsewhere they might be any word.
_SHORT = 4
# So much of a long one is as good as the whole.
_BEGUN = 24
# With more secrets than these, all that is quoted is hidden: it takes long to look for each.
_MOST = 1000
_QUOTED = r"(?<=\")[^\"]+(?=\")|(?<=')[^']+(?=')|<[^>]*>"
# Characters of a line before and behind the place: more is never shown.
_LONGEST = 1000
# How far secrets are looked for, so that one is seen that begins before what is shown.
_FAR = 2 * _LONGEST


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The source line that a finding is about.

    line: its number, from 1. text: without line end and secrets; of a very long line a part.
    start, end: what to point at, in characters of `text` from 0.
    """

    line: int
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Patch:
    """A verified repair as a change of the text: what is from one place to another becomes `text`.

    said: what it does, in words. Lines and columns are from 1, the end is behind the last one.
    """

    said: str
    line: int
    column: int
    end_line: int
    end_column: int
    text: str


_DOES = {"rename": "rename it to {}", "value": 'make it "{}"', "move": "move it"}


def patches(document: Document, findings: Iterable[Finding]) -> tuple[tuple[Patch, ...], ...]:
    """For each finding its verified repairs; one that would write a secret anew is left out.

    findings: as `validate` returned them, not as they are shown.
    """
    hide = hider(document)

    def made(fix: Fix) -> Iterator[Patch]:
        try:
            old, new = document.text, apply_fix(document, fix.edit).text
        except (ValueError, DocumentError):
            return
        start = _alike(old, new)
        end = _alike(old[start:][::-1], new[start:][::-1])
        text = new[start : len(new) - end]
        edit = fix.edit
        said = _DOES.get(edit.kind, f"{edit.kind} it").format(edit.name or edit.value)
        if hide(text) == text and hide(said) == said:
            yield Patch(said, *place(old, start), *place(old, len(old) - end), text)

    return tuple(
        tuple(patch for fix in finding.fixes if fix.verified for patch in made(fix))
        for finding in findings
    )


def _alike(one: str, other: str) -> int:
    """How many characters are the same from the begin."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        if one.startswith(other[least:middle], least):
            least = middle
        else:
            most = middle - 1
    return least


def shown(
    document: Document, findings: Sequence[Finding]
) -> tuple[tuple[Finding, ...], tuple[Excerpt, ...]]:
    """The findings of a document without its secrets, and the source line of each."""
    text = document.text
    spans = secrets_of(document)
    said = _said_in(document)
    clean = tuple(_without(finding, said) for finding in findings) if said else tuple(findings)
    starts = [0]
    for match in re.finditer("\n", text):
        starts.append(match.end())
    starts.append(len(text) + 1)
    mark = int(text.startswith("\ufeff"))
    excerpts = []
    for finding in findings:
        line = min(max(finding.line, 1), len(starts) - 1)
        begin, end = starts[line - 1], starts[line] - 1
        begin += mark if line == 1 else 0
        at = begin + finding.column - 1
        # what is a secret in one place is one wherever it stands
        hide = spans if said is None else _also(spans, said, text, max(begin, at - _FAR), at + _FAR)
        excerpts.append(_excerpt(text, hide, line, begin, end, at))
    return clean, tuple(excerpts)


def hidden(document: Document, edits: Iterable[Edit]) -> Iterator[Edit]:
    """The edits of a document without its secrets."""
    hide = hider(document)
    return (replace(edit, value=hide(edit.value), xml=hide(edit.xml)) for edit in edits)


def hider(document: Document) -> Callable[[str], str]:
    """What hides the secrets of a document in any text."""
    said = _said_in(document)
    return (lambda each: each) if said is None else said.hide


def excerpt_of_unreadable(source: bytes, error: DocumentError) -> Excerpt | None:
    """The line at which a file stops being a document; None if secrets might be in it.

    None also of a file too large to look through for them.
    """
    if error.line < 1 or len(source) > EXPLAINED:
        return None
    encoding = "utf-16" if source[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    text = source.decode(encoding, "replace").removeprefix("\ufeff")
    if may_have_secrets(text):
        # it cannot be redacted either
        return None
    lines = text.split("\n")
    if error.line > len(lines):
        return None
    line = lines[error.line - 1]
    if "\0" in line:
        # no text at all
        return None
    return _excerpt(line, (), error.line, 0, len(line), max(error.column - 1, 0))


def _excerpt(
    text: str, spans: Sequence[tuple[int, int]], line: int, begin: int, end: int, at: int
) -> Excerpt:
    """What stands at `at`, in the line of `text` from `begin` to `end`, its secrets hidden."""
    if text.endswith("\r", begin, end):
        end -= 1
    at = min(max(at, begin), end)
    begin, end = max(begin, at - _LONGEST), min(end, at + _LONGEST)
    match = _POINTED.match(text, at, end)
    stop = match.end() if match else min(at + 1, end)
    pieces: list[str] = []
    length, done = 0, begin
    first = last = -1

    def copy(upto: int) -> None:
        """What is no secret is shown as it is."""
        nonlocal length, done, first, last
        pieces.append(text[done:upto])
        if first < 0 and at < upto:
            first = length + at - done
        if last < 0 and stop <= upto:
            last = length + stop - done
        length += upto - done
        done = upto

    for start, close in _within(spans, begin, end):
        copy(start)
        if first < 0 and at < close:
            first = length
        pieces.append(HIDDEN)
        length += len(HIDDEN)
        if last < 0 and stop <= close:
            last = length
        done = close
    copy(end)
    if first < 0:
        first = last = length
    return Excerpt(line, "".join(pieces), first, max(last, first + 1))


def _also(
    spans: Sequence[tuple[int, int]], said: _Said, text: str, begin: int, end: int
) -> Sequence[tuple[int, int]]:
    """The spans, with those from `begin` to `end` in which a secret is said again."""
    again = [match.span() for match in said.pattern.finditer(text, begin, end)]
    merged: list[tuple[int, int]] = []
    for start, close in sorted((*_within(spans, begin, end), *again)):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(close, merged[-1][1]))
        else:
            merged.append((start, close))
    return merged


def _within(spans: Sequence[tuple[int, int]], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of sorted spans that lie between two places."""
    for number in range(bisect_right(spans, begin, key=lambda span: span[1]), len(spans)):
        start, close = spans[number]
        if start >= end:
            return
        yield max(start, begin), min(close, end)


class _Said:
    """The secrets of a document, as a message may repeat them."""

    def __init__(self, values: set[str]) -> None:
        if len(values) > _MOST:
            self.values, self.pattern = values, re.compile(_QUOTED)
            return
        longest_first = sorted(values, key=len, reverse=True)
        long = [re.escape(value) for value in longest_first if len(value) >= _SHORT]
        # of a long one a message may have no more than the beginning
        begun = {re.escape(value[:_BEGUN]) for value in values if len(value) > _BEGUN}
        long += [f"{begin}[^\"']*" for begin in begun]
        short = [re.escape(value) for value in longest_first if len(value) < _SHORT]
        patterns = [f"(?:{'|'.join(long)})"] if long else []
        if short:
            patterns.append(f"(?<=[\"'`\u2018\u201c])(?:{'|'.join(short)})(?=[\"'`\u2019\u201d])")
        self.values = values
        self.pattern = re.compile("|".join(patterns))

    def hide(self, text: str) -> str:
        return HIDDEN if text in self.values else self.pattern.sub(HIDDEN, text)


def _said_in(document: Document) -> _Said | None:
    """The secrets of a document; found once."""
    if "said" not in document.memo:
        text = document.text
        document.memo["said"] = _said(text[start:end] for start, end in secrets_of(document))
    found: _Said | None = document.memo["said"]
    return found


def _said(values: Iterable[str]) -> _Said | None:
    found: set[str] = set()
    for value in values:
        plain = _CDATA.sub("", value)
        for each in (value, plain, unescape(plain)):
            found |= {each, each.strip(), " ".join(each.split())}
            found |= {
                form.replace("\n", "\\n").replace("\t", "\\t") for form in (each, each.strip())
            }
    found.discard("")
    return _Said(found) if found else None


def _without(finding: Finding, said: _Said) -> Finding:
    hide = said.hide
    return replace(
        finding,
        message=hide(finding.message),
        expected=tuple(map(hide, finding.expected)),
        suggestions=tuple(map(hide, finding.suggestions)),
        identity=hide(finding.identity),
        fixes=tuple(Fix(_edit(fix.edit, said), fix.verified) for fix in finding.fixes),
    )


def _edit(edit: Edit, said: _Said) -> Edit:
    return replace(edit, value=said.hide(edit.value), xml=said.hide(edit.xml))
