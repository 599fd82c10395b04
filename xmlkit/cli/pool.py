"""xmlkit pool: the XML that creates a storage pool, or the script that does it."""

from __future__ import annotations

from typing import Any

import click

from xmlkit.cli import files
from xmlkit.pools import TYPES, Auth, commands, parse_source, pool
from xmlkit.shell import script as script_of


@click.group(name="pool")
def command() -> None:
    """Write the XML that creates a storage pool.

    Nothing is changed: the document is for virsh pool-define, --script prints all commands.

    \b
    Exit code: 0 written, 2 trouble and nothing written.

    \b
    Example:
        xmlkit pool create images --type dir --target /srv/images
    """


@command.command(name="create")
@click.option(
    "--type", "type_", type=click.Choice(list(TYPES)), required=True, help="What it is made of."
)
@click.option("--target", metavar="PATH", default="", help="Where the host sees it.")
@click.option(
    "--source",
    metavar="SOURCE",
    default="",
    help="DEVICE, HOST:/PATH, a volume group, or MONITOR[:PORT][,...]/POOL.",
)
@click.option("--source-format", metavar="FORMAT", help="Of the source: ext4, nfs, gpt, ...")
@click.option("--auth-user", metavar="USER", help="Of Ceph, with --auth-secret.")
@click.option("--auth-secret", metavar="UUID", help="libvirt's secret that has the key.")
@click.option("--no-autostart", is_flag=True, help="In the script: not started with the host.")
@click.option("--script", is_flag=True, help="Print the shell script that does it all.")
@click.option("-o", "--output", metavar="OUT", help="Write there instead of stdout.")
@click.argument("name", metavar="NAME")
def create(
    name: str,
    type_: str,
    target: str,
    source: str,
    source_format: str | None,
    auth_user: str | None,
    auth_secret: str | None,
    no_autostart: bool,
    script: bool,
    output: str | None,
) -> None:
    """Create a pool: its document, for virsh pool-define.

    Building, starting and autostart are no part of the document: --script prints them.

    \b
    Exit code: 0 written, 2 trouble and nothing written.

    \b
    Example:
        xmlkit pool create nova-disks-pool --type dir --target /srv/disks
    """
    if (auth_user is None) != (auth_secret is None):
        raise click.UsageError("--auth-user and --auth-secret go together")
    auth = None
    if auth_user is not None and auth_secret is not None:
        auth = Auth(auth_user, auth_secret)
    hosts: Any = ()
    if source:
        source, hosts = parse_source(type_, source)
    made = pool(
        name, type_, target=target, source=source, hosts=hosts, format=source_format, auth=auth
    )
    if script:
        files.write(script_of(commands(made, autostart=not no_autostart)).encode(), output)
    else:
        files.write(made.source, output)
