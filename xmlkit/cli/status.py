"""xmlkit status: whether a host is ready for a transition, and where its domains stand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import click

from xmlkit.cli import carrying, options, printable, signals
from xmlkit.cli.hosts import relocations
from xmlkit.cli.table import table
from xmlkit.errors import XmlkitError
from xmlkit.state import LIVE, option
from xmlkit.status import DomainStatus, Journals, Status, status
from xmlkit.validation import schemas as installed

_WORDS = {
    "volumes": "on volumes",
    "partial": "partial",
    "legacy": "legacy",
    "nothing": "nothing to do",
}


@click.command(name="status")
@options.CONNECT
@click.option(
    "--relocate",
    metavar="[KIND=]POOL",
    multiple=True,
    help="As if disks in Nova's instance directory moved into POOL; KIND root, ephemeral, swap.",
)
@options.ACCEPT
@options.SCHEMAS
@options.STATE_DIR
@options.FORMAT
@click.option(
    "--warn", is_flag=True, help="Only warn, in one line on stderr, of domains on legacy disks."
)
def command(
    connect: str | None,
    relocate: tuple[str, ...],
    accept: tuple[str, ...],
    schemas: str | None,
    state_dir: str | None,
    format_: str,
    warn: bool,
) -> int:
    """Show whether a host is ready for a transition, and where each of its domains stands.

    A domain is on volumes, legacy (its disks are files or block devices), partial, or has
    nothing that could be a volume; with legacy disks it may be blocked, and below it
    stands why. It only reads.

    \b
    Exit code: 0 ready, and nothing is left to do or pending. 1 something is.
    2 trouble.
    With --warn 0 as well if something is.

    \b
    Example:
        xmlkit status --connect qemu:///system --relocate nova-disks-pool
    """
    uri = carrying.uri_of(connect)
    if warn and format_ == "json":
        raise click.UsageError("--warn prints one line of text: give no --format json")
    pools = relocations(relocate)
    place: str | None
    try:
        place = installed.directory(schemas)
    except installed.SchemaError:
        if schemas:
            raise
        place = None
    from xmlkit.survey import survey

    with signals.reading(uri) as connection:
        surveyed = survey(connection)
    found = status(
        surveyed, schemas=place, relocate=pools, accept=accept, journals=_journals(state_dir)
    )
    if warn:
        _warn(found)
        return 0
    if format_ == "json":
        import json

        click.echo(json.dumps(found.as_data(), indent=2))
    else:
        _show(found)
    return int(
        not found.ready or bool(found.legacy or found.journals.pending or found.journals.live)
    )


def _journals(state_dir: str | None) -> Journals:
    """What the state directory says; that it may not be read keeps nobody from the rest."""
    from xmlkit import journal, state

    try:
        directory = str(state.directory(state_dir, make=False))
        journals, errors = journal.read_all(directory)
        live, more = journal.read_all(os.path.join(directory, state.LIVE))
    except XmlkitError as error:
        place = state_dir or os.environ.get("XMLKIT_STATE_DIR") or state.DEFAULT
        return Journals(place, error=str(error))
    pending, below = (
        tuple(each.id for each in found if each.pending) for found in (journals, live)
    )
    faults = [str(each) for each in (*errors, *more)]
    return Journals(directory, pending, faults[0] if faults else None, below)


def _warn(found: Status) -> None:
    legacy, all_ = len(found.legacy), len(found.domains)
    if legacy:
        blocked = f", {len(found.blocked)} of them blocked" if found.blocked else ""
        click.echo(
            f"xmlkit: {legacy} of {all_} domains have disks that are on no volume{blocked}; "
            "xmlkit status shows them",
            err=True,
        )


def _show(found: Status) -> None:
    models = ", ".join(found.security_models) or "none"
    version = found.libvirt or "unknown"
    table(
        ("HOST", ""),
        (
            ("libvirt", f"{version}, driver {found.driver or 'unknown'}"),
            ("security", models),
            ("schemas", found.schemas or "not installed"),
            ("state", _state(found.journals)),
            ("files", "of this machine" if found.local else "of another machine: not looked at"),
            ("ready", "yes" if found.ready else "no"),
        ),
    )
    for concern in found.concerns:
        click.echo(printable(f"  {concern.severity}: {concern.id}: {concern.message}"))
    if found.pools:
        click.echo()
        table(
            ("POOL", "TYPE", "STATE", "AUTOSTART", "FILE SYSTEM", "FREE", "PATH"),
            [
                (
                    pool.name,
                    pool.type,
                    "active" if pool.active else "inactive",
                    ("yes" if pool.autostart else "no") if pool.persistent else "transient",
                    pool.file_system or "-",
                    "-" if pool.free is None else carrying.size(pool.free),
                    pool.path or "-",
                )
                for pool in found.pools
            ],
        )
    click.echo()
    table(("DOMAIN", "STATE", "DISKS", "WHY"), list(_domain_rows(found.domains)), text=True)
    counts = [
        f"{sum(each.form == form for each in found.domains)} {word}"
        for form, word in _WORDS.items()
    ]
    blocked = f"; {len(found.blocked)} blocked" if found.blocked else ""
    noun = "domain" if len(found.domains) == 1 else "domains"
    click.echo(f"\n{len(found.domains)} {noun}: {', '.join(counts)}{blocked}")


def _state(journals: Journals) -> str:
    if journals.error is not None:
        return journals.error
    said = []
    if journals.pending:
        said.append(f"{journals.directory}: {', '.join(journals.pending)}; run xmlkit recover")
    if journals.live:
        live = os.path.join(journals.directory, LIVE)
        run = f"run xmlkit recover{option(live)}"
        said.append(f"{live}: {', '.join(journals.live)}; {run}")
    if not said:
        return f"nothing pending in {journals.directory}"
    return "; ".join(f"pending in {each}" for each in said)


def _domain_rows(domains: Sequence[DomainStatus]) -> Iterator[tuple[str, ...]]:
    for each in domains:
        word = _WORDS[each.form] + (", blocked" if each.blocked else "")
        first, *rest = [
            f"{f'{concern.target}: ' if concern.target else ''}{concern.id}: {concern.message}"
            for concern in each.concerns
        ] or ["-"]
        yield each.name, each.state, word, first
        yield from (("", "", "", why) for why in rest)
