"""Time a step (forward and backward) of the complex layers on one thread, beside torch's real layers on the same bytes.

    python tests/benchmarks/norm.py [--repeats 60] [--compiled]

Covariance and split batch norm beside BatchNorm with twice the channels; complex linear beside one complex and one real block matmul.
Each row interleaves its contestants, so that a busy machine slows all of them, and shows the least time of each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from spectralmc.nn import ComplexLinear, CovarianceBatchNorm, SplitBatchNorm

SHAPES = [(4096, 64), (65536, 256), (16, 64, 32, 32)]


def least(contestants: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Return the least time of each in milliseconds."""
    best = dict.fromkeys(contestants, float("inf"))
    for i in range(repeats + 3):
        for name, step in contestants.items():
            start = time.perf_counter()
            step()
            if i >= 3:  # after warming up
                best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def step(layer: Callable[[Tensor], Tensor], z: Tensor) -> Callable[[], None]:
    """Return a function that runs forward and backward once."""
    z = z.clone().requires_grad_()
    grad = torch.randn_like(layer(z))

    def run() -> None:
        z.grad = None
        layer(z).backward(grad)

    return run


def norms(shape: tuple[int, ...], compiled: bool) -> dict[str, Callable[[], None]]:
    """Return a step of each normalisation."""
    batch, channels, *rest = shape
    z, x = torch.randn(shape, dtype=torch.complex64), torch.randn(batch, 2 * channels, *rest)
    real = nn.BatchNorm2d(2 * channels) if rest else nn.BatchNorm1d(2 * channels)
    steps = {"real": step(real, x)}
    for name, layer in (("covariance", CovarianceBatchNorm(channels)), ("split", SplitBatchNorm(channels))):
        steps[name] = step(layer, z)
        if compiled:
            steps[f"{name} compiled"] = step(torch.compile(layer), z)
    return steps


def linears(batch: int = 4096, size: int = 512) -> dict[str, Callable[[], None]]:
    """Return a step of the complex linear layer and of its two rivals, without bias."""
    z, x = torch.randn(batch, size, dtype=torch.complex64), torch.randn(batch, 2 * size)
    return {
        "real block matmul": step(nn.Linear(2 * size, 2 * size, bias=False), x),
        "complex matmul": matmul_step(z, size),
        "ComplexLinear": step(ComplexLinear(size, size), z),
    }


def matmul_step(z: Tensor, size: int) -> Callable[[], None]:
    """Return a step of z @ Wᵀ."""
    weight = torch.randn(size, size, dtype=torch.complex64, requires_grad=True)
    return step(lambda t: t @ weight.T, z)


def show(title: str, contestants: dict[str, Callable[[], None]], repeats: int) -> None:
    """Print a row for each contestant, with its time over the first's."""
    times = least(contestants, repeats)
    first = next(iter(times.values()))
    for name, milliseconds in times.items():
        print(f"{title:18s} {name:20s} {milliseconds:9.3f} ms  {milliseconds / first:5.2f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--compiled", action="store_true", help="torch.compile the norms too; needs a C++ compiler")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for shape in SHAPES:
        show(str(shape), norms(shape, args.compiled), args.repeats if shape[0] < 10_000 else 2)
    show("linear 4096 × 512", linears(), max(args.repeats // 10, 3))


if __name__ == "__main__":
    main()
