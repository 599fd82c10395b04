"""xmlkit rollback: take a transition back."""

from __future__ import annotations

from contextlib import nullcontext

import click

from xmlkit.cli import carrying, options, signals


@click.command(name="rollback")
@options.ACCEPT
@click.option(
    "--rewrite-metadata",
    is_flag=True,
    help="Redefine snapshots, checkpoints and managed saves with the old addresses.",
)
@options.SCHEMAS
@options.restarting
@options.DIFF
@options.DRY_RUN
@options.YES
@options.host_to_change
@click.argument("id", metavar="ID")
@click.argument("domains", metavar="[DOMAIN...]", nargs=-1)
def command(
    id: str,
    domains: tuple[str, ...],
    accept: tuple[str, ...],
    rewrite_metadata: bool,
    schemas: str | None,
    restart: bool,
    shutdown_timeout: float | None,
    diff: bool,
    dry_run: bool,
    yes: bool,
    connect: str | None,
    state_dir: str | None,
    format_: str,
) -> int:
    """Take a transition back: images get their old names, domains their old addresses.

    It changes the domains' present XML, so that edits made since stay; a disk that was
    changed itself is refused (disk-changed). With DOMAIN only these are taken back. Running
    domains are skipped, or with --restart shut down for it and started again.
    Without --connect it goes to the host that the journal names.

    \b
    Exit code: 0 all taken back or nothing to do; 1 some refused, skipped or
    failed; 2 trouble, nothing changed; 3 failed, and all is as before;
    130 interrupted before anything was begun, or twice (then xmlkit recover).

    \b
    Example:
        xmlkit rollback 20261122-161402-4f2a
    """
    from xmlkit import journal, service, state
    from xmlkit.observe import opened
    from xmlkit.survey import survey

    seconds = carrying.shutdown_seconds(restart, shutdown_timeout)
    directory = state.directory(state_dir, make=False)
    if dry_run:
        state.refuse_impossible(directory)
    done = journal.find(str(directory), id)
    uri = connect or done.uri
    known = {name for task in done.tasks.values() for name in (task.uuid, task.plan.name)}
    for name in domains:
        if name not in known:
            raise click.UsageError(f"transition {done.id} has no domain {name!r}")
    with signals.interruptible(), opened(uri, write=True) as connection:
        carrying.check(connection, schemas=schemas)
        with nullcontext() if dry_run else service.writing(connection, directory):
            service.refuse_pending(directory)
            # nobody writes on them any more
            done = journal.find(str(directory), id)
            journals, _ = journal.read_all(str(directory))
            tasks = done.tasks.values()
            chosen = [
                task for task in tasks if not domains or {task.uuid, task.plan.name} & set(domains)
            ]
            uuids = tuple(task.uuid for task in chosen)
            wanted = service.Options(
                to="path",
                accept=accept,
                rewrite_metadata=rewrite_metadata,
                schemas=schemas,
                restart=restart,
            )
            places = service.directories_of(task.plan.inverse() for task in chosen)
            surveyed = survey(connection, uuids, secure=True, directories=places)
            cases = service.roll_back_cases(surveyed, done, wanted, later=journals)
            cases = [case for case in cases if case.uuid in uuids]
            shown = carrying.differences(cases, surveyed.guests) if diff else None
            carrying.show(cases, steps=dry_run, differences=shown)
            ready = [case for case in cases if case.task is not None]
            if dry_run or not ready:
                return carrying.report(
                    *(cases, ()),
                    format_=format_,
                    kind="rollback",
                    dry_run=dry_run,
                    differences=shown,
                    state_dir=state_dir,
                )
            if not carrying.asked(carrying.question("Take {} back", ready), yes=yes):
                return 1
            with carrying.progress(ready) as listener:
                result = service.carry_out(
                    connection,
                    cases,
                    directory,
                    uri=uri,
                    listener=listener,
                    shutdown_seconds=seconds,
                    kind="rollback",
                    of=done.id,
                )
            return carrying.report(
                *(cases, (result,)),
                format_=format_,
                kind="rollback",
                differences=shown,
                state_dir=state_dir,
            )
