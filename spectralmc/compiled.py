"""Several steps of draws, process and functionals as one loop of machine code, made by torch.compile where a C++ compiler is there.

Nothing is written to memory between a random integer and the functionals.  The integers are those of eager stepping and the numbers the
same within rounding.  Whether a simulation is compiled depends on what is asked for alone, never on memory or on the number of a path,
and every call works on as many paths: the tail of a vector loop never differs from its body, so results repeat to the bit.

torch keeps the machine code on disk; loading it in a new process takes about two seconds and making it a few times that, as
tests/benchmarks/speed.py measures.  The smallest simulation that is compiled takes eager stepping as long, and gains from its second run
on.  What cannot be compiled, or a machine without a compiler, steps eagerly after one warning; TORCH_COMPILE_DISABLE=1 switches off.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from spectralmc.draws import Draws, box_muller, key_schedule, philox_rounds
from spectralmc.stepping import Outcome, Track

WORTH = 1 << 26  # path-steps
PATHS = 1 << 16  # of one call: what it reads and writes stays in the second cache, and calling takes little beside computing
_NORMALS = 8  # a path and call, for the same reason; more would only take longer to compile
_failed: set[tuple[object, ...]] = set()


def pays(sets: int, paths: int, steps: int) -> bool:
    """Say whether there is enough to do for compiled code, and torch.compile is not switched off."""
    if paths < PATHS or sets * paths * steps < WORTH:
        return False
    import torch._dynamo  # takes a second

    return not torch._dynamo.config.disable


def width(factors: int, substeps: int) -> int:
    """Return how many steps one call takes: whole blocks of four normals, and fixings always at the same ones; 0 if there is no such."""
    steps = _NORMALS // factors & ~3 or 4
    return 0 if steps % substeps else steps


def attempt(run: Callable[[], Any], *kind: object) -> Any:
    """Return what ``run`` does, or None where things of this kind could not be compiled, which is said once."""
    if kind in _failed:
        return None
    try:
        with torch.no_grad(), torch._dynamo.config.patch(cache_size_limit=1 << 10):  # a variant for each kind of run
            return run()
    except Exception as error:
        if not _failed:
            warnings.warn(f"stepping eagerly, torch.compile failed: {type(error).__name__}", RuntimeWarning, stacklevel=2)
        _failed.add(kind)
        return None


def step_through(
    tracks: list[Track], outcomes: list[Outcome], draws: Draws, row: int, first: int, drift: Tensor, substeps: int, factors: int
) -> None:
    """Take all steps of `PATHS` paths from ``first`` of one parameter set; ``drift`` is (1, M)."""
    for track in tracks:
        track.state = tree_map(torch.clone, track.state)  # tensors that share memory would be compiled apart
    for outcome in outcomes:
        outcome.accumulator = tree_map(torch.clone, outcome.accumulator)
    paths, sets = torch.arange(first, first + PATHS)[None], torch.tensor([[row]])
    keys, lane = torch.tensor(key_schedule(draws.key)), torch.tensor(draws.stream)
    steps, block = width(factors, substeps), 0
    for growth in drift.split(steps, 1):
        _compiled()(tracks, outcomes, (paths, torch.tensor(block), sets, lane), keys, growth.contiguous(), substeps, factors)
        block += steps * factors // 4


@cache
def _compiled() -> Callable[..., None]:
    return torch.compile(_stretch, dynamic=False, fullgraph=True)


def _stretch(
    tracks: list[Track],
    outcomes: list[Outcome],
    counter: tuple[Tensor, Tensor, Tensor, Tensor],
    keys: Tensor,
    growth: Tensor,
    substeps: int,
    factors: int,
) -> None:
    """Take as many steps as ``growth`` has columns, from a counter whose block is the first of this call."""
    paths, block, sets, lane = counter
    schedule, dtype = [key.unbind(0) for key in keys.unbind(0)], growth.dtype
    normals: list[Tensor] = []
    for step, ahead in enumerate(growth.unbind(1), 1):
        while len(normals) < factors:
            a, b, c, d = philox_rounds((paths, block, sets, lane), schedule)
            normals += [*box_muller(a, b, dtype), *box_muller(c, d, dtype)]
            block = block + 1
        now, normals = torch.stack(normals[:factors]), normals[factors:]
        for track in tracks:
            track.step(now)
        for outcome in outcomes:
            outcome.update(ahead[:, None], step % substeps == 0)
