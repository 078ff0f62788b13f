"""Path functionals: what becomes of a path, one number each, accumulated while it is stepped.

A functional of your own is a frozen dataclass with ``start``, ``update`` and ``finish``.  Looked for, and used where present:

* ``forward`` (E[outcome]/S₀), ``control`` and ``lognormal_law`` (the control variate and its law), and ``depends_on_carry`` (whether
  ln(outcome/E[outcome]) feels the carry);
* ``linear_weights(steps)``, the (M,) numbers a_i of an outcome whose logarithm is Σ a_i Y_{t_i}: its law given the variance is Gaussian;
* ``atom``, ln(outcome/S₀) of the paths that a weight below 1 takes out of the continuous part (None: they pay nothing);
* ``bridged``, whether ``update`` also takes the quadratic variation over the step, to weigh what happens between the fixings;
* ``assets``, how many it needs where Y is (A, B, N).

All work on Y_t = ln(S_t/S₀) at the fixings t_i = iT/M.
"""

from spectralmc.functionals.averages import ArithmeticAverage, GeometricAverage, Terminal
from spectralmc.functionals.base import Functional, expected_outcome, refuse_other
from spectralmc.functionals.baskets import Basket, GeometricBasket
from spectralmc.functionals.extremes import KnockOut, Maximum, Minimum
from spectralmc.functionals.variance import RealizedVariance

__all__ = [
    "ArithmeticAverage",
    "Basket",
    "Functional",
    "GeometricAverage",
    "GeometricBasket",
    "KnockOut",
    "Maximum",
    "Minimum",
    "RealizedVariance",
    "Terminal",
    "expected_outcome",
    "refuse_other",
]
