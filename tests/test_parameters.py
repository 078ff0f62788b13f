"""Market and box: discounting and forwards, the Sobol design and its scaling, and every refusal."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import spectralmc as smc
from spectralmc.parameters import refuse_unknown

EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Nothing:
    """A process without parameters."""


def space(**changes: object) -> smc.ParameterSpace:
    given = {"process": smc.BlackScholes, "bounds": {"volatility": (0.1, 0.5)}, "maturity": (0.05, 2.0), "carry": (-0.02, 0.08)}
    return smc.ParameterSpace(**(given | changes))


def test_a_zero_curve_is_linear_between_its_nodes_and_flat_outside() -> None:
    curve = smc.ZeroCurve((0.5, 1.0, 3.0), (0.03, 0.04, 0.02))
    times = torch.tensor([0.0, 0.5, 0.75, 1.0, 2.0, 3.0, 9.0], dtype=torch.float64)
    expected = torch.tensor([0.03, 0.03, 0.035, 0.04, 0.03, 0.02, 0.02], dtype=torch.float64)
    torch.testing.assert_close(curve(times), expected, rtol=0, atol=EPS)
    torch.testing.assert_close(torch.stack([curve(float(t)) for t in times]), expected, rtol=0, atol=EPS)


def test_a_curve_of_one_node_is_flat_and_of_any_shape() -> None:
    assert torch.equal(smc.ZeroCurve((1.0,), (0.03,))(torch.ones(2, 3)), torch.full((2, 3), 0.03))


def test_a_curve_differentiates_in_the_maturity() -> None:
    t = torch.tensor([0.75, 2.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(smc.ZeroCurve((0.5, 1.0, 3.0), (0.03, 0.04, 0.02))(t).sum(), t)
    torch.testing.assert_close(slope, torch.tensor([0.02, -0.01], dtype=torch.float64), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("times", "rates", "message"),
    [
        ((1.0, 2.0), (0.01,), "times and rates must be equally long lists; got shapes (2,) and (1,)"),
        (((1.0,),), ((0.1,),), "times and rates must be equally long lists; got shapes (1, 1) and (1, 1)"),
        ((2.0, 1.0), (0.01, 0.02), "times must increase strictly; got (2.0, 1.0)"),
        ((1.0, 1.0), (0.01, 0.02), "times must increase strictly; got (1.0, 1.0)"),
        ((-1.0, 1.0), (0.01, 0.02), "times must be non-negative (years); got -1.0"),
        ((), (), "times must not be empty; got shape (0,)"),
        ((1.0,), (math.nan,), "rates must be finite; got nan"),
    ],
)
def test_bad_curves_are_refused(times: tuple[float, ...], rates: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        smc.ZeroCurve(times, rates)


@pytest.mark.parametrize("rate", [0.05, smc.ZeroCurve((0.5, 2.0), (0.04, 0.05))])
def test_a_market_discounts_and_grows_by_its_rates(rate: float | smc.ZeroCurve) -> None:
    market, t = smc.Market(spot=100.0, rate=rate, dividend_yield=0.02), torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    r = market.zero_rate(t)
    torch.testing.assert_close(market.discount(t), torch.exp(-r * t), rtol=EPS, atol=0)
    torch.testing.assert_close(market.forward(t) * market.discount(t), 100 * torch.exp(-0.02 * t), rtol=4 * EPS, atol=0)
    torch.testing.assert_close(market.carry(t), r - 0.02, rtol=0, atol=EPS)
    assert market.forward(0.0).item() == 100.0
    assert market.discount(1.0).shape == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spot": 0.0}, "spot must be positive (currency); got 0.0"),
        ({"spot": math.nan}, "spot must be positive (currency); got nan"),
        ({"spot": 1.0, "rate": math.inf}, "rate must be finite (1/year); got inf"),
        ({"spot": 1.0, "dividend_yield": math.nan}, "dividend_yield must be finite (1/year); got nan"),
    ],
)
def test_bad_markets_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        smc.Market(**arguments)


@pytest.mark.parametrize("method", ["zero_rate", "carry", "discount", "forward"])
@pytest.mark.parametrize("maturity", [-1.0, math.nan])
def test_a_market_refuses_bad_maturities(method: str, maturity: float) -> None:
    message = re.escape(f"maturity must be non-negative (years); got {maturity}")
    with pytest.raises(ValueError, match=message):
        getattr(smc.Market(spot=1.0), method)(maturity)
    with pytest.raises(ValueError, match=message):
        getattr(smc.Market(spot=1.0, rate=smc.ZeroCurve((1.0,), (0.1,))), method)(maturity)


def test_unknown_names_are_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ValueError, match=r"^unknown parameter 'volatilty' \(did you mean 'volatility'\?\); known: volatility, drift$"):
        refuse_unknown(["volatilty"], ["volatility", "drift"])
    with pytest.raises(ValueError, match=r"^unknown key 'zzz'; known: a, b$"):
        refuse_unknown(["a", "zzz"], iter(["a", "b"]), "key")
    refuse_unknown([], [])


def test_samples_fill_the_box_evenly_in_the_scale_of_each_name() -> None:
    box, n = space(maturity=(0.01, 2.0)), 1024
    assert box.logarithmic == ("maturity",)
    points = box.sample(n, seed=3)
    assert list(points) == ["volatility", "maturity", "carry"]
    for name, (low, high) in box.box.items():
        x = points[name]
        unit = torch.log(x / low) / math.log(high / low) if name == "maturity" else (x - low) / (high - low)
        strata = (unit * n).floor().long().sort().values
        assert torch.equal(strata, torch.arange(n)), name


def test_a_range_continues_a_sample_and_seeds_and_streams_differ() -> None:
    box = space()
    whole, parts = box.sample(64, 1), [box.sample(r, 1) for r in (range(10), range(10, 64))]
    assert all(torch.equal(whole[n], torch.cat([p[n] for p in parts])) for n in whole)
    others = (box.sample(64, 2), box.sample(64, 1, stream=1))
    assert not any(torch.equal(whole["carry"], other["carry"]) for other in others)


def test_unit_coordinates_run_from_minus_one_to_one_over_the_free_names() -> None:
    box = space(maturity=(0.01, 2.0), carry=0.03)
    assert box.free == ("volatility", "maturity")
    ends = {n: torch.tensor([low, high], dtype=torch.float64) for n, (low, high) in box.box.items()}
    expected = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(box.unit(ends), expected, rtol=0, atol=4 * EPS)
    assert float(box.unit(box.sample(256)).abs().max()) < 1
    assert torch.equal(box.sample(3)["carry"], torch.full((3,), 0.03, dtype=torch.float64))


def test_a_box_without_free_names_is_one_point() -> None:
    box = smc.ParameterSpace(smc.BlackScholes, {"volatility": 0.2}, maturity=1.0)
    points = box.sample(4)
    assert box.free == ()
    assert {name: set(x.tolist()) for name, x in points.items()} == {"volatility": {0.2}, "maturity": {1.0}, "carry": {0.0}}
    assert torch.equal(box.unit(points), torch.zeros(4, 1, dtype=torch.float64))
    assert smc.ParameterSpace(Nothing, {}, 1.0).at({}) == Nothing()


def test_names_can_be_chosen_logarithmic() -> None:
    assert space(logarithmic=("volatility",)).logarithmic == ("volatility",)
    assert space(logarithmic=()).logarithmic == ()
    assert space(maturity=(0.2, 2.0)).logarithmic == ("maturity",)


def test_at_makes_the_process_of_these_points() -> None:
    process = space().at({"volatility": torch.tensor([0.2, 0.3]), "maturity": None, "carry": None})
    assert isinstance(process, smc.BlackScholes)
    assert process.volatility.tolist() == pytest.approx([0.2, 0.3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bounds": {"volatilty": (0.1, 0.2)}}, "unknown parameter 'volatilty' (did you mean 'volatility'?); known: volatility"),
        ({"bounds": {}}, "BlackScholes needs bounds for 'volatility'; give (lower, upper) or a number"),
        (
            {"bounds": {"volatility": (0.5, 0.1)}},
            "bounds of volatility must satisfy lower < upper; got (0.5, 0.1): swap them",
        ),
        (
            {"bounds": {"volatility": (0.5, 0.5)}},
            "bounds of volatility must satisfy lower < upper; got (0.5, 0.5): give one number to hold it constant",
        ),
        ({"bounds": {"volatility": (-0.5, 0.1)}}, "volatility must be positive (per sqrt(year)); got -0.5"),
        ({"bounds": {"volatility": (0.1, math.nan)}}, "upper bound of volatility must be finite; got nan"),
        ({"bounds": {"volatility": (math.inf, 1.0)}}, "lower bound of volatility must be finite; got inf"),
        ({"maturity": (0.0, 1.0)}, "maturity must be positive (years); got 0.0"),
        ({"maturity": -1.0}, "maturity must be positive (years); got -1.0"),
        ({"logarithmic": ("carry",)}, "lower bound of logarithmic carry must be positive; got -0.02"),
        ({"logarithmic": ("vol",)}, "unknown parameter 'vol'; known: volatility, maturity, carry"),
    ],
)
def test_bad_boxes_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        space(**changes)


def test_an_object_in_the_place_of_its_class_is_refused() -> None:
    rule = "process must be a class, or a function that makes one; got BlackScholes(volatility=0.2): give BlackScholes itself"
    with pytest.raises(TypeError, match=f"^{re.escape(rule)}$"):
        space(process=smc.BlackScholes(0.2))


@pytest.mark.parametrize(("points", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError)])
def test_bad_sample_sizes_are_refused(points: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="points must be"):
        space().sample(points)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [("volatility", 0.05, "[0.1, 0.5]; got 0.05"), ("maturity", 3.0, "[0.05, 2]; got 3"), ("carry", math.nan, "[-0.02, 0.08]; got nan")],
)
def test_points_outside_the_box_are_refused(name: str, value: float, shown: str) -> None:
    inside = {"volatility": torch.tensor([0.1, 0.5]), "maturity": torch.tensor([0.05, 2.0]), "carry": torch.tensor([-0.02, 0.08])}
    space().check(inside)  # float32 edges are inside
    with pytest.raises(ValueError, match=re.escape(f"{name} must lie in the trained box {shown}: train on a wider box")):
        space().check(inside | {name: torch.tensor([float(inside[name][0]), value])})


def test_numpy_bounds_are_taken_like_numbers() -> None:
    assert space(bounds={"volatility": (np.float64(0.1), np.float32(0.5))}).box["volatility"] == (0.1, 0.5)


def test_bounds_of_three_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bounds of volatility must be \(lower, upper\) or one number; got \(0.1, 0.2, 0.3\)"):
        smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.1, 0.2, 0.3)}, maturity=1.0)  # type: ignore[dict-item]
