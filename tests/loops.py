"""Loop devices and file systems of a test's own; gone when it ends, however it ends.

Rules
- Nothing is given a number or a place that another test process could choose too: losetup picks
  the device, and is asked again when another process was faster.
- What is held elsewhere (a private libvirtd has a copy of each mount) goes with its last user.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MIB = 1024 * 1024
MKFS = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1")}


def run(*command: str) -> str:
    """Its stdout; a failure has its stderr."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert 0 == done.returncode, f"{' '.join(command)}: {done.stderr}"
    return done.stdout.strip()


def need_root() -> None:
    """Who is not root has no such tests; continuous integration is."""
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("only root may mount")


@contextlib.contextmanager
def loop_device(size: int) -> Iterator[Path]:
    """A block device of `size` bytes, empty, that shows its partitions."""
    need_root()
    with tempfile.NamedTemporaryFile(prefix="xmlkit-loop-") as image:
        image.truncate(size)
        deadline = time.monotonic() + 120
        while True:
            command = ("losetup", "-P", "-f", "--show", image.name)
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                break
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.1)  # all are in use, or another process took the one that was free
        device = done.stdout.strip()
        try:
            yield Path(device)
        finally:
            run("losetup", "-d", device)


@contextlib.contextmanager
def mounted(fstype: str, size: int, options: str = "") -> Iterator[Path]:
    """An empty file system by its directory: ext4, tmpfs, ramfs, xfs (from 300 MiB)."""
    need_root()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xmlkit-mount-")))
        if fstype in ("ramfs", "tmpfs"):
            source, options = fstype, ",".join(filter(None, (f"size={size}", options)))
        else:
            source = str(stack.enter_context(loop_device(size)))
            run(*MKFS[fstype], source)
        run("mount", "-t", fstype, *(["-o", options] if options else []), source, str(directory))
        stack.callback(run, "umount", "--lazy", str(directory))
        directory.chmod(0o755)  # QEMU's user may enter
        yield directory


@contextlib.contextmanager
def after_power_cut(directory: Path) -> Iterator[Path]:
    """What a `mounted` ext4 would be if the power failed now: as its disk has it."""
    device = run("findmnt", "-n", "-o", "SOURCE", str(directory))
    image = Path("/sys/block", Path(device).name, "loop", "backing_file").read_text().strip()
    with tempfile.TemporaryDirectory(prefix="xmlkit-power-") as place:
        copy, then = Path(place, "image"), Path(place, "then")
        run("cp", "--sparse=always", image, str(copy))
        then.mkdir()
        run("mount", "-o", "loop", str(copy), str(then))
        try:
            yield then
        finally:
            run("umount", str(then))
