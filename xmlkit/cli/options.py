"""Options that several commands have, each written once.

Laws
- An option of one name means the same wherever it is taken from here.
- A help text imports neither libvirt nor lxml, and a command no rule before one is named.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from xmlkit.cli import SECONDS

__all__ = [
    "ACCEPT",
    "ALL",
    "CONNECT",
    "DIFF",
    "DRY_RUN",
    "FORMAT",
    "RELOCATE",
    "SCHEMAS",
    "STATE_DIR",
    "TO",
    "YES",
    "host_to_change",
    "restarting",
]


def _acceptable(
    ctx: click.Context, param: click.Parameter, ids: tuple[str, ...]
) -> tuple[str, ...]:
    from xmlkit.rules import ACCEPTABLE

    return tuple(click.Choice(ACCEPTABLE).convert(id, param, ctx) for id in ids)


ACCEPT = click.option(
    "--accept",
    callback=_acceptable,
    metavar="ID",
    multiple=True,
    help="A rule that shall not stand in the way.",
)
ALL = click.option("--all", "all_", is_flag=True, help="All domains of the host.")
CONNECT = click.option("--connect", metavar="URI", help="libvirt's URI; else $LIBVIRT_DEFAULT_URI.")
DIFF = click.option(
    "--diff", is_flag=True, help="Show the difference of each domain's XML, secrets redacted."
)
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Show each step as a command, and change nothing."
)
FORMAT = click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
RELOCATE = click.option(
    "--relocate",
    metavar="[KIND=]POOL",
    multiple=True,
    help="Move disks in Nova's instance directory into POOL; KIND root, ephemeral, swap.",
)
SCHEMAS = click.option("--schemas", metavar="DIR", help="libvirt's schemas; else $XMLKIT_SCHEMAS.")
STATE_DIR = click.option(
    "--state-dir",
    metavar="DIR",
    help="Journals, lock and key; else $XMLKIT_STATE_DIR or /var/lib/xmlkit.",
)
TO = click.option(
    "--to",
    type=click.Choice(["volume", "path"]),
    default="volume",
    show_default=True,
    help="The form that disks get: type='volume', or file and block.",
)
YES = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def host_to_change(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options --connect, --state-dir and --format."""
    for option in (FORMAT, STATE_DIR, CONNECT):
        function = option(function)
    return function


def restarting(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options --restart and --shutdown-timeout."""
    for option in (
        click.option(
            "--shutdown-timeout",
            type=SECONDS,
            metavar="SECONDS",
            help="With --restart: how long a guest may take; 60 if not given.",
        ),
        click.option(
            "--restart",
            is_flag=True,
            help="Shut running domains down, one at a time, and start them again.",
        ),
    ):
        function = option(function)
    return function
