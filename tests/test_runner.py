"""Runs of notebooks: parameters at the door, every way a run can end, the report and its pages, stored outputs."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import papermill
import pytest
import torch
from conftest import VERDICTS, notebook
from jupyter_client.kernelspec import KernelSpec

from spectralmc import pages, reports, runner
from spectralmc import stored as storage
from spectralmc.runner import InputError, check_parameters, parameters_of

Store = Callable[..., Path]
ENVIRONMENT = """\
import os, sys, matplotlib, tqdm
found = dict(bar=os.environ["TQDM_DISABLE"], backend=matplotlib.get_backend(), python=sys.executable, where=os.getcwd())"""
FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
KILL = "import os, signal, time\nprint('before', flush=True)\ntime.sleep(0.3)\nos.kill(os.getpid(), signal.SIGKILL)"
SLEEP = "import time\nprint('before', flush=True)\ntime.sleep(60)"


# Parameters ---------------------------------------------------------------------------------------------------------------------


def test_parameters_are_read_with_type_meaning_and_interval() -> None:
    known = parameters_of(notebook())
    assert list(known) == ["volatility", "paths", "kind", "strikes", "seed"]
    first = known["volatility"]
    assert (first.type, first.default, first.interval) == ("float", 0.2, "(0, 2]")
    assert first.meaning == "volatility, per square root of a year"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"volatility": 1}, 1.0),
        ({"volatility": "1e-3"}, 1e-3),  # YAML 1.1 takes it for text
        ({"volatility": np.float32(0.5)}, 0.5),
        ({"volatility": torch.tensor(2.0)}, 2.0),
        ({"paths": np.int64(9)}, 9),
        ({"strikes": np.array([1, 2])}, [1.0, 2.0]),
        ({"strikes": (1,)}, [1.0]),
        ({"kind": "call"}, "call"),
    ],
)
def test_values_are_taken_in_the_declared_type(given: dict[str, Any], taken: Any) -> None:
    (value,) = check_parameters(notebook(), given).values()
    assert value == taken
    assert type(value) is type(taken)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"volatilty": 1}, "unknown parameter 'volatilty'; did you mean 'volatility'? (the notebook takes volatility, paths, kind,"),
        ({"x": 1}, "unknown parameter 'x' (the notebook takes"),
        ({"paths": 3.5}, "parameter paths must be int (paths of the sample); got 3.5, a float"),
        ({"paths": True}, "parameter paths must be int (paths of the sample); got True, a bool"),
        ({"paths": 0}, "parameter paths must be in [1, inf) (paths of the sample); got 0"),
        ({"volatility": "high"}, "parameter volatility must be float (volatility, per square root of a year); got 'high', a str"),
        ({"volatility": None}, "parameter volatility must be float (volatility, per square root of a year); got None, a NoneType"),
        ({"volatility": 0}, "parameter volatility must be in (0, 2] (volatility, per square root of a year); got 0.0"),
        ({"volatility": float("nan")}, "parameter volatility must be finite; got nan"),
        ({"volatility": float("-inf")}, "parameter volatility must be finite; got -inf"),
        ({"kind": 1}, "parameter kind must be str (kind of option); got 1, a int"),
        ({"strikes": 1.0}, "parameter strikes must be list[float] (strikes over the forward); got 1.0, a float"),
        ({"strikes": [1.0, 10.0]}, "parameter strikes must be in (0, 10) (strikes over the forward); got 10.0"),
    ],
)
def test_other_values_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        check_parameters(notebook(), given)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "a notebook must have exactly one cell tagged 'parameters'; got 0"),
        ("x = 1  # meaning", "must read 'name: type = constant  # meaning, unit'; got 'x = 1'"),
        ("import os", "must read 'name: type = constant  # meaning, unit'; got 'import os'"),
        ("x: int = 1", "parameter x must have a comment with its meaning and unit"),
        ("x: int = 1  # in [0, 1]", "parameter x must have a comment with its meaning and unit"),
        ("x: complex = 1  # meaning", "parameter x must be of type int, float, str, bool or list[…]; got complex"),
        ("x: int = 1 + n  # meaning", "parameter x must have a constant"),
        ("x: int = 1  # meaning, in [low, high]", "parameter x must have a constant and, if any, an interval of numbers"),
        ("x: int = 1.5  # meaning", "parameter x must be int (meaning); got 1.5, a float"),
        ("x: int = 5  # meaning, in [0, 1]", "parameter x must be in [0, 1] (meaning); got 5"),
        ("x: int = 1  # meaning\nx: int = 2  # meaning", "parameter x must be declared once"),
        ("x: int =", "the parameters cell must be valid Python"),
    ],
)
def test_a_parameters_cell_of_another_form_is_refused(source: str | None, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        parameters_of(notebook(parameters=source))


def test_two_parameters_cells_are_refused() -> None:
    book = notebook()
    book.cells.append(book.cells[1])
    with pytest.raises(InputError, match="exactly one cell tagged 'parameters'; got 2"):
        parameters_of(book)


def test_the_parameters_cell_is_not_executed() -> None:
    with pytest.raises(InputError, match="must have a constant"):
        parameters_of(notebook(parameters="x: int = exit()  # meaning"))


# How a run ends -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one report over notebooks that end in every way."""
    root = tmp_path_factory.mktemp("report")
    (root / "notebooks" / "runs").mkdir(parents=True)
    books = {
        "good": notebook(ENVIRONMENT, FIGURE, "table.record(**found)", verdicts=False),
        "failing": notebook("print('before')", "1 / 0"),
        "dead": notebook(KILL),
        "slow": notebook(SLEEP),
        "leaving": notebook("raise SystemExit"),
    }
    books["good"].cells[3:3] = [nbformat.v4.new_code_cell(VERDICTS)]
    for name, book in books.items():
        nbformat.write(book, root / "notebooks" / f"{name}.ipynb")
        timeout = "timeout: 3" if name == "slow" else ""
        text = f"notebook: {name}.ipynb\nparameters: {{volatility: 5e-1}}\n{timeout}"
        (root / "notebooks" / "runs" / f"{name}.yaml").write_text(text)
    (root / "notebooks" / "runs" / "broken.yaml").write_text("notebook: good.ipynb\nparameters: {paths: 1}\n")
    reports.report(root / "out", runs=root / "notebooks" / "runs", workers=2)
    return root / "out"


def record(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("failing", "Cell 4: ZeroDivisionError: division by zero"),
        ("dead", "Cell 3: DeadKernelError: the kernel process died (killed, or out of memory); try smaller parameters or more memory"),
        ("slow", "Cell 3: CellTimeoutError: the run took longer than its 3 s, in this cell; raise the timeout"),
        ("broken", "1 of 2 claims do not hold: paths are enough"),
        ("leaving", "Cell 3: SystemExit"),  # papermill alone calls this done
    ],
)
def test_a_bad_end_is_named_and_its_files_are_marked(reported: Path, name: str, reason: str) -> None:
    assert (record(reported, name)["status"], record(reported, name)["reason"]) == ("failed", reason)
    assert record(reported, name)["files"] == {"ipynb": f"{name}.failed.ipynb", "html": f"{name}.failed.html"}
    assert not [path for path in reported.iterdir() if path.name in (f"{name}.ipynb", f"{name}.html") or "part" in path.name]


def test_a_kernel_that_dies_before_its_first_answer_is_named_as_one_that_dies_later(
    stored: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = KernelSpec(argv=[sys.executable, "-c", "pass", "{connection_file}"], display_name="dies", language="python")
    monkeypatch.setattr("spectralmc.engine._ThisPython.get_kernel_spec", lambda self, name: spec)
    found = runner.run(stored(), {}, tmp_path / "out").record
    assert found["status"] == "failed"
    assert found["reason"] == "DeadKernelError: the kernel process died (killed, or out of memory); try smaller parameters or more memory"


@pytest.mark.parametrize("name", ["failing", "dead", "slow"])
def test_the_partial_notebook_is_kept_with_the_error_in_its_cell(reported: Path, name: str) -> None:
    cells = [cell for cell in nbformat.read(reported / f"{name}.failed.ipynb", 4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert "before" in [output.get("text", "").strip() for output in outputs]
    assert [output.ename for output in outputs if output.output_type == "error"] == [record(reported, name)["error"]["ename"]]
    assert cells[-1].execution_count is None


def test_a_good_run_leaves_its_record(reported: Path) -> None:
    found = record(reported, "good")
    assert (found["status"], found["reason"], found["error"], found["seed"], found["device"]) == ("done", None, None, 7, "cpu")
    assert found["parameters"] == {"volatility": 0.5, "paths": 3, "kind": "put", "strikes": [0.9, 1.1], "seed": 7}
    assert [row["holds"] for row in found["verdicts"]] == [True, True]
    assert set(found["versions"]) == {"spectralmc", "python", "torch", "numpy"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["started"])
    assert sum((reported / name).is_file() for name in ("good.ipynb", "good.html", "good.json")) == 3


def test_notebooks_run_quietly_in_this_python_and_their_folder(reported: Path) -> None:
    found = record(reported, "good")["scalars"]
    assert found["bar"] == "1"
    assert "inline" in found["backend"]
    assert found["python"] == sys.executable
    assert found["where"] == str((reported.parent / "notebooks").resolve())


def test_no_file_of_a_result_names_a_place_of_this_machine(reported: Path) -> None:
    book = nbformat.read(reported / "good.ipynb", 4)
    assert str(reported.parent) not in json.dumps(book.metadata)


# Pages --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["index", "good", "failing.failed", "dead.failed"])
def test_pages_fetch_nothing_and_run_nothing(reported: Path, name: str) -> None:
    text = (reported / f"{name}.html").read_text(encoding="utf-8")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in re.sub("&#39;", "'", text)
    assert not re.findall(r"<(?:script|link|iframe|object|embed)\b|@import|url\(|http-equiv=\"refresh", text)
    assert all(source.startswith("data:image/") for source in re.findall(r'\bsrc="([^"]*)', text))
    assert not re.findall(r'\b(?:src|href)="(?:https?:|//)', text)


def test_formulae_become_mathml_and_code_stays(tmp_path: Path) -> None:
    source = "# Law of $X_t$\n\n`$a$` costs \\$5, $\\varphi(u)$ and $$\\frac12$$ then $\\nonsense{$.\n\n```\n$x$\n```"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source)])
    text = pages.page(book, blank(book), tmp_path)
    assert text.count("<math") >= 3
    assert 'display="block"' in text
    assert "<code>$a$</code> costs $5" in text
    assert "$x$" in text
    assert "formula" not in text.split("<main>")[1]


ACTIVE = r"<script>2</script> $\text{<meta/http-equiv=refresh/content='0;url=//x'>}$ $\text{<img/src=x>}$"


def test_active_content_of_a_notebook_is_shown_not_run(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", {"text/html": "<Script>1</script><meta x>"})])
    javascript = nbformat.v4.new_output("display_data", {"application/javascript": "alert(1)"})
    cell.outputs.append(javascript)
    book = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_markdown_cell(ACTIVE)])
    body = pages.page(book, blank(book), tmp_path).split("<body>")[1]
    assert not re.findall("<(?:script|meta)", body, re.I)
    assert "alert" not in body


def test_the_gallery_puts_failures_first_and_escapes_titles(reported: Path) -> None:
    text = (reported / "index.html").read_text(encoding="utf-8")
    cards = re.findall(r'<h2><a href="([^"]+)">', text)
    assert cards[-1] == "good.html"
    assert all((reported / card).is_file() for card in cards)
    assert "5 failed" in text
    assert "1 done" in text
    assert "parity &amp; &lt;order&gt;" in text
    assert text.count('class="thumb"') == 2  # two runs came as far as the figure
    assert len(text) < 200_000


def blank(book: Any) -> dict[str, Any]:
    task = runner.Plan("name", Path("name.ipynb"), book, {}, {}, None, "")
    return runner.blank(task)


# The report ---------------------------------------------------------------------------------------------------------------------


def test_resume_runs_only_what_is_not_done_or_has_changed(reported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def perform(task: runner.Plan, out: Path) -> runner.Result:
        ran.append(task.name)
        return runner.Result({**runner.blank(task), "status": "failed", "reason": "not this time"}, out)

    monkeypatch.setattr(reports, "perform", perform)
    runs = reported.parent / "notebooks" / "runs"
    told: list[str] = []
    reports.report(reported, resume=True, runs=runs, tell=lambda record: told.append(record["name"]))
    assert set(ran) == {"broken", "dead", "failing", "leaving", "slow"}
    assert set(told) == {*ran, "good"}
    ran.clear()
    before = (runs / "good.yaml").read_text()
    (runs / "good.yaml").write_text(before.replace("5e-1", "0.6"))
    reports.report(reported, resume=True, runs=runs)
    (runs / "good.yaml").write_text(before)
    assert "good" in ran


def test_resume_does_not_trust_what_older_code_made(reported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = (task for task in reports.plans(reported.parent / "notebooks" / "runs") if task.name == "good")
    assert reports._finished(task, reported) is not None
    monkeypatch.setattr(runner, "__version__", "99")
    assert reports._finished(task, reported) is None


def test_a_killed_worker_takes_no_other_run_with_it(tmp_path: Path, stored: Store) -> None:
    stored(f"import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n{SLEEP}", name="killer")
    stored("1", name="victim")
    (tmp_path / "runs").mkdir()
    for name in ("killer", "victim"):
        (tmp_path / "runs" / f"{name}.yaml").write_text(f"notebook: {name}.ipynb\ntimeout: 20")
    found = {r["name"]: r for r in reports.report(tmp_path / "out", runs=tmp_path / "runs", workers=2)}
    assert found["victim"]["status"] == "done"
    assert found["killer"]["reason"] == "its worker process was killed; give it more memory or smaller parameters"
    assert "its worker process was killed" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("notebook: book.ipynb\nname: index", "a.yaml: name of a run must be of letters, digits, .* and not 'index'; got 'index'"),
        ("notebook: book.ipynb\nname: b.failed", "a.yaml: name of a run must be of letters, .* got 'b.failed'"),
        ("notebook: book.ipynb\nparameters: {seed: 2024-13-45}", "file .*a.yaml is not valid YAML"),
        ("notebook: absent.ipynb", "a.yaml: notebook .*absent.ipynb does not exist"),
        ("notebook: book.ipynb\nparameters: {pahts: 1}", "a.yaml: unknown parameter 'pahts'; did you mean 'paths'"),
        ("notebook: book.ipynb\nparameter: {}", "a.yaml: unknown entry 'parameter'; a run has notebook, parameters, name, timeout"),
        ("parameters: {}", "a.yaml: a run must have 'notebook: FILE.ipynb'"),
        ("notebook: book.ipynb\nparameters: [1]", "a.yaml: a run must have 'notebook: FILE.ipynb'"),
        ("notebook: book.ipynb\nname: ../x", "a.yaml: name of a run must be of letters, digits, .* got '../x'"),
        ("notebook: book.ipynb\ntimeout: soon", "a.yaml: timeout must be positive .seconds.; got 'soon'"),
        ("notebook: book.ipynb\nname: b", "name their run 'b'; each run needs a name of its own"),
        ("notebook: [", "file .*a.yaml is not valid YAML"),
        ("- notebook", "file .*a.yaml must hold 'name: value' lines; got a list"),
    ],
)
def test_a_bad_run_file_is_refused_before_anything_runs(stored: Store, tmp_path: Path, text: str, message: str) -> None:
    stored()
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "b.yaml").write_text("notebook: book.ipynb")
    (runs / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        reports.report(tmp_path / "out", runs=runs)
    assert not (tmp_path / "out").exists()


def test_a_report_without_runs_or_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must hold at least one"):
        reports.report(tmp_path / "out", runs=tmp_path)
    with pytest.raises(InputError, match="workers must be a whole number of at least 1; got 0"):
        reports.report(tmp_path / "out", runs=tmp_path, workers=0)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file cannot be made: File exists"):
        runner.make_folder(tmp_path / "file")


# Half-written results -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let papermill only copy the notebook, or end as the list says: no kernel is needed where the ending is the point."""
    ends: list[str] = []

    def execute(node: Any, output: str, *_: Any, **__: Any) -> None:
        if ends == ["interrupt"]:
            signal.raise_signal(signal.SIGINT)
        if ends:
            raise {"full": OSError(28, "No space left on device"), "odd": RecursionError("too deep"), "own": KeyboardInterrupt()}[ends[0]]
        nbformat.write(node, output)

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    return ends


def test_nothing_older_is_taken_for_a_result(stored: Store, tmp_path: Path, instant: list[str]) -> None:
    path = stored()
    assert runner.run(path, out=tmp_path / "out").done
    instant.append("full")
    result = runner.run(path, out=tmp_path / "out")
    assert result.record["reason"] == "OSError: [Errno 28] No space left on device"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["book.json"]


def test_an_interrupted_run_is_written_down_and_goes_on_interrupting(stored: Store, tmp_path: Path, instant: list[str]) -> None:
    path = stored()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    instant.append("interrupt")
    with pytest.raises(KeyboardInterrupt):
        runner.run(path, out=tmp_path / "out")
    assert record(tmp_path / "out", "book")["reason"] == "KeyboardInterrupt: interrupted before the first cell"
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_an_interrupt_that_nobody_sent_is_a_failure_like_others(stored: Store, tmp_path: Path, instant: list[str]) -> None:
    instant.append("own")
    assert runner.run(stored(), out=tmp_path / "out").record["status"] == "failed"


def test_a_fault_of_the_program_does_not_end_the_report(stored: Store, tmp_path: Path, instant: list[str]) -> None:
    stored()
    instant.append("odd")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "book.yaml").write_text("notebook: book.ipynb")
    (found,) = reports.report(tmp_path / "out", runs=tmp_path / "runs")
    assert found["status"] == "failed"
    assert "too deep" in found["reason"]


@pytest.mark.usefixtures("instant")
def test_a_page_that_cannot_be_written_fails_the_run(stored: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pages, "page", full)
    result = runner.run(stored(), out=tmp_path / "out")
    assert (result.done, result.record["files"]) == (False, {})
    assert "its files could not be written" in result.record["reason"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["book.json"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    runner.write(path, "old")
    with pytest.raises(UnicodeEncodeError):
        runner.write(path, "new \ud800")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_report_names_a_run_that_left_nothing(stored: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.yaml").write_text("notebook: book.ipynb")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reports, "perform", full)
    (found,) = reports.report(tmp_path / "out", runs=tmp_path / "runs")
    assert found["status"] == "failed"
    assert "No space left on device" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_a_gallery_without_room_for_figures_goes_without_them(reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = runner.write

    def write(path: Path, text: str) -> None:
        if "data:image/png" in text:
            raise OSError(28, "No space left on device")
        whole(path, text)

    monkeypatch.setattr(reports, "write", write)
    reports._publish({"good": record(reported, "good")}, tmp_path, pages.gallery)
    assert 'href="good.html"' in (tmp_path / "index.html").read_text(encoding="utf-8")


# Stored notebooks ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook with the outputs of one clean run."""
    path = tmp_path_factory.mktemp("clean") / "book.ipynb"
    nbformat.write(notebook("# Prose", "print(1, flush=True)\nprint(2)"), path)
    assert storage.update(path) == []
    return path


def test_stored_outputs_pass_the_check_and_hold_nothing_that_changes(clean: Path) -> None:
    assert storage.problems(clean) == []
    book = nbformat.read(clean, 4)
    assert set(book.metadata) == {"kernelspec", "language_info"}
    assert {key for cell in book.cells for key in cell.metadata} == {"tags"}
    assert [cell.execution_count for cell in book.cells if cell.cell_type == "code"] == [1, 2, 3, 4]
    assert book.cells[3].outputs[0].text == "1\n2\n"


def test_a_second_update_changes_nothing(clean: Path) -> None:
    before = clean.read_bytes()
    assert storage.update(clean) == []
    assert clean.read_bytes() == before


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("1 / 0", "book.ipynb: Cell 3: ZeroDivisionError: division by zero"),
        ("import warnings\nwarnings.warn('old')", "cell 3: nothing may be written to the error stream; got "),
    ],
)
def test_an_update_that_breaks_a_rule_leaves_the_file_as_it_was(stored: Store, cell: str, problem: str) -> None:
    path = stored(cell)
    before = path.read_bytes()
    assert any(problem in found for found in storage.update(path))
    assert path.read_bytes() == before


def output(kind: str, **fields: Any) -> Any:
    return nbformat.v4.new_output(kind, **fields)


def stripped(book: Any) -> None:
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (stripped, "book.ipynb: execution counts must be 1 to 4, as one clean run leaves them; got [None, None, None, None]"),
        (stripped, "book.ipynb: cell 5: a checked cell must have its output stored: run notebooks --update"),
        (lambda b: b.cells[0].update(source="A subject"), "the first text cell must begin with its subject, '# …'"),
        (lambda b: b.cells[1].metadata.tags.clear(), "a notebook must have exactly one cell tagged 'parameters'; got 0"),
        (lambda b: b.cells[4].metadata.tags.clear(), "at least one cell must be tagged 'nbval-check-output'"),
        (lambda b: b.cells[3].update(source="x\n\n" * 9), "cell 4: a code cell must have at most 8 lines; got 9"),
        (lambda b: b.cells[3].update(execution_count=9), "execution counts must be 1 to 4"),
        (lambda b: b.cells[3].outputs.append(output("error", ename="E", evalue="")), "cell 4: an error must not be stored"),
        (
            lambda b: b.cells[3].outputs.append(output("stream", name="stderr", text="a\nb: UserWarning")),
            "cell 4: nothing may be written to the error stream; got 'b: UserWarning'",
        ),
        (
            lambda b: b.cells[3].outputs.append(output("display_data", data={"text/plain": "at /home/" + "me/x.py:3"})),
            "cell 4: an output must not name a place of one machine; got '/home/" + "me/x.py:3'",
        ),
        (
            lambda b: b.cells[3].outputs.append(output("display_data", data={"image/png": "A" * 200_000})),
            "a stored notebook must be smaller than 200 kB; got 2",
        ),
        (lambda b: b.cells.pop(), "book.ipynb: a notebook must have a section '## What could be wrong'"),
        (lambda b: b.cells[-1].update(source="## What could be wrong"), "a notebook must have a section '## References'"),
        (lambda b: b.cells[3].update(source="def f(): ...\ndef g(): ...\nclass H: ..."), "at most 2 definitions; got 3"),
        (
            lambda b: b.cells[3].outputs.append(output("display_data", data={"image/png": "A"})),
            "cell 4: a figure must be followed by text that says what to see, with a number",
        ),
    ],
)
def test_every_broken_rule_is_named_with_its_cell(clean: Path, tmp_path: Path, spoil: Callable[[Any], Any], problem: str) -> None:
    book = nbformat.read(clean, 4)
    spoil(book)
    nbformat.write(book, tmp_path / "book.ipynb")
    assert any(problem in found for found in storage.problems(tmp_path / "book.ipynb"))


@pytest.mark.parametrize(("content", "message"), [(None, "does not exist"), ("{}", "not a Jupyter notebook"), ("\udcff", "not a Jupyter")])
def test_what_is_no_notebook_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "x.ipynb"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message):
        runner.read_notebook(path)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        runner.read_notebook(tmp_path)
