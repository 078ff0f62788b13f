"""The explorer: what its panels show is what the laws say, its messages carry it whole, and without a kernel it is a picture."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from fixtures import asian, asian_result, sigmas, terminal
from torch import Tensor

import spectralmc as smc
from spectralmc import pages
from spectralmc.explorer import Explorer, explore
from spectralmc.explorer.controls import STRIKE
from spectralmc.explorer.frames import LEVELS

HESTON = smc.Heston(initial_variance=0.04, mean_reversion=2.0, long_run_variance=0.05, vol_of_variance=0.5, correlation=-0.7)
MARKET = smc.Market(spot=4468.0, rate=0.03)


@dataclass(frozen=True)
class Own:
    """A process with a step and nothing more."""

    volatility: float

    def step(self, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
        deviation = self.volatility * dt.sqrt()
        return (state[0] + deviation * normals[0] - deviation**2 / 2,)


def known() -> Explorer:
    """A law with a closed form, and the same law learned."""
    return explore(terminal(), market=MARKET, start={"volatility": 0.3, "maturity": 0.5, "carry": 0.02, STRIKE: 0.1})


# What the panels show -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["call", "put"])
def test_exact_and_learned_are_black_s_price_volatility_and_law(kind: Any) -> None:
    explorer = known()
    explorer.kind = kind
    frame = explorer.frame()
    black = float(smc.black_price(0.1, 0.3, 0.5, kind))
    assert abs(frame.scalars["exact.price"] - black) < 1e-12
    assert abs(frame.scalars["learned.price"] - black) < 1e-6  # single precision
    for law in ("exact", "learned"):
        volatility = frame.arrays[f"strikes.{law}"]
        np.testing.assert_allclose(volatility, 0.3, atol=1e-3 if law == "learned" else 1e-9)
    x, s = frame.arrays["density.x"], 0.3 * 0.5**0.5
    gaussian = np.exp(-(((x + s**2 / 2) / s) ** 2) / 2) / (s * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(frame.arrays["density.exact"], gaussian, atol=1e-10)
    np.testing.assert_allclose(frame.arrays["density.learned"], gaussian, atol=1e-5 * gaussian.max())


@pytest.mark.parametrize("make", [known, lambda: explore(HESTON)], ids=["Black-Scholes", "Heston"])
def test_the_simulated_law_is_the_exact_one_within_its_errors(make: Callable[[], Explorer]) -> None:
    explorer = make()
    frame = explorer.frame()
    arrays = frame.arrays
    for panel in ("density", "strikes"):
        curve = np.interp(arrays[f"{panel}.at"], arrays[f"{panel}.x"], arrays[f"{panel}.exact"])
        value, error = arrays[f"{panel}.simulated"], arrays[f"{panel}.simulated_error"]
        told = value > 0.1 * np.nanmax(value)  # bins with a handful of paths are not Gaussian; NaN where a price tells no volatility
        residual = (value - curve)[told] / error[told]
        assert np.abs(residual).max() < sigmas(told.sum())
    value = arrays["phi.simulated.re"] + 1j * arrays["phi.simulated.im"]
    curve = (arrays["phi.exact.re"] + 1j * arrays["phi.exact.im"])[6::6]
    assert np.abs((value - curve) / arrays["phi.simulated.error"]).max() < sigmas(len(value))
    assert abs(frame.scalars["simulated.price"] - frame.scalars["exact.price"]) < 4 * frame.scalars["simulated.error"]


def test_the_greeks_of_the_exact_law_are_black_s_and_the_learned_ones_agree() -> None:
    explorer = known()
    found = explorer.frame(simulate=False).greeks
    t, sigma, r, b = 0.5, 0.3, 0.03, 0.02
    leaf = {n: torch.tensor(v).double().requires_grad_() for n, v in {"spot": 4468.0, "t": t, "sigma": sigma, "r": r}.items()}
    forward = leaf["spot"] * torch.exp((leaf["r"] - (r - b)) * leaf["t"])
    strike = 4468.0 * np.exp(b * t) * np.exp(0.1)
    value = torch.exp(-leaf["r"] * leaf["t"]) * forward * smc.black_price(torch.log(strike / forward), leaf["sigma"], leaf["t"])
    delta, theta, vega, rho = torch.autograd.grad(value, list(leaf.values()), create_graph=True)
    (gamma,) = torch.autograd.grad(delta, leaf["spot"])
    truth = {"value": value, "delta": delta, "gamma": gamma, "theta": -theta, "rho": rho, "volatility": vega}
    for name, expected in truth.items():
        assert found["exact"][name] == pytest.approx(expected.item(), rel=1e-6)
        assert found["learned"][name] == pytest.approx(expected.item(), rel=1e-3)


def test_at_the_edge_of_the_box_the_greeks_become_one_sided() -> None:
    space = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.1, 0.5)}, maturity=(0.1, 2.0), carry=0.02)
    inner, edge = (explore(space, start={"volatility": v}).frame(simulate=False).greeks["exact"] for v in (0.4999, 0.5))
    assert edge["volatility"] == pytest.approx(inner["volatility"], rel=1e-3)


def test_the_quantiles_shade_what_they_should() -> None:
    explorer = known()
    frame = explorer.frame(simulate=False)
    model = terminal()
    exact = model.distribution({"volatility": 0.3}, 0.5, 0.02).quantile(LEVELS)
    spacing = frame.arrays["density.x"][1] - frame.arrays["density.x"][0]
    np.testing.assert_allclose(frame.arrays["quantiles"], exact, atol=spacing / 4)


def test_a_smile_is_blank_where_the_price_does_not_tell_it() -> None:
    frame = explore(HESTON).frame(maturity=0.05)
    assert np.isfinite(frame.arrays["strikes.exact"]).all()
    wing = explore(asian()).frame(maturity=0.1, volatility=0.1)
    told = np.isfinite(wing.arrays["strikes.learned"])
    error, smile = wing.arrays["strikes.learned_error"], wing.arrays["strikes.learned"]
    assert told.any()
    assert (error[told] < 0.25 * smile[told]).all()


def test_a_process_with_a_step_alone_is_simulated_at_every_move() -> None:
    explorer = explore(Own(0.2), maturity=(0.5, 1.0))
    frame = explorer.frame(simulate=False)
    assert "density.exact" not in frame.arrays
    black = float(smc.black_price(0.0, 0.2, 1.0))
    assert abs(frame.scalars["simulated.price"] - black) < 4 * frame.scalars["simulated.error"]
    assert frame.arrays["quantiles"][3] == pytest.approx(-0.02, abs=4 * 1.25 * 0.2 / 8192**0.5)  # the median of 8192 normals
    assert frame.greeks == {}


def test_an_average_without_a_closed_form_has_a_learned_and_a_simulated_law() -> None:
    frame = explore(asian()).frame()
    assert {name for name in frame.arrays if name.startswith("density.")} >= {"density.learned", "density.simulated"}
    assert "density.exact" not in frame.arrays
    assert abs(frame.scalars["learned.price"] - frame.scalars["simulated.price"]) < 4 * frame.scalars["simulated.error"]


def test_a_geometric_average_is_exact_under_black_and_scholes() -> None:
    frame = explore(smc.BlackScholes(0.3), functional=smc.GeometricAverage(), time_steps=8).frame()
    assert abs(frame.scalars["exact.price"] - frame.scalars["simulated.price"]) < 4 * frame.scalars["simulated.error"]


def test_an_outcome_with_an_atom_shows_its_continuous_part() -> None:
    frame = explore(smc.BlackScholes(0.3), functional=smc.KnockOut(0.8, "down"), time_steps=8, start={"volatility": 0.4}).frame()
    assert 0.3 < frame.scalars["mass"] < 0.95
    width = np.diff(frame.arrays["density.at"]).min()
    assert float((frame.arrays["density.simulated"] * width).sum()) == pytest.approx(frame.scalars["mass"], abs=0.02)


def test_a_sample_is_drawn_once_and_repeats() -> None:
    explorer = explore(Own(0.2))
    first = explorer.frame()
    assert explorer.frame(log_moneyness=0.1).arrays["density.simulated"] is not first.arrays["density.simulated"]
    assert len(explorer.instrument.samples) == 1
    again = explore(Own(0.2)).frame()
    np.testing.assert_array_equal(first.arrays["density.simulated"], again.arrays["density.simulated"])
    for volatility in np.linspace(0.1, 0.3, 40):
        explorer.frame(volatility=volatility)
    assert len(explorer.instrument.samples) <= 32


# Sliders ------------------------------------------------------------------------------------------------------------------------


def test_every_free_parameter_and_the_strike_have_a_slider_that_starts_where_told() -> None:
    explorer = explore(terminal(), start={"volatility": 0.2})
    assert [c.name for c in explorer.controls] == ["volatility", "maturity", "carry", STRIKE]
    assert explorer.point == {"volatility": 0.2, "maturity": 1.0, "carry": 0.0, STRIKE: 0.0}
    assert all(c.low <= c.start <= c.high for c in explorer.controls)


@pytest.mark.parametrize(
    "process",
    [HESTON, smc.BlackScholes(0.2), smc.Merton(0.2, 0.5, -0.1, 0.15), smc.VarianceGamma(0.2, -0.1, 0.2)],
    ids=lambda p: type(p).__name__,
)
def test_a_process_is_explored_around_its_own_parameters(process: Any) -> None:
    explorer = explore(process)
    for control in explorer.controls[:-3]:
        assert control.low < control.start == getattr(process, control.name) < control.high
    corners = ({c.name: getattr(c, end) for c in explorer.controls} for end in ("low", "high"))
    assert all(np.isfinite(explorer.frame(simulate=False, **corner).arrays["density.exact"]).all() for corner in corners)


def test_what_a_process_refuses_stays_fixed() -> None:
    fixed = explore(smc.BlackScholes(0.2), bounds={"volatility": 0.2})
    assert "volatility" not in repr(fixed)


@pytest.mark.parametrize(
    ("law", "options", "error", "message"),
    [
        ("model.safetensors", {}, TypeError, "explore takes a Surrogate, .* got str: read a saved model with spectralmc.load"),
        (3.0, {}, TypeError, "got float: see the docstring"),
        (smc.Heston, {}, TypeError, "got the class Heston: make one, or a ParameterSpace of Heston"),
        (lambda: None, {}, TypeError, "got function"),
        (smc.CorrelatedBlackScholes([0.2, 0.3], [[1.0, 0.5], [0.5, 1.0]]), {}, TypeError, "must be a dataclass of single numbers"),
        (smc.BlackScholes([0.2, 0.3]), {}, TypeError, "BlackScholes is not: give a ParameterSpace of a function"),
        (HESTON, {"functional": smc.ArithmeticAverage}, TypeError, "functional must be one like ArithmeticAverage"),
        (HESTON, {"bounds": {"volatilty": 0.2}}, ValueError, "unknown parameter 'volatilty'"),
        (HESTON, {"maturity": (-1.0, 1.0)}, ValueError, "maturity must be positive"),
        (HESTON, {"log_moneyness": (0.1, -0.1)}, ValueError, "bounds of log_moneyness must satisfy lower < upper"),
        (HESTON, {"start": {"maturity": 9.0}}, ValueError, r"maturity must start in \[0.05, 3\]; got 9"),
        (HESTON, {"start": {"maturty": 1.0}}, ValueError, "unknown parameter 'maturty' .did you mean 'maturity'"),
        (HESTON, {"paths": 2}, ValueError, "paths must be at least 256"),
        (HESTON, {"seed": "x"}, TypeError, "seed must be a whole number"),
        (HESTON, {"market": 100.0}, TypeError, "market must be a Market .*; got float"),
    ],
)  # fmt: skip
def test_what_cannot_be_explored_is_refused_in_one_line(law: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        explore(law, **options)
    assert "\n" not in str(caught.value)


def test_a_training_result_is_told_from_its_surrogate() -> None:
    with pytest.raises(TypeError, match=r"got TrainingResult: its .surrogate is one"):
        explore(asian_result())


def test_a_surrogate_and_a_space_keep_their_own() -> None:
    with pytest.raises(TypeError, match="a surrogate has its own maturity; got another: leave it out"):
        explore(asian(), maturity=(0.1, 1.0))
    with pytest.raises(TypeError, match="a ParameterSpace has its own bounds"):
        explore(asian().problem.space, bounds={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volatility": 5.0}, "volatility must lie in the trained box"),
        ({"volatility": float("nan")}, "volatility must be finite"),
        ({"volatilty": 0.2}, "unknown parameter 'volatilty'"),
    ],
)
def test_a_point_outside_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        known().frame(**change)


def test_a_point_needs_every_name_and_an_option_a_kind() -> None:
    explorer = known()
    with pytest.raises(ValueError, match="a point of the box needs 'volatility'; got nothing"):
        explorer.instrument.frame({})
    with pytest.raises(ValueError, match="kind must be one of call, put"):
        explorer.instrument.frame(explorer.point, kind="straddle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="quantity must be one of volatility, price"):
        explorer.instrument.frame(explorer.point, quantity="delta")  # type: ignore[arg-type]


# Messages -----------------------------------------------------------------------------------------------------------------------


def request(explorer: Explorer, **changes: Any) -> dict[str, Any]:
    return {"id": 7, "view": "v", "point": explorer.point, "kind": "put", "quantity": "price", "rest": False, **changes}


def test_an_answer_carries_every_array_in_one_buffer() -> None:
    widget = pytest.importorskip("spectralmc.explorer.widget")
    explorer = known()
    head, (buffer,) = widget.reply(explorer, request(explorer, point={**explorer.point, "volatility": 0.4}, rest=True))
    assert (head["id"], head["view"], head["rest"]) == (7, "v", True)
    json.dumps(head, allow_nan=False)
    frame, values = explorer.frame(), np.frombuffer(buffer, np.float32)
    assert [name for name, _ in head["arrays"]] == list(frame.arrays)
    np.testing.assert_array_equal(values, np.concatenate([*frame.arrays.values()]).astype(np.float32))
    assert (explorer.point["volatility"], explorer.kind, explorer.quantity) == (0.4, "put", "price")


@pytest.mark.parametrize("change", [{"point": {}}, {"point": None}, {"kind": "straddle"}, {"point": {"volatility": 9.0}}])
def test_a_request_that_cannot_be_answered_comes_back_as_one_line(change: dict[str, Any]) -> None:
    widget = pytest.importorskip("spectralmc.explorer.widget")
    explorer = known()
    before = dict(explorer.point)
    head, buffers = widget.reply(explorer, request(explorer, **change))
    assert buffers == []
    assert re.fullmatch(r"\w+Error: .+", head["error"])
    assert explorer.point == before


def test_the_canvas_answers_what_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    widget = pytest.importorskip("spectralmc.explorer.widget")
    explorer, sent = known(), list[Any]()
    canvas = explorer.widget
    assert canvas is explorer.widget
    monkeypatch.setattr(widget.Canvas, "send", lambda self, content, buffers=None: sent.append((content, buffers)))
    canvas._handle_custom_msg(request(explorer), [])
    ((head, buffers),) = sent
    assert head["scalars"]["learned.price"] > 0
    assert len(buffers) == 1
    about = canvas.about
    assert about["laws"] == ["exact", "learned", "simulated"]
    json.dumps(about, allow_nan=False)


# Without a kernel ---------------------------------------------------------------------------------------------------------------


def test_beside_the_canvas_there_is_always_a_picture() -> None:
    pytest.importorskip("anywidget")
    bundle = known()._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png", "application/vnd.jupyter.widget-view+json"}
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")


def test_a_page_and_a_stored_notebook_keep_the_picture_and_drop_the_live_view() -> None:
    live = "application/vnd.jupyter.widget-view+json"
    both = nbformat.v4.new_output("display_data", {live: {"model_id": "1"}, "image/png": "AAAA"})
    alone = nbformat.v4.new_output("display_data", {live: {"model_id": "2"}, "text/plain": "slider"})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[both, alone]), nbformat.v4.new_markdown_cell("text")])
    pages.keep_pictures(notebook)
    assert [set(output.data) for output in notebook.cells[0].outputs] == [{"image/png"}, {live, "text/plain"}]


def test_without_anywidget_the_picture_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    explorer = known()
    assert set(explorer._repr_mimebundle_()) == {"text/plain", "image/png"}
    with pytest.raises(ModuleNotFoundError, match=r"the sliders of an explorer need anywidget; install spectralmc\[lab\]"):
        _ = explorer.widget
