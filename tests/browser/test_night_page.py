"""A night's page in a real browser, at a desk and on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hwbench.records import Status
from hwbench.report import night as report
from tests.browser import test_report_page
from tests.browser.test_report_page import resize
from tests.unit import test_night_report as synthetic

browser = test_report_page.browser
pytestmark = test_report_page.pytestmark


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_says_the_verdict_first(browser: Any, tmp_path: Path, width: int) -> None:
    worse = synthetic.reading(status=Status.WORSE, again=synthetic.AGAIN)
    night = synthetic.night(synthetic.pair(worse), synthetic.LOST)
    report.write(night, [synthetic.trend()], synthetic.RATE, (), tmp_path)
    (tmp_path / "index.html").write_text(report.index([("a", report.line(night))]))
    resize(browser, width)
    for name in ("report.html", "index.html"):
        browser.get((tmp_path / name).as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.get_log("browser") == []
        head = browser.find_element("css selector", "h1").text
        assert "1 alarm" in head
    browser.get((tmp_path / "report.html").as_uri())
    (trend,) = browser.find_elements("css selector", "svg.trend")
    assert 100 < trend.size["width"] <= width
    colour = browser.execute_script(
        "return getComputedStyle(document.querySelector('header')).borderTopColor"
    )
    assert colour == "rgb(180, 35, 24)"
