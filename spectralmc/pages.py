"""Pages people read: one notebook as one offline HTML file, the gallery of a report, the comparison of a sweep.

A page fetches nothing and runs nothing but, in a comparison, the one script that sorts it: its content-security policy allows embedded
images, its own style and that script by its hash. Formulae become MathML, which browsers show by themselves.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment, FileSystemLoader
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from PIL import Image

from spectralmc.verdicts import columns, shown

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
TEMPLATES = Path(__file__).parent / "templates"
_FIGURES = 1_400_000  # letters that the figures of a comparison may take, so that the page stays below 2 MB
_SMALL = (420, 300), 48  # largest size and number of colours of such a figure
_DIGITS = 5  # at most, of a number in a column of a comparison whose points are aligned
# Code first, so that a dollar inside it stays what it is; then displayed, then inline formulae.
_FORMULA = re.compile(
    r"(?P<code>```.*?```|`[^`\n]*`|\\\$)|\$\$(?P<block>.+?)\$\$|(?<!\$)\$(?=[^\s$])(?P<inline>[^$]*?[^\s$\\])\$(?!\d)", re.S
)
_NO_MATHML = re.compile(
    r"<(?!/?(?:math|mrow|mi|mo|mn|ms|mtext|mspace|mstyle|mpadded|mphantom|menclose|mfenced|mfrac|msqrt|mroot|msub|msup|msubsup|munder|mover"
    r"|munderover|mmultiscripts|mprescripts|mtable|mtr|mtd)\b)"
)
_LIVE = "application/vnd.jupyter.widget-view+json"
_ACTIVE = re.compile(r"<(?=/?(?:script|iframe|object|embed|link|meta|base|form)\b)", re.I)


def page(notebook: Any, record: dict[str, Any], folder: Path) -> str:
    """Return an executed notebook as one HTML file that asks the network for nothing.

    ``folder`` is where relative images of its text are found. A formula that cannot be converted stays as it was written.
    """
    mark, formulae = f"formula{secrets.token_hex(8)}n", list[str]()
    notebook = nbformat.from_dict(notebook)
    # papermill marks the failing cell with texts of its own; the notice on top says it better
    notebook.cells = [cell for cell in notebook.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", [])]
    keep_pictures(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _FORMULA.sub(lambda match: _set_aside(match, mark, formulae), cell.source)
    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[str(TEMPLATES)], embed_images=True, exclude_anchor_links=True)
    notice = f"This run failed. {record['reason']}" if record["reason"] else ""
    about = {"policy": POLICY, "style": _style(), "title": record["title"], "notice": notice, "provenance": provenance(record)}
    resources = {"metadata": {"name": record["name"], "path": str(folder)}, "page": about}
    text, _ = exporter.from_notebook_node(notebook, resources=resources)
    head, body = text.split("<body>", 1)
    body = re.sub(rf' (?:id|href)="[^"]*{mark}[^"]*"', "", body)  # headings name themselves after their text
    return head + "<body>" + re.sub(rf"{mark}(\d+)z", lambda match: formulae[int(match[1])], _ACTIVE.sub("&lt;", body))


def keep_pictures(notebook: Any) -> None:
    """Drop the live view of every output that has a picture beside it: without a kernel only the picture says something."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if "image/png" in output.get("data", {}):
            output.data.pop(_LIVE, None)


def _set_aside(match: re.Match[str], mark: str, formulae: list[str]) -> str:
    """Put a placeholder where a formula stands: the conversion to HTML would take MathML apart."""
    if match["code"]:
        return match[0]
    formulae.append(_mathml(match["block"] or match["inline"], display=match["block"] is not None))
    return f"{mark}{len(formulae) - 1}z"


def _mathml(formula: str, display: bool) -> str:
    try:
        found = str(convert(formula, display="block" if display else "inline"))
    except Exception:  # whatever the converter trips over, the reader still gets the formula
        return f"<code>{html.escape(formula)}</code>"
    found = _NO_MATHML.sub("&lt;", found)  # the converter passes on whatever stands in a text
    found = found.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")  # HTML knows MathML by itself
    return f'<span class="math">{found}</span>' if display else found


def title_of(notebook: Any, otherwise: str) -> str:
    """Return the first heading of a notebook as plain text."""
    for cell in notebook.cells:
        match = re.search(r"^# +(.+)$", cell.source, re.M) if cell.cell_type == "markdown" else None
        if match:
            return match[1].strip()
    return otherwise


def provenance(record: dict[str, Any]) -> str:
    """Return where a record comes from, in one line."""
    if not record["started"]:
        return str(record["notebook"])
    seed = [] if record["seed"] is None else [f"seed {record['seed']}"]
    versions = [f"{name} {version}" for name, version in record["versions"].items() if version]
    commit = [f"commit {record['commit']}"] if record["commit"] else []
    started = f"{record['started'][:16].replace('T', ' ')} UTC"
    return " · ".join([record["notebook"], *seed, record["device"], started, *versions, *commit])


def gallery(records: list[dict[str, Any]], folder: Path, figures: bool = True) -> str:
    """Return the page with one card a run, failures first; ``folder`` holds the runs' files, which the cards link and, if wanted,
    show by their first figure.
    """
    rank = {"failed": 0, "waiting": 1, "done": 2}
    ordered = sorted(records, key=lambda record: (rank[record["status"]], record["name"]))
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    return environment.get_template("gallery.html.j2").render(
        policy=POLICY,
        style=_style(),
        counts=Counter(record["status"] for record in records),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cards=[_card(record, folder, figures) for record in ordered],
    )


def _card(record: dict[str, Any], folder: Path, figures: bool) -> dict[str, Any]:
    return {
        **record,
        "page": record["files"].get("html"),
        "thumbnail": _first_figure(folder / record["files"].get("ipynb", "")) if figures else "",
        "summary": summary(record),
        "broken": not all(row["holds"] for row in record["verdicts"]),
        "verdicts": [columns(row) for row in record["verdicts"]],
        "scalars": [(name, shown(value)) for name, value in record["scalars"].items()],
        "provenance": provenance(record),
    }


def summary(record: dict[str, Any]) -> str:
    """Return how many verdicts hold and how long the run took."""
    holds = [row["holds"] for row in record["verdicts"]]
    verdicts = [f"{sum(holds)} of {len(holds)} verdicts hold"] if holds else []
    return " · ".join([*verdicts, *([f"{record['seconds']:.1f} s"] if record["started"] else [])])


def _first_figure(file: Path) -> str:
    try:
        notebook = nbformat.read(file, as_version=4)
    except (OSError, ValueError):  # a card without a figure is better than no gallery
        return ""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    figures = (output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {}))
    return re.sub(r"\s", "", next(figures, ""))


def comparison(name: str, swept: Sequence[str], records: list[dict[str, Any]], folder: Path, figures: bool = True) -> str:
    """Return the page that compares the runs of a sweep: a table to sort, and the first figure of each run, small, in its order.

    ``swept`` are the parameters that differ, one column each beside those of the recorded scalars.
    """
    scalars = list(dict.fromkeys(key for record in records for key in record["scalars"]))
    several = len({record["notebook"] for record in records}) > 1
    columns = [
        _Column("run", []),
        _Column("status", []),
        *([_Column("notebook", [record["notebook"] for record in records])] if several else []),
        *(_Column(key, [record["parameters"].get(key) for record in records]) for key in swept),
        _Column("seconds", [record["seconds"] if record["started"] else None for record in records], bars=True),
        _Column("verdicts that hold", [_holding(record) for record in records]),
        *(_Column(key, [record["scalars"].get(key) for record in records], bars=True) for key in scalars),
    ]
    pictures = _small_figures(records, folder) if figures else [""] * len(records)
    told = columns[2 + several : 2 + several + len(swept)]
    rows = [
        {
            **{key: record[key] for key in ("name", "status", "reason")},
            "index": index,
            "page": record["files"].get("html"),
            "thumbnail": picture,
            "caption": " · ".join(f"{column.title} {column.text(index)}" for column in told),
            "cells": [column.cell(index) for column in columns[2:]],
        }
        for index, (record, picture) in enumerate(zip(records, pictures, strict=True))
    ]
    script = (TEMPLATES / "sweep.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    groups = [("", 1)] * several + [("parameters", len(swept)), ("run", 2), ("recorded", len(scalars))]
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True)
    return environment.get_template("sweep.html.j2").render(
        policy=f"{POLICY}; script-src 'sha256-{digest}'",
        style=_style(),
        script=script,
        name=name,
        counts=Counter(record["status"] for record in records),
        about=", ".join(sorted({record["title"] for record in records})),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        failures=[row for row in rows if row["status"] == "failed"],
        groups=[(title, width) for title, width in groups if width],
        columns=columns,
        rows=rows,
        without=sum(bool(record["files"]) and not picture for record, picture in zip(records, pictures, strict=True)) if figures else 0,
    )


class _Column:
    """One column of a comparison: its values as text, what they sort by, and how far a bar behind a number reaches."""

    def __init__(self, title: str, values: list[Any], bars: bool = False) -> None:
        self.title, self.values = title, values
        self.numbers = [float(v) if isinstance(v, int | float) and not isinstance(v, bool) else None for v in values]
        self.number = bool(values) and all(v is None or n is not None for v, n in zip(values, self.numbers, strict=True))
        known = [abs(number) for number in self.numbers if number is not None]
        self.longest = max(known, default=0.0) if bars and self.number and len(set(known)) > 1 else 0.0
        self.places = _places(values)

    def text(self, row: int) -> str:
        value = self.values[row]
        if isinstance(value, float) and self.places is not None:
            return f"{value:.{self.places}f}"
        return "" if value is None else ", ".join(map(shown, value)) if isinstance(value, list) else shown(value)

    def cell(self, row: int) -> dict[str, Any]:
        value, number = self.values[row], self.numbers[row]
        part = None if number is None or not self.longest else round(100 * abs(number) / self.longest, 1)
        return {"text": self.text(row), "value": "" if value is None else value, "number": self.number, "part": part}


def _places(values: list[Any]) -> int | None:
    """Return the decimal places that align a column of numbers; None where they differ too much in size for one number of places."""
    texts = [shown(value) for value in values if isinstance(value, float) and value != 0]
    places = [len(text.partition(".")[2]) for text in texts]
    digits = [len(text.partition(".")[0].lstrip("-")) for text in texts]
    plain = bool(texts) and all(re.fullmatch(r"-?\d+(\.\d+)?", text) for text in texts)
    return max(places) if plain and max(places) + max(digits) <= _DIGITS else None


def _holding(record: dict[str, Any]) -> str | None:
    holds = [row["holds"] for row in record["verdicts"]]
    return f"{sum(holds)} of {len(holds)}" if holds else None


def _small_figures(records: list[dict[str, Any]], folder: Path) -> list[str]:
    """Return the first figure of every run as a small PNG in base64, as far as they fit into one page."""
    room, found = _FIGURES, list[str]()
    for record in records:
        picture = _small_figure(folder, record)
        room -= len(picture)
        found.append(picture if room >= 0 else "")
    return found


def _small_figure(folder: Path, record: dict[str, Any]) -> str:
    try:
        file = folder / record["files"]["ipynb"]
        return _small(file, file.stat().st_mtime_ns)
    except (KeyError, OSError, ValueError):
        return ""


@lru_cache(maxsize=4096)  # the page is written anew after every run
def _small(file: Path, _: int) -> str:
    figure = _first_figure(file)
    if not figure:
        return ""
    size, colours = _SMALL
    small = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(figure))) as picture:
        flat = Image.new("RGB", picture.size, "white")
        flat.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
        flat.thumbnail(size, Image.Resampling.LANCZOS)
        flat.quantize(colours).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def _style() -> str:
    return (TEMPLATES / "style.css").read_text(encoding="utf-8")
