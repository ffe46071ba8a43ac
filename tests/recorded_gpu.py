"""A GPU that is not there: a library that plays what NVML said of one once."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

# A quiet H200 as nvidia-smi -q printed it; figures of the counter made up.
TRACE = """\
name NVIDIA H200
uuid GPU-11111111-2222-3333-4444-555555555555
driver 580.159.03
total 150754820096
free 150000000000
limit 1980
clock 345 1980 1980
slowed 0
celsius 34
millijoules 1000000 1500000
processes 2
mig 0
"""


def library(folder: Path) -> Path:
    """Compile the library that plays traces (`nvml.c`); return the folder it is in."""
    compiler = shutil.which("cc")
    assert compiler, "a C compiler is needed"
    source = Path(__file__).parent / "nvml.c"
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(source)]
    subprocess.run(command, check=True)
    return folder
