"""What the sliders of an explorer move: every free parameter of a box, its contract parameters, and the strike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from spectralmc.parameters import Bound, ParameterSpace, name_of, refuse_unknown
from spectralmc.validation import real

STRIKE = "log_moneyness"
_KNOWN = {  # symbol and unit, as in the table of notation
    "volatility": ("σ", "per √year"),
    "initial_variance": ("v₀", "per year"),
    "mean_reversion": ("κ", "per year"),
    "long_run_variance": ("θ", "per year"),
    "vol_of_variance": ("ξ", "per year"),
    "correlation": ("ρ", ""),
    "jump_intensity": ("λ", "per year"),
    "jump_mean": ("μ", ""),
    "jump_volatility": ("δ", ""),
    "maturity": ("T", "years"),
    "carry": ("b", "per year"),
    STRIKE: ("k", "ln(K/F)"),
}
_LABELS = {"long_run_variance": "long-run variance", "vol_of_variance": "vol. of variance", STRIKE: "log-moneyness"}
_FACTORS = (4.0, 2.0, 1.25)  # how far around a value a slider reaches: as far as the process allows


class Control(NamedTuple):
    """One slider: the interval it runs over, where it starts, and whether equal steps are equal ratios."""

    name: str
    symbol: str
    unit: str
    low: float
    high: float
    start: float
    logarithmic: bool = False


def controls(space: ParameterSpace, start: Mapping[str, float], log_moneyness: tuple[float, float]) -> list[Control]:
    """Return a control for every name of the box, in its order, and one for the strike; those of fixed names cannot move.

    Without a ``start`` a slider stands in the middle: one year, no carry, at the forward where the box allows.

    Raises
    ------
    ValueError
        a start outside the box, or strikes whose bounds are not lower < upper.
    """
    low, high = (float(real(f"bound of {STRIKE}", end)) for end in log_moneyness)
    if low >= high:
        raise ValueError(f"bounds of {STRIKE} must satisfy lower < upper; got ({low:g}, {high:g})")
    wanted = {"maturity": 1.0, "carry": 0.0, STRIKE: 0.0, **start}
    refuse_unknown(start, [*space.box, STRIKE])
    found = []
    for name, (a, b) in {**space.box, STRIKE: (low, high)}.items():
        logarithmic = name in (space.logarithmic or ())
        middle = math.sqrt(a * b) if logarithmic else (a + b) / 2
        value = float(wanted.get(name, middle))
        if name in start and not a <= value <= b:
            raise ValueError(f"{name} must start in [{a:g}, {b:g}]; got {value:g}")
        symbol, unit = _KNOWN.get(name, ("", ""))
        found.append(Control(name, symbol, unit, a, b, value if a <= value <= b else middle, logarithmic))
    return found


def space_around(process: Any, bounds: Mapping[str, Bound], maturity: Bound, carry: Bound) -> tuple[ParameterSpace, dict[str, float]]:
    """Return a box around the parameters of a process, and these parameters.

    A slider without ``bounds`` runs from a quarter of a positive value to four times of it, of another from minus to plus four times of
    it, or less far where the process refuses.

    Raises
    ------
    TypeError
        a process that is not made from single numbers.
    ValueError
        bounds for a name that the process does not have.
    """
    kind = type(process)
    names = [field.name for field in fields(process) if field.init] if is_dataclass(process) else []
    numbers = {name: getattr(process, name) for name in names}
    if not names or not all(_is_number(value) for value in numbers.values()):
        raise TypeError(
            f"a process to explore must be a dataclass of single numbers; {name_of(kind)} is not: "
            "give a ParameterSpace of a function that makes it"
        )
    values = {name: float(value) for name, value in numbers.items()}
    refuse_unknown(bounds, names)
    around = {name: bounds.get(name, _around(process, values, name)) for name in names}
    return ParameterSpace(kind, around, maturity, carry), values


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int | float) or (hasattr(value, "item") and getattr(value, "ndim", 1) == 0))


def _around(process: Any, values: Mapping[str, float], name: str) -> Bound:
    value = values[name]
    reach = abs(value) or 0.1
    for factor in _FACTORS:
        interval = (value / factor, value * factor) if value > 0 else (-reach * factor, reach * factor)
        if all(_accepts(type(process), {**values, name: end}) for end in interval):
            return interval
    return value


def _accepts(kind: type, values: Mapping[str, float]) -> bool:
    try:
        kind(**values)
    except ValueError:
        return False
    return True


def table(found: Iterable[Control]) -> list[dict[str, Any]]:
    """Return controls as plain data, each with a label for people."""
    return [{**control._asdict(), "label": _LABELS.get(control.name, control.name.replace("_", " "))} for control in found]
