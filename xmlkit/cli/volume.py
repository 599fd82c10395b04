"""xmlkit volume: the XML that creates, copies or snapshots a volume, or the script that does it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import click

from xmlkit.cli import files, printable
from xmlkit.cli.hosts import host_of, source_options
from xmlkit.host import Host, HostError, Pool, parse_size
from xmlkit.shell import script as script_of
from xmlkit.volumes import (
    SNAPSHOT_POOL,
    Creation,
    Permissions,
    Target,
    blank,
    commands,
    copy,
    overlay,
    snapshot,
)

_FORMATS = click.Choice(["raw", "qcow2"])


def _size(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else parse_size(text)
    except HostError as error:
        raise click.BadParameter(str(error), context, option) from None


def _mode(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    if text is not None and not re.fullmatch("[0-7]{1,6}", text):
        raise click.BadParameter(f"not a mode: {text!r}; write it like 0600", context, option)
    return None if text is None else int(text, 8)


_CAPACITY = click.option("--capacity", callback=_size, metavar="SIZE", help="As 10G or 1048576.")
_PREALLOCATE = click.option(
    "--preallocate",
    type=click.Choice(["no", "metadata", "full"]),
    default="no",
    show_default=True,
    help="Reserve the layout of a qcow2 image, or all of the space.",
)
_TARGET = (
    click.option("--image-format", type=_FORMATS, required=True, help="Of the new volume."),
    click.option("--cluster-size", callback=_size, metavar="SIZE", help="Of a qcow2 image."),
    click.option("--lazy-refcounts", is_flag=True, help="A feature of qcow2."),
    click.option("--extended-l2", is_flag=True, help="A feature of qcow2: subclusters."),
    click.option("--nocow", is_flag=True, help="No copy on write by the file system (btrfs)."),
    click.option("--encryption", metavar="UUID", help="LUKS, by libvirt's secret of this UUID."),
    click.option("--mode", callback=_mode, metavar="MODE", help="Of the file, as in 0600."),
    click.option("--owner", type=int, metavar="UID", help="Of the file."),
    click.option("--group", type=int, metavar="GID", help="Of the file."),
)
_OUTPUT = (
    click.option("--script", is_flag=True, help="Print the shell script that does it all."),
    click.option("-o", "--output", metavar="OUT", help="Write there instead of stdout."),
)


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    function = source_options(function)
    for option in reversed((*_TARGET, *_OUTPUT)):
        function = option(function)
    return function


@click.group(name="volume")
def command() -> None:
    """Write the XML that creates, copies or snapshots a volume, and say what else is to be done.

    Nothing is changed: the document is for virsh vol-create, --script prints all commands.

    \b
    Exit code: 0 written, 2 trouble and nothing written.

    \b
    Example:
        xmlkit volume create default/swap --image-format raw --capacity 1G
    """


@command.command(name="create")
@_CAPACITY
@click.option("--backing", metavar="PATH", help="The image that the volume starts as.")
@click.option("--backing-format", type=_FORMATS, help="Of that image; it is not guessed.")
@_PREALLOCATE
@_options
@click.argument("volume", metavar="POOL/NAME")
def create(
    volume: str,
    capacity: int | None,
    backing: str | None,
    backing_format: str | None,
    preallocate: Any,
    **options: Any,
) -> None:
    """Create a blank volume, or with --backing an overlay that keeps only what differs from it.

    \b
    Exit code: 0 written, 2 trouble and nothing written.

    \b
    Example:
        xmlkit volume create nova-disks-pool/guest_disk --image-format qcow2 \\
            --backing /var/lib/nova/instances/_base/image --backing-format raw
    """
    if (backing is None) != (backing_format is None):
        raise click.UsageError(
            "--backing and --backing-format go together: libvirt takes a missing format for raw"
        )
    if backing is None and capacity is None:
        raise click.UsageError("a blank volume needs --capacity SIZE")
    if backing is not None and preallocate != "no":
        raise click.UsageError("a volume with --backing is not preallocated: libvirt refuses it")
    host, pool, name = _place(volume, options)
    target = _target(options)
    if backing is not None and backing_format is not None:
        made = overlay(host, pool, name, target, backing, backing_format, capacity)
    else:
        made = blank(host, pool, name, target, capacity or 0, preallocate)
    _write(made, options)


@command.command(name="copy")
@_CAPACITY
@click.option("--source-format", type=_FORMATS, required=True, help="Of SRC; it is not guessed.")
@_PREALLOCATE
@click.option("--reflink", is_flag=True, help="Share the blocks (raw to raw, XFS or btrfs).")
@_options
@click.argument("source", metavar="SRC")
@click.argument("volume", metavar="DST")
def copy_(
    source: str,
    volume: str,
    capacity: int | None,
    source_format: str,
    preallocate: Any,
    reflink: bool,
    **options: Any,
) -> None:
    """Copy the volume SRC to DST, both POOL/NAME, by libvirt: base images, never guests' disks.

    libvirt probes the bytes of SRC and follows the backing file that they name. For a disk that a
    guest has written use xmlkit volume snapshot, which tells qemu-img the format. A copy is never
    compressed and has no backing file. --capacity is SRC's or more, needed unless its pool was
    observed (--connect, --host).

    \b
    Exit code: 0 written, 2 trouble and nothing written.

    \b
    Example:
        xmlkit volume copy images/base disks/guest --reflink --script \\
            --source-format raw --image-format raw --capacity 10G
    """
    host, pool, name = _place(volume, options)
    _, source_pool, source_name = _place(source, options, host)
    made = copy(
        host,
        pool,
        name,
        _target(options),
        source_pool,
        source_name,
        source_format,
        capacity,
        preallocate,
        reflink=reflink,
    )
    if not options["script"]:
        _note(f"for virsh vol-create-from --inputpool {source_pool.name} --vol {source_name}")
    _write(made, options)


@command.command(name="snapshot")
@_CAPACITY
@click.option("--source-format", type=_FORMATS, required=True, help="Of SRC; it is not guessed.")
@click.option("--compress", type=click.Choice(["zlib", "zstd"]), help="By qemu-img convert -c.")
@_options
@click.argument("source", metavar="SRC")
@click.argument("volume", metavar="DST")
def snapshot_(
    source: str,
    volume: str,
    capacity: int | None,
    source_format: str,
    compress: Any,
    **options: Any,
) -> None:
    """Snapshot the disk SRC, a PATH or POOL/NAME, flat into the volume DST.

    DST is POOL/NAME, or NAME in nova-snapshots-pool. libvirt's XML has no compression: the
    document creates an empty volume, and qemu-img convert, which --script prints, fills it, with
    -c if --compress is given. No guest may have SRC open. --capacity is SRC's, needed unless its
    pool was observed (--connect, --host).

    \b
    Exit code: 0 written, 2 trouble and nothing written.

    \b
    Example:
        xmlkit volume snapshot /var/lib/nova/instances/disks/guest_disk backup \\
            --pool nova-snapshots-pool=/srv/snapshots --capacity 10G \\
            --source-format qcow2 --image-format qcow2 --compress zstd --script
    """
    if "/" not in volume:
        volume = f"{SNAPSHOT_POOL}/{volume}"
    host, pool, name = _place(volume, options)
    if not source.startswith("/"):
        _, source_pool, source_name = _place(source, options, host)
        path = source_pool.path_of(source_name)
        if path is None:
            raise HostError(
                f"the path of {source} is not known: say --pool {source_pool.name}=PATH"
            )
        source = path
    if capacity is None:
        found = host.lookup(source)
        capacity = found[2].capacity if found and found[2] else None
    if capacity is None:
        raise click.UsageError("the size of SRC is not known: say --capacity SIZE")
    made = snapshot(host, pool, name, _target(options), source, source_format, capacity, compress)
    if not options["script"] and made.fill is not None:
        _note(f"then fill it: {commands(made)[1]}")
    _write(made, options)


def _place(text: str, options: dict[str, Any], host: Host | None = None) -> tuple[Host, Pool, str]:
    """The host, the pool and the volume's name of a POOL/NAME."""
    pool_name, slash, name = text.partition("/")
    if not slash or not pool_name or not name:
        raise click.UsageError(f"not a volume: {text!r}; write POOL/NAME")
    said: Host | None = host
    if said is None:
        said = host_of(
            options["pools"],
            options["host_file"],
            options["connect"],
            options["assume_libvirt"],
        )
    if said is None or not said.pools:
        # as --pool without a type; nothing that is written needs its path
        return said or Host(), Pool(pool_name, "dir", ""), name
    pool = said.by_name.get(pool_name)
    if pool is None:
        known = ", ".join(said.by_name)
        raise HostError(f"no pool {pool_name!r} on this host: it has {known}")
    return said, pool, name


def _target(options: dict[str, Any]) -> Target:
    given = (options["mode"], options["owner"], options["group"])
    return Target(
        options["image_format"],
        options["cluster_size"],
        options["lazy_refcounts"],
        options["extended_l2"],
        options["nocow"],
        options["encryption"],
        None if given == (None, None, None) else Permissions(*given),
    )


def _write(made: Creation, options: dict[str, Any]) -> None:
    if options["script"]:
        files.write(script_of(commands(made)).encode(), options["output"])
        return
    if made.flags:
        _note(f"with {' '.join(f'--{flag}' for flag in made.flags)}")
    if made.capacity is not None:
        _note(f"then grow it: {commands(made)[-1]}")
    files.write(made.document.source, options["output"])


def _note(text: str) -> None:
    print(f"xmlkit: {printable(text)}", file=sys.stderr)
