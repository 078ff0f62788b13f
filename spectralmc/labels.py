r"""Labels: what a few hundred paths say of the law at one parameter set, with as little noise as the problem allows.

Sobol points on a bridge; the asset's own noise integrated out where process and functional allow it, so that a path contributes a
Gaussian; minus a control on the same draws whose law is known: :math:`\hat\varphi - \hat\varphi_{control} + \varphi_{control}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from spectralmc.draws import Draws
from spectralmc.paths import Sample, can_condition, control_of, simulate
from spectralmc.problem import Outputs, Problem, Standard
from spectralmc.spectrum import FrequencyGrid, powers

_TILE = 1 << 19  # complex numbers alive at once while phases are summed: within the cache
_AT_ONCE = 1 << 17  # outcomes simulated at once


@dataclass(frozen=True)
class Labeller:
    """Makes labels of a problem: unbiased estimates of `Outputs`, addressed by (seed, stream, number of the parameter set).

    ``dtype`` is that of the simulation.
    """

    problem: Problem
    seed: int
    low_noise: bool = True
    dtype: torch.dtype = torch.float64

    @property
    def conditional(self) -> bool:
        """Whether the asset's own noise is integrated out."""
        process = self.problem.space.at(self.problem.space.sample(1))
        return self.low_noise and can_condition(process, self.problem.functional)

    @property
    def controlled(self) -> bool:
        """Whether a control of known law is subtracted."""
        process = self.problem.space.at(self.problem.space.sample(1))
        return self.low_noise and control_of(process, self.problem.functional) is not None

    def __call__(self, points: Mapping[str, Tensor], paths: int, stream: int, first_set: int) -> Outputs:
        """Return the labels of points (B,) from ``paths`` paths each, a few sets at a time."""
        sets, size = len(points["maturity"]), max(_AT_ONCE // paths, 1)
        parts = []
        for first in range(0, sets, size):
            rows = {name: value[first : first + size] for name, value in points.items()}
            parts.append(self._label(rows, paths, stream, first_set + first))
        return Outputs(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _label(self, points: Mapping[str, Tensor], paths: int, stream: int, first_set: int) -> Outputs:
        problem, standard = self.problem, self.problem.standard(points)
        draws = Draws(self.seed, "sobol" if self.low_noise else "independent", randomizations=1, stream=stream)
        sample = simulate(
            problem.space.at(points), problem.time_grid(points), draws, paths, problem.functional, carry=points["carry"],
            first_set=first_set, dtype=self.dtype, conditional=self.conditional, control=self.controlled,
        )  # fmt: skip
        return estimated(sample, standard, problem.grid)


def estimated(sample: Sample, standard: Standard, grid: FrequencyGrid) -> Outputs:
    """Return what a sample says of the law, each of its parts unbiased."""
    values = _values(sample, standard, grid)
    forward = sample.outcome.double().mean(1)
    mass = torch.ones_like(standard.mass) if sample.weight is None else sample.weight.double().mean(1)
    if sample.control is not None:
        assert sample.control_law is not None
        mean, variance = sample.control_law
        w, centre = grid.frequency, (mean - torch.log(standard.forward) - standard.location) / standard.scale
        known = torch.exp(1j * w * centre[:, None] - w**2 / 2 * (variance / standard.scale**2)[:, None])
        values = values - _values(sample.control, standard, grid) + known
        forward = forward - sample.control.outcome.double().mean(1) + torch.exp(mean + variance / 2)
    return Outputs(values, forward / standard.forward, mass)


def _values(sample: Sample, standard: Standard, grid: FrequencyGrid) -> Tensor:
    shift = torch.log(standard.forward) + standard.location
    z = (sample.log_outcome - shift[:, None].to(sample.log_outcome.dtype)) / standard.scale[:, None].to(sample.log_outcome.dtype)
    variance = None if sample.variance is None else sample.variance / standard.scale[:, None] ** 2
    return mean_phases(z, grid, variance, sample.weight)


def mean_phases(z: Tensor, grid: FrequencyGrid, variance: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    r"""Return the mean over paths of :math:`w e^{iw_kz - w_k^2v/2}`, (B, N) → (B, K) complex128, tile by tile in the cache."""
    angle = z.to(torch.float32) * (math.pi / grid.half_width)
    spread = None if variance is None else variance.to(torch.float32) * (-((math.pi / grid.half_width) ** 2) / 2)
    squares = torch.arange(1, grid.size + 1, dtype=torch.float32)[:, None] ** 2
    tile = max(_TILE // (grid.size * z.shape[1]), 1)
    result = []
    for first in range(0, len(z), tile):
        phases = powers(angle[first : first + tile], grid.size)
        if spread is not None:
            phases = phases * torch.exp(squares[..., None] * spread[first : first + tile])
        if weight is not None:
            phases = phases * weight[first : first + tile].to(torch.float32)
        result.append(phases.mean(2).T)
    return torch.cat(result).to(torch.complex128)
