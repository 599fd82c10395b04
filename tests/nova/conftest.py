"""A Nova for tests: its own test case, set up for one test, without a database.

Rules
- Nova's threads are native, as in its nova-compute: eventlet would patch pytest's own.
"""

from __future__ import annotations

import os

os.environ.setdefault("OS_NOVA_DISABLE_EVENTLET_PATCHING", "true")

import nova.tests.unit  # first of all: it chooses the threads

assert nova.tests.unit

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from novahost import set_up

from xmlkit.testing import Libvirtd, LibvirtdMissingError, private_libvirtd

pytest_plugins = ["xmlkit.testing"]


@pytest.fixture
def nova_case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`set_up` for one test."""
    # before Nova's fixtures have another directory for temporary files, which ends with the test
    tmp_path_factory.getbasetemp()
    with set_up() as case:
        yield case


@pytest.fixture
def libvirtd(libvirt_host: Libvirtd) -> Libvirtd:
    """A private libvirtd that ends with the test."""
    return libvirt_host


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirtd]:
    """One for the module: each test has pools of its own, and takes them away."""
    tmp_path_factory.getbasetemp()  # before Nova's test case has its own place for such
    try:
        with private_libvirtd() as libvirtd:
            yield libvirtd
    except LibvirtdMissingError as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that QEMU's user may enter."""
    with tempfile.TemporaryDirectory(prefix="xmlkit-nova-") as name:
        os.chmod(name, 0o755)  # noqa: S103
        yield Path(name)
