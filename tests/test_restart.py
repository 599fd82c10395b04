"""Guests that run are restarted: shut down as by the power button, moved, and they run again.

Rules
- All is real: guests that hear the button, and such that do not; QEMU that cannot open its image.
- Whatever happens, a guest that ran before runs again in the end, from its new or its old address,
  and has what it had written.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import libvirt
import pytest
from commands import Shell, until_said
from loops import mounted
from machines import CMDLINE, linux_guest
from pair import Pair, make_pair
from scene import POOL, SECONDS, UP, Scene, images, until, when

from xmlkit import executor, journal, service, state
from xmlkit.disks import read_domain
from xmlkit.document import Document
from xmlkit.executor import recover
from xmlkit.journal import Outcome, Task
from xmlkit.script import ScriptError, script
from xmlkit.service import Case, Options, Result
from xmlkit.steps import Copy, Define, Link, Refresh, Start, Stop, Unlink
from xmlkit.survey import survey
from xmlkit.testing import Libvirtd, boot_sector

OTHER = "other-pool"
RESTART = Options(relocate={None: POOL}, restart=True)
BRIEF = Options(relocate={None: POOL}, restart=True, shutdown_seconds=1.0)
AFTER = [Stop, Link, Refresh, Define, Start, Unlink]


@pytest.fixture
def scene(libvirtd: Libvirtd) -> Scene:
    """A host whose guests hear the power button."""
    return Scene(libvirtd, sector=boot_sector(hears_button=True))


@pytest.fixture
def deaf(libvirtd: Libvirtd) -> Scene:
    """A host whose guests do not."""
    return Scene(libvirtd)


@pytest.fixture
def two(start_libvirtd: Callable[..., Libvirtd]) -> Iterator[Scene]:
    """A host with a second pool on another file system; its guests hear the power button."""
    with mounted("ext4", 128 << 20) as directory:
        made = Scene(start_libvirtd(), sector=boot_sector(hears_button=True))
        made.pool(OTHER, directory / "pool")
        yield made
        made.libvirtd.stop()


# What a test says.


def running(scene: Scene, name: str = "a", **options: Any) -> Any:
    """A guest that runs."""
    domain = scene.nova_guest(name, **options)
    scene.start(domain)
    return domain


def cases_of(scene: Scene, *domains: Any, options: Options = RESTART) -> list[Case]:
    names = tuple(domain.UUIDString() for domain in domains)
    return service.cases_of(survey(scene.connection, names, secure=True), options)


def cases_back(scene: Scene, domain: Any) -> tuple[list[Case], str]:
    """What takes the last transition back, and its id."""
    done = last(scene)
    uuids = (domain.UUIDString(),)
    places = service.directories_of(task.plan.inverse() for task in done.tasks.values())
    surveyed = survey(scene.connection, uuids, secure=True, directories=places)
    return service.roll_back_cases(surveyed, done, Options(to="path", restart=True)), done.id


def state_of(scene: Scene) -> Path:
    return state.directory(str(scene.libvirtd.directory / "state"))


def carry_out(
    scene: Scene, cases: Sequence[Case], *, options: Options = RESTART, **more: Any
) -> Result:
    """Do it, as the command does."""
    return service.carry_out(
        scene.connection,
        cases,
        state_of(scene),
        uri=scene.libvirtd.uri,
        shutdown_seconds=options.shutdown_seconds,
        **more,
    )


def restart(scene: Scene, domain: Any, options: Options = RESTART, **more: Any) -> Outcome:
    """Restart one guest for its move."""
    (case,) = cases_of(scene, domain, options=options)
    assert case.task is not None, case
    result = carry_out(scene, [case], options=options, **more)
    return result.outcomes[domain.UUIDString()]


def last(scene: Scene) -> journal.Journal:
    """The last journal."""
    journals, errors = journal.read_all(str(state_of(scene)))
    assert () == errors
    return journals[-1]


def has_begun(scene: Scene) -> bool:
    """Whether a journal says that a step was begun: one that is just being made says nothing."""
    journals, _ = journal.read_all(str(state_of(scene)))
    return any(each.begun for each in journals)


def place(domain: Any, form: str) -> str:
    """Where the guest's image is, in the instances' directory: "old" or "new"."""
    uuid = domain.UUIDString()
    return f"{uuid}/disk" if form == "old" else f"disks/{uuid}_disk"


def live_source(domain: Any) -> str:
    """What the running guest has open: an address."""
    live = Document.parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))
    return str(read_domain(live).disks[0].address)


def start_of(scene: Scene, domain: Any) -> int:
    """What tells one start of a guest from the next one."""
    number: int = scene.connection.lookupByUUIDString(domain.UUIDString()).ID()
    return number


def runs(scene: Scene, domain: Any, form: str, pool: str = POOL) -> None:
    """It runs from its old or its new address, which is the defined one too, and writes."""
    assert domain.isActive()
    volume = f"{pool}/{domain.UUIDString()}_disk"
    expected = str(scene.instances / place(domain, form)) if form == "old" else volume
    assert expected == live_source(domain)
    (defined,) = read_domain(scene.document(domain)).disks
    assert expected == str(defined.address)
    log = scene.log(domain.name())
    written = log.read_bytes().count(b"W")
    until(lambda: log.read_bytes().count(b"W") > written)


def stays_off(domain: Any) -> None:
    assert not domain.isActive()


# Without trouble.


def test_a_running_guest_is_moved_and_runs_again(scene: Scene) -> None:
    """Off by itself and not by its plug; then it runs from the volume, which is the same image."""
    domain = running(scene)
    inode = (scene.instances / place(domain, "old")).stat().st_ino
    first = start_of(scene, domain)
    told: list[type] = []

    outcome = restart(
        scene,
        domain,
        listener=lambda word, _, step, *__: told.append(type(step)) if word == "begin" else None,
    )

    assert Outcome("done") == outcome
    assert AFTER == told
    runs(scene, domain, "new")
    assert [place(domain, "new")] == images(scene)
    assert first != start_of(scene, domain)
    assert inode == (scene.instances / place(domain, "new")).stat().st_ino


def test_it_is_taken_back_while_it_runs(scene: Scene) -> None:
    """rollback restarts as well, and the XML is the one from before."""
    domain = running(scene)
    xml = scene.document(domain).text
    restart(scene, domain)

    cases, id_ = cases_back(scene, domain)
    result = carry_out(scene, cases, kind="rollback", of=id_)

    assert Outcome("done") == result.outcomes[domain.UUIDString()]
    runs(scene, domain, "old")
    assert [place(domain, "old")] == images(scene)
    assert xml == scene.document(domain).text


def test_a_copy_is_moved_to_too(two: Scene) -> None:
    """No QEMU has the original open, so it can be copied; it runs from the copy."""
    domain = running(two, raw=True)
    with (two.instances / place(domain, "old")).open("r+b") as image:
        image.seek(1 << 19)
        image.write(b"its own")
    options = Options(relocate={None: OTHER}, restart=True, copy=True)

    outcome = restart(two, domain, options)

    assert Outcome("done") == outcome
    assert Copy in [type(step) for step in last(two).tasks[domain.UUIDString()].steps]
    runs(two, domain, "new", OTHER)
    assert [] == images(two)
    (copy,) = two.connection.storagePoolLookupByName(OTHER).listAllVolumes()
    assert b"its own" == Path(copy.path()).read_bytes()[1 << 19 :][:7]


def test_a_guest_with_a_snapshot_is_moved_with_it(scene: Scene) -> None:
    """Both get the new addresses."""
    domain = running(scene)
    scene.stop(domain)
    domain.snapshotCreateXML("<domainsnapshot><name>s</name></domainsnapshot>")
    scene.start(domain)
    options = Options(relocate={None: POOL}, restart=True, rewrite_metadata=True)

    assert Outcome("done") == restart(scene, domain, options)
    runs(scene, domain, "new")
    assert "volume=" in domain.snapshotLookupByName("s").getXMLDesc()


def test_a_guest_that_is_off_stays_off(scene: Scene) -> None:
    """It is moved as usual."""
    domain = scene.nova_guest("a")

    assert Outcome("done") == restart(scene, domain)
    stays_off(domain)
    assert [place(domain, "new")] == images(scene)
    steps = last(scene).tasks[domain.UUIDString()].steps
    assert not [step for step in steps if isinstance(step, Stop | Start)]


def test_a_guest_that_was_shut_off_since_stays_off(scene: Scene) -> None:
    """Somebody did so after it was judged: it is not started by us."""
    domain = running(scene)
    (case,) = cases_of(scene, domain)
    scene.stop(domain)

    result = carry_out(scene, [case])

    assert Outcome("done") == result.outcomes[domain.UUIDString()]
    stays_off(domain)
    assert [place(domain, "new")] == images(scene)


def test_three_guests_are_down_one_at_a_time(scene: Scene) -> None:
    """And one that is off is done with them."""
    domains = [running(scene, name) for name in "abc"]
    off = scene.nova_guest("d")
    down = []

    def listener(*_: object) -> None:
        down.append(sum(not domain.isActive() for domain in domains))

    outcomes = carry_out(scene, cases_of(scene, *domains, off), listener=listener).outcomes

    assert [Outcome("done")] * 4 == list(outcomes.values())
    assert 1 == max(down)
    for domain in domains:
        runs(scene, domain, "new")
    stays_off(off)


def test_one_call_restarts_one_guest(scene: Scene) -> None:
    """transition(), as Nova's hard reboot would call it."""
    domain = running(scene)
    uuid, where = domain.UUIDString(), str(state_of(scene))

    plain = Options(relocate={None: POOL})
    assert ("skipped", "running") == service.transition(
        scene.connection, uuid, plain, state_dir=where
    )[:2]
    assert Outcome("done") == service.transition(scene.connection, uuid, RESTART, state_dir=where)
    runs(scene, domain, "new")


# Guests that are not restarted.


def test_a_paused_guest_is_skipped(scene: Scene) -> None:
    """It hears nothing; somebody has a reason to pause it."""
    domain = running(scene)
    domain.suspend()
    (case,) = cases_of(scene, domain)

    assert ("skipped", "running") == (case.state, case.id)
    assert "paused" in case.message


def test_a_guest_that_was_paused_since_is_left_alone(scene: Scene) -> None:
    """Undone at once, and not after the whole time."""
    domain = running(scene)
    (case,) = cases_of(scene, domain)
    domain.suspend()

    first = start_of(scene, domain)

    outcome = carry_out(scene, [case]).outcomes[domain.UUIDString()]

    assert ("undone", "running") == outcome[:2]
    domain.resume()
    runs(scene, domain, "old")
    assert first == start_of(scene, domain)


def test_a_guest_that_would_not_be_off_is_refused(scene: Scene) -> None:
    """libvirt restarts it when it shuts down, whatever is defined since."""
    domain = scene.nova_guest("a")
    xml = scene.document(domain).text
    old, new = "<on_poweroff>destroy", "<on_poweroff>restart"
    assert old in xml
    domain = scene.connection.defineXML(xml.replace(old, new))
    scene.start(domain)
    domain.shutdown()
    until(lambda: scene.log("a").read_bytes().count(UP) == 2)
    assert domain.isActive()
    scene.connection.defineXML(xml)
    (case,) = cases_of(scene, domain)

    assert ("refused", "on-poweroff") == (case.state, case.id)


def test_a_changed_disk_is_told_before_the_guest_is_down(scene: Scene) -> None:
    """It would be down for nothing."""
    domain = running(scene)
    (case,) = cases_of(scene, domain)
    first = start_of(scene, domain)
    xml = scene.document(domain).text
    other = scene.overlay(scene.instances / "x" / "disk")
    scene.connection.defineXML(xml.replace(str(scene.instances / place(domain, "old")), str(other)))

    outcome = carry_out(scene, [case]).outcomes[domain.UUIDString()]

    assert ("undone", "disk-changed") == outcome[:2]
    assert first == start_of(scene, domain)


# Guests that do not shut down.


def test_a_guest_that_does_not_hear_runs_on(deaf: Scene) -> None:
    """Its plug is not pulled; what may still happen is told."""
    domain = running(deaf)
    first = start_of(deaf, domain)

    outcome = restart(deaf, domain, BRIEF)

    assert ("undone", "not-stopped") == outcome[:2]
    assert "within 1 s" in outcome.message
    assert "may still do so: then xmlkit recover starts it" in outcome.message
    runs(deaf, domain, "old")
    assert first == start_of(deaf, domain)
    assert [place(domain, "old")] == images(deaf)


@contextlib.contextmanager
def late() -> Iterator[None]:
    """Within it the buttons that are pressed are heard by nobody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libvirt.virDomain, "shutdown", lambda _: None)
        yield


def given_up(scene: Scene) -> Any:
    """A guest that heard the button when it was given up."""
    domain = running(scene)
    with late():
        outcome = restart(scene, domain, BRIEF)
    assert ("undone", "not-stopped") == outcome[:2], outcome
    assert [] == recover_all(scene)
    domain.shutdown()
    until(lambda: not domain.isActive())
    return domain


def recover_all(scene: Scene) -> list[Outcome]:
    """What xmlkit recover finds to do, and how it ends."""
    found, errors = service.recover_all(lambda _: scene.connection, state_of(scene))
    assert [] == errors
    return [outcome for _, outcomes in found for outcome in outcomes.values()]


@pytest.mark.parametrize("restarted", [False, True], ids=["libvirtd goes on", "libvirtd restarts"])
def test_a_guest_that_shuts_down_late_is_started_by_recover(
    scene: Scene, *, restarted: bool
) -> None:
    """Once: what it does after that is its owner's. The command says so."""
    domain = given_up(scene)
    if restarted:
        # then libvirt does not know any more why it is off
        scene.libvirtd.restart()
        scene.reopen()
        domain = scene.connection.lookupByUUIDString(domain.UUIDString())

    (transition,) = Shell.of(scene).json("recover", 0, "recover")["transitions"]

    (told,) = transition["domains"]
    assert ("a", "undone", "not-stopped") == (told["name"], told["state"], told["id"])
    assert "was started again" in told["message"]
    runs(scene, domain, "old")
    assert ("undone", ()) == (last(scene).state, last(scene).asked)
    domain.shutdown()
    until(lambda: not domain.isActive())
    assert [] == recover_all(scene)
    stays_off(domain)


def test_what_somebody_else_did_with_a_guest_that_was_given_up_counts(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose plug was pulled or that was saved stays off, and one that was started runs on."""
    domain = given_up(scene)
    scene.start(domain)
    assert [] == recover_all(scene)
    domain.managedSave()
    assert [] == recover_all(scene)
    scene.start(domain)
    domain.destroy()
    assert [] == recover_all(scene)
    scene.start(domain)
    domain.shutdown()
    until(lambda: not domain.isActive())
    monkeypatch.setattr(service, "LATE", 0.0)  # a day later it is nobody's fault
    assert [] == recover_all(scene)
    stays_off(domain)


@pytest.mark.parametrize("end", ["managedSave", "destroy"])
def test_why_a_guest_is_off_is_found_though_libvirtd_was_restarted(scene: Scene, end: str) -> None:
    """libvirt has forgotten it: it still has the save, and the log that the plug was pulled."""
    domain = given_up(scene)
    scene.start(domain)
    getattr(domain, end)()
    scene.libvirtd.restart()
    scene.reopen()

    assert [] == recover_all(scene)

    stays_off(scene.connection.lookupByUUIDString(domain.UUIDString()))


@pytest.mark.parametrize("log", ["gone", "a link", "without its end", "of a newer libvirt"])
def test_a_guest_of_which_nobody_knows_why_it_is_off_is_told(scene: Scene, log: str) -> None:
    """It is not started, since it may have been switched off on purpose, or run elsewhere."""
    domain = given_up(scene)
    scene.libvirtd.restart()
    scene.reopen()
    path = scene.libvirtd.directory / "var/log/libvirt/qemu/a.log"
    text = path.read_text()
    assert "shutting down, reason=shutdown" in text
    path.unlink()
    if log == "a link":
        path.with_name("b.log").write_text(text)
        path.symlink_to("b.log")
    elif log == "without its end":
        path.write_text(text.partition("shutting down, reason=")[0])
    elif log == "of a newer libvirt":
        path.write_text(text.replace("reason=shutdown", "reason=mañana"))

    for _ in range(2):
        (outcome,) = recover_all(scene)
        assert ("undone", "why-off") == outcome[:2], outcome
        assert "virsh start a" in outcome.message
    domain = scene.connection.lookupByUUIDString(domain.UUIDString())
    stays_off(domain)
    domain.create()
    assert [] == recover_all(scene)


@pytest.fixture
def pair(start_libvirtd: Callable[..., Libvirtd]) -> Iterator[Pair]:
    """Two hosts with one storage, in a directory that QEMU's user may enter."""
    with tempfile.TemporaryDirectory(prefix="xmlkit-pair-") as place:
        os.chmod(place, 0o755)  # noqa: S103
        yield make_pair(start_libvirtd, Path(place))


def migrated(pair: Pair, domain: Any) -> None:
    """Somebody migrates a guest to the other host."""
    parameters = {libvirt.VIR_MIGRATE_PARAM_URI: pair.unix()}
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_UNSAFE
    domain.migrate3(pair.destination, parameters, flags)


@pytest.mark.parametrize("log", [True, False], ids=["by the log", "without the log"])
def test_a_guest_that_has_migrated_is_not_started_by_recovery(
    pair: Pair, tmp_path: Path, *, log: bool
) -> None:
    """xmlkit lost its libvirtd while the guest was to shut down, and somebody migrated it."""
    domain = pair.guest()
    uuid = domain.UUIDString()

    def migrate() -> None:
        migrated(pair, domain)
        if not log:
            (pair.here.directory / "var/log/libvirt/qemu/guest.log").unlink()
        pair.here.restart()

    directory = str(tmp_path / "state")
    outcome = service.transition(
        *(pair.source, uuid, RESTART),
        state_dir=directory,
        listener=when("begin", Stop, migrate),
    )
    assert "pending" == outcome.state, outcome
    pair.connect()

    found, errors = service.recover_all(lambda _: pair.source, state.directory(directory))

    assert [] == errors
    ((_, outcomes),) = found
    assert ("there",) == pair.running(uuid)
    if log:
        assert ("undone", "migrated-away") == outcomes[uuid][:2], outcomes
        again = service.transition(pair.source, uuid, RESTART, state_dir=directory)
        assert ("refused", "migrated-away") == again[:2], again
        return
    assert ("pending", "why-off") == outcomes[uuid][:2], outcomes
    assert "starts the guest" not in outcomes[uuid].message
    pair.source.lookupByUUIDString(uuid).undefine()
    ((_, outcomes),), errors = service.recover_all(
        lambda _: pair.source, state.directory(directory)
    )
    assert ("undone", []) == (outcomes[uuid].state, errors)
    assert ("there",) == pair.running(uuid)


def test_a_guest_that_somebody_migrates_meanwhile_is_not_started_here(
    pair: Pair, tmp_path: Path
) -> None:
    """It is off here because it runs elsewhere: nothing is moved, and there are no two guests."""
    domain = pair.guest()
    uuid = domain.UUIDString()
    old = pair.seen(pair.instances / uuid / "disk")

    directory = str(tmp_path / "state")
    outcome = service.transition(
        *(pair.source, uuid, RESTART),
        state_dir=directory,
        listener=when("begin", Stop, lambda: migrated(pair, domain)),
    )

    assert ("undone", "migrated-away") == outcome[:2], outcome
    assert "it has migrated to another host" in outcome.message
    assert (old.exists(), []) == (True, pair.links())
    assert ("there",) == pair.running(uuid)
    recovered = service.recover_all(lambda _: pair.source, state.directory(directory))
    assert ([], []) == recovered
    assert ("there",) == pair.running(uuid)
    pair.goes_on(pair.destination.lookupByUUIDString(uuid))
    again = service.transition(pair.source, uuid, RESTART, state_dir=directory)
    assert ("refused", "migrated-away") == again[:2], again


def test_a_guest_that_shuts_down_late_and_does_not_start_is_pending(scene: Scene) -> None:
    """Then nothing new is begun, and recover starts it when it can."""
    domain = given_up(scene)
    directory = scene.instances / domain.UUIDString()
    directory.chmod(0o700)
    (outcome,) = recover_all(scene)
    assert ("pending", "not-started") == outcome[:2], outcome
    (outcome,) = recover_all(scene)
    assert ("pending", "not-started") == outcome[:2], outcome
    directory.chmod(0o755)
    assert ["undone"] == [each.state for each in recover_all(scene)]
    runs(scene, domain, "old")


def test_a_guest_that_shuts_down_while_others_are_done_is_started(scene: Scene) -> None:
    """Whoever was given up is looked at once more in the end."""
    first, other = running(scene, "a"), running(scene, "b")
    asked: list[str] = []

    def listener(event: str, uuid: str, step: Any, *_: int) -> None:
        if (event, type(step)) == ("begin", Stop):
            asked.append(uuid)
            if uuid != first.UUIDString():
                patience.close()
                first.shutdown()
                until(lambda: not first.isActive())

    cases = cases_of(scene, first, other)
    options = Options(relocate={None: POOL}, restart=True, shutdown_seconds=20.0)
    with contextlib.ExitStack() as patience:
        patience.enter_context(late())
        result = carry_out(scene, cases, options=options, listener=listener)

    assert [first.UUIDString(), other.UUIDString()] == asked
    outcome = result.outcomes[first.UUIDString()]
    assert ("undone", "not-stopped") == outcome[:2]
    assert "was started again" in outcome.message
    assert outcome == last(scene).outcomes[first.UUIDString()]
    assert Outcome("done") == result.outcomes[other.UUIDString()]
    runs(scene, first, "old")
    runs(scene, other, "new")


def test_a_guest_that_shut_down_late_and_was_moved_then_runs_from_there(scene: Scene) -> None:
    """An apply takes it for one that is off; that it is owed a start is not forgotten."""
    domain = given_up(scene)
    assert Outcome("done") == restart(scene, domain)
    stays_off(domain)

    assert ["not-stopped"] == [each.id for each in recover_all(scene)]
    runs(scene, domain, "new")


def test_of_several_transitions_the_last_one_counts(scene: Scene) -> None:
    """A guest that was given up, and was restarted after that, is asked no more."""
    domain = given_up(scene)
    scene.start(domain)
    assert Outcome("done") == restart(scene, domain)
    scene.stop(domain)
    scene.start(domain)
    domain.shutdown()
    until(lambda: not domain.isActive())

    assert [] == recover_all(scene)
    stays_off(domain)


def test_it_is_asked_again(deaf: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a guest that was booting may have missed it."""
    domain = running(deaf)
    asked = []
    monkeypatch.setattr(executor, "ASK_SECONDS", 0.5)
    monkeypatch.setattr(libvirt.virDomain, "shutdown", lambda self: asked.append(self.name()))

    outcome = restart(deaf, domain, replace(BRIEF, shutdown_seconds=4.0))

    assert ("undone", "not-stopped") == outcome[:2]
    assert 2 <= len(asked) <= 9


def test_the_next_guest_is_restarted_though_one_does_not_hear(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each for itself."""
    first = running(scene, "a")
    scene.base.write_bytes(boot_sector().ljust(1 << 20, b"\0"))  # the next one is deaf
    second = running(scene, "b", raw=False)
    scene.stop(first)
    scene.base.write_bytes(boot_sector(hears_button=True).ljust(1 << 20, b"\0"))
    scene.start(first)

    stop = executor._Executor._stop

    def brief(self: Any, task: Task) -> None:
        """A second for the one that is waited for in vain; the other one has its time."""
        self.shutdown_seconds = 1.0 if task.uuid == second.UUIDString() else SECONDS
        stop(self, task)

    monkeypatch.setattr(executor._Executor, "_stop", brief)
    outcomes = carry_out(scene, cases_of(scene, second, first)).outcomes

    assert "done" == outcomes[first.UUIDString()].state
    assert "not-stopped" == outcomes[second.UUIDString()].id
    runs(scene, first, "new")
    runs(scene, second, "old")


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_wait_is_undone(deaf: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while it waits: the guest runs on, and what may still happen is told."""
    domain = running(deaf)
    asked = threading.Event()
    monkeypatch.setattr(libvirt.virDomain, "shutdown", lambda _: asked.set())

    def wait() -> None:
        asked.wait(60)
        interrupt()

    thread = threading.Thread(target=wait)
    thread.start()

    outcome = restart(deaf, domain)
    thread.join()

    assert ("undone", "interrupted") == outcome[:2]
    assert "may still do so" in outcome.message
    runs(deaf, domain, "old")


@pytest.mark.parametrize("kind", AFTER)
@pytest.mark.parametrize("moment", ["begin", "done"])
def test_an_interruption_leaves_it_running(scene: Scene, kind: type, moment: str) -> None:
    """At each step: undone, or done once it is defined; in the end it runs."""
    domain = running(scene)

    outcome = restart(scene, domain, listener=when(moment, kind, interrupt))

    defined = (kind, moment) == (Define, "done") or kind in (Start, Unlink)
    assert ("done" if defined else "undone") == outcome.state, outcome
    assert [place(domain, "new" if defined else "old")] == images(scene)
    runs(scene, domain, "new" if defined else "old")
    assert () == last(scene).pending


# Guests that do not start.


def closed(scene: Scene) -> None:
    """QEMU's user may not search the pool's directory any more."""
    (scene.instances / "disks").chmod(0o700)


def test_a_guest_that_does_not_start_goes_back(scene: Scene) -> None:
    """It runs from its old address, and what libvirt said is told."""
    domain = running(scene)
    xml = scene.document(domain).text

    outcome = restart(scene, domain, listener=when("begin", Start, lambda: closed(scene)))

    assert ("undone", "not-started") == outcome[:2]
    assert "Permission denied" in outcome.message
    assert "runs from its old address" in outcome.message
    runs(scene, domain, "old")
    assert xml == scene.document(domain).text
    assert [place(domain, "old")] == images(scene)
    assert () == last(scene).pending


def test_a_rollback_whose_guest_does_not_start_leaves_it_in_the_pool(scene: Scene) -> None:
    """To go back is the same the other way round."""
    domain = running(scene)
    restart(scene, domain)
    xml = scene.document(domain).text
    cases, id_ = cases_back(scene, domain)
    old = scene.instances / domain.UUIDString()

    result = carry_out(
        scene,
        cases,
        kind="rollback",
        of=id_,
        listener=when("begin", Start, lambda: old.chmod(0o700)),
    )

    assert ("undone", "not-started") == result.outcomes[domain.UUIDString()][:2]
    runs(scene, domain, "new")
    assert xml == scene.document(domain).text
    assert [place(domain, "new")] == images(scene)


def test_a_guest_that_does_not_start_from_its_copy_goes_back(two: Scene) -> None:
    """The copy is removed."""
    domain = running(two, raw=True)
    options = Options(relocate={None: OTHER}, restart=True, copy=True)
    directory = Path(
        Document.parse(two.connection.storagePoolLookupByName(OTHER).XMLDesc()).root.findtext(
            "target/path"
        )
        or ""
    )

    outcome = restart(
        two, domain, options, listener=when("begin", Start, lambda: directory.chmod(0o700))
    )

    assert ("undone", "not-started") == outcome[:2]
    runs(two, domain, "old")
    assert [] == list(directory.iterdir())


def test_a_guest_that_does_not_start_at_all_is_pending(scene: Scene) -> None:
    """What libvirt said to both is told, and recover starts it when it can."""
    domain = running(scene)
    (case,) = cases_of(scene, domain)

    def break_it() -> None:
        closed(scene)
        (scene.instances / domain.UUIDString()).chmod(0o700)

    listener = when("begin", Start, break_it)
    outcome = carry_out(scene, [case], listener=listener).outcomes[domain.UUIDString()]

    assert ("pending", "not-started") == outcome[:2]
    assert 2 == outcome.message.count("Permission denied"), outcome
    assert "xmlkit recover, which starts the guest" in outcome.message
    stays_off(domain)
    again = recover(scene.connection, last(scene))[domain.UUIDString()]
    assert ("pending", "not-started") == again[:2]
    (scene.instances / domain.UUIDString()).chmod(0o755)
    assert "undone" == recover(scene.connection, last(scene))[domain.UUIDString()].state
    runs(scene, domain, "old")
    assert [place(domain, "old")] == images(scene)


@pytest.mark.parametrize("kind", [Link, Refresh, Define, Start])
def test_what_fails_while_it_is_down_is_undone_and_it_runs(scene: Scene, kind: type) -> None:
    """The pool is stopped by somebody."""
    domain = running(scene)
    pool = scene.connection.storagePoolLookupByName(POOL)

    outcome = restart(scene, domain, listener=when("begin", kind, pool.destroy))

    assert "undone" == outcome.state, outcome
    runs(scene, domain, "old")
    assert [place(domain, "old")] == images(scene)


def test_a_journal_that_cannot_be_written_does_not_keep_it_down(scene: Scene) -> None:
    """It is started from what is defined; the rest is for recover."""
    domain = running(scene)
    (case,) = cases_of(scene, domain)
    with mounted("tmpfs", 1 << 20) as directory:

        def fill() -> None:
            with contextlib.suppress(OSError), (directory / "f").open("wb") as file:
                while True:
                    os.write(file.fileno(), bytes(4096))

        assert case.task is not None
        writer = journal.Writer.create(str(directory), "20261122-161402-0000", [case.task], uri="")
        writer.write({"resume": "x" * (3900 - os.stat(writer.path).st_size % 4096)})
        with pytest.raises(journal.JournalError, match="No space left"):
            executor.apply(scene.connection, writer, [case.task], listener=when("done", Stop, fill))
        writer.close()
        runs(scene, domain, "old")
        (directory / "f").unlink()
        (pending,), _ = journal.read_all(str(directory))
        assert "undone" == recover(scene.connection, pending)[domain.UUIDString()].state
        runs(scene, domain, "old")
        assert [place(domain, "old")] == images(scene)


# libvirtd, and recovery.


def test_libvirtd_is_killed_while_a_guest_shuts_down(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest goes off without it; recover starts it."""
    domain = running(scene)
    first = start_of(scene, domain)
    ask = libvirt.virDomain.shutdown

    def asked(self: Any) -> None:
        ask(self)
        scene.libvirtd.restart(signal.SIGKILL)

    monkeypatch.setattr(libvirt.virDomain, "shutdown", asked)
    outcome = restart(scene, domain)
    assert "pending" == outcome.state
    assert "xmlkit recover, which starts the guest if it is off" in outcome.message
    scene.reopen()
    until(lambda: start_of(scene, domain) != first)

    recovered = recover(scene.connection, last(scene))[domain.UUIDString()]
    assert Outcome("undone") == recovered
    domain = scene.connection.lookupByUUIDString(domain.UUIDString())
    runs(scene, domain, "old")


@pytest.mark.parametrize("seen", [True, False], ids=["by the clock", "by the log"])
def test_a_guest_whose_machine_went_down_is_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, *, seen: bool
) -> None:
    """Others may have started it elsewhere by now, and no lock is sure to tell: nothing is started.

    Nor does a name go that it may have there. When the operator has started it here, it ends.
    """
    domain = running(scene)
    old = place(domain, "old")

    def down() -> None:
        scene.libvirtd.restart(signal.SIGKILL)

    outcome = restart(scene, domain, listener=when("begin", Start, down))
    assert "pending" == outcome.state, outcome
    scene.reopen()
    domain = scene.connection.lookupByUUIDString(domain.UUIDString())
    assert not domain.isActive()
    if seen:
        monkeypatch.setattr(executor, "has_rebooted", lambda _: True)
    else:
        path = scene.libvirtd.directory / "var/log/libvirt/qemu/a.log"
        path.write_text(path.read_text().rpartition("shutting down, reason=")[0])
    for _ in range(2):
        recovered = recover(scene.connection, last(scene))[domain.UUIDString()]
        assert ("pending", "why-off") == recovered[:2], recovered
        assert "the machine went down" in recovered.message
        assert not domain.isActive()
        assert old in images(scene)
    domain.create()
    assert Outcome("done") == recover(scene.connection, last(scene))[domain.UUIDString()]
    runs(scene, domain, "new")
    assert [place(domain, "new")] == images(scene)


def test_a_machine_has_gone_down_since_by_its_clocks() -> None:
    """What is not a time says nothing."""
    now = datetime.now(UTC)
    assert not executor.has_rebooted(now.isoformat())
    assert executor.has_rebooted((now - timedelta(days=36500)).isoformat())
    assert not executor.has_rebooted("yesterday")


def test_recovery_of_a_guest_that_was_asked_and_runs_on_says_so(deaf: Scene) -> None:
    """xmlkit ended while it waited; whether the guest still shuts down is not known."""
    domain = running(deaf)
    process = Shell.of(deaf).start("apply", "--relocate", POOL, "--restart", "--yes", "a")
    until(lambda: has_begun(deaf))
    process.kill()
    process.communicate()

    outcome = recover(deaf.connection, last(deaf))[domain.UUIDString()]

    assert ("undone", "not-stopped") == outcome[:2]
    assert "may still do so" in outcome.message
    runs(deaf, domain, "old")


def test_what_recover_started_and_somebody_shut_off_stays_off(scene: Scene) -> None:
    """That it runs again stands in the journal: then it is its owner's."""
    domain = running(scene)
    pool = scene.connection.storagePoolLookupByName(POOL)
    outcome = restart(scene, domain, listener=when("begin", Unlink, pool.destroy))
    assert "pending" == outcome.state
    runs(scene, domain, "new")
    scene.stop(domain)
    pool.create()

    assert Outcome("done") == recover(scene.connection, last(scene))[domain.UUIDString()]
    stays_off(domain)
    assert [place(domain, "new")] == images(scene)


# The commands.


def test_apply_and_rollback_restart_what_runs(scene: Scene) -> None:
    """What is planned is shown and changes nothing; then it is done, and taken back."""
    domain, off = running(scene, "a"), scene.nova_guest("b")
    uuid, first = domain.UUIDString(), start_of(scene, domain)
    xmlkit = Shell.of(scene)
    apply = ("apply", "--relocate", POOL, "--restart", "a", "b")

    shown = xmlkit(*apply, "--dry-run").told(0).stderr
    assert f"    virsh shutdown -- {uuid}\n    ln -T " in shown
    assert f"    virsh start -- {uuid}\n    rm " in shown
    assert 1 == shown.count("virsh start") == shown.count("virsh shutdown")
    assert first == start_of(scene, domain)

    both = xmlkit.json("apply", 0, *apply, "--yes")["domains"]
    assert [("a", "done"), ("b", "done")] == [(each["name"], each["state"]) for each in both]
    assert f"virsh start -- {uuid}" in both[0]["steps"]
    runs(scene, domain, "new")
    stays_off(off)

    id_ = last(scene).id
    steps = xmlkit.json("journal", 0, "journal", id_)["transitions"][0]["domains"][0]["steps"]
    assert ["stop", "link", "refresh", "define", "start", "unlink"] == [
        step["step"] for step in steps
    ]
    assert "skipped" in xmlkit("rollback", "--yes", id_, "a").told(1).stdout
    runs(scene, domain, "new")
    xmlkit("rollback", "--restart", "--yes", id_, "a").told(0)
    runs(scene, domain, "old")


def test_it_is_asked_how_many_are_restarted(scene: Scene) -> None:
    """Nobody restarts a guest by mistake."""
    domain, _ = running(scene, "a"), scene.nova_guest("b")
    first = start_of(scene, domain)

    apply = ("apply", "--relocate", POOL, "--restart", "--all")
    done = Shell.of(scene).on_terminal(*apply, answer="n\n").told(1)

    assert "Change 2 domains, and restart 1 of them? [y/N]" in done.stderr
    assert first == start_of(scene, domain)


def test_a_guest_that_does_not_hear_is_exit_code_3(deaf: Scene) -> None:
    """Its time is the operator's to say."""
    domain = running(deaf)
    apply = ("apply", "--relocate", POOL, "--restart", "--shutdown-timeout", "1", "--yes", "a")

    text = Shell.of(deaf)(*apply).told(3).stdout

    assert "a  undone: not-stopped: it did not shut down within 1 s; it runs on" in text
    runs(deaf, domain, "old")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_wait(deaf: Scene, number: signal.Signals) -> None:
    """Soon, and with all as it was."""
    domain = running(deaf)
    xmlkit = Shell.of(deaf)
    process = xmlkit.start("apply", "--relocate", POOL, "--restart", "--yes", "a")
    until(lambda: has_begun(deaf))
    process.send_signal(number)

    assert "a  undone: interrupted" in xmlkit.end(process).told(3).stdout
    runs(deaf, domain, "old")
    assert () == last(deaf).pending


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("apply", "--restart", "--on-shutdown", "a"), "--restart does it now"),
        (("apply", "--restart", "--script", "a"), "--restart does it now"),
        (("apply", "--shutdown-timeout", "9", "a"), "--shutdown-timeout says how long --restart"),
        (("apply", "--restart", "--shutdown-timeout", "0", "a"), "0"),
        (("rollback", "--shutdown-timeout", "9", "x"), "--shutdown-timeout says how long"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    """One line, exit code 2."""
    Shell("test:///default", tmp_path / "state")(*words).refused(says)


def test_a_script_restarts_nobody(scene: Scene) -> None:
    """It refuses the task, instead of leaving a guest off."""
    (case,) = cases_of(scene, running(scene))
    assert case.task is not None

    with pytest.raises(ScriptError, match="a: a script restarts no guest"):
        script([case.task], scene.libvirtd.uri)


# A guest with an operating system.


@pytest.fixture
def linux(scene: Scene, linux_tree: Path) -> Any:
    """A Linux guest that runs, which shuts itself down when the button is pressed."""
    assert linux_tree.exists()
    domain = scene.nova_guest("linux", raw=True)
    kernel, initrd = linux_guest(scene.libvirtd.directory)
    boot = f"<kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{CMDLINE}</cmdline>"
    xml = scene.document(domain).text
    for old, new in (("<boot dev='hd'/>", boot), (">16384<", f">{192 << 10}<")):
        assert old in xml
        xml = xml.replace(old, new)
    domain = scene.connection.defineXML(xml)
    scene.start(domain)
    return domain


def said(scene: Scene, domain: Any) -> bytes:
    return scene.log(domain.name()).read_bytes()


@pytest.mark.machine
def test_a_linux_guest_is_restarted(scene: Scene, linux: Any) -> None:
    """It has shut down by itself, and boots from the volume."""
    heard = []
    listener = when("done", Stop, lambda: heard.append(said(scene, linux)))

    assert Outcome("done") == restart(scene, linux, listener=listener)
    assert b"XMLKIT-GUEST-OFF" in heard[0]
    assert linux.isActive()
    assert f"{POOL}/{linux.UUIDString()}_disk" == live_source(linux)
    until(lambda: b"W" in said(scene, linux).rpartition(UP)[2])
    assert [place(linux, "new")] == images(scene)


@pytest.mark.machine
def test_a_linux_guest_is_moved_when_its_owner_shuts_it_down(scene: Scene, linux: Any) -> None:
    """--on-shutdown waits for that, and then boots it no more."""
    xmlkit = Shell.of(scene)
    process = xmlkit.start("apply", "--relocate", POOL, "--on-shutdown", "--yes", "linux")
    until_said(process, "waiting for 1 domain")
    linux.shutdown()
    xmlkit.end(process).told(0)

    assert b"XMLKIT-GUEST-OFF" in said(scene, linux)
    stays_off(linux)
    assert [place(linux, "new")] == images(scene)
    scene.boots(linux)
