"""Frequencies, and the empirical characteristic function with its standard error: the narrow waist of the program."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from spectralmc.validation import Number, count, real

_BLOCK = 4096  # paths summed at once; fixed, so that sums have one order


class SampleLike(Protocol):
    """Outcomes as `spectralmc.paths.Sample` holds them."""

    @property
    def log_return(self) -> Tensor:
        """X, (B, N)."""
        ...

    @property
    def randomizations(self) -> int:
        """0 for independent paths."""
        ...


@dataclass(frozen=True)
class FrequencyGrid:
    """The frequencies w_k = πk/L, k = 1…K, of a Fourier series on [−L, L] for a standardised outcome.

    Parameters
    ----------
    half_width
        L, in standard deviations, positive.
    size
        K, at least 1.
    """

    half_width: float = 16.0
    size: int = 96

    def __post_init__(self) -> None:
        real("half_width", self.half_width, "positive", "standard deviations")
        count("size", self.size)

    @property
    def frequency(self) -> Tensor:
        """w_1 … w_K, (K,), float64."""
        return torch.arange(1, self.size + 1, dtype=torch.float64) * (math.pi / self.half_width)


class Estimate(NamedTuple):
    """A complex estimate and its standard error √E|φ̂ − φ|², each (B, K)."""

    value: Tensor
    standard_error: Tensor


def empirical_characteristic_function(sample: SampleLike | Number, frequency: Number | FrequencyGrid) -> Estimate:
    r"""Estimate φ(u) = E[e^{iuX}] from simulated outcomes: :math:`\hat\varphi(u)=\frac1N\sum_j e^{iuX_j}`.

    Shapes: a `Sample`, or real X as (N,) or (B, N); ``frequency`` (K,) or (B, K) in units of 1/X; both results (B, K).

    Accuracy: independent paths err by √((1 − |φ|²)/N); randomised quasi-Monte-Carlo is measured by the spread of its R independent
    randomizations.  The standard error is unbiased for its square.

    Raises
    ------
    ValueError, TypeError
        empty, complex or not finite input; fewer than two independent paths or randomizations.

    References: Feuerverger and Mureika (1977), "The empirical characteristic function and its applications".

    Example
    -------
    >>> empirical_characteristic_function([0.0, 1.0], frequency=[math.pi]).value.real.abs().max() < 1e-15
    tensor(True)
    """
    x, groups = _outcomes(sample)
    grid = isinstance(frequency, FrequencyGrid)
    u = (frequency.frequency if isinstance(frequency, FrequencyGrid) else real("frequency", frequency)).to(x.dtype)
    if u.ndim not in (1, 2) or (u.ndim == 2 and u.shape[0] not in (1, len(x)) and len(x) != 1):
        raise ValueError(f"frequency must be (K,) or (B, K) with B = {len(x)}; got shape {tuple(u.shape)}")
    rows = max(len(x), len(u) if u.ndim == 2 else 1)
    x, u = x.expand(rows, -1), u.expand(rows, -1)
    means = _group_means(x, u, max(groups, 1), grid)  # of e^{iuX} − 1, (B, R, K)
    less = means.mean(1)
    value = 1 + less
    if groups:
        return Estimate(value, torch.sqrt((means - less[:, None]).abs().square().sum(1) / (groups * (groups - 1))))
    variance = -2 * less.real - less.abs().square()  # 1 − |φ̂|², which would cancel at small u
    return Estimate(value, torch.sqrt(variance.clamp(min=0) / (x.shape[1] - 1)))


def _outcomes(sample: SampleLike | Number) -> tuple[Tensor, int]:
    groups = int(getattr(sample, "randomizations", 0))
    x = real("sample", sample.log_return if hasattr(sample, "log_return") else sample)
    x = x[None] if x.ndim == 1 else x
    if x.ndim != 2:
        raise ValueError(f"sample must be (N,) or (B, N); got shape {tuple(x.shape)}")
    if (groups or x.shape[1]) < 2:
        raise ValueError(f"a standard error needs at least 2 independent paths or randomizations; got {groups or x.shape[1]}")
    return x, groups


def _group_means(x: Tensor, u: Tensor, groups: int, grid: bool) -> Tensor:
    """Mean of e^{iuX} − 1 over each of R consecutive runs of paths: (B, N), (B, K) → (B, R, K)."""
    runs = x.unflatten(1, (groups, -1)).transpose(0, 1)
    total = torch.stack([_phase_sum(run, u, grid) for run in runs], 1)
    return total / (x.shape[1] // groups)


def _phase_sum(x: Tensor, u: Tensor, grid: bool) -> Tensor:
    """Σ_j (e^{iu x_j} − 1): (B, N), (B, K) → (B, K), block by block of paths in fixed order."""
    total = torch.zeros(u.shape, dtype=x.dtype.to_complex())
    for block in x.split(_BLOCK, 1):
        for row in range(len(x)):
            phases = powers(block[row] * u[row, 0], u.shape[1]) - 1 if grid else _phases_less_one(u[row, :, None] * block[row])
            total[row] += phases.sum(-1)
    return total


def _phases(angle: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angle), angle)


def _phases_less_one(angle: Tensor) -> Tensor:
    return torch.complex(-2 * torch.sin(angle / 2).square(), torch.sin(angle))


def powers(angle: Tensor, size: int) -> Tensor:
    """Return e^{ikθ}, k = 1…K, by repeated doubling: (…,) → (K, …); the k-th errs by less than 2k roundings, as kθ itself does."""
    result = _phases(angle)[None]
    while len(result) < size:
        result = torch.cat([result, result[: size - len(result)] * result[-1:]])
    return result
