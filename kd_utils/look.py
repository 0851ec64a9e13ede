"""Models compared on a photo of one's own: a page with a slider between any two, and where they differ most."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from markupsafe import Markup
from tqdm.auto import tqdm

from kd_utils import sharpen
from kd_utils.common import devices, files
from kd_utils.common.errors import ConfigError, SharpenError
from kd_utils.common.names import display_name
from kd_utils.common.tensors import enlarged, to_tensor, to_uint8
from kd_utils.config import STAND_INS, TEACHERS, Config
from kd_utils.evaluation import costs, figures, viewer
from kd_utils.imaging import reading
from kd_utils.imaging.reading import Photo
from kd_utils.models.shipped import FAMILIES, NAME, find_student, shipped_names
from kd_utils.models.teacher import find_teacher
from kd_utils.overrides import did_you_mean


def default_models(scale: int) -> list[str]:
    """What is compared where no model is named."""
    return ["bicubic", *(name for name in shipped_names(scale) if name.startswith(FAMILIES[0]))]


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
    named = _named(models)
    if len(named) < 2:
        raise SharpenError(
            f"look compares models, and {len(named)} was given: name two at least, such as bicubic photo-m"
        )
    out = Path(out).expanduser()
    if out.suffix.lower() not in (".html", ".htm"):
        raise SharpenError(f"{out} does not end in .html: give the page to write")

    _require_known(named, scale)

    whole = reading.to_rgb(reading.read(photo))  # (H, W, 3)
    part = _part(whole, LARGEST // scale, at)
    looks = _compare(part.image, named, scale, device)
    return files.write_bytes(out, _page(Path(photo).name, part, looks, scale, device).encode())


def widget(image: np.ndarray, models: dict[str, str], scale: int = 4, device: str = "auto") -> str:
    """The same comparison for a notebook's cell, as HTML that needs nothing else.

    `image` is uint8 (h, w, 3) RGB, taken whole; `models` are {title: model}, two at least, models as `look` takes them.
    """
    looks = _compare(image, models, scale, device, quiet=True)
    style = viewer.source("table.css") + viewer.source("slider.css")
    shown = _slider(image, looks) + _table(looks, device)
    return f"<style>{style}</style>{shown}<script>{viewer.source('slider.js')}</script>"


def _require_known(models: dict[str, str], scale: int) -> None:
    """Raises ConfigError for a model that is neither a name nor a file, before any of them computes."""
    names = ["bicubic", "teacher", *shipped_names(scale), *TEACHERS, *STAND_INS]
    for model in models.values():
        if NAME.fullmatch(model):
            find_student(model, scale)
        elif model not in names and not Path(model).expanduser().exists():
            hint = did_you_mean(model, names) or ": check the path"
            raise ConfigError(f"model {model} is neither a file nor one of {', '.join(names)}{hint}")


def _named(models: Sequence[str]) -> dict[str, str]:
    """{title: model}; files of one name are told apart by their folders."""
    named: dict[str, str] = {}
    for model in dict.fromkeys(models):
        title = _title(model)
        if title in named:
            title = display_name("/".join(Path(model).parts[-2:]))
        named[title if title not in named else model] = model
    return named


def _compare(image: np.ndarray, models: dict[str, str], scale: int, device: str, quiet: bool = False) -> list[Look]:
    looks = []
    for title, model in tqdm(models.items(), desc="models", unit="model", disable=quiet):
        looks.append(_run(title, model, image, scale, device))
    return looks


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
def _run(title: str, model: str, part: np.ndarray, scale: int, device: str) -> Look:
    """One model on the part, timed once after a small piece has warmed it up."""
    if model == "bicubic":
        place = devices.resolve_device(device)
        start = time.perf_counter()
        image = to_uint8(enlarged(to_tensor(part[None], place), scale))[0]
        return Look(title, image, 1000 * (time.perf_counter() - start))

    tool = sharpen.load(_find(model), scale, device)
    sharpen.apply(tool, Photo(part[:64, :64].copy()))
    start = time.perf_counter()
    image = sharpen.apply(tool, Photo(part)).pixels
    return Look(title, image, 1000 * (time.perf_counter() - start))


def _find(name: str) -> str:
    """A model as `sharpen.load` takes it: teachers by the path of their file, everything else as it is."""
    if name == "teacher":
        name = Config().teacher
    if name in TEACHERS + STAND_INS:
        return str(find_teacher(name).path)
    return name


def _title(name: str) -> str:
    if name == "teacher":
        return f"teacher ({Config().teacher})"
    return display_name(Path(name).name)


def _page(name: str, part: Part, looks: list[Look], scale: int, device: str) -> str:
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
            slider=_slider(part.image, looks),
            table=_table(looks, device),
            source=viewer.source,
        )
    )


def _slider(image: np.ndarray, looks: list[Look]) -> Markup:
    spots = figures.most_different([seen.image for seen in looks], SPOT, SPOTS)
    pictures = [viewer.Picture("input", image, kind="webp")]
    for seen in looks:
        pictures.append(viewer.Picture(seen.name, seen.image, kind="webp"))
    return viewer.slider_fragment(pictures, looks[0].name, looks[1].name, spots, "Where they differ most:")


def _table(looks: list[Look], device: str) -> Markup:
    place = devices.resolve_device(device)
    engine = costs.engine(place, devices.inference_dtype(place))
    return viewer.macro("look_table")(looks, engine, torch.get_num_threads())


# ---- the command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("photo", metavar="PHOTO", help="an image file")
    text = (
        "bicubic, teacher (the default one), a teacher's name, a student that ships "
        f"({', '.join(shipped_names())}), or a file as sharpen takes it; two at least"
    )
    add("--model", nargs="+", metavar="MODEL", help=f"{text} (default: {' '.join(default_models(4))})")
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
    print(look(args.photo, args.model or default_models(args.scale), out, args.scale, args.device, at))
    return 0
