"""What xmlkit runs on, for reports of faults.

Laws
- Nothing that names a host, a user or a guest is in it.
- Whatever is missing or broken is said to be so, and hinders nothing else.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata

from lxml import etree

from xmlkit import __version__
from xmlkit.validation import schemas

__all__ = ["about"]

_LIBRARIES = ("click", "jinja2", "rich", "xmlschema")


def about() -> Iterator[tuple[str, str]]:
    """What it is and what of it, in this order: xmlkit, Python, the platform, lxml with its
    libxml2, the other libraries, libvirt-python with its libvirt, and libvirt's schemas."""
    yield "xmlkit", __version__
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "platform", _platform()
    libxml2, compiled = (
        ".".join(map(str, version))
        for version in (etree.LIBXML_VERSION, etree.LIBXML_COMPILED_VERSION)
    )
    against = "" if libxml2 == compiled else f", compiled against {compiled}"
    yield "lxml", f"{_version('lxml')} (libxml2 {libxml2}{against})"
    for name in _LIBRARIES:
        yield name, _version(name)
    yield "libvirt-python", _libvirt()
    yield "schemas", _schemas()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _platform() -> str:
    """The system, not what it is called; a kernel's release may be anything its builder wrote."""
    machine = f"{platform.system()} {platform.machine()}"
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {machine}"
    except (OSError, KeyError):
        return machine


def _libvirt() -> str:
    try:
        import libvirt
    except ImportError as error:
        found = _version("libvirt-python")
        why = f", cannot be imported: {error}" if found != "not installed" else ""
        return f"{found}{why}"
    number = libvirt.getVersion()
    version = f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
    return f"{_version('libvirt-python')} (libvirt {version})"


def _schemas() -> str:
    """Where they are, and a digest that tells their release, which they do not say."""
    import hashlib

    try:
        path = schemas.directory()
        names = sorted(name for name in os.listdir(path) if name.endswith(".rng"))
        digest = hashlib.sha256()
        for name in names:
            with open(os.path.join(path, name), "rb") as file:
                digest.update(file.read())
    except (schemas.SchemaError, OSError) as error:
        return _without_home(str(error).partition(". ")[0])
    return f"{_without_home(path)} ({len(names)} files, sha256 {digest.hexdigest()[:12]})"


def _without_home(text: str) -> str:
    home = os.path.expanduser("~")
    return text.replace(home, "~") if len(home) > 1 else text
