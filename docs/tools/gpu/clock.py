"""Whether our timer and `triton.testing.do_bench` agree within 3 % on this GPU.

    python docs/tools/gpu/clock.py            # exit 1 if they differ by more

Both time the same session of an MLP (a CUDA graph, L2 cold) in turn; what is compared is the
median of the rounds' ratios. Ours begins on an idle GPU, as an inference does that somebody waits
for, so what it takes to launch a graph is in it; do_bench gives the GPU other work to do meanwhile.
That difference is measured on a graph that does nothing, and taken off before the two are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept import append
from table import Group, do_bench, loaded

from hwbench.backends.torch import Options, TorchSession
from hwbench.errors import StageError

_ROUNDS, _CALLS, _LIMIT = 9, 25, 0.03


def main() -> int:
    """Print the ratio by batch and precision; return 1 if one is off by more than 3 %."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", dest="batches", action="append", type=int)
    parser.add_argument("--precision", dest="precisions", action="append")
    parser.add_argument("--models", type=Path, default=Path(".hwbench/gpu-models"))
    parser.add_argument("--out", type=Path, default=Path("gpu-table"))
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU here, and nothing to be said without one")
    asked.device, asked.small = "cuda", False
    asked.out.mkdir(parents=True, exist_ok=True)
    worst, launch = 0.0, launching()
    for precision in asked.precisions or ["bf16", "tf32"]:
        for batch in asked.batches or [256, 32]:
            group = Group("mlp", precision, "graph", batch, ("dense",))
            ours, theirs = seconds(group, asked)
            off = theirs / (ours - launch) - 1
            worst = max(worst, abs(off))
            entry = {"precision": precision, "batch": batch, "ours": ours, "do_bench": theirs,
                     "launch": launch, "off": off}  # fmt: skip
            append(asked.out / "clock.jsonl", entry)
            print(
                f"{precision} batch {batch}: ours {ours * 1e6:.1f} us, do_bench "
                f"{theirs * 1e6:.1f}, a launch {launch * 1e6:.1f}: {off:+.1%} apart",
                flush=True,
            )
    return int(worst > _LIMIT)


def seconds(group: Group, asked: argparse.Namespace) -> tuple[float, float]:
    """Return the seconds of a call by our timer and by do_bench; raises what does not load."""
    for _, _, session in loaded(group, asked):
        if isinstance(session, StageError):
            raise session
        return both(session)
    raise AssertionError(group)


def both(session: Any) -> tuple[float, float]:
    """Return the medians over rounds in turn."""
    ours, theirs = [], []
    for _ in range(_ROUNDS):
        ours.append(statistics.median(session.time_call() for _ in range(_CALLS)) * 1e-9)
        theirs.append(do_bench(session))
    return statistics.median(ours), statistics.median(theirs)


def launching() -> float:
    """Return the seconds by which our timer is longer for a graph that does next to nothing."""

    class Nothing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.neg()

    options = Options(device="cuda", mode="graph", l2="cold")
    session = TorchSession(Nothing(), options, [[[1, 1], "float32"]])
    session.set_inputs([np.zeros((1, 1), np.float32)])
    ours, theirs = both(session)
    return ours - theirs


if __name__ == "__main__":
    sys.exit(main())
