"""hwbench list KIND: what plug-ins, criteria and schedules are and take."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hwbench.cli.verbs import app
from hwbench.config import catalogue
from hwbench.registry import FAMILIES


def listed(what: str, *more: str) -> str:
    done = CliRunner().invoke(app, ["list", what, *more])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("what", catalogue.kinds())
def test_everything_is_told_to_machines_and_people(what: str) -> None:
    found: dict[str, Any] = json.loads(listed(what, "--json"))[what]
    assert found == json.loads(json.dumps(catalogue.described(what)))
    shown = listed(what)
    for name, of in found.items():
        assert name in shown
        assert of["doc"]
        for option in of.get("options", ()):
            assert option["doc"], f"{what} {name}: {option['name']}"
            assert option["type"]


def test_what_a_backend_is(tmp_path: Path) -> None:
    found = catalogue.described("backends")["onnxruntime"]
    assert found["traits"]["precisions"] == ["fp32", "int8"]
    assert found["traits"]["tolerance"] == 1e-3
    arena = next(o for o in found["options"] if o["name"] == "arena")
    assert arena["type"] == "true | false"
    assert (arena["default"], arena["required"]) == (True, False)
    assert arena["doc"].startswith("keep freed memory")


def test_an_unknown_word_gets_a_suggestion() -> None:
    done = CliRunner().invoke(app, ["list", "backend"])
    assert done.exit_code != 0
    assert "did you mean 'backends'?" in str(done.exception)


@dataclass(frozen=True)
class Prose:
    """Two of them.

    ``one``: what the first does; ``x`` is not an option. ``two``, ``three`` (in s): both.
    """

    one: int = 1
    two: str = ""
    three: float = 0.5
    silent: bool = False
    beneath: int = 3
    """Said below,
    in two lines."""


def test_options_are_read_from_prose_and_from_what_stands_beneath() -> None:
    assert catalogue.option_docs(Prose) == {
        "one": "what the first does; ``x`` is not an option",
        "two": "both",
        "three": "both",
        "beneath": "Said below, in two lines",
    }


def test_the_schema_says_what_options_do() -> None:
    from hwbench import config

    schema = json.loads(config.schema("recipe"))
    tvm = schema["$defs"]["plugin_tvm"]["properties"]
    assert "LLVM" in tvm["mcpu"]["description"]
    assert set(FAMILIES) == set(config.plugin_kinds())
