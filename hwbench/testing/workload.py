"""What every workload promises: splits that share nothing, a model that trains and is scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hwbench.protocols import Trainable
from hwbench.records import METRICS
from hwbench.registry import WORKLOADS
from hwbench.testing._plugin import PluginContract

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hwbench.protocols import Split, Workload

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class WorkloadContract(PluginContract):
    """A workload named by ``kind``."""

    family = WORKLOADS

    def given(self, folder: Path) -> Mapping[str, Any]:
        """Return the options of a small one; `folder` is empty and there to be written to."""
        return self.options

    @pytest.fixture
    def workload(self, tmp_path: Path) -> Workload:
        """Return an instance."""
        return WORKLOADS.create(self.kind, self.given(tmp_path))

    def test_its_metric_is_known(self, workload: Workload) -> None:
        """The metric is one of ours, and higher is better."""
        assert workload.metric in ("top1", "score")
        assert METRICS[workload.metric].better == "higher"

    @pytest.mark.parametrize("split", _SPLITS)
    def test_data_is_plain_finite_and_the_same_each_time(
        self, workload: Workload, split: Split
    ) -> None:
        """Inputs are finite float32 on the CPU, and the global seed changes nothing."""
        import torch

        inputs, labels = workload.data(split)
        assert len(inputs) == len(labels) > 0
        assert inputs.device.type == labels.device.type == "cpu"
        assert inputs.dtype == torch.float32
        assert inputs.isfinite().all()
        torch.manual_seed(5)
        again = workload.data(split)
        assert torch.equal(inputs, again[0])
        assert torch.equal(labels, again[1])

    def test_no_sample_is_in_two_splits(self, workload: Workload) -> None:
        """What is scored on was never trained on."""
        earlier: set[bytes] = set()
        for split in _SPLITS:
            samples = {sample.numpy().tobytes() for sample in workload.data(split)[0]}
            assert not earlier & samples
            earlier |= samples

    def test_model_trains_one_step_and_scores(self, workload: Workload) -> None:
        """A seed decides the weights; a batch has a loss, if it trains; outputs have a score."""
        import numpy as np
        import torch

        torch.manual_seed(0)
        model = workload.model()
        torch.manual_seed(0)
        twin = workload.model()
        pairs = zip(model.parameters(), twin.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        inputs, labels = workload.data("train")
        if isinstance(workload, Trainable):
            loss = workload.train_step(model.train(), inputs[:8], labels[:8])
            assert loss.shape == ()
            loss.backward()  # type: ignore[no-untyped-call]
            assert all(p.grad is not None for p in model.parameters())
        inputs, labels = workload.data("validation")
        with torch.no_grad():
            outputs = model.eval()(inputs[:20]).numpy()
        assert len(outputs) == min(20, len(inputs))
        score = workload.score(outputs, labels[:20].numpy())
        assert isinstance(score, float)
        assert np.isfinite(score)
