"""The trained thing people keep: one network that prices every strike of every parameter set in its box."""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from safetensors.torch import save_file
from torch import Tensor, nn

from spectralmc.bars import ErrorBars
from spectralmc.cuda import puts
from spectralmc.device import choose, in_halves, place
from spectralmc.distribution import Distribution
from spectralmc.evaluation import Engine
from spectralmc.functionals import Functional, Terminal
from spectralmc.nn import NETWORKS
from spectralmc.parameters import Market, ParameterSpace, name_of, refuse_unknown
from spectralmc.pricing import put_series
from spectralmc.problem import Outputs, Pilot, Problem, Standard
from spectralmc.spectrum import FrequencyGrid
from spectralmc.validation import Number, one_of, real

_FORMAT = "spectralmc-surrogate-3"
_HEADER = 1 << 18  # bytes that describe the tensors of a file; a longer one is not ours, and slow to read
_GREEKS_AT_ONCE = 1024  # contracts differentiated at once
_GPU_AT_ONCE = 1 << 16  # parameter sets priced at once on a GPU
_CONTRACT = ("maturity", "carry")
Parameters = Mapping[str, Number]
Kind = Literal["call", "put"]
Outside = Literal["refuse", "flag"]


class Price(NamedTuple):
    """A price and the half-width of its error bar, undiscounted on a unit forward; what the bar means: `Surrogate.price`.

    ``inside`` tells which parameter sets lie in the trained box, where it was asked to flag them; else it is None.
    """

    value: Tensor
    error: Tensor
    inside: Tensor | None = None


class Greeks(NamedTuple):
    """Value and sensitivities in market units, each of the broadcast shape of parameters, maturity and strike.

    ``delta`` ∂V/∂S₀, ``gamma`` ∂²V/∂S₀², ``theta`` −∂V/∂T (per year), ``rho`` ∂V/∂r (per unit rate, flat shift), and ``parameters``
    ∂V/∂θ for each model parameter.  ``vega`` is the one of ``volatility`` where the process has it, of √``initial_variance`` where it
    has that, else NaN.
    """

    value: Tensor
    delta: Tensor
    gamma: Tensor
    vega: Tensor
    theta: Tensor
    rho: Tensor
    parameters: dict[str, Tensor]


@dataclass(frozen=True)
class Surrogate:
    """A learned law.  Made by `spectralmc.train`; saved and loaded without pickle.

    Attributes
    ----------
    problem
        what was learned, and the box within which it answers.
    network
        features → complex numbers (`spectralmc.problem.Problem.outputs`), in double precision.
    centre, spread
        of the features, (P,).
    gaussian_base
        whether e^{−w²/2} is added to the network's output.
    relative_error
        99th percentile of |price error|/s on held-out labels, their noise included.
    record
        how it was trained and how accurate it was found, plain data.
    bars
        where it errs by how much; without them ``relative_error`` holds everywhere.
    """

    problem: Problem
    network: nn.Module
    centre: Tensor
    spread: Tensor
    gaussian_base: bool
    relative_error: float
    record: dict[str, Any] = field(default_factory=dict)
    bars: ErrorBars | None = None

    def __repr__(self) -> str:
        p = self.problem
        box = ", ".join(f"{n} [{low:g}, {high:g}]" if high > low else f"{n} {low:g}" for n, (low, high) in p.space.box.items())
        error = f"{1e4 * self.relative_error:.2g}e-4 standard deviations at 99 %"
        when = f"; trained {self.record['trained']}, {self.record['steps']} steps" if "trained" in self.record else ""
        seen = "" if isinstance(p.functional, Terminal) else f" of {p.time_steps} fixing{'s' if p.time_steps > 1 else ''}"
        return f"Surrogate({type(p.functional).__name__}{seen} under {name_of(p.space.process)}: {box}; price error {error}{when})"

    @property
    def version(self) -> str:
        """The version of a store that this is, NUMBER:HASH; empty for a model that came from no store."""
        kept = self.record.get("store")
        return f"{kept['version']}:{kept['hash']}" if kept else ""

    def distribution(self, parameters: Parameters | Any, maturity: Number, carry: Number | None = None) -> Distribution:
        """Return the learned law of X = ln(outcome/E[outcome]).

        Shapes: model parameters (a mapping, or a process), maturity (years) and carry (1/year) are numbers or (B,).

        Raises
        ------
        ValueError
            outside the trained box; a parameter unknown or missing.
        """
        points, scalar = self._points(parameters, maturity, carry)
        self.problem.space.check(points)
        standard, outputs = self._outputs(points)
        shift = torch.log(outputs.forward)
        law = {
            "values": outputs.values / outputs.mass[:, None],
            "location": standard.location - shift,
            "scale": standard.scale,
            "mass": outputs.mass,
            "atom": self._atom(standard) - shift,
        }
        return Distribution(grid=self.problem.grid, **({name: x[0] for name, x in law.items()} if scalar else law))

    def forward(self, parameters: Parameters | Any, maturity: Number, carry: Number | None = None) -> Tensor:
        """Return E[outcome]/S₀, batch: by formula where one is known, else as learned."""
        points, scalar = self._points(parameters, maturity, carry)
        self.problem.space.check(points)
        standard, outputs = self._outputs(points)
        found = standard.forward * outputs.forward
        return found[0] if scalar else found

    def inside(self, parameters: Parameters | Any, maturity: Number, carry: Number | None = None) -> Tensor:
        """Return which parameter sets lie in the trained box, batch."""
        points, scalar = self._points(parameters, maturity, carry)
        found = self.problem.space.inside(points)
        return found[0] if scalar else found

    def price(
        self,
        parameters: Parameters | Any,
        maturity: Number,
        log_moneyness: Number,
        kind: Kind = "call",
        carry: Number | None = None,
        outside: Outside = "refuse",
        device: str = "cpu",
    ) -> Price:
        """Price options on the outcome at every strike k = ln(K/F), undiscounted, on a unit forward F = E[outcome].

        Shapes: k () or (L,) or (B, L); prices batch + (L,).

        The error bar covers 99 in 100 prices of the box, as calibrated on held-out labels: where the scheme of the paths is biased they
        take twice the steps, and what those still get wrong they cannot show.  ``outside`` = ``flag`` returns NaN outside the trained
        box, and which sets are inside.

        ``device`` is ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one: where prices are computed and stay.

        Accuracy beside the bar: the network and the Fourier sum run in single precision, within 2e-6 standard deviations; inputs that
        need gradients take double precision.

        Raises
        ------
        ValueError
            as `distribution`; an unknown kind; strikes of a shape that does not fit; a device that cannot be used.
        """
        one_of("kind", kind, ("call", "put"))
        one_of("outside", outside, ("refuse", "flag"))
        there = choose(device)
        if there.type == "cpu" and outside == "refuse" and (single := self._single(parameters, maturity, log_moneyness, carry)):
            value, error = self._engine(*single, kind)  # type: ignore[misc]
            return Price(torch.from_numpy(value[0]), torch.from_numpy(error[0]))
        points, scalar = self._points(parameters, maturity, carry)
        k = real("log_moneyness", log_moneyness).double()
        if there.type == "cpu":
            return self._price(points, scalar, k, kind, outside)
        with place(there):
            return self._on(there)._price({n: x.to(there) for n, x in points.items()}, scalar, k.to(there), kind, outside)

    def _price(self, points: dict[str, Tensor], scalar: bool, k: Tensor, kind: Kind, outside: Outside) -> Price:
        inside = None
        if outside == "flag":
            inside = self.problem.space.inside(points)
            points = self.problem.space.clamped(points)
        else:
            self.problem.space.check(points)
        strikes = _strikes(k, len(points["maturity"]), scalar)
        if any(x.requires_grad for x in (k, *points.values())):
            value, error = self._exactly(points, strikes, kind)
        elif self._light is not None:
            value, error = self._fused(points, strikes, kind)
        elif self._engine is None:
            value, error = self._exactly(points, strikes, kind)
        else:
            found = self._engine(torch.stack([*points.values()], 1).numpy(), strikes.numpy(), kind)
            value, error = (torch.from_numpy(x) for x in found)
        if inside is not None:
            value, error = (torch.where(inside[:, None], x, torch.nan) for x in (value, error))
            inside = inside[0] if scalar else inside
        value, error = (x[..., 0] if k.ndim == 0 else x for x in (value, error))
        return Price(value[0], error[0], inside) if scalar else Price(value, error, inside)

    def _single(
        self, parameters: Parameters | Any, maturity: Number, log_moneyness: Number, carry: Number | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return a contract of plain numbers inside the box as (1, columns), and its strikes (1, L): the door for one at a time.

        None is everything else, which goes through every check.
        """
        box, k = self.problem.space.box, log_moneyness
        if not isinstance(k, Tensor) or k.dtype != torch.float64 or k.ndim != 1 or k.requires_grad or self._engine is None:
            return None
        if type(parameters) is not dict or len(parameters) != len(box) - len(_CONTRACT):
            return None
        low, high = box["carry"]
        given = {**parameters, "maturity": maturity, "carry": low if carry is None and low == high else carry}
        point = [given.get(name) for name in box]
        if not all(isinstance(x, float) and low <= x <= high for x, (low, high) in zip(point, box.values(), strict=True)):
            return None
        strikes = k.numpy()[None]
        return (np.array([point]), strikes) if np.isfinite(strikes).all() and strikes.size else None

    def greeks(self, market: Market, parameters: Parameters | Any, maturity: Number, strike: Number, kind: Kind = "call") -> Greeks:
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
        columns = {"maturity": t, "rate": market.zero_rate(t), **named, "strike": k}
        flat = {name: value.detach().expand(shape).reshape(-1) for name, value in columns.items()}
        rows = range(0, len(flat["strike"]), _GREEKS_AT_ONCE)
        parts = [self._greeks({n: v[i : i + _GREEKS_AT_ONCE] for n, v in flat.items()}, market, kind) for i in rows]
        by = {name: torch.cat([part[name] for part in parts]).reshape(shape) for name in parts[0]}
        model = {name: by[name] for name in named}
        vega = model.get("volatility", torch.full(shape, torch.nan, dtype=torch.float64))
        if "volatility" not in model and "initial_variance" in model:
            vega = 2 * torch.sqrt(named["initial_variance"].expand(shape)) * model["initial_variance"]
        return Greeks(by["value"], by["delta"], by["gamma"], vega, -by["maturity"], by["rate"], model)

    def _greeks(self, columns: dict[str, Tensor], market: Market, kind: Kind) -> dict[str, Tensor]:
        leaf = {name: value.clone().requires_grad_() for name, value in columns.items() if name != "strike"}
        spot = torch.full_like(columns["strike"], market.spot).requires_grad_()
        with torch.enable_grad():
            value = self._value(leaf, spot, market.dividend_yield, columns["strike"], kind)
            delta, *rest = torch.autograd.grad(value.sum(), [spot, *leaf.values()], create_graph=True)
            (gamma,) = torch.autograd.grad(delta.sum(), spot)
        by = {name: gradient.detach() for name, gradient in zip(leaf, rest, strict=True)}
        return by | {"value": value.detach(), "delta": delta.detach(), "gamma": gamma}

    def _value(self, leaf: dict[str, Tensor], spot: Tensor, dividend_yield: float, strike: Tensor, kind: Kind) -> Tensor:
        carry = leaf["rate"] - dividend_yield
        points, _ = self._points({n: v for n, v in leaf.items() if n not in ("maturity", "rate")}, leaf["maturity"], carry)
        self.problem.space.check(points)
        standard, outputs = self._outputs(points | {"carry": carry})
        unit = spot * standard.forward
        put, call = self._puts(standard, outputs, torch.log(strike / unit)[:, None])
        return torch.exp(-leaf["rate"] * leaf["maturity"]) * unit * (call if kind == "call" else put)[:, 0]

    def standard_features(self, points: Mapping[str, Tensor]) -> Tensor:
        """Return the features as the network takes them, (B, P)."""
        return (self.problem.features(points) - self.centre) / self.spread

    def relative_puts(self, points: Mapping[str, Tensor], distance: Tensor, outputs: Outputs | None = None) -> Tensor:
        """Return put prices at strikes ln(K/F)/s (B, L) on a unit forward, over s, (B, L): of the network or of given ``outputs``."""
        standard, learned = self._outputs(points)
        found = learned if outputs is None else outputs
        k = distance * standard.scale[:, None]
        put, _ = self._puts(standard, found, k + torch.log(found.forward)[:, None])
        return put / (found.forward * standard.scale)[:, None]

    @property
    def base(self) -> Tensor:
        """What is added to the network's φ_Z, (K,)."""
        w = self.problem.grid.frequency
        return torch.exp(-(w**2) / 2) if self.gaussian_base else torch.zeros_like(w)

    def _outputs(self, points: Mapping[str, Tensor]) -> tuple[Standard, Outputs]:
        standard = self.problem.standard(points)
        raw = self.network(self.standard_features(points))
        return standard, self.problem.outputs(raw, standard, self.base)

    def _puts(self, standard: Standard, outputs: Outputs, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return puts and calls on outcome/reference forward at k = ln(K/reference), (B, L); single-precision outputs take the kernel."""
        if outputs.values.dtype == torch.complex64:
            put = puts(outputs.values, outputs.mass, standard.location, standard.scale, k, self.problem.grid.half_width)
        else:
            series = put_series(self.problem.grid, standard.location, standard.scale, k)
            put = outputs.mass[:, None] * series.constant + (series.weights * outputs.values[:, None]).real.sum(-1)
        return self._with_atom(put, standard, outputs.forward[:, None], outputs.mass[:, None], torch.exp(k))

    def _with_atom(self, put: Tensor, standard: Standard, forward: Tensor, mass: Tensor, strike: Tensor) -> tuple[Tensor, Tensor]:
        """Return put and call with what the atom pays; one that pays nothing leaves the strike unpaid too."""
        if not self.problem.has_atom:
            return put, put + forward - strike
        if self.worthless:
            return put, put + forward - mass * strike
        put = put + (1 - mass) * (strike - torch.exp(self._atom(standard))[:, None]).clamp(min=0)
        return put, put + forward - strike

    @property
    def worthless(self) -> bool:
        """Whether the outcome has an atom that pays nothing."""
        return self.problem.has_atom and self.problem.functional.atom is None  # type: ignore[attr-defined]

    def _atom(self, standard: Standard) -> Tensor:
        """Return ln(atom/(S₀·reference forward)), (B,)."""
        if not self.problem.has_atom:
            return torch.zeros_like(standard.scale)
        value = -math.inf if self.worthless else self.problem.functional.atom  # type: ignore[attr-defined]
        return value - torch.log(standard.forward)

    def _exactly(self, points: dict[str, Tensor], k: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
        """Return prices and error bars (B, L) in double precision, differentiable."""
        return self._valued(self.standard_features(points), *self._outputs(points), k, kind)

    def _valued(self, features: Tensor, standard: Standard, outputs: Outputs, k: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
        forward = outputs.forward[:, None]
        put, call = (x / forward for x in self._puts(standard, outputs, k + torch.log(forward)))
        error = self._error(features, standard.scale[:, None], k)
        return _bounded(put, call, torch.exp(k), outputs.mass[:, None] if self.worthless else 1.0, kind), error

    @torch.no_grad()
    def _fused(self, points: dict[str, Tensor], k: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
        """Return prices and error bars (B, L) of a GPU; nothing waits for it."""
        standard, features, network = self.problem.standard(points), self.standard_features(points), self._light
        assert network is not None

        def tile(rows: range) -> tuple[Tensor, Tensor]:
            cut = slice(rows.start, rows.stop)
            held = Standard(*(column[cut] for column in standard))
            outputs = self.problem.outputs(network(features[cut].float()), held, self.base)
            single = outputs._replace(values=outputs.values.to(torch.complex64))
            return self._valued(features[cut], held, single, k[cut], kind)

        def below(*parts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            value, error = zip(*parts, strict=True)
            return torch.cat(value), torch.cat(error)

        rows = range(len(k))
        return below(*(in_halves(tile, below, rows[at : at + _GPU_AT_ONCE]) for at in rows[::_GPU_AT_ONCE]))

    def _on(self, device: torch.device) -> Surrogate:
        """Return this surrogate on a GPU, its network in single precision too."""
        if device not in self._elsewhere:
            bars = None if self.bars is None else ErrorBars(**{n: x.to(device) for n, x in vars(self.bars).items()})
            network, centre, spread = deepcopy(self.network).to(device), self.centre.to(device), self.spread.to(device)
            with torch.device("cpu"):
                single = self.network.astype(torch.complex64).requires_grad_(False)  # type: ignore[operator]
            self._elsewhere[device] = twin = replace(self, network=network, centre=centre, spread=spread, bars=bars)
            twin.__dict__["_light"] = single.to(device)
        return self._elsewhere[device]

    @cached_property
    def _elsewhere(self) -> dict[torch.device, Surrogate]:
        return {}

    @cached_property
    def _light(self) -> nn.Module | None:
        """The network in single precision, of a surrogate on a GPU."""
        return None

    @cached_property
    def _engine(self) -> Engine | None:
        """What prices in single precision, where the network is of the plain form."""
        plain = {"activation": "SplitSiLU", "normalization": "none"}
        if any(self.network.description.get(name, value) != value for name, value in plain.items()):  # type: ignore[union-attr, operator]
            return None
        return Engine(self.problem, self.network, self.centre, self.spread, self.base, self.bars, self.relative_error)

    def _error(self, features: Tensor, scale: Tensor, k: Tensor) -> Tensor:
        relative = torch.full_like(k, self.relative_error) if self.bars is None else self.bars(features, k / scale)
        return (relative * scale).detach()

    def _named(self, parameters: Parameters | Any) -> dict[str, Number]:
        box = self.problem.space.box
        known = [name for name in box if name not in _CONTRACT]
        given: dict[str, Any] = dict(parameters) if isinstance(parameters, Mapping) else {n: getattr(parameters, n, None) for n in known}
        refuse_unknown(given, known)
        for name in known:
            if given.get(name) is None:
                low, high = box[name]
                if low < high:
                    raise ValueError(f"parameter {name!r} is missing; the model was trained for it in [{low:g}, {high:g}]")
                given[name] = low
        return {name: given[name] for name in known}

    def _points(self, parameters: Parameters | Any, maturity: Number, carry: Number | None) -> tuple[dict[str, Tensor], bool]:
        """Return the points (B,), wherever they lie, and whether all of them were single numbers."""
        low, high = self.problem.space.box["carry"]
        ignored = not getattr(self.problem.functional, "depends_on_carry", True)
        if carry is None and low < high and not ignored:
            raise ValueError(f"carry is missing; the model was trained for it in [{low:g}, {high:g}] (1/year)")
        given = {**self._named(parameters), "maturity": maturity, "carry": low if carry is None or ignored else carry}
        if all(type(value) is float and math.isfinite(value) for value in given.values()):  # the common case, without a check each
            return dict(zip(given, torch.tensor([*given.values()], dtype=torch.float64)[:, None].unbind(), strict=True)), True
        columns = {name: real(name, value).double() for name, value in given.items()}
        shape = _common_shape(columns)
        if len(shape) > 1:
            raise ValueError(f"parameters, maturity and carry must be numbers or (B,); got shape {tuple(shape)}")
        return {name: c.expand(shape).reshape(-1) for name, c in columns.items()}, not shape

    def _description(self) -> dict[str, Any]:
        return described(self.problem) | {
            "format": _FORMAT,
            "network": self.network.description,
            "kind": next(kind for kind, network in NETWORKS.items() if isinstance(self.network, network)),
            "gaussian_base": self.gaussian_base,
            "relative_error": self.relative_error,
            "record": self.record,
        }

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {**self.network.state_dict(), "centre": self.centre, "spread": self.spread}
        for part, owner in (("bars", self.bars), ("pilot", self.problem.pilot)):
            tensors |= {f"{part}.{name}": tensor for name, tensor in vars(owner).items()} if owner is not None else {}
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


def described(problem: Problem) -> dict[str, Any]:
    """Return a problem as plain data, but for its pilot."""
    return {
        "process": name_of(problem.space.process),
        "box": problem.space.box,
        "logarithmic": problem.space.logarithmic,
        "functional": type(problem.functional).__name__,
        "functional_parameters": vars(problem.functional),
        "time_steps": problem.time_steps,
        "substeps": problem.substeps,
        "grid": vars(problem.grid),
    }


def load(
    path: str | os.PathLike[str], process: Callable[..., Any] | None = None, functional: Functional | type[Any] | None = None
) -> Surrogate:
    """Read a surrogate that `Surrogate.save` wrote; nothing in the file is executed.

    ``process`` and ``functional`` are your own classes if the model was trained on such.

    Raises
    ------
    FileNotFoundError, ValueError
        no such file; not a surrogate of this version, truncated, or of an unknown process or functional.
    """
    if not Path(path).is_file():
        hint = f": for a version of a store, {path!s}@latest" if Path(path).is_dir() else ""
        raise FileNotFoundError(f"no model file at {str(path)!r}{hint}")
    try:
        with open(path, "rb") as start:
            _refuse_header(start.read(8))
        with safe_open(path, "pt") as file:
            d = json.loads((file.metadata() or {}).get("spectralmc", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RecursionError) as error:
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
    description: dict[str, Any], tensors: bytes, process: Callable[..., Any] | None = None, functional: Functional | None = None
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
        _refuse_header(tensors[:8])
        return _rebuilt(description, load_bytes(tensors), process, functional)
    except (SafetensorError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"the model is damaged: {error!r}") from None


def _refuse_header(start: bytes) -> None:
    """Refuse a file by its first eight bytes, the length of its header: a pickle, an archive, or one made to be slow."""
    length = int.from_bytes(start, "little")
    if length > _HEADER:
        raise SafetensorError(f"its header claims {length} bytes, a model's has at most {_HEADER}; a pickle is never loaded")


def _rebuilt(d: dict[str, Any], tensors: dict[str, Tensor], process: Callable[..., Any] | None, functional: Any) -> Surrogate:
    outcome_class = functional if isinstance(functional, type) or functional is None else type(functional)
    given = {"process": name_of(process) if process else None, "functional": outcome_class and outcome_class.__name__}
    for role, name in given.items():
        if name not in (None, d[role]):
            raise ValueError(f"the model was trained with {role} {d[role]!r}; got {name!r}")
    law = process or _named_class("spectralmc.processes", d["process"])
    own = functional or _named_class("spectralmc.functionals", d["functional"])
    outcome = own(**d["functional_parameters"]) if isinstance(own, type) else own
    box = {name: low if low == high else (low, high) for name, (low, high) in d["box"].items()}
    maturity, carry = box.pop("maturity"), box.pop("carry")
    space = ParameterSpace(law, box, maturity, carry, tuple(d["logarithmic"]))
    width, first, last = d["network"]["width"], tensors["inner.0.weight"], tensors["readout.weight"]
    parts = 2 if first.ndim == 3 else 1  # a complex layer is stored as (…, 2) real numbers
    if first.shape[0] != width or last.shape[1] != parts * width or f"inner.{d['network']['depth']}.weight" not in tensors:
        raise KeyError("the network described is not the one stored")  # before it is made, however large it says it is
    network: Any = NETWORKS[d["kind"]](**d["network"], dtype=torch.complex128).requires_grad_(False)
    state = network.state_dict()
    network.load_state_dict({n: torch.view_as_complex(tensors[n]) if state[n].is_complex() else tensors[n] for n in state})
    pilot, bars = _part(Pilot, "pilot", tensors), _part(ErrorBars, "bars", tensors)
    problem = Problem(space, outcome, d["time_steps"], FrequencyGrid(**d["grid"]), d["substeps"], pilot)
    centre, spread = tensors["centre"], tensors["spread"]
    return Surrogate(problem, network, centre, spread, d["gaussian_base"], d["relative_error"], d["record"], bars)


def _part(kind: type[Any], name: str, tensors: dict[str, Tensor]) -> Any:
    """Return the dataclass of tensors stored under ``name``, or None."""
    held = {n.removeprefix(f"{name}."): tensor for n, tensor in tensors.items() if n.startswith(f"{name}.")}
    return kind(**held) if held else None


def _strikes(k: Tensor, sets: int, scalar: bool) -> Tensor:
    """Return strikes as (B, L)."""
    rows = k.reshape(1, -1) if k.ndim < 2 else k
    if k.ndim > 2 or (k.ndim == 2 and len(k) not in (1, sets)) or (k.ndim == 2 and scalar):
        batch = "" if scalar else f" or ({sets}, L)"
        raise ValueError(f"log_moneyness must have shape () or (L,){batch}; got {tuple(k.shape)}")
    return rows.expand(sets, -1)


def _bounded(put: Tensor, call: Tensor, strike: Tensor, share: Tensor | float, kind: Kind) -> Tensor:
    """Return the price within its no-arbitrage bounds: call − put is 1 − share · strike."""
    most = share * strike
    held = torch.minimum(torch.maximum(put, (most - 1).clamp(min=0)), most)
    return held if kind == "put" else held + 1 - most


def _real_view(tensor: Tensor) -> Tensor:
    """Return (…, 2) real numbers for complex ones: a safetensors file holds no complex128."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _common_shape(columns: Mapping[str, Tensor]) -> torch.Size:
    try:
        return torch.Size(np.broadcast_shapes(*(c.shape for c in columns.values())))
    except ValueError:
        shapes = ", ".join(f"{name} {tuple(c.shape)}" for name, c in columns.items())
        raise ValueError(f"parameters must be numbers or arrays of one length; got {shapes}") from None


def named_classes(module: str) -> dict[str, Any]:
    """Return our processes or functionals by name: never another class that the module happens to see."""
    found = vars(importlib.import_module(module))
    ours = {n: c for n, c in found.items() if isinstance(c, type) and is_dataclass(c) and c.__module__.startswith(module)}
    return {n: c for n, c in ours.items() if not n.startswith("_") and (hasattr(c, "schemes") or hasattr(c, "finish"))}


def _named_class(module: str, name: str) -> Any:
    known = named_classes(module)
    if name not in known:
        raise ValueError(f"the model is of {name!r}, which {module} does not have: pass your own class to load")
    return known[name]
