"""Trees of other Debian releases, to run their libvirt and QEMU in, or to take files from.

mmdebstrap makes each once and it stays in the cache, since what it holds moves on: a tree is named
for its suite and its recipe, and is made anew only when the recipe changes. A tree appears complete
or not at all; of several processes that ask, one makes it. Making one takes root and half a minute.

As a program it makes all of them, two at a time, and says what is in them.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sources import SourceUnavailable, cache, keyring, locked, mirror, run

if TYPE_CHECKING:  # pytest wants to be the first to import its plugins
    from xmlkit.testing import Libvirtd

TIMEOUT = 900  # seconds for one tree, on the busiest machine

LIBVIRTD = ("libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients")
QEMU = ("qemu-system-x86", "qemu-utils")
# Packages of their own since Debian 13.
STORAGE = (
    *("libvirt-daemon-driver-storage", "libvirt-daemon-driver-storage-disk"),
    "libvirt-daemon-driver-secret",
)
LINUX = ("linux-image-cloud-amd64", "busybox-static", "lvm2", *QEMU, *LIBVIRTD)


@dataclass(frozen=True)
class Recipe:
    """What a tree is made of: mmdebstrap's variant `extract` unpacks and configures nothing."""

    suite: str
    variant: str
    packages: tuple[str, ...]


RECIPES = {
    "bullseye": Recipe("bullseye", "minbase", (*LIBVIRTD, *QEMU)),  # libvirt 7.0
    "bookworm": Recipe("bookworm", "minbase", (*LIBVIRTD, *QEMU)),  # libvirt 9.0
    "trixie": Recipe("trixie", "minbase", (*LIBVIRTD, *QEMU, *STORAGE)),  # libvirt 11.3
    "sid": Recipe("sid", "minbase", (*LIBVIRTD, *QEMU, *STORAGE)),  # whatever is newest
    "linux": Recipe("bookworm", "extract", LINUX),  # for machines.py
}
SUITES = ("bullseye", "bookworm", "trixie", "sid")

OPTIONS = (
    "--mode=root",
    # sid's mirrors may be weeks old
    '--aptopt=Acquire::Check-Valid-Until "false"',
    '--aptopt=Acquire::Retries "3"',
    '--aptopt=APT::Install-Recommends "false"',
    # libvirt looks there for what is mounted
    '--customize-hook=ln -sf ../proc/self/mounts "$1/etc/mtab"',
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)


@dataclass(frozen=True)
class Release:
    """A release's tree and, called with what `private_libvirtd` takes, a libvirtd that runs in it.

    Fields: `suite` is Debian's, `root` the tree.
    """

    suite: str
    root: Path
    _start: Callable[..., Libvirtd]

    def __call__(self, **parameters: object) -> Libvirtd:
        """Start a libvirtd of this release; it ends with the test."""
        return self._start(root=self.root, **parameters)

    @property
    def schemas(self) -> Path:
        """Where this release has libvirt's RELAX NG files."""
        return self.root / "usr/share/libvirt/schemas"


def tree(name: str) -> Path:
    """Return the tree of a name in RECIPES, making it on first use.

    Nothing may be written into it but by mounts. Raises SourceUnavailable where it cannot be made.
    """
    recipe = RECIPES[name]
    digest = hashlib.sha256(repr((recipe, OPTIONS)).encode()).hexdigest()[:8]
    trees = cache() / "trees"
    made = trees / f"{name}-{digest}"
    if not made.is_dir():
        trees.mkdir(parents=True, exist_ok=True)
        with locked(trees / f".{name}.lock"):
            if not made.is_dir():
                _make(recipe, made)
    return made


def version(root: Path, package: str) -> str:
    """Return the version of a package in a tree, such as "9.0.0-4+deb12u2"; "" without it."""
    status = (root / "var/lib/dpkg/status").read_text()
    found = re.search(rf"^Package: {re.escape(package)}\n(?:.+\n)*?Version: (.+)$", status, re.M)
    return found[1] if found else ""


def _make(recipe: Recipe, made: Path) -> None:
    if os.geteuid() != 0:
        raise SourceUnavailable("a tree of another release can be made by root only")
    if platform.machine() != "x86_64":
        raise SourceUnavailable("the guests of the tests are of x86_64")
    with tempfile.TemporaryDirectory(dir=made.parent, prefix=f".{made.name}-") as directory:
        root = Path(directory, "tree")
        variant = f"--variant={recipe.variant}"
        include = f"--include={','.join(recipe.packages)}"
        source = f"deb [signed-by={keyring()}] {mirror()} {recipe.suite} main"
        command = ("mmdebstrap", *OPTIONS, variant, include, recipe.suite, str(root), source)
        run(*command, timeout=TIMEOUT)
        root.chmod(0o755)  # QEMU's own user goes in
        root.rename(made)


def _report(name: str) -> str:
    start = time.monotonic()
    root = tree(name)
    packages = ("libvirt-daemon", "qemu-system-x86")
    contents = [f"{each} {found}" for each in packages if (found := version(root, each))]
    contents += [kernel.name for kernel in root.glob("boot/vmlinuz-*")]
    return f"{name:10} {time.monotonic() - start:4.0f} s  {', '.join(contents)}"


def main() -> int:
    """Make all trees; where that is impossible say why, which is a failure if CI=true."""
    try:
        with ThreadPoolExecutor(2) as pool:
            for line in pool.map(_report, RECIPES):
                print(line, flush=True)
    except SourceUnavailable as error:
        print(f"no trees of other releases: {error}", file=sys.stderr)
        return os.environ.get("CI") == "true"
    return 0


if __name__ == "__main__":
    sys.exit(main())
