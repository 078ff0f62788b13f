"""Notebooks as programs: parameters checked at the door, a run whose end is known.

A notebook has one cell tagged ``parameters``, constants only, one a line::

    volatility: float = 0.2  # volatility, per square root of a year, in (0, 2]

The type is int, float, str, bool or a list of these; the comment says what it means and, if it ends in an interval such as
``in (0, 2]`` or ``in [16, inf)``, every number given for it must lie there. A run writes NAME.ipynb, NAME.html and the record
NAME.json into one folder; what failed is called NAME.failed.ipynb and NAME.failed.html, so that it is never taken for a result.
"""

from __future__ import annotations

import ast
import copy
import difflib
import hashlib
import io
import json
import math
import os
import platform
import re
import signal
import subprocess
import threading
import time
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from spectralmc import __version__, pages
from spectralmc.engine import NAME as ENGINE
from spectralmc.records import SCHEMA
from spectralmc.terminal import InputError as InputError
from spectralmc.terminal import NotFoundError as NotFoundError
from spectralmc.verdicts import MIME
from spectralmc.verdicts import SCHEMA as PAYLOAD

_ENDINGS = ("ipynb", "html", "json", "failed.ipynb", "failed.html", "part.ipynb")
_KINDS: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}
_INTERVAL = re.compile(r",?\s*\bin\s*([\[(])\s*([-+.\w]+)\s*,\s*([-+.\w]+)\s*([\])])\s*$")
_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")  # 1e-3 is text to YAML 1.1, a number to everybody else
_NAME = re.compile(r"(?!index$)[A-Za-z0-9][A-Za-z0-9_-]*")  # no dot: NAME.failed.html must be of no other run


# Parameters ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell."""

    name: str
    type: str
    default: Any
    meaning: str
    interval: str = ""

    def accept(self, value: Any) -> Any:
        """Return ``value`` in the declared type, or refuse it (``InputError``)."""
        value = value.tolist() if hasattr(value, "tolist") else value  # NumPy's and torch's numbers and arrays
        if self.type.startswith("list"):
            if not isinstance(value, list | tuple):
                raise self._refusal(value)
            inner = self.type[5:-1]
            return [self._one(entry, inner) if inner else entry for entry in value]
        return self._one(value, self.type)

    def _one(self, value: Any, kind: str) -> Any:
        if kind == "float" and isinstance(value, str) and _EXPONENT.fullmatch(value):
            value = float(value)
        if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "bool"):
            raise self._refusal(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"parameter {self.name} must be finite; got {value}")
        if self.interval and not inside(value, self.interval):
            raise InputError(f"parameter {self.name} must be in {self.interval} ({self.meaning}); got {value!r}")
        return value

    def _refusal(self, value: Any) -> InputError:
        return InputError(f"parameter {self.name} must be {self.type} ({self.meaning}); got {value!r}, a {type(value).__name__}")


def inside(value: Any, interval: str) -> bool:
    """Whether a number lies in an interval written as ``(0, 2]``; "inf" stands for no bound."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value > low if interval[0] == "(" else value >= low
    return bool(above and (value < high if interval[-1] == ")" else value <= high))


def read_notebook(path: Path | str) -> Any:
    """Return a notebook as nbformat 4, or refuse the file (``InputError``)."""
    try:
        return nbformat.reads(Path(path).read_text(encoding="utf-8"), as_version=4)
    except FileNotFoundError:
        raise NotFoundError(f"notebook {path} does not exist") from None
    except OSError as error:
        raise InputError(f"notebook {path} cannot be read: {error.strerror}") from None
    except Exception:
        raise InputError(f"notebook {path} is not a Jupyter notebook") from None


def parameters_of(notebook: Any) -> dict[str, Parameter]:
    """Return the parameters that a notebook (a path or what ``read_notebook`` returned) declares, without running it."""
    notebook = read_notebook(notebook) if isinstance(notebook, str | Path) else notebook
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InputError(f"a notebook must have exactly one cell tagged 'parameters'; got {len(cells)}")
    try:
        statements = ast.parse(cells[0].source).body
        comments = _comments(cells[0].source)
    except (SyntaxError, tokenize.TokenError):
        raise InputError("the parameters cell must be valid Python") from None
    found = [_declared(statement, comments.get(statement.end_lineno or 0, "")) for statement in statements]
    if twice := [name for name in (p.name for p in found) if sum(p.name == name for p in found) > 1]:
        raise InputError(f"parameter {twice[0]} must be declared once")
    return {parameter.name: parameter for parameter in found}


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ").strip() for token in tokens if token.type == tokenize.COMMENT}


def _declared(statement: ast.stmt, comment: str) -> Parameter:
    form = "name: type = constant  # meaning, unit"
    if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name) or statement.value is None:
        raise InputError(f"a line of the parameters cell must read '{form}'; got {ast.unparse(statement)!r}")
    name, kind = statement.target.id, ast.unparse(statement.annotation)
    if kind not in {*_KINDS, "list", *(f"list[{inner}]" for inner in _KINDS)}:
        raise InputError(f"parameter {name} must be of type {', '.join(_KINDS)} or list[…]; got {kind}")
    match = _INTERVAL.search(comment)
    interval = f"{match[1]}{match[2]}, {match[3]}{match[4]}" if match else ""
    meaning = comment[: match.start()] if match else comment
    if not meaning:
        raise InputError(f"parameter {name} must have a comment with its meaning and unit: '{form}'")
    try:
        inside(0.0, interval or "[0, 0]")
        value = ast.literal_eval(statement.value)
    except ValueError:
        raise InputError(f"parameter {name} must have a constant and, if any, an interval of numbers: '{form}, in [0, 1]'") from None
    parameter = Parameter(name, kind, value, meaning, interval)
    parameter.accept(value)
    return parameter


def check_parameters(notebook: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` in their declared types, or refuse the first that is unknown, of another type or out of its interval."""
    known = parameters_of(notebook)
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"unknown parameter {name!r}{hint} (the notebook takes {', '.join(known) or 'none'})")
    return {name: known[name].accept(value) for name, value in values.items()}


def read_values(notebook: Path | str, pairs: list[str]) -> dict[str, Any]:
    """Return parameters written as ``name=value``: text where the notebook wants text, YAML otherwise."""
    known, values = parameters_of(notebook), dict[str, Any]()
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputError(f"a parameter must be given as name=value; got {pair!r}")
        try:
            values[name] = text if name in known and known[name].type == "str" else yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):  # YAML takes 2024-13-45 for a date
            raise InputError(f"parameter {name} must be a number, a word or a list like [1, 2]; got {text!r}") from None
    return values


# Runs ---------------------------------------------------------------------------------------------------------------------------


@contextmanager
def terminable() -> Iterator[list[int]]:
    """Let a request to terminate end a run as Ctrl-C does, and Ctrl-C too where a shell has made us deaf to it.

    The list holds the signals that came: a cell may raise ``KeyboardInterrupt`` by itself.
    """
    came: list[int] = []

    def interrupt(number: int, _: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield came  # only the main thread may handle signals
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Result:
    """One finished run: its record, and the folder that holds its files."""

    record: dict[str, Any]
    folder: Path

    @property
    def done(self) -> bool:
        """Whether it ran to its end and every verdict holds."""
        return bool(self.record["status"] == "done")


@dataclass(frozen=True)
class Plan:
    """A run to be made; made by ``plan``, which checks everything a run needs."""

    name: str
    path: Path
    notebook: Any
    given: dict[str, Any]
    parameters: dict[str, Any]
    timeout: float | None
    inputs: str
    strict: bool = True  # a verdict that does not hold fails the run


def plan(notebook: Path | str, parameters: dict[str, Any] | None = None, timeout: Any = None, name: Any = None) -> Plan:
    """Return the plan of a run, or refuse it (``InputError``) before anything starts."""
    path = Path(notebook)
    node = read_notebook(path)
    given = check_parameters(node, parameters or {})
    full = {**{known.name: known.accept(known.default) for known in parameters_of(node).values()}, **given}
    name = path.stem if name is None else name
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"name of a run must be of letters, digits, '_' and '-', and not 'index'; got {name!r}")
    usable = isinstance(timeout, int | float) and not isinstance(timeout, bool) and 0 < timeout < math.inf
    if timeout is not None and not usable:
        raise InputError(f"timeout must be positive (seconds); got {timeout!r}")
    inputs = hashlib.sha256(path.read_bytes() + json.dumps(full, sort_keys=True).encode()).hexdigest()
    return Plan(name, path, node, given, full, timeout, inputs)


def run(
    notebook: Path | str,
    parameters: dict[str, Any] | None = None,
    out: Path | str = "runs",
    *,
    timeout: float | None = None,
    name: str | None = None,
) -> Result:
    """Run a notebook with ``parameters`` and leave NAME.ipynb, NAME.html and NAME.json in ``out``.

    ``timeout`` is the time of the whole run in seconds. A cell that fails, a dead kernel, a timeout, an interruption or a verdict
    that does not hold make a failed run, whose notebook and page are kept as NAME.failed.*. Raises ``InputError`` before anything
    is run, and ``KeyboardInterrupt`` after an interrupted run is written down.
    """
    return perform(plan(notebook, parameters, timeout, name), Path(out))


def spare(task: Plan, out: Path) -> None:
    """Refuse (``InputError``) a folder where a run would write over its own notebook."""
    if any((out / f"{task.name}.{ending}").resolve() == task.path.resolve() for ending in _ENDINGS):
        raise InputError(f"folder {out} holds the notebook {task.path.name} itself; choose another folder for the results")


def perform(task: Plan, out: Path) -> Result:
    """Make a planned run, leave its files in ``out``, and return its result."""
    spare(task, out)
    make_folder(out)
    part = out / f"{task.name}.part.ipynb"
    for ending in _ENDINGS:
        (out / f"{task.name}.{ending}").unlink(missing_ok=True)  # nothing older may be taken for this run's
    record = blank(task)
    record["started"] = datetime.now(UTC).isoformat(timespec="seconds")
    clock = time.monotonic()
    error = None
    with terminable() as interrupted:
        try:
            papermill.execute_notebook(
                copy.deepcopy(task.notebook),
                str(part.resolve()),
                task.given,
                engine_name=ENGINE,
                kernel_name="python3",
                language="python",
                cwd=str(task.path.parent.resolve()),
                progress_bar=False,
                execution_timeout=task.timeout,
            )
        except PapermillExecutionError:
            pass  # it is in the notebook, with its cell
        except (OSError, RuntimeError, DeadKernelError, CellTimeoutError, KeyboardInterrupt) as failure:
            error = {"cell": None, "ename": type(failure).__name__, "evalue": str(failure) or "interrupted before the first cell"}
        record["seconds"] = round(time.monotonic() - clock, 3)
        executed = executed_notebook(part)
        record |= _found_in(executed)
        record["error"] = record["error"] or error
        record |= _judged(record, task.strict)
        _keep(record, executed, part, task.path.parent)
    if interrupted:
        raise KeyboardInterrupt
    return Result(record, out)


def make_folder(folder: Path) -> None:
    """Make a folder, or refuse it (``InputError``)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be made: {error.strerror}") from None


def blank(task: Plan) -> dict[str, Any]:
    """Return the record of a run that has not begun; its status is "waiting"."""
    return {
        "schema": SCHEMA,
        "name": task.name,
        "notebook": task.path.name,
        "title": pages.title_of(task.notebook, task.name),
        "status": "waiting",
        "reason": None,
        "error": None,
        "parameters": task.parameters,
        "verdicts": [],
        "scalars": {},
        "seconds": 0.0,
        "started": None,
        "versions": _versions(),
        "commit": _commit(task.path.parent),
        "seed": task.parameters.get("seed"),
        "device": "cpu",
        "inputs": task.inputs,
        "files": {},
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"spectralmc": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy"):
        found[name] = None
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _commit(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude", "*", "--abbrev=12"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    return None


def executed_notebook(part: Path) -> Any:
    """Return what was run, or an empty notebook where it was cut off."""
    try:
        return nbformat.read(part, as_version=4)
    except Exception:  # not there, or cut off: the disk was full
        return nbformat.v4.new_notebook()


def _found_in(notebook: Any) -> dict[str, Any]:
    """Return what an executed notebook says of itself: the first error, verdicts, scalars, device."""
    own = [cell for cell in notebook.cells if not {"injected-parameters", "papermill-error-cell-tag"} & set(cell.metadata.get("tags", []))]
    outputs = [(number, output) for number, cell in enumerate(own, 1) for output in cell.get("outputs", [])]
    errors = [(number, output) for number, output in outputs if output.output_type == "error"]
    payloads = [output.data[MIME] for _, output in outputs if MIME in output.get("data", {})]
    payloads = [payload for payload in payloads if isinstance(payload, dict) and payload.get("schema") == PAYLOAD]  # ours, not alike
    found: dict[str, Any] = {"error": None, "verdicts": {}, "scalars": {}, "device": "cpu"}
    for number, output in errors[:1]:
        found["error"] = {"cell": number, "ename": output.ename, "evalue": output.evalue}
    for payload in payloads:
        found["verdicts"] |= {row["claim"]: dict(row) for row in payload["verdicts"]}
        found["scalars"] |= payload["scalars"]
        found["device"] = payload["device"]
    return {**found, "verdicts": list(found["verdicts"].values())}


def _judged(record: dict[str, Any], strict: bool) -> dict[str, Any]:
    """Return status and reason: a claim that does not hold is a failed check, unless the run is to find out where it holds."""
    error, broken = record["error"], [row["claim"] for row in record["verdicts"] if not row["holds"]]
    reason = f"{len(broken)} of {len(record['verdicts'])} claims do not hold: {'; '.join(broken)}" if broken and strict else None
    if error:
        place = f"Cell {error['cell']}: " if error["cell"] else ""
        reason = f"{place}{error['ename']}: {error['evalue']}".strip().removesuffix(":")
    return {"status": "failed" if reason else "done", "reason": reason}


def _keep(record: dict[str, Any], executed: Any, part: Path, folder: Path) -> None:
    """Give the files of a run their names, the record last: where there is a record, the rest is whole."""
    name, out = record["name"], part.parent
    mark = "" if record["status"] == "done" else ".failed"
    files = {"ipynb": f"{name}{mark}.ipynb", "html": f"{name}{mark}.html"}
    try:
        if not executed.cells:
            raise OSError("no notebook was written")
        about = executed.metadata.get("papermill", {})
        about |= {"input_path": record["notebook"], "output_path": files["ipynb"]}  # not where they lay on this machine
        write(out / files["html"], pages.page(executed, record, folder))
        write(out / files["ipynb"], nbformat.writes(executed) + "\n")
        part.unlink(missing_ok=True)
        record["files"] = files
    except OSError as failure:
        for path in (out / files["html"], out / files["ipynb"], part):
            path.unlink(missing_ok=True)  # on a full disk this makes room for the record
        ran = record["status"] == "done"
        record |= {"status": "failed", "reason": f"its files could not be written: {failure}"} if ran else {}
    write(out / f"{name}.json", json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds, or refuse the file (``InputError``)."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"file {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if found is not None and (not isinstance(found, dict) or not all(isinstance(key, str) for key in found)):
        raise InputError(f"file {path} must hold 'name: value' lines; got a {type(found).__name__}")
    return found or {}
