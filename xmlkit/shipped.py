"""Where the files are that ship with xmlkit beside its code: schemas and templates.

Laws
- One function finds them, in an installed wheel and in a checkout.
- It gives a real path: libxml2 resolves includes against files.
"""

from __future__ import annotations

import os

__all__ = ["directory"]

_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def directory(name: str) -> str:
    """The directory `name` ("schemas", "templates") of files that xmlkit ships.

    Raises FileNotFoundError where neither the package nor its checkout has it.
    """
    for place in (_PACKAGE, os.path.dirname(_PACKAGE)):
        path = os.path.join(place, name)
        # a module may have the name as well: a directory of files is meant
        if os.path.isdir(path):
            return path
    raise FileNotFoundError(f"xmlkit is installed without its {name}; install it anew")
