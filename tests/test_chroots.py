"""The trees of other releases appear complete or not at all, and each is made once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import chroots
import pytest
from chroots import Recipe, tree
from sources import SourceUnavailable

pytestmark = pytest.mark.versions
SMALL = Recipe("bookworm", "extract", ("hostname",))


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linux_tree: Path) -> dict[str, Recipe]:
    """The recipes, to be filled by a test; their trees go to a cache of its own."""
    assert linux_tree.is_dir()  # where this one can be made, so can others
    monkeypatch.setenv("XMLKIT_CACHE", str(tmp_path))
    recipes: dict[str, Recipe] = {}
    monkeypatch.setattr(chroots, "RECIPES", recipes)
    return recipes


def test_a_tree_is_made_once(trees: dict[str, Recipe], tmp_path: Path) -> None:
    """Of two that ask at the same time one makes it, and both get it; later it is just there."""
    trees["small"] = SMALL
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(tree, ("small", "small"))
    made = one.stat()

    assert one == other == tree("small")
    assert (one / "bin/hostname").is_file()
    assert (made.st_ino, 0o755) == (tree("small").stat().st_ino, made.st_mode & 0o777)
    assert {".small.lock", one.name} == {path.name for path in (tmp_path / "trees").iterdir()}


def test_another_recipe_is_another_tree(trees: dict[str, Recipe], tmp_path: Path) -> None:
    """One that cannot be made leaves nothing, says why, and does not touch the other."""
    trees["small"] = SMALL
    first = tree("small")
    trees["small"] = Recipe("bookworm", "extract", ("no-such-package-anywhere",))
    with pytest.raises(SourceUnavailable, match="no-such-package-anywhere"):
        tree("small")

    assert {".small.lock", first.name} == {path.name for path in (tmp_path / "trees").iterdir()}


def test_all_trees_are_those_of_the_tests() -> None:
    """What `make test` makes beforehand is what the fixtures ask for."""
    assert {*chroots.SUITES, "linux"} == set(chroots.RECIPES)
