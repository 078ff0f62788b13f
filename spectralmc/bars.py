"""Error bars of learned prices: how wide they are where, as held-out labels showed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spectralmc.problem import quadratic

WIDEST = 3.0  # ln(K/F)/s, on both sides, beyond which bars are as wide as there


@dataclass(frozen=True)
class ErrorBars:
    """The half-width of an error bar in standard deviations of the outcome: factor · exp(q₀(x) + y·q₁(x) + c·y²).

    x are the features, y = ln(K/F)/s, q₀ and q₁ quadratic.

    Attributes
    ----------
    coefficients
        of the logarithm of the typical error, (terms,).
    low, high
        the values that logarithm may take, ().
    factor
        what makes the bars cover the stated share of held-out errors, ().
    """

    coefficients: Tensor
    low: Tensor
    high: Tensor
    factor: Tensor

    def __call__(self, features: Tensor, distance: Tensor) -> Tensor:
        """Return the half-width for standardised features (B, P) and distances ln(K/F)/s (B, L): (B, L)."""
        return self.factor * torch.exp(self.log_scale(features, distance))

    def log_scale(self, features: Tensor, distance: Tensor) -> Tensor:
        """Return the logarithm of the typical error, (B, L)."""
        values: Tensor = coordinates(features, distance) @ self.coefficients
        return torch.minimum(torch.maximum(values, self.low), self.high)


def coordinates(features: Tensor, distance: Tensor) -> Tensor:
    """Return q(x), y·q(x) and y² for features (B, P) and clipped distances (B, L), q the monomials up to degree two: (B, L, terms)."""
    y = distance.clamp(-WIDEST, WIDEST)[..., None]
    monomials = quadratic(features)[:, None].expand(-1, y.shape[1], -1)
    return torch.cat([monomials, y * monomials, y * y], -1)
