"""What a price costs: a model of Heston's box against its closed form, in one thread and one process.

    python tests/benchmarks/inference.py MODEL.safetensors [SMALLER.safetensors …] [--seconds 2]

Models are saved by ``learn.py heston --save FOLDER [--recipe width=24]``; each row tells the error of the model on 256 held-out points too.
A contract is one parameter set with seven strikes, its call prices and error bars, through ``Surrogate.price``.  The closed form is priced
by QuantLib's analytic engine, strike by strike, and by the cosine series of this package with the exact φ.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from learn import BOXES, STRIKES, exact_puts
from torch import Tensor

import spectralmc as smc
from spectralmc.pricing import put_series

SPACE = BOXES["heston"].space
BATCH = 10_000
_ROUNDS = 7


def seconds(call: Callable[[], Any], budget: float) -> float:
    """Return process seconds a call: the median of rounds that share the budget."""
    call()
    before = time.process_time()
    call()
    number = max(int(budget / _ROUNDS / max(time.process_time() - before, 1e-6)), 1)
    rounds = []
    for _ in range(_ROUNDS):
        before = time.process_time()
        for _ in range(number):
            call()
        rounds.append((time.process_time() - before) / number)
    return sorted(rounds)[_ROUNDS // 2]


def contracts(sets: int, seed: int = 5) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return parameters and maturities (B,), and strikes (B, 7) at ln(K/F)/s in ±2."""
    points = SPACE.sample(sets, seed)
    scale = torch.sqrt(SPACE.at(points).integrated_variance(points["maturity"]))
    return {n: points[n] for n in SPACE.names}, points["maturity"], STRIKES * scale[:, None]


def error(model: smc.Surrogate) -> Tensor:
    """Return |price error| (256, 7) in basis points of the forward."""
    parameters, maturity, k = contracts(256, seed=2024)
    truth = exact_puts(SPACE, {**parameters, "maturity": maturity, "carry": torch.zeros_like(maturity)}, k)
    return 1e4 * (model.price(parameters, maturity, k, "put").value - truth).abs()


def learned(path: Path, budget: float) -> None:
    """Print the row of a model: both prices of time, then its accuracy."""
    model = smc.load(path)
    parameters, maturity, k = contracts(BATCH)
    one, t, strikes = {n: float(x[0]) for n, x in parameters.items()}, float(maturity[0]), k[0]
    single = 1e6 * seconds(lambda: model.price(one, t, strikes), budget)
    many = 1e6 * seconds(lambda: model.price(parameters, maturity, k), budget) / BATCH
    e, shape = error(model), model.network.description
    size = sum(weight.numel() * (2 if weight.is_complex() else 1) for weight in model.network.parameters())
    name = f"{path.name}, width {shape['width']}, depth {shape['depth']}, {size} real numbers"  # type: ignore[index]
    print(f"{name:64s} {single:8.1f} µs one contract {many:8.2f} µs at batch {BATCH}"
          f"   error mean {e.mean():.3f}, 95 % {e.flatten().quantile(0.95):.3f}, max {e.max():.2f} bp", flush=True)  # fmt: skip


def cos_puts(process: smc.Heston, maturity: Tensor, k: Tensor, grid: smc.FrequencyGrid) -> Tensor:
    """Return put prices (B, L) from the exact φ by their Fourier series on ±L standard deviations, which is all there is to do."""
    s = torch.sqrt(process.integrated_variance(maturity))[:, None]
    w, m = grid.frequency, -(s**2) / 2
    values = process.characteristic_function(w / s, maturity) * torch.exp(-1j * w * m / s)
    series = put_series(grid, m[:, 0], s[:, 0], k)
    return series.constant + (series.weights * values[:, None]).real.sum(-1)


def exact(budget: float) -> None:
    """Print the row of the closed form with the series of this package: on the grid of the models, and on one that leaves no error."""
    for grid in (smc.FrequencyGrid(), smc.FrequencyGrid(24.0, 192)):
        rows = []
        for sets in (1, 1000):
            parameters, maturity, k = contracts(sets)
            process = smc.Heston(**parameters)
            rows.append(1e6 * seconds(lambda p=process, t=maturity, k=k, g=grid: cos_puts(p, t, k, g), budget) / sets)
        name = f"exact φ, cosine series of {grid.size} terms"
        print(f"{name:64s} {rows[0]:8.1f} µs one contract {rows[1]:8.2f} µs at batch 1000", flush=True)


def quantlib(budget: float) -> None:
    """Print the row of QuantLib's analytic engine: pricing of made instruments, and with the model made for each contract."""
    try:
        ql: Any = importlib.import_module("QuantLib")
    except ImportError:
        print("QuantLib is not installed")
        return
    parameters, maturity, k = contracts(32)
    today = ql.Date(2, 1, 2024)
    ql.Settings.instance().evaluationDate = today
    curve = ql.YieldTermStructureHandle(ql.FlatForward(today, 0.0, ql.Actual365Fixed()))

    def engine(i: int) -> Any:
        v0, kappa, theta, xi, rho = (float(parameters[n][i]) for n in SPACE.names)
        process = ql.HestonProcess(curve, curve, ql.QuoteHandle(ql.SimpleQuote(1.0)), v0, kappa, theta, xi, rho)
        return ql.AnalyticHestonEngine(ql.HestonModel(process))

    def options(i: int) -> Iterator[Any]:
        exercise = ql.EuropeanExercise(today + max(round(365 * float(maturity[i])), 1))
        for strike in torch.exp(k[i]).tolist():
            yield ql.VanillaOption(ql.PlainVanillaPayoff(ql.Option.Call, strike), exercise)

    def priced(ready: list[tuple[Any, list[Any]]]) -> None:
        for made, book in ready:
            for option in book:
                option.setPricingEngine(made)  # forgets the price before
                option.NPV()

    ready = [(engine(i), list(options(i))) for i in range(len(maturity))]
    warm = 1e6 * seconds(lambda: priced(ready), budget) / len(ready)
    cold = 1e6 * seconds(lambda: priced([(engine(i), list(options(i))) for i in range(len(maturity))]), budget) / len(ready)
    print(f"{'QuantLib ' + ql.__version__ + ', analytic Heston':64s} {warm:8.1f} µs a contract ({warm / 7:.1f} µs an option), "
          f"{cold:.1f} with instruments and model made anew", flush=True)  # fmt: skip


def main() -> None:
    """Print every row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring, a figure")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("process µs a contract of seven strikes, one thread")
    for path in args.models:
        learned(path, args.seconds)
    exact(args.seconds)
    quantlib(args.seconds)


if __name__ == "__main__":
    main()
