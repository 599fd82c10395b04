"""Benchmark: a fleet by Ansible: 1, 4 and 16 hosts, each with a libvirtd and guests of its own.

Rules
- One machine has all hosts, so what is measured is what a fleet costs one machine: with C cores
  no more than C hosts can go at once, and the time grows with the hosts.
- Beside it, in the same run, the command alone on the same hosts, one after the other, taken back.
- Exit code: 0 all goals reached, 1 one missed. `--quick`: up to 4 hosts.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fleet import PROGRAMS, Ansible, Fleet
from scene import POOL, Scene

from xmlkit.testing import private_libvirtd

HOSTS = (1, 4, 16)
GUESTS = 8
GROWTH = 1.1  # times the time of a host, for each host: no worse than linear, and a tenth


def main() -> int:
    """Start the hosts, play the playbook on more and more of them, print a table."""
    parser = argparse.ArgumentParser(description="Measure the playbook on fleets.")
    parser.add_argument("--quick", action="store_true", help="up to 4 hosts")
    numbers = HOSTS[:2] if parser.parse_args().quick else HOSTS
    took = {}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        cache = Path(directory) / "cache"
        cache.mkdir()
        ansible = Ansible(Path(directory))
        scenes = {
            f"host{number}": Scene(stack.enter_context(private_libvirtd(cache=cache)))
            for number in range(max(numbers))
        }
        for scene in scenes.values():
            for number in range(GUESTS):
                scene.nova_guest(f"guest{number}")
        for count in numbers:
            fleet = Fleet(ansible, dict(list(scenes.items())[:count]))
            alone = by_hand(fleet)
            there, again, back = by_ansible(fleet, count)
            took[count] = there
            print(
                f"{count:3} hosts, {GUESTS * count:4} guests: ansible {there:6.1f} s, "
                f"again {again:6.1f} s, back {back:6.1f} s; xmlkit alone {alone:6.1f} s",
                flush=True,
            )
    least, most = min(numbers), max(numbers)
    growth = took[most] / took[least]
    goal = GROWTH * most / least
    print(f"{most} hosts take {growth:.1f} times as long as {least} (goal {goal:.1f})")
    return int(growth > goal)


def by_ansible(fleet: Fleet, count: int) -> tuple[float, float, float]:
    """The seconds of the transition, of a second run, and of the rollback."""
    seconds = []
    for playbook in ("transition", "transition", "rollback"):
        start = time.perf_counter()
        run = fleet.play(
            *(playbook, "--forks", str(count)), transition_waves=["100%"], rollback_since="20260101"
        )
        seconds.append(time.perf_counter() - start)
        assert 0 == run.code, run.said
    there, again, back = seconds
    return there, again, back


def by_hand(fleet: Fleet) -> float:
    """The seconds of the command on each host; taken back afterwards."""
    seconds = 0.0
    for name, scene in fleet.hosts.items():
        shared = ["--state-dir", str(fleet.state(name)), "--connect", scene.libvirtd.uri, "--yes"]
        start = time.perf_counter()
        run("apply", "--all", "--relocate", POOL, *shared)
        seconds += time.perf_counter() - start
        (journal,) = sorted(fleet.state(name).glob("*.jsonl"))[-1:]
        run("rollback", journal.stem, *shared)
    return seconds


def run(*arguments: str) -> None:
    """An xmlkit command that has to succeed."""
    subprocess.run([str(PROGRAMS / "xmlkit"), *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
