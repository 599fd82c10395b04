"""Names of volumes and of Nova's disks, made and split in one place.

Laws
- A Nova volume is `{uuid}_{name}`; the UUID is its first 36 characters, so a name may have "_".
- A name becomes part of a path or of a document only after `fault_of_volume_name` found none.
"""

from __future__ import annotations

import re
from functools import lru_cache

from xmlkit.markup import impossible

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f]")


def volume_name(uuid: str, name: str) -> str:
    """The volume that Nova's spec names for the disk `name` of the instance `uuid`.

    Spec: "a name of the form `{instance-uuid}_{name}`".
    """
    return f"{uuid}_{name}"


def split_volume_name(volume: str) -> tuple[str, str] | None:
    """(uuid, name) of a volume named by `volume_name`, None of another one."""
    uuid, name = volume[:36], volume[37:]
    if volume[36:37] != "_" or not name or not UUID.fullmatch(uuid):
        return None
    return uuid, name


def split_instance_path(path: str) -> tuple[str, str] | None:
    """(uuid, name) of a disk where Nova's file backends put it, DIRECTORY/{uuid}/{name}."""
    directory, _, name = path.rpartition("/")
    uuid = directory.rpartition("/")[2]
    if not name or not UUID.fullmatch(uuid):
        return None
    return uuid, name


def nova_name(path: str) -> str | None:
    """Nova's name of a disk (`disk`, `disk.swap`, ...) by its path, file or LVM; None without one.

    LVM: /dev/VG/{uuid}_{name}, "_" doubled within the name.
    """
    if found := split_instance_path(path):
        return found[1]
    if found := split_volume_name(path.rpartition("/")[2]):
        return found[1].replace("__", "_")
    return None


def kind_of(name: str) -> str | None:
    """Which kind of disk Nova's name says: root, ephemeral, swap, config; None for another.

    The names are those of nova.virt.libvirt.blockinfo and driver (Nova 34.0.0); `.rescue` at the
    end does not change the kind.
    """
    name = name.removesuffix(".rescue")
    if name == "disk":
        return "root"
    if name == "disk.local" or re.fullmatch(r"disk\.eph[0-9]+", name):
        return "ephemeral"
    return {"disk.swap": "swap", "disk.config": "config"}.get(name)


def fault_of_volume_name(name: str) -> str | None:
    """Why libvirt would refuse or lose a volume of this name; None if it would not.

    Sources: volName in libvirt's basictypes.rng; the refresh of directory pools leaves out names
    with control characters (libvirt 9.0.0, virStorageBackendRefreshLocal).
    """
    if name.isprintable() and "/" not in name and name not in ("", ".", ".."):
        return None
    if not name:
        return "it is empty"
    if name in (".", ".."):
        return f"it is {name!r}"
    if "/" in name:
        return "it has a '/'"
    if _CONTROL.search(name):
        return "it has a control character, and a pool's refresh leaves such files out"
    if impossible(name):
        return "it has a character that no XML can have"
    return None


@lru_cache(maxsize=256)
def fault_of_pool_name(name: str) -> str | None:
    """Why a `<source pool=...>` of this name is not valid; None if it is.

    Source: objectName in libvirt's basictypes.rng.
    """
    if not name:
        return "it is empty"
    if "/" in name or "\n" in name:
        return "it has a '/' or a line break"
    if impossible(name):
        return "it has a character that no XML can have"
    return None
