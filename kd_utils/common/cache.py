"""The folder that downloads are kept in, and what is asked of a file there: its size and its sha256 are known before.

`KD_CACHE` names the folder (default ~/.cache/imagesharpening-kd). A file put there by hand is taken once its hash is
right. Several processes may use the folder at once: `lock` lets one of them fetch a file while the others wait.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from tqdm import tqdm

from kd_utils.common import downloads
from kd_utils.common.errors import SourceError

CACHE = "~/.cache/imagesharpening-kd"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class KnownFile(Protocol):
    """A file whose content is known before it is there."""

    @property
    def file(self) -> str: ...  # its name in the cache and in a mirror

    @property
    def bytes(self) -> int: ...

    @property
    def sha256(self) -> str: ...


def cache_folder(folder: str | Path | None = None) -> Path:
    """`folder` if it is given, else the one that KD_CACHE names, else the default."""
    return Path(folder or os.environ.get("KD_CACHE") or CACHE).expanduser()


def is_cached(known: KnownFile, path: Path) -> bool:
    """Whether the right file is there. It is hashed once and then known by size and time: DIV2K takes many seconds.

    Raises SourceError where another file has its place.
    """
    if not path.is_file():
        return False
    if _read_note(path) == _note(known, path):
        return True
    if wrong := what_is_wrong(known, path):
        raise SourceError(
            f"{path} is not {known.file}: {wrong}. Delete it to download it again, or put the right file there."
        )
    _leave_note(known, path)
    return True


def keep(known: KnownFile, part: Path, path: Path) -> None:
    """Move a verified file to its place."""
    os.replace(part, path)
    _leave_note(known, path)


def _leave_note(known: KnownFile, path: Path) -> None:
    """Note beside a verified file that it was verified, so that it need not be hashed again."""
    with suppress(OSError):  # in a read-only cache it is hashed each time
        _note_path(path).write_text(_note(known, path))


def _note(known: KnownFile, path: Path) -> str:
    stat = path.stat()
    return f"{known.sha256} {stat.st_size} {stat.st_mtime_ns}\n"


def _read_note(path: Path) -> str:
    note = _note_path(path)
    return note.read_text() if note.is_file() else ""


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + ".ok")


def what_is_wrong(known: KnownFile, path: Path) -> str:
    """A sentence on how a complete file differs from the known one; empty where it does not."""
    with open(path, "rb") as f:
        size, sha256 = os.fstat(f.fileno()).st_size, hashlib.file_digest(f, "sha256").hexdigest()
    if (size, sha256) == (known.bytes, known.sha256):
        return ""
    page = "it is a web page, saved under that name; " if is_html(path) else ""
    return f"{page}it has {size} bytes and sha256 {sha256} instead of {known.bytes} bytes and sha256 {known.sha256}"


def is_html(path: Path) -> bool:
    with open(path, "rb") as f:
        return f.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """One process at a time fetches a file; the others wait and then find it."""
    held = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=0)
        except Timeout:
            print(f"another process is fetching {path.name}: waiting for it", file=sys.stderr)
            held.acquire()
    except (OSError, NotImplementedError) as e:
        raise SourceError(_unwritable(path.parent, e)) from e
    try:
        yield
    finally:
        held.release()


def _no_room(file: str, folder: Path, what: str) -> str:
    return f"no room for {file} in {folder} ({what}): free some, or set KD_CACHE to a folder on a larger disk"


def _unwritable(folder: Path, e: Exception) -> str:
    return f"the download cache {folder} cannot be written ({e}): set KD_CACHE to a folder that can"


def mirrored(known: KnownFile) -> list[str]:
    """Where KD_MIRROR, if it is set, would have a file."""
    mirror = os.environ.get("KD_MIRROR")
    return [f"{mirror.rstrip('/')}/{known.file}"] if mirror else []


def require_room(known: KnownFile, folder: Path, need: int) -> None:
    """Raise SourceError where `folder` has no room for `need` bytes."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise SourceError(_no_room(known.file, folder, f"{need:,} bytes needed, {free:,} free"))


def take_verified(known: KnownFile, place: str, part: Path, failures: list[str], patient: bool = True) -> bool:
    """Whether `part` is now the verified file, taken from one place; what went wrong is added to `failures`."""
    try:
        _take(known, place, part, patient)
    except downloads.Failed as e:
        failures.append(f"{place}: {e}")
        print(failures[-1], file=sys.stderr)
        return False
    return True


def _take(known: KnownFile, place: str, part: Path, patient: bool) -> None:
    resumed = part.exists()
    try:
        with tqdm(total=known.bytes, desc=known.file, unit="B", unit_scale=True, mininterval=0.5) as bar:
            if place.startswith(("http://", "https://")):
                downloads.get(place, part, known.bytes, bar, patient)
            else:
                downloads.copy(place.removeprefix("file://"), part, bar)
    except OSError as e:
        raise disk_error(known.file, part.parent, e) from e

    if wrong := what_is_wrong(known, part):
        part.unlink()
        if not resumed:
            raise downloads.Failed(wrong)
        _take(known, place, part, patient)  # what was kept of an earlier try may have been the wrong part


def disk_error(file: str, folder: Path, e: OSError) -> SourceError:
    if e.errno in NO_ROOM:
        return SourceError(_no_room(file, folder, e.strerror or type(e).__name__))
    return SourceError(_unwritable(folder, e))
