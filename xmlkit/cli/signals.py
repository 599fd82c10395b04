"""Ctrl-C and its like, for the commands that wait for libvirt.

Laws
- While libvirt does not answer it is said what is waited for, and the next signal ends the command.
- Where nothing is begun one signal that is heard is enough: closing a connection may hang, too.
- What that means is said as well: where nothing was begun there is nothing to recover.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["RECOVERED", "UNCHANGED", "begin", "interruptible", "reading"]

# What it means that a command was ended.
RECOVERED = "xmlkit recover brings to an end what was begun"
UNCHANGED = "nothing was changed"

# What asks for an end, and seconds until it should have been heard, and the command be over.
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 2.0

_hearing = False
_begun = False
_beginning = threading.Lock()  # held by who ends the process, so that nothing is begun meanwhile


@contextmanager
def reading(uri: str, *, write: bool = False) -> Iterator[Any]:
    """A connection for a command that changes nothing, which Ctrl-C ends also if libvirt hangs.

    write: it may, which libvirt asks for secrets. Raises LibvirtError.
    """
    from xmlkit.observe import opened

    with interruptible(), opened(uri, write=write) as connection:
        yield connection


@contextmanager
def interruptible(ending: str = UNCHANGED) -> Iterator[None]:
    """SIGTERM and SIGHUP are heard as Ctrl-C: what was begun comes to an end, done or undone.

    While libvirt or a disk does not answer, Python hears none of them: that is said, and the next
    one ends the process, which does no more harm than a kill at any other moment. One that is heard
    before begin() ends it too, if the command is not over by itself soon after. ending: what an end
    means before begin(); later it is RECOVERED. Within another one it is that one.
    """
    global _hearing, _begun
    if _hearing:
        yield
        return
    _begun = False
    # nohup wants it to go on
    before = {each: signal.getsignal(each) for each in _ENDS}
    numbers = [each for each in _ENDS if before[each] != signal.SIG_IGN]
    heard = [0.0]

    def hear(*_: object) -> None:
        heard[0] = time.monotonic()
        raise KeyboardInterrupt

    told, tell = os.pipe()
    os.set_blocking(tell, False)
    woken = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(told, numbers, heard, ending), daemon=True)
    watch.start()
    for number in numbers:
        signal.signal(number, hear)
    _hearing = True
    try:
        yield
    finally:
        _hearing = False
        for number in numbers:
            signal.signal(number, before[number])
        signal.set_wakeup_fd(woken)
        os.close(tell)
        watch.join()
        os.close(told)


def begin() -> None:
    """From here on something is begun, which a signal may leave to `xmlkit recover`."""
    global _begun
    with _beginning:
        _begun = True


def _watch(told: int, numbers: Collection[int], heard: Sequence[float], ending: str) -> None:
    """Read the signals as they arrive; end the process by one that is not heard after a warning.

    Or by one that is heard before begin(), if the command is not over then.

    heard: when the last one was, by the monotonic clock.
    """
    warned = 0.0
    while number := os.read(told, 1):
        if number[0] not in numbers:
            continue
        now = time.monotonic()
        since = now - _PATIENCE / 2  # it may have been heard before it was read here
        while heard[0] < since and time.monotonic() < now + _PATIENCE:
            time.sleep(0.05)
        if heard[0] >= since:
            if not _begun and not _is_over(told):
                with _beginning:
                    if not _begun:
                        _end(ending)
            continue
        if warned > heard[0]:
            with _beginning:
                _end(RECOVERED if _begun else ending)
        warned = time.monotonic()
        _tell("waiting for libvirt or a disk to answer; Ctrl-C again ends xmlkit at once")
        # a terminal that closes says it twice: who has not been told this does not mean it
        while select.select((told,), (), (), 0)[0] and os.read(told, 1024):
            pass


def _is_over(told: int) -> bool:
    """Whether the command comes to its end soon; more signals make no difference meanwhile."""
    end = time.monotonic() + _PATIENCE
    while (left := end - time.monotonic()) > 0:
        if select.select((told,), (), (), left)[0] and not os.read(told, 1024):
            return True
    return False


def _end(ending: str) -> None:
    cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
    _tell(f"{cursor}ended: {ending}")
    os._exit(130)


def _tell(line: str) -> None:
    """On stderr, past Python's buffer: the main thread may be in the middle of it."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())
