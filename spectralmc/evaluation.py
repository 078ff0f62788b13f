r"""Fast prices: the network and the payoff transform in single precision, tile by tile in the cache.

With :math:`c_k=\psi_k\frac{s}{s^2+w_k^2}(-1+is/w_k)` a put is, up to terms that no strike enters, :math:`e^{sz}\,\mathrm{Re}\sum_k
c_ke^{-ik\theta}` with θ = πz/L (`spectralmc.pricing.put_series`).  Splitting k = Jp + q turns the K exponentials of a strike into J and
K/J, and the sum into a product of small matrices.  Only this sum and the network are in single precision: its terms are of the size of
the price and well scaled, so that it errs by a few 1e-7 standard deviations.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectralmc.spectrum import FrequencyGrid

_TILE = 256  # parameter sets at once
_BLOCK = 16  # J


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
            change = _silu(h @ weight + bias)
            h = h + change if i else change
        return np.asarray(h @ self.readout[0] + self.readout[1])


class FastPuts:
    """Sums of the Fourier series of puts in single precision."""

    def __init__(self, grid: FrequencyGrid) -> None:
        self.size, self.half = grid.size, grid.half_width
        self.rows = -(-grid.size // _BLOCK)
        w = grid.frequency.numpy()
        self.square, self.inverse = (w**2).astype(np.float32), (1 / w).astype(np.float32)
        sign = np.where(np.arange(1, grid.size + 1) % 2 == 1, -1.0, 1.0)
        self.sign, self.over = sign.astype(np.float32), (sign / w).astype(np.float32)
        self.turns = np.concatenate([np.arange(1, _BLOCK + 1), _BLOCK * np.arange(self.rows)]).astype(np.float64) / (2 * grid.half_width)

    def __call__(self, values: tuple[np.ndarray, np.ndarray], mass: np.ndarray, m: np.ndarray, s: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Return put prices on the continuous part, (B, L).

        Shapes: real and imaginary part of ψ (B, K) in single precision; mass, location and scale (B, 1), strikes (B, L) in double.
        """
        z = np.clip((k - m) / s, -self.half, self.half)
        coefficients, at_end, tail = self._coefficients(*values, s.astype(np.float32))
        up, down = np.exp(s * z), np.exp(-s * self.half)
        series = up * self._sum(coefficients, z) - down * at_end + tail * (up - down)
        smooth = mass / 2 * (up * (z + self.half) - (up - down) / s)
        beyond = np.maximum(np.exp(k) - np.exp(m + s * self.half), 0.0)
        return np.asarray(np.exp(m) / self.half * (series + smooth) + mass * beyond)

    def _coefficients(self, real: np.ndarray, imaginary: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return c_k as (Re, Im) in blocks, its sum at z = −L, and Σ(−1)^k Im ψ_k/w_k."""
        unit, ratio = s / (s * s + self.square), s * self.inverse
        found = np.zeros((2, len(real), self.rows * _BLOCK), np.float32)
        found[0, :, : self.size] = -unit * (real + ratio * imaginary)
        found[1, :, : self.size] = unit * (ratio * real - imaginary)
        at_end = (found[0, :, : self.size] @ self.sign)[:, None].astype(np.float64)
        tail = (imaginary @ self.over)[:, None].astype(np.float64)
        return found.reshape(2, len(real), self.rows, _BLOCK), at_end, tail

    def _sum(self, coefficients: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return Re Σ c_k e^{−ikθ}: (2, B, R, J) and (B, L) → (B, L)."""
        turns = z[..., None] * self.turns
        angle = (2 * math.pi * (turns - np.rint(turns))).astype(np.float32)
        cosine, sine = np.cos(angle), np.sin(angle)
        fine = np.concatenate([cosine[..., :_BLOCK], sine[..., :_BLOCK]], -1)  # (B, L, 2J)
        real, imaginary = coefficients
        to_real = np.concatenate([real, imaginary], -1)  # (B, R, 2J)
        to_imaginary = np.concatenate([imaginary, -real], -1)
        blocks = np.matmul(fine, np.concatenate([to_real, to_imaginary], 1).transpose(0, 2, 1))  # (B, L, 2R)
        coarse = np.concatenate([cosine[..., _BLOCK:], sine[..., _BLOCK:]], -1)
        return np.asarray(np.einsum("blr,blr->bl", blocks, coarse), np.float64)


def _silu(x: np.ndarray) -> np.ndarray:
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
