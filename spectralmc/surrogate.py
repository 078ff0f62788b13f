"""The trained thing people keep: one network that prices every strike of every parameter set in its box."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from safetensors.torch import save_file
from torch import Tensor

from spectralmc.distribution import Distribution
from spectralmc.functionals import Functional, expected_outcome
from spectralmc.nn import SpectralNetwork
from spectralmc.parameters import Market, ParameterSpace, refuse_unknown
from spectralmc.pricing import cos_price
from spectralmc.processes import TimeGrid
from spectralmc.spectrum import FrequencyGrid
from spectralmc.validation import Number, count, one_of, real

_FORMAT = "spectralmc-surrogate-1"
Parameters = Mapping[str, Number]


class Price(NamedTuple):
    """A price and the half-width of its error bar, undiscounted on a unit forward; what the bar means: `Surrogate.price`."""

    value: Tensor
    error: Tensor


class Greeks(NamedTuple):
    """Value and sensitivities in market units, each of the broadcast shape of parameters, maturity and strike.

    ``delta`` ∂V/∂S₀, ``gamma`` ∂²V/∂S₀², ``theta`` −∂V/∂T (per year), ``rho`` ∂V/∂r (per unit rate, flat shift), and ``parameters``
    ∂V/∂θ for each model parameter; ``vega`` is the one of ``volatility`` where the process has it, else NaN.
    """

    value: Tensor
    delta: Tensor
    gamma: Tensor
    vega: Tensor
    theta: Tensor
    rho: Tensor
    parameters: dict[str, Tensor]


@dataclass(frozen=True)
class Problem:
    """What is learned: the law of a functional over a box, on M time steps and a frequency grid."""

    space: ParameterSpace
    functional: Functional
    time_steps: int
    grid: FrequencyGrid

    def __post_init__(self) -> None:
        count("time_steps", self.time_steps)
        missing = [] if hasattr(self.space.process, "integrated_variance") else ["integrated_variance"]
        missing += [] if hasattr(self.functional, "control") else ["control"]
        lognormal = getattr(self.space.process, "lognormal", False) and hasattr(self.functional, "lognormal_law")
        known = hasattr(self.functional, "forward") or lognormal
        missing += [] if known else ["forward"]
        if missing:
            raise TypeError(
                f"learning {type(self.functional).__name__} under {self.space.process.__name__} needs {', '.join(missing)}: "
                "the outcome is standardised by formula; add the method"
            )

    def time_grid(self, points: Mapping[str, Tensor]) -> TimeGrid:
        """Return the fixings of these points."""
        return TimeGrid(points["maturity"], self.time_steps)

    def standardisation(self, points: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return m and s of Z = (ln(outcome/F) − m)/s, each (B,): s is that of the control at the mean variance, m = −s²/2."""
        variance = self.space.at(points).integrated_variance(points["maturity"])
        scale = torch.sqrt(self.functional.control.lognormal_law(variance, self.time_grid(points), points["carry"])[1])  # type: ignore[attr-defined]
        return -(scale**2) / 2, scale

    def forward(self, points: Mapping[str, Tensor]) -> Tensor:
        """Return E[outcome]/S₀, (B,)."""
        known = expected_outcome(self.functional, self.space.at(points), self.time_grid(points), points["carry"])
        assert known is not None  # __post_init__ asked for it
        return known

    def features(self, points: Mapping[str, Tensor]) -> Tensor:
        """Return the coordinates the network sees, (B, P): dimensionless where the process offers them."""
        process = self.space.at(points)
        if not hasattr(process, "features"):
            return self.space.unit(points)
        columns = process.features(points["maturity"])
        if "carry" in self.space.free and getattr(self.functional, "depends_on_carry", True):
            columns = torch.cat([columns, (points["carry"] * points["maturity"])[:, None]], 1)
        return torch.as_tensor(columns)


@dataclass(frozen=True)
class Surrogate:
    """A learned law.  Made by `spectralmc.train`; saved and loaded without pickle.

    Attributes
    ----------
    problem
        what was learned, and the box within which it answers.
    network
        features → K complex numbers, in double precision.
    centre, spread
        of the features, (P,).
    gaussian_base
        whether e^{−w²/2} is added to the network's output.
    relative_error
        99th percentile of |price error|/s on held-out labels.
    record
        how it was trained and how accurate it was found, plain data.
    """

    problem: Problem
    network: SpectralNetwork
    centre: Tensor
    spread: Tensor
    gaussian_base: bool
    relative_error: float
    record: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        p = self.problem
        box = ", ".join(f"{n} [{low:g}, {high:g}]" if high > low else f"{n} {low:g}" for n, (low, high) in p.space.box.items())
        error = f"{1e4 * self.relative_error:.2g}e-4 standard deviations at 99 %"
        return f"Surrogate({type(p.functional).__name__} under {p.space.process.__name__}: {box}; price error {error})"

    def distribution(self, parameters: Parameters | Any, maturity: Number, carry: Number | None = None) -> Distribution:
        """Return the learned law of X = ln(outcome/E[outcome]).

        Shapes: model parameters (a mapping, or a process), maturity (years) and carry (1/year) are numbers or (B,).

        Raises
        ------
        ValueError
            outside the trained box; a parameter unknown or missing.
        """
        points, scalar = self._points(parameters, maturity, carry)
        return self._distribution(points, scalar)

    def price(
        self,
        parameters: Parameters | Any,
        maturity: Number,
        log_moneyness: Number,
        kind: Literal["call", "put"] = "call",
        carry: Number | None = None,
    ) -> Price:
        """Price options on the outcome at every strike k = ln(K/F), undiscounted, on a unit forward F = E[outcome].

        Shapes: k () or (L,) or (B, L); prices batch + (L,).

        The error is s times the 99th percentile of |price error|/s over held-out points and strikes within two standard deviations:
        one bar for the whole box, wide where the network is good.

        Raises
        ------
        ValueError
            as `distribution`; an unknown kind.
        """
        law = self.distribution(parameters, maturity, carry)
        put = cos_price(law, log_moneyness, "put")
        strike = torch.exp(real("log_moneyness", log_moneyness).double())
        put = torch.minimum(torch.maximum(put, (strike - 1).clamp(min=0)), strike)  # its no-arbitrage bounds
        value = put if one_of("kind", kind, ("call", "put")) == "put" else put + 1 - strike
        scale = law.scale if value.ndim == law.scale.ndim else law.scale[..., None]
        return Price(value, (self.relative_error * scale).expand(value.shape))

    def greeks(
        self, market: Market, parameters: Parameters | Any, maturity: Number, strike: Number, kind: Literal["call", "put"] = "call"
    ) -> Greeks:
        """Return value and Greeks of options on the outcome in market units, by differentiating the network.

        The rate to maturity r(T) acts as a flat rate until then; the strike is in the currency of the spot.

        Shapes: parameters, maturity and strike are numbers or (B,).

        Raises
        ------
        ValueError
            as `distribution`; a strike that is not positive.
        """
        one_of("kind", kind, ("call", "put"))
        k = real("strike", strike, "positive", "currency").double()
        t = real("maturity", maturity, "positive", "years").double()
        named = {name: real(name, value).double() for name, value in self._named(parameters).items()}
        shape = _common_shape({"strike": k, "maturity": t, **named})
        one = torch.ones(shape, dtype=torch.float64).reshape(-1)
        leaves = {"maturity": t, "rate": market.zero_rate(t), **named}
        leaf = {name: (value.expand(shape).reshape(-1) * one).detach().requires_grad_() for name, value in leaves.items()}
        spot = (market.spot * one).requires_grad_()
        with torch.enable_grad():
            value = self._value(leaf, spot, market.dividend_yield, k.expand(shape).reshape(-1), kind)
            names = list(leaf)
            delta, *rest = torch.autograd.grad(value.sum(), [spot, *leaf.values()], create_graph=True)
            (gamma,) = torch.autograd.grad(delta.sum(), spot)
        by = {name: g.detach().reshape(shape) for name, g in zip(names, rest, strict=True)}
        model = {name: by[name] for name in named}
        vega = model.get("volatility", torch.full(shape, torch.nan, dtype=torch.float64))
        value, delta = value.detach().reshape(shape), delta.detach().reshape(shape)
        return Greeks(value, delta, gamma.reshape(shape), vega, -by["maturity"], by["rate"], model)

    def _value(self, leaf: dict[str, Tensor], spot: Tensor, dividend_yield: float, strike: Tensor, kind: Literal["call", "put"]) -> Tensor:
        carry = leaf["rate"] - dividend_yield
        points, _ = self._points({n: v for n, v in leaf.items() if n not in ("maturity", "rate")}, leaf["maturity"], carry)
        forward = spot * self.problem.forward(points | {"carry": carry})
        unit = cos_price(self._distribution(points, False), torch.log(strike / forward)[:, None], kind)[:, 0]
        return torch.exp(-leaf["rate"] * leaf["maturity"]) * forward * unit

    def _distribution(self, points: dict[str, Tensor], scalar: bool) -> Distribution:
        location, scale = self.problem.standardisation(points)
        w = self.problem.grid.frequency
        values = self.network((self.problem.features(points) - self.centre) / self.spread)
        if self.gaussian_base:
            values = values + torch.exp(-(w**2) / 2)
        if scalar:
            values, location, scale = values[0], location[0], scale[0]
        return Distribution(values, self.problem.grid, location, scale)

    def _named(self, parameters: Parameters | Any) -> dict[str, Number]:
        space = self.problem.space
        known = [f.name for f in fields(space.process)]
        given: dict[str, Any] = dict(parameters) if isinstance(parameters, Mapping) else {n: getattr(parameters, n, None) for n in known}
        refuse_unknown(given, known)
        for name in known:
            if given.get(name) is None:
                low, high = space.box[name]
                if low < high:
                    raise ValueError(f"parameter {name!r} is missing; the model was trained for it in [{low:g}, {high:g}]")
                given[name] = low
        return {name: given[name] for name in known}

    def _points(self, parameters: Parameters | Any, maturity: Number, carry: Number | None) -> tuple[dict[str, Tensor], bool]:
        """Return the points (B,) of the box, checked, and whether all of them were single numbers."""
        box = self.problem.space.box
        low, high = box["carry"]
        ignored = not getattr(self.problem.functional, "depends_on_carry", True)
        if carry is None and low < high and not ignored:
            raise ValueError(f"carry is missing; the model was trained for it in [{low:g}, {high:g}] (1/year)")
        given = {**self._named(parameters), "maturity": maturity, "carry": low if carry is None or ignored else carry}
        columns = {name: real(name, value).double() for name, value in given.items()}
        shape = _common_shape(columns)
        if len(shape) > 1:
            raise ValueError(f"parameters, maturity and carry must be numbers or (B,); got shape {tuple(shape)}")
        points = {name: c.expand(shape).reshape(-1) for name, c in columns.items()}
        self.problem.space.check(points)
        return points, not shape

    def _description(self) -> dict[str, Any]:
        p = self.problem
        return {
            "format": _FORMAT,
            "process": p.space.process.__name__,
            "box": p.space.box,
            "logarithmic": p.space.logarithmic,
            "functional": type(p.functional).__name__,
            "functional_parameters": vars(p.functional),
            "time_steps": p.time_steps,
            "grid": vars(p.grid),
            "network": self.network.description,
            "gaussian_base": self.gaussian_base,
            "relative_error": self.relative_error,
            "record": self.record,
        }

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {**self.network.state_dict(), "centre": self.centre, "spread": self.spread}
        return {name: _real_view(tensor).contiguous() for name, tensor in tensors.items()}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file, atomically; return its path."""
        target = Path(path)
        if not target.parent.is_dir():
            raise FileNotFoundError(f"no folder {str(target.parent)!r} to save a model in")
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            save_file(self._tensors(), part, {"spectralmc": json.dumps(self._description(), sort_keys=True)})
            os.replace(part, target)
        except SafetensorError as error:
            raise OSError(f"the model could not be written to {str(target)!r}: {error}") from None
        finally:
            part.unlink(missing_ok=True)
        return target


def load(path: str | os.PathLike[str], process: type[Any] | None = None, functional: Functional | None = None) -> Surrogate:
    """Read a surrogate that `Surrogate.save` wrote; nothing in the file is executed.

    ``process`` and ``functional`` name your own class and object if the model was trained on such.

    Raises
    ------
    FileNotFoundError, ValueError
        no such file; not a surrogate of this version, truncated, or of an unknown process or functional.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no model file at {str(path)!r}")
    try:
        with safe_open(path, "pt") as file:
            d = json.loads((file.metadata() or {}).get("spectralmc", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(path)!r} is damaged or not a safetensors file: {error}") from None
    said = d.get("format") if isinstance(d, dict) else d
    if said != _FORMAT:
        raise ValueError(f"{str(path)!r} is not a surrogate of format {_FORMAT}; it says {said!r}")
    try:
        return _rebuilt(d, tensors, process, functional)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error!r}") from None


def packed(surrogate: Surrogate) -> tuple[dict[str, Any], bytes]:
    """Return what a store keeps of a surrogate: its description, plain data, and its tensors, a safetensors file without metadata."""
    return surrogate._description(), save_bytes(surrogate._tensors())


def unpacked(
    description: dict[str, Any], tensors: bytes, process: type[Any] | None = None, functional: Functional | None = None
) -> Surrogate:
    """Return the surrogate that `packed` took apart; nothing in the bytes is executed.

    Raises
    ------
    ValueError
        the two are not of one surrogate of this version; an unknown process or functional.
    """
    if description.get("format") != _FORMAT:
        raise ValueError(f"the model must be a surrogate of format {_FORMAT}; it says {description.get('format')!r}")
    try:
        return _rebuilt(description, load_bytes(tensors), process, functional)
    except (SafetensorError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"the model is damaged: {error!r}") from None


def _rebuilt(d: dict[str, Any], tensors: dict[str, Tensor], process: type[Any] | None, functional: Functional | None) -> Surrogate:
    given = {"process": process.__name__ if process else None, "functional": type(functional).__name__ if functional else None}
    for role, name in given.items():
        if name not in (None, d[role]):
            raise ValueError(f"the model was trained with {role} {d[role]!r}; got {name!r}")
    law = process or _named_class("spectralmc.processes", d["process"])
    outcome = functional or _named_class("spectralmc.functionals", d["functional"])(**d["functional_parameters"])
    box = {name: low if low == high else (low, high) for name, (low, high) in d["box"].items()}
    maturity, carry = box.pop("maturity"), box.pop("carry")
    space = ParameterSpace(law, box, maturity, carry, tuple(d["logarithmic"]))
    width, first, last = d["network"]["width"], tensors["inner.0.weight"], tensors["readout.weight"]
    if first.shape[0] != width or last.shape[1] != 2 * width or f"inner.{d['network']['depth']}.weight" not in tensors:
        raise KeyError("the network described is not the one stored")  # before it is made, however large it says it is
    network = SpectralNetwork(**d["network"], dtype=torch.complex128).requires_grad_(False)
    own = network.state_dict()
    network.load_state_dict({n: torch.view_as_complex(tensors[n]) if own[n].is_complex() else tensors[n] for n in own})
    problem = Problem(space, outcome, d["time_steps"], FrequencyGrid(**d["grid"]))
    centre, spread = tensors["centre"], tensors["spread"]
    return Surrogate(problem, network, centre, spread, d["gaussian_base"], d["relative_error"], d["record"])


def _real_view(tensor: Tensor) -> Tensor:
    """Return (…, 2) real numbers for complex ones: a safetensors file holds no complex128."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _common_shape(columns: Mapping[str, Tensor]) -> torch.Size:
    try:
        return torch.Size(np.broadcast_shapes(*(c.shape for c in columns.values())))
    except ValueError:
        shapes = ", ".join(f"{name} {tuple(c.shape)}" for name, c in columns.items())
        raise ValueError(f"parameters must be numbers or arrays of one length; got {shapes}") from None


def _named_class(module: str, name: str) -> Any:
    """Return a process or functional of ours by name: never another class that the module happens to see."""
    found = getattr(importlib.import_module(module), name, None) if name.isidentifier() and not name.startswith("_") else None
    ours = isinstance(found, type) and is_dataclass(found) and found.__module__.startswith(module)
    if not ours or not (hasattr(found, "schemes") or hasattr(found, "finish")):
        raise ValueError(f"the model is of {name!r}, which {module} does not have: pass your own class to load")
    return found
