"""On a GPU: what the CPU says, whatever the launch, within the memory of a small card.  Skipped where there is no GPU, no CuPy.

SPECTRALMC_GPU_LIMIT, in bytes, limits what torch and CuPy may take, as on a card of that size.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import spectralmc as smc
from spectralmc import cuda, fused, graphs
from spectralmc.device import check, choose, cupy_stream
from spectralmc.labels import Labeller
from spectralmc.nn import CovarianceBatchNorm, SpectralNetwork, SplitReLU, SplitSiLU
from spectralmc.paths import simulate_beside
from spectralmc.problem import Problem, posed
from spectralmc.processes import Heston, Merton
from spectralmc.training import Trainer

cupy = pytest.importorskip("cupy", reason="CuPy is not installed: nothing is checked on a GPU", exc_type=ImportError)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: nothing is checked on one"),
]

GPU = torch.device("cuda", 0)
HESTON: dict[str, Any] = {"initial_variance": [0.04, 0.09], "mean_reversion": 2.0, "long_run_variance": [0.04, 0.05]}
HESTON |= {"vol_of_variance": 0.7, "correlation": -0.7}
PROCESSES = [smc.BlackScholes([0.2, 0.4]), Merton(0.2, [0.5, 3.0], -0.1, 0.15), Heston(**HESTON)]
FUNCTIONALS = (smc.Terminal(), smc.ArithmeticAverage(), smc.GeometricAverage(), smc.Maximum(), smc.Minimum(), smc.RealizedVariance())
GRID = smc.TimeGrid([1.0, 0.4], 13)
CARRY = torch.tensor([0.03, -0.02], dtype=torch.float64)
NORMAL = 5e-6  # by which a float32 normal may differ from the CPU's (spectralmc.fused); an outcome adds some dozens of them
BOUND = {torch.float32: 40 * NORMAL, torch.float64: 1e-12}
SPACE = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.1, 0.5)}, maturity=(0.1, 2.0))


@pytest.fixture(autouse=True, scope="module")
def limited() -> Iterator[None]:
    """A card of the size that SPECTRALMC_GPU_LIMIT says."""
    limit = int(os.environ.get("SPECTRALMC_GPU_LIMIT", "0"))
    if limit:
        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.mem_get_info()[1])
        cupy.get_default_memory_pool().set_limit(size=limit)
    yield
    if limit:
        assert torch.cuda.max_memory_reserved() + cupy.get_default_memory_pool().total_bytes() <= limit


def close(ours: Tensor, theirs: Tensor, jumps: bool) -> bool:
    """Whether all agree within the stated bound; where the law jumps, all but 1 in 500."""
    miss = (ours.cpu() - theirs).abs() > BOUND[theirs.dtype] * (1 + theirs.abs())
    return int(miss.sum()) <= (miss.numel() // 500 if jumps else 0)


def test_the_device_check_passes() -> None:
    failed = [line for line in check(gpu=True) if line.ok is False and line.name not in ("locale", "threads")]
    assert not failed
    assert {line.name for line in check() if line.ok is None} == set()
    assert choose().type == "cuda"


def test_words_are_those_of_the_cpu_bit_for_bit() -> None:
    draws = smc.Draws(seed=(7 << 32) + 11, stream=5)
    ours = torch.stack(draws.words(torch.tensor(3), torch.arange(100, 5000), 2))
    assert torch.equal(fused.words(draws, range(100, 5000), 2, 3, GPU).cpu(), ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_outcomes_are_those_of_the_cpu(process: Any, dtype: torch.dtype) -> None:
    barrier = () if isinstance(process, Merton) else (smc.KnockOut(1.3, "up"),)
    arguments = (process, GRID, smc.Draws(7, stream=3), 2048, FUNCTIONALS + barrier)
    theirs, ours = (smc.simulate(*arguments, carry=CARRY, dtype=dtype, first_set=5, device=name) for name in ("cpu", "cuda"))
    jumps = not isinstance(process, smc.BlackScholes)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.log_outcome.device.type == "cuda"
        assert close(mine.log_outcome, other.log_outcome, jumps)
        if other.weight is not None:
            miss = (mine.weight.cpu() - other.weight).abs() > 100 * BOUND[dtype]
            assert int(miss.sum()) <= (miss.numel() // 500 if jumps else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("process", PROCESSES[1:], ids=lambda process: type(process).__name__)
@pytest.mark.parametrize("sampling", ["independent", "sobol"])
def test_conditional_outcomes_are_those_of_the_cpu(process: Any, dtype: torch.dtype, sampling: Any) -> None:
    controlled = isinstance(process, Heston) and sampling == "sobol"
    arguments = (process, GRID, smc.Draws(7, sampling, randomizations=2, stream=3), 2048, smc.Terminal())
    options: dict[str, Any] = {"dtype": dtype, "first_set": 5, "conditional": True, "control": controlled, "carry": CARRY}
    theirs, ours = (smc.simulate(*arguments, **options, device=name) for name in ("cpu", "cuda"))
    pairs = [(ours, theirs), *([(ours.control, theirs.control)] if controlled else [])]
    for mine, other in pairs:
        assert close(mine.log_outcome, other.log_outcome, True)
        assert close(mine.variance, other.variance, True)


def test_a_sample_comes_back_to_main_memory_whole() -> None:
    arguments = (PROCESSES[2], GRID, smc.Draws(7, "sobol"), 1024, smc.Terminal())
    sample = smc.simulate(*arguments, conditional=True, control=True, device="cuda").cpu()
    held = [*vars(sample).values(), *vars(sample.control).values(), *sample.control_law]
    assert {x.device.type for x in held if isinstance(x, Tensor)} == {"cpu"}
    paths = smc.simulate(PROCESSES[0], GRID, smc.Draws(7), 64, device="cuda").cpu()
    assert paths.times.device.type == paths.log_return.device.type == "cpu"


@pytest.mark.parametrize("functional", [smc.Terminal(), smc.ArithmeticAverage()], ids=lambda functional: type(functional).__name__)
def test_simulated_prices_are_those_of_the_cpu_and_in_main_memory(functional: Any) -> None:
    """Where the law jumps, 1 outcome in 500 may differ by more than rounding: far less than the error of a price."""
    arguments = (PROCESSES[2], functional, GRID, [-0.2, 0.0, 0.2], smc.Draws(7, "sobol"), 4096)
    theirs, ours = (smc.monte_carlo_price(*arguments, carry=CARRY, device=name) for name in ("cpu", "cuda"))
    assert ours.value.device.type == ours.standard_error.device.type == "cpu"
    assert bool(((ours.value - theirs.value).abs() <= theirs.standard_error / 10).all())


@pytest.mark.parametrize("scheme", ["euler", "exact"])
def test_a_scheme_without_a_kernel_runs_all_the_same(scheme: str) -> None:
    arguments = (smc.BlackScholes([0.2, 0.4]), GRID, smc.Draws(7, "sobol"), 1024, (smc.ArithmeticAverage(), smc.Maximum()))
    theirs, ours = (smc.simulate(*arguments, carry=CARRY, scheme=scheme, device=name) for name in ("cpu", "cuda"))
    for mine, other in zip(ours, theirs, strict=True):
        assert close(mine.log_outcome, other.log_outcome, False)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_a_path_is_the_same_whatever_runs_beside_it(process: Any) -> None:
    """To the bit: another number of paths, another budget, another grid of threads."""
    arguments = (process, GRID, smc.Draws(7))
    whole = smc.simulate(*arguments, 1 << 17, FUNCTIONALS, device="cuda", dtype=torch.float32)
    small = smc.simulate(*arguments, 1000, FUNCTIONALS, device="cuda", dtype=torch.float32, memory=1 << 18)
    for a, b in zip(whole, small, strict=True):
        assert torch.equal(a.log_outcome[:, :1000], b.log_outcome)
    again = smc.simulate(*arguments, 1 << 17, FUNCTIONALS, device="cuda", dtype=torch.float32)
    assert all(torch.equal(a.log_outcome, b.log_outcome) for a, b in zip(whole, again, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 96, 128, 500])
def test_phase_sums_are_the_sums_of_phases(dtype: torch.dtype, size: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x, variance, weight = (torch.rand(2, 5000, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3))
    location, scale = torch.tensor([0.4, 0.5], dtype=dtype), torch.tensor([5.0, 3.0], dtype=dtype)
    w = torch.arange(1, size + 1, dtype=torch.float64) * (torch.pi / 16)
    z, s = ((x - location[:, None]) * scale[:, None]).double(), (variance * 0.01 * scale[:, None] ** 2).double()
    moved = [tensor.to(GPU) for tensor in (x, variance * 0.01, weight, location, scale)]
    for v, weights in ((False, False), (True, False), (True, True), (False, True)):
        terms = torch.exp(1j * w[:, None, None] * z - (w[:, None, None] ** 2 * s / 2 if v else 0)) * (weight.double() if weights else 1)
        sums = cuda.phase_sums(
            moved[0], 1 / 32, size, location=moved[3], scale=moved[4],
            variance=moved[1] if v else None, weight=moved[2] if weights else None,
        ).cpu()  # fmt: skip
        angle = float((w[-1] * z.abs().max()).clamp(min=1))
        hardware = 2**-21 if dtype == torch.float32 else 0.0  # by which its sines and cosines err, in units of 1
        bound = 5000 * (angle * 4 * torch.finfo(dtype).eps + 3 * hardware)  # the angle itself is rounded a few times; a phase is of three
        assert float((torch.complex(sums[..., 0], sums[..., 1]) - terms.sum(-1).T).abs().max()) < bound
        if v or weights:
            assert float((sums[..., 2] - terms.abs().square().sum(-1).T).abs().max()) < bound


def run(layer: Any, z: Tensor, upstream: Tensor) -> list[Tensor]:
    """Value, gradients of input and parameters, and buffers."""
    z = z.clone().requires_grad_()
    y = layer(z)
    wanted = [z, *layer.parameters()]
    return [y, *torch.autograd.grad(y, wanted, upstream), *(b.clone() for b in layer.buffers())]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(700, 5), (4096, 64), (3, 37)])
def test_the_fused_norm_is_that_of_the_cpu(dtype: torch.dtype, affine: bool, shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(4)
    z, upstream = (torch.randn(shape, dtype=dtype, generator=generator) for _ in range(2))
    z = z + (0.6 - 0.3j) * z.conj() + (2 - 1j)
    layer = CovarianceBatchNorm(shape[1], affine=affine, dtype=dtype)
    theirs = run(layer, z, upstream)
    layer.reset_running_stats()
    ours = run(layer.to(GPU), z.to(GPU), upstream.to(GPU))
    x = torch.view_as_real((z - z.mean(0)).to(torch.complex128))
    condition = torch.linalg.cond(torch.einsum("nci,ncj->cij", x, x) / len(z) + layer.eps * torch.eye(2)).max()
    near = max(1e-4 if dtype == torch.complex64 else 1e-10, 4 * torch.finfo(dtype).eps * float(condition))
    for found, known in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found.cpu(), known, rtol=near, atol=near)


def test_the_norm_has_second_derivatives_and_other_shapes_and_strides() -> None:
    layer, plain = (CovarianceBatchNorm(3, dtype=torch.complex128) for _ in range(2))
    z = torch.randn(3, 40, dtype=torch.complex128, generator=torch.Generator().manual_seed(2)).T
    second = []
    for each, x in ((layer, z), (plain.to(GPU), z.to(GPU))):
        x = x.detach().requires_grad_()
        (first,) = torch.autograd.grad((each(x).abs() ** 4).sum(), x, create_graph=True)
        second.append(torch.autograd.grad((first.real**2).sum(), x)[0].cpu())
    torch.testing.assert_close(second[1], second[0], rtol=1e-8, atol=1e-8)
    wide = torch.randn(6, 3, 4, 5, dtype=torch.complex128)
    torch.testing.assert_close(plain(wide.to(GPU)).cpu(), layer(wide), rtol=1e-9, atol=1e-9)


def test_a_batch_that_is_not_finite_leaves_the_running_statistics() -> None:
    layer = CovarianceBatchNorm(2).to(GPU)
    kept = [buffer.clone() for buffer in (layer.running_mean, layer.running_covariance)]
    layer(torch.full((4, 2), complex("nan"), dtype=torch.complex64, device=GPU))
    assert all(torch.equal(a, b) for a, b in zip(kept, (layer.running_mean, layer.running_covariance), strict=True))


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
@pytest.mark.parametrize("activation", [SplitSiLU(), SplitReLU()], ids=lambda layer: type(layer).__name__)
def test_a_split_activation_is_one_kernel_each_way(activation: Any) -> None:
    z = torch.randn(1000, 64, dtype=torch.complex64, generator=torch.Generator().manual_seed(5))
    upstream = torch.randn_like(z)
    theirs, ours = run(activation, z, upstream), run(activation, z.to(GPU), upstream.to(GPU))
    for found, known in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found.cpu(), known, rtol=1e-5, atol=1e-6)
    x = z.to(GPU).requires_grad_()
    y, g = activation(x), upstream.to(GPU)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.autograd.grad(activation(x), x, g)
        torch.cuda.synchronize()
    kernels = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert y.is_complex()
    assert len(kernels) <= 2, kernels


def trainer(device: torch.device, **recipe: Any) -> Trainer:
    chosen = smc.Recipe(**{"paths": 64, "width": 16, "depth": 2, "fresh": 2, "batch": 64} | recipe)
    return Trainer(posed(Problem(SPACE, smc.Terminal(), 2, smc.FrequencyGrid()), 0), chosen, 0, 96, device=device)


def test_a_captured_step_is_the_plain_step() -> None:
    """And captured it is: a warning would be an error."""
    plain, captured = trainer(GPU), trainer(GPU)
    while plain.step < 96:
        plain.advance()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while captured.step < 96:
            captured.leap()
    assert captured.graph is not None
    assert captured.graph.graph is not None
    for name, tensor in plain.optimizer.state():
        torch.testing.assert_close(dict(captured.optimizer.state())[name], tensor, rtol=2e-3, atol=2e-5)


def test_a_network_with_norms_is_captured_too() -> None:
    network = SpectralNetwork(3, 8, width=16, depth=1, normalization="covariance").to(GPU)
    x = torch.randn(64, 3, device=GPU)

    def step() -> tuple[Tensor, ...]:
        leaves = {name: weight.detach().requires_grad_() for name, weight in network.named_parameters()}
        loss = graphs.loss_of(torch.func.functional_call(network, leaves, (x,)), torch.ones(64, 8, dtype=torch.complex64, device=GPU))
        return torch.autograd.grad(loss, list(leaves.values()))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        known = [step() for _ in range(2)][-1]
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        found = step()
    graph.replay()
    for a, b in zip(found, known, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_training_on_the_gpu_learns_what_it_learns_on_the_cpu() -> None:
    options: dict[str, Any] = {"steps": 96, "recipe": smc.Recipe(paths=64, width=16, depth=1, fresh=4), "progress": False}
    points = SPACE.sample(64, seed=3)
    given = ({"volatility": points["volatility"]}, points["maturity"], [-0.2, 0.0, 0.2])
    prices = [smc.train(SPACE, smc.Terminal(), device=name, **options).surrogate.price(*given) for name in ("cpu", "cuda")]
    exact = smc.black_price(torch.tensor([-0.2, 0.0, 0.2]).double(), points["volatility"][:, None], points["maturity"][:, None])
    misses = [float((price.value - exact).abs().mean()) for price in prices]
    assert misses[1] < 2 * misses[0] + 1e-5
    rounding = 4 * torch.finfo(torch.float32).eps  # of the network's numbers, of a forward of 1: here the rest is known exactly
    assert (prices[1].value - exact).abs().le(prices[1].error + rounding).double().mean() > 0.9


@pytest.mark.parametrize("functional", [smc.Terminal(), smc.KnockOut(1.4, "up")], ids=lambda f: type(f).__name__)
def test_prices_on_the_gpu_are_those_of_the_cpu(functional: Any) -> None:
    carry = 0.0 if isinstance(functional, smc.Terminal) else (0.0, 0.08)
    space = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.1, 0.5)}, maturity=(0.1, 2.0), carry=carry)
    model = smc.train(space, functional, steps=32, time_steps=2, recipe=smc.Recipe(paths=64, width=8, depth=1), progress=False).surrogate
    points = space.sample(70_000, seed=5)
    k = torch.tensor([-0.5, 0.0, 0.3]).double()
    given = ({"volatility": points["volatility"]}, points["maturity"], k, "call", points["carry"])
    ours, theirs = model.price(*given, device="cuda"), model.price(*given)
    assert ours.value.device.type == "cuda"
    rows = slice(0, 2000)
    exact = model._exactly({n: x[rows] for n, x in points.items()}, k.expand(2000, -1), "call")[0]
    scale = model.problem.standard(points).scale[rows, None]
    misses = [float(((price.value[rows].cpu() - exact) / scale).abs().max()) for price in (ours, theirs)]
    assert misses[0] < 2 * misses[1]
    torch.testing.assert_close(ours.error.cpu(), theirs.error, rtol=1e-9, atol=0)
    torch.testing.assert_close(ours.value.cpu(), theirs.value, rtol=0, atol=1e-3)
    outside = model.price({"volatility": [0.2, 9.0]}, 1.0, 0.0, outside="flag", carry=0.0, device="cuda")
    assert outside.inside.tolist() == [True, False]
    with pytest.raises(ValueError, match="must lie in the trained box"):
        model.price({"volatility": 9.0}, 1.0, 0.0, carry=0.0, device="cuda")


def test_out_of_memory_halves_the_chunk_and_goes_on() -> None:
    """A card with little left: the same numbers, said once."""
    paths = 1 << 23
    arguments = (PROCESSES[0], GRID, smc.Draws(7), paths, FUNCTIONALS)
    whole = smc.simulate(*arguments, device="cuda", dtype=torch.float32)
    torch.cuda.empty_cache()
    total, used = torch.cuda.mem_get_info()[1], torch.cuda.memory_reserved()
    limit = int(os.environ.get("SPECTRALMC_GPU_LIMIT", "0")) or total
    outcomes = (len(FUNCTIONALS) + 2) * 2 * paths * 4  # bytes, with the weights of maximum and minimum: once as made, once as kept
    torch.cuda.set_per_process_memory_fraction((used + 1.75 * outcomes) / total)
    try:
        with pytest.warns(RuntimeWarning, match="^out of GPU memory: less is computed at once$"):
            halved = smc.simulate(*arguments, device="cuda", dtype=torch.float32, memory=1 << 33)
    finally:
        torch.cuda.set_per_process_memory_fraction(min(limit / total, 1.0))
    assert all(torch.equal(a.log_outcome, b.log_outcome) for a, b in zip(whole, halved, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_outcome_beside_a_close_one_is_that_of_the_cpu(dtype: torch.dtype) -> None:
    given = (PROCESSES[2], GRID, smc.Draws(7, "sobol", randomizations=2), 512, smc.ArithmeticAverage())
    ours, theirs = (simulate_beside(*given, carry=CARRY, dtype=dtype, device=name) for name in ("cuda", "cpu"))
    for found, known in zip(ours, theirs, strict=True):
        assert found.log_outcome.device == GPU
        assert close(found.log_outcome, known.log_outcome, jumps=True)
    assert ours.smooth.variance is not None
    assert theirs.smooth.variance is not None
    assert close(ours.smooth.variance, theirs.smooth.variance, jumps=True)


def test_labels_do_not_depend_on_how_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    labeller = Labeller(Problem(SPACE, smc.Terminal(), 2, smc.FrequencyGrid()), 0, device=GPU)
    points = SPACE.sample(64)
    whole = labeller(points, 256, 2, 0)
    monkeypatch.setattr("spectralmc.labels._AT_ONCE", {"cuda": 1024})
    parts = labeller(points, 256, 2, 0)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_nothing_is_copied_between_torch_and_cupy_on_a_stream_of_its_own() -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), cupy_stream(stream.cuda_stream):
        tensor = torch.arange(1 << 20, dtype=torch.float64, device=GPU)
        array = cupy.from_dlpack(tensor)
        array *= 2
        back = torch.from_dlpack(array)
        assert array.data.ptr == tensor.data_ptr() == back.data_ptr() == cupy.from_dlpack(back).data.ptr
        assert torch.equal(back, 2 * torch.arange(1 << 20, dtype=torch.float64, device=GPU))


def test_kernels_run_on_the_current_stream() -> None:
    """A simulation on another stream waits for what that stream does before, and is done when the stream is."""
    stream, known = torch.cuda.Stream(), smc.simulate(PROCESSES[0], GRID, smc.Draws(7), 4096, smc.Maximum(), device="cuda")
    with torch.cuda.stream(stream):
        found = smc.simulate(PROCESSES[0], GRID, smc.Draws(7), 4096, smc.Maximum(), device="cuda")
    stream.synchronize()
    assert torch.equal(found.log_outcome, known.log_outcome)


def test_bad_input_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="below cuda:"):
        choose("cuda:99")
    with pytest.raises(ValueError, match=r"dtype must be torch\.float32 or torch\.float64; got torch\.float16"):
        smc.simulate(PROCESSES[0], GRID, smc.Draws(7), 64, smc.Terminal(), dtype=torch.float16, device="cuda")
    with pytest.raises(ValueError, match="memory must hold one path of every parameter set"):
        smc.simulate(PROCESSES[0], GRID, smc.Draws(7), 64, smc.Terminal(), memory=64, device="cuda")
    monkeypatch.setattr("spectralmc.device.architectures", lambda: ["sm_50"])
    with pytest.raises(ValueError, match="torch is compiled for sm_50, not for this card"):
        choose("cuda")
