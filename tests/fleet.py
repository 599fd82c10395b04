"""Several hosts on one machine, and the real Ansible that works on them.

Rules
- A host is a scene with its own libvirtd and its own state directory; Ansible is at home on it
  (`ansible_connection: local`) and starts the command as on any other.
- The collection is the one that ansible-galaxy builds from the checkout and installs.
- Nothing of the caller's Ansible is read or written: configuration, home and temporary files are
  the fleet's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scene import POOL, Scene, until

COLLECTION = Path(__file__).parents[1] / "ansible"
PROGRAMS = Path(sys.executable).parent
SECONDS = 300.0  # for a playbook on a busy machine

# What Ansible does on a host, in a process of its own, without Ansible's way there.
MODULE = """
import contextlib, importlib, json, sys
arguments = json.loads(sys.argv[2])
try:
    from ansible.module_utils.testing import patch_module_args
except ImportError:  # before 2.19
    from ansible.module_utils import basic
    basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()
    patch_module_args = contextlib.nullcontext
name = "ansible_collections.xmlkit.libvirt.plugins.modules." + sys.argv[1]
with patch_module_args(arguments):
    importlib.import_module(name).main()
"""

# An xmlkit that waits in the middle, after the names were made, as long as there is a file. It says
# in another one which process it is, and which started it.
SLOW = """\
#!{python}
import os, pathlib, time
import libvirt
from xmlkit.cli import main
refresh = libvirt.virStoragePool.refresh
def slow(pool, flags=0):
    gate = pathlib.Path({gate!r})
    if gate.exists():
        part = gate.with_suffix(".part")
        part.write_text(f"{{os.getpid()}} {{os.getppid()}}")
        part.rename(gate.with_suffix(".reached"))
        while gate.exists():
            time.sleep(0.05)
    return refresh(pool, flags)
libvirt.virStoragePool.refresh = slow
main()
"""


class Run:
    """A playbook that has ended: its exit code, what it said, and its recap."""

    def __init__(self, code: int, said: str) -> None:
        self.code = code
        self.said = said

    def recap(self) -> dict[str, tuple[int, int]]:
        """How many tasks changed something and how many failed, by host."""
        lines = re.findall(r"^(\w+) +: .*?changed=(\d+).*?failed=(\d+)", self.said, re.M)
        return {host: (int(changed), int(failed)) for host, changed, failed in lines}


class Ansible:
    """Ansible with a home of its own in a directory, and the collection in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.collections = directory / "collections"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "XMLKIT_"))}
        self.environment = kept | {
            "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
            "ANSIBLE_HOME": str(directory),
            "ANSIBLE_REMOTE_TMP": str(directory / "remote"),
            "ANSIBLE_ASYNC_DIR": str(directory / "async"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        }
        (directory / "ansible.cfg").touch()
        self.run("ansible-galaxy", "collection", "build", str(COLLECTION))
        (self.archive,) = directory.glob("xmlkit-libvirt-*.tar.gz")
        self.run(
            *("ansible-galaxy", "collection", "install", "--offline"),
            *(str(self.archive), "-p", str(self.collections)),
        )

    def run(self, program: str, *arguments: str) -> str:
        """The output of one of Ansible's programs, which has to succeed."""
        done = self.start(program, *arguments)
        assert 0 == done.returncode, done.stdout + done.stderr
        return done.stdout

    def start(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One of Ansible's programs, from its start to its end."""
        return subprocess.run(
            [str(PROGRAMS / program), *arguments],
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    def module(
        self,
        name: str,
        *,
        check: bool = False,
        diff: bool = False,
        **arguments: Any,
    ) -> dict[str, Any]:
        """What a module of the collection returns on this machine."""
        given = arguments | {"_ansible_check_mode": check, "_ansible_diff": diff}
        done = self._python(MODULE, name, json.dumps(given))
        assert "" == done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert found.get("failed", False) == (done.returncode != 0)
        return found

    def arguments(self, name: str) -> dict[str, Any]:
        """The arguments that a module takes."""
        module = f"ansible_collections.xmlkit.libvirt.plugins.modules.{name}"
        code = f"import json; from {module} import ARGUMENTS; print(json.dumps(ARGUMENTS))"
        found: dict[str, Any] = json.loads(self._python(code).stdout)
        return found

    def _python(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=self.environment | {"PYTHONPATH": str(self.collections)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )


class Fleet:
    """Hosts by their names, as an inventory has them; `lost` cannot be reached."""

    def __init__(
        self, ansible: Ansible, hosts: Mapping[str, Scene], lost: Collection[str] = ()
    ) -> None:
        self.ansible = ansible
        self.hosts = hosts
        self.inventory = ansible.directory / "hosts.yml"
        ssh = ansible.directory / "ssh"  # that finds no host
        ssh.write_text("#!/bin/sh\nexit 255\n")
        ssh.chmod(0o755)
        no_way = {"ansible_connection": "ssh", "ansible_ssh_executable": str(ssh)}
        self.inventory.write_text(
            json.dumps(
                {
                    "hypervisors": {
                        "vars": {
                            "ansible_connection": "local",
                            "ansible_python_interpreter": sys.executable,
                            "storage_transition_executable": str(PROGRAMS / "xmlkit"),
                            "storage_transition_all": True,
                            "storage_transition_relocate": [POOL],
                        },
                        "hosts": {
                            name: {
                                "storage_transition_connect": scene.libvirtd.uri,
                                "storage_transition_state_dir": str(self.state(name)),
                            }
                            | (no_way if name in lost else {})
                            for name, scene in hosts.items()
                        },
                    }
                }
            )
        )

    def state(self, name: str) -> Path:
        """The state directory of a host."""
        return self.hosts[name].libvirtd.directory / "state"

    def words(self, playbook: str, *options: str, **variables: Any) -> list[str]:
        """The command that plays a playbook on the fleet."""
        given = json.dumps(variables)
        return [playbook, "-i", str(self.inventory), "--extra-vars", given, *options]

    def play(self, playbook: str, *options: str, **variables: Any) -> Run:
        """Play a playbook of the collection on the fleet."""
        words = self.words(f"xmlkit.libvirt.{playbook}", *options, **variables)
        done = self.ansible.start("ansible-playbook", *words)
        return Run(done.returncode, done.stdout + done.stderr)

    @contextlib.contextmanager
    def slow(self, *words: str) -> Iterator[Slow]:
        """ansible-playbook, up to where xmlkit is in the middle of a transition on some host."""
        gate = self.ansible.directory / f"gate-{uuid.uuid4().hex}"
        gate.touch()
        command = gate.with_suffix(".py")
        command.write_text(SLOW.format(python=sys.executable, gate=str(gate)))
        command.chmod(0o755)
        given = json.dumps({"storage_transition_executable": str(command)})
        with subprocess.Popen(
            [str(PROGRAMS / "ansible-playbook"), *words, "--extra-vars", given],
            env=self.ansible.environment,
            cwd=self.ansible.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # as in a terminal of its own
        ) as process:
            try:
                until(gate.with_suffix(".reached").exists)
                pid, parent = map(int, gate.with_suffix(".reached").read_text().split())
                yield Slow(process, pid, parent, gate)
            finally:
                gate.unlink(missing_ok=True)
                if process.poll() is None:
                    process.kill()


@dataclass
class Slow:
    """A playbook that goes on, and the xmlkit that it waits for."""

    process: subprocess.Popen[str]
    pid: int
    parent: int  # the module
    gate: Path

    def end(self) -> Run:
        """Wait until Ansible has ended."""
        said, _ = self.process.communicate(timeout=SECONDS)
        return Run(self.process.returncode, said)

    def go_on(self) -> None:
        """Let xmlkit go on, and wait until it has ended, whoever waits for it."""
        self.gate.unlink()
        until(self._gone)

    def _gone(self) -> bool:
        try:
            return not Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return True
