"""Independent jumps of ln S, which join any process: characteristic functions multiply."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spectralmc.processes.base import Increment, IncrementStep, Scheme, State, column
from spectralmc.validation import Number, real


@dataclass(frozen=True)
class LognormalJumps:
    r"""A compound Poisson process of Gaussian jumps of ln S, compensated so that S stays a martingale (Merton 1976).

    .. math:: J_T = \sum_{j=1}^{N_T} Y_j - \lambda T\left(e^{\mu+\delta^2/2}-1\right), \qquad Y_j \sim N(\mu,\delta^2)

    Parameters
    ----------
    jump_intensity
        λ in [0, ∞), jumps per year; a number or (B,), as all of them.
    jump_mean
        μ, mean of a log-jump.
    jump_volatility
        δ in [0, ∞), standard deviation of a log-jump.

    References: Merton (1976), "Option pricing when underlying stock returns are discontinuous".
    """

    jump_intensity: Number
    jump_mean: Number
    jump_volatility: Number

    def __post_init__(self) -> None:
        real("jump_intensity", self.jump_intensity, "non-negative", "per year")
        real("jump_mean", self.jump_mean)
        real("jump_volatility", self.jump_volatility, "non-negative")

    @property
    def variance(self) -> Tensor:
        """λ(μ² + δ²), the variance of J a year, (B,) or ()."""
        mean, volatility = real("jump_mean", self.jump_mean), real("jump_volatility", self.jump_volatility)
        return real("jump_intensity", self.jump_intensity) * (mean**2 + volatility**2)

    def characteristic_exponent(self, frequency: Tensor) -> Tensor:
        r"""Return ψ(u) of :math:`E[e^{iuJ_T}]=e^{T\psi(u)}` at ``frequency`` (K,) or (B, K), real or complex.

        :math:`\psi(u)=\lambda\left(e^{iu\mu-\delta^2u^2/2}-1-iu(e^{\mu+\delta^2/2}-1)\right)`.
        """
        u = torch.as_tensor(frequency)
        intensity, mean, volatility = (real(name, value)[..., None] for name, value in vars(self).items())
        return intensity * (torch.expm1(1j * u * mean - (u * volatility) ** 2 / 2) - 1j * u * torch.expm1(mean + volatility**2 / 2))

    def thresholds(self, dt: Tensor) -> Tensor:
        """Return z_k, (B, K), such that a step has more than k jumps where its normal exceeds z_k."""
        rate = column(self.jump_intensity, dt.double()) * dt.double()
        most = float(rate.max())
        k = torch.arange(1, math.ceil(most + 9 * math.sqrt(most)) + 25, dtype=torch.float64)
        more = torch.special.gammainc(k, rate)  # P(N ≥ k)
        thresholds: Tensor = -torch.special.ndtri(more[:, (more > 1e-18).any(0)])
        return thresholds

    def join(self, move: Increment, thresholds: Tensor, dt: Tensor, normal: Tensor) -> Increment:
        """Add the jumps of a step: their number by inversion of ``normal``, their Gaussian sum to mean and variance."""
        known = thresholds.to(normal.dtype).expand(len(normal), -1).contiguous()
        number = torch.searchsorted(known, normal.contiguous()).to(normal.dtype)
        intensity, mean, volatility = (column(value, dt) for value in vars(self).values())
        compensation = intensity * dt * torch.expm1(mean + volatility**2 / 2)
        return Increment(move.state, move.mean + (number * mean - compensation), move.variance + number * volatility**2)


def _jumping(step: IncrementStep, process: WithJumps, state: State, dt: Tensor, normals: Tensor) -> Increment:
    """Step the process, then join the jumps; their thresholds ride along in the state, made at the first step."""
    made, *rest = state
    thresholds = made if made.numel() else process.jumps.thresholds(dt)
    move = step(process.process, tuple(rest), dt, normals[:-1])
    return process.jumps.join(move._replace(state=(thresholds, *move.state)), thresholds, dt, normals[-1])


@dataclass(frozen=True)
class WithJumps:
    """A process with independent jumps: their characteristic functions multiply.  Bates (1996) is Heston with lognormal jumps.

    >>> from spectralmc import Heston
    >>> bates = WithJumps(Heston(0.04, 2.0, 0.04, 0.5, -0.7), LognormalJumps(0.3, -0.1, 0.15))
    >>> bates.factors
    3

    Parameters
    ----------
    process
        any process that has a scheme with an increment; what else it offers (closed form, integrated variance, features, control) the
        whole offers too.
    jumps
        the jumps.

    State: X, (B, N), thresholds of the number of jumps in a step, (B, K), then the state of the process.  One normal more a step, the
    last but one, decides that number; their sizes join the asset's normal, so a path remains Gaussian given the other noise.  Schemes:
    those of the process, of the same weak order.

    Limits: λ → 0 is the process.

    References: Bates (1996), "Jumps and stochastic volatility: exchange rate processes implicit in Deutsche Mark options".
    """

    process: Any
    jumps: LognormalJumps

    def __post_init__(self) -> None:
        if not self.schemes:
            raise TypeError(f"jumps join a process that has a scheme with an increment; {type(self.process).__name__} has none")

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """The schemes of the process that have an increment."""
        own: tuple[Scheme, ...] = getattr(self.process, "schemes", ())
        return tuple(Scheme(s.name, None, s.weak_order, functools.partial(_jumping, s.increment)) for s in own if s.increment)

    @property
    def factors(self) -> int:
        """Normals a step."""
        return int(getattr(self.process, "factors", 1)) + 1

    @property
    def lognormal(self) -> bool:
        """Whether ln S is a Gaussian process: without jumps only."""
        return bool(getattr(self.process, "lognormal", False)) and not bool(torch.as_tensor(self.jumps.jump_intensity).any())

    @property
    def control(self) -> WithJumps:
        """The control process: that of the process on the same normals, without jumps."""
        return WithJumps(self.process.control, LognormalJumps(0.0, 0.0, 0.0))

    def start(self, zeros: Tensor) -> State:
        """Return X = 0, no thresholds yet, and the rest of the process's state."""
        x, *rest = self.process.start(zeros) if hasattr(self.process, "start") else (zeros,)
        return x, zeros.new_empty(0), *rest

    def integrated_variance(self, maturity: Number) -> Tensor:
        """Return E∫v dt of the process plus the variance of the jumps, (B,) or ()."""
        own: Tensor = self.process.integrated_variance(maturity)
        return own + self.jumps.variance * real("maturity", maturity)

    def features(self, maturity: Number) -> Tensor:
        """Return the features of the process, then ln(1 + λT), μ/s and δ/s with s² = `integrated_variance`, (B, P)."""
        t, s = real("maturity", maturity), torch.sqrt(self.integrated_variance(maturity))
        intensity, mean, volatility = (real(name, value) for name, value in vars(self.jumps).items())
        columns = self.process.features(t).unbind(-1)
        return torch.stack(torch.broadcast_tensors(*columns, torch.log1p(intensity * t), mean / s, volatility / s), -1)

    def characteristic_function(self, frequency: Tensor, maturity: Number) -> Tensor:
        """Return φ(u) of X = ln(S_T/F_T) at ``frequency`` (K,) or (B, K), real or complex: (K,) or (B, K)."""
        own: Tensor = self.process.characteristic_function(frequency, maturity)
        return own * torch.exp(real("maturity", maturity)[..., None] * self.jumps.characteristic_exponent(frequency))
