"""Prices that others published, against simulated ones: barrier, lookback, Asian and basket options under Black–Scholes.

Each table says where it was printed and where else it can be read.  A simulated price lies within three standard errors of the printed
one, its rounding, and the correction that the test states: none where the functional is without bias.
"""

from __future__ import annotations

import math

import pytest
import QuantLib
import torch
from fixtures import sigmas
from torch import Tensor

import spectralmc as smc

BETA = 0.5825971579390106  # −ζ(1/2)/√(2π): Broadie, Glasserman and Kou (1997), theorem 1.1
SETS = 64
TODAY, DAYS = QuantLib.Date(5, 7, 2002), QuantLib.Actual360()
CALL, PUT = QuantLib.Option.Call, QuantLib.Option.Put


def simulated(process: object, maturity: float, steps: int, functionals: object, carry: float, paths: int = 1 << 17) -> smc.Sample:
    """Sobol paths in 64 randomizations: the standard error is that of 64 independent means."""
    return smc.simulate(process, smc.TimeGrid(maturity, steps), smc.Draws(5, "sobol", SETS), paths, functionals, carry=carry)


def close(sample: smc.Sample, payoff: Tensor, published: float, digits: int, allowed: float = 0.0) -> bool:
    """Whether the mean of ``payoff`` (1, N) is the published value but for three standard errors, its rounding and ``allowed``."""
    value, error = sample.mean(payoff)
    return abs(float(value) - published) < 3 * float(error) + 0.5 * 10.0**-digits + allowed


def option(sample: smc.Sample, strike: float, kind: int) -> Tensor:
    """The payoff of a call (kind 1) or put (−1) on the outcome, whatever its weight."""
    return (kind * (torch.exp(sample.log_outcome) - strike)).clamp(min=0)


def black_scholes(spot: float, rate: float, dividend_yield: float, volatility: float) -> QuantLib.BlackScholesMertonProcess:
    QuantLib.Settings.instance().evaluationDate = TODAY
    curves = [QuantLib.YieldTermStructureHandle(QuantLib.FlatForward(TODAY, x, DAYS)) for x in (dividend_yield, rate)]
    surface = QuantLib.BlackVolTermStructureHandle(QuantLib.BlackConstantVol(TODAY, QuantLib.NullCalendar(), volatility, DAYS))
    return QuantLib.BlackScholesMertonProcess(QuantLib.QuoteHandle(QuantLib.SimpleQuote(spot)), *curves, surface)


def after(years: float) -> QuantLib.EuropeanExercise:
    return QuantLib.EuropeanExercise(TODAY + round(360 * years))


# Haug (1998), "The Complete Guide to Option Pricing Formulas", page 72 (Reiner and Rubinstein 1991); also in QuantLib's test suite,
# barrieroption.cpp.  S₀ 100, T ½, r .08, q .04, a rebate of 3 at maturity if the option never came in: direction, H, σ, kind, then the
# values at the strikes 90, 100, 110.
HAUG_BARRIERS = [
    ("down", 95, 0.25, 1, (7.7627, 4.0109, 2.0576)),
    ("up", 105, 0.25, 1, (14.1112, 8.4482, 4.5910)),
    ("down", 95, 0.30, 1, (9.0093, 5.1370, 2.8517)),
    ("up", 105, 0.30, 1, (15.2098, 9.7278, 5.8350)),
    ("down", 95, 0.25, -1, (2.9586, 6.5677, 11.9752)),
    ("up", 105, 0.25, -1, (1.4653, 3.3721, 7.0846)),
    ("down", 95, 0.30, -1, (3.8769, 7.7989, 13.3078)),
    ("up", 105, 0.30, -1, (2.0658, 4.4226, 8.3686)),
]


@pytest.mark.parametrize(("direction", "barrier", "volatility", "kind", "published"), HAUG_BARRIERS)
def test_the_knock_in_options_of_haug(direction: str, barrier: float, volatility: float, kind: int, published: tuple[float, ...]) -> None:
    """Continuous monitoring, without bias at any number of steps: in = vanilla − out, path by path."""
    sample = simulated(smc.BlackScholes(volatility), 0.5, 4, smc.KnockOut(barrier / 100, direction), 0.04)
    discount = 100 * math.exp(-0.04)
    for strike, value in zip((0.9, 1.0, 1.1), published, strict=True):
        payoff = option(sample, strike, kind) * (1 - sample.weight) + 0.03 * sample.weight
        assert close(sample, discount * payoff, value, 4)


# El Babsiri and Noel (1998), "Simulating path-dependent options: a new approach", Journal of Derivatives 6; also in QuantLib's test
# suite, barrieroption.cpp.  S₀ and K 100, T 1, r .05, q .02: direction, H, then the values for σ .1, .15, .2, .25, .3.
EL_BABSIRI = [
    ("down", 90, (0.07187, 0.60638, 1.64005, 2.98495, 4.50952)),
    ("up", 110, (4.79148, 7.08268, 9.11008, 11.06148, 12.98351)),
]


@pytest.mark.parametrize(("direction", "barrier", "published"), EL_BABSIRI)
@pytest.mark.parametrize("case", range(5))
def test_the_knock_in_calls_of_el_babsiri_and_noel(direction: str, barrier: float, published: tuple[float, ...], case: int) -> None:
    sample = simulated(smc.BlackScholes((0.1, 0.15, 0.2, 0.25, 0.3)[case]), 1.0, 2, smc.KnockOut(barrier / 100, direction), 0.03)
    payoff = option(sample, 1.0, 1) * (1 - sample.weight)
    assert close(sample, 100 * math.exp(-0.05) * payoff, published[case], 5)


def test_the_down_and_out_call_of_beaglehole_dybvig_and_zhou() -> None:
    """Beaglehole, Dybvig and Zhou (1997), "Going to extremes", Financial Analysts Journal 53; also in barrieroption.cpp of QuantLib."""
    rate = math.log(1.1)
    sample = simulated(smc.BlackScholes(0.5), 1.0, 4, smc.KnockOut(0.9, "down"), rate)
    assert close(sample, 50 / 1.1 * option(sample, 1.0, 1) * sample.weight, 5.477, 3)


def knocked_out(barrier: float, direction: str, volatility: float, kind: int) -> float:
    """The continuous formula of Reiner and Rubinstein by QuantLib: S₀ and K 1, T ½, r .08, q .04."""
    kinds = {"up": QuantLib.Barrier.UpOut, "down": QuantLib.Barrier.DownOut}
    contract = QuantLib.BarrierOption(
        kinds[direction], barrier, 0.0, QuantLib.PlainVanillaPayoff(CALL if kind == 1 else PUT, 1.0), after(0.5)
    )
    contract.setPricingEngine(QuantLib.AnalyticBarrierEngine(black_scholes(1.0, 0.08, 0.04, volatility)))
    return float(contract.NPV())


@pytest.mark.parametrize(("barrier", "direction", "kind"), [(0.9, "down", 1), (1.2, "up", 1), (0.85, "down", -1), (1.15, "up", -1)])
def test_a_barrier_at_the_fixings_is_a_continuous_one_moved_away(barrier: float, direction: str, kind: int) -> None:
    """Broadie, Glasserman and Kou (1997): H → He^{±βσ√Δt}; what is left is of order 1/M, a fifth of the correction at M = 50."""
    volatility, steps = 0.3, 50
    functional = smc.KnockOut(barrier, direction, monitoring="fixings")
    sample = simulated(smc.BlackScholes(volatility), 0.5, steps, functional, 0.04)
    shift = BETA * volatility * math.sqrt(0.5 / steps) * (1 if direction == "up" else -1)
    moved, plain = (knocked_out(h, direction, volatility, kind) for h in (barrier * math.exp(shift), barrier))
    value, error = sample.mean(math.exp(-0.04) * option(sample, 1.0, kind) * sample.weight)
    assert abs(float(value) - moved) < 3 * float(error) + abs(moved - plain) / 20
    assert abs(float(value) - plain) > abs(moved - plain) / 2


# Haug (1998), pages 63–64 (Conze and Viswanathan 1991); also in QuantLib's test suite, lookbackoptions.cpp.  S₀ 100 and the extreme so
# far 100, r .10, q 0: T, σ, then the values at the strikes 95, 100, 105 of the call on the maximum and of the put on the minimum.
HAUG_LOOKBACKS = [
    (0.5, 0.1, (13.2687, 8.5126, 4.3908), (0.6899, 3.3917, 8.1478)),
    (0.5, 0.2, (18.9263, 14.1702, 9.8905), (4.4448, 8.3177, 13.0739)),
    (0.5, 0.3, (24.9857, 20.2296, 15.8512), (8.9213, 13.1579, 17.9140)),
    (1.0, 0.1, (18.3241, 13.8000, 9.5445), (1.0534, 3.8079, 8.3321)),
    (1.0, 0.2, (26.0731, 21.5489, 17.2965), (6.2813, 10.1294, 14.6536)),
    (1.0, 0.3, (34.7116, 30.1874, 25.9002), (12.2376, 16.3889, 20.9130)),
]


def lookback(strike: float, maturity: float, volatility: float, kind: int, rate: float = 0.10) -> float:
    """The continuous formula by QuantLib: S₀ and the extreme so far 100, q 0."""
    payoff = QuantLib.PlainVanillaPayoff(CALL if kind == 1 else PUT, strike)
    contract = QuantLib.ContinuousFixedLookbackOption(100.0, payoff, after(maturity))
    contract.setPricingEngine(QuantLib.AnalyticContinuousFixedLookbackEngine(black_scholes(100.0, rate, 0.0, volatility)))
    return float(contract.NPV())


def watched(strike: float, maturity: float, volatility: float, kind: int, steps: int, rate: float = 0.10) -> float:
    """The same option watched at M fixings: its extreme is the continuous one moved by e^{∓βσ√Δt}, but never past today's price."""
    shift = math.exp(-kind * BETA * volatility * math.sqrt(maturity / steps))
    beyond = max(strike, 100.0) if kind == 1 else min(strike, 100.0)
    sure = kind * (beyond - strike) * math.exp(-rate * maturity)
    return sure + shift * lookback(beyond / shift, maturity, volatility, kind, rate)


def rest(maturity: float, volatility: float, steps: int, rate: float = 0.10, spot: float = 100.0) -> float:
    """What the correction leaves: the next term of the Euler–Maclaurin series of Spitzer's sum for E max, of order Δt."""
    drift = abs(rate - volatility**2 / 2) + volatility**2
    return spot * (drift + volatility / math.sqrt(2 * math.pi * maturity)) * maturity / steps / 2


@pytest.mark.parametrize(("maturity", "volatility", "calls", "puts"), HAUG_LOOKBACKS)
def test_the_fixed_strike_lookbacks_of_haug(maturity: float, volatility: float, calls: tuple[float, ...], puts: tuple[float, ...]) -> None:
    steps = 100
    pair = (smc.Maximum(), smc.Minimum())
    highest, lowest = simulated(smc.BlackScholes(volatility), maturity, steps, pair, 0.10, 1 << 14)
    discount = 100 * math.exp(-0.10 * maturity)
    for sample, kind, published in ((highest, 1, calls), (lowest, -1, puts)):
        for strike, value in zip((95.0, 100.0, 105.0), published, strict=True):
            correction = watched(strike, maturity, volatility, kind, steps) - lookback(strike, maturity, volatility, kind)
            assert close(sample, discount * option(sample, strike / 100, kind), value + correction, 4, rest(maturity, volatility, steps))


# Broadie, Glasserman and Kou (1999), "Connecting discrete and continuous path-dependent options", pages 70–74; also in QuantLib's test
# suite, lookbackoptions.cpp.  σ .3, q 0: kind, extreme so far, S₀, r, T, value.
BGK_LOOKBACKS = [
    (1, 100, 100, 0.05, 1.0, 23.7884),
    (1, 100, 100, 0.05, 0.2, 10.7190),
    (1, 100, 110, 0.05, 0.2, 14.4597),
    (-1, 100, 100, 0.10, 0.5, 15.3526),
    (-1, 110, 100, 0.10, 0.5, 16.8468),
    (-1, 120, 100, 0.10, 0.5, 21.0645),
]


@pytest.mark.parametrize(("kind", "extreme", "spot", "rate", "maturity", "published"), BGK_LOOKBACKS)
def test_the_floating_strike_lookbacks(kind: int, extreme: float, spot: float, rate: float, maturity: float, published: float) -> None:
    """A call pays S_T − min(m, min S) = S_T − m + (m − min S)⁺, a put likewise: a fixed strike lookback at the extreme so far."""
    steps = 100
    functional = smc.Minimum() if kind == 1 else smc.Maximum()
    sample = simulated(smc.BlackScholes(0.3), maturity, steps, functional, rate, 1 << 14)
    discount, level = spot * math.exp(-rate * maturity), extreme / spot
    payoff = discount * option(sample, level, -kind) + kind * (spot - discount * level)
    plain, moved = lookback(100 * level, maturity, 0.3, -kind, rate), watched(100 * level, maturity, 0.3, -kind, steps, rate)
    assert close(sample, payoff, published + (moved - plain) * spot / 100, 4, rest(maturity, 0.3, steps, rate, spot))


def geometric_price(strike: float, carry: float, volatility: float, grid: smc.TimeGrid, kind: str = "call") -> float:
    """The undiscounted discrete geometric Asian option on a unit spot: the law of `GeometricAverage` and Black's formula."""
    variance = torch.tensor(volatility**2 * grid.maturity, dtype=torch.float64)
    mean, spread = smc.GeometricAverage().lognormal_law(variance, grid, torch.tensor(carry, dtype=torch.float64))
    forward = torch.exp(mean + spread / 2)
    return float(forward * smc.black_price(torch.log(strike / forward), torch.sqrt(spread), 1.0, kind))


def arithmetic_price(strike: float, carry: float, volatility: float, grid: smc.TimeGrid, kind: str = "call") -> tuple[float, float]:
    """The arithmetic one, simulated with the geometric one as control, and its standard error."""
    pair, sign = (smc.ArithmeticAverage(), smc.GeometricAverage()), 1 if kind == "call" else -1
    average, control = smc.simulate(smc.BlackScholes(volatility), grid, smc.Draws(33, "sobol", SETS), 1 << 14, pair, carry=carry)
    payoff, known = ((sign * (sample.outcome - strike)).clamp(min=0) for sample in (average, control))
    value, error = average.mean(payoff - known)
    return float(value) + geometric_price(strike, carry, volatility, grid, kind), float(error)


# Linetsky (2002), "Exotic spectra", Risk, and (2004), "Spectral expansions for Asian (average price) options", Operations Research 52,
# table 3; also in R's package fAsianOptions, LinetzkyTable.  The continuous average, K 2, q 0: r, σ, T, S₀, value of the call.
LINETSKY = [
    (0.02, 0.10, 1.0, 2.0, 0.0559860415),
    (0.18, 0.30, 1.0, 2.0, 0.2183875466),
    (0.0125, 0.25, 2.0, 2.0, 0.1722687410),
    (0.05, 0.50, 1.0, 1.9, 0.1931737903),
    (0.05, 0.50, 1.0, 2.0, 0.2464156905),
    (0.05, 0.50, 1.0, 2.1, 0.3062203648),
    (0.05, 0.50, 2.0, 2.0, 0.3500952190),
]


@pytest.mark.parametrize(("rate", "volatility", "maturity", "spot", "published"), LINETSKY)
def test_the_continuous_asian_calls_of_linetsky(rate: float, volatility: float, maturity: float, spot: float, published: float) -> None:
    """The trapezoidal rule on M fixings.

    Given them it misses a variance of S²σ²T/12M², worth half of that times the density of the average at the strike, which is at most
    √3/(Sσ√(2πT)); its mean errs by (rT)²/12M².
    """
    steps, strike = 64, 2 / spot
    trio = (smc.ArithmeticAverage(), smc.Terminal(), smc.GeometricAverage())
    average, last, geometric = simulated(smc.BlackScholes(volatility), maturity, steps, trio, rate, 1 << 14)
    continuous = average.outcome + (1 - last.outcome) / (2 * steps)
    payoff = (continuous - strike).clamp(min=0) - option(geometric, strike, 1)
    known = geometric_price(strike, rate, volatility, smc.TimeGrid(maturity, steps))
    missed = (volatility * math.sqrt(maturity * 3 / (2 * math.pi)) / 24 + (rate * maturity) ** 2 / 12) / steps**2
    discount = spot * math.exp(-rate * maturity)
    assert close(average, discount * (payoff + known), published, 10, discount * missed)


def test_the_geometric_asian_call_of_clewlow_and_strickland() -> None:
    """Clewlow and Strickland (1998), "Implementing Derivatives Models", pages 118–123; also in asianoptions.cpp of QuantLib.

    Ten fixings in a year, S₀ and K 100, r .06, q .03, σ .2.
    """
    unit = geometric_price(1.0, 0.03, 0.2, smc.TimeGrid(1.0, 10))
    assert 100 * math.exp(-0.06) * unit == pytest.approx(5.3425606635, abs=5e-11)


LEVY = [(2, 1.3942835683), (4, 1.5852442983), (8, 1.66970673), (12, 1.6980019214), (26, 1.7255070456), (52, 1.7401553533)]


@pytest.mark.parametrize(("fixings", "published"), LEVY)
def test_the_arithmetic_asian_puts_of_levy(fixings: int, published: float) -> None:
    """Levy (1997) in Clewlow and Strickland, "Exotic Options"; also in QuantLib's test suite, asianoptions.cpp.

    S₀ 90, K 87, q .06, r .025, σ .13, T 11/12, the first fixing today, which is known: what is left is a put on the average of the
    others.  The table is a simulation itself, good to 3e-3.
    """
    spot, strike, rate, maturity, rest = 90.0, 87.0, 0.025, 11 / 12, fixings - 1
    value, error = arithmetic_price((fixings * strike / spot - 1) / rest, rate - 0.06, 0.13, smc.TimeGrid(maturity, rest), "put")
    scale = spot * math.exp(-rate * maturity) * rest / fixings
    assert abs(scale * value - published) < 3e-3 + sigmas(6) * scale * error
    assert scale * error < 3e-3 / 5


def asian(average: object, engine: object, strike: float) -> float:
    """A two-year call with ten fixings on S₀ 100, r .06, q .03, σ .2 by QuantLib."""
    dates = [TODAY + 72 * i for i in range(1, 11)]
    past = 0.0 if average == QuantLib.Average.Arithmetic else 1.0
    contract = QuantLib.DiscreteAveragingAsianOption(average, past, 0, dates, QuantLib.PlainVanillaPayoff(CALL, strike), after(2.0))
    contract.setPricingEngine(engine(black_scholes(100.0, 0.06, 0.03, 0.2)))
    return float(contract.NPV())


@pytest.mark.parametrize("strike", [80.0, 100.0, 125.0])
def test_the_geometric_asian_call_is_that_of_quantlib(strike: float) -> None:
    expected = asian(QuantLib.Average.Geometric, QuantLib.AnalyticDiscreteGeometricAveragePriceAsianEngine, strike)
    unit = geometric_price(strike / 100, 0.03, 0.2, smc.TimeGrid(2.0, 10))
    assert 100 * math.exp(-0.12) * unit == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("strike", [80.0, 100.0, 125.0])
def test_the_arithmetic_asian_call_is_that_of_quantlib(strike: float) -> None:
    """Against Choi's (2018) quadrature, good to 2e-4 on a spot of 100."""
    expected = asian(QuantLib.Average.Arithmetic, QuantLib.ChoiAsianEngine, strike)
    value, error = arithmetic_price(strike / 100, 0.03, 0.2, smc.TimeGrid(2.0, 10))
    scale = 100 * math.exp(-0.12)
    assert abs(scale * value - expected) < 2e-4 + sigmas(3) * scale * error
    assert scale * error < 2e-3
