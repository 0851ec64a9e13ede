"""Pure pictures: panels with zooms, and grids.

Images are uint8 (H, W, 3) RGB arrays in, PIL images out. Equal inputs give equal pixels: the font
is the one inside Pillow, and nothing depends on the screen, on pyplot's global state or on the time.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

Box = tuple[int, int, int, int]  # left, top, right, bottom, in the pixels of the largest image

INK, SOFT, PAPER = (24, 27, 32), (98, 106, 118), (255, 255, 255)
FRAMES = ((230, 57, 70), (29, 126, 214), (246, 163, 23))  # outlines of the zooms, in order
GAP = 10
SMALLEST = 13  # pixels of a font: a sheet is often shown at three quarters of its size
BRIGHTEST = 32  # levels of 255 that are brightest in a map of differences


def most_detailed(image: np.ndarray, side: int, avoid: Sequence[Box] = ()) -> Box:
    """The square of `side` pixels with the most fine detail, well clear of the boxes in `avoid` where that is possible.

    Detail is the sum of absolute differences between neighbours, each clipped at 48 levels, so that one hard
    edge does not win over texture. Integer arithmetic: the same box on every machine.
    """
    grey = image.astype(np.int64).sum(axis=2) // 3  # (H, W)
    detail = np.zeros_like(grey)
    detail[1:] += np.abs(np.diff(grey, axis=0)).clip(max=48)
    detail[:, 1:] += np.abs(np.diff(grey, axis=1)).clip(max=48)
    return _best_square(detail, side, avoid)


def most_different(images: Sequence[np.ndarray], side: int, count: int) -> list[Box]:
    """The `count` squares of `side` pixels in which several pictures of one scene differ most, the largest first."""
    grey = np.stack([image.astype(np.int64).sum(axis=2) // 3 for image in images])  # (N, H, W)
    spread = grey.max(axis=0) - grey.min(axis=0)
    boxes: list[Box] = []
    for _ in range(count):
        boxes.append(_best_square(spread, side, boxes))
    return boxes


def _best_square(detail: np.ndarray, side: int, avoid: Sequence[Box]) -> Box:
    """The square of `side` pixels with the largest sum of `detail` (H, W), integers of 0 or more."""
    height, width = detail.shape
    side = max(1, min(side, height, width))
    total = np.zeros((height + 1, width + 1), np.int64)
    total[1:, 1:] = detail.cumsum(0).cumsum(1)
    score = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]

    for gap in (side // 2, 0):  # next to each other two zooms show the same thing; still better than one place twice
        free = np.ones(score.shape, bool)
        for left, top, right, bottom in avoid:
            rows = slice(max(0, top - side - gap + 1), bottom + gap)
            columns = slice(max(0, left - side - gap + 1), right + gap)
            free[rows, columns] = False
        if free.any():
            score = np.where(free, score, -1)
            break

    top, left = np.unravel_index(int(score.argmax()), score.shape)
    return int(left), int(top), int(left) + side, int(top) + side


def spread_zooms(image: np.ndarray, side: int, count: int) -> list[Box]:
    """The most detailed square of `side` pixels in each of `count` equal parts of the image along its longer axis.

    So the zooms show different things of a photo, where its most detailed squares often lie on one object. Between two
    parts `side` pixels are left out, as far as the parts are long enough.
    """
    height, width = image.shape[:2]
    length = max(height, width)
    boxes = []
    for part in range(count):
        first, last = round(part / count * length), round((part + 1) / count * length)
        margin = max(0, min(side // 2, (last - first - side) // 2))
        if part > 0:
            first += margin
        if part < count - 1:
            last -= margin

        if width >= height:
            x0, y0, x1, y1 = most_detailed(image[:, first:last], side)
            boxes.append((first + x0, y0, first + x1, y1))
        else:
            x0, y0, x1, y1 = most_detailed(image[first:last], side)
            boxes.append((x0, first + y0, x1, first + y1))
    return boxes


def error_map(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Where and how much two pictures differ, as a picture: black for equal, over purple and orange to pale yellow.

    The mean absolute difference over the channels; pale yellow is BRIGHTEST levels of 255 or more.
    """
    from matplotlib import colormaps

    off = np.abs(image.astype(np.int16) - label).mean(axis=2)  # (H, W)
    return colormaps["inferno"](np.minimum(off / BRIGHTEST, 1), bytes=True)[..., :3].copy()


def most_varied(images: np.ndarray, count: int) -> list[int]:
    """The numbers of `count` pictures of (N, H, W, 3) that look most different: contrast first, then the farthest.

    Pictures are compared by the mean colours of 4x4 blocks.
    """
    blocks = []
    for image in images:
        blocks.append(cv2.resize(image, (4, 4), interpolation=cv2.INTER_AREA).astype(np.float32).ravel())
    colors = np.stack(blocks)  # (N, 48)

    chosen = [int(colors.std(axis=1).argmax())]
    distance = np.full(len(colors), np.inf)
    while len(chosen) < min(count, len(colors)):
        distance = np.minimum(distance, np.abs(colors - colors[chosen[-1]]).mean(axis=1))
        chosen.append(int(distance.argmax()))
    return sorted(chosen)


# ---- text and scaling


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _text(draw: ImageDraw.ImageDraw, xy: tuple[int, int], text: str, width: int, size: int, fill=INK) -> None:
    """Text centred on `xy`: smaller where `width` is too narrow for it, down to SMALLEST, then cut short."""
    size = _size(draw, text, width, size)
    if draw.textlength(text, font=_font(size)) > width:
        while text and draw.textlength(text + "…", font=_font(size)) > width:
            text = text[:-1]
        text += "…"
    draw.text(xy, text, font=_font(size), fill=fill, anchor="mm")


def _size(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> int:
    """The largest size of a font, from `size` down to SMALLEST, in which the text is not wider than `width`."""
    while size > SMALLEST and draw.textlength(text, font=_font(size)) > width:
        size -= 1
    return size


def _lines(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> list[str]:
    """The text in one line, or in two where one is too narrow for it at the smallest size."""
    if draw.textlength(text, font=_font(SMALLEST)) <= width or " " not in text:
        return [text]
    words = text.split()
    for n in range(len(words) - 1, 0, -1):
        first = " ".join(words[:n])
        if n == 1 or draw.textlength(first, font=_font(SMALLEST)) <= width:
            return [first, " ".join(words[n:])]
    return [text]


def _fit(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Resized to `size` (width, height): pixels stay squares where it grows, and are averaged where it shrinks."""
    grows = size[0] >= image.shape[1]
    return Image.fromarray(image).resize(size, Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)


# ---- sheets


def panel(
    images: dict[str, np.ndarray], zooms: Sequence[Box] = (), caption: str = "", column: int = 320
) -> Image.Image:
    """One column an image: its title, the whole image, and below it each zoom.

    The images show one scene; smaller ones (the low-resolution input) are shown as large as the largest, by squares.
    `zooms` are boxes in the largest image's pixels, framed there and magnified without smoothing here.
    """
    columns = panel_columns(images, zooms, column)
    head, foot = 40, 34 if caption else 0
    width = GAP + len(images) * (column + GAP)
    sheet = Image.new("RGB", (width, head + max(c.height for c in columns) + GAP + foot), PAPER)
    draw = ImageDraw.Draw(sheet)
    for k, (title, pictures) in enumerate(zip(images, columns, strict=True)):
        x = GAP + k * (column + GAP)
        _text(draw, (x + column // 2, head // 2), title, column, 22)
        sheet.paste(pictures, (x, head))

    if caption:
        _text(draw, (width // 2, sheet.height - foot // 2 - 3), caption, width - 2 * GAP, 20, SOFT)
    return sheet


def panel_columns(images: dict[str, np.ndarray], zooms: Sequence[Box] = (), width: int = 320) -> list[Image.Image]:
    """The columns of a `panel` without their titles, one an image and each `width` pixels wide."""
    shape = max(image.shape[:2] for image in images.values())
    columns = []
    for image in images.values():
        factor = shape[0] // image.shape[0]
        whole = image.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else image
        columns.append(_column(whole, shape, zooms, width))
    return columns


def _column(whole: np.ndarray, shape: tuple[int, ...], zooms: Sequence[Box], width: int) -> Image.Image:
    """An image, fitted as one of `shape` (height, width) is, and its zooms below it."""
    tall = min(round(width * shape[0] / shape[1]), width * 4 // 3)  # a portrait is made narrower than its column
    across = round(tall * shape[1] / shape[0])
    squares = [round(width * (bottom - top) / (right - left)) for left, top, right, bottom in zooms]
    column = Image.new("RGB", (width, tall + sum(GAP + square for square in squares)), PAPER)
    draw = ImageDraw.Draw(column)

    # the whole image, with a frame where each zoom lies
    inset = (width - across) // 2
    column.paste(_fit(whole, (across, tall)), (inset, 0))
    for color, box in zip(FRAMES, zooms, strict=False):
        left, top, right, bottom = (round(v * across / shape[1]) for v in box)
        _frame(draw, (inset + left, top, inset + right - 1, bottom - 1), color)

    # the zooms, one below the other
    y = tall + GAP
    for color, square, (left, top, right, bottom) in zip(FRAMES, squares, zooms, strict=False):
        column.paste(_fit(whole[top:bottom, left:right], (width, square)), (0, y))
        draw.rectangle((0, y, width - 1, y + square - 1), outline=color, width=3)
        y += square + GAP
    return column


def _frame(draw: ImageDraw.ImageDraw, edges: Box, color: tuple[int, int, int]) -> None:
    """An outline with a light rim, so that it shows on any ground."""
    left, top, right, bottom = edges
    draw.rectangle(edges, outline=PAPER, width=4)
    draw.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=color, width=2)


def grid(items: Sequence[tuple[str, np.ndarray]], columns: int = 4, cell: int = 240) -> Image.Image:
    """Titled images in rows of `columns`, each fitted into a square cell. Long titles take two lines."""
    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    scratch = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    titles = [_lines(scratch, title, cell, 16) for title, _ in items]
    line = 20
    head = 10 + line * max(map(len, titles))

    sheet = Image.new("RGB", (GAP + columns * (cell + GAP), GAP // 2 + rows * (head + cell + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for k, (_, image) in enumerate(items):
        x, y = GAP + k % columns * (cell + GAP), GAP // 2 + k // columns * (head + cell + GAP)
        size = min(_size(draw, text, cell, 16) for text in titles[k])  # both lines of a title are as large
        for n, text in enumerate(titles[k]):
            middle = y + head // 2 + round(line * (n - (len(titles[k]) - 1) / 2))
            _text(draw, (x + cell // 2, middle), text, cell, size)

        height, width = image.shape[:2]
        longer = max(height, width)
        size = (max(1, round(cell * width / longer)), max(1, round(cell * height / longer)))
        sheet.paste(_fit(image, size), (x + (cell - size[0]) // 2, y + head + (cell - size[1]) // 2))
    return sheet


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
