"""Killing an action at each of its steps, to see what it leaves behind.

Rules
- A step is a call of anything that is written in C, so each system call is between two of them.
- The processes that die are forked from one that has nothing but the action: no threads, no start.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

_FORKER = """
import os, signal, sys
{setup}
def killer(count):
    def profile(frame, event, argument):
        nonlocal count
        if event == "c_call":
            count -= 1
            if count == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    return profile
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        sys.setprofile(killer(int(line)))
        try:
            {action}
        finally:
            sys.setprofile(None)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def kills(setup: str, action: str, *arguments: object) -> Iterator[int]:
    """Run `action`, an expression of Python, killed at its 1st, 2nd, ... step; yield after each.

    The arguments are in sys.argv[1:] of `setup`. The last run, which ended by itself, is the last.
    """
    code = _FORKER.format(setup=setup, action=action)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        step, ended = 0, False
        while not ended:
            step += 1
            process.stdin.write(f"{step}\n")
            process.stdin.flush()
            answer = process.stdout.readline().strip()
            assert answer in ("-9", "0"), f"step {step}: the action failed: {answer}"
            ended = answer == "0"
            yield step
        process.stdin.close()
        assert 0 == process.wait(60)
