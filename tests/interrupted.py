"""Transitions that are cut off: the scenarios, every point at which it may happen, and the proof.

Rules
- A point is before each call that changes a disk or libvirt's mind (link, unlink, rename, write,
  sync, define, refresh, ...) and at each word to the listener. A write is cut in its middle.
- At each of them what is defined has to lead to the guest's own content, before anybody recovers;
  then recover() has to end it, done or undone, with nothing lost and nothing left over.
- One guest is new for each point, one libvirtd serves them all.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import libvirt

from xmlkit import executor, images, journal, metadata
from xmlkit.compare import compare
from xmlkit.disks import read_domain
from xmlkit.host import Host, parse_host
from xmlkit.images import TEMPORARY
from xmlkit.journal import Journal, JournalError, Outcome, Task, Writer
from xmlkit.observe import observe
from xmlkit.plan import Form, Plan, plan
from xmlkit.state import new_id
from xmlkit.steps import Step, steps_of
from xmlkit.testing import Libvirtd
from xmlkit.transformers import transform

# Called with what is about to be done, and a function that does a part of it.
Visit = Callable[[str, Callable[[], object]], None]

SECOND = "second-pool"
ELSEWHERE = "other-file-system"
ASKED = ", asked to shut down"
DEVICES = "devices"
SECONDS = 120.0  # for a child that takes a tenth of one on an idle machine


def _nothing() -> None: ...


@contextlib.contextmanager
def points(visit: Visit, *, syncs: bool) -> Iterator[executor.Listener]:
    """Within it `visit` is called at every point; yields the listener, which has to be used.

    syncs: before what is synced too. To a process that is killed a sync makes no difference.
    """
    inside = False

    def at(what: str, part: Callable[[], object] = _nothing) -> None:
        nonlocal inside
        if not inside:
            inside = True
            try:
                visit(what, part)
            finally:
                inside = False

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def write(handle: int, data: bytes) -> Any:
            at(f"write {data!r}", lambda: call(handle, data[: len(data) // 2]))
            return call(handle, data)

        def other(*values: Any, **named: Any) -> Any:
            at(f"{name} {values}")
            return call(*values, **named)

        return write if name == "write" else other

    owners: list[tuple[Any, Sequence[str]]] = [
        (os, ("link", "unlink", "replace", "write", "copy_file_range")),
        (os, ("fsync", "fdatasync", "sync") if syncs else ()),
        (images, ("rename",)),
        (libvirt.virConnect, ("defineXML",)),
        (libvirt.virDomain, ("snapshotCreateXML", "shutdown", "create")),
        (libvirt.virStoragePool, ("refresh",)),
    ]
    with contextlib.ExitStack() as stack:
        for owner, names in owners:
            for name in names:
                original = getattr(owner, name)
                setattr(owner, name, watched(name, original))
                stack.callback(setattr, owner, name, original)
        yield lambda word, _, step, *rest: at(f"{word} {step} {rest or ''}")


class Job(NamedTuple):
    """What a child does: a journal is begun and its tasks carried out, or one is recovered."""

    uri: str
    directory: str
    id: str
    tasks: tuple[Task, ...]
    kind: str  # apply, rollback or recover
    kill_at: int | str  # a number of a point, or how its description begins


def child(job: Job) -> None:
    """Do a job, and die of SIGKILL at its point."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    libvirt.registerErrorHandler(lambda *_: None, None)
    directory = Path(job.directory)
    connection = libvirt.open(job.uri)
    passed = 0
    asked = ""

    def visit(what: str, part: Callable[[], object]) -> None:
        nonlocal passed, asked
        passed += 1
        if passed == job.kill_at or (isinstance(job.kill_at, str) and what.startswith(job.kill_at)):
            note = f"point {passed}{asked}, before: {what[:200]}"
            (directory / "killed-at").write_text(note)
            part()
            os.kill(os.getpid(), signal.SIGKILL)
        if what.startswith("shutdown"):
            asked = ASKED

    try:
        with points(visit, syncs=False) as listener:
            if job.kind == "recover":
                known = journal.read(str(directory / f"{job.id}.jsonl"))
                executor.recover(connection, known, listener=listener)
            else:
                writer = Writer.create(job.directory, job.id, job.tasks, uri=job.uri, kind=job.kind)
                outcomes = executor.apply(connection, writer, job.tasks, listener=listener)
                assert {Outcome("done")} == set(outcomes.values()), outcomes
    except BaseException:
        (directory / "killed-at").write_text(traceback.format_exc())
        raise


class Scenario(NamedTuple):
    """A way to change a guest.

    kinds: its disks. guests: how many in one batch. raw: flat images, not overlays. relocate, to:
    as plan() takes them. pool: the one that the images are in at first; "" for the instance's
    directory. copied: by copies, not links. disk_info: with Nova's file. snapshot: with a snapshot.
    """

    name: str
    kinds: tuple[str, ...] = ("disk",)
    guests: int = 1
    raw: bool = False
    relocate: tuple[tuple[str | None, str], ...] = ((None, "nova-disks-pool"),)
    to: Form = "volume"
    pool: str = ""
    copied: bool = False
    disk_info: bool = False
    snapshot: bool = False
    restart: bool = False


SCENARIOS = (
    Scenario("adopt", relocate=(), pool="nova-disks-pool"),
    Scenario("adopt-block", raw=True, relocate=(), pool=DEVICES),
    Scenario("to-path", relocate=(), pool="nova-disks-pool", to="path"),
    Scenario("link-overlay", disk_info=True),
    Scenario("link-raw", raw=True),
    Scenario(
        "link-two-pools",
        kinds=("disk", "disk.eph0", "disk.swap"),
        relocate=(("root", "nova-disks-pool"), (None, SECOND)),
        disk_info=True,
    ),
    Scenario("link-two-guests", guests=2),
    Scenario("link-snapshot", snapshot=True),
    Scenario("copy", relocate=((None, ELSEWHERE),), copied=True, disk_info=True),
    Scenario("copy-raw", relocate=((None, ELSEWHERE),), copied=True, raw=True),
    Scenario(
        "copy-two-disks",
        kinds=("disk", "disk.eph0"),
        relocate=((None, ELSEWHERE),),
        copied=True,
    ),
)
# Their guests run, and hear the power button.
RESTARTS = (
    Scenario("restart", disk_info=True, restart=True),
    Scenario("restart-two-guests", guests=2, restart=True),
    Scenario("restart-snapshot", snapshot=True, restart=True),
    Scenario("restart-copy", relocate=((None, ELSEWHERE),), copied=True, restart=True),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS + RESTARTS}


class View(NamedTuple):
    """How things are: of each guest its XML and the content behind each disk; all files."""

    documents: tuple[str, ...]
    contents: tuple[tuple[str, ...], ...]
    files: tuple[str, ...]
    infos: tuple[str, ...]
    snapshots: tuple[tuple[str, ...], ...]


@dataclass
class World:
    """A scene, the place for what is elsewhere, and the state directory."""

    scene: Any  # scene.Scene; a child need not know it
    elsewhere: Path | None = None
    device: Path | None = None  # of one partition
    booted: set[object] = field(default_factory=set)
    tried: int = 0
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state.mkdir(mode=0o700, exist_ok=True)
        self.directories = {
            "nova-disks-pool": self.scene.instances / "disks",
            SECOND: self.scene.instances / "second",
        }
        self.scene.pool(SECOND, self.directories[SECOND])
        if self.elsewhere:
            self.directories[ELSEWHERE] = self.elsewhere / "disks"
            self.scene.pool(ELSEWHERE, self.directories[ELSEWHERE])

        if self.device:
            self.directories[DEVICES] = Path("/dev")
            self.scene.connection.storagePoolDefineXML(
                f"<pool type='disk'><name>{DEVICES}</name><source><device path='{self.device}'/>"
                "<format type='gpt'/></source><target><path>/dev</path></target></pool>"
            ).create()

    @cached_property
    def host(self) -> Host:
        """As it is without guests."""
        return parse_host(observe(self.scene.connection))

    @property
    def libvirtd(self) -> Libvirtd:
        found: Libvirtd = self.scene.libvirtd
        return found

    @property
    def state(self) -> Path:
        return Path(self.scene.instances.parent / "state")

    # Guests.

    def guests(self, scenario: Scenario) -> list[Any]:
        """New guests; each of their disks has a content of its own."""
        from scene import disk_xml

        made = []
        for number in range(scenario.guests):
            own = str(uuid.uuid4())
            disks, entries = [], {}
            for target, kind in zip(("vda", "vdb", "vdc"), scenario.kinds, strict=False):
                path = self.scene.instances / own / kind
                if scenario.pool:
                    path = self.directories[scenario.pool] / f"{own}_{kind}"
                format_ = "raw" if scenario.raw else "qcow2"
                image = self._template(number, kind, format_)
                xml = disk_xml(path, target, format_)
                if scenario.pool == DEVICES:
                    block = f"{self.device}p1"
                    with open(block, "r+b") as partition:
                        partition.write(image.read_bytes())
                    xml = xml.replace("type='file'", "type='block'", 1)
                    xml = xml.replace(f"file='{path}'", f"dev='{block}'")
                else:
                    path.parent.mkdir(exist_ok=True)
                    shutil.copyfile(image, path)
                entries[str(path)] = format_
                disks.append(xml)
            if scenario.disk_info:
                (self.scene.instances / own / "disk.info").write_text(json.dumps(entries))
            domain = self.scene.define(f"guest-{own[:8]}", disks, own)
            if scenario.to == "path":
                self.finish(self.tasks(scenario._replace(to="volume"), [domain]))
            if scenario.snapshot:
                domain.snapshotCreateXML("<domainsnapshot><name>s</name></domainsnapshot>")
            made.append(domain)
        return made

    def _template(self, number: int, kind: str, format: str) -> Path:
        path = Path(self.scene.instances / "_base" / f"{number}-{kind}.{format}")
        if not path.exists():
            from scene import run

            (self.scene.flat if format == "raw" else self.scene.overlay)(path)
            place = f"write -P {17 * number + len(kind)} 64k 128k"
            run("qemu-img", "info", "-f", format, path)
            run("qemu-io", "-f", format, "-c", place, path)
        return path

    def tasks(self, scenario: Scenario, domains: Sequence[Any]) -> tuple[Task, ...]:
        """What carries the scenario out."""
        host = self.host
        if scenario.pool:
            self.scene.connection.storagePoolLookupByName(scenario.pool).refresh()
            host = parse_host(observe(self.scene.connection))
        made = []
        for domain in domains:
            decided = plan(
                self.scene.document(domain), host, scenario.to, relocate=dict(scenario.relocate)
            )
            assert len(scenario.kinds) == len(decided.transitions), decided
            made.append(self._task(scenario, decided, domain))
        return tuple(made)

    def inverse(self, scenario: Scenario, tasks: Sequence[Task]) -> tuple[Task, ...]:
        """What takes it back."""
        find = self.scene.connection.lookupByUUIDString
        return tuple(self._task(scenario, task.plan.inverse(), find(task.uuid)) for task in tasks)

    def _task(self, scenario: Scenario, decided: Plan, domain: Any) -> Task:
        steps = steps_of(
            decided,
            copied=[each.target for each in decided.transitions] if scenario.copied else (),
            metadata=metadata.names_of(domain),
            restart=scenario.restart and domain.isActive(),
        )
        return Task(decided, steps)

    def remove(self, domains: Sequence[Any]) -> None:
        """Nothing of these guests stays."""
        for domain in domains:
            known = self.scene.connection.lookupByUUIDString(domain.UUIDString())
            self.scene.stop(known)
            known.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
            self.scene.log(known.name()).unlink(missing_ok=True)
        for file in self._files():
            file.unlink()
        for domain in domains:
            with contextlib.suppress(FileNotFoundError):
                (self.scene.instances / domain.UUIDString()).rmdir()
        for name in self.directories:
            self.scene.connection.storagePoolLookupByName(name).refresh()
        for file in self.state.iterdir():
            file.unlink()

    # Looking.

    def _files(self) -> list[Path]:
        roots = [self.scene.instances, *([self.elsewhere] if self.elsewhere else [])]
        found = itertools.chain.from_iterable(root.rglob("*") for root in roots)
        return sorted(
            path
            for path in found
            if path.is_file()
            and path.parent.name not in ("_base", "lost+found")
            and path.name != "killed-at"
        )

    def look(self, domains: Sequence[Any]) -> View:
        """How things are; fails where a disk leads nowhere."""
        known = [self.scene.connection.lookupByUUIDString(each.UUIDString()) for each in domains]
        documents = tuple(self.scene.document(each).text for each in known)
        files = self._files()
        return View(
            documents,
            tuple(self._contents(domain) for domain in known),
            tuple(str(path) for path in files if path.name != "disk.info"),
            tuple(path.read_text() for path in files if path.name == "disk.info"),
            tuple(
                tuple(each.getXMLDesc(0) for each in domain.listAllSnapshots()) for domain in known
            ),
        )

    def _contents(self, domain: Any) -> tuple[str, ...]:
        found = []
        for disk in read_domain(self.scene.document(domain)).disks:
            path = disk.address.path
            if disk.address.type == "volume":
                pool = self.scene.connection.storagePoolLookupByName(disk.address.pool)
                path = pool.storageVolLookupByName(disk.address.volume).path()
            found.append(hashlib.sha256(Path(str(path)).read_bytes()).hexdigest())
        return tuple(found)

    def boot_once(self, scenario: Scenario, domains: Sequence[Any], view: View) -> bool:
        """Boot what is defined, unless the same was booted before; whether it was."""
        own = {each.UUIDString(): f"guest {number}" for number, each in enumerate(domains)}

        def anonymous(text: str) -> str:
            for uuid_, name in own.items():
                text = text.replace(uuid_, name).replace(uuid_[:8], name)
            return text

        names = frozenset(map(anonymous, view.files))
        key = (scenario.name, names, tuple(map(anonymous, view.documents)))
        if key in self.booted:
            return False
        self.booted.add(key)
        for domain in domains:
            self.scene.boots(self.scene.connection.lookupByUUIDString(domain.UUIDString()))
        return True

    # Cutting and proving.

    def kill(self, job: Job) -> str:
        """Do a job in a child; what it was killed at, or "" if it came to its end."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pytest", "libvirt", "xmlkit.executor", "xmlkit.observe"])
        process = context.Process(target=child, args=(job,))
        process.start()
        process.join(SECONDS)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        process.close()
        note = self.state / "killed-at"
        said = note.read_text() if note.exists() else ""
        note.unlink(missing_ok=True)
        assert code in (0, -signal.SIGKILL), (code, said)
        return said if code else ""

    def kill_recover(self, first: str) -> Callable[[Job], str]:
        """A job that is killed at `first`, and its recovery too: at the job's own point."""

        def cut(job: Job) -> str:
            assert self.kill(job._replace(kill_at=first))
            return self.kill(job._replace(kind="recover"))

        return cut

    def kill_libvirtd(self, job: Job) -> str:
        """Do a job here, and kill libvirtd at its point, of those that the listener is told of."""
        where = self._strike(
            job, self.scene.connection, "libvirtd", lambda: self.libvirtd.restart(signal.SIGKILL)
        )
        self.scene.reopen()
        return where

    def cut_connection(self, job: Job) -> str:
        """The same, and libvirtd goes on: it is the connection that is cut."""
        from scene import cuttable

        with cuttable(job.uri) as (connection, cut):
            return self._strike(job, connection, "connection", cut)

    def _strike(self, job: Job, connection: Any, victim: str, act: Callable[[], object]) -> str:
        """Do a job, and `act` at its point: before and after a step, or when a guest was asked."""
        told = 0
        where = ""

        def at(what: str) -> None:
            nonlocal told, where
            told += 1
            if told == job.kill_at:
                where = f"point {told}, {victim}, {what}"
                act()

        def listener(word: str, _: str, step: Step, *rest: object) -> None:
            at(f"before: {word} {step} {rest or ''}")

        shutdown = libvirt.virDomain.shutdown

        def asked(domain: Any) -> None:
            shutdown(domain)
            at(f"after it was{ASKED}")

        writer = Writer.create(job.directory, job.id, job.tasks, uri=job.uri, kind=job.kind)
        libvirt.virDomain.shutdown = asked
        try:
            outcomes = executor.apply(connection, writer, job.tasks, listener=listener)
        finally:
            libvirt.virDomain.shutdown = shutdown
            writer.close()
        states = {outcome.state for outcome in outcomes.values()}
        assert states <= {"done", "undone", "pending"}, outcomes
        assert where or states == {"done"}, outcomes
        return where

    def job(self, tasks: Sequence[Task], kind: str, kill_at: int | str) -> Job:
        """A transition of its own."""
        id = new_id(self.state)
        return Job(self.libvirtd.uri, str(self.state), id, tuple(tasks), kind, kill_at)

    def finish(self, tasks: Sequence[Task], kind: str = "apply") -> None:
        """Carry tasks out, undisturbed."""
        writer = Writer.create(
            str(self.state), new_id(self.state), tasks, uri=self.libvirtd.uri, kind=kind
        )
        outcomes = executor.apply(self.scene.connection, writer, tasks)
        writer.close()
        assert {Outcome("done")} == set(outcomes.values()), outcomes

    def recover(self, id: str) -> dict[str, Outcome]:
        """Bring it to an end, if there is anything to be ended."""
        try:
            known: Journal = journal.read(str(self.state / f"{id}.jsonl"))
        except JournalError:
            # it ended before it had said what it would do, so it did nothing
            return {}
        executor.recover(self.scene.connection, known)
        again = journal.read(known.path)
        assert () == again.pending, again.outcomes
        return again.outcomes

    def prove(
        self,
        scenario: Scenario,
        rollback: bool,
        cut: Callable[[Job], str],
        kill_at: int | str,
    ) -> bool:
        """Cut a transition off at a point, and prove what has to be true; whether it was cut.

        A point that fails the proof is noted, and the next one can be tried.
        """
        assert len(self.lost) < 3, "\n".join(self.lost)
        domains = self.guests(scenario)
        tasks = self.tasks(scenario, domains)
        original = self.look(domains)
        if rollback:
            self.finish(tasks)
            tasks = self.inverse(scenario, tasks)
        before = self.look(domains)
        job = self.job(tasks, "rollback" if rollback else "apply", kill_at)
        where = cut(job)
        try:
            then = self.look(domains)
            assert before.contents == then.contents
            if self.boot_once(scenario, domains, then):
                then = self.look(domains)
            outcomes = self.recover(job.id)
            now = self.look(domains)
            assert then.contents == now.contents
            self.check_end(domains, tasks, outcomes, before, now)
            if self.boot_once(scenario, domains, now):
                now = self.look(domains)
            states = {outcome.state for outcome in outcomes.values()}
            if not rollback and states == {"done"}:
                self.finish(self.inverse(scenario, tasks), "rollback")
                back = self.look(domains)
                assert original.documents == back.documents
                assert now.contents == back.contents
                assert original.files == back.files
                assert [json.loads(text) for text in original.infos] == [
                    json.loads(text) for text in back.infos
                ]
            elif rollback and states == {"done"}:
                assert original.documents == now.documents
        except (AssertionError, OSError, libvirt.libvirtError):
            way = "rollback" if rollback else "apply"
            self.lost.append(f"{scenario.name}, {way}, {where}:\n{traceback.format_exc()}")
        finally:
            self.tried += 1
            self.remove(domains)
        return where != ""

    def prove_running(
        self,
        scenario: Scenario,
        rollback: bool,
        cut: Callable[[Job], str],
        kill_at: int | str,
    ) -> bool:
        """The same for guests that run and are restarted: in the end they run, and write."""
        from scene import until

        assert len(self.lost) < 3, "\n".join(self.lost)
        domains = self.guests(scenario)
        if rollback:
            forward = self.tasks(scenario, domains)
            self.finish(forward)
        for domain in domains:
            self.scene.start(domain)
        started = [self._start_of(domain) for domain in domains]
        tasks = self.inverse(scenario, forward) if rollback else self.tasks(scenario, domains)
        before = self.look(domains)
        job = self.job(tasks, "rollback" if rollback else "apply", kill_at)
        where = cut(job)
        try:
            if ASKED in where:
                # the first one that is down, or was
                until(lambda: started != [self._start_of(domain) for domain in domains])
            for number, domain in enumerate(domains):
                self._check_content(domain, scenario, number)
            outcomes = self.recover(job.id)
            self.check_end(domains, tasks, outcomes, before, self.look(domains))
            for number, domain in enumerate(domains):
                self._check_content(domain, scenario, number)
                self._check_runs(domain)
        except (AssertionError, OSError, libvirt.libvirtError):
            way = "rollback" if rollback else "apply"
            self.lost.append(f"{scenario.name}, {way}, {where}:\n{traceback.format_exc()}")
        finally:
            self.tried += 1
            self.remove(domains)
        return where != ""

    def _start_of(self, domain: Any) -> int:
        """What tells one start of a guest from the next one, and from none."""
        found: int = self.scene.connection.lookupByUUIDString(domain.UUIDString()).ID()
        return found

    def _paths(self, domain: Any, flags: int) -> list[str]:
        """Where the disks of a domain lead to."""
        from xmlkit.document import Document

        found = []
        for disk in read_domain(Document.parse(domain.XMLDesc(flags))).disks:
            path = disk.address.path
            if disk.address.type == "volume":
                pool = self.scene.connection.storagePoolLookupByName(disk.address.pool)
                path = pool.storageVolLookupByName(disk.address.volume).path()
            found.append(str(path))
        return found

    def _check_content(self, domain: Any, scenario: Scenario, number: int) -> None:
        """What is defined leads to what the guest had."""
        from scene import run

        known = self.scene.connection.lookupByUUIDString(domain.UUIDString())
        paths = self._paths(known, libvirt.VIR_DOMAIN_XML_INACTIVE)
        for kind, path in zip(scenario.kinds, paths, strict=True):
            format_ = "raw" if scenario.raw else "qcow2"
            place = f"read -P {17 * number + len(kind)} 64k 128k"
            run("qemu-io", "-U", "-r", "-f", format_, "-c", place, path)

    def _check_runs(self, domain: Any) -> None:
        """The guest runs from what is defined, and writes."""
        from scene import until

        known = self.scene.connection.lookupByUUIDString(domain.UUIDString())
        assert known.isActive()
        assert self._paths(known, libvirt.VIR_DOMAIN_XML_INACTIVE) == self._paths(known, 0)
        log = self.scene.log(known.name())
        written = log.read_bytes().count(b"W")
        until(lambda: log.read_bytes().count(b"W") > written)

    def check_end(
        self,
        domains: Sequence[Any],
        tasks: Sequence[Task],
        outcomes: dict[str, Outcome],
        before: View,
        now: View,
    ) -> None:
        """All is as it was, or as it was to be, for each guest; and there is nothing else."""
        from xmlkit.document import Document

        files = set(before.files)
        info = [json.loads(text) for text in before.infos]
        for number, (domain, task) in enumerate(zip(domains, tasks, strict=True)):
            outcome = outcomes.get(domain.UUIDString(), Outcome("undone"))
            moving = [each for each in task.plan.transitions if each.action == "move"]
            if outcome.state == "done":
                wanted = transform(Document.parse(before.documents[number]), task.plan)
                got = Document.parse(now.documents[number])
                assert () == compare(wanted, got)
                for each in moving:
                    files.remove(str(each.before.path))
                    files.add(str(each.after.path))
                    for entries in info:
                        if each.before.path in entries:
                            entries[each.after.path] = entries.pop(each.before.path)
                for old, new in zip(before.snapshots[number], now.snapshots[number], strict=True):
                    expected = metadata.rewritten(Document.parse(old), task.plan)
                    assert () == compare(expected, Document.parse(new))
            else:
                assert "undone" == outcome.state, outcome
                assert before.documents[number] == now.documents[number]
                assert before.snapshots[number] == now.snapshots[number]
        assert sorted(files) == list(now.files)
        assert info == [json.loads(text) for text in now.infos]
        assert not any(TEMPORARY in path for path in now.files)
