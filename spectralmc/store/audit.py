"""Verification: every byte is read, nothing is written, and each cause of damage is named once."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from typing import Any

from spectralmc.store.files import FOLDERS, DamagedError, Directory, place_of
from spectralmc.store.records import DIGEST, SEAL, SEQUENCE, Record, file_name, is_in, read_record

_NOTHING: dict[str, Any] = {"versions": 0, "tags": {}, "dropped": []}  # the state before the first record


@dataclass(frozen=True)
class Audit:
    """What `Store.verify` found: problems, one cause a line; notes, which are none; how much it read; the newest record."""

    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    versions: int = 0
    bytes: int = 0
    head: Record | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems


def read_object(directory: Directory, entry: dict[str, Any]) -> bytes:
    """Return the bytes that a record names, if they are those (``DamagedError``)."""
    digest = entry["sha256"]
    try:
        data = directory.get("objects", digest)
    except FileNotFoundError:
        raise DamagedError(f"objects/{digest} is missing") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise DamagedError(f"objects/{digest} does not match its name")
    return data


def audited(directory: Directory) -> tuple[Audit, list[Record]]:
    """Read everything; return what is wrong, and the sound records in order."""
    before, logged, after = directory.list("seals"), directory.list("log"), directory.list("seals")  # commits go on meanwhile
    numbers = sorted(int(name) for name in logged if SEQUENCE.fullmatch(name))
    last = numbers[-1] if numbers else 0
    problems = [f"{place_of('.', name)} is not ours" for name in directory.list("") if name not in {*FOLDERS, "FORMAT", "lost+found"}]
    problems += [f"{place_of('log', name)} is not ours" for name in logged if not SEQUENCE.fullmatch(name)]
    problems += _gaps([0, *numbers])
    problems += [f"log/{m[1]} is sealed but gone: the newest record is lost" for m in map(SEAL.fullmatch, before) if m and int(m[1]) > last]
    records: dict[int, Record] = {}
    for sequence in numbers:
        try:
            records[sequence] = read_record(directory, sequence)
        except (DamagedError, OSError) as error:
            problems.append(_said(error, f"log/{file_name(sequence)}"))
    seals, unsound = _audit_seals(directory, after)
    chain, notes = _audit_chain(records, seals, last)
    ordered = list(records.values())
    read, objects, spare = _audit_objects(directory, ordered, certain=last in records or not last)
    if left := directory.list("tmp"):
        notes.append(f"tmp holds {len(left)} unpublished files: gc removes them")
    head = ordered[-1] if ordered else None
    return Audit((*problems, *unsound, *chain, *objects), (*notes, *spare), head.number if head else 0, read, head), ordered


def _gaps(numbers: list[int]) -> list[str]:
    gaps = [(a + 1, b - 1) for a, b in itertools.pairwise(numbers) if b > a + 1]
    return [f"log/{file_name(a)} is missing" + (f", and all to log/{file_name(b)}" if b > a else "") for a, b in gaps]


def _audit_seals(directory: Directory, names: list[str]) -> tuple[dict[int, set[str]], list[str]]:
    """Return number → hashes of its seals, and what is wrong with the files."""
    seals: dict[int, set[str]] = {}
    problems = []
    for name in names:
        match = SEAL.fullmatch(name)
        try:
            if not match or directory.get("seals", name):
                problems.append(f"{place_of('seals', name)} {'is not empty' if match else 'is not ours'}")
        except (DamagedError, OSError) as error:
            problems.append(_said(error, place_of("seals", name)))
        if match:
            seals.setdefault(int(match[1]), set()).add(match[2])
    return seals, problems


def _audit_chain(records: dict[int, Record], seals: dict[int, set[str]], last: int) -> tuple[list[str], list[str]]:
    problems: list[str] = []
    notes: list[str] = []
    if 1 in records and (wrong := _unlawful(_NOTHING, records[1].body)):
        problems.append(f"log/{file_name(1)} {wrong}")
    for sequence, record in records.items():
        seal, successor = seals.get(sequence, set()), records.get(sequence + 1)
        problems += _unchained(record, seal, successor, sequence == last)
        if sequence == last and not seal:
            notes.append(f"log/{file_name(sequence)} is not sealed yet: the next commit does it")
        if successor and record.body["time"] > successor.body["time"]:
            notes.append(f"log/{file_name(sequence + 1)} is dated before the record before it: clocks differ")
    return problems, notes


def _unchained(record: Record, seals: set[str], after: Record | None, newest: bool) -> list[str]:
    """Return the one thing that is wrong between a record, its seals and its successor."""
    place = f"log/{file_name(record.sequence)}"
    known = after is None or after.body["parent"] == record.hash
    if seals - {record.hash} and record.hash in seals:
        return [f"seals/{file_name(record.sequence)} is there twice: one is forged"]
    if seals and record.hash not in seals:
        witness = "its seal" if after is None else "its seal nor with the record after it" if not known else ""
        return [f"{place} does not agree with {witness}"] if witness else [f"seals/{file_name(record.sequence)} does not match its record"]
    if not known and after:
        return [f"log/{file_name(after.sequence)} does not follow the record before it"]
    if not seals and not newest:
        return [f"seals/{file_name(record.sequence)} is missing"]
    if after and (wrong := _unlawful(record.body, after.body)):
        return [f"log/{file_name(after.sequence)} {wrong}"]
    return []


def _unlawful(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return what a record changes that its kind may not."""
    if (before is _NOTHING) != (after["parent"] is None):
        return "names no record before it" if after["parent"] is None else "is the first record and names one before it"
    if after["versions"] != before["versions"] + (after["kind"] == "version"):
        return f"counts {after['versions']} versions after {before['versions']}"
    if after["tags"] != before["tags"] and after["kind"] != "tag":
        return f"is a {after['kind']} and moves tags"
    if after["dropped"] != before["dropped"] and after["kind"] != "drop":
        return f"is a {after['kind']} and drops versions"
    return ""


def _audit_objects(directory: Directory, records: list[Record], certain: bool) -> tuple[int, list[str], list[str]]:
    """Return bytes read, problems and notes; a missing object is no problem where the record that may have dropped it is damaged."""
    needed: dict[str, tuple[int, list[int]]] = {}
    for record in records:
        if not is_in(record.number, records[-1].body["dropped"]):
            for entry in record.objects.values():
                needed.setdefault(entry["sha256"], (entry["size"], []))[1].append(record.number)
    names, read, spare = directory.list("objects"), 0, 0
    problems: list[str] = []
    notes: list[str] = []
    for name in names:
        size, users = needed.pop(name, (None, []))
        spare += not users
        of = f" (version {', '.join(map(str, users))})" if users else ""
        try:
            if not DIGEST.fullmatch(name):
                raise DamagedError(f"{place_of('objects', name)} is not ours")
            data = read_object(directory, {"sha256": name})
        except (DamagedError, OSError) as error:
            problems.append(_said(error, place_of("objects", name)) + of)
            continue
        read += len(data)
        if size not in (None, len(data)):
            problems.append(f"objects/{name} has {len(data)} bytes, its record says {size}{of}")
    missing = [f"objects/{name} is missing (version {', '.join(map(str, users))})" for name, (_, users) in needed.items()]
    (problems if certain else notes).extend(missing)
    if spare:
        notes.append(f"objects holds {spare} that no version uses: gc removes them")
    return read, problems, notes


def _said(error: Exception, place: str) -> str:
    return str(error) if isinstance(error, DamagedError) else f"{place} cannot be read: {getattr(error, 'strerror', None) or error}"


