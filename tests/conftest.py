"""In CI a contract or browser test that skips has failed: nobody reads skips there."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A deadline is a timed assertion: on a busy machine it fails tests that are right.
settings.register_profile("hwbench", deadline=None)
settings.load_profile("hwbench")


@pytest.fixture(autouse=True)
def _denormals_as_they_were() -> Iterator[None]:
    """Give back the floating-point mode: ONNX Runtime may flush denormals for good in a thread."""
    libm = ctypes.CDLL("libm.so.6")
    state = (ctypes.c_uint8 * 64)()
    libm.fegetenv(state)
    yield
    libm.fesetenv(state)


_STRICT = {"contracts", "browser"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "contract: holds a plug-in to its protocol; no skips in CI")


def _must_run(node: pytest.Item | pytest.Collector) -> bool:
    if not os.environ.get("CI"):
        return False
    here = Path(__file__).parent
    inside = node.path.is_relative_to(here) and node.path.relative_to(here).parts[:1]
    return node.get_closest_marker("contract") is not None or bool(inside and inside[0] in _STRICT)


def _fail_if_skipped(
    report: pytest.TestReport | pytest.CollectReport, node: pytest.Item | pytest.Collector
) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and _must_run(node):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{node.nodeid} must not be skipped in CI. {why}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report, item)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report, collector)
    return report
