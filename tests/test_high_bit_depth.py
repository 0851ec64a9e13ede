"""Samples of more than 8 bits: depth, planes, alpha and orientation of deep files."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import tifffile
from helpers.images import SRGB, exif, file, picture, tiff, written
from PIL import Image, ImageOps

from kd_utils.imaging import reading
from kd_utils.imaging.metadata import Metadata
from kd_utils.imaging.reading import Photo


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_deep_files(orientation):
    deep = picture(dtype=np.uint16)
    want = ImageOps.exif_transpose(
        Image.open(io.BytesIO(file(Image.fromarray(picture()), "PNG", exif=exif(orientation))))
    )
    photo = Photo(deep, meta=Metadata(exif=exif(orientation).tobytes()))
    for suffix in (".png", ".tif"):
        np.testing.assert_array_equal(reading.to_8_bit(reading.read(written(photo, suffix)).pixels), want)


def test_depth_is_the_files_type_not_its_brightest_pixel():
    dark = (picture(dtype=np.uint16) >> 9).astype(np.uint16)  # no sample above 127
    for suffix in (".png", ".tif"):
        photo = reading.read(cv2.imencode(suffix, dark[..., ::-1])[1].tobytes())
        assert photo.pixels.dtype == np.uint16
        np.testing.assert_array_equal(photo.pixels, dark)
    assert reading.read_rgb(cv2.imencode(".png", np.full((2, 2), 65535, np.uint16))[1].tobytes()).max() == 255


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_whose_white_is_zero(dtype):
    gray = picture(c=1, dtype=dtype)[..., 0]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.iinfo(dtype).max - gray, photometric="miniswhite")
    np.testing.assert_array_equal(reading.read(buffer.getvalue()).pixels[..., 0], gray)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "zlib", "tile": (16, 16)}])
def test_a_deep_tiff_of_separate_planes(dtype, options):
    deep = picture(c=4, dtype=np.uint16)
    a = deep if dtype == np.uint16 else (deep / 65535).astype(dtype)
    photo = reading.read(tiff(a[..., :3], True, **options))
    assert photo.alpha is None
    np.testing.assert_array_equal(photo.pixels, deep[..., :3])
    photo = reading.read(tiff(a, True, extrasamples=["unassalpha"], **options))
    np.testing.assert_array_equal(np.dstack([photo.pixels, photo.alpha]), deep)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_separate_planes(orientation):
    deep, tag = picture(dtype=np.uint16), [(274, "H", 1, orientation, False)]
    planar, plain = (reading.read(tiff(deep, planar, extratags=tag)) for planar in (True, False))
    np.testing.assert_array_equal(planar.pixels, plain.pixels)  # OpenCV turns that one


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("planar", [False, True])
def test_premultiplied_alpha_of_a_deep_tiff_is_made_straight(dtype, planar):
    rgb, alpha = picture(dtype=np.uint16), picture(c=1, dtype=np.uint16)
    alpha[:3], alpha[3:6] = 0, 65535
    a = np.dstack([np.rint(rgb * (alpha / 65535)).astype(np.uint16), alpha])
    a = a if dtype == np.uint16 else (a / 65535).astype(dtype)
    photo = reading.read(tiff(a, planar, extrasamples=["assocalpha"]))
    np.testing.assert_array_equal(photo.alpha, alpha[..., 0])
    seen = alpha[..., 0] > 0
    gap = np.abs(photo.pixels.astype(float) - rgb).max(axis=2)[seen]
    assert (gap <= 0.5 * 65535 / alpha[..., 0][seen] + 0.5).all()  # what the file's rounding left to know
    eight = picture()  # as Pillow does at 8 bits
    low = np.dstack([eight, np.full((23, 37), 200, np.uint8)]) // 2
    want = reading.read(tiff(low, extrasamples=["assocalpha"])).pixels
    got = reading.read(tiff(low.astype(np.uint16) * 257, extrasamples=["assocalpha"])).pixels
    assert np.abs(reading.to_8_bit(got).astype(int) - want).max() <= 1


def test_a_fourth_sample_that_is_no_alpha_is_dropped_and_a_profile_of_floats_kept():
    deep = picture(c=4, dtype=np.uint16)
    for planar in (False, True):
        photo = reading.read(tiff(deep, planar, extrasamples=["unspecified"]))
        assert photo.alpha is None
        np.testing.assert_array_equal(photo.pixels, deep[..., :3])
    photo = reading.read(tiff((deep / 65535).astype(np.float32), extrasamples=["unassalpha"], iccprofile=SRGB))
    assert photo.meta.icc == SRGB and photo.pixels.shape == (23, 37, 3)
    np.testing.assert_array_equal(photo.alpha, deep[..., 3])


def test_float_tiff_in_range_becomes_16_bit():
    a = np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 4, 3)
    photo = reading.read(cv2.imencode(".tif", a[..., ::-1])[1].tobytes())
    assert photo.pixels.dtype == np.uint16
    np.testing.assert_allclose(photo.pixels / 65535, a, atol=1e-5)
