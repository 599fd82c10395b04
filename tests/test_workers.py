"""Worker processes: in order, bounded, and gone whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from xmlkit.cli.workers import WorkerError, in_order

# Generous: the machine may be busy.
SECONDS = 60.0


def noted(name: str, way: int) -> tuple[str, int, int]:
    """Work that says who did it; the first files take longest."""
    if name in ("0", "17"):
        time.sleep(0.2)
    return name, way, os.getpid()


def deadly(name: str, way: int) -> str:
    """Work that one file is the end of."""
    if name == "40":
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def wrong(name: str, way: int) -> str:
    """Work that fails."""
    if name == "40":
        raise ValueError("forty")
    return name


def names(number: int) -> list[str]:
    """So many names."""
    return [str(each) for each in range(number)]


@pytest.mark.parametrize("number", [0, 1, 15, 16, 17, 500])
def test_results_come_in_the_order_of_the_names(number: int) -> None:
    """Though the first take longest, and several workers take part."""
    found = list(in_order(noted, names(number), 7, 2, alone="-"))

    assert names(number) == [name for name, _, _ in found]
    assert all(way == 7 for _, way, _ in found)
    assert os.getpid() not in {pid for _, _, pid in found}
    assert number < 100 or len({pid for _, _, pid in found}) == 2


def test_what_only_this_process_can_do_is_done_here_in_its_place() -> None:
    """Such as reading stdin, however often it is named."""
    given = ["-", *names(20), "-", "x", "-"]
    found = list(in_order(noted, given, 0, 2, alone="-"))

    assert given == [name for name, _, _ in found]
    assert [name == "-" for name in given] == [pid == os.getpid() for _, _, pid in found]


def test_no_more_is_asked_for_than_the_workers_are_ahead() -> None:
    """The names may be without end."""
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield str(taken)

    results = in_order(noted, endless(), 0, 2, alone="-")
    for number in range(1, 2001):
        assert str(number) == next(results)[0]
        assert taken < number + 2 * 16 * 8
    results.close()  # type: ignore[attr-defined]


def test_a_worker_that_is_killed_is_an_error() -> None:
    """Which says at which file; what was done before it is told."""
    results = in_order(deadly, names(500), 0, 2, alone="-")
    told: list[str] = []
    with pytest.raises(WorkerError, match=r"worker process has ended, at [0-9]+ or soon after"):
        told.extend(results)

    assert told == names(500)[: len(told)]
    assert len(told) <= 48


def test_what_the_work_raises_is_raised() -> None:
    """In its place."""
    results = in_order(wrong, names(500), 0, 2, alone="-")
    told: list[str] = []
    with pytest.raises(ValueError, match="forty"):
        told.extend(results)

    assert told == names(32)


PROGRAM = """
import os, sys, time
sys.path.insert(0, {tests!r})
from xmlkit.cli.workers import in_order

def slow(name, way):
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(way)
    with open(name, "w") as file:
        file.write("done")
    return name

try:
    names = [{directory!r} + f"/{{n}}" for n in range(400)]
    for name in in_order(slow, names, {way}, 2, alone="-"):
        pass
except KeyboardInterrupt:
    sys.exit(130)
"""


def started(directory: Path, way: float) -> tuple[subprocess.Popen[str], set[int]]:
    """A program whose two workers are at work, and their PIDs."""
    program = PROGRAM.format(tests=str(Path(__file__).parent), directory=str(directory), way=way)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    workers: set[int] = set()
    while len(workers) < 2:
        line = process.stdout.readline()
        assert line, "no worker began"
        workers.add(int(line))
    return process, workers


def gone(pids: set[int]) -> bool:
    """Whether all these processes end within some time; zombies of others count as ended."""
    deadline = time.monotonic() + SECONDS
    left = set(pids)
    while left and time.monotonic() < deadline:
        for pid in list(left):
            state = ""
            with suppress(OSError):
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state in ("", "Z", "X"):
                left.discard(pid)
        time.sleep(0.02)
    return not left


def test_an_interruption_ends_each_worker_after_its_file(tmp_path: Path) -> None:
    """Ctrl-C goes to all of them: no file is left half, and nothing is left behind."""
    process, workers = started(tmp_path, 0.3)
    os.killpg(process.pid, signal.SIGINT)

    assert 130 == process.wait(SECONDS)
    assert gone(workers)
    contents = [file.read_text() for file in tmp_path.iterdir()]
    assert {"done"} == set(contents)
    # far from all: what was not begun is not done
    assert len(contents) < 100
    assert process.stdout is not None
    process.stdout.close()


def test_a_worker_that_hangs_does_not_keep_an_interruption_waiting(tmp_path: Path) -> None:
    """As one does that reads a pipe without a writer."""
    process, workers = started(tmp_path, 10 * SECONDS)
    os.killpg(process.pid, signal.SIGINT)

    assert 130 == process.wait(SECONDS)
    assert gone(workers)
    assert process.stdout is not None
    process.stdout.close()


def test_no_worker_outlives_a_command_that_is_killed(tmp_path: Path) -> None:
    """Not even by SIGKILL, of which the command knows nothing."""
    process, workers = started(tmp_path, 10 * SECONDS)
    process.kill()
    process.wait(SECONDS)

    assert gone(workers)
    assert process.stdout is not None
    process.stdout.close()
