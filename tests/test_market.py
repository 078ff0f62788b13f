"""Quotes: prices and volatilities give back each other, planted arbitrage is named, and bad files are refused by line."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import spectralmc as smc
from spectralmc.market import _SHOWN, COLUMNS, Quotes, check_arbitrage, read_quotes

DAX = Path(__file__).resolve().parents[1] / "notebooks" / "data" / "dax_2002-07-05.csv"
HEAD = "maturity,strike,implied_vol,spot\n"
GOOD = "1,90,0.25,100\n1,100,0.22,100\n1,110,0.2,100\n"
JSON = {"spot": 100, "dividend_yield": 0.01, "zero_curve": {"days": [0, 365, 1825], "rates": [0.02, 0.03, 0.05]}}
MARKET = smc.Market(100.0, 0.03, 0.01)
EPS = float(np.finfo(np.float64).eps)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "quotes.csv"


def read(path: Path, text: str | bytes, **options: object) -> Quotes:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_quotes(path, **options)


def surface(volatility, maturity=(0.1, 0.5, 1.0, 3.0), strike=range(50, 200, 10), market=MARKET) -> Quotes:
    """Quotes of the volatility function σ(k, T), puts below the forward and calls above."""
    t, strikes = (x.reshape(-1) for x in torch.meshgrid(torch.tensor(maturity).double(), torch.tensor(strike).double(), indexing="ij"))
    forward = market.forward(t)
    k = torch.log(strikes / forward)
    sigma, kind = volatility(k, t), np.where(k.numpy() < 0, "put", "call")
    unit = torch.where(k < 0, smc.black_price(k, sigma, t, "put"), smc.black_price(k, sigma, t, "call"))
    return Quotes(t, strikes, sigma, unit * forward * market.discount(t), kind, market, torch.arange(2, 2 + len(t)))


def svi(k: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A skewed surface free of arbitrage: total variance linear in T of one convex slice (Gatheral 2004)."""
    return torch.sqrt(0.02 + 0.1 * (-0.4 * (k - 0.05) + torch.sqrt((k - 0.05) ** 2 + 0.15**2)) + 0 * t)


def with_price(quotes: Quotes, row: int, change: float) -> Quotes:
    """Move one price by ``change`` (basis points of its forward, undiscounted)."""
    price = quotes.price.clone()
    price[row] += change * 1e-4 * quotes.forward[row] * quotes.discount[row]
    return dataclasses.replace(quotes, price=price)


# --- the DAX surface ---


def test_the_dax_surface_is_read_as_it_stands() -> None:
    quotes = read_quotes(DAX)
    assert (len(quotes), quotes.rejected, set(quotes.kind), quotes.line.tolist()) == (104, (), {"call"}, list(range(2, 106)))
    torch.testing.assert_close(quotes.maturities * 365, torch.tensor([14, 42, 77, 168, 259, 343, 525, 700]).double(), rtol=1e-15, atol=0)
    grid = quotes.surface()
    assert grid.implied_volatility.shape == (8, 13)
    assert float(grid.implied_volatility[0, 0]) == 0.6625
    assert torch.equal(grid.price.reshape(-1), quotes.price)


def test_the_dax_forwards_come_from_its_curve_at_the_lives_of_the_options() -> None:
    quotes, facts = read_quotes(DAX), json.loads(DAX.with_suffix(".json").read_text(encoding="utf-8"))
    days = quotes.maturities.numpy() * 365
    rate = np.interp(days, facts["zero_curve"]["days"], facts["zero_curve"]["rates"])
    expected = facts["spot"] * np.exp(rate * days / 365)
    np.testing.assert_allclose(quotes.forward.reshape(8, 13)[:, 0], expected, rtol=8 * EPS)
    np.testing.assert_allclose(quotes.discount * quotes.forward, facts["spot"], rtol=8 * EPS)


def test_cos_gives_back_black_for_every_dax_quote() -> None:
    quotes = read_quotes(DAX)
    for i in range(len(quotes)):
        law = smc.Distribution.of(smc.BlackScholes(quotes.implied_volatility[i]), quotes.maturity[i])
        price = smc.cos_price(law, quotes.log_moneyness[i]) * quotes.discount[i] * quotes.forward[i]
        assert abs(price - quotes.price[i]) < 1e-10 * quotes.forward[i], f"line {quotes.line[i]}"


def test_the_dax_at_the_money_volatilities_lie_between_the_quotes_beside_the_forward() -> None:
    quotes = read_quotes(DAX)
    grid, at = quotes.surface(), quotes.at_the_money_volatility()
    for k, volatility, value in zip(grid.log_moneyness, grid.implied_volatility, at, strict=True):
        expected = np.sqrt(np.interp(0.0, k, volatility**2))
        assert abs(float(value) - expected) < 4 * EPS


def test_the_dax_surface_has_seven_butterflies_that_can_be_arbitraged_at_mid() -> None:
    found = check_arbitrage(read_quotes(DAX))
    assert [violation.rule for violation in found] == ["butterfly"] * 7
    assert found[0].line == (85, 86, 87)
    assert found[0].strike == (4400, 4500, 4600)
    assert 15.8 < found[0].amount < 15.9
    assert [round(violation.amount, 1) for violation in found] == [15.9, 12.3, 10.3, 6.8, 3.8, 0.4, 0.2]


def test_the_worst_dax_butterfly_by_hand() -> None:
    quotes = read_quotes(DAX)
    low, mid, high = (quotes.price[int((quotes.line == line).nonzero())] for line in (85, 86, 87))
    at = int((quotes.line == 86).nonzero())
    expected = (mid - (low + high) / 2) / (quotes.discount[at] * quotes.forward[at]) * 1e4
    assert abs(check_arbitrage(quotes)[0].amount - float(expected)) < 1e-8


def test_the_market_of_the_dax_columns_is_that_of_its_json(tmp_path: Path) -> None:
    spot = "".join(line + (",spot\n" if i == 0 else ",4468.17\n") for i, line in enumerate(DAX.read_text(encoding="utf-8").splitlines()))
    lives = dict(zip((13, 41, 75, 165, 256, 345, 524, 703), (14, 42, 77, 168, 259, 343, 525, 700), strict=True))
    quotes = read(tmp_path / "columns.csv", spot, lives=lives)
    torch.testing.assert_close(quotes.price, read_quotes(DAX).price, rtol=1e-13, atol=0)


# --- what is read ---


@pytest.mark.parametrize("kind", ["call", "put"])
def test_volatilities_to_prices_to_volatilities(csv: Path, kind: str) -> None:
    rows = [(t, k) for t in (0.25, 1.0, 4.0) for k in (60, 90, 100, 115, 160)]
    vol = [0.2 + 0.1 * math.sin(i) for i in range(len(rows))]
    lines = [f"{t},{k},{v!r},{kind}\n" for (t, k), v in zip(rows, vol, strict=True)]
    first = read(csv, "maturity,strike,implied_vol,kind\n" + "".join(lines), market=MARKET)
    lines = [f"{t},{k},{float(p)!r},{kind}\n" for (t, k), p in zip(rows, first.price, strict=True)]
    second = read(csv, "maturity,strike,price,kind\n" + "".join(lines), market=first.market)
    vega = smc.black_vega(first.log_moneyness, first.implied_volatility, first.maturity)
    bound = 8 * EPS * (1 + first.strike / first.forward) / vega + 1e-14
    assert bool(((second.implied_volatility - first.implied_volatility).abs() < bound).all())


def test_puts_and_calls_at_one_volatility_obey_parity(csv: Path) -> None:
    lines = "".join(f"{t},{k},0.3,{kind}\n" for t in (0.5, 2) for k in (80, 100, 130) for kind in ("call", "P"))
    quotes = read(csv, "maturity,strike,implied_vol,kind\n" + lines, market=MARKET)
    call, put = quotes.price[::2], quotes.price[1::2]
    expected = quotes.discount * (quotes.forward - quotes.strike)
    torch.testing.assert_close(call - put, expected[::2], rtol=0, atol=200 * EPS)
    assert check_arbitrage(quotes, 1e-9) == []


def test_forward_and_discount_follow_the_curve_of_the_json_beside_the_file(csv: Path) -> None:
    csv.with_suffix(".json").write_text(json.dumps(JSON), encoding="utf-8")
    quotes = read(csv, "maturity,strike,implied_vol\n1,100,0.2\n3,100,0.2\n")
    torch.testing.assert_close(quotes.discount, torch.tensor([-0.03, -0.12], dtype=torch.float64).exp(), rtol=4 * EPS, atol=0)
    torch.testing.assert_close(quotes.forward, 100 * torch.tensor([0.02, 0.09], dtype=torch.float64).exp(), rtol=4 * EPS, atol=0)


def test_days_are_years_of_365(csv: Path) -> None:
    years, days = read(csv, HEAD + GOOD), read(csv, (HEAD + GOOD).replace("maturity", "maturity_days").replace("\n1,", "\n365,"))
    assert torch.equal(years.maturity, days.maturity)
    assert torch.equal(years.price, days.price)


def test_the_price_of_bid_and_ask_is_the_mid(csv: Path) -> None:
    quotes = read(csv, "maturity,strike,bid,ask,spot\n1,100,7.5,8.5,100\n1,120,0,1,100\n")
    assert quotes.price.tolist() == [8.0, 0.5]
    assert abs(float(smc.black_price(0.0, quotes.implied_volatility[0], 1.0)) - 0.08) < 1e-15


def test_columns_make_the_market(csv: Path) -> None:
    head = "maturity,strike,implied_vol,spot,rate,dividend_yield\n"
    quotes = read(csv, head + "1,100,.2,100,.03,.01\n1,90,.2,100,.03,.01\n2,100,.2,100,.04,.01\n")
    assert quotes.market == smc.Market(100.0, smc.ZeroCurve((1.0, 2.0), (0.03, 0.04)), 0.01)
    assert read(csv, head + "1,100,.2,100,.03,.01\n").market == smc.Market(100.0, 0.03, 0.01)


def test_a_market_that_is_given_overrides_the_columns(csv: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"spot": 50, "zero_rate": 0.01, "note": "ignored"}), encoding="utf-8")
    for market in (smc.Market(50.0, 0.01), other):
        assert read(csv, HEAD + GOOD, market=market).market == smc.Market(50.0, 0.01)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(("\ufeff" + HEAD + GOOD).encode(), id="byte-order mark"),
        pytest.param((HEAD + GOOD).replace("\n", "\r\n"), id="CRLF"),
        pytest.param((HEAD + GOOD).replace("\n", "\r"), id="CR"),
        pytest.param('"maturity","strike","implied_vol","spot"\n' + GOOD.replace("90", '"90"'), id="quoted fields"),
        pytest.param((HEAD + GOOD).replace(",", " , ").replace("maturity", "Maturity"), id="spaces and capitals"),
        pytest.param((HEAD + GOOD).replace("\n", "\n\n").rstrip("\n"), id="blank lines, no end of line"),
        pytest.param((HEAD + GOOD).replace("100\n", "1e2\n"), id="exponents"),
    ],
)
def test_forms_of_csv_that_are_accepted(csv: Path, text: str | bytes) -> None:
    expected = read(csv, HEAD + GOOD)
    quotes = read(csv, text)
    assert torch.equal(quotes.price, expected.price)
    assert torch.equal(quotes.strike, expected.strike)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_are_read_when_named_and_named_when_not(csv: Path, delimiter: str) -> None:
    text = (HEAD + GOOD).replace(",", delimiter)
    assert len(read(csv, text, delimiter=delimiter)) == 3
    with pytest.raises(ValueError, match=rf"^quotes.csv line 1: fields are separated by \w+; pass delimiter={re.escape(repr(delimiter))}$"):
        read(csv, text)


def test_commas_are_named_when_another_delimiter_is_asked_for(csv: Path) -> None:
    with pytest.raises(ValueError, match=r"fields are separated by commas; pass delimiter=','"):
        read(csv, HEAD + GOOD, delimiter=";")


def test_every_column_is_documented_with_its_unit() -> None:
    assert all("(" in meaning for name, meaning in COLUMNS.items() if name != "kind")


def test_a_price_at_its_intrinsic_value_has_volatility_zero(csv: Path) -> None:
    assert read(csv, "maturity,strike,price,spot\n1,40,60,100\n").implied_volatility.tolist() == [0.0]


def test_line_numbers_survive_blank_lines_and_blocks(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectralmc.market._BLOCK", 2)
    quotes = read(csv, HEAD + "1,90,0.25,100\n\n1,100,0.22,100\n1,110,0.2,100\n")
    assert quotes.line.tolist() == [2, 4, 5]
    with pytest.raises(ValueError, match=r"^quotes.csv line 5: strike must be a number; got 'x'$"):
        read(csv, HEAD + "1,90,0.25,100\n\n1,100,0.22,100\n1,x,0.2,100\n")


# --- views ---


def test_at_the_money_is_exact_on_a_strike_at_the_forward(csv: Path) -> None:
    quotes = read(csv, HEAD + GOOD + "2,90,.3,100\n2,100,.28,100\n")
    torch.testing.assert_close(quotes.at_the_money_volatility(), torch.tensor([0.22, 0.28], dtype=torch.float64), rtol=4 * EPS, atol=0)


def test_at_the_money_needs_strikes_on_both_sides(csv: Path) -> None:
    with pytest.raises(ValueError, match="strikes must lie on both sides of the forward; those at maturity 2 years do not"):
        read(csv, HEAD + GOOD + "2,110,.3,100\n2,120,.28,100\n").at_the_money_volatility()


def test_a_surface_sorts_and_prefers_what_is_out_of_the_money(csv: Path) -> None:
    text = "maturity,strike,implied_vol,spot,kind\n2,110,.21,100,c\n1,110,.2,100,c\n1,90,.5,100,c\n1,90,.25,100,p\n2,90,.26,100,p\n"
    grid = read(csv, text).surface()
    assert grid.implied_volatility.tolist() == [[0.25, 0.2], [0.26, 0.21]]
    assert (grid.maturity.tolist(), grid.strike.tolist()) == ([1, 2], [90, 110])


def test_a_surface_with_holes_is_refused(csv: Path) -> None:
    message = "a surface needs every strike at every maturity; got 2 maturities and 3 distinct strikes, but 4 quotes"
    with pytest.raises(ValueError, match=message):
        read(csv, HEAD + GOOD + "2,110,.3,100\n").surface()


# --- arbitrage ---


@pytest.mark.parametrize("volatility", [lambda k, t: 0.25 + 0 * k, svi], ids=["flat", "SVI"])
def test_a_clean_surface_has_no_arbitrage(volatility) -> None:
    assert check_arbitrage(surface(volatility), tolerance=1e-9) == []


def test_a_mixture_of_two_volatilities_has_no_arbitrage() -> None:
    def volatility(k: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return smc.implied_volatility((smc.black_price(k, 0.15, t, "put") + smc.black_price(k, 0.4, t, "put")) / 2, k, t, "put")

    assert check_arbitrage(surface(volatility), tolerance=1e-9) == []


# Rows 15…29 are the maturity 0.5 of `surface`: strikes 50, 60, …, 190; row 20 is strike 100.
@pytest.mark.parametrize(
    ("row", "change", "rule", "lines"),
    [
        (20, 500.0, "butterfly", {21, 22, 23}),
        (20, 1500.0, "vertical", {21, 22}),
        (20, -1500.0, "vertical", {22, 23}),
        (20, 1500.0, "calendar", {22, 37}),
        (29, -1.0, "bound", {31}),
        (15, 12_000.0, "bound", {17}),
        (15, 300.0, "butterfly", {17, 18}),
    ],
)
def test_planted_arbitrage_is_found_and_named(row: int, change: float, rule: str, lines: set[int]) -> None:
    quotes = with_price(surface(lambda k, t: 0.25 + 0 * k), row, change)
    found = [violation for violation in check_arbitrage(quotes) if violation.rule == rule]
    named = [violation for violation in found if lines <= set(violation.line)]
    assert named, found
    assert all(violation.amount > 0 and row + 2 in violation.line for violation in found)


def test_the_amount_of_a_planted_bound_is_exact() -> None:
    quotes = surface(svi)
    row = 29
    unit = float(quotes.price[row] / quotes.forward[row] / quotes.discount[row])
    (bound,) = (v for v in check_arbitrage(with_price(quotes, row, -unit * 1e4 - 3)) if v.rule == "bound")
    assert abs(bound.amount - 3) < 1e-8


def test_a_put_and_a_call_that_break_parity_are_named(csv: Path) -> None:
    text = "maturity,strike,price,spot,kind\n1,100,8,100,call\n1,100,7.9,100,put\n1,120,3,100,call\n"
    (violation,) = check_arbitrage(read(csv, text))
    assert (violation.rule, violation.line, violation.strike) == ("parity", (2, 3), (100, 100))
    assert abs(violation.amount - 10) < 1e-9


def test_total_variance_that_falls_is_a_calendar_arbitrage_across_moving_forwards() -> None:
    quotes = surface(lambda k, t: torch.sqrt((0.04 + 0 * k) / t), (1.0, 2.0), range(20, 400, 2))
    assert check_arbitrage(quotes, tolerance=0.5) == []  # equal total variance: at most the curvature of a chord
    falling = surface(lambda k, t: torch.sqrt((0.05 - 0.01 * t + 0 * k) / t), (1.0, 2.0), range(20, 400, 2))
    found = check_arbitrage(falling)
    assert {violation.rule for violation in found} == {"calendar"}
    assert all(violation.maturity[0] == 1 and set(violation.maturity[1:]) == {2} for violation in found)
    exact = smc.black_price(0.0, 0.2, 1.0) - smc.black_price(0.0, math.sqrt(0.03 / 2), 2.0)
    assert abs(found[0].amount - float(exact) * 1e4) < 1  # widest at the money


def test_a_calendar_arbitrage_beyond_the_last_strike_is_found() -> None:
    near, far = surface(svi, (0.5,), (90, 100, 110)), surface(svi, (1.0,), (90, 100))
    joined = {name: torch.cat([getattr(near, name), getattr(far, name)]) for name in ("maturity", "strike", "implied_volatility", "price")}
    kind, line = np.concatenate([near.kind, far.kind]), torch.arange(2, 7)
    quotes = with_price(Quotes(**joined, kind=kind, market=near.market, line=line), 2, 800.0)
    assert (4, 6) in [violation.line for violation in check_arbitrage(quotes) if violation.rule == "calendar"]


def test_the_checks_agree_with_plain_loops_on_a_noisy_book() -> None:
    quotes = surface(svi)
    noise = torch.randn(len(quotes), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    quotes = dataclasses.replace(quotes, price=quotes.price + 0.3 * noise)
    x, unit = (quotes.strike / quotes.forward).numpy(), (quotes.price / quotes.forward / quotes.discount).numpy()
    c = np.where(quotes.kind == "call", unit, unit + 1 - x).reshape(4, 15)
    x, line = x.reshape(4, 15), quotes.line.numpy().reshape(4, 15)
    expected = {("bound", (line[i, j],), max(1 - x[i, j] - c[i, j], -c[i, j], c[i, j] - 1)) for i in range(4) for j in range(15)}
    for i in range(4):
        xs, cs, lines = [0, *x[i]], [1, *c[i]], [None, *line[i]]
        for j in range(15):
            a, b = lines[j], lines[j + 1]
            if j:
                expected |= {("vertical", (a, b), cs[j + 1] - cs[j]), ("vertical", (a, b), cs[j] - cs[j + 1] - xs[j + 1] + xs[j])}
            if j < 14:
                chord = np.interp(xs[j + 1], [xs[j], xs[j + 2]], [cs[j], cs[j + 2]])
                expected.add(("butterfly", tuple(n for n in (a, b, lines[j + 2]) if n), cs[j + 1] - chord))
            if i < 3:
                above = int(np.searchsorted(x[i + 1], x[i, j], side="right"))
                legs = (b, *line[i + 1][max(above - 1, 0) : above + 1])
                expected.add(("calendar", legs, c[i, j] - np.interp(x[i, j], [0, *x[i + 1]], [1, *c[i + 1]])))
    found = sorted((v.rule, v.line, round(v.amount, 6)) for v in check_arbitrage(quotes))
    assert found == sorted((rule, tuple(map(int, legs)), round(amount * 1e4, 6)) for rule, legs, amount in expected if amount > 1e-8)
    assert {rule for rule, _, _ in found} == {"bound", "vertical", "butterfly", "calendar"}


def test_a_violation_reads_as_a_sentence() -> None:
    text = str(check_arbitrage(read_quotes(DAX))[0])
    legs = "line 85 (1.438 years, strike 4400), line 86 (1.438 years, strike 4500), line 87 (1.438 years, strike 4600)"
    assert text == f"butterfly: C₂ ≤ the chord from C₁ to C₃ fails by 15.88 bp of the forward: {legs}"


def test_a_tolerance_hides_what_is_below_it() -> None:
    assert len(check_arbitrage(read_quotes(DAX), tolerance=1.0)) == 5
    with pytest.raises(ValueError, match=r"tolerance must be non-negative \(basis points of the forward\); got -1.0"):
        check_arbitrage(read_quotes(DAX), tolerance=-1.0)


def test_a_vertical_arbitrage_holds_for_every_pair_of_a_shuffled_book() -> None:
    quotes = with_price(surface(svi), 20, 1500.0)
    shuffle = torch.randperm(len(quotes), generator=torch.Generator().manual_seed(1))
    fields = {name: getattr(quotes, name)[shuffle] for name in ("maturity", "strike", "implied_volatility", "price", "line")}
    shuffled = dataclasses.replace(quotes, kind=quotes.kind[shuffle.numpy()], **fields)
    assert {(v.rule, v.line) for v in check_arbitrage(shuffled)} == {(v.rule, v.line) for v in check_arbitrage(quotes)}


# --- bad rows ---

VOL, PRICE, BIDASK = HEAD, "maturity,strike,price,spot\n", "maturity,strike,bid,ask,spot\n"


@pytest.mark.parametrize(
    ("head", "row", "reason"),
    [
        (VOL, "1,-3400,.2,100", "strike must be positive (currency); got -3400"),
        (VOL, "1,0,.2,100", "strike must be positive (currency); got 0"),
        (VOL, "1,abc,.2,100", "strike must be a number; got 'abc'"),
        (VOL, "1,1_000,.2,100", "strike must be a number; got '1_000'"),
        (VOL, '1,"0,5",.2,100', "strike must be a number; got '0,5'"),
        (VOL, "1,,.2,100", "strike is missing"),
        (VOL, "1,nan,.2,100", "strike must be positive (currency); got nan"),
        (VOL, "1,inf,.2,100", "strike must be positive (currency); got inf"),
        (VOL, "1,95,-inf,100", "implied_vol must be positive (per square root of a year); got -inf"),
        (
            VOL,
            "1,95,24.5,100",
            "implied_vol must be at most 5 (per square root of a year); got 24.5: more than 5 suggests percent: divide by 100",
        ),
        (
            VOL,
            "91,95,.2,100",
            "maturity must be at most 50 (years); got 91: more than 50 years suggests days: name the column maturity_days",
        ),
        (VOL, "0,95,.2,100", "maturity must be positive (years); got 0"),
        (VOL, "1,95,.2", "there must be 4 fields; got 3"),
        (VOL, "1,95,.2,100,", "there must be 4 fields; got 5"),
        (VOL, "1,95,.2,101", "spot must be the same on every row (100 on line 2); got 101"),
        (VOL, "1,80.5,.3,100", "strike 80.5 must be quoted once for a maturity and kind; line 2 has it already"),
        (
            PRICE,
            "1,90,9.9,100",
            "price must be at least the intrinsic value 10.000000 and below 100.000000 (currency, discounted); got 9.9",
        ),
        (
            PRICE,
            "1,90,100,100",
            "price must be at least the intrinsic value 10.000000 and below 100.000000 (currency, discounted); got 100",
        ),
        (PRICE, "1,90,-1,100", "price must be positive (currency); got -1"),
        (BIDASK, "1,90,20,19,100", "bid must not exceed ask (currency); got 20 above 19"),
        (BIDASK, "1,90,-1,19,100", "bid must be non-negative (currency); got -1"),
        (BIDASK, "1,90,0,0,100", "ask must be positive (currency); got 0"),
        (
            "maturity_days,strike,price,spot\n",
            "20020705,90,20,100",
            "maturity_days must be at most 18250 (days); got 20020705: more than 50 years ",
        ),
        ("maturity,strike,price,spot,kind\n", "1,90,20,100,straddle", "kind must be call or put; got 'straddle'"),
        ("maturity,strike,price,spot,kind\n", "1,90,20,100,", "kind is missing"),
        (
            "maturity,strike,price,spot,kind\n",
            "1,90,95,100,put",
            "price must be at least the intrinsic value 0.000000 and below 90.000000 ",
        ),
        (
            "maturity,strike,price,spot,rate\n",
            "1,90,20,100,3.5",
            "zero_rate must be at most 1 (1/year); got 3.5: more than 1 suggests percent",
        ),
        (
            "maturity,strike,price,spot,rate\n",
            "1,90,20,100,.02",
            "zero_rate must be the same on every row of a maturity (0 on line 2); got 0.02",
        ),
        (
            "maturity,strike,price,spot,dividend_yield\n",
            "2,90,20,100,.02",
            "dividend_yield must be the same on every row (0 on line 2); got ",
        ),
    ],
)
def test_a_bad_row_is_refused_by_line_or_dropped_on_request(csv: Path, head: str, row: str, reason: str) -> None:
    names = head.strip().split(",")
    values = {"maturity": "1", "maturity_days": "365", "implied_vol": ".25", "price": "25", "bid": "25", "ask": "25", "spot": "100"}
    good = [[values.get(name, "call" if name == "kind" else "0") for name in names] for _ in range(2)]
    good[0][1], good[1][1] = "80.5", "81"
    text = head + "\n".join([",".join(good[0]), row, ",".join(good[1])]) + "\n"
    with pytest.raises(ValueError, match=f"^quotes.csv line 3: {re.escape(reason)}"):
        read(csv, text)
    with pytest.warns(UserWarning, match="^quotes.csv: 1 of 3 rows are bad and dropped; quotes.rejected lists them$") as seen:
        quotes = read(csv, text, keep_usable=True)
    assert (len(seen), seen[0].filename, quotes.line.tolist()) == (1, __file__, [2, 4])
    assert re.match(f"^quotes.csv line 3: {re.escape(reason)}", quotes.rejected[0])


def test_many_bad_rows_show_the_first_ten_and_the_count(csv: Path) -> None:
    rows = "".join(f"1,{x},.2,100\n" for x in [-1, 90, *["x"] * 5, *[-2] * 20, 110, *["nan"] * 5])
    with pytest.raises(
        ValueError, match=r"^quotes.csv: 31 of 33 rows are bad \(keep_usable=True drops them\):\n  line 2: strike must"
    ) as caught:
        read(csv, HEAD + rows)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines[1:-1]] == [f"  line {n}" for n in [2, *range(4, 13)]]
    assert lines[-1] == f"  … and {31 - _SHOWN} more"
    with pytest.warns(UserWarning, match="31 of 33 rows"):
        quotes = read(csv, HEAD + rows, keep_usable=True)
    assert (len(quotes), len(quotes.rejected), quotes.rejected[1]) == (2, 31, "quotes.csv line 4: strike must be a number; got 'x'")


def test_a_file_of_bad_rows_alone_is_refused_even_when_usable_rows_are_kept(csv: Path) -> None:
    with pytest.raises(ValueError, match=r"^quotes.csv: 2 of 2 rows are bad \(none is usable\):\n  line 2: .*\n  line 3: .*$"):
        read(csv, HEAD + "1,-1,.2,100\n1,x,.2,100\n", keep_usable=True)
    with pytest.raises(ValueError, match=r"^quotes.csv line 2: strike must be positive"):
        read(csv, HEAD + "1,-1,.2,100\n", keep_usable=True)


def test_thousands_of_bad_rows_keep_only_what_is_shown(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectralmc.market._BLOCK", 16)
    with pytest.raises(
        ValueError, match=r"5000 of 5000 rows are bad \(none is usable\):\n  line 2: there must be 4 fields; got 2\n  line 3"
    ):
        read(csv, HEAD + "1,2\n1,2,x,4\n" * 2500)


# --- bad files ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; its first line must name the columns, such as maturity,strike,implied_vol"),
        ("\n\n", "is empty; its first line must name the columns"),
        ("\ufeff", "is empty; its first line must name the columns"),
        (HEAD, "has a header but no quotes"),
        (HEAD + "\n\n", "has a header but no quotes"),
        (GOOD, " line 1: the first line must name the columns, such as maturity,strike,implied_vol; got numbers"),
        ("maturity,strik,implied_vol,spot\n" + GOOD, " line 1: unknown column 'strik' (did you mean 'strike'?); known: maturity, "),
        ("maturity,strike,implied_vol,spot,remark\n", " line 1: unknown column 'remark'; known: maturity, maturity_days, strike"),
        ("maturity,strike,implied_vol,\n", " line 1: unknown column ''; known: "),
        ("strike,implied_vol,spot\n", " line 1: there must be one column maturity or maturity_days; got strike, implied_vol, spot"),
        (
            "maturity,maturity_days,strike,price\n",
            " line 1: there must be one column maturity or maturity_days; got maturity and maturity_days",
        ),
        ("maturity,implied_vol\n", " line 1: there must be one column strike; got maturity, implied_vol"),
        ("maturity,strike\n", " line 1: there must be one column implied_vol or price or bid; got maturity, strike"),
        ("maturity,strike,implied_vol,price\n", " line 1: there must be one column implied_vol or price or bid; got implied_vol and price"),
        ("maturity,strike,bid\n", " line 1: there must be one column implied_vol or price or ask; got maturity, strike, bid"),
        ("maturity,strike,strike,price\n", " line 1: there must be one column strike; got strike and strike"),
        ("maturity,strike,price,rate,zero_rate\n", " line 1: columns must differ; got maturity, strike, price, zero_rate, zero_rate"),
        ("maturity,strike,implied_vol\n1,90,.2\n", " needs a spot: a column, a JSON beside it (quotes.json), or market="),
        (HEAD + '1,"90,.2,100\n1,100,.2,100\n', " after line 1: unexpected end of data; is a quotation mark left open?"),
        (HEAD + GOOD + '1,"' + "9" * 200_000, " after line 4: field larger than field limit (131072); is a quotation mark left open?"),
        ((HEAD + GOOD).encode("utf-16"), " is not UTF-8 text (byte 0xff after line 0): save it as UTF-8"),
        (HEAD.encode() + b"1,9\xe9,.2,100\n", " is not UTF-8 text (byte 0xe9 after line 0): save it as UTF-8"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(csv: Path, text: str | bytes, message: str) -> None:
    pattern = f"^quotes.csv{re.escape(message) if message[0] == ' ' else ' ' + re.escape(message)}[^\n]*$"
    for keep_usable in (False, True):
        with pytest.raises(ValueError, match=pattern):
            read(csv, text, keep_usable=keep_usable)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.csv does not exist; give the path of a CSV file$"):
        read_quotes(tmp_path / "none.csv")
    with pytest.raises(IsADirectoryError, match=r"is a directory; give the path of a CSV file$"):
        read_quotes(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none.json does not exist; give the path of a JSON, or a Market$"):
        read_quotes(DAX, market=tmp_path / "none.json")


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n", 7])
def test_a_delimiter_is_one_character(delimiter: object) -> None:
    with pytest.raises(ValueError, match=r"^delimiter must be a single character; got "):
        read_quotes(DAX, delimiter=delimiter)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[1]", "a market must be an object with a key spot"),
        ("{}", "a market must be an object with a key spot"),
        ({"spot": -1}, "spot must be positive (currency); got -1"),
        ({"spot": math.nan}, "spot must be positive (currency); got nan"),
        ({"spot": "100"}, "spot must be a number; got '100'"),
        ({"spot": 100, "dividend_yeild": 0.1}, "unknown key 'dividend_yeild' (did you mean 'dividend_yield'?)"),
        ({"spot": 100, "day_count": "Actual/360"}, "day_count must be Actual/365; got 'Actual/360'"),
        ({"spot": 100, "zero_curve": [0.1]}, "zero_curve must have rates and either days or years, and stand in place of zero_rate"),
        ({"spot": 100, "zero_rate": 0.1, "zero_curve": {"days": [1], "rates": [0]}}, "zero_curve must have rates and either days or years"),
        (
            {"spot": 100, "zero_curve": {"days": [1, 2], "rates": [0]}},
            "times and rates must be equally long lists; got shapes (2,) and (1,)",
        ),
        ({"spot": 100, "zero_curve": {"years": [1, "x"], "rates": [0, 0]}}, "zero_curve years must be a number or an array of numbers"),
        ({"spot": 100, "zero_curve": {"years": 1, "rates": [0]}}, "zero_curve years must be a list; got 1"),
        ({"spot": 100, "zero_curve": {"years": [1], "rates": [math.nan]}}, "zero_curve rates must be finite (1/year); got nan"),
        ({"spot": 100, "lives": [1]}, "lives must map quoted days to days lived, such as {'13': 14}"),
        ({"spot": 100, "lives": {"x": 1}}, "lives must map quoted days to days lived"),
        ({"spot": 100, "lives": {"1": "x"}}, "lives must be a number or an array of numbers"),
        ({"spot": 100, "helper_days": [0]}, "helper_days must be positive (days); got 0.0"),
        ({"spot": 100, "helper_days": 7}, "helper_days must be a list; got 7"),
    ],
)
def test_a_bad_market_is_refused(csv: Path, text: object, message: str) -> None:
    csv.with_suffix(".json").write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    with pytest.raises(ValueError, match=f"^quotes.json: {re.escape(message)}"):
        read(csv, "maturity_days,strike,implied_vol\n30,100,.2\n")


@pytest.mark.parametrize(
    ("column", "row", "reason"),
    [
        ("spot", "101", "spot must agree with quotes.json (100); got 101"),
        ("rate", "0.031", "zero_rate must agree with quotes.json (0.03); got 0.031"),
        ("dividend_yield", "0.02", "dividend_yield must agree with quotes.json (0.01); got 0.02"),
    ],
)
def test_columns_must_agree_with_the_json_beside_them(csv: Path, column: str, row: str, reason: str) -> None:
    csv.with_suffix(".json").write_text(json.dumps(JSON), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"quotes.csv line 2: {reason}")):
        read(csv, f"maturity,strike,implied_vol,{column}\n1,100,.2,{row}\n")


# --- lives of options ---

DAYS = "maturity_days,strike,implied_vol,spot\n13,100,.2,100\n41,100,.2,100\n"


@pytest.mark.parametrize(
    ("lives", "message"),
    [
        ({13: 14}, "^quotes.csv line 3: maturity_days must be among the quoted days of the lives; got 41$"),
        ({13: 14, 41: 14}, r"^lives must increase with the quoted days; got \[14.0, 14.0\]$"),
        ({13: 14, 41: -1}, r"^lives must be positive \(days\); got -1.0$"),
        ([14], r"^quotes.csv has 2 maturities, but helper_days lists 1; pass lives={quoted days: days lived}$"),
    ],
)
def test_bad_lives_are_refused(csv: Path, lives: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(csv, DAYS, lives=lives)


def test_lives_stretch_the_options_and_leave_the_quoted_rates(csv: Path) -> None:
    text = DAYS.replace("spot", "spot,rate").replace(",100\n", ",100,.03\n").replace("\n41,100,.2,100,.03", "\n41,100,.2,100,.04")
    quotes = read(csv, text, lives={13: 14, 41: 42, 75: 77})
    assert [round(t * 365, 9) for t in quotes.maturity.tolist()] == [14, 42]
    assert quotes.market.rate == smc.ZeroCurve((13 / 365, 41 / 365), (0.03, 0.04))
    csv.with_suffix(".json").write_text(json.dumps({"spot": 100, "lives": {"13": 14, "41": 42}}), encoding="utf-8")
    assert torch.equal(read(csv, DAYS).maturity, quotes.maturity)


def test_lives_are_of_quoted_days(csv: Path) -> None:
    with pytest.raises(ValueError, match="lives are of quoted days; name the column maturity_days, or leave the lives out"):
        read(csv, HEAD + GOOD, lives={1: 2})


def test_more_rows_than_a_block_holds_are_read(csv: Path) -> None:
    rows = 70_000  # more than two blocks; the benchmark reads the million
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quotes = read(csv, HEAD + "".join(f"1,{50 + i / 1000},0.25,100\n" for i in range(rows)))
    assert len(quotes) == rows
    assert quotes.line[-1] == rows + 1
    assert check_arbitrage(quotes) == []
