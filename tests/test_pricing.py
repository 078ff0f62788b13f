"""Prices by Fourier series: Black's formula, parity, shape in the strike, atoms, batches, linearity."""

from __future__ import annotations

import math
import re

import pytest
import torch
from fixtures import sigmas
from test_distribution import MIXTURE, NORMAL, S, f64
from torch import Tensor

import spectralmc as smc
from spectralmc.evaluation import FastPuts
from spectralmc.pricing import put_series

KINDS = ("call", "put")
K = torch.linspace(-1.5, 1.5, 61, dtype=torch.float64)


def black(k: Tensor, s: float, kind: str) -> Tensor:
    return smc.black_price(k, s, 1.0, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("s", [0.003, 0.05, 0.3, 1.0, 2.0])
def test_prices_are_those_of_black_to_1e_minus_12_of_forward_or_strike(s: float, kind: str) -> None:
    law, k = smc.Distribution.of(smc.BlackScholes(s), 1.0), s * torch.linspace(-4, 4, 33, dtype=torch.float64)
    error = (smc.cos_price(law, k, kind) - black(k, s, kind)).abs()
    assert bool((error <= 1e-12 * torch.exp(k).clamp(min=1)).all())


def test_call_minus_put_is_forward_minus_strike_to_the_last_bits() -> None:
    call, put = (smc.cos_price(NORMAL, K, kind) for kind in KINDS)
    torch.testing.assert_close(call - put, 1 - torch.exp(K), rtol=0, atol=1e-15 * math.exp(1.5))


@pytest.mark.parametrize("law", [NORMAL, MIXTURE.distribution()], ids=["normal", "atom"])
def test_prices_are_monotone_and_convex_in_the_strike_and_within_their_bounds(law: smc.Distribution) -> None:
    strike = torch.linspace(0.2, 4, 77, dtype=torch.float64)
    call, put = (smc.cos_price(law, torch.log(strike), kind) for kind in KINDS)
    for price in (call, put):
        slope = price.diff() / strike.diff()
        assert bool((slope.diff() > -1e-11).all())
    assert bool((call.diff() < 1e-12).all() and (put.diff() > -1e-12).all())
    assert bool((call > (1 - strike).clamp(min=0) - 1e-12).all() and (call < 1).all())
    assert bool((put > (strike - 1).clamp(min=0) - 1e-12).all() and (put < strike).all())


def test_an_atom_pays_its_own_share() -> None:
    """mass × Black's put on the continuous part, whose forward is e^{m+s²/2}, plus the rest on the atom."""
    forward = torch.exp(MIXTURE.location + MIXTURE.scale**2 / 2)[:, None]
    unit = smc.black_price(K - torch.log(forward), MIXTURE.scale[:, None], 1.0, "put")
    on_atom = (torch.exp(K) - torch.exp(MIXTURE.atom)[:, None]).clamp(min=0)
    put = MIXTURE.mass[:, None] * forward * unit + (1 - MIXTURE.mass)[:, None] * on_atom
    torch.testing.assert_close(smc.cos_price(MIXTURE.distribution(), K, "put"), put, rtol=0, atol=1e-12)
    call = put + 1 - torch.exp(K)
    torch.testing.assert_close(smc.cos_price(MIXTURE.distribution(), K, "call"), call, rtol=0, atol=1e-12)


def test_batch_and_strike_shapes() -> None:
    law = MIXTURE.distribution()
    assert smc.cos_price(law, K).shape == (3, 61)
    assert smc.cos_price(law, K.expand(3, -1)).shape == (3, 61)
    assert smc.cos_price(law, 0.1).shape == (3,)
    assert smc.cos_price(NORMAL, 0.1).shape == ()
    assert smc.cos_price(NORMAL, [0.1]).shape == (1,)
    rows = smc.cos_price(law, torch.stack([K, K / 2, -K]))
    for i, k in enumerate((K, K / 2, -K)):
        torch.testing.assert_close(rows[i], smc.cos_price(law, k)[i], rtol=0, atol=1e-14)


def test_prices_are_linear_in_the_characteristic_function() -> None:
    def law(values: Tensor) -> smc.Distribution:
        return smc.Distribution(values, NORMAL.grid, NORMAL.location, NORMAL.scale)

    other = NORMAL.values * torch.exp(0.3j * NORMAL.grid.frequency)
    mixed = smc.cos_price(law(0.25 * NORMAL.values + 0.75 * other), K, "put")
    parts = 0.25 * smc.cos_price(law(NORMAL.values), K, "put") + 0.75 * smc.cos_price(law(other), K, "put")
    torch.testing.assert_close(mixed, parts, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampling", ["independent", "sobol"])
def test_prices_of_an_empirical_law_are_those_of_its_sample_within_the_error(sampling: str, kind: str) -> None:
    sample = smc.simulate(smc.BlackScholes(0.3), smc.TimeGrid(2.0, 1), smc.Draws(71, sampling), 1 << 14, smc.Terminal())
    k = f64(-0.5, 0.0, 0.5)
    found = smc.cos_price(smc.Distribution.of(sample), k, "put")[0]
    for i, strike in enumerate(k.exp()):
        payoff = (strike - sample.outcome).clamp(min=0) if kind == "put" else (sample.outcome - strike).clamp(min=0)
        mean, error = sample.mean(payoff)
        exact = float(black(k[i], S, kind))
        assert abs(float(mean) - exact) < sigmas(3) * float(error)
        if kind == "put":  # the series of the sample is its own price, smoothed by less than the error
            assert abs(float(found[i] - mean)) < 2 * float(payoff.std()) / 128


def test_differentiable_in_the_strike_twice() -> None:
    k = K[20:40:5].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: smc.cos_price(NORMAL, x, "put"), (k,))
    (slope,) = torch.autograd.grad(smc.cos_price(NORMAL, k, "put").sum(), k)
    torch.testing.assert_close(slope, torch.exp(k) * NORMAL.cdf(k.detach()), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("k", "kind", "message"),
    [
        (math.nan, "put", "log_moneyness must be finite; got nan"),
        ([-math.inf], "put", "log_moneyness must be finite; got -inf"),
        ([], "put", "log_moneyness must not be empty; got shape (0,)"),
        (0.0, "straddle", "kind must be one of call, put; got 'straddle'"),
        ([[0.0], [0.1]], "put", "log_moneyness must have shape ('J',); got (2, 1)"),
    ],
)
def test_bad_input_is_refused(k: object, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        smc.cos_price(NORMAL, k, kind)


def test_a_worthless_atom_pays_neither_call_nor_put() -> None:
    """What is left is mass × the options on the continuous part, and parity is 1 − e^k·mass."""
    mass, s, grid = f64(0.7, 1.0), f64(0.25, 0.25), smc.FrequencyGrid(16.0, 64)
    location = -torch.log(mass) - s**2 / 2
    values = torch.exp(-(grid.frequency**2) / 2).expand(2, -1) + 0j
    law = smc.Distribution(values, grid, location, s, mass, f64(-math.inf, -math.inf))
    call, put = (smc.cos_price(law, K, kind) for kind in KINDS)
    torch.testing.assert_close(call - put, 1 - torch.exp(K) * mass[:, None], rtol=0, atol=1e-14)
    for found, kind in ((call, "call"), (put, "put")):
        unit = smc.black_price(K + torch.log(mass)[:, None], 0.25, 1.0, kind)
        torch.testing.assert_close(found, unit, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-11, 1e-8, 1e-4, 1.0])
def test_the_series_keeps_its_digits_for_the_smallest_volatilities(scale: float) -> None:
    grid, s, y = smc.FrequencyGrid(12.0, 64), torch.tensor([scale]).double(), torch.tensor([[-2.0, 0.0, 1.5]]).double()
    values, k, m = torch.exp(-(grid.frequency**2) / 2)[None] + 0j, y * s, -(s**2) / 2
    series = put_series(grid, m, s, k)
    exact = smc.black_price(k, s[:, None], 1.0, "put")
    found = series.constant + (series.weights * values[:, None]).real.sum(-1)
    assert found == pytest.approx(exact, rel=1e-10, abs=1e-14)  # rounding of a unit forward
    single = values.to(torch.complex64).numpy()
    fast = FastPuts(grid)(single, 1.0, m[:, None].numpy(), s[:, None].numpy(), k.numpy(), torch.exp(k).numpy())
    assert fast == pytest.approx(exact.numpy(), abs=1e-6 * scale + 1e-14)
