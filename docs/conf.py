"""Sphinx: one source for the site and the man pages, and what is read off the code itself.

The sources are the Markdown files where they lie, also those beside the README, so that a link is
the same one here and where a repository is browsed. A line `<!-- filled in: NAME -->` of a page,
and the one below it, which says where to look meanwhile, make way for `_FILLED[NAME]()` when it is
built: nobody writes down twice what the code says.
"""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from docutils import nodes

import xmlkit
from xmlkit.cli import COMMANDS
from xmlkit.host import CAPABILITIES, version_text
from xmlkit.rules import RULES, Rule

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]

project = "xmlkit"
copyright = "the authors of xmlkit. Apache License 2.0"
version = release = xmlkit.__version__
root_doc = "docs/index"
include_patterns = ["docs/*.md", "*.md"]
exclude_patterns = ["README.md"]  # docs/index.md has its beginning
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nitpicky = True
# Types of other projects: a reader has their own documentation, a build has no network.
nitpick_ignore_regex = [
    ("py:.*", r"(?!xmlkit\.).*"),
    ("py:.*", r"xmlkit\.nova\.builder\.(T|FormatsDom)"),  # a variable, and what Nova's classes have
]
default_role = "code"
smartquotes = False  # two hyphens are an option
suppress_warnings = ["myst.xref_ambiguous"]

myst_heading_anchors = 4
myst_links_external_new_tab = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_use_legacy_class_based = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"xmlkit {version}"
html_copy_source = False
html_show_sphinx = False

man_pages = [
    ("docs/commands", "xmlkit", "move virtual machines onto libvirt storage pools", [], 1),
    *(
        (f"docs/{name}", f"xmlkit-{name}", text.rstrip("."), [], 1)
        for name, text in COMMANDS.items()
    ),
]


def text_of(text: str) -> str:
    """Plain text, as Markdown that shows it."""
    return re.sub(r"([\\`*_\[\]<>|{}#$])", r"\\\1", text)


def commands() -> dict[str, click.Command]:
    """The commands by their names, and `cache list` and the like by both."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command: click.Command = import_module(f"xmlkit.cli.{name}").command
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {each}": inner for each, inner in command.commands.items()}
    return found


def _of_commands() -> str:
    """Usage and options of each, as `--help` has them."""
    parts = []
    for name, command in commands().items():
        context = click.Context(command, info_name=f"xmlkit {name}", terminal_width=96)
        page = name.partition(" ")[0]
        parts.append(f"## xmlkit {name}\n\nSee [{page}]({page}.md).\n")
        parts.append(f"```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def _of_commands_each() -> str:
    """For a man page: each by a line, since it has a page of its own."""
    return "\n".join(f"- [{name}]({name}.md): {text}" for name, text in COMMANDS.items())


def exit_codes() -> dict[str, str]:
    """What the help of each command says of its exit code."""
    found = {}
    for name, command in commands().items():
        text = " ".join((command.help or "").replace("\b", "").split())
        if match := re.search(r"Exit code: (.*?)(?= Examples?:|$)", text):
            found[name] = match[1]
    return found


def _of_exit_codes() -> str:
    lines = ["| command | exit code |", "| --- | --- |"]
    for name, text in exit_codes().items():
        page = name.partition(" ")[0]
        lines.append(f"| [{name}]({page}.md) | {text_of(text)} |")
    return "\n".join(lines)


def _of_rule(rule: Rule) -> str:
    kind = {"refuse": "refuses", "warn": "warns", "note": "notes"}.get(rule.severity, "")
    may = " and may be accepted" if rule.acceptable else ""
    rows = [
        f"### {rule.id}",
        f"{text_of(rule.title)}.",
        text_of(rule.why),
        f"**What to do:** {text_of(rule.remedy)}",
        f"*A rule that {kind}{may}.*" if kind else "",
        f"*Source:* {text_of(rule.source)}" if rule.source else "",
        f"*Seen on libvirt* {', '.join(rule.seen)}." if rule.seen else "",
    ]
    return "\n\n".join(row for row in rows if row)


def _of_rules() -> str:
    parts = ["## Rules", "What is looked at on a host before anything is changed."]
    parts += [_of_rule(rule) for rule in sorted(RULES.values(), key=_id) if rule.severity]
    parts += ["## Reasons and findings", "Why a disk stays as it is; what is wrong in a document."]
    parts += [_of_rule(rule) for rule in sorted(RULES.values(), key=_id) if not rule.severity]
    return "\n\n".join(parts)


def _id(rule: Rule) -> str:
    return rule.id


def _type_of(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " or ".join(json.dumps(each) for each in schema["enum"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type_of(each) for each in schema[key])
    kind = schema.get("type", "any")
    kinds = kind if isinstance(kind, list) else [kind]
    inner = f" of {_type_of(schema['items'])}" if isinstance(schema.get("items"), dict) else ""
    return " or ".join(kinds) + inner


def _members(name: str, schema: dict[str, Any]) -> list[str]:
    """A table of an object's members, and one of each object among them."""
    members = schema.get("properties", {})
    if not members:
        return []
    needed = schema.get("required", ())
    lines = [f"**{name}**: {text_of(schema.get('description', ''))}".rstrip(": "), ""]
    lines += ["| member | type | meaning |", "| --- | --- | --- |"]
    deeper: list[str] = []
    for member, inner in members.items():
        shown = f"`{member}`" if member in needed else f"`{member}` (may be missing)"
        text = text_of(inner.get("description", ""))
        lines.append(f"| {shown} | {text_of(_type_of(inner))} | {text} |")
        for each in (inner, inner.get("items")):
            if isinstance(each, dict) and "properties" in each:
                deeper += _members(f"{name}.{member}" if name else member, each)
    return [*lines, "", *deeper]


def _of_formats() -> str:
    parts = []
    for path in sorted((ROOT / "schemas").glob("*.json")):
        schema = json.loads(path.read_text())
        parts += [f"## {schema['title']}", "", f"{text_of(schema.get('description', ''))}", ""]
        parts += [f"[{path.name}](../schemas/{path.name}) is its JSON Schema.", ""]
        parts += _members("the document", schema | {"description": ""})
        for name, inner in schema.get("$defs", {}).items():
            parts += _members(name, inner)
    return "\n".join(parts)


def _of_capabilities() -> str:
    rows = [
        "| capability | since | only | never | seen | source |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in CAPABILITIES.values():
        since = version_text(each.since) if each.since else "any"
        only, never = (", ".join(sorted(values)) for values in (each.only, each.never))
        texts = (f"{each.id}: {each.what}", since, only, never, ", ".join(each.seen), each.source)
        rows.append(f"| {' | '.join(map(text_of, texts))} |")
    return "\n".join(rows)


_FILLED = {
    "capabilities": _of_capabilities,
    "commands": _of_commands,
    "exit codes": _of_exit_codes,
    "formats": _of_formats,
    "ids": _of_rules,
}


def fill(app: Sphinx, name: str, content: list[str]) -> None:
    """Put in what is read off the code; a name that nobody knows is an error."""
    filled = _FILLED | ({"commands": _of_commands_each} if app.builder.name == "man" else {})
    content[0] = re.sub(
        r"^<!-- filled in: (.*) -->\n\(.*\)$",
        lambda match: filled[match[1]](),
        content[0],
        flags=re.M,
    )


_FIELD = re.compile(r"[a-z_]+(, [a-z_]+)*: ")  # a parameter or a field, with what it means


def plain(_: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with lists: what reStructuredText wants around these is added."""
    found: list[str] = []
    listed = False
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if _FIELD.match(line) and (not below or below.startswith(" ") or _FIELD.match(below)):
            line = f"- {line}"
        item = line.startswith("- ")
        if (item and not listed and found and found[-1]) or (
            listed and line and not item and not line.startswith(" ")
        ):
            found.append("")
        listed = item or (listed and (not line or line.startswith(" ")))
        if listed and line and not item:
            line = f"  {line.lstrip()}"
        found.append(line.replace("*", "\\*"))
    lines[:] = found


def located(app: Sphinx) -> None:
    """The builder of man pages has no addresses; here a link says to which page it leads."""
    if app.builder.name == "man":
        app.builder.get_target_uri = lambda docname, typ=None: docname  # type: ignore[method-assign]


def unlinked(app: Sphinx, doctree: nodes.document, _: str) -> None:
    """A man page has no links: those to another man page name it, of others the words are left."""
    if app.builder.name != "man":
        return
    for node in list(doctree.findall(nodes.reference)):
        if not node.get("internal") and node.get("refuri"):
            continue
        command = node.get("refuri", "").partition("#")[0].rpartition("/")[2]
        if command in COMMANDS:
            node.replace_self(nodes.strong("", f"xmlkit-{command}(1)"))
        else:
            node.replace_self(node.children)


def sectioned(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """A man page has its usage under SYNOPSIS, what stands around it under DESCRIPTION.

    As man-pages(7) wants it: NAME has one line. Raises ValueError for a page without its usage.
    """
    if app.builder.name != "man":
        return
    page = next(iter(doctree.findall(nodes.section)))
    title, *body = page.children
    after = [at for at, node in enumerate(body) if isinstance(node, nodes.section)]
    body, sections = body[: min(after, default=None)], body[min(after, default=len(body)) :]
    usage = next((node for node in body if isinstance(node, nodes.literal_block)), None)
    if usage is None or not usage.astext().startswith("xmlkit "):
        raise ValueError(f"{name} does not begin with how the command is called")
    body.remove(usage)
    synopsis = nodes.section("", nodes.title("", "Synopsis"), usage, ids=["synopsis"])
    description = nodes.section("", nodes.title("", "Description"), *body, ids=["description"])
    page.children = []
    page.extend([title, synopsis, description, *sections])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", located)
    app.connect("doctree-resolved", unlinked)
    app.connect("doctree-resolved", sectioned)
    app.connect("autodoc-process-docstring", plain, priority=400)  # before napoleon
    app.connect("source-read", fill)
