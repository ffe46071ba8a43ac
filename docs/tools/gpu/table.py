"""The table of docs/gpu.md: dense and pruned networks by precision, mode and batch, on one GPU.

    python docs/tools/gpu/table.py --out table                # by priority, to the end
    python docs/tools/gpu/table.py --out table --minutes 5    # what fits; call it again to go on
    python docs/tools/gpu/table.py --out table --prepare 8    # only make the models, 8 at a time

It prepares with hwbench's own rooms (prune, export, compile), loads every variant of a network at
a precision, a mode and a batch into this one process, and times them in turn by CUDA events, L2
cold, in rounds of random order. Ratios are to the dense model of the same round; intervals are
over the rounds (95 %, t), so they say nothing of what another process would give: `hwbench bench`
does. Every row is kept as soon as it is known (``rows.jsonl``, raw samples in ``samples.jsonl``),
and a group of which all rows are there is not measured again. `--device cpu --small` tries it
without a GPU.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import random
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept import append, lines
from scipy import stats as scipy_stats

from hwbench import files
from hwbench.compile import compile_model
from hwbench.compress import compress
from hwbench.conditions import nvml
from hwbench.errors import StageError
from hwbench.export import export
from hwbench.records import (
    Candidate,
    CompressionSpec,
    ExportSpec,
    OnnxModel,
    PluginSpec,
    TargetProfile,
    TrainSpec,
    WorkloadSpec,
    from_json,
    to_json,
)
from hwbench.registry import BACKENDS, METERS, WORKLOADS

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
VARIANTS: dict[str, tuple[str, float]] = {
    "dense": ("dense", 0.0),
    "channel 50 %": ("channel", 0.5),
    "2:4": ("2:4", 0.5),
    "blocks 70 %": ("64x64", 0.7),
    "blocks 90 %": ("64x64", 0.9),
    "unstructured 90 %": ("unstructured", 0.9),
}
_ROUNDS, _CALLS = 15, 7
_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Group:
    """What is timed in turn: variants of a network at a precision, a mode and a batch."""

    net: str
    precision: str
    mode: str
    batch: int
    variants: tuple[str, ...] = tuple(VARIANTS)

    def missing(self, rows: Sequence[Row]) -> bool:
        """Return whether a variant has neither a row nor a reason for having none."""
        return not {(*self.key, variant) for variant in self.variants} <= {r.place for r in rows}

    def __str__(self) -> str:
        return f"{self.net} {self.precision}, {self.mode}, batch {self.batch}"

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What a row of it says of itself."""
        return (self.net, self.precision, self.mode, self.batch)


@dataclass(frozen=True)
class Row:
    """One variant of a group; without figures it says in `failure` why."""

    net: str
    precision: str
    mode: str
    batch: int
    variant: str
    failure: str = ""
    milliseconds: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    roof: float | None = None
    layers: tuple[str, ...] = ()
    millijoules: float | None = None
    net_millijoules: float | None = None
    do_bench: float | None = None

    @property
    def place(self) -> tuple[str, str, str, int, str]:
        """Which cell of the table it is."""
        return (self.net, self.precision, self.mode, self.batch, self.variant)


def groups(device: str) -> list[Group]:
    """Return what is measured, the most telling first."""
    if device == "cpu":
        return [
            Group(net, "fp32", mode, batch)
            for net in ("mlp", "vit")
            for mode, batch in (("eager", 4), ("compile", 4), ("eager", 1))
        ]
    few = tuple(v for v in VARIANTS if v != "unstructured 90 %")
    dense = ("dense",)
    return [
        Group("mlp", "bf16", "graph", 256),
        Group("vit", "bf16", "graph", 32),
        *(Group("mlp", "bf16", mode, 256, dense) for mode in ("eager", "compile", "compile+graph")),
        Group("mlp", "int8", "graph", 256, few),
        Group("mlp", "bf16", "graph", 32, few),
        Group("mlp", "bf16", "graph", 1, few),
        *(Group("vit", "bf16", mode, 32, dense) for mode in ("eager", "compile", "compile+graph")),
        Group("vit", "bf16", "graph", 256, few),
        Group("vit", "int8", "graph", 32, few),
        Group("mlp", "fp16", "graph", 256, few),
        Group("vit", "bf16", "graph", 1, few),
        Group("mlp", "tf32", "graph", 256, few),
        Group("mlp", "int8", "graph", 32, few),
        Group("vit", "fp16", "graph", 256, few),
        Group("vit", "tf32", "graph", 32, few),
        Group("resnet50", "bf16", "graph", 32, few),
        Group("resnet50", "bf16", "graph", 256, few),
        Group("resnet50", "tf32", "graph", 32, few),
        Group("mlp", "bf16", "compile+graph", 256, few),
        Group("vit", "bf16", "compile+graph", 32, few),
    ]


def main() -> int:
    """Parse the arguments, measure, keep every row; return 1 when time ran out before the end."""
    asked = _arguments()
    end = time.monotonic() + 60 * asked.minutes
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.prepare:
        return prepare_all(asked)
    kept = Kept(asked)
    for group in groups(asked.device):
        if asked.nets and group.net not in asked.nets:
            continue
        if not group.missing(kept.rows):
            continue
        if time.monotonic() > end:
            kept.note(f"{group}: no time was left")
            kept.write()
            return 1
        try:
            measure(group, asked, kept)
        except (StageError, RuntimeError) as error:
            # A group that breaks the device's context is told apart from those that follow.
            kept.note(f"{group}: {type(error).__name__}: {str(error)[:300]}")
        kept.write()
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", dest="nets", action="append", choices=NETS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny networks, to try it out")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--prepare", type=int, default=0, metavar="N", help="only make the models")
    parser.add_argument("--energy-batch", type=int, default=32, help="joules at this batch only")
    parser.add_argument("--energy-seconds", type=float, default=2.0)
    parser.add_argument("--models", type=Path, default=Path(".hwbench/gpu-models"))
    parser.add_argument("--out", type=Path, default=Path("gpu-table"))
    return parser.parse_args()


class Kept:
    """Everything that is known so far, in a folder that any stop leaves readable."""

    def __init__(self, asked: argparse.Namespace) -> None:
        """Read what an earlier call left."""
        self.asked, self.folder = asked, asked.out
        found = (Row(**{**r, "layers": tuple(r["layers"])}) for r in lines(self._path("rows")))
        # A group that was stopped half-way is measured again, and its later rows count.
        self.rows = list({row.place: row for row in found}.values())
        self.notes = [str(entry["note"]) for entry in lines(self._path("notes"))]
        self._roofs: dict[str, float] = {e["name"]: e["value"] for e in lines(self._path("roofs"))}

    def _path(self, name: str) -> Path:
        return Path(self.folder / f"{name}.jsonl")

    def row(self, row: Row) -> None:
        """Keep a row, on disk before anything else happens."""
        self.rows = [r for r in self.rows if r.place != row.place] + [row]
        append(self._path("rows"), asdict(row))
        print(_line(row), flush=True)

    def note(self, text: str) -> None:
        """Keep a sentence."""
        self.notes.append(text)
        append(self._path("notes"), {"note": text})
        print(text, flush=True)

    def samples(self, group: Group, times: dict[str, list[float]]) -> None:
        """Keep the seconds of every round, by variant."""
        append(self._path("samples"), {**asdict(group), "seconds": times})

    def roof(self, name: str) -> float:
        """Return bytes a second of a copy, or operations a second at a precision."""
        if name not in self._roofs:
            self._roofs[name] = measured_roof(name)
            append(self._path("roofs"), {"name": name, "value": self._roofs[name]})
        return self._roofs[name]

    def write(self) -> None:
        """Write the table as Markdown."""
        device = self.asked.device
        where = "this CPU: figures without meaning" if device == "cpu" else gpu_name()
        parts = [f"Measured on {where}; torch {torch.__version__}.", ""]
        for name, value in self._roofs.items():
            unit = "TB/s" if name == "copy" else "Top/s"
            parts.append(f"- roof, {name}: {value / 1e12:.2f} {unit}")
        parts += [
            "",
            "| network | precision | mode | batch | variant | ms | × dense (95 %) "
            "| of the roof | mJ gross (net) | layers replaced |",
            "|---" * 10 + "|",
        ]
        parts += [_line(row) for row in self.rows]
        parts += ["", *(f"- {note}" for note in dict.fromkeys(self.notes))]
        checks = [r.do_bench for r in self.rows if r.do_bench is not None]
        if checks:
            worst = max(abs(c - 1) for c in checks)
            parts.append(
                f"- `triton.testing.do_bench` differs from our timer by at most {worst:.1%}"
            )
        (self.folder / "table.md").write_text("\n".join(parts) + "\n")


# --------------------------------------------------------------------------------------------
# preparing


def prepare_all(asked: argparse.Namespace) -> int:
    """Make every variant's artifact, several at a time; return how many could not be made."""
    wanted = dict.fromkeys(
        (group.net, v, group.batch) for group in groups(asked.device) for v in group.variants
        if not asked.nets or group.net in asked.nets
    )  # fmt: skip
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(asked.prepare, context) as pool:
        made = [pool.submit(artifact, *one, asked.small, asked.models) for one in wanted]
    reasons = [f"{net} {v}: {m.exception()}" for (net, v, _), m in zip(wanted, made, strict=True)
               if m.exception()]  # fmt: skip
    for reason in reasons:
        print(reason, flush=True)
    return len(reasons)


def prepared(net: str, label: str, small: bool, models: Path) -> OnnxModel:
    """Return the ONNX file of a variant, made once; raises `StageError` when it cannot be made.

    Every variant starts from the dense weights of the same seed, so each can be made alone.
    """
    name = named(net, label, small)
    folder = models / name
    models.mkdir(parents=True, exist_ok=True)
    with files.locked(models / f"{name}.lock", wait=True):
        kept = folder / "model.json"
        if not kept.exists():
            shutil.rmtree(folder, ignore_errors=True)
            files.write(kept, json.dumps(to_json(_made(net, label, small, folder))))
            print(f"{net} {label}: prepared", flush=True)
        return from_json(OnnxModel, json.loads(kept.read_text()))


def _made(net: str, label: str, small: bool, folder: Path) -> OnnxModel:
    torch.set_num_threads(2)
    (folder / "dense").mkdir(parents=True)
    (folder / "weights").mkdir()
    workload = WORKLOADS.create("untrained", (SMALL if small else NETS)[net])
    none = TrainSpec(epochs=0)
    plain = CompressionSpec(WorkloadSpec("untrained", (SMALL if small else NETS)[net]), none)
    pattern, sparsity = VARIANTS[label]
    multiple = 64 if pattern == "channel" and not small else 1
    wanted = plain if pattern == "dense" else replace(
        plain, pattern=pattern, sparsity=sparsity, recovery=none, scope="local",
        criterion="l2" if pattern == "channel" else "magnitude", channel_multiple=multiple,
    )  # fmt: skip
    start = compress(plain, workload, None, folder / "dense", lambda _share: None)
    if pattern != "dense":
        start = compress(wanted, workload, start, folder / "weights", lambda _share: None)
    return export(ExportSpec(wanted), start, workload, folder)


def named(net: str, label: str, small: bool) -> str:
    """Return the name of a variant's folder."""
    return re.sub(r"[^a-z0-9]+", "-", f"{net} {label}".lower()) + ("-small" if small else "")


def artifact(net: str, label: str, batch: int, small: bool, models: Path) -> tuple[OnnxModel, Path]:
    """Return a variant and its artifact for a batch, made once: it serves every precision and mode.

    Raises `StageError` when it cannot be made.
    """
    model = prepared(net, label, small, models)
    folder = models / f"{named(net, label, small)}-batch{batch}"
    target = TargetProfile(
        "gpu", "", "", "", 1, 0, (), None, "", 1, (), (), 1, None, (), None,
    )  # fmt: skip
    with files.locked(models / f"{folder.name}.lock", wait=True):
        kept = folder / "entry.txt"
        if not kept.exists():
            shutil.rmtree(folder, ignore_errors=True)
            candidate = Candidate(model.spec, PluginSpec("torch", {}), "gpu", batch)
            files.write(kept, compile_model(candidate, model, target, folder).entry)
        return model, folder / kept.read_text()


def loaded(group: Group, asked: argparse.Namespace) -> Iterator[tuple[str, OnnxModel | None, Any]]:
    """Yield every variant with its session and its inputs on the device, or why there is none."""
    options = {"device": asked.device, "precision": group.precision, "mode": group.mode}
    if asked.device == "cuda":
        options["l2"] = "cold"
    for label in group.variants:
        model = None
        try:
            model, path = artifact(group.net, label, group.batch, asked.small, asked.models)
            session: Any = BACKENDS.create("torch", options).load(path, torch.get_num_threads())
            inputs = np.random.default_rng(0).standard_normal((group.batch, *model.input_shape))
            session.set_inputs([inputs.astype(np.float32)])
            session.invoke()
        except StageError as error:
            yield label, model, error
            continue
        yield label, model, session


# --------------------------------------------------------------------------------------------
# measuring


def measure(group: Group, asked: argparse.Namespace, kept: Kept) -> None:
    """Time the variants of a group in turn and keep a row of each."""
    cuda = asked.device == "cuda"
    models: dict[str, OnnxModel] = {}
    ready: dict[str, Any] = {}
    for label, model, session in loaded(group, asked):
        if isinstance(session, StageError) or model is None:
            kept.row(Row(*group.key, label, failure=session.what))
        else:
            models[label], ready[label] = model, session
    if "dense" not in ready:
        for label in ready:
            kept.row(Row(*group.key, label, failure="nothing to compare with: no dense model"))
        return
    times = rounds(ready, asked.device)
    kept.samples(group, times)
    for label, session in ready.items():
        ratio, low, high = interval(times[label], times["dense"])
        seconds = statistics.median(times[label])
        least = ideal(models[label], group, kept) if cuda else None
        gross = clean = check = None
        if cuda and group.batch == asked.energy_batch:
            gross, clean = joules(session, asked.energy_seconds, kept)
        if cuda and label == "dense" and group.mode == "graph":
            check = do_bench(session) / seconds
        kept.row(
            Row(*group.key, label, "", seconds * 1e3, ratio, low, high,
                least / seconds if least else None, session.layers, gross, clean, check)
        )  # fmt: skip
    del ready
    if cuda:
        torch.cuda.empty_cache()


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


def joules(session: Any, seconds: float, kept: Kept) -> tuple[float | None, float | None]:
    """Return millijoules an inference, gross and net of the GPU idling just before."""
    meter = METERS.create("nvml", {"idle_seconds": 1.0})
    try:
        meter.settle()
        meter.start()
        end, calls = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            session.invoke()
            calls += 1
        reading = meter.stop(calls)
    except StageError as error:
        kept.note(f"energy: {error.what}")
        return None, None
    idle = (reading.idle_watts or 0.0) * reading.seconds
    return reading.joules / calls * 1e3, (reading.joules - idle) / calls * 1e3


def measured_roof(name: str) -> float:
    """Return what the GPU reaches: bytes/s of a copy, or operations/s of a large product."""
    if name == "copy":
        source = torch.empty(1 << 30, dtype=torch.int8, device="cuda").random_(0, 100)
        target = torch.empty_like(source)
        return 2 * source.numel() / _fastest(lambda: target.copy_(source))
    size = 8192
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)
    a, b = (torch.randn(size, size, device="cuda").to(kind) for _ in range(2))
    if name != "int8":
        return 2 * size**3 / _fastest(lambda: a @ b)
    a, b = ((x * 20).to(torch.int8) for x in (a, b))
    b = b.t().contiguous().t()
    return 2 * size**3 / _fastest(lambda: torch._int_mm(a, b))


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


def ideal(model: OnnxModel, group: Group, kept: Kept) -> float:
    """Return the least seconds by the roofs: its products as if dense, its weights read once."""
    work = 2 * model.macs * group.batch / kept.roof(group.precision)
    return max(work, model.parameters * _BYTES[group.precision] / kept.roof("copy"))


# --------------------------------------------------------------------------------------------
# writing


def _line(row: Row) -> str:
    head = f"| {row.net} | {row.precision} | {row.mode} | {row.batch} | {row.variant} | "
    if row.milliseconds is None or row.ratio is None:
        return f"{head}{row.failure} | | | | |"
    roof = f"{row.roof:.0%}" if row.roof is not None else "–"
    energy = "–"
    if row.millijoules is not None and row.net_millijoules is not None:
        energy = f"{row.millijoules:.3g} ({row.net_millijoules:.3g})"
    taken = sum("taken" in words for words in row.layers)
    layers = f"{taken} of {len(row.layers)}" if row.layers else "–"
    return (
        f"{head}{row.milliseconds:.4f} | {row.ratio:.2f} ({row.low:.2f}–{row.high:.2f}) | "
        f"{roof} | {energy} | {layers} |"
    )


def gpu_name() -> str:
    """Return what NVML says of the GPU and its driver."""
    identity, software, _ = nvml.read("any")
    driver = software.get("nvidia_driver", "unknown")
    return f"{identity.get('name', torch.cuda.get_device_name(0))}, driver {driver}"


if __name__ == "__main__":
    sys.exit(main())
