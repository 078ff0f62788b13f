"""European prices on a distribution: every strike at once, linear in the characteristic function."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from spectralmc.distribution import Distribution
from spectralmc.spectrum import FrequencyGrid
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


class PutSeries(NamedTuple):
    """Puts as a linear map of φ: mass · ``constant`` + Re Σ_k ψ_k ``weights``_k with ψ = mass · φ_Z(w_k) of the continuous part."""

    weights: Tensor
    constant: Tensor


def put_series(grid: FrequencyGrid, location: Tensor, scale: Tensor, log_moneyness: Tensor) -> PutSeries:
    r"""Return the map from φ to put prices on the continuous part of the outcome, (e^k − e^{m+sZ})⁺, undiscounted.

    With :math:`z=(k-m)/s`, :math:`c_k=\frac{s}{s^2+w_k^2}(-1+is/w_k)` and both ends of the series taken at −L and z,

    .. math:: \frac{e^m}{L}\Bigl[e^{sy}c_ke^{-iw_ky}\Bigr]_{y=-L}^{z} - \frac{e^m}{L}\,\frac{i(-1)^k}{w_k}\Bigl[e^{sy}\Bigr]_{y=-L}^{z}

    is the weight of ψ_k.  Strikes beyond L standard deviations of m are taken as if no outcome lay there.

    Shapes: location and scale (B,), ``log_moneyness`` (B, L) to weights (B, L, K) complex and constant (B, L).
    """
    half, w = grid.half_width, grid.frequency
    m, s = location[:, None], scale[:, None]
    z = ((log_moneyness - m) / s).clamp(-half, half)
    down = torch.exp(-s * half)
    rise = down * torch.expm1(s * (z + half))  # up − down, to all its digits for the smallest s
    up = down + rise
    constant = up * (z + half) - rise / s
    sign = torch.where(torch.arange(1, grid.size + 1) % 2 == 1, -1.0, 1.0).double()
    factor = torch.complex(-s / (s**2 + w**2), s**2 / (w * (s**2 + w**2)))[:, None]  # (B, 1, K)
    weights = factor * (up[..., None] * torch.exp(-1j * w * z[..., None]) - (down * sign)[:, None])
    weights = weights - 1j * (sign / w) * rise[..., None]
    unit = torch.exp(m) / half
    beyond = (torch.exp(log_moneyness) - torch.exp(m + s * half)).clamp(min=0)
    return PutSeries(unit[..., None] * weights, unit * constant / 2 + beyond)
