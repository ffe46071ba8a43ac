"""Weights as lists of (offset, value), in the order the kernels walk them.

Offsets are premultiplied (elements of the input buffer, not channels), so that the inner loop
adds one number to a pointer: the format of the SELL and BCSR families (Kreutzer et al. 2014;
Im, Yelick and Vuduc 2004) with rows sorted by length inside a K block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwbench.kernels.layouts import ROW_MULTIPLE, round_up

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sparse matrix (rows, taps), cut into K blocks, row blocks and groups of row blocks.

    ``blocks`` (K blocks + 1): first segment of each K block. A segment is a group of ``group``
    row blocks that walk together: ``rows`` (segments * group) their first rows, ``steps``
    (segments + 1) its first step. A step is one tap a row block: ``offsets`` (steps * group)
    and ``values`` (steps * group * row_block), both with room for a few steps more.
    """

    blocks: Ints
    rows: Ints
    steps: Ints
    offsets: Ints
    values: Floats
    row_block: int
    group: int
    stored: int
    """Values walked, padding included: what the kernel multiplies per pixel."""
    starts: Ints | None = None
    """First offset of every list, where pairs of rows have two (`encode_pairs`)."""

    @property
    def arrays(self) -> tuple[NDArray[np.int32] | Floats, ...]:
        """The tables, in the order the kernel takes them."""
        found = (self.blocks, self.rows, self.steps, self.offsets, self.values)
        return found if self.starts is None else (*found, self.starts)


def encode(
    weights: Floats, offsets: NDArray[np.int64], k_block: int, row_block: int = 1, group: int = 1
) -> Encoded:
    """Return `weights` (rows, taps) as lists; tap ``t`` reads the input at ``offsets[t]``.

    A row block stores a tap when any of its rows has it. Rows are padded with zeros to whole
    groups: the padded ones write to planes that nobody reads. Where planes do not come in such
    blocks, the last block begins earlier and overlaps the one before: its rows are computed
    twice, to the same values, which needs a single K block. Within a group the shorter lists
    share their last value among the steps that are left (zero times Inf would be NaN); empty
    ones have zeros at the group's taps, where a dense layer multiplies by zero too.
    """
    count, taps = weights.shape
    padded = round_up(count, row_block * group)
    firsts = np.arange(0, padded, row_block)
    if ROW_MULTIPLE % row_block and count >= row_block:
        assert group == 1
        assert k_block >= taps
        firsts = np.minimum(firsts, count - row_block)
    full = np.zeros((padded, taps), np.float32)
    full[:count] = weights
    grouped = full[firsts[:, None] + np.arange(row_block)]
    present = (grouped != 0).any(1)
    blocks, rows, steps, places, values = [0], [], [0], [], []
    for start in range(0, taps, k_block):
        here = present[:, start : start + k_block]
        lengths = here.sum(1)
        # Equal lengths side by side waste nothing; without groups the natural order streams.
        order = np.argsort(lengths, kind="stable") if group > 1 else np.arange(len(lengths))
        for first in range(0, len(order), group):
            members = order[first : first + group]
            at, value = _segment(grouped, here, members, start)
            places.append(offsets[at].ravel())
            values.append(value.ravel())
            rows.extend(firsts[members].tolist())
            steps.append(steps[-1] + len(at))
        blocks.append(len(steps) - 1)
    stored = steps[-1] * group * row_block
    # Tables a little longer than their steps: layers of one shape then share one function.
    spare = _room(steps[-1]) - steps[-1]
    places.append(np.zeros(spare * group, np.int64))
    values.append(np.zeros(spare * group * row_block, np.float32))
    tables = _tables(blocks, rows, steps, places, values)
    return Encoded(*tables, row_block, group, stored)


def _tables(
    blocks: list[int],
    rows: list[int],
    steps: list[int],
    places: list[NDArray[np.int64]],
    values: list[Floats],
) -> tuple[Ints, Ints, Ints, Ints, Floats]:
    return (
        np.array(blocks, np.int32),
        np.array(rows, np.int32),
        np.array(steps, np.int32),
        np.concatenate(places).astype(np.int32),
        np.concatenate(values).astype(np.float32),
    )


def encode_pairs(weights: Floats, offsets: NDArray[np.int64], k_block: int) -> Encoded:
    """Return `weights` (rows, taps) as two lists per pair of rows, so that no tap is read twice.

    First come the taps that both rows have, then, side by side, those that one alone has (the
    shorter of these padded as in `encode`). A step is one offset and two values in the first
    list, two of each in the second. ``steps`` (segments * 2 + 1) has the first step of each list,
    ``starts`` (segments * 2) its first offset.
    """
    count, taps = weights.shape
    full = np.zeros((round_up(count, 2), taps), np.float32)
    full[:count] = weights
    pairs = full.reshape(-1, 2, taps)
    blocks, rows, steps, starts, places, values = [0], [], [0], [0], [], []
    for start in range(0, taps, k_block):
        for number, pair in enumerate(pairs):
            here = pair[:, start : start + k_block] != 0
            shared = np.nonzero(here.all(0))[0] + start
            alone, other = _segment(pair[:, None], here & ~here.all(0), np.arange(2), start)
            for at, value in ((shared, pair[:, shared].T), (alone, other)):
                places.append(offsets[at].ravel())
                starts.append(starts[-1] + len(places[-1]))
                values.append(value.ravel())
                steps.append(steps[-1] + len(at))
            rows.append(2 * number)
        blocks.append(len(rows))
    size, stored = starts.pop(), 2 * steps[-1]
    places.append(np.zeros(_room(size) - size, np.int64))
    values.append(np.zeros(2 * (_room(steps[-1]) - steps[-1]), np.float32))
    tables = _tables(blocks, rows, steps, places, values)
    return Encoded(*tables, 2, 1, stored, np.array(starts, np.int32))


def joined(parts: Sequence[Encoded], firsts: Sequence[int]) -> Encoded:
    """Return matrices that follow each other, from these rows on, as one: for a thread each.

    ``blocks`` holds those of each part in turn. Between two parts lies a segment that no block
    names, since each part has room behind its steps.
    """
    head = parts[0]
    lists = 1 if head.starts is None else 2
    size = head.group * head.row_block
    segments = steps = places = 0
    blocks, rows, ends, starts = [], [], [], []
    for part, first in zip(parts, firsts, strict=True):
        blocks.append(part.blocks + segments)
        rows += [part.rows + first, np.zeros(head.group, np.int32)]
        ends += [part.steps + steps, np.zeros(lists - 1, np.int32)]
        if part.starts is not None:
            starts += [part.starts + places, np.zeros(lists, np.int32)]
        segments += len(part.rows) // head.group + 1
        steps += len(part.values) // size
        places += len(part.offsets)
    return Encoded(
        np.concatenate(blocks),
        np.concatenate(rows[:-1]),
        np.concatenate(ends[:-1]),
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.values for part in parts]),
        head.row_block,
        head.group,
        sum(part.stored for part in parts),
        np.concatenate(starts[:-1]) if starts else None,
    )


def _room(steps: int) -> int:
    """Return at least `steps` (and 1), rounded up by an eighth at most or to 8."""
    return round_up(max(steps, 1), max(8, 1 << max(steps.bit_length() - 4, 0)))


def _segment(
    grouped: Floats, here: NDArray[np.bool_], members: NDArray[np.int64], start: int
) -> tuple[NDArray[np.int64], Floats]:
    """Return taps (steps, group) and values (steps, group, row block) of one segment."""
    lists = [np.nonzero(here[m])[0] + start for m in members]
    longest = max(lists, key=len)
    taps = np.zeros((len(longest), len(members)), np.int64)
    values = np.zeros((len(longest), len(members), grouped.shape[1]), np.float32)
    for column, (member, taken) in enumerate(zip(members, lists, strict=True)):
        taps[:, column] = longest
        if len(taken):
            taps[len(taken) :, column] = taken[-1]
            taps[: len(taken), column] = taken
            values[: len(taken), column] = grouped[member][:, taken].T
            _share(values[:, column], len(taken))
    return taps, values


def _share(values: Floats, count: int) -> None:
    """Spread the last of `count` values over the steps behind it, in equal shares."""
    values[count - 1 :] = values[count - 1] / np.float32(len(values) - count + 1)


@dataclass(frozen=True, slots=True)
class Sell:
    """SELL-C-σ with C = lanes and σ = all rows: slices of rows of like length, one row a lane.

    ``slices`` (slices + 1) first steps; ``columns`` and ``values`` (steps * lanes); ``rows``
    (slices * lanes) where each lane's sum goes, ``count`` for lanes that pad the last slice.
    """

    slices: Ints
    columns: Ints
    values: Floats
    rows: Ints
    stored: int


def sell(weights: Floats, lanes: int, unroll: int = 2) -> Sell:
    """Return `weights` (rows, columns) as slices; steps per slice are a multiple of `unroll`."""
    count = len(weights)
    order = np.argsort((weights != 0).sum(1), kind="stable")
    slices, columns, values, rows = [0], [], [], []
    for first in range(0, count, lanes):
        members = order[first : first + lanes]
        lists = [np.nonzero(weights[m])[0] for m in members]
        steps = round_up(max(len(taken) for taken in lists), unroll)
        column = np.zeros((steps, lanes), np.int32)
        value = np.zeros((steps, lanes), np.float32)
        for lane, (member, taken) in enumerate(zip(members, lists, strict=True)):
            column[: len(taken), lane] = taken
            column[len(taken) :, lane] = taken[-1] if len(taken) else 0
            value[: len(taken), lane] = weights[member, taken]
            if len(taken):
                _share(value[:, lane], len(taken))
        columns.append(column.ravel())
        values.append(value.ravel())
        slices.append(slices[-1] + steps)
        rows.extend([*members.tolist(), *[count] * (lanes - len(members))])
    stored = slices[-1] * lanes
    if not stored:
        columns, values = [np.zeros(lanes, np.int32)], [np.zeros(lanes, np.float32)]
    return Sell(
        np.array(slices, np.int32),
        np.concatenate(columns),
        np.concatenate(values),
        np.array(rows, np.int32),
        stored,
    )
