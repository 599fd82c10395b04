"""xmlkit migrate: move a running guest to another host and onto its pools."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import click

from xmlkit.cli import carrying, options, signals
from xmlkit.cli.hosts import relocations


@click.command(name="migrate")
@click.option("--to", "to", metavar="URI", required=True, help="libvirt of the destination.")
@click.option(
    "--relocate",
    metavar="[KIND=]POOL",
    multiple=True,
    help="Disks in Nova's instance directory become volumes of POOL there.",
)
@click.option(
    "--storage",
    type=click.Choice(["shared", "full", "incremental"]),
    default="shared",
    show_default=True,
    help="Both hosts see the images; or copy them, incremental: above their backing files.",
)
@click.option("--migrate-uri", metavar="URI", help="Where QEMU connects to (virsh --migrateuri).")
@click.option("--disks-uri", metavar="URI", help="Where disks are copied to (virsh --disks-uri).")
@options.ACCEPT
@options.DRY_RUN
@options.YES
@options.host_to_change
@click.argument("domain", metavar="DOMAIN")
def command(
    to: str,
    relocate: tuple[str, ...],
    storage: Any,
    migrate_uri: str | None,
    disks_uri: str | None,
    accept: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    connect: str | None,
    state_dir: str | None,
    format_: str,
    domain: str,
) -> int:
    """Move a running guest to another host, and its disks onto that host's pools.

    On shared storage an image gets a second name in the destination's pool, and loses the old
    one when the guest runs there; otherwise --storage full or incremental copies the disks.
    Ctrl-C cancels: the guest stays here, and what was made is taken back.

    \b
    Exit code: 0 it runs there; 1 refused, or something is pending; 2 trouble,
    nothing changed; 3 it failed, and the guest is here as before; 130 interrupted
    before anything was begun, or twice (then xmlkit recover).

    \b
    Example:
        xmlkit migrate --connect qemu:///system --to qemu+ssh://root@b/system \\
            --relocate nova-disks-pool instance-00000001
    """
    if disks_uri is not None and storage == "shared":
        raise click.UsageError("--disks-uri is for --storage full and --storage incremental")
    if not to:
        # libvirt would take it for the host that it thinks best
        raise click.UsageError("which host to? Say --to URI")
    uri = carrying.uri_of(connect)
    pools = relocations(relocate)
    from xmlkit import migrate, service, state
    from xmlkit.observe import opened, without_password

    wanted = migrate.Options(
        relocate=pools,
        storage=storage,
        accept=accept,
        migrate_uri=migrate_uri,
        disks_uri=disks_uri,
    )
    with (
        signals.interruptible(),
        opened(uri, write=True) as source,
        opened(to, write=True) as there,
        ExitStack() as stack,
    ):
        carrying.check(source, names=(domain,))
        carrying.check(there, pools=pools.values())
        directory = state.directory(state_dir, make=not dry_run)
        if dry_run:
            state.refuse_impossible(directory)
        else:
            stack.enter_context(service.writing(source, directory))
        made = migrate.judged(source, there, domain, to, wanted)
        case = service.Case(
            *(made.name, made.uuid, made.plan, made.concerns),
            *(made.state, made.id, made.message, made.task),
        )
        carrying.show([case], steps=dry_run)
        if dry_run or made.task is None:
            return carrying.report([case], (), format_=format_, kind="migrate", dry_run=dry_run)
        service.refuse_pending(directory)
        if not carrying.asked(f"Migrate {made.name} to {without_password(to)}?", yes=yes):
            return 1
        with carrying.progress([case]) as listener:
            result = service.migrate_one(
                source, there, made, directory, uri=uri, to=to, listener=listener
            )
        return carrying.report(
            [case], (result,), format_=format_, kind="migrate", state_dir=state_dir
        )
