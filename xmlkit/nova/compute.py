"""`xmlkit-nova-compute`: nova-compute with xmlkit in it."""

from __future__ import annotations


def main() -> int:
    """Run nova-compute."""
    raise NotImplementedError
