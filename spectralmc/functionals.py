r"""Path functionals: what becomes of a path, one number each, accumulated while it is stepped.

A functional of your own is a frozen dataclass with ``start``, ``update`` and ``finish``.  Looked for, and used where present:

* ``forward`` (E[outcome]/S₀), ``control`` and ``lognormal_law`` (the control variate and its law), and ``depends_on_carry`` (whether
  ln(outcome/E[outcome]) feels the carry);
* ``linear_weights(steps)``, the (M,) numbers a_i of an outcome whose logarithm is Σ a_i Y_{t_i}: its law given the variance is Gaussian;
* ``atom``, ln(outcome/S₀) of the paths that a weight below 1 takes out of the continuous part (None: they pay nothing);
* ``bridged``, whether ``update`` also takes the quadratic variation over the step, to weigh what happens between the fixings.

All work on Y_t = ln(S_t/S₀) at the fixings t_i = iT/M.

What is watched at the fixings alone misses the extremes between them: with :math:`\beta=-\zeta(\tfrac12)/\sqrt{2\pi}\approx 0.5826`, a
barrier H acts like a continuous one moved away from the price by :math:`e^{\pm\beta\sigma\sqrt{T/M}}`, and a maximum or minimum like the
continuous one moved by as much towards it, up to o(1/√M) (Broadie, Glasserman and Kou 1997, 1999).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from spectralmc.processes import TimeGrid
from spectralmc.validation import one_of, real


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


@dataclass(frozen=True)
class Maximum:
    """The highest price of today and the fixings, max(S₀, S_{t_1}, …, S_{t_M}).

    A path that never rises above today's price sits in the atom S₀.
    """

    atom: ClassVar[float] = 0.0

    def start(self, zeros: Tensor) -> Tensor:
        """Return the accumulator before the first fixing: today's price."""
        return zeros

    def update(self, accumulator: Tensor, log_price: Tensor) -> Tensor:
        """Keep the higher price."""
        return torch.maximum(accumulator, log_price)

    def finish(self, accumulator: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return ln(max S/S₀), and 1 where it is above today's price, else 0."""
        return accumulator, (accumulator > 0).to(accumulator)


@dataclass(frozen=True)
class Minimum:
    """The lowest price of today and the fixings, min(S₀, S_{t_1}, …, S_{t_M}).

    A path that never falls below today's price sits in the atom S₀.
    """

    atom: ClassVar[float] = 0.0

    def start(self, zeros: Tensor) -> Tensor:
        """Return the accumulator before the first fixing: today's price."""
        return zeros

    def update(self, accumulator: Tensor, log_price: Tensor) -> Tensor:
        """Keep the lower price."""
        return torch.minimum(accumulator, log_price)

    def finish(self, accumulator: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return ln(min S/S₀), and 1 where it is below today's price, else 0."""
        return accumulator, (accumulator < 0).to(accumulator)


@dataclass(frozen=True)
class KnockOut:
    r"""The price at maturity unless a barrier was touched; a path that touched it pays nothing.

    Parameters
    ----------
    barrier
        H/S₀, over today's price: above 1 for ``up``, in (0, 1) for ``down``.
    direction
        ``up`` or ``down``: on which side of the price the barrier lies.
    monitoring
        ``continuous``: between two fixings a path of quadratic variation q survives with the probability that a Brownian bridge does not
        cross, :math:`1-\exp(-2(h-y_0)(h-y_1)/q)` with h = ln(H/S₀), and its weight is the product; without bias where the logarithm
        is Brownian given q.  ``fixings``: the weight is 1 if the barrier lies beyond every fixing, else 0.

    Raises
    ------
    ValueError
        a barrier on the wrong side of today's price; another direction or monitoring.

    References: Beaglehole, Dybvig and Zhou (1997), "Going to extremes: correcting simulation bias in exotic option valuation".
    """

    barrier: float
    direction: Literal["up", "down"]
    monitoring: Literal["continuous", "fixings"] = "continuous"
    atom: ClassVar[None] = None

    def __post_init__(self) -> None:
        one_of("direction", self.direction, ("up", "down"))
        one_of("monitoring", self.monitoring, ("continuous", "fixings"))
        level = real("barrier", self.barrier, "positive", "over today's price")
        if level.ndim or (float(level) > 1) != (self.direction == "up") or float(level) == 1:
            side, other = ("above", "down") if self.direction == "up" else ("below", "up")
            raise ValueError(
                f"barrier must be a number {side} 1 (over today's price) for direction {self.direction!r}; got {self.barrier}: "
                f"use direction {other!r} for the other side"
            )

    @property
    def bridged(self) -> bool:
        """Whether ``update`` takes the quadratic variation over the step."""
        return self.monitoring == "continuous"

    def start(self, zeros: Tensor) -> tuple[Tensor, Tensor]:
        """Return the accumulator before the first fixing: the price and the weight."""
        return zeros, zeros + 1

    def update(
        self, accumulator: tuple[Tensor, Tensor], log_price: Tensor, quadratic_variation: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Keep the price, multiply the weight by the probability of not touching the barrier over the step."""
        before, weight = accumulator
        gap = self._gap(log_price)
        if quadratic_variation is None:
            return log_price, weight * (gap > 0)
        product = self._gap(before) * gap
        tiny = torch.finfo(product.dtype).tiny  # a step without variation crosses nothing
        return log_price, weight * -torch.expm1(-2 * product / quadratic_variation.clamp(min=tiny))

    def _gap(self, log_price: Tensor) -> Tensor:
        """Return the distance left to the barrier, 0 beyond it."""
        distance = math.log(self.barrier) - log_price
        return (distance if self.direction == "up" else -distance).clamp(min=0)

    def finish(self, accumulator: tuple[Tensor, Tensor], steps: int) -> tuple[Tensor, Tensor]:
        """Return ln(S_T/S₀) and the weight."""
        return accumulator


@dataclass(frozen=True)
class RealizedVariance:
    r"""The realised variance over the life, :math:`\sum_{i=1}^{M}\ln^2(S_{t_i}/S_{t_{i-1}})`: a pure number, not annualised.

    Divided by T it is per year.  Its drift of order 1/M is that of the forward.
    """

    def start(self, zeros: Tensor) -> tuple[Tensor, Tensor]:
        """Return the accumulator before the first fixing: the last price and the sum."""
        return zeros, zeros

    def update(self, accumulator: tuple[Tensor, Tensor], log_price: Tensor) -> tuple[Tensor, Tensor]:
        """Add the squared log return."""
        before, total = accumulator
        return log_price, total + (log_price - before) ** 2

    def finish(self, accumulator: tuple[Tensor, Tensor], steps: int) -> Tensor:
        """Return the logarithm of the sum."""
        return torch.log(accumulator[1])


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

    def start(self, zeros: Tensor) -> Tensor:
        """Return the accumulator before the first fixing."""
        return zeros

    def update(self, accumulator: Tensor, log_price: Tensor) -> Tensor:
        """Keep the last prices of the assets, (A, B, N)."""
        if log_price.ndim != 3 or len(log_price) != len(self.weights):
            assets = len(log_price) if log_price.ndim == 3 else 1
            raise ValueError(f"weights of a {type(self).__name__} must be one for each asset; got {len(self.weights)} for {assets}")
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
        weights that are not positive shares; another number of assets.
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
        weights that are not positive shares; another number of assets.
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
