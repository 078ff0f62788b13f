"""The checks at the door: what passes unchanged, and every refusal."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from spectralmc.validation import count, one_of, real


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), [2.0], (2.0,), np.array([2]), torch.tensor(2), torch.tensor([2.0])])
def test_numbers_become_floating_tensors_of_the_same_value(value: object) -> None:
    tensor = real("strike", value)
    assert tensor.is_floating_point()
    assert tensor.flatten().tolist() == [2.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_floating_tensor_passes_as_it_is(dtype: torch.dtype) -> None:
    given = torch.ones(3, dtype=dtype, requires_grad=True)
    assert real("strike", given, "positive") is given
    assert real("strike", 1.0).dtype == torch.float64


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("two", "strike must be a number or an array of numbers; got 'two'"),
        (None, "strike must be a number or an array of numbers; got None"),
        ("2", "strike must be a number or an array of numbers; got '2'"),
        ([[1.0], [1.0, 2.0]], "strike must be a number or an array of numbers; got [[1.0], [1.0, 2.0]]"),
        (torch.tensor(1j), "strike must be real; got torch.complex64"),
        (torch.tensor(True), "strike must be real; got torch.bool"),
    ],
)
def test_what_is_no_real_number_is_refused(value: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match="strike must be") as caught:
        real("strike", value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ("finite", [-1.0, 0.0], [float("nan"), float("inf"), float("-inf")]),
        ("positive", [1e-300], [0.0, -1.0, float("nan"), float("inf")]),
        ("non-negative", [0.0, 1.0], [-1e-300, float("nan"), float("inf")]),
        ("in (0, 1)", [0.5], [0.0, 1.0, float("nan")]),
    ],
)
def test_each_rule_refuses_the_first_value_that_breaks_it(rule: str, good: list[float], bad: list[float]) -> None:
    assert real("maturity", good, rule).tolist() == good
    for value in bad:
        with pytest.raises(ValueError, match=re.escape(f"maturity must be {rule} (years); got {value}: wait")):
            real("maturity", [*good, value], rule, "years", "wait")


def test_emptiness_is_refused_with_its_shape() -> None:
    with pytest.raises(ValueError, match=re.escape("strike must not be empty; got shape (0, 3)")):
        real("strike", torch.empty(0, 3))


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_whole_numbers_pass(value: int) -> None:
    assert count("paths", value) == value
    assert type(count("paths", value)) is int


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "paths must be at least 1; got 0"),
        (-4, ValueError, "paths must be at least 1; got -4"),
        (True, TypeError, "paths must be a whole number; got True"),
        (2.0, TypeError, "paths must be a whole number; got 2.0"),
        ("8", TypeError, "paths must be a whole number; got '8'"),
    ],
)
def test_other_counts_are_refused(value: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        count("paths", value)


def test_one_of_passes_a_choice_and_lists_them_otherwise() -> None:
    assert one_of("kind", "put", ("call", "put")) == "put"
    with pytest.raises(ValueError, match=re.escape("kind must be one of call, put; got 'Put'")):
        one_of("kind", "Put", ("call", "put"))
