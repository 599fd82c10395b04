"""Several hosts on one machine, and the real Ansible that works on them.

Rules
- A host is a scene with its own libvirtd and its own state directory; Ansible is at home on it
  (`ansible_connection: local`) and starts the command as on any other.
- The collection is the one that ansible-galaxy installs from the checkout.
- Nothing of the caller's Ansible is read or written: configuration, home and temporary files are
  the fleet's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scene import POOL, Scene

COLLECTION = Path(__file__).parents[1] / "ansible"
PROGRAMS = Path(sys.executable).parent
SECONDS = 300.0  # for a playbook on a busy machine

# What Ansible does on a host, in a process of its own, without Ansible's way there.
MODULE = """
import importlib, json, sys
from ansible.module_utils.testing import patch_module_args
name = "ansible_collections.xmlkit.libvirt.plugins.modules." + sys.argv[1]
with patch_module_args(json.loads(sys.argv[2])):
    importlib.import_module(name).main()
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
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        }
        (directory / "ansible.cfg").touch()
        self.run(
            *("ansible-galaxy", "collection", "install", "--offline"),
            *(str(COLLECTION), "-p", str(self.collections)),
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
    """Hosts by their names, as an inventory has them."""

    def __init__(self, ansible: Ansible, hosts: Mapping[str, Scene]) -> None:
        self.ansible = ansible
        self.hosts = hosts
        self.inventory = ansible.directory / "hosts.yml"
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
                            for name, scene in hosts.items()
                        },
                    }
                }
            )
        )

    def state(self, name: str) -> Path:
        """The state directory of a host."""
        return self.hosts[name].libvirtd.directory / "state"

    def play(self, playbook: str, *options: str, **variables: Any) -> Run:
        """Play a playbook of the collection on the fleet."""
        done = self.ansible.start(
            *("ansible-playbook", f"xmlkit.libvirt.{playbook}", "-i", str(self.inventory)),
            *("--extra-vars", json.dumps(variables), *options),
        )
        return Run(done.returncode, done.stdout + done.stderr)
