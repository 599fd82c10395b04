"""For the tests of programs that write libvirt XML: a plugin of pytest, and what it is made of.

plugin.py has the fixtures, checks.py compares, validates and masks, snapshots.py stores documents
through syrupy, libvirtd.py starts a libvirtd of one's own. pytest finds the plugin by itself; where
that is turned off, `-p xmlkit.testing` loads it.

Laws
- Nothing is imported before it is used: who wants a libvirtd needs no syrupy, who wants snapshots
  no libvirtd, and who wants neither pays for nothing. Outside pytest all but the fixtures is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xmlkit.lazy import attributes

if TYPE_CHECKING:
    from xmlkit.testing.checks import assert_same_domain, assert_valid_domain, masked
    from xmlkit.testing.libvirtd import (
        Libvirtd,
        LibvirtdError,
        LibvirtdMissingError,
        boot_sector,
        private_libvirtd,
    )
    from xmlkit.testing.snapshots import LibvirtXml

pytest_plugins = ("xmlkit.testing.plugin",)

_HOMES = {
    "xmlkit.testing.checks": ("assert_same_domain", "assert_valid_domain", "masked"),
    "xmlkit.testing.libvirtd": (
        *("Libvirtd", "LibvirtdError", "LibvirtdMissingError"),
        *("boot_sector", "private_libvirtd"),
    ),
    "xmlkit.testing.snapshots": ("LibvirtXml",),
}

__all__ = [
    "LibvirtXml",
    "Libvirtd",
    "LibvirtdError",
    "LibvirtdMissingError",
    "assert_same_domain",
    "assert_valid_domain",
    "boot_sector",
    "masked",
    "private_libvirtd",
]

__getattr__ = attributes(__name__, _HOMES)
