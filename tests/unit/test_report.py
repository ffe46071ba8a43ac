import csv
import dataclasses
import io
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench import report
from hwbench.errors import UserError
from hwbench.pareto import decide
from hwbench.records import (
    Decision,
    Failure,
    Goal,
    PluginSpec,
    Recipe,
    Result,
    Source,
    Study,
    Value,
    from_json,
    missing,
)
from hwbench.report import look, plane, prose, table
from hwbench.report.page import page
from hwbench.report.picture import picture
from tests import synthetic
from tests.synthetic import candidate, value

EVIL = "<script>alert(1)</script>|$x_{1}$ & \"'"
VOID = {"meta", "link", "br", "input", "hr", "img"}


def judged(rows: Sequence[Result], which: Recipe | None = None, title: str = "") -> Study:
    recipe = which or synthetic.recipe()
    return synthetic.study(rows, decide(rows, recipe, synthetic.target()), recipe, title)


class Page(HTMLParser):
    """What a page says: its texts by the element ids around them, its table, its data."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.stack: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts = 0
        self.links: list[str] = []
        self.table: list[list[str]] = []
        self.data: Any = None
        self.feed(html)
        assert not self.stack, f"left open: {[tag for tag, _ in self.stack]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "action", "srcset")]
        self.scripts += tag == "script"
        if tag not in VOID:
            self.stack.append((tag, given))
        if self.inside("table", "candidates"):
            if tag == "tr":
                self.table.append([])
            elif tag in ("td", "th"):
                self.table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag, attrs = self.stack[-1] if self.stack else ("", {})
        if tag == "script":
            if attrs.get("id") == "data":
                self.data = json.loads(data)
        elif tag != "style":
            self.text += data
            if self.inside("table", "candidates") and self.table and self.table[-1]:
                self.table[-1][-1] += data

    def inside(self, tag: str, name: str) -> bool:
        return any(t == tag and a.get("id") == name for t, a in self.stack)


# ------------------------------------------------------------------------------------------ files


def test_write_leaves_five_whole_files_and_nothing_else(tmp_path: Path) -> None:
    paths = report.write(judged(synthetic.results()), tmp_path / "new")
    names = ["decision.md", "results.csv", "pareto.png", "report.html", "decision.json"]
    assert [p.name for p in paths] == names
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(names)
    assert all(p.stat().st_size > 0 for p in paths)


def test_what_cannot_be_written_leaves_no_decision_behind(tmp_path: Path) -> None:
    (tmp_path / "results.csv" / "in the way").mkdir(parents=True)
    with pytest.raises((UserError, OSError)):
        report.write(judged(synthetic.results()[:1]), tmp_path)
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["decision.md", "results.csv"], "the small ones come first"


def test_decision_json_is_the_record_and_the_figures(tmp_path: Path) -> None:
    study = judged(synthetic.results())
    report.write(study, tmp_path)
    data = json.loads((tmp_path / "decision.json").read_text())
    extra = {"chosen_label", "dense_label", "figures"}
    record = {key: data[key] for key in data if key not in extra}
    assert from_json(Decision, record) == study.decision
    assert data["chosen_label"] == "channel 25 % l2 local · onnxruntime"
    assert data["dense_label"] == "dense · onnxruntime"
    chosen = next(r for r in study.results if r.candidate.key == study.decision.chosen)
    for metric, figure in data["figures"]["chosen"].items():
        assert figure["value"] == chosen.values[metric].value
        assert figure["source"] == chosen.values[metric].source
    assert data["figures"]["chosen"]["latency_p50"]["unit"] == "s"


def test_csv_comes_back_number_by_number(tmp_path: Path) -> None:
    study = judged(synthetic.results())
    report.write(study, tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    by_key = {r.candidate.key: r for r in study.results}
    assert {row["candidate"] for row in rows} == set(by_key)
    columns = {"latency_p50": "latency_p50_s", "top1": "top1_fraction", "energy": "energy_J",
               "peak_memory": "peak_memory_B", "macs": "macs_count"}  # fmt: skip
    for row in rows:
        result = by_key[row["candidate"]]
        assert row["label"] == result.candidate.label
        assert float(row["sparsity_asked"]) == result.candidate.compression.sparsity
        assert (row["status"] == "failed") == (result.failure is not None)
        assert row["failure"] == (result.failure.message if result.failure else "")
        for metric, column in columns.items():
            kept = result.values.get(metric)
            if kept is None or kept.value is None:
                assert row[column] == ""
                assert row[f"{metric}_missing"] == (kept.reason if kept else "not recorded")
            else:
                assert float(row[column]) == kept.value
                assert row[f"{metric}_source"] == kept.source
                assert row[f"{column}_low"] == ("" if kept.low is None else str(kept.low))


def test_csv_holds_no_formulas() -> None:
    odd = dataclasses.replace(synthetic.results()[0], notes=('=HYPERLINK("http://x")',))
    text = table.csv(judged([odd]))
    assert next(csv.DictReader(io.StringIO(text)))["notes"].startswith("'=")


def test_csv_of_nothing_has_headings() -> None:
    [heading] = table.csv(judged([])).splitlines()
    assert "latency_p50_s,latency_p50_s_low,latency_p50_s_high,latency_p50_source" in heading


# ------------------------------------------------------------------------------------------- rows


def test_rows_put_the_chosen_first_and_the_failed_last() -> None:
    study = judged(synthetic.results())
    rows = report.rows(study)
    assert len(rows) == len(study.results)
    assert rows[0]["Standing"] == "chosen"
    order = ["chosen", "front", "dominated", "missing", "failed"]
    places = [order.index(row["Standing"]) for row in rows]
    assert places == sorted(places)
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert "Latency p50 (µs, measured)" in rows[0]
    assert "Energy (µJ, proxy)" in rows[0]
    assert rows[0]["Speed-up"] == "1.50 ×"
    assert any("(control)" in row["Candidate"] for row in rows)
    failed = [row for row in rows if row["Standing"] == "failed"]
    assert all(row["Latency p50 (µs, measured)"] == "n/a" for row in failed)
    assert rows[0]["Latency p50 (µs, measured)"] == "30.9"
    wide = report.rows(study, ["latency_p50"], intervals=True)
    assert wide[0]["Latency p50 (µs, measured)"] == "30.9 (30.5–31.3)"


def test_a_weaker_source_is_labelled_in_its_cell_and_left_off_the_axis() -> None:
    rows = list(synthetic.results()[:3])
    meter = value("energy", 2e-4, source=Source.MEASURED)
    rows[0] = dataclasses.replace(rows[0], values={**rows[0].values, "energy": meter})
    study = judged(rows)
    cells = {row["Candidate"]: row["Energy (µJ, measured)"] for row in report.rows(study)}
    assert cells["dense · onnxruntime"] == "200"
    assert cells["channel 25 % l2 local · onnxruntime"].endswith(" proxy")
    drawn = plane.trade_off(study, "energy")
    assert [p.result for p in drawn.points] == [rows[0]]
    assert any("proxy, not measured" in line for line in drawn.left_out)


@given(st.floats(1e-9, 1e9))
def test_figures_keep_three_digits_and_no_exponent(number: float) -> None:
    study = judged([Result(candidate(), {"latency_p50": value("latency_p50", number)})])
    [row] = report.rows(study, ["latency_p50"])
    [heading] = [head for head in row if head.startswith("Latency")]
    unit = re.search(r"\((\S+), measured\)", heading)
    assert unit is not None
    size = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit[1]]
    shown = float(row[heading])
    assert "e" not in row[heading]
    assert shown * size == pytest.approx(number, rel=5.1e-3)


# ------------------------------------------------------------------------------------------- page


def test_the_page_shows_every_candidate_everywhere() -> None:
    study = judged(synthetic.results())
    found = Page(page(study))
    assert len(found.table) == 1 + len(study.results)
    assert {len(row) for row in found.table} == {len(found.table[0])}
    for result in study.results:
        assert result.candidate.label in found.text
        assert result.failure is None or result.failure.message in found.text
    assert study.decision.reason in found.text
    for words in (
        "onnxruntime densifies zeros",
        "VmHWM could not be reset",
        "noise-limited",
        "the shadow of R",
        "Intel Xeon",
        "1.31.1",
        "1 min 41 s",
        "met every goal",
    ):
        assert words in found.text, words


def test_the_page_needs_no_other_file() -> None:
    html = page(judged(synthetic.results()))
    found = Page(html)
    assert all(link.startswith(("data:", "#")) for link in found.links), found.links
    assert "Content-Security-Policy" in html
    assert "@import" not in html.split("<script", maxsplit=1)[0]


def test_every_plot_has_its_candidates_and_their_recipes() -> None:
    study = judged(synthetic.results())
    data = Page(page(study)).data
    assert set(data) == {"latency_p50", "peak_memory", "energy", "sparsity", "promised"}
    expected = {"latency_p50": 22, "peak_memory": 21, "energy": 22, "sparsity": 22, "promised": 22}
    for name, count in expected.items():
        points = [key for trace in data[name]["data"] for key in trace.get("customdata", ())]
        assert len(points) == len(set(points)) == count, name
    texts = [t for trace in data["latency_p50"]["data"] for t in trace.get("text", ())]
    cubic = next(t for t in texts if "cubic" in t)
    for words in ("pattern unstructured", "criterion magnitude", "scope global", "sparsity 0.95",
                  "schedule cubic", "backend onnxruntime", "seed 0", "[measured]", "[proxy]",
                  "2026-11-21"):  # fmt: skip
        assert words in cubic, words
    assert "proxy" in data["energy"]["layout"]["xaxis"]["title"]["text"]
    assert any("(a control)" in t for t in texts)


def test_what_people_typed_stays_text() -> None:
    rows = list(synthetic.results()[:3])
    evil = PluginSpec(EVIL, {EVIL: EVIL})
    one = dataclasses.replace(rows[1].candidate, backend=evil)
    rows[1] = dataclasses.replace(rows[1], candidate=one, notes=(EVIL,))
    rows[2] = dataclasses.replace(rows[2], failure=Failure(EVIL, EVIL, EVIL))
    study = dataclasses.replace(judged(rows, title=EVIL), notes=(EVIL,), versions={EVIL: EVIL})
    html = page(study)
    found = Page(html)
    plain = Page(page(judged(synthetic.results()[:3])))
    assert found.scripts == plain.scripts
    assert "<script>alert" not in html
    assert EVIL in found.text
    texts = [t for trace in found.data["latency_p50"]["data"] for t in trace.get("text", ())]
    assert any("&lt;script&gt;" in t for t in texts)
    assert not any("<script" in t for t in texts)
    assert "<script" not in prose.decision_markdown(study)
    lines = prose.decision_markdown(study).splitlines()
    cells = {len(re.split(r"(?<!\\)\|", line)) for line in lines if "· " in line and line[0] == "|"}
    assert len(cells) == 1, "a bar in a label became a cell of its own"
    assert picture(study).startswith(b"\x89PNG")


DEAD = Failure("compress", "the loss became NaN in epoch 3")


@pytest.mark.parametrize(
    ("rows", "plots", "says"),
    [
        ([], set(), "There are no candidates"),
        (
            [Result(r.candidate, {}, failure=DEAD) for r in synthetic.results()],
            set(),
            "every candidate failed",
        ),
        (
            synthetic.results()[:1],
            {"latency_p50", "peak_memory", "energy", "sparsity", "promised"},
            "no pruned model was tried",
        ),
        (
            synthetic.results(energy=False),
            {"latency_p50", "peak_memory", "sparsity", "promised"},
            "Energy: no sensor on this machine",
        ),
        (
            [Result(r.candidate, {"top1": value("top1", 0.5)}) for r in synthetic.results()],
            set(),
            "Latency p50: nobody recorded it",
        ),
    ],
    ids=["nothing", "all failed", "only dense", "no energy", "only accuracy"],
)
def test_a_page_with_gaps_says_why(
    rows: Sequence[Result], plots: set[str], says: str, tmp_path: Path
) -> None:
    study = judged(rows)
    report.write(study, tmp_path)
    found = Page((tmp_path / "report.html").read_text())
    assert set(found.data) == plots
    assert says.lower() in found.text.lower()
    assert found.text.count("Nothing to draw") == 5 - len(plots)
    if rows:
        assert len(found.table) == 1 + len(rows)


def test_a_study_without_goals_or_conditions_still_reads() -> None:
    study = judged(synthetic.results()[:4], synthetic.recipe(goals=()))
    study = dataclasses.replace(study, conditions=None, notes=(), seconds={}, versions={})
    found = Page(page(study))
    assert "sets no goals" in found.text
    assert "conditions on the device were not recorded" in found.text


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 0.0, -1.0])
def test_odd_numbers_break_nothing(number: float, tmp_path: Path) -> None:
    odd = Result(
        candidate("channel", 0.5),
        {m: value(m, number) for m in ("top1", "latency_p50", "energy", "effective_macs")},
    )
    report.write(judged([synthetic.results()[0], odd]), tmp_path)
    json.loads((tmp_path / "decision.json").read_text(), parse_constant=pytest.fail)
    assert Page((tmp_path / "report.html").read_text()).data is not None


def test_the_markdown_names_decision_goals_and_failures() -> None:
    study = judged(synthetic.results())
    score = {"chosen": value("top1", 0.871), "dense": value("top1", 0.878)}
    study = dataclasses.replace(study, decision=dataclasses.replace(study.decision, test=score))
    text = prose.decision_markdown(study)
    assert text.startswith("# Ship channel 25 % l2 local · onnxruntime\n")
    assert study.decision.reason in text
    assert "- chosen: 87.1 %" in text
    assert "at most 1.0 pp below the dense model" in text
    assert "in compile: TVM cannot lower the layer" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert sum("·" in line for line in lines) == len(study.results)


def test_no_verdict_is_said_plainly() -> None:
    study = judged(synthetic.results(), synthetic.recipe(goals=(Goal("latency_p50", "max", 1e-6),)))
    found = Page(page(study))
    assert "Ship none of these models" in found.text
    assert "Latency p50: at most 1 µs" in found.text
    assert prose.decision_json(study).count('"verdict": "none"') == 1


# ------------------------------------------------------------------------------------- the planes


def test_sparsity_counts_removed_and_zeroed_weights_alike() -> None:
    study = judged(synthetic.results())
    gone = {r.candidate.label: plane.removed(r, study) for r in study.results}
    assert gone["channel 50 % l2 local · tvm"] == pytest.approx(0.75)
    assert gone["unstructured 50 % magnitude global · onnxruntime"] == pytest.approx(0.5)
    assert gone["dense · tvm"] == 0.0


def test_promised_is_the_ratio_of_multiply_adds() -> None:
    study = judged(synthetic.results())
    points = {p.result.candidate.label: p for p in plane.promised(study).points}
    half = points["channel 50 % l2 local · onnxruntime"]
    assert half.x == pytest.approx(4.0)
    assert half.y == pytest.approx(study_ratio(study, half.result), rel=1e-9)
    assert points["dense · tvm"].y == 1.0


def study_ratio(study: Study, result: Result) -> float:
    dense = next(
        r
        for r in study.results
        if r.candidate.compression.is_dense and r.candidate.backend == result.candidate.backend
    )
    own, base = result.number("latency_p50"), dense.number("latency_p50")
    assert own is not None
    assert base is not None
    return base / own


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_stairs_are_the_points_that_nothing_beats(points: list[tuple[float, float]]) -> None:
    beaten = {p for p in points if any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)}
    assert look.stairs(points) == sorted(set(points) - beaten)


def test_goal_lines_are_drawn_where_the_goal_is() -> None:
    goals = (Goal("top1", "max_drop", 0.01), Goal("latency_p50", "max", 40e-6))
    study = judged(synthetic.results(), synthetic.recipe(goals=goals))
    limits = plane.trade_off(study, "latency_p50").limits
    dense = next(r for r in study.results if r.candidate.key == study.decision.dense)
    top = dense.number("top1")
    assert top is not None
    assert {(letter, round(at, 6)) for letter, at, _ in limits} == {
        ("x", 40.0),
        ("y", round(top * 100 - 1, 6)),
    }


def test_one_axis_has_one_unit_and_one_source() -> None:
    rows = [
        Result(candidate("channel", i / 10), {"peak_memory": value("peak_memory", 10.0**i)})
        for i in range(1, 8)
    ]
    axis = look.axis(rows, "peak_memory")
    assert axis is not None
    assert (axis.size, axis.unit, axis.source) == (1e3, "kB", Source.MEASURED)
    lost = Result(candidate(), {"energy": missing("energy", Source.MEASURED, "no meter")})
    assert look.axis([lost], "energy") is None
    assert look.axis([], "energy") is None


def test_the_picture_opens_at_the_size_it_is_shown_at() -> None:
    from PIL import Image

    for rows in (synthetic.results(), synthetic.results()[:1], ()):
        image = Image.open(io.BytesIO(picture(judged(rows))))
        assert image.width >= 1800
        assert 0.4 < image.height / image.width < 0.7
        assert len(set(image.convert("L").get_flattened_data())) > 20


def test_values_of_a_failed_candidate_are_not_drawn() -> None:
    rows = list(synthetic.results()[:3])
    rows[2] = dataclasses.replace(rows[2], failure=DEAD)
    drawn = plane.trade_off(judged(rows), "latency_p50")
    assert rows[2] not in [p.result for p in drawn.points]
    assert any(DEAD.message in line for line in drawn.left_out)
    assert look.known(rows[2], "top1") is None
    assert isinstance(rows[2].values["top1"], Value)


def test_the_title_says_in_which_precision_the_dense_model_ships() -> None:
    whole = candidate()
    small = dataclasses.replace(whole, export=dataclasses.replace(whole.export, precision="int8"))
    rows = [synthetic.result(who, {"top1": 0.9, "latency_p50": 1e-3}) for who in (whole, small)]
    run = synthetic.study(rows, decide(rows, synthetic.recipe(), synthetic.target()))
    titles = {
        key: prose.headline(
            dataclasses.replace(run, decision=dataclasses.replace(run.decision, chosen=key))
        )
        for key in (whole.key, small.key)
    }
    assert titles[whole.key] == "Ship the dense model on onnxruntime"
    assert titles[small.key] == "Ship the dense model in int8 on onnxruntime"
