"""Prices by simulation, with the control variate where one is known: what a learned price is measured against."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from spectralmc.black import black_price
from spectralmc.draws import Draws
from spectralmc.functionals import Functional
from spectralmc.paths import Sample, simulate
from spectralmc.processes import TimeGrid, batch_size, with_fields
from spectralmc.validation import Number, count, one_of, real

_OUTCOMES = 1 << 21  # held at once for each functional


class MonteCarloPrice(NamedTuple):
    """A simulated price and its standard error, each (B, L), undiscounted on a unit forward."""

    value: Tensor
    standard_error: Tensor


def monte_carlo_price(
    process: Any,
    functional: Functional,
    grid: TimeGrid,
    log_moneyness: Number,
    draws: Draws,
    paths: int,
    *,
    kind: Literal["call", "put"] = "call",
    carry: Number = 0.0,
    dtype: torch.dtype = torch.float64,
) -> MonteCarloPrice:
    r"""Price options on the outcome of a functional by simulation; undiscounted, on a unit forward F = E[outcome].

    Where the process is lognormal and the functional has a control C with a known lognormal law (the geometric for the arithmetic
    average: Kemna and Vorst 1990), the mean of payoff(X) − payoff(C) is simulated and Black's price of the option on C added.

    Shapes: parameters of the process, maturity and ``carry`` are numbers or (B,); ``log_moneyness`` k = ln(K/F) is (), (L,) or (B, L);
    both results are (B, L).

    Accuracy: the standard error beside the value; for Sobol points from the spread of their randomizations.

    Raises
    ------
    ValueError, TypeError
        as `spectralmc.simulate`; an unknown kind; strikes of a shape that does not fit.

    Example
    -------
    >>> from spectralmc import ArithmeticAverage, BlackScholes, Draws, TimeGrid
    >>> price = monte_carlo_price(BlackScholes(0.2), ArithmeticAverage(), TimeGrid(1.0, 12), 0.0, Draws(7, "sobol"), 2**12)
    >>> price.standard_error.item() < 1e-4
    True
    """
    one_of("kind", kind, ("call", "put"))
    k, b = real("log_moneyness", log_moneyness).double(), real("carry", carry, unit="1/year").double()
    sets = batch_size(process, real("maturity", grid.maturity), b)
    count("paths", paths)
    if k.ndim > 2 or (k.ndim == 2 and len(k) != sets):
        raise ValueError(f"log_moneyness must be (), (L,) or ({sets}, L); got shape {tuple(k.shape)}")
    strikes = k.reshape(1, -1).expand(sets, -1) if k.ndim < 2 else k
    size = max(_OUTCOMES // paths, 1)
    parts = []
    for first in range(0, sets, size):
        rows = slice(first, first + size)
        cut = functools.partial(_row, rows=rows)
        part = with_fields(process, cut), TimeGrid(cut(real("maturity", grid.maturity)), grid.steps), cut(b)
        parts.append(_priced(*part, functional, strikes[rows], draws, paths, kind, dtype, first))
    return MonteCarloPrice(torch.cat([value for value, _ in parts]), torch.cat([error for _, error in parts]))


def _priced(
    process: Any,
    grid: TimeGrid,
    carry: Tensor,
    functional: Functional,
    k: Tensor,
    draws: Draws,
    paths: int,
    kind: Literal["call", "put"],
    dtype: torch.dtype,
    first_set: int,
) -> tuple[Tensor, Tensor]:
    control: Any = getattr(functional, "control", None) if getattr(process, "lognormal", False) else None
    wanted = (functional,) if control is None else (functional, control)
    samples = simulate(process, grid, draws, paths, wanted, carry=carry, dtype=dtype, first_set=first_set)
    sign = 1.0 if kind == "call" else -1.0
    payoffs = [_payoff(samples[0], samples[0].forward, strike, sign) for strike in k.unbind(1)]
    known = torch.zeros_like(k)
    if control is not None:
        variance = control.lognormal_law(process.integrated_variance(grid.maturity), grid, carry)[1]
        share = (samples[1].forward / samples[0].forward).double()[:, None]  # E[C]/E[outcome]
        known = share * black_price(k - torch.log(share), torch.sqrt(variance).reshape(-1, 1), 1.0, kind)
        controls = [_payoff(samples[1], samples[0].forward, strike, sign) for strike in k.unbind(1)]
        payoffs = [payoff - c for payoff, c in zip(payoffs, controls, strict=True)]
    values, errors = zip(*(samples[0].mean(payoff) for payoff in payoffs), strict=True)
    return torch.stack(values, 1).double() + known, torch.stack(errors, 1).double()


def _payoff(sample: Sample, forward: Tensor, k: Tensor, sign: float) -> Tensor:
    """Return (±(outcome/F − e^k))⁺, (B, N)."""
    ratio = torch.exp(sample.log_outcome - torch.log(forward)[:, None])
    return (sign * (ratio - torch.exp(k).to(ratio)[:, None])).clamp(min=0)


def _row(value: Tensor, rows: slice) -> Tensor:
    return value[rows] if value.ndim else value
