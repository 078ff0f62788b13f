"""Frequencies, and the empirical characteristic function with its standard error: the narrow waist of the program.

A path contributes :math:`c_j(u)=w_je^{iuX_j-u^2s_j^2/2}`: a plain one a phase (w = 1, s = 0), a conditional one the characteristic
function of its Gaussian, one that may end at an atom the weight of the rest; with a control, less the control's own contribution plus its
known mean.  One formula, so one estimate and one standard error.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from spectralmc.validation import Number, count, real

_TILE = 1 << 18  # (path, frequency) pairs summed at once; fixed, so that sums have one order
_CACHE = 1 << 14  # paths whose powers stay in the cache


class SampleLike(Protocol):
    """Outcomes as `spectralmc.paths.Sample` holds them."""

    @property
    def log_outcome(self) -> Tensor:
        """ln(outcome/S₀), (B, N)."""
        ...

    @property
    def forward(self) -> Tensor:
        """E[outcome]/S₀, (B,)."""
        ...

    @property
    def log_return(self) -> Tensor:
        """X, (B, N)."""
        ...

    @property
    def randomizations(self) -> int:
        """0 for independent paths."""
        ...

    @property
    def variance(self) -> Tensor | None:
        """s², (B, N)."""
        ...

    @property
    def weight(self) -> Tensor | None:
        """w, (B, N)."""
        ...

    @property
    def control(self) -> Any:
        """The control, as log_outcome, forward and variance."""
        ...

    @property
    def control_law(self) -> tuple[Tensor, Tensor] | None:
        """Mean and variance of the logarithm of the control."""
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


def empirical_characteristic_function(
    sample: SampleLike | Iterable[SampleLike] | Number, frequency: Number | FrequencyGrid
) -> Estimate:
    r"""Estimate φ(u) = E[e^{iuX}] from simulated outcomes.

    .. math:: \hat\varphi(u) = \sum_j c_j(u)\Big/\sum_j w_j, \qquad
        c_j(u) = w_je^{iuX_j-u^2s_j^2/2} - \left[c^{control}_j(u) - \varphi^{control}(u)\right]

    A plain sample has w = 1, s = 0 and no control: the mean of e^{iuX_j}.  With weights φ is that of the continuous part.

    Shapes: a `Sample`, blocks of one (taken as they come, in memory that does not grow), or real X as (N,) or (B, N); ``frequency`` (K,)
    or (B, K) in units of 1/X; both results (B, K).

    Accuracy: the standard error is that of independent contributions, √((1 − |φ|²)/N) for plain paths, or of the means of R independent
    randomizations or antithetic pairs; unbiased for its square, to first order where weights vary.  It takes the forward as known.

    Raises
    ------
    ValueError, TypeError
        empty, complex or not finite input; fewer than two independent paths or randomizations; a sample that is all atom.

    References: Feuerverger and Mureika (1977), "The empirical characteristic function and its applications".

    Example
    -------
    >>> empirical_characteristic_function([0.0, 1.0], frequency=[math.pi]).value.real.abs().max() < 1e-15
    tensor(True)
    """
    blocks = _blocks(sample)
    first = next(blocks)
    totals = _Totals.zero(first, frequency)
    for block in itertools.chain((first,), blocks):
        totals.add(block)
    return totals.estimate()


class _Outcomes(NamedTuple):
    """Plain numbers, as a sample."""

    log_outcome: Tensor
    forward: Tensor
    randomizations: int = 0
    variance: None = None
    weight: None = None
    control: None = None
    control_law: None = None


def _blocks(sample: Any) -> Iterator[Any]:
    if hasattr(sample, "log_outcome"):
        return iter((sample,))
    if isinstance(sample, Iterable) and not isinstance(sample, Tensor | np.ndarray):
        blocks = iter(sample)
        first = next(blocks, None)
        if hasattr(first, "log_outcome"):
            return itertools.chain((first,), blocks)
    x = real("sample", sample)
    x = x[None] if x.ndim == 1 else x
    if x.ndim != 2:
        raise ValueError(f"sample must be (N,) or (B, N); got shape {tuple(x.shape)}")
    return iter((_Outcomes(x, torch.ones(len(x), dtype=x.dtype)),))


class _Row(NamedTuple):
    """What the paths of one parameter set contribute: X, s² and w, and the control's X and s²; (n,) each or None."""

    x: Tensor
    variance: Tensor | None
    weight: Tensor | None
    control: Tensor | None
    control_variance: Tensor | None

    def cut(self, first: int, last: int) -> _Row:
        return _Row(self.x[first:last], *(None if value is None else value[first:last] for value in self[1:]))

    def less_one(self, u: Tensor, known: Tensor | None, grid: bool) -> Tensor:
        """Return c − w at every frequency, (K, n): small where u is, so that it keeps its digits there."""
        own = _less_one(self.x, self.variance, u, grid)
        if self.weight is not None:
            own = own * self.weight
        if self.control is None or known is None:
            return own
        return own - (_less_one(self.control, self.control_variance, u, grid) - known[:, None])


@dataclass
class _Totals:
    """Sums over independent units (paths, pairs or randomizations) of c − w less ``reference``·w, of w, and of their products.

    The reference, taken from the first paths, keeps the squares from cancelling.
    """

    u: Tensor  # (rows, K)
    grid: bool
    origin: Tensor  # ln(forward of the first block), (B,)
    reference: Tensor
    value: Tensor
    square: Tensor
    cross: Tensor
    weight: Tensor
    weight_square: Tensor
    forward: Tensor
    units: int = 0
    paths: int = 0

    @classmethod
    def zero(cls, block: Any, frequency: Number | FrequencyGrid) -> _Totals:
        x, grid = block.log_outcome, isinstance(frequency, FrequencyGrid)
        u = (frequency.frequency if isinstance(frequency, FrequencyGrid) else real("frequency", frequency)).to(x.dtype)
        if u.ndim not in (1, 2) or (u.ndim == 2 and u.shape[0] not in (1, len(x)) and len(x) != 1):
            raise ValueError(f"frequency must be (K,) or (B, K) with B = {len(x)}; got shape {tuple(u.shape)}")
        u = u.expand(max(len(x), len(u) if u.ndim == 2 else 1), -1)
        complexes, reals = (torch.zeros(u.shape, dtype=t) for t in (torch.complex128, torch.float64))
        one = torch.zeros(len(u), 1, dtype=torch.float64)
        forward = torch.zeros(len(x), dtype=torch.float64)
        new = (complexes.clone(), complexes.clone(), reals, complexes.clone(), one.clone(), one.clone(), forward)
        return cls(u, grid, torch.log(block.forward), *new)

    def add(self, block: Any) -> None:
        """Add every unit of a block, in order."""
        sets, paths = real("sample", block.log_outcome).shape
        if sets != len(self.origin):
            raise ValueError(f"the blocks of a sample must have one number of parameter sets; got {len(self.origin)}, then {sets}")
        rows, units = self._rows(block), block.randomizations or paths
        known = self._known(block)
        for i, row in enumerate(rows):
            self._add_row(i, row, paths, units, None if known is None else known[i])
        self.units, self.paths = self.units + units, self.paths + paths
        self.forward += paths * block.forward.double()

    def _rows(self, block: Any) -> list[_Row]:
        control = block.control
        x = block.log_outcome - self.origin[:, None]
        other = None if control is None else control.log_outcome - torch.log(control.forward)[:, None]
        fields = (block.variance, block.weight, other, None if control is None else control.variance)
        sets = (i % len(x) for i in range(len(self.u)))
        return [_Row(x[i], *(None if f is None else f[i] for f in fields)) for i in sets]

    def _known(self, block: Any) -> Tensor | None:
        """Return φ of the control less 1, (rows, K): that of N(−v/2, v)."""
        if block.control is None:
            return None
        variance = block.control_law[1].to(self.u.dtype)[:, None]
        return torch.stack([_less_one(-v / 2, v, u, False)[:, 0] for v, u in zip(variance.expand(len(self.u), 1), self.u, strict=True)])

    def _add_row(self, i: int, row: _Row, paths: int, units: int, known: Tensor | None) -> None:
        tile, each = max(_TILE // self.u.shape[1], 1), paths // units
        whole = max(tile // each, 1) * each  # several units at once, or one of them tile by tile
        for first in range(0, paths, whole):
            last = min(first + whole, paths)
            n = (last - first) // each
            value, weight = torch.zeros(self.u.shape[1], n, dtype=torch.complex128), torch.zeros(n, dtype=torch.float64)
            step = tile if n == 1 else last - first
            for at in range(first, last, step):
                part = row.cut(at, min(at + step, last))
                value += part.less_one(self.u[i], known, self.grid).unflatten(-1, (n, -1)).sum(-1)
                weight += (torch.ones_like(part.x) if part.weight is None else part.weight).unflatten(-1, (n, -1)).sum(-1)
            self._add_units(i, value / each, weight / each)

    def _add_units(self, i: int, value: Tensor, weight: Tensor) -> None:
        if self.weight[i] == 0 and weight.sum() > 0:
            self.reference[i] = value.sum(-1) / weight.sum()
        value = value - self.reference[i][:, None] * weight
        self.value[i] += value.sum(-1)
        self.square[i] += value.abs().square().sum(-1)
        self.cross[i] += (value * weight).sum(-1)
        self.weight[i] += weight.sum()
        self.weight_square[i] += weight.square().sum()

    def estimate(self) -> Estimate:
        """Return the ratio of the sums and its standard error (the delta method where weights vary)."""
        n = self.units
        if n < 2:
            raise ValueError(f"a standard error needs at least 2 independent paths or randomizations; got {n}")
        if not bool((self.weight > 0).all()):
            raise ValueError("the weights of a sample must not all be zero; every path of one ended at the atom")
        d = self.value / self.weight
        spread = self.square - 2 * (d.conj() * self.cross).real + d.abs().square() * self.weight_square
        error = torch.sqrt(spread.clamp(min=0) / (n * (n - 1))) / (self.weight / n)
        shift = torch.log(self.forward / self.paths) - self.origin.double()
        turned = (1 + self.reference + d) * torch.exp(-1j * self.u * shift.expand(len(self.u))[:, None])
        return Estimate(turned.to(self.u.dtype.to_complex()), error.to(self.u.dtype))


def _less_one(x: Tensor, variance: Tensor | None, u: Tensor, grid: bool) -> Tensor:
    """Return e^{iux − u²s²/2} − 1, (n,), (K,) → (K, n)."""
    if grid:
        phases = powers(x * u[0], len(u))
        return (phases if variance is None else phases * torch.exp(-(u[:, None] ** 2) / 2 * variance)) - 1
    angle = u[:, None] * x
    if variance is None:
        return torch.complex(-2 * torch.sin(angle / 2).square(), torch.sin(angle))
    decay = -(u[:, None] ** 2) / 2 * variance
    size = torch.exp(decay)
    return torch.complex(torch.expm1(decay) - 2 * size * torch.sin(angle / 2).square(), size * torch.sin(angle))


def powers(angle: Tensor, size: int) -> Tensor:
    """Return e^{ikθ}, k = 1…K, by repeated doubling: (…,) → (K, …); the k-th errs by less than 2k roundings, as kθ itself does."""
    result = torch.polar(torch.ones_like(angle), angle)[None]
    while len(result) < size:
        result = torch.cat([result, result[: size - len(result)] * result[-1:]])
    return result


def mean_contributions(sample: SampleLike, grid: FrequencyGrid, location: Tensor, scale: Tensor) -> Tensor:
    """Return the estimate of φ_Z of Z = (X − m)/s at the frequencies of a grid, (B, K) complex128: a label to learn from.

    The same estimate as `empirical_characteristic_function`, in float32 and without an error: a few nanoseconds a path and frequency.
    Shapes: location m and scale s (B,).

    Accuracy: 1e-6.
    """
    m, s, w = location.double()[:, None], scale.double()[:, None], grid.frequency
    phi = _mean_powers(sample.log_return, sample.variance, sample.weight, m, s, grid)
    if sample.control is None or sample.control_law is None:
        return phi
    control, v = sample.control, sample.control_law[1].double()[:, None]
    known = torch.exp(-1j * w * (v / 2 + m) / s - w**2 * v / s**2 / 2)
    share = 1.0 if sample.weight is None else sample.weight.double().mean(1, keepdim=True)
    return phi - (_mean_powers(control.log_return, control.variance, None, m, s, grid) - known) / share


def _mean_powers(x: Tensor, variance: Tensor | None, weight: Tensor | None, m: Tensor, s: Tensor, grid: FrequencyGrid) -> Tensor:
    """Mean over paths of w·z_k, z_k = e^{ikθ − k²a}, by z_{k+1} = z_k q_k and q_{k+1} = q_k e^{−2a}: (B, N) → (B, K)."""
    if x.is_cuda:
        from spectralmc.cuda import phase_sums

        centre, unit = m[:, 0].to(x.dtype), (1 / s[:, 0]).to(x.dtype)
        sums = phase_sums(x, 0.5 / grid.half_width, grid.size, location=centre, scale=unit, variance=variance, weight=weight)
        share = x.shape[1] if weight is None else weight.double().sum(1)[:, None]
        return torch.complex(sums[..., 0], sums[..., 1]) / share
    first = math.pi / grid.half_width
    angle = ((x - m) * (first / s)).float()
    decay = torch.zeros_like(angle[:, :1]) if variance is None else (variance * (first / s) ** 2 / 2).float()
    ones = torch.ones_like(angle) if weight is None else weight.float()
    total = torch.zeros(len(x), grid.size, dtype=torch.complex64)
    sets = max(_CACHE // x.shape[1], 1)
    for at, start in itertools.product(range(0, len(x), sets), range(0, x.shape[1], _CACHE)):
        rows, paths = slice(at, at + sets), slice(start, start + _CACHE)
        a = decay[rows, paths] if variance is not None else decay[rows]
        z, ratio = ones[rows, paths].to(torch.complex64), torch.polar(torch.exp(-a), angle[rows, paths])
        change = torch.exp(-2 * a).to(torch.complex64)
        for k in range(grid.size):
            total[rows, k] += z.mul_(ratio).sum(-1)
            if variance is not None:
                ratio.mul_(change)
    return total.to(torch.complex128) / ones.double().sum(1, keepdim=True)
