"""What several test files share: a small trained surrogate of each kind, made once a session, and statistical bounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

import spectralmc as smc
from spectralmc.training import TrainingResult

TERMINAL = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.1, 0.5)}, maturity=(0.1, 2.0), carry=(0.0, 0.08))
ASIAN = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.1, 0.6)}, maturity=(0.1, 2.0), carry=(0.0, 0.08))
SMALL = smc.Recipe(paths=128, width=16, depth=1)


@lru_cache(maxsize=1)
def asian_result() -> TrainingResult:
    """The arithmetic average of 8 fixings under Black–Scholes, low-noise labels on the Gaussian base."""
    recipe = smc.Recipe(paths=256, width=24, depth=2)
    return smc.train(ASIAN, smc.ArithmeticAverage(), steps=128, seed=1, time_steps=8, recipe=recipe, progress=False)


def asian() -> smc.Surrogate:
    """Return the surrogate of `asian_result`."""
    return asian_result().surrogate


@lru_cache(maxsize=1)
def terminal() -> smc.Surrogate:
    """The price at maturity under Black–Scholes: the control is the outcome itself, so the answer is known."""
    return smc.train(TERMINAL, smc.Terminal(), steps=64, seed=2, recipe=SMALL, progress=False).surrogate


def sigmas(comparisons: int, level: float = 1e-3) -> float:
    """Return how many standard errors ``comparisons`` independent normals all stay within, but for probability ``level``.

    A single comparison uses 4 (level 6e-5); a family divides its level among its members (Bonferroni).
    """
    return max(4.0, -statistics.NormalDist().inv_cdf(level / comparisons / 2))


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Run torch on ``number`` threads, then go back."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
