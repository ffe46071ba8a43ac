"""Tuning of dense kernels by measurement: TVM's MetaSchedule, in this process, within a budget.

What is searched is the schedule of `_tvm_schedule` with the sizes of its tiles left open and, for
kernels that it does not know, the rules of MetaSchedule itself (Shao et al. 2022, "Tensor Program
Optimization with Probabilistic Programs"). The search mutates the best found so far. Nothing is
pickled and no process is started: TVM's own builder and runner do both.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hwbench.backends import _tvm_schedule
from hwbench.errors import StageError
from hwbench.kernels.build import Machine
from hwbench.kernels.choose import clock, race
from hwbench.kernels.memory import Memory

BATCH = 8
KEPT = 6
FINALISTS = 3
PATIENCE = 10
"""Batches without anything faster, after which a kernel counts as tuned."""
HOPELESS = 3.0
"""A candidate whose first call takes so many times the best is not called again."""
CALLS = 5
ROUNDS = 15.0
"""Seconds that the finalists of one kernel may race at most."""

_INTRINSICS = "tvm.s_tir.tensor_intrin"

Trace = list[Any]


@dataclass(slots=True)
class Found:
    """What is known about one kernel: seconds spent, schedules tried, the fastest and the best.

    ``kept`` are the fastest in the order of their seconds, each a trace as JSON. ``best`` won
    the last race against the schedule that is not tuned; None: that one won. ``raced`` says at
    how many tries this was.
    """

    spent: float = 0.0
    tried: int = 0
    raced: int = 0
    stale: int = 0
    untuned: float | None = None
    tuned: float | None = None
    best: Trace | None = None
    kept: list[tuple[float, Trace]] = field(default_factory=list)

    @staticmethod
    def of(kept: Mapping[str, Any]) -> Found:
        """Return what a file remembers."""
        pairs = [(float(seconds), list(trace)) for seconds, trace in kept.get("kept", ())]
        return Found(**{**kept, "kept": pairs})

    def plain(self) -> dict[str, Any]:
        """Return what is to be written to a file."""
        return {name: getattr(self, name) for name in Found.__slots__}

    def add(self, seconds: float, trace: Trace) -> None:
        """Count a schedule that ran, and keep it if it is among the fastest."""
        self.stale = 0 if not self.kept or seconds < self.kept[0][0] else self.stale + 1
        self.kept = sorted([*self.kept, (seconds, trace)], key=lambda pair: pair[0])[:KEPT]


class Timer(Protocol):
    """Where kernels are timed."""

    def seconds(self, module: Any, plain: Any, best: float | None = None) -> float | None:
        """Return the shortest of a few calls; None for a schedule that does not compile or run.

        ``plain`` is the kernel without a schedule. One that is hopeless beside `best` seconds
        need not be called to the end.
        """

    def race(self, modules: Sequence[Any], plain: Any) -> list[float]:
        """Return the seconds of schedules of one kernel, timed in turns on the same inputs."""


@dataclass(frozen=True, slots=True)
class Here:
    """Timing in this process."""

    made: Machine

    def seconds(self, module: Any, plain: Any, best: float | None = None) -> float | None:
        """Return the shortest of a few calls, or None."""
        library = compiled(module, self.made)
        if library is None:
            return None
        call, arguments, threads = library["main"], _arguments(plain), self.made.threads
        taken = float("inf")
        for turn in range(CALLS + 1):
            start = clock(threads)
            call(*arguments)
            once = clock(threads) - start
            taken = min(taken, once) if turn else taken
            if best is not None and once > HOPELESS * best and turn:
                break
        return taken

    def race(self, modules: Sequence[Any], plain: Any) -> list[float]:
        """Return the seconds of schedules, timed in turns."""
        arguments = _arguments(plain)
        calls = [[functools.partial(compiled(m, self.made)["main"], *arguments)] for m in modules]
        return race(calls, self.made.threads, time.perf_counter() + ROUNDS)


def _arguments(module: Any) -> list[Any]:
    """Return random inputs for a kernel, and room for its output."""
    import numpy as np
    import tvm

    rng = np.random.default_rng(0)
    values = [rng.random(shape).astype(dtype) for shape, dtype in inputs_of(module)]
    return [tvm.runtime.tensor(value) for value in values]


@dataclass(slots=True)
class _Kernel:
    """A function of the network as MetaSchedule wants it: a module with nothing but ``main``."""

    name: str
    module: Any
    share: float
    key: str
    found: Found
    context: Any = None
    database: Any = None


def tuned(
    module: Any,
    made: Machine,
    seconds: float,
    memory: Memory,
    heard: Callable[[float], None] | None = None,
    timer: Timer | None = None,
) -> Any:
    """Return a fused Relax module whose kernels are tuned, those that gained nothing untouched.

    At most `seconds` are spent on a network, over all runs together, beyond the schedule that is
    being tried when they end and the races of the fastest at the end; each kernel gets its share
    by the time it takes untuned. What was found is kept in `memory` after every few tries, so
    that a run that was killed goes on.
    `heard` is called with the share of the time that is over. Kernels are timed by `timer`:
    in this process if none is given.
    """
    timer = timer or Here(made)
    with _quick():
        kernels = _kernels(module, memory)
        _search(kernels, made, seconds, memory, heard or (lambda share: None), timer)
        for kernel in kernels:
            if kernel.found.raced < kernel.found.tried:
                _final(kernel, made, timer)
                memory.keep({kernel.key: kernel.found.plain()})
    return _applied(module, kernels)


def _kernels(module: Any, memory: Memory) -> list[_Kernel]:
    """Return the kernels that have loops to schedule, with what is remembered of them."""
    import tvm_ffi
    from tvm import IRModule, relax, tirx

    calls: Counter[str] = Counter()

    def count(node: Any) -> None:
        if isinstance(node, relax.Call) and str(getattr(node.op, "name", "")) == "relax.call_tir":
            calls[str(node.args[0].name_hint)] += 1

    relax.analysis.post_order_visit(module["main"], count)
    remembered: Mapping[str, Any] = memory.recall()
    kernels = []
    for variable, function in module.functions.items():
        if not isinstance(function, tirx.PrimFunc):
            continue
        alone = IRModule({"main": function.with_attr("global_symbol", "main")})
        key = f"{tvm_ffi.structural_hash(alone):x}"
        found = Found.of(remembered.get(key, {}))
        name = str(variable.name_hint)
        kernels.append(_Kernel(name, alone, float(calls[name]), key, found))
    return kernels


def _search(
    kernels: list[_Kernel],
    made: Machine,
    seconds: float,
    memory: Memory,
    heard: Callable[[float], None],
    timer: Timer,
) -> None:
    """Try schedules, a few of one kernel after a few of another, until the time is over."""
    for kernel in kernels:
        if kernel.found.untuned is None:
            kernel.found.untuned = timer.seconds(_house(kernel, made), kernel.module)
        kernel.share *= kernel.found.untuned or 0.0
    total = sum(kernel.share for kernel in kernels) or 1.0
    start = time.monotonic()

    def due(kernel: _Kernel) -> float:
        done = kernel.found.stale >= PATIENCE * BATCH
        return 0.0 if done else kernel.share / total * seconds - kernel.found.spent

    left = sum(max(due(kernel), 0.0) for kernel in kernels)
    while (over := time.monotonic() - start) < left:
        kernel = max(kernels, key=due)
        if due(kernel) <= 0:
            break
        since = time.monotonic()
        if not _batch(kernel, made, since + left - over, timer):
            kernel.found.stale = PATIENCE * BATCH
        kernel.found.spent += time.monotonic() - since
        memory.keep({kernel.key: kernel.found.plain()})
        heard(min((time.monotonic() - start) / left, 1.0))
        _say(kernel, time.monotonic() - start, left)


def _batch(kernel: _Kernel, made: Machine, deadline: float, timer: Timer) -> bool:
    """Try a few schedules of one kernel until `deadline`, at least one; False if there is none."""
    from tvm.s_tir import meta_schedule as ms

    if kernel.context is None:
        kernel.context, kernel.database = _context(kernel, made)
    picked = kernel.context.generate_measure_candidates()
    if not picked:
        return False
    results: list[Any] = []
    for candidate in picked:
        taken = None
        if not results or time.monotonic() < deadline:
            best = kernel.found.kept[0][0] if kernel.found.kept else kernel.found.untuned
            taken = timer.seconds(candidate.sch.mod, kernel.module, best)
            kernel.found.tried += 1
        if taken is None:
            results.append(ms.runner.RunnerResult(None, "not run"))
            continue
        kernel.found.add(taken, _plain(candidate.sch.trace.as_json()))
        results.append(ms.runner.RunnerResult([taken], None))
        _commit(kernel, candidate.sch.trace, taken, made)
    kernel.context.notify_runner_results(picked, results)
    return any(result.run_secs for result in results)


def _context(kernel: _Kernel, made: Machine) -> tuple[Any, Any]:
    """Return a search over one kernel, and the database that it starts from."""
    from tvm.s_tir import meta_schedule as ms

    quiet = logging.getLogger(f"{__name__}.tvm")
    quiet.setLevel(logging.ERROR)
    strategy = ms.search_strategy.EvolutionarySearch(
        population_size=4 * BATCH, init_min_unmeasured=BATCH, genetic_num_iters=1
    )
    context = ms.TuneContext(
        kernel.module,
        target=made.target,
        space_generator=_space(kernel, made),
        search_strategy=strategy,
        num_threads=1,
        rand_state=1 + kernel.found.tried,
        logger=quiet,
    )
    kernel.database = ms.database.MemoryDatabase()
    for seconds, trace in kernel.found.kept:
        plan = _replayed(kernel.module, trace)
        if plan is not None:
            _commit(kernel, plan.trace, seconds, made)
    spaces = context.generate_design_space()
    model = ms.cost_model.RandomModel(seed=0)
    context.pre_tuning(1 << 20, BATCH, spaces, kernel.database, model)
    return context, kernel.database


def _space(kernel: _Kernel, made: Machine) -> Any:
    """Return what may be tried: our schedule with open tiles, or the rules of MetaSchedule."""
    from tvm.s_tir import meta_schedule as ms

    mutators = ms.mutator.Mutator.create("llvm")
    parallel = made.threads > 1
    if _house(kernel, made) is not kernel.module:
        tile = _tvm_schedule.tile_of(made.target)
        return ms.space_generator.ScheduleFn(
            lambda plan: _opened(plan, tile, parallel),
            sch_rules=[],
            postprocs=[],
            mutator_probs=mutators,
        )
    rules = [
        rule
        for rule in ms.schedule_rule.ScheduleRule.create("llvm")
        if not isinstance(rule, ms.schedule_rule.ParallelizeVectorizeUnroll)
    ]
    rules.append(
        ms.schedule_rule.ParallelizeVectorizeUnroll(
            max_jobs_per_core=4 if parallel else -1,
            max_vectorize_extent=4 * made.lanes,
            unroll_max_steps=[0, 16, 64],
        )
    )
    return ms.space_generator.PostOrderApply(
        sch_rules=rules,
        postprocs=ms.postproc.Postproc.create("llvm"),
        mutator_probs=mutators,
    )


def _opened(plan: Any, tile: _tvm_schedule.Tile, parallel: bool) -> Any:
    """Return a schedule after ours was written into it with the sizes of the tiles left open."""
    _tvm_schedule.tiling(plan, tile, parallel, _tvm_schedule.sampled)
    return plan


def _commit(kernel: _Kernel, trace: Any, seconds: float, made: Machine) -> None:
    from tvm.s_tir import meta_schedule as ms

    workload = kernel.database.commit_workload(kernel.module)
    about = ms.arg_info.ArgInfo.from_entry_func(kernel.module)
    record = ms.database.TuningRecord(trace, workload, [seconds], made.target, about)
    kernel.database.commit_tuning_record(record)


def _final(kernel: _Kernel, made: Machine, timer: Timer) -> None:
    """Let the fastest race the untuned schedule in turns: single times flatter the lucky."""
    found = kernel.found
    plans = [(trace, _replayed(kernel.module, trace)) for _, trace in found.kept[:FINALISTS]]
    racers: list[tuple[Trace | None, Any]] = [(None, _house(kernel, made))]
    racers += [(trace, plan.mod) for trace, plan in plans if plan is not None]
    taken = timer.race([module for _, module in racers], kernel.module)
    quickest = min(range(len(taken)), key=taken.__getitem__)
    found.untuned, found.tuned, found.best = taken[0], taken[quickest], racers[quickest][0]
    found.raced = found.tried


def _applied(module: Any, kernels: list[_Kernel]) -> Any:
    """Return the module with the best schedule of each kernel that gained by tuning."""
    for kernel in kernels:
        plan = _replayed(kernel.module, kernel.found.best) if kernel.found.best else None
        if plan is None:
            continue
        function = module[kernel.name]
        kept = {key: function.attrs[key] for key in function.attrs.keys()}  # noqa: SIM118
        alone = plan.mod["main"].without_attr("global_symbol")
        made = alone.with_attrs({**kept, _tvm_schedule.DONE: True})
        module.update_func(module.get_global_var(kernel.name), made)
    return module


def _replayed(module: Any, trace: Trace) -> Any:
    """Return the schedule that a trace makes of a kernel; None if it does not fit."""
    from tvm.s_tir import Schedule, ScheduleError
    from tvm.s_tir.schedule import Trace as Steps

    plan = Schedule(module)
    try:
        Steps.apply_json_to_schedule(trace, plan)
    except (ScheduleError, RuntimeError, ValueError, TypeError, LookupError):
        return None
    return plan


def _house(kernel: _Kernel, made: Machine) -> Any:
    """Return the kernel as `_tvm_schedule` makes it, or as it is if that does not know it."""
    from tvm import IRModule
    from tvm.s_tir import ScheduleError

    tile = _tvm_schedule.tile_of(made.target)
    try:
        done = _tvm_schedule.tiled(kernel.module["main"], tile, made.threads > 1)
    except ScheduleError:
        done = None
    return kernel.module if done is None else IRModule({"main": done})


def inputs_of(module: Any) -> list[tuple[list[int], str]]:
    """Return the shapes and types of a kernel's inputs and of its output."""
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo

    infos = ArgInfo.from_entry_func(module)
    return [([int(n) for n in info.shape], str(info.dtype)) for info in infos]


def compiled(module: Any, made: Machine) -> Any:
    """Return a compiled kernel; None for a schedule that does not compile."""
    import tvm

    try:
        return tvm.compile(module, target=made.target)
    except (RuntimeError, ValueError, TypeError, LookupError):
        return None


def _plain(value: Any) -> Any:
    """Return what TVM gives as JSON in Python's own types; StageError for one unknown here."""
    from tvm import tirx

    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, tirx.IntImm | tirx.FloatImm):
        return value.value
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "__iter__"):
        return [_plain(item) for item in value]
    raise StageError("compile", f"a trace of TVM holds {value}, a {type(value).__name__}")


def _say(kernel: _Kernel, over: float, left: float) -> None:
    found = kernel.found
    best = f"{found.kept[0][0] * 1e6:.0f} µs" if found.kept else "nothing"
    untuned = f"{(found.untuned or 0) * 1e6:.0f} µs"
    text = f"{kernel.name}: {found.tried} tried, {best} after {untuned}"
    sys.stderr.write(f"tuning, {over:.0f} of {left:.0f} s: {text}\n")


@contextlib.contextmanager
def _quick() -> Iterator[None]:
    """Keep MetaSchedule from parsing TVM's intrinsics: 40 s for GPUs, and we use none of them."""
    if _INTRINSICS in sys.modules:
        yield
        return
    sys.modules[_INTRINSICS] = types.ModuleType(_INTRINSICS)
    try:
        yield
    finally:
        del sys.modules[_INTRINSICS]
