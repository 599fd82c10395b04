"""What is found in a document, and what would mend it: plain data.

Laws
- A finding says where it is, what it is about and what is wrong; nobody has to read its message.
- An edit is data. Laid over the document it changes what it names and not one byte else.
- No finding shows a value that is a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from lxml import etree

from xmlkit.document import Document, RenameAttribute, SetAttributes

__all__ = [
    "Edit",
    "Finding",
    "Fix",
    "apply_fix",
    "apply_fixes",
    "apply_to",
    "secrets_of",
    "xpath_of",
]


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of a document.

    xpath: of the element that is changed, or of a text (".../text()[1]"). attribute: as written;
    with one the edit is about that attribute and not about the element.

    rename: the element, or its attribute, gets `name`.
    value: the attribute, or the element's text, becomes `value`. An attribute that is not there
    is not added.
    move: the element, its attribute or the text goes into the element at `to`: as its last child,
    or in front of the child at `before`. With `name` the value alone goes: as the attribute `name`
    ("@name"), as the element's text ("text()"), as the text of a new child `name`, or as the
    attribute of one (`name/@attribute`).
    delete: the element, its attribute (a declaration too: "xmlns", "xmlns:x") or the text goes.
    add: the element gets the attribute with `value`; without attribute the child `xml`, as its
    last or in front of the child at `before`.
    """

    kind: Literal["rename", "value", "move", "delete", "add"]
    xpath: str
    attribute: str = ""
    name: str = ""
    value: str = ""
    xml: str = ""
    to: str = ""
    before: str = ""


@dataclass(frozen=True, slots=True)
class Fix:
    """An edit that may mend what was found.

    verified: the edit was tried and libxml2 found the document valid, or, where there are more
    faults than this one, found no fault here any more.
    """

    edit: Edit
    verified: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found in a document.

    id: of `xmlkit explain`. line, column: from 1, of what it is about. xpath: by positions, of the
    element or attribute it is about; names in a namespace are found without a map of prefixes.
    expected, suggestions: what could stand there, nearest first; suggestions: what is meant.
    name: of the element or attribute, as written. identity: the device that it belongs to ("disk
    vda"). link: libvirt's page on it. fixes: the likeliest first.
    """

    id: str
    severity: Literal["error", "warning", "note"]
    message: str
    line: int
    column: int
    xpath: str
    expected: tuple[str, ...] = ()
    suggestions: tuple[str, ...] = ()
    name: str = ""
    identity: str = ""
    link: str = ""
    fixes: tuple[Fix, ...] = ()


def xpath_of(element: etree._Element) -> str:
    """The positional XPath of an element; it needs no map of prefixes."""
    steps: list[str] = []
    node: etree._Element | None = element
    while node is not None:
        parent = node.getparent()
        steps.append(_step(node, parent))
        node = parent
    return "/" + "/".join(reversed(steps))


def _step(node: etree._Element, parent: etree._Element | None) -> str:
    tag = str(node.tag)
    step = tag
    if tag[0] == "{":
        local = tag.rpartition("}")[2]
        step = f"*[name()='{node.prefix}:{local}']" if node.prefix else f"*[name()='{local}']"
    if parent is None or len(parent) == 1:
        return step
    if tag[0] == "{":
        # the name as written is what counts, whatever it is bound to
        local = tag.rpartition("}")[2]
        same = [
            each
            for each in parent.iterchildren(f"{{*}}{local}", tag)
            if each.prefix == node.prefix
            and str(each.tag).rpartition("}")[2] == local
            and (each.prefix or str(each.tag)[0] == "{" or str(each.tag) == local)
        ]
    else:
        same = list(parent.iterchildren(tag))
    return step if len(same) == 1 else f"{step}[{same.index(node) + 1}]"


def secrets_of(document: Document) -> tuple[tuple[int, int], ...]:
    """Where in a document's text its secrets stand, be it invalid; looked for once."""
    found: tuple[tuple[int, int], ...] | None = document.memo.get("secrets")
    if found is None:
        # a valid document needs it not
        from xmlkit.redaction import secrets

        found = document.memo["secrets"] = secrets(document.text)
    return found


def apply_fix(document: Document, edit: Edit) -> Document:
    """The document after an edit; all else stays as it was written.

    Raises ValueError if the edit does not fit the document: its XPath finds nothing, or an
    attribute that is to be renamed is not there.
    """
    return apply_fixes(document, (edit,))


def apply_fixes(document: Document, edits: Iterable[Edit]) -> Document:
    """The document after edits, each of which is about the document after those before it.

    Those of a kind that follow one another are laid over it at once. Raises ValueError as
    `apply_fix` does.
    """
    for way, group in groupby(edits, _way):
        if way == "tree":
            tree = document.tree()
            for edit in group:
                apply_to(tree, edit)
            document = document.lay(tree)
        else:
            document = document.edited([_in_tag(document, edit) for edit in group])
    return document


def _way(edit: Edit) -> str:
    """How an edit is made."""
    if edit.attribute.partition(":")[0] == "xmlns":
        return "declaration"
    return "name" if edit.kind == "rename" and edit.attribute else "tree"


def _in_tag(document: Document, edit: Edit) -> SetAttributes | RenameAttribute:
    element = _element_at(document.root, edit.xpath)
    if edit.kind == "rename":
        # the value keeps its quotes
        return RenameAttribute(element, edit.attribute, edit.name)
    # declarations are no attributes of the tree
    value = None if edit.kind == "delete" else edit.value
    return SetAttributes(element, {edit.attribute: value})


def apply_to(root: etree._Element, edit: Edit) -> None:
    """Lay an edit on a tree that may be changed. Raises ValueError if it does not fit."""
    if edit.xpath.rpartition("/")[2].startswith("text()"):
        _edit_text(root, edit)
        return
    element = _element_at(root, edit.xpath)
    if edit.attribute.partition(":")[0] == "xmlns":
        _redeclare(element, edit)
    elif edit.attribute:
        _edit_attribute(root, element, edit)
    elif edit.kind == "rename":
        element.tag = _clark(element, edit.name)
    elif edit.kind == "value":
        element.text = edit.value
    elif edit.kind == "delete":
        _take_out(element)
    elif edit.kind == "move":
        to = _element_at(root, edit.to)
        before = _element_at(root, edit.before) if edit.before else None
        value = "".join(element.xpath("text()")).strip()
        _take_out(element)
        if edit.name:
            _put_value(to, edit.name, value, before)
        else:
            _put(to, element, before)
    else:
        before = _element_at(root, edit.before) if edit.before else None
        to_add = _parsed(element, edit.xml)
        if before is None:
            element.append(to_add)
        else:
            before.addprevious(to_add)


def _element_at(root: etree._Element, xpath: str) -> etree._Element:
    found = root.getroottree().xpath(xpath)
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], etree._Element):
        return found[0]
    raise ValueError(f"{xpath} is not one element")


def _edit_text(root: etree._Element, edit: Edit) -> None:
    found = root.getroottree().xpath(edit.xpath)
    if not isinstance(found, list) or len(found) != 1:
        raise ValueError(f"{edit.xpath} is not one text")
    text = found[0]
    if not isinstance(text, etree._ElementUnicodeResult):
        raise ValueError(f"{edit.xpath} is not a text")
    owner = text.getparent()
    assert owner is not None
    said = text.strip()
    # the blanks around it are the document's lines and indentation
    begin, end = text[: text.index(said)], text[text.index(said) + len(said) :]
    kept = begin + end.lstrip(" ") if "\n" in begin and "\n" not in end else begin.rstrip(" ") + end
    if edit.kind == "value":
        kept = begin + edit.value + end
    if text.is_tail:
        owner.tail = kept or None
    elif edit.kind != "value" and not kept.strip() and len(owner) == 0:
        owner.text = None
    else:
        owner.text = kept or None
    if edit.kind == "move":
        before = _element_at(root, edit.before) if edit.before else None
        _put_value(_element_at(root, edit.to), edit.name, str(said), before)


def _edit_attribute(root: etree._Element, element: etree._Element, edit: Edit) -> None:
    key = _clark(element, edit.attribute, attribute=True)
    value = element.get(key)
    if edit.kind == "add":
        element.set(key, edit.value)
        return
    if value is None:
        raise ValueError(f"{edit.xpath} has no attribute {edit.attribute}")
    if edit.kind == "value":
        element.set(key, edit.value)
        return
    to = _element_at(root, edit.to) if edit.kind == "move" else element
    before = _element_at(root, edit.before) if edit.before else None
    if edit.kind == "rename":
        others = list(element.items())
        element.attrib.clear()
        new = _clark(element, edit.name, attribute=True)
        for name, each in others:
            element.set(new if name == key else name, each)
        return
    del element.attrib[key]
    if edit.kind == "move":
        _put_value(to, edit.name or "@" + edit.attribute, value, before)


def _put_value(to: etree._Element, name: str, value: str, before: etree._Element | None) -> None:
    if name.startswith("@"):
        to.set(_clark(to, name[1:], attribute=True), value)
        return
    if name == "text()":
        to.text = value
        return
    name, _, attribute = name.partition("/@")
    child = to.makeelement(_clark(to, name))
    if attribute:
        child.set(attribute, value)
    else:
        child.text = value
    if before is None:
        to.append(child)
    else:
        before.addprevious(child)


def _redeclare(element: etree._Element, edit: Edit) -> None:
    """What a changed declaration means for the names below it: the tree has only those."""
    prefix = edit.attribute.partition(":")[2] or None
    old = element.nsmap.get(prefix)
    for node in element.iter(etree.Element):
        names = etree.QName(node)
        if node.prefix == prefix and names.namespace == old and node.nsmap.get(prefix) == old:
            local = names.localname
            node.tag = f"{{{edit.value}}}{local}" if edit.value else local
        if prefix is not None:
            for key, value in list(node.items()):
                if key.startswith(f"{{{old}}}"):
                    del node.attrib[key]
                    node.set(f"{{{edit.value}}}{key.rpartition('}')[2]}", value)


def _clark(element: etree._Element, name: str, *, attribute: bool = False) -> str:
    """The name as lxml has it, of one as written within `element`."""
    prefix, colon, local = name.partition(":")
    if colon:
        uri = element.nsmap.get(prefix)
        if prefix == "xml":
            uri = "http://www.w3.org/XML/1998/namespace"
        if uri is None:
            raise ValueError(f"the prefix {prefix} is not declared")
        return f"{{{uri}}}{local}"
    uri = None if attribute else element.nsmap.get(None)
    return f"{{{uri}}}{name}" if uri else name


def _parsed(parent: etree._Element, xml: str) -> etree._Element:
    declared = "".join(f" xmlns:{prefix}='{uri}'" for prefix, uri in parent.nsmap.items() if prefix)
    default = f" xmlns='{parent.nsmap[None]}'" if None in parent.nsmap else ""
    return etree.fromstring(f"<_{declared}{default}>{xml}</_>")[0]


def _take_out(element: etree._Element) -> None:
    """Remove an element, with the blanks in front of it; the text behind it stays."""
    parent = element.getparent()
    if parent is None:
        raise ValueError("the root cannot go")
    before, tail = element.getprevious(), element.tail or ""
    own = (parent.text if before is None else before.tail) or ""
    if not own.strip():
        kept = tail
    elif not tail.strip():
        kept = own
    else:
        kept = own + tail
    if before is None:
        parent.text = kept or None
    else:
        before.tail = kept or None
    element.tail = None
    parent.remove(element)
    if len(parent) == 0 and not (parent.text or "").strip():
        parent.text = None


def _put(to: etree._Element, element: etree._Element, before: etree._Element | None) -> None:
    """Put an element that brings its own writing into another, on a line of its own."""
    siblings: Iterator[etree._Element] = to.iterchildren()
    first = next(siblings, None)
    inner = to.text or "" if first is not None else ""
    if before is not None:
        element.tail = inner if not inner.strip() else None
        at = to.index(before)
        to.insert(at, element)
    elif first is None:
        to.append(element)
    else:
        last = to[-1]
        element.tail, last.tail = last.tail, (inner if not inner.strip() else last.tail)
        to.append(element)
