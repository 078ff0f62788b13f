"""The gamma law by inversion: its quantile at Φ(z), monotone in the normal z, so that Sobol points and bridges serve it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SMALL = 0.1  # below it the power series, above it the library's incomplete gamma functions


def log_gamma_quantile(shape: Tensor, z: Tensor) -> Tensor:
    r"""Return ln x with :math:`P(a,x)=\Phi(z)`, P the regularised lower incomplete gamma function.

    Halley's iteration in ln x on ln P or ln(1 − P), whichever keeps its digits; both are concave in ln x.  For a small shape most of the
    law lies where x itself underflows, hence the logarithm.

    Shapes: ``shape`` a > 0 and ``z`` broadcast; double precision comes back.

    Accuracy: ln x to 1e-12, absolute where |ln x| < 1, else relative, for a in [1e-3, 1e3] and |z| ≤ 8 (tested).

    References: DiDonato and Morris (1986), "Computation of the incomplete gamma function ratios and their inverse".
    """
    a, normal = torch.broadcast_tensors(shape.double(), z.double())
    below = (torch.special.log_ndtr(normal) + torch.lgamma(a + 1)) / a  # of P ≤ x^a/Γ(a + 1): never right of the root
    upper = (normal > 0) & (below > math.log(_SMALL))
    target = torch.special.log_ndtr(torch.where(upper, -normal, normal))
    y = _start(a, normal, below, upper, target)
    for _ in range(40):
        step = _halley(a, y, upper, target)
        y = y + step
        if bool((step.abs() <= 1e-5).all()):  # the next one would be of the order of its cube
            break
    return y


def _start(a: Tensor, z: Tensor, below: Tensor, upper: Tensor, target: Tensor) -> Tensor:
    """Wilson and Hilferty's (1931) cube where it is good; else a bound from whose side Newton's iteration is monotone."""
    cube = 1 - 1 / (9 * a) + z / (3 * torch.sqrt(a))
    right = torch.log(a + torch.sqrt(-2 * a * target) - target)  # Laurent and Massart (2000), lemma 1
    return torch.where((a > 1) & (cube > 0.2), torch.log(a * cube.clamp(min=0.2) ** 3), torch.where(upper, right, below))


def _halley(a: Tensor, y: Tensor, upper: Tensor, target: Tensor) -> Tensor:
    x = torch.exp(y)
    density = torch.exp(a * y - x - torch.lgamma(a))  # of ln x
    logarithm = _log_probability(a, y, x, upper)
    sign = torch.where(upper, -1.0, 1.0)
    slope = sign * density * torch.exp(-logarithm)
    newton = (target - logarithm) / slope
    curvature = newton * (a - x - slope) / 2  # half of f''/f' of the logarithm, times the step
    return newton / (1 + curvature).clamp(0.5, 2.0)


def _log_probability(a: Tensor, y: Tensor, x: Tensor, upper: Tensor) -> Tensor:
    """Return ln P(a, x), or ln(1 − P(a, x)) where ``upper``."""
    series, term = torch.ones_like(x), torch.ones_like(x)
    small = x.clamp(max=_SMALL)
    for n in range(1, 11):
        term = term * (-small / n)
        series = series + term * a / (a + n)
    lower = a * y - torch.lgamma(a + 1) + torch.log(series)
    large = x.clamp(min=_SMALL)
    by_series = torch.where(upper, torch.log(-torch.expm1(lower.clamp(max=-1e-300))), lower)
    by_library = torch.log(torch.where(upper, torch.special.gammaincc(a, large), torch.special.gammainc(a, large)))
    return torch.where(x < _SMALL, by_series, by_library)
