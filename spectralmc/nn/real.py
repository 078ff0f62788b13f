"""The real counterpart of the spectral network, to measure what complex arithmetic is worth."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from spectralmc.validation import count


class RealNetwork(nn.Module):
    """A residual real network from P real features to K complex values, of the form of `SpectralNetwork`.

    h₀ = silu(W₀x), h_{i+1} = h_i + silu(W_i h_i), output = a real-linear map of the last h to (Re, Im), zero at the start.

    Shapes: (B, P) real to (B, K) complex.  Parameters as those of `SpectralNetwork`; ``dtype`` is that of the output.
    """

    def __init__(
        self, features: int, frequencies: int, width: int = 64, depth: int = 3, seed: int = 0, dtype: torch.dtype = torch.complex64
    ) -> None:
        super().__init__()
        self.description: dict[str, Any] = {
            "features": features, "frequencies": frequencies, "width": count("width", width), "depth": count("depth", depth, 0),
        }  # fmt: skip
        generator, real = torch.Generator().manual_seed(seed), dtype.to_real()
        self.inner = nn.ModuleList()
        for size in [features] + [width] * depth:
            layer = nn.Linear(size, width, dtype=real)
            with torch.no_grad():
                layer.weight.copy_(torch.randn(width, size, generator=generator, dtype=real) * math.sqrt(2 / (size + width)))
                layer.bias.zero_()
            self.inner.append(layer)
        self.readout = nn.Linear(width, 2 * frequencies, dtype=real)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def astype(self, dtype: torch.dtype) -> RealNetwork:
        """Return a copy whose output has another complex dtype."""
        copy = RealNetwork(**self.description, dtype=dtype)
        copy.load_state_dict(self.state_dict())
        return copy.train(self.training)

    def hidden(self, x: Tensor) -> Tensor:
        """Return the last hidden layer, (B, width), of features (B, P)."""
        if x.is_complex() or x.ndim != 2 or x.shape[1] != self.description["features"]:
            raise ValueError(f"features must be real (B, {self.description['features']}); got {x.dtype} {tuple(x.shape)}")
        h = x
        for i, layer in enumerate(self.inner):
            change = silu(layer(h))
            h = h + change if i else change
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Return the values at the frequencies."""
        return torch.complex(*linear(self.hidden(x), self.readout.weight, self.readout.bias).chunk(2, -1))
