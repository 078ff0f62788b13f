"""The price at maturity, and the averages of the fixings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spectralmc.processes import TimeGrid


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

    def forward(self, grid: TimeGrid, carry: Tensor) -> Tensor:
        """Return E[S_T]/S₀ = e^{bT}, (B,) or ()."""
        return torch.exp(carry * grid.times()[..., -1])

    def linear_weights(self, steps: int) -> Tensor:
        """Return a_i of ln(S_T/S₀) = Σ a_i Y_{t_i}, (M,): the last alone."""
        return torch.eye(steps, dtype=torch.float64)[-1]

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
        """Return a_i of ln(G/S₀) = Σ a_i Y_{t_i}, (M,): 1/M each."""
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

    @property
    def lognormal_match(self) -> AverageMatch:
        """The lognormal law with the first two moments of the average, where ln S is a Gaussian walk."""
        return AverageMatch()


class AverageMatch:
    r"""The lognormal law that has the first two moments of :math:`A=\frac1M\sum_i e^{Y_i}`, Y a Gaussian walk (Levy 1992).

    With :math:`m_i, v_i` mean and variance of :math:`Y_i`, the covariance of :math:`Y_i, Y_j` for i < j is :math:`v_i`:
    :math:`M^2E[A^2]=\sum_j e_j(e_je^{v_j}+2\sum_{i<j}e_ie^{v_i})` with :math:`e_i=e^{m_i+v_i/2}`.
    """

    def start(self, zeros: Tensor) -> tuple[Tensor, ...]:
        """Return the accumulator before the first fixing."""
        return zeros, zeros, zeros

    def update(self, accumulator: tuple[Tensor, ...], mean: Tensor, variance: Tensor) -> tuple[Tensor, ...]:
        """Add a fixing whose logarithm has this mean and variance."""
        first, second, earlier = accumulator
        price = torch.exp(torch.add(mean, variance, alpha=0.5))
        tilted = price * torch.exp(variance)
        return first + price, torch.addcmul(second, price, torch.add(tilted, earlier, alpha=2)), earlier + tilted

    def finish(self, accumulator: tuple[Tensor, ...], steps: int) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the logarithm."""
        first, second, _ = accumulator
        variance = torch.log(second / first.square()).clamp(min=0)
        return torch.log(first / steps) - variance / 2, variance
