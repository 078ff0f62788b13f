"""The live canvas: one answer for each request, its arrays as one binary message of float32."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets

from spectralmc.explorer.controls import table
from spectralmc.explorer.frames import LEVELS, Frame

if TYPE_CHECKING:
    from spectralmc.explorer import Explorer

_TEMPLATES = Path(__file__).parents[1] / "templates"


class Canvas(anywidget.AnyWidget):  # type: ignore[misc]  # mypy does not look into it
    """The page's side lives in ``templates/explorer.js``; it asks for a frame and draws the newest answer."""

    _esm = _TEMPLATES / "explorer.js"
    _css = _TEMPLATES / "explorer.css"
    about = traitlets.Dict().tag(sync=True)


def canvas(explorer: Explorer) -> Canvas:
    """Return a canvas that answers for ``explorer``."""
    instrument = explorer.instrument
    about = {
        "title": explorer.title,
        "controls": table(explorer.controls),
        "kind": explorer.kind,
        "quantity": explorer.quantity,
        "levels": LEVELS,
        "laws": [*instrument.laws({c.name: c.start for c in explorer.controls[:-1]}), "simulated"],
        "paths": instrument.paths,
        "spot": instrument.market.spot,
    }
    made = Canvas(about=about)
    made.on_msg(lambda widget, content, buffers: widget.send(*reply(explorer, content)))
    return made


def reply(explorer: Explorer, request: Any) -> tuple[dict[str, Any], list[bytes]]:
    """Return the answer to a request: a header, and the arrays behind each other as float32.

    What a law refuses comes back as one line of text: the picture stays, and the next request may do better.
    """
    head = {"id": request.get("id"), "view": request.get("view"), "rest": bool(request.get("rest"))}
    try:
        frame = explorer.answer(request)
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        return {**head, "error": f"{type(error).__name__}: {error}".splitlines()[0]}, []
    return {**head, **header(frame)}, [packed(frame)]


def header(frame: Frame) -> dict[str, Any]:
    """Return names and lengths of the arrays of a frame, and its numbers, as JSON holds them: None for what is not finite."""
    return {
        "arrays": [[name, len(values)] for name, values in frame.arrays.items()],
        "scalars": _finite(frame.scalars),
        "greeks": {law: _finite(greeks) for law, greeks in frame.greeks.items()},
    }


def packed(frame: Frame) -> bytes:
    """Return the arrays of a frame behind each other, float32."""
    return b"".join(values.astype(np.float32).tobytes() for values in frame.arrays.values())


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
