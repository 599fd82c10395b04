"""xmlkit moves virtual machines onto libvirt storage pools and checks libvirt XML.

The sentence: a Document and a Host make a Plan, transform() does what the plan says, validate()
judges the result. The core needs neither libvirt nor Nova:

    from xmlkit import Document, Host, Pool, transform, validate
    from xmlkit.plan import plan

The names are imported when they are first used, so that `import xmlkit` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xmlkit.lazy import attributes

__version__ = "0.1.0"

if TYPE_CHECKING:
    from xmlkit.disks import Address
    from xmlkit.document import Document, DocumentError, Limits
    from xmlkit.host import Host, HostError, Pool, Volume, parse_host
    from xmlkit.journal import Outcome
    from xmlkit.plan import Plan, PlanError, Reason, Skip, Transition
    from xmlkit.service import Options, transition
    from xmlkit.transformers import transform
    from xmlkit.validation.findings import Finding
    from xmlkit.validation.schemas import SchemaError
    from xmlkit.validation.verdict import validate

_HOMES = {
    "xmlkit.disks": ("Address",),
    "xmlkit.document": ("Document", "DocumentError", "Limits"),
    "xmlkit.host": ("Host", "HostError", "Pool", "Volume", "parse_host"),
    "xmlkit.journal": ("Outcome",),
    "xmlkit.plan": ("Plan", "PlanError", "Reason", "Skip", "Transition"),
    "xmlkit.service": ("Options", "transition"),
    "xmlkit.transformers": ("transform",),
    "xmlkit.validation.findings": ("Finding",),
    "xmlkit.validation.schemas": ("SchemaError",),
    "xmlkit.validation.verdict": ("validate",),
}

__all__ = [
    "Address",
    "Document",
    "DocumentError",
    "Finding",
    "Host",
    "HostError",
    "Limits",
    "Options",
    "Outcome",
    "Plan",
    "PlanError",
    "Pool",
    "Reason",
    "SchemaError",
    "Skip",
    "Transition",
    "Volume",
    "parse_host",
    "transform",
    "transition",
    "validate",
]

__getattr__ = attributes(__name__, _HOMES)
