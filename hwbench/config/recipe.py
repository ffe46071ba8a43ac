"""A recipe as written (YAML) and as used (`Recipe`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hwbench import cuda, pruners, units
from hwbench.config import plugins
from hwbench.config.measure import MeasureTable
from hwbench.errors import UserError, did_you_mean
from hwbench.records import (
    LAST,
    METRICS,
    SCHEDULES,
    TEACHER,
    TEMPERATURE,
    Goal,
    Healing,
    Method,
    PluginSpec,
    Precision,
    Recipe,
    Schedule,
    SearchSpec,
    ShiftSpec,
    Strategy,
    Ticket,
    TrainDevice,
    TrainSpec,
    WorkloadSpec,
)
from hwbench.records import (
    criterion as criterion_traits,
)
from hwbench.registry import BACKENDS, PRUNERS, SAMPLERS, WORKLOADS
from hwbench.traits import PrunerTraits

if TYPE_CHECKING:
    WorkloadField = BaseModel
    BackendsField = BaseModel
    SamplerField = BaseModel
else:
    WorkloadField = plugins.one_of(WORKLOADS)
    BackendsField = plugins.table_of(BACKENDS, several=True)
    SamplerField = plugins.one_of(SAMPLERS)

Word = TypeVar("Word", bound=str)
Sparsity = Annotated[float, Field(ge=0, lt=1)]
Quantity = str | float | int
Control = Literal["random", "scratch"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TrainTable(_Table):
    """How to train: SGD with Nesterov momentum and a one-cycle learning rate."""

    epochs: int = Field(10, ge=0, description="passes over the training split; 0: do not train")
    lr: float = Field(0.05, gt=0, description="the highest learning rate of the cycle")
    batch: int = Field(64, ge=2, description="samples per step")
    weight_decay: float = Field(5e-4, ge=0)
    warmup: float = Field(0.15, ge=0, lt=1, description="share of the steps spent warming up")
    device: TrainDevice = Field("cpu", description="where: cpu, or cuda (this machine's GPU)")

    def record(self, where: str) -> TrainSpec:
        """Return the record; raises `UserError` for a GPU that is not there."""
        gpu = cuda.asked(f"{where}.device") if self.device == "cuda" else ""
        return TrainSpec(**self.model_dump(), gpu=gpu)


class MethodTable(_Table):
    """One pruning method and the sparsities to try it at."""

    pattern: str = Field(
        description="channel, filter, neuron, mlp, head, depth, unstructured, N:M such as 2:4, "
        "NxM such as 4x1"
    )
    criterion: str | None = Field(None, description="how weights are ranked; the pruner's default")
    scope: str | None = Field(
        None,
        description="where units compete: global, local (each layer the same share), erk, vector "
        "(each layer its own share, given as ratios), sensitivity (the same, found by trying)",
    )
    ratios: dict[str, Sparsity] | None = Field(
        None, description="share to remove by layer name, for the scope vector; others keep all"
    )
    schedule: Schedule = Field(
        "oneshot",
        description="how sparsity grows while training; scratch trains the pruned shape from fresh "
        "weights (a control)",
    )
    steps: int | None = Field(
        None, ge=1, description="pruning steps; 8, and 3 where each is a training of its own"
    )
    begin: float = Field(0.0, ge=0, le=1, description="first step, as a share of the recovery")
    end: float = Field(LAST, ge=0, le=1, description="last step, as a share of the recovery")
    rewind_epoch: int = Field(0, ge=0, description="lottery: the epoch weights go back to")
    ticket: Ticket = Field(
        "winning", description="lottery: random draws new weights for the same net (a control)"
    )
    recovery: Healing = Field(
        "finetune", description="after pruning: bn (statistics only), finetune, or distill"
    )
    teacher: float = Field(
        TEACHER,
        gt=0,
        le=1,
        description="distill: share of the loss that is the dense model's answers",
    )
    temperature: float = Field(TEMPERATURE, gt=0, description="distill: how soft those answers are")
    options: dict[str, Any] = Field({}, description="the pruner's own options")
    sparsities: list[Sparsity] | None = Field(
        None, description="share of channels (channel) or weights; search.sparsities if absent"
    )


class BudgetTable(_Table):
    """When to stop trying candidates: what comes first."""

    trials: int | None = Field(None, ge=1, description="pruned candidates to try")
    minutes: float | None = Field(None, gt=0, description="no new candidate is begun after that")


class SearchTable(_Table):
    """What to try."""

    sparsities: list[Sparsity] = Field([0.5, 0.8, 0.9], description="0..1, for every method")
    methods: list[MethodTable] = Field(min_length=1)
    controls: list[Control] = Field(
        [],
        description="what every pattern is compared with, at all its sparsities: random (ranked by "
        "chance), scratch (the same shape trained from fresh weights for as long)",
    )
    strategy: Strategy = Field(
        "latency_first",
        description="latency_first: measure untrained, train what can win; train_all: the lot",
    )
    sampler: SamplerField | None = Field(
        None, description="which candidate to try next: a plug-in by kind; grid if absent"
    )
    repeats: int = Field(
        3, ge=1, description="fine-tuning seeds of the chosen model and its closest rival"
    )
    budget: BudgetTable = Field(default_factory=BudgetTable)
    seeds: list[int] = Field([0], min_length=1, description="each repeats the whole study")
    precisions: list[Precision] = Field(
        ["fp32"],
        min_length=1,
        description="number formats of the pruned models; the dense one is always tried in both",
    )


class ShiftTable(_Table):
    """Pictures as they were not in training: eight corruptions, each at these severities."""

    severities: list[Annotated[int, Field(ge=1, le=5)]] = Field([1, 3, 5], min_length=1)
    images: int = Field(2000, ge=2, description="validation images; 5000 or more to be sure of 1pp")
    delta: Quantity = Field("1pp", description="an error this much above dense is too much")

    def record(self, where: str) -> ShiftSpec:
        """Return the record."""
        delta = units.parse(self.delta, "fraction", where=f"{where}.delta")
        return ShiftSpec(tuple(dict.fromkeys(self.severities)), self.images, delta)


class GoalTable(_Table):
    """A bound on a metric, with its unit: ``{max: 2ms}``, ``{max_drop: 1pp}``."""

    max: Quantity | None = None
    min: Quantity | None = None
    max_drop: Quantity | None = Field(None, description="compared with the dense model")

    @model_validator(mode="after")
    def _something(self) -> GoalTable:
        if self.max is None and self.min is None and self.max_drop is None:
            raise ValueError("a goal needs max, min or max_drop")
        return self


class RecipeFile(_Table):
    """One study: what to compress, how, how to measure it, and what would be good enough."""

    version: Literal[1] = Field(description="the version of this format")
    title: str = ""
    workload: WorkloadField = Field(description="the model and its data: a plug-in by kind")
    train: TrainTable = Field(default_factory=TrainTable)
    search: SearchTable
    recover: TrainTable = Field(
        default_factory=lambda: TrainTable(epochs=3, lr=0.03),
        description="fine-tuning after pruning",
    )
    backends: BackendsField = Field(description="runtimes to compile for, with their options")
    objectives: list[str] = Field(
        ["top1", "latency_p50", "peak_memory", "energy"],
        min_length=1,
        description="the axes of the Pareto front",
    )
    goals: dict[str, GoalTable] = Field(default_factory=dict)
    choose: str = Field("latency_p50", description="the metric to win by, among what meets goals")
    batch: int = Field(1, ge=1, description="samples of one inference")
    measure: MeasureTable = Field(default_factory=MeasureTable)
    shift: ShiftTable | None = Field(
        None, description="also judge under distribution shift; {} for the usual one"
    )
    sensitivity: bool = Field(
        False,
        description="also try how much each layer can lose alone, by every pattern and criterion",
    )


def build(file: RecipeFile, path: Path, name: str) -> Recipe:
    """Return the checked `Recipe`; raises `UserError` for what the schema cannot see."""
    where = str(path)
    return Recipe(
        name=name,
        title=file.title or name,
        workload=_workload(file.workload, path),
        train=file.train.record(f"{where}: train"),
        recovery=file.recover.record(f"{where}: recover"),
        methods=_methods(file, where),
        seeds=tuple(file.search.seeds),
        backends=_backends(file.backends, path),
        objectives=tuple(_metric(m, f"{where}: objectives") for m in file.objectives),
        goals=tuple(g for m, t in file.goals.items() for g in build_goals(m, t, where)),
        choose=_metric(file.choose, f"{where}: choose"),
        batch=file.batch,
        measure=file.measure.record(f"{where}: measure"),
        precisions=tuple(dict.fromkeys(file.search.precisions)),
        search=_search(file.search, path),
        shift=_shift(file, where),
        sensitivity=file.sensitivity,
    )


def _shift(file: RecipeFile, where: str) -> ShiftSpec | None:
    wanted = "top1_shift" in (*file.objectives, *file.goals, file.choose)
    table = ShiftTable() if file.shift is None and wanted else file.shift
    return None if table is None else table.record(f"{where}: shift")


def _search(table: SearchTable, path: Path) -> SearchSpec:
    sampler = table.sampler
    if table.strategy == "train_all" and table.budget.minutes is not None:
        raise UserError(
            "train_all tries nothing in turn, so minutes cannot end it",
            where=f"{path}: search.budget.minutes",
            expected="search.budget.trials, or search.strategy: latency_first",
        )
    return SearchSpec(
        strategy=table.strategy,
        sampler=PluginSpec("grid") if sampler is None else plugins.spec_of(sampler, path.parent),
        trials=table.budget.trials,
        minutes=table.budget.minutes,
        repeats=table.repeats,
    )


def _workload(model: BaseModel, path: Path) -> WorkloadSpec:
    spec = plugins.spec_of(model, path.parent)
    kinds = plugins.option_kinds(WORKLOADS, spec.kind)
    content = plugins.files_digest(spec.options, kinds, f"{path}: workload")
    return WorkloadSpec(spec.kind, spec.options, content)


def _backends(table: BaseModel, path: Path) -> Any:
    specs = plugins.specs_of(table, path.parent, defaults=False)
    if not specs:
        raise UserError(
            "names no backend",
            where=f"{path}: backends",
            expected=f"for example {{onnxruntime: {{}}}} (known: {', '.join(BACKENDS.kinds())})",
        )
    return specs


def _metric(name: str, where: str) -> str:
    if name not in METRICS:
        raise UserError(f"unknown metric {name!r}", where=where, mend=did_you_mean(name, METRICS))
    return name


def build_goals(metric: str, table: GoalTable, where: str) -> list[Goal]:
    """Return the goals on one metric in SI units; raises `UserError` for a wrong unit."""
    place = f"{where}: goals.{metric}"
    _metric(metric, place)
    goals = []
    for kind in get_args(Literal["max", "min", "max_drop"]):
        limit = getattr(table, kind)
        if limit is not None:
            number = units.parse(limit, METRICS[metric].unit, where=f"{place}.{kind}")
            _sane(metric, number, limit, f"{place}.{kind}")
            goals.append(Goal(metric, kind, number))
    return goals


def _sane(metric: str, number: float, written: Quantity, where: str) -> None:
    """Refuse limits that nothing or everything would meet: 90 for 90 %, or a negative time."""
    unit = METRICS[metric].unit
    if unit == "score":
        return
    if number < 0:
        raise UserError(f"{written!r} is negative", where=where, expected="0 or more")
    if unit == "fraction" and number >= 1:
        raise UserError(
            f"{written!r} means {number * 100:g} %",
            where=where,
            expected="a share below 1, such as 1pp, 90% or 0.9",
            mend=f"did you mean {written}pp or {written}%?",
        )


def _methods(file: RecipeFile, where: str) -> tuple[Method, ...]:
    """Return the methods that are written, and their controls: for each pattern its first one's."""
    written = [_method(m, file, i, where) for i, m in enumerate(file.search.methods)]
    if "scratch" in file.search.controls and not file.train.epochs:
        raise UserError(
            "a net from scratch repeats a training that is not there",
            where=f"{where}: search.controls",
            expected="train.epochs of 1 or more",
        )
    sparsities: dict[str, tuple[float, ...]] = {}
    firsts: dict[str, Method] = {}
    for method in written:
        if not (criterion_traits(method.criterion).control or SCHEDULES[method.schedule].control):
            firsts.setdefault(method.pattern, method)
            both = (*sparsities.get(method.pattern, ()), *method.sparsities)
            sparsities[method.pattern] = tuple(dict.fromkeys(both))
    controls = [
        _control(kind, first, sparsities[pattern])
        for kind in dict.fromkeys(file.search.controls)
        for pattern, first in firsts.items()
    ]
    return (*written, *controls)


def _control(kind: Control, first: Method, sparsities: tuple[float, ...]) -> Method:
    if kind == "random":
        return replace(first, criterion="random", sparsities=sparsities)
    bare = Method(first.pattern, first.criterion, first.scope, "scratch", 1, sparsities)
    return replace(bare, options=first.options, ratios=first.ratios)


def _method(table: MethodTable, file: RecipeFile, index: int, where: str) -> Method:
    place = f"{where}: search.methods[{index}]"
    try:
        name = pruners.for_pattern(table.pattern)
        pruner = PRUNERS.traits(name)
    except UserError as error:
        raise UserError(error.what, where=f"{place}.pattern", expected=error.expected) from error
    if table.pattern == "dense":
        raise UserError(
            "the dense model is always tried; name a pruning pattern", where=f"{place}.pattern"
        )
    criterion = _offered(table.criterion, pruner.criteria, f"{place}.criterion", table.pattern)
    scope = _scope(table, pruner.scopes, f"{place}.scope")
    schedule = _offered(table.schedule, pruner.schedules, f"{place}.schedule", table.pattern)
    _sensible_course(table, file, place)
    return Method(
        pattern=table.pattern,
        criterion=criterion,
        scope=scope,
        schedule=schedule,
        steps=_steps(table),
        sparsities=_sparsities(table, file.search, pruner, f"{place}.sparsities"),
        options=plugins.checked(PRUNERS, name, table.options, f"{place}.options"),
        begin=table.begin,
        end=table.end,
        rewind=table.rewind_epoch,
        ticket=table.ticket,
        ratios=dict(table.ratios or {}),
        healing=table.recovery,
        teacher=table.teacher,
        temperature=table.temperature,
    )


def _steps(table: MethodTable) -> int:
    traits = SCHEDULES[table.schedule]
    return (table.steps or traits.steps) if traits.stepwise else traits.steps


def _scope(table: MethodTable, known: tuple[str, ...], where: str) -> str:
    """Return the scope; raises `UserError` unless ratios and the scope ``vector`` go together."""
    if "vector" in known:
        known = (*known, "sensitivity")
    chosen = "vector" if table.ratios and table.scope is None else table.scope
    scope = _offered(chosen, known, where, table.pattern)
    if (scope == "vector") != bool(table.ratios):
        raise UserError(
            "ratios and the scope vector go together",
            where=where,
            mend="write ratios: {layer: share, ...}, or take another scope",
        )
    return scope


def _sensible_course(table: MethodTable, file: RecipeFile, where: str) -> None:
    """Raise `UserError` for a schedule and a recovery that do not fit the recipe's trainings."""
    lottery, epochs = table.schedule == "lottery", file.train.epochs
    wrong = (
        (table.begin > table.end, "begin is after end", "begin ≤ end"),
        (
            SCHEDULES[table.schedule].retrains and not epochs,
            f"{table.schedule} repeats a training that is not there",
            "train.epochs of 1 or more",
        ),
        (
            not lottery and (table.rewind_epoch > 0 or table.ticket != "winning"),
            "rewind_epoch and ticket belong to the lottery",
            "schedule: lottery",
        ),
        (
            lottery and table.rewind_epoch >= max(epochs, 1),
            f"cannot go back to epoch {table.rewind_epoch} of {epochs}",
            "an epoch before the last",
        ),
        (
            SCHEDULES[table.schedule].afresh and table.recovery != "finetune",
            "what is trained again from its beginning is not healed",
            f"no recovery beside schedule: {table.schedule}",
        ),
        (
            table.schedule == "lr_rewinding" and not 0 < file.recover.epochs <= epochs,
            f"cannot repeat the last {file.recover.epochs} of {epochs} epochs",
            "recover.epochs from 1 to train.epochs",
        ),
        (
            table.schedule == "lr_rewinding" and table.recovery == "bn",
            "learning-rate rewinding trains, and recovery bn does not",
            "recovery: finetune or distill",
        ),
        (
            table.recovery == "distill" and not file.recover.epochs,
            "distillation needs a training",
            "recover.epochs of 1 or more",
        ),
    )
    for fails, what, expected in wrong:
        if fails:
            raise UserError(what, where=where, expected=expected)


def _sparsities(
    table: MethodTable, search: SearchTable, pruner: PrunerTraits, where: str
) -> tuple[float, ...]:
    own = pruner.fixed_sparsity(table.pattern)
    if own is not None:
        if table.sparsities not in (None, [own]):
            raise UserError(
                f"{table.pattern} always removes {own:g} of the weights",
                where=where,
                mend="leave sparsities out",
            )
        return (own,)
    if table.ratios:
        if table.sparsities is not None and len(table.sparsities) > 1:
            raise UserError(
                "ratios say how much is removed",
                where=where,
                mend="leave sparsities out, or name one, for the label",
            )
        return tuple(table.sparsities or (round(max(table.ratios.values()), 4),))
    chosen = search.sparsities if table.sparsities is None else table.sparsities
    return tuple(s for s in dict.fromkeys(chosen) if s > 0)


def _offered(word: Word | None, known: tuple[Word, ...], where: str, pattern: str) -> Word:
    if word is None:
        return known[0]
    if word not in known:
        raise UserError(
            f"the pattern {pattern!r} has no {word!r}", where=where, mend=did_you_mean(word, known)
        )
    return word
