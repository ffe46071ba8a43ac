"""Kernels of our own for sparse and dense layers, written in TVM's TIR; see docs/sparse-kernels.md.

``graph`` reads ONNX, ``layouts`` says where a pixel lives, ``encode`` turns weights into lists,
``template`` and ``stencils`` write the loops, ``problem`` joins the three for one layer,
``choose`` picks among its variants, ``emit``, ``placement`` and ``lower`` make one Relax module
(``fallback``: what TVM imports), ``build`` a library of it,
``explain`` says what became of each layer; ``roofs`` measures what the machine can do; ``memory``
keeps what was found out about a machine.

The modules import numpy, onnx and tvm when imported; a plug-in imports them inside functions.
"""

TRY_FROM = 0.25
"""Share of zeros in a layer from which sparse kernels are tried; below, dense ones alone."""
