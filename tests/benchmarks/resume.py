"""Kill a training run at random moments, resume it in a new process until it is done, and compare every bit with an uninterrupted run.

    python tests/benchmarks/resume.py [--kills 50] [--steps 640] [--dtype float32]

Each trial is killed (SIGKILL) once, at a moment drawn uniformly over the life of a whole run, so that writes of checkpoints are hit too.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import spectralmc as smc

SPACE = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.1, 0.6)}, maturity=(0.1, 2.0), carry=(0.0, 0.08))


def digest(model: smc.Surrogate) -> str:
    """Return a hash of every number of a model that is no time."""
    whole = hashlib.sha256()
    for name, tensor in sorted(model._tensors().items()):
        whole.update(name.encode() + tensor.numpy().tobytes())
    whole.update(repr((model.relative_error, model.record["loss"], model.record["ridge"], model.record["steps"])).encode())
    return whole.hexdigest()


def run(path: Path, steps: int, dtype: str) -> str:
    """Train, from the checkpoint if there is one, and return the hash of the model."""
    torch.set_num_threads(1)
    result = smc.train(
        SPACE, smc.ArithmeticAverage(), steps=steps, seed=5, time_steps=8, recipe=smc.Recipe(paths=64, width=16, depth=2), progress=False,
        dtype=getattr(torch, dtype), checkpoint=path, resume=True, checkpoint_seconds=0.0,
    )  # fmt: skip
    return digest(result.surrogate)


def start(path: Path, steps: int, dtype: str) -> subprocess.Popen[str]:
    """Begin a run in a process of its own."""
    command = [sys.executable, __file__, "--run", str(path), "--steps", str(steps), "--dtype", dtype]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed(path: Path, steps: int, dtype: str, after: float) -> bool:
    """Start a run and kill it after so many seconds; return whether it was still running."""
    process = start(path, steps, dtype)
    try:
        process.wait(after)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def finished(path: Path, steps: int, dtype: str) -> str:
    """Run to the end and return the hash of the model."""
    process = start(path, steps, dtype)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a run ended with status {process.returncode}")
    return output.strip()


def main() -> None:
    """Count the trials whose bits agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=640)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(run(args.run, args.steps, args.dtype))
        return
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        before = time.monotonic()
        expected = finished(Path(folder) / "whole", args.steps, args.dtype)
        life = time.monotonic() - before
        hit = equal = trials = 0
        while hit < args.kills:
            path, trials = Path(folder) / f"trial{trials}", trials + 1
            if not killed(path, args.steps, args.dtype, moments.uniform(0.25, 0.95) * life):
                continue
            hit += 1
            equal += finished(path, args.steps, args.dtype) == expected
            print(f"{hit} kills, {equal} equal to the bit", flush=True)
    print(f"{args.dtype}: {equal} of {hit} killed and resumed runs equal the uninterrupted one to the bit ({life:.1f} s a run)")


if __name__ == "__main__":
    main()
