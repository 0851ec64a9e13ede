"""PSNR and SSIM: equal to basicsr's and scikit-image's, and clear about what they cannot score."""

from __future__ import annotations

import numpy as np
import pytest

from kd_utils.evaluation import metrics


def _pairs():
    """A photo and three ways of spoiling it: noise, blur, a flat grey."""
    from skimage import data, filters

    photo = np.ascontiguousarray(data.astronaut()[100:240, 120:283])
    noise = np.random.default_rng(0).normal(0, 12, photo.shape)
    yield photo, np.clip(photo + noise, 0, 255).astype(np.uint8)
    yield photo, (filters.gaussian(photo, 2, channel_axis=2) * 255).round().astype(np.uint8)
    yield photo, np.full_like(photo, 127)


@pytest.mark.parametrize("border", [0, 4])
def test_equal_to_basicsr(official, border):
    from basicsr.metrics import calculate_psnr, calculate_ssim

    for a, b in _pairs():
        for y in (True, False):
            bgr = a[..., ::-1], b[..., ::-1]
            assert metrics.psnr(a, b, border, y) == pytest.approx(
                calculate_psnr(*bgr, crop_border=border, test_y_channel=y), abs=1e-5
            )
            assert metrics.ssim(a, b, border, y) == pytest.approx(
                calculate_ssim(*bgr, crop_border=border, test_y_channel=y), abs=1e-6
            )


def test_equal_to_scikit_image():
    from skimage.color import rgb2ycbcr
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    window = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    for a, b in _pairs():
        ya, yb = (rgb2ycbcr(x)[4:-4, 4:-4, 0] for x in (a, b))
        assert metrics.psnr(a, b, 4, True) == pytest.approx(peak_signal_noise_ratio(ya, yb, data_range=255), abs=1e-8)
        assert metrics.ssim(a, b, 4, True) == pytest.approx(structural_similarity(ya, yb, **window), abs=1e-8)
        ca, cb = a[4:-4, 4:-4].astype(float), b[4:-4, 4:-4].astype(float)
        channels = [structural_similarity(ca[..., i], cb[..., i], **window) for i in range(3)]
        assert metrics.ssim(a, b, 4, False) == pytest.approx(np.mean(channels), abs=1e-8)
        assert metrics.psnr(a, b, 4, False) == pytest.approx(peak_signal_noise_ratio(ca, cb, data_range=255), abs=1e-8)


def test_known_values():
    black, white = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    assert metrics.luma(white)[0, 0] == pytest.approx(235) and metrics.luma(black)[0, 0] == 16
    assert metrics.psnr(black, white, 0, False) == 0
    assert metrics.psnr(black, black + 1, 0, False) == pytest.approx(48.1308036)
    assert metrics.psnr(white, white, 2, True) == float("inf")
    assert metrics.ssim(white, white, 2, True) == 1


def test_sharpness_is_the_gradient_over_the_teachers():
    photo, blurred = list(_pairs())[1]
    assert metrics.sharpness(photo, photo, 4) == 1
    assert 0.2 < metrics.sharpness(blurred, photo, 4) < 0.8 < 1.2 < metrics.sharpness(photo, blurred, 4)
    ramp = np.tile(np.arange(0, 160, 5, np.uint8)[None, :, None], (32, 1, 3))
    assert metrics.sharpness(ramp // 5 * 3, ramp, 0) == pytest.approx(0.6), "gradients count as they are"
    assert metrics.sharpness(photo, np.full_like(photo, 9), 4) is None, "nothing is as crisp as a flat picture"


def test_the_border_is_left_out():
    a = np.full((32, 32, 3), 90, np.uint8)
    b = a.copy()
    b[:4] = b[:, -4:] = 255
    assert metrics.psnr(a, b, 4, True) == float("inf")
    assert metrics.psnr(a, b, 3, True) < 30


@pytest.mark.parametrize(
    ("a", "b", "border", "says"),
    [
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8), 0, "one size"),
        (np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 3), np.float32), 0, "uint8"),
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), 0, "RGB"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), 4, "leaves nothing"),
    ],
)
def test_refuses(a, b, border, says):
    for score in (metrics.psnr, metrics.ssim):
        with pytest.raises(ValueError, match=says):
            score(a, b, border, True)


def test_ssim_needs_its_window():
    with pytest.raises(ValueError, match="11 pixels"):
        metrics.ssim(np.zeros((14, 30, 3), np.uint8), np.ones((14, 30, 3), np.uint8), 2, True)
