"""The threads of the Nova that is installed: those that its nova-compute takes by default.

`environment()` is for a process that is only Nova; pytest's own has native ones (conftest.py).
"""

from __future__ import annotations

import importlib.metadata
import os

VARIABLE = "OS_NOVA_DISABLE_EVENTLET_PATCHING"
NATIVE_SINCE = 34


def environment() -> dict[str, str]:
    """This process's environment, with the threads of nova-compute: eventlet's before 34."""
    release = int(importlib.metadata.version("nova").partition(".")[0])
    return {**os.environ, VARIABLE: "true" if release >= NATIVE_SINCE else "false"}
