"""The review page in a real browser, opened from a file as whoever gets it by mail does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from browser import BrowserMissingError, chromium, logged
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from test_review import FIXTURES, GUESTS, HOSTILE, MOVED, UUID, made, text

from xmlkit.review import review

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

SECONDS = 120.0
# Contrast of each text with what is behind it (WCAG 2.2), the least ones.
CONTRAST = """
const part = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
const color = (text) => text.match(/[\\d.]+/g).map(Number);
const found = {};
for (const element of document.querySelectorAll("body *:not(svg *, script)")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility()) continue;
  let behind = element, back;
  do { back = color(getComputedStyle(behind).backgroundColor); behind = behind.parentElement; }
  while (back.length === 4 && back[3] === 0 && behind);
  const lights = [light(back), light(color(getComputedStyle(element).color))].sort((a, b) => b - a);
  const ratio = (lights[0] + 0.05) / (lights[1] + 0.05);
  if (ratio < 4.5) found[element.tagName + "." + element.className] = ratio;
}
return found;
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Chromium without a window."""
    try:
        with chromium() as started:
            yield started
    except BrowserMissingError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of all fixtures, and of one domain of which nothing is harmless."""
    evil = replace(
        review(made(MOVED)), name=HOSTILE[0], title=HOSTILE[1], file=HOSTILE[2], uuid=HOSTILE[3]
    )
    file = tmp_path_factory.mktemp("review") / "review.html"
    file.write_text(text(*(review(made(path)) for path in GUESTS), evil, troubles=HOSTILE))
    return file


@pytest.fixture
def opened(browser: webdriver.Chrome, file: Path) -> webdriver.Chrome:
    """The browser with the page freshly opened, and its logs empty."""
    browser.get("about:blank")
    logged(browser, "browser")
    logged(browser, "performance")
    browser.get(file.as_uri())
    return browser


def shown(browser: webdriver.Chrome) -> list[str]:
    """The names of the domains that are not filtered out."""
    script = (
        "return Array.from(document.querySelectorAll('.domain'))"
        ".filter((e) => e.checkVisibility()).map((e) => e.querySelector('h3').textContent)"
    )
    found: list[str] = browser.execute_script(script)
    return found


def wait_for(browser: webdriver.Chrome, count: int, of: int = len(GUESTS) + 1) -> None:
    """Until the live region says so many, and so many are there."""
    status = browser.find_element(By.ID, "matches")
    said = f"{count:,} of {of:,} shown"
    WebDriverWait(browser, SECONDS).until(lambda _: status.text == said, f"{said}, {status.text}")
    assert count == len(shown(browser))


def requests(browser: webdriver.Chrome) -> list[str]:
    """What has been asked for since the log was read last."""
    messages = [json.loads(each["message"])["message"] for each in logged(browser, "performance")]
    return [
        each["params"]["request"]["url"]
        for each in messages
        if each["method"] == "Network.requestWillBeSent"
    ]


def media(browser: webdriver.Chrome, kind: str = "", scheme: str = "light") -> None:
    """The page as on paper, or in the dark."""
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": kind, "features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )


def test_it_opens_and_asks_for_nothing(opened: webdriver.Chrome, file: Path) -> None:
    """No request but for itself, no word on the console, whatever is clicked."""
    opened.find_element(By.ID, "text").send_keys("vda")
    opened.find_element(By.ID, "open").click()
    opened.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    opened.find_element(By.CSS_SELECTOR, ".domain[open] figcaption a").send_keys(Keys.ENTER)
    opened.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    wait_for(opened, len(GUESTS) + 1)

    assert {file.as_uri()} == {each.partition("#")[0] for each in requests(opened)}
    assert [] == logged(opened, "browser")


def test_names_do_nothing(opened: webdriver.Chrome) -> None:
    """They are there as text, and nothing of them has run."""
    opened.find_element(By.ID, "open").click()

    assert HOSTILE[0] in shown(opened)
    assert opened.execute_script("return window.hacked === undefined")
    assert 1 == len(opened.find_elements(By.TAG_NAME, "script"))


def test_a_script_that_got_in_would_not_run(opened: webdriver.Chrome) -> None:
    """The policy of the page stands behind the escaping: no script, no handler, no image."""
    opened.execute_script(
        "document.body.insertAdjacentHTML('beforeend',"
        ' \'<img src="https://example.invalid/x" onerror="window.hacked = 1">\');'
        "const script = document.createElement('script');"
        "script.textContent = 'window.hacked = 1';"
        "document.body.append(script);"
    )
    said = [each["message"] for each in logged(opened, "browser")]

    assert opened.execute_script("return window.hacked === undefined")
    assert any("script-src" in each for each in said)
    assert any("img-src" in each or "default-src" in each for each in said)


def test_the_search_filters_as_one_types(opened: webdriver.Chrome) -> None:
    """Each word has to be there, in any case; what is left is told."""
    field = opened.find_element(By.ID, "text")
    wait_for(opened, len(GUESTS) + 1)
    both = sum(
        "vda" in (words := review(made(path)).words) and "cinder" in words for path in GUESTS
    )
    assert 0 < both < len(GUESTS)
    field.send_keys("CINDER  vda")
    wait_for(opened, both)
    field.send_keys(" nowhere")
    wait_for(opened, 0)
    assert opened.find_element(By.ID, "nothing").is_displayed()
    opened.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    wait_for(opened, len(GUESTS) + 1)
    assert not opened.find_element(By.ID, "nothing").is_displayed()


def test_states_and_findings_filter(opened: webdriver.Chrome) -> None:
    """Each choice shows as many as are so, and both together what is both."""
    reviews = [review(made(path)) for path in GUESTS] + [review(made(MOVED))]
    state = Select(opened.find_element(By.ID, "state"))
    finding = Select(opened.find_element(By.ID, "id"))
    for value in ("changes", "stays", "refused", "broken"):
        state.select_by_value(value)
        wait_for(opened, sum(each.state == value for each in reviews))
    state.select_by_value("attention")
    wait_for(opened, sum(each.attention for each in reviews))
    state.select_by_value("changes")
    finding.select_by_value("config-drive")
    both = sum(each.state == "changes" and "config-drive" in each.ids for each in reviews)
    assert both > 0
    wait_for(opened, both)
    state.select_by_value("")
    wait_for(opened, sum("config-drive" in each.ids for each in reviews))


def test_it_works_by_keyboard(opened: webdriver.Chrome) -> None:
    """A domain opens and closes; the link past the controls is the first stop."""
    opened.switch_to.active_element.send_keys(Keys.TAB)
    assert "skip" == opened.switch_to.active_element.get_attribute("class")
    assert opened.switch_to.active_element.is_displayed()
    domain = opened.find_element(By.CSS_SELECTOR, ".domain")
    summary, inside = domain.find_element(By.TAG_NAME, "summary"), ".inside"
    assert not domain.find_element(By.CSS_SELECTOR, inside).is_displayed()
    summary.send_keys(Keys.ENTER)
    assert domain.find_element(By.CSS_SELECTOR, inside).is_displayed()
    outline = summary.value_of_css_property("outline-style")
    assert "none" != outline
    summary.send_keys(Keys.SPACE)
    assert not domain.find_element(By.CSS_SELECTOR, inside).is_displayed()


def test_a_finding_leads_to_what_it_means(opened: webdriver.Chrome) -> None:
    """The part that was closed opens, and is in view."""
    field = opened.find_element(By.ID, "text")
    field.send_keys("config-drive")
    opened.find_element(By.ID, "open").click()
    link = opened.find_element(By.CSS_SELECTOR, ".domain[open] .remarks a[href='#id-config-drive']")
    link.send_keys(Keys.ENTER)
    meaning = opened.find_element(By.ID, "id-config-drive")
    script = (
        "const box = arguments[0].getBoundingClientRect();"
        "return box.height > 0 && box.top >= 0 && box.top < innerHeight"
    )
    WebDriverWait(opened, SECONDS).until(lambda each: each.execute_script(script, meaning))


def test_without_scripts_all_can_be_read(browser: webdriver.Chrome, file: Path) -> None:
    """Every domain is there and opens; what would do nothing is not shown."""
    browser.get("about:blank")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(file.as_uri())
        assert not browser.find_element(By.ID, "filter").is_displayed()
        assert len(GUESTS) + 1 == len(shown(browser))
        domain = browser.find_element(By.CSS_SELECTOR, ".domain")
        domain.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
        assert domain.find_element(By.CSS_SELECTOR, ".inside").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(opened: webdriver.Chrome, scheme: str) -> None:
    """4.5 to 1 at the least, in both schemes; the dark one is dark."""
    media(opened, scheme=scheme)
    try:
        opened.find_element(By.ID, "open").click()
        opened.execute_script("document.querySelectorAll('.how').forEach((e) => { e.open = true })")
        body = opened.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
        red = int(body.partition("(")[2].partition(",")[0])
        assert (scheme == "dark") == (red < 64)
        assert {} == opened.execute_script(CONTRAST)
    finally:
        media(opened)


def test_on_paper_all_is_open_but_what_is_filtered_out(opened: webdriver.Chrome) -> None:
    """Nobody opens a domain on paper; controls are not printed."""
    opened.find_element(By.ID, "text").send_keys(f"{UUID} config-drive")
    count = sum(
        UUID in (words := review(made(path)).words) and "config-drive" in words for path in GUESTS
    )
    wait_for(opened, count)
    media(opened, "print")
    try:
        script = (
            "return Array.from(document.querySelectorAll('.domain .inside'))"
            ".filter((e) => e.getBoundingClientRect().height > 0).length"
        )
        assert count == opened.execute_script(script)
        assert not opened.find_element(By.ID, "filter").is_displayed()
    finally:
        media(opened)


@contextmanager
def as_wide_as(browser: webdriver.Chrome, width: int) -> Iterator[None]:
    """The page with all of it open, on a screen of so many pixels."""
    metrics: dict[str, Any] = {"width": width, "height": 800, "deviceScaleFactor": 1}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics | {"mobile": width < 500})
    try:
        browser.execute_script("document.querySelectorAll('details').forEach((e) => e.open = true)")
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("width", [320, 360, 700, 768, 800, 1400])
def test_nothing_is_wider_than_the_screen(opened: webdriver.Chrome, width: int) -> None:
    """Nobody scrolls sideways, neither the page nor a part of it: paths break, pictures fit."""
    with as_wide_as(opened, width):
        found = opened.execute_script(
            "return [...document.querySelectorAll('html, body, body *:not(svg *)')].filter((e) =>"
            " e.checkVisibility() && e.scrollWidth > e.clientWidth + 1 && e.clientWidth"
            " && !e.matches('input, select')).map((e) => e.tagName + '.' + e.className)"
        )
    assert [] == found


@pytest.mark.parametrize("width", [360, 1400])
def test_a_disk_has_one_picture_whose_words_can_be_read(
    opened: webdriver.Chrome, width: int
) -> None:
    """Side by side where there is room, one above the other where there is none."""
    with as_wide_as(opened, width):
        pictures: list[list[float]] = opened.execute_script(
            "return [...document.querySelectorAll('figure')].map((figure) =>"
            " [...figure.querySelectorAll('svg')].filter((e) => e.checkVisibility())"
            ".map((e) => e.getBoundingClientRect().width / e.viewBox.baseVal.width))"
        )
    assert len(pictures) == sum(len(made(path).plan.disks) for path in (*GUESTS, MOVED))
    for scales in pictures:
        (scale,) = scales
        assert scale * 11.5 > 9  # pixels of its letters


@pytest.mark.parametrize("width", [360, 1400])
def test_a_difference_on_a_narrow_screen_is_one_column(
    opened: webdriver.Chrome, width: int
) -> None:
    """A line that is the same stands there once, one that differs as it was above what it is."""
    with as_wide_as(opened, width):
        same, changed = opened.execute_script(
            "const shown = (row) => [...row.cells].filter((e) => e.checkVisibility()).length;"
            "const rows = [...document.querySelectorAll('.domain tbody tr')];"
            "const changed = rows.filter((row) => row.querySelector('.old') && "
            "row.querySelector('.new'));"
            "const same = rows.filter((row) => !row.querySelector('.old, .new'));"
            "const top = (e) => e.getBoundingClientRect().top;"
            "return [[...new Set(same.map(shown))], [...new Set(changed.map((row) => "
            "top(row.querySelector('.old')) < top(row.querySelector('.new'))))]]"
        )
    narrow = width < 500
    assert [2 if narrow else 4] == same
    assert [narrow] == changed


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1400, "dark")])
def test_axe_finds_no_fault(opened: webdriver.Chrome, width: int, scheme: str) -> None:
    """Of names, roles, landmarks, focus and the like, with domains closed and open.

    Contrast has a test of its own: axe takes long over it, and errs where nothing is drawn yet.
    """
    axe = resources.files("axe_core_python").joinpath("axe.min.js").read_text()
    opened.set_script_timeout(SECONDS)
    media(opened, scheme=scheme)
    try:
        opened.execute_script(axe)
        run = (
            "const [done] = arguments, rules = {'color-contrast': {enabled: false}};"
            "axe.run({rules}).then((found) => done(found.violations))"
        )
        found = opened.execute_async_script(run)
        with as_wide_as(opened, width):
            found += opened.execute_async_script(run)
    finally:
        media(opened)
    assert [] == [(each["id"], [node["html"] for node in each["nodes"]]) for each in found]


def test_a_thousand_domains(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """One is found among them."""
    one = review(made(FIXTURES / "nova/qcow2-ephemeral-swap.xml"))
    many = (replace(one, name=f"instance-{number:08x}") for number in range(1000))
    file = tmp_path / "many.html"
    file.write_text(text(*many))
    browser.get(file.as_uri())
    wait_for(browser, 1000, 1000)
    browser.find_element(By.ID, "text").send_keys("instance-000002a1")
    wait_for(browser, 1, 1000)
    assert ["instance-000002a1"] == shown(browser)
