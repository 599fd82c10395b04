"""xmlkit cache: Nova's image cache, listed, shown as a tree, and pruned."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from xmlkit.cli import carrying, options, signals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from xmlkit.cache import Base, Cache, Use
    from xmlkit.prune import Pruned

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NAME = 46  # columns of a terminal for an image: a SHA-1, and _ with a size in GiB
_LISTED = 16 << 20  # bytes of a list for --protect


def _ages(context: Any, parameter: Any, given: Sequence[str]) -> Mapping[str, float]:
    """The seconds for each kind that --min-age says, as [KIND=]NUMBER[s|m|h|d]."""
    kinds = ("original", "resized", "swap", "ephemeral")
    found: dict[str, float] = {}
    for text in sorted(given, key=lambda text: "=" in text):
        before, equals, after = text.rpartition("=")
        match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", after)
        if not match or (equals and before not in kinds):
            raise click.BadParameter(
                f"{text!r} is no time: write 12h or KIND=12h, KIND one of {', '.join(kinds)}"
            )
        seconds = float(int(match[1]) * _UNITS[match[2] or "s"])
        found.update(dict.fromkeys((before,) if equals else kinds, seconds))
    return found


_OPTIONS = (
    options.CONNECT,
    click.option(
        "--pool", metavar="NAME", help="The pool of the cache; nova-base-images-pool if not given."
    ),
    click.option(
        "--protect",
        metavar="FILE|NAME",
        multiple=True,
        help="An image that is used elsewhere (its name, or Glance's id), or a file of them.",
    ),
    click.option(
        "--min-age",
        "min_ages",
        callback=_ages,
        metavar="[KIND=]TIME",
        multiple=True,
        help="How long unused, as 90m, 12h, 2d; else a day, and an hour for resized ones.",
    ),
    click.option(
        "--accept",
        type=click.Choice(["cache-broken"]),
        metavar="ID",
        multiple=True,
        help="cache-broken: disks whose image is missing keep nothing.",
    ),
    options.FORMAT,
)


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.group(name="cache")
def command() -> None:
    """Look at Nova's image cache, and remove what no disk stands on.

    The cache is a storage pool over Nova's _base directory. What uses an image is read
    from all domains of the host, through the whole chain of each disk; only declared formats
    count, never what a guest wrote.

    \b
    Exit code: 0 and 1 as each of the four says, 2 trouble.

    \b
    Example:
        xmlkit cache list --connect qemu:///system
    """


@command.command(name="list")
@_options
def list_(**asked: Any) -> int:
    """List the images of the cache, who uses each, and what is to become of it.

    keep: used, protected, or not Nova's. young: unused, but not for long enough. remove:
    what prune would remove. missing: disks stand on it, and it is not there.

    \b
    Exit code: 0; 1 an image is missing or a chain is broken; 2 trouble.

    \b
    Example:
        xmlkit cache list --connect qemu:///system
    """
    return _shown(lambda cache: _table(cache.bases), **asked)


@command.command(name="unused")
@_options
def unused(**asked: Any) -> int:
    """List what prune would remove, a path a line.

    \b
    Exit code: 0 nothing; 1 something; 2 trouble.

    \b
    Example:
        xmlkit cache unused --connect qemu:///system --min-age 7d
    """
    format_ = asked.pop("format_")
    with _cache(**asked) as (_, cache):
        pass
    if format_ == "json":
        _print_json(cache, only="remove")
    else:
        for base in cache.removable:
            click.echo(carrying.line(base.path))
        _tell_broken(cache)
    return int(bool(cache.removable))


@command.command(name="tree")
@_options
def tree(**asked: Any) -> int:
    """Show the images of the cache with the disks that stand on them, as a tree.

    \b
    Exit code: 0; 1 an image is missing or a chain is broken; 2 trouble.

    \b
    Example:
        xmlkit cache tree --connect qemu:///system
    """
    return _shown(_tree, **asked)


@command.command(name="prune")
@_options
@click.option("--dry-run", is_flag=True, help="Show what would be removed, remove nothing.")
@options.YES
@options.STATE_DIR
def prune(dry_run: bool, yes: bool, state_dir: str | None, **asked: Any) -> int:
    """Remove the images of the cache that no disk stands on, through libvirt.

    Refused while a transition is open. An image is removed while nobody has it open and
    Nova's own lock of it is held; what changed meanwhile is kept. What other hosts use is
    known only by --protect, and by their disks in directories that this host sees.

    \b
    Exit code: 0 all removed, or nothing to; 1 some was kept after all; 2 trouble,
    nothing removed.

    \b
    Example:
        xmlkit cache prune --protect other-host.json --dry-run
    """
    format_ = asked.pop("format_")
    from contextlib import ExitStack

    from xmlkit import state

    done: list[Pruned] = []
    with ExitStack() as stack:
        if not dry_run:
            stack.enter_context(signals.interruptible())
            # what is wrong with what was asked for comes before any state
            _protected(asked["protect"])
            there = stack.enter_context(_connected(asked["connect"], here=True))
            from xmlkit import service
            from xmlkit.prune import POOL, check

            check(there, asked["pool"] or POOL)
            directory = state.directory(state_dir)
            stack.enter_context(service.writing(there, directory))
            service.refuse_pending(directory)
        connection, cache = stack.enter_context(_cache(here=not dry_run, **asked))
        removable = cache.removable
        if format_ == "text" or not (dry_run or yes):
            _tell_plan(cache)
        if removable and not dry_run:
            size = carrying.size(sum(base.size or 0 for base in removable))
            images = f"{len(removable)} image{'s' * (len(removable) != 1)}"
            if not carrying.asked(f"Remove {images} ({size})?", yes=yes):
                return 1
            if not yes:
                # the answer may have taken its time: what was agreed to has to be unused still
                connection, cache = stack.enter_context(_cache(here=True, **asked))
            signals.begin()
            for base in removable:
                done.append(_removed(connection, cache, base))
                if format_ == "text":
                    why = f": {done[-1].id}: {done[-1].message}" if done[-1].id else ""
                    click.echo(carrying.line(f"{base.name}  {done[-1].state}{why}"))
    kept = [each for each in done if each.state != "removed"]
    if format_ == "json":
        _print_json(cache, done=done, dry_run=dry_run)
    else:
        freed = sum(each.base.size or 0 for each in done if each.state == "removed")
        if dry_run:
            click.echo(f"cache prune: {len(removable)} would be removed")
        else:
            more = f", {len(kept)} kept" if kept else ""
            click.echo(
                f"cache prune: {len(done) - len(kept)} removed{more}; {carrying.size(freed)} freed"
            )
    return int(bool(kept))


def _shown(show: Callable[[Cache], None], format_: str, **asked: Any) -> int:
    """Print the cache as `show` does, or as JSON."""
    with _cache(**asked) as (_, cache):
        pass
    if format_ == "json":
        _print_json(cache)
    else:
        show(cache)
        _tell_broken(cache)
    return int(bool(cache.broken))


def _removed(connection: Any, cache: Cache, agreed: Base) -> Pruned:
    """What became of an image that was to be removed, by how the cache is now."""
    from xmlkit.prune import Pruned, remove

    base = next((each for each in cache.bases if each.path == agreed.path), None)
    if base is None:
        return Pruned(agreed, "kept", "no-image", "it is gone already")
    if base.verdict != "remove":
        return Pruned(base, "kept", base.reason.id, base.reason.message)
    return remove(connection, cache, base)


@contextmanager
def _cache(
    connect: str | None,
    pool: str | None,
    protect: tuple[str, ...],
    min_ages: Mapping[str, float],
    accept: tuple[str, ...],
    here: bool = False,
) -> Iterator[tuple[Any, Cache]]:
    """A connection and the cache that the options say; here: only of this machine's libvirt."""
    protected = _protected(protect)
    with _connected(connect, here=here) as connection:
        from xmlkit.cache import AGES
        from xmlkit.prune import POOL, read

        ages = {**AGES, **min_ages}
        name = pool or POOL
        yield connection, read(connection, name, protected=protected, ages=ages, accept=accept)


@contextmanager
def _connected(connect: str | None, *, here: bool) -> Iterator[Any]:
    uri = carrying.uri_of(connect)
    from xmlkit.observe import is_local

    if here and not is_local(uri):
        raise click.ClickException("images are removed on the host itself: run prune there")
    with signals.reading(uri, write=True) as connection:
        yield connection


def _protected(given: Sequence[str]) -> Mapping[str, str]:
    """What --protect names: images, or files that list them. Raises UsageError, FileError."""
    from xmlkit.cache import protected_name
    from xmlkit.cli import files

    found: dict[str, str] = {}
    for text in given:
        name = protected_name(text)
        if name is not None and "/" not in text:
            found[name] = "--protect"
            continue
        data = files.read(text, _LISTED)
        if len(data) > _LISTED:
            raise files.FileError(f"{text} is larger than {_LISTED >> 20} MiB: no list of images")
        if not data.strip():
            # of a host that did not answer: all that it uses would go
            raise files.FileError(
                f"{text} is empty: it would protect nothing; list the images anew"
            )
        names = _json_names(text, data) if data.lstrip()[:1] == b"{" else _lines(text, data)
        found |= dict.fromkeys(names, text)
    return found


def _lines(file: str, data: bytes) -> Iterator[str]:
    from xmlkit.cache import protected_name
    from xmlkit.cli import files

    for number, line in enumerate(data.decode(errors="replace").split("\n"), 1):
        if not (text := line.strip()) or text.startswith("#"):
            continue
        name = protected_name(text)
        if name is None:
            # passed over it would protect nothing, and nobody would know
            raise files.FileError(
                f"{file}:{number}: not an image of the cache: {text!r}; write its name or path "
                "there, or its id in Glance"
            )
        yield name


def _json_names(file: str, data: bytes) -> Iterator[str]:
    """What another host's cache list --format json says of images that are used there."""
    from xmlkit.cache import SCHEMA
    from xmlkit.cli import files

    try:
        listed = json.loads(data)
        if listed["schema"] != SCHEMA:
            raise ValueError
        unused = ("cache-unused", "cache-young")
        for base in listed["bases"]:
            if base["id"] not in unused:
                yield str(base["name"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise files.FileError(
            f"{file} is not {SCHEMA}: make it there with xmlkit cache list --format json"
        ) from None


def _print_json(
    cache: Cache, *, only: str = "", done: Sequence[Pruned] = (), dry_run: bool | None = None
) -> None:
    from xmlkit.cache import as_data

    data = as_data(cache)
    if only:
        data["bases"] = [base for base in data["bases"] if base["verdict"] == only]
    if dry_run is not None:
        data["dry_run"] = dry_run
        data["pruned"] = [
            {
                "name": each.base.name,
                "state": each.state,
                "id": each.id or None,
                "message": each.message or None,
            }
            for each in done
        ]
    click.echo(json.dumps(data, indent=2))


def _table(bases: Sequence[Base]) -> None:
    from xmlkit.cache import time_of
    from xmlkit.cli.table import table

    head = ("IMAGE", "KIND", "SIZE", "AGE", "USES", "VERDICT", "WHY")
    rows = [
        (
            base.name,
            base.kind,
            "-" if base.size is None else carrying.size(base.size),
            "-" if base.age is None else time_of(base.age),
            str(len(base.used_by)),
            base.verdict,
            f"{base.reason.id}: {base.reason.message}",
        )
        for base in bases
    ]
    table(head, rows, text=True, name=_NAME)


def _tell_plan(cache: Cache) -> None:
    """What will be removed, and what is left because of doubt; on stderr."""
    for base in cache.removable:
        about = f"{base.kind}, {carrying.size(base.size or 0)}, {base.reason.message}"
        click.echo(carrying.line(f"{base.path}  {about}"), err=True)
    doubtful = [base for base in cache.bases if base.reason.id == "cache-doubt"]
    if doubtful:
        why = doubtful[0].reason.message
        click.echo(carrying.line(f"{len(doubtful)} kept: cache-doubt: {why}"), err=True)


def _tell_broken(cache: Cache) -> None:
    for use in cache.broken:
        assert use.fault is not None
        title = f"{use.title}: " if use.domain else ""
        click.echo(carrying.line(f"{use.fault.id}: {title}{use.fault.message}"), err=True)


def _tree(cache: Cache) -> None:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    # where nobody looks at it a line is never broken: names are searched for
    width = None if sys.stdout.isatty() else 1 << 16
    console = Console(highlight=False, width=width)
    root = Tree(Text(carrying.line(f"{cache.pool}  {cache.path}"), overflow="fold"))
    for base in cache.bases:
        size = "" if base.size is None else f"{carrying.size(base.size)}, "
        about = f"{base.kind}, {size}{base.verdict}"
        node = root.add(Text(carrying.line(f"{base.name}  {about}"), overflow="fold"))
        below: dict[tuple[str, ...], Any] = {(): node}
        for use in base.used_by:
            # from the base up: what lies between is shown once, for all that stand on it
            paths = [image.path for image in use.images]
            at = paths.index(base.path) if base.path in paths else len(paths) - 1
            above = tuple(reversed(paths[1:at]))
            for end in range(1, len(above) + 1):
                if above[:end] not in below:
                    label = Text(carrying.line(_short(above[end - 1])), overflow="fold")
                    below[above[:end]] = below[above[: end - 1]].add(label)
            below[above].add(Text(carrying.line(_user(use)), overflow="fold"))
    console.print(root)


def _user(use: Use) -> str:
    top = _short(use.images[0].path)
    if not use.domain:
        return f"{top}  ({use.where})"
    return f"{use.title}  {top}" if len(use.images) > 1 else use.title


def _short(path: str) -> str:
    """The name of an image; of one in an instance's directory, with that."""
    from xmlkit.names import split_instance_path

    found = split_instance_path(path)
    return os.path.basename(path) if found is None else "/".join(found)
