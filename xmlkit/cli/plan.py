"""xmlkit plan: the decision about each disk, as JSON."""

from __future__ import annotations

from typing import Any

import click

from xmlkit.cli import files
from xmlkit.cli.hosts import host_options, planner


@click.command(name="plan")
@host_options
@click.option("-o", "--output", metavar="OUT", help="Write there instead of stdout, atomically.")
@click.argument("file", metavar="FILE|DOMAIN|-")
def command(file: str, output: str | None, **options: Any) -> None:
    """Decide what becomes of each disk of a domain, and write it as JSON (xmlkit.plan/1).

    xmlkit transform --plan does what the plan says, or refuses if the domain has changed since.

    \b
    Exit code: 0 written, 2 trouble and nothing written.

    \b
    Example:
        xmlkit plan --host host.xml instance.xml -o plan.json
    """
    with planner(**options) as planned:
        made = planned.plan(planned.document(file), file)
    files.write((made.to_json() + "\n").encode(), output)
