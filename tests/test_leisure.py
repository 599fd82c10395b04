"""Waiting for a pool: only what may pass by itself is waited for.

Rules
- The real thing, a libvirtd that builds a volume meanwhile, is in test_executor.py.
"""

from __future__ import annotations

from typing import Any

import libvirt
import pytest

from xmlkit import leisure

BUSY = "internal error: pool 'p' has asynchronous jobs running."
INTERNAL, SYSTEM = libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_SYSTEM_ERROR


class Pool:
    """A pool that fails with these errors in turn, and then no more."""

    def __init__(self, *errors: tuple[int, str], alive: bool = True) -> None:
        self.errors = list(errors)
        self.alive = alive

    def refresh(self, flags: int) -> None:
        if self.errors:
            code, message = self.errors.pop(0)
            error = libvirt.libvirtError("failed")
            error.err = (code, 18, message, 2, None, None, None, 0, 0)
            raise error

    def connect(self) -> Any:
        return self

    def isAlive(self) -> bool:
        return self.alive


def test_a_busy_pool_is_asked_again() -> None:
    """Until it is no more; also one that speaks another language."""
    pool = Pool((INTERNAL, BUSY), (INTERNAL, "interner Fehler: Pool 'p' ..."))
    leisure.refresh(pool, seconds=60)

    assert [] == pool.errors


@pytest.mark.parametrize(
    ("pool", "seconds"),
    [
        (Pool((SYSTEM, "cannot open directory"), (INTERNAL, BUSY)), 60.0),
        (Pool((INTERNAL, "client socket is closed"), (INTERNAL, BUSY), alive=False), 60.0),
        (Pool((INTERNAL, BUSY), (INTERNAL, BUSY)), -1.0),
    ],
    ids=["another error", "no connection", "no time"],
)
def test_any_other_error_comes_through_at_once(pool: Pool, seconds: float) -> None:
    """As libvirt says it; the pool is not asked again."""
    with pytest.raises(libvirt.libvirtError):
        leisure.refresh(pool, seconds=seconds)

    assert 1 == len(pool.errors)


def test_what_does_not_say_that_it_is_busy_is_asked_for_a_shorter_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The code alone may be a volume group that is broken: nobody waits for minutes for that."""
    monkeypatch.setattr(leisure, "UNCLEAR", -1.0)
    pool = Pool((INTERNAL, BUSY), (INTERNAL, "vgs failed"), (INTERNAL, BUSY))
    with pytest.raises(libvirt.libvirtError):
        leisure.refresh(pool, seconds=60)

    assert 1 == len(pool.errors)
