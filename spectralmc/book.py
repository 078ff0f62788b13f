"""Books: options in a CSV, priced by a learned model.

A book is UTF-8 CSV with a header; every row is one option. Its columns are the parameters of the model's process (one that the model was
trained for at a single value may be left out), ``maturity`` (years), ``kind`` (call or put; call where there is no such column) and

    strike, spot            K and today's price of the asset (currency), with
    rate, dividend_yield    continuously compounded (1/year), 0 where there is no such column: the price is the premium paid today
    log_moneyness           or, instead of these, ln(K/F), F = E[outcome], with
    carry                   r − q (1/year), if the model was trained for several: the price is undiscounted, on a unit forward

and, if you like, ``id``. The prices are the same rows with two more columns, ``price`` and ``error``, the half-width of its error bar.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spectralmc.parameters import refuse_unknown
from spectralmc.surrogate import Surrogate

_KINDS = {"call": "call", "c": "call", "put": "put", "p": "put"}
_CURRENCY, _UNIT = ("strike", "spot", "rate", "dividend_yield"), ("log_moneyness", "carry")
_BLOCK = 4096  # rows priced at once


class _Row(NamedTuple):
    line: int
    fields: list[str]
    kind: str
    numbers: dict[str, float]


@dataclass(frozen=True)
class Priced:
    """A priced book: header, rows with price and error, and what was wrong with the rows left out."""

    header: list[str]
    rows: list[list[str]]
    problems: list[str]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the prices as CSV, whole or not at all."""
        target = Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with part.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([self.header, *self.rows])
            os.replace(part, target)
        except OSError as error:
            raise OSError(error.errno, f"the prices were not written: {error.strerror}", os.fspath(path)) from error
        finally:
            with suppress(OSError):  # the folder may be no folder
                part.unlink()


def price_book(model: Surrogate, path: str | os.PathLike[str]) -> Priced:
    """Price every option of a CSV (see the module) that the model can price, and say by line why it cannot price the others.

    Raises
    ------
    OSError, ValueError
        no such file; not CSV in UTF-8, no rows, or columns unknown or missing.
    """
    name = Path(path).name
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            lines = [(reader.line_num, fields) for fields in reader if fields]
        except UnicodeDecodeError:
            raise ValueError(f"{name} must be UTF-8 text: save it as UTF-8") from None
        except csv.Error as error:
            raise ValueError(f"{name} is not CSV: {error}; is a quotation mark left open?") from None
    if len(lines) < 2:
        raise ValueError(f"{name} must have a header and at least one row; got {len(lines)} lines")
    header = [column.strip().lower() for column in lines[0][1]]
    try:
        _check_columns(model, header)
    except ValueError as error:
        raise ValueError(f"{name} line {lines[0][0]}: {error}") from None
    rows: list[_Row] = []
    problems: list[tuple[int, str]] = []
    for line, fields in lines[1:]:
        try:
            rows.append(_parsed(line, header, fields))
        except ValueError as error:
            problems.append((line, str(error)))
    results: dict[int, tuple[float, float]] = {}
    for kind in ("call", "put"):
        same = [row for row in rows if row.kind == kind]
        for start in range(0, len(same), _BLOCK):
            _price(model, same[start : start + _BLOCK], results, problems)
    priced = [[*row.fields, *(f"{number:.10g}" for number in results[row.line])] for row in rows if row.line in results]
    return Priced([*header, "price", "error"], priced, [f"{name} line {line}: {problem}" for line, problem in sorted(problems)])


def _check_columns(model: Surrogate, header: list[str]) -> None:
    box = {name: ends for name, ends in model.problem.space.box.items() if name not in ("maturity", "carry")}
    form, other = (_UNIT, _CURRENCY) if "log_moneyness" in header else (_CURRENCY, _UNIT)
    refuse_unknown(header, [*box, "maturity", "kind", "id", *_CURRENCY, *_UNIT], "column")
    if len(set(header)) < len(header):
        raise ValueError(f"columns must differ; got {', '.join(header)}")
    if mixed := [name for name in header if name in other]:
        raise ValueError(f"a book has {' and '.join(form)}, or {' and '.join(other)}; got {mixed[0]} too")
    needed = [*(name for name, (low, high) in box.items() if low < high), "maturity", *form[: 2 if form is _CURRENCY else 1]]
    if missing := [name for name in needed if name not in header]:
        raise ValueError(f"column {missing[0]} is missing; the model needs {', '.join(needed)}")


def _parsed(line: int, header: list[str], fields: list[str]) -> _Row:
    if len(fields) != len(header):
        raise ValueError(f"there must be {len(header)} fields; got {len(fields)}")
    cells = dict(zip(header, fields, strict=True))
    cells.pop("id", None)
    kind = cells.pop("kind", "call").strip().lower()
    if kind not in _KINDS:
        raise ValueError(f"kind must be call or put; got {kind!r}")
    return _Row(line, fields, _KINDS[kind], {name: _number(name, text) for name, text in cells.items()})


def _number(name: str, text: str) -> float:
    try:
        value = float("x" if "_" in text else text)  # Python's digit groups are no numbers in a file
    except ValueError:
        raise ValueError(f"{name} must be a number; got {text!r}") from None
    if not math.isfinite(value) or (name in ("maturity", "strike", "spot") and value <= 0):
        raise ValueError(f"{name} must be {'positive' if math.isfinite(value) else 'finite'}; got {text}")
    return value


def _price(model: Surrogate, rows: Sequence[_Row], results: dict[int, tuple[float, float]], problems: list[tuple[int, str]]) -> None:
    """Price rows of one kind; where the model refuses, halve them until it says which."""
    if not rows:
        return
    try:
        value, error = _prices(model, rows)
    except ValueError as refused:
        if len(rows) == 1:
            problems.append((rows[0].line, str(refused)))
            return
        for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
            _price(model, half, results, problems)
        return
    for row, pair in zip(rows, zip(value.tolist(), error.tolist(), strict=True), strict=True):
        results[row.line] = pair


def _prices(model: Surrogate, rows: Sequence[_Row]) -> tuple[Tensor, Tensor]:
    """Return prices and errors of rows of one kind, each (B,)."""

    def column(name: str, default: float = 0.0) -> Tensor:
        return torch.tensor([row.numbers.get(name, default) for row in rows], dtype=torch.float64)

    box: dict[str, Any] = model.problem.space.box
    parameters = {name: column(name, low) for name, (low, _) in box.items() if name not in ("maturity", "carry")}
    maturity = column("maturity")
    if "log_moneyness" in rows[0].numbers:
        carry, log_moneyness, scale = column("carry", box["carry"][0]), column("log_moneyness"), torch.ones(len(rows), dtype=torch.float64)
    else:
        carry = column("rate") - column("dividend_yield")
        forward = column("spot") * model.forward(parameters, maturity, carry)
        log_moneyness, scale = torch.log(column("strike") / forward), forward * torch.exp(-column("rate") * maturity)
    price = model.price(parameters, maturity, log_moneyness[:, None], rows[0].kind, carry)  # type: ignore[arg-type]
    return price.value[:, 0] * scale, price.error[:, 0] * scale
