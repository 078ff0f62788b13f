"""Complex layers.  Each says which symmetry it keeps: complex-linear, phase-equivariant, or neither."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from spectralmc.nn.activations import complex_input
from spectralmc.validation import count, one_of

Start = Literal["glorot", "he", "unitary"]


class ComplexLinear(nn.Module):
    r"""The complex-linear map z ↦ Wz + b.

    Phase-equivariant without bias: W(e^{iθ}z) = e^{iθ}Wz.

    Weights start as independent complex Gaussians, whose modulus is Rayleigh and phase uniform, with E|W|² = 2/(in + out) (``glorot``) or
    2/in (``he``): the criteria of Glorot and of He for complex weights (Trabelsi et al. 2018, "Deep complex networks", section 3.6).
    ``unitary`` draws W uniformly among the matrices with orthonormal columns, or rows where in > out: it keeps lengths (Mezzadri 2007).
    The bias starts at zero.

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
        init: Start = "glorot",
    ) -> None:
        super().__init__()
        shape = (count("features_out", features_out), count("features_in", features_in))
        if one_of("init", init, ("glorot", "he", "unitary")) == "unitary":
            weight = _unitary(*shape, generator).to(dtype)
        else:
            deviation = math.sqrt(2 / (features_in + (features_out if init == "glorot" else 0)))
            weight = deviation * torch.randn(shape, dtype=dtype, generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(features_out, dtype=dtype)) if bias else None

    def forward(self, z: Tensor) -> Tensor:
        """Return Wz + b."""
        return linear(complex_input(self, z), self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes, in torch's words."""
        return f"in_features={self.weight.shape[1]}, out_features={self.weight.shape[0]}, bias={self.bias is not None}"


def _unitary(rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
    """Return a random matrix with orthonormal columns or rows, complex128; by NumPy, since a torch may be built without LAPACK."""
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    parts = random.standard_normal((2, max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(parts[0] + 1j * parts[1])
    q = q * np.sign(np.diag(r))  # without these phases Q is not uniform
    return torch.from_numpy(np.ascontiguousarray(q if rows >= columns else q.T))


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


class Residual(nn.Sequential):
    """The map z ↦ z + f(z), with f the given layers in turn; it keeps whichever symmetry all of them keep.

    Shapes: those of f, which must return the shape it takes.
    """

    def forward(self, z: Tensor) -> Tensor:
        """Return z + f(z)."""
        change = z
        for layer in self:
            change = layer(change)
        if change.shape != z.shape:
            raise ValueError(f"the layers of a Residual must keep the shape; got {tuple(z.shape)} to {tuple(change.shape)}")
        return z + change
