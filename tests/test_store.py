"""The model store: what a version is, how it is asked for, what is refused. Faults of the machine are in faults/."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fixtures
import hostile
import pytest
import torch

import spectralmc as smc
import spectralmc.store as module
from spectralmc.store import ConflictError, DamagedError, MissingError, Record, Store, UnknownOutcomeError, files, records
from spectralmc.surrogate import packed

WEIGHTS = {"model.safetensors": b"weights"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def several(store: Store, number: int) -> list[Record]:
    return [store.append({"relative_error": 0.5 / n}, {"model.safetensors": bytes([n])}, f"model {n}") for n in range(1, number + 1)]


def test_what_was_committed_is_what_is_loaded(store: Store) -> None:
    model = fixtures.asian()
    version = store.commit(model, "first", author="Ada")
    found = store.load("latest")
    assert found.record == {**model.record, "store": {"version": 1, "hash": version.hash}}
    assert replace(found, network=model.network, record=model.record, centre=model.centre, spread=model.spread, bars=model.bars) == model
    for name, tensor in model._tensors().items():
        assert torch.equal(found._tensors()[name], tensor)
    again = store.commit(found, "again")
    assert again.description == version.description  # where it was loaded from is no part of it
    assert again.objects == version.objects
    assert (again.number, again.body["parent"]) == (2, version.hash)


def test_a_model_is_loaded_by_one_name(store: Store, tmp_path: Path) -> None:
    version = store.commit(fixtures.terminal())
    store.tag("production", 1)
    for name in ("latest", "1", "production", version.hash):
        assert smc.load(f"{store.path}@{name}").version == f"1:{version.hash}"
    assert store.verify([smc.load(f"{store.path}@1").version]).sound
    file = fixtures.terminal().save(tmp_path / "m@1")  # a file goes before a store
    assert smc.load(file).version == smc.load(str(file)).version == ""
    with pytest.raises(MissingError, match="has no version '2'"):
        smc.load(f"{store.path}@2")
    with pytest.raises(FileNotFoundError, match="no model file at"):
        smc.load("@1")


def test_a_record_holds_what_reproduces_the_model(store: Store) -> None:
    version = store.commit(fixtures.asian(), "first", author="Ada")
    said = version.description
    assert {"process", "box", "functional", "network", "relative_error", "record"} <= said.keys()
    assert {"seed", "steps", "budget", "versions", "device"} <= said["record"].keys()
    assert version.body["author"] == "Ada"
    assert version.objects["model.safetensors"]["size"] > 1000
    assert repr(version).startswith(f"version 1 {version.hash[:12]}, price error ")


def test_the_same_model_is_the_same_bytes_in_any_process(store: Store, tmp_path: Path) -> None:
    path = fixtures.terminal().save(tmp_path / "m.safetensors")
    code = f"import spectralmc as smc; smc.Store({store.path!r}).commit(smc.load({str(path)!r}))"
    for seed in ("1", "2"):
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
    store.commit(fixtures.terminal())
    one, two, three = (records.canonical([version.description, version.objects]) for version in store.list())
    assert one == two == three
    assert len(list(Path(store.path, "objects").iterdir())) == 1


def test_versions_are_found_by_number_hash_tag_and_latest(store: Store) -> None:
    one, two, three = several(store, 3)
    store.tag("production", 2)
    four = store.append({}, WEIGHTS)
    assert four.sequence == 5
    for record in (one, two, three, four):
        for name in (record.number, str(record.number), record.hash, record.hash[:8]):
            assert store.find(name) == record
    assert store.find() == store.find("latest") == four
    assert store.find("production") == two
    assert store.list() == [one, two, three, four]
    assert [record.kind for record in store.log()] == ["version"] * 3 + ["tag", "version"]


@pytest.mark.parametrize("version", [0, 4, -1, 10**30, "4", "production", "0123456789abcdef", "99999999999999999999999", "٣"])
def test_a_version_that_is_not_there_is_missing(store: Store, version: Any) -> None:
    several(store, 3)
    with pytest.raises(MissingError, match=r"has no version .*"):
        store.find(version)
    with pytest.raises(MissingError):
        store.load(version)


@pytest.mark.parametrize("version", ["../x", "a/b", "", "a\0b", "a\nb", "x" * 10_000, "prodüction", None, 1.0, True])
def test_a_version_that_is_no_name_is_refused(store: Store, version: Any) -> None:
    several(store, 1)
    with pytest.raises(ValueError, match='version must be "latest", a number, a hash or a tag; got'):
        store.find(version)


def test_a_hash_of_several_records_needs_more_digits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    several(store, 2)
    directory = Path(store.path, "seals")
    for seal in directory.iterdir():
        seal.rename(directory / f"{seal.name[:21]}aaaaaaaa{seal.name[29:]}")
    with pytest.raises(DamagedError, match="does not match its seal"):
        store.find("latest")
    monkeypatch.setattr(module, "read_head", lambda directory: (None, True))
    with pytest.raises(MissingError, match="hash aaaaaaaa is that of 2 records: give more digits"):
        store.find("aaaaaaaa")


def test_tags_move_and_their_moves_are_records(store: Store) -> None:
    one, two = several(store, 2)
    store.tag("production", 2)
    back = store.tag("production", one.hash[:10], "two was wrong", author="Ada")
    assert store.tags() == {"production": 1}
    assert store.find("production") == one
    assert (back.kind, back.message, back.body["author"]) == ("tag", "production -> 1: two was wrong", "Ada")
    assert store.tag("production", None).message == "production -> removed"
    assert store.tags() == {}
    with pytest.raises(MissingError, match="has no tag 'production'"):
        store.tag("production", None)
    with pytest.raises(MissingError, match="has no version 9"):
        store.tag("production", 9)
    assert store.verify().sound
    assert len(store.log()) == 5
    assert two.number == store.find().number


@pytest.mark.parametrize(
    "name",
    [
        *("../up", "a/b", "/etc/passwd", "", ".", "..", "a\0", "a\n", "-rf"),
        *("prod\u200b", "рroduction", "x" * 10_000, "latest", "7", "abcdef12"),
    ],
)
def test_a_tag_must_be_a_plain_name(store: Store, name: str) -> None:
    several(store, 1)
    before = sorted(Path(store.path).parent.rglob("*"))
    start = time.process_time()
    with pytest.raises(ValueError, match="a tag must be of letters, digits") as refused:
        store.tag(name, 1)
    assert str(refused.value).isascii()
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300
    assert time.process_time() - start < 1
    assert sorted(Path(store.path).parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"message": "x" * 20_000}, "message must be text of at most 10000 characters; got str of 20000"),
        ({"message": 3}, "message must be text of at most 10000 characters; got int of 1"),
        ({"author": b"me"}, "author must be text"),
        ({"description": {"error": float("nan")}}, "the description of a version must be plain, finite data: "),
        ({"description": {"net": object()}}, "the description of a version must be plain, finite data: "),
        ({"description": {"history": "x" * (1 << 24)}}, "the description of a version must be less than 8388608 bytes; got"),
    ],
)
def test_a_version_must_be_plain_data(store: Store, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store.append(**{"description": {}, "objects": WEIGHTS, **given})
    assert not Path(store.path).exists() or store.list() == []


def test_text_of_every_kind_is_kept(store: Store) -> None:
    said = "Zeile\n\x1b[2J φ \ud800 \0 ✓"
    assert store.append({}, WEIGHTS, said, author="Åsa").message == said
    assert store.find().message == said
    assert store.verify().sound


def test_a_user_without_a_name_may_commit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert store.append({}, WEIGHTS).body["author"] == f"user {os.getuid()}"


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_store_needs_a_name(path: str) -> None:
    with pytest.raises(ValueError, match="path of a store must be a folder's name; got"):
        Store(path)


def test_only_a_commit_makes_a_store_that_is_not_there(store: Store, tmp_path: Path) -> None:
    for ask in (store.list, store.log, store.tags, store.find, store.verify, lambda: store.gc(1), lambda: store.tag("a", 1)):
        with pytest.raises(FileNotFoundError):
            ask()
    assert repr(store) == f"Store({store.path!r})"
    (tmp_path / "else").mkdir()
    with pytest.raises(FileNotFoundError, match="this folder is no store: make one with init"):
        Store(tmp_path / "else").list()
    (tmp_path / "else" / "letter.txt").touch()
    with pytest.raises(ValueError, match=r"a store needs a folder of its own; '.*else' holds 'letter.txt'"):
        Store(tmp_path / "else").init()
    assert Store(tmp_path / "made").init().init().list() == []
    assert Store(tmp_path / "made").verify() == module.Audit(())
    assert store.append({}, WEIGHTS).number == 1


def test_a_store_that_vanished_is_not_made_anew(store: Store) -> None:
    store.append({}, WEIGHTS)
    Path(store.path).rename(store.path + "-away")
    for ask in (store.find, store.log, lambda: store.append({}, WEIGHTS)):
        with pytest.raises(FileNotFoundError, match=r"nothing was (read|committed): No such file or directory"):
            ask()
    assert not Path(store.path).exists()


def test_a_commit_may_insist_on_its_parent(store: Store) -> None:
    several(store, 2)
    with pytest.raises(ConflictError, match="conflict: the newest version is 2, you expected 1"):
        store.append({}, WEIGHTS, expect_parent=1)
    assert store.append({}, WEIGHTS, expect_parent=2).number == 3


def test_losers_of_a_race_begin_again_until_their_patience_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real, other = module.read_head, Store(store.path).init()

    def beaten(directory: files.Directory) -> Any:
        head = real(directory)
        if len(os.listdir(directory.folders["log"])) < 3:  # somebody else, between our look and our record
            monkeypatch.setattr(module, "read_head", real)
            other.append({}, WEIGHTS, "other")
            monkeypatch.setattr(module, "read_head", beaten)
        return head

    monkeypatch.setattr(module, "read_head", beaten)
    assert store.append({}, WEIGHTS, "own").number == 4
    assert [r.message for r in store.log()] == ["other", "other", "other", "own"]
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(files.Directory, "create", lambda self, folder, *_: raised(FileExistsError) if folder == "log" else None)
    with pytest.raises(ConflictError, match=r"is busy: other commits won for 0.05 s"):
        store.append({}, WEIGHTS)


def raised(kind: type[Exception]) -> None:
    raise kind


def test_a_store_that_stays_locked_is_busy(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    several(store, 1)
    monkeypatch.setattr(files, "PATIENCE", 0.05)
    with files.opened(store.path), pytest.raises(ConflictError, match=r"is busy, commits or readers are at work; waited 0.05 s"):
        store.gc(1, dry_run=False)
    with files.opened(store.path, exclusive=True), pytest.raises(ConflictError, match=r"is busy, gc is at work"):
        store.list()


def test_a_waiting_gc_is_not_overtaken(store: Store) -> None:
    """While others hold the store and gc waits, a newcomer waits behind it."""
    several(store, 2)
    with files.opened(store.path):
        gc = threading.Thread(target=store.gc, args=(1, 0, False))
        gc.start()
        time.sleep(0.05)
        newcomer = threading.Thread(target=store.append, args=({}, WEIGHTS))
        newcomer.start()
        newcomer.join(0.1)
        assert newcomer.is_alive()
    gc.join()
    newcomer.join()
    assert [r.kind for r in store.log()] == ["version", "version", "drop", "version"]


def test_gc_keeps_the_last_and_the_tagged(store: Store) -> None:
    several(store, 5)
    store.tag("production", 2)
    plan = store.gc(keep=1, grace=0)
    assert plan.dropped == (1, 3, 4)
    assert len(store.list()) == 5
    assert store.gc(keep=1, grace=0, dry_run=False) == plan
    assert [r.number for r in store.list()] == [2, 5]
    assert len(plan.files) == len(set(plan.files)) == 3 == plan.bytes
    assert store.verify().problems == store.verify().notes == ()
    assert store.log()[-1].message == "dropped 1, 3-4"
    with pytest.raises(MissingError, match="version 3 was dropped by gc"):
        store.load(3)
    with pytest.raises(MissingError, match="version 3 was dropped by gc"):
        store.tag("production", 3)
    assert store.find(3).number == 3  # its record stays
    assert store.append({}, WEIGHTS).number == 6
    assert store.gc(keep=1, grace=0, dry_run=False).dropped == (5,)
    assert store.find("latest").body["dropped"] == [[1, 1], [3, 4]]
    assert store.log()[-1].body["dropped"] == [[1, 1], [3, 5]]


def test_gc_spares_young_files(store: Store) -> None:
    several(store, 2)
    (Path(store.path) / "tmp" / "1-left").write_bytes(b"by a crash")
    assert store.verify().notes == ("tmp holds 1 unpublished files: gc removes them",)
    assert store.gc(keep=1, dry_run=False).files == ()
    assert store.verify().sound
    assert len(store.gc(keep=1, grace=0, dry_run=False).files) == 2
    assert store.verify().notes == ()


def test_a_commit_of_dropped_bytes_keeps_them(store: Store) -> None:
    store.append({}, WEIGHTS)
    store.append({}, {"model.safetensors": b"other"})
    store.gc(keep=1, dry_run=False)
    assert "objects holds 1 that no version uses: gc removes them" in store.verify().notes
    store.append({}, WEIGHTS)
    store.gc(keep=1, grace=0, dry_run=False)
    assert store.verify().sound
    assert store._fetch("latest")[1] == b"weights"


@pytest.mark.parametrize("keep", [0, -1, 1.5, True, "2"])
def test_gc_keeps_at_least_one(store: Store, keep: Any) -> None:
    with pytest.raises(ValueError, match="keep must be a whole number of versions, at least 1; got"):
        store.gc(keep)


@pytest.mark.parametrize("grace", [-1, float("nan"), float("inf"), "1"])
def test_the_grace_is_a_number(store: Store, grace: Any) -> None:
    with pytest.raises(ValueError, match=r"grace must be non-negative and finite \(seconds\); got"):
        store.gc(1, grace)


def test_gc_refuses_a_damaged_store(store: Store) -> None:
    several(store, 3)
    flip(next(Path(store.path, "objects").iterdir()))
    with pytest.raises(DamagedError, match=r"gc refused, the store is damaged: objects/\w+ does not match its name"):
        store.gc(1, 0, dry_run=False)
    assert len(list(Path(store.path, "objects").iterdir())) == 3


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    overwrite(file, bytes(data))


def overwrite(file: Path, data: bytes) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def test_a_pinned_reader_stays_and_a_tracking_one_follows(store: Store) -> None:
    asian, terminal = fixtures.asian(), fixtures.terminal()
    store.commit(asian)
    store.tag("production", 1)
    pinned, tracking, latest = store.pin("production"), store.track("production"), store.track()
    snapshot = tracking.model
    before = {name: tensor.clone() for name, tensor in snapshot._tensors().items()}
    store.commit(terminal)
    assert (tracking.refresh(), latest.refresh(), pinned.refresh()) == (False, True, False)
    store.tag("production", 2)
    assert (tracking.refresh(), tracking.refresh(), pinned.refresh()) == (True, False, False)
    assert (pinned.version.number, tracking.version.number, latest.version.number) == (1, 2, 2)
    assert tracking.model is not snapshot
    assert type(tracking.model.problem.functional).__name__ == "Terminal"
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot._tensors().items())


def test_a_reader_that_cannot_look_keeps_its_model(store: Store) -> None:
    store.commit(fixtures.terminal())
    reader = store.track()
    held = reader.model
    store.commit(fixtures.asian())
    flip(max(Path(store.path, "objects").iterdir(), key=lambda file: file.stat().st_mtime_ns))
    with pytest.raises(DamagedError):
        reader.refresh()
    assert reader.model is held


def test_it_works_inside_a_running_loop(store: Store) -> None:
    async def cell() -> int:
        return store.append({}, WEIGHTS).number + len(store.list())

    assert asyncio.run(cell()) == 2


def test_threads_of_one_process_share_a_store(store: Store) -> None:
    store.init()
    crowd = [threading.Thread(target=several, args=(store, 5)) for _ in range(4)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert [r.number for r in store.list()] == list(range(1, 21))
    assert store.verify().sound


@pytest.mark.parametrize("years", [-10, 10])
def test_a_clock_that_is_wrong_changes_no_order(store: Store, years: int, monkeypatch: pytest.MonkeyPatch) -> None:
    several(store, 2)
    shift = timedelta(days=365 * years)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + shift

    monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr("time.time", lambda real=time.time: real() + shift.total_seconds())
    third = store.append({}, WEIGHTS)
    assert datetime.fromisoformat(third.body["time"]).year != datetime.now(UTC).year
    assert store.find() == third
    assert store.verify().problems == ()
    assert len(store.verify().notes) == (years < 0)
    assert store.gc(keep=2, dry_run=False).dropped == (1,)
    assert [store._fetch(n)[1] for n in (2, 3)] == [b"\2", b"weights"]
    monkeypatch.undo()
    store.append({}, WEIGHTS)
    assert len(store.verify().notes) >= (years > 0)


# Damage -------------------------------------------------------------------------------------------------------------------------


def name_of(sequence: int) -> str:
    return f"log/{sequence:020d}"


def forged(store: Store, number: int, **changed: Any) -> str:
    """Rewrite a record with its own hash right; return the hash."""
    file = Path(store.path, name_of(number))
    raw = records.canonical({**json.loads(file.read_bytes())["body"], **changed})
    overwrite(file, records.framed(raw))
    return json.loads(file.read_bytes())["sha256"]


def reseal(store: Store, sequence: int, digest: str) -> None:
    for seal in Path(store.path, "seals").glob(f"{sequence:020d}-*"):
        seal.rename(seal.with_name(f"{sequence:020d}-{digest}"))


def test_swapped_objects_are_named(store: Store) -> None:
    several(store, 2)
    one, two = Path(store.path, "objects").iterdir()
    data = one.read_bytes(), two.read_bytes()
    overwrite(one, data[1])
    overwrite(two, data[0])
    found = sorted(store.verify().problems)
    assert [line.split(" does")[0] for line in found] == sorted(f"objects/{file.name}" for file in (one, two))
    with pytest.raises(DamagedError, match=r"objects/\w+ does not match its name"):
        store.load(1)


def test_a_lost_object_is_named_with_its_versions(store: Store) -> None:
    store.append({}, WEIGHTS)
    store.append({}, WEIGHTS)
    next(Path(store.path, "objects").iterdir()).unlink()
    (problem,) = store.verify().problems
    assert problem.endswith(" is missing (version 1, 2)")
    with pytest.raises(DamagedError, match=r"objects/\w+ is missing"):
        store.load(1)


def test_a_version_of_something_else_holds_no_model(store: Store) -> None:
    store.append({}, {"notes.txt": b"hello"})
    with pytest.raises(MissingError, match=r"version 1 holds no model: notes.txt"):
        store.load()
    store.append({}, WEIGHTS)
    with pytest.raises(ValueError, match="the model must be a surrogate of format"):
        store.load()


@pytest.mark.parametrize("name", hostile.NAMES)
def test_a_version_whose_model_is_something_else_is_refused_quickly(store: Store, name: str, tmp_path: Path) -> None:
    raw = hostile.made(name, tmp_path / "executed")
    store.append(packed(fixtures.terminal())[0], {"model.safetensors": raw})
    start = time.process_time()
    with pytest.raises(ValueError, match="the model is damaged: "):
        store.load()
    assert time.process_time() - start < 1
    assert not (tmp_path / "executed").exists()


def test_reordered_records_are_named(store: Store) -> None:
    several(store, 3)
    two, three = (Path(store.path, name_of(n)) for n in (2, 3))
    data = two.read_bytes(), three.read_bytes()
    overwrite(two, data[1])
    overwrite(three, data[0])
    assert store.verify().problems == (f"{name_of(2)} says it is record 3", f"{name_of(3)} says it is record 2")
    with pytest.raises(DamagedError, match="says it is record 2"):
        store.append({}, WEIGHTS)


@pytest.mark.parametrize("sequence", [1, 2])
def test_a_forged_record_is_named(store: Store, sequence: int) -> None:
    several(store, 3)
    digest = forged(store, sequence, message="forged")
    assert store.verify().problems == (f"{name_of(sequence)} does not agree with its seal nor with the record after it",)
    reseal(store, sequence, digest)
    assert store.verify().problems == (f"{name_of(sequence + 1)} does not follow the record before it",)


def test_a_forged_seal_is_named(store: Store) -> None:
    several(store, 3)
    reseal(store, 2, "0" * 64)
    assert store.verify().problems == (f"seals/{2:020d} does not match its record",)
    Path(store.path, "seals", f"{2:020d}-{store.find(2).hash}").touch()
    assert store.verify().problems == (f"seals/{2:020d} is there twice: one is forged",)


def test_only_an_anchor_sees_an_end_that_is_forged_whole_or_cut_off(store: Store) -> None:
    *_, version = several(store, 3)
    anchor = f"3:{version.hash}"
    assert store.verify([anchor]).sound
    reseal(store, 3, forged(store, 3, message="forged"))
    assert store.verify().sound
    assert store.verify([anchor]).problems == (f"{anchor} is expected and not in the log: cut off or rewritten",)
    Path(store.path, name_of(3)).unlink()
    for seal in Path(store.path, "seals").glob(f"{3:020d}-*"):
        seal.unlink()
    assert store.verify().sound
    assert not store.verify([anchor]).sound


@pytest.mark.parametrize("anchor", ["3", "x:y", "1:abc", f"1:{'g' * 64}", f"-1:{'0' * 64}", ""])
def test_an_anchor_has_a_form(store: Store, anchor: str) -> None:
    with pytest.raises(ValueError, match="an anchor must be NUMBER:HASH, of 64 digits; got"):
        store.verify([anchor])


def test_the_newest_record_lost_is_never_an_older_store(store: Store) -> None:
    several(store, 3)
    Path(store.path, name_of(3)).unlink()
    lost = f"{name_of(3)} is sealed but gone: the newest record is lost"
    assert store.verify().problems == (lost,)
    for ask in (store.find, store.log, lambda: store.append({}, WEIGHTS)):
        with pytest.raises(DamagedError, match=lost):
            ask()
    Path(store.path, name_of(2)).unlink()
    Path(store.path, name_of(1)).unlink()
    with pytest.raises(DamagedError, match="the newest record is lost"):
        store.append({}, WEIGHTS)


def test_gaps_are_named_once(store: Store) -> None:
    several(store, 5)
    for n in (2, 3):
        Path(store.path, name_of(n)).unlink()
    Path(store.path, "log", "9" * 20).write_bytes(b"")
    found = store.verify().problems
    assert f"{name_of(2)} is missing, and all to {name_of(3)}" in found
    assert f"{name_of(6)} is missing, and all to log/{'9' * 19}8" in found
    assert len(found) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"versions": 5}, "counts 5 versions after 1"),
        ({"tags": {"x": 1}}, "is a version and moves tags"),
        ({"dropped": [[1, 1]]}, "is a version and drops versions"),
        ({"parent": None}, "does not follow the record before it"),
    ],
)
def test_a_record_may_change_only_what_is_its_kind(store: Store, change: dict[str, Any], message: str) -> None:
    several(store, 2)
    reseal(store, 2, forged(store, 2, **change))
    assert store.verify().problems == (f"{name_of(2)} {message}",)


def test_the_first_record_has_no_parent(store: Store) -> None:
    several(store, 1)
    reseal(store, 1, forged(store, 1, parent="0" * 64))
    assert store.verify().problems == (f"{name_of(1)} is the first record and names one before it",)


HASH = "0" * 64
BAD_BODIES: list[dict[str, Any]] = [
    {"objects": {"model.safetensors": {"sha256": "../../../etc/passwd", "size": 1}}},
    {"objects": {"model.safetensors": {"sha256": HASH + "\n", "size": 1}}},
    {"objects": {"model.safetensors": {"sha256": HASH, "size": "1"}}},
    {"objects": [HASH]},
    {"tags": {"../x": 1}},
    {"tags": {"x": "1"}},
    {"dropped": [[1]]},
    {"dropped": [1]},
    {"kind": "else"},
    {"kind": "tag"},
    {"parent": "../x"},
    {"description": "text"},
    {"more": 1},
    {"sequence": "1"},
    {"author": None},
]


@pytest.mark.parametrize("change", BAD_BODIES, ids=lambda change: json.dumps(change)[:40])
def test_a_record_that_can_be_none_is_refused(store: Store, change: dict[str, Any]) -> None:
    several(store, 1)
    reseal(store, 1, forged(store, 1, **change))
    assert f"{name_of(1)} is not a record of this format" in store.verify().problems
    with pytest.raises(DamagedError, match="is not a record of this format"):
        store.load()


def test_an_object_of_another_size_is_named(store: Store) -> None:
    version = several(store, 1)[0]
    entry = {"sha256": version.objects["model.safetensors"]["sha256"], "size": 9}
    reseal(store, 1, forged(store, 1, objects={"model.safetensors": entry}))
    assert store.verify().problems == (f"objects/{entry['sha256']} has 1 bytes, its record says 9 (version 1)",)


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"a":' * 100_000, b"{}", b"1" * 100_000, b'{"a":NaN}', b"\xff", b""])
def test_json_of_every_kind_is_refused_quickly(store: Store, raw: bytes) -> None:
    several(store, 1)
    overwrite(Path(store.path, name_of(1)), records.framed(raw))
    start = time.process_time()
    assert any(line.startswith(name_of(1)) for line in store.verify().problems)
    with pytest.raises(DamagedError, match=r"is not (JSON|a record of this format)"):
        store.find()
    assert time.process_time() - start < 1


def plant(store: Store, place: str, how: str) -> None:
    file = Path(store.path, place)
    file.unlink(missing_ok=True)
    if how == "symbolic link":
        file.symlink_to("/etc/passwd")
    elif how == "FIFO":
        os.mkfifo(file)
    elif how == "folder":
        file.mkdir()
    elif how == "sparse":
        with file.open("wb") as sparse:
            sparse.truncate(1 << 40)


@pytest.mark.parametrize("how", ["symbolic link", "FIFO", "folder", "sparse"])
@pytest.mark.parametrize("place", ["log", "objects", "seals", "FORMAT"])
def test_what_is_no_file_of_ours_is_refused_quickly(store: Store, place: str, how: str) -> None:
    several(store, 2)
    target = place if place == "FORMAT" else str(max(Path(store.path, place).iterdir()).relative_to(store.path))
    plant(store, target, how)
    start = time.process_time()
    found = store.verify().problems
    assert len(found) == 1
    assert found[0].startswith(target)
    for ask in (lambda: store.load(2), lambda: store.append({}, {"model.safetensors": b"\2"})) if place != "seals" else ():
        with pytest.raises((DamagedError, FileExistsError, ValueError)):
            ask()
    assert time.process_time() - start < 1
    assert not Path(store.path, target).is_file() or how in ("symbolic link", "sparse")


@pytest.mark.parametrize("folder", files.FOLDERS)
def test_a_folder_that_leads_elsewhere_is_not_followed(store: Store, folder: str, tmp_path: Path) -> None:
    several(store, 1)
    away = Path(store.path, folder).rename(tmp_path / "away")
    for message in (f"folder {folder} is missing", f"{folder} is not a folder"):
        assert store.verify().problems == (message,)
        with pytest.raises(DamagedError, match=message):
            store.append({}, {"model.safetensors": b"new"})
        Path(store.path, folder).unlink(missing_ok=True)
        Path(store.path, folder).symlink_to(away)
    assert len(list(away.iterdir())) == (folder != "tmp")


@pytest.mark.parametrize("name", ["extra", "00000000000000000003", "zz\n\x1b[2J", ".hidden", "x" * 200])
@pytest.mark.parametrize("folder", ["log", "objects", "seals", "."])
def test_files_that_are_not_ours_are_named_on_one_line(store: Store, folder: str, name: str) -> None:
    several(store, 2)
    Path(store.path, folder, name).write_bytes(b"?")
    found = store.verify().problems
    assert len(found) == 1
    assert found[0].isascii()
    assert found[0].isprintable()


@pytest.mark.parametrize("folder", ["log", "seals"])
def test_a_stranger_at_the_end_of_the_log_stops_everybody(store: Store, folder: str) -> None:
    several(store, 1)
    Path(store.path, folder, "zz").touch()
    with pytest.raises(DamagedError, match=f"{folder}/zz is not ours"):
        store.find()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"spectralmc-store-2\n", "FORMAT says 2, this program knows 1: use a newer program"),
        (b"something else\n", "FORMAT is not that of a store"),
        (None, "FORMAT is missing"),
    ],
)
def test_a_store_of_another_format_is_refused(store: Store, said: bytes | None, message: str) -> None:
    several(store, 1)
    overwrite(Path(store.path, "FORMAT"), said or b"")
    if said is None:
        Path(store.path, "FORMAT").unlink()
    assert store.verify().problems == (message,)
    with pytest.raises(DamagedError, match=message):
        store.append({}, WEIGHTS)


def test_a_damaged_object_is_not_taken_for_the_same_bytes(store: Store) -> None:
    store.append({}, WEIGHTS)
    flip(next(Path(store.path, "objects").iterdir()))
    with pytest.raises(DamagedError, match=r"objects/\w+ does not match its name: run verify"):
        store.append({}, WEIGHTS)


def test_where_the_newest_record_is_damaged_nothing_is_said_of_what_it_dropped(store: Store) -> None:
    several(store, 3)
    store.gc(1, 0, dry_run=False)
    flip(Path(store.path, name_of(4)))
    audit = store.verify()
    assert audit.problems == (f"{name_of(4)} does not match its own hash",)
    assert sum("is missing" in note for note in audit.notes) == 2


def test_a_failing_disk_is_told_from_a_missing_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    several(store, 2)

    def fails(descriptor: int, size: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", fails)
    with pytest.raises(OSError, match="nothing was read: Input/output error"):
        store.find()
    with pytest.raises(OSError, match="nothing was verified: Input/output error"):
        store.verify()


def test_a_disk_that_fails_after_the_record_leaves_the_outcome_unknown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    several(store, 1)
    real, calls = os.fsync, []

    def fails(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 4:  # object, its folder, record, its folder
            raise OSError(5, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(UnknownOutcomeError, match=r"Input/output error; the version \w{12} may or may not be there: look in the log"):
        store.append({}, WEIGHTS)
    monkeypatch.undo()
    assert [r.number for r in store.list()] == [1, 2]
    assert store.append({}, WEIGHTS).number == 3
    assert store.verify() == replace(store.verify(), problems=(), notes=())
