r"""Labels: what a few hundred paths say of the law at one parameter set, with as little noise as the problem allows.

Sobol points on a bridge; the asset's own noise integrated out where process and functional allow it, so that a path contributes a
Gaussian; minus a control on the same draws whose law is known: :math:`\hat\varphi - \hat\varphi_{control} + \varphi_{control}`.

An average has no Gaussian given the variance path, but its control, the geometric average, has one.  There the control on the same
paths is subtracted, and its law is an estimate of the first kind: :math:`(\hat\varphi-\hat\varphi_{control})+\hat\varphi'_{control}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from spectralmc.device import in_halves, place
from spectralmc.draws import Draws
from spectralmc.paths import Sample, can_condition, control_of, simulate
from spectralmc.problem import Outputs, Problem, Standard
from spectralmc.spectrum import FrequencyGrid, mean_contributions

_AT_ONCE = {"cpu": 1 << 15, "cuda": 1 << 23}  # outcomes simulated at once: on a CPU what a step works on stays in the cache


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
    def chained(self) -> bool:
        """Whether the outcome is compared with its control on the same paths, whose law is then found with the noise integrated out."""
        example, close = self.problem.space.example, getattr(self.problem.functional, "control", None)
        exact = getattr(example, "lognormal", False)  # then the law of the control is known as it is
        return self.controlled and not self.conditional and not exact and can_condition(example, close)

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
        simulated: Any = partial(
            simulate, process, grid, draws, paths, carry=points["carry"], first_set=first_set, dtype=self.dtype, device=str(self.device)
        )
        if not self.chained:
            sample = simulated(problem.functional, conditional=self.conditional, control=self.controlled)
            return estimated(sample, standard, problem.grid)
        close = problem.functional.control  # type: ignore[attr-defined]
        smooth = simulated(close, conditional=True, control=True)
        mean, variance = smooth.control_law  # its forward is closer to that of the control than ours
        centred = standard._replace(forward=torch.exp(mean + variance / 2))
        own, same = simulated((problem.functional, close))
        ours = estimated(own, standard, problem.grid)
        beside, known = (estimated(sample, centred, problem.grid) for sample in (same, smooth))
        return Outputs(ours.values - beside.values + known.values, ours.forward - beside.forward + known.forward, ours.mass)


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
