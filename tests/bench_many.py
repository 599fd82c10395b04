"""Benchmark: xmlkit validate over many files, next to a loop of bare lxml, and its memory.

Rules
- As in bench.py: ratios of two contestants in one run, tried in turn, the median of the rounds.
  One process is measured by the time that it had a processor, start and all; several by the clock.
- Documents are libvirt's own QEMU domains that its schema allows; of the large set every tenth has
  a fault of its own, so that nothing can be remembered of it.
- Exit code: 0 all goals reached, 1 one missed, 2 something needed is missing.
"""

from __future__ import annotations

import argparse
import compileall
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from corpus import samples
from sources import SourceUnavailable, debian_source

import xmlkit
from xmlkit.document import Document
from xmlkit.errors import XmlkitError
from xmlkit.validation import schemas
from xmlkit.validation.verdict import validate

COMMAND = [sys.executable, "-c", "from xmlkit.cli import main; main()", "validate"]
# The least that does the work: parse each file, validate it, say which are wrong.
BARE = """
import os, sys
from lxml import etree
schema = etree.RelaxNG(etree.parse(sys.argv[1]))
wrong = 0
for name in sorted(os.listdir(sys.argv[2])):
    file = os.path.join(sys.argv[2], name)
    if not schema.validate(etree.parse(file)):
        wrong = 1
        print(file, schema.error_log)
sys.exit(wrong)
"""
GOOD = 1_000
LARGE = 100_000
# With the command's start, of some 40 ms more; bench.py has the goal without it, 1.2.
TIME_GOAL = 1.5
# MiB for the large set, of which each fault is a new one.
MEMORY_GOAL = 256
# And times what a hundredth of them takes: it does not grow with their number.
FLAT_GOAL = 1.25


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure xmlkit validate over many files.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no large set")
    quick = parser.parse_args().quick
    try:
        documents = good(GOOD)
        schema = f"{schemas.directory()}/domain.rng"
    except (SourceUnavailable, XmlkitError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    # as an installed package is; an editable one need not be
    compileall.compile_dir(Path(xmlkit.__file__).parent, quiet=1)
    missed = False
    with tempfile.TemporaryDirectory(prefix="xmlkit-bench-") as directory:
        place = Path(directory)
        small = written(place / "good", zip(map(str, range(GOOD)), documents, strict=False))
        ways = {
            "ours": [*COMMAND, str(small)],
            "two": [*COMMAND, "--jobs", "2", str(small)],
            "bare": [sys.executable, "-c", BARE, schema, str(small)],
        }
        runs: dict[str, list[Run]] = {way: [] for way in ways}
        for _ in range(4 if quick else 12):
            for way, command in ways.items():
                runs[way].append(run(command, 0))
        work = {way: statistics.median(each.work for each in runs[way][1:]) for way in ways}
        clock = {way: statistics.median(each.clock for each in runs[way][1:]) for way in ways}
        for name, ours, theirs, goal in (
            ("xmlkit validate / bare lxml", work["ours"], work["bare"], TIME_GOAL),
            ("--jobs 2 / --jobs 1, by the clock", clock["two"], clock["ours"], math.inf),
        ):
            late = ours / theirs > goal
            missed |= late
            print(
                f"{f'{len(documents):,} good files: {name}':<60}"
                f" {ours * 1000:7.1f} ms {theirs * 1000:7.1f} ms {ours / theirs:6.2f} {goal:6.2f}"
                f"{'  missed' if late else ''}",
                flush=True,
            )
        if not quick:
            large = written(place / "large", faulty(documents, LARGE))
            first = written(place / "first", faulty(documents, GOOD))
            for jobs in "12":
                command = [*COMMAND, "--jobs", jobs]
                few = run([*command, str(first)], 1)
                many = run([*command, str(large)], 1)
                late = many.memory > min(MEMORY_GOAL, few.memory * FLAT_GOAL)
                missed |= late
                what = f"{LARGE:,} files, a tenth with a fault, --jobs {jobs}: a process at most"
                print(
                    f"{what:<60} {many.memory:7.1f} MiB, goal {MEMORY_GOAL} MiB and {FLAT_GOAL} "
                    f"times that of the first {GOOD:,}, {few.memory:.1f} MiB"
                    f"{'  missed' if late else ''} ({many.clock:.0f} s)",
                    flush=True,
                )
    return int(missed)


def good(number: int) -> list[bytes]:
    """So many of libvirt's QEMU domains that are valid."""
    found = []
    for sample in samples(debian_source("libvirt")):
        if "qemuxml2argvdata" in str(sample.path) and sample.expected_valid:
            source = sample.path.read_bytes()
            if not validate(Document.parse(source)):
                found.append(source)
    return found[:number]


def faulty(documents: list[bytes], number: int) -> Iterator[tuple[str, bytes]]:
    """So many documents, by name; every tenth has a fault that no other one has."""
    for at, source in zip(range(number), cycle(documents), strict=False):
        if at % 10 == 3:
            fault = (b" emulatr%d='x'", b" type='kvm%d'")[at % 20 == 3] % at
            source = re.sub(rb"<devices", b"<devices" + fault, source, count=1)
        yield f"{at:06}", source


def written(directory: Path, documents: Iterator[tuple[str, bytes]]) -> Path:
    """A directory of these files."""
    directory.mkdir()
    for name, source in documents:
        (directory / f"{name}.xml").write_bytes(source)
    return directory


class Run(NamedTuple):
    """What a command took: seconds by the clock and at work, MiB of its largest process."""

    clock: float
    work: float
    memory: float


def run(command: list[str], code: int) -> Run:
    """Run a command that must end with this exit code."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    clock = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != code:
        raise SystemExit(f"bench: {command[-1]}: exit code {process.returncode}, not {code}")
    return Run(clock, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


if __name__ == "__main__":
    sys.exit(main())
