"""Tensors as windows into a buffer: reshape, transpose and slice without moving anything.

A transformer between its linear layers is mostly such bookkeeping. Linear layers leave channels
far apart and tokens side by side; written with strides, attention's heads are slices of that
buffer, and its products read them where they lie.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class View:
    """A float32 tensor in a flat buffer of `size` elements.

    Element (i, j, ...) is ``scale`` times what lies at ``offset + i * strides[0] + ...``.
    """

    var: Any
    size: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    scale: float = 1.0

    @property
    def end(self) -> int:
        """One past the last element that the view reads."""
        steps = zip(self.shape, self.strides, strict=True)
        return self.offset + sum((n - 1) * s for n, s in steps) + 1

    def index(self) -> NDArray[np.int64]:
        """Return where every element lies, in the view's shape."""
        places = np.full(self.shape, self.offset, np.int64)
        for axis, stride in enumerate(self.strides):
            around = [1] * len(self.shape)
            around[axis] = -1
            places += (np.arange(self.shape[axis]) * stride).reshape(around)
        return places


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def transposed(view: View, order: Sequence[int]) -> View:
    """Return the view with its axes in another order."""
    return dataclasses.replace(
        view,
        shape=tuple(view.shape[a] for a in order),
        strides=tuple(view.strides[a] for a in order),
    )


def sliced(view: View, axis: int, start: int, step: int, count: int) -> View:
    """Return `count` elements of an axis, from `start` on, `step` apart."""
    shape, strides = list(view.shape), list(view.strides)
    shape[axis], strides[axis] = count, view.strides[axis] * step
    offset = view.offset + start * view.strides[axis]
    return dataclasses.replace(view, shape=tuple(shape), strides=tuple(strides), offset=offset)


def reshaped(view: View, shape: Sequence[int]) -> View | None:
    """Return the view in another shape of as many elements; None if that needs a copy."""
    runs: list[tuple[int, int]] = []  # axes that lie in one piece, as (size, stride)
    for size, stride in zip(view.shape, view.strides, strict=True):
        if runs and size != 1 and runs[-1][1] == size * stride:
            runs[-1] = (runs[-1][0] * size, stride)
        elif size != 1:
            runs.append((size, stride))
    runs.reverse()
    strides = []
    for extent in shape:
        if extent == 1:
            strides.append(0)
            continue
        size, stride = runs.pop()
        if size % extent:
            return None
        strides.append(size // extent * stride)
        if size > extent:
            runs.append((size // extent, stride))
    return dataclasses.replace(view, shape=tuple(shape), strides=tuple(strides))


def flat_tokens(view: View) -> View | None:
    """Return the view as (tokens, channels) if tokens lie side by side; else None."""
    flat = reshaped(view, (math.prod(view.shape[:-1]), view.shape[-1]))
    if flat is None or (flat.strides[0] != 1 and flat.shape[0] != 1):
        return None
    return flat
