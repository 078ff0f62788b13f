"""The container's files: clean for their own tools, consistent with the project's, and refusals that say what is wrong.

The build itself is proved by ``docker/prove_image.sh``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from packaging.requirements import Requirement

from spectralmc.device import TORCH_SUPPORTED

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
STEPS = re.findall(r"^[A-Z]+ (?:.*\\\n)*.*$", re.sub(r"^ *#.*\n", "", DOCKERFILE, flags=re.M), re.M)
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
TOKEN = {"JUPYTER_TOKEN": "t"}


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "==" in line and not line.startswith("#")]
    return {line.split("==")[0]: line.split("==")[1] for line in lines}


def arguments() -> dict[str, str]:
    """The build arguments that have a default."""
    return dict(re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE, re.M))


def tool(name: str) -> str:
    """A program of the test extra, which has wheels for the common machines only."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not found:
        pytest.skip(f"{name} is not installed: the extra 'test' brings it where there is a wheel of it")
    return found


def compose(*files: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [tool("docker-compose"), *(part for file in files for part in ("-f", str(DOCKER / file)))]
    clean = {"PATH": os.environ["PATH"], "HOME": "/nowhere", **environment}
    command += ["--env-file", os.devnull, "--profile", "*", "config", "--format", "json"]
    return subprocess.run(command, capture_output=True, text=True, env=clean, check=False)


def services(*files: str, **environment: str) -> dict[str, Any]:
    found = compose(*files, **TOKEN, **environment)
    assert found.returncode == 0, found.stderr
    return dict(json.loads(found.stdout)["services"])


def test_the_dockerfile_is_clean() -> None:
    found = subprocess.run([tool("hadolint"), DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_old_builder_reads_the_dockerfile() -> None:
    """No syntax line, which would be fetched, and no here-document."""
    assert not re.search(r"^# *syntax|<<", DOCKERFILE, re.M)


def test_every_base_is_pinned_by_digest_and_by_the_tag_that_the_head_names() -> None:
    bases = [arguments()[name] for name in ("BUILDER_BASE", "RUNTIME_BASE", "MICROMAMBA_IMAGE")]
    head = DOCKERFILE.split("ARG", 1)[0]
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", base) for base in bases)
    assert all(base.split("@")[0] in head for base in bases)


def test_torch_is_named_once_and_fits_its_base_the_project_and_the_oldest_lane() -> None:
    own, tested = pins(DOCKER / "constraints.txt"), pins(ROOT / "constraints.txt")
    version, toolkit = arguments()["TORCH_VERSION"].split("+cu")
    assert own["torch"] == arguments()["TORCH_VERSION"]
    assert f"cuda:{toolkit[:-1]}.{toolkit[-1]}." in arguments()["BUILDER_BASE"]
    assert arguments()["BUILDER_BASE"].split("@")[0].replace("devel", "runtime") == arguments()["RUNTIME_BASE"].split("@")[0]
    assert re.findall(r"^floor_PINS := torch==(\S+) numpy==(\S+)$", (ROOT / "Makefile").read_text(), re.M) == [(version, own["numpy"])]
    assert f"numpy=={own['numpy']} " in DOCKERFILE
    assert all(own[name] != tested.get(name) for name in own)  # only what differs
    allowed = {r.name: r.specifier for r in map(Requirement, ENVIRONMENT["dependencies"][2]["pip"][:-1])}
    assert all(allowed[name].contains(pin) for name, pin in own.items() if name in allowed)


def test_the_newest_lane_is_of_the_newest_supported_torch() -> None:
    (newest,) = re.findall(r"^newest_PINS := torch>=(\S+) ", (ROOT / "Makefile").read_text(), re.M)
    assert newest == "{}.{}".format(*TORCH_SUPPORTED[1])
    assert f"{newest} with NumPy" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_is_the_same_from_conda_and_from_the_base() -> None:
    (python,) = (entry for entry in ENVIRONMENT["dependencies"] if str(entry).startswith("python="))
    assert set(re.findall(r"python(3\.\d+)", DOCKERFILE)) == {python.removeprefix("python=")}


def test_conda_reads_every_entry_strictly() -> None:
    rattler = pytest.importorskip("rattler", reason="py-rattler is not installed: the extra 'test' brings it")
    names = [rattler.MatchSpec(entry, strict=True).name.normalized for entry in ENVIRONMENT["dependencies"][:-1]]
    assert names == ["python", "pip"]
    with pytest.raises(Exception, match=r"'\*' is incompatible with"):
        rattler.MatchSpec("numpy=2.3.*", strict=True)


def test_the_two_halves_of_the_environment_are_cut_where_the_dockerfile_says() -> None:
    conda = cut(r"RUN sed '([^']*)' /tmp/environment.yml")
    set_txt = cut(r"RUN sed -n '([^']*)' environment.yml", "-n").splitlines()
    *wanted, project = ENVIRONMENT["dependencies"][2]["pip"]
    assert yaml.safe_load(conda) == {**ENVIRONMENT, "dependencies": ENVIRONMENT["dependencies"][:2]}
    assert set_txt == wanted
    assert project.startswith("-e .")


def cut(pattern: str, *flags: str) -> str:
    (script,) = re.findall(pattern, DOCKERFILE)
    return subprocess.run(["sed", *flags, script, ROOT / "environment.yml"], capture_output=True, text=True, check=True).stdout


def test_the_constraints_are_the_tested_ones_but_for_what_differs() -> None:
    (script,) = re.findall(r"awk -F== '([^']*)'", DOCKERFILE)
    command = ["awk", "-F==", script, DOCKER / "constraints.txt", ROOT / "constraints.txt"]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names = [line.split("==")[0] for line in made if not line.startswith("#")]
    assert set(names) == {*pins(ROOT / "constraints.txt"), *pins(DOCKER / "constraints.txt")} - {"torch"}
    assert len(names) == len(set(names))
    assert f"numpy=={pins(DOCKER / 'constraints.txt')['numpy']}" in made


def test_our_code_comes_after_everything_that_takes_long() -> None:
    copies = [step for step in STEPS if step.startswith("COPY") and "--from" not in step]
    last_download = next(i for i, step in enumerate(STEPS) if "pip install --requirement" in step)
    before = {source for step in copies if STEPS.index(step) < last_download for source in sources(step)}
    texts = {"environment.yml", "pyproject.toml", "constraints.txt", "docker/constraints.txt"}
    assert before == texts | {"docker/check_torch.py", "docker/wheels/"}
    assert sources(copies[-1]) == ["spectralmc"]


def sources(step: str) -> list[str]:
    return [word for word in step.split()[1:-1] if not word.startswith("--")]


def test_what_is_copied_exists_and_is_let_through() -> None:
    first, *lines = [line for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if not line.startswith("#")]
    through = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {source for step in STEPS if step.startswith("COPY") and "--from" not in step for source in sources(step)} - {"docker/wheels/"}
    assert first == "*"
    assert {source.split("/")[0] for source in copied} == through
    assert all(list(ROOT.glob(source)) for source in copied)
    assert "docker/.env" in lines  # the token stays out of the image


def test_a_user_with_a_number_and_a_locale_of_letters() -> None:
    assert STEPS[[step.split()[0] for step in STEPS].index("EXPOSE") - 1] == "USER ${LAB_UID}:${LAB_UID}"
    assert arguments()["LAB_UID"] == "1000"
    assert "LANG=C.UTF-8 LC_ALL=C.UTF-8" in DOCKERFILE


@pytest.mark.parametrize("uid", ["", "0", "007", "-1", "lab", "1000"])
def test_nothing_runs_as_root(uid: str) -> None:
    (script,) = re.findall(r"RUN (case .* esac);", DOCKERFILE)
    found = subprocess.run(["sh", "-c", script], env={"LAB_UID": uid}, capture_output=True, text=True, check=False)
    assert found.returncode == (uid != "1000")
    assert uid == "1000" or found.stdout == f"LAB_UID must be a number above 0, since nothing runs as root; got '{uid}'\n"


def test_the_services_are_closed_and_have_the_gpu() -> None:
    found = services("compose.yml")
    assert set(found) == {"lab", "report", "test"}
    for service in found.values():
        assert service["image"] == "spectralmc:local"
        assert (service["security_opt"], service["cap_drop"]) == (["no-new-privileges:true"], ["ALL"])
        (gpu,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert (gpu["driver"], gpu["capabilities"]) == ("nvidia", ["gpu"])
        assert service["environment"]["SPECTRALMC_GPU"] == "1"
        assert [mount["target"].rsplit("/", 1)[1] for mount in service["volumes"]] == ["notebooks", "reports", "models"]
        assert not service.get("privileged")
    assert [port["host_ip"] for port in found["lab"]["ports"]] == ["127.0.0.1"]
    assert not [name for name in ("report", "test") if "ports" in found[name]]


def test_the_test_service_is_the_test_command_of_the_oldest_lane() -> None:
    oldest = re.search(r"^test-floor:.*\n\t\$\(MAKE\) (.*) VENV", (ROOT / "Makefile").read_text(), re.M)
    assert oldest
    assert services("compose.yml")["test"]["command"] == ["make", *oldest[1].split(), "VENV=/opt/python"]


def test_the_build_arguments_of_compose_are_those_of_the_dockerfile() -> None:
    given = services("compose.yml")["lab"]["build"]["args"]
    assert {name: value for name, value in given.items() if arguments()[name] != value} == {}
    for override in services("compose.yml", "compose.cpu.yml").values():
        assert set(override["build"]["args"]) <= set(arguments())


@pytest.mark.parametrize("given", [{}, {"JUPYTER_TOKEN": ""}])
def test_without_a_token_nothing_starts(given: dict[str, str]) -> None:
    found = compose("compose.yml", **given)
    assert found.returncode == 1
    assert "JUPYTER_TOKEN is missing a value: must be set to a long random text" in found.stderr


def test_without_a_card_the_override_asks_for_none() -> None:
    for service in services("compose.yml", "compose.cpu.yml").values():
        assert "deploy" not in service
        assert service["environment"]["SPECTRALMC_GPU"] == ""
        given = service["build"]["args"]
        assert given["TORCH_STAGE"] == "torch-provided"
        assert given["BUILDER_BASE"] == given["RUNTIME_BASE"]
        assert re.fullmatch(r"ubuntu:22\.04@sha256:[0-9a-f]{64}", given["RUNTIME_BASE"])


@pytest.mark.parametrize(("asked", "checked", "status"), [("", 0, 0), ("", 1, 0), ("1", 0, 0), ("1", 1, 1)])
def test_the_start_says_what_is_wrong_and_stops_where_a_gpu_is_asked_for(tmp_path: Path, asked: str, checked: int, status: int) -> None:
    program = tmp_path / "spectralmc"
    program.write_text(f'#!/bin/sh\necho "checked $*"\nexit {checked}\n')
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SPECTRALMC_GPU": asked}
    found = subprocess.run([DOCKER / "start.sh", "echo", "on"], env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == status
    assert found.stdout == ("" if status else "on\n")
    assert found.stderr == ("checked device --brief --gpu\n" if asked else "checked device --brief\n")


@pytest.mark.parametrize("script", ["prove_image.sh", "start.sh"])
def test_the_scripts_parse_and_may_be_run(script: str) -> None:
    subprocess.run(["bash", "-n", DOCKER / script], check=True)
    assert os.access(DOCKER / script, os.X_OK)


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The check of the build, with a folder that holds the wheel this torch is said to be of."""
    spec = importlib.util.spec_from_file_location("check_torch", DOCKER / "check_torch.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wheel = tmp_path / f"torch-{torch.__version__}-cp311-cp311-linux_x86_64.whl"
    wheel.touch()
    noted = types.SimpleNamespace(read_text=lambda _: json.dumps({"url": wheel.as_uri()}))
    monkeypatch.setattr(module.metadata, "distribution", lambda _: noted)
    monkeypatch.setattr(module.metadata, "version", lambda _: torch.__version__)
    monkeypatch.setattr(torch._C, "_cuda_getArchFlags", lambda: "sm_52", raising=False)
    return module


def test_the_wheel_itself_passes(guard: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard.check(tmp_path, torch.__version__)
    assert f"torch {torch.__version__} from file://" in capsys.readouterr().out


@pytest.mark.parametrize("noted", [None, '{"url": "file:///elsewhere/torch-9.whl"}'])
def test_a_replaced_torch_is_named(guard: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: str | None) -> None:
    monkeypatch.setattr(guard.metadata, "distribution", lambda _: types.SimpleNamespace(read_text=lambda _: noted))
    monkeypatch.setattr(guard.metadata, "version", lambda _: "2.9.0")
    with pytest.raises(SystemExit, match=r"must stay torch-.*\.whl; got 2\.9\.0 from .*: a requirement let the resolver replace it"):
        guard.check(tmp_path, torch.__version__)


def test_a_wheel_of_another_version_is_refused(guard: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"must be 2\.4\.1\+cu118, the build argument TORCH_VERSION; got "):
        guard.check(tmp_path, "2.4.1+cu118")


@pytest.mark.parametrize(
    ("target", "attribute", "value", "message"),
    [
        (torch.version, "cuda", "12.1", r"must be compiled for CUDA 11\.8; got 12\.1"),
        (torch._C, "_cuda_getArchFlags", lambda: "sm_70", "must be compiled for sm_52; got sm_70"),
        (torch._C, "_cuda_getArchFlags", lambda: None, "must be compiled for sm_52; got none"),
        (torch._C, "has_lapack", False, "must be built with LAPACK"),
    ],
)
def test_a_wheel_that_is_not_whole_is_refused(
    guard: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: object, attribute: str, value: object, message: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "11.8")
    monkeypatch.setattr(guard.metadata, "version", lambda _: "2.4.1+cu118")
    monkeypatch.setattr(target, attribute, value)
    with pytest.raises(SystemExit, match=message):
        guard.check(tmp_path, "2.4.1+cu118", "5.2;5.2+PTX")
