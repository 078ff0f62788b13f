"""The architecture, held: who may import whom, what loads when, and that the project speaks of itself alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import spectralmc

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "spectralmc"

# A module imports only modules that stand before it.
# fmt: off
ORDER = (
    "validation", "device", "draws", "parameters", "processes", "functionals", "stepping", "compiled", "cuda", "fused", "paths", "spectrum",
    "black", "montecarlo", "distribution", "pricing", "nn", "problem", "labels", "bars", "replay", "evaluation", "surrogate", "calibration",
    "ring", "readout", "optimizer", "checkpoint", "interrupts", "graphs", "training", "market", "store", "book", "records", "verdicts",
    "figures", "live", "explorer", "pages", "terminal", "engine", "runner", "executors", "reports", "sweeps", "stored", "commands", "cli",
)
# fmt: on
BLIND = ("spectrum", "distribution", "pricing", "black")  # they consume φ and never ask where it comes from
UNSEEN = {"nn", "processes", "training", "surrogate", "draws"}
BATCH = {"papermill", "nbformat", "nbconvert", "nbclient", "IPython", "yaml"}
OPTIONAL = BATCH | {"cupy", "matplotlib", "ipywidgets", "anywidget", "PIL", "distributed"}
AT_THE_TOP = {
    **dict.fromkeys(("runner", "engine", "reports", "stored"), BATCH),
    "figures": {"matplotlib", "PIL"},
    "explorer": {"anywidget"},
    "pages": BATCH | {"PIL"},
}

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path.parent != PACKAGE or not path.stem.startswith("__")]


def place(path: Path) -> str:
    """The name in ORDER of a file: its own, or its folder's."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, top_level: bool = False) -> Iterator[str]:
    """Yield the full dotted names a file imports, all of them or only those that run when it is imported."""
    package = ("spectralmc", *path.relative_to(PACKAGE).parent.parts)
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if top_level and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_types(node)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)
        waiting.extend(ast.iter_child_nodes(node))


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def neighbours(path: Path) -> set[str]:
    """The modules of the package that a file imports, as names in ORDER."""
    dotted = (name.split(".") for name in imports(path) if name.split(".")[0] == "spectralmc")
    return {parts[1] for parts in dotted if len(parts) > 1 and parts[1] != "__version__"}


def test_every_module_has_its_place() -> None:
    assert {place(path) for path in MODULES} <= set(ORDER)
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_modules_before_it(path: Path) -> None:
    allowed = {*ORDER[: ORDER.index(place(path))], *([place(path)] if path.parent != PACKAGE else [])}
    assert neighbours(path) <= allowed


def test_what_consumes_a_characteristic_function_does_not_know_where_it_comes_from() -> None:
    for path in MODULES:
        if place(path) in BLIND:
            assert not neighbours(path) & UNSEEN, path.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_optional_libraries_load_only_where_they_are_used(path: Path) -> None:
    found = {name.split(".")[0] for name in imports(path, top_level=True)}
    assert not found & OPTIONAL - AT_THE_TOP.get(place(path), set())


def test_the_reader_of_imports_sees_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "nn").mkdir()
    file = tmp_path / "nn" / "layers.py"
    file.write_text(
        "import spectralmc.draws as d\nfrom spectralmc import black\nfrom .. import cuda\nfrom .norm import x\n"
        "def f():\n    from spectralmc.market import g\n    import cupy\n"
        "if TYPE_CHECKING:\n    import yaml\ntry:\n    import IPython.display\nexcept ImportError:\n    pass\n",
        encoding="utf-8",
    )
    assert neighbours(file) == {"draws", "black", "cuda", "nn", "market"}
    assert {name.split(".")[0] for name in imports(file, top_level=True)} & OPTIONAL == {"IPython"}


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, spectralmc, spectralmc.cli; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (found.stdout.strip(), found.stderr) == ("False", "")


@pytest.mark.parametrize("name", spectralmc.__all__)
def test_every_public_name_resolves_is_documented_and_typed(name: str) -> None:
    value = getattr(spectralmc, name)
    assert name in dir(spectralmc)
    assert name == "__version__" or (value.__doc__ or "").strip()
    assert name in stub()


def test_the_stub_names_the_same_homes_and_nothing_more() -> None:
    homes = {name: f"spectralmc.{module}" for name, module in spectralmc._HOME.items()}
    assert {name: home for name, home in stub().items() if home} == homes
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = spectralmc.nonsense


def stub() -> dict[str, str]:
    """The names of the stub and the module each is imported from ("" for those it declares itself)."""
    found: dict[str, str] = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname: str(node.module) for alias in node.names if alias.asname == alias.name}
        if isinstance(node, ast.AnnAssign):
            found[ast.unparse(node.target)] = ""
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path.name} needs a docstring"


def forbidden() -> re.Pattern[str]:
    """Places of one machine, package hosts and unfinished work; written in pieces so that this file passes itself."""
    homes = (place for place in (ROOT, Path.home()) if len(place.parts) > 1 and str(place) != "/root")  # every container has that one
    places = [rf"(?<![\w./-]){re.escape(str(place))}(?![\w-])" for place in homes]
    hosts = [rf"\b{name}\.(?:org|com|io)\b" for name in ("pypi", "pythonhosted", r"download\.pytorch", "npmjs", "anaconda")]
    return re.compile("|".join([*places, *hosts, r"\.\./sha" + r"red\b", r"\bTO" + r"DO\b", r"\bFIX" + r"ME\b"]))


def test_no_file_names_a_machine_a_package_host_or_unfinished_work() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: git lists the files of the project")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    found = []
    for name in filter(None, names):
        text = (ROOT / name).read_bytes().decode(errors="ignore") if (ROOT / name).is_file() else ""
        found += [f"{name}: {match[0]}" for match in forbidden().finditer(text)]
    assert not found
    assert all(forbidden().search(bad) for bad in (f"see {ROOT}/x", "https://pypi" + ".org/simple", "# TO" + "DO: x"))
