"""The bar for samplers: Optuna finds more than chance does, on a table of real evaluations."""

from pathlib import Path

import pytest

from hwbench.instruments.sampler_race import race
from hwbench.instruments.search_figures import main, table_of
from hwbench.registry import SAMPLERS

TABLE = Path(__file__).parents[1] / "data" / "search" / "p32.jsonl"


@pytest.mark.skipif(bool(SAMPLERS.lacking("optuna")), reason="needs optuna")
def test_optuna_beats_random_at_equal_budget_over_five_seeds() -> None:
    table = table_of(TABLE)
    assert len(table) >= 200
    entrants = [
        ("random", {}),
        ("optuna", {"algorithm": "tpe"}),
        ("optuna", {"algorithm": "nsga2"}),
    ]
    chance, tpe, nsga2 = race(table, entrants, 60, range(5))
    assert chance.median < 0.96
    assert tpe.median > chance.median + 0.02
    assert nsga2.median > chance.median + 0.02


def test_a_folder_that_is_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["race", str(tmp_path)]) == 2
    assert "finished run" in capsys.readouterr().err
