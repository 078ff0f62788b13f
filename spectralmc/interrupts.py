"""Ctrl-C between steps: the first one asks a run to stop where its state is whole, a second one stops at once."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import Any


class Interrupts:
    """While entered, the first SIGINT sets ``asked`` in the place of raising ``KeyboardInterrupt``; in another thread nothing changes."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _note(self, *_: Any) -> None:
        self.asked = True
        self._restore()  # a second one is the user's last word

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
