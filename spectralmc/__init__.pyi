from spectralmc.black import black_price as black_price
from spectralmc.black import black_vega as black_vega
from spectralmc.black import implied_volatility as implied_volatility
from spectralmc.distribution import Distribution as Distribution
from spectralmc.draws import Draws as Draws
from spectralmc.functionals import ArithmeticAverage as ArithmeticAverage
from spectralmc.functionals import GeometricAverage as GeometricAverage
from spectralmc.functionals import Terminal as Terminal
from spectralmc.market import Quotes as Quotes
from spectralmc.market import Violation as Violation
from spectralmc.market import check_arbitrage as check_arbitrage
from spectralmc.market import read_quotes as read_quotes
from spectralmc.montecarlo import monte_carlo_price as monte_carlo_price
from spectralmc.nn import ComplexLinear as ComplexLinear
from spectralmc.nn import SpectralNetwork as SpectralNetwork
from spectralmc.nn import SplitSiLU as SplitSiLU
from spectralmc.parameters import Market as Market
from spectralmc.parameters import ParameterSpace as ParameterSpace
from spectralmc.parameters import ZeroCurve as ZeroCurve
from spectralmc.paths import Sample as Sample
from spectralmc.paths import simulate as simulate
from spectralmc.pricing import cos_price as cos_price
from spectralmc.processes import BlackScholes as BlackScholes
from spectralmc.processes import TimeGrid as TimeGrid
from spectralmc.records import load_records as load_records
from spectralmc.spectrum import FrequencyGrid as FrequencyGrid
from spectralmc.spectrum import empirical_characteristic_function as empirical_characteristic_function
from spectralmc.surrogate import Surrogate as Surrogate
from spectralmc.surrogate import load as load
from spectralmc.training import Recipe as Recipe
from spectralmc.training import train as train
from spectralmc.verdicts import Verdicts as Verdicts

__version__: str
__all__: list[str]
