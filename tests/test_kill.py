"""xmlkit, libvirtd and the connection die at every point of a transition: nothing is lost.

Rules
- Before anybody recovers, what is defined leads to the guest's content, and boots (once for each
  kind of state); then recover() ends it, done or undone, with the same content and no file more.
- What was done can be taken back: then the XML is the original byte for byte.
- A guest that ran and was to be restarted runs in the end, from where it is defined.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from interrupted import BY_NAME, DEVICES, SCENARIOS, Job, Scenario, World
from loops import MIB, loop_device, mounted
from scene import Scene, run, until

from xmlkit.testing import Libvirtd, boot_sector

pytestmark = [pytest.mark.kill]


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    start_libvirtd: Callable[..., Libvirtd],
    record_property: Callable[[str, object], None],
) -> Iterator[World]:
    """A host with three pools, one of them on another file system; its numbers are reported."""
    scenario = request.node.callspec.params.get("scenario")
    with contextlib.ExitStack() as stack:
        elsewhere = stack.enter_context(mounted("ext4", 64 * MIB))
        device = None
        if scenario is not None and scenario.pool == DEVICES:
            device = stack.enter_context(loop_device(8 * MIB))
        libvirtd = start_libvirtd()
        if device:
            partitioned(device, libvirtd)
        sector = boot_sector(hears_button=True)
        made = World(Scene(libvirtd, sector=sector), elsewhere, device)
        yield made
        libvirtd.stop()
        record_property("states", made.tried)
        record_property("lost", len(made.lost))


def partitioned(device: Path, libvirtd: Libvirtd) -> None:
    """One partition on it, which libvirtd, whose /dev is its own, sees too."""
    partition = Path(f"{device}p1")
    run("parted", "-s", device, "mklabel", "gpt", "mkpart", "one", "1MiB", "6MiB")
    until(partition.exists)
    for node in (device, partition):
        number = node.stat().st_rdev
        there = libvirtd.directory / "dev" / node.name
        made = ("mknod", there, "b", os.major(number), os.minor(number))
        run("nsenter", "--mount", f"--target={libvirtd.pid}", *made)


WAYS = [
    pytest.param(each, back, id=f"{each.name}-{'rollback' if back else 'apply'}")
    for each in SCENARIOS
    for back in (False, True)
]
RESTARTED = [
    pytest.param(BY_NAME["restart"], False, id="restart-apply"),
    pytest.param(BY_NAME["restart-copy"], True, id="restart-copy-rollback"),
]
# with fewer points
SLOWER = [
    pytest.param(BY_NAME["restart-two-guests"], True, id="restart-two-guests-rollback"),
    pytest.param(BY_NAME["restart-snapshot"], False, id="restart-snapshot-apply"),
]


def check_all(
    world: World, scenario: Scenario, rollback: bool, cut: Callable[[Job], str], least: int
) -> None:
    """Cut it off at one point after another, until it comes to its end."""
    prove = world.prove_running if scenario.restart else world.prove
    for point in itertools.count(1):
        if not prove(scenario, rollback, cut, point):
            break
    assert [] == world.lost, "\n".join(world.lost)
    assert least < world.tried


@pytest.mark.parametrize(("scenario", "rollback"), WAYS + RESTARTED)
def test_xmlkit_is_killed(world: World, scenario: Scenario, rollback: bool) -> None:
    """SIGKILL before each system call that changes something and at each step."""
    check_all(world, scenario, rollback, world.kill, 5)


@pytest.mark.parametrize(("scenario", "rollback"), WAYS + RESTARTED + SLOWER)
def test_libvirtd_is_killed(world: World, scenario: Scenario, rollback: bool) -> None:
    """SIGKILL of libvirtd before and after each step; xmlkit goes on, with a dead connection."""
    check_all(world, scenario, rollback, world.kill_libvirtd, 2)


@pytest.mark.parametrize(
    ("scenario", "rollback"),
    [
        pytest.param(BY_NAME["link-overlay"], False, id="link-overlay-apply"),
        pytest.param(BY_NAME["copy"], True, id="copy-rollback"),
        *RESTARTED,
        *SLOWER,
    ],
)
def test_the_connection_is_cut(world: World, scenario: Scenario, rollback: bool) -> None:
    """The same, and libvirtd goes on: what it was asked may still happen."""
    check_all(world, scenario, rollback, world.cut_connection, 2)


@pytest.mark.parametrize("name", ["link-two-guests", "link-snapshot", "copy"])
@pytest.mark.parametrize("first", ["begin virsh define", "done virsh define"])
def test_recover_is_killed(world: World, name: str, first: str) -> None:
    """SIGKILL of the recovery, of what is taken back and of what is finished; then another one."""
    check_all(world, BY_NAME[name], False, world.kill_recover(first), 3)


@pytest.mark.parametrize("first", ["begin virsh start", "done virsh shutdown"])
def test_recover_of_a_restarted_guest_is_killed(world: World, first: str) -> None:
    """SIGKILL of the recovery while the guest is down; then another one."""
    check_all(world, BY_NAME["restart"], False, world.kill_recover(first), 3)
