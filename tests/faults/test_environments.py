"""The store's commands where the machine is hostile: odd terminals, no environment, closed streams, no rights, a full device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spectralmc.store import Store

ROOT = Path(__file__).parents[2]
MAIN = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from spectralmc.cli import main; sys.exit(main())"
SKEW = "import time\nreal = time.time\ntime.time = lambda: real() + {seconds}\n"
BEFORE = {
    "plain": "",
    "ASCII locale": "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 ",
    "ASCII streams": "PYTHONIOENCODING=ascii ",
    "Latin-1 streams": "PYTHONIOENCODING=latin-1 ",
    "no environment": f"env -i PATH={os.environ['PATH']} ",
    "no HOME, no TMPDIR": "env -u HOME TMPDIR=/nonexistent ",
    "dumb terminal": "TERM=dumb NO_COLOR=1 COLUMNS=1 ",
    "warnings are errors": "PYTHONWARNINGS=error ",
    "optimised": "PYTHONOPTIMIZE=2 ",
    "another hash seed": "PYTHONHASHSEED=1 ",
    "folder removed": 'D=$(mktemp -d); cd "$D"; rmdir "$D"; ',
    "no memory to spare": "ulimit -v 300000; ",
    "few descriptors": "ulimit -n 16; ",
    "clock in ten years": "PYTHONPATH=later ",
    "clock ten years ago": "PYTHONPATH=earlier ",
}
AFTER = {
    "stdout closed": " >&-",
    "stdin closed": " <&-",
    "stderr closed": " 2>&-",
    "all closed": " <&- >&- 2>&-",
    "device full": " > /dev/full",
    "errors to a full device": " 2> /dev/full",
    "reader gone": " | true",
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = Store(tmp_path / "models")
    store.append({"relative_error": 0.5}, {"model.safetensors": b"weights"}, "first ✓ φ\x1b[2J", author="Åsa")
    for name, years in (("later", 10), ("earlier", -10)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sitecustomize.py").write_text(SKEW.format(seconds=years * 365 * 86400))
    return tmp_path / "models"


def run(shell: str, store: Path) -> subprocess.CompletedProcess[bytes]:
    ran = subprocess.run(["bash", "-c", f"set -o pipefail; {shell}"], capture_output=True, cwd=store.parent, timeout=60, check=False)
    assert b"Traceback" not in ran.stderr
    assert b"Exception ignored" not in ran.stderr
    assert ran.stderr.count(b"\n") <= 1
    return ran


def command(*words: str) -> str:
    return " ".join([f"'{sys.executable}' -c \"{MAIN}\"", *words])


@pytest.mark.parametrize("name", [*BEFORE, *AFTER])
def test_no_traceback_and_the_right_status(store: Path, name: str) -> None:
    several = [(command("store", "log", "--store", str(store)), 0), (command("store", "tag", "good", "1", "--store", str(store)), 0)]
    several += [(command("store", "list", "--store", str(store.parent / "absent")), 1)]
    for words, expected in several:
        ran = run(BEFORE.get(name, "") + words + AFTER.get(name, ""), store)
        if name == "device full" and not expected:
            expected = 1
        if name != "reader gone":  # whether it was there long enough is chance
            assert ran.returncode == expected, ran
    assert Store(store).tags() == {"good": 1}
    assert Store(store).verify().sound


def test_marks_fall_back_where_the_terminal_has_none(store: Path) -> None:
    words = command("store", "verify", "--store", str(store))
    assert run(words, store).stdout.decode().startswith("✓ 1 versions")
    assert run(BEFORE["ASCII streams"] + words, store).stdout.startswith(b"[ok] 1 versions")
    next((store / "objects").iterdir()).unlink()
    ran = run(BEFORE["ASCII streams"] + words, store)
    assert ran.stdout.startswith(b"[FAIL] objects/")
    assert ran.returncode == 1
    assert run(words, store).stdout.decode().startswith("✗ objects/")


def test_text_of_others_moves_no_cursor(store: Path) -> None:
    for what in ("list", "log", "show"):
        assert "\x1b" not in run(command("store", what, "--store", str(store)), store).stdout.decode()


def as_nobody(shell: str) -> str:
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("setpriv is not installed: root may do everything")
        return f"setpriv --reuid=65534 --regid=65534 --clear-groups {shell}"
    return shell


def open_to_all(folder: Path) -> None:
    for parent in (place for place in (folder, *folder.parents) if "pytest-of-" in str(place)):
        parent.chmod(0o755)
    for file in folder.rglob("*"):
        file.chmod(0o555 if file.is_dir() else 0o444)
    folder.chmod(0o555)


def test_without_the_right_to_write_everything_can_be_read(store: Path) -> None:
    open_to_all(store)
    probe = subprocess.run(["bash", "-c", as_nobody(command("--version"))], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("another user cannot start this Python")
    for what in ("list", "show", "log", "verify", "tag", "gc --keep 1"):
        assert run(as_nobody(command("store", *what.split(), "--store", str(store))), store).returncode == 0, what
    for what in ("tag good 1", "gc --keep 1 --yes --grace 0"):
        ran = run(as_nobody(command("store", *what.split(), "--store", str(store))), store)
        assert (ran.returncode, b"Permission denied" in ran.stderr) == ((1, True) if "tag" in what else (0, False)), ran
    store.chmod(0o000)
    ran = run(as_nobody(command("store", "list", "--store", str(store))), store)
    assert ran.returncode == 1
    assert ran.stderr == f"spectralmc: error: nothing was read: Permission denied: {store}\n".encode()
    store.chmod(0o755)


def test_a_read_only_disk_can_be_read(store: Path) -> None:
    target = store.parent / "mount"
    target.mkdir()
    mount = f"mount --bind {store} {target} && mount -o remount,bind,ro {target}"
    if os.geteuid() or subprocess.run(["bash", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("needs root: mounts a folder read-only")
    try:
        for what in ("list", "show", "log", "verify", "gc --keep 1"):
            assert run(command("store", *what.split(), "--store", str(target)), store).returncode == 0, what
        ran = run(command("store", "tag", "good", "1", "--store", str(target)), store)
        assert (ran.returncode, b"the tag was not moved: Read-only file system" in ran.stderr) == (1, True)
    finally:
        subprocess.run(["umount", str(target)], check=True)


@pytest.mark.parametrize("name", ["'../../etc'", "'a/b'", "$'a\\nb'", "$'\\xff\\xfe'", "''", "-rf", "$(printf 'x%.0s' {1..10000})", "пуск"])
def test_hostile_names_on_the_command_line(store: Path, name: str) -> None:
    before = sorted(store.rglob("*"))
    for words in (("tag", name, "1"), ("tag", "good", name), ("show", name), ("verify", "--expect", name)):
        assert run(command("store", *words, "--store", str(store)), store).returncode in (1, 2)
    assert run(command("store", "list", "--store", f"{name}/x"), store).returncode in (1, 2)
    assert sorted(store.rglob("*")) == before
