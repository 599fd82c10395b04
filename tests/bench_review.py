"""Benchmark: the review page of 1,000 domains: making it, opening it, filtering it.

Rules
- One run: domains of three moved disks each, written by the same function that `xmlkit diff`
  calls, opened from a file in Debian's Chromium.
- A filter is timed in the browser, from the event of the key to the layout that follows.
- Exit code: 0 all goals reached, 1 one missed. `--quick`: a tenth of the domains.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median
from typing import Any

from browser import chromium
from selenium import webdriver

from xmlkit.diff import preview
from xmlkit.document import Document
from xmlkit.host import Host, Pool
from xmlkit.plan import plan
from xmlkit.review import html, review

DOMAINS = 1_000
FILTERED = 500.0  # milliseconds
FIXTURE = Path(__file__).parents[1] / "fixtures/nova/qcow2-ephemeral-swap.xml"
UUID = "3f2c1c8e-0d4b-4a7e-9b1a-6d5f0e9c7a11"
HOST = Host(pools=(Pool("nova-disks-pool", "dir", "/var/lib/nova/instances/disks"),))
TYPED = ("i", "instance", "instance-000000", "instance-0000001f", "", "vdb cinder", "nowhere", "")
FILTER = """
const [text, done] = arguments, field = document.getElementById("text");
const start = performance.now();
field.value = text;
field.dispatchEvent(new Event("input", { bubbles: true }));
requestAnimationFrame(() => {
  document.body.getBoundingClientRect();
  done(performance.now() - start);
});
"""


def main() -> int:
    """Make the page, open it, type, print a table."""
    parser = argparse.ArgumentParser(description="Measure the review page.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the domains")
    count = DOMAINS // 10 if parser.parse_args().quick else DOMAINS
    start = time.perf_counter()
    text = page(count)
    took = time.perf_counter() - start
    print(f"a page of {count:,} domains made     {took:8.2f} s {len(text) / 1e6:8.1f} MB")
    with tempfile.TemporaryDirectory() as directory, chromium() as browser:
        file = Path(directory) / "review.html"
        file.write_text(text)
        start = time.perf_counter()
        browser.get(file.as_uri())
        print(f"opened                          {time.perf_counter() - start:8.2f} s")
        closed = filtered(browser)
        browser.execute_script("document.getElementById('open').click()")
        opened = filtered(browser)
    for name, each in (("all closed", closed), ("all open", opened)):
        print(f"filtered, {name:<12}          {median(each):8.0f} ms, at most {max(each):.0f} ms")
    return int(max(closed) > FILTERED)


def page(count: int) -> str:
    """The page of so many domains, each with a UUID of its own."""
    source = FIXTURE.read_text()
    reviews = []
    for number in range(count):
        own = str(uuid.UUID(int=number))
        document = Document.parse(
            source.replace(UUID, own).replace("instance-00000001", f"instance-{number:08x}")
        )
        decided = plan(document, HOST, relocate={None: "nova-disks-pool"})
        reviews.append(review(preview(f"{number}.xml", document, decided)))
    return html(reviews, to="volume", host=HOST, at="now", version="0")


def filtered(browser: webdriver.Chrome) -> list[float]:
    """Milliseconds that each of TYPED takes."""
    browser.set_script_timeout(120)
    found: list[Any] = [browser.execute_async_script(FILTER, text) for text in TYPED]
    return found


if __name__ == "__main__":
    raise SystemExit(main())
