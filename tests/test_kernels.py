"""The GPU's kernels without a GPU: machine code for the oldest and the newest card, and their arithmetic as C++ against the CPU path."""

from __future__ import annotations

import locale
from contextlib import nullcontext
from typing import Any

import host
import nvrtc
import pytest
import torch
from torch import Tensor

import spectralmc as smc
from spectralmc import cuda, fused, paths
from spectralmc.device import in_halves
from spectralmc.labels import Labeller
from spectralmc.nn import norm
from spectralmc.nn.norm import _Whiten
from spectralmc.pricing import put_series
from spectralmc.problem import Problem, posed
from spectralmc.processes import Heston, Merton
from spectralmc.training import Trainer

CARDS = [("11.8", "sm_52"), ("13", "sm_90")]
# Registers a thread may use: 64 let 1,024 threads reside on a multiprocessor of either card, 128 let 512.
BUDGET = {"float": 80, "double": 128}
HESTON: dict[str, Any] = {"initial_variance": [0.04, 0.09], "mean_reversion": 2.0, "long_run_variance": [0.04, 0.05]}
HESTON |= {"vol_of_variance": 0.7, "correlation": -0.7}
PROCESSES = [
    smc.BlackScholes([0.2, 0.4]),
    Merton(0.2, [0.5, 3.0], -0.1, 0.15),
    Heston(**HESTON),
    Heston(**{**HESTON, "vol_of_variance": [1.5, 0.05]}),  # Feller's condition violated, and hardly any variance of variance
]
FUNCTIONALS = (smc.Terminal(), smc.ArithmeticAverage(), smc.GeometricAverage(), smc.Maximum(), smc.Minimum(), smc.RealizedVariance())
GRID = smc.TimeGrid([1.0, 0.4], 13)
CARRY = torch.tensor([0.03, -0.02], dtype=torch.float64)
NORMAL = 5e-6  # by which a float32 normal may differ, as cuda.py states; an outcome adds at most some dozens of them times a deviation
BOUND = {torch.float32: 40 * NORMAL, torch.float64: 1e-12}


def expressions() -> list[str]:
    """Every instance of every kernel that cuda.py may launch, the functionals alone, in threes and all together."""
    found = ["words", "sobol_shifts"]
    for real in ("float", "double"):
        for process, _, _ in fused.PROCESSES.values():
            found += [f"simulate<{real}, {process}<{real}>, {wanted}>" for wanted in (1, 2, 4, 8, 16, 32, 64, 11, 127)]
            if process != "BlackScholes":
                found += [f"{kernel}<{real}, {process}<{real}>>" for kernel in ("simulate_conditional", "simulate_sobol")]
        found += [f"phases<{real}>", f"spectrum<{real}>", f"puts<{real}>"]
        found += [f"norm_{part}<{real}>" for part in ("moments", "forward", "apply", "gradient_sums", "backward", "gradient")]
    return found


@pytest.mark.parametrize(("toolkit", "architecture"), CARDS)
def test_every_kernel_compiles_within_its_registers_and_without_spills(toolkit: str, architecture: str) -> None:
    encoding = locale.getencoding()
    made = nvrtc.compiled(cuda.source(), toolkit, architecture, expressions(), cuda.OPTIONS)
    assert locale.getencoding() == encoding
    assert made.code.startswith(b"\x7fELF")
    assert set(made.use) == set(expressions())
    for name, (registers, spills) in made.use.items():
        assert spills == 0, name
        assert registers <= BUDGET["double" if "double" in name else "float"], (name, registers)


def test_the_gate_can_fail() -> None:
    add = "__global__ void add(double *x) { atomicAdd(x, 1.0); }"
    with pytest.raises(nvrtc.RefusedError, match="atomicAdd"):
        nvrtc.compiled(add, "11.8", "sm_52", ["add"])
    with pytest.raises(nvrtc.RefusedError, match="architecture"):
        nvrtc.compiled(cuda.source(), "13", "sm_52", ["words"], cuda.OPTIONS)
    name = "simulate<double, Heston<double>, 127>"
    squeezed = nvrtc.compiled(cuda.source(), "11.8", "sm_52", [name], (*cuda.OPTIONS, "--maxrregcount=32"))
    assert squeezed.use[name][1] > 0  # bytes spilled


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Kernels run as C++ on tensors of the CPU."""
    monkeypatch.setattr(cuda, "launch", host.launch)
    monkeypatch.setattr(fused, "launch", host.launch)
    return torch.device("cpu")


def test_philox_gives_its_known_answers_and_the_words_of_the_cpu(on_host: torch.device) -> None:
    draws = smc.Draws(seed=(7 << 32) + 11, stream=5)
    ours = torch.stack(draws.words(torch.tensor(3), torch.arange(100, 400), 2))
    assert torch.equal(fused.words(draws, range(100, 400), 2, 3, on_host), ours)
    zero = fused.words(smc.Draws(seed=0), range(1), 0, 0, on_host)[:, 0].tolist()
    assert zero == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # Salmon et al. (2011), Random123's kat_vectors


def close(ours: Tensor, theirs: Tensor, jumps: bool) -> bool:
    """Whether all agree within the stated bound; where the law jumps, all but 1 in 500."""
    miss = (ours - theirs).abs() > BOUND[theirs.dtype] * (1 + theirs.abs())
    return int(miss.sum()) <= (miss.numel() // 500 if jumps else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_outcomes_are_those_of_the_cpu(process: Any, dtype: torch.dtype, on_host: torch.device) -> None:
    draws, window = smc.Draws(7, stream=3), range(64, 1024)
    barrier = () if isinstance(process, Merton) else (smc.KnockOut(1.3, "up"),)
    wanted = FUNCTIONALS + barrier
    theirs = smc.simulate(process, GRID, draws, window.stop, wanted, carry=CARRY, dtype=dtype, first_set=5)
    ours = fused.outcomes(process, GRID, draws, window, wanted, CARRY, dtype, 2, 5, on_host)
    jumps = not isinstance(process, smc.BlackScholes)
    for sample, found in zip(theirs, ours, strict=True):
        assert close(found["log_outcome"], sample.log_outcome[:, window.start :], jumps)
        if sample.weight is not None:
            miss = (found["weight"] - sample.weight[:, window.start :]).abs()
            assert int((miss > 100 * BOUND[dtype]).sum()) <= (miss.numel() // 500 if jumps else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("process", PROCESSES[1:], ids=lambda process: type(process).__name__)
@pytest.mark.parametrize("sampling", ["independent", "sobol"])
def test_conditional_outcomes_are_those_of_the_cpu(process: Any, dtype: torch.dtype, sampling: Any, on_host: torch.device) -> None:
    draws, window = smc.Draws(7, sampling, randomizations=2, stream=3), range(256, 1024)
    theirs = smc.simulate(process, GRID, draws, 1024, smc.Terminal(), dtype=dtype, first_set=5, conditional=True)
    arguments = (dtype, 2, 5, on_host)
    ours = (
        fused.conditional_terminal(process, GRID, draws, window, *arguments)
        if sampling == "independent"
        else fused.sobol_terminal(process, GRID, draws, window, 1024, *arguments)
    )
    assert theirs.variance is not None
    assert close(ours[0], theirs.log_outcome[:, window.start :], True)
    assert close(ours[1], theirs.variance[:, window.start :], True)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("sampling", ["independent", "sobol"])
def test_simulate_takes_the_kernel_where_there_is_one(
    process: Any, conditional: bool, sampling: Any, on_host: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU with the launches of the GPU: outcome, control and forward as without them."""
    draws, controlled = smc.Draws(7, sampling, randomizations=2), isinstance(process, Heston) and conditional and sampling == "sobol"
    functionals = (smc.Terminal(),) if conditional else (smc.ArithmeticAverage(), smc.Maximum())
    options: dict[str, Any] = {"carry": CARRY, "conditional": conditional, "control": controlled}
    expected = sampling == "independent" if not conditional else not isinstance(process, smc.BlackScholes)
    theirs = smc.simulate(process, GRID, draws, 512, functionals, **options)
    monkeypatch.setattr(paths._Run, "on_gpu", True)
    launches: list[str] = []
    monkeypatch.setattr(fused, "launch", lambda name, *rest: (launches.append(name), host.launch(name, *rest)))
    ours = smc.simulate(process, GRID, draws, 512, functionals, **options)
    assert bool(launches) == expected
    for mine, other in zip(ours, theirs, strict=True):
        pairs = [(mine, other), *([(mine.control, other.control)] if controlled else [])]
        for a, b in pairs:
            assert close(a.log_outcome, b.log_outcome, True)
            torch.testing.assert_close(a.forward, b.forward, rtol=1e-3, atol=0)
            for x, y in ((a.variance, b.variance), (a.weight, b.weight)):
                assert (x is None and y is None) or close(x, y, True)


def test_chunks_are_halved_where_the_gpu_has_no_memory_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers to the bit, and it is said."""
    whole = smc.simulate(smc.BlackScholes(0.2), GRID, smc.Draws(7), 1000, smc.Terminal())
    inner = paths._Run.gathered

    def short_of_memory(self: Any, parts: Any, chunk: range) -> Any:
        if len(chunk) > 300:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return inner(self, parts, chunk)

    monkeypatch.setattr(paths._Run, "gathered", short_of_memory)
    with pytest.warns(RuntimeWarning, match="^out of GPU memory: less is computed at once$"):
        halved = smc.simulate(smc.BlackScholes(0.2), GRID, smc.Draws(7), 1000, smc.Terminal())
    assert torch.equal(whole.log_outcome, halved.log_outcome)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 8, 96, 192])
def test_phase_sums_are_the_sums_of_phases(dtype: torch.dtype, size: int, on_host: torch.device) -> None:
    generator = torch.Generator().manual_seed(3)
    x, variance, weight = (torch.rand(2, 1500, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3))
    location, scale = torch.tensor([0.4, 0.5], dtype=dtype), torch.tensor([5.0, 3.0], dtype=dtype)
    w = torch.arange(1, size + 1, dtype=torch.float64) * (torch.pi / 16)
    z, s = ((x - location[:, None]) * scale[:, None]).double(), (variance * 0.01 * scale[:, None] ** 2).double()
    for v, weights in ((None, None), (variance * 0.01, None), (variance * 0.01, weight), (None, weight)):
        terms = torch.exp(1j * w[:, None, None] * z - (0 if v is None else w[:, None, None] ** 2 * s / 2))
        terms = terms * (1 if weights is None else weights.double())
        sums = cuda.phase_sums(x, 1 / 32, size, location=location, scale=scale, variance=v, weight=weights)
        bound = 1500 * (2e-6 if dtype == torch.float32 else 1e-13)  # some roundings of every term, w up to 38
        assert float((torch.complex(sums[..., 0], sums[..., 1]) - terms.sum(-1).T).abs().max()) < bound
        if v is not None or weights is not None:
            assert float((sums[..., 2] - terms.abs().square().sum(-1).T).abs().max()) < bound


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_the_fused_norm_is_that_of_the_cpu_forward_and_backward(dtype: torch.dtype, scaled: bool, eps: float, on_host: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    z, gradient = (torch.randn(700, 5, dtype=dtype, generator=generator) for _ in range(2))
    z = (z + (0.6 - 0.3j) * z.conj() + (2 - 1j)).requires_grad_()
    weight, bias = (torch.randn(5, n, dtype=z.real.dtype, generator=generator).requires_grad_() for n in (3, 2)) if scaled else (None, None)
    wanted = [z, weight, bias] if scaled else [z]
    y, mean, covariance = _Whiten.apply(z, weight, bias, eps)
    theirs = torch.autograd.grad(y, wanted, gradient)
    with torch.no_grad():
        held = cuda.Running(torch.zeros(5, 2, dtype=z.real.dtype), torch.zeros(5, 3, dtype=z.real.dtype), torch.tensor(0), 1.0)
        out, saved = cuda.norm_forward(z, weight, bias, eps, held)
        ours = cuda.norm_backward(z, gradient, saved, weight, (True, scaled, scaled))
    near = {"rtol": 2e-5, "atol": 2e-5} if dtype == torch.complex64 else {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(out, y, **near)
    torch.testing.assert_close(held.mean, mean, **near)
    torch.testing.assert_close(held.covariance, covariance * (700 / 699), **near)
    for found, known in zip(ours, theirs, strict=False):
        torch.testing.assert_close(found, known, **near)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_puts_are_those_of_the_series(dtype: torch.dtype, on_host: torch.device) -> None:
    law = smc.Distribution.of(Heston(0.04, 2.0, 0.05, 0.7, -0.7), torch.tensor([0.1, 1.0, 3.0]).double(), smc.FrequencyGrid(16.0, 96))
    m, s, mass = law.location, law.scale, torch.tensor([1.0, 0.9, 0.7]).double()
    k = torch.tensor([-20.0, -2.0, -0.3, 0.0, 1.0, 20.0]).double() * s[:, None]  # beyond both ends of the grid too
    series = put_series(law.grid, m, s, k)
    known = mass[:, None] * series.constant + (series.weights * law.values[:, None]).real.sum(-1)
    found = cuda.puts(law.values.to(dtype), mass, m, s, k, law.grid.half_width)
    bound = 1e-6 if dtype == torch.complex64 else 1e-13
    assert float(((found - known) / (s[:, None] * torch.exp(k.clamp(min=0)))).abs().max()) < bound


def test_fast_prices_on_a_gpu_are_those_of_the_cpu(on_host: torch.device) -> None:
    """The same surrogate, its series by the kernel, tile by tile; a knock-out has an atom and a forward to learn."""
    boxes = [(smc.Terminal(), 0.0), (smc.KnockOut(1.4, "up"), (0.0, 0.08))]
    for functional, carry in boxes:
        space = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.1, 0.5)}, maturity=(0.1, 2.0), carry=carry)
        recipe = smc.Recipe(paths=64, width=8, depth=1, fresh=1, batch=16)
        model = smc.train(space, functional, steps=32, time_steps=2, recipe=recipe, progress=False).surrogate
        points = space.sample(100, seed=5)
        parameters, k = {"volatility": points["volatility"]}, torch.tensor([-0.5, 0.0, 0.3]).double()
        twin = model._on(on_host)
        for kind in ("call", "put"):
            ours, theirs = (each.price(parameters, points["maturity"], k, kind, points["carry"]) for each in (twin, model))
            exact, scale = model._exactly(points, k.expand(100, -1), kind)[0], model.problem.standard(points).scale[:, None]
            misses = [float(((price.value - exact) / scale).abs().max()) for price in (ours, theirs)]
            assert misses[0] < 2 * misses[1]  # of single precision alike, most of it the network's
            torch.testing.assert_close(ours.error, theirs.error, rtol=1e-10, atol=0)
        assert model._on(on_host) is twin


@pytest.mark.parametrize(("scaled", "momentum"), [(True, 0.1), (False, None)])
def test_the_norm_layer_takes_its_kernels_where_they_are(
    scaled: bool, momentum: float | None, on_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value, gradient, running statistics and second derivatives are those of the layer without them."""
    z = torch.randn(40, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = []
    for fused_too in (False, True):
        monkeypatch.setattr(norm, "_has_kernel", lambda z, answer=fused_too: answer)
        layer = norm.CovarianceBatchNorm(3, affine=scaled, momentum=momentum, dtype=torch.complex128)
        layer(2 * z - 1)
        y = layer(z)
        (first,) = torch.autograd.grad((y.abs() ** 4).sum(), z, create_graph=True)
        (second,) = torch.autograd.grad((first.real**2).sum(), z)
        found.append((y, first, second, *layer.buffers()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)


def test_a_channel_that_is_not_finite_keeps_its_running_statistics(on_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm, "_has_kernel", lambda z: True)
    z = torch.randn(40, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    z[3, 0], z[5, 1] = complex("nan"), complex("inf")
    layer = norm.CovarianceBatchNorm(3)
    kept = [layer.running_mean.clone(), layer.running_covariance.clone()]
    layer(z)
    for before, after in zip(kept, (layer.running_mean, layer.running_covariance), strict=True):
        assert torch.equal(before[:2], after[:2])
        assert not torch.equal(before[2], after[2])
    assert int(layer.num_batches_tracked) == 1


def test_training_goes_on_where_a_step_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a graph the step is run as it is: the weights are those of plain steps."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("not here")

    for name, stand_in in (("Stream", lambda *_: Idle()), ("current_stream", lambda *_: Idle()), ("stream", lambda _: nullcontext())):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", refuse)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    space = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.1, 0.5)}, maturity=(0.1, 2.0))
    recipe = smc.Recipe(paths=64, width=8, depth=1, fresh=1, batch=16)
    plain, leaping = (Trainer(posed(Problem(space, smc.Terminal(), 1, smc.FrequencyGrid()), 0), recipe, 0, 64) for _ in range(2))
    while plain.step < 64:
        plain.advance()
    with pytest.warns(RuntimeWarning, match="^the training step runs without a CUDA graph, which is slower: not here$"):
        leaping.leap()
    while leaping.step < 64:
        leaping.leap()
    for name, tensor in plain.optimizer.state():
        torch.testing.assert_close(dict(leaping.optimizer.state())[name], tensor, rtol=1e-5, atol=1e-7)


class Idle:
    """A stream that is never busy."""

    def wait_stream(self, other: object) -> None:
        """Nothing to wait for."""


def test_labels_are_halved_where_the_gpu_has_no_memory_left(monkeypatch: pytest.MonkeyPatch) -> None:
    space = smc.ParameterSpace(smc.BlackScholes, {"volatility": (0.1, 0.5)}, maturity=(0.1, 2.0))
    labeller = Labeller(Problem(space, smc.Terminal(), 1, smc.FrequencyGrid()), 0)
    points, inner = space.sample(9), Labeller._label
    whole = labeller(points, 64, 2, 0)

    def short_of_memory(self: Any, rows: Any, *rest: Any) -> Any:
        if len(rows["maturity"]) > 4:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return inner(self, rows, *rest)

    monkeypatch.setattr(Labeller, "_label", short_of_memory)
    with pytest.warns(RuntimeWarning, match="^out of GPU memory: less is computed at once$"):
        halved = labeller(points, 64, 2, 0)
    assert all(torch.equal(a, b) for a, b in zip(whole, halved, strict=True))


def test_one_path_that_does_not_fit_is_an_error() -> None:
    def never(items: range) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.warns(RuntimeWarning, match="out of GPU memory"), pytest.raises(torch.cuda.OutOfMemoryError, match="CUDA out of memory"):
        in_halves(never, lambda first, second: None, range(4))


def test_kernels_without_cupy_are_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "available", lambda: False)
    with pytest.raises(ModuleNotFoundError, match="kernels need CuPy, which is not installed: install the extra cuda11 or cuda13, or"):
        cuda._kernel("words", 0)


def test_more_frequencies_than_a_block_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="size must be at most 2048 frequencies on a GPU; got 4096"):
        cuda.phase_sums(torch.zeros(1, 4), 1.0, 4096, location=torch.zeros(1), scale=torch.ones(1))
