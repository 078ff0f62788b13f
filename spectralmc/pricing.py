"""European prices on a distribution: every strike at once, linear in the characteristic function."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from spectralmc.distribution import Distribution
from spectralmc.validation import Number, one_of, real


def cos_price(distribution: Distribution, log_moneyness: Number, kind: Literal["call", "put"] = "call") -> Tensor:
    r"""Price European options on the outcome by its Fourier series; undiscounted, on a unit forward.

    .. math:: P(k) = E[(e^k - e^X)^+], \qquad C(k) = P(k) + 1 - e^k

    The put is integrated term by term in closed form (the complex form of Fang and Oosterlee 2008, "A novel pricing method for
    European options based on Fourier-cosine series expansions"); the call follows by parity, since E[e^X] = 1.  An atom pays what its
    outcome pays; one at −∞ pays neither call nor put (a knocked-out path), and parity is then C − P = 1 − e^k·mass.

    Shapes: ``log_moneyness`` k = ln(K/F) as (), (L,) or batch + (L,); prices batch + (L,), or batch for a single k.

    Accuracy: rounding plus the truncation of the series, below 1e-12·max(1, e^k) of the forward where φ decays within the grid and the
    density within ±L standard deviations; an error of φ can take a price out of its no-arbitrage bounds by as much.

    Raises
    ------
    ValueError
        k not finite, or an unknown kind.
    """
    one_of("kind", kind, ("call", "put"))
    k = real("log_moneyness", log_moneyness).double()
    strikes = distribution.aligned("log_moneyness", k.reshape(-1) if k.ndim == 0 else k)
    m, s, mass, atom = (x[..., None] for x in (distribution.location, distribution.scale, distribution.mass, distribution.atom))
    z = (strikes - m) / s
    strike = torch.exp(strikes)
    below, share = distribution.partial_expectation(z, 0.0), distribution.partial_expectation(z, distribution.scale)
    pays = torch.isfinite(atom) | (mass == 1)
    on_atom = torch.where(pays, (1 - mass) * (strike - torch.exp(atom)).clamp(min=0), 0.0)
    put = mass * (strike * below - torch.exp(m) * share) + on_atom
    price = put if kind == "put" else put + 1 - strike * torch.where(pays, 1.0, mass)
    return price[..., 0] if k.ndim == 0 else price
