"""The report in a real browser, from disk, with no network to lean on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hwbench import report
from hwbench.pareto import decide
from hwbench.records import Failure, PluginSpec, Result, Study
from tests import synthetic

webdriver = pytest.importorskip("selenium.webdriver")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs chromium and chromedriver: apt-get install chromium chromium-driver",
)

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)
EVIL = "<img src=x onerror=document.title='owned'>"


def study() -> Study:
    rows = list(synthetic.results())
    evil = dataclasses.replace(rows[3].candidate, backend=PluginSpec(EVIL))
    rows[3] = dataclasses.replace(rows[3], candidate=evil, notes=(EVIL,))
    rows[5] = dataclasses.replace(rows[5], failure=Failure("measure", EVIL, EVIL))
    return synthetic.study(rows, decide(rows, synthetic.recipe(), synthetic.target()))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    subject = study()
    folder = tmp_path_factory.mktemp("report")
    report.write(subject, folder)
    return subject, folder / "report.html"


@pytest.fixture
def page(browser: Any, written: tuple[Study, Path]) -> Any:
    """The page at desktop width, drawn; the logs hold only what it did itself."""
    resize(browser, 1280)
    load(browser, written[1])
    return browser


def load(browser: Any, path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.as_uri())
    WebDriverWait(browser, 60).until(
        lambda b: b.execute_script("return document.documentElement.dataset.drawn")
    )


def resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def requests(browser: Any) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in events if e["method"].endswith("WillBeSent")]
    return [url for url in sent if not url.startswith(("data:", "blob:"))]


def test_it_loads_with_no_error_and_asks_for_no_other_file(
    page: Any, written: tuple[Study, Path]
) -> None:
    assert page.get_log("browser") == []
    assert requests(page) == [written[1].as_uri()]
    assert page.title.startswith("Ship channel 25 % l2 local"), "what a label holds did not run"


@pytest.mark.parametrize(
    ("plot", "count"),
    # Of 24, two failed, one has no memory figure, and one has no dense model on its backend.
    [("latency_p50", 22), ("peak_memory", 21), ("energy", 22), ("sparsity", 21), ("promised", 21)],
)
def test_every_candidate_is_a_point(page: Any, plot: str, count: int) -> None:
    points = page.find_elements("css selector", f"#plot-{plot} .scatterlayer .point")
    assert len(points) == count
    assert all(point.get_attribute("d") for point in points)


def test_hovering_shows_the_recipe_of_a_point(page: Any, written: tuple[Study, Path]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    subject = written[0]
    chosen = next(r for r in subject.results if r.candidate.key == subject.decision.chosen)
    plot = page.find_element("id", "plot-latency_p50")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    x, y = page.execute_script(
        """const box = arguments[0], key = arguments[1], l = box._fullLayout;
        for (const t of box.data) {
          const i = (t.customdata || []).indexOf(key);
          if (i >= 0) return [l.xaxis._offset + l.xaxis.d2p(t.x[i]) - box.clientWidth / 2,
                              l.yaxis._offset + l.yaxis.d2p(t.y[i]) - box.clientHeight / 2];
        }""",
        plot,
        chosen.candidate.key,
    )
    ActionChains(page).move_to_element_with_offset(plot, round(x), round(y)).perform()
    from selenium.webdriver.support.ui import WebDriverWait

    label = WebDriverWait(page, 20).until(
        lambda b: b.find_element("css selector", "#plot-latency_p50 .hoverlayer .hovertext")
    )
    for words in ("channel 25 % l2 local · onnxruntime", "pattern channel", "criterion l2",
                  "[measured]", "[proxy]"):  # fmt: skip
        assert words in label.text, label.text


def test_no_button_sends_anything_away(page: Any) -> None:
    buttons = page.find_elements("css selector", ".modebar-btn")
    names = {button.get_attribute("data-title") for button in buttons}
    assert names == {
        "Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"
    }  # fmt: skip


def column(page: Any, place: int) -> list[str]:
    script = """const rows = [...document.querySelectorAll("#candidates tbody tr")];
        return rows.map((row) => row.cells[arguments[0]].dataset.sort);"""
    found: list[str] = page.execute_script(script, place)
    return found


def test_clicking_a_heading_sorts_and_missing_numbers_stay_last(page: Any) -> None:
    heads = page.find_elements("css selector", "#candidates thead th")
    place = next(i for i, head in enumerate(heads) if head.text.startswith("Latency p50"))
    button = heads[place].find_element("css selector", "button")
    for order, direction in (("ascending", 1), ("descending", -1)):
        page.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        assert heads[place].get_attribute("aria-sort") == order
        cells = column(page, place)
        numbers = [float(cell) for cell in cells if cell]
        assert len(cells) == 24
        assert cells[len(numbers) :] == ["", ""]
        assert numbers == sorted(numbers, key=lambda n: n * direction)
    heads[0].find_element("css selector", "button").click()
    names = [name.casefold() for name in column(page, 0)]
    assert names[0].startswith("2:4")
    assert names[-1].startswith("unstructured 95 %")


def test_the_filter_and_the_legend_hide_what_is_not_wanted(page: Any) -> None:
    page.find_element("id", "filter").send_keys("channel tvm")
    rows = page.find_elements("css selector", "#candidates tbody tr")
    shown = [row.text for row in rows if row.is_displayed()]
    assert len(shown) == 3
    assert all("channel" in text and "tvm" in text for text in shown)
    button = page.find_element("css selector", ".legend button[data-name='tvm']")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    from selenium.webdriver.support.ui import WebDriverWait

    points = "#plot-latency_p50 .scatterlayer .point"
    WebDriverWait(page, 20).until(lambda b: len(b.find_elements("css selector", points)) == 11)


def test_on_a_phone_the_page_does_not_scroll_sideways(
    browser: Any, written: tuple[Study, Path]
) -> None:
    resize(browser, 390)
    load(browser, written[1])
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= 390
    drawn = browser.find_elements("css selector", ".plot .main-svg")
    assert drawn
    assert all(svg.size["width"] <= 390 for svg in drawn)


@pytest.mark.parametrize("width", [1280, 390])
def test_layers_are_drawn_and_named_by_what_fits(browser: Any, tmp_path: Path, width: int) -> None:
    report.write(synthetic.with_rooflines(study()), tmp_path)
    resize(browser, width)
    load(browser, tmp_path / "report.html")
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    dots = browser.find_elements("css selector", "#plot-roofline-0 .scatterlayer .point")
    assert len(dots) == 50
    names = browser.find_elements("css selector", "#plot-roofline-0 .annotation-text")
    texts = [name.text for name in names]
    assert ("1" in texts) == (width == 390)
    assert any("layer_0_qkv ×12 · dense" in text for text in texts) == (width == 1280)
    box = browser.find_element("id", "plot-roofline-0").rect
    for name in names:
        assert box["x"] <= name.rect["x"]
        assert name.rect["x"] + name.rect["width"] <= box["x"] + box["width"]


@pytest.mark.parametrize("failed", [False, True])
def test_a_page_with_nothing_to_draw_has_no_errors(
    browser: Any, tmp_path: Path, failed: bool
) -> None:
    dead = Failure("compress", "NaN")
    rows = [Result(r.candidate, {}, failure=dead) for r in synthetic.results()] if failed else []
    subject = synthetic.study(rows, decide(rows, synthetic.recipe(), synthetic.target()))
    resize(browser, 1280)
    report.write(subject, tmp_path)
    load(browser, tmp_path / "report.html")
    assert browser.get_log("browser") == []
    assert "Nothing to draw" in browser.find_element("tag name", "main").text
