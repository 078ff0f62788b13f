"""Claims with their bounds: what a notebook asserts, shown as a table, checked as a test, and kept in its record.

The measured figure is printed behind ``≈``: `notebooks/sanitize.cfg` takes what follows that sign out of the comparison, so a stored
output fixes the claim, its bound and whether it holds, not digits that differ from machine to machine.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, field
from typing import Any

MIME = "application/vnd.spectralmc.result+json"
SCHEMA = 1


@dataclass(frozen=True)
class Verdict:
    """One claim: the measured figure, the bound it must keep, on which side, and the unit of both."""

    claim: str
    measured: float
    bound: float
    at_least: bool
    unit: str

    @property
    def holds(self) -> bool:
        """Whether the figure is finite and on the right side of its bound."""
        return math.isfinite(self.measured) and (self.measured >= self.bound if self.at_least else self.measured <= self.bound)

    def cells(self) -> tuple[str, str, str, str]:
        """Return claim, measured, bound and mark as text."""
        unit = f" {self.unit}" if self.unit else ""
        return self.claim, f"≈ {self.measured:.2g}{unit}", f"{'≥' if self.at_least else '≤'} {self.bound:g}{unit}", "✓" if self.holds else "✗"


@dataclass
class Verdicts:
    """A table of claims; as the last expression of a cell it shows itself.

    Example
    -------
    >>> table = Verdicts()
    >>> table.claim("calls and puts differ by the forward", measured=3e-16, bound=1e-12)
    >>> table
    claim                                 measured  bound    holds
    calls and puts differ by the forward  ≈ 3e-16   ≤ 1e-12  ✓
    """

    rows: list[Verdict] = field(default_factory=list)

    def claim(self, text: str, measured: Any, bound: float | None = None, *, at_least: float | None = None, unit: str = "") -> None:
        """Add a claim that ``measured`` is at most ``bound``, or at least ``at_least``.

        Raises
        ------
        TypeError, ValueError
            measured is not a single number; not exactly one bound, or one that is not finite.
        """
        if (bound is None) == (at_least is None):
            raise ValueError(f"claim {text!r} needs either bound= or at_least=; got bound={bound}, at_least={at_least}")
        limit = scalar("bound", bound if bound is not None else at_least)
        if not math.isfinite(limit):
            raise ValueError(f"the bound of claim {text!r} must be finite; got {limit}")
        self.rows.append(Verdict(text, scalar("measured", measured), limit, at_least is not None, unit))

    @property
    def hold(self) -> bool:
        """Whether every claim holds."""
        return all(row.holds for row in self.rows)

    def record(self, **scalars: Any) -> Record:
        """Return the machine-readable record of verdicts and named scalars; shown as the last expression of a cell."""
        return Record(self, {name: scalar(name, value) for name, value in scalars.items()})

    def __repr__(self) -> str:
        table = [("claim", "measured", "bound", "holds"), *(row.cells() for row in self.rows)]
        widths = [max(len(line[column]) for line in table) for column in range(4)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("claim", "measured", "bound", "holds"))
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row.cells()) + "</tr>" for row in self.rows)
        return f'<table class="verdicts"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


@dataclass(frozen=True)
class Record:
    """Verdicts and scalars as a notebook hands them to its report."""

    verdicts: Verdicts
    scalars: dict[str, float]

    def data(self) -> dict[str, Any]:
        """Return plain data; figures that are not finite become None, which JSON can hold."""
        rows = [
            {"claim": v.claim, "measured": _finite(v.measured), "bound": v.bound, "at_least": v.at_least, "unit": v.unit, "holds": v.holds}
            for v in self.verdicts.rows
        ]
        return {"schema": SCHEMA, "verdicts": rows, "scalars": {name: _finite(value) for name, value in self.scalars.items()}}

    def __repr__(self) -> str:
        return "\n".join(f"{name} = {value:.6g}" for name, value in self.scalars.items())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/plain": repr(self), MIME: self.data()}


def scalar(name: str, value: Any) -> float:
    """Return a Python float from a number, a NumPy scalar or a tensor of one element; refuse anything else (``TypeError``)."""
    try:
        return float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a single number; got {type(value).__name__}") from None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
