"""Every id that is printed can be explained, in words that help."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from lxml import etree

import xmlkit
from xmlkit import shipped
from xmlkit.cli.explain import command
from xmlkit.host import version_of
from xmlkit.rules import ACCEPTABLE, RULES, Rule

PACKAGE = Path(xmlkit.__file__).parent

# What is called with an id as its first argument.
GIVE_IDS = frozenset(
    (
        "_Refusal",
        "Reason",
        "Finding",
        "ImageError",
        "PoolError",
        "VolumeError",
        "Concern",
        "SnapshotError",
        "Fault",
    )
) | {"_concern", "_concern_of", "_Failure", "_NotStarted", "_found"}


def ids_in_the_code() -> set[str]:
    """What the code gives as the id of a reason or a finding: first argument, a literal."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if isinstance(node.func, ast.Attribute) and node.func.attr == "_fail":
                given = node.args[2:3]  # of the executor, after what it is about
            else:
                given = node.args[:1] if name in GIVE_IDS else []
            found |= {str(each.value) for each in given if isinstance(each, ast.Constant)}
    return found


def ids_in_the_policies() -> set[str]:
    """The ids of the assertions in schemas/, without what tells two of one rule apart."""
    assertions = [
        element
        for path in Path(shipped.directory("schemas")).glob("*.xsd")
        for element in etree.parse(path).iter("{http://www.w3.org/2001/XMLSchema}assert")
    ]
    return {element.attrib["id"].partition(".")[0] for element in assertions}


def test_every_id_that_the_code_gives_has_a_rule() -> None:
    """And no rule is about something that the code never says."""
    found = ids_in_the_code() | ids_in_the_policies()

    assert {"transient", "schema", "policy-compat", "policy-nova-name"} <= found
    assert found == set(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_says_what_why_and_what_to_do(rule: Rule) -> None:
    """The title is one short line without a full stop, the rest are sentences."""
    assert RULES[rule.id] is rule
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.id)
    assert re.fullmatch(r"[^\n]{1,70}[^\n.]", rule.title)
    for sentences in (rule.why, rule.remedy):
        assert re.fullmatch(r"\S[^\n]*[.)]", sentences)


def test_only_a_refusal_can_be_accepted() -> None:
    """A warning stops nothing, and a reason of the planner is no rule of preflight."""
    assert set(ACCEPTABLE) == {rule.id for rule in RULES.values() if rule.acceptable}
    assert {"refuse"} == {RULES[id].severity for id in ACCEPTABLE}
    assert {"", "refuse", "warn", "note"} == {rule.severity for rule in RULES.values()}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_what_was_seen_is_versions(rule: Rule) -> None:
    """In their order, each once, with a mark where the rule does not hold."""
    versions = [re.fullmatch(r"(\d+\.\d+\.\d+)( \(not so\))?", each) for each in rule.seen]
    numbers = [version_of(version[1]) for version in versions if version]
    assert len(rule.seen) == len(numbers)
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_explain_prints_the_whole_rule(rule: Rule) -> None:
    """Wrapped for a terminal of 80 columns, with each of its words."""
    result = CliRunner().invoke(command, [rule.id])
    letters = "".join(result.stdout.split())

    assert 0 == result.exit_code
    assert max(map(len, result.stdout.split("\n"))) <= 80
    assert f"--accept {rule.id} makes it a warning" in result.stdout or not rule.acceptable
    for part in (
        rule.id,
        rule.title,
        rule.severity,
        rule.why,
        rule.remedy,
        rule.source,
        *rule.seen,
    ):
        assert "".join(part.split()) in letters


def test_explain_without_an_id_lists_them_all() -> None:
    """One line each, sorted, with its title."""
    lines = CliRunner().invoke(command, []).stdout.split("\n")[:-1]

    assert [[rule.id, rule.title] for _, rule in sorted(RULES.items())] == [
        line.split(maxsplit=1) for line in lines
    ]


@pytest.mark.parametrize(
    ("given", "suggested"),
    [
        ("aparmor", "apparmor"),
        ("no-volumes", "no-volume"),
        ("TRANSIENTS", "transient"),
        ("zzzzz", "xmlkit explain lists them"),
    ],
)
def test_an_id_that_does_not_exist_is_answered_with_near_ones(given: str, suggested: str) -> None:
    """Exit code 2, on stderr."""
    result = CliRunner().invoke(command, [given])

    assert (2, "") == (result.exit_code, result.stdout)
    assert suggested in result.stderr


def test_ids_may_be_written_in_capitals() -> None:
    """As somebody may copy one out of a heading."""
    assert 0 == CliRunner().invoke(command, ["AppArmor"]).exit_code
