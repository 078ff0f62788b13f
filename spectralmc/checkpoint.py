"""Checkpoints: the whole state of a run in one safetensors file with canonical JSON, written so that a crash leaves a whole one.

The new file is written beside the old, flushed to the disk and moved into its place; the one before stays as ``<name>.previous``.  A
SHA-256 over the description and every tensor tells damage from truth.  Nothing in a checkpoint is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

FORMAT = "spectralmc-checkpoint-1"
_DESCRIPTION = "spectralmc"


def previous(path: Path) -> Path:
    """Return the name of the checkpoint before the one at ``path``."""
    return path.with_name(path.name + ".previous")


def write(path: Path, description: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Put a checkpoint in the place of the one at ``path``, which is kept as the previous one.

    Raises
    ------
    OSError
        no such folder, or a disk that takes no more: the old checkpoint is untouched.
    """
    text = canonical({**description, "format": FORMAT})
    held = {name: real_view(tensor).contiguous() for name, tensor in tensors.items()}
    whole = {"content": _digest(text, held), "description": text}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(save_bytes(held, {_DESCRIPTION: canonical(whole)}))
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, previous(path))
        os.replace(part, path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Return description and tensors of the checkpoint at ``path``, or None where there never was one.

    Between the two moves of `write` only the previous one has its name; it is then taken.

    Raises
    ------
    ValueError
        truncated, tampered with, or of another version: the sentence names the previous checkpoint if there is one.
    """
    at = path if path.exists() else previous(path)
    if not at.exists():
        return None
    try:
        data = at.read_bytes()
        size = int.from_bytes(data[:8], "little")
        whole = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_DESCRIPTION])
        tensors, text = load_bytes(data), whole["description"]
        sound = whole["content"] == _digest(text, tensors)
        description: dict[str, Any] = json.loads(text)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the checkpoint {str(at)!r} is damaged ({error!r}){_remedy(at, path)}") from None
    if not sound:
        raise ValueError(f"the checkpoint {str(at)!r} is damaged (its content does not match its hash){_remedy(at, path)}")
    if description.get("format") != FORMAT:
        raise ValueError(f"the checkpoint {str(at)!r} must be of format {FORMAT}; it says {description.get('format')!r}: start anew")
    return description, tensors


def canonical(value: Any) -> str:
    """Return JSON whose bytes depend on the content alone."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def real_view(tensor: Tensor) -> Tensor:
    """Return (…, 2) real numbers for complex ones: a safetensors file holds no complex128."""
    return torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor.detach()


def restore(into: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Copy stored tensors into those of the same names; shapes and dtypes must agree.

    Raises
    ------
    ValueError
        a tensor is missing or has another shape or dtype.
    """
    for name, target in into.items():
        view, source = real_view(target), tensors.get(name)
        if source is None or (source.shape, source.dtype) != (view.shape, view.dtype):
            raise ValueError(f"the checkpoint does not fit this run: tensor {name!r} must be {view.dtype} {tuple(view.shape)}")
        view.copy_(source)


def _remedy(at: Path, path: Path) -> str:
    other = previous(path)
    return f": move it away to resume from {str(other)!r}" if at == path and other.exists() else ": move it away to start anew"


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # a system on which folders cannot be opened
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
