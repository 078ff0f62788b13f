"""Simulation: from a process to one number a path, without storing the paths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import Tensor

from spectralmc.device import complex_of
from spectralmc.draws import Draws
from spectralmc.functionals import Functional, expected_outcome
from spectralmc.processes import Scheme, TimeGrid, batch_size, scheme_of, with_fields
from spectralmc.stepping import ConditionalOutcome, Gatherer, Outcome, Track, reach
from spectralmc.validation import Number, count, real

_ARRAYS_ALIVE = 44  # tensors of 8 bytes an entry alive at once while a chunk is stepped (counters, words, normals, state), measured


@dataclass(frozen=True)
class Sample:
    """Simulated outcomes of one functional.

    Attributes
    ----------
    log_outcome
        ln(outcome/S₀), (B, N); its conditional mean where ``variance`` is given.
    forward
        E[outcome]/S₀, (B,): exact where the functional knows it, else the mean of the sample.
    randomizations
        R: 0 for independent paths; else the paths are R equal runs of consecutive paths, independent of each other.
    variance
        of the Gaussian that a path contributes in the place of a number, (B, N); None of a plain sample.
    weight
        probability that the outcome of a path is not the atom, (B, N); None where there is no atom.
    atom
        ln(outcome/S₀) of the atom; None: it pays nothing.
    control
        the control on the same draws, and ``control_law``: mean and variance, (B,) each, of its Gaussian ln(outcome/S₀).
    """

    log_outcome: Tensor
    forward: Tensor
    randomizations: int = 0
    variance: Tensor | None = None
    weight: Tensor | None = None
    atom: float | None = None
    control: Sample | None = None
    control_law: tuple[Tensor, Tensor] | None = None

    @property
    def log_return(self) -> Tensor:
        """X = ln(outcome/E[outcome]), (B, N); its conditional mean where ``variance`` is given."""
        return self.log_outcome - torch.log(self.forward)[:, None]

    @property
    def outcome(self) -> Tensor:
        """The outcome on a unit spot, (B, N); its conditional expectation where a path leaves it open."""
        outcome = torch.exp(self.log_outcome if self.variance is None else self.log_outcome + self.variance / 2)
        if self.weight is None:
            return outcome
        return self.weight * outcome + (0.0 if self.atom is None else (1 - self.weight) * math.exp(self.atom))

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard error over the paths of real ``values`` (B, N), each (B,)."""
        groups = values if self.randomizations == 0 else values.reshape(len(values), self.randomizations, -1).mean(2)
        if groups.shape[1] < 2:
            raise ValueError("a standard error needs at least 2 independent paths or randomizations; got 1")
        return groups.mean(1), groups.std(1) / math.sqrt(groups.shape[1])


@dataclass(frozen=True)
class Paths:
    """Stored paths, for figures: times (M+1,) or (B, M+1) in years and log_return ln(S_t/F_t), (B, N, M+1), both from 0."""

    times: Tensor
    log_return: Tensor


@overload
def simulate(
    process: Any, grid: TimeGrid, draws: Draws, paths: int, functional: None = None, *, carry: Number = ...,
    scheme: str | None = ..., dtype: torch.dtype = ..., memory: int = ..., first_set: int = ...,
    conditional: bool = ..., control: bool = ...,
) -> Paths: ...  # fmt: skip
@overload
def simulate(
    process: Any, grid: TimeGrid, draws: Draws, paths: int, functional: Functional, *, carry: Number = ...,
    scheme: str | None = ..., dtype: torch.dtype = ..., memory: int = ..., first_set: int = ...,
    conditional: bool = ..., control: bool = ...,
) -> Sample: ...  # fmt: skip
@overload
def simulate(
    process: Any, grid: TimeGrid, draws: Draws, paths: int, functional: tuple[Functional, ...], *, carry: Number = ...,
    scheme: str | None = ..., dtype: torch.dtype = ..., memory: int = ..., first_set: int = ...,
    conditional: bool = ..., control: bool = ...,
) -> tuple[Sample, ...]: ...  # fmt: skip
def simulate(
    process: Any,
    grid: TimeGrid,
    draws: Draws,
    paths: int,
    functional: Functional | tuple[Functional, ...] | None = None,
    *,
    carry: Number = 0.0,
    scheme: str | None = None,
    dtype: torch.dtype = torch.float64,
    memory: int = 1 << 25,
    first_set: int = 0,
    conditional: bool = False,
    control: bool = False,
) -> Paths | Sample | tuple[Sample, ...]:
    """Simulate ``paths`` paths for every parameter set and reduce each to its outcome while stepping.

    Shapes: parameters of ``process``, maturity and ``carry`` are numbers or (B,); outcomes come back as (B, N).

    Parameters
    ----------
    functional
        one functional, a tuple of them (all on the same paths), or None for stored `Paths`.
    carry
        growth rate b of the forward (1/year): F_t = S₀e^{bt}.
    scheme
        name of a scheme of the process; its first one if None.
    memory
        bytes the working arrays may take; the result does not depend on it, to the bit.
    first_set
        number of the first parameter set in the address of its draws.
    conditional
        integrate the asset's own noise out: a path contributes a Gaussian, mean and variance, in the place of a number (conditional
        Monte Carlo; Willard 1997).  Needs a scheme with an increment and a functional linear in Y.
    control
        attach the control of the functional under the control of the process, driven by the same normals, whose law is known.

    Raises
    ------
    ValueError, TypeError
        bad numbers, an unknown scheme, a memory budget too small for one path of every set, outcomes that are not finite; a conditional
        form, a control or a bridge asked of a process and functional that have none.

    Example
    -------
    >>> from spectralmc import BlackScholes, Draws, TimeGrid, Terminal, simulate
    >>> sample = simulate(BlackScholes(volatility=0.2), TimeGrid(1.0, 4), Draws(seed=7), 2**10, Terminal())
    >>> sample.log_outcome.shape
    torch.Size([1, 1024])
    """
    complex_of(dtype)  # float32 or float64, or a refusal
    run = _Run(
        process,
        grid,
        draws,
        count("paths", paths),
        scheme_of(process, scheme),
        real("carry", carry, unit="1/year"),
        dtype,
        first_set,
        conditional,
        control,
    )
    if functional is None:
        return run.stored(memory)
    samples = run.samples(functional if isinstance(functional, tuple) else (functional,), memory)
    return samples if isinstance(functional, tuple) else samples[0]


def control_of(process: Any, functional: Any) -> tuple[Any, Any] | None:
    """Return the lognormal process and the functional that serve as control, or None."""
    pair = getattr(process, "control", None), getattr(functional, "control", None)
    return pair if getattr(pair[0], "lognormal", False) and pair[1] is not None else None


def control_law(process: Any, functional: Any, grid: TimeGrid, carry: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of ln(outcome/S₀) of a control: of Σ a_i Y_{t_i} step by step, else the functional's own formula."""
    if not hasattr(functional, "linear_weights"):
        law: tuple[Tensor, Tensor] = functional.lognormal_law(process.integrated_variance(grid.maturity), grid, carry)
        return law
    weights, times = functional.linear_weights(grid.steps), grid.times()
    variance = with_fields(process, lambda value: value.reshape(-1, 1)).integrated_variance(times.reshape(-1, grid.steps))
    variance = variance.diff(dim=-1, prepend=torch.zeros_like(variance[..., :1]))  # of each step
    total = reach(weights)
    return carry * (times * weights).sum(-1) - (variance * total).sum(-1) / 2, (variance * total**2).sum(-1)


@dataclass(frozen=True)
class _Run:
    process: Any
    grid: TimeGrid
    draws: Draws
    paths: int
    scheme: Scheme
    carry: Tensor
    dtype: torch.dtype
    first_set: int
    conditional: bool
    control: bool

    @property
    def sets(self) -> int:
        return batch_size(self.process, real("maturity", self.grid.maturity), self.carry)

    @property
    def factors(self) -> int:
        return int(getattr(self.process, "factors", 1)) - self.conditional

    def chunks(self, memory: int, stored: int = 1) -> Iterator[range]:
        """Cut the paths into runs of a power of two that fit the budget."""
        arrays = _ARRAYS_ALIVE + stored + (8 * self.grid.steps * self.factors if self.draws.sampling == "sobol" else 0)
        affordable = count("memory", memory) // (8 * arrays * self.sets)
        if affordable < 1:
            raise ValueError(f"memory must hold one path of every parameter set, {8 * arrays * self.sets} bytes here; got {memory}")
        size = 1 << (affordable.bit_length() - 1)
        return (range(at, min(at + size, self.paths)) for at in range(0, self.paths, size))

    def normals(self, chunk: range) -> Iterator[Tensor]:
        if self.factors == 0:  # the asset's noise was all there was
            return itertools.repeat(torch.empty(0, self.sets, len(chunk), dtype=self.dtype), self.grid.steps)
        sets = range(self.first_set, self.first_set + self.sets)
        return self.draws.normals(sets, chunk, self.grid.steps, self.factors, self.dtype, self.paths)

    def track(self, process: Any, scheme: Scheme, zeros: Tensor) -> Track:
        dt = (real("maturity", self.grid.maturity) / self.grid.steps).to(self.dtype).reshape(-1, 1)
        return Track(process, scheme, zeros, dt, self.conditional)

    def zeros(self, chunk: range) -> Tensor:
        return torch.zeros(self.sets, len(chunk), dtype=self.dtype)

    def stored(self, memory: int) -> Paths:
        if self.conditional or self.control:
            raise TypeError("stored paths have neither a conditional form nor a control: give a functional")
        columns = [torch.stack(list(self.log_returns(chunk)), -1) for chunk in self.chunks(memory, self.grid.steps)]
        whole = torch.cat(columns, -2)
        times = self.grid.times()
        return Paths(torch.cat([torch.zeros_like(times[..., :1]), times], -1), torch.cat([torch.zeros_like(whole[..., :1]), whole], -1))

    def log_returns(self, chunk: range) -> Iterator[Tensor]:
        """Yield X at every fixing."""
        track = self.track(self.process, self.scheme, self.zeros(chunk))
        for normals in self.normals(chunk):
            track.step(normals)
            yield track.state[0]

    def samples(self, functionals: tuple[Functional, ...], memory: int) -> tuple[Sample, ...]:
        controls = [self.control_of(f) for f in functionals] if self.control else []
        for functional in functionals:
            self.refuse_impossible(self.process, self.scheme, functional)
        wanted = [(self.process, self.scheme, f) for f in functionals] + controls
        outcomes: list[dict[str, Tensor]] = [{} for _ in wanted]
        for chunk in self.chunks(memory, 2 * len(wanted)):
            for out, found in zip(outcomes, self.gathered(wanted, chunk), strict=True):
                for name, value in found.items():
                    whole = out.setdefault(name, torch.empty(self.sets, self.paths, dtype=self.dtype))
                    whole[:, chunk.start : chunk.stop] = value
        samples = [self.sample(f, found) for f, found in zip(functionals, outcomes, strict=False)]
        for i, ((process, _, functional), found) in enumerate(zip(controls, outcomes[len(functionals) :], strict=True)):
            samples[i] = self.controlled(samples[i], found, process, functional)
        return tuple(samples)

    def gathered(self, wanted: list[tuple[Any, Scheme, Any]], chunk: range) -> list[dict[str, Tensor]]:
        """Step every process once over a chunk, on the same normals, and return what each functional made of it."""
        zeros, steps = self.zeros(chunk), self.grid.steps
        drift = (self.carry[..., None] * self.grid.times()).to(self.dtype).reshape(-1, steps).unbind(-1)
        tracks: dict[tuple[int, str], Track] = {}
        gatherers: list[Gatherer] = []
        make = ConditionalOutcome if self.conditional else Outcome
        for process, scheme, functional in wanted:
            key = id(process), scheme.name
            if key not in tracks:
                tracks[key] = self.track(process, scheme, zeros)
            gatherers.append(make(functional, tracks[key], zeros, steps))
        for normals, growth in zip(self.normals(chunk), drift, strict=True):
            for track in tracks.values():
                track.step(normals)
            for gatherer in gatherers:
                gatherer.update(growth[:, None])
        return [gatherer.finish() for gatherer in gatherers]

    def control_of(self, functional: Any) -> tuple[Any, Scheme, Any]:
        pair = control_of(self.process, functional)
        if pair is None:
            raise TypeError(
                f"{type(functional).__name__} under {type(self.process).__name__} has no control: one needs a functional with a control "
                "and a process with a lognormal control"
            )
        process, control = pair
        same = process is self.process and math.isinf(self.scheme.weak_order)
        scheme = self.scheme if same else scheme_of(process, None)  # exact: its law must be the known one
        given, needed = (int(getattr(p, "factors", 1)) for p in (self.process, process))
        if given != needed:
            names = f"{type(process).__name__} takes {needed}, {type(self.process).__name__} {given}"
            raise ValueError(f"a control must take as many normals a step as its process; {names}")
        self.refuse_impossible(process, scheme, control)
        return process, scheme, control

    def refuse_impossible(self, process: Any, scheme: Scheme, functional: Any) -> None:
        if not self.conditional:
            return
        law, outcome = type(process).__name__, type(functional).__name__
        if scheme.increment is None:
            raise TypeError(f"conditional simulation needs a scheme with an increment; the {scheme.name} scheme of {law} has none")
        if not hasattr(functional, "linear_weights"):
            raise TypeError(f"conditional simulation of {outcome} under {law} needs linear_weights: {outcome} is not linear in ln S")

    def sample(self, functional: Functional, found: dict[str, Tensor]) -> Sample:
        known = expected_outcome(functional, self.process, self.grid, self.carry)
        sample = Sample(found["log_outcome"], torch.ones(self.sets), self.runs, found.get("variance"), found.get("weight"))
        sample = replace(sample, atom=getattr(functional, "atom", None))
        forward = sample.outcome.mean(1) if known is None else known.to(self.dtype).expand(self.sets)
        if not all(bool(torch.isfinite(x).all()) for x in (*found.values(), forward)) or not bool((forward > 0).all()):
            name = f"{type(functional).__name__} under {type(self.process).__name__}"
            raise ValueError(f"outcomes must be finite and positive; {name} gave some that are not: check parameters and scheme")
        return replace(sample, forward=forward)

    def controlled(self, sample: Sample, found: dict[str, Tensor], process: Any, functional: Any) -> Sample:
        """Attach the control; an expectation that only the sample knows is then the controlled one."""
        mean, variance = (x.expand(self.sets) for x in control_law(process, functional, self.grid, self.carry))
        forward = torch.exp(mean + variance / 2).to(self.dtype)
        control = Sample(found["log_outcome"], forward, self.runs, found.get("variance"))
        return replace(sample, control=control, control_law=(mean, variance))

    @property
    def runs(self) -> int:
        return self.draws.randomizations if self.draws.sampling == "sobol" else 0
