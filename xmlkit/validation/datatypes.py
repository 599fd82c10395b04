"""Datatypes of XML Schema, as far as schemas of libvirt's kind use them.

Laws
- A type that is not known here accepts everything: the verdict is libxml2's, not ours.
- Patterns are XML Schema's: they match the whole value, and "^" and "$" are ordinary characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

__all__ = ["INTEGERS", "is_of", "translated"]

# Type -> the least and the greatest value.
INTEGERS: dict[str, tuple[int | None, int | None]] = {
    "integer": (None, None),
    "nonNegativeInteger": (0, None),
    "positiveInteger": (1, None),
    "nonPositiveInteger": (None, 0),
    "negativeInteger": (None, -1),
    "long": (-(2**63), 2**63 - 1),
    "int": (-(2**31), 2**31 - 1),
    "short": (-(2**15), 2**15 - 1),
    "byte": (-128, 127),
    "unsignedLong": (0, 2**64 - 1),
    "unsignedInt": (0, 2**32 - 1),
    "unsignedShort": (0, 2**16 - 1),
    "unsignedByte": (0, 255),
}
_SHAPES = {
    "decimal": r"[+-]?(\d+(\.\d*)?|\.\d+)",
    "double": r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|-?INF|NaN",
    "float": r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|-?INF|NaN",
    "boolean": "true|false|1|0",
    "dateTime": r"-?\d{4,}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?",
    "date": r"-?\d{4,}-\d\d-\d\d(Z|[+-]\d\d:\d\d)?",
    "NCName": r"[^\W\d][\w.\-\u00b7]*",
    "Name": r"[^\W\d:][\w.:\-\u00b7]*|:[\w.:\-]*",
    "NMTOKEN": r"[\w.:\-\u00b7]+",
    "ID": r"[^\W\d][\w.\-\u00b7]*",
    "hexBinary": r"([0-9a-fA-F]{2})*",
    "language": r"[a-zA-Z]{1,8}(-[a-zA-Z0-9]{1,8})*",
}
_ESCAPES = {
    "i": "_:A-Za-z\u00c0-\ufffd",
    "c": r"\w.:\-\u00b7",
    "d": r"\d",
    "w": r"\w",
    "s": r" \t\n\r",
}


def is_of(type: str, facets: Sequence[tuple[str, str]]) -> Callable[[str], bool]:
    """A function that says whether a text is of a type with facets (name and value)."""
    checks: list[Callable[[str], bool]] = []
    if type in INTEGERS:
        least, greatest = INTEGERS[type]
        checks.append(lambda text: _integer(text, least, greatest))
    elif type in _SHAPES:
        shape = re.compile(_SHAPES[type], re.ASCII if type not in ("NCName", "Name", "ID") else 0)
        checks.append(lambda text: shape.fullmatch(text) is not None)
    # libxml2 holds patterns against what is written, blanks and all
    patterns = [_facet(type, name, value) for name, value in facets if name == "pattern"]
    checks += [_facet(type, name, value) for name, value in facets if name != "pattern"]
    keeps = type == "string"

    def matches(text: str) -> bool:
        if not all(check(text) for check in patterns):
            return False
        if not keeps:
            text = " ".join(text.split())
        return all(check(text) for check in checks)

    return matches


def _integer(text: str, least: int | None, greatest: int | None) -> bool:
    if len(text) > 40 or re.fullmatch(r"[+-]?[0-9]+", text) is None:
        return False
    number = int(text)
    return (least is None or least <= number) and (greatest is None or number <= greatest)


def _facet(type: str, name: str, value: str) -> Callable[[str], bool]:
    if name == "pattern":
        try:
            pattern = re.compile(translated(value))
        except re.error:
            return lambda text: True
        return lambda text: pattern.fullmatch(text) is not None
    if name in ("length", "minLength", "maxLength"):
        length = int(value)
        if name == "length":
            return lambda text: len(text) == length
        if name == "minLength":
            return lambda text: len(text) >= length
        return lambda text: len(text) <= length
    if name in ("minInclusive", "maxInclusive", "minExclusive", "maxExclusive"):
        bound = float(value) if type not in INTEGERS else int(value)
        compare = {
            "minInclusive": lambda number: number >= bound,
            "maxInclusive": lambda number: number <= bound,
            "minExclusive": lambda number: number > bound,
            "maxExclusive": lambda number: number < bound,
        }[name]
        return lambda text: _compared(text, compare, type)
    return lambda text: True


def _compared(text: str, compare: Callable[[float], bool], type: str) -> bool:
    try:
        return compare(int(text) if type in INTEGERS else float(text))
    except ValueError:
        return False


def translated(pattern: str) -> str:
    """A pattern of XML Schema as one of Python's `re`."""
    out: list[str] = []
    within = 0
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\" and at + 1 < len(pattern):
            at += 1
            char = pattern[at]
            if char.lower() in _ESCAPES:
                inner = _ESCAPES[char.lower()]
                if within:
                    out.append(inner if char.islower() else "\\" + char)
                else:
                    out.append(f"[{'^' if char.isupper() else ''}{inner}]")
            elif char in "nrt":
                out.append("\\" + char)
            else:
                out.append(re.escape(char))
        elif within:
            if char == "]":
                within -= 1
            # what Python would take for set operations
            out.append("\\" + char if char in "[&~|" else char)
        elif char == "[":
            within += 1
            out.append(char)
            if pattern[at + 1 : at + 2] == "^":
                at += 1
                out.append("^")
        elif char == ".":
            out.append(r"[^\n\r]")
        elif char in "^$":
            out.append("\\" + char)
        else:
            out.append(char)
        at += 1
    return "".join(out)
