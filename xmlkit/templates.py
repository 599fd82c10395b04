"""The documents that libvirt is asked to create, from the files in templates/.

Laws
- A value is text, never markup: all is escaped, so no name can add an element.
- What a template names and nobody gives is an error, never an empty place.
- The result is a Document: it was parsed again before anybody has it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from xmlkit import shipped
from xmlkit.document import Document

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render"]


def render(name: str, /, **values: Any) -> Document:
    """The document that the template `name` ("volume", "pool", "domainsnapshot") makes of values.

    Raises jinja2.UndefinedError for a value that is missing, DocumentError for text that no XML
    can have.
    """
    return Document.parse(_environment().get_template(f"{name}.xml").render(values))


@cache
def _environment() -> Environment:
    # it takes longer to import than a refusal takes to be printed
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(shipped.directory("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
