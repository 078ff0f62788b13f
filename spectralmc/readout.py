"""The last layer in closed form: least squares of all labels on the last hidden layer, the ridge chosen by held-out prices."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

_RIDGES = (1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
_ROWS = 1 << 12  # summed at once, so that sums have one order


@torch.no_grad()
def refitted(network: nn.Module, inputs: Tensor, labels: Tensor, error: Callable[[], float]) -> tuple[float | None, float]:
    """Replace the readout of ``network`` by the least-squares one with the smallest ``error``; return its ridge and that error.

    None is the readout that the network came with.

    Shapes: inputs (R, P), labels (R, size) complex.
    """
    gram, moment = _normal_equations(network, inputs, labels)
    readout: nn.Module = network.readout  # type: ignore[assignment]
    best, ridge, state = error(), None, deepcopy(readout.state_dict())
    for candidate in _RIDGES:
        _write(readout, np.linalg.solve(gram + candidate * np.diag(np.diag(gram) + 1e-12), moment))
        found = error()
        if found < best:
            best, ridge, state = found, candidate, deepcopy(readout.state_dict())
    readout.load_state_dict(state)
    return ridge, best


def _normal_equations(network: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    sums: list[Tensor] = []
    for x, y in zip(inputs.split(_ROWS), labels.split(_ROWS), strict=True):
        design = _columns(network.hidden(x))  # type: ignore[operator]
        found = design.T @ design, design.T @ torch.cat([y.real, y.imag], 1).double()
        sums = [total + one for total, one in zip(sums, found, strict=True)] if sums else list(found)
    gram, moment = (total.cpu().numpy() for total in sums)
    return gram, moment


def _columns(hidden: Tensor) -> Tensor:
    parts = [hidden.real, hidden.imag] if hidden.is_complex() else [hidden]
    return torch.cat([*parts, torch.ones_like(parts[0][:, :1])], 1).double()


def _write(readout: nn.Module, solution: np.ndarray) -> None:
    """Write a solution (columns, 2·size) into weight and bias."""
    weight: Tensor = readout.weight  # type: ignore[assignment]
    bias: Tensor = readout.bias  # type: ignore[assignment]
    weight.copy_(torch.from_numpy(solution[:-1].T.copy()))
    bias.copy_(torch.from_numpy(solution[-1].copy()))
