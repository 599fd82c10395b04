"""The executor in trouble: whatever happens in the middle, the domain boots and nothing is lost.

Rules
- All is real: libvirtd, QEMU, guests that boot from their disk, file systems that are full.
- Trouble is made by the listener, so it comes exactly before or after a step.
- Each test ends by booting what is defined, and by looking for what was left over.
"""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import libvirt
import pytest
from loops import mounted
from scene import POOL, Scene, counter, disk_xml, edited, images, run, until, when

from xmlkit import executor, journal, leisure
from xmlkit.executor import apply, recover
from xmlkit.host import parse_host
from xmlkit.journal import JournalError, Outcome, Task, Writer
from xmlkit.metadata import names_of
from xmlkit.observe import observe
from xmlkit.plan import Plan, plan
from xmlkit.rules import RULES
from xmlkit.steps import Copy, Define, Link, Refresh, Unlink, steps_of
from xmlkit.testing import Libvirtd

OTHER = "other-pool"


@pytest.fixture
def small(start_libvirtd: Callable[..., Libvirtd]) -> Iterator[tuple[Scene, Path]]:
    """A host with a second pool on a file system of 16 MiB."""
    with mounted("ext4", 16 << 20) as directory:
        made = Scene(start_libvirtd())
        made.pool(OTHER, directory)
        yield made, directory
        made.libvirtd.stop()


# What a test says.


def planned(scene: Scene, domain: Any, pool: str = POOL, to: Any = "volume") -> Plan:
    """The plan for a domain of this host as it is now."""
    host = parse_host(observe(scene.connection))
    return plan(scene.document(domain), host, to, relocate={None: pool})


def task(scene: Scene, domain: Any, pool: str = POOL, *, copied: Sequence[str] = ()) -> Task:
    """What is to be done to move a domain's disks into a pool, its metadata too."""
    made = planned(scene, domain, pool)
    assert made.changes
    return Task(made, steps_of(made, copied=copied, metadata=names_of(domain)))


def back(done: Task) -> Task:
    """The way back of a task that was done."""
    inverse = done.plan.inverse()
    return Task(inverse, steps_of(inverse))


def carry_out(
    scene: Scene, tasks: Sequence[Task], *, connection: Any = None, **options: Any
) -> dict[str, Outcome]:
    """apply() with a journal of its own."""
    state = scene.libvirtd.directory / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    id_ = f"20261122-161402-{len(list(state.iterdir())):04x}"
    writer = Writer.create(str(state), id_, tasks, uri=scene.libvirtd.uri)
    try:
        return apply(connection or scene.connection, writer, tasks, **options)
    finally:
        writer.close()


def last(scene: Scene, state: Path | None = None) -> journal.Journal:
    """The last journal."""
    journals, errors = journal.read_all(str(state or scene.libvirtd.directory / "state"))
    assert () == errors
    return journals[-1]


def old(domain: Any, kind: str = "disk") -> str:
    """Where Nova has an instance's image, in the instances' directory."""
    return f"{domain.UUIDString()}/{kind}"


def new(domain: Any, kind: str = "disk") -> str:
    """Where the pool has it."""
    return f"disks/{domain.UUIDString()}_{kind}"


def on_volume(domain: Any, kind: str = "disk") -> tuple[str, ...]:
    """The address in the pool."""
    return ("volume", POOL, f"{domain.UUIDString()}_{kind}")


def is_undone(scene: Scene, domain: Any, outcome: Outcome, id: str) -> None:
    """It ended as if nothing had been tried, for this reason, and the guest boots."""
    assert ("undone", id) == outcome[:2], outcome
    assert [old(domain)] == images(scene)
    assert [("file", str(scene.instances / old(domain)))] == scene.addresses(domain)
    scene.boots(domain)
    assert () == last(scene).pending


def is_done(scene: Scene, domain: Any, outcome: Outcome) -> None:
    """It ended as planned, and the guest boots from the pool."""
    assert Outcome("done") == outcome
    assert [new(domain)] == images(scene)
    assert [on_volume(domain)] == scene.addresses(domain)
    scene.boots(domain)
    assert () == last(scene).pending


class Meddling:
    """A connection to the real libvirtd, where somebody is faster just before a call."""

    def __init__(self, connection: Any, call: str, act: Callable[[], object]) -> None:
        self._connection = connection
        self._call = call
        self._act: Callable[[], object] | None = act
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        if name == self._call and self._act is not None:
            act, self._act = self._act, None
            act()
        return getattr(self._connection, name)


# Without trouble.


def test_a_move_there_and_back(scene: Scene) -> None:
    """The image keeps its inode and its content; the way back gives the same XML again."""
    domain = scene.nova_guest("a")
    scene.boots(domain)
    image, xml = scene.instances / old(domain), scene.document(domain).text
    inode, content = image.stat().st_ino, image.read_bytes()
    there = task(scene, domain)

    outcome = carry_out(scene, [there])[domain.UUIDString()]
    moved = scene.instances / new(domain)
    assert (inode, content) == (moved.stat().st_ino, moved.read_bytes())
    is_done(scene, domain, outcome)
    assert counter(moved, "qcow2") > 0

    assert Outcome("done") == carry_out(scene, [back(there)])[domain.UUIDString()]
    assert [old(domain)] == images(scene)
    assert xml == scene.document(domain).text
    scene.boots(domain)


def test_done_twice_is_done_once(scene: Scene) -> None:
    """The same task again finds all as it is to be."""
    domain = scene.nova_guest("a")
    there = task(scene, domain)
    carry_out(scene, [there])

    is_done(scene, domain, carry_out(scene, [there])[domain.UUIDString()])


def test_intent_is_on_the_disk_before_a_step_and_its_end_before_the_next_kind(scene: Scene) -> None:
    """At each "begin" the journal says so already, and that what came before is done."""
    domain = scene.nova_guest("a")
    there = task(scene, domain)
    seen = []

    def listener(event: str, own: str, step: Any, *_: int) -> None:
        if event == "begin":
            found = last(scene)
            number = there.steps.index(step)
            assert number in found.begun[own]
            assert set(range(number)) == found.done.get(own, set())
            seen.append(type(step))

    is_done(scene, domain, carry_out(scene, [there], listener=listener)[domain.UUIDString()])
    assert [Link, Refresh, Define, Unlink] == seen


def test_each_step_of_each_domain_is_told(scene: Scene) -> None:
    """Begun and done once, also the refresh that several have in common: a bar reaches its end."""
    tasks = [task(scene, scene.nova_guest(name)) for name in ("a", "b", "c")]
    told: list[tuple[str, str, Any]] = []

    outcomes = carry_out(scene, tasks, listener=lambda *what: told.append(what))

    assert [Outcome("done")] * 3 == list(outcomes.values())
    for event in ("begin", "done"):
        for each in tasks:
            steps = [step for what, own, step in told if (what, own) == (event, each.uuid)]
            assert list(each.steps) == steps


def test_a_listener_that_cannot_write_is_not_listened_to(scene: Scene) -> None:
    """As when the terminal is gone: the domain is brought to its end all the same."""
    domain = scene.nova_guest("a")

    def listener(*_: object) -> None:
        raise BrokenPipeError

    outcome = carry_out(scene, [task(scene, domain)], listener=listener)[domain.UUIDString()]
    is_done(scene, domain, outcome)


# The file system.


def copied_task(scene: Scene, domain: Any) -> Task:
    return task(scene, domain, OTHER, copied=["vda"])


def test_a_copy_into_a_pool_on_another_file_system(small: tuple[Scene, Path]) -> None:
    """The copy boots, the original is gone."""
    scene, directory = small
    domain = scene.nova_guest("a", raw=True)

    assert Outcome("done") == carry_out(scene, [copied_task(scene, domain)])[domain.UUIDString()]
    assert [] == images(scene)
    assert [f"{domain.UUIDString()}_disk"] == files_of(directory)
    scene.boots(domain)


def files_of(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != "lost+found")


def too_full(scene: Scene, directory: Path, domain: Any) -> None:
    with (scene.instances / old(domain)).open("r+b") as image:
        image.seek(1 << 20)
        image.write(b"x" * (20 << 20))


def filled(scene: Scene, directory: Path, domain: Any) -> None:
    with contextlib.suppress(OSError), (directory / "filling").open("wb") as file:
        while True:
            os.write(file.fileno(), bytes(1 << 16))


def read_only(scene: Scene, directory: Path, domain: Any) -> None:
    run("mount", "-o", "remount,ro", directory)


def immutable(scene: Scene, directory: Path, domain: Any) -> None:
    run("chattr", "+i", directory)


@pytest.mark.parametrize(
    ("trouble", "id", "says"),
    [
        (too_full, "no-space", "make room"),
        (filled, "no-space", "make room"),
        (read_only, "read-only", "mount it for writing"),
        (immutable, "not-permitted", "lsattr"),
    ],
)
def test_what_the_file_system_refuses_is_undone(
    small: tuple[Scene, Path], trouble: Callable[..., None], id: str, says: str
) -> None:
    """Full before it begins, full by somebody else in the middle, read-only, immutable."""
    scene, directory = small
    domain = scene.nova_guest("a", raw=True)
    with (scene.instances / old(domain)).open("r+b") as image:
        image.seek(8192)
        image.write(b"x" * 300_000)
    there = copied_task(scene, domain)
    listener = when("begin", Copy, lambda: trouble(scene, directory, domain))
    try:
        outcome = carry_out(scene, [there], listener=listener)[domain.UUIDString()]

        assert says in outcome.message
        is_undone(scene, domain, outcome, id)
        assert [] == [name for name in files_of(directory) if name != "filling"]
    finally:
        run("mount", "-o", "remount,rw", directory)
        run("chattr", "-i", directory)


def test_a_link_that_may_not_be_made_is_undone(start_libvirtd: Callable[..., Libvirtd]) -> None:
    """The directory of the pool is immutable."""
    with mounted("ext4", 16 << 20) as directory:
        scene = Scene(start_libvirtd())
        scene.pool(OTHER, directory / "pool")
        own = str(uuid.uuid4())
        image = scene.flat(directory / own / "disk")
        domain = scene.define("a", [disk_xml(image, format="raw")], own)
        scene.boots(domain)
        there = task(scene, domain, OTHER)
        run("chattr", "+i", directory / "pool")
        try:
            outcome = carry_out(scene, [there])[own]
        finally:
            run("chattr", "-i", directory / "pool")
        assert ("undone", "no-links") == outcome[:2]
        assert "lsattr" in outcome.message
        assert image.exists()
        scene.boots(domain)
        scene.libvirtd.stop()


def test_a_journal_that_cannot_be_written_stops_it_all(scene: Scene) -> None:
    """Nothing more is done, the domain boots, and recover brings it to an end later."""
    domain = scene.nova_guest("a")
    there = task(scene, domain)
    with mounted("tmpfs", 1 << 20) as state:
        writer = Writer.create(str(state), "20261122-161402-0000", [there], uri="")
        path = state / "20261122-161402-0000.jsonl"
        # so that of the two lines of the first step the second one needs another page
        room = -path.stat().st_size % 4096
        padding = (room - 150) % 4096
        writer.write({"resume": "x" * (padding - len('{"resume": ""}\n'))})

        def fill() -> None:
            with contextlib.suppress(OSError), (state / "filling").open("wb") as file:
                while True:
                    os.write(file.fileno(), bytes(4096))

        with pytest.raises(JournalError, match=r"No space left.*xmlkit recover"):
            apply(scene.connection, writer, [there], listener=when("done", Link, fill))
        writer.close()
        scene.boots(domain)
        assert not path.read_bytes().endswith(b"\n")
        with pytest.raises(JournalError, match="No space left"):
            recover(scene.connection, last(scene, state))
        (state / "filling").unlink()
        outcomes = recover(scene.connection, last(scene, state))

        assert {domain.UUIDString(): Outcome("undone")} == outcomes
        assert () == last(scene, state).pending
        assert [old(domain)] == images(scene)
        scene.boots(domain)


# libvirt's daemon and pools.


@pytest.mark.parametrize("kind", [Refresh, Define])
def test_a_pool_that_is_stopped_before_the_definition(scene: Scene, kind: type) -> None:
    """All is taken back: the file is needed by no pool."""
    domain = scene.nova_guest("a")
    pool = scene.connection.storagePoolLookupByName(POOL)

    outcome = carry_out(scene, [task(scene, domain)], listener=when("begin", kind, pool.destroy))

    assert POOL in outcome[domain.UUIDString()].message
    id_ = "pool-refresh" if kind is Refresh else "pool-inactive"
    is_undone(scene, domain, outcome[domain.UUIDString()], id_)


def test_a_pool_that_is_stopped_after_the_definition(scene: Scene) -> None:
    """Both names stay until the pool is back; then recover ends it."""
    domain = scene.nova_guest("a")
    pool = scene.connection.storagePoolLookupByName(POOL)

    outcome = carry_out(scene, [task(scene, domain)], listener=when("begin", Unlink, pool.destroy))

    assert ("pending", "pool-inactive") == outcome[domain.UUIDString()][:2]
    assert "xmlkit recover" in outcome[domain.UUIDString()].message
    assert [old(domain), new(domain)] == sorted(images(scene), key=lambda path: path[:5] == "disks")
    pool.create()
    is_done(scene, domain, recover(scene.connection, last(scene))[domain.UUIDString()])


@pytest.mark.parametrize(
    ("kind", "state"), [(Link, "undone"), (Refresh, "undone"), (Define, "undone"), (Unlink, "done")]
)
def test_the_daemon_is_restarted(scene: Scene, kind: type, state: str) -> None:
    """The connection is lost at once and not waited for; recover ends it by another one."""
    domains = [scene.nova_guest(name) for name in "ab"]
    tasks = [task(scene, domain) for domain in domains]

    outcomes = carry_out(scene, tasks, listener=when("begin", kind, scene.libvirtd.restart))

    assert {"pending"} == {outcome.state for outcome in outcomes.values()}
    assert all("xmlkit recover" in outcome.message for outcome in outcomes.values())
    scene.reopen()
    ends = recover(scene.connection, last(scene))
    assert {domain.UUIDString(): Outcome(state) for domain in domains} == ends
    where = old if state == "undone" else new
    assert sorted(map(where, domains)) == images(scene)
    for domain in domains:
        scene.boots(scene.connection.lookupByUUIDString(domain.UUIDString()))


def busy(scene: Scene, size: int) -> threading.Thread:
    """A pool in which libvirt copies a volume of so many bytes; returns when it does."""
    pool = scene.connection.storagePoolLookupByName(POOL)
    with (scene.instances / "disks" / "large").open("wb") as file:
        file.truncate(size)
    pool.refresh()
    # Its own connection: libvirt's client before 10.0 may not send what one thread asks for while
    # another one waits.
    own = libvirt.open(scene.libvirtd.uri).storagePoolLookupByName(POOL)
    source = own.storageVolLookupByName("large")
    xml = (
        f"<volume><name>copy</name><capacity>{size}</capacity><allocation>0</allocation>"
        "<target><format type='raw'/></target></volume>"
    )

    def copy() -> None:
        with contextlib.suppress(libvirt.libvirtError):  # the end of the host
            own.createXMLFrom(xml, source)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()

    def refused() -> bool:
        try:
            pool.refresh()
        except libvirt.libvirtError as error:
            return bool(error.get_error_code() == libvirt.VIR_ERR_INTERNAL_ERROR)
        return False

    until(lambda: refused() or not thread.is_alive())
    if thread.is_alive():
        return thread
    # it was over too soon
    (scene.instances / "disks" / "copy").unlink()
    return busy(scene, 2 * size)


def test_a_busy_pool_is_asked_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """While libvirt makes a volume there; ten seconds are more here, where all is slow."""
    monkeypatch.setattr(leisure, "refresh", partial(leisure.refresh, seconds=300.0))
    domain = scene.nova_guest("a")
    there = task(scene, domain)
    threads: list[threading.Thread] = []

    outcome = carry_out(
        scene,
        [there],
        listener=when("begin", Refresh, lambda: threads.append(busy(scene, 1 << 30))),
    )[domain.UUIDString()]

    threads[0].join(300)
    for name in ("large", "copy"):
        (scene.instances / "disks" / name).unlink()
    is_done(scene, domain, outcome)


def test_a_pool_that_stays_busy_is_reported(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """With libvirt's own message, and all is taken back."""
    monkeypatch.setattr(leisure, "refresh", partial(leisure.refresh, seconds=0.5))
    domain = scene.nova_guest("a")
    there = task(scene, domain)

    outcome = carry_out(
        scene, [there], listener=when("begin", Refresh, lambda: busy(scene, 1 << 37))
    )[domain.UUIDString()]

    assert ("undone", "pool-refresh") == outcome[:2]
    assert f"pool {POOL}" in outcome.message
    assert "libvirt error 1)" in outcome.message
    assert old(domain) in images(scene)
    assert new(domain) not in images(scene)
    scene.boots(domain)


def test_what_libvirt_does_not_keep_is_put_back(scene: Scene) -> None:
    """It drops fdgroup of a volume disk; here the plan did not see it, for want of a span."""
    domain = scene.nova_guest("a")
    there = task(scene, domain)
    plan_ = there.plan._replace(disks=tuple(d._replace(span="") for d in there.plan.transitions))
    edited(scene, domain, "/disk'/>", "/disk' fdgroup='from-outside'/>")
    xml = scene.document(domain).text
    assert "fdgroup" in xml

    outcome = carry_out(scene, [Task(plan_, there.steps)])[domain.UUIDString()]

    assert ("undone", "not-kept") == outcome[:2]
    assert "/domain/devices/disk[vda]/source/@fdgroup" in outcome.message
    assert xml == scene.document(domain).text
    edited(scene, domain, " fdgroup='from-outside'", "")
    is_undone(scene, domain, outcome, "not-kept")


# Somebody else.


def test_a_domain_that_is_started_before_its_definition(scene: Scene) -> None:
    """It runs on, undisturbed, by its old name."""
    domain = scene.nova_guest("a")

    outcome = carry_out(
        scene, [task(scene, domain)], listener=when("begin", Define, lambda: scene.start(domain))
    )[domain.UUIDString()]

    assert 1 == domain.isActive()
    scene.stop(domain)
    is_undone(scene, domain, outcome, "running")


def test_a_domain_that_is_started_while_it_is_defined(scene: Scene) -> None:
    """Between the look and the definition: what was defined is put back."""
    domain = scene.nova_guest("a")
    connection = Meddling(scene.connection, "defineXML", lambda: scene.start(domain))

    outcome = carry_out(scene, [task(scene, domain)], connection=connection)[domain.UUIDString()]

    assert 1 == domain.isActive()
    scene.stop(domain)
    is_undone(scene, domain, outcome, "running")


def test_a_domain_that_is_started_after_its_definition(scene: Scene) -> None:
    """It has the new address already, so the old name goes as planned."""
    domain = scene.nova_guest("a")

    outcome = carry_out(
        scene, [task(scene, domain)], listener=when("begin", Unlink, lambda: scene.start(domain))
    )[domain.UUIDString()]

    assert 1 == domain.isActive()
    scene.stop(domain)
    is_done(scene, domain, outcome)


def test_a_copied_image_is_locked_until_it_is_defined(small: tuple[Scene, Path]) -> None:
    """No guest can write to the original while and after it is copied."""
    scene, _ = small
    domain = scene.nova_guest("a", raw=True)

    def start() -> None:
        with pytest.raises(libvirt.libvirtError, match="lock"):
            domain.create()

    outcome = carry_out(scene, [copied_task(scene, domain)], listener=when("done", Copy, start))[
        domain.UUIDString()
    ]

    assert Outcome("done") == outcome
    scene.boots(domain)


def test_an_original_that_is_written_to_after_the_definition_is_kept(
    small: tuple[Scene, Path],
) -> None:
    """Somebody used the old path: an operator has to say which one is right."""
    scene, _ = small
    domain = scene.nova_guest("a", raw=True)
    image = scene.instances / old(domain)

    def write() -> None:
        with image.open("r+b") as file:
            file.seek(65536)
            file.write(b"somebody else")

    outcome = carry_out(scene, [copied_task(scene, domain)], listener=when("begin", Unlink, write))[
        domain.UUIDString()
    ]

    assert ("pending", "image-changed") == outcome[:2]
    assert "remove the one that is not needed" in outcome.message
    assert image.exists()
    scene.boots(domain)
    image.unlink()
    assert Outcome("done") == recover(scene.connection, last(scene))[domain.UUIDString()]


class CrashError(BaseException):
    """As if xmlkit had been killed there."""


def crash() -> None:
    raise CrashError


def test_a_copy_is_known_for_ours_after_a_crash(small: tuple[Scene, Path]) -> None:
    """The journal knows it before it has its name; the guest has written to its old disk since."""
    scene, directory = small
    domain = scene.nova_guest("a", raw=True)
    tasks = [copied_task(scene, domain)]
    with pytest.raises(CrashError):
        carry_out(scene, tasks, listener=when("done", Copy, crash))
    assert 1 == len(files_of(directory))
    scene.boots(domain)

    assert Outcome("undone") == recover(scene.connection, last(scene))[domain.UUIDString()]
    assert ([], [old(domain)]) == (files_of(directory), images(scene))
    scene.boots(domain)


@pytest.mark.parametrize("same", [False, True])
def test_somebodys_file_is_not_taken_for_a_copy_after_a_crash(
    small: tuple[Scene, Path], same: bool
) -> None:
    """xmlkit was killed before it copied, and somebody has put a file there."""
    scene, directory = small
    domain = scene.nova_guest("a", raw=True)
    target = directory / f"{domain.UUIDString()}_disk"
    content = (scene.instances / old(domain)).read_bytes() if same else b"somebody's"
    tasks = [copied_task(scene, domain)]
    with pytest.raises(CrashError):
        carry_out(scene, tasks, listener=when("begin", Copy, crash))
    target.write_bytes(content)

    assert Outcome("undone") == recover(scene.connection, last(scene))[domain.UUIDString()]
    assert content == target.read_bytes()
    scene.boots(domain)


@pytest.mark.parametrize("kind", [Link, Refresh, Define])
def test_an_edit_of_something_else_is_kept(scene: Scene, kind: type) -> None:
    """More memory and a further disk, defined in the middle."""
    domain = scene.nova_guest("a")
    extra = scene.flat(scene.libvirtd.directory / "extra")

    def edit() -> None:
        further = disk_xml(extra, "vdb", "raw")
        edited(scene, domain, "<controller", f"{further}<controller")
        edited(scene, domain, ">16384<", ">32768<")

    outcome = carry_out(scene, [task(scene, domain)], listener=when("begin", kind, edit))

    assert Outcome("done") == outcome[domain.UUIDString()]
    assert [on_volume(domain), ("file", str(extra))] == scene.addresses(domain)
    assert 32768 == domain.maxMemory()
    scene.boots(domain)


@pytest.mark.parametrize("kind", [Link, Refresh, Define, Unlink])
def test_a_planned_disk_that_goes_elsewhere_is_left_alone(scene: Scene, kind: type) -> None:
    """What somebody has defined stays, and so does the image under its old name."""
    domain = scene.nova_guest("a")
    elsewhere = scene.flat(scene.libvirtd.directory / "elsewhere")

    def edit() -> None:
        scene.define("a", [disk_xml(elsewhere, format="raw")], domain.UUIDString())

    outcome = carry_out(scene, [task(scene, domain)], listener=when("begin", kind, edit))

    assert ("undone", "disk-changed") == outcome[domain.UUIDString()][:2]
    assert "plan again" in outcome[domain.UUIDString()].message or kind is Unlink
    assert [old(domain)] == images(scene)
    assert [("file", str(elsewhere))] == scene.addresses(domain)
    assert () == last(scene).pending
    scene.boots(domain)


def test_a_planned_disk_in_another_format_is_taken_back(scene: Scene) -> None:
    """The address is the old one: it is put back to where it was."""
    domain = scene.nova_guest("a")
    before = "<driver name='qemu' type='qcow2'/>"
    after = "<driver name='qemu' type='qcow2' cache='none'/>"

    outcome = carry_out(
        scene,
        [task(scene, domain)],
        listener=when("begin", Define, lambda: edited(scene, domain, before, after)),
    )[domain.UUIDString()]

    assert after in scene.document(domain).text
    is_undone(scene, domain, outcome, "disk-changed")


def test_a_name_that_the_domain_has_by_another_address_is_kept(scene: Scene) -> None:
    """Somebody has defined the new name as a file: both names stay."""
    domain = scene.nova_guest("a")
    volume = scene.instances / new(domain)

    def edit() -> None:
        scene.define("a", [disk_xml(volume)], domain.UUIDString())

    outcome = carry_out(scene, [task(scene, domain)], listener=when("begin", Define, edit))

    assert ("pending", "disk-changed") == outcome[domain.UUIDString()][:2]
    assert {old(domain), new(domain)} == set(images(scene))
    scene.boots(domain)


def test_disks_that_are_partly_changed_are_pending(scene: Scene) -> None:
    """One of two was put back by somebody: until all are, both names of each stay."""
    domain = scene.nova_guest("a", kinds=("disk", "disk.eph0"))
    xml = scene.document(domain).text

    def edit() -> None:
        volume = scene.document(domain).text.split("<disk ")[2]
        text = xml.split("<disk ")
        scene.connection.defineXML("<disk ".join((text[0], text[1], volume)))

    outcome = carry_out(scene, [task(scene, domain)], listener=when("begin", Unlink, edit))

    assert ("pending", "disk-changed") == outcome[domain.UUIDString()][:2]
    assert "virsh edit" in outcome[domain.UUIDString()].message
    assert 4 == len(images(scene))
    scene.boots(domain)
    scene.connection.defineXML(xml)
    assert Outcome("undone") == recover(scene.connection, last(scene))[domain.UUIDString()]
    assert [old(domain), old(domain, "disk.eph0")] == images(scene)
    scene.boots(domain)


@pytest.mark.parametrize("live", [False, True], ids=["off", "running"])
def test_a_new_name_that_a_snapshot_stands_on_is_kept(scene: Scene, *, live: bool) -> None:
    """An overlay that somebody has put above the volume names it: both names stay, and it boots."""
    domain = scene.nova_guest("a")
    overlay = scene.instances / "overlay"

    def snapshot() -> None:
        if live:
            scene.start(domain)
        disk = f"<disk name='vda' snapshot='external'><source file='{overlay}'/></disk>"
        xml = f"<domainsnapshot><disks>{disk}</disks></domainsnapshot>"
        domain.snapshotCreateXML(xml, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
        scene.stop(domain)

    outcome = carry_out(scene, [task(scene, domain)], listener=when("begin", Unlink, snapshot))

    assert ("pending", "disk-changed") == outcome[domain.UUIDString()][:2]
    assert f"{overlay} is backed by {scene.instances / new(domain)}" in (
        outcome[domain.UUIDString()].message
    )
    assert {old(domain), new(domain), "overlay"} == set(images(scene))
    scene.boots(domain)
    assert "pending" == recover(scene.connection, last(scene))[domain.UUIDString()].state
    scene.boots(domain)


def test_a_new_name_that_another_domain_has_is_kept(scene: Scene) -> None:
    """Somebody has defined the domain by another UUID: it boots from the volume."""
    domain = scene.nova_guest("a")
    other = str(uuid.uuid4())

    def replace() -> None:
        xml = scene.document(domain).text
        domain.undefine()
        scene.connection.defineXML(xml.replace(f"<uuid>{domain.UUIDString()}", f"<uuid>{other}"))

    outcome = carry_out(scene, [task(scene, domain)], listener=when("begin", Unlink, replace))

    assert ("pending", "disk-changed") == outcome[domain.UUIDString()][:2]
    assert "domain a uses" in outcome[domain.UUIDString()].message
    scene.boots(scene.connection.lookupByUUIDString(other))


@pytest.mark.parametrize("kind", [Link, Refresh, Define, Unlink])
def test_an_undefined_domain_keeps_its_image(scene: Scene, kind: type) -> None:
    """Under its old name, where whoever undefined it will look for it."""
    domain = scene.nova_guest("a")
    xml = scene.document(domain).text

    outcome = carry_out(
        scene, [task(scene, domain)], listener=when("begin", kind, domain.undefine)
    )[domain.UUIDString()]

    assert "undone" == outcome.state
    assert outcome.id == ("disk-changed" if kind is Unlink else "no-domain")
    assert [old(domain)] == images(scene)
    scene.boots(scene.connection.defineXML(xml))


def test_the_old_definition_put_back_by_somebody_is_taken_for_what_it_is(scene: Scene) -> None:
    """Nova's hard reboot in the middle: the old name is needed, the new one goes."""
    domain = scene.nova_guest("a")
    xml = scene.document(domain).text

    outcome = carry_out(
        scene,
        [task(scene, domain)],
        listener=when("begin", Unlink, lambda: scene.connection.defineXML(xml)),
    )[domain.UUIDString()]

    is_undone(scene, domain, outcome, "disk-changed")


def test_a_domain_that_is_saved_in_the_middle(scene: Scene) -> None:
    """Its saved state would bring the old address back: it is not defined."""
    domain = scene.nova_guest("a")

    def save() -> None:
        scene.start(domain)
        domain.managedSave()

    outcome = carry_out(scene, [task(scene, domain)], listener=when("begin", Define, save))

    assert ("undone", "managed-save") == outcome[domain.UUIDString()][:2]
    assert [old(domain)] == images(scene)
    domain.create()
    assert [("file", str(scene.instances / old(domain)))] == scene.addresses(domain)
    scene.stop(domain)


def test_a_link_never_replaces_what_somebody_has_put_there(scene: Scene) -> None:
    """Between the plan and the link."""
    domain = scene.nova_guest("a")
    target = scene.instances / new(domain)

    outcome = carry_out(
        scene,
        [task(scene, domain)],
        listener=when("begin", Link, lambda: target.write_bytes(b"somebody's")),
    )[domain.UUIDString()]

    assert b"somebody's" == target.read_bytes()
    target.unlink()
    is_undone(scene, domain, outcome, "target-exists")


@pytest.mark.parametrize("same", [False, True])
def test_a_copy_never_replaces_what_somebody_has_put_there(
    small: tuple[Scene, Path], same: bool
) -> None:
    """Nor is it taken for the copy, even where it has the same content."""
    scene, directory = small
    domain = scene.nova_guest("a", raw=True)
    target = directory / f"{domain.UUIDString()}_disk"
    content = (scene.instances / old(domain)).read_bytes() if same else b"somebody's"

    outcome = carry_out(
        scene,
        [copied_task(scene, domain)],
        listener=when("begin", Copy, lambda: target.write_bytes(content)),
    )[domain.UUIDString()]

    assert content == target.read_bytes()
    is_undone(scene, domain, outcome, "target-exists")


def test_a_link_swapped_in_for_the_image_is_not_followed(scene: Scene) -> None:
    """A guest's owner could otherwise have a file of the host linked into the pool."""
    domain = scene.nova_guest("a")
    image = scene.instances / old(domain)
    aside = image.with_name("aside")

    def swap() -> None:
        image.rename(aside)
        image.symlink_to("/etc/shadow")

    outcome = carry_out(scene, [task(scene, domain)], listener=when("begin", Link, swap))

    image.unlink()
    aside.rename(image)
    is_undone(scene, domain, outcome[domain.UUIDString()], "symlink")


def test_a_link_swapped_in_for_the_pool_is_not_followed(scene: Scene) -> None:
    """Nothing is put into where it leads."""
    domain = scene.nova_guest("a")
    disks, aside = scene.instances / "disks", scene.libvirtd.directory / "aside"
    other = scene.libvirtd.directory / "other"
    other.mkdir()

    def swap() -> None:
        disks.rename(aside)
        disks.symlink_to(other)

    outcome = carry_out(scene, [task(scene, domain)], listener=when("begin", Link, swap))

    assert [] == list(other.iterdir())
    disks.unlink()
    aside.rename(disks)
    is_undone(scene, domain, outcome[domain.UUIDString()], "symlink")


def test_the_only_name_that_is_left_is_not_removed(scene: Scene) -> None:
    """Somebody has removed the old name, and the domain still has it."""
    domain = scene.nova_guest("a")
    image, volume = scene.instances / old(domain), scene.instances / new(domain)
    pool = scene.connection.storagePoolLookupByName(POOL)

    def remove() -> None:
        image.unlink()
        pool.destroy()

    outcome = carry_out(scene, [task(scene, domain)], listener=when("begin", Refresh, remove))

    assert ("pending", "pool-refresh") == outcome[domain.UUIDString()][:2]
    assert f"{volume} may be the only name" in outcome[domain.UUIDString()].message
    run("ln", "-T", volume, image)
    assert Outcome("undone") == recover(scene.connection, last(scene))[domain.UUIDString()]
    assert [old(domain)] == images(scene)
    scene.boots(domain)


# Interrupted.


def interrupting(number: int, calls: list[str]) -> Callable[..., None]:
    def listener(event: str, _: str, step: Any, *__: int) -> None:
        calls.append(f"{event} {type(step).__name__}")
        if len(calls) == number:
            raise KeyboardInterrupt

    return listener


@pytest.mark.parametrize("metadata", [False, True])
def test_an_interruption_at_each_call_ends_everything(scene: Scene, metadata: bool) -> None:
    """Two guests, interrupted at every call of the listener: done or undone, never pending."""
    number, states = 0, Counter[str]()
    while True:
        number += 1
        domains = [scene.nova_guest(f"{name}{number}") for name in "ab"]
        if metadata:
            domains[0].snapshotCreateXML("<domainsnapshot><name>s</name></domainsnapshot>")
        calls: list[str] = []
        tasks = [task(scene, domain) for domain in domains]
        outcomes = carry_out(scene, tasks, listener=interrupting(number, calls))

        assert {domain.UUIDString() for domain in domains} == set(outcomes)
        left = []
        for domain in domains:
            outcome = outcomes[domain.UUIDString()]
            states[outcome.state] += 1
            assert outcome[:2] in (("done", ""), ("undone", "interrupted"))
            left.append((new if outcome.state == "done" else old)(domain))
        assert sorted(left) == images(scene)
        assert () == last(scene).pending
        if number % 4 == 0 or len(calls) < number:
            scene.boots(domains[0])
        for domain in domains:
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
            shutil.rmtree(scene.instances / domain.UUIDString())
            (scene.instances / new(domain)).unlink(missing_ok=True)
        if len(calls) < number:
            break
    assert 17 + 2 * metadata == number
    assert {"done", "undone"} == set(states)


def test_an_interruption_of_a_copy_at_each_call(small: tuple[Scene, Path]) -> None:
    """While it is copied too; the second domain was not begun."""
    scene, directory = small
    number = 0
    while True:
        number += 1
        domains = [scene.nova_guest(f"{name}{number}", raw=True) for name in "ab"]
        calls: list[str] = []
        tasks = [copied_task(scene, domain) for domain in domains]
        outcomes = carry_out(scene, tasks, listener=interrupting(number, calls))

        first, second = (outcomes[domain.UUIDString()] for domain in domains)
        through = len(calls) < number
        assert first[:2] in (("done", ""), ("undone", "interrupted"))
        if not through and number < len(calls) // 2:
            assert ("skipped", "interrupted") == second[:2]
        left = [domain for domain in domains if outcomes[domain.UUIDString()].state != "done"]
        assert sorted(map(old, left)) == images(scene)
        assert 2 - len(left) == len(files_of(directory))
        assert () == last(scene).pending
        if number % 4 == 0 or through:
            scene.boots(domains[0])
        for domain in domains:
            domain.undefine()
            shutil.rmtree(scene.instances / domain.UUIDString())
            (directory / f"{domain.UUIDString()}_disk").unlink(missing_ok=True)
        if through:
            break
    assert number > 16


def test_an_interruption_while_something_is_taken_back(scene: Scene) -> None:
    """A second Ctrl-C is raised, and recover does the rest."""
    domains = [scene.nova_guest(name) for name in "ab"]
    tasks = [task(scene, domain) for domain in domains]

    def interrupt() -> None:
        raise KeyboardInterrupt

    connection = Meddling(scene.connection, "lookupByUUIDString", interrupt)
    with pytest.raises(KeyboardInterrupt):
        carry_out(scene, tasks, connection=connection, listener=when("done", Refresh, interrupt))

    ends = recover(scene.connection, last(scene))
    assert {domain.UUIDString(): Outcome("undone") for domain in domains} == ends
    assert sorted(map(old, domains)) == images(scene)


def test_an_interruption_while_one_is_settled_leaves_none_out(scene: Scene) -> None:
    """It had failed and was on its way back: it ends like the others."""
    domains = [scene.nova_guest(name) for name in "ab"]
    tasks = [task(scene, domain) for domain in domains]

    def interrupt() -> None:
        raise KeyboardInterrupt

    first = scene.instances / new(domains[0])
    # the first call for the domain is made to settle what failed
    connection = Meddling(scene.connection, "lookupByUUIDString", interrupt)
    outcomes = carry_out(
        scene,
        tasks,
        connection=connection,
        listener=when("begin", Link, lambda: first.write_bytes(b"")),
    )

    first.unlink()
    assert {("undone", "interrupted")} == {outcome[:2] for outcome in outcomes.values()}
    assert {domain.UUIDString() for domain in domains} == set(outcomes)
    assert () == last(scene).pending
    assert sorted(map(old, domains)) == images(scene)


# Many.


def test_after_so_many_failures_no_more_is_changed(scene: Scene) -> None:
    """Two of six fail; the other four are as they were."""
    domains = [scene.nova_guest(f"{number}") for number in range(6)]
    tasks = [task(scene, domain) for domain in domains]
    for domain in domains[:2]:
        (scene.instances / new(domain)).write_bytes(b"")

    outcomes = carry_out(scene, tasks, max_failures=2)

    ids = [outcomes[domain.UUIDString()].id for domain in domains]
    assert ["target-exists"] * 2 + ["max-failures"] * 4 == ids
    assert {"undone"} == {outcome.state for outcome in outcomes.values()}
    assert {new(domain) for domain in domains[:2]} | set(map(old, domains)) == set(images(scene))


def test_one_failure_fewer_than_the_limit_stops_nothing(scene: Scene) -> None:
    """Two of six fail, and three may."""
    domains = [scene.nova_guest(f"{number}") for number in range(6)]
    tasks = [task(scene, domain) for domain in domains]
    for domain in domains[:2]:
        (scene.instances / new(domain)).write_bytes(b"")

    outcomes = carry_out(scene, tasks, max_failures=3)

    states = Counter(outcome.state for outcome in outcomes.values())
    assert {"undone": 2, "done": 4} == states


def test_copies_after_so_many_failures_are_skipped(small: tuple[Scene, Path]) -> None:
    """They go one by one: the third is not begun."""
    scene, directory = small
    domains = [scene.nova_guest(f"{number}", raw=True) for number in range(3)]
    tasks = [copied_task(scene, domain) for domain in domains]
    for domain in domains[:2]:
        (directory / f"{domain.UUIDString()}_disk").write_bytes(b"")

    outcomes = carry_out(scene, tasks, max_failures=2)

    assert ["target-exists", "target-exists", "max-failures"] == [o.id for o in outcomes.values()]
    assert ["undone", "undone", "skipped"] == [outcome.state for outcome in outcomes.values()]
    assert "partly" == last(scene).state
    scene.boots(domains[2])


def hundred(scene: Scene) -> tuple[list[Any], list[Task]]:
    """A hundred guests whose images move into one pool."""
    domains = [scene.nova_guest(f"{number}", raw=True) for number in range(100)]
    host = parse_host(observe(scene.connection))
    plans = [plan(scene.document(each), host, relocate={None: POOL}) for each in domains]
    return domains, [Task(each, steps_of(each)) for each in plans]


def counted_refreshes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pools that are refreshed from now on."""
    refreshes: list[str] = []
    refresh = executor._Executor._refresh_pool

    def counted(self: Any, name: str) -> None:
        refreshes.append(name)
        refresh(self, name)

    monkeypatch.setattr(executor._Executor, "_refresh_pool", counted)
    return refreshes


def test_a_hundred_guests_cost_one_refresh_of_the_pool(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told for each of them."""
    domains, tasks = hundred(scene)
    refreshes = counted_refreshes(monkeypatch)
    told: Counter[str] = Counter()

    def listener(event: str, _: str, step: Any, *__: int) -> None:
        told[f"{event} {type(step).__name__}"] += 1

    outcomes = carry_out(scene, tasks, listener=listener)

    assert {Outcome("done")} == set(outcomes.values())
    assert [POOL] == refreshes
    assert 100 == told["begin Refresh"] == told["done Refresh"] == told["done Link"]
    assert 100 == told["done Define"] == told["done Unlink"]
    scene.boots(domains[57])


@pytest.mark.parametrize(("kind", "state"), [(Define, "undone"), (Unlink, "done")])
def test_a_hundred_guests_are_settled_with_few_refreshes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, kind: type, state: str
) -> None:
    """Interrupted before the first definition and the first removal; one more refresh at most."""
    domains, tasks = hundred(scene)
    refreshes = counted_refreshes(monkeypatch)

    def interrupt() -> None:
        raise KeyboardInterrupt

    outcomes = carry_out(scene, tasks, listener=when("begin", kind, interrupt))

    assert {state} == {outcome.state for outcome in outcomes.values()}
    assert len(refreshes) <= 2
    known = {
        each.name() for each in scene.connection.storagePoolLookupByName(POOL).listAllVolumes()
    }
    there = {f"{domain.UUIDString()}_disk" for domain in domains}
    assert known == (there if state == "done" else set())


# What it says.


def ids_of_the_executor() -> set[str]:
    """What stands in its code as the id of a _Failure, of an Outcome, or is given to _fail()."""
    found = set()
    for node in ast.walk(ast.parse(Path(executor.__file__).read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            place = {"_Failure": 0, "Outcome": 1, "_fail": 2}.get(name, 99)
            given = node.args[place : place + 1]
            found |= {str(each.value) for each in given if isinstance(each, ast.Constant)}
    return found


def test_every_id_of_an_outcome_is_explained() -> None:
    """What the executor may say, `xmlkit explain` can say why, and what to do."""
    found = ids_of_the_executor()

    assert found >= {
        *("running", "managed-save", "no-domain", "disk-changed", "no-volume", "no-image"),
        *("pool-refresh", "not-kept", "libvirt", "failed", "interrupted", "image-changed"),
    }
    assert set() == found - set(RULES)
    # these are chosen by a variable
    assert {"max-failures", "pool-inactive"} <= set(RULES)
