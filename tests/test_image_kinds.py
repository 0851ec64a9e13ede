"""Depths, containers and sizes of image files that went wrong once, here or elsewhere, through the whole command."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import pyvips
import tifffile
from helpers.images import tiff
from helpers.pixels import near
from helpers.raw_files import GRAY_ALPHA, packed_tiff, png_file, saved, waves
from PIL import Image, ImageCms

from kd_utils.__main__ import main


@pytest.fixture
def refuse(tmp_path, models, capsys):
    """A function that sharpens a file that cannot be read; nothing is written, and it returns the one line on it."""

    def run(data: bytes, name: str) -> str:
        source, out = tmp_path / name, tmp_path / "out"
        source.write_bytes(data)
        assert main(["sharpen", str(source), str(out), "--model", models[4]]) == 1
        said = capsys.readouterr()
        lines = [line for line in said.out.splitlines() if name in line]
        assert len(lines) == 1 and not list(out.glob("*.*")), said.out
        assert "error" not in said.err.lower() and "grfmt" not in said.err, said.err
        return lines[0]

    return run


# ---- depths of TIFF

UNIT = waves() / 255
DEPTHS = {
    "float16": lambda: tiff(UNIT.astype(np.float16)),
    "float16 gray": lambda: tiff(UNIT[..., 0].astype(np.float16)),
    "float16 deflated": lambda: tiff(UNIT.astype(np.float16), compression="zlib"),
    "float16 planes": lambda: tiff(UNIT.astype(np.float16), planar=True),
    "float32": lambda: tiff(UNIT.astype(np.float32)),
    "float32 predicted": lambda: cv2.imencode(
        ".tif", UNIT[..., ::-1].astype(np.float32), [cv2.IMWRITE_TIFF_COMPRESSION, 8, cv2.IMWRITE_TIFF_PREDICTOR, 3]
    )[1].tobytes(),
    "float32 big-endian": lambda: tiff(UNIT.astype(np.float32), byteorder=">"),
    "float64": lambda: tiff(UNIT),
    "uint32": lambda: tiff(np.rint(UNIT * (2**32 - 1)).astype(np.uint32)),
    "uint16": lambda: tiff(np.rint(UNIT * 65535).astype(np.uint16), compression="zlib", predictor=True, rowsperstrip=5),
    "uint16 BigTIFF": lambda: tiff(np.rint(UNIT * 65535).astype(np.uint16), bigtiff=True),
    "uint16 BigTIFF big-endian": lambda: tiff(np.rint(UNIT * 65535).astype(np.uint16), bigtiff=True, byteorder=">"),
}
for _bits in (10, 12, 14):
    for _order in "<>":
        for _channels in (1, 3):
            _samples = np.rint(UNIT[..., :_channels] * (2**_bits - 1)).astype(np.uint16)
            _name = f"{_bits} bits {'gray' if _channels == 1 else 'RGB'} {'little' if _order == '<' else 'big'}-endian"
            DEPTHS[_name] = lambda samples=_samples, bits=_bits, order=_order: packed_tiff(samples, bits, order)


@pytest.mark.parametrize("name", DEPTHS)
def test_depths_of_tiff(enlarge, name):
    a = tifffile.imread(enlarge(DEPTHS[name](), "a.tif"))
    assert a.dtype == np.uint16 and a.shape[:2] == (96, 160)
    want = UNIT if a.ndim == 3 else UNIT[..., 0]
    means = a.reshape(24, 4, 40, 4, -1).mean((1, 3)).reshape(want.shape) / 65535
    assert np.abs(means - want)[2:-2, 2:-2].max() < 0.02


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_white_of_odd_depths_is_white(enlarge, bits):
    white = np.full((24, 40, 1), 2**bits - 1, np.uint16)
    assert (tifffile.imread(enlarge(packed_tiff(white, bits, "<"), "a.tif")) == 65535).all()


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.complex64])
def test_samples_that_are_not_read_are_refused_by_name(refuse, dtype):
    why = refuse(tiff((UNIT * 100).astype(dtype)), "a.tif")
    assert "signed" in why or "complex" in why or "int" in why


# ---- containers


def pages(*pictures: tuple[np.ndarray, int], **options) -> bytes:
    """A TIFF of (pixels, subfile type) pages."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, **options) as file:
        for pixels, kind in pictures:
            file.write(pixels, photometric="rgb", subfiletype=kind, metadata=None)
    return buffer.getvalue()


def with_subdirectory() -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(waves(), photometric="rgb", subifds=1)
        file.write(np.ascontiguousarray(waves()[::2, ::2]), photometric="rgb", subfiletype=1)
    return buffer.getvalue()


def apng(pictures: int, default: bool) -> bytes:
    frames = [Image.fromarray(np.roll(waves(), n, axis=1)) for n in range(pictures)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:], default_image=default)
    return buffer.getvalue()


def ycc_lab() -> bytes:
    lab = ImageCms.createProfile("LAB")
    picture = ImageCms.profileToProfile(Image.fromarray(waves()), ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF")
    return buffer.getvalue()


def cv2_interlaced() -> bytes:
    a = waves()
    image = pyvips.Image.new_from_memory(a.data, 40, 24, 3, "uchar").copy(interpretation="srgb")
    return image.pngsave_buffer(interlace=True)


SMALL = np.ascontiguousarray(waves()[::2, ::2])
CONTAINERS = {
    "WebP of one frame": ("a.webp", lambda: saved(waves(), "WEBP", save_all=True, append_images=[], lossless=True)),
    "APNG with a still picture": ("a.png", lambda: apng(2, True)),
    "GIF of one frame": ("a.gif", lambda: saved(waves(), "GIF")),
    "TIFF and its thumbnail": ("a.tif", lambda: pages((waves(), 0), (SMALL, 1))),
    "thumbnail before its TIFF": ("a.tif", lambda: pages((SMALL, 1), (waves(), 0))),
    "16-bit TIFF and its thumbnail": ("a.tif", lambda: pages((waves().astype(np.uint16) * 257, 0), (SMALL, 1))),
    "BigTIFF and its thumbnail": ("a.tif", lambda: pages((waves(), 0), (SMALL, 1), bigtiff=True)),
    "TIFF with a subdirectory": ("a.tif", with_subdirectory),
    "BigTIFF": ("a.tif", lambda: tiff(waves(), bigtiff=True)),
    "big-endian BigTIFF": ("a.tif", lambda: tiff(waves(), bigtiff=True, byteorder=">")),
    "big-endian TIFF": ("a.tif", lambda: tiff(waves(), byteorder=">")),
    "Lab TIFF": ("a.tif", ycc_lab),
    "JPEG in a TIFF": ("a.tif", lambda: saved(waves(), "TIFF", compression="jpeg")),
    "tiles in a TIFF": ("a.tif", lambda: tiff(waves(), tile=(16, 16), compression="zlib")),
    "planes in a TIFF": ("a.tif", lambda: tiff(waves(), planar=True)),
    "a fourth sample without a meaning": (
        "a.tif", lambda: tiff(np.dstack([waves(), waves()[..., :1]]), extrasamples=["unspecified"])
    ),
    "GeoTIFF": (
        "a.tif", lambda: tiff(waves(), extratags=[(33550, "d", 3, (1.0, 1.0, 0.0), False)], metadata=None)
    ),
    "PNG that is named JPEG": ("a.jpg", lambda: saved(waves(), "PNG")),
    "JPEG that is named PNG": ("a.png", lambda: saved(waves(), "JPEG", quality=95)),
    "progressive JPEG": ("a.jpg", lambda: saved(waves(), "JPEG", progressive=True, quality=95, subsampling=0)),
    "JPEG of RGB": ("a.jpg", lambda: saved(waves(), "JPEG", keep_rgb=True, quality=95)),
    "AVIF": ("a.avif", lambda: saved(waves(), "AVIF", quality=95)),
    "BMP": ("a.bmp", lambda: saved(waves(), "BMP")),
    "interlaced PNG": ("a.png", lambda: cv2_interlaced()),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(enlarge, name):
    file, make = CONTAINERS[name]
    out = enlarge(make(), file, "a.png" if file == "a.gif" else "")
    near(out, waves(), 16 if name in ("AVIF", "Lab TIFF") else 10)  # the files themselves are that far off
    if out.suffix == ".tif":
        with tifffile.TiffFile(out) as written:
            assert written.pages[0].shape == (96, 160, 3) and len(written.pages) == 1
            assert 33550 not in written.pages[0].tags and written.series[0].shape == (96, 160, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray_with_alpha_in_a_tiff(enlarge, dtype):
    peak = np.iinfo(dtype).max
    a = np.dstack([waves()[..., 0].astype(dtype) * (peak // 255), np.full((24, 40), peak // 2, dtype)])
    out = tifffile.imread(
        enlarge(tiff(a, photometric="minisblack", extrasamples=["unassalpha"], planarconfig="contig"), "a.tif")
    )
    assert out.dtype == dtype and out.shape[:2] == (96, 160) and out.shape[2] in (2, 4)
    assert np.abs(out[..., -1].astype(int) - peak // 2).max() <= 1


def test_gray_with_alpha_of_16_bits_in_a_png(enlarge):
    samples = np.dstack([waves()[..., 0].astype(np.uint16) * 257, np.full((24, 40), 65535, np.uint16)])
    samples[:, :20, 1] = 12345
    rows = [row.astype(">u2").tobytes() for row in samples]
    a = cv2.imread(str(enlarge(png_file(rows, 40, 16, GRAY_ALPHA), "a.png")), cv2.IMREAD_UNCHANGED)
    assert a.dtype == np.uint16 and a.shape == (96, 160, 4) and (a[:, :72, 3] == 12345).all()


def test_spot_channels_are_dropped_and_alpha_kept(enlarge):
    a = np.dstack([waves(), np.full((24, 40, 2), 99, np.uint8)])
    out = tifffile.imread(enlarge(tiff(a, extrasamples=["unassalpha", "unspecified"], planarconfig="contig"), "a.tif"))
    assert out.shape == (96, 160, 4) and (out[..., 3] == 99).all()


def test_several_pictures_are_refused(refuse):
    assert "2 pictures" in refuse(pages((waves(), 0), (waves(), 0)), "a.tif")
    assert "animation of 3 pictures" in refuse(apng(3, False), "b.png")


# ---- sizes


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)])
def test_one_pixel_one_row_one_column(enlarge, size):
    a = np.full((*size, 3), 77, np.uint8)
    assert Image.open(enlarge(saved(a, "PNG"), "a.png")).size == (size[1] * 4, size[0] * 4)


@pytest.mark.parametrize("axis", [0, 1])
def test_alpha_wider_than_32767_pixels(enlarge, axis):
    a = np.zeros((6, 9000, 4), np.uint8)
    a[..., :3], a[3:, :, 3] = 90, 255
    a = a if axis else np.ascontiguousarray(a.swapaxes(0, 1))
    out = np.asarray(Image.open(enlarge(saved(a, "PNG"), "a.png")))
    assert sorted(out.shape) == [4, 24, 36000] and set(np.unique(out[..., 3])) >= {0, 255}


def test_the_longest_side_of_a_jpeg(tmp_path, models, capsys):
    for width, code in ((16375, 0), (16376, 1)):
        source = tmp_path / f"{width}.jpg"
        source.write_bytes(saved(np.zeros((2, width, 3), np.uint8), "JPEG"))
        assert main(["sharpen", str(source), str(tmp_path / "out"), "--model", models[4], "--strength", "0"]) == code
    assert "65504x8 pixels do not fit into .jpg" in capsys.readouterr().out
    assert Image.open(tmp_path / "out" / "16375.jpg").size == (65500, 8)
