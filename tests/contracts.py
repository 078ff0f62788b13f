"""The laws of a characteristic function, the same for an exact, an empirical and a learned one.

Each law takes φ and how far from the truth its values may be, entry by entry: rounding for an exact or plain empirical φ, the stated
error for a learned one.  A new source of φ joins `laws` in test_distribution.py and is held to all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spectralmc.distribution import Distribution


@dataclass(frozen=True)
class Law:
    """A named φ of X, the standard deviation of X, and the error its values may carry at real u."""

    name: str
    phi: Callable[[Tensor], Tensor]
    scale: float
    error: Callable[[Tensor], Tensor]

    @property
    def frequency(self) -> Tensor:
        """Real frequencies from far left to far right, zero among them."""
        return torch.linspace(-8, 8, 65, dtype=torch.float64) / self.scale


def starts_at_one(law: Law) -> None:
    """φ(0) = 1."""
    zero = torch.zeros(1, dtype=torch.float64)
    assert float((law.phi(zero) - 1).abs()) <= float(law.error(zero))


def is_bounded(law: Law) -> None:
    """|φ(u)| ≤ 1, and below 1 somewhere."""
    size = law.phi(law.frequency).abs()
    assert bool((size <= 1 + law.error(law.frequency)).all())
    assert float(size.min()) < 0.5


def is_hermitian(law: Law) -> None:
    """φ(−u) is the conjugate of φ(u), whatever else is wrong with φ."""
    phi = law.phi(law.frequency)
    assert float((phi.flip(0) - phi.conj()).abs().max()) <= float(law.error(torch.zeros(1, dtype=torch.float64)))


def is_positive_semidefinite(law: Law, size: int = 12) -> None:
    """[φ(u_i − u_j)] has no negative eigenvalue (Bochner), but for the norm that its entries' errors allow."""
    u = torch.arange(size, dtype=torch.float64) * (0.5 / law.scale)
    lags = u[:, None] - u
    matrix = law.phi(lags.flatten()).reshape(size, size)
    allowed = torch.linalg.matrix_norm(law.error(lags.flatten()).reshape(size, size))
    assert float(torch.linalg.eigvalsh((matrix + matrix.mH) / 2)[0]) >= -float(allowed)


LAWS = (starts_at_one, is_bounded, is_hermitian, is_positive_semidefinite)


def is_martingale(distribution: Distribution, tolerance: float) -> None:
    """φ(−i) = E[e^X] = 1 on the series, the atom included."""
    top = (distribution.location + distribution.grid.half_width * distribution.scale)[..., None]
    part = distribution.partial_expectation((top - distribution.location[..., None]) / distribution.scale[..., None], distribution.scale)[
        ..., 0
    ]
    mean = distribution.mass * torch.exp(distribution.location) * part + (1 - distribution.mass) * torch.exp(distribution.atom)
    assert float((mean - 1).abs().max()) <= tolerance
