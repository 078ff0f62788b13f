"""Complex-valued networks: plain torch modules on complex tensors."""

from spectralmc.nn.activations import Cardioid, ModReLU, SplitReLU, SplitSiLU, ZReLU
from spectralmc.nn.layers import ComplexLinear, Residual, WidelyLinear
from spectralmc.nn.network import SpectralNetwork
from spectralmc.nn.norm import CovarianceBatchNorm, SplitBatchNorm
from spectralmc.nn.real import RealNetwork

NETWORKS: dict[str, type[SpectralNetwork] | type[RealNetwork]] = {"complex": SpectralNetwork, "real": RealNetwork}

__all__ = [
    "NETWORKS",
    "Cardioid",
    "ComplexLinear",
    "CovarianceBatchNorm",
    "ModReLU",
    "RealNetwork",
    "Residual",
    "SpectralNetwork",
    "SplitBatchNorm",
    "SplitReLU",
    "SplitSiLU",
    "WidelyLinear",
    "ZReLU",
]
