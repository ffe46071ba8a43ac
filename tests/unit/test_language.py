"""Names are the field's terms: a word that gave way to one (docs/glossary.md) does not come back.

Only names that a room gives count (functions, classes, arguments, variables, attributes, files):
what it calls by a name of another room is that room's affair.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hwbench

HOME = Path(hwbench.__file__).parent
WAITING = frozenset(
    {
        "backends", "cli", "compress", "config", "executor", "export", "measurement", "pipeline",
        "pruners", "records", "search", "studies", "worker",
        # Files beside the rooms.
        "compile.py", "cuda.py", "files.py",
        "registry.py", "store.py", "units.py",
    }
)  # fmt: skip
"""Rooms whose words were not gone over yet. It only shrinks; ``studies/nightly`` is done."""
DONE = frozenset({"studies/nightly"})
"""Rooms that are done inside a room that waits."""
OUTLAWED = frozenset(
    {
        "beaten", "climb", "climbed", "corridor", "crew", "duel", "duels", "eight", "equip", "feel",
        "feeling", "fight", "foretell", "foretold", "furnish", "guest", "guests", "hand", "hands",
        "healing", "heals", "hope", "hoped", "hopeless", "hopes", "keeper", "ladder", "nowhere",
        "parcel", "parcels", "patience", "rehearsal", "rehearse", "rehearsed", "shipment",
        "silence", "sit", "sits", "sitting", "sittings", "strangers", "torn",
    }
)  # fmt: skip
"""Each has a term of the field in docs/glossary.md."""
ON_THE_WIRE = frozenset({("connections/ssh.py", "patience")})
"""Words that a file format or a user's option keeps, by file."""
PARTICIPLES = frozenset(
    {
        "asked", "found", "heard", "kept", "made", "mine", "own", "said", "seen", "theirs", "told",
        "wanted",
    }
)  # fmt: skip
"""They say "a result" and hide which: no variables in functions of more than `SHORT` lines."""
SHORT = 5


def room(path: Path) -> str:
    return path.relative_to(HOME).parts[0]


def sources(*, done: bool) -> list[Path]:
    return [
        path
        for path in sorted(HOME.rglob("*.py"))
        if (room(path) not in WAITING or any(path.is_relative_to(HOME / d) for d in DONE)) is done
    ]


def words(name: str) -> set[str]:
    """Return the words of a name in snake or camel case."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return {part.lower() for part in parts}


def given(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the names that a piece of code gives, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.lineno, node.name


def outlawed(tree: ast.AST, place: str = "") -> list[str]:
    return [
        f"{place}:{line} {name}"
        for line, name in given(tree)
        if words(name) & OUTLAWED and (place, name) not in ON_THE_WIRE
    ]


def hiding(tree: ast.AST, place: str = "") -> list[str]:
    """Return the variables in longer functions that are called by a participle alone."""
    return sorted(
        {
            f"{place}:{line} {name}"
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            and (function.end_lineno or 0) - function.body[0].lineno >= SHORT
            for line, name in given(function)
            if name in PARTICIPLES and name != function.name
        }
    )


@pytest.mark.parametrize("path", sources(done=True), ids=lambda p: str(p.relative_to(HOME)))
def test_the_terms_of_the_field_are_kept(path: Path) -> None:
    place = path.relative_to(HOME).as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not words(path.stem) & OUTLAWED, "see docs/glossary.md"
    assert outlawed(tree, place) == [], "see docs/glossary.md"
    assert hiding(tree, place) == [], "name it by what it is (docs/glossary.md)"


def test_what_waits_is_there_and_still_has_old_words() -> None:
    """A room that is done leaves `WAITING`: from then on its words are held."""
    assert {name for name in WAITING if not (HOME / name).exists()} == set()
    old = set()
    for path in sources(done=False):
        place, tree = path.relative_to(HOME).as_posix(), ast.parse(path.read_text(encoding="utf-8"))
        if outlawed(tree, place) or hiding(tree, place) or words(path.stem) & OUTLAWED:
            old.add(room(path))
    assert WAITING - old == set(), "done: take these out of WAITING"


def test_old_words_are_found_wherever_they_hide() -> None:
    code = (
        "class Keeper:\n"
        "    def do(self, crew_size):\n"
        "        found = 1\n"
        "        with open('x') as made:\n"
        "            self.sitting = [told for told in made]\n"
        "        try:\n"
        "            pass\n"
        "        except OSError as said:\n"
        "            return found\n"
        "def short():\n"
        "    found = 1\n"
        "    return found\n"
    )
    tree = ast.parse(code)
    assert {line.split()[1] for line in outlawed(tree)} == {"Keeper", "crew_size", "sitting"}
    assert {line.split()[1] for line in hiding(tree)} == {"found", "made", "told", "said"}
    assert words("SessionDaemon_ofHands") == {"session", "daemon", "of", "hands"}
    assert not words("handle beforehand reset_weights") & OUTLAWED


def test_every_outlawed_word_is_in_the_glossary() -> None:
    glossary = (HOME.parent / "docs" / "glossary.md").read_text(encoding="utf-8")
    table = glossary.partition("## Old words")[2].partition("## Where")[0]
    named = {word.lower() for word in re.findall(r"[A-Za-z]+", table)}
    assert {word for word in OUTLAWED if not {word, word.removesuffix("s")} & named} == set()
