"""A recorded function replays on NumPy arrays what it does on tensors, or says that it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import spectralmc as smc
from spectralmc.evaluation import reference
from spectralmc.problem import Problem, posed
from spectralmc.replay import replayed

SAMPLES = [torch.rand(rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1 for rows in (3, 1, 5)]
CASES = {
    "Terminal under Heston": (
        smc.Terminal(), smc.Heston,
        {
            "initial_variance": (0.02, 0.2), "mean_reversion": (0.5, 5.0), "long_run_variance": (0.02, 0.2),
            "vol_of_variance": (0.1, 0.8), "correlation": (-0.9, 0.5),
        },
    ),
    "average under Black-Scholes": (smc.ArithmeticAverage(), smc.BlackScholes, {"volatility": (0.1, 0.5)}),
    "maximum under Black-Scholes": (smc.Maximum(), smc.BlackScholes, {"volatility": (0.1, 0.5)}),
    "Terminal under variance gamma": (
        smc.Terminal(), smc.VarianceGamma, {"volatility": (0.1, 0.3), "drift": (-0.3, 0.1), "variance_rate": (0.05, 0.4)},
    ),
}  # fmt: skip


def known(x: Tensor) -> Tensor:
    a, b, c = x.unbind(1)
    both = torch.stack(torch.broadcast_tensors(torch.log(a) - 2 * b, torch.sqrt(c) ** 2 / b), 1)
    return torch.cat([both, x[:, 1:].clamp(min=0.2), torch.ones_like(x[:, :1])], 1)


def test_what_is_known_is_replayed_for_any_number_of_rows() -> None:
    found = replayed(known, SAMPLES)
    assert found is not None
    for x in [*SAMPLES, torch.full((64, 3), 0.7).double()]:
        torch.testing.assert_close(torch.from_numpy(found(x.numpy())), known(x), rtol=1e-14, atol=1e-14)


def unknown(x: Tensor) -> Tensor:
    return torch.special.erfcx(x)


def depends_on_the_sample(x: Tensor) -> Tensor:
    return x * float(x.sum())  # a number when it is recorded


@pytest.mark.parametrize("function", [unknown, depends_on_the_sample])
def test_what_cannot_be_replayed_is_none(function: object) -> None:
    assert replayed(function, SAMPLES) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_the_reference_of_processes_and_functionals_is_replayed(case: str) -> None:
    functional, process, bounds = CASES[case]
    space = smc.ParameterSpace(process, bounds, (0.1, 2.0), (0.0, 0.05))  # type: ignore[arg-type]
    problem = posed(Problem(space, functional, 8, smc.FrequencyGrid()), 1)  # type: ignore[arg-type]
    points = space.sample(9, seed=3)
    features = problem.features(points)
    centre, spread = features.mean(0), features.std(0)
    fast = reference(problem, centre, spread)
    assert fast.__name__ == "replay"
    found = torch.from_numpy(fast(torch.stack([*points.values()], 1).numpy()))
    standard = torch.stack(problem.standard(points), 1)
    torch.testing.assert_close(found[:, : len(centre)], (features - centre) / spread, rtol=1e-12, atol=1e-12)
    columns = found[:, len(centre) :]
    torch.testing.assert_close(columns, standard[:, : columns.shape[1]], rtol=1e-12, atol=1e-12)
