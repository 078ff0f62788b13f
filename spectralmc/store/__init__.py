"""Versions of trained models that nobody can lose or forge: a folder, the standard library, no server.

::

    FORMAT                      the one line "spectralmc-store-1"
    objects/SHA-256             immutable bytes under their own hash
    log/00000000000000000007    record 7, canonical JSON {"body": {...}, "sha256": hash of the body}
    seals/00000000000000000007-HASH   empty; says that record 7 exists and has this hash
    tmp/                        files not yet published

A record is a *version* (a model), a *tag* moved, or versions *dropped*; each names the hash of the one before, so a change anywhere
inside breaks the chain. There is no mutable head: the newest record is the one with the highest number, and carries the state (how
many versions, where the tags are, what was dropped).

A file is published by writing it to ``tmp``, fsync, link to its name (which fails if the name is taken), fsync of the folder. A commit
publishes the objects, seals the newest record if a crash left it bare, publishes the next record, seals it, and only then returns. Of
two commits that want one number one wins; the other starts again from the new head. Whoever dies at any moment leaves a sound store.

A record cut off the end together with its seal leaves no trace inside the store: only an anchor kept elsewhere, the hash of a version,
shows it (`Store.verify`, ``expect``).
"""

from __future__ import annotations

import getpass
import hashlib
import json
import math
import os
import random
import re
import secrets
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from spectralmc.store.audit import Audit, audited, read_object
from spectralmc.store.files import (
    FOLDERS,
    FORMAT,
    PATIENCE,
    RECORD_BYTES,
    ConflictError,
    DamagedError,
    Directory,
    MissingError,
    Name,
    UnknownOutcomeError,
    is_bare,
    open_folder,
    opened,
    place_of,
)  # fmt: skip
from spectralmc.store.records import (
    SEAL,
    TAG,
    Record,
    canonical,
    file_name,
    framed,
    is_in,
    read_head,
    read_record,
    seal,
    spans_of,
)  # fmt: skip

if TYPE_CHECKING:
    from spectralmc.surrogate import Surrogate

__all__ = [
    "Audit", "Collection", "ConflictError", "DamagedError", "MissingError", "Reader", "Record", "Store", "UnknownOutcomeError", "load",
]  # fmt: skip

_DAY = 86400.0
_MODEL = "model.safetensors"
_TEXT = 10_000  # characters of a message or an author
_PREFIX = re.compile(r"[0-9a-f]{8,64}", re.ASCII)
_ANCHOR = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True)
class Collection:
    """What `Store.gc` dropped and removed, or would: numbers of versions, files and their bytes."""

    dropped: tuple[int, ...]
    files: tuple[str, ...]
    bytes: int


class Store:
    """A folder of model versions; made by the first commit, or by ``init``.

    A version is asked for as "latest", its number, its hash (at least eight digits), or a tag.

    >>> import spectralmc as smc
    >>> space = smc.ParameterSpace(smc.BlackScholes, {"volatility": 0.2}, maturity=(0.1, 2.0))
    >>> store = smc.Store("models")
    >>> version = store.commit(smc.train(space, smc.Terminal(), steps=32, progress=False).surrogate, message="first")
    >>> version.number, store.load("latest").version == f"{version.number}:{version.hash}"
    (1, True)
    """

    def __init__(self, path: Name) -> None:
        self.path = os.fspath(path)
        if not self.path or "\0" in self.path:
            raise ValueError(f"path of a store must be a folder's name; got {self.path!r}")
        self._seen = False

    def __repr__(self) -> str:
        return f"Store({self.path!r})"

    def init(self) -> Store:
        """Make the store, unless it is there, and return it.

        Raises
        ------
        ValueError, OSError
            the folder holds something else; it cannot be made, or its file system has no hard links, locks or fsync.
        """
        with _told("the store was not made", self.path):
            with suppress(FileExistsError):
                os.mkdir(self.path)
            if foreign := set(os.listdir(self.path)) - {*FOLDERS, "FORMAT", "lost+found"}:
                raise ValueError(f"a store needs a folder of its own; {self.path!r} holds {min(foreign)!r}")
            if not is_bare(self.path) and "FORMAT" not in os.listdir(self.path):
                raise DamagedError("FORMAT is missing")
            with ExitStack() as stack:
                root = open_folder(self.path, None, stack)
                for name in FOLDERS:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=root)
                directory = Directory({"": root, "tmp": open_folder("tmp", root, stack)})
                with suppress(FileExistsError):  # of another format: whoever opens it says so
                    directory.create("", "FORMAT", FORMAT)
                with suppress(PermissionError):
                    os.fsync(open_folder(os.path.join(self.path, ".."), None, stack))
        with self._open():
            return self

    @contextmanager
    def _open(self, exclusive: bool = False) -> Iterator[Directory]:
        with opened(self.path, exclusive) as directory:
            self._seen = True
            yield directory

    def commit(self, model: Surrogate, message: str = "", author: str | None = None, expect_parent: int | None = None) -> Record:
        """Keep a model as the next version and return its record; on return it is on the disk.

        Parameters
        ----------
        author
            if not given, the user's name.
        expect_parent
            number of the version that must be the newest one, 0 for none.

        Raises
        ------
        ConflictError
            another version is the newest; or the store stayed busy.
        UnknownOutcomeError
            the disk failed after the version was published: look whether it is there.
        OSError, DamagedError, ValueError
            nothing was committed.
        """
        from spectralmc.surrogate import packed

        description, tensors = packed(model)
        record = {name: value for name, value in description.get("record", {}).items() if name != "store"}  # where it was loaded from
        return self.append({**description, "record": record}, {_MODEL: tensors}, message, author, expect_parent)

    def append(
        self,
        description: dict[str, Any],
        objects: dict[str, bytes],
        message: str = "",
        author: str | None = None,
        expect_parent: int | None = None,
    ) -> Record:
        """Keep plain data and named bytes as the next version, as `commit` keeps a model."""
        try:
            canonical(description)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"the description of a version must be plain, finite data: {error}") from None

        def change(head: Record | None, directory: Directory) -> dict[str, Any]:
            newest = head.number if head else 0
            if expect_parent not in (None, newest):
                raise ConflictError(f"conflict: the newest version is {newest}, you expected {expect_parent}")
            return {"kind": "version", "versions": newest + 1, "description": description, "objects": entries}

        with _told("nothing was committed", self.path):
            if not self._seen and is_bare(self.path):
                self.init()
        with _told("nothing was committed", self.path), self._open() as directory:
            entries = {name: {"sha256": directory.put_object(data), "size": len(data)} for name, data in objects.items()}
            return self._append(directory, change, message, author)

    def _append(
        self, directory: Directory, change: Callable[[Record | None, Directory], dict[str, Any]], message: str, author: str | None = None
    ) -> Record:
        """Publish the next record: what the newest one says, with ``change``."""
        said = {"message": _text("message", message), "author": _text("author", _user() if author is None else author)}
        own, deadline, races = {"id": secrets.token_hex(16), **said}, time.monotonic() + PATIENCE, 0
        while time.monotonic() < deadline:
            head, sealed = read_head(directory)
            state = {name: head.body[name] if head else empty for name, empty in (("versions", 0), ("tags", {}), ("dropped", []))}
            place = {"sequence": head.sequence + 1 if head else 1, "parent": head.hash if head else None}
            body = {**state, **own, **place, "time": datetime.now(UTC).isoformat(timespec="seconds"), **change(head, directory)}
            raw = canonical(body)
            if len(raw) > RECORD_BYTES // 2:
                raise ValueError(f"the description of a version must be less than {RECORD_BYTES // 2} bytes; got {len(raw)}")
            if head and not sealed:
                os.fsync(directory.folders["log"])  # a seal never outlives its record
                seal(directory, head)
            record = Record(hashlib.sha256(raw).hexdigest(), json.loads(raw))
            try:
                directory.create("log", file_name(record.sequence), framed(raw))
            except UnknownOutcomeError as error:
                unsure = f"{error.strerror}; the {record.kind} {record.hash[:12]} may or may not be there: look in the log"
                raise UnknownOutcomeError(error.errno, unsure, self.path) from error
            except FileExistsError:
                races += 1
                time.sleep(random.random() * min(2**races, 64) * 1e-3)
                continue
            with suppress(OSError, DamagedError):  # the next commit seals it, or says why not
                seal(directory, record)
            return record
        raise ConflictError(f"store {self.path} is busy: other commits won for {PATIENCE:g} s")

    def find(self, version: int | str = "latest") -> Record:
        """Return the record of a version, dropped or not.

        Raises
        ------
        MissingError, DamagedError, ValueError
            no such version or tag; the store is damaged; not a number, hash or tag.
        """
        with _told("nothing was read", self.path), self._open() as directory:
            return self._find(directory, version)

    def _find(self, directory: Directory, version: int | str) -> Record:
        head, _ = read_head(directory)
        newest = head.number if head else 0
        if not isinstance(version, int | str) or isinstance(version, bool):
            raise ValueError(f'version must be "latest", a number, a hash or a tag; got {version!r}')
        if isinstance(version, str) and (tags := head.body["tags"] if head else {}).get(version):
            version = int(tags[version])
        elif version == "latest":
            version = newest
        elif isinstance(version, str) and re.fullmatch("[0-9]{1,18}", version, re.ASCII) and int(version) <= newest:
            version = int(version)
        elif isinstance(version, str) and _PREFIX.fullmatch(version):
            return self._by_hash(directory, head, version)
        elif isinstance(version, str) and not TAG.fullmatch(version) and not version.isdigit():
            raise ValueError(f'version must be "latest", a number, a hash or a tag; got {version[:60]!a}')
        if not isinstance(version, int) or not head or not 1 <= version <= newest:
            raise MissingError(f"store {self.path} has no version {version!r}; the newest is {newest or 'still to come'}")
        sequences = range(version, head.sequence + 1)  # a version has at least as high a record; records count the versions so far
        return read_record(directory, sequences[bisect_left(sequences, version, key=lambda n: read_record(directory, n).number)])

    def _by_hash(self, directory: Directory, head: Record | None, prefix: str) -> Record:
        named = {m[2]: int(m[1]) for m in map(SEAL.fullmatch, directory.list("seals")) if m and m[2].startswith(prefix)}
        if head and head.hash.startswith(prefix):
            named[head.hash] = head.sequence
        if len(named) > 1:
            raise MissingError(f"hash {prefix} is that of {len(named)} records: give more digits")
        record = next((read_record(directory, sequence) for sequence in named.values()), None)
        if record is None or record.kind != "version" or not record.hash.startswith(prefix):
            raise MissingError(f"store {self.path} has no version {prefix!r}")
        return record

    def load(self, version: int | str = "latest", process: type[Any] | None = None, functional: Any = None) -> Surrogate:
        """Return the model of a version; its ``version`` says number and hash.

        ``process`` and ``functional`` as in `spectralmc.load`.

        Raises
        ------
        MissingError, DamagedError, ValueError, OSError
            no such version, or it was dropped; the store is damaged; not a surrogate of this program.
        """
        record, tensors = self._fetch(version)
        return _rebuilt(record, tensors, process, functional)

    def _fetch(self, version: int | str) -> tuple[Record, bytes]:
        with _told("nothing was read", self.path), self._open() as directory:
            record = self._find(directory, version)
            head, _ = read_head(directory)
            if head and is_in(record.number, head.body["dropped"]):
                raise MissingError(f"version {record.number} was dropped by gc")
            if _MODEL not in record.objects:
                raise MissingError(f"version {record.number} holds no model: {', '.join(record.objects) or 'no objects'}")
            return record, read_object(directory, record.objects[_MODEL])

    def pin(self, version: int | str = "latest", process: type[Any] | None = None, functional: Any = None) -> Reader:
        """Return a reader of what this version is now: it never changes."""
        return Reader(self, self.find(version).hash, process, functional)

    def track(self, version: str = "latest", process: type[Any] | None = None, functional: Any = None) -> Reader:
        """Return a reader that follows a tag, or the latest version, at each ``refresh``."""
        return Reader(self, version, process, functional)

    def log(self) -> list[Record]:
        """Return every record, oldest first."""
        with _told("nothing was read", self.path), self._open() as directory:
            head, _ = read_head(directory)
            return [read_record(directory, sequence) for sequence in range(1, head.sequence + 1 if head else 1)]

    def list(self) -> list[Record]:
        """Return the versions that were not dropped, oldest first."""
        log = self.log()
        return [record for record in log if record.kind == "version" and not is_in(record.number, log[-1].body["dropped"])]

    def tags(self) -> dict[str, int]:
        """Return tag → number of its version."""
        with _told("nothing was read", self.path), self._open() as directory:
            head, _ = read_head(directory)
            return dict(head.body["tags"]) if head else {}

    def tag(self, name: str, version: int | str | None, message: str = "", author: str | None = None) -> Record:
        """Move a tag to a version, or remove it (None), and return the record of that.

        Raises
        ------
        ValueError, MissingError, OSError
            a name that is not of letters, digits and ". _ -", or that reads as a number or a hash; no such version; nothing was changed.
        """
        if not isinstance(name, str) or not TAG.fullmatch(name):
            rule = "letters, digits, '.', '_', '-', at most 64, and neither 'latest' nor a number nor a hash"
            raise ValueError(f"a tag must be of {rule}; got {str(name)[:60]!a}")

        def change(head: Record | None, directory: Directory) -> dict[str, Any]:
            tags = dict(head.body["tags"]) if head else {}
            if version is None:
                if tags.pop(name, None) is None:
                    raise MissingError(f"store {self.path} has no tag {name!r}")
            else:
                target = self._find(directory, version).number
                if head and is_in(target, head.body["dropped"]):
                    raise MissingError(f"version {target} was dropped by gc")
                tags[name] = target
            return {"kind": "tag", "tags": tags, "message": f"{name} -> {tags.get(name, 'removed')}{f': {message}' if message else ''}"}

        with _told("the tag was not moved", self.path), self._open() as directory:
            return self._append(directory, change, message, author)

    def gc(self, keep: int, grace: float = _DAY, dry_run: bool = True) -> Collection:
        """Drop all but the last ``keep`` versions and the tagged ones, and remove files that nobody uses.

        Dropping is a record; records stay, so the chain still verifies. Files younger than ``grace`` (seconds) stay until another time.
        A dry run says what it would do and does nothing.

        Raises
        ------
        DamagedError, ConflictError, ValueError, OSError
            the store is damaged: nothing was removed; commits did not pause; a number that is not one.
        """
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ValueError(f"keep must be a whole number of versions, at least 1; got {keep!r}")
        if not isinstance(grace, int | float) or not 0 <= grace < math.inf:
            raise ValueError(f"grace must be non-negative and finite (seconds); got {grace!r}")
        with _told("gc stopped", self.path), self._open(exclusive=not dry_run) as directory:
            audit, records = audited(directory)
            if not audit.sound:
                raise DamagedError(f"gc refused, the store is damaged: {audit.problems[0]}")
            state = audit.head.body if audit.head else {"dropped": [], "tags": {}}
            live = [r for r in records if r.kind == "version" and not is_in(r.number, state["dropped"])]
            drop = [r.number for r in live[:-keep] if r.number not in state["tags"].values()]
            if drop and not dry_run:
                gone = {*drop, *(n for first, last in state["dropped"] for n in range(first, last + 1))}
                numbers = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans_of(drop))
                message = f"dropped {numbers}"[:_TEXT]
                self._append(directory, lambda *_: {"kind": "drop", "dropped": spans_of(gone)}, message)
            used = {entry["sha256"] for r in live if r.number not in drop for entry in r.objects.values()}
            spare = [*(("objects", n) for n in directory.list("objects") if n not in used), *(("tmp", n) for n in directory.list("tmp"))]
            about = {file: directory.about(*file) for file in spare}
            stale = [file for file, (age, _) in about.items() if age >= grace]
            for file in stale if not dry_run else ():
                directory.delete(*file)
            return Collection(tuple(drop), tuple(place_of(*file) for file in stale), sum(about[file][1] for file in stale))

    def verify(self, expect: Iterable[str] = ()) -> Audit:
        """Read every byte and say what is damaged; write nothing.

        ``expect`` are anchors kept outside the store, "NUMBER:HASH" of records: they show an end that was cut off or rewritten.

        Raises
        ------
        FileNotFoundError, OSError, ValueError
            no store there; it cannot be read; an anchor of another form.
        """
        anchors = [_ANCHOR.fullmatch(anchor) or _refuse_anchor(anchor) for anchor in expect]
        try:
            with _told("nothing was verified", self.path), self._open() as directory:
                audit, records = audited(directory)
        except DamagedError as damage:
            return Audit((str(damage),))
        known = {(record.number, record.hash) for record in records}
        gone = [anchor[0] for anchor in anchors if (int(anchor[1]), anchor[2]) not in known]
        lost = [f"{anchor} is expected and not in the log: cut off or rewritten" for anchor in gone]
        return replace(audit, problems=(*audit.problems, *lost))


def load(name: Name, process: type[Any] | None = None, functional: Any = None) -> Surrogate:
    """Read a model from a file that `Surrogate.save` wrote, or from a store, "STORE@VERSION"; nothing in it is executed.

    ``process`` and ``functional`` name your own class and object if the model was trained on such.

    Raises
    ------
    OSError, MissingError, DamagedError, ValueError
        no such file or store; no such version; the store is damaged; not a surrogate of this program, or of an unknown process or
        functional.

    Example
    -------
    >>> import spectralmc as smc
    >>> space = smc.ParameterSpace(smc.BlackScholes, {"volatility": 0.2}, maturity=(0.1, 2.0))
    >>> model = smc.train(space, smc.Terminal(), steps=32, progress=False).surrogate
    >>> version = smc.Store("models").commit(model)
    >>> smc.load("models@latest").version == f"{version.number}:{version.hash}"
    True
    """
    from spectralmc import surrogate

    folder, at, version = os.fspath(name).rpartition("@")
    if at and folder and not os.path.isfile(name):
        return Store(folder).load(version, process, functional)
    return surrogate.load(name, process, functional)


class Reader:
    """A model that follows a version of a store; made by `Store.pin` and `Store.track`.

    ``model`` is the model in hand: a snapshot, which nothing changes. ``refresh`` looks into the store and, if the version has moved,
    puts another model in its place at once: whoever reads sees the old one or the new one whole. If it raises, the old one stays.
    """

    def __init__(self, store: Store, version: str, process: type[Any] | None, functional: Any) -> None:
        self._store, self._version, self._own = store, version, (process, functional)
        self._held = self._load()

    @property
    def model(self) -> Surrogate:
        """The model in hand."""
        return self._held[1]

    @property
    def version(self) -> Record:
        """The record of its version."""
        return self._held[0]

    def refresh(self) -> bool:
        """Look again; return whether the model was replaced."""
        if self._store.find(self._version).hash == self.version.hash:
            return False
        self._held = self._load()
        return True

    def _load(self) -> tuple[Record, Surrogate]:
        record, tensors = self._store._fetch(self._version)
        return record, _rebuilt(record, tensors, *self._own)


def _rebuilt(record: Record, tensors: bytes, process: type[Any] | None, functional: Any) -> Surrogate:
    from spectralmc.surrogate import unpacked

    model = unpacked(record.description, tensors, process, functional)
    return replace(model, record={**model.record, "store": {"version": record.number, "hash": record.hash}})


@contextmanager
def _told(what: str, path: str) -> Iterator[None]:
    """Let an error of the system say what came of it and which store it is."""
    try:
        yield
    except UnknownOutcomeError as error:
        if error.filename == path:
            raise
        raise OSError(error.errno, f"{what}: {error.strerror}", path) from error  # of an object or a seal: no record names it
    except OSError as error:
        raise OSError(error.errno, f"{what}: {error.strerror or error}", path) from error


def _refuse_anchor(anchor: str) -> re.Match[str]:
    raise ValueError(f"an anchor must be NUMBER:HASH, of 64 digits; got {anchor[:90]!a}")


def _text(name: str, value: str) -> str:
    if not isinstance(value, str) or len(value) > _TEXT:
        raise ValueError(f"{name} must be text of at most {_TEXT} characters; got {type(value).__name__} of {len(str(value))}")
    return value


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user without a name
        return f"user {os.getuid()}"
