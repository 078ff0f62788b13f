"""Figures of the model store: how long commit, list, load and the commands take.

    python tests/benchmarks/store.py [--versions 10000]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import spectralmc as smc
from spectralmc.surrogate import packed

SPACE = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.1, 0.5)}, maturity=(0.1, 2.0))


def seconds(act: Callable[[], object]) -> tuple[float, float]:
    """Return wall seconds, and process seconds with those of child processes: what a busy machine does not change."""
    start, before = time.perf_counter(), os.times()
    act()
    return time.perf_counter() - start, sum(os.times()[:4]) - sum(before[:4])


def commits(store: smc.Store, description: dict[str, object], count: int = 50) -> str:
    """Commit different megabytes, each to the disk."""
    took = [seconds(lambda: store.append(description, {"model.safetensors": os.urandom(1 << 20)}))[0] for _ in range(count)]
    return f"median {1e3 * statistics.median(took):.1f} ms, 95th percentile {1e3 * statistics.quantiles(took, n=20)[-1]:.1f} ms of {count}"


def fill(store: smc.Store, model: smc.Surrogate, versions: int) -> None:
    """Commit without waiting for the disk."""
    with mock.patch("os.fsync"):
        for _ in range(versions - 1):
            store.append(packed(model)[0], {"model.safetensors": b"weights"})
        store.commit(model)


def start(folder: str, *words: str) -> str:
    command = [sys.executable, "-m", "spectralmc", "store", *words, "--store", folder]
    took = [seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(9)]
    wall, process = map(statistics.median, zip(*took, strict=True))
    return f"{1e3 * wall:.0f} (process {1e3 * process:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=10_000)
    options = parser.parse_args()
    model = smc.train(SPACE, smc.Terminal(), steps=64, seed=1, progress=False).surrogate
    with tempfile.TemporaryDirectory() as base, contextlib.chdir(Path(__file__).parents[2]):
        small, large = smc.Store(f"{base}/small"), smc.Store(f"{base}/large")
        print("commit of 1 MB:", commits(small, packed(model)[0]))
        words = (("list",), ("show",), ("verify",), ("gc", "--keep", "100"))
        print("commands on 50 versions (ms):", ", ".join(f"{w[0]} {start(small.path, *w)}" for w in words))
        fill(large, model, options.versions)
        record = next((Path(large.path) / "log").iterdir()).stat().st_size
        print(f"{options.versions} versions, records of {record} bytes:")
        for name, act in {"list": large.list, "load latest": large.load, "tags": large.tags, "verify": large.verify}.items():
            wall, process = map(min, zip(*(seconds(act) for _ in range(3)), strict=True))
            print(f"  {name}: {wall:.3f} s (process {process:.2f} s)")
        print(f"  command list (ms): {start(large.path, 'list')}")


if __name__ == "__main__":
    main()
