import errno
import subprocess
import sys
from pathlib import Path

import pytest

from hwbench import files
from hwbench.errors import UserError


def test_write_replaces_whole_files_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    files.write(path, "one")
    files.write(path, b"two")
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    assert path.stat().st_mode & 0o444


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_full_or_read_only_is_said(code: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write") as caught, files.said(tmp_path):
        raise OSError(code, "no")
    assert "finished work is kept" in caught.value.mend


def test_a_really_full_disk_is_said() -> None:
    with pytest.raises(UserError, match="disk is full"):
        files.append(Path("/dev/full"), "x")


def test_other_errors_of_the_system_surface(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), files.said(tmp_path):
        raise IsADirectoryError(errno.EISDIR, "a directory")


def test_append_starts_a_new_line_after_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    files.append(path, "1")
    with path.open("a") as stream:
        stream.write('{"torn')
    files.append(path, "2")
    assert path.read_text().splitlines() == ["1", '{"torn', "2"]


def test_a_second_holder_is_refused_with_the_first_ones_number(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    code = (
        "import sys; from pathlib import Path; from hwbench import files\n"
        "with files.locked(Path(sys.argv[1]), wait=False): print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match="under way") as caught,
            files.locked(lock, wait=False, busy="it is under way"),
        ):
            pytest.fail("two held the lock")
        assert str(holder.pid) in caught.value.mend
        holder.kill()
    # The system frees the lock of a killed process.
    with files.locked(lock, wait=False):
        pass
