"""Records: canonical JSON that carries its own hash and that of the record before it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from spectralmc.store.files import DamagedError, Directory, place_of

DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
SEQUENCE = re.compile(r"[0-9]{20}", re.ASCII)
SEAL = re.compile(r"([0-9]{20})-([0-9a-f]{64})", re.ASCII)
TAG = re.compile(r"(?!latest$|[0-9]+$|[0-9a-f]{8,64}$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_FIELDS: dict[str, Any] = {
    "id": str, "sequence": int, "parent": str | None, "kind": str, "versions": int, "tags": dict, "dropped": list, "time": str,
    "author": str, "message": str,
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class Record:
    """One record of the log: its hash, which is that of everything before it too, and its plain data.

    ``kind`` is "version", "tag" or "drop".  ``number`` counts the versions up to here, so it is a version's own number; ``sequence``
    counts records.
    """

    hash: str
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        """What was recorded."""
        return str(self.body["kind"])

    @property
    def number(self) -> int:
        """How many versions there were then."""
        return int(self.body["versions"])

    @property
    def sequence(self) -> int:
        """How many records there were then."""
        return int(self.body["sequence"])

    @property
    def message(self) -> str:
        """What its author said."""
        return str(self.body["message"])

    @property
    def description(self) -> dict[str, Any]:
        """What a version is: process, box, functional, network, accuracy, training record."""
        return dict(self.body.get("description", {}))

    @property
    def objects(self) -> dict[str, dict[str, Any]]:
        """Name → SHA-256 and size of a version's files."""
        return dict(self.body.get("objects", {}))

    def __repr__(self) -> str:
        what = f"version {self.number}" if self.kind == "version" else f"{self.kind} (record {self.sequence})"
        error = self.description.get("relative_error")
        accuracy = f", price error {error:.1e} s.d." if isinstance(error, float) else ""
        return f"{what} {self.hash[:12]}{accuracy}: {self.message}"


def canonical(value: Any) -> bytes:
    """Return plain data as JSON of which there is one spelling: ASCII, sorted keys, no space, no NaN (``ValueError``, ``TypeError``)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def framed(body: bytes) -> bytes:
    """Return the file of a record: its body with the hash of it."""
    return b'{"body":' + body + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'


def read_record(directory: Directory, sequence: int) -> Record:
    """Return a record whose content matches its own hash and which can be one (``FileNotFoundError``, ``DamagedError``)."""
    place = f"log/{file_name(sequence)}"
    data = directory.get("log", file_name(sequence))
    raw = data[8:-77]
    if data != framed(raw):
        raise DamagedError(f"{place} does not match its own hash")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise DamagedError(f"{place} is not JSON") from None
    if not _is_body(body):
        raise DamagedError(f"{place} is not a record of this format")
    if body["sequence"] != sequence:
        raise DamagedError(f"{place} says it is record {body['sequence']}")
    return Record(data[-66:-2].decode(), body)


def _is_body(body: Any) -> bool:
    """Whether every value that is used later, in a path above all, is what it must be."""
    if not isinstance(body, dict) or not all(isinstance(body.get(name, ...), kind) for name, kind in _FIELDS.items()):
        return False
    version = body["kind"] == "version"
    return (
        body["kind"] in ("version", "tag", "drop")
        and (body["parent"] is None or DIGEST.fullmatch(body["parent"]) is not None)
        and all(TAG.fullmatch(tag) and isinstance(number, int) for tag, number in body["tags"].items())
        and all(isinstance(span, list) and len(span) == 2 and all(isinstance(n, int) for n in span) for span in body["dropped"])
        and body.keys() - _FIELDS.keys() == ({"description", "objects"} if version else set())
        and (not version or (isinstance(body["description"], dict) and _are_objects(body["objects"])))
    )


def _are_objects(objects: Any) -> bool:
    return isinstance(objects, dict) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("sha256"), str)
        and DIGEST.fullmatch(entry["sha256"]) is not None
        and isinstance(entry.get("size"), int)
        for entry in objects.values()
    )


def read_head(directory: Directory) -> tuple[Record | None, bool]:
    """Return the newest record and whether it is sealed, or refuse a store that has lost it (``DamagedError``)."""
    seal = max(directory.list("seals"), default="")  # before the log: what is sealed was there first
    newest = max(directory.list("log"), default="")
    if newest and not SEQUENCE.fullmatch(newest):
        raise DamagedError(f"{place_of('log', newest)} is not ours")
    sealed = SEAL.fullmatch(seal)
    if seal and not sealed:
        raise DamagedError(f"{place_of('seals', seal)} is not ours")
    if sealed and sealed[1] > newest:
        raise DamagedError(f"log/{sealed[1]} is sealed but gone: the newest record is lost")
    if not newest:
        return None, True
    head = read_record(directory, int(newest))
    if sealed and sealed[1] == newest and sealed[2] != head.hash:
        raise DamagedError(f"log/{newest} does not match its seal")
    return head, bool(sealed and sealed[1] == newest)


def seal(directory: Directory, record: Record) -> None:
    """Say durably that a record exists."""
    directory.create("seals", f"{file_name(record.sequence)}-{record.hash}", b"")


def file_name(sequence: int) -> str:
    """Return the name of a record's file."""
    return f"{sequence:020d}"


def is_in(number: int, spans: Iterable[list[int]]) -> bool:
    """Whether a number lies in one of the spans [first, last]."""
    return any(first <= number <= last for first, last in spans)


def spans_of(numbers: Iterable[int]) -> list[list[int]]:
    """Return the spans [first, last] that hold these numbers."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return spans


