"""The whole main job on a machine that is reached by ssh: this one, behind a plain server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.house import House
from tests.loopback import Loopback, serving

pytestmark = [pytest.mark.contract, pytest.mark.slow]

TARGET = """
version: 1
title: A machine that is reached by ssh
soc: this one
isa: host
cores: host
ram: host
connection: {connection}
backends: {{onnxruntime: {{}}}}
meters: [{{kind: proxy}}]
power: {{idle: 0, per_core: 5, source: assumed}}
"""
RECIPE = ("--recipe", "smoke", "--set", "search.methods=[{pattern: channel}]")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    with serving(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, server: Loopback) -> House:
    house = House.build(tmp_path_factory.mktemp("house"))
    reached = json.dumps({"kind": "ssh", **server.options()})
    (house.folder / "targets/board.yaml").write_text(TARGET.format(connection=reached))
    house.run("bench", *RECIPE, "--target", "board")
    return house


def test_everything_is_measured_there(house: House) -> None:
    results = house.results()
    assert len(results) == 3
    for result in results:
        assert result["failure"] is None, result
        assert result["fingerprint"]
        for metric in ("top1", "latency_p50", "peak_memory", "load_time"):
            assert result["values"][metric]["source"] == "measured", metric
        assert result["values"]["latency_p50"]["value"] > 0
        assert result["values"]["energy"]["source"] == "proxy"
    assert house.decision()["basis"] == "measured"
    assert list((house.folder / "reports/latest/samples").glob("latency-*.jsonl"))


def test_what_was_measured_there_is_not_measured_twice(house: House) -> None:
    before = {json.dumps(r["candidate"]): r["measured_at"] for r in house.results()}
    house.run("bench", *RECIPE, "--target", "board")
    assert {json.dumps(r["candidate"]): r["measured_at"] for r in house.results()} == before


def test_nothing_is_left_there(house: House, server: Loopback) -> None:
    there = server.folder / "there"
    assert house.results()
    assert list((there / "sessions").iterdir()) == []
    assert {path.name for path in there.iterdir()} == {"blobs", "lease", "sessions"}
    assert list((there / "blobs").iterdir()), "what was sent is kept by its content"


def test_a_server_that_is_down_ends_in_exit_3(
    house: House, server: Loopback, tmp_path: Path
) -> None:
    path = house.folder / "targets/down.yaml"
    given = {**server.options(), "host": "127.0.0.1", "port": 1, "patience": 2}
    path.write_text(TARGET.format(connection=json.dumps({"kind": "ssh", **given})))
    said = house.run("bench", *RECIPE, "--target", "down", code=3).stderr
    assert "cannot be reached by ssh" in said
    assert "predicted" not in said
