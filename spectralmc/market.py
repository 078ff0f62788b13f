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
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        distinct: Tensor = torch.unique(self.maturity)
        return distinct

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
        across = ((maturity[1:] == maturity[:-1]) & (k[:-1] <= 0) & (k[1:] >= 0)).nonzero()[:, 0]
        across = across[np.unique(maturity[across].numpy(), return_index=True)[1]]  # a strike at the forward has a pair on either side
        without = self.maturities[~torch.isin(self.maturities, maturity[across])]
        if len(without):
            raise ValueError(f"strikes must lie on both sides of the forward; those at maturity {without[0]:.6g} years do not")
        weight = k[across + 1] / (k[across + 1] - k[across])
        result: Tensor = torch.sqrt(weight * variance[across] + (1 - weight) * variance[across + 1])
        return result

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
    order: np.ndarray = np.lexsort((inside, strike, maturity))
    again = (np.diff(maturity[order]) == 0) & (np.diff(strike[order]) == 0)
    return np.delete(order, np.flatnonzero(again) + 1)


def _in_the_money(quotes: Quotes) -> np.ndarray:
    inside: np.ndarray = np.equal(quotes.kind == "call", quotes.log_moneyness.numpy() < 0)
    return inside


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
        and how many.  Bad is a row of the wrong length, text or NaN for a number, units that cannot be meant (maturities above 50
        years, volatilities above 5), a quote given twice, bid above ask, a price outside its bounds.

    >>> _ = Path("quotes.csv").write_text("maturity,strike,price,spot\\n1,100,7.9656,100\\n1,x,7,100\\n")
    >>> read_quotes("quotes.csv")
    Traceback (most recent call last):
    ValueError: quotes.csv line 3: strike must be a number; got 'x'
    """
    source = Path(path)
    _must_be_a_file(source, "a CSV file")
    beside = source.with_suffix(".json")
    where = beside if market is None and beside.is_file() and beside != source else market
    known, listed = (where, None) if where is None or isinstance(where, Market) else _read_json(Path(where))
    rows = _Rows(source, keep_usable)
    rows.read(delimiter)
    rows.check()
    rows.live(lives if lives is not None else listed)
    if known is None:
        known = rows.market()
    elif market is None:
        rows.agree(known, beside.name)
    return rows.quotes(known)


class _Rows:
    """The rows of one file that are good so far, as columns (R,); the bad ones leave with their reason."""

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
        blocks: list[tuple[np.ndarray, np.ndarray]] = []
        lines: list[int] = []
        fields: list[str] = []
        last = 1
        with self.source.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            try:
                names = self._header(next(filter(None, reader), []), delimiter)
                for row in reader:
                    if len(row) == len(names):
                        lines.append(last := reader.line_num)
                        fields += row  # flat: a million small lists would keep the garbage collector busy
                        if len(lines) == _BLOCK:
                            blocks.append(self._parse(names, lines, fields))
                            lines, fields = [], []
                    elif row:
                        self._note(1, [(reader.line_num, f"there must be {len(names)} fields; got {len(row)}")])
                blocks.append(self._parse(names, lines, fields))
            except UnicodeDecodeError as error:
                byte = f"byte 0x{error.object[error.start]:02x} after line {reader.line_num}"
                raise ValueError(f"{self.name} is not UTF-8 text ({byte}): save it as UTF-8") from None
            except csv.Error as error:
                raise ValueError(f"{self.name} after line {last}: {error}; is a quotation mark left open?") from None
        self.line = np.concatenate([line for line, _ in blocks])
        self.columns = {name: np.concatenate([numbers[j] for _, numbers in blocks]) for j, name in enumerate(names)}
        self.total = len(self.line) + self.bad
        if not self.total:
            raise ValueError(f"{self.name} has a header but no quotes")

    def _header(self, fields: list[str], delimiter: str) -> list[str]:
        """The names of the columns, or a refusal that says which are wrong."""
        if not any(field.strip() for field in fields):
            raise ValueError(f"{self.name} is empty; its first line must name the columns, such as maturity,strike,implied_vol")
        names = [field.strip().lower() for field in fields]
        names = ["zero_rate" if name == "rate" else name for name in names]
        try:
            for other, word in _DELIMITERS.items():
                if len(names) == 1 and other != delimiter and other in names[0]:
                    raise ValueError(f"fields are separated by {word}; pass delimiter={other!r}")
            if all(_is_number(name) for name in names):
                raise ValueError("the first line must name the columns, such as maturity,strike,implied_vol; got numbers")
            refuse_unknown(names, COLUMNS, "column")
            for choices in (("maturity", "maturity_days"), ("strike",), ("implied_vol", "price", "bid"), ("implied_vol", "price", "ask")):
                given = [name for name in names if name in choices]
                if len(given) != 1:
                    raise ValueError(f"there must be one column {' or '.join(choices)}; got {' and '.join(given) or ', '.join(names)}")
            if len(set(names)) < len(names):
                raise ValueError(f"columns must differ; got {', '.join(names)}")
        except ValueError as error:
            raise ValueError(f"{self.name} line 1: {error}") from None
        return names

    def _parse(self, names: list[str], lines: list[int], fields: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Lines (R,) and numbers (columns, R) of those rows of a block that are numbers throughout."""
        line, numbers = np.array(lines, np.int64), np.zeros((len(names), len(lines)))
        reasons: dict[int, str] = {}
        for j, name in enumerate(names):
            texts = fields[j :: len(names)]
            try:
                numbers[j] = _numbers(name, texts)
            except (ValueError, KeyError):
                for i, text in enumerate(texts):
                    try:
                        numbers[j, i] = _numbers(name, [text])[0]
                    except (ValueError, KeyError):
                        rule = "call or put" if name == "kind" else "a number"
                        reasons.setdefault(i, f"{name} must be {rule}; got {text[:40]!r}" if text.strip() else f"{name} is missing")
        bad = sorted(reasons)
        self._note(len(bad), ((lines[i], reasons[i]) for i in bad))
        return np.delete(line, bad), np.delete(numbers, bad, axis=1)

    def _note(self, count: int, problems: Iterable[tuple[int, str]]) -> None:
        """Write down (line, reason) of bad rows: all of them if they are to be listed, else as many as will be shown."""
        self.bad += count
        self.problems += islice(problems, None if self.keep else _SHOWN)
        if not self.keep and len(self.problems) > 1000:  # the first by line are enough
            self.problems = sorted(self.problems)[:_SHOWN]

    def refuse(self, bad: np.ndarray, reason: str, *values: np.ndarray) -> None:
        """Take out the rows where ``bad`` (R,), each with the reason, in which its ``values`` (R,) are filled in."""
        if bad.any():
            rows = np.flatnonzero(bad)
            self._note(len(rows), ((int(self.line[i]), reason.format(*(x[i] for x in values))) for i in rows))
            self.line, self.columns = self.line[~bad], {name: x[~bad] for name, x in self.columns.items()}

    def check(self) -> None:
        """Refuse rows that break a rule on their own, or contradict or repeat another."""
        for name, (rule, unit, most, remedy) in _RULES.items():
            if name in self.columns:
                x = self.columns[name]
                self.refuse(~_HOLDS[rule](x), f"{name} must be {rule} ({unit}); got {{:.12g}}", x)
                x = self.columns[name]
                self.refuse(np.abs(x) > most, f"{name} must be at most {most:g} ({unit}); got {{:.12g}}: {remedy}", x)
        if "bid" in self.columns:
            bid, ask = self.columns["bid"], self.columns["ask"]
            self.refuse(bid > ask, "bid must not exceed ask (currency); got {:.12g} above {:.12g}", bid, ask)
            self.columns["price"] = (self.columns["bid"] + self.columns["ask"]) / 2
        self.columns.setdefault("kind", np.ones(len(self.line)))
        self.columns["quoted"] = self.columns["maturity"] if "maturity" in self.columns else self.columns["maturity_days"] / DAYS_PER_YEAR
        self.columns["maturity"] = self.columns["quoted"]
        keys = [self.columns[name] for name in ("kind", "strike", "maturity")]
        order = np.lexsort(keys)
        again = order[1:][np.logical_and.reduce([np.diff(key[order]) == 0 for key in keys])]
        bad, before = np.zeros(len(order), bool), np.zeros(len(order), np.int64)
        bad[again], before[order[1:]] = True, self.line[order[:-1]]
        self.refuse(bad, "strike {:.12g} must be quoted once for a maturity and kind; line {} has it already", keys[1], before)
        self._as_the_first("spot", np.zeros(len(self.line)), "on every row")
        self._as_the_first("dividend_yield", np.zeros(len(self.line)), "on every row")
        self._as_the_first("zero_rate", self.columns["quoted"], "on every row of a maturity")
        self.settle()

    def _as_the_first(self, name: str, groups: np.ndarray, where: str) -> None:
        """Refuse rows whose market column differs from the first of its group."""
        if name in self.columns:
            x = self.columns[name]
            _, first, group = np.unique(groups, return_index=True, return_inverse=True)
            usual, line = x[first][group], self.line[first][group]
            self.refuse(x != usual, f"{name} must be the same {where} ({{:.12g}} on line {{}}); got {{:.12g}}", usual, line, x)

    def live(self, lives: Lives | list[float] | None) -> None:
        """Replace quoted maturities by the lives of the options."""
        if lives is None:
            return
        if "maturity_days" not in self.columns:
            raise ValueError(f"{self.name}: lives are of quoted days; name the column maturity_days, or leave the lives out")
        days = self.columns["maturity_days"]
        distinct = np.unique(days).tolist()
        if isinstance(lives, list):
            if len(lives) != len(distinct):
                counts = f"{len(distinct)} maturities, but helper_days lists {len(lives)}"
                raise ValueError(f"{self.name} has {counts}; pass lives={{quoted days: days lived}}")
            lives = dict(zip(distinct, lives, strict=True))
        quoted, lived = (real("lives", list(x), "positive", "days").numpy() for x in (lives.keys(), lives.values()))
        order = np.argsort(quoted)
        quoted, lived = quoted[order], lived[order]
        if bool((np.diff(lived) <= 0).any()):
            raise ValueError(f"lives must increase with the quoted days; got {lived.tolist()}")
        self.refuse(~np.isin(days, quoted), "maturity_days must be among the quoted days of the lives; got {:.12g}", days)
        self.columns["maturity"] = lived[np.searchsorted(quoted, self.columns["maturity_days"])] / DAYS_PER_YEAR

    def market(self) -> Market:
        """Return the market that the columns state."""
        if "spot" not in self.columns:
            beside = self.source.with_suffix(".json").name
            raise ValueError(f"{self.name} needs a spot: a column, a JSON beside it ({beside}), or market=")
        times, first = np.unique(self.columns["quoted"], return_index=True)
        rates = self.columns.get("zero_rate", np.zeros(len(self.line)))[first]
        dividends = self.columns.get("dividend_yield", np.zeros(1))
        rate = float(rates[0]) if (rates == rates[0]).all() else ZeroCurve(tuple(times.tolist()), tuple(rates.tolist()))
        return Market(float(self.columns["spot"][0]), rate, float(dividends[0]))

    def agree(self, market: Market, name: str) -> None:
        """Refuse rows whose market columns contradict the JSON beside the file by more than 1e-4 (of the spot: relative)."""
        for column in ("spot", "zero_rate", "dividend_yield"):
            if column in self.columns:
                x, t = self.columns[column], torch.as_tensor(self.columns["quoted"])
                known = market.zero_rate(t).numpy() if column == "zero_rate" else np.full(len(x), getattr(market, column))
                far = np.abs(x - known) > _BP * (market.spot if column == "spot" else 1)
                self.refuse(far, f"{column} must agree with {name} ({{:.12g}}); got {{:.12g}}", known, x)

    def quotes(self, market: Market) -> Quotes:
        """Refuse prices outside their bounds, and fill in price or volatility."""
        self.settle()
        given, k, scale, call = self._on(market)
        if "price" in self.columns:
            price, least = given.numpy(), (_intrinsic(k, call) * scale).numpy()
            most = (torch.where(call, 1.0, torch.exp(k)) * scale).numpy()
            slack = 8 * np.finfo(np.float64).eps * scale.numpy()  # what rounding may take from a price of almost its intrinsic value
            bad = (price < least - slack) | (price >= most)
            text = "price must be at least the intrinsic value {:.6f} and below {:.6f} (currency, discounted); got {:.12g}"
            self.refuse(bad, text, least, most, price)
            self.settle()
            given, k, scale, call = self._on(market)
        maturity, strike = (torch.as_tensor(self.columns[name]) for name in ("maturity", "strike"))
        if "price" in self.columns:
            undiscounted = torch.maximum(given / scale, _intrinsic(k, call))
            volatility, prices = _kind_by_kind(implied_volatility, undiscounted, k, maturity, call), given
        else:
            volatility, prices = given, scale * _kind_by_kind(black_price, k, given, maturity, call)
        if self.bad:
            warnings.warn(f"{self.name}: {self.bad} of {self.total} rows are bad and dropped; quotes.rejected lists them", stacklevel=3)
        rejected = tuple(f"{self.name} line {line}: {reason}" for line, reason in sorted(self.problems))
        kind = np.where(call.numpy(), "call", "put")
        return Quotes(maturity, strike, volatility, prices, kind, market, torch.as_tensor(self.line), rejected)

    def _on(self, market: Market) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is quoted, ln(K/F), F·D and whether it is a call, each (R,)."""
        columns = {name: torch.as_tensor(x) for name, x in self.columns.items()}
        t, given = columns["maturity"], columns["price" if "price" in columns else "implied_vol"]
        forward = market.forward(t)
        return given, torch.log(columns["strike"] / forward), forward * market.discount(t), columns["kind"] == 1

    def settle(self) -> None:
        """Refuse the file if a row is bad; with ``keep_usable``, if all are."""
        if self.bad and not (self.keep and len(self.line)):
            shown = sorted(self.problems)[:_SHOWN]
            if self.total == 1 or (self.bad == 1 and not self.keep):
                raise ValueError(f"{self.name} line {shown[0][0]}: {shown[0][1]}")
            listed = "".join(f"\n  line {line}: {reason}" for line, reason in shown)
            more = f"\n  … and {self.bad - _SHOWN} more" if self.bad > _SHOWN else ""
            remedy = "keep_usable=True drops them" if len(self.line) else "none is usable"
            raise ValueError(f"{self.name}: {self.bad} of {self.total} rows are bad ({remedy}):{listed}{more}")


def _numbers(name: str, texts: Sequence[str]) -> list[float]:
    """Convert the fields of a column; Python's digit groups, 1_000, are no numbers in a file."""
    if name == "kind":
        return [_KINDS[text.strip().lower()] for text in texts]
    if "_" in "".join(texts):
        raise ValueError("_")
    return list(map(float, texts))


def _must_be_a_file(path: Path, wanted: str) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; give the path of {wanted}")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the path of {wanted}")


def _is_number(text: str) -> bool:
    try:
        return bool(_numbers("", [text]))
    except ValueError:
        return False


def _intrinsic(k: Tensor, call: Tensor) -> Tensor:
    return torch.where(call, -torch.expm1(k), torch.expm1(k)).clamp(min=0)


def _kind_by_kind(function: Callable[..., Tensor], first: Tensor, second: Tensor, maturity: Tensor, call: Tensor) -> Tensor:
    """Apply one of Black's formulas to calls and puts, block by block."""
    result = torch.empty_like(maturity)
    for kind, chosen in (("call", call), ("put", ~call)):
        for rows in filter(len, chosen.nonzero()[:, 0].split(_BLOCK)):
            result[rows] = function(first[rows], second[rows], maturity[rows], kind)
    return result


def _read_json(path: Path) -> tuple[Market, Lives | list[float] | None]:
    """Return the market of a JSON and the lives of its options."""
    _must_be_a_file(path, "a JSON, or a Market")
    try:
        return _market_and_lives(json.loads(path.read_text(encoding="utf-8-sig")))
    except (ValueError, TypeError) as reason:  # also a text that is not JSON or not UTF-8
        raise ValueError(f"{path.name}: {reason}") from None


def _list(name: str, value: Any, rule: Literal["finite", "positive", "non-negative"] = "positive", unit: str = "days") -> list[float]:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list; got {value!r}")
    numbers: list[float] = real(name, value, rule, unit).tolist()
    return numbers


def _market_and_lives(data: Any) -> tuple[Market, Lives | list[float] | None]:
    if not isinstance(data, dict) or "spot" not in data:
        raise ValueError("a market must be an object with a key spot")
    for key in data:
        near = difflib.get_close_matches(key, _JSON_KEYS, 1, cutoff=0.85)
        if near and near[0] != key:
            raise ValueError(f"unknown key {key!r} (did you mean {near[0]!r}?)")
    if "365" not in str(data.get("day_count", "Actual/365")):
        raise ValueError(f"day_count must be Actual/365; got {data['day_count']!r}")
    for name in ("spot", "zero_rate", "dividend_yield"):
        if not isinstance(data.get(name, 0.0), int | float):
            raise ValueError(f"{name} must be a number; got {data[name]!r}")
    rate, curve = data.get("zero_rate", 0.0), data.get("zero_curve")
    if curve is not None:
        units = [unit for unit in ("days", "years") if isinstance(curve, dict) and unit in curve]
        if len(units) != 1 or "rates" not in curve or "zero_rate" in data:
            raise ValueError("zero_curve must have rates and either days or years, and stand in place of zero_rate")
        year = DAYS_PER_YEAR if units == ["days"] else 1.0
        nodes = _list(f"zero_curve {units[0]}", curve[units[0]], "non-negative", units[0])
        rate = ZeroCurve(tuple(node / year for node in nodes), tuple(_list("zero_curve rates", curve["rates"], "finite", "1/year")))
    lives: Lives | list[float] | None = None
    if "lives" in data:
        if not isinstance(data["lives"], dict) or not all(map(_is_number, data["lives"])):
            raise ValueError("lives must map quoted days to days lived, such as {'13': 14}")
        lives = dict(zip(map(float, data["lives"]), _list("lives", [*data["lives"].values()]), strict=True))
    elif "helper_days" in data:
        lives = _list("helper_days", data["helper_days"])
    return Market(data["spot"], rate, data.get("dividend_yield", 0.0)), lives


@dataclass(frozen=True)
class Violation:
    """A static arbitrage: an inequality between quotes that no model can break.

    Attributes
    ----------
    rule
        bound, parity, vertical, butterfly or calendar.
    inequality
        what should hold, C being the call on a unit forward, undiscounted, and the indices those of the tuples below.
    amount
        by how much it fails (basis points of the forward).
    line, maturity, strike
        line in the file, years and currency of each quote concerned.
    """

    rule: Rule
    inequality: str
    amount: float
    line: tuple[int, ...]
    maturity: tuple[float, ...]
    strike: tuple[float, ...]

    def __str__(self) -> str:
        legs = zip(self.line, self.maturity, self.strike, strict=True)
        named = ", ".join(f"line {line} ({maturity:.4g} years, strike {strike:.10g})" for line, maturity, strike in legs)
        return f"{self.rule}: {self.inequality} fails by {self.amount:.4g} bp of the forward: {named}"


def check_arbitrage(quotes: Quotes, tolerance: float = 1e-4) -> list[Violation]:
    r"""Find every static arbitrage between neighbouring quotes, the worst first.

    With x = K/F and C(x) the call on a unit forward, undiscounted (puts by parity), and C(0) = 1, the forward itself:

    - bound: :math:`(1-x)^+ \le C \le 1`; parity: put and call at one strike give one C;
    - vertical: :math:`0 \le C(x_1) - C(x_2) \le x_2 - x_1` for neighbouring strikes;
    - butterfly: C(x₂) is at most the chord from C(x₁) to C(x₃), three neighbouring strikes;
    - calendar: C(x, T₁) is at most the chord of C(·, T₂) at the same x, T₂ being the next maturity; beyond the last strike, at most its C.
      As C is convex in x, the chord is above C(x, T₂): total variance that falls at equal k is reported where the quotes themselves
      can be traded against it, never because of how one interpolates.

    Everything is at mid, so what lies within the spread cannot be traded.  Vectorised: 10⁵ quotes take about a second.

    Parameters
    ----------
    tolerance
        smallest amount reported (basis points of the forward).

    Raises
    ------
    ValueError
        the tolerance is negative or not finite.

    References: Carr and Madan (2005), "A note on sufficient conditions for no arbitrage".
    """
    least = float(real("tolerance", tolerance, "non-negative", "basis points of the forward"))
    maturity, strike, line = quotes.maturity.numpy(), quotes.strike.numpy(), quotes.line.numpy()
    forward = quotes.forward
    ratio, unit = (quotes.strike / forward).numpy(), (quotes.price / (forward * quotes.discount)).numpy()
    times, group = np.unique(maturity, return_inverse=True)
    found: list[Violation] = []

    def report(rule: Rule, inequality: str, amount: np.ndarray, *legs: np.ndarray) -> None:
        """Add those above the tolerance; a leg −1 is the forward, which is no quote."""
        for j in np.flatnonzero(amount > least * _BP).tolist():
            rows = [i for i in dict.fromkeys(int(leg[j]) for leg in legs) if i >= 0]
            columns = (tuple(x[rows].tolist()) for x in (line, maturity, strike))
            found.append(Violation(rule, inequality, float(amount[j] / _BP), *columns))

    # Rows by maturity and strike, each maturity beginning with the forward as the call of strike 0.
    row = np.concatenate([np.full(len(times), -1), np.arange(len(maturity))])
    g, x = np.concatenate([np.arange(len(times)), group]), np.concatenate([np.zeros(len(times)), ratio])
    c = np.concatenate([np.ones(len(times)), np.where(quotes.kind == "call", unit, unit + 1 - ratio)])
    order = np.lexsort((np.concatenate([np.zeros(len(times), bool), _in_the_money(quotes)]), x, g))
    row, g, x, c = row[order], g[order], x[order], c[order]
    report("bound", "max(1 − K₁/F, 0) ≤ C₁ ≤ 1", np.where(row < 0, 0, np.maximum(np.maximum(1 - x, 0) - c, c - 1)), row)
    again = np.flatnonzero((np.diff(g) == 0) & (np.diff(x) == 0)) + 1
    report("parity", "C₁ = C₂ at one strike", np.abs(c[again] - c[again - 1]), row[again - 1], row[again])
    row, g, x, c = (np.delete(y, again) for y in (row, g, x, c))

    rise, width = np.diff(c), np.diff(x)
    pair = np.flatnonzero((np.diff(g) == 0) & (row[:-1] >= 0))
    report("vertical", "C₂ ≤ C₁", rise[pair], row[pair], row[pair + 1])
    report("vertical", "C₁ − C₂ ≤ (K₂ − K₁)/F", -(rise + width)[pair], row[pair], row[pair + 1])

    middle = np.flatnonzero(g[2:] == g[:-2]) + 1
    chord = (c[middle - 1] * width[middle] + c[middle + 1] * width[middle - 1]) / (width[middle - 1] + width[middle])
    first = row[middle - 1] < 0
    for chosen, text in ((~first, "C₂ ≤ the chord from C₁ to C₃"), (first, "C₁ ≤ the chord from the forward (strike 0) to C₂")):
        report("butterfly", text, (c[middle] - chord)[chosen], *(row[middle + i][chosen] for i in (-1, 0, 1)))

    # Where each quote falls among those of the next maturity: sort both together, remember the last quote passed.
    query = np.flatnonzero((row >= 0) & (g + 1 < len(times)))
    both = np.lexsort((np.repeat([0, 1], [len(x), len(query)]), np.concatenate([x, x[query]]), np.concatenate([g, g[query] + 1])))
    passed = np.maximum.accumulate(np.where(both < len(x), both, -1))
    left = passed[both >= len(x)]
    query = query[both[both >= len(x)] - len(x)]
    right = np.minimum(left + 1, len(x) - 1)
    right = np.where((g[right] != g[left]) | (x[query] == x[left]), left, right)
    weight = np.divide(x[query] - x[left], x[right] - x[left], out=np.zeros(len(query)), where=right > left)
    text = "C₁ ≤ C of the next maturity at the same K/F, on the chord of the quotes beside it"
    report("calendar", text, c[query] - (1 - weight) * c[left] - weight * c[right], row[query], row[left], row[right])
    return sorted(found, key=lambda violation: -violation.amount)
