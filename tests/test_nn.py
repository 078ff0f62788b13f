"""Complex layers: the symmetry each claims, gradients, starting weights, and what is refused."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from torch import Tensor, nn

import spectralmc as smc
from spectralmc.nn import ComplexLinear, Residual, SpectralNetwork, SplitSiLU, WidelyLinear

DTYPES = [torch.complex64, torch.complex128]
PHASE = torch.polar(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64))


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(*shape: int, dtype: torch.dtype = torch.complex128) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=generator())


def random_(layer: nn.Module) -> nn.Module:
    """Give every weight and bias a random value."""
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator(2))
    return layer


def is_linear(layer: nn.Module, factor: Tensor) -> bool:
    z, w = batch(4, 3), batch(4, 3).flip(0)
    return torch.allclose(layer(factor * z + w), factor * layer(z) + layer(w), rtol=1e-12, atol=1e-12)


def keeps_phase(layer: nn.Module) -> bool:
    z = batch(4, 3)
    return torch.allclose(layer(PHASE * z), PHASE * layer(z), rtol=1e-12, atol=1e-12)


LAYERS = {
    # complex-linear, real-linear, phase-equivariant
    "ComplexLinear without bias": (lambda: random_(ComplexLinear(3, 5, bias=False, dtype=torch.complex128)), (True, True, True)),
    "ComplexLinear": (lambda: random_(ComplexLinear(3, 5, dtype=torch.complex128)), (False, False, False)),
    "WidelyLinear at zero bias": (lambda: without_bias(random_(WidelyLinear(3, 5, dtype=torch.complex128))), (False, True, False)),
    "SplitSiLU": (SplitSiLU, (False, False, False)),
}


def without_bias(layer: WidelyLinear) -> WidelyLinear:
    layer.bias.data.zero_()
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_keeps_the_symmetry_it_claims_and_no_other(name: str) -> None:
    make, claims = LAYERS[name]
    layer = make()
    real = torch.tensor(1.7, dtype=torch.complex128)
    assert (is_linear(layer, 1.3 * PHASE), is_linear(layer, real), keeps_phase(layer)) == claims


def test_the_bias_is_added_to_a_complex_linear_map() -> None:
    layer, z = random_(ComplexLinear(3, 5, dtype=torch.complex128)), batch(2, 7, 3)
    torch.testing.assert_close(layer(z), z @ layer.weight.T + layer.bias, rtol=1e-14, atol=1e-14)
    assert ComplexLinear(3, 5, bias=False).bias is None


def test_a_widely_linear_map_is_w_z_plus_v_conjugate_z_plus_b() -> None:
    layer, z = random_(WidelyLinear(3, 5, dtype=torch.complex128)), batch(7, 3)
    (a, b), (c, d) = (half.chunk(2, 1) for half in layer.weight.chunk(2, 0))  # Re and Im out, from Re and Im in
    w, v = torch.complex(a + d, c - b) / 2, torch.complex(a - d, c + b) / 2
    bias = torch.complex(*layer.bias.chunk(2))
    torch.testing.assert_close(layer(z), z @ w.T + z.conj() @ v.T + bias, rtol=1e-13, atol=1e-13)


def test_split_silu_acts_on_each_part() -> None:
    z, silu = batch(4, 3), nn.functional.silu
    torch.testing.assert_close(SplitSiLU()(z), torch.complex(silu(z.real), silu(z.imag)), rtol=0, atol=0)
    torch.testing.assert_close(SplitSiLU()(z.conj()), torch.complex(silu(z.real), silu(-z.imag)), rtol=0, atol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_right_to_second_order(name: str) -> None:
    layer, z = LAYERS[name][0](), batch(2, 3).requires_grad_()
    inputs = (z, *layer.parameters())

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        names = [n for n, _ in layer.named_parameters()]
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_the_network_differentiates_in_its_features() -> None:
    network = SpectralNetwork(2, 4, width=5, depth=2, seed=1, dtype=torch.complex128)
    random_(network.readout)
    x = batch(3, 2).real.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: torch.view_as_real(network(t)), (x,))


def test_starting_weights_have_the_variance_and_the_uniform_phase_they_state() -> None:
    """E|W|² = 2/(in + out), real and imaginary parts alike and uncorrelated: 4 standard errors of n exponential variables."""
    layer = ComplexLinear(200, 300, generator=generator(3))
    weight, n = layer.weight.detach().to(torch.complex128).flatten() * math.sqrt(250), 60_000
    assert abs(float(weight.abs().square().mean()) - 1) < 4 / math.sqrt(n)
    for moment in (weight.mean(), weight.square().mean()):  # no mean; a uniform phase has no second moment
        assert float(moment.abs()) < 4 * math.sqrt(2 / n)
    assert bool((layer.bias == 0).all())


def test_he_weights_have_the_variance_they_state() -> None:
    weight = ComplexLinear(200, 300, generator=generator(3), init="he").weight.detach().to(torch.complex128) * math.sqrt(100)
    assert abs(float(weight.abs().square().mean()) - 1) < 4 / math.sqrt(60_000)


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3)])
def test_a_unitary_start_keeps_lengths_and_a_seed_makes_it(shape: tuple[int, int]) -> None:
    layers = [ComplexLinear(*shape, dtype=torch.complex128, generator=generator(seed), init="unitary") for seed in (3, 3, 4)]
    w = layers[0].weight.detach()
    gram = w.mH @ w if shape[1] >= shape[0] else w @ w.mH
    torch.testing.assert_close(gram, torch.eye(min(shape), dtype=w.dtype), rtol=1e-14, atol=1e-14)
    assert torch.equal(w, layers[1].weight)
    assert not torch.equal(w, layers[2].weight)


def test_a_unitary_start_has_a_uniform_phase() -> None:
    """The mean of 400 unit numbers within 4 standard errors of zero; without a phase of its own, QR would leave the diagonal real."""
    diagonal = torch.stack([ComplexLinear(1, 1, generator=generator(seed), init="unitary").weight.detach()[0, 0] for seed in range(400)])
    assert float(diagonal.mean().abs()) < 4 / math.sqrt(400)


def test_a_residual_adds_its_layers_to_its_input() -> None:
    linear, z = random_(ComplexLinear(3, 3, dtype=torch.complex128)), batch(4, 3)
    torch.testing.assert_close(Residual(linear, SplitSiLU())(z), z + SplitSiLU()(linear(z)), rtol=0, atol=0)
    message = "the layers of a Residual must keep the shape; got (4, 3) to (4, 2)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Residual(ComplexLinear(3, 2, dtype=torch.complex128))(z)


@pytest.mark.parametrize("activation", ["SplitSiLU", "SplitReLU", "ModReLU", "ZReLU", "Cardioid"])
@pytest.mark.parametrize("normalization", ["none", "split", "covariance"])
def test_every_network_is_rebuilt_from_its_description_without_loss(activation: str, normalization: str) -> None:
    network = SpectralNetwork(2, 3, width=4, depth=2, seed=5, activation=activation, normalization=normalization)
    random_(network)
    x = batch(6, 2).real.float()
    network(x)  # moves the running statistics
    other = SpectralNetwork(**json.loads(json.dumps(network.description)))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.eval()(x), network.eval()(x))
    torch.testing.assert_close(network.astype(torch.complex128)(x.double()), network(x).to(torch.complex128), rtol=1e-3, atol=1e-4)


def test_the_readout_starts_at_zero() -> None:
    assert bool((WidelyLinear(3, 4)(batch(2, 3, dtype=torch.complex64)) == 0).all())
    assert bool((SpectralNetwork(2, 4)(torch.ones(3, 2)) == 0).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_network_has_the_shapes_and_the_precision_asked_for(dtype: torch.dtype, depth: int) -> None:
    network = SpectralNetwork(2, 7, width=5, depth=depth, dtype=dtype)
    x = torch.zeros(3, 2, dtype=dtype.to_real())
    assert network(x).shape == (3, 7)
    assert network(x).dtype == dtype
    assert network.hidden(x).shape == (3, 5)
    assert len(network.inner) == depth + 1


def test_the_hidden_layers_are_residual() -> None:
    network, silu = SpectralNetwork(2, 3, width=4, depth=2, seed=1, dtype=torch.complex128), SplitSiLU()
    x = batch(6, 2).real
    h = silu(network.inner[0](x + 0j))
    for layer in list(network.inner)[1:]:
        h = h + silu(layer(h))
    torch.testing.assert_close(network.hidden(x), h, rtol=0, atol=0)
    random_(network.readout)
    torch.testing.assert_close(network(x), network.readout(h), rtol=0, atol=0)


def test_a_seed_makes_the_network() -> None:
    a, b, c = (SpectralNetwork(2, 3, width=4, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["inner.0.weight"], c["inner.0.weight"])


def test_the_description_rebuilds_the_network_and_astype_copies_it() -> None:
    network = SpectralNetwork(2, 3, width=4, depth=2, seed=5)
    random_(network.readout)
    other = SpectralNetwork(**network.description)
    other.load_state_dict(network.state_dict())
    x = batch(6, 2).real
    assert torch.equal(other(x.float()), network(x.float()))
    double = network.astype(torch.complex128)
    assert double.description == network.description
    torch.testing.assert_close(double(x), network(x.float()).to(torch.complex128), rtol=1e-5, atol=1e-5)
    double.readout.weight.data.zero_()
    assert float(network.readout.weight.detach().abs().max()) > 0


@pytest.mark.parametrize("layer", [ComplexLinear(3, 2), WidelyLinear(3, 2), SplitSiLU()], ids=lambda layer: type(layer).__name__)
def test_a_real_input_is_refused_with_the_remedy(layer: nn.Module) -> None:
    message = f"{type(layer).__name__} works on complex tensors; got torch.float32: convert with torch.complex(x, y)"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        layer(torch.zeros(1, 3))


@pytest.mark.parametrize("x", [torch.zeros(3, 5), torch.zeros(2), torch.zeros(3, 2, dtype=torch.complex64)])
def test_the_network_refuses_other_features(x: Tensor) -> None:
    message = f"features must be real (B, 2); got {x.dtype} {tuple(x.shape)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SpectralNetwork(2, 3)(x)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ComplexLinear(0, 3), ValueError, "features_in must be at least 1; got 0"),
        (lambda: ComplexLinear(3, -1), ValueError, "features_out must be at least 1; got -1"),
        (lambda: ComplexLinear(3, 3, init="zero"), ValueError, "init must be one of glorot, he, unitary; got 'zero'"),
        (lambda: SpectralNetwork(2, 3, normalization="x"), ValueError, "normalization must be one of none, split, covariance; got 'x'"),
        (lambda: WidelyLinear(3, 0), ValueError, "features_out must be at least 1; got 0"),
        (lambda: WidelyLinear(1.5, 2), TypeError, "features_in must be a whole number; got 1.5"),
        (lambda: smc.SpectralNetwork(2, 3, depth=-1), ValueError, "depth must be at least 0; got -1"),
    ],
)
def test_bad_sizes_are_refused(make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()
