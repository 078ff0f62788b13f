"""One redraw of an explorer as plain arrays: what its panels show at one point of the box.

Arrays and scalars carry dotted names, panel before series: ``density.x``, ``density.learned``, ``strikes.simulated``, ``phi.exact.re``.
Prices are undiscounted on a unit forward, Greeks in the units of a `Market`; a number that is not known is NaN.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spectralmc.black import black_vega, implied_volatility
from spectralmc.distribution import Distribution
from spectralmc.explorer.controls import STRIKE
from spectralmc.explorer.laws import Point, columns, exact_greeks, exact_law, simulated
from spectralmc.functionals import expected_outcome
from spectralmc.montecarlo import priced
from spectralmc.parameters import Market, refuse_unknown
from spectralmc.paths import Sample
from spectralmc.pricing import cos_price
from spectralmc.problem import Problem
from spectralmc.spectrum import empirical_characteristic_function
from spectralmc.surrogate import Surrogate
from spectralmc.validation import one_of, real

Kind = Literal["call", "put"]
Quantity = Literal["volatility", "price"]
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # of the quantiles that shade the density
_X = torch.linspace(-5, 5, 161, dtype=torch.float64)  # standard deviations
_EDGES = torch.linspace(-4, 4, 29, dtype=torch.float64)
_STRIKES = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)
_EVERY = 4  # one marker for so many points of a curve over the strikes
_FREQUENCIES = torch.linspace(0, 5, 61, dtype=torch.float64)  # per standard deviation
_MARKED = _FREQUENCIES[6::6]
_KEPT = 32  # samples
_BLURRED = 0.25  # a volatility less certain than this share of itself is not drawn


@dataclass
class Frame:
    """Named arrays (float64) and numbers, and the Greeks of each law by name."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    greeks: dict[str, dict[str, float]] = field(default_factory=dict)

    def put(self, **named: Tensor | np.ndarray) -> None:
        """Add arrays; two underscores in a name stand for its dot."""
        self.arrays |= {name.replace("__", "."): np.asarray(value, dtype=np.float64) for name, value in named.items()}


class _Prices(NamedTuple):
    """Prices of options of a kind, and of those out of the money (puts below the forward), with their errors, (L,) each.

    The second cannot be had from the first where both are simulated: in the money most of the error is that of the forward.
    """

    strikes: Tensor
    value: Tensor
    error: Tensor
    outside: Tensor
    outside_error: Tensor


@dataclass(frozen=True)
class Instrument:
    """What can be asked at every point of a box: the laws that are known there, drawn as arrays.

    ``paths`` and ``seed`` are those of the simulated law, whose last few samples are kept.
    """

    problem: Problem
    surrogate: Surrogate | None
    market: Market
    paths: int
    seed: int
    samples: OrderedDict[tuple[float, ...], Sample] = field(default_factory=OrderedDict, repr=False)

    def frame(
        self, point: Point, kind: Kind = "call", quantity: Quantity = "volatility", simulate: bool = False, greeks: bool = True
    ) -> Frame:
        """Return what the panels show at ``point``: a value for every name of the box and the strike k = ln(K/F).

        The simulated law is left out unless asked for or the only one; the Greeks, half of the work, on demand.

        Raises
        ------
        ValueError
            a name unknown or missing, a value that is not finite or outside the box, an unknown kind or quantity.
        """
        one_of("kind", kind, ("call", "put"))
        one_of("quantity", quantity, ("volatility", "price"))
        at, k = self._checked(point)
        laws = self.laws(at)
        sample = self.sample(at) if simulate or not laws else None
        frame = Frame()
        location, scale = _reach(laws, sample)
        _density(frame, laws, sample, location, scale)
        _plane(frame, laws, sample, scale)
        strikes = torch.cat([_STRIKES * scale, torch.tensor([k], dtype=torch.float64)])
        self._strikes(frame, laws, sample, strikes, at, kind, quantity)
        self._contract(frame, laws, at, k, kind, greeks)
        return frame

    def laws(self, point: Point) -> dict[str, Distribution]:
        """Return the laws that are fast to tell, exact and learned where there is one, as (1,) batches."""
        exact, found = exact_law(self.problem, columns(point)), {}
        if exact is not None:
            found["exact"] = exact
        if self.surrogate is not None:
            parameters, maturity, carry = _split(columns(point))
            found["learned"] = self.surrogate.distribution(parameters, maturity, carry)
        return found

    def sample(self, point: Point) -> Sample:
        """Return the simulated outcomes at a point, drawn once: always from the same seed, so that it repeats."""
        key = tuple(point.values())
        if key not in self.samples:
            self.samples[key] = simulated(self.problem, point, self.paths, self.seed)
            while len(self.samples) > _KEPT:
                self.samples.popitem(last=False)
        self.samples.move_to_end(key)
        return self.samples[key]

    def _checked(self, point: Point) -> tuple[dict[str, float], float]:
        names = [*self.problem.space.box, STRIKE]
        refuse_unknown(point, names)
        for name in names:
            if name not in point:
                raise ValueError(f"a point of the box needs {name!r}; got {', '.join(point) or 'nothing'}")
        values = {name: float(real(name, point[name])) for name in names}
        k = values.pop(STRIKE)
        self.problem.space.check(columns(values))
        return values, k

    def _strikes(
        self, frame: Frame, laws: Mapping[str, Distribution], sample: Sample | None, k: Tensor, at: Point, kind: Kind, quantity: Quantity
    ) -> None:
        """Add prices or volatilities over the strikes, the last of which is the contract's."""
        maturity, marked = at["maturity"], torch.cat([k[:-1:_EVERY], k[-1:]])
        frame.put(strikes__x=k[:-1])
        if sample is not None:
            frame.put(strikes__at=marked[:-1])
        prices = self._prices(laws, sample, k, marked, at, kind)
        lengths = [len(price.strikes) for price in prices.values()]
        parts_of = zip(*((p.outside, p.outside_error, p.strikes) for p in prices.values()), strict=True)
        outside, errors, strikes = (torch.cat(column) for column in parts_of)
        volatilities, blurs = (part.split(lengths) for part in _volatility(outside, errors, strikes, maturity))  # all at once: one search
        for (name, price), volatility, blur in zip(prices.items(), volatilities, blurs, strict=True):
            drawn = (volatility, blur) if quantity == "volatility" else (price.value, price.error)
            frame.put(**{f"strikes__{name}": drawn[0][:-1], f"strikes__{name}_error": drawn[1][:-1]})
            values = {"price": price.value, "error": price.error, "volatility": volatility, "blur": blur}
            frame.scalars |= {f"{name}.{which}": float(value[-1]) for which, value in values.items()}

    def _prices(
        self, laws: Mapping[str, Distribution], sample: Sample | None, k: Tensor, marked: Tensor, at: Point, kind: Kind
    ) -> dict[str, _Prices]:
        found, intrinsic = {}, (-torch.expm1(k) if kind == "call" else torch.expm1(k)).clamp(min=0)
        if "exact" in laws:
            value, nothing = cos_price(laws["exact"], k, kind)[0], torch.zeros_like(k)
            found["exact"] = _Prices(k, value, nothing, value - intrinsic, nothing)
        if self.surrogate is not None:
            parameters, maturity, carry = _split(columns(at))
            value, bar = (x[0] for x in self.surrogate.price(parameters, maturity, k, kind, carry)[:2])
            found["learned"] = _Prices(k, value, bar, value - intrinsic, bar)
        if sample is not None:
            both = {which: [x[0] for x in priced(sample, marked[None], which)] for which in ("call", "put")}
            outside = (torch.where(marked < 0, put, call) for put, call in zip(both["put"], both["call"], strict=True))
            found["simulated"] = _Prices(marked, *both[kind], *outside)
        return found

    def _contract(self, frame: Frame, laws: Mapping[str, Distribution], at: Point, k: float, kind: Kind, greeks: bool) -> None:
        """Add forward and strike in currency, and the Greeks of the laws that have them."""
        points, space, market = columns(at), self.problem.space, self.market
        parameters, maturity, carry = _split({name: float(value) for name, value in at.items()})
        growth = expected_outcome(self.problem.functional, space.at(points), self.problem.time_grid(points), points["carry"])
        if growth is None and self.surrogate is not None:
            growth = self.surrogate.forward(parameters, maturity, carry)
        if growth is None:
            growth = self.sample(at).forward
        forward = market.spot * float(growth)
        strike, rate = forward * math.exp(k), float(market.zero_rate(maturity))
        frame.scalars |= {"forward": forward, "strike": strike}
        if not greeks:
            return
        if "exact" in laws:
            frame.greeks["exact"] = exact_greeks(self.problem, at, market.spot, rate, strike, kind)
        if self.surrogate is not None:
            frame.greeks["learned"] = self._learned_greeks(at, rate, strike, kind)

    def _learned_greeks(self, at: Point, rate: float, strike: float, kind: Kind) -> dict[str, float]:
        """Return the model's Greeks in the form of `exact_greeks`; NaN along what it was never trained to vary."""
        assert self.surrogate is not None
        parameters, maturity, carry = _split({name: float(value) for name, value in at.items()})
        flat = Market(self.market.spot, rate, rate - carry)
        greeks = self.surrogate.greeks(flat, parameters, maturity, strike, kind)
        found = {name: float(getattr(greeks, name)) for name in ("value", "delta", "gamma", "theta", "rho")}
        free = self.problem.space.free
        if "maturity" not in free:
            found["theta"] = math.nan
        if "carry" not in free and getattr(self.problem.functional, "depends_on_carry", True):
            found["rho"] = math.nan
        return found | {name: float(value) for name, value in greeks.parameters.items() if name in free}


def _split(point: Mapping[str, Any]) -> tuple[dict[str, Any], Any, Any]:
    parameters = dict(point)
    maturity, carry = parameters.pop("maturity"), parameters.pop("carry")
    return parameters, maturity, carry


def _reach(laws: Mapping[str, Distribution], sample: Sample | None) -> tuple[Tensor, Tensor]:
    """Return location and scale of what is drawn: of the last law, or of the sample where there is none."""
    if laws:
        law = [*laws.values()][-1]
        return law.location[0], law.scale[0]
    assert sample is not None
    x, weight = sample.log_return[0], _weights(sample)
    mean = (weight * x).sum() / weight.sum()
    return mean, torch.sqrt((weight * (x - mean) ** 2).sum() / weight.sum()).clamp(min=1e-6)


def _weights(sample: Sample) -> Tensor:
    return torch.ones_like(sample.log_return[0]) if sample.weight is None else sample.weight[0]


def _density(frame: Frame, laws: Mapping[str, Distribution], sample: Sample | None, location: Tensor, scale: Tensor) -> None:
    """Add densities of the continuous part, a histogram with its standard errors, and the quantiles of the best law."""
    x = location + scale * _X
    frame.put(density__x=x, **{f"density__{name}": law.density(x)[0] for name, law in laws.items()})
    frame.scalars["mass"] = 1.0
    for law in laws.values():
        below = np.maximum.accumulate(np.asarray(law.cdf(x)[0]))
        frame.put(quantiles=np.interp(LEVELS, below, x))
        frame.scalars["mass"] = float(law.mass)
    if sample is None:
        return
    edges, outcomes, weight = location + scale * _EDGES, sample.log_return[0], _weights(sample)
    width, paths = float(scale * (_EDGES[1] - _EDGES[0])), len(outcomes)
    share, square = (np.histogram(outcomes, edges, weights=w)[0] / paths for w in (weight, weight**2))
    error = np.sqrt((square - share**2).clip(min=0) / paths)
    seen = share > 0
    frame.put(density__at=((edges[1:] + edges[:-1]) / 2)[torch.from_numpy(seen)], density__simulated=share[seen] / width)
    frame.put(density__simulated_error=error[seen] / width)
    if not laws:
        frame.put(quantiles=_quantiles(outcomes, weight))
        frame.scalars["mass"] = float(weight.mean())


def _quantiles(outcomes: Tensor, weight: Tensor) -> np.ndarray:
    """Return the quantiles of a weighted sample, of its continuous part."""
    order = torch.argsort(outcomes)
    below = np.asarray(torch.cumsum(weight[order], 0) / weight.sum())
    return np.asarray(np.asarray(outcomes[order])[np.searchsorted(below, LEVELS).clip(max=len(below) - 1)])


def _plane(frame: Frame, laws: Mapping[str, Distribution], sample: Sample | None, scale: Tensor) -> None:
    """Add φ of the continuous part from u = 0 on, as a curve in the complex plane."""
    for name, law in laws.items():
        phi = replace(law, mass=torch.ones_like(law.mass)).characteristic_function(_FREQUENCIES / scale)[0]
        frame.put(**{f"phi__{name}.re": phi.real, f"phi__{name}.im": phi.imag})
    if sample is not None:
        estimate = empirical_characteristic_function(sample, _MARKED / scale)
        frame.put(**{"phi__simulated.re": estimate.value[0].real, "phi__simulated.im": estimate.value[0].imag})
        frame.put(**{"phi__simulated.error": estimate.standard_error[0]})


def _volatility(price: Tensor, error: Tensor, k: Tensor, maturity: float) -> tuple[Tensor, Tensor]:
    """Return implied volatilities of options out of the money and their errors (L,), NaN where the price does not determine one."""
    call = price * torch.exp((-k).clamp(min=0))  # that of the strike e^|k|, by symmetry
    known = torch.isfinite(price) & (price > error.clamp(min=1e-12)) & (call < 1)
    found = torch.full_like(k, torch.nan)
    if bool(known.any()):
        found[known] = implied_volatility(call[known], k[known].abs(), maturity)
    blur = error / black_vega(k, torch.where(known, found, 1.0), maturity).clamp(min=1e-300)
    sure = known & (blur < _BLURRED * found)
    return torch.where(sure, found, torch.nan), torch.where(sure, blur, torch.nan)
