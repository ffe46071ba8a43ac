"""A made-up but realistic study: what the pareto and report tests chew on."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence

from hwbench.records import (
    METRICS,
    Candidate,
    CompressionSpec,
    Conditions,
    Decision,
    ExportSpec,
    Failure,
    Goal,
    LayerNote,
    LayerTime,
    MeasureSpec,
    Method,
    PluginSpec,
    Power,
    Recipe,
    Result,
    Roofline,
    Schedule,
    Source,
    Study,
    TargetProfile,
    TrainSpec,
    Value,
    WorkloadSpec,
    missing,
)

WORKLOAD = WorkloadSpec("toy")
TRAIN = TrainSpec(epochs=1)
ORT = PluginSpec("onnxruntime")
TVM = PluginSpec("tvm", {"mcpu": "skylake-avx512"})

METHODS = (
    Method("channel", "l2", "local", "oneshot", 1, (0.25, 0.5, 0.75)),
    Method("unstructured", "magnitude", "global", "oneshot", 1, (0.5, 0.8, 0.9)),
    Method("unstructured", "random", "global", "oneshot", 1, (0.8,)),
    Method("2:4", "magnitude", "local", "oneshot", 1, (0.5,)),
    Method("4x1", "magnitude", "global", "oneshot", 1, (0.5, 0.8)),
    Method("unstructured", "magnitude", "global", "cubic", 5, (0.95,)),
)
# What each of them costs in accuracy (points), in the order of the methods above.
DROPS = (0.4, 3.1, 22.0, 0.1, 0.6, 4.2, 31.0, 0.5, 0.4, 2.4, 9.0)


def candidate(
    pattern: str = "dense",
    sparsity: float = 0.0,
    *,
    criterion: str = "magnitude",
    scope: str = "global",
    schedule: Schedule = "oneshot",
    backend: PluginSpec = ORT,
    seed: int = 0,
) -> Candidate:
    spec = CompressionSpec(
        WORKLOAD,
        TRAIN,
        pattern=pattern,
        criterion=criterion,
        scope=scope,
        sparsity=sparsity,
        schedule=schedule,
        seed=seed,
    )
    return Candidate(ExportSpec(spec), backend, "local-cpu")


def value(metric: str, number: float, spread: float = 0.0, source: Source | None = None) -> Value:
    """A value with an interval of ± `spread` (a share of it), or without one."""
    source = source or Source.MEASURED
    if not spread:
        return Value(metric, number, source)
    return Value(metric, number, source, number * (1 - spread), number * (1 + spread))


def result(
    who: Candidate, numbers: Mapping[str, float | Value], failure: Failure | None = None
) -> Result:
    values = {
        metric: number if isinstance(number, Value) else value(metric, number)
        for metric, number in numbers.items()
    }
    return Result(who, values, failure=failure)


def recipe(
    *,
    goals: Sequence[Goal] = (Goal("top1", "max_drop", 0.01),),
    objectives: Sequence[str] = ("top1", "latency_p50", "peak_memory", "energy"),
    choose: str = "latency_p50",
) -> Recipe:
    return Recipe(
        name="p32",
        workload=WORKLOAD,
        train=TRAIN,
        recovery=TrainSpec(epochs=3, lr=0.03),
        methods=METHODS,
        seeds=(0,),
        backends=(ORT, TVM),
        objectives=tuple(objectives),
        goals=tuple(goals),
        choose=choose,
        batch=1,
        measure=MeasureSpec(),
        title="Digits on photographs, ResNet-8",
    )


def target() -> TargetProfile:
    return TargetProfile(
        name="local-cpu",
        title="This machine's CPU",
        soc="Xeon",
        isa="x86_64",
        cores=2,
        ram_bytes=8 * 10**9,
        features=("avx2", "avx512f"),
        connection=PluginSpec("local"),
        how_to_reach="",
        threads=1,
        affinity=(),
        backends=(ORT, TVM),
        channel_multiple=8,
        power=Power(0.0, 5.0, "assumed 5 W per busy core"),
        meters=(PluginSpec("proxy"),),
        throttle_celsius=None,
    )


def results(*, energy: bool = True) -> tuple[Result, ...]:
    """Two backends × (dense + 11 pruned); two of the 24 failed, one has no memory figure."""
    dice = random.Random(0)
    rows: list[Result] = []
    for backend, base in ((ORT, 46e-6), (TVM, 71e-6)):
        rows.append(_row(candidate(backend=backend), base, 0.0, 0.0, dice, energy=energy))
        drops = iter(DROPS)
        for method in METHODS:
            for sparsity in method.sparsities:
                who = candidate(
                    method.pattern,
                    sparsity,
                    criterion=method.criterion,
                    scope=method.scope,
                    schedule=method.schedule,
                    backend=backend,
                )
                rows.append(_row(who, base, sparsity, next(drops) / 100, dice, energy=energy))
    failed = Failure("compile", "TVM cannot lower the layer", "Traceback: line 1\n<b>line 2</b>")
    rows[-1] = Result(rows[-1].candidate, {}, failure=failed)
    hung = Failure("measure", "no answer within 60 s; the worker was killed")
    rows[5] = Result(rows[5].candidate, rows[5].values, failure=hung)
    gap = missing("peak_memory", Source.MEASURED, "VmHWM could not be reset in this container")
    rows[9] = dataclasses.replace(rows[9], values={**rows[9].values, "peak_memory": gap})
    return tuple(rows)


def _row(
    who: Candidate,
    base: float,
    sparsity: float,
    drop: float,
    dice: random.Random,
    *,
    energy: bool,
) -> Result:
    channel = who.compression.pattern == "channel"
    kept = (1 - sparsity) ** 2 if channel else 1 - sparsity
    latency = base * (0.25 + 0.75 * kept if channel else dice.uniform(0.99, 1.01))
    weights, macs = 78_042, 3.2e6
    accuracy = 0.881 - drop + dice.uniform(-0.001, 0.001)
    memory = (2.1e6 if who.backend == ORT else 1.3e6) * (0.4 + 0.6 * kept if channel else 1.0)
    joules = latency * 5.0 * dice.uniform(0.99, 1.01)
    size = 4 * weights * (kept if channel else 1) + 24_000
    static = {
        "artifact_bytes": size,
        "parameters": weights * kept if channel else weights,
        "nonzero_parameters": weights * kept,
        "macs": macs * kept if channel else macs,
        "effective_macs": macs * kept,
        "sparsity": 0.0 if channel else sparsity,
        "denormals": 0.0,
    }
    values = {
        "top1": Value("top1", accuracy, Source.MEASURED, accuracy - 0.009, accuracy + 0.009),
        "latency_p50": value("latency_p50", latency, 0.012),
        "latency_p90": value("latency_p90", latency * 1.15, 0.03),
        "load_time": value("load_time", 0.004 + latency * 10),
        "first_inference": value("first_inference", latency * 12),
        "peak_memory": value("peak_memory", memory * dice.uniform(0.98, 1.02), 0.03),
        "process_memory": value("process_memory", 61e6 + memory),
        "energy": value("energy", joules, 0.02, Source.PROXY)
        if energy
        else missing("energy", Source.MEASURED, "no sensor on this machine: RAPL is not readable"),
    }
    values |= {m: Value(m, float(v), Source.STATIC) for m, v in static.items()}
    assert set(values) <= set(METRICS)
    zeros = not who.compression.is_dense and not channel
    why = f"{who.backend.kind} densifies zeros: no speed-up expected" if zeros else "no zeros"
    layers = tuple(LayerNote(f"conv{i}", eligible=False, why=why) for i in range(9))
    return Result(
        who,
        values,
        layers=layers,
        artifact=f"{who.key}-artifact",
        fingerprint="c0ffee",
        measured_at="2026-11-21T01:40:00Z",
        notes=("noise-limited: stopped at round 25",) if drop == 0.006 else (),
    )


def study(
    rows: Sequence[Result], decision: Decision, which: Recipe | None = None, title: str = ""
) -> Study:
    asked = which or recipe()
    return Study(
        recipe=dataclasses.replace(asked, title=title) if title else asked,
        target=target(),
        results=tuple(rows),
        decision=decision,
        conditions=Conditions(
            identity={"cpu": "Intel Xeon", "caches": {"L2": "2 MiB"}, "flags": ["avx2", "fma"]},
            software={"kernel": "6.12", "python": "3.11.2"},
            state={"governor": None, "load": [1.4, 1.2, 0.9]},
        ),
        versions={"hwbench": "0.1.0", "onnxruntime": "1.31.1", "torch": "2.13.0"},
        started="2026-11-21T01:30:00Z",
        seconds={"compress": 101.2, "compile": 33.0, "measure": 84.9},
        notes=("the shadow of R came out within 0.3 %: the sitting is valid",),
    )


def roofline(pruned: bool = False, *, precision: str = "bf16") -> Roofline:
    """A ViT-B/16 at batch 32 on an H100, about as it was seen; pruned: 2:4 and blocks in places."""
    dice = random.Random(1)
    rows, size = 32 * 197, 2
    bandwidth, rate = 2.92e12, 750e12
    layers = []

    def add(name: str, inputs: int, outputs: int, m: int, reach: float, kernel: str) -> None:
        operations = 2.0 * m * inputs * outputs
        kept = {"2:4": 0.5, "blocks 64x64": 0.1}.get(kernel, 1.0)
        nbytes = size * (inputs * outputs * kept + m * (inputs + outputs))
        least = max(operations * kept / rate, nbytes / bandwidth)
        why = "no zeros" if kernel == "dense" else f"{kernel} takes 0.81 of dense, taken"
        seconds = least / (reach * dice.uniform(0.93, 1.0))
        layers.append(
            LayerTime(name, kernel, precision, seconds, operations, operations * kept, nbytes, why)
        )

    add("patches", 768, 768, 32 * 196, 0.5, "dense")
    for block in range(12):
        kernels = ("2:4", "blocks 64x64") if pruned else ("dense", "dense")
        add(f"layer_{block}_qkv", 768, 2304, rows, 0.62, "dense")
        add(f"layer_{block}_out", 768, 768, rows, 0.55, "dense")
        add(f"layer_{block}_up", 768, 3072, rows, 0.6, kernels[0])
        add(f"layer_{block}_down", 3072, 768, rows, 0.58, kernels[1])
    add("head", 768, 1000, 32, 0.11, "dense")
    whole = sum(layer.seconds for layer in layers) * 1.7
    return Roofline(bandwidth, {precision: rate}, whole, "CUDA events, L2 cold", tuple(layers))


def with_rooflines(subject: Study) -> Study:
    """The study with layers of the chosen, the dense and a front model; one has none to tell."""
    marks = {subject.decision.chosen: roofline(pruned=True), subject.decision.dense: roofline()}
    front = next(s.candidate for s in subject.decision.standings if s.status == "front")
    none = Roofline(reason="this runtime does not tell its layers apart")
    rows = tuple(
        dataclasses.replace(
            row,
            roofline=marks.get(
                row.candidate.key, roofline(pruned=True) if row.candidate.key == front else none
            ),
        )
        for row in subject.results
    )
    return dataclasses.replace(subject, results=rows)
