"""Nova's real driver on real hosts: what an instance goes through, begun legacy and begun new.

Rules
- Each nova-compute is a process (driver.py) with the seams in; legacy instances were spawned by one
  without. After each operation: which XML is defined, the guest boots from its disk, the volumes
  are the instance's and no others, and what was on its disk is there still.
- What takes more than a driver is not driven here: what nova-api, the scheduler and the compute
  manager decide (driver.py has what the manager does between two calls), ports of Neutron, volumes
  of Cinder, shelving, rebuilding and evacuation, which to the driver are `destroy` and `spawn`. Of
  attached volumes the XML is tested in test_guests.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from driver import Host, Settings
from guests import IMAGE, UUID
from novahost import guest as boots
from novahost import head, info
from novapair import NAMES, VOLUMES, Two, glance, goes_on, is_marked, mark
from pair import make_pair
from scene import POOL, Scene, counter, until

from xmlkit.cache import name_of_image
from xmlkit.nova.store import IMAGES_TYPE
from xmlkit.testing import Libvirtd

OTHERS = f"{UUID[:-1]}f_disk"  # the volume of another instance
UNKNOWN = "00000000-0000-4000-8000-000000000000"
SHELVED = "00000000-0000-4000-8000-000000000001"
GIB = 1 << 30


class Life:
    """An instance on a host of its own."""

    def __init__(self, libvirtd: Libvirtd, begun: str, images_type: str, user: int = 0) -> None:
        self.scene = Scene(libvirtd)
        self.libvirtd = libvirtd
        self.user = user
        self.format = "raw" if "raw" in (begun, images_type) else "qcow2"
        self.legacy = begun != IMAGES_TYPE
        self.legacy_type = images_type != IMAGES_TYPE
        self.glance = glance(libvirtd.directory / "glance")
        if user:
            self._belongs_to(user)
        self.pool = self.scene.connection.storagePoolLookupByName(POOL)
        (self.disks / OTHERS).write_bytes(bytes(512))
        self.pool.refresh()
        if self.legacy:
            with contextlib.closing(self.begin(begun, enabled=False)) as before:
                before.spawn()
            assert self.paths == self.addresses()
            mark(self.domain, self.directory / "disk", self.format)
            goes_on(self.directory / "disk", self.format)
        self.nova = self.begin(images_type)
        if not self.legacy:
            self.nova.spawn()
            mark(self.domain, self.root, self.format)

    def _belongs_to(self, user: int) -> None:
        """As an operator has it: Nova's directory and xmlkit's are its user's; libvirt's socket,
        which the group libvirt has, is for all here."""
        state = self.libvirtd.directory / "state"
        state.mkdir(mode=0o700)
        base = self.scene.base
        locks = self.libvirtd.directory / "run/xmlkit"
        locks.mkdir()
        locks.chmod(0o2770)
        os.chown(locks, 0, user)
        for path in (self.scene.instances, base.parent, base, self.disks, self.glance, state):
            os.chown(path, user, user)
        (self.libvirtd.directory / "run/libvirt/libvirt-sock").chmod(0o777)

    def begin(self, images_type: str, *, enabled: bool = True) -> Any:
        """A nova-compute."""
        return Host(
            self.libvirtd,
            Settings(
                name="here",
                uri=self.libvirtd.uri,
                instances=self.scene.instances,
                glance=self.glance,
                images_type=images_type,
                state=self.libvirtd.directory / "state",
                enabled=enabled,
                user=self.user,
            ),
        )

    @property
    def directory(self) -> Path:
        return Path(self.scene.instances) / f"{UUID}"

    @property
    def disks(self) -> Path:
        return self.scene.instances / "disks"

    @property
    def root(self) -> Path:
        return self.disks / VOLUMES[0]

    @property
    def paths(self) -> list[tuple[str, ...]]:
        return [("file", str(self.directory / name)) for name in NAMES]

    @property
    def domain(self) -> Any:
        return self.scene.connection.lookupByUUIDString(UUID)

    def addresses(self) -> list[tuple[str, ...]]:
        return self.scene.addresses(self.domain)

    def on_volumes(self) -> None:
        """The guest is on its volumes, which are all that there is of it, and runs."""
        assert [("volume", POOL, name) for name in VOLUMES] == self.addresses()
        self.only([OTHERS, *VOLUMES])
        assert not set(NAMES) & set(os.listdir(self.directory))
        said = json.loads((self.directory / "disk.info").read_text())
        assert {str(self.disks / name) for name in VOLUMES} <= said.keys()
        assert self.format == said[str(self.root)]
        goes_on(self.root, self.format)

    def only(self, names: list[str]) -> None:
        """libvirt lists these volumes, and they are what lies in the directory."""
        assert sorted(names) == sorted(self.pool.listVolumes())
        assert sorted(names) == sorted(os.listdir(self.disks))

    def close(self) -> None:
        self.nova.stop()
        self.scene.connection.close()


NOBODY = pwd.getpwnam("backup").pw_uid  # libvirt looks for its name: an account that is there
BEGINNINGS: dict[str, tuple[Any, ...]] = {
    "new": (IMAGES_TYPE, IMAGES_TYPE),
    "qcow2": ("qcow2", "qcow2"),
    "raw-to-new": ("raw", IMAGES_TYPE),
    "unprivileged": ("qcow2", IMAGES_TYPE, NOBODY),
}


@pytest.fixture(params=list(BEGINNINGS.values()), ids=list(BEGINNINGS))
def life(libvirtd: Libvirtd, request: pytest.FixtureRequest) -> Iterator[Life]:
    """An instance that runs, with xmlkit in its nova-compute."""
    made = Life(libvirtd, *request.param)
    try:
        yield made
    finally:
        made.close()


def test_an_instances_life(life: Life, tmp_path: Path) -> None:
    """Rebooted, snapshot, rescued, looked after, removed, and made of its snapshot again."""
    nova = life.nova
    if life.legacy:
        # until something starts it anew it is where it was
        assert life.paths == life.addresses()
        life.only([OTHERS])
        nova.snapshot("before")
        assert boots() == head(life.glance / "before", life.format, tmp_path / "raw")
        assert life.paths == life.addresses()
        nova.hard_reboot()
    life.on_volumes()
    nova.hard_reboot()
    life.on_volumes()

    nova.snapshot("live")
    life.on_volumes()
    nova.power_off()
    nova.snapshot(SHELVED)
    for image in ("live", SHELVED):
        shot = life.glance / image
        assert "backing-filename" not in info(shot, life.format)
        assert boots() == head(shot, life.format, tmp_path / "raw")
        assert 0 < counter(shot, life.format)
        assert is_marked(shot, life.format)
    assert counter(life.root, life.format) == counter(life.glance / SHELVED, life.format)
    nova.power_on()
    life.on_volumes()

    nova.rescue()
    # a guest in rescue is left on paths: what Nova defines again is in unrescue.xml
    place = life.directory if life.legacy_type else life.disks
    rescue = place / ("disk.rescue" if life.legacy_type else f"{VOLUMES[0]}.rescue")
    assert [("file", str(rescue)), ("file", str(life.root))] == life.addresses()
    made = life.format if life.legacy_type else "qcow2"
    until(lambda: 0 < counter(rescue, made))
    nova.unrescue()
    assert not rescue.exists()
    life.on_volumes()

    cached = life.scene.instances / "_base" / name_of_image(IMAGE)
    for image in (IMAGE, UNKNOWN):
        os.utime(cached, (0, 0))
        nova.cache_pass(image)
        # a raw disk needs its image no longer: the database alone protects it
        assert (image == IMAGE or life.format == "qcow2") == cached.exists()
        if not cached.exists():
            break
        # while guests run it is QEMU's: Nova touches it as root, by privsep, which is not here
        assert life.user or 0 < cached.stat().st_mtime
    life.on_volumes()

    nova.rescue()
    nova.destroy()
    life.only([OTHERS])
    assert not life.directory.exists()
    assert [] == life.scene.connection.listAllDomains()

    nova.unshelve(SHELVED)
    root = life.directory / "disk" if life.legacy_type else life.root
    goes_on(root, made)
    # it has to need the snapshot no more, which goes
    below = info(root, made).get("full-backing-filename")
    assert below == (str(cached) if life.legacy_type else None)
    nova.destroy()
    life.only([OTHERS])
    assert not life.directory.exists()
    if cached.exists():
        os.utime(cached, (0, 0))
        nova.cache_pass(None)
        assert not cached.exists()


def test_a_resize_is_taken_back_and_done_again(life: Life) -> None:
    """It comes over where it arrives, goes back as it was, and stays when it is confirmed."""
    nova = life.nova
    kept = life.directory.with_name(f"{UUID}_resize")

    left = nova.leave("127.0.0.1")
    assert kept.is_dir()
    assert is_marked(kept / ("disk" if life.legacy else VOLUMES[0]), life.format)
    nova.arrive(left, "here")
    life.on_volumes()
    assert 2 * GIB == info(life.root, life.format)["virtual-size"]

    nova.give_back(shared=True)
    nova.go_back("here")
    assert not kept.exists()
    assert GIB == info(life.root, life.format)["virtual-size"]
    life.on_volumes()

    nova.arrive(nova.leave("127.0.0.1"), "here")
    nova.confirm("here")
    assert not kept.exists()
    assert 2 * GIB == info(life.root, life.format)["virtual-size"]
    life.on_volumes()
    nova.destroy()
    life.only([OTHERS])
    assert [] == [each for each in os.listdir(life.scene.instances) if each.startswith(UUID)]


@pytest.fixture(params=[False, True], ids=["shared", "separate"])
def storage(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[IMAGES_TYPE, "qcow2"], ids=["new", "legacy"])
def two(
    place: Path,
    storage: bool,
    start_libvirtd: Callable[..., Libvirtd],
    request: pytest.FixtureRequest,
) -> Iterator[Two]:
    """An instance that runs here, with xmlkit in both nova-computes."""
    pair = make_pair(start_libvirtd, place, separate=storage)
    made = Two(pair, place, request.param, IMAGES_TYPE)
    try:
        yield made
    finally:
        made.close()


def test_a_cold_migration_is_taken_back_and_done_again(two: Two) -> None:
    """It comes over where it arrives; what it leaves goes when it is confirmed."""
    two.there.arrive(two.here.leave("127.0.0.3", grows=False), "here", grows=False)
    two.on_volumes(1)
    assert not two.domain(0).isActive()

    two.there.give_back(shared=two.shared)
    two.here.go_back("there")
    assert [] == two.pair.destination.listAllDomains()
    two.on_volumes(0)
    assert [UUID] == two.left(0)
    if not two.shared:
        two.only([], 1)
        assert [] == two.left(1)

    two.there.arrive(two.here.leave("127.0.0.3"), "here")
    two.here.confirm("there")
    two.on_volumes(1)
    root = two.pair.seen(two.pair.instances / "disks" / VOLUMES[0], 1)
    assert 2 * GIB == info(root, "qcow2")["virtual-size"]
    assert [] == two.pair.source.listAllDomains()
    if not two.shared:
        two.only([], 0)
        assert [] == two.left(0)

    two.there.destroy()
    two.only([], 1)
    assert [] == two.left(1)


@pytest.mark.xdist_group("live")  # two libvirts may find the same port free
def test_a_live_migration(two: Two) -> None:
    """One that fails leaves nothing there; by one that does not, volumes arrive as volumes.

    A disk that is legacy stays so until something starts the guest anew.
    """
    where = two.pair.instances / (f"{UUID}/disk" if two.legacy else f"disks/{VOLUMES[0]}")
    before = two.pair.addresses(two.domain(0))
    data, told = two.here.may_go(two.there.may_come())
    data = two.there.prepare(data, told)
    two.here.go_nowhere(data)
    two.there.roll_back(data)
    assert [] == two.pair.destination.listAllDomains()
    if not two.shared:
        two.only([], 1)
        assert [] == two.left(1)
    goes_on(two.pair.seen(where, 0), "qcow2")

    data, told = two.here.may_go(two.there.may_come())
    data = two.there.prepare(data, told)
    two.here.go(data)
    two.there.came()
    assert [] == two.pair.source.listAllDomains()
    assert before == two.pair.addresses(two.domain(1))
    goes_on(two.pair.seen(where, 1), "qcow2")
    two.ends_there()
