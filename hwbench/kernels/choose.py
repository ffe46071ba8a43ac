"""Which configuration for which layer: a cost model narrows, a stopwatch decides.

The model counts cycles of a core that starts two vector operations and two loads a cycle. It is
good enough to drop what cannot win; on this machine the best few are then timed side by side.
For other machines, where nothing can be timed, its first choice is taken.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm

from hwbench.kernels import TRY_FROM
from hwbench.kernels.build import Machine
from hwbench.kernels.layouts import Blocked, Planar, cover, tiles
from hwbench.kernels.memory import Memory
from hwbench.kernels.problem import (
    WHOLE,
    Config,
    Kernel,
    Lists,
    OutputLanes,
    PairLists,
    Problem,
    Reading,
    RowLists,
    kernel,
    window_kernel,
)

ROUNDS = 8
DENSE_FROM = 0.3
"""Density from which dense kernels are timed beside the sparse ones (tried from `TRY_FROM`)."""
PAIRS_FROM = 0.15
"""Density from which rows share so many taps that shared lists are tried."""
SINGLE_BELOW = 0.4
"""Density below which a list per row is tried; above, shared lists always won."""
BLOCKED_BELOW = 1.3
"""Row blocks are tried when at most so many times more is stored than with single rows."""
MOST = 9
"""Configurations a layer that are worth timing, if they are of fewer kinds."""
PANEL_BYTES = 28 << 10
"""Of the input that a K block reads again for every row: a little less than first-level caches."""
WIDE = 8
"""Vectors a tile from which packing never won."""
THIN = 8
"""Layers with fewer rows or taps are computed dense: their lists would be overhead alone."""


@dataclass(frozen=True, slots=True)
class Core:
    """Figures of the cost model, in cycles, bytes and operations a cycle."""

    latency: float = 4.0
    fused: float = 2.0
    loads: float = 2.0
    per_segment: float = 14.0
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    beyond_l1: float = 1.8
    beyond_l2: float = 4.0


class Chooser:
    """Picks configurations and remembers what they took, in a `Memory` if there is one.

    Called with a `Problem`, returns its `Config`. At most ``seconds`` are spent on a network,
    beyond the kernel that is being tried when they end; the model decides the rest alone.
    ``times`` has, per signature, the seconds of each configuration that was timed.
    """

    def __init__(
        self, machine: Machine, seconds: float = 20.0, memory: Memory | None = None
    ) -> None:
        """Read what is remembered."""
        self.machine, self.seconds, self.memory = machine, seconds, memory
        self.spent = 0.0
        self.remembered: Mapping[str, Mapping[str, float]] = memory.recall() if memory else {}
        self.times: dict[str, dict[Config, float]] = {}
        self.new: set[str] = set()

    def __call__(self, problem: Problem) -> Config:
        """Return the configuration for a problem."""
        configs = _ranked(problem, candidates(problem, self.machine))
        if len(configs) == 1 or not self.machine.native:
            return configs[0]
        key = problem.signature
        self._recall(key, configs)
        left = self.seconds - self.spent
        if left > 0 and any(config not in self.times.get(key, {}) for config in configs):
            start = time.perf_counter()
            self.times[key] = timed(problem, configs, self.machine, left)
            self.new.add(key)
            self.spent += time.perf_counter() - start
        seconds = self.times.get(key, {})
        return min(configs, key=lambda c: (seconds.get(c, float("inf")), _untried(c, seconds)))

    def _recall(self, key: str, configs: Sequence[Config]) -> None:
        """Take over what a file says of configurations, unless this run has timed the problem."""
        seconds = {} if key in self.new else self.remembered.get(key, {})
        for config in configs:
            if config.label in seconds:
                self.times.setdefault(key, {})[config] = seconds[config.label]

    def save(self) -> None:
        """Remember what was timed, in a file by the configurations' labels."""
        if self.memory is not None:
            self.memory.keep(
                {key: {c.label: s for c, s in self.times[key].items()} for key in self.new}
            )
        self.new.clear()


def _untried(config: Config, seconds: Mapping[Config, float]) -> bool:
    """Return whether the model alone speaks for a kernel that it was not held against."""
    return isinstance(config, OutputLanes) and config not in seconds


def _ranked(problem: Problem, configs: Sequence[Config]) -> list[Config]:
    """Return configurations, the likeliest of each kind first, then the seconds.

    At most `MOST`, but one of every kind. When the time ends early each kind has then been
    timed: sparse is not taken for want of a rival.
    """
    cycles = {config: predicted(problem, config, Core()) for config in configs}
    ranks: dict[tuple[type[Config], int, bool], int] = defaultdict(int)
    places = {}
    for config in sorted(configs, key=cycles.__getitem__):
        kind = type(config), config.row_block, config.reading is Reading.FUSED
        places[config] = ranks[kind], cycles[config]
        ranks[kind] += 1
    return sorted(configs, key=places.__getitem__)[: max(MOST, len(ranks))]


def clock(threads: int) -> float:
    """Return seconds: of this thread's own work where it is alone, else of the wall.

    What runs in one thread is not slowed by being set aside for others' work, only delayed.
    """
    return time.thread_time() if threads == 1 else time.perf_counter()


def timed(
    problem: Problem, configs: Sequence[Config], machine: Machine, seconds: float
) -> dict[Config, float]:
    """Return the seconds of each configuration, the likeliest tried first.

    When `seconds` are over no further kernel is compiled and no further round begun; at least
    one configuration is timed.
    """
    deadline = time.perf_counter() + seconds
    bare = dataclasses.replace(
        problem, epilogue=dataclasses.replace(problem.epilogue, residual=False)
    )
    rng = np.random.default_rng(0)
    x = tvm.runtime.tensor(rng.random(problem.images * problem.x_image, np.float32))
    y = tvm.runtime.tensor(np.zeros(problem.y_size, np.float32))
    first, before = x, None
    if problem.before is not None:
        size = problem.images * problem.before.x_planes * problem.before.x_plane
        first = tvm.runtime.tensor(rng.random(size, np.float32))
        before = _call(window_kernel(problem.before, "k"), machine, first, x)
    calls: dict[Config, list[Callable[[], Any]]] = {}
    for config in configs:
        if calls and time.perf_counter() > deadline:
            break
        fuses = config.reading is Reading.FUSED
        call = _call(kernel(bare, config, "k"), machine, first if fuses else x, y)
        calls[config] = [call] if before is None or fuses else [before, call]
    taken = race(list(calls.values()), machine.threads, deadline)
    return dict(zip(calls, taken, strict=True))


def _call(kernel: Kernel, machine: Machine, x: Any, y: Any) -> Callable[[], Any]:
    """Return a kernel compiled and bound to its arguments."""
    function: Any = tvm.compile(tvm.IRModule({"k": kernel.function}), target=machine.target)["k"]
    return functools.partial(function, x, *map(tvm.runtime.tensor, kernel.constants), y)


def race(
    contestants: Sequence[Sequence[Callable[[], Any]]], threads: int, deadline: float
) -> list[float]:
    """Return the seconds of each row of calls, timed in turns until `deadline`."""
    rounds: list[list[float]] = []
    while len(rounds) <= ROUNDS and (len(rounds) < 2 or time.perf_counter() < deadline):
        taken = []
        for calls in contestants:
            # Not called before: the others have pushed its lists out of the caches, as the other
            # layers of a network do.
            start = clock(threads)
            for call in calls:
                call()
            taken.append(clock(threads) - start)
        rounds.append(taken)
    # The quartile: others use this machine too, and they only ever add time.
    return [float(t) for t in np.quantile(rounds[1:], 0.25, axis=0)]


def candidates(problem: Problem, machine: Machine) -> list[Config]:
    """Return the configurations worth timing, at least one, the dense ones last.

    Which they are was found by timing many on the layers of ResNet-18 and MobileNetV1.
    """
    density, (pairs, fours) = problem.density, problem.block_density
    dense = density > DENSE_FROM or min(problem.rows, problem.matrix.shape[1]) <= THIN
    configs: list[Config] = []
    if density < 1 - TRY_FROM:
        if density < SINGLE_BELOW:
            configs += _single(problem, machine)
        if density > PAIRS_FROM:
            configs += _pairs(problem, machine)
        if fours < BLOCKED_BELOW * density:
            configs += _rows(problem, machine, 4)
        elif pairs < BLOCKED_BELOW * density:
            configs += _rows(problem, machine, 2)
    if dense or not configs:
        for row_block in (3, 4, 8):
            configs += _rows(problem, machine, row_block)
        configs += _output_lanes(problem, machine)
    if problem.before is not None:
        configs += _fused(problem, machine, configs)
    return list(dict.fromkeys(configs))


def _single(problem: Problem, machine: Machine) -> Iterator[Lists]:
    """Return configurations in which every row has its own list."""
    wide = 14 if machine.registers > 16 else 12
    half = _fit(problem, wide // 2)
    times = 2 if problem.window.kernel == (1, 1) else 1
    yield from _read(problem, _fit(problem, wide), RowLists(0, 0))
    yield from _read(problem, half, RowLists(0, 0))
    for group in (2, 4) if machine.registers > 16 else (2,):
        yield from _read(problem, half, RowLists(0, 0, 1, group), times)


def _pairs(problem: Problem, machine: Machine) -> Iterator[Lists]:
    """Return configurations that load the taps of two rows once and skip all their zeros."""
    wide = 14 if machine.registers > 16 else 6
    for vectors in (max(wide // 2, 4), wide):
        yield from _read(problem, _fit(problem, vectors), PairLists(0, 0))


def _read(problem: Problem, vectors: int, kind: Lists, times: int = 1) -> Iterator[Lists]:
    """Return `kind` with so many vectors a tile, for each way to read a layer's input.

    From where it lies, packed, or from shifted copies, where rows are whole vectors and a window
    reads beside them.
    """
    ways = [kind]
    if isinstance(problem.source, Planar):
        shift = problem.window.kernel[1] > 1 and problem.source.row % problem.source.lanes == 0
        if shift:
            ways = [dataclasses.replace(kind, reading=Reading.SHIFTED)]
        elif vectors < WIDE:
            ways.append(dataclasses.replace(kind, reading=Reading.PACKED))
    for way in ways:
        yield dataclasses.replace(
            way, vectors=vectors, k_block=_panel(problem, way.reading, vectors, times)
        )


def _rows(problem: Problem, machine: Machine, row_block: int) -> Iterator[RowLists]:
    """Return configurations in which so many rows share a list: dense layers and blocks."""
    low, high = _cuts(problem)
    narrow = 2 if machine.registers <= 16 else 1
    sizes = {
        2: ((10, low), (10, high), (7, low), (7, high)),
        # Blocks of 28 by 28 pixels are 7 vectors wide: nothing is computed twice.
        3: ((7, WHOLE),),
        4: ((4, WHOLE), (4, high), (5, high), (6, WHOLE)),
        # Sixteen accumulators that share every weight eightfold: what dense layers like best.
        8: ((2, WHOLE), (2, low), (2, high), (3, low)),
    }
    for vectors, k_block in sizes[row_block]:
        yield RowLists(_fit(problem, max(vectors // narrow, 1)), k_block, row_block)


def _output_lanes(problem: Problem, machine: Machine) -> Iterator[Config]:
    """Return dense configurations with channels in the lanes, for planar images.

    Only where they are timed: the model has not been held against them on other machines.
    """
    target = problem.target
    if not (machine.native and isinstance(problem.source, Planar) and isinstance(target, Planar)):
        return
    # As many accumulators as leave registers for the vectors of a step.
    sizes = ((2, 14), (3, 9), (3, 8)) if machine.registers > 16 else ((2, 6),)
    for height, most in sizes:
        if problem.rows >= height * target.lanes:
            wide = cover(target.width, most)[1]
            yield OutputLanes(wide, height)


def _fused(problem: Problem, machine: Machine, others: Sequence[Config]) -> Iterator[Config]:
    """Return configurations that compute the depthwise layer while they pack, for the same rows."""
    low, _ = _cuts(problem)
    kinds = sorted(
        {(c.row_block, isinstance(c, PairLists)) for c in others if not isinstance(c, OutputLanes)}
    )
    narrow = 1 if machine.registers > 16 else 2
    # Panels of 7 vectors stay in the first-level cache; 14 never won by more than the noise.
    sizes = {1: ((7, 1), (7, 2), (4, 2)), 2: ((7, 1),), 4: ((4, 1),), 8: ((2, 1),)}
    for height, pairs in kinds:
        for vectors, group in sizes.get(height, ()):
            fit = _fit(problem, max(vectors // (1 if height == 1 else narrow), 1))
            if pairs:
                yield PairLists(fit, _panel(problem, Reading.PACKED, fit), Reading.FUSED)
            else:
                k_block = low if height == 1 else WHOLE
                yield RowLists(fit, k_block, height, group, Reading.FUSED)


def _cuts(problem: Problem) -> tuple[int, int]:
    """Return two lengths of K blocks, in whole channels: for tall tiles and for flat ones."""
    window = problem.window.kernel[0] * problem.window.kernel[1]
    taps = problem.matrix.shape[1]
    low, high = (128, 256) if window == 1 else (max(162 // window, 4), max(288 // window, 8))
    if window > 1:
        low, high = low * window, high * window
    return (low if low < taps else WHOLE), (high if high < taps else WHOLE)


def _panel(problem: Problem, reading: Reading, vectors: int, times: int = 1) -> int:
    """Return the taps of a K block, in whole channels, whose input stays in the first cache.

    With `times`, so many times that: longer lists pay more where few weights are left of few.
    """
    kernel, lanes = problem.window.kernel, problem.target.lanes
    window, target = kernel[0] * kernel[1], problem.target
    if reading.packs or window == 1:
        read = window * vectors
    elif isinstance(target, Blocked):
        wide = min(vectors, target.block[1])
        (sh, sw), high = problem.window.stride, max(vectors // wide, 1)
        read = ((high - 1) * sh + kernel[0]) * ((wide - 1) * sw + kernel[1])
    else:
        read = vectors + math.ceil((kernel[0] - 1) * target.row / lanes)
        read = read * kernel[1] if reading is Reading.SHIFTED else read + 1
    channels = PANEL_BYTES / (read * lanes * 4)
    taps = max(round(channels / 8) * 8, 4) * window * times
    return taps if taps < problem.matrix.shape[1] else WHOLE


def _fit(problem: Problem, cap: int) -> int:
    """Return the vectors a tile really has when it may have at most `cap`."""
    return len(tiles(problem.source, problem.target, problem.window, cap).vx)


def predicted(problem: Problem, config: Config, core: Core) -> float:
    """Return the cycles that the model expects."""
    if isinstance(config, OutputLanes):
        return _outer(problem, config, core)
    walk = tiles(problem.source, problem.target, problem.window, config.vectors)
    vectors, tile_count = len(walk.vx), len(walk.x) * problem.images
    taps = problem.matrix.shape[1]
    k_block = min(config.k_block, taps)
    k_blocks = -(-taps // k_block)
    lists, steps = _steps(problem, config.row_block, k_block)
    steps *= 1.08 if config.group > 1 else 1.0
    r, g = config.row_block, config.group
    # Multiply-adds of each vector, and values to load, a step.
    pairs, reading = isinstance(config, PairLists), config.reading
    each = problem.density * problem.matrix.size / max(steps, 1) if pairs else r
    fused = each * vectors / core.fused
    aligned = isinstance(problem.target, Blocked) or reading is not Reading.IN_PLACE
    per_line = (1.0 if aligned else 1.6) * _depth(problem, config.reading, vectors, k_block, core)
    loads = (vectors * per_line + each + 1) / core.loads
    one = max(fused, loads) + 0.75
    step = max(one, core.latency / g)
    ends = 2.0 * r * vectors * (1.0 if k_blocks == 1 else 1.5)
    starts = core.per_segment * (0.5 * ((1 << r) - 1) if pairs else 1 / g)
    cycles = steps * step + lists * (ends + starts)
    if reading is Reading.PACKED:
        cycles += taps * vectors * 2.0
    if reading is Reading.SHIFTED:
        cycles += taps / problem.window.kernel[0] * vectors * 2.0
    if problem.before is not None and reading is not Reading.FUSED:
        # What the depthwise layer stores and this one loads again.
        size = taps * vectors * tile_count * problem.target.lanes * 4
        cycles += taps * vectors * (core.beyond_l1 if size <= core.l2_bytes else core.beyond_l2)
    cycles += _stream(problem, steps * each, core)
    return tile_count * cycles


def _outer(problem: Problem, config: OutputLanes, core: Core) -> float:
    """Return the cycles expected of the kernel with channels in the lanes."""
    height, wide, lanes = config.row_block, config.pixels, problem.target.lanes
    tile_count = len(cover(problem.target.width, wide)[0]) * problem.target.height * problem.images
    blocks, taps = math.ceil(problem.rows / (height * lanes)), problem.matrix.shape[1]
    step = max(height * wide / core.fused, (height + wide) / core.loads) + 0.75
    # Beyond the sums: they are turned, and stored pixel by pixel of a row.
    cycles: float = blocks * (taps * step + height * lanes * 8.0)
    return tile_count * cycles + _stream(problem, problem.matrix.size, core)


def _steps(problem: Problem, row_block: int, k_block: int) -> tuple[int, float]:
    """Return (lists, steps of all of them)."""
    rows, taps = problem.matrix.shape
    whole = -(-rows // row_block)
    present = np.zeros((whole * row_block, taps), bool)
    present[:rows] = problem.matrix != 0
    steps = float(present.reshape(whole, row_block, taps).any(1).sum())
    return whole * -(-taps // k_block), steps


def _depth(problem: Problem, reading: Reading, vectors: int, k_block: int, core: Core) -> float:
    """Return how much slower loads are because a K block's input outgrows the first cache."""
    window = problem.window.kernel[0] * problem.window.kernel[1]
    lanes, taps = problem.target.lanes, problem.matrix.shape[1]
    if reading.packs:
        size = k_block * vectors * lanes * 4
    else:
        channels = max(k_block / window, 1.0)
        around = 1.0 if window == 1 else 1 + 2.0 * problem.window.kernel[0] / max(vectors, 3)
        size = int(channels * vectors * lanes * 4 * around)
    if size <= core.l1_bytes or taps <= 32:
        return 1.0
    return core.beyond_l1 if size <= core.l2_bytes else core.beyond_l2


def _stream(problem: Problem, values: float, core: Core) -> float:
    """Return cycles to bring the lists from memory once a tile, where no cache holds them."""
    size = values * 4 + values * 4 / max(problem.rows, 1)
    return size / 16 if size > core.l2_bytes else 0.0
