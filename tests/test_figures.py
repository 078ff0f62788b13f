"""The style of figures, held: exact is a black line, empirical has error bars, learned is dashed, and every axis has symbol and unit."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from PIL import Image

from spectralmc import figures
from spectralmc.spectrum import Estimate

matplotlib.use("agg")
X = torch.linspace(0.1, 1.0, 8, dtype=torch.float64)
PHI = torch.exp(-(X**2) - 0.3j * X)
ALL = figures.Curves(X, exact=X**2, empirical=X**2 + 0.01, error=0.02 + 0 * X, learned=X**2 - 0.01)
ESTIMATE = Estimate((PHI + 0.01)[None], 0.02 + 0 * X[None])
SERIES = {"plain": (X**-0.5, 0.1 * X), "sobol": (X**-1.0, 0.1 * X)}
LABEL = figures.axis("size", "N", "–")
PAIR = X.expand(2, 8)
_POINTS = {"x": X, "exact": X**2, "learned": X**2, "at": X[1:], "simulated": X[1:] ** 2, "simulated_error": 0.1 * X[1:]}
EXPLORED = {f"{panel}.{name}": values for panel in ("density", "strikes") for name, values in _POINTS.items()}
EXPLORED |= {f"phi.{law}.{part}": X for law in ("exact", "learned", "simulated") for part in ("re", "im")}
EXPLORED |= {"phi.simulated.error": 0.1 * X, "quantiles": torch.linspace(0.2, 0.9, 7)}
PRICES = {f"{law}.{name}": 0.1 for law in ("exact", "learned", "simulated") for name in ("price", "error")}

MAKERS: dict[str, Callable[[], Figure]] = {
    "density": lambda: figures.density(ALL),
    "cdf": lambda: figures.cdf({"a": ALL, "b": ALL}),
    "prices": lambda: figures.prices({str(i): ALL for i in range(5)}),
    "compare": lambda: figures.compare(ALL, LABEL, LABEL, residual="standard errors"),
    "without residuals": lambda: figures.compare(ALL, LABEL, LABEL, residual=None),
    "characteristic": lambda: figures.characteristic(X, PHI, ESTIMATE, PHI + 0.02, residual="standard errors"),
    "plane": lambda: figures.plane(PHI, ESTIMATE),
    "fan": lambda: figures.fan(X, X[None], 0.1 * X[None], X[None], torch.rand(3, 8), [0.5]),
    "convergence": lambda: figures.convergence(X, SERIES, LABEL, LABEL),
    "levels": lambda: figures.levels(X, {"loss": X}, LABEL, LABEL),
    "smiles": lambda: figures.smiles(PAIR, PAIR**2, [0.1, 0.2], ["14 days", "700 days"], flagged=PAIR > 0.5),
    "progress": lambda: figures.progress([1, 2], 4, {LABEL: [0.2, 0.1], "$n$ (–)": [0.2, 0.1]}, [X**2, X], ALL, LABEL, LABEL, "title"),
    "explored": lambda: figures.explored(EXPLORED, PRICES, "call", "volatility"),
    "errors": lambda: figures.errors(X, torch.rand(9, 8), LABEL, bound=0.5),
}
COMPARISONS = ["density", "cdf", "prices", "compare", "without residuals", "characteristic"]


def lines(ax: Axes, label: str) -> list[tuple[str, object]]:
    """Colour and line style of the lines of a label."""
    return [(to_hex(line.get_color()), line.get_linestyle()) for line in ax.lines if line.get_label() == label]


def bars(ax: Axes) -> list[ErrorbarContainer]:
    return [container for container in ax.containers if isinstance(container, ErrorbarContainer)]


@pytest.mark.parametrize("name", MAKERS)
def test_every_axis_has_a_symbol_and_a_unit(name: str) -> None:
    labels = [label for ax in MAKERS[name]().axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
    assert len(labels) >= 2
    assert all(re.fullmatch(r".*\$.+\$ \(.+\)", label) for label in labels), labels


@pytest.mark.parametrize("name", COMPARISONS)
def test_exact_is_black_and_solid_and_learned_is_dashed_and_coloured(name: str) -> None:
    for ax in MAKERS[name]().axes:
        assert lines(ax, "exact") == [("#000000", "-")]
        assert lines(ax, "learned") == [(figures.VERMILION.lower(), "--")]


@pytest.mark.parametrize("name", [*COMPARISONS, "plane", "fan", "convergence"])
def test_empirical_has_markers_and_error_bars(name: str) -> None:
    found = [container for ax in MAKERS[name]().axes for container in bars(ax)]
    assert found
    for container in found:
        marker, _, stems = container.lines
        assert marker is not None
        assert marker.get_linestyle() == "None"
        assert marker.get_marker() not in ("", "None", None)
        assert stems


@pytest.mark.parametrize("name", ["plane", "fan"])
def test_the_exact_law_is_black_in_the_other_figures(name: str) -> None:
    (ax,) = MAKERS[name]().axes
    assert ("#000000", "-") in lines(ax, "exact") + lines(ax, "exact quantile")


@pytest.mark.parametrize("name", MAKERS)
def test_a_figure_is_light_drawn_and_closed(name: str) -> None:
    figure, file = MAKERS[name](), io.BytesIO()
    figure.savefig(file, format="png")
    assert len(file.getvalue()) < 60_000
    assert Image.open(file).width >= 700
    assert not matplotlib.pyplot.get_fignums()


def test_residuals_are_markers_less_curve_in_the_unit_of_the_label() -> None:
    for unit, expected in (("difference", 0.01), ("basis points", 100.0), ("standard errors", 0.5)):
        below = figures.compare(ALL, LABEL, LABEL, residual=unit).axes[1]  # type: ignore[arg-type]
        marker = bars(below)[0].lines[0]
        assert marker is not None
        assert np.asarray(marker.get_ydata()) == pytest.approx(expected)
    assert figures.compare(ALL, LABEL, LABEL, residual="basis points").axes[1].get_ylabel() == r"$\Delta$ (bp)"


def test_markers_at_their_own_places_are_compared_with_the_curve_there() -> None:
    curves = figures.Curves(X, learned=X, empirical=[0.5], error=[0.1], at=[0.3], there=[0.4])
    marker = bars(figures.density(curves).axes[1])[0].lines[0]
    assert marker is not None
    assert np.asarray(marker.get_ydata()) == pytest.approx([0.1])


def test_residuals_of_markers_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="need an exact or a learned curve"):
        figures.density(figures.Curves(X, empirical=X, error=X))


def test_smiles_ring_the_flagged_quotes_and_draw_the_flat_volatility_of_each_panel() -> None:
    for ax, level in zip(MAKERS["smiles"]().axes, (0.1, 0.2), strict=True):
        drawn = {line.get_label(): line for line in ax.lines}
        assert np.asarray(drawn["at the money, flat"].get_ydata()) == pytest.approx(level)
        assert np.asarray(drawn["flagged"].get_xdata()) == pytest.approx(X[X > 0.5].numpy())
        assert len(np.asarray(drawn["quoted"].get_xdata())) == len(X)


def test_progress_draws_earlier_curves_paler_the_older_they_are() -> None:
    pale = [line.get_alpha() for ax in MAKERS["progress"]().axes for line in ax.lines if to_hex(line.get_color()) == figures.SKY.lower()]
    assert sorted(pale) == [1 / 3, 1 / 3, 2 / 3, 2 / 3]


def test_the_fitted_slope_is_that_of_a_power() -> None:
    assert figures.fitted_slope([1, 2, 4, 8], [3.0, 1.5, 0.75, 0.375]) == pytest.approx(-1)
