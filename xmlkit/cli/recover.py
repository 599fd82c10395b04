"""xmlkit recover: bring interrupted transitions to an end."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

from xmlkit.cli import TROUBLE, carrying, options, signals


@click.command(name="recover")
@options.host_to_change
def command(connect: str | None, state_dir: str | None, format_: str) -> int:
    """Bring what was interrupted to an end: finished, or taken back.

    After a crash, a power failure or a lost connection: a domain whose persistent XML has
    the new addresses is finished, one that has the old ones is taken back, and one that
    somebody has changed meanwhile is left alone and told. It can be run at any time.
    Without --connect it goes to the hosts that the journals name. A migration is finished
    where the guest runs at the destination, and taken back where it is not there. A guest
    that has shut down after --restart had given up waiting for it is started, for a day.

    \b
    Exit code: 0 all came to an end, or nothing to do; 1 something is still
    pending; 2 trouble: a host or a journal could not be read; 130 interrupted:
    run it again.

    \b
    Example:
        xmlkit recover
    """
    from xmlkit import service, state
    from xmlkit.observe import host_uuid, opened, without_password

    directory = state.directory(state_dir, make=False)
    with signals.interruptible(), carrying.begun(), ExitStack() as stack:
        if directory.exists():
            stack.enter_context(state.lock(directory))
        connections: dict[str, Any] = {}
        hosts: set[str | None] = set()

        def connected(uri: str) -> Any:
            if uri not in connections:
                connections[uri] = stack.enter_context(opened(uri, write=True))
            return connections[uri]

        def host_of(journal: Any) -> Any:
            connection = connected(connect or journal.uri)
            host = host_uuid(connection)
            if host not in hosts:  # two URIs may lead to one
                stack.enter_context(service.host_locked(connection))
                hosts.add(host)
            if connect and journal.pending and without_password(connect) != journal.uri:
                _refuse_another(connection, connect, journal)
            return connection

        if connect:
            # also where nothing is pending: what was asked for was that host
            connected(connect)
        found, errors = service.recover_all(
            host_of,
            directory,
            there=lambda journal: connected(journal.to),
        )
    if format_ == "json":
        import json

        data = {
            "schema": "xmlkit.recover/1",
            "transitions": [
                {
                    "id": journal.id,
                    "domains": [
                        {
                            "name": journal.tasks[uuid].plan.name,
                            "uuid": uuid,
                            "state": outcome.state,
                            "id": outcome.id or None,
                            "message": outcome.message or None,
                        }
                        for uuid, outcome in outcomes.items()
                    ],
                }
                for journal, outcomes in found
            ],
        }
        click.echo(json.dumps(data, indent=2))
    else:
        for journal, outcomes in found:
            for uuid, outcome in outcomes.items():
                name = journal.tasks[uuid].plan.name
                click.echo(carrying.line(f"{journal.id}  {name}  {outcome}"))
        if not (found or errors):
            click.echo(carrying.line(f"nothing to recover in {directory}"))
    for error in errors:
        click.echo(f"xmlkit: {carrying.line(str(error))}", err=True)
    if errors:
        return TROUBLE
    states = {outcome.state for _, outcomes in found for outcome in outcomes.values()}
    return 1 if "pending" in states else 0


def _refuse_another(connection: Any, uri: str, journal: Any) -> None:
    """Raise LibvirtError if it has none of the domains: they would be taken for undefined."""
    from xmlkit.observe import LibvirtError, domain_xml, without_password

    for task in journal.pending:
        try:
            domain_xml(connection, task.uuid)
        except LibvirtError:
            continue
        return
    raise LibvirtError(
        f"{without_password(uri)} has no domain of transition {journal.id}, which was begun at "
        f"{journal.uri}: give that to --connect, or leave it out"
    )
