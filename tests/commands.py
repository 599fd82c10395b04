"""The commands as an operator runs them: processes of their own, in a shell's environment."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema
from scene import Scene

CODE = "from xmlkit.cli import main; main()"
SCHEMAS = Path(__file__).parents[1] / "schemas"
SECONDS = 120.0
CTRL_C = "\x03"
WAITING = "waiting for libvirt or a disk to answer; Ctrl-C again ends xmlkit at once\n"


class Done(subprocess.CompletedProcess[str]):
    """A command that has ended; told(CODE) checks its exit code and that no traceback is shown."""

    def told(self, code: int) -> Done:
        assert code == self.returncode, (self.args, self.stdout, self.stderr)
        shown = f"{self.stdout}{self.stderr}"
        assert "Traceback" not in shown
        assert "please report it" not in shown
        return self

    def refused(self, words: str) -> None:
        """Exit code 2, nothing on stdout, and one line that says why."""
        self.told(2)
        assert "" == self.stdout
        *usage, line = self.stderr.rstrip("\n").split("\n")
        assert words in line
        assert [] == [each for each in usage if each and not each.startswith(("Usage:", "Try "))]


@dataclass
class Shell:
    """Where commands are run: a scene, or another libvirt by its URI."""

    uri: str | None
    state: Path
    variables: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, scene: Scene) -> Shell:
        return cls(scene.libvirtd.uri, scene.libvirtd.directory / "state")

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("LIBVIRT_", "XMLKIT_", "NO_COLOR"))
        }
        given = {"LIBVIRT_DEFAULT_URI": self.uri} if self.uri is not None else {}
        return kept | given | {"XMLKIT_STATE_DIR": str(self.state)} | self.variables

    def start(self, *arguments: object, code: str = CODE, **options: Any) -> subprocess.Popen[str]:
        """A command that runs on."""
        words = [sys.executable, "-c", code, *map(str, arguments)]
        environment = self.environment
        if code != CODE:
            # what another user runs cannot write down what it covers
            environment = {k: v for k, v in environment.items() if not k.startswith("COV")}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(words, text=True, env=environment, **(pipes | options))

    def end(self, process: subprocess.Popen[str]) -> Done:
        """A command that was started, when it has ended."""
        with ended(process):
            stdout, stderr = process.communicate(timeout=SECONDS)
        return Done(process.args, process.returncode, stdout, stderr)

    def __call__(self, *arguments: object, **options: Any) -> Done:
        """A command, from its start to its end."""
        return self.end(self.start(*arguments, **options))

    def json(self, schema: str, code: int, *arguments: object) -> dict[str, Any]:
        """What a command prints as JSON, valid by its published schema."""
        done = self(*arguments, "--format", "json").told(code)
        found: dict[str, Any] = json.loads(done.stdout)
        rules = json.loads((SCHEMAS / f"{schema}-1.json").read_text())
        jsonschema.validate(found, rules, jsonschema.Draft202012Validator)
        return found

    def transitions(self) -> list[str]:
        """The ids of the journals."""
        return sorted(path.stem for path in self.state.glob("*.jsonl"))

    def written(self) -> str:
        """All that stands in the state directory but the key."""
        files = [path for path in self.state.iterdir() if path.name != "host-key"]
        return "\n".join(path.read_text() for path in files)

    def on_terminal(
        self,
        *arguments: object,
        answer: str = "",
        before: Callable[[], object] = lambda: None,
        after: Callable[[int], object] = lambda _: None,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> Done:
        """A command on a terminal; what it shows there is its stderr, its stdout is a pipe.

        answer: typed when it asks; before: called before it is typed; after: after that, with the
        PID.
        """
        primary, secondary = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, *map(str, arguments)],
            stdin=secondary,
            stdout=subprocess.PIPE,
            stderr=secondary,
            env=self.environment | {"TERM": "xterm", "COLUMNS": "200"} | dict(variables),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C is for it
            text=True,
        )
        os.close(secondary)
        shown = b""
        deadline = time.monotonic() + SECONDS
        with ended(process), open(primary, "r+b", buffering=0):
            while True:
                assert time.monotonic() < deadline, shown
                if not select.select([primary], [], [], 1)[0]:
                    if answer == CTRL_C and b"^C" in shown:
                        # Python was just about to read, and has not heard of it
                        os.write(primary, answer.encode())
                    continue
                try:
                    shown += os.read(primary, 65536)
                except OSError:  # its last writer has ended
                    break
                if shown.endswith(b"[y/N]: "):
                    before()
                    os.write(primary, answer.encode())
                    after(process.pid)
            stdout, _ = process.communicate(timeout=SECONDS)
        text = shown.decode().replace("\r\n", "\n")
        return Done(process.args, process.returncode, stdout, text)


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """However the test ends: no process runs on, and no pipe is left for another test to find."""
    with process:
        try:
            yield
        finally:
            if process.poll() is None:
                process.kill()


def until_said(process: subprocess.Popen[str], words: str) -> None:
    """Read a command's stderr until it says this."""
    assert process.stderr is not None
    read: Callable[[], str] = process.stderr.readline
    said = ""
    while words not in said:
        line = read()
        assert line, f"it ended: {said}"
        said += line


def hears(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)
