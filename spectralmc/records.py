"""The record of a run, NAME.json, and a folder of them as a table.

Schema 1, one JSON object; every key is always there:

    schema      1; another number is another schema
    name        of the run and of its files
    notebook    file name of the notebook
    title       its first heading
    status      "done" or "failed"; "waiting" for a run that has not begun
    reason      why it failed, one sentence, else null
    error       {"cell": number from 1 or null, "ename": exception, "evalue": message}, else null
    parameters  {name: value}, the notebook's defaults included
    verdicts    [{"claim", "measured", "relation" ("<=" or ">="), "bound", "unit", "holds"}]
    scalars     {name: number, text, true or false}; a number that is not finite is text
    seconds     wall time
    started     UTC, ISO 8601
    versions    {"spectralmc", "python", "torch", "numpy"}
    commit      of the notebook's clone, "-dirty" where it was changed, or null
    seed        the parameter of that name, or null
    device      "cpu", or the name of the GPU
    inputs      SHA-256 of notebook and parameters
    files       {"ipynb", "html"}: file names beside the record
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
KEYS = (
    "schema", "name", "notebook", "title", "status", "reason", "error", "parameters", "verdicts", "scalars", "seconds", "started",
    "versions", "commit", "seed", "device", "inputs", "files",
)  # fmt: skip


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read one record.

    Raises
    ------
    FileNotFoundError, ValueError
        no such file; not a record, or one of another schema.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not a record: {error}") from None
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA or set(record) != set(KEYS):
        raise ValueError(f"{str(path)!r} is not a record of schema {SCHEMA}; it says {schema!r}: run the notebook again")
    return dict(record)


@dataclass(frozen=True)
class Records:
    """Records as a table; as the last expression of a cell it shows itself.

    ``records["mean_bp"]`` is one column: a field of the record, a parameter, or a scalar (``parameter.NAME``, ``scalar.NAME`` where the
    name is taken); None where a run has no such entry.
    """

    rows: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order of first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __getitem__(self, column: str) -> list[Any]:
        if column not in self.columns:
            raise KeyError(f"no column {column!r}; there are {', '.join(self.columns) or 'none'}")
        return [row.get(column) for row in self.rows]

    def __repr__(self) -> str:
        table = [self.columns, *([_shown(row.get(name)) for name in self.columns] for row in self.rows)]
        widths = [max(len(line[i]) for line in table) for i in range(len(self.columns))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_shown(row.get(name)))}</td>" for name in self.columns) + "</tr>" for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def load_records(folder: str | os.PathLike[str]) -> Records:
    """Read every record of a folder of runs into a table, one row a run in order of their names.

    Raises
    ------
    FileNotFoundError, ValueError
        no such folder; none of its files is a record; a record is damaged or of another schema.
    """
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r}")
    files = sorted(path.glob("*.json"))
    if not files:
        raise ValueError(f"no records (*.json) in {str(folder)!r}: run spectralmc report or run --out there")
    return Records(tuple(_row(read_record(file)) for file in files))


def _row(record: dict[str, Any]) -> dict[str, Any]:
    holds = [verdict["holds"] for verdict in record["verdicts"]]
    fields: dict[str, Any] = {name: record[name] for name in ("name", "status", "seconds")}
    fields |= {"verdicts": len(holds), "holding": sum(holds), "device": record["device"], "commit": record["commit"]}
    taken = fields.keys() | record["scalars"].keys()
    parameters = {f"parameter.{name}" if name in taken else name: value for name, value in record["parameters"].items()}
    scalars = {f"scalar.{name}" if name in fields else name: value for name, value in record["scalars"].items()}
    return {**fields, **parameters, **scalars}


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
