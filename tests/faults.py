"""Documents of libvirt's tests with faults put into them, and where those are.

Rules
- A fault is put in by lxml alone and kept only where libxml2 refuses the document for it: nothing
  here asks the code under test.
- The same seed gives the same documents.
- What is counted is the first finding of a document, as a person would read it.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import corpus
from lxml import etree

from xmlkit.validation import schemas

# The slips that people make in a word.
_NEXT = dict(zip("qwertyuiopasdfghjklzxcvbnm", "wertyuiopqsdfghjklaxcvbnmz", strict=True))
_FOREIGN = ("note", "colour", "remark", "extra-settings")
_STRAY = ("stray", "TODO", ">", "/>", ";")


class Truth(NamedTuple):
    """What was done to a document.

    about: the element that a finding should be about; name: what it should name; meant: what it
    should suggest, one of them; attribute: the attribute it is about. near: elements whose lines
    are as good.
    """

    about: etree._Element
    name: str
    meant: tuple[str, ...] = ()
    attribute: str = ""
    near: tuple[etree._Element, ...] = ()


@dataclass(frozen=True)
class Case:
    """A document with one fault, or with several of different classes."""

    source: bytes
    schema: str
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class Fault:
    """What is wrong, as the finding should tell it. lines: those that are right."""

    kind: str
    lines: frozenset[int]
    name: str
    meant: tuple[str, ...]
    xpath: str


class Told(NamedTuple):
    """What somebody says is wrong: a line, words, and suggestions in their order."""

    line: int
    message: str
    suggestions: Sequence[str] = ()
    xpath: str = ""


def slip(random_: random.Random, word: str) -> str:
    """A word as somebody may mistype it."""
    at = random_.randrange(1, len(word)) if len(word) > 1 else 0
    kinds: list[Callable[[], str]] = [
        lambda: word[:at] + word[at] + word[at:],
        lambda: word[:at] + word[at + 1 :] if len(word) > 3 else word,
        lambda: word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :],
        lambda: word[:at] + _NEXT.get(word[at], word[at]) + word[at + 1 :],
        lambda: word[:-1] if word.endswith("s") else word + "s",
        lambda: word.upper() if word.islower() else word.lower(),
    ]
    return random_.choice(kinds)()


class _GoneError(Exception):
    """Another fault has taken the element away."""


# The elements below a document's root, in its order: the same fault can be put into a copy.
Elements = list[etree._Element]
Put = Callable[[Elements, random.Random], Truth | None]


def _parent(element: etree._Element) -> etree._Element:
    parent = element.getparent()
    if parent is None:
        raise _GoneError
    return parent


def _name(element: etree._Element) -> str:
    return etree.QName(element).localname


def _misspelled_element(elements: Elements, random_: random.Random) -> Truth | None:
    element = random_.choice(elements)
    old = etree.QName(element).localname
    new = slip(random_, old)
    if new == old or element.prefix:
        return None
    element.tag = new
    return Truth(element, new, (old,))


def _misspelled_attribute(elements: Elements, random_: random.Random) -> Truth | None:
    element = random_.choice(elements)
    if not element.attrib:
        return None
    old = str(random_.choice(element.keys()))
    new = slip(random_, old)
    if new in element.attrib or "{" in old:
        return None
    items = [(new if key == old else key, value) for key, value in element.items()]
    element.attrib.clear()
    for key, value in items:
        element.set(key, value)
    return Truth(element, new, (old,), new)


def _bad_value(elements: Elements, random_: random.Random) -> Truth | None:
    element = random_.choice(elements)
    if not element.attrib:
        return None
    name = str(random_.choice(element.keys()))
    old = element.get(name, "")
    if not re.fullmatch(r"[a-z][a-z0-9-]{2,}", old):
        return None
    element.set(name, slip(random_, old))
    return Truth(element, name, (old,), name)


def _bad_form(elements: Elements, random_: random.Random) -> Truth | None:
    element = random_.choice(elements)
    shapes: dict[str, tuple[Callable[[str], str], tuple[str, ...]]] = {
        r"[0-9a-f-]{36}": (lambda old: old[:-1], ("UUID",)),
        r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}": (lambda old: old + ":00", ("MAC",)),
        r"0x[0-9a-f]+": (lambda old: "0xzz", ("hexadecimal", "0x", "number")),
        r"[0-9]+": (lambda old: old + " pieces", ("number",)),
        r"/.+": (lambda old: old[1:], ("path",)),
    }
    if element.attrib and random_.random() < 0.7:
        name = str(random_.choice(element.keys()))
        old = element.get(name, "")
    elif len(element) == 0 and element.text:
        name, old = "", element.text
    else:
        return None
    for shape, (spoilt, meant) in shapes.items():
        if re.fullmatch(shape, old):
            if name:
                element.set(name, spoilt(old))
            else:
                element.text = spoilt(old)
            # a choice of numbers is as good
            return Truth(element, name or _name(element), (*meant, old), name)
    return None


def _missing_child(elements: Elements, random_: random.Random) -> Truth | None:
    element = random_.choice(elements)
    parent = _parent(element)
    parent.remove(element)
    return Truth(parent, _name(parent), (_name(element),))


def _missing_attribute(elements: Elements, random_: random.Random) -> Truth | None:
    element = random_.choice(elements)
    if not element.attrib:
        return None
    name = str(random_.choice(element.keys()))
    del element.attrib[name]
    return Truth(element, _name(element), (name,))


def _extra_element(elements: Elements, random_: random.Random) -> Truth | None:
    parent = random_.choice(elements)
    if len(parent) == 0:
        return None
    element = etree.Element(random_.choice(_FOREIGN))
    element.tail = parent[-1].tail
    parent.insert(random_.randrange(len(parent) + 1), element)
    return Truth(element, _name(element))


def _extra_attribute(elements: Elements, random_: random.Random) -> Truth | None:
    element = random_.choice(elements)
    name = random_.choice(_FOREIGN)
    element.set(name, "1")
    return Truth(element, name, (), name)


def _moved(elements: Elements, random_: random.Random) -> Truth | None:
    element, to = random_.choice(elements), random_.choice(elements)
    parent = _parent(element)
    if to is element or element in to.iterancestors() or len(to) == 0:
        return None
    if to is parent or any(child.tag == element.tag for child in to):
        return None
    to.append(element)
    return Truth(element, _name(element), (_name(parent),))


def _duplicate(elements: Elements, random_: random.Random) -> Truth | None:
    element = random_.choice(elements)
    second = copy.deepcopy(element)
    element.addnext(second)
    words = ("second", "duplicate", "once", "only one")
    return Truth(second, _name(element), words, near=(element,))


def _stray_text(elements: Elements, random_: random.Random) -> Truth | None:
    parent = random_.choice(elements)
    if len(parent) == 0:
        return None
    child = random_.choice(list(parent))
    child.tail = f" {random_.choice(_STRAY)}{child.tail or ''}"
    return Truth(parent, _name(parent), ("text",), near=(child,))


def _wrong_namespace(elements: Elements, random_: random.Random) -> Truth | None:
    element = random_.choice(elements)
    if element.prefix or len(element):
        return None
    other = etree.Element(
        f"{{urn:example:libvirt}}{element.tag!s}", element.attrib, {None: "urn:example:libvirt"}
    )
    other.text, other.tail = element.text, element.tail
    _parent(element).replace(element, other)
    return Truth(other, _name(element), ("xmlns",))


PUTS: dict[str, Put] = {
    "misspelled-element": _misspelled_element,
    "misspelled-attribute": _misspelled_attribute,
    "bad-value": _bad_value,
    "bad-form": _bad_form,
    "missing-child": _missing_child,
    "missing-attribute": _missing_attribute,
    "extra-element": _extra_element,
    "extra-attribute": _extra_attribute,
    "moved": _moved,
    "duplicate": _duplicate,
    "stray-text": _stray_text,
    "wrong-namespace": _wrong_namespace,
}


def cases(
    source: Path, *, seed: int, each: int, names: Iterable[str], together: int = 1
) -> Iterator[Case]:
    """`each` documents of each class of fault, from libvirt's source tree.

    names: of the schemas whose documents are taken. together: how many faults a document has;
    the first is of the class, the others of any.
    """
    wanted = set(names)
    directory = schemas.directory()
    random_ = random.Random(seed)  # noqa: S311 - not for secrets
    samples = [
        sample
        for sample in corpus.samples(source)
        if sample.schema in wanted and sample.expected_valid
    ]
    random_.shuffle(samples)
    for kind in PUTS:
        made = 0
        for sample in _in_turn(samples) * 3:
            if made == each:
                break
            schema = schemas.compiled(directory, sample.schema)
            case = _case(sample, schema, kind, random_, together)
            if case is not None:
                made += 1
                yield case


def _in_turn(samples: list[corpus.Sample]) -> list[corpus.Sample]:
    """One of each schema, then the next one of each; there are far more domains than others."""
    seen: dict[str, int] = {}
    ranks = []
    for number, sample in enumerate(samples):
        seen[sample.schema] = seen.get(sample.schema, 0) + 1
        ranks.append((seen[sample.schema], number))
    return [samples[number] for _, number in sorted(ranks)]


def _case(
    sample: corpus.Sample, schema: etree.RelaxNG, kind: str, random_: random.Random, together: int
) -> Case | None:
    parser = etree.XMLParser(remove_comments=True)
    root = etree.fromstring(sample.path.read_bytes(), parser)
    if len(root) == 0 or len(root) > 400 or not schema.validate(root):
        return None
    elements = _elements(root)
    kinds = [kind, *random_.sample(sorted(PUTS), together - 1)]
    truths: list[tuple[str, Truth]] = []
    for each in kinds:
        for _ in range(8):
            alone = etree.fromstring(sample.path.read_bytes(), parser)
            number = random_.randrange(2**30)
            # the same fault alone has to be one
            put = PUTS[each](_elements(alone), random.Random(number))  # noqa: S311
            if put is None or schema.validate(alone):
                continue
            try:
                truth = PUTS[each](elements, random.Random(number))  # noqa: S311
            except _GoneError:
                return None
            if truth is None:
                return None
            truths.append((each, truth))
            break
        else:
            return None
    if together > 1 and not _apart([truth for _, truth in truths]):
        return None
    text = etree.tostring(root)
    numbered = etree.fromstring(text)
    tree = root.getroottree()
    old = dict(zip(root.iter(), numbered.iter(), strict=True))
    if any(node not in old for _, truth in truths for node in (truth.about, *truth.near)):
        return None
    faults = []
    for each, truth in truths:
        nodes = [truth.about, *truth.near]
        lines = {int(old[node].sourceline or 0) for node in nodes}
        if each == "missing-child":
            # where the child is missing, or where its parent ends
            lines.add(_last_line(text, old[truth.about]))
        if each == "stray-text":
            child = truth.near[0]
            lines.add(_last_line(text, old[child]))
        xpath = tree.getpath(truth.about) + (f"/@{truth.attribute}" if truth.attribute else "")
        faults.append(Fault(each, frozenset(lines), truth.name, truth.meant, xpath))
    return Case(text, sample.schema, tuple(faults))


def _elements(root: etree._Element) -> Elements:
    return list(root.iterdescendants(etree.Element))


def _apart(truths: Sequence[Truth]) -> bool:
    """Whether no fault is within another, or beside it."""
    for one in truths:
        for other in truths:
            if one is not other:
                around = {one.about, *one.about.iterancestors()}
                if other.about in around or _family(one) == _family(other):
                    return False
    return True


def _family(truth: Truth) -> etree._Element | None:
    parent = truth.about.getparent()
    return truth.about if parent is None else parent


def _last_line(text: bytes, element: etree._Element) -> int:
    """The line in which an element ends."""
    lines = int(element.sourceline or 0)
    for node in element.iter():
        lines += (node.text or "").count("\n")
        if node is not element:
            lines += (node.tail or "").count("\n")
    return lines


class Score(NamedTuple):
    """Whether a finding has the right line; the name as well; what was meant; and the XPath."""

    line: bool
    named: bool
    meant: bool
    xpath: bool


def score(fault: Fault, told: Told) -> Score:
    """How good a finding is: what was meant counts within 200 characters or 3 suggestions."""
    line = told.line in fault.lines
    named = line and _says(told.message, fault.name)
    words = " ".join([told.message[:200], *told.suggestions[:3]])
    meant = not fault.meant or any(_says(words, word) for word in fault.meant)
    plain = re.sub(r"\*\[name\(\)='([^']*)'\]", r"\1", told.xpath)
    right = re.sub(r"\*\[name\(\)='([^']*)'\]|\*", r"\1", fault.xpath)
    element = re.sub(r"/@[^/]*$", "", right)
    xpath = plain in (right, element) or fault.kind == "wrong-namespace"
    return Score(line, named, meant, xpath or fault.kind == "duplicate")


def _says(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", text, re.IGNORECASE) is not None
