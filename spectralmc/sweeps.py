"""Sweeps: one notebook, or several, over a grid or a list of parameters, and a page that compares the runs.

A sweep file is YAML; notebooks are found from the folder it lies in::

    notebook: ../07_covariance_batch_norm.ipynb    # or a list of notebooks, each run with every set of parameters
    parameters: {seeds: 2, steps: 60}              # the same in every run
    grid:                                          # every combination of these values …
      seed: [1, 2, 3, 4]
      width: [8, 16]
    # list: [{seed: 1, width: 8}, {seed: 2}]       # … or these sets and no others
    timeout: 120                                   # seconds a run may take
    name: whitening                                # if not given, that of the file

A run is named after its values, so that a sweep that grew finds the runs it has made.  Every run computes on one thread, whatever the
number of workers, unless ``OMP_NUM_THREADS`` says otherwise: the numbers do not depend on how many runs there are at a time.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from spectralmc import pages
from spectralmc.executors import cluster, local
from spectralmc.reports import carry_out, make
from spectralmc.runner import InputError, Plan, make_folder, plan, read_yaml, write

_ENTRIES = ("notebook", "parameters", "grid", "list", "timeout", "name")
_MARK = "sweep.txt"  # tells whose folder it is; not .json, which are records
_LONGEST = 80  # letters of a run's name


@dataclass(frozen=True)
class Sweep:
    """A sweep to be made: its name, its runs, and the parameters that differ between them."""

    name: str
    runs: tuple[Plan, ...]
    swept: tuple[str, ...]


def read_sweep(file: Path | str) -> Sweep:
    """Return the sweep of a file, every run checked against its notebook, or refuse it (``InputError``)."""
    path = Path(file)
    fields = read_yaml(path)
    try:
        return _planned(path, fields)
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None


def _planned(path: Path, fields: dict[str, Any]) -> Sweep:
    if unknown := [key for key in fields if key not in _ENTRIES]:
        raise InputError(f"unknown entry {unknown[0]!r}; a sweep has {', '.join(_ENTRIES)}")
    notebooks, shared = fields.get("notebook"), fields.get("parameters") or {}
    notebooks = [notebooks] if isinstance(notebooks, str) else notebooks
    if not isinstance(notebooks, list) or not notebooks or not all(isinstance(name, str) for name in notebooks):
        raise InputError("a sweep must have 'notebook: FILE.ipynb', or a list of such files")
    if not isinstance(shared, dict):
        raise InputError(f"parameters must be 'name: value' lines; got {shared!r}")
    sets = _sets(fields)
    swept = tuple(dict.fromkeys(name for values in sets for name in values))
    if twice := [name for name in swept if name in shared]:
        raise InputError(f"parameter {twice[0]!r} is swept and given for all runs; give it once")
    whose = [Path(name).stem if len(notebooks) > 1 else "" for name in notebooks]
    tasks = [
        plan(path.parent / notebook, {**shared, **values}, fields.get("timeout"), _name(prefix, values))
        for notebook, prefix in zip(notebooks, whose, strict=True)
        for values in sets
    ]
    seen: dict[str, int] = {}
    for number, task in enumerate(tasks, 1):
        if (first := seen.setdefault(task.inputs, number)) != number:
            raise InputError(f"runs {first} and {number} have the same notebook and parameters; name each set once")
    name = fields.get("name", path.stem)
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise InputError(f"name of a sweep must be a line of text; got {name!r}")
    return Sweep(name, tuple(_told_apart(tasks)), swept)


def _sets(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters of every run: the product of a grid, the last name fastest, or the sets of a list."""
    if ("grid" in fields) == ("list" in fields):
        raise InputError("a sweep must have either 'grid:' (every combination) or 'list:' (these sets)")
    if "list" in fields:
        sets = fields["list"]
        if not isinstance(sets, list) or not sets or not all(isinstance(values, dict) and values for values in sets):
            raise InputError(f"list must hold at least one set {{name: value}}; got {sets!r}")
        return sets
    grid = fields["grid"]
    if not isinstance(grid, dict) or not grid:
        raise InputError(f"grid must hold at least one 'name: [value, …]' line; got {grid!r}")
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"grid must give a list of at least one value for {name!r}; got {values!r}")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _name(notebook: str, values: dict[str, Any]) -> str:
    parts = [notebook, *(f"{name}-{_word(value)}" for name, value in values.items())]
    return "-".join(filter(None, parts))


def _word(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", str(value)).strip("_") or "empty"


def _told_apart(tasks: list[Plan]) -> Iterator[Plan]:
    """Give names that are too long, or those of several runs, the first digits of their inputs."""
    names = [task.name for task in tasks]
    for task in tasks:
        clear = len(task.name) <= _LONGEST and names.count(task.name) == 1
        yield task if clear else replace(task, name=f"{task.name[:_LONGEST]}-{task.inputs[:8]}")


def sweep(
    file: Path | str,
    out: Path | str,
    resume: bool = False,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    tell: Callable[[dict[str, Any]], None] = lambda record: None,
) -> list[dict[str, Any]]:
    """Make every run of a sweep file and leave their pages and the comparison index.html in ``out``; return the records.

    Everything is checked before anything runs.  A run that fails, or whose kernel dies, fails alone; a run whose worker is killed is
    done again, once.  A verdict that does not hold is a result, and counted as such: it fails no run.  ``resume`` keeps finished runs
    whose notebook and parameters are unchanged.

    Parameters
    ----------
    workers
        processes of this machine; one a core if None.
    scheduler
        address of a Dask scheduler whose workers share ``out`` with this machine, in the place of processes: see
        `spectralmc.executors.cluster`.
    tell
        hears of each run as it ends.

    Raises
    ------
    InputError
        a bad file, a folder of other results, a scheduler that does not answer.
    """
    if workers is not None and scheduler is not None:
        raise InputError("workers are processes of this machine, a scheduler has its own: give one of the two")
    planned, folder = read_sweep(file), Path(out)
    _refuse_other(planned, folder)
    with ExitStack() as stack:
        pool = stack.enter_context(cluster(scheduler)) if scheduler else local(_cores() if workers is None else workers)
        make_folder(folder)
        write(folder / _MARK, f"{planned.name}\n")
        page = partial(pages.comparison, planned.name, planned.swept)
        tasks = [replace(task, path=task.path.resolve(), strict=False) for task in planned.runs]  # a worker has a folder of its own
        return carry_out(tasks, folder, resume, page, pool, tell, _on_one_thread)


def _refuse_other(planned: Sweep, folder: Path) -> None:
    """Refuse a folder with the results of another sweep, of a report or of single runs."""
    try:
        owner = (folder / _MARK).read_text(encoding="utf-8").strip()
    except OSError:
        owner = "" if not any(folder.glob("*.json")) and not (folder / "index.html").exists() else "something else"
    if owner and owner != planned.name:
        held = "results that are not of a sweep" if owner == "something else" else f"the sweep {json.dumps(owner)}"
        raise InputError(f"folder {folder} holds {held}; choose another folder for the sweep {json.dumps(planned.name)}")


def _on_one_thread(task: Plan, out: Path) -> dict[str, Any]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the worker, hence of its kernels
    return make(task, out)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
