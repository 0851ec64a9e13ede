"""A small file in an output folder that says what each output was made of, one line of JSON each.

It decides what a second call skips, makes anew, or leaves alone: a file that has another hash than its line was edited.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from kd_utils.common import files
from kd_utils.common.errors import StoreError

NAME = ".kd_sharpen.jsonl"


@dataclass(frozen=True)
class Entry:
    """What one output was made of. The hashes are sha256 of whole files."""

    output: str  # its path below the folder
    source: str  # the input's full path
    input_sha256: str
    model_sha256: str
    scale: int
    strength: float
    output_sha256: str = ""  # empty until it is written


class Decision(Enum):
    MAKE = "make"
    SKIP = "skip"  # the same call made it
    EDITED = "edited"  # there, and not as it was written, or not by us
    FOREIGN = "foreign"  # the output of another photo


class Record:
    """The record of one output folder, for several threads. Lines are only added; the last one of an output counts."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lock = threading.Lock()
        self.entries: dict[str, Entry] = {}
        try:
            lines = (folder / NAME).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            lines = []
        for line in lines:
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError):  # the last line of a run that was killed
                continue
            self.entries[entry.output] = entry

    def name(self, target: Path) -> str:
        """A target's path below the folder, as it stands in the record."""
        return target.relative_to(self.folder).as_posix()

    def decide(self, target: Path, wanted: Entry, overwrite: bool) -> Decision:
        """Whether `target` is to be made as `wanted` says.

        Another model, scale or strength makes it anew. Only `overwrite` replaces a file that was edited or is not in
        the record, and nothing replaces the output of another photo.
        """
        if not os.path.lexists(target):
            return Decision.MAKE
        known = self.find(target)
        if known is None:
            return Decision.MAKE if overwrite else Decision.EDITED
        if known.source != wanted.source and known.input_sha256 != wanted.input_sha256:
            return Decision.FOREIGN
        if overwrite:
            return Decision.MAKE
        if known.output_sha256 != files.sha256(target):
            return Decision.EDITED
        same = all(
            getattr(known, name) == getattr(wanted, name)
            for name in ("input_sha256", "model_sha256", "scale", "strength")
        )
        return Decision.SKIP if same else Decision.MAKE

    def find(self, target: Path) -> Entry | None:
        """What a target was made of. Where the file system ignores case, it may be known under another name."""
        known = self.entries.get(self.name(target))
        if known:
            return known
        for entry in list(self.entries.values()):  # another thread may add one meanwhile
            other = self.folder / entry.output
            if other.name.casefold() == target.name.casefold() and other.exists() and other.samefile(target):
                return entry
        return None

    def add(self, entry: Entry) -> None:
        """Raises StoreError where the record cannot be written."""
        self.entries[entry.output] = entry
        path = self.folder / NAME
        try:
            with self.lock, open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(entry), sort_keys=True) + "\n")
        except OSError as e:
            raise StoreError(f"{path} cannot be written ({e.strerror}): choose another folder") from e
