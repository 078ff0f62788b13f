r"""Fast prices: the network and the payoff transform in single precision, tile by tile in the cache, on NumPy arrays.

With :math:`c_k=-\psi_k\,s/(w_k^2+iw_ks)` a put is, up to terms that no strike enters, :math:`e^{sz}\,\mathrm{Re}\sum_k
c_ke^{-ik\theta}` with θ = πz/L (`spectralmc.pricing.put_series`).  Splitting k = Jp + q turns the K exponentials of a strike into J and
K/J, and the sum into a product of small matrices; one contract is summed as it stands.  Only this sum and the network are in single
precision: its terms are of the size of the price and well scaled, so that it errs by a few 1e-7 standard deviations.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectralmc.bars import WIDEST, ErrorBars
from spectralmc.problem import Problem
from spectralmc.replay import Function, replayed
from spectralmc.spectrum import FrequencyGrid

_TILE = 256  # parameter sets at once
_BLOCK = 16  # J


class Engine:
    """Prices and error bars of a learned law.

    Parameters
    ----------
    base
        what is added to the network's φ_Z, (K,).
    relative_error
        half-width of the error bar in standard deviations where there are no ``bars``.
    """

    def __init__(
        self, problem: Problem, network: nn.Module, centre: Tensor, spread: Tensor, base: Tensor, bars: ErrorBars | None,
        relative_error: float,
    ) -> None:  # fmt: skip
        self.forward_known, self.has_atom = problem.forward_known, problem.has_atom
        self.atom: float | None = getattr(problem.functional, "atom", None)  # ln(atom/S₀), None: it pays nothing
        self.features, self.size = len(centre), problem.grid.size
        self.reference = reference(problem, centre, spread)
        self.base = base.to(torch.complex64).numpy()
        self.network = FastNetwork(network, None if self.has_atom else self.base)
        self.puts = FastPuts(problem.grid)
        self.bars = FastBars(bars, self.features) if bars else lambda features, distance: np.full_like(distance, relative_error)

    def __call__(self, points: np.ndarray, k: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Return prices and half-widths (B, L) at points (B, columns of the box) and strikes ln(K/F) (B, L)."""
        if len(k) <= _TILE:
            return self._tile(self.reference(points), k, kind)
        value, error = np.empty(k.shape), np.empty(k.shape)
        columns = self.reference(points)
        for first in range(0, len(k), _TILE):
            rows = slice(first, first + _TILE)
            value[rows], error[rows] = self._tile(columns[rows], k[rows], kind)
        return value, error

    def _tile(self, columns: np.ndarray, k: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
        n, size = self.features, self.size
        features, m, s = columns[:, :n], columns[:, n : n + 1], columns[:, n + 1 : n + 2]
        raw = self.network(features.astype(np.float32))
        strike, values = np.exp(k), raw[:, :size]
        if self.forward_known and not self.has_atom:  # the law is all there is
            put = self.puts(values, 1.0, m, s, k, strike)
            least = np.expm1(k)  # put − call, to all its digits at the money
            put = np.minimum(np.maximum(put, np.maximum(least, 0.0)), strike)
            return put if kind == "put" else put - least, self.bars(features, k / s) * s
        reference, mass = columns[:, n + 2 : n + 3], columns[:, n + 3 : n + 4]
        forward = np.ones_like(s) if self.forward_known else np.maximum(1 + s * raw[:, size : size + 1].real, 1e-3)
        if self.has_atom:
            values = values + mass.astype(np.float32) * self.base
            mass = np.clip(mass + raw[:, size : size + 1].imag, 1e-9, 1)
        put = self.puts(values, mass, m, s, k + np.log(forward), strike * forward) / forward
        worthless = self.has_atom and self.atom is None
        if self.has_atom and self.atom is not None:
            put += (1 - mass) * np.maximum(strike - math.exp(self.atom) / (reference * forward), 0)
        most, least = (mass * strike, mass * strike - 1) if worthless else (strike, np.expm1(k))
        put = np.minimum(np.maximum(put, np.maximum(least, 0.0)), most)
        return put if kind == "put" else put - least, self.bars(features, k / s) * s


def reference(problem: Problem, centre: Tensor, spread: Tensor) -> Function:
    """Return a function of points (B, columns of the box): standardised features, location, scale; forward and mass if the law needs them.

    What this package defines is recorded once and replayed without its checks; what others define is called as it is.
    """
    needed = 2 if problem.forward_known and not problem.has_atom else 4

    def plain(points: Tensor) -> Tensor:
        named = dict(zip(problem.space.box, points.unbind(1), strict=True))
        features = (problem.features(named) - centre) / spread
        return torch.cat([features, torch.stack(problem.standard(named)[:needed], 1)], 1)

    ours = (problem.space.process, type(problem.functional))
    if all(getattr(each, "__module__", "").startswith("spectralmc.") for each in ours):
        samples = [torch.stack([*problem.space.sample(size).values()], 1) for size in (3, 1, 7)]
        if found := replayed(plain, samples):
            return found
    return lambda points: plain(torch.from_numpy(points)).numpy()


class FastNetwork:
    """A spectral network, complex or real, in single precision; complex layers as real ones on (Re, Im).

    ``base`` is added to the first of its outputs.
    """

    def __init__(self, network: nn.Module, base: np.ndarray | None) -> None:
        layers: Any = network.inner
        self.layers = [(_blocks(layer.weight, i == 0) / 2, _stacked(layer.bias) / 2) for i, layer in enumerate(layers)]
        readout: Any = network.readout
        both = [_single(readout.weight), _single(readout.bias)]  # Re of all outputs, then Im: laid out in turn
        weight, bias = (np.stack(np.split(part, 2), 1).reshape(part.shape) for part in both)
        if base is not None:
            bias[: 2 * len(base)] += base.view(np.float32)
        self.readout = np.ascontiguousarray(weight.T), bias

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the outputs, (B, size), of features (B, P)."""
        h = x
        for i, (weight, bias) in enumerate(self.layers):
            half = h @ weight
            half += bias
            change = np.tanh(half)
            change += 1
            change *= half  # silu(x) = x/2·(1 + tanh(x/2))
            h = h + change if i else change
        out = h @ self.readout[0]
        out += self.readout[1]
        return np.asarray(out.view(np.complex64))


class FastPuts:
    """Sums of the Fourier series of puts in single precision."""

    def __init__(self, grid: FrequencyGrid) -> None:
        self.size, self.half = grid.size, grid.half_width
        w, k = grid.frequency.numpy(), np.arange(1, grid.size + 1)
        self.square, self.turning = (w**2).astype(np.complex64), (1j * w).astype(np.complex64)
        sign = np.where(k % 2 == 1, -1.0, 1.0)
        self.sign, self.over = sign.astype(np.complex64).view(np.float32), (1j * sign / w).astype(np.complex64).view(np.float32)
        self.turns = k / (2 * grid.half_width)
        self.rows = -(-grid.size // _BLOCK)
        self.fine = (np.arange(1, _BLOCK + 1) * (math.pi / grid.half_width)).astype(np.float32)
        self.coarse = _BLOCK * np.arange(self.rows) / (2 * grid.half_width)

    def __call__(
        self, values: np.ndarray, mass: np.ndarray | float, m: np.ndarray, s: np.ndarray, k: np.ndarray, strike: np.ndarray
    ) -> np.ndarray:
        """Return put prices on the continuous part, (B, L).

        Shapes: ψ (B, K) in single precision; mass, location and scale (B, 1), strikes k and e^k (B, L) in double.
        """
        half, unit, single = self.half, np.exp(m), s.astype(np.float32)
        z = np.minimum(np.maximum((k - m) / s, -half), half)  # faster than clip on a few numbers
        c = values / (self.square + single * self.turning)
        c *= -single
        at_end = (c.view(np.float32) @ self.sign)[:, None].astype(np.float64)
        tail = (values.view(np.float32) @ self.over)[:, None].astype(np.float64)
        down = np.exp(-half * s)
        rise = down * np.expm1(s * (z + half))  # up − down, to all its digits for the smallest s
        up = down + rise
        series = up * (self._line(c, z) if len(c) == 1 else self._blocks(c, z))
        series += tail * rise - down * at_end + mass / 2 * (up * (z + half) - rise / s)
        series *= unit / half
        series += mass * np.maximum(strike - unit / down, 0.0)
        return np.asarray(series)

    def _line(self, c: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return Re Σ c_k e^{−ikθ}, (1, L), term by term."""
        turns = z[0, :, None] * self.turns
        turns -= np.rint(turns)  # many: reduced before they are rounded
        angle = np.multiply(turns, 2 * math.pi, dtype=np.float32, casting="same_kind")
        wave = np.empty((*angle.shape, 2), np.float32)
        np.cos(angle, out=wave[..., 0])
        np.sin(angle, out=wave[..., 1])
        return np.asarray(wave.reshape(len(angle), -1) @ c.view(np.float32)[0], np.float64)[None]

    def _blocks(self, c: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return Re Σ c_k e^{−ikθ}, (B, L), as Σ_p e^{−iJpθ} Σ_q c_{pq}e^{−iqθ}.

        The inner sum has the real part Re c · cos + Im c · sin and the imaginary part Im c · cos − Re c · sin.
        """
        padded = np.zeros((len(c), self.rows * _BLOCK), np.complex64)
        padded[:, : self.size] = c
        parts = padded.reshape(-1, self.rows, _BLOCK).transpose(0, 2, 1)
        matrix = np.empty((len(c), 2 * _BLOCK, 2 * self.rows), np.float32)
        matrix[:, :_BLOCK, : self.rows], matrix[:, _BLOCK:, : self.rows] = parts.real, parts.imag
        matrix[:, :_BLOCK, self.rows :], matrix[:, _BLOCK:, self.rows :] = parts.imag, -parts.real
        angle = z[..., None].astype(np.float32) * self.fine
        fine = np.empty((*z.shape, 2 * _BLOCK), np.float32)
        np.cos(angle, out=fine[..., :_BLOCK])
        np.sin(angle, out=fine[..., _BLOCK:])
        turns = z[..., None] * self.coarse
        turns -= np.rint(turns)
        wide = (2 * math.pi * turns).astype(np.float32)
        blocks = np.matmul(fine, matrix)  # (B, L, 2R)
        blocks[..., : self.rows] *= np.cos(wide)
        blocks[..., self.rows :] *= np.sin(wide)
        return np.asarray(blocks.sum(-1), np.float64)


class FastBars:
    """`ErrorBars` as a quadratic in the distance, whose coefficients are quadratic forms of the features."""

    def __init__(self, bars: ErrorBars, features: int) -> None:
        n = features + 1
        i, j = np.triu_indices(features)
        *forms, square = bars.coefficients.split(1 + features + len(i))
        matrix = np.zeros((2, n, n))  # of (1, x)
        for form, part in zip(matrix, forms, strict=True):
            form[0], form[i + 1, j + 1] = part[:n], part[n:]
        self.forms, self.size, self.square = np.concatenate([*matrix], 1), n, float(square)
        self.low, self.high, self.factor = float(bars.low), float(bars.high), float(bars.factor)

    def __call__(self, features: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Return the half-width for standardised features (B, P) and distances ln(K/F)/s (B, L): (B, L)."""
        x = np.concatenate([np.ones_like(features[:, :1]), features], 1)
        y = np.minimum(np.maximum(distance, -WIDEST), WIDEST)
        level, slope = ((x @ self.forms).reshape(len(x), 2, -1) @ x[..., None]).transpose(1, 0, 2)
        logarithm = level + y * (slope + y * self.square)
        return np.asarray(self.factor * np.exp(np.minimum(np.maximum(logarithm, self.low), self.high)))


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
