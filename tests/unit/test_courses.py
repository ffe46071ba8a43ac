"""Schedules and recoveries in a recipe: what fits together, and what is refused by name."""

from pathlib import Path
from typing import Any

import pytest

from hwbench import config
from hwbench.errors import UserError
from hwbench.records import Recipe
from hwbench.search import plan
from tests.synthetic import target
from tests.unit.test_config import changed, write

TARGET = target()


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


def test_a_control_for_every_pattern(tmp_path: Path) -> None:
    methods = [
        {"pattern": "channel", "scope": "global", "schedule": "cubic", "sparsities": [0.25]},
        {"pattern": "channel", "criterion": "l1"},
        {"pattern": "unstructured", "criterion": "random"},
    ]
    search = {"sparsities": [0.5], "methods": methods, "controls": ["scratch", "random"]}
    recipe = config.load_recipe(write(tmp_path, changed(search=search)))
    scratch, chance = recipe.methods[3:]
    assert (scratch.pattern, scratch.schedule, scratch.steps) == ("channel", "scratch", 1)
    assert scratch.sparsities == (0.25, 0.5)
    assert (chance.criterion, chance.schedule, chance.scope) == ("random", "cubic", "global")
    specs = [c.compression for c in plan(recipe, TARGET)]
    controls = {s.method for s in specs if s.is_control}
    assert controls == {
        "channel l2 global scratch",
        "channel random global cubic",
        "unstructured random global",
    }
    lengths = {s.epochs for s in specs if s.schedule == "scratch"}
    assert lengths == {recipe.train.epochs + recipe.recovery.epochs}


@pytest.mark.parametrize(
    ("method", "train", "says"),
    [
        ({"schedule": "scratch", "recovery": "bn"}, 10, "not healed"),
        ({"schedule": "scratch"}, 0, "training that is not there"),
    ],
)
def test_what_scratch_needs(tmp_path: Path, method: dict[str, Any], train: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        _load(tmp_path, method, train={"epochs": train})
    search = {"methods": [{"pattern": "channel"}], "controls": ["scratch"]}
    path = write(tmp_path, changed(search=search, train={"epochs": 0}))
    with pytest.raises(UserError, match=r"search\.controls"):
        config.load_recipe(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"schedule": "cubic", "steps": 4}, {"schedule": "cubic", "steps": 30}),
        ({"recovery": "distill", "teacher": 0.3}, {"recovery": "distill", "teacher": 0.7}),
        ({"recovery": "distill"}, {"recovery": "distill", "temperature": 2.0}),
        ({"pattern": "channel"}, {"pattern": "channel", "options": {"min_width": 4}}),
        ({"schedule": "lottery"}, {"schedule": "lottery", "rewind_epoch": 1}),
        ({"schedule": "cubic"}, {"schedule": "cubic", "begin": 0.2}),
    ],
)
def test_what_differs_in_one_word_has_another_name(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any]
) -> None:
    methods = [{"pattern": "unstructured", **m} for m in (one, other)]
    recipe = config.load_recipe(
        write(tmp_path, changed(search={"sparsities": [0.5], "methods": methods}))
    )
    pruned = [c for c in plan(recipe, TARGET) if not c.compression.is_dense]
    assert (
        len({c.label for c in pruned}) == len({c.key for c in pruned}) == 2 * len(recipe.backends)
    )


def test_what_is_usual_needs_no_word(tmp_path: Path) -> None:
    usual = {"recovery": "distill", "teacher": 0.5, "schedule": "cubic", "steps": 8}
    method = {"pattern": "channel", "options": {"min_width": 8}, **usual}
    (one,) = {
        c.compression.label
        for c in plan(_load(tmp_path, method), TARGET)
        if not c.compression.is_dense
    }
    assert one == "channel 50 % l2 local cubic distill"
