"""The page of real migrations in a real browser: Debian's Chromium."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner

from multifd_proto.cli.report import command
from multifd_proto.tests.browser import PHONE, contrast, find, requested, shown, visit

pytestmark = pytest.mark.browser

CAPTURES = Path(str(files("multifd_proto.spec"))) / "captures"
OLD = str(CAPTURES / "q5_2-load.pcap.zst")
NEW = str(CAPTURES / "q10_0-none.pcap.zst")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    made = {}
    # what QEMU 5.2 sends is not what 10.0 has to send
    for name, words in {
        "violated": ["--dialect", "10.0", OLD],
        "good": [NEW],
        "both": [NEW, OLD],
    }.items():
        out = folder / f"{name}.html"
        assert CliRunner().invoke(command, [*words, "-o", str(out)]).exit_code == 0
        made[name] = out.as_uri()
    return made


def scheme(browser, name: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": name}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def draw_all(browser) -> None:
    """Go through the page, so that every figure is drawn."""
    browser.execute_async_script(
        """
        const done = arguments[0];
        const parts = [...document.querySelectorAll("[data-figure]")];
        (function next() {
          const part = parts.find((it) => !it.querySelector(".main-svg"));
          if (!part) { scrollTo(0, 0); done(); return; }
          part.scrollIntoView();
          setTimeout(next, 30);
        })();
        """
    )


def hover(browser, figure: str, x: float, y: float) -> str:
    """Point at a place of a figure's plot, in parts of its size; return what it says."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    (part,) = find(browser, f'[data-figure="{figure}"]')
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", part)
    wait = WebDriverWait(browser, 10)
    wait.until(lambda _: part.find_elements("css selector", ".draglayer .nsewdrag"))
    plot = part.find_elements("css selector", ".draglayer .nsewdrag")[0]
    width, height = plot.rect["width"], plot.rect["height"]
    move = ActionChains(browser)
    move.move_to_element_with_offset(plot, int(width * (x - 0.5)), int(height * (y - 0.5)))
    move.perform()
    wait.until(lambda _: part.find_elements("css selector", ".hoverlayer text"))
    return " ".join(t.text for t in part.find_elements("css selector", ".hoverlayer text"))


@pytest.mark.parametrize("name", ["violated", "good", "both"])
def test_it_draws_without_errors_and_asks_for_nothing(browser, pages, name):
    visit(browser, pages[name])
    draw_all(browser)
    assert browser.get_log("browser") == []
    # what figures are painted with is in the page as well
    assert {url for url in requested(browser) if not url.startswith("data:")} == {pages[name]}


def test_the_verdict_comes_first(browser, pages):
    visit(browser, pages["violated"])
    (verdict,) = find(browser, ".verdict")
    outcome, wire = verdict.text.splitlines()
    assert outcome == "✗ Completed in 906 ms: with violations"
    assert wire.startswith("VIOLATED: 7 requirements (")
    assert verdict.rect["y"] + verdict.rect["height"] < 300
    visit(browser, pages["good"])
    assert find(browser, ".outcome")[0].text == "✓ Completed in 701 ms"


def test_a_figure_tells_what_is_pointed_at(browser, pages):
    visit(browser, pages["violated"])
    assert "rounds 0 to 4" in hover(browser, "m0-dirty", 0.08, 0.9)
    assert "channel 00.5 MiB, 21.4% of all15 packets" in hover(browser, "m0-balance", 0.1, 0.1)
    said = hover(browser, "m0-memory-0", 0.5, 0.5)
    assert said.startswith("0x")
    assert "sent" in said


def test_a_violation_leads_to_the_text_of_its_requirement(browser, pages):
    visit(browser, pages["violated"])
    (link,) = find(browser, '.violation h4 a[href="#PKT-17"]')
    link.click()
    (requirement,) = find(browser, ".requirement:target")
    assert requirement.text.splitlines()[:2] == [
        "PKT-17 next_packet_size without payload",
        "A sender MUST write 0 into next_packet_size of a packet that has no normal pages.",
    ]
    visible = "const r = arguments[0].getBoundingClientRect(); return r.top < innerHeight"
    assert browser.execute_script(visible, requirement)


def test_colours_follow_the_scheme_at_once(browser, pages):
    colour = "return getComputedStyle(document.querySelector('.xtitle')).fill"
    scheme(browser, "light")
    visit(browser, pages["good"])
    draw_all(browser)
    light = browser.execute_script(colour)
    scheme(browser, "dark")
    browser.execute_async_script("setTimeout(arguments[0], 500)")
    dark = browser.execute_script(colour)
    scheme(browser, "light")
    assert (light, dark) == ("rgb(27, 31, 36)", "rgb(228, 232, 236)")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["violated", "both"])
def test_it_fits_a_phone(browser, pages, name, theme):
    scheme(browser, theme)
    visit(browser, pages[name], PHONE)
    draw_all(browser)
    browser.execute_script("document.querySelectorAll('details').forEach(it => { it.open = true })")
    assert browser.execute_script("return document.documentElement.scrollWidth") == PHONE[0]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_verdict_and_findings_can_be_read_in_light_and_dark(browser, pages, theme):
    scheme(browser, theme)
    visit(browser, pages["violated"])
    of = "const s = getComputedStyle(arguments[0]); return [s.color, s.backgroundColor]"
    badges = shown(browser, ".badge")
    assert len(badges) > 10
    for element in badges:
        assert contrast(*browser.execute_script(of, element)) >= 4.5, element.text


def test_its_numbers_are_there_without_scripts(browser, pages):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        visit(browser, pages["good"])
        assert len(shown_tables := find(browser, "table")) > 3
        assert "channel 0" in shown_tables[1].text
        assert "The figures need JavaScript" in find(browser, "footer")[0].text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
