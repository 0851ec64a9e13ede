"""The pictures at the top of the README: before and after, by the student that ships, on photos inside scikit-image.

    python -m benchmarks.pictures [--model photo-m] [--out assets] [--models]

Writes hero.jpg, three photos with the input on the left and the student's output on the right of each, and wipe.webp,
a line that moves over one of them. The inputs are made by the degradation `light`, a quarter as wide and high, which is
shown enlarged by bicubic interpolation, as a browser shows it.

--models also writes models.jpg: parts of two photos by every student that ships and by the teachers, which are fetched.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFont

from benchmarks.results import FAMILIES
from kd_utils import sharpen
from kd_utils.common import files
from kd_utils.data.degradations import degrade
from kd_utils.evaluation import figures
from kd_utils.imaging.reading import Photo
from kd_utils.models import shipped, teacher
from kd_utils.models.pipeline import Tool
from kd_utils.own_files import ROOT

# photo, and the part of it that is shown: left, top (of pixels that are a multiple of 8)
SCENES = (("coffee", 96, 16), ("chelsea", 40, 0), ("astronaut", 64, 0))
WIDTH, HEIGHT = 352, 288  # of a scene, in pixels of the photo
SHOWN = 1.5  # times as large in the hero picture
FRAMES = 36  # of the animation, there and back
MOVING = 1  # which scene moves
GAP = 8
LIMIT = 1_000_000  # bytes of each file
SEED = 3
# of models.jpg: which scenes, each by which degradation
COMPARED = ((1, "light"), (2, "light"), (2, "two_order"))


def scene(name: str, left: int, top: int) -> np.ndarray:
    """The part of a photo that is shown, uint8 (H, W, 3)."""
    whole = getattr(skimage.data, name)()[..., :3]
    return np.ascontiguousarray(whole[top : top + HEIGHT, left : left + WIDTH])


def before_and_after(name: str, left: int, top: int, tool: Tool) -> tuple[np.ndarray, np.ndarray]:
    """A scene's degraded input, enlarged by bicubic interpolation, and the student's output; uint8 (H, W, 3)."""
    small = degrade(scene(name, left, top)[None], [SEED], 4, "light")[0]  # (H/4, W/4, 3)
    after = sharpen.apply(tool, Photo(small)).pixels
    before = sharpen.apply(tool, Photo(small), 0.0).pixels
    return before, after


def split(before: np.ndarray, after: np.ndarray, at: float) -> Image.Image:
    """One picture: before on the left of the line at `at` (0 to 1), after on its right, with their names."""
    size = round(before.shape[1] * SHOWN), round(before.shape[0] * SHOWN)
    left = Image.fromarray(before).resize(size, Image.Resampling.LANCZOS)
    right = Image.fromarray(after).resize(size, Image.Resampling.LANCZOS)
    x = round(at * size[0])
    whole = right.copy()
    whole.paste(left.crop((0, 0, x, size[1])), (0, 0))

    draw = ImageDraw.Draw(whole)
    if 0 < x < size[0]:
        draw.line((x, 0, x, size[1]), fill="white", width=3)
    font = ImageFont.load_default(20)
    if x > 90:
        _tag(draw, (12, size[1] - 16), "input", font, "ls")
    if size[0] - x > 100:
        _tag(draw, (size[0] - 12, size[1] - 16), "student", font, "rs")
    return whole


def _tag(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, font: ImageFont.FreeTypeFont, anchor: str) -> None:
    box = draw.textbbox(at, text, font=font, anchor=anchor)
    draw.rounded_rectangle((box[0] - 7, box[1] - 5, box[2] + 7, box[3] + 6), 5, fill=(20, 20, 20))
    draw.text(at, text, font=font, fill="white", anchor=anchor)


def hero(scenes: list[tuple[np.ndarray, np.ndarray]]) -> Image.Image:
    """All scenes side by side, each split in the middle."""
    tiles = [split(before, after, 0.5) for before, after in scenes]
    width = sum(tile.width for tile in tiles) + GAP * (len(tiles) - 1)
    sheet = Image.new("RGB", (width, tiles[0].height), "white")
    x = 0
    for tile in tiles:
        sheet.paste(tile, (x, 0))
        x += tile.width + GAP
    return sheet


def wipe(before: np.ndarray, after: np.ndarray) -> list[Image.Image]:
    """The frames of the animation: the line goes from one edge to the other and back, slower at the edges."""
    turns = np.linspace(0, 2 * np.pi, FRAMES, endpoint=False)
    return [split(before, after, float(0.5 + 0.48 * np.cos(turn))) for turn in turns]


def by_every_model() -> Image.Image:
    """Two lines for each of `COMPARED`, a family each: the input, its students, its teacher and the original."""
    pictures = []
    for number, profile in COMPARED:
        original = scene(*SCENES[number])
        small = Photo(degrade(original[None], [SEED], 4, profile)[0])
        for teaches, family in FAMILIES.items():
            names = [name for name in shipped.shipped_names() if name.startswith(family)]
            tools = {name: sharpen.load(name) for name in names}
            tools[teaches] = sharpen.load(teacher.find_teacher(teaches).path)
            line = {f"input, {profile}": sharpen.apply(tools[teaches], small, 0.0).pixels}
            line |= {name: sharpen.apply(tool, small).pixels for name, tool in tools.items()}
            pictures += [*line.items(), ("original", original)]
    return figures.grid(pictures, columns=6, cell=WIDTH)


def save(path: Path, images: list[Image.Image], **options: object) -> Path:
    """Write one picture, or an animation of several. AssertionError where the file would be too large for a README."""
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": images[1:], "duration": 70, "loop": 0} if len(images) > 1 else {}
    images[0].save(buffer, path.suffix.lstrip(".").replace("jpg", "jpeg"), **options, **more)
    assert buffer.tell() < LIMIT, f"{path.name} has {buffer.tell()} bytes, more than {LIMIT}"
    return files.write_bytes(path, buffer.getbuffer())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="as of sharpen (default: the student that ships)")
    parser.add_argument("--out", type=Path, default=ROOT / "assets")
    parser.add_argument("--models", action="store_true", help="also models.jpg, by every student and both teachers")
    args = parser.parse_args()

    tool = sharpen.load(args.model, 4)
    scenes = [before_and_after(name, left, top, tool) for name, left, top in SCENES]
    written = [
        save(args.out / "hero.jpg", [hero(scenes)], quality=88, subsampling=0),
        save(args.out / "wipe.webp", wipe(*scenes[MOVING]), quality=80, method=4),
    ]
    if args.models:
        written.append(save(args.out / "models.jpg", [by_every_model()], quality=85))
    for path in written:
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
