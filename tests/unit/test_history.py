import dataclasses
from pathlib import Path

from hwbench import pareto, report
from hwbench.records import Study, Tried, from_json, to_json
from hwbench.report import history
from tests import synthetic

COSTS = {"top1": 1.2, "latency_p50": 0.5}
TRIED = (
    Tried("a", "channel 50 % · tvm", 4.0, COSTS, "untrained"),
    Tried("b", "2:4 <x> · tvm", 2.0, {"top1": 1.5, "latency_p50": 1.5}, "untrained", "no gain"),
    Tried("c", "broken · tvm", 3.0, None, "untrained"),
)


def study() -> Study:
    rows = synthetic.results()
    decision = pareto.decide(rows, synthetic.recipe(), synthetic.target())
    return dataclasses.replace(synthetic.study(rows, decision), tried=TRIED)


def test_the_hypervolume_grows_with_time_from_the_dense_models_own(tmp_path: Path) -> None:
    whole = study()
    # Dense rules 1 × 1; what is dominated adds nothing; then 0.8 × 1.5 less the 0.8 × 1 shared.
    assert history.volumes(whole) == [(0.0, 1.0), (2.0, 1.0), (4.0, 1.0 + 0.8 * 1.5 - 0.8)]
    assert [row["costs"] for row in history.rows(whole)] == [
        ["1.20", "0.50"],
        ["1.50", "1.50"],
        ["", ""],
    ]
    report.write(whole, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "3 tried, 1 dropped before training" in page
    assert "2:4 &lt;x&gt; · tvm" in page
    assert 'id="plot-search"' in page


def test_a_history_survives_the_disk() -> None:
    assert from_json(Tried, to_json(TRIED[0])) == TRIED[0]
