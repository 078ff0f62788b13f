"""Batch norms: what whitening does, torch's conventions, gradients, degenerate covariances, and what is refused."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spectralmc.nn import CovarianceBatchNorm, SplitBatchNorm
from spectralmc.nn.norm import _Apart, _Together, _Whiten, _whiten

KINDS = [SplitBatchNorm, CovarianceBatchNorm]
DTYPES = [torch.complex64, torch.complex128]
PHASE = torch.polar(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64))


def normal(*shape: int, dtype: torch.dtype = torch.complex128, seed: int = 1) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def skewed(*shape: int, dtype: torch.dtype = torch.complex128) -> Tensor:
    """Numbers with a mean and correlated parts of different size."""
    z = normal(*shape, dtype=dtype)
    return z + (0.6 - 0.3j) * z.conj() + (2 - 1j)


def covariance(z: Tensor) -> Tensor:
    """The biased covariance matrices of (Re, Im) of each channel, (C, 2, 2) in float64."""
    x = torch.view_as_real(z.detach().to(torch.complex128)).movedim(1, 0).flatten(1, -2)
    x = x - x.mean(1, keepdim=True)
    return x.mT @ x / x.shape[1]


def affine(layer: Any) -> Any:
    """Give a layer's scale and shift random values."""
    for seed, parameter in enumerate(layer.parameters()):
        parameter.data = normal(*parameter.shape, seed=seed).real.to(parameter.dtype).contiguous()
    return layer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4096, 3), (64, 3, 50), (16, 3, 8, 8)])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, 0.99, -0.999])
def test_the_whitened_covariance_is_the_identity(dtype: torch.dtype, shape: tuple[int, ...], correlation: float) -> None:
    x, y = normal(*shape).real, normal(*shape, seed=2).real
    z = torch.complex(3 * x, correlation * x + (1 - correlation**2) ** 0.5 * y).to(dtype) + (1 - 2j)
    kappa = torch.from_numpy(np.linalg.cond(covariance(z).numpy()))  # NumPy's own LAPACK: torch may have none
    miss = (covariance(CovarianceBatchNorm(3, eps=0, dtype=dtype)(z)) - torch.eye(2)).abs().amax((1, 2))
    assert bool((miss <= 4 * torch.finfo(dtype).eps * kappa).all())


def test_eps_shrinks_the_covariance_as_stated_and_the_mean_is_zero() -> None:
    z, eps = skewed(500, 3), 0.3
    v, out = covariance(z), CovarianceBatchNorm(3, eps=eps, dtype=torch.complex128)(z)
    expected = v @ torch.from_numpy(np.linalg.inv((v + eps * torch.eye(2, dtype=v.dtype)).numpy()))
    torch.testing.assert_close(covariance(out), expected, rtol=1e-12, atol=1e-12)
    assert float(out.mean(0).abs().max().detach()) < 1e-14


def test_whitening_is_the_symmetric_inverse_root_and_the_affine_part_follows_it() -> None:
    z, layer = skewed(60, 3), affine(CovarianceBatchNorm(3, eps=0, dtype=torch.complex128))
    values, vectors = map(torch.from_numpy, np.linalg.eigh(covariance(z).numpy()))
    root = vectors @ torch.diag_embed(values.rsqrt()) @ vectors.mT
    rr, ii, ri = layer.weight.unbind(-1)
    scale = torch.stack((torch.stack((rr, ri), -1), torch.stack((ri, ii), -1)), -2)
    expected = torch.einsum("cij,bcj->bci", scale @ root, torch.view_as_real(z - z.mean(0))) + layer.bias
    torch.testing.assert_close(torch.view_as_real(layer(z)), expected, rtol=1e-11, atol=1e-11)


def test_whitening_keeps_phase_and_positive_scale_and_the_split_norm_only_scale() -> None:
    z = skewed(60, 3)
    for kind in KINDS:
        layer = kind(3, eps=0, affine=False, track_running_stats=False, dtype=torch.complex128)
        assert torch.allclose(layer(PHASE * z), PHASE * layer(z), rtol=1e-11, atol=1e-11) == (kind is CovarianceBatchNorm)
        torch.testing.assert_close(layer(1.7 * z), layer(z), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(layer(z * z), layer(z) * layer(z))


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("shape", [(50, 4), (9, 4, 5), (5, 4, 3, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_both_follow_the_conventions_of_torch(momentum: float | None, shape: tuple[int, ...], training: bool) -> None:
    real = nn.BatchNorm1d(8, momentum=momentum, dtype=torch.float64)
    layers = [kind(4, momentum=momentum, dtype=torch.complex128) for kind in KINDS]
    for seed in range(3):
        z = normal(*shape, seed=seed) * (1 + seed) + (seed - 1j)
        planes = torch.view_as_real(z).movedim(-1, 2).flatten(1, 2).reshape(shape[0], 8, -1)
        expected = real(planes)
        outputs = [layer(z) for layer in layers]
    for layer, spread in zip(layers, ("running_variance", "running_covariance"), strict=True):
        torch.testing.assert_close(layer.running_mean.flatten(), real.running_mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(getattr(layer, spread)[:, :2].flatten(), real.running_var, rtol=1e-12, atol=1e-12)
        assert layer.num_batches_tracked == real.num_batches_tracked
    if not training:
        real.eval()
        expected = real(planes)
        outputs = [layer.eval()(z) for layer in layers]
    split = torch.view_as_real(outputs[0]).movedim(-1, 2).flatten(1, 2)
    torch.testing.assert_close(split.reshape(expected.shape), expected, rtol=1e-12, atol=1e-12)


def test_running_statistics_converge_to_the_population_and_eval_whitens_with_them() -> None:
    """100 batches of 200: every entry of the covariance within 4 standard errors, at most √(2/n) of the product of deviations."""
    layer, n = CovarianceBatchNorm(2, eps=0, momentum=None, dtype=torch.complex128), 20_000
    for seed in range(100):
        z = normal(200, 2, seed=seed)
        layer(z + (0.6 - 0.3j) * z.conj() + (2 - 1j))
    # z + q z̄ with E|z|² = 1: parts (1.6, −0.3; −0.3, 0.4) / √2
    root = torch.tensor([[1.6, -0.3], [-0.3, 0.4]], dtype=torch.float64) / 2**0.5
    v = root @ root
    expected = torch.stack((v[0, 0], v[1, 1], v[0, 1]))
    bound = 4 * (2 / n) ** 0.5 * torch.stack((v[0, 0], v[1, 1], (v[0, 0] * v[1, 1]).sqrt()))
    assert bool(((layer.running_covariance - expected).abs() < bound).all())
    assert bool(((layer.running_mean - torch.tensor([2.0, -1.0])).abs() < 4 * (v.diagonal() / n).sqrt()).all())
    z = skewed(20_000, 2)
    torch.testing.assert_close(covariance(layer.eval()(z)), torch.eye(2, dtype=torch.float64).expand(2, 2, 2), rtol=0.06, atol=0.06)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scaled", "training"), list(product([True, False], [True, False])))
@pytest.mark.parametrize("shape", [(5, 2), (3, 2, 2), (2, 2, 2, 2)])
def test_gradients_are_right_to_second_order(kind: Any, scaled: bool, training: bool, shape: tuple[int, ...]) -> None:
    layer = affine(kind(2, eps=1e-3, affine=scaled, dtype=torch.complex128)).train(training)
    z = skewed(*shape).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (z, *layer.parameters()))
    assert torch.autograd.gradgradcheck(call, (z, *layer.parameters()))


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("shape", [(64, 3), (8, 3, 9), (4, 3, 5, 2)])
def test_the_hand_written_backward_is_that_of_plain_arithmetic(scaled: bool, shape: tuple[int, ...]) -> None:
    layer, z, weights = affine(CovarianceBatchNorm(3, affine=scaled, dtype=torch.complex128)), skewed(*shape), normal(*shape, seed=5)
    found = []
    for whiten in (_Whiten.apply, _whiten):
        inputs = [t.detach().clone().requires_grad_() for t in (z, *layer.parameters())]
        y, *statistics = whiten(*inputs, *[None] * (3 - len(inputs)), 1e-3)
        first = torch.autograd.grad(torch.view_as_real(y * weights).square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.abs().square().sum() for g in first), inputs)
        found.append((y, *statistics, *first, *second))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_words_of_64_bits_hold_the_two_parts_and_give_them_back() -> None:
    """To the bit, signs of zero and numbers that are not finite among them; the gradient of each is the other."""
    z = normal(40, 3, dtype=torch.complex64)
    z[:6, 0] = torch.tensor([complex(0.0, -0.0), complex(-0.0, 0.0), complex("nan"), complex("-inf"), complex(1e-42, -1e-42), -1 - 1j])
    x, y = _Apart.apply(z)
    for part, expected in ((x, z.real), (y, z.imag)):
        assert torch.equal(part.view(torch.int32), expected.contiguous().view(torch.int32))
    assert torch.equal(_Together.apply(x, y).view(torch.int64), z.view(torch.int64))
    w, grad = normal(5, 2, dtype=torch.complex64).requires_grad_(), normal(5, 2, dtype=torch.complex64, seed=2)
    u, v = _Apart.apply(w)
    (whole,) = torch.autograd.grad(_Together.apply(2 * u, 3 * v), w, grad)
    assert torch.equal(whole, torch.complex(2 * grad.real, 3 * grad.imag))


def test_only_what_is_asked_for_is_differentiated() -> None:
    layer, z = affine(CovarianceBatchNorm(2)), skewed(9, 2, dtype=torch.complex64)
    layer(z).abs().sum().backward()  # the input needs no gradient
    first = layer.weight.grad.clone()
    layer.zero_grad()
    layer.bias.requires_grad_(False)
    layer(z.requires_grad_()).abs().sum().backward()
    torch.testing.assert_close(layer.weight.grad, first)
    assert layer.bias.grad is None
    assert bool(torch.isfinite(z.grad).all())


def degenerate(dtype: torch.dtype) -> dict[str, Tensor]:
    """Batches at the border of what has a covariance."""
    z, x = normal(64, 3, dtype=dtype), normal(64, 3, dtype=dtype).real
    circle = torch.polar(torch.ones(64), torch.arange(64) * torch.pi / 32).to(dtype).unsqueeze(1).expand(64, 3).clone()
    return {
        "zero": torch.zeros_like(z),
        "constant": torch.full_like(z, 3.1 - 0.2j),
        "purely real": torch.complex(x, torch.zeros_like(x)),
        "purely imaginary": torch.complex(torch.zeros_like(x), x),
        **{f"equal parts times {scale:g}": scale * torch.complex(x, x) for scale in (1, 1e2, 1e4, 1e8)},
        "isotropic": circle,
        "condition number 1e12": torch.complex(z.real, 1e-6 * z.imag),
        "turned condition number 1e12": torch.complex(z.real, 1e-6 * z.imag) * (0.6 + 0.8j),
        **{f"times {scale:g}": scale * z for scale in (1e-18, 1e18)},
        "one dead channel": z * torch.tensor([1, 0, 1]),
        "two values": z[:2],
    }


@pytest.mark.parametrize("name", degenerate(torch.complex64))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("scaled", [True, False])
def test_degenerate_batches_give_finite_values_and_gradients(name: str, dtype: torch.dtype, eps: float, scaled: bool) -> None:
    z = degenerate(dtype)[name].requires_grad_()
    layer = CovarianceBatchNorm(3, eps=eps, affine=scaled, dtype=dtype)
    weights = normal(*z.shape, dtype=dtype, seed=5)
    for y in (layer(z), _whiten(z, layer.weight, layer.bias, eps)[0], layer.eval()(z)):
        grads = torch.autograd.grad(torch.view_as_real(y * weights).sum(), [z, *layer.parameters()])
        assert all(
            bool(torch.isfinite(t).all()) for t in (y.real, y.imag, *(torch.view_as_real(g) if g.is_complex() else g for g in grads))
        )
        assert float(y.detach().abs().max()) < 1e5 or not layer.training
    assert bool(torch.isfinite(layer.running_covariance).all())


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_whitening_at_eps_zero_does_not_see_the_scale(scale: float) -> None:
    z, layer = skewed(64, 3, dtype=torch.complex64), CovarianceBatchNorm(3, eps=0)
    torch.testing.assert_close(layer(scale * z), layer(z), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_feature_and_batches_of_one(kind: Any) -> None:
    assert kind(1)(normal(5, 1, dtype=torch.complex64)).shape == (5, 1)
    layer = kind(3)
    message = f"{kind.__name__} needs more than one value per channel in training; got shape (1, 3)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        layer(torch.zeros(1, 3, dtype=torch.complex64))
    assert layer(normal(1, 3, 2, dtype=torch.complex64)).shape == (1, 3, 2)  # two values a channel
    assert layer.eval()(torch.zeros(1, 3, dtype=torch.complex64)).shape == (1, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 3), (4, 3, 0), (2, 3, 0, 5)])
def test_an_empty_batch_passes_in_eval_and_is_refused_in_training(kind: Any, shape: tuple[int, ...]) -> None:
    layer, z = kind(3), torch.zeros(shape, dtype=torch.complex64)
    assert layer.eval()(z).shape == shape
    with pytest.raises(ValueError, match="needs more than one value per channel in training"):
        layer.train()(z)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [complex("nan"), complex("inf"), 1e30 + 0j])
def test_a_batch_that_is_not_finite_is_refused_and_leaves_no_trace(kind: Any, bad: complex) -> None:
    layer, z = kind(3), normal(8, 3, dtype=torch.complex64)
    layer(z)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    z[2, 1] = bad
    message = f"{kind.__name__} got a batch whose mean or covariance is not finite (NaN, infinity or overflow): "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}its running statistics are left as they were$"):
        layer(z)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    if bad != bad:
        untracked = kind(3, track_running_stats=False)(z).isnan().any(0)  # nothing to poison: the channel shows it
        assert untracked.tolist() == [False, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_state_goes_through_a_state_dict_and_back_and_can_be_reset(kind: Any) -> None:
    layer, z = affine(kind(3)), skewed(20, 3, dtype=torch.complex64)
    layer(z)
    other = kind(3)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(z), layer.eval()(z))
    layer.reset_parameters()
    assert all(torch.equal(tensor, kind(3).state_dict()[name]) for name, tensor in layer.state_dict().items())
    assert list(kind(3, affine=False, track_running_stats=False).state_dict()) == []
    assert repr(kind(3)) == f"{kind.__name__}(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)"
    double = layer.double()
    assert double(z.to(torch.complex128)).dtype == torch.complex128


@pytest.mark.parametrize("kind", KINDS)
def test_without_running_statistics_eval_uses_the_batch(kind: Any) -> None:
    layer, z = kind(3, track_running_stats=False), skewed(20, 3, dtype=torch.complex64)
    assert torch.equal(layer.eval()(z), layer.train()(z))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_does_not_touch_the_layer(kind: Any) -> None:
    layer, z = kind(3, dtype=torch.complex64), skewed(20, 3, dtype=torch.complex64)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(z)
    assert torch.equal(y, layer(z))


@pytest.mark.parametrize("kind", KINDS)
def test_a_conjugate_view_and_a_strided_input_are_as_good_as_a_copy(kind: Any) -> None:
    layer, z = kind(3, dtype=torch.complex128), skewed(6, 4, 3).transpose(1, 2)
    torch.testing.assert_close(layer(z.conj()), layer(z.conj().resolve_conj().contiguous()), rtol=1e-13, atol=1e-13)


class WithoutLapack(TorchDispatchMode):
    """Refuse what a torch built without LAPACK refuses on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if re.search(r"linalg_(?!vector_norm)|cholesky|geqrf|ormqr|lstsq|svd|eig", func._schema.name):
            raise RuntimeError(f"{func._schema.name} requires compiling PyTorch with LAPACK")
        return func(*args, **(kwargs or {}))


def test_whitening_needs_no_lapack() -> None:
    layer, z = CovarianceBatchNorm(3), skewed(20, 3, dtype=torch.complex64).requires_grad_()
    with WithoutLapack():
        (first,) = torch.autograd.grad(layer(z).abs().sum(), z, create_graph=True)
        first.abs().sum().backward()
        layer.eval()(z)
        with pytest.raises(RuntimeError, match="requires compiling PyTorch with LAPACK"):
            torch.linalg.eigh(torch.eye(2))


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_is_as_good_as_eager(kind: Any, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: torch.set_flush_denormal(False))  # code compiled by torch 2.4 sets it for the whole thread
    z = skewed(64, 3, dtype=torch.complex64)
    eager, twin = affine(kind(3)), affine(kind(3))
    compiled, results = torch.compile(twin), []
    for layer in (eager, compiled):
        x = z.clone().requires_grad_()
        try:
            y = layer(x)
            y.abs().sum().backward()
        except Exception as error:
            if layer is compiled and re.search(r"compiler|toolchain|InvalidCxx|CppCompile", f"{type(error).__name__} {error}"):
                pytest.skip("no C++ compiler")
            raise
        results.append((y.detach(), x.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], tensor, rtol=1e-5, atol=1e-5)
    z[0, 1] = complex("nan")
    assert bool(compiled(z).isnan().any())  # no error from compiled code: the batch is skipped
    assert bool(torch.isfinite(twin.running_mean).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (torch.zeros(4, 3), TypeError, "{} works on complex tensors; got torch.float32: convert with torch.complex(x, y)"),
        (torch.zeros(4, 3, dtype=torch.int64), TypeError, "{} works on complex tensors; got torch.int64: convert with torch.complex(x, y)"),
        (torch.zeros(4, 2, dtype=torch.complex64), ValueError, "{} needs (B, 3) or (B, 3, …); got shape (4, 2)"),
        (torch.zeros(3, dtype=torch.complex64), ValueError, "{} needs (B, 3) or (B, 3, …); got shape (3,)"),
        (normal(4, 3), TypeError, "{} holds torch.float32; got torch.complex128: convert the layer with .double() or .float()"),
        (
            torch.zeros(4, 3, dtype=torch.complex64, device="meta"),
            ValueError,
            "{} is on cpu; got an input on meta: move one of them with .to(device)",
        ),
    ],
)
def test_bad_inputs_are_refused(kind: Any, z: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message.format(kind.__name__))}$"):
        kind(3)(z)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": 0}, "features must be at least 1; got 0"),
        ({"features": 3, "eps": -1.0}, "eps must be non-negative; got -1.0"),
        ({"features": 3, "eps": float("nan")}, "eps must be non-negative; got nan"),
        ({"features": 3, "momentum": 1.5}, "momentum must be in [0, 1], or None for the average over all batches; got 1.5"),
    ],
)
def test_bad_settings_are_refused(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kind(**settings)
