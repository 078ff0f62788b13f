"""The spectral network: real features in, one complex number a frequency out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spectralmc.nn.activations import ACTIVATIONS
from spectralmc.nn.layers import ComplexLinear, WidelyLinear
from spectralmc.nn.norm import CovarianceBatchNorm, SplitBatchNorm
from spectralmc.validation import count, one_of

NORMALIZATIONS: dict[str, Callable[[int, torch.dtype], nn.Module]] = {
    "none": lambda features, dtype: nn.Identity(),
    "split": lambda features, dtype: SplitBatchNorm(features, dtype=dtype),
    "covariance": lambda features, dtype: CovarianceBatchNorm(features, dtype=dtype),
}


class SpectralNetwork(nn.Module):
    """A residual complex network from P real features to K complex values.

    h₀ = a(N(W₀x)), h_{i+1} = h_i + a(N(W_i h_i)), output = widely linear in the last h, zero at the start.

    Shapes: (B, P) real to (B, K) complex.

    Parameters
    ----------
    features, frequencies
        P and K.
    width, depth
        units of every hidden layer; number of residual layers.
    seed
        of the initial weights.
    activation, normalization
        a, by the name of its class; N: ``none``, ``split`` or ``covariance`` batch normalisation.  Each layer has its own.

    ``SpectralNetwork(**network.description)`` with the weights of ``network.state_dict()`` is the same network.
    """

    def __init__(
        self,
        features: int,
        frequencies: int,
        width: int = 64,
        depth: int = 3,
        seed: int = 0,
        dtype: torch.dtype = torch.complex64,
        activation: str = "SplitSiLU",
        normalization: str = "none",
    ) -> None:
        super().__init__()
        self.description: dict[str, Any] = {
            "features": features,
            "frequencies": frequencies,
            "width": width,
            "depth": count("depth", depth, 0),
            "activation": one_of("activation", activation, tuple(ACTIVATIONS)),
            "normalization": one_of("normalization", normalization, tuple(NORMALIZATIONS)),
        }
        generator = torch.Generator().manual_seed(seed)
        sizes = [features] + [width] * depth
        self.inner = nn.ModuleList(ComplexLinear(size, width, dtype=dtype, generator=generator) for size in sizes)
        self.norms = nn.ModuleList(NORMALIZATIONS[normalization](width, dtype) for _ in sizes)
        self.activations = nn.ModuleList(ACTIVATIONS[activation](width, dtype) for _ in sizes)
        self.readout = WidelyLinear(width, frequencies, dtype)

    def astype(self, dtype: torch.dtype) -> SpectralNetwork:
        """Return a copy in another complex dtype."""
        copy = SpectralNetwork(**self.description, dtype=dtype)
        copy.load_state_dict(self.state_dict())
        return copy.train(self.training)

    def hidden(self, x: Tensor) -> Tensor:
        """Return the last hidden layer, (B, width) complex, of real features (B, P)."""
        if x.is_complex() or x.ndim != 2 or x.shape[1] != self.description["features"]:
            raise ValueError(f"features must be real (B, {self.description['features']}); got {x.dtype} {tuple(x.shape)}")
        h = torch.complex(x, torch.zeros_like(x))
        for i, (linear, norm, activation) in enumerate(zip(self.inner, self.norms, self.activations, strict=True)):
            change: Tensor = activation(norm(linear(h)))
            h = h + change if i else change
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Return the values at the frequencies."""
        result: Tensor = self.readout(self.hidden(x))
        return result
