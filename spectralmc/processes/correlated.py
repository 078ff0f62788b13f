"""Several correlated assets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from spectralmc.processes.base import Scheme, State
from spectralmc.validation import Number, real


def _exact(process: CorrelatedBlackScholes, state: State, dt: Tensor, normals: Tensor) -> State:
    """Add the exact Gaussian increments of the A logarithms."""
    (x,) = state
    volatility = torch.as_tensor(process.volatility, dtype=x.dtype)
    deviation = volatility.reshape(process.assets, -1, 1) * dt.sqrt()
    root = process.root.to(x.dtype).flatten(2) if process.root.ndim > 2 else process.root.to(x.dtype)[..., None]
    noise = torch.einsum("acb,cbn->abn", root.expand(-1, -1, normals.shape[1]), normals)
    return (x + (deviation * noise - deviation**2 / 2),)


@dataclass(frozen=True)
class CorrelatedBlackScholes:
    r"""A geometric Brownian motions with correlated noise (Black and Scholes 1973, several assets), under the forward measure.

    .. math:: dF^a_t = \sigma_a F^a_t\,dW^a_t, \qquad d\langle W^a,W^c\rangle_t = R_{ac}\,dt

    Parameters
    ----------
    volatility
        σ in (0, ∞), per √year, (A,) or (A, B).
    correlation
        R, positive definite with unit diagonal, (A, A) or (A, A, B).

    State: X, (A, B, N); A normals a step.  Scheme: ``exact`` (no bias).

    Closed form: :math:`\varphi(u)=\exp\left(-\tfrac12T(u^\top\Sigma u+iu^\top\operatorname{diag}\Sigma)\right)`,
    :math:`\Sigma_{ac}=\sigma_a\sigma_cR_{ac}`.

    Limits: A = 1 is `BlackScholes`.
    """

    volatility: Any
    correlation: Any
    root: Tensor = field(init=False, repr=False, compare=False)  # lower triangular, root·rootᵀ = R
    lognormal: ClassVar[bool] = True
    own_axes: ClassVar[dict[str, int]] = {"volatility": 1, "correlation": 2, "root": 2}
    schemes: ClassVar[tuple[Scheme, ...]] = (Scheme("exact", _exact, math.inf),)

    def __post_init__(self) -> None:
        sigma = real("volatility", self.volatility, "positive", "per sqrt(year)")
        matrix = real("correlation", self.correlation)
        if sigma.ndim == 0 or matrix.ndim < 2 or matrix.shape[:2] != (len(sigma), len(sigma)):
            shapes = f"got shapes {tuple(sigma.shape)} and {tuple(matrix.shape)}"
            raise ValueError(f"volatility must be (A,) and correlation (A, A), of parameter sets (A, B) and (A, A, B); {shapes}")
        object.__setattr__(self, "root", _cholesky(matrix))

    @property
    def assets(self) -> int:
        """A."""
        return len(self.root)

    @property
    def factors(self) -> int:
        """Normals a step."""
        return self.assets

    @property
    def control(self) -> CorrelatedBlackScholes:
        """The control process: itself."""
        return self

    def start(self, zeros: Tensor) -> State:
        """Return X = 0 of every asset."""
        return (zeros.expand(self.assets, *zeros.shape),)

    def integrated_variance(self, maturity: Number) -> Tensor:
        """Return the covariance ΣT of the logarithms, (A, A) or (B, A, A)."""
        sigma, matrix = real("volatility", self.volatility), real("correlation", self.correlation)
        t = real("maturity", maturity, "positive", "years")
        covariance = sigma[:, None] * sigma * matrix if sigma.ndim == matrix.ndim - 1 else _aligned(sigma, matrix)
        return covariance.movedim((0, 1), (-2, -1)) * t[..., None, None]

    def features(self, maturity: Number) -> Tensor:
        """Return ln(σ_a√T) and R_ac, a > c, (B, A(A + 1)/2): the law of X depends on nothing else."""
        covariance = self.integrated_variance(maturity)
        logarithms = torch.log(covariance.diagonal(dim1=-2, dim2=-1)) / 2
        first, second = torch.tril_indices(self.assets, self.assets, -1)
        correlation = covariance[..., first, second] * torch.exp(-logarithms[..., first] - logarithms[..., second])
        return torch.cat([logarithms, correlation], -1)

    def characteristic_function(self, frequency: Tensor, maturity: Number) -> Tensor:
        """Return φ(u) of the vector X at ``frequency`` (K, A), real or complex: (K,) or (B, K)."""
        u = torch.as_tensor(frequency)
        covariance = self.integrated_variance(maturity)
        square = torch.einsum("ka,...ac,kc->...k", u, covariance.to(u.dtype), u)
        diagonal = torch.einsum("ka,...a->...k", u, covariance.diagonal(dim1=-2, dim2=-1).to(u.dtype))
        return torch.exp(-(square + 1j * diagonal) / 2)


def _aligned(sigma: Tensor, matrix: Tensor) -> Tensor:
    """Σ where only one of volatility and correlation has an axis of parameter sets."""
    sigma, matrix = (sigma, matrix[..., None]) if sigma.ndim == 2 else (sigma[:, None], matrix)
    return sigma[:, None] * sigma * matrix


def _cholesky(matrix: Tensor) -> Tensor:
    """Return the lower triangular root of correlation matrices (A, A, …), by NumPy: a torch may come without LAPACK."""
    stacked = np.moveaxis(matrix.detach().double().cpu().numpy(), (0, 1), (-2, -1))
    if not np.allclose(stacked, np.swapaxes(stacked, -1, -2), rtol=0, atol=1e-6) or not np.allclose(
        np.diagonal(stacked, axis1=-2, axis2=-1), 1, rtol=0, atol=1e-6
    ):
        raise ValueError("correlation must be symmetric with ones on its diagonal")
    try:
        root = np.linalg.cholesky(stacked)
    except np.linalg.LinAlgError:
        least = float(np.linalg.eigvalsh(stacked).min())
        raise ValueError(f"correlation must be positive definite; its smallest eigenvalue is {least:.3g}") from None
    return torch.as_tensor(np.moveaxis(root, (-2, -1), (0, 1)).copy()).to(matrix)
