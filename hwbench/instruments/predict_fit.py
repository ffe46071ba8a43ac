"""The fallback model: seconds per operation of each class, fitted to published latencies.

``python -m hwbench.instruments.predict_fit`` reads ``published.json`` and writes
``coefficients.json``, both in the room `predict`. The fit is non-negative least squares of
the relative error; its band comes from networks predicted by fits that never saw their family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench import files, prediction
from hwbench.prediction.classes import CLASSES, MACS
from hwbench.prediction.cycles import CORES, LINE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_RIDGE = 1e-3
"""Keeps a class that hardly occurs from being worth anything."""
BOARDS: Mapping[str, str] = {"cortex-a53": "rpi3b+", "cortex-a72": "rpi4", "cortex-a76": "rpi5"}
"""Whose published table stands for a core."""
_FAMILIES = (
    ("mobilenetv2", "mobilenet_v2"),
    ("mobilenet_v", ""),
    ("mobilenet", "mobilenet"),
    ("squeezenet", "squeezenet"),
    ("shufflenet", "shufflenet"),
    ("googlenet", "googlenet"),
    ("resnet", "resnet"),
    ("vgg", "vgg"),
    ("efficientnet", "efficientnet"),
    ("yolo-fastest", "fastest"),
    ("FastestDet", "fastest"),
)


def published() -> Mapping[str, Any]:
    """Return the published latencies, with what was counted on their networks."""
    text = resources.files("hwbench.prediction").joinpath("published.json").read_text()
    found: Mapping[str, Any] = json.loads(text)
    return found


def family(network: str, *, wide: bool = False) -> str:
    """Return what a network is a variant of: int8 or not, resnet18 is one family.

    With `wide`, so are resnet18 and resnet50, or a backbone and the detectors built on it.
    """
    name = network.removesuffix("_int8")
    for start, whole in _FAMILIES if wide else ():
        if name.startswith(start):
            return whole or name
    return name


def networks(data: Mapping[str, Any], board: str, int8: bool = False) -> list[str]:
    """Return the networks with a published time on one thread of a board, and their classes."""
    known = data["boards"][board]["min_ms_by_threads"]["1"]
    return [n for n in known if n in data["classes"] and (int8 or not n.endswith("_int8"))]


def times(data: Mapping[str, Any], board: str, names: Sequence[str]) -> NDArray[np.float64]:
    """Return the published seconds of networks on one thread of a board."""
    import numpy as np

    known = data["boards"][board]["min_ms_by_threads"]["1"]
    return np.array([known[n] for n in names]) / 1e3


def features(
    data: Mapping[str, Any], names: Sequence[str], *, one: bool = False
) -> NDArray[np.float64]:
    """Return the classes of networks, one row each; those of int8 layers stand behind the rest.

    With `one`, a single column: all multiply-adds.
    """
    import numpy as np

    rows = [data["classes"][n] for n in names]
    if one:
        macs = {*MACS, *(f"int8_{c}" for c in MACS)}
        return np.array([[sum(v for k, v in row.items() if k in macs)] for row in rows], float)
    keys = [*CLASSES, *(f"int8_{c}" for c in CLASSES if any(f"int8_{c}" in r for r in rows))]
    return np.array([[row.get(key, 0.0) for key in keys] for row in rows], float)


def counted(data: Mapping[str, Any], core: str, names: Sequence[str]) -> NDArray[np.float64]:
    """Return what was counted on networks under QEMU: instructions, misses of each cache."""
    import numpy as np

    rows = [data["counts"][core][n] for n in names]
    return np.array([[row["instructions"], *row["misses"]] for row in rows], float)


def priced(data: Mapping[str, Any], core: str, names: Sequence[str]) -> NDArray[np.float64]:
    """Return seconds by llvm-mca's cycles and the bytes that missed every cache; no fit."""
    import numpy as np

    rows = [data["counts"][core][n] for n in names]
    board = CORES[core]
    return np.array(
        [r["cycles"] / board.clock + LINE * r["misses"][-1] / board.bandwidth for r in rows]
    )


def fit(what: NDArray[np.float64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the non-negative seconds per unit of each column, least squares of relative errors."""
    import numpy as np
    from scipy.optimize import nnls

    size = what.mean(axis=0)
    size[size == 0] = 1.0
    rows = np.vstack([what / size / seconds[:, None], _RIDGE * np.eye(what.shape[1])])
    goal = np.r_[np.ones(len(seconds)), np.zeros(what.shape[1])]
    solution: NDArray[np.float64] = nnls(rows, goal)[0] / size
    return solution


def left_out(
    what: NDArray[np.float64],
    seconds: NDArray[np.float64],
    names: Sequence[str],
    *,
    wide: bool = False,
) -> NDArray[np.float64]:
    """Return each network's time as predicted by a fit without its whole family."""
    import numpy as np

    predicted = np.zeros(len(names))
    families = [family(name, wide=wide) for name in names]
    for one in set(families):
        held_out = np.array([f == one for f in families])
        predicted[held_out] = what[held_out] @ fit(what[~held_out], seconds[~held_out])
    return predicted


def coefficients(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what ``coefficients.json`` holds: seconds per unit and a band for every core."""
    import numpy as np

    cores = {}
    for core, board in BOARDS.items():
        names = networks(data, board)
        what, seconds = features(data, names), times(data, board, names)
        ratios = seconds / left_out(what, seconds, names)
        low, high = np.quantile(ratios, [0.05, 0.95])
        counts = _counts_of(data, core, board) if core in data["counts"] else {}
        cores[core] = {
            **counts,
            "board": data["boards"][board]["title"],
            "arithmetic": data["boards"][board]["arithmetic"],
            "networks": len(names),
            "fastest_s": float(seconds.min()),
            "seconds_per": dict(zip(CLASSES, map(_short, fit(what, seconds)), strict=True)),
            "low": _short(low),
            "high": _short(high),
        }
    return {
        "made_by": "python -m hwbench.instruments.predict_fit",
        "from": data["source"],
        "licence": data["licence"],
        "cores": cores,
    }


def _counts_of(data: Mapping[str, Any], core: str, board: str) -> Mapping[str, Any]:
    """Return seconds an instruction and a miss of each cache, and the band of the fit."""
    import numpy as np

    names = [n for n in networks(data, board, int8=True) if n in data["counts"][core]]
    seconds, what = times(data, board, names), counted(data, core, names)
    low, high = np.quantile(seconds / left_out(what, seconds, names), [0.05, 0.95])
    per = [_short(number) for number in fit(what, seconds)]
    return {"counts": {"seconds_per": per, "low": _short(low), "high": _short(high)}}


def _short(number: float) -> float:
    return float(f"{number:.4g}")


def main() -> None:
    """Write ``coefficients.json`` beside this file."""
    path = Path(prediction.__file__).with_name("coefficients.json")
    files.write(path, json.dumps(coefficients(published()), indent=1) + "\n")


if __name__ == "__main__":
    main()
