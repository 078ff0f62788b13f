"""Baskets of several assets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spectralmc.processes import TimeGrid
from spectralmc.validation import real


@dataclass(frozen=True)
class _Weighted:
    """The price at maturity of a basket, of each asset one share of today's value."""

    weights: tuple[float, ...]
    depends_on_carry: ClassVar[bool] = False  # all assets grow at one carry

    def __post_init__(self) -> None:
        w = real("weights", self.weights, "positive", "share of today's value")
        if w.ndim != 1 or abs(float(w.sum()) - 1) > 1e-6:
            raise ValueError(f"weights must be (A,) and sum to 1 (shares of today's value); got {self.weights}: divide them by their sum")
        object.__setattr__(self, "weights", tuple(w.tolist()))

    @property
    def assets(self) -> int:
        """A: only a process with as many assets will do."""
        return len(self.weights)

    def start(self, zeros: Tensor) -> Tensor:
        """Return the accumulator before the first fixing."""
        return zeros

    def update(self, accumulator: Tensor, log_price: Tensor) -> Tensor:
        """Keep the last prices of the assets, (A, B, N)."""
        return log_price

    def _column(self, like: Tensor) -> Tensor:
        return torch.tensor(self.weights, dtype=like.dtype)[:, None, None]


class Basket(_Weighted):
    r"""The arithmetic basket at maturity, :math:`\sum_a w_a S_{a,T}/S_{a,0}` on a unit value today.

    Parameters
    ----------
    weights
        w_a, (A,): shares of today's value, positive, of sum 1.

    Raises
    ------
    ValueError
        weights that are not positive shares.
    """

    def finish(self, accumulator: Tensor, steps: int) -> Tensor:
        """Return the logarithm of the weighted mean."""
        return torch.logsumexp(accumulator + torch.log(self._column(accumulator)), 0)

    def forward(self, grid: TimeGrid, carry: Tensor) -> Tensor:
        """Return E[basket] on a unit value today, e^{bT}, (B,) or ()."""
        return torch.exp(carry * grid.times()[..., -1])

    @property
    def control(self) -> GeometricBasket:
        """The control variate: the geometric basket of the same weights."""
        return GeometricBasket(self.weights)


class GeometricBasket(_Weighted):
    r"""The geometric basket at maturity, :math:`\prod_a (S_{a,T}/S_{a,0})^{w_a}`.

    Parameters
    ----------
    weights
        w_a, (A,): shares of today's value, positive, of sum 1.

    Raises
    ------
    ValueError
        weights that are not positive shares.
    """

    def finish(self, accumulator: Tensor, steps: int) -> Tensor:
        """Return the weighted mean of the logarithms."""
        return (self._column(accumulator) * accumulator).sum(0)

    @property
    def control(self) -> GeometricBasket:
        """The control variate: itself, lognormal under Black–Scholes."""
        return self

    def lognormal_law(self, variance: Tensor, grid: TimeGrid, carry: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return mean and variance of the logarithm under Black–Scholes, each (B,) or ().

        With the covariance C of the logarithms at maturity as ``variance``, (…, A, A): :math:`bT-\tfrac12\sum_a w_aC_{aa}` and
        :math:`w^\top Cw`.
        """
        w = torch.tensor(self.weights, dtype=variance.dtype)
        diagonal = torch.diagonal(variance, dim1=-2, dim2=-1)
        return carry * grid.times()[..., -1] - diagonal @ w / 2, (variance @ w) @ w
