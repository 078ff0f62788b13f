"""Path functionals: what becomes of a path, one number each, accumulated while it is stepped.

A functional of your own is a frozen dataclass with ``start``, ``update`` and ``finish``.  Looked for, and used where present:
``forward`` (E[outcome]/S₀), ``control`` and ``lognormal_law`` (the control variate and its law), ``depends_on_carry`` (whether
ln(outcome/E[outcome]) feels the carry), ``linear_weights`` (of an outcome linear in Y, which conditional Monte Carlo needs),
``bridged`` (whether ``update`` also takes the quadratic variation of X over the step) and ``atom`` (ln(outcome/S₀) of the paths that
the weight leaves out; None: they pay nothing).  All work on Y_t = ln(S_t/S₀) at the fixings t_i = iT/M.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from spectralmc.processes import TimeGrid


class Functional(Protocol):
    """Accumulates one number a path.

    ``start(zeros)`` makes the accumulator from a (B, N) tensor of zeros, ``update(accumulator, log_price)`` takes one fixing, and
    ``finish(accumulator, steps)`` returns ln(outcome/S₀), (B, N), or a pair of it and a weight in [0, 1], (B, N): the probability
    that the outcome of the path is not the ``atom``.
    """

    def start(self, zeros: Tensor) -> Any:
        """Return the accumulator before the first fixing."""
        ...

    def update(self, accumulator: Any, log_price: Tensor) -> Any:
        """Return the accumulator after one more fixing."""
        ...

    def finish(self, accumulator: Any, steps: int) -> Tensor | tuple[Tensor, Tensor]:
        """Return ln(outcome/S₀), with a weight or without."""
        ...


def expected_outcome(functional: Any, process: Any, grid: TimeGrid, carry: Tensor) -> Tensor | None:
    """Return E[outcome]/S₀, (B,) or (), where a formula is known: the functional's own, or its lognormal law under a lognormal process."""
    if hasattr(functional, "forward"):
        return torch.as_tensor(functional.forward(grid, carry))
    if getattr(process, "lognormal", False) and hasattr(functional, "lognormal_law"):
        mean, variance = functional.lognormal_law(process.integrated_variance(grid.maturity), grid, carry)
        return torch.exp(mean + variance / 2)
    return None


@dataclass(frozen=True)
class Terminal:
    """The price at maturity, S_T."""

    depends_on_carry: ClassVar[bool] = False  # ln(S_T/F_T) does not

    def start(self, zeros: Tensor) -> Tensor:
        """Return the accumulator before the first fixing."""
        return zeros

    def update(self, accumulator: Tensor, log_price: Tensor) -> Tensor:
        """Keep the last price."""
        return log_price

    def finish(self, accumulator: Tensor, steps: int) -> Tensor:
        """Return ln(S_T/S₀)."""
        return accumulator

    def linear_weights(self, steps: int) -> Tensor:
        """Return a_i of ln(outcome/S₀) = Σ a_i Y_{t_i}, (M,): the last fixing alone."""
        return torch.eye(steps, dtype=torch.float64)[-1]

    def forward(self, grid: TimeGrid, carry: Tensor) -> Tensor:
        """Return E[S_T]/S₀ = e^{bT}, (B,) or ()."""
        return torch.exp(carry * grid.times()[..., -1])

    @property
    def control(self) -> Terminal:
        """The control variate: itself, lognormal under Black–Scholes."""
        return self

    def lognormal_law(self, variance: Tensor, grid: TimeGrid, carry: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of ln(S_T/S₀) under Black–Scholes with σ²T = ``variance``, each (B,) or ()."""
        return carry * grid.times()[..., -1] - variance / 2, variance


@dataclass(frozen=True)
class GeometricAverage:
    """The geometric average of the fixings, (∏ S_{t_i})^{1/M}."""

    def start(self, zeros: Tensor) -> Tensor:
        """Return the accumulator before the first fixing."""
        return zeros

    def update(self, accumulator: Tensor, log_price: Tensor) -> Tensor:
        """Add the logarithm."""
        return accumulator + log_price

    def finish(self, accumulator: Tensor, steps: int) -> Tensor:
        """Return the mean of the logarithms."""
        return accumulator / steps

    def linear_weights(self, steps: int) -> Tensor:
        """Return a_i of ln(outcome/S₀) = Σ a_i Y_{t_i}, (M,): 1/M."""
        return torch.full((steps,), 1 / steps, dtype=torch.float64)

    @property
    def control(self) -> GeometricAverage:
        """The control variate: itself, lognormal under Black–Scholes."""
        return self

    def lognormal_law(self, variance: Tensor, grid: TimeGrid, carry: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return mean and variance of ln(G/S₀) under Black–Scholes with σ²T = ``variance``, each (B,) or ().

        With b the carry, :math:`(bT-\tfrac12\sigma^2T)\frac{M+1}{2M}` and :math:`\sigma^2T\frac{(M+1)(2M+1)}{6M^2}` (Kemna and Vorst
        1990, discrete fixings).
        """
        m = grid.steps
        mean_time = (m + 1) / (2 * m)
        drift = carry * grid.times()[..., -1] - variance / 2
        return drift * mean_time, variance * ((m + 1) * (2 * m + 1) / (6 * m * m))


@dataclass(frozen=True)
class ArithmeticAverage:
    """The arithmetic average of the fixings, (1/M) Σ S_{t_i}."""

    def start(self, zeros: Tensor) -> Tensor:
        """Return the accumulator before the first fixing."""
        return zeros

    def update(self, accumulator: Tensor, log_price: Tensor) -> Tensor:
        """Add the price."""
        return accumulator + torch.exp(log_price)

    def finish(self, accumulator: Tensor, steps: int) -> Tensor:
        """Return the logarithm of the mean."""
        return torch.log(accumulator / steps)

    def forward(self, grid: TimeGrid, carry: Tensor) -> Tensor:
        """Return E[A]/S₀ = (1/M) Σ e^{b t_i}, (B,) or ()."""
        return torch.exp(carry[..., None] * grid.times()).mean(-1)

    @property
    def control(self) -> GeometricAverage:
        """The control variate: the geometric average of the same fixings."""
        return GeometricAverage()
