"""Every id that is printed can be explained, in words that help."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import xmlkit
from xmlkit.cli.explain import command
from xmlkit.rules import RULES, Rule

PACKAGE = Path(xmlkit.__file__).parent


def ids_in_the_code() -> set[str]:
    """What the code gives as the id of a reason or a finding: first argument, a literal."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("_Refusal", "Reason", "Finding", "ImageError")
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                found.add(str(node.args[0].value))
    return found


def test_every_id_that_the_code_gives_has_a_rule() -> None:
    """And no rule is about something that the code never says."""
    found = ids_in_the_code()

    assert {"transient", "schema"} <= found
    assert found == set(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_says_what_why_and_what_to_do(rule: Rule) -> None:
    """The title is one short line without a full stop, the rest are sentences."""
    assert RULES[rule.id] is rule
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.id)
    assert re.fullmatch(r"[^\n]{1,70}[^\n.]", rule.title)
    for sentences in (rule.why, rule.remedy):
        assert re.fullmatch(r"\S[^\n]*[.)]", sentences)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_explain_prints_the_whole_rule(rule: Rule) -> None:
    """Wrapped for a terminal of 80 columns, with each of its words."""
    result = CliRunner().invoke(command, [rule.id])
    letters = "".join(result.stdout.split())

    assert 0 == result.exit_code
    assert max(map(len, result.stdout.split("\n"))) <= 80
    for part in (rule.id, rule.title, rule.why, rule.remedy, rule.source):
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
