"""The three laws an explorer lays over each other: exact where a closed form is known, simulated, learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from spectralmc.distribution import Distribution
from spectralmc.draws import Draws
from spectralmc.functionals import Terminal, expected_outcome
from spectralmc.paths import Sample, simulate
from spectralmc.pricing import cos_price
from spectralmc.problem import Problem
from spectralmc.spectrum import FrequencyGrid

EXACT_GRID = FrequencyGrid(16.0, 256)  # fixed, so that a law costs the same at every place of the box
_BUMP = 1e-4  # of a coordinate's own size: 1e-8 of truncation, 1e-12 of rounding in the first derivative
_MARKET = ("spot", "rate")

Point = Mapping[str, float]
Columns = dict[str, Tensor]


def columns(point: Point) -> Columns:
    """Return a point as (1,) columns."""
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in point.items()}


def exact_law(problem: Problem, points: Columns) -> Distribution | None:
    """Return the law of the outcome at points (B,) where it has a closed form, else None.

    That is the process's own for the price at maturity, and a Gaussian where process and functional are lognormal.

    Accuracy: the truncation of φ at 16 standard deviations wide and 50 per standard deviation high.
    """
    process, maturity = problem.space.at(points), points["maturity"]
    lognormal = getattr(process, "lognormal", False) and hasattr(problem.functional, "lognormal_law")
    if lognormal:
        grid = problem.time_grid(points)
        variance = problem.functional.lognormal_law(process.integrated_variance(maturity), grid, points["carry"])[1]  # type: ignore[attr-defined]
        return _standardised(lambda u: torch.exp(-variance[:, None] / 2 * (u * u + 1j * u)), variance)
    if type(problem.functional) is not Terminal or not hasattr(process, "characteristic_function"):
        return None
    if hasattr(process, "integrated_variance"):
        return _standardised(lambda u: process.characteristic_function(u, maturity), process.integrated_variance(maturity))
    return Distribution.of(process, maturity, EXACT_GRID)


def _standardised(phi: Callable[[Tensor], Tensor], variance: Tensor) -> Distribution:
    """Return the law of φ on the grid of a Gaussian of this variance: any location and scale near its own will do."""
    location, scale = -variance / 2, torch.sqrt(variance)
    w = EXACT_GRID.frequency
    values = phi(w / scale[:, None]) * torch.exp(-1j * w * (location / scale)[:, None])
    return Distribution(values, EXACT_GRID, location, scale)


def simulated(problem: Problem, point: Point, paths: int, seed: int) -> Sample:
    """Return a plain sample of the outcome at a point: independent paths, so that its error bars are those of a simulation."""
    points = columns(point)
    draws = Draws(seed)
    return simulate(problem.space.at(points), problem.time_grid(points), draws, paths, problem.functional, carry=points["carry"])


def exact_greeks(problem: Problem, point: Point, spot: float, rate: float, strike: float, kind: Any) -> dict[str, float]:
    """Return value and Greeks in market units of the exact law, by central differences of one batch of prices.

    ``rate`` is that of discounting, and the dividend yield, rate less carry, stays.  Names are those of `spectralmc.surrogate.Greeks`;
    free ``parameters`` by their own names.  At the edge of the box a difference becomes one-sided.

    Accuracy: 1e-6 of the sensitivity, 1e-4 at the edge.
    """
    base = {**point, "spot": spot, "rate": rate}
    moved = [name for name in base if name in {*problem.space.free, "maturity", "rate"} - {"carry"}]
    step = {name: _BUMP * max(abs(value), 0.01) for name, value in base.items()}
    rows = [base] + [_moved(problem, base, name, sign * step[name]) for name in moved for sign in (1, -1)]
    scale = float(exact_law(problem, columns(point)).scale)  # type: ignore[union-attr]  # asked only where there is a law
    h = 1e-3 * scale
    rows += [{**base, "spot": spot * (1 + sign * h)} for sign in (1, -1)]
    values = _values(problem, rows, strike, rate - point["carry"], kind).tolist()
    found = {"value": values[0]}
    for i, name in enumerate(moved):
        up, down = rows[1 + 2 * i][name], rows[2 + 2 * i][name]
        found[name] = (values[1 + 2 * i] - values[2 + 2 * i]) / (up - down)
    above, below = values[-2:]
    found["delta"] = (above - below) / (2 * h * spot)
    found["gamma"] = (above - 2 * values[0] + below) / (h * spot) ** 2
    return found | {"theta": -found.pop("maturity"), "rho": found.pop("rate")}


def _moved(problem: Problem, base: Point, name: str, change: float) -> dict[str, float]:
    """Return the point with one coordinate moved, no further than the edge of the box where the coordinate is free."""
    value = base[name] + change
    low, high = problem.space.box.get(name, (value, value))
    return {**base, name: min(max(value, low), high) if low < high else value}


def _values(problem: Problem, rows: list[dict[str, float]], strike: float, dividend_yield: float, kind: Any) -> Tensor:
    """Return discounted prices at spots, rates and points, (R,)."""
    table = {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}
    spot, rate = (table.pop(name) for name in _MARKET)
    points = table | {"carry": rate - dividend_yield}
    law = exact_law(problem, points)
    growth = expected_outcome(problem.functional, problem.space.at(points), problem.time_grid(points), points["carry"])
    assert law is not None  # then its expectation is known as well
    assert growth is not None
    unit = spot * growth
    price = cos_price(law, torch.log(strike / unit)[:, None], kind)[:, 0]
    return torch.exp(-rate * points["maturity"]) * unit * price
