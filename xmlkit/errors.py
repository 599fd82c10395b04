"""The one class that all of xmlkit's errors are of, so that a caller can catch them together."""

from __future__ import annotations

__all__ = ["XmlkitError"]


class XmlkitError(Exception):
    """Input, a host or a file that xmlkit cannot work with; the message is for people."""
