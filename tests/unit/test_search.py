import dataclasses
import random

import pytest

from hwbench import search
from hwbench.errors import UserError
from hwbench.records import Method, PluginSpec
from tests import synthetic

RECIPE, TARGET = synthetic.recipe(), synthetic.target()


def test_the_grid_is_complete_dense_first_and_free_of_doubles() -> None:
    found = search.plan(RECIPE, TARGET)
    # Two backends, of which one also takes the dense model in int8.
    assert len(found) == 2 * (1 + sum(len(m.sparsities) for m in RECIPE.methods)) + 1
    assert len({c.key for c in found}) == len(found)
    assert [c.compression.is_dense for c in found[:4]] == [True, True, True, False]
    assert [c.export.precision for c in found[:4]] == ["fp32", "fp32", "int8", "fp32"]
    doubled = dataclasses.replace(RECIPE, methods=RECIPE.methods * 2)
    assert search.plan(doubled, TARGET) == found


def test_each_seed_has_its_own_dense_model() -> None:
    found = search.plan(dataclasses.replace(RECIPE, seeds=(0, 1)), TARGET)
    dense = {c.compression.key for c in found if c.compression.is_dense}
    assert len(dense) == 2
    assert {c.compression.dense.key for c in found} == dense


def test_only_channel_pruning_depends_on_the_targets_multiple() -> None:
    other = dataclasses.replace(TARGET, name="other", channel_multiple=4)
    ours = {c.compression.key: c.compression for c in search.plan(RECIPE, TARGET)}
    theirs = {c.compression.key: c.compression for c in search.plan(RECIPE, other)}
    differ = ours.keys() ^ theirs.keys()
    assert {(ours | theirs)[key].pattern for key in differ} == {"channel"}


def test_the_recipes_options_lie_on_top_of_the_targets() -> None:
    target = dataclasses.replace(
        TARGET, backends=(PluginSpec("onnxruntime"), PluginSpec("tvm", {"mcpu": "a", "x": 1}))
    )
    recipe = dataclasses.replace(RECIPE, backends=(PluginSpec("tvm", {"mcpu": "b"}),))
    assert search.shared_backends(recipe, target) == (PluginSpec("tvm", {"mcpu": "b", "x": 1}),)


def test_a_backend_the_target_does_not_run_is_left_out_and_named() -> None:
    target = dataclasses.replace(TARGET, backends=(PluginSpec("onnxruntime"),))
    assert search.left_out(RECIPE, target) == ("tvm",)
    assert {c.backend.kind for c in search.plan(RECIPE, target)} == {"onnxruntime"}
    only_tvm = dataclasses.replace(RECIPE, backends=(PluginSpec("tvm"),))
    with pytest.raises(UserError, match="share no backend"):
        search.plan(only_tvm, target)


def test_nothing_beside_the_dense_model_is_a_mistake() -> None:
    empty = dataclasses.replace(
        RECIPE, methods=(Method("unstructured", "magnitude", "global", "oneshot", 1, ()),)
    )
    with pytest.raises(UserError, match="nothing to try"):
        search.plan(empty, TARGET)


def test_the_plan_does_not_depend_on_the_order_of_methods() -> None:
    methods = list(RECIPE.methods)
    random.Random(3).shuffle(methods)
    shuffled = dataclasses.replace(RECIPE, methods=tuple(methods))
    keys = {c.key for c in search.plan(RECIPE, TARGET)}
    assert {c.key for c in search.plan(shuffled, TARGET)} == keys


def test_precisions_are_an_axis_where_a_backend_takes_them() -> None:
    both = dataclasses.replace(RECIPE, precisions=("int8", "fp32"))
    found = search.plan(both, TARGET)
    short = [c for c in found if c.export.precision == "int8"]
    assert {c.backend.kind for c in short} == {"onnxruntime"}
    assert len(short) == 1 + sum(len(m.sparsities) for m in RECIPE.methods)
    assert len({c.label for c in found}) == len(found)
