"""xmlkit plan: the decision about each disk, as JSON."""

from __future__ import annotations

import os
from typing import Any

import click

from xmlkit.cli import files
from xmlkit.cli.hosts import host_options, planner
from xmlkit.cli.options import ALL, STATE_DIR
from xmlkit.plan import plans_to_json


@click.command(name="plan")
@host_options
@ALL
@STATE_DIR
@click.option("-o", "--output", metavar="OUT", help="Write there instead of stdout, atomically.")
@click.argument("names", metavar="FILE...|DOMAIN...|-", nargs=-1)
def command(
    names: tuple[str, ...],
    all_: bool,
    state_dir: str | None,
    output: str | None,
    **options: Any,
) -> None:
    """Decide what becomes of each disk of a domain, and write it as JSON (xmlkit.plan/1).

    Domains of a libvirt (--connect) are planned for xmlkit apply --plan: each plan is bound to
    the domain's XML and to this host, and refused when either is not as it was. The plan of a
    FILE is for xmlkit transform --plan.

    \b
    Exit code: 0 written, 2 trouble and nothing written.

    \b
    Examples:
        xmlkit plan --connect qemu:///system --all -o plan.json
        xmlkit plan --host host.xml instance.xml -o plan.json
    """
    if bool(names) == all_:
        raise click.UsageError("say what to plan: FILE..., DOMAIN... or --all, one of them")
    files.check_place(output)
    with planner(**options) as planned:
        if planned.connection is None and all_:
            raise click.UsageError("--all are the domains of a libvirt: say --connect URI")
        given = planned.domains() if all_ else names
        of_host = [name for name in given if not planned.is_file(name)]
        made = [planned.plan(planned.document(name), name) for name in given]
    if of_host:
        uri = options["connect"] or os.environ["LIBVIRT_DEFAULT_URI"]
        bound = _bound(uri, state_dir, [plan.uuid for plan in made])
        made = [bound.get(plan.uuid, lambda each: each)(plan) for plan in made]
    files.write((plans_to_json(made) + "\n").encode(), output)


def _bound(uri: str, state_dir: str | None, uuids: list[str]) -> dict[str, Any]:
    """By UUID, the function that binds a plan to the domain as it is, its secrets included."""
    import functools

    from xmlkit import service, state
    from xmlkit.cli.signals import reading
    from xmlkit.observe import secure_document

    with reading(uri, write=True) as connection:
        documents = {uuid: secure_document(connection, uuid) for uuid in uuids}
    key = state.host_key(state.directory(state_dir))
    return {
        uuid: functools.partial(service.bound, document=document, key=key)
        for uuid, document in documents.items()
    }
