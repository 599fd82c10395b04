"""libvirt's RELAX NG schemas: which one a document needs, where they are, compiled once.

Laws
- The schemas are libvirt's own files, read in place; none is copied into xmlkit.
- Files are probed, not versions: the set of schemas has changed from release to release. A version
  is only the name of a directory.
"""

from __future__ import annotations

import os
from functools import cache

from lxml import etree

from xmlkit.errors import XmlkitError

__all__ = ["SCHEMAS", "SchemaError", "compiled", "directory", "newer"]

# Root element -> schema file, as libvirt's virt-xml-validate and its tests/virschematest.c
# choose it (9.0.0).
SCHEMAS = {
    "capabilities": "capability",
    "cpu": "cpu",
    "device": "nodedev",
    "domain": "domain",
    "domainCapabilities": "domaincaps",
    "domainbackup": "domainbackup",
    "domaincheckpoint": "domaincheckpoint",
    "domainsnapshot": "domainsnapshot",
    "filter": "nwfilter",
    "filterbinding": "nwfilterbinding",
    "interface": "interface",
    "network": "network",
    "networkport": "networkport",
    "pool": "storagepool",
    "secret": "secret",
    "storagepoolCapabilities": "storagepoolcaps",
    "volume": "storagevol",
}

_PLACES = (
    "/usr/share/libvirt/schemas",
    "/usr/local/share/libvirt/schemas",
    "/opt/homebrew/share/libvirt/schemas",
)


class SchemaError(XmlkitError):
    """The schemas are not there or cannot be used; the message says what to install or name."""


def directory(given: str | os.PathLike[str] | None = None) -> str:
    """Where libvirt's schemas are: `given`, else by $XMLKIT_SCHEMAS, else where packages put them.

    given: a directory of schemas, or a version. $XMLKIT_SCHEMAS: directories separated by ":",
    each of which is a directory of schemas (the first one is used where nothing is given) or holds
    such directories, named by version. A version is found by its whole name, or by its first
    numbers ("9.0" for 9.0.0) if only one begins with them.
    Raises SchemaError if there is none, or if more than one could be meant.
    """
    if given:
        path = os.fspath(given)
        return path if _has_schemas(path) else _of_version(path)
    for place in _named():
        if _has_schemas(place):
            return place
        if not _versions(place):
            raise SchemaError(
                f"no libvirt schemas in {place} ($XMLKIT_SCHEMAS): it has no domain.rng, and no "
                "directory in it has one"
            )
    for place in _PLACES:
        if _has_schemas(place):
            return place
    raise SchemaError(
        "libvirt's schemas are not installed. Debian, Ubuntu: apt-get install libvirt0 "
        "(libvirt-common since Debian 13); Fedora: dnf install libvirt-libs; macOS: brew install "
        "libvirt; or name a directory with --schemas DIR or XMLKIT_SCHEMAS"
    )


# Directories that have been seen to have schemas: not looked at again for each document.
_seen: set[str] = set()


def _has_schemas(path: str) -> bool:
    if path not in _seen and os.path.isfile(f"{path}/domain.rng"):
        _seen.add(path)
    return path in _seen


def _named() -> list[str]:
    return [each for each in os.environ.get("XMLKIT_SCHEMAS", "").split(os.pathsep) if each]


def _versions(place: str) -> list[str]:
    """The names of the directories of schemas in a directory."""
    try:
        return sorted(name for name in os.listdir(place) if _has_schemas(f"{place}/{name}"))
    except OSError:
        return []


def newer(directory: str) -> list[tuple[str, str]]:
    """Versions of libvirt, oldest first, whose schemas are at hand and newer than a directory's.

    At hand are those in the directories that $XMLKIT_SCHEMAS names. Of a directory that is not
    named by its version all of them may be newer; which are is told by what they know.
    """
    own = _numbers(os.path.basename(os.path.normpath(directory)))
    found = {name: f"{place}/{name}" for place in _named() for name in _versions(place)}
    versions = sorted((numbers, name) for name in found if (numbers := _numbers(name)))
    return [(name, found[name]) for numbers, name in versions if not own or numbers > own]


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()


def _of_version(given: str) -> str:
    if os.sep in given or os.path.isdir(given):
        inside = ", ".join(_versions(given))
        raise SchemaError(
            f"no libvirt schemas in {given} (--schemas): it has no domain.rng"
            + (f"; directories in it have: {inside}" if inside else "")
        )
    found = [(name, f"{place}/{name}") for place in _named() for name in _versions(place)]
    whole = [path for name, path in found if name == given]
    if whole:
        return whole[0]
    begun = {path: name for name, path in found if name.startswith(f"{given}.")}
    if len(begun) == 1:
        return next(iter(begun))
    if begun:
        raise SchemaError(
            f"--schemas {given} could mean {', '.join(begun.values())}: give the whole version"
        )
    known = ", ".join(dict.fromkeys(name for name, _ in found)) or "none"
    raise SchemaError(
        f"--schemas {given} is neither a directory nor a version in the directories that "
        f"$XMLKIT_SCHEMAS names; versions there: {known}"
    )


@cache
def compiled(path: str, schema: str) -> etree.RelaxNG:
    """The schema `schema`.rng of a directory, compiled once a process.

    Raises SchemaError if the file is missing or is no RELAX NG.
    """
    file = f"{path}/{schema}.rng"
    if not os.path.isfile(file):
        raise SchemaError(f"the schemas in {path} have no {schema}.rng")
    try:
        return etree.RelaxNG(file=file)
    except (etree.RelaxNGParseError, etree.XMLSyntaxError, OSError) as error:
        raise SchemaError(f"cannot use {file}: {error}") from None
