"""The README's ten lines run as they stand, and every file it links exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_ten_lines_and_the_lines_of_the_store_run(capsys, tmp_path, monkeypatch):
    code, store = (re.search(rf"## {title}\n\n```python\n(.*?)```", TEXT, re.S)[1] for title in ("Ten lines", "Models kept"))
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("steps=300", "steps=32") + store, "README.md", "exec"), names := {})
    assert "tensor" in capsys.readouterr().out
    assert names["model"].version == f"1:{names['version'].hash}"


def test_links_lead_to_files():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if not link.startswith("http")]
    assert len(links) >= 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_notebook_is_listed():
    assert {p.name for p in (ROOT / "notebooks").glob("*.ipynb")} <= set(re.findall(r"notebooks/([\w.]+\.ipynb)\)", TEXT))
