"""CONTRIBUTING.md, to the letter: in a copy of the checkout that has nothing but its files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from pages import blocks

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What git knows of the checkout, as it is now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0 or not listed.stdout:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("the checkout is not git's")
    for name in listed.stdout.rstrip("\0").split("\0"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name, follow_symlinks=False)
    return tmp_path


@pytest.mark.timeout(1800)  # an environment, one module of the tests, and mypy from cold
def test_the_environment_for_work(copy: Path) -> None:
    """Each line but those of make, one after the other: all of them succeed."""
    texts = [b.text for b in blocks(PAGE) if b.runs and not b.text.startswith("make ")]
    (script,) = texts
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST_", "TOX_"))}
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=copy, env=kept, capture_output=True, text=True
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "Success: no issues found" in done.stdout
    assert " passed" in done.stdout
