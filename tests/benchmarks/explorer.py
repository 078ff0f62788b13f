"""Measure the explorer in a real browser: 50 drags of a slider in JupyterLab, from the pointer's move to the frame that shows it.

    python tests/benchmarks/explorer.py [--drags 50] [--json FILE]

Needs the extras lab and browser, and a Chromium.  The model is a surrogate of Heston's price at maturity with its closed form beside it:
every panel, both laws and all Greeks are redrawn.  A latency is the time from the event of the move that a frame shows to the end of its
drawing; moves that a newer one overtook have none.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

sys.path.insert(0, str(Path(__file__).parents[1]))
from lab import Lab, Tab, browser

BOX = {
    "initial_variance": (0.02, 0.25), "mean_reversion": (0.5, 5.0), "long_run_variance": (0.02, 0.25), "vol_of_variance": (0.1, 0.8),
    "correlation": (-0.9, 0.4),
}  # fmt: skip
CELLS = [
    "import torch, spectralmc as smc\ntorch.set_num_threads(1)",
    f"space = smc.ParameterSpace(smc.Heston, {BOX}, maturity=(0.1, 3.0))",
    "model = smc.train(space, smc.Terminal(), steps=8, seed=1, time_steps=32, recipe=smc.Recipe(paths=128), progress=False).surrogate",
    "smc.explore(model, market=smc.Market(100.0, 0.03))",
]
RECORD = """() => { window.frames_ = []; window.moves_ = 0;
    document.addEventListener('input', () => { window.moves_ += 1; }, true);
    document.addEventListener('spectralmc:drawn', e => window.frames_.push(e.detail)); }"""


def drag(page: Any, slider: Any, seconds: float, period: float) -> None:
    """Drag a slider's thumb to and fro with the mouse, a move every ``period`` seconds."""
    box = slider.bounding_box()
    middle, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    reach, steps = 0.35 * box["width"], round(seconds / period)
    start = time.perf_counter()
    page.mouse.move(middle, y)
    page.mouse.down()
    for i in range(steps):
        page.mouse.move(middle + reach * math.sin(2 * math.pi * (i + 1) / steps), y)
        time.sleep(max(0.0, start + (i + 1) * period - time.perf_counter()))
    page.mouse.up()


def measured(page: Any, drags: int, seconds: float, period: float) -> list[dict[str, Any]]:
    """Return what each drag gave: its latencies (ms), its length (s) and its moves."""
    sliders = page.locator(".smc-explorer input[type=range]")
    found = []
    for number in range(drags):
        slider = sliders.nth(number % sliders.count())
        slider.scroll_into_view_if_needed()
        page.evaluate("() => { window.frames_ = []; window.moves_ = 0; }")
        start = time.perf_counter()
        drag(page, slider, seconds, period)
        length = time.perf_counter() - start
        page.wait_for_timeout(400)  # until the simulated law of the rest is drawn
        frames, moves = page.evaluate("() => [window.frames_, window.moves_]")
        latencies = [frame["latency"] for frame in frames if frame["latency"] is not None]
        print(f"drag {number + 1}: {len(latencies)} redraws in {length:.2f} s", file=sys.stderr)
        found.append({"latencies": latencies, "seconds": length, "moves": moves})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--drags", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=0.8, help="length of a drag")
    parser.add_argument("--period", type=float, default=1 / 60, help="seconds between two moves of the mouse")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="a screenshot at the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="smc") as name:
        folder = Path(name)
        for part in ("work", "state"):
            (folder / part).mkdir()
        book = new_notebook(cells=[new_code_cell(cell) for cell in CELLS])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, folder / "work" / "explorer.ipynb")
        with Lab(folder / "work", folder / "state") as lab, browser() as context:
            tab = Tab(context.new_page(), lab)
            tab.open("explorer.ipynb")
            if failed := tab.run_all():
                print(*failed, sep="\n", file=sys.stderr)
                return 1
            tab.page.locator(".smc-explorer[data-drawn]").wait_for(timeout=60_000)
            tab.page.evaluate(RECORD)
            measured(tab.page, 3, options.seconds, options.period)  # warm
            drags = measured(tab.page, options.drags, options.seconds, options.period)
            if options.picture:
                tab.page.locator(".smc-explorer").screenshot(path=options.picture)
            if tab.errors or tab.outside:
                print("in the page:", *tab.errors, *tab.outside, sep="\n", file=sys.stderr)
                return 1
    latencies = sorted(latency for each in drags for latency in each["latencies"])
    rates = sorted(len(each["latencies"]) / each["seconds"] for each in drags)
    figures = {
        "drags": len(drags),
        "redraws": len(latencies),
        "median_ms": statistics.median(latencies),
        "p95_ms": latencies[int(0.95 * len(latencies))],
        "worst_ms": latencies[-1],
        "redraws_per_s": statistics.median(rates),
        "slowest_drag_per_s": rates[0],
        "moves_per_s": statistics.median(each["moves"] / each["seconds"] for each in drags),
    }
    print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
