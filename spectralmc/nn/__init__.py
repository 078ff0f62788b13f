"""Complex-valued networks: plain torch modules on complex tensors."""

from spectralmc.nn.activations import Cardioid, ModReLU, SplitReLU, SplitSiLU, ZReLU
from spectralmc.nn.layers import ComplexLinear, Residual, WidelyLinear
from spectralmc.nn.network import SpectralNetwork
from spectralmc.nn.norm import CovarianceBatchNorm, SplitBatchNorm

__all__ = [
    "Cardioid",
    "ComplexLinear",
    "CovarianceBatchNorm",
    "ModReLU",
    "Residual",
    "SpectralNetwork",
    "SplitBatchNorm",
    "SplitReLU",
    "SplitSiLU",
    "WidelyLinear",
    "ZReLU",
]
