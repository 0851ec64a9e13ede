"""The segments of a JPEG that are not its picture (ITU T.81, annex B): libvips drops some of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from kd_utils.common.errors import ImageError
from kd_utils.imaging.exif import load_exif
from kd_utils.imaging.metadata import Metadata

XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
EXTENDED_XMP_HEADER = b"http://ns.adobe.com/xmp/extension/\0"
PHOTOSHOP_HEADER = b"Photoshop 3.0\0"
ICC_HEADER = b"ICC_PROFILE\0"
IPTC_RESOURCE = 0x0404
FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # baseline, extended, progressive, and these with arithmetic coding
LOSSLESS_FRAMES = (0xC3, 0xCB)
END = b"\xff\xd9"  # the marker of the end
SEGMENT = 65533  # bytes in a segment, at most


def segments_of(data: bytes) -> Iterator[tuple[int, bytes]]:
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


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def check_frame(data: bytes, name: str) -> None:
    """Raises ImageError for the kinds of JPEG that libjpeg does not read, by their names."""
    for marker, body in segments_of(data):
        if marker in LOSSLESS_FRAMES:
            raise ImageError(f"{name} is a lossless JPEG: convert it to a PNG or TIFF first")
        if marker in FRAMES and body[:1] != b"\x08":
            raise ImageError(f"{name} is a JPEG of {body[0] if body else 0} bits: convert it to a 16-bit PNG or TIFF")


def read_metadata(data: bytes) -> Metadata:
    """What the segments say. The first EXIF block that can be read counts."""
    found = Metadata()
    profile: dict[int, bytes] = {}
    table: tuple[int, ...] = ()  # the first quantization table, which is that of luminance
    for marker, body in segments_of(data):
        if marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 12:
            unit, x, y = struct.unpack(">BHH", body[7:12])
            inches = {1: 1.0, 2: 2.54}.get(unit)
            found.dpi = (x * inches, y * inches) if inches and x and y else None
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            if load_exif(body):
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
        elif marker == 0xDB and not table:
            code = ">64H" if body[:1] > b"\x0f" else ">64B"
            table = struct.unpack_from(code, body.ljust(129, b"\0"), 1)
    found.icc = b"".join(profile[n] for n in sorted(profile)) or None
    found.quality = _quality(table) if table else 0
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


def _quality(table: tuple[int, ...]) -> int:
    """The quality (50 to 100) whose luminance table, by libjpeg's scaling of the standard one, is nearest."""

    def gap(quality: int) -> int:
        scale = 200 - 2 * quality
        return abs(sum(table) - sum(max((base * scale + 50) // 100, 1) for base in LUMINANCE))

    return min(range(50, 101), key=gap)


# The luminance table of the JPEG standard (ITU T.81, table K.1).
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56)
    + (14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92)
    + (49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99)
)


def head(meta: Metadata) -> tuple[bytes, list[str]]:
    """The segments that stand behind a JPEG's JFIF segment, and what of `meta` has no place in a JPEG."""
    segments, lost = [], []
    for name, block, header in (("EXIF", meta.exif, b"Exif\0\0"), ("XMP", meta.xmp, XMP_HEADER)):
        if block and len(header + block) > SEGMENT:
            lost.append(f"{name} (more than a JPEG segment holds)")
        elif block:
            segments.append(segment(0xE1, header + block))

    icc = meta.icc or b""
    parts = [icc[i : i + 65519] for i in range(0, len(icc), 65519)]
    if len(parts) > 255:
        lost.append("the ICC profile (more than a JPEG holds)")
        parts = []
    for number, part in enumerate(parts, 1):  # ICC.1:2010, annex B.4
        segments.append(segment(0xE2, ICC_HEADER + bytes([number, len(parts)]) + part))

    if meta.iptc:
        padded = meta.iptc + bytes(len(meta.iptc) % 2)
        resource = b"8BIM" + struct.pack(">H2sI", IPTC_RESOURCE, b"\0\0", len(meta.iptc)) + padded
        if len(PHOTOSHOP_HEADER + resource) > SEGMENT:
            lost.append("IPTC (more than a JPEG segment holds)")
        else:
            segments.append(segment(0xED, PHOTOSHOP_HEADER + resource))
    if meta.comment:
        segments.append(segment(0xFE, meta.comment[:SEGMENT]))
    if meta.texts:
        lost.append("PNG text")
    return b"".join(segments), lost
