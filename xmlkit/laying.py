"""Laying an edited tree over the text that it came from.

Laws
- What the edit did not touch is copied from the text, not written anew.
- An element that was moved keeps its own writing; one that was added takes the text's quotes, line
  ends and indentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

from lxml import etree

from xmlkit.markup import ATTRIBUTE, CDATA, MARKUP, name_of, retagged

__all__ = ["laid"]

_XML = "http://www.w3.org/XML/1998/namespace"


def laid(
    text: str,
    element: etree._Element,
    tree: etree._Element,
    origins: Mapping[etree._Element, etree._Element],
    quote: str,
) -> str:
    """How the edited `tree` is written, given the `text` of the `element` that it is a copy of.

    origins: which node of `element` each node of the copy was. quote: for tags without attributes.
    """
    return _Writer(text, element, origins, quote).write(tree)


class _Writer:
    """Writes an edited tree over the text of the original."""

    def __init__(
        self,
        text: str,
        element: etree._Element,
        origins: Mapping[etree._Element, etree._Element],
        quote: str,
    ) -> None:
        self.parts = MARKUP.split(text)
        self.extents = dict(_extents(self.parts, element))
        self.origins = origins
        self.quote = quote
        self.out: list[str] = []

    def write(self, tree: etree._Element) -> str:
        self._indent_added(tree)
        self._node(tree, {})
        return "".join(self.out)

    @cached_property
    def newline(self) -> str:
        return "\r\n" if any("\r\n" in text for text in self.parts[::2]) else "\n"

    def _node(self, node: etree._Element, scope: Mapping[str, str]) -> None:
        """Write a node where the prefixes of `scope` are declared ("" for the default)."""
        original = self.origins.get(node)
        first, last = (0, 0) if original is None else self.extents[original]
        if not isinstance(node.tag, str):
            same = original is not None and node.text == original.text
            written = etree.tostring(node, encoding="unicode", with_tail=False)
            self.out.append(self.parts[first] if same else written)
            return
        start = f"<{_element_name(node)}/>" if original is None else self.parts[first]
        start, scope = self._tag(node, original, start, scope)
        if first == last:
            if not node.text and len(node) == 0:
                self.out.append(start)
                return
            start = start[:-2].rstrip() + ">"
        self.out.append(start)
        self._text(node.text, original, "text", first if first != last else None)
        for child in node:
            self._node(child, scope)
            source = self.origins.get(child)
            last_part = None if source is None else self.extents[source][1]
            self._text(child.tail, source, "tail", last_part)
        name = _element_name(node)
        same = first != last and name_of(self.parts[first]) == name
        self.out.append(self.parts[last] if same else f"</{name}>")

    def _text(
        self, text: str | None, original: etree._Element | None, which: str, part: int | None
    ) -> None:
        """The characters after a part: as written, CDATA sections and all, unless they changed."""
        parts = self.parts
        if original is None or part is None or (text or "") != (getattr(original, which) or ""):
            if text:
                text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
                text = text.replace("\r", "&#13;").replace("\n", self.newline)
                self.out.append(text)
            return
        self.out.append(parts[part + 1])
        while part + 2 < len(parts) and parts[part + 2].startswith(CDATA):
            part += 2
            self.out.append(parts[part] + parts[part + 1])

    def _tag(
        self,
        node: etree._Element,
        original: etree._Element | None,
        tag: str,
        scope: Mapping[str, str],
    ) -> tuple[str, dict[str, str]]:
        """The start tag `tag`, made to say what `node` says, and the scope within it."""
        values: dict[str, str | None] = {}
        names = {}
        scope = dict(scope)
        for _, name, _, value in ATTRIBUTE.findall(tag):
            prefix, _, local = name.rpartition(":")
            if name == "xmlns" or prefix == "xmlns":
                scope[local if prefix else ""] = _unquoted(value)
            elif original is not None:
                uri = _XML if prefix == "xml" else original.nsmap.get(prefix)
                key = f"{{{uri}}}{local}" if prefix else local
                names[key] = name
                if key not in node.attrib:
                    values[name] = None
        for key, value in node.items():
            if key not in names:
                names[key] = _attribute_name(node, key)
                values[names[key]] = value
            elif original is None or original.get(key) != value:
                values[names[key]] = value
        needed = {node.prefix or "": etree.QName(node).namespace or ""}
        for key in node.keys():  # noqa: SIM118 - an element's items are its children
            prefix = names[key].rpartition(":")[0]
            if prefix and prefix != "xml":
                needed[prefix] = key[1:].partition("}")[0]
        for prefix, uri in needed.items():
            if scope.get(prefix, "") != uri:
                values[f"xmlns:{prefix}" if prefix else "xmlns"] = scope[prefix] = uri
        name = _element_name(node)
        if original is not None and name != name_of(tag):
            tag = f"<{name}{tag[len(name_of(tag)) + 1 :]}"
        return (retagged(tag, values, self.quote) if values else tag), scope

    def _indent_added(self, copied: etree._Element) -> None:
        """Put added elements that bring no white space on lines of their own, as their siblings."""
        for node in copied.iter(etree.Element):
            parent = node.getparent()
            original = None if parent is None else self.origins.get(parent)
            if node in self.origins or node.tail or parent is None or original is None:
                continue
            if (parent.text or "").strip() or any((child.tail or "").strip() for child in parent):
                continue
            if len(original):
                inner, outer = original.text or "", original[-1].tail or ""
            else:
                outer = _blank_before(original)
                inner = outer + "  "
            if "\n" not in inner or "\n" not in outer:
                continue
            before = node.getprevious()
            if before is None:
                parent.text = inner
            else:
                before.tail = inner
            node.tail = outer if node.getnext() is None else inner
            _indent_inside(node, inner, inner.removeprefix(outer) or "  ")


def _blank_before(element: etree._Element) -> str:
    """The line break and blanks in front of an element."""
    before, parent = element.getprevious(), element.getparent()
    if parent is None:
        return "\n"
    text = (parent.text if before is None else before.tail) or ""
    return text[text.rfind("\n") :] if "\n" in text and not text.strip() else ""


def _indent_inside(element: etree._Element, own: str, unit: str) -> None:
    if len(element) == 0 or (element.text or "").strip():
        return
    element.text = element.text or own + unit
    for child in element:
        _indent_inside(child, own + unit, unit)
        child.tail = child.tail or (own if child.getnext() is None else own + unit)


def _unquoted(value: str) -> str:
    if "&" not in value:
        return value[1:-1]
    from html import unescape

    return unescape(value[1:-1])


def _element_name(node: etree._Element) -> str:
    local = etree.QName(node).localname
    return f"{node.prefix}:{local}" if node.prefix else local


def _attribute_name(node: etree._Element, key: str) -> str:
    if not key.startswith("{"):
        return key
    uri, local = key[1:].split("}", 1)
    if uri == _XML:
        return f"xml:{local}"
    prefix = next(prefix for prefix, known in node.nsmap.items() if prefix and known == uri)
    return f"{prefix}:{local}"


def _extents(
    parts: list[str], element: etree._Element
) -> Iterator[tuple[etree._Element, tuple[int, int]]]:
    """Each node of `element` with its first and last part; a node comes when it ends."""
    nodes = element.iter()
    opened: list[tuple[etree._Element, int]] = []
    for i in range(1, len(parts), 2):
        tag = parts[i]
        if not opened and tag[1] in "!?":
            continue  # before or after the root
        if tag[1] == "/":
            node, first = opened.pop()
            yield node, (first, i)
        elif not tag.startswith(CDATA):
            node = next(nodes)
            if tag[1] in "!?" or tag[-2] == "/":
                yield node, (i, i)
            else:
                opened.append((node, i))
