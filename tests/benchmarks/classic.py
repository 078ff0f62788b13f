"""The classic acceptance: 1000 European contracts under Black–Scholes, relative errors of put and call above a price of 1.

    python tests/benchmarks/classic.py [--steps 1600] [--seed 1]

Three heads: Gaussian base with low-noise labels, Gaussian base with plain Monte-Carlo labels, no base with plain Monte-Carlo labels.
"""

from __future__ import annotations

import argparse
import time

import torch

import spectralmc as smc

HEADS = {
    "Gaussian base, low-noise labels": smc.Recipe(),
    "Gaussian base, plain labels": smc.Recipe(low_noise=False),
    "no base, plain labels": smc.Recipe(low_noise=False, gaussian_base=False),
}


def contracts(count: int = 1000, seed: int = 0) -> dict[str, torch.Tensor]:
    """Spot and strike in 80–120, maturity .1–2 years, rate .01–.1, volatility .1–.5, all uniform."""
    box = {"spot": (80, 120), "strike": (80, 120), "maturity": (0.1, 2.0), "rate": (0.01, 0.1), "volatility": (0.1, 0.5)}
    unit = torch.rand(count, len(box), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {name: low + (high - low) * column for (name, (low, high)), column in zip(box.items(), unit.unbind(1), strict=True)}


def main() -> None:
    """Train each head and print its errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    space = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.1, 0.5)}, maturity=(0.1, 2.0))
    c = contracts()
    forward = c["spot"] * torch.exp(c["rate"] * c["maturity"])
    unit = torch.exp(-c["rate"] * c["maturity"]) * forward
    k = torch.log(c["strike"] / forward)
    print(f"{'head':34s}  kind  left out    mean     95 %      max  process s")
    for name, recipe in HEADS.items():
        cpu = time.process_time()
        trained = smc.train(
            space, smc.Terminal(), steps=args.steps, seed=args.seed, grid=smc.FrequencyGrid(12, 48), recipe=recipe, progress=False
        )
        cpu = time.process_time() - cpu
        for kind in ("call", "put"):
            exact = unit * smc.black_price(k, c["volatility"], c["maturity"], kind)
            learned = unit * trained.surrogate.price({"volatility": c["volatility"]}, c["maturity"], k[:, None], kind).value[:, 0]
            kept = exact > 1
            miss = ((learned - exact) / exact).abs()[kept]
            row = f"{float(miss.mean()):8.2%} {float(miss.quantile(0.95)):8.2%} {float(miss.max()):8.2%}"
            print(f"{name:34s}  {kind:4s}  {int((~kept).sum()):8d} {row} {cpu:9.1f}")


if __name__ == "__main__":
    main()
