"""Simulation: the same bits for any memory, the same values in any precision and on any number of threads, and every refusal."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from fixtures import threads
from torch import Tensor

import spectralmc as smc

FUNCTIONALS = (smc.Terminal(), smc.GeometricAverage(), smc.ArithmeticAverage())
SAMPLINGS = ("independent", "sobol")
DTYPES = [torch.float32, torch.float64]
PROCESS = smc.BlackScholes(torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64))
GRID = smc.TimeGrid(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64), 5)
CARRY = torch.tensor([0.0, 0.03, -0.02], dtype=torch.float64)


def run(sampling: str = "independent", paths: int = 256, functional: object = FUNCTIONALS, **options: object) -> Tensor:
    """The log outcomes of three sets, stacked over the functionals."""
    samples = smc.simulate(PROCESS, GRID, smc.Draws(41, sampling), paths, functional, **{"carry": CARRY} | options)
    return torch.stack([s.log_outcome for s in (samples if isinstance(samples, tuple) else (samples,))])


def least_memory(sampling: str) -> int:
    """The bytes of one path of every set, as the refusal of one byte states them."""
    with pytest.raises(ValueError, match="memory must hold one path of every parameter set") as caught:
        run(sampling, memory=1)
    return int(re.search(r"set, (\d+) bytes here; got 1$", str(caught.value))[1])


@dataclass(frozen=True)
class Reckless:
    """A process that leaves the positive numbers."""

    volatility: float = 1.0

    def step(self, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
        (x,) = state
        return (torch.log(torch.exp(x) + 3 * normals[0]),)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", ["exact", "euler"])
def test_the_memory_budget_does_not_change_one_bit(sampling: str, dtype: torch.dtype, scheme: str) -> None:
    """Budgets from one path of every set at a time to all at once; 250 independent paths leave a broken last chunk."""
    paths = 250 if sampling == "independent" else 256
    whole = run(sampling, paths, dtype=dtype, scheme=scheme)
    assert whole.dtype == dtype
    one_path = least_memory(sampling)
    for budget in (one_path, 3 * one_path, 7 * one_path, 17 * one_path, 130 * one_path):
        assert torch.equal(run(sampling, paths, dtype=dtype, scheme=scheme, memory=budget), whole)


def test_a_large_run_is_the_same_in_one_chunk_and_in_many() -> None:
    big, small = (
        smc.simulate(
            smc.BlackScholes(0.2), smc.TimeGrid(1.0, 2), smc.Draws(42), 20_001, smc.ArithmeticAverage(), memory=m, dtype=torch.float32
        )
        for m in (1 << 25, 1 << 18)
    )
    assert torch.equal(big.log_outcome, small.log_outcome)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_or_two_threads_agree_within_rounding(sampling: str, dtype: torch.dtype) -> None:
    def on(number: int) -> Tensor:
        with threads(number):
            return smc.simulate(
                smc.BlackScholes(0.3), smc.TimeGrid(1.0, 4), smc.Draws(43, sampling), 1 << 15, smc.ArithmeticAverage(), dtype=dtype
            ).log_outcome

    gap = (on(1) - on(2)).abs().max()
    assert float(gap) <= 4 * 4 * torch.finfo(dtype).eps  # M steps, each |X| < 4


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_float32_and_float64_agree_within_rounding(sampling: str) -> None:
    """Each step adds the 2e-6 of its normal times σ√Δt, and a rounding of a sum below 4."""
    single, double = (run(sampling, 1 << 12, dtype=d) for d in DTYPES)
    deviation = (PROCESS.volatility * torch.sqrt(GRID.maturity / 5))[:, None]
    bound = 5 * (2e-6 * deviation + 4 * torch.finfo(torch.float32).eps)
    assert bool(((single - double).abs() <= bound).all())


def test_a_longer_run_begins_with_the_paths_of_the_shorter_one() -> None:
    assert torch.equal(run(paths=300)[..., :77], run(paths=77))
    assert torch.equal(run(paths=300, memory=9 * least_memory("independent"))[..., :77], run(paths=77))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_parameter_sets_can_be_run_in_parts(sampling: str, dtype: torch.dtype) -> None:
    whole = run(sampling, dtype=dtype)
    for part in (slice(0, 1), slice(1, 3), slice(2, 3)):
        process, grid = smc.BlackScholes(PROCESS.volatility[part]), smc.TimeGrid(GRID.maturity[part], 5)
        samples = smc.simulate(
            process, grid, smc.Draws(41, sampling), 256, FUNCTIONALS, carry=CARRY[part], dtype=dtype, first_set=part.start
        )
        assert torch.equal(torch.stack([s.log_outcome for s in samples]), whole[:, part])


def test_every_set_has_normals_of_its_own_unless_they_are_asked_for_again() -> None:
    same = smc.BlackScholes([0.2, 0.2])
    first, second = smc.simulate(same, smc.TimeGrid(1.0, 1), smc.Draws(44), 4096, smc.Terminal()).log_outcome
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 4 / math.sqrt(4096)
    again = smc.simulate(smc.BlackScholes(0.2), smc.TimeGrid(1.0, 1), smc.Draws(44), 4096, smc.Terminal(), first_set=1)
    assert torch.equal(again.log_outcome[0], second)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_several_functionals_in_one_pass_equal_single_ones_bit_for_bit(sampling: str) -> None:
    together = run(sampling)
    for i, functional in enumerate(FUNCTIONALS):
        assert torch.equal(run(sampling, functional=functional)[0], together[i])


def test_a_sample_knows_its_shapes_forward_and_randomizations() -> None:
    sample = smc.simulate(PROCESS, GRID, smc.Draws(45, "sobol", randomizations=4), 64, smc.Terminal(), carry=CARRY)
    assert sample.log_outcome.shape == sample.outcome.shape == (3, 64)
    assert sample.randomizations == 4
    assert smc.simulate(PROCESS, GRID, smc.Draws(45), 64, smc.Terminal()).randomizations == 0
    torch.testing.assert_close(sample.forward, torch.exp(CARRY * GRID.maturity), rtol=1e-15, atol=0)
    torch.testing.assert_close(sample.log_return, sample.log_outcome - (CARRY * GRID.maturity)[:, None], rtol=0, atol=1e-15)
    assert smc.simulate(smc.BlackScholes(0.2), smc.TimeGrid(1.0, 1), smc.Draws(1), 8, smc.Terminal()).log_outcome.shape == (1, 8)


@pytest.mark.parametrize("memory", [1 << 25, 1 << 13])
def test_stored_paths_start_at_zero_and_end_at_the_terminal_return(memory: int) -> None:
    paths = smc.simulate(PROCESS, GRID, smc.Draws(41), 32, memory=memory)
    assert paths.times.shape == (3, 6)
    assert paths.log_return.shape == (3, 32, 6)
    assert bool((paths.log_return[..., 0] == 0).all())
    assert bool((paths.times[:, 0] == 0).all())
    assert torch.equal(paths.log_return[..., -1], run(paths=32, carry=0.0, functional=smc.Terminal())[0])


def test_the_mean_of_a_sample_has_the_error_of_its_paths_or_of_its_randomizations() -> None:
    plain = smc.simulate(smc.BlackScholes(0.2), smc.TimeGrid(1.0, 1), smc.Draws(46), 4096, smc.Terminal())
    mean, error = plain.mean(plain.log_return)
    torch.testing.assert_close(error, plain.log_return.std(1) / 64, rtol=1e-14, atol=0)
    grouped = smc.Sample(plain.log_outcome, plain.forward, randomizations=16)
    same, other = grouped.mean(plain.log_return)
    torch.testing.assert_close(same, mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(other, plain.log_return.unflatten(1, (16, 256)).mean(2).std(1) / 4, rtol=1e-14, atol=0)
    assert float(other / error) == pytest.approx(1, abs=4 / math.sqrt(2 * 15))


@pytest.mark.parametrize("draws", [smc.Draws(1), smc.Draws(1, "sobol", randomizations=1)], ids=SAMPLINGS)
def test_a_standard_error_from_one_is_refused(draws: smc.Draws) -> None:
    sample = smc.simulate(smc.BlackScholes(0.2), smc.TimeGrid(1.0, 1), draws, 1, smc.Terminal())
    with pytest.raises(ValueError, match=r"^a standard error needs at least 2 independent paths or randomizations; got 1$"):
        sample.mean(sample.log_return)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"paths": 0}, ValueError, "paths must be at least 1; got 0"),
        ({"paths": 10.0}, TypeError, "paths must be a whole number; got 10.0"),
        ({"carry": math.nan}, ValueError, "carry must be finite (1/year); got nan"),
        ({"carry": []}, ValueError, "carry must not be empty; got shape (0,)"),
        ({"carry": [0.1, 0.2]}, ValueError, "parameters, maturity and carry must be numbers or (B,) with one B; got shapes [(2,), (3,)]"),
        ({"carry": [[0.1]]}, ValueError, "parameters, maturity and carry must be numbers or (B,) with one B; got shapes [(1, 1), (3,)]"),
        ({"memory": 0}, ValueError, "memory must be at least 1; got 0"),
        ({"draws": 1}, TypeError, "draws must be a Draws; got 1"),
        ({"grid": 1.0}, TypeError, "grid must be a TimeGrid; got 1.0"),
        ({"functional": smc.Terminal}, TypeError, "a functional must be an object; got the class Terminal: give Terminal()"),
        (
            {"functional": "Terminal"},
            TypeError,
            "a functional must be an object with start, update and finish (several: a tuple of them); got 'Terminal'",
        ),
        ({"process": smc.BlackScholes}, TypeError, "process must be an object; got the class BlackScholes: give it its parameters"),
        ({"scheme": "milstein"}, ValueError, "scheme of BlackScholes must be one of exact, euler; got 'milstein'"),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, object], error: type[Exception], message: str) -> None:
    given = {"process": PROCESS, "grid": GRID, "draws": smc.Draws(1), "paths": 4, "functional": smc.Terminal()} | changes
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        smc.simulate(**given)


def test_outcomes_that_are_not_positive_numbers_are_refused() -> None:
    rule = "outcomes must be finite and positive; Terminal under Reckless gave some that are not: check parameters and scheme"
    with pytest.raises(ValueError, match=f"^{re.escape(rule)}$"):
        smc.simulate(Reckless(), smc.TimeGrid(1.0, 2), smc.Draws(1), 64, smc.Terminal())


def test_a_maturity_a_parameter_or_a_carry_alone_makes_the_batch() -> None:
    for volatility, maturity, carry in itertools.product((0.2, [0.2] * 4), (1.0, [1.0] * 4), (0.0, [0.0] * 4)):
        sample = smc.simulate(smc.BlackScholes(volatility), smc.TimeGrid(maturity, 2), smc.Draws(47), 8, smc.Terminal(), carry=carry)
        batch = 4 if list in map(type, (volatility, maturity, carry)) else 1
        assert sample.log_outcome.shape == (batch, 8)
        assert sample.forward.shape == (batch,)


@dataclass(frozen=True)
class Plain:
    """A process as its formula reads, without a word of batches."""

    volatility: float
    elasticity: float

    def step(self, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
        (x,) = state
        deviation = torch.exp(torch.log(self.volatility) + (self.elasticity - 1) * x) * dt.sqrt()  # numbers are tensors here too
        return (x + deviation * normals[0] - deviation**2 / 2,)


@pytest.mark.parametrize("given", [list, torch.tensor, np.array])
def test_a_process_written_for_one_set_runs_for_many(given: Callable[[list[float]], object]) -> None:
    """Also where there are as many sets as paths, and a wrong broadcast would go unnoticed."""
    volatility = [0.1, 0.2, 0.3, 0.4]
    grid, draws = smc.TimeGrid(1.0, 3), smc.Draws(1)
    many = smc.simulate(Plain(given(volatility), 0.5), grid, draws, 4, smc.Terminal())
    for row, sigma in enumerate(volatility):
        one = smc.simulate(Plain(sigma, 0.5), grid, draws, 4, smc.Terminal(), first_set=row)
        torch.testing.assert_close(many.log_outcome[row], one.log_outcome[0], rtol=0, atol=1e-7 if given is torch.tensor else 1e-15)


@dataclass(frozen=True)
class Bare(Plain):
    def step(self, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> Tensor:  # type: ignore[override]
        return state[0]


class Wrong(smc.Terminal):
    def finish(self, accumulator: Tensor, steps: int) -> Tensor:
        return accumulator[:, :1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"process": Bare(0.2, 1.0)}, TypeError, r"the step scheme must return a tuple of \(B, N\) tensors, here \(1, 8\), X first"),
        ({"functional": Wrong()}, ValueError, r"finish of Wrong must return \(B, N\), here \(1, 8\); got \(1, 1\)"),
        ({"dtype": torch.int64}, (TypeError, ValueError), "int64"),
        ({"carry": 1e4}, ValueError, "outcomes must be finite and positive; Terminal under BlackScholes gave some that are not"),
    ],
)
def test_what_a_process_functional_or_precision_must_be(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {
        "process": smc.BlackScholes(0.2),
        "grid": smc.TimeGrid(1.0, 2),
        "draws": smc.Draws(1),
        "paths": 8,
        "functional": smc.Terminal(),
    }
    with pytest.raises(error, match=message):
        smc.simulate(**(arguments | change))
