"""The GPU path: the kernels of ``kernels.cu``, compiled by CuPy when first used and launched on torch's current stream.

Tensors are torch's throughout and reach a kernel by their address, so nothing is copied.  The integers of the draws are those of the CPU;
float32 normals differ from it by less than 5e-6, float64 ones by rounding, whatever the launch.  Where an outcome jumps (a Poisson count,
the branch of a scheme, a barrier) a path whose normal lies within that of the border may take the other side.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectralmc.draws import _SHIFT_STREAM, Draws
from spectralmc.functionals import ArithmeticAverage, GeometricAverage, KnockOut, Maximum, Minimum, RealizedVariance, Terminal
from spectralmc.processes import BlackScholes, Heston, Merton, TimeGrid, column
from spectralmc.processes.heston import _coefficients
from spectralmc.validation import real

OPTIONS = ("--std=c++17",)
SPECTRUM_PATHS, SPECTRUM_RUN, SPECTRUM_THREADS = 1024, 8, 256
NORM_CHANNELS, NORM_ROWS, NORM_BLOCK, NORM_STATE = 32, 8, 512, 15
_THREADS = 256
_MOST_JUMPS = 1e4
_C = {torch.float32: "float", torch.float64: "double", torch.complex64: "float", torch.complex128: "double"}
RUN = np.dtype([(name, np.uint32) for name in (
    "paths", "first_path", "sets", "first_set", "fixings", "substeps", "stream", "key0", "key1")])  # fmt: skip


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
    import cupy

    with cupy.cuda.Device(device):
        return cupy.RawModule(code=source(), options=OPTIONS, name_expressions=[expression]).get_function(expression)


@functools.lru_cache(maxsize=64)
def _stream(address: int, device: int) -> Any:
    import cupy

    return cupy.cuda.ExternalStream(address, device)


def launch(expression: str, grid: Sequence[int], block: Sequence[int], *arguments: Any) -> None:
    """Run a kernel on torch's current stream; tensors pass by address, None as null, numbers typed by NumPy."""
    device = next(a.device.index for a in arguments if isinstance(a, Tensor))
    kernel = _kernel(expression, device)
    with torch.cuda.device(device), _stream(torch.cuda.current_stream(device).cuda_stream, device):
        kernel(tuple(grid), tuple(block), tuple(_address(a) for a in arguments))


def _address(argument: Any) -> Any:
    if argument is None:
        return np.uint64(0)
    if isinstance(argument, Tensor):
        assert argument.is_contiguous()
        return np.uint64(argument.data_ptr())
    return argument


# Simulation -----------------------------------------------------------------------------------------------------------------------------

Constants = list[Tensor]  # of each parameter set, (B, 1) or (1, 1) each, in the order of the kernel


def _black_scholes(process: Any, dt: Tensor) -> Constants:
    deviation = column(process.volatility, dt) * dt.sqrt()
    return [deviation, -(deviation**2) / 2]


def _merton(process: Any, dt: Tensor) -> Constants:
    names = ("volatility", "jump_intensity", "jump_mean", "jump_volatility")
    volatility, intensity, mean, deviation = (column(getattr(process, name), dt) for name in names)
    rate = intensity * dt
    compensator = rate * torch.expm1(mean + deviation**2 / 2)
    drift = -(volatility**2) * dt / 2 - compensator
    return [volatility**2 * dt, drift, rate, torch.exp(-rate), mean, deviation**2, torch.full_like(dt, _MOST_JUMPS)]


def _heston(process: Any, dt: Tensor) -> Constants:
    return [*_coefficients(process, dt, dt.dtype), column(process.initial_variance, dt)]


# class → name of the kernel's struct, its scheme, its constants
PROCESSES: dict[type, tuple[str, str, Callable[[Any, Tensor], Constants]]] = {
    BlackScholes: ("BlackScholes", "exact", _black_scholes),
    Merton: ("Merton", "exact", _merton),
    Heston: ("Heston", "quadratic_exponential", _heston),
}
# in the order of the kernel's bits; a knock-out, last, takes two rows
FUNCTIONALS: tuple[type, ...] = (Terminal, ArithmeticAverage, GeometricAverage, Maximum, Minimum, RealizedVariance, KnockOut)


def has_kernel(process: Any, scheme: str, functionals: Sequence[Any], grid: TimeGrid, conditional: bool = False) -> bool:
    """Say whether one launch simulates these functionals: each kind at most once, a barrier only where it is watched at every step."""
    kinds = [type(f) for f in functionals]
    if type(process) not in PROCESSES or scheme != PROCESSES[type(process)][1]:
        return False
    if conditional:
        return kinds == [Terminal] and type(process) is not BlackScholes
    barrier = next((f for f in functionals if isinstance(f, KnockOut)), None)
    watched = barrier is None or (grid.substeps == 1 and barrier.monitoring == "continuous" and type(process) is not Merton)
    return all(kind in FUNCTIONALS for kind in kinds) and len(set(kinds)) == len(kinds) and watched


def _constants(process: Any, grid: TimeGrid, sets: int, dtype: torch.dtype, device: torch.device) -> tuple[str, Tensor]:
    name, _, of = PROCESSES[type(process)]
    dt = (real("maturity", grid.maturity).double().cpu() / (grid.steps * grid.substeps)).reshape(-1, 1)
    columns = [value.double().expand(sets, 1) for value in of(process, dt)]
    return f"{name}<{_C[dtype]}>", torch.cat(columns, 1).to(device, dtype).contiguous()


def _run(draws: Draws, grid: TimeGrid, paths: range, sets: int, first_set: int) -> np.ndarray:
    key = draws.seed & 0xFFFFFFFF, draws.seed >> 32
    return np.array([(len(paths), paths.start, sets, first_set, grid.steps, grid.substeps, draws.stream, *key)], RUN)


def outcomes(
    process: Any, grid: TimeGrid, draws: Draws, paths: range, functionals: Sequence[Any], carry: Tensor, dtype: torch.dtype,
    sets: int, first_set: int, device: torch.device,
) -> list[dict[str, Tensor]]:  # fmt: skip
    """Return ``log_outcome`` (B, N) of each functional, with the ``weight`` of a knock-out, from independent draws in one launch."""
    struct, constants = _constants(process, grid, sets, dtype, device)
    kinds = [type(f) for f in functionals]
    bits = sorted(FUNCTIONALS.index(kind) for kind in kinds)
    growth = carry.double().cpu() * real("maturity", grid.maturity).double().cpu() / grid.steps
    growth = growth.expand(sets).to(device, dtype).contiguous()
    barrier = next((f for f in functionals if isinstance(f, KnockOut)), None)
    level = [0.0, 1.0] if barrier is None else [math.log(barrier.barrier), 1.0 if barrier.direction == "up" else -1.0]
    levels = torch.tensor(level, dtype=dtype, device=device).expand(sets, 2).contiguous()
    out = torch.empty(len(bits) + (barrier is not None), sets, len(paths), dtype=dtype, device=device)
    wanted = sum(1 << bit for bit in bits)
    launch(
        f"simulate<{_C[dtype]}, {struct}, {wanted}>", _grid(sets * len(paths)), (_THREADS,), constants, growth, levels, out,
        _run(draws, grid, paths, sets, first_set),
    )  # fmt: skip
    found = [{"log_outcome": out[bits.index(FUNCTIONALS.index(kind))]} for kind in kinds]
    if barrier is not None:
        found[kinds.index(KnockOut)]["weight"] = out[-1]
    for kind, one in zip(kinds, found, strict=True):
        if kind in (Maximum, Minimum):
            one["weight"] = (one["log_outcome"] != 0).to(dtype)
    return found


def conditional_terminal(
    process: Any, grid: TimeGrid, draws: Draws, paths: range, dtype: torch.dtype, sets: int, first_set: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return mean and variance, (B, N) each, of X_T given all noise but the asset's own, from independent draws."""
    struct, constants = _constants(process, grid, sets, dtype, device)
    out = torch.empty(2, sets, len(paths), dtype=dtype, device=device)
    run = _run(draws, grid, paths, sets, first_set)
    launch(f"simulate_conditional<{_C[dtype]}, {struct}>", _grid(sets * len(paths)), (_THREADS,), constants, out, run)
    return out[0], out[1]


def sobol_terminal(
    process: Any, grid: TimeGrid, draws: Draws, paths: range, total: int, dtype: torch.dtype,
    sets: int, first_set: int, device: torch.device, slopes: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return what `conditional_terminal` does, from Sobol points on a bridge.

    With ``slopes`` (B, M), what a unit of the first normal of a step adds to a control, also Σ slope·Z, (B, N).
    """
    struct, constants = _constants(process, grid, sets, dtype, device)
    steps, noise = grid.steps * grid.substeps, int(process.factors) - 1
    size = draws.points_each(total)
    copies = range(paths.start // size, -(-paths.stop // size))
    points = _points(draws.seed, draws.stream, steps * noise, size, device)
    shifts = torch.empty(sets, len(copies), steps * noise, dtype=torch.int32, device=device)
    run = _run(draws, grid, paths, sets, first_set)
    shifting = run.copy()
    shifting["stream"] = _SHIFT_STREAM + draws.stream
    launch(
        "sobol_shifts", (-(-sets * len(copies) * -(-steps * noise // 4) // _THREADS),), (_THREADS,), shifts, shifting,
        np.uint32(len(copies)), np.uint32(copies.start), np.uint32(steps * noise),
    )  # fmt: skip
    out = torch.empty(2 if slopes is None else 3, sets, len(paths), dtype=dtype, device=device)
    slopes = None if slopes is None else slopes.to(device, dtype).contiguous()
    launch(
        f"simulate_sobol<{_C[dtype]}, {struct}>", _grid(sets * len(paths), 128), (128,), constants, points, shifts,
        _middles(steps, dtype, device), slopes, out, run, np.uint32(size), np.uint32(len(copies)), _number(dtype)(math.sqrt(steps)),
    )  # fmt: skip
    return tuple(out.unbind(0))


def words(draws: Draws, paths: range, block: int, number: int, device: torch.device) -> Tensor:
    """Return the Philox words (4, N) of a block of a parameter set, as `Draws.words` does on the CPU."""
    out = torch.empty(4, len(paths), dtype=torch.int32, device=device)
    run = np.array([(len(paths), paths.start, 1, number, 0, 0, draws.stream, draws.seed & 0xFFFFFFFF, draws.seed >> 32)], RUN)
    launch("words", (-(-len(paths) // _THREADS),), (_THREADS,), out, run, np.uint32(block))
    return out.long() & 0xFFFFFFFF


def _grid(items: int, threads: int = _THREADS) -> tuple[int]:
    return (min(-(-items // threads), 1 << 20),)


@functools.lru_cache(maxsize=8)
def _points(seed: int, stream: int, dimensions: int, size: int, device: torch.device) -> Tensor:
    return Draws(seed, "sobol", stream=stream)._scrambled_points(dimensions, range(size), size).to(device, torch.int32).contiguous()


@functools.lru_cache(maxsize=8)
def _middles(steps: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The middles of the bridge in the order of a walk along the path, as the kernel's struct, and one beyond the last."""
    number: dict[tuple[int, int], int] = {}
    gaps = [(0, steps)]
    while gaps:
        left, right = gaps.pop(0)
        if right - left > 1:
            number[left, right] = len(number) + 1
            gaps += [(left, (left + right) // 2), ((left + right) // 2, right)]
    table: list[tuple[int, int, float, float]] = []

    def walk(left: int, right: int) -> None:
        if right - left > 1:
            middle = (left + right) // 2
            weight = (middle - left) / (right - left)
            table.append((number[left, right], left, weight, math.sqrt((right - middle) * weight)))
            walk(left, middle)
            walk(middle, right)

    walk(0, steps)
    real_type = np.float32 if dtype == torch.float32 else np.float64
    struct = np.dtype([("number", np.uint32), ("step", np.uint32), ("weight", real_type), ("deviation", real_type)])
    packed = np.array([*table, (0, 0xFFFFFFFF, 0.0, 0.0)], struct)
    return torch.from_numpy(packed.view(np.uint8).copy()).to(device)


# The empirical characteristic function -------------------------------------------------------------------------------------------------


def phase_sums(
    x: Tensor, turns: float, size: int, *, location: Tensor, scale: Tensor, variance: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Return Σ_j w_j e^{iw_k z_j − w_k²s_j²/2} and Σ_j of the squared moduli for z = scale·(x − location), w_k = 2πk·turns, k = 1…K.

    Shapes: x, variance s² of x and weight (B, N); location and scale (B,); result (B, K, 3) float64: real, imaginary, squared moduli (0
    where every path is one phase).  Blocks of 1024 paths are summed in fixed order, in the dtype of x; their sum is in double precision.
    """
    sets, paths = x.shape
    blocks = -(-paths // SPECTRUM_PATHS)
    out = x.new_empty(sets, blocks, size, 3)
    plain = variance is None and weight is None
    threads = max(SPECTRUM_THREADS, 32 * -(-size // (32 * SPECTRUM_RUN)))
    real = _number(x.dtype)
    launch(
        f"spectrum<{_C[x.dtype]}, {str(plain).lower()}>", (blocks, sets), (threads,), x, variance, weight, location, scale, out,
        np.uint32(paths), np.uint32(size), real(turns),
    )  # fmt: skip
    return out.sum(1, dtype=torch.float64)


def _number(dtype: torch.dtype) -> Callable[[float], Any]:
    return np.float32 if _C[dtype] == "float" else np.float64


# Covariance batch norm ------------------------------------------------------------------------------------------------------------------


def norm_forward(z: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return y, the statistics (C, 5) — mean and biased covariance rr, ii, ri — and what `norm_backward` needs, for complex z (B, C)."""
    (rows, channels), kind = z.shape, _C[z.dtype]
    real = z.real.dtype
    tiles, tile = (-(-channels // NORM_CHANNELS), -(-rows // NORM_BLOCK)), (NORM_CHANNELS, NORM_ROWS)
    partial = torch.empty(tiles[1], channels, 5, dtype=torch.float64, device=z.device)
    statistics, transform = torch.empty(channels, 5, dtype=real, device=z.device), torch.empty(channels, 8, dtype=real, device=z.device)
    state = torch.empty(channels, NORM_STATE, dtype=torch.float64, device=z.device)
    y, size = torch.empty_like(z), (np.uint32(rows), np.uint32(channels))
    launch(f"norm_moments<{kind}>", tiles, tile, z, partial, *size)
    launch(
        f"norm_forward<{kind}>", (-(-channels // 64),), (64,), z, partial, weight, bias, statistics, state, transform, *size,
        np.uint32(tiles[1]), np.float64(eps), np.float64(torch.finfo(real).eps),
    )  # fmt: skip
    launch(f"norm_apply<{kind}>", tiles, tile, z, transform, y, *size)
    return y, statistics, (state, transform)


def norm_backward(
    z: Tensor, gradient: Tensor, saved: tuple[Tensor, Tensor], weight: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of z, weight and bias, each None where not ``wanted``."""
    (rows, channels), kind = z.shape, _C[z.dtype]
    state, transform = saved
    tiles, tile = (-(-channels // NORM_CHANNELS), -(-rows // NORM_BLOCK)), (NORM_CHANNELS, NORM_ROWS)
    partial = torch.empty(tiles[1], channels, 6, dtype=torch.float64, device=z.device)
    g_weight = transform.new_empty(channels, 3) if wanted[1] else None
    g_bias = transform.new_empty(channels, 2) if wanted[2] else None
    back, size = transform.new_empty(channels, 11), (np.uint32(rows), np.uint32(channels))
    launch(f"norm_gradient_sums<{kind}>", tiles, tile, z, gradient, transform, partial, *size)
    launch(
        f"norm_backward<{kind}>", (-(-channels // 64),), (64,), partial, state, weight, g_weight, g_bias, back, *size, np.uint32(tiles[1])
    )
    if not wanted[0]:
        return None, g_weight, g_bias
    g_z = torch.empty_like(z)
    launch(f"norm_gradient<{kind}>", tiles, tile, z, gradient, back, g_z, *size)
    return g_z, g_weight, g_bias
