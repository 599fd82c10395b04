"""xmlkit completion: the script that makes a shell complete xmlkit's words, and the words.

Laws
- What may stand at a place is told by its metavar, as in the help: one rule for all commands.
- Nothing is connected to, and what goes wrong completes nothing: somebody is typing a line.
- A word that a shell would not read back as it is, is not offered.
- bash takes `a=b` and `a:b` apart: they are put together before they are looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from xmlkit.cli import COMPLETE
from xmlkit.errors import XmlkitError

__all__ = ["command", "taught"]

Words = Iterable[tuple[str, str]]

_PLAIN = re.compile(r"[\w.+@%/:=-]+")

# A word for bash is what stands between these: the line itself tells which were typed as one.
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n'
    local response each kind value

    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" \\
        COMP_WORDS="${COMP_WORDS[*]:0:COMP_CWORD+1}" %(complete_var)s=bash_complete "$1")

    for each in $response; do
        IFS=',' read kind value <<< "$each"
        case $kind in
            dir) COMPREPLY=(); compopt -o dirnames ;;
            file) COMPREPLY=(); compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that makes a shell complete commands, options, files, ids and pools.

    \b
    Exit code: 0, 2 for another shell.

    \b
    Example: in ~/.bashrc
        eval "$(xmlkit completion bash)"
    """
    script = get_completion_class(shell)
    assert script is not None
    context = click.get_current_context().find_root()
    click.echo(script(context.command, {}, "xmlkit", COMPLETE).source(), nl=False)


class _Bash(BashComplete):
    """bash, whose words are put together as they were typed."""

    source_template = _BASH
    _before = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        words = os.environ["COMP_WORDS"].split("\n")
        *args, incomplete = map(_unquoted, _rejoined(words, os.environ["COMP_LINE"]))
        last = words[-1]
        # what bash has of the word already, and puts before what it is given
        own = "" if last.strip("=:") == "" else _unquoted(last)
        self._before = incomplete.removesuffix(own)
        return args[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{item.value.removeprefix(self._before)}"


add_completion_class(_Bash)


def _unquoted(word: str) -> str:
    return "".join(split_arg_string(word))


def _rejoined(words: Iterable[str], line: str) -> list[str]:
    """The words of the end of a line, those that no space parts as one."""
    found: list[str] = []
    apart = True
    for word in reversed(list(words)):
        if not line.endswith(word):
            # the cursor stands within it
            return list(words)
        line = line.removesuffix(word)
        if apart:
            found.append(word)
        else:
            found[-1] = word + found[-1]
        apart = line[-1:].isspace()
        line = line.rstrip()
    return found[::-1]


def taught(command: click.Command) -> click.Command:
    """The command, whose parameters and whose commands' parameters now know their words."""
    for parameter in command.params:
        if parameter.type is click.STRING and (words := _words_of(command, parameter)):
            parameter.type = _Completed(words)
    if isinstance(command, click.Group):
        for each in command.commands.values():
            taught(each)
    return command


class _Completed(click.types.StringParamType):
    """A text whose words are known."""

    def __init__(self, words: str | Callable[[click.Context], Words]) -> None:
        self._words = words

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        if isinstance(self._words, str):
            return [CompletionItem(incomplete, type=self._words)]
        try:
            words = list(self._words(ctx))
        except (XmlkitError, OSError):
            return []
        return [
            CompletionItem(word, help=help)
            for word, help in words
            if word.startswith(incomplete)
            and _PLAIN.fullmatch(word)
            # root=POOL is offered to who has begun with root=
            and ("=" in incomplete or "=" not in word)
        ]


def _words_of(
    command: click.Command, parameter: click.Parameter
) -> str | Callable[[click.Context], Words] | None:
    """What may stand there: the shell's own word for a file or a directory, or what lists it."""
    metavar = parameter.metavar or ""
    if re.search(r"\b(FILE|PLAN|OUT|OLD)\b", metavar) or metavar == "PATH":
        return "file"
    if metavar.startswith("DIR"):
        return "dir"
    if parameter.name == "accept":
        return _acceptable
    if parameter.name == "id":
        return _rules if command.name == "explain" else _transitions
    return {"URI": _uris, "[KIND=]POOL": _pools}.get(metavar)


def _uris(context: click.Context) -> Words:
    usual = ("qemu:///system", "qemu:///session", "test:///default")
    own = os.environ.get("LIBVIRT_DEFAULT_URI")
    return ((uri, "") for uri in dict.fromkeys((own, *usual) if own else usual))


def _acceptable(context: click.Context) -> Words:
    from xmlkit.rules import ACCEPTABLE, RULES

    return ((id, RULES[id].title) for id in ACCEPTABLE)


def _rules(context: click.Context) -> Words:
    from xmlkit.rules import RULES

    return ((id, RULES[id].title) for id in sorted(RULES))


def _transitions(context: click.Context) -> Words:
    from xmlkit import journal, state

    directory = state.directory(context.params.get("state_dir"), make=False)
    return ((id, "") for id in reversed(journal.ids(str(directory))))


def _pools(context: click.Context) -> Words:
    """The pools that --pool names and those in the file of --host, also with a kind of disk."""
    from xmlkit.plan import KINDS

    for name, what in _known_pools(context):
        yield name, what
        yield from ((f"{kind}={name}", what) for kind in KINDS)


def _known_pools(context: click.Context) -> Words:
    for given in context.params.get("pools") or ():
        yield str(given).partition("=")[0], ""
    file = context.params.get("host_file")
    if file and os.path.isfile(file):
        from xmlkit.cli import files
        from xmlkit.host import HOST_LIMITS, parse_host

        for pool in parse_host(files.read(file, HOST_LIMITS.size), HOST_LIMITS).pools:
            yield pool.name, f"{pool.type} {pool.path or ''}".strip()
