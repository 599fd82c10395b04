"""Observing a host through libvirt: one of the few modules that import libvirt.

Laws
- It only reads; a connection is read-only unless it is asked for otherwise.
- What it writes is libvirt's own documents, unaltered, in a wrapper that says what they do not:
  a pool's state and autostart, and which volumes are symbolic links.
- A pool or a volume that vanishes while it is read is left out, not an error; so is a volume that
  libvirt describes in what is no XML.
"""

from __future__ import annotations

import errno
import html
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from xmlkit.document import Document, Limits
from xmlkit.errors import XmlkitError
from xmlkit.host import NAMED_BY_PATH, parse_pool, parse_volume
from xmlkit.markup import quoted

__all__ = [
    "LibvirtError",
    "domain_xml",
    "domains_of",
    "host_uuid",
    "is_local",
    "observe",
    "opened",
    "pools_of",
    "said",
    "secure_document",
    "without_password",
]

# What libvirt itself gives is as large as it is.
_LIMITS = Limits(markup=1 << 30)

_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>\s*")


class LibvirtError(XmlkitError):
    """libvirt cannot be reached or refuses; the message is libvirt's, and what to do."""


def said(error: Any) -> str:
    """What libvirt says in a libvirtError, with its code: the words may be translated."""
    return f"{error.get_error_message()} (libvirt error {error.get_error_code()})"


@contextmanager
def opened(uri: str, *, write: bool = False) -> Iterator[Any]:
    """A connection to libvirt at `uri`, read-only unless `write`.

    Raises LibvirtError: libvirt-python is missing, or libvirt refuses.
    """
    try:
        import libvirt
    except ImportError:
        raise LibvirtError(
            "talking to libvirt needs libvirt-python: pip install 'libvirt-xmlkit[libvirt]' "
            "(it is built from source: apt-get install libvirt-dev pkg-config gcc python3-dev)"
        ) from None
    # libvirt prints every error to stderr by itself unless a handler is there
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        connection = libvirt.open(uri) if write else libvirt.openReadOnly(uri)
    except UnicodeError:
        raise LibvirtError(f"not a URI: {uri!r}") from None
    except libvirt.libvirtError as error:
        raise LibvirtError(
            f"cannot connect to {without_password(uri)}: {_message(error, uri)}{_way_in(error)}"
        ) from None
    try:
        yield connection
    except libvirt.libvirtError as error:
        raise LibvirtError(f"{without_password(uri)}: {_message(error, uri)}") from None
    finally:
        # one that is lost cannot be closed
        with suppress(libvirt.libvirtError):
            connection.close()


def observe(connection: Any, progress: Callable[[str], None] | None = None) -> bytes:
    """The host file of a connection: `<host version="1" ...>` around libvirt's own documents.

    progress: called with the name of each pool before it is read.
    """
    import libvirt

    uri = connection.getURI()
    pieces = [
        f"<host version={quoted('1')} uri={quoted(without_password(uri))} "
        f"libversion={quoted(str(connection.getLibVersion()))}>\n",
        _bare(connection.getCapabilities()),
    ]
    for pool in _pools(connection):
        if progress is not None:
            progress(pool.name())
        try:
            pieces += _storage(pool, local=is_local(uri))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
                raise
    pieces.append("</host>\n")
    return "".join(pieces).encode()


def host_uuid(connection: Any) -> str | None:
    """The UUID of the host, None if it has none. Source: virConnectGetCapabilities."""
    from lxml import etree

    return etree.fromstring(connection.getCapabilities().encode()).findtext("host/uuid")


def domains_of(connection: Any) -> list[str]:
    """The names of all domains, running or not."""
    return sorted(domain.name() for domain in connection.listAllDomains())


def pools_of(connection: Any) -> list[str]:
    """The names of all pools."""
    return [pool.name() for pool in _pools(connection)]


def domain_xml(connection: Any, name: str) -> str:
    """The persistent XML of the domain with this name or UUID.

    Raises LibvirtError if there is none.
    """
    import libvirt

    if not name.isprintable():
        raise LibvirtError(f"no domain {name!r}")
    for lookup in (connection.lookupByName, connection.lookupByUUIDString):
        try:
            return str(lookup(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (
                libvirt.VIR_ERR_NO_DOMAIN,
                libvirt.VIR_ERR_INVALID_ARG,
            ):
                raise
    import difflib

    near = difflib.get_close_matches(name, domains_of(connection), n=3)
    meant = f"; did you mean {' or '.join(near)}?" if near else "; virsh list --all shows them"
    raise LibvirtError(f"no domain {name!r}{meant}")


def secure_document(connection: Any, uuid: str) -> Document:
    """The persistent XML of a domain with its passwords, which needs a connection that may write.

    Source: VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE.
    """
    import libvirt

    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    return Document.parse(connection.lookupByUUIDString(uuid).XMLDesc(flags), _LIMITS)


def _pools(connection: Any) -> list[Any]:
    import libvirt

    try:
        return sorted(connection.listAllStoragePools(), key=lambda pool: pool.name())
    except libvirt.libvirtError as error:
        # a driver without storage: its hosts have no pools
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return []
        raise


def _storage(pool: Any, *, local: bool) -> Iterator[str]:
    import libvirt
    from lxml import etree

    active = bool(pool.isActive())
    xml = pool.XMLDesc(0)
    known = parse_pool(etree.fromstring(xml.encode()))
    volumes = []
    links = []
    for volume in _volumes(pool) if active else ():
        try:
            text = volume.XMLDesc(0)
        except UnicodeDecodeError:
            # a name that is no UTF-8 cannot stand in a domain's XML either
            continue
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
                raise
            continue
        try:
            parsed = etree.fromstring(text.encode())
        except etree.XMLSyntaxError:
            # libvirt writes the backing file's name as it stands in the image, and what looks
            # like a header may be a guest's: a character that no XML can have ends up here
            continue
        volumes.append(_bare(text))
        if local and known.type in NAMED_BY_PATH:
            path = parse_volume(parsed, known.name).path
            if os.path.islink(path) and known.type in ("dir", "fs", "netfs", "vstorage"):
                links.append(f"<link>{html.escape(path, quote=False)}</link>\n")
    yield f"<storage active='{_yes(active)}' autostart='{_yes(pool.autostart())}'>\n"
    yield _bare(xml)
    yield from volumes
    yield from links
    yield "</storage>\n"


def _volumes(pool: Any) -> list[Any]:
    volumes = {}
    for volume in pool.listAllVolumes():
        try:
            volumes[volume.name()] = volume
        except UnicodeDecodeError:
            continue
    return [volumes[name] for name in sorted(volumes)]


def _bare(xml: str) -> str:
    """A document to stand within another one: without an XML declaration, nothing else altered."""
    return _DECLARATION.sub("", xml, count=1) if xml.lstrip().startswith("<?xml") else xml


def _yes(value: Any) -> str:
    return "yes" if value else "no"


def is_local(uri: str) -> bool:
    """Whether the files that libvirt at this URI speaks of are this machine's."""
    return not urlsplit(uri).hostname and not uri.startswith("test:")


def without_password(uri: str) -> str:
    """The URI without its password, and without parameters that speak of a secret."""
    uri = re.sub(r"(//[^/@:]*):[^/]*@", r"\1@", uri)
    return re.sub(
        r"(?i)([?&][^=&]*(?:pass|secret|token|key(?!file))[^=&]*)=[^&]*", r"\1=(redacted)", uri
    )


def _way_in(error: Any) -> str:
    """What to do where libvirt lets this user not in."""
    import libvirt

    refused = (libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_AUTH_UNAVAILABLE)
    # virReportSystemError, libvirt 9.0: int1 is errno
    closed = (libvirt.VIR_ERR_SYSTEM_ERROR, errno.EACCES)
    here = error.get_error_code() in refused or (error.get_error_code(), error.get_int1()) == closed
    return "; run as root" if here else ""


def _message(error: Any, uri: str) -> str:
    return str(error.get_error_message()).replace(uri, without_password(uri))
