"""The live figure of a training: what it draws, when, and what it says."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import pytest
import torch

import spectralmc as smc
from spectralmc.live import LiveFigure
from spectralmc.training import Progress, Row

matplotlib.use("agg")
SPACE = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.1, 0.5)}, maturity=(0.1, 2.0))
K = torch.linspace(-0.2, 0.2, 5).double()


def live(**options: Any) -> LiveFigure:
    return LiveFigure({"volatility": 0.3}, 1.0, K, **options)


def titles(figure: Any) -> list[str]:
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was displayed, in the place of a notebook."""
    found: list[Any] = []
    display = pytest.importorskip("IPython.display")

    class Handle:
        def update(self, figure: Any) -> None:
            found.append(figure)

    monkeypatch.setattr(display, "display", lambda figure, display_id: found.append(figure) or Handle())
    return found


def test_a_training_is_drawn_in_place_at_every_look_and_to_its_end(shown: list[Any]) -> None:
    watch = live(exact=0.3 + 0 * K, seconds=0.0)
    result = smc.train(SPACE, smc.Terminal(), steps=40, progress=False, watch=watch)
    assert len(shown) == len(result.history) == 10
    assert shown[-1] is watch.figure
    assert titles(watch.figure) == ["step 40 of 40"]


def test_drawings_are_as_far_apart_as_asked_but_for_the_last(shown: list[Any]) -> None:
    smc.train(SPACE, smc.Terminal(), steps=40, progress=False, watch=live(seconds=1e9))
    assert len(shown) == 2


def test_the_smile_is_the_implied_volatility_of_the_model_and_nan_where_a_price_has_none(shown: list[Any]) -> None:
    model = smc.train(SPACE, smc.Terminal(), steps=32, progress=False).surrogate
    assert live().smile(model) == pytest.approx(0.3, abs=1e-5)  # single precision
    far = LiveFigure({"volatility": 0.3}, 1.0, [-9.0]).smile(model)
    assert math.isnan(float(far)) or float(far) > 0


def test_the_time_left_goes_by_the_first_look_and_then_by_the_clock(shown: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, watch = smc.train(SPACE, smc.Terminal(), steps=32, progress=False).surrogate, live(seconds=0.0)
    clock = iter([100.0, 104.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    rows = [Row(10, 20.0, 1e-3, 1e-3), Row(20, 40.0, 1e-3, 1e-3)]
    watch(Progress(rows[:1], 30, lambda: model))
    assert titles(watch.figure) == ["step 10 of 30, 40 s left"]
    watch(Progress(rows, 30, lambda: model))
    assert titles(watch.figure) == ["step 20 of 30, 4 s left"]


def test_a_negative_time_between_drawings_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds must be non-negative"):
        live(seconds=-1.0)
