"""The hooks for pre-commit: tried with the real one, in a repository of their own.

Rules
- pre-commit clones this checkout as it is committed, and installs it by pip, as it does for anyone.
- Without a package index it cannot: then this is skipped, but never in continuous integration.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GOOD = (ROOT / "fixtures/file-in-pool.xml").read_text()
SLIGHT = GOOD.replace("<name>", "<nmae>").replace("</name>", "</nmae>")
CONFIGURATION = """
repos:
- repo: {repository}
  rev: {revision}
  hooks:
  - id: {hook}
    files: ^guests/
"""

# one worker makes one environment
pytestmark = pytest.mark.xdist_group("pre-commit")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with what would be committed of this checkout now."""
    directory = tmp_path_factory.mktemp("source") / "xmlkit"
    listed = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in filter(None, listed.split("\0")):
        # tests are no part of what is installed
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
    return committed(directory)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pre-commit keeps the environments that it makes."""
    return tmp_path_factory.mktemp("home")


def git(directory: Path, *words: str) -> str:
    """git's output; it reads nobody's configuration."""
    quiet = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    name = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    done = subprocess.run(
        ["git", *name, "-c", "safe.directory=*", *words],
        cwd=directory,
        env=os.environ | quiet,
        capture_output=True,
        text=True,
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


def committed(directory: Path) -> Path:
    """The directory, all of it in one commit."""
    git(directory, "init", "--quiet")
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--message", "All")
    return directory


def pre_commit(directory: Path, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """pre-commit, as it is called in a repository."""
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", *words],
        cwd=directory,
        env=os.environ | {"PRE_COMMIT_HOME": str(home), "PRE_COMMIT_COLOR": "never"},
        capture_output=True,
        text=True,
    )
    if "No matching distribution found" in done.stdout and not os.environ.get("CI"):
        pytest.skip("pip finds no packages")
    return done


def repository(directory: Path, source: Path, hook: str) -> Path:
    """A repository with two guests, one of them with a fault, and XML that is nobody's business."""
    (directory / "guests").mkdir(parents=True)
    (directory / "guests/good.xml").write_text(GOOD)
    (directory / "guests/slight.xml").write_text(SLIGHT)
    (directory / "pom.xml").write_text("<project/>")
    (directory / ".pre-commit-config.yaml").write_text(
        CONFIGURATION.format(
            repository=source, revision=git(source, "rev-parse", "HEAD").strip(), hook=hook
        )
    )
    return committed(directory)


def test_the_manifest_is_valid() -> None:
    """By pre-commit's own check."""
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-manifest", ROOT / ".pre-commit-hooks.yaml"],
        capture_output=True,
        text=True,
    )

    assert 0 == done.returncode, done.stdout


def test_validate_refuses_a_commit_with_a_fault(source: Path, home: Path, tmp_path: Path) -> None:
    """It points at the fault, changes nothing, and passes when that is mended."""
    ours = repository(tmp_path / "ours", source, "xmlkit-validate")
    done = pre_commit(ours, home, "run", "--all-files")

    assert 1 == done.returncode, done.stdout + done.stderr
    assert "guests/slight.xml:3:3: error: " in done.stdout
    assert "did you mean <name>?" in done.stdout
    assert "pom.xml" not in done.stdout
    assert SLIGHT == (ours / "guests/slight.xml").read_text()
    (ours / "guests/slight.xml").write_text(GOOD)
    done = pre_commit(ours, home, "run", "--all-files")
    assert 0 == done.returncode, done.stdout + done.stderr


def test_fix_repairs_what_it_refuses(source: Path, home: Path, tmp_path: Path) -> None:
    """As hooks do: the first run fails since it changed a file, the second one passes."""
    ours = repository(tmp_path / "ours", source, "xmlkit-fix")
    done = pre_commit(ours, home, "run", "--all-files")

    assert 1 == done.returncode, done.stdout + done.stderr
    assert "files were modified by this hook" in done.stdout
    assert GOOD == (ours / "guests/slight.xml").read_text()
    done = pre_commit(ours, home, "run", "--all-files")
    assert 0 == done.returncode, done.stdout + done.stderr
