"""The kernels compiled as C++, and a stand-in for `spectralmc.cuda.launch` that runs them on tensors of the CPU."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from spectralmc import cuda

_HEAD = """
#include "%s"
#include "%s"
#include <tuple>
template <class... A, size_t... I> static void call(void (*kernel)(A...), Three grid, Three block, void **at, std::index_sequence<I...>) {
    launch(grid, block, [&] { kernel(*(A *)at[I]...); });
}
template <class... A> static void call(void (*kernel)(A...), Three grid, Three block, void **at) {
    call(kernel, grid, block, at, std::index_sequence_for<A...>());
}
"""
_ONE = 'extern "C" void run%d(unsigned *g, void **at) { call(&%s, {g[0], g[1], 1}, {g[2], g[3], 1}, at); }\n'


def instances() -> list[str]:
    """The instances that the tests run."""
    found = ["words", "sobol_shifts"]
    for real in ("float", "double"):
        pairs = [(process, wanted) for process, most in (("BlackScholes", 127), ("Heston", 127), ("Merton", 63)) for wanted in (10, most)]
        found += [f"simulate<{real}, {process}<{real}>, {wanted}>" for process, wanted in pairs]
        found += [f"{kernel}<{real}, {p}<{real}>>" for kernel in ("simulate_conditional", "simulate_sobol") for p in ("Heston", "Merton")]
        found += [f"phases<{real}>", f"spectrum<{real}>", f"puts<{real}>"]
        found += [f"norm_{part}<{real}>" for part in ("moments", "forward", "apply", "gradient_sums", "backward", "gradient")]
    return found


@functools.cache
def _library() -> Any:
    """All instances in one library, built once and kept beside Python's own compiled files."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler: the kernels' arithmetic is not checked here")
    here = Path(__file__).parent
    code = _HEAD % (here / "host.h", Path(cuda.__file__).parent / "kernels.cu")
    code += "".join(_ONE % (i, expression) for i, expression in enumerate(instances()))
    text = code + cuda.source() + (here / "host.h").read_text(encoding="utf-8")
    folder = here / "__pycache__" / f"kernels-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "kernels.so").exists():
        (folder / "kernels.cpp").write_text(code, encoding="utf-8")
        part = folder / f"part-{os.getpid()}.so"
        command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-o", str(part), str(folder / "kernels.cpp")]
        subprocess.run(command, check=True, capture_output=True, text=True)
        part.rename(folder / "kernels.so")
    return ctypes.CDLL(str(folder / "kernels.so"))


def launch(expression: str, grid: Sequence[int], block: Sequence[int], *arguments: Any) -> None:
    """Run a kernel as `spectralmc.cuda.launch` would, on this machine's processor."""
    size = [*grid, 1, 1][:2] + [*block, 1, 1][:2]
    if expression.startswith("simulate"):  # its loop takes any grid: one thread is quickest here
        size = [1, 1, 1, 1]
    held = []
    for argument in arguments:
        if argument is None or isinstance(argument, Tensor):
            held.append(np.array([0 if argument is None else argument.data_ptr()], np.uint64))
        else:
            held.append(np.atleast_1d(argument))
    addresses = (ctypes.c_void_p * len(held))(*(value.ctypes.data for value in held))
    getattr(_library(), f"run{instances().index(expression)}")((ctypes.c_uint * 4)(*size), addresses)
