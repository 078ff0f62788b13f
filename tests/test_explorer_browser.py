"""The explorer in a real JupyterLab in a real browser: it answers mouse and keys, tells what it shows, and fits a page of any size.

Skipped where jupyterlab, anywidget, playwright or a Chromium is missing: ``make test-browser`` brings all but the last.
With SPECTRALMC_ALL_NOTEBOOKS set, every other notebook is run in the browser as well.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import CHROMIUM, Lab, Tab, browser

for needed in ("jupyterlab", "anywidget", "playwright"):
    pytest.importorskip(needed, reason=f"{needed} is not installed: make test-browser")
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"), pytest.mark.slow]

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAME = "13_explorer.ipynb"
PICTURE = "canvas => { const c = canvas; return c.toDataURL(); }"
READY = "() => document.querySelector('.smc-explorer .smc-status')?.textContent.includes('simulated')"
ROOM = """root => ({ over: root.scrollWidth - root.clientWidth, ratio: window.devicePixelRatio,
    canvases: [...root.querySelectorAll('canvas')].map(c => [c.width, c.clientWidth, c.height, c.clientHeight]),
    smallest: Math.min(...[...root.querySelectorAll('label, td, th, span, small, input')].filter(e => e.offsetParent && e.textContent)
        .map(e => parseFloat(getComputedStyle(e).fontSize))) })"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "state").mkdir()
    shutil.copytree(NOTEBOOKS, folder / "work", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    with Lab(folder / "work", folder / "state") as server:
        yield server


@pytest.fixture(scope="module")
def context(lab: Lab) -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def tab(lab: Lab, context: Any) -> Tab:
    """Notebook 13, run from top to bottom."""
    opened = Tab(context.new_page(), lab)
    opened.open(NAME)
    opened.page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    assert opened.run_all() == []
    shown(opened).wait_for(timeout=60_000)
    opened.page.wait_for_function(READY, timeout=60_000)
    return opened


def shown(tab: Tab) -> Any:
    return tab.page.locator(".smc-explorer").first


def slider(tab: Tab, name: str) -> Any:
    found = shown(tab).locator(f"input[type=range][name={name}]")
    found.scroll_into_view_if_needed()
    return found


def state(tab: Tab) -> dict[str, Any]:
    """What a reader sees: pictures, labels, numbers."""
    root = shown(tab)
    canvases = root.locator("canvas")
    return {
        "pictures": [canvas.evaluate(PICTURE) for canvas in canvases.all()],
        "labels": [canvas.get_attribute("aria-label") for canvas in canvases.all()],
        "greeks": root.locator("td").all_text_contents(),
        "numbers": [number.input_value() for number in root.locator(".smc-number").all()],
    }


def rested(tab: Tab, before: int) -> int:
    """Wait until something was drawn and the simulated law with it; return the number of redraws."""
    condition = """([root, before]) => Number(root.dataset.drawn) > before
        && root.querySelectorAll('canvas')[3].getAttribute('aria-label').includes('simulated')"""
    tab.page.wait_for_function(condition, arg=[shown(tab).element_handle(), before], timeout=30_000)
    return redraws(tab)


def redraws(tab: Tab) -> int:
    return int(shown(tab).get_attribute("data-drawn") or 0)


def changed(tab: Tab, act: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Do something; return what was seen before and after, once the sliders rest."""
    before, count = state(tab), redraws(tab)
    act()
    rested(tab, count)
    return before, state(tab)


def test_arrow_keys_move_a_slider_and_every_panel_follows(tab: Tab) -> None:
    correlation = slider(tab, "correlation")
    correlation.focus()
    said = correlation.get_attribute("aria-valuetext")
    before, after = changed(tab, lambda: [tab.page.keyboard.press("ArrowRight") for _ in range(8)])
    assert correlation.get_attribute("aria-valuetext") != said
    assert all(old != new for old, new in zip(before["pictures"], after["pictures"], strict=True))
    assert before["greeks"] != after["greeks"]
    assert sum(old != new for old, new in zip(before["numbers"], after["numbers"], strict=True)) == 1


def test_a_drag_with_the_mouse_redraws_on_the_way(tab: Tab) -> None:
    handle, count = slider(tab, "maturity"), redraws(tab)
    box = handle.bounding_box()
    y = box["y"] + box["height"] / 2

    def drag() -> None:
        tab.page.mouse.move(box["x"] + 0.4 * box["width"], y)
        tab.page.mouse.down()
        for i in range(12):
            tab.page.mouse.move(box["x"] + (0.4 + 0.03 * i) * box["width"], y)
            tab.page.wait_for_timeout(60)
        tab.page.mouse.up()

    before, after = changed(tab, drag)
    assert redraws(tab) - count >= 4
    assert all(old != new for old, new in zip(before["pictures"], after["pictures"], strict=True))
    assert before["labels"] != after["labels"]


def test_the_strike_follows_a_press_on_the_density(tab: Tab) -> None:
    canvas = shown(tab).locator("canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    before, after = changed(tab, lambda: canvas.click(position={"x": 0.3 * box["width"], "y": 0.5 * box["height"]}))
    assert before["numbers"][-1] != after["numbers"][-1]
    assert after["numbers"][-1].startswith("−")


def test_a_number_can_be_typed_and_is_held_within_the_slider(tab: Tab) -> None:
    number = shown(tab).get_by_label("vol. of variance, value")
    changed(tab, lambda: (number.fill("0.3"), number.press("Enter")))
    assert float(number.input_value()) == pytest.approx(0.3)
    changed(tab, lambda: (number.fill("99"), number.press("Enter")))
    assert float(number.input_value()) == pytest.approx(0.8)
    changed(tab, lambda: (number.fill("much"), number.press("Enter")))
    assert float(number.input_value()) == pytest.approx(0.8)


def test_put_and_price_are_other_questions(tab: Tab) -> None:
    root = shown(tab)
    before, after = changed(tab, lambda: root.get_by_text("put", exact=True).click())
    assert before["greeks"] != after["greeks"]
    assert after["labels"][3].startswith("Put price")
    before, after = changed(tab, lambda: root.get_by_text("price", exact=True).click())
    assert after["labels"][1].startswith("Put prices over the log-moneyness")


def test_a_law_can_be_hidden(tab: Tab) -> None:
    before = state(tab)
    box = shown(tab).get_by_role("checkbox", name="learned")
    box.uncheck()
    hidden = state(tab)
    box.check()
    assert before["pictures"][0] != hidden["pictures"][0]
    assert state(tab)["pictures"][0] == before["pictures"][0]


def test_reset_goes_back_to_the_start(tab: Tab) -> None:
    changed(tab, lambda: shown(tab).get_by_role("button", name="Reset").click())
    numbers = state(tab)["numbers"]
    assert [float(number.replace("−", "-")) for number in numbers] == pytest.approx([0.04, 1.5, 0.06, 0.6, -0.6, 1.0, 0.0])


def test_every_control_has_a_name_and_a_place_in_the_tab_order(tab: Tab) -> None:
    named = """root => [...root.querySelectorAll('input, button')].every(e => e.tabIndex >= 0
        && (e.getAttribute('aria-label') || e.labels?.length || e.textContent))"""
    assert shown(tab).evaluate(named)
    assert all(label for label in state(tab)["labels"])


def test_a_dark_theme_is_followed(tab: Tab) -> None:
    before = state(tab)
    tab.page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
    tab.page.wait_for_function("() => document.querySelector('.smc-explorer')?.dataset.theme === 'dark'", timeout=30_000)
    tab.page.wait_for_timeout(800)
    after = state(tab)
    assert all(old != new for old, new in zip(before["pictures"], after["pictures"], strict=True))
    tab.page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Light' })")
    tab.page.wait_for_function("() => document.querySelector('.smc-explorer')?.dataset.theme === 'light'", timeout=30_000)


@pytest.mark.parametrize("size", [(1440, 900), (720, 450), (480, 700)], ids=["100 %", "200 %", "narrow"])
def test_it_fits_the_page_at_the_page_s_resolution(tab: Tab, size: tuple[int, int]) -> None:
    tab.page.set_viewport_size({"width": size[0], "height": size[1]})
    tab.page.wait_for_timeout(800)
    found = shown(tab).evaluate(ROOM)
    tab.page.set_viewport_size({"width": 1440, "height": 1000})
    assert found["over"] <= 0
    assert found["smallest"] >= 11
    for width, shown_width, height, shown_height in found["canvases"]:
        assert abs(width - found["ratio"] * shown_width) <= 1
        assert abs(height - found["ratio"] * shown_height) <= 1
        assert shown_height >= 190


def test_nothing_went_wrong_in_the_page_and_nothing_left_the_machine(tab: Tab) -> None:
    assert tab.errors == []
    assert tab.outside == []


def test_at_twice_the_resolution_a_canvas_has_twice_the_pixels(lab: Lab, context: Any) -> None:
    sharp = context.browser.new_context(viewport={"width": 720, "height": 500}, device_scale_factor=2)
    other = Tab(sharp.new_page(), lab)
    other.open(NAME)
    assert other.run_all() == []
    other.page.wait_for_function(READY, timeout=60_000)
    found = shown(other).evaluate(ROOM)
    assert found["ratio"] == 2
    assert found["over"] <= 0
    assert all(abs(width - 2 * shown_width) <= 1 for width, shown_width, _, _ in found["canvases"])
    assert other.errors == []
    sharp.close()


@pytest.mark.skipif("SPECTRALMC_ALL_NOTEBOOKS" not in os.environ, reason="minutes: set SPECTRALMC_ALL_NOTEBOOKS")
@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_runs_in_the_browser(lab: Lab, context: Any, path: Path) -> None:
    opened = Tab(context.new_page(), lab)
    opened.open(path.name)
    assert opened.run_all(timeout=600) == []
    assert (opened.errors, opened.outside) == ([], [])
    opened.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    opened.page.close()


def test_without_a_kernel_it_says_so(tab: Tab) -> None:
    """The last one: it ends the kernel."""
    tab.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    slider(tab, "correlation").focus()
    tab.page.keyboard.press("ArrowRight")
    said = "() => document.querySelector('.smc-explorer .smc-status').textContent.startsWith('no answer from the kernel')"
    tab.page.wait_for_function(said, timeout=20_000)
