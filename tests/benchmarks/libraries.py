"""What covariance batch norm does at the border of what has a covariance, here and in five other libraries, and what a step costs.

    pip install torchcvnn complextorch complexPyTorch cplxmodule pytorch-complex     # in an environment of their own
    python tests/benchmarks/libraries.py [--repeats 30]

Each cell is ok, NaN (in output or gradient) or the kind of error raised.  A library that is not installed is shown as skipped.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spectralmc.nn import CovarianceBatchNorm

LIBRARIES = {  # name: module and class of its covariance batch norm
    "torchcvnn": ("torchcvnn.nn", "BatchNorm1d"),
    "complextorch": ("complextorch.nn", "BatchNorm1d"),
    "complexPyTorch": ("complexPyTorch.complexLayers", "ComplexBatchNorm1d"),
    "cplxmodule": ("cplxmodule.nn", "CplxBatchNorm1d"),
    "pytorch-complex": ("torchcomplex.nn", "BatchNorm1d"),
}


def made(name: str) -> Callable[..., nn.Module] | None:
    """Return the class of a library, or None where it is not installed."""
    if name == "SpectralMC":
        return CovarianceBatchNorm
    module, kind = LIBRARIES[name]
    try:
        found: Callable[..., nn.Module] = getattr(importlib.import_module(module), kind)
    except ImportError:
        return None
    return found


def applied(name: str, layer: nn.Module, z: Tensor) -> Tensor:
    """Return the layer's output as a complex tensor: cplxmodule has a type of its own."""
    if name != "cplxmodule":
        result: Tensor = layer(z)
        return result
    cplx: Any = importlib.import_module("cplxmodule").Cplx
    out = layer(cplx(z.real, z.imag))
    return torch.complex(out.real, out.imag)


def cases() -> dict[str, tuple[int, dict[str, Any], Tensor, bool]]:
    """Return channels, settings, batch and whether it is in training, for each case."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(64, 3, dtype=torch.complex64, generator=generator)
    equal = torch.complex(z.real, z.real)
    found = {f"real = imaginary times {scale:g}": (3, {}, scale * equal, True) for scale in (1, 1e2, 1e4, 1e8)}
    return found | {
        "purely real": (3, {}, torch.complex(z.real, torch.zeros_like(z.real)), True),
        "constant channel": (3, {}, torch.full_like(z, 3.1 - 0.2j), True),
        "condition number 1e12": (3, {}, torch.complex(z.real, 1e-6 * z.imag), True),
        "values 1e-18": (3, {}, 1e-18 * z, True),
        "values 1e18": (3, {}, 1e18 * z, True),
        "one feature": (1, {}, z[:, :1].contiguous(), True),
        "batch of one, eval": (3, {}, z[:1], False),
        "batch of one, training": (3, {}, z[:1], True),
        "affine=False": (3, {"affine": False}, z, True),
        "momentum=None": (3, {"momentum": None}, z, True),
    }


def outcome(name: str, make: Callable[..., nn.Module], channels: int, settings: dict[str, Any], z: Tensor, training: bool) -> str:
    """Return ok, NaN or the kind of error of one forward and backward."""
    try:
        layer = make(channels, **settings).train(training)
        x = z.clone().requires_grad_()
        y = applied(name, layer, x)
        y.abs().square().sum().backward()
    except Exception as error:
        return type(error).__name__
    finite = bool(torch.isfinite(y).all()) and x.grad is not None and bool(torch.isfinite(x.grad).all())
    return "ok" if finite else "NaN"


def step(name: str, make: Callable[..., nn.Module], z: Tensor) -> Callable[[], None]:
    """Return a function that runs forward and backward once."""
    layer, x, grad = make(z.shape[1]), z.clone().requires_grad_(), torch.randn_like(z)

    def run() -> None:
        x.grad = None
        applied(name, layer, x).backward(grad)

    return run


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    classes = {name: made(name) for name in ("SpectralMC", *LIBRARIES)}
    print(f"{'case':28s}" + "".join(f"{name:>17s}" for name in classes))
    for case, (channels, settings, z, training) in cases().items():
        row = ("skipped" if make is None else outcome(name, make, channels, settings, z, training) for name, make in classes.items())
        print(f"{case:28s}" + "".join(f"{cell:>17s}" for cell in row))
    z = torch.randn(4096, 64, dtype=torch.complex64)
    steps = {"torch's real": step("torch's real", nn.BatchNorm1d, torch.randn(4096, 128))}
    steps |= {name: step(name, make, z) for name, make in classes.items() if make is not None}
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(repeats):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    for name, milliseconds in best.items():
        print(f"4096 × 64  {name:17s} {milliseconds:8.2f} ms  {milliseconds / best[next(iter(best))]:6.2f}")


if __name__ == "__main__":
    main()
