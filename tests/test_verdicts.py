"""Verdicts: what holds, how it looks, what is recorded, and that the comparison of outputs sees the verdict, not the digits."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from nbval.plugin import get_sanitize_patterns

from spectralmc.verdicts import MIME, Verdicts, shown

RULES = get_sanitize_patterns((Path(__file__).parents[1] / "notebooks" / "sanitize.cfg").read_text(encoding="utf-8"))


def compared(text: str) -> str:
    """What nbval compares of an output."""
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    return text


def table(measured: object = 3e-16, **bound: float) -> Verdicts:
    made = Verdicts()
    made.claim("parity <holds>", measured, **(bound or {"bound": 1e-12}), unit="of forward")
    return made


@pytest.mark.parametrize(("measured", "holds"), [(0.9, True), (1.0, True), (1.1, False), (math.nan, False), (-math.inf, False)])
def test_a_claim_holds_up_to_its_bound_and_never_for_what_is_not_finite(measured: float, holds: bool) -> None:
    assert table(measured, bound=1.0).hold is holds
    assert table(-measured, at_least=-1.0).hold is holds


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0, requires_grad=True)])
def test_numbers_of_every_library_are_taken_as_python_numbers(value: object) -> None:
    made = table(value, bound=3)
    assert type(made.rows[0]["measured"]) in (int, float)
    assert made.record(x=value).payload["scalars"] == {"x": 2}


@pytest.mark.parametrize(
    ("measured", "options", "message"),
    [
        ([1.0], {"bound": 1}, r"measured must be one real number; got \[1.0\]"),
        (1j, {"bound": 1}, "measured must be one real number; got 1j"),
        (True, {"bound": 1}, "measured must be one real number; got True"),
        (1.0, {}, "must have exactly one of bound= and at_least="),
        (1.0, {"bound": 1, "at_least": 0}, "must have exactly one of bound= and at_least="),
        (1.0, {"bound": math.nan}, "bound of 'a' must be finite; got nan"),
    ],
)
def test_what_is_no_claim_is_refused(measured: object, options: dict[str, float], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Verdicts().claim("a", measured, **options)


@pytest.mark.parametrize("claim", ["", "parity <holds>"])
def test_a_claim_is_a_sentence_of_its_own(claim: str) -> None:
    with pytest.raises(ValueError, match="a claim must be a sentence of its own"):
        table().claim(claim, 1.0, 1.0)


@pytest.mark.parametrize("view", ["__repr__", "_repr_html_"])
@pytest.mark.parametrize("other", [-2.5e-9, 0.0, 1e-13, 4e-17])
def test_the_comparison_of_outputs_ignores_digits_and_sees_verdicts(view: str, other: float) -> None:
    here, there, broken = (getattr(table(x), view)() for x in (3e-16, other, 0.123))
    assert here != there
    assert compared(here) == compared(there) != compared(broken)


def test_the_comparison_sees_the_claim_and_its_bound() -> None:
    texts = {compared(repr(table(1e-16, bound=bound))) for bound in (1e-12, 1e-11)}
    assert len(texts) == 2
    assert compared("price ≈ 1.25e-3 bp") == compared("price ≈ 99 bp") != compared("price 1.25 bp")


def test_html_is_escaped() -> None:
    assert "parity &lt;holds&gt;" in table()._repr_html_()


def test_the_record_is_json_whatever_was_measured() -> None:
    bundle = table(math.nan).record(error=math.inf, name="x", none=None)._repr_mimebundle_()
    payload = json.loads(json.dumps(bundle[MIME], allow_nan=False))
    assert payload["schema"] == 1
    assert payload["verdicts"][0] | {"measured": "nan", "holds": False} == payload["verdicts"][0]
    assert payload["scalars"] == {"error": "inf", "name": "x", "none": None}
    assert bundle["text/plain"].splitlines() == ["0 of 1 verdicts hold", "error = inf", "name = x", "none = None"]


@pytest.mark.parametrize("value", [[1], np.ones(2), torch.ones(1), object(), 1j])
def test_a_scalar_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="error must be one number, a string, a bool or None; got"):
        table().record(error=value)


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (3e-16, "3.0e-16"), (0.123456, "0.123"), (123456.0, "1.2e+05"), (math.nan, "nan")])
def test_few_digits_are_shown(value: float, text: str) -> None:
    assert shown(value) == text
