"""Benchmark: many domains into a pool with many volumes, beside a plain loop of virsh and mv.

Rules
- One host, one run: a private libvirtd with a pool of 5,000 volumes; the loop is what an operator
  would write, with one refresh a domain.
- `--quick`: the loop moves a tenth of the domains, and counts tenfold; it is linear, and slow.
- Exit code: 0 all goals reached, 1 one missed.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import NamedTuple

from scene import POOL, Scene, disk_xml, run

from xmlkit.testing import private_libvirtd

VOLUMES = 5_000
DOMAINS = 1_000
FASTER = 5.0
XMLKIT = Path(sys.executable).parent / "xmlkit"

# What an operator would write: no journal, no check, and a moment without a disk.
LOOP = """
set -eu
for uuid in "$@"; do
    [ "$(virsh domstate "$uuid")" = 'shut off' ]
    virsh dumpxml --inactive --security-info "$uuid" >"$work/domain.xml"
    mv "$instances/$uuid/disk" "$instances/disks/${uuid}_disk"
    virsh -q pool-refresh "$pool" >"$work/out"
    sed -i "s|<disk type='file'|<disk type='volume'|; \
s|<source file='$instances/$uuid/disk'/>|<source pool='$pool' volume='${uuid}_disk'/>|" \
        "$work/domain.xml"
    virsh -q define "$work/domain.xml" >"$work/out"
done
"""


class Took(NamedTuple):
    """What a command took: seconds, and MiB at its most."""

    seconds: float
    memory: float


def main() -> int:
    """Build the host, run both, print a table."""
    parser = argparse.ArgumentParser(description="Measure xmlkit apply against a loop of virsh.")
    parser.add_argument("--quick", action="store_true", help="the loop moves a tenth")
    quick = parser.parse_args().quick
    with private_libvirtd() as libvirtd, tempfile.TemporaryDirectory() as work:
        scene = Scene(libvirtd)
        environment = os.environ | {
            "LIBVIRT_DEFAULT_URI": libvirtd.uri,
            "XMLKIT_STATE_DIR": str(libvirtd.directory / "state"),
        }
        looped = DOMAINS // 10 if quick else DOMAINS
        print(f"a host with {DOMAINS + looped} domains and {VOLUMES} volumes ...", flush=True)
        ours, theirs = populate(scene, DOMAINS, looped)
        took = {}
        for count in (DOMAINS // 4, DOMAINS // 2, DOMAINS):
            command = [str(XMLKIT), "apply", "--yes", "--relocate", POOL, *ours[:count]]
            took[count] = measured(command, environment)
            print(
                f"xmlkit apply, {count:5} domains {took[count].seconds:8.1f} s "
                f"{took[count].memory:6.1f} MiB",
                flush=True,
            )
            if count != DOMAINS:
                id_ = run_xmlkit("journal", environment).split("\n")[-2].split()[0]
                run_xmlkit("rollback", environment, id_, "--yes")
        variables = {"work": work, "instances": str(scene.instances), "pool": POOL}
        loop = measured(["sh", "-c", LOOP, "loop", *theirs], environment | variables)
    seconds = loop.seconds * DOMAINS / looped
    print(f"virsh and mv, {DOMAINS:5} domains {seconds:8.1f} s")
    ratio = seconds / took[DOMAINS].seconds
    growth = took[DOMAINS].seconds / took[DOMAINS // 2].seconds
    print(f"{ratio:.1f} times faster (goal {FASTER:.0f}); twice the domains: {growth:.2f} times")
    return int(ratio < FASTER or growth > 2.5)


def populate(scene: Scene, count: int, looped: int) -> tuple[list[str], list[str]]:
    """Make volumes and domains; the UUIDs of those for xmlkit and of those for the loop."""
    disks = scene.instances / "disks"
    template = scene.overlay(scene.instances / "template")
    for number in range(VOLUMES):
        shutil.copyfile(template, disks / f"{number:05}.qcow2")
    made = []
    for _ in range(count + looped):
        own = str(uuid.uuid4())
        path = scene.instances / own / "disk"
        path.parent.mkdir()
        shutil.copyfile(template, path)
        scene.define(own, [disk_xml(path)], own)
        made.append(own)
    template.unlink()
    run("virsh", "-c", scene.libvirtd.uri, "pool-refresh", POOL)
    return made[:count], made[count:]


def measured(command: list[str], environment: dict[str, str]) -> Took:
    """Run a command that has to succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert 0 == process.returncode, said.decode(errors="replace")
    return Took(time.perf_counter() - start, _peak(used))


def _peak(used: resource.struct_rusage) -> float:
    return used.ru_maxrss / 1024


def run_xmlkit(name: str, environment: dict[str, str], *arguments: str) -> str:
    """The output of an xmlkit command."""
    command = [str(XMLKIT), name, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
