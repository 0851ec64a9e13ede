"""Kinds of image files that went wrong once, in this tool or in others, through the whole command.

Each file is made here, and what comes out is read by another library than wrote it. Most go through at strength 0,
where the output is the input enlarged, so that colours can be compared.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import pyvips
import tifffile
from helpers.raw_files import (
    ASCII,
    BYTE,
    GRAY,
    GRAY_ALPHA,
    LONG,
    PALETTE,
    RATIONAL,
    RGB,
    SHORT,
    SRATIONAL,
    UNDEFINED,
    Tag,
    exif_block,
    halves_png,
    marked,
    packed_tiff,
    png_chunks,
    png_file,
    rgb_png,
    saved,
    waves,
    with_exif,
    with_segments,
)
from PIL import Image, ImageCms, PngImagePlugin

from kd_utils.__main__ import main

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 26


@pytest.fixture
def enlarge(tmp_path, models, capsys):
    """Sharpen the bytes of a file at strength 0; the output's path, or None with what was said."""

    def run(data: bytes, name: str, output: str = "", strength: str = "0") -> Path:
        source, target = tmp_path / "in" / name, tmp_path / "out" / (output or name)
        source.parent.mkdir(exist_ok=True)
        source.write_bytes(data)
        code = main(["sharpen", str(source), str(target), "--model", models[4], "--strength", strength])
        said = capsys.readouterr()
        assert code == 0 and target.is_file(), said.out + said.err
        return target

    return run


@pytest.fixture
def refuse(tmp_path, models, capsys):
    """Sharpen a file that cannot be; what was said of it, on one line, and nothing is written."""

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


def near(path: Path, want: np.ndarray, atol: float = 10) -> np.ndarray:
    """The output's pixels by Pillow; each input pixel is found again in the middle of its 4 x 4."""
    a = np.asarray(Image.open(path).convert("RGB" if want.shape[2] == 3 else "L"))
    a = a.reshape(a.shape[0], a.shape[1], -1)
    assert a.shape == (want.shape[0] * 4, want.shape[1] * 4, want.shape[2])
    means = a.reshape(want.shape[0], 4, want.shape[1], 4, -1).mean((1, 3))
    assert np.abs(means - want)[2:-2, 2:-2].max() < atol
    return a


# ---- transparent colours of PNG


def halves(bits: int, color: int) -> tuple[bytes, int]:
    """A PNG whose left half has the colour that tRNS calls clear, and the number of its channels."""
    top = 2**bits - 1
    if color == GRAY:
        key = (top + 1) // 2 if bits > 1 else 0
        return halves_png(bits, color, (key,), (top,), (b"tRNS", struct.pack(">H", key))), 1
    if color == RGB:
        key = (top // 8, top // 4, top // 2)
        return halves_png(bits, color, key, (top, top, top), (b"tRNS", struct.pack(">3H", *key))), 3
    palette = bytes([255, 0, 0, 0, 128, 255])
    return halves_png(bits, color, (0,), (1,), (b"PLTE", palette), (b"tRNS", b"\0\xff")), 3


@pytest.mark.parametrize(
    ("bits", "color"),
    [*[(bits, GRAY) for bits in (1, 2, 4, 8, 16)], (8, RGB), (16, RGB), *[(bits, PALETTE) for bits in (1, 2, 4, 8)]],
)
def test_transparent_colours_of_png(enlarge, bits, color):
    data, channels = halves(bits, color)
    a = cv2.imread(str(enlarge(data, "a.png")), cv2.IMREAD_UNCHANGED)
    assert a.shape[:2] == (96, 128) and a.dtype == (np.uint16 if bits == 16 else np.uint8)
    assert a.shape[2] == 4 and (a[:, :56, 3] == 0).all() and (a[:, 72:, 3] == np.iinfo(a.dtype).max).all()


# ---- colour chunks of PNG

P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
COLORS = {
    "gamma 1": [(b"gAMA", struct.pack(">I", 100000))],
    "gamma 1/1.8": [(b"gAMA", struct.pack(">I", 55556))],
    "gamma and primaries": [(b"gAMA", struct.pack(">I", 55556)), (b"cHRM", P3)],
    "cICP of P3": [(b"cICP", bytes([12, 13, 0, 1]))],
    "cICP of PQ": [(b"cICP", bytes([9, 16, 0, 1]))],
    "sRGB": [(b"sRGB", b"\1")],
}


@pytest.mark.parametrize("name", COLORS)
def test_colour_chunks_stay_in_a_png(enlarge, name):
    found = png_chunks(enlarge(rgb_png(*COLORS[name]), "a.png").read_bytes())
    for chunk in COLORS[name]:
        assert chunk in found


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".webp"])
def test_colour_chunks_become_a_profile_elsewhere(enlarge, suffix):
    """Linear light 64 of 255 is 137 in sRGB, whatever the file."""
    gray = np.full((24, 40, 3), 64, np.uint8)
    out = Image.open(enlarge(rgb_png(*COLORS["gamma 1"], pixels=gray), "a.png", f"a{suffix}"))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(out.info["icc_profile"]))
    seen = ImageCms.profileToProfile(out.convert("RGB"), profile, ImageCms.createProfile("sRGB"))
    assert np.abs(np.asarray(seen)[40, 40].astype(int) - 137).max() <= 2


def test_colours_that_only_a_png_can_say_are_refused_elsewhere(tmp_path, models, capsys):
    (tmp_path / "a.png").write_bytes(rgb_png(*COLORS["cICP of PQ"]))
    assert main(["sharpen", str(tmp_path / "a.png"), str(tmp_path / "b.jpg"), "--model", models[4]]) == 1
    assert "write a .png" in capsys.readouterr().out and not (tmp_path / "b.jpg").exists()


# ---- more metadata than a decoder allows

LARGE_ICC = struct.pack(">I", len(SRGB) + 1_200_000) + SRGB[4:] + bytes(1_200_000)
LARGE = {
    "iCCP": (b"iCCP", b"large\0\0" + zlib.compress(LARGE_ICC)),
    "zTXt": (b"zTXt", b"Raw\0\0" + zlib.compress(np.random.default_rng(0).bytes(1_500_000).hex().encode())),
    "tEXt": (b"tEXt", b"workflow\0" + b"x" * 3_000_000),
    "iTXt": (b"iTXt", b"prompt\0\0\0\0\0" + "ü".encode() * 1_000_000),
}


@pytest.mark.parametrize("kind", LARGE)
def test_large_metadata(enlarge, kind):
    out = enlarge(rgb_png(LARGE[kind]), "a.png")
    near(out, waves())
    if kind == "iCCP":
        assert Image.open(out).info["icc_profile"] == LARGE_ICC
    else:
        assert LARGE[kind] in png_chunks(out.read_bytes())


# ---- depths of TIFF


def tiff(a: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, a, **({"photometric": "rgb" if a.ndim == 3 else "minisblack"} | options))
    return buffer.getvalue()


UNIT = waves() / 255
DEPTHS = {
    "float16": lambda: tiff(UNIT.astype(np.float16)),
    "float16 gray": lambda: tiff(UNIT[..., 0].astype(np.float16)),
    "float16 deflated": lambda: tiff(UNIT.astype(np.float16), compression="zlib"),
    "float16 planes": lambda: tiff(np.moveaxis(UNIT.astype(np.float16), 2, 0), planarconfig="separate"),
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


# ---- orientation beside odd tags

MAKE = Tag(0x10F, ASCII, b"Maker\0")
ODD = {
    "plain": ([], []),
    "a rational over 0": ([], [Tag(0x9204, SRATIONAL, (-1, 0))]),
    "an unsigned rational below 0": ([], [Tag(0x829A, SRATIONAL, (-1, 3))]),
    "a value too large for its type": ([], [Tag(0x9203, LONG, (4_000_000_000,)), Tag(0x8827, LONG, (100_000,))]),
    "text for a number": ([Tag(0x128, ASCII, b"inch\0")], []),
    "two resolutions": ([Tag(0x11A, RATIONAL, (72, 1, 72, 1)), Tag(0x11B, RATIONAL, (72, 1, 72, 1))], []),
    "a version as bytes": ([], [Tag(0x9000, BYTE, b"\0\2\3\0"), Tag(0xA301, LONG, (1,))]),
    "a date as undefined": ([Tag(0x132, UNDEFINED, b"2020:01:01 00:00:00\0")], []),
    "a number for text": ([Tag(0x131, LONG, (7,))], []),
    "a position above 65535": ([Tag(0x213, LONG, (70_000,))], []),
    "an inner directory that is nowhere": ([Tag(0x8769, LONG, (90_000,))], []),
    "an inner directory as text": ([Tag(0x8769, ASCII, b"abc\0")], []),
    "GPS that is nowhere": ([Tag(0x8825, LONG, (90_000,))], []),
    "a type that nobody knows": ([Tag(0x9999, 99, b"abcd", 4)], []),
    "a value that is nowhere": ([Tag(0x13B, ASCII, struct.pack("<I", 80_000), 500)], []),
    "the size of a phone": (
        [Tag(0x100, LONG, (40,)), Tag(0x101, LONG, (24,))],
        [Tag(0xA002, LONG, (40,)), Tag(0xA003, LONG, (24,)), Tag(0x927C, UNDEFINED, bytes(range(64)))],
    ),
}


def stored(kind: str, block: bytes) -> bytes:
    if kind == "JPEG":
        return with_exif(saved(marked(), "JPEG", quality=97), block)
    if kind == "PNG":
        return rgb_png((b"eXIf", block), pixels=marked())
    if kind == "PNG, late":
        return rgb_png(late=[(b"eXIf", block)], pixels=marked())
    return saved(marked(), "WEBP", lossless=True, exif=block)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG, late", "WebP"])
@pytest.mark.parametrize("odd", ODD)
def test_orientation_beside_odd_tags(enlarge, kind, odd):
    tags, inner = ODD[odd]
    turn = Tag(0x112, SHORT, (6,))
    block = exif_block(turn, MAKE, *tags, inner=tuple(inner), thumbnail=saved(marked()[:16, :16], "JPEG"))
    out = enlarge(stored(kind, block), f"a.{kind[:4].lower().strip(', ')}")
    image = Image.open(out)
    assert image.size == (96, 160)
    assert np.asarray(image.convert("RGB"))[8, -8].tolist() == pytest.approx((255, 0, 0), abs=40)  # turned to the right
    kept = image.getexif()
    assert kept.get(0x112, 1) == 1 and kept[0x10F].rstrip("\0") == "Maker"
    assert 0x100 not in kept and 0x101 not in kept
    if odd == "the size of a phone":
        below = kept.get_ifd(0x8769)
        assert (below[0xA002], below[0xA003]) == (96, 160) and bytes(below[0x927C]) == bytes(range(64))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [BYTE, SHORT, LONG])
@pytest.mark.parametrize("turn", [3, 6, 8])
def test_orientation_of_every_type_and_byte_order(enlarge, order, kind, turn):
    block = exif_block(Tag(0x112, kind, (turn,)), MAKE, order=order)
    image = Image.open(enlarge(stored("JPEG", block), "a.jpg"))
    assert image.size == ((160, 96) if turn == 3 else (96, 160))
    row, column = {3: (-8, -8), 6: (8, -8), 8: (-8, 8)}[turn]
    assert np.asarray(image)[row, column].tolist() == pytest.approx((255, 0, 0), abs=40)
    assert image.getexif().get(0x112, 1) == 1 and image.getexif()[0x10F] == "Maker"


@pytest.mark.parametrize("block", [b"", b"II*\0", b"rubbish", b"Exif\0\0" + exif_block(Tag(0x112, SHORT, (6,)), MAKE)])
def test_blank_broken_and_doubled_exif(enlarge, block):
    size = Image.open(enlarge(stored("JPEG", block), "a.jpg")).size
    assert size == ((96, 160) if block.startswith(b"Exif") else (160, 96))


# ---- tags of a TIFF's strips in EXIF

STRIPS = {
    "planes": [Tag(0x102, SHORT, (8, 8, 8)), Tag(0x106, SHORT, (2,)), Tag(0x115, SHORT, (3,)), Tag(0x11C, SHORT, (2,))],
    "interleaved": [Tag(0x102, SHORT, (8, 8, 8)), Tag(0x115, SHORT, (3,)), Tag(0x11C, SHORT, (1,))],
    "floats": [Tag(0x153, SHORT, (3, 3, 3))],
    "an extra sample": [Tag(0x152, SHORT, (1,))],
    "a JPEG inside": [Tag(0x201, LONG, (100,)), Tag(0x202, LONG, (100,))],
    "YCbCr": [Tag(0x212, SHORT, (2, 2)), Tag(0x213, SHORT, (1,)), Tag(0x106, SHORT, (6,))],
    "tiles": [Tag(0x142, LONG, (16,)), Tag(0x143, LONG, (16,)), Tag(0x144, LONG, (8,)), Tag(0x145, LONG, (8,))],
    "a predictor": [Tag(0x13D, SHORT, (3,)), Tag(0x103, SHORT, (5,)), Tag(0x111, LONG, (8,)), Tag(0x117, LONG, (9,))],
}


@pytest.mark.parametrize("name", STRIPS)
def test_tags_of_strips_in_exif_do_not_reach_a_tiff(enlarge, name):
    data = with_exif(saved(waves(), "JPEG", quality=97), exif_block(MAKE, *STRIPS[name]))
    out = enlarge(data, "a.jpg", "a.tif")
    near(out, waves())
    assert tifffile.imread(out).shape == (96, 160, 3)
    assert Image.open(out).getexif()[0x10F] == "Maker"


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
    "planes in a TIFF": ("a.tif", lambda: tiff(np.moveaxis(waves(), 2, 0), planarconfig="separate")),
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


def cv2_interlaced() -> bytes:
    a = waves()
    image = pyvips.Image.new_from_memory(a.data, 40, 24, 3, "uchar").copy(interpretation="srgb")
    return image.pngsave_buffer(interlace=True)


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


def test_several_pictures_are_refused(refuse):
    assert "2 pictures" in refuse(pages((waves(), 0), (waves(), 0)), "a.tif")
    assert "animation of 3 pictures" in refuse(apng(3, False), "b.png")


# ---- words: text, comments, XMP, IPTC

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
    b'tiff:Orientation="1" exif:PixelXDimension="40"><tiff:ImageWidth>40</tiff:ImageWidth></rdf:Description>'
    b"</rdf:RDF></x:xmpmeta>"
)
RESIZED = XMP.replace(b'"40"', b'"160"').replace(b">40<", b">160<")
IPTC = b"\x1c\x02\x78\x00\x05words"


def test_text_of_a_png_is_kept(enlarge):
    texts = [(b"tEXt", b"parameters\0a tree\nSteps: 40"), (b"zTXt", b"more\0\0" + zlib.compress(b"words"))]
    texts.append((b"iTXt", b"Title\0\0\0de\0\0" + "Übung".encode()))
    found = png_chunks(enlarge(rgb_png(*texts), "a.png").read_bytes())
    assert [chunk for chunk in found if chunk[0] in (b"tEXt", b"zTXt", b"iTXt")] == texts


def test_comment_of_a_jpeg_is_kept(enlarge):
    data = saved(waves(), "JPEG", comment=b"a tree, seed 968002204")
    assert Image.open(enlarge(data, "a.jpg")).info["comment"] == b"a tree, seed 968002204"
    assert Image.open(enlarge(data, "a.jpg", "a.png")).info["Comment"] == "a tree, seed 968002204"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_xmp_is_kept_and_states_the_new_size(enlarge, kind):
    if kind == "PNG":
        data = rgb_png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP))
    elif kind == "JPEG":
        data = with_segments(saved(waves(), "JPEG"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP))
    elif kind == "TIFF":
        data = tiff(waves(), extratags=[(700, "B", len(XMP), XMP, False)])
    else:
        data = saved(waves(), kind, xmp=XMP)
    info = Image.open(enlarge(data, f"a.{kind.lower()}")).info
    found = info.get("xmp") or info.get("XML:com.adobe.xmp", "").encode()
    assert found == RESIZED


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_iptc_is_kept(enlarge, kind):
    if kind == "JPEG":
        resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
        data = with_segments(saved(waves(), "JPEG"), (0xED, b"Photoshop 3.0\0" + resource))
        assert Image.open(enlarge(data, "a.jpg")).info["photoshop"][0x0404] == IPTC
    else:
        data = tiff(waves(), extratags=[(33723, "B", len(IPTC), IPTC, False)])
        with tifffile.TiffFile(enlarge(data, "a.tif")) as written:
            assert bytes(written.pages[0].tags[33723].value) == IPTC


# ---- CMYK, and profiles that cannot be used

BAD_PROFILES = {"rubbish": b"not a profile" * 20, "cut": SRGB[:200], "empty": b"", "none": None}


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
@pytest.mark.parametrize("icc", [*BAD_PROFILES, "of RGB"])
def test_cmyk(enlarge, suffix, icc):
    profile = SRGB if icc == "of RGB" else BAD_PROFILES[icc]
    inks = np.asarray(Image.fromarray(waves()).convert("CMYK"))
    buffer = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(
        buffer,
        "JPEG" if suffix == ".jpg" else "TIFF",
        icc_profile=profile,
        **({"quality": 97} if suffix == ".jpg" else {}),
    )
    out = enlarge(buffer.getvalue(), f"a{suffix}")
    near(out, waves(), 14)
    assert Image.open(out).mode == "RGB" and not Image.open(out).info.get("icc_profile")


def test_cmyk_jpeg_with_and_without_adobes_marker(enlarge):
    inks = np.zeros((24, 40, 4), np.uint8)
    inks[:, :20, 0] = 255  # cyan, and white
    buffer = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(buffer, "JPEG", quality=98)
    data = buffer.getvalue()
    at = data.index(b"Adobe") - 4
    bare = data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0] :]
    cyan = np.asarray(Image.open(enlarge(data, "a.jpg")))
    assert cyan[48, 20].tolist() == pytest.approx((0, 255, 255), abs=4) and cyan[48, 140].min() > 250
    with Image.open(io.BytesIO(bare)) as seen:
        want = np.asarray(seen.convert("RGB"))[12, [5, 35]]
    np.testing.assert_allclose(np.asarray(Image.open(enlarge(bare, "b.jpg")))[48, [20, 140]], want, atol=4)


def test_cmyk_with_alpha(enlarge):
    inks = np.asarray(Image.fromarray(waves()).convert("CMYK"))
    a = np.dstack([inks, np.full((24, 40), 200, np.uint8)])
    out = tifffile.imread(enlarge(tiff(a, photometric="separated", extrasamples=["unassalpha"]), "a.tif"))
    assert out.shape == (96, 160, 4) and (out[..., 3] == 200).all()


def test_cmyk_of_16_bits(enlarge):
    inks = np.asarray(Image.fromarray(waves()).convert("CMYK")).astype(np.uint16) * 257
    out = tifffile.imread(enlarge(tiff(inks, photometric="separated"), "a.tif"))
    means = out.reshape(24, 4, 40, 4, 3).mean((1, 3)) / 257
    assert out.dtype == np.uint16 and np.abs(means - waves())[2:-2, 2:-2].max() < 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("icc", ["rubbish", "cut"])
def test_a_profile_that_cannot_be_used_is_dropped_and_said(tmp_path, models, capsys, kind, icc):
    source = tmp_path / f"a.{kind.lower()}"
    source.write_bytes(saved(waves(), kind, icc_profile=BAD_PROFILES[icc]))
    assert main(["sharpen", str(source), str(tmp_path / "out"), "--model", models[4], "--strength", "0"]) == 0
    assert "not kept: an ICC profile" in capsys.readouterr().out
    assert not Image.open(tmp_path / "out" / source.name).info.get("icc_profile")


def test_a_gray_png_with_a_bad_profile(enlarge):
    near(enlarge(saved(waves()[..., 0], "PNG", icc_profile=b"x" * 10), "a.png"), waves()[..., :1])


# ---- sides


def test_the_longest_side_of_a_jpeg(tmp_path, models, capsys):
    for width, code in ((16375, 0), (16376, 1)):
        source = tmp_path / f"{width}.jpg"
        source.write_bytes(saved(np.zeros((2, width, 3), np.uint8), "JPEG"))
        assert main(["sharpen", str(source), str(tmp_path / "out"), "--model", models[4], "--strength", "0"]) == code
    assert "65504x8 pixels do not fit into .jpg" in capsys.readouterr().out
    assert Image.open(tmp_path / "out" / "16375.jpg").size == (65500, 8)


# ---- names and folders


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(saved(waves(8, 8), "JPEG"))
    return path


def found_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name[0] != ".")


@pytest.mark.parametrize(
    "name",
    [
        "n" * 251 + ".jpg",
        "日" * 83 + ".jpg",
        "ü😀 ß.jpg",
        "-a.jpg",
        "--scale.jpg",
        "a [1]*.jpg",
        "a\nb.jpg",
        "bad\udce9.jpg",
    ],
)
def test_names(tmp_path, models, name):
    photo(tmp_path / "in" / name)
    assert main(["sharpen", str(tmp_path / "in"), str(tmp_path / "out"), "--model", models[4]]) == 0
    assert os.listdir(tmp_path / "out")[0] in (name, ".kd_sharpen.jsonl") and (tmp_path / "out" / name).is_file()


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPEG", ".JPG", ".Jpg"])
def test_every_suffix_of_jpeg(tmp_path, models, suffix):
    photo(tmp_path / "in" / f"a{suffix}")
    assert main(["sharpen", str(tmp_path / "in"), str(tmp_path / "out"), "--model", models[4]]) == 0
    assert Image.open(tmp_path / "out" / f"a{suffix}").format == "JPEG"


def test_links_are_followed_once_and_loops_end(tmp_path, models):
    photo(tmp_path / "real" / "x.jpg")
    photo(tmp_path / "in" / "y.jpg")
    for name, to in (("shortcut", "real"), ("again", "real"), ("loop", "in")):
        (tmp_path / "in" / name).symlink_to(tmp_path / to)
    (tmp_path / "in" / "same.jpg").symlink_to(tmp_path / "in" / "y.jpg")
    (tmp_path / "root").symlink_to(tmp_path / "in")
    for given in ("in", "root"):
        out = tmp_path / f"out of {given}"
        assert main(["sharpen", str(tmp_path / given), str(out), "--model", models[4]]) == 0
        assert found_below(out) in (["again/x.jpg", "y.jpg"], ["shortcut/x.jpg", "y.jpg"])


def test_a_link_that_leads_nowhere_counts_as_failed(tmp_path, models, capsys):
    photo(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "b.jpg").symlink_to(tmp_path / "none.jpg")
    assert main(["sharpen", str(tmp_path / "in"), str(tmp_path / "out"), "--model", models[4]]) == 1
    said = capsys.readouterr().out
    assert "1 sharpened" in said and "1 failed" in said and "b.jpg" in said


def test_a_folder_that_cannot_be_read_counts_as_failed(tmp_path, models, capsys, monkeypatch):
    photo(tmp_path / "in" / "a.jpg")
    photo(tmp_path / "in" / "shut" / "b.jpg")
    scandir = os.scandir

    def refusing(path="."):
        if str(path).rstrip("/").endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert main(["sharpen", str(tmp_path / "in"), str(tmp_path / "out"), "--model", models[4]]) == 1
    said = capsys.readouterr().out
    assert "1 sharpened" in said and "1 failed" in said and "shut" in said and "Permission denied" in said


def test_what_a_system_keeps_for_itself_is_left_out(tmp_path, models):
    for name in ("a.jpg", ".b.jpg", ".cache/c.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "__MACOSX/._a.jpg"):
        photo(tmp_path / "in" / name)
    assert main(["sharpen", str(tmp_path / "in"), str(tmp_path / "out"), "--model", models[4]]) == 0
    assert found_below(tmp_path / "out") == ["a.jpg"]
    assert main(["sharpen", str(tmp_path / "in/**/*.jpg"), str(tmp_path / "glob"), "--model", models[4]]) == 0
    assert found_below(tmp_path / "glob") == ["a.jpg"]


def test_a_glob_in_a_folder_with_brackets(tmp_path, models):
    photo(tmp_path / "trip [2020]" / "day [1]" / "a.jpg")
    photo(tmp_path / "trip 2" / "day 1" / "b.jpg")
    pattern = tmp_path / "trip [2020]" / "day [1]" / "*.jpg"
    assert main(["sharpen", str(pattern), str(tmp_path / "out"), "--model", models[4]]) == 0
    assert found_below(tmp_path / "out") == ["a.jpg"]


# ---- no photo is replaced


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_two_photos_without_an_output_ask_for_a_folder(tmp_path, models, capsys, options):
    a, b = photo(tmp_path / "a.jpg"), photo(tmp_path / "b.jpg")
    before = b.read_bytes()
    assert main(["sharpen", str(a), str(b), "--model", models[4], *options]) == 2
    assert "name a folder" in capsys.readouterr().err and b.read_bytes() == before


def test_the_output_of_another_photo_is_never_replaced(tmp_path, models, capsys):
    first, second = photo(tmp_path / "1" / "a.jpg"), tmp_path / "2" / "a.jpg"
    second.parent.mkdir()
    second.write_bytes(saved(waves(12, 12), "JPEG"))
    assert main(["sharpen", str(first), str(tmp_path / "out"), "--model", models[4]]) == 0
    before = (tmp_path / "out" / "a.jpg").read_bytes()
    for options in ([], ["--overwrite"]):
        assert main(["sharpen", str(second), str(tmp_path / "out"), "--model", models[4], *options]) == 1
        assert "choose another folder" in capsys.readouterr().out
        assert (tmp_path / "out" / "a.jpg").read_bytes() == before


def test_a_hard_link_to_an_input_is_no_output(tmp_path, models, capsys):
    a = photo(tmp_path / "in" / "a.jpg")
    (tmp_path / "out").mkdir()
    os.link(a, tmp_path / "out" / "a.jpg")
    before = a.read_bytes()
    assert main(["sharpen", str(a), str(tmp_path / "out"), "--model", models[4], "--overwrite"]) == 1
    assert "is an input itself" in capsys.readouterr().out and a.read_bytes() == before


def test_another_strength_or_model_is_made_anew(tmp_path, models, capsys):
    a, out = photo(tmp_path / "a.jpg"), tmp_path / "out"
    said = []
    for options in (["1"], ["1"], ["0.5"], ["0.5"], ["1"]):
        assert main(["sharpen", str(a), str(out), "--model", models[4], "--strength", *options]) == 0
        said.append(capsys.readouterr().out.split(" (")[0])
    assert said == ["1 sharpened", "0 sharpened", "1 sharpened", "0 sharpened", "1 sharpened"]
