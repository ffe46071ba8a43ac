"""Operators without a kernel of ours: left to TVM's own ONNX importer, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from hwbench.errors import StageError
from hwbench.kernels.graph import Graph, Step
from hwbench.kernels.placement import Placement

QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger")


def refuse_quantized(step: Step) -> None:
    """Raise `StageError` for a quantized operator that no pair of roundings explains."""
    if step.node.op_type in QUANTIZED:
        raise StageError(
            "compile",
            f"tvm_sparse has no kernel for the quantized operator {step.name}",
            expected="pairs of QuantizeLinear (unsigned 8 bits) and DequantizeLinear",
            mend="give it the fp32 model; onnxruntime runs the int8 one",
        )


def imported(low: Placement, step: Step) -> Any:
    """Emit one operator as TVM imports it; raises `StageError` where it cannot."""
    if len(step.node.output) != 1:
        raise _missing(step, "has several outputs")
    arguments = list(dict.fromkeys(step.inputs))
    module = _module(step, low.graph)
    # The importer writes some operators (Clip) as kernels of their own beside ``main``.
    beside = {
        name: low.builder.add_func(module[name], low.name(name.name_hint))
        for name in module.get_global_vars()
        if name.name_hint != "main"
    }
    main = _Renamed(beside).visit_expr(module["main"]) if beside else module["main"]
    function = main.without_attr("global_symbol")
    variable = low.builder.add_func(function, low.name("other"))
    call = relax.Call(variable, [low.plain(name) for name in arguments])
    return low.builder.emit(call)


@mutator
class _Renamed(PyExprMutator):  # type: ignore[misc]
    """Puts functions of one module in the place of those of another."""

    def __init__(self, names: Mapping[Any, Any]) -> None:
        super().__init__()
        self._names = names

    def visit_global_var_(self, var: Any) -> Any:
        """Return the function's name in the other module."""
        return self._names.get(var, var)


def _module(step: Step, graph: Graph) -> Any:
    """Return a Relax module with ``main`` for one ONNX node."""
    from tvm.relax.frontend.onnx import from_onnx

    node = step.node
    kinds = {str(k): v for k, v in graph.dtypes.items()}

    def info(name: str) -> onnx.ValueInfoProto:
        element = helper.np_dtype_to_tensor_dtype(np.dtype(kinds[name]))
        return helper.make_tensor_value_info(name, element, graph.shapes[name])

    inputs = list(dict.fromkeys(step.inputs))
    constants = [
        numpy_helper.from_array(graph.constants[name], name)
        for name in dict.fromkeys(node.input)
        if name in graph.constants
    ]
    single = helper.make_graph(
        [node], "one", [info(name) for name in inputs], [info(step.output)], constants
    )
    document = helper.make_model(single, opset_imports=[helper.make_opsetid("", graph.opset)])
    try:
        return from_onnx(document, opset=graph.opset, keep_params_in_input=False)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, LookupError) as error:
        raise _missing(step, str(error).strip().splitlines()[-1][:200]) from error


def _missing(step: Step, why: str) -> StageError:
    return StageError(
        "compile",
        f"no kernel for the operator {step.node.op_type} ({step.name}): {why}",
        mend="leave tvm_sparse out for this model, or replace the operator",
    )
