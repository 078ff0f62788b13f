"""Processes: one file for each law, with its schemes and, where there is one, its closed-form characteristic function."""

from spectralmc.processes.base import Increment, Process, Scheme, State, TimeGrid, batch_size, column, scheme_of, with_fields
from spectralmc.processes.black_scholes import BlackScholes
from spectralmc.processes.heston import Heston, MeanVariance

__all__ = [
    "BlackScholes",
    "Heston",
    "Increment",
    "MeanVariance",
    "Process",
    "Scheme",
    "State",
    "TimeGrid",
    "batch_size",
    "column",
    "scheme_of",
    "with_fields",
]
