"""What a fresh process has imported: nothing that it does not need, so that it starts at once.

Rules
- Each case is a process of its own, and the truth is its sys.modules at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import xmlkit

FIXTURE = Path(__file__).parents[1] / "fixtures" / "nova" / "qcow2-file.xml"
INSTANCE = "/var/lib/nova/instances/3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"

# Runs a command and, whatever its end, writes down what is imported then.
COMMAND = """
import sys
from xmlkit.cli import main
try:
    main(sys.argv[2:])
finally:
    found = sorted(sys.modules)
    with open(sys.argv[1], "w") as file:
        file.write("\\n".join(found))
"""

# Whatever is imported, these are slow or not ours: a rich terminal, another validator, templates.
NEVER = {"rich", "xmlschema", "jinja2", "pydantic", "yaml", "requests", "asyncio", "email", "http"}
# What only a document that is not valid needs.
EXPLAINING = {f"xmlkit.validation.{name}" for name in ("rng", "walk", "words", "diagnosis")}
COMMANDS = {
    "version": ((0, "--version"), {"lxml", "json", "subprocess", "tempfile"}),
    "help": ((0, "--help"), {"lxml", "json", "subprocess", "tempfile"}),
    "explain": ((0, "explain", "cinder"), {"lxml", "libvirt", "json", "difflib"}),
    "completion": (
        (0, "completion", "fish"),
        {"lxml", "libvirt", "json", "xmlkit.rules", "xmlkit.journal", "xmlkit.host"},
    ),
    "validate": (
        (0, "validate", str(FIXTURE)),
        {
            *("libvirt", "json", "difflib", "tempfile", "multiprocessing", "concurrent.futures"),
            *("xmlkit.plan", "xmlkit.host", "xmlkit.redaction", "xmlkit.validation.shown"),
            *EXPLAINING,
        },
    ),
    "validate a device": (
        (1, "validate", "--profile", "no-volume-disks", "{disk}"),
        {"libvirt", "json", "difflib", "xmlkit.plan", "xmlkit.validation.policy", *EXPLAINING},
    ),
    "compare": (
        (0, "compare", str(FIXTURE), str(FIXTURE)),
        {"libvirt", "json", "tempfile", "xmlkit.plan", "xmlkit.host", "xmlkit.validation"},
    ),
    "diff": (
        (1, "diff", "--pool", f"p={INSTANCE}", str(FIXTURE)),
        # nor the texts of all rules where no disk stays, nor what commands that change a host share
        {
            *("libvirt", "json", "tempfile", "subprocess", "signal"),
            *("xmlkit.observe", "xmlkit.rules", "xmlkit.service", "xmlkit.cli.carrying"),
        },
    ),
    "hook": (
        (0, "hook", "--host", str(FIXTURE), "guest", "started", "begin", "-"),
        {"libvirt", "lxml", "json", "tempfile", "subprocess", "xmlkit.hook", "xmlkit.plan"},
    ),
    "volume": ((0, "volume", "--help"), {"libvirt", "tempfile", "xmlkit.actions"}),
    "status": (
        (1, "status", "--connect", "test:///default"),
        {"tempfile", "subprocess", "xmlkit.diff", "xmlkit.testing", "xmlkit.transformers"},
    ),
    "help of apply": ((0, "apply", "--help"), {"lxml", "libvirt", "json", "tempfile"}),
    "help of rollback": ((0, "rollback", "--help"), {"lxml", "libvirt", "json", "tempfile"}),
    "help of recover": ((0, "recover", "--help"), {"lxml", "libvirt", "json", "tempfile"}),
    "journal": (
        (0, "journal", "--state-dir", "{state}"),
        {"libvirt", "tempfile", "xmlkit.service", "xmlkit.survey", "xmlkit.validation"},
    ),
    "help of cache": ((0, "cache", "prune", "--help"), {"lxml", "libvirt", "tempfile"}),
    "recover": (
        (0, "recover", "--state-dir", "{state}"),
        {"tempfile", "xmlkit.diff", "xmlkit.cli.hosts"},
    ),
    "transform": (
        (0, "transform", "--pool", "p=/elsewhere", str(FIXTURE)),
        {"libvirt", "json", "tempfile", "xmlkit.observe", "xmlkit.diff", "xmlkit.validation"},
    ),
}


def imported(code: str, *arguments: str, expected: int = 0) -> None:
    """Run Python code in a fresh process, without the variables that say how to."""
    environment = {
        key: value
        for key, value in os.environ.items()
        # measuring coverage imports what it needs
        if not key.startswith(("COV_", "COVERAGE", "LIBVIRT_", "PYTHONSTARTUP"))
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert expected == done.returncode, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_only_what_it_needs(name: str, tmp_path: Path) -> None:
    """The commands are cold starts: no library is loaded for what was not asked for."""
    (code, *arguments), without = COMMANDS[name]
    listed = tmp_path / "modules.json"
    disk = tmp_path / "disk.xml"
    disk.write_text("<disk type='volume'><source pool='p' volume='v'/><target dev='vda'/></disk>")
    places = {"{disk}": str(disk), "{state}": str(tmp_path / "state")}
    given = [places.get(str(each), str(each)) for each in arguments]
    imported(COMMAND, str(listed), *given, expected=int(code))
    found = set(listed.read_text().split("\n"))
    assert "xmlkit.cli" in found
    assert set() == found & (without | NEVER)


def test_the_collector_leaves_the_modules_of_a_command_alone() -> None:
    """A process of its own freezes them; a caller's process keeps its garbage collected."""
    code = (
        "import gc, sys\n"
        "from xmlkit.cli import main\n"
        "before = gc.get_freeze_count()\n"
        "try: main({})\n"
        "finally: assert (gc.get_freeze_count() > before) is {}\n"
    )
    imported(code.format("", True), "--version")
    imported(code.format("['--version']", False))


def test_only_a_policy_imports_xmlschema(tmp_path: Path) -> None:
    """It takes longer than all the rest together."""
    listed = tmp_path / "modules"
    imported(COMMAND, str(listed), "validate", "--policy", "nova", str(FIXTURE))
    assert "xmlschema" in listed.read_text().split("\n")


def test_import_xmlkit_costs_nothing() -> None:
    """`import xmlkit` brings nothing but itself, and so does looking at what it offers."""
    imported(
        "import sys\n"
        "before = set(sys.modules)\n"
        "import xmlkit\n"
        "dir(xmlkit), xmlkit.__version__, xmlkit.__all__\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "foreign = new - sys.stdlib_module_names\n"
        "assert foreign == {'xmlkit'}, foreign\n"
        "assert not any(name.startswith('xmlkit.') for name in sys.modules)\n"
    )


def test_the_core_imports_neither_click_nor_libvirt() -> None:
    """Everything that the package offers is there without the command line's libraries."""
    imported(
        "import sys, xmlkit\n"
        "for name in xmlkit.__all__: getattr(xmlkit, name)\n"
        "found = {'click', 'libvirt', 'xmlkit.cli', 'xmlkit.executor'} & set(sys.modules)\n"
        "assert not found, found\n"
    )


@pytest.mark.parametrize("name", xmlkit.__all__)
def test_each_name_is_the_same_whatever_was_imported_before(name: str) -> None:
    """A name of the package is not hidden by a module of the same name, in no order of imports."""
    imported(
        "import xmlkit\n"
        f"from xmlkit import {name} as first\n"
        "from xmlkit import *\n"
        "import xmlkit.transformers, xmlkit.validation.verdict, xmlkit.cli.hosts\n"
        f"assert first is {name} is xmlkit.{name}\n"
        "assert callable(first), first\n"
    )
    imported(
        "import xmlkit.transformers, xmlkit.validation.verdict, xmlkit.cli.hosts\n"
        f"from xmlkit import {name}\n"
        f"assert callable({name}), {name}\n"
    )
