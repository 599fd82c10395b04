"""What git asks of a diff driver: its arguments are read, its header is written, any file is shown.

Laws
- git gives up all of `git diff` when its driver fails: whatever a file holds, it is shown somehow.
- Two documents of a kind that libvirt has are compared by meaning; all else, and what is new or
  gone, is shown by its lines.
- No secret is shown unless it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import dropwhile
from typing import NamedTuple

from xmlkit.cli import files
from xmlkit.cli.paint import Paint
from xmlkit.document import MIB, Document, DocumentError, Limits
from xmlkit.errors import XmlkitError
from xmlkit.printable import in_line

__all__ = ["Change", "GitError", "change_of", "shown"]

_SAME = "no difference to libvirt: comments, white space, order or spelling"
_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


class GitError(XmlkitError):
    """Arguments that are not those which git gives to a diff driver."""


class Change(NamedTuple):
    """One file in a difference, as git's manual says of GIT_EXTERNAL_DIFF.

    path, new_path: its name before and after, from the top of the work tree.
    old_file, new_file: where the contents are; os.devnull for a file that is new or gone.
    old_mode, new_mode: such as 100644, "." where there is none.
    about: git's lines of a renamed or copied file.
    """

    path: str
    old_file: str
    old_mode: str
    new_file: str
    new_mode: str
    new_path: str
    about: str = ""


def change_of(given: Sequence[str]) -> Change | None:
    """What git's arguments say: 7, with 2 more of a renamed file; None of an unmerged one, with 1.

    Raises GitError for any other number.
    """
    if len(given) == 1:
        return None
    if len(given) not in (7, 8, 9):
        raise GitError(
            f"--git takes the 1, 7 or 9 arguments of git's diff drivers, not {len(given)}: "
            "set diff.libvirt.command to 'xmlkit compare --git'"
        )
    path, old_file, _, old_mode, new_file, _, new_mode, *renamed = given
    return Change(path, old_file, old_mode, new_file, new_mode, *(renamed or (path,)))


def shown(
    given: Sequence[str],
    compared: Callable[[Document, Document], list[str]],
    bounds: Limits,
    paint: Paint,
    *,
    show_secrets: bool,
) -> Iterator[str]:
    """The lines for one file of git's.

    compared: the lines of what differs between two documents, none if nothing does.
    Raises GitError for arguments that are not git's.
    """
    change = change_of(given)
    if change is None:
        yield in_line(f"* Unmerged path {given[0]}")
        return
    for line in _header(change):
        yield paint(in_line(line), bold=True)
    try:
        old, new = (_read(file, bounds) for file in (change.old_file, change.new_file))
    except files.FileError as error:
        yield in_line(str(error))
        return
    if old == new:
        return
    before, after = _document(old, bounds), _document(new, bounds)
    if before is not None and after is not None and before.kind == after.kind:
        try:
            yield from compared(before, after) or (_SAME,)
            return
        except Exception:
            # by lines it can be shown all the same
            if os.environ.get("XMLKIT_DEBUG"):
                raise
    try:
        for line in _by_lines(change, old, new, show_secrets):
            yield paint(in_line(line), fg=_COLOURS.get(line[:1]))
    except OSError as error:
        yield in_line(f"cannot be shown: {error}")


def _header(change: Change) -> Iterator[str]:
    yield f"diff --git a/{change.path} b/{change.new_path}"
    if change.old_mode == ".":
        yield f"new file mode {change.new_mode}"
    elif change.new_mode == ".":
        yield f"deleted file mode {change.old_mode}"
    elif change.old_mode != change.new_mode:
        yield f"old mode {change.old_mode}"
        yield f"new mode {change.new_mode}"
    yield from filter(None, change.about.split("\n"))


def _read(file: str, bounds: Limits) -> bytes:
    """What is in a file. Raises FileError also for one that is too large."""
    data = files.read(os.path.join(".", file), bounds.size)
    if len(data) > bounds.size:
        raise files.FileError(
            f"larger than {bounds.size / MIB:g} MiB, not compared: git diff --no-ext-diff shows it"
        )
    return data


def _document(data: bytes, bounds: Limits) -> Document | None:
    """The document, if it is one that libvirt has; of others the order of elements may matter."""
    from xmlkit.validation.schemas import SCHEMAS

    try:
        document = Document.parse(data, bounds)
    except DocumentError:
        return None
    return document if document.kind in SCHEMAS else None


def _by_lines(change: Change, old: bytes, new: bytes, show_secrets: bool) -> Iterator[str]:
    from xmlkit.redaction import redact_pair

    old_name = "/dev/null" if change.old_mode == "." else f"a/{change.path}"
    new_name = "/dev/null" if change.new_mode == "." else f"b/{change.new_path}"
    before, after = _text(old), _text(new)
    if before is None or after is None:
        yield f"Binary files {old_name} and {new_name} differ"
        return
    if not show_secrets:
        if "." in (change.old_mode, change.new_mode):
            # nothing has changed where there is one side alone
            before, after = (redact_pair(text, text, invalid=True)[0] for text in (before, after))
        else:
            before, after = redact_pair(before, after, invalid=True)
    yield from (f"--- {old_name}", f"+++ {new_name}")
    yield from _hunks(before, after) or ("only the encoding differs",)


def _hunks(before: str, after: str) -> list[str]:
    """The hunks that git itself finds between two texts, which takes no longer if they are huge."""
    import subprocess
    import tempfile

    # what git has given out is as it shall be shown: ends of lines are not converted once more
    settings = ("-c", "core.autocrlf=false", "-c", "core.attributesFile=/dev/null")
    options = ("--no-ext-diff", "--no-textconv", "--no-color", "--text", "--unified=3")
    with tempfile.TemporaryDirectory(prefix="xmlkit-") as directory:
        for name, text in (("old", before), ("new", after)):
            with open(os.path.join(directory, name), "w", encoding="utf-8", newline="") as file:
                file.write(text)
        done = subprocess.run(
            ["git", *settings, "diff", "--no-index", *options, "--", "old", "new"],
            cwd=directory,
            stdout=subprocess.PIPE,
        )
    lines = done.stdout.decode(errors="backslashreplace").removesuffix("\n").split("\n")
    return list(dropwhile(lambda line: not line.startswith("@@"), lines))


def _text(data: bytes) -> str | None:
    """The text of a file, of any encoding that documents have; None if it is no text."""
    for encoding, mark in (("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")):
        if data.startswith(mark):
            return data.decode(encoding, "backslashreplace")
    return None if b"\0" in data else data.decode(errors="backslashreplace")
