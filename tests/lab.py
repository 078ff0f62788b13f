"""A real JupyterLab on loopback, driven in a real Chromium: for the tests in the browser and the benchmark of the explorer."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
_QUIET = {"fetchNews": "false", "checkForUpdates": False}  # else a question about news covers the notebook
_IDLE = """() => { const w = window.jupyterapp?.shell?.currentWidget;
    return w?.sessionContext?.session?.kernel?.status === 'idle'; }"""
_DONE = """() => { const w = window.jupyterapp?.shell?.currentWidget;
    if (w?.sessionContext?.session?.kernel?.status !== 'idle') return false;
    const code = w.content.model.sharedModel.cells.filter(c => c.cell_type === 'code' && c.source.trim());
    return code.every(c => c.execution_count !== null); }"""
_ERRORS = """() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells
    .flatMap(c => c.outputs ?? []).filter(o => o.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`)"""


class Lab:
    """``jupyter lab`` with a token on a free port of loopback; its configuration, settings and kernels live in ``state``."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root, self.runtime, self.token = root, state / "runtime", secrets.token_urlsafe(24)
        settings = state / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
        settings.parent.mkdir(parents=True)
        settings.write_text(json.dumps(_QUIET))
        folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings"}
        folders |= {"JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython", "MPLCONFIGDIR": "matplotlib"}
        own = {name: str(state / folder) for name, folder in folders.items()} | {"JUPYTER_TOKEN": self.token}  # not in argv: ps shows that
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0", f"--ServerApp.root_dir={root}"]
        command += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
        command += ["--LabApp.expose_app_in_browser=True", *(["--allow-root"] if os.geteuid() == 0 else [])]
        self.log = state / "lab.log"
        with self.log.open("w") as log:
            self.server = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log, cwd=root, start_new_session=True)

    def __enter__(self) -> Lab:
        deadline = time.monotonic() + 120
        described = self.runtime / f"jpserver-{self.server.pid}.json"
        while time.monotonic() < deadline and self.server.poll() is None:
            try:
                self.url = str(json.loads(described.read_text())["url"])
                return self
            except (OSError, ValueError, KeyError):
                time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"jupyter lab did not start: {self.log.read_text()[-2000:]}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server and its kernels."""
        self.server.send_signal(signal.SIGTERM)  # unlike Ctrl-C it asks nothing
        try:
            self.server.wait(20)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()


class Tab:
    """A page of JupyterLab, with what went wrong in it."""

    def __init__(self, page: Any, lab: Lab) -> None:
        self.page, self.lab = page, lab
        self.outside: list[str] = []
        self.errors: list[str] = []
        own = (lab.url, lab.url.replace("http", "ws", 1), "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(own) else self.outside.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("response", lambda answer: self.errors.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)

    def open(self, notebook: str) -> None:
        """Open a notebook, and wait for its kernel: without one Lab drops the command to run."""
        self.page.goto(f"{self.lab.url}lab/tree/{notebook}?token={self.lab.token}&reset", wait_until="domcontentloaded")
        self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook").wait_for(timeout=120_000)
        self.page.wait_for_function(_IDLE, timeout=120_000)

    def run_all(self, timeout: float = 300.0) -> list[str]:
        """Run every cell; return the errors among their outputs."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('runmenu:run-all')")
        self.page.wait_for_function(_DONE, timeout=1000 * timeout)
        return list(self.page.evaluate(_ERRORS))


@contextmanager
def browser(**options: Any) -> Iterator[Any]:
    """A headless Chromium of the machine; ``options`` are those of its context (viewport, scale, colours)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = chromium.new_context(**{"viewport": {"width": 1440, "height": 1000}, **options})
        try:
            yield context
        finally:
            chromium.close()
