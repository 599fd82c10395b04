"""xmlkit diff: what a transition will change, before anything is changed."""

from __future__ import annotations

import os
import sys
from typing import Any, Protocol

import click

from xmlkit.cli import TROUBLE
from xmlkit.cli.hosts import host_options, planner
from xmlkit.diff import SCHEMA, Preview, as_data, preview, unified
from xmlkit.errors import XmlkitError
from xmlkit.plan import PlanError, Skip, Transition


@click.command(name="diff")
@host_options
@click.option("--schemas", metavar="DIR", help="libvirt's schemas; else $XMLKIT_SCHEMAS.")
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
) -> None:
    """Show what a transition will change in a domain, and whether the result is valid.

    For each domain: what happens to each disk (adopted where it is, moved, or why not), the
    verdict of libvirt's schema before and after, and the difference of the bytes.
    A FILE is libvirt XML, - is stdin; with --connect a DOMAIN is a name or UUID.

    \b
    Exit code: 0 no disk would change, 1 some would, 2 trouble, or valid before and
    invalid after.

    \b
    Example:
        xmlkit diff --pool nova-disks-pool=/var/lib/nova/instances/disks \\
            --relocate nova-disks-pool instance.xml
    """
    code = 0
    entries = []
    paint = _painter(color)
    with planner(**options) as planned:
        for file, document in planned.documents(files):
            try:
                if isinstance(document, XmlkitError):
                    raise document
                plan = planned.plan(document)
            except XmlkitError as error:
                click.echo(f"xmlkit: {_named(error, file)}", err=True)
                code = TROUBLE
                continue
            made = preview(file, document, plan, schemas)
            code = max(code, TROUBLE if made.broken else int(made.plan.changes))
            if format_ == "json":
                entries.append(as_data(made, show_secrets=show_secrets))
                continue
            if format_ == "text":
                _show(made, paint)
            _show_unified(unified(made, show_secrets=show_secrets), paint)
    if format_ == "json":
        import json

        click.echo(json.dumps({"schema": SCHEMA, "domains": entries}, indent=2))
    sys.exit(code)


def _named(error: XmlkitError, file: str) -> str:
    return f"{file}: {error}" if isinstance(error, PlanError) else str(error)


def _show(made: Preview, paint: Paint) -> None:
    plan = made.plan
    click.echo(paint(f"{plan.name or '(no name)'}  {plan.uuid}  {made.file}", bold=True))
    for disk in plan.disks:
        if isinstance(disk, Skip):
            click.echo(
                f"  {disk.target:<5} {paint('stays', fg='yellow')}  {disk.address} ({disk.format})"
            )
            click.echo(f"               {disk.reason.id}: {disk.reason.message}")
            continue
        what = {"adopt": "adopt", "move": "move "}[disk.action] if disk.changes else "keep "
        click.echo(f"  {disk.target:<5} {paint(what, fg='green')}  {_address(disk, before=True)}")
        if disk.changes:
            seen = "" if disk.verified else paint("  not verified", fg="yellow")
            click.echo(f"            -> {_address(disk, before=False)}{seen}")
        if disk.reason is not None:
            click.echo(f"               {disk.reason.id}: {disk.reason.message}")
    if not plan.disks:
        click.echo("  no disks")
    click.echo(f"  {_verdict(made, paint)}")


def _address(disk: Transition, *, before: bool) -> str:
    address = disk.before if before else disk.after
    return f"{address.type} {address} ({disk.format})"


def _verdict(made: Preview, paint: Paint) -> str:
    words = []
    for findings, when in ((made.findings_before, "before"), (made.findings_after, "after")):
        colour = "red" if findings else "green"
        words.append(f"{paint('invalid' if findings else 'valid', fg=colour)} {when}")
    text = ", ".join(words)
    findings = made.findings_after if made.broken else made.findings_before
    return text + (f": {findings[0].message} (line {findings[0].line})" if findings else "")


def _show_unified(text: str, paint: Paint) -> None:
    if not text:
        return
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in text.split("\n")[:-1]:
        head = line.startswith(("---", "+++"))
        click.echo(paint(line, bold=True) if head else paint(line, fg=colours.get(line[:1])))
    click.echo()


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
