"""libvirt's RELAX NG schemas: which one a document needs, where they are, compiled once.

Laws
- The schemas are libvirt's own files, read in place; none is copied into xmlkit.
- Files are probed, not versions: the set of schemas has changed from release to release.
"""

from __future__ import annotations

import os
from functools import cache

from lxml import etree

from xmlkit.errors import XmlkitError

__all__ = ["SCHEMAS", "SchemaError", "compiled", "directory"]

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
    """Where libvirt's schemas are: `given`, else $XMLKIT_SCHEMAS, else where packages put them.

    Raises SchemaError if there is none.
    """
    named = given or os.environ.get("XMLKIT_SCHEMAS")
    if named:
        path = os.fspath(named)
        if not os.path.isfile(f"{path}/domain.rng"):
            origin = "--schemas" if given else "$XMLKIT_SCHEMAS"
            raise SchemaError(f"no libvirt schemas in {path} ({origin}): it has no domain.rng")
        return path
    for place in _PLACES:
        if os.path.isfile(f"{place}/domain.rng"):
            return place
    raise SchemaError(
        "libvirt's schemas are not installed. Debian, Ubuntu: apt-get install libvirt0 "
        "(libvirt-common since Debian 13); Fedora: dnf install libvirt-libs; macOS: brew install "
        "libvirt; or name a directory with --schemas DIR or XMLKIT_SCHEMAS"
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
