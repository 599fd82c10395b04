"""Waiting for libvirt: for guests to be shut off, at their own leisure, and for busy pools.

Laws
- libvirt's events say when; its list of active domains is asked as well, since libvirtd ends a
  guest that it cannot reach after its own restart without an event.
- Nothing is held while it waits but a connection: no lock, no image. One that is lost, as when
  libvirtd is restarted, is opened again.
- It ends when all have been told, when the time is over, or by an exception of the caller.
- Only a pool that may be busy is asked again; any other error comes through at once.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import libvirt

from xmlkit.observe import LibvirtError, opened

__all__ = ["refresh", "shut_off"]

ASK_EVERY = 5.0  # seconds between two looks at the list
BUSY = 10.0  # seconds that a pool in which volumes are being built is asked again
AWAY = 300.0  # seconds that libvirtd may take to come back


def shut_off(uri: str, uuids: set[str], *, seconds: float | None = None) -> Iterator[str]:
    """The UUIDs of the domains, each as soon as it is shut off.

    seconds: give up after so many; None never. A domain that is undefined meanwhile is told as
    well: whoever looks finds it gone. Raises LibvirtError if libvirt stays away.
    """
    waiting = set(uuids)
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    answered = time.monotonic()
    libvirt.virEventRegisterDefaultImpl()
    # without it a quiet host would keep the loop from looking at the list and at the clock
    timer = libvirt.virEventAddTimeout(1000, lambda *_: None, None)
    try:
        while waiting and time.monotonic() < deadline:
            try:
                # only a connection that is opened after the loop is there has events
                with opened(uri) as connection:
                    for told in _told(connection, waiting, deadline):
                        for uuid in sorted(told):
                            waiting.discard(uuid)
                            yield uuid
                        answered = time.monotonic()
            except LibvirtError:
                if time.monotonic() - answered > AWAY:
                    raise
                time.sleep(1)
    finally:
        libvirt.virEventRemoveTimeout(timer)


def _told(connection: Any, waiting: set[str], deadline: float) -> Iterator[set[str]]:
    """Those of `waiting` that are found to be off, again and again until none is waited for."""
    fired: set[str] = set()
    callback = connection.domainEventRegisterAny(
        None,
        libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
        lambda _, domain, event, *rest: _note(fired, domain, event),
        None,
    )
    looked = -math.inf
    try:
        while waiting and time.monotonic() < deadline:
            if time.monotonic() - looked >= ASK_EVERY:
                looked = time.monotonic()
                active = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
                fired |= waiting - {domain.UUIDString() for domain in active}
            yield fired & waiting
            fired.clear()
            if waiting:
                libvirt.virEventRunDefaultImpl()
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            connection.domainEventDeregisterAny(callback)


def refresh(pool: Any, *, seconds: float = BUSY) -> None:
    """Have libvirt look at a pool anew; again while it builds volumes there, for it does not wait.

    pool: of libvirt-python. seconds: how long it is asked again.
    Raises libvirtError: it is still busy, or something else is wrong.
    Source: storagePoolRefresh, libvirt 9.0.0. Busy is code 1, which is much else too; its words
    may be translated, so they are not looked at. Seen on 7.0 to 12.8.
    """
    started = time.monotonic()
    while True:
        try:
            pool.refresh(0)
            return
        except libvirt.libvirtError as error:
            # a connection that is lost says so with code 1 too
            if error.get_error_code() != libvirt.VIR_ERR_INTERNAL_ERROR or not _is_alive(pool):
                raise
            if time.monotonic() - started > seconds:
                raise
        time.sleep(0.1)


def _is_alive(pool: Any) -> bool:
    with contextlib.suppress(libvirt.libvirtError):
        return bool(pool.connect().isAlive())
    return False


def _note(fired: set[str], domain: Any, event: int) -> None:
    if event in (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED):
        fired.add(domain.UUIDString())
