"""The schemas of other versions of libvirt, out of Debian's packages.

A private apt downloads them as `sources` does; nothing is installed. What lies in the cache stays:
a suite that has moved on is fetched again only into an empty cache.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from sources import apt_config, cache, locked, run

# Which package has the schemas: Debian 13 moved them.
PACKAGES = {
    "bullseye": "libvirt0",
    "bookworm": "libvirt0",
    "trixie": "libvirt-common",
    "sid": "libvirt-common",
}


class SchemaSet(NamedTuple):
    """One version's schemas: `directory` is named by the version and lies alone in its parent."""

    version: str
    directory: Path


def schema_set(suite: str) -> SchemaSet:
    """The schemas of a Debian suite, fetched on first use. Raises SourceUnavailable."""
    place = cache() / "schemas" / suite
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place.parent / f".{suite}.lock"):
            if not place.is_dir():
                _fetch(suite, place)
    (directory,) = place.iterdir()
    return SchemaSet(directory.name, directory)


def _fetch(suite: str, place: Path) -> None:
    """Download and unpack beside the destination, which appears complete or not at all."""
    config = apt_config(suite, "deb")
    # the release file of a suite that always moves may be past its date; and what is installed
    # here must not count as newer
    options = ("-oAcquire::Check-Valid-Until=false", "-oDir::State::status=/dev/null")
    apt = ("apt-get", "--quiet", f"--config-file={config}", *options)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{suite}-") as name:
        download, found = Path(name), Path(name, "found")
        run(*apt, "update")
        run(*apt, "download", PACKAGES[suite], cwd=download)
        (package,) = download.glob("*.deb")
        run("dpkg-deb", "--extract", str(package), str(download / "tree"))
        version = run("dpkg-deb", "--field", str(package), "Version").partition("-")[0]
        found.mkdir()
        shutil.copytree(download / "tree/usr/share/libvirt/schemas", found / version.strip())
        found.rename(place)
