"""Kernels of our own for sparse and dense layers, written in TVM's TIR.

``layouts`` says where a pixel lives, ``encode`` turns weights into lists, ``template`` and
``stencils`` write the loops, ``graph`` reads ONNX, ``lower`` joins everything to one Relax module,
``choose`` measures which variant of a kernel to use, ``build`` makes a library of it.

The modules import numpy, onnx and tvm when imported; a plug-in imports them inside functions.
"""
