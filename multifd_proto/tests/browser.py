"""Debian's Chromium for the tests: a page at the size of a desk or of a phone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

PHONE = (390, 844)
DESK = (1280, 900)


@pytest.fixture(scope="module")
def browser():
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        what = "no chromium and chromedriver (Debian: chromium, chromium-driver)"
        if os.environ.get("MULTIFD_REQUIRE_BROWSER") == "1":
            pytest.fail(f"{what}, and MULTIFD_REQUIRE_BROWSER=1 demands it")
        pytest.skip(what)
    yield from started(chromium, chromedriver)


def started(chromium: str, chromedriver: str) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # a sandbox cannot be had as root, and /dev/shm of a container is small
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield driver
    driver.quit()


def visit(browser, address, size=DESK):
    mobile = size == PHONE
    screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get("about:blank")  # an address that differs in its fragment alone is not loaded anew
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(address)


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def shown(browser, selector):
    visible = "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility())"
    return browser.execute_script(visible, selector)


def requested(browser) -> set[str]:
    """Addresses that were asked for since the last visit."""
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {
        message["params"]["request"]["url"]
        for message in sent
        if message["method"] == "Network.requestWillBeSent"
    }


def contrast(one: str, other: str) -> float:
    """Contrast of two CSS colours, as WCAG defines it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.strip("rgba()").split(",")[:3]]
        red, green, blue = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
