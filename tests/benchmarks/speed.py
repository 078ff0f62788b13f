"""Speed of simulation on one thread of a CPU, in one run: terminal, arithmetic and geometric average and maximum of 64 fixings.

    python tests/benchmarks/speed.py [--paths 1048576] [--repeats 5]

Rates are the best of the repeats, by process time, interleaved, so that whatever else the machine does falls on all alike.  The first call
is timed in processes of its own, with an empty cache of machine code and with what that one left; so is the peak of memory.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import QuantLib as ql  # noqa: N813
import torch

import spectralmc as smc
from spectralmc import compiled

STEPS, BLOCK, SIGMA = 64, 1 << 16, 0.2
FUNCTIONALS = (smc.Terminal(), smc.ArithmeticAverage(), smc.GeometricAverage(), smc.Maximum())
PROCESSES = {"Black–Scholes": smc.BlackScholes(SIGMA), "Heston": smc.Heston(0.04, 2.0, 0.04, 0.5, -0.7)}


def simulated(name: str, paths: int, steps: int = STEPS, dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    """Return a simulation by the library."""
    return lambda: smc.simulate(PROCESSES[name], smc.TimeGrid(1.0, steps), smc.Draws(1), paths, FUNCTIONALS, dtype=dtype)


def eagerly(run: Callable[[], object]) -> Callable[[], object]:
    """Return the same with torch.compile switched off."""

    def off() -> object:
        with torch._dynamo.config.patch(disable=True):
            return run()

    return off


def filled(paths: int) -> None:
    """Fill a block with torch's normals again and again."""
    z = torch.empty(BLOCK)
    for _ in range(paths * STEPS // BLOCK):
        torch.randn(BLOCK, out=z)


def torch_loop(paths: int) -> None:
    """The loop anyone would write, in blocks that stay in the cache."""
    deviation, drift = SIGMA / math.sqrt(STEPS), -(SIGMA**2) / (2 * STEPS)
    for _ in range(paths // BLOCK):
        x, total, logs, top = (torch.zeros(BLOCK) for _ in range(4))
        for _ in range(STEPS):
            x = x + (drift + deviation * torch.randn(BLOCK))
            total, logs, top = total + torch.exp(x), logs + x, torch.maximum(top, x)


def numpy_loop(paths: int) -> None:
    """The same in NumPy, single precision."""
    deviation, drift = np.float32(SIGMA / math.sqrt(STEPS)), np.float32(-(SIGMA**2) / (2 * STEPS))
    random = np.random.default_rng(1)
    for _ in range(paths // BLOCK):
        x, total, logs, top = (np.zeros(BLOCK, np.float32) for _ in range(4))
        for _ in range(STEPS):
            x = x + (drift + deviation * random.standard_normal(BLOCK, np.float32))
            total, logs, top = total + np.exp(x), logs + x, np.maximum(top, x)


def quantlib(asian: bool, samples: int) -> Callable[[], float]:
    """Return QuantLib's Monte Carlo of one European or arithmetic Asian option."""
    today, day = ql.Date(1, 1, 2024), ql.Actual365Fixed()
    ql.Settings.instance().evaluationDate = today
    curve = ql.YieldTermStructureHandle(ql.FlatForward(today, 0.0, day))
    volatility = ql.BlackVolTermStructureHandle(ql.BlackConstantVol(today, ql.NullCalendar(), SIGMA, day))
    process = ql.BlackScholesMertonProcess(ql.QuoteHandle(ql.SimpleQuote(1.0)), curve, curve, volatility)
    payoff, exercise = ql.PlainVanillaPayoff(ql.Option.Put, 1.0), ql.EuropeanExercise(today + 6 * STEPS)
    if asian:
        dates = [today + 6 * i for i in range(1, STEPS + 1)]
        option = ql.DiscreteAveragingAsianOption(ql.Average.Arithmetic, 0.0, 0, dates, payoff, exercise)
        option.setPricingEngine(ql.MCDiscreteArithmeticAPEngine(process, "pseudorandom", requiredSamples=samples, seed=1))
    else:
        option = ql.VanillaOption(payoff, exercise)
        option.setPricingEngine(ql.MCEuropeanEngine(process, "pseudorandom", timeSteps=STEPS, requiredSamples=samples, seed=1))

    def price() -> float:
        option.recalculate()
        return float(option.NPV())

    return price


def rates(jobs: dict[str, tuple[int, Callable[[], object]]], repeats: int) -> dict[str, float]:
    """Return millions of path-steps a second of each job of so many path-steps."""
    best = dict.fromkeys(jobs, math.inf)
    for _ in range(repeats):
        for name, (_, run) in jobs.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return {name: size / best[name] / 1e6 for name, (size, _) in jobs.items()}


def alone(cache: str, name: str, paths: int) -> list[float]:
    """Return process seconds of a first and a second call, children included, and peak MiB, in a process of its own."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
    command = [sys.executable, __file__, "--alone", name, "--paths", str(paths)]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return [float(x) for x in output.split()]


def spent() -> float:
    """Return process seconds so far, with those of finished children: the compiler."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=1 << 20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--alone", choices=PROCESSES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    paths = given.paths
    if given.alone:
        for _ in range(2):
            start = spent()
            for _ in smc.sample_blocks(
                PROCESSES[given.alone], smc.TimeGrid(1.0, STEPS), smc.Draws(1), paths, FUNCTIONALS[1], dtype=torch.float32
            ):
                pass
            print(spent() - start)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    size, few = paths * STEPS, paths // 16
    jobs: dict[str, tuple[int, Callable[[], object]]] = {
        "torch.randn, filling alone": (size, lambda: filled(paths)),
        "torch loop on randn": (size, lambda: torch_loop(paths)),
        "NumPy loop": (few * STEPS, lambda: numpy_loop(few)),
        "QuantLib MCEuropeanEngine": (few * STEPS, quantlib(False, few)),
        "QuantLib MCDiscreteArithmeticAPEngine": (few * STEPS, quantlib(True, few)),
    }
    for name in PROCESSES:
        jobs[f"{name}, compiled"] = size, simulated(name, paths)
        jobs[f"{name}, eager"] = size, eagerly(simulated(name, paths))
    jobs["Black–Scholes, compiled, float64"] = size, simulated("Black–Scholes", paths, dtype=torch.float64)
    for _, run in jobs.values():
        run()  # compile, load
    found = rates(jobs, given.repeats)
    base = found["torch.randn, filling alone"]
    print(f"{paths} paths × {STEPS} steps, float32, one thread, torch {torch.__version__}: millions of path-steps a second")
    for name, rate in found.items():
        print(f"{name:40s} {rate:8.1f}   {rate / base:6.3f} of randn", flush=True)
    for name, process in PROCESSES.items():
        together = [torch.stack([s.log_outcome for s in run()]) for run in (simulated(name, paths), eagerly(simulated(name, paths)))]
        print(f"{name}: compiled and eager differ by at most {float((together[0] - together[1]).abs().max()):.1e}", type(process).__name__)
    assert not compiled._failed
    with tempfile.TemporaryDirectory() as cache:
        for name in PROCESSES:
            for state in ("nothing cached", "cached on disk"):
                first, second, _ = alone(cache, name, paths)
                print(f"{name}, first call, {state}: {first - second:.1f} s more than the second", flush=True)
        for factor in (1, 8):
            peak = alone(cache, "Black–Scholes", factor * paths)[2]
            print(f"peak of {factor * paths * STEPS} path-steps by sample_blocks: {peak:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
