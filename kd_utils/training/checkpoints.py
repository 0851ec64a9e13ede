"""Training state that survives a killed machine: rotated, verified, copied to Drive.

Each checkpoint is a new file (Drive loses rewritten ones) whose name carries the step and the start of its sha256, so
that a damaged one is known by its name and passed over for the one before it.
"""

from __future__ import annotations

import io
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from kd_utils.common import files
from kd_utils.training.drive import Drive

NAME = re.compile(r"step-(\d{8})-([0-9a-f]{12})\.pt")


def save(folder: Path, step: int, state: dict[str, Any], keep: int, drive: Drive | None = None) -> Path:
    """Write the state of `step`, copy it to `drive`, then remove all but the newest `keep` up to it in both folders."""
    buffer = io.BytesIO()
    torch.save(_with_own_strings(state), buffer)
    data = buffer.getvalue()
    path = files.write_bytes(folder / f"step-{step:08d}-{files.sha256(data)[:12]}.pt", data)

    places = [folder]
    if drive:
        drive.copy(path)
        if drive.is_there():
            places.append(drive.place(folder))
    for place in places:
        with suppress(OSError):  # what cannot be removed now is removed the next time
            if (place / path.name).is_file():  # else the one before it is the best that is there
                _remove_older(place, path.name, step, keep)
    return path


def _with_own_strings(value: Any) -> Any:
    """The same state with equal strings as one object: pickle writes a string again or refers to it by its identity,
    which differs between runs.
    """
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        return {_with_own_strings(k): _with_own_strings(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_with_own_strings(v) for v in value])
    return value


def _remove_older(folder: Path, name: str, step: int, keep: int) -> None:
    # a newer one was damaged, or training would have gone on from it: it must not push this one out
    others = [p for p in found(folder) if p.name != name and _step(p) <= step]
    for old in others[keep - 1 :]:
        old.unlink(missing_ok=True)


def found(*folders: Path | None) -> list[Path]:
    """Checkpoints in all folders, the newest step first; of one step the first folder's first."""
    paths = []
    for folder in folders:
        if folder:
            paths += [p for p in folder.glob("step-*.pt") if NAME.fullmatch(p.name)]
    return sorted(paths, key=lambda p: -_step(p))


def _step(path: Path) -> int:
    return int(path.name.split("-")[1])


def is_whole(path: Path) -> bool:
    """Whether the bytes of a checkpoint are what its name says."""
    try:
        return files.sha256(path)[:12] == path.stem.split("-")[2]
    except OSError:
        return False


def latest(*folders: Path | None, quiet: bool = False) -> tuple[int, dict[str, Any]] | None:
    """The newest state whose bytes are what its name says, or None.

    A damaged one is passed over, and reported unless `quiet`.
    """

    def say(text: str) -> None:
        if not quiet:
            print(text)

    for path in found(*folders):
        step, digest = path.stem.split("-")[1:]
        try:
            data = path.read_bytes()
        except OSError as e:
            say(f"checkpoint {path} cannot be read ({e.strerror}): trying the one before it")
            continue
        if files.sha256(data)[:12] != digest:
            say(f"checkpoint {path} is damaged: trying the one before it")
            continue
        try:
            return int(step), torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as e:  # torch raises several kinds, pickle's among them
            why = (str(e) or type(e).__name__).splitlines()[0][:100]
            say(f"checkpoint {path} cannot be loaded ({why}): trying the one before it")
    return None
