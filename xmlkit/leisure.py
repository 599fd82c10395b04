"""Waiting for libvirt: for guests to be shut off, at their own leisure, and for busy pools.

Laws
- libvirt's events say when; its list of inactive domains is asked as well, since libvirtd ends a
  guest that it cannot reach after its own restart without an event.
- Nothing is held while it waits but a connection: no lock, no image.
- It ends when all have been told, when the time is over, or by an exception of the caller.
- Only a pool that may be busy is asked again; any other error comes through at once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import libvirt

__all__ = ["refresh", "shut_off"]

ASK_EVERY = 5.0  # seconds between two looks at the list
UNCLEAR = 10.0  # seconds for a pool that does not say in English that it is busy


def shut_off(uri: str, uuids: set[str], *, seconds: float | None = None) -> Iterator[str]:
    """The UUIDs of the domains, each as soon as it is shut off.

    seconds: give up after so many; None never. A domain that is undefined meanwhile is told as
    well: whoever looks finds it gone. Raises libvirtError if the connection is lost.
    """
    waiting = set(uuids)
    fired: set[str] = set()
    libvirt.virEventRegisterDefaultImpl()

    # without it a quiet host would keep the loop from looking at the list and at the clock
    timer = libvirt.virEventAddTimeout(1000, lambda *_: None, None)
    # only a connection that is opened after the loop is there has events
    connection = libvirt.openReadOnly(uri)
    callback = connection.domainEventRegisterAny(
        None,
        libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
        lambda _, domain, event, *rest: _note(fired, domain, event),
        None,
    )
    deadline = None if seconds is None else time.monotonic() + seconds
    looked = -ASK_EVERY
    try:
        while waiting and (deadline is None or time.monotonic() < deadline):
            if time.monotonic() - looked >= ASK_EVERY:
                looked = time.monotonic()
                active = {
                    domain.UUIDString()
                    for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
                }
                fired |= waiting - active
            for uuid in sorted(fired & waiting):
                waiting.discard(uuid)
                yield uuid
            fired.clear()
            if waiting:
                libvirt.virEventRunDefaultImpl()
    finally:
        libvirt.virEventRemoveTimeout(timer)
        with contextlib.suppress(libvirt.libvirtError):
            connection.domainEventDeregisterAny(callback)
        connection.close()


def refresh(pool: Any, *, seconds: float) -> None:
    """Have libvirt look at a pool anew; again while it builds volumes there, for it does not wait.

    pool: of libvirt-python. seconds: how long it is asked again.
    Raises libvirtError: it is still busy, or something else is wrong.
    Source: storagePoolRefresh, libvirt 9.0.0. Busy is code 1, which is much else too, and words
    that may be translated; seen on 7.0 to 12.8.
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
            sure = "asynchronous jobs" in str(error.get_error_message())
            if time.monotonic() - started > (seconds if sure else min(seconds, UNCLEAR)):
                raise
        time.sleep(0.1)


def _is_alive(pool: Any) -> bool:
    with contextlib.suppress(libvirt.libvirtError):
        return bool(pool.connect().isAlive())
    return False


def _note(fired: set[str], domain: Any, event: int) -> None:
    if event in (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED):
        fired.add(domain.UUIDString())
