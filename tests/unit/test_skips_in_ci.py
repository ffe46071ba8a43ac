"""The rule of tests/conftest.py, tried on a small suite of its own in a fresh process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest

@pytest.mark.skip(reason="no runtime")
def test_skips(): ...

@pytest.mark.contract
@pytest.mark.skip(reason="no runtime")
def test_contract_skips(): ...

@pytest.mark.xfail(reason="known", strict=True)
def test_xfails(): assert False
"""


@pytest.mark.parametrize(
    ("ci", "folder", "code", "summary"),
    [
        ("", "browser", 0, "3 skipped, 1 xfailed"),
        ("true", "browser", 2, "1 error"),
        ("true", "contracts", 1, "1 xfailed, 2 errors"),
        ("true", "unit", 1, "1 skipped, 1 xfailed, 1 error"),
    ],
)
def test_a_skip_is_a_failure_only_where_it_matters(
    tmp_path: Path, ci: str, folder: str, code: int, summary: str
) -> None:
    suite = tmp_path / folder
    suite.mkdir()
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path)
    (suite / "test_it.py").write_text(SUITE)
    if folder == "browser":
        (suite / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_thing')")
    environment = {k: v for k, v in os.environ.items() if k != "CI"} | ({"CI": ci} if ci else {})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        check=False,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert summary in done.stdout
    if ci and folder != "unit":
        assert "must not be skipped in CI" in done.stdout
