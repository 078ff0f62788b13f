"""The GPU path: the kernels of ``kernels.cu``, compiled by CuPy when first used and launched on torch's current stream.

Tensors are torch's throughout and reach a kernel by their address, so nothing is copied.  Simulation: `spectralmc.fused`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spectralmc.device import cupy_stream

OPTIONS = ("--std=c++17",)
SPECTRUM_PATHS, SPECTRUM_RUN, SPECTRUM_THREADS = 1024, 16, 256
NORM_CHANNELS, NORM_ROWS, NORM_BLOCK, NORM_TILE, NORM_LANES, NORM_STATE = 32, 8, 128, 2, 128, 15
NORM_MOST_ROWS = 65535 * NORM_BLOCK  # by what a grid may be
C_TYPE = {torch.float32: "float", torch.float64: "double", torch.complex64: "float", torch.complex128: "double"}


def source() -> str:
    """Return the kernels as CUDA C++."""
    return (Path(__file__).parent / "kernels.cu").read_text(encoding="utf-8")


@functools.cache
def available() -> bool:
    """Say whether CuPy is installed; a GPU is another question (`spectralmc.device.choose`)."""
    try:
        import cupy  # noqa: F401
    except ImportError:
        return False
    return True


@functools.cache
def _kernel(expression: str, device: int) -> Any:
    """Return the compiled kernel (CuPy keeps it on disk too)."""
    if not available():
        raise ModuleNotFoundError("kernels need CuPy, which is not installed: install the extra cuda11 or cuda13, or compute on the CPU")
    import cupy

    with cupy.cuda.Device(device):  # the kernel itself, not CuPy's wrapper, which looks it up at every launch
        return cupy.RawModule(code=source(), options=OPTIONS, name_expressions=[expression]).get_function(expression).kernel


@functools.lru_cache(maxsize=64)
def _stream(address: int, _: int) -> Any:
    return cupy_stream(address)


def launch(expression: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any) -> None:
    """Run a kernel on torch's current stream; tensors pass by address, None as null, numbers typed by NumPy."""
    device, given = 0, []
    for argument in arguments:
        if isinstance(argument, Tensor):
            assert argument.is_contiguous()
            device = argument.get_device()
            given.append(argument.data_ptr())
        else:
            given.append(0 if argument is None else argument)
    kernel, stream = _kernel(expression, device), _stream(torch._C._cuda_getCurrentRawStream(device), device)
    if device == torch.cuda.current_device():  # a context costs more than the launch
        kernel(grid, block, given, stream=stream)
        return
    with torch.cuda.device(device):
        kernel(grid, block, given, stream=stream)


# The empirical characteristic function -------------------------------------------------------------------------------------------------


def phase_sums(
    x: Tensor, turns: float, size: int, *, location: Tensor, scale: Tensor, variance: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Return Σ_j w_j e^{iw_k z_j − w_k²s_j²/2} and Σ_j of the squared moduli for z = scale·(x − location), w_k = 2πk·turns, k = 1…K.

    Shapes: x, variance s² of x and weight (B, N); location and scale (B,); result (B, K, 2 or 3) float64: real, imaginary, and the squared
    moduli unless every path is one phase.  Blocks of paths are summed in fixed order, in the dtype of x; their sum is in double precision.
    """
    sets, paths = x.shape
    blocks = -(-paths // SPECTRUM_PATHS)
    plain = variance is None and weight is None
    out = x.new_empty(sets, 2 if plain else 3, size, blocks)
    most = SPECTRUM_THREADS * SPECTRUM_RUN // 2
    if size > most:
        raise ValueError(f"size must be at most {most} frequencies on a GPU; got {size}")
    given = (x, location, scale) if plain else (x, variance, weight, location, scale)
    launch(
        f"{'phases' if plain else 'spectrum'}<{C_TYPE[x.dtype]}>", (blocks * sets,), (SPECTRUM_THREADS,),
        *(None if a is None else a.contiguous() for a in given), out,
        np.uint32(paths), np.uint32(blocks), np.uint32(size), number_type(x.dtype)(turns),
    )  # fmt: skip
    return out.sum(-1, dtype=torch.float64).mT


def number_type(dtype: torch.dtype) -> Callable[[float], Any]:
    """Return NumPy's type of a kernel's real numbers."""
    return np.float32 if C_TYPE[dtype] == "float" else np.float64


# Prices --------------------------------------------------------------------------------------------------------------------------------


def puts(values: Tensor, mass: Tensor, location: Tensor, scale: Tensor, log_moneyness: Tensor, half_width: float) -> Tensor:
    """Return put prices on the continuous part, (B, L) float64, as `spectralmc.pricing.put_series` sums them.

    Shapes: values ψ (B, K) complex, whose precision is that of the sums; mass, location and scale (B,) and k (B, L) in double precision.
    """
    sets, strikes = log_moneyness.shape
    out = torch.empty_like(log_moneyness, memory_format=torch.contiguous_format)
    columns = (x.contiguous() for x in (torch.view_as_real(values), mass, location, scale, log_moneyness))
    size = (np.uint32(sets), np.uint32(strikes), np.uint32(values.shape[1]))
    launch(f"puts<{C_TYPE[values.dtype]}>", (-(-sets * strikes // 128),), (128,), *columns, out, *size, np.float64(half_width))
    return out


# Covariance batch norm ------------------------------------------------------------------------------------------------------------------


class Running(NamedTuple):
    """Running statistics that a kernel moves towards a batch's: mean (C, 2), unbiased covariance (C, 3), and the number of batches."""

    mean: Tensor
    covariance: Tensor
    batches: Tensor
    momentum: float | None


def norm_forward(
    z: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, running: Running | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return y, and what `norm_backward` needs, for complex z (B, C).

    ``running`` moves too, but for channels whose mean or covariance is not finite.
    """
    (rows, channels), kind = z.shape, C_TYPE[z.dtype]
    real, size = z.dtype.to_real(), (np.uint32(rows), np.uint32(channels))
    tiles, tile = (-(-channels // NORM_CHANNELS), -(-rows // NORM_BLOCK)), (NORM_CHANNELS, NORM_ROWS)
    partial = torch.empty(tiles[1], channels, 5, dtype=torch.float64, device=z.device)
    state, transform = partial.new_empty(channels, NORM_STATE), torch.empty(channels, 8, dtype=real, device=z.device)
    y = torch.empty_like(z)
    launch(f"norm_moments<{kind}>", tiles, tile, z, partial, *size)
    *held, momentum = (None, None, None, 0.0) if running is None else running
    numbers = (np.float64(x) for x in (eps, torch.finfo(real).eps, -1.0 if momentum is None else momentum))
    launch(
        f"norm_forward<{kind}>", _per_channel(channels), (NORM_TILE, NORM_LANES), z, partial, weight, bias, state, transform, *held,
        *size, np.uint32(tiles[1]), *numbers,
    )  # fmt: skip
    launch(f"norm_apply<{kind}>", tiles, tile, z, transform, y, held[2], *size)
    return y, (state, transform)


def _per_channel(channels: int) -> tuple[int]:
    return (-(-channels // NORM_TILE),)


def norm_backward(
    z: Tensor, gradient: Tensor, saved: tuple[Tensor, Tensor], weight: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of z, weight and bias, each None where not ``wanted``."""
    (rows, channels), kind = z.shape, C_TYPE[z.dtype]
    state, transform = saved
    tiles, tile = (-(-channels // NORM_CHANNELS), -(-rows // NORM_BLOCK)), (NORM_CHANNELS, NORM_ROWS)
    partial = torch.empty(tiles[1], channels, 6, dtype=torch.float64, device=z.device)
    g_weight = transform.new_empty(channels, 3) if wanted[1] else None
    g_bias = transform.new_empty(channels, 2) if wanted[2] else None
    back, size = transform.new_empty(channels, 11), (np.uint32(rows), np.uint32(channels))
    launch(f"norm_gradient_sums<{kind}>", tiles, tile, z, gradient, transform, partial, *size)
    launch(
        f"norm_backward<{kind}>", _per_channel(channels), (NORM_TILE, NORM_LANES), partial, state, weight, g_weight, g_bias, back, *size,
        np.uint32(tiles[1]),
    )  # fmt: skip
    if not wanted[0]:
        return None, g_weight, g_bias
    g_z = torch.empty_like(z)
    launch(f"norm_gradient<{kind}>", tiles, tile, z, gradient, back, g_z, *size)
    return g_z, g_weight, g_bias
