"""The GPU path on the card at hand: what it checks, and what it takes, beside the floors that its instructions and its memory set.

    python tests/benchmarks/gpu.py [--parts kernels norm graphs inference tests training] [--steps 100000]

From a folder that holds spectralmc/, tests/ and notebooks/, with PYTHONPATH=. where the package is not installed.  All parts take less than
ten minutes.  Times are medians of device events after a warm-up.  A floor is instructions (counted in the machine code for compute
capability 9.0, of a whole loop) over what the card issues at the clock measured beside it, or bytes over the bandwidth of a copy measured
beside it.  Beside a floor stands what the device takes, with the launches made again or captured in a graph; a call with all that the host
does for it is printed too, and depends on the host.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import spectralmc as smc  # noqa: E402
from spectralmc import cuda, device, fused  # noqa: E402
from spectralmc.nn import CovarianceBatchNorm, SplitReLU, SplitSiLU  # noqa: E402
from spectralmc.problem import Problem, posed  # noqa: E402
from spectralmc.processes import Heston  # noqa: E402
from spectralmc.training import Trainer  # noqa: E402

GPU = torch.device("cuda", 0)
LANES = {(6, 0): 64, (7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64}  # arithmetic lanes of a multiprocessor where they are not 128
# instructions a step, or a (path, frequency) pair, that the work needs: what bounds it from below.  By the device's counters a warp
# executes 66 a step of Heston's where all paths take one branch (5 on the special functions), and 4.7 a pair, whose products serve two
# frequencies.
TERMINAL, THREE, HESTON, OTHER_BRANCH, PAIR = 28.5, 36.0, 48.0, 80.0, 6.0
PYTEST = ("-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "-q", "-rsf", "--tb=short")
LIMIT = int(3.5 * 2**30)  # bytes, of a card of 4 GB
REACH: list[tuple[str, bool]] = []


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def timed(work: Callable[[], Any], repeats: int = 9, inner: int = 1) -> float:
    """Return the median time of a call in seconds, by device events."""
    for _ in range(3):
        work()
    found = []
    for _ in range(repeats):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for _ in range(inner):
            work()
        last.record()
        last.synchronize()
        found.append(first.elapsed_time(last) / 1e3 / inner)
    return median(found)


def launches(work: Callable[[], Any]) -> Callable[[], Any]:
    """Return the kernel launches that a simulation makes, to be made again without what the host prepares for them."""
    made: list[tuple[Any, ...]] = []
    launch = fused.launch
    fused.launch = lambda *arguments: (made.append(arguments), launch(*arguments))[1]
    try:
        work()
    finally:
        fused.launch = launch
    return lambda: [cuda.launch(*arguments) for arguments in made]


CLOCK = r"""
extern "C" __global__ void cycles(long long *out, float x) {
    unsigned long long from, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(from));
    const long long begin = clock64();
    do {
        for (int i = 0; i < 256; ++i) x = x * 0.999f + 0.5f;
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - from < 2000000);
    if (threadIdx.x == 0 && blockIdx.x == 0) out[0] = clock64() - begin, out[1] = now - from, out[2] = (long long)x;
}
"""


def clock_under(work: Callable[[], Any]) -> float:
    """Return the clock of the multiprocessors in Hz right after some runs of ``work``, while all of them are busy."""
    import cupy

    kernel, out, found = cupy.RawKernel(CLOCK, "cycles"), torch.zeros(3, dtype=torch.int64, device=GPU), []
    blocks = torch.cuda.get_device_properties(GPU).multi_processor_count * 4
    for _ in range(7):
        for _ in range(5):
            work()
        torch.cuda.synchronize()
        work()
        with device.cupy_stream(torch.cuda.current_stream().cuda_stream):
            kernel((blocks,), (256,), (out.data_ptr(), cupy.float32(1)))
        torch.cuda.synchronize()
        cycles, nanoseconds, _ = out.tolist()
        found.append(cycles / nanoseconds * 1e9)
    return median(found)


def issue_rate(clock: float) -> float:
    """Return the lane-instructions that the card issues in a second."""
    lanes = LANES.get(torch.cuda.get_device_capability(GPU), 128)
    return torch.cuda.get_device_properties(GPU).multi_processor_count * lanes * clock


def row(name: str, seconds: float, work: float, unit: str, floor: float, least: float, note: str = "") -> None:
    """Print a rate beside its floor."""
    rate = work / seconds
    held(f"{name}: share of the floor", rate / floor, at_least=least)
    print(f"    {1e3 * seconds:.4f} ms, {rate:.4g} {unit}/s, floor {floor:.4g} {note}", flush=True)


def held(claim: str, measured: float, *, at_least: float | None = None, at_most: float | None = None, unit: str = "") -> None:
    """Print a claim and whether it holds."""
    holds = measured >= at_least if at_least is not None else at_most is None or measured <= at_most
    bound = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}" if at_most is not None else ""
    REACH.append((claim, holds))
    print(f"{'ok  ' if holds else 'MISS'} {claim}: {measured:.4g} {unit} {bound}".rstrip(), flush=True)


# ---- kernels ------------------------------------------------------------------------------------------------------------------------


def outcomes(process: Any, steps: int, paths: int, functionals: tuple[Any, ...]) -> Callable[[], Any]:
    """Return a launch of the fused kernel."""
    zero = torch.zeros(1, dtype=torch.float64)
    grid, draws = smc.TimeGrid(1.0, steps), smc.Draws(7)
    return lambda: fused.outcomes(process, grid, draws, range(paths), functionals, zero, torch.float32, 1, 0, GPU)


def eager(paths: int, steps: int) -> dict[str, Callable[[], Tensor]]:
    """Return the same simulation step by step in torch, and its fastest forms that draw every normal."""
    deviation = 0.2 / math.sqrt(steps)
    drift = -(deviation**2) / 2

    def plain() -> Tensor:
        x = torch.zeros(paths, device=GPU)
        for _ in range(steps):
            x = x + drift + deviation * torch.randn(paths, device=GPU)
        return x

    def in_place() -> Tensor:
        x, z = torch.full((paths,), drift * steps, device=GPU), torch.empty(paths, device=GPU)
        for _ in range(steps):
            x.add_(z.normal_(), alpha=deviation)
        return x

    def by_matrix() -> Tensor:
        x, z = torch.full((paths,), drift * steps, device=GPU), torch.empty(16, paths, device=GPU)
        few = torch.full((16,), deviation, device=GPU)
        for _ in range(steps // 16):
            x.addmv_(z.normal_().T, few)
        return x

    return {"step by step": plain, "in place": in_place, "sixteen at once": by_matrix}


def kernels() -> None:
    """Simulation and spectrum."""
    paths, steps = 1 << 24, 256
    process = smc.BlackScholes(0.2)
    one, three = (outcomes(process, steps, paths, f) for f in ((smc.Terminal(),), (smc.Terminal(), smc.Maximum(), smc.ArithmeticAverage())))
    clock = clock_under(one)
    issue, sms = issue_rate(clock), torch.cuda.get_device_properties(GPU).multi_processor_count
    print(f"clock {clock / 1e9:.3f} GHz, {issue:.4g} lane-instructions/s")
    print(f"    pipes: integer multiplies 5 a step at 64 lanes: {sms * 64 * clock / 5:.4g} path-steps/s; "
          f"special functions 2 a step at 16 lanes: {sms * 16 * clock / 2:.4g} path-steps/s")  # fmt: skip
    seconds, all_three = timed(one), timed(three)
    note = f"(with what the host prepares {1e3 * seconds:.4f} ms)"
    row("terminal value, 2^24 paths x 256 steps", timed(launches(one), inner=3), paths * steps, "path-steps", issue / TERMINAL, 0.55, note)
    note = f"(with what the host prepares {1e3 * all_three:.4f} ms)"
    row("terminal, maximum, average", timed(launches(three), inner=3), paths * steps, "path-steps", issue / THREE, 0.55, note)
    loops = {name: timed(work, 7) for name, work in eager(paths, steps).items()}
    print("    eager: " + ", ".join(f"{name} {1e3 * t:.1f} ms" for name, t in loops.items()))
    held("terminal value against the step-by-step eager loop", loops["step by step"] / seconds, at_least=5.0, unit="x")
    held("terminal value against the best eager loop", min(loops.values()) / seconds, at_least=2.0, unit="x")
    torch.cuda.empty_cache()
    heston(clock)
    spectrum(clock)


def heston(clock: float) -> None:
    """The conditional scheme, where all paths take one branch and where warps take both."""
    paths, steps, grid = 1 << 22, 128, smc.TimeGrid(1.0, 128)
    for name, parameters in (("Feller's condition met", (0.09, 2.0, 0.09, 0.3, -0.7)), ("violated", (0.04, 1.0, 0.04, 0.8, -0.7))):
        process = Heston(*parameters)
        share = both_branches(process, grid)
        per_step = HESTON + OTHER_BRANCH * share
        rest = grid, smc.Draws(7), range(paths), torch.float32, 1, 0, GPU

        def work(process: Heston = process, rest: Any = rest) -> Any:
            return fused.conditional_terminal(process, *rest)

        whole, seconds = timed(work), timed(launches(work), inner=3)
        note = f"({per_step:.1f} instructions: in {share:.3f} of its steps a warp takes the second branch too; "
        note += f"with what the host prepares {1e3 * whole:.4f} ms)"
        name = f"Heston quadratic-exponential, conditional, 2^22 x 128, {name}"
        row(name, seconds, paths * steps, "path-steps", issue_rate(clock) / per_step, 0.5, note)


def both_branches(process: Heston, grid: smc.TimeGrid) -> float:
    """Return the share of (warp, step) in which some path leaves the quadratic branch, by the same draws in torch."""
    from spectralmc.processes.heston import _coefficients, _quadratic_exponential

    paths, dt = 1 << 16, torch.tensor([[1.0 / grid.steps]], dtype=torch.float64)
    m0, m1, s0, s1 = _coefficients(process, dt, torch.float64).unbind(0)[:4]
    v, taken = torch.full((1, paths), float(process.initial_variance), dtype=torch.float64), []
    state: tuple[Tensor, ...] = (v,)
    for z in smc.Draws(7).normals(range(1), range(paths), grid.steps, 1, torch.float64, paths):
        m, half = m0 + m1 * state[0], s0 + s1 * state[0]
        taken.append(float((m * m / half < 4 / 3).reshape(-1, 32).any(1).double().mean()))
        state = _quadratic_exponential(process, state, dt, z).state
    return sum(taken) / len(taken)


def spectrum(clock: float) -> None:
    """The empirical characteristic function of 2^20 outcomes at 128 frequencies."""
    n, size = 1 << 20, 128
    x, variance = torch.randn(1, n, device=GPU), torch.full((1, n), 0.01, device=GPU)
    zero, one = torch.zeros(1, device=GPU), torch.ones(1, device=GPU)
    w = torch.arange(1, size + 1, device=GPU) * (math.pi / 16)

    def ours(v: Tensor | None = None) -> Tensor:
        return cuda.phase_sums(x, 1 / 32, size, location=zero, scale=one, variance=v)

    def whole() -> Tensor:
        return torch.exp(1j * w[:, None] * x).sum(1)

    def polar() -> Tensor:
        angle = w[:, None] * x
        return torch.complex(torch.cos(angle).sum(1), torch.sin(angle).sum(1))

    exact = torch.stack([torch.polar(torch.ones_like(x, dtype=torch.float64), float(u) * x.double()).sum() for u in w.double()])
    found = ours()[0]
    held("phase sums, error of the mean", float((torch.complex(found[:, 0], found[:, 1]) - exact).abs().max()) / n, at_most=1e-5)
    seconds, alone = timed(ours, inner=10), timed(captured(lambda: [ours() for _ in range(10)])) / 10
    row("empirical characteristic function, 2^20 x 128, captured in a graph", alone, n * size, "pairs", issue_rate(clock) / PAIR, 0.5)
    print(f"    {issue_rate(clock) / (n * size / alone):.2f} issue slots a pair; {1e6 * seconds:.1f} us called one by one")
    rivals = {"exp": timed(whole, 7), "cos and sin": timed(polar, 7)}
    print("    eager: " + ", ".join(f"{name} {1e3 * t:.2f} ms" for name, t in rivals.items()))
    held("characteristic function against torch, one exponential a pair", rivals["exp"] / alone, at_least=20.0, unit="x")
    held("characteristic function against the best eager form", min(rivals.values()) / alone, at_least=0.0, unit="x")
    print(f"    called one by one: {rivals['exp'] / seconds:.2f} x and {min(rivals.values()) / seconds:.2f} x")
    conditional = timed(captured(lambda: [ours(variance) for _ in range(10)])) / 10
    print(f"    conditional: {1e6 * conditional:.1f} us, {issue_rate(clock) / (n * size / conditional):.2f} issue slots a pair")
    draw = outcomes(smc.BlackScholes(0.2), 64, n, (smc.Terminal(),))
    together = timed(lambda: cuda.phase_sums(draw()[0]["log_outcome"], 1 / 32, size, location=zero, scale=one), inner=5)
    print(f"    draws to spectrum, 2^20 x 64 steps: {1e6 * together:.1f} us")
    torch.cuda.empty_cache()


# ---- layers -------------------------------------------------------------------------------------------------------------------------


def copied(tensor: Tensor) -> float:
    """Return the bytes that a copy reads and writes in a second."""
    other = torch.empty_like(tensor)
    return 2 * tensor.nbytes / timed(lambda: other.copy_(tensor))


def prepared(work: Callable[[], Any]) -> float:
    """Return the seconds that the host takes to issue a call."""
    for _ in range(3):
        work()
    found = []
    for _ in range(9):
        torch.cuda.synchronize()
        clock = time.perf_counter()
        for _ in range(20):
            work()
        found.append((time.perf_counter() - clock) / 20)
    torch.cuda.synchronize()
    return median(found)


def captured(work: Callable[[], Any]) -> Callable[[], Any]:
    """Return a replay of ``work`` as one graph."""
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph, stream=side):
        work()
    return graph.replay


def norm() -> None:
    """Covariance batch norm and the split activations beside the bytes they move."""
    bandwidth = copied(torch.empty(1 << 28, device=GPU))
    print(f"copy bandwidth {bandwidth / 1e12:.3f} TB/s")
    rows, channels = 65536, 256
    z = torch.randn(rows, channels, dtype=torch.complex64, device=GPU)
    x = torch.randn(rows, 2 * channels, device=GPU)

    def both(layer: Any, given: Tensor) -> Callable[[], Any]:
        upstream, leaf = torch.randn_like(given), given.detach().requires_grad_()
        return lambda: torch.autograd.grad(layer(leaf), [leaf, *layer.parameters()], upstream)

    floor = 8 * z.nbytes / bandwidth  # forward: z twice, y; backward: z and gradient twice, gradient of z
    print(f"    floor of 8 passes {1e6 * floor:.1f} us")
    def pair(size: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
        layers = CovarianceBatchNorm(channels).to(GPU), torch.nn.BatchNorm1d(2 * channels).to(GPU)
        return both(layers[0], z[:size]), both(layers[1], x[:size])

    host, (ours, theirs) = [prepared(work) for work in pair(64)], (timed(work, inner=10) for work in pair(rows))
    print(f"    called one by one: covariance norm {1e6 * ours:.1f} us, {ours / floor:.2f} x its bytes, {ours / theirs:.2f} x BatchNorm1d "
          f"of {1e6 * theirs:.1f} us; the host needs {1e6 * host[0]:.1f} and {1e6 * host[1]:.1f} us to issue them")  # fmt: skip
    ours, theirs = (timed(captured(work), inner=10) for work in pair(rows))
    print(f"    captured in a graph: covariance norm {1e6 * ours:.1f} us, BatchNorm1d {1e6 * theirs:.1f} us")
    held("covariance batch norm (65536, 256), captured, time over that of its bytes", ours / floor, at_most=1.5)
    held("covariance batch norm over BatchNorm1d on the same bytes, both captured", ours / theirs, at_most=1.2)
    with torch.no_grad():
        layer = CovarianceBatchNorm(channels).to(GPU)
        y, saved = cuda.norm_forward(z, layer.weight, layer.bias, 1e-5)
        forward = timed(lambda: cuda.norm_forward(z, layer.weight, layer.bias, 1e-5), inner=10)
        backward = timed(lambda: cuda.norm_backward(z, y, saved, layer.weight, (True, True, True)), inner=10)
    print(f"    kernels alone: forward {1e6 * forward:.1f} us, backward {1e6 * backward:.1f} us")
    for activation in (SplitSiLU(), SplitReLU()):
        seconds, bytes_ = timed(both(activation, z), inner=10), 5 * z.nbytes  # z, y; z, gradient, gradient of z
        held(f"{type(activation).__name__}, time over that of its bytes", seconds / (bytes_ / bandwidth), at_most=1.5)
    torch.cuda.empty_cache()


# ---- training and inference ------------------------------------------------------------------------------------------------------------


def learned_box() -> Any:
    import learn  # beside this file

    return learn, learn.BOXES["heston"]


def graphs() -> None:
    """A training step captured and not; and what labels beside it cost."""
    _, box = learned_box()
    problem = posed(Problem(box.space, box.functional, box.time_steps, box.grid, box.substeps), 1)
    rates = {}
    for name in ("plain", "captured"):
        trainer = Trainer(problem, box.recipe, 1, 32 * 40, device=GPU)
        step = trainer.advance if name == "plain" else trainer.leap
        while trainer.step < 32 * 4:
            step()
        torch.cuda.synchronize()
        first, clock = trainer.step, time.perf_counter()
        while trainer.step < 32 * 30:
            step()
        torch.cuda.synchronize()
        rates[name] = (trainer.step - first) / (time.perf_counter() - clock)
        if name == "captured":
            assert trainer.graph is not None
            held("training step captured in a graph", float(trainer.graph.graph is not None), at_least=1.0)
            clock = time.perf_counter()
            for block in range(100, 116):
                trainer.simulated(block)
            torch.cuda.synchronize()
            print(f"    a block of labels alone: {(time.perf_counter() - clock) / 16 * 1e3:.2f} ms")
    print(f"    steps a second, labels included: {rates['plain']:.0f} plain, {rates['captured']:.0f} captured")
    held("captured steps over plain ones", rates["captured"] / rates["plain"], at_least=1.0, unit="x")


def inference() -> None:
    """A million parameter sets at seven strikes."""
    _, box = learned_box()
    model = smc.train(box.space, box.functional, steps=64, time_steps=4, recipe=box.recipe, device="cuda", progress=False).surrogate
    points = box.space.sample(10**6, seed=11)
    held_points = {name: value.to(GPU) for name, value in points.items()}
    k = (torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]).double() * model.problem.standard(points).scale[:, None]).to(GPU)

    def price(p: dict[str, Tensor], strikes: Tensor, where: str) -> smc.surrogate.Price:
        named = {n: v for n, v in p.items() if n not in ("maturity", "carry")}
        return model.price(named, p["maturity"], strikes, "put", p["carry"], device=where)

    seconds = timed(lambda: price(held_points, k, "cuda"), 7)
    held("a price, batch of 10^6 x 7", 1e9 * seconds / k.numel(), at_most=20.0, unit="ns")
    few = {name: value[:4096] for name, value in points.items()}
    ours, theirs = price(held_points, k, "cuda"), price(few, k[:4096].cpu(), "cpu")
    scale = model.problem.standard(few).scale[:, None]
    apart = float(((ours.value[:4096].cpu() - theirs.value) / scale).abs().max())
    held("prices on GPU and CPU apart, in standard deviations", apart, at_most=1e-5)
    print(f"    memory at most {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    torch.cuda.empty_cache()


def training(steps: int) -> None:
    """The hard box, one seed, to the accuracy that the closed form shows.

    More steps in time than on a CPU, whose bias would show here, more paths a label, which cost next to nothing here, a finer grid of
    frequencies and a larger network.
    """
    learn, box = learned_box()
    clock = time.perf_counter()
    result = smc.train(
        box.space, box.functional, steps=steps, seed=1, time_steps=96, substeps=box.substeps, grid=smc.FrequencyGrid(20.0, 160),
        recipe=replace(box.recipe, width=256, depth=4, paths=8192), device="cuda", progress=False,
    )  # fmt: skip
    wall, model = time.perf_counter() - clock, result.surrogate
    record = model.record
    print(f"    {wall:.1f} s, {record['steps']} steps, {record['parameter_sets']} sets, {record['paths'] / 1e9:.2f}e9 paths")
    every = max(len(result.history) // 6, 1)
    print("    held-out error: " + ", ".join(f"{r.held_out:.2e} at {r.seconds:.0f} s" for r in result.history[::every]))
    held("training, seconds", wall, at_most=420.0)
    points = box.space.sample(512, seed=2024)
    k = learn.STRIKES * model.problem.standard(points).scale[:, None]
    truth = learn.exact_puts(box.space, points, k)
    named = {n: v for n, v in points.items() if n not in ("maturity", "carry")}
    price = model.price(named, points["maturity"], k, "put", points["carry"])
    error = 1e4 * (price.value - truth).abs()
    figures = {"mean": error.mean(), "95th percentile": error.flatten().quantile(0.95), "maximum": error.max()}
    for (name, value), best, safe in zip(figures.items(), (0.05, 0.2, 3.0), (0.15, 0.5, 8.0), strict=True):
        held(f"hard box, {name}", float(value), at_most=best, unit="bp")
        print(f"    within {safe} bp: {float(value) <= safe}")
    covered = (price.value - truth).abs() <= price.error
    print(f"    inside the bar {100 * covered.double().mean():.2f} %, median bar {1e4 * price.error.median():.3f} bp")


# ---- tests and notebooks ---------------------------------------------------------------------------------------------------------------


def command(arguments: list[str], limit: int = 0) -> tuple[bool, str]:
    """Run Python, as on a card of ``limit`` bytes, and return whether it went well and what it said."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    changes = {"PYTHONPATH": path, "MPLBACKEND": "Agg", "PYTHONUTF8": "1", "SPECTRALMC_GPU_LIMIT": str(limit), "OMP_NUM_THREADS": "4"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **changes}, capture_output=True, text=True, timeout=400, check=False
    )
    return done.returncode == 0, done.stdout + done.stderr


def tests() -> None:
    """The tests that need a GPU and the notebooks, on the whole card and within the memory of a small one."""
    try:
        import pytest  # noqa: F401
    except ImportError:
        print("SKIP tests/test_gpu.py: pytest is not installed")
    books = sorted((ROOT / "notebooks").glob("*.ipynb"))
    jobs: dict[str, tuple[list[str], int]] = {}
    for limit in (0, LIMIT):
        where = f" within {limit / 2**30:g} GiB" if limit else ""
        jobs[f"tests/test_gpu.py{where}"] = [*PYTEST, "tests/test_gpu.py"], limit
        jobs |= {f"{book.name}{where}": ([__file__, "--notebook", str(book)], limit) for book in books}
    with ThreadPoolExecutor(6) as pool:
        for name, (well, said) in zip(jobs, pool.map(lambda job: command(*job), jobs.values()), strict=True):
            held(name, float(well), at_least=1.0)
            lines = said.strip().splitlines()
            print("\n".join(f"    {line}" for line in (lines[-1:] if well else lines[-40:])), flush=True)


@contextmanager
def limited() -> Iterator[None]:
    """Take no more of the card than SPECTRALMC_GPU_LIMIT says."""
    limit = int(os.environ.get("SPECTRALMC_GPU_LIMIT", "0"))
    if limit and torch.cuda.is_available():
        import cupy

        torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.mem_get_info()[1])
        cupy.get_default_memory_pool().set_limit(size=limit)
    yield
    if limit and torch.cuda.is_available():
        assert torch.cuda.max_memory_reserved() <= limit


def notebook(path: Path) -> None:
    """Run the code cells of a notebook in order, and compare what the checked ones say with what is stored."""
    import ast
    import contextlib
    import io

    import matplotlib as mpl

    mpl.use("Agg")
    if importlib.util.find_spec("IPython") is None:  # without Jupyter, figures that would be shown live are drawn all the same
        sys.modules["IPython"] = Mock(get_ipython=lambda: None, version_info=(9, 0))
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    space: dict[str, Any] = {"__name__": "__main__"}
    os.chdir(path.parent)
    checked, clock = 0, time.perf_counter()
    for cell in cells:
        source, said = "".join(cell["source"]), io.StringIO()
        tree = ast.parse(source)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        try:
            with contextlib.redirect_stdout(said):
                exec(compile(tree, path.name, "exec"), space)
                value = None if last is None else eval(compile(ast.Expression(last.value), path.name, "eval"), space)
        except ModuleNotFoundError as missing:
            print(f"SKIPPED after {checked} checked cells: {missing}")
            return
        if "nbval-check-output" in cell["metadata"].get("tags", []):
            stored = [o.get("text") or o["data"].get("text/plain") for o in cell["outputs"]]
            known = "".join("".join(part) for part in stored if part)
            ours = said.getvalue() + ("" if value is None else repr(value))
            if sanitized(ours) != sanitized(known):
                raise AssertionError(f"{path.name}: a checked output differs\n--- stored\n{known}\n--- here\n{ours}")
            checked += 1
    print(f"{path.name}: {checked} checked outputs as stored, {time.perf_counter() - clock:.1f} s, on {device.choose('auto')}")


def sanitized(text: str) -> str:
    """Return a text without what its sanitizing rules strike out."""
    rules = re.findall(r"regex:\s*(.*)\nreplace:\s*(.*)", (ROOT / "notebooks" / "sanitize.cfg").read_text(encoding="utf-8"))
    for regex, replacement in rules:
        text = re.sub(regex, replacement, text)
    return "\n".join(re.sub(r"\s+", " ", line).strip() for line in text.strip().splitlines())


PARTS: dict[str, Callable[[], None]] = {"kernels": kernels, "norm": norm, "graphs": graphs, "inference": inference, "tests": tests}


def main() -> None:
    """Run the parts and say which claims hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, "training"], default=[*PARTS, "training"])
    parser.add_argument("--steps", type=int, default=100000, help="steps of training; an H200 takes about 550 a second")
    parser.add_argument("--notebook", type=Path, help="run one notebook and compare its checked outputs")
    arguments = parser.parse_args()
    if arguments.notebook:
        with limited():
            notebook(arguments.notebook)
        return
    if not torch.cuda.is_available():
        sys.exit("no GPU: nothing to measure")
    begin = time.perf_counter()
    free, total = torch.cuda.mem_get_info()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    for line in device.check(gpu=True):
        print(f"    {'-' if line.ok is None else '+' if line.ok else 'x'} {line.name}: {line.detail} {line.remedy}")
    for part in arguments.parts:
        print(f"==== {part} ({time.perf_counter() - begin:.0f} s)", flush=True)
        try:
            if part == "training":
                training(arguments.steps)
            else:
                PARTS[part]()
        except Exception:  # the other parts still run
            REACH.append((f"{part} ended", False))
            print(f"MISS {part} ended with an error", flush=True)
            traceback.print_exc()
            sys.stderr.flush()
    missed = [claim for claim, holds in REACH if not holds]
    print(f"==== {len(REACH) - len(missed)} of {len(REACH)} hold, {time.perf_counter() - begin:.0f} s; missed: {missed}")


if __name__ == "__main__":
    main()
