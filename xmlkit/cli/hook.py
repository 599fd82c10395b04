"""xmlkit hook: what /etc/libvirt/hooks/qemu calls at the destination of a migration."""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from xmlkit.cli import SECONDS, printable
from xmlkit.errors import XmlkitError

if TYPE_CHECKING:
    from xmlkit.hook import Passed

# Bytes of a domain's XML, and of a host file.
XML_SIZE = 16 << 20
HOST_SIZE = 256 << 20


class HookError(XmlkitError):
    """The XML is not rewritten, or not printed; the message says why."""


class _LateError(Exception):
    """The time is over."""


@click.command(name="hook")
@click.option(
    "--host",
    "host_file",
    metavar="FILE",
    required=True,
    help="This host, as xmlkit observe wrote it; root's, and writable by nobody else.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Refuse the migration where the XML would otherwise pass through unchanged.",
)
@click.option(
    "--timeout",
    type=SECONDS,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="libvirt waits for the hook, and the guest with it.",
)
@click.argument("arguments", metavar="DOMAIN OPERATION PHASE EXTRA", nargs=-1)
def command(host_file: str, strict: bool, timeout: float, arguments: tuple[str, ...]) -> int:
    """Rewrite the XML of a domain that migrates to this host onto volumes that are here already.

    It is called by libvirt's hook with the hook's own arguments, reads the XML on stdin and
    prints what the domain shall have here; for all but "migrate begin" it prints nothing. A disk
    whose volume is not listed in FILE, or is not a second name of its image, keeps its path, and
    whatever is unexpected passes the XML through; the reason is logged (syslog, daemon). The
    persistent XML is not changed by a hook: keep the old names until the domain has been defined
    anew (xmlkit apply --arrived).

    \b
    Exit code: 0; 1, and libvirt then refuses the migration, if a part of the XML
    was printed and not the rest, and with --strict if a disk keeps its path or
    anything went wrong.

    \b
    Example, as /etc/libvirt/hooks/qemu:
        #!/bin/sh
        [ "$2 $3" = "migrate begin" ] || exit 0
        exec xmlkit hook --host /etc/libvirt/hooks/host.xml -- "$@"
    """
    if len(arguments) < 3:
        _log(
            'libvirt gives a hook four arguments, and this one has fewer: end its line with -- "$@"'
        )
        return int(strict)
    if arguments[1:3] != ("migrate", "begin"):
        return 0
    name = arguments[0]
    end = time.monotonic() + timeout
    xml = out = b""
    rewritten: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    try:
        # printing nothing, as long as not all of it was read, leaves the XML as it is
        xml = out = _received(end)
        out, rewritten, reasons = _within(end, lambda: _rewritten(xml, host_file))
    except _LateError:
        reasons = (f"it took longer than {timeout:g} s",)
    except (XmlkitError, OSError) as error:
        reasons = (str(error),)
    except Exception as error:
        # whatever it is, it is not worth a guest
        reasons = (f"internal error: {type(error).__name__}: {error}",)
    for reason in reasons:
        _log(f"{name}: {reason}")
    if reasons and strict:
        return 1
    try:
        _print(out)
    except HookError as error:
        _log(f"{name}: {error}")
        return 1
    except OSError as error:
        # of nothing libvirt makes the XML as it is
        _log(f"{name}: cannot write to stdout: {error.strerror}")
        return int(strict)
    if rewritten:
        _log(f"{name}: on volumes now: {', '.join(rewritten)}")
    return 0


def _received(end: float) -> bytes:
    """All that comes on stdin. Raises _LateError, HookError if it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        if not select.select([0], [], [], max(0.0, end - time.monotonic()))[0]:
            raise _LateError
        part = os.read(0, 1 << 20)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > XML_SIZE:
            raise HookError(f"the XML is larger than {XML_SIZE >> 20} MiB")
        if time.monotonic() > end:
            raise _LateError


def _print(out: bytes) -> None:
    """Write all of it. Raises OSError if nothing could be written, HookError if a part was."""
    written = 0
    try:
        while written < len(out):
            written += os.write(sys.stdout.fileno(), out[written:])
    except OSError as error:
        if not written:
            raise
        raise HookError(f"{written} bytes were written to stdout: {error.strerror}") from None


def _within(end: float, work: Callable[[], Passed]) -> Passed:
    """What `work` returns, done by a child: a parser at work would hear of no time limit.

    Raises _LateError, HookError with what the child could not do.
    """
    import json

    from xmlkit.hook import Passed

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            # its default: the end, at once
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, max(0.001, end - time.monotonic()))
            try:
                xml, rewritten, reasons = work()
                answer = json.dumps([xml.decode("latin-1"), rewritten, reasons])
            except (XmlkitError, OSError) as error:
                answer = json.dumps(str(error))
            except Exception as error:
                answer = json.dumps(f"internal error: {type(error).__name__}: {error}")
            with open(writing, "wb") as pipe:
                pipe.write(answer.encode("ascii"))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answered = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGALRM:
        raise _LateError
    if code != 0:
        raise HookError(f"internal error: the child ended with {code}")
    found = json.loads(answered)
    if isinstance(found, str):
        raise HookError(found)
    xml, rewritten, reasons = found
    return Passed(xml.encode("latin-1"), tuple(rewritten), tuple(reasons))


def _rewritten(xml: bytes, host_file: str) -> Passed:
    from dataclasses import replace

    from xmlkit.hook import incoming
    from xmlkit.host import HOST_LIMITS, parse_host
    from xmlkit.images import is_linked

    host = parse_host(_trusted(host_file), replace(HOST_LIMITS, size=HOST_SIZE, markup=1 << 30))
    return incoming(xml, host, is_linked)


def _trusted(file: str) -> bytes:
    """The host file's bytes. Raises HookError if another than root could have written it."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise HookError(f"cannot read {file}: {error.strerror}") from None
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise HookError(f"{file} is not a regular file")
        if facts.st_uid not in (0, os.geteuid()) or facts.st_mode & 0o022:
            raise HookError(f"{file} could have been written by others: chown root, chmod go-w")
        with open(handle, "rb", closefd=False) as stream:
            return stream.read(HOST_SIZE + 1)
    finally:
        os.close(handle)


def _log(message: str) -> None:
    """On stderr, and in the system's log: libvirt drops the stderr of a hook that succeeds."""
    import syslog

    # a name may be any bytes
    text = printable(message).encode(errors="backslashreplace").decode()
    with suppress(OSError, ValueError):
        # not by print: what a full stderr does not take would be tried again, and fail, at the end
        os.write(sys.stderr.fileno(), f"xmlkit hook: {text}\n".encode())
    syslog.openlog("xmlkit", 0, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_NOTICE, f"hook: {text}")
