"""The README's figure: put prices of a learned Asian average against controlled quasi-Monte-Carlo.

python tests/benchmarks/readme_figure.py notebooks/images/asian.png
"""

from __future__ import annotations

import argparse

import torch

import spectralmc as smc
from spectralmc import figures

CASES = {"σ = 15 %, T = 1 month": (0.15, 1 / 12), "σ = 30 %, T = 1 year": (0.3, 1.0), "σ = 60 %, T = 3 years": (0.6, 3.0)}
CARRY, FIXINGS = 0.03, 32


def main() -> None:
    """Train, price both ways and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    box = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.05, 0.8)}, maturity=(0.03, 3.0), carry=(0.0, 0.08))
    average = smc.ArithmeticAverage()
    model = smc.train(box, average, steps=3000, seed=1, time_steps=FIXINGS, grid=smc.FrequencyGrid(12, 48), progress=False).surrogate
    panels = {}
    for title, (volatility, maturity) in CASES.items():
        law = model.distribution({"volatility": volatility}, maturity, CARRY)
        k = law.scale * torch.linspace(-2, 2, 9, dtype=torch.float64)
        draws = smc.Draws(seed=2002, sampling="sobol")
        truth = smc.monte_carlo_price(
            smc.BlackScholes(volatility), average, smc.TimeGrid(maturity, FIXINGS), k, draws, 2**18, kind="put", carry=CARRY
        )
        fine = law.scale * torch.linspace(-2, 2, 81, dtype=torch.float64)
        curve, there = smc.cos_price(law, fine, "put"), smc.cos_price(law, k, "put")
        panels[title] = figures.Curves(fine, empirical=truth.value[0], error=truth.standard_error[0], learned=curve, at=k, there=there)
    figures.prices(panels).savefig(args.file)


if __name__ == "__main__":
    main()
