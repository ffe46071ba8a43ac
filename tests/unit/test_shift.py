"""Corruptions by hand, and what the report makes of models under shift."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hwbench import pareto, report
from hwbench.errors import UserError
from hwbench.export.corruptions import CORRUPTIONS, corrupt
from hwbench.records import Distance, Paired, Shifted, ShiftSpec, Study
from hwbench.report import shifting
from tests import synthetic

PIXELS = np.random.default_rng(0).random((4, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_keeps_shape_and_range_repeats_itself_and_grows(name: str) -> None:
    found = [corrupt(PIXELS, name, severity) for severity in (1, 5)]
    for changed in found:
        assert changed.shape == PIXELS.shape
        assert changed.dtype == np.float32
        assert 0 <= changed.min() <= changed.max() <= 1
    weak, strong = (np.abs(changed - PIXELS).mean() for changed in found)
    assert 0 < weak < strong
    np.testing.assert_array_equal(found[0], corrupt(PIXELS, name, 1))


def test_contrast_and_brightness_by_hand() -> None:
    pair = np.array([0.2, 0.6], np.float32).reshape(1, 1, 1, 2)
    np.testing.assert_allclose(corrupt(pair, "contrast", 3).ravel(), [0.32, 0.48], atol=1e-6)
    colour = np.array([0.2, 0.4, 0.1], np.float32).reshape(1, 3, 1, 1)
    brighter = corrupt(colour, "brightness", 2).ravel()  # the value 0.4 becomes 0.5
    np.testing.assert_allclose(brighter, [0.25, 0.5, 0.125], atol=1e-6)


def test_unknown_corruptions_and_severities_are_refused() -> None:
    with pytest.raises(UserError, match="no corruption 'jpg'"):
        corrupt(PIXELS, "jpg", 1)
    with pytest.raises(UserError, match="severity"):
        corrupt(PIXELS, "jpeg", 6)


def shifted(key: str, nominal: float, severe: float) -> Shifted:
    """A model whose error is that much above its dense one's, ± half a point."""
    paired = {n: Paired(v, v - 0.005, v + 0.005) for n, v in (("nominal", nominal), ("5", severe))}
    return Shifted(
        key=key,
        images=2000,
        accuracy={"nominal": 0.9 - nominal, "5": 0.7 - severe},
        paired=paired,
        excess={"5": Paired(severe - nominal, severe - nominal - 0.01, severe - nominal + 0.01)},
        distance={"0": Distance(0.95, 0.1)},
    )


def study(severe: float) -> Study:
    rows = synthetic.results()
    decision = pareto.decide(rows, synthetic.recipe(), synthetic.target())
    whole = synthetic.study(rows, decision)
    exports = {
        (r.candidate.compression.pattern, r.candidate.compression.sparsity): r.candidate.export.key
        for r in rows
    }
    seen = (
        shifted(exports["dense", 0.0], 0.0, 0.0),
        shifted(exports["channel", 0.25], 0.001, 0.004),
        shifted(exports["channel", 0.5], 0.012, severe),
        shifted(exports["channel", 0.75], 0.2, 0.3),
    )
    recipe = dataclasses.replace(whole.recipe, shift=ShiftSpec((5,), 2000, 0.01))
    return dataclasses.replace(whole, shift=seen, recipe=recipe)


def test_the_potential_is_the_largest_sparsity_not_surely_worse(tmp_path: Path) -> None:
    [row] = shifting.potentials(study(severe=0.03))
    assert row["Nominal"] == "50% (surely 25%)", "1.2 points worse, but surely only 0.7"
    assert row["Severity 5"] == "25%"
    assert "from 50% to 25% at severity 5" in shifting.guideline(study(severe=0.03))
    assert "prune moderately" in shifting.guideline(study(severe=0.03))
    report.write(study(severe=0.03), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Prune potential" in page
    assert "+1.8 pp (+0.8 to +2.8)" in page


def test_a_potential_below_all_that_was_tried_is_said_so() -> None:
    whole = study(severe=0.03)
    only = dataclasses.replace(whole, shift=(whole.shift[0], whole.shift[2]))
    assert "from 50% to below 50%, the least tried, at severity 5" in shifting.guideline(only)


def test_no_loss_of_potential_is_said_too() -> None:
    assert "No method that was tried lost" in shifting.guideline(study(severe=0.012))
    plain = dataclasses.replace(study(severe=0.012), shift=())
    assert shifting.guideline(plain) == ""
