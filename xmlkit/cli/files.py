"""Reading documents and writing results: bounded, and never half."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from xmlkit.document import MIB, Document, DocumentError, Limits
from xmlkit.errors import XmlkitError

if TYPE_CHECKING:
    from xmlkit.plan import Plan

__all__ = [
    "FileError",
    "check_place",
    "limit_options",
    "read",
    "read_document",
    "read_plans",
    "write",
]


# Bytes that are read at a time.
_PIECE = 1 << 16
# Bytes of a file of plans: some 3 KiB a domain.
PLAN_SIZE = 64 * MIB


class FileError(XmlkitError):
    """A file cannot be read or written; the message names it and says what to do."""


def limit_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options --max-size, --max-depth and --max-markup."""
    defaults = Limits()
    for option, default, text in (
        ("--max-markup", defaults.markup, "Tags and attributes in a document."),
        ("--max-depth", defaults.depth, "Nesting of elements, 900 at most."),
        ("--max-size", defaults.size // MIB, "Size of a document in MiB."),
    ):
        function = click.option(
            option, type=click.IntRange(min=1), default=default, show_default=True, help=text
        )(function)
    return function


def limits(max_size: int, max_depth: int, max_markup: int) -> Limits:
    """The Limits that the options say. Raises FileError."""
    try:
        return Limits(depth=max_depth, size=max_size * MIB, markup=max_markup)
    except ValueError as error:
        raise FileError(str(error)) from None


def read(file: str, size: int) -> bytes:
    """The bytes of a file, or of stdin for "-"; no more than one over `size`.

    Raises FileError.
    """
    if file == "-":
        if sys.stdin is None:
            raise FileError("cannot read stdin: it is closed")
        return sys.stdin.buffer.read(size + 1)
    try:
        # not open(), which takes longer than parsing many a document
        descriptor = os.open(file, os.O_RDONLY)
        try:
            pieces, left = [], size + 1
            while left and (piece := os.read(descriptor, min(_PIECE, left))):
                pieces.append(piece)
                left -= len(piece)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FileError(f"cannot read {file}: {error.strerror}") from None
    return b"".join(pieces)


def read_document(file: str, bounds: Limits) -> Document:
    """The document in a file. Raises FileError, DocumentError with the file's name."""
    try:
        return Document.parse(read(file, bounds.size), bounds)
    except DocumentError as error:
        error.file = "stdin" if file == "-" else file
        raise


def read_plans(file: str) -> tuple[Plan, ...]:
    """The plans in a file of xmlkit plan. Raises FileError, PlanError with the file's name."""
    from xmlkit.plan import PlanError, plans_from_json

    data = read(file, PLAN_SIZE)
    if len(data) > PLAN_SIZE:
        raise FileError(f"{file} is larger than {PLAN_SIZE // MIB} MiB: plan fewer domains at once")
    try:
        return plans_from_json(data)
    except PlanError as error:
        raise PlanError(f"{file}: {error}") from None


def write(data: bytes, file: str | None) -> None:
    """Write to stdout, or replace `file` at once: it has the old content or the new, never half.

    Owner, mode and extended attributes of a file that is there are kept; a symbolic link is
    refused, since replacing it would leave the file behind it as it was.
    Raises FileError.
    """
    if file is None or file == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        try:
            status = os.lstat(file)
        except FileNotFoundError:
            status = None
        if status is not None and stat.S_ISLNK(status.st_mode):
            # /dev/stdout is one, to no regular file
            status = os.stat(file)
            if not stat.S_ISREG(status.st_mode):
                return _pour(file, data)
            raise FileError(f"{file} is a symbolic link: name the file itself")
        if status is not None and not stat.S_ISREG(status.st_mode):
            return _pour(file, data)
        if status is not None and status.st_nlink > 1:
            raise FileError(
                f"{file} has {status.st_nlink} names (hard links): replacing it would leave the "
                "others as they are"
            )
        _replace(file, data, status)
    except OSError as error:
        raise FileError(f"cannot write {file}: {error.strerror}") from None


def check_place(file: str | None) -> None:
    """Raise FileError if the directory that a file is to be written in cannot be opened."""
    if file is not None and file != "-":
        try:
            os.close(os.open(os.path.dirname(os.path.abspath(file)), os.O_RDONLY | os.O_DIRECTORY))
        except OSError as error:
            raise FileError(f"cannot write {file}: {error.strerror}") from None


def _pour(file: str, data: bytes) -> None:
    with open(file, "wb") as opened:
        opened.write(data)


def _replace(path: str, data: bytes, status: os.stat_result | None) -> None:
    import tempfile

    parent, base = os.path.split(os.path.abspath(path))
    descriptor, name = tempfile.mkstemp(prefix=f".{base}.", dir=parent)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(data)
            opened.flush()
            if status is None:
                mask = os.umask(0)
                os.umask(mask)
                os.fchmod(opened.fileno(), 0o666 & ~mask)
            else:
                os.fchown(opened.fileno(), status.st_uid, status.st_gid)
                os.fchmod(opened.fileno(), stat.S_IMODE(status.st_mode))
                for attribute in os.listxattr(path) if hasattr(os, "listxattr") else ():
                    os.setxattr(opened.fileno(), attribute, os.getxattr(path, attribute))
            os.fsync(opened.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    directory = os.open(parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
