"""A count on a terminal, of what takes its time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

__all__ = ["Counting"]

# Seconds between two looks of the count: a terminal is slow.
_RATE = 0.1


class Counting:
    """Counts on stderr, and is out of the way while something else is written there.

    what: is counted. patience: seconds before it shows at all. shared: whether stdout is the same
    terminal.
    """

    def __init__(self, what: str, patience: float, shared: bool) -> None:
        self._what = what
        self._shared = shared
        self._done = 0
        self._next = time.monotonic() + patience
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Counting:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _RATE
        if self._bar is None:
            self._bar = self._made()
            self._bar.start()
        self._bar.update(self._task, completed=self._done, refresh=True)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While something is written to the same terminal."""
        if self._bar is None or not self._shared:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def _made(self) -> Any:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.completed:,.0f} {task.description}"),
            TimeElapsedColumn(),
        )
        # without a thread: this process may have to fork
        bar = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
        self._task = bar.add_task(self._what, total=None)
        return bar
