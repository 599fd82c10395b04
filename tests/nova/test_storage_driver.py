"""A driver of Nova's with our images_type: what its start makes of it, and what is given back.

What becomes of its instances is in test_driver.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import guests
import libvirt
import pytest
from nova.virt import fake
from nova.virt.libvirt import driver, imagebackend
from novahost import NovaHost

from xmlkit.nova import disable, enable
from xmlkit.nova.storage import Backend
from xmlkit.nova.store import StorageError, unbind
from xmlkit.testing import Libvirtd


@pytest.fixture
def host(nova_case: Any, daemon: Libvirtd) -> Iterator[NovaHost]:
    """A host without pools, with xmlkit in its Nova."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    host = NovaHost(nova_case, libvirt.open(daemon.uri), daemon.directory)
    guests.prepare_alone(nova_case, daemon.uri)
    unbind()
    enable()
    yield host
    disable()
    host.close()


@pytest.fixture
def made(host: NovaHost) -> Any:
    """A driver after its start."""
    found = driver.LibvirtDriver(fake.FakeVirtAPI(), False)
    found.init_host("host")
    return found


def test_a_driver_is_settled_at_its_start(host: NovaHost, made: Any) -> None:
    """Pools are made, and space is counted there."""
    assert Backend is type(made.image_backend)
    assert 0 < made._get_local_gb_info()["free"]
    assert [] == host.volumes()


def test_a_settled_driver_is_given_back(host: NovaHost, made: Any) -> None:
    """With what Nova makes for it: nothing of ours is left in a driver that was made meanwhile."""
    disable()
    assert imagebackend.Backend is type(made.image_backend)
    assert "_get_local_gb_info" not in vars(made)
    host.case.flags(images_type="raw", group="libvirt")
    assert imagebackend.Flat is type(made.image_backend.by_name(host.instance, "disk"))


def test_a_host_that_is_not_ready_does_not_start(host: NovaHost) -> None:
    """nova-compute ends with the reason."""
    host.case.flags(storage_pools={"root": "elsewhere"}, group="libvirt")
    with pytest.raises(StorageError, match="pool elsewhere"):
        driver.LibvirtDriver(fake.FakeVirtAPI(), False).init_host("host")
