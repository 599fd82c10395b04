"""Fixtures that several test modules share."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chroots import SUITES, Release, tree
from cluster import Ceph, CephMissingError, one_node_ceph
from machines import Machine, emulated_machine
from sources import SourceUnavailable, debian_source

if TYPE_CHECKING:  # pytest wants to be the first to import its plugins
    from commands import Shell
    from scene import Scene

    from xmlkit.testing import Libvirtd

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
# how long a key takes is measured by the clock, and QEMU gives up where other work is in the way
case $1,$* in
    create,*luks* | convert,*luks*)
        for try in 1 2 3 4 5 6 7 8 9; do
            {qemu_img} "$@" && exit
            sleep 0.5
        done
        ;;
esac
exec {qemu_img} "$@"
"""

# pytest finds the first by itself, unless the checkout was installed before it could
pytest_plugins = ["xmlkit.testing", "pytester"]


def _source(package: str, suite: str) -> Path:
    """Without the package tests are skipped; in continuous integration they fail."""
    try:
        return debian_source(package, suite)
    except SourceUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"source package {package}: {error}")


def _tree(name: str) -> Path:
    """Without the tree tests are skipped; in continuous integration they fail."""
    try:
        return tree(name)
    except SourceUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"tree {name}: {error}")


@pytest.fixture
def libvirtd(libvirt_host: Libvirtd) -> Libvirtd:
    """A private libvirtd that ends with the test."""
    return libvirt_host


@pytest.fixture
def scene(libvirtd: Libvirtd) -> Scene:
    """A host of its own, for modules whose guests need no more than to boot."""
    from scene import Scene

    return Scene(libvirtd)


@pytest.fixture
def xmlkit(scene: Scene) -> Shell:
    """The commands, on that host."""
    from commands import Shell

    return Shell.of(scene)


@pytest.fixture(params=[pytest.param(suite, marks=pytest.mark.versions) for suite in SUITES])
def release(request: pytest.FixtureRequest, start_libvirtd: Callable[..., Libvirtd]) -> Release:
    """Each of the releases of Debian in turn; called, it starts a libvirtd of that release."""
    return Release(request.param, _tree(request.param), start_libvirtd)


@pytest.fixture
def releases(start_libvirtd: Callable[..., Libvirtd]) -> Callable[[str], Release]:
    """A release of Debian by its name, for a test with two of them."""
    return lambda suite: Release(suite, _tree(suite), start_libvirtd)


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """An emulated machine with LVM, one for all tests that are marked by `in_machine`."""
    _tree("linux")
    with emulated_machine() as machine:
        yield machine


@pytest.fixture(scope="session")
def linux_tree() -> Path:
    """The tree that `linux_guest` takes its kernel from, made where it is not."""
    return _tree("linux")


@pytest.fixture(scope="session")
def ceph() -> Iterator[Ceph]:
    """A ceph of one node, one for all tests that are marked by `on_ceph`.

    A libvirtd that reaches it is `start_libvirtd(private_network=False)`.
    """
    with contextlib.ExitStack() as stack:
        try:
            ceph = stack.enter_context(one_node_ceph())
        except CephMissingError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(error))
        yield ceph


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests of interrupted transitions have tried, as they recorded it for the report."""
    rows = []
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        numbers = dict(getattr(report, "user_properties", ()))
        if "states" in numbers and report.when == "teardown":
            rows.append((report.nodeid.rpartition("::")[2], numbers["states"], numbers["lost"]))
    if rows:
        terminalreporter.section("interrupted transitions")
        for name, tried, lost in sorted(rows):
            terminalreporter.line(f"{tried:6} states tried, {lost} lost: {name}")
        tried, lost = (sum(row[number] for row in rows) for number in (1, 2))
        terminalreporter.line(f"interrupted transitions: {tried} states tried, {lost} lost")
