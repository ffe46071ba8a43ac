"""What is kept: a cache of finished work by content key, and one folder a run.

Every file carries the version of its format; an unfinished cache entry has no ``record.json``
and is begun again, an unfinished run has no ``decision.json`` and is gone on with.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from hwbench import files
from hwbench.backends import revived
from hwbench.errors import UserError
from hwbench.records import Result, Study, digest, from_json, to_json

R = TypeVar("R")

FORMAT = 1
CACHE_FORMAT = 2
"""1 held absolute paths."""
_INSIDE = "cache:"


@dataclass(frozen=True, slots=True)
class Entry(Generic[R]):
    """Where a piece of finished work is kept (its room and content key), and its record's type."""

    room: str
    key: str
    kind: type[R]


@dataclass(frozen=True, slots=True)
class Cache:
    """Finished work by room and content key; its folder may be moved or mounted elsewhere.

    ``stamp`` is a hash of the software that did the work: another version begins anew.
    """

    root: Path
    stamp: str

    @property
    def home(self) -> Path:
        """The folder of this version's work."""
        return self.root / self.stamp

    def folder(self, entry: Entry[Any]) -> Path:
        """Return the folder of an entry, made or not."""
        return self.home / entry.room / entry.key

    def find(self, entry: Entry[R]) -> R | None:
        """Return the record of a finished entry, or None."""
        try:
            data = json.loads((self.folder(entry) / "record.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        if data["format"] != CACHE_FORMAT:
            return None
        return from_json(entry.kind, data["record"], self._there)

    def make(self, entry: Entry[R], build: Callable[[Path], R], *, resume: bool = False) -> R:
        """Return the entry's record, built into its folder by `build` if it is not there yet.

        With `resume`, `build` finds what an interrupted one left behind; otherwise an empty
        folder. Two processes never build the same entry: the second waits for the first.
        """
        folder = self.folder(entry)
        found = self.find(entry)
        if found is not None:
            return found
        with files.locked(folder.parent / f"{entry.key}.lock", wait=True):
            found = self.find(entry)
            if found is not None:
                return found
            with files.said(folder):
                if not resume and folder.exists():
                    shutil.rmtree(folder)
                folder.mkdir(parents=True, exist_ok=True)
                record = build(folder)
            data = {"format": CACHE_FORMAT, "record": to_json(record, self._here)}
            files.write(folder / "record.json", json.dumps(data, indent=1))
            return record

    def forget(self, entry: Entry[Any]) -> None:
        """Drop an entry, so that it is made again; waits while somebody makes it."""
        folder = self.folder(entry)
        with files.locked(folder.parent / f"{entry.key}.lock", wait=True):
            shutil.rmtree(folder, ignore_errors=True)

    def _here(self, path: Path) -> str:
        """Return a path as it is kept: what lies in the cache is named from its home."""
        inside = path.is_relative_to(self.home)
        return f"{_INSIDE}{path.relative_to(self.home).as_posix()}" if inside else str(path)

    def _there(self, text: str) -> Path:
        inside = text.startswith(_INSIDE)
        return self.home / text.removeprefix(_INSIDE) if inside else Path(text)


@dataclass(frozen=True, slots=True)
class Run:
    """The folder ``reports/<recipe>/<target>/<time>/`` that one run leaves behind."""

    folder: Path
    resumed: bool

    def keep(self, results: Iterable[Result]) -> None:
        """Write results as soon as they exist; those that stand there already are left out."""
        known = {r.candidate.key: r for r in self.results()}
        for result in results:
            if known.get(result.candidate.key) != result:
                line = json.dumps({"format": FORMAT, "result": to_json(result)})
                files.append(self.folder / "results.jsonl", line)

    def results(self) -> list[Result]:
        """Return the results so far: the last word on each candidate, in order of appearance."""
        return read_results(self.folder)


@contextlib.contextmanager
def open_run(reports: Path, recipe: str, target: str, config: Mapping[str, Any]) -> Iterator[Run]:
    """Hold the lock of a recipe on a target, and yield its `Run`: the unfinished one, or a new.

    Raises `UserError` when another run holds the lock, or the folder cannot be written.
    """
    home = reports / recipe / target
    busy = "another run of this recipe on this target is under way"
    with files.locked(home / ".lock", wait=False, busy=busy):
        unfinished = _unfinished(home, digest(config))
        if unfinished is not None:
            yield Run(unfinished, resumed=True)
            return
        folder = _fresh(home)
        data = {"format": FORMAT, "key": digest(config), **config}
        files.write(folder / "config.json", json.dumps(to_json(data), indent=2))
        yield Run(folder, resumed=False)


def finish(run: Run) -> None:
    """Point ``latest`` of the recipe, of the target and of all at a finished run."""
    target = run.folder.parent
    for link in (target / "latest", target.parent.parent / "latest"):
        if link.is_dir() and not link.is_symlink():
            # Somebody's own folder; the run is there under its time all the same.
            continue
        with files.said(link):
            temporary = link.with_name(f".{link.name}.new")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(run.folder.relative_to(link.parent))
            temporary.replace(link)


def write_study(study: Study, folder: Path) -> None:
    """Keep a finished study in its run's folder."""
    data = {"format": FORMAT, "study": to_json(study)}
    files.write(folder / "study.json", json.dumps(data, indent=1))


def read_study(folder: Path) -> Study:
    """Return the study of a finished run; raises `UserError` if there is none."""
    if not (folder / "study.json").exists():
        raise UserError(
            "is not the folder of a finished run",
            where=str(folder),
            expected="a folder such as reports/latest, with a study.json in it",
        )
    return from_json(Study, revived(read_json(folder / "study.json")["study"]))


def runs(reports: Path) -> tuple[Path, ...]:
    """Return the folders of all finished runs, the oldest first."""
    found = (p.parent for p in reports.glob("*/*/*/study.json") if not p.parent.is_symlink())
    return tuple(sorted(found, key=lambda p: p.name))


def read_results(folder: Path) -> list[Result]:
    """Return the results in a run's folder: the last word on each candidate.

    A line torn by a crash is skipped. Raises `UserError` when a newer hwbench wrote the file.
    """
    path = folder / "results.jsonl"
    found: dict[str, Result] = {}
    if not path.exists():
        return []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            data = json.loads(line)
        except json.JSONDecodeError:
            continue
        _readable(data, f"{path}:{number}")
        result = from_json(Result, revived(data["result"]))
        found[result.candidate.key] = result
    return list(found.values())


def read_json(path: Path) -> dict[str, Any]:
    """Return one of our JSON files; raises `UserError` if it is absent, broken or too new."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("there is no such file", where=str(path)) from error
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from error
    _readable(data, str(path))
    return dict(data)


def _readable(data: Any, where: str) -> None:
    version = data.get("format") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise UserError("is not a file that hwbench wrote", where=where)
    if version > FORMAT:
        raise UserError(
            f"was written by a newer hwbench (format {version})",
            where=where,
            expected=f"format {FORMAT} or older",
            mend="upgrade hwbench, or move the folder away",
        )


def _unfinished(home: Path, key: str) -> Path | None:
    """Return the newest run's folder if it was made by the same config and never finished."""
    runs = sorted(p for p in home.iterdir() if (p / "config.json").is_file() and not p.is_symlink())
    if not runs:
        return None
    newest = runs[-1]
    same = read_json(newest / "config.json").get("key") == key
    return newest if same and not (newest / "decision.json").exists() else None


def _fresh(home: Path) -> Path:
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    for attempt in range(100):
        folder = home / (stamp if attempt == 0 else f"{stamp}-{attempt}")
        with files.said(folder), contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise UserError("a hundred runs within a second", where=str(home))
