"""That the fixtures give a Nova that works."""

from __future__ import annotations

from typing import Any


def test_novas_own_fixtures_can_be_used(nova_case: Any) -> None:
    """A driver of Nova's on its false libvirt."""
    from nova.tests import fixtures
    from nova.virt import fake
    from nova.virt.libvirt import driver

    nova_case.useFixture(fixtures.LibvirtFixture())
    made = driver.LibvirtDriver(fake.FakeVirtAPI(), False)
    assert made._host.get_connection().getVersion() > 0
