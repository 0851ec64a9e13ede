"""What an image file says beside its pixels: PNG chunks (PNG 3), JPEG segments (ITU T.81, annex B) and WebP's chunks.

The libraries that decode pixels drop some of it: colour chunks, comments, text, IPTC.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from kd_utils.imaging import exif as exif_blocks

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_CHUNKS = (b"cICP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI")
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
XMP_KEYWORD = b"XML:com.adobe.xmp"
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
EXTENDED_XMP_HEADER = b"http://ns.adobe.com/xmp/extension/\0"
PHOTOSHOP_HEADER = b"Photoshop 3.0\0"
ICC_HEADER = b"ICC_PROFILE\0"
IPTC_RESOURCE = 0x0404
SEGMENT = 65533  # bytes in a JPEG segment, at most
LARGEST = 64 << 20  # bytes that one compressed chunk may grow to


@dataclass
class Metadata:
    """What comes along with the pixels of a photo, as raw blocks."""

    icc: bytes | None = None
    exif: bytes | None = None  # without "Exif\0\0" before it
    xmp: bytes | None = None
    iptc: bytes | None = None  # the IIM records
    comment: bytes | None = None  # of a JPEG
    texts: list[tuple[bytes, bytes]] = field(default_factory=list)  # a PNG's text chunks: (kind, data)
    colors: dict[bytes, bytes] = field(default_factory=dict)  # a PNG's colour chunks, by kind
    dpi: tuple[float, float] | None = None  # of a print, across and down
    quality: int = 0  # of a JPEG, as libjpeg counts; 0: not a JPEG
    lossless: bool = True  # how a WebP was coded, so that it is written back alike
    lost: list[str] = field(default_factory=list)  # what the file held and could not be kept, for people


# ---- PNG


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, data) of every whole chunk but the picture's own."""
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind != b"IDAT":
            yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def from_png(data: bytes) -> Metadata:
    found = Metadata()
    for kind, body in png_chunks(data):
        keyword, _, rest = body.partition(b"\0")
        if kind == b"eXIf":
            found.exif = body
        elif kind == b"iCCP":
            found.icc = _inflate(rest[1:])
        elif kind in COLOR_CHUNKS:
            found.colors[kind] = body
        elif kind == b"pHYs" and len(body) == 9 and body[8] == 1:  # 1: dots a metre
            x, y = struct.unpack(">II", body[:8])
            found.dpi = (x * 0.0254, y * 0.0254)
        elif kind == b"iTXt" and keyword == XMP_KEYWORD:
            found.xmp = _international_text(rest)
        elif kind in TEXT_CHUNKS and keyword.lower() in (b"raw profile type exif", b"raw profile type app1"):
            found.exif = found.exif or _raw_profile(kind, rest)
        elif kind in TEXT_CHUNKS:
            found.texts.append((kind, body))
    if b"iCCP" in dict(png_chunks(data)) and found.icc is None:
        found.lost.append("a damaged ICC profile")
    return found


def _inflate(data: bytes) -> bytes | None:
    """Decompressed data; None where it is damaged, or larger than any profile or text."""
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(data, LARGEST)
    except zlib.error:
        return None
    return plain if unpacker.eof else None


def _international_text(rest: bytes) -> bytes | None:
    """The text of an iTXt chunk, behind its keyword."""
    compressed = rest[:1] == b"\1"
    _language, _, rest = rest[2:].partition(b"\0")
    _translated, _, text = rest.partition(b"\0")
    return _inflate(text) if compressed else text


def _raw_profile(kind: bytes, rest: bytes) -> bytes | None:
    """The EXIF block that older programs store as hexadecimal text: a name, a length, and the digits."""
    text = _inflate(rest[1:]) if kind == b"zTXt" else rest
    lines = (text or b"").strip().split(b"\n", 2)
    try:
        return bytes.fromhex(lines[2].decode("ascii"))
    except (IndexError, ValueError):
        return None


def png_head(meta: Metadata, gray: bool) -> tuple[bytes, list[str]]:
    """The chunks that stand before a PNG's picture, and what of `meta` has no place in a PNG."""
    chunks, lost = [], []
    icc = meta.icc
    if icc and icc[16:20] != (b"GRAY" if gray else b"RGB "):  # the standard allows no other
        lost.append(f"the ICC profile (a {'gray' if gray else 'colour'} PNG may not carry one of another kind)")
        icc = None
    for kind, body in meta.colors.items():
        if not (icc and kind == b"sRGB"):  # a profile says the same more exactly
            chunks.append(png_chunk(kind, body))
    if icc:
        chunks.append(png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
    if meta.exif:
        chunks.append(png_chunk(b"eXIf", meta.exif))
    dots = [min(round(d / 0.0254), 2**31 - 1) for d in meta.dpi or ()]
    size = struct.pack(">IIB", *dots, 1) if dots else struct.pack(">IIB", 1, 1, 0)  # 0: no unit, square pixels
    chunks.append(png_chunk(b"pHYs", size))
    if meta.xmp:
        chunks.append(png_chunk(b"iTXt", XMP_KEYWORD + b"\0\0\0\0\0" + meta.xmp))
    for kind, body in meta.texts:
        chunks.append(png_chunk(kind, body))
    if meta.comment:
        chunks.append(png_chunk(b"tEXt", b"Comment\0" + meta.comment.replace(b"\0", b" ")))
    if meta.iptc:
        lost.append("IPTC (a PNG has no place for it)")
    return b"".join(chunks), lost


# ---- JPEG


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, data) of every segment before the picture's own data."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at += 1
            continue
        marker = data[at + 1]
        if marker == 0xFF:  # a byte that fills
            at += 1
        elif marker == 0xDA or marker == 0xD9:  # the picture, or the end
            return
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # markers without a segment
            at += 2
        else:
            length = struct.unpack_from(">H", data, at + 2)[0]
            yield marker, data[at + 4 : at + 2 + length]
            at += 2 + max(length, 2)


def jpeg_segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def from_jpeg(data: bytes) -> Metadata:
    found = Metadata()
    profile: dict[int, bytes] = {}
    tables: dict[int, list[int]] = {}
    for marker, body in jpeg_segments(data):
        if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 12:
            unit, x, y = struct.unpack(">BHH", body[7:12])
            inches = {1: 1.0, 2: 2.54}.get(unit)
            found.dpi = (x * inches, y * inches) if inches else None
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            if exif_blocks.load_exif(body):  # the first block that can be read
                found.exif = found.exif or body[6:]
            elif body.strip(b"Exif\0"):
                found.lost.append("a damaged EXIF block")
        elif marker == 0xE1 and body.startswith(XMP_HEADER):
            found.xmp = body[len(XMP_HEADER) :]
        elif marker == 0xE1 and body.startswith(EXTENDED_XMP_HEADER) and "extended XMP" not in found.lost:
            found.lost.append("extended XMP")
        elif marker == 0xE2 and body.startswith(ICC_HEADER) and len(body) > len(ICC_HEADER) + 2:
            profile[body[len(ICC_HEADER)]] = body[len(ICC_HEADER) + 2 :]
        elif marker == 0xED and body.startswith(PHOTOSHOP_HEADER):
            found.iptc = _iptc_of(body[len(PHOTOSHOP_HEADER) :]) or found.iptc
        elif marker == 0xFE:
            found.comment = found.comment or body
        elif marker == 0xDB:
            tables |= _quantization_tables(body)
    found.icc = b"".join(profile[n] for n in sorted(profile)) or None
    found.quality = _quality(tables[min(tables)]) if tables else 0
    return found


def _iptc_of(resources: bytes) -> bytes | None:
    """The IPTC records among Photoshop's resources: each has a signature, a number, a padded name and a padded body."""
    at = 0
    while resources[at : at + 4] == b"8BIM" and at + 12 <= len(resources):
        number, name = struct.unpack_from(">HB", resources, at + 4)
        at += 6 + (name + 2) // 2 * 2
        length = int.from_bytes(resources[at : at + 4], "big")
        at += 4
        if number == IPTC_RESOURCE:
            return resources[at : at + length]
        at += length + length % 2
    return None


def _quantization_tables(body: bytes) -> dict[int, list[int]]:
    """The tables of a DQT segment, by number; each has 64 entries of one or two bytes."""
    tables, at = {}, 0
    while at < len(body):
        code = ">64H" if body[at] >> 4 else ">64B"
        if at + 1 + struct.calcsize(code) > len(body):
            break
        tables[body[at] & 15] = list(struct.unpack_from(code, body, at + 1))
        at += 1 + struct.calcsize(code)
    return tables


def _quality(table: list[int]) -> int:
    """The quality (1 to 100) whose luminance table, by libjpeg's scaling of the standard one, is nearest."""

    def gap(quality: int) -> int:
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        scaled = (min(max((base * scale + 50) // 100, 1), 255) for base in LUMINANCE)
        return abs(sum(table) - sum(scaled))

    return min(range(1, 101), key=gap)


# The luminance table of the JPEG standard (ITU T.81, table K.1).
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56)
    + (14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92)
    + (49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99)
)


def jpeg_head(meta: Metadata) -> tuple[bytes, list[str]]:
    """The segments that stand behind a JPEG's JFIF segment, and what of `meta` has no place in a JPEG."""
    segments, lost = [], []
    for name, block, header in (("EXIF", meta.exif, b"Exif\0\0"), ("XMP", meta.xmp, XMP_HEADER)):
        if block and len(header + block) > SEGMENT:
            lost.append(f"{name} (more than a JPEG segment holds)")
        elif block:
            segments.append(jpeg_segment(0xE1, header + block))

    parts = [meta.icc[i : i + 65519] for i in range(0, len(meta.icc or b""), 65519)]
    if len(parts) > 255:
        lost.append("the ICC profile (more than a JPEG holds)")
        parts = []
    for number, part in enumerate(parts, 1):  # ICC.1:2010, annex B.4
        segments.append(jpeg_segment(0xE2, ICC_HEADER + bytes([number, len(parts)]) + part))

    if meta.iptc:
        padded = meta.iptc + bytes(len(meta.iptc) % 2)
        resource = b"8BIM" + struct.pack(">H2sI", IPTC_RESOURCE, b"\0\0", len(meta.iptc)) + padded
        if len(PHOTOSHOP_HEADER + resource) > SEGMENT:
            lost.append("IPTC (more than a JPEG segment holds)")
        else:
            segments.append(jpeg_segment(0xED, PHOTOSHOP_HEADER + resource))
    if meta.comment:
        segments.append(jpeg_segment(0xFE, meta.comment[:SEGMENT]))
    if meta.texts:
        lost.append("PNG text")
    return b"".join(segments), lost


# ---- WebP


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, data) of every chunk, the picture's own among them."""
    at = 12  # behind RIFF, the size and WEBP
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def from_webp(data: bytes) -> Metadata:
    found = Metadata(lossless=False)
    for kind, body in webp_chunks(data):
        if kind == b"VP8L":
            found.lossless = True
        elif kind == b"ICCP":
            found.icc = body
        elif kind == b"EXIF":
            found.exif = body
        elif kind == b"XMP ":
            found.xmp = body
    return found


# ---- XMP


def xmp_orientation(xmp: bytes) -> int:
    """The orientation that an XMP packet states; 1 where it states none."""
    found = re.search(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([1-8])", xmp)
    return int(found[1]) if found else 1


def set_xmp(xmp: bytes, name: bytes, value: int) -> bytes:
    """An XMP packet with a whole-numbered property, such as tiff:Orientation, set where it is stated."""
    pattern = rb"(" + name + rb"(?:\s*=\s*[\"']|>)\s*)\d+"
    return re.sub(pattern, lambda m: m[1] + str(value).encode(), xmp)


def resize_xmp(xmp: bytes, width: int, height: int) -> bytes:
    """An XMP packet that states the new size wherever it stated one."""
    for name, value in (
        (b"tiff:ImageWidth", width),
        (b"tiff:ImageLength", height),
        (b"exif:PixelXDimension", width),
        (b"exif:PixelYDimension", height),
    ):
        xmp = set_xmp(xmp, name, value)
    return xmp
