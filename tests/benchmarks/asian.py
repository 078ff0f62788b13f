"""Accuracy of the learned arithmetic Asian average against controlled randomised quasi-Monte-Carlo, in basis points of the forward.

    python tests/benchmarks/asian.py [--budget 60] [--seeds 1 2 3] [--points 500] [--paths 65536]

Training and reference run on one thread; times are process seconds, wall seconds beside them.
"""

from __future__ import annotations

import argparse
import time

import torch

import spectralmc as smc

FIXINGS = 32
STRIKES = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)  # ln(K/F)/s


def reference(points: dict[str, torch.Tensor], log_moneyness: torch.Tensor, paths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Put prices on a unit forward and their standard errors, (B, L)."""
    process, grid = smc.BlackScholes(points["volatility"]), smc.TimeGrid(points["maturity"], FIXINGS)
    draws = smc.Draws(seed=2002, sampling="sobol", randomizations=16)
    return smc.monte_carlo_price(process, smc.ArithmeticAverage(), grid, log_moneyness, draws, paths, kind="put", carry=points["carry"])


def main() -> None:
    """Train for every seed and print one row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=60.0, help="process seconds of training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--paths", type=int, default=1 << 16)
    args = parser.parse_args()
    torch.set_num_threads(1)

    test = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.05, 0.6)}, maturity=(0.05, 3.0), carry=(0.0, 0.08))
    box = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.05, 0.8)}, maturity=(0.03, 3.0), carry=(0.0, 0.08))
    points = test.sample(args.points, seed=99)
    truth = error = k = None
    print("seed  steps  process s  wall s   mean   95 %    max  inside bar   (bp of forward)")
    for seed in args.seeds:
        cpu, wall = time.process_time(), time.perf_counter()
        result = smc.train(
            box,
            smc.ArithmeticAverage(),
            budget=args.budget,
            seed=seed,
            time_steps=FIXINGS,
            grid=smc.FrequencyGrid(12, 48),
            progress=False,
        )
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        if truth is None:
            k = STRIKES * result.surrogate.problem.standardisation(points)[1][:, None]
            truth, error = reference(points, k, args.paths)
        price = result.surrogate.price({"volatility": points["volatility"]}, points["maturity"], k, "put", carry=points["carry"])
        miss = (price.value - truth).abs()
        inside = (miss <= price.error + 3 * error).double().mean()
        row = [1e4 * float(x) for x in (miss.mean(), miss.quantile(0.95), miss.max())]
        steps = result.surrogate.record["steps"]
        print(f"{seed:4d} {steps:6d} {cpu:10.1f} {wall:7.1f} {row[0]:6.3f} {row[1]:6.3f} {row[2]:6.2f} {float(inside):11.2%}")
    print(f"reference's own standard error: mean {1e4 * float(error.mean()):.3f}, max {1e4 * float(error.max()):.2f} bp")


if __name__ == "__main__":
    main()
