"""Milliseconds on a board that is not there: predictions with bands, always labelled as such.

`predict` is the fallback model, which needs nothing: operators by class, fitted to published
latencies (by `hwbench.instruments.predict_fit`). Where QEMU and an emulated board are installed,
`counts` has the better model. docs/prediction.md says how good both are.
"""

from hwbench.prediction.price import CORES, Prediction, core_of, counted, predict, value

__all__ = ["CORES", "Prediction", "core_of", "counted", "predict", "value"]
