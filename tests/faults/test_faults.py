"""The fast part of the store's faults: each is found sound here, and shown able to find a planted defect."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import campaign
import pytest
from faulty import Disk, Faulty, KilledError, planted, system

from spectralmc.store import DamagedError, Record, Store, UnknownOutcomeError

Act = Callable[[Store], object]
MODEL = {"model.safetensors": b"weights"}
ACTS: dict[str, Act] = {
    "commit": lambda store: store.append({"relative_error": 1.0}, {"model.safetensors": b"new"}),
    "commit of the same model": lambda store: store.append({}, MODEL),
    "tag": lambda store: store.tag("best", 1),
    "gc": lambda store: store.gc(keep=1, grace=0, dry_run=False),
}


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    """A store of two versions, the newest record without its seal, as a crash leaves it."""
    store = Store(tmp_path / "seed")
    store.append({}, MODEL, "one")
    store.append({}, {"model.safetensors": b"other"}, "two")
    max((tmp_path / "seed" / "seals").iterdir()).unlink()
    return tmp_path / "seed"


@pytest.fixture(autouse=True)
def _only_power_needs_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def options(base: Path, **given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"base": base, "defect": "", "size": 2000, "delay": 0.05, "every": 5, "writers": 2, **given})


def check(store: Store, before: list[Record], done: object) -> None:
    """The store is sound, holds what it held, and what was acknowledged; and takes the next commit."""
    audit = store.verify()
    assert audit.problems == ()
    log = store.log()
    assert log[: len(before)] == before
    if isinstance(done, Record):
        assert done in log
    assert store.append({}, {"model.safetensors": b"next"}).number == audit.versions + 1


@pytest.mark.parametrize(("act", "fault"), [("commit", "ENOSPC"), *itertools.product(ACTS, ("kill", "EIO", "lost"))])
def test_every_call_may_fail(seed: Path, tmp_path: Path, act: str, fault: str) -> None:
    before = Store(seed).log()
    for at in itertools.count(1):
        store = Store(shutil.copytree(seed, tmp_path / f"{at}"))
        fake, done, error = Faulty(at, fault), None, None
        with system(fake):
            try:
                done = ACTS[act](store)
            except (KilledError, OSError, DamagedError) as raised:
                error = raised
        if fake.calls < at:
            break
        if isinstance(error, OSError) and not isinstance(error, UnknownOutcomeError) and act != "gc":
            assert store.log() == before, error  # "nothing was committed"
        check(store, before, done)
        shutil.rmtree(store.path)
    assert done is not None
    assert at > 30


@pytest.mark.parametrize("fault", ["kill", "EIO", "lost"])
def test_every_call_of_init_may_fail(tmp_path: Path, fault: str) -> None:
    for at in itertools.count(1):
        store, fake = Store(tmp_path / f"{at}"), Faulty(at, fault)
        with system(fake), contextlib.suppress(KilledError, OSError):
            store.init()
        if fake.calls < at:
            break
        check(store.init(), [], None)  # the same command again mends it
    assert at > 15


@pytest.mark.parametrize("fault", ["kill", "EIO", "ENOSPC", "lost"])
def test_every_call_of_the_first_commit_may_fail(tmp_path: Path, fault: str) -> None:
    for at in itertools.count(1):
        path, fake, done = tmp_path / f"{at}", Faulty(at, fault), None
        with system(fake), contextlib.suppress(KilledError, OSError):
            done = ACTS["commit"](Store(path))
        if fake.calls < at:
            break
        Store(path).append({}, MODEL)  # the next one needs no help
        assert done is None or done in Store(path).log()
        assert Store(path).verify().sound
    assert done is not None
    assert at > 50


def lost_power(seed: Path, tmp_path: Path, act: str) -> None:
    """Cut the power after every call; the worst disk and the lucky one must both be sound."""
    before = Store(seed).log()
    for at in itertools.count(1):
        folder = shutil.copytree(seed, tmp_path / f"{at}")
        disk, done = Disk(at, folder), None
        with system(disk), contextlib.suppress(KilledError):
            done = ACTS[act](Store(folder))
        for name, restart in (("worst", disk.worst), ("lucky", disk.lucky)):
            (tmp_path / f"{at}-{name}").mkdir()
            check(restart(tmp_path / f"{at}-{name}"), before, done)
        if disk.calls < at:
            break
    assert done is not None


@pytest.mark.parametrize("act", ACTS)
def test_power_may_be_lost_after_every_call(seed: Path, tmp_path: Path, act: str) -> None:
    lost_power(seed, tmp_path, act)


def test_kills_at_random_moments(tmp_path: Path) -> None:
    """Without fsync: a kill loses nothing that was written."""
    assert campaign.kill(options(tmp_path, n=20, defect="no fsync")) == 0


def test_writers_that_race(tmp_path: Path) -> None:
    assert campaign.race(options(tmp_path, writers=4, commits=25, defect="no fsync")) == 0


def test_every_bit_of_a_small_store(tmp_path: Path) -> None:
    assert campaign.flips(options(tmp_path)) == 0


def needs_root() -> None:
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("needs root: mounts a file system of its own")


def run_or_skip(run: Callable[[argparse.Namespace], int], given: argparse.Namespace) -> int:
    try:
        return run(given)
    except SystemExit:
        pytest.skip("needs root and a kernel that mounts: it does not here")


@pytest.mark.filterwarnings("ignore")
def test_real_power_cuts(tmp_path: Path) -> None:
    needs_root()
    assert run_or_skip(campaign.power, options(tmp_path, n=3)) == 0


def test_disks_that_are_full(tmp_path: Path) -> None:
    needs_root()
    assert run_or_skip(campaign.full, options(tmp_path, rooms=("size=16k", "size=40k", "size=160k", "size=8m,nr_inodes=20"))) == 0


# What the faults can find -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("defect", ["no fsync", "no fsync of folders", "write in place"])
def test_lost_power_finds(seed: Path, tmp_path: Path, defect: str) -> None:
    with planted(defect), pytest.raises(AssertionError):
        lost_power(seed, tmp_path, "commit")


def test_a_kill_at_every_call_finds_writing_in_place(seed: Path, tmp_path: Path) -> None:
    with planted("write in place"), pytest.raises((AssertionError, DamagedError)):
        test_every_call_may_fail(seed, tmp_path, "commit", "kill")


def test_random_kills_find_writing_in_place(tmp_path: Path) -> None:
    assert campaign.kill(options(tmp_path, n=60, every=1, defect="write in place")) > 0


def test_disks_that_are_full_find_writing_in_place(tmp_path: Path) -> None:
    needs_root()
    assert run_or_skip(campaign.full, options(tmp_path, rooms=("size=40k", "size=160k"), defect="write in place")) > 0


def test_a_race_finds_a_rename(tmp_path: Path) -> None:
    assert campaign.race(options(tmp_path, writers=4, commits=25, defect="exists, then rename")) > 0


def test_flipped_bits_find_a_record_without_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign.flips(options(tmp_path, defect="record without hash", stride=50)) > 0
    assert "undetected ['log/" in capsys.readouterr().out


@pytest.mark.parametrize("defect", ["", "no seal"])
def test_the_loss_of_the_newest_record_is_seen_by_its_seal(tmp_path: Path, defect: str) -> None:
    with planted(defect):
        store = Store(tmp_path / "store")
        store.append({}, MODEL)
    next((tmp_path / "store" / "log").iterdir()).unlink()
    assert store.verify().sound == bool(defect)
