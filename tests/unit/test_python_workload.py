"""The user's own file: each mistake has a message with where, what, expected and mend."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwbench.compress import compress
from hwbench.errors import StageError, UserError
from hwbench.protocols import Trainable, Workload
from hwbench.records import CompressionSpec, TrainSpec, WorkloadSpec
from hwbench.registry import WORKLOADS
from hwbench.workloads.python import PythonWorkload
from tests.contracts.test_workloads import EXAMPLE


def _load(folder: Path, text: str, **options: object) -> PythonWorkload:
    path = folder / "task.py"
    path.write_text(text)
    made = WORKLOADS.create("python", {"file": path, **options})
    assert isinstance(made, PythonWorkload)
    return made


def _edited(*changes: tuple[str, str]) -> str:
    text = EXAMPLE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def test_a_good_file_passes_its_check(tmp_path: Path) -> None:
    workload = _load(tmp_path, EXAMPLE)
    workload.check()
    assert workload.metric == "top1"


def test_arrays_lists_and_kwargs_are_welcome(tmp_path: Path) -> None:
    text = _edited(
        ("        return x, (x.sum((1, 2, 3)) > 0).long()",
         "        return [x.double().numpy(), (x.sum((1, 2, 3)) > 0).long().numpy()]"),
        ("    def model(self):",
         "    def __init__(self, hidden): self.hidden = hidden\n\n    def model(self):"),
        ("nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)",
         "nn.Linear(12, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 3)"),
    )  # fmt: skip
    workload = _load(tmp_path, text, kwargs={"hidden": 5})
    workload.check()
    assert workload.data("train")[0].dtype == torch.float32
    first = workload.model()[1]  # type: ignore[index]
    assert first.out_features == 5


def test_the_only_fitting_class_is_taken_and_several_need_a_name(tmp_path: Path) -> None:
    two = EXAMPLE + "\nclass Other(Mine):\n    metric = 'score'\n"
    with pytest.raises(UserError, match="several classes fit: Mine, Other"):
        _load(tmp_path, two)
    assert _load(tmp_path, two, class_name="Other").metric == "score"
    assert _load(tmp_path, EXAMPLE + "\nclass Helper: pass\n").metric == "top1"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x = 1\n", "no class has the methods of a workload"),
        ("class A:\n    def model(self): ...\n    def data(self, s): ...\n",
         "A lacks score"),
        ("import nowhere_to_be_found\n", "nowhere_to_be_found"),
        ("def broken(:\n", "SyntaxError"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        _load(tmp_path, text)
    assert "task.py" in caught.value.where
    assert caught.value.expected


def test_a_class_name_that_is_not_there_or_lacks_a_method(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no class 'Min'") as caught:
        _load(tmp_path, EXAMPLE, class_name="Min")
    assert "Mine" in caught.value.expected
    with pytest.raises(UserError, match="Mine lacks score"):
        _load(tmp_path, _edited(("def score", "def scored")), class_name="Mine")


@pytest.mark.parametrize("path", ["absent.py", "."])
def test_a_file_that_is_not_there_or_is_a_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=r"does not exist|is a directory"):
        WORKLOADS.create("python", {"file": tmp_path / path})


@pytest.mark.parametrize(
    ("old", "new", "what", "line"),
    [
        ("return nn.Sequential", "return 3 or nn.Sequential",
         "model returned a value of type int", None),
        ("return nn.Sequential(", "raise KeyError('lost')\n        (", "KeyError: 'lost'", 9),
        ("return x, (", "return x\n        (", "returned a value of type Tensor", None),
        ("return x, (", "return x[:0], (0 * ", "0 inputs and 40 labels", None),
        ("torch.randn(40", "float('nan') * torch.randn(40", "not finite", None),
        ("nn.Linear(16, 3)", "nn.Linear(15, 3)", "RuntimeError", None),
        ("return (outputs", "return float('nan') * (outputs", "score returned nan", None),
        ("return (outputs", "return 7 + (outputs", "score returned", None),
        ("return (outputs", "return None and (outputs", "score returned None", None),
        ("return nn.functional.cross", "return 1 or nn.functional.cross",
         "train_step returned a value of type int", None),
        ("model(inputs), labels)", "model(inputs).detach(), labels)", "without a gradient", None),
        ("return nn.functional.cross", "1 / 0\n        return nn.functional.cross",
         "ZeroDivisionError", 17),
        ('metric = "top1"', 'metric = "accuracy"', "metric is 'accuracy'", None),
    ],
)  # fmt: skip
def test_each_method_that_raises_or_returns_nonsense(
    tmp_path: Path, old: str, new: str, what: str, line: int | None
) -> None:
    with pytest.raises(UserError, match=what) as caught:
        _load(tmp_path, _edited((old, new))).check()
    assert "task.py" in caught.value.where
    assert caught.value.expected
    if line is not None:
        assert caught.value.where.endswith(f"task.py:{line}")


def test_a_training_step_that_raises_fails_the_candidate_with_the_users_line(
    tmp_path: Path,
) -> None:
    text = _edited(("return nn.functional.cross", "1 / 0\n        return nn.functional.cross"))
    workload = _load(tmp_path, text)
    with pytest.raises(StageError, match=r"Mine\.train_step raised ZeroDivisionError") as caught:
        workload.train_step(nn.Linear(1, 1), torch.ones(1, 1), torch.zeros(1))
    assert caught.value.stage == "compress"
    assert caught.value.where.endswith("task.py:17")


def test_files_beside_the_users_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "my_neighbour_module.py").write_text("WIDTH = 16\n")
    text = _edited(
        ("import torch\n", "import torch\nfrom my_neighbour_module import WIDTH\n"),
        ("nn.Linear(12, 16)", "nn.Linear(12, WIDTH)"),
    )
    _load(tmp_path, text).check()


def test_the_test_split_is_not_read_by_the_check(tmp_path: Path) -> None:
    text = _edited(("        g = torch", "        assert split != 'test'\n        g = torch"))
    workload = _load(tmp_path, text)
    workload.check()
    with pytest.raises(UserError, match="AssertionError"):
        workload.data("test")


def test_a_plain_score_may_be_any_finite_number(tmp_path: Path) -> None:
    text = _edited(('"top1"', '"score"'), ("return (outputs", "return -40 * (outputs"))
    score = _load(tmp_path, text).score(np.eye(3), np.arange(3))
    assert score == -40


def test_an_error_from_deeper_down_is_not_laid_at_the_files_door(tmp_path: Path) -> None:
    # What train_step is given may be a model that hwbench has pruned.
    own = _load(tmp_path, EXAMPLE)
    inputs, labels = own.data("train")
    with pytest.raises(StageError) as caught:
        own.train_step(nn.Linear(99, 3), inputs, labels)
    assert "torch" in caught.value.where.partition(" (called from ")[0]
    assert "task.py:" in caught.value.where.partition(" (called from ")[2]


def test_a_full_memory_is_no_mistake_of_the_files(tmp_path: Path) -> None:
    start = "def data(self, split):"
    own = _load(tmp_path, _edited((start, f"{start}\n        bytearray(1 << 60)")))
    with pytest.raises(MemoryError):
        own.data("train")


def test_a_class_without_train_step_is_a_model_that_cannot_be_trained(tmp_path: Path) -> None:
    step = EXAMPLE[EXAMPLE.index("    def train_step") : EXAMPLE.index("    def score")]
    made = _load(tmp_path, _edited((step, "")))
    made.check()
    own: Workload = made
    assert not isinstance(own, Trainable)
    spec = CompressionSpec(WorkloadSpec("python"), TrainSpec(epochs=0))
    dense = compress(spec, own, None, tmp_path, lambda _: None)
    assert set(dense.scores) == {"trained"}
    (tmp_path / "pruned").mkdir()
    half = dataclasses.replace(spec, pattern="unstructured", sparsity=0.5, healing="bn")
    assert compress(half, own, dense, tmp_path / "pruned", lambda _: None).scores
    longer = dataclasses.replace(spec, train=TrainSpec(epochs=1))
    with pytest.raises(StageError, match="has no train_step"):
        compress(longer, own, None, tmp_path, lambda _: None)
    assert isinstance(_load(tmp_path, EXAMPLE), Trainable)
