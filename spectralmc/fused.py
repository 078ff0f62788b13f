"""Simulation in one launch: a thread is a path, nothing but its outcome is written.  The kernels are those of ``kernels.cu``.

The integers of the draws are those of the CPU; float32 normals differ from it by less than 5e-6, float64 ones by rounding, whatever the
launch.  Where an outcome jumps (a Poisson count, the branch of a scheme, a barrier) a path whose normal lies within that of the border may
take the other side.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectralmc.cuda import C_TYPE, launch, number_type
from spectralmc.draws import _SHIFT_STREAM, Draws
from spectralmc.functionals import ArithmeticAverage, GeometricAverage, KnockOut, Maximum, Minimum, RealizedVariance, Terminal
from spectralmc.processes import BlackScholes, Heston, Merton, TimeGrid, column, with_fields
from spectralmc.processes.heston import _coefficients
from spectralmc.validation import real

RUN = np.dtype([(name, np.uint32) for name in (
    "paths", "first_path", "sets", "first_set", "fixings", "substeps", "stream", "key0", "key1")])  # fmt: skip
_THREADS = 256
_MOST_JUMPS = 1e4

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


def has_kernel(
    process: Any, scheme: str, functionals: Sequence[Any], grid: TimeGrid, draws: Draws, conditional: bool = False, control: bool = False
) -> bool:
    """Say whether one launch simulates this: each kind of functional at most once, a barrier only where it is watched at every step."""
    kinds = [type(f) for f in functionals]
    if type(process) not in PROCESSES or scheme != PROCESSES[type(process)][1] or draws.antithetic or draws.dimensions is not None:
        return False
    if conditional:
        lawful = type(process) is not BlackScholes and (not control or (type(process) is Heston and draws.sampling == "sobol"))
        return kinds == [Terminal] and lawful
    barrier = next((f for f in functionals if isinstance(f, KnockOut)), None)
    watched = barrier is None or (grid.substeps == 1 and barrier.monitoring == "continuous" and type(process) is not Merton)
    known = all(kind in FUNCTIONALS for kind in kinds) and len(set(kinds)) == len(kinds)
    return draws.sampling == "independent" and not control and known and watched


def _constants(process: Any, grid: TimeGrid, sets: int, dtype: torch.dtype, device: torch.device) -> tuple[str, Tensor]:
    name, _, of = PROCESSES[type(process)]
    dt = (real("maturity", grid.maturity).double() / (grid.steps * grid.substeps)).reshape(-1, 1)
    columns = [value.double().expand(sets, 1) for value in of(process, dt)]
    return f"{name}<{C_TYPE[dtype]}>", torch.cat(columns, 1).to(device, dtype).contiguous()


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
    growth = carry.double() * real("maturity", grid.maturity).double() / grid.steps
    growth = growth.expand(sets).to(device, dtype).contiguous()
    barrier = next((f for f in functionals if isinstance(f, KnockOut)), None)
    level = [0.0, 1.0] if barrier is None else [math.log(barrier.barrier), 1.0 if barrier.direction == "up" else -1.0]
    levels = torch.tensor(level, dtype=dtype, device=device).expand(sets, 2).contiguous()
    out = torch.empty(len(bits) + (barrier is not None), sets, len(paths), dtype=dtype, device=device)
    wanted = sum(1 << bit for bit in bits)
    launch(
        f"simulate<{C_TYPE[dtype]}, {struct}, {wanted}>", _grid(sets * len(paths)), (_THREADS,), constants, growth, levels, out,
        _run(draws, grid, paths, sets, first_set),
    )  # fmt: skip
    found = [{"log_outcome": out[bits.index(FUNCTIONALS.index(kind))]} for kind in kinds]
    if barrier is not None:
        found[kinds.index(KnockOut)]["weight"] = out[-1]
    for kind, one in zip(kinds, found, strict=True):
        if kind in (Maximum, Minimum):
            one["weight"] = (one["log_outcome"] != 0).to(dtype)
    return found


def terminal(
    process: Any, grid: TimeGrid, draws: Draws, paths: range, total: int, carry: Tensor, dtype: torch.dtype,
    sets: int, first_set: int, device: torch.device, control: bool = False,
) -> list[dict[str, Tensor]]:  # fmt: skip
    """Return ``log_outcome`` and ``variance`` (B, N) of the price at maturity given all noise but the asset's own, and of its control."""
    growth = (carry.double() * real("maturity", grid.maturity).double()).expand(sets).to(device, dtype)[:, None]
    if draws.sampling == "independent":
        mean, variance = conditional_terminal(process, grid, draws, paths, dtype, sets, first_set, device)
        return [{"log_outcome": mean + growth, "variance": variance}]
    if not control:
        mean, variance = sobol_terminal(process, grid, draws, paths, total, dtype, sets, first_set, device)
        return [{"log_outcome": mean + growth, "variance": variance}]
    times = grid.step_times().double().reshape(-1, grid.steps * grid.substeps)
    whole = with_fields(process.control, lambda value: value.reshape(-1, 1)).integrated_variance(times).expand(sets, -1)
    rho, zero = column(process.correlation, whole), torch.zeros_like(whole[:, :1])
    slopes = (rho * torch.sqrt(whole.diff(dim=1, prepend=zero))).to(device)
    mean, variance, moved = sobol_terminal(process, grid, draws, paths, total, dtype, sets, first_set, device, slopes)
    law = (whole[:, -1:] * torch.cat([-0.5 + zero, 1 - rho**2 + zero], 1)).to(device, dtype)
    own = {"log_outcome": mean + growth, "variance": variance}
    return [own, {"log_outcome": moved + law[:, :1] + growth, "variance": law[:, 1:].expand_as(moved)}]


def conditional_terminal(
    process: Any, grid: TimeGrid, draws: Draws, paths: range, dtype: torch.dtype, sets: int, first_set: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return mean and variance, (B, N) each, of X_T given all noise but the asset's own, from independent draws."""
    struct, constants = _constants(process, grid, sets, dtype, device)
    out = torch.empty(2, sets, len(paths), dtype=dtype, device=device)
    run = _run(draws, grid, paths, sets, first_set)
    launch(f"simulate_conditional<{C_TYPE[dtype]}, {struct}>", _grid(sets * len(paths)), (_THREADS,), constants, out, run)
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
        f"simulate_sobol<{C_TYPE[dtype]}, {struct}>", _grid(sets * len(paths), 128), (128,), constants, points, shifts,
        _middles(steps, dtype, device), slopes, out, run, np.uint32(size), np.uint32(len(copies)), number_type(dtype)(math.sqrt(steps)),
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
