"""A runtime in an environment of its own, called in turns with ours: ``bench --peer``.

The peer's own Python runs this file (``python peer.py NAME MODEL INPUT THREADS``): it needs numpy
and the runtime, not hwbench. It prints its version first, then for every line that it reads the
seconds of one call.
"""

import sys
import time
from collections.abc import Callable
from typing import Any


def openvino(path: str, x: Any, threads: int) -> tuple[str, Callable[[], Any]]:
    """Return OpenVINO's version and a call of the model in float32."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(x.shape))
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return openvino.__version__, lambda: request.infer({0: x})


def deepsparse(path: str, x: Any, threads: int) -> tuple[str, Callable[[], Any]]:
    """Return DeepSparse's version and a call of the model."""
    import deepsparse

    engine = deepsparse.compile_model(path, batch_size=len(x), num_cores=threads)
    return deepsparse.__version__, lambda: engine.run([x])


PEERS = {"openvino": openvino, "deepsparse": deepsparse}


def main(name: str, path: str, given: str, threads: str) -> None:
    """Serve one model until there are no more lines."""
    import numpy as np

    answers, sys.stdout = sys.stdout, sys.stderr  # what runtimes print must not stand between
    version, call = PEERS[name](path, np.load(given), int(threads))
    answers.write(f"{version}\n")
    answers.flush()
    for _ in sys.stdin:
        start = time.perf_counter()
        call()
        answers.write(f"{time.perf_counter() - start}\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
