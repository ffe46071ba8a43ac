"""What checks and tunes the instrument itself, and is no part of the product.

`selftest` measures doubles whose truth is known, `nights` is a world of nights, `sampler_race`
holds samplers against each other on a finished search, `kernel_bench` our kernels against other
runtimes; `predict_fit` fits the model that predicts, `predict_validate` says how good it is.
"""
