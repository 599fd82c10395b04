"""The walk: what is wrong with a document that libxml2 has refused, node by node.

Laws
- It enters only elements that fit no definition which is still possible: a valid one never speaks.
- A near name is taken for the name that was meant, a bad value for a good one, and the walk goes
  on: one fault is told once.
- Where a fault can be told in several ways, the way with the fewest and likeliest faults is told.
- It judges nothing: an empty account means that it and libxml2 disagree.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from lxml import etree

from xmlkit.validation import words
from xmlkit.validation.judge import Judge, local, written
from xmlkit.validation.pattern import (
    Attribute,
    Choice,
    Data,
    Element,
    Leaf,
    Listing,
    NameClass,
    OneOrMore,
    Pattern,
    Text,
    Value,
)
from xmlkit.validation.rng import Grammar

__all__ = ["MOST", "Change", "Fault", "Walk"]

# So many faults of the children of one element are told; who has more has written something else.
MOST = 500
# How many elements are looked at for what may be meant: some of what is looked for grows with the
# square of what an element holds.
_LOOKS = 50_000


# The attributes in which an element says the most, of several that could be meant.
_TELLING = ("address", "name", "dev", "file")


class Change(NamedTuple):
    """An edit whose places are nodes; `says` is what it stands for among the suggestions."""

    kind: Literal["rename", "value", "move", "delete", "add"]
    node: etree._Element
    attribute: str = ""
    name: str = ""
    value: str = ""
    xml: str = ""
    to: etree._Element | None = None
    before: etree._Element | None = None
    text: bool = False
    says: str = ""
    # of a move: whether it is right there
    fits: bool = False


@dataclass
class Fault:
    """One thing that is wrong. cost: how unlikely this way to tell it is.

    node: the element it is about, or whose attribute or text it is about. attribute: as the schema
    has it. after: the child behind which a text stands. message: what is wrong; ask: how the
    first suggestion is put. value: what the message shows of the document for {value}, which may
    be a secret; why: what else it says of the value.
    """

    id: str
    cost: float
    node: etree._Element
    message: str
    ask: str = ""
    attribute: str = ""
    text: bool = False
    after: etree._Element | None = None
    value: str = ""
    why: str = ""
    expected: list[str] = field(default_factory=list)
    suggestions: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    name: str = ""


class _Renamed(Exception):
    """A namespace was found to be wrong: all is told anew, with the elements as they were meant."""

    def __init__(self, fault: Fault, names: dict[etree._Element, str]) -> None:
        super().__init__(fault.message)
        self.fault = fault
        self.names = names


class Account(NamedTuple):
    """Faults, and what they cost together."""

    cost: float
    faults: tuple[Fault, ...]


def _account(faults: Iterable[Fault]) -> Account:
    told = tuple(faults)
    return Account(sum(fault.cost for fault in told), told)


class Walk:
    """Explains one document by one grammar."""

    def __init__(self, grammar: Grammar, root: etree._Element) -> None:
        self.grammar = grammar
        self.judge = Judge(grammar)
        self.algebra = grammar.algebra
        self.root = root
        self._told: dict[tuple[etree._Element, Element], Account] = {}
        self._leaves: dict[etree._Element, frozenset[Element]] = {}
        self._looks = _LOOKS

    def _may_look(self, *elements: Sized) -> bool:
        """Whether these elements may be looked at, too."""
        if self._looks > 0:
            # to count children takes its time, too
            self._looks -= sum(map(len, elements))
        return self._looks > 0

    def faults(self) -> list[Fault]:
        """All that is wrong, in the document's order; empty if nothing is found."""
        found: list[Fault] = []
        told: tuple[Fault, ...] = ()
        while len(found) < 20:
            try:
                told = self._faults()
                break
            except _Renamed as renamed:
                found.append(renamed.fault)
                names = {**self.judge.renamed, **renamed.names}
                self.judge = Judge(self.grammar)
                self.judge.renamed = names
                self._told.clear()
                self._leaves.clear()
        merged = self._merged([*found, *told])
        if len(merged) < 2:
            return merged
        order = {node: number for number, node in enumerate(self.root.iter())}
        return sorted(merged, key=lambda fault: order[fault.node])

    def _faults(self) -> tuple[Fault, ...]:
        possible = self._of_root()
        if not possible:
            self._look_for_namespace(self.root, self.grammar.elements)
            return ()
        if any(self.judge.valid(self.root, leaf) for leaf in possible):
            return ()
        return self.explained(self.root, possible).faults

    def _of_root(self) -> frozenset[Element]:
        name = self.judge.name(self.root)
        return frozenset(leaf for leaf in self.grammar.elements if name in leaf.names)

    def leaves(self, node: etree._Element) -> frozenset[Element]:
        """What an element could be by its name and the names of those around it."""
        found = self._leaves.get(node)
        if found is None:
            parent = node.getparent()
            if parent is None:
                found = self._of_root()
            else:
                name = self.judge.name(node)
                sets = [leaf.children(name) for leaf in self.leaves(parent)]
                found = frozenset().union(*sets)
            self._leaves[node] = found
        return found

    # One element.

    def explained(self, node: etree._Element, possible: frozenset[Element]) -> Account:
        """The likeliest account of an element that is none of the possible definitions."""
        leaves = sorted(possible, key=lambda leaf: leaf.number)
        if len(leaves) == 1:
            return self._one(node, leaves[0])
        accounts = [self._one(node, self._union(leaves))]
        accounts += [self._one(node, leaf) for leaf in leaves[:12]]
        return min(accounts, key=lambda account: account.cost)

    def _union(self, leaves: list[Element]) -> Element:
        """One definition whose content is that of any of these."""
        unions = self.grammar.unions
        key = frozenset(leaves)
        found = unions.get(key)
        if found is None:
            content = self.algebra.choice(leaf.content for leaf in leaves)
            names = NameClass(others=tuple(leaf.names for leaf in leaves))
            found = Element(self.algebra.next(), leaves[0].define, names, lambda: content)
            unions[key] = found
        return found

    def _one(self, node: etree._Element, leaf: Element) -> Account:
        key = (node, leaf)
        found = self._told.get(key)
        if found is None:
            found = self._told[key] = self._best(node, leaf)
        return found

    def _best(self, node: etree._Element, leaf: Element) -> Account:
        attributes = list(self.judge.attributes(node).items())
        chosen = [item for item in attributes if self._chooses(leaf, item[0])]
        others = [item for item in attributes if item not in chosen]
        accounts = [self._in_order(node, leaf, chosen + others)]
        # where the start tag is right, it is so in any order
        own = any(fault.node is node for fault in accounts[0].faults)
        if accounts[0].cost > 1.05 and own and chosen and others:
            accounts.append(self._in_order(node, leaf, others + chosen))
        if accounts[0].cost > 1.12 and self._may_depend(node, leaf, accounts[0]):
            accounts += self._with_other_values(node, leaf, chosen)
        if min(account.cost for account in accounts) > 1.3:
            accounts += self._with_other_children(node, leaf)
        return min(accounts, key=lambda account: account.cost)

    def _with_other_children(self, node: etree._Element, leaf: Element) -> Iterator[Account]:
        """Accounts by which a child that fits one definition was meant for another one."""
        judge = self.judge
        content = judge.content(node)
        attributes = judge.attributes(node)
        for number, child in enumerate(content[:100]):
            if isinstance(child, str):
                continue
            if not self._may_look(content):
                break
            counted = judge.counted(child, leaf)
            others = leaf.children(judge.name(child)) - counted
            if not counted or not others:
                continue
            if judge.fits(leaf, attributes, [*content[:number], others, *content[number + 1 :]]):
                yield self.explained(child, others)

    @staticmethod
    def _chooses(leaf: Element, name: str) -> bool:
        """Whether an attribute is one that may tell what else there can be."""
        return any(
            isinstance(value, Value)
            for each in leaf.attributes(name)
            for value in each.content.leaves
        )

    def _may_depend(self, node: etree._Element, leaf: Element, account: Account) -> bool:
        """Whether another value of an attribute could mend it: the fault is of this element, or
        of a child that fits where something else is chosen."""
        for fault in account.faults:
            if fault.node is node or fault.id in ("conflict", "duplicate"):
                return True
            child = fault.node
            while (parent := child.getparent()) is not None and parent is not node:
                child = parent
            if parent is node and (
                self.judge.counted(child, leaf) or not leaf.children(self.judge.name(child))
            ):
                return True
        return False

    def _with_other_values(
        self, node: etree._Element, leaf: Element, chosen: list[tuple[str, str]]
    ) -> Iterator[Account]:
        """Accounts by which all is right but one attribute's value, or an attribute is missing."""
        judge = self.judge
        present = judge.attributes(node)
        content = judge.content(node)
        named: dict[str, list[Attribute]] = {}
        for each in sorted(leaf.content.leaves, key=lambda leaf: leaf.number):
            if isinstance(each, Attribute):
                for name in each.names.known():
                    named.setdefault(name, []).append(each)
        for name, leaves in named.items():
            possible = words.values(each.content for each in leaves)
            if not possible or len(possible) > 60:
                continue
            now = present.get(name)
            fitting = [
                value
                for value in possible
                if value != now
                and self._may_look(content)
                and judge.fits(leaf, {**present, name: value}, content)
            ]
            if not fitting:
                continue
            if now is None:
                yield _account([self._lacks_attributes(node, [name], {name: fitting}, 1.15)])
            else:
                known = words.near(now, fitting, begun=True)
                ordered = known + [value for value in fitting if value not in known]
                cost = (
                    1.0 + 0.05 * words.distance(now, known[0])
                    if known
                    else 1.18
                    if len(fitting) == 1
                    else 1.38
                )
                fault = self._bad_value(node, name, now, leaves, cost, ordered, bool(known))
                if judge.accepts(leaves[0], now) or now in possible:
                    fault.message = (
                        f"{written(node, name)} of <{written(node)}> is {{value}}, which does not "
                        "fit with the rest of it"
                    )
                    fault.ask = '; "{}" does'
                yield _account([fault])

    def _in_order(
        self, node: etree._Element, leaf: Element, attributes: list[tuple[str, str]]
    ) -> Account:
        faults: list[Fault] = []
        left = self._start_tag(node, leaf, attributes, faults)
        self._inside(node, leaf, left, faults)
        return _account(faults)

    # Its attributes.

    def _start_tag(
        self,
        node: etree._Element,
        leaf: Element,
        attributes: list[tuple[str, str]],
        faults: list[Fault],
    ) -> Pattern:
        """What is left of the content behind the start tag."""
        algebra, judge = self.algebra, self.judge
        left = leaf.content
        unknown: list[tuple[str, str]] = []
        for name, value in attributes:
            named = leaf.attributes(name)
            rest = algebra.without(left, algebra.fitting(named, value))
            if rest is not algebra.nothing:
                left = rest
                continue
            possible = [
                each
                for each in named
                if algebra.without(left, frozenset((each,))) is not algebra.nothing
            ]
            if possible:
                fault = self._bad_value(node, name, value, possible)
                faults.append(fault)
                meant = fault.suggestions[:1]
                likely = [each for each in possible if meant and judge.accepts(each, meant[0])]
                left = algebra.without(left, frozenset(likely or possible))
            elif named:
                faults.append(self._conflict(node, leaf, name, value))
            else:
                unknown.append((name, value))
        for name, value in list(unknown):
            found = self._misspelled_attribute(node, leaf, left, name, value)
            if found is not None:
                told, taken = found
                faults += told
                left = algebra.without(left, taken)
                unknown.remove((name, value))
        closed = algebra.closed(left)
        lacking = [] if closed is not algebra.nothing else _lacking(left, Attribute)
        if closed is algebra.nothing:
            closed = algebra.closed(left, forced=True)
        for name, value in unknown:
            # in the place of one that is missing, if it could be that
            fits = [
                slot
                for slot in lacking
                if any(isinstance(x, Attribute) and judge.accepts(x, value) for x in slot)
            ]
            if len(unknown) == len(lacking) == len(fits) == 1:
                meant = [each for x in fits[0] for each in _known(x)]
                faults.append(self._unknown_attribute(node, leaf, name, value, meant))
                lacking = []
            else:
                faults.append(self._unknown_attribute(node, leaf, name, value, []))
        if lacking:
            names = [local(name) for slot in lacking for x in slot for name in _known(x)]
            possible_values: dict[str, list[str]] = {}
            for x in (x for slot in lacking for x in slot if isinstance(x, Attribute)):
                for name in x.names.known():
                    possible_values.setdefault(name, []).extend(words.values([x.content]))
            # one that chooses between several kinds of content
            chooses = any(len(each) > 1 for each in possible_values.values())
            cost = 1.2 if chooses else 1.1
            faults.append(self._lacks_attributes(node, names, possible_values, cost, len(lacking)))
        return closed

    def _misspelled_attribute(
        self, node: etree._Element, leaf: Element, left: Pattern, name: str, value: str
    ) -> tuple[list[Fault], frozenset[Leaf]] | None:
        """A near name, and the attributes that it is taken for."""
        judge = self.judge
        uri = name[1:].partition("}")[0] if name[:1] == "{" else ""
        present = judge.attributes(node)
        possible = {
            each: leaf_
            for leaf_ in sorted(_attributes(left), key=lambda x: x.number)
            for each in leaf_.names.known()
            if each not in present
        }
        if uri and local(name) in possible:
            meant = [local(name)]
        else:
            meant = words.near(local(name), possible)
        if not meant:
            return None
        taken = frozenset(leaf_ for leaf_ in _attributes(left) if meant[0] in leaf_.names)
        shown = written(node, name)
        fault = Fault(
            "misspelled-attribute",
            1.0 + 0.05 * words.distance(local(name), meant[0]),
            node,
            f"unknown attribute {shown} of <{written(node)}>",
            "; did you mean {}?",
            attribute=name,
            name=shown,
            expected=sorted(possible, key=lambda each: (each not in meant, each)),
            suggestions=meant[:3],
            changes=[Change("rename", node, shown, name=each, says=each) for each in meant[:3]],
        )
        fault.changes.append(Change("delete", node, shown))
        fitting = self.algebra.fitting(taken, value)
        if fitting:
            return [fault], fitting
        bad = self._bad_value(node, name, value, taken)
        return [fault, bad], taken

    def _unknown_attribute(
        self, node: etree._Element, leaf: Element, name: str, value: str, meant: list[str]
    ) -> Fault:
        judge = self.judge
        shown = written(node, name)
        tag = written(node)
        known = sorted(
            {each for x in leaf.content.leaves if isinstance(x, Attribute) for each in _known(x)}
        )
        fault = Fault(
            "unknown-attribute",
            1.4,
            node,
            f"unknown attribute {shown} of <{tag}>",
            attribute=name,
            name=shown,
            expected=known,
        )
        fault.changes = [Change("rename", node, shown, name=each, says=each) for each in meant]
        if meant:
            fault.id = "misspelled-attribute"
            fault.cost = 1.25
            fault.ask = "; did you mean {}?"
            fault.suggestions = meant
        elif leaf.children(name) and node.find(name) is None:
            fault.message = f"{shown} of <{tag}> is no attribute but a child element"
            says = f"<{name}>"
            if not any(judge.fits(x, {}, [value]) for x in leaf.children(name)) and (
                inner := self._attribute_for(leaf.children(name), (), value)
            ):
                says = f"<{name} {inner}=...>"
                fault.message += f", <{name} {inner}='...'/>"
                move = Change("move", node, shown, name=f"{name}/@{inner}", to=node, says=says)
            else:
                move = Change("move", node, shown, name=name, to=node, says=says)
            fault.changes.append(move)
            fault.suggestions = [says]
        elif hint := words.hint(local(judge.name(node)), attribute=name):
            fault.message += f"; {hint}"
        else:
            # an element nearby that has such an attribute, and not yet
            places = [
                place
                for place in self._nearby(node)
                if place.get(name) is None
                and any(self._allows(x, name, value) for x in self.leaves(place))
            ]
            if places:
                fault.ask = "; {} has one"
                fault.suggestions = list(dict.fromkeys(f"<{written(x)}>" for x in places[:3]))
                fault.changes += [
                    Change("move", node, shown, to=place, says=f"<{written(place)}>")
                    for place in places[:3]
                ]
            elif child := self._child_for(node, leaf, name, value):
                fault.ask = "; its child {} has one"
                fault.suggestions = [f"<{child}>"]
                move = Change("move", node, shown, name=f"{child}/@{name}", to=node)
                fault.changes.append(move._replace(says=f"<{child}>"))
            elif by_value := self._by_value(node, leaf, value):
                fault.ask = "; did you mean {}?"
                fault.suggestions = [by_value]
                fault.changes.append(Change("rename", node, shown, name=by_value, says=by_value))
        fault.changes.append(Change("delete", node, shown))
        return fault

    def _child_for(self, node: etree._Element, leaf: Element, name: str, value: str) -> str:
        """The one child, not there yet, that has such an attribute."""
        present = {self.judge.name(child) for child in node.iterchildren(etree.Element)}
        names = {
            each
            for x in leaf.content.leaves
            if isinstance(x, Element) and not x.names.is_wild and self._allows(x, name, value)
            for each in x.names.known()
        }
        return names.pop() if len(names) == 1 and not names & present else ""

    def _by_value(self, node: etree._Element, leaf: Element, value: str) -> str:
        """The one attribute that is not there and that names this value, if it is a telling one."""
        if len(value) < 4 or value in ("none", "default", "true", "false"):
            return ""
        names = {
            name
            for each in _attributes(leaf.content)
            if value in words.values([each.content])
            for name in each.names.known()
        }
        return names.pop() if len(names) == 1 and not names & set(node.keys()) else ""

    def _allows(self, leaf: Element, name: str, value: str) -> bool:
        return any(
            not each.names.is_wild and self.judge.accepts(each, value)
            for each in leaf.attributes(name)
        )

    def _nearby(self, node: etree._Element) -> Iterator[etree._Element]:
        """Children, then siblings, then the parent."""
        parent = node.getparent()
        if not self._may_look(node, () if parent is None else parent):
            return
        yield from node.iterchildren(etree.Element)
        if parent is not None:
            for each in parent.iterchildren(etree.Element):
                if each is not node:
                    yield each
            yield parent

    def _conflict(self, node: etree._Element, leaf: Element, name: str, value: str) -> Fault:
        """An attribute that others exclude."""
        judge = self.judge
        present = judge.attributes(node)
        shown, tag = written(node, name), written(node)
        others = [
            f'{written(node, other)}="{present[other]}"'
            for other in present
            if other != name and self._chooses(leaf, other)
        ]
        beside = f" beside {others[0]}" if len(others) == 1 else " beside its other attributes"
        return Fault(
            "conflict",
            1.5,
            node,
            f"<{tag}> cannot have the attribute {shown}{beside}",
            attribute=name,
            name=shown,
            changes=[Change("delete", node, shown)],
        )

    def _lacks_attributes(
        self,
        node: etree._Element,
        names: list[str],
        possible: Mapping[str, list[str]],
        cost: float,
        needed: int = 1,
    ) -> Fault:
        names = list(dict.fromkeys(names))
        join = " or " if needed == 1 else ", "
        tag = written(node)
        shown = join.join(names[:6])
        (first, *_) = names
        only = list(dict.fromkeys(possible.get(first, [])))
        if needed == 1 and len(names) == 1 and 0 < len(only) <= 6:
            shown += " (" + ", ".join(only) + ")"
        changes = [
            Change("add", node, name, value=values[0], says=name)
            for name in names[:6]
            if len(values := possible.get(name, [])) == 1
        ]
        what = "attribute" if needed == 1 else "attributes"
        return Fault(
            "missing-attribute",
            cost,
            node,
            f"<{tag}> lacks the {what} {shown}",
            expected=names,
            suggestions=names[:3],
            changes=changes if needed == 1 else [],
            name=tag,
        )

    def _bad_value(
        self,
        node: etree._Element,
        name: str,
        value: str,
        possible: Iterable[Leaf],
        cost: float = 0,
        fitting: list[str] | None = None,
        near: bool = True,
    ) -> Fault:
        """name: of the attribute; empty for the element's text. fitting: what would be right, in
        its order; near: whether the first of it is near."""
        contents = [each.content if isinstance(each, Attribute) else each for each in possible]
        named = words.values(contents)
        types = words.types(contents)
        if len(types) > 1 and not value.startswith("["):
            types = [each for each in types if "VMware" not in each]
        meant = fitting or words.near(value.strip(), named, begun=True)
        tag = written(node)
        subject = f"{written(node, name)} of <{tag}>" if name else f"<{tag}>"
        why = words.refusal(contents, value, self.algebra)
        stripped = value.strip()
        if "blanks" in why and not meant:
            meant = [stripped]
        ordered = meant + [each for each in named if each not in meant]
        message = f"{subject} is {{value}}"
        ask = ""
        if fitting is not None and len(fitting) > 1 and not near:
            message += f", not one of {_listed(fitting, [])}"
            meant = []
        elif meant and "blanks" not in why:
            message = f"{subject} cannot be {{value}}"
            ask = '; did you mean "{}"?' if fitting is None else ' here; "{}" fits'
        elif types and not named:
            message += f", not {_either(types)}"
        elif "blanks" not in why:
            message += f", not one of {_listed(ordered, types)}"
        hint = words.hint(local(self.judge.name(node)), attribute=name, value=stripped)
        if hint and not (meant and fitting is None):
            message += f"; {hint}"
            ask = ""
        if not cost:
            cost = 1.0 + 0.05 * words.distance(stripped, meant[0]) if meant else 1.1
            if not meant and named and not types:
                cost = 1.3
        # of many that are not near, none is likelier than the others
        tries = meant[:3] if meant or types or len(named) > 1 else named
        far = [words.distance(stripped, each) for each in meant[:2]]
        if fitting is None and len(far) == 2 and far[1] - far[0] < 0.5 and far[0] > 0.5:
            tries = []
        return Fault(
            "bad-value",
            cost,
            node,
            message,
            ask,
            attribute=name,
            value=value,
            why=why if "blanks" in why or (types and not meant) else "",
            name=written(node, name) if name else tag,
            expected=ordered + types,
            suggestions=meant[:3],
            changes=[
                Change("value", node, written(node, name) if name else "", value=each, says=each)
                for each in tries
            ],
        )

    # Its children and its text.

    def _inside(
        self, node: etree._Element, leaf: Element, left: Pattern, faults: list[Fault]
    ) -> None:
        algebra, judge = self.algebra, self.judge
        items = judge.content(node)
        if len(items) == 1 and isinstance(items[0], str):
            self._value(node, leaf, left, items[0], faults)
            return
        whole = left
        before: etree._Element | None = None
        strangers: list[tuple[etree._Element, Fault]] = []
        seen: dict[str, etree._Element] = {}
        for item in items:
            if len(faults) >= MOST:
                return
            if isinstance(item, str):
                rest = judge.followed(left, leaf, item)
                if rest is algebra.nothing:
                    if not _holds_value(whole):
                        faults.append(self._stray(node, item, before))
                else:
                    left = rest
                continue
            before = item
            name = judge.name(item)
            rest = judge.followed(left, leaf, item)
            if rest is algebra.nothing:
                rest = self._child(node, leaf, left, item, seen, faults, strangers)
            left = rest
            seen.setdefault(judge.name(item), item)
            seen.setdefault(name, item)
        if not left.nullable and _holds_value(whole):
            # it is the children that should not be there; a text between them was the value
            text = "".join(item for item in items if isinstance(item, str)).strip()
            if text and algebra.accepts(left, text):
                return
        if not left.nullable:
            self._lacks_children(node, leaf, left, faults, strangers)

    def _value(
        self, node: etree._Element, leaf: Element, left: Pattern, text: str, faults: list[Fault]
    ) -> None:
        """An element without children."""
        if self.algebra.accepts(left, text):
            return
        values = [x for x in left.leaves if isinstance(x, Data | Value | Listing | Text)]
        if values:
            if text.strip() or not self._is_meant_as_text(node, left, faults):
                faults.append(self._bad_value(node, "", text, values))
            return
        if text.strip():
            fault = self._stray(node, text, None)
            # what was meant as the value of the only attribute that is missing
            missing = next(
                (x for x in faults if x.node is node and x.id == "missing-attribute"), None
            )
            name = missing.expected[0] if missing and len(missing.expected) == 1 else ""
            if missing and any(self.judge.accepts(x, text.strip()) for x in leaf.attributes(name)):
                faults.remove(missing)
                fault.ask = "; it should be the attribute {}"
                fault.suggestions = [name]
                change = Change("move", node, name="@" + name, to=node, text=True, says=name)
                fault.changes.insert(0, change)
            else:
                self._where_text_belongs(node, leaf, text.strip(), fault)
            faults.append(fault)
            # a child that is missing for it is no other fault
            if not left.nullable and self._is_of_child(node, left, text.strip(), fault):
                return
        if not left.nullable:
            self._lacks_children(node, leaf, left, faults, [])

    def _is_meant_as_text(self, node: etree._Element, left: Pattern, faults: list[Fault]) -> bool:
        """Whether the text that is missing stands in an attribute; if so, that is told."""
        unknown = [
            fault
            for fault in faults
            if fault.node is node and fault.id == "unknown-attribute" and not fault.suggestions
        ]
        if len(unknown) != 1:
            return False
        (fault,) = unknown
        if not self.algebra.accepts(left, self.judge.attributes(node)[fault.attribute]):
            return False
        tag = written(node)
        fault.message = f"{fault.name} of <{tag}> is no attribute but its text, <{tag}>...</{tag}>"
        fault.ask = ""
        fault.suggestions = ["text()"]
        move = Change("move", node, fault.name, name="text()", to=node, says="text()")
        fault.changes.insert(0, move)
        return True

    def _where_text_belongs(
        self, node: etree._Element, leaf: Element, text: str, fault: Fault
    ) -> None:
        """Say of a text that it is an attribute, or the name of a child."""
        name = self._attribute_for((leaf,), self.judge.attributes(node), text)
        named = text in words.values(each.content for each in leaf.attributes(name))
        if leaf.children(text) and not named:
            fault.ask = "; it should be a child, <{}/>"
            fault.suggestions = [text]
        elif name:
            fault.ask = "; it should be the attribute {}"
            fault.suggestions = [name]
            change = Change("move", node, name="@" + name, to=node, text=True, says=name)
            fault.changes.insert(0, change)
        elif hint := words.hint(local(self.judge.name(node)), "text()"):
            fault.message += f"; {hint}"

    def _is_of_child(self, node: etree._Element, left: Pattern, text: str, fault: Fault) -> bool:
        """Whether a text belongs into the one child that is missing; if so, that is told."""
        lacking = _lacking(left, Element)
        if fault.suggestions or len(lacking) != 1:
            return False
        leaves = [each for each in lacking[0] if isinstance(each, Element)]
        names = {name for each in leaves for name in each.names.known()}
        if len(names) != 1:
            return False
        (name,) = names
        says = f"<{name}>"
        if not any(self.judge.fits(each, {}, [text]) for each in leaves):
            inner = self._attribute_for(leaves, (), text)
            if not inner:
                return False
            says = f"<{name} {inner}=...>"
            name += f"/@{inner}"
        fault.ask = "; it belongs into a child, {}"
        fault.suggestions = [says]
        fault.changes.insert(0, Change("move", node, name=name, to=node, text=True, says=says))
        return True

    def _attribute_for(self, leaves: Iterable[Element], present: Container[str], text: str) -> str:
        """The one attribute that a text could be the value of, if it is of a form of its own; one
        that names it as a value, or is called by what is usually told, is likelier than others."""
        judge = self.judge
        named: set[str] = set()
        formed: set[str] = set()
        free: set[str] = set()
        for each in (x for leaf in leaves for x in _attributes(leaf.content)):
            names = {name for name in each.names.known() if name not in present}
            if not names or not judge.accepts(each, text):
                continue
            if text in words.values([each.content]):
                named |= names
            (free if judge.accepts(each, "\\ ?") else formed).update(names)
        if len(named) == 1:
            return named.pop()
        if len(formed) == 1:
            return formed.pop()
        plain = re.fullmatch(r"[\w.:/-]+", text) is not None
        return next((name for name in _TELLING if plain and name in formed | free), "")

    def _stray(self, node: etree._Element, text: str, after: etree._Element | None) -> Fault:
        tag = written(node)
        has = "can have children, but no text" if len(node) else "must be empty, without text"
        return Fault(
            "text-not-allowed",
            1.0 if len(node) else 1.1,
            node,
            f"<{tag}> {has}: {{value}}",
            text=True,
            after=after,
            value=text.strip(),
            name=tag,
            changes=[Change("delete", node, before=after, text=True)],
        )

    def _child(
        self,
        node: etree._Element,
        leaf: Element,
        left: Pattern,
        child: etree._Element,
        seen: Mapping[str, etree._Element],
        faults: list[Fault],
        strangers: list[tuple[etree._Element, Fault]],
    ) -> Pattern:
        """Tell what is wrong with a child; what is left behind it."""
        algebra, judge = self.algebra, self.judge
        name = judge.name(child)
        named = leaf.children(name)
        possible = self._next(left, named)
        counted = judge.counted(child, leaf)
        if counted or not (possible or name in seen):
            # it may be what stands in front of it that is missing
            for each in sorted(left.leaves, key=lambda x: x.number):
                if not isinstance(each, Element):
                    continue
                rest = algebra.after(left, each.leaves)
                behind = algebra.after(rest, counted)
                if behind is not algebra.nothing:
                    lacking = self._lacks(node, [frozenset((each,))], child)
                    if not possible or lacking.cost < self.explained(child, possible).cost:
                        faults.append(lacking)
                        return behind
                elif not possible and (then := self._next(rest, named)):
                    faults.append(self._lacks(node, [frozenset((each,))], child))
                    left, possible = rest, then
                    break
        if possible:
            account = self.explained(child, possible)
            first = self._original(child) if name in seen else None
            if first is not None:
                others = [each for each in judge.content(node) if each is not child]
                if self._may_look(others) and judge.fits(leaf, judge.attributes(node), others):
                    faults.append(self._one_too_many(node, leaf, child, first))
                    return left
            if account.cost > 1.04 and (near := self._better_name(node, leaf, left, child)):
                faults += near[0]
                return near[1]
            if account.cost > 2.2 and (moves := self._moves(node, child)) and moves[0].fits:
                # it is right, but for another place
                faults.append(self._misplaced(node, child, moves))
                return left
            faults += account.faults
            return algebra.after(left, frozenset(possible))
        if named:
            faults.append(self._one_too_many(node, leaf, child, seen.get(name)))
            return left
        self._look_for_namespace(child, leaf.content.leaves)
        near = self._misspelled_element(node, leaf, left, child)
        if near is not None:
            told, rest = near
            faults += told
            return rest
        fault = self._unknown_element(node, leaf, child)
        faults.append(fault)
        strangers.append((child, fault))
        return left

    def _better_name(
        self, node: etree._Element, leaf: Element, left: Pattern, child: etree._Element
    ) -> tuple[list[Fault], Pattern] | None:
        """A near name under which a child would be right, as it is not under its own."""
        judge = self.judge
        word = local(judge.name(child))
        if not (len(child) or child.attrib or (child.text or "").strip()):
            return None
        if not any(
            each in left.leaves and judge.valid(child, each) and self._next(left, [each])
            for each in self._slips(leaf, word)
        ):
            return None
        told = self._misspelled_element(node, leaf, left, child)
        return told if told is not None and len(told[0]) == 1 else None

    def _slips(self, leaf: Element, word: str) -> tuple[Element, ...]:
        """The children of a definition whose names are no more than one slip from a word."""
        found = self.grammar.slips.get((leaf, word))
        if found is None:
            found = tuple(
                each
                for each in leaf.content.leaves
                if isinstance(each, Element)
                and any(words.distance(word, local(name)) <= 1.1 for name in each.names.known())
            )
            if word in self.grammar.names:
                # other words are of documents, and never end
                self.grammar.slips[leaf, word] = found
        return found

    def _original(self, child: etree._Element) -> etree._Element | None:
        """The sibling in front of a child that it is a copy of."""
        if not self._may_look(_parent(child)):
            return None
        text = etree.tostring(child, with_tail=False)
        for each in child.itersiblings(str(child.tag), preceding=True):
            if etree.tostring(each, with_tail=False) == text:
                return each
        return None

    def _next(self, left: Pattern, leaves: Iterable[Element]) -> frozenset[Element]:
        """Those that may come next."""
        algebra = self.algebra
        return frozenset(
            each for each in leaves if algebra.after(left, each.leaves) is not algebra.nothing
        )

    def _misspelled_element(
        self, node: etree._Element, leaf: Element, left: Pattern, child: etree._Element
    ) -> tuple[list[Fault], Pattern] | None:
        judge = self.judge
        word = local(judge.name(child))
        possible: dict[str, list[Element]] = {}
        for each in sorted(left.leaves, key=lambda x: x.number):
            if isinstance(each, Element):
                for name in each.names.known():
                    possible.setdefault(name, []).append(each)
        allowed = {
            name: found for name, leaves in possible.items() if (found := self._next(left, leaves))
        }
        by_word = {local(name): name for name in reversed(list(allowed))}
        meant = words.near(word, by_word)
        best: tuple[float, str, frozenset[Element], Account] | None = None
        for near in meant[:3]:
            leaves = allowed[by_word[near]]
            valid = any(judge.valid(child, leaf) for leaf in leaves)
            account = Account(0, ()) if valid else self.explained(child, leaves)
            cost = words.distance(word, near) + 2 * account.cost
            if best is None or cost < best[0]:
                best = (cost, near, leaves, account)
        if best is None:
            return None
        _, first, leaves, account = best
        far = words.distance(word, first)
        if account.cost and (far > 1.5 or account.cost > 3.5 or word in self.grammar.names):
            # it has more of another element than the name
            return None
        meant = [first, *(each for each in meant if each != first)]
        tag = written(child)
        prefix = f"{child.prefix}:" if child.prefix else ""
        fault = Fault(
            "misspelled-element",
            1.0 + 0.05 * words.distance(word, first),
            child,
            f"unknown element <{tag}> in <{written(node)}>",
            "; did you mean <{}>?",
            name=tag,
            expected=[*meant, *sorted(each for each in by_word if each not in meant)],
            suggestions=meant[:3],
            changes=[Change("rename", child, name=prefix + each, says=each) for each in meant[:3]],
        )
        fault.changes += self._moves(node, child)
        fault.changes.append(Change("delete", child))
        return [fault, *account.faults], self.algebra.after(left, frozenset(leaves))

    def _moves(self, node: etree._Element, child: etree._Element) -> list[Change]:
        """Elements of the document that may have such a child: ancestors, siblings, then others."""
        name = self.judge.name(child)
        ancestors = list(node.iterancestors())
        if not self._may_look(node):
            return []
        siblings = list(node.iterchildren(etree.Element))
        at = siblings.index(child)
        siblings = [each for _, each in sorted(enumerate(siblings), key=lambda x: abs(x[0] - at))]
        around = set(ancestors) | set(siblings) | {node, child}
        others = (
            each
            for number, each in enumerate(self.root.iter(etree.Element))
            if number < 3000 and each not in around
        )
        found: dict[str, tuple[bool, int, Change]] = {}
        for number, place in enumerate((*ancestors, *siblings, *others)):
            if place is child or child in place.iterancestors():
                continue
            if not self._may_look((place,)):
                break
            leaves = [
                leaf
                for leaf in self.leaves(place)
                if any(not each.names.is_wild for each in leaf.children(name))
            ]
            if not leaves:
                continue
            says = written(place)
            fits = any(self._has_room(place, leaf, child) for leaf in leaves)
            if says not in found or (fits and found[says][0]):
                move = Change("move", child, to=place, says=says, fits=fits)
                found[says] = (not fits, number, move)
                if sum(not unfit for unfit, _, _ in found.values()) == 6:
                    break
        return [change for _, _, change in sorted(found.values(), key=lambda each: each[:2])]

    def _has_room(self, place: etree._Element, leaf: Element, child: etree._Element) -> bool:
        """Whether a child could be the last of an element, as far as that is right already."""
        judge = self.judge
        if not self._may_look(place):
            return False
        content = [each for each in judge.content(place) if each is not child]
        return judge.fits(leaf, judge.attributes(place), [*content, child])

    def _unknown_element(self, node: etree._Element, leaf: Element, child: etree._Element) -> Fault:
        judge = self.judge
        name = judge.name(child)
        tag, parent = written(child), written(node)
        known = sorted(
            {
                local(each)
                for x in leaf.content.leaves
                if isinstance(x, Element)
                for each in _known(x)
            }
        )
        if not known:
            message = f"<{parent}> has no children, but here <{tag}>"
        else:
            message = f"unknown element <{tag}> in <{parent}>"
        fault = Fault("unknown-element", 1.4, child, message, name=tag, expected=known)
        content = judge.content(child)
        text = content[0] if len(content) == 1 and isinstance(content[0], str) else None
        if hint := words.hint(local(judge.name(node)), local(name)):
            fault.message += f"; {hint}"
            fault.changes.append(Change("delete", child))
            return fault
        moves = self._moves(node, child)
        said = text.strip() if text is not None and not child.attrib else ""
        if moves and moves[0].fits:
            return self._misplaced(node, child, moves)
        named = [each for each in leaf.attributes(name) if judge.accepts(each, said)]
        if said and named and node.get(name) is None:
            fault.message = f"<{tag}> in <{parent}> is no child element but an attribute"
            fault.suggestions = [f"{tag}="]
            fault.changes.append(Change("move", child, name="@" + name, to=node, says=f"{tag}="))
        elif said and (near := self._near_attribute(node, leaf, name, said)):
            fault.message = f"<{tag}> in <{parent}> is no child element but the attribute {near}"
            fault.suggestions = [f"{near}="]
            fault.changes.append(Change("move", child, name="@" + near, to=node, says=f"{near}="))
        elif said and (owners := self._owners(node, child, name, said)):
            fault.message = f"<{tag}> in <{parent}> is no child element"
            fault.ask = " but an attribute of <{}>"
            fault.suggestions = [written(each) for each in owners]
            fault.changes += [
                Change("move", child, name="@" + name, to=each, says=written(each))
                for each in owners
            ]
        elif moves:
            return self._misplaced(node, child, moves)
        else:
            parents = self.grammar.parents_of(name)
            if parents:
                fault.id = "misplaced"
                fault.message = f"<{tag}> does not belong in <{parent}>"
                fault.ask = "; it is a child of <{}>"
                fault.suggestions = [local(each) for each in parents[:3]]
        fault.changes.append(Change("delete", child))
        return fault

    def _near_attribute(self, node: etree._Element, leaf: Element, name: str, value: str) -> str:
        """The attribute, not there yet, that an element's name is near to and its text fits."""
        known = {
            each
            for x in _attributes(leaf.content)
            if self.judge.accepts(x, value)
            for each in x.names.known()
        }
        near = words.near(local(name), sorted(known - set(self.judge.attributes(node))))
        return near[0] if near else ""

    @staticmethod
    def _misplaced(node: etree._Element, child: etree._Element, moves: list[Change]) -> Fault:
        tag = written(child)
        return Fault(
            "misplaced",
            1.15 if moves[0].fits else 1.25,
            child,
            f"<{tag}> does not belong in <{written(node)}>",
            "; it is a child of <{}>",
            name=tag,
            suggestions=[move.says for move in moves],
            changes=[*moves, Change("delete", child)],
        )

    def _owners(
        self, node: etree._Element, child: etree._Element, name: str, text: str
    ) -> list[etree._Element]:
        """The siblings that could have a child's text as their attribute."""
        if not self._may_look(node):
            return []
        return [
            each
            for each in node.iterchildren(etree.Element)
            if each is not child
            and each.get(name) is None
            and any(self._allows(leaf, name, text) for leaf in self.leaves(each))
        ][:3]

    def _one_too_many(
        self,
        node: etree._Element,
        leaf: Element,
        child: etree._Element,
        first: etree._Element | None,
    ) -> Fault:
        """A child that may stand here, but not now: it is the second, or others exclude it."""
        judge = self.judge
        tag, parent = written(child), written(node)
        if first is not None:
            return Fault(
                "duplicate",
                1.1,
                child,
                f"a second <{tag}> in <{parent}>, which may have only one",
                name=tag,
                after=first,
                changes=[Change("delete", child), Change("delete", first)],
            )
        items = [each for each in judge.content(node) if not isinstance(each, str)]
        at = items.index(child)
        rest = items[:at] + items[at + 1 :]
        attributes = judge.attributes(node)
        for place in range(at - 1, -1, -1):
            if self._may_look(items) and judge.fits(
                leaf, attributes, [*rest[:place], child, *rest[place:]]
            ):
                behind = rest[place]
                return Fault(
                    "misplaced",
                    1.1,
                    child,
                    f"<{tag}> comes too late in <{parent}>",
                    "; it belongs before <{}>",
                    name=tag,
                    suggestions=[written(behind)],
                    changes=[
                        Change("move", child, to=node, before=behind, says=written(behind)),
                        Change("delete", child),
                    ],
                )
        others = [
            each
            for each in rest
            if self._may_look(items)
            and judge.fits(leaf, attributes, [x for x in items if x is not each])
        ]
        beside = f" beside <{written(others[0])}>" if others else " with what else it has"
        choosing = [
            f'{written(node, each)}="{value}"'
            for each, value in attributes.items()
            if self._chooses(leaf, each)
        ]
        if not others and choosing:
            beside = f" with {choosing[0]}"
        return Fault(
            "conflict",
            1.5,
            child,
            f"<{parent}> cannot have <{tag}>{beside}",
            name=tag,
            changes=[Change("delete", child), *(Change("delete", each) for each in others[:2])],
        )

    def _lacks_children(
        self,
        node: etree._Element,
        leaf: Element,
        left: Pattern,
        faults: list[Fault],
        strangers: list[tuple[etree._Element, Fault]],
    ) -> None:
        lacking = _lacking(left, Element)
        if not lacking:
            values = [x for x in left.leaves if isinstance(x, Data | Value | Listing | Text)]
            faults.append(self._bad_value(node, "", "", values))
            return
        judge = self.judge
        if len(lacking) == len(strangers) == 1:
            child, fault = strangers[0]
            meant = [x for x in lacking[0] if isinstance(x, Element) and judge.valid(child, x)]
            if (
                meant
                and fault.id == "unknown-element"
                and (len(child) or child.attrib or (child.text or "").strip())
            ):
                fault.id = "misspelled-element"
                fault.ask = "; did you mean <{}>?"
                fault.suggestions = [local(each) for x in meant for each in _known(x)][:3]
                fault.changes[:0] = [
                    Change("rename", child, name=each, says=each) for each in fault.suggestions
                ]
                return
        faults.append(self._lacks(node, lacking))

    def _lacks(
        self,
        node: etree._Element,
        lacking: list[frozenset[Leaf]],
        before: etree._Element | None = None,
    ) -> Fault:
        """Children that are missing: for each the definitions that would do."""
        leaves = [x for slot in lacking for x in sorted(slot, key=lambda each: each.number)]
        names = list(dict.fromkeys(local(each) for x in leaves for each in _known(x)))
        join = " or " if len(lacking) == 1 else ", "
        tag = written(node)
        changes = []
        for x in leaves[:4] if len(lacking) == 1 else ():
            if isinstance(x, Element) and (sample := self._sample(x)):
                says = next(iter(_known(x)), "")
                changes.append(Change("add", node, xml=sample, before=before, says=says))
        return Fault(
            "missing-child",
            1.1 if changes else 1.16,
            node,
            f"<{tag}> lacks {join.join(f'<{each}>' for each in names[:6])}",
            name=tag,
            expected=names,
            suggestions=names[:3],
            changes=changes,
        )

    def _sample(self, leaf: Element) -> str:
        """The smallest element of a definition, if nothing has to be invented for it."""
        name = next(iter(_known(leaf)), "")
        if not name or name[0] == "{":
            return ""
        left = leaf.content
        said = ""
        for slot in _lacking(left, Attribute):
            (first, *_) = sorted(slot, key=lambda each: each.number)
            if not isinstance(first, Attribute):
                return ""
            values = words.values([first.content])
            if len(values) != 1:
                return ""
            said += f" {next(iter(_known(first)), '')}='{values[0]}'"
            left = self.algebra.without(left, frozenset((first,)))
        left = self.algebra.closed(left)
        bare = left.nullable and not any(isinstance(x, Text | Data) for x in left.leaves)
        return f"<{name}{said}/>" if bare else ""

    # Namespaces.

    def _look_for_namespace(self, node: etree._Element, leaves: Iterable[Leaf]) -> None:
        """Raise _Renamed for an element whose name is right but for its namespace."""
        name = self.judge.name(node)
        uri = name[1:].partition("}")[0] if name[0] == "{" else ""
        word = local(name)
        rights = [
            each[1:].partition("}")[0] if each[0] == "{" else ""
            for leaf in sorted(leaves, key=lambda leaf: leaf.number)
            if isinstance(leaf, Element)
            for each in leaf.names.known()
            if local(each) == word
        ]
        rights = [right for right in rights if right != uri]
        if not rights:
            return
        kind = f"/{self.root.get('type', '')}/"
        right = min(
            rights,
            # where nothing tells which hypervisor is meant it is the usual one
            key=lambda each: (
                -words.alike(uri, each),
                kind not in each,
                "/qemu/" not in each,
                each,
            ),
        )
        tag = written(node)
        declares = f"xmlns:{node.prefix}" if node.prefix else "xmlns"
        owner = node
        while (parent := owner.getparent()) is not None and parent.nsmap.get(node.prefix) == uri:
            owner = parent
        changes = []
        names = {node: f"{{{right}}}{word}" if right else word}
        if uri and (right or not node.prefix):
            for each in owner.iter(etree.Element):
                if each.prefix == node.prefix and etree.QName(each).namespace == uri:
                    under = local(str(each.tag))
                    names[each] = f"{{{right}}}{under}" if right else under
        if not uri:
            message = f"<{tag}> is in no namespace, but should be in"
            message += f' "{right}"'
            prefix = next((each for each, known in node.nsmap.items() if known == right), None)
            if prefix:
                changes = [Change("rename", node, name=f"{prefix}:{word}", says=f"{prefix}:{word}")]
        elif right:
            message = f'<{tag}> is in the namespace "{uri}"'
            changes = [Change("value", owner, declares, value=right, says=right)]
        elif node.prefix:
            message = f'<{tag}> is in the namespace "{uri}", but should be in no namespace'
            changes = [Change("rename", node, name=word, says=word)]
        else:
            message = f'<{tag}> is in the namespace "{uri}", but should be in none: '
            message += f'remove {declares}="{uri}"'
            changes = [Change("delete", owner, declares, says=f'remove {declares}="{uri}"')]
        fault = Fault(
            "wrong-namespace",
            1.0,
            node,
            message,
            '; did you mean "{}"?' if right and uri else "",
            name=tag,
            expected=[right] if right else [],
            suggestions=[change.says for change in changes],
            changes=changes,
        )
        raise _Renamed(fault, names)

    # Several faults that are one.

    @staticmethod
    def _merged(faults: list[Fault]) -> list[Fault]:
        """Without what is missing in one place because it stands in another."""
        kept = list(faults)
        for fault in faults:
            for other in list(kept):
                if (
                    fault.id == "unknown-attribute"
                    and other.id == "missing-child"
                    and other.node is fault.node
                    and other.expected == [x[1:-1].split()[0] for x in fault.suggestions]
                ):
                    kept.remove(other)
            if fault.id != "misplaced":
                continue
            word = fault.name.rpartition(":")[2]
            for other in kept:
                if other.id == "missing-child" and other.expected == [word]:
                    kept.remove(other)
                    fault.suggestions = [
                        other.name,
                        *(x for x in fault.suggestions if x != other.name),
                    ]
                    move = Change("move", fault.node, to=other.node, says=other.name)
                    fault.changes.insert(0, move)
                    break
        return kept


def _parent(node: etree._Element) -> etree._Element:
    parent = node.getparent()
    assert parent is not None
    return parent


def _attributes(pattern: Pattern) -> Iterator[Attribute]:
    return (leaf for leaf in pattern.leaves if isinstance(leaf, Attribute))


def _holds_value(pattern: Pattern) -> bool:
    return any(isinstance(x, Data | Value | Listing) for x in pattern.leaves)


def _known(leaf: Leaf) -> tuple[str, ...]:
    return leaf.names.known() if isinstance(leaf, Element | Attribute) else ()


def _lacking(pattern: Pattern, kind: type[Leaf]) -> list[frozenset[Leaf]]:
    """What keeps a pattern from being complete: for each thing the leaves that would do."""
    if isinstance(pattern, Leaf):
        return [frozenset((pattern,))] if isinstance(pattern, kind) else []
    if kind is Element and pattern.nullable:
        return []
    parts = [_lacking(part, kind) for part in pattern.parts]
    if isinstance(pattern, Choice):
        if any(not part for part in parts):
            return []
        single = [part[0] for part in parts if len(part) == 1]
        if single:
            return [frozenset().union(*single)]
        return min(parts, key=len, default=[])
    if isinstance(pattern, OneOrMore):
        return parts[0]
    return [slot for part in parts for slot in part]


def _listed(names: list[str], types: list[str]) -> str:
    """As many names as fit on a line, then the types."""
    shown: list[str] = []
    length = 0
    for each in names:
        length += len(each) + 2
        if length > 110 and len(names) - len(shown) > 1:
            shown.append(f"{len(names) - len(shown)} more")
            break
        shown.append(each)
    return _either(shown + types)


def _either(names: list[str]) -> str:
    if len(names) > 3:
        names = [", ".join(names[:-1]), names[-1]] if len(names) < 40 else names[:3]
    return " or ".join(names) if len(names) < 3 else ", ".join(names[:-1]) + " or " + names[-1]
