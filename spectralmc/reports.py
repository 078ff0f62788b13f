"""The main job: every notebook on its long settings, and a gallery that says what came of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from spectralmc import pages
from spectralmc.executors import Workers, each, local
from spectralmc.records import read_record
from spectralmc.runner import InputError, Plan, blank, make_folder, perform, plan, read_yaml, spare, write


def plans(runs: Path | str) -> list[Plan]:
    """Return the plans of all ``*.yaml`` files in a folder; the notebooks lie in the folder above. Refuses all or none."""
    files = sorted(Path(runs).glob("*.yaml"))
    if not files:
        raise InputError(f"folder {runs} must hold at least one *.yaml file that names a notebook")
    found = [_planned(path) for path in files]
    names = [task.name for task in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two files in {runs} name their run {twice[0]!r}; each run needs a name of its own")
    return found


def _planned(path: Path) -> Plan:
    fields = read_yaml(path)
    known = ("notebook", "parameters", "name", "timeout")
    if unknown := [key for key in fields if key not in known]:
        raise InputError(f"{path.name}: unknown entry {unknown[0]!r}; a run has {', '.join(known)}")
    values = fields.get("parameters") or {}
    if not isinstance(fields.get("notebook"), str) or not isinstance(values, dict):
        raise InputError(f"{path.name}: a run must have 'notebook: FILE.ipynb' and may have 'parameters:' with 'name: value' lines")
    try:
        return plan(path.parent.parent / fields["notebook"], values, fields.get("timeout"), fields.get("name", path.stem))
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None


def report(
    out: Path | str = "reports",
    resume: bool = False,
    *,
    runs: Path | str = "notebooks/runs",
    workers: int = 1,
    tell: Callable[[dict[str, Any]], None] = lambda record: None,
) -> list[dict[str, Any]]:
    """Run every notebook named in ``runs`` and leave their pages and the gallery index.html in ``out``; return the records.

    Everything is checked before anything runs; a run that fails does not stop the others; the gallery is rewritten after every
    run. ``resume`` keeps finished runs whose notebook and parameters are unchanged. ``tell`` hears of each run as it ends.
    """
    pool, tasks, out = local(workers), plans(runs), Path(out)
    return carry_out(tasks, out, resume, pages.gallery, None if workers == 1 or len(tasks) < 2 else pool, tell)


def carry_out(
    tasks: list[Plan],
    out: Path,
    resume: bool,
    page: Callable[..., str],
    workers: Workers | None,
    tell: Callable[[dict[str, Any]], None],
    attempt: Callable[..., dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Make the planned runs that are not done, in this process or by ``workers``, and keep ``page`` of them in index.html."""
    for task in tasks:
        spare(task, out)
    make_folder(out)
    records = {task.name: (resume and _finished(task, out)) or blank(task) for task in tasks}
    waiting = [task for task in tasks if records[task.name]["status"] == "waiting"]
    for name in records.keys() - {task.name for task in waiting}:
        tell(records[name])
    publish = partial(_publish, records, out, page)
    publish()
    try:
        for record in tqdm(_each(waiting, out, workers, attempt or make), total=len(waiting), unit="run", disable=None):
            records[record["name"]] = record
            with suppress(OSError):  # the disk is full: the page of before still stands, and the last one below may fit
                publish()
            tell(record)
    finally:
        for task in waiting:  # an interrupted run has left its record too
            records[task.name] = _stored(task, out) or records[task.name]
        publish()
    return list(records.values())


def _publish(records: dict[str, dict[str, Any]], out: Path, page: Callable[..., str]) -> None:
    """Write the page of all runs; if there is no room for its figures, without them."""
    try:
        write(out / "index.html", page(list(records.values()), out))
    except OSError:
        write(out / "index.html", page(list(records.values()), out, figures=False))


def _stored(task: Plan, out: Path) -> dict[str, Any] | None:
    """Return the record that a run of exactly this task has left, if it is whole."""
    with suppress(OSError, ValueError):
        record = read_record(out / f"{task.name}.json")
        if record["inputs"] == task.inputs:
            return record
    return None


def _finished(task: Plan, out: Path) -> dict[str, Any] | None:
    record, now = _stored(task, out), blank(task)
    same = record and all(record[name] == now[name] for name in ("versions", "commit"))  # older code may say otherwise
    whole = record and record["status"] == "done" and all((out / file).is_file() for file in record["files"].values())
    return record if same and whole else None


def _each(tasks: list[Plan], out: Path, workers: Workers | None, attempt: Callable[..., dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the record of every task as it ends."""
    if workers is None:
        yield from (attempt(task, out) for task in tasks)
        return
    for task, found in each(tasks, partial(attempt, out=out.resolve()), workers):
        yield _failure(task, out, found) if isinstance(found, Exception) else _here(task, out, found)


def _failure(task: Plan, out: Path, failure: Exception) -> dict[str, Any]:
    (out / f"{task.name}.part.ipynb").unlink(missing_ok=True)
    reason = "its worker process was killed; give it more memory or smaller parameters"
    if not isinstance(failure, BrokenExecutor) and type(failure).__name__ != "KilledWorker":  # Dask's name for the same
        reason = f"{type(failure).__name__} on its worker: {failure}"
    return {**blank(task), "status": "failed", "reason": reason}


def _here(task: Plan, out: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return the record if the files it names have come here: a cluster may have written them elsewhere."""
    if missing := [file for file in record["files"].values() if not (out / file).is_file()]:
        reason = f"{missing[0]} is not in {out}: the workers of a cluster must share this folder"
        return {**record, "status": "failed", "reason": reason, "files": {}}
    return record


def make(task: Plan, out: Path) -> dict[str, Any]:
    """Make one run and return its record, whatever happens."""
    try:
        return perform(task, out).record
    except OSError as failure:  # not even the record could be written
        return {**blank(task), "status": "failed", "reason": f"its files could not be written: {failure}"}
    except Exception as failure:  # of the program, not of the notebook: the other runs go on
        (out / f"{task.name}.part.ipynb").unlink(missing_ok=True)
        return {**blank(task), "status": "failed", "reason": f"{type(failure).__name__} while its files were made: {failure}"}
