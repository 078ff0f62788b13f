"""What is installed: pyproject.toml, constraints.txt, environment.yml and the Makefile say the same."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import spectralmc

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LINES = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
NAMED = {"jupyterlab", "ipywidgets", "anywidget", "matplotlib", "torch", "numpy", "cupy-cuda11x", "papermill", "nbval"}


def required(*extras: str) -> dict[str, Requirement]:
    """The direct requirements of the core and these extras by name."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def pins() -> dict[str, Version]:
    found = {}
    for line in LINES:
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "==", line
        found[canonicalize_name(requirement.name)] = Version(pin.version)
    return found


def test_the_extras_are_those_of_the_documentation() -> None:
    assert list(EXTRAS) == ["batch", "lab", "cluster", "test", "browser", "cuda11", "cuda13"]
    assert "jupyterlab" not in required("batch")
    assert len(PROJECT["dependencies"]) <= 4


@pytest.mark.parametrize("name", sorted(required("batch", "lab", "cluster", "test", "browser")))
def test_every_requirement_is_a_range_that_admits_its_pin(name: str) -> None:
    requirement = required("batch", "lab", "cluster", "test", "browser")[name]
    assert re.search(r">=", str(requirement.specifier)), requirement
    assert requirement.specifier.contains(pins()[name]), requirement


def test_the_constraints_are_exact_sorted_and_from_no_place() -> None:
    assert pins()["torch"] == Version("2.13.0")  # without a local part: any build of it
    names = [canonicalize_name(Requirement(line).name) for line in LINES]
    assert len(names) == len(set(names))
    assert not [line for line in LINES if re.search(r"://|@|\+|--", line)]


def test_everything_installed_here_is_pinned() -> None:
    """The transitive pins are complete: whatever the extras draw in is named."""
    waiting = [name for name, r in required("batch", "test").items() if not r.marker or r.marker.evaluate()]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        needed = (Requirement(line) for line in metadata.requires(name) or ())
        waiting += [canonicalize_name(r.name) for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    allowed = {name for name in seen if name.startswith(("nvidia-", "cuda-"))} | {"triton"}  # torch names these by exact version itself
    assert seen - allowed <= set(pins())


def test_conda_and_pip_agree_both_ways() -> None:
    assert set(ENVIRONMENT) == {"name", "channels", "dependencies"}
    assert (ENVIRONMENT["name"], ENVIRONMENT["channels"]) == ("spectralmc", ["conda-forge"])
    python, pip, inner = ENVIRONMENT["dependencies"]
    assert pip == "pip"
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    *lines, project = inner["pip"]
    theirs = {canonicalize_name(Requirement(line).name): Requirement(line).specifier for line in lines}
    ours = required(*EXTRAS)
    assert set(theirs) == NAMED
    assert {name: ours[name].specifier for name in NAMED} == theirs
    assert re.fullmatch(r"-e \.(\[batch\])?", project)


def test_the_versions_agree() -> None:
    assert PROJECT["version"] == spectralmc.__version__


def test_the_oldest_lane_is_within_the_ranges() -> None:
    floor = dict(re.findall(r"\b(torch|numpy)==([\d.]+)", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert set(floor) == {"torch", "numpy"}
    assert all(required()[name].specifier.contains(version) for name, version in floor.items())


def test_the_engine_is_found_by_papermill() -> None:
    import papermill.engines

    from spectralmc.engine import Engine

    assert papermill.engines.papermill_engines.get_engine("spectralmc") is Engine


def test_templates_are_installed_with_the_package() -> None:
    for name in (
        "style.css", "explorer.js", "explorer.css", "gallery.html.j2", "sweep.html.j2", "sweep.js", "page/index.html.j2", "page/conf.json"
    ):  # fmt: skip
        assert (Path(spectralmc.__file__).parent / "templates" / name).is_file()
