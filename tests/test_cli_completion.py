"""xmlkit completion: in the real bash, zsh and fish a line is typed, completed and run."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import click
import pytest

from xmlkit.cli import COMMANDS
from xmlkit.cli.completion import taught
from xmlkit.rules import ACCEPTABLE, RULES

ROOT = Path(__file__).parents[1]
PATIENCE = 120  # seconds, on the busiest machine
READY = "READY>"
ID = "20261122-161402-4f2a"
HOST = """<host version='1'>
<storage active='yes' autostart='yes'><pool type='dir'><name>nova-disks-pool</name>
<target><path>/var/lib/nova/instances/disks</path></target></pool></storage>
<storage active='yes' autostart='yes'><pool type='dir'><name>nova$(touch owned)</name>
<target><path>/x</path></target></pool></storage>
</host>
"""
# What is typed, with a TAB for each \t, and what the line then prints.
LINES = {
    "command": ("xmlkit expl\tformat-disagrees", "format-disagrees: "),
    "id": ("xmlkit explain format-dis\t", "format-disagrees: "),
    "subcommand": ("xmlkit cache pr\t--help", "Usage: xmlkit cache prune"),
    "option": ("xmlkit explain --he\t", "Usage: xmlkit explain"),
    "choice": ("xmlkit compare --format js\t gue\t gue\t", "xmlkit.compare/1"),
    "directory": ("xmlkit journal --state-dir stat\t", f"{ID}.jsonl"),
    "transition": ("xmlkit journal --state-dir state 2026\t", f"{ID}.jsonl"),
    "pool": ("xmlkit diff --host host\t --relocate nova-d\t gue\t", "valid before"),
    "kind": ("xmlkit diff --host host.xml --relocate root=nova-d\t gue\t", "valid before"),
    "space": ("xmlkit compare --format json my\t gue\t", "xmlkit.compare/1"),
    "uri": ("xmlkit diff --connect test:///de\t test", "/guest/diskimage1"),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory to stand in, with a guest, a host file, and a journal that is damaged."""
    shutil.copy(ROOT / "fixtures/file-in-pool.xml", tmp_path / "guest.xml")
    shutil.copy(tmp_path / "guest.xml", tmp_path / "my guest.xml")
    (tmp_path / "host.xml").write_text(HOST)
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / f"state/{ID}.jsonl").write_text("damaged\n")
    (tmp_path / ".zshrc").write_text(
        f"PROMPT='{READY}'; autoload -Uz compinit; compinit -u -D\n"
        'eval "$(xmlkit completion zsh)"\n'
    )
    (tmp_path / "bashrc").write_text(f"PS1='{READY}'\neval \"$(xmlkit completion bash)\"\n")
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    """That of a terminal with the xmlkit of this interpreter, and without anybody's settings."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"HOME": str(home), "ZDOTDIR": str(home), "PATH": path, "TERM": "xterm", "NO_COLOR": "1"}
    kept = ("COV", "TMP", "XDG_CACHE")
    return {key: value for key, value in os.environ.items() if key.startswith(kept)} | own


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, end: int) -> None:
        self._end = end
        self.printed = ""

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def wait_for(self, text: str) -> None:
        """Until it is printed after all that was waited for before; fails if it never is."""
        until = time.monotonic() + PATIENCE
        while text not in self.printed:
            left = until - time.monotonic()
            ready, _, _ = select.select([self._end], [], [], max(left, 0))
            assert ready, f"no {text!r} in {self.printed!r}"
            self.printed += os.read(self._end, 4096).decode(errors="replace")
        self.printed = self.printed.partition(text)[2]


@contextmanager
def terminal(shell: str, home: Path) -> Iterator[Terminal]:
    if shutil.which(shell) is None and not os.environ.get("CI"):
        pytest.skip(f"{shell} is not installed")
    words = {
        "bash": ["bash", "--noprofile", "--rcfile", "bashrc", "-i"],
        "zsh": ["zsh", "-d", "-i"],
    }
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        words[shell],
        cwd=home,
        env=environment(home),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(ours)
        finally:
            process.kill()
            os.close(ours)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_line_is_completed_and_runs(shell: str, home: Path) -> None:
    """Commands, options, choices, files, ids and pools, each by a TAB, as a person types them."""
    with terminal(shell, home) as at:
        for typed, expected in LINES.values():
            at.wait_for(READY)
            at.type(f"{typed}\n")
            at.wait_for(expected)


@pytest.mark.parametrize("name", LINES)
def test_fish_offers_the_same(name: str, home: Path) -> None:
    """fish can be asked what it would offer for a line."""
    if shutil.which("fish") is None and not os.environ.get("CI"):
        pytest.skip("fish is not installed")
    wanted = {
        "command": "explain",
        "id": "format-disagrees",
        "subcommand": "prune",
        "option": "--help",
        "choice": "json",
        "directory": "state/",
        "transition": ID,
        "pool": "nova-disks-pool",
        "kind": "root=nova-disks-pool",
        "space": "my guest.xml",
        "uri": "test:///default",
    }
    typed = LINES[name][0].split("\t")[1 if name == "pool" else 0]
    line = f"xmlkit diff --host host.xml{typed}" if name == "pool" else typed
    done = subprocess.run(
        ["fish", "--no-config", "-c", 'xmlkit completion fish | source; complete -C "$argv"', line],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert wanted[name] in [offered.partition("\t")[0] for offered in done.stdout.splitlines()]


def asked(line: str, home: Path) -> list[str]:
    """The words that a shell is given for the last word of a line, with their kind."""
    command = line.rpartition("| ")[2]
    words = {
        "_XMLKIT_COMPLETE": "bash_complete",
        "COMP_LINE": line,
        # as bash takes the last command of a line apart
        "COMP_WORDS": re.sub(" |(?<=[=:])(?=[^=:])|(?<=[^ =:])(?=[=:])", "\n", command),
    }
    done = subprocess.run(
        ["xmlkit"], cwd=home, env=environment(home) | words, capture_output=True, text=True
    )
    assert "" == done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("xmlkit ", sorted(COMMANDS), id="commands"),
        pytest.param("xmlkit explain ", sorted(RULES), id="ids"),
        pytest.param("xmlkit status --accept ", list(ACCEPTABLE), id="acceptable"),
        pytest.param("xmlkit diff --host host.xml --relocate ", ["nova-disks-pool"], id="pools"),
        pytest.param("xmlkit diff --pool p=/x --relocate ", ["p"], id="named-pools"),
        pytest.param("xmlkit diff --pool p=/x --relocate swap=", ["p"], id="pools-of-a-kind"),
        pytest.param("xmlkit diff --pool p=/x --relocate swap=p", ["p"], id="a-pool-of-a-kind"),
        pytest.param("xmlkit diff --connect test:///d", ["///default"], id="uris"),
        pytest.param("false | xmlkit explain format-d", ["format-disagrees"], id="in-a-pipe"),
        pytest.param("xmlkit rollback --state-dir state ", [ID], id="transitions"),
        # where nothing is known nothing is said
        pytest.param("xmlkit diff --host guest.xml --relocate ", [], id="no-host"),
        pytest.param("xmlkit diff --host missing.xml --relocate ", [], id="no-file"),
        pytest.param("xmlkit rollback --state-dir guest.xml ", [], id="no-directory"),
        pytest.param("xmlkit status --connect test:///default ", [], id="no-connection"),
        pytest.param("xmlkit volume create --capacity ", [], id="a-number"),
    ],
)
def test_words_are_those_that_there_are(line: str, expected: list[str], home: Path) -> None:
    """All ids, only what may be accepted, pools by a safe name; never a word of what went wrong."""
    assert [f"plain,{word}" for word in expected] == asked(line, home)
    assert not (home / "owned").exists()


def parameters(command: click.Command) -> Iterator[click.Parameter]:
    yield from command.params
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from parameters(each)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_file_can_be_completed(name: str) -> None:
    """Whatever a command's help calls a file or a directory, the shell is asked for."""
    command = taught(import_module(f"xmlkit.cli.{name}").command)
    context = click.Context(command)
    for parameter in parameters(command):
        shown = parameter.metavar or ""
        if {"FILE", "OUT", "PLAN", "DIR"} & set(shown.replace(".", "|").split("|")):
            (item,) = parameter.type.shell_complete(context, parameter, "x")
            assert item.type == ("dir" if shown.startswith("DIR") else "file"), shown
            assert "x" == item.value
