"""Ctrl-C while the command line's modules are loaded: one line instead of a traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

STOPPED = 130  # the exit code of a command that Ctrl-C stopped


def exit_quietly() -> None:
    """From now on Ctrl-C ends this process at once: nothing has been begun that would have to be tidied up."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _exit)


def raise_again() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, as usual."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.stderr.write("\nstopped\n")
    sys.stderr.flush()
    os._exit(STOPPED)
