"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sources import SourceUnavailable, debian_source

pytest_plugins = ["xmlkit.testing"]  # a libvirtd of one's own


def _source(package: str, suite: str) -> Path:
    """Without the package tests are skipped; in continuous integration they fail."""
    try:
        return debian_source(package, suite)
    except SourceUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"source package {package}: {error}")


@pytest.fixture(scope="session")
def libvirt_source() -> Path:
    """The source tree of libvirt 9.0.0, as in Debian 12."""
    return _source("libvirt", "bookworm")


@pytest.fixture(scope="session")
def virt_manager_source() -> Path:
    """The source tree of virt-manager 5.0.0, as in Debian 13: not every mirror keeps 4.1.0."""
    return _source("virt-manager", "trixie")
