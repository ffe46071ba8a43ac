"""Pinning: from now on, nights are held against these artifacts."""

from __future__ import annotations

import datetime
import getpass
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import hwbench
from hwbench import measurement, studies
from hwbench.errors import TargetError, UserError
from hwbench.pipeline.keys import versions
from hwbench.pipeline.prepare import found as find_prepared
from hwbench.pipeline.session import Progress, Workspace, open_cache
from hwbench.records import Pin, Recipe, TargetProfile, digest, to_json
from hwbench.studies.nightly import history, pinned_models


def homes(reports: Path, target: str, recipe: str) -> tuple[Path, Path]:
    """Return the folders of the history, and of the artifacts kept for a recipe on a target."""
    return reports / "history", reports / "baselines" / target / recipe


def set_baseline(
    recipe: Recipe,
    target: TargetProfile,
    workspace: Workspace,
    why: str,
    who: str,
    progress: Progress,
) -> Pin:
    """Bench a recipe on a target (in seconds if nothing changed) and pin all that it made.

    Raises `TargetError` when the device cannot be used or its session is not to be trusted: a
    baseline must not be one of those.
    """
    measurement.probe(target)  # without its device a bench may predict; a baseline may not
    outcome = studies.bench(recipe, target, workspace, progress)
    study = outcome.study
    if not outcome.trusted or study.conditions is None:
        raise TargetError(
            "the session could not tell the reference from its own copy: it is no baseline",
            where=target.name,
            mend=f"hwbench doctor {target.name}; the same command measures again",
        )
    cache = open_cache(workspace)
    prepared = (find_prepared(cache, r.candidate, target) for r in study.results)
    ready = [p for p in prepared if p is not None]
    root, home = homes(workspace.reports, target.name, recipe.name)
    artifacts = pinned_models.keep(
        home, ready, recipe, commit(), versions(), study.conditions, study.results
    )
    return _pin(root, home, target.name, recipe.name, artifacts, who, why)


def promote(reports: Path, target: str, recipe: str, why: str, who: str) -> Pin:
    """Pin what the last night measured on a target: it becomes the baseline, unmeasured anew.

    Raises `UserError` when there is no such night, or its artifacts are gone.
    """
    root, home = homes(reports, target, recipe)
    last = history.load(root, target).last(target, recipe)
    if last is None or not last["artifacts"]:
        raise UserError(
            f"no night has measured {recipe} on {target} yet",
            where=str(root / target),
            mend=f"hwbench baseline set --recipe {recipe} --target {target} --why ...",
        )
    return _pin(root, home, target, recipe, str(last["artifacts"]), who, why)


def current(reports: Path, target: str, recipe: str) -> Pin:
    """Return the pin that nights are held against; raises `UserError` when there is none."""
    root, _ = homes(reports, target, recipe)
    pins = history.load_pins(root, target, recipe)
    if not pins:
        raise UserError(
            "no baseline is pinned",
            where=f"{recipe} on {target}",
            mend=f'hwbench baseline set --recipe {recipe} --target {target} --why "..."',
        )
    return pins[-1]


def _pin(
    root: Path, home: Path, target: str, recipe: str, artifacts: str, who: str, why: str
) -> Pin:
    if not why.strip():
        raise UserError("a baseline needs a reason", where="--why", expected="a sentence")
    pinned_set = pinned_models.load(home, artifacts)
    pins = history.load_pins(root, target, recipe)
    if pins and pins[-1].artifacts == artifacts:
        raise UserError(
            "these very artifacts are the baseline already",
            where=f"{recipe} on {target}",
            expected="something that has changed since",
        )
    pin_record = Pin(
        recipe=recipe,
        target=target,
        number=(pins[-1].number if pins else 0) + 1,
        artifacts=artifacts,
        at=now(),
        who=who or _who(),
        why=why.strip(),
        commit=pinned_set.commit,
        versions=pinned_set.versions,
        recipe_digest=recipe_digest(pinned_set.recipe),
        fingerprint=pinned_set.conditions.fingerprint,
    )
    history.pin(root, pin_record)
    return pin_record


def recipe_digest(recipe: Recipe | Mapping[str, object]) -> str:
    """Return a hash of what a recipe asks for; its title and how it is measured do not count."""
    data = dict(to_json(recipe))
    return digest({k: v for k, v in data.items() if k not in ("title", "measure")})


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def commit() -> str:
    """Return the commit of the code that runs, with ``+`` for local changes; "" if unknown."""
    home = Path(hwbench.__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(home), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return f"{head}+" if head and git("status", "--porcelain", "--", ".") else head
    except OSError:
        return ""


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def pinned(reports: Path) -> Sequence[Pin]:
    """Return the current pin of every recipe and target that has one."""
    root = reports / "history"
    pins: dict[tuple[str, str], Pin] = {}
    for path in sorted(root.glob("*/pins/*.json")):
        target = path.parent.parent.name
        recipe = path.name.rsplit("-", 2)[0]
        pins[target, recipe] = current(reports, target, recipe)
    return list(pins.values())
