"""Mending: verified repairs laid over a document, one after the other.

Laws
- Only what was tried and found to mend is done; where another name or value would do as well, or
  is as near to what was written, none is chosen.
- Nothing is taken away that libvirt may read, and the format of an image is never chosen.
- Each step is judged anew: it leaves fewer findings than there were, or it is not taken.
- All that is not repaired stays as it was written, byte for byte.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from xmlkit.document import Document, DocumentError
from xmlkit.redaction import redact_pair
from xmlkit.validation import words
from xmlkit.validation.findings import Edit, Finding, apply_fix
from xmlkit.validation.profiles import Profile
from xmlkit.validation.shown import hider
from xmlkit.validation.verdict import validate

__all__ = ["Mended", "mended", "unified"]

# Of what is found, that which libvirt does not read at all.
_UNREAD = frozenset(("unknown-attribute", "unknown-element"))
# More values than these are not tried in the place of one.
_OTHERS = 24
# A document with more faults than this is something else.
_MOST = 100


@dataclass(frozen=True)
class Mended:
    """What became of a document: repaired, in which edits, and what is left to be found."""

    document: Document
    edits: tuple[Edit, ...]
    findings: tuple[Finding, ...]


def mended(
    document: Document,
    findings: tuple[Finding, ...],
    directory: str | os.PathLike[str] | None = None,
    *,
    profile: Profile | None = None,
) -> Mended:
    """A document after all repairs that are verified and leave no choice.

    findings: what `validate` found in it. directory, profile: as for `validate`.
    Raises SchemaError as that does.
    """
    edits: list[Edit] = []
    while findings and len(edits) < _MOST:
        step = _step(document, findings, directory, profile)
        if step is None:
            break
        document, findings, edit = step
        edits.append(edit)
    return Mended(document, tuple(edits), findings)


def _step(
    document: Document,
    findings: tuple[Finding, ...],
    directory: str | os.PathLike[str] | None,
    profile: Profile | None,
) -> tuple[Document, tuple[Finding, ...], Edit] | None:
    """The first repair that leaves no choice and less to be found."""

    def judged(edit: Edit) -> tuple[Document, tuple[Finding, ...]] | None:
        try:
            # what was written is read again, as everybody else will read it
            changed = Document.parse(apply_fix(document, edit).source, document.limits)
        except (ValueError, DocumentError):
            return None
        return changed, validate(changed, directory, profile=profile)

    for finding in findings:
        for fix in finding.fixes:
            if not fix.verified or _is_loss(finding, fix.edit) or _is_format(fix.edit):
                continue
            mended = judged(fix.edit)
            if mended is None or len(mended[1]) >= len(findings):
                continue
            if _is_only(document, finding, fix.edit, judged, len(mended[1])):
                return *mended, fix.edit
    return None


def _is_loss(finding: Finding, edit: Edit) -> bool:
    """Whether something goes that libvirt may read; what is unknown to it, it does not."""
    declaration = edit.attribute.partition(":")[0] == "xmlns"
    return edit.kind == "delete" and finding.id not in _UNREAD and not declaration


def _is_format(edit: Edit) -> bool:
    """Whether the format of an image is said, which is never guessed, however near a right one."""
    said = edit.attribute == "type" and _tag(edit) in ("driver", "format")
    return said and edit.kind in ("value", "add")


def _tag(edit: Edit) -> str:
    """The name of the element that an edit is about."""
    return edit.xpath.rpartition("/")[2].partition("[")[0]


def _is_only(
    document: Document,
    finding: Finding,
    edit: Edit,
    judged: Callable[[Edit], tuple[Document, tuple[Finding, ...]] | None],
    left: int,
) -> bool:
    """Whether no other name or value is as near, or leaves as few findings where none is near."""
    if edit.kind == "delete" or (edit.kind == "move" and not edit.name):
        return True
    if edit.kind == "move":
        # as an attribute or as a child: the same name says the same
        return edit.name.lstrip("@") == (edit.attribute or _tag(edit))
    others: tuple[str, ...] = finding.expected
    if edit.kind == "rename":
        old, new = finding.name.rpartition(":")[2], edit.name.rpartition(":")[2]
    else:
        old, new = "" if edit.kind == "add" else _said(document, edit), edit.value
        if edit.kind == "add":
            # the values that an attribute can have are known of a wrong one
            wrong = judged(replace(edit, value="?")) if edit.attribute else None
            others = (
                next((each.expected for each in wrong[1] if _is_of(each, edit)), ())
                if wrong
                else ()
            )
            if new not in others:
                return False
    others = tuple(each for each in others if each != new)
    if old and words.near(old, [new]):
        far = words.distance(old, new)
        return all(words.distance(old, each) > far for each in others)
    if edit.kind == "rename" or not others or len(others) > _OTHERS:
        return edit.kind == "add" and not others
    for each in others:
        other = judged(replace(edit, value=each))
        if other is not None and len(other[1]) <= left:
            return False
    return True


def _said(document: Document, edit: Edit) -> str:
    """The value that an edit replaces."""
    (element,) = document.root.getroottree().xpath(edit.xpath)
    value = element.get(edit.attribute) if edit.attribute else element.text
    return str(value or "")


def _is_of(finding: Finding, edit: Edit) -> bool:
    return finding.id == "bad-value" and finding.xpath == f"{edit.xpath}/@{edit.attribute}"


def unified(name: str, old: Document, new: Document) -> str:
    """The unified difference of two states of a file, secrets redacted."""
    before, after = redact_pair(old.text, new.text, invalid=True)
    difference = difflib.unified_diff(
        _lines(before), _lines(after), f"{name} (before)", f"{name} (after)"
    )
    # a secret may have moved to where it is none
    hide = hider(old)
    difference = (hide(line) if line.startswith("+") else line for line in difference)
    ending = "\n\\ No newline at end of file\n"
    return "".join(line if line.endswith("\n") else line + ending for line in difference)


def _lines(text: str) -> list[str]:
    """The lines with their ends; only a line feed ends one."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)
