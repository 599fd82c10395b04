"""The power fails at every point of a transition: nothing is lost.

Rules
- Images, pool and journal are on one file system, libvirt's directories on another, as they are
  where Nova's instances have a disk of their own; both are loop-mounted.
- At each point both backing files are cloned at once (reflink), without any sync: what had reached
  the disk by then, and nothing else. The clones are mounted later in the same places, so that the
  kernel replays its journal as after a power cut, and a new libvirtd gets the XML that libvirt's
  file has then.
- What is defined leads to the guest's content then, and boots (once for each set of files and XML);
  then recover() ends it, done or undone, with the same content and no file more.

Simpler than a power cut: a disk that reorders or loses what it was given, but not yet told to
flush, is not imitated; the two file systems are cloned one after the other while this process, the
only one that changes them, waits.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import libvirt
import pytest
from interrupted import Scenario, World, points
from loops import MIB, MKFS, mounted
from scene import POOL, Scene, quiet, run

from xmlkit import executor
from xmlkit.journal import Outcome, Writer
from xmlkit.state import new_id
from xmlkit.testing import Libvirtd

pytestmark = [pytest.mark.kill]

LINK = Scenario("link", disk_info=True)
COPY = Scenario("copy", copied=True, disk_info=True)


@dataclass
class Machine(Scene):
    """A host whose disks outlive its libvirtd: `disks` has the images and the journal."""

    disks: Path = field(kw_only=True)
    new: bool = field(kw_only=True)

    def __post_init__(self) -> None:
        if self.new:
            super().__post_init__()
        else:
            quiet()
            self.connection = libvirt.open(self.libvirtd.uri)
            self.pool(POOL, self.instances / "disks")

    @property
    def instances(self) -> Path:
        return self.disks / "instances"

    def log(self, name: str) -> Path:
        return self.disks.parent / f"{name}.log"


class Storage:
    """Two file systems in files that can be cloned: `root` has libvirt's directories."""

    def __init__(self, clones: Path, places: Path, fstype: str) -> None:
        self.clones = clones
        self.names = ("root", "disks")
        # another test's libvirtd may still have the one that this is a clone of
        self.options = "loop,nouuid" if fstype == "xfs" else "loop"
        self.root, self.disks = (places / name for name in self.names)
        self.taken: list[str] = []
        for name in self.names:
            (places / name).mkdir()
            image = clones / f"{name}.now"
            with image.open("wb") as file:
                file.truncate((320 if fstype == "xfs" else 48) * MIB)
            run(*MKFS[fstype], image)

    @contextlib.contextmanager
    def mounted(self, which: str) -> Iterator[None]:
        """In their places: "now", or a clone by its number."""
        with contextlib.ExitStack() as stack:
            for name, place in zip(self.names, (self.root, self.disks), strict=True):
                run("mount", "-o", self.options, self.clones / f"{name}.{which}", place)
                stack.callback(run, "umount", place)
                place.chmod(0o755)
            yield

    def clone(self, what: str) -> None:
        """Keep what is on the disks at this moment."""
        for name in self.names:
            at = self.clones / f"{name}.{len(self.taken)}"
            run("cp", "--reflink=always", self.clones / f"{name}.now", at)
        self.taken.append(what)

    def digest(self, which: str) -> str:
        """What the disks' file system is, bit by bit."""
        found = hashlib.sha256()
        with (self.clones / f"disks.{which}").open("rb") as image:
            end = 0
            with contextlib.suppress(OSError):  # ENXIO: there is no more data, only a hole
                while True:
                    start = os.lseek(image.fileno(), end, os.SEEK_DATA)
                    end = os.lseek(image.fileno(), start, os.SEEK_HOLE)
                    data = os.pread(image.fileno(), end - start, start)
                    # zeroes that were written are as good as a hole
                    if data.strip(b"\0"):
                        found.update(b"%d " % start + data)
        return found.hexdigest()


@pytest.mark.parametrize(
    ("scenario", "rollback", "fstype"),
    [
        pytest.param(LINK, False, "ext4", id="link-apply-ext4"),
        pytest.param(LINK, True, "ext4", id="link-rollback-ext4"),
        pytest.param(COPY, False, "ext4", id="copy-apply-ext4"),
        pytest.param(COPY, True, "ext4", id="copy-rollback-ext4"),
        # twice as slow
        pytest.param(LINK, False, "xfs", id="link-apply-xfs"),
        pytest.param(COPY, True, "xfs", id="copy-rollback-xfs"),
    ],
)
def test_power_fails(
    scenario: Scenario,
    rollback: bool,
    fstype: str,
    start_libvirtd: Callable[..., Libvirtd],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """Before and after each step, and each call that changes or syncs something."""
    with (
        mounted("xfs", 2048 * MIB) as clones,
        tempfile.TemporaryDirectory(prefix="xmlkit-power-") as places,
    ):
        Path(places).chmod(0o755)
        storage = Storage(clones, Path(places), fstype)
        with storage.mounted("now"):
            with monkeypatch.context() as patched:
                patched.setattr(tempfile, "tempdir", str(storage.root))
                libvirtd = start_libvirtd()
            world = World(Machine(libvirtd, disks=storage.disks, new=True))
            domains = world.guests(scenario)
            tasks = world.tasks(scenario, domains)
            if rollback:
                world.finish(tasks)
                tasks = world.inverse(scenario, tasks)
            before = world.look(domains)
            own = domains[0].UUIDString()
            file = libvirtd.directory / "etc/libvirt/qemu" / f"{domains[0].name()}.xml"
            os.sync()  # it was so for days
            with points(lambda what, _: storage.clone(what), syncs=True) as listener:
                id = new_id(world.state)
                writer = Writer.create(str(world.state), id, tasks, uri=libvirtd.uri)
                outcomes = executor.apply(world.scene.connection, writer, tasks, listener=listener)
                writer.close()
            assert {own: Outcome("done")} == outcomes
            storage.clone("the end")
            world.scene.connection.close()
            libvirtd.stop()
        seen = set()
        booted = set()
        lost = []
        for number, what in enumerate(storage.taken):
            digest = storage.digest(str(number))  # to mount it changes it
            with storage.mounted(str(number)):
                state = (digest, file.read_text())
                if state in seen:
                    continue
                seen.add(state)
                libvirtd = start_libvirtd()
                try:
                    world = World(Machine(libvirtd, disks=storage.disks, new=False))
                    domains = [world.scene.connection.defineXML(file.read_text())]
                    then = world.look(domains)
                    assert before.contents == then.contents
                    if (kind := (then.documents, then.files)) not in booted:
                        booted.add(kind)
                        world.scene.boots(domains[0])
                        then = world.look(domains)
                    outcomes = world.recover(id)
                    now = world.look(domains)
                    assert then.contents == now.contents
                    world.check_end(domains, tasks, outcomes, before, now)
                except (AssertionError, OSError, libvirt.libvirtError):
                    lost.append(f"{number}, before: {what}:\n{traceback.format_exc()}")
                finally:
                    libvirtd.stop()
        record_property("states", len(seen))
        record_property("lost", len(lost))
        assert [] == lost, "\n".join(lost)
        assert len(tasks[0].steps) < len(seen)
