"""Snapshots of disks, on a real libvirtd with guests that really write.

Rules
- A guest's disk is written to all the time: block 8 + N has N, so what a copy lacks or mixes shows.
- After each test nothing of xmlkit's is left beside the image, and the domain is as before.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import libvirt
import pytest
from chroots import Release
from loops import loop_device, mounted
from machines import CMDLINE, Files
from scene import DISK, POOL, Scene, cuttable, disk_xml, run, until

from xmlkit import images, journal, service, snapshot, state
from xmlkit.disks import Address
from xmlkit.document import Document
from xmlkit.images import ImageError
from xmlkit.journal import Outcome
from xmlkit.snapshot import SnapshotError
from xmlkit.steps import Freeze
from xmlkit.testing import Libvirtd, boot_sector
from xmlkit.volumes import VolumeError

SIZE = 16 << 20
UUID = "7d3f0f6e-8d3b-4a63-8a5e-3c1f1f6f2b11"
STORE = """
      <backingStore type='file'>
        <format type='{format}'/>
        <source file='{path}'/>
        <backingStore/>
      </backingStore>"""
VOLUME_DISK = """\
    <disk type='volume' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source pool='{pool}' volume='{volume}'/>
      <target dev='vda' bus='virtio'/>
    </disk>"""


class Killed(BaseException):
    """xmlkit ends, and does nothing more."""


def killed(*_: object) -> None:
    raise Killed


def counting(libvirtd: Libvirtd) -> Scene:
    """Guests that write N to block 8 + N, 18 times a second, for half an hour."""
    scene = Scene(libvirtd, sector=boot_sector(step=1, ticks=1))
    os.truncate(scene.base, SIZE)
    return scene


@pytest.fixture
def scene(libvirtd: Libvirtd) -> Scene:
    """A host with such guests."""
    return counting(libvirtd)


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


def volume_guest(scene: Scene, name: str) -> Any:
    """A domain whose disk is a volume over the base image."""
    scene.overlay(scene.instances / "disks" / f"{name}_disk")
    scene.connection.storagePoolLookupByName(POOL).refresh()
    return scene.define(name, [VOLUME_DISK.format(pool=POOL, volume=f"{name}_disk")])


def path_of(scene: Scene, volume: str) -> str:
    """Where libvirt has a volume of the pool."""
    pool = scene.connection.storagePoolLookupByName(POOL)
    return str(pool.storageVolLookupByName(volume).path())


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


def test_on_each_version(
    release: Release, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off and live, of a volume disk, by a backup or, on libvirt 7.0, by a block copy."""
    mirrored = []
    mirror = snapshot._Maker._mirror

    def noted(*given: Any) -> None:
        mirrored.append(1)
        mirror(*given)

    monkeypatch.setattr(snapshot._Maker, "_mirror", noted)
    scene = counting(release())
    domain = volume_guest(scene, "guest")
    scene.start(domain)
    before = domain.XMLDesc(0), domain.XMLDesc(2)

    live = shoot(scene, directory, "guest", file_in(scene, "live"), live=True)

    assert ("done", "crash") == (live.outcome.state, live.consistency), live
    assert ([1] if release.suite == "bullseye" else []) == mirrored
    assert before == (domain.XMLDesc(0), domain.XMLDesc(2))
    scene.stop(domain)
    assert 0 < is_prefix(blocks(str(file_in(scene, "live").path)))
    volume = Address("volume", None, POOL, "taken")
    off = shoot(scene, directory, "guest", volume)
    assert ("done", "off") == (off.outcome.state, off.consistency), off
    disk, taken = (path_of(scene, name) for name in ("guest_disk", "taken"))
    run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", disk, taken)
    assert ["live"] == left(scene)
    assert [] == [path.name for path in Path(taken).parent.glob(".xmlkit*")]
    scene.boots(domain)


def large(scene: Scene, name: str, size: int = 48 << 20) -> Any:
    """A domain on a raw disk that boots and holds `size` bytes that cannot be compressed."""
    path = scene.flat(scene.instances / f"{name}.raw", size + (16 << 20))
    with path.open("r+b") as image:
        image.seek(16 << 20)
        image.write(os.urandom(size))
    return scene.define(name, [disk_xml(path, format="raw")])


@pytest.mark.parametrize(
    ("image_format", "compress"),
    [
        *(("qcow2", None), ("raw", None), ("vmdk", None), ("vdi", None)),
        *(("qcow2", "zlib"), ("qcow2", "zstd")),
    ],
)
def test_formats(scene: Scene, directory: Path, image_format: Any, compress: Any) -> None:
    """Each has the disk's content; a compressed one is smaller."""
    domain = scene.nova_guest("off")
    disk = scene.addresses(domain)[0][1]
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 128k 640k", disk)
    target = file_in(scene, "a,b:c")

    taken = shoot(scene, directory, "off", target, image_format=image_format, compress=compress)

    assert "done" == taken.outcome.state, taken
    assert ["a,b:c"] == left(scene)
    # its name would be taken for a protocol
    image = {"driver": image_format, "file": {"driver": "file", "filename": target.path}}
    assert "identical" in run("qemu-img", "compare", disk, f"json:{json.dumps(image)}")
    assert 640 << 10 > taken.size or compress is None
    assert taken.size == Path(str(target.path)).stat().st_blocks * 512


def test_into_a_pool(scene: Scene, directory: Path) -> None:
    """The volume is known to libvirt, and nothing else is in the pool."""
    scene.nova_guest("off")

    taken = shoot(scene, directory, "off", Address("volume", None, POOL, "taken"), compress="zstd")

    assert "done" == taken.outcome.state, taken
    pool = scene.connection.storagePoolLookupByName(POOL)
    assert ["taken"] == [volume.name() for volume in pool.listAllVolumes()]
    assert SIZE == pool.storageVolLookupByName("taken").info()[1]


def write_header(path: Path) -> None:
    """What a guest may do: a qcow2 header on its raw disk, backed by a file of the host."""
    fake = path.with_name("fake.qcow2")
    run(
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-u",
        "-b",
        "/etc/shadow",
        "-F",
        "raw",
        fake,
        "1M",
    )
    with path.open("r+b") as image:
        image.write(fake.read_bytes())
    fake.unlink()


def test_a_raw_disk_with_a_header_is_raw(scene: Scene, directory: Path) -> None:
    """What a guest wrote at its beginning is its data, and no file that it names is opened."""
    domain = scene.nova_guest("raw", raw=True)
    disk = Path(scene.addresses(domain)[0][1])
    write_header(disk)
    target = file_in(scene)

    taken = shoot(scene, directory, "raw", target, image_format="raw")

    assert "done" == taken.outcome.state, taken
    assert disk.read_bytes() == Path(str(target.path)).read_bytes()


def test_a_raw_volume_that_libvirt_would_misread_is_not_left(scene: Scene, directory: Path) -> None:
    """libvirt probes what is in a pool, and would follow what a guest wrote."""
    domain = scene.nova_guest("raw", raw=True)
    disk = Path(scene.addresses(domain)[0][1])
    write_header(disk)
    volume = Address("volume", None, POOL, "taken")

    taken = shoot(scene, directory, "raw", volume, image_format="raw")

    assert ("undone", "format-disagrees") == taken.outcome[:2]
    assert [] == list((scene.instances / "disks").iterdir())
    assert [] == scene.connection.storagePoolLookupByName(POOL).listAllVolumes()
    taken = shoot(scene, directory, "raw", volume)
    assert "done" == taken.outcome.state, taken
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", disk, path_of(scene, "taken"))


def test_nobody_starts_it_meanwhile(scene: Scene, directory: Path) -> None:
    """The image is locked against writers until the copy is complete."""
    domain = scene.nova_guest("off")
    refused = []

    def listen(what: str, part: float) -> None:
        with pytest.raises(libvirt.libvirtError, match="lock") as caught:
            domain.create()
        refused.append(caught.value)

    shot = snapshot.prepare(scene.connection, "off", "vda", file_in(scene))
    taken = snapshot.take(
        scene.connection, shot, directory, uri=scene.libvirtd.uri, listener=listen
    )

    assert "done" == taken.outcome.state, taken
    assert refused
    scene.boots(domain)


def nothing_made(scene: Scene, directory: Path) -> None:
    """Neither a file nor a journal is left."""
    assert [] == left(scene)
    assert [] == list(directory.glob("*.jsonl"))


@pytest.mark.parametrize(
    ("change", "id", "says"),
    [
        ({"disk": "vdb"}, "no-target", "the domain has vda"),
        ({"image_format": "raw", "compress": "zlib"}, "volume-option", "cannot be compressed"),
        ({"target": Address("volume", None, "nope", "x")}, "no-pool", f"it has {POOL}"),
        (
            {"target": Address("volume", None, POOL, "x"), "image_format": "vdi"},
            "volume-format",
            "--to-file",
        ),
        ({"target": Address("volume", None, POOL, "a/b")}, "volume-name", "a '/'"),
        ({"target": Address("file", "/nowhere/x")}, "no-image", "there is no /nowhere"),
        ({"target": Address("file", "/etc/../x")}, "bad-path", "plain absolute path"),
    ],
    ids=lambda value: value if isinstance(value, str) and "-" in value else "",
)
def test_what_cannot_be_is_refused(
    scene: Scene, directory: Path, change: dict[str, Any], id: str, says: str
) -> None:
    """Before anything is begun, with an id and what to do."""
    scene.nova_guest("off")
    asked = {"target": file_in(scene), **change}

    with pytest.raises((SnapshotError, ImageError, VolumeError), match=says) as caught:
        shoot(scene, directory, "off", **asked)

    assert id == getattr(caught.value, "id", None)
    nothing_made(scene, directory)


def test_nothing_is_overwritten(scene: Scene, directory: Path) -> None:
    """Neither a file that is there nor a link that leads nowhere, nor what comes meanwhile."""
    scene.nova_guest("off")
    there, link = file_in(scene, "there"), file_in(scene, "link")
    Path(str(there.path)).write_text("mine")
    Path(str(link.path)).symlink_to("/nowhere")
    for target in (there, link):
        with pytest.raises(SnapshotError, match="nothing is overwritten") as caught:
            shoot(scene, directory, "off", target)
        assert "target-exists" == caught.value.id
    late = file_in(scene, "late")
    shot = snapshot.prepare(scene.connection, "off", "vda", late)
    Path(str(late.path)).write_text("mine")

    taken = snapshot.take(scene.connection, shot, directory, uri=scene.libvirtd.uri)

    assert ("undone", "target-exists") == taken.outcome[:2]
    assert "mine" == Path(str(late.path)).read_text() == Path(str(there.path)).read_text()
    assert ["late", "link", "there"] == left(scene)


def test_a_running_domain_needs_live(scene: Scene, directory: Path) -> None:
    """Its reason is said, and the guest runs on."""
    domain = scene.nova_guest("live")
    scene.start(domain)
    target = file_in(scene)

    with pytest.raises(SnapshotError, match="--live") as caught:
        shoot(scene, directory, "live", target)

    assert "snapshot-running" == caught.value.id
    nothing_made(scene, directory)
    assert domain.isActive()


def test_an_undeclared_format_is_not_guessed(scene: Scene, directory: Path) -> None:
    """A backing file whose format the image does not say, and one that is no file."""
    path = scene.instances / "disk"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", scene.base, "-F", "raw", path)
    header = path.read_bytes()
    declared = bytes.fromhex("e2792aca")  # the extension with the format
    assert 1 == header.count(declared)
    path.write_bytes(header.replace(declared, b"none"))
    scene.define("undeclared", [disk_xml(path)])
    target = file_in(scene)
    for change, says in (
        ((), "does not say the format"),
        (("-b", "nbd:localhost:1", "-F", "raw"), "is no file"),
        (("-b", "json:{}", "-F", "raw"), "is no file"),
        (("-b", scene.base, "-F", "vmdk"), "xmlkit reads raw and qcow2"),
    ):
        if change:
            run("qemu-img", "rebase", "-f", "qcow2", "-u", *change, path)
        with pytest.raises(ImageError, match=says) as caught:
            shoot(scene, directory, "undeclared", target)
        assert "volume-chain" == caught.value.id
    nothing_made(scene, directory)


def test_a_backing_store_that_says_otherwise_is_refused(scene: Scene, directory: Path) -> None:
    """libvirt goes by the domain's XML: two words for one chain are one too many."""
    path = scene.overlay(scene.instances / "disk")
    target = file_in(scene)
    for store, fits in (
        ("<backingStore/>", False),
        (STORE.format(format="qcow2", path=scene.base), False),
        (STORE.format(format="raw", path="/etc/shadow"), False),
        (STORE.format(format="raw", path=scene.base), True),
    ):
        disk = DISK.format(path=path, target="vda", format="qcow2")
        scene.define("declared", [disk.replace("<target", f"{store}<target")], UUID)
        if fits:
            assert "done" == shoot(scene, directory, "declared", target).outcome.state
            continue
        with pytest.raises(SnapshotError, match="<backingStore>") as caught:
            shoot(scene, directory, "declared", target)
        assert "volume-chain" == caught.value.id
        nothing_made(scene, directory)


def test_an_encrypted_disk_is_refused(scene: Scene, directory: Path) -> None:
    """Whether the domain or only the image says so: the snapshot would be in clear."""
    target = file_in(scene)
    path = scene.instances / "disk"
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    secret = ("--object", "secret,id=s,data=x")
    run("qemu-img", "create", "-q", *secret, "-f", "qcow2", "-o", options, path, "1M")
    said = f"<encryption format='luks'><secret type='passphrase' uuid='{UUID}'/></encryption>"
    plain = disk_xml(path)
    for disk in (plain, plain.replace("'/>\n      <target", f"'>{said}</source>\n      <target")):
        scene.define("encrypted", [disk], UUID)
        with pytest.raises((ImageError, SnapshotError), match="in clear") as caught:
            shoot(scene, directory, "encrypted", target)
        assert "snapshot-source" == getattr(caught.value, "id", None)
    nothing_made(scene, directory)


def test_a_full_disk(scene: Scene, directory: Path) -> None:
    """It is said before, if it can be known, and what was made is removed if it could not."""
    large(scene, "off", 8 << 20)
    with mounted("tmpfs", 4 << 20) as place:
        target = Address("file", str(place / "snapshot"))

        known = shoot(scene, directory, "off", target)
        late = shoot(scene, directory, "off", target, compress="zstd")

        assert ("undone", "no-space") == known.outcome[:2]
        assert ("undone", "snapshot-failed") == late.outcome[:2]
        assert "No space left" in late.outcome.message
        assert [] == list(place.iterdir())


def test_a_journal_that_cannot_be_written_leaves_it_pending(scene: Scene, tmp_path: Path) -> None:
    """It is told as what it is, and recover removes what was made; no password is kept."""
    scene.nova_guest("off")
    shot = snapshot.prepare(scene.connection, "off", "vda", file_in(scene))
    with mounted("tmpfs", 1 << 20) as place:
        made = place / "state"
        made.mkdir(mode=0o700)

        def fill(*_: Any) -> None:
            if not (place / "filling").exists():
                (journal,) = made.glob("*.jsonl")
                assert "Zugang" not in journal.read_text()
                room = -journal.stat().st_size % 4096
                padding = json.dumps({"resume": "x" * (room - 20)}) + "\n"
                journal.write_text(journal.read_text() + padding)
                with contextlib.suppress(OSError), (place / "filling").open("wb") as file:
                    while True:
                        os.write(file.fileno(), bytes(4096))

        uri = scene.libvirtd.uri.replace("///", "//nova:Zugang@/")
        taken = snapshot.take(scene.connection, shot, made, uri=uri, listener=fill)

        assert ("pending", "journal") == taken.outcome[:2], taken
        (place / "filling").unlink()
        found, errors = service.recover_all(lambda _: scene.connection, made)
        assert ([], ["undone"]) == (
            errors,
            [each.state for _, ends in found for each in ends.values()],
        )
        assert [] == list(Path(file_in(scene).path or "").parent.iterdir())


def test_a_full_disk_and_a_running_guest(
    start_libvirtd: Callable[..., Libvirtd], directory: Path
) -> None:
    """QEMU gives the backup up, the guest goes on."""
    with mounted("tmpfs", 4 << 20) as place:
        scene = counting(start_libvirtd())
        with scene.base.open("r+b") as base:
            base.seek(SIZE)
            base.write(os.urandom(8 << 20))
        domain = scene.nova_guest("live")
        scene.start(domain)

        taken = shoot(scene, directory, "live", Address("file", str(place / "snapshot")), live=True)

        assert ("undone", "snapshot-failed") == taken.outcome[:2], taken
        assert [] == list(place.iterdir())
        runs_on(scene, domain)


IO_ERROR = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR]
BY_USER = [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER]


@pytest.mark.parametrize("ended", ["interrupted", "recovered"])
def test_a_guest_that_an_io_error_has_paused_goes_on(
    start_libvirtd: Callable[..., Libvirtd], directory: Path, ended: str
) -> None:
    """QEMU pauses it where it cannot copy what the guest overwrites; no write is lost by that.

    Which of them meets the end of the room first, the guest or the copy, is chance. So it is the
    guest's own disk that is full here, to the same end, and has room again.
    """
    with mounted("tmpfs", 2 << 20) as place:
        scene = counting(start_libvirtd())
        disk = scene.overlay(place / "disk")
        domain = scene.define("live", [disk_xml(disk)])
        scene.start(domain)

        def meanwhile(*_: object) -> None:
            ballast = place / "ballast"
            until(lambda: filled(ballast) and domain.state() == IO_ERROR)
            ballast.unlink()
            assert domain.state() == IO_ERROR
            raise KeyboardInterrupt if ended == "interrupted" else Killed

        shot = snapshot.prepare(scene.connection, "live", "vda", file_in(scene), live=True)
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(snapshot, "_is_pushing", once(meanwhile, snapshot._is_pushing))
            taken = snapshot.take(scene.connection, shot, directory, uri=scene.libvirtd.uri)
            assert ("undone", "interrupted") == taken.outcome[:2], taken
        if ended == "recovered":
            assert domain.state() == IO_ERROR
            ((_, outcomes),) = recovered(scene, directory)
            assert [Outcome("undone")] == list(outcomes.values())

        assert [] == left(scene)
        runs_on(scene, domain)
        scene.stop(domain)
        is_prefix(blocks(str(disk)))


def test_a_guest_that_somebody_has_paused_stays_paused(scene: Scene, directory: Path) -> None:
    """It was not by the snapshot."""
    domain = scene.nova_guest("live")
    scene.start(domain)

    def meanwhile(*_: object) -> None:
        domain.suspend()
        raise KeyboardInterrupt

    shot = snapshot.prepare(scene.connection, "live", "vda", file_in(scene), live=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "_is_pushing", once(meanwhile, snapshot._is_pushing))
        taken = snapshot.take(scene.connection, shot, directory, uri=scene.libvirtd.uri)

    assert ("undone", "interrupted") == taken.outcome[:2], taken
    assert BY_USER == domain.state()


def test_a_backup_that_ends_before_it_is_ended_is_over(scene: Scene, directory: Path) -> None:
    """Between the question whether it goes on and the call that ends it."""
    domain = scene.nova_guest("live")
    scene.start(domain)

    def meanwhile(*_: object) -> None:
        raise KeyboardInterrupt

    def late(domain: libvirt.virDomain, path: str) -> bool:
        until(lambda: not is_pushing(domain, path))
        return True

    is_pushing = snapshot._is_pushing
    shot = snapshot.prepare(scene.connection, "live", "vda", file_in(scene), live=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "_is_pushing", once(meanwhile, once(late, is_pushing)))
        taken = snapshot.take(scene.connection, shot, directory, uri=scene.libvirtd.uri)

    assert ("undone", "interrupted") == taken.outcome[:2], taken
    assert [] == left(scene)


def filled(path: Path) -> bool:
    """Write to a file until its file system has no room."""
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return True


def once(act: Callable[..., Any], then: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is the first one when it is called first, and the second one after that."""
    calls = iter([act])
    return lambda *given: next(calls, then)(*given)


def test_a_place_that_qemu_may_not_enter(scene: Scene, directory: Path, tmp_path: Path) -> None:
    """The guest's QEMU writes the copy by its own user: libvirt's reason is said."""
    domain = scene.nova_guest("live")
    scene.start(domain)
    place = tmp_path / "closed"
    place.mkdir(mode=0o700)

    taken = shoot(scene, directory, "live", Address("file", str(place / "x")), live=True)

    assert ("undone", "libvirt") == taken.outcome[:2], taken
    assert "Permission denied" in taken.outcome.message
    assert [] == list(place.iterdir())
    runs_on(scene, domain)


@pytest.mark.kill
def test_libvirtd_ends_meanwhile(scene: Scene, directory: Path) -> None:
    """What it was doing cannot be known: pending, and recover ends it when libvirtd is back."""
    domain = large(scene, "live", 128 << 20)
    scene.start(domain)
    target = file_in(scene)
    restarted: list[str] = []

    def listen(what: str, part: float) -> None:
        if not restarted:
            scene.libvirtd.restart(signal.SIGKILL)
            restarted.append(what)

    shot = snapshot.prepare(scene.connection, "live", "vda", target, live=True)
    taken = snapshot.take(
        scene.connection, shot, directory, uri=scene.libvirtd.uri, listener=listen
    )

    assert ["backup"] == restarted
    assert ("pending", "libvirt") == taken.outcome[:2], taken
    scene.reopen()
    ((_, outcomes),) = recovered(scene, directory)
    assert ["undone"] == [each.state for each in outcomes.values()]
    assert [] == left(scene)
    runs_on(scene, scene.connection.lookupByName("live"))


def runs_on(scene: Scene, domain: Any) -> None:
    """The guest writes, and no job is on its disk."""
    log = scene.log(domain.name())
    so_far = log.read_bytes().count(b"W")
    try:
        until(lambda: log.read_bytes().count(b"W") > so_far + 3)
    except AssertionError:
        raise AssertionError((domain.state(), log.read_bytes()[-20:])) from None
    assert b"E" not in log.read_bytes().rpartition(b"\n")[2]
    assert not domain.blockJobInfo("vda", 0)
    assert libvirt.VIR_DOMAIN_JOB_NONE == domain.jobInfo()[0]


def command(scene: Scene, directory: Path, *words: str) -> subprocess.Popen[str]:
    """xmlkit snapshot as a process of its own."""
    connect = ("--connect", scene.libvirtd.uri, "--state-dir", str(directory))
    return subprocess.Popen(
        [sys.executable, "-c", "from xmlkit.cli import main; main()", "snapshot", *connect, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_cancelled(scene: Scene, directory: Path, number: signal.Signals) -> None:
    """qemu-img ends, what was made is removed, and the journal says so."""
    domain = large(scene, "off")
    target = file_in(scene)
    options = ("--to-file", str(target.path), "--compress", "zlib")
    process = command(scene, directory, "off", "vda", *options)
    until(lambda: list(Path(str(target.path)).parent.glob(".xmlkit-*/snapshot")))

    process.send_signal(number)
    out, err = process.communicate(timeout=120)

    assert 3 == process.returncode, (out, err)
    assert "interrupted" in out
    assert [] == left(scene)
    assert [("snapshot", "undone")] == [
        (each.kind, each.state) for each in journal.read_all(str(directory))[0]
    ]
    with images.locked(scene.addresses(domain)[0][1], write=True):
        pass  # nobody has it open


@pytest.mark.kill
def test_killed_while_qemu_img_copies(scene: Scene, directory: Path) -> None:
    """qemu-img ends with xmlkit, recover removes what there is."""
    domain = large(scene, "off")
    target = file_in(scene)
    options = ("--to-file", str(target.path), "--compress", "zlib")
    process = command(scene, directory, "off", "vda", *options)
    until(lambda: list(Path(str(target.path)).parent.glob(".xmlkit-*/snapshot")))

    process.kill()
    process.communicate(timeout=120)

    assert 1 == len(left(scene))
    ((each, outcomes),) = recovered(scene, directory)
    assert ("snapshot", "undone") == (each.kind, outcomes[domain.UUIDString()].state)
    assert [] == left(scene)
    with images.locked(scene.addresses(domain)[0][1], write=True):
        pass
    assert "done" == shoot(scene, directory, "off", target).outcome.state


def recovered(scene: Scene, directory: Path) -> Any:
    """What recover makes of it, as soon as what xmlkit left has ended."""

    def recover() -> Any:
        found, errors = service.recover_all(lambda _: scene.connection, directory)
        assert [] == errors
        states = {each.state for _, outcomes in found for each in outcomes.values()}
        return None if "pending" in states else [found]

    return until(recover)[0]


# Takes a snapshot and dies at one of its writes to the journal, before or after it.
DYING = """
import os, signal, sys
from pathlib import Path
import libvirt
from xmlkit import journal, snapshot
from xmlkit.disks import Address
uri, domain, directory, pool, path, live, at = sys.argv[1:]
count = 0
append = journal.Writer._append
def die():
    global count
    count += 1
    if count == int(at):
        os.kill(os.getpid(), signal.SIGKILL)
def dying(*given):
    die()
    append(*given)
    die()
journal.Writer._append = dying
connection = libvirt.open(uri)
target = Address("volume", None, pool, path) if pool else Address("file", path)
shot = snapshot.prepare(connection, domain, "vda", target, live=live == "live")
taken = snapshot.take(connection, shot, Path(directory), uri=uri, listener=lambda *_: die())
assert "done" == taken.outcome.state, taken
"""


def die_at(scene: Scene, directory: Path, at: int, live: str, pool: str, path: str) -> bool:
    """Whether it was killed, and did not end before."""
    words = (scene.libvirtd.uri, "guest", str(directory), pool, path, live, str(at))
    done = subprocess.run([sys.executable, "-c", DYING, *words], capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


@pytest.mark.kill
@pytest.mark.parametrize("live", ["off", "live"])
def test_killed_at_each_step(
    scene: Scene, directory: Path, live: str, record_property: Callable[[str, object], None]
) -> None:
    """Then recover leaves the whole snapshot or nothing, and the guest as it was."""
    domain = scene.nova_guest("guest")
    if live == "live":
        scene.start(domain)
    before = domain.XMLDesc(0), domain.XMLDesc(2)
    place = scene.instances / "disks"
    ends = []
    for at in range(1, 60):
        killed = die_at(scene, directory, at, live, POOL, f"taken-{at}")
        for _, outcomes in recovered(scene, directory):
            ends += [each.state for each in outcomes.values()]
            made = [f"taken-{at}"] if ends[-1] == "done" else []
            assert made == [path.name for path in place.iterdir()]
            known = scene.connection.storagePoolLookupByName(POOL).listAllVolumes()
            assert made == [volume.name() for volume in known]
            if made:
                is_prefix(blocks(str(place / made[0])))
                (place / made[0]).unlink()
        assert before == (domain.XMLDesc(0), domain.XMLDesc(2))
        if not killed:
            break
    record_property("states", len(ends))
    record_property("lost", 0)
    assert {"undone", "done"} == set(ends)
    assert "undone" == ends[0]
    assert "done" == ends[-1]
    if live == "live":
        runs_on(scene, domain)
        scene.stop(domain)
    scene.boots(domain)


@pytest.mark.kill
@pytest.mark.parametrize("victim", ["libvirtd", "connection"])
@pytest.mark.parametrize("live", ["off", "live"])
def test_libvirtd_or_the_connection_ends_at_each_step(
    scene: Scene,
    directory: Path,
    live: str,
    victim: str,
    record_property: Callable[[str, object], None],
) -> None:
    """Before and after each step and while QEMU copies: the whole snapshot, or nothing of it."""
    domain = large(scene, "guest", 32 << 20)
    uuid = domain.UUIDString()
    if live == "live":
        scene.start(domain)
    before = [scene.document(domain).text, live_disk(domain)]
    place = scene.instances / "disks"
    ends, struck = [], True
    for point in itertools.count(1):
        name = f"taken-{point}"
        with cuttable(scene.libvirtd.uri) as (connection, cut):
            strike = cut if victim == "connection" else restart(scene)
            outcome, struck = struck_at(point, strike, connection, scene, directory, live, name)
        scene.reopen()
        domain = scene.connection.lookupByUUIDString(uuid)
        if outcome.state == "pending":
            ((_, outcomes),) = recovered(scene, directory)
            outcome = outcomes[uuid]
        ends.append(outcome.state)
        made = [name] if outcome.state == "done" else []
        assert made == sorted(path.name for path in place.iterdir()), (point, outcome)
        known = scene.connection.storagePoolLookupByName(POOL).listAllVolumes()
        assert made == [volume.name() for volume in known], (point, outcome)
        if made:
            # what is above is not the guest's counting
            is_prefix(blocks(str(place / name))[: (SIZE >> 9) - 9])
            (place / name).unlink()
            scene.connection.storagePoolLookupByName(POOL).refresh()
        assert before == [scene.document(domain).text, live_disk(domain)]
        if live == "live":
            runs_on(scene, domain)
        if not struck:
            break
    record_property("states", len(ends))
    record_property("lost", 0)
    assert ("undone", "done") == (ends[0], ends[-1])
    assert 6 < len(ends)
    scene.stop(domain)
    scene.boots(domain)


def restart(scene: Scene) -> Callable[[], None]:
    return lambda: scene.libvirtd.restart(signal.SIGKILL)


def live_disk(domain: Any) -> list[str]:
    """The disk that the domain runs with, and the images below it, as libvirt says it."""
    document = Document.parse(domain.XMLDesc(0))
    return [document.text_of(disk) for disk in document.root.iterfind("devices/disk")]


def struck_at(
    point: int,
    strike: Callable[[], None],
    connection: Any,
    scene: Scene,
    directory: Path,
    live: str,
    name: str,
) -> tuple[Outcome, bool]:
    """Take a snapshot and strike at a point; how it ended, and whether there was such a point."""
    left = point
    looked = False

    def at() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            strike()

    def listener(what: str, _: float) -> None:
        nonlocal looked
        if what == "backup" and not looked:
            looked = True
            at()

    def watched(call: Callable[..., None], *, first: bool) -> Callable[..., None]:
        def calling(*given: Any) -> None:
            if first:
                at()
            call(*given)
            if not first:
                at()

        return calling

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.Writer, "begin", watched(journal.Writer.begin, first=False))
        patch.setattr(journal.Writer, "done", watched(journal.Writer.done, first=True))
        target = Address("volume", None, POOL, name)
        shot = snapshot.prepare(connection, "guest", "vda", target, live=live == "live")
        taken = snapshot.take(
            connection, shot, directory, uri=scene.libvirtd.uri, listener=listener
        )
    assert taken.outcome.state in ("done", "undone", "pending"), taken
    return taken.outcome, left <= 0


@pytest.mark.kill
def test_killed_while_qemu_copies(release: Release, directory: Path) -> None:
    """recover ends xmlkit's own job, on each version, and removes what it wrote."""
    scene = counting(release())
    domain = large(scene, "guest", 128 << 20)
    scene.start(domain)
    before = domain.XMLDesc(0), domain.XMLDesc(2)
    target = file_in(scene)

    # journal's head and the first step, each twice, and then at the first look at the job
    assert die_at(scene, directory, 5, "live", "", str(target.path))

    if release.suite == "bullseye":
        assert domain.blockJobInfo("vda", 0)
    ((_, outcomes),) = recovered(scene, directory)
    assert ["undone"] == [each.state for each in outcomes.values()]
    assert [] == left(scene)
    assert before == (domain.XMLDesc(0), domain.XMLDesc(2))
    runs_on(scene, domain)
    again = shoot(scene, directory, "guest", target, live=True)
    assert "done" == again.outcome.state, again


def test_another_ones_job_is_left_alone(scene: Scene, directory: Path) -> None:
    """A block copy that somebody else began is a reason to refuse, and recover does not end it."""
    domain = scene.nova_guest("live")
    scene.start(domain)
    target = file_in(scene)
    theirs = file_in(scene, "theirs")
    xml = f"<disk type='file'><source file='{theirs.path}'/><driver type='qcow2'/></disk>"
    domain.blockCopy("vda", xml, None, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)

    with pytest.raises(SnapshotError, match="virsh blockjob") as caught:
        shoot(scene, directory, "live", target, live=True)

    assert "block-job" == caught.value.id
    assert [] == list(directory.glob("*.jsonl"))
    service.recover_all(lambda _: scene.connection, directory)
    assert domain.blockJobInfo("vda", 0)


def test_the_command(scene: Scene, directory: Path) -> None:
    """Text and JSON, and xmlkit journal lists what was made."""
    scene.nova_guest("off")
    target = file_in(scene)

    process = command(scene, directory, "off", "vda", "--to-file", str(target.path))
    out, err = process.communicate(timeout=120)
    assert (0, "the domain was off\n") == (process.returncode, err)
    assert out.startswith("snapshot ")
    assert f"off vda -> {target.path} (qcow2, " in out
    words = ("--to-volume", f"{POOL}/taken", "--format", "json")
    process = command(scene, directory, "off", "vda", *words)
    data = json.loads(process.communicate(timeout=120)[0])
    rules = json.loads((Path(__file__).parents[1] / "schemas/snapshot-1.json").read_text())
    jsonschema.validate(data, rules, jsonschema.Draft202012Validator)
    assert ("xmlkit.snapshot/1", "done", "off") == (
        *(data["schema"], data["state"], data["consistency"]),
    )
    assert ["snapshot", "snapshot"] == [each.kind for each in journal.read_all(str(directory))[0]]
    process = command(scene, directory, "off", "vda", *words)
    out, err = process.communicate(timeout=120)
    assert (2, "") == (process.returncode, out)
    assert "has a volume 'taken' already" in err
    process = command(scene, directory, "off", "vda")
    assert "--to-file PATH or --to-volume" in process.communicate(timeout=120)[1]
    assert 2 == process.returncode


# A guest with an agent: it answers what libvirt asks, and says on its serial port what it did. As
# QEMU's own it refuses to freeze what is frozen.
# No command is started for an answer: libvirt gives an agent five seconds for its first word.
AGENT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
while ! [ -e /dev/vport*p1 ]; do sleep 0.1; done
port=$(echo /dev/vport*p1)
exec 3<>$port
echo XMLKIT-GUEST-UP >/dev/ttyS0
STARTING
while true; do
    while read -r line <&3; do
        id=${line##*'"id":'}
        id=${id%%\}*}
        case $line in
            *sync-delimited*) printf '\377{"return": %s}\n' "$id" >&3 ;;
            *guest-sync*) printf '{"return": %s}\n' "$id" >&3 ;;
            *fsfreeze-freeze*)
                case $frozen in
                    yes) echo '{"error": {"class": "CommandNotFound", "desc": "no"}}' >&3 ;;
                    *) frozen=yes; echo FREEZE >/dev/ttyS0; FREEZING; echo '{"return": 1}' >&3 ;;
                esac ;;
            *fsfreeze-thaw*) frozen=; echo THAW >/dev/ttyS0; echo '{"return": 1}' >&3 ;;
            *) echo '{"error": {"class": "CommandNotFound", "desc": "no"}}' >&3 ;;
        esac
    done
    sleep 0.1
done
"""
WITH_AGENT = """\
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"""


@pytest.fixture
def agent(scene: Scene, linux_tree: Path) -> Any:
    """A guest whose agent is connected."""
    return with_agent(scene, linux_tree)


def with_agent(scene: Scene, tree: Path, *, starting: str = ":", freezing: str = ":") -> Any:
    """A guest whose agent is connected, and does so before it answers at all, or a freeze."""
    files = Files(tree)
    files.add("bin/busybox")
    files.modules(("virtio_pci", "virtio_console"))
    init = AGENT.replace("STARTING", starting).replace("FREEZING", freezing)
    files.write("init", init.encode(), 0o755)
    kernel = files.kernel(scene.libvirtd.directory)
    initrd = files.archive(scene.libvirtd.directory / "initrd")
    disk = scene.flat(scene.instances / "disk")
    scene.define("agent", [disk_xml(disk, format="raw"), WITH_AGENT], UUID)
    xml = scene.document(scene.connection.lookupByName("agent")).text
    boot = f"<kernel>{kernel}</kernel><initrd>{initrd}</initrd>"
    boot += f"<cmdline>{CMDLINE}</cmdline>"
    xml = re.sub("<boot dev='hd'/>", boot, xml)
    xml = re.sub("<(memory|currentMemory) unit='KiB'>[0-9]+", r"<\1 unit='KiB'>196608", xml)
    domain = scene.connection.defineXML(xml)
    domain.create()
    log = scene.log("agent")
    until(lambda: log.exists() and b"XMLKIT-GUEST-UP" in log.read_bytes())
    until(lambda: "state='connected'" in domain.XMLDesc(0))
    return domain


def agent_did(scene: Scene) -> list[bytes]:
    """What the guest's agent was asked for, in order."""
    return scene.log("agent").read_bytes().partition(b"XMLKIT-GUEST-UP")[2].split()


@pytest.mark.machine
@pytest.mark.usefixtures("agent")
def test_the_guest_agent_freezes_for_the_moment(scene: Scene, directory: Path) -> None:
    """Frozen once, thawed once, and the snapshot is said to be consistent."""
    for number in range(10):
        taken = shoot(scene, directory, "agent", file_in(scene, f"taken-{number}"), live=True)
        # libvirt gives an agent five seconds for its first word, and a busy machine may need more
        if taken.consistency == "frozen":
            break

    assert ("done", "frozen") == (taken.outcome.state, taken.consistency), agent_did(scene)
    assert [b"FREEZE", b"THAW"] == agent_did(scene)[-2:]


@pytest.mark.machine
def test_recovery_thaws_what_xmlkit_froze(scene: Scene, directory: Path, agent: Any) -> None:
    """Nobody else would."""
    for number in range(10):
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(libvirt.virDomain, "fsThaw", killed)
            shoot(scene, directory, "agent", file_in(scene, f"taken-{number}"), live=True)
            continue  # the agent did not answer in time
        break
    assert [b"FREEZE"] == agent_did(scene)[-1:]
    assert agent.isActive()

    recovered(scene, directory)

    assert [b"FREEZE", b"THAW"] == agent_did(scene)[-2:]


@pytest.mark.machine
def test_recovery_thaws_a_guest_whose_libvirtd_ended_while_it_froze(
    scene: Scene, directory: Path, agent: Any
) -> None:
    """The answer is lost, and with it whether the guest is frozen: it is thawed all the same."""
    freeze = libvirt.virDomain.fsFreeze

    def lost(domain: Any) -> None:
        freeze(domain)
        scene.libvirtd.restart(signal.SIGKILL)
        domain.info()  # fails, as the freezing would have

    for number in range(10):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(libvirt.virDomain, "fsFreeze", lost)
            taken = shoot(scene, directory, "agent", file_in(scene, f"taken-{number}"), live=True)
        if taken.outcome.state != "done":
            break  # the agent has answered in time
    assert [b"FREEZE"] == agent_did(scene)[-1:]
    assert ("pending", "libvirt") == taken.outcome[:2]
    scene.reopen()
    domain = scene.connection.lookupByName("agent")
    until(lambda: "state='connected'" in domain.XMLDesc(0))

    recovered(scene, directory)

    assert [b"FREEZE", b"THAW"] == agent_did(scene)[-2:]


def slow_to_freeze(scene: Scene, tree: Path, seconds: int) -> Any:
    """A guest that takes so long, while libvirt waits for three seconds."""
    domain = with_agent(scene, tree, freezing=f"sleep {seconds}")
    domain.agentSetResponseTimeout(3)
    return domain


def until_freezing(scene: Scene, directory: Path) -> snapshot.Taken:
    """Snapshots, until the agent was asked to freeze: a busy machine may be late with a word."""
    for number in range(20):
        taken = shoot(scene, directory, "agent", file_in(scene, f"taken-{number}"), live=True)
        if b"FREEZE" in agent_did(scene):
            return taken
    raise AssertionError(taken)


@pytest.mark.machine
def test_a_guest_that_is_frozen_after_libvirt_gave_up_waiting_is_thawed(
    scene: Scene, directory: Path, linux_tree: Path
) -> None:
    """The same error as that of an agent that does not answer at all; done, and it says why."""
    slow_to_freeze(scene, linux_tree, 12)

    taken = until_freezing(scene, directory)

    assert ("done", "crash") == (taken.outcome.state, taken.consistency), taken
    assert "libvirt error 86" in taken.unfrozen
    assert [b"FREEZE", b"THAW"] == agent_did(scene)[:2]
    assert b"THAW" == agent_did(scene)[-1]


@pytest.mark.machine
def test_a_guest_that_may_be_frozen_still_is_pending(
    scene: Scene, directory: Path, linux_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is certain that it is not: thawed, or off."""
    monkeypatch.setattr(snapshot, "THAWING", 1.0)
    domain = slow_to_freeze(scene, linux_tree, 1_000_000)

    taken = until_freezing(scene, directory)

    assert ("pending", "libvirt") == taken.outcome[:2], taken
    assert "may still be frozen (virsh domfsthaw" in taken.outcome.message
    ((_, outcomes),), errors = service.recover_all(lambda _: scene.connection, directory)
    assert ["pending"] == [each.state for each in outcomes.values()]
    assert [] == errors
    domain.destroy()
    ((_, outcomes),), _ = service.recover_all(lambda _: scene.connection, directory)
    assert ["undone"] == [each.state for each in outcomes.values()]
    assert [] == [name for name in left(scene) if name.startswith(".xmlkit")]


@pytest.mark.machine
def test_an_agent_that_does_not_answer_is_not_asked_to_freeze(
    scene: Scene, directory: Path, linux_tree: Path
) -> None:
    """It would do so whenever it comes back, when nobody waits for it; that is said."""
    with_agent(scene, linux_tree, starting="sleep 1000000")

    taken = shoot(scene, directory, "agent", file_in(scene), live=True)

    assert ("done", "crash") == (taken.outcome.state, taken.consistency), taken
    assert "the guest agent does not answer" in taken.unfrozen
    (path,) = directory.glob("*.jsonl")
    (task,) = journal.read(str(path)).tasks.values()
    number = next(n for n, step in enumerate(task.steps) if isinstance(step, Freeze))
    assert number not in journal.read(str(path)).begun[task.uuid]


@pytest.mark.machine
def test_recovery_waits_for_the_agent_of_a_guest_that_may_be_frozen(
    scene: Scene, directory: Path, agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not connected, as just after a restart of libvirtd, is no reason to forget it."""
    for number in range(20):
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(libvirt.virDomain, "fsThaw", killed)
            shoot(scene, directory, "agent", file_in(scene, f"taken-{number}"), live=True)
            continue  # the agent did not answer in time
        break
    there, away = snapshot._agent, [False, False]
    monkeypatch.setattr(snapshot, "_agent", lambda domain: away.pop() if away else there(domain))

    recovered(scene, directory)

    assert [b"FREEZE", b"THAW"] == agent_did(scene)[-2:]


@pytest.mark.machine
def test_recovery_leaves_frozen_what_somebody_else_froze(
    scene: Scene, directory: Path, agent: Any
) -> None:
    """A backup of theirs may be under way, and would lose its worth."""

    def froze() -> bool:
        with contextlib.suppress(libvirt.libvirtError):
            agent.fsFreeze()
        return agent_did(scene)[-1:] == [b"FREEZE"]

    until(froze)
    shot = snapshot.prepare(scene.connection, "agent", "vda", file_in(scene), live=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "_is_pushing", killed)
        with pytest.raises(Killed):
            snapshot.take(scene.connection, shot, directory, uri=scene.libvirtd.uri)

    ((_, outcomes),) = recovered(scene, directory)

    assert [Outcome("undone")] == list(outcomes.values())
    assert [] == left(scene)
    assert b"THAW" not in agent_did(scene)


def test_a_block_device(scene: Scene, directory: Path) -> None:
    """It is raw, whatever is on it, and read as it is."""
    with loop_device(1 << 20) as device:
        device.write_bytes(os.urandom(1 << 20))
        disk = disk_xml(device, format="raw").replace("type='file'", "type='block'", 1)
        scene.define("block", [disk.replace("source file", "source dev")])

        taken = shoot(scene, directory, "block", file_in(scene), image_format="raw")

        assert "done" == taken.outcome.state, taken
        assert device.read_bytes() == Path(str(file_in(scene).path)).read_bytes()


def test_a_guest_that_ends_meanwhile(scene: Scene, directory: Path) -> None:
    """A part of a disk is no snapshot."""
    domain = large(scene, "live", 128 << 20)
    scene.start(domain)

    def listen(what: str, part: float) -> None:
        scene.stop(domain)

    shot = snapshot.prepare(scene.connection, "live", "vda", file_in(scene), live=True)
    taken = snapshot.take(
        scene.connection, shot, directory, uri=scene.libvirtd.uri, listener=listen
    )

    assert "undone" == taken.outcome.state, taken
    assert [] == left(scene)
    scene.boots(domain)


def test_a_managed_save_holds_what_was_not_written(scene: Scene, directory: Path) -> None:
    """The domain is off, and its disk is still as after a loss of power."""
    domain = scene.nova_guest("saved")
    scene.start(domain)
    domain.managedSave()

    taken = shoot(scene, directory, "saved", file_in(scene))

    assert ("done", "crash") == (taken.outcome.state, taken.consistency), taken
