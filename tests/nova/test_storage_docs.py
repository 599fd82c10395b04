"""The tables in docs/nova-storage.md: each test of Nova's backends is there, each of ours exists,
and each place where Nova asks for images_type is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nova
import pytest
from nova.tests.unit.virt.libvirt import test_imagebackend

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "nova-storage.md").read_text()
ROWS = [
    row.split("|")[1:3]
    for row in PAGE.partition("| Nova's | ours |")[2].splitlines()
    if row.startswith("| ") and "---" not in row
]
FILES = {"": "test_storage.py", "LVM": "test_storage_lvm.py", "RBD": "test_storage_rbd.py"}


def own(test: type[Any]) -> set[str]:
    return {name[5:] for name in vars(test) if name.startswith("test_")}


@pytest.mark.parametrize(
    "kind", ["Flat", "Qcow2", "Lvm", "Rbd", "Backend", "UtimeWorkaround", "_Image"]
)
def test_each_of_novas_tests_is_in_the_table(kind: str) -> None:
    """Those of the mixin once; what a class says of them anew is the same row."""
    mixin = own(test_imagebackend._ImageTestCase)
    wanted = own(getattr(test_imagebackend, f"{kind}TestCase"))
    if kind != "_Image":
        wanted -= mixin
    said = {
        name
        for novas, _ in ROWS
        if kind in novas.split("`")[0] or (kind == "_Image" and novas.split("`")[0].strip() == "M")
        for name in re.findall(r"`(\w+)`", novas)
    }
    assert set() == wanted - said


def test_each_row_has_a_test_or_a_reason() -> None:
    """Or is as the row above it."""
    other = [
        ours for _, ours in ROWS if not re.match(r" (none: .+|the same|.*`test_\w+`.*) $", ours)
    ]
    assert len(ROWS) > 50
    assert [] == other


def test_each_of_ours_exists() -> None:
    """In the file that the row says."""
    missing = []
    for _, ours in ROWS:
        for part in ours.split(";"):
            mark = next((mark for mark in ("LVM", "RBD") if part.strip().startswith(mark)), "")
            tree = ast.parse((HERE / FILES[mark]).read_text())
            names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            missing += [name for name in re.findall(r"`(test_\w+)`", part) if name not in names]
    assert [] == missing


def asking(node: ast.AST, function: str = "") -> Iterator[str]:
    """The functions in which images_type is asked for; of one within another the outer."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Attribute) and child.attr == "images_type":
            yield function
        name = child.name if isinstance(child, ast.FunctionDef) else ""
        yield from asking(child, function or name)


def test_each_place_that_asks_for_images_type_is_in_the_table() -> None:
    """By the name of its function."""
    table = PAGE.partition("## Where Nova asks for images_type")[2].partition("\n## ")[0]
    said = {
        name.rpartition(".")[2]
        for row in table.splitlines()
        for name in re.findall(r"`([\w.]+)`", "".join(row.split("|")[1:2]))
    }
    sources = Path(nova.__file__).parent.rglob("*.py")
    found = {
        function
        for source in sources
        if "tests" not in source.parts and "fake.py" != source.name
        for function in asking(ast.parse(source.read_text()))
    }
    assert len(found) > 10
    assert set() == found - said
