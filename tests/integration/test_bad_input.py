"""What users get wrong: a clear message, exit 2 (or 3), nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwbench.cli import starter
from tests.integration.house import House

pytestmark = pytest.mark.slow

SMALL = ["--set", "train.epochs=1", "--set", "recover.epochs=1", "--set", "search.sparsities=[0.5]"]


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House.build(tmp_path)
    starter.write(tmp_path, "mine")
    recipe = tmp_path / "mine.yaml"
    text = recipe.read_text().replace("policy: quick", "policy: quick, generations: 2, looks: [3]")
    recipe.write_text(text)
    return house


def edit(house: House, old: str, new: str) -> None:
    path = house.folder / "mine.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("def score(", "def scores(", "score"),
        ("return F.cross_entropy(model(inputs), labels)", "raise KeyError('oops')", "oops"),
        ("return float((outputs.argmax(1) == labels).mean())", "return float('nan')", "nan"),
        ("def data(self", "def data(self, more", "data"),
        ("class MyModel:", "class MyModel(:", "mine.py"),
        ("nn.Flatten(), nn.Linear(64, 10)", "nn.Flatten(), Odd(), nn.Linear(64, 10)", "Odd"),
        (
            "nn.AdaptiveAvgPool2d(1), nn.Flatten()",
            "nn.AdaptiveAvgPool2d(1), nn.Flatten(), Branch()",
            "export",
        ),
        (
            "return nn.Sequential(\n            nn.Conv2d",
            "return Bare()\n        return nn.Sequential(\n            nn.Conv2d",
            "prune",
        ),
    ],
    ids=["missing", "raises", "nan", "signature", "syntax", "name", "untraceable", "nothing"],
)
def test_a_workload_that_is_not_one(old: str, new: str, says: str, house: House) -> None:
    edit(house, old, new)
    path = house.folder / "mine.py"
    path.write_text(path.read_text() + EXTRA)
    refused = house.run("bench", "--recipe", "mine.yaml", *SMALL, code=2)
    assert "error" in refused.stderr
    assert says in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr


EXTRA = '''

class Branch(nn.Module):
    """Control flow on data: torch.export cannot trace it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


class Bare(nn.Module):
    """Parameters, but no layer that could be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(10))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10] * self.scale
'''


def test_a_folder_that_cannot_be_written(house: House) -> None:
    refused = house.run("bench", "--recipe", "mine.yaml", "--reports", "/sys/reports", code=2)
    assert "cannot write" in refused.stderr
    (house.folder / "afile").write_text("")
    refused = house.run("bench", "--recipe", "mine.yaml", "--reports", "afile/x", code=2)
    assert "cannot write" in refused.stderr


def test_results_of_a_newer_version_are_not_touched(house: House) -> None:
    run = house.folder / "reports/mine/local-cpu/20260101T000000Z"
    run.mkdir(parents=True)
    newer = json.dumps({"format": 99, "key": "x"})
    (run / "config.json").write_text(newer)
    refused = house.run("bench", "--recipe", "mine.yaml", *SMALL, code=2)
    assert "newer hwbench" in refused.stderr
    assert (run / "config.json").read_text() == newer


@pytest.mark.parametrize("target", ["cuda", "jetson-orin-nano"])
def test_a_target_out_of_reach_ends_with_3_and_one_sentence(target: str, house: House) -> None:
    refused = house.run("bench", "--recipe", "smoke", "--target", target, code=3)
    assert target in refused.stderr
    assert not (house.folder / "reports").exists()


def test_usage() -> None:
    house = House(Path.cwd())
    assert "did you mean 'smoke'" in house.run("bench", "--recipe", "smok", code=2).stderr
    assert "No such command" in house.run("bensch", code=2).stderr
    assert "No such option" in house.run("bench", "--recpie", "x", code=2).stderr
    assert "unknown metric" in house.run("pick", "--goal", "speed.max=2ms", code=2).stderr
    assert "finished run" in house.run("report", "recipes", code=2).stderr
    house.run("--version")
    assert "prune" in house.run("--help").stdout.lower()
