"""Every example in a docstring runs and shows what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import spectralmc

MODULES = sorted(m.name for m in pkgutil.walk_packages(spectralmc.__path__, "spectralmc.") if not m.name.endswith("__main__"))
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def module(name: str) -> ModuleType:
    """Import a module, or skip the test where an optional library it works with is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("spectralmc"):
            raise
        pytest.skip(f"{name} needs {error.name}")


@pytest.mark.parametrize("name", ["spectralmc", *MODULES])
def test_the_examples_of_a_module_hold(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an example may write a file
    assert doctest.testmod(module(name), optionflags=FLAGS).failed == 0


@pytest.mark.parametrize("name", ["spectralmc", "spectralmc.draws", "spectralmc.paths", "spectralmc.spectrum", "spectralmc.training"])
def test_examples_are_found(name: str) -> None:
    assert any(test.examples for test in doctest.DocTestFinder().find(module(name)))
