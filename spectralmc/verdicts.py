"""Claims with their numbers: the table a notebook ends with, and the record a report reads back.

A verdict is *claim · measured · bound · holds*. Measured values are printed as ``≈ 3.0e-16``: their digits depend on the
machine, so the comparison of stored outputs (``notebooks/sanitize.cfg``) drops whatever number follows ``≈`` and compares
the verdicts themselves. The record carries the same numbers to full precision, in a cell that is not compared.
"""

from __future__ import annotations

import html
import math
import sys
from typing import Any

MIME = "application/vnd.spectralmc.result+json"
SCHEMA = 1
_MEASURED_WIDTH = 13  # fixed, so that columns stand where they stood whatever the digits


class Verdicts:
    """A table of claims, shown as text and as HTML when it ends a cell.

    >>> table = Verdicts()
    >>> table.claim("put–call parity holds", measured=3e-16, bound=1e-12, unit="of forward")
    >>> table
    claim                  measured       bound                holds
    put–call parity holds  ≈ 3.0e-16      ≤ 1e-12 of forward   ✓
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def claim(self, claim: str, measured: Any, bound: Any = None, unit: str = "", *, at_least: Any = None) -> None:
        """Add a claim: it holds if ``measured`` is finite and ≤ ``bound`` (or ≥ ``at_least``).

        ``measured`` is one number: Python's, or a NumPy or torch value of no dimension. Raises ``TypeError`` for anything else,
        ``ValueError`` for a bound that is not finite, or not given, or given twice, or a claim that is empty or made before.
        """
        if not claim.strip() or claim in {row["claim"] for row in self.rows}:
            raise ValueError(f"a claim must be a sentence of its own in its table; got {claim!r}")
        if (bound is None) == (at_least is None):
            raise ValueError(f"claim {claim!r} must have exactly one of bound= and at_least=")
        limit = number("bound", bound if at_least is None else at_least)
        if not math.isfinite(limit):
            raise ValueError(f"bound of {claim!r} must be finite; got {limit}")
        value = number("measured", measured)
        holds = math.isfinite(value) and (value <= limit if at_least is None else value >= limit)
        relation = "<=" if at_least is None else ">="
        row = {"claim": claim, "measured": value, "relation": relation, "bound": limit, "unit": unit, "holds": holds}
        self.rows.append(row)

    @property
    def hold(self) -> bool:
        """Whether every claim holds."""
        return all(row["holds"] for row in self.rows)

    def record(self, **scalars: Any) -> Record:
        """Return the verdicts and named numbers as the record of this run: the last expression of a cell of its own.

        A scalar is a number (NaN and infinities too), a string, a bool or None; ``TypeError`` otherwise.
        """
        return Record(self.rows, {name: scalar(name, value) for name, value in scalars.items()})

    def _cells(self) -> list[tuple[str, str, str, str]]:
        return [("claim", "measured", "bound", "holds"), *(columns(row) for row in self.rows)]

    def __repr__(self) -> str:
        cells = self._cells()
        claim, bound = (max(len(row[i]) for row in cells) for i in (0, 2))
        return "\n".join(f"{a:{claim}}  {b:{_MEASURED_WIDTH}}  {c:{bound}}   {d}" for a, b, c, d in cells)

    def _repr_html_(self) -> str:
        head, *rows = ([html.escape(cell) for cell in row] for row in self._cells())
        body = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in rows)
        return f"<table><thead><tr><th>{'</th><th>'.join(head)}</th></tr></thead><tbody>{body}</tbody></table>"


class Record:
    """What a run leaves to be read back: verdicts, scalars and the device, as JSON inside the notebook."""

    def __init__(self, verdicts: list[dict[str, Any]], scalars: dict[str, Any]) -> None:
        rows = [{name: jsonable(value) for name, value in row.items()} for row in verdicts]
        named = {name: jsonable(value) for name, value in scalars.items()}
        self.payload: dict[str, Any] = {"schema": SCHEMA, "verdicts": rows, "scalars": named, "device": _device()}

    def __repr__(self) -> str:
        verdicts, scalars = self.payload["verdicts"], self.payload["scalars"]
        lines = [f"{name} = {shown(value)}" for name, value in scalars.items()]
        return "\n".join([f"{sum(row['holds'] for row in verdicts)} of {len(verdicts)} verdicts hold", *lines])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {MIME: self.payload, "text/plain": repr(self)}


def number(name: str, value: Any) -> float | int:
    """Return ``value`` as a Python number, or refuse it (``TypeError``)."""
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be one real number; got {value!r}")
    return value


def scalar(name: str, value: Any) -> Any:
    """Return ``value`` as a Python number, string, bool or None, or refuse it (``TypeError``)."""
    value = _plain(value)
    if value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(f"{name} must be one number, a string, a bool or None; got {value!r}")
    return value


def columns(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return a verdict as the text of its four columns."""
    bound = f"{'≤' if row['relation'] == '<=' else '≥'} {row['bound']:g} {row['unit']}".rstrip()
    return row["claim"], f"≈ {shown(row['measured'])}", bound, "✓" if row["holds"] else "✗"


def shown(value: Any) -> str:
    """Return a float in two or three significant digits, anything else as text."""
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e3 else f"{value:.1e}"


def jsonable(value: Any) -> Any:
    """Return ``value``, with NaN and the infinities as the strings "nan", "inf" and "-inf": JSON has no word for them."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """Return the one Python number in a NumPy or torch value of no dimension; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _device() -> str:
    """Return the GPU this process has computed on, or "cpu"."""
    torch: Any = sys.modules.get("torch")
    used = torch is not None and torch.cuda.is_initialized()
    return str(torch.cuda.get_device_name()) if used else "cpu"
