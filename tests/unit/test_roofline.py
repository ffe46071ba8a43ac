"""Layers under the device's ceilings: timed by the torch backend, told by the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwbench import measurement, report
from hwbench.backends import _torch_roof
from hwbench.backends._torch_layers import Replaced
from hwbench.backends._torch_net import Conv2d, Linear
from hwbench.backends.torch import Options
from hwbench.pareto import decide
from hwbench.protocols import Layered
from hwbench.records import (
    LayerTime,
    Measurement,
    MeasureSpec,
    Result,
    Roofline,
    Study,
    digest,
    from_json,
    to_json,
)
from hwbench.registry import BACKENDS
from hwbench.report import roofline as drawing
from hwbench.report.page import page
from tests import artifacts, synthetic

EVIL = "<b>$x_{1}$</b>"


def layer(**changes: Any) -> LayerTime:
    usual = LayerTime("fc", "dense", "fp32", 2.0, 8e9, 8e9, 4e9, "no zeros")
    return dataclasses.replace(usual, **changes)


ROOFS = Roofline(4e9, {"fp32": 16e9}, 4.0, "the stopwatch", (layer(),))


# --------------------------------------------------------------------------------------------
# the record


def test_a_layer_is_held_against_the_ceiling_it_stands_under() -> None:
    # 4 GB at 4 GB/s take a second, 8 Gop at 16 Gop/s half of one.
    assert ROOFS.least(layer()) == 1.0
    assert ROOFS.fraction(layer()) == 0.5
    assert ROOFS.share(layer()) == 0.5
    assert ROOFS.bound(layer()) == "memory"
    assert ROOFS.bound(layer(nbytes=1e9)) == "arithmetic"
    # What is skipped needs no time: the rest is what the roof allows.
    assert ROOFS.least(layer(nbytes=1e9, multiplied=4e9)) == 0.25


def test_older_results_are_read_and_hash_as_they_did() -> None:
    row = synthetic.results()[0]
    written = to_json(row)
    assert "roofline" not in written
    assert from_json(Result, written) == row
    assert "roofline" not in to_json(MeasureSpec())
    assert digest(MeasureSpec()) != digest(MeasureSpec(roofline=True))
    full = dataclasses.replace(row, roofline=synthetic.roofline())
    assert from_json(Result, json.loads(json.dumps(to_json(full)))) == full


# --------------------------------------------------------------------------------------------
# on the device


class Skipping:
    """A kernel that keeps a tenth of its weight's bytes."""

    chosen = ""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self.nbytes = weight.nbytes // 10

    def tune(self, rows: Tensor, bias: Tensor | None, how: Any) -> None:
        raise AssertionError("nothing is chosen here")

    def __call__(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        return nn.functional.linear(rows, self._weight, bias)


class Net(nn.Module):
    """A convolution, a layer that is called twice, and one whose blocks are skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv2d(torch.randn(6, 2, 3, 3), torch.randn(6), {"pads": [1] * 4, "group": 2})
        self.twice = Linear(torch.randn(5, 5), None)
        dense = Linear(torch.randn(20, 5), torch.randn(20))
        self.blocks = Replaced(dense, Skipping(dense.weight.detach()))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.blocks(self.twice(self.twice(self.conv(x))))
        return found


def test_every_layer_is_timed_with_its_own_input_and_counted_as_it_runs() -> None:
    notes = ["blocks (20, 5): 2:4 not possible (a reason); blocks 64x64 (4 warps) takes 0.50 of "
             "dense, taken", "twice (5, 5): int8 takes 2.00 of dense"]  # fmt: skip
    net, x = Net(), torch.randn(3, 4, 5, 5)
    found = _torch_roof.measured(net, [x], Options(), notes, lambda: 0.25)
    assert [one.name for one in found.layers] == ["conv", "twice", "twice", "blocks"]
    conv, twice, _, blocks = found.layers
    # 3 pictures of 6 x 5 x 5 numbers, each of 2 x 3 x 3 products.
    assert conv.operations == conv.multiplied == 2 * 3 * 6 * 25 * 18
    assert conv.nbytes == 4 * (6 * 18 + 6 + 3 * 4 * 25 + 3 * 6 * 25)
    assert (twice.kernel, twice.why) == ("dense", "int8 takes 2.00 of dense")
    assert blocks.kernel == "blocks 64x64"
    assert "2:4 not possible" in blocks.why
    assert blocks.operations == 2 * 3 * 6 * 5 * 20 * 5
    assert blocks.multiplied == pytest.approx(blocks.operations / 10)
    assert blocks.nbytes == 4 * (20 * 5 / 10 + 20 + 3 * 6 * 5 * (5 + 20))
    assert found.seconds == 0.25
    assert found.bandwidth > 0
    assert list(found.rates) == ["fp32"]
    assert all(one.seconds > 0 for one in found.layers)
    assert not net.conv._forward_hooks, "the network is left as it was"


def test_pairs_are_half_of_the_products() -> None:
    dense = Linear(torch.randn(8, 8), None)
    net = nn.Sequential(Replaced(dense, Skipping(dense.weight.detach())))
    notes = ["0 (8, 8): int8 2:4 (cuSPARSELt 3) takes 0.50 of dense, taken"]
    options = Options(precision="int8")
    (one,) = _torch_roof.measured(net, [torch.randn(2, 8)], options, notes, lambda: 1.0).layers
    assert (one.kernel, one.format) == ("int8 2:4", "int8")
    assert one.multiplied == one.operations / 2


def test_a_session_tells_its_layers_apart(tmp_path: Path) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    made = artifacts.compiled(model, artifacts.candidate("torch", {}, batch=2), tmp_path / "a")
    session = BACKENDS.create("torch", {}).load(made.folder / made.entry, 1)
    assert isinstance(session, Layered)
    x = np.random.default_rng(0).standard_normal((2, *artifacts.SHAPE)).astype(np.float32)
    session.set_inputs([x])
    session.invoke()
    before = session.outputs()[0]
    found = session.roofline()
    assert len(found.layers) == 5
    assert found.how == "the stopwatch, caches warm"
    session.invoke()
    np.testing.assert_array_equal(session.outputs()[0], before)


def test_a_sitting_asks_after_the_energy_and_says_who_has_none(tmp_path: Path) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    batch = [
        artifacts.compiled(model, artifacts.candidate(kind, {}, batch=2), tmp_path / kind)
        for kind in ("torch", "onnxruntime")
    ]
    inputs = artifacts.inputs(tmp_path / "x.npy", samples=4)

    def sit(name: str, *, asked: bool) -> tuple[Measurement, ...]:
        spec = artifacts.spec(roofline=asked, generations=1, looks=(2,), timeout=120.0)
        where = tmp_path / name
        return measurement.measure(
            batch, batch[0], artifacts.TARGET, spec, inputs, where, lambda _s, _l: None
        ).measurements

    ours, theirs = sit("asked", asked=True)
    assert ours.energy is not None
    assert ours.roofline is not None
    assert len(ours.roofline.layers) == 5
    assert theirs.roofline is not None
    assert theirs.roofline.reason == "this runtime does not tell its layers apart"
    # An interrupted sitting goes on with what it kept.
    assert sit("asked", asked=True)[0].roofline == ours.roofline
    assert {m.roofline for m in sit("not asked", asked=False)} == {None}


# --------------------------------------------------------------------------------------------
# in the report


@pytest.fixture(scope="module")
def study() -> Study:
    rows = list(synthetic.results())
    decision = decide(rows, synthetic.recipe(), synthetic.target())
    return synthetic.with_rooflines(synthetic.study(rows, decision))


def test_the_chosen_and_the_dense_model_come_first(study: Study) -> None:
    keys = [result.candidate.key for result, _ in drawing.shown(study)]
    assert keys[:2] == [study.decision.chosen, study.decision.dense]
    assert len(keys) == 3
    # Where the chosen one's runtime tells no layers apart: the best that does, and its dense.
    none = Roofline(reason="no layers")
    own, tvm = synthetic.roofline(), [r for r in study.results if r.candidate.backend.kind == "tvm"]
    rows = tuple(dataclasses.replace(r, roofline=own if r in tvm else none) for r in study.results)
    shown = [r for r, _ in drawing.shown(dataclasses.replace(study, results=rows))]
    assert {r.candidate.backend.kind for r in shown} == {"tvm"}
    assert shown[1].candidate.compression.is_dense
    assert not shown[0].candidate.compression.is_dense


def test_alike_layers_share_a_number_in_order_of_their_time() -> None:
    roofline = synthetic.roofline(pruned=True)
    groups = drawing.alike(roofline)
    assert [g.number for g in groups] == list(range(1, len(groups) + 1))
    assert sum(len(g.layers) for g in groups) == len(roofline.layers)
    times = [sum(one.seconds for one in g.layers) for g in groups]
    assert times == sorted(times, reverse=True)
    assert groups[0].label == "1 layer_0_qkv ×12 · dense"


@pytest.mark.parametrize("room", [drawing._ROOM, drawing._NARROW, drawing._STILL])
@pytest.mark.parametrize("pruned", [False, True])
def test_names_lie_inside_and_over_nothing(pruned: bool, room: tuple[int, int]) -> None:
    roofline = synthetic.roofline(pruned)
    groups, field = drawing.alike(roofline), drawing._Field.around(roofline)
    names = drawing.named(roofline, groups, field, room, lambda group: str(group.number))
    assert len(names) == min(len(groups), drawing._NAMED)
    boxes = []
    for name in names:
        x, y = field.place(name.spot, room)
        wide = 6.2 * len(name.text) + 8
        boxes.append((x + name.off[0] - wide / 2, y + name.off[1] - 8,
                      x + name.off[0] + wide / 2, y + name.off[1] + 8))  # fmt: skip
    for place, box in enumerate(boxes):
        assert box[0] >= -1
        assert box[2] <= room[0] + 1
        assert not any(drawing._meet(box, other) for other in boxes[:place])


def test_no_dot_lies_above_its_roof(study: Study) -> None:
    for _, roofline in drawing.shown(study):
        for one in roofline.layers:
            x, y = drawing._spot(one)
            assert y <= min(x * roofline.bandwidth, roofline.rates[one.format]) * 1.001


def test_the_table_says_what_the_record_holds(study: Study) -> None:
    for (_, roofline), table in zip(drawing.shown(study), drawing.tables(study), strict=True):
        assert len(table["rows"]) == len(roofline.layers)
        assert "Copy 2.92 TB/s; matrix product bf16 750 Top/s" in table["how"]
        by_name = {one.name: one for one in roofline.layers}
        for row in table["rows"]:
            one = by_name[row["Layer"]]
            assert row["Of its roof"] == f"{roofline.fraction(one):.0%}"
            assert row["Kernel"].startswith(one.kernel)
            assert row["Why"] == one.why


def test_the_page_has_the_pictures_the_tables_and_the_reasons(study: Study) -> None:
    html = page(study)
    assert html.count('id="plot-roofline-') == 3
    assert "this runtime does not tell its layers apart" in html
    assert "layer_11_down" in html


def test_a_study_without_layers_says_nothing_of_them(tmp_path: Path) -> None:
    rows = list(synthetic.results())
    plain = synthetic.study(rows, decide(rows, synthetic.recipe(), synthetic.target()))
    assert drawing.picture(plain) is None
    assert "h-roofs" not in page(plain)
    assert "roofline.png" not in {p.name for p in report.write(plain, tmp_path)}


def test_what_a_layer_is_called_is_no_markup(study: Study, tmp_path: Path) -> None:
    odd = dataclasses.replace(
        synthetic.roofline(), layers=(layer(name=EVIL, kernel=EVIL, format="bf16", why=EVIL),)
    )
    rows = tuple(dataclasses.replace(row, roofline=odd) for row in study.results)
    written = report.write(dataclasses.replace(study, results=rows), tmp_path)
    assert EVIL not in (tmp_path / "report.html").read_text()
    picture = next(p for p in written if p.name == "roofline.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
