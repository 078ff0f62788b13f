"""Complex-valued networks: plain torch modules on complex tensors."""

from spectralmc.nn.layers import ComplexLinear, SplitSiLU, WidelyLinear
from spectralmc.nn.network import SpectralNetwork

__all__ = ["ComplexLinear", "SpectralNetwork", "SplitSiLU", "WidelyLinear"]
