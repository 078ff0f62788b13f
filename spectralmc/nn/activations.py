"""Complex activations.  Each says which symmetry it keeps: complex-linear, phase-equivariant, or neither."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, silu

from spectralmc.validation import count


def complex_input(layer: nn.Module, z: Tensor) -> Tensor:
    """Return ``z`` if it is complex; otherwise raise a ``TypeError`` that says how to make it so."""
    if not z.is_complex():
        raise TypeError(f"{type(layer).__name__} works on complex tensors; got {z.dtype}: convert with torch.complex(x, y)")
    return z


def _on_each_part(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    return torch.view_as_complex(function(torch.view_as_real(z.resolve_conj())))


class SplitSiLU(nn.Module):
    """The split activation silu(Re z) + i silu(Im z), smooth; it keeps neither phase nor complex-linearity.

    Shapes: any, complex.
    """

    def forward(self, z: Tensor) -> Tensor:
        """Return silu(Re z) + i silu(Im z)."""
        return _on_each_part(silu, complex_input(self, z))


class SplitReLU(nn.Module):
    """The split activation relu(Re z) + i relu(Im z), also called CReLU; it keeps neither phase nor complex-linearity.

    It commutes with positive factors.  Kinks: the two axes.  Shapes: any, complex.
    """

    def forward(self, z: Tensor) -> Tensor:
        """Return relu(Re z) + i relu(Im z)."""
        return _on_each_part(relu, complex_input(self, z))


class ModReLU(nn.Module):
    r"""The activation relu(|z| + b) z/|z| on the modulus (Arjovsky, Shah and Bengio 2016, eq. 8); 0 at z = 0.

    Phase-equivariant: it only changes the modulus.  Not complex-linear.  Kinks: the circle |z| = −b, and 0 where b > 0.

    Shapes: (B, C, …) with a learned real b for each of C channels, or any shape with a single b; complex.  b starts at zero, where the
    layer is the identity.
    """

    def __init__(self, features: int = 1, dtype: torch.dtype = torch.complex64) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(count("features", features), dtype=dtype.to_real()))

    def forward(self, z: Tensor) -> Tensor:
        """Return relu(|z| + b) z/|z|."""
        channels = len(self.bias)
        if channels > 1 and (complex_input(self, z).ndim < 2 or z.shape[1] != channels):
            raise ValueError(f"ModReLU needs (B, {channels}, …); got shape {tuple(z.shape)}")
        bias = self.bias.reshape(-1, *[1] * (z.ndim - 2)) if channels > 1 else self.bias
        return torch.sgn(complex_input(self, z)) * relu(z.abs() + bias)  # sgn is 0 at 0, and so is its gradient

    def extra_repr(self) -> str:
        """Return the number of biases."""
        return f"{len(self.bias)}"


class ZReLU(nn.Module):
    """The activation that keeps z in the first quadrant and gives 0 elsewhere (Guberman 2016); neither phase nor complex-linearity.

    It commutes with positive factors.  It jumps across the borders of the quadrant, which belong to it.  Shapes: any, complex.
    """

    def forward(self, z: Tensor) -> Tensor:
        """Return z where Re z ≥ 0 and Im z ≥ 0, else 0."""
        inside = (complex_input(self, z).real >= 0) & (z.imag >= 0)
        return torch.where(inside, z, torch.zeros_like(z))


class Cardioid(nn.Module):
    """The activation ½(1 + cos arg z) z (Virtue, Yu and Lustig 2017); it keeps the phase of z but is not phase-equivariant.

    It commutes with conjugation and with positive factors, and is relu on real numbers.  Kink: 0.  Shapes: any, complex.
    """

    def forward(self, z: Tensor) -> Tensor:
        """Return ½(1 + cos arg z) z."""
        return 0.5 * (1 + torch.sgn(complex_input(self, z)).real) * z


ACTIVATIONS: dict[str, Callable[[int, torch.dtype], nn.Module]] = {
    "SplitSiLU": lambda features, dtype: SplitSiLU(),
    "SplitReLU": lambda features, dtype: SplitReLU(),
    "ModReLU": ModReLU,
    "ZReLU": lambda features, dtype: ZReLU(),
    "Cardioid": lambda features, dtype: Cardioid(),
}
