"""Whether error bars cover what they say, on parameters they were not calibrated on: one strike a point, against the exact φ.

    python tests/benchmarks/calibration.py {heston,gamma} MODEL.safetensors [--points 10000] [--recalibrate]

Models are saved by ``learn.py BOX --save FOLDER``.  Points are drawn as the training box is, then uniformly; ln(K/F)/s uniformly in ±2.
Wanted of bars at 99 %: coverage 98.5 to 99.6 %, at least 97 % in every decile of s and of |ln(K/F)/s|, the median bar at most five times
the median error.  ``--recalibrate`` makes the bars anew from fresh simulations, as training does at its end.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from learn import BOXES
from torch import Tensor

import spectralmc as smc
from spectralmc.calibration import SHARE, calibrated, design
from spectralmc.draws import Draws
from spectralmc.labels import Labeller

_AT_ONCE = 500
_WIDE = smc.FrequencyGrid(30.0, 1536)


def exact_puts(space: smc.ParameterSpace, points: dict[str, Tensor], k: Tensor) -> Tensor:
    """Return exact put prices at one strike of each point, (B,)."""
    parts = []
    for first in range(0, len(k), _AT_ONCE):
        rows = {name: column[first : first + _AT_ONCE] for name, column in points.items()}
        law = smc.Distribution.of(space.at(rows), rows["maturity"], _WIDE)
        parts.append(smc.cos_price(law, k[first : first + _AT_ONCE, None], "put")[:, 0])
    return torch.cat(parts)


def deciles(covered: Tensor, by: Tensor) -> str:
    """Return the coverage in each decile of ``by``, in per cent."""
    order = torch.argsort(by)
    return " ".join(f"{100 * part.double().mean():.1f}" for part in covered[order].tensor_split(10))


def report(model: smc.Surrogate, space: smc.ParameterSpace, points: int, name: str) -> None:
    """Print coverage, deciles and width over points drawn in this space."""
    drawn = space.sample(points, seed=31)
    distance = 4 * Draws(31, stream=1).uniforms(range(points), 1)[:, 0] - 2
    scale = model.problem.standard(drawn).scale
    k = distance * scale
    price = model.price({n: drawn[n] for n in space.names}, drawn["maturity"], k[:, None], "put")
    error = (price.value[:, 0] - exact_puts(space, drawn, k)).abs()
    covered = error <= price.error[:, 0]
    ratio = price.error.median() / error.median()
    print(f"{name}: inside the bar {100 * covered.double().mean():.2f} %, median bar {1e4 * price.error.median():.3f} bp, "
          f"median error {1e4 * error.median():.3f} bp: {ratio:.1f} times")  # fmt: skip
    for what, by in (("s", scale), ("|ln(K/F)|/s", distance.abs())):
        print(f"  by decile of {what:12s} {deciles(covered, by)}", flush=True)


def recalibrated(model: smc.Surrogate) -> smc.Surrogate:
    """Return the model with bars made anew, with as many paths as at the end of its training."""
    record, recipe = model.record, model.record["recipe"]
    sets, paths = design(int(SHARE * record["paths"]), 4 * recipe["paths"])
    found = calibrated(model, Labeller(model.problem, record["seed"], recipe["low_noise"], torch.float32), sets, paths)
    return replace(model, bars=found.bars, relative_error=found.percentile)


def main() -> None:
    """Print both draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("box", choices=[name for name, box in BOXES.items() if box.exact])
    parser.add_argument("model", type=Path)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--recalibrate", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, space = smc.load(args.model), BOXES[args.box].space
    if args.recalibrate:
        before = time.process_time()
        model = recalibrated(model)
        print(f"calibrated in {time.process_time() - before:.1f} process s (training took {model.record['process_seconds']})")
    report(model, space, args.points, "drawn as trained")
    report(model, replace(space, logarithmic=()), args.points, "drawn uniformly")


if __name__ == "__main__":
    main()
