r"""Maximum, minimum, and barriers.

What is watched at the fixings alone misses the extremes between them: with :math:`\beta=-\zeta(\tfrac12)/\sqrt{2\pi}\approx 0.5826`, a
barrier H acts like a continuous one moved away from the price by :math:`e^{\pm\beta\sigma\sqrt{T/M}}`, and a maximum or minimum like the
continuous one moved by as much towards it, up to o(1/√M) (Broadie, Glasserman and Kou 1997, 1999).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from spectralmc.validation import one_of, real


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
        side = 1 if self.direction == "up" else -1
        if level.ndim or side * (float(level) - 1) <= 0:
            rule = "above 1 for direction 'up'" if side == 1 else "below 1 for direction 'down'"
            raise ValueError(f"barrier must be a number {rule} (over today's price); got {self.barrier}: take the other direction")

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
