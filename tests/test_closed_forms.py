"""Processes with jumps, stochastic variance and several assets: against QuantLib and other ways to the same number, limits, refusals."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import QuantLib as ql  # noqa: N813
import torch
from fixtures import sigmas
from torch import Tensor

import spectralmc as smc
from spectralmc.black import black_price
from spectralmc.processes import scheme_of
from spectralmc.processes.gamma import log_gamma_quantile

K = torch.linspace(-0.4, 0.4, 7, dtype=torch.float64)
U = torch.linspace(-9, 9, 37, dtype=torch.float64)
TODAY, DAYS = ql.Date(1, 1, 2020), 365
HESTONS = [(0.04, 2.0, 0.04, 0.5, -0.7), (0.04, 0.5, 0.2, 0.8, -0.95), (0.196, 15.7, 0.075, 3.36, -0.51)]


def puts(process: Any) -> Tensor:
    return smc.cos_price(smc.Distribution.of(process, 1.0, smc.FrequencyGrid(60.0, 3000)), K, "put")


def quantlib_puts(engine: Any) -> Tensor:
    prices = []
    for k in K.tolist():
        option = ql.VanillaOption(ql.PlainVanillaPayoff(ql.Option.Put, math.exp(k)), ql.EuropeanExercise(TODAY + DAYS))
        option.setPricingEngine(engine)
        prices.append(option.NPV())
    return torch.tensor(prices, dtype=torch.float64)


def market() -> tuple[Any, Any]:
    ql.Settings.instance().evaluationDate = TODAY
    return ql.YieldTermStructureHandle(ql.FlatForward(TODAY, 0.0, ql.Actual365Fixed())), ql.QuoteHandle(ql.SimpleQuote(1.0))


@pytest.mark.parametrize("heston", HESTONS)
def test_heston_prices_are_those_of_quantlib(heston: tuple[float, ...]) -> None:
    rate, spot = market()
    engine = ql.AnalyticHestonEngine(ql.HestonModel(ql.HestonProcess(rate, rate, spot, *heston)), 1e-14, 1000000)
    torch.testing.assert_close(puts(smc.Heston(*heston)), quantlib_puts(engine), rtol=0, atol=1e-10)


@pytest.mark.parametrize("jumps", [(0.5, -0.1, 0.2), (1.0, 0.05, 0.1)])
def test_bates_prices_are_those_of_quantlib(jumps: tuple[float, ...]) -> None:
    rate, spot = market()
    engine = ql.BatesEngine(ql.BatesModel(ql.BatesProcess(rate, rate, spot, *HESTONS[0], *jumps)), 1e-14, 1000000)
    process = smc.WithJumps(smc.Heston(*HESTONS[0]), smc.LognormalJumps(*jumps))
    torch.testing.assert_close(puts(process), quantlib_puts(engine), rtol=0, atol=1e-10)


def test_merton_prices_are_a_poisson_mixture_of_quantlib_black_prices() -> None:
    sigma, rate, mean, deviation = 0.2, 0.7, -0.1, 0.2
    total = torch.zeros_like(K)
    for n in range(60):
        weight = math.exp(-rate) * rate**n / math.factorial(n)
        forward = math.exp(n * (mean + deviation**2 / 2) - rate * math.expm1(mean + deviation**2 / 2))
        s = math.sqrt(sigma**2 + n * deviation**2)
        total += weight * torch.tensor([ql.blackFormula(ql.Option.Put, math.exp(k), forward, s) for k in K.tolist()], dtype=K.dtype)
    torch.testing.assert_close(puts(smc.Merton(sigma, rate, mean, deviation)), total, rtol=0, atol=1e-10)


def test_variance_gamma_prices_are_those_of_quantlib_and_of_black_mixed_over_the_gamma_time() -> None:
    """QuantLib integrates to about 1e-7; the mixture, by the trapezoid rule in the logarithm of the gamma time, to rounding."""
    sigma, theta, nu = 0.2, -0.1, 0.2
    rate, spot = market()
    engine = ql.VarianceGammaEngine(ql.VarianceGammaProcess(spot, rate, rate, sigma, nu, theta))
    found = puts(smc.VarianceGamma(sigma, theta, nu))
    torch.testing.assert_close(found, quantlib_puts(engine), rtol=0, atol=2e-7)
    y = torch.linspace(-12, 3, 6001, dtype=torch.float64)[:, None]
    g = torch.exp(y)
    density = torch.exp((y - math.log(nu)) / nu - g / nu - math.lgamma(1 / nu))
    forward = torch.exp(math.log1p(-nu * (theta + sigma**2 / 2)) / nu + (theta + sigma**2 / 2) * g)
    mixed = (density * forward * black_price(K - torch.log(forward), sigma * torch.sqrt(g), 1.0, "put")).sum(0) * (15 / 6000)
    torch.testing.assert_close(found, mixed, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("near", "limit", "error"),
    [
        (smc.Heston(0.04, 2.0, 0.04, 1e-7, -0.7), smc.BlackScholes(0.2), 1e-5),
        (smc.VarianceGamma(0.2, -0.1, 1e-9), smc.BlackScholes(0.2), 1e-6),
        (smc.Merton(0.2, 0.0, -0.1, 0.2), smc.BlackScholes(0.2), 1e-14),
        (smc.WithJumps(smc.BlackScholes(0.2), smc.LognormalJumps(0.7, -0.1, 0.2)), smc.Merton(0.2, 0.7, -0.1, 0.2), 1e-14),
    ],
    ids=("vol of variance", "variance rate", "intensity", "composition"),
)
def test_limits_are_other_processes(near: Any, limit: Any, error: float) -> None:
    torch.testing.assert_close(near.characteristic_function(U, 2.0), limit.characteristic_function(U, 2.0), rtol=0, atol=error)


def test_heston_is_a_martingale_where_its_drift_under_the_share_measure_explodes() -> None:
    for rho in (0.5, 0.9):  # κ = ρξ, where d vanishes at u = −i, and κ < ρξ
        phi = smc.Heston(0.04, 0.5, 0.2, 1.0, rho).characteristic_function(torch.tensor([-1j], dtype=torch.complex128), 1.0)
        assert abs(phi.item() - 1) < 1e-12


@pytest.mark.parametrize("variance", [0.0, 0.001, 0.04, 0.3])
def test_a_quadratic_exponential_step_has_the_first_two_moments_of_the_law(variance: float) -> None:
    """By Gauss–Legendre quadrature in the normal, cut at the atom: those of X from φ of a Heston started at v, of v' in closed form."""
    process, dt = smc.Heston(0.04, 2.0, 0.06, 0.8, -0.7), 0.1
    _, kappa, theta, xi, rho = vars(process).values()
    e = math.exp(-kappa * dt)
    m, s2 = theta + (variance - theta) * e, variance * xi**2 * e * (1 - e) / kappa + theta * xi**2 * (1 - e) ** 2 / (2 * kappa)
    h = 2 * m * m / s2
    left = -8.5 if h >= 4 / 3 else -float(torch.special.ndtri(torch.tensor(2 * h / (2 + h), dtype=torch.float64)))
    x, w = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(400))
    z = torch.cat([torch.tensor([left - 1]).double(), left + (8.5 - left) * (x + 1) / 2])
    weight = torch.exp(-z * z / 2) * torch.cat([torch.zeros(1).double(), w * (8.5 - left) / 2]) / math.sqrt(2 * math.pi)
    weight[0] = 1 - weight.sum()
    increment = scheme_of(process, None).increment
    assert increment is not None
    move = increment(process, (torch.full((1, 401), variance, dtype=z.dtype),), torch.full((1, 1), dt, dtype=z.dtype), z[None, None])
    after = move.state[0]
    assert bool((after >= 0).all() & (move.variance >= 0).all() & (move.quadratic_variation >= 0).all())
    mean, second = (weight * move.mean).sum(), (weight * (move.mean**2 + move.variance)).sum()
    assert abs(float((weight * after).sum()) - m) < 1e-9
    assert abs(float((weight * after**2).sum()) - m * m - s2) < 1e-9
    integral = theta * dt + (variance - theta) * (1 - e) / kappa
    assert abs(float(mean) + integral / 2) < 1e-9
    step = 1e-3
    law = smc.Heston(max(variance, 1e-300), kappa, theta, xi, rho).characteristic_function(torch.tensor([step]).double(), dt)
    assert abs(float(second - mean**2) - float(-2 * torch.log(law.abs()) / step**2)) < 1e-7


@pytest.mark.parametrize(("scheme", "steps", "order"), [("euler", (8, 16, 32, 64), 1.0), ("quadratic_exponential", (2, 4, 8), 2.0)])
def test_heston_converges_at_the_order_its_scheme_states(scheme: str, steps: tuple[int, ...], order: float) -> None:
    process, u = smc.Heston(0.04, 3.0, 0.09, 0.4, -0.6), torch.tensor([6.0], dtype=torch.float64)  # 2κθ/ξ² = 3.4
    assert scheme_of(process, scheme).weak_order == order
    biases = []
    for n in steps:
        draws = smc.Draws(5, "sobol", randomizations=16)
        sample = smc.simulate(process, smc.TimeGrid(1.0, n), draws, 1 << 15, smc.Terminal(), conditional=True, scheme=scheme)
        estimate = smc.empirical_characteristic_function(sample, u)
        biases.append(float((estimate.value - process.characteristic_function(u, 1.0)).abs()))
        assert float(estimate.standard_error) < biases[-1] / 4
    slope = np.polyfit(np.log([1 / n for n in steps]), np.log(biases), 1)[0]
    assert abs(slope - order) < 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_heston_paths_have_the_law_of_the_closed_form(dtype: torch.dtype) -> None:
    """Within the noise and a bias of 1e-3 of φ at 64 steps."""
    process, u = smc.Heston(0.04, 2.0, 0.06, 0.5, -0.7), torch.linspace(0.1, 12, 64, dtype=torch.float64)
    sample = smc.simulate(process, smc.TimeGrid(1.0, 64), smc.Draws(31), 1 << 14, smc.Terminal(), dtype=dtype)
    estimate = smc.empirical_characteristic_function(sample, u)
    off = (estimate.value - process.characteristic_function(u, 1.0)).abs()
    assert bool((off < sigmas(128) * estimate.standard_error.double() + 1e-3).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_heston_has_the_law_of_its_control_as_the_volatility_of_variance_vanishes(dtype: torch.dtype) -> None:
    process, u = smc.Heston(0.04, 2.0, 0.09, 1e-6, -0.7), torch.linspace(0.1, 12, 64, dtype=torch.float64)
    variance = process.control.integrated_variance(1.0)
    for law in (process, process.control):
        sample = smc.simulate(law, smc.TimeGrid(1.0, 8), smc.Draws(32), 1 << 14, smc.Terminal(), dtype=dtype)
        estimate = smc.empirical_characteristic_function(sample, u)
        off = (estimate.value - torch.exp(-variance / 2 * (u * u + 1j * u))).abs()
        assert bool((off < sigmas(256) * estimate.standard_error.double()).all())


@pytest.mark.parametrize("shape", [1e-3, 1e-2, 0.3, 1.0, 7.0, 300.0])
def test_gamma_quantiles_invert_the_gamma_distribution(shape: float) -> None:
    z = torch.linspace(-6, 6, 241, dtype=torch.float64)
    a = torch.tensor(shape, dtype=torch.float64)
    y = log_gamma_quantile(a, z)
    assert bool((y.diff() > 0).all())
    x = torch.exp(y)
    seen = x > 1e-290
    back = torch.where(z > 0, torch.special.gammaincc(a, x), torch.special.gammainc(a, x))
    torch.testing.assert_close(back[seen], torch.exp(torch.special.log_ndtr(-z.abs()))[seen], rtol=2e-11, atol=0)


def test_gamma_quantiles_of_known_laws() -> None:
    """Shape 1 is exponential; far left, P = x^a/Γ(a + 1)."""
    z = torch.linspace(-8, 8, 161, dtype=torch.float64)
    torch.testing.assert_close(
        log_gamma_quantile(torch.ones(1).double(), z), torch.log(-torch.special.log_ndtr(-z)), rtol=1e-12, atol=1e-12
    )
    small = torch.tensor([1e-3], dtype=torch.float64)
    left = (torch.special.log_ndtr(z[:80]) + torch.lgamma(small + 1)) / small
    torch.testing.assert_close(log_gamma_quantile(small, z[:80]), left, rtol=1e-12, atol=0)


def test_correlated_assets_have_their_covariance_and_characteristic_function() -> None:
    process = smc.CorrelatedBlackScholes([0.2, 0.3], [[1.0, 0.5], [0.5, 1.0]])
    x = smc.simulate(process, smc.TimeGrid(2.0, 2), smc.Draws(33), 1 << 14).log_return[:, 0, :, -1]
    torch.testing.assert_close(torch.cov(x), process.integrated_variance(2.0), rtol=0.06, atol=0)  # five of its standard errors
    u = torch.tensor([[1.0, -2.0], [3.0, 0.0]], dtype=torch.float64)
    phi = process.characteristic_function(u, 2.0)
    empirical = torch.exp(1j * (u @ x)).mean(1)
    assert bool(((empirical - phi).abs() < 5 / 128).all())
    torch.testing.assert_close(phi[1], smc.BlackScholes(0.2).characteristic_function(u[1, :1], 2.0)[0], rtol=1e-14, atol=0)
    several = smc.CorrelatedBlackScholes([[0.2, 0.1], [0.3, 0.4]], [[1.0, 0.5], [0.5, 1.0]])
    assert smc.simulate(several, smc.TimeGrid([1.0, 2.0], 2), smc.Draws(33), 8).log_return.shape == (2, 2, 8, 3)
    assert several.features([1.0, 2.0]).shape == (2, 3)


class Stepping:
    """A process without an increment."""


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: smc.Heston(0.04, 2.0, 0.04, 0.5, 1.0), ValueError, "correlation must be in (-1, 1); got 1.0"),
        (lambda: smc.Heston(0.04, 0.0, 0.04, 0.5, 0.0), ValueError, "mean_reversion must be positive (per year); got 0.0"),
        (lambda: smc.Merton(0.2, -1.0, 0.0, 0.1), ValueError, "jump_intensity must be non-negative (per year); got -1.0"),
        (lambda: smc.LognormalJumps(1.0, 0.0, -0.1), ValueError, "jump_volatility must be non-negative; got -0.1"),
        (
            lambda: smc.VarianceGamma(0.2, 0.5, 2.0),
            ValueError,
            "1 - drift*variance_rate - volatility**2*variance_rate/2 must be positive; got -0.04",
        ),
        (
            lambda: smc.WithJumps(Stepping(), smc.LognormalJumps(1.0, 0.0, 0.1)),
            TypeError,
            "jumps join a process that has a scheme with an increment; Stepping has none",
        ),
        (
            lambda: smc.CorrelatedBlackScholes([0.2, 0.3], [[1.0, 1.0], [1.0, 1.0]]),
            ValueError,
            "correlation must be positive definite; its smallest eigenvalue is",
        ),
        (
            lambda: smc.CorrelatedBlackScholes([0.2, 0.3], [[1.0, 0.5], [0.4, 1.0]]),
            ValueError,
            "correlation must be symmetric with ones on its diagonal",
        ),
        (
            lambda: smc.CorrelatedBlackScholes(0.2, [[1.0]]),
            ValueError,
            "volatility must be (A,) and correlation (A, A), of parameter sets (A, B) and (A, A, B); got shapes () and (1, 1)",
        ),
        (
            lambda: smc.ParameterSpace(lambda *numbers: None, {}, 1.0),
            TypeError,
            "a process is made from parameters that have names; <lambda> takes *numbers",
        ),
    ],
)
def test_bad_processes_are_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        make()


def bates(initial_variance: Tensor, jump_intensity: Tensor) -> smc.WithJumps:
    return smc.WithJumps(smc.Heston(initial_variance, 2.0, 0.04, 0.5, -0.7), smc.LognormalJumps(jump_intensity, -0.1, 0.15))


def test_a_space_takes_a_function_of_named_parameters() -> None:
    space = smc.ParameterSpace(bates, {"initial_variance": (0.02, 0.1), "jump_intensity": (0.0, 1.0)}, (0.1, 2.0))
    assert space.names == space.free[:2] == ("initial_variance", "jump_intensity")
    points = space.sample(4)
    assert space.at(points).features(points["maturity"]).shape == (4, 8)
    names = ("volatility", "jump_intensity", "jump_mean", "jump_volatility")
    assert smc.ParameterSpace(smc.Merton, dict.fromkeys(names, 0.1), 1.0).free == ()
