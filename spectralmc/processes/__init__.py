"""Processes: one file for each law, with its schemes and, where there is one, its closed-form characteristic function."""

from spectralmc.processes.base import Increment, Process, Scheme, State, TimeGrid, batch_size, column, scheme_of, with_fields
from spectralmc.processes.black_scholes import BlackScholes
from spectralmc.processes.correlated import CorrelatedBlackScholes
from spectralmc.processes.heston import Heston, MeanVariance
from spectralmc.processes.jumps import LognormalJumps, WithJumps
from spectralmc.processes.merton import Merton
from spectralmc.processes.variance_gamma import VarianceGamma

__all__ = [
    "BlackScholes",
    "CorrelatedBlackScholes",
    "Heston",
    "Increment",
    "LognormalJumps",
    "MeanVariance",
    "Merton",
    "Process",
    "Scheme",
    "State",
    "TimeGrid",
    "VarianceGamma",
    "WithJumps",
    "batch_size",
    "column",
    "scheme_of",
    "with_fields",
]
