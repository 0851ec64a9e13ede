"""What is written is read back whole: PNG, TIFF, JPEG, WebP, BMP."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from helpers.images import SRGB, exif, file, picture, written
from PIL import Image
from skimage import data

from kd_utils.imaging import jpeg, reading, writing
from kd_utils.imaging.metadata import Metadata
from kd_utils.imaging.reading import ImageError, Photo


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("clear", [False, True])
def test_png_and_tiff_keep_everything(suffix, dtype, c, clear):
    pixels = picture(301, 203, c, dtype)
    pixels += np.random.default_rng(0).integers(0, 9, pixels.shape).astype(dtype)
    alpha = picture(301, 203, 1, dtype)[..., 0] if clear else None
    data = written(Photo(pixels, alpha, Metadata(SRGB, exif().tobytes())), suffix)
    photo = reading.read(data)
    assert photo.pixels.dtype == dtype
    wide = (suffix, dtype, c, clear) == (".tif", np.uint16, 1, True)  # written as RGB, which OpenCV reads too
    np.testing.assert_array_equal(photo.pixels, pixels.repeat(3, 2) if wide else pixels)
    assert photo.alpha is None if alpha is None else (photo.alpha == alpha).all()
    assert photo.meta.icc == (SRGB if c == 3 or suffix == ".tif" else None)  # a gray PNG may not carry an RGB profile
    block = Image.Exif()
    block.load(photo.meta.exif)
    assert block[271] == "Maker" and block.get_ifd(0x8769)[0xA002] == 203
    seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # another reader
    assert seen.dtype == dtype and seen.shape[:2] == (301, 203)
    if c == 3 and not (suffix == ".tif" and dtype == np.uint8 and clear):  # OpenCV premultiplies those
        np.testing.assert_array_equal(seen[..., 2::-1], pixels)


def test_jpeg_quality_subsampling_and_metadata():
    big = SRGB + bytes(150_000 - len(SRGB))  # three segments
    source = reading.read(file(Image.fromarray(picture()), "JPEG", quality=97))
    assert source.meta.quality == 97
    data = written(Photo(picture(), None, Metadata(big, exif().tobytes(), quality=source.meta.quality)), ".jpg")
    image = Image.open(io.BytesIO(data))
    assert jpeg.read_metadata(data).quality == 97 and [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
    assert image.info["icc_profile"] == big and image.getexif()[271] == "Maker"
    np.testing.assert_allclose(np.asarray(image).astype(int), picture(), atol=6)
    for low in (50, 0):
        assert jpeg.read_metadata(written(Photo(picture(), None, Metadata(quality=low)), ".jpg")).quality == 92
    gray = Image.open(io.BytesIO(written(Photo(picture(c=1)), ".jpg")))
    assert gray.mode == "L"
    frozen = picture()
    frozen.flags.writeable = False
    assert written(Photo(frozen), ".jpg") == written(Photo(picture()), ".jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_the_resolution_of_a_print_is_kept(kind, suffix):
    photo = reading.read(file(Image.fromarray(picture()), kind, dpi=(300, 150)))
    again = Image.open(io.BytesIO(written(photo, suffix)))
    np.testing.assert_allclose([float(d) for d in again.info["dpi"]], (300, 150), rtol=1e-3)
    np.testing.assert_allclose(np.asarray(again).astype(int), photo.pixels, atol=9)
    none = reading.read(file(Image.fromarray(picture()), kind))
    assert none.meta.dpi is None and "dpi" not in Image.open(io.BytesIO(written(none, ".png"))).info


def test_webp_stays_lossless_and_bmp_has_no_alpha():
    rgba = np.dstack([picture(), picture(c=1)])
    photo = reading.read(file(Image.fromarray(rgba), "WEBP", lossless=True, exact=True))
    assert photo.meta.lossless
    again = reading.read(written(photo, ".webp"))
    np.testing.assert_array_equal(np.dstack([again.pixels, again.alpha]), rgba)
    # a profile stands before the picture's chunk
    assert reading.read(file(Image.fromarray(rgba), "WEBP", lossless=True, icc_profile=SRGB)).meta.lossless
    assert not reading.read(file(Image.fromarray(rgba), "WEBP", quality=80, icc_profile=SRGB)).meta.lossless
    lossy = reading.read(file(Image.fromarray(rgba), "WEBP", quality=80))
    assert not lossy.meta.lossless and not reading.read(written(lossy, ".webp")).meta.lossless
    flat = reading.read(written(photo, ".bmp"))
    np.testing.assert_array_equal(flat.pixels, reading.composite_over_white(rgba[..., :3], rgba[..., 3]))


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1), (70, 1)])
def test_extreme_sizes(size):
    a = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    for suffix in (".png", ".tif", ".bmp"):
        np.testing.assert_array_equal(reading.read(written(Photo(a), suffix)).pixels, a)


def test_what_does_not_fit_a_format_is_said():
    with pytest.raises(ImageError, match="do not fit into .jpg.*write a .png"):
        writing.encode(Photo(np.zeros((1, 70000, 3), np.uint8)), ".jpg")
    with pytest.raises(ImageError, match="not written: choose .png"):
        writing.encode(Photo(picture()), ".gif")


def test_png_bytes_repeat_and_are_about_as_small_as_pillows():
    a = cv2.resize(data.chelsea()[60:188, 120:248], None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    png = written(Photo(a), ".png")
    assert png == written(Photo(a.copy()), ".png")
    assert len(png) < 1.08 * len(file(Image.fromarray(a), "PNG"))
