"""A process that commits, and now and then collects, until it is killed.

    writer.py STORE COMMITS SIZE [gc] [DEFECT]

It prints BEGIN before and ACK NUMBER HASH after each commit, GC before and DONE after each collection, each in one write. COMMITS of 0
is for ever.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys

from faulty import plant

from spectralmc.store import ConflictError, Store


def main(path: str, commits: str, size: str, *more: str) -> None:
    for defect in set(more) - {"gc"}:
        plant(defect)
    store = Store(path)
    for count in itertools.islice(itertools.count(1), int(commits) or None):
        os.write(1, b"BEGIN\n")
        version = store.append({"record": {"pid": os.getpid(), "count": count}}, {"model.safetensors": os.urandom(int(size))}, "written")
        os.write(1, f"ACK {version.number} {version.hash}\n".encode())
        if "gc" in more and count % 3 == 0:
            os.write(1, b"GC\n")
            with contextlib.suppress(ConflictError):  # commits did not pause
                store.gc(keep=3, grace=0, dry_run=False)
            os.write(1, b"DONE\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
