"""Grammars of one device: a lone <disk> or <interface>, as attach-device takes it.

Laws
- A device is judged by the define that its place in a domain uses, with what domain.rng overrides.
- Which devices there are is read from the define `devices`, not known here: it grows with libvirt.
- Nothing is copied: the derived grammar includes domain.rng where it lies, with another start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache

from lxml import etree

from xmlkit.validation.schemas import SchemaError

__all__ = ["compiled", "devices"]

_RNG = "{http://relaxng.org/ns/structure/1.0}"

_Defines = Mapping[str, list[etree._Element]]


@cache
def devices(path: str) -> Mapping[str, tuple[str, ...]]:
    """The elements that a domain's <devices> may hold, each with the defines that describe it.

    path: a directory of libvirt's schemas. Raises SchemaError if a file cannot be read.
    """
    defines: dict[str, list[etree._Element]] = {}
    for root in _included(path, "domain.rng", set()):
        for define in root.iter(_RNG + "define"):
            defines.setdefault(define.get("name", ""), []).append(define)
    found: dict[str, list[str]] = {}
    for devices in defines.get("devices", ()):
        for reference in devices.iter(_RNG + "ref"):
            name = reference.get("name", "")
            for tag in _elements(name, defines, set()):
                if name not in found.setdefault(tag, []):
                    found[tag].append(name)
    return {tag: tuple(names) for tag, names in found.items()}


@cache
def compiled(path: str, tag: str) -> etree.RelaxNG:
    """The grammar of one element of `devices(path)`, compiled once a process.

    Raises SchemaError if libxml2 cannot use it.
    """
    references = "".join(f'<ref name="{name}"/>' for name in devices(path)[tag])
    text = (
        '<grammar xmlns="http://relaxng.org/ns/structure/1.0"><include href="domain.rng">'
        f"<start><choice>{references}</choice></start></include></grammar>"
    )
    # the include is resolved against the name of a file beside domain.rng that need not exist
    beside = f"{os.path.abspath(path)}/{tag}.rng"
    try:
        return etree.RelaxNG(etree.fromstring(text, base_url=beside).getroottree())
    except etree.RelaxNGParseError as error:
        raise SchemaError(f"cannot use the grammar of <{tag}> in {path}: {error}") from None


def _included(path: str, name: str, seen: set[str]) -> Iterator[etree._Element]:
    """The root of a schema file and those of all that it includes."""
    seen.add(name)
    try:
        root = etree.parse(f"{path}/{name}").getroot()
    except (etree.XMLSyntaxError, OSError) as error:
        raise SchemaError(f"cannot use {path}/{name}: {error}") from None
    yield root
    for include in root.iter(_RNG + "include"):
        if (href := include.get("href", "")) not in seen:
            yield from _included(path, href, seen)


def _elements(name: str, defines: _Defines, seen: set[str]) -> Iterator[str]:
    """The names of the elements that a define may stand for."""
    seen.add(name)
    waiting = [child for define in defines.get(name, ()) for child in define]
    for pattern in waiting:
        if pattern.tag == _RNG + "element":
            yield pattern.get("name", "")
        elif pattern.tag != _RNG + "ref":
            waiting += pattern
        elif (other := pattern.get("name", "")) not in seen:
            yield from _elements(other, defines, seen)
