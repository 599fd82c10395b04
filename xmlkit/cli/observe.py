"""xmlkit observe: write down what libvirt reports of a host."""

from __future__ import annotations

import os
import sys

import click

from xmlkit.cli import files, signals


@click.command(name="observe")
@click.option("--connect", metavar="URI", help="libvirt's URI; else $LIBVIRT_DEFAULT_URI.")
@click.option("-o", "--output", metavar="FILE", help="Write there instead of stdout, atomically.")
def command(connect: str | None, output: str | None) -> None:
    """Write down what libvirt reports of a host: version, capabilities, pools, volumes.

    The file serves --host on any machine. It holds libvirt's own documents, unaltered, and each
    pool's state. It only reads.

    \b
    Exit code: 0 written, 2 trouble and nothing written.

    \b
    Example:
        xmlkit observe --connect qemu:///system -o host.xml
    """
    uri = connect or os.environ.get("LIBVIRT_DEFAULT_URI")
    if not uri:
        raise click.UsageError("which host? Say --connect URI, or set LIBVIRT_DEFAULT_URI")
    from xmlkit.observe import observe

    def progress(pool: str) -> None:
        print(f"xmlkit: pool {pool}", file=sys.stderr)

    with signals.reading(uri) as connection:
        data = observe(connection, progress if sys.stderr.isatty() else None)
    files.write(data, output)
