"""xmlkit apply: carry a transition out."""

from __future__ import annotations

from typing import Any

import click

from xmlkit.cli import carrying, files
from xmlkit.cli.hosts import relocations
from xmlkit.rules import ACCEPTABLE


@click.command(name="apply")
@click.option("--plan", "plan_file", metavar="FILE", help="What xmlkit plan wrote on this host.")
@click.option("--all", "all_", is_flag=True, help="All domains of the host.")
@click.option(
    "--to",
    type=click.Choice(["volume", "path"]),
    default="volume",
    show_default=True,
    help="The form that disks get.",
)
@click.option(
    "--relocate",
    metavar="[KIND=]POOL",
    multiple=True,
    help="Move disks in Nova's instance directory into POOL; KIND root, ephemeral, swap.",
)
@click.option(
    "--accept",
    type=click.Choice(ACCEPTABLE),
    multiple=True,
    help="A rule that shall not stand in the way.",
)
@click.option("--copy", is_flag=True, help="Copy images where the pool is on another file system.")
@click.option(
    "--rewrite-metadata",
    is_flag=True,
    help="Redefine snapshots, checkpoints and managed saves with the new addresses.",
)
@click.option("--schemas", metavar="DIR", help="libvirt's schemas; else $XMLKIT_SCHEMAS.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N domains only.")
@click.option(
    "--max-failures",
    type=click.IntRange(min=1),
    metavar="N",
    help="Begin no other domain after N failures.",
)
@click.option("--dry-run", is_flag=True, help="Show each step as a command, and change nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@carrying.host_to_change
@click.argument("domains", metavar="[DOMAIN...]", nargs=-1)
def command(
    plan_file: str | None,
    all_: bool,
    to: Any,
    relocate: tuple[str, ...],
    accept: tuple[str, ...],
    copy: bool,
    rewrite_metadata: bool,
    schemas: str | None,
    limit: int | None,
    max_failures: int | None,
    dry_run: bool,
    yes: bool,
    connect: str | None,
    state_dir: str | None,
    format_: str,
    domains: tuple[str, ...],
) -> int:
    """Carry a transition out: link or copy images into pools, define the domains, unlink.

    Shows what will be done and why not, asks on a terminal, and does it step by step, each
    in a journal, so that xmlkit rollback takes it back and xmlkit recover finishes what was
    interrupted. At every instant the defined XML boots. Running domains are skipped.

    \b
    Exit code: 0 all done or nothing to do; 1 some refused, skipped or failed;
    2 trouble, nothing changed; 3 failed and rolled back.

    \b
    Example:
        xmlkit apply --connect qemu:///system --relocate nova-disks-pool instance-00000001
    """
    if sum((plan_file is not None, all_, bool(domains))) != 1:
        raise click.UsageError("say which domains: DOMAIN..., --all or --plan FILE, one of them")
    if plan_file is not None and (relocate or to != "volume"):
        raise click.UsageError("--plan holds all decisions: give no --to and no --relocate")
    pools = relocations(relocate)
    if pools and to == "path":
        raise click.UsageError("--relocate moves disks into pools: it goes with --to volume")
    uri = carrying.uri_of(connect)
    from xmlkit.plan import plans_from_json
    from xmlkit.service import Options

    plans = None
    if plan_file is not None:
        plans = plans_from_json(files.read(plan_file, files.PLAN_SIZE))
    options = Options(
        to=to,
        relocate=pools,
        accept=accept,
        copy=copy,
        rewrite_metadata=rewrite_metadata,
        schemas=schemas,
    )
    names = tuple(each.uuid for each in plans) if plans is not None else domains or None
    return _apply(
        uri,
        names,
        plans,
        options,
        state_dir=state_dir,
        limit=limit,
        max_failures=max_failures,
        dry_run=dry_run,
        yes=yes,
        format_=format_,
    )


def _apply(
    uri: str,
    names: tuple[str, ...] | None,
    plans: Any,
    options: Any,
    *,
    state_dir: str | None,
    limit: int | None,
    max_failures: int | None,
    dry_run: bool,
    yes: bool,
    format_: str,
) -> int:
    from xmlkit import service, state
    from xmlkit.observe import opened
    from xmlkit.survey import survey

    directory = state.directory(state_dir)
    with state.lock(directory), opened(uri, write=True) as connection:
        surveyed = survey(connection, names, secure=True)
        if plans is None:
            carrying.refuse_unknown(names, surveyed.guests, connection)
        cases = service.cases_of(surveyed, options, plans=plans, key=state.host_key(directory))
        cases = carrying.limited(cases, limit)
        carrying.show(cases, steps=dry_run)
        ready = [case for case in cases if case.task is not None]
        nothing = service.Result(None, {})
        if dry_run or not ready:
            return carrying.report(cases, nothing, format_=format_, kind="apply", dry_run=dry_run)
        service.refuse_pending(directory)
        if not carrying.asked(f"Change {len(ready)} domains?", yes=yes):
            click.echo("nothing was changed", err=True)
            return 1
        with carrying.progress(ready) as listener:
            result = service.carry_out(
                connection,
                cases,
                directory,
                uri=uri,
                listener=listener,
                max_failures=max_failures,
            )
        return carrying.report(cases, result, format_=format_, kind="apply")
