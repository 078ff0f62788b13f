"""What commands share: exit statuses, errors of their users, and lines that every terminal can show."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

DONE, FAILED, WRONG, CONFLICT, UNKNOWN, INTERRUPTED = 0, 1, 2, 4, 6, 130
_PLAIN = (("✓", "[ok]"), ("✗", "[FAIL]"), ("–", "[-]"), (" · ", " | "), ("≤", "<="), ("≥", ">="))


class InputError(ValueError):
    """What the user gave cannot be used; nothing was run. The message is one sentence for the command line."""


class NotFoundError(InputError):
    """A file that was named is not there."""


def say(text: str, file: Any = None) -> None:
    """Print a line; where the terminal knows no ✓, ✗ or dash, in letters it does know."""
    file = file or sys.stdout
    if file is None:  # it was closed
        return
    try:
        text.encode(getattr(file, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        for sign, plain in _PLAIN:
            text = text.replace(sign, plain)
    print(text, file=file, flush=True)


def complain(message: str, status: int) -> int:
    """Say on the error stream what went wrong, and return the status."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # nobody is left to tell
            for line in message.splitlines():
                say(f"spectralmc: {'' if status == INTERRUPTED else 'error: '}{line}", sys.stderr)
        let_go(sys.stderr)  # what could not be written waits there, and would change the exit status
    return status


def printable(text: str) -> str:
    """Return text of somebody else as one line that moves no cursor."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def let_go(stream: Any) -> None:
    """Send what a stream cannot write nowhere, so that Python does not fail on it once more while it ends."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
