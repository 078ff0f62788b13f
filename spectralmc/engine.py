"""The papermill engine ``spectralmc``: a run that ends badly is marked so, in the cell where it ended.

Registered here, not as an entry point: papermill loads those while it is being imported itself, and a stale one breaks every import.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

NAME = "spectralmc"
_SOCKET_PATH = 100  # a Unix socket's path must be shorter than 107 bytes
_DIED = "the kernel process died (killed, or out of memory); try smaller parameters or more memory"
_log = logging.getLogger("spectralmc.engine")
_log.addHandler(logging.NullHandler())  # what went wrong is in the notebook
_log.propagate = False


class _ThisPython(KernelSpecManager):
    """Runs notebooks in the interpreter that runs this program, whatever kernels are registered on the machine."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


class _Client(PapermillNotebookClient):  # type: ignore[misc]  # papermill has no annotations
    """A client that marks the running cell when the kernel dies, time runs out or somebody interrupts."""

    folder = ""
    limit: float | None = None
    deadline = math.inf

    def create_kernel_manager(self) -> AsyncKernelManager:
        """Talk to the kernel through Unix sockets: no ports to collide, nothing to listen on."""
        connection = str(Path(self.folder) / "k.json")
        self.km = AsyncKernelManager(
            transport="ipc", connection_file=connection, kernel_name=self.kernel_name, kernel_spec_manager=_ThisPython()
        )
        return self.km

    def execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
        """Execute a cell within what is left of the time for the whole run."""
        try:
            if self.limit:
                self.timeout = max(1, math.ceil(self.deadline - time.monotonic()))
            return super().execute_cell(cell, cell_index, **options)
        except (DeadKernelError, CellTimeoutError, KeyboardInterrupt) as error:
            name, sentence = self._plainly(error)
            cell.outputs.append(nbformat.v4.new_output("error", ename=name, evalue=sentence, traceback=[f"{name}: {sentence}"]))
            self.nb_man.cell_exception(cell, cell_index=cell_index, exception=error)
            raise

    def _plainly(self, error: BaseException) -> tuple[str, str]:
        if isinstance(error, DeadKernelError):
            return "DeadKernelError", _DIED
        if isinstance(error, CellTimeoutError):
            return "CellTimeoutError", f"the run took longer than its {self.limit:g} s, in this cell; raise the timeout"
        return "KeyboardInterrupt", "interrupted by the user or the system while this cell ran"


class Engine(NBClientEngine):  # type: ignore[misc]
    """The papermill engine ``spectralmc``: a run that ends badly is marked so, in the cell where it ended.

    ``execution_timeout`` is the time of the whole notebook in seconds; None is no limit.
    """

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        log_output: bool = False,
        stdout_file: Any = None,
        stderr_file: Any = None,
        start_timeout: int = 60,
        execution_timeout: float | None = None,
        **ignored: Any,
    ) -> None:
        with tempfile.TemporaryDirectory(prefix="smc", dir=_short_folder(), ignore_cleanup_errors=True) as folder:
            client = _Client(nb_man, kernel_name=kernel_name, startup_timeout=start_timeout, log=_log, log_output=log_output)
            client.shutdown_kernel = "immediate"  # a kernel asked politely answers with an error on the terminal
            client.folder, client.limit = folder, execution_timeout
            client.deadline = time.monotonic() + (execution_timeout or math.inf)
            inline = "module://matplotlib_inline.backend_inline"
            ours = {"TQDM_DISABLE": "1", "MPLBACKEND": inline, "IPYTHONDIR": folder, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
            try:
                client.execute(env={**os.environ, **ours})
            except (DeadKernelError, CellTimeoutError, KeyboardInterrupt):
                if not any(cell.metadata.papermill.status == nb_man.FAILED for cell in nb_man.nb.cells):
                    raise  # it happened outside a cell: nothing in the notebook says so
            except RuntimeError as failure:
                if "Kernel died" in str(failure):  # before its first answer it has no error of its own
                    raise DeadKernelError(_DIED) from failure
                raise


papermill_engines.register(NAME, Engine)


def _short_folder() -> str | None:
    """Return a folder whose sockets have short enough paths; None is the system's temporary one."""
    return None if len(tempfile.gettempdir()) < _SOCKET_PATH - 40 else "/tmp"
