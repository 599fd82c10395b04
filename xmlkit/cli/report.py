"""What xmlkit validate prints: for people, editors, programs, code scanners and GitHub.

Laws
- Each format is a generator over the files: nothing is held back, whatever their number.
- What comes in is without secrets (validation/shown.py), what goes out is safe on a terminal.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from xmlkit import __version__
from xmlkit.cli.paint import Paint
from xmlkit.printable import in_line, printable
from xmlkit.validation.findings import Edit, Finding

if TYPE_CHECKING:
    from xmlkit.validation.shown import Excerpt, Patch

__all__ = ["FORMATS", "Judged", "Repair", "Result"]

SCHEMA = "xmlkit.validate/1"

# Columns of a source line that are shown, and those in front of what it is about at the least; more
# is cut.
_WIDTH = 100
_BEFORE = 8
_TAB = 8
_COLORS = {"error": "red", "warning": "magenta", "note": "cyan"}


@dataclass(frozen=True, slots=True)
class Repair:
    """What mends a file, or some of it.

    edits: what is done, without secrets. unified: the difference, secrets redacted. valid: whether
    nothing is left. written: whether the file is mended now.
    """

    edits: tuple[Edit, ...]
    unified: str
    valid: bool
    written: bool


@dataclass(frozen=True, slots=True)
class Result:
    """A file judged by one directory of schemas.

    findings: of the schema and the profile. more: those of a policy or of libvirt, which say
    nothing about validity. excerpts: the source lines of both. patches: the repairs of each
    finding, for SARIF.
    """

    file: str
    kind: str | None
    schemas: str | None
    findings: tuple[Finding, ...] = ()
    more: tuple[Finding, ...] = ()
    excerpts: tuple[Excerpt | None, ...] = ()
    repair: Repair | None = None
    patches: tuple[tuple[Patch, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """One file: a result for each directory of schemas, and what goes to stderr."""

    file: str
    results: tuple[Result, ...] = ()
    complaints: tuple[str, ...] = ()


def text(files: Iterable[Judged], paint: Paint, several: bool) -> Iterator[str]:
    """As GCC prints: FILE:LINE:COLUMN: severity: message [id] xpath, the line, a caret.

    several: more than one directory of schemas, so that each is named.
    """
    for judged in files:
        for number, result in enumerate(judged.results):
            for finding, excerpt, said in _told(result, number, several):
                place = in_line(f"{judged.file}:{finding.line}:{finding.column}:")
                color = _COLORS[finding.severity]
                severity = paint(f"{finding.severity}:", fg=color, bold=True)
                yield f"{paint(place, bold=True)} {severity} {in_line(said)}\n"
                if excerpt is not None:
                    yield from _pointed(excerpt, paint, color)
            if result.repair is not None:
                yield from _painted(result.repair.unified, paint)


def json(files: Iterable[Judged], paint: Paint, several: bool) -> Iterator[str]:
    """One document of the schema xmlkit.validate/1."""
    from json import dumps

    yield f'{{\n  "schema": "{SCHEMA}",\n  "results": ['
    yield from _listed((_as_data(result) for each in files for result in each.results), dumps, 4)
    yield "]\n}\n"


def github(files: Iterable[Judged], paint: Paint, several: bool) -> Iterator[str]:
    """Workflow commands: an annotation each, where GitHub Actions shows the file."""
    for judged in files:
        for number, result in enumerate(judged.results):
            for finding, _, said in _told(result, number, several):
                command = "notice" if finding.severity == "note" else finding.severity
                file = "" if judged.file == "-" else f"file={_property(judged.file)},"
                place = f"{file}line={finding.line},col={finding.column}"
                yield f"::{command} {place},title={finding.id}::{_data(said)}\n"


def sarif(files: Iterable[Judged], paint: Paint, several: bool) -> Iterator[str]:
    """One log of SARIF 2.1.0, with one run."""
    from json import dumps

    from xmlkit.rules import RULES

    complaints: list[str] = []
    seen: set[str] = set()

    def results() -> Iterator[dict[str, Any]]:
        for judged in files:
            complaints.extend(judged.complaints)
            for number, result in enumerate(judged.results):
                told = _told(result, number, several)
                for (finding, excerpt, _), repairs in zip_longest(told, result.patches):
                    seen.add(finding.id)
                    yield _sarif_result(result, finding, excerpt, repairs or ())

    yield (
        '{\n  "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/'
        'sarif-schema-2.1.0.json",\n  "version": "2.1.0",\n  "runs": [\n    {\n'
        '      "columnKind": "unicodeCodePoints",\n      "results": ['
    )
    yield from _listed(results(), dumps, 8)
    rules = []
    for id in sorted(seen):
        rule: dict[str, Any] = {"id": id}
        if (known := RULES.get(id)) is not None:
            rule["shortDescription"] = {"text": known.title}
            rule["fullDescription"] = {"text": known.why}
            rule["help"] = {"text": f"{known.why}\n{known.remedy}"}
        rules.append(rule)
    rest = {
        "tool": {
            "driver": {
                "name": "xmlkit",
                "semanticVersion": __version__,
                "version": __version__,
                "rules": rules,
            }
        },
        "invocations": [
            {
                "executionSuccessful": not complaints,
                "toolExecutionNotifications": [
                    {"level": "error", "message": {"text": printable(each)}} for each in complaints
                ],
            }
        ],
    }
    inside = dumps(rest, indent=2)[1:-1].strip("\n").replace("\n", "\n    ")
    yield f"],\n    {inside}\n    }}\n  ]\n}}\n"


FORMATS: dict[str, Callable[[Iterable[Judged], Paint, bool], Iterator[str]]] = {
    "text": text,
    "json": json,
    "sarif": sarif,
    "github": github,
}


def _told(
    result: Result, number: int, several: bool
) -> Iterator[tuple[Finding, Excerpt | None, str]]:
    """The findings of a file's result `number`, their lines, and what is said of each."""
    # what is not by the schemas is told once
    found = (*result.findings, *(() if number else result.more))
    for at, (finding, excerpt) in enumerate(zip(found, result.excerpts, strict=False)):
        said = f"{finding.message} [{finding.id}] {finding.xpath}"
        if several and result.schemas and at < len(result.findings):
            said += f" ({result.schemas})"
        yield finding, excerpt, said


def _pointed(excerpt: Excerpt, paint: Paint, color: str) -> Iterator[str]:
    """The source line with a caret below, both cut to a window around it."""
    cells, columns = _cells(excerpt.text)
    start = columns[min(excerpt.start, len(columns) - 1)]
    end = max(columns[min(excerpt.end, len(columns) - 1)], start + 1)
    shift = 0
    width = columns[-1]
    if width > _WIDTH:
        # as much in front of it as behind it
        span = min(end - start, _WIDTH)
        shift = max(0, min(start - max((_WIDTH - span) // 2, _BEFORE), width - _WIDTH))
    window = _window(cells, columns, shift, shift + _WIDTH)
    end = min(end, shift + _WIDTH)
    if not window.strip():
        return
    yield f"{paint(f'{excerpt.line:>5} |', fg='blue')} {window}\n"
    mark = paint("^" + "~" * (end - start - 1), fg=color, bold=True)
    yield f"{paint('      |', fg='blue')} {' ' * (start - shift)}{mark}\n"


def _cells(line: str) -> tuple[list[str], list[int]]:
    """Each character as it is shown, and the column at which it begins; the last is the width."""
    cells, columns, column = [], [], 0
    for character in line:
        columns.append(column)
        cell = " " * (_TAB - column % _TAB) if character == "\t" else printable(character)
        cells.append(cell)
        column += _width(cell)
    columns.append(column)
    return cells, columns


def _width(cell: str) -> int:
    """How many columns of a terminal a cell takes."""
    if cell.isascii():
        return len(cell)
    if len(cell) > 1:
        return len(cell)
    if unicodedata.combining(cell) or unicodedata.category(cell) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(cell) in "WF" else 1


def _window(cells: list[str], columns: list[int], left: int, right: int) -> str:
    """What stands between two columns, with marks where there is more; as wide as it was."""
    shown, column = [], left
    for cell, at in zip(cells, columns, strict=False):
        end = at + _width(cell)
        if at >= left and end <= right:
            # a wide character that is cut leaves a blank
            shown.append(" " * (at - column) + cell)
            column = end
    line = "".join(shown)
    if left > 0:
        line = "..." + line[3:] if line[:3].isascii() and len(line) > 3 else line
    if columns[-1] > right:
        line = line[:-3] + "..." if line[-3:].isascii() and len(line) > 3 else line
    return line.rstrip()


def _painted(unified: str, paint: Paint) -> Iterator[str]:
    """A unified difference in the usual colours."""
    for line in unified.splitlines(keepends=True):
        color = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        said = printable(line.rstrip("\n"))
        yield paint(said, fg=color) + ("\n" if line.endswith("\n") else "")


def _as_data(result: Result) -> dict[str, Any]:
    return {
        "file": result.file,
        "kind": result.kind,
        "schemas": result.schemas,
        "valid": not result.findings,
        "findings": [asdict(finding) for finding in result.findings + result.more],
        "repair": None if result.repair is None else asdict(result.repair),
    }


def _listed(items: Iterable[Any], dumps: Callable[..., str], indent: int) -> Iterator[str]:
    """The items of a JSON list, as json.dumps would indent them."""
    space = "\n" + " " * indent
    separator = ""
    for item in items:
        yield separator + space + dumps(item, indent=2).replace("\n", space)
        separator = ","
    if separator:
        yield space[:-2]


def _sarif_result(
    result: Result, finding: Finding, excerpt: Excerpt | None, patches: tuple[Patch, ...]
) -> dict[str, Any]:
    region: dict[str, Any] = {"startLine": finding.line, "startColumn": finding.column}
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(result.file)}, "region": region}
    if excerpt is not None:
        place["contextRegion"] = {
            "startLine": excerpt.line,
            "endLine": excerpt.line,
            "snippet": {"text": excerpt.text},
        }
    properties: dict[str, Any] = {
        "expected": list(finding.expected),
        "suggestions": list(finding.suggestions),
        "name": finding.name,
        "identity": finding.identity,
        "link": finding.link,
        "schemas": result.schemas,
    }
    told: dict[str, Any] = {
        "ruleId": finding.id,
        "level": finding.severity,
        "message": {"text": finding.message},
        "locations": [
            {
                "physicalLocation": place,
                "logicalLocations": [{"fullyQualifiedName": finding.xpath}],
            }
        ],
        "properties": {name: value for name, value in properties.items() if value},
    }
    if patches:
        told["fixes"] = [_sarif_fix(place["artifactLocation"], patch) for patch in patches]
    return told


def _sarif_fix(file: dict[str, str], patch: Patch) -> dict[str, Any]:
    region = {
        "startLine": patch.line,
        "startColumn": patch.column,
        "endLine": patch.end_line,
        "endColumn": patch.end_column,
    }
    replacement = {"deletedRegion": region, "insertedContent": {"text": patch.text}}
    return {
        "description": {"text": patch.said},
        "artifactChanges": [{"artifactLocation": file, "replacements": [replacement]}],
    }


def _uri(file: str) -> str:
    """A file's name as a URI reference."""
    from urllib.parse import quote

    if file == "-":
        return "stdin"
    path = quote(file.encode("utf-8", "surrogateescape"))
    return f"file://{path}" if path.startswith("/") else path


def _data(message: str) -> str:
    """A message of a workflow command: it ends at the line's end, and % escapes."""
    said = printable(message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))
    return re.sub("[\u2028\u2029]", " ", said)


def _property(value: str) -> str:
    """A property of a workflow command: it ends at a comma or a colon, too."""
    return _data(value).replace(":", "%3A").replace(",", "%2C")
