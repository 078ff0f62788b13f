"""The long faults: real kills, real system calls, real power cuts, full disks; each prints its figures and counts what went wrong.

    python tests/faults/campaign.py kill --n 1000
    python tests/faults/campaign.py calls                 # needs strace
    python tests/faults/campaign.py power --n 100         # needs root, loop devices and ext4
    python tests/faults/campaign.py full                  # needs root
    python tests/faults/campaign.py race --writers 8 --commits 200
    python tests/faults/campaign.py flips

``--defect`` plants one of `faulty.DEFECTS`: the fault must then be found. Exit status 0 is sound, 1 is not, 77 is skipped.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import fcntl
import itertools
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from faulty import DEFECTS, planted

from spectralmc.store import Store

HERE = Path(__file__).parent
SKIPPED = 77
SHUTDOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125  # FS_IOC_SHUTDOWN
NO_FLUSH = 2  # not even the journal
CALLS = "openat,mkdirat,write,fsync,linkat,unlinkat,utimensat,flock,close,read,getdents64,fstat,newfstatat,fcntl"


class Writer:
    """A writer in a process of its own."""

    def __init__(self, path: Path, commits: int, size: int, *more: str) -> None:
        command = [sys.executable, str(HERE / "writer.py"), str(path), str(commits), str(size), *filter(None, more)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def wait_for_a_commit(self) -> None:
        self.first = self.process.stdout.readline()  # type: ignore[union-attr]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def ended(self) -> tuple[dict[int, str], str, str]:
        """Return what was acknowledged, what was under way (BEGIN, GC, or nothing), and the last line of errors."""
        out, err = self.process.communicate()
        lines = [b"", *filter(None, (getattr(self, "first", b"") + out).split(b"\n")[:-1])]
        acks = [line.split() for line in lines if line.startswith(b"ACK")]
        under_way = lines[-1].decode() if lines[-1] in (b"BEGIN", b"GC") else ""
        return {int(a[1]): a[2].decode() for a in acks}, under_way, (err.decode().splitlines() or [""])[-1]


def wrong(path: Path, acknowledged: dict[int, str]) -> list[str]:
    """Return what a store has lost, changed or broken."""
    store = Store(path)
    try:
        audit = store.verify()
        versions = {record.number: record.hash for record in store.log() if record.kind == "version"}
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    found = list(audit.problems)
    found += [f"version {n} is lost" for n in acknowledged if n not in versions]
    found += [f"version {n} has another hash" for n, digest in acknowledged.items() if versions.get(n, digest) != digest]
    if sorted(versions) != list(range(1, len(versions) + 1)):
        found.append("numbers have gaps")
    return found


def kill(options: argparse.Namespace) -> int:
    """Kill writers at random moments; the store must be sound, and take the next commit as it is."""
    path = Path(options.base) / "store"
    Store(path).init()
    acknowledged: dict[int, str] = {}
    bad = twice = 0
    inside: collections.Counter[str] = collections.Counter()
    start = time.monotonic()
    rounds = options.n // options.writers
    for count in range(rounds):
        writers = [Writer(path, 0, options.size, "gc", options.defect) for _ in range(options.writers)]
        for writer in writers:
            writer.wait_for_a_commit()
        time.sleep(random.random() * options.delay)
        for writer in writers:
            writer.kill()
        for writer in writers:
            acks, under_way, _ = writer.ended()
            inside[under_way] += 1
            twice += sum(number in acknowledged for number in acks)
            acknowledged |= acks
        if (count % options.every == 0 or count == rounds - 1) and (found := wrong(path, acknowledged)):
            bad += 1
            print(f"  round {count}: {found[:3]}", flush=True)
            if bad >= 3:
                break
    left = len(list((path / "tmp").iterdir()))
    print(
        f"kill: {(count + 1) * options.writers} kills, {inside['BEGIN']} inside a commit, {inside['GC']} inside gc, "
        f"{len(acknowledged)} acknowledged, {twice} duplicate numbers, {bad} bad checks, {left} files left in tmp, "
        f"{time.monotonic() - start:.0f} s"
    )
    return bad + twice


def calls(options: argparse.Namespace) -> int:
    """SIGKILL, EIO and ENOSPC at every system call with which one commit touches the store (strace)."""
    if not shutil.which("strace"):
        return skip("strace is not installed")
    base = Path(options.base)
    seed = base / "seed"
    Store(seed).init().append({"record": {}}, {"model.safetensors": b"first"})
    one = [sys.executable, str(HERE / "writer.py"), str(base / "store"), "1", "1000", *filter(None, [options.defect])]

    def fresh() -> Path:
        shutil.rmtree(base / "store", ignore_errors=True)
        shutil.copytree(seed, base / "store")
        return base / "store"

    path = fresh()
    log = base / "strace"
    subprocess.run(["strace", "-y", "-o", str(log), "-e", f"trace={CALLS}", *one], capture_output=True, check=True)
    counts: collections.Counter[str] = collections.Counter()
    points = []
    for line in log.read_text(errors="replace").splitlines():
        if match := re.match(r"(\w+)\(", line):
            counts[match[1]] += 1
            if str(path) in line:
                points.append((match[1], counts[match[1]]))
    print(f"calls: {len(points)} calls of a commit touch the store:", dict(collections.Counter(name for name, _ in points)), flush=True)
    bad = 0
    for fault in ("signal=SIGKILL", "error=EIO", "error=ENOSPC"):
        ends: collections.Counter[str] = collections.Counter()
        for name, occurrence in points:
            path = fresh()
            inject = ["-e", f"trace={name}", "-e", f"inject={name}:{fault}:when={occurrence}"]
            ran = subprocess.run(["strace", "-o", "/dev/null", *inject, *one], capture_output=True, text=True, check=False)
            acks = {int(n): digest for n, digest in re.findall(r"ACK (\d+) (\w+)", ran.stdout)}
            last = (ran.stderr.strip().splitlines() or ["acknowledged" if acks else "killed"])[-1]
            ends[last.split(":")[0].split(".")[-1]] += 1
            found = wrong(path, acks)
            said_no = "OSError" in ran.stderr or "nothing was committed" in ran.stderr
            if not found and said_no and "UnknownOutcome" not in ran.stderr and len(Store(path).log()) > 1:
                found.append("said nothing was committed, but it was")
            found += next_commit_fails(path)
            if found:
                bad += 1
                print(f"  {fault} at {name} number {occurrence}: {found[:3]}", flush=True)
        print(f"  {fault}: {len(points)} points, {dict(ends)}", flush=True)
    print(f"calls: {bad} bad of {3 * len(points)}")
    return bad


@contextlib.contextmanager
def mounted(kind: str, source: str, target: Path, options: str) -> Iterator[None]:
    subprocess.run(["mount", *(["-t", kind] if kind else []), "-o", options, source, str(target)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(target)], check=True)


def power(options: argparse.Namespace) -> int:
    """Cut the power of a loop-mounted ext4: nothing that was not flushed survives."""
    base = Path(options.base)
    image, target = base / "image", base / "mount"
    target.mkdir()
    with image.open("wb") as file:
        file.truncate(128 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
        with mounted("", str(image), target, "loop"):
            Store(target / "store").init()
    except (OSError, subprocess.CalledProcessError) as error:
        return skip(f"no loop-mounted ext4 here: {error}")
    acknowledged: dict[int, str] = {}
    bad = 0
    inside: collections.Counter[str] = collections.Counter()
    for count in range(options.n):
        with mounted("", str(image), target, "loop"):
            writers = [Writer(target / "store", 0, options.size, "gc", options.defect) for _ in range(options.writers)]
            for writer in writers:
                writer.wait_for_a_commit()
            time.sleep(random.random() * options.delay)
            descriptor = os.open(target, os.O_RDONLY)
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_FLUSH))
            os.close(descriptor)
            for writer in writers:
                writer.kill()
            for writer in writers:
                acks, under_way, _ = writer.ended()
                inside[under_way] += 1
                acknowledged |= acks
        with mounted("", str(image), target, "loop"):
            if found := wrong(target / "store", acknowledged) or next_commit_fails(target / "store"):
                bad += 1
                print(f"  cut {count}: {found[:3]}", flush=True)
                if bad >= 3:
                    break
    where = f"{inside['BEGIN']} writers inside a commit, {inside['GC']} inside gc"
    print(f"power: {count + 1} cuts, {where}, {len(acknowledged)} acknowledged, {bad} bad checks")
    return bad


ROOMS = (*(f"size={kilobytes}k" for kilobytes in range(4, 804, 4)), *(f"size=8m,nr_inodes={files}" for files in range(4, 80)))


def full(options: argparse.Namespace) -> int:
    """Fill a small disk, of every size in bytes and in files; what was acknowledged can be read, and with more room it goes on."""
    target = Path(options.base) / "mount"
    target.mkdir()
    bad = 0
    ends: collections.Counter[str] = collections.Counter()
    rooms = getattr(options, "rooms", ROOMS)
    for room in rooms:
        try:
            with mounted("tmpfs", "none", target, room):
                acks, _, error = Writer(target / "store", 60, 10_000, options.defect).ended()
                ends[re.sub(r"'[^']*'", "STORE", error) or "never full"] += 1
                found = wrong(target / "store", acks) if acks else []
                subprocess.run(["mount", "-o", "remount,size=16m,nr_inodes=1000", str(target)], check=True, capture_output=True)
                found += next_commit_fails(target / "store") or wrong(target / "store", acks)
        except subprocess.CalledProcessError as error:
            return skip(f"no tmpfs here: {error}")
        if found:
            bad += 1
            print(f"  {room}: {found[:3]}", flush=True)
    told = sum(number for said, number in ends.items() if "No space left" in said)
    print(f"full: {len(rooms)} sizes, {told} ran full, {bad} bad checks, {dict(ends)}")
    return bad + len(rooms) - told - ends["never full"]


def next_commit_fails(path: Path) -> list[str]:
    try:
        Store(path).append({"record": {}}, {"model.safetensors": b"next"})
    except Exception as error:
        return [f"the next commit fails: {error}"]
    return []


def race(options: argparse.Namespace) -> int:
    """Many writers, one directory: strictly contiguous numbers."""
    path = Path(options.base) / "store"
    Store(path).init()
    start = time.monotonic()
    writers = [Writer(path, options.commits, options.size, options.defect) for _ in range(options.writers)]
    ends = [writer.ended() for writer in writers]
    seconds = time.monotonic() - start
    total = options.writers * options.commits
    numbers = sorted(number for acks, _, _ in ends for number in acks)
    found = wrong(path, {n: digest for acks, _, _ in ends for n, digest in acks.items()})
    found += [error for _, _, error in ends if error]
    if numbers != list(range(1, total + 1)):
        found.append(f"{len(numbers)} acknowledged, {len(set(numbers))} different, of {total}")
    last = max(numbers, default=0)
    print(f"race: {options.writers} writers, {len(numbers)} commits, numbers 1 to {last}, {seconds:.1f} s, {found[:3] or 'sound'}")
    return len(found)


def small_store(path: Path) -> Store:
    """A version and a tag: every kind of file, few bytes."""
    store = Store(path)
    store.append({"relative_error": 0.5}, {"model.safetensors": b"one"}, "a", "b")
    store.tag("best", 1, author="b")
    return store


def flips(options: argparse.Namespace) -> int:
    """Flip every bit of every file of a small store, and cut, empty, lengthen and remove each."""
    store = small_store(Path(options.base) / "store")
    faults = unnamed = 0
    missed = []
    for file, change in itertools.islice(damages(Path(store.path)), 0, None, getattr(options, "stride", 1)):
        try:
            with planted(options.defect):
                problems = store.verify().problems
        except Exception as error:  # a defective store may do anything
            problems = (repr(error),)
        faults += 1
        name = str(file.relative_to(store.path))
        short = name if name.startswith("objects") else name[:26]  # a seal is named by its number
        if not problems:
            missed.append(f"{name} {change}")
        elif len(problems) > 1 or short.split("-")[0] not in problems[0]:
            unnamed += 1
            if unnamed <= 3:
                print(f"  {name} {change}: {problems}")
    print(f"flips: {faults} faults, {len(missed)} undetected {missed[:3]}, {unnamed} not named in one line")
    return len(missed) + unnamed


def damages(root: Path) -> Iterator[tuple[Path, str]]:
    """Damage each file in turn, yield, and mend it; the newest seal alone may go, as a crash leaves none."""
    everything = sorted(file for file in root.rglob("*") if file.is_file())
    newest = max(root.glob("seals/*"))
    for file in everything:
        good = file.read_bytes()
        file.chmod(0o644)
        with file.open("r+b", buffering=0) as bytes_of:
            for bit in range(8 * len(good)):
                os.pwrite(bytes_of.fileno(), bytes([good[bit // 8] ^ 1 << bit % 8]), bit // 8)
                yield file, f"bit {bit}"
                os.pwrite(bytes_of.fileno(), good[bit // 8 : bit // 8 + 1], bit // 8)
        cut = {"empty": b"", "half": good[: len(good) // 2], "a byte less": good[:-1], "a byte more": good + b"\0"}
        for change, bad in cut.items():
            if bad != good:
                file.write_bytes(bad)
                yield file, change
        file.unlink()
        if file != newest:
            yield file, "gone"
        file.write_bytes(good)
        file.chmod(0o444)


def skip(reason: str) -> int:
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fault", choices=("kill", "calls", "power", "full", "race", "flips"))
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--commits", type=int, default=200)
    parser.add_argument("--size", type=int, default=20_000, help="bytes of a model")
    parser.add_argument("--delay", type=float, default=0.1, help="seconds until the kill, at most")
    parser.add_argument("--every", type=int, default=1, help="rounds between checks")
    parser.add_argument("--defect", choices=("", *DEFECTS), default="")
    parser.add_argument("--base", help="folder for the stores (default: a temporary one)")
    options = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory(dir=options.base) as base:
        options.base = base
        return min(globals()[options.fault](options), 1)


if __name__ == "__main__":
    sys.exit(main())
