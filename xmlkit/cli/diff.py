"""xmlkit diff: what a transition will change, before anything is changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, Protocol

import click

from xmlkit.cli import TROUBLE, printable
from xmlkit.cli.hosts import host_options, planner
from xmlkit.diff import SCHEMA, Preview, as_data, preview, unified
from xmlkit.errors import XmlkitError
from xmlkit.plan import Skip, Transition, no_volume_disks
from xmlkit.validation.profiles import NO_VOLUME_DISKS


@click.command(name="diff")
@host_options
@click.option("--schemas", metavar="DIR|VERSION", help="libvirt's schemas; else $XMLKIT_SCHEMAS.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "unified", "json"]),
    default="text",
    show_default=True,
)
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="auto: on a terminal, unless NO_COLOR is set.",
)
@click.option("--show-secrets", is_flag=True, help="Do not redact passwords and cookies.")
@click.argument("files", metavar="FILE...|DOMAIN...", nargs=-1, required=True)
def command(
    files: tuple[str, ...],
    schemas: str | None,
    format_: str,
    color: str,
    show_secrets: bool,
    **options: Any,
) -> int:
    """Show what a transition will change in a domain, and whether the result is valid.

    For each domain: what happens to each disk (adopted where it is, moved, or why not), the
    verdict of libvirt's schema before and after, and the difference of the bytes.
    A FILE is libvirt XML, - is stdin; with --connect a DOMAIN is a name or UUID.

    \b
    Exit code: 0 no disk would change, 1 some would, 2 trouble, or valid before
    and invalid after.

    \b
    Example:
        xmlkit diff --pool nova-disks-pool=/var/lib/nova/instances/disks \\
            --relocate nova-disks-pool instance.xml
    """
    code = changed = 0
    entries = []
    paint = _painter(color)
    with planner(**options) as planned:
        for file, document in planned.documents(files):
            try:
                if isinstance(document, XmlkitError):
                    raise document
                plan = planned.plan(document, file)
            except XmlkitError as error:
                click.echo(f"xmlkit: {printable(str(error))}", err=True)
                code = TROUBLE
                continue
            bare = no_volume_disks(document, planned.host) is not None
            made = preview(file, document, plan, schemas, NO_VOLUME_DISKS if bare else None)
            code = max(code, TROUBLE if made.broken else int(made.plan.changes))
            changed += made.plan.changes
            if format_ == "json":
                entries.append(as_data(made, show_secrets=show_secrets))
                continue
            if format_ == "text":
                click.echo(_show(made, paint), color=True)
            text = unified(made, show_secrets=show_secrets)
            # paint has decided on colours; click would take them out of a pipe
            click.echo(_painted(text, paint), nl=False, color=True)
    if format_ == "json":
        import json

        click.echo(json.dumps({"schema": SCHEMA, "domains": entries}, indent=2))
    if format_ == "text" and len(files) > 1:
        click.echo(f"{changed} of {len(files)} domains would change")
    return code


def _show(made: Preview, paint: Paint) -> str:
    plan = made.plan
    title = printable(f"{plan.name or '(no name)'}  {plan.uuid}".rstrip())
    lines = [paint(title, bold=True), f"  {printable(made.file)}"]
    for disk in plan.disks:
        lines += _show_disk(disk, paint)
    if not plan.disks:
        lines.append("  no disks")
    return "\n".join([*lines, f"  {_verdict(made, paint)}\n"])


def _show_disk(disk: Transition | Skip, paint: Paint) -> Iterator[str]:
    target = f"{disk.target or '?':<5}"
    if isinstance(disk, Skip) or not disk.changes:
        address = disk.address if isinstance(disk, Skip) else disk.before
        kept = f" {address.type:>6} {address} ({disk.format})"
        yield f"  {target} {paint('stays', fg='yellow')}{printable(kept)}"
    else:
        action = paint(f"{disk.action:<5}", fg="green")
        unverified = "" if disk.verified else paint(", not verified", fg="yellow")
        yield f"  {target} {action} {disk.before.type:>6} {printable(str(disk.before))}"
        after = printable(str(disk.after))
        yield f"           -> {disk.after.type:>6} {after} ({disk.format}{unverified})"
    if disk.reason is not None:
        message = printable(disk.reason.message)
        yield f"                  {paint(disk.reason.id, bold=True)}: {message}"


def _verdict(made: Preview, paint: Paint) -> str:
    words = []
    for findings, when in ((made.findings_before, "before"), (made.findings_after, "after")):
        colour = "red" if findings else "green"
        words.append(f"{paint('invalid' if findings else 'valid', fg=colour)} {when}")
    text = ", ".join(words)
    findings = made.findings_after if made.broken else made.findings_before
    return text + (f": line {findings[0].line}: {findings[0].message}" if findings else "")


def _painted(text: str, paint: Paint) -> str:
    if sys.stdout.isatty():
        text = printable(text)
    colours = {"+": "green", "-": "red", "@": "cyan"}
    return "\n".join(
        paint(line, bold=True)
        if line.startswith(("--- ", "+++ "))
        else paint(line, fg=colours.get(line[:1]))
        for line in text.split("\n")
    )


class Paint(Protocol):
    """Colours a text, or not."""

    def __call__(self, text: str, *, fg: str | None = None, bold: bool | None = None) -> str: ...


def _painter(color: str) -> Paint:
    on = color == "always" or (
        color == "auto"
        and sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )

    def paint(text: str, *, fg: str | None = None, bold: bool | None = None) -> str:
        return click.style(text, fg=fg, bold=bold) if on and (fg or bold) else text

    return paint
