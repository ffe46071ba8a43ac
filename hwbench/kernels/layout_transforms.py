"""Changes of layout: every element of a plane from a fixed place of another plane.

The places are known when the code is made. Small planes are therefore written as straight-line
code: a vector of the target is put together from the few vectors of the source that hold its
elements, which takes a shuffle each where a gather takes an access each element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from hwbench.kernels.template import argument, finish

WIDE = 16
"""Elements gathered at a time, where whole vectors are written."""
FEW_VECTORS = 128
"""Up to so many vectors a plane are written as straight-line code: beyond it outgrows caches."""
FEW_SOURCES = 9
"""Up to so many shuffles make a vector faster than a gather."""


@dataclass(frozen=True, slots=True)
class LayoutTransform:
    """A change of layout: sizes and strides in elements, per image and channel.

    Element ``e`` of a target plane comes from ``table[e]`` elements behind the start of the
    source's channel; a negative entry gets ``fill``.
    """

    images: int
    channels: int
    x_image: int
    x_channel: int
    y_image: int
    y_channel: int
    y_step: int
    x_size: int
    y_size: int
    lanes: int
    threads: int
    fill: float = 0.0
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Vector:
    """Where a target's vector comes from: lane ``l`` is ``lanes[l]`` of ``sources`` in a row.

    ``sources`` are the starts of vectors in the source's channel; None is a vector of ``fill``.
    """

    to: int
    sources: tuple[int | None, ...]
    lanes: tuple[int, ...]


def plan(transform: LayoutTransform, table: NDArray[np.int32]) -> list[Vector] | None:
    """Return how to put every vector together; None where a gather is the better way."""
    count = len(table)
    wide = transform.lanes
    if (
        transform.y_step != 1
        or not wide <= count <= wide * FEW_VECTORS
        or transform.x_channel < wide
    ):
        return None
    # The last one overlaps the one before, if need be.
    starts = [*range(0, count - wide, wide), count - wide]
    planned = [_vector(start, table[start : start + wide], transform.x_channel) for start in starts]
    return planned if max(len(vector.sources) for vector in planned) <= FEW_SOURCES else None


def _vector(to: int, places: NDArray[np.int32], size: int) -> Vector:
    """Return the fewest vectors of the source that hold all places, whole ones if as few."""
    wide = len(places)
    real = np.unique(places[places >= 0])
    whole = {int(p) // wide * wide for p in real}
    loose: list[int] = []
    for place in map(int, real):
        if not loose or place >= loose[-1] + wide:
            loose.append(min(place, size - wide))
    fits = all(start + wide <= size for start in whole)
    starts = sorted(whole) if fits and len(whole) <= len(loose) else loose
    sources: list[int | None] = [*starts]
    if (places < 0).any():
        sources.append(None)
    lanes = []
    for place in map(int, places):
        number = len(starts)
        if place >= 0:
            number = next(n for n, s in enumerate(starts) if s <= place < s + wide)
        lanes.append(number * wide + (place - starts[number] if place >= 0 else 0))
    return Vector(to, tuple(sources), tuple(lanes))


def transform_kernel(
    name: str, transform: LayoutTransform, table: NDArray[np.int32]
) -> tuple[tirx.PrimFunc, tuple[NDArray[np.int32], ...]]:
    """Return ``(x[, table], y)``, which copies every element of every plane, and its constants."""
    vectors = plan(transform, table)
    if vectors is None:
        return finish(lambda: _gather(transform, table), name), (table,)
    return finish(lambda: _shuffle(transform, vectors), name), ()


def _fill(transform: LayoutTransform) -> Any:
    return T.int32(int(transform.fill)) if transform.dtype == "int32" else T.float32(transform.fill)


def _loop(transform: LayoutTransform) -> Any:
    return T.parallel if transform.threads > 1 else T.serial


def _shuffle(transform: LayoutTransform, vectors: Sequence[Vector]) -> None:
    x, y = (
        argument("x", transform.x_size, transform.dtype),
        argument("y", transform.y_size, transform.dtype),
    )
    wide = transform.lanes
    with _loop(transform)(0, transform.images * transform.channels) as number:
        image, channel = number // transform.channels, number % transform.channels
        x_start = image * transform.x_image + channel * transform.x_channel
        y_start = image * transform.y_image + channel * transform.y_channel
        for vector in vectors:
            parts = [
                T.Broadcast(_fill(transform), wide)
                if s is None
                else x[T.Ramp(x_start + s, 1, wide)]
                for s in vector.sources
            ]
            joined = _joined(parts, vector.lanes)
            T.buffer_store(y, joined, [T.Ramp(y_start + vector.to, 1, wide)])


def _joined(parts: Sequence[Any], lanes: Sequence[int]) -> Any:
    """Return the vector whose lanes are these of the parts in a row: two at a time."""
    wide = len(lanes)
    if len(parts) == 1:
        whole = list(lanes) == list(range(wide))
        return parts[0] if whole else T.Shuffle([parts[0]], list(lanes))
    first_lanes = [lane if lane < 2 * wide else 0 for lane in lanes]
    vector = T.Shuffle(list(parts[:2]), first_lanes)
    for number, part in enumerate(parts[2:], 2):
        first = number * wide
        picked = [
            wide + lane - first if first <= lane < first + wide else at
            for at, lane in enumerate(lanes)
        ]
        vector = T.Shuffle([vector, part], picked)
    return vector


def _gather(m: LayoutTransform, places: NDArray[np.int32]) -> None:
    count, padded = len(places), bool((places < 0).any())
    x = argument("x", m.x_size, m.dtype)
    table = argument("table", count, "int32")
    y = argument("y", m.y_size, m.dtype)
    with _loop(m)(0, m.images * m.channels) as number:
        image, channel = number // m.channels, number % m.channels
        x_start = image * m.x_image + channel * m.x_channel
        y_start = image * m.y_image + channel * m.y_channel
        width = WIDE if count % WIDE == 0 else 1
        with T.serial(0, count // width) as part, T.vectorized(0, width) as lane:
            entry = part * width + lane
            place = table[entry]
            if padded:
                value = x[x_start + T.max(place, 0)]
                value = T.Select(place >= 0, value, _fill(m))
            else:
                value = x[x_start + place]
            T.buffer_store(y, value, [y_start + entry * m.y_step])
