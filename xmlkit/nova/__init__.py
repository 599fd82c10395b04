"""xmlkit inside Nova: `enable()` puts it into a Nova that has been imported, `disable()` takes it
out again.

Laws
- xmlkit never needs Nova: nothing here imports it before it is asked to.
- What is not recognised is refused, by name, before anything is changed.
- Taken out, the very objects that were there are back.
"""

from __future__ import annotations

__all__ = ["disable", "enable"]


def enable() -> None:
    """Put xmlkit into the Nova that is imported."""
    raise NotImplementedError


def disable() -> None:
    """Take out what `enable` has put in."""
    raise NotImplementedError
