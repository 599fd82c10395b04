"""Nova's real driver on real hosts: what an instance goes through, begun legacy and begun new.

Rules
- Each nova-compute is a process (driver.py) with the seams in; legacy instances were spawned by one
  without. After each operation: which XML is defined, the guest boots from its disk, the volumes
  are the instance's and no others, and its content is what it wrote.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from driver import MIB, Host, Settings
from guests import IMAGE, UUID
from novahost import guest as boots
from novahost import head, info
from scene import POOL, Scene, counter, until

from xmlkit.cache import name_of_image
from xmlkit.nova.store import IMAGES_TYPE
from xmlkit.testing import Libvirtd

NAMES = ("disk", "disk.local", "disk.swap")
VOLUMES = [f"{UUID}_{name}" for name in NAMES]
OTHERS = f"{UUID[:-1]}f_disk"  # the volume of another instance
UNKNOWN = "00000000-0000-4000-8000-000000000000"
GIB = 1 << 30


def glance(directory: Path) -> Path:
    """Glance, with the image."""
    directory.mkdir()
    with (directory / IMAGE).open("wb") as image:
        image.write(boots())
        image.truncate(2 * MIB)
    return directory


class Life:
    """An instance on a host of its own."""

    def __init__(self, libvirtd: Libvirtd, begun: str, images_type: str) -> None:
        self.scene = Scene(libvirtd)
        self.libvirtd = libvirtd
        self.format = "raw" if "raw" in (begun, images_type) else "qcow2"
        self.legacy = begun != IMAGES_TYPE
        self.glance = glance(libvirtd.directory / "glance")
        self.pool = self.scene.connection.storagePoolLookupByName(POOL)
        (self.disks / OTHERS).write_bytes(bytes(512))
        self.pool.refresh()
        if self.legacy:
            with contextlib.closing(self.begin(begun, enabled=False)) as before:
                before.spawn()
            assert self.paths == self.addresses()
            self.runs(self.directory / "disk")
        self.nova = self.begin(images_type)
        if not self.legacy:
            self.nova.spawn()

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
            ),
        )

    @property
    def directory(self) -> Path:
        return self.scene.instances / UUID

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

    def runs(self, image: Path, at_least: int = 0) -> int:
        """The guest writes to this image, and goes on where it was."""
        before = counter(image, self.format)
        assert at_least <= before
        until(lambda: counter(image, self.format) > before)
        return before

    def on_volumes(self, at_least: int = 0) -> int:
        """The guest is on its volumes, which are all that there is of it, and runs."""
        assert [("volume", POOL, name) for name in VOLUMES] == self.addresses()
        self.only([OTHERS, *VOLUMES])
        assert not set(NAMES) & set(os.listdir(self.directory))
        said = json.loads((self.directory / "disk.info").read_text())
        assert {str(self.disks / name) for name in VOLUMES} <= said.keys()
        assert self.format == said[str(self.root)]
        return self.runs(self.root, at_least)

    def only(self, names: list[str]) -> None:
        """libvirt lists these volumes, and they are what lies in the directory."""
        assert sorted(names) == sorted(self.pool.listVolumes())
        assert sorted(names) == sorted(os.listdir(self.disks))

    def close(self) -> None:
        self.nova.stop()
        self.scene.connection.close()


BEGINNINGS = {
    "new": (IMAGES_TYPE, IMAGES_TYPE),
    "qcow2": ("qcow2", "qcow2"),
    "raw": ("raw", "raw"),
    "qcow2-to-new": ("qcow2", IMAGES_TYPE),
}


@pytest.fixture(params=BEGINNINGS.values(), ids=BEGINNINGS)
def life(libvirtd: Libvirtd, request: pytest.FixtureRequest) -> Iterator[Life]:
    """An instance that runs, with xmlkit in its nova-compute."""
    made = Life(libvirtd, *request.param)
    try:
        yield made
    finally:
        made.close()


def test_an_instances_life(life: Life, tmp_path: Path) -> None:
    """Rebooted, snapshot, rescued, looked after and removed."""
    nova = life.nova
    if life.legacy:
        # until something starts it anew it is where it was
        assert life.paths == life.addresses()
        life.only([OTHERS])
        nova.snapshot("before")
        assert boots() == head(life.glance / "before", life.format, tmp_path / "raw")
        assert life.paths == life.addresses()
        nova.hard_reboot()
    written = life.on_volumes()
    nova.hard_reboot()
    written = life.on_volumes(written)

    nova.snapshot("live")
    written = life.on_volumes(written)
    nova.power_off()
    nova.snapshot("cold")
    for image in ("live", "cold"):
        shot = life.glance / image
        assert "backing-filename" not in info(shot, life.format)
        assert boots() == head(shot, life.format, tmp_path / "raw")
        assert 0 < counter(shot, life.format)
    assert counter(life.root, life.format) == counter(life.glance / "cold", life.format)
    nova.power_on()
    written = life.on_volumes(written)

    nova.rescue()
    rescue = [each for each in life.addresses() if each[-1].endswith("disk.rescue")]
    assert 1 == len(rescue)
    assert ("volume", POOL, VOLUMES[0]) in life.addresses()
    nova.unrescue()
    written = life.on_volumes(written)

    cached = life.scene.instances / "_base" / name_of_image(IMAGE)
    for image in (IMAGE, UNKNOWN):
        os.utime(cached, (0, 0))
        nova.cache_pass(image)
        # a raw disk needs its image no longer: the database alone protects it
        assert (image == IMAGE or life.format == "qcow2") == cached.exists()
        if not cached.exists():
            break
        assert 0 < cached.stat().st_mtime
    life.on_volumes(written)

    nova.destroy()
    life.only([OTHERS])
    assert not life.directory.exists()
    assert [] == life.scene.connection.listAllDomains()
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
    written = counter(kept / ("disk" if life.legacy else VOLUMES[0]), life.format)
    nova.arrive(left, "here")
    life.on_volumes(written)
    assert 2 * GIB == info(life.root, life.format)["virtual-size"]

    nova.give_back(shared=True)
    nova.go_back("here")
    assert not kept.exists()
    assert GIB == info(life.root, life.format)["virtual-size"]
    written = life.on_volumes(written)

    nova.arrive(nova.leave("127.0.0.1"), "here")
    nova.confirm("here")
    assert not kept.exists()
    assert 2 * GIB == info(life.root, life.format)["virtual-size"]
    life.on_volumes(written)
    nova.destroy()
    life.only([OTHERS])
    assert [] == [each for each in os.listdir(life.scene.instances) if each.startswith(UUID)]
