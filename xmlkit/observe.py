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
import operator
import os
import re
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

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
    "is_own",
    "observe",
    "opened",
    "pools_of",
    "quiet",
    "said",
    "secure_document",
    "why_off",
    "without_password",
]

# What libvirt itself gives is as large as it is.
_LIMITS = Limits(markup=1 << 30)

# virDomainShutoffReason, by libvirt's own words for it.
_WHY_OFF = ("unknown", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed")

# What libvirt writes into a QEMU's log, among the lines of QEMU itself.
_LOGGED = re.compile(
    rb"^\d{4}-\d\d-\d\d [\d:.]+\+0000: (?:starting up\b|shutting down, reason=([\w -]+)$)", re.M
)
_LOG_END = 1 << 16  # bytes

_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>\s*")


class LibvirtError(XmlkitError):
    """libvirt cannot be reached or refuses; the message is libvirt's, and what to do."""


def said(error: Any) -> str:
    """What libvirt says in a libvirtError, with its code: the words may be translated."""
    return f"{error.get_error_message()} (libvirt error {error.get_error_code()})"


def quiet(libvirt: Any) -> None:
    """Keep libvirt from printing every error to stderr by itself, as it does without a handler.

    The handler is none of Python's own: it runs within the call that fails, and a Ctrl-C that is
    raised there becomes a SystemError. libvirt: the module.
    """
    libvirt.registerErrorHandler(operator.is_, None)


@contextmanager
def opened(uri: str, *, write: bool = False) -> Iterator[Any]:
    """A connection to libvirt at `uri`, read-only unless `write`.

    Raises LibvirtError: libvirt-python is missing, or libvirt refuses.
    """
    try:
        import libvirt
    except ImportError:
        raise LibvirtError(
            "talking to libvirt needs libvirt-python: pip install libvirt-python "
            "(it is built from source: apt-get install libvirt-dev pkg-config gcc python3-dev)"
        ) from None
    quiet(libvirt)
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


def why_off(domain: Any) -> str:
    """Why a domain is off, in libvirt's word: shutdown, destroyed, migrated, ...

    A libvirtd that was restarted has forgotten it; then the end of QEMU's log says it, if libvirt
    is on this machine. "lost": by the log it never ended, so the machine did. "unknown": nothing
    says it. Raises libvirt's errors.
    Source: virDomainGetState; qemuProcessStop, libvirt 9.0.0, for the log.
    """
    _, reason = domain.state()
    if reason == 0:
        with suppress(OSError, ValueError):
            return _logged(domain.name(), domain.connect().getURI())
    return _WHY_OFF[reason] if reason < len(_WHY_OFF) else "another"


def _logged(name: str, uri: str) -> str:
    """How a QEMU of libvirt's system daemon ended, by its log. Raises OSError, ValueError."""
    parts = urlsplit(uri)
    if not is_local(uri) or not parts.scheme.startswith("qemu") or parts.path != "/system":
        return "unknown"
    # a daemon that is named by its socket may be in a container, with a log of its own
    (place,) = parse_qs(parts.query).get("socket") or [""]
    root = f"/proc/{_listener(place)}/root" if place else ""
    path = f"{root}/var/log/libvirt/qemu/{name}.log"
    # neither followed nor waited for, should it be a link or a pipe
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as log:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            return "unknown"
        log.seek(max(0, facts.st_size - _LOG_END))
        found = _LOGGED.findall(log.read(_LOG_END))
    if not found:
        return "unknown"
    return found[-1].decode() or "lost"


def _listener(path: str) -> int:
    """The libvirt daemon that listens at a socket, or who started it. Raises OSError, ValueError.

    Another process may pass all on to another machine, whose log is not here.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(path)
        peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid = int(struct.unpack("3i", peer)[0])
    with open(f"/proc/{pid}/comm") as name:
        if pid != 1 and name.read().rstrip("\n") not in ("libvirtd", "virtqemud"):
            raise ValueError(f"{path} is no libvirt daemon's")
    return pid


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
    """Whether the files that libvirt at this URI speaks of are this machine's.

    Source: libvirt's "Remote support": with +ext an external program makes the connection.
    """
    parts = urlsplit(uri)
    return not parts.hostname and parts.scheme != "test" and not parts.scheme.endswith("+ext")


def is_own(uri: str) -> bool:
    """Whether no other user of this machine changes what libvirt at this URI has, from here.

    So it is with a daemon of the user's own (a session's) and with one on another machine.
    Source: libvirt's "Connection URIs".
    """
    return not is_local(uri) or urlsplit(uri).path in ("/session", "/embed")


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
