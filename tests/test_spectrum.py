"""The empirical characteristic function: its value, its error bar, and what a transform in sample order does not see."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from fixtures import sigmas, threads

import spectralmc as smc
from spectralmc.spectrum import Estimate, empirical_characteristic_function, powers

DTYPES = [torch.float32, torch.float64]
U = torch.linspace(-6, 6, 13, dtype=torch.float64)


def sample(paths: int = 4096, seed: int = 51, sets: int = 1, **options: object) -> smc.Sample:
    process = smc.BlackScholes(torch.full((sets,), 0.4, dtype=torch.float64))
    draws = smc.Draws(seed, **options)
    return smc.simulate(process, smc.TimeGrid(1.0, 2), draws, paths, smc.Terminal())


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_mean_of_the_phases(dtype: torch.dtype) -> None:
    x = sample(5000, sets=2).log_return.to(dtype)
    estimate = empirical_characteristic_function(x, U)
    by_hand = torch.exp(1j * U[:, None] * x.double()[:, None, :]).mean(-1)
    assert estimate.value.dtype == dtype.to_complex()
    rounding = 10 * torch.finfo(dtype).eps  # of angles up to 6 × 2, and of blocks summed pairwise
    torch.testing.assert_close(estimate.value.to(by_hand), by_hand, rtol=0, atol=rounding)


def test_it_keeps_the_exact_laws_of_any_characteristic_function() -> None:
    value = empirical_characteristic_function(sample(), U).value[0]
    assert value[6] == 1
    torch.testing.assert_close(value.flip(0), value.conj(), rtol=0, atol=1e-15)
    assert bool((value.abs() <= 1).all())


@pytest.mark.parametrize("grid", [smc.FrequencyGrid(4.0, 20), smc.FrequencyGrid(16.0, 1)])
def test_a_frequency_grid_gives_the_same_as_its_frequencies(grid: smc.FrequencyGrid) -> None:
    fast, plain = (empirical_characteristic_function(sample(), f) for f in (grid, grid.frequency))
    torch.testing.assert_close(fast.value, plain.value, rtol=0, atol=1e-14)
    torch.testing.assert_close(fast.standard_error, plain.standard_error, rtol=1e-10, atol=1e-16)


def test_the_frequencies_of_a_grid_are_multiples_of_pi_over_its_half_width() -> None:
    grid = smc.FrequencyGrid(half_width=8.0, size=5)
    assert grid.frequency.dtype == torch.float64
    torch.testing.assert_close(grid.frequency, math.pi / 8 * torch.arange(1, 6).double(), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("x", "frequency", "shape"),
    [
        ((7,), (3,), (1, 3)),
        ((2, 7), (3,), (2, 3)),
        ((2, 7), (2, 3), (2, 3)),
        ((7,), (4, 3), (4, 3)),
        ((1, 7), (4, 3), (4, 3)),
        ((2, 7), (1, 3), (2, 3)),
    ],
)
def test_shapes(x: tuple[int, ...], frequency: tuple[int, ...], shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    outcomes, u = (torch.randn(s, generator=generator, dtype=torch.float64) for s in (x, frequency))
    value, error = empirical_characteristic_function(outcomes, u)
    assert value.shape == error.shape == shape
    rows = torch.exp(1j * u.expand(shape)[..., None] * outcomes.expand(shape[0], -1)[:, None]).mean(-1)
    torch.testing.assert_close(value, rows, rtol=0, atol=1e-14)


def test_the_error_of_independent_paths_follows_its_formula() -> None:
    x = sample(1000).log_return
    value, error = empirical_characteristic_function(x, U)
    torch.testing.assert_close(error, torch.sqrt((1 - value.abs() ** 2) / 999), rtol=1e-12, atol=0)
    assert error[0, 6] == 0


@pytest.mark.parametrize(("sampling", "randomizations"), [("independent", 1), ("sobol", 16)])
def test_the_stated_error_is_the_error_made(sampling: str, randomizations: int) -> None:
    """Σ|φ̂ − φ|² over 200 sets against Σ of the squared error bars: a ratio near 1.

    |φ̂ − φ|²/E has a variance of at most 2 (that of a chi-square of one degree of freedom), a bar from R randomizations at most 2/(R−1)
    more, so the ratio lies within 4 √(2·(1 + 1/(R−1))/200).
    """
    sets, u = 200, torch.linspace(0.5, 8, 9, dtype=torch.float64)
    runs = sample(1024, 52, sets, sampling=sampling, randomizations=randomizations)
    value, error = empirical_characteristic_function(runs, u)
    exact = smc.BlackScholes(0.4).characteristic_function(u, 1.0)
    ratio = (value - exact).abs().square().mean(0) / error.square().mean(0)
    extra = 1 / (randomizations - 1) if randomizations > 1 else 0.0
    assert bool(((ratio - 1).abs() < 4 * math.sqrt(2 * (1 + extra) / sets)).all())
    if sampling == "sobol":
        assert bool((error.square().mean(0) < (1 - exact.abs() ** 2) / 1024 / 4).all())


def test_the_error_of_randomized_points_is_the_spread_of_their_means() -> None:
    runs = sample(1024, 53, sampling="sobol", randomizations=16)
    value, error = empirical_characteristic_function(runs, U)
    means = torch.exp(1j * U[:, None, None] * runs.log_return.reshape(16, 64)).mean(-1)
    spread = (means - means.mean(1, keepdim=True)).abs().square().sum(1) / (16 * 15)
    torch.testing.assert_close(value[0], means.mean(1), rtol=0, atol=1e-14)
    torch.testing.assert_close(error[0], torch.sqrt(spread), rtol=1e-10, atol=1e-16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 3, 96, 1024])
def test_powers_err_by_less_than_two_roundings_for_each_turn(size: int, dtype: torch.dtype) -> None:
    """The error of e^{ikθ} is that of two factors and a product's √5/2 roundings: with 3/4 for e^{iθ}, below 2k."""
    angle = torch.linspace(-3, 3, 101, dtype=dtype)
    found, k = powers(angle, size), torch.arange(1, size + 1, dtype=torch.float64)[:, None]
    assert found.shape == (size, 101)
    assert found.dtype == dtype.to_complex()
    exact = torch.polar(torch.ones(size, 101, dtype=torch.float64), k * angle.double())
    rounding = torch.finfo(dtype).eps + 3 * torch.finfo(torch.float64).eps  # the second for the reference, kθ ≤ 3k rounded
    assert bool(((found.to(exact) - exact).abs() <= 2 * k * rounding).all())


def test_one_or_two_threads_give_the_same_sum_within_rounding() -> None:
    x = sample(1 << 14).log_return

    def on(number: int) -> Estimate:
        with threads(number):
            return empirical_characteristic_function(x, U)

    torch.testing.assert_close(on(1).value, on(2).value, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["call", "put", "asset"])
def test_a_transform_over_payoffs_in_sample_order_carries_only_their_mean(kind: str) -> None:
    """E[Σ_j Y_j e^{−2πijk/N}] = E[Y] Σ_j e^{−2πijk/N}: N E[Y] in bin 0 and zero in every other one."""
    runs, n = 400, 64
    outcome = sample(runs * n).outcome.reshape(runs, n)
    payoff = {"call": (outcome - 1).clamp(min=0), "put": (1 - outcome).clamp(min=0), "asset": outcome}[kind]
    bins = torch.fft.fft(payoff, dim=1)
    deviation = math.sqrt(n) * payoff.std()  # of every bin; each of real and imaginary part is smaller
    mean = bins.mean(0)
    assert bool((mean[1:].abs() < sigmas(2 * (n - 1)) * deviation / math.sqrt(runs)).all())
    assert float(mean[0].real) == pytest.approx(n * float(payoff.mean()), rel=1e-12)
    assert float(mean[0].abs()) > 10 * float(mean[1:].abs().max())
    shuffled = payoff[:, torch.randperm(n, generator=torch.Generator().manual_seed(1))]
    assert not torch.allclose(torch.fft.fft(shuffled, dim=1)[:, 1:], bins[:, 1:], atol=1e-3)  # it is not even a function of the law
    u = torch.tensor([2.0], dtype=torch.float64)
    x = torch.log(outcome)
    order_free = [empirical_characteristic_function(v, u).value for v in (x, x.flip(1))]
    torch.testing.assert_close(*order_free, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("x", "u", "error", "message"),
    [
        ([], [1.0], ValueError, "sample must not be empty; got shape (0,)"),
        ([0.1], [1.0], ValueError, "a standard error needs at least 2 independent paths or randomizations; got 1"),
        ([0.1, math.nan], [1.0], ValueError, "sample must be finite; got nan"),
        (np.zeros((2, 2, 2)), [1.0], ValueError, "sample must be (N,) or (B, N); got shape (2, 2, 2)"),
        (0.3, [1.0], ValueError, "sample must be (N,) or (B, N); got shape ()"),
        (torch.zeros(3, dtype=torch.complex64), [1.0], TypeError, "sample must be real; got torch.complex64"),
        ("x", [1.0], TypeError, "sample must be a number or an array of numbers; got 'x'"),
        ([0.1, 0.2], [math.inf], ValueError, "frequency must be finite; got inf"),
        ([0.1, 0.2], [], ValueError, "frequency must not be empty; got shape (0,)"),
        ([0.1, 0.2], 1.0, ValueError, "frequency must be (K,) or (B, K) with B = 1; got shape ()"),
        (np.zeros((2, 4)), np.ones((3, 5)), ValueError, "frequency must be (K,) or (B, K) with B = 2; got shape (3, 5)"),
        (np.zeros((2, 4)), np.ones((1, 1, 5)), ValueError, "frequency must be (K,) or (B, K) with B = 2; got shape (1, 1, 5)"),
    ],
)
def test_bad_input_is_refused(x: object, u: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        empirical_characteristic_function(x, u)


def test_one_randomization_has_no_error_and_is_refused() -> None:
    with pytest.raises(ValueError, match="a standard error needs at least 2 independent paths or randomizations; got 1"):
        empirical_characteristic_function(sample(64, sampling="sobol", randomizations=1), U)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"half_width": 0.0}, ValueError, "half_width must be positive (standard deviations); got 0.0"),
        ({"half_width": math.nan}, ValueError, "half_width must be positive (standard deviations); got nan"),
        ({"size": 0}, ValueError, "size must be at least 1; got 0"),
        ({"size": 1.5}, TypeError, "size must be a whole number; got 1.5"),
    ],
)
def test_bad_grids_are_refused(arguments: dict[str, float], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        smc.FrequencyGrid(**arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_standard_error_keeps_its_digits_at_small_frequencies(dtype: torch.dtype) -> None:
    """√(1 − |φ̂|²) is u·s to first order; written that way it would round to 0."""
    x = torch.randn(1, 4096, dtype=dtype, generator=torch.Generator().manual_seed(1)) * 0.2
    u = torch.tensor([1e-9, 1e-6, 1e-4], dtype=dtype)
    error = smc.empirical_characteristic_function(x, u).standard_error[0]
    torch.testing.assert_close(error, u * x.std() / 4096**0.5, rtol=1e-3, atol=0)
