r"""Error bars from held-out labels, by a conformal argument that knows the labels' own noise.

The residual of a price against a label is its error less the noise of the label.  Two independent labels of every point give two
residuals, r₁ and r₂: half their difference has the law of the noise in half their sum.  With a scale h fitted to
the residuals, the bar is q·h: q is the 99th percentile of the law that, widened by that noise, is the one of |r₁ + r₂|/2h.

The held-out labels take twice the steps of those learned from where the scheme is biased, so that they show most of its bias too.
Half of the points are drawn as the box is sampled, half uniformly: where a box is logarithmic it is learned least at its upper end.

References: Papadopoulos, Proedrou, Vovk and Gammerman (2002), "Inductive confidence machines for regression" (normalised residuals).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spectralmc.bars import WIDEST, ErrorBars, coordinates
from spectralmc.draws import Draws
from spectralmc.labels import Labeller
from spectralmc.parameters import ParameterSpace
from spectralmc.problem import Outputs, Problem
from spectralmc.processes import scheme_of
from spectralmc.surrogate import Surrogate

LEVEL = 0.99
SHARE = 0.2  # paths of the labels that bars are calibrated on, as a share of those learned from
_STREAM = 6
_FEWEST, _MOST = 128, 1024  # parameter sets
_FOLDS = 5
_NEWTON = 12  # iterations
_OTHERS, _HALVINGS = 4, 12
_STRIKES = 12  # of each set, one in each twelfth of ±3 standard deviations
_LEAST_SHARE = 0.25  # of the residuals' percentile that is left to the error, however noisy the labels


class Calibration(NamedTuple):
    """Bars, and mean and 99th percentile of |price error|/s as the residuals show them, noise included."""

    bars: ErrorBars
    mean: float
    percentile: float


def design(paths: int, least: int) -> tuple[int, int]:
    """Return how many held-out sets, and how many paths each of their two labels gets, for about ``paths`` in all."""
    sets = 1 << max(paths // (2 * least), 1).bit_length() - 1  # many: where errors are large is learned from them
    sets = min(max(sets, _FEWEST), _MOST)
    return sets, max(1 << max(paths // (2 * sets), 1).bit_length() - 1, least)


def refined(problem: Problem) -> Problem:
    """Return the problem with twice the steps of a biased scheme: three quarters of a bias of order two show against it."""
    exact = scheme_of(problem.space.example, None).weak_order == math.inf
    return problem if exact else replace(problem, substeps=2 * problem.substeps)


@torch.no_grad()
def calibrated(surrogate: Surrogate, labeller: Labeller, sets: int, paths: int) -> Calibration:
    """Measure a surrogate against two labels at each of ``sets`` points of its box, from paths with finer steps than the labeller's."""
    finer = replace(labeller, problem=refined(labeller.problem))
    points = _points(surrogate.problem.space, sets, labeller.seed)
    distance = _distances(sets, labeller.seed)
    ours = surrogate.relative_puts(points, distance)
    labels = [Outputs(*(part.cpu() for part in finer(points, paths, _STREAM, copy * sets))) for copy in (0, 1)]
    pair = [surrogate.relative_puts(points, distance, label) for label in labels]
    residual, noise = ours - (pair[0] + pair[1]) / 2, (pair[0] - pair[1]) / 2
    rows = coordinates(surrogate.standard_features(points), distance)
    scores, part = torch.empty_like(residual), torch.arange(sets) % _FOLDS
    for number in range(_FOLDS):  # every residual is judged by a scale it had no part in
        fold = part == number
        scores[fold] = _LogScale(rows[~fold], residual[~fold])(rows[fold])
    q = _without_noise(residual / torch.exp(scores), noise / torch.exp(scores))
    bars = _LogScale(rows, residual)
    made = ErrorBars(bars.coefficients, bars.low, bars.high, torch.tensor(q, dtype=torch.float64))
    return Calibration(made, float(residual.abs().mean()), _percentile(residual))


def _points(space: ParameterSpace, sets: int, seed: int) -> dict[str, Tensor]:
    """Return points drawn as the space draws them and as many drawn uniformly."""
    drawn = space.sample(sets // 2, seed, _STREAM), replace(space, logarithmic=()).sample(range(sets // 2, sets), seed, _STREAM)
    return {name: torch.cat([half[name] for half in drawn]) for name in space.box}


def _distances(sets: int, seed: int) -> Tensor:
    """Return strikes ln(K/F)/s in ±3, one at random in each of twelve equal parts, (sets, 12)."""
    unit = Draws(seed, stream=_STREAM).uniforms(range(sets), _STRIKES)
    return WIDEST * (2 * (torch.arange(_STRIKES) + unit) / _STRIKES - 1)


class _LogScale:
    """Where residuals are of which size: |residual| as exponential with the mean e^{c · coordinates}, by maximum likelihood.

    Newton's method, from least squares of the logarithm.  The values are held within those taken on the residuals.
    """

    def __init__(self, rows: Tensor, residual: Tensor) -> None:
        size = residual.abs().flatten().numpy()
        size = size + 1e-2 * size.mean() + 1e-12
        flat = rows.flatten(0, 1).numpy()
        norm = np.sqrt((flat**2).mean(0)) + 1e-9
        design = flat / norm
        ridge = 1e-4 * len(flat) * np.eye(flat.shape[1])
        c = np.linalg.solve(design.T @ design + ridge, design.T @ np.log(size))
        for _ in range(_NEWTON):
            ratio = np.clip(size * np.exp(-design @ c), 0.05, 20.0)
            step = np.linalg.solve((design * ratio[:, None]).T @ design + ridge, design.T @ (ratio - 1))
            c += np.clip(step, -1, 1)
        self.coefficients = torch.from_numpy(c / norm)
        fitted = rows.flatten(0, 1) @ self.coefficients
        self.low, self.high = torch.quantile(fitted[:: max(len(fitted) // 10**6, 1)], torch.tensor([0.005, 0.995]).double())

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(rows @ self.coefficients, self.low), self.high)


def _without_noise(residual: Tensor, noise: Tensor) -> float:
    """Return the percentile of what residuals (sets, strikes) are without their noise: λ times their own.

    λ is such that λ residual + noise has the percentile of the residuals, with the noise of other sets in the place of their own.
    """
    sets = len(residual)
    others = [sign * noise.roll(number * sets // (_OTHERS + 1), 0) for number in range(1, _OTHERS + 1) for sign in (-1, 1)]
    mixed, whole = torch.stack(others), _percentile(residual)
    least, most = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (least + most) / 2
        least, most = (least, middle) if _percentile(middle * residual + mixed) > whole else (middle, most)
    return max(most, _LEAST_SHARE) * whole


def _percentile(values: Tensor) -> float:
    """Return the conformal percentile of |values|: the ⌈(n + 1)·level⌉-th smallest."""
    flat = values.abs().flatten()
    return float(flat.kthvalue(min(int(np.ceil((len(flat) + 1) * LEVEL)), len(flat))).values)
