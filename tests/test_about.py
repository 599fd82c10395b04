"""What xmlkit runs on: complete, without a name, and said even where something is broken."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import xmlkit
from xmlkit.about import about
from xmlkit.validation.schemas import directory

NAMES = [
    *("xmlkit", "Python", "platform", "lxml", "click", "jinja2", "rich", "xmlschema"),
    *("libvirt-python", "schemas"),
]


def test_it_names_each_version() -> None:
    """Of xmlkit, Python, each library, and of what stands below them; no "not installed" here."""
    found = dict(about())

    assert NAMES == list(found)
    assert xmlkit.__version__ == found["xmlkit"]
    assert found["Python"].startswith("{}.{}.{}".format(*sys.version_info[:3]))
    for name in NAMES[3:9]:
        assert found[name].startswith(metadata.version(name))
    assert re.search(r"\(libxml2 \d+\.\d+\.\d+\b", found["lxml"])
    assert re.search(r"\(libvirt \d+\.\d+\.\d+\)", found["libvirt-python"])
    assert re.fullmatch(r"/\S+ \(\d+ files, sha256 [0-9a-f]{12}\)", found["schemas"])


def test_it_names_neither_host_nor_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not even where the schemas are in a home directory, there or not."""
    home = tmp_path / "nobody-in-particular"
    own = home / ".schemas.d"
    shutil.copytree(directory(), own)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XMLKIT_SCHEMAS", str(own))
    assert dict(about())["schemas"].startswith("~/.schemas.d (")
    (home / "none").mkdir()
    monkeypatch.setenv("XMLKIT_SCHEMAS", str(home / "none"))
    shown = " ".join(word for pair in about() for word in pair)

    assert "no libvirt schemas in ~/none ($XMLKIT_SCHEMAS)" in shown
    assert "nobody-in-particular" not in shown
    for name in {os.uname().nodename, getpass.getuser()} - {""}:
        assert name not in shown.split()


def test_the_digest_tells_one_release_from_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same schemas elsewhere have the same, and one that is changed another."""
    original = dict(about())["schemas"]
    shutil.copytree(directory(), tmp_path / "s")
    monkeypatch.setenv("XMLKIT_SCHEMAS", str(tmp_path / "s"))
    copied = dict(about())["schemas"]
    with (tmp_path / "s/domain.rng").open("a") as file:
        file.write("\n")

    assert original.partition("(")[2] == copied.partition("(")[2]
    assert copied != dict(about())["schemas"]


def test_a_broken_libvirt_hinders_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said that it cannot be imported, and all the rest."""
    monkeypatch.setitem(sys.modules, "libvirt", None)
    found = dict(about())

    assert NAMES == list(found)
    assert "cannot be imported" in found["libvirt-python"]


def test_the_command_prints_it() -> None:
    """--version --verbose, in any order; --version alone is one line; --verbose alone is none."""

    def xmlkit_(*words: str) -> subprocess.CompletedProcess[str]:
        code = "from xmlkit.cli import main; main()"
        return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)

    done = xmlkit_("--version", "--verbose")
    assert (0, "") == (done.returncode, done.stderr)
    assert [f"{name:<14} {what}" for name, what in about()] == done.stdout.splitlines()
    assert done.stdout == xmlkit_("--verbose", "--version").stdout
    assert f"xmlkit {xmlkit.__version__}\n" == xmlkit_("--version").stdout
    refused = xmlkit_("--verbose", "explain")
    assert (2, "") == (refused.returncode, refused.stdout)
    assert "--verbose goes with --version" in refused.stderr
