"""xmlkit diff: what a transition will change, before anything is changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click
from click.core import ParameterSource

from xmlkit import __version__
from xmlkit.cli import TROUBLE, printable
from xmlkit.cli.files import read_plans, write
from xmlkit.cli.hosts import PLANNING, Planner, host_options, planner
from xmlkit.cli.lines import disk_lines, wrapped
from xmlkit.cli.options import ALL
from xmlkit.cli.paint import Paint, color_option, painter
from xmlkit.diff import SCHEMA, Preview, as_data, preview, unified
from xmlkit.errors import XmlkitError
from xmlkit.plan import Form, Plan, PlanError, no_volume_disks
from xmlkit.printable import in_line
from xmlkit.validation.profiles import NO_VOLUME_DISKS
from xmlkit.validation.schemas import SchemaError, directory

if TYPE_CHECKING:  # no other format needs them
    from xmlkit.review import Review
    from xmlkit.survey import Guest, Survey


@click.command(name="diff")
@host_options
@ALL
@click.option("--schemas", metavar="DIR|VERSION", help="libvirt's schemas; else $XMLKIT_SCHEMAS.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "unified", "json", "html"]),
    default="text",
    show_default=True,
)
@click.option("-o", "--output", metavar="OUT", help="Write there instead of stdout, atomically.")
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
@click.option(
    "--copy", is_flag=True, help="On a page: images may be copied, as by xmlkit apply --copy."
)
@click.option(
    "--restart", is_flag=True, help="On a page: guests that run are restarted, as by apply."
)
@click.option(
    "--rewrite-metadata",
    is_flag=True,
    help="On a page: snapshots and the like get the new addresses, as by apply.",
)
@click.argument("files", metavar="FILE...|DOMAIN...", nargs=-1)
def command(
    files: tuple[str, ...],
    all_: bool,
    schemas: str | None,
    format_: str,
    output: str | None,
    color: str,
    show_secrets: bool,
    plan_file: str | None,
    state_dir: str | None,
    copy: bool,
    restart: bool,
    rewrite_metadata: bool,
    **options: Any,
) -> int:
    """Show what a transition will change in a domain, and whether the result is valid.

    For each domain: what happens to each disk (adopted where it is, moved, or why not), the
    verdict of libvirt's schema before and after (none, and that is told, where its schemas
    are not installed), and the difference of the bytes.
    A FILE is libvirt XML, - is stdin; with --connect a DOMAIN is a name or UUID.

    \b
    Exit code: 0 no disk would change, 1 some would, 2 trouble, or valid before
    and invalid after.

    \b
    Examples:
        xmlkit diff --pool nova-disks-pool=/var/lib/nova/instances/disks \\
            --relocate nova-disks-pool instance.xml
        xmlkit diff --connect qemu:///system --all --format html -o review.html
    """
    if sum((plan_file is not None, all_, bool(files))) != 1:
        raise click.UsageError(
            "say what to show: FILE..., DOMAIN..., --all or --plan PLAN, one of them"
        )
    if plan_file is not None:
        _refuse_decided()
    if format_ == "html" and show_secrets:
        raise click.UsageError("a page goes from hand to hand: --format html shows no secrets")
    applied: dict[str, Any] = {
        "copy": copy,
        "restart": restart,
        "rewrite_metadata": rewrite_metadata,
    }
    code = changed = 0
    entries = []
    terminal = sys.stdout if output is None else None
    paint = painter("never" if output is not None and color == "auto" else color)
    told: list[str] = []

    def tell(text: str) -> None:
        if output is None:
            # paint has decided on colours; click would take them out of a pipe
            click.echo(text, nl=False, color=True)
        else:
            told.append(text)

    validated = _validated(schemas, needed=format_ == "html")
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
        if all_ and planned.connection is None:
            raise click.UsageError("--all are the domains of a libvirt: say --connect URI")
        if any(applied.values()) and (format_ != "html" or planned.connection is None):
            raise click.UsageError(
                "--copy, --restart and --rewrite-metadata say how steps on a page are taken: they "
                "go with --format html and --connect"
            )
        files = tuple(planned.domains()) if all_ else files or tuple(plans)
        page = _Page(planned, files, options["accept"], applied) if format_ == "html" else None
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
                if page is not None:
                    page.troubles.append(str(error))
                code = TROUBLE
                continue
            bare = no_volume_disks(document, planned.host) is not None
            profile = NO_VOLUME_DISKS if bare else None
            made = preview(file, document, plan, schemas, profile, validated=validated)
            code = max(code, TROUBLE if made.broken else int(made.plan.changes))
            changed += made.plan.changes
            if page is not None:
                page.add(made)
                continue
            if format_ == "json":
                entries.append(as_data(made, show_secrets=show_secrets))
                continue
            if format_ == "text":
                tell(_show(made, paint, terminal) + "\n")
            tell(_painted(unified(made, show_secrets=show_secrets), paint))
    if format_ == "json":
        import json

        tell(json.dumps({"schema": SCHEMA, "domains": entries}, indent=2) + "\n")
    if page is not None:
        tell(page.html(options["to"] if plan_file is None else None))
    if format_ == "text" and len(files) > 1:
        tell(f"{changed} of {len(files)} domains would change\n")
    if output is not None:
        write("".join(told).encode("utf-8", "backslashreplace"), output)
    return code


def _validated(schemas: str | None, *, needed: bool) -> bool:
    """Whether there are schemas to validate by; without any installed that is told.

    Raises SchemaError where some were named, or are needed.
    """
    try:
        directory(schemas)
    except SchemaError as error:
        if needed or schemas is not None or os.environ.get("XMLKIT_SCHEMAS"):
            raise
        click.echo(f"xmlkit: not validated: {error}", err=True)
        return False
    return True


class _Page:
    """The reviews of a page, and what the host said besides if it could be asked."""

    def __init__(
        self,
        planned: Planner,
        names: tuple[str, ...],
        accept: tuple[str, ...],
        applied: dict[str, Any],
    ) -> None:
        self.host = planned.host
        self.accept = accept
        self.applied = applied
        self.troubles: list[str] = []
        self.reviews: list[Review] = []
        self.to: Form = "volume"
        self.survey: Survey | None = None
        self.guests: dict[str, Guest] = {}
        if planned.connection is not None:
            from xmlkit.survey import survey

            domains = tuple(name for name in names if not planned.is_file(name))
            self.survey = survey(planned.connection, domains)
            self.guests = {guest.uuid: guest for guest in self.survey.guests}

    def add(self, made: Preview) -> None:
        """One domain more."""
        from xmlkit.review import layers_of, review

        self.to = made.plan.to
        guest = self.guests.get(made.plan.uuid)
        if self.survey is None or guest is None or guest.document.source != made.before.source:
            # a file, of which the host says nothing
            self.reviews.append(review(made))
            return
        from xmlkit.preflight import judge
        from xmlkit.service import Options, circumstances

        concerns = judge(made.plan, guest, self.survey, accept=self.accept, **self.applied)
        layers = layers_of(guest.document, self.survey)
        how = circumstances(made.plan, guest, self.survey, Options(**self.applied))
        self.reviews.append(review(made, concerns=concerns, layers=layers, **how._asdict()))

    def html(self, to: Form | None = None) -> str:
        """The whole page."""
        from datetime import UTC, datetime

        from xmlkit.review import html

        return html(
            self.reviews,
            to=to or self.to,
            host=self.host,
            version=__version__,
            at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            surveyed=self.survey is not None,
            troubles=self.troubles,
        )


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


def _show(made: Preview, paint: Paint, terminal: TextIO | None) -> str:
    plan = made.plan
    title = printable(f"{plan.name or '(no name)'}  {plan.uuid}".rstrip())
    lines = [paint(title, bold=True), f"  {printable(made.file)}"]
    for disk in plan.disks:
        lines += disk_lines(disk, paint, terminal)
    if not plan.disks:
        lines.append("  no disks")
    return "\n".join([*lines, *wrapped(f"  {_verdict(made, paint)}", terminal), ""])


def _verdict(made: Preview, paint: Paint) -> str:
    if not made.validated:
        return paint("not validated", fg="yellow")
    words = []
    for findings, when in ((made.findings_before, "before"), (made.findings_after, "after")):
        colour = "red" if findings else "green"
        words.append(f"{paint('invalid' if findings else 'valid', fg=colour)} {when}")
    text = ", ".join(words)
    findings = made.findings_after if made.broken else made.findings_before
    return text + (f": line {findings[0].line}: {in_line(findings[0].message)}" if findings else "")


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
