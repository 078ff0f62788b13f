"""The notebooks of the project keep the form that readers and the comparison of outputs rely on."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectralmc import reports, stored

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_stored_notebook_keeps_the_rules(path: Path) -> None:
    assert stored.problems(path) == []


def test_every_notebook_is_in_the_report_and_every_run_can_start() -> None:
    assert {task.path.name for task in reports.plans(NOTEBOOKS / "runs")} == {path.name for path in NOTEBOOKS.glob("*.ipynb")}
