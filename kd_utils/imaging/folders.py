"""Which files lie below a folder, and which of them are images."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from kd_utils.common.errors import ImageError
from kd_utils.imaging.heif import HEIC_SUFFIXES, can_read_heic
from kd_utils.imaging.records import Record

# Of the images that are read. TGA, PPM, ICO and JPEG 2000 are read too, but taken out of a folder by name only.
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".avif", ".bmp", ".gif",
    *(HEIC_SUFFIXES if can_read_heic() else ()),
)  # fmt: skip


@dataclass
class Listing:
    """The files below a folder, in a fixed order, and what could not be looked into, with the reason."""

    files: list[Path] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)


def is_hidden(part: str) -> bool:
    """Whether a name is of what a system keeps for itself: thumbnails, caches, resource forks."""
    return part.startswith(".") or part in ("@eaDir", "__MACOSX")


def has_image_suffix(path: str | Path) -> bool:
    return Path(path).suffix.lower() in SUFFIXES


def is_image(path: str) -> bool:
    """Whether a path within a folder or a zip is of an image that `list_images` would list."""
    return has_image_suffix(path) and not any(is_hidden(part) for part in Path(path).parts)


def list_files(folder: str | Path) -> Listing:
    """The files below `folder`; hidden ones are left out.

    Links are followed, each folder and file is found once (under its own name rather than a link's), and loops end.
    Raises ImageError where there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder: give one that holds images")
    found = Listing()
    seen: set[tuple[int, int]] = set()
    linked_files: list[Path] = []
    todo, linked = [folder], []
    while todo or linked:
        at = todo.pop() if todo else linked.pop(0)  # links last, so that what they lead to keeps its own name
        try:
            entries = sorted(os.scandir(at), key=lambda entry: os.fsencode(entry.name))
            state = at.stat()
        except OSError as e:
            found.unreadable.append((at, f"{at} cannot be read ({e.strerror}): check its permissions"))
            continue
        if (state.st_dev, state.st_ino) in seen:
            continue
        seen.add((state.st_dev, state.st_ino))
        for entry in entries:
            if is_hidden(entry.name):
                continue
            path = at / entry.name
            if entry.is_dir(follow_symlinks=False):
                todo.append(path)
            elif entry.is_symlink():
                (linked if path.is_dir() else linked_files).append(path)
            elif entry.is_file(follow_symlinks=False):
                found.files.append(path)

    real = {os.path.realpath(path) for path in found.files}
    for path in linked_files:
        target = os.path.realpath(path)
        if target not in real:
            real.add(target)
            found.files.append(path)
    found.files.sort(key=lambda path: path.parts)
    return found


def without_outputs(files: list[Path], root: Path) -> tuple[list[Path], int]:
    """The files without those that `sharpen` wrote into folders below `root`, by its records, and how many these are.

    `root` may be an output folder itself: who names it means its files.
    """
    records: dict[Path, Record] = {}  # of every folder on the way

    def is_output(path: Path) -> bool:
        for folder in path.parents:
            if folder == root:
                return False
            if folder not in records:
                records[folder] = Record(folder)
            if records[folder].name(path) in records[folder].entries:
                return True
        return False

    kept = [path for path in files if not is_output(path)]
    return kept, len(files) - len(kept)


def list_images(folder: str | Path) -> list[Path]:
    """Those of `list_files` whose suffix is an image's that is read, without earlier outputs of `sharpen`.

    Folders that cannot be read are named, and outputs counted.
    """
    found = list_files(folder)
    for _, why in found.unreadable:
        print(f"LEFT OUT: {why}")
    images, outputs = without_outputs([path for path in found.files if has_image_suffix(path)], Path(folder))
    if outputs:
        print(f"LEFT OUT: pictures below {folder} that sharpen wrote ({outputs}): to use them, move them elsewhere")
    return images
