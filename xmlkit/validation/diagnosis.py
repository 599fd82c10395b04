"""Diagnosis: the faults of an invalid document as findings, with repairs that were tried.

Laws
- Where a repair can be tried it is: laid on a copy, judged by libxml2. What makes the document
  valid is told first, and is marked verified.
- How much is tried is bounded by the size of the document.
- No finding shows what redaction would hide.
"""

from __future__ import annotations

import copy
from collections import Counter

from lxml import etree

from xmlkit.document import Document
from xmlkit.markup import ATTRIBUTE, MARKUP, tag_at
from xmlkit.parsing import place
from xmlkit.redaction import HIDDEN
from xmlkit.validation import words
from xmlkit.validation.findings import Edit, Finding, Fix, apply_to, secrets_of, xpath_of
from xmlkit.validation.judge import written
from xmlkit.validation.rng import Grammar
from xmlkit.validation.walk import MOST, Change, Fault, Walk

__all__ = ["diagnosed"]

_TRIALS = 24
# How many faults are told of one document, which may hold any number.
_MOST = 200


def diagnosed(document: Document, grammar: Grammar, schema: etree.RelaxNG) -> tuple[Finding, ...]:
    """What is wrong with a document that `schema` refuses, in the document's order.

    grammar: the same schema, read by `rng.grammar`. Empty if nothing wrong is found, in which
    case the two disagree.
    """
    every = Walk(grammar, document.root).faults()
    faults = every[:_MOST]
    repairs = _Repairs(document, grammar, schema, faults, len(every))
    repairs.run()
    return tuple(
        _finding(document, fault, repairs.chosen[number]) for number, fault in enumerate(faults)
    )


class _Repairs:
    """Tries the changes that may mend each fault."""

    def __init__(
        self,
        document: Document,
        grammar: Grammar,
        schema: etree.RelaxNG,
        faults: list[Fault],
        number: int,
    ) -> None:
        """number: of all faults, of which some may not be told."""
        self.root = document.root
        self.grammar = grammar
        self.schema = schema
        self.faults = faults
        self.number = number
        # for each fault the change that was chosen, and whether it is verified
        self.chosen: list[tuple[Change, bool] | None] = [
            (fault.changes[0], False) if fault.changes else None for fault in faults
        ]
        size = sum(1 for _ in document.root.iter())
        self.left = max(2, min(_TRIALS, 20_000 // size))

    def run(self) -> None:
        if not self.faults:
            return
        every = [pair[0] if pair else None for pair in self.chosen]
        if None not in every and self._valid([change for change in every if change]):
            self.chosen = [(change, True) for change in every if change]
            return
        if len(self.faults) > _TRIALS:
            # too many to try each
            changes = [change for change in every if change]
            tree = self._changed(changes) if self.number < MOST else None
            if tree is not None:
                left = len(Walk(self.grammar, tree).faults())
                if left == self.number - len(changes):
                    self.chosen = [pair and (pair[0], True) for pair in self.chosen]
            return
        for number, fault in enumerate(self.faults):
            for change in fault.changes[:_TRIALS]:
                if self.left <= 0:
                    return
                if self._mends(number, change):
                    self.chosen[number] = (change, True)
                    break

    def _mends(self, number: int, change: Change) -> bool:
        """Whether a change takes its fault away, and makes no other."""
        if len(self.faults) == 1:
            return self._valid([change])
        if self._only_moves_it(change):
            return False
        tree = self._changed([change])
        if tree is None:
            return False
        old = Counter((fault.id, fault.name) for fault in self.faults)
        own = (self.faults[number].id, self.faults[number].name)
        left = Counter((fault.id, fault.name) for fault in Walk(self.grammar, tree).faults())
        return left == old - Counter((own,))

    def _only_moves_it(self, change: Change) -> bool:
        """Whether an element would go where it is not right, into what is right without it."""
        to = change.to
        if change.kind != "move" or to is None or change.name or change.attribute or change.text:
            return False
        if change.fits or change.before is not None or to in change.node.iterancestors():
            return False
        return not any(to in (fault.node, *fault.node.iterancestors()) for fault in self.faults)

    def _valid(self, changes: list[Change]) -> bool:
        tree = self._changed(changes)
        return tree is not None and bool(self.schema.validate(tree))

    def _changed(self, changes: list[Change]) -> etree._Element | None:
        self.left -= 1
        tree = copy.deepcopy(self.root)
        try:
            # from behind, so that what is changed leaves the places before it
            for change in sorted(changes, key=lambda each: _order(each.node), reverse=True):
                apply_to(tree, _edit(change))
        except ValueError:
            return None
        return tree


def _order(node: etree._Element) -> list[int]:
    path = [node, *node.iterancestors()]
    return [parent.index(child) for child, parent in zip(path[-2::-1], path[:0:-1], strict=True)]


def _edit(change: Change) -> Edit:
    xpath = xpath_of(change.node)
    before = change.before
    if change.text:
        xpath += f"/text()[{_number_of_text(change.node, before)}]"
        before = None
    return Edit(
        change.kind,
        xpath,
        change.attribute,
        change.name,
        change.value,
        change.xml,
        "" if change.to is None else xpath_of(change.to),
        "" if before is None else xpath_of(before),
    )


def _number_of_text(node: etree._Element, after: etree._Element | None) -> int:
    """Which of an element's texts, from 1, is the first that is not blank behind a child."""
    found = node.xpath("text()")
    assert isinstance(found, list)
    behind = after is None
    for number, text in enumerate(found, 1):
        assert isinstance(text, etree._ElementUnicodeResult)
        behind |= text.is_tail and text.getparent() is after
        if behind and text.strip():
            return number
    return 1


def _finding(document: Document, fault: Fault, chosen: tuple[Change, bool] | None) -> Finding:
    node = fault.node
    suggestions = list(fault.suggestions)
    fixes: tuple[Fix, ...] = ()
    secret = bool(fault.value) and _is_secret(document, fault)
    if chosen is not None:
        change, verified = chosen
        if change.says and verified:
            suggestions = [change.says, *(each for each in suggestions if each != change.says)]
        fixes = (Fix(_edit(change), verified),)
    shown = HIDDEN if secret else words.quoted(fault.value)
    message = fault.message.replace("{value}", shown)
    if fault.why and not secret:
        message += f": {fault.why}"
    if secret and fault.id == "bad-value" and "blanks" in fault.why:
        suggestions, fixes = [], ()
    if fault.ask and suggestions:
        message += fault.ask.replace("{}", suggestions[0])
    if fault.id == "duplicate" and fault.after is not None:
        message += f"; the first is in line {document.place_of(fault.after)[0]}"
    xpath = xpath_of(node)
    if fault.text:
        line, column = place(document.text, _start_of_text(document, fault))
    elif fault.attribute:
        name = written(node, fault.attribute)
        line, column = _place_of_attribute(document, node, name)
        xpath += f"/@*[name()='{name}']" if ":" in name else f"/@{name}"
    else:
        line, column = document.place_of(node)
    return Finding(
        fault.id,
        "error",
        message,
        line,
        column,
        xpath,
        tuple(fault.expected),
        tuple(suggestions),
        fault.name,
        words.identity(node),
        words.link(node),
        fixes,
    )


def _place_of_attribute(document: Document, node: etree._Element, name: str) -> tuple[int, int]:
    text = document.text
    start = document.span_of(node)[0]
    for match in ATTRIBUTE.finditer(text, start, start + len(tag_at(text, start))):
        if match[2] == name:
            return place(text, match.start(2))
    return document.place_of(node)


def _start_of_text(document: Document, fault: Fault) -> int:
    """Where the text behind a child, or at the beginning, has its first character."""
    text = document.text
    if fault.after is None:
        start = document.span_of(fault.node)[0]
        at = start + len(tag_at(text, start))
    else:
        at = document.span_of(fault.after)[1]
    while True:
        at += len(text[at:]) - len(text[at:].lstrip())
        if text.startswith(("<!--", "<?"), at):
            match = MARKUP.match(text, at)
            assert match is not None
            at = match.end()
            continue
        return at


def _is_secret(document: Document, fault: Fault) -> bool:
    """Whether redaction would hide the value."""
    text = document.text
    if fault.attribute:
        name = written(fault.node, fault.attribute)
        if "pass" in name.lower():
            return True
        start = document.span_of(fault.node)[0]
        tag = ATTRIBUTE.finditer(text, start, start + len(tag_at(text, start)))
        at = next((match.start(4) + 1 for match in tag if match[2] == name), -1)
    else:
        at = _start_of_text(document, fault)
    return any(start <= at < end for start, end in secrets_of(document))
