"""The report in a real browser: Debian's Chromium."""

from __future__ import annotations

from collections import Counter

import pytest

from multifd_proto.conformance.reports import read, render
from multifd_proto.tests.browser import PHONE, contrast, find, requested, shown, visit
from multifd_proto.tests.conformance_runs import lines, write

pytestmark = pytest.mark.browser

SAID = lines(4, 60)
ROWS = SAID[1:-1]
UNEXPECTED = ("harness error", "failed", "inconclusive")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    killed = lines(1, 40)[:20]
    runs = read([write(folder / "all.jsonl", SAID), write(folder / "killed.jsonl", killed)])
    render(runs[:1], folder / "report.html")
    render(runs, folder / "killed.html")
    return (folder / "report.html").as_uri()


def choose(browser, name, text):
    """Choose from a list as the keyboard does."""
    find(browser, f"#filter select[name={name}]")[0].send_keys(text)


def rows_shown(browser) -> set[str]:
    """Ids of the rows that the filter has left."""
    ids = "return [...document.querySelectorAll('.row:not([hidden])')].map(row => row.id)"
    return set(browser.execute_script(ids))


def says(browser, text):
    """Tell whether the page comes to say how many rows are shown; it may do so after a moment."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 10).until(lambda _: find(browser, "#shown")[0].text == text)


def demanded(verdict=None, peer=None):
    return [
        row
        for row in ROWS
        if (verdict is None or row["verdict"] == verdict) and (peer in (None, row["peer"]))
    ]


def slug(verdict: str) -> str:
    return {"passed, weakly": "passed-weak", "known deviation": "deviation"}.get(
        verdict, verdict.replace(" ", "-")
    )


def test_it_loads_without_errors_and_asks_for_nothing(browser, page):
    visit(browser, page)
    assert says(browser, f"{len(ROWS)} of {len(ROWS)} results shown")
    assert browser.title.startswith("multifd conformance, QEMU 5.2.0 fails, ")
    assert browser.get_log("browser") == []
    assert requested(browser) <= {page, "data:,"}


def test_the_headline_counts_are_those_of_the_rows(browser, page):
    visit(browser, page)
    told = Counter(
        {
            (count.get_attribute("data-peer"), count.get_attribute("data-verdict")): int(
                count.find_element("css selector", ".n").text
            )
            for count in find(browser, ".count")
        }
    )
    number = {peer["uri"]: str(n) for n, peer in enumerate(SAID[0]["peers"], 1)}
    assert told == Counter((number[row["peer"]], slug(row["verdict"])) for row in ROWS)
    assert [o.text for o in find(browser, ".outcome")] == ["✗ fails"] * 4


def test_filters_narrow_the_rows(browser, page):
    visit(browser, page)
    find(browser, "#filter input[value=failed] + span")[0].click()
    assert says(browser, f"{len(demanded('failed'))} of {len(ROWS)} results shown")
    choose(browser, "peer", "QEMU 7")
    left = demanded("failed", "qemu:7.2")
    assert rows_shown(browser) == {f"{row['case']}@2" for row in left}
    names = {req.get_attribute("id") for req in shown(browser, ".req")}
    assert names == {row["requirement"] for row in left}
    find(browser, "#filter button[type=reset]")[0].click()
    assert says(browser, f"{len(ROWS)} of {len(ROWS)} results shown")


@pytest.mark.parametrize(
    ("name", "value", "keeps"),
    [
        ("level", "SHOULD", lambda row: row["level"] == "SHOULD"),
        ("chapter", "3. The init", lambda row: row["chapter"].startswith("03-init.md")),
    ],
)
def test_requirements_are_chosen_by_level_and_chapter(browser, page, name, value, keeps):
    visit(browser, page)
    choose(browser, name, value)
    left = sum(map(keeps, ROWS))
    assert 0 < left < len(ROWS)
    assert says(browser, f"{left} of {len(ROWS)} results shown")


def test_the_search_finds_all_words(browser, page):
    visit(browser, page)
    case = ROWS[7]["case"]
    find(browser, "#filter input[name=text]")[0].send_keys(f"{case.lower()} qemu")
    assert {row.partition("@")[0] for row in rows_shown(browser)} == {case}
    find(browser, "#filter input[name=text]")[0].send_keys(" nobody said this")
    assert rows_shown(browser) == set()
    assert find(browser, "#nothing")[0].is_displayed()


def test_a_count_leads_to_its_rows(browser, page):
    visit(browser, page)
    find(browser, ".count[data-peer='3'][data-verdict=inconclusive]")[0].click()
    left = demanded("inconclusive", "qemu:10.0")
    assert rows_shown(browser) == {f"{row['case']}@3" for row in left}


def test_a_failure_opens_and_shows_its_wire_log(browser, page):
    visit(browser, page)
    failed = demanded("failed")[0]
    (link,) = [a for a in find(browser, ".unexpected a") if a.text == failed["case"]][:1]
    assert not shown(browser, ".wire")
    link.click()
    (wire,) = shown(browser, ".wire")
    assert "init of channel 2 of 2" in wire.text
    assert "|QEVM....|" in wire.text
    assert failed["text"].replace("`", "") in shown(browser, "blockquote")[0].text
    assert [code.text for code in shown(browser, ".replay code")] == [failed["replay"]]


def test_an_address_of_a_case_opens_it(browser, page):
    case = ROWS[11]["case"]
    visit(browser, f"{page}#{case}")
    (element,) = shown(browser, ".case:target")
    assert element.find_element("css selector", "h4").text == case


def test_the_replay_command_is_copied(browser, page):
    grant = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", grant)
    failed = demanded("failed")[0]
    visit(browser, f"{page}#{failed['case']}@1")
    shown(browser, ".copy")[0].click()
    read_back = "const done = arguments[0]; navigator.clipboard.readText().then(done, done)"
    assert browser.execute_async_script(read_back) == failed["replay"]
    assert shown(browser, ".copy")[0].text == "Copied"


def test_it_is_worked_by_keyboard(browser, page):
    from selenium.webdriver.common.keys import Keys

    visit(browser, page)
    (summary, *_) = find(browser, ".req > summary")
    summary.send_keys(Keys.ENTER)
    assert summary.find_element("xpath", "..").get_property("open")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone(browser, page, theme):
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    visit(browser, page, PHONE)
    find(browser, "#open")[0].click()
    browser.execute_script("document.querySelectorAll('details').forEach(it => { it.open = true })")
    assert len(shown(browser, ".wire")) > 30
    assert browser.execute_script("return document.documentElement.scrollWidth") == PHONE[0]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_verdicts_can_be_read_in_light_and_dark(browser, page, theme):
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    visit(browser, page)
    of = "const s = getComputedStyle(arguments[0]); return [s.color, s.backgroundColor]"
    for element in find(browser, "#filter label[class^=v-]"):
        assert contrast(*browser.execute_script(of, element)) >= 4.5, element.text


def test_it_opens_without_scripts(browser, page):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        visit(browser, page)
        assert not shown(browser, "#filter, .copy")
        find(browser, ".req > summary")[0].click()
        assert shown(browser, "blockquote")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_killed_run_is_visibly_incomplete(browser, page):
    visit(browser, page.replace("report.html", "killed.html"))
    (banner,) = shown(browser, ".banner")
    assert banner.text == "… Incomplete: the run killed was ended before it was done."
    (missing,) = shown(browser, ".missing")
    assert missing.text == "… 21 of 40 cases not reported"


def test_failures_are_open_on_paper_alone(browser, page):
    visit(browser, page)
    browser.execute_script(
        "addEventListener('beforeprint', () => { window.printed ="
        " [...document.querySelectorAll('.wire')].filter(it => it.checkVisibility()).length })"
    )
    browser.execute_cdp_cmd("Page.printToPDF", {})
    unexpected = [row for row in ROWS if row["verdict"] in UNEXPECTED]
    assert browser.execute_script("return window.printed") == len(unexpected)
    assert not shown(browser, ".wire")
