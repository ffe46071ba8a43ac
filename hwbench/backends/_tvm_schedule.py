"""A schedule for dense kernels on CPUs, where TVM's own lowering leaves plain nested loops.

TVM 0.27 lowers a convolution to seven scalar loops with the reduction innermost. Here every such
kernel becomes a register tile: a few output channels by one or two vectors of output pixels are
kept in registers while the reduction runs outside of them, and what follows the sum (bias,
residual, activation) is applied before the tile is stored. On ResNet-8 this is 40 times faster
than the default and close to ONNX Runtime; a tuned schedule would do better still.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DONE = "hwbench.scheduled"
"""Attribute of a function that has its schedule already."""

Split = Callable[[Any, Any, int], list[Any]]
"""(schedule, loop, wanted extent of the inner loop) -> factors of the outer and the inner one."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A register tile: so many pixels by so many channels."""

    pixels: int
    channels: int


def tile_of(target: Any) -> Tile:
    """Return the tile that fits the registers of a `tvm.target.Target`."""
    from tvm.target import codegen

    if codegen.target_has_features("avx512f", target):
        return Tile(16, 8)  # 8 of 32 registers of 16 floats; wider ones lose on small images
    if codegen.target_has_features("avx2", target):
        return Tile(16, 4)  # 8 of 16 registers of 8 floats
    return Tile(8, 8)  # NEON: 16 of 32 registers of 4 floats


def schedule(module: Any, target: Any, parallel: bool) -> Any:
    """Return the `IRModule` with every kernel tiled that has one sum of products.

    Kernels with another shape (pooling, reshapes, several sums) are left as they are. With
    `parallel`, blocks of channels go to different threads.
    """
    from tvm import tirx
    from tvm.s_tir import ScheduleError

    tile = tile_of(target)
    for name in list(module.get_global_vars()):
        function = module[name]
        if not isinstance(function, tirx.PrimFunc) or DONE in (function.attrs or {}):
            continue
        try:
            made = tiled(function, tile, parallel)
        except ScheduleError:
            continue  # Not a shape this schedule knows: the plain loops are right, only slow.
        if made is not None:
            attributes = {key: function.attrs[key] for key in function.attrs.keys()}  # noqa: SIM118
            module.update_func(name, made.with_attrs(attributes))
    return module


def tiled(function: Any, tile: Tile, parallel: bool) -> Any:
    """Return one tiled function, or None if it has another shape than this schedule knows."""
    import tvm
    from tvm import s_tir

    plan = s_tir.Schedule(tvm.IRModule({"main": function}))
    return plan.mod["main"] if tiling(plan, tile, parallel, fitting) else None


def tiling(plan: Any, tile: Tile, parallel: bool, split: Split) -> bool:
    """Tile the one function of a schedule, its loops cut by `split`; False if it cannot be."""
    blocks = plan.get_child_blocks(plan.get_sblock("root"))
    sums = [b for b in blocks if _loops(plan, b)[1]]
    if len(sums) != 1:
        return False
    total = sums[0]
    names = [plan.get(b).name_hint for b in blocks]
    after = blocks[names.index(plan.get(total).name_hint) + 1 :]
    spatial, summed = _loops(plan, total)
    if len(spatial) < 2 or int(plan.get(spatial[-1]).extent) == 1:
        return False
    outer, inner = _split(plan, spatial, tile, split)
    plan.reorder(*outer, *summed, *inner)
    if parallel:
        plan.parallel(outer[-3] if len(outer) >= 3 else outer[0])
    _finish(plan, total, after, outer[-1])
    for loop in inner[:-1]:
        plan.unroll(loop)
    plan.vectorize(inner[-1])
    start = plan.decompose_reduction(total, summed[0])
    plan.vectorize(plan.get_loops(start)[-1])
    return True


def fitting(plan: Any, loop: Any, wanted: int) -> list[Any]:
    """Return factors with the largest inner one that divides the loop and is not above `wanted`."""
    extent = int(plan.get(loop).extent)
    return [None, next(d for d in range(max(min(extent, wanted), 1), 0, -1) if extent % d == 0)]


def sampled(plan: Any, loop: Any, wanted: int) -> list[Any]:
    """Return factors that are left to a search, the inner one not above four times `wanted`."""
    return list(plan.sample_perfect_tile(loop, n=2, max_innermost_factor=4 * wanted))


def _loops(plan: Any, block: Any) -> tuple[list[Any], list[Any]]:
    """Return the loops of a block over its outputs, and those it sums over."""
    from tvm import tirx

    loops = plan.get_loops(block)
    kinds = [v.iter_type for v in plan.get(block).iter_vars]
    spatial = [x for x, k in zip(loops, kinds, strict=True) if k == tirx.IterVar.DataPar]
    summed = [x for x, k in zip(loops, kinds, strict=True) if k == tirx.IterVar.CommReduce]
    return spatial, summed


def _split(plan: Any, spatial: list[Any], tile: Tile, split: Split) -> tuple[list[Any], list[Any]]:
    """Return the loops over tiles and those inside one: channels, rows, pixels."""
    wide = split(plan, spatial[-1], tile.pixels)
    if len(spatial) < 4:
        beyond, pixels = plan.split(spatial[-1], wide)
        return [*spatial[:-1], beyond], [pixels]
    images, channels, rows, columns = spatial[-4:]
    width = wide[1] if isinstance(wide[1], int) else int(plan.get(wide[1]))
    high = split(plan, rows, max(tile.pixels // width, 1))
    groups, channel = plan.split(channels, split(plan, channels, tile.channels))
    strips, row = plan.split(rows, high)
    beyond, pixels = plan.split(columns, wide)
    return [*spatial[:-4], images, groups, strips, beyond], [channel, row, pixels]


def _finish(plan: Any, total: Any, after: list[Any], where: Any) -> None:
    """Keep the sum in registers and apply what follows it as the tile is stored."""
    for block in after[:-1]:
        plan.compute_inline(block)
    if after:
        plan.set_scope(total, 0, "local")
        last = after[-1]
    else:
        last = plan.cache_write(total, 0, "local")
    # Unit loops stay: how many loops there are must not depend on the sizes of a tile.
    plan.reverse_compute_at(last, where, preserve_unit_loops=True)
    plan.vectorize(plan.get_loops(last)[-1])
