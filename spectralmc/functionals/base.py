"""What a functional is, and its expectation where one is known."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from spectralmc.processes import TimeGrid


class Functional(Protocol):
    """Accumulates one number a path.

    ``start(zeros)`` makes the accumulator from a tensor of zeros, ``update(accumulator, log_price)`` takes one fixing, (B, N), or
    (A, B, N) of a process with A assets, and ``finish(accumulator, steps)`` returns ln(outcome/S₀), (B, N): alone, or with the weight in
    [0, 1] of the path's outcome, (B, N), the rest of which sits in the atom.
    """

    def start(self, zeros: Tensor) -> Any:
        """Return the accumulator before the first fixing."""
        ...

    def update(self, accumulator: Any, log_price: Tensor) -> Any:
        """Return the accumulator after one more fixing."""
        ...

    def finish(self, accumulator: Any, steps: int) -> Tensor | tuple[Tensor, Tensor]:
        """Return ln(outcome/S₀), or that and its weight."""
        ...


def expected_outcome(functional: Any, process: Any, grid: TimeGrid, carry: Tensor) -> Tensor | None:
    """Return E[outcome]/S₀, (B,) or (), where a formula is known: the functional's own, or its lognormal law under a lognormal process."""
    if hasattr(functional, "forward"):
        return torch.as_tensor(functional.forward(grid, carry))
    if getattr(process, "lognormal", False) and hasattr(functional, "lognormal_law"):
        mean, variance = functional.lognormal_law(process.integrated_variance(grid.maturity), grid, carry)
        return torch.exp(mean + variance / 2)
    return None


def refuse_other(given: Any) -> None:
    """Raise a ``TypeError`` for what is not a functional: the class in the place of an object, a name, a list."""
    if isinstance(given, type):
        raise TypeError(f"a functional must be an object; got the class {given.__name__}: give {given.__name__}()")
    if not all(hasattr(given, name) for name in ("start", "update", "finish")):
        raise TypeError(f"a functional must be an object with start, update and finish (several: a tuple of them); got {given!r}")
