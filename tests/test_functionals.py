"""Path functionals: their laws and forwards, ordering, parity, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from fixtures import sigmas
from torch import Tensor

import spectralmc as smc
from spectralmc.functionals import expected_outcome

EPS = torch.finfo(torch.float64).eps
FUNCTIONALS = [  # a new functional joins here
    smc.Terminal(),
    smc.GeometricAverage(),
    smc.ArithmeticAverage(),
    smc.Maximum(),
    smc.Minimum(),
    smc.KnockOut(1.4, "up"),
    smc.KnockOut(0.8, "down", monitoring="fixings"),
    smc.RealizedVariance(),
]
KNOWN = [f for f in FUNCTIONALS if hasattr(f, "control")]  # its expectation under Black–Scholes too
PROCESS, GRID, CARRY = smc.BlackScholes(0.3), smc.TimeGrid(2.0, 10), 0.05


def named(functional: object) -> str:
    return type(functional).__name__


def simulated(
    functionals: object = tuple(KNOWN), grid: smc.TimeGrid = GRID, seed: int = 31, **options: object
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
        "Maximum": price.amax(-1).clamp(min=1),
        "Minimum": price.amin(-1).clamp(max=1),
        "KnockOut": price[..., -1],
        "RealizedVariance": (torch.cat([torch.zeros(1, 64, 1), price.log()], -1).diff(dim=-1) ** 2).sum(-1),
    }[named(functional)]
    sample = smc.simulate(PROCESS, GRID, smc.Draws(30), 64, functional, carry=CARRY)
    torch.testing.assert_close(torch.exp(sample.log_outcome), by_hand, rtol=100 * EPS, atol=0)


@pytest.mark.parametrize("functional", KNOWN, ids=named)
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
    if not hasattr(functional, "linear_weights"):  # a product of powers of the fixings grows with its expectation, path by path
        assert float((free - carried).abs().max()) > 1e-3


@pytest.mark.parametrize("functional", KNOWN, ids=named)
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


@pytest.mark.parametrize("functional", [f for f in FUNCTIONALS if hasattr(f, "linear_weights")], ids=named)
def test_linear_weights_make_the_outcome(functional: object) -> None:
    paths = smc.simulate(PROCESS, GRID, smc.Draws(30), 64).log_return[..., 1:] + CARRY * GRID.times()
    sample = smc.simulate(PROCESS, GRID, smc.Draws(30), 64, functional, carry=CARRY)
    torch.testing.assert_close(sample.log_outcome, paths @ functional.linear_weights(10), rtol=0, atol=8 * EPS)


def test_the_extremes_enclose_the_path_and_their_atom_is_today() -> None:
    highest, lowest, last = simulated((smc.Maximum(), smc.Minimum(), smc.Terminal()))
    assert bool((highest.log_outcome >= last.log_outcome.clamp(min=0)).all())
    assert bool((lowest.log_outcome <= last.log_outcome.clamp(max=0)).all())
    for sample in (highest, lowest):
        assert sample.atom == 0
        assert torch.equal(sample.weight == 0, sample.log_outcome == 0)
        assert 0.01 < float((1 - sample.weight).mean()) < 0.3


@pytest.mark.parametrize("sign", [1, -1])
def test_the_mean_logarithm_of_an_extreme_is_the_sum_of_spitzer(sign: int) -> None:
    """Spitzer (1956): E max(0, Y_1, …, Y_M) = Σ E[Y_k⁺]/k of a random walk, exactly."""
    t = GRID.times()
    mean, deviation = sign * (CARRY - 0.045) * t, 0.3 * t.sqrt()
    h = mean / deviation
    positive = mean * torch.special.ndtr(h) + deviation * torch.exp(-(h**2) / 2) / math.sqrt(2 * math.pi)
    sample = simulated(smc.Maximum() if sign == 1 else smc.Minimum())
    found, error = sample.mean(sample.log_outcome)
    assert abs(float(found) - sign * float((positive / torch.arange(1, 11)).sum())) < 4 * float(error)


def survival(barrier: float, maturity: float) -> float:
    """The probability that a Brownian motion with drift stays below h, or above it: the reflection principle."""
    h, drift, deviation = math.log(barrier), CARRY - 0.045, 0.3 * math.sqrt(maturity)
    sign = 1 if h > 0 else -1
    normal = torch.special.ndtr(torch.tensor([sign * (h - drift * maturity), -sign * (h + drift * maturity)]).double() / deviation)
    return float(normal[0] - math.exp(2 * drift * h / 0.09) * normal[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("functional", [smc.KnockOut(1.4, "up"), smc.KnockOut(0.8, "down")], ids=lambda f: f.direction)
def test_a_bridge_survives_as_often_as_the_reflection_principle_says(functional: smc.KnockOut, steps: int, dtype: torch.dtype) -> None:
    """At any number of steps: the weight has no bias."""
    sample = simulated(functional, smc.TimeGrid(2.0, steps), dtype=dtype)
    assert bool(((sample.weight >= 0) & (sample.weight <= 1)).all())
    found, error = sample.mean(sample.weight.double())
    assert abs(float(found) - survival(functional.barrier, 2.0)) < sigmas(8) * float(error)


@pytest.mark.parametrize(("barrier", "direction"), [(1.4, "up"), (0.8, "down")])
def test_watching_the_fixings_alone_lets_more_paths_live(barrier: float, direction: str) -> None:
    always, sometimes = simulated((smc.KnockOut(barrier, direction), smc.KnockOut(barrier, direction, "fixings")))
    assert bool((always.weight <= sometimes.weight).all())
    assert float((sometimes.weight - always.weight).mean()) > 0.02
    assert bool((sometimes.weight == 0)[always.weight == 0].all())  # to touch at a fixing is to touch
    paths = torch.exp(smc.simulate(PROCESS, GRID, smc.Draws(31), 1 << 13).log_return[..., 1:] + CARRY * GRID.times())
    inside = paths.amax(-1) < barrier if direction == "up" else paths.amin(-1) > barrier
    assert torch.equal(sometimes.weight, inside.double())


@pytest.mark.parametrize("functional", [smc.KnockOut(1e6, "up"), smc.KnockOut(1e-6, "down")], ids=lambda f: f.direction)
def test_a_barrier_out_of_reach_leaves_the_terminal_price(functional: smc.KnockOut) -> None:
    barred, last = simulated((functional, smc.Terminal()))
    assert torch.equal(barred.log_outcome, last.log_outcome)
    assert torch.equal(barred.weight, torch.ones_like(barred.weight))


def test_a_step_without_variation_crosses_no_barrier() -> None:
    up, zero = smc.KnockOut(2.0, "up"), torch.zeros(1, 2, dtype=torch.float64)
    state = up.update(up.start(zero), torch.tensor([[0.1, 1.0]]).double(), zero)
    assert up.finish(state, 1)[1].tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_realised_variance_has_the_mean_and_variance_of_a_sum_of_squares(dtype: torch.dtype) -> None:
    """Of M normals of mean μΔt and variance σ²Δt; it is that of the whole life, 2 years here."""
    sample = simulated(smc.RealizedVariance(), dtype=dtype)
    variance, mean = 0.09 * 0.2, (CARRY - 0.045) * 0.2
    expected = 10 * (variance + mean**2)
    found, error = sample.mean(sample.outcome.double())
    assert abs(float(found) - expected) < 4 * float(error)
    found, error = sample.mean((sample.outcome.double() - expected) ** 2)
    assert abs(float(found) - 10 * (2 * variance**2 + 4 * variance * mean**2)) < 4 * float(error)


PRICES = torch.log(torch.tensor([[[1.0, 2.0]], [[4.0, 0.5]]], dtype=torch.float64))  # two assets, one set, two paths


def test_a_basket_is_the_weighted_mean_of_its_assets() -> None:
    basket, geometric = smc.Basket((0.25, 0.75)), smc.Basket((0.25, 0.75)).control
    assert basket.assets == 2
    outcome = torch.exp(basket.finish(basket.update(basket.start(PRICES[0]), PRICES), 1))
    torch.testing.assert_close(outcome, torch.tensor([[3.25, 0.875]]).double(), rtol=8 * EPS, atol=0)
    product = torch.exp(geometric.finish(geometric.update(None, PRICES), 1))
    torch.testing.assert_close(product, torch.tensor([[4**0.75, 2**-0.5]], dtype=torch.float64), rtol=8 * EPS, atol=0)
    assert geometric.control is geometric
    assert smc.Basket([0.5, 0.5]) == smc.Basket((0.5, 0.5))


def test_the_law_of_the_geometric_basket_is_that_of_a_sum_of_correlated_normals() -> None:
    covariance = torch.tensor([[0.09, 0.02], [0.02, 0.04]], dtype=torch.float64)
    carry = torch.tensor(CARRY, dtype=torch.float64)
    mean, variance = smc.GeometricBasket((0.25, 0.75)).lognormal_law(covariance, GRID, carry)
    assert float(mean) == pytest.approx(0.1 - (0.25 * 0.09 + 0.75 * 0.04) / 2, rel=1e-15)
    assert float(variance) == pytest.approx(0.09 / 16 + 2 * 0.02 * 3 / 16 + 0.04 * 9 / 16, rel=1e-15)
    several = smc.GeometricBasket((0.25, 0.75)).lognormal_law(covariance.expand(3, 2, 2), GRID, carry)
    assert [x.shape for x in several] == [(3,), (3,)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: smc.KnockOut(0.9, "up"), r"barrier must be a number above 1 for direction 'up' \(over today's price\); got 0.9: take the"),
        (lambda: smc.KnockOut(1.1, "down"), r"barrier must be a number below 1 for direction 'down' \(over today's price\); got 1.1"),
        (lambda: smc.KnockOut(1.0, "up"), r"barrier must be a number above 1 .* got 1.0"),
        (lambda: smc.KnockOut([1.1, 1.2], "up"), r"barrier must be a number above 1 .* got \[1.1, 1.2\]"),
        (lambda: smc.KnockOut(-1.0, "down"), r"barrier must be positive \(over today's price\); got -1.0"),
        (lambda: smc.KnockOut(1.1, "in"), r"direction must be one of up, down; got 'in'"),
        (lambda: smc.KnockOut(1.1, "up", "daily"), r"monitoring must be one of continuous, fixings; got 'daily'"),
        (lambda: smc.Basket((0.5, 0.6)), r"weights must be \(A,\) and sum to 1 .* got \(0.5, 0.6\): divide them by their sum"),
        (lambda: smc.Basket(1.0), r"weights must be \(A,\) and sum to 1"),
        (lambda: smc.GeometricBasket((1.5, -0.5)), r"weights must be positive \(share of today's value\); got -0.5"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_barrier_between_fixings_needs_a_scheme_that_says_how_it_moves_there() -> None:
    with pytest.raises(TypeError, match="KnockOut needs the quadratic variation between fixings, which the euler scheme of BlackScholes"):
        simulated(smc.KnockOut(1.4, "up"), scheme="euler")
    assert simulated(smc.KnockOut(1.4, "up", "fixings"), scheme="euler").weight is not None
