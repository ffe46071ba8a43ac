"""Which of two layers is faster, timed the way the session will run them. Not a plug-in.

A layer of a CUDA graph costs no launch, a layer that is called from Python does, and weights that
do not stay in the cache from one inference to the next come from memory each time: a kernel that
wins under one of these loses under another.
"""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Call = Callable[[Tensor], Tensor]
Maker = Callable[[], Call]
"""Returns a layer with weights of its own each time it is called."""

SCRATCH_BYTES = 256 << 20
"""More than the L2 of any GPU: writing so much leaves nothing of a model in it."""

_ROUNDS, _CALLS, _WARM = 7, 10, 3
_MOST_COPIES, _MOST_BYTES = 32, 1 << 29


@dataclass(frozen=True, slots=True)
class How:
    """How layers will run: in a CUDA graph or not, and with which weights.

    ``evict``: bytes that pass through the GPU's cache between two calls of a layer; 0 leaves its
    weights there.
    """

    graph: bool = False
    evict: int = 0


def copies(nbytes: int, how: How) -> int:
    """Return how many layers of `nbytes` each take turns so that none finds itself in the cache."""
    if not how.evict:
        return 1
    needed = math.ceil(how.evict / max(nbytes, 1)) + 1
    return max(1, min(needed, _MOST_COPIES, _MOST_BYTES // max(nbytes, 1)))


def ratio_of(
    one: Maker, other: Maker, example: Tensor, how: How, *, nbytes: tuple[int, int] = (0, 0)
) -> float:
    """Return the time of `one` over that of `other`, the median of rounds in turn.

    `nbytes` are the sizes of their weights. Raises whatever the layers raise.
    """
    with torch.inference_mode():
        runs = [
            _Run([make() for _ in range(copies(size, how))], example, how)
            for make, size in zip((one, other), nbytes, strict=True)
        ]
        for run in (*runs, *runs):
            run.seconds()
        return statistics.median(runs[0].seconds() / runs[1].seconds() for _ in range(_ROUNDS))


def fastest(calls: Sequence[Call], example: Tensor, how: How) -> int:
    """Return the place of the call that takes the least time, of those that run at all.

    Raises `RuntimeError` with what the last one said where none runs.
    """
    taken: dict[int, float] = {}
    said = "nothing to choose from"
    with torch.inference_mode():
        for place, call in enumerate(calls):
            try:
                run = _Run([call], example, how)
                run.seconds()
                # What each sample has on top, emptying the cache included or not, all have.
                sample = run.after_others if how.evict and example.is_cuda else run.seconds
                taken[place] = statistics.median(sample() for _ in range(_ROUNDS))
            except foreign() as error:
                said = (str(error).splitlines() or [type(error).__name__])[0]
                if example.is_cuda:
                    torch.cuda.synchronize()  # raises where nothing runs any more
    if not taken:
        raise RuntimeError(said)
    return min(taken, key=lambda place: taken[place])


class _Run:
    """Calls of the same kind, one after the other, as often as a figure needs."""

    def __init__(self, calls: Sequence[Call], example: Tensor, how: How) -> None:
        self._calls, self._example = calls, example
        self._repeats = max(1, math.ceil(_CALLS / len(calls)))
        self._graph: Any = None
        if how.graph and example.is_cuda:
            self._graph = captured(self._once, example.device)

    def _once(self) -> None:
        for call in self._calls:
            call(self._example)

    def seconds(self) -> float:
        """Return the seconds of one call."""
        step = self._once if self._graph is None else self._graph.replay
        if not self._example.is_cuda:
            begun = time.perf_counter()
            for _ in range(self._repeats):
                step()
            whole = time.perf_counter() - begun
        else:
            start, end = event(), event()
            torch.cuda.synchronize()
            start.record()
            for _ in range(self._repeats):
                step()
            end.record()
            end.synchronize()
            whole = float(start.elapsed_time(end)) * 1e-3
        return whole / (self._repeats * len(self._calls))

    def after_others(self) -> float:
        """Return the seconds of one call that finds nothing of its own in the GPU's cache."""
        scratch = _scratch(self._example.device)
        scratch.zero_()
        start, end = event(), event()
        start.record()
        self._once() if self._graph is None else self._graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3


@functools.cache
def _scratch(device: torch.device) -> Tensor:
    return torch.empty(SCRATCH_BYTES, dtype=torch.int8, device=device)


def captured(work: Callable[[], object], device: torch.device) -> Any:
    """Return a CUDA graph of the work; before, it runs in a stream of its own as CUDA demands."""
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def event() -> Any:
    """Return a CUDA event that keeps the time."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def foreign() -> tuple[type[Exception], ...]:
    """Return what a kernel that does not suit a layer or a GPU may raise."""
    # cuSPARSELt's refusals, shapes that do not fit, a kernel too large for shared memory.
    kinds: list[type[Exception]] = [
        RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError, IndexError,
    ]  # fmt: skip
    with contextlib.suppress(ImportError):
        from triton.errors import TritonError

        kinds.append(TritonError)
    return tuple(kinds)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's notice that its 2:4 interface is a prototype to ourselves."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
