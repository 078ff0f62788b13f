"""Which device, which dtypes: the one place that chooses, and the check that says what this machine can do."""

from __future__ import annotations

import importlib
import importlib.util
import locale
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

TORCH_SUPPORTED = ((2, 4), (2, 15))  # as in pyproject.toml
_SUPPORTED = tuple(f"{major}.{minor}" for major, minor in TORCH_SUPPORTED)
MEMORY_NEEDED = 2**30  # bytes: a small run with its notebook kernel
_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


@dataclass(frozen=True)
class Check:
    """One line of the device check: ``ok`` is None where the thing does not apply to this machine."""

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""


def choose(device: str = "auto") -> torch.device:
    """Return the torch device to compute on: "auto" is the GPU if a usable one is there, and CuPy, and the CPU otherwise.

    Raises: ``ValueError`` for a name other than auto, cpu, cuda, cuda:0, …, or for a GPU this machine cannot use.

    >>> choose("cpu")
    device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if cuda_usable() and _has_cupy() else "cpu")
    if not re.fullmatch("cpu|cuda(:[0-9]+)?", str(device)):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<number>; got {str(device)!r}")
    chosen = torch.device(device)
    if chosen.type == "cuda" and not cuda_usable():
        raise ValueError(f"device must be usable here; got {str(device)!r}: {_why_no_cuda()}, use 'auto' or 'cpu'")
    if chosen.type == "cuda" and not _has_cupy():
        raise ValueError(f"device {str(device)!r} needs CuPy, which is not installed: install the extra cuda11 or cuda13, or use 'cpu'")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device must be below cuda:{torch.cuda.device_count()}, the GPUs here; got {str(device)!r}")
    return chosen


def place(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which torch makes tensors on ``device``; on the CPU one that costs nothing."""
    return nullcontext() if device.type == "cpu" else device


def device_name(device: torch.device) -> str:
    """Return what a record calls the device."""
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)


def complex_of(dtype: torch.dtype) -> torch.dtype:
    """Return the complex dtype with parts of ``dtype``: float32 → complex64, float64 → complex128, others refused.

    >>> complex_of(torch.float64)
    torch.complex128
    """
    if dtype not in _COMPLEX:
        raise ValueError(f"dtype must be torch.float32 or torch.float64; got {dtype}")
    return _COMPLEX[dtype]


def cuda_usable() -> bool:
    """Say whether torch sees a GPU that its compiled code covers."""
    return torch.cuda.is_available() and covers(architectures(), torch.cuda.get_device_capability())


def _has_cupy() -> bool:
    return importlib.util.find_spec("cupy") is not None


Found = TypeVar("Found")


def in_halves(work: Callable[[range], Found], join: Callable[[Found, Found], Found], items: range) -> Found:
    """Return ``work(items)``, or of its halves where the GPU has not the memory for the whole, joined; that is said once."""
    try:
        return work(items)
    except torch.cuda.OutOfMemoryError:
        if len(items) == 1:
            raise
    torch.cuda.empty_cache()
    warnings.warn("out of GPU memory: less is computed at once", RuntimeWarning, stacklevel=2)  # one text, one place: said once
    half = len(items) // 2
    return join(in_halves(work, join, items[:half]), in_halves(work, join, items[half:]))


def architectures() -> list[str]:
    """List the GPU architectures torch was compiled for (``sm_50`` …), which it can tell without a GPU."""
    flags = getattr(torch._C, "_cuda_getArchFlags", None)
    return str(flags() or "").split() if flags else []


def covers(compiled: list[str], capability: tuple[int, int]) -> bool:
    """Say whether code for one of ``compiled`` runs on a card.

    Machine code (``sm_86``) does if the major version is the card's and the minor at most the card's, intermediate code
    (``compute_86``) on any card at least as new.

    >>> covers(["sm_50", "sm_90"], (5, 2)), covers(["sm_60"], (5, 2)), covers(["compute_90"], (12, 0))
    (True, False, True)
    """
    found = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", name) for name in compiled]
    codes = [(match[1], (int(match[2]), int(match[3]))) for match in found if match]
    return any(version <= capability and (kind == "compute" or version[0] == capability[0]) for kind, version in codes)


def check(gpu: bool = False) -> list[Check]:
    """Try, one by one, what the library relies on; nothing is raised, every failure carries its remedy.

    With ``gpu``, a missing GPU is a failure too.
    """
    found = [_attempt(name, probe, remedy) for name, probe, remedy in _PROBES]
    if gpu and not torch.cuda.is_available():
        found = [replace(line, ok=False, detail=_why_no_cuda(), remedy=_NO_CUDA) if line.name == "CUDA" else line for line in found]
    return found


_NO_CUDA = "install a CUDA build of torch and the NVIDIA driver; give a container its GPU (--gpus all)"
Probe = Callable[[], tuple[bool | None, str]]


def _attempt(name: str, probe: Probe, remedy: str) -> Check:
    try:
        ok, detail = probe()
    except Exception as error:  # a check reports whatever went wrong
        ok, detail = False, f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Check(name, ok, detail, remedy if ok is False else "")


def _why_no_cuda() -> str:
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no GPU or no driver for it"
    major, minor = torch.cuda.get_device_capability()
    return f"torch is compiled for {' '.join(architectures()) or 'no GPU'}, not for this card (sm_{major}{minor})"


def _python() -> tuple[bool, str]:
    return sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _torch() -> tuple[bool, str]:
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return TORCH_SUPPORTED[0] <= (major, minor) <= TORCH_SUPPORTED[1], f"{torch.__version__}, supported {' to '.join(_SUPPORTED)}"


def _numpy() -> tuple[bool, str]:
    return int(np.__version__.split(".")[0]) >= 2, np.__version__


def _bridge() -> tuple[bool, str]:
    array = np.arange(3.0)
    tensor = torch.from_numpy(array)
    tensor[0] = 7.0
    return bool(array[0] == 7.0 and tensor.numpy()[2] == 2.0), "one memory, both ways"


def _lapack() -> tuple[bool, str]:
    if not torch._C.has_lapack:
        return False, "torch is built without LAPACK"
    matrix = torch.tensor([[2.0, 1j], [-1j, 2.0]], dtype=torch.complex128)
    values = torch.linalg.eigh(matrix).eigenvalues
    expected = torch.tensor([1.0, 3.0], dtype=torch.float64)
    return torch.allclose(values, expected, rtol=1e-12), "eigenvalues 1 and 3 of a small matrix"


def _complex() -> tuple[bool, str]:
    z = torch.tensor([3 + 4j], dtype=torch.complex64, requires_grad=True)
    (z * z.conj()).real.sum().backward()
    return z.grad is not None and bool(z.grad[0] == 6 + 8j), "forward and backward"


def _threads() -> tuple[bool, str]:
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return torch.get_num_threads() >= 1, f"torch uses {torch.get_num_threads()} of {here} cores"


def free_memory() -> int | None:
    """Return the bytes of main memory a program may still take, or None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _memory() -> tuple[bool | None, str]:
    free = free_memory()
    if free is None:
        return None, "this system does not say"
    return free >= MEMORY_NEEDED, f"{free / 2**30:.1f} GiB free"


def _locale() -> tuple[bool, str]:
    found = {
        "stdout": getattr(sys.stdout, "encoding", None) or "none",
        "files": locale.getpreferredencoding(False),
        "file names": sys.getfilesystemencoding(),
    }
    utf8 = all(value.lower().replace("-", "") == "utf8" for value in found.values())
    return utf8, ", ".join(f"{key} {value}" for key, value in found.items())


def _cuda() -> tuple[bool | None, str]:
    if not torch.cuda.is_available():
        return None, "no GPU found; everything runs on the CPU"
    free, total = torch.cuda.mem_get_info()
    name, runtime = torch.cuda.get_device_name(), torch.version.cuda
    return True, f"{name}, CUDA {runtime}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"


def _compiled() -> tuple[bool | None, str]:
    known = " ".join(architectures()) or "no GPU architecture"
    if not torch.cuda.is_available():
        return None, f"torch is compiled for {known}; no card to compare with"
    major, minor = torch.cuda.get_device_capability()
    return covers(architectures(), (major, minor)), f"torch is compiled for {known}; the card is sm_{major}{minor}"


def _kernel() -> tuple[bool | None, str]:
    if not torch.cuda.is_available():
        return None, "no GPU"
    x = torch.arange(1000, dtype=torch.float64, device="cuda")
    return float((x * x).sum().cpu()) == 332833500.0, "a sum of squares on the GPU"


class _Stream:
    """A stream by its address, in the form that CUDA's Python libraries exchange (``__cuda_stream__``)."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


def cupy_stream(address: int) -> Any:
    """Return torch's stream at this address as one of CuPy, on the current device."""
    cupy: Any = importlib.import_module("cupy")
    made = getattr(cupy.cuda.Stream, "from_external", None)  # CuPy 13 knows an older form alone
    return cupy.cuda.ExternalStream(address) if made is None else made(_Stream(address))


def _cupy() -> tuple[bool | None, str]:
    try:
        cupy: Any = importlib.import_module("cupy")
    except ModuleNotFoundError:
        return None, "not installed"
    if not torch.cuda.is_available():
        return None, f"{cupy.__version__}; no GPU that torch can use"
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), cupy_stream(stream.cuda_stream):
        tensor = torch.arange(4, dtype=torch.float64, device="cuda")
        array = cupy.from_dlpack(tensor)
        array += 1
        back = torch.utils.dlpack.from_dlpack(array)
        same = array.data.ptr == tensor.data_ptr() == back.data_ptr() == cupy.from_dlpack(back).data.ptr
        right = back.tolist() == [1.0, 2.0, 3.0, 4.0]
    return same and right, f"{cupy.__version__}, DLPack both ways on a stream of its own {'without' if same else 'with'} a copy"


_PROBES: tuple[tuple[str, Probe, str], ...] = (
    ("Python", _python, "install Python 3.11 or newer"),
    ("torch", _torch, "install a torch version between {} and {}".format(*_SUPPORTED)),
    ("NumPy", _numpy, "install NumPy 2 or newer"),
    ("torch and NumPy", _bridge, "reinstall torch and NumPy together, from constraints.txt: they were built apart"),
    ("LAPACK", _lapack, "install a torch built with LAPACK (every published CPU and CUDA wheel is)"),
    ("complex arithmetic", _complex, "reinstall torch from constraints.txt"),
    ("threads", _threads, "set OMP_NUM_THREADS to the number of cores"),
    ("memory", _memory, "close other programs: at least 1 GiB should be free"),
    ("locale", _locale, "set LANG=C.UTF-8 or PYTHONUTF8=1"),
    ("CUDA", _cuda, "update the NVIDIA driver, or hide the GPU with CUDA_VISIBLE_DEVICES="),
    ("architectures", _compiled, "install a torch compiled for this card, or compute on the CPU (device 'cpu')"),
    ("GPU kernel", _kernel, "install a torch compiled for this card, or compute on the CPU (device 'cpu')"),
    ("CuPy", _cupy, "install CuPy for this CUDA: the extra cuda11 or cuda13"),
)
