"""Simulation: from a process to one number a path, without storing the paths."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from spectralmc import compiled
from spectralmc.device import choose, complex_of, in_halves, place
from spectralmc.draws import Draws
from spectralmc.functionals import Functional, expected_outcome, refuse_other
from spectralmc.processes import Scheme, TimeGrid, batch_size, scheme_of, with_fields
from spectralmc.processes.base import numeric_fields
from spectralmc.stepping import ConditionalMatch, ConditionalOutcome, Inner, Mirror, Outcome, Track, reach
from spectralmc.validation import Number, count, real

_BUDGETS = {"cpu": 1 << 25, "cuda": 1 << 30}  # bytes
_LEAST_VARIANCE, _SLOPES = 1e-30, (0.25, 4.0)
_ARRAYS_ALIVE = 44  # tensors of 8 bytes an entry alive at once while a chunk is stepped (counters, words, normals, state), measured
_ARRAYS_A_NORMAL = 5  # and for every Sobol coordinate, which come all at once


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

    def cpu(self) -> Sample:
        """Return the same sample in main memory."""
        fields: dict[str, Any] = {name: value.cpu() for name, value in vars(self).items() if isinstance(value, Tensor | Sample)}
        law = self.control_law and (self.control_law[0].cpu(), self.control_law[1].cpu())
        return replace(self, **fields, control_law=law)

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard error over the paths of real ``values`` (B, N), each (B,)."""
        groups = values if self.randomizations == 0 else values.reshape(len(values), self.randomizations, -1).mean(2)
        if groups.shape[1] < 2:
            raise ValueError("a standard error needs at least 2 independent paths or randomizations; got 1")
        return groups.mean(1), groups.std(1) / math.sqrt(groups.shape[1])


@dataclass(frozen=True)
class Paths:
    """Stored paths, for figures: times (M+1,) or (B, M+1) in years, log_return ln(S_t/F_t) (B, N, M+1) or (A, B, N, M+1), both from 0."""

    times: Tensor
    log_return: Tensor

    def cpu(self) -> Paths:
        """Return the same paths in main memory."""
        return Paths(self.times.cpu(), self.log_return.cpu())


@overload
def simulate(
    process: Any, grid: TimeGrid, draws: Draws, paths: int, functional: None = None, *, carry: Number = ...,
    scheme: str | None = ..., dtype: torch.dtype = ..., memory: int | None = ..., first_set: int = ...,
    conditional: bool = ..., control: bool = ..., device: str = ...,
) -> Paths: ...  # fmt: skip
@overload
def simulate(
    process: Any, grid: TimeGrid, draws: Draws, paths: int, functional: Functional, *, carry: Number = ...,
    scheme: str | None = ..., dtype: torch.dtype = ..., memory: int | None = ..., first_set: int = ...,
    conditional: bool = ..., control: bool = ..., device: str = ...,
) -> Sample: ...  # fmt: skip
@overload
def simulate(
    process: Any, grid: TimeGrid, draws: Draws, paths: int, functional: tuple[Functional, ...], *, carry: Number = ...,
    scheme: str | None = ..., dtype: torch.dtype = ..., memory: int | None = ..., first_set: int = ...,
    conditional: bool = ..., control: bool = ..., device: str = ...,
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
    memory: int | None = None,
    first_set: int = 0,
    conditional: bool = False,
    control: bool = False,
    device: str = "cpu",
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
        bytes the working arrays may take; the result does not depend on it, to the bit.  None: 32 MiB on the CPU, which keeps to its
        caches, 1 GiB on a GPU.  Where a GPU has less to give, chunks are halved; compiled code (`spectralmc.compiled`), which plain
        simulations of many path-steps on the CPU get, has blocks of its own, a few MiB.
    first_set
        number of the first parameter set in the address of its draws.
    conditional
        integrate the asset's own noise out: a path contributes a Gaussian, mean and variance, in the place of a number (conditional
        Monte Carlo; Willard 1997).  Needs a scheme with an increment and a functional linear in Y.
    control
        attach the control of the functional under the control of the process, driven by the same normals, whose law is known.
    device
        ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one; the sample stays there.  The numbers are the same within rounding.

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
    run = _Run.of(process, grid, draws, paths, carry, scheme, dtype, first_set, conditional, control, choose(device))
    with place(run.device):
        if functional is None:
            return run.stored(run.budget(memory))
        samples = run.samples(functional if isinstance(functional, tuple) else (functional,), run.budget(memory), range(run.paths))
    return samples if isinstance(functional, tuple) else samples[0]


def sample_blocks(
    process: Any,
    grid: TimeGrid,
    draws: Draws,
    paths: int,
    functional: Functional,
    *,
    carry: Number = 0.0,
    scheme: str | None = None,
    dtype: torch.dtype = torch.float64,
    memory: int | None = None,
    first_set: int = 0,
    conditional: bool = False,
    control: bool = False,
    device: str = "cpu",
) -> Iterator[Sample]:
    """Simulate as `simulate`, but hand out the paths block by block: the memory taken does not grow with their number.

    Each block is a `Sample` of consecutive paths, the same numbers as the whole sample has there, and of whole randomizations;
    `spectralmc.empirical_characteristic_function` takes the blocks as they come.  A ``forward`` that is not known is that of the block.

    Raises
    ------
    ValueError, TypeError
        as `simulate`; a memory budget too small for one randomization.

    Example
    -------
    >>> from spectralmc import BlackScholes, Draws, TimeGrid, Terminal
    >>> blocks = sample_blocks(BlackScholes(0.2), TimeGrid(1.0, 1), Draws(seed=7), 2**12, Terminal(), memory=2**16)
    >>> sum(block.log_outcome.shape[1] for block in blocks)
    4096
    """
    run = _Run.of(process, grid, draws, paths, carry, scheme, dtype, first_set, conditional, control, choose(device))
    return (run.block(functional, run.budget(memory), window) for window in run.windows(run.budget(memory)))


class Beside(NamedTuple):
    """An outcome, one close to it on the same paths, (B, 2N), and the Gaussian of the close one given the variance path, (B, N)."""

    outcome: Sample
    close: Sample
    smooth: Sample


def simulate_beside(
    process: Any,
    grid: TimeGrid,
    draws: Draws,
    paths: int,
    functional: Any,
    *,
    carry: Number = 0.0,
    dtype: torch.dtype = torch.float64,
    memory: int | None = None,
    first_set: int = 0,
    device: str = "cpu",
) -> Beside:
    r"""Simulate an outcome beside one whose law given the variance path is a Gaussian, and that law, all on the same draws.

    The close outcome is :math:`e^{\beta+\alpha\ln G}` with G the control of the functional and α, β such that, given the variance path, it
    has the first two moments of the outcome: functions of that path alone, so that its law is known whatever they are.  A path is taken
    twice, with the asset's own noise and with the opposite; ``smooth`` has a control of its own.  Then the mean of a function of the
    outcome less that of the close one plus that of the smooth one is unbiased, and has little variance.

    Parameters, shapes and errors: as `simulate`.

    Raises
    ------
    TypeError
        a process and functional without such a close outcome (`can_go_beside`).
    """
    if not can_go_beside(process, functional):
        raise TypeError(
            f"{type(functional).__name__} under {type(process).__name__} has no close outcome to go beside: it takes a functional with a "
            "lognormal_match and a control linear in ln S, and a process with a lognormal control whose scheme has an increment"
        )
    run = _Run.of(process, grid, draws, paths, carry, None, dtype, first_set, False, True, choose(device))
    with place(run.device):
        return run.beside(functional, run.budget(memory))


def can_go_beside(process: Any, functional: Any) -> bool:
    """Return whether `simulate_beside` takes them: an increment, a control linear in ln S, and a `lognormal_match`."""
    pair = control_of(process, functional)
    return pair is not None and can_condition(process, pair[1]) and hasattr(functional, "lognormal_match")


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


def can_condition(process: Any, functional: Any, scheme: str | None = None) -> bool:
    """Return whether `simulate` can integrate the asset's own noise out of this outcome."""
    return scheme_of(process, scheme).increment is not None and hasattr(functional, "linear_weights")


class _Part(NamedTuple):
    """An outcome to simulate: the one asked for, or its control."""

    process: Any
    scheme: Scheme
    functional: Any


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
    device: torch.device

    @classmethod
    def of(
        cls, process: Any, grid: TimeGrid, draws: Draws, paths: int, carry: Number, scheme: str | None, dtype: torch.dtype, *rest: Any
    ) -> _Run:
        for name, given, kind in (("grid", grid, TimeGrid), ("draws", draws, Draws)):
            if not isinstance(given, kind):
                raise TypeError(f"{name} must be a {kind.__name__}; got {given!r}")
        if isinstance(process, type):
            raise TypeError(f"process must be an object; got the class {process.__name__}: give it its parameters")
        complex_of(dtype)  # float32 or float64, or a refusal
        draws.runs(count("paths", paths))  # refuses what cannot be divided
        scheme_found, b = scheme_of(process, scheme), real("carry", carry, unit="1/year")
        device = rest[-1]
        if device.type != "cpu":
            process, b = with_fields(process, lambda value: value.to(device)), b.to(device)
            grid = replace(grid, maturity=real("maturity", grid.maturity).to(device))
        return cls(process, grid, draws, paths, scheme_found, b, dtype, *rest)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def budget(self, memory: int | None) -> int:
        return _BUDGETS[self.device.type] if memory is None else count("memory", memory)

    def block(self, functional: Functional, memory: int, window: range) -> Sample:
        with place(self.device):
            return self.samples((functional,), memory, window)[0]

    @cached_property
    def control_process(self) -> Any:
        return self.process.control

    @property
    def sets(self) -> int:
        return batch_size(self.process, real("maturity", self.grid.maturity), self.carry)

    @property
    def factors(self) -> int:
        return int(getattr(self.process, "factors", 1)) - self.conditional

    @property
    def steps(self) -> int:
        return self.grid.steps * self.grid.substeps

    @cached_property
    def compiled(self) -> bool:
        """Whether compiled code steps these paths."""
        plain = self.device.type == "cpu" and not self.conditional and self.draws.sampling == "independent" and not self.draws.antithetic
        if not plain or not self.factors or not compiled.width(self.factors, self.grid.substeps):
            return False
        parameters = (*numeric_fields(self.process).values(), real("maturity", self.grid.maturity), self.carry)
        return compiled.pays(self.sets, self.paths, self.steps) and not any(value.requires_grad for value in parameters)

    def chunks(self, memory: int, window: range, stored: int = 1) -> Iterator[range]:
        """Cut the paths of a window into runs of a power of two that fit the budget."""
        arrays = _ARRAYS_ALIVE + stored + (_ARRAYS_A_NORMAL * self.steps * self.factors if self.draws.sampling == "sobol" else 0)
        affordable = memory // (8 * arrays * self.sets)
        if affordable < 1:
            raise ValueError(f"memory must hold one path of every parameter set, {8 * arrays * self.sets} bytes here; got {memory}")
        size = 1 << (affordable.bit_length() - 1)
        return (range(at, min(at + size, window.stop)) for at in range(window.start, window.stop, size))

    def windows(self, memory: int) -> Iterator[range]:
        """Cut the paths into blocks of whole runs, whose outcomes fit the budget."""
        run, each = self.paths // (self.draws.runs(self.paths) or self.paths), 64 * self.sets
        affordable = memory // (each * run)
        if affordable < 1:
            needed = f"one randomization of every parameter set, {each * run} bytes here"
            raise ValueError(f"memory must hold {needed}; got {memory}: take more randomizations")
        size = max(run << (affordable.bit_length() - 1), compiled.PATHS if self.compiled else 1)
        return (range(at, min(at + size, self.paths)) for at in range(0, self.paths, size))

    def normals(self, chunk: range) -> Iterator[Tensor]:
        if self.factors == 0:  # the asset's noise was all there was
            return itertools.repeat(torch.empty(0, self.sets, len(chunk), dtype=self.dtype), self.steps)
        sets = range(self.first_set, self.first_set + self.sets)
        return self.draws.normals(sets, chunk, self.steps, self.factors, self.dtype, self.paths)

    def track(self, process: Any, scheme: Scheme, zeros: Tensor) -> Track:
        dt = (real("maturity", self.grid.maturity) / self.steps).to(self.dtype).reshape(-1, 1)
        return Track(process, scheme, zeros, dt, self.conditional)

    def zeros(self, chunk: range) -> Tensor:
        return torch.zeros(self.sets, len(chunk), dtype=self.dtype)

    def stored(self, memory: int) -> Paths:
        if self.conditional or self.control:
            raise TypeError("stored paths have neither a conditional form nor a control: give a functional")
        chunks = self.chunks(memory, range(self.paths), self.grid.steps)
        columns = torch.cat([torch.stack(list(self.log_returns(chunk)), -1) for chunk in chunks], -2)
        times = self.grid.times()
        return Paths(*(torch.cat([torch.zeros_like(x[..., :1]), x], -1) for x in (times, columns)))

    def log_returns(self, chunk: range) -> Iterator[Tensor]:
        """Yield X at every fixing."""
        track = self.track(self.process, self.scheme, self.zeros(chunk))
        for step, normals in enumerate(self.normals(chunk), 1):
            track.step(normals)
            if step % self.grid.substeps == 0:
                yield track.state[0]

    def samples(self, functionals: tuple[Functional, ...], memory: int, window: range) -> tuple[Sample, ...]:
        parts = [_Part(self.process, self.scheme, f) for f in functionals]
        controls = [self.control_of(f) for f in functionals] if self.control else []
        for part in parts + controls:
            self.refuse_impossible(part)
        outcomes: list[dict[str, Tensor]] = [{} for _ in parts + controls]
        together, keep = parts + controls, functools.partial(self.keep, outcomes, window)
        for chunk in self.uncompiled(together, memory, window, keep):
            in_halves(lambda part: keep(part, self.gathered(together, part)), lambda first, second: None, chunk)
        runs = self.draws.runs(self.paths) * len(window) // self.paths
        known = [self.known(part, found, runs) for part, found in zip(controls, outcomes[len(parts) :], strict=True)]
        pairs = itertools.chain(known, itertools.repeat((None, None)))
        return tuple(self.sample(f, found, runs, *pair) for f, found, pair in zip(functionals, outcomes, pairs, strict=False))

    def keep(self, outcomes: list[dict[str, Tensor]], window: range, chunk: range, pieces: list[dict[str, Tensor]]) -> None:
        """Write what was made of a chunk where it belongs."""
        for whole, found in zip(outcomes, pieces, strict=True):
            for name, value in found.items():
                if name not in whole:
                    whole[name] = torch.empty(self.sets, len(window), dtype=self.dtype)
                whole[name][:, chunk.start - window.start : chunk.stop - window.start] = value

    def uncompiled(
        self, parts: list[_Part], memory: int, window: range, keep: Callable[[range, list[dict[str, Tensor]]], None]
    ) -> Iterator[range]:
        """Yield the chunks that compiled code does not make; ``keep`` gets what it makes."""
        if not self.compiled:
            yield from self.chunks(memory, window, 2 * len(parts))
            return
        kind = [type(thing) for part in parts for thing in (part.process, part.functional)]
        size = compiled.PATHS * max(4 // self.sets, 1)
        for first in range(window.start, window.stop, size):
            chunk = range(first, min(first + size, window.stop))
            found = compiled.attempt(functools.partial(self.set_by_set, parts, chunk), *kind, self.scheme.name)
            if found is None:
                yield from self.chunks(memory, chunk, 2 * len(parts))
            else:
                keep(chunk, found)

    def fused(self, parts: list[_Part], chunk: range) -> list[dict[str, Tensor]] | None:
        """Return what `gathered` does from one launch, if there is a kernel."""
        if not self.on_gpu:
            return None
        from spectralmc import fused

        functionals = [part.functional for part in parts if part.process is self.process]
        controls = [part for part in parts if part.process is not self.process]
        place = (self.dtype, self.sets, self.first_set, self.device)
        if not fused.has_kernel(self.process, self.scheme.name, functionals, self.grid, self.draws, self.conditional, bool(controls)):
            return None
        if not self.conditional:
            return fused.outcomes(self.process, self.grid, self.draws, chunk, functionals, self.carry, *place)
        return fused.terminal(self.process, self.grid, self.draws, chunk, self.paths, self.carry, *place, control=bool(controls))

    def gathered(self, parts: list[_Part], chunk: range) -> list[dict[str, Tensor]]:
        """Step every process once over a chunk, all on the same normals, and return what each functional made of it."""
        if (found := self.fused(parts, chunk)) is not None:
            return found
        return self.walk(*self.followers(parts, self.zeros(chunk)), chunk)

    def walk(self, tracks: list[Any], gatherers: list[Any], chunk: range) -> list[dict[str, Tensor]]:
        for step, (normals, growth) in enumerate(zip(self.normals(chunk), self.drift().unbind(-1), strict=True), 1):
            for track in tracks:
                track.step(normals)
            for gatherer in gatherers:
                gatherer.update(growth[:, None], step % self.grid.substeps == 0)
        return [gatherer.finish() for gatherer in gatherers]

    def beside(self, functional: Any, memory: int) -> Beside:
        control, window = self.control_of(functional), range(self.paths)
        outcomes: list[dict[str, Tensor]] = [{} for _ in range(7)]
        keep = functools.partial(self.keep, outcomes, window)
        for chunk in self.chunks(memory, window, 16):
            in_halves(lambda part: keep(part, self.gathered_beside(functional, control, part)), lambda first, second: None, chunk)
        own, close = (torch.stack([x["log_outcome"] for x in outcomes[i : i + 2]], -1).flatten(1) for i in (0, 2))
        given, match = outcomes[4:6]
        slope = torch.sqrt((match["variance"] / given["variance"].clamp(min=_LEAST_VARIANCE)).clamp(*_SLOPES))
        variance = slope.square() * given["variance"]
        centre = match["log_outcome"] + (match["variance"] - variance) / 2
        moved, steep = (x.repeat_interleave(2, 1) for x in (centre - slope * given["log_outcome"], slope))
        runs = self.draws.runs(self.paths) or self.paths
        known = self.known(control, outcomes[6], runs)
        return Beside(
            self.sample(functional, {"log_outcome": own}, runs, None, None),
            self.sample(control.functional, {"log_outcome": torch.addcmul(moved, steep, close)}, runs, None, None),
            self.sample(control.functional, {"log_outcome": centre, "variance": variance}, runs, *known),
        )

    def gathered_beside(self, functional: Any, control: _Part, chunk: range) -> list[dict[str, Tensor]]:
        """Step once and return outcome and control, each on the path and on its mirror; control and match given the path; its control."""
        zeros, close = self.zeros(chunk), control.functional
        track = self.track(self.process, self.scheme, zeros)
        mirror, inner = Mirror(track), Inner(control.process, control.scheme, zeros, track.dt, conditional=True)
        gatherers: list[Any] = [Outcome(f, t, zeros, self.grid) for f in (functional, close) for t in (track, mirror)]
        gatherers += [kind(f, track, zeros, self.grid) for kind, f in ((ConditionalOutcome, close), (ConditionalMatch, functional))]
        gatherers.append(ConditionalOutcome(close, inner, zeros, self.grid))
        return self.walk([track, mirror, inner], gatherers, chunk)

    def drift(self) -> Tensor:
        return (self.carry[..., None] * self.grid.step_times()).to(self.dtype).reshape(-1, self.steps)

    def followers(self, parts: list[_Part], zeros: Tensor) -> tuple[list[Track], list[Any]]:
        """Return a track for each process and what follows it for each functional."""
        tracks: dict[tuple[int, str], Track] = {}
        gatherers: list[Any] = []
        for process, scheme, functional in parts:
            key = id(process), scheme.name
            if key not in tracks:
                tracks[key] = self.track(process, scheme, zeros)
            gatherers.append((ConditionalOutcome if self.conditional else Outcome)(functional, tracks[key], zeros, self.grid))
        return list(tracks.values()), gatherers

    def set_by_set(self, parts: list[_Part], chunk: range) -> list[dict[str, Tensor]]:
        """Return what `gathered` does, by compiled code, which takes one parameter set and always as many paths."""
        found = [self.one_set(parts, row, chunk) for row in range(self.sets)]
        return [{name: torch.cat([one[name] for one in each]) for name in each[0]} for each in zip(*found, strict=True)]

    def one_set(self, parts: list[_Part], row: int, chunk: range) -> list[dict[str, Tensor]]:
        def cut(value: Tensor) -> Tensor:
            return value.reshape(-1)[row if value.numel() > 1 else 0].reshape(1)

        processes = {id(part.process): with_fields(part.process, cut, numbers_too=True) for part in parts}  # numbers would be compiled in
        run = replace(self, grid=replace(self.grid, maturity=cut(real("maturity", self.grid.maturity))), carry=cut(self.carry))
        alone, drift = [part._replace(process=processes[id(part.process)]) for part in parts], run.drift()
        whole: list[dict[str, Tensor]] = [{} for _ in parts]
        for first in range(chunk.start, chunk.stop, compiled.PATHS):
            tracks, outcomes = run.followers(alone, torch.zeros(1, compiled.PATHS, dtype=self.dtype))
            compiled.step_through(tracks, outcomes, self.draws, self.first_set + row, first, drift, self.grid.substeps, self.factors)
            for found, outcome in zip(whole, outcomes, strict=True):
                for name, value in outcome.finish().items():
                    found.setdefault(name, torch.empty(1, len(chunk), dtype=self.dtype))
                    found[name][:, first - chunk.start :][:, : compiled.PATHS] = value[:, : chunk.stop - first]
        return whole

    def control_of(self, functional: Any) -> _Part:
        pair = control_of(self.process, functional)
        if pair is None:
            raise TypeError(
                f"{type(functional).__name__} under {type(self.process).__name__} has no control: it takes a functional with a control and "
                "a process with a lognormal one"
            )
        process, control = self.control_process, pair[1]  # one object: its track is shared
        takes, given = (int(getattr(p, "factors", 1)) for p in (process, self.process))
        if takes != given:
            names = type(process).__name__, type(self.process).__name__
            raise ValueError(f"a control must take as many normals a step as its process; {names[0]} takes {takes}, {names[1]} {given}")
        exact = process is self.process and math.isinf(self.scheme.weak_order)
        return _Part(process, self.scheme if exact else scheme_of(process, None), control)

    def refuse_impossible(self, part: _Part) -> None:
        refuse_other(part.functional)
        law, outcome = type(part.process).__name__, type(part.functional).__name__
        takes, given = getattr(part.functional, "assets", None), getattr(part.process, "assets", 1)
        if takes not in (None, given):
            raise ValueError(f"{outcome} takes {takes} assets; {law} has {given}")
        if self.conditional and part.scheme.increment is None:
            raise TypeError(f"conditional simulation needs a scheme with an increment; the {part.scheme.name} scheme of {law} has none")
        if self.conditional and not hasattr(part.functional, "linear_weights"):
            raise TypeError(f"conditional simulation of {outcome} under {law} needs linear_weights: {outcome} is not linear in ln S")

    def known(self, part: _Part, found: dict[str, Tensor], runs: int) -> tuple[Sample, tuple[Tensor, Tensor]]:
        """Return a control with its law."""
        mean, variance = (x.expand(self.sets) for x in control_law(part.process, part.functional, self.grid, self.carry))
        forward = torch.exp(mean + variance / 2).to(self.dtype)
        return Sample(found["log_outcome"], forward, runs, found.get("variance")), (mean, variance)

    def sample(
        self, functional: Any, found: dict[str, Tensor], runs: int, control: Sample | None, law: tuple[Tensor, Tensor] | None
    ) -> Sample:
        forward = expected_outcome(functional, self.process, self.grid, self.carry)
        unit, atom = torch.ones(self.sets, dtype=self.dtype), getattr(functional, "atom", None)
        sample = Sample(found["log_outcome"], unit, runs, found.get("variance"), found.get("weight"), atom, control, law)
        if forward is None:
            forward = sample.outcome.mean(1) if control is None else (sample.outcome - control.outcome).mean(1) + control.forward
        forward = forward.to(self.dtype).expand(self.sets)
        finite = all(bool(torch.isfinite(torch.stack(x.aminmax())).all()) for x in (*found.values(), forward))
        if not finite or not bool((forward > 0).all()):
            name = f"{type(functional).__name__} under {type(self.process).__name__}"
            raise ValueError(f"outcomes must be finite and positive; {name} gave some that are not: check parameters and scheme")
        return replace(sample, forward=forward)
