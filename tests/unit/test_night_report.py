"""A night on paper: the verdict first, every alarm in one line, and for machines too."""

from __future__ import annotations

import dataclasses
from xml.etree import ElementTree

from hwbench.records import (
    Change,
    MethodTonight,
    Night,
    Pair,
    Pin,
    Reading,
    ShadowRate,
    Status,
    Trend,
    TrendPoint,
)
from hwbench.report import night as report
from hwbench.report import trend as drawing

EVIL = "<script>alert(1)</script>"
FIRST = Change(1e-3, 1.05e-3, 1.05, 1.041, 1.061)
AGAIN = Change(1e-3, 1.05e-3, 1.052, 1.04, 1.06)
RATE = ShadowRate(20, 1, 0.002)


def reading(metric: str = "latency_p50", status: Status = Status.FINE, **more: object) -> Reading:
    base = Reading("dense · null", metric, "measured", 0.01, FIRST, status=status)
    return dataclasses.replace(base, **more)  # type: ignore[arg-type]


def pair(*readings: Reading, **more: object) -> Pair:
    pin = Pin("smoke", "here", 2, "abc", "2026-01-01T00:00:00+00:00", "me", f"why {EVIL}", "c1")
    row = MethodTonight("channel l2", "channel 50 %", 0.8, 0.78, 0.82, 0.9, -0.01, "top1",
                        True, "faster")  # fmt: skip
    bad = dataclasses.replace(row, method="2:4", meets=False, candidate="2:4 x")
    base = Pair("smoke", "here", True, readings, pin=pin, segment="s", methods=(row, bad),
                ship="none", ship_reason="nothing meets the goals", samples="first")  # fmt: skip
    return dataclasses.replace(base, **more)  # type: ignore[arg-type]


LOST = Pair("smoke", "rpi4", False, why="no route to host", mend="plug it in")


def night(*pairs: Pair) -> Night:
    return Night("run", 7, "2026-01-11T03:00:00+00:00", "c2", "host", "nightly", pairs)


def test_green_red_and_could_not_measure() -> None:
    fine = pair(reading())
    assert report.verdict(night(fine)) == "green"
    assert report.verdict(night(fine, LOST)) == "unmeasured"
    red = pair(reading(status=Status.WORSE, again=AGAIN))
    assert report.verdict(night(red, LOST)) == "red"
    assert "1 alarm: smoke on here; 1 pair could not be measured" in report.headline(
        night(red, LOST)
    )
    assert report.headline(night(LOST)) == "Could not measure"
    unsure = pair(reading(status=Status.UNCONFIRMED, again=FIRST))
    assert report.verdict(night(unsure)) == "green"


def test_an_alarm_names_target_recipe_size_and_both_intervals() -> None:
    worse = reading(status=Status.WORSE, again=AGAIN)
    words = report.sentence(pair(worse), worse)
    for part in ("here", "smoke", "dense · null", "Latency p50", "+5.0 % (+4.1 to +6.1 %)",
                 "confirmed +5.2 % (+4.0 to +6.0 %)", "1 ms became 1.05 ms"):  # fmt: skip
        assert part in words, words
    score = Change(0.9, 0.85, 0.85 / 0.9, chance=0.0004)
    fell = reading("top1", Status.WORSE, first=score, again=score)
    assert "-5.0 pp (p = 0.0004)" in report.sentence(pair(fell), fell)
    lost = reading(status=Status.LOST, reason="it crashed")
    assert "is lost: it crashed" in report.sentence(pair(lost), lost)


def test_the_summary_is_short_and_harmless() -> None:
    many = [reading(status=Status.WORSE, again=AGAIN, candidate=f"{EVIL} {n}") for n in range(40)]
    text = report.summary(night(pair(*many, hints=("the stack",), changed=("commit",)), LOST))
    assert "<script>" not in text
    assert "and 28 more" in text
    assert "**could not measure** smoke on rpi4: no route to host (mend: plug it in)" in text
    assert len(text) < 6000


def test_junit_counts_failures_and_errors() -> None:
    red = pair(reading(), reading("energy", Status.WORSE, again=AGAIN),
               reading("score", Status.MISSING, reason="none"))  # fmt: skip
    root = ElementTree.fromstring(report.junit(night(red, LOST)))
    suites = root.findall("testsuite")
    assert [(s.get("tests"), s.get("failures"), s.get("errors")) for s in suites] == [
        ("3", "1", "0"),
        ("1", "0", "1"),
    ]
    assert root.find(".//failure") is not None
    assert root.find(".//skipped") is not None


def trend() -> Trend:
    points = [
        TrendPoint(n, f"2026-01-{n:02}", EVIL, "s1" if n < 6 else "s2", 1.0 + n / 1000,
                   0.99, 1.02, Status.WORSE if n == 9 else Status.FINE)
        for n in range(1, 10)
    ]  # fmt: skip
    points.append(TrendPoint(10, "2026-01-10", "c", "s2", None, None, None, Status.MISSING))
    return Trend("here", "smoke", "dense · null", "latency_p50", 0.01, tuple(points), (7,))


def test_a_trend_shows_segments_changes_intervals_and_commits() -> None:
    drawn = drawing.svg(trend())
    root = ElementTree.fromstring(drawn)
    assert "<script>" not in drawn
    titles = [t.text or "" for t in root.iter("title")]
    assert sum(t.startswith("night ") for t in titles) == 9
    assert any("a new segment" in t for t in titles)
    assert any("the level changed" in t for t in titles)
    assert any("commit <script>" in t for t in titles)
    assert len(list(root.iter("circle"))) == 9
    assert drawing.svg(dataclasses.replace(trend(), points=())) == ""


def test_the_page_says_what_is_to_be_said_and_runs_nothing() -> None:
    red = pair(reading(status=Status.WORSE, again=AGAIN), hints=("to blame: x",), events=("new",))
    page = report.page(night(red, LOST), [trend()], RATE, ["a broken line"])
    assert "<script" not in page
    assert page.index("1 alarm") < page.index("How far to trust this")
    for part in ("could not measure", "no route to host", "10 days old", "1 times", "5.0 %",
                 "none meets the goals", "a broken line", "here/smoke/first/"):  # fmt: skip
        assert part in page, part
    lines = [("a", report.line(night(red))), ("b", report.line(night(LOST)))]
    index = report.index(lines)
    assert 'href="a/report.html"' in index
    assert "could not measure" in index


def test_the_picture_is_a_picture() -> None:
    assert drawing.png(pair(reading(status=Status.WORSE)), [trend()])[:4] == b"\x89PNG"


def test_a_pin_knows_its_age() -> None:
    pin = night(pair()).pairs[0].pin
    assert pin is not None
    assert pin.age("2026-01-11T03:00:00+00:00") == "10 days old"
    assert pin.age("2026-01-01T05:00:00+00:00") == "of today"
    assert "clock" in pin.age("2025-12-31T00:00:00+00:00")
