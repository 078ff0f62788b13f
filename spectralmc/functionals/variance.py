"""Realised variance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
