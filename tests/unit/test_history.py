"""The history of nights: added to, merged, torn, old and new."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hwbench import history
from hwbench.errors import UserError
from hwbench.records import Change, Night, Pair, Pin, Reading, Status

DATA = Path(__file__).parents[1] / "data" / "history"
WORSE = Change(1e-3, 1.05e-3, 1.05, 1.04, 1.06)


def night(number: int = 1, run: str = "a", *, target: str = "here", ratio: float = 1.0) -> Night:
    change = Change(1e-3, 1e-3 * ratio, ratio, ratio - 0.01, ratio + 0.01)
    readings = (
        Reading("dense · null", "latency_p50", "measured", 0.01, change),
        Reading("dense · null", "artifact_bytes", "static", 0.01, Change(9.0, 9.0, 1.0)),
    )
    pin = Pin("smoke", target, 1, "abc", "2026-01-01T00:00:00+00:00", "me", "first")
    pair = Pair("smoke", target, True, readings, pin=pin, segment="s1")
    started = f"2026-02-{number:02}T03:00:00+00:00"
    return Night(run, number, started, f"c{number}", "host", "nightly", (pair,))


def test_what_is_written_comes_back_in_the_order_of_nights(tmp_path: Path) -> None:
    for number in (2, 1, 3):
        history.write(tmp_path, night(number, f"r{number}", ratio=1 + number / 100), "here")
    found = history.load(tmp_path)
    assert found.problems == ()
    assert list(found.readings.columns) == list(history.COLUMNS)
    assert list(found.readings.number) == [1, 1, 2, 2, 3, 3]
    assert list(found.pairs.commit) == ["c1", "c2", "c3"]
    nights = history.series(found, "here", "smoke", "s1")[("dense · null", "latency_p50")]
    assert [n for n, _, _ in nights] == [1, 2, 3]
    assert nights[2][1].ratio == pytest.approx(1.03)
    bytes_ = history.series(found, "here", "smoke", "s1")[("dense · null", "artifact_bytes")]
    assert bytes_[0][1].low is None
    assert history.next_number(tmp_path) == 4
    last = found.last("here", "smoke")
    assert last is not None
    assert last["run"] == "r3"
    assert found.last("here", "other") is None


def test_a_night_is_never_written_again(tmp_path: Path) -> None:
    path = history.write(tmp_path, night(), "here")
    before = path.read_bytes()
    with pytest.raises(UserError, match="already"):
        history.write(tmp_path, night(ratio=2.0), "here")
    assert path.read_bytes() == before


def test_a_broken_line_is_said_and_the_others_count(tmp_path: Path) -> None:
    path = history.write(tmp_path, night(), "here")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2][:40], lines[3]]) + "\n")
    found = history.load(tmp_path)
    assert len(found.problems) == 1
    assert f"{path}:3" in found.problems[0]
    assert list(found.readings.metric) == ["artifact_bytes"]


@pytest.mark.parametrize("content", ["", "not json\n", '{"format": 1}\n', "\xff\xfe\x00"])
def test_a_file_without_a_head_costs_only_itself(content: str, tmp_path: Path) -> None:
    history.write(tmp_path, night(1, "good"), "here")
    (tmp_path / "here/00002-bad.jsonl").write_text(content)
    found = history.load(tmp_path)
    assert list(found.readings.run) == ["good", "good"]
    assert len(found.problems) >= 1
    assert history.next_number(tmp_path) == 3


def test_a_newer_format_is_left_out_and_said(tmp_path: Path) -> None:
    path = history.write(tmp_path, night(), "here")
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    found = history.load(tmp_path)
    assert "newer hwbench" in found.problems[0]
    assert found.readings.empty


def test_two_machines_merge_by_copying_files(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    history.write(one, night(1, "a"), "here")
    history.write(other, night(1, "b", target="there"), "there")
    history.write(other, night(2, "c"), "here")
    shutil.copytree(other, one, dirs_exist_ok=True)
    shutil.copytree(other, one, dirs_exist_ok=True)
    found = history.load(one)
    assert sorted(found.nights) == ["a", "b", "c"]
    assert list(found.readings.run.unique()) == ["a", "b", "c"]
    assert len(found.readings) == 6


def test_a_clock_that_went_back_does_not_shuffle_the_nights(tmp_path: Path) -> None:
    import dataclasses

    late = dataclasses.replace(night(1, "first"), started="2026-09-01T00:00:00+00:00")
    history.write(tmp_path, late, "here")
    history.write(tmp_path, night(2, "second"), "here")
    assert list(history.load(tmp_path).pairs.run) == ["first", "second"]


@pytest.mark.parametrize("folder", sorted(DATA.glob("format-*")), ids=lambda p: p.name)
def test_every_format_there_ever_was_is_still_read(folder: Path) -> None:
    found = history.load(folder)
    assert found.problems == ()
    nights = history.series(found, "here", "smoke", "s1")[("dense · null", "latency_p50")]
    assert [n for n, _, _ in nights] == [1, 2]
    assert nights[1][1].ratio == pytest.approx(1.05)
    assert nights[1][2] == Change(None, None, 1.05, 1.04, 1.06)
    assert Status.WORSE in set(found.readings[found.readings.number == 2].status)
    assert history.load_pins(folder, "here", "smoke")[0].why == "first"


def test_pins_are_ordered_by_number_and_a_broken_one_stops_everything(tmp_path: Path) -> None:
    for number in (2, 1):
        at = f"2026-01-0{3 - number}T00:00:00+00:00"
        pin = Pin("smoke", "here", number, f"hash{number}", at, "me", "because")
        history.pin(tmp_path, pin)
    found = history.load_pins(tmp_path, "here", "smoke")
    assert [p.number for p in found] == [1, 2]
    assert history.load_pins(tmp_path, "here", "p32") == []
    with pytest.raises(UserError, match="already"):
        history.pin(tmp_path, found[0])
    broken = tmp_path / "here/pins/smoke-0003-x.json"
    broken.write_text(json.dumps({"format": 1}))
    with pytest.raises(UserError, match="no pinned baseline"):
        history.load_pins(tmp_path, "here", "smoke")
