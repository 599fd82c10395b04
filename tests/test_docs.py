"""The documentation tells the truth: what README and docs/ show is what the commands print."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Shell
from scene import Scene

from xmlkit.testing import Libvirtd

ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")
ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _shown(page: Path) -> list[tuple[str, str]]:
    """Each `$ xmlkit ...` in a page's blocks, with the output below it."""
    found = []
    for block in re.findall(
        r"```\n(\$ .*?)```|((?:^    [^\n]*\n|^\n)+)", page.read_text(), re.M | re.S
    ):
        text = block[0] or "\n".join(line[4:] for line in block[1].split("\n"))
        match = re.match(r"\s*\$ (xmlkit (?:[^\n]*\\\n)*[^\n]*)\n(.*)", text, re.S)
        if match and "guest.xml" not in match.group(1):
            found.append((match.group(1).replace("\\\n", " "), match.group(2).strip("\n")))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shown_output_is_real(page: Path) -> None:
    """A command line in a page prints what stands below it."""
    for line, expected in _shown(page):
        done = subprocess.run(
            [sys.executable, "-c", "from xmlkit.cli import main; main()", *shlex.split(line)[1:]],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert expected == done.stdout.strip("\n")


def test_the_move_in_readme_is_real(libvirtd: Libvirtd) -> None:
    """What README shows of moving a guest is what is printed on a host of that layout."""
    scene = Scene(libvirtd)
    shell = Shell.of(scene)
    scene.nova_guest("instance-00000001", uuid_="3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11")
    ids: dict[str, str] = {}  # those of README by what they are here

    def printed(line: str) -> str:
        own = {theirs: ours for ours, theirs in ids.items()}
        words = [own.get(word, word) for word in line.split()[1:]]
        text = shell(*words, stderr=subprocess.STDOUT).told(0).stdout
        for id in ID.findall(text):
            ids.setdefault(id, f"20261122-16140{2 + len(ids)}-4f2a")
        text = text.replace(str(scene.instances), "/var/lib/nova/instances")
        return ID.sub(lambda match: ids[match.group()], text)

    blocks = re.findall(r"^```\n(# xmlkit .*?)^```", PAGES[0].read_text(), re.M | re.S)
    assert 2 == len(blocks)
    for block in blocks:
        for line, expected in re.findall(r"^# (xmlkit .*)\n((?:(?!# ).*\n)*)", block, re.M):
            assert expected == printed(line)


def test_examples_are_found() -> None:
    """README and the pages of some commands do have such examples."""
    pages = ("compare.md", "diff.md", "explain.md", "pool.md", "validate.md", "volume.md")
    assert {"README.md", *pages} == {p.name for p in PAGES if _shown(p)}


def test_each_command_has_a_page() -> None:
    """Each command has a page in docs/, and README links to it."""
    from xmlkit.cli import COMMANDS

    guides = {"ansible", "nova", "nova-storage", "testing"}
    assert set(COMMANDS) == {page.stem for page in PAGES[1:]} - guides
    readme = PAGES[0].read_text()
    assert [] == [name for name in COMMANDS if f"](docs/{name}.md)" not in readme]


def test_links_lead_somewhere() -> None:
    """Each relative link in the documentation names a file that is there."""
    missing = [
        (page.name, link)
        for page in [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "DECISIONS.md"]
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert [] == missing


def test_readme_code_runs() -> None:
    """README's Python example runs on a real guest."""
    code = re.search(r"```python\n(.*?)```", PAGES[0].read_text(), re.S)
    assert code is not None
    guest = ROOT / "fixtures" / "nova" / "qcow2-file.xml"
    exec(code.group(1).replace("domain.xml", str(guest)), {})  # noqa: S102
