"""Debian source packages, for the documents among their tests.

A private apt fetches them: its source list, its indexes and what it downloads lie in the
cache. The lists and the state of the system stay as they are, and any user can run it.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEFAULT_MIRROR = "http://deb.debian.org/debian"
# Debian 13 and older name the file .gpg, later ones .pgp.
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
)
TIMEOUT = 240  # seconds for one command


class SourceUnavailable(Exception):
    """A source package is not in the cache and cannot be fetched; the message says why."""


def debian_source(package: str, suite: str = "bookworm") -> Path:
    """Return the unpacked upstream tree of a source package, fetching it on first use.

    Debian's patches are not applied. Callers in several processes may ask at once.
    """
    unpacked = cache() / suite / package
    if not unpacked.is_dir():
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        with locked(unpacked.parent / ".lock"):
            if not unpacked.is_dir():
                _fetch(package, suite, unpacked)
    (tree,) = unpacked.iterdir()
    return tree


def cache() -> Path:
    """Return the directory of the cache: $XMLKIT_CACHE, or xmlkit among the user's caches."""
    chosen = os.environ.get("XMLKIT_CACHE")
    if chosen:
        return Path(chosen).absolute()
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "xmlkit"


def source_list(suite: str, types: str = "deb-src") -> str:
    """Return the one entry of the private source list; types: deb-src, or deb for packages."""
    return (
        f"Types: {types}\n"
        f"URIs: {mirror()}\n"
        f"Suites: {suite}\n"
        "Components: main\n"
        f"Signed-By: {keyring()}\n"
    )


def keyring() -> Path:
    """Return the file with the keys of the Debian archive."""
    found = next((path for path in KEYRINGS if path.exists()), None)
    if found is None:
        raise SourceUnavailable("no keyring of the Debian archive: install debian-archive-keyring")
    return found


def mirror() -> str:
    """Return where this machine gets Debian from, or the default when apt does not tell."""
    fields = "$(ORIGIN)|$(LABEL)|$(REPO_URI)"
    for line in run("apt-get", "indextargets", "--format", fields).splitlines():
        origin, label, uri = line.split("|", 2)
        if (origin, label) == ("Debian", "Debian") and uri.startswith(("http://", "https://")):
            return uri.rstrip("/")
    return DEFAULT_MIRROR


def apt_config(suite: str, types: str = "deb-src") -> Path:
    """Write what keeps an apt of this suite inside the cache, for its option --config-file."""
    home = cache() / suite / (".apt" if types == "deb-src" else f".apt-{types}")
    for directory in ("lists/partial", "archives/partial"):
        (home / directory).mkdir(parents=True, exist_ok=True)
    (home / "debian.sources").write_text(source_list(suite, types))
    config = home / "apt.conf"
    config.write_text(
        "#clear APT::Update;\n"  # hooks of the system, such as those that empty its cache
        'APT::Update::Error-Mode "any";\n'
        'APT::Sandbox::User "root";\n'  # _apt cannot enter the caches of a user
        'Acquire::Languages "none";\n'
        'Acquire::Retries "2";\n'
        f'Dir::Cache "{home}";\n'
        'Dir::Cache::Archives "archives/";\n'
        'Dir::Cache::PkgCache "";\n'
        'Dir::Cache::SrcPkgCache "";\n'
        f'Dir::Etc::SourceList "{home}/debian.sources";\n'
        'Dir::Etc::SourceParts "/dev/null";\n'
        f'Dir::State::Lists "{home}/lists";\n'
    )
    return config


def _fetch(package: str, suite: str, unpacked: Path) -> None:
    """Download and unpack beside the destination, which appears complete or not at all."""
    apt = ("apt-get", "--quiet", f"--config-file={apt_config(suite)}")
    with tempfile.TemporaryDirectory(dir=unpacked.parent, prefix=f".{package}-") as name:
        download, tree = Path(name, "download"), Path(name, "tree")
        download.mkdir()
        tree.mkdir()
        run(*apt, "update")
        run(*apt, "source", "--download-only", "--only-source", package, cwd=download)
        (description,) = download.glob("*.dsc")
        unpack = ("dpkg-source", "--no-copy", "--skip-patches", "--extract")
        run(*unpack, str(description), cwd=tree)
        tree.rename(unpacked)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock against other processes and threads."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(*command: str, cwd: Path | None = None, timeout: float = TIMEOUT) -> str:
    """Run a command to its end and return its output; SourceUnavailable when it fails."""
    try:
        return subprocess.run(
            command,
            check=True,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        ).stdout
    except FileNotFoundError:
        raise SourceUnavailable(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired as error:
        raise SourceUnavailable(f"{' '.join(command)}: no end in {timeout:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise SourceUnavailable(f"{' '.join(command)}:\n{error.stderr}") from error
