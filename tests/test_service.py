"""Domains are judged, bound plans checked, transitions taken back: the way of a transition.

Rules
- Surveys are those of a real libvirtd, taken anew after each change.
- What is refused leaves everything as it was.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scene import POOL, Scene, edited, run

from xmlkit import service, state
from xmlkit.journal import JournalError, Outcome, Task, Writer, find, read_all
from xmlkit.observe import opened
from xmlkit.plan import Plan, PlanError
from xmlkit.service import Case, Options, ServiceError, bound, cases_of, roll_back_cases
from xmlkit.steps import Copy, Define, Link, Redefine, Unlink
from xmlkit.survey import Survey, survey

RELOCATE = Options(relocate={None: POOL})
KEY = b"k" * 32
SECRET = "HIDE-ME7"  # noqa: S105 - VNC allows eight characters
VNC = f"<graphics type='vnc' port='-1' autoport='yes' passwd='{SECRET}'/>"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return state.directory(str(tmp_path / "state"))


def looked(scene: Scene, *names: str) -> Survey:
    return survey(scene.connection, names or None, secure=True)


def case_of(scene: Scene, name: str = "guest", options: Options = RELOCATE) -> Case:
    """A domain, judged."""
    (case,) = cases_of(looked(scene, name), options)
    return case


def apply(scene: Scene, directory: Path, *cases: Case, **options: Any) -> service.Result:
    with state.lock(directory):
        uri = scene.libvirtd.uri
        return service.carry_out(scene.connection, cases, directory, uri=uri, **options)


# Judged.


def test_a_domain_that_can_change_is_ready(scene: Scene) -> None:
    """With its task: the names first, the definition, the old names last."""
    scene.nova_guest("guest", kinds=("disk", "disk.local"))
    case = case_of(scene)

    assert ("ready", "", "") == (case.state, case.id, case.message)
    assert case.task is not None
    assert [Link, Link, Define, Unlink, Unlink] == [
        type(step) for step in case.task.steps if not str(step).startswith("virsh pool-refresh")
    ]


def test_a_domain_on_volumes_is_nothing_to_do(scene: Scene, directory: Path) -> None:
    """Applied twice is applied once."""
    scene.nova_guest("guest")
    apply(scene, directory, case_of(scene))
    case = case_of(scene)

    assert ("nothing", None) == (case.state, case.task)
    assert service.Result(None, {}) == apply(scene, directory, case)


def test_a_running_domain_is_skipped(scene: Scene) -> None:
    """It is no failure of it, and may be done later."""
    scene.nova_guest("guest").create()
    case = case_of(scene)

    assert ("skipped", "running", None) == (case.state, case.id, case.task)


def test_what_preflight_refuses_is_refused(scene: Scene) -> None:
    """With the disk, and with the evidence among the concerns."""
    domain = scene.nova_guest("guest")
    disks = scene.instances / "disks"
    (disks / f"{domain.UUIDString()}_disk").write_bytes(b"somebody's")
    case = case_of(scene)

    assert ("refused", "volume-taken", None) == (case.state, case.id, case.task)
    assert case.message.startswith("vda: ")


def test_a_running_domain_that_is_refused_anyway_is_refused(scene: Scene) -> None:
    """Waiting would not help."""
    domain = scene.nova_guest("guest", raw=True)
    (path,) = (scene.instances / domain.UUIDString()).glob("disk")
    domain.create()
    path.with_name("other").hardlink_to(path)
    case = case_of(scene)

    assert "refused" == case.state
    assert "running" != case.id
    assert "running" in [concern.id for concern in case.concerns]


def test_a_domain_outside_all_pools_is_nothing_to_do_without_relocation(scene: Scene) -> None:
    """And the reason is said."""
    scene.nova_guest("guest")
    case = case_of(scene, options=Options())

    assert ("nothing", "outside-pools") == (case.state, case.id)


def test_an_unknown_pool_is_refused_before_anything_is_judged(scene: Scene) -> None:
    """It is the caller's mistake, not a domain's."""
    scene.nova_guest("guest")

    with pytest.raises(PlanError, match="no pool 'elsewhere'"):
        cases_of(looked(scene), Options(relocate={None: "elsewhere"}))


def test_what_the_schemas_would_refuse_is_refused(scene: Scene, tmp_path: Path) -> None:
    """Valid before and invalid after is not done."""
    scene.nova_guest("guest")
    (tmp_path / "domain.rng").write_text(
        """<grammar xmlns="http://relaxng.org/ns/structure/1.0">
          <start><ref name="any"/></start>
          <define name="any"><element><anyName/><zeroOrMore><choice>
            <attribute><anyName><except><name>volume</name></except></anyName></attribute>
            <text/><ref name="any"/>
          </choice></zeroOrMore></element></define>
        </grammar>"""
    )
    case = case_of(scene, options=replace(RELOCATE, schemas=str(tmp_path)))

    assert ("refused", "schema", None) == (case.state, case.id, case.task)


# Bound.


def bound_plan(scene: Scene, name: str = "guest", key: bytes = KEY) -> Plan:
    surveyed = looked(scene, name)
    (guest,) = surveyed.guests
    made = case_of(scene, name).plan
    assert made is not None
    return bound(made, guest.document, key)


def judged(scene: Scene, made: Plan, key: bytes | None = KEY) -> Case:
    (case,) = cases_of(looked(scene, made.uuid), Options(), plans=(made,), key=key)
    return case


def test_a_plan_that_is_still_true_is_ready(scene: Scene) -> None:
    """Also after it was written and read back."""
    scene.nova_guest("guest")
    made = bound_plan(scene)

    assert "ready" == judged(scene, made).state
    assert "ready" == judged(scene, Plan.from_json(made.to_json())).state


def stale(case: Case) -> None:
    assert ("refused", "stale-plan", None) == (case.state, case.id, case.task)


def test_a_plan_of_another_host_is_stale(scene: Scene) -> None:
    """Its key is another one."""
    scene.nova_guest("guest")

    stale(judged(scene, bound_plan(scene, key=b"other" * 8)))


def test_a_plan_that_is_bound_to_nothing_is_stale(scene: Scene) -> None:
    """One for transform alone, and one that is judged without a key."""
    scene.nova_guest("guest")
    made = bound_plan(scene)

    stale(judged(scene, made._replace(binding=None)))
    lost = judged(scene, made, key=None)
    stale(lost)
    assert "the key has been lost" in lost.message


@pytest.mark.parametrize("what", ["uuid", "target", "span", "skip"])
def test_an_edited_plan_is_stale(scene: Scene, what: str) -> None:
    """Whatever is edited in it."""
    scene.nova_guest("guest", kinds=("disk", "disk.local"))
    other = scene.nova_guest("other")
    made = bound_plan(scene)
    first, second = made.transitions
    match what:
        case "uuid":
            changed = made._replace(uuid=other.UUIDString())
        case "target":
            path = first.after._replace(volume="other", path=f"{first.after.path}-other")
            changed = made._replace(disks=(first._replace(after=path), second))
        case "span":
            changed = made._replace(disks=(first._replace(span=""), second))
        case _:
            changed = made._replace(disks=(first,))

    stale(judged(scene, changed))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<vcpu placement='static'>1</vcpu>", "<vcpu placement='static'>2</vcpu>"),
        (SECRET, "HIDE-ME8"),
        ("type='qcow2'", "type='raw'"),
    ],
    ids=["elsewhere", "password", "disk"],
)
def test_the_plan_of_a_domain_that_was_edited_is_stale(scene: Scene, old: str, new: str) -> None:
    """Wherever it was edited, be it in a password that nobody sees."""
    domain = scene.nova_guest("guest")
    edited(scene, domain, "</devices>", f"{VNC}</devices>")
    made = bound_plan(scene)
    assert "ready" == judged(scene, made).state
    edited(scene, domain, old, new)

    stale(judged(scene, made))


def test_a_binding_does_not_tell_the_password(scene: Scene) -> None:
    """Who has not the key cannot try passwords on it."""
    domain = scene.nova_guest("guest")
    edited(scene, domain, "</devices>", f"{VNC}</devices>")
    made = bound_plan(scene)

    assert SECRET not in made.to_json()
    assert made.binding != bound(made, scene.document(domain), b"").binding


def test_the_plan_of_a_domain_that_is_gone_is_refused(scene: Scene) -> None:
    """Its name and UUID are the plan's."""
    domain = scene.nova_guest("guest")
    made = bound_plan(scene)
    domain.undefine()
    case = judged(scene, made)

    assert ("refused", "no-domain", "guest") == (case.state, case.id, case.name)


def test_a_plan_that_was_carried_out_is_nothing_to_do(scene: Scene, directory: Path) -> None:
    """It is not stale: the domain is where the plan leads."""
    scene.nova_guest("guest")
    made = bound_plan(scene)
    apply(scene, directory, judged(scene, made))

    assert ("nothing", None) == (judged(scene, made).state, judged(scene, made).task)


# Carried out.


def test_nothing_is_begun_while_something_is_pending(scene: Scene, directory: Path) -> None:
    """The message names the transition and the command."""
    domain = scene.nova_guest("guest")
    case = case_of(scene)
    assert case.task is not None
    id = state.new_id(directory)
    Writer.create(str(directory), id, [case.task], uri=scene.libvirtd.uri).close()

    with pytest.raises(ServiceError, match=f"{id} .*: run xmlkit recover"):
        apply(scene, directory, case)
    assert "file" == scene.addresses(domain)[0][0]
    ((_, ended),), errors = service.recover_all(lambda _: scene.connection, directory)
    assert ([], ["undone"]) == (errors, [end.state for end in ended.values()])
    service.refuse_pending(directory)


def test_a_journal_that_cannot_be_written_on_leaves_it_pending(
    scene: Scene, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had ended is told as it ended; recover brings the rest to its end."""
    domain = scene.nova_guest("guest")

    def full(*_: Any) -> None:
        raise JournalError("cannot write: no space left")

    monkeypatch.setattr(Writer, "done", full)
    result = apply(scene, directory, case_of(scene))
    monkeypatch.undo()
    (outcome,) = result.outcomes.values()

    assert ("pending", "journal") == (outcome.state, outcome.id)
    assert "no space" in outcome.message
    scene.boots(domain)
    with state.lock(directory):
        ((_, ended),), errors = service.recover_all(lambda _: scene.connection, directory)
    assert ([], {"undone"}) == (errors, {end.state for end in ended.values()})
    scene.boots(domain)


def test_the_journal_has_the_uri_without_its_password(scene: Scene, directory: Path) -> None:
    """But with all that recover needs."""
    scene.nova_guest("guest")
    (case,) = cases_of(looked(scene), RELOCATE)
    with state.lock(directory):
        result = service.carry_out(
            scene.connection, [case], directory, uri="qemu+tls://me:HIDE-ME@host/system"
        )

    assert "qemu+tls://me@host/system" == find(str(directory), str(result.id)).uri


# Taken back.


def back(scene: Scene, directory: Path, id: str | None) -> list[Case]:
    journals, _ = read_all(str(directory))
    done = find(str(directory), str(id))
    places = service.directories_of(task.plan.inverse() for task in done.tasks.values())
    surveyed = survey(scene.connection, tuple(done.tasks), secure=True, directories=places)
    return roll_back_cases(surveyed, done, Options(to="path"), later=journals)


def test_what_was_done_is_taken_back_once(scene: Scene, directory: Path) -> None:
    """To the byte; then there is nothing to take back, until that is taken back itself."""
    domain = scene.nova_guest("guest")
    before = scene.document(domain).text
    done = apply(scene, directory, case_of(scene))
    cases = back(scene, directory, done.id)
    assert ["ready"] == [case.state for case in cases]
    undone = apply(scene, directory, *cases, kind="rollback", of=done.id)

    assert before == scene.document(domain).text
    assert ["it was taken back already"] == [c.message for c in back(scene, directory, done.id)]
    apply(scene, directory, *back(scene, directory, undone.id), kind="rollback", of=undone.id)
    assert "volume" == scene.addresses(domain)[0][0]
    assert ["ready"] == [case.state for case in back(scene, directory, done.id)]


def test_what_was_never_done_is_nothing_to_take_back(scene: Scene, directory: Path) -> None:
    """As when it failed."""
    scene.nova_guest("guest")
    case = case_of(scene)
    assert case.task is not None
    writer = Writer.create(str(directory), state.new_id(directory), [case.task], uri="x:///")
    writer.end((case.uuid, Outcome("undone", "failed", "it failed")))
    writer.close()
    (judged,) = back(scene, directory, Path(writer.path).stem)

    assert ("nothing", "it was never done") == (judged.state, judged.message)


def test_edits_made_since_stay(scene: Scene, directory: Path) -> None:
    """The inverse is applied to the domain's present XML."""
    domain = scene.nova_guest("guest")
    done = apply(scene, directory, case_of(scene))
    edited(scene, domain, "placement='static'>1<", "placement='static'>2<")
    apply(scene, directory, *back(scene, directory, done.id), kind="rollback", of=done.id)

    assert "file" == scene.addresses(domain)[0][0]
    assert ">2</vcpu>" in scene.document(domain).text


def test_a_disk_that_was_changed_since_is_refused(scene: Scene, directory: Path) -> None:
    """Its image is somewhere else."""
    domain = scene.nova_guest("guest")
    done = apply(scene, directory, case_of(scene))
    edited(scene, domain, "_disk'", "_disk-other'")
    (case,) = back(scene, directory, done.id)

    assert ("refused", "disk-changed", None) == (case.state, case.id, case.task)


def test_a_domain_that_is_gone_is_not_taken_back(scene: Scene, directory: Path) -> None:
    """The others are."""
    scene.nova_guest("guest").setAutostart(0)
    other = scene.nova_guest("other")
    done = apply(scene, directory, *cases_of(looked(scene), RELOCATE))
    other.undefine()
    states = {case.name: (case.state, case.id) for case in back(scene, directory, done.id)}

    assert {"guest": ("ready", ""), "other": ("refused", "no-domain")} == states


def test_what_was_copied_is_copied_back(
    scene: Scene, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it must be is known from how it came."""
    scene.nova_guest("guest", raw=True)
    case = case_of(scene)
    assert case.task is not None
    steps = tuple(
        Copy(step.source, step.target) if isinstance(step, Link) else step
        for step in case.task.steps
    )
    done = apply(scene, directory, replace(case, task=Task(case.task.plan, steps)))
    (judged,) = back(scene, directory, done.id)

    assert "done" == done.outcomes[case.uuid].state
    assert judged.task is not None
    assert [Copy] == [type(step) for step in judged.task.steps if isinstance(step, Link | Copy)]


def test_snapshots_are_redefined_only_if_that_is_wanted(scene: Scene) -> None:
    """Otherwise a domain with one is refused."""
    domain = scene.nova_guest("guest")
    domain.snapshotCreateXML("<domainsnapshot><name>s</name></domainsnapshot>")

    assert "refused" == case_of(scene).state
    case = case_of(scene, options=replace(RELOCATE, rewrite_metadata=True))
    assert case.task is not None
    assert [Redefine(case.uuid, "snapshot", "s")] == [
        step for step in case.task.steps if isinstance(step, Redefine)
    ]


# In one call.


def test_one_call_moves_one_domain(scene: Scene, directory: Path) -> None:
    """And a second one has nothing to do; the other domain is left alone."""
    domain, other = scene.nova_guest("guest"), scene.nova_guest("other")
    call = (scene.connection, domain.UUIDString(), RELOCATE)

    assert Outcome("done") == service.transition(*call, state_dir=str(directory))
    assert "nothing" == service.transition(*call, state_dir=str(directory)).state
    assert ["volume", "file"] == [scene.addresses(each)[0][0] for each in (domain, other)]
    scene.boots(domain)


def test_one_call_says_why_not(scene: Scene, directory: Path) -> None:
    """A domain that runs, one that is not there, and one whose name is another one's UUID."""
    domain = scene.nova_guest("guest")
    domain.create()

    def call(uuid: str) -> Outcome:
        return service.transition(scene.connection, uuid, RELOCATE, state_dir=str(directory))

    running = call(domain.UUIDString())
    scene.stop(domain)
    scene.nova_guest(domain.UUIDString())
    missing = call("0" * 8)

    assert ("skipped", "running") == (running.state, running.id)
    assert ("refused", "no-domain") == (missing.state, missing.id)
    moved = call(domain.UUIDString())
    assert "done" == moved.state
    assert "volume" == scene.addresses(domain)[0][0]


@pytest.fixture
def locked(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """The lock is held by another process, until its stdin is closed."""
    code = (
        "import sys, pathlib\nfrom xmlkit import state\n"
        "with state.lock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(directory)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_one_call_waits_for_the_other_writer(
    scene: Scene, directory: Path, locked: subprocess.Popen[str]
) -> None:
    """For as long as it is told, and does nothing if the other one has not ended by then."""
    domain = scene.nova_guest("guest")
    call = (scene.connection, domain.UUIDString(), RELOCATE)

    with pytest.raises(state.LockedError, match=f"process {locked.pid} "):
        service.transition(*call, state_dir=str(directory), wait=0.2)
    assert "file" == scene.addresses(domain)[0][0]
    assert locked.stdin is not None
    locked.stdin.close()
    assert "done" == service.transition(*call, state_dir=str(directory), wait=120).state


def test_recovery_goes_on_after_a_host_that_cannot_be_reached(
    scene: Scene, directory: Path
) -> None:
    """It is told at the end; the others have come to theirs."""
    for name, uri in (("one", "qemu+unix:///system?socket=/nowhere"), ("two", scene.libvirtd.uri)):
        scene.nova_guest(name)
        task = case_of(scene, name).task
        assert task is not None
        Writer.create(str(directory), state.new_id(directory), [task], uri=uri).close()

    def connect(journal: Any) -> Any:
        with opened(journal.uri, write=True):
            return scene.connection

    found, errors = service.recover_all(connect, directory)

    assert [["two"]] == [[t.plan.name for t in journal.tasks.values()] for journal, _ in found]
    assert 1 == len(errors)
    assert "/nowhere" in str(errors[0])
    assert 2 == len(read_all(str(directory))[0])


def test_recovery_goes_on_after_a_host_that_another_one_works_on(
    scene: Scene, directory: Path
) -> None:
    """It is told at the end, and what is pending there stays so."""
    busy = str(uuid.uuid4())
    for name in ("one", "two"):
        scene.nova_guest(name)
        task = case_of(scene, name).task
        assert task is not None
        Writer.create(str(directory), state.new_id(directory), [task], uri=name).close()

    def connect(journal: Any) -> Any:
        with state.host_lock(busy if journal.uri == "one" else None):
            return scene.connection

    with state.host_lock(busy):
        found, errors = service.recover_all(connect, directory)

    assert ["two"] == [journal.uri for journal, _ in found]
    assert [state.LockedError] == list(map(type, errors))
    assert ["one"] == [each.uri for each in read_all(str(directory))[0] if each.pending]


def test_the_core_of_it_needs_no_libvirt() -> None:
    """Options and transition are there before libvirt-python is."""
    code = (
        "import sys, xmlkit; xmlkit.transition, xmlkit.Options(); print('libvirt' in sys.modules)"
    )
    assert "False\n" == run(sys.executable, "-c", code)
