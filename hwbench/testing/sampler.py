"""What every sampler promises: all candidates once, and the same walk for the same answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwbench.records import Point
from hwbench.registry import SAMPLERS
from hwbench.testing._plugin import PluginContract

if TYPE_CHECKING:
    from hwbench.protocols import Sampler

SPACE = tuple(
    Point({"pattern": pattern, "backend": backend, "precision": "fp32"}, {"sparsity": sparsity})
    for pattern, sparsities in (("channel", (0.25, 0.5)), ("unstructured", (0.5, 0.8, 0.9)))
    for sparsity in sparsities
    for backend in ("one", "other")
)
"""A space of ten candidates."""


class SamplerContract(PluginContract):
    """A sampler named by ``kind``."""

    family = SAMPLERS

    def sampler(self) -> Sampler:
        """Return an instance."""
        return SAMPLERS.create(self.kind, self.options)

    def walk(self) -> list[int]:
        """Return the order in which a fresh instance asks for the space; one candidate fails."""
        sampler = self.sampler()
        sampler.begin(SPACE, 2)
        order = []
        while (index := sampler.ask()) is not None:
            order.append(index)
            sampler.tell(index, None if index == 3 else (float(index), 10.0 - index))
        return order

    def test_everything_is_tried_once_and_then_nothing(self) -> None:
        """Every candidate is asked for once."""
        assert sorted(self.walk()) == list(range(len(SPACE)))

    def test_the_same_answers_give_the_same_walk(self) -> None:
        """It is deterministic."""
        assert self.walk() == self.walk()

    def test_one_that_does_not_choose_keeps_the_order(self) -> None:
        """What its traits say of choosing is true."""
        if not SAMPLERS.traits(self.kind).chooses:
            assert self.walk() == list(range(len(SPACE)))

    def test_several_may_be_asked_for_at_a_time(self) -> None:
        """Answers may come late."""
        sampler = self.sampler()
        sampler.begin(SPACE, 2)
        batch = [sampler.ask() for _ in range(4)]
        assert len(set(batch)) == 4
        for index in batch:
            assert index is not None
            sampler.tell(index, (1.0, 1.0))
        assert sampler.ask() not in batch

    def test_an_empty_space_has_nothing_to_try(self) -> None:
        """Nothing to try is no error."""
        sampler = self.sampler()
        sampler.begin((), 1)
        assert sampler.ask() is None
