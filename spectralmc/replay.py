"""A torch function of one tensor, recorded once and replayed on NumPy arrays: for a few numbers the calls cost more than the arithmetic.

Checks at the door are not recorded; whoever replays has made them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Function = Callable[[np.ndarray], np.ndarray]

# operation: the same on NumPy arrays, of its arguments by number
_TEXT = {
    "aten::add": "{0} + {1} * {2}",
    "aten::sub": "{0} - {1} * {2}",
    "aten::rsub": "{1} - {0} * {2}",
    "aten::mul": "{0} * {1}",
    "aten::div": "{0} / {1}",
    "aten::reciprocal": "1 / {0}",
    "aten::neg": "-{0}",
    "aten::pow": "{0} ** {1}",
    "aten::square": "{0} * {0}",
    "aten::sqrt": "np.sqrt({0})",
    "aten::exp": "np.exp({0})",
    "aten::expm1": "np.expm1({0})",
    "aten::log": "np.log({0})",
    "aten::log1p": "np.log1p({0})",
    "aten::abs": "np.abs({0})",
    "aten::minimum": "np.minimum({0}, {1})",
    "aten::maximum": "np.maximum({0}, {1})",
    "aten::clamp": "np.clip({0}, {1}, {2})",
    "aten::matmul": "{0} @ {1}",
    "aten::ones_like": "np.ones_like({0})",
    "aten::unsqueeze": "np.expand_dims({0}, {1})",
    "aten::select": "np.take({0}, {2}, {1})",
    "aten::slice": "sliced({0}, {1}, {2}, {3}, {4})",
    "aten::index": "indexed({0}, {1})",
    "aten::size": "{0}.shape[{1}]",
    "aten::triu_indices": "np.array(np.triu_indices({0}, {2}, {1}))",
    "aten::unbind": "np.moveaxis({0}, {1}, 0)",
    "aten::broadcast_tensors": "np.broadcast_arrays(*{0})",
    "aten::stack": "stacked({0}, {1})",
    "aten::cat": "np.concatenate({0}, {1})",
    "prim::NumToTensor": "{0}",
    "aten::Int": "{0}",
    "prim::ListConstruct": "[{all}]",
    "prim::TupleConstruct": "({all},)",
}


def replayed(function: Callable[[Tensor], Tensor], samples: list[Tensor]) -> Function | None:
    """Return ``function`` on float64 arrays, or None where it does what is not known here or differs on a sample."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that checks of values are not recorded is what is wanted
        graph: Any = torch.jit.trace(function, (samples[0],), check_trace=False).inlined_graph
        torch._C._jit_pass_constant_propagation(graph)
        torch._C._jit_pass_cse(graph)
        try:
            found = _translated(graph)
            same = all(np.allclose(found(x.numpy()), function(x).numpy(), rtol=1e-12, atol=1e-12) for x in samples)
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return found if same else None


def _translated(graph: Any) -> Function:
    """Return the graph as a Python function; only what its output needs is translated."""
    makers = {value.debugName(): node for node in graph.nodes() for value in node.outputs()}
    names = {value.debugName(): f"x{i}" for i, value in enumerate([*graph.inputs(), *(v for n in graph.nodes() for v in n.outputs())])}
    constants: dict[str, Any] = {"np": np, "stacked": _stacked, "sliced": _sliced, "indexed": _indexed}
    lines: dict[str, None] = {}  # in order, each once

    def need(value: Any) -> str:
        name: str = names[value.debugName()]
        node = makers.get(value.debugName())
        if node is None:  # the argument
            return name
        if node.kind() == "prim::Constant":
            held = value.toIValue()
            constants[name] = held.numpy() if isinstance(held, Tensor) else held
            return name
        if node.kind() == "aten::to":  # between floating types and devices: all is float64 here
            return need(next(node.inputs()))
        if node.kind() == "prim::ListUnpack":
            targets = ", ".join(names[v.debugName()] for v in node.outputs())
            lines[f"[{targets}] = {need(next(node.inputs()))}"] = None
            return name
        arguments = [need(argument) for argument in node.inputs()]
        lines[f"{name} = {_TEXT[node.kind()].format(*arguments, all=', '.join(arguments))}"] = None
        return name

    last = need(next(graph.outputs()))
    (first,) = (names[v.debugName()] for v in graph.inputs() if v.debugName() in names and v.type().kind() == "TensorType")
    body = "".join(f"    {line}\n" for line in lines)
    exec(f"def replay({first}):\n{body}    return {last}\n", constants)
    result: Function = constants["replay"]
    return result


def _stacked(parts: list[np.ndarray], axis: int) -> np.ndarray:
    """`numpy.stack` of equal shapes, without its loops in Python for columns."""
    return np.array(parts).T if parts[0].ndim == 1 and axis in (1, -1) else np.stack(parts, axis)


def _sliced(x: np.ndarray, axis: int, first: int, end: int, step: int) -> np.ndarray:
    return x[(slice(None),) * (axis % x.ndim) + (slice(first, end, step),)]


def _indexed(x: np.ndarray, by: list[np.ndarray | None]) -> np.ndarray:
    return x[tuple(slice(None) if i is None else i for i in by)]
