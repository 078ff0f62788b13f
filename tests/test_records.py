"""Records: the schema, and a folder of them as a table."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from conftest import notebook

import spectralmc as smc
from spectralmc import runner
from spectralmc.records import KEYS, SCHEMA, read_record


def store(folder: Path, name: str, **changes: object) -> Path:
    """Write a record with every key of the schema."""
    verdicts = [{"claim": "c", "measured": 1.0, "bound": 2.0, "relation": "<=", "unit": "", "holds": True}]
    filled = dict.fromkeys(KEYS) | {"schema": SCHEMA, "name": name, "status": "done", "seconds": 1.5, "device": "cpu"}
    filled |= {"parameters": {"steps": 7, "bp": 1}, "scalars": {"bp": 0.25}, "verdicts": verdicts} | changes
    path = folder / f"{name}.json"
    path.write_text(json.dumps(filled))
    return path


def test_a_folder_of_records_is_a_table_in_order_of_names(tmp_path: Path) -> None:
    store(tmp_path, "b", scalars={"bp": 0.5, "se": 0.1})
    store(tmp_path, "a", status="failed")
    table = smc.load_records(tmp_path)
    assert table["name"] == ["a", "b"]
    assert table["status"] == ["failed", "done"]
    assert table["bp"] == [0.25, 0.5]
    assert table["se"] == [None, 0.1]
    assert table["parameter.bp"] == [1, 1]
    assert table["steps"] == [7, 7]
    assert (len(table), len(list(table))) == (2, 2)


def test_a_scalar_does_not_hide_a_field(tmp_path: Path) -> None:
    store(tmp_path, "a", scalars={"seconds": 9.0})
    table = smc.load_records(tmp_path)
    assert (table["seconds"], table["scalar.seconds"]) == ([1.5], [9.0])


def test_the_record_of_a_run_has_the_keys_of_the_schema(tmp_path: Path) -> None:
    book = tmp_path / "book.ipynb"
    nbformat.write(notebook(), book)
    assert set(runner.blank(runner.plan(book))) == set(KEYS)


def test_the_table_shows_itself_as_text_and_as_html(tmp_path: Path) -> None:
    store(tmp_path, "a", parameters={"name_of": "<b>"})
    table = smc.load_records(tmp_path)
    assert repr(table).splitlines()[1].split()[:3] == ["a", "done", "1.5"]
    assert "&lt;b&gt;" in table._repr_html_()
    assert "<b>" not in table._repr_html_()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a record"),
        ("[]", "is not a record of schema 1; it says None"),
        ('{"schema": 2}', "is not a record of schema 1; it says 2"),
        ('{"schema": 1}', "is not a record of schema 1; it says 1"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_record(tmp_path / "x.json")


def test_folders_and_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        smc.load_records(tmp_path / "gone")
    with pytest.raises(ValueError, match="no records"):
        smc.load_records(tmp_path)
    store(tmp_path, "a")
    with pytest.raises(KeyError, match="no column 'bq'; there are name, status"):
        smc.load_records(tmp_path)["bq"]
