"""Pure pictures: panels with zooms, grids and training curves.

Images are uint8 (H, W, 3) RGB arrays in, PIL images out. Equal inputs give equal pixels: the font
is the one inside Pillow, and nothing depends on the screen, on pyplot's global state or on the time.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

Box = tuple[int, int, int, int]  # left, top, right, bottom, in the pixels of the largest image

INK, SOFT, PAPER = (24, 27, 32), (98, 106, 118), (255, 255, 255)
FRAMES = ((230, 57, 70), (29, 126, 214), (246, 163, 23))  # outlines of the zooms, in order
GAP = 10


def most_detailed(image: np.ndarray, side: int, avoid: Sequence[Box] = ()) -> Box:
    """The square of `side` pixels with the most fine detail, well clear of the boxes in `avoid` where that is possible.

    Detail is the sum of absolute differences between neighbours, each clipped at 48 levels, so that one hard
    edge does not win over texture. Integer arithmetic: the same box on every machine.
    """
    height, width = image.shape[:2]
    side = max(1, min(side, height, width))
    grey = image.astype(np.int64).sum(axis=2) // 3
    detail = np.zeros((height + 1, width + 1), np.int64)
    detail[2:, 1:] += np.abs(np.diff(grey, axis=0)).clip(max=48)
    detail[1:, 2:] += np.abs(np.diff(grey, axis=1)).clip(max=48)
    total = detail.cumsum(0).cumsum(1)
    score = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    for gap in (side // 2, 0):  # next to each other two zooms show the same thing; still better than one place twice
        free = np.ones(score.shape, bool)
        for left, top, right, bottom in avoid:
            rows, columns = (
                slice(max(0, low - side - gap + 1), high + gap) for low, high in ((top, bottom), (left, right))
            )
            free[rows, columns] = False
        if free.any():
            score = np.where(free, score, -1)
            break
    top, left = np.unravel_index(int(score.argmax()), score.shape)
    return int(left), int(top), int(left) + side, int(top) + side


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _text(draw: ImageDraw.ImageDraw, xy: tuple[int, int], text: str, width: int, size: int, fill=INK) -> None:
    """One line of text centred on `xy`, in a smaller font where `width` is too narrow for it."""
    while size > 9 and draw.textlength(text, font=_font(size)) > width:
        size -= 1
    draw.text(xy, text, font=_font(size), fill=fill, anchor="mm")


def _fit(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Resized to `size` (width, height): pixels stay squares where it grows, and are averaged where it shrinks."""
    grows = size[0] >= image.shape[1]
    return Image.fromarray(image).resize(size, Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)


def panel(
    images: dict[str, np.ndarray], zooms: Sequence[Box] = (), caption: str = "", column: int = 320
) -> Image.Image:
    """One column an image: its title, the whole image, and below it each zoom.

    The images show one scene; smaller ones (the low-resolution input) are shown as large as the largest, by squares.
    `zooms` are boxes in the largest image's pixels, framed there and magnified without smoothing here.
    """
    height, width = max(i.shape[:2] for i in images.values())
    tall = round(column * height / width)
    if tall > column * 4 // 3:  # a portrait: as high as a zoom and a third, and narrower
        tall = column * 4 // 3
    across = round(tall * width / height)
    head, foot = 40, 34 if caption else 0
    squares = [round(column * (b - t) / (r - le)) for le, t, r, b in zooms]
    size = (
        GAP + len(images) * (column + GAP),
        head + tall + GAP + sum(s + GAP for s in squares) + foot,
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for k, (title, image) in enumerate(images.items()):
        x, y = GAP + k * (column + GAP), head
        _text(draw, (x + column // 2, head // 2), title, column, 19)
        factor = height // image.shape[0]
        whole = image.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else image
        inset = x + (column - across) // 2
        sheet.paste(_fit(whole, (across, tall)), (inset, y))
        for frame, box in zip(FRAMES, zooms, strict=False):
            left, top, right, bottom = (round(v * across / width) for v in box)
            edges = inset + left, y + top, inset + right - 1, y + bottom - 1
            draw.rectangle(edges, outline=PAPER, width=4)  # a light rim: the frame shows on any ground
            draw.rectangle([e + d for e, d in zip(edges, (1, 1, -1, -1))], outline=frame, width=2)
        y += tall + GAP
        for frame, square, (left, top, right, bottom) in zip(FRAMES, squares, zooms, strict=False):
            sheet.paste(_fit(whole[top:bottom, left:right], (column, square)), (x, y))
            draw.rectangle((x, y, x + column - 1, y + square - 1), outline=frame, width=3)
            y += square + GAP
    if caption:
        _text(draw, (size[0] // 2, size[1] - foot // 2 - 3), caption, size[0] - 2 * GAP, 16, SOFT)
    return sheet


def grid(items: Sequence[tuple[str, np.ndarray]], columns: int = 4, cell: int = 240) -> Image.Image:
    """Titled images in rows of `columns`, each fitted into a square cell."""
    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    head = 30
    sheet = Image.new("RGB", (GAP + columns * (cell + GAP), GAP // 2 + rows * (head + cell + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for k, (title, image) in enumerate(items):
        x, y = GAP + k % columns * (cell + GAP), GAP // 2 + k // columns * (head + cell + GAP)
        _text(draw, (x + cell // 2, y + head // 2), title, cell, 16)
        height, width = image.shape[:2]
        size = (max(1, round(cell * width / max(height, width))), max(1, round(cell * height / max(height, width))))
        sheet.paste(_fit(image, size), (x + (cell - size[0]) // 2, y + head + (cell - size[1]) // 2))
    return sheet


def curve(history: dict[str, Any], title: str = "", width: int = 1000, height: int = 360) -> Image.Image:
    """The loss by step (thin: each step; thick: smoothed) and the validation scores, side by side.

    `history` is train/student/history.json: {"step": [...], "loss": [...], "valid": [{"step", "psnr_y_teacher",
    "psnr_y"}, ...]}; what is missing or null is left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    loss, valid = figure.subplots(1, 2)
    steps, values = np.array(history.get("step", [])), np.array(history.get("loss", []), float)
    if len(values):
        span = max(1, len(values) // 50)
        padded = np.concatenate([np.full(span - 1, values[:span].mean()), values])
        smooth = np.convolve(padded, np.full(span, 1 / span), "valid")
        loss.plot(steps, values, color="#1d7ed6", alpha=0.25, linewidth=0.8)
        loss.plot(steps, smooth, color="#1d7ed6", linewidth=1.8)
        if values.min() > 0:
            loss.set_yscale("log")
            for axis in (loss.yaxis.set_major_formatter, loss.yaxis.set_minor_formatter):
                axis(lambda value, _: f"{value:g}")
    loss.set_title("training loss", loc="left")
    for key, label, colour in (
        ("psnr_y_teacher", "to the teacher", "#e63946"),
        ("psnr_y", "to the original", "#626a76"),
    ):
        points = [(v["step"], v[key]) for v in history.get("valid", []) if v.get(key) is not None]
        if points:
            valid.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3.5, linewidth=1.8, label=label)
    if valid.lines:
        valid.legend(frameon=False)
    valid.set_title("validation PSNR-Y, dB", loc="left")
    for axes in (loss, valid):
        axes.set_xlabel("step")
        axes.grid(True, which="major", color="#e4e7eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def data_uri(image: np.ndarray | Image.Image, kind: str = "jpeg", quality: int = 92) -> str:
    """An image in a URI: JPEG at 4:4:4, so that colours at edges stay, or "png" or "webp", which keep every pixel."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    options = {
        "jpeg": {"quality": quality, "subsampling": 0},
        "png": {"optimize": True},
        "webp": {"lossless": True, "method": 2},  # a fifth smaller than PNG, and every browser reads it
    }
    buffer = io.BytesIO()
    image.save(buffer, kind.upper(), **options[kind])
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
