"""Mending: verified repairs laid over a document, as many at a time as go together.

Laws
- Only what was tried and found to mend is done; where another name, value or place would do as
  well, or is as near to what was written, none is chosen.
- Nothing that was written is taken away: what these schemas do not know a newer libvirt may, and
  its author meant something by it. The format of an image is never chosen.
- What is laid over is judged anew: it leaves so many faults fewer, or is not taken.
- What it costs grows with the document, not with the square of its faults; what is not tried for
  that is left alone.
- All that is not repaired stays as it was written, byte for byte.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from lxml import etree

from xmlkit.document import Document, DocumentError
from xmlkit.redaction import redact_pair
from xmlkit.validation import words
from xmlkit.validation.findings import Edit, Finding, apply_fixes, apply_to, xpath_of
from xmlkit.validation.profiles import Profile
from xmlkit.validation.shown import hider
from xmlkit.validation.verdict import faults, homes, valid, validate

if TYPE_CHECKING:
    from xmlkit.validation.walk import Fault

__all__ = ["Mended", "mended", "unified"]

# More values than these are not tried in the place of one.
_OTHERS = 24
# A document with more faults than this is something else.
_MOST = 1000
# Elements of all documents that are tried: those of a document for each trial by libxml2, and
# more for one by the walk.
_TRIED = 1_000_000
_WALK = 20


@dataclass(frozen=True)
class Mended:
    """What became of a document: repaired, in which edits, and what is left to be found.

    edits: in the order in which they were made, each about the document after those before it.
    """

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

    findings: what `validate` found in it. directory, profile: as for `validate`. In a large
    document not all that could be repaired need be; in what is returned the rest can be.
    Raises SchemaError as that does.
    """
    edits: list[Edit] = []
    trials = _Trials(document, findings, directory)
    while findings and len(edits) < _MOST:
        taken = _taken(document, findings, directory, trials)
        if taken is None:
            break
        document, made = taken
        edits += made
        findings = validate(document, directory, profile=profile)
        trials = _Trials(document, findings, directory, trials.left)
    return Mended(document, tuple(edits), findings)


def _taken(
    document: Document,
    findings: tuple[Finding, ...],
    directory: str | os.PathLike[str] | None,
    trials: _Trials,
) -> tuple[Document, list[Edit]] | None:
    """The document after repairs that leave no choice and less to be found; None without such."""
    doubtful: list[tuple[Finding, Edit]] = []
    sure: list[Edit] = []
    for finding in findings:
        for fix in finding.fixes[:1]:
            if not fix.verified or _is_loss(fix.edit) or _is_format(fix.edit):
                continue
            only = _is_nearest(document, finding, fix.edit)
            if only:
                sure.append(fix.edit)
            elif only is None:
                doubtful.append((finding, fix.edit))
    if (found := _together(document, sure, directory, trials)) is not None:
        return found
    # what is left of them is told better when nothing else is wrong
    only_way = [edit for finding, edit in doubtful if _is_only(document, finding, edit, trials)]
    return _together(document, only_way, directory, trials)


def _together(
    document: Document,
    edits: list[Edit],
    directory: str | os.PathLike[str] | None,
    trials: _Trials,
) -> tuple[Document, list[Edit]] | None:
    """The document after as many of the edits as go together: all, or of one part of them all."""
    parts = [edits] if edits else []
    while parts:
        part = parts.pop()
        try:
            made = _in_order(document, part)
            # what was written is read again, as everybody else will read it
            changed = Document.parse(apply_fixes(document, made).source, document.limits)
        except (ValueError, DocumentError):
            pass
        else:
            if len(faults(changed.root, directory)) <= trials.number - len(part):
                return changed, made
        if len(part) > 1:
            middle = len(part) // 2
            parts += (part[middle:], part[:middle])
    return None


def _in_order(document: Document, edits: Iterable[Edit]) -> list[Edit]:
    """The edits so that each fits the document after those before: from behind, in tags first."""
    root = document.root
    order = {node: number for number, node in enumerate(root.iter())}

    def place(edit: Edit) -> tuple[bool, bool, int]:
        in_tag = edit.kind == "rename" and bool(edit.attribute)
        declares = edit.attribute.partition(":")[0] == "xmlns"
        element = _element(document, edit.xpath.partition("/text()")[0])
        return not in_tag, not declares, -order[element]

    return sorted(edits, key=place)


class _Trials:
    """Tries other edits in the place of one that is thought of, all else repaired."""

    def __init__(
        self,
        document: Document,
        findings: tuple[Finding, ...],
        directory: str | os.PathLike[str] | None,
        left: int = _TRIED,
    ) -> None:
        self.document = document
        self.directory = directory
        self.size = sum(1 for _ in document.root.iter())
        # elements that may still be looked at
        self.left = left
        # the repair of each finding; those that lose something are as good for this
        self.repairs = [fix.edit for finding in findings for fix in finding.fixes[:1]]
        # where in the tree after all repairs an attribute is that one is about
        self.places: dict[int, etree._Element] = {}
        self.complete = len(self.repairs) == len(findings)

    @cached_property
    def number(self) -> int:
        """How many faults the document has."""
        return len(faults(self.document.root, self.directory))

    @cached_property
    def whole(self) -> etree._Element | None:
        """The tree after all repairs together; None if that is not valid."""
        tree = copy.deepcopy(self.document.root)
        places = dict(zip(self.document.root.iter(), tree.iter(), strict=True))
        try:
            for edit in self.repairs:
                if edit.kind in ("add", "value") and edit.attribute and ":" not in edit.attribute:
                    self.places[id(edit)] = places[_element(self.document, edit.xpath)]
            for edit in _in_order(self.document, self.repairs):
                apply_to(tree, edit)
        except ValueError:
            return None
        return tree if self.complete and valid(tree, self.directory) else None

    def fits(self, edit: Edit, other: Edit) -> bool:
        """Whether another edit leaves as little to be found as `edit` does.

        Also if that cannot be told any more, so that nothing is chosen.
        """
        if self.whole is not None:
            if other == replace(edit, value=other.value) and id(edit) in self.places:
                self.left -= self.size
                with self._set(edit, other.value):
                    return self.left < 0 or valid(self.whole, self.directory)
            self.left -= self.size * (1 + len(self.repairs) // 8)
            if self.left < 0:
                return True
            rest = [each for each in self.repairs if each is not edit]
            tree = self._tree([other, *_in_order(self.document, rest)])
            if tree is not None:
                return valid(tree, self.directory)
        tree = self._tree([other])
        if tree is None:
            return False
        self.left -= self.size * _WALK
        return self.left < 0 or len(faults(tree, self.directory)) < self.number

    def wanted(self, edit: Edit) -> tuple[str, ...]:
        """The values that an attribute can have which an edit adds."""
        self.left -= self.size * _WALK
        if self.left < 0:
            return ()
        if self.whole is not None and id(edit) in self.places:
            with self._set(edit, "?"):
                found = faults(self.whole, self.directory)
                return next((tuple(x.expected) for x in found if _is_of(x, edit)), ())
        tree = self._tree([replace(edit, value="?")])
        found = () if tree is None else faults(tree, self.directory)
        of_it = (x for x in found if _is_of(x, edit) and xpath_of(x.node) == edit.xpath)
        return next((tuple(x.expected) for x in of_it), ())

    @contextmanager
    def _set(self, edit: Edit, value: str) -> Iterator[None]:
        """With another value in the tree after all repairs."""
        element = self.places[id(edit)]
        element.set(edit.attribute, value)
        try:
            yield
        finally:
            element.set(edit.attribute, edit.value)

    def _tree(self, edits: Iterable[Edit]) -> etree._Element | None:
        tree = copy.deepcopy(self.document.root)
        try:
            for edit in edits:
                apply_to(tree, edit)
        except ValueError:
            return None
        return tree


def _is_of(fault: Fault, edit: Edit) -> bool:
    return (fault.id, fault.name) == ("bad-value", edit.attribute)


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


def _is_nearest(document: Document, finding: Finding, edit: Edit) -> bool | None:
    """Whether no other name or value is as near; None if that has to be tried."""
    if edit.kind == "delete":
        return True
    if edit.kind in ("add", "move"):
        return None
    if edit.kind == "rename":
        old, new = finding.name.rpartition(":")[2], edit.name.rpartition(":")[2]
    else:
        old, new = _said(document, edit), edit.value
    if old and words.near(old, [new], called=False):
        far = words.distance(old, new)
        return all(words.distance(old, each) > far for each in finding.expected if each != new)
    # what is not near is no slip: what it stands beside may be as wrong
    return False if old.strip() or edit.kind == "rename" else None


def _is_only(document: Document, finding: Finding, edit: Edit, trials: _Trials) -> bool:
    """Whether nothing else leaves as few findings."""
    if edit.kind == "move":
        return _is_only_place(document, finding, edit, trials)
    others: tuple[str, ...] = finding.expected
    if edit.kind == "add":
        others = trials.wanted(edit) if edit.attribute else ()
        if edit.value not in others:
            return False
    others = tuple(each for each in others if each != edit.value)
    if not others or len(others) > _OTHERS:
        return edit.kind == "add" and not others
    return not any(trials.fits(edit, replace(edit, value=each)) for each in others)


def _is_only_place(document: Document, finding: Finding, edit: Edit, trials: _Trials) -> bool:
    """Whether what is moved could go nowhere else, in this document or in one that has more."""
    moved, to = (_element(document, path) for path in (edit.xpath.partition("/text()")[0], edit.to))
    if edit.name and not edit.attribute and "/text()" not in edit.xpath and len(moved):
        # a comment would go
        return False
    like = [
        each for each in document.root.iter(str(to.tag)) if each is not to and each is not moved
    ]
    inside = not edit.name and not edit.attribute and moved.getparent() is to
    if not inside and len(like) > _OTHERS:
        return False
    if edit.name:
        # as an attribute or as a child: the same name says the same
        if edit.name.lstrip("@") != (edit.attribute or _tag(edit)) or len(finding.suggestions) > 1:
            return False
    elif edit.attribute:
        if len(finding.suggestions) > 1:
            return False
    elif inside:
        return True
    elif homes(document, moved, trials.directory) != {str(to.tag)} and trials.fits(
        edit, Edit("delete", edit.xpath)
    ):
        # unless it is needed there
        return False
    return not any(trials.fits(edit, replace(edit, to=xpath_of(each), before="")) for each in like)


def _said(document: Document, edit: Edit) -> str:
    """The value that an edit replaces."""
    element = _element(document, edit.xpath)
    value = element.get(edit.attribute) if edit.attribute else element.text
    return str(value or "")


def _element(document: Document, xpath: str) -> etree._Element:
    """The element at an edit's place. Raises ValueError if there is not just one."""
    (element,) = document.root.getroottree().xpath(xpath)
    assert isinstance(element, etree._Element)
    return element


def unified(name: str, old: Document, new: Document) -> str:
    """The unified difference of two states of a file, secrets redacted."""
    before, after = redact_pair(old.text, new.text, invalid=True)
    difference = difflib.unified_diff(
        _lines(before), _lines(after), f"{name} (before)", f"{name} (after)"
    )
    # a secret may have moved to where it is none, or become one
    hide = {"+": hider(old), "-": hider(new)}
    difference = (hide.get(line[:1], str)(line) for line in difference)
    ending = "\n\\ No newline at end of file\n"
    return "".join(line if line.endswith("\n") else line + ending for line in difference)


def _lines(text: str) -> list[str]:
    """The lines with their ends; only a line feed ends one."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)
