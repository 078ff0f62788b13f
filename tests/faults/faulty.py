"""Faults for the store: an operating system that dies, fails or loses power at the n-th call, and defects planted in the store.

The store reaches its disk only through ``os``, so the calls of a commit can be counted, and each of them made to fail, in one process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import spectralmc.store as store
from spectralmc.store import Store, files, records

CALLS = ("open", "close", "write", "read", "fsync", "link", "unlink", "mkdir", "utime", "listdir", "fstat", "stat")
FOLDERS = ("", "objects", "log", "seals", "tmp")


class KilledError(BaseException):
    """The process is dead: none of its calls reaches the disk any more."""


class System:
    """``os``, but for what one attribute is replaced by."""

    def __init__(self, **replaced: Any) -> None:
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


class Faulty(System):
    """``os`` whose call number ``at`` fails: the process dies before ("kill") or after it ("cut"), an error, or "lost": done, but EIO."""

    def __init__(self, at: int, fault: str) -> None:
        self.at, self.fault, self.calls, self.dead = at, fault, 0, False
        self.opened: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self.counted(name, real) if name in CALLS else real

    def counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.dead:
                raise KilledError
            self.calls += 1
            mine = self.calls == self.at
            if mine and self.fault == "kill":
                self.die()
            if mine and self.fault in ("EIO", "ENOSPC") and name != "close":  # a descriptor is closed whatever close says
                raise OSError(getattr(errno, self.fault), os.strerror(getattr(errno, self.fault)))
            result = real(*arguments, **named) if name != "fsync" else None  # only a real loss of power could tell
            self.note(name, arguments, result)
            if mine and self.fault == "cut":
                self.die()
            if mine and self.fault in ("EIO", "ENOSPC", "lost"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return result

        return call

    def note(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        if name == "open":
            self.opened.add(result)
        if name == "close":
            self.opened.discard(arguments[0])

    def die(self) -> None:
        self.dead = True
        raise KilledError


class Disk(Faulty):
    """``os`` that loses power after call ``at``; ``worst`` and ``lucky`` are what the disk may hold then.

    A file's bytes are on the disk after its fsync, a name after the fsync of its folder. Worst: nothing else is. Lucky, and no better:
    every name is, but bytes without an fsync are not.
    """

    def __init__(self, at: int, root: Path) -> None:
        super().__init__(at, "cut")
        self.root = root
        self.data = {file.stat().st_ino: file.read_bytes() for file in root.rglob("*") if file.is_file()}
        self.names = {folder: self.now(folder) for folder in FOLDERS}

    def now(self, folder: str) -> dict[str, int]:
        return {file.name: file.stat().st_ino for file in (self.root / folder).iterdir() if file.is_file()}

    def note(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        super().note(name, arguments, result)
        if name == "open" and arguments[1] & os.O_CREAT:
            self.data.pop(os.fstat(result).st_ino, None)  # numbers of removed files are used again
        if name == "fsync" and flushes(arguments[0]):
            about = os.fstat(arguments[0])
            if stat.S_ISDIR(about.st_mode):
                folder = next(f for f in FOLDERS if (self.root / f).stat().st_ino == about.st_ino)
                self.names[folder] = self.now(folder)
            else:
                self.data[about.st_ino] = Path(f"/proc/self/fd/{arguments[0]}").read_bytes()

    def worst(self, target: Path) -> Store:
        return self.written(target, self.names)

    def lucky(self, target: Path) -> Store:
        return self.written(target, {folder: self.now(folder) for folder in FOLDERS})

    def written(self, target: Path, names: dict[str, dict[str, int]]) -> Store:
        for folder in FOLDERS:
            (target / folder).mkdir(exist_ok=True)
            for name, inode in names[folder].items():
                (target / folder / name).write_bytes(self.data.get(inode, b""))
        return Store(target)


@contextlib.contextmanager
def system(fake: System) -> Iterator[None]:
    """Put ``fake`` where the store looks for ``os``; what a killed process had open is closed, as the kernel does."""
    files.os = store.os = fake  # type: ignore[attr-defined]
    try:
        yield
    finally:
        files.os = store.os = os  # type: ignore[attr-defined]
        for descriptor in getattr(fake, "opened", ()):
            with contextlib.suppress(OSError):
                os.close(descriptor)


# Planted defects ----------------------------------------------------------------------------------------------------------------


def flushes(descriptor: int) -> bool:
    """Whether fsync does something; a defect changes it."""
    return True


def is_file(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def rename_if_free(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int, **_: Any) -> None:
    if target in os.listdir(dst_dir_fd):
        raise FileExistsError(errno.EEXIST, "taken", target)
    time.sleep(1e-3)
    os.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)


def in_place(self: files.Directory, folder: str, name: str, data: bytes) -> None:
    descriptor = files.os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444, dir_fd=self.folders[folder])
    for byte in (data[: len(data) // 2], data[len(data) // 2 :]):
        files.os.write(descriptor, byte)
        time.sleep(5e-3)  # a large file takes its time
    files.os.fsync(descriptor)
    files.os.close(descriptor)
    files.os.fsync(self.folders[folder])


class Anything:
    """Equal to everything: a hash that is never compared."""

    def __ne__(self, other: object) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def plant(defect: str) -> None:
    """Change the store of this process for good."""
    global flushes
    if defect in ("no fsync", "no fsync of folders"):
        real = os.fsync
        flushes = is_file if "folders" in defect else lambda descriptor: False
        os.fsync = lambda descriptor: real(descriptor) if flushes(descriptor) else None
    elif defect == "exists, then rename":
        os.link = rename_if_free  # type: ignore[assignment]
    elif defect == "write in place":
        files.Directory.create = in_place  # type: ignore[method-assign]
    elif defect == "record without hash":
        records.framed = lambda body: Anything()  # type: ignore[assignment,return-value]
    elif defect == "no seal":
        store.seal = lambda directory, record: None  # type: ignore[attr-defined]
    else:
        raise ValueError(f"no defect {defect!r}")


DEFECTS = ("no fsync", "no fsync of folders", "exists, then rename", "write in place", "record without hash", "no seal")


@contextlib.contextmanager
def planted(defect: str) -> Iterator[None]:
    """Plant a defect for a while ("" for none)."""
    global flushes
    before = os.fsync, os.link, files.Directory.create, records.framed, store.seal, flushes  # type: ignore[attr-defined]
    try:
        if defect:
            plant(defect)
        yield
    finally:
        os.fsync, os.link, files.Directory.create, records.framed, store.seal, flushes = before  # type: ignore[method-assign,attr-defined]
