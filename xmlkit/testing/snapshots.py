"""Snapshots of libvirt XML: an extension of syrupy that stores each document as a file.

Laws
- A snapshot matches if libvirt reads the same in it; a file that still matches is not written anew.
- Nothing is stored, or taken for a match, that libvirt's schemas refuse.
- What is stored is the document as it was made, but for what is masked, so that it can be reviewed
  and given to virsh, secrets included: what differs is shown without them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from syrupy.extensions.single_file import SingleFileSnapshotExtension

from xmlkit.document import Document, DocumentError
from xmlkit.errors import XmlkitError
from xmlkit.testing.checks import differences, document_of, faults, masked_document, named

__all__ = ["LibvirtXml"]


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
