"""The command `sharpen` called as a user calls it, and photos to call it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from helpers.raw_files import waves
from kd_utils.__main__ import main
from kd_utils.imaging import records


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def small_jpeg(path: Path) -> Path:
    """A photo of 8 x 8 pixels, a JPEG whatever its suffix."""
    return save(path, waves(8, 8), format="JPEG")


def outputs(folder: Path) -> list[str]:
    """The files below a folder of outputs, without the record of what they were made of."""
    found = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    return sorted(name for name in found if not name.endswith(records.NAME))


def run(*args, **options) -> int:
    return main(["sharpen", *map(str, args), *[a for k, v in options.items() for a in (f"--{k}", str(v))]])
