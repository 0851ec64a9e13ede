"""What an image file says beside its pixels, EXIF, orientation, XMP, IPTC and text, through the whole command."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import tifffile
from helpers.images import SRGB, tiff
from helpers.pixels import near
from helpers.raw_files import (
    ASCII,
    BYTE,
    LONG,
    RATIONAL,
    SHORT,
    SRATIONAL,
    UNDEFINED,
    Tag,
    exif_block,
    marked,
    png_chunks,
    rgb_png,
    saved,
    waves,
    with_exif,
    with_segments,
)
from PIL import Image, PngImagePlugin

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 26  # for Pillow, which reads the outputs here


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
