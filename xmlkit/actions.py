"""Making pools and volumes on a libvirt that the caller has opened; a module that imports libvirt.

Laws
- What exists already is never overwritten: it is what was asked for, or it is an error.
- A step that fails takes back what was made for it: a half-filled volume is removed, a pool that
  does not start is undefined.
- No command of ours finds a format by itself: qemu-img is given one, each backing file has one, and
  libvirt, which would probe, copies only images that its probe and the caller call the same.
- qemu-img runs on this machine, so filling is for connections to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import libvirt
from lxml import etree

from xmlkit import leisure
from xmlkit.document import Document
from xmlkit.host import Volume, parse_volume, sanitized
from xmlkit.observe import LibvirtError, quiet
from xmlkit.pools import BUILT, PoolError
from xmlkit.volumes import Creation, Fill, VolumeError

__all__ = ["create_pool", "create_volume", "fill"]

_CHAIN = 200  # backing files below one image; libvirt's own limit


def create_pool(connection: Any, document: Document, *, autostart: bool = True) -> Any:
    """The pool that a `<pool>` document describes, running: defined, built and started if need be.

    connection: of libvirt-python, not read-only. autostart: whether it shall start with the host.
    A pool of that name is taken if it says the same. Building makes the directory of a dir, fs or
    netfs pool; nothing is formatted.
    Returns libvirt-python's pool. Raises PoolError if another pool has the name, LibvirtError for
    what libvirt refuses; then a pool that was defined here is undefined again.
    """
    with _speaking():
        pool = _lookup(
            libvirt.VIR_ERR_NO_STORAGE_POOL, connection.storagePoolLookupByName, document.name
        )
        new = pool is None
        if pool is None:
            pool = connection.storagePoolDefineXML(document.text)
        else:
            found = etree.fromstring(pool.XMLDesc(0).encode())
            if (theirs := _pool_says(found)) != (ours := _pool_says(document.root)):
                raise PoolError(
                    "pool-exists",
                    f"there is a pool {document.name!r} that is another one: it has {theirs}, "
                    f"asked for is {ours}",
                )
        try:
            if not pool.isActive():
                if new and document.root.get("type") in BUILT:
                    pool.build(0)
                pool.create(0)
            if bool(pool.autostart()) != autostart:
                pool.setAutostart(autostart)
        except BaseException:
            if new:
                with contextlib.suppress(libvirt.libvirtError):
                    if pool.isActive():
                        pool.destroy()
                    pool.undefine()
            raise
        return pool


def create_volume(connection: Any, creation: Creation) -> Any:
    """Create what a Creation says: the volume, its content, its size.

    A blank or an overlay that is there already and says the same is taken as it is; a volume
    that has to be filled never is, since nobody knows how far it came.
    Returns libvirt-python's volume. Raises VolumeError (`volume-exists`, `format-disagrees`,
    `volume-chain`, `volume-fill`), LibvirtError for what libvirt refuses. Then the volume is gone.
    """
    with _speaking():
        pool = connection.storagePoolLookupByName(creation.pool)
        found = _lookup(libvirt.VIR_ERR_NO_STORAGE_VOL, pool.storageVolLookupByName, creation.name)
        if found is not None:
            _check_same(found, creation)
            return found
        if creation.fill is not None:
            _check_fill(connection, creation.fill)
        volume = _created(connection, pool, creation)
        try:
            if creation.capacity is not None:
                volume.resize(creation.capacity, 0)
            if creation.fill is not None:
                if volume.path() != creation.fill.target:
                    raise VolumeError(
                        "volume-path",
                        f"libvirt made {volume.path()}, not {creation.fill.target}: say the "
                        "pool's path as libvirt has it",
                    )
                fill(creation.fill)
                if creation.fill.options:
                    leisure.refresh(pool)
        except BaseException:
            with contextlib.suppress(libvirt.libvirtError):
                volume.delete(0)
            raise
        return volume


def fill(how: Fill) -> None:
    """Run qemu-img convert as a Fill says; the target is the volume that was made for it.

    Nothing is removed on failure: create_volume does that.
    Raises VolumeError: `volume-path` (a link, or no image), `volume-chain` (a backing file
    without a format, or data in another file), `volume-fill` (qemu-img's own words).
    """
    _check_image(how.source)
    _check_image(how.target)
    _check_chain(how.source, how.source_format)
    _run(how.argv)


def _created(connection: Any, pool: Any, creation: Creation) -> Any:
    flags = 0
    for flag in creation.flags:
        flags |= {
            "prealloc-metadata": libvirt.VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA,
            "reflink": libvirt.VIR_STORAGE_VOL_CREATE_REFLINK,
        }[flag]
    text = creation.document.text
    if creation.source is None:
        return pool.createXML(text, flags)
    name, volume = creation.source
    source_pool = connection.storagePoolLookupByName(name)
    # what libvirt knows of a file may be old; what it knows after this is what it will use
    leisure.refresh(source_pool)
    source = source_pool.storageVolLookupByName(volume)
    _check_source(_read(source, name), creation.source_format)
    return pool.createXMLFrom(text, source, flags)


def _check_source(source: Volume, format: str) -> None:
    """Raise VolumeError unless libvirt would read the source as the caller does."""
    where = f"{source.pool}/{source.name}"
    fitting = {format, None} | ({"iso", "luks"} if format == "raw" else set())
    if source.format not in fitting:
        raise VolumeError(
            "format-disagrees",
            f"{where} is said to be {format}, libvirt would read it as {source.format}",
        )
    if source.backing:
        raise VolumeError(
            "volume-copy",
            f"{where} names the backing file {source.backing}: only images that stand alone are "
            "copied; say snapshot to flatten one",
        )
    if source.type == "file" and os.path.islink(source.path):
        raise VolumeError("volume-path", f"{source.path} is a symbolic link: name the file")


def _check_same(volume: Any, creation: Creation) -> None:
    where = f"{creation.pool}/{creation.name}"
    if creation.source is not None or creation.fill is not None:
        raise VolumeError(
            "volume-exists",
            f"there is a volume {where} already; how far its content came is not known. Look at "
            f"it, and remove it if nobody needs it (virsh vol-delete)",
        )
    theirs = _read(volume, creation.pool)
    ours = parse_volume(creation.document.root, creation.pool)
    backing = creation.document.root.findtext("backingStore/path")
    same = (
        ours.capacity in (theirs.capacity, None)
        and ours.format in (theirs.format, None)
        and backing == theirs.backing
        and (ours.encryption is None) == (theirs.encryption is None)
    )
    if not same:
        raise VolumeError("volume-exists", f"there is a volume {where} that is another one")


def _check_fill(connection: Any, how: Fill) -> None:
    uri = connection.getURI()
    if urlsplit(uri).hostname or uri.startswith("test:"):
        raise VolumeError(
            "volume-fill", "qemu-img runs on the machine that has the pool: connect to it there"
        )
    _check_image(how.source)
    _check_chain(how.source, how.source_format)


def _check_image(path: str) -> None:
    """Raise VolumeError unless it is a file, no link, or a block device below /dev."""
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode) and path.startswith("/dev/"):
            # /dev/VG/LV is one, made by udev
            status = os.stat(path)
            if stat.S_ISBLK(status.st_mode):
                return
            raise VolumeError("volume-path", f"{path} leads to no block device")
    except OSError as error:
        raise VolumeError("volume-path", f"cannot look at {path}: {error.strerror}") from None
    if stat.S_ISLNK(status.st_mode):
        raise VolumeError("volume-path", f"{path} is a symbolic link: name the file")
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
        raise VolumeError("volume-path", f"{path} is neither a file nor a block device")


def _check_chain(path: str, format: str) -> None:
    """Raise VolumeError for a backing file that QEMU would have to probe."""
    for _ in range(_CHAIN):
        if format == "raw":
            return
        if format != "qcow2":
            raise VolumeError("volume-chain", f"{path} is {format}: xmlkit reads raw and qcow2")
        image = json.loads(_run(("qemu-img", "info", "--output=json", "-f", format, path)))
        if image.get("encrypted"):
            raise VolumeError("volume-option", f"{path} is encrypted: it cannot be read")
        if "data-file" in image.get("format-specific", {}).get("data", {}):
            raise VolumeError("volume-chain", f"{path} keeps its data in another file")
        if "backing-filename" not in image:
            return
        backing = image.get("full-backing-filename", image["backing-filename"])
        if "backing-filename-format" not in image:
            raise VolumeError(
                "volume-chain",
                f"{path} does not say the format of its backing file {backing}, and QEMU would "
                "guess: say it with qemu-img rebase -u -F FORMAT",
            )
        if not backing.startswith("/"):
            raise VolumeError("volume-chain", f"the backing file of {path} is no file: {backing}")
        path, format = backing, image["backing-filename-format"]
    raise VolumeError("volume-chain", f"more than {_CHAIN} backing files below one image")


def _run(words: tuple[str, ...]) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        with subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
        ) as process:
            try:
                out, err = process.communicate()
            except BaseException:
                # an interrupted call leaves no writer behind
                process.kill()
                raise
    except FileNotFoundError:
        raise VolumeError(
            "volume-fill", "qemu-img is not installed: apt-get install qemu-utils"
        ) from None
    if process.returncode:
        raise VolumeError("volume-fill", err.strip().replace("\n", "; ") or f"{words[0]} failed")
    return out


def _read(volume: Any, pool: str) -> Volume:
    return parse_volume(etree.fromstring(volume.XMLDesc(0).encode()), pool)


def _lookup(missing: int, function: Callable[[Any], Any], name: str | None) -> Any:
    """What libvirt finds by a name, or None."""
    try:
        return function(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != missing:
            raise
        return None


def _pool_says(root: etree._Element) -> tuple[str, ...]:
    """What makes a pool this one and no other: type, source and target."""
    said = [f"type {root.get('type')}"]
    for element in root.iterfind("source/*"):
        if element.tag in ("host", "dir", "device"):
            place = element.get("name") or sanitized(element.get("path") or "").rstrip("/")
            said.append(f"{element.tag} {place} {element.get('port') or ''}".rstrip())
        elif element.tag == "name":
            # a directory's has none, and a volume group's may be left out for the pool's own
            said.append(f"name {element.text}")
        elif element.tag == "auth":
            secret = element.find("secret")
            uuid = "" if secret is None else secret.get("uuid")
            said.append(f"user {element.get('username')} secret {uuid}")
        elif element.tag == "format" and element.get("type") not in ("auto", "unknown"):
            said.append(f"format {element.get('type')}")
    said.append(f"target {sanitized(root.findtext('target/path') or '').rstrip('/') or '-'}")
    return tuple(sorted(said))


@contextlib.contextmanager
def _speaking() -> Iterator[None]:
    """libvirt's errors as ours."""
    quiet(libvirt)
    try:
        yield
    except libvirt.libvirtError as error:
        raise LibvirtError(str(error.get_error_message())) from None
