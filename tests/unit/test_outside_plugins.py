"""Plug-ins of other packages: found, checked at start, carried along, and seen by the cache."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.outside import Outside, acme

VERSION = """
from hwbench.pipeline import keys
print(keys.toolchain(), keys.measuring_code())
"""
PACK = """
import sys
from pathlib import Path
from hwbench.measurement import worker_zip
worker_zip(Path(sys.argv[1]))
"""
FIRST = """
from hwbench.registry import BACKENDS
plugin = BACKENDS.at("acme_hwbench.engine")
print(plugin.traits.max_batch, plugin.create({"flavour": "odd"}).versions()["acme"])
"""


def test_it_is_one_among_ours(tmp_path: Path) -> None:
    outside = acme(tmp_path / "site")
    found = json.loads(outside.run("-m", "hwbench", "list", "--json").stdout)
    assert found["plugins"]["backends"]["acme"] == []
    schema = outside.run("-m", "hwbench", "schema", "recipe").stdout
    assert "flavour" in schema
    script = "from hwbench.registry import BACKENDS as b; p = b.plugin('acme'); print(p.package)"
    assert outside.run("-c", script).stdout == "acme-hwbench 1.0\n"


def test_a_change_of_its_source_begins_the_cache_anew(tmp_path: Path) -> None:
    outside = acme(tmp_path / "site")
    first = outside.run("-c", VERSION).stdout.split()
    assert outside.run("-c", VERSION).stdout.split() == first
    beside = outside.package / "shapes.py"  # not the plug-in's file, but imported by it
    beside.write_text(beside.read_text() + "\n# changed\n")
    making, measuring = outside.run("-c", VERSION).stdout.split()
    assert making != first[0]
    assert measuring == first[1]


def test_it_travels_to_the_device(tmp_path: Path) -> None:
    outside = acme(tmp_path / "site")
    worker = tmp_path / "worker.zip"
    outside.run("-c", PACK, str(worker))
    with zipfile.ZipFile(worker) as archive:
        names = archive.namelist()
    assert {"acme_hwbench/engine.py", "acme_hwbench/shapes.py"} <= set(names)
    again = tmp_path / "again.zip"
    outside.run("-c", PACK, str(again))
    assert again.read_bytes() == worker.read_bytes()
    # On the device the zip is all there is of it.
    script = f"import sys; sys.path.insert(0, {str(worker)!r})\n{FIRST}"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.stdout == "1 1.0\n", done.stderr


CONTRACT = """
from hwbench.testing import BackendContract, models

class TestAcme(BackendContract):
    kind = "acme"

    def network(self, path):
        return models.perceptron(path)
"""


def test_it_passes_the_contract_that_ships(tmp_path: Path) -> None:
    outside = acme(tmp_path / "site")
    file = tmp_path / "test_acme.py"
    file.write_text(CONTRACT)
    quiet = ("-q", "-p", "no:cacheprovider", "-W", "error", "--rootdir", str(tmp_path))
    said = outside.run("-m", "pytest", *quiet, str(file)).stdout
    assert re.search(r"^1[0-9] passed", said, re.MULTILINE), said


def test_the_contract_finds_a_runtime_that_answers_wrongly(tmp_path: Path) -> None:
    outside = acme(tmp_path / "site")
    engine = outside.package / "engine.py"
    engine.write_text(engine.read_text().replace("np.maximum(y, 0)", "np.minimum(y, 0)"))
    file = tmp_path / "test_acme.py"
    file.write_text(CONTRACT)
    quiet = ("-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path))
    said = outside.run("-m", "pytest", *quiet, str(file), code=1).stdout
    assert "test_agrees_with_onnxruntime" in said


BROKEN = {
    "no traits": ("TRAITS = ", "TRAITZ = ", "has no TRAITS"),
    "a trait is lacking": ('    device_distributions=("numpy",),\n', "", "device_distributions"),
    "a trait of a wrong type": ("max_batch=1", 'max_batch="one"', "max_batch='one'"),
    "a trait that is none": ("max_batch=1", "max_bach=1", "max_bach"),
    "no class": ("PLUGIN: type[Backend] = AcmeBackend", "", "has no PLUGIN"),
    "a method is lacking": ("def load(", "def lode(", "lacks load"),
    "it does not import": ("import json", "import jsonn", "jsonn"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_is_named_at_start(what: str, tmp_path: Path) -> None:
    outside = acme(tmp_path / "site")
    old, new, said = BROKEN[what]
    file = outside.package / "engine.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    error = outside.run("-m", "hwbench", "targets", code=2).stderr
    assert said in error
    assert "acme-hwbench 1.0" in error
    assert str(file) in error
    assert "expected: " in error
    assert "Traceback" not in error


@pytest.mark.parametrize(("group", "name"), [("backends", "torch"), ("pruners", "channel")])
def test_a_name_that_is_taken_is_refused(group: str, name: str, tmp_path: Path) -> None:
    points = {group: {name: "acme_hwbench.engine"}}
    outside = Outside(tmp_path / "site", points=points).install()
    error = outside.run("-m", "hwbench", "--version", code=2).stderr
    assert f"two {group} are called {name!r}" in error
    assert str(outside.package / "engine.py") in error
    assert f"hwbench/{group}/{name}.py" in error
    assert "Traceback" not in error


def test_two_packages_with_one_name_are_both_named(tmp_path: Path) -> None:
    acme(tmp_path / "site")
    points = {"backends": {"acme": "other_hwbench.engine"}}
    both = Outside(tmp_path / "site", "other-hwbench", points).install()
    error = both.run("-m", "hwbench", "list", code=2).stderr
    assert "acme-hwbench 1.0" in error
    assert "other-hwbench 1.0" in error
