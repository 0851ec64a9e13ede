"""PSNR and SSIM as the super-resolution papers count them.

Every score states its border and its channel: `border` pixels are cut from each edge, and `y` picks the luma of
BT.601 (unrounded, 16..235, as MATLAB's ``rgb2ycbcr`` and basicsr's ``bgr2ycbcr`` have it) instead of RGB.
"""

from __future__ import annotations

import numpy as np

from kd_utils.imaging.colors import luma


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
    return (luma(a), luma(b)) if y else (a.astype(np.float64), b.astype(np.float64))


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
    return float(
        structural_similarity(
            a,
            b,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=None if y else 2,
        )
    )
