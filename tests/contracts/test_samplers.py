"""What every sampler promises, over the registry."""

from __future__ import annotations

import pytest

from hwbench.protocols import Sampler
from hwbench.records import Point
from hwbench.registry import SAMPLERS

SPACE = tuple(
    Point({"pattern": pattern, "backend": backend, "precision": "fp32"}, {"sparsity": sparsity})
    for pattern, sparsities in (("channel", (0.25, 0.5)), ("unstructured", (0.5, 0.8, 0.9)))
    for sparsity in sparsities
    for backend in ("onnxruntime", "tvm")
)
OPTIONS = [
    pytest.param(name, options, id=f"{name}-{'-'.join(map(str, options.values()))}")
    for name in SAMPLERS.kinds()
    for options in (
        [{"algorithm": a, "startup": 3, "population": 4} for a in ("tpe", "nsga2")]
        if name == "optuna"
        else [{}]
    )
]


def made(name: str, options: dict[str, object]) -> Sampler:
    lacking = SAMPLERS.lacking(name)
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}")
    return SAMPLERS.create(name, options)


def walk(sampler: Sampler) -> list[int]:
    sampler.begin(SPACE, 2)
    seen = []
    while (index := sampler.ask()) is not None:
        seen.append(index)
        fails = index == 3
        sampler.tell(index, None if fails else (float(index), 10.0 - index))
    return seen


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_everything_is_tried_once_and_then_nothing(name: str, options: dict[str, object]) -> None:
    sampler = made(name, options)
    assert sorted(walk(sampler)) == list(range(len(SPACE)))
    assert sampler.ask() is None


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_the_same_answers_give_the_same_walk(name: str, options: dict[str, object]) -> None:
    assert walk(made(name, options)) == walk(made(name, options))


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_several_may_be_asked_for_at_a_time(name: str, options: dict[str, object]) -> None:
    sampler = made(name, options)
    sampler.begin(SPACE, 2)
    batch = [sampler.ask() for _ in range(4)]
    assert len(set(batch)) == 4
    for index in batch:
        assert index is not None
        sampler.tell(index, (1.0, 1.0))
    assert sampler.ask() not in batch


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_an_empty_space_has_nothing_to_try(name: str, options: dict[str, object]) -> None:
    sampler = made(name, options)
    sampler.begin((), 1)
    assert sampler.ask() is None
