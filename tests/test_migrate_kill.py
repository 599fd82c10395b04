"""xmlkit, either libvirtd and the connections are killed while a guest migrates.

Rules
- Before anybody recovers, and after: never two guests that write, by what they print.
- recover() ends it: the guest runs on one host, has lost no write and made none twice, and its
  image has one name, which is what is defined; or it is told what to do (there is no such case
  here).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from pair import Pair, make_pair, wait_for
from scene import POOL, SECONDS, cuttable, quiet, until

from xmlkit import migrate, service, state
from xmlkit.journal import Outcome, read_all
from xmlkit.migrate import Options
from xmlkit.testing import Libvirtd

pytestmark = [pytest.mark.kill]

# Migrates the guest and kills itself: at the given call of the listener, so many seconds after the
# migration proper began, or at a moment of it.
CHILD = """
import os, signal, sys, threading, time
from pathlib import Path
from pair import POOL, wait_for
from scene import quiet
import libvirt
from xmlkit import migrate, service, state
here, there, directory, storage, uri, disks, point, when = sys.argv[1:]
quiet()
source, destination = libvirt.open(here), libvirt.open(there)
options = migrate.Options({None: POOL}, storage, ("base-unverified",), uri, disks or None)
made = migrate.judged(source, destination, "guest", there, options)
assert made.task is not None, made.concerns
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
def later():
    if not when.isalpha():
        time.sleep(float(when))
    elif not wait_for(when, here, there):
        os._exit(7)
    kill()
count = 0
def listener(what, uuid, step, *_):
    global count
    if what == "migrated":
        return
    count += 1
    if count == int(point):
        kill()
    if what == "begin" and type(step).__name__ == "Migrate" and when:
        threading.Thread(target=later, daemon=True).start()
result = service.migrate_one(
    source, destination, made, Path(directory), uri=here, to=there, listener=listener
)
print(*result.outcomes.values())
os._exit(0)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that QEMU's user may enter."""
    with tempfile.TemporaryDirectory(prefix="xmlkit-pair-") as name:
        os.chmod(name, 0o755)  # noqa: S103
        yield Path(name)


class World:
    """Two hosts, a guest, and an end that is proven each time."""

    def __init__(self, pair: Pair, place: Path, storage: str) -> None:
        self.pair = pair
        self.place = place
        self.storage = storage
        self.states = 0
        self.tried = 0
        self.ends: list[str] = []

    def directory(self) -> Path:
        """A state directory that nothing is pending in."""
        self.states += 1
        return state.directory(str(self.place / f"state-{self.states}"))

    def options(self) -> Options:
        """Uses sockets of its own each time: a killed QEMU leaves them."""
        disks = self.pair.unix("nbd") if self.storage != "shared" else None
        return Options({None: POOL}, self.storage, ("base-unverified",), self.pair.unix(), disks)  # type: ignore[arg-type]

    def kill_xmlkit(self, point: int, when: str = "") -> bool:
        """Migrate in a process that is killed; whether it was, and did not end before that."""
        killed, directory = self.crash(point, when)
        self.prove(directory)
        return killed

    def crash(self, point: int, when: str = "") -> tuple[bool, Path]:
        """The same, and nobody has recovered it yet."""
        self.pair.guest()
        directory = self.directory()
        options = self.options()
        done = subprocess.run(
            [
                *(sys.executable, "-c", CHILD, self.pair.here.uri, self.pair.there.uri),
                *(str(directory), self.storage, str(options.migrate_uri)),
                *(options.disks_uri or "", str(point), when),
            ],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode != 0, directory

    def prove(self, directory: Path) -> None:
        """Recover, and see that all is well; then everything goes."""
        self.tried += 1
        pair = self.pair
        pair.connect()
        pair.writers()
        (journal,) = read_all(str(directory))[0]
        (task,) = journal.tasks.values()
        uuid = task.uuid
        deadline = time.monotonic() + SECONDS
        ended = journal.outcomes.get(uuid)
        while ended is None or ended.state == "pending":
            assert time.monotonic() < deadline, ended
            found, errors = service.recover_all(
                lambda _: pair.source, directory, there=lambda _: pair.destination
            )
            assert [] == errors
            ((_, outcomes),) = found
            ended = outcomes[uuid]
        assert ended.state in ("done", "undone"), ended
        there = ended.state == "done"
        connection = pair.destination if there else pair.source
        domain = connection.lookupByUUIDString(uuid)
        assert ("there" if there else "here",) == pair.running(uuid)
        until(lambda: ("there" if there else "here",) == pair.writers())
        pair.goes_on(domain)
        old = pair.instances / uuid / "disk"
        new = pair.instances / "disks" / f"{uuid}_disk"
        new_address, old_address = ("volume", POOL, new.name), ("file", str(old))
        assert [new_address if there else old_address] == pair.addresses(domain)
        assert ([new.name] if there else []) == pair.links()
        assert (not there or self.storage != "shared") == old.exists()
        domain.destroy()
        ticks = pair.ticks(new if there else old, side=int(there))
        assert ticks - 1 <= pair.prints() <= ticks
        # what is defined boots
        domain.create()
        pair.goes_on(domain)
        domain.destroy()
        domain.undefine()
        for each in (old, new):
            for side in (0, 1):
                pair.seen(each, side).unlink(missing_ok=True)
        for each in (pair.source, pair.destination):
            assert [] == each.listAllDomains()
            each.storagePoolLookupByName(POOL).refresh()
        self.ends.append(ended.state)

    def migrate(
        self, listener: Any = lambda *_: None, ends: tuple[Any, Any] | None = None
    ) -> tuple[Path, Outcome]:
        """Migrate in this process, in which something else is killed; by these connections."""
        pair = self.pair
        quiet()
        directory = self.directory()
        source, there = ends or (pair.source, pair.destination)
        made = migrate.judged(source, there, "guest", pair.there.uri, self.options())
        assert made.task is not None, made.concerns
        result = service.migrate_one(
            *(source, there, made, directory),
            uri=pair.here.uri,
            to=pair.there.uri,
            listener=listener,
        )
        return directory, result.outcomes[made.uuid]


@pytest.fixture
def world(
    storage: str,
    place: Path,
    start_libvirtd: Callable[..., Libvirtd],
    record_property: Callable[[str, object], None],
) -> Iterator[World]:
    """Two hosts, with one storage or each its own; its numbers are reported."""
    pair = make_pair(start_libvirtd, place, separate=storage != "shared")
    made = World(pair, place, storage)
    yield made
    record_property("states", made.tried)
    record_property("lost", made.tried - len(made.ends))


@pytest.mark.parametrize("storage", ["shared", "full", "incremental"])
def test_xmlkit_is_killed_at_each_step(world: World) -> None:
    """Before and after each step: the guest is here, or it is there and the rest is done."""
    point = 1
    while world.kill_xmlkit(point):
        point += 1
    steps = 4 if world.storage == "shared" else 3
    assert 2 * steps == point - 1
    assert {"done", "undone"} == set(world.ends)


@pytest.mark.parametrize(("storage", "point"), [("shared", 4), ("full", 2), ("full", 3)])
def test_what_somebody_else_migrated_is_left_alone(world: World, point: int) -> None:
    """After a kill, an operator migrates the guest without xmlkit: what runs there is not ours."""
    pair = world.pair
    killed, directory = world.crash(point)
    assert killed
    pair.connect()
    domain = pair.source.lookupByName("guest")
    uuid = domain.UUIDString()
    old = pair.instances / uuid / "disk"
    parameters = {libvirt.VIR_MIGRATE_PARAM_URI: pair.unix()}
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_UNSAFE
    if world.storage == "full":
        parameters[libvirt.VIR_MIGRATE_PARAM_DISKS_URI] = pair.unix("nbd")
        flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK
        there = pair.seen(old, 1)
        there.parent.mkdir(exist_ok=True)
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", str(there), str(8 << 20)], check=True
        )
    domain.migrate3(pair.destination, parameters, flags)
    found, errors = service.recover_all(
        lambda _: pair.source, directory, there=lambda _: pair.destination
    )
    ((_, outcomes),) = found
    moved = pair.destination.lookupByUUIDString(uuid)

    assert ([], "undone") == (errors, outcomes[uuid].state), outcomes
    assert ("there",) == pair.running(uuid)
    assert [("file", str(old))] == [each[:2] for each in pair.addresses(moved, 0)]
    assert pair.seen(old, 1).exists()
    assert [] == pair.links()
    assert not moved.isPersistent()
    assert pair.source.lookupByUUIDString(uuid).isPersistent()
    pair.goes_on(moved)
    moved.destroy()


@pytest.mark.parametrize("storage", ["shared", "full", "incremental"])
@pytest.mark.parametrize("live", [True, False], ids=["running", "off"])
def test_what_a_snapshot_there_stands_on_is_kept(world: World, *, live: bool) -> None:
    """After a kill the guest runs there, and somebody takes a snapshot of it: all of it stays."""
    pair = world.pair
    killed, directory = world.crash(6)
    assert killed
    pair.connect()
    (name,) = [each.name() for each in pair.destination.listAllDomains()]
    domain = pair.destination.lookupByName(name)
    uuid = domain.UUIDString()
    assert ("there",) == pair.running(uuid)
    pair.goes_on(domain)
    overlay = pair.instances / "overlay"
    if not live:
        domain.destroy()
    disk = f"<disk name='vda' snapshot='external'><source file='{overlay}'/></disk>"
    xml = f"<domainsnapshot><disks>{disk}</disks></domainsnapshot>"
    domain.snapshotCreateXML(xml, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)

    found, errors = service.recover_all(
        lambda _: pair.source, directory, there=lambda _: pair.destination
    )

    ((_, outcomes),) = found
    assert ([], "undone") == (errors, outcomes[uuid].state), outcomes
    assert "stays" in outcomes[uuid].message
    assert [f"{uuid}_disk"] == pair.links()
    if live:
        pair.goes_on(domain)
        domain.destroy()
    domain.create()
    pair.goes_on(domain)
    domain.destroy()


class Point:
    """A listener that does something at one of the points before and after each step."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.left = number
        self.act = act

    @property
    def struck(self) -> bool:
        """Whether there were so many points."""
        return self.left <= 0

    def __call__(self, what: str, *_: Any) -> None:
        if what != "migrated":
            self.left -= 1
            if self.left == 0:
                self.act()


MOMENTS = ("prepared", "paused", "resumed")


@pytest.mark.parametrize("storage", ["shared", "full"])
def test_xmlkit_is_killed_while_it_migrates(world: World) -> None:
    """At some moments between the first byte and the last one, and after."""
    for when in ("0", "0.1", "0.3", *MOMENTS):
        world.kill_xmlkit(0, when)
    assert 6 == len(world.ends)


@pytest.mark.parametrize("side", ["here", "there"])
@pytest.mark.parametrize("storage", ["shared", "full", "incremental"])
def test_libvirtd_is_killed_at_each_step(world: World, side: str) -> None:
    """Before and after each step, and it comes back at once."""
    victim: Libvirtd = getattr(world.pair, side)
    for point in itertools.count(1):
        passed = Point(point, lambda: victim.restart(signal.SIGKILL))
        world.pair.guest()
        directory, _ = world.migrate(passed)
        world.prove(directory)
        if not passed.struck:
            break
    assert 2 < point < 10


@pytest.mark.parametrize("side", ["here", "there"])
@pytest.mark.parametrize("storage", ["shared", "full", "incremental"])
def test_a_connection_is_cut_at_each_step(world: World, side: str) -> None:
    """Before and after each step, and it does not come back: recover has to make a new one."""
    pair = world.pair
    for point in itertools.count(1):
        world.pair.guest()
        with cuttable(pair.here.uri) as (source, a), cuttable(pair.there.uri) as (there, b):
            passed = Point(point, a if side == "here" else b)
            directory, outcome = world.migrate(passed, (source, there))
        assert outcome.state in ("pending", "done"), outcome
        world.prove(directory)
        if not passed.struck:
            break
    assert "done" == world.ends[-1]
    assert 2 < point < 10


@pytest.mark.parametrize("side", ["here", "there"])
@pytest.mark.parametrize("storage", ["shared", "incremental"])
def test_libvirtd_is_killed_while_it_migrates(world: World, side: str) -> None:
    """At some moments between the first byte and the last one."""
    pair = world.pair
    victim: Libvirtd = getattr(pair, side)
    for when in ("0.1", *MOMENTS):
        killers = []
        seen = []

        def later() -> None:
            if when.isalpha():  # noqa: B023
                seen.append(wait_for(when, pair.here.uri, pair.there.uri))  # noqa: B023
            else:
                time.sleep(float(when))  # noqa: B023
            victim.restart(signal.SIGKILL)

        def kill(what: str, uuid: str, step: Any, *_: Any) -> None:
            if what == "begin" and type(step).__name__ == "Migrate":
                killers.append(threading.Thread(target=later))  # noqa: B023
                killers[0].start()  # noqa: B023

        pair.guest()
        directory, _ = world.migrate(kill)
        for each in killers:
            each.join()
        assert all(seen), when
        world.prove(directory)
    assert 4 == len(world.ends)


@pytest.mark.parametrize("side", ["here", "there"])
@pytest.mark.parametrize("storage", ["shared", "full"])
def test_a_connection_is_cut_while_it_migrates(world: World, side: str) -> None:
    """The guest is big and the way is slow, so that it is under way."""
    pair = world.pair
    pair.guest(memory=3072).migrateSetMaxSpeed(1)
    with cuttable(pair.here.uri) as (source, a), cuttable(pair.there.uri) as (there, b):
        cut = a if side == "here" else b

        def kill(what: str, *_: Any) -> None:
            if what == "migrated":
                with contextlib.suppress(OSError):  # it was cut before
                    cut()

        directory, outcome = world.migrate(kill, (source, there))
    assert outcome.state in ("undone", "pending")
    world.prove(directory)
    assert ["undone"] == world.ends
