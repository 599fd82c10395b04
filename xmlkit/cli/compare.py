"""xmlkit compare: what differs between two libvirt documents, by what libvirt reads in them."""

from __future__ import annotations

import click

from xmlkit.cli import drop_output, files
from xmlkit.cli.paint import Paint, color_option, painter
from xmlkit.compare import SCHEMA, Difference, compare, in_words
from xmlkit.document import Document, Limits

_COLOURS = {"added": "green", "removed": "red", "changed": "yellow"}


class _Command(click.Command):
    """What follows --git is git's: names of files that may look like options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = args[: args.index("--")] if "--" in args else args
        if "--git" in options:
            at = options.index("--git") + 1
            args = [*args[:at], "--", *args[at:]]
        return super().parse_args(ctx, args)


@click.command(name="compare", cls=_Command)
@click.option(
    "--ignore-defaults",
    is_flag=True,
    help="A default that only one of them spells is no difference.",
)
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@color_option
@click.option("--show-secrets", is_flag=True, help="Do not redact passwords and cookies.")
@click.option(
    "--git",
    is_flag=True,
    help="Be git's diff driver: its arguments follow, and exit code 0 also if they differ.",
)
@files.limit_options
@click.argument("documents", metavar="OLD NEW", nargs=-1)
def command(
    documents: tuple[str, ...],
    ignore_defaults: bool,
    format_: str,
    color: str,
    show_secrets: bool,
    git: bool,
    max_size: int,
    max_depth: int,
    max_markup: int,
) -> int:
    """Compare two libvirt documents by what libvirt reads in them, not by their text.

    Both are of one kind: domains, volumes, pools, networks, snapshots ...
    Disks are told apart by their target, interfaces by MAC, controllers by type
    and index. Order that libvirt ignores, units, the spelling of numbers,
    comments and white space are no difference. OLD or NEW may be -, which is
    stdin.

    \b
    Exit code: 0 no difference, 1 some, 2 trouble. With --git 0 for any file.

    \b
    Example:
        virsh dumpxml --inactive guest | xmlkit compare guest.xml -
    """
    bounds = files.limits(max_size, max_depth, max_markup)
    options = {"ignore_defaults": ignore_defaults, "show_secrets": show_secrets}
    if git:
        if format_ != "text":
            raise click.UsageError("--git goes with --format text: git shows it as it is")
        return _for_git(documents, bounds, painter(color, by_git=True), options)
    if len(documents) != 2:
        raise click.UsageError(f"say two documents, OLD and NEW, not {len(documents)}")
    old, new = documents
    if old == new == "-":
        raise files.FileError("stdin can be only one of the two documents: name a file")
    before = files.read_document(old, bounds)
    after = files.read_document(new, bounds)
    found = compare(before, after, **options)
    if format_ == "json":
        import json

        data = {
            "schema": SCHEMA,
            "old": old,
            "new": new,
            "kind": before.kind,
            "differences": [difference._asdict() for difference in found],
        }
        click.echo(json.dumps(data, indent=2))
    else:
        paint = painter(color)
        for difference in found:
            click.echo(_line(difference, paint), color=True)
    return int(bool(found))


def _for_git(given: tuple[str, ...], bounds: Limits, paint: Paint, options: dict[str, bool]) -> int:
    from xmlkit.cli.git import shown

    def compared(old: Document, new: Document) -> list[str]:
        return [_line(difference, paint) for difference in compare(old, new, **options)]

    show_secrets = options["show_secrets"]
    try:
        for line in shown(given, compared, bounds, paint, show_secrets=show_secrets):
            click.echo(line, color=True)
    except BrokenPipeError:
        # the reader has seen enough, of which git would say that its driver died
        drop_output()
    return 0


def _line(difference: Difference, paint: Paint) -> str:
    action, where, values = in_words(difference)
    return f"{paint(action, fg=_COLOURS[difference.action])} {paint(where, bold=True)}: {values}"
