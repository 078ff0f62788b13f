"""Black's formula against mpmath and QuantLib, and the laws that tie price, vega and implied volatility together."""

from __future__ import annotations

import doctest
import itertools

import mpmath as mp
import pytest
import QuantLib
import torch
from torch import Tensor

from spectralmc import black
from spectralmc.black import black_price, black_vega, implied_volatility

EPS = torch.finfo(torch.float64).eps
KINDS = ("call", "put")


def exact(k: float, s: float, kind: str) -> mp.mpf:
    """The same formula with 700 digits, enough for any cancellation below."""
    with mp.workdps(700):
        k, s, sign = mp.mpf(k), mp.mpf(s), 1 if kind == "call" else -1
        d1 = s / 2 - k / s
        return sign * (mp.erfc(-sign * d1 / mp.sqrt(2)) - mp.exp(k) * mp.erfc(-sign * (d1 - s) / mp.sqrt(2))) / 2


def spread(count: int = 4000, width: float = 20.0) -> tuple[Tensor, Tensor]:
    """Seeded k and s: s log-uniform in 1e-6 … 10, k/s uniform in ±width."""
    generator = torch.Generator().manual_seed(1)
    u, v = torch.rand(2, count, generator=generator, dtype=torch.float64)
    s = 10 ** (7 * u - 6)
    return width * (2 * v - 1) * s, s


def relative(got: float, truth: mp.mpf) -> float:
    return abs(float(mp.mpf(got) / truth - 1))


@pytest.mark.parametrize("width", [0.3, 1.0, 3.0, 10.0, 20.0, 37.0])
def test_out_of_the_money_prices_are_accurate_relative_to_themselves(width: float) -> None:
    k, s = spread(150, width)
    for x, y in zip(k.tolist(), s.tolist(), strict=True):
        kind = "call" if x >= 0 else "put"
        got, d1 = black_price(x, y, 1.0, kind).item(), y / 2 - abs(x) / y
        assert relative(got, exact(x, y, kind)) <= (20 + d1 * d1) * EPS, (x, y)


@pytest.mark.parametrize(("k", "s"), [(37.0, 1.0), (3.7e-5, 1e-6), (200.0, 10.0), (-200.0, 10.0), (1e-9, 1e-6), (0.0, 1e-6)])
def test_the_far_wings_hold_thirteen_digits_down_to_1e_minus_300(k: float, s: float) -> None:
    kind = "call" if k >= 0 else "put"
    assert relative(black_price(k, s, 1.0, kind).item(), exact(k, s, kind)) < 3e-13


@pytest.mark.parametrize("kind", KINDS)
def test_prices_agree_with_quantlib(kind: str) -> None:
    option = QuantLib.Option.Call if kind == "call" else QuantLib.Option.Put
    for strike, volatility, years in itertools.product((0.5, 0.9, 1.0, 1.2, 2.0), (0.05, 0.2, 0.8), (0.01, 1.0, 5.0)):
        k, s = torch.tensor(strike, dtype=torch.float64).log(), volatility * years**0.5
        expected = QuantLib.blackFormula(option, strike, 1.0, s)
        assert abs(black_price(k, volatility, years, kind).item() - expected) < 5e-16


def test_call_minus_put_is_forward_minus_strike() -> None:
    k, s = spread()
    gap = black_price(k, s, 1.0, "call") - black_price(k, s, 1.0, "put") + torch.expm1(k)
    assert bool((gap.abs() <= 4 * EPS * torch.maximum(torch.ones_like(k), k.exp())).all())


def test_prices_rise_with_volatility_fall_with_strike_and_keep_their_bounds() -> None:
    k, s = torch.linspace(-3, 3, 121, dtype=torch.float64), torch.linspace(0, 6, 121, dtype=torch.float64)[:, None]
    call, put = black_price(k, s, 1.0), black_price(k, s, 1.0, "put")
    assert bool((call.diff(dim=0) >= 0).all() and (put.diff(dim=0) >= 0).all())
    assert bool((call.diff(dim=1) <= 0).all() and (put.diff(dim=1) >= 0).all())
    assert bool((call >= (-torch.expm1(k)).clamp(min=0)).all() and (call <= 1).all() and (put <= k.exp()).all())
    assert torch.equal(call[0], (-torch.expm1(k)).clamp(min=0))


@pytest.mark.parametrize("kind", KINDS)
def test_first_and_second_derivatives_are_those_of_the_price(kind: str) -> None:
    values = ([-0.3, 0.0, 0.4], [0.2, 0.3, 0.1], 2.0)
    arguments = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in values]
    assert torch.autograd.gradcheck(lambda *x: black_price(*x, kind), arguments)
    assert torch.autograd.gradgradcheck(lambda *x: black_price(*x, kind), arguments)


def test_vega_is_the_derivative_even_where_the_price_is_tiny() -> None:
    k, s = spread(width=37.0)
    s.requires_grad_()
    (gradient,) = torch.autograd.grad(black_price(k, s, 1.0).sum(), s)
    torch.testing.assert_close(gradient, black_vega(k, s, 1.0).detach(), rtol=1e-15, atol=0)
    assert relative(black_vega(0.5, 0.2, 1.0).item(), mp.npdf(mp.mpf(0.2) / 2 - mp.mpf(0.5) / mp.mpf(0.2))) < 1e-14


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [0.0, 1e-6, 0.1, 3.0, 20.0, 37.0])
def test_implied_volatility_returns_what_the_price_was_made_with(kind: str, width: float) -> None:
    """To 1e-12 wherever the rounding of the price, times its condition price/(vega σ), leaves that much knowable."""
    k, s = spread(width=width)
    price, vega = black_price(k, s, 1.0, kind), black_vega(k, s, 1.0)
    inside = (price > 1e-300) & (price < (torch.ones_like(k) if kind == "call" else k.exp()))
    error = (implied_volatility(price[inside], k[inside], 1.0, kind) / s[inside] - 1).abs()
    knowable = (EPS * price / (vega * s))[inside]
    assert bool((error <= 1e-14 + 2 * knowable)[knowable < 0.01].all())
    assert float(error[knowable < 4e-13].max()) < 1e-12
    assert int((knowable < 4e-13).sum()) > 2000


def test_out_of_the_money_round_trips_are_within_1e_minus_14_down_to_1e_minus_300() -> None:
    k, s = spread(width=37.0)
    k, s = k[s < 4].abs(), s[s < 4]  # above s = 4 the call at k = 0 is within 5 % of its upper bound
    price = black_price(k, s, 1.0)
    keep = price > 1e-300
    assert float((implied_volatility(price[keep], k[keep], 1.0) / s[keep] - 1).abs().max()) < 1e-14


def test_every_representable_price_has_a_volatility_that_gives_it_back() -> None:
    generator = torch.Generator().manual_seed(2)
    u, v = torch.rand(2, 20000, generator=generator, dtype=torch.float64)
    k, price = 10 ** (302.8 * u - 300), torch.cat([10 ** (-307 * v[:10000]), 1 - 10 ** (-15.5 * v[10000:])])
    sigma = implied_volatility(price, k, 1.0)
    d1 = sigma / 2 - k / sigma
    assert bool(((black_price(k, sigma, 1.0) / price - 1).abs() <= (60 + 10 * d1 * d1) * EPS).all())


def test_at_most_four_steps_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, step = [], black._householder
    monkeypatch.setattr(black, "_householder", lambda *x: calls.append(1) or step(*x))
    k, s = spread(20000)
    price = black_price(k, s, 1.0)
    implied_volatility(price[price < 1], k[price < 1], 1.0)
    assert len(calls) <= 4


@pytest.mark.parametrize("kind", KINDS)
def test_implied_volatility_differentiates_as_the_inverse_function(kind: str) -> None:
    k = torch.tensor([-0.2, 0.0, 0.3], dtype=torch.float64, requires_grad=True)
    price = black_price(k, 0.25, 2.0, kind).detach().requires_grad_()
    years = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: implied_volatility(*x, kind), (price, k, years), eps=1e-7)


@pytest.mark.parametrize("flushed", [False, True])
def test_an_intrinsic_price_has_volatility_zero(flushed: bool, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: torch.set_flush_denormal(False))
    torch.set_flush_denormal(flushed)
    k = torch.tensor([-0.4, 0.0, 0.4], dtype=torch.float64)
    assert torch.equal(implied_volatility(black_price(k, 0.0, 1.0), k, 1.0), torch.zeros_like(k))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arguments_of_either_precision_broadcast_to_float64(dtype: torch.dtype) -> None:
    k, sigma = torch.tensor([-0.5, 0.0, 0.5], dtype=dtype), torch.tensor([[0.25], [0.5]], dtype=dtype)
    price = black_price(k, sigma, 1.0)
    assert price.dtype == torch.float64
    assert price.shape == (2, 3)
    torch.testing.assert_close(implied_volatility(price, k, 1.0), sigma.double().expand(2, 3), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (black_price, (0.0, -0.2, 1.0), "volatility must be non-negative (per square root of a year); got -0.2"),
        (black_price, (0.0, float("nan"), 1.0), "volatility must be non-negative (per square root of a year); got nan"),
        (black_price, (float("inf"), 0.2, 1.0), "log_moneyness must be finite; got inf"),
        (black_price, (0.0, 0.2, 0.0), "maturity must be positive (years); got 0.0"),
        (black_vega, (0.0, 0.2, -1.0), "maturity must be positive (years); got -1.0"),
        (black_price, (0.0, 0.2, 1.0, "straddle"), "kind must be one of call, put; got 'straddle'"),
        (implied_volatility, (0.1, 0.0, 1.0, "Call"), "kind must be one of call, put; got 'Call'"),
        (black_price, ([0.0, 0.1], [0.1, 0.2, 0.3], 1.0), "shapes must broadcast against each other; got"),
        (
            implied_volatility,
            (float("nan"), 0.0, 1.0),
            "price must be finite (undiscounted, over the forward); got nan",
        ),
        (implied_volatility, (0.1, 0.0, 0.0), "maturity must be positive (years); got 0.0"),
        (implied_volatility, ([0.1, -0.1], 0.0, 1.0), "a call must be at least its intrinsic value 0.0; got -0.1"),
        (implied_volatility, (0.05, 0.1, 1.0, "put"), "a put must be at least its intrinsic value 0.10517091807564"),
        (implied_volatility, (1.0, 0.1, 1.0), "a call must be below the forward, 1.0; got 1.0: divide it by discount"),
        (implied_volatility, (1.2, 0.1, 1.0, "put"), "a put must be below the strike over the forward, 1.1051709"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(function: object, arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=r"must") as caught:
        function(*arguments)  # type: ignore[operator]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(black).failed == 0
