"""Where sparse layers begin to win on this GPU: linear layers by size, rows, kind and sparsity.

    python docs/tools/gpu/crossover.py --out crossover.md

Every kernel is timed in turn with cuBLAS's dense product of the same shape, by CUDA events; a
figure above 1 means that the sparse one is faster by so many times. What cannot run is said.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from hwbench.backends import _torch_layers
from hwbench.backends._torch_layers import Offer, Replaced
from hwbench.backends._torch_net import Linear

SIZES = ((1024, 1024), (4096, 1024), (4096, 4096), (8192, 8192))
ROWS = (1, 32, 256, 4096)
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)


def main() -> None:
    """Measure everything and write one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--out", type=Path, default=Path("crossover.md"))
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU here, and nothing to be said without one")
    head = "| outputs x inputs | kernel | " + " | ".join(f"{r} rows" for r in ROWS) + " |"
    lines = [f"{torch.cuda.get_device_name(0)}, {asked.dtype}: times faster than dense", "",
             head, "|---" * (2 + len(ROWS)) + "|"]  # fmt: skip
    for size in SIZES:
        for name, offer, weight in kinds(size):
            cells = [_cell(offer, weight.to(getattr(torch, asked.dtype)), rows) for rows in ROWS]
            lines.append(f"| {size[0]}x{size[1]} | {name} | " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
            asked.out.write_text("\n".join(lines) + "\n")


def kinds(size: tuple[int, int]) -> Iterator[tuple[str, Offer, torch.Tensor]]:
    """Yield every sparse kernel with a weight that suits it."""
    weight = torch.randn(size, device="cuda")
    least = weight.abs().reshape(-1, 4).argsort(1)[:, :2]
    yield (
        "2:4", Offer("2:4", _torch_layers.pack_2_4),
        weight.reshape(-1, 4).scatter(1, least, 0.0).reshape(size),
    )  # fmt: skip
    from hwbench.backends._torch_block import pack

    for block in (64, 32, 16):
        for sparsity in SPARSITIES:
            kept = torch.rand(size[0] // block, size[1] // block, device="cuda") >= sparsity
            mask = kept.repeat_interleave(block, 0).repeat_interleave(block, 1)
            offer = Offer("block", lambda w, b=block: pack(w, b))
            yield f"{block}x{block}, {sparsity:.0%}", offer, weight * mask


def _cell(offer: Offer, weight: torch.Tensor, rows: int) -> str:
    layer = Linear(weight, None)
    x = torch.randn(rows, weight.shape[1], device="cuda").to(weight.dtype)
    try:
        with torch.inference_mode():
            ratio = _torch_layers.ratio_of(Replaced(layer, offer.pack(weight)), layer, x)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return f"no: {(str(error).splitlines() or [''])[0][:40]}"
    return f"{1 / ratio:.2f}"


if __name__ == "__main__":
    main()
