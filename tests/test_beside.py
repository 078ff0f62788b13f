"""An outcome beside a close one whose law given the variance path is a Gaussian."""

from __future__ import annotations

import pytest
import torch
from fixtures import sigmas

import spectralmc as smc
from spectralmc.functionals.averages import AverageMatch
from spectralmc.paths import Beside, can_go_beside, simulate_beside

HESTON = smc.Heston(0.06, 1.5, 0.05, 0.5, -0.6)
GRID = smc.TimeGrid(1.0, 8)


def beside(draws: smc.Draws, paths: int = 1 << 12, process: object = HESTON, **options: object) -> Beside:
    return simulate_beside(process, GRID, draws, paths, smc.ArithmeticAverage(), carry=0.03, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0])
def test_the_match_has_the_two_moments_of_a_sum_of_correlated_lognormals(scale: float) -> None:
    mean = torch.randn(6, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    variance = scale * torch.arange(1, 7).double().square().reshape(6, 1, 1) / 36  # of a Gaussian walk: it grows, by unequal steps
    match, accumulator = AverageMatch(), AverageMatch().start(torch.zeros(1, 1, dtype=torch.float64))
    for m, v in zip(mean, variance, strict=True):
        accumulator = match.update(accumulator, m, v)
    m, v = match.finish(accumulator, 6)
    flat_m, flat_v = mean.flatten(), variance.flatten()
    covariance = torch.minimum(flat_v[:, None], flat_v)
    second = torch.exp(flat_m[:, None] + flat_m + (flat_v[:, None] + flat_v) / 2 + covariance).mean()
    torch.testing.assert_close(torch.exp(m + v / 2).squeeze(), torch.exp(flat_m + flat_v / 2).mean())
    torch.testing.assert_close(torch.exp(2 * m + 2 * v).squeeze(), second)


def test_the_outcomes_are_those_of_a_plain_simulation_and_of_its_mirror() -> None:
    """Path 2j is path j; the logarithms of a path and its mirror have the mean that the variance path alone gives."""
    draws = smc.Draws(4)
    found = beside(draws).outcome.log_outcome
    plain = smc.simulate(HESTON, GRID, draws, 1 << 12, smc.ArithmeticAverage(), carry=0.03)
    torch.testing.assert_close(found[:, ::2], plain.log_outcome)
    assert not bool((found[:, ::2] == found[:, 1::2]).any())


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_close_outcome_has_the_law_that_the_smooth_one_states(power: float) -> None:
    """Pair by pair: E[C^p | variance path] = e^{pμ + p²v/2}, and for the outcome itself too, whose moments these are."""
    found = beside(smc.Draws(5), 1 << 16)
    assert found.smooth.variance is not None
    known = torch.exp(power * found.smooth.log_outcome + power**2 * found.smooth.variance / 2)
    for sample in (found.close, found.outcome):
        pairs = torch.exp(power * sample.log_outcome).unflatten(1, (-1, 2)).mean(2)
        gap = pairs - known
        assert float(gap.mean().abs()) < sigmas(4) * float(gap.std()) / (1 << 16) ** 0.5


def test_the_close_outcome_is_close() -> None:
    """What is left of the average next to it has a hundredth of the variance, and less than next to the geometric average."""
    found = beside(smc.Draws(6))
    geometric = smc.simulate(HESTON, GRID, smc.Draws(6), 1 << 12, smc.GeometricAverage(), carry=0.03).log_outcome
    left = (found.outcome.log_outcome - found.close.log_outcome)[:, ::2].var()
    assert float(left) < 0.01 * float(found.outcome.log_outcome.var())
    assert float(left) < float((found.outcome.log_outcome[:, ::2] - geometric).var())


@pytest.mark.parametrize("draws", [smc.Draws(3), smc.Draws(3, "sobol", randomizations=4)])
def test_the_memory_budget_does_not_change_one_bit(draws: smc.Draws) -> None:
    whole, parts = beside(draws, 512), beside(draws, 512, memory=1 << 16)
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one.log_outcome, other.log_outcome)
    assert whole.outcome.randomizations == (draws.runs(512) or 512)  # a pair is independent of other pairs, not of itself


def test_where_the_asset_has_hardly_noise_of_its_own_the_close_outcome_is_the_smooth_one() -> None:
    found = beside(smc.Draws(2), 64, smc.Heston(0.06, 1.5, 0.05, 0.5, -0.9999999))
    variance = found.smooth.variance
    assert variance is not None
    assert float(variance.max()) < 1e-3  # what the scheme does not know of ∫v dt
    gap = found.close.log_outcome.unflatten(1, (-1, 2)) - found.smooth.log_outcome[..., None]
    assert bool((gap.abs() < 6 * torch.sqrt(variance)[..., None]).all())


@pytest.mark.parametrize("functional", [smc.Terminal(), smc.Maximum(), smc.GeometricAverage()])
def test_an_outcome_without_a_match_is_refused(functional: object) -> None:
    assert not can_go_beside(HESTON, functional)
    with pytest.raises(TypeError, match=r"\w+ under Heston has no close outcome to go beside: it takes a functional with"):
        simulate_beside(HESTON, GRID, smc.Draws(1), 16, functional)
