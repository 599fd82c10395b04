"""The fixtures of pytest: snapshots, checks and a libvirtd of one's own.

Laws
- Every run of pytest that finds xmlkit installed loads this file: it has fixtures and no hooks, and
  imports nothing but pytest before one of them is asked for.
- Never skipped in CI: where libvirtd cannot run, its fixtures skip, with the reason; with CI=true
  they fail.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from syrupy.assertion import SnapshotAssertion

    from xmlkit.testing.libvirtd import Libvirtd


@pytest.fixture
def libvirt_snapshot(request: pytest.FixtureRequest) -> SnapshotAssertion:
    """syrupy's `snapshot` for libvirt XML: `assert libvirt_snapshot == xml`.

    What comes in is text, bytes, a tree or a config object of Nova's, of a domain, a volume, a
    lone device or whatever libvirt has a schema for. It is stored as
    `__snapshots__/MODULE/TEST.xml`, has to be valid, and matches if libvirt reads the same in it.
    `libvirt_snapshot(matcher=masked(uuids=True))` masks what changes from run to run.
    """
    try:
        snapshot = request.getfixturevalue("snapshot")
        from xmlkit.testing.snapshots import LibvirtXml

        made: SnapshotAssertion = snapshot.use_extension(LibvirtXml)
    except (pytest.FixtureLookupError, ImportError, AttributeError):
        pytest.fail(
            "libvirt_snapshot needs syrupy and its fixture `snapshot`: pip install syrupy",
            pytrace=False,
        )
    return made


@pytest.fixture
def assert_valid_domain() -> Callable[..., None]:
    """`xmlkit.testing.assert_valid_domain`: fails unless libvirt's schemas accept a domain."""
    from xmlkit.testing import checks

    return checks.assert_valid_domain


@pytest.fixture
def assert_same_domain() -> Callable[..., None]:
    """`xmlkit.testing.assert_same_domain`: fails unless libvirt reads the same in two domains."""
    from xmlkit.testing import checks

    return checks.assert_same_domain


@pytest.fixture
def start_libvirtd(request: pytest.FixtureRequest) -> Iterator[Callable[..., Libvirtd]]:
    """`private_libvirtd` as a function, for a test with several; they end with the test.

    What libvirt learns from QEMU is kept in pytest's cache.
    """
    from xmlkit.testing.libvirtd import LibvirtdMissingError, private_libvirtd

    cache = getattr(request.config, "cache", None)
    with contextlib.ExitStack() as stack:

        def start(**parameters: Any) -> Libvirtd:
            if cache:
                tree = str(parameters.get("root", "/")).replace("/", "-")
                parameters.setdefault("cache", cache.mkdir(f"libvirt{tree}"))
            try:
                return stack.enter_context(private_libvirtd(**parameters))
            except LibvirtdMissingError as error:
                if os.environ.get("CI") == "true":
                    pytest.fail(str(error))
                pytest.skip(str(error))

        yield start


@pytest.fixture
def libvirt_host(start_libvirtd: Callable[..., Libvirtd]) -> Libvirtd:
    """A private libvirtd that ends with the test; `libvirt.open(libvirt_host.uri)` is its host."""
    return start_libvirtd()
