"""The choice of device and dtype, and a device check whose every failure carries a remedy."""

from __future__ import annotations

import doctest
import re
import sys
import types
from collections.abc import Callable

import numpy as np
import pytest
import torch

from spectralmc import device
from spectralmc.device import Check, check, choose, complex_of


def line(name: str) -> Check:
    return next(item for item in check() if item.name == name)


def boom(*_: object, **__: object) -> None:
    raise RuntimeError("requires compiling PyTorch\nwith LAPACK")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int], list[str]], None]:
    """Pretend that one GPU is there."""

    def pretend(capability: tuple[int, int], compiled: list[str]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.version, "cuda", "11.8")
        monkeypatch.setattr(device, "architectures", lambda: compiled)
        monkeypatch.setattr(device, "_has_cupy", lambda: True)

    return pretend


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_takes_a_usable_card_and_else_the_processor(card: Callable[..., None]) -> None:
    card((5, 2), ["sm_50", "sm_90"])
    assert choose() == choose("cuda") == torch.device("cuda")
    assert choose("cuda:0") == torch.device("cuda:0")
    card((5, 2), ["sm_60"])
    assert choose() == choose("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("no_card")
def test_a_missing_card_is_refused_with_a_remedy() -> None:
    assert choose("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"got 'cuda': .*(without CUDA|no GPU).*, use 'auto' or 'cpu'$"):
        choose("cuda")


@pytest.mark.parametrize(("name", "message"), [("cuda", "for sm_60, not for this card"), ("gpu", "auto, cpu, cuda")])
def test_an_unusable_card_or_unknown_name_is_refused(card: Callable[..., None], name: str, message: str) -> None:
    card((5, 2), ["sm_60"])
    with pytest.raises(ValueError, match=message):
        choose(name)


def test_a_card_without_cupy_is_refused_with_a_remedy(card: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    card((9, 0), ["sm_90"])
    monkeypatch.setattr(device, "_has_cupy", lambda: False)
    assert choose("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="needs CuPy, which is not installed: install the extra cuda11 or cuda13, or use"):
        choose("cuda")


def test_a_card_number_beyond_the_last_is_refused(card: Callable[..., None]) -> None:
    card((9, 0), ["sm_90"])
    with pytest.raises(ValueError, match="below cuda:1, the GPUs here; got 'cuda:3'"):
        choose("cuda:3")


@pytest.mark.parametrize(("dtype", "pair"), [(torch.float32, torch.complex64), (torch.float64, torch.complex128)])
def test_complex_dtypes_have_the_parts_asked_for(dtype: torch.dtype, pair: torch.dtype) -> None:
    assert complex_of(dtype) == pair
    assert torch.zeros(1, dtype=pair).real.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"dtype must be torch\.float32 or torch\.float64; got torch\."):
        complex_of(dtype)


@pytest.mark.parametrize(
    ("compiled", "capability", "covered"),
    [
        (["sm_50"], (5, 2), True),
        (["sm_52"], (5, 0), False),
        (["sm_80", "sm_90"], (8, 6), True),
        (["sm_90a"], (9, 0), True),
        (["sm_90"], (10, 0), False),
        (["compute_90"], (12, 0), True),
        (["compute_90"], (8, 6), False),
        (["sm_120"], (12, 1), True),
        ([], (9, 0), False),
    ],
)
def test_compiled_code_covers_a_card_of_its_major_version(compiled: list[str], capability: tuple[int, int], covered: bool) -> None:
    assert device.covers(compiled, capability) is covered


@pytest.mark.usefixtures("no_card")
def test_the_check_passes_here_and_leaves_the_card_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_locale", lambda: (True, "set by the test runner"))
    checks = {item.name: item for item in check()}
    assert len(checks) == len(check())
    assert not [item for item in checks.values() if item.ok is False and item.name != "locale"]
    assert checks["CUDA"] == Check("CUDA", None, "no GPU found; everything runs on the CPU")
    assert {name for name, item in checks.items() if item.ok is None} == {"CUDA", "architectures", "GPU kernel", "CuPy"}
    assert all(item.detail and not item.remedy for item in checks.values() if item.name != "locale")


@pytest.mark.usefixtures("no_card")
def test_a_gpu_that_is_asked_for_must_be_there() -> None:
    (missing,) = [after for before, after in zip(check(), check(gpu=True), strict=True) if before.ok is not after.ok]
    assert (missing.name, missing.ok) == ("CUDA", False)
    assert re.search("without CUDA|no GPU", missing.detail)
    assert "--gpus all" in missing.remedy


@pytest.mark.parametrize(
    ("name", "target", "attribute", "value", "remedy"),
    [
        ("Python", sys, "version_info", (3, 10, 4), "3.11"),
        ("torch", torch, "__version__", "2.3.1", "between 2.4 and 2.15"),
        ("torch", torch, "__version__", "3.0.0+cu130", "between 2.4 and 2.15"),
        ("NumPy", np, "__version__", "1.26.4", "NumPy 2"),
        ("torch and NumPy", torch, "from_numpy", boom, "constraints.txt"),
        ("LAPACK", torch.linalg, "eigh", boom, "built with LAPACK"),
        ("LAPACK", torch._C, "has_lapack", False, "built with LAPACK"),
        ("complex arithmetic", torch.Tensor, "backward", boom, "reinstall torch"),
        ("memory", device, "free_memory", lambda: 2**20, "close other programs"),
        ("locale", sys, "stdout", types.SimpleNamespace(encoding="ascii"), "UTF-8"),
        ("locale", sys, "getfilesystemencoding", lambda: "ascii", "UTF-8"),
    ],
)
def test_each_failure_is_one_line_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, target: object, attribute: str, value: object, remedy: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(target, attribute, value)
        found = next(device._attempt(*probe) for probe in device._PROBES if probe[0] == name)
    assert found.ok is False
    assert remedy in found.remedy
    assert "\n" not in found.detail


def test_a_card_that_the_compiled_code_misses_fails_the_check(card: Callable[..., None]) -> None:
    card((5, 2), ["sm_70", "sm_90"])
    found = line("architectures")
    assert (found.ok, found.detail) == (False, "torch is compiled for sm_70 sm_90; the card is sm_52")
    assert "torch compiled for this card" in found.remedy


def test_architectures_are_read_without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_cuda_getArchFlags", lambda: "sm_50 sm_90", raising=False)
    assert device.architectures() == ["sm_50", "sm_90"]
    monkeypatch.delattr(torch._C, "_cuda_getArchFlags")
    assert device.architectures() == []


def test_cupy_without_a_driver_does_not_apply_and_a_broken_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(__version__="13.6.0", cuda=boom))
    assert line("CuPy") == Check("CuPy", None, "13.6.0; no GPU that torch can use")
    monkeypatch.setattr(device.importlib, "import_module", boom)
    assert line("CuPy").ok is False


def test_memory_is_measured_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.free_memory() > 2**20

    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    assert device.free_memory() > 2**20
    monkeypatch.delattr(device.os, "sysconf")
    assert device.free_memory() is None
    assert device._memory() == (None, "this system does not say")


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(device).failed == 0
