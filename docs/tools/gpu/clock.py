"""Whether our timer and `triton.testing.do_bench` agree within 3 % on this GPU.

    python docs/tools/gpu/clock.py            # exit 1 if they differ by more

Both time the same session of an MLP (a CUDA graph, L2 cold) in turn; what is compared is the
median of the rounds' ratios. Small models are left out: there the gaps between kernels count, and
the two empty the cache in different ways.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from table import NETS, do_bench, prepared, sessions

_ROUNDS, _CALLS, _LIMIT = 9, 25, 0.03


def main() -> int:
    """Print the ratio by batch and precision; return 1 if one is off by more than 3 %."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", dest="batches", action="append", type=int)
    parser.add_argument("--precision", dest="precisions", action="append")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU here, and nothing to be said without one")
    asked.device, asked.mode, asked.small = "cuda", "graph", False
    worst = 0.0
    with tempfile.TemporaryDirectory() as home:
        notes: list[str] = []
        models = {"dense": prepared(next(iter(NETS)), asked, Path(home) / "m", notes)["dense"]}
        kinds = itertools.product(asked.precisions or ["tf32", "bf16"], asked.batches or [32, 256])
        for precision, batch in kinds:
            where = Path(home) / f"{precision}-{batch}"
            for _, session in sessions(models, precision, batch, asked, where, notes):
                ratios = [
                    do_bench(session)
                    / (statistics.median(session.time_call() for _ in range(_CALLS)) * 1e-9)
                    for _ in range(_ROUNDS)
                ]
                off = statistics.median(ratios) - 1
                worst = max(worst, abs(off))
                print(f"{precision} batch {batch}: do_bench / ours - 1 = {off:+.1%}", flush=True)
        for note in notes:
            print(note)
    return int(worst > _LIMIT)


if __name__ == "__main__":
    sys.exit(main())
