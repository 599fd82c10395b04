"""A headless Chromium for tests and benchmarks: Debian's, which asks no network for anything."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

# As root Chromium has no sandbox; a container has a small /dev/shm.
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"),
    *("--disable-background-networking", "--window-size=1280,900"),
)


class BrowserMissingError(Exception):
    """There is no Chromium; the message says how to get it."""


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser without a window, that logs its console and its requests.

    Raises BrowserMissingError.
    """
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        raise BrowserMissingError("apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for each in OPTIONS:
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield started
    finally:
        started.quit()


def logged(browser: webdriver.Chrome, kind: str) -> list[Any]:
    """What the browser has logged since it was asked last."""
    found: list[Any] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return found
