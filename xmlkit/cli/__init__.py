"""The command `xmlkit`: one file a command, imported only when it is called.

Laws
- stdout is for what was asked for, stderr for everything else.
- Wrong input ends in one line that says what is wrong, where, and what to do, and exit code 2.
- Nothing is imported before it is needed: a cold command should feel instant.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from xmlkit import __version__
from xmlkit.errors import XmlkitError
from xmlkit.printable import printable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["COMPLETE", "SECONDS", "TROUBLE", "drop_output", "main", "printable"]

COMMANDS = {
    "apply": "Carry a transition out.",
    "cache": "List, show and prune Nova's image cache.",
    "compare": "Compare two documents by what libvirt reads in them.",
    "completion": "Print the script that makes a shell complete xmlkit's words.",
    "diff": "Show what a transition will change in a domain.",
    "explain": "Explain an id that xmlkit printed.",
    "hook": "Rewrite the XML of a domain that migrates to this host.",
    "journal": "List the transitions of this host.",
    "migrate": "Move a running guest to another host and onto its pools.",
    "observe": "Write down what libvirt reports of a host.",
    "plan": "Decide what becomes of each disk, as JSON.",
    "pool": "Write the XML that creates a storage pool.",
    "recover": "Bring interrupted transitions to an end.",
    "rollback": "Take a transition back.",
    "snapshot": "Copy a disk of a domain to a new image.",
    "status": "Show whether a host is ready, and where its domains stand.",
    "transform": "Rewrite a domain's disks to volumes or to paths.",
    "validate": "Check libvirt XML against libvirt's schemas.",
    "volume": "Write the XML that creates, copies or snapshots a volume.",
}

TROUBLE = 2

# The variable by which click is asked for words by a shell's script.
COMPLETE = "_XMLKIT_COMPLETE"


class _Seconds(click.FloatRange):
    """A time: more than 0, and an end."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value} is no time", param, ctx)
        return found


SECONDS = _Seconds(min=0, min_open=True)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"xmlkit.cli.{name}").command
        if COMPLETE in os.environ:
            command = import_module("xmlkit.cli.completion").taught(command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # without importing the commands
        from click.shell_completion import CompletionItem

        options = click.Command.shell_complete(self, ctx, incomplete)
        commands = ((name, text) for name, text in COMMANDS.items() if name.startswith(incomplete))
        return [*(CompletionItem(name, help=text) for name, text in commands), *options]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # without importing the commands
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _tell_version(context: click.Context, option: click.Parameter, asked: bool) -> None:
    """Print it and exit, if it is asked for."""
    if not asked or context.resilient_parsing:
        return
    if context.params.get("verbose"):
        for name, what in import_module("xmlkit.about").about():
            click.echo(f"{name:<14} {printable(what)}")
    else:
        click.echo(f"xmlkit {__version__}")
    context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    callback=_tell_version,
    help="Show the version and exit.",
)
@click.option(
    "--verbose",
    is_flag=True,
    is_eager=True,
    help="With --version: also what xmlkit runs on, for reports of faults.",
)
def cli(verbose: bool) -> None:
    """Move virtual machines onto libvirt storage pools, and check libvirt XML.

    \b
    Example: what would change if the disks of a guest became volumes?
        xmlkit diff --connect qemu:///system DOMAIN
    """
    if verbose:
        raise click.UsageError("--verbose goes with --version")


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit: 0, 1 and 2 as each command's help says, 130 on Ctrl-C."""
    own_process = args is None
    if own_process:
        # modules live as long as the process: the collector need not look them through
        gc.freeze()
    _open_streams()
    try:
        if COMPLETE in os.environ:
            import_module("xmlkit.cli.completion")
        # a command returns its exit code, None for 0
        code = cli.main(args, "xmlkit", COMPLETE, standalone_mode=False) or 0
        sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = 130
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        code = TROUBLE
    except BrokenPipeError:
        # the reader has seen enough
        drop_output()
        code = 141
    except XmlkitError as error:
        _complain(str(error))
        code = TROUBLE
    except OSError as error:
        # files are read and written in cli/files.py, which names them: this is stdout
        _complain(f"cannot write to stdout: {error.strerror}")
        drop_output()
        code = TROUBLE
    except Exception as error:
        # Python would exit with 1, which has a meaning here
        if os.environ.get("XMLKIT_DEBUG"):
            raise
        _complain(
            f"internal error: {type(error).__name__}: {error}; please report it "
            "(XMLKIT_DEBUG=1 shows where)"
        )
        code = TROUBLE
    if own_process:
        # nor at exit, which would take as long as a tenth of a cold command
        gc.freeze()
    sys.exit(code)


def _complain(message: str) -> None:
    """On stderr; if that is full, the exit code has to say it alone."""
    with contextlib.suppress(OSError):
        click.echo(f"xmlkit: {printable(message)}", err=True)


def _open_streams() -> None:
    """A stream may be closed, as a daemon's are; and a file's name may be any bytes."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # closed stdout is trouble when it is written to, closed stderr is not
            flags = os.O_RDONLY if name == "stdout" else os.O_WRONLY
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), "w"))
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Keep Python from trying again, and failing again, at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
