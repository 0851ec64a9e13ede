"""Which files are sharpened into which: files, folders and globs into an output that can be written."""

from __future__ import annotations

import glob
import itertools
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from kd_utils.common.errors import SharpenError
from kd_utils.imaging import reading, writing


def check_writable(folder: Path) -> None:
    """Raises SharpenError before the network runs for nothing. Leaves no file, and does not make the folder yet."""
    there = next(p for p in (folder, *folder.absolute().parents) if os.path.exists(p))
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as e:
        raise SharpenError(f"{folder} cannot be written ({there}: {e.strerror}): choose another folder") from e


def pair_files(
    inputs: list[str], output: Path, failed: list[tuple[str, str]], left_out: Counter[str]
) -> Iterator[tuple[Path, Path]]:
    """The (input, output) files; what cannot be is added to `failed`, what is no image to `left_out`.

    Raises SharpenError or ImageError for an output that looks like a file and cannot be one.
    """
    if len(inputs) > 1 and os.path.isdir(output):  # `shots/* shots/out`, as a shell expands it once `out` is there
        inputs = [item for item in inputs if Path(item).expanduser().resolve() != output.resolve()]
    found = [(source, name) for item in inputs for source, name in _expand(item, output, failed, left_out)]
    single = False
    if _is_image_name(output) and not os.path.isdir(output):
        if len(found) > 1 or any(Path(item).expanduser().is_dir() for item in inputs):
            raise SharpenError(f"{output} would be one file: name a folder for several photos")
        writing.check(output.suffix)
        single = True
    sources = {source.resolve() for source, _ in found}
    names = {name for _, name in found}
    taken: dict[Path, Path] = {}
    for source, name in found:
        if name.suffix.lower() == ".gif":  # written as PNG; one of that name keeps it
            png = name.with_suffix(".png")
            name = png if png not in names else name.with_name(f"{name.name}.png")
        target = output if single else output / name
        if target.resolve() in sources:
            failed.append((str(source), f"{target} is an input itself: choose another output"))
        elif target in taken:
            failed.append((str(source), f"{target} is the output of {taken[target]} already: choose two folders"))
        else:
            taken[target] = source
            yield source, target


def _is_image_name(path: Path) -> bool:
    """Whether one who writes such an output means a file."""
    suffix = path.suffix.lower()
    return suffix in (*reading.SUFFIXES, ".heic", ".heif", ".jxl", ".avif") or suffix in Image.registered_extensions()


def _expand(item: str, output: Path, failed: list[tuple[str, str]], left_out: Counter[str]) -> list[tuple[Path, Path]]:
    """The files of one input, each with its path below `output`."""
    path = Path(item).expanduser()
    if path.is_dir():
        found, root = reading.list_files(path), path
    elif path.exists() or not glob.has_magic(item):
        return [(path, Path(path.name))]  # if it is not there, reading it says so
    else:
        found = [p for p in map(Path, sorted(glob.glob(str(path), recursive=True))) if p.is_file()]
        root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
    if output.resolve() != root.resolve():  # what earlier runs wrote is no input
        found = [p for p in found if output.resolve() not in p.resolve().parents]
    if path.is_dir():
        left_out.update(p.suffix.lower() for p in found if p.suffix.lower() not in reading.SUFFIXES)
        found = [p for p in found if p.suffix.lower() in reading.SUFFIXES]
    if not found:
        failed.append((item, f"{item} holds no images ({', '.join(reading.SUFFIXES)}): check the path"))
    return [(p, p.relative_to(root)) for p in found]
