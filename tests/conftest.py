"""Small notebooks for the tests of the runner, the pages and the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

PARAMETERS = """\
volatility: float = 0.2  # volatility, per square root of a year, in (0, 2]
paths: int = 3  # paths of the sample, in [1, inf)
kind: str = "put"  # kind of option
strikes: list[float] = [0.9, 1.1]  # strikes over the forward, in (0, 10)
seed: int = 7  # seed of every draw"""
VERDICTS = """\
from spectralmc.verdicts import Verdicts
table = Verdicts()
table.claim("paths are enough", measured=paths, at_least=2)
table.claim("parity & <order>", measured=3e-16, bound=1e-12, unit="of forward")
table"""
RECORD = "table.record(volatility=volatility, bad=float('nan'))"


def notebook(*cells: str, parameters: str | None = PARAMETERS, verdicts: bool = True) -> Any:
    """Return a notebook: text cells begin with '#', code cells do not; a parameters cell and verdicts unless told otherwise."""
    v4 = nbformat.v4
    made = [v4.new_markdown_cell("# A *subject* & $x^2$\n\nThe law $\\varphi(u)$ and\n\n$$\\int_0^1 x\\,dx$$")]
    if parameters is not None:
        made.append(v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    made += [v4.new_markdown_cell(cell) if cell.startswith("#") else v4.new_code_cell(cell) for cell in cells]
    if verdicts:
        made += [v4.new_code_cell(VERDICTS, metadata={"tags": ["nbval-check-output"]}), v4.new_code_cell(RECORD)]
    return v4.new_notebook(cells=[*made, v4.new_markdown_cell("## What could be wrong\n\nThis.\n\n## References\n\n1. That.")])


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Path]:
    """A function that stores a notebook of these cells and returns its path."""

    def store(*cells: str, name: str = "book", **options: Any) -> Path:
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(notebook(*cells, **options), path)
        return path

    return store
