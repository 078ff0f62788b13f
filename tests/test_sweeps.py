"""Sweeps: what a file asks for, runs that fail alone, processes and a cluster, the page that compares them."""

from __future__ import annotations

import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from spectralmc import executors, pages, reports, sweeps
from spectralmc.records import load_records, read_record
from spectralmc.runner import InputError

Store = Callable[..., Path]
# the first attempt at one seed takes its worker with it, the kernel of another dies, a third fails
BAD = """\
import os, pathlib, signal, time
mark = pathlib.Path(f"killed-{seed}")
if seed == 2 and not mark.exists():
    mark.touch()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
if seed == 3:
    os.kill(os.getpid(), signal.SIGKILL)
assert seed != 4, "this seed does not work"
"""


@pytest.fixture
def file(tmp_path: Path, stored: Store) -> Callable[..., Path]:
    """A function that writes a sweep file beside a small notebook and returns its path."""

    def write(*cells: str, **entries: Any) -> Path:
        stored(*cells)
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({"notebook": "book.ipynb", **entries}, sort_keys=False))
        return path

    return write


# What a file asks for -----------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_the_last_name_fastest(file: Callable[..., Path]) -> None:
    planned = sweeps.read_sweep(file(grid={"seed": [1, 2], "volatility": [0.1, 0.25]}, parameters={"paths": 5}))
    assert [run.name for run in planned.runs] == [f"seed-{s}-volatility-0_{v}" for s in (1, 2) for v in ("1", "25")]
    assert [(run.parameters["seed"], run.parameters["volatility"], run.parameters["paths"]) for run in planned.runs][1] == (1, 0.25, 5)
    assert (planned.name, planned.swept) == ("study", ("seed", "volatility"))


def test_a_list_is_its_sets_and_what_a_set_leaves_out_keeps_its_default(file: Callable[..., Path]) -> None:
    planned = sweeps.read_sweep(file(list=[{"seed": 1, "paths": 9}, {"seed": 2}], name="two sets"))
    assert [run.parameters["paths"] for run in planned.runs] == [9, 3]
    assert (planned.name, planned.swept) == ("two sets", ("seed", "paths"))


def test_several_notebooks_take_the_same_sets(file: Callable[..., Path], stored: Store) -> None:
    stored(name="other")
    planned = sweeps.read_sweep(file(notebook=["book.ipynb", "other.ipynb"], grid={"seed": [1, 2]}))
    assert [run.name for run in planned.runs] == ["book-seed-1", "book-seed-2", "other-seed-1", "other-seed-2"]


def test_names_that_are_alike_or_long_are_told_apart(file: Callable[..., Path]) -> None:
    alike = sweeps.read_sweep(file(grid={"kind": ["a b", "a_b"]})).runs
    long = sweeps.read_sweep(file(grid={"kind": ["x" * 200, "y" * 200]})).runs
    assert len({run.name for run in alike}) == len({run.name for run in long}) == 2
    assert max(len(run.name) for run in long) < 100


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"grid": {"volatilty": [0.1]}}, "unknown parameter 'volatilty'; did you mean 'volatility'?"),
        ({"grid": {"volatility": [0.1, 3.0]}}, "parameter volatility must be in (0, 2]"),
        ({"grid": {"seed": [1, "x"]}}, "parameter seed must be int"),
        ({"grid": {}}, "grid must hold at least one 'name: [value, …]' line; got {}"),
        ({"grid": {"seed": []}}, "grid must give a list of at least one value for 'seed'; got []"),
        ({"grid": {"seed": 3}}, "grid must give a list of at least one value for 'seed'; got 3"),
        ({"list": []}, "list must hold at least one set {name: value}; got []"),
        ({"list": [{"seed": 1}, {}]}, "list must hold at least one set"),
        ({}, "a sweep must have either 'grid:' (every combination) or 'list:' (these sets)"),
        ({"grid": {"seed": [1]}, "list": [{"seed": 1}]}, "a sweep must have either 'grid:'"),
        ({"grid": {"seed": [1]}, "parameters": {"seed": 2}}, "parameter 'seed' is swept and given for all runs; give it once"),
        ({"grid": {"seed": [1]}, "parameters": [2]}, "parameters must be 'name: value' lines; got [2]"),
        ({"list": [{"seed": 1}, {"seed": 2}, {"seed": 1}]}, "runs 1 and 3 have the same notebook and parameters"),
        ({"grid": {"seed": [1]}, "notebook": []}, "a sweep must have 'notebook: FILE.ipynb', or a list of such files"),
        ({"grid": {"seed": [1]}, "notebook": "none.ipynb"}, "notebook none.ipynb does not exist"),
        ({"grid": {"seed": [1]}, "name": "two\nlines"}, "name of a sweep must be a line of text; got 'two\\nlines'"),
        ({"grid": {"seed": [1]}, "timeout": -1}, "timeout must be positive (seconds); got -1"),
        ({"grids": {"seed": [1]}}, "unknown entry 'grids'; a sweep has notebook, parameters, grid, list, timeout, name"),
    ],
)
def test_a_bad_file_is_refused_before_anything_is_made(
    file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: dict[str, Any], message: str
) -> None:
    path = file(**entries)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(message)):
        sweeps.sweep(path.name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_results_is_refused(file: Callable[..., Path], tmp_path: Path) -> None:
    path = file(grid={"seed": [1]})
    for name, content, owner in (("sweep.txt", "another\n", 'the sweep "another"'), ("index.html", "", "results that are not of a sweep")):
        folder = tmp_path / owner.split()[-1].strip('"')
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(InputError, match=f'holds {owner}; choose another folder for the sweep "study"'):
            sweeps.sweep(path, folder)
        assert [found.name for found in folder.iterdir()] == [name]


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_workers_that_are_none_are_refused(file: Callable[..., Path], tmp_path: Path, workers: Any) -> None:
    with pytest.raises(InputError, match=f"workers must be a whole number of at least 1; got {workers}"):
        sweeps.sweep(file(grid={"seed": [1]}), tmp_path / "out", workers=workers)
    with pytest.raises(InputError, match="give one of the two"):
        sweeps.sweep(file(grid={"seed": [1]}), tmp_path / "out", workers=workers, scheduler="tcp://127.0.0.1:1")


# Runs ---------------------------------------------------------------------------------------------------------------------------


def ended(records: list[dict[str, Any]]) -> dict[int, str]:
    return {record["parameters"]["seed"]: record["status"] for record in records}


def test_each_run_fails_alone_a_killed_worker_is_made_good_and_resume_makes_the_rest(file: Callable[..., Path], tmp_path: Path) -> None:
    path, out = file(BAD, grid={"seed": [1, 2, 3, 4, 5, 6]}), tmp_path / "out"
    records = sweeps.sweep(path, out, workers=2)
    assert ended(records) == {1: "done", 2: "done", 3: "failed", 4: "failed", 5: "done", 6: "done"}
    reasons = {record["parameters"]["seed"]: record["reason"] for record in records if record["reason"]}
    assert "the kernel process died" in reasons[3]
    assert "this seed does not work" in reasons[4]
    heard: list[str] = []
    (tmp_path / "book.ipynb").touch()
    before = {record["name"]: record["started"] for record in records}
    again = sweeps.sweep(path, out, True, workers=2, tell=lambda record: heard.append(record["name"]))
    assert {record["name"] for record in again if record["started"] == before[record["name"]] and record["status"] == "done"} == {
        f"seed-{seed}" for seed in (1, 2, 5, 6)
    }
    assert len(heard) == 6
    assert len(load_records(out)) == 6


def test_a_sweep_that_grew_makes_what_is_new(file: Callable[..., Path], tmp_path: Path) -> None:
    path = file(grid={"seed": [1, 3]})
    first = sweeps.sweep(path, tmp_path / "out", workers=1)
    path.write_text(path.read_text().replace("- 3", "- 2\n  - 3"))
    second = sweeps.sweep(path, tmp_path / "out", True, workers=2)
    assert [record["seed"] for record in second] == [1, 2, 3]
    assert [second[0], second[2]] == first


def test_numbers_and_threads_do_not_depend_on_the_number_of_workers(
    file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cells = (
        "import os\nthreads = int(os.environ['OMP_NUM_THREADS'])",
        "from spectralmc.verdicts import Verdicts\nVerdicts().record(threads=threads)",
    )
    path = file(*cells, grid={"seed": [1, 2]})
    one, two = (sweeps.sweep(path, tmp_path / str(n), workers=n) for n in (1, 2))
    assert [record["scalars"] for record in one] == [record["scalars"] for record in two]
    assert one[0]["scalars"]["threads"] == 1


def test_a_verdict_that_does_not_hold_is_a_result(file: Callable[..., Path], tmp_path: Path) -> None:
    (record,) = sweeps.sweep(file(grid={"paths": [1]}), tmp_path / "out", workers=1)
    assert (record["status"], [row["holds"] for row in record["verdicts"]]) == ("done", [False, True])


def test_files_that_stay_on_a_worker_fail_the_run(file: Callable[..., Path], tmp_path: Path) -> None:
    (task,) = sweeps.read_sweep(file(grid={"seed": [1]})).runs
    found = reports._here(task, tmp_path, {**reports.blank(task), "files": {"html": "seed-1.html"}})
    assert found["status"] == "failed"
    assert "seed-1.html is not in" in found["reason"]


# A cluster ----------------------------------------------------------------------------------------------------------------------


def test_a_dask_cluster_makes_the_same_runs_and_one_of_its_workers_may_be_killed(file: Callable[..., Path], tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    path = file(BAD.replace("if seed == 3", "if seed == 30"), grid={"seed": [1, 2, 3, 4]})
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster:
        records = sweeps.sweep(path, tmp_path / "out", scheduler=cluster.scheduler_address)
    assert ended(records) == {1: "done", 2: "done", 3: "done", 4: "failed"}
    assert (tmp_path / "killed-2").exists()
    assert read_record(tmp_path / "out" / "seed-2.json") == records[1]


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of a server that is no scheduler."""

    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def refused(address: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error, executors.cluster(address):
        pass
    assert "\n" not in str(error.value)


def test_a_scheduler_that_is_not_there_or_is_something_else_is_refused(stranger: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(executors, "_PATIENCE", 2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refused(f"tcp://127.0.0.1:{port}", f"no Dask scheduler answers at tcp://127.0.0.1:{port}: ")
    refused(f"tcp://127.0.0.1:{stranger}", f"no Dask scheduler answers at tcp://127.0.0.1:{stranger}: no answer within 2 s")
    refused("tls://localhost:8786", "no Dask scheduler answers at tls://localhost:8786: ")


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8786", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", "http://127.0.0.1:80", "tcp://a b:1", ""]
)
def test_an_address_of_another_form_is_refused(address: str) -> None:
    refused(address, f"a scheduler must be given as tcp://127.0.0.1:PORT or tls://HOST:PORT; got {address!r}")


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org", "[2001:db8::1]"])
def test_an_open_connection_to_another_machine_is_refused(host: str) -> None:
    refused(
        f"tcp://{host}:8786", f"a scheduler on another machine must be reached by TLS, whoever connects can run code: tls://{host}:8786"
    )


def test_a_cluster_without_dask_or_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=None, silence_logs=50) as empty:
        refused(empty.scheduler_address, f"the Dask scheduler at {empty.scheduler_address} has no workers: start some with 'dask worker")
    monkeypatch.setitem(sys.modules, "distributed", None)
    refused("tcp://127.0.0.1:8786", "a cluster needs Dask: in the clone, pip install -e '.[batch,cluster]'")


# The page -----------------------------------------------------------------------------------------------------------------------


def a_record(seed: int, **changes: Any) -> dict[str, Any]:
    made = {
        "name": f"seed-{seed}", "notebook": "book.ipynb", "title": "A & B", "status": "done", "reason": None, "parameters": {"seed": seed},
        "verdicts": [{"holds": True}, {"holds": False}], "scalars": {"error": 0.5 * seed}, "seconds": 1.0, "started": "2026", "files": {},
    }  # fmt: skip
    return {**made, **changes}


def test_the_page_has_a_row_a_run_and_a_column_a_parameter_and_scalar(tmp_path: Path) -> None:
    records = [a_record(1), a_record(2, status="failed", reason="it <broke>", scalars={}, verdicts=[]), a_record(10)]
    page = pages.comparison("a <study>", ("seed",), records, tmp_path)
    headings = re.findall(r"<button[^>]*>([^<]+)</button>", page)
    assert headings == ["run", "status", "seed", "seconds", "verdicts that hold", "error"]
    rows = re.findall(r"<tr data-run.*?</tr>", page)
    values = [re.findall(r'data-value="([^"]*)"', row) for row in rows]
    assert values == [
        ["0", "done", "1", "1.0", "1 of 2", "0.5"],
        ["1", "failed", "2", "1.0", "", ""],
        ["2", "done", "10", "1.0", "1 of 2", "5.0"],
    ]
    assert re.findall(r"--part: ([\d.]+)%", page) == ["10.0", "100.0"]  # of the error alone: one time is like the other
    assert "a &lt;study&gt;" in page
    assert "it &lt;broke&gt;" in page


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.6, 0.576, 12.0], ["0.600", "0.576", "12.000"]),
        ([0.5, 0.0], ["0.5", "0.0"]),
        ([1e-9, 0.5], ["1.0e-09", "0.5"]),  # one number of places would show nothing of one or too much of the other
        ([123.0, 0.00123], ["123", "0.00123"]),
        ([1, 20], ["1", "20"]),
        ([["a", "b"], None], ["a, b", ""]),
    ],
)
def test_the_points_of_a_column_are_aligned(tmp_path: Path, values: list[Any], texts: list[str]) -> None:
    page = pages.comparison("study", ("p",), [a_record(i, parameters={"p": value}) for i, value in enumerate(values)], tmp_path)
    cells = re.findall(r"<tr data-run.*?</td><td[^>]*>([^<]*)</td>", page)
    assert cells == texts


def test_a_figure_is_told_as_the_table_tells_it(tmp_path: Path) -> None:
    record = a_record(1, status="failed", reason="no", parameters={"kinds": ["a", "b"], "rate": 0.5})
    (caption,) = re.findall(r"<figcaption>([^<]*)<", pages.comparison("study", ("kinds", "rate"), [record], tmp_path))
    assert caption == "kinds a, b · rate 0.5"


def test_the_page_runs_its_own_script_and_no_other(tmp_path: Path) -> None:
    page = pages.comparison("study", ("seed",), [a_record(1)], tmp_path)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert re.search(r"default-src (&#39;|')none", policy)
    assert re.search(r"script-src (&#39;|')sha256-[A-Za-z0-9+/=]+(&#39;|')$", policy)
    assert page.count("<script") == 1


def test_figures_are_small_and_end_where_the_page_would_be_too_large(
    file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = "import matplotlib.pyplot as plt\nplt.plot([1, seed])\nplt.show()"
    records = sweeps.sweep(file(draw, grid={"seed": [1, 2, 3]}), tmp_path / "out", workers=2)
    whole = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    sizes = [len(picture) for picture in re.findall(r"base64,([^\"]+)\"", whole)]
    assert len(sizes) == 3
    monkeypatch.setattr(pages, "_FIGURES", sizes[0] + sizes[1])
    assert "the last 1 have no room on this page" in pages.comparison("study", ("seed",), records, tmp_path / "out")
    assert "base64," not in pages.comparison("study", ("seed",), records, tmp_path / "out", figures=False)
