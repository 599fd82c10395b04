"""Names of a package that are imported when they are first used.

Laws
- What is looked up once is the package's own from then on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["attributes"]


def attributes(package: str, homes: Mapping[str, Iterable[str]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package (PEP 562) whose names are at home in other modules.

    package: its name. homes: the names that each module gives. What is returned raises
    AttributeError for any other name, and ImportError where a module needs what is not there.
    """

    def attribute(name: str) -> Any:
        for home, given in homes.items():
            if name in given:
                value = getattr(import_module(home), name)
                setattr(sys.modules[package], name, value)
                return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return attribute
