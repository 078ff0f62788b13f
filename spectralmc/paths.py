"""Simulation: from a process to one number a path, without storing the paths."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from spectralmc.device import complex_of
from spectralmc.draws import Draws
from spectralmc.functionals import Functional, expected_outcome
from spectralmc.processes import Scheme, TimeGrid, batch_size, scheme_of, with_fields
from spectralmc.validation import Number, count, real

_ARRAYS_ALIVE = 44  # tensors of 8 bytes an entry alive at once while a chunk is stepped (counters, words, normals, state), measured


@dataclass(frozen=True)
class Sample:
    """Simulated outcomes of one functional.

    Attributes
    ----------
    log_outcome
        ln(outcome/S₀), (B, N).
    forward
        E[outcome]/S₀, (B,): exact where the functional knows it, else the mean of the sample.
    randomizations
        R: 0 for independent paths; else the paths are R equal runs of consecutive paths, independent of each other.
    """

    log_outcome: Tensor
    forward: Tensor
    randomizations: int = 0

    @property
    def log_return(self) -> Tensor:
        """X = ln(outcome/E[outcome]), (B, N)."""
        return self.log_outcome - torch.log(self.forward)[:, None]

    @property
    def outcome(self) -> Tensor:
        """The outcome on a unit spot, (B, N)."""
        return torch.exp(self.log_outcome)

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
) -> Paths: ...  # fmt: skip
@overload
def simulate(
    process: Any, grid: TimeGrid, draws: Draws, paths: int, functional: Functional, *, carry: Number = ...,
    scheme: str | None = ..., dtype: torch.dtype = ..., memory: int = ..., first_set: int = ...,
) -> Sample: ...  # fmt: skip
@overload
def simulate(
    process: Any, grid: TimeGrid, draws: Draws, paths: int, functional: tuple[Functional, ...], *, carry: Number = ...,
    scheme: str | None = ..., dtype: torch.dtype = ..., memory: int = ..., first_set: int = ...,
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

    Raises
    ------
    ValueError, TypeError
        bad numbers, an unknown scheme, a memory budget too small for one path of every set, outcomes that are not finite.

    Example
    -------
    >>> from spectralmc import BlackScholes, Draws, TimeGrid, Terminal, simulate
    >>> sample = simulate(BlackScholes(volatility=0.2), TimeGrid(1.0, 4), Draws(seed=7), 2**10, Terminal())
    >>> sample.log_outcome.shape
    torch.Size([1, 1024])
    """
    complex_of(dtype)  # float32 or float64, or a refusal
    run = _Run(
        process, grid, draws, count("paths", paths), scheme_of(process, scheme), real("carry", carry, unit="1/year"), dtype, first_set
    )
    if functional is None:
        return run.stored(memory)
    samples = run.samples(functional if isinstance(functional, tuple) else (functional,), memory)
    return samples if isinstance(functional, tuple) else samples[0]


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

    @property
    def sets(self) -> int:
        return batch_size(self.process, real("maturity", self.grid.maturity), self.carry)

    def chunks(self, memory: int, stored: int = 1) -> Iterator[range]:
        """Cut the paths into runs of a power of two that fit the budget."""
        arrays = _ARRAYS_ALIVE + stored + (8 * self.grid.steps * self.factors if self.draws.sampling == "sobol" else 0)
        affordable = count("memory", memory) // (8 * arrays * self.sets)
        if affordable < 1:
            raise ValueError(f"memory must hold one path of every parameter set, {8 * arrays * self.sets} bytes here; got {memory}")
        size = 1 << (affordable.bit_length() - 1)
        return (range(at, min(at + size, self.paths)) for at in range(0, self.paths, size))

    @property
    def factors(self) -> int:
        return int(getattr(self.process, "factors", 1))

    def log_returns(self, chunk: range) -> Iterator[Tensor]:
        """Yield X at every fixing, (B, n)."""
        zeros = torch.zeros(self.sets, len(chunk), dtype=self.dtype)
        dt = (real("maturity", self.grid.maturity) / self.grid.steps).to(self.dtype).reshape(-1, 1)
        process = with_fields(self.process, lambda value: value.to(self.dtype).reshape(-1, 1))  # (B, 1) meets (B, N)
        state = process.start(zeros) if hasattr(process, "start") else (zeros,)
        sets = range(self.first_set, self.first_set + self.sets)
        for normals in self.draws.normals(sets, chunk, self.grid.steps, self.factors, self.dtype, self.paths):
            state = self.scheme.step(process, state, dt, normals)
            if not isinstance(state, tuple) or not isinstance(state[0], Tensor) or state[0].shape != zeros.shape:
                raise TypeError(f"the {self.scheme.name} scheme must return a tuple of (B, N) tensors, here {tuple(zeros.shape)}, X first")
            yield state[0]

    def stored(self, memory: int) -> Paths:
        columns = [torch.stack(list(self.log_returns(chunk)), -1) for chunk in self.chunks(memory, self.grid.steps)]
        start = [torch.zeros(self.sets, self.paths, 1, dtype=self.dtype)]
        times = self.grid.times()
        return Paths(torch.cat([torch.zeros_like(times[..., :1]), times], -1), torch.cat([*start, torch.cat(columns, 1)], -1))

    def samples(self, functionals: tuple[Functional, ...], memory: int) -> tuple[Sample, ...]:
        outcomes = [torch.empty(self.sets, self.paths, dtype=self.dtype) for _ in functionals]
        drift = (self.carry[..., None] * self.grid.times()).to(self.dtype).reshape(-1, self.grid.steps).unbind(-1)
        for chunk in self.chunks(memory, len(functionals)):
            zeros = torch.zeros(self.sets, len(chunk), dtype=self.dtype)
            accumulators = [f.start(zeros) for f in functionals]
            for x, growth in zip(self.log_returns(chunk), drift, strict=True):
                price = x + growth[:, None]
                accumulators = [f.update(a, price) for f, a in zip(functionals, accumulators, strict=True)]
            for out, f, a in zip(outcomes, functionals, accumulators, strict=True):
                finished = f.finish(a, self.grid.steps)
                if finished.shape != zeros.shape:
                    raise ValueError(
                        f"finish of {type(f).__name__} must return (B, N), here {tuple(zeros.shape)}; got {tuple(finished.shape)}"
                    )
                out[:, chunk.start : chunk.stop] = finished
        return tuple(self.sample(f, out) for f, out in zip(functionals, outcomes, strict=True))

    def sample(self, functional: Functional, log_outcome: Tensor) -> Sample:
        known = expected_outcome(functional, self.process, self.grid, self.carry)
        forward = torch.exp(log_outcome).mean(1) if known is None else known
        if not bool(torch.isfinite(log_outcome).all() & torch.isfinite(forward).all()):
            name = f"{type(functional).__name__} under {type(self.process).__name__}"
            raise ValueError(f"outcomes must be finite and positive; {name} gave some that are not: check parameters and scheme")
        randomizations = self.draws.randomizations if self.draws.sampling == "sobol" else 0
        return Sample(log_outcome, forward.to(self.dtype).expand(self.sets), randomizations)
