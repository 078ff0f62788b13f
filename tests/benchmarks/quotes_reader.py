"""A large book: seconds and peak memory of reading a million quotes, and seconds of the arbitrage checks.

    python tests/benchmarks/quotes_reader.py [--rows 1000000] [--checked 100000]

Each measurement runs in a process of its own; the memory is its peak beyond that of the imports.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from spectralmc.black import black_price
from spectralmc.market import check_arbitrage, read_quotes

STRIKES = 200


def write(path: Path, rows: int, quoted: str, every_bad: int = 0) -> None:
    """Write a flat surface at 25 %, 200 strikes a maturity: a clean book, but for every n-th strike if asked."""
    index = np.arange(rows)
    maturity = torch.as_tensor(0.1 + (index // STRIKES + 1) * 5.0 / (rows // STRIKES + 1))
    strike = torch.as_tensor(50.0 + index % STRIKES / 2)
    price = 100 * black_price(torch.log(strike / 100), 0.25, maturity)
    values = price.tolist() if quoted == "price" else [0.25] * rows
    with path.open("w", encoding="utf-8") as file:
        file.write(f"maturity,strike,{quoted},spot\n")
        for i, (t, k, v) in enumerate(zip(maturity.tolist(), strike.tolist(), values, strict=True)):
            file.write(f"{t!r},{'?' if every_bad and i % every_bad == 0 else k},{v!r},100\n")


def peak_memory() -> float:
    """Return the largest resident memory of this process so far (MiB; Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(path: Path, checked: bool) -> None:
    """Read the file, and check it if asked; print one line."""
    before = peak_memory()
    start, processor = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quotes = read_quotes(path, keep_usable=True)
    read, processor = time.perf_counter() - start, time.process_time() - processor
    peak = peak_memory() - before
    print(
        f"{len(quotes):9,d} quotes in {read:6.2f} s ({processor:.2f} processor s), {peak:4.0f} MiB; {len(quotes.rejected):,d} rejected",
        end="",
    )
    if checked:
        start = time.perf_counter()
        found = check_arbitrage(quotes)
        print(f"; {len(found)} violations found in {time.perf_counter() - start:.2f} s", end="")
    print()


def main() -> None:
    """Time volatilities, prices and a file with bad rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--checked", type=int, default=10**5)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.measure:
        return measure(args.measure, args.check)
    cases = [("volatilities", args.rows, "implied_vol", 0, []), ("prices", args.rows, "price", 0, [])]
    cases += [("one row in ten bad", args.rows, "implied_vol", 10, []), ("checked", args.checked, "price", 0, ["--check"])]
    with tempfile.TemporaryDirectory() as folder:
        for name, rows, quoted, every_bad, options in cases:
            path = Path(folder) / "quotes.csv"
            write(path, rows, quoted, every_bad)
            print(f"{name:20s}", end="", flush=True)
            subprocess.run([sys.executable, __file__, "--measure", path, *options], check=True)


if __name__ == "__main__":
    main()
