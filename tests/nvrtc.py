"""CUDA's runtime compiler from its Python packages, by ctypes: machine code, registers and spills for a card that is not there."""

from __future__ import annotations

import ctypes
import functools
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FOLDERS = {"11.8": "cuda_nvrtc", "13": "cu13"}  # of the packages nvidia-cuda-nvrtc-cu11 and nvidia-cuda-nvrtc
ADDED_BY_CUPY = {"11.8": ("-ftz=true",), "13": ("-ftz=true", "--device-as-default-execution-space")}


class RefusedError(Exception):
    """The compiler refused the source; the message is its log."""


@dataclass(frozen=True)
class Compiled:
    """Machine code, and (registers, bytes of spill stores) of each kernel."""

    code: bytes
    use: dict[str, tuple[int, int]]


@functools.cache
def _library(toolkit: str) -> Any:
    spec = find_spec("nvidia")
    places = [Path(place) / FOLDERS[toolkit] / "lib" for place in (spec.submodule_search_locations if spec else None) or ()]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"CUDA {toolkit}'s compiler library is not installed: pip install -e '.[test]'")
    files = sorted(path for path in folder.glob("libnvrtc*.so*") if "alt" not in path.name)
    for path in files:  # its builtins first: one of the packages does not look beside itself
        if "builtins" in path.name:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(next(path for path in files if "builtins" not in path.name)))


def compiled(source: str, toolkit: str, architecture: str, expressions: list[str], options: tuple[str, ...] = ()) -> Compiled:
    """Compile CUDA C++ to the machine code of ``sm_XY`` for these name expressions, or raise `RefusedError`.

    In a thread of its own: CUDA 11.8's compiler leaves its thread in the C locale, where files are read as ASCII.
    """
    with ThreadPoolExecutor(1) as apart:
        return apart.submit(_compiled, source, toolkit, architecture, expressions, options).result()


def _compiled(source: str, toolkit: str, architecture: str, expressions: list[str], options: tuple[str, ...]) -> Compiled:
    library, program = _library(toolkit), ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    try:
        for expression in expressions:
            library.nvrtcAddNameExpression(program, expression.encode())
        given = [f"--gpu-architecture={architecture}", "--ptxas-options=-v", *ADDED_BY_CUPY[toolkit], *options]
        failed = library.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*(o.encode() for o in given)))
        log = _text(library, program, "ProgramLog")
        if failed:
            raise RefusedError(log.decode(errors="replace"))
        names = {}
        for expression in expressions:
            lowered = ctypes.c_char_p()
            library.nvrtcGetLoweredName(program, expression.encode(), ctypes.byref(lowered))
            assert lowered.value, expression
            names[lowered.value.decode()] = expression
        return Compiled(_text(library, program, "CUBIN"), _use(log.decode(), names))
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text(library: Any, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw if what == "CUBIN" else buffer.value


def _use(log: str, names: dict[str, str]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for entry in re.split(r"Compiling entry function '", log)[1:]:
        name = names.get(entry[: entry.index("'")], "")  # a kernel that is no template is compiled unasked
        spills, registers = re.search(r"(\d+) bytes spill stores", entry), re.search(r"Used (\d+) registers", entry)
        assert spills is not None, name
        assert registers is not None, name
        found[name] = int(registers[1]), int(spills[1])
    found.pop("", None)
    return found
