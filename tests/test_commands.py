"""The commands train, price and store: what they say, and with which status they end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fixtures
import pytest

import spectralmc as smc
from spectralmc.cli import main
from spectralmc.store import Store, UnknownOutcomeError, files

ROOT = Path(__file__).parents[1]
TRAINING = """\
process: BlackScholes
bounds: {volatility: [0.1, 0.5]}
maturity: [0.1, 2.0]
functional: Terminal
steps: 32
seed: 3
grid: {half_width: 12, size: 24}
recipe: {paths: 64, width: 8, depth: 1}
"""
TAG_RULE = "letters, digits, '.', '_', '-', at most 64, and neither 'latest' nor a number nor a hash"
Said = tuple[int, list[str], list[str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Said]:
    """A function that runs a command in a folder of its own and returns status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECTRALMC_STORE", "models")

    def run(*words: str) -> Said:
        status = main(list(words))
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err.splitlines()

    return run


@pytest.fixture
def versions(tmp_path: Path) -> Store:
    store = Store(tmp_path / "models")
    for n in (1, 2, 3):
        description = {"relative_error": 1e-4 * n, "record": {"seed": n, "steps": 64}}
        store.append(description, {"model.safetensors": bytes([n])}, f"model {n}", "Ada")
    store.tag("production", 2, author="Bob")
    return store


def test_the_commands_of_a_store(say: Callable[..., Said], versions: Store) -> None:
    hashes = [record.hash for record in versions.log()]
    assert say("store", "list", "--ids") == (0, [f"{n} {hashes[n - 1]}" for n in (1, 2, 3)], [])
    listed = say("store", "list")[1]
    assert [line.split(" · ")[0] for line in listed] == ["version 1", "version 2", "version 3"]
    assert listed[1].split(" · ")[3:] == ["Ada", "price error 2.0e-04 s.d.", "64 steps, seed 2", "production", "model 2"]
    assert [line.split(" · ")[0] for line in say("store", "log")[1]] == ["tag", "version 3", "version 2", "version 1"]
    shown = say("store", "show", "production")[1]
    assert f"hash {hashes[1]}" in shown
    assert 'record               {"seed": 2, "steps": 64}' in shown
    assert say("store", "verify")[1] == [f"✓ 3 versions, 3 bytes of objects; newest record 3:{hashes[3]}"]
    assert say("store", "verify", "--expect", f"3:{hashes[3]}", "--expect", f"1:{hashes[0]}")[0] == 0
    assert say("store", "tag") == (0, ["production 2"], [])
    status, said, _ = say("store", "tag", "production", "3", "-m", "better")
    assert (status, said[0].split(" · ")[0]) == (0, "✓ production -> 3: better")
    assert say("store", "gc", "--keep", "1")[1] == ["– would drop 2 versions (1, 2) and 0 files of 0 bytes; add --yes to do it"]
    assert say("store", "gc", "--keep", "1", "--grace", "0", "--yes")[1] == ["✓ dropped 2 versions (1, 2) and 2 files of 2 bytes"]
    assert say("store", "tag", "production", "--delete")[1][0].startswith("✓ production -> removed")
    assert say("store", "verify")[0] == 0


@pytest.mark.parametrize("words", ["list", "show", "log", "verify", "tag", "tag good 1", "gc --keep 1", "init"])
def test_every_command_of_a_store_speaks_json(say: Callable[..., Said], versions: Store, words: str) -> None:
    status, said, errors = say("store", *words.split(), "--json")
    assert (status, errors) == (0, [])
    assert json.loads("\n".join(said))


def test_a_store_is_named_before_or_after_or_by_the_environment(say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPECTRALMC_STORE")
    assert say("store", "list") == (2, [], ["spectralmc: error: no store was named: give --store DIR or set SPECTRALMC_STORE"])
    assert say("store", "init", "a") == (0, ["✓ store a"], [])
    assert say("store", "--store", "b", "init")[0] == say("store", "init", "--store", "b")[0] == 0
    assert say("store", "--store", "b", "list") == say("store", "list", "--store", "b") == (0, [], [])
    assert say("store", "verify", "--store", "b")[1] == ["✓ 0 versions, 0 bytes of objects; newest record none"]
    assert say("store", "list", "--store", "c")[0] == 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("show 9", 1, "store models has no version '9'; the newest is 3"),
        ("show ../x", 2, 'version must be "latest", a number, a hash or a tag; got \'../x\''),
        ("tag ../x", 2, f"a tag must be of {TAG_RULE}; got '../x'"),
        ("tag good --delete", 1, "store models has no tag 'good'"),
        ("verify --expect 1:2", 2, "an anchor must be NUMBER:HASH, of 64 digits; got '1:2'"),
        ("gc --keep 0", 2, "keep must be a whole number of versions, at least 1; got 0"),
        ("gc --keep 1 --grace nan", 2, "grace must be non-negative and finite (seconds); got nan"),
    ],
)
def test_a_refusal_is_one_line(say: Callable[..., Said], versions: Store, words: str, status: int, message: str) -> None:
    assert say("store", *words.split()) == (status, [], [f"spectralmc: error: {message}"])


def test_damage_ends_with_one_and_is_named(say: Callable[..., Said], versions: Store) -> None:
    (Path(versions.path) / "tmp" / "left").touch()
    Path(versions.path, "log", f"{2:020d}").unlink()
    status, said, _ = say("store", "verify")
    assert status == 1
    assert said[0] == f"✗ log/{2:020d} is missing"
    assert said[1:] == ["– tmp holds 1 unpublished files: gc removes them", "– objects holds 1 that no version uses: gc removes them"]
    assert say("store", "list")[0] == 1
    refused = f"spectralmc: error: gc refused, the store is damaged: log/{2:020d} is missing"
    assert say("store", "gc", "--keep", "1", "--yes") == (1, [], [refused])


def test_a_busy_store_ends_with_four(say: Callable[..., Said], versions: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.01)
    with files.opened(versions.path):
        assert say("store", "gc", "--keep", "1", "--yes")[0] == 4


def test_an_unknown_outcome_ends_with_six(say: Callable[..., Said], versions: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: Store, *_: Any) -> None:
        raise UnknownOutcomeError(5, "Input/output error; the version abc may or may not be there: look in the log", self.path)

    monkeypatch.setattr(Store, "tag", unknown)
    status, _, errors = say("store", "tag", "good")
    assert status == 6
    assert errors == ["spectralmc: error: Input/output error; the version abc may or may not be there: look in the log: models"]


def test_the_store_starts_without_torch(versions: Store) -> None:
    code = f"""
import sys
from spectralmc.cli import main
for words in (["list"], ["show"], ["log"], ["verify"], ["tag", "good"], ["gc", "--keep", "1"]):
    assert main(["store", "--store", {versions.path!r}, *words]) == 0
assert not {{"torch", "numpy", "yaml"}} & set(sys.modules), sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_a_model_is_trained_committed_and_prices_a_book(say: Callable[..., Said], tmp_path: Path) -> None:
    Path("asian.yaml").write_text(TRAINING + "out: m.safetensors\n")
    status, said, errors = say("train", "asian.yaml", "--commit", "models", "-m", "first")
    assert (status, errors) == (0, [])
    version = Store("models").find()
    assert said[0].startswith("✓ m.safetensors · Surrogate(Terminal under BlackScholes: ")
    assert said[1:] == [f"✓ models@1:{version.hash}"]
    assert version.description["record"]["seed"] == 3
    assert say("train", "asian.yaml", "--commit", "models", "--expect-parent", "0")[::2] == (
        4,
        ["spectralmc: error: conflict: the newest version is 1, you expected 0"],
    )
    Path("book.csv").write_text("volatility,maturity,strike,spot,kind\n0.2,1,100,100,put\n")
    assert say("price", "models@1", "book.csv", "-o", "p.csv") == (0, [f"✓ p.csv · 1 prices · models@1:{version.hash}"], [])
    from_store = Path("p.csv").read_text()
    assert say("price", "m.safetensors", "book.csv", "-o", "p.csv") == (0, ["✓ p.csv · 1 prices · m.safetensors"], [])
    assert Path("p.csv").read_text() == from_store
    smc.load("models@latest").save("kept.safetensors")
    assert say("price", "kept.safetensors", "book.csv", "-o", "p.csv")[1] == [f"✓ p.csv · 1 prices · kept.safetensors@1:{version.hash}"]
    assert say("price", "models@7", "book.csv", "-o", "p.csv")[0] == 1
    lost = ["spectralmc: error: the prices were not written: No such file or directory: absent/p.csv"]
    assert say("price", "models@1", "book.csv", "-o", "absent/p.csv") == (1, [], lost)
    assert say("price", "absent", "book.csv", "-o", "p.csv")[0] == 1
    assert say("price", "models@1", "absent.csv", "-o", "p.csv")[0] == 1
    assert Path("p.csv").read_text() == from_store


def test_bad_rows_are_told_by_line_and_refused_or_skipped(say: Callable[..., Said]) -> None:
    fixtures.terminal().save("m.safetensors")
    rows = ["0.2,1,100,100", *["9,1,100,100"] * 12]
    Path("book.csv").write_text("\n".join(["volatility,maturity,strike,spot", *rows]))
    status, said, errors = say("price", "m.safetensors", "book.csv", "-o", "p.csv")
    assert (status, said) == (2, [])
    assert errors[0] == "spectralmc: error: book.csv line 3: volatility must lie in the trained box [0.1, 0.5]; got 9: train on a wider box"
    assert errors[10:] == [
        "spectralmc: error: and 2 more",
        "spectralmc: error: 12 bad rows, nothing was written: mend them or give --bad-rows skip",
    ]
    assert not Path("p.csv").exists()
    skip = ("price", "m.safetensors", "book.csv", "-o", "p.csv", "--bad-rows", "skip")
    assert say(*skip)[1] == ["✓ p.csv · 1 prices, 12 skipped · m.safetensors"]
    Path("book.csv").write_text("volatility,maturity,strike,spot\nx,1,1,1")
    assert say(*skip)[2][-1] == "spectralmc: error: no row could be priced, nothing was written"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps:", "stpes:"), "unknown key 'stpes' (did you mean 'steps'?); known: process, bounds"),
        (("functional: Terminal", ""), "key 'functional' is missing; a training file needs process, bounds, maturity, functional"),
        (("{volatility: [0.1, 0.5]}", "[1]"), "bounds must be 'name: [lower, upper]' lines; got [1]"),
        (("seed: 3", "out: 7"), "out must be the name of a file; got 7"),
        (("seed: 3", "out: absent/m.safetensors"), "out must be a file in a folder that is there; got 'absent/m.safetensors'"),
        (("BlackScholes", "Popen"), "unknown process 'Popen'; known: "),
        (("BlackScholes", "BlackSholes"), "unknown process 'BlackSholes' (did you mean 'BlackScholes'?); known: "),
        (("Terminal", "Asian"), "unknown functional 'Asian'; known: "),
        (("Terminal", "[1, 2]"), "functional must be a name, or a name with its arguments in braces; got [1, 2]"),
        (("Terminal", "{Terminal: {barrier: 1}}"), "unknown entry of functional 'barrier'; known: "),
        (("{half_width: 12, size: 24}", "12"), "grid must be 'name: value' lines; got 12"),
        (("width: 8", "wdith: 8"), "unknown entry of recipe 'wdith' (did you mean 'width'?)"),
        (("paths: 64", "paths: 63"), "paths must be a power of two; got 63"),
        (("[0.1, 0.5]", "[0.5, 0.1]"), "bounds of volatility must satisfy lower < upper; got (0.5, 0.1)"),
        (("steps: 32", "steps: 32\nbudget: 3"), "give either budget (process seconds) or steps; got budget=3, steps=32"),
        (("steps: 32", "steps: many"), "steps must be a whole number; got 'many'"),
    ],
)
def test_a_training_file_is_checked_before_anything_runs(say: Callable[..., Said], change: tuple[str, str], message: str) -> None:
    Path("t.yaml").write_text(TRAINING.replace(*change))
    status, said, errors = say("train", "t.yaml")
    assert (status, said) == (2, [])
    assert errors[0].startswith(f"spectralmc: error: {message}")
    assert len(errors) == 1
    assert not list(Path().glob("*.safetensors"))


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("--commit t.yaml", 1, "the store was not made: Not a directory: t.yaml"),
        ("--commit absent/models", 1, "the store was not made: No such file or directory: absent/models"),
        ("--commit=", 2, "path of a store must be a folder's name; got ''"),
        ("--commit models --expect-parent 2", 4, "conflict: the newest version is 3, you expected 2"),
        ("--expect-parent 3", 2, "--expect-parent is of a store: give --commit STORE too"),
    ],
)
def test_what_speaks_against_a_commit_is_known_before_the_training(
    say: Callable[..., Said], versions: Store, monkeypatch: pytest.MonkeyPatch, words: str, status: int, message: str
) -> None:
    monkeypatch.setattr("spectralmc.training.train", None)  # not reached
    Path("t.yaml").write_text(TRAINING)
    assert say("train", "t.yaml", *words.split()) == (status, [], [f"spectralmc: error: {message}"])


def test_a_training_file_that_is_not_there_is_told(say: Callable[..., Said]) -> None:
    assert say("train", "absent.yaml", "--commit", "models") == (1, [], ["spectralmc: error: file absent.yaml does not exist"])
    assert not Path("models").exists()


def test_a_loss_that_is_no_number_ends_with_one(say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(**_: Any) -> None:
        raise FloatingPointError("the loss is nan at step 7")

    monkeypatch.setattr("spectralmc.training.train", diverges)
    Path("t.yaml").write_text(TRAINING)
    assert say("train", "t.yaml") == (1, [], ["spectralmc: error: the loss is nan at step 7"])


def test_an_interrupted_training_is_saved_and_not_committed(say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    from spectralmc import training

    real = training.train
    monkeypatch.setattr(training, "train", lambda **given: training.TrainingResult(real(**given).surrogate, [], "interrupted"))
    Path("t.yaml").write_text(TRAINING)
    say("store", "init")
    status, _, errors = say("train", "t.yaml", "--commit", "models")
    assert (status, errors) == (130, ["spectralmc: interrupted: what was learned so far is saved, nothing was committed"])
    assert Path("t.safetensors").is_file()
    assert Store("models").list() == []
