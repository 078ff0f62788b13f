"""Compiled stepping: the integers and, within rounding, the numbers of eager stepping; the same bits for any memory; never needed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

import spectralmc as smc
from spectralmc import compiled
from spectralmc.draws import key_schedule, philox, philox_rounds

FUNCTIONALS = (smc.Terminal(), smc.ArithmeticAverage(), smc.Maximum())
PROCESS, GRID, PATHS = smc.BlackScholes(torch.tensor([0.2, 0.5], dtype=torch.float64)), smc.TimeGrid(1.0, 10), 1 << 10
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@contextmanager
def small(paths: int = 256, **changes: Any) -> Iterator[None]:
    """Compile small simulations too, and forget what failed before."""
    with mock.patch.multiple(compiled, **{"WORTH": 1, "PATHS": paths, "_failed": set()} | changes):
        yield


def run(process: Any = PROCESS, functional: Any = FUNCTIONALS, paths: int = PATHS, **options: Any) -> Tensor:
    """Log outcomes, stacked over the functionals."""
    samples = smc.simulate(process, GRID, smc.Draws((1 << 63) + 5, stream=3), paths, functional, **options)
    return torch.stack([s.log_outcome for s in (samples if isinstance(samples, tuple) else (samples,))])


@dataclass(frozen=True)
class Undecided:
    """A process that asks for the value of a tensor: no compiler follows it."""

    volatility: float = 0.2

    def step(self, state: tuple[Tensor, ...], dt: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
        shift = 0.01 if float(normals.sum()) > 0 else 0.02
        return (state[0] + self.volatility * dt.sqrt() * normals[0] + shift,)


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_and_eager_agree_within_rounding(dtype: torch.dtype) -> None:
    """Of each of ten steps: a few units in the last place of a normal below 6, times σ√Δt, and of a sum below 4."""
    eager = run(dtype=dtype)
    with small():
        fast = run(dtype=dtype)
        assert not compiled._failed
    assert float((fast - eager).abs().max()) <= 10 * 8 * torch.finfo(dtype).eps


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_words_are_those_of_philox_bit_for_bit() -> None:
    key = (0xFFFFFFFF, 0x8000_0001)
    counter = (torch.arange(1 << 32, (1 << 32) - 640, -1) - 1, torch.tensor(3), torch.tensor([[5]]), torch.tensor(7))
    rounds = torch.compile(lambda c, keys: philox_rounds(c, [k.unbind(0) for k in keys.unbind(0)]), dynamic=False)
    for fast, plain in zip(rounds(counter, torch.tensor(key_schedule(key))), philox(counter, key), strict=True):
        assert torch.equal(fast, plain)


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_outcomes_depend_neither_on_memory_nor_on_the_number_of_paths_or_sets() -> None:
    with small():
        whole = run(paths=1000, dtype=torch.float32)
        assert torch.equal(run(paths=1000, dtype=torch.float32, memory=1 << 16), whole)
        assert torch.equal(run(paths=300, dtype=torch.float32), whole[..., :300])
        alone = run(smc.BlackScholes(0.5), paths=1000, dtype=torch.float32, first_set=1)
        assert torch.equal(alone, whole[:, 1:])
        given = PROCESS, GRID, smc.Draws((1 << 63) + 5, stream=3), 1000, smc.Terminal()
        blocks = smc.sample_blocks(*given, dtype=torch.float32, memory=1 << 16)
        assert torch.equal(torch.cat([block.log_outcome for block in blocks], 1), whole[0])
        assert not compiled._failed


def test_whether_a_run_is_compiled_depends_on_its_size_alone() -> None:
    steps = compiled.WORTH // compiled.PATHS
    assert compiled.pays(1, compiled.PATHS, steps) != torch._dynamo.config.disable
    assert not compiled.pays(1, compiled.PATHS, steps - 1)
    assert not compiled.pays(steps, compiled.PATHS - 1, steps)
    with torch._dynamo.config.patch(disable=True):
        assert not compiled.pays(1, compiled.PATHS, steps)


@pytest.mark.parametrize(("factors", "substeps", "steps"), [(1, 1, 8), (1, 8, 8), (2, 2, 4), (3, 1, 4), (1, 3, 0), (9, 1, 4)])
def test_a_call_takes_whole_blocks_of_normals_and_whole_fixings(factors: int, substeps: int, steps: int) -> None:
    assert compiled.width(factors, substeps) == steps


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_cannot_be_compiled_steps_eagerly_after_one_warning() -> None:
    eager = run(Undecided())
    with small():
        with pytest.warns(RuntimeWarning, match=r"^stepping eagerly, torch\.compile failed: \w+$"):
            first = run(Undecided())
        assert torch.equal(run(Undecided()), first)  # where a second warning would be an error
    assert torch.equal(first, eager)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_a_compiler_it_steps_eagerly() -> None:
    eager = run()
    inductor = pytest.importorskip("torch._inductor.config")
    without = inductor.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False})
    with small(128), without, pytest.warns(RuntimeWarning, match=r"^stepping eagerly, torch\.compile failed: \w+$"):
        assert torch.equal(run(), eager)
