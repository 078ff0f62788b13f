"""The command line: exit status, one-line errors, every locale, interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectralmc import __version__, cli, reports, runner
from spectralmc.cli import main
from spectralmc.device import Check

Store = Callable[..., Path]
ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "spectralmc"]


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> list[runner.Plan]:
    """Let runs end at once: done, or failed for one path."""
    seen: list[runner.Plan] = []

    def perform(task: runner.Plan, out: Path) -> runner.Result:
        seen.append(task)
        ok = task.parameters["paths"] > 1
        reason = None if ok else "1 of 1 claims do not hold: enough"
        files = {"html": f"{task.name}.html"}
        done = {"status": "done" if ok else "failed", "reason": reason, "started": "2026-01-01T00:00:00+00:00", "seconds": 1.5}
        return runner.Result({**runner.blank(task), **done, "files": files}, out)

    monkeypatch.setattr(reports, "perform", perform)
    monkeypatch.setattr(runner, "perform", perform)
    return seen


def test_version_and_help_leave_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["--help"], ["run", "--help"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
    assert f"spectralmc {__version__}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["frob"], ["run"], ["run", "x.ipynb"], ["report", "--workers", "two"], ["notebooks"]])
def test_wrong_usage_is_one_line_and_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert error.startswith("spectralmc: error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "pahts=4"], "unknown parameter 'pahts'; did you mean 'paths'?"),
        (["-p", "paths=4.5"], "parameter paths must be int (paths of the sample); got 4.5, a float"),
        (["-p", "paths=yes"], "parameter paths must be int (paths of the sample); got True, a bool"),
        (["-p", "strikes=[1,"], "parameter strikes must be a number, a word or a list like [1, 2]; got '[1,'"),
        (["-p", "paths"], "a parameter must be given as name=value; got 'paths'"),
        (["--timeout", "0"], "timeout must be positive (seconds); got 0.0"),
    ],
)
def test_bad_input_is_one_line_and_two(stored: Store, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(stored()), *arguments, "--out", "nowhere"]) == 2
    assert not Path("nowhere").exists()
    error = capsys.readouterr().err
    assert error.startswith(f"spectralmc: error: {message}")
    assert error.count("\n") == 1


def test_a_missing_file_is_not_found(capsys: pytest.CaptureFixture[str], stored: Store) -> None:
    assert main(["run", "absent.ipynb", "--out", "nowhere"]) == 1
    assert capsys.readouterr().err == "spectralmc: error: notebook absent.ipynb does not exist\n"
    assert main(["run", str(stored()), "-f", "absent.yaml", "--out", "nowhere"]) == 1
    assert capsys.readouterr().err == "spectralmc: error: file absent.yaml does not exist\n"
    assert not Path("nowhere").exists()


def test_parameters_come_from_the_file_and_then_from_the_line(stored: Store, tmp_path: Path, outcome: list[runner.Plan]) -> None:
    (tmp_path / "p.yaml").write_text("volatility: 1e-1\npaths: 9\n")
    line = ["-f", str(tmp_path / "p.yaml"), "-p", "paths=2", "-p", "kind=yes", "-p", "strikes=[1, 2.5]"]
    assert main(["run", str(stored()), *line, "--out", str(tmp_path)]) == 0
    assert outcome[0].given == {"volatility": 0.1, "paths": 2, "kind": "yes", "strikes": [1.0, 2.5]}


@pytest.mark.usefixtures("outcome")
def test_a_report_says_how_each_run_ended(stored: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored()
    (tmp_path / "runs").mkdir()
    for name, paths in (("a", 1), ("b", 2)):
        (tmp_path / "runs" / f"{name}.yaml").write_text(f"notebook: book.ipynb\nparameters: {{paths: {paths}}}")
    assert main(["report", "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "✗ a · failed · 1.5 s · 1 of 1 claims do not hold: enough",
        "✓ b · done · 1.5 s",
        str(tmp_path / "out" / "index.html"),
    ]


def test_notebooks_are_checked_by_name(stored: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored()
    assert main(["notebooks", "--check", str(path)]) == 1
    assert "book.ipynb: cell 3: a checked cell must have its output stored" in capsys.readouterr().err
    assert main(["notebooks", "--check", "absent"]) == 1
    monkeypatch.chdir(path.parent)
    assert main(["notebooks", "--check"]) == 2
    assert "no notebooks in the folder 'notebooks'" in capsys.readouterr().err


def test_the_device_check_has_a_remedy_for_every_cross(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [Check("torch", True, "2.13"), Check("CUDA", None, "no GPU"), Check("memory", False, "1 MiB", "close other programs")]
    monkeypatch.setattr("spectralmc.device.check", lambda gpu: checks)
    assert main(["device"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "✓ torch   2.13",
        "– CUDA    no GPU",
        "✗ memory  1 MiB; remedy: close other programs",
    ]
    assert main(["device", "--json"]) == 1
    assert [row["ok"] for row in json.loads(capsys.readouterr().out)] == [True, None, False]
    assert main(["device", "--brief"]) == 1
    assert capsys.readouterr().out == "✗ memory: 1 MiB; remedy: close other programs\n"


def test_the_brief_device_check_is_silent_where_nothing_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectralmc.device.check", lambda gpu: [Check("CUDA", False if gpu else None, "no GPU", "a GPU")])
    assert main(["device", "--brief"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["device", "--brief", "--gpu"]) == 1
    assert capsys.readouterr().out == "✗ CUDA: no GPU; remedy: a GPU\n"


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "spectralmc: interrupted\n"),
        (OSError(28, "No space left on device", "x"), 1, "spectralmc: error: No space left on device: x\n"),
        (
            ModuleNotFoundError(name="papermill"),
            1,
            "spectralmc: error: papermill is not installed: in the clone, pip install -e '.[batch]'\n",
        ),
        (runner.InputError("a\nb"), 2, "spectralmc: error: a\nspectralmc: error: b\n"),
    ],
)
def test_how_a_command_ends(
    failure: BaseException, status: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Any) -> int:
        raise failure

    monkeypatch.setattr(cli, "_device", fail)
    assert main(["device"]) == status
    assert capsys.readouterr().err == message


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> int:
        raise ValueError("a fault")

    monkeypatch.setattr(cli, "_device", fail)
    with pytest.raises(ValueError, match="a fault"):
        main(["device"])


def test_marks_survive_an_ascii_locale_and_a_reader_that_leaves() -> None:
    code = "from spectralmc.terminal import say; say('✓ a · b – ≤ φ'); say('✗', sys.stderr)"
    found = subprocess.run([sys.executable, "-c", f"import sys; sys.stdout.reconfigure(errors='replace'); {code}"], **ascii_locale())
    assert (found.stdout, found.stderr) == ("[ok] a | b [-] <= ?\n", "[FAIL]\n")
    left = subprocess.run(f"'{sys.executable}' -m spectralmc --help | true", shell=True, capture_output=True, text=True, check=False)
    assert left.stderr == ""


def ascii_locale() -> dict[str, Any]:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    return {"env": environment, "capture_output": True, "text": True, "check": True, "cwd": ROOT}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_report_still_opens(stored: Store, tmp_path: Path, number: signal.Signals) -> None:
    stored("import time, pathlib\npathlib.Path('started').touch()\ntime.sleep(60)")
    (tmp_path / "runs").mkdir()
    for name in ("a", "b"):
        (tmp_path / "runs" / f"{name}.yaml").write_text("notebook: book.ipynb")
    command = [*COMMAND, "report", "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while not (tmp_path / "started").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "spectralmc: interrupted\n")
    left = json.loads((tmp_path / "out" / "a.json").read_text(encoding="utf-8"))
    assert left["reason"] == "Cell 3: KeyboardInterrupt: interrupted by the user or the system while this cell ran"
    index = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "1 failed" in index
    assert "1 waiting" in index


def test_a_notebook_is_never_written_over(stored: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = stored()
    before = path.read_bytes()
    assert main(["run", str(path), "--out", str(path.parent)]) == 2
    assert "holds the notebook book.ipynb itself; choose another folder for the results" in capsys.readouterr().err
    (path.parent / "runs").mkdir()
    (path.parent / "runs" / "book.yaml").write_text("notebook: book.ipynb")
    assert main(["report", "--runs", str(path.parent / "runs"), "--out", str(path.parent)]) == 2
    assert path.read_bytes() == before


def test_a_closed_output_is_no_fault() -> None:
    code = "import sys; sys.stdout = None; from spectralmc.cli import main; sys.exit(main(['notebooks', '--check', 'absent']))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "spectralmc: error: notebook absent does not exist\n")
