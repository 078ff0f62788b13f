"""The spectral network: real features in, one complex number a frequency out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spectralmc.nn.layers import ComplexLinear, SplitSiLU, WidelyLinear
from spectralmc.validation import count


class SpectralNetwork(nn.Module):
    """A residual complex network from P real features to K complex values.

    h₀ = a(W₀x), h_{i+1} = h_i + a(W_i h_i), output = widely linear in the last h, zero at the start.

    Shapes: (B, P) real to (B, K) complex.

    Parameters
    ----------
    features, frequencies
        P and K.
    width, depth
        units of every hidden layer; number of residual layers.
    seed
        of the initial weights.
    """

    def __init__(
        self, features: int, frequencies: int, width: int = 64, depth: int = 3, seed: int = 0, dtype: torch.dtype = torch.complex64
    ) -> None:
        super().__init__()
        self.description = {"features": features, "frequencies": frequencies, "width": width, "depth": count("depth", depth, 0)}
        generator = torch.Generator().manual_seed(seed)
        sizes = [features] + [width] * depth
        self.inner = nn.ModuleList(ComplexLinear(size, width, dtype=dtype, generator=generator) for size in sizes)
        self.activation = SplitSiLU()
        self.readout = WidelyLinear(width, frequencies, dtype)

    def astype(self, dtype: torch.dtype) -> SpectralNetwork:
        """Return a copy in another complex dtype."""
        copy = SpectralNetwork(**self.description, dtype=dtype)
        copy.load_state_dict(self.state_dict())
        return copy

    def hidden(self, x: Tensor) -> Tensor:
        """Return the last hidden layer, (B, width) complex, of real features (B, P)."""
        if x.is_complex() or x.ndim != 2 or x.shape[1] != self.description["features"]:
            raise ValueError(f"features must be real (B, {self.description['features']}); got {x.dtype} {tuple(x.shape)}")
        h: Tensor = self.activation(self.inner[0](torch.complex(x, torch.zeros_like(x))))
        for layer in list(self.inner)[1:]:
            h = h + self.activation(layer(h))
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Return the values at the frequencies."""
        result: Tensor = self.readout(self.hidden(x))
        return result
