"""The second half of `make demo`: a guest is moved onto a pool, boots, and comes back.

A private libvirtd in namespaces of its own, with a guest that is nothing but a boot sector; the
commands are those that an operator types, and so is what they print. Nothing of the machine's
libvirt is touched, and nothing is left behind.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from scene import POOL, Scene

from xmlkit.testing import LibvirtdMissingError, private_libvirtd

INSTANCE = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
XMLKIT = Path(sys.executable).parent / "xmlkit"


def show(text: str) -> None:
    """A line of the demo's own."""
    print(f"\n# {text}" if not sys.stdout.isatty() else f"\n\033[36m# {text}\033[0m", flush=True)


def command(line: str, *codes: int) -> str:
    """Show and run a command line as in a shell; codes: its exit codes, 0 if none is given."""
    print(f"$ {line}", flush=True)
    words = shlex.split(line)
    done = subprocess.run(
        [str(XMLKIT), *words[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(done.stdout, end="", flush=True)
    if done.returncode not in (codes or (0,)):
        sys.exit(f"exit code {done.returncode}")
    return done.stdout


def boot(scene: Scene, name: str) -> None:
    """Boot the guest from what is defined, and show what it says."""
    domain = scene.connection.lookupByName(name)
    scene.start(domain)
    said = scene.log(name).read_text(errors="replace").split("XMLKIT-GUEST-UP")[-1]
    scene.stop(domain)
    (disk,) = scene.addresses(domain)
    print(f"{name} is up on {disk[0]} {'/'.join(disk[1:])}, writes: {said.strip()[0]}", flush=True)


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("The rest of the demo starts a libvirtd of its own, which only root can.")
    try:
        with private_libvirtd() as libvirtd:
            scene = Scene(libvirtd)
            domain = scene.nova_guest("instance-00000001", uuid_=INSTANCE)
            os.environ["LIBVIRT_DEFAULT_URI"] = libvirtd.uri
            os.environ["XMLKIT_STATE_DIR"] = str(libvirtd.directory / "state")
            plan = libvirtd.directory / "plan.json"
            show("a private libvirtd has a guest whose disk is a file; it boots from it")
            boot(scene, domain.name())
            command(f"xmlkit status --relocate {POOL}", 1)
            command(f"xmlkit plan --all --relocate {POOL} -o {plan}")
            command(f"xmlkit apply --plan {plan} --yes")
            show("the same guest boots from the volume")
            boot(scene, domain.name())
            transition = command("xmlkit journal").split()[0]
            command(f"xmlkit rollback {transition} --yes")
            show("and from its file again")
            boot(scene, domain.name())
    except LibvirtdMissingError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
