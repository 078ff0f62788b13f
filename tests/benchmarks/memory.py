"""Memory: φ̂ of 2³⁰ path-steps, block by block, and the peak of the process.

Run: python tests/benchmarks/memory.py [log2 of the path-steps]
"""

from __future__ import annotations

import resource
import sys
import time

import torch

import spectralmc as smc

STEPS = 64


def main(size: int) -> None:
    """Print the peak before, at the end, and the time, for an Asian and a Heston sample."""
    torch.set_num_threads(1)
    paths = (1 << size) // STEPS
    for process, functional, options in (
        (smc.BlackScholes(0.2), smc.ArithmeticAverage(), {"control": True}),
        (smc.Heston(0.04, 2.0, 0.04, 0.5, -0.7), smc.Terminal(), {"conditional": True, "control": True}),
    ):
        start = time.process_time()
        grid, draws = smc.TimeGrid(1.0, STEPS), smc.Draws(1)
        blocks = smc.sample_blocks(process, grid, draws, paths, functional, dtype=torch.float32, **options)
        error = smc.empirical_characteristic_function(blocks, [1.0, 5.0, 20.0]).standard_error
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        seconds = time.process_time() - start
        errors = ", ".join(f"{e:.1e}" for e in error[0].tolist())
        name = type(process).__name__
        print(f"{name}: {paths} paths x {STEPS} steps, {seconds:.0f} s, peak {peak:.0f} MiB, standard errors {errors}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
