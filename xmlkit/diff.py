"""Preview: what a plan will change in a domain, before anything is changed.

Laws
- What is shown is what transform() makes, byte for byte, but for secrets.
- The difference is found disk by disk, so that its cost grows with the number of disks.
- A document that is valid before and invalid after is trouble, whatever else is so.
"""

from __future__ import annotations

import difflib
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from xmlkit.disks import read_domain
from xmlkit.document import Document
from xmlkit.plan import Plan, Skip, Transition
from xmlkit.redaction import redact_pair
from xmlkit.transformers import transform
from xmlkit.validation.findings import Finding
from xmlkit.validation.profiles import Profile
from xmlkit.validation.verdict import validate

__all__ = [
    "SCHEMA",
    "Hunk",
    "Piece",
    "Preview",
    "as_data",
    "difference",
    "hunks",
    "preview",
    "unified",
]

SCHEMA = "xmlkit.diff/1"

Tag = Literal["replace", "delete", "insert", "equal"]
Opcode = tuple[Tag, int, int, int, int]


class Preview(NamedTuple):
    """One domain's transition: the plan, both documents, what is wrong with each.

    file: where it was read from, as it was named. validated: whether anything was looked for.
    """

    file: str
    plan: Plan
    before: Document
    after: Document
    findings_before: tuple[Finding, ...]
    findings_after: tuple[Finding, ...]
    validated: bool = True

    @property
    def broken(self) -> bool:
        """Valid before and invalid after."""
        return not self.findings_before and bool(self.findings_after)


class Piece(NamedTuple):
    """Lines that are equal in both documents, or that stand in each other's place."""

    equal: bool
    before: tuple[str, ...]
    after: tuple[str, ...]


class Hunk(NamedTuple):
    """A part of the difference, three equal lines around it.

    before, after: the numbers of its first line, from 1, in either document.
    """

    before: int
    after: int
    pieces: tuple[Piece, ...]


def preview(
    file: str,
    domain: Document,
    plan: Plan,
    schemas: str | os.PathLike[str] | None = None,
    profile: Profile | None = None,
    *,
    validated: bool = True,
) -> Preview:
    """Transform `domain` by `plan` and validate both, unless it is not wanted.

    schemas, profile: as for `validate`; the profile is that of the host that was planned for.
    Raises PlanError as transform does, SchemaError without schemas.
    """
    after = transform(domain, plan)
    if not validated:
        return Preview(file, plan, domain, after, (), (), validated=False)
    before = validate(domain, schemas, profile=profile)
    same = after is domain
    return Preview(
        *(file, plan, domain, after),
        findings_before=before,
        findings_after=before if same else validate(after, schemas, profile=profile),
    )


def hunks(made: Preview, *, show_secrets: bool = False) -> Iterator[Hunk]:
    """The difference of the documents' bytes, secrets redacted; none if nothing changes."""
    if made.after is made.before:
        return
    old, new = _lines(made.before.text), _lines(made.after.text)
    groups = _Known(_opcodes(made, old, new)).get_grouped_opcodes()
    if not show_secrets:
        before, after = redact_pair(made.before.text, made.after.text)
        old, new = _lines(before), _lines(after)
    for group in groups:
        pieces = (
            Piece(tag == "equal", tuple(old[i1:i2]), tuple(new[j1:j2]))
            for tag, i1, i2, j1, j2 in group
        )
        yield Hunk(group[0][1] + 1, group[0][3] + 1, tuple(pieces))


def unified(made: Preview, *, show_secrets: bool = False) -> str:
    """The unified diff of the document's bytes, secrets redacted; "" if nothing changes."""
    if made.after is made.before:
        return ""
    pieces = [f"--- {made.file} (before)\n+++ {made.file} (after)\n"]
    for hunk in hunks(made, show_secrets=show_secrets):
        pieces += _hunk(hunk)
    return "".join(pieces)


def difference(name: str, domain: Document, plan: Plan) -> str:
    """What a plan will change in a domain, as unified() has it, secrets redacted; not validated.

    name: of the domain, for the head. Raises PlanError as transform does.
    """
    return unified(Preview(name, plan, domain, transform(domain, plan), (), (), validated=False))


def as_data(made: Preview, *, show_secrets: bool = False) -> dict[str, Any]:
    """One entry of `domains` in a document of schema xmlkit.diff/1."""
    return {
        "file": made.file,
        "name": made.plan.name,
        "uuid": made.plan.uuid,
        "before": {"valid": not made.findings_before if made.validated else None},
        "after": {"valid": not made.findings_after if made.validated else None},
        "disks": [_disk(disk) for disk in made.plan.disks],
        "unified": unified(made, show_secrets=show_secrets),
    }


def _disk(disk: Transition | Skip) -> dict[str, Any]:
    data: dict[str, Any] = {
        "target": disk.target,
        "action": "skip",
        "disk_type": None,
        "from": None,
        "to": None,
        "verified": None,
        "reason": disk.reason and disk.reason._asdict(),
    }
    if isinstance(disk, Skip):
        data["from"] = disk.address._asdict() | {"format": disk.format}
        return data
    return data | {
        "action": disk.action,
        "disk_type": disk.disk_type,
        "from": disk.before._asdict() | {"format": disk.format},
        "to": disk.after._asdict(),
        "verified": disk.verified,
    }


class _Known(difflib.SequenceMatcher[str]):
    """difflib's grouping into hunks, of opcodes that were found otherwise."""

    def __init__(self, opcodes: list[Opcode]) -> None:
        super().__init__(None, "", "")
        self._opcodes = opcodes

    def get_opcodes(self) -> list[Opcode]:
        return self._opcodes


def _opcodes(made: Preview, old: list[str], new: list[str]) -> list[Opcode]:
    """difflib's opcodes, found disk by disk: over a whole document it takes quadratic time."""
    opcodes: list[Opcode] = []
    i = j = 0
    ends = [(len(old), len(old)), (len(new), len(new))]
    disks = zip(_places(made.before, old), _places(made.after, new), strict=True)
    for (i1, i2), (j1, j2) in (*disks, ends):
        if i1 < i:
            # two disks on one line: a document in few lines, then
            return difflib.SequenceMatcher(None, old, new).get_opcodes()
        _add(opcodes, ("equal", i, i1, j, j1))
        found = difflib.SequenceMatcher(None, old[i1:i2], new[j1:j2])
        for tag, a1, a2, b1, b2 in found.get_opcodes():
            _add(opcodes, (tag, a1 + i1, a2 + i1, b1 + j1, b2 + j1))
        i, j = i2, j2
    return opcodes


def _add(opcodes: list[Opcode], opcode: Opcode) -> None:
    tag, i1, i2, j1, j2 = opcode
    if opcodes and opcodes[-1][0] == tag == "equal":
        opcodes[-1] = ("equal", opcodes[-1][1], i2, opcodes[-1][3], j2)
    elif i1 < i2 or j1 < j2:
        opcodes.append(opcode)


def _places(document: Document, lines: list[str]) -> Iterator[tuple[int, int]]:
    """First line of each disk and the one after its last, from 0."""
    starts = [0, *accumulate(map(len, lines))]
    for disk in read_domain(document).disks:
        start, end = document.span_of(disk.element)
        yield bisect_right(starts, start) - 1, bisect_left(starts, end)


def _hunk(hunk: Hunk) -> Iterator[str]:
    before = sum(len(piece.before) for piece in hunk.pieces)
    after = sum(len(piece.after) for piece in hunk.pieces)
    yield f"@@ -{_range(hunk.before, before)} +{_range(hunk.after, after)} @@\n"
    for piece in hunk.pieces:
        if piece.equal:
            yield from (_shown(" ", line) for line in piece.before)
            continue
        yield from (_shown("-", line) for line in piece.before)
        yield from (_shown("+", line) for line in piece.after)


def _range(first: int, length: int) -> str:
    return f"{first}" if length == 1 else f"{first - (not length)},{length}"


def _shown(mark: str, line: str) -> str:
    return mark + line if line.endswith("\n") else f"{mark}{line}\n\\ No newline at end of file\n"


def _lines(text: str) -> list[str]:
    # only line feeds end a line here: splitlines() would split at others that XML text may have
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + lines[-1:] * bool(lines[-1])
