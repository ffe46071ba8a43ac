"""What people read is true: links resolve, commands exist, the drawing is of this house."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from hwbench.cli.verbs import app
from hwbench.measurement.package import CARRIED
from tests import house_map

ROOT = house_map.ROOT
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
"""Characters of a line of prose; tables and code cannot be wrapped."""

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def prose(page: Path) -> str:
    """Return a page without its blocks of code, whose lines stay as empty ones."""
    return _FENCE.sub(lambda m: "\n" * m[0].count("\n"), page.read_text())


# ------------------------------------------------------------------------------------------ links


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found = set()
    for title in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", title.replace("`", "").lower())
        found.add(plain.strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_resolve(page: Path) -> None:
    for link in _LINK.findall(_SPAN.sub("", prose(page))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {link}"
        assert path.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {link}"


def test_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {link.partition("#")[0] for link in _LINK.findall(prose(index))}
    pages = {p.name for p in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= linked


# --------------------------------------------------------------------------------------- commands


def commands(page: Path) -> Iterator[list[str]]:
    """Yield every command in a page's blocks and spans, without its comment, as words."""
    text = page.read_text()
    lines = [ln for _, body in _FENCE.findall(text) for ln in body.replace("\\\n", " ").split("\n")]
    for line in [*lines, *_SPAN.findall(_FENCE.sub("", text).replace("\n", " "))]:
        match = re.match(r"(?:\$ )?(?:\.venv/bin/)?(hwbench|make|python3? -m) (.*)", line)
        if match is None or match[2].startswith(("=", "[")):
            continue
        command = re.sub(r"\s[|&;>].*", "", f"{match[1]} {match[2].partition(' #')[0]}")
        yield shlex.split(re.sub(r"[\[\]…]|\.\.\.|(?<=\w)'(?=\w)", " ", command))


def wrong(words: list[str]) -> str:
    """Return what is wrong with a call of hwbench, by its verbs and options; empty: nothing."""
    command = typer.main.get_command(app)
    rest = words[1:]
    while rest and isinstance(command, TyperGroup):
        if rest[0].startswith("-"):
            break
        if not re.fullmatch(r"[a-z-]+", rest[0]):
            return ""  # VERB, or prose that begins like a command
        if rest[0] not in command.commands:
            return f"no verb {rest[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {"--help", "-h"} | {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    given = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    unknown = [option for option in given if option not in known]
    return f"no option {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(page):
        if words[0] == "make":
            called = [w for w in words[1:] if re.fullmatch(r"[a-z-]+", w)][:1]
            assert set(called) <= targets, f"{page.name}: {' '.join(words)}"
        elif words[0] == "hwbench":
            assert not wrong(words), f"{page.name}: {' '.join(words)}: {wrong(words)}"
        else:
            module = words[2]
            if module.partition(".")[0] in ("hwbench", "tests"):
                assert importlib.util.find_spec(module), f"{page.name}: {' '.join(words)}"


def test_commands_are_found_and_judged() -> None:
    found = [" ".join(words) for words in commands(ROOT / "README.md")]
    assert "make bench" in found
    assert any(words.startswith("hwbench bench --recipe") for words in found)
    assert not wrong(["hwbench", "board", "setup", "rpi4", "--host", "pi@x"])
    assert wrong(["hwbench", "bensh"]) == "no verb bensh"
    assert wrong(["hwbench", "bench", "--recipee", "x"]) == "no option --recipee"


# ------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_that_are_named_exist(page: Path) -> None:
    # What a page has its reader make is not there yet: test_docs_followed.py makes it.
    made = re.findall(r"^```\w+ file=(\S+)$", page.read_text(), re.MULTILINE)
    for span in _SPAN.findall(prose(page)):
        if re.fullmatch(r"(hwbench|tests|docs|recipes|targets)/[\w./-]+", span):
            own = re.search(r"NAME|my[-_]", span) or any(file.startswith(span) for file in made)
            assert own or (ROOT / span).exists(), f"{page.name}: {span}"


def test_steps_of_the_journey_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    journey = text.split("## The journey of one candidate")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| `(hwbench/[\w/]+\.py)` ((?:`\w+`(?:, )?)+) \|", journey, re.M)
    steps = [step for step, _, _ in rows]
    assert steps[0] == "asked"
    assert steps[-1] == "reported"
    assert len(steps) >= 12
    for step, file, names in rows:
        tree = ast.parse((ROOT / file).read_text())
        there = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assert set(re.findall(r"`(\w+)`", names)) <= there, f"{step}: {file}"


# ---------------------------------------------------------------------------------------- drawing


def test_drawing_is_up_to_date() -> None:
    how = "draw it again: python -m tests.house_map"
    assert house_map.DRAWING.read_text() == house_map.drawing(), how


def test_layers_are_the_folders() -> None:
    named = [room for layer in house_map.layers() for room in layer]
    assert len(named) == len(set(named))
    assert set(named) == house_map.rooms()


def test_page_answers_for_every_folder_in_order() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    part = text.split("## What each folder answers")[1].split("\n## ")[0]
    told = re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)
    assert told == [room for layer in house_map.layers() for room in layer]


def test_what_travels_is_told() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    told = text.split("travels to the device**")[1].split("(`CARRIED`")[0]
    assert set(re.findall(r"`([\w./]+)`", told)) - {"worker.zip"} == set(CARRIED)
