"""xmlkit diff: what a transition will change, before anything is changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click
from click.core import ParameterSource

from xmlkit.cli import TROUBLE, printable
from xmlkit.cli.files import read_plans
from xmlkit.cli.hosts import PLANNING, host_options, planner
from xmlkit.cli.paint import Paint, color_option, painter
from xmlkit.diff import SCHEMA, Preview, as_data, preview, unified
from xmlkit.errors import XmlkitError
from xmlkit.plan import Plan, PlanError, Skip, Transition, no_volume_disks
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
@color_option
@click.option("--show-secrets", is_flag=True, help="Do not redact passwords and cookies.")
@click.option(
    "--plan",
    "plan_file",
    metavar="PLAN",
    help="Show what this plan will do to its domains on the host, and whether it still holds.",
)
@click.option(
    "--state-dir", metavar="DIR", help="With --plan: where the host's key is, as for xmlkit plan."
)
@click.argument("files", metavar="FILE...|DOMAIN...", nargs=-1)
def command(
    files: tuple[str, ...],
    schemas: str | None,
    format_: str,
    color: str,
    show_secrets: bool,
    plan_file: str | None,
    state_dir: str | None,
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
    if (plan_file is None) != bool(files):
        raise click.UsageError("say what to show: FILE..., DOMAIN... or --plan PLAN, one of them")
    if plan_file is not None:
        _refuse_decided()
    code = changed = 0
    entries = []
    paint = painter(color)
    with planner(**options) as planned, ExitStack() as stack:
        plans = {}
        if plan_file is not None:
            if planned.connection is None:
                raise click.UsageError("--plan is shown with a libvirt's domains: say --connect")
            from xmlkit import service
            from xmlkit.cli import carrying

            plans = {plan.uuid: plan for plan in read_plans(plan_file)}
            uri = options["connect"] or os.environ["LIBVIRT_DEFAULT_URI"]
            refuse_stale = stack.enter_context(_binding(uri, state_dir))
        files = files or tuple(plans)
        for file, document in planned.documents(files):
            try:
                if isinstance(document, XmlkitError):
                    raise document
                if plan_file is None:
                    plan = planned.plan(document, file)
                else:
                    plan = plans[file]
                    if service.is_done(plan, document):
                        click.echo(carrying.line(f"{plan.name}: nothing to do any more"), err=True)
                        continue
                    refuse_stale(plan)
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


def _refuse_decided() -> None:
    """Raise UsageError for an option whose meaning a plan holds already."""
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in PLANNING
        and parameter.name != "connect"
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"--plan holds all decisions: give no {' and no '.join(given)}")


@contextmanager
def _binding(uri: str, state_dir: str | None) -> Iterator[Callable[[Plan], None]]:
    """What raises PlanError for a plan that is stale."""
    from xmlkit import service, state
    from xmlkit.observe import opened, secure_document

    key = state.known_key(state.directory(state_dir, make=False))
    with opened(uri, write=True) as connection:

        def refuse_stale(plan: Plan) -> None:
            if reason := service.stale(plan, secure_document(connection, plan.uuid), key):
                raise PlanError(f"{plan.name}: {reason.id}: {reason.message}")

        yield refuse_stale


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
