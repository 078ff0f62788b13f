"""The form of stored notebooks: refreshed from one clean run, and checked.

nbval passes a notebook without stored outputs in silence; these rules are what makes its comparison mean something.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from spectralmc.pages import keep_pictures
from spectralmc.runner import InputError, executed_notebook, parameters_of, read_notebook, run, write

LARGEST = 200_000  # bytes of a stored notebook
LONGEST = 8  # lines of a code cell
DEFINITIONS = 2
SECTIONS = ("What could be wrong", "References")
_PLACE = re.compile(r"(?:/(?:home|Users|root|tmp)/|site-packages/|[A-Z]:\\\\?Users)[^\s'\"<]*")


def update(path: Path | str, timeout: float | None = 600.0) -> list[str]:
    """Run a notebook from a clean start on its defaults and store its outputs, without timings or machine names.

    Returns what was wrong, as ``problems`` does, and then leaves the file as it was: the run failed, or its result breaks a rule.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(prefix="smc") as folder:
        record = run(path, out=folder, timeout=timeout, name="notebook").record
        if record["status"] != "done":
            return [f"{path.name}: {record['reason']}"]
        notebook = _normal(executed_notebook(Path(folder) / "notebook.ipynb"))
    text = nbformat.writes(notebook, version=4) + "\n"
    found = _problems(path.name, notebook, len(text.encode()))
    if not found:
        write(path, text)
    return found


def _normal(notebook: Any) -> Any:
    """Return a notebook with its sources, tags and outputs, and nothing that changes from run to run."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
        }
    )
    notebook.nbformat_minor = 5
    keep_pictures(notebook)
    seen: set[str] = set()
    count = 0
    for number, cell in enumerate(notebook.cells, 1):
        cell.metadata = nbformat.from_dict({"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {})
        cell.id = f"cell-{number:02d}" if cell.get("id", "") in seen or not cell.get("id") else cell.id
        seen.add(cell.id)
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        cell.outputs = _joined(cell.outputs)
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
    return notebook


def _joined(outputs: list[Any]) -> list[Any]:
    """Return outputs with neighbouring pieces of one stream as one: how a stream is cut depends on the clock."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == "stream" == joined[-1].output_type and output.name == joined[-1].name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def problems(path: Path | str) -> list[str]:
    """Return one line for every rule of a stored notebook that this file breaks: the file, the cell, the rule."""
    path = Path(path)
    notebook = read_notebook(path)
    told = [f"{path.name}: {problem}" for problem in _untold(notebook)]
    return _problems(path.name, notebook, path.stat().st_size) + told


def _problems(name: str, notebook: Any, size: int) -> list[str]:
    found = []
    try:
        parameters_of(notebook)
    except InputError as error:
        found.append(str(error))
    if size >= LARGEST:
        found.append(f"a stored notebook must be smaller than {LARGEST // 1000} kB; got {size // 1000}: fewer or smaller figures")
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    if not prose or not prose[0].source.startswith("# "):
        found.append("the first text cell must begin with its subject, '# …'")
    code = [(number, cell) for number, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code"]
    if not any("nbval-check-output" in cell.metadata.get("tags", []) for _, cell in code):
        found.append("at least one cell must be tagged 'nbval-check-output'")
    counts = [cell.execution_count for _, cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"execution counts must be 1 to {len(code)}, as one clean run leaves them; got {counts}: run notebooks --update")
    for number, cell in code:
        found += [f"cell {number}: {problem}" for problem in _cell_problems(cell)]
    return [f"{name}: {problem}" for problem in found]


def _untold(notebook: Any) -> Iterator[str]:
    """Yield what a reader would miss: what a figure shows, what could be wrong, where it is from."""
    headings = {line.lstrip("# ").lower() for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()}
    yield from (f"a notebook must have a section '## {name}'" for name in SECTIONS if name.lower() not in headings)
    definitions = sum(len(re.findall(r"^(?:def|class) ", cell.source, re.M)) for cell in notebook.cells if cell.cell_type == "code")
    if definitions > DEFINITIONS:
        yield f"at most {DEFINITIONS} definitions; got {definitions}: the library works, notebooks speak"
    for number, (cell, following) in enumerate(zip(notebook.cells, [*notebook.cells[1:], None], strict=True), 1):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            said = following.source if following is not None and following.cell_type == "markdown" else ""
            if not re.search(r"\d", said.split("\n\n")[0]):
                yield f"cell {number}: a figure must be followed by text that says what to see, with a number"


def _cell_problems(cell: Any) -> Iterator[str]:
    tags, outputs = cell.metadata.get("tags", []), cell.outputs
    lines = sum(bool(line.strip()) for line in cell.source.splitlines())
    if lines > LONGEST and "parameters" not in tags:
        yield f"a code cell must have at most {LONGEST} lines; got {lines}"
    if "nbval-check-output" in tags and not outputs:
        yield "a checked cell must have its output stored: run notebooks --update"
    if any(output.output_type == "error" for output in outputs):
        yield "an error must not be stored"
    if warnings := [output.text for output in outputs if output.get("name") == "stderr"]:
        yield f"nothing may be written to the error stream; got {warnings[0].strip().splitlines()[-1]!r}"
    if match := _PLACE.search("".join(_texts(outputs))):
        yield f"an output must not name a place of one machine; got {match[0]!r}"


def _texts(outputs: list[Any]) -> Iterator[str]:
    for output in outputs:
        yield str(output.get("text", ""))
        yield from (str(value) for mime, value in output.get("data", {}).items() if not mime.startswith("image/"))
