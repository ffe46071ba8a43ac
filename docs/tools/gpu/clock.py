"""Whether our timer and `triton.testing.do_bench` agree within 3 % on this GPU.

    python docs/tools/gpu/clock.py            # exit 1 if they differ by more

Both time the same session of an MLP (a CUDA graph, L2 cold) in turn; what is compared is the
median of the rounds' ratios. Small models are left out: there the gaps between kernels count, and
the two empty the cache in different ways.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from kept import append
from table import Group, do_bench, loaded

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
    worst = 0.0
    for precision in asked.precisions or ["bf16", "tf32"]:
        for batch in asked.batches or [256, 32]:
            off = difference(Group("mlp", precision, "graph", batch, ("dense",)), asked)
            worst = max(worst, abs(off))
            entry = {"precision": precision, "batch": batch, "do_bench over ours, less 1": off}
            append(asked.out / "clock.jsonl", entry)
            print(f"{precision} batch {batch}: do_bench / ours - 1 = {off:+.1%}", flush=True)
    return int(worst > _LIMIT)


def difference(group: Group, asked: argparse.Namespace) -> float:
    """Return how far do_bench is from our timer, as a share; raises what could not be loaded."""
    with tempfile.TemporaryDirectory() as home:
        for _, _, session in loaded(group, asked, Path(home)):
            if isinstance(session, StageError):
                raise session
            ours = lambda s=session: statistics.median(s.time_call() for _ in range(_CALLS))  # noqa: E731
            rounds = (do_bench(session) / (ours() * 1e-9) for _ in range(_ROUNDS))
            return statistics.median(rounds) - 1
    raise AssertionError(group)


if __name__ == "__main__":
    sys.exit(main())
