"""Heston's stochastic volatility."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spectralmc.processes.base import Increment, Scheme, State, column
from spectralmc.validation import Number, real

_SWITCH = 4 / 3  # of 2m²/s²: ψ = s²/m² = 1.5 (Andersen 2008, section 3.2.3)


def _coefficients(process: Heston, dt: Tensor, dtype: torch.dtype) -> Tensor:
    r"""Return what a step needs besides v and Z, (14, B, 1): a + bv for five moments given v, and four numbers for X.

    The moments, exact, of v' and of I = ∫v dt: E v', ½Var v', E I, ½Cov(I, v'), Var I; integrals over the step of
    Var(v_s|v) = (ξ²/κ)(e^{−κs} − e^{−2κs})v + (θξ²/2κ)(1 − e^{−κs})².  In double precision: differences of order (κΔ)³ are taken here.
    """
    step = dt.double()
    parameters = process.mean_reversion, process.long_run_variance, process.vol_of_variance, process.correlation
    kappa, theta, xi, rho = (column(p, step) for p in parameters)
    x = kappa * step
    e, a = torch.exp(-x), -torch.expm1(-x) / x  # a = ∫e^{−κs}ds / Δ
    y = x.clamp(min=1e-4)  # ratios that have limits at 0, but cancel there; this moves them by less than κΔ
    f, b = torch.exp(-y), -torch.expm1(-y) / y
    spread, level = xi**2 * step, theta * step
    leverage = rho * kappa / xi - 0.5
    rows = (
        (theta * a * x, e),
        (spread * theta * x * a**2 / 4, spread * e * a / 2),
        (level * (1 - a), step * a),
        (spread * level * (b * (1 + f) - 2 * f) / (4 * y), spread * step * f * (1 - b) / (2 * y)),
        (spread * level * step * (1 + 2 * f - b * (5 + f) / 2) / y**2, spread * step**2 * (b * b * y - 2 * f * (1 - b)) / y**2),
        (rho / xi, leverage, 1 - rho**2, leverage**2),
    )
    return torch.stack(torch.broadcast_tensors(*(c for row in rows for c in row))).to(dtype)


def _deviation(m: Tensor, half_variance: Tensor, z: Tensor) -> Tensor:
    """Return v' − m of Andersen's (2008) quadratic-exponential law, increasing in the normal ``z``; no digits cancel as ξ → 0."""
    h = m * m / half_variance  # 2/ψ with ψ = s²/m²
    q = h.clamp(_SWITCH, 1e18)
    r = q - 1
    square = torch.sqrt(q * r) + r  # b², so v' = m(b + z)²/(1 + b²)
    quadratic = m / (square + 1) * (z * torch.add(z, torch.sqrt(square), alpha=2) - 1)
    w = h / (h / 2 + 1)  # P(v' > 0), and v' is then exponential with mean m/w
    exponential = m * (torch.log(w / (torch.erfc(z * math.sqrt(0.5)) / 2)).clamp(min=0) / w - 1)
    return torch.lerp(exponential, quadratic, ((h - _SWITCH) * 1e30).clamp(0, 1))  # a select, which `where` does far slower on a CPU


def _quadratic_exponential(process: Heston, state: State, dt: Tensor, normals: Tensor) -> Increment:
    """Draw v', then give X the conditional mean and variance that make the first two moments of (X, v') given v exact.

    The coefficients ride along in the state: steps are equal.
    """
    v, *made = state
    coefficients = made[0] if made else _coefficients(process, dt, v.dtype)
    m0, m1, s0, s1, i0, i1, c0, c1, w0, w1, drive, leverage, own, square = coefficients.unbind(0)
    m, half_variance, half_covariance = torch.addcmul(m0, m1, v), torch.addcmul(s0, s1, v), torch.addcmul(c0, c1, v)
    deviation = _deviation(m, half_variance, normals[0])
    slope = half_covariance / half_variance  # of the regression of I on v'
    expected, explained = torch.addcmul(i0, i1, v), slope * deviation  # E[I|v], E[I|v, v'] − E[I|v]
    integral = expected + explained
    rest = torch.addcmul(torch.addcmul(w0, w1, v), slope, half_covariance, value=-2)  # Var I that v' leaves
    mean = torch.addcmul(drive * deviation - expected / 2, leverage, explained)
    variance = torch.addcmul(own * integral, square, rest)
    return Increment(((m + deviation).clamp(min=0), coefficients), mean, variance, integral)


def _euler(process: Heston, state: State, dt: Tensor, normals: Tensor) -> Increment:
    """Full truncation (Lord, Koekkoek and van Dijk 2010): v may become negative, and counts as 0 then."""
    (v,) = state
    names = ("mean_reversion", "long_run_variance", "vol_of_variance", "correlation")
    kappa, theta, xi, rho = (column(getattr(process, name), dt) for name in names)
    integral = v.clamp(min=0) * dt
    shock = torch.sqrt(integral) * normals[0]
    after = v + kappa * (theta * dt - integral) + xi * shock
    return Increment((after,), rho * shock - integral / 2, (1 - rho**2) * integral, integral)


def _deterministic(process: MeanVariance, state: State, dt: Tensor, normals: Tensor) -> Increment:
    """The exact Gaussian increment of ln S whose variance is E v_t."""
    (v,) = state
    kappa, theta, rho = (column(p, dt) for p in (process.mean_reversion, process.long_run_variance, process.correlation))
    integral = _mean_integral(v, kappa, theta, dt)
    after = theta + (v - theta) * torch.exp(-kappa * dt)
    return Increment((after,), rho * torch.sqrt(integral) * normals[0] - integral / 2, (1 - rho**2) * integral, integral)


def _mean_integral(v: Tensor, kappa: Tensor, theta: Tensor, dt: Tensor) -> Tensor:
    return theta * dt - (v - theta) * torch.expm1(-kappa * dt) / kappa


@dataclass(frozen=True)
class MeanVariance:
    r"""Heston's process with the variance replaced by its mean: ln S is Gaussian, driven by the same two Brownian motions.

    .. math:: dX_t = -\tfrac12\bar v_t\,dt + \sqrt{\bar v_t}\,dW_t, \qquad \bar v_t = \theta + (v_0-\theta)e^{-\kappa t}

    Parameters, their units and intervals: as `Heston`.  State: X, (B, N), and v̄, (B, 1).  Scheme: ``exact`` (no bias).
    It is the control variate of `Heston`.
    """

    initial_variance: Number
    mean_reversion: Number
    long_run_variance: Number
    correlation: Number
    lognormal: ClassVar[bool] = True
    factors: ClassVar[int] = 2
    schemes: ClassVar[tuple[Scheme, ...]] = (Scheme("exact", None, math.inf, _deterministic),)

    def start(self, zeros: Tensor) -> State:
        """Return X = 0 and v̄ = v₀."""
        return zeros, column(self.initial_variance, zeros)

    def integrated_variance(self, maturity: Number) -> Tensor:
        """Return ∫v̄ dt, (B,) or ()."""
        t = real("maturity", maturity, "positive", "years")
        v0, kappa, theta = (real("parameter", p) for p in (self.initial_variance, self.mean_reversion, self.long_run_variance))
        return _mean_integral(v0, kappa, theta, t)


@dataclass(frozen=True)
class Heston:
    r"""Stochastic variance of square-root type (Heston 1993), under the forward measure.

    .. math:: dF_t = \sqrt{v_t}F_t\,dW_t, \qquad dv_t = \kappa(\theta-v_t)\,dt + \xi\sqrt{v_t}\,dB_t, \qquad d\langle W,B\rangle_t=\rho\,dt

    Parameters
    ----------
    initial_variance
        v₀ in (0, ∞), per year; a number or (B,), as all of them.
    mean_reversion
        κ in (0, ∞), per year.
    long_run_variance
        θ in (0, ∞), per year.
    vol_of_variance
        ξ in (0, ∞), per year.
    correlation
        ρ in (−1, 1).

    Where 2κθ < ξ² (Feller's condition violated) the variance reaches zero; law and schemes hold there as well.

    State: X and v, (B, N) each; two normals a step, the first that of v.  Schemes: ``quadratic_exponential`` (Andersen 2008, with the
    first two moments of (X, v') over a step exact; weak order 2, tested where Feller's condition holds), ``euler`` (full truncation; weak
    order 1, tested there).  Bias of prices with the former at 16, 32, 64, 128 steps, v₀ and θ in [.02, .25], κ in [.5, 5], ξ in [.1, .8],
    ρ in [−.95, .5], T in [.05, 3], seven strikes within two standard deviations, in basis points of the forward: mean .13, .036, .010,
    .003, largest 10.5, 2.6, .8, .27 (tests/benchmarks/heston_bias.py).

    Closed form: :math:`\ln\varphi(u) = -\frac{(u^2+iu)hv_0}{1+\xi^2gh} + \kappa\theta\left(gT - \frac2{\xi^2}\ln(1+\xi^2gh)\right)`
    with :math:`\beta=\kappa-i\rho\xi u`, :math:`d=\sqrt{\beta^2+\xi^2(u^2+iu)}`, :math:`g=(\beta-d)/\xi^2=-(u^2+iu)/(\beta+d)` and
    :math:`h=(1-e^{-dT})/(2d)`: the form of Albrecher, Mayer, Schoutens and Tistaert (2007), whose logarithm never leaves its principal
    branch (Lord and Kahl 2010), arranged so that nothing cancels as ξ → 0.  Complex u: within the strip where E[e^{iuX}] is finite.

    Limits: ξ → 0 is `MeanVariance` (`BlackScholes` for v₀ = θ).  With independent jumps: `WithJumps` (Bates 1996).

    References: Heston (1993), "A closed-form solution for options with stochastic volatility with applications to bond and currency
    options"; Andersen (2008), "Simple and efficient simulation of the Heston stochastic volatility model", equations 23–30.
    """

    initial_variance: Number
    mean_reversion: Number
    long_run_variance: Number
    vol_of_variance: Number
    correlation: Number
    factors: ClassVar[int] = 2
    schemes: ClassVar[tuple[Scheme, ...]] = (
        Scheme("quadratic_exponential", None, 2.0, _quadratic_exponential),
        Scheme("euler", None, 1.0, _euler),
    )

    def __post_init__(self) -> None:
        for name in ("initial_variance", "mean_reversion", "long_run_variance", "vol_of_variance"):
            real(name, getattr(self, name), "positive", "per year")
        real("correlation", self.correlation, "in (-1, 1)")

    @property
    def control(self) -> MeanVariance:
        """The control process: deterministic variance on the same Brownian motions."""
        return MeanVariance(self.initial_variance, self.mean_reversion, self.long_run_variance, self.correlation)

    def start(self, zeros: Tensor) -> State:
        """Return X = 0 and v = v₀."""
        return zeros, zeros + column(self.initial_variance, zeros)

    def integrated_variance(self, maturity: Number) -> Tensor:
        """Return E∫v dt = θT + (v₀ − θ)(1 − e^{−κT})/κ, (B,) or ()."""
        return self.control.integrated_variance(maturity)

    def features(self, maturity: Number) -> Tensor:
        """Return ln s, ln(v₀/θ), ln κT, ln(ξT/s) and ρ with s² = E∫v dt, (B, 5): the law of X depends on nothing else."""
        t, s = real("maturity", maturity), torch.sqrt(self.integrated_variance(maturity))
        v0, kappa, theta, xi, rho = (real(name, value) for name, value in vars(self).items())
        coordinates = torch.log(s), torch.log(v0 / theta), torch.log(kappa * t), torch.log(xi * t / s), rho
        return torch.stack(torch.broadcast_tensors(*coordinates), -1)

    def characteristic_function(self, frequency: Tensor, maturity: Number) -> Tensor:
        """Return φ(u) of X = ln(S_T/F_T) at ``frequency`` (K,) or (B, K), real or complex: (K,) or (B, K)."""
        u = torch.as_tensor(frequency)
        t = real("maturity", maturity, "positive", "years")[..., None]
        v0, kappa, theta, xi, rho = (real(name, value)[..., None] for name, value in vars(self).items())
        w = u * u + 1j * u
        beta = kappa - 1j * rho * xi * u
        d = torch.sqrt(beta * beta + xi**2 * w)
        right = (beta.real >= 0) & (beta + d != 0)  # then β + d does not cancel, else β − d does not
        g = torch.where(right, -w / torch.where(right, beta + d, 1.0), (beta - d) / xi**2)
        h = torch.where(d == 0, t / 2, -torch.expm1(-d * t) / torch.where(d == 0, 1.0, 2 * d))
        growth = xi**2 * g * h
        return torch.exp(-w * h * v0 / (1 + growth) + kappa * theta * (g * t - 2 / xi**2 * torch.log1p(growth)))
