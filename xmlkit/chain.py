"""The images of one disk, opened, and qemu-img on them: nothing is probed, no name is followed.

Laws
- The top image's format is the caller's word, and below it what each qcow2 header declares; an
  image whose format nobody declares is refused.
- Each image is opened here, without following links, and qemu-img is given the open files and how
  they stand one above the other: names in headers are read and checked, and then do not count.
- No qemu-img outlives xmlkit, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

from xmlkit import images
from xmlkit.host import sanitized
from xmlkit.images import ImageError

__all__ = ["Layer", "capacity_of", "chain_of", "convert", "create", "first_of"]

_CHAIN = 200  # images one above the other; libvirt's own limit
_PERCENT = re.compile(rb"\(([0-9.]+)/100%\)")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Layer(NamedTuple):
    """One image of a chain: its path, its declared format, and the handle that it is open by."""

    path: str
    format: str
    handle: int

    @property
    def node(self) -> dict[str, Any]:
        """What QEMU is told of it, without the images below."""
        block = stat.S_ISBLK(os.fstat(self.handle).st_mode)
        file = {
            "driver": "host_device" if block else "file",
            "filename": f"/proc/self/fd/{self.handle}",
        }
        below = {"backing": None} if self.format == "qcow2" else {}
        return {"driver": self.format, "file": file, **below}


def chain_of(stack: contextlib.ExitStack, path: str, format: str) -> tuple[Layer, ...]:
    """The image at `path` and those below it, top first; `stack` closes them.

    format: "raw" or "qcow2", of the first. No QEMU may have it open for writing.
    Raises ImageError: `volume-chain` (a format that is not declared or not read, a backing file
    that is no file), `snapshot-source` (encrypted), `snapshot-failed` (qemu-img's own words), and
    those of images.opened.
    """
    layers: list[Layer] = []
    below: tuple[str, str] | None = (path, format)
    while below is not None:
        if len(layers) == _CHAIN:
            raise ImageError("volume-chain", f"more than {_CHAIN} images, {path} and those below")
        layer = Layer(*below, stack.enter_context(images.opened(below[0])))
        layers.append(layer)
        below = _below(layer)
    return tuple(layers)


def first_of(stack: contextlib.ExitStack, path: str, format: str) -> tuple[Layer, ...]:
    """The image at `path` alone, whatever its header says of another one. Raises as chain_of."""
    layer = Layer(path, format, stack.enter_context(images.opened(path)))
    _below(layer)
    return (layer,)


def capacity_of(layer: Layer) -> int:
    """The size of the disk in bytes. Raises ImageError."""
    return int(_info(layer)["virtual-size"])


def convert(
    layers: tuple[Layer, ...],
    directory: int,
    name: str,
    format: str,
    options: tuple[str, ...] = (),
    *,
    progress: Callable[[float], None] = lambda part: None,
) -> None:
    """Write the content of a chain into a new image, flat, its owner's alone: qemu-img convert.

    directory: a handle of the one that it is made in, where nobody else writes. format: of the new
    image; options: more words for qemu-img. progress: called with how much is done, 0 to 1. Killed
    when it is interrupted. The image is not on the disk before an fsync.
    Raises ImageError `snapshot-failed`.
    """
    words = ("qemu-img", "convert", "-p", "-O", format, *options)
    words += (_json(_tree(layers)), f"./{name}")
    with open(os.memfd_create("stderr"), "w+b") as errors:
        process = _started(
            words,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=tuple(layer.handle for layer in layers),
            cwd=f"/proc/self/fd/{directory}",
            umask=0o077,
        )
        assert process.stdout is not None
        try:
            with process.stdout:
                while said := os.read(process.stdout.fileno(), 4096):
                    for percent in _PERCENT.findall(said)[-1:]:
                        progress(float(percent) / 100)
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        errors.seek(0)
        if process.returncode:
            raise _failed(errors.read())


def create(directory: int, name: str, capacity: int) -> None:
    """A new, empty qcow2 image of `capacity` bytes, its owner's alone: qemu-img create.

    directory: as of convert. Raises ImageError `snapshot-failed`, OSError.
    """
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=directory))
    process = _started(
        ("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=1.1", f"./{name}", str(capacity)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=f"/proc/self/fd/{directory}",
    )
    _, err = process.communicate()
    if process.returncode:
        raise _failed(err)


def _below(layer: Layer) -> tuple[str, str] | None:
    """Path and format of the backing file that a header names; None for none."""
    path = layer.path
    if layer.format == "raw":
        return None
    if layer.format != "qcow2":
        raise ImageError("volume-chain", f"{path} is {layer.format}: xmlkit reads raw and qcow2")
    about = _info(layer)
    if about.get("encrypted"):
        raise ImageError(
            "snapshot-source", f"{path} is encrypted: its content would come out in clear"
        )
    if "data-file" in about.get("format-specific", {}).get("data", {}):
        raise ImageError("volume-chain", f"{path} keeps its data in another file")
    backing = about.get("backing-filename")
    if backing is None:
        return None
    format_ = about.get("backing-filename-format")
    if format_ is None:
        raise ImageError(
            "volume-chain",
            f"{path} does not say the format of its backing file {backing}, and QEMU would guess: "
            "say it with qemu-img rebase -u -F FORMAT",
        )
    name = str(backing).removeprefix("file:")
    if not name.startswith("/") and ":" in name.partition("/")[0]:
        raise ImageError("volume-chain", f"the backing file of {path} is no file: {backing}")
    full = os.path.normpath(os.path.join(os.path.dirname(path), name))
    return sanitized(full), str(format_)


def _info(layer: Layer) -> dict[str, Any]:
    process = _started(
        ("qemu-img", "info", "--output=json", _json(layer.node)),
        pass_fds=(layer.handle,),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate()
    if process.returncode:
        raise _failed(err)
    found: dict[str, Any] = json.loads(out)
    return found


def _tree(layers: tuple[Layer, ...]) -> dict[str, Any]:
    """What QEMU is told of a chain."""
    node: dict[str, Any] | None = None
    for layer in reversed(layers):
        node = layer.node | ({"backing": node} if layer.format == "qcow2" else {})
    assert node is not None
    return node


def _json(node: dict[str, Any]) -> str:
    return f"json:{json.dumps(node)}"


def _started(words: tuple[str, ...], **more: Any) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
            preexec_fn=_die_with_parent,
            **more,
        )
    except FileNotFoundError:
        raise ImageError(
            "snapshot-failed", "qemu-img is not installed: apt-get install qemu-utils"
        ) from None


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _failed(err: bytes) -> ImageError:
    said = err.decode(errors="replace").strip().replace("\n", "; ")
    return ImageError("snapshot-failed", said or "qemu-img failed without a word")
