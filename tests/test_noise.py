"""Low noise: conditional Monte Carlo, controls, antithetic pairs and Sobol points are unbiased, state their error, and combine."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from fixtures import sigmas
from torch import Tensor
from torch.special import ndtr

import spectralmc as smc
from spectralmc.paths import can_condition, control_law, control_of
from spectralmc.processes import Increment, Scheme
from spectralmc.spectrum import mean_contributions

EPS = torch.finfo(torch.float64).eps
DTYPES = [torch.float32, torch.float64]
LINEAR = (smc.Terminal(), smc.GeometricAverage())
AXES = list(itertools.product((False, True), (False, True)))
DRAWS = [
    smc.Draws(91),
    smc.Draws(91, antithetic=True),
    smc.Draws(91, "sobol"),
    smc.Draws(91, "sobol", antithetic=True),
    smc.Draws(91, "sobol", dimensions=2),
]


def named(draws: smc.Draws) -> str:
    return f"{draws.sampling}{'-antithetic' * draws.antithetic}{f'-{draws.dimensions}' if draws.dimensions else ''}"


def _uniform(process: UniformVariance, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> Increment:
    variance = 2 * process.variance * dt * ndtr(normals[0])
    return Increment((), -variance / 2, variance, variance)


def _mean(process: MeanOfUniform, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> Increment:
    variance = process.variance * dt * torch.ones_like(normals[0])
    return Increment((), -variance / 2, variance, variance)


@dataclass(frozen=True)
class MeanOfUniform:
    """The control of `UniformVariance`."""

    variance: float | Tensor
    lognormal: ClassVar[bool] = True
    factors: ClassVar[int] = 2
    schemes: ClassVar[tuple[Scheme, ...]] = (Scheme("exact", None, math.inf, _mean),)

    def integrated_variance(self, maturity: float | Tensor) -> Tensor:
        return torch.as_tensor(self.variance * maturity)


@dataclass(frozen=True)
class UniformVariance:
    """The variance over a step is uniform on (0, 2vΔ): φ(u) = [(1 − e^{−2a})/(2a)]^M with a = (u² + iu)vΔ/2, exactly."""

    variance: float | Tensor
    factors: ClassVar[int] = 2
    schemes: ClassVar[tuple[Scheme, ...]] = (Scheme("exact", None, math.inf, _uniform),)

    @property
    def control(self) -> MeanOfUniform:
        return MeanOfUniform(self.variance)

    def characteristic_function(self, u: Tensor, steps: int) -> Tensor:
        a = (u * u + 1j * u) * self.variance / steps / 2
        return ((1 - torch.exp(-2 * a)) / (2 * a)) ** steps


GRID, U = smc.TimeGrid(1.0, 3), torch.linspace(0.5, 8, 9, dtype=torch.float64)
PROCESS = UniformVariance(0.09)


def many(sets: int) -> UniformVariance:
    return UniformVariance(torch.full((sets,), 0.09, dtype=torch.float64))


@pytest.mark.parametrize("functional", LINEAR, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("grid", [smc.TimeGrid(2.0, 5), smc.TimeGrid(2.0, 5, substeps=3)])
def test_without_other_noise_the_conditional_law_is_the_law(functional: object, grid: smc.TimeGrid) -> None:
    sample = smc.simulate(smc.BlackScholes(0.3), grid, smc.Draws(1), 4, functional, carry=0.05, conditional=True)
    integrated, carry = torch.tensor([0.18, 0.05], dtype=torch.float64)
    mean, variance = functional.lognormal_law(integrated, grid, carry)
    torch.testing.assert_close(sample.log_outcome, mean.expand(1, 4), rtol=1e-14, atol=1e-16)
    torch.testing.assert_close(sample.variance, variance.expand(1, 4), rtol=1e-14, atol=0)
    value, error = smc.empirical_characteristic_function(sample, U)
    torch.testing.assert_close(value[0], torch.exp(-variance / 2 * (U * U + 1j * U)), rtol=1e-13, atol=1e-15)
    assert float(error.max()) < 1e-15


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("conditional", "control"), AXES)
@pytest.mark.parametrize("draws", DRAWS, ids=named)
def test_every_combination_is_unbiased_and_makes_the_error_it_states(
    draws: smc.Draws, conditional: bool, control: bool, dtype: torch.dtype
) -> None:
    """The ratio of errors made to errors stated, as for plain samples: a bar from R units adds 2/(R − 1)."""
    sets, paths = (100, 512)
    options = {"conditional": conditional, "control": control, "dtype": dtype}
    sample = smc.simulate(many(sets), GRID, draws, paths, smc.Terminal(), **options)
    value, error = smc.empirical_characteristic_function(sample, U)
    exact = PROCESS.characteristic_function(U, 3)
    assert bool(((value - exact).mean(0).abs() < sigmas(18) * error.square().mean(0).sqrt() / math.sqrt(sets) + 1e-6).all())
    ratio = (value - exact).abs().square().mean(0) / error.square().mean(0)
    extra = 1 / ((sample.randomizations or paths) - 1)
    assert bool(((ratio - 1).abs() < sigmas(9) * math.sqrt(2 * (1 + extra) / sets)).all())


def test_each_axis_takes_noise_out() -> None:
    def noise(draws: smc.Draws, **options: bool) -> float:
        sample = smc.simulate(many(50), GRID, draws, 512, smc.Terminal(), **options)
        return float(smc.empirical_characteristic_function(sample, U).standard_error.square().mean())

    plain, conditional = noise(smc.Draws(92)), noise(smc.Draws(92), conditional=True)
    assert conditional < plain / 10
    assert noise(smc.Draws(92), control=True) < plain / 2
    assert noise(smc.Draws(92, antithetic=True), conditional=True) < conditional / 2
    assert noise(smc.Draws(92, "sobol"), conditional=True) < conditional / 10


@pytest.mark.parametrize("scheme", ["quadratic_exponential", "euler"])
@pytest.mark.parametrize("functional", LINEAR, ids=lambda f: type(f).__name__)
def test_a_conditional_sample_has_the_law_of_the_plain_one(functional: object, scheme: str) -> None:
    process, grid = smc.Heston(0.04, 2.0, 0.09, 0.5, -0.7), smc.TimeGrid(1.0, 4, substeps=2)
    plain, low = (
        smc.simulate(process, grid, smc.Draws(93 + c), 1 << 14, functional, carry=0.03, scheme=scheme, conditional=bool(c)) for c in (0, 1)
    )
    (a, error), (b, small) = (smc.empirical_characteristic_function(sample, U) for sample in (plain, low))
    assert bool(((a - b).abs() < sigmas(18) * torch.hypot(error, small)).all())
    assert float(small.max()) < float(error.max()) * 0.6


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("functional", LINEAR, ids=lambda f: type(f).__name__)
def test_a_control_has_the_law_it_says(functional: object, conditional: bool) -> None:
    process, grid = smc.Heston([0.04, 0.2], 2.0, 0.09, 0.5, -0.7), smc.TimeGrid([1.0, 2.0], 4)
    sample = smc.simulate(process, grid, smc.Draws(94), 1 << 13, functional, carry=0.03, conditional=conditional, control=True)
    known, variance = sample.control, sample.control_law[1][:, None]
    value, error = smc.empirical_characteristic_function(known, U)
    exact = torch.exp(-variance / 2 * (U * U + 1j * U))
    assert bool(((value - exact).abs() < sigmas(36) * error).all())
    torch.testing.assert_close(torch.log(known.forward), sample.control_law[0] + sample.control_law[1] / 2, rtol=0, atol=1e-15)


def test_under_equal_variances_the_law_step_by_step_is_the_formula() -> None:
    process, carry = smc.BlackScholes([0.2, 0.4]), torch.tensor([0.1, -0.05]).double()
    for grid, functional in itertools.product((smc.TimeGrid([1.0, 2.0], 7), smc.TimeGrid(1.5, 7, substeps=2)), LINEAR):
        expected = functional.lognormal_law(process.integrated_variance(grid.maturity), grid, carry)
        for found, formula in zip(control_law(process, functional, grid, carry), expected, strict=True):
            torch.testing.assert_close(found, formula, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("draws", DRAWS, ids=named)
@pytest.mark.parametrize(("conditional", "control"), AXES)
def test_the_memory_budget_and_company_change_not_one_bit(draws: smc.Draws, conditional: bool, control: bool) -> None:
    def run(functional: object, **options: object) -> list[Tensor]:
        samples = smc.simulate(PROCESS, GRID, draws, 64, functional, conditional=conditional, control=control, **options)
        found: list[Tensor] = []
        for s in samples if isinstance(samples, tuple) else (samples,):
            both = (s, s.control) if control else (s,)
            found += [x for one in both for x in (one.log_outcome, one.variance, one.forward) if x is not None]
        return found

    whole = run(LINEAR)
    with pytest.raises(ValueError, match="memory must hold one path") as caught:
        run(LINEAR, memory=1)
    one_path = int(re.search(r"(\d+) bytes", str(caught.value))[1])
    for memory in (one_path, 5 * one_path, 40 * one_path):
        assert all(map(torch.equal, run(LINEAR, memory=memory), whole))
    assert all(map(torch.equal, run(LINEAR[0]) + run(LINEAR[1]), whole))


def test_opposite_paths_cancel_what_is_linear() -> None:
    sample = smc.simulate(smc.BlackScholes(0.3), GRID, smc.Draws(95, antithetic=True), 64, smc.Terminal())
    mean, error = sample.mean(sample.log_return)
    assert abs(float(mean) + 0.045) < 10 * EPS
    assert float(error) < 10 * EPS
    assert sample.randomizations == 32


@dataclass(frozen=True)
class Nameless:
    """The arithmetic average without its expectation; it counts its fixings."""

    control: ClassVar[object] = smc.GeometricAverage()

    def start(self, zeros: Tensor) -> tuple[Tensor, int]:
        return zeros, 0

    def update(self, accumulator: tuple[Tensor, int], log_price: Tensor) -> tuple[Tensor, int]:
        return accumulator[0] + torch.exp(log_price), accumulator[1] + 1

    def finish(self, accumulator: tuple[Tensor, int], steps: int) -> Tensor:
        assert accumulator[1] == steps
        return torch.log(accumulator[0] / steps)


def test_an_unknown_forward_is_estimated_with_the_control() -> None:
    grid, exact = smc.TimeGrid(1.0, 4, substeps=2), math.exp(0.05 / 4) * (1 - math.exp(0.05)) / (1 - math.exp(0.05 / 4)) / 4
    plain, controlled = (
        smc.simulate(smc.BlackScholes(0.3), grid, smc.Draws(96), 1 << 12, Nameless(), carry=0.05, control=c) for c in (False, True)
    )
    _, error = controlled.mean(controlled.outcome - controlled.control.outcome)
    assert abs(float(controlled.forward) - exact) < 4 * float(error)
    assert float(error) < float(plain.mean(plain.outcome)[1]) / 10


@pytest.mark.parametrize("draws", DRAWS, ids=named)
@pytest.mark.parametrize("functional", [smc.Terminal(), Nameless(), smc.KnockOut(1.2, "up")], ids=lambda f: type(f).__name__)
def test_blocks_are_the_whole_sample_piece_by_piece(draws: smc.Draws, functional: object) -> None:
    arguments = (smc.BlackScholes([0.2, 0.3]), smc.TimeGrid(1.0, 4), draws, 1 << 10, functional)
    whole = smc.simulate(*arguments, carry=0.02)
    blocks = list(smc.sample_blocks(*arguments, carry=0.02, memory=1 << 15))
    assert len(blocks) > 3
    assert torch.equal(torch.cat([b.log_outcome for b in blocks], 1), whole.log_outcome)
    expected = smc.empirical_characteristic_function(whole, U)
    for found in (smc.empirical_characteristic_function(b, U) for b in (blocks, iter(blocks))):
        torch.testing.assert_close(found.value, expected.value, rtol=0, atol=1e-14)
        torch.testing.assert_close(found.standard_error, expected.standard_error, rtol=1e-10, atol=1e-15)


def test_memory_does_not_grow_with_the_number_of_paths() -> None:
    """The high-water mark of a process that takes 64 times as many paths stays within the spread of an allocator."""
    code = """
import resource, torch, spectralmc as smc
torch.set_num_threads(1)
peaks = []
for paths in (1 << 15, 1 << 21):
    arguments = smc.BlackScholes(0.2), smc.TimeGrid(1.0, 1), smc.Draws(1), paths, smc.Terminal()
    blocks = smc.sample_blocks(*arguments, dtype=torch.float32, memory=1 << 21)
    smc.empirical_characteristic_function(blocks, [1.0, 2.0])
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0])
"""
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 8 << 10  # KiB; the outcomes alone would take 8 MiB, their phases 64


@pytest.mark.parametrize("weights", [False, True])
def test_labels_are_the_same_estimate(weights: bool) -> None:
    grid, (m, s) = smc.FrequencyGrid(24.0, 192), torch.tensor([[-0.045], [0.3]]).double()
    for conditional, control in AXES:
        sample = smc.simulate(PROCESS, GRID, smc.Draws(97), 20_000, smc.Terminal(), conditional=conditional, control=control)
        if weights:
            sample = smc.Sample(**vars(sample) | {"weight": torch.rand(1, 20_000, generator=torch.Generator().manual_seed(1)).double()})
        w = grid.frequency
        expected = smc.empirical_characteristic_function(sample, w / s).value * torch.exp(-1j * w * (m / s))
        found = mean_contributions(sample, grid, m, s)
        assert found.dtype == torch.complex128
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)


def test_the_law_of_a_knocked_out_price_is_that_of_the_survivors() -> None:
    functional = smc.KnockOut(1.25, "up")
    sample = smc.simulate(smc.BlackScholes(0.3), smc.TimeGrid(1.0, 8), smc.Draws(98), 1 << 13, functional)
    law = smc.Distribution.of(sample)
    assert float(law.mass) == pytest.approx(float(sample.weight.mean()), rel=1e-12)
    assert float(law.atom) == -math.inf
    mean, _ = sample.mean(sample.outcome)
    torch.testing.assert_close(sample.forward, mean, rtol=1e-14, atol=0)
    value, bar = smc.empirical_characteristic_function(sample, U)
    share = sample.weight / sample.weight.mean()
    by_hand = (share[:, None] * torch.exp(1j * U[:, None] * sample.log_return[:, None])).mean(-1)
    torch.testing.assert_close(value, by_hand, rtol=0, atol=1e-14)
    spread = (share[:, None] * (torch.exp(1j * U[:, None] * sample.log_return[:, None]) - by_hand[..., None])).abs().square().mean(-1)
    torch.testing.assert_close(bar, torch.sqrt(spread / (sample.weight.shape[1] - 1)), rtol=1e-10, atol=0)


def test_the_error_of_a_ratio_is_the_error_made() -> None:
    sets = 100
    process = smc.BlackScholes(torch.full((sets,), 0.3, dtype=torch.float64))
    arguments = process, smc.TimeGrid(1.0, 4), smc.Draws(99), 1 << 10
    sample = smc.simulate(*arguments, smc.KnockOut(1.25, "up"))
    fixed = smc.Sample(**vars(sample) | {"forward": sample.forward.mean().expand(sets)})  # its noise is not part of the error
    value, error = smc.empirical_characteristic_function(fixed, U)
    ratio = (value - value.mean(0)).abs().square().mean(0) * sets / (sets - 1) / error.square().mean(0)
    assert bool(((ratio - 1).abs() < sigmas(9) * math.sqrt(2 / sets)).all())


def test_what_is_available_is_known_beforehand() -> None:
    heston = smc.Heston(0.04, 2.0, 0.04, 0.5, -0.7)
    assert can_condition(heston, smc.Terminal())
    assert not can_condition(heston, smc.ArithmeticAverage())
    assert not can_condition(smc.BlackScholes(0.2), smc.Terminal(), "euler")
    process, functional = control_of(heston, smc.ArithmeticAverage())
    assert process.lognormal
    assert functional == smc.GeometricAverage()
    assert control_of(heston, smc.Maximum()) is None
    assert control_of(Lonely(), smc.Terminal()) is None


@dataclass(frozen=True)
class Lonely:
    """A process with a step alone."""

    def step(self, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
        return (state[0] + 0.2 * dt.sqrt() * normals[0] - 0.02 * dt,)


@dataclass(frozen=True)
class Mismatched(Lonely):
    factors: ClassVar[int] = 2
    control: ClassVar[object] = smc.BlackScholes(0.2)


class Two(smc.Terminal):
    assets = 2


THREE = smc.CorrelatedBlackScholes([0.2, 0.3, 0.4], [[1.0, 0.5, 0.2], [0.5, 1.0, -0.3], [0.2, -0.3, 1.0]])


def test_a_basket_is_controlled_by_its_geometric_one() -> None:
    arguments = THREE, smc.TimeGrid(1.0, 2), smc.Draws(90), 1 << 12, smc.Basket((0.2, 0.3, 0.5))
    plain, controlled = (smc.simulate(*arguments, carry=0.05, control=c) for c in (False, True))
    (a, error), (b, small) = (smc.empirical_characteristic_function(sample, U) for sample in (plain, controlled))
    assert bool(((a - b).abs() < sigmas(18) * error).all())
    assert float(small.max()) < float(error.max()) / 2
    known = smc.empirical_characteristic_function(controlled.control, U)
    exact = torch.exp(-controlled.control_law[1][:, None] / 2 * (U * U + 1j * U))
    assert bool(((known.value - exact).abs() < sigmas(18) * known.standard_error).all())


def test_stored_paths_of_several_assets_have_an_axis_of_assets() -> None:
    paths = smc.simulate(THREE, smc.TimeGrid(1.0, 4), smc.Draws(90), 16)
    assert paths.log_return.shape == (3, 1, 16, 5)
    assert bool((paths.log_return[..., 0] == 0).all())


@pytest.mark.parametrize(
    ("process", "functional", "options", "error", "message"),
    [
        (
            Lonely(),
            smc.Terminal(),
            {"conditional": True},
            TypeError,
            "conditional simulation needs a scheme with an increment; the step scheme of Lonely has none",
        ),
        (
            smc.BlackScholes(0.2),
            smc.ArithmeticAverage(),
            {"conditional": True},
            TypeError,
            "conditional simulation of ArithmeticAverage under BlackScholes needs linear_weights: ArithmeticAverage is not linear in ln S",
        ),
        (
            Lonely(),
            smc.Terminal(),
            {"control": True},
            TypeError,
            "Terminal under Lonely has no control: it takes a functional with a control and a process with a lognormal one",
        ),
        (
            smc.BlackScholes(0.2),
            smc.Maximum(),
            {"control": True},
            TypeError,
            "Maximum under BlackScholes has no control: it takes a functional with a control and a process with a lognormal one",
        ),
        (
            Mismatched(),
            smc.Terminal(),
            {"control": True},
            ValueError,
            "a control must take as many normals a step as its process; BlackScholes takes 1, Mismatched 2",
        ),
        (smc.BlackScholes(0.2), Two(), {}, ValueError, "Two takes 2 assets; BlackScholes has 1"),
        (
            THREE,
            smc.Terminal(),
            {},
            ValueError,
            "finish of Terminal must return (B, N), here (1, 8); got (3, 1, 8): CorrelatedBlackScholes has 3 assets",
        ),
        (THREE, smc.Basket((0.5, 0.5)), {}, ValueError, "Basket takes 2 assets; CorrelatedBlackScholes has 3"),
        (
            smc.BlackScholes(0.2),
            None,
            {"control": True},
            TypeError,
            "stored paths have neither a conditional form nor a control: give a functional",
        ),
        (
            Lonely(),
            smc.KnockOut(1.2, "up"),
            {},
            TypeError,
            "KnockOut needs the quadratic variation between fixings, which the step scheme of Lonely does not give: "
            "take a scheme whose increment does, or watch the fixings alone",
        ),
    ],
)
def test_impossible_combinations_are_refused(
    process: object, functional: object, options: dict[str, bool], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        smc.simulate(process, GRID, smc.Draws(1), 8, functional, **options)


def test_a_block_must_hold_a_randomization() -> None:
    with pytest.raises(
        ValueError, match=r"^memory must hold one randomization of every parameter set, \d+ bytes here; got 4096: take more"
    ):
        smc.sample_blocks(PROCESS, GRID, smc.Draws(1, "sobol", randomizations=2), 1 << 12, smc.Terminal(), memory=1 << 12)


def test_blocks_of_other_sets_and_samples_that_are_all_atom_are_refused() -> None:
    one, two = (smc.simulate(many(n), GRID, smc.Draws(1), 8, smc.Terminal()) for n in (1, 2))
    with pytest.raises(ValueError, match=r"^the blocks of a sample must have one number of parameter sets; got 1, then 2$"):
        smc.empirical_characteristic_function([one, two], U)
    lost = smc.Sample(one.log_outcome, one.forward, weight=torch.zeros(1, 8).double())
    with pytest.raises(ValueError, match=r"^the weights of a sample must not all be zero; every path of one ended at the atom$"):
        smc.empirical_characteristic_function(lost, U)
