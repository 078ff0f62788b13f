"""One style for every figure: exact is a black line, empirical is markers with error bars, learned is a dashed coloured line.

Each function takes plain arrays or tensors and returns a closed ``matplotlib`` figure, which a notebook shows once as the last
expression of a cell.  Colours are those of Okabe and Ito (2008), told apart by colour-blind readers; markers and dashes repeat them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter
from PIL import Image

ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
EXACT: dict[str, Any] = {"color": "black", "linestyle": "-", "linewidth": 1.3, "label": "exact"}
EMPIRICAL: dict[str, Any] = {
    "color": BLUE, "linestyle": "none", "marker": "o", "markersize": 3.4, "elinewidth": 1.0, "capsize": 1.8, "label": "empirical ± s.e.",
}  # fmt: skip
LEARNED: dict[str, Any] = {"color": VERMILION, "linestyle": "--", "linewidth": 1.7, "label": "learned"}
_RING: dict[str, Any] = {
    "color": VERMILION, "linestyle": "none", "marker": "o", "markersize": 7.5, "fillstyle": "none", "label": "flagged",
}  # fmt: skip
_SERIES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), ("black", ""))
_BP = 1e4

Array = Any  # a tensor, an array or a list of real numbers
Residual = Literal["difference", "standard errors", "basis points"]


def style() -> Any:
    """Return the matplotlib settings of every figure: legible at notebook width, light enough for a report."""
    return {
        "figure.dpi": 120, "figure.constrained_layout.use": True, "font.size": 9.5, "axes.titlesize": 9.5, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.6, "axes.axisbelow": True,
        "legend.frameon": False, "legend.fontsize": 9, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    }  # fmt: skip


def axis(name: str, symbol: str, unit: str) -> str:
    """Return an axis label: name, symbol, unit (a dash for a pure number).

    >>> axis("maturity", "T", "years")
    'maturity $T$ (years)'
    """
    return f"{name} ${symbol}$ ({unit})"


def numbers(values: Array) -> np.ndarray:
    """Return ``values`` as a float array: tensors leave torch here."""
    return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, dtype=np.float64)


@dataclass(frozen=True)
class Curves:
    """What one panel shows: any of an exact and a learned curve at ``x`` (J,), and markers with standard ``error`` at ``at``.

    ``at`` holds the abscissae of the markers where they differ from ``x``; then ``there`` is the curve at those abscissae, to which the
    residuals of the markers refer.
    """

    x: Array
    exact: Array | None = None
    empirical: Array | None = None
    error: Array | None = None
    learned: Array | None = None
    at: Array | None = None
    there: Array | None = None


Panels = Curves | Mapping[str, Curves]


def compare(panels: Panels, x_label: str, y_label: str, residual: Residual | None = "difference") -> Figure:
    """Draw panels side by side, each with its residuals below: markers and learned curve against the exact one.

    Without an exact curve the learned one is the reference.  Residuals are in the unit of the ordinate, in standard errors (with the
    band ±2), or in basis points of it; None leaves them out.
    """
    cases = panels if isinstance(panels, Mapping) else {"": panels}
    columns = len(cases) if len(cases) <= 4 else -(-len(cases) // 2)
    blocks = -(-len(cases) // columns)
    with plt.rc_context(style()):
        height = (4.0 if residual else 2.9) if blocks == 1 else 3.1 * blocks
        ratios = [2.3, 1] * blocks if residual else [1] * blocks
        figure, grid = plt.subplots(
            len(ratios), columns, figsize=(7.4, height), squeeze=False, sharex="col" if blocks == 1 else False, height_ratios=ratios
        )
        for place, (title, curves) in enumerate(cases.items()):
            block, column = divmod(place, columns)
            top = grid[(2 if residual else 1) * block, column]
            _curves(top, curves)
            top.set_title(title)
            below = grid[2 * block + 1, column] if residual else top
            if residual:
                _residuals(below, curves, residual)
                top.tick_params(labelbottom=False)
            if column == 0:
                top.set_ylabel(y_label)
            if column == 0 and residual:
                below.set_ylabel(_residual_label(y_label, residual))
            below.locator_params(axis="x", nbins=10 if columns == 1 else 6 if columns == 2 else 3)
            for ax in (top, below):
                ax.tick_params(labelsize=8.5 if columns < 3 else 7.5)
            below.set_xlabel(x_label if columns < 3 else x_label[x_label.index("$") :])
        for column in range(len(cases) - (blocks - 1) * columns, columns):
            for empty in grid[-len(ratios) // blocks :, column]:
                empty.remove()
        figure.align_ylabels()
        return finished(figure, grid[0, 0])


def characteristic(
    frequency: Array, exact: Array | None = None, empirical: Any = None, learned: Array | None = None, residual: Residual = "difference"
) -> Figure:
    """Draw real and imaginary part of φ (K,): complex curves, and an estimate with its standard error (of |φ̂ − φ|)."""
    parts = {"real part": torch.real, "imaginary part": torch.imag}
    panels = {}
    for title, part in parts.items():
        curve = [None if values is None else part(torch.as_tensor(values).reshape(-1) + 0j) for values in (exact, learned)]
        value = None if empirical is None else part(empirical.value.reshape(-1))
        error = None if empirical is None else empirical.standard_error.reshape(-1)  # that of |φ̂ − φ|: each part has at most this
        panels[title] = Curves(frequency, curve[0], value, error, curve[1])
    return compare(panels, axis("frequency", "u", "per unit of $X$"), axis("value", r"\varphi(u)", "–"), residual)


def plane(exact: Array, empirical: Any) -> Figure:
    """Draw φ as a curve in the complex plane, exact (J,) and estimated."""
    curve = torch.as_tensor(exact).reshape(-1)
    value, error = empirical.value.reshape(-1), numbers(empirical.standard_error.reshape(-1))
    with plt.rc_context(style()):
        figure, ax = plt.subplots(figsize=(7.4, 3.2))
        ax.plot(numbers(curve.real), numbers(curve.imag), **EXACT, zorder=1)
        ax.errorbar(numbers(value.real), numbers(value.imag), error, error, **EMPIRICAL)
        ax.set(xlabel=axis("real part", r"\mathrm{Re}\,\varphi(u)", "–"), ylabel=axis("imaginary part", r"\mathrm{Im}\,\varphi(u)", "–"))
        return finished(figure, ax)


def density(panels: Panels, residual: Residual | None = "difference") -> Figure:
    """Draw densities over the log return."""
    return compare(panels, axis("log return", "x", "–"), axis("density", "f(x)", "per unit of $x$"), residual)


def cdf(panels: Panels, residual: Residual | None = "difference") -> Figure:
    """Draw cumulative distributions over the log return."""
    return compare(panels, axis("log return", "x", "–"), axis("probability", r"P(X\leq x)", "–"), residual)


def prices(panels: Panels, residual: Residual | None = "basis points") -> Figure:
    """Draw undiscounted prices on a unit forward over the strike."""
    return compare(panels, axis("log-moneyness", r"k=\ln(K/F)", "–"), axis("price", "V/F", "–"), residual)


def fan(times: Array, quantiles: Array, error: Array, exact: Array, sample: Array, levels: Sequence[float]) -> Figure:
    """Draw some paths (N, M+1), empirical quantiles with standard errors (Q, M+1) and the exact ones (Q, M+1) of S_t/F_t."""
    t = numbers(times)
    with plt.rc_context(style()):
        figure, ax = plt.subplots(figsize=(7.4, 3.7))
        ax.plot(t, numbers(sample).T, color="#BBDDF2", linewidth=0.6, zorder=1)
        for row, (level, value, bar, law) in enumerate(zip(levels, numbers(quantiles), numbers(error), numbers(exact), strict=True)):
            ax.plot(t, law, **EXACT | {"label": "exact quantile" if row == 0 else None})
            ax.errorbar(t[1:], value[1:], bar[1:], **EMPIRICAL | {"label": "empirical quantile ± s.e." if row == 0 else None})
            ax.annotate(f"{100 * level:g} %", (t[-1], law[-1]), (6, 0), textcoords="offset points", va="center", fontsize=8.5)
        ax.set(xlabel=axis("time", "t", "years"), ylabel=axis("price over forward", "S_t/F_t", "–"))
        return finished(figure, ax)


def fitted_slope(size: Array, error: Array) -> float:
    """Return the slope of ln(error) over ln(size) by least squares: minus the order of convergence."""
    return float(np.polyfit(np.log(numbers(size)), np.log(numbers(error)), 1)[0])


def convergence(size: Array, series: Mapping[str, tuple[Array, Array]], x_label: str, y_label: str) -> Figure:
    """Draw errors with their standard errors against ``size``, both logarithmic, each series with its fitted slope as a line."""
    n = numbers(size)
    with plt.rc_context(style()):
        figure, ax = plt.subplots(figsize=(7.4, 3.5))
        for (name, (values, bars)), (color, marker) in zip(series.items(), cycle(_SERIES), strict=False):
            y, slope = numbers(values), fitted_slope(n, values)
            label = f"{name}: slope " + f"{slope:.2f}".replace("-", "−")
            look = {"color": color, "marker": marker, "markersize": 4.5, "label": label}
            ax.errorbar(n, y, numbers(bars), **EMPIRICAL | look)
            ax.plot(n, np.exp(np.log(y).mean()) * (n / np.exp(np.log(n).mean())) ** slope, color=color, linewidth=1.0, zorder=1)
        ax.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
        ax.set_xticks(n, [f"{x:g}" for x in n])
        plain_ticks(ax)
        return finished(figure, ax)


def levels(x: Array, series: Mapping[str, Array], x_label: str, y_label: str) -> Figure:
    """Draw positive series over ``x`` on a logarithmic ordinate: the noise of labels, the history of a loss."""
    with plt.rc_context(style()):
        figure, ax = plt.subplots(figsize=(7.4, 3.1))
        for (name, values), (color, marker) in zip(series.items(), cycle(_SERIES), strict=False):
            line = "-" if marker else ":"
            ax.plot(numbers(x), numbers(values), line, color=color, marker=marker, markersize=3.2, linewidth=1.1, label=name)
        ax.set(yscale="log", xlabel=x_label, ylabel=y_label)
        plain_ticks(ax)
        return finished(figure, ax)


def progress(
    step: Array,
    steps: int,
    series: Mapping[str, Array],
    earlier: Sequence[Array],
    now: Curves,
    x_label: str,
    y_label: str,
    title: str = "",
) -> Figure:
    """Draw a training as it stands: two positive series over the step, beside a curve that gets better, and its residuals.

    ``earlier`` holds what the learned curve of ``now`` was before, oldest first: the older, the paler.
    """
    upper, lower = series
    with plt.rc_context(style() | {"axes.labelsize": 8.5}):
        mosaic: list[Any] = [[upper, "curve"], [lower, "rest"]]
        figure, ax = plt.subplot_mosaic(mosaic, figsize=(7.4, 4.4), width_ratios=[1, 1.5], height_ratios=[1.5, 1])
        for name, values in series.items():
            ax[name].plot(numbers(step), numbers(values), color=BLUE, marker="o", markersize=3.2, linewidth=1.1)
            ax[name].set(yscale="log", ylabel=name, xlim=(0, steps))
            plain_ticks(ax[name])
        ax[upper].tick_params(labelbottom=False)
        ax[lower].set_xlabel(axis("step", "n", "–"))
        for age, curve in enumerate(earlier, 1):
            pale: dict[str, Any] = {"color": SKY, "alpha": age / (len(earlier) + 1), "linewidth": 1.0}
            ax["curve"].plot(numbers(now.x), numbers(curve), **pale, label="learned, earlier" if age == len(earlier) else None)
            ax["rest"].plot(numbers(now.x), numbers(curve) - numbers(now.learned if now.exact is None else now.exact), **pale)
        _curves(ax["curve"], now)
        _residuals(ax["rest"], now, "difference")
        ax["curve"].set(ylabel=y_label, title=title)
        ax["curve"].tick_params(labelbottom=False)
        ax["rest"].set(xlabel=x_label, ylabel=_residual_label(y_label, "difference"))
        figure.align_ylabels()
        return finished(figure, ax["curve"])


def errors(x: Array, error: Array, x_label: str, bound: float | None = None) -> Figure:
    """Draw, for each column of |price error| (B, L) on a unit forward, mean, median, 95th percentile and maximum in basis points."""
    bp = _BP * numbers(error)
    found = {
        "mean": bp.mean(0), "median": np.median(bp, 0), "95th percentile": np.quantile(bp, 0.95, 0), "maximum": bp.max(0),
    }  # fmt: skip
    goal = {} if bound is None else {f"goal for the mean: {bound:g} bp": np.full(bp.shape[1], bound)}
    return levels(x, found | goal, x_label, axis("price error", r"|\Delta V|/F", "bp"))


def smiles(log_moneyness: Array, volatility: Array, flat: Array, names: Sequence[str], flagged: Array | None = None) -> Figure:
    """Draw quoted volatilities (M, L) over ln(K/F) (M, L), a panel a maturity, each with one flat volatility (M,) as a line.

    Quotes where ``flagged`` (M, L) is true are ringed.
    """
    k, quoted = numbers(log_moneyness), numbers(volatility)
    ringed = np.zeros(k.shape, bool) if flagged is None else numbers(flagged) > 0
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    with plt.rc_context(style()):
        figure, grid = plt.subplots(rows, columns, figsize=(7.4, 1.2 + 1.7 * rows), squeeze=False, sharex=True, sharey=True)
        for ax, name, x, y, level, ring in zip(grid.flat, names, k, quoted, numbers(flat), ringed, strict=False):
            ax.axhline(level, color=ORANGE, linewidth=1.3, label="at the money, flat", zorder=1)
            ax.plot(x, y, linestyle="none", marker="o", markersize=3.4, color=BLUE, label="quoted")
            ax.plot(x[ring], y[ring], **_RING)
            ax.set_title(name)
            ax.label_outer()
        for empty in grid.flat[len(names) :]:
            empty.remove()
        for ax in grid[-1]:
            ax.set_xlabel(r"$k=\ln(K/F)$ (–)")
        for ax in grid[:, 0]:
            ax.set_ylabel(axis("volatility", r"\sigma", r"per $\sqrt{\mathrm{year}}$"))
        return finished(figure, grid[0, 0])


def explored(arrays: Mapping[str, Array], scalars: Mapping[str, float], kind: str, quantity: str) -> Figure:
    """Draw the panels of an explorer: density shaded between its quantiles, smile or prices, φ in the plane, the contract's price.

    Arrays and scalars by the names of `spectralmc.explorer.frames`; what is missing is left out.
    """
    over = axis("volatility", r"\sigma", r"per $\sqrt{\mathrm{year}}$") if quantity == "volatility" else axis(kind, "V/F", "–")
    with plt.rc_context(style()):
        figure, ((density_, smile), (phi, price)) = plt.subplots(2, 2, figsize=(7.4, 5.6))
        _shaded(density_, arrays)
        _curves(density_, _named(arrays, "density"))
        density_.set(xlabel=axis("log return", "x", "–"), ylabel=axis("density", "f(x)", "per unit of $x$"), ylim=(0, None))
        _curves(smile, _named(arrays, "strikes"))
        smile.set(xlabel=axis("log-moneyness", r"k=\ln(K/F)", "–"), ylabel=over)
        looks = {"exact": EXACT, "learned": LEARNED}
        for name in (name for name in looks if f"phi.{name}.re" in arrays):
            phi.plot(arrays[f"phi.{name}.re"], arrays[f"phi.{name}.im"], **looks[name])
        if "phi.simulated.re" in arrays:
            bars = arrays["phi.simulated.error"]
            phi.errorbar(arrays["phi.simulated.re"], arrays["phi.simulated.im"], bars, bars, **EMPIRICAL)
        phi.set(xlabel=axis("real part", r"\mathrm{Re}\,\varphi(u)", "–"), ylabel=axis("imaginary part", r"\mathrm{Im}\,\varphi(u)", "–"))
        rows = [name for name in ("learned", "simulated", "exact") if f"{name}.price" in scalars]
        looks |= {"simulated": EMPIRICAL}
        for place, name in enumerate(rows):
            look = {**EMPIRICAL, "color": looks[name]["color"], "marker": "D" if name == "exact" else "o"}
            price.errorbar(scalars[f"{name}.price"], place, xerr=scalars[f"{name}.error"], **look)
        price.set_yticks(range(len(rows)), rows)
        price.set(xlabel=axis(f"{kind} at the strike", "V/F", "–"), ylim=(-0.6, len(rows) - 0.4))
        price.locator_params(axis="x", nbins=5)
        return finished(figure, density_)


def _shaded(ax: Axes, arrays: Mapping[str, Array]) -> None:
    """Shade the best density between each quantile and its counterpart on the other side, and draw the median."""
    ends, names = numbers(arrays["quantiles"]), [n for n in ("density.learned", "density.exact") if n in arrays]
    ax.axvline(ends[len(ends) // 2], color=SKY, linewidth=1.0, zorder=0)
    for low, high in zip(ends[: len(ends) // 2], ends[::-1], strict=False):
        inside = (numbers(arrays["density.x"]) >= low) & (numbers(arrays["density.x"]) <= high)
        for name in names[:1]:
            ax.fill_between(numbers(arrays["density.x"]), numbers(arrays[name]), where=inside.tolist(), color=SKY, alpha=0.22, linewidth=0)


def _named(arrays: Mapping[str, Array], panel: str) -> Curves:
    """Return what the arrays of a panel show."""
    names = ("x", "exact", "simulated", "simulated_error", "learned", "at")
    return Curves(*(arrays.get(f"{panel}.{name}") for name in names))


def _curves(ax: Axes, curves: Curves) -> None:
    x = numbers(curves.x)
    if curves.exact is not None:
        ax.plot(x, numbers(curves.exact), **EXACT, zorder=1)
    if curves.empirical is not None:
        at = x if curves.at is None else numbers(curves.at)
        ax.errorbar(at, numbers(curves.empirical), None if curves.error is None else numbers(curves.error), **EMPIRICAL)
    if curves.learned is not None:
        ax.plot(x, numbers(curves.learned), **LEARNED, zorder=3)


def _residuals(ax: Axes, curves: Curves, unit: Residual) -> None:
    reference = curves.exact if curves.exact is not None else curves.learned
    if reference is None:
        raise ValueError("residuals need an exact or a learned curve; got markers alone: pass residual=None")
    line = numbers(reference)
    error = 1.0 if curves.error is None else numbers(curves.error)
    factor = _BP if unit == "basis points" else 1 / error if unit == "standard errors" else 1.0
    rest = replace(curves, exact=None if curves.exact is None else 0 * line)
    if curves.learned is not None:
        rest = replace(rest, learned=(numbers(curves.learned) - line) * (factor if np.ndim(factor) == 0 else 1.0))
    if curves.empirical is not None:
        there = line if curves.there is None else numbers(curves.there)
        rest = replace(rest, empirical=(numbers(curves.empirical) - there) * factor, error=error * factor)
    if unit == "standard errors":
        ax.axhspan(-2, 2, color="#EEEEEE", zorder=0)
    _curves(ax, rest)


def _residual_label(y_label: str, unit: Residual) -> str:
    own = y_label[y_label.rindex("(") + 1 : -1]
    return axis("", r"\Delta", {"difference": own, "standard errors": "s.e.", "basis points": "bp"}[unit]).strip()


def plain_ticks(ax: Axes) -> None:
    """Write 1, 2, 5, 10 on a logarithmic ordinate that spans few decades."""
    low, high = ax.get_ylim()
    if high / low < 10:  # at least a decade, so that noise does not look like a trend
        low, high = ax.set_ylim((low * high / 10) ** 0.5, (low * high * 10) ** 0.5)
    if high / low < 1e4:
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 500 else (1.0,)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.minorticks_off()


def finished(figure: Figure, ax: Axes) -> Figure:
    """Return a figure closed, with the legend of one of its axes on top, to be written as a small file."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        with plt.rc_context(style()):
            figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 5))
    plt.close(figure)
    _Palette(figure)
    return figure


class _Palette(FigureCanvasAgg):
    """Writes PNG files with a palette of 64 colours: a third of the size, the same to the eye."""

    def print_png(self, filename_or_obj: Any, **_: Any) -> None:
        """Write the figure; matplotlib has applied resolution and cropping already."""
        canvas: Any = self  # parts of matplotlib carry no annotations
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        picture.quantize(64, dither=Image.Dither.NONE).save(filename_or_obj, "PNG", optimize=True)
