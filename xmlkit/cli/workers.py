"""Worker processes: many files judged at once, told in their order.

Laws
- What comes back comes in the order in which it was asked for, and no more of it is held than the
  workers are ahead.
- No worker outlives the command: neither an interruption, nor its death by a signal.
- An interruption ends each worker after the file that it is at: what it writes, it writes whole.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any, TypeVar

from xmlkit.errors import XmlkitError

__all__ = ["WorkerError", "in_order"]

_Result = TypeVar("_Result")
_Way = TypeVar("_Way")

# Files that a worker takes at a time, and how many such portions each is ahead of what is told.
_PORTION = 16
_AHEAD = 4
# Seconds that a worker has to end the file that it is at, after an interruption.
_GRACE = 5.0
_PR_SET_PDEATHSIG = 1

# In a worker: set when the command was interrupted.
_stopped: Any = None


class WorkerError(XmlkitError):
    """A worker process has ended in the middle of its work."""


def in_order(
    work: Callable[[str, _Way], _Result],
    names: Iterable[str],
    way: _Way,
    jobs: int,
    *,
    alone: str,
) -> Iterator[_Result]:
    """What `work` makes of each name, in their order, by `jobs` processes.

    work: a function of a module, that is given a name and `way`. alone: a name that only this
    process can work on, such as that of stdin. Raises WorkerError, and what `work` raises.
    """
    # fork: what is imported and compiled by now is there at once
    context = multiprocessing.get_context("fork")
    # without a lock: one that a killed worker held would never be free again
    stopped = context.RawValue(ctypes.c_bool, False)
    waiting: deque[tuple[str, Future[list[_Result]] | None]] = deque()
    with ProcessPoolExecutor(jobs, context, _begin, (stopped, os.getpid())) as pool:
        try:
            for portion in _portions(names, alone):
                if portion == [alone]:
                    waiting.append((alone, None))
                else:
                    waiting.append((portion[0], _submitted(pool, work, portion, way)))
                while len(waiting) > jobs * _AHEAD:
                    yield from _done(work, way, *waiting.popleft())
            while waiting:
                yield from _done(work, way, *waiting.popleft())
        except BaseException:
            stopped.value = True
            # one may hang, as on a pipe that nobody writes to
            impatience = threading.Timer(_GRACE, _kill)
            impatience.start()
            try:
                pool.shutdown(cancel_futures=True)
            finally:
                impatience.cancel()
            raise


def _submitted(
    pool: ProcessPoolExecutor, work: Callable[[str, _Way], _Result], portion: list[str], way: _Way
) -> Future[list[_Result]]:
    try:
        return pool.submit(_portion, work, portion, way)
    except BrokenProcessPool as error:
        # what was done before it is told first
        failed: Future[list[_Result]] = Future()
        failed.set_exception(error)
        return failed


def _kill() -> None:
    for worker in multiprocessing.active_children():
        worker.kill()


def _done(
    work: Callable[[str, _Way], _Result], way: _Way, name: str, future: Future[list[_Result]] | None
) -> Iterator[_Result]:
    if future is None:
        yield work(name, way)
        return
    try:
        yield from future.result()
    except BrokenProcessPool:
        raise WorkerError(
            f"a worker process has ended, at {name} or soon after it: if memory was short, "
            "try fewer --jobs or a smaller --max-size"
        ) from None


def _portions(names: Iterable[str], alone: str) -> Iterator[list[str]]:
    portion: list[str] = []
    for name in names:
        if name == alone or len(portion) == _PORTION:
            if portion:
                yield portion
            portion = []
        if name == alone:
            yield [alone]
        else:
            portion.append(name)
    if portion:
        yield portion


def _portion(work: Callable[[str, _Way], _Result], names: list[str], way: _Way) -> list[_Result]:
    done = []
    for name in names:
        if _stopped is not None and _stopped.value:
            break
        done.append(work(name, way))
    return done


def _begin(stopped: Any, parent: int) -> None:
    """In a new worker."""
    global _stopped
    _stopped = stopped
    # Ctrl-C is for the command, which tells the workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # and what ends a worker is nothing that the command was told
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    with suppress(AttributeError):
        # Linux alone; elsewhere workers wait for work until somebody ends them
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
