"""xmlkit transform: make exactly the change that xmlkit diff shows."""

from __future__ import annotations

import sys
from typing import Any

import click
from click.core import ParameterSource

from xmlkit.cli import files, printable
from xmlkit.cli.hosts import PLANNING, host_options, planner
from xmlkit.document import Document
from xmlkit.plan import Plan, PlanError, Skip
from xmlkit.transformers import transform


@click.command(name="transform")
@host_options
@click.option("--plan", "plan_file", metavar="PLAN", help="Do what this plan says; needs no host.")
@click.option("-o", "--output", metavar="OUT", help="Write there instead of stdout, atomically.")
@click.option("--in-place", is_flag=True, help="Replace FILE, atomically.")
@click.option("--quiet", "-q", is_flag=True, help="No notes on stderr.")
@click.argument("file", metavar="FILE|-")
def command(
    file: str,
    plan_file: str | None,
    output: str | None,
    in_place: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Rewrite a domain's disks to volumes, or with --to path back to files and block devices.

    The document is written to stdout, byte for byte as it came in but for the disks that are
    planned; what was done to each disk is noted on stderr. Secrets are kept.

    \b
    Exit code: 0 written (also if nothing changes), 2 trouble and nothing written.

    \b
    Example:
        xmlkit transform --host host.xml --in-place instance.xml
    """
    if in_place and (file == "-" or output is not None):
        raise click.UsageError("--in-place replaces FILE: give no -o, and not -")
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in PLANNING
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if plan_file is not None and given:
        raise click.UsageError(f"--plan holds all decisions: give no {' and no '.join(given)}")
    if plan_file is None:
        with planner(**options) as planned:
            # a domain read on a read-only connection lacks its passwords: it must be a file
            document = files.read_document(file, planned.bounds)
            plan = planned.plan(document, file)
    else:
        bounds = files.limits(*(options[f"max_{name}"] for name in ("size", "depth", "markup")))
        plan = _plan_of(plan_file, bounds.size)
        document = files.read_document(file, bounds)
    try:
        made = transform(document, plan)
        _check(document, plan, made)
    except PlanError as error:
        raise PlanError(f"{file}: {error}") from None
    if not (in_place and made is document):
        files.write(made.source, file if in_place else output)
    if not quiet:
        _note(plan, changed=made is not document)


def _plan_of(file: str, size: int) -> Plan:
    try:
        return Plan.from_json(files.read(file, size))
    except PlanError as error:
        raise PlanError(f"{file}: {error}") from None


def _check(document: Document, plan: Plan, made: Document) -> None:
    """Read the result again and go back: what does not come back is not written."""
    again = Document.parse(made.source, document.limits)
    if transform(again, plan).source != made.source:
        raise PlanError("the result would change again: not written; please report it")
    back = transform(again, plan.inverse())
    if transform(back, plan).source != made.source:
        raise PlanError("the way back and forth does not lead here again: not written")


def _note(plan: Plan, *, changed: bool) -> None:
    for disk in plan.disks:
        if isinstance(disk, Skip):
            text = f"stays: {disk.reason.id}: {disk.reason.message}"
        elif disk.changes and not changed:
            text = f"is at {disk.after} already"
        elif disk.changes:
            seen = "" if disk.verified else " (not verified)"
            text = f"{disk.action}: {disk.before} -> {disk.after.type} {disk.after}{seen}"
        else:
            text = "stays"
        if not isinstance(disk, Skip) and disk.reason is not None:
            text += f": {disk.reason.id}: {disk.reason.message}"
        note = printable(f"{disk.target or '(no target)'}: {text}")
        print(f"xmlkit: {note}", file=sys.stderr)
    if not changed:
        print("xmlkit: nothing to change", file=sys.stderr)
