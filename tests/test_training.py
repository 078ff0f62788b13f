"""Training: the same bits for the same seed, unbiased labels, an honest error bar, budgets, interrupts and refusals."""

from __future__ import annotations

import math
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from fixtures import ASIAN, asian, asian_result, sigmas
from torch import Tensor

import spectralmc as smc
from spectralmc import training
from spectralmc.interrupts import Interrupts
from spectralmc.labels import Labeller
from spectralmc.problem import Problem

TINY = smc.Recipe(paths=8, width=4, depth=1)
STRIKES = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)


@dataclass(frozen=True)
class Shy(smc.BlackScholes):
    """The same law, which does not say that it is lognormal: no control variate is used."""

    lognormal: ClassVar[bool] = False


def learn(**changes: object) -> smc.Surrogate:
    given = {"space": ASIAN, "functional": smc.ArithmeticAverage(), "steps": 33, "seed": 3, "time_steps": 2, "recipe": TINY}
    return smc.train(**(given | changes), progress=False).surrogate


def state(surrogate: smc.Surrogate) -> Tensor:
    """Every number of the network, in one row."""
    return torch.cat([torch.view_as_real(t).flatten() if t.is_complex() else t.flatten() for t in surrogate.network.state_dict().values()])


def labels(process: type, recipe: smc.Recipe, seed: int, copies: int = 96) -> tuple[Tensor, Tensor]:
    """Mean and standard error over independent labels of one point of the box, each (K,)."""
    space = smc.ParameterSpace(process, {"volatility": 0.5}, maturity=1.5, carry=0.03)
    problem = Problem(space, smc.ArithmeticAverage(), 8, smc.FrequencyGrid(16.0, 32))
    found = Labeller(problem, seed, recipe.low_noise)(space.sample(copies), recipe.paths, 7, 0).values
    return found.mean(0), torch.sqrt((found - found.mean(0)).abs().square().sum(0) / (copies * (copies - 1)))


def test_the_same_steps_and_seed_give_the_same_bits_and_another_seed_does_not() -> None:
    first, again, other = learn(), learn(), learn(seed=4)
    assert torch.equal(state(first), state(again))
    assert first.relative_error == again.relative_error
    assert torch.equal(first.centre, again.centre)
    assert not torch.allclose(state(first), state(other), atol=1e-3)


def test_a_label_is_the_same_whatever_is_labelled_beside_it() -> None:
    labeller = Labeller(Problem(ASIAN, smc.ArithmeticAverage(), 4, smc.FrequencyGrid()), 5)
    whole = labeller(ASIAN.sample(12, 5), 64, 2, 0).values
    part = labeller(ASIAN.sample(range(5, 9), 5), 64, 2, 5).values
    torch.testing.assert_close(part, whole[5:9], rtol=0, atol=1e-6)  # float32 phases, grouped otherwise


def test_plain_low_noise_and_controlled_labels_have_one_mean() -> None:
    """64 real numbers for each pair of kinds; and the variance falls: most at the low frequencies, which move prices."""
    plain, plain_error = labels(smc.BlackScholes, smc.Recipe(paths=128, low_noise=False), 11)
    sobol, sobol_error = labels(Shy, smc.Recipe(paths=128), 12)
    controlled, error = labels(smc.BlackScholes, smc.Recipe(paths=128), 13)
    for other, other_error in ((plain, plain_error), (sobol, sobol_error)):
        assert bool(((controlled - other).abs() < sigmas(4 * 32) * torch.hypot(error, other_error)).all())
    assert float(error[:8].square().sum() / plain_error[:8].square().sum()) < 0.01
    assert float(error.square().sum() / plain_error.square().sum()) < 0.1
    assert float(error.square().sum() / sobol_error.square().sum()) < 0.5
    assert float(sobol_error.square().sum() / plain_error.square().sum()) < 0.5


def test_labels_beside_a_close_outcome_have_the_same_mean_and_less_variance() -> None:
    """The average under Heston, against a lognormal of its moments on its paths, against that with the asset's noise integrated out."""
    space = smc.ParameterSpace(
        smc.Heston,
        {"initial_variance": 0.06, "mean_reversion": 1.5, "long_run_variance": 0.05, "vol_of_variance": 0.5, "correlation": -0.6},
        (1.0, 1.0001),
    )
    labeller = Labeller(Problem(space, smc.ArithmeticAverage(), 8, smc.FrequencyGrid()), 3)
    assert labeller.beside
    points, means = space.sample(512), []
    for beside in (True, False):
        labeller.__dict__["beside"] = beside
        found = labeller(points, 128, 5 + beside, 0).values
        means.append((found.mean(0), (found - found.mean(0)).abs().square().sum(0) / (len(found) * (len(found) - 1))))
    (near, small), (plain, large) = means
    assert bool(((near - plain).abs() < sigmas(2 * len(near)) * torch.sqrt(small + large)).all())
    assert float(small.sum() / large.sum()) < 0.1


def test_labels_of_the_terminal_price_are_the_normal_law_itself() -> None:
    space = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.1, 0.5)}, maturity=(0.1, 2.0), carry=0.05)
    problem = Problem(space, smc.Terminal(), 1, smc.FrequencyGrid())
    normal = torch.exp(-(problem.grid.frequency**2) / 2).expand(8, -1)
    controlled = Labeller(problem, 1)(space.sample(8), 64, 1, 0).values
    torch.testing.assert_close(controlled.real, normal, rtol=0, atol=1e-6)  # φ̂ − φ̂ in float32
    plain = Labeller(problem, 1, low_noise=False)(space.sample(8), 1 << 12, 1, 0).values
    error = torch.sqrt((1 - normal**2) / (1 << 12))
    assert bool(((plain - normal).abs() < sigmas(16 * 96) * error).all())


def test_prices_err_by_no_more_than_the_error_bar_says() -> None:
    """16 fresh points × 7 strikes against a controlled simulation: a bar that holds in 99 of 100 lets at most 6 of 112 through."""
    model, count = asian(), 16
    points = ASIAN.sample(count, seed=99)
    process, grid = ASIAN.at(points), smc.TimeGrid(points["maturity"], 8)
    pair = (smc.ArithmeticAverage(), smc.GeometricAverage())
    average, control = smc.simulate(process, grid, smc.Draws(98, "sobol"), 1 << 17, pair, carry=points["carry"])
    law = model.distribution(process, points["maturity"], points["carry"])
    k = STRIKES * law.scale[:, None]
    price = model.price(process, points["maturity"], k, "put", points["carry"])
    beyond = 0
    for column in range(len(STRIKES)):
        strike = torch.exp(k[:, column])[:, None]
        payoff = (strike - average.outcome / average.forward[:, None]).clamp(min=0)
        known = (strike - control.outcome / average.forward[:, None]).clamp(min=0)
        shift, spread = torch.log(control.forward / average.forward), law.scale
        exact = torch.exp(shift) * smc.black_price(k[:, column] - shift, spread, 1.0, "put")
        value, error = average.mean(payoff - known)
        assert float((error / price.error[:, column]).mean()) < 0.25
        beyond += int(((price.value[:, column] - value - exact).abs() > price.error[:, column] + 4 * error).sum())
    assert beyond <= 6
    assert model.relative_error < 2e-3


def test_the_network_learns_what_the_base_leaves_out() -> None:
    """At a large volatility the Gaussian base alone is wrong by many error bars."""
    model, at = asian(), ({"volatility": 0.6}, 2.0, [-0.3, 0.3], "put", 0.03)
    bare = smc.Surrogate(model.problem, zeroed(model), model.centre, model.spread, True, 0.0)
    assert float(((bare.price(*at).value - model.price(*at).value) / model.price(*at).error).abs().max()) > 5


def zeroed(model: smc.Surrogate) -> smc.SpectralNetwork:
    network = model.network.astype(torch.complex128).requires_grad_(False)
    network.readout.weight.zero_()
    network.readout.bias.zero_()
    return network


def test_a_free_head_finds_the_same_law_without_the_base() -> None:
    recipe = smc.Recipe(paths=128, width=24, depth=1, gaussian_base=False)
    free = learn(steps=128, time_steps=8, recipe=recipe)
    assert not free.gaussian_base
    points = ASIAN.sample(16, seed=96)
    at = (ASIAN.at(points), points["maturity"], [-0.1, 0.0, 0.1], "put", points["carry"])
    a, b = asian().price(*at), free.price(*at)
    assert int(((a.value - b.value).abs() > a.error + b.error).sum()) <= 3  # of 48, where one in a hundred may


def test_plain_labels_teach_too_within_their_larger_bar() -> None:
    plain = learn(steps=64, time_steps=8, recipe=smc.Recipe(paths=256, width=8, depth=1, low_noise=False))
    assert plain.relative_error > 5 * asian().relative_error
    points = ASIAN.sample(16, seed=95)
    at = (ASIAN.at(points), points["maturity"], [-0.1, 0.0, 0.1], "put", points["carry"])
    assert int(((asian().price(*at).value - plain.price(*at).value).abs() > plain.price(*at).error).sum()) <= 3


def test_the_history_and_the_record_say_what_happened() -> None:
    result = asian_result()
    steps, seconds, losses, errors = zip(*result.history, strict=True)
    assert steps == (*range(12, 128, 12), 128)
    assert seconds[0] > 0
    assert list(seconds) == sorted(seconds)
    assert all(0 < loss < 0.01 for loss in losses)
    assert all(0 < error < 0.01 for error in errors)
    record = result.surrogate.record
    assert not result.interrupted
    assert (record["seed"], record["steps"], record["parameter_sets"]) == (1, 128, 4 * 256)
    assert record["paths"] == 4 * 256 * 256
    assert record["recipe"]["width"] == 24
    assert record["loss"] == losses[-1]
    assert set(record["versions"]) == {"spectralmc", "torch", "numpy"}
    assert 0 < record["held_out_mean_relative_error"] < result.surrogate.relative_error


def test_a_budget_becomes_steps_once_and_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that a step moves by 10 ms and nothing else moves: the run ends within the budget and uses most of it."""
    clock, loss = [0.0], training.loss_of

    def tick(*arguments: Tensor) -> Tensor:
        clock[0] += 0.01
        return loss(*arguments)

    monkeypatch.setattr("spectralmc.training.loss_of", tick)
    monkeypatch.setattr("spectralmc.training.time.process_time", lambda: clock[0])
    model = learn(steps=None, budget=5.0)
    assert 4.0 < clock[0] <= 5.0
    monkeypatch.undo()
    assert torch.equal(state(model), state(learn(steps=model.record["steps"])))


def test_a_budget_too_small_still_takes_some_steps() -> None:
    assert learn(steps=None, budget=1e-3).record["steps"] == 32


def interrupting(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Make the ``at``-th step be interrupted."""
    calls, loss = [0], training.loss_of

    def press(*arguments: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == at:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr("spectralmc.training.loss_of", press)


@pytest.mark.parametrize("at", [2, 50])
def test_an_interrupt_keeps_what_was_learned(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    interrupting(monkeypatch, at)
    result = smc.train(ASIAN, smc.ArithmeticAverage(), steps=200, time_steps=1, recipe=TINY, progress=False)
    assert result.interrupted
    assert result.surrogate.record["steps"] == at - 1
    price = result.surrogate.price({"volatility": 0.3}, 1.0, [0.0, 0.1], "put", 0.02)
    assert bool((torch.isfinite(price.value) & torch.isfinite(price.error)).all())


@pytest.mark.parametrize(("at", "how"), [(1, {"steps": 200}), (1, {"budget": 1.0}), (40, {"budget": 1.0})])
def test_an_interrupt_before_anything_is_learned_is_passed_on(monkeypatch: pytest.MonkeyPatch, at: int, how: dict[str, float]) -> None:
    interrupting(monkeypatch, at)
    with pytest.raises(KeyboardInterrupt):
        smc.train(ASIAN, smc.ArithmeticAverage(), time_steps=1, recipe=TINY, progress=False, **how)


def test_ctrl_c_lets_the_step_end_and_a_second_one_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, calls = training.loss_of, [0]

    def press(*arguments: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == 50:
            signal.raise_signal(signal.SIGINT)
        return loss(*arguments)

    monkeypatch.setattr("spectralmc.training.loss_of", press)
    shell = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are deaf to it
    result = smc.train(ASIAN, smc.ArithmeticAverage(), steps=200, time_steps=1, recipe=TINY, progress=False)
    assert (result.stopped, result.surrogate.record["steps"]) == ("interrupted", 50)
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    signal.signal(signal.SIGINT, shell)


def test_steps_end_early_when_looks_get_no_better_and_the_best_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([3.0, 1.0, 2.0, 2.0, *[5.0] * 20])
    monkeypatch.setattr(training.HeldOut, "error", lambda self, network: next(errors))
    trainer = training.Trainer(Problem(ASIAN, smc.ArithmeticAverage(), 2, smc.FrequencyGrid()), TINY, 1, 2000, patience=2)
    assert trainer.fit() == "early"
    assert [row.step for row in trainer.history] == [100, 200, 300, 400]
    assert trainer.best is not None
    assert trainer.best[0] == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_keeps_the_best_state_and_the_checkpoint_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bad: float
) -> None:
    loss, calls, path = training.loss_of, [0], tmp_path / "run"
    found: list[bytes] = []

    def broken(*arguments: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == 150:
            found.append(path.read_bytes())
        return loss(*arguments) * (bad if calls[0] == 150 else 1.0)

    monkeypatch.setattr("spectralmc.training.loss_of", broken)
    with pytest.warns(RuntimeWarning, match=rf"^the loss is {bad} at step 150: .*; the best state before it is kept$"):
        result = smc.train(
            ASIAN, smc.ArithmeticAverage(), time_steps=1, steps=200, recipe=TINY, progress=False, checkpoint=path, checkpoint_seconds=0.0
        )  # fmt: skip
    assert (result.stopped, result.surrogate.record["steps"]) == ("diverged", 149)
    assert math.isfinite(float(result.surrogate.price({"volatility": 0.3}, 1.0, 0.0, carry=0.02).value))
    assert found == [path.read_bytes()]


def test_a_watcher_sees_every_look_and_the_model_as_it_stands() -> None:
    seen: list[tuple[int, int, float]] = []

    def watch(progress: training.Progress) -> None:
        price = progress.surrogate().price({"volatility": 0.3}, 1.0, 0.0, carry=0.02)
        assert math.isnan(float(price.error))  # it has no bar yet
        seen.append((progress.history[-1].step, progress.steps, float(price.value)))

    smc.train(ASIAN, smc.ArithmeticAverage(), steps=250, time_steps=2, recipe=TINY, progress=False, watch=watch)
    assert [(step, steps) for step, steps, _ in seen] == [(step, 250) for step in range(25, 251, 25)]
    assert all(0.03 < value < 0.15 for *_, value in seen)


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    with pytest.raises(FloatingPointError, match=r"^the loss is (nan|inf) at step 2: lower the learning_rate of the recipe$"):
        learn(steps=40, recipe=smc.Recipe(paths=8, width=4, depth=1, learning_rate=1e30))


def test_progress_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    smc.train(ASIAN, smc.Terminal(), steps=32, recipe=TINY)
    assert "training: 100%" in capsys.readouterr().err
    learn(steps=32)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": None}, ValueError, "give either budget (process seconds) or steps; got budget=None, steps=None"),
        ({"budget": 1.0}, ValueError, "give either budget (process seconds) or steps; got budget=1.0, steps=33"),
        ({"steps": 0}, ValueError, "steps must be at least 1; got 0"),
        ({"steps": 1.5}, TypeError, "steps must be a whole number; got 1.5"),
        ({"steps": None, "budget": -1.0}, ValueError, "budget must be positive (seconds); got -1.0"),
        ({"steps": None, "budget": math.nan}, ValueError, "budget must be positive (seconds); got nan"),
        ({"seed": -1}, ValueError, "seed must be at least 0; got -1"),
        ({"time_steps": 0}, ValueError, "time_steps must be at least 1; got 0"),
        (
            {"time_steps": None, "functional": smc.ArithmeticAverage()},
            ValueError,
            "ArithmeticAverage is an outcome of the path: give time_steps, how many fixings it has",
        ),
        ({"resume": True}, ValueError, "resume needs the checkpoint to go on from: give its path as checkpoint"),
        ({"space": {}}, TypeError, "space must be a ParameterSpace; got {}"),
        ({"grid": (12, 24)}, TypeError, "grid must be a FrequencyGrid; got (12, 24)"),
        ({"functional": smc.Terminal}, TypeError, "a functional must be an object; got the class Terminal: give Terminal()"),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        learn(**changes)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"paths": 100}, ValueError, "paths must be a power of two; got 100"),
        ({"paths": 1}, ValueError, "paths must be at least 2; got 1"),
        ({"width": 0}, ValueError, "width must be at least 1; got 0"),
        ({"depth": -1}, ValueError, "depth must be at least 0; got -1"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be positive; got 0.0"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate must be positive; got nan"),
    ],
)
def test_bad_recipes_are_refused(arguments: dict[str, float], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        smc.Recipe(**arguments)
