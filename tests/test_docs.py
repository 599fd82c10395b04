"""The documentation tells the truth: each command in it is run, and prints what stands below it.

Rules
- A block says its language; what has one of a shell, or Python's, is run on a host of its own.
- What cannot be run stands in `NOT_RUN`, with why; each other block is run, here or where
  `ELSEWHERE` says, or is a line of what continuous integration runs.
- Links lead somewhere, options exist, each command has a page.
"""

from __future__ import annotations

import ast
import configparser
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
from lxml import etree
from pages import ID, ROOT, Block, PageHost, blocks
from probes import PROBES
from sources import SourceUnavailable

from xmlkit.cli import COMMANDS, cli
from xmlkit.testing import Libvirtd

README = ROOT / "README.md"
BESIDE = ("ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "DECISIONS", "SECURITY")
PAGES = [
    *(README, *(ROOT / f"{name}.md" for name in BESIDE)),
    *(*sorted((ROOT / "ansible").glob("*.md")), ROOT / "fixtures/README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]
BLOCKS = {str(page.relative_to(ROOT)): blocks(page) for page in PAGES}
# Blocks that are run nowhere, by their page and first word: why.
NOT_RUN = {
    ("README.md", "dnf"): "it is Fedora's, and installs packages",
    ("README.md", "brew"): "it is macOS's, and installs packages",
}
# The tests that carry out all blocks of a page.
ELSEWHERE = {
    "docs/testing.md": "test_snapshots.py",
    "CONTRIBUTING.md": "test_contributing.py",
}
LANGUAGES = {
    "sh",
    "console",
    "python",
    "xml",
    "yaml",
    "ini",
    "diff",
    "text",
    "{toctree}",
    "{eval-rst}",
}
# Pages about no command.
GUIDES = {
    *("index", "tutorial", "commands", "ids", "formats", "exit-codes", "api", "compatibility"),
    *("howto-ci", "howto-fallback", "howto-move", "howto-trouble", "laws", "faults"),
    *("ansible", "nova", "nova-storage", "testing"),
}


@pytest.fixture
def page_host(start_libvirtd: Callable[..., Libvirtd]) -> Iterator[PageHost]:
    """The host that the pages speak of; QEMU's user may enter its directories."""
    with tempfile.TemporaryDirectory(prefix="xmlkit-page-") as directory:
        yield PageHost(start_libvirtd, Path(directory))


def ids_out(text: str) -> str:
    """The ids of transitions, as numbers in their order."""
    order = list(dict.fromkeys(ID.findall(text)))
    return ID.sub(lambda match: f"ID-{order.index(match[0])}", text)


def run_here(name: str) -> list[Block]:
    """The blocks of a page that a host of its own is for."""
    return [
        block
        for block in BLOCKS[name]
        if (name, block.text.split()[0]) not in NOT_RUN and not block.text.startswith("make ")
    ]


RUN = [name for name in BLOCKS if any(block.runs for block in run_here(name))]


@pytest.mark.parametrize("name", [name for name in RUN if name not in ELSEWHERE])
def test_each_block_is_run(name: str, page_host: PageHost) -> None:
    """From the top of a page to its end; and what a console shows is what is printed."""
    page = run_here(name)
    try:
        printed = page_host.carry_out(page)
    except SourceUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    expected, found = [], []
    for block in page:
        if block.language == "console" and block.runs:
            for number, (_, below) in enumerate(block.shown):
                expected.append(below)
                found.append(printed[block.line, number])

    assert ids_out("\n".join(expected)) == ids_out("\n".join(found))


def test_blocks_that_are_run_elsewhere() -> None:
    """A page that is not run here is named in the test that does."""
    for name, test in ELSEWHERE.items():
        assert Path(name).name in (ROOT / "tests" / test).read_text()


def test_make_is_run_by_continuous_integration() -> None:
    """What a page has make do, .ci/run does on a fresh clone: such a block has nothing else."""
    done = (ROOT / ".ci/run").read_text().splitlines()
    told = [b.text for name in BLOCKS for b in BLOCKS[name] if b.text.startswith("make ")]
    lines = [line.partition("#")[0].strip() for text in told for line in text.splitlines()]
    assert {"make demo", "make test", "make docs"} <= set(lines)
    assert [] == [line for line in lines if line and line not in done]


def test_few_blocks_are_not_run() -> None:
    """Those in the table, which are there, and say that it is not for this machine."""
    there = {
        (name, block.text.split()[0])
        for name, page in BLOCKS.items()
        for block in page
        if block.language in ("sh", "console", "python")
    }
    assert set() == NOT_RUN.keys() - there
    assert {"dnf", "brew"} == {word for _, word in NOT_RUN}


def test_each_page_is_looked_at() -> None:
    """No Markdown file of the checkout is left out, and no comment is one that means nothing."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        assert set(listed.stdout.split()) == set(BLOCKS)
    elif os.environ.get("CI"):
        pytest.fail(listed.stderr)
    kinds = {kind for page in PAGES for kind in re.findall(r"<!-- ([\w ]+):", page.read_text())}
    assert {"first", "file", "filled in"} == kinds
    kept = [
        sum(len(re.findall(r"^ *<!-- (?:first|file): ", page.read_text(), re.M)) for page in PAGES),
        sum(len(b.first) + bool(b.file) for page in BLOCKS.values() for b in page),
    ]
    assert kept[0] == kept[1], "a comment does not stand right before its block"


def test_each_block_says_its_language() -> None:
    """None is indented, where nobody could know what it is."""
    assert [] == [
        (block.page, block.line, block.language)
        for page in BLOCKS.values()
        for block in page
        if block.language not in LANGUAGES
    ]
    for page in PAGES:
        outside = re.sub(r"^( *)```.*?^\1```$", "```", page.read_text(), flags=re.M | re.S)
        assert [] == re.findall(r"^ *(?:~~~|````).*", page.read_text(), re.M), page.name
        assert [] == re.findall(r"\n\n(    [^\n]+)", outside), page.name


def of_language(language: str) -> list[Block]:
    """All blocks of a language."""
    return [block for page in BLOCKS.values() for block in page if block.language == language]


def command_of(words: list[str]) -> click.Command:
    """The command that `xmlkit WORDS` is for, a group's own as well."""
    context = click.Context(cli)
    command: click.Command = cli
    for word in words:
        if not isinstance(command, click.Group):
            break
        command = command.get_command(context, word) or command
    return command


def test_synopses_name_options_that_exist() -> None:
    """In blocks of text, and in what a workflow runs."""
    lines = [line for block in of_language("text") for line in block.text.split("\n")]
    lines += [
        line.partition("run: ")[2] for b in of_language("yaml") for line in b.text.split("\n")
    ]
    tried = 0
    for line in lines:
        if match := re.match(r"xmlkit (.*)", line):
            command = command_of(match[1].split())
            known = {option for each in command.params for option in each.opts}
            assert set() == set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", line)) - known, line
            tried += 1
    assert tried > len(COMMANDS)


def test_documents_are_well_formed() -> None:
    """XML and configuration files."""
    for block in of_language("xml"):
        etree.fromstring(block.text)
    for block in of_language("ini"):
        configparser.ConfigParser(strict=False).read_string(block.text)


def test_each_command_has_a_page() -> None:
    """Each command has a page in docs/, README links to it, and so does the site's index."""
    assert set(COMMANDS) == {page.stem for page in (ROOT / "docs").glob("*.md")} - GUIDES
    readme, index = README.read_text(), (ROOT / "docs" / "index.md").read_text()
    assert [] == [name for name in COMMANDS if f"](docs/{name}.md)" not in readme]
    listed = re.findall(r"^[\w-]+$", index, re.M)
    assert [] == sorted({*COMMANDS, *GUIDES} - {*listed, "index"})


def anchors(page: Path) -> set[str]:
    """What can stand behind # in a link to a page: its headings, as GitHub names them."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.M | re.S)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_links_lead_somewhere() -> None:
    """Each relative link names a file, and a heading in it as GitHub names it.

    Those to the web are looked at by their form alone, since the tests have no network; but see
    below for libvirt's.
    """
    missing = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)|<(https?:[^>]+)>", page.read_text()):
            link = link[0] or link[1]
            parts = urlsplit(link)
            if parts.scheme:
                good = parts.scheme == "https" and "." in (parts.hostname or "")
            else:
                target = (page.parent / parts.path).resolve() if parts.path else page
                good = target.exists()
                if good and parts.fragment:
                    good = parts.fragment in anchors(target)
            missing += [] if good else [(page.name, link)]
    assert [] == missing


def test_pages_of_libvirt_are_in_its_source(libvirt_source: Path) -> None:
    """Each link to libvirt.org is to a page that libvirt 9.0.0 has."""
    found = [
        link
        for page in PAGES
        for link in re.findall(r"https://libvirt\.org/([\w/-]+)\.html", page.read_text())
    ]
    assert found
    docs = libvirt_source / "docs"
    there = [f"{name}.{kind}" for name in found for kind in ("rst", "html.in")]
    assert len(found) == sum((docs / name).exists() for name in there)


def test_files_that_are_named_are_there() -> None:
    """What a page calls a file of the checkout, by its path, is one."""
    tops = "ansible|docs|fixtures|reproducers|schemas|systemd|templates|tests|xmlkit"
    missing = []
    for page in PAGES:
        for name in re.findall(rf"`((?:{tops})/[\w./-]+)`", page.read_text()):
            missing += [] if "NAME" in name or (ROOT / name).exists() else [(page.name, name)]
    assert [] == missing


def test_what_contributing_names_is_there() -> None:
    """The tuples and tables in which something has its place, by the file that has them."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for name, place in (
        ("TRANSFORMERS", "xmlkit/transformers.py"),
        ("EXAMPLES", "tests/test_transformers.py"),
        ("unaddressed", "tests/test_transformers.py"),
        ("_GUEST_RULES", "xmlkit/preflight.py"),
        ("_DISK_RULES", "xmlkit/preflight.py"),
        ("COMMANDS", "xmlkit/cli/__init__.py"),
    ):
        assert f"`{name}`" in text
        code = (ROOT / place).read_text()
        assert re.search(rf"^(?:def )?{name}\b", code, re.M), name


def test_what_is_said_of_exit_codes_is_complete() -> None:
    """Each command says its exit codes in its help and on its page."""
    for name in COMMANDS:
        command = command_of([name])
        inner = command.commands.values() if isinstance(command, click.Group) else [command]
        for each in inner:
            assert "Exit code" in (each.help or ""), each.name
        assert re.search(r"[Ee]xit code", (ROOT / "docs" / f"{name}.md").read_text()), name


def test_a_page_of_a_command_begins_with_its_usage() -> None:
    """That is the first block, above all headings: the synopsis of its man page."""
    for name, words in {
        "commands": "xmlkit COMMAND",
        **{n: f"xmlkit {n}" for n in COMMANDS},
    }.items():
        text = (ROOT / "docs" / f"{name}.md").read_text()
        above = text.partition("\n## ")[0]
        usage = re.search(r"^```(\w+)\n((?:.*\n)*?)```$", above, re.M)

        assert usage is not None, name
        assert "text" == usage[1], name
        assert [] == [each for each in usage[2].splitlines() if not each.startswith((words, "  "))]


def test_a_page_that_is_not_built_is_no_blank() -> None:
    """Where the site fills something in, the page as it lies there says where to find it."""
    found = []
    for page in PAGES:
        for name, below in re.findall(r"^<!-- filled in: (.*) -->\n(.*)", page.read_text(), re.M):
            found.append(name)
            assert re.fullmatch(r"\(Here `make docs` writes .*\)", below), (page.name, name)
    assert {"ids", "formats", "exit codes", "commands", "capabilities"} == set(found)


def test_the_page_of_versions_is_of_these_tests() -> None:
    """Each test on other versions has a row, each rule that was seen on one, each reproducer, and
    none failed; else `make compatibility`."""
    text = (ROOT / "docs" / "compatibility.md").read_text()
    rows = set(re.findall(r"^\| \*\*(.*?)\*\*", text, re.M))
    there = {f"test_{name.replace(' ', '_')}" for name in rows}
    of_one_host = {
        path.stem
        for path in (ROOT / "reproducers").glob("*.sh")
        if "DESTINATION" not in path.read_text()
    }
    assert set() == (PROBES.keys() | of_one_host) - rows
    named = set()
    for path in (ROOT / "tests").glob("test_*.py"):
        own = {"scene"} if path.stem == "test_versions" else set()  # there it is each release's
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                arguments = {each.arg for each in node.args.args}
                named |= {node.name} if arguments & {"release", *own} else set()
    by_parameter = {"test_each_release_is_as_the_rule_says", "test_a_fault_of_one_host"}
    assert set() == named - there - by_parameter
    assert "**fails**" not in text


def test_words_of_a_shell() -> None:
    """Each line of a console is one that a shell can read."""
    for block in of_language("console"):
        assert [] == [line for line, _ in block.shown if not shlex.split(line)]
