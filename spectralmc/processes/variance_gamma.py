"""The variance gamma process."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spectralmc.processes.base import Increment, Scheme, State, column
from spectralmc.processes.gamma import log_gamma_quantile
from spectralmc.validation import Number, real


def _exact(process: VarianceGamma, state: State, dt: Tensor, normals: Tensor) -> Increment:
    """The increment given the gamma time, which is drawn by inversion: Gaussian, and exact."""
    sigma, theta, nu = (column(p, dt) for p in (process.volatility, process.drift, process.variance_rate))
    time = nu * torch.exp(log_gamma_quantile(dt / nu, normals[0])).to(dt.dtype)
    drift = torch.log1p(-nu * (theta + sigma**2 / 2)) / nu
    return Increment((), theta * time + drift * dt, sigma**2 * time)


@dataclass(frozen=True)
class VarianceGamma:
    r"""Brownian motion with drift at a gamma time (Madan, Carr and Chang 1998), under the forward measure.

    .. math:: X_T = \omega T + \theta G_T + \sigma W_{G_T}, \qquad G_T \sim \Gamma(T/\nu,\ \nu), \qquad
              \omega = \tfrac1\nu\ln\left(1-\theta\nu-\tfrac12\sigma^2\nu\right)

    Parameters
    ----------
    volatility
        σ in (0, ∞), per √year; a number or (B,), as all of them.
    drift
        θ, per year, with θν + σ²ν/2 < 1: E[S_T] is infinite otherwise.
    variance_rate
        ν in (0, ∞), years: the variance of the gamma time a year.

    State: X, (B, N); two normals a step, the first that of the gamma time.  Scheme: ``exact`` (no bias).

    Closed form: :math:`\varphi(u)=e^{iu\omega T}\left(1-iu\theta\nu+\tfrac12\sigma^2\nu u^2\right)^{-T/\nu}`; the bracket has a positive
    real part wherever E[e^{iuX}] is finite, so its logarithm stays on the principal branch.

    Limits: ν → 0 is `BlackScholes`.

    References: Madan, Carr and Chang (1998), "The variance gamma process and option pricing", equations 7 and 22.
    """

    volatility: Number
    drift: Number
    variance_rate: Number
    factors: ClassVar[int] = 2
    schemes: ClassVar[tuple[Scheme, ...]] = (Scheme("exact", None, math.inf, _exact),)

    def __post_init__(self) -> None:
        sigma = real("volatility", self.volatility, "positive", "per sqrt(year)")
        theta = real("drift", self.drift, unit="per year")
        nu = real("variance_rate", self.variance_rate, "positive", "years")
        rest = 1 - theta * nu - sigma**2 * nu / 2
        real("1 - drift*variance_rate - volatility**2*variance_rate/2", rest, "positive", remedy="E[S] is infinite; lower variance_rate")

    def integrated_variance(self, maturity: Number) -> Tensor:
        """Return (σ² + νθ²)T, the variance of X, (B,) or ()."""
        sigma, theta, nu = (real(name, value) for name, value in vars(self).items())
        return (sigma**2 + nu * theta**2) * real("maturity", maturity, "positive", "years")

    def features(self, maturity: Number) -> Tensor:
        """Return ln s, ln(ν/T) and θT/s with s² the variance of X, (B, 3): the law of X depends on nothing else."""
        t, s = real("maturity", maturity), torch.sqrt(self.integrated_variance(maturity))
        coordinates = torch.log(s), torch.log(real("variance_rate", self.variance_rate) / t), real("drift", self.drift) * t / s
        return torch.stack(torch.broadcast_tensors(*coordinates), -1)

    def characteristic_function(self, frequency: Tensor, maturity: Number) -> Tensor:
        """Return φ(u) of X = ln(S_T/F_T) at ``frequency`` (K,) or (B, K), real or complex: (K,) or (B, K)."""
        u = torch.as_tensor(frequency)
        t = real("maturity", maturity, "positive", "years")[..., None]
        sigma, theta, nu = (real(name, value)[..., None] for name, value in vars(self).items())
        drift = torch.log1p(-nu * (theta + sigma**2 / 2))
        return torch.exp((1j * u * drift - torch.log1p(nu * (sigma**2 * u * u / 2 - 1j * u * theta))) * t / nu)
