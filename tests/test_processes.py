"""Processes: their schemes against their own law, at the order each scheme states."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from contracts import LAWS, Law
from fixtures import sigmas
from torch import Tensor

import spectralmc as smc
from spectralmc.processes import Process, Scheme, column, scheme_of
from spectralmc.spectrum import empirical_characteristic_function

EPS = torch.finfo(torch.float64).eps
BATES = smc.WithJumps(smc.Heston(0.04, 2.0, 0.06, 0.5, -0.7), smc.LognormalJumps(0.5, -0.1, 0.15))
PROCESSES = [  # a new process joins here, and every law below is applied to it
    smc.BlackScholes(volatility=0.3),
    smc.Merton(0.2, 0.7, -0.1, 0.2),
    smc.VarianceGamma(0.2, -0.1, 0.3),
    smc.Heston(0.04, 2.0, 0.06, 0.5, -0.7),
    BATES,
]
EXACT = [p for p in PROCESSES if math.isinf(scheme_of(p, None).weak_order)]
DTYPES = [torch.float32, torch.float64]


@dataclass(frozen=True)
class Displaced:
    """A process of one's own: S moves by σ(S + shift) dW, ten lines, nothing registered."""

    volatility: float
    shift: float

    def step(self, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
        (x,) = state
        growth = torch.exp(self.volatility * dt.sqrt() * normals[0] - self.volatility**2 * dt / 2)
        return (torch.log((torch.exp(x) + self.shift) * growth - self.shift),)


@dataclass(frozen=True)
class TwoFactors:
    """Its state carries a running variance beside X, and it takes two normals a step."""

    factors = 2

    def start(self, zeros: Tensor) -> tuple[Tensor, Tensor]:
        return zeros, zeros + 0.04

    def step(self, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
        x, v = state
        return x + torch.sqrt(v * dt) * normals[0] - v * dt / 2, v * torch.exp(0.5 * dt.sqrt() * normals[1] - dt / 8)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_a_closed_form_obeys_the_laws_of_a_characteristic_function(process: Any, law: Any) -> None:
    scale = float(torch.sqrt(process.integrated_variance(0.7)))
    law(Law(type(process).__name__, lambda u: process.characteristic_function(u, 0.7), scale, lambda u: torch.full_like(u, 64 * EPS)))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_a_closed_form_is_a_martingale_of_any_batch_and_continuous(process: Any) -> None:
    martingale = process.characteristic_function(torch.tensor([-1j], dtype=torch.complex128), 0.7)
    assert abs(martingale.item() - 1) < 16 * EPS
    u = torch.linspace(0, 30, 6001, dtype=torch.float64)
    both = process.characteristic_function(u, [0.7, 9.0])
    torch.testing.assert_close(both[0], process.characteristic_function(u, 0.7), rtol=1e-12, atol=0)
    for line in (both[1], process.characteristic_function(u - 0.4j, 9.0)):
        ratio = line[1:] / line[:-1]
        assert float((ratio[1:] / ratio[:-1] - 1).abs().max()) < 0.01  # a jump of a branch would turn the phase once


@pytest.mark.parametrize(
    ("process", "slower"),
    [
        (smc.Merton(0.2, 0.8, -0.1, 0.2), smc.Merton(0.1, 0.2, -0.1, 0.2)),
        (smc.VarianceGamma(0.2, -0.1, 0.3), smc.VarianceGamma(0.1, -0.025, 1.2)),
        (smc.Heston(0.04, 2.0, 0.06, 0.8, -0.7), smc.Heston(0.01, 0.5, 0.015, 0.2, -0.7)),
    ],
    ids=lambda p: type(p).__name__,
)
def test_features_are_the_same_on_another_clock_as_the_law_is(process: Any, slower: Any) -> None:
    """Four times slower for four times as long: the same law of X."""
    u = torch.linspace(-9, 9, 19, dtype=torch.float64)
    torch.testing.assert_close(process.features(0.5), slower.features(2.0), rtol=1e-12, atol=1e-14)
    same = process.characteristic_function(u, 0.5), slower.characteristic_function(u, 2.0)
    torch.testing.assert_close(*same, rtol=1e-12, atol=1e-14)


def test_the_closed_form_is_the_normal_one() -> None:
    u, (m, v) = torch.linspace(-9, 9, 37, dtype=torch.float64), (-0.5 * 0.09 * 2, 0.09 * 2)
    expected = torch.exp(1j * u * m - u**2 * v / 2)
    torch.testing.assert_close(smc.BlackScholes(0.3).characteristic_function(u, 2.0), expected, rtol=1e-13, atol=0)
    many = smc.BlackScholes(torch.tensor([0.2, 0.3])).characteristic_function(u, 2.0)
    assert many.shape == (2, 37)
    torch.testing.assert_close(many[1], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("process", EXACT, ids=lambda p: type(p).__name__)
def test_the_exact_scheme_has_the_law_of_the_closed_form(process: Any, dtype: torch.dtype) -> None:
    """|φ̂ − φ| at 64 frequencies: twice that many normals, so the bound is theirs together, not four for each."""
    sample = smc.simulate(process, smc.TimeGrid(2.0, 3), smc.Draws(21), 1 << 14, smc.Terminal(), dtype=dtype)
    u = torch.linspace(0.1, 12, 64, dtype=torch.float64)
    estimate = empirical_characteristic_function(sample, u)
    exact = process.characteristic_function(u, 2.0)
    assert bool(((estimate.value - exact).abs() < sigmas(128) * estimate.standard_error.double()).all())
    mean, error = sample.mean(sample.outcome.double())
    assert abs(float(mean) - 1) < 4 * float(error)


def test_the_exact_scheme_has_no_bias_at_any_step_count() -> None:
    for steps in (1, 2, 16):
        sample = smc.simulate(smc.BlackScholes(0.5), smc.TimeGrid(3.0, steps), smc.Draws(22, "sobol"), 1 << 12, smc.Terminal())
        mean, error = sample.mean(sample.log_return)
        assert abs(float(mean) + 0.375) < 4 * float(error) + EPS
        variance = sample.mean((sample.log_return + 0.375) ** 2)
        assert abs(float(variance[0]) - 0.75) < 4 * float(variance[1])


def test_euler_converges_at_the_order_it_states() -> None:
    """E[S²] under Euler is (1 + σ²Δt)^M exactly, so the simulated bias is known; its slope in Δt is the weak order.

    The same normals serve both schemes and the error of the difference is their own: the slope is determined to about .1.
    """
    process, draws, maturity = smc.BlackScholes(0.5), smc.Draws(23, "sobol", randomizations=16), 1.0
    order = scheme_of(process, "euler").weak_order
    biases = []
    for steps in (2, 4, 8, 16):
        grid = smc.TimeGrid(maturity, steps)
        exact, euler = (smc.simulate(process, grid, draws, 1 << 16, smc.Terminal(), scheme=s) for s in ("exact", "euler"))
        bias, error = exact.mean(euler.outcome**2 - exact.outcome**2)
        known = (1 + 0.25 / steps) ** steps - math.exp(0.25)
        assert abs(float(bias) - known) < 4 * float(error)
        assert float(error) < abs(float(bias)) / 10
        biases.append(abs(float(bias)))
    slope = np.polyfit(np.log([1 / m for m in (2, 4, 8, 16)]), np.log(biases), 1)[0]
    assert abs(slope - order) < 0.3


def test_euler_stays_a_positive_martingale_even_with_large_steps() -> None:
    sample = smc.simulate(smc.BlackScholes(0.2), smc.TimeGrid(1.0, 4), smc.Draws(24), 1 << 15, smc.Terminal(), scheme="euler")
    mean, error = sample.mean(sample.outcome)
    assert abs(float(mean) - 1) < 4 * float(error)
    wild = smc.simulate(smc.BlackScholes(3.0), smc.TimeGrid(9.0, 1), smc.Draws(24), 1 << 10, smc.Terminal(), scheme="euler")
    assert bool((wild.outcome > 0).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_process_of_ones_own_needs_only_a_step(dtype: torch.dtype) -> None:
    process = Displaced(volatility=0.3, shift=-0.5)
    assert isinstance(process, Process)
    sample = smc.simulate(process, smc.TimeGrid(1.0, 2), smc.Draws(25), 1 << 14, smc.Terminal(), dtype=dtype)
    k = 0.1
    value, error = sample.mean((sample.outcome.double() - math.exp(k)).clamp(min=0))
    shifted = 0.5 * smc.black_price(math.log((math.exp(k) - 0.5) / 0.5), 0.3, 1.0)  # S + shift is lognormal
    assert abs(float(value - shifted)) < 4 * float(error)
    assert sample.log_outcome.dtype == dtype


def test_a_process_may_carry_a_state_and_take_several_normals() -> None:
    sample = smc.simulate(TwoFactors(), smc.TimeGrid(1.0, 4), smc.Draws(26), 1 << 14, smc.Terminal())
    mean, error = sample.mean(sample.outcome)
    assert abs(float(mean) - 1) < 4 * float(error)
    variance, error = sample.mean((sample.log_return + 0.02) ** 2)  # E∫v dt = .04, and X is conditionally N(−V/2, V)
    assert abs(float(variance) - 0.04) < 0.04**2 * math.exp(0.25) / 4 + 4 * float(error)


def test_schemes_are_found_by_name_and_the_first_is_the_default() -> None:
    process = smc.BlackScholes(0.2)
    assert scheme_of(process, None).name == "exact"
    assert scheme_of(process, "euler").weak_order == 1.0
    assert math.isinf(scheme_of(process, "exact").weak_order)
    own = scheme_of(Displaced(0.2, 0.1), None)
    assert isinstance(own, Scheme)
    assert math.isnan(own.weak_order)


def test_unknown_schemes_and_things_without_a_step_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^scheme of BlackScholes must be one of exact, euler; got 'milstein'$"):
        scheme_of(smc.BlackScholes(0.2), "milstein")
    with pytest.raises(ValueError, match=r"^scheme of Displaced must be one of step; got 'euler'$"):
        scheme_of(Displaced(0.2, 0.1), "euler")
    with pytest.raises(TypeError, match=re.escape("a process needs a step(state, dt, normals) method or schemes; dict has neither")):
        scheme_of({}, None)
    assert not isinstance({}, Process)


@pytest.mark.parametrize(
    ("volatility", "error", "message"),
    [
        (-0.2, ValueError, "volatility must be positive (per sqrt(year)); got -0.2"),
        (0.0, ValueError, "volatility must be positive (per sqrt(year)); got 0.0"),
        (math.nan, ValueError, "volatility must be positive (per sqrt(year)); got nan"),
        ([0.2, math.inf], ValueError, "volatility must be positive (per sqrt(year)); got inf"),
        ([], ValueError, "volatility must not be empty; got shape (0,)"),
        ("high", TypeError, "volatility must be a number or an array of numbers; got 'high'"),
    ],
)
def test_bad_volatilities_are_refused(volatility: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        smc.BlackScholes(volatility)


@pytest.mark.parametrize("maturity", [0.0, -1.0, math.nan])
def test_bad_maturities_are_refused(maturity: float) -> None:
    message = re.escape(f"maturity must be positive (years); got {maturity}")
    process = smc.BlackScholes(0.2)
    calls = (smc.TimeGrid, process.integrated_variance, process.features)
    for call in (
        *(lambda t, c=c: c(t, 1) if c is smc.TimeGrid else c(t) for c in calls),
        lambda t: process.characteristic_function(torch.ones(1), t),
    ):
        with pytest.raises(ValueError, match=message):
            call(maturity)


@pytest.mark.parametrize(("steps", "error"), [(0, ValueError), (1.5, TypeError)])
def test_bad_step_counts_are_refused(steps: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="steps must be"):
        smc.TimeGrid(1.0, steps)


def test_times_are_the_fixings_and_end_at_maturity() -> None:
    assert smc.TimeGrid(2.0, 4).times().tolist() == [0.5, 1.0, 1.5, 2.0]
    times = smc.TimeGrid(torch.tensor([1.0, 3.0], dtype=torch.float64), 3).times()
    assert times.shape == (2, 3)
    assert times[:, -1].tolist() == [1.0, 3.0]


def test_features_are_the_logarithm_of_the_total_volatility() -> None:
    features = smc.BlackScholes([0.2, 0.4]).features([1.0, 0.25])
    torch.testing.assert_close(features, torch.log(torch.tensor([[0.2], [0.2]], dtype=torch.float64)), rtol=4 * EPS, atol=0)


def test_column_shapes_a_parameter_like_the_state() -> None:
    like = torch.zeros(2, 5, dtype=torch.float32)
    assert column(0.2, like).shape == (1, 1)
    assert column([0.1, 0.2], like).shape == (2, 1)
    assert column(np.array([0.1, 0.2]), like).dtype == torch.float32


def test_a_scheme_has_either_a_step_or_an_increment() -> None:
    step = scheme_of(smc.BlackScholes(0.2), "euler").step
    increment = scheme_of(smc.BlackScholes(0.2), "exact").increment
    with pytest.raises(ValueError, match=r"^a scheme has either a step or an increment; odd has both$"):
        Scheme("odd", step, 1.0, increment)
    with pytest.raises(ValueError, match=r"^a scheme has either a step or an increment; odd has neither$"):
        Scheme("odd", None, 1.0)


def test_substeps_lie_between_the_fixings() -> None:
    grid = smc.TimeGrid([1.0, 2.0], 2, substeps=3)
    assert grid.step_times().shape == (2, 6)
    torch.testing.assert_close(grid.times(), smc.TimeGrid([1.0, 2.0], 2).times(), rtol=EPS, atol=0)
    paths = smc.simulate(smc.BlackScholes([0.2, 0.3]), grid, smc.Draws(1), 8)
    assert paths.log_return.shape == (2, 8, 3)
    with pytest.raises(ValueError, match=r"^substeps must be at least 1; got 0$"):
        smc.TimeGrid(1.0, 2, substeps=0)
