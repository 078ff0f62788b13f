"""The live figure of a training: what it gets wrong, how long it will take, and a smile that gets better."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from spectralmc import figures
from spectralmc.black import implied_volatility
from spectralmc.surrogate import Parameters, Surrogate
from spectralmc.training import Progress
from spectralmc.validation import Number, real

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class LiveFigure:
    """Watches a training (``watch`` of `spectralmc.train`) and draws one figure anew at its looks, in Jupyter in place of the last.

    It shows the loss, the error on held-out labels, and the implied volatility of the outcome at one parameter set: as learned now, as
    learned at earlier looks, and as ``exact`` or ``empirical`` ± ``error`` where they are given, (L,) each.

    Parameters
    ----------
    parameters, maturity, carry
        a point of the box.
    log_moneyness
        k = ln(K/F), (L,), each with a price the model can tell from its bound: no more than a few standard deviations.
    seconds
        least time between two drawings.
    """

    parameters: Parameters
    maturity: float
    log_moneyness: Number
    carry: float | None = None
    exact: Any = None
    empirical: Any = None
    error: Any = None
    seconds: float = 1.0
    figure: Figure | None = field(default=None, init=False)
    _handle: Any = field(default=None, init=False)
    _smiles: list[Tensor] = field(default_factory=list, init=False)
    _first: tuple[float, int] | None = field(default=None, init=False)  # clock and step of the first look
    _drawn: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        real("seconds", self.seconds, "non-negative", "seconds")

    def __call__(self, progress: Progress) -> None:
        """Draw the training as it stands, unless it was drawn just now and goes on."""
        now, row = time.perf_counter(), progress.history[-1]
        began, first = self._first = self._first or (now, row.step)
        if now - self._drawn < self.seconds and row.step < progress.steps:
            return
        a_step = (now - began) / (row.step - first) if row.step > first else row.seconds / row.step
        self._smiles.append(self.smile(progress.surrogate()))
        self.figure, self._drawn = self.draw(progress, a_step * (progress.steps - row.step)), now
        self._show()

    def smile(self, model: Surrogate) -> Tensor:
        """Return the implied volatilities of a model, (L,), NaN where a price has none."""
        k = real("log_moneyness", self.log_moneyness).double()
        price = model.price(self.parameters, self.maturity, k, "put", self.carry).value
        inside = (price > (k.exp() - 1).clamp(min=0)) & (price < k.exp())
        found = price.new_full(k.shape, float("nan"))
        found[inside] = implied_volatility(price[inside], k[inside], self.maturity, "put")
        return found

    def draw(self, progress: Progress, seconds: float) -> Figure:
        """Return the figure, with so many seconds left: of the smiles the first, second, fourth, eighth … and the last."""
        history, steps = progress.history, progress.steps
        step = [row.step for row in history]
        loss = figures.axis("loss", r"|\Delta\varphi|^2", "–")
        held_out = figures.axis("held-out error", r"|\Delta P|/s", "–")
        series = {loss: [row.loss for row in history], held_out: [row.held_out for row in history]}
        earlier = [smile for i, smile in enumerate(self._smiles[:-1]) if i & (i + 1) == 0]
        curves = figures.Curves(self.log_moneyness, self.exact, self.empirical, self.error, self._smiles[-1])
        strike = figures.axis("log-moneyness", r"k=\ln(K/F)", "–")
        volatility = figures.axis("implied volatility", r"\sigma", r"per $\sqrt{\mathrm{year}}$")
        left = f", {seconds:.0f} s left" if step[-1] < steps else ""
        return figures.progress(step, steps, series, earlier, curves, strike, volatility, title=f"step {step[-1]:,} of {steps:,}{left}")

    def _show(self) -> None:
        from IPython import display

        if self._handle is None:
            self._handle = display.display(self.figure, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(self.figure)
