"""Snapshots of libvirt XML: an extension of syrupy that stores each document as a file.

Laws
- A snapshot matches if libvirt reads the same in it; a file that still matches is not written anew.
- Each snapshot has a file of its own, whatever its test is called. A link in its place is replaced;
  nothing is written to where it leads.
- Nothing is stored, or taken for a match, that libvirt's schemas refuse.
- What is stored is the document as it was made, but for what is masked, so that it can be reviewed
  and given to virsh, secrets included: what differs is shown without them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import pytest
from syrupy.extensions.base import AbstractSyrupyExtension
from syrupy.extensions.single_file import SingleFileSnapshotExtension

from xmlkit.document import Document, DocumentError
from xmlkit.errors import XmlkitError
from xmlkit.testing.checks import differences, document_of, faults, masked_document, named

__all__ = ["LibvirtXml"]


# Bytes of a file's name without .xml, and of what tells apart those that are longer.
_MOST = 255 - len(".xml")
_DIGEST = 16
# What no file's name has on some system, what would be read as quoted, and what cannot be seen.
_UNFIT = re.compile(r'[\x00-\x1f\x7f-\x9f\\/?*:|"<>%\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]')


def _quoted(name: str) -> str:
    """A name with what is unfit for a file as %XX, which no two names share."""
    return _UNFIT.sub(lambda match: quote(match[0], safe=""), name)


def _cut(quoted: str) -> str:
    """As much of a name that is too long as leaves place for what tells it apart."""
    return quoted.encode()[: _MOST - _DIGEST - 1].decode(errors="ignore")


class _Source(bytes):
    """The bytes of a document, which syrupy's `snapshot` shows as its own when a test fails."""

    def __repr__(self) -> str:
        return f"<libvirt XML, {len(self)} bytes>"

    __str__ = __repr__


class LibvirtXml(SingleFileSnapshotExtension):
    """libvirt XML of any kind, lone devices too, in one .xml file each.

    To change one of these, subclass it and give that to `libvirt_snapshot.use_extension()`:
    validates: whether documents have to be valid. schemas: a directory or a version, without it
    those of the libvirt that is installed. ignore_defaults: whether a default that only one of
    two documents spells is no difference.
    """

    file_extension = "xml"
    validates: bool = True
    schemas: str | os.PathLike[str] | None = None
    ignore_defaults: bool = False

    @classmethod
    def get_snapshot_name(cls, *, test_location: Any, index: Any = 0) -> str:
        """The name of a snapshot's file, as syrupy names snapshots, quoted where no file can."""
        name = AbstractSyrupyExtension.get_snapshot_name(test_location=test_location, index=index)
        quoted = _quoted(name)
        if len(quoted.encode()) <= _MOST:
            return quoted
        return f"{_cut(quoted)}-{hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]}"

    @classmethod
    def matches_test_location(cls, *, test_location: Any, snapshot_location: str) -> bool:
        """Whether a file is one of a test's, by which syrupy tells what is unused."""
        if test_location.matches_snapshot_location(snapshot_location):
            return True
        file = PurePath(snapshot_location)
        if test_location.basename != file.parent.name:
            return False
        own = _quoted(test_location.snapshot_name_parametrized)
        name = file.name.removesuffix(f".{cls.file_extension}")
        more = name.removeprefix(own)
        whole = name != more and more[:1] in ("", ".", "[")
        cut = len(own.encode()) > _MOST and name.startswith(_cut(own))
        return (whole or cut) and bool(test_location.matches_snapshot_site(snapshot_location))

    def serialize(self, data: Any, *, matcher: Any = None, **_: Any) -> bytes:
        """The bytes to store: the document, masked by `matcher`, with an end of its last line.

        Ends the test if it cannot be read or is not valid, since syrupy would show an exception
        as a traceback.
        """
        made = self._made(data, matcher)
        if isinstance(made, str):
            pytest.fail(f"no snapshot: {made}", pytrace=False)
        ended = made if made.text.endswith("\n") else Document.parse(made.text + "\n")
        return _Source(ended.source)

    def read_snapshot_data_from_location(self, **place: Any) -> bytes | None:
        """The bytes of a stored document, None if there is none."""
        data = super().read_snapshot_data_from_location(**place)
        return None if data is None else _Source(data)

    @classmethod
    def write_snapshot_collection(cls, **collection: Any) -> None:
        """Store a document, in place of a link, not through it: whose file that is nobody knows."""
        path = Path(collection["snapshot_collection"].location)
        if path.is_symlink():
            path.unlink()
        super().write_snapshot_collection(**collection)

    def _made(self, data: Any, matcher: Any) -> Document | str:
        """The document, or why it cannot be stored."""
        try:
            document = masked_document(document_of(data), matcher)
            wrong = faults(document, self.schemas) if self.validates else ()
        except XmlkitError as error:
            return str(error)
        return "\n".join((f"{named(document)} is not valid:", *wrong)) if wrong else document

    def matches(self, *, serialized_data: Any, snapshot_data: Any) -> bool:
        """Whether libvirt reads the same in both."""
        return not any(self._differences(serialized_data, snapshot_data))

    def diff_lines(self, serialized_data: Any, snapshot_data: Any) -> Iterator[str]:
        """What differs, as `xmlkit compare` prints it, and what to do."""
        if not snapshot_data:
            yield "store it with: pytest --snapshot-update"
            return
        yield from self._differences(serialized_data, snapshot_data)
        yield "if it is as it should be, store it with: pytest --snapshot-update"

    def _differences(self, new: bytes, stored: bytes) -> tuple[str, ...]:
        try:
            old = Document.parse(stored)
        except DocumentError as error:
            return (f"the stored snapshot cannot be read: {error}",)
        return differences(old, Document.parse(new), ignore_defaults=self.ignore_defaults)
