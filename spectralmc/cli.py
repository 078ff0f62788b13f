"""The command line. It starts without torch and imports what a command needs when that command runs.

Exit status: 0 done, 1 failed, damaged or not found, 2 wrong usage or bad input, 4 conflict, 6 commit state unknown, 130 interrupted.
Errors are one line on the error stream.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from spectralmc import __version__, commands
from spectralmc.terminal import DONE, FAILED, INTERRUPTED, WRONG, InputError, NotFoundError, complain, let_go, printable, say


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"spectralmc: error: {message} (see {self.prog} --help)\n")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an ASCII locale loses a letter, not the run
    try:
        try:
            options = _parser().parse_args(arguments)
            return int(options.command(options))
        finally:
            if sys.stdout is not None:  # None where it was closed
                sys.stdout.flush()
    except KeyboardInterrupt:
        return complain("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader has gone; nothing more to say, not even when Python closes the stream
        let_go(sys.stdout)
        return FAILED
    except ModuleNotFoundError as error:
        return complain(f"{error.name} is not installed: in the clone, pip install -e '.[batch]'", FAILED)
    except OSError as error:
        let_go(sys.stdout)
        return complain(printable(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"), FAILED)
    except InputError as error:
        return complain(str(error), FAILED if isinstance(error, NotFoundError) else WRONG)


def _parser() -> _Parser:
    parser = _Parser(prog="spectralmc", description="A research workbench for spectral Monte Carlo.")
    parser.add_argument("--version", action="version", version=f"spectralmc {__version__}")
    several = parser.add_subparsers(required=True, metavar="COMMAND")

    run = several.add_parser("run", help="run one notebook with parameters: executed notebook, offline page, record")
    run.add_argument("notebook", metavar="NOTEBOOK")
    run.add_argument("-p", dest="values", metavar="NAME=VALUE", action="append", default=[], help="a parameter; may be repeated")
    run.add_argument("-f", dest="file", metavar="FILE.yaml", help="a file of parameters, 'name: value'; -p goes before it")
    run.add_argument("--out", metavar="DIR", required=True, help="folder for NAME.ipynb, NAME.html and NAME.json")
    run.add_argument("--timeout", metavar="S", type=float, help="seconds the whole run may take")
    run.set_defaults(command=_run)

    report = several.add_parser("report", help="run the standard set of notebooks and write the gallery index.html")
    report.add_argument("--out", metavar="DIR", default="reports", help="folder of the gallery (default: %(default)s)")
    report.add_argument("--runs", metavar="DIR", default="notebooks/runs", help="folder of the run files (default: %(default)s)")
    report.add_argument("--resume", action="store_true", help="keep finished runs whose notebook and parameters are unchanged")
    report.add_argument("--workers", metavar="N", type=int, default=1, help="processes that run notebooks (default: %(default)s)")
    report.set_defaults(command=_report)

    sweep = several.add_parser("sweep", help="run notebooks over a grid or list of parameters and compare the runs on one page")
    sweep.add_argument("file", metavar="FILE.yaml")
    sweep.add_argument("--out", metavar="DIR", required=True, help="folder of the runs and their comparison index.html")
    sweep.add_argument("--resume", action="store_true", help="keep finished runs whose notebook and parameters are unchanged")
    where = sweep.add_mutually_exclusive_group()
    where.add_argument("--workers", metavar="N", type=int, help="processes that run notebooks (default: one a core)")
    where.add_argument("--scheduler", metavar="ADDRESS", help="a Dask scheduler, tcp://127.0.0.1:PORT or tls://HOST:PORT")
    sweep.set_defaults(command=_sweep)

    notebooks = several.add_parser("notebooks", help="store clean outputs in the notebooks, or check the stored ones")
    what = notebooks.add_mutually_exclusive_group(required=True)
    what.add_argument("--update", action="store_true", help="run each on its defaults and store its outputs")
    what.add_argument("--check", action="store_true", help="check parameters cell, outputs, execution counts, sizes")
    notebooks.add_argument("names", metavar="NAME", nargs="*", help="notebooks (default: all in notebooks/)")
    notebooks.set_defaults(command=_notebooks)

    commands.add_parsers(several)

    device = several.add_parser("device", help="say what this machine can do, with a remedy for what it cannot")
    device.add_argument("--gpu", action="store_true", help="count a missing GPU as a failure")
    form = device.add_mutually_exclusive_group()
    form.add_argument("--brief", action="store_true", help="only what is wrong, in one line")
    form.add_argument("--json", action="store_true", help="for programs")
    device.set_defaults(command=_device)
    return parser


def _run(options: argparse.Namespace) -> int:
    from spectralmc import runner

    values = runner.read_yaml(Path(options.file)) if options.file else {}
    values |= runner.read_values(options.notebook, options.values)
    result = runner.run(options.notebook, values, options.out, timeout=options.timeout)
    say(_line(result.record))
    for file in result.record["files"].values():
        say(str(result.folder / file))
    return DONE if result.done else FAILED


def _report(options: argparse.Namespace) -> int:
    from spectralmc import reports

    return _ended(options, reports.report(options.out, options.resume, runs=options.runs, workers=options.workers, tell=_tell))


def _sweep(options: argparse.Namespace) -> int:
    from spectralmc import sweeps

    made = sweeps.sweep(options.file, options.out, options.resume, workers=options.workers, scheduler=options.scheduler, tell=_tell)
    return _ended(options, made)


def _tell(record: dict[str, Any]) -> None:
    from tqdm import tqdm

    with tqdm.external_write_mode():
        say(_line(record))


def _ended(options: argparse.Namespace, records: list[dict[str, Any]]) -> int:
    say(f"{Path(options.out) / 'index.html'}")
    return DONE if all(record["status"] == "done" for record in records) else FAILED


def _notebooks(options: argparse.Namespace) -> int:
    from spectralmc import runner, stored

    paths = [_found(name) for name in options.names] or sorted(Path("notebooks").glob("*.ipynb"))
    if not paths:
        raise runner.InputError("no notebooks in the folder 'notebooks': run this in a clone, or name them")
    status = DONE
    for path in paths:
        found = stored.problems(path) if options.check else stored.update(path)
        for problem in found:
            status = complain(problem, FAILED)
        if not found:
            say(f"✓ {path.name}")
    return status


def _found(name: str) -> Path:
    """Return the notebook of this name, which may go without its folder and its ending."""
    tries = [Path(name), Path("notebooks") / name, Path("notebooks") / f"{name}.ipynb"]
    return next((path for path in tries if path.is_file()), Path(name))


def _device(options: argparse.Namespace) -> int:
    from spectralmc.device import check

    checks = check(options.gpu)
    wrong = [f"{c.name}: {c.detail}; remedy: {c.remedy}" for c in checks if c.ok is False]
    if options.brief:
        if wrong:
            say(f"✗ {' · '.join(wrong)}")
    elif options.json:
        say(json.dumps([{"name": c.name, "ok": c.ok, "detail": c.detail, "remedy": c.remedy} for c in checks], indent=1))
    else:
        width = max(len(c.name) for c in checks)
        for c in checks:
            remedy = f"; remedy: {c.remedy}" if c.ok is False and c.remedy else ""
            say(f"{'–' if c.ok is None else '✓' if c.ok else '✗'} {c.name:{width}}  {c.detail}{remedy}")
    return FAILED if wrong else DONE


def _line(record: dict[str, Any]) -> str:
    from spectralmc.pages import summary

    mark = "✓" if record["status"] == "done" else "✗"
    parts = [f"{mark} {record['name']}", record["status"], summary(record), record["reason"] or ""]
    return " · ".join(part for part in parts if part)
