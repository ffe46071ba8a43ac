"""Does the instrument work here? Known truths, put through the real protocol and judged.

`run` measures doubles (`hwbench.measurement.trial`) and yields one `Row` a question; `judge_*` are
the pure parts. What cannot be made to happen on command (a drift, an offset of one process, an
order effect) is planted on the samples of the A/A session: `plant` returns altered copies of the
records.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwbench import stats
from hwbench.connections import local
from hwbench.instruments import agreement, networks
from hwbench.measurement import precision, trial
from hwbench.measurement.device import Device, opened
from hwbench.measurement.trial import AGAIN, Trial
from hwbench.pipeline import session
from hwbench.records import Candidate, MeasureSpec, Process, TargetProfile, Visit
from hwbench.worker import stopwatch

MARGIN = 0.02
_DECIDE = 0.99
_DRIFT = 0.20
_OFFSET = 0.02
_ORDER = 0.05
_OVERHEAD_CALLS = 20_000
_AGREES = 0.03
_SIDE, _STEP = 16, 4

Show = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Row:
    """The answer to one question: how often it was asked, what came out, what was wanted.

    ``ok`` is None where there is nothing to pass, only a figure to know.
    """

    question: str
    tries: int
    found: str
    wanted: str
    ok: bool | None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: sessions of A/A with so many copies each; the same a slow-down.

    ``crowded`` are the slow-downs that are looked for beside a co-runner on the same core, ``many``
    the real models that are to be known to 1 % in one session (0: not tried).
    """

    sessions: int
    copies: int
    slow_sessions: int
    slow_copies: int
    slower: tuple[float, ...]
    crowded: tuple[float, ...]
    many: int = 0


QUICK = Plan(1, 4, 1, 1, (0.05,), (0.05,))
FULL = Plan(24, 12, 10, 3, (0.01, 0.02, 0.03, 0.05), (0.02, 0.03), 30)

_BASE = MeasureSpec(policy="selftest", warmup_seconds=1.0, timeout=30.0, max_time=120.0)
COARSE = dataclasses.replace(_BASE, generations=3)
FINE = dataclasses.replace(_BASE, generations=5, half_width=0.005)
MIDDLE = dataclasses.replace(_BASE, generations=4, visit_seconds=0.01)
"""What 2 % and less is looked for with, and what 3 %; COARSE is enough for more."""
STANDARD = MeasureSpec(policy="standard", generations=14, half_width=0.01, max_time=360.0)
"""The policy of that name, with as much time as many candidates may take."""


# --------------------------------------------------------------------------------------------
# judging


def judge_same(trials: Sequence[Trial]) -> Row:
    """Return how often identical doubles were told apart at 99 % (FASTER or SLOWER).

    As everywhere where a session decides, by Holm over the comparisons of each session.
    """
    sessions = [_twins(t) for t in trials]
    intervals = [i for session in sessions for i in session.values()]
    verdicts = [v for s in sessions for v in stats.verdicts(s, MARGIN, _DECIDE).values()]
    alarms = sum(v in (stats.Verdict.FASTER, stats.Verdict.SLOWER) for v in verdicts)
    equal = sum(v is stats.Verdict.EQUIVALENT for v in verdicts)
    widths = [i.half_width for i in intervals]
    sentence = f"{alarms} false alarms, {equal} equivalent within {MARGIN:.0%}"
    if widths:
        sentence += f", half-width {statistics.median(widths):.2%} (99 %, median)"
    expected = "no false alarm (99 %)" if len(verdicts) < 100 else "at most 1 % false alarms"
    return Row(
        "A/A: identical twins told apart",
        len(verdicts),
        sentence,
        expected,
        alarms <= len(verdicts) // 100,
        sum(t.seconds for t in trials),
    )


def _twins(measured: Trial) -> dict[str, stats.Interval]:
    """Return the 99 % intervals, by name, of all that is identical to R: S and the copies."""
    with_shadow = {**measured.doubles, "same, S": measured.shadow}
    spread = stats.pooled_spread(with_shadow.values(), measured.reference)
    return {
        name: stats.ratio(processes, measured.reference, _DECIDE, spread)
        for name, processes in with_shadow.items()
        if name.startswith("same")
    }


def judge_slower(trials: Sequence[Trial], share: float, where: str = "") -> Row:
    """Return how often a slow-down was found: the 99 % interval lies above 1."""
    intervals = [t.interval(n) for t in trials for n in t.doubles if n.startswith("slow")]
    hits = sum(i.low > 1.0 for i in intervals)
    seconds = sum(t.seconds for t in trials)
    sentence = f"found {hits} of {len(intervals)}"
    if intervals:
        middle = statistics.median(i.estimate for i in intervals) - 1.0
        sentence += f", estimated {middle:+.2%} (median), {seconds / len(intervals):.1f} s a pair"
    expected = "9 of 10" if share >= MARGIN else "to know"
    ok = hits >= 0.9 * len(intervals) if share >= MARGIN else None
    return Row(f"{share:.0%} slower{where}", len(intervals), sentence, expected, ok, seconds)


def judge_planted(before: Trial, after: Trial, question: str, most: float) -> Row:
    """Return by how much a planted disturbance moved the ratios of identical doubles.

    It may leave fewer quiet rounds: a ratio may then move by what its own 99 % interval allows.
    """
    at_first = {n: before.interval(n) for n in before.doubles}
    moved = [abs(after.interval(n).estimate / i.estimate - 1.0) for n, i in at_first.items()]
    allowed = [max(most, i.half_width) for i in at_first.values()]
    alarms = sum(
        stats.verdict(after.interval(n), MARGIN) in (stats.Verdict.FASTER, stats.Verdict.SLOWER)
        for n in after.doubles
    )
    worst = max(moved, default=0.0)
    return Row(
        question,
        len(moved),
        f"moved the ratio by at most {worst:.2%}, {alarms} false alarms",
        f"at most {most:.1%} (or its interval's half-width), no false alarm",
        all(m <= a for m, a in zip(moved, allowed, strict=True)) and not alarms,
    )


def judge_many(measured: Trial) -> Row:
    """Return whether every model of a session is known to 1 % (99 %), in how many seconds.

    Models come in identical twins; none of these may be told apart.
    """
    half_widths = [measured.interval(name).half_width for name in measured.doubles]
    spread = stats.pooled_spread([*measured.doubles.values(), measured.shadow], measured.reference)
    twins = [
        stats.ratio(measured.doubles[name + AGAIN], processes, _DECIDE, spread)
        for name, processes in measured.doubles.items()
        if name + AGAIN in measured.doubles
    ]
    verdicts = [stats.verdict(t, MARGIN) for t in twins]
    alarms = sum(v in (stats.Verdict.FASTER, stats.Verdict.SLOWER) for v in verdicts)
    apart = max((abs(t.estimate - 1.0) for t in twins), default=0.0)
    times = sorted(stats.level(p).estimate for p in measured.doubles.values())
    sentence = (
        f"{precision.summary(half_widths)}; {len(measured.reference)} generations, "
        f"{measured.seconds:.0f} s; {times[0] * 1e6:.0f} to {times[-1] * 1e6:.0f} µs a call; "
        f"{len(twins)} pairs of twins at most {apart:.2%} apart, {alarms} told apart"
    )
    known = max(half_widths) <= STANDARD.half_width and measured.seconds <= STANDARD.max_time
    return Row(
        f"{len(half_widths)} real models in one session, policy {STANDARD.policy}",
        len(half_widths),
        sentence,
        f"each to ±1 % (99 %) within {STANDARD.max_time:.0f} s, no twins told apart",
        known and not alarms,
        measured.seconds,
    )


def judge_killed(measured: Trial) -> Row:
    """Return whether a worker that was killed is a recorded failure and the rest went on."""
    failure = measured.failures.get("killed")
    others = [n for n in measured.doubles if n != "killed"]
    whole = bool(others) and all(n not in measured.failures for n in others)
    sentence = failure.message if failure is not None else "no failure was recorded"
    return Row(
        "kill -9 of a worker",
        1,
        f"{sentence}; {len(others)} others went on",
        "recorded as SIGKILL, the others go on",
        failure is not None and "SIGKILL" in failure.message and whole,
    )


def judge_overhead(inside: Sequence[float], around: Sequence[float], call: float) -> Row:
    """Return what a call is charged for the harness, in seconds within and around the clock."""
    within, beside = statistics.median(inside), statistics.median(around)
    return Row(
        "harness, per call",
        len(inside),
        f"{within * 1e6:.2f} µs inside the clock ({within / call:.3%} of {call * 1e3:.2g} ms), "
        f"{beside * 1e6:.2f} µs beside it",
        "at most 1 µs and 0.1 % inside",
        within <= 1e-6 and within / call <= 1e-3,
    )


def judge_agreement(loop: str, pairs: Sequence[tuple[float, float]]) -> Row:
    """Return how far our loop's times are from another's, of pairs measured in turn."""
    ratio = statistics.median(own_time / other_time for own_time, other_time in pairs)
    level = statistics.median(other_time for _, other_time in pairs)
    return Row(
        f"agreement with {loop}",
        len(pairs),
        f"ours / theirs = {ratio:.4f} (median of pairs in turn, {level * 1e6:.0f} µs a call)",
        f"within {_AGREES:.0%}",
        abs(ratio - 1.0) <= _AGREES,
    )


# --------------------------------------------------------------------------------------------
# planting


def plant(measured: Trial, change: Callable[[str, Process, Visit], float]) -> Trial:
    """Return a trial whose calls took `change(name, process, visit)` times as long."""

    def all_of(name: str, processes: Sequence[Process]) -> tuple[Process, ...]:
        return tuple(
            dataclasses.replace(p, visits=tuple(_scaled(v, change(name, p, v)) for v in p.visits))
            for p in processes
        )

    return dataclasses.replace(
        measured,
        reference=all_of("reference", measured.reference),
        shadow=all_of("shadow", measured.shadow),
        doubles={n: all_of(n, p) for n, p in measured.doubles.items()},
    )


def drift(found: Trial) -> Trial:
    """Return the trial with everything 20 % slower from the middle of each generation on."""
    last = max((v.round for p in found.reference for v in p.visits), default=0)
    return plant(found, lambda _n, _p, v: 1.0 + _DRIFT * (v.round > last / 2))


def offset(measured: Trial) -> Trial:
    """Return the trial with the doubles' processes of one generation 2 % slower for good."""
    only = measured.reference[0].generation if measured.reference else 0

    def change(name: str, process: Process, _visit: Visit) -> float:
        return 1.0 + _OFFSET * (name.startswith("same") and process.generation == only)

    return plant(measured, change)


def order(found: Trial) -> Trial:
    """Return the trial with whoever came first in a round 5 % slower (a cold cache)."""
    return plant(found, lambda _n, _p, v: 1.0 + _ORDER * (v.order == 0))


def _scaled(visit: Visit, factor: float) -> Visit:
    return dataclasses.replace(visit, wall=tuple(w * factor for w in visit.wall))


# --------------------------------------------------------------------------------------------
# running


def run(target: TargetProfile, full: bool, show: Show) -> Iterator[Row]:
    """Yield the rows, as they come: `full` takes about 20 minutes, otherwise 40 seconds.

    Raises `TargetError` when the target cannot be reached.
    """
    plan = FULL if full else QUICK
    with tempfile.TemporaryDirectory() as folder, opened(target, Path(folder) / "log") as device:
        device.waits = lambda why: show(0.0, why)
        same, killed = _same(device, plan, show)
        yield judge_same(same)
        yield from _planted(same)
        yield judge_killed(killed)
        for share in plan.slower:
            yield judge_slower(_slow(device, plan, share, show), share)
        if target.connection is not None and target.connection.kind == local.HERE.kind:
            yield from _crowded(device, plan, show)
        if plan.many:
            yield judge_many(_many(device, plan.many, Path(folder), show))
        yield overhead(stats.level(same[0].reference).estimate)
        if full:
            show(0.9, "agreement with other loops")
            for loop, pairs in agreement.loops(Path(folder)):
                yield judge_agreement(loop, pairs)


def _same(device: Device, plan: Plan, show: Show) -> tuple[list[Trial], Trial]:
    """Return the A/A sessions; the first has a double that is killed on the way."""
    trials = []
    copies: dict[str, Mapping[str, Any]] = {f"same {n}": {} for n in range(plan.copies)}
    for number in range(plan.sessions):
        show(0.5 * number / plan.sessions, f"A/A, session {number + 1} of {plan.sessions}")
        doubles = copies if number else {**copies, "killed": {"fault": "die", "at": 60}}
        spec = dataclasses.replace(COARSE, seed=number)
        trials.append(trial.run(device, doubles, spec))
    return [dataclasses.replace(t, doubles=_named(t, "same")) for t in trials], trials[0]


def _planted(same: Sequence[Trial]) -> Iterator[Row]:
    first = same[0]
    yield judge_planted(
        first, drift(first), "all 20 % slower from mid-session on (planted)", MARGIN
    )
    # A generation counts for one of n: that much of the offset stays, and the interval knows it.
    share = _OFFSET / max(len(first.reference), 1) + 0.002
    yield judge_planted(first, offset(first), "2 % offset of one process (planted)", share)
    yield judge_planted(first, order(first), "the first of a round 5 % slower (planted)", 0.01)


def _slow(
    device: Device, plan: Plan, share: float, show: Show, affinity: Sequence[int] = ()
) -> list[Trial]:
    trials = []
    spec = FINE if share <= MARGIN else MIDDLE if share <= 0.03 else COARSE
    doubles = {f"slow {n}": {"slower": share} for n in range(plan.slow_copies)}
    for number in range(plan.slow_sessions):
        label = f"{share:.0%} slower, session {number + 1} of {plan.slow_sessions}"
        show(0.5, label + (", beside a co-runner" if affinity else ""))
        chosen = dataclasses.replace(spec, seed=number)
        trials.append(trial.run(device, doubles, chosen, affinity))
    return trials


def _many(device: Device, count: int, folder: Path, show: Show) -> Trial:
    """Return a session of networks of `count` / 2 widths, each of them twice."""
    show(0.85, f"{count} real models in one session")
    models = {
        f"width {w}": networks.convolutions(folder / f"width-{w}.onnx", _SIDE, w)
        for w in range(_STEP * count // 2, 0, -_STEP)
    }
    backend = device.target.backends[0]
    with session.scratch(device.target) as line:
        futures = {
            name: line.compiled(Candidate(model.spec, backend, device.target.name), model)
            for name, model in models.items()
        }
        artifacts = {name: future.result() for name, future in futures.items()}
        return trial.run_models(device, artifacts, STANDARD)


def _crowded(device: Device, plan: Plan, show: Show) -> Iterator[Row]:
    core = min(os.sched_getaffinity(0))
    with _co_runner(core):
        for share in plan.crowded:
            found = _slow(device, plan, share, show, (core,))
            yield judge_slower(found, share, ", with a co-runner on the same core")


@contextlib.contextmanager
def _co_runner(core: int) -> Iterator[None]:
    """Keep one core busy meanwhile; the process ends with this one."""
    code = (
        "import ctypes, os\n"
        "ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)\n"
        f"os.sched_setaffinity(0, {{{core}}})\n"
        "while True: sum(range(100000))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            yield
        finally:
            process.kill()


def overhead(call: float) -> Row:
    """Return what the harness costs a call that takes `call` seconds, measured in this process."""
    inside, around = [], []
    for _ in range(5):
        wall, cpu, _ = stopwatch.time_calls(_nothing, _OVERHEAD_CALLS)
        inside.append(statistics.median(wall) * 1e-9)
        around.append((statistics.median(cpu) - statistics.median(wall)) * 1e-9)
    return judge_overhead(inside, around, call)


def _nothing() -> None:
    pass


def _named(found: Trial, prefix: str) -> dict[str, tuple[Process, ...]]:
    return {n: p for n, p in found.doubles.items() if n.startswith(prefix)}


def failed(rows: Sequence[Row]) -> bool:
    """Return whether any question was answered wrongly."""
    return any(row.ok is False for row in rows)
