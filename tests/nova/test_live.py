"""Instances come over with their live migration: Nova's real driver on two real hosts.

Rules
- Nova's own code decides what follows what: ComputeManager._do_live_migration in the source's
  process, what it asks of the destination in the other's. After each migration: where the guest
  runs and writes, how many names its image has, and what either host has besides.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import libvirt
import pytest
from driver import CallError
from guests import UUID
from lxml import etree
from nova.compute.manager import ComputeManager
from nova.objects.base import NovaObject
from nova.objects.migrate_data import LibvirtLiveMigrateBDMInfo, LibvirtLiveMigrateData
from nova.virt.libvirt import migration
from novapair import NAMES, VOLUMES, Two, goes_on
from pair import make_pair
from scene import POOL, Scene

import xmlkit.nova
from xmlkit import journal, service
from xmlkit.nova import live as ours
from xmlkit.nova import store
from xmlkit.nova.builder import to_volumes
from xmlkit.nova.instances import Mover
from xmlkit.nova.seams import Libvirt
from xmlkit.nova.store import IMAGES_TYPE
from xmlkit.service import Options
from xmlkit.testing import Libvirtd

MEMORY = 1024  # MiB: at 1 MiB/s its empty pages take long enough to abort


class Other:
    """The other nova-compute, and what happens when it has prepared itself."""

    def __init__(self, there: Any, then: Callable[[], object] = lambda: None) -> None:
        self.there = there
        self.then = then

    def prepare(self, data: Any, told: str | None) -> Any:
        found = self.there.prepare(data, told)
        self.then()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.there, name)


class Live(Two):
    """Two hosts between which instances come over while they run."""

    def migrate(self, then: Callable[[], object] = lambda: None, *, aborted: bool = False) -> str:
        """What became of a live migration; `then` happens when the destination is prepared."""
        data, told = self.here.may_go(self.there.may_come())
        self.here.asked = Other(self.there, then)
        return str(self.here.migrate(data, told, aborted=aborted))

    def image(self, side: int = 0) -> Path:
        return self.pair.seen(self.pair.instances / UUID / "disk", side)

    def volume(self, side: int) -> Path:
        return self.pair.seen(self.pair.instances / "disks" / VOLUMES[0], side)

    def stayed(self) -> None:
        """All is as it was: the guest runs here from the one name of its image."""
        paths = [("file", str(self.pair.instances / UUID / name)) for name in NAMES]
        assert paths == self.pair.addresses(self.domain(0))
        assert 1 == self.image().stat().st_nlink
        assert [] == self.pair.destination.listAllDomains()
        for side in (0, 1):
            assert [] == os.listdir(self.pair.seen(self.pair.instances / "disks", side))
        said = self.image().with_name("disk.info").read_text()
        assert "/disks/" not in said
        if not self.shared:
            assert [] == self.left(1)
        assert [] == self.pending()
        goes_on(self.image(), "qcow2")

    def pending(self) -> list[str]:
        """The journals of either host that have not come to an end, and what is awaited."""
        found = []
        for side in (0, 1):
            directory = self.state / f"state-{side}" / "live"
            found += [each.id for each in journal.read_all(str(directory))[0] if each.pending]
            found += [each.name for each in directory.glob("arriving-*")]
        return found

    def pool(self, side: int) -> Any:
        connection = (self.pair.source, self.pair.destination)[side]
        return connection.storagePoolLookupByName(POOL)

    def again(self, side: int) -> None:
        """A nova-compute that was killed starts again."""
        self.hosts[side] = self.begin(side, IMAGES_TYPE)
        self.here, self.there = self.hosts


@pytest.fixture(params=[False, True], ids=["shared", "separate"])
def two(
    place: Path, start_libvirtd: Callable[..., Libvirtd], request: pytest.FixtureRequest
) -> Iterator[Live]:
    """An instance that runs here from its directory, and two hosts that let it come over."""
    pair = make_pair(start_libvirtd, place, separate=request.param)
    made = Live(pair, place, "qcow2", IMAGES_TYPE, live=True, memory=MEMORY)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.xdist_group("live")  # two libvirts may find the same port free
def test_an_instance_comes_over_with_its_live_migration(two: Live) -> None:
    """What is interrupted, fails at the destination or is aborted leaves what was; else it comes.

    The host that has made something takes it back when its nova-compute starts again: the source
    its names, the destination its volumes.
    """
    killed = 0 if two.shared else 1
    data, told = two.here.may_go(two.there.may_come())
    two.here.asked = Other(two.there, two.hosts[killed].kill)
    if two.shared:
        with pytest.raises(CallError):
            two.here.migrate(data, told)
        assert 2 == two.image().stat().st_nlink
    else:
        two.there.prepare(data, told)
        two.there.kill()
    assert VOLUMES == sorted(two.pool(1).listVolumes())
    assert [] != two.pending()
    two.again(killed)
    for name in two.left(1) if not two.shared else ():
        # as without xmlkit: Nova refuses the next migration until an operator has removed it
        shutil.rmtree(two.pair.seen(two.pair.instances / name, 1))
    two.stayed()

    def fail() -> None:
        if two.shared:
            two.pool(1).destroy()
        else:
            two.volume(1).unlink()

    assert two.migrate(fail).startswith("stayed: ")
    if two.shared:
        two.pool(1).create()
    two.stayed()

    assert two.migrate(aborted=True).startswith("stayed: ")
    two.stayed()

    seen = []

    def look() -> None:
        names = two.image().stat().st_nlink
        seen.append((names, sorted(two.pool(1).listVolumes()), bool(two.pending())))

    assert "gone" == two.migrate(look)
    assert [(2 if two.shared else 1, VOLUMES, True)] == seen
    assert [] == two.pair.source.listAllDomains()
    assert [("volume", POOL, name) for name in VOLUMES] == two.pair.addresses(two.domain(1))
    assert not two.image(1).exists()
    assert 1 == two.volume(1).stat().st_nlink
    assert [] == two.pending()
    goes_on(two.volume(1), "qcow2")
    two.ends_there()


@pytest.mark.xdist_group("live")
def test_what_nobody_can_tell_both_hosts_are_asked(
    place: Path,
    start_libvirtd: Callable[..., Libvirtd],
    nova_case: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The guest has gone, and neither nova-compute has heard of it: xmlkit recover."""
    pair = make_pair(start_libvirtd, place)
    nova_case.flags(instances_path=str(pair.instances))
    domain = pair.guest()
    uuid = domain.UUIDString()
    old, new = pair.instances / uuid / "disk", pair.instances / "disks" / f"{uuid}_disk"
    here, there = (
        ours.Live(Mover({None: POOL}, str(place / name)), Libvirt(), on=True)
        for name in ("here", "there")
    )
    found = data(shared=True)
    linked = here.begin(pair.source, uuid, lambda: pair.there.uri)
    there.answer(pair.destination, uuid, found, str(old.parent), linked)
    flags = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE
    xml, _ = here.aimed(lambda: pair.source, uuid, domain.XMLDesc(flags), found)
    domain.migrate3(
        pair.destination,
        {
            libvirt.VIR_MIGRATE_PARAM_DEST_XML: xml,
            libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: xml,
            libvirt.VIR_MIGRATE_PARAM_URI: pair.unix(),
        },
        libvirt.VIR_MIGRATE_LIVE
        | libvirt.VIR_MIGRATE_PERSIST_DEST
        | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        | libvirt.VIR_MIGRATE_UNSAFE,
    )
    here.settle(pair.source, uuid)
    assert "asks both hosts" in caplog.text
    assert old.samefile(new)
    ((_, outcomes),), errors = service.recover_all(
        lambda _: pair.source, place / "here/live", there=lambda _: pair.destination
    )
    assert ("done", []) == (outcomes[uuid].state, errors)
    assert (False, True) == (old.exists(), new.exists())
    pair.goes_on(pair.destination.lookupByUUIDString(uuid))


@pytest.mark.xdist_group("live")
@pytest.mark.parametrize("begun", ["qcow2", IMAGES_TYPE])
def test_a_rollback_deletes_nothing_that_was_there_before(
    place: Path, start_libvirtd: Callable[..., Libvirtd], begun: str
) -> None:
    """An image at the destination of the name that the migration would give its own: somebody has
    left it. It is not written to, and what was made for the migration goes alone."""
    pair = make_pair(start_libvirtd, place, separate=True)
    two = Live(pair, place, begun, IMAGES_TYPE, live=True, memory=MEMORY)
    try:
        left = two.volume(1)
        left.write_bytes(b"left")
        data, told = two.here.may_go(two.there.may_come())
        if begun == IMAGES_TYPE:
            # Nova would copy onto it
            with pytest.raises(CallError, match="DestinationDiskExists"):
                two.there.prepare(data, told)
        else:
            data = two.there.prepare(data, told)
        two.there.roll_back(data)
        assert b"left" == left.read_bytes()
        assert [left.name] == os.listdir(left.parent)
        assert ([], []) == (two.left(1), two.pending())

        left.unlink()
        data, told = two.here.may_go(two.there.may_come())
        data = two.there.prepare(data, told)
        two.only(VOLUMES, 1)
        other = left.with_name(f"{UUID}_disk.eph0")
        other.write_bytes(b"left")
        two.there.roll_back(data)
        two.only([other.name], 1)
        assert ([], []) == (two.left(1), two.pending())
    finally:
        two.close()


# One host, and what is said to it.


@dataclasses.dataclass
class One:
    """A host with an instance that runs from its directory, and a pool."""

    scene: Scene
    live: ours.Live
    uuid: str
    state: Path

    @property
    def connection(self) -> Any:
        return self.scene.connection

    @property
    def domain(self) -> Any:
        return self.connection.lookupByUUIDString(self.uuid)

    @property
    def old(self) -> Path:
        return self.scene.instances / self.uuid / "disk"

    @property
    def new(self) -> Path:
        return self.scene.instances / "disks" / f"{self.uuid}_disk"

    def begin(self) -> frozenset[str]:
        return self.live.begin(self.connection, self.uuid, lambda: "qemu+tcp://there/system")

    def aimed(self, data: Any) -> tuple[str, Any]:
        xml = self.domain.XMLDesc(0)
        found = self.live.aimed(lambda: self.connection, self.uuid, xml, data)
        assert (found[0] == xml) == (found[1] is None)
        return found

    def places(self, *, wanted: tuple[str, ...] = ("disk",)) -> str:
        """Where Nova is told that the disk is to be made."""
        told = json.dumps([{"path": str(self.old), "type": "qcow2"}])
        (found,) = json.loads(self.live.places(self.connection, self.uuid, told, wanted))
        return str(found["path"])

    @property
    def outcomes(self) -> list[str]:
        """How each migration ended, by its journal; in the order in which they began."""
        journals, _ = journal.read_all(str(self.state / "live"))
        return ["pending" if each.pending else each.outcomes[self.uuid].state for each in journals]


@pytest.fixture
def one(libvirtd: Libvirtd, nova_case: Any) -> One:
    """An instance that could come over, with Nova's configuration read."""
    scene = Scene(libvirtd)
    nova_case.flags(instances_path=str(scene.instances))
    domain = scene.nova_guest("a")
    (scene.instances / domain.UUIDString() / "disk.info").write_text("{}")
    scene.start(domain)
    state = libvirtd.directory / "state"
    mover = Mover({None: POOL}, str(state))
    return One(scene, ours.Live(mover, Libvirt(), on=True), domain.UUIDString(), state)


def data(*, shared: bool) -> Any:
    """What two computes tell each other, as the source has completed it."""
    return LibvirtLiveMigrateData(is_shared_instance_path=shared, block_migration=not shared)


def sent(found: Any) -> Any:
    """As it arrives at the other host."""
    primitive = json.loads(json.dumps(found.obj_to_primitive()))
    return NovaObject.obj_from_primitive(primitive)


def test_a_word_arrives_beside_novas_own(one: One) -> None:
    """The disks that can move are offered; a Nova that knows nothing of it changes nothing."""
    found = data(shared=True)
    attached = LibvirtLiveMigrateBDMInfo(serial="1")
    found.bdms = [attached]
    assert (frozenset(), None) == (ours.offered(found), ours.answered(found))
    one.live.offer(one.connection, one.uuid, found)
    assert {"disk"} == ours.offered(sent(found))
    assert ours.answered(found) is None
    ours.tell(found, {"disks": []})
    assert ["1", ours.SERIAL] == [each.serial for each in sent(found).bdms]
    before = etree.fromstring(one.domain.XMLDesc(0))
    after = etree.tostring(migration._update_volume_xml(before, found, None, None))
    assert after == etree.tostring(etree.fromstring(one.domain.XMLDesc(0)))


@pytest.mark.parametrize(
    "word",
    [
        {"host": {"libversion": 9000000}, "disks": 5},
        {"host": 3, "disks": ["../../etc", None, {}]},
        {"host": {"libversion": 1, "driver": "qemu", "security": [], "pools": [["a"]]}},
        {"host": {"libversion": 1, "driver": "qemu", "security": None, "pools": []}},
        {"host": {"libversion": 1, "driver": "qemu", "security": [], "pools": [[1, 2, 3, [4]]]}},
        ["host", "disks"],
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_a_word_that_is_not_understood_moves_nothing(
    one: One, word: Any, shared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Of another release, or of nobody's: the migration goes on, and the second name goes."""
    if shared:
        one.begin()
    found = data(shared=shared)
    ours.tell(found, word)
    assert set() == ours.offered(sent(found))
    one.aimed(sent(found))
    assert not one.new.exists()
    assert one.outcomes == (["undone"] if shared else [])
    assert "is not understood" in caplog.text


def test_who_has_the_option_off_says_nothing(one: One) -> None:
    """Neither does who moves nothing at all."""
    for mover, on in ((Mover({None: POOL}, str(one.state)), False), (Mover({}), True)):
        found = data(shared=True)
        live = ours.Live(mover, Libvirt(), on=on)
        assert not live.on
        live.offer(one.connection, one.uuid, found)
        assert not ours.offered(found)


def test_without_an_answer_nothing_moves(one: One, caplog: pytest.LogCaptureFixture) -> None:
    """The second name goes, and the guest migrates as it is."""
    assert {"disk"} == one.begin()
    assert one.old.samefile(one.new)
    assert ["pending"] == one.outcomes
    one.aimed(data(shared=True))
    assert not one.new.exists()
    assert ["undone"] == one.outcomes
    assert "storage_transition_live has to be on there" in caplog.text
    one.live.finish(one.uuid)
    assert one.old.exists()


def test_the_old_name_goes_with_the_word_of_libvirt(one: One) -> None:
    """And not before the guest was sent to the volumes."""
    one.begin()
    found = data(shared=True)
    directory = str(one.old.parent)
    one.live.finish(one.uuid)
    assert one.old.samefile(one.new)
    one.live.answer(one.connection, one.uuid, found, directory, ["disk"])
    xml, host = one.aimed(sent(found))
    assert f'volume="{one.uuid}_disk"' in xml.replace("'", '"')
    assert [POOL] == [each.name for each in host.pools]
    one.live.finish(one.uuid)
    assert (False, True) == (one.old.exists(), one.new.exists())
    assert ["done"] == one.outcomes


def test_what_an_earlier_migration_has_left_is_not_taken_back_with_the_next(one: One) -> None:
    """The guest has come back on its volume: that name is the one it runs from, and stays."""
    one.begin()
    found = data(shared=True)
    one.live.answer(one.connection, one.uuid, found, str(one.old.parent), ["disk"])
    _, host = one.aimed(sent(found))
    one.domain.destroy()
    one.connection.defineXML(to_volumes(one.domain.XMLDesc(0), host).result)
    one.scene.start(one.domain)
    one.live.settle(one.connection, one.uuid)
    assert ["pending"] == one.outcomes
    assert set() == one.begin()
    one.aimed(data(shared=True))
    one.live.finish(one.uuid)
    assert one.old.samefile(one.new)
    assert ["pending"] == one.outcomes


def test_a_hard_reboot_ends_what_the_end_of_a_machine_has_left(one: One) -> None:
    """The guest comes over with it: its volume is the one name then, and its format is told."""
    formats = one.old.with_name("disk.info")
    formats.write_text(json.dumps({str(one.old): "qcow2"}))
    one.begin()
    one.domain.destroy()
    options = Options(relocate={None: POOL}, accept=("nova-unaware", "image-cache"))
    done = service.transition(one.connection, one.uuid, options, state_dir=str(one.state))
    assert "done" == done.state
    assert ["pending"] == one.outcomes
    one.live.recover(one.connection)
    assert ["done"] == one.outcomes
    assert (False, True) == (one.old.exists(), one.new.exists())
    assert {str(one.new): "qcow2"} == json.loads(formats.read_text())


def test_an_answer_of_other_volumes_is_none(one: One) -> None:
    """Of another pool, or path: the guest would run from what is not its image."""
    for key, value in ((0, "another"), (2, "/elsewhere")):
        one.begin()
        found = data(shared=True)
        one.live.answer(one.connection, one.uuid, found, str(one.old.parent), ["disk"])
        word = json.loads(found.bdms[-1].connection_info_json)
        word["host"]["pools"][0][key] = value
        ours.tell(found, word)
        one.aimed(found)
        assert not one.new.exists()
    assert ["undone", "undone"] == one.outcomes


def test_where_the_guest_is_decides(one: One, caplog: pytest.LogCaptureFixture) -> None:
    """Here: the second name goes. Not here: the destination's doing; else both stay, and told."""
    one.begin()
    one.live.settle(one.connection, one.uuid)
    assert (["undone"], False) == (one.outcomes, one.new.exists())

    one.begin()
    one.domain.suspend()
    one.live.recover(one.connection)
    assert (["undone"] * 2, False) == (one.outcomes, one.new.exists())
    one.domain.resume()

    one.begin()
    xml = one.scene.document(one.domain).text
    one.domain.destroy()
    one.domain.undefine()
    assert "" == caplog.text
    one.live.recover(one.connection)
    assert one.old.samefile(one.new)
    assert ["undone", "undone", "pending"] == one.outcomes
    assert f"{one.old} and {one.new}" in caplog.text
    # of that instance nothing is begun until it has ended
    one.connection.defineXML(xml).create()
    one.domain.destroy()
    one.live.settle(one.connection, one.uuid)
    assert ["undone"] * 3 == one.outcomes

    one.scene.start(one.domain)
    one.begin()
    one.domain.destroy()
    one.domain.undefine()
    one.old.unlink()
    one.live.settle(one.connection, one.uuid)
    assert "done" == one.outcomes[-1]
    assert one.new.exists()


def test_a_migration_that_nova_resets_at_its_start_is_taken_back(
    one: One, nova_case: Any, request: pytest.FixtureRequest
) -> None:
    """It aborts then what libvirt still does, which our own recovery came too early for."""
    one.begin()
    request.addfinalizer(xmlkit.nova.disable)
    xmlkit.nova.enable(pools={None: POOL}, state_dir=str(one.state), live=True)
    nova_case.stub_out("nova.objects.Migration.get_by_instance_and_status", lambda *_: None)
    manager = mock.Mock()
    manager.driver._host.get_connection.return_value = one.connection
    ComputeManager._reset_live_migration(manager, None, mock.Mock(uuid=one.uuid))
    assert ["undone"] == one.outcomes
    assert not one.new.exists()


def test_what_stands_in_the_way_at_the_source_is_told(
    one: One, caplog: pytest.LogCaptureFixture
) -> None:
    """The guest migrates as it is."""
    one.new.write_bytes(b"another's")
    assert set() == one.begin()
    assert b"another's" == one.new.read_bytes()
    assert 1 == one.old.stat().st_nlink
    assert "pending" not in one.outcomes
    assert one.uuid in caplog.text


def test_a_copy_goes_into_a_new_volume_of_this_host_alone(
    one: One, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is there is never written to; where anything is in the way Nova makes files."""
    assert str(one.new) == one.places()
    one.new.write_bytes(b"left")
    one.domain.destroy()
    one.domain.undefine()
    # what was made for a migration of which nobody has heard the end
    assert str(one.new) == one.places()
    assert not one.new.exists()
    one.live.recover(one.connection)

    def refused(why: str) -> None:
        caplog.clear()
        assert str(one.old) == one.places()
        assert why in caplog.text
        assert [] == list((one.state / "live").glob("arriving-*"))

    one.new.write_bytes(b"left")
    refused("is there already")
    assert b"left" == one.new.read_bytes()
    one.new.unlink()
    pool = one.connection.storagePoolLookupByName(POOL)
    pool.destroy()
    refused("is not active")
    pool.create()
    with monkeypatch.context() as patch:
        patch.setattr(store, "may_be_shared", lambda _: True)
        refused("other hosts may have")
    with monkeypatch.context() as patch:
        known = dataclasses.replace(Libvirt().known(one.connection), security_models=("apparmor",))
        patch.setattr(Libvirt, "known", lambda *_: known)
        refused("AppArmor")
    assert str(one.old) == one.places(wanted=("disk.swap",))


def test_what_was_made_is_the_guests_own_when_it_has_come(one: One) -> None:
    """A host that has the guest deletes nothing of it."""
    assert str(one.new) == one.places()
    one.new.write_bytes(b"the guest's")
    one.live.recover(one.connection)
    assert one.new.exists()
    assert [] == list((one.state / "live").glob("arriving-*"))
    one.live.clear(one.connection, one.uuid)
    assert one.new.exists()
