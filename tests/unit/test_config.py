import contextlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hwbench import config, search
from hwbench.config import door
from hwbench.errors import UserError
from hwbench.records import Goal
from hwbench.registry import BACKENDS

RECIPE: dict[str, Any] = {
    "version": 1,
    "workload": {"kind": "toy"},
    "search": {"sparsities": [0.5, 0.9], "methods": [{"pattern": "unstructured"}]},
    "backends": {"onnxruntime": {}},
    "goals": {"top1": {"max_drop": "1pp"}, "latency_p50": {"max": "2ms"}},
}


def write(tmp_path: Path, data: Any, name: str = "study.yaml") -> str:
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return str(path)


def changed(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(RECIPE)), **changes}


def test_a_recipe_becomes_a_record_in_si_units_with_defaults_filled_in(tmp_path: Path) -> None:
    recipe = config.load_recipe(write(tmp_path, RECIPE))
    assert recipe.name == "study"
    assert set(recipe.goals) == {
        Goal("top1", "max_drop", 0.01),
        Goal("latency_p50", "max", 0.002),
    }
    (method,) = recipe.methods
    assert (method.criterion, method.scope, method.schedule) == ("magnitude", "global", "oneshot")
    assert method.sparsities == (0.5, 0.9)
    assert recipe.measure.policy == "quick"


def test_n_of_m_knows_its_own_sparsity(tmp_path: Path) -> None:
    # Unquoted, YAML 1.1 would read 2:4 as the number 124.
    text = yaml.safe_dump(RECIPE).replace("pattern: unstructured", "pattern: 2:4")
    (method,) = config.load_recipe(write(tmp_path, text)).methods
    assert method.pattern == "2:4"
    assert method.sparsities == (0.5,)


@pytest.mark.parametrize(
    ("data", "where", "says"),
    [
        (changed(bckends={}), "bckends", "did you mean 'backends'"),
        (changed(workload={"kind": "p23"}), "workload", "did you mean 'p32'"),
        (changed(workload={"kind": "p32", "trian": 5}), "workload.trian", "did you mean 'train'"),
        (changed(workload={}), "workload", "needs a 'kind'"),
        (changed(backends={"onnxruntim": {}}), "backends.onnxruntim", "'onnxruntime'"),
        (changed(backends={}), "backends", "names no backend"),
        (changed(goals={"latency": {"max": "2ms"}}), "goals.latency", "unknown metric"),
        (changed(goals={"latency_p50": {"max": "2MB"}}), "goals.latency_p50.max", "'MB'"),
        (changed(goals={"latency_p50": {"max": 2}}), "goals.latency_p50.max", "no unit"),
        (changed(goals={"top1": {}}), "goals.top1", "max, min or max_drop"),
        (changed(choose="speed"), "choose", "unknown metric"),
        (changed(objectives=["top1", "speed"]), "objectives", "unknown metric"),
        (changed(version=2), "version", "2"),
        (changed(search={"methods": []}), "search.methods", "at least 1"),
        (
            changed(search={"methods": [{"pattern": "unstructured", "sparsities": [1.5]}]}),
            "search.methods[0].sparsities[0]",
            "less than 1",
        ),
        (
            changed(search={"methods": [{"pattern": "unstructured", "sparsities": [-0.1]}]}),
            "search.methods[0].sparsities[0]",
            "greater than or equal to 0",
        ),
        (
            changed(search={"methods": [{"pattern": "unstructured", "sparsities": ["1e-3"]}]}),
            "search.methods[0].sparsities[0]",
            "text, not a number",
        ),
        (changed(search={"methods": [{"pattern": "swiss"}]}), "search.methods[0].pattern", "swiss"),
        (
            changed(search={"methods": [{"pattern": "channel", "criterion": "magnitud"}]}),
            "search.methods[0].criterion",
            "magnitud",
        ),
        (
            changed(search={"methods": [{"pattern": "2:4", "sparsities": [0.9]}]}),
            "search.methods[0].sparsities",
            "always removes 0.5",
        ),
        (changed(measure={"policy": "fast"}), "measure.policy", "unknown policy"),
        (changed(measure={"looks": [25, 12]}), "measure.looks", "must grow"),
        (changed(train={"epochs": "ten"}), "train.epochs", "text, not a number"),
        (changed(workload={"kind": "python", "file": "no.py"}), "workload", "no.py"),
    ],
)
def test_every_mistake_is_named_by_file_and_key(
    data: dict[str, Any], where: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        config.load_recipe(write(tmp_path, data))
    assert f"study.yaml: {where}" in caught.value.where
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("- a\n- b\n", "holds a list"),
        ("just words", "holds a str"),
        ("a: [1, 2\nb: 3", "not valid YAML"),
        ("a: 1\na: 2\n", "given twice"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_what_is_not_a_recipe_is_said(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says) as caught:
        config.load_recipe(write(tmp_path, text))
    assert "study.yaml" in caught.value.where


def test_a_directory_an_absent_file_and_bytes_are_said(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UserError, match="is a directory"):
        config.load_recipe(str(tmp_path / "folder.yaml"))
    with pytest.raises(UserError, match="no file"):
        config.load_recipe(str(tmp_path / "absent.yaml"))
    with pytest.raises(UserError, match="did you mean 'p32'"):
        config.load_recipe("p23")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        config.load_recipe(str(tmp_path / "bytes.yaml"))


def test_several_mistakes_are_all_listed(tmp_path: Path) -> None:
    data = changed(bckends={}, train={"epoch": 3})
    with pytest.raises(UserError, match="2 mistakes") as caught:
        config.load_recipe(write(tmp_path, data))
    assert "bckends" in str(caught.value)
    assert "train.epoch" in str(caught.value)


def test_overrides_reach_into_lists_and_tables(tmp_path: Path) -> None:
    recipe = config.load_recipe(
        write(tmp_path, RECIPE),
        [
            "search.sparsities=[0.25]",
            "search.methods.0.criterion=random",
            "measure.generations=4",
            "goals.energy.max=3mJ",
        ],
    )
    (method,) = recipe.methods
    assert method.sparsities == (0.25,)
    assert method.criterion == "random"
    assert recipe.measure.generations == 4
    assert Goal("energy", "max", 0.003) in recipe.goals


@pytest.mark.parametrize(
    "assignment",
    ["search.sparsities", "=3", "version.x=1", "search.methods.7.pattern=2:4", "a=[1"],
)
def test_broken_overrides_are_refused(assignment: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r".") as caught:
        config.load_recipe(write(tmp_path, RECIPE), [assignment])
    assert "--set" in caught.value.where


def test_minutes_cannot_end_what_tries_nothing_in_turn(tmp_path: Path) -> None:
    own = {**RECIPE["search"], "strategy": "train_all", "budget": {"minutes": 5}}
    with pytest.raises(UserError, match="train_all") as refused:
        config.load_recipe(write(tmp_path, changed(search=own)))
    assert "search.budget.minutes" in refused.value.where


def test_an_override_of_an_unknown_key_is_a_mistake_like_any_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'sparsities'"):
        config.load_recipe(write(tmp_path, RECIPE), ["search.sparsitys=[0.5]"])


def test_goals_on_the_command_line() -> None:
    assert config.goals("top1.max_drop=1pp") == (Goal("top1", "max_drop", 0.01),)
    with pytest.raises(UserError, match="unknown metric"):
        config.goals("speed.max=2ms")
    with pytest.raises(UserError, match="unknown key"):
        config.goals("top1.most=1pp")


words = st.text("ab1:%.-_ ", max_size=6)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
KEYS = sorted({"version", "workload", "search", "backends", "goals", "train", "measure", "x"})


@given(st.dictionaries(st.sampled_from(KEYS), json_like, max_size=5))
def test_whatever_the_file_holds_the_answer_is_a_recipe_or_a_user_error(
    data: dict[str, Any],
) -> None:
    merged = {**RECIPE, **data}
    with contextlib.suppress(UserError):
        file = door.check(config.FILES["recipe"], merged, "x.yaml")
        assert isinstance(file, config.FILES["recipe"])


@given(st.text(max_size=60))
def test_whatever_the_text_is_the_answer_is_data_or_a_user_error(text: str) -> None:
    with contextlib.suppress(UserError):
        json.dumps(door.parse(text, "x.yaml"), default=str)


@pytest.mark.parametrize("name", config.known("recipes"))
def test_shipped_recipes_are_right_by_loader_and_by_published_schema(name: str) -> None:
    recipe = config.load_recipe(name)
    assert recipe.name == name
    data = yaml.safe_load(Path(f"recipes/{name}.yaml").read_text())
    jsonschema.validate(data, json.loads(config.schema("recipe")))


@pytest.mark.parametrize("name", config.known("targets"))
def test_shipped_targets_are_right_by_loader_and_by_published_schema(name: str) -> None:
    target = config.load_target(name)
    assert target.connection is not None or target.how_to_reach
    for backend in target.backends:
        assert backend.kind in BACKENDS.kinds()
    if target.power is not None:
        assert target.power.source
    data = yaml.safe_load(Path(f"targets/{name}.yaml").read_text())
    jsonschema.validate(data, json.loads(config.schema("target")))


def test_targets_of_the_brief_are_there() -> None:
    assert {
        "local-cpu",
        "x86-avx2",
        "x86-avx512",
        "cuda",
        "jetson-orin-nano",
        "rpi3",
        "rpi4",
        "rpi5",
    } <= set(config.known("targets"))


def test_the_proxy_meter_takes_its_figures_from_the_profile(tmp_path: Path) -> None:
    target = config.load_target("rpi4")
    (meter,) = target.meters
    assert target.power is not None
    assert meter.options["core_watts"] == target.power.core_watts
    text = Path("targets/rpi4.yaml").read_text()
    without = "\n".join(line for line in text.splitlines() if not line.startswith("power:"))
    with pytest.raises(UserError, match="needs the target's power"):
        config.load_target(write(tmp_path, without, "rpi4.yaml"))


def test_a_recipe_changes_only_the_options_it_writes(tmp_path: Path) -> None:
    target = config.load_target("x86-avx2")
    data = changed(backends={"tvm": {"schedule": False}, "onnxruntime": {}})
    recipe = config.load_recipe(write(tmp_path, data))
    merged = {spec.kind: spec.options for spec in search.shared_backends(recipe, target)}
    assert merged["tvm"]["mcpu"] == "haswell", "the target's, not the default"
    assert merged["tvm"]["schedule"] is False
    assert merged["onnxruntime"]["arena"] is True


def test_schema_of_something_else() -> None:
    with pytest.raises(UserError, match="did you mean 'recipe'"):
        config.schema("recipes")
