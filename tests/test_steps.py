"""Steps: their order, their commands as an operator would type them, their way into a journal."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scene import POOL, Scene, disk_xml, until
from strategies import Case, cases

from xmlkit import steps
from xmlkit.disks import Address
from xmlkit.errors import XmlkitError
from xmlkit.executor import position
from xmlkit.host import parse_host
from xmlkit.metadata import names_of, rewritten
from xmlkit.observe import observe
from xmlkit.plan import Plan, Transition, plan
from xmlkit.steps import (
    Copy,
    Define,
    Link,
    Redefine,
    Refresh,
    Start,
    Step,
    Stop,
    Unlink,
    from_data,
    steps_of,
)
from xmlkit.testing import Libvirtd, boot_sector
from xmlkit.transformers import transform

UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
ODD = 'it\'s a "disk" $(x) `y`; -rf * é \\'


def moved(target: str, before: Address, after: Address, action: Any = "move") -> Transition:
    form: Any = "volume" if after.type == "volume" else "path"
    return Transition(target, action, form, "qcow2", before, after, True)


def file(name: str) -> Address:
    return Address("file", f"/i/{name}")


def volume(name: str, pool: str = "p") -> Address:
    return Address("volume", f"/{pool}/{name}", pool, name)


TEXTS = st.text(max_size=8)
STEPS = st.one_of(
    st.builds(Link, TEXTS, TEXTS),
    st.builds(Copy, TEXTS, TEXTS),
    st.builds(Refresh, TEXTS),
    st.builds(Redefine, TEXTS, TEXTS, TEXTS),
    st.builds(Define, TEXTS),
    st.builds(Stop, TEXTS),
    st.builds(Start, TEXTS),
    st.builds(Unlink, TEXTS, TEXTS),
    st.builds(steps.Freeze, TEXTS),
    st.builds(steps.Backup, TEXTS, TEXTS, TEXTS),
    st.builds(steps.Convert, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS),
    st.builds(steps.Publish, TEXTS, TEXTS),
)


# Order.


@given(cases(relocate=True), st.booleans(), st.booleans())
def test_the_order_law(case: Case, copies: bool, metadata: bool) -> None:
    """Images, refreshes, metadata, one definition, the unlinking and what it makes stale last."""
    made = case.plan
    targets = [each.target for each in made.transitions] if copies else []
    found = steps_of(
        made, copied=targets, metadata=[("snapshot", "s"), ("managed-save", "")] * metadata
    )

    ranks = {Link: 0, Copy: 0, Refresh: 1, Redefine: 2, Define: 3, Unlink: 4}
    kinds = [type(step) for step in found]
    if not made.changes:
        assert () == found
        return
    assert 1 == kinds.count(Define)
    at = kinds.index(Define)
    before = [ranks[kind] for kind in kinds[:at]]
    after = [kind for kind, _ in itertools.groupby(kinds[at + 1 :])]
    assert sorted(before) == before
    assert after in ([], [Unlink], [Unlink, Refresh])
    moves = [each for each in made.transitions if each.changes and each.action == "move"]
    assert len(moves) == kinds.count(Unlink) == kinds.count(Link) + kinds.count(Copy)
    assert {(each.before.path, each.after.path) for each in moves} == {
        (step.path, step.kept) for step in found if isinstance(step, Unlink)
    }
    for step in found[:at]:
        if isinstance(step, Refresh):
            assert step.pool in {each.after.pool for each in made.transitions}
    assert len(set(found[:at])) == at


def test_a_pool_is_refreshed_once_for_all_disks() -> None:
    """Before the definition; the pool that images leave, after the unlinking."""
    there = Plan(
        "volume", "a", UUID, tuple(moved(f"vd{n}", file(n), volume(n)) for n in ("a", "b"))
    )
    kinds = [type(step) for step in steps_of(there)]

    assert [Link, Link, Refresh, Define, Unlink, Unlink] == kinds
    assert [Link, Link, Define, Unlink, Unlink, Refresh] == [
        type(step) for step in steps_of(there.inverse())
    ]


def test_the_steps_of_the_inverse_lead_back() -> None:
    """Each link and each unlinking the other way round."""
    there = Plan(
        "volume",
        "a",
        UUID,
        (moved("vda", file("a"), volume("a")), moved("vdb", file("b"), file("c"))),
    )
    forward, back = steps_of(there), steps_of(there.inverse())

    def pairs(found: tuple[Step, ...], kind: Any) -> set[tuple[str, str]]:
        return {
            (step.source, step.target) if isinstance(step, Link | Copy) else (step.path, step.kept)
            for step in found
            if isinstance(step, kind) and isinstance(step, Link | Copy | Unlink)
        }

    for kind in (Link, Unlink):
        assert {(b, a) for a, b in pairs(forward, kind)} == pairs(back, kind)
    assert forward == steps_of(there.inverse().inverse())


def test_a_guest_is_down_for_no_step_that_can_wait() -> None:
    """It runs again before an old name goes, and what is done besides is the same."""
    there = Plan("volume", "a", UUID, (moved("vda", file("a"), volume("a")),))

    found = steps_of(there, restart=True)

    assert [Stop, Link, Refresh, Define, Start, Unlink] == [type(step) for step in found]
    assert steps_of(there) == tuple(step for step in found if not isinstance(step, Stop | Start))
    assert () == steps_of(Plan("volume", "a", UUID, ()), restart=True)


def test_an_adopted_volume_that_was_seen_needs_a_definition_only() -> None:
    """One that was not seen needs the refresh."""
    seen = moved("vda", file("a"), volume("a"), "adopt")

    assert (Define(UUID),) == steps_of(Plan("volume", "a", UUID, (seen,)))
    unseen = seen._replace(verified=False)
    assert (Refresh("p"), Define(UUID)) == steps_of(Plan("volume", "a", UUID, (unseen,)))


def test_an_image_without_a_path_cannot_move() -> None:
    """It is said, and no half of the steps is given."""
    nowhere = moved("vda", Address("volume", None, "p", "a"), file("a"))

    with pytest.raises(XmlkitError, match="disk vda: an image without a path"):
        steps_of(Plan("path", "a", UUID, (nowhere,)))


# As data.


@given(STEPS)
def test_there_and_back_as_data(step: Step) -> None:
    """What a journal holds is the step again, by way of JSON."""
    data = steps.as_data(step)

    assert step == from_data(json.loads(json.dumps(data)))
    assert type(step).__name__.lower() == data["step"]


@given(st.dictionaries(st.text(max_size=8), st.none() | TEXTS | st.integers(), max_size=4))
def test_anything_else_is_no_step(data: dict[str, Any]) -> None:
    """Nothing is guessed, and the error is ours."""
    with pytest.raises(XmlkitError, match="not a step"):
        from_data(data)


@pytest.mark.parametrize(
    "data",
    [
        {"step": "rename", "source": "a", "target": "b"},
        {"step": "link", "source": "a"},
        {"step": "link", "source": "a", "target": "b", "more": "c"},
        {"step": "link", "source": "a", "target": None},
        {"step": "refresh", "pool": 7},
        {"step": ["link"], "source": "a", "target": "b"},
    ],
)
def test_nearly_a_step_is_none(data: dict[str, Any]) -> None:
    """An unknown kind, a field too few or too many, or not of text."""
    with pytest.raises(XmlkitError, match="not a step"):
        from_data(data)


def test_steps_of_two_kinds_are_never_equal() -> None:
    """A link and the unlinking of it hold the same two paths."""
    different = {Link("a", "b"), Copy("a", "b"), Unlink("a", "b"), Refresh("a"), Define("a")}
    different |= {Stop("a"), Start("a")}

    assert 7 == len(different)
    assert Link("a", "b") in different


# As commands.


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=8), min_size=3, max_size=3))
def test_a_shell_reads_each_command_as_it_was_meant(names: list[str]) -> None:
    """Whatever the names are; options end before them."""
    a, b, c = names
    for step, tail in (
        (Link(a, b), [a, b]),
        (Copy(a, b), [a, b]),
        (Unlink(a, b), [a]),
        (Refresh(a), [a]),
        (Define(a), [f"{a}.xml"]),
        (Stop(a), [a]),
        (Start(a), [a]),
        (Redefine(a, "snapshot", c), [a, f"{c or a}.xml"]),
        (Redefine(a, "checkpoint", c), [a, f"{c or a}.xml"]),
        (Redefine(a, "managed-save", ""), [a, f"{a}.xml"]),
    ):
        words = shlex.split(str(step))
        assert tail == words[-len(tail) :]
        assert "--" == words[-len(tail) - 1]


def shell(step: Step, directory: Path, uri: str = "", *, fails: bool = False) -> None:
    """Run the step's command as an operator would."""
    environment = {**os.environ, "LC_ALL": "C", "LIBVIRT_DEFAULT_URI": uri}
    done = subprocess.run(
        ["sh", "-c", str(step)],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert fails == bool(done.returncode), (str(step), done.stderr)


@pytest.mark.parametrize("name", ["disk", ODD, "-rf", "--help", "a\nb"])
def test_the_commands_for_files_do_it(tmp_path: Path, name: str) -> None:
    """ln, cp and rm, of names that a shell or the command could take for something else."""
    source, linked, copied = (tmp_path / f"{kind}{name}" for kind in ("", "l", "c"))
    source.write_bytes(b"content")
    source.chmod(0o640)
    for step in (Link(str(source), str(linked)), Copy(str(source), str(copied))):
        shell(step, tmp_path)

    assert source.stat().st_ino == linked.stat().st_ino
    assert source.stat().st_ino != copied.stat().st_ino
    assert (b"content", 0o100640) == (copied.read_bytes(), copied.stat().st_mode)
    # nothing is overwritten, and a directory of the name is not entered
    shell(Link(str(source), str(copied)), tmp_path, fails=True)
    copied.write_bytes(b"somebody's")
    subprocess.run(["sh", "-c", str(Copy(str(source), str(copied)))], check=False)
    assert b"somebody's" == copied.read_bytes()
    shell(Unlink(str(linked), str(source)), tmp_path)
    assert sorted((source, copied)) == sorted(tmp_path.iterdir())


def test_relative_names_that_look_like_options(tmp_path: Path) -> None:
    """They come after `--`."""
    (tmp_path / "-f").write_bytes(b"content")
    shell(Link("-f", "-s"), tmp_path)
    shell(Unlink("-f", "-s"), tmp_path)

    assert [tmp_path / "-s"] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["disk", "it's a $(pool)", "-p"])
def test_the_commands_for_libvirt_do_it(
    start_libvirtd: Callable[..., Libvirtd], tmp_path: Path, name: str
) -> None:
    """Typed one after the other, with the files beside them, they carry out the whole plan."""
    scene = Scene(start_libvirtd())
    uri = scene.libvirtd.uri
    pool = scene.pool(name, scene.libvirtd.directory / "own")
    domain = scene.nova_guest("a")
    domain.snapshotCreateXML(f"<domainsnapshot><name>s{name}</name></domainsnapshot>")
    host = parse_host(observe(scene.connection))
    made = plan(scene.document(domain), host, relocate={None: name})
    found = steps_of(made, metadata=names_of(domain))
    (tmp_path / f"{domain.UUIDString()}.xml").write_text(
        transform(scene.document(domain), made).text
    )
    snapshot = domain.snapshotLookupByName(f"s{name}")
    document = type(scene.document(domain)).parse(
        snapshot.getXMLDesc(libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE)
    )
    (tmp_path / f"s{name}.xml").write_text(rewritten(document, made).text)

    assert "before" == position(scene.connection, made)
    for step in found:
        shell(step, tmp_path, uri)
        if isinstance(step, Refresh):
            assert [f"{domain.UUIDString()}_disk"] == [v.name() for v in pool.listAllVolumes()]
        scene.boots(domain)

    assert [Link, Refresh, Redefine, Define, Unlink] == [type(step) for step in found]
    assert "after" == position(scene.connection, made)
    assert "volume=" in domain.snapshotLookupByName(f"s{name}").getXMLDesc()
    assert [] == list((scene.instances / domain.UUIDString()).iterdir())


def test_a_guest_is_shut_down_and_started_by_their_commands(
    libvirtd: Libvirtd, tmp_path: Path
) -> None:
    """virsh shutdown asks and does not wait; virsh start starts."""
    scene = Scene(libvirtd, sector=boot_sector(hears_button=True))
    domain = scene.nova_guest("a")
    scene.start(domain)

    shell(Stop(domain.UUIDString()), tmp_path, libvirtd.uri)
    until(lambda: not domain.isActive())
    shell(Start(domain.UUIDString()), tmp_path, libvirtd.uri)

    assert domain.isActive()


def test_a_managed_save_is_defined_by_its_command(libvirtd: Libvirtd, tmp_path: Path) -> None:
    """virsh managedsave-define takes the domain and the file."""
    scene = Scene(libvirtd)
    own = str(uuid.uuid4())
    volume_path = scene.flat(scene.instances / "disks" / "x")
    domain = scene.define("a", [disk_xml(volume_path, format="raw")], own)
    scene.connection.storagePoolLookupByName(POOL).refresh()
    scene.start(domain)
    domain.managedSave()
    xml = domain.managedSaveGetXMLDesc(libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
    document = type(scene.document(domain)).parse(xml)
    host = parse_host(observe(scene.connection))
    made = plan(scene.document(domain), host)
    (tmp_path / f"{own}.xml").write_text(rewritten(document, made).text)

    shell(Redefine(own, "managed-save", ""), tmp_path, libvirtd.uri)

    assert f"pool='{POOL}' volume='x'" in domain.managedSaveGetXMLDesc()
