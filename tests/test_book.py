"""Books of options: what a row means, and what is said of a bad one."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import fixtures
import pytest

import spectralmc as smc
from spectralmc.book import price_book
from spectralmc.surrogate import Surrogate


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return tmp_path / "book.csv"


def priced(model: Surrogate, book: Path, text: str) -> list[dict[str, str]]:
    book.write_text(text)
    found = price_book(model, book)
    assert found.problems == []
    found.write(book.with_name("prices.csv"))
    with book.with_name("prices.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_price_in_currency_is_discount_times_forward_times_the_unit_price(book: Path) -> None:
    model = fixtures.asian()
    header = "id,volatility,maturity,kind,strike,spot,rate,dividend_yield"
    rows = priced(model, book, f"{header}\n7,0.2,1,put,95,100,0.05,0.02\n8,0.3,0.5,C,105,100,0.04,0.01\n")
    for row, kind in zip(rows, ("put", "call"), strict=True):
        volatility, maturity, strike, rate, carry = (float(row[n]) for n in ("volatility", "maturity", "strike", "rate", "rate"))
        carry -= float(row["dividend_yield"])
        market = smc.Market(100.0, rate, float(row["dividend_yield"]))
        value = model.greeks(market, {"volatility": volatility}, maturity, strike, kind).value
        assert float(row["price"]) == pytest.approx(float(value), abs=1e-4)  # one in single precision, of 100
        bar = float(row["error"]) / (100 * math.exp(-rate * maturity))
        assert 0 < bar < 2 * model.relative_error
    assert [row["id"] for row in rows] == ["7", "8"]


def test_a_price_at_log_moneyness_is_on_a_unit_forward(book: Path) -> None:
    model = fixtures.terminal()
    (row,) = priced(model, book, "maturity,volatility,log_moneyness\n1,0.2,0.1\n")
    price = model.price({"volatility": 0.2}, 1.0, 0.1, "call", 0.0)
    assert float(row["price"]) == pytest.approx(float(price.value), abs=1e-9)
    assert float(row["error"]) == pytest.approx(float(price.error), rel=1e-9)


def test_a_parameter_that_was_fixed_may_be_left_out(book: Path) -> None:
    space = smc.ParameterSpace(smc.BlackScholes, {"volatility": 0.2}, maturity=(0.1, 2.0))
    model = smc.train(space, smc.Terminal(), steps=32, seed=1, recipe=fixtures.SMALL, progress=False).surrogate
    (row,) = priced(model, book, "maturity,strike,spot\n1,100,100\n")
    assert float(row["price"]) == pytest.approx(100 * float(smc.black_price(0.0, 0.2, 1.0, "call")), abs=0.2)


BAD = {
    "x,1,100,100": "volatility must be a number; got 'x'",
    "1_0,1,100,100": "volatility must be a number; got '1_0'",
    "nan,1,100,100": "volatility must be finite; got nan",
    "0.2,-1,100,100": "maturity must be positive; got -1",
    "0.2,1,0,100": "strike must be positive; got 0",
    "0.2,1,100": "there must be 4 fields; got 3",
    "0.2,9,100,100": "maturity must lie in the trained box [0.1, 2]; got 9: train on a wider box",
    ",1,100,100": "volatility must be a number; got ''",
}


def test_bad_rows_are_named_by_line_and_the_others_priced(book: Path) -> None:
    good = "0.2,1,100,100"
    lines = ["volatility,maturity,strike,spot", good, *(line for bad in BAD for line in (bad, good))]
    book.write_text("\n".join(lines))
    found = price_book(fixtures.terminal(), book)
    assert found.problems == [f"book.csv line {3 + 2 * n}: {said}" for n, said in enumerate(BAD.values())]
    assert len(found.rows) == 1 + len(BAD)
    assert len({(*row[:4], round(float(row[4]), 5)) for row in map(tuple, found.rows)}) == 1  # prices in single precision


def test_a_kind_is_call_or_put(book: Path) -> None:
    book.write_text("volatility,maturity,strike,spot,kind\n0.2,1,100,100,straddle\n")
    assert price_book(fixtures.terminal(), book).problems == ["book.csv line 2: kind must be call or put; got 'straddle'"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("volatility,maturity,strike", r"book.csv line 1: column spot is missing; the model needs volatility, maturity, strike, spot"),
        ("maturity,strike,spot", r"column volatility is missing"),
        ("volatilty,maturity,strike,spot", r"unknown column 'volatilty' \(did you mean 'volatility'\?\)"),
        ("volatility,maturity,strike,spot,spot", r"columns must differ; got volatility, maturity, strike, spot, spot"),
        ("volatility,maturity,log_moneyness,spot", r"a book has log_moneyness and carry, or strike and spot .*; got spot too"),
    ],
)
def test_columns_are_checked(book: Path, header: str, message: str) -> None:
    book.write_text(f"{header}\n1,1,1,1,1\n")
    with pytest.raises(ValueError, match=message):
        price_book(fixtures.terminal(), book)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "book.csv must have a header and at least one row; got 0 lines"),
        (b"volatility,maturity\n", "book.csv must have a header and at least one row; got 1 lines"),
        (b"volatility\n\xff\xfe\n", "book.csv must be UTF-8 text: save it as UTF-8"),
        (b'volatility\n"0.2\n', "book.csv is not CSV: .*; is a quotation mark left open?"),
    ],
)
def test_a_file_that_is_no_book_is_refused(book: Path, data: bytes, message: str) -> None:
    book.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        price_book(fixtures.terminal(), book)


def test_prices_are_written_whole_or_not_at_all(book: Path) -> None:
    book.write_text("volatility,maturity,strike,spot\n0.2,1,100,100\n")
    found = price_book(fixtures.terminal(), book)
    with pytest.raises(OSError, match="No such file or directory"):
        found.write(book.parent / "absent" / "prices.csv")
    (book.parent / "prices.csv").mkdir()
    with pytest.raises(OSError, match="directory"):
        found.write(book.parent / "prices.csv")
    assert sorted(file.name for file in book.parent.iterdir()) == ["book.csv", "prices.csv"]
