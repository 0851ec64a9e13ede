"""Who is at work in a folder: processes that would spoil each other's files are refused at once, with a name.

Each process at work holds a lock file of its own in the folder, which the system lets go when the process ends, however
it ends. A note beside it says who that is. `.lock` is held only while somebody looks who else is there.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kd_utils.common.errors import BusyError, StoreError

PATIENCE = 20  # seconds to wait for others that are just looking, which takes milliseconds
_numbers = itertools.count()


@contextmanager
def hold(folder: Path, key: str = "") -> Iterator[None]:
    """Hold a folder while its files are written.

    Processes that give the same `key` share it, as they write the same bytes; without a key it is held alone.
    Raises BusyError where another process has it, StoreError where the folder cannot be written.
    """
    place = folder / f".{socket.gethostname()}-{os.getpid()}-{next(_numbers)}.lock"
    mine = FileLock(place)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=PATIENCE):
            _refuse_others(folder, key)
            mine.acquire(timeout=0)
            _note(place).write_text(json.dumps(_who(key)))
    except Timeout as e:
        raise BusyError(f"{folder / '.lock'} has been held for {PATIENCE} seconds: try again") from e
    except (OSError, NotImplementedError) as e:
        mine.release()
        raise StoreError(f"{folder} cannot be written ({e}): choose another --workdir") from e

    try:
        yield
    finally:
        with suppress(OSError):
            _note(place).unlink(missing_ok=True)
            place.unlink(missing_ok=True)
        mine.release()


def _who(key: str) -> dict[str, str | int]:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"key": key, "pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _note(place: Path) -> Path:
    return place.with_suffix(".json")


def _refuse_others(folder: Path, key: str) -> None:
    """Raise BusyError where a living process is at work with another key; remove what dead ones left."""
    for place in folder.glob(".*-*-*.lock"):
        if _is_dead(place):
            _note(place).unlink(missing_ok=True)
            place.unlink(missing_ok=True)
            continue
        try:
            who = json.loads(_note(place).read_text())
        except (OSError, ValueError):
            continue  # it has just ended: the note goes first
        if key and who["key"] == key:
            continue
        settings = " with other settings" if key and who["key"] else ""
        raise BusyError(
            f"{folder} is in use{settings}: process {who['pid']} on {who['host']} has been at work there since "
            f"{who['since']}. Wait for it, stop it, or choose another --workdir"
        )


def _is_dead(place: Path) -> bool:
    """Whether nobody holds a lock file any more."""
    lock = FileLock(place)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True
