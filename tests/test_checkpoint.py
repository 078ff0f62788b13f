"""Checkpoints: killed and resumed runs have the bits of uninterrupted ones; damage and strangers are refused; the old one is kept."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import ASIAN, threads
from safetensors.torch import load_file, save_file
from torch import Tensor

import spectralmc as smc
from spectralmc import checkpoint, training
from spectralmc.training import TrainingResult

TINY = smc.Recipe(paths=8, width=4, depth=1)


def learn(path: Path | None = None, **changes: Any) -> TrainingResult:
    given: dict[str, Any] = {
        "space": ASIAN, "functional": smc.ArithmeticAverage(), "steps": 130, "seed": 3, "time_steps": 2, "recipe": TINY, "checkpoint": path,
        "resume": path is not None, "checkpoint_seconds": 1e9, "progress": False,
    }  # fmt: skip
    return smc.train(**(given | changes))


def bits(result: TrainingResult) -> dict[str, Tensor]:
    """Every tensor of the model: weights, bars, pilot."""
    return result.surrogate._tensors()


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process a SIGINT during the ``step``-th step from now."""
    calls, loss = [0], training.loss_of

    def press(*arguments: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == step:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(*arguments)

    monkeypatch.setattr("spectralmc.training.loss_of", press)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("at", [33, 120])
def test_a_run_stopped_and_resumed_has_the_bits_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, dtype: torch.dtype
) -> None:
    whole = learn(dtype=dtype)
    with monkeypatch.context() as patch:
        stop_at(patch, at)
        assert learn(tmp_path / "run", dtype=dtype).stopped == "interrupted"
    resumed = learn(tmp_path / "run", dtype=dtype)
    assert resumed.stopped == "finished"
    assert all(torch.equal(tensor, bits(resumed)[name]) for name, tensor in bits(whole).items())
    assert [(row.step, row.loss, row.held_out) for row in resumed.history] == [(row.step, row.loss, row.held_out) for row in whole.history]


def test_runs_killed_at_any_moment_resume_to_the_bit(tmp_path: Path) -> None:
    """Three of the kills of ``tests/benchmarks/resume.py``, in other processes."""
    script = [sys.executable, str(Path(__file__).parent / "benchmarks" / "resume.py"), "--kills", "3", "--steps", "160"]
    found = subprocess.run(script, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=1800)
    assert found.stdout.splitlines()[-1].startswith("float32: 3 of 3 killed and resumed runs equal"), found.stderr


def test_what_a_checkpoint_holds_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part left out is seen: the comparison above can fail."""
    whole = learn()
    stop_at(monkeypatch, 100)
    learn(tmp_path / "run")
    monkeypatch.undo()
    found = checkpoint.read(tmp_path / "run")
    assert found is not None
    for part in ("weights", "first", "second", "average", "ring"):
        damaged = {name: tensor * 0 if name.startswith(f"{part}.") else tensor for name, tensor in found[1].items()}
        other = tmp_path / part
        checkpoint.write(other, found[0], damaged)
        assert any(not torch.equal(tensor, bits(learn(other))[name]) for name, tensor in bits(whole).items()), part


def test_a_finished_run_resumes_to_its_model_at_once(tmp_path: Path) -> None:
    first, again = learn(tmp_path / "run"), learn(tmp_path / "run")
    assert all(torch.equal(tensor, bits(again)[name]) for name, tensor in bits(first).items())


def test_a_resumed_budget_has_the_steps_it_was_turned_into(tmp_path: Path) -> None:
    first = learn(tmp_path / "run", steps=None, budget=1e-3)
    assert learn(tmp_path / "run", steps=None, budget=50.0).surrogate.record["steps"] == first.surrogate.record["steps"] == 32


def test_a_checkpoint_is_not_written_over_unasked(tmp_path: Path) -> None:
    learn(tmp_path / "run", steps=1)
    message = f"a checkpoint is at {str(tmp_path / 'run')!r} already: pass resume=True to go on from it, or another path"
    with pytest.raises(FileExistsError, match=f"^{re.escape(message)}$"):
        learn(tmp_path / "run", resume=False)


def test_checkpoints_are_written_as_time_passes_and_the_one_before_is_kept(tmp_path: Path) -> None:
    learn(tmp_path / "run", steps=40, checkpoint_seconds=0.0)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run", "run.previous"]
    for name, step in (("run", 40), ("run.previous", 40)):
        found = checkpoint.read(tmp_path / name)
        assert found is not None
        assert found[0]["state"]["step"] == step
        assert found[1]["ring.inputs"].shape == (512, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"steps": 7}, "steps is 2 there and 7 here"),
        ({"time_steps": 3}, "time_steps is 2 there and 3 here"),
        ({"dtype": torch.float64}, "dtype is 'torch.float32' there and 'torch.float64' here"),
        ({"functional": smc.GeometricAverage()}, "functional is 'ArithmeticAverage' there and 'GeometricAverage' here"),
        ({"recipe": smc.Recipe(paths=16, width=4, depth=1)}, "recipe is "),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    learn(tmp_path / "run", steps=2)
    with pytest.raises(ValueError, match=rf"run' is of another run: {re.escape(message)}.*: resume with what it was begun with"):
        learn(tmp_path / "run", **{"steps": 2, **changes})


def test_another_number_of_threads_is_refused(tmp_path: Path) -> None:
    with threads(1):
        learn(tmp_path / "run", steps=2)
    with threads(2), pytest.raises(ValueError, match="threads is 1 there and 2 here"):
        learn(tmp_path / "run", steps=2)


def damaged(path: Path, how: str) -> None:
    whole = bytearray(path.read_bytes())
    if how == "flipped":
        whole[-100] ^= 1
    elif how == "described":
        at = whole.index(b'\\"step\\":') if b'\\"step\\":' in whole else whole.index(b"step")
        whole[at + 1 : at + 3] = b"xx"
    path.write_bytes(bytes(whole[: len(whole) // 2] if how == "truncated" else b"" if how == "empty" else whole))


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "described"])
def test_damage_is_told_and_the_previous_checkpoint_is_whole(tmp_path: Path, how: str) -> None:
    path = tmp_path / "run"
    learn(path, steps=40, checkpoint_seconds=0.0)
    damaged(path, how)
    with pytest.raises(ValueError, match=r"^the checkpoint '.*run' is damaged \(.*\): move it away to resume from '.*run\.previous'$"):
        learn(path, steps=40)
    path.unlink()
    assert learn(path, steps=40).stopped == "finished"


def test_damage_without_a_previous_one_says_to_start_anew(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"no checkpoint at all")
    with pytest.raises(ValueError, match=r"is damaged \(.*\): move it away to start anew$"):
        learn(tmp_path / "run")


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", "spectralmc-checkpoint-0")
        learn(tmp_path / "run", steps=2)
    with pytest.raises(ValueError, match=r"must be of format spectralmc-checkpoint-1; it says 'spectralmc-checkpoint-0': start anew$"):
        learn(tmp_path / "run", steps=2)


def test_a_foreign_tensor_file_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "run")
    with pytest.raises(ValueError, match="is damaged"):
        learn(tmp_path / "run")


def test_tensors_of_another_shape_are_refused(tmp_path: Path) -> None:
    learn(tmp_path / "run", steps=2)
    found = checkpoint.read(tmp_path / "run")
    assert found is not None
    checkpoint.write(tmp_path / "run", found[0], {**found[1], "ring.inputs": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"the checkpoint does not fit this run: tensor 'ring\.inputs' must be torch\.float32 \(256, 2\)"):
        learn(tmp_path / "run", steps=2)


def test_a_missing_folder_is_told_before_the_steps_are_lost(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder '.*nowhere' to write a checkpoint in"):
        learn(tmp_path / "nowhere" / "run", steps=2)


def test_a_write_that_breaks_off_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write(tmp_path / "run", {"n": 1}, {"x": torch.zeros(2)})
    monkeypatch.setattr("spectralmc.checkpoint.os.fsync", lambda _: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(tmp_path / "run", {"n": 2}, {"x": torch.ones(2)})
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    found = checkpoint.read(tmp_path / "run")
    assert found is not None
    assert found[0]["n"] == 1


def test_between_the_two_moves_of_a_write_the_previous_one_is_taken(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "run", {"n": 1}, {"x": torch.zeros(2)})
    (tmp_path / "run").rename(tmp_path / "run.previous")
    found = checkpoint.read(tmp_path / "run")
    assert found is not None
    assert found[0]["n"] == 1
    assert checkpoint.read(tmp_path / "other") is None


def test_a_checkpoint_is_safetensors_with_canonical_json_and_the_same_bytes_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        checkpoint.write(tmp_path / name, {"z": 1, "a": [1.5, None]}, {"c": torch.ones(2, dtype=torch.complex128)})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert load_file(tmp_path / "a")["c"].tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert json.loads(checkpoint.canonical({"b": 1, "a": 2})) == {"a": 2, "b": 1}
    with pytest.raises(ValueError, match="Out of range float"):
        checkpoint.canonical({"x": float("nan")})
