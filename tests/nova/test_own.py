"""Nova's own unit tests of its libvirt driver, with xmlkit in it and nothing on volumes.

Rules
- They run as Nova runs them, by unittest, in processes of their own (own.py), in its threads.
- All pass that pass without xmlkit; those of the image cache, which look into Nova's manager, run
  without ours (tests/nova/test_imagecache.py has them).
"""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nova.tests.unit.virt import libvirt
from threads import environment

TESTS = "nova.tests.unit.virt.libvirt"
# The long one is cut: its classes beside the one that has two thirds of them.
CONNECTION = f"{TESTS}.test_driver.LibvirtConnTestCase"
MODULES = (
    CONNECTION,
    f"{TESTS}.test_driver",
    *(
        f"{TESTS}.{name}"
        for name in (
            *("test_blockinfo", "test_config", "test_guest", "test_host", "test_imagebackend"),
            *("test_imagecache", "test_migration", "test_utils"),
        )
    ),
)
# Those of networks, CPUs, Cinder's volumes and the rest together: they are quick.
OTHERS = tuple(
    each.name
    for each in pkgutil.walk_packages(libvirt.__path__, f"{TESTS}.")
    if not each.ispkg and each.name not in MODULES
)


def own(modules: tuple[str, ...], *options: str) -> dict[str, Any]:
    """What own.py says of modules."""
    run = [sys.executable, str(Path(__file__).with_name("own.py")), *options, *modules]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment())
    assert 0 == done.returncode, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("modules", [*((each,) for each in MODULES), OTHERS], ids=lambda _: _[0])
def test_novas_own_tests_pass(modules: tuple[str, ...]) -> None:
    """What fails without xmlkit as well does not count, and is told."""
    options = [f"--without-class={CONNECTION}"] if modules == (f"{TESTS}.test_driver",) else []
    found = own(modules, *options)
    assert found["ran"] > 20
    assert [] == found["unexpected"]
    if found["failed"]:
        without = {name for name, _ in own(modules, *options, "--without")["failed"]}
        assert {} == {name: text for name, text in found["failed"] if name not in without}
