"""Crops of a photo: where they are cut, and their degraded inputs; and whole test photos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd_utils.common import files
from kd_utils.common.errors import DataError, ImageError
from kd_utils.config import Config, DataConfig
from kd_utils.data.crops import PhotoPair
from kd_utils.data.degradations import degrade
from kd_utils.data.photos import PhotoFile
from kd_utils.imaging.colors import luma

CONTEXT = 32  # HR pixels degraded around a crop and cut away again, so that blurs see the photo and not a border
DRAWS = 4  # positions tried for each crop wanted


@dataclass
class CutCrops:
    """The crops of one photo."""

    hr: np.ndarray  # uint8 (n, crop, crop, 3)
    lr: np.ndarray  # uint8 (n, crop/scale, crop/scale, 3)
    refused: int  # positions that were drawn and left out


def cut_crops(photo: PhotoFile, cfg: Config, want: int) -> CutCrops:
    """Up to `want` crops of one photo; none, with a word, of a photo that is damaged or too small."""
    side, scale = cfg.data.crop, cfg.scale
    none = CutCrops(np.empty((0, side, side, 3), np.uint8), np.empty((0, side // scale, side // scale, 3), np.uint8), 0)
    try:
        pixels = photo.pixels()
    except ImageError as e:
        print(f"LEFT OUT: {e}")  # one bad file among thousands does not stop the step; a bad test photo does
        return none
    if min(pixels.shape[:2]) < side:
        print(f"LEFT OUT: {photo.name} is {pixels.shape[1]}x{pixels.shape[0]}, smaller than data.crop={side}")
        return none

    # one stream of random numbers for each photo: its corners first, then a seed for each crop
    rng = np.random.default_rng([cfg.seed, int(photo.sha256[:12], 16)])
    corners, refused = choose_corners(pixels, side, want, rng, cfg.data)
    seeds = [int(v) for v in rng.integers(2**62, size=want)]

    hr = np.empty((len(corners), *none.hr.shape[1:]), np.uint8)
    lr = np.empty((len(corners), *none.lr.shape[1:]), np.uint8)
    padded = np.pad(pixels, ((CONTEXT, CONTEXT), (CONTEXT, CONTEXT), (0, 0)), "reflect")
    inner = slice(CONTEXT, CONTEXT + side)
    inner_lr = slice(CONTEXT // scale, (CONTEXT + side) // scale)
    for i, (y, x) in enumerate(corners):
        wide = padded[y : y + side + 2 * CONTEXT, x : x + side + 2 * CONTEXT]
        hr[i] = wide[inner, inner]
        lr[i] = degrade(wide[None], [seeds[i]], scale, cfg.degrade.profile)[0, inner_lr, inner_lr]
    return CutCrops(hr, lr, refused)


def choose_corners(
    photo: np.ndarray, crop: int, want: int, rng: np.random.Generator, limits: DataConfig
) -> tuple[list[tuple[int, int]], int]:
    """Up to `want` corners (y, x) of crops that are neither flat nor too dark, and how many were refused.

    Refused: standard deviation of Y below `min_std` or mean of Y below `min_mean`. Y is BT.601's, 16 to 235.
    """
    h, w = photo.shape[:2]
    corners: list[tuple[int, int]] = []
    refused = 0
    for _ in range(DRAWS * want):
        y, x = int(rng.integers(h - crop + 1)), int(rng.integers(w - crop + 1))
        gray = luma(photo[y : y + crop, x : x + crop])
        if gray.std() < limits.min_std or gray.mean() < limits.min_mean:
            refused += 1
            continue
        corners.append((y, x))
        if len(corners) == want:
            break
    return corners, refused


def degrade_photo(photo: PhotoFile, cfg: Config) -> PhotoPair:
    """A whole test photo (or its centre, `data.test_side`), its sides cut to multiples of 8, and its degraded LR."""
    whole = photo.pixels()
    sides = [min(n, cfg.data.test_side or n) // 8 * 8 for n in whole.shape[:2]]
    if min(sides) < 64:
        raise DataError(
            f"test photo {photo.name} is only {whole.shape[1]}x{whole.shape[0]}: it takes 64 pixels a side; take it "
            f"out of {photo.file.parent}, or name other photos as data.test_photos"
        )
    top, left = ((n - side) // 2 for n, side in zip(whole.shape[:2], sides))
    hr = np.ascontiguousarray(whole[top : top + sides[0], left : left + sides[1]])
    seed = int(files.digest([cfg.seed, "test", photo.sha256]), 16) >> 2
    return PhotoPair(photo.name, hr, degrade(hr[None], [seed], cfg.scale, cfg.degrade.profile)[0])
