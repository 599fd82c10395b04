"""An instance of Nova's and two hosts, and what a guest's disk tells of where it has been."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from driver import MIB, Host, Settings
from guests import IMAGE, UUID
from novahost import guest as boots
from pair import Pair
from scene import POOL, counter, run, until

from xmlkit.nova.store import IMAGES_TYPE

NAMES = ("disk", "disk.local", "disk.swap")
VOLUMES = [f"{UUID}_{name}" for name in NAMES]


def glance(directory: Path) -> Path:
    """Glance, with the image."""
    directory.mkdir()
    with (directory / IMAGE).open("wb") as image:
        image.write(boots())
        image.truncate(2 * MIB)
    return directory


def mark(domain: Any, image: Path, format: str) -> None:
    """Leave something on the disk that the guest does not touch; it boots again afterwards."""
    domain.destroy()
    run("qemu-io", "-f", format, "-c", "write -P 90 1M 64k", image)
    domain.create()


def is_marked(image: Path, format: str) -> bool:
    """Whether it is there still."""
    said = run("qemu-io", "-r", "-U", "-f", format, "-c", "read -P 90 1M 64k", image)
    return "read 65536/65536" in said and "verification failed" not in said


def goes_on(image: Path, format: str) -> None:
    """The guest writes to this image, which has what was on it."""
    before = counter(image, format)
    until(lambda: counter(image, format) != before)
    assert is_marked(image, format)


class Two:
    """An instance and two hosts, with one storage or each with its own at the same path."""

    def __init__(
        self,
        pair: Pair,
        place: Path,
        begun: str,
        images_type: str,
        *,
        live: bool = False,
        memory: int = 64,
    ) -> None:
        self.pair = pair
        self.live = live
        self.memory = memory
        self.shared = pair.storages[0] == pair.storages[1]
        self.glance = glance(place / "glance")
        self.state = place
        self.legacy = begun != IMAGES_TYPE
        self.hosts: list[Any] = []
        if self.legacy:
            with contextlib.closing(self.begin(0, begun, enabled=False)) as before:
                before.spawn()
        for side in (0, 1):
            self.hosts.append(self.begin(side, images_type))
        self.here, self.there = self.hosts
        if not self.legacy:
            self.here.spawn()
        where = f"{UUID}/disk" if self.legacy else f"disks/{VOLUMES[0]}"
        mark(self.domain(0), pair.instances / where, "qcow2")

    def begin(self, side: int, images_type: str, *, enabled: bool = True) -> Any:
        libvirtds = (self.pair.here, self.pair.there)
        return Host(
            libvirtds[side],
            Settings(
                name=("here", "there")[side],
                uri=libvirtds[side].uri,
                instances=self.pair.instances,
                glance=self.glance,
                images_type=images_type,
                state=self.state / f"state-{side}",
                enabled=enabled,
                live=self.live,
                memory=self.memory,
                address=f"127.0.0.{2 + side}",
                peer=libvirtds[1 - side].uri,
                root=self.pair.root,
                elsewhere=self.pair.storages[1 - side],
            ),
        )

    def domain(self, side: int) -> Any:
        return (self.pair.source, self.pair.destination)[side].lookupByUUIDString(UUID)

    def on_volumes(self, side: int) -> None:
        """The guest runs on this host on its volumes, which both list that see them."""
        assert [("volume", POOL, name) for name in VOLUMES] == self.pair.addresses(
            self.domain(side)
        )
        self.only(VOLUMES, side)
        goes_on(self.pair.seen(self.pair.instances / "disks" / VOLUMES[0], side), "qcow2")

    def only(self, names: list[str], side: int) -> None:
        """libvirt lists these volumes, and they are what lies in the directory."""
        connection = (self.pair.source, self.pair.destination)[side]
        listed = connection.storagePoolLookupByName(POOL).listVolumes()
        assert sorted(names) == sorted(listed)
        assert sorted(names) == sorted(
            os.listdir(self.pair.seen(self.pair.instances / "disks", side))
        )

    def left(self, side: int) -> list[str]:
        """What this host still has of the instance's own directories."""
        found = os.listdir(self.pair.seen(self.pair.instances, side))
        return sorted(each for each in found if each.startswith(UUID))

    def ends_there(self) -> None:
        """It lives on on its volumes, the other host has nothing of it, and it is deleted whole."""
        self.there.hard_reboot()
        self.on_volumes(1)
        if not self.shared:
            self.only([], 0)
            assert [] == self.left(0)
        self.there.destroy()
        self.only([], 1)
        assert [] == self.left(1)

    def close(self) -> None:
        for host in self.hosts:
            host.stop()
