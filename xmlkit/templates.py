"""What is made of the files in templates/: documents that libvirt is asked to create, and a page.

Laws
- A value is text, never markup: all is escaped, so no name can add an element.
- What a template names and nobody gives is an error, never an empty place.
- A document is a Document: it was parsed again before anybody has it.
- A page allows its own style and script by their hashes, and nothing else.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from xmlkit import shipped
from xmlkit.document import Document
from xmlkit.printable import printable

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["page", "render"]


def render(name: str, /, **values: Any) -> Document:
    """The document that the template `name` ("volume", "pool", "domainsnapshot") makes of values.

    Raises jinja2.UndefinedError for a value that is missing, DocumentError for text that no XML
    can have.
    """
    return Document.parse(_environment().get_template(f"{name}.xml").render(values))


def page(name: str, /, **values: Any) -> str:
    """The HTML page that the template `name` makes of values.

    Its style and script are the files of that name beside it: `style` and `script`, with
    `style_hash` and `script_hash` for the policy that lets these two run (CSP, sha256-...).
    Raises jinja2.UndefinedError for a value that is missing.
    """
    import base64
    import hashlib

    for kind, ending in (("style", "css"), ("script", "js")):
        with open(f"{shipped.directory('templates')}/{name}.{ending}", encoding="utf-8") as file:
            text = file.read()
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        values |= {kind: text, f"{kind}_hash": f"sha256-{digest}"}
    return _pages().get_template(f"{name}.html").render(values)


def _shown(value: Any) -> Any:
    """A value that is not markup, as it may be shown."""
    return printable(value) if type(value) is str else value


@cache
def _pages() -> Environment:
    return _environment().overlay(finalize=_shown)


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
