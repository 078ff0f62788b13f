"""What a process is: one law, and one or more schemes that step it through time.

A process of your own is a frozen dataclass with a ``step``; nothing is registered::

    @dataclass(frozen=True)
    class ConstantElasticity:
        volatility: float
        elasticity: float
        def step(self, state, dt, normals):
            (x,) = state
            deviation = self.volatility * torch.exp((self.elasticity - 1) * x) * dt.sqrt()
            return (x + deviation * normals[0] - deviation**2 / 2,)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from spectralmc.validation import Number, count, one_of, real

State = tuple[Tensor, ...]
Step = Callable[[Any, State, Tensor, Tensor], State]


class Increment(NamedTuple):
    """One step of an X that is Gaussian given the other noise: X ← X + mean + √variance · Z, with Z the last normal of the step.

    ``state`` is the rest of the state after the step, without X.  ``mean`` and ``variance`` are (B, N) or broadcast to it.
    ``quadratic_variation`` is ∫v dt over the step, that of the Brownian bridge between two fixings, where X moves continuously between
    them; None where it may jump.
    """

    state: State
    mean: Tensor
    variance: Tensor
    quadratic_variation: Tensor | None = None


IncrementStep = Callable[[Any, State, Tensor, Tensor], Increment]


@dataclass(frozen=True)
class TimeGrid:
    """Equal steps from today to maturity; fixings at t_i = iT/M, i = 1…M.

    Parameters
    ----------
    maturity
        T in years, positive; a number or (B,).
    steps
        M, at least 1.
    substeps
        steps of the scheme from one fixing to the next: its bias falls, and the contract stays.
    """

    maturity: Number
    steps: int
    substeps: int = 1

    def __post_init__(self) -> None:
        real("maturity", self.maturity, "positive", "years")
        count("steps", self.steps)
        count("substeps", self.substeps)

    def times(self) -> Tensor:
        """Return the fixings in years, (M,) or (B, M)."""
        return self.step_times()[..., self.substeps - 1 :: self.substeps]

    def step_times(self) -> Tensor:
        """Return the ends of the steps of the scheme in years, (M · substeps,) or (B, M · substeps)."""
        steps = self.steps * self.substeps
        return real("maturity", self.maturity)[..., None] * (torch.arange(1, steps + 1, dtype=torch.float64) / steps)


@dataclass(frozen=True)
class Scheme:
    """A discretisation, with its weak order (infinite if exact, NaN if unknown): a ``step`` or an ``increment``.

    ``step`` is (process, state, dt, normals) → state: a tuple of tensors whose first is X = ln(S_t/F_t), (B, N), or (A, B, N) of A
    assets; ``dt`` is (B, 1) or (1, 1) in years; ``normals`` is (factors, B, N).

    ``increment`` is (process, rest of the state, dt, normals without the last) → `Increment`: plain stepping, conditional Monte Carlo
    and bridges between fixings all follow from it.
    """

    name: str
    step: Step | None
    weak_order: float
    increment: IncrementStep | None = None

    def __post_init__(self) -> None:
        if (self.step is None) == (self.increment is None):
            raise ValueError(f"a scheme has either a step or an increment; {self.name} has {'neither' if self.step is None else 'both'}")

    def advance(self, process: Any, state: State, dt: Tensor, normals: Tensor) -> tuple[State, Increment | None]:
        """Return the state after ``dt``, and the increment it came from if the scheme has one."""
        if self.increment is None:
            assert self.step is not None
            return self.step(process, state, dt, normals), None
        move = self.increment(process, state[1:], dt, normals[:-1])
        return (torch.addcmul(state[0] + move.mean, torch.sqrt(move.variance), normals[-1]), *move.state), move


@runtime_checkable
class Process(Protocol):
    """Anything with a ``step`` that keeps E[e^X] = 1: S is a martingale about its forward.

    Parameters that are (B,) reach the step as (B, 1) columns.

    Looked for, and used where present: ``schemes`` (several schemes, the first is the default), ``factors`` (normals a step, one if
    absent), ``start(zeros)`` (the initial state; X = 0 alone if absent), ``characteristic_function(frequency, maturity)``,
    ``integrated_variance(maturity)`` (E∫v dt, (B,)), ``features(maturity)`` (dimensionless coordinates of the law, (B, P)),
    ``lognormal`` (whether ln S is a Gaussian process) and ``control`` (a lognormal process driven by the same normals).
    """

    def step(self, state: State, dt: Tensor, normals: Tensor) -> State:
        """Move the state over ``dt``."""
        ...


def scheme_of(process: Any, name: str | None) -> Scheme:
    """Return the named scheme of ``process``, its first one without a name, or its own ``step``."""
    schemes: tuple[Scheme, ...] = getattr(process, "schemes", ())
    if not schemes and callable(getattr(process, "step", None)):
        schemes = (Scheme("step", type(process).step, math.nan),)
    if not schemes:
        raise TypeError(f"a process needs a step(state, dt, normals) method or schemes; {type(process).__name__} has neither")
    if name is not None:
        one_of(f"scheme of {type(process).__name__}", name, tuple(s.name for s in schemes))
    return next(s for s in schemes if name in (None, s.name))


def column(value: Number, like: Tensor) -> Tensor:
    """Return a parameter () or (B,) as a (1, 1) or (B, 1) tensor with the precision of ``like``."""
    return torch.as_tensor(value, dtype=like.dtype).reshape(-1, 1)


def numeric_fields(process: Any) -> dict[str, Tensor]:
    """Return the numbers among the attributes of a process, and of those within it: what a batch of parameter sets is made of.

    Shapes: () or (B,) each, behind as many axes of its own as ``own_axes`` of the process gives the field (those of the assets).
    """
    found: dict[str, Tensor] = {}
    for name, value in vars(process).items():
        if _nested(value):
            found |= {f"{name}.{inner}": tensor for inner, tensor in numeric_fields(value).items()}
        elif isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, int | float | list | tuple | np.generic | np.ndarray) and np.asarray(value).dtype.kind in "iuf":
            found[name] = real(name, np.asarray(value))
    return found


def _nested(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _own_axes(process: Any, name: str) -> int:
    outer, _, inner = name.partition(".")
    return _own_axes(getattr(process, outer), inner) if inner else int(getattr(process, "own_axes", {}).get(name, 0))


def batch_size(process: Any, *contract: Tensor) -> int:
    """Return B, the number of parameter sets in a process and its contract (maturity, carry), or refuse their shapes."""
    shapes = {tuple(value.shape) for value in contract}
    shapes |= {tuple(value.shape[_own_axes(process, name) :]) for name, value in numeric_fields(process).items()}
    shapes -= {()}
    if len(shapes) > 1 or any(len(shape) > 1 for shape in shapes):
        raise ValueError(f"parameters, maturity and carry must be numbers or (B,) with one B; got shapes {sorted(shapes)}")
    return next(iter(shapes))[0] if shapes else 1


def with_fields(process: Any, change: Callable[[Tensor], Tensor], numbers_too: bool = False) -> Any:
    """Return the process with ``change`` applied to each of its (B,) parameters; only a dataclass can have such.

    With ``numbers_too``, a parameter that is one number, but not a whole one, counts as (1,).
    """
    if not _nested(process):
        return process
    numbers = numeric_fields(process)
    changed: dict[str, Any] = {}
    for name in (f.name for f in fields(process) if f.init):
        own = _own_axes(process, name)
        if numbers_too and name in numbers and numbers[name].ndim == own and not isinstance(getattr(process, name), int):
            numbers[name] = numbers[name][..., None]
        if _nested(getattr(process, name)):
            changed[name] = with_fields(getattr(process, name), change, numbers_too)
        elif name in numbers and numbers[name].ndim == own + 1:
            entries = numbers[name].reshape(-1, numbers[name].shape[-1])
            changed[name] = torch.stack([change(e) for e in entries]).unflatten(0, numbers[name].shape[:-1]) if own else change(entries[0])
    return replace(process, **changed)
