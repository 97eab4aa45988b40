"""The start of the command: Ctrl-C before it is loaded ends it as later, without a traceback."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Load the command and run it."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from refine_dagster.cli import main as run

    signal.signal(signal.SIGINT, handler)
    run()


def _end(number: int, frame: FrameType | None) -> None:
    """End at once: nothing was begun, and modules that are half loaded cannot be left otherwise."""
    os.write(2, b"stopped\n")
    os._exit(INTERRUPTED)
