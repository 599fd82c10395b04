"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from sources import SourceUnavailable, debian_source

# LUKS takes two seconds of computing for a key, and as long for each look at it.
QUICK_LUKS = """#!/bin/sh
if [ "$1" = create ]; then
    count=$#
    while [ $count -gt 0 ]; do
        word=$1
        shift
        case $word in
            key-secret=*) word="$word,iter-time=10" ;;
            *encrypt.key-secret=*) word="$word,encrypt.iter-time=10" ;;
        esac
        set -- "$@" "$word"
        count=$((count - 1))
    done
fi
exec {qemu_img} "$@"
"""

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


@pytest.fixture
def quick_luks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real qemu-img, asked for weak keys, to every libvirtd that the test starts."""
    script = tmp_path / "bin" / "qemu-img"
    script.parent.mkdir()
    script.write_text(QUICK_LUKS.replace("{qemu_img}", shutil.which("qemu-img") or "qemu-img"))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
