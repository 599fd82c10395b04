"""Mending: verified repairs laid over a document, one after the other.

Laws
- Only what was tried and found to mend is done; where another name, value or place would do as
  well, or is as near to what was written, none is chosen.
- Nothing that was written is taken away: what these schemas do not know a newer libvirt may, and
  its author meant something by it. The format of an image is never chosen.
- Each step is judged anew: it leaves fewer findings than there were, or it is not taken.
- All that is not repaired stays as it was written, byte for byte.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from lxml import etree

from xmlkit.document import Document, DocumentError
from xmlkit.redaction import redact_pair
from xmlkit.validation import words
from xmlkit.validation.findings import Edit, Finding, apply_fix, xpath_of
from xmlkit.validation.profiles import Profile
from xmlkit.validation.shown import hider
from xmlkit.validation.verdict import homes, validate

__all__ = ["Mended", "mended", "unified"]

# More values than these are not tried in the place of one.
_OTHERS = 24
# A document with more faults than this is something else.
_MOST = 100

# An edit tried: the document after it and what is found there; None if it does not fit.
_Trial = Callable[[Edit], tuple[Document, tuple[Finding, ...]] | None]


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
            if not fix.verified or _is_loss(fix.edit) or _is_format(fix.edit):
                continue
            mended = judged(fix.edit)
            if mended is None or len(mended[1]) >= len(findings):
                continue
            left = len(mended[1])
            if fix.edit.kind == "move":
                only = _is_only_place(document, finding, fix.edit, directory, judged, left)
            else:
                only = _is_only(document, finding, fix.edit, judged, left)
            if only:
                return *mended, fix.edit
    return None


def _is_loss(edit: Edit) -> bool:
    """Whether something goes that was written; the declaration of a namespace is nothing alone."""
    return edit.kind == "delete" and edit.attribute.partition(":")[0] != "xmlns"


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
    judged: _Trial,
    left: int,
) -> bool:
    """Whether no other name or value is as near, or leaves as few findings where none is near."""
    if edit.kind == "delete":
        return True
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
    if old.strip() or edit.kind == "rename":
        # what is not near is no slip: what it stands beside may be as wrong
        return False
    if not others or len(others) > _OTHERS:
        return edit.kind == "add" and not others
    for each in others:
        other = judged(replace(edit, value=each))
        if other is not None and len(other[1]) <= left:
            return False
    return True


def _is_only_place(
    document: Document,
    finding: Finding,
    edit: Edit,
    directory: str | os.PathLike[str] | None,
    judged: _Trial,
    left: int,
) -> bool:
    """Whether what is moved could go nowhere else, in this document or in one that has more."""
    moved, to = (_element(document, path) for path in (edit.xpath.partition("/text()")[0], edit.to))
    if edit.name and not edit.attribute and "/text()" not in edit.xpath and len(moved):
        # a comment would go
        return False
    if edit.name:
        # as an attribute or as a child: the same name says the same
        if edit.name.lstrip("@") != (edit.attribute or _tag(edit)) or len(finding.suggestions) > 1:
            return False
    elif edit.attribute:
        if len(finding.suggestions) > 1:
            return False
    elif moved.getparent() is to:
        return True
    elif homes(document, moved, directory) != {str(to.tag)}:
        # unless it is needed there
        without = judged(Edit("delete", edit.xpath))
        if without is None or len(without[1]) <= left:
            return False
    like = [
        each for each in document.root.iter(str(to.tag)) if each is not to and each is not moved
    ]
    if len(like) > _OTHERS:
        return False
    for each in like:
        other = judged(replace(edit, to=xpath_of(each), before=""))
        if other is not None and len(other[1]) <= left:
            return False
    return True


def _said(document: Document, edit: Edit) -> str:
    """The value that an edit replaces."""
    element = _element(document, edit.xpath)
    value = element.get(edit.attribute) if edit.attribute else element.text
    return str(value or "")


def _element(document: Document, xpath: str) -> etree._Element:
    (element,) = document.root.getroottree().xpath(xpath)
    assert isinstance(element, etree._Element)
    return element


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
