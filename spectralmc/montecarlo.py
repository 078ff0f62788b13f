"""Prices by simulation, with as little noise as process and functional allow: what a learned price is measured against."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from spectralmc.black import black_price
from spectralmc.draws import Draws
from spectralmc.functionals import Functional
from spectralmc.paths import Sample, can_condition, control_of, simulate
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
    scheme: str | None = None,
    dtype: torch.dtype = torch.float64,
    conditional: bool | None = None,
    control: bool | None = None,
    device: str = "cpu",
) -> MonteCarloPrice:
    r"""Price options on the outcome of a functional by simulation; undiscounted, on a unit forward F = E[outcome].

    A path pays its payoff, or Black's price given its own mean and variance where the asset's noise is integrated out (``conditional``;
    Willard 1997); less the payoff of the control C on the same draws, whose Black price is added (``control``; Kemna and Vorst 1990 for
    averages).  Each is used where process and functional have it, unless asked for or forbidden.  The control is taken on its own forward,
    C/E[C] beside outcome/F, at the same k.

    Shapes: parameters of the process, maturity and ``carry`` are numbers or (B,); ``log_moneyness`` k = ln(K/F) is (), (L,) or (B, L);
    both results are (B, L).

    ``device`` is where the paths are simulated: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.  The prices are on the CPU, the
    same within rounding.

    Accuracy: the standard error beside the value; for Sobol points from the spread of their randomizations.

    Raises
    ------
    ValueError, TypeError
        as `spectralmc.simulate`; an unknown kind; strikes of a shape that does not fit.

    References: Kemna and Vorst (1990), "A pricing method for options based on average asset values"; Willard (1997), "Calculating prices
    and sensitivities for path-independent derivative securities in multifactor models".

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
    given = can_condition(process, functional, scheme) if conditional is None else conditional
    pair = control_of(process, functional)
    useful = pair is not None and (can_condition(*pair) or not given)
    options: dict[str, Any] = {"conditional": given, "control": useful if control is None else control, "device": device}
    size = max(_OUTCOMES // paths, 1)
    parts = []
    for first in range(0, sets, size):
        rows = slice(first, first + size)
        cut = functools.partial(_row, rows=rows)
        part, times = with_fields(process, cut), replace(grid, maturity=cut(real("maturity", grid.maturity)))
        sample = simulate(part, times, draws, paths, functional, carry=cut(b), scheme=scheme, dtype=dtype, first_set=first, **options)
        parts.append(priced(sample.cpu(), strikes[rows], kind))
    return MonteCarloPrice(torch.cat([value for value, _ in parts]), torch.cat([error for _, error in parts]))


def priced(sample: Sample, k: Tensor, kind: Literal["call", "put"]) -> tuple[Tensor, Tensor]:
    """Return undiscounted prices on a unit forward at k = ln(K/F) (B, L), less the control's error if there is one, and standard errors."""
    sign = 1.0 if kind == "call" else -1.0
    payoffs, known = [_payoff(sample, strike, sign) for strike in k.unbind(1)], torch.zeros_like(k)
    if sample.control is not None and sample.control_law is not None:
        known = black_price(k, torch.sqrt(sample.control_law[1]).reshape(-1, 1), 1.0, kind)
        payoffs = [payoff - _payoff(sample.control, strike, sign) for payoff, strike in zip(payoffs, k.unbind(1), strict=True)]
    values, errors = zip(*(sample.mean(payoff) for payoff in payoffs), strict=True)
    return torch.stack(values, 1).double() + known, torch.stack(errors, 1).double()


def _payoff(sample: Sample, k: Tensor, sign: float) -> Tensor:
    """Return E[(±(outcome/F − e^k))⁺ | path], (B, N): the atom pays its own, or nothing where it is worth nothing."""
    strike, x = torch.exp(k).to(sample.log_outcome)[:, None], sample.log_return
    payoff = (sign * (torch.exp(x) - strike)).clamp(min=0) if sample.variance is None else _black(x, sample.variance, strike, sign)
    if sample.weight is None:
        return payoff
    atom = 0.0 if sample.atom is None else (sign * (math.exp(sample.atom) / sample.forward[:, None] - strike)).clamp(min=0)
    return sample.weight * payoff + (1 - sample.weight) * atom


def _black(mean: Tensor, variance: Tensor, strike: Tensor, sign: float) -> Tensor:
    """Black's formula for a lognormal of this mean and variance of its logarithm, to absolute rounding; fast, for an average of many."""
    deviation = torch.sqrt(variance).clamp(min=torch.finfo(variance.dtype).tiny ** 0.5)
    d2 = (mean - torch.log(strike)) / deviation
    above, worth = torch.special.ndtr(sign * d2), torch.special.ndtr(sign * (d2 + deviation))
    price: Tensor = sign * (torch.exp(mean + variance / 2) * worth - strike * above)
    return price


def _row(value: Tensor, rows: slice) -> Tensor:
    return value[rows] if value.ndim else value
