"""xmlkit journal: the transitions of this host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xmlkit.cli import TROUBLE, carrying, options


@click.command(name="journal")
@options.STATE_DIR
@options.FORMAT
@click.argument("id", metavar="[ID]", required=False)
def command(id: str | None, state_dir: str | None, format_: str) -> int:
    """List the transitions of this host, or show what was done in one of them.

    \b
    Exit code: 0, or 2 for a journal that is not there or cannot be read.

    \b
    Example:
        xmlkit journal 20261122-161402-4f2a
    """
    from xmlkit import journal, state

    directory = state.directory(state_dir, make=False)
    errors: tuple[Any, ...] = ()
    if id is not None:
        found: tuple[Any, ...] = (journal.find(str(directory), id),)
    else:
        found, errors = journal.read_all(str(directory))
    if format_ == "json":
        import json

        data = {
            "schema": journal.SCHEMA,
            "transitions": [journal.as_data(each) for each in found],
        }
        click.echo(json.dumps(data, indent=2))
    elif id is not None:
        _show(journal.as_data(found[0]))
    else:
        for each in found:
            count = len(each.tasks)
            of = f" of {each.of}" if each.of else ""
            click.echo(
                f"{each.id}  {each.kind}{of}  {each.state}  {count} domain{'s' * (count != 1)}"
            )
        if not found and not errors:
            click.echo(f"no transitions in {directory}", err=True)
    if id is None:
        errors += _tell_live(directory / state.LIVE)
    for error in errors:
        click.echo(f"xmlkit: {carrying.line(str(error))}", err=True)
    return TROUBLE if errors else 0


def _tell_live(directory: Path) -> tuple[Any, ...]:
    """Say what is pending where xmlkit in Nova has its live migrations; what could not be read."""
    from xmlkit import journal, state

    journals, errors = journal.read_all(str(directory))
    if count := sum(bool(each.pending) for each in journals):
        where = state.option(directory)
        line = f"and {count} pending in {directory}: run xmlkit recover{where}"
        click.echo(f"xmlkit: {carrying.line(line)}", err=True)
    return errors


def _show(data: dict[str, Any]) -> None:
    of = f" of {data['of']}" if data["of"] else ""
    head = f"{data['id']}  {data['kind']}{of}  {data['state']}  {data['started']}  {data['uri']}"
    click.echo(carrying.line(head))
    for domain in data["domains"]:
        why = f": {domain['id']}: {domain['message']}" if domain["id"] else ""
        click.echo(carrying.line(f"{domain['name']}  {domain['uuid']}  {domain['state']}{why}"))
        for step in domain["steps"]:
            click.echo(carrying.line(f"  {step['state']:<5}  {step['command']}"))
