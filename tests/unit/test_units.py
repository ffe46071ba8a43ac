import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench import units
from hwbench.errors import UserError
from hwbench.records import Source, Value, missing


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("2ms", "s", 0.002),
        ("2 ms", "s", 0.002),
        ("1.5e-3s", "s", 0.0015),
        ("250µs", "s", 250e-6),
        ("1pp", "fraction", 0.01),
        ("5%", "fraction", 0.05),
        (0.5, "fraction", 0.5),
        ("4MiB", "B", 4 * 1024**2),
        ("4MB", "B", 4e6),
        ("3.2M", "count", 3.2e6),
        ("3mJ", "J", 0.003),
        (-2, "score", -2.0),
    ],
)
def test_parse_returns_si(text: str | float, unit: str, expected: float) -> None:
    assert units.parse(text, unit) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "unit", "says"),
    [
        ("2", "s", "no unit"),
        (2, "s", "no unit"),
        ("2 apples", "s", "'apples'"),
        ("2MB", "s", "'MB'"),
        ("fast", "s", "not a quantity"),
        ("", "s", "not a quantity"),
        ("1pp", "J", "'pp'"),
        ("nan", "score", "not a quantity"),
    ],
)
def test_parse_refuses_and_says_what_would_be_right(
    text: str | float, unit: str, says: str
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        units.parse(text, unit, where="goals.x")
    assert caught.value.where == "goals.x"
    assert caught.value.expected


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.00123, "s", "1.23 ms"),
        (0.0009999, "s", "1 ms"),
        (4.6e-5, "s", "46 µs"),
        (0.8825, "fraction", "88.2 %"),
        (4.1e6, "B", "4.1 MB"),
        (3_210_000, "count", "3.21 M"),
        (0, "count", "0"),
        (12.0, "s", "12 s"),
        (3e-12, "s", "0.003 ns"),
    ],
)
def test_text_reads_well(value: float, unit: str, expected: str) -> None:
    assert units.text(value, unit) == expected


@given(st.floats(1e-9, 1e3), st.sampled_from(["s", "J"]))
def test_text_and_parse_agree_to_three_digits(value: float, unit: str) -> None:
    shown = units.text(value, unit)
    if shown.endswith(("nJ",)):
        return  # nobody writes goals in nanojoules
    assert math.isclose(units.parse(shown, unit), value, rel_tol=6e-3)


@given(st.floats(1e-9, 1e9), st.sampled_from(["s", "J", "B", "count"]))
def test_text_never_falls_back_to_powers_of_ten(value: float, unit: str) -> None:
    assert "e+" not in units.text(value, unit) or value >= 1e3


def test_differences_of_shares_are_points() -> None:
    assert units.difference(-0.0071, "fraction") == "-0.7 pp"
    assert units.difference(0.0012, "s") == "+1.2 ms"


def test_describe_says_why_a_number_is_missing() -> None:
    assert units.describe(missing("energy", Source.PROXY, "no sensor")) == "n/a: no sensor"
    assert units.describe(Value("latency_p50", 0.002, Source.MEASURED)) == "2 ms"


def test_duration() -> None:
    assert units.duration(0.44) == "0.4 s"
    assert units.duration(200) == "3 min 20 s"
    assert units.duration(7260) == "2 h 1 min"
