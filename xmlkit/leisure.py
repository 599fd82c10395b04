"""Waiting for guests to be shut off, at their own leisure.

Laws
- libvirt's events say when; its list of active domains is asked as well, since libvirtd ends a
  guest that it cannot reach after its own restart without an event.
- Nothing is held while it waits but a connection: no lock, no image. One that is lost, as when
  libvirtd is restarted, is opened again.
- It ends when all have been told, when the time is over, or by an exception of the caller.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import libvirt

from xmlkit.observe import LibvirtError, opened

__all__ = ["shut_off"]

ASK_EVERY = 5.0  # seconds between two looks at the list
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


def _note(fired: set[str], domain: Any, event: int) -> None:
    if event in (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_UNDEFINED):
        fired.add(domain.UUIDString())
