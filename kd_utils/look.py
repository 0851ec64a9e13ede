"""Models compared on a photo of one's own: a page with a slider between any two, and where they differ most."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from kd_utils import sharpen
from kd_utils.common import devices, files
from kd_utils.common.errors import SharpenError
from kd_utils.common.names import display_name
from kd_utils.common.tensors import enlarged, to_tensor, to_uint8
from kd_utils.config import STAND_INS, TEACHERS, Config
from kd_utils.evaluation import costs, figures, viewer
from kd_utils.imaging import reading
from kd_utils.imaging.reading import Photo
from kd_utils.models.teacher import find_teacher

MODELS = ("bicubic", "s", "m", "l")  # what is compared where no model is named
LARGEST = 2048  # pixels: the largest side of the part that is compared, in the output; a page can hold no more
SPOT = 96  # side of the places where the models differ most, in output pixels
SPOTS = 6


@dataclass
class Look:
    """What one model made of the photo."""

    name: str
    image: np.ndarray  # uint8 (H, W, 3) RGB
    ms: float

    @property
    def megapixels(self) -> float:
        """Of output."""
        return self.image.shape[0] * self.image.shape[1] / 1e6


@dataclass
class Part:
    """The part of the photo that is compared."""

    image: np.ndarray  # uint8 (h, w, 3) RGB
    corner: tuple[int, int]  # x, y in the photo
    whole: tuple[int, int]  # width, height of the photo


def look(
    photo: str | Path,
    models: Sequence[str],
    out: str | Path,
    scale: int = 4,
    device: str = "auto",
    at: tuple[int, int] | None = None,
) -> Path:
    """Write the page that compares `models` on a photo, and return its path.

    A model is "bicubic" (plain enlargement), "teacher" (the default one), a registry name, a student that ships, or a
    file, as `sharpen.load` takes it. Of a large photo a part is compared: around the pixel `at` (x, y), or the centre.
    Raises ImageError for the photo, ConfigError or CheckpointError for a model, SharpenError for fewer than two models.
    """
    models = list(dict.fromkeys(models))
    if len(models) < 2:
        raise SharpenError(f"look compares models, and {len(models)} was given: name two at least, such as bicubic m")
    out = Path(out).expanduser()
    if out.suffix.lower() not in (".html", ".htm"):
        raise SharpenError(f"{out} does not end in .html: give the page to write")

    whole = reading.to_rgb(reading.read(photo))  # (H, W, 3)
    part = _part(whole, LARGEST // scale, at)
    looks = []
    for name in tqdm(models, desc="models", unit="model"):
        looks.append(_run(name, part.image, scale, device))

    return files.write_bytes(out, _page(Path(photo).name, part, looks, scale, device).encode())


def _part(image: np.ndarray, side: int, at: tuple[int, int] | None) -> Part:
    """At most `side` by `side` of the image, around `at` (x, y) or its centre."""
    height, width = image.shape[:2]
    x, y = at or (width // 2, height // 2)
    if not (0 <= x < width and 0 <= y < height):
        raise SharpenError(f"--at {x} {y} lies outside of the photo, which is {width}x{height}")

    left = min(max(0, x - side // 2), max(0, width - side))
    top = min(max(0, y - side // 2), max(0, height - side))
    pixels = np.ascontiguousarray(image[top : top + side, left : left + side])
    return Part(pixels, (left, top), (width, height))


@torch.inference_mode()
def _run(name: str, part: np.ndarray, scale: int, device: str) -> Look:
    """One model on the part, timed once after a small piece has warmed it up."""
    if name == "bicubic":
        place = devices.resolve_device(device)
        start = time.perf_counter()
        image = to_uint8(enlarged(to_tensor(part[None], place), scale))[0]
        return Look(name, image, 1000 * (time.perf_counter() - start))

    tool = sharpen.load(_find(name), scale, device)
    sharpen.apply(tool, Photo(part[:64, :64].copy()))
    start = time.perf_counter()
    image = sharpen.apply(tool, Photo(part)).pixels
    return Look(_label(name), image, 1000 * (time.perf_counter() - start))


def _find(name: str) -> str:
    """A model as `sharpen.load` takes it: teachers by the path of their file, everything else as it is."""
    if name == "teacher":
        name = Config().teacher
    if name in TEACHERS + STAND_INS:
        return str(find_teacher(name).path)
    return name


def _label(name: str) -> str:
    if name == "teacher":
        return f"teacher ({Config().teacher})"
    return display_name(Path(name).name)


def _page(name: str, part: Part, looks: list[Look], scale: int, device: str) -> str:
    images = [seen.image for seen in looks]
    spots = figures.most_different(images, SPOT, SPOTS)
    pictures = [viewer.Picture("input", part.image, kind="webp")]
    for seen in looks:
        pictures.append(viewer.Picture(seen.name, seen.image, kind="webp"))

    slider = viewer.slider_fragment(pictures, looks[0].name, looks[1].name, spots, "Where they differ most:")
    place = devices.resolve_device(device)
    return (
        viewer.environment()
        .get_template("look.html.j2")
        .render(
            photo=display_name(name),
            whole=part.whole,
            part=part.image.shape[1::-1],
            corner=part.corner,
            scale=scale,
            looks=looks,
            engine=costs.engine(place, devices.inference_dtype(place)),
            threads=torch.get_num_threads(),
            slider=slider,
            source=viewer.source,
        )
    )


# ---- the command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("photo", metavar="PHOTO", help="an image file")
    text = "bicubic, teacher, a teacher's name, s, m or l of the students that ship, or a .pth; two at least"
    add("--model", nargs="+", default=list(MODELS), metavar="MODEL", help=f"{text} (default: {' '.join(MODELS)})")
    add("--out", metavar="FILE", help="the page to write (default: PHOTO-look.html in the current folder)")
    add("--scale", type=int, choices=(4, 2, 1), default=4, help="times larger (default: 4); 1: sharper, same size")
    add(
        "--at",
        type=int,
        nargs=2,
        metavar=("X", "Y"),
        help="the pixel of a large photo to look at (default: the centre)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")


def main(args: argparse.Namespace) -> int:
    out = args.out or f"{Path(args.photo).stem}-look.html"
    at = tuple(args.at) if args.at else None
    print(look(args.photo, args.model, out, args.scale, args.device, at))
    return 0
