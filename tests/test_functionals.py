"""Path functionals: their laws and forwards, ordering, parity, and prices of others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import QuantLib
import torch
from fixtures import sigmas
from torch import Tensor

import spectralmc as smc
from spectralmc.functionals import expected_outcome

EPS = torch.finfo(torch.float64).eps
FUNCTIONALS = [smc.Terminal(), smc.GeometricAverage(), smc.ArithmeticAverage()]  # a new functional joins here
PROCESS, GRID, CARRY = smc.BlackScholes(0.3), smc.TimeGrid(2.0, 10), 0.05


def named(functional: object) -> str:
    return type(functional).__name__


def simulated(
    functionals: object = tuple(FUNCTIONALS), grid: smc.TimeGrid = GRID, seed: int = 31, **options: object
) -> tuple[smc.Sample, ...]:
    return smc.simulate(PROCESS, grid, smc.Draws(seed), 1 << 13, functionals, carry=CARRY, **options)


@dataclass(frozen=True)
class Range:
    """A functional of one's own: highest over lowest fixing; its accumulator is a pair."""

    def start(self, zeros: Tensor) -> tuple[Tensor, Tensor]:
        return zeros - math.inf, zeros + math.inf

    def update(self, accumulator: tuple[Tensor, Tensor], log_price: Tensor) -> tuple[Tensor, Tensor]:
        return torch.maximum(accumulator[0], log_price), torch.minimum(accumulator[1], log_price)

    def finish(self, accumulator: tuple[Tensor, Tensor], steps: int) -> Tensor:
        return accumulator[0] - accumulator[1]


@pytest.mark.parametrize("functional", FUNCTIONALS, ids=named)
def test_a_functional_is_what_it_says_on_stored_paths(functional: object) -> None:
    paths = smc.simulate(PROCESS, GRID, smc.Draws(30), 64)
    price = torch.exp(paths.log_return[..., 1:] + CARRY * GRID.times())
    by_hand = {
        "Terminal": price[..., -1],
        "GeometricAverage": price.prod(-1) ** 0.1,
        "ArithmeticAverage": price.mean(-1),
    }[named(functional)]
    sample = smc.simulate(PROCESS, GRID, smc.Draws(30), 64, functional, carry=CARRY)
    torch.testing.assert_close(sample.outcome, by_hand, rtol=100 * EPS, atol=0)


@pytest.mark.parametrize("functional", FUNCTIONALS, ids=named)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_sample_has_the_forward_of_the_formula(functional: object, dtype: torch.dtype) -> None:
    sample = simulated(functional, dtype=dtype)
    mean, error = sample.mean(sample.outcome.double())
    assert expected_outcome(functional, PROCESS, GRID, torch.tensor(CARRY)) is not None
    assert abs(float(mean - sample.forward)) < 4 * float(error)
    assert sample.forward.dtype == dtype


@pytest.mark.parametrize("functional", [f for f in FUNCTIONALS if hasattr(f, "lognormal_law")], ids=named)
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_the_lognormal_law_is_that_of_the_sample(functional: object, steps: int) -> None:
    grid = smc.TimeGrid(2.0, steps)
    sample = simulated(functional, grid)
    mean, variance = functional.lognormal_law(torch.tensor(0.18, dtype=torch.float64), grid, torch.tensor(CARRY, dtype=torch.float64))
    found, error = sample.mean(sample.log_outcome)
    assert abs(float(found - mean)) < 4 * float(error)
    found, error = sample.mean((sample.log_outcome - mean) ** 2)
    assert abs(float(found - variance)) < 4 * float(error)


@pytest.mark.parametrize("steps", [1, 3, 32])
def test_the_geometric_law_is_that_of_the_sum_of_correlated_normals(steps: int) -> None:
    grid = smc.TimeGrid(2.0, steps)
    t, variance, carry = grid.times(), 0.18, torch.tensor(CARRY, dtype=torch.float64)
    mean, spread = smc.GeometricAverage().lognormal_law(torch.tensor(variance, dtype=torch.float64), grid, carry)
    assert float(mean) == pytest.approx(float(((CARRY - variance / 4) * t).mean()), rel=1e-14)
    assert float(spread) == pytest.approx(float(torch.minimum(t[:, None], t).mean()) * variance / 2, rel=1e-14)


def test_with_one_fixing_every_average_is_the_terminal_price() -> None:
    terminal, geometric, arithmetic = simulated(grid=smc.TimeGrid(2.0, 1))
    assert torch.equal(geometric.log_outcome, terminal.log_outcome)
    torch.testing.assert_close(arithmetic.log_outcome, terminal.log_outcome, rtol=0, atol=4 * EPS)
    torch.testing.assert_close(arithmetic.forward, terminal.forward, rtol=EPS, atol=0)


def test_the_arithmetic_average_exceeds_the_geometric_one_on_every_path() -> None:
    _, geometric, arithmetic = simulated()
    assert bool((arithmetic.log_outcome > geometric.log_outcome).all())
    assert float((arithmetic.log_outcome - geometric.log_outcome).mean()) > 1e-3


def test_put_call_parity_of_an_asian_sample_is_that_of_its_own_mean() -> None:
    sample = simulated(smc.ArithmeticAverage())
    k = torch.linspace(0.5, 2, 7, dtype=torch.float64)[:, None]
    call, put = (sample.outcome - k).clamp(min=0).mean(1), (k - sample.outcome).clamp(min=0).mean(1)
    torch.testing.assert_close(call - put, sample.outcome.mean() - k[:, 0], rtol=0, atol=1e-14)
    gap, error = sample.mean(sample.outcome - sample.forward)
    assert abs(float(gap)) < 4 * float(error)


def test_the_forward_of_an_average_is_the_mean_of_the_forwards() -> None:
    carry, grid = torch.tensor([0.0, 0.1, -0.2], dtype=torch.float64), smc.TimeGrid([1.0, 2.0, 3.0], 4)
    forward = smc.ArithmeticAverage().forward(grid, carry)
    by_hand = [sum(math.exp(b * t * i / 4) for i in range(1, 5)) / 4 for b, t in ((0.0, 1.0), (0.1, 2.0), (-0.2, 3.0))]
    assert forward.tolist() == pytest.approx(by_hand, rel=1e-15)
    assert forward[0].item() == 1.0


@pytest.mark.parametrize("functional", FUNCTIONALS, ids=named)
def test_a_law_that_ignores_the_carry_says_so_and_no_other_does(functional: object) -> None:
    free, carried = (smc.simulate(PROCESS, GRID, smc.Draws(32), 256, functional, carry=b).log_return for b in (0.0, 0.1))
    assert bool(((free - carried).abs() < 1e-14).all()) or getattr(functional, "depends_on_carry", True)
    if functional == smc.ArithmeticAverage():
        assert float((free - carried).abs().max()) > 1e-3


@pytest.mark.parametrize("functional", FUNCTIONALS, ids=named)
def test_a_control_is_lognormal_and_its_own_control(functional: object) -> None:
    control = functional.control
    assert hasattr(control, "lognormal_law")
    assert control.control == control


def test_no_formula_no_expected_outcome() -> None:
    carry = torch.tensor(CARRY)
    assert expected_outcome(Range(), PROCESS, GRID, carry) is None
    assert expected_outcome(smc.GeometricAverage(), object(), GRID, carry) is None
    by_hand = math.exp((CARRY - 0.045) * 1.1 + 0.18 * 11 * 21 / 600 / 2)
    assert expected_outcome(smc.GeometricAverage(), PROCESS, GRID, carry.double()).item() == pytest.approx(by_hand, rel=1e-7)


def test_a_functional_of_ones_own_needs_three_methods_and_takes_its_forward_from_the_sample() -> None:
    sample = simulated(Range())
    assert bool((sample.log_outcome > 0).all())
    torch.testing.assert_close(sample.forward, sample.outcome.mean(1), rtol=1e-14, atol=0)
    paths = smc.simulate(PROCESS, GRID, smc.Draws(31), 1 << 13).log_return[..., 1:] + CARRY * GRID.times()
    torch.testing.assert_close(sample.log_outcome, paths.amax(-1) - paths.amin(-1), rtol=0, atol=0)


def geometric_price(strike: float, carry: float, volatility: float, grid: smc.TimeGrid, kind: str = "call") -> float:
    """The undiscounted discrete geometric Asian option on a unit spot: the law of `GeometricAverage` and Black's formula."""
    variance = torch.tensor(volatility**2 * grid.maturity, dtype=torch.float64)
    mean, spread = smc.GeometricAverage().lognormal_law(variance, grid, torch.tensor(carry, dtype=torch.float64))
    forward = torch.exp(mean + spread / 2)
    return float(forward * smc.black_price(torch.log(strike / forward), torch.sqrt(spread), 1.0, kind))


def arithmetic_price(strike: float, carry: float, volatility: float, grid: smc.TimeGrid, kind: str = "call") -> tuple[float, float]:
    """The arithmetic one, simulated with the geometric one as control, and its standard error."""
    pair, sign = (smc.ArithmeticAverage(), smc.GeometricAverage()), 1 if kind == "call" else -1
    average, control = smc.simulate(smc.BlackScholes(volatility), grid, smc.Draws(33, "sobol"), 1 << 12, pair, carry=carry)
    payoff, known = ((sign * (sample.outcome - strike)).clamp(min=0) for sample in (average, control))
    value, error = average.mean(payoff - known)
    return float(value) + geometric_price(strike, carry, volatility, grid, kind), float(error)


def test_the_geometric_asian_call_of_clewlow_and_strickland() -> None:
    """Clewlow and Strickland (1998), "Implementing Derivatives Models", pages 118–123: ten fixings in a year, S₀ 100."""
    unit = geometric_price(1.0, 0.03, 0.2, smc.TimeGrid(1.0, 10))
    assert 100 * math.exp(-0.06) * unit == pytest.approx(5.3425606635, abs=5e-11)


LEVY = [(2, 1.3942835683), (4, 1.5852442983), (8, 1.66970673), (12, 1.6980019214), (26, 1.7255070456), (52, 1.7401553533)]


@pytest.mark.parametrize(("fixings", "published"), LEVY)
def test_the_arithmetic_asian_puts_of_levy(fixings: int, published: float) -> None:
    """Levy (1997) in Clewlow and Strickland, "Exotic Options": S₀ 90, K 87, q .06, r .025, σ .13, the first fixing today.

    Today's fixing is known: what is left is a put on the average of the others.  The table is a simulation itself, good to 3e-3.
    """
    spot, strike, rate, maturity, rest = 90.0, 87.0, 0.025, 11 / 12, fixings - 1
    value, error = arithmetic_price((fixings * strike / spot - 1) / rest, rate - 0.06, 0.13, smc.TimeGrid(maturity, rest), "put")
    scale = spot * math.exp(-rate * maturity) * rest / fixings
    assert abs(scale * value - published) < 3e-3 + sigmas(6) * scale * error
    assert scale * error < 3e-3 / 5


def quantlib(average: object, engine: object, strike: float) -> float:
    """Price a two-year call with ten fixings on S₀ 100, r .06, q .03, σ .2 by QuantLib."""
    today, days = QuantLib.Date(5, 7, 2002), QuantLib.Actual365Fixed()
    QuantLib.Settings.instance().evaluationDate = today
    rate, dividend_yield = (QuantLib.YieldTermStructureHandle(QuantLib.FlatForward(today, x, days)) for x in (0.06, 0.03))
    volatility = QuantLib.BlackVolTermStructureHandle(QuantLib.BlackConstantVol(today, QuantLib.NullCalendar(), 0.2, days))
    process = QuantLib.BlackScholesMertonProcess(QuantLib.QuoteHandle(QuantLib.SimpleQuote(100.0)), dividend_yield, rate, volatility)
    dates = [today + 73 * i for i in range(1, 11)]
    past = 0.0 if average == QuantLib.Average.Arithmetic else 1.0
    payoff, exercise = QuantLib.PlainVanillaPayoff(QuantLib.Option.Call, strike), QuantLib.EuropeanExercise(dates[-1])
    option = QuantLib.DiscreteAveragingAsianOption(average, past, 0, dates, payoff, exercise)
    option.setPricingEngine(engine(process))
    return float(option.NPV())


@pytest.mark.parametrize("strike", [80.0, 100.0, 125.0])
def test_the_geometric_asian_call_is_that_of_quantlib(strike: float) -> None:
    expected = quantlib(QuantLib.Average.Geometric, QuantLib.AnalyticDiscreteGeometricAveragePriceAsianEngine, strike)
    unit = geometric_price(strike / 100, 0.03, 0.2, smc.TimeGrid(2.0, 10))
    assert 100 * math.exp(-0.12) * unit == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("strike", [80.0, 100.0, 125.0])
def test_the_arithmetic_asian_call_is_that_of_quantlib(strike: float) -> None:
    """Against Choi's (2018) quadrature, good to 2e-4 on a spot of 100."""
    expected = quantlib(QuantLib.Average.Arithmetic, QuantLib.ChoiAsianEngine, strike)
    value, error = arithmetic_price(strike / 100, 0.03, 0.2, smc.TimeGrid(2.0, 10))
    scale = 100 * math.exp(-0.12)
    assert abs(scale * value - expected) < 2e-4 + sigmas(3) * scale * error
    assert scale * error < 2e-3
