"""Benchmark: which images of the cache 1,000 instances use, beside Nova's one process an instance.

Rules
- One host, one run: 1,000 defined domains, their disks where Nova's own manager looks for them
  ({instances}/{uuid}/disk), on 100 images; the pass that asks libvirt sees the same disks.
- Nova's way is what Nova 34.0.0 starts for each instance: qemu-img under the limits of
  oslo.concurrency (nova.privsep.qemu.unprivileged_qemu_img_info); and, so as not to measure that
  detour, qemu-img alone.
- `--quick`: a tenth of the instances for Nova's way, counted tenfold; it is linear.
- Exit code: 0 all goals reached, 1 one missed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any
from unittest import mock

from cached import CachedHost
from scene import disk_xml

from xmlkit import leisure, prune
from xmlkit.cache import name_of_image
from xmlkit.testing import private_libvirtd

INSTANCES = 1_000
IMAGES = 100
FASTER = 20.0

QEMU_IMG = ("env", "LC_ALL=C", "LANG=C", "qemu-img", "info", "--force-share", "--output=json")
LIMITS = ("-m", "oslo_concurrency.prlimit", "--as=1073741824", "--cpu=30", "--")


def main() -> int:
    """Build the host, ask both ways, print a table."""
    parser = argparse.ArgumentParser(description="Measure the image cache against qemu-img.")
    parser.add_argument("--quick", action="store_true", help="qemu-img for a tenth")
    quick = parser.parse_args().quick
    with private_libvirtd() as libvirtd:
        host = CachedHost(libvirtd)
        print(f"a host with {INSTANCES} domains on {IMAGES} images ...", flush=True)
        disks = populate(host)
        took, processes, refreshes = ours(host)
        print(f"xmlkit, one pass                    {took:8.2f} s", flush=True)
        asked = list(disks)[:: 10 if quick else 1]
        alone = theirs(disks, asked, ())
        print(f"qemu-img alone                      {alone:8.2f} s {alone / took:8.1f} times")
        nova = theirs(disks, asked, (sys.executable, *LIMITS))
        print(f"qemu-img as Nova starts it          {nova:8.2f} s {nova / took:8.1f} times")
    print(f"{refreshes} refresh, {processes} processes; goal against Nova {FASTER:.0f} times")
    return int(nova / took < FASTER or refreshes != 1 or processes != 0)


def populate(host: CachedHost) -> dict[Path, str]:
    """Define the domains; each disk with the image that it stands on."""
    made = {}
    templates = []
    for number in range(IMAGES):
        image = host.old(name_of_image(str(number)))
        template = host.libvirtd.directory / f"template-{number}"
        templates.append((image, host.over(template, image)))
    for number in range(INSTANCES):
        own = str(uuid.uuid4())
        image, template = templates[number % IMAGES]
        disk = host.instances / own / "disk"
        disk.parent.mkdir()
        shutil.copyfile(template, disk)
        host.define(own, [disk_xml(disk)], own)
        made[disk] = image.name
    return made


def ours(host: CachedHost) -> tuple[float, int, int]:
    """The best of three passes: seconds; and how many processes and refreshes the last one took."""
    took = []
    for _ in range(3):
        with (
            mock.patch.object(subprocess, "Popen", side_effect=subprocess.Popen) as started,
            mock.patch.object(leisure, "refresh", side_effect=leisure.refresh) as refreshed,
        ):
            start = time.perf_counter()
            cache = prune.read(host.connection)
            took.append(time.perf_counter() - start)
        used = [base for base in cache.bases if base.used_by]
        assert (IMAGES, INSTANCES) == (len(used), sum(len(base.used_by) for base in used))
        assert not cache.broken
    return min(took), started.call_count, refreshed.call_count


def theirs(disks: dict[Path, str], asked: list[Path], prefix: tuple[str, ...]) -> float:
    """Seconds for all disks of what is asked for some, a process each."""
    start = time.perf_counter()
    found = {disk: backing(disk, prefix) for disk in asked}
    seconds = (time.perf_counter() - start) * len(disks) / len(asked)
    assert {disk: disks[disk] for disk in asked} == found
    return seconds


def backing(disk: Path, prefix: tuple[str, ...]) -> str:
    """The image that qemu-img says a disk stands on."""
    done = subprocess.run([*prefix, *QEMU_IMG, str(disk)], capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return str(found["backing-filename"]).rpartition("/")[2]


if __name__ == "__main__":
    sys.exit(main())
