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
class Move:
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


def plan(move: Move, table: NDArray[np.int32]) -> list[Vector] | None:
    """Return how to put every vector together; None where a gather is the better way."""
    count = len(table)
    wide = move.lanes
    if move.y_step != 1 or not wide <= count <= wide * FEW_VECTORS or move.x_channel < wide:
        return None
    # The last one overlaps the one before, if need be.
    starts = [*range(0, count - wide, wide), count - wide]
    made = [_vector(start, table[start : start + wide], move.x_channel) for start in starts]
    return made if max(len(vector.sources) for vector in made) <= FEW_SOURCES else None


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


def move_kernel(
    name: str, move: Move, table: NDArray[np.int32]
) -> tuple[tirx.PrimFunc, tuple[NDArray[np.int32], ...]]:
    """Return ``(x[, table], y)``, which copies every element of every plane, and its constants."""
    vectors = plan(move, table)
    if vectors is None:
        return finish(lambda: _gather(move, table), name), (table,)
    return finish(lambda: _shuffle(move, vectors), name), ()


def _fill(move: Move) -> Any:
    return T.int32(int(move.fill)) if move.dtype == "int32" else T.float32(move.fill)


def _loop(move: Move) -> Any:
    return T.parallel if move.threads > 1 else T.serial


def _shuffle(move: Move, vectors: Sequence[Vector]) -> None:
    x, y = argument("x", move.x_size, move.dtype), argument("y", move.y_size, move.dtype)
    wide = move.lanes
    with _loop(move)(0, move.images * move.channels) as number:
        image, channel = number // move.channels, number % move.channels
        x_start = image * move.x_image + channel * move.x_channel
        y_start = image * move.y_image + channel * move.y_channel
        for vector in vectors:
            parts = [
                T.Broadcast(_fill(move), wide) if s is None else x[T.Ramp(x_start + s, 1, wide)]
                for s in vector.sources
            ]
            made = _joined(parts, vector.lanes)
            T.buffer_store(y, made, [T.Ramp(y_start + vector.to, 1, wide)])


def _joined(parts: Sequence[Any], lanes: Sequence[int]) -> Any:
    """Return the vector whose lanes are these of the parts in a row: two at a time."""
    wide = len(lanes)
    if len(parts) == 1:
        whole = list(lanes) == list(range(wide))
        return parts[0] if whole else T.Shuffle([parts[0]], list(lanes))
    own = [lane if lane < 2 * wide else 0 for lane in lanes]
    made = T.Shuffle(list(parts[:2]), own)
    for number, part in enumerate(parts[2:], 2):
        first = number * wide
        picked = [
            wide + lane - first if first <= lane < first + wide else at
            for at, lane in enumerate(lanes)
        ]
        made = T.Shuffle([made, part], picked)
    return made


def _gather(m: Move, places: NDArray[np.int32]) -> None:
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
