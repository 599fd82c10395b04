"""xmlkit validate: check libvirt XML against libvirt's schemas."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

import click

from xmlkit.cli import TROUBLE, files, printable
from xmlkit.document import DocumentError
from xmlkit.validation import schemas
from xmlkit.validation.findings import Finding
from xmlkit.validation.profiles import PROFILES, Profile
from xmlkit.validation.verdict import unreadable, validate

SCHEMA = "xmlkit.validate/1"

Findings = tuple[Finding, ...]


@click.command(name="validate")
@click.option(
    "--schemas",
    "directories",
    metavar="DIR|VERSION",
    multiple=True,
    help="libvirt's schemas, repeatable; else by $XMLKIT_SCHEMAS.",
)
@click.option(
    "--profile", type=click.Choice(PROFILES), help="Refuse what some hosts cannot have, too."
)
@click.option(
    "--policy",
    "policy_name",
    type=click.Choice(["storage", "nova"]),
    help="Check what a document to be created should say, too.",
)
@click.option(
    "--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@files.limit_options
@click.argument("names", metavar="FILE...|DIR|-", nargs=-1, required=True)
def command(
    names: tuple[str, ...],
    directories: tuple[str, ...],
    profile: Profile | None,
    policy_name: Literal["storage", "nova"] | None,
    format_: str,
    max_size: int,
    max_depth: int,
    max_markup: int,
) -> int:
    """Check libvirt XML against the schemas of the libvirt that is installed.

    The schema is chosen by the root element (domain, pool, volume, network, ...). Of a DIR all
    files ending in .xml are checked, also in its subdirectories; - is stdin. A lone device such
    as <disk>, as attach-device takes it, is checked as it would be in a domain.
    With several --schemas each document is checked against each of them.

    \b
    Exit code: 0 all valid, 1 some findings, 2 trouble: a file that is no XML or
    cannot be read, or no schemas.

    \b
    Example:
        xmlkit validate /etc/libvirt/qemu/*.xml
    """
    # without schemas nothing can be said of any file
    places = [schemas.directory(directory) for directory in directories or (None,)]
    bounds = files.limits(max_size, max_depth, max_markup)
    code = 0
    results: list[dict[str, Any]] = []

    def tell(
        name: str, kind: str | None, place: str | None, found: Findings, more: Findings = ()
    ) -> None:
        nonlocal code
        trouble = any(finding.id in ("not-well-formed", "unknown-kind") for finding in found)
        code = max(code, TROUBLE if trouble else int(bool(found or more)))
        if format_ == "text":
            where = f" ({place})" if len(places) > 1 and place else ""
            for finding in found:
                click.echo(_line(name, finding) + printable(where))
            for finding in more:
                click.echo(_line(name, finding))
            return
        results.append(
            {
                "file": name,
                "kind": kind,
                "schemas": place,
                "valid": not found,
                "findings": [asdict(finding) for finding in found + more],
            }
        )

    for name in _files(names):
        if os.path.isdir(name):
            click.echo(f"xmlkit: no .xml files in {name}", err=True)
            code = TROUBLE
            continue
        try:
            document = files.read_document(name, bounds)
        except DocumentError as error:
            tell(name, None, None, (unreadable(error),))
            continue
        except files.FileError as error:
            click.echo(f"xmlkit: {error}", err=True)
            code = TROUBLE
            continue
        refused: Findings = ()
        if policy_name is not None:
            from xmlkit.validation.policy import policy

            refused = policy(document, policy_name)
        for place in places:
            try:
                found = validate(document, place, profile=profile)
            except schemas.SchemaError as error:
                click.echo(f"xmlkit: {name}: {error}", err=True)
                code = TROUBLE
                continue
            tell(name, document.kind, place, found, refused)
            if format_ == "text":
                # the policy knows nothing of schemas: once is enough
                refused = ()
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
