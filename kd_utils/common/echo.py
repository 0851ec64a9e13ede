"""The output of a notebook's cells, passed on to a terminal or a log file while they run."""

from __future__ import annotations

import re
import time
from typing import TextIO

LOG_EVERY = 60  # seconds between two states of a progress bar in a log file

# A state of a bar as tqdm draws it: "crops:  40%|####      | 2/5 [00:10<00:15,  5.00s/photo, memory=1.0 GB]".
BAR = re.compile(r"(?:(.*?): +)?\d+%\|[^|]*\| *(\S+)/(\S+) \[([^<\]]+)<([^,\]]+)(?:, +([^,\]]+))?(?:, (.*))?\]")


def plain(bar: str) -> str:
    """A state of a progress bar as a line for a log file: how far, how long still, how fast."""
    found = BAR.fullmatch(bar.strip())
    if not found:
        return bar
    name, done, total, took, left, pace, more = found.groups()
    when = f"took {took}" if done == total else f"{left} left"
    known = [f"{done} of {total}", when]
    if pace and not pace.startswith("?"):
        known.append(pace)
    if more:
        known.append(more.replace("=", " "))
    return (f"{name}: " if name else "") + ", ".join(known)


class Echo:
    """What cells print, indented. On a terminal progress bars move; in a log file one is a line now and then.

    A cell's stdout and stderr arrive in no certain order: each has its own `stream`, and a line that one has not
    finished is ended before the other writes.
    """

    def __init__(self, out: TextIO):
        self.out = out
        self.is_terminal = out.isatty()
        self.at_line_start = True
        self.last: Stream | None = None  # the stream that wrote last
        self.next_bar = 0.0  # a bar goes to a log file not before this time,
        self.finished = ""  # but its end does, once: the name of the bar that ended last

    def stream(self) -> Stream:
        return Stream(self)

    def write(self, text: str, stream: Stream) -> None:
        if stream is not self.last:
            self.end_line()
            self.last = stream

        for sign, part in re.findall(r"([\r\n]?)([^\r\n]*)", text):
            if sign == "\r" and self.is_terminal:
                self.out.write("\r")
                self.at_line_start = True
            elif sign:
                self.end_line()

            is_bar = sign == "\r" and not self.is_terminal
            if is_bar:
                if not self._is_due(part):
                    continue
                part = plain(part)
            if part.strip() or (part and self.is_terminal):
                indent = "  " if self.at_line_start else ""
                self.out.write(indent + part)
                self.at_line_start = False

    def _is_due(self, bar: str) -> bool:
        """Whether this state of a bar goes to a log file: every LOG_EVERY seconds, and the end of each bar once."""
        name, full, _ = bar.partition("100%|")
        if full and name == self.finished:
            return False
        if not full and time.monotonic() < self.next_bar:
            return False
        self.next_bar = time.monotonic() + LOG_EVERY
        self.finished = name if full else ""
        return True

    def end_line(self) -> None:
        if not self.at_line_start:
            self.out.write("\n")
        self.at_line_start = True


class Stream:
    """A cell's stdout or stderr, as papermill writes to it."""

    def __init__(self, echo: Echo):
        self.echo = echo

    def write(self, text: str) -> None:
        self.echo.write(text, self)

    def flush(self) -> None:
        self.echo.out.flush()
