"""Pages in a real browser with the network off: they show themselves whole and ask for nothing.  Skipped where there is no Chromium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

from spectralmc import pages, runner

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
NAMED_HOST = '<img src="https://example.org/x.png"><script src="https://example.org/x.js"></script>'
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def shown(page: Path, folder: Path) -> tuple[str, list[str]]:
    """Return what the browser made of a page, and the addresses it asked for."""
    log = folder / "net.json"
    command = [str(CHROMIUM), *FLAGS, "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}"]
    command += [f"--log-net-log={log}", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    events = json.loads(log.read_text())["events"]
    return dom, [event["params"]["url"] for event in events if "url" in event.get("params", {})]


def written(tmp_path: Path, text: str) -> Path:
    """Write the page of a notebook with a formula, a figure and ``text``."""
    cells = [nbformat.v4.new_markdown_cell(f"# Title\n\n$$x^2$$\n\n{text}"), nbformat.v4.new_code_cell("n: int = 1  # a number")]
    cells[1].metadata["tags"] = ["parameters"]
    cells[1].outputs = [nbformat.v4.new_output("display_data", {"image/png": PIXEL})]
    book = tmp_path / "book.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), book)
    record = runner.blank(runner.plan(book))
    target = tmp_path / "book.html"
    target.write_text(pages.page(nbformat.read(book, as_version=4), record, tmp_path), encoding="utf-8")
    return target


@pytest.mark.parametrize("text", ["plain words", NAMED_HOST])
def test_a_page_asks_for_nothing_and_shows_formula_and_figure(tmp_path: Path, text: str) -> None:
    dom, asked = shown(written(tmp_path, text), tmp_path)
    assert "<math" in dom
    assert "data:image/png" in dom
    assert [address for address in asked if "example.org" in address] == []


def test_the_log_would_show_a_request(tmp_path: Path) -> None:
    page = tmp_path / "open.html"
    page.write_text(f"<p>no policy</p>{NAMED_HOST}")
    assert any("example.org" in address for address in shown(page, tmp_path)[1])
