"""Quotes in: a CSV of option quotes with its market becomes prices and volatilities, checked row by row and for static arbitrage.

A quotes file is UTF-8 CSV with a header; `COLUMNS` says what each column means.  One maturity column and one way to quote (a
volatility, a price, or bid and ask) are needed; no other columns are taken.  The market comes from ``market=``, else from a JSON of
the same name beside the file, else from the columns ``spot``, ``zero_rate`` and ``dividend_yield``; such columns beside a JSON must
agree with it, and a missing rate or dividend yield is 0.  The keys of the JSON (others are ignored):

    spot              S₀ (currency)
    dividend_yield    q, continuously compounded (1/year)
    zero_rate         r (1/year), or zero_curve: {"days" or "years": [...], "rates": [...]}, linear between the nodes
    day_count         if given, Actual/365
    lives             {"13": 14, ...}: quoted days → days the option lives, where the two differ (settlement, whole weeks)
    helper_days       the same as a list, one for each distinct quoted maturity, in ascending order

Quotes are at mid; the maturity of a quote is the life of its option.
"""

from __future__ import annotations

import csv
import difflib
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spectralmc.black import black_price, implied_volatility
from spectralmc.parameters import Market, ZeroCurve, refuse_unknown
from spectralmc.validation import real

DAYS_PER_YEAR = 365.0
COLUMNS = {
    "maturity": "time to expiry (years); this or maturity_days",
    "maturity_days": "time to expiry (days, Actual/365)",
    "strike": "K (currency)",
    "implied_vol": "Black implied volatility (a fraction per square root of a year); this or price or bid and ask",
    "price": "premium paid today (currency)",
    "bid": "highest premium bid (currency); the price is the mid",
    "ask": "lowest premium asked (currency)",
    "kind": "call or put (also c, p); call where there is no such column",
    "spot": "S0 (currency), the same on every row",
    "zero_rate": "r to the maturity, continuously compounded (1/year), the same on every row of a maturity; also called rate",
    "dividend_yield": "q, continuously compounded (1/year), the same on every row",
}
_RULES = {  # column: rule, unit, largest magnitude believed, what a larger one suggests
    "maturity": ("positive", "years", 50.0, "more than 50 years suggests days: name the column maturity_days"),
    "maturity_days": ("positive", "days", 50 * DAYS_PER_YEAR, "more than 50 years suggests dates or minutes"),
    "strike": ("positive", "currency", math.inf, ""),
    "implied_vol": ("positive", "per square root of a year", 5.0, "more than 5 suggests percent: divide by 100"),
    "price": ("positive", "currency", math.inf, ""),
    "bid": ("non-negative", "currency", math.inf, ""),
    "ask": ("positive", "currency", math.inf, ""),
    "spot": ("positive", "currency", math.inf, ""),
    "zero_rate": ("finite", "1/year", 1.0, "more than 1 suggests percent: divide by 100"),
    "dividend_yield": ("finite", "1/year", 1.0, "more than 1 suggests percent: divide by 100"),
}
_HOLDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "finite": np.isfinite,
    "positive": lambda x: np.isfinite(x) & (x > 0),
    "non-negative": lambda x: np.isfinite(x) & (x >= 0),
}
_JSON_KEYS = ("spot", "dividend_yield", "zero_rate", "zero_curve", "day_count", "lives", "helper_days")
_KINDS = {"call": 1.0, "c": 1.0, "put": 0.0, "p": 0.0}
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_BLOCK = 1 << 15  # rows parsed or priced at a time
_SHOWN = 10
_BP = 1e-4

File = str | os.PathLike[str]
Lives = Mapping[float, float]
Rule = Literal["bound", "parity", "vertical", "butterfly", "calendar"]


class Surface(NamedTuple):
    """Quotes on a grid of M maturities × L strikes.

    Attributes: ``maturity`` (M,), years; ``strike`` (L,), currency; ``log_moneyness``, ``implied_volatility`` and ``price`` (in
    currency, of the quote's own kind), each (M, L).
    """

    maturity: Tensor
    strike: Tensor
    log_moneyness: Tensor
    implied_volatility: Tensor
    price: Tensor


@dataclass(frozen=True, eq=False)
class Quotes:
    """European option quotes and their market, in the order of the file.

    Attributes
    ----------
    maturity, strike, implied_volatility, price
        years; currency; per √year (0 for a price equal to its intrinsic value); premium in currency: float64, (J,).
    kind
        "call" or "put", an array of strings, (J,).
    market
        spot, rates and dividends.
    line
        line of the file each quote ends on, int64, (J,).
    rejected
        what was wrong with the rows left out.
    """

    maturity: Tensor
    strike: Tensor
    implied_volatility: Tensor
    price: Tensor
    kind: np.ndarray
    market: Market
    line: Tensor
    rejected: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.maturity)

    @property
    def forward(self) -> Tensor:
        """F(T) of each quote (currency), (J,)."""
        return self.market.forward(self.maturity)

    @property
    def discount(self) -> Tensor:
        """D(T) of each quote, (J,)."""
        return self.market.discount(self.maturity)

    @property
    def log_moneyness(self) -> Tensor:
        """k = ln(K/F) of each quote, (J,)."""
        return torch.log(self.strike / self.forward)

    @property
    def maturities(self) -> Tensor:
        """The distinct maturities (years), ascending, (M,)."""
        return torch.unique(self.maturity)

    def at_the_money_volatility(self) -> Tensor:
        """Return the volatility at k = 0 of each of `maturities`, (M,): total variance linear in k between the quotes beside it.

        Where a put and a call share a strike, the one out of the money counts.

        Raises
        ------
        ValueError
            a maturity whose strikes all lie on one side of the forward.
        """
        rows = torch.as_tensor(_one_per_strike(self))
        maturity, k, variance = (x[rows] for x in (self.maturity, self.log_moneyness, self.implied_volatility**2))
        across = ((maturity[1:] == maturity[:-1]) & (k[:-1] <= 0) & (k[1:] > 0)).nonzero()[:, 0]
        missing = ~torch.isin(self.maturities, maturity[across])
        if bool(missing.any()):
            raise ValueError(f"strikes must lie on both sides of the forward; they do not at maturity {self.maturities[missing][0]:.6g} years")
        weight = k[across + 1] / (k[across + 1] - k[across])
        return torch.sqrt(weight * variance[across] + (1 - weight) * variance[across + 1])

    def surface(self) -> Surface:
        """Return the quotes on a grid, if every maturity is quoted at the same strikes; of a put and a call the one out of the money.

        Raises
        ------
        ValueError
            a strike is quoted at some maturities only.
        """
        rows, strike = torch.as_tensor(_one_per_strike(self)), torch.unique(self.strike)
        shape = len(self.maturities), len(strike)
        if len(rows) != math.prod(shape):
            kinds = f"{shape[0]} maturities and {shape[1]} distinct strikes"
            raise ValueError(f"a surface needs every strike at every maturity; got {kinds}, but {len(rows)} quotes")
        grids = (x[rows].reshape(shape) for x in (self.log_moneyness, self.implied_volatility, self.price))
        return Surface(self.maturities, strike, *grids)


def _one_per_strike(quotes: Quotes) -> np.ndarray:
    """Rows by maturity, then strike; of a put and a call at one strike the one out of the money."""
    maturity, strike, inside = quotes.maturity.numpy(), quotes.strike.numpy(), _in_the_money(quotes)
    order = np.lexsort((inside, strike, maturity))
    again = (np.diff(maturity[order]) == 0) & (np.diff(strike[order]) == 0)
    return order[np.concatenate([[True], ~again])]


def _in_the_money(quotes: Quotes) -> np.ndarray:
    return (quotes.kind == "call") == (quotes.log_moneyness.numpy() < 0)


def read_quotes(
    path: File,
    *,
    market: Market | File | None = None,
    lives: Lives | None = None,
    delimiter: str = ",",
    keep_usable: bool = False,
) -> Quotes:
    """Read option quotes from a CSV and their market from a JSON or from columns (see the module and `COLUMNS`).

    Whichever of price and volatility is missing follows from the other by Black's formula on the forward of the market.

    Parameters
    ----------
    market
        a `Market` or the path of a JSON, which then overrides the columns; if not given, a JSON beside the file or the columns.
    lives
        quoted days → days lived, in place of the JSON's.
    delimiter
        the character between fields.
    keep_usable
        drop bad rows with one warning and list them in ``rejected``, instead of refusing the file.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        no such file.
    ValueError
        the file as a whole cannot be read (encoding, delimiter, columns, no quotes, no market), or rows are bad: the first ten by line,
        and how many.  Bad is a row of the wrong length, text or NaN for a number, a rule of `COLUMNS` broken, units that cannot be
        meant (maturities above 50 years, volatilities above 5), a quote given twice, bid above ask, a price outside its bounds.
    """
    source = Path(path)
    beside = source.with_suffix(".json")
    where = market if market is not None else beside if beside.is_file() and beside != source else None
    known, listed = (where, None) if where is None or isinstance(where, Market) else _read_json(Path(where))
    rows = _Rows(source, keep_usable)
    rows.read(delimiter)
    rows.check()
    days = rows.columns.get("maturity_days")
    quoted = rows.columns["maturity"] if days is None else days / DAYS_PER_YEAR
    rows.columns["quoted"] = rows.columns["maturity"] = quoted
    rows.unlike_the_first("spot", by_maturity=False)
    rows.unlike_the_first("dividend_yield", by_maturity=False)
    rows.unlike_the_first("zero_rate", by_maturity=True)
    rows.settle()
    rows.live(lives if lives is not None else listed)
    if known is None:
        known = _market_of(rows)
    elif market is None:
        rows.agree(known, beside.name)
    return rows.quotes(known)


class _Rows:
    """The rows of one file that are good so far, as columns; the bad ones leave with their reason."""

    def __init__(self, source: Path, keep_usable: bool) -> None:
        self.source, self.name, self.keep = source, source.name, keep_usable
        self.line = np.empty(0, np.int64)
        self.columns: dict[str, np.ndarray] = {}
        self.problems: list[tuple[int, str]] = []
        self.bad = self.total = 0

    def read(self, delimiter: str) -> None:
        """Parse the file block by block: memory is that of the numbers."""
        if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n':
            raise ValueError(f"delimiter must be a single character; got {delimiter!r}")
        if self.source.is_dir():
            raise IsADirectoryError(f"{self.source} is a directory; give the path of a CSV file")
        if not self.source.exists():
            raise FileNotFoundError(f"{self.source} does not exist; give the path of a CSV file")
        lines, parts = [], []
        with self.source.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            numbered = ((reader.line_num, row) for row in reader if row)
            try:
                names = self._header(next(numbered, (0, []))[1], delimiter)
                while block := list(islice(numbered, _BLOCK)):
                    line, numbers = self._parse(names, block)
                    lines.append(line)
                    parts.append(numbers)
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                raise ValueError(f"{self.name} is not UTF-8 text (byte 0x{byte:02x} after line {reader.line_num}): save it as UTF-8") from None
            except csv.Error as error:
                raise ValueError(f"{self.name} line {reader.line_num}: {error}; is a quotation mark left open?") from None
        if not self.total:
            raise ValueError(f"{self.name} has a header but no quotes")
        self.line = np.concatenate(lines)
        self.columns = dict(zip(names, np.concatenate(parts, axis=1), strict=True))

    def _header(self, fields: list[str], delimiter: str) -> list[str]:
        """Names of the columns, or a refusal that says which are wrong."""
        if not any(field.strip() for field in fields):
            raise ValueError(f"{self.name} is empty; its first line must name the columns, such as maturity,strike,implied_vol")
        names = [field.strip().lower() for field in fields]
        names = ["zero_rate" if name == "rate" else name for name in names]
        for other, word in _DELIMITERS.items():
            if len(names) == 1 and other != delimiter and other in names[0]:
                raise ValueError(f"{self.name} line 1: fields are separated by {word}; pass delimiter={other!r}")
        if all(_is_number(name) for name in names):
            raise ValueError(f"{self.name} line 1 must name the columns, such as maturity,strike,implied_vol; got numbers")
        try:
            refuse_unknown(names, COLUMNS, "column")
        except ValueError as error:
            raise ValueError(f"{self.name} line 1: {error}") from None
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"{self.name} line 1: column {twice[0]!r} is given twice")
        for choices in (("maturity", "maturity_days"), ("strike",), ("implied_vol", "price", "bid"), ("implied_vol", "price", "ask")):
            given = [name for name in choices if name in names]
            if len(given) != 1:
                got = " and ".join(given) or "none"
                rule = f"one of {', '.join(choices)}" if len(choices) > 1 else f"a column {choices[0]}"
                raise ValueError(f"{self.name} line 1: there must be {rule}; got {got} among {', '.join(names)}")
        return names

    def _parse(self, names: list[str], block: list[tuple[int, list[str]]]) -> tuple[np.ndarray, np.ndarray]:
        """Lines (R,) and numbers (columns, R) of the rows of a block that are all numbers."""
        self.total += len(block)
        whole = [entry for entry in block if len(entry[1]) == len(names)]
        if len(whole) < len(block):
            ragged = [entry for entry in block if len(entry[1]) != len(names)]
            self._note(len(ragged), lambda i: (ragged[i][0], f"there must be {len(names)} fields; got {len(ragged[i][1])}"))
        numbers = np.empty((len(names), len(whole)))
        reasons: dict[int, str] = {}
        for j, (name, texts) in enumerate(zip(names, zip(*(row for _, row in whole), strict=True), strict=False)):
            convert: Callable[[str], float] = _kind if name == "kind" else float
            try:
                if "_" in "".join(texts):
                    raise ValueError
                numbers[j] = list(map(convert, texts))
            except ValueError:
                for i, text in enumerate(texts):
                    reason = _why(name, text)
                    if reason:
                        reasons.setdefault(i, reason)
                    else:
                        numbers[j, i] = convert(text)
        line = np.array([number for number, _ in whole], np.int64)
        if reasons:
            bad = sorted(reasons)
            self._note(len(bad), lambda i: (int(line[bad[i]]), reasons[bad[i]]))
            return np.delete(line, bad), np.delete(numbers, bad, axis=1)
        return line, numbers

    def _note(self, count: int, problem: Callable[[int], tuple[int, str]]) -> None:
        """Write down problems: all of them if they are to be listed, else as many as will be shown."""
        self.bad += count
        self.problems += [problem(i) for i in range(count if self.keep else min(count, _SHOWN))]

    def refuse(self, bad: np.ndarray, reason: Callable[[int], str]) -> None:
        """Take out the rows where ``bad`` (R,), each with its reason."""
        if bad.any():
            rows, good = np.flatnonzero(bad), ~bad
            self._note(len(rows), lambda i: (int(self.line[rows[i]]), reason(int(rows[i]))))
            self.line, self.columns = self.line[good], {name: x[good] for name, x in self.columns.items()}

    def check(self) -> None:
        """Refuse rows that break a rule on their own, or repeat another."""
        for name, (rule, unit, most, remedy) in _RULES.items():
            if name in self.columns:
                x = self.columns[name]
                self.refuse(~_HOLDS[rule](x), lambda i, x=x, text=f"{name} must be {rule} ({unit})": f"{text}; got {x[i]:.12g}")
                x = self.columns[name]
                text = f"{name} must be at most {most:g} ({unit})"
                self.refuse(np.abs(x) > most, lambda i, x=x, text=text, remedy=remedy: f"{text}; got {x[i]:.12g}: {remedy}")
        if "bid" in self.columns:
            bid, ask = self.columns["bid"], self.columns["ask"]
            self.refuse(bid > ask, lambda i: f"bid must not exceed ask (currency); got {bid[i]:.12g} above {ask[i]:.12g}")
            self.columns["price"] = (self.columns["bid"] + self.columns["ask"]) / 2
        self.columns.setdefault("kind", np.ones(len(self.line)))
        keys = [self.columns[name] for name in ("kind", "strike", "maturity" if "maturity" in self.columns else "maturity_days")]
        order = np.lexsort(keys)
        again = np.concatenate([[False], np.logical_and.reduce([np.diff(key[order]) == 0 for key in keys])])[: len(order)]
        bad, first = np.zeros(len(order), bool), np.zeros(len(order), np.int64)
        bad[order], first[order] = again, self.line[np.roll(order, 1)]
        strike = self.columns["strike"]
        self.refuse(bad, lambda i: f"strike {strike[i]:.12g} must be quoted once for a maturity and kind; line {first[i]} has it already")

    def unlike_the_first(self, name: str, by_maturity: bool) -> None:
        """Refuse rows whose market column differs from its first value (of their maturity)."""
        if name in self.columns and len(self.line):
            x = self.columns[name]
            groups = self.columns["quoted"] if by_maturity else np.zeros(len(x))
            _, first, group = np.unique(groups, return_index=True, return_inverse=True)
            usual, line = x[first][group], self.line[first][group]
            rule = f"{name} must be the same on every row{' of a maturity' if by_maturity else ''}"
            self.refuse(x != usual, lambda i: f"{rule} ({usual[i]:.12g} on line {line[i]}); got {x[i]:.12g}")

    def live(self, lives: Lives | list[float] | None) -> None:
        """Replace quoted maturities by the lives of the options."""
        if lives is None:
            return
        if "maturity_days" not in self.columns:
            raise ValueError(f"{self.name}: lives are of quoted days; name the column maturity_days, or leave the lives out")
        days = self.columns["maturity_days"]
        distinct = np.unique(days)
        if isinstance(lives, list):
            if len(lives) != len(distinct):
                raise ValueError(f"{self.name} has {len(distinct)} maturities, but helper_days lists {len(lives)}; pass lives={{quoted: lived}}")
            lives = dict(zip(distinct.tolist(), lives, strict=True))
        lived = {float(day): float(real("lives", life, "positive", "days")) for day, life in lives.items()}
        self.refuse(~np.isin(days, list(lived)), lambda i: f"maturity_days {days[i]:.12g} must be among the lives, which map other days")
        distinct, group = np.unique(self.columns["maturity_days"], return_inverse=True)
        self.columns["maturity"] = np.array([lived[day] for day in distinct.tolist()])[group] / DAYS_PER_YEAR

    def agree(self, market: Market, name: str) -> None:
        """Refuse rows whose market columns contradict the JSON beside the file: by 1e-4, of the spot by 1e-6 of it."""
        known: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
            "spot": (lambda t: torch.full_like(t, market.spot), 1e-6 * market.spot),
            "zero_rate": (market.zero_rate, _BP),
            "dividend_yield": (lambda t: torch.full_like(t, market.dividend_yield), _BP),
        }
        for column, (value, tolerance) in known.items():
            if column in self.columns and len(self.line):
                x, y = self.columns[column], value(torch.as_tensor(self.columns["quoted"])).numpy()
                text = f"{column} must agree with {name}"
                self.refuse(np.abs(x - y) > tolerance, lambda i, x=x, y=y, text=text: f"{text} ({y[i]:.12g}); got {x[i]:.12g}")

    def quotes(self, market: Market) -> Quotes:
        """Fill in price or volatility and refuse prices outside their bounds."""
        given, k, scale, call = self._on(market)
        if "price" in self.columns:
            low = torch.where(call, -torch.expm1(k), torch.expm1(k)).clamp(min=0) * scale
            high = torch.where(call, 1.0, torch.exp(k)) * scale
            price, least, most = given.numpy(), low.numpy(), high.numpy()
            slack = 8 * np.finfo(np.float64).eps * scale.numpy()  # an intrinsic value written and read again may round below itself
            text = "price must be at least the intrinsic value and below the upper bound"
            bad = (price < least - slack) | (price >= most)
            self.refuse(bad, lambda i: f"{text}, {least[i]:.6f} and {most[i]:.6f} (currency, discounted); got {price[i]:.12g}")
            given, k, scale, call = self._on(market)
            low = torch.where(call, -torch.expm1(k), torch.expm1(k)).clamp(min=0)
        self.settle(last=True)
        maturity, strike = (torch.as_tensor(self.columns[name]) for name in ("maturity", "strike"))
        if "price" in self.columns:
            volatility, prices = _kind_by_kind(implied_volatility, torch.maximum(given / scale, low), k, maturity, call), given
        else:
            volatility, prices = given, scale * _kind_by_kind(black_price, k, given, maturity, call)
        kind = np.where(call.numpy(), "call", "put")
        rejected = tuple(f"{self.name} line {line}: {reason}" for line, reason in sorted(self.problems))
        return Quotes(maturity, strike, volatility, prices, kind, market, torch.as_tensor(self.line), rejected)

    def _on(self, market: Market) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is quoted, ln(K/F), F·D and whether it is a call, each (R,)."""
        columns = {name: torch.as_tensor(x) for name, x in self.columns.items()}
        t, given = columns["maturity"], columns["price" if "price" in columns else "implied_vol"]
        forward = market.forward(t)
        return given, torch.log(columns["strike"] / forward), forward * market.discount(t), columns["kind"] == 1

    def settle(self, last: bool = False) -> None:
        """Refuse the file for its bad rows, or warn of them."""
        if self.bad and (not self.keep or not len(self.line)):
            shown = sorted(self.problems)[:_SHOWN]
            if self.bad == 1 and not self.keep:
                raise ValueError(f"{self.name} line {shown[0][0]}: {shown[0][1]}")
            more = f"\n  … and {self.bad - len(shown)} more" if self.bad > len(shown) else ""
            listed = "".join(f"\n  line {line}: {reason}" for line, reason in shown)
            usable = "none is usable" if not len(self.line) else "keep_usable=True drops them"
            raise ValueError(f"{self.name}: {self.bad} of {self.total} rows are bad ({usable}):{listed}{more}")
        if self.bad and last:
            warnings.warn(f"{self.name}: {self.bad} of {self.total} rows are bad and dropped; quotes.rejected lists them", stacklevel=4)
