"""xmlkit and libvirtd are killed at every point of a transition: nothing is lost.

Rules
- Before anybody recovers, what is defined leads to the guest's content, and boots (once for each
  kind of state); then recover() ends it, done or undone, with the same content and no file too many.
- What was done can be taken back: then the XML is the original byte for byte.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from interrupted import BY_NAME, SCENARIOS, Job, Scenario, World
from loops import MIB, mounted
from scene import Scene

from xmlkit import executor
from xmlkit.journal import Writer
from xmlkit.testing import Libvirtd

pytestmark = [pytest.mark.kill]


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    start_libvirtd: Callable[..., Libvirtd],
    record_property: Callable[[str, object], None],
) -> Iterator[World]:
    """A host with three pools, one of them on another file system; its numbers are reported."""
    with mounted("ext4", 64 * MIB) as elsewhere:
        made = World(Scene(start_libvirtd()), elsewhere)
        yield made
        record_property("states", made.tried)
        record_property("lost", len(made.lost))


def ways(scenarios: tuple[Scenario, ...] = SCENARIOS) -> Any:
    """Each scenario, there and back."""
    return pytest.mark.parametrize(
        ("scenario", "rollback"),
        [
            pytest.param(each, back, id=f"{each.name}-{'rollback' if back else 'apply'}")
            for each in scenarios
            for back in (False, True)
        ],
    )


@ways()
def test_xmlkit_is_killed(world: World, scenario: Scenario, rollback: bool) -> None:
    """SIGKILL before each system call that changes something and at each step."""
    for point in itertools.count(1):
        if not world.prove(scenario, rollback, world.kill, point):
            break
    assert [] == world.lost, "\n".join(world.lost)
    assert 5 < world.tried
