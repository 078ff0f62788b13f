"""What is learned: the law of a functional over a box, standardised by formula where one is known, by a pilot run where not."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spectralmc.draws import Draws
from spectralmc.functionals import Functional, Terminal, expected_outcome
from spectralmc.parameters import ParameterSpace, name_of
from spectralmc.paths import Sample, simulate
from spectralmc.processes import TimeGrid
from spectralmc.spectrum import FrequencyGrid
from spectralmc.validation import count

_PILOT_SETS, _PILOT_PATHS, _PILOT_STREAM = 512, 1024, 5
_LOOK_SETS, _LOOK_PATHS = 8, 64
_MARTINGALE_PATHS, _MARTINGALE_ERRORS = 4096, 6
_RANGE = 2  # a polynomial may leave the values it was fitted to by this many of their standard deviations


class Standard(NamedTuple):
    """The reference of the outcome at some points, each (B,): X = ln(outcome/(S₀·forward)), Z = (X − location)/scale.

    ``mass`` is the weight of the continuous part.  All are exact or approximate alike: whatever they miss is learned.
    """

    location: Tensor
    scale: Tensor
    forward: Tensor
    mass: Tensor


class Outputs(NamedTuple):
    """What the network says at some points, in units of `Standard`.

    ``values`` E[w e^{iw_k Z}], (B, K), with w the weight of the continuous part, not divided by its mass; ``forward`` the factor
    by which E[outcome] differs from the reference, ``mass`` the weight of the continuous part, (B,).
    """

    values: Tensor
    forward: Tensor
    mass: Tensor


@dataclass(frozen=True)
class Pilot:
    """Quadratic polynomials of the standardised features, fitted by least squares to a small simulation.

    Attributes
    ----------
    centre, spread
        of the features, (P,).
    coefficients
        of location, ln scale, ln forward and mass, (terms, 4).
    low, high
        the values they may take, (4,).
    """

    centre: Tensor
    spread: Tensor
    coefficients: Tensor
    low: Tensor
    high: Tensor

    def __call__(self, features: Tensor) -> Standard:
        """Return the fitted reference at features (B, P)."""
        centre, spread, coefficients, low, high = (getattr(self, f.name).to(features) for f in fields(self))
        values = quadratic((features - centre) / spread) @ coefficients
        location, log_scale, log_forward, mass = torch.minimum(torch.maximum(values, low), high).unbind(-1)
        return Standard(location, torch.exp(log_scale), torch.exp(log_forward), mass)


def quadratic(x: Tensor) -> Tensor:
    """Return the monomials up to degree two of (B, P): (B, 1 + P + P(P+1)/2)."""
    i, j = torch.triu_indices(x.shape[1], x.shape[1])
    return torch.cat([torch.ones_like(x[:, :1]), x, x[:, i] * x[:, j]], 1)


@dataclass(frozen=True)
class Problem:
    """The law of a functional over a box, on M fixings with ``substeps`` steps of the scheme between them, and a frequency grid.

    ``pilot`` stands in for the formulae that process and functional lack; `posed` runs it where it is needed.
    """

    space: ParameterSpace
    functional: Functional
    time_steps: int
    grid: FrequencyGrid
    substeps: int = 1
    pilot: Pilot | None = None

    def __post_init__(self) -> None:
        for name, kind in (("space", ParameterSpace), ("grid", FrequencyGrid)):
            if not isinstance(value := getattr(self, name), kind):
                raise TypeError(f"{name} must be a {kind.__name__}; got {value!r}")
        count("time_steps", self.time_steps)
        count("substeps", self.substeps)

    @property
    def scale_known(self) -> bool:
        """Whether location and scale have a formula: that of the lognormal control at the mean variance."""
        control = getattr(self.functional, "control", None)
        return hasattr(self.space.example, "integrated_variance") and hasattr(control, "lognormal_law") and not self.has_atom

    @property
    def forward_known(self) -> bool:
        """Whether E[outcome] has a formula."""
        lognormal = getattr(self.space.example, "lognormal", False) and hasattr(self.functional, "lognormal_law")
        return hasattr(self.functional, "forward") or lognormal

    @property
    def has_atom(self) -> bool:
        """Whether the outcome may have an atom, whose weight is learned too."""
        return hasattr(self.functional, "atom")

    @property
    def size(self) -> int:
        """Complex numbers the network says: K, and one more for a forward or a mass that must be learned."""
        return self.grid.size + (not self.forward_known or self.has_atom)

    def time_grid(self, points: Mapping[str, Tensor]) -> TimeGrid:
        """Return the fixings of these points."""
        return TimeGrid(points["maturity"], self.time_steps, self.substeps)

    def standard(self, points: Mapping[str, Tensor]) -> Standard:
        """Return the reference of the outcome, each (B,): by formula where known (m = −s²/2), else the pilot's."""
        process, grid = self.space.at(points), self.time_grid(points)
        found = self.pilot(self.features(points)) if self.pilot is not None else None
        one = torch.ones_like(points["maturity"])
        if self.scale_known:
            variance = process.integrated_variance(points["maturity"])
            scale = torch.sqrt(self.functional.control.lognormal_law(variance, grid, points["carry"])[1])  # type: ignore[attr-defined]
            location = -(scale**2) / 2
        else:
            assert found is not None  # `posed` made it
            location, scale = found.location, found.scale
        forward = expected_outcome(self.functional, process, grid, points["carry"])
        if forward is None:
            assert found is not None
            forward = found.forward
        return Standard(location, scale, forward * one, found.mass if found is not None and self.has_atom else one)

    def features(self, points: Mapping[str, Tensor]) -> Tensor:
        """Return the coordinates the network sees, (B, P): dimensionless where the process offers them."""
        process = self.space.at(points)
        if not hasattr(process, "features"):
            return self.space.unit(points)
        columns = process.features(points["maturity"])
        if "carry" in self.space.free and getattr(self.functional, "depends_on_carry", True):
            columns = torch.cat([columns, (points["carry"] * points["maturity"])[:, None]], 1)
        return torch.as_tensor(columns)

    def outputs(self, raw: Tensor, standard: Standard, base: Tensor) -> Outputs:
        """Return what the numbers (B, size) of a network mean; ``base`` (K,) is added to φ_Z."""
        values = raw[..., : self.grid.size] + standard.mass[..., None] * base
        if self.size == self.grid.size:
            return Outputs(values, torch.ones_like(standard.scale), standard.mass)
        extra = raw[..., -1]
        forward = torch.ones_like(standard.scale) if self.forward_known else 1 + standard.scale * extra.real
        mass = (standard.mass + extra.imag).clamp(1e-9, 1) if self.has_atom else standard.mass
        return Outputs(values, forward.clamp(min=1e-3), mass)

    def targets(self, outputs: Outputs, standard: Standard, base: Tensor) -> Tensor:
        """Return the numbers (B, size) that mean ``outputs``: the inverse of `outputs`, linear in them."""
        columns = outputs.values - standard.mass[:, None] * base
        if self.size == self.grid.size:
            return columns
        extra = torch.complex((outputs.forward - 1) / standard.scale, outputs.mass - standard.mass)
        return torch.cat([columns, extra[:, None]], 1)


def posed(problem: Problem, seed: int) -> Problem:
    """Return the problem with a pilot run of this seed where a formula is missing; elsewhere a few paths show that the outcome varies.

    Warns where a process without a closed form does not keep E[e^X] = 1.

    Raises
    ------
    ValueError
        an outcome that is not finite, or the same on every path.
    """
    known = problem.scale_known and problem.forward_known
    points = problem.space.sample(_LOOK_SETS if known else _PILOT_SETS, seed, _PILOT_STREAM)
    draws = Draws(seed, "sobol", randomizations=1, stream=_PILOT_STREAM)
    sample = simulate(
        problem.space.at(points), problem.time_grid(points), draws, _LOOK_PATHS if known else _PILOT_PATHS, problem.functional,
        carry=points["carry"],
    )  # fmt: skip
    columns = _reference_columns(problem, sample)
    _expect_martingale(problem, seed)
    if known:
        return problem
    features = problem.features(points)
    centre, spread = features.mean(0), features.std(0).clamp(min=1e-12)
    design = quadratic((features - centre) / spread).numpy()
    coefficients = np.linalg.lstsq(design, columns.numpy(), rcond=1e-10)[0]
    margin = _RANGE * columns.std(0)
    low, high = columns.amin(0) - margin, columns.amax(0) + margin
    low[3], high[3] = 1e-3, 1.0
    return replace(problem, pilot=Pilot(centre, spread, torch.from_numpy(coefficients), low, high))


def _expect_martingale(problem: Problem, seed: int) -> None:
    """Warn if at some set of parameters the mean of e^X is not 1, by more than its standard error explains."""
    example = problem.space.example
    if any(hasattr(example, name) for name in ("characteristic_function", "lognormal", "assets")):
        return
    points = problem.space.sample(_LOOK_SETS, seed, _PILOT_STREAM)
    process, draws = problem.space.at(points), Draws(seed, stream=_PILOT_STREAM)
    sample = simulate(process, problem.time_grid(points), draws, _MARTINGALE_PATHS, Terminal(), carry=points["carry"])
    mean, error = sample.mean(torch.exp(sample.log_return))
    worst = int(((mean - 1).abs() / error).argmax())
    if abs(float(mean[worst]) - 1) > _MARTINGALE_ERRORS * float(error[worst]):
        at = ", ".join(f"{name} = {float(value[worst]):.3g}" for name, value in points.items())
        warnings.warn(
            f"{name_of(problem.space.process)} must keep E[e^X] = 1, the mean of S/F: it is {float(mean[worst]):.4g} with standard error "
            f"{float(error[worst]):.1g} at {at}.  Its step may lack the term −σ²dt/2",
            RuntimeWarning,
            stacklevel=4,
        )


def _reference_columns(problem: Problem, sample: Sample) -> Tensor:
    """Return location, ln scale, ln forward and mass of every pilot set, (B, 4)."""
    log_return = sample.log_return.double()
    weight = getattr(sample, "weight", None)
    weight = torch.ones_like(log_return) if weight is None else weight.double()
    mass = weight.mean(1)
    share = weight / weight.sum(1, keepdim=True).clamp(min=1e-12)
    location = (share * log_return).sum(1)
    variance = (share * (log_return - location[:, None]).square()).sum(1)
    constant = variance <= (1e-9 * (1 + location.abs())) ** 2
    if bool(constant.all()):
        name = f"{type(problem.functional).__name__} under {name_of(problem.space.process)}"
        raise ValueError(f"the outcome must vary from path to path to be learned; {name} is constant: check functional and box")
    floor = math.log(float(variance[~constant].min())) / 2  # a set in which no path left the atom tells nothing of its scale
    log_scale = torch.where(constant, floor, torch.log(variance.clamp(min=1e-300)) / 2)
    return torch.stack([location, log_scale, torch.log(sample.forward.double()), mass], 1)
