"""Accuracy of learned prices on held-out parameters × seven strikes, in basis points of the forward.

    python tests/benchmarks/learn.py {heston,asian,maximum,gamma} [--budget 300] [--seeds 1 2 3] [--points 512] [--save FOLDER]

Truth: the exact φ where known (Heston, variance gamma); else a simulation with at least four times finer steps and many more paths, whose
own standard error is printed.  Held-out parameters are drawn like the training box, then uniformly.  One thread; process seconds, wall
beside them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import spectralmc as smc
from spectralmc.labels import Labeller
from spectralmc.problem import Outputs, Problem
from spectralmc.processes import Heston, VarianceGamma

STRIKES = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)  # ln(K/F)/s
HESTON = {
    "initial_variance": (0.02, 0.25),
    "mean_reversion": (0.5, 5.0),
    "long_run_variance": (0.02, 0.25),
    "vol_of_variance": (0.1, 0.8),
    "correlation": (-0.95, 0.5),
}
LOGARITHMIC = ("initial_variance", "mean_reversion", "long_run_variance", "maturity")
GAMMA = {"volatility": (0.1, 0.5), "drift": (-0.3, 0.1), "variance_rate": (0.05, 0.4)}


@dataclass(frozen=True)
class Box:
    """What is learned, with what, and how long."""

    space: smc.ParameterSpace
    functional: Any
    time_steps: int
    budget: float
    substeps: int = 1
    grid: smc.FrequencyGrid = field(default_factory=smc.FrequencyGrid)
    recipe: smc.Recipe = field(default_factory=smc.Recipe)
    exact: bool = False


BOXES = {
    "heston": Box(
        smc.ParameterSpace(Heston, HESTON, (0.05, 3.0), logarithmic=LOGARITHMIC),
        smc.Terminal(),
        24,
        300.0,
        recipe=smc.Recipe(paths=1024, fresh=4),
        exact=True,
    ),
    "asian": Box(
        smc.ParameterSpace(Heston, HESTON, (0.05, 3.0), (0.0, 0.08), logarithmic=LOGARITHMIC),
        smc.ArithmeticAverage(),
        32,
        300.0,
        recipe=smc.Recipe(paths=1024, fresh=4, batch=128),
    ),
    "maximum": Box(
        smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.05, 0.6)}, (0.05, 3.0), (0.0, 0.08)), smc.Maximum(), 64, 120.0
    ),
    "gamma": Box(smc.ParameterSpace(VarianceGamma, GAMMA, (0.25, 3.0)), smc.Terminal(), 1, 120.0, exact=True),
}


def exact_puts(space: smc.ParameterSpace, points: dict[str, Tensor], k: Tensor) -> Tensor:
    """Put prices (B, L) from the closed form, on a grid of its own that is wide and fine enough."""
    law = smc.Distribution.of(space.at(points), points["maturity"], smc.FrequencyGrid(30.0, 4096))
    return torch.cat([smc.cos_price(_row(law, i), k[i], "put")[None] for i in range(len(k))])


def _row(law: smc.Distribution, i: int) -> smc.Distribution:
    return smc.Distribution(law.values[i], law.grid, law.location[i], law.scale[i])


def simulated_puts(model: smc.Surrogate, points: dict[str, Tensor], paths: int, copies: int = 4) -> tuple[Tensor, Tensor]:
    """Put prices over s (B, L) by independent simulations with four times the steps, and their standard errors."""
    problem = model.problem
    finer = 4 * problem.substeps if not getattr(problem.space.example, "lognormal", False) else 1
    fine = replace(problem, substeps=finer, grid=smc.FrequencyGrid(16.0, 384))
    labeller, judge = Labeller(fine, 777), replace(model, problem=fine)
    distance = STRIKES.expand(len(points["maturity"]), -1)
    found: list[Tensor] = []
    for copy in range(copies):
        outputs: Outputs = labeller(points, paths // copies, 99, copy * len(distance))
        found.append(relative_puts(judge, fine, points, distance, outputs))
    every = torch.stack(found)
    return every.mean(0), every.std(0) / copies**0.5


def relative_puts(model: smc.Surrogate, problem: Problem, points: dict[str, Tensor], distance: Tensor, outputs: Outputs) -> Tensor:
    """Put prices over s of these outputs."""
    standard = problem.standard(points)
    k = distance * standard.scale[:, None] + torch.log(outputs.forward)[:, None]
    put, _ = model._puts(standard, outputs, k)
    return put / (outputs.forward * standard.scale)[:, None]


def report(name: str, error: Tensor) -> None:
    """Print mean, median, 95th percentile and maximum of |error|, in basis points, and the mean by strike."""
    e = 1e4 * error.abs()
    whole = f"{name:28s} mean {e.mean():.3f}  median {e.median():.3f}  95 % {e.flatten().quantile(0.95):.3f}  max {e.max():.2f} bp"
    print(whole + "   by strike " + " ".join(f"{x:.2f}" for x in e.mean(0)), flush=True)


def heston_extras(model: smc.Surrogate, points: dict[str, Tensor], k: Tensor, truth: Tensor) -> None:
    """Print errors of implied volatility, delta and quantiles against the closed form."""
    space, t = model.problem.space, points["maturity"]
    parameters = {n: points[n] for n in HESTON}
    learned = model.price(parameters, t, k, "put").value
    middle = [smc.implied_volatility(x[:, 3] + (1 - torch.exp(k[:, 3])), k[:, 3], t, "call") for x in (learned, truth)]
    vol = 1e4 * (middle[0] - middle[1]).abs()
    print(f"  at-the-money implied volatility: mean {vol.mean():.3f} vol bp")
    exact = smc.Distribution.of(space.at(points), t, smc.FrequencyGrid(30.0, 2048))
    ours = model.distribution(parameters, t)
    # delta of a call on a unit forward: ∂/∂F of F·c(k − ln F) = c − c' = 1 − (share of the measure of the asset below the strike)
    z = [(k - law.location[:, None]) / law.scale[:, None] for law in (ours, exact)]
    share = [torch.exp(law.location)[:, None] * law.partial_expectation(x, law.scale) for law, x in zip((ours, exact), z, strict=True)]
    print(f"  delta: mean {(share[0] - share[1]).abs().mean():.2e}, max {(share[0] - share[1]).abs().max():.2e}")
    p = torch.tensor([0.01, 0.05, 0.5, 0.95, 0.99]).double()
    gap = (ours.quantile(p) - exact.quantile(p)).abs() / exact.scale[:, None]
    print("  quantiles 1, 5, 50, 95, 99 %: mean " + ", ".join(f"{x:.4f}" for x in gap.mean(0)) + " standard deviations")


def main() -> None:
    """Train for every seed and print its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("box", choices=sorted(BOXES))
    parser.add_argument("--budget", type=float)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--points", type=int, default=512)
    parser.add_argument("--paths", type=int, default=1 << 16, help="of the simulated truth")
    parser.add_argument("--save", type=Path, help="folder for the trained models")
    parser.add_argument("--recipe", nargs="*", default=[], help="changes, as width=96 fresh=4")
    parser.add_argument("--steps-of-path", type=int, help="time_steps in the place of the box's")
    args = parser.parse_args()
    torch.set_num_threads(1)
    box = BOXES[args.box]
    changes = {name: type(getattr(box.recipe, name))(eval(value)) for name, value in (item.split("=") for item in args.recipe)}
    recipe = replace(box.recipe, **changes)
    uniform = smc.ParameterSpace(box.space.process, box.space.bounds, box.space.maturity, box.space.carry, logarithmic=())
    for seed in args.seeds:
        cpu, wall = time.process_time(), time.perf_counter()
        result = smc.train(
            box.space, box.functional, budget=args.budget or box.budget, seed=seed, time_steps=args.steps_of_path or box.time_steps,
            substeps=box.substeps, grid=box.grid, recipe=recipe, progress=False,
        )  # fmt: skip
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        model = result.surrogate
        if args.save:
            model.save(args.save / f"{args.box}-{seed}.safetensors")
        r = model.record
        print(f"{args.box} seed {seed}: {cpu:.1f} process s, {wall:.1f} wall s, {r['steps']} steps, {r['parameter_sets']} sets, "
              f"{r['paths'] / 1e6:.1f} M paths, ridge {r['ridge']}, bar at 99 % {1e4 * model.relative_error:.2f}e-4 s")  # fmt: skip
        for name, space in (("drawn as trained", box.space), ("drawn uniformly", uniform)):
            points = space.sample(args.points, seed=2024)
            scale = model.problem.standard(points).scale
            k = STRIKES * scale[:, None]
            if box.exact:
                truth, noise = exact_puts(box.space, points, k), None
            else:
                relative, spread = simulated_puts(model, points, args.paths)
                truth, noise = relative * scale[:, None], 1e4 * spread * scale[:, None]
            named = {n: v for n, v in points.items() if n not in ("maturity", "carry")}
            price = model.price(named, points["maturity"], k, "put", points["carry"])
            report(f"  {name}", price.value - truth)
            covered = ((price.value - truth).abs() <= price.error).double().mean()
            print(f"  inside the bar {100 * covered:.2f} %, median bar {1e4 * price.error.median():.3f} bp", end="")
            print("" if noise is None else f"; standard error of the truth: mean {noise.mean():.3f}, max {noise.max():.2f} bp", flush=True)
            if args.box == "heston" and space is box.space:
                heston_extras(model, points, k, truth)


if __name__ == "__main__":
    main()
