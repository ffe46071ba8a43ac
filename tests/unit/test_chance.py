from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence

import pytest

from hwbench import studies
from hwbench.pareto import decide, front, rivals
from hwbench.pareto.chance import on_front, proxies
from hwbench.pipeline import confirm
from hwbench.records import Beside, Goal, Result, Source, Value
from tests import synthetic

AXES = ("top1", "latency_p50")


def result(
    sparsity: float, top1: float, times: Sequence[float], energy: Value | float = 1.0
) -> Result:
    who = synthetic.candidate("channel", sparsity) if sparsity else synthetic.candidate()
    mean = sum(times) / len(times)
    latency = Value(
        "latency_p50", mean, Source.MEASURED, min(times), max(times), generations=tuple(times)
    )
    return synthetic.result(who, {"top1": top1, "latency_p50": latency, "energy": energy})


FAST = result(0.5, 0.90, (1.0, 1.01, 0.99))
SLOW = result(0.25, 0.80, (2.0, 2.02, 1.98))
DENSE = result(0.0, 0.95, (3.0, 3.03, 2.97))


def of(results: Sequence[Result], axes: Sequence[str] = AXES) -> list[float]:
    found = on_front(results, axes)
    return [found[r.candidate.key] for r in results]


def test_what_is_beaten_in_every_generation_has_no_chance() -> None:
    assert of([FAST, SLOW, DENSE]) == [1.0, 0.0, 1.0]


def test_what_processes_do_not_settle_is_between() -> None:
    shaky = result(0.75, 0.89, (0.88, 1.06, 0.94))
    narrow = dataclasses.replace(shaky.values["latency_p50"], low=0.94, high=0.98)
    shaky = dataclasses.replace(shaky, values={**shaky.values, "latency_p50": narrow})
    chances = of([FAST, shaky])
    assert chances[0] == 1.0
    assert 0.2 < chances[1] < 0.8
    assert of([FAST, shaky]) == chances  # drawn from a seed: the same each time


def test_missing_numbers_have_no_probability_and_fewer_generations_still_one() -> None:
    early = dataclasses.replace(SLOW.values["latency_p50"], generations=(2.0, 2.0))
    dropped = dataclasses.replace(SLOW, values={**SLOW.values, "latency_p50": early})
    assert of([FAST, dropped, DENSE]) == [1.0, 0.0, 1.0]
    gone = Value("latency_p50", None, Source.MEASURED, reason="it crashed")
    lost = dataclasses.replace(SLOW, values={**SLOW.values, "latency_p50": gone})
    assert lost.candidate.key not in on_front([FAST, lost], AXES)
    assert on_front([], AXES) == {}


@pytest.mark.parametrize("seed", range(6))
def test_the_chance_and_the_front_go_by_the_same_rule(seed: int) -> None:
    # Figures that every generation repeats: what is on the front is on it in each draw.
    dice = random.Random(seed)
    everyone = []
    for n in range(12):
        time = math.exp(dice.gauss(0, 0.05))
        reach = dice.uniform(0.0, 0.08)
        latency = Value(
            "latency_p50",
            time,
            Source.MEASURED,
            time - reach,
            time + reach,
            generations=(time,) * 3,
        )
        peak = dice.randrange(1, 9) * 1e5
        memory = Value("peak_memory", peak, Source.MEASURED, peak - 1.1e5, peak + 1.1e5)
        who = synthetic.candidate("unstructured", (n + 1) / 16)
        numbers: dict[str, float | Value] = {
            "latency_p50": latency, "peak_memory": memory, "energy": dice.random()
        }  # fmt: skip
        everyone.append(synthetic.result(who, numbers))
    axes = ("latency_p50", "peak_memory", "energy")
    members = set(front(everyone, axes).members)
    assert on_front(everyone, axes) == {
        r.candidate.key: float(r.candidate.key in members) for r in everyone
    }


def joules(number: float, source: Source = Source.PROXY, tier: str = "proxy") -> Value:
    return Value("energy", number, source, tier=tier)


def test_it_is_said_whether_a_proxy_decides_the_front() -> None:
    axes = ("latency_p50", "energy")
    a, b = result(0.5, 0.9, (1.0,), joules(1.0)), result(0.25, 0.9, (2.0,), joules(0.9))
    # b is on the front only because the proxy gives it a tenth less.
    (said,) = proxies([a, b], axes)
    assert "owe its place to it alone" in said
    assert b.candidate.label in said
    # Half of it is beyond what a proxy errs by.
    clear = result(0.25, 0.9, (2.0,), joules(0.4))
    (said,) = proxies([a, clear], axes)
    assert "would be the same" in said
    metered = [
        result(0.5, 0.9, (1.0,), joules(1.0, Source.MEASURED, "meter")),
        result(0.25, 0.9, (2.0,), joules(0.9, Source.MEASURED, "meter")),
    ]
    assert proxies(metered, axes) == ()


def test_tiers_of_joules_are_never_mixed_on_an_axis() -> None:
    meter = result(0.5, 0.9, (1.0,), joules(2.0, Source.MEASURED, "meter"))
    counter = result(0.25, 0.9, (1.0,), joules(1.0, Source.MEASURED, "counter"))
    found = front([meter, counter], ("energy",))
    assert found.members == (meter.candidate.key,)
    assert "only counter" in found.missing[counter.candidate.key]


def test_the_rivals_are_the_runner_up_and_the_dense_model() -> None:
    recipe = synthetic.recipe(goals=[Goal("top1", "max_drop", 0.1)], objectives=AXES)
    other = result(0.75, 0.93, (1.5, 1.52, 1.49))
    everyone = [DENSE, SLOW, FAST, other]
    decision = decide(everyone, recipe, synthetic.target())
    assert decision.chosen == FAST.candidate.key
    assert all(s.on_front is not None for s in decision.standings)
    found = rivals(everyone, decision, recipe)
    assert [r.candidate.key for r in found] == [other.candidate.key, DENSE.candidate.key]
    by_energy = dataclasses.replace(recipe, choose="energy")
    assert rivals(everyone, decision, by_energy) == ()
    none = dataclasses.replace(decision, chosen=None)
    assert rivals(everyone, none, recipe) == ()


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        ("slower", "5.0% slower (confirmed)"),
        ("faster", "the other way round"),
        ("equivalent", "the same within 2%: a tie"),
        ("ambiguous", "a tie, less than 3.0% is not seen"),
    ],
)
def test_a_confirmation_a_tie_and_a_swap_are_said(verdict: str, says: str) -> None:
    ratio = 0.95 if verdict == "faster" else 1.05
    found = Beside(SLOW.candidate.key, ratio, 1.0, 1.1, verdict, 0.03)
    by_key = {SLOW.candidate.key: SLOW}
    said = confirm.words([found], by_key, valid=True)
    assert says in said
    assert SLOW.candidate.label in said
    assert "not sure" in confirm.words([found], by_key, valid=False)
    assert confirm.words([], by_key, valid=True) == ""


def test_who_wins_head_to_head_is_chosen_if_it_meets_the_goals() -> None:
    recipe = synthetic.recipe(goals=[Goal("top1", "max_drop", 0.1)], objectives=AXES)
    other = result(0.75, 0.93, (1.5, 1.52, 1.49))
    everyone = [DENSE, SLOW, FAST, other]
    first = decide(everyone, recipe, synthetic.target())
    beaten = [
        Beside(other.candidate.key, 0.97, 0.96, 0.98, "faster"),
        Beside(SLOW.candidate.key, 0.90, 0.89, 0.91, "faster"),  # misses the goal
        Beside(DENSE.candidate.key, 1.05, 1.04, 1.06, "slower"),
    ]
    winner = confirm.winner(beaten, first)
    assert winner is beaten[0]
    found = confirm.swapped(first, everyone, recipe, synthetic.target(), winner)
    assert found.chosen == other.candidate.key
    assert {s.candidate: s.status for s in found.standings}[other.candidate.key] == "chosen"
    assert f"preferred {FAST.candidate.label}" in found.reason
    assert "3.1% slower than this one, so the choice was changed" in found.reason
    (turned,) = found.confirmed
    assert (turned.other, turned.verdict) == (FAST.candidate.key, "slower")
    assert (turned.low, turned.high) == pytest.approx((1 / 0.98, 1 / 0.96))
    assert confirm.winner(beaten[1:], first) is None
    dense = dataclasses.replace(beaten[0], other=DENSE.candidate.key)
    assert confirm.swapped(first, everyone, recipe, synthetic.target(), dense).verdict == "dense"


def test_picking_again_does_not_forget_who_lost_head_to_head() -> None:
    recipe = synthetic.recipe(goals=[Goal("top1", "max_drop", 0.1)], objectives=AXES)
    other = result(0.75, 0.93, (1.5, 1.52, 1.49))
    everyone = [DENSE, SLOW, FAST, other]
    first = decide(everyone, recipe, synthetic.target())
    better = Beside(other.candidate.key, 0.97, 0.96, 0.98, "faster")
    swapped = confirm.swapped(first, everyone, recipe, synthetic.target(), better)
    run = synthetic.study(everyone, swapped, recipe)
    again = studies.pick(run, (), None).decision
    assert again.chosen == other.candidate.key
    assert again.confirmed == swapped.confirmed
    # By another figure, or without that comparison, it decides afresh.
    assert studies.pick(dataclasses.replace(run, decision=first), (), None).decision == first
    by_file = dataclasses.replace(recipe, choose="artifact_bytes")
    found = studies.pick(run, (), "artifact_bytes").decision
    assert found.chosen == decide(everyone, by_file, synthetic.target()).chosen
