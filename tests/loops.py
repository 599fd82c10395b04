"""Loop devices and file systems of a test's own; gone when it ends, however it ends.

Rules
- Nothing is given a number or a place that another test process could choose too: losetup picks
  the device, and is asked again when another process was faster.
- What is held elsewhere (a private libvirtd has a copy of each mount) goes with its last user.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

MIB = 1024 * 1024
MKFS = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1")}


def run(*command: str) -> str:
    """Its stdout; a failure has its stderr."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert 0 == done.returncode, f"{' '.join(command)}: {done.stderr}"
    return done.stdout.strip()


@contextlib.contextmanager
def loop_device(size: int) -> Iterator[Path]:
    """A block device of `size` bytes, empty, that shows its partitions."""
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
    """An empty file system by its directory: ext4, tmpfs, xfs (reflink; from 300 MiB)."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xmlkit-mount-")))
        if fstype == "tmpfs":
            source, options = "tmpfs", ",".join(filter(None, (f"size={size}", options)))
        else:
            source = str(stack.enter_context(loop_device(size)))
            run(*MKFS[fstype], source)
        run("mount", "-t", fstype, *(["-o", options] if options else []), source, str(directory))
        stack.callback(run, "umount", "--lazy", str(directory))
        directory.chmod(0o755)  # QEMU's user may enter
        yield directory
