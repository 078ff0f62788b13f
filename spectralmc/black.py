"""Black's formula: price, vega and implied volatility, to full relative accuracy far into the wings.

Everything is undiscounted on a unit forward: k = ln(K/F) is the log-moneyness, s = σ√T the total volatility,
d₁ = s/2 − k/s and d₂ = d₁ − s.  With φ the normal density and Y(z) = Φ(z)/φ(z) (a scaled error function that neither
under- nor overflows where it is used), the out-of-the-money call and its distance from 1 are, for k ≥ 0,

    c = φ(d₁) (Y(d₁) − Y(d₂)),        1 − c = φ(d₁) (Y(−d₁) + Y(d₂)),        ∂c/∂s = φ(d₁).

Puts and in-the-money options follow by symmetry (k → −k) and parity (call − put = 1 − eᵏ).  The one difference that
cancels, for s/2 small beside 1 + |k|/s, is summed from positive terms instead (`_small_difference`).
Inputs of any floating type are widened: results are float64.
"""

from __future__ import annotations

import math
import sys
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.special import erfcx, log_ndtr, ndtri

from spectralmc.validation import Number, one_of, real

Kind = Literal["call", "put"]

_DENSITY = 1 / math.sqrt(2 * math.pi)  # φ(0)
_DEPTH = 48  # of the continued fraction, for a ≥ 2: below rounding
_TERMS = 8  # of the odd series, for a < 2
_SMALLEST = sys.float_info.min  # a normal number: a thread may flush smaller ones to zero, and does once torch 2.4 compiled in it


def black_price(log_moneyness: Number, volatility: Number, maturity: Number, kind: Kind = "call") -> Tensor:
    """Price a European option on a unit forward, undiscounted.

        call = Φ(d₁) − eᵏ Φ(d₂),    put = eᵏ Φ(−d₂) − Φ(−d₁),    d₁ = s/2 − k/s,  d₂ = d₁ − s,  s = σ√T

    Shape: the three arguments broadcast, and so does the result (float64).
    Units: k = ln(K/F) without dimension, volatility σ per √year (0 gives the intrinsic value), maturity in years.
    Accuracy: an out-of-the-money price to 20 + d₁² units of rounding, relative (d₁² is what rounding k itself costs);
    4e-15 for |k| < s, 2e-13 at 1e-300.
    Differentiable twice in every argument, with the formula's own derivatives.
    Raises: ``ValueError`` for a NaN, a negative volatility, a maturity that is not positive, an unknown kind, or shapes
    that do not broadcast.
    Reference: Black (1976), The pricing of commodity contracts.

    >>> black_price(0.0, 0.2, 1.0)
    tensor(0.0797, dtype=torch.float64)
    """
    one_of("kind", kind, ("call", "put"))
    k, s, _ = _arguments(log_moneyness, volatility, maturity)
    price: Tensor = _Price.apply(k, s, kind == "call")  # type: ignore[no-untyped-call]
    return price


def black_vega(log_moneyness: Number, volatility: Number, maturity: Number) -> Tensor:
    """Differentiate the Black price with respect to volatility: vega = φ(d₁) √T, the same for calls and puts.

    Shape, units, accuracy and errors as in `black_price`; the unit is a forward per unit of volatility (√year).

    >>> black_vega(0.0, 0.2, 1.0)
    tensor(0.3970, dtype=torch.float64)
    """
    k, s, maturity = _arguments(log_moneyness, volatility, maturity)
    return _slope_volatility(k, s) * maturity.sqrt()


def implied_volatility(price: Number, log_moneyness: Number, maturity: Number, kind: Kind = "call") -> Tensor:
    """Invert Black's formula: the volatility σ with `black_price(log_moneyness, σ, maturity, kind)` = price.

    Shape: the three arguments broadcast, and so does the result (float64).
    Units: an undiscounted price on a unit forward (divide by discount factor × forward), ln(K/F), years.
    A price that equals the intrinsic value to the last bit gives volatility 0.
    Accuracy: volatility → price → volatility comes back within 1e-14 + 2ε price/(vega σ), relative: what the rounding
    of the price (ε = 2.2e-16) leaves knowable.  That is below 1e-12 but for prices almost all intrinsic value or almost
    the upper bound.
    Differentiable once in every argument (∂σ/∂price = 1/vega).
    Method: the time value is taken to an out-of-the-money call; then Householder steps of fourth order in ln s, on the
    logarithm of that price or of its distance from 1, whichever is smaller, from a lower bound of the root and within
    brackets; three or four are enough everywhere.
    Raises: ``ValueError`` for a price below its intrinsic value, one at or above its upper bound (1 for a call, eᵏ for
    a put), and as in `black_price`.
    Reference: in the spirit of Jäckel (2015), Let's be rational, Wilmott 75.

    >>> implied_volatility(0.0797, 0.0, 1.0)
    tensor(0.2001, dtype=torch.float64)
    """
    one_of("kind", kind, ("call", "put"))
    value = real("price", price, unit="undiscounted, over the forward", remedy="drop the quote").double()
    k = real("log_moneyness", log_moneyness).double()
    maturity = real("maturity", maturity, "positive", "years").double()
    value, k, maturity = _broadcast(price=value, log_moneyness=k, maturity=maturity)
    total: Tensor = _TotalVolatility.apply(value, k, kind == "call")  # type: ignore[no-untyped-call]
    return total / maturity.sqrt()


class _Price(torch.autograd.Function):
    """(k, s) → price, with derivatives written as differentiable expressions."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, s: Tensor, call: bool) -> Tensor:
        ctx.save_for_backward(k, s)
        ctx.call = call
        return _out_of_the_money(k.abs(), s) * torch.exp(k.clamp(max=0.0)) + _intrinsic(k, call)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        k, s = ctx.saved_tensors
        return grads[0] * _slope_moneyness(k, s, ctx.call), grads[0] * _slope_volatility(k, s), None


class _TotalVolatility(torch.autograd.Function):
    """(price, k) → s, with the derivatives of the inverse function."""

    @staticmethod
    def forward(ctx: Any, price: Tensor, k: Tensor, call: bool) -> Tensor:
        intrinsic, upper = _intrinsic(k, call), torch.ones_like(k) if call else torch.exp(k)
        kind, bound = ("call", "the forward") if call else ("put", "the strike over the forward")
        _refuse(price < intrinsic, price, intrinsic, f"price of a {kind} must be at least its intrinsic value")
        _refuse(price >= upper, price, upper, f"price of a {kind} must be below {bound},")
        scale = torch.exp((-k).clamp(min=0.0))
        s = _solve((price - intrinsic) * scale, (upper - price) * scale, k.abs())
        ctx.save_for_backward(k, s)
        ctx.call = call
        return s

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        k, s = ctx.saved_tensors
        by_price = grads[0] / _slope_volatility(k, s)
        return by_price, -by_price * _slope_moneyness(k, s, ctx.call), None


def _arguments(log_moneyness: Number, volatility: Number, maturity: Number) -> tuple[Tensor, Tensor, Tensor]:
    """Check and broadcast; return k, s = σ√T and T."""
    k = real("log_moneyness", log_moneyness).double()
    sigma = real("volatility", volatility, "non-negative", "per square root of a year").double()
    years = real("maturity", maturity, "positive", "years").double()
    k, sigma, years = _broadcast(log_moneyness=k, volatility=sigma, maturity=years)
    return k, sigma * years.sqrt(), years


def _broadcast(**tensors: Tensor) -> tuple[Tensor, ...]:
    try:
        shape = np.broadcast_shapes(*(value.shape for value in tensors.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in tensors.items())
        raise ValueError(f"shapes must broadcast against each other; got {shapes}") from None
    return tuple(value.expand(shape) for value in tensors.values())


def _refuse(broken: Tensor, price: Tensor, bound: Tensor, rule: str) -> None:
    if bool(broken.any()):
        value, limit = price[broken][0].item(), bound[broken][0].abs().item()
        raise ValueError(f"{rule} {limit}; got {value}: divide it by discount factor × forward, or drop the quote")


def _intrinsic(k: Tensor, call: bool) -> Tensor:
    return (-torch.expm1(k) if call else torch.expm1(k)).clamp(min=0.0)


def _slope_volatility(k: Tensor, s: Tensor) -> Tensor:
    """∂price/∂s = φ(d₁)."""
    d1 = s / 2 - k / s.clamp(min=_SMALLEST)
    return _DENSITY * torch.exp(-d1 * d1 / 2)


def _slope_moneyness(k: Tensor, s: Tensor, call: bool) -> Tensor:
    """∂price/∂k = −eᵏ Φ(d₂) for a call, eᵏ Φ(−d₂) for a put."""
    d2 = -s / 2 - k / s.clamp(min=_SMALLEST)
    return -torch.exp(k + log_ndtr(d2)) if call else torch.exp(k + log_ndtr(-d2))


def _mills(z: Tensor) -> Tensor:
    """Y(z) = Φ(z)/φ(z)."""
    ratio: Tensor = math.sqrt(math.pi / 2) * erfcx(-z / math.sqrt(2))
    return ratio


def _out_of_the_money(k: Tensor, s: Tensor) -> Tensor:
    """The call for k ≥ 0."""
    d1, difference, total = _ratios(k, s)
    density = _DENSITY * torch.exp(-d1 * d1 / 2)
    return torch.where(d1 > 1, 1 - density * total, density * difference)


def _ratios(k: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """d₁, c/φ(d₁) (for d₁ < 30) and (1 − c)/φ(d₁) (for d₁ > −30), k ≥ 0."""
    a, t = k / s.clamp(min=_SMALLEST), s / 2
    d1, far = t - a, _mills(-t - a)
    direct = torch.where(d1 > 1, 1 / (_DENSITY * torch.exp(-d1 * d1 / 2)) - _mills(-d1), _mills(d1)) - far
    return d1, torch.where(t < 0.15 * (1 + a), _small_difference(a, t), direct), _mills(-d1) + far


def _small_difference(a: Tensor, t: Tensor) -> Tensor:
    """Y(t − a) − Y(−t − a) = Σ over odd n of 2 tⁿ Jₙ, where Jₙ = ∫₀^∞ uⁿ exp(−u²/2 − au) du / n! > 0.

    (n+1) Jₙ₊₁ = Jₙ₋₁ − a Jₙ.  For a ≥ 2 its decaying solution is taken by downward ratios Jₙ/Jₙ₋₁ (a continued
    fraction), with the series nested around them; for a < 2 it runs upward from J₀ = Y(−a), J₁ = 1 − a J₀.
    """
    first, square = _mills(-a), t * t
    root = torch.sqrt(a * a + 4 * _DEPTH + 4)
    ratio = 2 / (root + a) * (1 - 1 / root**2)  # the tail J/J of the fraction, to second order in 1/root
    nested = torch.ones_like(a)
    for n in range(_DEPTH, 0, -1):
        above, ratio = ratio, 1 / (a + (n + 1) * ratio)
        if n % 2 == 0:
            nested = 1 + nested * square * ratio * above
    before, here = first, 1 - a * first
    power, series = t, here * t
    for n in range(1, 2 * _TERMS):
        before, here = here, (before - a * here) / (n + 1)
        if n % 2 == 0:
            power = power * square
            series = series + power * here
    return 2 * torch.where(a < 2, series, first * ratio * t * nested)


def _solve(c: Tensor, rest: Tensor, k: Tensor) -> Tensor:
    """s of the call c for k ≥ 0, where rest = 1 − c; 0 where c = 0."""
    low, zero = c < rest, c == 0
    goal = torch.where(zero, 0.25, torch.minimum(c, rest))
    s = _lower_bound(goal, low, k)
    below, above = torch.zeros_like(s), torch.full_like(s, math.inf)
    for _ in range(100):
        gap, step = _householder(goal, low, k, s)
        high = (gap > 0) == low
        below, above = torch.where(high, below, s), torch.where(high, s, above)
        new = s + s * torch.expm1(step)
        middle = torch.where(above.isinf(), 2 * s, (below + above) / 2)
        settled = step.abs() < 2e-5  # the step itself leaves an error of its fourth power
        s = torch.where(settled | ((new > below) & (new < above)), new, middle)
        if bool(settled.all()):
            break
    return torch.where(zero, 0.0, s)


def _lower_bound(goal: Tensor, low: Tensor, k: Tensor) -> Tensor:
    """From c ≤ Φ(d₁), which inverts to s = d₁ + √(d₁² + 2k), and from c ≤ the at-the-money price 2Φ(s/2) − 1."""
    d = torch.where(low, ndtri(goal), -ndtri(goal))
    root = torch.sqrt(d * d + 2 * k)
    wing = torch.where(d < 0, 2 * k / (root - d), root + d)
    centre = torch.where(low, math.sqrt(8) * torch.erfinv(goal), -2 * ndtri(goal / 2))
    return torch.maximum(wing, centre)


def _householder(goal: Tensor, low: Tensor, k: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The gap ln(c/goal) or ln((1 − c)/goal) at s, and the step in ln s of fourth order that closes it."""
    d1, difference, total = _ratios(k, s)
    ratio = torch.where(low, difference, total)
    quotient = _DENSITY * torch.exp(-d1 * d1 / 2) * ratio / goal
    gap = torch.log(ratio) - torch.log(goal) - d1 * d1 / 2 + math.log(_DENSITY)
    gap = torch.where((quotient > 0.5) & (quotient < 2), torch.log(quotient), gap)
    a2, s2 = (k / s) ** 2, s * s / 4
    first = torch.where(low, s, -s) / ratio
    second = 1 + a2 - s2 - first
    third = second**2 - 2 * a2 - 2 * s2 - first * second
    newton = -gap / first
    bend = (1 + newton * second / 2) / (1 + newton * (second + newton * third / 6))
    return gap, newton * torch.where((bend > 0.2) & (bend < 5), bend, 1.0)
