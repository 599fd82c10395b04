"""What preflight's rules say of libvirt is so, on the libvirt that is installed.

Rules
- The rule itself says on which versions it was seen to hold; the probe has to find the same.
- Of a version that the rule does not name counts what it says of the newest one before it.
"""

from __future__ import annotations

from collections.abc import Callable

import libvirt
import pytest
from chroots import Release
from probes import PROBES

from xmlkit.host import version_of
from xmlkit.rules import RULES
from xmlkit.testing import Libvirtd


def expected(id: str, libversion: int) -> bool | None:
    """Whether the rule says that it holds on this version; None if it says nothing."""
    said = None
    for each in RULES[id].seen:
        if version_of(each.split()[0]) <= libversion:
            said = "not so" not in each
    return said


# Rules of two hosts, which test_migrate.py tries between versions.
OF_TWO = {"older-libvirt", "unsafe-cache"}


def test_every_rule_that_was_seen_on_a_version_has_a_probe() -> None:
    """So that a libvirt that behaves otherwise is found out, and a fixed one lifts the rule."""
    assert PROBES.keys() | OF_TWO == {rule.id for rule in RULES.values() if rule.seen}


@pytest.mark.parametrize("id", PROBES)
def test_libvirt_is_as_the_rule_says(id: str, libvirtd: Libvirtd) -> None:
    """Whether the rule holds on this version is what stands in its `seen`."""
    connection = libvirt.open(libvirtd.uri)
    said = expected(id, connection.getLibVersion())
    assert said is not None
    assert said == PROBES[id](libvirtd)


@pytest.mark.parametrize("id", PROBES)
def test_each_release_is_as_the_rule_says(
    id: str, release: Release, record_property: Callable[[str, object], None]
) -> None:
    """The same on each of the versions; where a rule says nothing, libvirt cannot do the thing."""
    libvirtd = release()
    said = expected(id, libvirt.open(libvirtd.uri).getLibVersion())
    if said is None:
        with pytest.raises(libvirt.libvirtError, match="not supported"):
            PROBES[id](libvirtd)
        record_property("says", "libvirt cannot")
    else:
        found = PROBES[id](libvirtd)
        record_property("says", "so" if found else "not so")
        assert said == found


@pytest.mark.parametrize(
    ("libversion", "holds"),
    [
        (6_000_000, None),
        (7_000_000, True),
        (8_000_000, True),
        (9_000_000, False),
        (13_000_000, False),
    ],
)
def test_what_a_rule_says_of_a_version(libversion: int, holds: bool | None) -> None:
    """Versions between count as the one before them."""
    assert holds is expected("live-snapshots", libversion)
