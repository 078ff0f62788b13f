"""How much noise each axis takes out of a label: the variance of φ̂ and of the price against plain Monte Carlo, and at equal CPU time.

Run: python tests/benchmarks/labels.py [repeats]

Heston, 96 scrambled-Sobol points of the box below, labels of 256 paths of 16 steps; every combination of Sobol points with a bridge,
antithetic pairs, conditional Monte Carlo and the control.  A variance is that over repeats with other seeds, averaged over points and
frequencies (of Z = (X + s²/2)/s), or over points and strikes ln(K/F)/s; prices are puts of the label itself.  Lower bounds are one-sided
95 %, from the spread over the repeats.  Process time of one thread: simulation and label.
"""

from __future__ import annotations

import itertools
import math
import sys
import time

import torch
from torch import Tensor

import spectralmc as smc
from spectralmc.spectrum import mean_contributions

BOX = {
    "mean_reversion": (0.5, 5.0),
    "long_run_variance": (0.02, 0.25),
    "initial_variance": (0.02, 0.25),
    "vol_of_variance": (0.1, 0.8),
    "correlation": (-0.95, 0.5),
}
SPACE = smc.ParameterSpace(smc.Heston, BOX, maturity=(0.05, 3.0))
POINTS = SPACE.sample(96, seed=1)
PROCESS, TIMES = SPACE.at(POINTS), smc.TimeGrid(POINTS["maturity"], 16)
GRID = smc.FrequencyGrid(16.0, 64)
SCALE = torch.sqrt(PROCESS.integrated_variance(POINTS["maturity"]))
STRIKES = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64) * SCALE[:, None]
PATHS = 256


def estimates(draws: smc.Draws, **options: bool) -> tuple[Tensor, Tensor, float]:
    """Return φ̂ (96, K), the puts (96, 7), and the process seconds that φ̂ took."""
    start = time.process_time()
    sample = smc.simulate(PROCESS, TIMES, draws, PATHS, smc.Terminal(), dtype=torch.float32, **options)
    phi = mean_contributions(sample, GRID, -(SCALE**2) / 2, SCALE)
    seconds = time.process_time() - start
    return phi, smc.cos_price(smc.Distribution(phi, GRID, -(SCALE**2) / 2, SCALE), STRIKES, "put"), seconds


def noise(values: list[Tensor]) -> Tensor:
    """Return the squared deviation of each repeat from their mean, averaged over its entries: unbiased for the variance."""
    stacked = torch.stack(values)
    square = (stacked - stacked.mean(0)).abs().square().flatten(1).mean(1)
    return square * len(values) / (len(values) - 1)


def bound(plain: Tensor, low: Tensor) -> tuple[float, float]:
    """Return the ratio of two mean squares and its lower 95 % bound."""
    ratio = float(plain.mean() / low.mean())
    error = math.hypot(*(float(x.std() / x.mean()) / math.sqrt(len(x)) for x in (plain, low)))
    return ratio, ratio * math.exp(-1.645 * error)


def main(repeats: int) -> None:
    """Print one row for each combination."""
    torch.set_num_threads(1)
    kinds = itertools.product(("independent", "sobol"), (False, True), (False, True), (False, True))
    plain: tuple[Tensor, Tensor, float] | None = None
    print(f"{repeats} repeats, torch {torch.__version__}")
    print("sampling    antithetic conditional control | rms φ  ratio (at least) | rms put, bp  ratio (at least) | µs/path | at equal time")
    for sampling, antithetic, conditional, control in kinds:
        runs = []
        for seed in range(repeats + 1):
            draws = smc.Draws(seed, sampling, randomizations=1, antithetic=antithetic)
            runs.append(estimates(draws, conditional=conditional, control=control))
        phi, put = (noise([run[i] for run in runs[1:]]) for i in (0, 1))
        seconds = sorted(run[2] for run in runs[1:])[repeats // 2]
        plain = plain or (phi, put, seconds)
        cost = seconds / plain[2]
        row = f"{sampling:11s} {antithetic!s:10s} {conditional!s:11s} {control!s:7s} "
        for reference, found, unit in ((plain[0], phi, 1.0), (plain[1], put, 1e4)):
            ratio, least = bound(reference, found)
            row += f"| {unit * math.sqrt(found.mean()):9.2e}  {ratio:6.0f} ({least:5.0f}) "
        equal = (float(reference.mean() / found.mean()) / cost for reference, found in ((plain[0], phi), (plain[1], put)))
        print(row + f"| {1e6 * seconds / 96 / PATHS:6.2f} | " + " ".join(f"{x:6.0f}" for x in equal), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64)
