"""Which module may import which: downwards only, so that each can be read without those above it.

Rules
- Read from the source by `ast`, imports within functions and for types alike; nothing is run.
- A new module has to be given its place here.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import xmlkit
from xmlkit.cli import COMMANDS

PACKAGE = Path(xmlkit.__file__).parent

# From the ground up; a module imports from the lines above it only, never from its own line. "." is
# the package itself, and last come the commands.
_LINES = """
errors shipped printable lazy
parsing
markup
laying
document
redaction names host rules meaning images state
disk_info chain
compare disks shell templates
plan volumes
steps transformers pools
journal metadata
validation validation.schemas validation.profiles validation.findings
validation.grammar validation.pattern validation.datatypes
validation.rng validation.words
validation.judge
validation.walk
validation.diagnosis
validation.verdict
validation.policy validation.shown
validation.mending
diff hook observe script testing.libvirtd testing.checks nova.builder
leisure survey testing.snapshots validation.through
actions cache executor testing
preflight prune snapshot testing.plugin
migrate review
service status
nova.seams nova.store
nova.rbd nova.live
nova.storage
nova.imagecache nova.instances
nova
nova.compute
.
about
cli
cli.files cli.options cli.paint cli.workers cli.counting cli.signals
cli.lines
cli.carrying cli.git cli.hosts cli.report cli.table
"""
TIERS = (
    *(
        tuple("xmlkit" if name == "." else f"xmlkit.{name}" for name in line.split())
        for line in _LINES.strip().splitlines()
    ),
    tuple(f"xmlkit.cli.{name}" for name in COMMANDS),
)
LEVEL = {module: level for level, tier in enumerate(TIERS) for module in tier}

# Who may import what is not of the standard library.
OTHERS = {
    "click": {module for module in LEVEL if module.split(".")[1:2] == ["cli"]},
    "jinja2": {"xmlkit.templates"},
    "libvirt": {
        *(
            "xmlkit.about",
            "xmlkit.actions",
            "xmlkit.executor",
            "xmlkit.leisure",
            "xmlkit.metadata",
            "xmlkit.migrate",
            "xmlkit.observe",
            "xmlkit.prune",
            "xmlkit.snapshot",
        ),
        *("xmlkit.survey", "xmlkit.validation.through"),
        *("xmlkit.nova.rbd", "xmlkit.nova.seams", "xmlkit.nova.storage", "xmlkit.nova.store"),
        "xmlkit.nova.live",
    },
    "lxml": {module for module in LEVEL if module.split(".")[1:2] not in ([], ["cli"], ["errors"])},
    "nova": {module for module in LEVEL if module.split(".")[1:2] == ["nova"]},
    **{
        name: {module for module in LEVEL if module.split(".")[1:2] == ["nova"]}
        for name in ("oslo_concurrency", "oslo_config", "oslo_log", "oslo_utils")
    },
    "pytest": {"xmlkit.testing.plugin", "xmlkit.testing.snapshots"},
    "rich": {
        *("xmlkit.cli.cache", "xmlkit.cli.carrying", "xmlkit.cli.counting"),
        *("xmlkit.cli.snapshot", "xmlkit.cli.table"),
    },
    "syrupy": {"xmlkit.testing.plugin", "xmlkit.testing.snapshots"},
    "xmlschema": {"xmlkit.validation.policy"},
}


def files() -> dict[str, Path]:
    """Each module of the package with its file."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("xmlkit", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


FILES = files()


def imports(module: str) -> Iterator[str]:
    """The modules that a module imports, as far in as they are modules."""
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: say the whole name in line {node.lineno}"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in FILES else str(node.module)


def test_each_module_has_its_place() -> None:
    """No module is without a tier, and no tier names one that is not there."""
    assert sorted(FILES) == sorted(LEVEL)
    assert len(LEVEL) == sum(map(len, TIERS))


@pytest.mark.parametrize("module", LEVEL)
def test_imports_go_downwards(module: str) -> None:
    """A module knows only what lies below it."""
    own = {name for name in imports(module) if name.partition(".")[0] == "xmlkit"}
    assert [] == [name for name in sorted(own) if LEVEL[name] >= LEVEL[module]]


@pytest.mark.parametrize("module", LEVEL)
def test_foreign_imports_stay_in_their_place(module: str) -> None:
    """libvirt is for observing and testing, click for the commands; all else is Python's own."""
    roots = {name.partition(".")[0] for name in imports(module)} - {"xmlkit", "__future__"}
    foreign = roots - sys.stdlib_module_names
    assert foreign <= OTHERS.keys()
    assert [] == [name for name in sorted(foreign) if module not in OTHERS[name]]


@pytest.mark.parametrize("module", LEVEL)
def test_only_the_doors_import_by_name(module: str) -> None:
    """Imports that `ast` does not see are made where names are offered, and nowhere else."""
    names = {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(ast.parse(FILES[module].read_text()))
        if isinstance(node, ast.Name | ast.Attribute)
    }
    assert names.isdisjoint({"import_module", "__import__"}) or module in (
        "xmlkit.lazy",
        "xmlkit.cli",
    )
