"""Whose accuracy is repeated, and what is said of it."""

from __future__ import annotations

from types import SimpleNamespace

from hwbench.pipeline.repeat import rival, words
from hwbench.records import Repeated
from tests import synthetic


def row(pattern: str, sparsity: float, top1: float, latency: float):  # type: ignore[no-untyped-def]
    who = synthetic.candidate(pattern, sparsity)
    return synthetic.result(who, {"top1": top1, "latency_p50": latency})


CONTEXT = SimpleNamespace(recipe=synthetic.recipe())


def test_the_rival_is_the_fastest_of_about_the_same_accuracy() -> None:
    chosen = row("channel", 0.25, 0.84, 40e-6)
    near, slower = row("2:4", 0.5, 0.825, 30e-6), row("4x1", 0.5, 0.85, 50e-6)
    far, dense = row("channel", 0.75, 0.70, 10e-6), row("dense", 0.0, 0.84, 42e-6)
    everyone = [chosen, slower, far, dense, near]
    assert rival(chosen, everyone, CONTEXT) is near  # type: ignore[arg-type]
    assert rival(chosen, [chosen, far, dense], CONTEXT) is None  # type: ignore[arg-type]


def test_seeds_are_told_as_mean_and_deviation_beside_the_paired_difference() -> None:
    chosen = row("channel", 0.25, 0.84, 40e-6)
    key = chosen.candidate.key
    one = Repeated(key, (0.84, 0.83, 0.85), "dense", 0.004, -0.007, 0.016, 0.55, 2000)
    said = words([one], {key: chosen})
    assert "On the same 2000 images channel 25 %" in said
    assert "+0.4 pp from the dense model (95 % interval -0.7 to +1.6, McNemar p = 0.55)" in said
    assert "over 3 fine-tuning seeds 84.0 ± 1.0 % (mean ± sd)" in said
