"""Merton's jump diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from spectralmc.processes.base import Increment, Scheme, State
from spectralmc.processes.black_scholes import BlackScholes
from spectralmc.processes.jumps import LognormalJumps, WithJumps
from spectralmc.validation import Number


def _exact(process: Merton, state: State, dt: Tensor, normals: Tensor) -> Increment:
    """The increment given the number of jumps, which is exactly Poisson: Gaussian, and exact."""
    increment = process.whole.schemes[0].increment
    assert increment is not None
    return increment(process.whole, state, dt, normals)


@dataclass(frozen=True)
class Merton:
    r"""Geometric Brownian motion with lognormal jumps (Merton 1976), under the forward measure.

    .. math:: X_T = -\tfrac12\sigma^2T + \sigma W_T + \sum_{j=1}^{N_T} Y_j - \lambda T\left(e^{\mu+\delta^2/2}-1\right),
              \qquad N_T \sim \text{Poisson}(\lambda T), \quad Y_j \sim N(\mu,\delta^2)

    Parameters
    ----------
    volatility
        σ in (0, ∞), per √year; a number or (B,), as all of them.
    jump_intensity
        λ in [0, ∞), jumps per year.
    jump_mean
        μ, mean of a log-jump.
    jump_volatility
        δ in [0, ∞), standard deviation of a log-jump.

    State: X, (B, N), and thresholds of the number of jumps in a step, (B, K); two normals a step, the first that of the number.
    Scheme: ``exact`` (no bias).

    Closed form: :math:`\ln\varphi(u)=-\tfrac12\sigma^2T(u^2+iu)+\lambda T\left(e^{iu\mu-\delta^2u^2/2}-1-iu(e^{\mu+\delta^2/2}-1)\right)`.

    Limits: λ → 0 is `BlackScholes`.  It is `WithJumps` of `BlackScholes`.

    References: Merton (1976), "Option pricing when underlying stock returns are discontinuous".
    """

    volatility: Number
    jump_intensity: Number
    jump_mean: Number
    jump_volatility: Number
    whole: WithJumps = field(init=False, repr=False, compare=False)
    factors: ClassVar[int] = 2
    schemes: ClassVar[tuple[Scheme, ...]] = (Scheme("exact", None, math.inf, _exact),)

    def __post_init__(self) -> None:
        jumps = LognormalJumps(self.jump_intensity, self.jump_mean, self.jump_volatility)
        object.__setattr__(self, "whole", WithJumps(BlackScholes(self.volatility), jumps))

    @property
    def control(self) -> WithJumps:
        """The control process: the diffusion alone, on the same normals."""
        return self.whole.control

    def start(self, zeros: Tensor) -> State:
        """Return X = 0 and no thresholds yet."""
        return self.whole.start(zeros)

    def integrated_variance(self, maturity: Number) -> Tensor:
        """Return (σ² + λ(μ² + δ²))T, the variance of X, (B,) or ()."""
        return self.whole.integrated_variance(maturity)

    def features(self, maturity: Number) -> Tensor:
        """Return ln(σ√T), ln(1 + λT), μ/s and δ/s with s² the variance of X, (B, 4): the law of X depends on nothing else."""
        return self.whole.features(maturity)

    def characteristic_function(self, frequency: Tensor, maturity: Number) -> Tensor:
        """Return φ(u) of X = ln(S_T/F_T) at ``frequency`` (K,) or (B, K), real or complex: (K,) or (B, K)."""
        return self.whole.characteristic_function(frequency, maturity)
