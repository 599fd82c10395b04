"""xmlkit validate: check libvirt XML against libvirt's schemas."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from xmlkit.cli import TROUBLE, files, printable
from xmlkit.document import DocumentError
from xmlkit.validation import schemas
from xmlkit.validation.verdict import Finding, unreadable, validate

SCHEMA = "xmlkit.validate/1"


@click.command(name="validate")
@click.option(
    "--schemas", "directory", metavar="DIR", help="libvirt's schemas; else $XMLKIT_SCHEMAS."
)
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@files.limit_options
@click.argument("names", metavar="FILE...|DIR|-", nargs=-1, required=True)
def command(
    names: tuple[str, ...],
    directory: str | None,
    format_: str,
    max_size: int,
    max_depth: int,
    max_markup: int,
) -> int:
    """Check libvirt XML against the schemas of the libvirt that is installed.

    The schema is chosen by the root element (domain, pool, volume, network, ...). Of a DIR all
    files ending in .xml are checked, also in its subdirectories; - is stdin.

    \b
    Exit code: 0 all valid, 1 some findings, 2 trouble: a file that is no XML or
    cannot be read, or no schemas.

    \b
    Example:
        xmlkit validate /etc/libvirt/qemu/*.xml
    """
    # without schemas nothing can be said of any file
    place = schemas.directory(directory)
    bounds = files.limits(max_size, max_depth, max_markup)
    code = 0
    results: list[dict[str, Any]] = []
    for name in _files(names):
        kind = None
        if os.path.isdir(name):
            click.echo(f"xmlkit: no .xml files in {name}", err=True)
            code = TROUBLE
            continue
        try:
            document = files.read_document(name, bounds)
            kind = document.kind
            findings = validate(document, place)
        except DocumentError as error:
            findings = (unreadable(error),)
        except (files.FileError, schemas.SchemaError) as error:
            click.echo(f"xmlkit: {error}", err=True)
            code = TROUBLE
            continue
        trouble = any(finding.id in ("not-well-formed", "unknown-kind") for finding in findings)
        code = max(code, TROUBLE if trouble else int(bool(findings)))
        if format_ == "text":
            for finding in findings:
                click.echo(_line(name, finding))
        else:
            results.append(
                {
                    "file": name,
                    "kind": kind,
                    "valid": not findings,
                    "findings": [asdict(finding) for finding in findings],
                }
            )
    if format_ == "json":
        import json

        click.echo(json.dumps({"schema": SCHEMA, "results": results}, indent=2))
    return code


def _line(file: str, finding: Finding) -> str:
    return printable(
        f"{file}:{finding.line}:{finding.column}: {finding.severity}: {finding.message} "
        f"[{finding.id}] {finding.xpath}"
    ).replace("\n", "\\n")


def _files(names: tuple[str, ...]) -> Iterator[str]:
    """Each file that is named, and of a directory all .xml files.

    A directory without any stays itself. Raises FileError for one that cannot be read.
    """

    def unreadable(error: OSError) -> None:
        raise files.FileError(f"cannot read {error.filename}: {error.strerror}")

    for name in names:
        inside = []
        if name != "-" and os.path.isdir(name):
            for directory, subdirectories, found in os.walk(name, onerror=unreadable):
                subdirectories.sort()
                inside += [os.path.join(directory, file) for file in sorted(found)]
        yield from [file for file in inside if file.endswith(".xml")] or [name]
