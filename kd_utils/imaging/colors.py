"""Colours that stay: of the whole picture through a network, and of what is seen through alpha."""

from __future__ import annotations

import itertools

import cv2
import numpy as np

CELL = 16  # input pixels a side of a cell whose mean colour is kept

BT601 = np.array([65.481, 128.553, 24.966]) / 255.0


def luma(image: np.ndarray) -> np.ndarray:
    """Y of BT.601, unrounded: uint8 (H, W, 3) RGB -> float64 (H, W) in 16..235."""
    return image @ BT601 + 16.0


def match_low_frequencies(canvas: np.ndarray, pixels: np.ndarray, scale: int, rows: int = 16) -> None:
    """Give `canvas` (h*s, w*s, C) the low frequencies of its input `pixels` (h, w, C), in place.

    The difference of the two pictures' means over cells of `CELL` input pixels, smoothed (Gaussian, one cell) and
    interpolated linearly, is taken off. It is made from the whole canvas, so it knows no tiles.
    """
    h, w, _ = pixels.shape
    ys, xs = (np.linspace(0, n, max(1, round(n / CELL)) + 1).round().astype(int) for n in (h, w))
    drift = _cell_means(canvas, ys * scale, xs * scale) - _cell_means(pixels, ys, xs)
    drift = cv2.GaussianBlur(drift, (0, 0), 1, borderType=cv2.BORDER_REPLICATE).reshape(drift.shape)
    n, peak = len(drift), np.iinfo(canvas.dtype).max
    at = np.clip((np.arange(h * scale) + 0.5) * n / (h * scale) - 0.5, 0, n - 1)  # where each row lies, in cells
    for y in range(0, h * scale, rows):
        strip, first = canvas[y : y + rows], int(at[y])
        near = drift[first : int(at[y + len(strip) - 1]) + 2]
        wide = cv2.resize(near, (w * scale, len(near)), interpolation=cv2.INTER_LINEAR).reshape(
            len(near), w * scale, -1
        )
        low = at[y : y + rows].astype(int) - first
        t = (at[y : y + rows] - first - low).astype(np.float32)[:, None, None]
        fixed = strip - (wide[low] * (1 - t) + wide[np.minimum(low + 1, len(near) - 1)] * t)
        canvas[y : y + rows] = np.clip(np.rint(fixed), 0, peak)


def _cell_means(a: np.ndarray, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """(H, W, C) -> float32 (len(ys) - 1, len(xs) - 1, C), exact sums of whole numbers, a row of cells at a time."""
    rows = (a[y0:y1].sum(axis=0, dtype=np.int64) for y0, y1 in itertools.pairwise(ys))
    sums = [np.add.reduceat(row, xs[:-1], axis=0) for row in rows]
    area = np.diff(ys)[:, None, None] * np.diff(xs)[None, :, None]
    return (np.stack(sums) / area).astype(np.float32)


def fill_transparent(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(H, W, C) with the pixels of alpha 0 coloured by what is opaque around them (averages over growing blocks)."""
    if alpha.min() > 0 or alpha.max() == 0:
        return pixels
    weight = (alpha.astype(np.float32) / np.iinfo(alpha.dtype).max)[..., None]

    def pull(colour: np.ndarray, weight: np.ndarray) -> np.ndarray:  # colour is premultiplied by weight
        h, w, c = colour.shape
        own = colour / np.maximum(weight, 1e-6)
        if max(h, w) == 1 or weight.min() > 0:
            return own
        half = ((w + 1) // 2, (h + 1) // 2)
        shrunk = [cv2.resize(a, half, interpolation=cv2.INTER_AREA) for a in (colour, weight)]
        around = pull(*[a.reshape(half[1], half[0], -1) for a in shrunk])
        up = cv2.resize(around, (w, h), interpolation=cv2.INTER_LINEAR).reshape(h, w, c)
        trust = np.minimum(weight * 4, 1)
        return trust * own + (1 - trust) * up

    filled = np.rint(pull(pixels * weight, weight)).astype(pixels.dtype)
    return np.where(alpha[..., None] == 0, filled, pixels)
