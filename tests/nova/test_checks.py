"""Nova's config objects as tests of Nova give them to `xmlkit.testing`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from nova.virt.libvirt import config

from xmlkit.testing import masked
from xmlkit.testing.checks import document_of

UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"


def guest(**attributes: Any) -> Any:
    """A guest as Nova's driver fills it in, with one disk."""
    made = config.LibvirtConfigGuest()
    disk = config.LibvirtConfigGuestDisk()
    attributes |= {"virt_type": "kvm", "name": "guest", "vcpus": 1, "os_type": "hvm"}
    for name, value in {"uuid": UUID, "memory": 65536, **attributes}.items():
        setattr(made, name, value)
    disk.source_type, disk.source_path, disk.driver_format = "file", "/a", "qcow2"
    disk.target_dev, disk.target_bus = "vda", "virtio"
    made.add_device(disk)
    return made


def test_a_config_object_is_taken_as_it_is(
    assert_valid_domain: Callable[..., None], assert_same_domain: Callable[..., None]
) -> None:
    """The same as the text that Nova makes of it, and another one where it says another thing."""
    assert_valid_domain(guest())
    assert_same_domain(guest(), guest().to_xml())
    assert_same_domain(guest(), guest(uuid=UUID.replace("3", "4")), matcher=masked(uuids=True))
    with pytest.raises(AssertionError, match="changed /domain/memory: 65536 -> 4"):
        assert_same_domain(guest(), guest(memory=4))


def test_a_device_is_written_with_an_element_a_line() -> None:
    """As Nova itself writes it."""
    (disk,) = guest().devices
    assert disk.to_xml().rstrip() == document_of(disk).text
