import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.pareto import baseline, decide, meets
from hwbench.records import Candidate, Decision, Failure, Goal, Result, Source, Value, missing
from tests import synthetic
from tests.synthetic import ORT, TVM, candidate, value

DROP = Goal("top1", "max_drop", 0.01)
FAST = Goal("latency_p50", "max", 0.002)
DENSE = candidate()
HALF = candidate("channel", 0.5)
QUARTER = candidate("channel", 0.25)


def row(
    who: Candidate,
    time: float | None,
    top: float | None = 0.88,
    spread: float = 0.01,
    size: float = 100.0,
) -> Result:
    lost = "the clock stopped"
    return Result(
        who,
        {
            "latency_p50": value("latency_p50", time, spread)
            if time is not None
            else missing("latency_p50", Source.MEASURED, lost),
            "top1": value("top1", top)
            if top is not None
            else missing("top1", Source.MEASURED, lost),
            "artifact_bytes": value("artifact_bytes", size, source=Source.STATIC),
        },
    )


def judge(
    *rows: Result, goals: tuple[Goal, ...] = (DROP,), choose: str = "latency_p50"
) -> Decision:
    recipe = synthetic.recipe(goals=goals, objectives=("top1", "latency_p50"), choose=choose)
    return decide(rows, recipe, synthetic.target())


def status(decision: Decision, who: Candidate) -> str:
    return next(s.status for s in decision.standings if s.candidate == who.key)


# ---------------------------------------------------------------------------------------- goals


@pytest.mark.parametrize(
    ("goal", "number", "met"),
    [
        (Goal("latency_p50", "max", 0.002), 0.002, True),
        (Goal("latency_p50", "max", 0.002), 0.0021, False),
        (Goal("top1", "min", 0.85), 0.85, True),
        (Goal("top1", "min", 0.85), 0.849, False),
        (Goal("top1", "max_drop", 0.01), 0.87, True),  # 0.88 - 0.87 is 0.010000000000000009
        (Goal("top1", "max_drop", 0.01), 0.8699, False),
        (Goal("top1", "max_drop", 0.0), 0.88, True),
        (Goal("latency_p50", "max_drop", 0.001), 0.002, True),  # for a cost, a drop is a rise
        (Goal("latency_p50", "max_drop", 0.001), 0.0021, False),
    ],
)
def test_a_goal_is_met_up_to_its_limit(goal: Goal, number: float, met: bool) -> None:
    dense = row(DENSE, 0.001, 0.88)
    one = Result(HALF, {goal.metric: value(goal.metric, number)})
    found, sentence = meets(one, goal, dense)
    assert found is met
    assert ("missed" in sentence) is not met


def test_a_goal_sentence_has_the_figures() -> None:
    met, sentence = meets(row(HALF, 0.001, 0.876), DROP, row(DENSE, 0.001, 0.88))
    assert met
    assert "87.6 %" in sentence
    assert "-0.4 pp" in sentence
    assert "allowed -1.0 pp" in sentence
    unsure = Result(HALF, {"top1": Value("top1", 0.876, Source.MEASURED, 0.86, 0.89)})
    assert "within the noise" in meets(unsure, DROP, row(DENSE, 0.001, 0.88))[1]


def test_missing_meets_nothing() -> None:
    dense = row(DENSE, 0.001)
    for goal in (DROP, FAST, Goal("top1", "min", 0.0)):
        assert not meets(row(HALF, None, None), goal, dense)[0]
        assert "the clock stopped" in meets(row(HALF, None, None), goal, dense)[1]
        assert not meets(Result(HALF, {}), goal, dense)[0]
        failed = dataclasses.replace(row(HALF, 0.001), failure=Failure("measure", "it hung"))
        assert "it hung" in meets(failed, goal, dense)[1]
    assert not meets(row(HALF, 0.001), DROP, None)[0]
    assert not meets(row(HALF, 0.001), DROP, row(DENSE, 0.001, None))[0]
    proxy = Result(HALF, {"top1": value("top1", 0.88, source=Source.PREDICTED)})
    assert not meets(proxy, DROP, dense)[0]


# --------------------------------------------------------------------------------------- verdicts


def test_the_fastest_that_meets_the_goals_is_chosen() -> None:
    rows = row(DENSE, 0.046e-3), row(QUARTER, 0.031e-3, 0.876), row(HALF, 0.020e-3, 0.80)
    found = judge(*rows)
    assert (found.verdict, found.chosen, found.dense) == ("pruned", QUARTER.key, DENSE.key)
    for piece in ("channel 25 %", "31 µs", "46 µs", "1.48 × faster", "1.45–1.51", "-0.4 pp"):
        assert piece in found.reason
    assert status(found, QUARTER) == "chosen"
    assert status(found, HALF) == "front"


@pytest.mark.parametrize("time", [0.99, 1.0, 1.01, 1.5])
def test_no_gain_beyond_the_noise_ships_the_dense_model(time: float) -> None:
    found = judge(row(DENSE, 1.0), row(QUARTER, time, 0.88))
    assert (found.verdict, found.chosen) == ("dense", DENSE.key)
    assert "ship the dense model on onnxruntime" in found.reason
    assert ("beaten" in found.reason) == (time > 1.02)


def test_the_dense_model_may_be_best_on_another_backend() -> None:
    other = candidate(backend=TVM)
    found = judge(row(DENSE, 1.0), row(other, 0.5), row(QUARTER, 0.7))
    assert (found.verdict, found.chosen, found.dense) == ("dense", other.key, other.key)
    assert "ship the dense model on tvm" in found.reason
    swift = judge(row(DENSE, 1.0), row(other, 0.5), row(QUARTER, 0.2))
    assert "for the dense model on tvm (2.50 × faster" in swift.reason


def test_ties_go_to_accuracy_then_to_the_smaller_and_say_so() -> None:
    big, small = candidate("channel", 0.3), candidate("channel", 0.4)
    found = judge(row(DENSE, 1.0), row(big, 0.500, 0.875), row(small, 0.505, 0.878))
    assert found.chosen == small.key
    assert "tie with channel 30 %" in found.reason
    assert "broken by accuracy, then simplicity" in found.reason
    # With no accuracy at all it breaks no tie.
    cost = synthetic.recipe(goals=(), objectives=("artifact_bytes", "latency_p50"))
    rows = row(DENSE, 1.0, None), row(big, 0.5, None, size=9), row(small, 0.505, None, size=8)
    found = decide(rows, cost, synthetic.target())
    assert "broken by simplicity." in found.reason
    found = judge(row(DENSE, 1.0), row(big, 0.5, 0.878, size=90), row(small, 0.505, 0.878, size=80))
    assert found.chosen == small.key
    found = judge(row(DENSE, 1.0), row(big, 0.5, 0.875), row(small, 0.6, 0.88))
    assert found.chosen == big.key
    assert "tie" not in found.reason


def test_a_tie_that_cannot_be_told_from_dense_is_not_chosen() -> None:
    # HALF beats dense; QUARTER, more accurate, can be told neither from HALF nor from dense.
    rows = row(DENSE, 1.3, spread=0.08), row(HALF, 1.0, 0.875, 0.1), row(QUARTER, 1.15, 0.88, 0.1)
    assert judge(*rows).chosen == HALF.key


def test_nobody_meets_the_goals() -> None:
    found = judge(row(DENSE, 5.0), row(QUARTER, 2.5e-3), row(HALF, 4e-3), goals=(FAST,))
    assert (found.verdict, found.chosen) == ("none", None)
    assert found.dense == DENSE.key
    assert "nearest is channel 25 %" in found.reason
    assert "2.5 ms" in found.reason
    assert not any(s.meets_goals for s in found.standings)


def test_a_goal_the_dense_model_misses_can_still_be_met() -> None:
    found = judge(row(DENSE, 5e-3), row(QUARTER, 1e-3), goals=(FAST, DROP))
    assert (found.verdict, found.chosen) == ("pruned", QUARTER.key)
    assert "which does not meet the goals" in found.reason


def test_missing_never_wins() -> None:
    found = judge(row(DENSE, 1.0), row(QUARTER, None), row(HALF, 0.5, None), goals=())
    assert found.chosen == DENSE.key
    assert status(found, QUARTER) == "missing"
    assert status(found, HALF) == "missing"
    only = judge(row(QUARTER, None), row(HALF, 0.5, None), goals=())
    assert (only.verdict, only.chosen) == ("none", None)
    assert "a missing number never wins" in only.reason


def test_without_a_dense_model_the_reason_says_so() -> None:
    failed = Result(DENSE, {}, failure=Failure("measure", "hung"))
    found = judge(failed, row(QUARTER, 1.0), goals=())
    assert (found.verdict, found.dense) == ("pruned", None)
    assert "no dense model to compare it with" in found.reason
    # A drop cannot be told without the dense model, and what cannot be told is not met.
    assert judge(failed, row(QUARTER, 1.0)).verdict == "none"


def test_nothing_at_all() -> None:
    assert judge().reason == "No model to ship: there were no candidates."
    failed = Result(DENSE, {}, failure=Failure("train", "NaN"))
    found = judge(failed)
    assert found.verdict == "none"
    assert "all 1 candidates failed" in found.reason
    assert found.standings[0].reasons == ("train: NaN",)


def test_an_objective_nobody_has_decides_nothing_and_is_named() -> None:
    recipe = synthetic.recipe()
    found = decide(synthetic.results(energy=False), recipe, synthetic.target())
    assert found.verdict == "pruned"
    assert "Energy decided nothing" in found.reason
    assert "RAPL is not readable" in found.reason
    with_proxy = decide(synthetic.results(), recipe, synthetic.target())
    assert "energy (proxy)" in with_proxy.reason


def test_a_control_is_called_one() -> None:
    control = candidate("unstructured", 0.5, criterion="random")
    found = judge(row(DENSE, 1.0), row(control, 0.5))
    assert found.chosen == control.key
    assert "(a control)" in found.reason


def test_choosing_by_accuracy_prefers_the_dense_model_in_a_tie() -> None:
    top = Value("top1", 0.885, Source.MEASURED, 0.876, 0.894)
    level = Value("top1", 0.880, Source.MEASURED, 0.871, 0.889)
    rows = Result(DENSE, {"top1": level}), Result(QUARTER, {"top1": top})
    recipe = synthetic.recipe(goals=(), objectives=("top1",), choose="top1")
    assert decide(rows, recipe, synthetic.target()).chosen == DENSE.key


# -------------------------------------------------------------------------------------- properties

grade = st.one_of(st.none(), st.integers(1, 6))
board = st.lists(st.tuples(grade, grade, st.booleans()), max_size=8)


def rows_of(table: list[tuple[int | None, int | None, bool]]) -> list[Result]:
    """The first two rows are dense (two backends), the rest pruned; some failed."""
    who = [DENSE, candidate(backend=TVM), *(candidate("channel", i / 10) for i in range(1, 9))]
    rows = []
    for one, (time, top, failed) in zip(who, table, strict=False):
        made = row(one, time, None if top is None else 0.8 + top / 100, spread=0.1)
        failure = Failure("measure", "hung") if failed else None
        rows.append(dataclasses.replace(made, failure=failure))
    return rows


@given(board, st.randoms(use_true_random=False))
def test_the_order_of_the_results_does_not_matter(
    table: list[tuple[int | None, int | None, bool]], dice: random.Random
) -> None:
    rows = rows_of(table)
    expected = judge(*rows)
    dice.shuffle(rows)
    assert judge(*rows) == expected


@given(board, st.sampled_from([(), (DROP,), (Goal("latency_p50", "max", 3.0),)]))
def test_what_is_chosen_is_defensible(
    table: list[tuple[int | None, int | None, bool]], goals: tuple[Goal, ...]
) -> None:
    rows = rows_of(table)
    found = judge(*rows, goals=goals)
    by_key = {r.candidate.key: r for r in rows}
    assert {s.candidate for s in found.standings} == set(by_key)
    alive = [r for r in rows if r.failure is None]
    nobody_scored = all(r.number("top1") is None for r in alive)
    fit = [
        r
        for r in alive
        if r.number("latency_p50") is not None
        and (r.number("top1") is not None or nobody_scored)
        and all(meets(r, goal, baseline(r, rows))[0] for goal in goals)
    ]
    if found.chosen is None:
        assert found.verdict == "none"
        assert not fit
        return
    chosen = by_key[found.chosen]
    assert chosen.failure is None
    assert chosen.number("latency_p50") is not None
    assert all(meets(chosen, goal, baseline(chosen, rows))[0] for goal in goals)
    mine = chosen.values["latency_p50"]
    assert mine.low is not None
    for other in fit:
        theirs = other.values["latency_p50"]
        assert theirs.high is not None
        assert theirs.high >= mine.low, "a clearly faster one that meets the goals was passed over"
        if other.candidate.compression.is_dense and found.verdict == "pruned":
            assert mine.high is not None
            assert theirs.low is not None
            assert mine.high < theirs.low, "chosen over a dense model without a clear gain"


def test_the_backend_of_the_synthetic_choice() -> None:
    found = decide(synthetic.results(), synthetic.recipe(), synthetic.target())
    chosen = next(r for r in synthetic.results() if r.candidate.key == found.chosen)
    assert chosen.candidate.backend == ORT
    assert chosen.candidate.compression.pattern == "channel"
    statuses = {s.status for s in found.standings}
    assert statuses == {"chosen", "front", "dominated", "missing", "failed"}
