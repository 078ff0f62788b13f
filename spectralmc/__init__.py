"""SpectralMC: learn the characteristic function of any simulated outcome, and price everything from it.

parameters → paths → one number per path → its characteristic function → a complex network that learns it for a whole box of
parameters → a distribution → prices, Greeks, densities, quantiles → report.

>>> import spectralmc as smc
>>> sample = smc.simulate(smc.BlackScholes(volatility=0.2), smc.TimeGrid(1.0, 4), smc.Draws(seed=7), 2**12, smc.Terminal())
>>> law = smc.Distribution.of(smc.BlackScholes(volatility=0.2), maturity=1.0)
>>> float(smc.cos_price(law, log_moneyness=0.0)).__round__(6)
0.079656
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "ArithmeticAverage": "functionals",
    "Basket": "functionals",
    "BlackScholes": "processes",
    "Cardioid": "nn",
    "ComplexLinear": "nn",
    "CorrelatedBlackScholes": "processes",
    "CovarianceBatchNorm": "nn",
    "Distribution": "distribution",
    "Draws": "draws",
    "FrequencyGrid": "spectrum",
    "GeometricAverage": "functionals",
    "GeometricBasket": "functionals",
    "Heston": "processes",
    "KnockOut": "functionals",
    "LognormalJumps": "processes",
    "Market": "parameters",
    "Maximum": "functionals",
    "Merton": "processes",
    "Minimum": "functionals",
    "ModReLU": "nn",
    "ParameterSpace": "parameters",
    "Quotes": "market",
    "RealizedVariance": "functionals",
    "Recipe": "training",
    "Sample": "paths",
    "SpectralNetwork": "nn",
    "SplitBatchNorm": "nn",
    "SplitReLU": "nn",
    "SplitSiLU": "nn",
    "Store": "store",
    "Surrogate": "surrogate",
    "Terminal": "functionals",
    "TimeGrid": "processes",
    "VarianceGamma": "processes",
    "Verdicts": "verdicts",
    "Violation": "market",
    "WithJumps": "processes",
    "ZReLU": "nn",
    "ZeroCurve": "parameters",
    "black_price": "black",
    "black_vega": "black",
    "check_arbitrage": "market",
    "cos_price": "pricing",
    "empirical_characteristic_function": "spectrum",
    "explore": "explorer",
    "implied_volatility": "black",
    "load": "store",
    "load_records": "records",
    "monte_carlo_price": "montecarlo",
    "read_quotes": "market",
    "sample_blocks": "paths",
    "simulate": "paths",
    "train": "training",
}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562), so that the command line starts without torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'spectralmc' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"spectralmc.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
