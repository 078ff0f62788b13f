"""Complex layers.  Each says which symmetry it keeps: complex-linear, phase-equivariant, or neither."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from spectralmc.validation import count


def complex_input(layer: nn.Module, z: Tensor) -> Tensor:
    """Return ``z`` if it is complex; otherwise raise a ``TypeError`` that says how to make it so."""
    if not z.is_complex():
        raise TypeError(f"{type(layer).__name__} works on complex tensors; got {z.dtype}: convert with torch.complex(x, y)")
    return z


class ComplexLinear(nn.Module):
    r"""The complex-linear map z ↦ Wz + b.

    Phase-equivariant without bias: W(e^{iθ}z) = e^{iθ}Wz.

    Weights start as independent complex Gaussians with E|W|² = 2/(in + out), whose modulus is Rayleigh and phase uniform (Glorot's
    criterion for complex weights: Trabelsi et al. 2018, "Deep complex networks", section 3.6); the bias at zero.

    Shapes: (…, in) to (…, out), complex.

    Raises
    ------
    TypeError
        a real input.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        bias: bool = True,
        dtype: torch.dtype = torch.complex64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        shape = (count("features_out", features_out), count("features_in", features_in))
        deviation = math.sqrt(2 / (features_in + features_out))
        self.weight = nn.Parameter(deviation * torch.randn(shape, dtype=dtype, generator=generator))
        self.bias = nn.Parameter(torch.zeros(features_out, dtype=dtype)) if bias else None

    def forward(self, z: Tensor) -> Tensor:
        """Return Wz + b."""
        return linear(complex_input(self, z), self.weight, self.bias)


class WidelyLinear(nn.Module):
    r"""The real-linear map z ↦ Wz + V z̄ + b of complex vectors (Picinbono and Chevalier 1995): the most general one.

    Neither complex-linear nor phase-equivariant.  Held as one real matrix on (Re z, Im z), so that least squares fit it directly.  It
    starts at zero.

    Shapes: (…, in) to (…, out), complex.
    """

    def __init__(self, features_in: int, features_out: int, dtype: torch.dtype = torch.complex64) -> None:
        super().__init__()
        real = dtype.to_real()
        self.weight = nn.Parameter(torch.zeros(2 * count("features_out", features_out), 2 * count("features_in", features_in), dtype=real))
        self.bias = nn.Parameter(torch.zeros(2 * features_out, dtype=real))

    def forward(self, z: Tensor) -> Tensor:
        """Return Wz + V z̄ + b."""
        stacked = torch.cat([complex_input(self, z).real, z.imag], -1)
        return torch.complex(*linear(stacked, self.weight, self.bias).chunk(2, -1))


class SplitSiLU(nn.Module):
    """The split activation silu(Re z) + i silu(Im z), smooth; it keeps neither phase nor complex-linearity.

    Shapes: any, complex.
    """

    def forward(self, z: Tensor) -> Tensor:
        """Return silu(Re z) + i silu(Im z)."""
        return torch.view_as_complex(silu(torch.view_as_real(complex_input(self, z).resolve_conj())))
