"""What is learned: formulae where known, a pilot run where not; outcomes with an atom; refusals of outcomes that cannot be learned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from fixtures import ASIAN, sigmas
from torch import Tensor

import spectralmc as smc
from spectralmc.labels import Labeller
from spectralmc.problem import Problem, posed, quadratic

GRID = smc.FrequencyGrid(16.0, 48)
BOX = {"volatility": (0.1, 0.5)}


@dataclass(frozen=True)
class ConstantElasticity:
    """dF = σF^β dW: a process that knows its step and nothing else."""

    volatility: float
    elasticity: float

    def step(self, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
        (x,) = state
        deviation = self.volatility * torch.exp((self.elasticity - 1) * x) * dt.sqrt()
        return (x + deviation * normals[0] - deviation**2 / 2,)


@dataclass(frozen=True)
class Still(ConstantElasticity):
    """A price that never moves."""

    def step(self, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
        return state


@dataclass(frozen=True)
class Bursting(ConstantElasticity):
    """A price that is no number."""

    def step(self, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
        return (state[0] * math.nan,)


@dataclass(frozen=True)
class Range:
    """max S / S₀ over the fixings: a functional that knows no formula."""

    def start(self, zeros: Tensor) -> Tensor:
        return zeros - 10

    def update(self, accumulator: Tensor, log_price: Tensor) -> Tensor:
        return torch.maximum(accumulator, log_price)

    def finish(self, accumulator: Tensor, steps: int) -> Tensor:
        return accumulator


def space(process: type) -> smc.ParameterSpace:
    return smc.ParameterSpace(process, {"volatility": (0.1, 0.4), "elasticity": (0.5, 1.0)}, maturity=(0.2, 2.0))


def test_formulae_leave_nothing_to_the_pilot() -> None:
    problem = Problem(ASIAN, smc.ArithmeticAverage(), 4, GRID)
    assert posed(problem, 1) is problem
    assert (problem.size, problem.scale_known, problem.forward_known, problem.has_atom) == (48, True, True, False)
    points = ASIAN.sample(5)
    standard = problem.standard(points)
    total = points["volatility"] ** 2 * points["maturity"] * 5 * 9 / (6 * 16)
    torch.testing.assert_close(standard.scale**2, total, rtol=1e-14, atol=0)
    torch.testing.assert_close(standard.location, -total / 2, rtol=1e-14, atol=0)
    assert torch.equal(standard.mass, torch.ones(5).double())


def test_the_pilot_finds_location_scale_and_forward_of_what_has_no_formula() -> None:
    problem = posed(Problem(space(ConstantElasticity), Range(), 8, GRID), 1)
    assert problem.size == 49
    points = space(ConstantElasticity).sample(64, seed=9)
    sample = smc.simulate(space(ConstantElasticity).at(points), problem.time_grid(points), smc.Draws(3, "sobol"), 4096, Range())
    standard = problem.standard(points)
    z = (sample.log_outcome - (torch.log(standard.forward) + standard.location)[:, None]) / standard.scale[:, None]
    assert float(z.mean(1).abs().max()) < 0.15
    assert 0.85 < float(z.std(1).min()) <= float(z.std(1).max()) < 1.15
    torch.testing.assert_close(standard.forward, sample.forward, rtol=0.02, atol=0)


def test_the_pilot_is_a_function_of_the_seed() -> None:
    first, again, other = (posed(Problem(space(ConstantElasticity), Range(), 2, GRID), seed).pilot for seed in (1, 1, 2))
    assert first is not None
    assert other is not None
    assert again is not None
    assert all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True))
    assert not torch.equal(first.coefficients, other.coefficients)


def test_the_weight_of_an_atom_is_labelled_without_bias() -> None:
    """One fixing above a drift of −σ²T/2: P(S_T > S₀) = Φ(−σ√T/2)."""
    box = smc.ParameterSpace(smc.BlackScholes, {"volatility": 0.3}, maturity=1.0)
    problem = posed(Problem(box, smc.Maximum(), 1, GRID), 1)
    labels = Labeller(problem, 5, low_noise=False)(box.sample(64), 512, 3, 0)
    known = float(torch.special.ndtr(torch.tensor(-0.15)))
    error = math.sqrt(known * (1 - known) / (64 * 512))
    assert float(labels.mass.mean()) == pytest.approx(known, abs=4 * error)
    forward = (labels.forward * problem.standard(box.sample(64)).forward).mean()
    exact = 1 + float(smc.black_price(0.0, 0.3, 1.0))
    assert float(forward) == pytest.approx(exact, abs=4 * 0.25 / math.sqrt(64 * 512))


def test_targets_and_outputs_are_inverse() -> None:
    problem = posed(Problem(smc.ParameterSpace(smc.BlackScholes, BOX, maturity=(0.2, 1.0)), smc.Maximum(), 4, GRID), 1)
    points = problem.space.sample(8)
    standard, base = problem.standard(points), torch.exp(-(GRID.frequency**2) / 2)
    labels = Labeller(problem, 1)(points, 256, 3, 0)
    back = problem.outputs(problem.targets(labels, standard, base), standard, base)
    for ours, theirs in zip(labels, back, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("process", "message"), [(Still, "Range under Still is constant"), (Bursting, "outcomes must be finite")])
def test_an_outcome_that_is_constant_or_no_number_is_refused(process: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        smc.train(space(process), Range(), steps=32, time_steps=2, progress=False)


@dataclass(frozen=True)
class Constant(smc.Terminal):
    """Always the price of today, though it claims a formula."""

    def finish(self, accumulator: Tensor, steps: int) -> Tensor:
        return torch.zeros_like(accumulator)


@dataclass(frozen=True)
class Undefined(smc.Terminal):
    """No number above the price of today."""

    def finish(self, accumulator: Tensor, steps: int) -> Tensor:
        return torch.where(accumulator > 0, torch.nan, accumulator)


@pytest.mark.parametrize(
    ("functional", "message"), [(Constant(), "Constant under BlackScholes is constant"), (Undefined(), "outcomes must be finite")]
)
def test_an_outcome_whose_scale_is_known_is_looked_at_too(functional: smc.Terminal, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        smc.train(ASIAN, functional, steps=32, progress=False)


@dataclass(frozen=True)
class Drifting(ConstantElasticity):
    """The slip that is made most often: no −σ²dt/2."""

    def step(self, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
        return (state[0] + self.volatility * dt.sqrt() * normals[0],)


def test_a_process_that_is_no_martingale_is_warned_of() -> None:
    given = {"steps": 1, "time_steps": 2, "recipe": smc.Recipe(paths=8, width=4, depth=1), "progress": False}
    rule = r"^Drifting must keep E\[e\^X\] = 1, the mean of S/F: it is 1\.\d+ with standard error [\d.e-]+ at volatility = .*carry = 0\. "
    with pytest.warns(RuntimeWarning, match=rule):
        smc.train(space(Drifting), smc.Terminal(), **given)
    smc.train(space(ConstantElasticity), smc.Terminal(), **given)  # and here a warning would be an error


def test_a_process_that_knows_its_step_alone_is_learned() -> None:
    """Constant elasticity of variance from its ten lines: prices agree with a simulation of their own."""
    box = space(ConstantElasticity)
    recipe = smc.Recipe(paths=256, width=24, depth=2)
    model = smc.train(box, smc.Terminal(), steps=192, seed=1, time_steps=8, recipe=recipe, progress=False).surrogate
    points = box.sample(24, seed=77)
    named = {name: points[name] for name in ("volatility", "elasticity")}
    k = torch.tensor([-0.2, 0.0, 0.2]).double()
    price = model.price(named, points["maturity"], k, "put")
    draws = smc.Draws(3, "sobol")
    truth = smc.monte_carlo_price(box.at(points), smc.Terminal(), model.problem.time_grid(points), k, draws, 1 << 14, kind="put")
    assert int(((price.value - truth.value).abs() > price.error + 4 * truth.standard_error).sum()) <= 5  # of 72


def test_an_outcome_with_an_atom_is_learned_with_its_weight() -> None:
    box = smc.ParameterSpace(smc.BlackScholes, BOX, maturity=(0.2, 1.0))
    recipe = smc.Recipe(paths=256, width=24, depth=2)
    model = smc.train(box, smc.Maximum(), steps=192, seed=1, time_steps=4, recipe=recipe, progress=False).surrogate
    points = box.sample(24, seed=78)
    law = model.distribution({"volatility": points["volatility"]}, points["maturity"])
    sample = smc.simulate(box.at(points), model.problem.time_grid(points), smc.Draws(3), 1 << 16, smc.Maximum())
    assert sample.weight is not None
    mass = sample.weight.double().mean(1)
    assert bool(((law.mass - mass).abs() < 0.01 + sigmas(24) * torch.sqrt(mass * (1 - mass) / (1 << 16))).all())
    forward = model.forward({"volatility": points["volatility"]}, points["maturity"])
    torch.testing.assert_close(forward, sample.forward, rtol=4e-3, atol=0)
    atom = torch.exp(law.atom) * forward
    torch.testing.assert_close(atom, torch.ones(24).double(), rtol=1e-12, atol=0)
    put = model.price({"volatility": points["volatility"]}, points["maturity"], [0.05], "put").value[:, 0]
    payoff = (math.exp(0.05) * forward[:, None] - sample.outcome).clamp(min=0) / forward[:, None]
    torch.testing.assert_close(put, payoff.mean(1), rtol=0, atol=3e-3)


def test_a_knocked_out_path_pays_neither_put_nor_call() -> None:
    box = smc.ParameterSpace(smc.BlackScholes, BOX, maturity=(0.2, 1.0))
    recipe = smc.Recipe(paths=128, width=16, depth=1)
    functional = smc.KnockOut(0.8, "down")
    model = smc.train(box, functional, steps=96, seed=1, time_steps=4, recipe=recipe, progress=False).surrogate
    parameters, k = {"volatility": 0.4}, torch.tensor([-0.1, 0.0, 0.3]).double()
    law = model.distribution(parameters, 0.8)
    assert float(law.atom) == -math.inf
    assert float(law.mass) < 0.9
    call, put = (model.price(parameters, 0.8, k, kind).value for kind in ("call", "put"))
    torch.testing.assert_close(call - put, 1 - torch.exp(k) * law.mass, rtol=0, atol=5e-5)
    torch.testing.assert_close(put, smc.cos_price(law, k, "put"), rtol=0, atol=5e-5)


def test_monomials_up_to_degree_two() -> None:
    assert quadratic(torch.tensor([[2.0, 3.0]])).tolist() == [[1.0, 2.0, 3.0, 4.0, 6.0, 9.0]]
