"""Fail with one sentence unless torch is the wheel of a folder, whole: ``python check_torch.py FOLDER VERSION [ARCHITECTURES]``.

No GPU is needed, since a build has none: version, CUDA, LAPACK and the compiled architectures are read from the library itself.
"""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote


def origin() -> str:
    """Return where the installed torch came from: the address that pip noted, which an index leaves out."""
    noted = metadata.distribution("torch").read_text("direct_url.json")
    return unquote(json.loads(noted)["url"]) if noted else "a package index"


def check(folder: Path, version: str, architectures: str = "") -> None:
    """Exit with the first thing that is wrong."""
    (wheel,) = folder.resolve().glob("torch-*.whl")
    if origin() != unquote(wheel.as_uri()):
        sys.exit(
            f"torch must stay {wheel.name}; got {metadata.version('torch')} from {origin()}: "
            "a requirement let the resolver replace it, so take that requirement out or let pip see the constraint"
        )
    if metadata.version("torch") != version:
        sys.exit(f"torch must be {version}, the build argument TORCH_VERSION; got {metadata.version('torch')} in {wheel.name}")
    import torch

    toolkit = re.search(r"\+cu(\d+)(\d)$", version)
    if toolkit and torch.version.cuda != f"{toolkit[1]}.{toolkit[2]}":
        sys.exit(f"torch {version} must be compiled for CUDA {toolkit[1]}.{toolkit[2]}; got {torch.version.cuda}: build it on that base")
    compiled = torch._C._cuda_getArchFlags() or "" if toolkit else ""
    for major, minor in re.findall(r"(\d+)\.(\d)", architectures):
        if f"sm_{major}{minor}" not in compiled.split():
            sys.exit(f"torch must be compiled for sm_{major}{minor}; got {compiled or 'none'}: see TORCH_CUDA_ARCH_LIST")
    if not torch._C.has_lapack:
        sys.exit("torch must be built with LAPACK; this wheel is not: configure it with BLAS=OpenBLAS and libopenblas-dev")
    torch.linalg.eigh(torch.eye(2, dtype=torch.complex128))
    print(f"torch {torch.__version__} from {origin()}, CUDA {torch.version.cuda}, {compiled or 'no GPU code'}, LAPACK")


if __name__ == "__main__":
    check(Path(sys.argv[1]), *sys.argv[2:])
