"""An instrument over a law: sliders for every parameter, and density, smile, φ and Greeks that follow while they move.

In JupyterLab with a live kernel it is a canvas that redraws while a slider is dragged; everywhere else (a report, a stored notebook, a
preview) it is a picture of the point where its sliders stand.
"""

from __future__ import annotations

import base64
import importlib.util
import inspect
import io
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from spectralmc.explorer.controls import Control, controls, space_around
from spectralmc.explorer.frames import Frame, Instrument, Kind, Quantity
from spectralmc.functionals import Functional, Terminal
from spectralmc.parameters import Bound, Market, ParameterSpace, name_of
from spectralmc.problem import Problem
from spectralmc.spectrum import FrequencyGrid
from spectralmc.surrogate import Surrogate
from spectralmc.validation import count

_MATURITY, _CARRY = (0.05, 3.0), (-0.05, 0.1)

_NAMES = {"Terminal": "Price at maturity", "Black Scholes": "Black–Scholes", "Correlated Black Scholes": "correlated Black–Scholes"}


class Explorer:
    """What `explore` returns; the last expression of a cell shows it.

    Attributes
    ----------
    instrument
        the laws, and their values at any point.
    controls
        the sliders.
    point
        where the sliders stand now: name → value, the strike k = ln(K/F) as ``log_moneyness``.
    kind
        of the option, ``call`` or ``put``.
    quantity
        over the strikes: ``volatility`` or ``price``.
    """

    def __init__(self, instrument: Instrument, found: list[Control]) -> None:
        self.instrument = instrument
        self.controls = found
        self.point = {control.name: control.start for control in found}
        self.kind: Kind = "call"
        self.quantity: Quantity = "volatility"
        self._answers = 0

    @property
    def title(self) -> str:
        """The outcome and the process."""
        problem = self.instrument.problem
        outcome, process = _words(type(problem.functional).__name__), _words(name_of(problem.space.process).strip("<>"))
        return f"{_NAMES.get(outcome, outcome.capitalize())} under {_NAMES.get(process, process)}"

    def frame(self, simulate: bool = True, **changes: float) -> Frame:
        """Return what the panels show, as arrays, where the sliders stand or with some of them moved; they stay where they are."""
        return self.instrument.frame({**self.point, **changes}, self.kind, self.quantity, simulate)

    def figure(self) -> Any:
        """Return a matplotlib figure of the panels where the sliders stand."""
        from spectralmc import figures

        frame = self.frame()
        return figures.explored(frame.arrays, frame.scalars, self.kind, self.quantity)

    def answer(self, request: Mapping[str, Any]) -> Frame:
        """Move to where a request says, and return what its panels show: with the simulated law if it is at ``rest``.

        On the way there only one answer in three brings the Greeks: digits that change faster than that nobody reads.
        """
        self._answers += 1
        greeks = bool(request["rest"]) or self._answers % 3 == 0
        frame = self.instrument.frame(request["point"], request["kind"], request["quantity"], bool(request["rest"]), greeks)
        self.point, self.kind, self.quantity = dict(request["point"]), request["kind"], request["quantity"]
        return frame

    @cached_property
    def widget(self) -> Any:
        """The live canvas.

        Raises
        ------
        ModuleNotFoundError
            anywidget is not installed.
        """
        if importlib.util.find_spec("anywidget") is None:
            raise ModuleNotFoundError("the sliders of an explorer need anywidget; install spectralmc[lab]")
        from spectralmc.explorer.widget import canvas

        return canvas(self)

    def __repr__(self) -> str:
        free = ", ".join(control.name for control in self.controls if control.high > control.low)
        return f"Explorer({self.title}: {free})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        picture = io.BytesIO()
        self.figure().savefig(picture, format="png", bbox_inches="tight")
        still = {"text/plain": repr(self), "image/png": base64.b64encode(picture.getvalue()).decode()}
        if importlib.util.find_spec("anywidget") is None:
            return still
        view: dict[str, Any] = self.widget._repr_mimebundle_()
        live = view[0] if isinstance(view, tuple) else view
        return live | still


def explore(
    law: Any,
    *,
    functional: Functional | None = None,
    bounds: Mapping[str, Bound] | None = None,
    maturity: Bound | None = None,
    carry: Bound | None = None,
    log_moneyness: tuple[float, float] = (-0.5, 0.5),
    start: Mapping[str, float] | None = None,
    market: Market | None = None,
    time_steps: int | None = None,
    paths: int = 1 << 13,
    seed: int = 0,
) -> Explorer:
    """Explore a law: a slider for every parameter, and its density, smile, characteristic function, price and Greeks.

    Exact (where a closed form is known), simulated and learned are laid over each other; the simulated one is drawn while the sliders
    rest.

    Parameters
    ----------
    law
        a `Surrogate`; or, without a learned law, a process, or a `ParameterSpace` of one.
    functional
        the outcome of a process, one number a path; the price at maturity if None.  A surrogate has its own.
    bounds
        of the parameters of a process: name → (lower, upper), or a number that stays fixed.
    maturity, carry
        bounds of the contract of a process, years and 1/year.
    log_moneyness
        bounds of the strike k = ln(K/F).
    start
        where sliders start: name → value.
    market
        spot and rate in whose units the Greeks are; the dividend yield is the rate less the carry of the slider.  None: spot 100, rate 0.
    time_steps
        fixings of the functional of a process.
    paths, seed
        of the simulated law.

    Raises
    ------
    TypeError
        none of these; a functional without ``finish``, a market that is not one; options that a surrogate or a space fixes itself.
    ValueError
        bounds or starts that do not fit.

    Example
    -------
    >>> import spectralmc as smc
    >>> smc.explore(smc.BlackScholes(0.2), bounds={"volatility": (0.1, 0.5)})
    Explorer(Price at maturity under Black–Scholes: volatility, maturity, carry, log_moneyness)
    """
    own = {"functional": functional, "bounds": bounds, "maturity": maturity, "carry": carry, "time_steps": time_steps}
    market = Market(100.0) if market is None else market
    if not isinstance(market, Market):
        raise TypeError(f"market must be a Market (spot and rate); got {type(market).__name__}")
    problem, values = _posed(law, own)
    found = controls(problem.space, {**values, **(start or {})}, log_moneyness)
    surrogate = law if isinstance(law, Surrogate) else None
    return Explorer(Instrument(problem, surrogate, market, count("paths", paths, 256), count("seed", seed, 0)), found)


def _words(name: str) -> str:
    """Return the words of a name in capitals: ArithmeticAverage, Arithmetic Average."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)


def _posed(law: Any, own: Mapping[str, Any]) -> tuple[Problem, dict[str, float]]:
    """Return what is explored, and the values that a process brings."""
    if isinstance(law, Surrogate):
        _refuse_given(own, own, "a surrogate")
        return law.problem, {}
    functional = own["functional"] or Terminal()
    if isinstance(functional, type) or not hasattr(functional, "finish"):
        raise TypeError(f"functional must be one like ArithmeticAverage(); got {functional!r}")
    steps = count("time_steps", own["time_steps"] or 32)
    if isinstance(law, ParameterSpace):
        _refuse_given(own, ("bounds", "maturity", "carry"), "a ParameterSpace")
        return Problem(law, functional, steps, FrequencyGrid()), {}
    if isinstance(law, type) or not (hasattr(law, "step") or hasattr(law, "schemes")):
        what = f"the class {law.__name__}" if inspect.isclass(law) else f"{type(law).__name__}"
        raise TypeError(f"explore takes a Surrogate, a ParameterSpace or a process with its parameters; got {what}: {_remedy(law)}")
    space, values = space_around(law, own["bounds"] or {}, own["maturity"] or _MATURITY, own["carry"] or _CARRY)
    return Problem(space, functional, steps, FrequencyGrid()), values


def _refuse_given(own: Mapping[str, Any], names: Any, what: str) -> None:
    for name in names:
        if own[name] is not None:
            raise TypeError(f"{what} has its own {name}; got another: leave it out")


def _remedy(law: Any) -> str:
    if isinstance(law, type):
        return f"make one, or a ParameterSpace of {law.__name__}"
    if isinstance(law, str) or hasattr(law, "__fspath__"):
        return "read a saved model with spectralmc.load"
    if hasattr(law, "surrogate"):
        return "its .surrogate is one"
    return "see the docstring of spectralmc.processes.base"
