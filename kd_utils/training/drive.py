"""Copies on a folder that outlives this machine, such as Google Drive: proven to be there, not assumed.

A Drive loses its mount, fills up or turns read-only while a training runs, and files that are then written under the
empty mount point lie on this machine. So a marker is written at the start and looked for around every copy, and each
copy is read back. What could not be copied waits here and is tried again.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm.auto import tqdm

from kd_utils.common import files
from kd_utils.common.errors import StoreError

COLAB = Path("/content/drive")  # where Colab mounts Drive: an empty folder of the machine's own when it is unmounted
SLOW = 60  # seconds for one copy from which on it is said


class Drive:
    """The copies of a work folder's files. Nothing that goes wrong with them ends the work: it is said once."""

    def __init__(self, here: Path, there: Path):
        self.here, self.there = here, there
        self.marker: Path | None = None
        self.waiting: dict[Path, Path] = {}  # what is not there yet, by its place there
        self.copied: set[Path] = set()
        self.said = ""  # the trouble that was said last
        self._says_slow = True
        self._mark()

    def place(self, path: Path) -> Path:
        """Where a file or folder of the work folder is kept."""
        return self.there / path.relative_to(self.here)

    def copy(self, path: Path, name: str = "") -> None:
        """Copy a file, under another `name` if one is given, and all that waits; or let it wait."""
        place = self.place(path)
        self.waiting[place.with_name(name or place.name)] = path
        self.retry()

    def copy_dated(self, path: Path) -> None:
        """Copy a file under the names of the run and of the day, numbered where that name holds another content.

        So no file is rewritten, as Drive loses those, and people find the one that they look for.
        """
        run = self.here.resolve().name
        stem = f"{path.stem}-{run}-{datetime.date.today()}"
        with suppress(OSError):
            data = path.read_bytes()
            name = f"{stem}{path.suffix}"
            number = 2
            while self.place(path).with_name(name).is_file():
                if self.place(path).with_name(name).read_bytes() == data:
                    return
                name = f"{stem}-{number}{path.suffix}"
                number += 1
            self.copy(path, name)

    def retry(self) -> None:
        """Copy what waits."""
        trouble = ""
        for place, path in list(self.waiting.items()):
            if not path.is_file():  # newer checkpoints have taken its place
                del self.waiting[place]
                continue
            if wrong := self._copy(path, place):
                trouble = trouble or wrong
                continue
            del self.waiting[place]
            self.copied.add(place)

        if trouble:
            self._say(trouble)
        elif self.said:
            tqdm.write(f"{self.there} is back: what waited is copied")
            self.said = ""

    def is_there(self) -> bool:
        return not self._absence()

    def close(self) -> None:
        """Try once more, then name what is only on this machine."""
        self.retry()
        if self.waiting:
            names = ", ".join(str(path) for path in self.waiting.values() if path.is_file())
            tqdm.write(
                f"ONLY HERE, not in {self.there}: {names}. Copy them by hand, or run this step again when it is back."
            )
        if self.marker and self.is_there():
            with suppress(OSError):
                self.marker.unlink()

    # ---- its parts

    def _copy(self, path: Path, place: Path) -> str:
        """Copy one file; returns what went wrong, or nothing."""
        began = time.monotonic()
        if trouble := self._absence():
            return trouble
        try:
            data = path.read_bytes()
            if place.is_file() and place.read_bytes() == data:
                return ""
            files.write_bytes(place, data)
            # it can have gone between the look and the write, and then the copy lies on this machine
            if trouble := self._absence():
                place.unlink(missing_ok=True)
                return trouble
            if place.read_bytes() != data:
                return f"{place} is not what was written when it is read back"
        except (OSError, StoreError) as e:
            return str(e)

        seconds = time.monotonic() - began
        if seconds > SLOW and self._says_slow:
            self._says_slow = False
            tqdm.write(f"{self.there} is slow: {path.name} took {seconds:.0f} seconds, in which the training waits")
        return ""

    def _mark(self) -> str:
        """Leave a marker; returns what went wrong, or nothing."""
        if COLAB in self.there.parents and not (COLAB / "MyDrive").is_dir():
            return f"{self.there} is on Google Drive, which is not mounted: run the cell of the settings again"
        try:
            self.there.mkdir(parents=True, exist_ok=True)
            files.sweep(self.there)
            self.marker = files.write_bytes(files.temporary(self.there / "marker"), str(self.here.absolute()).encode())
        except (OSError, StoreError) as e:
            return f"{self.there} cannot be written ({e})"
        return ""

    def _absence(self) -> str:
        """Why the folder is not the one that was marked; empty where it is."""
        if not self.marker:
            return self._mark()
        try:
            if self.marker.is_file():
                return ""
            if any(place.is_file() for place in self.copied):  # the marker alone was lost
                return self._mark()
        except OSError as e:
            return f"{self.there} does not answer ({e.strerror})"
        return f"{self.there} is gone, or another folder lies there (is it still mounted?)"

    def _say(self, trouble: str) -> None:
        if not self.said:
            tqdm.write(f"NOT KEPT: {trouble}. The work goes on here, and what is not copied is tried again.")
        self.said = trouble


@contextmanager
def copies(here: Path, there: Path | None) -> Iterator[Drive | None]:
    """The copies of the work folder `here` on `there`, closed at the end; None where there is no such folder."""
    if not there:
        yield None
        return
    drive = Drive(here, there)
    try:
        yield drive
    finally:
        drive.close()
