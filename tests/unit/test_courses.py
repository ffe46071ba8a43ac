"""Schedules and recoveries in a recipe: what fits together, and what is refused by name."""

from pathlib import Path
from typing import Any

import pytest

from hwbench import config
from hwbench.errors import UserError
from hwbench.records import Recipe
from tests.unit.test_config import changed, write


def _load(tmp_path: Path, method: dict[str, Any], **more: Any) -> Recipe:
    method = {"pattern": "unstructured", **method}
    data = changed(search={"sparsities": [0.5], "methods": [method]}, **more)
    return config.load_recipe(write(tmp_path, data))


def test_a_course_goes_from_the_file_to_the_record(tmp_path: Path) -> None:
    method = {"schedule": "lottery", "rewind_epoch": 2, "ticket": "random"}
    found = _load(tmp_path, method).methods[0]
    assert (found.schedule, found.rewind, found.ticket, found.steps) == ("lottery", 2, "random", 3)
    method = {"schedule": "cubic", "begin": 0.1, "end": 0.5, "recovery": "distill", "teacher": 0.9}
    found = _load(tmp_path, method).methods[0]
    assert (found.begin, found.end, found.steps, found.healing) == (0.1, 0.5, 8, "distill")
    assert (found.teacher, found.temperature) == (0.9, 4.0)


@pytest.mark.parametrize(
    ("method", "more", "says"),
    [
        ({"schedule": "cubic", "begin": 0.8, "end": 0.5}, {}, "begin is after end"),
        ({"rewind_epoch": 1}, {}, "belong to the lottery"),
        ({"schedule": "lottery"}, {"train": {"epochs": 0}}, "training that is not there"),
        ({"schedule": "lottery", "rewind_epoch": 10}, {}, "cannot go back to epoch 10 of 10"),
        ({"schedule": "lottery", "recovery": "bn"}, {}, "not healed"),
        (
            {"schedule": "lr_rewinding"},
            {"recover": {"epochs": 20}},
            "cannot repeat the last 20 of 10",
        ),
        ({"schedule": "lr_rewinding", "recovery": "bn"}, {}, "recovery bn does not"),
        ({"recovery": "distill"}, {"recover": {"epochs": 0}}, "distillation needs a training"),
        ({"ratios": {"stem": 0.5}, "scope": "local"}, {}, "ratios"),
        ({"schedule": "cosine"}, {}, "schedule"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, method: dict[str, Any], more: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        _load(tmp_path, method, **more)
    assert "search.methods[0]" in str(caught.value)
