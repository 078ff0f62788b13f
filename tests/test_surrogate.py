"""The trained surrogate: prices, Greeks, shapes, its box, its file."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path

import hostile
import pytest
import torch
from fixtures import asian, terminal
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.special import ndtr

import spectralmc as smc
from spectralmc import surrogate as surrogate_module
from spectralmc.problem import Problem

POINT = {"volatility": 0.3}
K = torch.linspace(-0.3, 0.3, 7, dtype=torch.float64)
MARKET = smc.Market(spot=100.0, rate=0.05, dividend_yield=0.02)


@dataclass(frozen=True)
class Bare:
    """A process without formulae."""

    volatility: float

    def step(self, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
        return state


@dataclass(frozen=True)
class Own(smc.BlackScholes):
    """A process of one's own."""


@dataclass(frozen=True)
class Featureless(Bare):
    """A process that knows its variance and nothing more."""

    def integrated_variance(self, maturity: Tensor) -> Tensor:
        return self.volatility**2 * maturity


class Unknown:
    """A functional without formulae."""


@pytest.mark.parametrize("kind", ["call", "put"])
def test_the_price_is_the_price_of_the_distribution_with_the_bar_beside_it(kind: str) -> None:
    model, law = asian(), asian().distribution(POINT, 1.0, 0.03)
    price = model.price(POINT, 1.0, K, kind, 0.03)
    torch.testing.assert_close(price.value, smc.cos_price(law, K, kind), rtol=0, atol=2e-6 * float(law.scale))  # single precision
    features = model.standard_features({n: torch.tensor([x]).double() for n, x in {**POINT, "maturity": 1.0, "carry": 0.03}.items()})
    torch.testing.assert_close(price.error, model.bars(features, (K / law.scale)[None])[0] * law.scale, rtol=1e-6, atol=0)
    assert bool((price.error > 0).all())


def test_the_law_of_the_terminal_price_is_black_scholes() -> None:
    for volatility, maturity in ((0.1, 0.1), (0.3, 1.0), (0.5, 2.0)):
        price = terminal().price({"volatility": volatility}, maturity, K)
        torch.testing.assert_close(price.value, smc.black_price(K, volatility, maturity), rtol=0, atol=1e-6)  # labels in float32


def test_call_minus_put_is_forward_minus_strike_and_the_price_falls_with_the_strike() -> None:
    call, put = (asian().price(POINT, 1.0, K, kind, 0.03).value for kind in ("call", "put"))
    torch.testing.assert_close(call - put, 1 - torch.exp(K), rtol=0, atol=1e-15)
    assert bool((call.diff() < 0).all() and (put.diff() > 0).all())


def test_shapes_of_numbers_batches_and_strikes() -> None:
    model, many = asian(), {"volatility": [0.2, 0.3, 0.4]}
    assert model.price(POINT, 1.0, 0.0, carry=0.03).value.shape == ()
    assert model.price(POINT, 1.0, K, carry=0.03).value.shape == (7,)
    assert model.price(many, 1.0, 0.0, carry=0.03).value.shape == (3,)
    for price in (model.price(many, 1.0, K, carry=0.03), model.price(POINT, [0.5, 1.0, 1.5], K.expand(3, -1), carry=0.03)):
        assert price.value.shape == price.error.shape == (3, 7)
    assert model.distribution(POINT, [1.0], 0.03).scale.shape == (1,)
    row = model.price(many, 1.0, K, carry=0.03).value[1]
    single = 2 * 2e-6 * float(model.distribution(POINT, 1.0, 0.03).scale)  # one contract is summed in another order: the stated accuracy
    torch.testing.assert_close(row, model.price(POINT, 1.0, K, carry=0.03).value, rtol=0, atol=single)


def test_parameters_may_come_as_a_process_in_any_precision() -> None:
    expected = asian().price({"volatility": 0.25}, 1.0, K, carry=0.03).value
    for given in (smc.BlackScholes(0.25), {"volatility": torch.tensor(0.25)}, {"volatility": [0.25]}):
        found = asian().price(given, torch.tensor(1.0, dtype=torch.float32), K, carry=0.03).value
        torch.testing.assert_close(found.reshape(7), expected, rtol=0, atol=1e-14)


def test_a_fixed_parameter_may_be_left_out() -> None:
    space = smc.ParameterSpace(smc.BlackScholes, {"volatility": 0.2}, maturity=(0.5, 1.0))
    model = smc.train(space, smc.Terminal(), steps=1, recipe=smc.Recipe(paths=2, width=1, depth=0), progress=False).surrogate
    torch.testing.assert_close(model.price({}, 0.7, K).value, smc.black_price(K, 0.2, 0.7), rtol=0, atol=1e-5)


def test_the_law_of_the_terminal_price_ignores_the_carry_and_an_average_does_not() -> None:
    a, b = (terminal().price(POINT, 1.0, K, carry=c).value for c in (None, 0.07))
    assert torch.equal(a, b)
    a, b = (asian().price(POINT, 1.0, K, carry=c).value for c in (0.0, 0.08))
    assert not torch.allclose(a, b, rtol=0, atol=1e-4)


def black_greeks(strike: float, volatility: float, maturity: float, kind: str) -> dict[str, float]:
    """The textbook Greeks of Black, Scholes and Merton under `MARKET`."""
    s, r, q = MARKET.spot, 0.05, 0.02
    d1 = (math.log(s / strike) + (r - q + volatility**2 / 2) * maturity) / (volatility * math.sqrt(maturity))
    d2, sign = d1 - volatility * math.sqrt(maturity), 1 if kind == "call" else -1

    def cumulative(x: float) -> float:
        return float(ndtr(torch.tensor(sign * x, dtype=torch.float64)))

    bell = math.exp(-d1 * d1 / 2) / math.sqrt(2 * math.pi)
    growth, discount = math.exp(-q * maturity), math.exp(-r * maturity)
    asset, cash = s * growth * cumulative(d1), strike * discount * cumulative(d2)
    return {
        "value": sign * (asset - cash),
        "delta": sign * growth * cumulative(d1),
        "gamma": growth * bell / (s * volatility * math.sqrt(maturity)),
        "vega": s * growth * bell * math.sqrt(maturity),
        "theta": -s * growth * bell * volatility / (2 * math.sqrt(maturity)) + sign * (q * asset - r * cash),
        "rho": sign * maturity * cash,
    }


@pytest.mark.parametrize("kind", ["call", "put"])
@pytest.mark.parametrize("strike", [80.0, 100.0, 120.0])
def test_greeks_of_the_terminal_price_are_those_of_the_textbook(strike: float, kind: str) -> None:
    """The network is left with the rounding of float32 labels, 1e-6 of the forward; a derivative in ln S divides by s."""
    found = terminal().greeks(MARKET, POINT, 1.5, strike, kind)
    for name, expected in black_greeks(strike, 0.3, 1.5, kind).items():
        assert float(getattr(found, name)) == pytest.approx(expected, abs=1e-4 * max(1.0, abs(expected))), name
    assert torch.equal(found.parameters["volatility"], found.vega)


def test_greeks_of_the_average_are_its_finite_differences() -> None:
    def value(spot: float = 100.0, rate: float = 0.05, volatility: float = 0.3, maturity: float = 1.0) -> float:
        return float(asian().greeks(smc.Market(spot, rate, 0.02), {"volatility": volatility}, maturity, 105.0).value)

    def slope(name: str, at: float, h: float) -> float:
        """Central difference with one Richardson step: its own error is of order h⁴."""
        wide, narrow = ((value(**{name: at + d}) - value(**{name: at - d})) / (2 * d) for d in (2 * h, h))
        return (4 * narrow - wide) / 3

    greeks = asian().greeks(MARKET, POINT, 1.0, 105.0)
    assert float(greeks.delta) == pytest.approx(slope("spot", 100.0, 0.1), rel=1e-7)
    assert float(greeks.rho) == pytest.approx(slope("rate", 0.05, 1e-3), rel=1e-6)
    assert float(greeks.vega) == pytest.approx(slope("volatility", 0.3, 1e-3), rel=1e-6)
    assert float(greeks.theta) == pytest.approx(-slope("maturity", 1.0, 1e-3), rel=1e-6)
    second = (value(100.1) - 2 * value() + value(99.9)) / 0.01
    assert float(greeks.gamma) == pytest.approx(second, rel=1e-4)


def test_the_value_of_the_greeks_is_the_discounted_price() -> None:
    carry = 0.03
    forward = sum(math.exp(carry * i / 8) for i in range(1, 9)) / 8
    unit = asian().price(POINT, 1.0, math.log(105 / (100 * forward)), "put", carry).value
    found = asian().greeks(MARKET, POINT, 1.0, 105.0, "put")
    assert float(found.value) == pytest.approx(math.exp(-0.05) * 100 * forward * float(unit), abs=1e-4)  # single precision of 100


def test_greeks_broadcast_and_take_a_zero_curve() -> None:
    curve = smc.Market(100.0, smc.ZeroCurve((0.5, 2.0), (0.04, 0.06)), 0.02)
    greeks = terminal().greeks(curve, {"volatility": [0.2, 0.3]}, [1.0, 1.25], 100.0)
    assert {x.shape for x in greeks[:6]} == {torch.Size([2])}
    one = terminal().greeks(smc.Market(100.0, float(curve.zero_rate(1.25)), 0.02), {"volatility": 0.3}, 1.25, 100.0)
    for many, single in zip(greeks[:6], one[:6], strict=True):
        assert single.shape == ()
        assert float(many[1]) == pytest.approx(float(single), rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m.price({"volatility": 0.7}, 1.0, K, carry=0.03),
            "volatility must lie in the trained box [0.1, 0.6]; got 0.7: train on a wider box",
        ),
        (lambda m: m.price(POINT, 3.0, K, carry=0.03), "maturity must lie in the trained box [0.1, 2]; got 3: train on a wider box"),
        (lambda m: m.price(POINT, 1.0, K, carry=-0.1), "carry must lie in the trained box [0, 0.08]; got -0.1: train on a wider box"),
        (lambda m: m.price(POINT, 0.0, K, carry=0.03), "maturity must lie in the trained box [0.1, 2]; got 0: train on a wider box"),
        (lambda m: m.price(POINT, 1.0, K), "carry is missing; the model was trained for it in [0, 0.08] (1/year)"),
        (lambda m: m.price({}, 1.0, K, carry=0.03), "parameter 'volatility' is missing; the model was trained for it in [0.1, 0.6]"),
        (lambda m: m.price({"vol": 0.2}, 1.0, K, carry=0.03), "unknown parameter 'vol'; known: volatility"),
        (lambda m: m.price({"volatility": math.nan}, 1.0, K, carry=0.03), "volatility must be finite; got nan"),
        (lambda m: m.price({"volatility": []}, 1.0, K, carry=0.03), "volatility must not be empty; got shape (0,)"),
        (lambda m: m.price(POINT, 1.0, K, "digital", 0.03), "kind must be one of call, put; got 'digital'"),
        (lambda m: m.price(POINT, 1.0, math.inf, carry=0.03), "log_moneyness must be finite; got inf"),
        (
            lambda m: m.distribution({"volatility": [[0.2]]}, 1.0, 0.0),
            "parameters, maturity and carry must be numbers or (B,); got shape (1, 1)",
        ),
        (lambda m: m.greeks(MARKET, POINT, 1.0, 0.0), "strike must be positive (currency); got 0.0"),
        (lambda m: m.greeks(MARKET, POINT, -1.0, 100.0), "maturity must be positive (years); got -1.0"),
        (lambda m: m.greeks(MARKET, POINT, 1.0, 100.0, "digital"), "kind must be one of call, put; got 'digital'"),
        (
            lambda m: m.greeks(smc.Market(100.0, 0.5), POINT, 1.0, 100.0),
            "carry must lie in the trained box [0, 0.08]; got 0.5: train on a wider box",
        ),
    ],
)
def test_what_the_model_was_not_trained_for_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(asian())


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="arrays of one length"):
        asian().distribution({"volatility": [0.2, 0.3]}, [1.0, 1.0, 1.0], 0.0)


def test_the_network_sees_the_features_of_the_process_or_else_the_scaled_box() -> None:
    named = asian().problem
    points = named.space.sample(5)
    total = torch.log(points["volatility"] * torch.sqrt(points["maturity"]))
    expected = torch.stack([total, points["carry"] * points["maturity"]], 1)
    torch.testing.assert_close(named.features(points), expected, rtol=1e-14, atol=0)
    space = smc.ParameterSpace(Featureless, {"volatility": (0.1, 0.6)}, maturity=(0.1, 2.0))
    plain = Problem(space, smc.Terminal(), 1, smc.FrequencyGrid())
    assert torch.equal(plain.features(space.sample(5)), space.unit(space.sample(5)))


def test_its_name_says_what_it_knows_and_how_well() -> None:
    text = repr(asian())
    assert text.startswith(
        "Surrogate(ArithmeticAverage of 8 fixings under BlackScholes: volatility [0.1, 0.6], maturity [0.1, 2], carry [0, 0.08]; "
    )
    assert re.search(r"price error [\d.]+e-4 standard deviations at 99 %; trained \d{4}-\d\d-\d\d, 128 steps\)$", text)


def test_a_saved_model_comes_back_bit_for_bit_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = asian().save(tmp_path / "model.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    back = smc.load(str(path))
    for name, tensor in asian().network.state_dict().items():
        assert torch.equal(back.network.state_dict()[name], tensor), name
    assert (back.problem, back.record, back.relative_error) == (asian().problem, asian().record, asian().relative_error)
    assert repr(back) == repr(asian())
    for kind in ("call", "put"):
        ours, theirs = (model.price(POINT, 1.0, K, kind, 0.03) for model in (asian(), back))
        assert torch.equal(ours.value, theirs.value)
        assert torch.equal(ours.error, theirs.error)
    again = back.save(tmp_path / "again.safetensors")
    assert again.read_bytes() == path.read_bytes()


def test_saving_replaces_the_old_file_whole_and_fails_without_leaving_parts(tmp_path: Path) -> None:
    path = terminal().save(tmp_path / "model.safetensors")
    asian().save(path)
    assert repr(smc.load(path)) == repr(asian())
    with pytest.raises(FileNotFoundError, match=re.escape(f"no folder {str(tmp_path / 'missing')!r} to save a model in")):
        asian().save(tmp_path / "missing" / "model.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_save_that_breaks_off_keeps_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = terminal().save(tmp_path / "model")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("spectralmc.surrogate.os.replace", full)
    with pytest.raises(OSError, match="no space left"):
        asian().save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert repr(smc.load(path)) == repr(terminal())


def rewritten(path: Path, drop: str = "", **changes: object) -> Path:
    """Copy the file of a model with other words in its description, or without one tensor."""
    with safe_open(asian().save(path.with_name("good")), "pt") as file:
        metadata = json.loads(file.metadata()["spectralmc"]) | changes
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != drop}  # noqa: SIM118
    save_file(tensors, path, {"spectralmc": json.dumps(metadata)})
    return path


def test_a_model_of_ones_own_process_needs_it_to_load(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "own", process="Own")
    with pytest.raises(
        ValueError, match=r"^the model is of 'Own', which spectralmc\.processes does not have: pass your own class to load$"
    ):
        smc.load(path)
    assert smc.load(path, process=Own).problem.space.process is Own
    path = rewritten(tmp_path / "own", functional="Mine")
    with pytest.raises(ValueError, match=r"^the model is of 'Mine', which spectralmc\.functionals does not have"):
        smc.load(path)
    mine = type("Mine", (smc.ArithmeticAverage,), {})
    assert [type(smc.load(path, functional=own).problem.functional) for own in (mine, mine())] == [mine, mine]
    with pytest.raises(ValueError, match="the model was trained with functional 'Mine'; got 'Terminal'"):
        smc.load(path, functional=smc.Terminal())
    with pytest.raises(ValueError, match="the model was trained with process 'BlackScholes'; got 'Own'"):
        smc.load(path, process=Own)


@pytest.mark.parametrize("name", ["Tensor", "Any", "TimeGrid", "Scheme", "Protocol", "__builtins__", "os.system"])
@pytest.mark.parametrize("role", ["process", "functional"])
def test_only_processes_and_functionals_of_ours_are_made_from_a_file(tmp_path: Path, role: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"the model is of {re.escape(repr(name))}, which"):
        smc.load(rewritten(tmp_path / "odd", **{role: name}))


@pytest.mark.parametrize("change", [{"network": {"width": 10**7}}, {"box": None}, {"grid": {"K": 3}}, {"time_steps": "many"}])
def test_a_tampered_description_is_damage(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        smc.load(rewritten(tmp_path / "odd", **change))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path, hint in ((tmp_path / "nothing", ""), (tmp_path, f": for a version of a store, {tmp_path}@latest")):
        with pytest.raises(FileNotFoundError, match=f"^{re.escape(f'no model file at {str(path)!r}{hint}')}$"):
            smc.load(path)


@pytest.mark.parametrize("damage", ["empty", "text", "cut in the header", "cut in the tensors", "longer"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = asian().save(tmp_path / "model")
    whole = path.read_bytes()
    broken = {
        "empty": b"",
        "text": b"not a model at all, just some text",
        "cut in the header": whole[:100],
        "cut in the tensors": whole[:-100],
        "longer": whole + b"x",
    }[damage]
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=f"^{re.escape(repr(str(path)))} is damaged or not a safetensors file: "):
        smc.load(path)


@pytest.mark.parametrize("name", hostile.NAMES)
def test_a_file_that_only_looks_like_a_model_is_refused_quickly(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(hostile.made(name, tmp_path / "executed"))
    start = time.process_time()
    with pytest.raises(ValueError, match=f"^{re.escape(repr(str(path)))} is "):
        smc.load(path)
    assert time.process_time() - start < 1
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("metadata", [None, {"spectralmc": "{}"}, {"spectralmc": '{"format": "other"}'}, {"spectralmc": "[]"}])
def test_a_foreign_file_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "model", metadata)
    with pytest.raises(ValueError, match=r"model' is not a surrogate of format spectralmc-surrogate-3; it says"):
        smc.load(tmp_path / "model")


@pytest.mark.parametrize("description", ["{oops", "[" * 100_000, "1" * 100_000])
def test_a_description_that_is_no_json_is_refused(tmp_path: Path, description: str) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "model", {"spectralmc": description})
    with pytest.raises(ValueError, match="is damaged or not a safetensors file"):
        smc.load(tmp_path / "model")


@pytest.mark.parametrize("name", ["centre", "inner.0.weight"])
def test_a_model_that_lacks_a_tensor_is_refused(tmp_path: Path, name: str) -> None:
    path = rewritten(tmp_path / "model", drop=name)
    with pytest.raises(ValueError, match=f"is damaged.*{re.escape(name)}"):
        smc.load(path)


def test_parameters_of_different_lengths_are_refused_with_their_shapes() -> None:
    with pytest.raises(ValueError, match=r"numbers or arrays of one length; got volatility \(2,\), maturity \(3,\)"):
        asian().price({"volatility": [0.2, 0.3]}, [1.0, 1.1, 1.2], 0.0, carry=0.02)


def test_a_disk_that_takes_no_more_is_an_operating_system_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise surrogate_module.SafetensorError("No space left on device")

    monkeypatch.setattr(surrogate_module, "save_file", full)
    with pytest.raises(OSError, match=r"could not be written to .*No space left"):
        asian().save(tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []
