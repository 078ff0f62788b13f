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

_CALL = """
#include "%s"
#include "%s"
#include <tuple>
template <class... A, size_t... I> static void call(void (*kernel)(A...), Three grid, Three block, void **at, std::index_sequence<I...>) {
    launch(grid, block, [&] { kernel(*(A *)at[I]...); });
}
template <class... A> static void call(void (*kernel)(A...), Three grid, Three block, void **at) {
    call(kernel, grid, block, at, std::index_sequence_for<A...>());
}
extern "C" void run(unsigned *g, void **at) { call(&%s, {g[0], g[1], 1}, {g[2], g[3], 1}, at); }
"""


@functools.cache
def _compiled(expression: str) -> Any:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler: the kernels' arithmetic is not checked here")
    here = Path(__file__).parent
    code = _CALL % (here / "host.h", Path(cuda.__file__).parent / "kernels.cu", expression)
    text = code + cuda.source() + (here / "host.h").read_text(encoding="utf-8")
    folder = here / "__pycache__" / f"kernel-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    built = folder / "kernel.so"
    if not built.exists():
        (folder / "kernel.cpp").write_text(code, encoding="utf-8")
        part = folder / f"part-{os.getpid()}.so"
        command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-o", str(part), str(folder / "kernel.cpp")]
        subprocess.run(command, check=True, capture_output=True, text=True)
        part.rename(built)
    return ctypes.CDLL(str(built)).run


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
    _compiled(expression)((ctypes.c_uint * 4)(*size), addresses)
