"""Processes: one file for each law, with its schemes and, where there is one, its closed-form characteristic function."""

from spectralmc.processes.base import Increment, Process, Scheme, State, TimeGrid, batch_size, column, scheme_of, with_fields
from spectralmc.processes.black_scholes import BlackScholes

__all__ = ["BlackScholes", "Increment", "Process", "Scheme", "State", "TimeGrid", "batch_size", "column", "scheme_of", "with_fields"]
