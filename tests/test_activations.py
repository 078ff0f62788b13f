"""Complex activations: the formula and the symmetry each claims, gradients away from kinks and at zero, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from spectralmc.nn import Cardioid, ModReLU, SplitReLU, SplitSiLU, ZReLU

PHASE = torch.polar(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64))


def batch(*shape: int, dtype: torch.dtype = torch.complex128) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def mod_relu(features: int = 1, bias: float = -0.3) -> ModReLU:
    layer = ModReLU(features, torch.complex128)
    layer.bias.data.fill_(bias)
    return layer


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor], bool, bool]] = {
    # layer, formula on one number by other means, phase-equivariant, positively homogeneous
    "SplitSiLU": (SplitSiLU, lambda z: torch.complex(z.real * z.real.sigmoid(), z.imag * z.imag.sigmoid()), False, False),
    "SplitReLU": (SplitReLU, lambda z: torch.complex(z.real.clamp(min=0), z.imag.clamp(min=0)), False, True),
    "ModReLU": (mod_relu, lambda z: torch.polar((z.abs() - 0.3).clamp(min=0), z.angle()), True, False),
    "ZReLU": (ZReLU, lambda z: z * ((z.angle() >= 0) & (z.angle() <= torch.pi / 2)), False, True),
    "Cardioid": (Cardioid, lambda z: 0.5 * (1 + z.angle().cos()) * z, False, True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_an_activation_is_its_formula(name: str) -> None:
    make, formula, _, _ = LAYERS[name]
    z = batch(40, 3)
    torch.testing.assert_close(make()(z), formula(z), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(make()(z.conj()), formula(z.conj().resolve_conj()), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", LAYERS)
def test_each_keeps_the_symmetry_it_claims_and_no_other(name: str) -> None:
    make, _, phase, positive = LAYERS[name]
    layer, z = make(), batch(40, 3)
    assert torch.allclose(layer(PHASE * z), PHASE * layer(z), rtol=1e-12, atol=1e-12) == phase
    assert torch.allclose(layer(1.7 * z), 1.7 * layer(z), rtol=1e-12, atol=1e-12) == positive
    assert not torch.allclose(layer(z + z.flip(0)), layer(z) + layer(z.flip(0)))  # none is linear


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_right_to_second_order_away_from_kinks(name: str) -> None:
    layer, z = LAYERS[name][0](), batch(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(layer, (z,))
    assert torch.autograd.gradgradcheck(layer, (z,))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("scale", [0.0, 1e-18, 1e18])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_zero_and_extreme_numbers_give_finite_values_and_gradients(name: str, scale: float, dtype: torch.dtype) -> None:
    layer, z = LAYERS[name][0]().to(dtype.to_real()), (scale * batch(5, 2, dtype=dtype)).requires_grad_()
    layer(z).abs().sum().backward()
    assert bool(torch.isfinite(layer(z)).all())
    assert bool(torch.isfinite(z.grad).all())


def test_a_cardioid_commutes_with_conjugation_and_is_relu_on_real_numbers() -> None:
    z, x = batch(40), batch(40).real
    torch.testing.assert_close(Cardioid()(z.conj()), Cardioid()(z).conj(), rtol=0, atol=0)
    torch.testing.assert_close(Cardioid()(x + 0j), x.relu() + 0j, rtol=1e-15, atol=0)


def test_mod_relu_learns_a_bias_for_each_channel() -> None:
    layer, z = mod_relu(3), batch(4, 3, 5)
    layer.bias.data = torch.tensor([0.0, -0.5, 0.2], dtype=torch.float64)
    for channel, bias in enumerate(layer.bias.tolist()):
        torch.testing.assert_close(layer(z)[:, channel], mod_relu(1, bias)(z[:, channel]))
    layer(z).abs().sum().backward()
    assert layer.bias.grad.shape == (3,)
    torch.testing.assert_close(ModReLU(3, torch.complex128)(z), z, rtol=1e-14, atol=0)  # at its start
    assert repr(layer) == "ModReLU(3)"


@pytest.mark.parametrize("shape", [(4, 2), (3,)])
def test_mod_relu_refuses_another_number_of_channels(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'ModReLU needs (B, 3, …); got shape {shape}')}$"):
        ModReLU(3)(torch.zeros(shape, dtype=torch.complex64))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_a_real_input_is_refused_with_the_remedy(name: str, dtype: torch.dtype) -> None:
    message = f"{name} works on complex tensors; got {dtype}: convert with torch.complex(x, y)"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        LAYERS[name][0]()(torch.zeros(1, 3, dtype=dtype))
