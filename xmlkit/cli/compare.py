"""xmlkit compare: what differs between two libvirt documents, by what libvirt reads in them."""

from __future__ import annotations

import click

from xmlkit.cli import files
from xmlkit.cli.paint import Paint, color_option, painter
from xmlkit.compare import SCHEMA, Difference, compare, in_words

_COLOURS = {"added": "green", "removed": "red", "changed": "yellow"}


@click.command(name="compare")
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
@files.limit_options
@click.argument("old")
@click.argument("new")
def command(
    old: str,
    new: str,
    ignore_defaults: bool,
    format_: str,
    color: str,
    show_secrets: bool,
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
    Exit code: 0 no difference, 1 some, 2 trouble.

    \b
    Example:
        virsh dumpxml --inactive guest | xmlkit compare guest.xml -
    """
    if old == new == "-":
        raise files.FileError("stdin can be only one of the two documents: name a file")
    bounds = files.limits(max_size, max_depth, max_markup)
    before = files.read_document(old, bounds)
    after = files.read_document(new, bounds)
    found = compare(before, after, ignore_defaults=ignore_defaults, show_secrets=show_secrets)
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


def _line(difference: Difference, paint: Paint) -> str:
    action, where, values = in_words(difference)
    return f"{paint(action, fg=_COLOURS[difference.action])} {paint(where, bold=True)}: {values}"
