"""xmlkit validate: check libvirt XML against libvirt's schemas."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import click

from xmlkit.cli import TROUBLE, files, paint, printable, report
from xmlkit.cli.report import Judged, Repair, Result
from xmlkit.document import Document, DocumentError, Limits
from xmlkit.errors import XmlkitError
from xmlkit.validation import schemas
from xmlkit.validation.findings import Finding
from xmlkit.validation.profiles import PROFILES, Profile
from xmlkit.validation.verdict import unreadable, validate

if TYPE_CHECKING:
    from xmlkit.cli.counting import Counting

Findings = tuple[Finding, ...]

# Findings that say that a file could not be judged at all.
_TROUBLE = frozenset(("not-well-formed", "unknown-kind"))
# How long a run on a terminal goes on before it shows how far it is: rich takes its time, too.
_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class _Way:
    """How each file is judged: what the options say."""

    places: tuple[str, ...]
    profile: Profile | None
    policy: Literal["storage", "nova"] | None
    bounds: Limits
    fix: bool
    write: bool
    through: bool
    connect: str | None
    patches: bool


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
    "--through-libvirt",
    "through",
    is_flag=True,
    help="Tell what libvirt itself drops or changes: a test driver in this process is asked.",
)
@click.option(
    "--connect",
    metavar="URI",
    help="With --through-libvirt: compare with what is defined at URI; nothing is changed there.",
)
@click.option("--fix", is_flag=True, help="Show what would repair the files, as a diff.")
@click.option("--write", is_flag=True, help="With --fix: repair the files.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(report.FORMATS)),
    default="text",
    show_default=True,
)
@click.option(
    "--jobs",
    type=click.IntRange(min=0),
    metavar="N",
    default=1,
    show_default=True,
    help="Worker processes; 0: one for each CPU.",
)
@paint.color_option
@files.limit_options
@click.argument("names", metavar="FILE...|DIR|-", nargs=-1, required=True)
def command(
    names: tuple[str, ...],
    directories: tuple[str, ...],
    profile: Profile | None,
    policy_name: Literal["storage", "nova"] | None,
    through: bool,
    connect: str | None,
    fix: bool,
    write: bool,
    format_: str,
    jobs: int,
    color: str,
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
    Exit code: 0 all valid, 1 some findings (a note is none), 2 trouble: a file
    that is no XML or cannot be read or written, or no schemas. With --fix
    --write what is left counts.

    \b
    Example:
        xmlkit validate /etc/libvirt/qemu/*.xml
    """
    if write and not fix:
        raise click.UsageError("--write needs --fix: it writes what --fix shows")
    if write and "-" in names:
        raise click.UsageError("--write needs files: stdin cannot be repaired")
    if fix and len(directories) > 1:
        raise click.UsageError("--fix takes one --schemas: what repairs for one may break another")
    if "" in directories:
        raise click.UsageError("--schemas needs a directory or a version, not an empty text")
    if connect is not None and not through:
        raise click.UsageError("--connect needs --through-libvirt")
    # without schemas nothing can be said of any file
    places = tuple(schemas.directory(directory) for directory in directories or (None,))
    bounds = files.limits(max_size, max_depth, max_markup)
    patches = format_ == "sarif"
    way = _Way(places, profile, policy_name, bounds, fix, write, through, connect, patches)
    code = 0

    def noted(all_files: Iterable[Judged], told: Callable[[], None]) -> Iterator[Judged]:
        nonlocal code
        for judged in all_files:
            code = max(code, _code(judged))
            for complaint in judged.complaints:
                click.echo(f"xmlkit: {printable(complaint)}", err=True)
            yield judged
            told()

    with _asking(way), _progress() as progress:
        judged = noted(_judged(_files(names), way, jobs), progress.advance)
        for piece in report.FORMATS[format_](judged, paint.painter(color), len(places) > 1):
            with progress.aside():
                click.echo(piece, nl=False, color=True)
    return code


def _code(judged: Judged) -> int:
    """The exit code for one file."""
    found = [finding for each in judged.results for finding in (*each.findings, *each.more)]
    if judged.complaints or any(finding.id in _TROUBLE for finding in found):
        return TROUBLE
    return int(any(finding.severity != "note" for finding in found))


def judge(name: str, way: _Way) -> Judged:
    """What is to be said of one file; it never raises what another file should suffer from."""
    try:
        source = files.read(name, way.bounds.size)
        document = Document.parse(source, way.bounds)
    except DocumentError as error:
        from xmlkit.validation.shown import excerpt_of_unreadable

        error.file = "stdin" if name == "-" else name
        line = excerpt_of_unreadable(source, error)
        return Judged(name, (Result(name, None, None, (unreadable(error),), (), (line,)),))
    except files.FileError as error:
        nothing = os.path.isdir(name) and os.access(name, os.R_OK | os.X_OK)
        return Judged(name, complaints=(f"no .xml files in {name}" if nothing else str(error),))
    complaints: list[str] = []
    more: Findings = ()
    if way.policy is not None:
        from xmlkit.validation.policy import policy

        more = policy(document, way.policy)
    if way.through:
        from xmlkit.validation.through import through_libvirt

        try:
            more += through_libvirt(document, way.connect)
        except XmlkitError as error:
            complaints.append(f"{name}: {error}")
    results: list[Result] = []
    for place in way.places:
        try:
            found = validate(document, place, profile=way.profile)
        except schemas.SchemaError as error:
            complaints.append(f"{name}: {error}")
            continue
        judged, repair = document, None
        if way.fix and found:
            judged, found, repair = _repaired(name, document, found, way, complaints)
        results.append(_result(name, judged, place, found, more, repair, way.patches))
    return Judged(name, tuple(results), tuple(complaints))


def _result(
    name: str,
    document: Document,
    place: str,
    found: Findings,
    more: Findings,
    repair: Repair | None,
    with_patches: bool,
) -> Result:
    if not found and not more:
        return Result(name, document.kind, place, repair=repair)
    from xmlkit.validation.shown import patches, shown

    clean, excerpts = shown(document, found + more)
    repairs = patches(document, found) if with_patches else ()
    cut = len(found)
    return Result(name, document.kind, place, clean[:cut], clean[cut:], excerpts, repair, repairs)


def _repaired(
    name: str, document: Document, found: Findings, way: _Way, complaints: list[str]
) -> tuple[Document, Findings, Repair | None]:
    """The document that is judged, its findings, and the repair that is shown or written."""
    from xmlkit.validation.mending import mended, unified
    from xmlkit.validation.shown import hidden

    mend = mended(document, found, way.places[0], profile=way.profile)
    if not mend.edits:
        return document, found, None
    written = False
    if way.write:
        try:
            _write(name, document, mend.document)
            written = True
        except files.FileError as error:
            complaints.append(str(error))
    difference = unified(name, document, mend.document)
    edits = tuple(hidden(document, mend.edits))
    repair = Repair(edits, difference, not mend.findings, written)
    # what is in the file is what is judged
    return (mend.document, mend.findings, repair) if written else (document, found, repair)


def _write(name: str, old: Document, new: Document) -> None:
    """Replace a file that still is what was read. Raises FileError."""
    if files.read(name, len(old.source)) != old.source:
        raise files.FileError(f"{name} has changed since it was read: run it again")
    files.write(new.source, name)


def _judged(names: Iterator[str], way: _Way, jobs: int) -> Iterator[Judged]:
    """Each file judged, in the order of `names`."""
    if jobs == 1:
        return (judge(name, way) for name in names)
    from xmlkit.cli.workers import in_order

    return in_order(judge, names, way, jobs or os.cpu_count() or 1, alone="-")


def _files(names: tuple[str, ...]) -> Iterator[str]:
    """Each file that is named, and of a directory all .xml files, as they are found.

    A directory without any stays itself, and so does one that cannot be read. A pipe or a device in
    a directory is no document: it could be waited for without end.
    """
    for name in names:
        if name == "-" or not os.path.isdir(name):
            yield name
            continue
        found = False
        closed: list[OSError] = []
        for directory, subdirectories, inside in os.walk(name, onerror=closed.append):
            subdirectories.sort()
            for file in sorted(inside):
                path = os.path.join(directory, file)
                # a link to nowhere is told as such
                if file.endswith(".xml") and (os.path.isfile(path) or not os.path.exists(path)):
                    found = True
                    yield path
        if closed:
            yield from (str(error.filename) for error in closed)
        elif not found:
            yield name


def _asking(way: _Way) -> AbstractContextManager[None]:
    """While libvirt may be asked, Ctrl-C is heard also if it does not answer."""
    if not way.through:
        return nullcontext()
    from xmlkit.cli.signals import UNCHANGED, interruptible

    return interruptible("what was repaired stays so" if way.write else UNCHANGED)


class _Progress:
    """How far it is; this one shows nothing."""

    def advance(self) -> None:
        """One file more is done."""

    def aside(self) -> AbstractContextManager[None]:
        """While something else is written to the terminal."""
        return nullcontext()


@contextmanager
def _progress() -> Iterator[_Progress | Counting]:
    """A count on a terminal, nothing elsewhere."""
    if not paint.drawable(sys.stderr):
        yield _Progress()
        return
    from xmlkit.cli.counting import Counting

    with Counting("files checked", _PATIENCE, sys.stdout.isatty()) as counting:
        yield counting
