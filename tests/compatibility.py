"""Writes docs/compatibility.md from what the tests of other versions reported, and nothing else.

    python tests/compatibility.py REPORT.xml... > docs/compatibility.md

A REPORT.xml is pytest's `--junitxml` of the mark `versions`; `make compatibility` does both. A
column is a version of libvirt, as it said itself. A row is a test, by its name and the first
sentence of its docstring; or what one of xmlkit's rules says of libvirt, in the rule's words; or a
reproducer, by how it begins. A test may record what it says in place of yes
(`record_property("says", ...)`).
"""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

from chroots import SUITES

from xmlkit.rules import RULES

TESTS = Path(__file__).parent
REPRODUCERS = TESTS.parent / "reproducers"
HEAD = """\
# libvirt's versions

Written by `make compatibility` from the tests' own report: each row is a test that ran on each of
these versions, with the QEMU of the same release. Nothing here was typed by hand. What other
versions have is known from libvirt's documents and schemas alone.

{versions}

## What was tried on each

{tried}

## Live migration between two of them

{pairs}

## What xmlkit's rules say of libvirt

Why a rule is there, and whether a probe found it so: the rule fires everywhere, except where it is
"not so" on the version of the host.

{rules}

## libvirt's faults

As their [reproducers](faults.md) found them.

{faults}

## The table of capabilities

What the code goes by ([host](api.md)), with the versions on which each was seen; the tests above
fail where libvirt does otherwise.

<!-- filled in: capabilities -->
(Here `make docs` writes it, from `CAPABILITIES` in `xmlkit/host.py`.)
"""
WORDS = {"passed": "yes", "failed": "**fails**", "skipped": "not tried"}


def docstrings() -> dict[str, str]:
    """The first sentence of each test, by its module and name, in the order of the files."""
    found = {}
    for path in sorted(TESTS.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                text = " ".join((ast.get_docstring(node) or "").split())
                first = re.split(r"(?<=[.]) |(?<=[^.])$", text)[0].rstrip(".")
                found[f"{path.stem}.{node.name}"] = first
    return found


def results(reports: list[Path]) -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """What libvirt each suite has, and how each test ended: by its name and its parameters."""
    versions: dict[str, str] = {}
    ended: dict[tuple[str, str], str] = {}
    cases = [each for path in reports for each in ElementTree.parse(path).iter("testcase")]
    for case in cases:
        name, _, parameters = case.get("name", "").rstrip("]").partition("[")
        name = f"{case.get('classname', '').rpartition('.')[2]}.{name}"
        kinds = {child.tag for child in case}
        state = "failed" if kinds & {"failure", "error"} else "passed"
        ended[name, parameters] = WORDS["skipped" if "skipped" in kinds else state]
        for each in case.iter("property"):
            if each.get("name") == "libvirt":
                versions[parameters] = each.get("value", "")
            if each.get("name") == "says" and state == "passed":
                ended[name, parameters] = each.get("value", "")
    return versions, ended


def begins(reproducer: str) -> str:
    """The first sentence of a reproducer."""
    lines = (REPRODUCERS / f"{reproducer}.sh").read_text().splitlines()[1:]
    text = " ".join(each.removeprefix("# ") for each in lines[: lines.index("#")])
    return re.split(r"(?<=[.]) (?=[A-Z(])", text)[0].rstrip(".")


def table(head: list[str], rows: list[list[str]]) -> str:
    """As Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<")


def page(reports: list[Path]) -> str:
    """The page."""
    versions, ended = results(reports)
    suites = [suite for suite in SUITES if suite in versions]
    said = docstrings()
    rows: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    pairs: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for (name, parameters), state in ended.items():
        parts = parameters.split("-")
        if name.endswith(".test_between_versions"):
            pairs[parts[0], parts[1]]["-".join(parts[2:])] = state
        elif one := [part for part in parts if part in suites]:
            rest = re.sub(rf"(^|-){one[0]}(?=-|$)", "", parameters).strip("-")
            rows[name, rest][one[0]] = state
    tried: list[list[str]] = []
    rules: list[list[str]] = []
    faults: list[list[str]] = []
    order = list(said)  # as they stand in the files: a report has them as they ended
    for (name, rest), states in sorted(rows.items(), key=lambda r: (order.index(r[0][0]), r[0][1])):
        test = name.partition(".test_")[2]
        if test == "each_release_is_as_the_rule_says":
            rule = RULES[rest]
            into, what = rules, f"**{rest}** ({_cell(rule.title)}): {_cell(rule.why)}"
        elif test == "a_fault_of_one_host":
            into, what = faults, f"**{rest}**: {_cell(begins(rest))}"
        else:
            parameters = f" ({rest})" if rest else ""
            what = f"**{test.replace('_', ' ')}**{parameters}: {_cell(said[name])}"
            into = tried
        into.append([what, *(states.get(suite, WORDS["skipped"]) for suite in suites)])
    between = []
    for (here, there), states in sorted(pairs.items(), key=lambda r: [*map(suites.index, r[0])]):
        machine = sorted({re.sub("-(shared|incremental|full)$", "", each) for each in states})
        good = all(state == "yes" for state in states.values())
        ways = sorted({each.rpartition("-")[2] for each in states})
        between.append(
            [
                *(versions[here], versions[there], ", ".join(machine), ", ".join(ways)),
                "yes" if good else WORDS["failed"],
            ]
        )
    names = [versions[suite] for suite in suites]
    return HEAD.format(
        versions=table(["libvirt", "in Debian"], [list(each) for each in zip(names, suites)]),  # noqa: B905
        tried=table(["claim", *names], tried),
        rules=table(["rule", *names], rules),
        faults=table(["fault", *names], faults),
        pairs=table(["from", "to", "machine", "storage", "works"], between),
    )


if __name__ == "__main__":
    sys.stdout.write(page([Path(name) for name in sys.argv[1:]]))
