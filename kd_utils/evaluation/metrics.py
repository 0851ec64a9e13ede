"""The scores of a picture: PSNR and SSIM as the super-resolution papers count them, sharpness and colour drift.

Every score states its border and its channel: `border` pixels are cut from each edge, and `y` picks the luma of
BT.601 (unrounded, 16..235, as MATLAB's ``rgb2ycbcr`` and basicsr's ``bgr2ycbcr`` have it) instead of RGB.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np

from kd_utils.evaluation.scores import Scores
from kd_utils.imaging.colors import luma

DRIFT_SIDE = 32  # side of the blocks whose mean colours are compared, in pixels


def _pair(a: np.ndarray, b: np.ndarray, border: int, y: bool) -> tuple[np.ndarray, np.ndarray]:
    """Both images checked, shaved by `border` and turned into float64 (H, W) luma or (H, W, 3) RGB."""
    for x in (a, b):
        if x.dtype != np.uint8 or x.ndim != 3 or x.shape[2] != 3:
            raise ValueError(f"a score needs uint8 (H, W, 3) RGB images, not {x.dtype} {x.shape}")
    if a.shape != b.shape:
        raise ValueError(f"a score needs two images of one size, not {a.shape[:2]} and {b.shape[:2]}")
    height, width = a.shape[0] - 2 * border, a.shape[1] - 2 * border
    if border < 0 or min(height, width) < 1:
        raise ValueError(f"a border of {border} leaves nothing of a {a.shape[1]}x{a.shape[0]} image")

    a, b = (x[border : border + height, border : border + width] for x in (a, b))
    if y:
        return luma(a), luma(b)
    return a.astype(np.float64), b.astype(np.float64)


def psnr(a: np.ndarray, b: np.ndarray, border: int, y: bool) -> float:
    """Peak signal-to-noise ratio in dB, peak 255, of two uint8 (H, W, 3) RGB images; inf where they are equal."""
    from skimage.metrics import peak_signal_noise_ratio

    a, b = _pair(a, b, border, y)
    if np.array_equal(a, b):
        return float("inf")
    return float(peak_signal_noise_ratio(a, b, data_range=255))


def ssim(a: np.ndarray, b: np.ndarray, border: int, y: bool) -> float:
    """Structural similarity (Wang et al. 2004) of two uint8 (H, W, 3) RGB images, at most 1.

    Gaussian window 11x11, sigma 1.5, population covariance, data range 255, averaged over the pixels whose whole
    window lies inside the image; RGB is the mean of the three channels.
    """
    from skimage.metrics import structural_similarity

    a, b = _pair(a, b, border, y)
    if min(a.shape[:2]) < 11:
        raise ValueError(f"SSIM needs 11 pixels a side; {a.shape[1]}x{a.shape[0]} are left after a border of {border}")
    found: Any = structural_similarity(
        a,
        b,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=None if y else 2,
    )
    return float(found)


def sharpness(a: np.ndarray, b: np.ndarray, border: int) -> float | None:
    """The mean gradient magnitude of Y of image `a` over that of `b`: 1 is as crisp as `b`, less is softer.

    Both are uint8 (H, W, 3) RGB; gradients are central differences. None where `b` is flat. Noise and halos raise it
    as well: it tells nothing without a distance beside it.
    """
    steepness = []
    for y in _pair(a, b, border, y=True):
        down, across = np.gradient(y)
        steepness.append(float(np.hypot(down, across).mean()))
    if steepness[1] == 0:
        return None
    return steepness[0] / steepness[1]


def color_drift(a: np.ndarray, b: np.ndarray) -> list[float]:
    """How far the mean colour of 32x32 blocks is off, per channel, in levels of 255: mean absolute differences."""
    blocks = [max(1, n // DRIFT_SIDE) for n in a.shape[1::-1]]
    low = []
    for image in (a, b):
        low.append(cv2.resize(image.astype(np.float32), blocks, interpolation=cv2.INTER_AREA).reshape(-1, 3))

    drift = np.abs(low[0] - low[1]).mean(0, dtype=np.float64)  # (3,)
    return [round(float(channel), 4) for channel in drift]


def score(image: np.ndarray, original: np.ndarray, label: np.ndarray | None, border: int) -> Scores:
    """All scores of a picture that need no network, uint8 (H, W, 3) RGB each.

    Those to the teacher are to its picture, `label`; the label itself is only given its own sharpness, 1.
    """
    found = Scores(
        psnr_y=_finite(psnr(image, original, border, True)),
        ssim_y=ssim(image, original, border, True),
        psnr_rgb=_finite(psnr(image, original, border, False)),
        ssim_rgb=ssim(image, original, border, False),
        drift_rgb=color_drift(image, original),
    )
    if label is not None:
        found.sharpness = sharpness(image, label, border)
    if label is not None and image is not label:
        found.psnr_y_teacher = _finite(psnr(image, label, border, True))
        found.ssim_y_teacher = ssim(image, label, border, True)
    return found


def _finite(value: float) -> float | None:
    if math.isfinite(value):
        return value
    return None
