"""Processes: one file for each law, with its schemes and, where there is one, its closed-form characteristic function."""

from spectralmc.processes.base import Process, Scheme, State, TimeGrid, column, scheme_of
from spectralmc.processes.black_scholes import BlackScholes

__all__ = ["BlackScholes", "Process", "Scheme", "State", "TimeGrid", "column", "scheme_of"]
