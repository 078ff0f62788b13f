"""A sweep of 64 runs of the covariance batch-norm notebook: its rate on one and on two processes, and what faults leave of it.

    python tests/benchmarks/sweep.py [--runs 64] [--sequential 16] [--out sweeps/benchmark]

One thread a run.  In the second part, on two processes, one worker and one kernel are killed from outside and one run has a parameter
that its notebook cannot use: two clear failures are left, the rest is done, and ``--resume`` makes these two alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import yaml

from spectralmc import sweeps

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "07_covariance_batch_norm.ipynb"
SMALL = {"seeds": 2, "steps": 50, "size": 64, "depth": 3, "conditions": [1.0, 30.0]}


def written(folder: Path, sets: list[dict[str, Any]]) -> Path:
    file = folder / f"sweep-{len(sets)}.yaml"
    file.write_text(yaml.safe_dump({"notebook": str(NOTEBOOK), "parameters": SMALL, "list": sets}, sort_keys=False))
    return file


def rate(file: Path, out: Path, workers: int) -> float:
    start = time.perf_counter()
    records = sweeps.sweep(file, out, workers=workers)
    wall = time.perf_counter() - start
    longest = max(record["seconds"] for record in records)
    print(f"{workers} process(es): {len(records)} runs in {wall:.1f} s, {len(records) / wall:.3f} a second, longest run {longest:.1f} s")
    print(f"   {dict(Counter(record['status'] for record in records))}", flush=True)
    return len(records) / wall


def kill(done: list[str]) -> None:
    """Kill a worker after eight runs and a kernel after sixteen."""
    for after, kernel in ((8, False), (16, True)):
        while len(done) < after:
            time.sleep(0.05)
        while True:
            workers = [psutil.Process(child.pid) for child in multiprocessing.active_children() if child.pid]
            kernels = [
                process for worker in workers for process in worker.children() if "ipykernel_launcher" in " ".join(process.cmdline())
            ]
            if kernels:
                break
            time.sleep(0.05)
        victim = kernels[0] if kernel else kernels[0].parent()
        print(f"killing {'a kernel' if kernel else 'a worker'}, {victim.pid}", flush=True)
        victim.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--sequential", type=int, default=16, help="runs of the sequential rate")
    parser.add_argument("--out", type=Path, default=Path("sweeps/benchmark"))
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    sets: list[dict[str, Any]] = [{"seed": seed} for seed in range(1, options.runs + 1)]
    one = rate(written(options.out, sets[: options.sequential]), options.out / "one", 1)

    faulty = written(options.out, [*sets[:-1], {"seed": 0, "normalizations": ["none", "whatever"]}])
    done: list[str] = []
    threading.Thread(target=kill, args=(done,), daemon=True).start()
    start = time.perf_counter()
    records = sweeps.sweep(faulty, options.out / "two", workers=2, tell=lambda record: done.append(record["name"]))
    wall = time.perf_counter() - start
    print(f"2 processes, with faults: {len(records)} runs in {wall:.1f} s, {dict(Counter(record['status'] for record in records))}")
    for record in records:
        if record["status"] == "failed":
            print(f"   {record['name']}: {record['reason']}")
    print(f"   rate {len(records) / wall:.3f} a second, {len(records) / wall / one:.2f} times the sequential one")
    page = options.out / "two" / "index.html"
    print(f"   {page}: {page.stat().st_size / 1e6:.2f} MB", flush=True)

    before = {record["name"]: record["started"] for record in records}
    again = sweeps.sweep(faulty, options.out / "two", True, workers=2)
    made = [record["name"] for record in again if record["started"] != before[record["name"]]]
    print(f"resumed: made {made}; now {dict(Counter(record['status'] for record in again))}")


if __name__ == "__main__":
    main()
