"""Mending: verified repairs laid over a document, one after the other.

Laws
- Only what was tried and found to mend is done; where several repairs would do, none is guessed.
- Each step is judged anew: it leaves fewer findings than there were, or it is not taken.
- All that is not repaired stays as it was written, byte for byte.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass

from xmlkit.document import Document, DocumentError
from xmlkit.redaction import redact_pair
from xmlkit.validation.findings import Edit, Finding, apply_fix
from xmlkit.validation.profiles import Profile
from xmlkit.validation.verdict import validate

__all__ = ["Mended", "mended", "unified"]

# Of what is found, that which libvirt does not read at all.
_USELESS = frozenset(("unknown-attribute", "unknown-element"))
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
    """The first repair that leaves less to be found."""
    for finding in findings:
        edit = _choice(finding)
        if edit is None:
            continue
        try:
            changed = apply_fix(document, edit)
            # what was written is read again, as everybody else will read it
            changed = Document.parse(changed.source, document.limits)
        except (ValueError, DocumentError):
            continue
        left = validate(changed, directory, profile=profile)
        if len(left) < len(findings):
            return changed, left, edit
    return None


def _choice(finding: Finding) -> Edit | None:
    """The repair of a finding that leaves no choice: none, if several would do.

    What is not known may go, since libvirt does not read it; anything else is not taken away, and
    the format of an image is never guessed, however near a right one is.
    """
    sure = [fix.edit for fix in finding.fixes if fix.verified]
    keeping = [edit for edit in sure if edit.kind != "delete"]
    if len(keeping) == 1:
        return None if _is_format(keeping[0]) else keeping[0]
    if not keeping and len(sure) == 1 and finding.id in _USELESS:
        return sure[0]
    return None


def _is_format(edit: Edit) -> bool:
    tag = edit.xpath.rpartition("/")[2].partition("[")[0]
    return edit.attribute == "type" and edit.kind != "rename" and tag in ("driver", "format")


def unified(name: str, old: Document, new: Document) -> str:
    """The unified difference of two states of a file, secrets redacted."""
    before, after = redact_pair(old.text, new.text, invalid=True)
    difference = difflib.unified_diff(
        _lines(before), _lines(after), f"{name} (before)", f"{name} (after)"
    )
    ending = "\n\\ No newline at end of file\n"
    return "".join(line if line.endswith("\n") else line + ending for line in difference)


def _lines(text: str) -> list[str]:
    """The lines with their ends; only a line feed ends one."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)
