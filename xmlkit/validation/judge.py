"""Whether an element is what a schema allows, by derivatives: the ground on which faults are told.

Laws
- Where nothing is wrong it says what libxml2 says; where they disagree, libxml2 is right.
- An element is judged once for each definition that it could be, whatever is asked about it.
- Nothing is changed: a change is tried by judging other attributes and other content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lxml import etree

from xmlkit.validation.pattern import Attribute, Element, Pattern, Text
from xmlkit.validation.rng import Grammar

__all__ = ["Content", "Judge", "local", "written"]

# What is in an element: its children, and its text where it is not blank.
Content = list["etree._Element | str"]


def local(name: str) -> str:
    """A name without its namespace."""
    return name.rpartition("}")[2]


def written(node: etree._Element, attribute: str = "") -> str:
    """The name of an element, or of one of its attributes, as it is written."""
    if not attribute:
        name = local(str(node.tag))
        return f"{node.prefix}:{name}" if node.prefix else name
    if attribute[0] != "{":
        return attribute
    uri, _, name = attribute[1:].partition("}")
    if uri == "http://www.w3.org/XML/1998/namespace":
        return f"xml:{name}"
    prefix = next((each for each, bound in node.nsmap.items() if bound == uri and each), "")
    return f"{prefix}:{name}" if prefix else name


class Judge:
    """Judges the elements of one document by one grammar."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.algebra = grammar.algebra
        # elements that are taken for others, once that was found to be meant
        self.renamed: dict[etree._Element, str] = {}
        self._valid: dict[tuple[etree._Element, Element], bool] = {}
        self._counted: dict[tuple[etree._Element, Element], frozenset[Element]] = {}
        self._contents: dict[etree._Element, Content] = {}
        self._attributes: dict[etree._Element, Mapping[str, str]] = {}

    def name(self, node: etree._Element) -> str:
        """The name of an element as the schema has it, {uri}local."""
        return self.renamed.get(node) or str(node.tag)

    def attributes(self, node: etree._Element) -> Mapping[str, str]:
        """An element's attributes, by their names as the schema has them."""
        found = self._attributes.get(node)
        if found is None:
            found = self._attributes[node] = dict(node.items())
        return found

    def content(self, node: etree._Element) -> Content:
        """The children of an element, and its text where it is not blank."""
        found = self._contents.get(node)
        if found is None:
            found = []
            text = node.text or ""
            for child in node:
                if isinstance(child.tag, str):
                    if text and not text.isspace():
                        found.append(text)
                    found.append(child)
                    text = ""
                text += child.tail or ""
            if (text and not text.isspace()) or not found:
                found.append(text)
            self._contents[node] = found
        return found

    def accepts(self, attribute: Attribute, value: str) -> bool:
        """Whether an attribute may have a value."""
        return self.algebra.accepts(attribute.content, value)

    def counted(self, child: etree._Element, parent: Element) -> frozenset[Element]:
        """Those of the children of a definition that an element is."""
        key = (child, parent)
        found = self._counted.get(key)
        if found is None:
            named = parent.children(self.name(child))
            found = frozenset([leaf for leaf in named if self.valid(child, leaf)])
            self._counted[key] = found
        return found

    def valid(self, node: etree._Element, leaf: Element) -> bool:
        """Whether an element is what a definition says, its name aside."""
        key = (node, leaf)
        found = self._valid.get(key)
        if found is None:
            found = self.fits(leaf, self.attributes(node), self.content(node))
            self._valid[key] = found
        return found

    def fits(
        self,
        leaf: Element,
        attributes: Mapping[str, str],
        content: Iterable[etree._Element | str | frozenset[Element]],
    ) -> bool:
        """Whether a definition allows these attributes and this content.

        In the place of a child may stand what it counts as.
        """
        algebra = self.algebra
        left = leaf.content
        for name, value in attributes.items():
            left = algebra.without(left, algebra.fitting(leaf.attributes(name), value))
            if left is algebra.nothing:
                return False
        left = algebra.closed(left)
        if left is algebra.nothing:
            return False
        items = content if isinstance(content, list) else list(content)
        if len(items) == 1 and isinstance(items[0], str):
            return algebra.accepts(left, items[0])
        for item in items:
            left = self.followed(left, leaf, item)
            if left is algebra.nothing:
                return False
        return left.nullable

    def followed(
        self, left: Pattern, leaf: Element, item: etree._Element | str | frozenset[Element]
    ) -> Pattern:
        """What is left of a content after a child, or a text among children."""
        if isinstance(item, str):
            if not item.strip():
                return left
            texts = frozenset(each for each in left.leaves if isinstance(each, Text))
            return self.algebra.after(left, texts)
        leaves = item if isinstance(item, frozenset) else self.counted(item, leaf)
        return self.algebra.after(left, leaves)
