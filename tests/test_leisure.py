"""Guests are told when they are shut off, however that comes about.

Rules
- Real guests on a real libvirtd; who waits is a generator in this process.
- What happens is done after it has begun to wait, from another connection.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import libvirt
import pytest
from scene import Scene, until

from xmlkit import leisure
from xmlkit.observe import LibvirtError

SECONDS = 120.0


class Loop(threading.Thread):
    """libvirt's event loop, run on: once it is registered, no connection of this process is closed
    without it, and the tests that come later would run out of files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over = False
        self.timer = libvirt.virEventAddTimeout(100, lambda *_: None, None)

    def run(self) -> None:
        while not self.over:
            libvirt.virEventRunDefaultImpl()

    def end(self) -> None:
        self.over = True
        self.join()
        libvirt.virEventRemoveTimeout(self.timer)


LOOPS: list[Loop] = []


@pytest.fixture(autouse=True, scope="module")
def loop() -> Iterator[None]:
    """While these tests run it is theirs; a worker may come back to them."""
    while LOOPS:
        LOOPS.pop().end()
    yield
    libvirt.virEventRegisterDefaultImpl()
    LOOPS.append(Loop())
    LOOPS[0].start()


@pytest.fixture
def later() -> Iterator[Callable[..., Future[Any]]]:
    """Call a function in a second, in a thread, while the test waits for its effect."""
    with ThreadPoolExecutor(1) as pool:

        def call(function: Callable[[], Any]) -> Future[Any]:
            def run() -> None:
                time.sleep(1)
                function()

            return pool.submit(run)

        yield call


def running(scene: Scene, name: str) -> Any:
    domain = scene.nova_guest(name)
    domain.create()
    return domain


def test_who_is_off_already_is_told_at_once(scene: Scene) -> None:
    """Without any event."""
    domain, other = scene.nova_guest("off"), running(scene, "on")
    uuids = {domain.UUIDString(), other.UUIDString()}

    assert domain.UUIDString() == next(leisure.shut_off(scene.libvirtd.uri, uuids, seconds=SECONDS))


def test_nobody_to_wait_for_is_the_end(scene: Scene) -> None:
    """Not even a connection is needed."""
    assert [] == list(leisure.shut_off("qemu+unix:///system?socket=/nowhere", set()))


def test_each_is_told_when_it_is_shut_off(
    scene: Scene, later: Callable[..., Future[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By libvirt's event, in the order in which they end, those that are waited for alone."""
    monkeypatch.setattr(leisure, "ASK_EVERY", 1e9)
    first, second, other = (running(scene, name) for name in ("first", "second", "other"))
    uuids = {first.UUIDString(), second.UUIDString()}
    told = leisure.shut_off(scene.libvirtd.uri, uuids, seconds=SECONDS)
    later(other.destroy)
    later(second.destroy)
    assert second.UUIDString() == next(told)
    later(first.destroy)

    assert [first.UUIDString()] == list(told)


def test_a_domain_that_is_undefined_is_told(
    scene: Scene, later: Callable[..., Future[Any]]
) -> None:
    """Who looks finds it gone."""
    domain = running(scene, "guest")
    uuid = domain.UUIDString()

    def end() -> None:
        domain.undefine()  # it runs on, as a transient domain
        domain.destroy()

    done = later(end)
    assert [uuid] == list(leisure.shut_off(scene.libvirtd.uri, {uuid}, seconds=SECONDS))
    done.result()


def test_it_ends_when_the_time_is_over(scene: Scene) -> None:
    """With nobody told."""
    domain = running(scene, "guest")
    begun = time.monotonic()

    uuids = {domain.UUIDString()}
    assert [] == list(leisure.shut_off(scene.libvirtd.uri, uuids, seconds=2))
    assert time.monotonic() - begun >= 2
    assert domain.isActive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_libvirtd_that_is_restarted_is_waited_for(
    scene: Scene, later: Callable[..., Future[Any]], number: signal.Signals
) -> None:
    """Its guests go on meanwhile, and are told when they are off."""
    domain = running(scene, "guest")
    uuid = domain.UUIDString()

    def restart_and_stop() -> None:
        scene.libvirtd.restart(number)
        time.sleep(2)
        scene.reopen()
        until(lambda: ended(scene, uuid))

    done = later(restart_and_stop)
    assert [uuid] == list(leisure.shut_off(scene.libvirtd.uri, {uuid}, seconds=SECONDS))
    done.result()


def test_a_guest_that_ends_while_libvirtd_is_away_is_told(
    scene: Scene, later: Callable[..., Future[Any]]
) -> None:
    """There is no event of it: the list of active domains says so."""
    domain = running(scene, "guest")
    uuid = domain.UUIDString()
    pid = qemu(scene, "guest")

    def end() -> None:
        scene.libvirtd.restart(signal.SIGKILL, lambda: os.kill(pid, signal.SIGKILL))

    done = later(end)
    assert [uuid] == list(leisure.shut_off(scene.libvirtd.uri, {uuid}, seconds=SECONDS))
    done.result()


def test_a_libvirtd_that_stays_away_is_trouble(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line."""
    monkeypatch.setattr(leisure, "AWAY", 2.0)
    domain = running(scene, "guest")
    told = leisure.shut_off(scene.libvirtd.uri, {domain.UUIDString(), "other"}, seconds=SECONDS)
    assert "other" == next(told)
    scene.libvirtd.stop()

    with pytest.raises(LibvirtError, match="cannot connect to qemu"):
        list(told)


def ended(scene: Scene, uuid: str) -> bool:
    """Pull the plug; libvirtd may still be connecting to the guest, and refuse or give an error."""
    with contextlib.suppress(libvirt.libvirtError):
        domain = scene.connection.lookupByUUIDString(uuid)
        with contextlib.suppress(libvirt.libvirtError):
            domain.destroy()
        return not domain.isActive()
    return False


def qemu(scene: Scene, name: str) -> int:
    """The process of a guest."""
    for path in os.listdir("/proc"):
        if path.isdecimal():
            try:
                with open(f"/proc/{path}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            here = any(str(scene.instances).encode() in word for word in words)
            if here and any(f"guest={name}".encode() in word for word in words):
                return int(path)
    raise AssertionError("it does not run")
