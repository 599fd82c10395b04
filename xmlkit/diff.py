"""Preview: what a plan will change in a domain, before anything is changed.

Laws
- What is shown is what transform() makes, byte for byte, but for secrets.
- A document that is valid before and invalid after is trouble, whatever else is so.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import asdict, dataclass
from typing import Any

from xmlkit.document import Document
from xmlkit.plan import Plan, Skip, Transition
from xmlkit.redaction import redact_pair
from xmlkit.transformers import transform
from xmlkit.validation.verdict import Finding, validate

__all__ = ["SCHEMA", "Preview", "as_data", "preview", "unified"]

SCHEMA = "xmlkit.diff/1"


@dataclass(frozen=True)
class Preview:
    """One domain's transition: the plan, both documents, what is wrong with each.

    file: where it was read from, as it was named.
    """

    file: str
    plan: Plan
    before: Document
    after: Document
    findings_before: tuple[Finding, ...]
    findings_after: tuple[Finding, ...]

    @property
    def broken(self) -> bool:
        """Valid before and invalid after."""
        return not self.findings_before and bool(self.findings_after)


def preview(
    file: str, domain: Document, plan: Plan, schemas: str | os.PathLike[str] | None = None
) -> Preview:
    """Transform `domain` by `plan` and validate both.

    Raises PlanError as transform does, SchemaError without schemas.
    """
    after = transform(domain, plan)
    findings = validate(domain, schemas)
    same = after is domain
    return Preview(
        file, plan, domain, after, findings, findings if same else validate(after, schemas)
    )


def unified(made: Preview, *, show_secrets: bool = False) -> str:
    """The unified diff of the document's bytes, secrets redacted; "" if nothing changes."""
    if made.after is made.before:
        return ""
    before, after = made.before.text, made.after.text
    if not show_secrets:
        before, after = redact_pair(before, after)
    lines = difflib.unified_diff(
        _lines(before), _lines(after), f"{made.file} (before)", f"{made.file} (after)"
    )
    return "".join(
        line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines
    )


def as_data(made: Preview, *, show_secrets: bool = False) -> dict[str, Any]:
    """One entry of `domains` in a document of schema xmlkit.diff/1."""
    return {
        "file": made.file,
        "name": made.plan.name,
        "uuid": made.plan.uuid,
        "before": {"valid": not made.findings_before},
        "after": {"valid": not made.findings_after},
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
        "reason": None if disk.reason is None else asdict(disk.reason),
    }
    if isinstance(disk, Skip):
        data["from"] = asdict(disk.address) | {"format": disk.format}
        return data
    return data | {
        "action": disk.action,
        "disk_type": disk.disk_type,
        "from": asdict(disk.before) | {"format": disk.format},
        "to": asdict(disk.after),
        "verified": disk.verified,
    }


def _lines(text: str) -> list[str]:
    # only line feeds end a line here: splitlines() would split at others that XML text may have
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + lines[-1:] * bool(lines[-1])
