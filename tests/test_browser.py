"""Pages in a real browser with the network off: they show themselves whole and ask for nothing; the page of a sweep sorts.

Skipped where there is no Chromium, and, but for the first ones, no playwright.  The pages of the notebooks are those of their stored
outputs, of the explorer's one that of a run; with SPECTRALMC_ALL_NOTEBOOKS set, all are those of runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from conftest import notebook
from lab import CHROMIUM, browser

from spectralmc import pages, runner

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
LARGEST = 2_000_000  # bytes of a page
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
NAMED_HOST = '<img src="https://example.org/x.png"><script src="https://example.org/x.js"></script>'
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def shown(page: Path, folder: Path) -> tuple[str, list[str]]:
    """Return what the browser made of a page, and the addresses it asked for."""
    log = folder / "net.json"
    command = [str(CHROMIUM), *FLAGS, "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}"]
    command += [f"--log-net-log={log}", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=True).stdout
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
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


# With playwright: every request is recorded, and whatever goes wrong in the page -----------------------------------------------


class Sheet:
    """A page in a tab, with what it asked for beyond its own file and what went wrong in it."""

    def __init__(self, tab: Any) -> None:
        self.tab = tab
        self.asked: list[str] = []
        self.errors: list[str] = []
        tab.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else self.asked.append(request.url))
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)

    def open(self, page: Path) -> Sheet:
        """Open a page and scroll to its end, so that every figure is wanted."""
        self.tab.goto(page.as_uri())
        self.tab.evaluate("async () => { for (const i of document.images) { i.loading = 'eager'; await i.decode().catch(() => 0); } }")
        return self

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.tab.locator(selector).all_text_contents()]

    def broken(self) -> list[str]:
        """Return the figures that show nothing."""
        return list(self.tab.evaluate("() => [...document.images].filter(i => !i.naturalWidth).map(i => i.alt)"))


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="playwright is not installed: make test-browser")
    with browser(offline=True) as opened:
        yield opened


@pytest.fixture
def sheet(context: Any) -> Iterator[Sheet]:
    tab = context.new_page()
    yield Sheet(tab)
    tab.close()


def spectralmc(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a program: playwright has this process' event loop."""
    return subprocess.run([sys.executable, "-m", "spectralmc", *map(str, words)], capture_output=True, encoding="utf-8", timeout=600)


def test_a_sheet_would_show_a_request_and_an_error(sheet: Sheet, tmp_path: Path) -> None:
    page = tmp_path / "open.html"
    page.write_text(f"{NAMED_HOST}<script>throw new Error('broken')</script>")
    sheet.open(page)
    assert sheet.asked == ["https://example.org/x.png", "https://example.org/x.js"]
    assert "broken" in sheet.errors


# The page of a sweep ------------------------------------------------------------------------------------------------------------

DRAW = "import matplotlib.pyplot as plt\nplt.plot([1, seed])\nplt.show()"
FAIL = 'assert seed != 100, "this seed does not work"'
SETS = [{"seed": 9, "kind": "put"}, {"seed": 100, "kind": "call 10"}, {"seed": 10, "kind": "call 9"}, {"seed": 2, "kind": "straddle"}]
ORDER = ["seed-9-kind-put", "seed-100-kind-call_10", "seed-10-kind-call_9", "seed-2-kind-straddle"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison that ``spectralmc sweep`` leaves of four runs, the second of which fails."""
    pytest.importorskip("playwright", reason="playwright is not installed: make test-browser")
    folder = tmp_path_factory.mktemp("sweep")
    record = "table.record(rank=-1.5e-9 * seed)"
    nbformat.write(notebook(DRAW, FAIL, "from spectralmc.verdicts import Verdicts\ntable = Verdicts()", record), folder / "book.ipynb")
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({"notebook": "book.ipynb", "list": SETS}, sort_keys=False))
    ended = spectralmc("sweep", file, "--out", folder / "out", "--workers", "2")
    assert ended.returncode == 1, ended.stderr  # one of them failed
    return folder / "out" / "index.html"


def runs(sheet: Sheet) -> list[str]:
    """Return the names in the table, and see that the figures stand in the same order."""
    names = sheet.texts("tbody th")
    numbers = sheet.tab.eval_on_selector_all("tbody tr", "rows => rows.map(row => row.dataset.run)")
    assert sheet.tab.eval_on_selector_all("figure", "figures => figures.map(figure => figure.dataset.run)") == numbers
    return names


def sorts(sheet: Sheet) -> dict[str, str | None]:
    """Return the headings, each with the way the table is sorted by it."""
    return {cell.inner_text().strip(): cell.get_attribute("aria-sort") for cell in sheet.tab.locator("thead tr:last-child th").all()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heading", "ascending", "last"),
    [
        ("seed", [2, 9, 10, 100], []),  # numbers as numbers
        ("kind", [10, 100, 9, 2], []),  # words as words, but a number in them as a number
        ("rank", [10, 9, 2], [100]),  # −1.5e−08 with its exponent; what a failed run did not record comes last either way
    ],
)
def test_a_click_on_a_heading_sorts_and_another_the_other_way(
    swept: Path, sheet: Sheet, heading: str, ascending: list[int], last: list[int]
) -> None:
    sheet.open(swept)
    assert runs(sheet) == ORDER
    button = sheet.tab.get_by_role("button", name=heading, exact=True)
    names = {int(name.split("-")[1]): name for name in ORDER}
    button.click()
    assert runs(sheet) == [names[seed] for seed in ascending + last]
    assert {title: way for title, way in sorts(sheet).items() if way} == {heading: "ascending"}
    button.click()
    assert runs(sheet) == [names[seed] for seed in ascending[::-1] + last]
    assert {title: way for title, way in sorts(sheet).items() if way} == {heading: "descending"}
    assert (sheet.asked, sheet.errors) == ([], [])


@pytest.mark.slow
def test_the_keyboard_reaches_every_heading_and_sorts(swept: Path, sheet: Sheet) -> None:
    sheet.open(swept)
    headings, reached = list(sorts(sheet)), list[str]()
    while len(reached) < len(headings) + 5 and reached[-1:] != headings[-1:]:
        sheet.tab.keyboard.press("Tab")
        seen = "() => { const e = document.activeElement; return e.closest('thead') ? e.textContent.trim() : ''; }"
        reached.append(sheet.tab.evaluate(seen))
    assert [name for name in reached if name] == headings
    sheet.tab.keyboard.press("Enter")
    assert sorts(sheet)[headings[-1]] == "ascending"
    sheet.tab.keyboard.press("Space")
    assert sorts(sheet)[headings[-1]] == "descending"
    outline = sheet.tab.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@pytest.mark.slow
def test_the_link_of_every_run_opens_its_page(swept: Path, sheet: Sheet) -> None:
    sheet.open(swept)
    for name in runs(sheet):
        sheet.tab.get_by_role("rowheader").get_by_role("link", name=name, exact=True).click()
        sheet.tab.wait_for_load_state()
        page = Path(sheet.tab.url.removeprefix("file://"))
        assert page.parent == swept.parent
        assert page.name == f"{name}{'.failed' if '-100-' in name else ''}.html"
        assert sheet.tab.title() == "A *subject* & $x^2$"
        assert sheet.texts("h1") != []
        sheet.tab.go_back()
    figures = sheet.tab.eval_on_selector_all("figure a", "links => links.map(link => link.getAttribute('href'))")
    assert [(swept.parent / link).is_file() for link in figures] == [True] * len(ORDER)
    assert (sheet.asked, sheet.errors) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("width", [1440, 720, 360])
def test_a_failing_run_is_seen_at_once_and_the_page_fits(swept: Path, sheet: Sheet, width: int) -> None:
    sheet.tab.set_viewport_size({"width": width, "height": 900})
    sheet.open(swept)
    (failure,) = sheet.tab.locator(".failures li").all()
    assert "this seed does not work" in failure.inner_text()
    box = failure.bounding_box()
    assert box["y"] + box["height"] <= 900  # without scrolling
    assert sheet.texts("h1 + p .badge") == ["1 failed", "3 done"]
    assert sheet.tab.locator("figure.bad").count() == 1
    assert sheet.tab.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0  # the table scrolls, the page does not
    assert sheet.broken() == []
    assert swept.stat().st_size <= LARGEST


# The pages of the notebooks -----------------------------------------------------------------------------------------------------


def page_of(path: Path, out: Path) -> Path:
    """Return the page of a notebook: of a run, or, where that would take too long, of its stored outputs."""
    if path.stem == "13_explorer" or "SPECTRALMC_ALL_NOTEBOOKS" in os.environ:
        ended = spectralmc("run", path, "--out", out)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return out / f"{path.stem}.html"
    target = out / f"{path.stem}.html"
    target.write_text(pages.page(runner.read_notebook(path), runner.blank(runner.plan(path)), NOTEBOOKS), encoding="utf-8")
    return target


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_page_of_every_notebook_is_one_file_that_asks_for_nothing(sheet: Sheet, tmp_path: Path, path: Path) -> None:
    page = page_of(path, tmp_path)
    alone = tmp_path / "elsewhere" / "page.html"  # without the files beside it
    alone.parent.mkdir()
    page.rename(alone)
    sheet.open(alone)
    assert (sheet.asked, sheet.errors) == ([], [])
    assert sheet.tab.locator("img").count() > 0
    assert sheet.broken() == []
    assert alone.stat().st_size <= LARGEST
    assert sheet.tab.title() == pages.title_of(runner.read_notebook(path), "")
    assert sheet.tab.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
