"""xmlkit snapshot: a disk of a domain, as it is at one moment, as a new image."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from xmlkit.cli import carrying, options, printable, signals
from xmlkit.cli.paint import drawable

if TYPE_CHECKING:
    from xmlkit.journal import Outcome

_WORTH = {
    "off": "the domain was off",
    "frozen": "the guest agent froze the file systems for it",
    "crash": "crash-consistent, as after a loss of power: no guest agent froze the file systems",
}


@click.command(name="snapshot")
@click.option("--to-file", metavar="PATH", help="The image that is made.")
@click.option("--to-volume", metavar="POOL/NAME", help="The volume that is made.")
@click.option(
    "--image-format",
    type=click.Choice(["qcow2", "raw", "vmdk", "vdi"]),
    default="qcow2",
    show_default=True,
    help="Of what is made; a volume is qcow2 or raw.",
)
@click.option("--compress", type=click.Choice(["zlib", "zstd"]), help="The qcow2 image.")
@click.option("--live", is_flag=True, help="The domain may run: its QEMU copies the disk.")
@options.host_to_change
@click.argument("domain", metavar="DOMAIN")
@click.argument("disk", metavar="DISK")
def command(
    domain: str,
    disk: str,
    to_file: str | None,
    to_volume: str | None,
    image_format: Any,
    compress: Any,
    live: bool,
    connect: str | None,
    state_dir: str | None,
    format_: str,
) -> int:
    """Copy the disk DISK (a target, such as vda) of DOMAIN, as it is now, to a new image.

    The image is flat and gets its name when it is complete; nothing is overwritten. Of a
    domain that is off qemu-img copies, and nobody can start it meanwhile. With --live QEMU
    copies the disk of a running one as it is when the copy begins. Ctrl-C and SIGTERM end
    it and remove what was made. The domain and its images stay as they are.

    \b
    Exit code: 0 made; 1 something is pending (xmlkit recover); 2 trouble or
    refused, nothing begun; 3 failed or interrupted, and all is as before;
    130 interrupted before anything was begun, or twice (then xmlkit recover).

    \b
    Example:
        xmlkit snapshot --connect qemu:///system guest vda --live \\
            --to-volume nova-snapshots-pool/guest-before-upgrade --compress zstd
    """
    target = _target(to_file, to_volume)
    uri = carrying.uri_of(connect)
    # what imports libvirt comes last: without it there is one line to say so
    from xmlkit.observe import opened

    with signals.interruptible(), opened(uri, write=True) as connection:
        from xmlkit import service, snapshot, state

        prepared = partial(
            snapshot.prepare,
            *(connection, domain, disk, target),
            image_format=image_format,
            compress=compress,
            live=live,
        )
        prepared()  # what is wrong with what was asked for comes before any state
        directory = state.directory(state_dir)
        with service.writing(connection, directory):
            service.refuse_pending(directory)
            shot = prepared()
            with carrying.begun(), _progress() as listener:
                taken = snapshot.take(connection, shot, directory, uri=uri, listener=listener)
    return _report(shot, taken, format_)


def _target(to_file: str | None, to_volume: str | None) -> Any:
    from xmlkit.disks import Address

    if (to_file is None) == (to_volume is None):
        raise click.UsageError("where to? Say either --to-file PATH or --to-volume POOL/NAME")
    if to_file is not None:
        return Address("file", os.path.abspath(to_file))
    pool, slash, name = str(to_volume).partition("/")
    if not slash or not pool or not name:
        raise click.UsageError(f"not a volume: {to_volume!r}; write POOL/NAME")
    return Address("volume", None, pool, name)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A listener that shows how far it is: a bar on a terminal, nothing elsewhere."""
    if not drawable(sys.stderr):
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def listen(what: str, part: float) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=1.0)
            bar.update(tasks[what], completed=part)

        yield listen


def _report(shot: Any, taken: Any, format_: str) -> int:
    outcome: Outcome = taken.outcome
    with carrying.told([taken.id]):
        _say(shot, taken, outcome, format_)
    return carrying.code_of((outcome,))


def _say(shot: Any, taken: Any, outcome: Outcome, format_: str) -> None:
    if format_ == "json":
        import json

        data = {
            "schema": "xmlkit.snapshot/1",
            "id": taken.id,
            "name": shot.name,
            "uuid": shot.uuid,
            "disk": shot.disk,
            "target": str(shot.target),
            "path": shot.target.path,
            "image_format": shot.image_format,
            "compress": shot.compress,
            "capacity": shot.capacity,
            "allocation": taken.size,
            "consistency": taken.consistency,
            "state": outcome.state,
            "reason": outcome.id or None,
            "message": outcome.message or taken.unfrozen or None,
        }
        click.echo(json.dumps(data, indent=2))
    else:
        size = f" ({shot.image_format}, {taken.size} bytes of {shot.capacity})"
        click.echo(
            printable(
                f"snapshot {taken.id}: {shot.name} {shot.disk} -> {shot.target}"
                f"{size if outcome.state == 'done' else ''}  {outcome}"
            )
        )
        if outcome.state == "done":
            why = f" ({taken.unfrozen})" if taken.unfrozen else ""
            click.echo(carrying.line(_WORTH[taken.consistency] + why), err=True)
        if outcome.state == "pending":
            click.echo("bring it to an end with: xmlkit recover", err=True)
