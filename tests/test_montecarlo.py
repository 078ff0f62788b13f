"""Simulated prices: against Black, against themselves without a control, and what they refuse."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from fixtures import sigmas

import spectralmc as smc
from spectralmc.montecarlo import MonteCarloPrice

K = torch.tensor([-0.2, 0.0, 0.2], dtype=torch.float64)
GRID = smc.TimeGrid(1.0, 8)
LAW = smc.BlackScholes(0.3)


@dataclass(frozen=True)
class Uncontrolled(smc.BlackScholes):
    """The same law without the knowledge that it is lognormal: nothing serves as control."""

    lognormal = False


@pytest.mark.parametrize("kind", ["call", "put"])
@pytest.mark.parametrize("functional", [smc.Terminal(), smc.GeometricAverage()])
def test_an_outcome_that_is_its_own_control_gets_blacks_price(functional: object, kind: str) -> None:
    price = smc.monte_carlo_price(LAW, functional, GRID, K, smc.Draws(1), 64, kind=kind, carry=0.04)
    variance = functional.lognormal_law(torch.tensor(0.09, dtype=torch.float64), GRID, torch.tensor(0.04, dtype=torch.float64))[1]
    assert torch.allclose(price.value[0], smc.black_price(K, variance.sqrt(), 1.0, kind), rtol=0, atol=1e-14)
    assert float(price.standard_error.max()) == 0


@pytest.mark.parametrize("sampling", ["independent", "sobol"])
def test_the_control_changes_the_noise_and_not_the_price(sampling: str) -> None:
    average, draws = smc.ArithmeticAverage(), smc.Draws(3, sampling)
    plain = smc.monte_carlo_price(Uncontrolled(0.3), average, GRID, K, draws, 2**14)
    controlled = smc.monte_carlo_price(LAW, average, GRID, K, draws, 2**14)
    difference = (plain.value - controlled.value).abs()
    assert bool((difference <= 4 * torch.hypot(plain.standard_error, controlled.standard_error)).all())
    assert bool((controlled.standard_error < plain.standard_error / 2).all())


def test_calls_less_puts_are_the_forward_less_the_strike() -> None:
    call, put = (smc.monte_carlo_price(LAW, smc.ArithmeticAverage(), GRID, K, smc.Draws(3), 2**12, kind=kind) for kind in ("call", "put"))
    gap = call.value - put.value - (1 - torch.exp(K))
    assert bool((gap.abs() <= 4 * (call.standard_error + put.standard_error)).all())


def test_many_parameter_sets_are_priced_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    volatility, maturity, carry = torch.tensor([0.1, 0.2, 0.4]), torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.0, 0.02, 0.04])
    arguments = (smc.BlackScholes(volatility), smc.ArithmeticAverage(), smc.TimeGrid(maturity, 4), K, smc.Draws(2, "sobol"), 256)
    whole = smc.monte_carlo_price(*arguments, carry=carry)
    monkeypatch.setattr("spectralmc.montecarlo._OUTCOMES", 256)
    alone = smc.monte_carlo_price(*arguments, carry=carry)
    assert torch.allclose(whole.value, alone.value, rtol=0, atol=1e-15)
    assert whole.value.shape == (3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "straddle"}, "kind must be one of call, put; got 'straddle'"),
        ({"log_moneyness": torch.zeros(2, 3)}, r"log_moneyness must be \(\), \(L,\) or \(1, L\); got shape \(2, 3\)"),
        ({"log_moneyness": [float("nan")]}, "log_moneyness must be finite; got nan"),
        ({"paths": 1}, "a standard error needs at least 2 independent paths"),
        ({"device": "abacus"}, "device must be auto, cpu, cuda or cuda:<number>; got 'abacus'"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"process": LAW, "functional": smc.Terminal(), "grid": GRID, "log_moneyness": K, "draws": smc.Draws(1), "paths": 16}
    with pytest.raises(ValueError, match=message):
        smc.monte_carlo_price(**(arguments | change))


def test_parameter_sets_of_two_lengths_are_refused_as_in_simulation() -> None:
    with pytest.raises(ValueError, match=r"with one B; got shapes \[\(2,\), \(3,\)\]"):
        smc.monte_carlo_price(smc.BlackScholes([0.2, 0.3]), smc.Terminal(), smc.TimeGrid([1.0, 2.0, 3.0], 1), K, smc.Draws(1), 64)


@dataclass(frozen=True)
class Flagged(smc.BlackScholes):
    """A process with attributes that are no numbers."""

    name: str = "flagged"
    strict: bool = True


def test_attributes_that_are_no_numbers_are_left_alone() -> None:
    price = smc.monte_carlo_price(Flagged([0.2, 0.3]), smc.Terminal(), smc.TimeGrid(1.0, 1), K, smc.Draws(1), 64)
    assert price.value.shape == (2, 3)


HESTON = smc.Heston(0.04, 2.0, 0.04, 0.5, -0.7)


@pytest.mark.parametrize("kind", ["call", "put"])
def test_conditional_and_controlled_prices_are_the_same_with_less_noise(kind: str) -> None:
    """Against the closed form, to the bias of sixteen steps: below 2e-4 of the forward."""
    exact = smc.cos_price(smc.Distribution.of(HESTON, 1.0), K, kind)
    errors = {}
    for conditional, control in ((False, False), (True, False), (False, True), (True, True)):
        price = smc.monte_carlo_price(
            HESTON, smc.Terminal(), smc.TimeGrid(1.0, 16), K, smc.Draws(4), 2**14, kind=kind, conditional=conditional, control=control
        )
        assert bool(((price.value - exact).abs() <= sigmas(3) * price.standard_error + 2e-4).all())
        errors[conditional, control] = float(price.standard_error.max())
    assert errors[False, True] < errors[False, False] / 1.4
    assert errors[True, False] < errors[False, False]
    assert errors[True, True] < errors[False, True]


def test_what_is_available_is_used_unless_forbidden() -> None:
    def priced(functional: object, **options: bool) -> MonteCarloPrice:
        return smc.monte_carlo_price(HESTON, functional, GRID, K, smc.Draws(5), 256, **options)

    assert torch.equal(priced(smc.Terminal()).value, priced(smc.Terminal(), conditional=True, control=True).value)
    asian = smc.ArithmeticAverage()
    assert torch.equal(priced(asian).value, priced(asian, conditional=False, control=True).value)
    with pytest.raises(TypeError, match="needs linear_weights: ArithmeticAverage is not linear"):
        priced(asian, conditional=True)
    with pytest.raises(TypeError, match="Maximum under Heston has no control"):
        priced(smc.Maximum(), control=True)


@pytest.mark.parametrize("kind", ["call", "put"])
@pytest.mark.parametrize("functional", [smc.Maximum(), smc.Minimum(), smc.KnockOut(1.3, "up")], ids=lambda f: type(f).__name__)
def test_an_atom_pays_in_a_simulated_price_what_it_pays_in_the_series(functional: object, kind: str) -> None:
    """The same paths through payoffs and through φ, whose series is cut where |φ| sinks below its noise: 2e-5 of the forward."""
    arguments = LAW, functional, GRID
    price = smc.monte_carlo_price(*arguments, K, smc.Draws(6), 2**13, kind=kind)
    sample = smc.simulate(LAW, GRID, smc.Draws(6), 2**13, functional)
    series = smc.cos_price(smc.Distribution.of(sample), K, kind)
    assert bool(((series - price.value).abs() <= 0.5 * price.standard_error + 2e-5).all())


def test_paths_are_simulated_where_they_were_asked_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the prices are on the CPU, wherever that was; on a GPU: tests/test_gpu.py."""
    asked = []
    monkeypatch.setattr("spectralmc.paths.choose", lambda device: asked.append(device) or torch.device("cpu"))
    price = smc.monte_carlo_price(LAW, smc.ArithmeticAverage(), GRID, K, smc.Draws(1), 64, device="cuda:3")
    assert asked == ["cuda:3"]
    assert {x.device.type for x in price} == {"cpu"}
