"""A store's folder: files that are published whole, durably and once, under a lock."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

FORMAT = b"spectralmc-store-1\n"
FOLDERS = ("objects", "log", "seals", "tmp")
PATIENCE = 30.0  # seconds to wait for a lock, or to lose races
RECORD_BYTES, OBJECT_BYTES = 1 << 24, 1 << 32  # no larger file is read
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Name = str | os.PathLike[str]


class DamagedError(ValueError):
    """The store holds something that no sequence of commits, however it ended, leaves behind."""


class ConflictError(RuntimeError):
    """Somebody else was there first, or is still there."""


class MissingError(LookupError):
    """There is no such version or tag."""


class UnknownOutcomeError(OSError):
    """A record was published, and then the disk failed to confirm it: it may or may not last."""


class Directory:
    """A store on a local disk, open and locked: the five operations that the rest is made of.

    Files are reached from the descriptors of their folders and never through a symbolic link: nothing outside is read or touched.
    """

    def __init__(self, folders: dict[str, int]) -> None:
        self.folders = folders

    def get(self, folder: str, name: str) -> bytes:
        """Return the bytes of a regular file (``FileNotFoundError``, ``DamagedError``)."""
        try:
            descriptor = os.open(name, _READ, dir_fd=self.folders[folder])
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise DamagedError(f"{place_of(folder, name)} is not a regular file") from None
            raise
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise DamagedError(f"{place_of(folder, name)} is not a regular file")
            if about.st_size > (OBJECT_BYTES if folder == "objects" else RECORD_BYTES):
                raise DamagedError(f"{place_of(folder, name)} is too large to be ours: {about.st_size} bytes")
            parts = list(iter(lambda: os.read(descriptor, 1 << 20), b""))
        finally:
            os.close(descriptor)
        return b"".join(parts)

    def put_object(self, data: bytes) -> str:
        """Keep bytes under their SHA-256, and return it."""
        digest = hashlib.sha256(data).hexdigest()
        try:
            self.create("objects", digest, data)
        except FileExistsError:
            raise DamagedError(f"objects/{digest} does not match its name: run verify") from None
        with suppress(OSError):  # of another user, or of a file system that keeps no times
            os.utime(digest, dir_fd=self.folders["objects"])  # gc takes it for new
        return digest

    def create(self, folder: str, name: str, data: bytes) -> None:
        """Publish a file durably if the name is free or holds the same bytes already (``FileExistsError``, ``UnknownOutcomeError``)."""
        with self._staged(data) as staged:
            try:
                os.link(staged, name, src_dir_fd=self.folders["tmp"], dst_dir_fd=self.folders[folder], follow_symlinks=False)
            except OSError as error:  # lost the race, or only the answer?
                try:
                    there = self.get(folder, name)
                except FileNotFoundError:
                    raise error from None
                except OSError as unreadable:
                    raise UnknownOutcomeError(unreadable.errno, unreadable.strerror, place_of(folder, name)) from error
                if there != data:
                    raise FileExistsError(errno.EEXIST, "another commit won", place_of(folder, name)) from error
        try:
            os.fsync(self.folders[folder])
        except OSError as error:
            raise UnknownOutcomeError(error.errno, error.strerror, place_of(folder, name)) from error

    def list(self, folder: str) -> list[str]:
        """Return the names in a folder."""
        return os.listdir(self.folders[folder])

    def delete(self, folder: str, name: str) -> None:
        """Remove a file."""
        os.unlink(name, dir_fd=self.folders[folder])

    def about(self, folder: str, name: str) -> tuple[float, int]:
        """Return how many seconds ago a file was last written or asked for, and its size."""
        about = os.stat(name, dir_fd=self.folders[folder], follow_symlinks=False)
        return time.time() - about.st_mtime, about.st_size

    @contextmanager
    def _staged(self, data: bytes) -> Iterator[str]:
        """Yield the name of a durable file in ``tmp``."""
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        descriptor = os.open(name, _WRITE, 0o444, dir_fd=self.folders["tmp"])
        try:
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(descriptor, left) :]
                if data:  # an empty file is its name, and that is the folder's
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield name
        finally:
            with suppress(OSError):  # gc sweeps it
                self.delete("tmp", name)


@contextmanager
def opened(path: Name, exclusive: bool = False) -> Iterator[Directory]:
    """Open and lock a store: shared with everybody, or exclusively."""
    with ExitStack() as stack:
        root = open_folder(path, None, stack)
        directory = Directory({"": root})
        try:
            said = directory.get("", "FORMAT")
        except FileNotFoundError:
            if not is_bare(path) and "log" in os.listdir(root):
                raise DamagedError("FORMAT is missing") from None
            raise FileNotFoundError(errno.ENOENT, "this folder is no store: make one with init", os.fspath(path)) from None
        if said != FORMAT:
            newer = re.fullmatch(rb"spectralmc-store-([0-9]{1,9})\n", said)
            raise DamagedError(
                f"FORMAT says {newer[1].decode()}, this program knows 1: use a newer program" if newer else "FORMAT is not that of a store"
            )
        for name in FOLDERS:
            try:
                directory.folders[name] = open_folder(name, root, stack)
            except FileNotFoundError:
                raise DamagedError(f"folder {name} is missing") from None
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                raise DamagedError(f"{name} is not a folder") from None
        _lock(directory.folders["log"], root, exclusive, path)
        yield directory


def is_bare(path: Name) -> bool:
    """Whether nothing is there yet, or only what the making of a store that broke off has left."""
    try:
        names = set(os.listdir(path))
        kept = [os.listdir(os.path.join(path, name)) for name in names & {"objects", "log", "seals"}]
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False
    return names <= {*FOLDERS, "lost+found"} and not any(kept)


def open_folder(name: Name, root: int | None, stack: ExitStack) -> int:
    """Return the descriptor of a folder, closed with ``stack``."""
    nofollow = 0 if root is None else os.O_NOFOLLOW  # the store itself may be reached by a link, its folders may not
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | nofollow, dir_fd=root)
    stack.callback(_close, descriptor)
    return descriptor


def _close(descriptor: int) -> None:
    with suppress(OSError):  # nothing was written through it: what was done is done
        os.close(descriptor)


def _lock(gate: int, root: int, exclusive: bool, path: Name) -> None:
    """Take the lock of ``root``, by way of a gate that lets nobody overtake whoever waits for all others to leave."""
    deadline = time.monotonic() + PATIENCE
    for descriptor in (gate, root):
        while True:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    who = "commits or readers are" if exclusive else "gc is"
                    raise ConflictError(f"store {os.fspath(path)} is busy, {who} at work; waited {PATIENCE:g} s") from None
                time.sleep(0.002)
    fcntl.flock(gate, fcntl.LOCK_UN)


def place_of(folder: str, name: str) -> str:
    """Return where a file is, fit for one line of any terminal."""
    fit = name.isascii() and name.isprintable() and len(name) < 100
    return os.path.join(folder, name if fit else ascii(name[:60]))
