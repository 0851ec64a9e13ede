"""PNG, JPEG and TIFF through the reader and the writer: every depth and layout, odd chunks and tags, and damage."""

from __future__ import annotations

import io
import itertools
import struct

import numpy as np
import pytest
import tifffile
from helpers.pixels import equal, refusal
from helpers.raw_files import (
    DEEP,
    GRAY,
    LONG,
    PALETTE,
    SHORT,
    Tag,
    directory,
    packed,
    packed_tiff,
    png_chunks,
    png_file,
    rgb_png,
    saved,
    waves,
    with_segments,
)
from PIL import Image, ImageCms

from kd_utils.common.errors import ImageError
from kd_utils.imaging import reading, writing

# ---- PNG


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_pngs_of_every_depth(bits):
    samples = np.random.default_rng(0).integers(0, 2**bits, (24, 41))
    top, peak = 2**bits - 1, 65535 if bits == 16 else 255
    pixels = (samples * (peak // top)).astype(np.uint16 if bits == 16 else np.uint8)[..., None]
    key = int(samples[0, 0])
    clear = np.where(samples == key, 0, peak)
    equal(png_file(packed(samples, bits), 41, bits, GRAY), pixels)
    equal(png_file(packed(samples, bits), 41, bits, GRAY, (b"tRNS", struct.pack(">H", key))), pixels, clear)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_every_depth_with_few_alphas(bits):
    rng = np.random.default_rng(1)
    samples = rng.integers(0, 2**bits, (24, 41))
    palette = rng.integers(0, 256, (2**bits, 3)).astype(np.uint8)
    alphas = np.full(2**bits, 255, np.uint8)
    alphas[: max(1, 2**bits // 2)] = 7  # the chunk may be shorter than the palette: the rest is opaque
    chunks = (b"PLTE", palette.tobytes()), (b"tRNS", alphas[alphas == 7].tobytes())
    equal(png_file(packed(samples, bits), 41, bits, PALETTE, *chunks), palette[samples], alphas[samples])


DAMAGED_COLORS = {
    "gAMA of two bytes": (b"gAMA", bytes(2)),
    "gamma 0": (b"gAMA", bytes(4)),
    "gamma 42949": (b"gAMA", b"\xff" * 4),
    "cHRM of five bytes": (b"cHRM", bytes(5)),
    "cHRM without colours": (b"cHRM", bytes(32)),
    "cHRM of one colour": (b"cHRM", struct.pack(">8I", *[31270, 32900] * 4)),
    "cICP of one byte": (b"cICP", b"\1"),
}


@pytest.mark.parametrize("name", DAMAGED_COLORS)
def test_damaged_colour_chunks_are_dropped_and_said(tmp_path, name):
    kind, body = DAMAGED_COLORS[name]
    photo = equal(rgb_png((kind, body)), waves())
    assert photo.meta.lost == [f"a damaged {kind.decode()} chunk"]
    for suffix in (".png", ".jpg", ".webp", ".tif", ".avif"):
        writing.save(photo, tmp_path / f"a{suffix}")
        assert Image.open(tmp_path / f"a{suffix}").info.get("icc_profile") is None
    assert kind not in dict(png_chunks((tmp_path / "a.png").read_bytes()))


def test_narrow_range_stays_in_a_png(tmp_path):
    photo = reading.read(rgb_png((b"cICP", bytes([1, 13, 0, 0]))))
    writing.save(photo, tmp_path / "a.png")
    assert (b"cICP", bytes([1, 13, 0, 0])) in png_chunks((tmp_path / "a.png").read_bytes())
    with pytest.raises(ImageError, match="narrow range can only be kept in a PNG"):
        writing.save(photo, tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", [b"eXIf", b"iCCP", b"iTXt", b"tEXt", b"zTXt", b"pHYs", b"sBIT", b"abCd"])
@pytest.mark.parametrize("body", [b"", b"name", b"name\0", b"name\0\0junk", bytes(9)])
def test_odd_chunks_leave_the_picture_alone(tmp_path, kind, body):
    photo = equal(rgb_png((kind, body)), waves())
    writing.save(photo, tmp_path / "a.png")
    writing.save(photo, tmp_path / "a.jpg")
    equal((tmp_path / "a.png").read_bytes(), waves())


# ---- JPEG


def jpeg_photo() -> bytes:
    return saved(waves(), "JPEG", quality=95)


def test_a_jpeg_without_its_end_marker_is_whole_and_a_shorter_one_is_not():
    data = jpeg_photo()
    equal(data[:-2], np.asarray(Image.open(io.BytesIO(data))))
    equal(data + b"trailing" * 9, np.asarray(Image.open(io.BytesIO(data))))
    for cut in (3, 6, 40, 300):
        assert "damaged or cut short" in refusal(data[:-cut])


def test_jpegs_that_are_not_read_are_refused_by_name():
    data = bytearray(jpeg_photo())
    frame = data.index(b"\xff\xc0")
    data[frame + 4] = 12
    assert refusal(bytes(data)) == "a file is a JPEG of 12 bits: convert it to a 16-bit PNG or TIFF"
    data[frame + 1] = 0xC3
    assert refusal(bytes(data)) == "a file is a lossless JPEG: convert it to a PNG or TIFF first"


def test_an_icc_profile_in_parts_of_any_order():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    parts = [profile[n : n + 300] for n in range(0, len(profile), 300)]
    segments = []
    for number, part in reversed(list(enumerate(parts, 1))):
        segments.append((0xE2, b"ICC_PROFILE\0" + bytes([number, len(parts)]) + part))
    assert reading.read(with_segments(jpeg_photo(), *segments)).meta.icc == profile
    assert reading.read(with_segments(jpeg_photo(), *segments[1:])).meta.lost == ["an ICC profile that cannot be used"]


@pytest.mark.parametrize(("unit", "dots", "dpi"), [(0, 72, None), (1, 300, 300), (2, 100, 254), (1, 0, None)])
def test_the_print_size_of_a_jpeg(tmp_path, unit, dots, dpi):
    data = bytearray(jpeg_photo())
    at = data.index(b"JFIF\0") + 7
    data[at : at + 5] = struct.pack(">BHH", unit, dots, dots)
    photo = reading.read(bytes(data))
    assert photo.meta.dpi == (None if dpi is None else (dpi, dpi))
    for suffix in (".jpg", ".png", ".tif"):
        writing.save(photo, tmp_path / f"a{suffix}")
        said = Image.open(tmp_path / f"a{suffix}").info.get("dpi")
        if dpi is None:
            assert said in (None, (1, 1)), suffix  # what Pillow says where nothing is stated
        else:
            assert said == pytest.approx((dpi, dpi), rel=1e-3), suffix


# ---- TIFF

KINDS = {
    "u1": (waves(), waves()),
    "u2": (DEEP, DEEP),
    "u4": (DEEP.astype(np.uint32) * 65537, DEEP),
    "f4": ((DEEP / 65535).astype(np.float32), DEEP),
    "f8": (DEEP / 65535, DEEP),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tiffs_of_every_layout(kind):
    stored, want = KINDS[kind]
    for order, big, tile, planes, packing in itertools.product(
        "<>", (False, True), (None, (16, 16)), (False, True), (None, "zlib")
    ):
        buffer = io.BytesIO()
        options = {"tile": tile, "compression": packing, "byteorder": order, "bigtiff": big}
        samples = np.moveaxis(stored, 2, 0) if planes else stored
        tifffile.imwrite(buffer, samples, photometric="rgb", planarconfig="separate" if planes else "contig", **options)
        equal(buffer.getvalue(), want)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("channels", [1, 3])
def test_packed_samples_of_every_depth(order, channels):
    for bits in range(1, 16):
        samples = np.random.default_rng(bits).integers(0, 2**bits, (24, 40, 1)).repeat(channels, 2)
        data = packed_tiff(samples, bits, order)
        if bits in (1, 2, 4, 8) and (channels == 1 or bits == 8):
            equal(data, (samples * (255 // (2**bits - 1))).astype(np.uint8))
        elif bits in (10, 12, 14):
            equal(data, np.rint(samples * 65535 / (2**bits - 1)).astype(np.uint16))
        elif bits not in (1, 2, 4):
            assert f"samples of {bits}-bit whole numbers" in refusal(data)


def ycbcr_tiff(order: str, side: int) -> bytes:
    """Uncompressed YCbCr, with colours for blocks of `side` x `side` pixels."""
    ycc = np.asarray(Image.fromarray(waves()).convert("YCbCr"))
    height, width, _ = ycc.shape
    body = b""
    for y, x in itertools.product(range(0, height, side), range(0, width, side)):
        block = ycc[y : y + side, x : x + side]
        body += block[..., 0].tobytes() + bytes(block[..., 1:].mean((0, 1)).astype(np.uint8))
    tags = [
        Tag(256, LONG, (width,)), Tag(257, LONG, (height,)), Tag(258, SHORT, (8, 8, 8)), Tag(259, SHORT, (1,)),
        Tag(262, SHORT, (6,)), Tag(273, LONG, (8,)), Tag(277, SHORT, (3,)), Tag(278, LONG, (height,)),
        Tag(279, LONG, (len(body),)), Tag(530, SHORT, (side, side)),
    ]  # fmt: skip
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(body))
    return head + body + directory(tags, 8 + len(body), order)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("side", [1, 2])
def test_ycbcr_without_compression(order, side):
    """libvips takes the samples for RGB where each pixel has its own colours."""
    equal(ycbcr_tiff(order, side), waves(), atol=3 if side == 1 else 13)
