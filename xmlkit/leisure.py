"""Waiting for guests to be shut off, at their own leisure.

Laws
- libvirt's events say when; its list of inactive domains is asked as well, since libvirtd ends a
  guest that it cannot reach after its own restart without an event.
- Nothing is held while it waits but a connection: no lock, no image.
- It ends when all have been told, when the time is over, or by an exception of the caller.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import libvirt

__all__ = ["shut_off"]

ASK_EVERY = 5.0  # seconds between two looks at the list


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


def _note(fired: set[str], domain: Any, event: int) -> None:
    if event in (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED):
        fired.add(domain.UUIDString())
