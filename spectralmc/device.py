"""Which device, which dtypes: the one place that chooses, and the check that says what this machine can do."""

from __future__ import annotations

import importlib
import locale
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

TORCH_TESTED = ((2, 4), (2, 14))  # first and last minor version the tests run on
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
    """Return the torch device to compute on: "auto" is the GPU if a usable one is there and the CPU otherwise.

    Raises: ``ValueError`` for a name other than auto, cpu, cuda, cuda:0, cuda:1, …, or for a GPU this machine cannot use.

    >>> choose("cpu")
    device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if cuda_usable() else "cpu")
    name, _, index = str(device).partition(":")
    if name not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<number>; got {device!r}")
    if name == "cuda" and not cuda_usable():
        raise ValueError(
            f"device must be one this machine has; got {device!r}, but {_why_no_cuda()}: use 'auto' or 'cpu'"
        )
    if name == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device must be below cuda:{torch.cuda.device_count()}, the number of GPUs here; got {device!r}"
        )
    return torch.device(device)


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


def architectures() -> list[str]:
    """List the GPU architectures torch was compiled for (``sm_50`` …), which it can tell without a GPU."""
    flags = getattr(torch._C, "_cuda_getArchFlags", None)
    return str(flags() or "").split() if flags else []


def covers(compiled: list[str], capability: tuple[int, int]) -> bool:
    """Say whether machine code of one of ``compiled`` runs on a card: same major version, minor at most the card's.

    >>> covers(["sm_50", "sm_90"], (5, 2)), covers(["sm_60"], (5, 2))
    (True, False)
    """
    numbers = [int(digits) for name in compiled if (digits := "".join(filter(str.isdigit, name.removeprefix("sm_"))))]
    return any(number // 10 == capability[0] and number % 10 <= capability[1] for number in numbers)


def check() -> list[Check]:
    """Try, one by one, what the library relies on; nothing is raised, every failure carries its remedy."""
    return [_attempt(name, probe, remedy) for name, probe, remedy in _PROBES]


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
    card = "sm_{}{}".format(*torch.cuda.get_device_capability())
    return f"torch is compiled for {' '.join(architectures()) or 'no GPU'}, not for this card ({card})"


def _python() -> tuple[bool, str]:
    return sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _torch() -> tuple[bool, str]:
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    low, high = (f"{a}.{b}" for a, b in TORCH_TESTED)
    return TORCH_TESTED[0] <= (major, minor) <= TORCH_TESTED[1], f"{torch.__version__}, tested {low} to {high}"


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
    return bool(
        (values - torch.tensor([1.0, 3.0], dtype=torch.float64)).abs().max() < 1e-12
    ), "eigenvalues 1 and 3 found"


def _complex() -> tuple[bool, str]:
    z = torch.tensor([3 + 4j], dtype=torch.complex64, requires_grad=True)
    (z * z.conj()).real.sum().backward()  # type: ignore[no-untyped-call]
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
    return (
        (None, "this system does not say") if free is None else (free >= MEMORY_NEEDED, f"{free / 2**30:.1f} GiB free")
    )


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
    capability = torch.cuda.get_device_capability()
    return covers(architectures(), capability), "torch is compiled for {}; the card is sm_{}{}".format(
        known, *capability
    )


def _kernel() -> tuple[bool | None, str]:
    if not torch.cuda.is_available():
        return None, "no GPU"
    x = torch.arange(1000, dtype=torch.float64, device="cuda")
    return float((x * x).sum().cpu()) == 332833500.0, "a sum of squares on the GPU"


def _cupy() -> tuple[bool | None, str]:
    try:
        cupy: Any = importlib.import_module("cupy")
    except ModuleNotFoundError:
        return None, "not installed"
    if not torch.cuda.is_available():
        return None, f"{cupy.__version__}; no GPU"
    tensor = torch.arange(4, dtype=torch.float64, device="cuda")
    array = cupy.from_dlpack(tensor)
    back = torch.from_dlpack(array)
    same = array.data.ptr == tensor.data_ptr() == back.data_ptr()
    return same, f"{cupy.__version__}, DLPack round trip {'without' if same else 'with'} a copy"


_PROBES: tuple[tuple[str, Probe, str], ...] = (
    ("Python", _python, "install Python 3.11 or newer"),
    ("torch", _torch, "install a torch version in the tested range"),
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
