"""Reading RELAX NG files into patterns.

Laws
- Read in place, without network, entities or DOCTYPEs; what cannot be used is a SchemaError.
- An element's content is read when a document first has such an element: a schema is hundreds of
  elements, a document a dozen.
- A grammar that has grown large is forgotten and read anew, so that memory stays bounded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial

from lxml import etree

from xmlkit.validation import datatypes
from xmlkit.validation.pattern import (
    Algebra,
    Attribute,
    Data,
    Element,
    Listing,
    NameClass,
    Pattern,
    Value,
)
from xmlkit.validation.schemas import SchemaError

__all__ = ["Grammar", "grammar"]

_RNG = "{http://relaxng.org/ns/structure/1.0}"
_DEEPEST = 400
# patterns and derivatives, some 1,300 bytes each: libvirt's own documents need 10,000
_LARGEST = 60_000
# all grammars together; there is one for each schema, and each version of it
_TOGETHER = 120_000

_grammars: dict[tuple[str, str], Grammar] = {}


@dataclass(eq=False)
class Grammar:
    """A schema's patterns. start: what a document's root may be."""

    algebra: Algebra
    start: Pattern
    # definitions that are any of several, made where a document could mean each of them
    unions: dict[frozenset[Element], Element] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    # by definition and name: its children whose names are nearly that one
    slips: dict[tuple[Element, str], tuple[Element, ...]] = field(default_factory=dict)
    _places: dict[str, tuple[tuple[Element, Element], ...]] = field(default_factory=dict)

    @cached_property
    def elements(self) -> frozenset[Element]:
        return frozenset(each for each in self.start.leaves if isinstance(each, Element))

    def parents_of(self, name: str) -> tuple[str, ...]:
        """The elements that may have a child of this name, anywhere in the schema."""
        parents = (parent for parent, _ in self.places_of(name))
        return tuple(dict.fromkeys(each for parent in parents for each in parent.names.known()))

    def places_of(self, name: str) -> tuple[tuple[Element, Element], ...]:
        """Each definition that may have a child of this name, with that of the child."""
        if name.rpartition("}")[2] not in self.names:
            return ()
        if not self._places:
            found: dict[str, list[tuple[Element, Element]]] = {}
            seen: set[Element] = set()
            waiting = sorted(self.elements, key=lambda each: each.number)
            for element in waiting:
                if element in seen:
                    continue
                seen.add(element)
                for leaf in sorted(element.content.leaves, key=lambda each: each.number):
                    if isinstance(leaf, Element):
                        waiting.append(leaf)
                        for each in leaf.names.known():
                            found.setdefault(each, []).append((element, leaf))
            self._places = {each: tuple(places) for each, places in found.items()}
        return self._places.get(name, ())


def grammar(directory: str, schema: str, references: tuple[str, ...] = ()) -> Grammar:
    """The grammar `schema`.rng of a directory, read once until it has grown large.

    references: names of defines, one of which a document's root has to be in place of what the
    schema starts with. Raises SchemaError.
    """
    key = (directory, "/".join((schema, *references)))
    sizes = {known: each.algebra.size for known, each in _grammars.items()}
    if sum(sizes.values()) > _TOGETHER:
        # the largest alone: it takes long until there is as much again
        del _grammars[max(sizes, key=lambda known: sizes[known])]
    found = _grammars.get(key)
    if found is not None and found.algebra.size < _LARGEST:
        return found
    reader = _Reader(Algebra(), directory)
    try:
        scope = reader.scope(reader.file(f"{schema}.rng"), None)
        algebra = reader.algebra
        if references:
            start = algebra.choice([reader.reference(scope, name) for name in references])
        else:
            start = reader.reference(scope, _START)
    except RecursionError:
        raise SchemaError(f"cannot use {schema}.rng in {directory}: nested too deep") from None
    if len(_grammars) > 40:
        _grammars.clear()
    names = frozenset(
        element.get("name", "").strip().rpartition(":")[2]
        for root in reader.files.values()
        for element in root.iter(_RNG + "element")
    )
    made = _grammars[key] = Grammar(algebra, start, names=names)
    return made


_START = ""


class _Scope:
    """One grammar: its defines, as they are written, and what was read of them."""

    def __init__(self, parent: _Scope | None) -> None:
        self.parent = parent
        self.defines: dict[str, list[etree._Element]] = {}
        self.patterns: dict[str, Pattern] = {}
        self.reading: set[str] = set()


class _Reader:
    def __init__(self, algebra: Algebra, directory: str) -> None:
        self.algebra = algebra
        self.directory = directory
        self.files: dict[str, etree._Element] = {}

    def file(self, name: str, base: str = "") -> etree._Element:
        path = os.path.normpath(os.path.join(base or self.directory, name))
        root = self.files.get(path)
        if root is None:
            parser = etree.XMLParser(
                resolve_entities=False,
                no_network=True,
                load_dtd=False,
                remove_comments=True,
                remove_pis=True,
            )
            try:
                root = etree.parse(path, parser).getroot()
            except (etree.XMLSyntaxError, OSError) as error:
                raise SchemaError(f"cannot use {path}: {error}") from None
            root.set("_base", os.path.dirname(path))
            self.files[path] = root
        return root

    def scope(self, grammar: etree._Element, parent: _Scope | None) -> _Scope:
        scope = _Scope(parent)
        if grammar.tag == _RNG + "grammar":
            for name, nodes in self.defines(grammar, ()).items():
                scope.defines[name] = nodes
        else:
            # a file may be one pattern
            scope.patterns[_START] = self.pattern(grammar, scope)
        return scope

    def defines(
        self, grammar: etree._Element, within: tuple[etree._Element, ...]
    ) -> dict[str, list[etree._Element]]:
        """The defines of a grammar, those that it includes among them; its start is "" of them."""
        if grammar in within or len(within) > 50:
            raise SchemaError(f"the schemas in {self.directory} include each other")
        found: dict[str, list[etree._Element]] = {}
        for node in grammar.iterchildren(etree.Element):
            if node.tag == _RNG + "div":
                self._merge(found, self.defines(node, (*within, grammar)))
            elif node.tag == _RNG + "include":
                base = node.getroottree().getroot().get("_base", "")
                included = self.file(node.get("href", ""), base)
                own = self.defines(node, (*within, grammar))
                inherited = self.defines(included, (*within, grammar))
                for name in own:
                    inherited.pop(name, None)
                self._merge(found, inherited)
                self._merge(found, own)
            elif node.tag in (_RNG + "define", _RNG + "start"):
                name = node.get("name", "") if node.tag == _RNG + "define" else _START
                self._merge(found, {name: [node]})
        return found

    @staticmethod
    def _merge(
        found: dict[str, list[etree._Element]], more: Mapping[str, list[etree._Element]]
    ) -> None:
        for name, nodes in more.items():
            known = found.setdefault(name, [])
            known += [node for node in nodes if node not in known]

    def reference(self, scope: _Scope, name: str) -> Pattern:
        found = scope.patterns.get(name)
        if found is not None:
            return found
        nodes = scope.defines.get(name)
        if nodes is None:
            raise SchemaError(f"the schemas in {self.directory} do not define {name or 'a start'}")
        if name in scope.reading:
            raise SchemaError(f"the schemas in {self.directory} define {name} by itself")
        scope.reading.add(name)
        parts = [self.all_of(node, scope) for node in nodes]
        combine = {node.get("combine") for node in nodes} - {None}
        join = self.algebra.interleave if combine == {"interleave"} else self.algebra.choice
        found = scope.patterns[name] = parts[0] if len(parts) == 1 else join(parts)
        scope.reading.discard(name)
        return found

    def all_of(self, node: etree._Element, scope: _Scope, skip: int = 0) -> Pattern:
        """The patterns in a node, one after the other."""
        found = self.algebra.empty
        children = [each for each in node.iterchildren(etree.Element) if _is_rng(each)][skip:]
        for child in reversed(children):
            found = self.algebra.group(self.pattern(child, scope), found)
        return found

    def pattern(self, node: etree._Element, scope: _Scope) -> Pattern:
        algebra = self.algebra
        kind = str(node.tag).removeprefix(_RNG)
        if kind == "ref":
            return self.reference(scope, node.get("name", "").strip())
        if kind == "parentRef" and scope.parent is not None:
            return self.reference(scope.parent, node.get("name", "").strip())
        if kind == "element":
            names, skip = _names(node, node)
            read = partial(self.all_of, node, scope, skip)
            return Element(algebra.next(), _define(node), names, self.bounded(read, node))
        if kind == "attribute":
            names, skip = _names(node, None)
            content = self.all_of(node, scope, skip)
            if content is algebra.empty and len(node) == skip:
                content = algebra.text
            return Attribute(algebra.next(), _define(node), names, content)
        if kind == "optional":
            return algebra.optional(self.all_of(node, scope))
        if kind == "zeroOrMore":
            return algebra.optional(algebra.one_or_more(self.all_of(node, scope)))
        if kind == "oneOrMore":
            return algebra.one_or_more(self.all_of(node, scope))
        if kind == "choice":
            return algebra.choice(self.each(node, scope))
        if kind == "interleave":
            return algebra.interleave(self.each(node, scope))
        if kind == "mixed":
            return algebra.interleave((algebra.text, self.all_of(node, scope)))
        if kind == "group":
            return self.all_of(node, scope)
        if kind == "text":
            return algebra.text
        if kind == "empty":
            return algebra.empty
        if kind == "notAllowed":
            return algebra.nothing
        if kind == "value":
            return self.value(node)
        if kind == "data":
            return self.data(node, scope)
        if kind == "list":
            return Listing(algebra.next(), _define(node), self.all_of(node, scope))
        if kind == "grammar":
            return self.reference(self.scope(node, scope), _START)
        if kind == "externalRef":
            base = node.getroottree().getroot().get("_base", "")
            return self.reference(self.scope(self.file(node.get("href", ""), base), scope), _START)
        raise SchemaError(f"the schemas in {self.directory} have {kind}, which is unknown")

    def each(self, node: etree._Element, scope: _Scope) -> list[Pattern]:
        children = node.iterchildren(etree.Element)
        return [self.pattern(child, scope) for child in children if _is_rng(child)]

    def bounded(self, read: Callable[[], Pattern], node: etree._Element) -> Callable[[], Pattern]:
        """An element's content; a schema that never ends in it is not to be used."""

        def content() -> Pattern:
            try:
                return read()
            except RecursionError:
                raise SchemaError(f"cannot use the schemas in {self.directory}") from None

        return content

    def value(self, node: etree._Element) -> Pattern:
        text = node.text or ""
        if node.get("type", "token") == "string":
            return Value(self.algebra.next(), _define(node), text, text.__eq__)
        text = " ".join(text.split())
        return Value(
            self.algebra.next(), _define(node), text, lambda given: " ".join(given.split()) == text
        )

    def data(self, node: etree._Element, scope: _Scope) -> Pattern:
        type_ = node.get("type", "string").strip()
        facets = tuple(
            (param.get("name", ""), param.text or "") for param in node.iterchildren(_RNG + "param")
        )
        try:
            matches = datatypes.is_of(type_, facets)
        except ValueError as error:
            raise SchemaError(f"cannot use the schemas in {self.directory}: {error}") from None
        but = node.find(_RNG + "except")
        if but is not None:
            pattern = self.algebra.choice(self.each(but, scope))
            whole = matches

            def matches(text: str) -> bool:
                return whole(text) and not self.algebra.accepts(pattern, text)

        return Data(self.algebra.next(), _define(node), type_, facets, matches)


def _is_rng(node: etree._Element) -> bool:
    return str(node.tag).startswith(_RNG)


def _define(node: etree._Element) -> str:
    """The name of the define around a node; an element of the schema in between has none."""
    parent = node.getparent()
    while parent is not None and parent.tag not in (_RNG + "element", _RNG + "attribute"):
        if parent.tag == _RNG + "define":
            return parent.get("name", "")
        parent = parent.getparent()
    return ""


def _names(node: etree._Element, inherits: etree._Element | None) -> tuple[NameClass, int]:
    """The names of an element or attribute, and how many of its children say so."""
    name = node.get("name")
    if name is not None:
        return NameClass(frozenset((_clark(node, name.strip(), inherits is not None),))), 0
    first = next(each for each in node.iterchildren(etree.Element) if _is_rng(each))
    return _name_class(first, inherits is not None), 1


def _name_class(node: etree._Element, inherits: bool) -> NameClass:
    kind = str(node.tag).removeprefix(_RNG)
    if kind == "name":
        return NameClass(frozenset((_clark(node, (node.text or "").strip(), True),)))
    children = [each for each in node.iterchildren(etree.Element) if _is_rng(each)]
    if kind == "choice":
        return NameClass(others=tuple(_name_class(child, inherits) for child in children))
    but = None
    for child in children:  # except
        but = NameClass(others=tuple(_name_class(each, inherits) for each in child))
    if kind == "anyName":
        return NameClass(wild=True, but=but)
    return NameClass(wild=True, uri=_namespace(node), but=but)


def _clark(node: etree._Element, name: str, inherits: bool) -> str:
    prefix, colon, local = name.partition(":")
    if colon:
        return f"{{{node.nsmap.get(prefix, '')}}}{local}"
    uri = _namespace(node) if inherits else node.get("ns", "")
    return f"{{{uri}}}{name}" if uri else name


def _namespace(node: etree._Element) -> str:
    while True:
        uri = node.get("ns")
        parent = node.getparent()
        if uri is not None or parent is None:
            return uri or ""
        node = parent
