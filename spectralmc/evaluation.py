r"""Fast prices: the network and the payoff transform in single precision, tile by tile in the cache.

With :math:`c_k=\psi_k\frac{s}{s^2+w_k^2}(-1+is/w_k)` a put is, up to terms that no strike enters, :math:`e^{sz}\,\mathrm{Re}\sum_k
c_ke^{-ik\theta}` with θ = πz/L (`spectralmc.pricing.put_series`).  Splitting k = Jp + q turns the K exponentials of a strike into J and
K/J, and the sum into a product of small matrices.  Only this sum and the network are in single precision: its terms are of the size of
the price and well scaled, so that it errs by a few 1e-7 standard deviations.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from spectralmc.bars import WIDEST, ErrorBars
from spectralmc.problem import Problem
from spectralmc.spectrum import FrequencyGrid

_TILE = 256  # parameter sets at once
_BLOCK = 16  # J
Columns = tuple[Tensor, ...]


def fast_reference(problem: Problem, centre: Tensor, spread: Tensor) -> Callable[..., Columns]:
    """Return a function of the columns of the box: standardised features, then the fields of `Standard`.

    For what this package defines the operations are recorded once and replayed without their checks at the door, which cost more than
    they do for a single contract; what others define is called as it is.
    """

    def reference(*columns: Tensor) -> Columns:
        points = dict(zip(problem.space.box, columns, strict=True))
        return (problem.features(points) - centre) / spread, *problem.standard(points)

    ours = (problem.space.process, type(problem.functional))
    if not all(getattr(each, "__module__", "").startswith("spectralmc.") for each in ours):
        return reference
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that checks of values are not recorded is what is wanted
        recorded = torch.jit.trace(reference, tuple(problem.space.sample(3).values()), check_trace=False)
        torch._C._jit_pass_cse(recorded.graph)
        for size in (1, 7):
            columns = tuple(problem.space.sample(size).values())
            pairs = zip(recorded(*columns), reference(*columns), strict=True)
            if not all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in pairs):
                return reference
    return recorded  # type: ignore[no-any-return]


class FastNetwork:
    """A spectral network, complex or real, on NumPy arrays in single precision; complex layers as real ones on (Re, Im)."""

    def __init__(self, network: nn.Module) -> None:
        layers: Any = network.inner
        self.layers = [(_blocks(layer.weight, i == 0), _stacked(layer.bias)) for i, layer in enumerate(layers)]
        readout: Any = network.readout
        self.readout = np.ascontiguousarray(_single(readout.weight).T), _single(readout.bias)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return (Re, Im) of the outputs, (B, 2·size), of features (B, P)."""
        h = x
        for i, (weight, bias) in enumerate(self.layers):
            change = h @ weight
            change += bias
            change = _silu(change)
            if i:
                h += change
            else:
                h = change
        out = h @ self.readout[0]
        out += self.readout[1]
        return np.asarray(out)


class FastPuts:
    """Sums of the Fourier series of puts in single precision."""

    def __init__(self, grid: FrequencyGrid) -> None:
        self.size, self.half = grid.size, grid.half_width
        self.rows = -(-grid.size // _BLOCK)
        w = grid.frequency.numpy()
        self.square, self.inverse = (w**2).astype(np.float32), (1 / w).astype(np.float32)
        sign = np.where(np.arange(1, grid.size + 1) % 2 == 1, -1.0, 1.0)
        self.sign, self.over = sign.astype(np.float32), (sign / w).astype(np.float32)
        self.fine = (np.arange(1, _BLOCK + 1) * (math.pi / grid.half_width)).astype(np.float32)
        self.coarse = _BLOCK * np.arange(self.rows) / (2 * grid.half_width)

    def __call__(self, values: tuple[np.ndarray, np.ndarray], mass: np.ndarray, m: np.ndarray, s: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Return put prices on the continuous part, (B, L).

        Shapes: real and imaginary part of ψ (B, K) in single precision; mass, location and scale (B, 1), strikes (B, L) in double.
        """
        z = np.clip((k - m) / s, -self.half, self.half)
        coefficients, at_end, tail = self._coefficients(*values, s.astype(np.float32))
        down = np.exp(-s * self.half)
        rise = down * np.expm1(s * (z + self.half))  # up − down, to all its digits for the smallest s
        up = down + rise
        series = up * self._sum(coefficients, z) - down * at_end + tail * rise
        smooth = mass / 2 * (up * (z + self.half) - rise / s)
        beyond = np.maximum(np.exp(k) - np.exp(m + s * self.half), 0.0)
        return np.asarray(np.exp(m) / self.half * (series + smooth) + mass * beyond)

    def _coefficients(self, real: np.ndarray, imaginary: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return c_k as a matrix (B, 2J, 2R) on the fine cosines and sines, its sum at z = −L, and Σ(−1)^k Im ψ_k/w_k.

        Σ_q c_{pq}e^{−iqθ} has the real part Re c · cos + Im c · sin and the imaginary part Im c · cos − Re c · sin.
        """
        unit, ratio = s / (s * s + self.square), s * self.inverse
        a, b = np.zeros((2, len(real), self.rows * _BLOCK), np.float32)
        np.multiply(-unit, real + ratio * imaginary, out=a[:, : self.size])
        np.multiply(unit, ratio * real - imaginary, out=b[:, : self.size])
        at_end = (a[:, : self.size] @ self.sign)[:, None].astype(np.float64)
        tail = (imaginary @ self.over)[:, None].astype(np.float64)
        a, b = (part.reshape(-1, self.rows, _BLOCK).transpose(0, 2, 1) for part in (a, b))
        matrix = np.empty((len(real), 2 * _BLOCK, 2 * self.rows), np.float32)
        matrix[:, :_BLOCK, : self.rows], matrix[:, _BLOCK:, : self.rows] = a, b
        matrix[:, :_BLOCK, self.rows :], matrix[:, _BLOCK:, self.rows :] = b, -a
        return matrix, at_end, tail

    def _sum(self, coefficients: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return Re Σ c_k e^{−ikθ}, (B, L)."""
        angle = z[..., None].astype(np.float32) * self.fine
        fine = np.empty((*z.shape, 2 * _BLOCK), np.float32)
        np.cos(angle, out=fine[..., :_BLOCK])
        np.sin(angle, out=fine[..., _BLOCK:])
        turns = z[..., None] * self.coarse  # many: reduced before they are rounded
        turns -= np.rint(turns)
        wide = (2 * math.pi * turns).astype(np.float32)
        blocks = np.matmul(fine, coefficients)  # (B, L, 2R)
        blocks[..., : self.rows] *= np.cos(wide)
        blocks[..., self.rows :] *= np.sin(wide)
        return np.asarray(blocks.sum(-1), np.float64)


class FastBars:
    """`ErrorBars` as a quadratic in the distance, whose coefficients depend on the features."""

    def __init__(self, bars: ErrorBars, features: int) -> None:
        n = features + 1
        i, j = np.triu_indices(n)
        matrix = np.zeros((n + 1, n + 1))
        matrix[0, : n + 1] = bars.coefficients[: n + 1].numpy()
        matrix[i + 1, j + 1] = bars.coefficients[n + 1 :].numpy()
        self.inner, self.mixed, self.square = matrix[:n, :n], matrix[:n, n], matrix[n, n]
        self.low, self.high, self.factor = float(bars.low), float(bars.high), float(bars.factor)

    def __call__(self, features: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Return the half-width for standardised features (B, P) and distances ln(K/F)/s (B, L): (B, L)."""
        x = np.concatenate([np.ones_like(features[:, :1]), features], 1)
        y = np.minimum(np.abs(distance), WIDEST)
        logarithm = ((x @ self.inner) * x).sum(1)[:, None] + y * ((x @ self.mixed)[:, None] + y * self.square)
        return np.asarray(self.factor * np.exp(np.clip(logarithm, self.low, self.high)))


def _silu(x: np.ndarray) -> np.ndarray:
    if x.size > _BLOCK * _TILE:
        silu(torch.from_numpy(x), inplace=True)  # one pass; its call costs more than a few numbers do
        return x
    with np.errstate(over="ignore"):
        return np.asarray(x / (1 + np.exp(-x)))


def _single(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).numpy()


def _stacked(bias: Tensor) -> np.ndarray:
    return _single(torch.cat([bias.real, bias.imag]) if bias.is_complex() else bias)


def _blocks(weight: Tensor, first: bool) -> np.ndarray:
    """Return Wᵀ as a real matrix on (Re, Im); the first layer takes real inputs."""
    if not weight.is_complex():
        return np.ascontiguousarray(_single(weight).T)
    a, b = weight.real, weight.imag
    whole = torch.cat([a, b]) if first else torch.cat([torch.cat([a, -b], 1), torch.cat([b, a], 1)])
    return np.ascontiguousarray(_single(whole).T)


def tiles(sets: int) -> list[slice]:
    """Return slices of at most a tile."""
    return [slice(first, first + _TILE) for first in range(0, sets, _TILE)]
