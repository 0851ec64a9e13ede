"""Which files are sharpened into which: files, folders and globs into an output that can be written."""

from __future__ import annotations

import glob
import itertools
import os
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from kd_utils.common.errors import SharpenError
from kd_utils.imaging import folders, heif, writing

LONGEST_NAME = 255  # bytes, on the file systems of Linux, macOS and Windows


@dataclass
class Pairs:
    """The (input, output) files of a call, what cannot be one, and what of the folders is no image, by suffix."""

    jobs: list[tuple[Path, Path]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)  # (input, why)
    left_out: Counter[str] = field(default_factory=Counter)
    single: bool = False  # the output is one file, not a folder


def path_of(text: str | Path) -> Path:
    """A path as someone wrote it. Raises SharpenError for what can be none."""
    if not str(text) or "\0" in str(text):
        raise SharpenError(f"{str(text)!r} is no path: give a file or a folder ('.' is the one you are in)")
    try:
        return Path(text).expanduser()
    except RuntimeError as e:
        raise SharpenError(f"{text} begins in the folder of a user who is not known here: write it in full") from e


def check_writable(folder: Path) -> None:
    """Raises SharpenError before the network runs for nothing. Leaves no file, and does not make the folder yet."""
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in folder.parts):
        raise SharpenError(f"{folder} cannot be written: choose a name of at most {LONGEST_NAME} bytes")
    there = _nearest(folder)
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as e:
        raise SharpenError(f"{folder} cannot be written ({there}: {e.strerror}): choose another folder") from e


def pair_files(inputs: list[str], output: Path) -> Pairs:
    """Match inputs and outputs. No output is an input, and no two inputs have the same output.

    Raises SharpenError or ImageError for an output that looks like a file and cannot be one.
    """
    pairs = Pairs()
    if len(inputs) > 1 and os.path.isdir(output):  # `shots/* shots/out`, as a shell expands it once `out` is there
        inputs = [item for item in inputs if _real(path_of(item)) != _real(output)]
    found: list[tuple[Path, Path]] = []
    for item in inputs:
        found += _expand(item, output, pairs)

    if _is_image_name(output) and not os.path.isdir(output):
        if len(found) > 1 or any(os.path.isdir(path_of(item)) for item in inputs):
            raise SharpenError(f"{output} would be one file: name a folder for several photos")
        writing.check(output.suffix)
        pairs.single = True

    inodes = {_inode(source) for source, _ in found} - {None}
    names = {name for _, name in found}
    targets = [output if pairs.single else output / _output_name(name, names) for _, name in found]
    same = _sameness(output, targets)
    taken: dict[str, Path] = {}  # the input of each output
    for (source, _), target in zip(found, targets, strict=True):
        other = taken.get(same(target))
        if len(os.fsencode(target.name)) > LONGEST_NAME:
            pairs.failed.append(
                (str(source), f"{target.name} would be longer than {LONGEST_NAME} bytes: rename {source}")
            )
        elif _inode(target) in inodes:
            pairs.failed.append((str(source), f"{target} is an input itself: choose another output"))
        elif other is None:
            taken[same(target)] = source
            pairs.jobs.append((source, target))
        elif _real(source) != _real(other):  # else it was named twice
            why = f"{target} is the output of {other} already: choose two folders"
            pairs.failed.append((str(source), why))
    return pairs


def _sameness(output: Path, targets: list[Path]) -> Callable[[Path], str]:
    """What is equal for two targets that are one file: their paths, or these without case where `output` ignores it."""

    def plain(path: Path) -> str:
        return unicodedata.normalize("NFC", str(path)).casefold()

    twins = len({plain(target) for target in targets}) < len(set(targets))
    return plain if twins and ignores_case(output) else str


def ignores_case(folder: Path) -> bool:
    """Whether names that differ in case are one file there, as on macOS, Windows and memory cards."""
    try:
        with tempfile.NamedTemporaryFile(prefix="case", dir=_nearest(folder)) as file:
            path = Path(file.name)
            return os.path.exists(path.with_name(path.name.swapcase()))
    except OSError:  # `check_writable` says so
        return False


def _nearest(folder: Path) -> Path:
    """The folder itself, or the first one above it that is there."""
    return next(p for p in (folder, *folder.absolute().parents) if os.path.exists(p))


def _real(path: Path) -> str:
    """The path without links; links that lead nowhere, or in a circle, stay."""
    return os.path.realpath(path)


def _output_name(name: Path, names: set[Path]) -> Path:
    """The output's name: a GIF or HEIC becomes a PNG, and a PNG of that name keeps it."""
    if name.suffix.lower() not in (".gif", *heif.HEIC_SUFFIXES):
        return name
    png = name.with_suffix(".png")
    return png if png not in names else name.with_name(f"{name.name}.png")


def _inode(path: Path) -> tuple[int, int] | None:
    """What a file is under all of its names."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _is_image_name(path: Path) -> bool:
    """Whether one who writes such an output means a file."""
    suffix = path.suffix.lower()
    known = (*folders.SUFFIXES, *heif.HEIC_SUFFIXES, ".jxl")
    return suffix in known or suffix in Image.registered_extensions()


def _expand(item: str, output: Path, pairs: Pairs) -> list[tuple[Path, Path]]:
    """The files of one input, each with its path below `output`."""
    path = path_of(item)
    is_folder = os.path.isdir(path)
    if is_folder:
        listing = folders.list_files(path)
        pairs.failed += [(str(where), why) for where, why in listing.unreadable]
        found, root = listing.files, path
    elif os.path.lexists(path) or not glob.has_magic(item):
        return [(path, Path(path.name))]  # if it is not there, reading it says so
    else:
        root, pattern = _split_glob(path)
        matches = sorted(glob.glob(os.path.join(glob.escape(str(root)), pattern), recursive=True))
        found = [
            p for p in map(Path, matches) if p.is_file() and not any(map(folders.is_hidden, p.parts[len(root.parts) :]))
        ]

    inside, whole = _real(root) + os.sep, _real(output) + os.sep
    if whole.startswith(inside) and whole != inside:  # what earlier runs wrote is no input
        found = [p for p in found if not _real(p).startswith(whole)]
    found, earlier = folders.without_outputs(found, root)
    if earlier:
        pairs.left_out[f"earlier output{'s' if earlier > 1 else ''}"] = earlier
    if is_folder:
        pairs.left_out.update(p.suffix.lower() for p in found if not folders.has_image_suffix(p))
        found = [p for p in found if folders.has_image_suffix(p)]
        if not found and not listing.unreadable:
            pairs.failed.append((item, f"{item} holds no images ({', '.join(folders.SUFFIXES)}): check the path"))
    elif not found:
        pairs.failed.append((item, f"{item} matches no files: check the pattern"))
    return [(p, p.relative_to(root)) for p in found]


def _split_glob(path: Path) -> tuple[Path, str]:
    """The folder before a pattern, taken literally wherever such a folder exists (`shots [2020]`), and the pattern."""
    root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
    rest = path.parts[len(root.parts) :]
    while len(rest) > 1 and (root / rest[0]).is_dir():
        root, rest = root / rest[0], rest[1:]
    return root, os.path.join(*rest)
