"""Bytes that only look like a model: pickles that would run, headers that lie, JSON without end."""

from __future__ import annotations

import io
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

NAMES = (
    "pickle", "array of objects", "torch archive", "header of 2^63 bytes", "header of 2^64 bytes", "deep list", "deep object",
    "a million tensors", "negative shape", "shape that overflows", "overlapping tensors", "unknown type", "no number", "no UTF-8",
    "nothing",
)  # fmt: skip


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> Any:
        return Path.touch, (self.sentinel,)


def made(name: str, sentinel: Path) -> bytes:
    """Return the bytes of one of ``NAMES``; those that can would make the file ``sentinel`` when they are executed."""
    headers: dict[str, Any] = {
        "deep list": b"[" * 100_000,
        "deep object": b'{"a":' * 40_000,
        "no number": b'{"a":NaN}',
        "no UTF-8": b"\xff\xfe{}",
        "negative shape": tensor(shape=[-1]),
        "shape that overflows": tensor(shape=[1 << 62, 1 << 62]),
        "unknown type": tensor(dtype="Q9"),
        "overlapping tensors": {**tensor(), "b": tensor()["a"]},
    }
    if name in headers:
        header = headers[name]
        header = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(header)) + header + b"0000"
    buffer = io.BytesIO()
    if name == "array of objects":
        np.save(buffer, np.array([Runs(sentinel)], dtype=object), allow_pickle=True)
    if name == "torch archive":
        torch.save({"weight": Runs(sentinel)}, buffer)
    others = {
        "pickle": lambda: pickle.dumps(Runs(sentinel)),
        "header of 2^63 bytes": lambda: struct.pack("<Q", 1 << 63) + b"{}",
        "header of 2^64 bytes": lambda: b"\xff" * 8 + b"{}",
        "a million tensors": lambda: struct.pack("<Q", 56_000_000) + b"{}",
    }
    return others.get(name, buffer.getvalue)()


def tensor(**changed: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changed}}
