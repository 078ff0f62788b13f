"""Error bars: where residuals are large is found, and the noise of the labels is taken out of how large they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from fixtures import ASIAN, sigmas
from torch import Tensor

import spectralmc as smc
from spectralmc.bars import coordinates
from spectralmc.calibration import LEVEL, _LogScale, _without_noise, design, refined
from spectralmc.problem import Problem
from spectralmc.processes import MeanVariance

SETS, STRIKES = 4096, 12
HESTON = {"initial_variance": 0.04, "mean_reversion": 1.0, "long_run_variance": 0.04, "vol_of_variance": 0.5, "correlation": (-0.9, 0.5)}


@dataclass(frozen=True)
class Own:
    """A process that says nothing of its scheme."""

    volatility: float

    def step(self, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
        return state


def normals(seed: int) -> Tensor:
    return torch.randn(SETS, STRIKES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_the_percentile_is_that_of_the_errors_without_the_noise(noise: float) -> None:
    error, own, other = normals(1), noise * normals(2), noise * normals(3)
    exact = 2.5758293035489004  # Φ⁻¹(0.995)
    density = 2 * math.exp(-(exact**2) / 2) / math.sqrt(2 * math.pi)
    count = SETS * STRIKES
    spread = math.sqrt(LEVEL * (1 - LEVEL) / count) / density * (1 + noise**2)  # that of the residuals, back on the errors
    found = _without_noise(error + own, other)
    assert found == pytest.approx(exact, abs=sigmas(3) * math.sqrt(2) * spread)


def test_the_scale_of_residuals_and_the_side_on_which_they_are_large_are_found() -> None:
    generator = torch.Generator().manual_seed(4)
    features = torch.rand(SETS, 2, dtype=torch.float64, generator=generator) - 0.5
    distance = 4 * torch.rand(SETS, STRIKES, dtype=torch.float64, generator=generator) - 2
    rows = coordinates(features, distance)
    log_scale = features[:, :1] - features[:, 1:] ** 2 + 0.4 * distance
    size = -torch.log(torch.rand(SETS, STRIKES, dtype=torch.float64, generator=generator))
    found = _LogScale(rows, torch.exp(log_scale) * size)(rows)
    error = (found - log_scale).square().mean().sqrt()
    floor = 0.02  # what keeps logarithms finite, a hundredth of the mean, at the smallest scale
    assert float(error) < 4 * math.sqrt(rows.shape[-1] / (SETS * STRIKES)) + floor


def test_held_out_paths_take_twice_the_steps_where_the_scheme_is_biased() -> None:
    grid = smc.FrequencyGrid(16.0, 32)
    exact = Problem(ASIAN, smc.ArithmeticAverage(), 4, grid)
    assert refined(exact) is exact
    for process, bounds in ((smc.Heston, HESTON), (Own, {"volatility": (0.1, 0.2)})):
        problem = Problem(smc.ParameterSpace(process, bounds, 1.0), smc.Terminal(), 4, grid, 3)
        assert (refined(problem).time_steps, refined(problem).substeps) == (4, 6)
    assert MeanVariance.schemes[0].weak_order == math.inf


@pytest.mark.parametrize(("paths", "least"), [(0, 64), (10_000, 64), (10**6, 1024), (10**8, 4096)])
def test_the_design_spends_what_it_may_on_whole_powers_of_two(paths: int, least: int) -> None:
    sets, each = design(paths, least)
    assert (sets & (sets - 1), each & (each - 1)) == (0, 0)
    assert 128 <= sets <= 1024
    assert each >= least
    assert 2 * sets * each <= max(paths, 2 * 128 * least)
