"""The host that a command plans for, and the options that say how to plan."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import click

from xmlkit import names
from xmlkit.cli import files
from xmlkit.cli.options import RELOCATE, TO
from xmlkit.document import MIB, Document, DocumentError, Limits
from xmlkit.errors import XmlkitError
from xmlkit.host import HOST_LIMITS, Host, HostError, parse_host, parse_pool_option, version_of
from xmlkit.plan import KINDS, Plan, PlanError, check_pools, plan

__all__ = [
    "ACCEPTABLE",
    "PLANNING",
    "Planner",
    "host_of",
    "host_options",
    "planner",
    "relocations",
    "source_options",
]

# The parameters of host_options that a plan has decided already.
PLANNING = (
    "to",
    "pools",
    "host_file",
    "connect",
    "relocate",
    "assume_libvirt",
    "live",
    "accept",
)

# Reasons that an operator may accept.
ACCEPTABLE = ("apparmor",)

_NO_SOURCE = (
    "which host? Say --connect URI (or set LIBVIRT_DEFAULT_URI) to ask libvirt, --host FILE for "
    "what xmlkit observe wrote, or --pool NAME=PATH for each pool"
)


# Where the host is to be had from.
_SOURCES = (
    click.option(
        "--pool",
        "pools",
        metavar="NAME=[TYPE:]PATH",
        multiple=True,
        help="A pool of the host (TYPE dir without one); its volumes are not verified.",
    ),
    click.option(
        "--host", "host_file", metavar="FILE", help="The host, as xmlkit observe wrote it."
    ),
    click.option(
        "--connect",
        metavar="URI",
        help="Ask libvirt at URI; without any of the three, $LIBVIRT_DEFAULT_URI.",
    ),
)


def host_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that plans; their values come as keyword arguments."""
    taken = (
        TO,
        *_SOURCES,
        RELOCATE,
        click.option(
            "--assume-libvirt", metavar="VERSION", help="Plan as if libvirt had this version."
        ),
        click.option("--live", is_flag=True, help="The document is a migration's destination XML."),
        click.option(
            "--accept",
            type=click.Choice(ACCEPTABLE),
            metavar="ID",
            multiple=True,
            help="A reason that shall not stand in the way.",
        ),
    )
    function = files.limit_options(function)
    for option in reversed(taken):
        function = option(function)
    return function


def source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say the host alone, for commands that need no plan."""
    assumed = click.option(
        "--assume-libvirt", metavar="VERSION", help="As if libvirt had this version."
    )
    for option in reversed((*_SOURCES, assumed)):
        function = option(function)
    return function


def host_of(
    pools: tuple[str, ...], host_file: str | None, connect: str | None, assume_libvirt: str | None
) -> Host | None:
    """The host that `source_options` say, None if none is said and $LIBVIRT_DEFAULT_URI is not set.

    Raises HostError, and what reading the host raises.
    """
    given = [name for name, value in _sources(pools, host_file, connect) if value]
    if not given and not os.environ.get("LIBVIRT_DEFAULT_URI"):
        return None if assume_libvirt is None else _assumed(Host(), assume_libvirt)
    bounds = Limits()
    options = {f"max_{name}": getattr(bounds, name) for name in ("depth", "markup")}
    with planner(
        to="volume",
        pools=pools,
        host_file=host_file,
        connect=connect,
        relocate=(),
        assume_libvirt=assume_libvirt,
        live=False,
        accept=(),
        max_size=bounds.size // MIB,
        **options,
    ) as planned:
        return planned.host


class Planner:
    """The host and the options of one call."""

    def __init__(self, host: Host, bounds: Limits, options: dict[str, Any], connection: Any):
        self.host = host
        self.bounds = bounds
        self._options = options
        self.connection = connection

    def documents(self, arguments: tuple[str, ...]) -> Iterator[tuple[str, Document | XmlkitError]]:
        """Each FILE or DOMAIN with its document, or with what kept it from being read.

        With --connect an argument is a domain unless it is "-", has a "/" or ends in ".xml".
        """
        for argument in arguments:
            try:
                yield argument, self.document(argument)
            except XmlkitError as error:
                yield argument, error

    def plan(self, document: Document, file: str) -> Plan:
        """The plan for a domain. Raises PlanError with the file's name."""
        try:
            return plan(document, self.host, **self._options)
        except PlanError as error:
            raise PlanError(f"{file}: {error}") from None

    def is_file(self, argument: str) -> bool:
        """Whether an argument is a file, and no domain of the connection."""
        named = argument == "-" or "/" in argument or argument.endswith(".xml")
        return self.connection is None or named

    def domains(self) -> list[str]:
        """The UUIDs of all domains of the connection."""
        found = self.connection.listAllDomains()
        return [each.UUIDString() for each in sorted(found, key=lambda each: str(each.name()))]

    def document(self, argument: str) -> Document:
        """The document of a FILE or DOMAIN. Raises what reading it raises."""
        if self.is_file(argument):
            return files.read_document(argument, self.bounds)
        from xmlkit.observe import domain_xml

        return Document.parse(domain_xml(self.connection, argument), self.bounds)


@contextmanager
def planner(
    *,
    to: str,
    pools: tuple[str, ...],
    host_file: str | None,
    connect: str | None,
    relocate: tuple[str, ...],
    assume_libvirt: str | None,
    live: bool,
    accept: tuple[str, ...],
    max_size: int,
    max_depth: int,
    max_markup: int,
) -> Iterator[Planner]:
    """The planner that the options of `host_options` say.

    Raises HostError, PlanError for a pool to relocate to that the host has not, and what reading
    the host raises.
    """
    given = [name for name, value in _sources(pools, host_file, connect) if value]
    if len(given) > 1:
        raise HostError(f"{' and '.join(given)} both say what the host is: give one")
    if relocate and to == "path":
        raise HostError("--relocate moves disks into pools: it goes with --to volume")
    bounds = files.limits(max_size, max_depth, max_markup)
    options: dict[str, Any] = {
        "to": to,
        "relocate": relocations(relocate),
        "live": live,
        "accept": accept,
    }
    uri = connect or (None if given else os.environ.get("LIBVIRT_DEFAULT_URI"))
    if uri:
        from xmlkit.cli.signals import reading
        from xmlkit.observe import observe

        with reading(uri) as connection:
            observed = parse_host(observe(connection), replace(HOST_LIMITS, markup=1 << 30))
            host = _assumed(observed, assume_libvirt)
            check_pools(options["relocate"].values(), host.by_name)
            yield Planner(host, bounds, options, connection)
        return
    if host_file:
        host = _host_of(host_file, bounds)
    elif pools:
        host = _host_of_pools(pools)
    else:
        raise HostError(_NO_SOURCE)
    check_pools(options["relocate"].values(), host.by_name)
    yield Planner(_assumed(host, assume_libvirt), bounds, options, None)


def _sources(
    pools: tuple[str, ...], host_file: str | None, connect: str | None
) -> tuple[tuple[str, Any], ...]:
    return ("--pool", pools), ("--host", host_file), ("--connect", connect)


def _host_of(file: str, bounds: Limits) -> Host:
    bounds = replace(bounds, markup=max(bounds.markup, HOST_LIMITS.markup))
    try:
        return parse_host(files.read(file, bounds.size), bounds)
    except DocumentError as error:
        error.file = file
        raise
    except HostError as error:
        raise HostError(f"{file}: {error}") from None


def _host_of_pools(given: tuple[str, ...]) -> Host:
    pools = tuple(map(parse_pool_option, given))
    for pool in pools:
        if fault := names.fault_of_pool_name(pool.name):
            raise HostError(f"{pool.name!r} cannot name a pool: {fault}")
    for pool in pools:
        for other in pools:
            if other is not pool and other.name == pool.name:
                raise HostError(f"two pools named {pool.name!r}")
            one_a_path = pool.type in ("dir", "fs", "netfs", "logical")
            if other is not pool and other.path == pool.path and one_a_path:
                raise HostError(f"two pools on {pool.path}: libvirt has one pool a directory")
    return Host(pools=pools)


def _assumed(host: Host, version: str | None) -> Host:
    return host if version is None else replace(host, libversion=version_of(version))


def relocations(given: tuple[str, ...]) -> dict[str | None, str]:
    """What --relocate says: pools by kind of disk, None for the rest. Raises HostError."""
    relocations: dict[str | None, str] = {}
    for text in given:
        before, equals, after = text.partition("=")
        kind, pool = (before, after) if equals else (None, text)
        if kind is not None and kind not in KINDS:
            raise HostError(f"not a kind of disk: {kind!r} in {text!r}; it is {', '.join(KINDS)}")
        if not pool:
            raise HostError(f"no pool in --relocate {text!r}; write POOL or KIND=POOL")
        if kind in relocations:
            raise HostError(f"--relocate names two pools for {kind or 'the rest'}")
        relocations[kind] = pool
    return relocations
