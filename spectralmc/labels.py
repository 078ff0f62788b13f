r"""Labels: what a few hundred paths say of the law at one parameter set, with as little noise as the problem allows.

Sobol points on a bridge; the asset's own noise integrated out where process and functional allow it, so that a path contributes a
Gaussian; minus a control on the same draws whose law is known: :math:`\hat\varphi - \hat\varphi_{control} + \varphi_{control}`.

An average has no Gaussian given the variance path, but a power of the geometric average has one, and may have the average's first two
moments.  That on the same paths is subtracted, and its law is an estimate of the first kind:
:math:`(\hat\varphi-\hat\varphi_{close})+\hat\varphi'_{close}` (`spectralmc.paths.simulate_beside`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from spectralmc.device import in_halves, place
from spectralmc.draws import Draws
from spectralmc.paths import Sample, can_condition, can_go_beside, control_of, simulate, simulate_beside
from spectralmc.problem import Outputs, Problem, Standard
from spectralmc.spectrum import FrequencyGrid, mean_contributions

_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 23}  # outcomes simulated at once: on a CPU what a step works on stays in the cache
_MEMORY = {"cpu": 1 << 26, "cuda": None}  # Sobol points of all steps come at once: most of it is through with before the first step


@dataclass(frozen=True)
class Labeller:
    """Makes labels of a problem: unbiased estimates of `Outputs`, addressed by (seed, stream, number of the parameter set).

    ``dtype`` is that of the simulation; the labels stay on ``device``.
    """

    problem: Problem
    seed: int
    low_noise: bool = True
    dtype: torch.dtype = torch.float64
    device: torch.device = torch.device("cpu")  # noqa: RUF009

    @cached_property
    def conditional(self) -> bool:
        """Whether the asset's own noise is integrated out."""
        return self.low_noise and can_condition(self.problem.space.example, self.problem.functional)

    @cached_property
    def beside(self) -> bool:
        """Whether the outcome is compared with a close one on the same paths, whose law is then found with the noise integrated out."""
        example = self.problem.space.example
        exact = getattr(example, "lognormal", False)  # then the law of the control is known as it is
        return self.controlled and not self.conditional and not exact and can_go_beside(example, self.problem.functional)

    @cached_property
    def controlled(self) -> bool:
        """Whether a control of known law is subtracted."""
        return self.low_noise and control_of(self.problem.space.example, self.problem.functional) is not None

    def __call__(self, points: Mapping[str, Tensor], paths: int, stream: int, first_set: int) -> Outputs:
        """Return the labels of points (B,) from ``paths`` paths each, a few sets at a time."""
        sets, size = len(points["maturity"]), max(_AT_ONCE[self.device.type] // paths, 1)

        def label(chunk: range) -> Outputs:
            cut = {name: value[chunk.start : chunk.stop].to(self.device) for name, value in points.items()}
            return self._label(cut, paths, stream, first_set + chunk.start)

        with place(self.device):
            parts = [in_halves(label, _below, range(first, min(first + size, sets))) for first in range(0, sets, size)]
        return _below(*parts)

    def _label(self, points: Mapping[str, Tensor], paths: int, stream: int, first_set: int) -> Outputs:
        problem, standard = self.problem, self.problem.standard(points)
        draws = Draws(self.seed, "sobol" if self.low_noise else "independent", randomizations=1, stream=stream)
        process, grid = problem.space.at(points), problem.time_grid(points)
        place: Any = {"carry": points["carry"], "first_set": first_set, "dtype": self.dtype, "device": str(self.device)}
        place["memory"] = _MEMORY[self.device.type]
        if not self.beside:
            sample = simulate(
                process, grid, draws, paths, problem.functional, conditional=self.conditional, control=self.controlled, **place
            )
            return estimated(sample, standard, problem.grid)
        found = simulate_beside(process, grid, draws, paths, problem.functional, **place)
        own, close, smooth = (estimated(sample, standard, problem.grid) for sample in found)
        return Outputs(own.values - close.values + smooth.values, own.forward - close.forward + smooth.forward, own.mass)


def _below(*parts: Outputs) -> Outputs:
    return Outputs(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def estimated(sample: Sample, standard: Standard, grid: FrequencyGrid) -> Outputs:
    """Return what a sample says of the law, each of its parts unbiased."""
    forward = sample.outcome.double().mean(1)
    mass = torch.ones_like(standard.mass) if sample.weight is None else sample.weight.double().mean(1)
    if sample.control is not None and sample.control_law is not None:
        mean, variance = sample.control_law
        forward = forward - sample.control.outcome.double().mean(1) + torch.exp(mean + variance / 2)
    reference = replace(sample, forward=standard.forward.to(sample.log_outcome.dtype))
    values = mean_contributions(reference, grid, standard.location, standard.scale) * mass[:, None]
    return Outputs(values, forward / standard.forward, mass)
