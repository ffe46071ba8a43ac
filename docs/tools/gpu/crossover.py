"""Where sparse layers begin to win on this GPU: linear layers by size, rows, kind and sparsity.

    python docs/tools/gpu/crossover.py --out table                 # to the end
    python docs/tools/gpu/crossover.py --out table --minutes 2     # what fits; again to go on

Every kernel is timed in turn with cuBLAS's dense product of the same shape, as in a CUDA graph,
weights from memory (``--warm``: from the cache), by the same code that chooses layers when a model
is loaded; a figure above 1 means that the sparse one is faster by so many times. What cannot run is
said. The most telling come first; every figure is kept at once (``crossover.jsonl``).
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from kept import append, lines

from hwbench.backends import _torch_layers
from hwbench.backends._torch_layers import Offer
from hwbench.backends._torch_net import Linear
from hwbench.backends._torch_time import How, foreign
from hwbench.backends.torch import Options

SIZES = ((4096, 4096), (8192, 8192), (16384, 4096), (3072, 768), (1024, 1024))
ROWS = (256, 32, 1, 1024, 4096)
BLOCKS = ((64, 0.9), (64, 0.7), (32, 0.9), (16, 0.9), (64, 0.5), (64, 0.8), (64, 0.95))
PRECISION = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def main() -> int:
    """Measure what is missing; return 1 when time ran out before the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=tuple(PRECISION), default="bfloat16")
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--rows", action="append", type=int)
    parser.add_argument("--kernel", dest="kernels", action="append", help="those of this name")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny layers, to try it out")
    parser.add_argument("--out", type=Path, default=Path("gpu-table"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "crossover.jsonl"
    there = {(e["dtype"], e["warm"], e["size"], e["rows"], e["kernel"]) for e in lines(path)}
    end = time.monotonic() + 60 * asked.minutes
    sizes = ((128, 256),) if asked.small else SIZES
    for rows, size in itertools.product(asked.rows or ((40, 8) if asked.small else ROWS), sizes):
        for name, offer, weight in kinds(size, asked.dtype, asked.device):
            label = f"{size[0]}x{size[1]}"
            if asked.kernels and name not in asked.kernels:
                continue
            if (asked.dtype, asked.warm, label, rows, name) in there:
                continue
            if time.monotonic() > end:
                print("no time was left")
                return 1
            entry = {"dtype": asked.dtype, "warm": asked.warm, "size": label, "rows": rows,
                     "kernel": name, **figure(offer, weight, rows, asked)}  # fmt: skip
            append(path, entry)
            print(entry, flush=True)
    return 0


def kinds(
    size: tuple[int, int], dtype: str, device: str
) -> Iterator[tuple[str, Offer, torch.Tensor]]:
    """Yield every sparse kernel with a weight that suits it."""
    random = torch.Generator(device).manual_seed(0)
    kind: torch.dtype = getattr(torch, dtype)
    weight = torch.randn(size, generator=random, device=device) / size[1] ** 0.5
    least = weight.abs().reshape(-1, 4).argsort(1)[:, :2]
    pairs = weight.reshape(-1, 4).scatter(1, least, 0.0).reshape(size).to(kind)
    yield "int8", Offer("int8", _torch_layers.pack_int8), pairs
    if device == "cpu":
        return
    yield "2:4", Offer("2:4", _torch_layers.pack_2_4), pairs
    for offer in _torch_layers.pairs_offers(Options(device="cuda", mode="graph"))[1:]:
        yield offer.name, offer, pairs
    yield "int8 2:4", Offer("int8 2:4", _torch_layers.pack_int8_2_4), pairs
    from hwbench.backends._torch_block import pack

    for block, sparsity in BLOCKS:
        shape = (size[0] // block, size[1] // block)
        kept = torch.rand(shape, generator=random, device=device) >= sparsity
        mask = kept.repeat_interleave(block, 0).repeat_interleave(block, 1)
        offer = Offer("block", lambda w, b=block: pack(w, b))
        yield f"{block}x{block}, {sparsity:.0%}", offer, (weight * mask).to(kind)


def figure(
    offer: Offer, weight: torch.Tensor, rows: int, asked: argparse.Namespace
) -> dict[str, object]:
    """Return how many times faster than dense a kernel is, with what it chose, or why it is not."""
    layer = Linear(weight, torch.zeros(len(weight), dtype=weight.dtype, device=weight.device))
    x = torch.randn(rows, weight.shape[1], device=weight.device).to(weight.dtype)
    int8 = offer.name.startswith("int8")
    options = Options(device=asked.device, precision="int8" if int8 else PRECISION[asked.dtype])
    cache = 0
    if asked.device == "cuda" and not asked.warm:
        cache = 3 * int(torch.cuda.get_device_properties(0).L2_cache_size) // 2
    how = How(graph=asked.device == "cuda", evict=cache)
    try:
        made, ratio = _torch_layers.tried(layer, x, offer, options, how)
    except foreign() as error:
        return {"failure": (str(error).splitlines() or [""])[0][:200]}
    return {"times": 1 / ratio, "chosen": str(getattr(made.kernel, "chosen", ""))}


if __name__ == "__main__":
    sys.exit(main())
