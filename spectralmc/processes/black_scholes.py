"""Geometric Brownian motion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spectralmc.processes.base import Increment, Scheme, State, column
from spectralmc.validation import Number, real


def _exact(process: BlackScholes, state: State, dt: Tensor, normals: Tensor) -> Increment:
    """The exact Gaussian increment of ln S."""
    variance = column(process.volatility, dt) ** 2 * dt
    return Increment((), -variance / 2, variance, variance)


def _euler(process: BlackScholes, state: State, dt: Tensor, normals: Tensor) -> State:
    """Euler–Maruyama on S itself, S ← S(1 + σ√Δt Z), kept positive; on ln S the Euler scheme would be exact."""
    (x,) = state
    growth = 1 + column(process.volatility, x) * dt.sqrt() * normals[0]
    return (x + torch.log(growth.clamp(min=torch.finfo(x.dtype).eps)),)


@dataclass(frozen=True)
class BlackScholes:
    r"""Geometric Brownian motion (Black and Scholes 1973), under the forward measure.

    .. math:: dF_t = \sigma F_t\,dW_t, \qquad X_T = \ln(S_T/F_T) \sim N(-\tfrac12\sigma^2T,\ \sigma^2T)

    Parameters
    ----------
    volatility
        σ in (0, ∞), per √year; a number or (B,).

    State: X, (B, N).  Schemes: ``exact`` (no bias), ``euler`` (weak order 1, tested).

    Closed form: :math:`\varphi(u)=\exp(-\tfrac12\sigma^2T(u^2+iu))`.

    References: Black and Scholes (1973), "The pricing of options and corporate liabilities".
    """

    volatility: Number
    lognormal: ClassVar[bool] = True  # so the lognormal laws of functionals are exact, and serve as control variates
    schemes: ClassVar[tuple[Scheme, ...]] = (Scheme("exact", None, math.inf, _exact), Scheme("euler", _euler, 1.0))

    def __post_init__(self) -> None:
        real("volatility", self.volatility, "positive", "per sqrt(year)")

    @property
    def control(self) -> BlackScholes:
        """The control process: itself."""
        return self

    def integrated_variance(self, maturity: Number) -> Tensor:
        """Return σ²T, (B,) or ()."""
        return real("volatility", self.volatility) ** 2 * real("maturity", maturity, "positive", "years")

    def features(self, maturity: Number) -> Tensor:
        """Return ln(σ√T), (B, 1): the law of X depends on nothing else."""
        return torch.log(self.integrated_variance(maturity))[..., None] / 2

    def characteristic_function(self, frequency: Tensor, maturity: Number) -> Tensor:
        """Return φ(u) of X = ln(S_T/F_T) at ``frequency`` (K,) or (B, K), real or complex: (K,) or (B, K)."""
        u = torch.as_tensor(frequency)
        return torch.exp(-self.integrated_variance(maturity)[..., None] / 2 * (u * u + 1j * u))
