"""The table of docs/gpu.md: dense and pruned networks by precision and batch, on one GPU.

    python docs/tools/gpu/table.py --out table.md                 # all three networks
    python docs/tools/gpu/table.py --net mlp --minutes 8          # one of them, in so many minutes

It prepares with hwbench's own rooms (prune, export, compile), loads every variant of a network at
a precision and a batch into this one process, and times them in turn by CUDA events, L2 cold, in
rounds of random order. Ratios are to the dense model of the same round; intervals are over the
rounds (95 %, t), so they say nothing of what another process would give: `hwbench bench` does. What
does not fit into the minutes is left out and said. `--device cpu` tries it without a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats as scipy_stats

from hwbench import registry
from hwbench.compile import compile_model
from hwbench.compress import compress
from hwbench.conditions import nvml
from hwbench.errors import StageError
from hwbench.export import export
from hwbench.records import (
    Candidate,
    CompressedModel,
    CompressionSpec,
    ExportSpec,
    OnnxModel,
    PluginSpec,
    TargetProfile,
    TrainSpec,
    WorkloadSpec,
)

NETS: dict[str, dict[str, Any]] = {
    "mlp": {"net": "mlp", "width": 4096, "depth": 4, "classes": 1000, "samples": 8},
    "vit": {"net": "vit", "width": 768, "depth": 12, "size": 224, "classes": 1000, "samples": 8},
    "resnet50": {
        "net": "resnet50", "width": 64, "depth": 6, "size": 224, "classes": 1000, "samples": 8,
    },
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"net": "mlp", "width": 64, "depth": 2},
    "vit": {"net": "vit", "width": 64, "depth": 1, "size": 32},
    "resnet50": {"net": "resnet50", "width": 8, "depth": 1, "size": 32},
}
VARIANTS = (
    ("dense", "dense", 0.0),
    ("channel 50 %", "channel", 0.5),
    ("2:4", "2:4", 0.5),
    ("blocks 70 %", "64x64", 0.7),
    ("blocks 90 %", "64x64", 0.9),
    ("unstructured 90 %", "unstructured", 0.9),
)
_ROUNDS, _CALLS = 15, 7
_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Row:
    """One variant of a network at a precision and a batch."""

    net: str
    precision: str
    batch: int
    variant: str
    milliseconds: float
    ratio: float
    low: float
    high: float
    roof: float | None
    layers: tuple[str, ...]
    millijoules: float | None = None
    net_millijoules: float | None = None
    do_bench: float | None = None


def main() -> None:
    """Parse the arguments, measure, write the table and its JSON."""
    asked = _arguments()
    end = time.monotonic() + 60 * asked.minutes
    notes: list[str] = []
    rows: list[Row] = []
    roofs = measured_roofs(asked.device, asked.precisions)
    with tempfile.TemporaryDirectory() as home:
        for net in asked.nets:
            models = prepared(net, asked, Path(home) / net, notes)
            for batch, precision in itertools.product(asked.batches, asked.precisions):
                if time.monotonic() > end:
                    notes.append(f"{net} {precision} at batch {batch}: no time was left")
                    continue
                where = Path(home) / net / f"{precision}-{batch}"
                found = measured(net, models, precision, batch, asked, roofs, where, notes)
                rows += found
                write(rows, roofs, notes, asked)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", dest="nets", action="append", choices=NETS)
    parser.add_argument("--batch", dest="batches", action="append", type=int)
    parser.add_argument("--precision", dest="precisions", action="append", choices=_BYTES)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--mode", choices=("eager", "compile", "graph"))
    parser.add_argument("--small", action="store_true", help="tiny networks, to try it out")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--energy-batch", type=int, default=32, help="joules at this batch only")
    parser.add_argument("--energy-seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("gpu-table.md"))
    asked = parser.parse_args()
    cuda = asked.device == "cuda"
    asked.nets = asked.nets or list(NETS)
    asked.batches = asked.batches or [1, 32, 256]
    asked.precisions = asked.precisions or (["tf32", "bf16", "int8"] if cuda else ["fp32"])
    asked.mode = asked.mode or ("graph" if cuda else "eager")
    return asked


# --------------------------------------------------------------------------------------------
# preparing


def prepared(
    net: str, asked: argparse.Namespace, home: Path, notes: list[str]
) -> dict[str, OnnxModel]:
    """Return the ONNX file of every variant that can be made of a network."""
    options = (SMALL if asked.small else NETS)[net]
    spec = WorkloadSpec("untrained", options)
    workload = registry.create("workloads", "untrained", options)
    none = TrainSpec(epochs=0)
    plain = CompressionSpec(spec, none)
    dense: CompressedModel | None = None
    found = {}
    for label, pattern, sparsity in VARIANTS:
        folder = home / label.replace(" ", "").replace(":", "").replace("%", "")
        (folder / "weights").mkdir(parents=True)
        multiple = 64 if pattern == "channel" and not asked.small else 1
        wanted = plain if pattern == "dense" else replace(
            plain, pattern=pattern, sparsity=sparsity, recovery=none, scope="local",
            criterion="l2" if pattern == "channel" else "magnitude", channel_multiple=multiple,
        )  # fmt: skip
        try:
            made = compress(wanted, workload, dense, folder / "weights", lambda _share: None)
            dense = dense or made
            found[label] = export(ExportSpec(wanted), made, workload, folder)
        except StageError as error:
            notes.append(f"{net} {label}: {error.what}")
        print(f"{net} {label}: prepared", flush=True)
    return found


def sessions(
    models: dict[str, OnnxModel], precision: str, batch: int, asked: argparse.Namespace,
    where: Path, notes: list[str],
) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """Yield every variant's session with its inputs on the device."""
    target = TargetProfile(
        "gpu", "", "", "", 1, 0, (), None, "", 1, (), (), 1, None, (), None,
    )  # fmt: skip
    for label, model in models.items():
        options = {"device": asked.device, "precision": precision, "mode": asked.mode}
        if asked.device == "cuda":
            options["l2"] = "cold"
        candidate = Candidate(model.spec, PluginSpec("torch", options), "gpu", batch)
        try:
            made = compile_model(candidate, model, target, where / label.replace(" ", ""))
            backend = registry.create("backends", "torch", options)
            session = backend.load(made.folder / made.entry, torch.get_num_threads())
            inputs = np.random.default_rng(0).standard_normal((batch, *model.input_shape))
            session.set_inputs([inputs.astype(np.float32)])
            session.invoke()
        except StageError as error:
            notes.append(f"{label} {precision} at batch {batch}: {error.what}")
            continue
        yield label, session


# --------------------------------------------------------------------------------------------
# measuring


def measured(
    net: str, models: dict[str, OnnxModel], precision: str, batch: int,
    asked: argparse.Namespace, roofs: dict[str, float], where: Path, notes: list[str],
) -> list[Row]:  # fmt: skip
    """Return the rows of one network at a precision and a batch, timed in turn."""
    loaded = dict(sessions(models, precision, batch, asked, where, notes))
    if "dense" not in loaded:
        return []
    times = rounds(loaded, asked.device)
    rows = []
    for label, session in loaded.items():
        ratio, low, high = interval(times[label], times["dense"])
        seconds = statistics.median(times[label])
        least = ideal(models[label], precision, batch, roofs)
        gross = clean = None
        if asked.device == "cuda" and batch == asked.energy_batch:
            gross, clean = joules(session, asked.energy_seconds, notes)
        check = None
        if asked.device == "cuda" and label == "dense":
            check = do_bench(session) / seconds
            if abs(check - 1) > 0.03:
                notes.append(f"{net} {precision} {batch}: do_bench differs by {check - 1:+.1%}")
        rows.append(
            Row(net, precision, batch, label, seconds * 1e3, ratio, low, high,
                least / seconds if least else None, session.layers, gross, clean, check)
        )  # fmt: skip
        print(f"{net} {precision} batch {batch} {label}: {seconds * 1e3:.3f} ms", flush=True)
    return rows


def rounds(loaded: dict[str, Any], device: str) -> dict[str, list[float]]:
    """Return the median seconds of every round, by variant; order is random in each."""
    rng = random.Random(0)  # noqa: S311  (for order)
    found: dict[str, list[float]] = {label: [] for label in loaded}
    for _ in range(_ROUNDS):
        order = list(loaded)
        rng.shuffle(order)
        for label in order:
            session = loaded[label]
            session.invoke()
            call = session.time_call if device == "cuda" else lambda s=session: _wall(s.invoke)
            found[label].append(statistics.median(call() for _ in range(_CALLS)) * 1e-9)
    return found


def _wall(call: Callable[[], None]) -> int:
    begun = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - begun


def interval(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Return how many times faster `one` is than `other`, with its 95 % interval over rounds."""
    logs = [math.log(b / a) for a, b in zip(one, other, strict=True)]
    middle = statistics.fmean(logs)
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    half = float(scipy_stats.t.ppf(0.975, len(logs) - 1)) * error
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def do_bench(session: Any) -> float:
    """Return the median seconds that Triton's own timer finds for a session."""
    from triton.testing import do_bench as triton_bench

    return float(triton_bench(session._run, return_mode="median")) * 1e-3


def joules(session: Any, seconds: float, notes: list[str]) -> tuple[float | None, float | None]:
    """Return millijoules an inference, gross and net of the GPU idling just before."""
    meter = registry.create("meters", "nvml", {"idle_seconds": 2.0})
    try:
        meter.settle()
        meter.start()
        end, calls = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            session.invoke()
            calls += 1
        reading = meter.stop(calls)
    except StageError as error:
        notes.append(f"energy: {error.what}")
        return None, None
    idle = (reading.idle_watts or 0.0) * reading.seconds
    return reading.joules / calls * 1e3, (reading.joules - idle) / calls * 1e3


def measured_roofs(device: str, precisions: Sequence[str]) -> dict[str, float]:
    """Return what the GPU reaches: bytes/s of a copy, and operations/s of a large product."""
    if device != "cuda":
        return {}
    source = torch.empty(1 << 30, dtype=torch.int8, device=device).random_(0, 100)
    target = torch.empty_like(source)
    found = {"copy": 2 * source.numel() / _fastest(lambda: target.copy_(source))}
    size = 8192
    for precision in precisions:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
        a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
        if precision == "int8":
            a, b = ((x * 20).to(torch.int8) for x in (a, b))
            b = b.t().contiguous().t()
            found[precision] = 2 * size**3 / _fastest(lambda a=a, b=b: torch._int_mm(a, b))
        else:
            found[precision] = 2 * size**3 / _fastest(lambda a=a, b=b: a @ b)
    return found


def _fastest(work: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    found = []
    for _ in range(12):
        start.record()
        work()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) * 1e-3)
    return statistics.median(found[2:])


def ideal(model: OnnxModel, precision: str, batch: int, roofs: dict[str, float]) -> float | None:
    """Return the least seconds by the roofs: its products as if dense, its weights read once."""
    if not roofs:
        return None
    work = 2 * model.macs * batch / roofs[precision]
    return max(work, model.parameters * _BYTES[precision] / roofs["copy"])


# --------------------------------------------------------------------------------------------
# writing


def write(
    rows: Sequence[Row], roofs: dict[str, float], notes: Sequence[str], asked: argparse.Namespace
) -> None:
    """Write the table as Markdown, and everything behind it as JSON beside it."""
    where = "this CPU: figures without meaning" if asked.device == "cpu" else gpu_name()
    lines = [f"Measured on {where}; torch {torch.__version__}, mode {asked.mode}.", ""]
    for name, value in roofs.items():
        unit = "TB/s" if name == "copy" else "Top/s"
        lines.append(f"- roof, {name}: {value / 1e12:.2f} {unit}")
    lines += ["", "| network | precision | batch | variant | ms | × dense (95 %) | of the roof | "
              "mJ gross (net) | sparse layers |", "|---" * 9 + "|"]  # fmt: skip
    lines += [_line(row) for row in rows]
    lines += ["", *(f"- {note}" for note in notes)]
    checks = [r.do_bench for r in rows if r.do_bench is not None]
    if checks:
        worst = max(abs(c - 1) for c in checks)
        lines.append(f"- `triton.testing.do_bench` differs from our timer by at most {worst:.1%}")
    asked.out.write_text("\n".join(lines) + "\n")
    data = {"roofs": roofs, "notes": list(notes), "rows": [asdict(r) for r in rows]}
    asked.out.with_suffix(".json").write_text(json.dumps(data, indent=1))


def _line(row: Row) -> str:
    roof = f"{row.roof:.0%}" if row.roof is not None else "–"
    energy = "–"
    if row.millijoules is not None and row.net_millijoules is not None:
        energy = f"{row.millijoules:.3g} ({row.net_millijoules:.3g})"
    taken = sum("taken" in words for words in row.layers)
    layers = f"{taken} of {len(row.layers)}" if row.layers else "–"
    return (
        f"| {row.net} | {row.precision} | {row.batch} | {row.variant} | {row.milliseconds:.3f} | "
        f"{row.ratio:.2f} ({row.low:.2f}–{row.high:.2f}) | {roof} | {energy} | {layers} |"
    )


def gpu_name() -> str:
    """Return what NVML says of the GPU and its driver."""
    identity, software, _ = nvml.read("any")
    driver = software.get("nvidia_driver", "unknown")
    return f"{identity.get('name', torch.cuda.get_device_name(0))}, driver {driver}"


if __name__ == "__main__":
    main()
