"""The checks at the door: every public function refuses bad numbers here, in one sentence.

A message names the quantity, the rule, the unit and the value given: ``maturity must be positive (years); got -1.0``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Number = float | Tensor | np.ndarray | list[float] | tuple[float, ...]
Rule = Literal["finite", "positive", "non-negative", "in (0, 1)", "in (-1, 1)"]

_HOLDS: dict[Rule, Callable[[Tensor], Tensor]] = {
    "finite": torch.isfinite,
    "positive": lambda x: torch.isfinite(x) & (x > 0),
    "non-negative": lambda x: torch.isfinite(x) & (x >= 0),
    "in (0, 1)": lambda x: (x > 0) & (x < 1),
    "in (-1, 1)": lambda x: x.abs() < 1,
}


def real(name: str, value: Number, rule: Rule = "finite", unit: str = "", remedy: str = "") -> Tensor:
    """Return ``value`` as a real floating tensor (float64 unless it is one already), or refuse it.

    Shape: any, but not empty.  Gradients flow through a tensor that is given.

    Raises
    ------
    TypeError
        not a real number or an array of them.
    ValueError
        empty, or an entry breaks ``rule``; the first such entry is shown.
    """
    tensor = value if isinstance(value, Tensor) else _tensor(name, value)
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must be real; got {tensor.dtype}")
    if tensor.numel() == 0:
        raise ValueError(f"{name} must not be empty; got shape {tuple(tensor.shape)}")
    tensor = tensor if tensor.is_floating_point() else tensor.double()
    holds = _HOLDS[rule](tensor)
    if not bool(holds.all()):
        bad = tensor.detach()[~holds].flatten()[0].item()
        raise ValueError(f"{name} must be {rule}{f' ({unit})' if unit else ''}; got {bad}{f': {remedy}' if remedy else ''}")
    return tensor


def _tensor(name: str, value: object) -> Tensor:
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unequal length
        array = np.asarray(None)
    if array.size and array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be a number or an array of numbers; got {value!r}")
    return torch.as_tensor(array.astype(np.float64))


def count(name: str, value: int, least: int = 1) -> int:
    """Return ``value`` as an int of at least ``least``, or refuse it (``TypeError``, ``ValueError``)."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a whole number; got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")
    return int(value)


def one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is among ``choices``, or refuse it with the list (``ValueError``)."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
    return value
