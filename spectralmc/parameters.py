"""What prices depend on besides randomness: the market, and the box of parameters a network learns."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from spectralmc.draws import Draws
from spectralmc.validation import Number, count, real

Bound = float | tuple[float, float]


@dataclass(frozen=True)
class ZeroCurve:
    """Continuously compounded zero rates, linear between the nodes and flat outside.

    Parameters
    ----------
    times
        node times in years, (J,), strictly increasing and non-negative.
    rates
        zero rates at the nodes, (J,).
    """

    times: tuple[float, ...]
    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        times, rates = real("times", self.times, "non-negative", "years"), real("rates", self.rates)
        if times.shape != rates.shape or times.ndim != 1:
            raise ValueError(f"times and rates must be equally long lists; got shapes {tuple(times.shape)} and {tuple(rates.shape)}")
        if bool((times.diff() <= 0).any()):
            raise ValueError(f"times must increase strictly; got {tuple(times.tolist())}")
        object.__setattr__(self, "times", tuple(times.tolist()))
        object.__setattr__(self, "rates", tuple(rates.tolist()))

    def __call__(self, maturity: Number) -> Tensor:
        """Return the zero rate to ``maturity`` (years), of its shape."""
        t = real("maturity", maturity, "non-negative", "years")
        times, rates = (torch.tensor(nodes, dtype=torch.float64).to(t) for nodes in (self.times, self.rates))
        if len(times) == 1:
            return rates.expand(t.shape)
        right = torch.searchsorted(times, t.detach()).clamp(1, len(times) - 1)
        weight = ((t - times[right - 1]) / (times[right] - times[right - 1])).clamp(0, 1)
        return rates[right - 1] * (1 - weight) + rates[right] * weight


@dataclass(frozen=True)
class Market:
    r"""Spot, interest and dividends: :math:`D(T)=e^{-r(T)T}`, :math:`F(T)=S_0e^{(r(T)-q)T}`.

    Parameters
    ----------
    spot
        S₀, positive (currency).
    rate
        r, continuously compounded (1/year): a number or a `ZeroCurve`.
    dividend_yield
        q, continuously compounded (1/year).
    """

    spot: float
    rate: float | ZeroCurve = 0.0
    dividend_yield: float = 0.0

    def __post_init__(self) -> None:
        real("spot", self.spot, "positive", "currency")
        real("dividend_yield", self.dividend_yield, unit="1/year")
        if not isinstance(self.rate, ZeroCurve):
            real("rate", self.rate, unit="1/year")

    def zero_rate(self, maturity: Number) -> Tensor:
        """Return r(T), continuously compounded (1/year), of the shape of ``maturity`` (years)."""
        t = real("maturity", maturity, "non-negative", "years")
        return self.rate(t) if isinstance(self.rate, ZeroCurve) else torch.full_like(t, self.rate)

    def carry(self, maturity: Number) -> Tensor:
        """Return r(T) − q, the growth rate of the forward (1/year)."""
        return self.zero_rate(maturity) - self.dividend_yield

    def discount(self, maturity: Number) -> Tensor:
        """Return D(T)."""
        t = real("maturity", maturity, "non-negative", "years")
        return torch.exp(-self.zero_rate(t) * t)

    def forward(self, maturity: Number) -> Tensor:
        """Return F(T), in the currency of the spot."""
        t = real("maturity", maturity, "non-negative", "years")
        return self.spot * torch.exp(self.carry(t) * t)


def refuse_unknown(given: Iterable[str], known: Iterable[str], what: str = "parameter") -> None:
    """Raise a ``ValueError`` that names the first unknown name, its nearest known one, and the known ones."""
    names = list(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"unknown {what} {name!r}{hint}; known: {', '.join(names)}")


@dataclass(frozen=True)
class ParameterSpace:
    """The box of model and contract parameters over which a law is learned.

    Parameters
    ----------
    process
        class of the process, or a function of named parameters that makes one (Bates: Heston and its jumps); these names are the model
        parameters.
    bounds
        for every name (lower, upper), or a number that stays fixed.
    maturity
        (lower, upper) in years, or a number.
    carry
        growth rate of the forward, r − q (1/year): (lower, upper), or a number.
    logarithmic
        names sampled uniformly in their logarithm; if not given, those with lower > 0 and upper ≥ 10 × lower.

    Raises
    ------
    ValueError
        a parameter unknown, missing, not finite, or with lower ≥ upper; a maturity that is not positive.
    TypeError
        a function whose parameters cannot all be given by name.
    """

    process: Callable[..., Any]
    bounds: Mapping[str, Bound]
    maturity: Bound
    carry: Bound = 0.0
    logarithmic: tuple[str, ...] | None = None
    box: dict[str, tuple[float, float]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.process):
            kind = type(self.process).__name__
            raise TypeError(f"process must be a class, or a function that makes one; got {self.process!r}: give {kind} itself")
        names = self.names
        refuse_unknown(self.bounds, names)
        for name in names:
            if name not in self.bounds:
                raise ValueError(f"{name_of(self.process)} needs bounds for {name!r}; give (lower, upper) or a number")
        given = {**{n: self.bounds[n] for n in names}, "maturity": self.maturity, "carry": self.carry}
        object.__setattr__(self, "box", {name: _interval(name, bound) for name, bound in given.items()})
        real("maturity", self.box["maturity"][0], "positive", "years")
        wide = (n for n, (low, high) in self.box.items() if low > 0 and high >= 10 * low)
        object.__setattr__(self, "logarithmic", tuple(wide if self.logarithmic is None else self.logarithmic))
        refuse_unknown(self.logarithmic or (), self.box)
        for name in self.logarithmic or ():
            real(f"lower bound of logarithmic {name}", self.box[name][0], "positive")
        for end in (0, 1):  # the process checks its own rules
            self.at({name: bounds[end] for name, bounds in self.box.items()})

    @cached_property
    def example(self) -> Any:
        """The process at the lower bounds."""
        return self.at({name: low for name, (low, _) in self.box.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the model parameters, in the order in which the process takes them."""
        return tuple(_named_parameters(self.process))

    @property
    def free(self) -> tuple[str, ...]:
        """Names that vary, in the order of the box."""
        return tuple(name for name, (low, high) in self.box.items() if high > low)

    def sample(self, points: int | range, seed: int = 0, stream: int = 0) -> dict[str, Tensor]:
        """Return scrambled Sobol points of the box: name → (B,), float64.

        A range continues an earlier sample of the same seed and stream.
        """
        indices = points if isinstance(points, range) else range(count("points", points))
        cube = Draws(seed, "sobol", stream=stream).uniforms(indices, max(len(self.free), 1))
        columns = dict(zip(self.free, cube.unbind(1), strict=False))
        return {name: self._scaled(name, columns.get(name, torch.zeros(len(indices)).double())) for name in self.box}

    def _scaled(self, name: str, unit: Tensor) -> Tensor:
        low, high = self.box[name]
        if name in (self.logarithmic or ()):
            return low * torch.exp(unit * math.log(high / low))
        return low + (high - low) * unit

    def unit(self, points: Mapping[str, Tensor]) -> Tensor:
        """Return the free coordinates scaled to [−1, 1] (in the logarithm where sampled so), (B, P)."""
        columns = []
        for name in self.free:
            low, high = self.box[name]
            x = points[name]
            position = torch.log(x / low) / math.log(high / low) if name in (self.logarithmic or ()) else (x - low) / (high - low)
            columns.append(2 * position - 1)
        return torch.stack(columns, -1) if columns else points["maturity"][..., None] * 0

    def at(self, points: Mapping[str, Any]) -> Any:
        """Return the process with these parameter values (contract parameters are left out)."""
        return self.process(**{name: points[name] for name in self.box if name not in ("maturity", "carry")})

    def check(self, points: Mapping[str, Tensor]) -> None:
        """Refuse points outside the box (``ValueError`` that names the parameter, its bounds and the value)."""
        within = self._within(points)
        if bool(within.all()):
            return
        name, (low, high) = next(item for item, row in zip(self.box.items(), within, strict=True) if not bool(row.all()))
        bad = points[name].detach()[~within[list(self.box).index(name)]].flatten()[0].item()
        raise ValueError(f"{name} must lie in the trained box [{low:g}, {high:g}]; got {bad:g}: train on a wider box")

    def inside(self, points: Mapping[str, Tensor]) -> Tensor:
        """Return which points lie in the box, (B,)."""
        return self._within(points).all(0)

    def _within(self, points: Mapping[str, Tensor]) -> Tensor:
        """Return which coordinates lie between their bounds, (names, B); float32 parameters on the edge do."""
        values = torch.stack([points[name].detach().double() for name in self.box])
        low, high = (bound.to(values.device) for bound in self._bounds)
        return (values >= low) & (values <= high)

    @cached_property
    def _bounds(self) -> tuple[Tensor, Tensor]:
        low, high = torch.tensor(list(self.box.values()), dtype=torch.float64).T[..., None]
        return low - 1e-6 * low.abs(), high + 1e-6 * high.abs()

    def clamped(self, points: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the nearest points of the box."""
        return {name: points[name].clamp(low, high) for name, (low, high) in self.box.items()}


def name_of(process: Callable[..., Any]) -> str:
    """Return the name of a class or function."""
    return getattr(process, "__name__", type(process).__name__)


def _named_parameters(process: Callable[..., Any]) -> Iterator[str]:
    for parameter in inspect.signature(process).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"a process is made from parameters that have names; {process.__name__} takes {parameter}")
        yield parameter.name


def _interval(name: str, bound: Bound) -> tuple[float, float]:
    if isinstance(bound, tuple | list) and len(bound) != 2:
        raise ValueError(f"bounds of {name} must be (lower, upper) or one number; got {bound}")
    low, high = bound if isinstance(bound, tuple | list) else (bound, bound)
    low, high = float(real(f"lower bound of {name}", low)), float(real(f"upper bound of {name}", high))
    if low > high or (isinstance(bound, tuple | list) and low == high):
        remedy = "swap them" if low > high else "give one number to hold it constant"
        raise ValueError(f"bounds of {name} must satisfy lower < upper; got ({low:g}, {high:g}): {remedy}")
    return low, high
