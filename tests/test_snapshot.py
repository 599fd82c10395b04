"""Snapshots of disks, on a real libvirtd with guests that really write.

Rules
- A guest's disk is written to all the time: block 8 + N has N, so what a copy lacks or mixes shows.
- After each test nothing of xmlkit's is left beside the image, and the domain is as before.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from scene import POOL, Scene, disk_xml, run, until

from xmlkit import journal, snapshot, state
from xmlkit.disks import Address
from xmlkit.snapshot import SnapshotError
from xmlkit.testing import Libvirtd, boot_sector


@pytest.fixture
def scene(libvirtd: Libvirtd) -> Scene:
    """Guests that write N to block 8 + N, twice a second."""
    return Scene(libvirtd, sector=boot_sector(step=1, ticks=1))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A state directory."""
    return state.directory(str(tmp_path / "state"))


def shoot(
    scene: Scene, directory: Path, domain: str, target: Address, disk: str = "vda", **options: Any
) -> snapshot.Taken:
    """Prepare and take a snapshot."""
    shot = snapshot.prepare(scene.connection, domain, disk, target, **options)
    return snapshot.take(scene.connection, shot, directory, uri=scene.libvirtd.uri)


def file_in(scene: Scene, name: str = "snapshot") -> Address:
    """A place for a file that QEMU's user may enter."""
    place = scene.libvirtd.directory / "snapshots"
    place.mkdir(exist_ok=True)
    return Address("file", str(place / name))


def left(scene: Scene) -> list[str]:
    """What is beside the snapshot."""
    return sorted(path.name for path in (scene.libvirtd.directory / "snapshots").iterdir())


def blocks(image: str, format: str = "qcow2") -> list[int]:
    """The numbers that the guest wrote, by their blocks; 0 where it has not yet."""
    raw = Path(f"{image}.raw")
    run("qemu-img", "convert", "-f", format, "-O", "raw", image, raw)
    content = raw.read_bytes()
    raw.unlink()
    found = [struct.unpack_from("<4sI", content, at) for at in range(9 * 512, len(content), 512)]
    return [number if mark == b"TICK" else 0 for mark, number in found]


def is_prefix(numbers: list[int]) -> int:
    """How many the guest wrote; fails if one lacks, or is where it cannot be."""
    count = max(numbers)
    assert [*range(1, count + 1), *[0] * (len(numbers) - count)] == numbers
    return count


def test_a_domain_that_is_off_is_copied_flat(scene: Scene, directory: Path) -> None:
    """The image has the same content, without the backing file, and is its owner's alone."""
    domain = scene.nova_guest("off")
    scene.boots(domain)
    target = file_in(scene)

    taken = shoot(scene, directory, "off", target)

    assert ("done", "off") == (taken.outcome.state, taken.consistency)
    assert ["snapshot"] == left(scene)
    disk = scene.addresses(domain)[0][1]
    run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", disk, target.path)
    assert "backing" not in run("qemu-img", "info", "-f", "qcow2", target.path)
    assert 0o600 == Path(str(target.path)).stat().st_mode & 0o777


def test_a_running_domain_is_copied_as_it_is_at_one_moment(scene: Scene, directory: Path) -> None:
    """What the guest wrote before is there, each once, and nothing that came later."""
    domain = scene.nova_guest("live")
    scene.start(domain)
    before = domain.XMLDesc(0), domain.XMLDesc(2)
    target = file_in(scene)

    taken = shoot(scene, directory, "live", target, live=True)

    assert ("done", "crash") == (taken.outcome.state, taken.consistency), taken
    assert ["snapshot"] == left(scene)
    assert before == (domain.XMLDesc(0), domain.XMLDesc(2))
    log = scene.log("live")
    so_far = log.read_bytes().count(b"W")
    until(lambda: log.read_bytes().count(b"W") > so_far + 3)
    scene.stop(domain)
    assert 0 < is_prefix(blocks(str(target.path)))
